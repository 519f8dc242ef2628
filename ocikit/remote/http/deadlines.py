"""When what is under way has to be done: a limit that holds for every byte, not only between tries.

A timeout of a socket counts from the last byte: a server that sends one now and then could hold a call for ever.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, BinaryIO

_current: ContextVar[float | None] = ContextVar("deadline", default=None)


class TooSlow(TimeoutError):
    """Bytes came or went, but not in the time that there was for all of them."""


@contextmanager
def deadline_scope(deadline: float | None) -> Iterator[None]:
    """Within it, requests end at the deadline, by the monotonic clock, or at an earlier one around it."""
    token = _current.set(_earlier(deadline, _current.get()))
    try:
        yield
    finally:
        _current.reset(token)


def current_deadline() -> float | None:
    """The deadline of this thread; None: there is no limit."""
    return _current.get()


def _earlier(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else min(one, other)


class Response(http.client.HTTPResponse):
    """An answer whose headers and body have to be there by the deadline that held when it began."""

    def __init__(self, sock: Any, *args: Any, **more: Any) -> None:
        self._reader = _Reader(sock)
        super().__init__(self._reader, *args, **more)  # type: ignore[arg-type]  # it only asks for a file

    def hurry(self, deadline: float) -> None:
        """Have the rest of the body end by then, if not earlier."""
        self._reader.deadline = _earlier(deadline, self._reader.deadline)

    @property
    def patience(self) -> float:
        """Seconds without a byte."""
        return self._reader.patience


def limit_remaining_time(raw: Any, seconds: float, *, patience: bool = False) -> None:
    """Give a body of urllib3's so many seconds; with `patience`, as many more as it may be silent.

    Nothing happens if it came through someone else's adapter: that has limits of its own.
    """
    inner = getattr(raw, "_fp", None)
    if isinstance(inner, Response):
        inner.hurry(time.monotonic() + seconds + (inner.patience if patience else 0.0))


class _Reader(io.RawIOBase):
    """A socket's reading side; each read has what is left of the time, at most."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._file = sock.makefile("rb", buffering=0)
        self.patience = sock.gettimeout() or 3600.0
        self.deadline = current_deadline()

    def makefile(self, *_: Any) -> BinaryIO:
        """The file that http.client asks a socket for."""
        return io.BufferedReader(self)

    def readinto(self, buffer: Any) -> int | None:
        """As a socket's. Raises: TooSlow, TimeoutError."""
        if self.deadline is None:
            return self._file.readinto(buffer)  # type: ignore[no-any-return]
        left = self.deadline - time.monotonic()
        if left > 0:
            self._sock.settimeout(min(left, self.patience))
            try:
                return self._file.readinto(buffer)  # type: ignore[no-any-return]
            except TimeoutError:
                if left > self.patience:
                    raise
        raise TooSlow("the answer took too long as a whole")

    def readable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Close the socket's file; the socket goes on as long as its connection wants it."""
        if not self.closed:
            self._file.close()
        super().close()


class Timed:
    """A body on its way that stops at the deadline, however slowly it is taken."""

    def __init__(self, body: BinaryIO, deadline: float) -> None:
        self._body = body
        self._deadline = deadline

    def read(self, size: int = -1, /) -> bytes:
        """Bytes, at most `size`. Raises: TooSlow."""
        if time.monotonic() > self._deadline:
            raise TooSlow("the request took too long as a whole")
        return self._body.read(size)
