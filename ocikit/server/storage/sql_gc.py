"""The queries of the garbage collector in SQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import sqlalchemy as sa

from ocikit.server.storage import schema as tables
from ocikit.server.storage.base import DISK_FULL, BlobStore, Metadata
from ocikit.server.storage.database import Database
from ocikit.spec.digest import Digest

T = TypeVar("T")
S = TypeVar("S", bound=str)

#: Digests in one statement: SQLite takes 32,766 parameters, older versions 999.
_PARAMETERS = 500

#: Rows that are read at once.
_PAGE_SIZE = 1000

#: Manifests that one transaction deletes, which takes less than a second, so that writers do not wait for long.
_DELETE_BATCH = 2000


class CollectorQueries(Metadata):
    """The part of `Metadata` that the garbage collector uses."""

    _database: Database

    def iter_references(self) -> Iterator[tuple[Digest, str, int]]:
        """Yield digest, repository and size of all blobs and manifests."""
        last = ("", "")
        while True:
            pages = [
                sa.select(table.c.digest, table.c.repository, table.c.size).where(
                    sa.tuple_(table.c.digest, table.c.repository) > last
                )
                for table in (tables.blobs, tables.manifests)
            ]
            page = sa.union_all(*pages).order_by("digest", "repository").limit(_PAGE_SIZE)
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield Digest(row.digest), row.repository, int(row.size)
            if len(rows) < _PAGE_SIZE:
                return
            last = (rows[-1].digest, rows[-1].repository)

    def untagged_manifests(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Yield unused manifests that no tag reaches."""
        last = ""
        while names := self.repositories(last=last, limit=_PAGE_SIZE):
            for name in names:
                with self._database.read() as connection:
                    manifests = _untagged(connection, name, before)
                for digest, size in manifests:
                    yield name, digest, size
            last = names[-1]

    def delete_untagged(self, repository: str, before: float) -> list[tuple[Digest, int]]:
        """Delete a repository's manifests that no tag reaches."""
        deleted: list[tuple[Digest, int]] = []
        limit = _DELETE_BATCH

        def work(connection: sa.Connection) -> tuple[list[tuple[Digest, int]], bool]:
            batch = _untagged(connection, repository, before)
            last_batch = len(batch) <= limit
            if not last_batch:
                # Delete an index before its children, because their grace period starts with its deletion
                children = _children(connection, repository, [digest for digest, _ in batch])
                batch = [item for item in batch if item[0] not in children][:limit]
            delete_manifests(connection, repository, [digest for digest, _ in batch])
            return batch, last_batch

        done = False
        while not done:
            try:
                batch, last_batch = self._database.write(work, frees_space=True)
            except OSError as error:
                if error.errno not in DISK_FULL or limit == 1:
                    raise
                # The reserve is too small for the log of a large transaction
                limit = max(limit // 4, 1)
                continue
            deleted += batch
            done = last_batch or not batch
        return deleted

    def unreferenced_blobs(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Yield old blobs that no manifest of the repository references."""
        blobs, children = tables.blobs.c, tables.children.c
        key = sa.tuple_(blobs.repository, blobs.digest)
        referenced = sa.exists().where(children.repository == blobs.repository, children.child == blobs.digest)
        last = ("", "")
        while True:
            page = (
                sa.select(blobs.repository, blobs.digest, blobs.size)
                .where(key > last, blobs.touched < before, ~referenced)
                .order_by(blobs.repository, blobs.digest)
                .limit(_PAGE_SIZE)
            )
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield row.repository, Digest(row.digest), int(row.size)
            if len(rows) < _PAGE_SIZE:
                return
            last = (rows[-1].repository, rows[-1].digest)

    def unreferenced_content(self, before: float) -> Iterator[tuple[Digest, int]]:
        """Yield old content that is neither a blob nor a manifest."""
        content, last = tables.content.c, ""
        while True:
            page = (
                sa.select(content.digest, content.size)
                .where(content.digest > last, content.touched < before, *tables.IS_UNREFERENCED_CONTENT)
                .order_by(content.digest)
                .limit(_PAGE_SIZE)
            )
            with self._database.read() as connection:
                rows = connection.execute(page).all()
            for row in rows:
                yield Digest(row.digest), int(row.size)
            if len(rows) < _PAGE_SIZE:
                return
            last = rows[-1].digest

    def register_orphans(self, digests: Sequence[Digest]) -> int:
        """Add rows for content without a row."""
        added = 0
        for batch in batches(digests):
            with self._database.read() as connection:
                orphans = _orphans(connection, batch)
            if orphans:
                added += self._database.write(partial(self._insert_orphans, digests=orphans), frees_space=True)
        return added

    def _insert_orphans(self, connection: sa.Connection, digests: Sequence[Digest]) -> int:
        orphans, now = _orphans(connection, digests), time.time()
        if orphans:
            rows = [{"digest": digest, "size": 0, "touched": now} for digest in orphans]
            connection.execute(tables.insert_orphan, rows)
        return len(orphans)

    def remove_blob_if_unused(self, repository: str, digest: Digest, before: float) -> bool:
        """Remove a blob if it is still unreferenced and old."""
        statement = sa.delete(tables.blobs).where(
            tables.IS_BLOB, tables.blobs.c.touched < before, ~tables.IS_REFERENCED
        )
        params = {"r": repository, "d": digest}
        return self._database.write(
            lambda connection: bool(connection.execute(statement, params).rowcount), frees_space=True
        )

    def delete_if_unreferenced(self, digest: Digest, before: float, blobs: BlobStore) -> bool:
        """Delete content if it is still unreferenced and old, under the write lock."""
        statement = sa.delete(tables.content).where(
            tables.content.c.digest == digest, tables.content.c.touched < before, *tables.IS_UNREFERENCED_CONTENT
        )

        def work(connection: sa.Connection) -> bool:
            if not connection.execute(statement).rowcount:
                return False
            blobs.delete(digest)
            return True

        # Not durable: if a power cut restores the row, the next collection deletes it again
        return self._database.write(work, exclusive=True, durable=False, frees_space=True)

    def exclusive(self, work: Callable[[], T]) -> T:
        """Run a function while the write lock is held."""
        return self._database.write(lambda _: work(), exclusive=True)


def batches(digests: Sequence[S]) -> Iterator[Sequence[S]]:
    """Split digests into groups that fit into one statement."""
    return (digests[start : start + _PARAMETERS] for start in range(0, len(digests), _PARAMETERS))


def delete_manifests(connection: sa.Connection, repository: str, digests: Sequence[Digest]) -> None:
    """Delete manifests with their tags.

    The grace period of their children and referrers starts now.
    """
    blobs, manifests, content = tables.blobs, tables.manifests, tables.content
    now = {"now": time.time()}
    for batch in batches(digests):
        children = sa.select(tables.children.c.child).where(
            tables.children.c.repository == repository, tables.children.c.manifest.in_(batch)
        )
        released = (
            sa.update(blobs).where(blobs.c.repository == repository, blobs.c.digest.in_(children)),
            sa.update(manifests).where(manifests.c.repository == repository, manifests.c.digest.in_(children)),
            sa.update(manifests).where(manifests.c.repository == repository, manifests.c.subject.in_(batch)),
            sa.update(content).where(content.c.digest.in_(batch)),
        )
        for rows in released:
            connection.execute(rows.values(touched=sa.bindparam("now")), now)
        connection.execute(
            sa.delete(manifests).where(manifests.c.repository == repository, manifests.c.digest.in_(batch))
        )


def _orphans(connection: sa.Connection, digests: Sequence[Digest]) -> list[Digest]:
    """Return the digests without a row."""
    content = tables.content.c
    known = set(connection.scalars(sa.select(content.digest).where(content.digest.in_(digests))))
    return [digest for digest in digests if digest not in known]


def _untagged(connection: sa.Connection, repository: str, before: float) -> list[tuple[Digest, int]]:
    """Return digest and size of manifests that no tag or recent manifest reaches."""
    manifests, tags = tables.manifests.c, tables.tags.c
    in_repository = manifests.repository == repository
    tagged = sa.exists().where(tags.repository == repository, tags.digest == manifests.digest)
    old = sa.select(manifests.digest, manifests.size).where(in_repository, manifests.touched < before, ~tagged)
    candidates = {row.digest: int(row.size) for row in connection.execute(old)}
    if not candidates:
        return []
    roots = sa.select(manifests.digest).where(in_repository, tagged | (manifests.touched >= before))
    queue = list(connection.scalars(roots))
    while queue and candidates:
        batch, queue = queue[-_PARAMETERS:], queue[:-_PARAMETERS]
        referrers = sa.select(manifests.digest).where(in_repository, manifests.subject.in_(batch))
        reached = {*_children(connection, repository, batch), *connection.scalars(referrers)}
        queue += [digest for digest in reached if candidates.pop(digest, None) is not None]
    return [(Digest(digest), size) for digest, size in sorted(candidates.items())]


def _children(connection: sa.Connection, repository: str, digests: Sequence[str]) -> set[str]:
    """Return the children of manifests."""
    children = tables.children.c
    return {
        child
        for batch in batches(digests)
        for child in connection.scalars(
            sa.select(children.child).where(children.repository == repository, children.manifest.in_(batch))
        )
    }
