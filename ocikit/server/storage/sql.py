"""Metadata in SQLite.

Every list is an index seek. Its time depends on the page size, not on the size of the table.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from attrs import define, field

from ocikit.server.storage import schema as tables
from ocikit.server.storage.base import BlobInUse, ManifestRow, MissingChildren, PreconditionFailed, QuotaExceeded
from ocikit.server.storage.database import Database
from ocikit.server.storage.reserve import DiskReserve
from ocikit.server.storage.sql_gc import CollectorQueries, batches, delete_manifests
from ocikit.spec.digest import Digest

#: The part of the grace period after which a request renews a timestamp, so that most requests write no row.
_STALE = 0.25


@define(eq=False)
class SqlMetadata(CollectorQueries):
    """Metadata in a SQLite database.

    Args:
        url: SQLAlchemy URL, "sqlite:///" with a path, or "sqlite://" for a database in memory.
        grace: Seconds that unreferenced content is kept; use the same value for the garbage collector.
        durable: Whether acknowledged changes survive a power cut, not only a crash of the process.
        reserve: Disk space for deletions on a full disk.
    """

    url: str = field(repr=False)
    grace: float = 3600.0
    durable: bool = True
    reserve: DiskReserve | None = field(default=None, repr=False)
    _database: Database = field(init=False, repr=False)

    @classmethod
    def file(cls, path: Path, *, grace: float = 3600.0, durable: bool = True) -> SqlMetadata:
        """Open or create a SQLite file with a `DiskReserve`, private to its owner."""
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        reserve = DiskReserve(path.with_name("reserve"))
        metadata = cls(f"sqlite:///{path}", grace, durable, reserve)
        reserve.fill()
        return metadata

    @classmethod
    def memory(cls, *, grace: float = 3600.0) -> SqlMetadata:
        """Create a SQLite database in memory; it is deleted with the object."""
        return cls("sqlite://", grace)

    def __attrs_post_init__(self) -> None:
        """Connect and create missing tables."""
        self._database = Database(self.url, durable=self.durable, reserve=self.reserve)
        self._database.write(tables.schema.create_all, frees_space=True)

    @property
    def engine(self) -> sa.Engine:
        """The SQLAlchemy engine."""
        return self._database.engine

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def _is_stale(self, touched: float) -> bool:
        return touched < time.time() - self.grace * _STALE

    # Repositories

    def repositories(self, *, last: str = "", limit: int) -> list[str]:
        """Return repository names after `last` in order."""
        name = tables.repositories.c.name
        with self._database.read() as connection:
            return list(connection.scalars(sa.select(name).where(name > last).order_by(name).limit(limit)))

    def has_repository(self, repository: str) -> bool:
        """Return True if anything was ever pushed to the repository."""
        with self._database.read() as connection:
            return bool(connection.scalar(sa.select(1).where(tables.repositories.c.name == repository)))

    # Blobs

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob, and renew its timestamp."""
        params: dict[str, Any] = {"r": repository, "d": digest}
        with self._database.read() as connection:
            row = connection.execute(tables.select_blob, params).first()
        if row is None:
            return None
        # A referenced blob needs no renewal: deleting the manifest sets its timestamp
        if not row.referenced and self._is_stale(row.touched) and not self._touch(tables.touch_blob, params):
            return None
        return int(row.size)

    def used_bytes(self, repository: str) -> int:
        """Return the total size of a repository's blobs and manifests."""
        with self._database.read() as connection:
            return int(connection.scalar(tables.select_used_bytes, {"r": repository}) or 0)

    def repositories_with(self, digest: Digest) -> Iterator[str]:
        """Yield the repositories that have a blob."""
        name, last = tables.blobs.c.repository, ""
        while True:
            page = sa.select(name).where(tables.blobs.c.digest == digest, name > last).order_by(name).limit(100)
            with self._database.read() as connection:
                names = list(connection.scalars(page))
            yield from names
            if not names:
                return
            last = names[-1]

    def protect_from_gc(self, digest: Digest) -> None:
        """Renew the timestamp of content.

        Content without a row needs none: only old rows are deleted.
        """
        params = {"d": digest}
        with self._database.read() as connection:
            touched = connection.scalar(tables.select_content_touched, params)
        if touched is not None and self._is_stale(touched):
            self._touch(tables.touch_content, params)

    def add_blob(self, repository: str, digest: Digest, size: int, *, quota: int | None = None) -> None:
        """Add a stored blob to a repository.

        Raises:
            QuotaExceeded: The blob does not fit.
        """
        params = {"r": repository, "d": digest}

        def work(connection: sa.Connection) -> None:
            if quota is not None:
                current = connection.scalar(sa.select(tables.blobs.c.size).where(tables.IS_BLOB), params) or 0
                _check_quota(connection, repository, size - current, quota)
            now = time.time()
            self._add_content(connection, repository, digest, size, now)
            row = {"repository": repository, "digest": digest, "size": size, "touched": now}
            connection.execute(tables.upsert_blob, row)

        self._database.write(work)

    def remove_blob(self, repository: str, digest: Digest, *, force: bool = False) -> bool:
        """Remove a blob from a repository.

        Raises:
            BlobInUse: A manifest references it and `force` is False.
        """
        params = {"r": repository, "d": digest}

        def work(connection: sa.Connection) -> bool:
            row = connection.execute(tables.select_blob, params).first()
            if row is None:
                return False
            if row.referenced and not force:
                raise BlobInUse(digest)
            connection.execute(sa.delete(tables.blobs).where(tables.IS_BLOB), params)
            connection.execute(tables.touch_content, {"d": digest, "now": time.time()})
            return True

        return self._database.write(work, frees_space=True)

    def sizes(self, repository: str, digests: Sequence[Digest]) -> dict[Digest, int]:
        """Return the sizes of those digests that are blobs or manifests of the repository."""
        sizes: dict[Digest, int] = {}
        if digests:
            with self._database.read() as connection:
                for batch in batches(digests):
                    rows = connection.execute(tables.select_sizes, {"r": repository, "digests": batch})
                    sizes.update((Digest(row.digest), int(row.size)) for row in rows)
        return sizes

    # Manifests

    def put_manifest(
        self,
        repository: str,
        row: ManifestRow,
        tags: Sequence[str] = (),
        *,
        require_children: bool = False,
        if_match: Sequence[Digest] | None = None,
        if_none_match: bool = False,
        quota: int | None = None,
    ) -> None:
        """Add a manifest and set tags to it.

        Raises:
            MissingChildren: A child is missing and `require_children` is True.
            PreconditionFailed: A condition does not hold.
            QuotaExceeded: The manifest does not fit.
        """

        def work(connection: sa.Connection) -> None:
            if if_none_match or if_match is not None:
                _check_preconditions(connection, repository, row, tags, if_match)
            now = time.time()
            self._add_content(connection, repository, row.digest, row.size, now)
            params = {"r": repository, "d": row.digest, "now": now}
            if not connection.execute(tables.touch_manifest, params).rowcount:
                if quota is not None:
                    _check_quota(connection, repository, row.size, quota)
                _insert_manifest(connection, repository, row, now)
            if require_children:
                missing = {Digest(child) for child in connection.scalars(tables.select_missing_children, params)}
                if missing:
                    raise MissingChildren(missing)
            for tag in tags:
                connection.execute(tables.touch_tagged, {**params, "tag": tag})
                connection.execute(tables.upsert_tag, {"repository": repository, "name": tag, "digest": row.digest})

        self._database.write(work)

    def manifest(self, repository: str, reference: str) -> ManifestRow | None:
        """Return the manifest of a tag or digest, and renew its timestamp."""
        by_digest = ":" in reference
        params: dict[str, Any] = {"r": repository, "d" if by_digest else "tag": reference}
        with self._database.read() as connection:
            row = connection.execute(tables.select_by_digest if by_digest else tables.select_by_tag, params).first()
        if row is None:
            return None
        renew = by_digest and not row.referenced and self._is_stale(row.touched)
        if renew and not self._touch(tables.touch_manifest, params):
            return None
        return _manifest_row(row)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Delete a manifest with its tags."""

        def work(connection: sa.Connection) -> bool:
            if not connection.scalar(sa.select(1).where(tables.IS_MANIFEST), {"r": repository, "d": digest}):
                return False
            delete_manifests(connection, repository, [digest])
            return True

        return self._database.write(work, frees_space=True)

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Delete a tag."""
        params = {"r": repository, "tag": tag, "d": "", "now": time.time()}

        def work(connection: sa.Connection) -> bool:
            connection.execute(tables.touch_tagged, params)
            return bool(connection.execute(sa.delete(tables.tags).where(tables.IS_TAG), params).rowcount)

        return self._database.write(work, frees_space=True)

    def tags(self, repository: str, *, last: str = "", limit: int) -> list[str]:
        """Return tags after `last` in order."""
        with self._database.read() as connection:
            return list(connection.scalars(tables.select_tags, {"r": repository, "last": last, "limit": limit}))

    def referrers(
        self, repository: str, subject: Digest, *, artifact_type: str | None = None, last: str = "", limit: int
    ) -> list[ManifestRow]:
        """Return the manifests with the subject, ordered by digest."""
        params = {"r": repository, "d": subject, "last": last, "limit": limit}
        statement = tables.select_referrers
        if artifact_type is not None:
            statement, params["type"] = tables.select_referrers_by_type, artifact_type
        with self._database.read() as connection:
            return [_manifest_row(row) for row in connection.execute(statement, params)]

    def _touch(self, statement: sa.Update, params: dict[str, Any]) -> bool:
        """Renew a timestamp; return False if the row was deleted meanwhile."""
        values = {**params, "now": time.time()}
        return bool(
            self._database.write(lambda connection: connection.execute(statement, values).rowcount, durable=False)
        )

    def _add_content(self, connection: sa.Connection, repository: str, digest: Digest, size: int, now: float) -> None:
        """Insert the rows of a repository and of content; renew the content's timestamp."""
        connection.execute(tables.upsert_repository, {"name": repository})
        connection.execute(tables.upsert_content, {"digest": digest, "size": size, "touched": now})


