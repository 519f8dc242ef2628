"""Connections to PostgreSQL with a limit of time, and their pool."""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

import psycopg
from attrs import define, field
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import namedtuple_row

from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.sqlstates import reason

R = TypeVar("R")

_IDLE = psycopg.pq.TransactionStatus.IDLE

_log = logging.getLogger("ocikit.server")

#: Seconds that a request waits for a free connection.
_POOL_TIMEOUT = 5.0

#: Seconds after which a connection is replaced: connections spread over servers that were added, and the memory of a session that has
#: prepared many statements is freed.
_LIFETIME = 1800.0

#: Seconds between two attempts to connect while the database is away. More would keep clients waiting after its return; fewer
#: would be a storm of logins.
_PROBE_INTERVAL = 0.5

#: Seconds in which a statement of this process must have succeeded, so that a thread waits for its connection when the server
#: accepts no further one; and the pause between two looks.
_RECENT, _PAUSE = 1.0, 0.03

#: Seconds to connect, at most.
_CONNECT_TIMEOUT = 3

#: Parameters of libpq. The kernel ends connections whose data the peer does not
#: acknowledge; `LimitedConnection` ends those whose peer acknowledges and is silent.
_PARAMETERS: dict[str, Any] = {
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "application_name": "ocikit",
}


class LimitedConnection(psycopg.Connection[Any]):
    """A connection whose statements fail at a deadline, also if the server is silent."""

    deadline: float = math.inf
    """Time of `time.monotonic` at which a statement fails and the connection is closed."""
    generation: int = 0
    """The generation of its pool."""
    expires: float = math.inf
    """Time of `time.monotonic` at which it is replaced."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Run a step of the protocol.

        Raises:
            ConnectionTimeout: The deadline has passed; the connection is closed.
        """
        limited = _limited(gen, self.deadline)
        try:
            return super().wait(limited, interval)
        except psycopg.errors.ConnectionTimeout:
            limited.close()
            self.close()
            raise


def _limited(steps: Generator[Any, Any, R], deadline: float) -> Generator[Any, Any, R]:
    """Yield what a generator of the driver waits for, until a deadline.

    The driver resumes it ten times a second at least.

    Raises:
        ConnectionTimeout: The deadline has passed.
    """
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if time.monotonic() > deadline:
                raise psycopg.errors.ConnectionTimeout("no answer within the limit of time")
            wanted = steps.send(ready)
    except StopIteration as end:
        result: R = end.value
        return result


@define(eq=False)
class _Gate:
    """Lets one thread at a time find out whether a database that was away is back; all others fail at once."""

    since: float | None = None
    """When the database has answered last, or when the first attempt to connect failed."""
    due: float = 0.0
    """When the next attempt may begin."""
    last: str = ""
    """The reason of the last failure."""
    lock: threading.Lock = field(factory=threading.Lock, repr=False)

    @property
    def closed(self) -> bool:
        """True while the database is away and no attempt is due."""
        return self.since is not None and time.monotonic() < self.due

    def enter(self) -> None:
        """Begin an attempt to connect.

        Raises:
            Unavailable: The database is away, and an attempt was made a moment ago.
        """
        with self.lock:
            if self.closed:
                raise away(self.last)
            self.due = time.monotonic() + _PROBE_INTERVAL

    def failed(self, why: str, *, worked: float) -> None:
        with self.lock:
            first, self.last = self.since is None, why
            now = time.monotonic()
            if self.since is None:
                self.since = now if math.isinf(worked) else worked
            self.due = now + _PROBE_INTERVAL
        if first:
            _log.error("the database cannot be reached: %s", why)

    def passed(self) -> None:
        if self.since is None:
            return
        with self.lock:
            since, self.since = self.since, None
        if since is not None:
            _log.warning("the database is back; its last answer was %.1f s ago", time.monotonic() - since)


def away(why: str) -> Unavailable:
    """Return an error for clients, who try again at different times."""
    retry_after = 1 + random.random() * 2  # noqa: S311 - jitter
    return Unavailable(f"the database does not answer: {why}", retry_after=retry_after)


