"""Say that a connection ends where it does: granian closes those whose request it didn't read to the end.

A client that isn't told sends its next request on the same connection, and finds it closed. An application may not send
this header, since connections are the server's (PEP 3333, "Handling the Connection header"); granian passes it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


class CloseUnreadConnection:
    """Middleware that announces the end of a connection.

    Args:
        application: what to wrap.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        length = environ.get("CONTENT_LENGTH", "")
        if not environ.get("HTTP_TRANSFER_ENCODING") and length in {"", "0"}:
            return self._application(environ, start_response)
        body = _Body(environ["wsgi.input"], int(length) if length.isdecimal() else None)
        environ["wsgi.input"] = body

        def answering(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            ending = [] if body.over else [("Connection", "close")]
            return start_response(status, [*headers, *ending], *more)

        return self._application(environ, answering)


class _Body:
    """A body that knows whether it was read to its end."""

    def __init__(self, stream: Any, left: int | None) -> None:
        self._stream = stream
        self._left = left
        self.over = False

    def read(self, size: int = -1) -> bytes:
        got: bytes = self._stream.read(size)
        if self._left is not None:
            self._left -= len(got)
        self.over = not got or self._left == 0
        return got
