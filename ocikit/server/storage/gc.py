"""Garbage collection of a registry's storage, also while the registry serves.

Unreferenced content is kept for a grace period, because a push references its blobs last. A push, mount, request or
reference starts the period again. The children of a deleted manifest are deleted one grace period after the manifest.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter

from ocikit.server.storage.base import Metadata, UploadStore
from ocikit.server.storage.combined import Storage
from ocikit.spec.digest import Digest
from ocikit.store.results import GCResult, RemovedBlob

#: Seconds that unreferenced content is kept, longer than any push takes between its first blob and its manifest.
GRACE = 3600.0

#: Seconds that an idle upload is kept.
UPLOAD_EXPIRY = 24 * 3600.0

#: Seconds that an upload without bytes is kept.
EMPTY_UPLOAD_EXPIRY = 600.0

#: Digests that are looked up at once.
_BATCH = 500


def gc(
    storage: Storage,
    *,
    dry_run: bool = False,
    grace: float = GRACE,
    expiry: float = UPLOAD_EXPIRY,
    untagged: bool = False,
) -> GCResult:
    """Delete content that was unreferenced for a grace period.

    Several collections may run at once, in any process, while registries serve the storage.

    Args:
        storage: Storage of a registry, which may be serving.
        dry_run: Only list what would be deleted. The result's `.run()` deletes it.
        grace: Seconds; at least the grace period that the storage was opened with.
        expiry: Seconds that an idle upload is kept; one without bytes is kept for ten minutes at most.
        untagged: Whether to delete untagged manifests too. Children and referrers (such as signatures) of tagged
            manifests are kept. The children of deleted manifests are deleted one grace period later.

    Returns:
        The deleted content, and the manifests and blobs that were removed from repositories.

    >>> from ocikit.server import file_storage, gc
    >>> storage = file_storage("registry")
    >>> gc(storage, dry_run=True)
    GCResult(dry_run=True, blobs=0, size=0 B)
    >>> storage.close()
    """
    if not dry_run:
        own = storage.collect(grace=grace, expiry=expiry, untagged=untagged)
        if own is not None:
            return own
    before = storage.metadata.now() - grace
    # First what needs no transaction: on a full disk, the transactions use the space
    uploads = 0 if dry_run else expire_uploads(storage.uploads, expiry=expiry)
    partial = 0 if dry_run else storage.blobs.remove_partial(time.time() - max(grace, GRACE))
    manifests = _manifests(storage, before, dry_run=dry_run) if untagged else ()
    unlinked = tuple(
        RemovedBlob(digest=digest, size=size, repository=repository)
        for repository, digest, size in storage.metadata.unreferenced_blobs(before)
        if dry_run or storage.metadata.remove_blob_if_unused(repository, digest, before)
    )
    if dry_run:
        content = dict(storage.metadata.unreferenced_content(before))
        content |= _released(storage, unlinked)
        return GCResult(
            dry_run=True,
            blobs=tuple(RemovedBlob(digest=digest, size=size) for digest, size in content.items()),
            manifests=manifests,
            unlinked=unlinked,
            run=lambda: gc(storage, grace=grace, expiry=expiry, untagged=untagged),
        )
    stored = storage.blobs.iterate()
    while batch := list(islice(stored, _BATCH)):
        storage.metadata.register_orphans(batch)
    return GCResult(
        dry_run=False,
        blobs=tuple(_delete_content(storage, before)),
        manifests=manifests,
        unlinked=unlinked,
        uploads=uploads,
        partial=partial,
    )


def expire_uploads(uploads: UploadStore, *, expiry: float = UPLOAD_EXPIRY) -> int:
    """Delete idle uploads; return their number.

    Args:
        uploads: Upload sessions of a registry, which may be serving.
        expiry: See `gc`.

    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.storage.gc import expire_uploads
    >>> storage = memory_storage()
    >>> upload = storage.uploads.create("ada/waves")
    >>> expire_uploads(storage.uploads), expire_uploads(storage.uploads, expiry=-1)
    (0, 1)
    """
    now = uploads.now()
    return uploads.expire(now - expiry, empty_before=now - min(expiry, EMPTY_UPLOAD_EXPIRY))


def delete_untagged(metadata: Metadata, before: float) -> tuple[RemovedBlob, ...]:
    """Delete the untagged manifests of all repositories, and return them.

    Args:
        metadata: Metadata of a registry, which may be serving.
        before: See `Metadata.untagged_manifests`.

    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.storage.base import ManifestRow
    >>> from ocikit.server.storage.gc import delete_untagged
    >>> metadata, index = memory_storage().metadata, ocikit.Index(manifests=[])
    >>> metadata.put_manifest("ada/waves", ManifestRow(digest=index.digest, media_type=index.media_type, size=index.size))
    >>> [removed.repository for removed in delete_untagged(metadata, metadata.now() + 1)]
    ['ada/waves']
    >>> metadata.close()
    """
    return tuple(
        RemovedBlob(digest=digest, size=size, repository=repository)
        for repository, _ in groupby(metadata.untagged_manifests(before), key=itemgetter(0))
        for digest, size in metadata.delete_untagged(repository, before)
    )


def _manifests(storage: Storage, before: float, *, dry_run: bool) -> tuple[RemovedBlob, ...]:
    """Delete untagged manifests, or only list them."""
    if not dry_run:
        return delete_untagged(storage.metadata, before)
    return tuple(
        RemovedBlob(digest=digest, size=size, repository=repository)
        for repository, digest, size in storage.metadata.untagged_manifests(before)
    )


def _delete_content(storage: Storage, before: float) -> Iterator[RemovedBlob]:
    for digest, recorded_size in storage.metadata.unreferenced_content(before):
        # The rows of orphans have no size
        size = recorded_size or storage.blobs.stat(digest) or 0
        if storage.metadata.delete_if_unreferenced(digest, before, storage.blobs):
            yield RemovedBlob(digest=digest, size=size)


def _released(storage: Storage, unlinked: Iterable[RemovedBlob]) -> dict[Digest, int]:
    """Return digest and size of content that only `unlinked` references."""
    repositories: dict[tuple[Digest, int], set[str]] = {}
    for blob in unlinked:
        repositories.setdefault((blob.digest, blob.size), set()).add(blob.repository)
    return {
        digest: size
        for (digest, size), names in repositories.items()
        if names.issuperset(storage.metadata.repositories_with(digest))
    }
