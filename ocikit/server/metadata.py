"""Who has what under which name, in SQL. One implementation for SQLite and whatever else SQLAlchemy speaks to.

SQLite runs in WAL mode: readers never wait, one writer at a time, any number of processes. Every list is a seek in an
index and takes as long as its page, however much there is beside it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from attrs import define, field
from sqlalchemy.dialects import postgresql, sqlite

from ocikit.server.storage import BlobStore, Conflict, Entry, Metadata, Referenced
from ocikit.spec.digest import Digest

__all__ = ["SqlMetadata"]

_schema = sa.MetaData()

#: Names and digests are compared byte by byte: SQLite's default, and PostgreSQL's "C".
_Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def _table(name: str, *columns: Any) -> sa.Table:
    return sa.Table(name, _schema, *columns, sqlite_with_rowid=False)


_repositories = _table("repositories", sa.Column("name", _Text, primary_key=True))

#: Content, whoever has it. `touched` is when it was last put, named, or let go of, in seconds since the epoch.
_content = _table(
    "content",
    sa.Column("digest", _Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("touched", sa.Float, nullable=False),
)

#: A repository has a blob. `touched` is when somebody last pushed it or asked for it.
_blobs = _table(
    "blobs",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("digest", _Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("touched", sa.Float, nullable=False),
    sa.Index("blobs_by_digest", "digest"),
)

_manifests = _table(
    "manifests",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("digest", _Text, primary_key=True),
    sa.Column("media_type", _Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("subject", _Text),
    sa.Column("artifact_type", _Text),
    sa.Column("referrer", sa.Text, nullable=False),
    sa.Index("manifests_by_digest", "digest"),
    sa.Index("referrers", "repository", "subject", "digest"),
    sa.Index("referrers_by_type", "repository", "subject", "artifact_type", "digest"),
)

#: A manifest needs a blob or another manifest of its repository.
_children = _table(
    "children",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("manifest", _Text, primary_key=True),
    sa.Column("child", _Text, primary_key=True),
    sa.Index("children_by_child", "repository", "child"),
)

_tags = _table(
    "tags",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("digest", _Text, nullable=False),
    sa.Index("tags_by_digest", "repository", "digest"),
)

#: Digests in one statement: SQLite takes 32766 parameters, older ones 999.
_AT_ONCE = 500

#: Rows that the collector reads at once.
_BATCH = 1000

#: How much of the grace period may be used up before a row is written to say that somebody asked for a blob.
_STALE = 0.25

_ENTRY = (
    _manifests.c.digest, _manifests.c.media_type, _manifests.c.size, _manifests.c.subject, _manifests.c.artifact_type,
    _manifests.c.referrer,
)  # fmt: skip


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
    _turn: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    """SQLite's own queue of writers is a lottery; within a process this one is fair."""

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
        in_memory = self.url == "sqlite://"
        if not self.url.startswith("sqlite"):
            self._engine = sa.create_engine(self.url)
        else:
            # A database in memory lives in one connection, which everybody takes turns with
            pool: dict[str, Any] = {"poolclass": sa.StaticPool} if in_memory else {"pool_size": 64, "max_overflow": 64}
            arguments = {"check_same_thread": False, "timeout": 30.0, "isolation_level": None}
            self._engine = sa.create_engine(self.url, connect_args=arguments, **pool)
            sa.event.listen(self._engine, "connect", self._connected)
            sa.event.listen(self._engine, "begin", _begun)
        self._reading: Any = self._turn if in_memory else contextlib.nullcontext()
        with self._write() as connection:
            _schema.create_all(connection)

    _reading: Any = field(init=False, repr=False)

    def _connected(self, connection: Any, _: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if self.durable else 'NORMAL'}")
        cursor.close()

    @contextlib.contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with self._reading, self._engine.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with self._turn, self._engine.connect().execution_options(writing=True) as connection, connection.begin():
            yield connection

    def _insert(self, table: sa.Table) -> Any:
        return postgresql.insert(table) if self._engine.dialect.name == "postgresql" else sqlite.insert(table)

    # Repositories

    def repositories(self, *, last: str = "", limit: int) -> list[str]:
        """Names after *last*, in order."""
        name = _repositories.c.name
        with self._read() as connection:
            return list(connection.scalars(sa.select(name).where(name > last).order_by(name).limit(limit)))

    def has_repository(self, repository: str) -> bool:
        """Whether anything was ever kept under the name."""
        with self._read() as connection:
            return bool(connection.scalar(sa.select(1).where(_repositories.c.name == repository)))

    # Blobs

    def blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that the repository has, or None."""
        mine = (_blobs.c.repository == repository) & (_blobs.c.digest == digest)
        with self._read() as connection:
            row = connection.execute(sa.select(_blobs.c.size, _blobs.c.touched).where(mine)).first()
        if row is None:
            return None
        if row.touched < time.time() - self.grace * _STALE:
            with self._write() as connection:
                if not connection.execute(sa.update(_blobs).where(mine).values(touched=time.time())).rowcount:
                    return None
        return int(row.size)

    def used(self, repository: str) -> int:
        """Bytes of the blobs that a repository has."""
        with self._read() as connection:
            total = sa.select(sa.func.coalesce(sa.func.sum(_blobs.c.size), 0)).where(_blobs.c.repository == repository)
            return int(connection.scalar(total) or 0)

    def holders(self, digest: Digest) -> Iterator[str]:
        """The repositories that have a blob."""
        name, last = _blobs.c.repository, ""
        while True:
            mine = sa.select(name).where(_blobs.c.digest == digest, name > last).order_by(name).limit(100)
            with self._read() as connection:
                found = list(connection.scalars(mine))
            yield from found
            if not found:
                return
            last = found[-1]

    def claim(self, digest: Digest) -> None:
        """Set the clock of content that has a row; what has none can't be dropped before it has had one for a while."""
        with self._read() as connection:
            touched = connection.scalar(sa.select(_content.c.touched).where(_content.c.digest == digest))
        if touched is not None and touched < time.time() - self.grace * _STALE:
            with self._write() as connection:
                self._touch(connection, digest)

    def link(self, repository: str, digest: Digest, size: int) -> None:
        """Let a repository have a blob that is in the store."""
        now = time.time()
        with self._write() as connection:
            self._known(connection, repository, digest, size)
            row = self._insert(_blobs).values(repository=repository, digest=digest, size=size, touched=now)
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=["repository", "digest"], set_={"touched": now, "size": row.excluded.size}
                )
            )

    def unlink(self, repository: str, digest: Digest, *, force: bool = False) -> bool:
        """Take a blob from a repository. Raises: Referenced."""
        needed = sa.select(1).where(_children.c.repository == repository, _children.c.child == digest).limit(1)
        with self._write() as connection:
            mine = (_blobs.c.repository == repository) & (_blobs.c.digest == digest)
            if not connection.scalar(sa.select(1).where(mine)):
                return False
            if not force and connection.scalar(needed):
                raise Referenced(digest)
            connection.execute(sa.delete(_blobs).where(mine))
            self._touch(connection, digest)
            return True

    def missing(self, repository: str, digests: Sequence[Digest]) -> set[Digest]:
        """Those that are neither blobs nor manifests of the repository."""
        with self._read() as connection:
            return _missing(connection, repository, digests)

    # Manifests

    def put(
        self, repository: str, entry: Entry, tags: Sequence[str] = (), *, strict: bool = False,
        expected: Sequence[Digest] | None = None, fresh: bool = False,
    ) -> None:  # fmt: skip
        """Add a manifest and its names. Raises: KeyError, Conflict."""
        with self._write() as connection:
            if strict and (absent := _missing(connection, repository, entry.children)):
                raise KeyError(absent)
            if fresh or expected is not None:
                self._check(connection, repository, entry, tags, expected)
            self._known(connection, repository, entry.digest, entry.size)
            added = connection.execute(
                self._insert(_manifests).on_conflict_do_nothing(),
                {
                    "repository": repository, "digest": entry.digest, "media_type": entry.media_type,
                    "size": entry.size, "subject": entry.subject, "artifact_type": entry.artifact_type,
                    "referrer": entry.referrer,
                },
            ).rowcount  # fmt: skip
            if added and entry.children:
                rows = [{"repository": repository, "manifest": entry.digest, "child": c} for c in entry.children]
                connection.execute(self._insert(_children).on_conflict_do_nothing(), rows)
            for tag in tags:
                row = self._insert(_tags).values(repository=repository, name=tag, digest=entry.digest)
                connection.execute(
                    row.on_conflict_do_update(
                        index_elements=["repository", "name"], set_={"digest": row.excluded.digest}
                    )
                )

    def _check(
        self, connection: sa.Connection, repository: str, entry: Entry, tags: Sequence[str],
        expected: Sequence[Digest] | None,
    ) -> None:  # fmt: skip
        """Hold the names to what the client expects. Raises: Conflict."""
        if tags:
            named = sa.select(_tags.c.digest).where(_tags.c.repository == repository)
            now = {tag: connection.scalar(named.where(_tags.c.name == tag)) for tag in tags}
        else:
            mine = sa.select(_manifests.c.digest).where(
                _manifests.c.repository == repository, _manifests.c.digest == entry.digest
            )
            now = {entry.digest: connection.scalar(mine)}
        for name, digest in now.items():
            if expected is None and digest is not None:
                raise Conflict(f"{name} is there already: {digest}")
            if expected is not None and digest not in expected:
                raise Conflict(f"{name} is {digest or 'nothing'} by now")

    def manifest(self, repository: str, reference: str) -> Entry | None:
        """What a tag or digest names."""
        mine = sa.select(*_ENTRY).where(_manifests.c.repository == repository)
        if ":" in reference:
            mine = mine.where(_manifests.c.digest == reference)
        else:
            mine = mine.join(_tags, (_tags.c.repository == repository) & (_tags.c.digest == _manifests.c.digest))
            mine = mine.where(_tags.c.name == reference)
        with self._read() as connection:
            row = connection.execute(mine).first()
        return _entry(row) if row is not None else None

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest with its tags."""
        with self._write() as connection:
            mine = (_manifests.c.repository == repository) & (_manifests.c.digest == digest)
            if not connection.execute(sa.delete(_manifests).where(mine)).rowcount:
                return False
            connection.execute(
                sa.delete(_children).where(_children.c.repository == repository, _children.c.manifest == digest)
            )
            connection.execute(sa.delete(_tags).where(_tags.c.repository == repository, _tags.c.digest == digest))
            self._touch(connection, digest)
            return True

    def untag(self, repository: str, tag: str) -> bool:
        """Remove a tag."""
        with self._write() as connection:
            mine = (_tags.c.repository == repository) & (_tags.c.name == tag)
            return bool(connection.execute(sa.delete(_tags).where(mine)).rowcount)

    def tags(self, repository: str, *, last: str = "", limit: int) -> list[str]:
        """Tags after *last*, in order."""
        name = _tags.c.name
        mine = sa.select(name).where(_tags.c.repository == repository, name > last).order_by(name).limit(limit)
        with self._read() as connection:
            return list(connection.scalars(mine))

    def referrers(
        self, repository: str, subject: Digest, *, artifact_type: str | None = None, last: str = "", limit: int
    ) -> list[Entry]:
        """The manifests with the subject, ordered by digest."""
        digest = _manifests.c.digest
        mine = sa.select(*_ENTRY).where(
            _manifests.c.repository == repository, _manifests.c.subject == subject, digest > last
        )
        if artifact_type is not None:
            mine = mine.where(_manifests.c.artifact_type == artifact_type)
        with self._read() as connection:
            return [_entry(row) for row in connection.execute(mine.order_by(digest).limit(limit))]

    # Collecting

    def unreferenced(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Blobs that a repository has and no manifest of it needs."""
        key = sa.tuple_(_blobs.c.repository, _blobs.c.digest)
        needed = sa.exists().where(_children.c.repository == _blobs.c.repository, _children.c.child == _blobs.c.digest)
        last = ("", "")
        while True:
            rows = sa.select(_blobs.c.repository, _blobs.c.digest, _blobs.c.size).where(
                key > last, _blobs.c.touched < before, ~needed
            )
            with self._read() as connection:
                found = connection.execute(rows.order_by(_blobs.c.repository, _blobs.c.digest).limit(_BATCH)).all()
            for row in found:
                yield row.repository, Digest(row.digest), int(row.size)
            if len(found) < _BATCH:
                return
            last = (found[-1].repository, found[-1].digest)

    def unnamed(self, before: float) -> Iterator[tuple[Digest, int]]:
        """Content that is no blob and no manifest anywhere."""
        last = ""
        while True:
            rows = sa.select(_content.c.digest, _content.c.size).where(
                _content.c.digest > last, _content.c.touched < before, *_nobody()
            )
            with self._read() as connection:
                found = connection.execute(rows.order_by(_content.c.digest).limit(_BATCH)).all()
            for row in found:
                yield Digest(row.digest), int(row.size)
            if len(found) < _BATCH:
                return
            last = found[-1].digest

    def adopt(self, digests: Sequence[Digest]) -> int:
        """Give rows to content without."""
        now, added = time.time(), 0
        for at in range(0, len(digests), _AT_ONCE):
            some = digests[at : at + _AT_ONCE]
            with self._read() as connection:
                known = set(connection.scalars(sa.select(_content.c.digest).where(_content.c.digest.in_(some))))
            rows = [{"digest": digest, "size": 0, "touched": now} for digest in some if digest not in known]
            if rows:
                with self._write() as connection:
                    connection.execute(self._insert(_content).on_conflict_do_nothing(), rows)
                added += len(rows)
        return added

    def drop_link(self, repository: str, digest: Digest, before: float) -> bool:
        """Unlink, if nothing has changed."""
        needed = sa.exists().where(_children.c.repository == repository, _children.c.child == digest)
        with self._write() as connection:
            gone = connection.execute(
                sa.delete(_blobs).where(
                    _blobs.c.repository == repository, _blobs.c.digest == digest, _blobs.c.touched < before, ~needed
                )
            ).rowcount
            return bool(gone)

    def drop(self, digest: Digest, before: float, blobs: BlobStore) -> bool:
        """Delete content, if nothing has changed, with writers waiting."""
        with self._write() as connection:
            gone = connection.execute(
                sa.delete(_content).where(_content.c.digest == digest, _content.c.touched < before, *_nobody())
            ).rowcount
            if gone:
                blobs.delete(digest)
            return bool(gone)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _known(self, connection: sa.Connection, repository: str, digest: Digest, size: int) -> None:
        """A repository and content have rows; the content's clock is set."""
        connection.execute(self._insert(_repositories).on_conflict_do_nothing(), {"name": repository})
        row = self._insert(_content).values(digest=digest, size=size, touched=time.time())
        connection.execute(
            row.on_conflict_do_update(
                index_elements=["digest"], set_={"touched": row.excluded.touched, "size": row.excluded.size}
            )
        )

    def _touch(self, connection: sa.Connection, digest: Digest) -> None:
        connection.execute(sa.update(_content).where(_content.c.digest == digest).values(touched=time.time()))


def _begun(connection: sa.Connection) -> None:
    """Begin so that a writer waits at the start: one that began as a reader can't wait, and fails."""
    writing = connection.get_execution_options().get("writing")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _nobody() -> tuple[Any, ...]:
    """That content is no blob and no manifest of any repository."""
    return (
        ~sa.exists().where(_blobs.c.digest == _content.c.digest),
        ~sa.exists().where(_manifests.c.digest == _content.c.digest),
    )


def _missing(connection: sa.Connection, repository: str, digests: Sequence[Digest]) -> set[Digest]:
    absent = set(digests)
    for at in range(0, len(digests), _AT_ONCE):
        some = digests[at : at + _AT_ONCE]
        for table in (_blobs, _manifests):
            mine = sa.select(table.c.digest).where(table.c.repository == repository, table.c.digest.in_(some))
            absent.difference_update(connection.scalars(mine))
    return absent


def _entry(row: Any) -> Entry:
    return Entry(
        digest=Digest(row.digest), media_type=row.media_type, size=int(row.size), artifact_type=row.artifact_type,
        subject=Digest(row.subject) if row.subject else None, referrer=row.referrer,
    )  # fmt: skip
