"""Who has what under which name, in SQL. One implementation for SQLite and whatever else SQLAlchemy speaks to.

SQLite runs in WAL mode: readers never wait, one writer at a time, any number of processes. Every list is a seek in an
index and takes as long as its page, however much there is beside it. Writers that wait for one another within a process
are written in one transaction, and share its sync.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from attrs import define, field
from sqlalchemy.dialects import sqlite
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from ocikit.server.storage import schema as tables
from ocikit.server.storage.base import BlobInUse, BlobStore, ManifestRow, Metadata, PreconditionFailed, QuotaExceeded
from ocikit.spec.digest import Digest

T = TypeVar("T")
S = TypeVar("S", bound=str)

#: Digests in one statement: SQLite takes 32766 parameters, older ones 999.
_AT_ONCE = 500

#: Rows that the collector reads at once.
_BATCH = 1000

#: Manifests that one transaction deletes: less than a second's work.
_AT_A_TIME = 2000

#: How much of the grace period may be used up before a row is written to say that somebody asked.
_STALE = 0.25

#: Connections of a process. The interpreter runs one thread at a time, and each keeps pages in memory.
_CONNECTIONS = 8

#: Seconds that a writer waits for those of other processes.
_PATIENCE = 60.0


@define(eq=False)
class _Change:
    """What a thread wants written, and what came of it."""

    work: Callable[[sa.Connection], Any]
    lasting: bool
    """Whether it must survive a power cut."""
    single: bool
    """Whether it does more than write rows, and must not be done again because a neighbour failed."""
    done: bool = False
    result: Any = None
    error: Exception | None = None


@define(eq=False)
class SqlMetadata(Metadata):
    """Rows in a database.

    Args:
        url: as SQLAlchemy spells it.
        grace: seconds that content nobody names is kept; must be the collector's.
        durable: whether a change survives a power cut once it is acknowledged, rather than a crash of the process.
    """

    url: str = field(repr=False)
    grace: float = 3600.0
    durable: bool = True
    _engine: sa.Engine = field(init=False, repr=False)
    _in_memory: bool = field(init=False)
    _keep: tables.Upserts = field(init=False, repr=False)
    _waiting: deque[_Change] = field(factory=deque, init=False, repr=False)
    _turn: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    """Whoever has it writes for all that wait. SQLite's own queue of writers is a lottery."""

    @classmethod
    def file(cls, path: Path, *, grace: float = 3600.0, durable: bool = True) -> SqlMetadata:
        """Rows in a SQLite file."""
        return cls(f"sqlite:///{path}", grace, durable)

    @classmethod
    def memory(cls, *, grace: float = 3600.0) -> SqlMetadata:
        """Rows in memory, for as long as the object lives."""
        return cls("sqlite://", grace)

    def __attrs_post_init__(self) -> None:
        """Connect, and make what isn't there."""
        self._in_memory = self.url == "sqlite://"
        pool: dict[str, Any] = {"pool_size": _CONNECTIONS, "max_overflow": 0, "pool_timeout": _PATIENCE}
        if not self.url.startswith("sqlite"):
            self._engine = sa.create_engine(self.url, **pool)
        else:
            # A database in memory lives in one connection, which everybody takes turns with
            if self._in_memory:
                pool = {"poolclass": sa.StaticPool}
            arguments = {"check_same_thread": False, "timeout": _PATIENCE, "isolation_level": None}
            self._engine = sa.create_engine(self.url, connect_args=arguments, **pool)
            self._engine.dialect.statement_compiler = _Hinting
            sa.event.listen(self._engine, "connect", _connected)
        sa.event.listen(self._engine, "begin", _begun)
        insert: Any = sqlite.insert
        if self._engine.dialect.name == "postgresql":
            from sqlalchemy.dialects import postgresql  # noqa: PLC0415 - 20 ms of each start that SQLite doesn't need

            insert = postgresql.insert
        # Who forgets to close it leaves no connection open: Python 3.13 would warn of each
        weakref.finalize(self, self._engine.dispose).atexit = False
        self._keep = tables.Upserts(insert)
        self._write(tables.schema.create_all)

    @contextlib.contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._turn if self._in_memory else contextlib.nullcontext(), self._engine.connect() as connection:
            yield connection

    def _write(self, work: Callable[[sa.Connection], T], *, lasting: bool = True, single: bool = False) -> T:
        """Do something in a transaction, perhaps together with what other threads want; give its result, or raise."""
        change = _Change(work, lasting and self.durable, single)
        self._waiting.append(change)
        with self._turn:
            while not change.done:
                changes = [self._waiting.popleft() for _ in range(len(self._waiting))]
                try:
                    self._commit(changes)
                finally:
                    self._waiting.extendleft(reversed([each for each in changes if not (each.done or each is change)]))
        if change.error is not None:
            raise change.error
        result: T = change.result
        return result

    def _commit(self, changes: Sequence[_Change]) -> None:
        """Make all changes in one transaction, or, if one can't be made, each in its own."""
        if len(changes) == 1 or not any(change.single for change in changes):
            try:
                with self._transaction(lasting=any(change.lasting for change in changes)) as connection:
                    results = [change.work(connection) for change in changes]
            except Exception as error:  # noqa: BLE001 - raised by the thread whose change it is
                if len(changes) == 1:
                    changes[0].error, changes[0].done = error, True
                    return
            else:
                for change, result in zip(changes, results, strict=True):
                    change.result, change.done = result, True
                return
        for change in changes:
            self._commit([change])

    @contextlib.contextmanager
    def _transaction(self, *, lasting: bool) -> Iterator[sa.Connection]:
        """Raises: OSError: on a full disk."""
        try:
            with self._engine.connect().execution_options(lasting=lasting) as connection, connection.begin():
                yield connection
        except sa.exc.OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise OSError(errno.ENOSPC, "no room for the rows") from error
            raise

    def _stale(self, touched: float) -> bool:
        return touched < time.time() - self.grace * _STALE

    # Repositories

    def repositories(self, *, last: str = "", limit: int) -> list[str]:
        """Names after *last*, in order."""
        name = tables.repositories.c.name
        with self._read() as connection:
            return list(connection.scalars(sa.select(name).where(name > last).order_by(name).limit(limit)))

    def has_repository(self, repository: str) -> bool:
        """Whether anything was ever kept under the name."""
        with self._read() as connection:
            return bool(connection.scalar(sa.select(1).where(tables.repositories.c.name == repository)))

    # Blobs

    def blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that the repository has, or None."""
        mine: dict[str, Any] = {"r": repository, "d": digest}
        with self._read() as connection:
            row = connection.execute(tables.read_blob, mine).first()
        if row is None:
            return None
        # What a manifest needs has its clock set when the manifest lets go of it
        if not row.needed and self._stale(row.touched):
            mine["now"] = time.time()
            if not self._write(lambda connection: connection.execute(tables.touch_blob, mine).rowcount, lasting=False):
                return None
        return int(row.size)

    def used(self, repository: str) -> int:
        """Bytes of the blobs that a repository has."""
        with self._read() as connection:
            return int(connection.scalar(tables.read_used, {"r": repository}) or 0)

    def repositories_with(self, digest: Digest) -> Iterator[str]:
        """The repositories that have a blob."""
        name, last = tables.blobs.c.repository, ""
        while True:
            mine = sa.select(name).where(tables.blobs.c.digest == digest, name > last).order_by(name).limit(100)
            with self._read() as connection:
                found = list(connection.scalars(mine))
            yield from found
            if not found:
                return
            last = found[-1]

    def claim(self, digest: Digest) -> None:
        """Set the clock of content that has a row; what has none can't be dropped before it has had one for a while."""
        with self._read() as connection:
            touched = connection.scalar(tables.read_claim, {"d": digest})
        if touched is not None and self._stale(touched):
            self._write(lambda connection: self._touch(connection, digest), lasting=False)

    def link(self, repository: str, digest: Digest, size: int, *, quota: int | None = None) -> None:
        """Let a repository have a blob that is in the store. Raises: Full."""
        mine = {"r": repository, "d": digest}

        def work(connection: sa.Connection) -> None:
            if quota is not None:
                had = connection.scalar(sa.select(tables.blobs.c.size).where(tables.BLOB), mine) or 0
                if (connection.scalar(tables.read_used, mine) or 0) - had + size > quota:
                    raise QuotaExceeded(repository)
            now = time.time()
            self._known(connection, repository, digest, size, now)
            row = {"repository": repository, "digest": digest, "size": size, "touched": now}
            connection.execute(self._keep.blob, row)

        self._write(work)

    def unlink(self, repository: str, digest: Digest, *, force: bool = False) -> bool:
        """Take a blob from a repository. Raises: Referenced."""
        mine = {"r": repository, "d": digest}

        def work(connection: sa.Connection) -> bool:
            row = connection.execute(tables.read_blob, mine).first()
            if row is None:
                return False
            if row.needed and not force:
                raise BlobInUse(digest)
            connection.execute(sa.delete(tables.blobs).where(tables.BLOB), mine)
            self._touch(connection, digest)
            return True

        return self._write(work)

    def missing(self, repository: str, digests: Sequence[Digest]) -> set[Digest]:
        """Those that are neither blobs nor manifests of the repository."""
        if not digests:
            return set()
        with self._read() as connection:
            return _missing(connection, repository, digests)

    # Manifests

    def put(
        self, repository: str, entry: ManifestRow, tags: Sequence[str] = (), *, strict: bool = False,
        expected: Sequence[Digest] | None = None, fresh: bool = False,
    ) -> None:  # fmt: skip
        """Add a manifest and its names. Raises: KeyError, Conflict."""

        def work(connection: sa.Connection) -> None:
            if fresh or expected is not None:
                self._check(connection, repository, entry, tags, expected)
            now = time.time()
            self._known(connection, repository, entry.digest, entry.size, now)
            mine = {"r": repository, "d": entry.digest, "now": now}
            if not connection.execute(tables.touch_manifest, mine).rowcount:
                self._add(connection, repository, entry, now)
            if strict and (absent := {Digest(each) for each in connection.scalars(tables.read_lacking, mine)}):
                raise KeyError(absent)
            for tag in tags:
                connection.execute(tables.touch_named, {**mine, "tag": tag})
                connection.execute(self._keep.tag, {"repository": repository, "name": tag, "digest": entry.digest})

        self._write(work)

    def _add(self, connection: sa.Connection, repository: str, entry: ManifestRow, now: float) -> None:
        connection.execute(
            tables.add_manifest,
            {
                "repository": repository, "digest": entry.digest, "media_type": entry.media_type, "size": entry.size,
                "subject": entry.subject, "artifact_type": entry.artifact_type, "referrer": entry.referrer,
                "touched": now,
            },
        )  # fmt: skip
        if entry.children:
            rows = [
                {"repository": repository, "manifest": entry.digest, "child": child}
                for child in dict.fromkeys(entry.children)
            ]
            connection.execute(tables.add_children, rows)

    def _check(
        self, connection: sa.Connection, repository: str, entry: ManifestRow, tags: Sequence[str],
        expected: Sequence[Digest] | None,
    ) -> None:  # fmt: skip
        """Hold the names to what the client expects. Raises: Conflict."""
        named = sa.select(tables.tags.c.digest).where(tables.NAMED)
        now = {tag: connection.scalar(named, {"r": repository, "tag": tag}) for tag in tags}
        if not tags:
            itself = sa.select(tables.manifests.c.digest).where(tables.MANIFEST)
            now = {entry.digest: connection.scalar(itself, {"r": repository, "d": entry.digest})}
        for name, digest in now.items():
            if expected is None and digest is not None:
                raise PreconditionFailed(f"{name} is there already: {digest}")
            if expected is not None and digest not in expected:
                raise PreconditionFailed(f"{name} is {digest or 'nothing'} by now")

    def manifest(self, repository: str, reference: str) -> ManifestRow | None:
        """What a tag or digest names."""
        by_digest = ":" in reference
        mine: dict[str, Any] = {"r": repository, "d" if by_digest else "tag": reference}
        with self._read() as connection:
            row = connection.execute(tables.read_by_digest if by_digest else tables.read_by_tag, mine).first()
        if row is not None and by_digest and not row.needed and self._stale(row.touched):
            mine["now"] = time.time()
            if not self._write(
                lambda connection: connection.execute(tables.touch_manifest, mine).rowcount, lasting=False
            ):
                return None
        return _entry(row) if row is not None else None

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest with its tags."""

        def work(connection: sa.Connection) -> bool:
            if not connection.scalar(sa.select(1).where(tables.MANIFEST), {"r": repository, "d": digest}):
                return False
            self._remove(connection, repository, [digest])
            return True

        return self._write(work)

    def _remove(self, connection: sa.Connection, repository: str, digests: Sequence[Digest]) -> None:
        """Delete manifests, with tags and what hangs on them; what they needed begins its grace period."""
        now = {"now": time.time()}
        for some in _portions(digests):
            children = sa.select(tables.children.c.child).where(
                tables.children.c.repository == repository, tables.children.c.manifest.in_(some)
            )
            released = (
                sa.update(tables.blobs).where(
                    tables.blobs.c.repository == repository, tables.blobs.c.digest.in_(children)
                ),
                sa.update(tables.manifests).where(
                    tables.manifests.c.repository == repository, tables.manifests.c.digest.in_(children)
                ),
                sa.update(tables.manifests).where(
                    tables.manifests.c.repository == repository, tables.manifests.c.subject.in_(some)
                ),
                sa.update(tables.content).where(tables.content.c.digest.in_(some)),
            )
            for rows in released:
                connection.execute(rows.values(touched=sa.bindparam("now")), now)
            connection.execute(
                sa.delete(tables.manifests).where(
                    tables.manifests.c.repository == repository, tables.manifests.c.digest.in_(some)
                )
            )

    def untag(self, repository: str, tag: str) -> bool:
        """Remove a tag."""
        mine = {"r": repository, "tag": tag, "d": "", "now": time.time()}

        def work(connection: sa.Connection) -> bool:
            connection.execute(tables.touch_named, mine)
            return bool(connection.execute(sa.delete(tables.tags).where(tables.NAMED), mine).rowcount)

        return self._write(work)

    def tags(self, repository: str, *, last: str = "", limit: int) -> list[str]:
        """Tags after *last*, in order."""
        with self._read() as connection:
            return list(connection.scalars(tables.read_tags, {"r": repository, "last": last, "limit": limit}))

    def referrers(
        self, repository: str, subject: Digest, *, artifact_type: str | None = None, last: str = "", limit: int
    ) -> list[ManifestRow]:
        """The manifests with the subject, ordered by digest."""
        mine = {"r": repository, "d": subject, "last": last, "limit": limit}
        statement = tables.read_referrers
        if artifact_type is not None:
            statement, mine["kind"] = tables.read_referrers_by_type, artifact_type
        with self._read() as connection:
            return [_entry(row) for row in connection.execute(statement, mine)]

    # Collecting

    def iter_references(self) -> Iterator[tuple[Digest, str, int]]:
        """Everything that anybody has."""
        last = ("", "")
        while True:
            pages = [
                sa.select(table.c.digest, table.c.repository, table.c.size).where(
                    sa.tuple_(table.c.digest, table.c.repository) > last
                )
                for table in (tables.blobs, tables.manifests)
            ]
            with self._read() as connection:
                found = connection.execute(sa.union_all(*pages).order_by("digest", "repository").limit(_BATCH)).all()
            for row in found:
                yield Digest(row.digest), row.repository, int(row.size)
            if len(found) < _BATCH:
                return
            last = (found[-1].digest, found[-1].repository)

    def untagged(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Manifests that no tag leads to."""
        last = ""
        while names := self.repositories(last=last, limit=_BATCH):
            for name in names:
                with self._read() as connection:
                    found = _untagged(connection, name, before)
                for digest, size in found:
                    yield name, digest, size
            last = names[-1]

    def drop_untagged(self, repository: str, before: float) -> list[tuple[Digest, int]]:
        """Delete manifests that no tag leads to."""
        gone: list[tuple[Digest, int]] = []

        def work(connection: sa.Connection) -> tuple[list[tuple[Digest, int]], bool]:
            found = _untagged(connection, repository, before)
            if few := len(found) <= _AT_A_TIME:
                some = found
            else:
                # Writers shall not wait for long. An index goes before what is in it, which then begins its grace period
                inside = _below(connection, repository, [digest for digest, _ in found])
                some = [each for each in found if each[0] not in inside][:_AT_A_TIME]
            self._remove(connection, repository, [digest for digest, _ in some])
            return some, few

        over = False
        while not over:
            some, few = self._write(work)
            gone += some
            over = few or not some
        return gone

    def unreferenced(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Blobs that a repository has and no manifest of it needs."""
        key = sa.tuple_(tables.blobs.c.repository, tables.blobs.c.digest)
        needed = sa.exists().where(
            tables.children.c.repository == tables.blobs.c.repository, tables.children.c.child == tables.blobs.c.digest
        )
        last = ("", "")
        while True:
            rows = sa.select(tables.blobs.c.repository, tables.blobs.c.digest, tables.blobs.c.size).where(
                key > last, tables.blobs.c.touched < before, ~needed
            )
            with self._read() as connection:
                found = connection.execute(
                    rows.order_by(tables.blobs.c.repository, tables.blobs.c.digest).limit(_BATCH)
                ).all()
            for row in found:
                yield row.repository, Digest(row.digest), int(row.size)
            if len(found) < _BATCH:
                return
            last = (found[-1].repository, found[-1].digest)

    def unnamed(self, before: float) -> Iterator[tuple[Digest, int]]:
        """Content that is no blob and no manifest anywhere."""
        last = ""
        while True:
            rows = sa.select(tables.content.c.digest, tables.content.c.size).where(
                tables.content.c.digest > last, tables.content.c.touched < before, *_nobody()
            )
            with self._read() as connection:
                found = connection.execute(rows.order_by(tables.content.c.digest).limit(_BATCH)).all()
            for row in found:
                yield Digest(row.digest), int(row.size)
            if len(found) < _BATCH:
                return
            last = found[-1].digest

    def adopt(self, digests: Sequence[Digest]) -> int:
        """Give rows to content without."""
        added = 0
        for some in _portions(digests):
            with self._read() as connection:
                strays = _strays(connection, some)
            if strays:
                added += self._write(partial(self._adopt, some=strays))
        return added

    def _adopt(self, connection: sa.Connection, some: Sequence[Digest]) -> int:
        strays, now = _strays(connection, some), time.time()
        if strays:
            rows = [{"digest": digest, "size": 0, "touched": now} for digest in strays]
            connection.execute(self._keep.stray, rows)
        return len(strays)

    def remove_blob_if_unused(self, repository: str, digest: Digest, before: float) -> bool:
        """Unlink, if nothing has changed."""
        mine = {"r": repository, "d": digest}
        gone = sa.delete(tables.blobs).where(tables.BLOB, tables.blobs.c.touched < before, ~tables.NEEDED)
        return self._write(lambda connection: bool(connection.execute(gone, mine).rowcount))

    def drop(self, digest: Digest, before: float, blobs: BlobStore) -> bool:
        """Delete content, if nothing has changed, with writers waiting."""

        def work(connection: sa.Connection) -> bool:
            gone = connection.execute(
                sa.delete(tables.content).where(
                    tables.content.c.digest == digest, tables.content.c.touched < before, *_nobody()
                )
            ).rowcount
            if gone:
                blobs.delete(digest)
            return bool(gone)

        # If a power cut brings the row back, it is dropped once more
        return self._write(work, single=True, lasting=False)

    def alone(self, work: Callable[[], T]) -> T:
        """Do something with writers waiting."""
        return self._write(lambda _: work(), single=True)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _known(self, connection: sa.Connection, repository: str, digest: Digest, size: int, now: float) -> None:
        """A repository and content have rows; the content's clock is set."""
        connection.execute(self._keep.repository, {"name": repository})
        connection.execute(self._keep.content, {"digest": digest, "size": size, "touched": now})

    def _touch(self, connection: sa.Connection, digest: Digest) -> None:
        connection.execute(tables.touch_content, {"d": digest, "now": time.time()})


class _Hinting(SQLiteCompiler):
    """Writes hints for SQLite, which SQLAlchemy does for other databases only."""

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """The hint as it is."""
        return text


def _connected(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begun(connection: sa.Connection) -> None:
    """Begin so that a writer waits at the start: one that began as a reader can't wait, and fails."""
    lasting = connection.get_execution_options().get("lasting")
    if connection.dialect.name == "sqlite":
        if lasting is not None:
            if connection.info.get("lasting") != lasting:
                connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if lasting else 'NORMAL'}")
                connection.info["lasting"] = lasting
            connection.exec_driver_sql("BEGIN IMMEDIATE")
    elif lasting is not None and connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7011)")


