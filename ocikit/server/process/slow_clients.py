"""WSGI middleware that limits what slow clients hold: threads, connections and time.

A request holds a thread of the worker while its body arrives or its blob is sent. This module prevents four DoS attacks:

- A client that stops, or sends a byte now and then, in a small body (a form, a manifest, a rejected body): the body has a
  deadline of seconds, which the endpoint sets.
- The same in a blob, in either direction: a transfer must move `MINIMUM_RATE` bytes a second on average.
- Many connections of one address: an address gets a share of the threads that wait for clients and of the connections. The
  share shrinks with the number of free threads, so that others always find one.
- Many addresses: some threads never wait for a client, and answer requests without a body. While few threads are free, the
  rate is measured over a shorter period.

The server does not report which connection a request uses. On Linux, connections are therefore matched by the client's
address and the kernel's counters, and the slowest are closed first. Elsewhere the shares are the only protection. A closed
connection looks like a truncated body to the application, and the part that arrived is stored.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from attrs import define, field, frozen

from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import is_trusted
from ocikit.server.http.transfer import TRANSFER, client_key
from ocikit.server.storage.base import Unavailable

#: Bytes a second that a blob's transfer must move on average.
MINIMUM_RATE = 1024

#: Seconds between two checks.
CHECK_INTERVAL = 1.0

#: The part of the threads that never wait for a client.
_NEVER_WAITING = 1 / 8

#: One address holds at most this many times the number of free threads, two thirds of all if it is alone.
_SHARE = 2

#: The period over which rates are measured while few threads are free [seconds].
_BUSY_PERIOD = 10.0

#: Seconds after which a client may try again.
_RETRY_AFTER = 5

#: Seconds over which the rate of a connection is measured.
_MEASURED = 4.0

#: Milliseconds since data was last sent and received, and bytes acknowledged and received: struct tcp_info of linux/tcp.h,
#: which only grows at its end.
_TCP_INFO = struct.Struct("=44xI4xI64xQQ")

_State = Literal["reading", "writing", "working"]


@define(eq=False)
class _Call:
    """A request in progress: a `Transfer` and its state."""

    peer: str
    """Address of the connection, which may be a proxy's."""
    threads: _Threads = field(repr=False)
    state: _State = "working"
    since: float = field(factory=time.monotonic)
    """Time of the last change of the state."""
    holder: str | None = None
    """The client that holds a thread for waits; None if none is reserved."""
    deadline: float = math.inf
    """Time at which the whole body must have arrived."""
    measured: float = field(factory=time.monotonic)
    """Start of the period over which the rate is measured."""
    moved: int = 0
    """Bytes since then."""

    def enter(self, state: _State) -> None:
        self.state, self.since = state, time.monotonic()

    def begin(self, client: str) -> None:
        """Reserve a thread for waits."""
        if self.holder is None:
            self.holder = self.threads.reserve(client_key(client))
            self.measured = time.monotonic()

    def set_deadline(self, seconds: float) -> None:
        """Limit the time until the whole body has arrived."""
        self.deadline = time.monotonic() + seconds

    def may_become_slow(self, now: float, period: float) -> bool:
        """Return True if the rate of the client's connections is needed soon."""
        early = now + 2 * _MEASURED
        return self.state != "working" and (early > self.deadline or early - self.measured > period)

    def slowness(self, now: float, period: float) -> float | None:
        """Return the rate [bytes a second] that the slow client stays below; None if the client is not slow."""
        if self.state == "reading" and now > self.deadline:
            return math.inf
        if now - self.measured < period:
            return None
        if self.moved < MINIMUM_RATE * period:
            return MINIMUM_RATE if self.state != "working" else None
        self.measured, self.moved = now, 0
        return None


class _Threads:
    """The threads that wait for clients, by client.

    Args:
        number: Number of all threads.
    """

    def __init__(self, number: int) -> None:
        self._number = self._free = max(number - math.ceil(number * _NEVER_WAITING), 1)
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def scarce(self) -> bool:
        """True if few threads are free."""
        return self._free < self._number * _NEVER_WAITING

    def reserve(self, client: str) -> str:
        """Reserve a thread for a client and return the client.

        Raises:
            ErrorResponse: 429 if the client holds its share; 503 if all threads wait.
        """
        retry = (("Retry-After", str(_RETRY_AFTER)),)
        with self._lock:
            if not self._free:
                raise ErrorResponse(503, "UNKNOWN", "the registry is busy; try again in a few seconds", headers=retry)
            if self._held[client] >= max(_SHARE * self._free, 1):
                raise ErrorResponse(
                    429,
                    "TOOMANYREQUESTS",
                    "too many transfers from this address are in progress; try again in a few seconds",
                    headers=retry,
                )
            self._free -= 1
            self._held[client] += 1
        return client

    def release(self, client: str) -> None:
        """Release a thread that a client holds."""
        with self._lock:
            self._free += 1
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]


