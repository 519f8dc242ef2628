"""The storage of a registry: its three stores, and the operations that span them.

Writes happen in this order:

1. Store the verified bytes.
2. Insert the row that makes them visible.
3. Check that the bytes still exist.
4. Respond.

A crash between two steps leaves unreferenced content, which `gc` deletes. It never leaves a row without content.

Only `Metadata.delete_if_unreferenced` and `Metadata.exclusive` delete content, and no row can be inserted meanwhile. A
deletion before the insert is detected by step 3. After the insert the content is referenced and cannot be deleted. Slow
pushes and clock changes are therefore safe. The grace period protects blobs that wait for their manifest.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import BinaryIO

from attrs import define, field, frozen

from ocikit.server.storage.base import (
    BlobStore,
    ManifestRow,
    Metadata,
    MissingChildren,
    StoredBlob,
    UnknownUpload,
    Upload,
    UploadBody,
    UploadStore,
)
from ocikit.spec.digest import Digest
from ocikit.store.results import GCResult, VerifyResult

_log = logging.getLogger("ocikit.server")

#: Bytes that are compared at once.
_CHUNK_SIZE = 1 << 17

#: Manifests whose verified files are remembered, a few hundred bytes each.
_REMEMBERED_FILES = 10_000

#: Seconds after a change of a file in which a further change may leave the same time.
_CLOCK_TICK = 2.0


@frozen
class _BlobFile(StoredBlob):
    """A blob that a `BlobStore` opens as a file."""

    digest: Digest
    size: int
    _blobs: BlobStore = field(repr=False)

    def open(self, first: int, length: int) -> BinaryIO:
        """Open the file at a byte.

        Raises:
            KeyError: The content is not stored.
        """
        file = self._blobs.open(self.digest)
        if first:
            file.seek(first)
        return file


class _VerifiedFiles:
    """The manifests whose files were verified, with the state of the file at that time.

    A write to a file changes its `ctime`, which programs cannot set. Another file has another inode. Content that is not a local
    file is never remembered.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[Digest, tuple[int, ...]] = OrderedDict()

    def knows(self, row: ManifestRow, file: BinaryIO) -> bool:
        """Return True if a manifest was verified and its file has not changed since."""
        state = self._states.get(row.digest)
        return state is not None and state == _file_state(file) and state[0] == row.size

    def add(self, row: ManifestRow, file: BinaryIO) -> None:
        """Remember a verified manifest, unless its file has just changed: a further change may have the same time."""
        state = _file_state(file)
        if state is None or state[-1] > (time.time() - _CLOCK_TICK) * 1e9:
            return
        self._states[row.digest] = state
        if len(self._states) > _REMEMBERED_FILES:
            with contextlib.suppress(KeyError):  # another thread removes the last one
                self._states.popitem(last=False)


def _file_state(file: BinaryIO) -> tuple[int, ...] | None:
    """Return what changes with a local file: its size first, and the time of its last change last."""
    try:
        status = os.fstat(file.fileno())
    except OSError:  # not a local file
        return None
    return status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