class _Slots:
    """A count of connections that threads get in the order of their requests.

    A semaphore wakes a thread and lets another one be faster: under load, threads would wait until their limit of time.

    Args:
        size: The count.
    """

    def __init__(self, size: int) -> None:
        self.free = size
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()

    def take(self, seconds: float) -> bool:
        """Wait for a slot; return False if none became free in time."""
        turn = threading.Lock()
        with self._lock:
            if self.free:
                self.free -= 1
                return True
            turn.acquire(blocking=False)
            self._waiting.append(turn)
        try:
            if turn.acquire(timeout=max(0.0, seconds)):
                return True
        except BaseException:  # Ctrl-C
            if not self._leave(turn):
                self.give()
            raise
        return not self._leave(turn)

    def give(self) -> None:
        """Give a slot to the thread that waits longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self.free += 1

    def _leave(self, turn: threading.Lock) -> bool:
        """Stop to wait; return False if the slot was given a moment ago."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(turn)
            return True
        return False


class ConnectionPool:
    """The connections of a process; the one that was returned last is lent first.

    Args:
        conninfo: Connection string or URL of libpq.
        size: Connections at most.
        options: Settings of the session, for the parameter `options`; "" for poolers that do not accept it.
        prepare: Whether repeated statements are prepared.
    """

    def __init__(self, conninfo: str, *, size: int, options: str, prepare: bool) -> None:
        self.size = size
        self._conninfo = conninfo
        self._user = str(conninfo_to_dict(conninfo).get("user") or "")
        self._parameters = _PARAMETERS | ({"options": options} if options else {})
        self._threshold = 5 if prepare else None
        self._gate = _Gate()
        self._worked = -math.inf
        self._slots = _Slots(size)
        self._lock = threading.Lock()
        self._idle: list[LimitedConnection] = []
        self._generation = 0

    @property
    def in_use(self) -> int:
        """The number of connections that threads use or make now."""
        return self.size - self._slots.free

    @contextlib.contextmanager
    def lend(self, deadline: float) -> Iterator[LimitedConnection]:
        """Lend a connection until the end of the block; one that is not idle then is closed.

        Args:
            deadline: Time of `time.monotonic` at which its statements fail.

        Raises:
            Unavailable: All connections are in use, or the database cannot be reached.
        """
        if self._gate.closed and not self._works():
            raise away(self._gate.last)
        now = time.monotonic()
        if not self._slots.take(min(_POOL_TIMEOUT, deadline - now)):
            raise away("all connections of this process are in use")
        try:
            connection = self._take(deadline, min(deadline, now + _POOL_TIMEOUT))
            connection.deadline = deadline
            try:
                yield connection
            finally:
                self._return(connection)
        finally:
            self._slots.give()

    def renew(self) -> None:
        """Close the idle connections, and those in use when they are returned."""
        with self._lock:
            self._generation += 1
            old, self._idle = self._idle, []
        for connection in old:
            connection.close()

    def failure(self, error: psycopg.Error) -> Unavailable:
        """Return an error for clients: its reason has no parameters and no user name."""
        return away(self._reason(error))

    def _reason(self, error: psycopg.Error) -> str:
        return reason(error.sqlstate, str(error), user=self._user)

    def _take(self, deadline: float, until: float) -> LimitedConnection:
        while True:
            with contextlib.suppress(IndexError):
                return self._idle.pop()
            try:
                return self._connect(deadline)
            except psycopg.Error as error:
                failure = self.failure(error)
            except Unavailable as error:
                failure = error
            # The server accepts no further connection, but others of this process work: wait for one of them
            if not self._works() or time.monotonic() + _PAUSE > until:
                raise failure
            time.sleep(_PAUSE)

    def _return(self, connection: LimitedConnection) -> None:
        now = time.monotonic()
        if not connection.closed and connection.pgconn.transaction_status == _IDLE:
            self._worked = now
            with self._lock:
                if connection.generation == self._generation and now < connection.expires:
                    self._idle.append(connection)
                    return
        connection.close()

    def _works(self) -> bool:
        return self._worked > time.monotonic() - _RECENT

    def _connect(self, deadline: float) -> LimitedConnection:
        self._gate.enter()
        generation, now = self._generation, time.monotonic()
        try:
            connection = LimitedConnection.connect(
                self._conninfo,
                autocommit=True,
                row_factory=namedtuple_row,
                prepare_threshold=self._threshold,
                # Includes TLS and authentication; the driver accepts whole seconds from 2 on
                connect_timeout=max(2, min(_CONNECT_TIMEOUT, int(deadline - now))),
                **self._parameters,
            )
        except psycopg.Error as error:
            self._gate.failed(self._reason(error), worked=self._worked)
            raise
        self._gate.passed()
        connection.generation, connection.expires = generation, now + _LIFETIME
        return connection