@frozen
class _Connection:
    """A connection of the process."""

    peer: tuple[str, int]
    """Address and port."""
    idle: float
    """Seconds since data was last sent or received."""
    moved: int
    """Bytes received, and sent and acknowledged, since the connection exists."""


class SlowClients:
    """Middleware that limits what slow clients hold.

    Args:
        application: WSGI application to wrap.
        timeout: Seconds without data in the middle of a transfer; also the period over which its rate is measured.
        threads: Number of the worker's threads.
        connections: Connections of one address; further ones are closed.
        proxies: Addresses and networks of proxies, which may have any number of connections.
        port: Port that the process listens on; None for connections of any port. The process has connections of its own too, such
            as to a database on the machine of a client or proxy.
    """

    def __init__(
        self,
        application: WSGIApplication,
        timeout: float,
        *,
        threads: int = 512,
        connections: int = 2048,
        proxies: Sequence[str] = (),
        port: int | None = None,
    ) -> None:
        self._application = application
        self._timeout = timeout
        self._threads = _Threads(threads)
        self._connections = connections
        self._proxies = tuple(proxies)
        self._port = port
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()
        self._sockets_configured = False
        self._samples: dict[tuple[str, int], tuple[float, int]] = {}
        """Time, and bytes moved at that time, by connection of a client that may be slow."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        if not self._sockets_configured:
            self._sockets_configured = True
            self._configure_sockets()
        call = _Call(environ.get("REMOTE_ADDR", ""), self._threads)
        environ[TRANSFER] = call
        environ["wsgi.input"] = _TrackedInput(environ["wsgi.input"], call)
        with self._lock:
            self._calls.add(call)
        try:
            body = self._application(environ, start_response)
        except BaseException:
            self._finish(call)
            raise
        if isinstance(body, list | tuple):
            self._finish(call)
            return list(body)  # granian sends a list without further calls
        return _TrackedOutput(body, call, self._finish)

    def close_slow(self) -> int:
        """Close the connections of slow clients, and of addresses with too many connections.

        granian closes connections between two requests sooner.

        Returns:
            The number of closed connections.
        """
        return self._close_slow_transfers() + self._close_surplus()

    def close_all(self) -> int:
        """Close the connections of all clients in the middle of a request; return their number.

        Each request ends then as if its client had left.
        """
        with self._lock:
            peers = {call.peer for call in self._calls}
        return (
            _close_connections({connection.peer for connection in _open_connections(peers, self._port)}) if peers else 0
        )

    def _close_slow_transfers(self) -> int:
        """Close the slowest connections of each address, as many as it has slow transfers.

        An address with a request that this process works on, such as a sync of a large file, is skipped: the connection of
        that request looks idle too.
        """
        now = time.monotonic()
        period = min(self._timeout, _BUSY_PERIOD) if self._threads.scarce else self._timeout
        with self._lock:
            calls = list(self._calls)
        slow: dict[str, list[float]] = {}
        for call in calls:
            if (rate := call.slowness(now, period)) is not None:
                slow.setdefault(call.peer, []).append(rate)
        for call in calls:
            if call.state == "working" and call.since < now - CHECK_INTERVAL:
                slow.pop(call.peer, None)
        sampled = slow.keys() | {call.peer for call in calls if call.may_become_slow(now, period)}
        if not sampled:
            self._samples.clear()
            return 0
        candidates: dict[str, list[tuple[float, _Connection]]] = {}
        for connection in _open_connections(sampled, self._port):
            rate = self._rate(connection, now, period)
            if rate is not None and rate < max(slow.get(connection.peer[0], ()), default=0):
                candidates.setdefault(connection.peer[0], []).append((rate, connection))
        chosen: set[tuple[str, int]] = set()
        for peer, found in candidates.items():
            found.sort(key=lambda item: (item[0], -item[1].idle))
            chosen.update(connection.peer for _, connection in found[: len(slow[peer])])
        return _close_connections(chosen)

    def _rate(self, connection: _Connection, now: float, period: float) -> float | None:
        """Return the bytes that a connection moved in a second; None until that is known."""
        if connection.idle >= period:
            return 0.0
        since, moved = self._samples.setdefault(connection.peer, (now, connection.moved))
        if now - since < min(_MEASURED, period):
            return None
        if now - since > 2 * _MEASURED:
            self._samples[connection.peer] = now, connection.moved
        return (connection.moved - moved) / (now - since)

    def _close_surplus(self) -> int:
        """Close the connections that are idle for longest, of addresses with too many."""
        try:
            if len(os.listdir("/proc/self/fd")) <= self._connections:
                return 0
        except OSError:
            return 0
        clients: dict[str, list[_Connection]] = {}
        for connection in _open_connections(None, self._port):
            if not is_trusted(connection.peer[0], self._proxies):
                clients.setdefault(client_key(connection.peer[0]), []).append(connection)
        chosen: set[tuple[str, int]] = set()
        for connections in clients.values():
            connections.sort(key=lambda connection: -connection.idle)
            surplus = max(len(connections) - self._connections, 0)
            chosen.update(connection.peer for connection in connections[:surplus])
        return _close_connections(chosen)

    def _configure_sockets(self) -> None:
        """Set kernel timeouts on the listening socket; accepted connections inherit them."""
        seconds = max(int(self._timeout), 1)
        for listener in _open_sockets():
            with contextlib.suppress(OSError):
                if listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(seconds // 2, 1))
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(seconds // 6, 1))
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
                    # For clients that request a blob and do not read it, tcp(7)
                    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, seconds * 1000)

    def _finish(self, call: _Call) -> None:
        with self._lock:
            self._calls.discard(call)
            holder, call.holder = call.holder, None
        if holder is not None:
            self._threads.release(holder)


class _TrackedInput:
    """A request body that records when the application waits for it."""

    def __init__(self, stream: InputStream, call: _Call) -> None:
        self._stream = stream
        self._call = call

    def read(self, size: int = -1) -> bytes:
        self._call.enter("reading")
        try:
            chunk = self._stream.read(size)
        finally:
            self._call.enter("working")
        self._call.moved += len(chunk)
        return chunk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _TrackedOutput:
    """A response body that records when it waits for the client."""

    def __init__(self, body: Iterable[bytes], call: _Call, finish: Callable[[_Call], None]) -> None:
        self._body = body
        self._chunks = iter(body)
        self._call = call
        self._finish = finish

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._call.enter("working")
        try:
            chunk = next(self._chunks)
        except Unavailable as error:
            # granian closes the connection of a body that is shorter than its Content-Length. It would log a traceback of
            # any other exception, for each request of an outage; the application has logged a line
            raise StopIteration from error
        finally:
            self._call.enter("writing")
        self._call.moved += len(chunk)
        return chunk

    def close(self) -> None:
        self._finish(self._call)
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _open_connections(peers: Iterable[str] | None, port: int | None) -> Iterator[_Connection]:
    """Yield the connections that some addresses have to a port; None for all."""
    for connection in _open_sockets():
        try:
            if port is not None and connection.getsockname()[1] != port:
                continue
            peer = connection.getpeername()[:2]
            if peers is not None and peer[0] not in peers:
                continue
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:  # a listening socket, or closed in the meantime
            continue
        if len(info) == _TCP_INFO.size:
            sent, received, bytes_acked, bytes_received = _TCP_INFO.unpack(info)
            yield _Connection(peer, min(sent, received) / 1000, bytes_acked + bytes_received)


def _close_connections(peers: set[tuple[str, int]]) -> int:
    """Close connections by address and port, in both directions; return their number."""
    closed = 0
    for connection in _open_sockets() if peers else ():
        with contextlib.suppress(OSError):
            if connection.getpeername()[:2] in peers:
                connection.shutdown(socket.SHUT_RDWR)
                closed += 1
    return closed


def _open_sockets() -> Iterator[socket.socket]:
    """Yield duplicates of all TCP sockets of this process; closing one is harmless."""
    if sys.platform != "linux":
        return
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        # A container may lack /proc; then stalled connections stay open, as on other platforms
        return
    for name in names:
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            fd = os.dup(int(name))
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                # The number was reused for a file in the meantime. Leave the duplicate open: if the file is the database,
                # closing any descriptor of it releases the locks, fcntl_locking(2)
                continue
        except OSError:
            continue
        try:
            duplicate = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        with duplicate:
            if duplicate.family in {socket.AF_INET, socket.AF_INET6} and duplicate.type == socket.SOCK_STREAM:
                yield duplicate
