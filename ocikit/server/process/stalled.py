"""Connections that move nothing come to an end: a client that stops in the middle of a body holds a thread until then.

A server may read a body with no end to its patience; granian does. So it is the connection that ends: who reads from it
then sees the body cut short, and what came before is kept. On Linux only; elsewhere there are just many threads.

Who sends a byte now and then isn't idle: such a client holds its thread. A proxy in front can ask for a least speed.
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
from typing import Any

from attrs import define, field

#: Milliseconds since data was last sent, and received: struct tcp_info of linux/tcp.h, which only ever grows at its end.
_TCP_INFO = struct.Struct("=8x9I I I I")


@define(eq=False)
class _Call:
    """A request under way, and what it is at."""

    remote: str
    doing: str = "working"
    since: float = field(factory=time.monotonic)

    def now(self, doing: str) -> None:
        self.doing, self.since = doing, time.monotonic()


class StalledConnections:
    """Middleware that knows which requests wait for their clients, and ends those that wait for too long.

    Args:
        application: what to wrap.
        seconds: how long a connection may move nothing in the middle of a request.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]], seconds: float) -> None:
        self._application = application
        self._seconds = seconds
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()
        self._tuned = False

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        if not self._tuned:
            self._tuned = True
            self._tune()
        call = _Call(environ.get("REMOTE_ADDR", ""))
        environ["wsgi.input"] = _Input(environ["wsgi.input"], call)
        with self._lock:
            self._calls.add(call)
        try:
            body = self._application(environ, start_response)
        except BaseException:
            self._over(call)
            raise
        if isinstance(body, list | tuple):
            self._over(call)
            return list(body)  # granian sends a list at once
        return _Output(body, call, self._over)

    def close_stalled(self) -> int:
        """End connections that have moved nothing for too long in the middle of a body; gives how many.

        A server doesn't tell which connection a request came by. But one that is idle for so long is either stalled, or
        waits for us to do something long, such as syncing a large file: then nothing is done to that client yet.
        Those between two requests are closed by the server sooner.
        """
        before = time.monotonic() - self._seconds
        with self._lock:
            old = [call for call in self._calls if call.since < before]
        stalled = {call.remote for call in old if call.doing == "reading"}
        stalled -= {call.remote for call in old if call.doing == "working"}
        ended = 0
        for connection in _sockets() if stalled else ():
            with contextlib.suppress(OSError):
                if connection.getpeername()[0] in stalled and _idle(connection) >= self._seconds:
                    connection.shutdown(socket.SHUT_RDWR)
                    ended += 1
        return ended

    def _tune(self) -> None:
        """Connections inherit from the socket that accepts them: the system ends those whose other end is gone or stuck."""
        whole = max(int(self._seconds), 1)
        for listening in _sockets():
            with contextlib.suppress(OSError):
                if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, max(whole // 2, 1))
                    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(whole // 6, 1))
                    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
                    # For clients that ask for a blob and don't take it: tcp(7)
                    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, whole * 1000)

    def _over(self, call: _Call) -> None:
        with self._lock:
            self._calls.discard(call)


class _Input:
    """A body; it says when somebody waits for it."""

    def __init__(self, stream: Any, call: _Call) -> None:
        self._stream = stream
        self._call = call

    def read(self, size: int = -1) -> bytes:
        self._call.now("reading")
        try:
            got: bytes = self._stream.read(size)
        finally:
            self._call.now("working")
        return got

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Output:
    """A response; it says when it waits to be taken."""

    def __init__(self, body: Iterable[bytes], call: _Call, over: Callable[[_Call], None]) -> None:
        self._body = body
        self._pieces = iter(body)
        self._call = call
        self._over = over

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._call.now("working")
        try:
            return next(self._pieces)
        finally:
            self._call.now("writing")

    def close(self) -> None:
        self._over(self._call)
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _sockets() -> Iterator[socket.socket]:
    """This process's TCP sockets. Each is a copy: closing it closes nothing else, and it can't become another's."""
    if sys.platform != "linux":
        return
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        # A container without it: then there are just many threads, as elsewhere
        return
    for name in names:
        try:
            if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                continue
            fd = os.dup(int(name))
            if not stat.S_ISSOCK(os.fstat(fd).st_mode):
                # Another file by now. Not to be closed: if it is the database, that lets go of its locks, fcntl_locking(2)
                continue
        except OSError:
            continue
        try:
            found = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        with found:
            if found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM:
                yield found


def _idle(connection: socket.socket) -> float:
    """Seconds since data came or went."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    *_, sent, _, received = _TCP_INFO.unpack(info)
    return float(min(sent, received)) / 1000