def _portions(digests: Sequence[S]) -> Iterator[Sequence[S]]:
    return (digests[at : at + _AT_ONCE] for at in range(0, len(digests), _AT_ONCE))


def _nobody() -> tuple[Any, ...]:
    """That content is no blob and no manifest of any repository."""
    return (
        ~sa.exists().where(tables.blobs.c.digest == tables.content.c.digest),
        ~sa.exists().where(tables.manifests.c.digest == tables.content.c.digest),
    )


def _strays(connection: sa.Connection, digests: Sequence[Digest]) -> list[Digest]:
    """Content without a row."""
    known = set(connection.scalars(sa.select(tables.content.c.digest).where(tables.content.c.digest.in_(digests))))
    return [digest for digest in digests if digest not in known]


def _missing(connection: sa.Connection, repository: str, digests: Sequence[Digest]) -> set[Digest]:
    absent = set(digests)
    for some in _portions(digests):
        absent.difference_update(connection.scalars(tables.read_present, {"r": repository, "some": some}))
    return absent


def _untagged(connection: sa.Connection, repository: str, before: float) -> list[tuple[Digest, int]]:
    """Manifests of a repository that neither tags lead to nor those of a time not before, with their sizes."""
    mine = tables.manifests.c.repository == repository
    tag = sa.exists().where(tables.tags.c.repository == repository, tables.tags.c.digest == tables.manifests.c.digest)
    old = sa.select(tables.manifests.c.digest, tables.manifests.c.size).where(
        mine, tables.manifests.c.touched < before, ~tag
    )
    suspects = {row.digest: int(row.size) for row in connection.execute(old)}
    if not suspects:
        return []
    roots = sa.select(tables.manifests.c.digest).where(mine, tag | (tables.manifests.c.touched >= before))
    found = list(connection.scalars(roots))
    while found and suspects:
        some, found = found[-_AT_ONCE:], found[:-_AT_ONCE]
        beside = sa.select(tables.manifests.c.digest).where(mine, tables.manifests.c.subject.in_(some))
        reached = {*_below(connection, repository, some), *connection.scalars(beside)}
        found += [digest for digest in reached if suspects.pop(digest, None) is not None]
    return [(Digest(digest), size) for digest, size in sorted(suspects.items())]


def _below(connection: sa.Connection, repository: str, digests: Sequence[str]) -> set[str]:
    """What manifests need."""
    children = tables.children.c
    return {
        child
        for some in _portions(digests)
        for child in connection.scalars(
            sa.select(children.child).where(children.repository == repository, children.manifest.in_(some))
        )
    }


def _entry(row: Any) -> ManifestRow:
    return ManifestRow(
        digest=Digest(row.digest), media_type=row.media_type, size=int(row.size), artifact_type=row.artifact_type,
        subject=Digest(row.subject) if row.subject else None, referrer=row.referrer,
    )  # fmt: skip
