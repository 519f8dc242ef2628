"""The storage of a registry on several machines: rows in PostgreSQL, content in an object store.

A push writes an object under a new key, and then one change of rows makes it visible. Deletions move keys to the table of
garbage. No request looks at the object store to answer HEAD, and none looks again after its change: keys are written once.
"""

from __future__ import annotations

import io
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from attrs import define, evolve, field, frozen

from ocikit.server.storage.base import (
    ManifestRow,
    QuotaExceeded,
    StoredBlob,
    Unavailable,
    Upload,
    UploadBody,
)
from ocikit.server.storage.cluster.blobs import ClusterBlobs, open_content
from ocikit.server.storage.cluster.counted import CountedObjects
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.metadata import PostgresMetadata
from ocikit.server.storage.cluster.migrations import check_version
from ocikit.server.storage.cluster.objects import ObjectStore, open_objects
from ocikit.server.storage.cluster.sweep import collect
from ocikit.server.storage.cluster.uploads import SqlUploads
from ocikit.server.storage.cluster.verify import verify_content
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.gc import delete_untagged
from ocikit.spec.digest import Digest
from ocikit.store.results import GCResult, VerifyResult

_log = logging.getLogger("ocikit.server")

#: Seconds that the objects of deleted content stay: the age up to which a backup of the database is complete.
KEEP_DELETED = 7 * 24 * 3600.0

#: Seconds that the answer of `ClusterStorage.check` is used again: load balancers ask often.
_CHECKED = 1.0


@frozen
class _ClusterBlob(StoredBlob):
    """A blob of a repository, in an object or in its row."""

    size: int
    _row: Any = field(repr=False)
    _objects: ObjectStore = field(repr=False)

    def open(self, first: int, length: int) -> BinaryIO:
        """Open the object at a byte, with one request.

        Raises:
            KeyError: The object is missing.
        """
        return open_content(self._objects, self._row, first, length)

    def link(self, *, seconds: int) -> str | None:
        """Return a URL of the object; None for content in a row."""
        return None if self._row.key is None else self._objects.link(self._row.key, seconds=seconds)


