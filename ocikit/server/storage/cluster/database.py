"""Statements and transactions of PostgreSQL, with limits of time, retries and counts.

Statements are plain SQL with the parameters of psycopg. Reads and single statements commit automatically, in one round trip.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from attrs import define, field

from ocikit.errors import InvalidArgument
from ocikit.forks import ForkSafeLock, finalize, fork_count
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.sqlstates import Fault, classify, operation, safe_message

if TYPE_CHECKING:
    import psycopg

    from ocikit.server.storage.cluster.connection import ConnectionPool, LimitedConnection

T = TypeVar("T")

_log = logging.getLogger("ocikit.server")

#: Seconds that a call takes at most, with its retries. A request that fails must end within 15 s.
_LIMIT = 10.0

#: Seconds by which the server ends a statement before this process closes the connection.
_MARGIN = 2.0

#: Attempts of a change that meets other transactions.
_ATTEMPTS = 5

#: Seconds before the second attempt, at most; doubled for each further one.
_PAUSE = 0.02

#: Seconds in which a transaction whose COMMIT was not answered is looked for, beyond the limit of its call.
_COMMIT_SEARCH = 4.0

#: Names of statements that are stored.
_MAX_NAMES = 1000

#: Connections of a process: see `pool_size`.
_MIN_POOL, _MAX_POOL, _THREADS_PER_CONNECTION = 2, 16, 8


def pool_size(threads: int) -> int:
    """Return how many connections a process with so many threads needs: most of them move content.

    >>> pool_size(64), pool_size(512)
    (8, 16)
    """
    return max(_MIN_POOL, min(_MAX_POOL, threads // _THREADS_PER_CONNECTION))


@define(eq=False)
class DatabaseStatistics:
    """Counts of a process since its start, for metrics."""

    calls: Counter[str] = field(factory=Counter)
    """Calls by operation, such as "select tags" or "put_manifest", also those that failed."""
    seconds: Counter[str] = field(factory=Counter)
    """Seconds of these calls, with retries and the wait for a connection."""
    retries: Counter[str] = field(factory=Counter)
    """Further attempts by SQLSTATE; "connection" for those without one."""
    failures: Counter[str] = field(factory=Counter)
    """Calls that ended with `Unavailable`, by SQLSTATE; "connection" for those without one."""
    _lock: ForkSafeLock = field(factory=ForkSafeLock, repr=False)

    def add_call(self, name: str, seconds: float) -> None:
        """Count a call."""
        with self._lock:
            self.calls[name] += 1
            self.seconds[name] += seconds  # type: ignore[assignment]  # counts of seconds are floats

    def add_retry(self, sqlstate: str | None) -> None:
        """Count a further attempt."""
        with self._lock:
            self.retries[sqlstate or "connection"] += 1

    def add_failure(self, sqlstate: str | None) -> None:
        """Count a call that failed."""
        with self._lock:
            self.failures[sqlstate or "connection"] += 1


class _Budget:
    """Retries that are left: a tenth of the calls that succeed. An outage must not double the load.

    Args:
        size: Retries at most.
    """

    def __init__(self, size: int) -> None:
        self._size = self._left = float(size)

    def earn(self) -> None:
        """Add a tenth of a retry; a count that two threads change at once may be lost."""
        self._left = min(self._size, self._left + 0.1)

    def spend(self) -> bool:
        """Take a retry; return False if none is left."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Database:
    """A PostgreSQL database.

    Each call ends within 10 seconds by default, also if the server is silent: a statement has 8 seconds at the server, a
    connection 3 to be made, and a call waits 5 for a free connection.

    A password is not in the URL: libpq reads it from `~/.pgpass` or from the file of `service=`. Several hosts are possible:
    "postgresql://registry@db1,db2/registry?target_session_attrs=read-write".

    PgBouncer in the mode `transaction` needs "?pgbouncer=1": without it statements are prepared, and limits are settings of the session.
    Set them at the role then:

        ALTER ROLE registry SET statement_timeout = '8s';
        ALTER ROLE registry SET lock_timeout = '3s';
        ALTER ROLE registry SET idle_in_transaction_session_timeout = '15s';

    Args:
        url: URL such as "postgresql://registry@db/registry".
        pool: Connections of this process at most; see `pool_size`.

    Raises:
        InvalidArgument: The URL is invalid or contains a password.
    """

    def __init__(self, url: str, *, pool: int = 8) -> None:
        self._conninfo, self._pooled = _parse_url(url)
        _check_conninfo(self._conninfo)
        self._size = pool
        self._inherited: list[object] = []
        self._lock = ForkSafeLock()
        self._budget = _Budget(max(10, 2 * pool))
        self._names: dict[str, str] = {}
        self.statistics = DatabaseStatistics()
        self._start()

    def __repr__(self) -> str:
        return f"Database({urlsplit(self._conninfo).path.lstrip('/')!r})"

    def rows(
        self, sql: str, params: Mapping[str, Any] | None = None, *, name: str = "", seconds: float = 0
    ) -> list[Any]:
        """Return the rows of a query, as named tuples.

        Args:
            sql: The query, with parameters such as %(name)s.
            params: Values of the parameters.
            name: The operation in metrics; made from the query by default.
            seconds: Limit of time; 0 takes the default.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return self._statement(sql, params, name, seconds)

    def row(self, sql: str, params: Mapping[str, Any] | None = None, *, name: str = "", seconds: float = 0) -> Any:
        """Return the first row of a query, or None; see `rows`.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return next(iter(self._statement(sql, params, name, seconds)), None)

    def change(
        self, sql: str, params: Mapping[str, Any] | None = None, *, name: str = "", seconds: float = 0
    ) -> list[Any]:
        """Run one statement that may run twice; return its rows. See `rows`.

        Raises:
            Unavailable: The database cannot be reached.
        """
        return self._statement(sql, params, name, seconds)

    def transaction(
        self,
        work: Callable[[psycopg.Connection[Any]], T],
        *,
        idempotent: bool = True,
        name: str = "",
        seconds: float = 0,
    ) -> T:
        """Run a change in a transaction.

        Args:
            work: The change. It runs again after a conflict. An error that it raises rolls the transaction back.
            idempotent: Whether it may run again after it was committed and the answer was lost. Otherwise the database is asked
                whether it was.
            name: The operation in metrics; the name of the function around `work` by default.
            seconds: Limit of time; 0 takes the default.

        Raises:
            Unavailable: The database cannot be reached. If only the answer to COMMIT was lost, the change may have been made.
        """
        # The transaction whose COMMIT was sent, and its result
        sent: list[tuple[str, T]] = []

        def attempt(connection: LimitedConnection) -> T:
            if sent:
                xid, result = sent.pop()
                if _is_committed(connection, xid, result, sent):
                    return result
            connection.execute(self._begin(seconds))
            try:
                result = work(connection)
                xid = "" if idempotent else _transaction_id(connection)
            except BaseException:
                _roll_back(connection)
                raise
            if xid:
                sent.append((xid, result))
            _commit(connection)
            return result

        return self._run(attempt, name or _function_name(work), seconds, sent)

    def now(self) -> float:
        """Return the time of the database in seconds since the epoch."""
        return float(self.row("SELECT extract(epoch FROM clock_timestamp()) AS now", name="now").now)

    def check(self, *, seconds: float = 2.0) -> None:
        """Ask the database for one row.

        Args:
            seconds: Limit of time.

        Raises:
            Unavailable: The database cannot be reached.
        """
        self.row("SELECT 1 AS alive", name="check", seconds=seconds)

    @property
    def connections_in_use(self) -> int:
        """The number of connections that threads of this process use now, or wait for while they are made."""
        return self._pool.in_use

    @property
    def pool(self) -> int:
        """The number of connections of this process at most."""
        return self._size

    def log_connections(self, processes: int) -> bool:
        """Compare the connections of all processes of this machine with what the server allows, and log both.

        Args:
            processes: Number of worker processes of this machine.

        Returns:
            Whether they are enough, if no other machine uses the server.

        Raises:
            Unavailable: The database cannot be reached.
        """
        row = self.row(_LIMITS, name="limits")
        allowed = min(limit for limit in (row.server, row.role, row.database) if limit >= 0)
        wanted = self._size * processes
        if wanted <= allowed:
            _log.info(
                "the database allows %d connections; this machine uses %d at most, %d of %d are in use now",
                allowed, wanted, row.used, row.server,
            )  # fmt: skip
            return True
        _log.warning(
            "the database allows %d connections, but %d processes with %d each may ask for %d: requests wait or fail with 503 "
            "under load. Raise max_connections, or use fewer workers",
            allowed, processes, self._size, wanted,
        )  # fmt: skip
        return False

    def close(self) -> None:
        """Close all connections."""
        self._pool.renew()

    def _start(self) -> None:
        from ocikit.server.storage.cluster.connection import ConnectionPool  # noqa: PLC0415 - imports the driver

        milliseconds = int((_LIMIT - _MARGIN) * 1000)
        limits = {
            "statement_timeout": milliseconds,
            "lock_timeout": 3000,
            "idle_in_transaction_session_timeout": 15000,
            # Statements look rows up by their keys. Planning one takes as long as running it
            "plan_cache_mode": "force_generic_plan",
        }
        options = "" if self._pooled else " ".join(f"-c {name}={value}" for name, value in limits.items())
        self._forks = fork_count()
        self._pool: ConnectionPool = ConnectionPool(
            self._conninfo, size=self._size, options=options, prepare=not self._pooled
        )
        # Python emits a ResourceWarning for each open connection of an object that was not closed
        finalize(self, self._pool.renew, at_exit=False)

    def _own_pool(self) -> ConnectionPool:
        """Return the pool of this process: a forked child must not use or close the sockets of its parent."""
        if self._forks != fork_count():
            with self._lock:
                if self._forks != fork_count():
                    self._inherited.append(self._pool)
                    self._start()
        return self._pool

    def _statement(self, sql: str, params: Mapping[str, Any] | None, name: str, seconds: float) -> list[Any]:
        def attempt(connection: LimitedConnection) -> list[Any]:
            if seconds > _LIMIT:
                connection.execute(self._begin(seconds))
                try:
                    rows = _fetch(connection, sql, params)
                except BaseException:
                    _roll_back(connection)
                    raise
                _commit(connection)
                return rows
            return _fetch(connection, sql, params)

        return self._run(attempt, name or self._name(sql), seconds, [])

    def _name(self, sql: str) -> str:
        name = self._names.get(sql)
        if name is None:
            name = operation(sql)
            if len(self._names) < _MAX_NAMES:
                self._names[sql] = name
        return name

    def _begin(self, seconds: float) -> str:
        """Return the statement that begins a transaction, with its limit of time at the server."""
        if seconds <= _LIMIT:
            return "BEGIN"
        return f"BEGIN; SET LOCAL statement_timeout = {int((seconds - _MARGIN) * 1000)}"

    def _run(self, attempt: Callable[[LimitedConnection], T], name: str, seconds: float, sent: list[Any]) -> T:
        """Run a function with a connection, again after conflicts and once after a broken connection.

        Args:
            attempt: The function.
            name: The operation.
            seconds: Limit of time; 0 takes the default.
            sent: Not empty if COMMIT was sent and not answered.

        Raises:
            Unavailable: The database cannot be reached.
        """
        import psycopg  # noqa: PLC0415 - optional package

        started = time.monotonic()
        deadline = started + (seconds or _LIMIT)
        conflicts = breaks = 0
        try:
            while True:
                pool = self._own_pool()
                try:
                    with pool.lend(deadline) as connection:
                        closed = True
                        try:
                            result = attempt(connection)
                        finally:
                            closed = connection.closed
                    self._budget.earn()
                    return result
                except psycopg.Error as error:
                    primary = error.diag.message_primary or ""
                    operational = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
                    fault = classify(error.sqlstate, primary, operational=operational, closed=closed)
                    if fault is Fault.DEFECT:
                        # Tracebacks are logged, and the details of the server contain values of parameters
                        error.args = (safe_message(error.sqlstate, primary),)
                        raise
                    failure, sqlstate = pool.failure(error), error.sqlstate
                except Unavailable:
                    self.statistics.add_failure(None)
                    raise
                if fault is Fault.BROKEN:
                    # A server that has ended one connection has ended them all
                    pool.renew()
                    breaks += 1
                    if sent and breaks == 1:
                        deadline = max(deadline, time.monotonic() + _COMMIT_SEARCH)
                    again = breaks == 1 and (bool(sent) or self._budget.spend())
                else:
                    conflicts += 1
                    again = fault is Fault.CONFLICT and conflicts < _ATTEMPTS
                pause = random.uniform(0, _PAUSE * 2**conflicts) if conflicts else 0.0  # noqa: S311 - jitter
                if not again or time.monotonic() + pause >= deadline:
                    self.statistics.add_failure(sqlstate)
                    raise failure
                self.statistics.add_retry(sqlstate)
                time.sleep(pause)
        finally:
            self.statistics.add_call(name, time.monotonic() - started)