@define(eq=False)
class Storage:
    """The three stores of a registry, and the operations that span them."""

    blobs: BlobStore
    uploads: UploadStore
    metadata: Metadata
    _verified: _VerifiedFiles = field(factory=_VerifiedFiles, init=False, repr=False)

    def finish(
        self,
        upload: Upload,
        digest: Digest,
        body: UploadBody,
        *,
        offset: int | None = None,
        length: int | None = None,
        quota: int | None = None,
    ) -> int:
        """Finish an upload, add the blob to the repository, and return its size.

        Raises:
            UnknownUpload: See `UploadStore.finish`.
            OffsetMismatch: See `UploadStore.finish`.
            LengthMismatch: See `UploadStore.finish`.
            UploadDigestMismatch: See `UploadStore.finish`.
            QuotaExceeded: See `Metadata.add_blob`; the session is deleted.
        """
        self.metadata.protect_from_gc(digest)
        size = self.uploads.finish(upload, digest, body, self.blobs, offset=offset, length=length)
        if not self._add_blob(upload.repository, digest, size, quota):
            # The body took longer than the grace period and the collector deleted the content
            raise UnknownUpload(upload.id)
        return size

    def find_blob(self, repository: str, digest: Digest) -> StoredBlob | None:
        """Return a completely stored blob of the repository, or None."""
        size = self.blob_size(repository, digest)
        return None if size is None else _BlobFile(digest, size, self.blobs)

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a completely stored blob of the repository, or None.

        For incomplete content the result is None, so that clients push it again and repair it.
        """
        size = self.metadata.blob_size(repository, digest)
        return size if size is not None and self.blobs.stat(digest) == size else None

    def mount(self, repository: str, digest: Digest, source: str, *, quota: int | None = None) -> bool:
        """Add another repository's blob to a repository.

        Returns:
            False if the source does not have the blob.

        Raises:
            QuotaExceeded: See `Metadata.add_blob`.
        """
        size = self.blob_size(source, digest)
        return size is not None and self._add_blob(repository, digest, size, quota)

    def put_manifest(
        self,
        repository: str,
        row: ManifestRow,
        stream: BinaryIO,
        tags: Sequence[str] = (),
        *,
        require_children: bool = False,
        if_match: Sequence[Digest] | None = None,
        if_none_match: bool = False,
        quota: int | None = None,
    ) -> None:
        """Store a manifest's bytes from a seekable stream, then its row and tags.

        Raises:
            MissingChildren: See `Metadata.put_manifest`.
            PreconditionFailed: See `Metadata.put_manifest`.
            QuotaExceeded: See `Metadata.put_manifest`.
        """
        if require_children and (missing := self._missing(repository, row.children)):
            raise MissingChildren(missing)
        self.metadata.protect_from_gc(row.digest)
        self._put_if_changed(row, stream)
        self.metadata.put_manifest(
            repository,
            row,
            tags,
            require_children=require_children,
            if_match=if_match,
            if_none_match=if_none_match,
            quota=quota,
        )
        if self.blobs.stat(row.digest) != row.size:
            # The collector deleted the bytes before the row was inserted
            self._put_if_changed(row, stream)

    def open_manifest(self, row: ManifestRow) -> BinaryIO | None:
        """Open the bytes of a manifest, verified.

        A file is hashed when it is first opened and after each change, not for each request. `verify` finds bytes that a disk
        changed without a write.

        Returns:
            The file at its start. None for missing or damaged content: it counts as absent, so that clients push it again
            and repair it.
        """
        try:
            file = self.blobs.open(row.digest)
        except KeyError:
            return None
        try:
            if self._verified.knows(row, file):
                return file
            hasher, size = row.digest.hasher(), 0
            # One byte more: the content may be longer than its row
            while chunk := file.read(min(_CHUNK_SIZE, row.size + 1 - size)):
                hasher.update(chunk)
                size += len(chunk)
            if size == row.size and hasher.hexdigest() == row.digest.encoded:
                self._verified.add(row, file)
                file.seek(0)
                return file
        except BaseException:
            file.close()
            raise
        file.close()
        _log.error("manifest %s is damaged; it counts as absent until a client pushes it again", row.digest)
        return None

    def check(self) -> None:
        """Check that requests can be answered.

        Raises:
            Unavailable: The rows or the content cannot be read now.
        """
        self.metadata.repositories(limit=1)

    def collect(self, *, grace: float, expiry: float, untagged: bool) -> GCResult | None:
        """Delete unreferenced content in the storage's own way.

        Args:
            grace: Seconds that unreferenced content is kept.
            expiry: Seconds that an idle upload is kept.
            untagged: Whether to delete untagged manifests too.

        Returns:
            The result. None for a storage that is collected through its interfaces.
        """
        return None

    def verify(self, *, remove: bool, sizes: bool) -> VerifyResult | None:
        """Verify the content in the storage's own way.

        Args:
            remove: Whether to remove corrupt content.
            sizes: Whether to compare sizes only.

        Returns:
            The result. None for a storage that is verified through its interfaces.
        """
        return None

    def close(self) -> None:
        """Close all connections."""
        self.metadata.close()

    def _missing(self, repository: str, digests: Sequence[Digest]) -> set[Digest]:
        """Return the digests that the repository does not have, or that are not completely stored."""
        sizes = self.metadata.sizes(repository, digests)
        return {digest for digest in digests if digest not in sizes or self.blobs.stat(digest) != sizes[digest]}

    def _add_blob(self, repository: str, digest: Digest, size: int, quota: int | None) -> bool:
        """Add a blob to a repository; return False if its content was deleted meanwhile.

        The row stays in that case: another client may have pushed the blob again. Without content it is invisible.
        """
        self.metadata.add_blob(repository, digest, size, quota=quota)
        return self.blobs.stat(digest) == size

    def _put_if_changed(self, row: ManifestRow, stream: BinaryIO) -> None:
        """Store a manifest's bytes unless the same bytes are stored, which saves a sync."""
        stream.seek(0)
        if not self._is_stored(row, stream):
            stream.seek(0)
            self.blobs.put(row.digest, stream)

    def _is_stored(self, row: ManifestRow, stream: BinaryIO) -> bool:
        if self.blobs.stat(row.digest) != row.size:
            return False
        with contextlib.suppress(KeyError), self.blobs.open(row.digest) as stored:
            while chunk := stored.read(_CHUNK_SIZE):
                if stream.read(len(chunk)) != chunk:
                    return False
            return not stream.read(1)
        return False