@define(eq=False, kw_only=True)
class ClusterStorage(Storage):
    """Rows in PostgreSQL and content in an object store."""

    blobs: ClusterBlobs
    uploads: SqlUploads
    metadata: PostgresMetadata
    database: Database
    objects: CountedObjects
    state: Path
    """A folder of this machine for the bytes of requests in progress."""
    grace: float
    """Seconds that unreferenced content is kept."""
    keep_deleted: float
    """Seconds that the object of deleted content is kept."""
    _checked: tuple[float, Unavailable | None] = field(default=(float("-inf"), None), init=False, repr=False)
    """The time of the last check, and its error."""
    _checking: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

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
        received = self.uploads.receive(upload, digest, body, offset=offset, length=length)
        try:
            self.metadata.add_blob(upload.repository, digest, received.size, quota=quota, received=received)
        except QuotaExceeded:
            self.uploads.drop(received)
            raise
        except BaseException:
            self.uploads.release(received)
            raise
        self.uploads.forget(received)
        return received.size

    def find_blob(self, repository: str, digest: Digest) -> StoredBlob | None:
        """Return a blob of the repository, or None."""
        row = self.metadata.find(repository, digest)
        return None if row is None else _ClusterBlob(row.size, row, self.objects)

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob of the repository, or None."""
        return self.metadata.blob_size(repository, digest)

    def mount(self, repository: str, digest: Digest, source: str, *, quota: int | None = None) -> bool:
        """Add another repository's blob to a repository.

        Returns:
            False if the source does not have the blob.

        Raises:
            QuotaExceeded: See `Metadata.add_blob`.
        """
        return self.metadata.mount(repository, digest, source, quota=quota)

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
        """Store a manifest's bytes with its row and tags, in one transaction.

        Raises:
            MissingChildren: See `Metadata.put_manifest`.
            PreconditionFailed: See `Metadata.put_manifest`.
            QuotaExceeded: See `Metadata.put_manifest`.
        """
        stream.seek(0)
        self.metadata.put_manifest(
            repository,
            evolve(row, raw=stream.read()),
            tags,
            require_children=require_children,
            if_match=if_match,
            if_none_match=if_none_match,
            quota=quota,
        )

    def open_manifest(self, row: ManifestRow) -> BinaryIO | None:
        """Open the bytes of a manifest, verified.

        Returns:
            The bytes that were read with the row. None for damaged ones: the manifest counts as absent.
        """
        raw = row.raw
        if raw is None:
            return None
        if len(raw) == row.size and Digest.of(raw, row.digest.algorithm) == row.digest:
            return io.BytesIO(raw)
        _log.error("manifest %s is damaged; it counts as absent until a client pushes it again", row.digest)
        return None

    def check(self) -> None:
        """Ask the database and the object store; an answer is used again for a second.

        Raises:
            Unavailable: One of them does not answer.
        """
        with self._checking:
            checked, error = self._checked
            if time.monotonic() - checked > _CHECKED:
                error = self._check()
                self._checked = (time.monotonic(), error)
        if error is not None:
            raise Unavailable(str(error), retry_after=error.retry_after)

    def collect(self, *, grace: float, expiry: float, untagged: bool) -> GCResult:
        """Delete unreferenced content, and the objects whose time is over.

        Raises:
            Unavailable: The database or the object store cannot be reached.
        """
        manifests = delete_untagged(self.metadata, self.metadata.now() - grace) if untagged else ()
        return evolve(collect(self, grace=grace, expiry=expiry), manifests=manifests)

    def verify(self, *, remove: bool, sizes: bool) -> VerifyResult:
        """Verify the content by its keys.

        Raises:
            Unavailable: The database or the object store cannot be reached.
        """
        return verify_content(
            self.database,
            self.objects,
            state=self.state,
            keep_deleted=self.keep_deleted,
            remove=remove,
            sizes=sizes,
        )

    def close(self) -> None:
        """Close all connections."""
        super().close()
        self.database.close()
        self.objects.close()

    def _check(self) -> Unavailable | None:
        try:
            self.database.check()
            self.objects.check()
        except Unavailable as error:
            return error
        return None


def cluster_storage(
    metadata: str,
    blobs: str,
    *,
    grace: float = 3600.0,
    keep_deleted: float = KEEP_DELETED,
    state: Path,
    pool: int = 8,
    check: bool = True,
) -> ClusterStorage:
    """Open a registry's storage in PostgreSQL and an object store.

    Args:
        metadata: URL of the database, such as "postgresql://registry@db/registry".
        blobs: URL of the object store, such as "s3://bucket/prefix".
        grace: Seconds that unreferenced content is kept.
        keep_deleted: Seconds that the object of deleted content is kept, for restored backups of the database.
        state: A folder of this machine for the bytes of requests in progress; it is created.
        pool: Connections to the database at most.
        check: Whether to ask both and to compare the version of the tables. Without it, no connection is opened.

    Raises:
        InvalidArgument: A URL is invalid.
        ServerFailed: The tables are missing, too old or too new.
        Unavailable: The database or the object store does not answer.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    objects = CountedObjects(open_objects(blobs, state=state))
    database = Database(metadata, pool=pool)
    storage = ClusterStorage(
        blobs=ClusterBlobs(database, objects, state, grace, keep_deleted),
        uploads=SqlUploads(database, objects, state),
        metadata=PostgresMetadata(database, grace=grace, keep_deleted=keep_deleted),
        database=database,
        objects=objects,
        state=state,
        grace=grace,
        keep_deleted=keep_deleted,
    )
    if check:
        try:
            check_version(database)
            storage.check()
        except BaseException:
            storage.close()
            raise
    return storage