#: What the server allows; -1 stands for no limit.
_LIMITS = """
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
           - coalesce(current_setting('reserved_connections', true)::int, 0) AS server,
       coalesce((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1) AS role,
       coalesce((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1) AS database,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used
"""


def connection_url(url: str) -> str:
    """Return a URL for libpq.

    Args:
        url: URL of libpq, or of SQLAlchemy with the driver psycopg.

    Raises:
        InvalidArgument: It is not a URL of PostgreSQL, or it contains a password, which process lists and logs would show.
    """
    return _parse_url(url)[0]


def _parse_url(url: str) -> tuple[str, bool]:
    """Return a URL for libpq, and whether it leads to PgBouncer."""
    scheme, separator, rest = url.partition("://")
    # The text without a separator may be a connection string with a password
    if not separator or scheme not in {"postgresql", "postgresql+psycopg", "postgres"}:
        named = f"{scheme[:20]}:// is" if separator else "that is"
        raise InvalidArgument(f"{named} not a database of a registry", hint='use "postgresql://user@host/database"')
    parts = urlsplit(f"postgresql://{rest}")
    options = parse_qsl(parts.query, keep_blank_values=True)
    if parts.password is not None or any("password" in name.lower() for name, _ in options):
        raise InvalidArgument(
            "the URL of the database contains a password",
            hint="put it into ~/.pgpass, or name a service=… of pg_service.conf",
        )
    pooled = any(name == "pgbouncer" and value not in {"", "0", "false"} for name, value in options)
    query = urlencode([(name, value) for name, value in options if name != "pgbouncer"], quote_via=quote)
    return parts._replace(query=query).geturl(), pooled


