"""WSGI middleware that announces the end of a connection whose request body was not read completely.

granian closes such a connection. Without the header `Connection: close`, the client sends its next request on it and fails.
WSGI applications must not send this header (PEP 3333, "Handling the Connection header"), but granian passes it on.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from wsgiref.types import InputStream, StartResponse, WSGIApplication, WSGIEnvironment


class CloseUnreadConnection:
    """Middleware that adds `Connection: close` if the request body is not read.

    Args:
        application: WSGI application to wrap.
    """

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Handle one request."""
        length = environ.get("CONTENT_LENGTH", "")
        if not environ.get("HTTP_TRANSFER_ENCODING") and length in {"", "0"}:
            return self._application(environ, start_response)
        body = _CountingBody(environ["wsgi.input"], int(length) if length.isdecimal() else None)
        environ["wsgi.input"] = body

        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            close = [] if body.complete else [("Connection", "close")]
            return start_response(status, [*headers, *close], *exc_info)

        return self._application(environ, start)


class _CountingBody:
    """A request body that records whether it was read completely."""

    def __init__(self, stream: InputStream, remaining: int | None) -> None:
        self._stream = stream
        self._remaining = remaining
        self.complete = False

    def read(self, size: int = -1) -> bytes:
        chunk = self._stream.read(size)
        if self._remaining is not None:
            self._remaining -= len(chunk)
        self.complete = not chunk or self._remaining == 0
        return chunk
