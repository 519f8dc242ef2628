"""Connections to PostgreSQL: a pool, limits of time, and retries.

Statements are plain SQL with the parameters of psycopg. Reads and single statements commit automatically, in one round trip.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from ocikit.errors import InvalidArgument
from ocikit.server.storage.base import Unavailable

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

#: Seconds that a request waits for a free connection.
_POOL_TIMEOUT = 5.0

#: Seconds after which a connection is replaced.
_RECYCLE = 1800

#: Attempts of a change.
_ATTEMPTS = 3

#: SQLSTATEs after which the same change may succeed: serialization failure, deadlock, lock timeout.
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})

#: Limits of the connection: libpq's and the server's. A black hole must not hold a thread.
_LIMITS: dict[str, Any] = {
    "connect_timeout": 3,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "application_name": "ocikit",
    "options": "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s",
}


class Database:
    """A PostgreSQL database.

    Args:
        url: URL such as "postgresql://registry@db/registry". Passwords are not in it: libpq reads them from `~/.pgpass` or from
            the service file.
        pool: Connections of this process at most.
    """

    def __init__(self, url: str, *, pool: int = 8) -> None:
        import psycopg  # noqa: PLC0415 - optional package
        from sqlalchemy.pool import QueuePool  # noqa: PLC0415 - optional package

        self._psycopg = psycopg
        self._conninfo = connection_url(url)
        self._pool = QueuePool(
            self._connect,  # type: ignore[arg-type]  # the pool takes connections of any driver
            pool_size=pool,
            max_overflow=0,
            timeout=_POOL_TIMEOUT,
            recycle=_RECYCLE,
            use_lifo=True,
        )

    def rows(self, sql: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        """Return the rows of a query, as named tuples.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return self._retry(lambda connection: connection.execute(sql, params).fetchall())

    def row(self, sql: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the first row of a query, or None.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return self._retry(lambda connection: connection.execute(sql, params).fetchone())

    def change(self, sql: str, params: Mapping[str, Any] | None = None) -> list[Any]:
        """Run one statement that may run twice; return its rows.

        Raises:
            Unavailable: The database cannot be reached.
        """

        def work(connection: psycopg.Connection[Any]) -> list[Any]:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []

        return self._retry(work)

    def transaction(self, work: Callable[[psycopg.Connection[Any]], T], *, idempotent: bool = True) -> T:
        """Run a change in a transaction.

        Args:
            work: The change. It runs again after a conflict.
            idempotent: Whether it may run again after it was committed and the answer was lost. Otherwise the database is asked
                whether it was.

        Raises:
            Unavailable: The database cannot be reached.
        """
        results: list[tuple[str, T]] = []

        def attempt(connection: psycopg.Connection[Any]) -> T:
            if results and self._is_committed(connection, results[-1][0]):
                return results[-1][1]
            results.clear()
            with connection.transaction():
                result = work(connection)
                if not idempotent:
                    row = connection.execute("SELECT pg_current_xact_id_if_assigned()::text AS xid").fetchone()
                    if row is not None and row.xid is not None:
                        results.append((row.xid, result))
            return result

        return self._retry(attempt)

    def now(self) -> float:
        """Return the time of the database in seconds since the epoch."""
        return float(self.row("SELECT extract(epoch FROM clock_timestamp()) AS now").now)

    def check(self) -> None:
        """Ask the database for one row.

        Raises:
            Unavailable: The database cannot be reached.
        """
        self.row("SELECT 1 AS alive")

    def close(self) -> None:
        """Close all connections."""
        self._pool.dispose()

    def _connect(self) -> psycopg.Connection[Any]:
        from psycopg.rows import namedtuple_row  # noqa: PLC0415 - optional package

        return self._psycopg.connect(self._conninfo, autocommit=True, row_factory=namedtuple_row, **_LIMITS)

    def _retry(self, work: Callable[[psycopg.Connection[Any]], T]) -> T:
        """Run a function with a connection, again after a conflict and once after a broken connection.

        Raises:
            Unavailable: The database cannot be reached.
        """
        for attempt in range(_ATTEMPTS):
            try:
                with self._connection() as connection:
                    return work(connection)
            except self._psycopg.OperationalError as error:
                conflict = error.sqlstate in _CONFLICTS
                if attempt == _ATTEMPTS - 1 or (not conflict and attempt):
                    raise Unavailable("the database does not answer") from error
            time.sleep(random.uniform(0, 0.02 * 4**attempt))  # noqa: S311 - jitter
        raise AssertionError

    @contextlib.contextmanager
    def _connection(self) -> Iterator[psycopg.Connection[Any]]:
        """Lend a connection; a broken one is not used again."""
        from sqlalchemy.exc import TimeoutError as PoolTimeout  # noqa: PLC0415 - optional package

        try:
            lent = self._pool.connect()
        except PoolTimeout as error:
            raise Unavailable("all connections to the database are in use") from error
        try:
            connection: psycopg.Connection[Any] = lent.dbapi_connection  # type: ignore[assignment]  # as above
            yield connection
            if connection.broken:
                lent.invalidate()
        except self._psycopg.OperationalError as error:
            if error.sqlstate not in _CONFLICTS:
                lent.invalidate()
            raise
        finally:
            lent.close()

    @staticmethod
    def _is_committed(connection: psycopg.Connection[Any], xid: str) -> bool:
        """Return True if a transaction was committed although its answer was lost."""
        row = connection.execute("SELECT pg_xact_status(%(xid)s::xid8) AS status", {"xid": xid}).fetchone()
        return row is not None and row.status == "committed"


def connection_url(url: str) -> str:
    """Return a URL for libpq.

    Args:
        url: URL of libpq, or of SQLAlchemy with the driver psycopg.

    Raises:
        InvalidArgument: It is not a URL of PostgreSQL, or it contains a password, which process lists and logs would show.
    """
    from urllib.parse import urlsplit  # noqa: PLC0415 - used once

    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in {"postgresql", "postgresql+psycopg", "postgres"}:
        raise InvalidArgument(
            f"{scheme}:// is not a database of a registry", hint='use "postgresql://user@host/database"'
        )
    parts = urlsplit(f"postgresql://{rest}")
    if parts.password is not None or "password=" in parts.query:
        raise InvalidArgument(
            "the URL of the database contains a password",
            hint="put it into ~/.pgpass, or name a service=… of pg_service.conf",
        )
    return f"postgresql://{rest}"