def _check_conninfo(conninfo: str) -> None:
    """Check the options of a URL.

    Raises:
        InvalidArgument: An option is invalid.
    """
    import psycopg  # noqa: PLC0415 - optional package
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415 - optional package

    try:
        conninfo_to_dict(conninfo)
    except psycopg.Error:  # its text contains parts of the URL
        raise InvalidArgument(
            "the URL of the database has an invalid option or escape",
            hint='use "postgresql://user@host/database" and options of libpq',
        ) from None


def _fetch(connection: psycopg.Connection[Any], sql: str, params: Mapping[str, Any] | None) -> list[Any]:
    cursor = connection.execute(sql, params)
    return cursor.fetchall() if cursor.description else []


def _function_name(work: Callable[..., Any]) -> str:
    """Return the name of the function that a callback is defined in.

    >>> _function_name(pool_size)
    'pool_size'
    """
    names: list[str] = getattr(work, "__qualname__", "transaction").split(".<locals>")
    return (names[-2] if len(names) > 1 else names[-1]).rpartition(".")[2]


def _commit(connection: psycopg.Connection[Any]) -> None:
    """Commit.

    Raises:
        InFailedSqlTransaction: A statement had failed, and its error was caught: the server has rolled back.
    """
    from psycopg.errors import InFailedSqlTransaction  # noqa: PLC0415 - optional package

    if connection.execute("COMMIT").statusmessage != "COMMIT":
        raise InFailedSqlTransaction("the transaction was rolled back by an error of one of its statements")


