"""Deadlines that hold for every byte of a request, not only between attempts.

A socket timeout restarts with each byte. A server that sends one byte at a time could hold a call indefinitely (DoS).
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from contextvars import ContextVar
from typing import Any, BinaryIO

from ocikit.remote.http.framing import InvalidFraming, StrictResponse
from ocikit.remote.http.request import BodyStream

_READALL_LIMIT = 64 << 20  # maximum bytes that a library may read at once

_current: ContextVar[float | None] = ContextVar("deadline", default=None)


class TooSlow(TimeoutError):
    """Bytes were sent or received, but not all of them before the deadline."""


class deadline_scope:  # noqa: N801 - used as a function; a generator costs three times as much, for each request
    """A block whose requests end at a deadline, or at an earlier enclosing one."""

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._token = _current.set(_earlier(self._deadline, _current.get()))

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def current_deadline() -> float | None:
    """Return the deadline of this thread, or None if there is no limit."""
    return _current.get()


def _earlier(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


class Response(StrictResponse):
    """A response that must arrive before the deadline that was current at its start."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        self.reader = _DeadlineReader(sock)
        super().__init__(self.reader, *args, **kwargs)  # type: ignore[arg-type]  # it only calls makefile()

    def begin(self) -> None:
        """Read the status and the headers, within one read timeout after their first byte.

        Raises:
            TooSlow: They took longer.
            InvalidFraming: See `StrictResponse`.
        """
        deadline, self.reader.in_head = self.reader.deadline, True
        super().begin()
        self.reader.deadline, self.reader.in_head = deadline, False


def limit_remaining_time(body: Any, seconds: float, *, extend: bool = False) -> None:
    """Limit the time for the rest of a body.

    Does nothing for a response of another adapter, which has its own limits.

    Args:
        body: Response of http.client.
        seconds: Time for the rest.
        extend: Add one read timeout to the time.
    """
    if isinstance(body, Response):
        reader = body.reader
        extra = reader.read_timeout if extend else 0.0
        reader.deadline = _earlier(time.monotonic() + seconds + extra, reader.deadline)


def interrupt(body: Any) -> None:
    """End the read of a body that another thread waits in; that thread gets the end of the stream.

    Closing the response would wait for the read. Does nothing for a response of another adapter.

    Args:
        body: Response of http.client.
    """
    if isinstance(body, Response):
        body.reader.interrupt()


class _DeadlineReader(io.RawIOBase):
    """The reading side of a socket; each read gets the remaining time at most."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self.read_timeout = sock.gettimeout() or 3600.0  # seconds without data
        self.deadline = current_deadline()
        self.in_head = False
        """Whether the next bytes are the first ones of a response."""

    def makefile(self, *_: object) -> BinaryIO:
        """Return the file that http.client requests from a socket."""
        return io.BufferedReader(self)

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer from the socket.

        Raises:
            TooSlow: The deadline has passed.
            TimeoutError: No data arrived within the read timeout.
        """
        if self.in_head:
            n = self._read(buffer)
            self.in_head, self.deadline = False, _earlier(time.monotonic() + self.read_timeout, self.deadline)
            return n
        return self._read(buffer)

    def _read(self, buffer: memoryview) -> int | None:
        if self.deadline is None:
            return self._file.readinto(buffer)
        left = self.deadline - time.monotonic()
        if left > 0:
            self._sock.settimeout(min(left, self.read_timeout))
            try:
                return self._file.readinto(buffer)
            except TimeoutError:
                if left > self.read_timeout:
                    raise
        raise TooSlow("the response took too long as a whole")

    def interrupt(self) -> None:
        """End a read in another thread."""
        with contextlib.suppress(OSError, TypeError):  # TLS within the TLS of a proxy has no socket of its own
            # Not the method of TLS sockets: it would let the other thread read on without decryption
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def readall(self) -> bytes:
        """Read to the end of the connection; ocikit itself reads a limited number of bytes.

        Raises:
            InvalidFraming: The body has no length and is over 64 MiB.
        """
        content = bytearray()
        while chunk := self.read(1 << 16):
            content += chunk
            if len(content) > _READALL_LIMIT:
                raise InvalidFraming(f"a body without a length exceeds {_READALL_LIMIT} bytes")
        return bytes(content)

    def readable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the file of the socket; the connection may keep the socket open."""
        if not self.closed:
            self._file.close()
        super().close()


class TimedBody:
    """A request body that stops at the deadline, however slowly the server reads it."""

    def __init__(self, body: BodyStream, deadline: float) -> None:
        self._body = body
        self._deadline = deadline

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes.

        Raises:
            TooSlow: The deadline has passed.
        """
        if time.monotonic() > self._deadline:
            raise TooSlow("the request took too long as a whole")
        return self._body.read(size)
