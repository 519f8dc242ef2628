"""SQLite connections: pool, settings and transactions."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.base import SQLiteCompiler

from ocikit.forks import finalize
from ocikit.server.storage.base import DISK_FULL
from ocikit.server.storage.group_commit import GroupCommit
from ocikit.server.storage.reserve import DiskReserve

T = TypeVar("T")

#: Connections of a process: one for the writer, the others for readers. The interpreter runs one thread at a time, and each
#: connection caches pages in memory.
_CONNECTIONS = 8

#: Seconds that a writer waits for writers of other processes.
_LOCK_TIMEOUT = 60.0

#: Free bytes below which an I/O error means a full disk.
_NO_SPACE = 1 << 17


class Database:
    """A SQLite database with concurrent readers and one writer at a time.

    It runs in WAL mode: readers never wait, and any number of processes share the file.

    Args:
        url: SQLAlchemy URL.
        durable: Whether committed changes survive a power cut, not only a crash of the process.
        reserve: Disk space for changes that free space.
    """

    def __init__(self, url: str, *, durable: bool = True, reserve: DiskReserve | None = None) -> None:
        self.durable = durable
        self._reserve = reserve
        self._in_memory = url == "sqlite://"
        self.engine = _create_engine(url, in_memory=self._in_memory)
        self._readers = _Readers(self.engine)
        self._commits: GroupCommit[sa.Connection] = GroupCommit(partial(_transaction, self.engine))
        # Python 3.13 emits a ResourceWarning for each open connection of an object that was not closed
        finalize(self, self._readers.dispose, at_exit=False)

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Return a connection for reading. Each statement sees what is committed when it starts."""
        if self._in_memory:
            # The only connection: a reader must not see a transaction in progress
            with self._commits.lock, self.engine.connect() as connection:
                yield connection
        else:
            with self._readers.connection() as connection:
                yield connection

    def write(
        self,
        work: Callable[[sa.Connection], T],
        *,
        durable: bool = True,
        exclusive: bool = False,
        frees_space: bool = False,
    ) -> T:
        """Run a change in a transaction, possibly together with changes of other threads.

        Args:
            work: The change; it may run twice unless it is exclusive.
            durable: Whether the change must survive a power cut.
            exclusive: Whether the change has side effects outside of the database.
            frees_space: Whether the change frees space sooner or later. On a full disk it may use the reserve, and it runs
                twice even if it is exclusive.

        Raises:
            OSError: The disk is full.
        """
        durable = durable and self.durable
        try:
            return self._commits.run(work, durable=durable, exclusive=exclusive)
        except OSError as error:
            if self._reserve is None or not frees_space or error.errno not in DISK_FULL:
                raise
        with self._reserve.released():
            self._empty_log()
            return self._commits.run(work, durable=durable, exclusive=exclusive)

    def _empty_log(self) -> None:
        """Move the changes of SQLite's log into the database, which frees the space of the log."""
        database = str(self.engine.url.database)
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(database, timeout=1)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close all connections."""
        self._readers.dispose()


class _Readers:
    """Connections for reading that stay checked out of the engine's pool.

    A request reads one row. SQLAlchemy needs three times as long as the database to check a connection out, begin a
    transaction, roll it back and check the connection in. SQLite's driver commits automatically, so that these connections
    hold no snapshot between two statements.

    Args:
        engine: An engine with a pool of `_CONNECTIONS`.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        # Without the limit, readers could hold all connections and the writer would wait indefinitely
        self._free = threading.Semaphore(_CONNECTIONS - 1)
        self._idle: list[sa.Connection] = []

    @contextlib.contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """Lend a connection. An error closes it."""
        with self._free:
            try:
                connection = self._idle.pop()  # the last one has the most recent pages in its cache
            except IndexError:
                connection = self._engine.connect()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._idle.append(connection)

    def dispose(self) -> None:
        """Close all connections of the engine."""
        self._close_idle()
        self._engine.dispose()

    def _close_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()


def _create_engine(url: str, *, in_memory: bool) -> sa.Engine:
    pool: dict[str, Any] = {"pool_size": _CONNECTIONS, "max_overflow": 0, "pool_timeout": _LOCK_TIMEOUT}
    if in_memory:
        # The database exists in one connection that all threads share
        pool = {"poolclass": sa.StaticPool}
    arguments = {"check_same_thread": False, "timeout": _LOCK_TIMEOUT, "isolation_level": None}
    engine = sa.create_engine(url, connect_args=arguments, **pool)
    engine.dialect.statement_compiler = _HintCompiler
    sa.event.listen(engine, "connect", _configure)
    return engine


@contextlib.contextmanager
def _transaction(engine: sa.Engine, durable: bool) -> Iterator[sa.Connection]:
    """Open a transaction for writing.

    Raises:
        OSError: The disk is full.
    """
    try:
        with engine.connect() as connection, connection.begin():
            _lock_for_writing(connection, durable)
            yield connection
    except sa.exc.OperationalError as error:
        if _is_disk_full(error, engine):
            raise OSError(errno.ENOSPC, "no space for the rows") from error
        raise


def _is_disk_full(error: sa.exc.OperationalError, engine: sa.Engine) -> bool:
    """Return True if SQLite failed because the disk is full.

    Where it cannot extend its shared memory or create a file, SQLite reports an I/O error without the reason.
    """
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is None or code == sqlite3.SQLITE_FULL:
        return code is not None
    if code & 0xFF not in {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN} or not engine.url.database:
        return False
    try:
        return shutil.disk_usage(os.path.dirname(engine.url.database) or ".").free < _NO_SPACE
    except OSError:
        return False


class _HintCompiler(SQLiteCompiler):
    """A compiler that emits index hints.

    SQLAlchemy supports them for other databases only.
    """

    def get_from_hint_text(self, table: Any, text: str | None) -> str | None:
        """Return the hint unchanged."""
        return text


def _configure(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # Temporary files of statements could not be written to a full disk
    cursor.execute("PRAGMA temp_store=MEMORY")
    cursor.close()


def _lock_for_writing(connection: sa.Connection, durable: bool) -> None:
    """Take the write lock at the start of a transaction.

    SQLite cannot upgrade a read transaction while another writer is active.
    """
    if connection.info.get("durable") != durable:
        connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        connection.info["durable"] = durable
    connection.exec_driver_sql("BEGIN IMMEDIATE")