def _roll_back(connection: psycopg.Connection[Any]) -> None:
    """Roll back. A connection that cannot is closed, which rolls back as well."""
    import psycopg  # noqa: PLC0415 - optional package

    if connection.closed:
        return
    try:
        connection.execute("ROLLBACK")
    except psycopg.Error:
        connection.close()


def _transaction_id(connection: psycopg.Connection[Any]) -> str:
    """Return the number of a transaction; "" if it has changed nothing."""
    row = connection.execute("SELECT pg_current_xact_id_if_assigned()::text AS xid").fetchone()
    return row.xid or "" if row is not None else ""


def _is_committed(connection: LimitedConnection, xid: str, result: T, sent: list[tuple[str, T]]) -> bool:
    """Return True if a transaction was committed although its answer was lost.

    Raises:
        Unavailable: It is not known.
    """
    from psycopg.errors import InvalidParameterValue  # noqa: PLC0415 - optional package

    sent.append((xid, result))
    while True:
        try:
            row = connection.execute("SELECT pg_xact_status(%(xid)s::xid8) AS status", {"xid": xid}).fetchone()
        except InvalidParameterValue:  # a standby has taken over that never saw the transaction
            sent.clear()
            return False
        status = None if row is None else row.status
        if status in {"committed", "aborted"}:
            sent.clear()
            return bool(status == "committed")
        # The server has not noticed the end of the connection yet
        if status is None or time.monotonic() + _PAUSE > connection.deadline:
            raise Unavailable("the database does not say whether a change was made")
        time.sleep(_PAUSE)
