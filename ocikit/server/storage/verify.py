"""Verification of a registry's storage: missing and corrupt content."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter

from ocikit.errors import ContentError
from ocikit.server.storage.base import BlobStore
from ocikit.server.storage.combined import Storage
from ocikit.spec.digest import Digest
from ocikit.store.results import CorruptBlob, Problem, VerifyResult

#: Bytes that are hashed at once.
_CHUNK_SIZE = 1 << 20

#: Error numbers of content that the disk cannot return any more.
_UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)})


def verify(storage: Storage, *, remove: bool = False, sizes: bool = False) -> VerifyResult:
    """Hash all stored content and check that all referenced content is stored.

    The registry responds 404 for content of a wrong size, so clients push it again and repair it. Content of the right
    size with wrong bytes looks complete to clients; `remove=True` makes them push it again.

    Args:
        storage: Storage of a registry, which may be serving.
        remove: Whether to delete corrupt content. Repositories keep their references to it.
        sizes: Whether to compare the sizes of referenced content only, and to read nothing. That finds missing and short
            content.

    Returns:
        The number of checked blobs and manifests, and the corrupt ones.

    Raises:
        ContentError: Content cannot be read for another reason than damage, such as a missing permission.

    >>> from ocikit.server import file_storage, verify
    >>> storage = file_storage("registry")
    >>> verify(storage)
    VerifyResult(ok=True, checked=0, size=0 B)
    >>> storage.close()
    """
    own = storage.verify(remove=remove, sizes=sizes)
    if own is not None:
        return own
    if sizes:
        # The registry answers 404 for content of another size, so that there is nothing to remove
        checked = sum(1 for _ in groupby(storage.metadata.iter_references(), key=itemgetter(0)))
        return VerifyResult(checked=checked, size=0, corrupt=tuple(_corrupt_blobs(storage, {})))
    checked, size, damaged = _hash_content(storage, remove=remove)
    corrupt = tuple(_corrupt_blobs(storage, damaged))
    return VerifyResult(checked=checked, size=size, corrupt=corrupt, removed=remove)


def _hash_content(storage: Storage, *, remove: bool) -> tuple[int, int, dict[Digest, int]]:
    """Hash all stored content.

    Returns:
        The number of hashed blobs, their bytes, and the sizes of damaged content by digest.
    """
    checked = size = 0
    damaged: dict[Digest, int] = {}
    for digest in storage.blobs.iterate():
        stored_size = storage.blobs.stat(digest)
        intact = stored_size is not None and _is_intact(storage.blobs, digest)
        if stored_size is None or intact is None:
            continue  # deleted meanwhile
        checked, size = checked + 1, size + stored_size
        if not intact:
            damaged[digest] = stored_size
            if remove:
                storage.metadata.exclusive(partial(_remove_if_corrupt, storage.blobs, digest))
    return checked, size, damaged


def _corrupt_blobs(storage: Storage, damaged: dict[Digest, int]) -> Iterator[CorruptBlob]:
    """Yield damaged and missing content, the content of repositories first."""
    unreferenced = dict(damaged)
    for digest, rows in groupby(storage.metadata.iter_references(), key=itemgetter(0)):
        sizes = {repository: expected_size for _, repository, expected_size in rows}
        stored_size = unreferenced.pop(digest, None)
        if stored_size is None:
            stored_size = storage.blobs.stat(digest)
            if stored_size in sizes.values() or not _is_referenced(storage, digest, sizes):
                continue
        expected_size = max(sizes.values())
        yield CorruptBlob(
            digest=digest,
            problem=_problem(expected_size, stored_size),
            expected_size=expected_size,
            actual_size=stored_size,
            repositories=tuple(sizes),
        )
    for digest, stored_size in unreferenced.items():
        yield CorruptBlob(digest=digest, problem="digest", actual_size=stored_size)


def _problem(expected_size: int, stored_size: int | None) -> Problem:
    if stored_size is None:
        return "missing"
    return "digest" if stored_size == expected_size else "size"


def _is_intact(blobs: BlobStore, digest: Digest) -> bool | None:
    """Return True if content is intact and readable, None if it is missing.

    Raises:
        ContentError: It cannot be read for another reason than damage, such as a missing permission.
    """
    hasher = digest.hasher()
    try:
        with blobs.open(digest) as file:
            while chunk := file.read(_CHUNK_SIZE):
                hasher.update(chunk)
    except KeyError:
        return None
    except OSError as error:
        if error.errno in _UNREADABLE:
            return False
        raise ContentError(
            f"reading {digest} failed: {error.strerror or error}", hint="run as the user of the registry, and try again"
        ) from error
    return hasher.hexdigest() == digest.encoded


def _remove_if_corrupt(blobs: BlobStore, digest: Digest) -> None:
    """Delete corrupt content unless a client has pushed it again."""
    if _is_intact(blobs, digest) is False:
        blobs.delete(digest)


def _is_referenced(storage: Storage, digest: Digest, repositories: Iterable[str]) -> bool:
    """Return True if a repository still has the content.

    Content that was deleted meanwhile is not missing.
    """
    metadata = storage.metadata
    return any(
        metadata.blob_size(repository, digest) is not None or metadata.manifest(repository, digest) is not None
        for repository in repositories
    )