def _check_quota(connection: sa.Connection, repository: str, added: int, quota: int) -> None:
    """Check that a repository has space for further bytes.

    Raises:
        QuotaExceeded: It has not.
    """
    used = connection.scalar(tables.select_used_bytes, {"r": repository}) or 0
    if used + added > quota:
        raise QuotaExceeded(repository)


def _insert_manifest(connection: sa.Connection, repository: str, row: ManifestRow, now: float) -> None:
    values = {
        "repository": repository,
        "digest": row.digest,
        "media_type": row.media_type,
        "size": row.size,
        "subject": row.subject,
        "artifact_type": row.artifact_type,
        "referrer": row.referrer,
        "touched": now,
    }
    connection.execute(tables.insert_manifest, values)
    children = [
        {"repository": repository, "manifest": row.digest, "child": child} for child in dict.fromkeys(row.children)
    ]
    if children:
        connection.execute(tables.insert_children, children)


def _check_preconditions(
    connection: sa.Connection,
    repository: str,
    row: ManifestRow,
    tags: Sequence[str],
    if_match: Sequence[Digest] | None,
) -> None:
    """Compare the current tags, or the manifest, with the client's condition.

    Raises:
        PreconditionFailed: The condition does not hold.
    """
    tagged = sa.select(tables.tags.c.digest).where(tables.IS_TAG)
    current = {tag: connection.scalar(tagged, {"r": repository, "tag": tag}) for tag in tags}
    if not tags:
        manifest = sa.select(tables.manifests.c.digest).where(tables.IS_MANIFEST)
        current = {row.digest: connection.scalar(manifest, {"r": repository, "d": row.digest})}
    for name, digest in current.items():
        if if_match is None and digest is not None:
            raise PreconditionFailed(f"{name} exists already: {digest}")
        if if_match is not None and digest not in if_match:
            raise PreconditionFailed(f"{name} is now {digest}" if digest else f"{name} does not exist")


def _manifest_row(row: Any) -> ManifestRow:
    return ManifestRow(
        digest=Digest(row.digest),
        media_type=row.media_type,
        size=int(row.size),
        subject=Digest(row.subject) if row.subject else None,
        artifact_type=row.artifact_type,
        referrer=row.referrer,
    )
