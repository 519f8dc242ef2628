"""WSGI middleware that closes connections whose client stalls in the middle of a request or response.

granian 2.8 limits the time for request headers only: a client that stops in a body, or stops reading a response, holds a
worker thread indefinitely. This module prevents that DoS on Linux; elsewhere the number of threads is the only protection.

A closed connection looks like a truncated body to the application, and the part that arrived is stored. A client that sends
a byte now and then is not stalled and holds its thread; a reverse proxy can require a minimum rate.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment

from attrs import define, field

#: Milliseconds since data was last sent and received: struct tcp_info of linux/tcp.h, which only grows at its end.
_TCP_INFO = struct.Struct("=8x9I I I I")

_State = Literal["reading", "writing", "working"]


@define(eq=False)
class _Call:
    """A request in progress and its state."""

    remote: str
    state: _State = "working"
    since: float = field(factory=time.monotonic)

    def enter(self, state: _State) -> None:
        self.state, self.since = state, time.monotonic()


class StalledConnections:
    """Middleware that closes connections whose client stalls in a request.

    Args:
        application: WSGI application to wrap.
        timeout: Seconds without data in the middle of a request.
    """

    def __init__(self, application: WSGIApplication, timeout: float) -> None:
        self._application = application
        self._timeout = timeout
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()
        self._sockets_configured = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        if not self._sockets_configured:
            self._sockets_configured = True
            self._configure_sockets()
        call = _Call(environ.get("REMOTE_ADDR", ""))
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

    def close_stalled(self) -> int:
        """Close connections that stall in the middle of a request body.

        The server does not report which connection a request uses, so connections are matched by the client's address. An
        address with a request that this process works on, such as a sync of a large file, is skipped. granian closes
        connections between two requests sooner.

        Returns:
            The number of closed connections.
        """
        before = time.monotonic() - self._timeout
        with self._lock:
            old = [call for call in self._calls if call.since < before]
        stalled = {call.remote for call in old if call.state == "reading"}
        stalled -= {call.remote for call in old if call.state == "working"}
        closed = 0
        for connection in _open_sockets() if stalled else ():
            with contextlib.suppress(OSError):
                if connection.getpeername()[0] in stalled and _idle_seconds(connection) >= self._timeout:
                    connection.shutdown(socket.SHUT_RDWR)
                    closed += 1
        return closed

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
            return next(self._chunks)
        finally:
            self._call.enter("writing")

    def close(self) -> None:
        self._finish(self._call)
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


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


def _idle_seconds(connection: socket.socket) -> float:
    """Return the seconds since data was last sent or received."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    *_, sent, _, received = _TCP_INFO.unpack(info)
    return float(min(sent, received)) / 1000
