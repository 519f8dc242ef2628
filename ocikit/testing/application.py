"""A WSGI application behind HTTP on loopback, in a thread of this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from attrs import define

from ocikit.testing.faults import Handler, Incoming, Listener, Script
from ocikit.testing.messages import Response
from ocikit.testing.proxy import ProxyListener

#: A WSGI application. PEP 3333.
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@define(eq=False)
class ApplicationServer(Script):
    """The server of an application, a context manager."""

    application: Wsgi

    def listen(self) -> Listener:
        """Return the listening socket."""
        return ProxyListener(("127.0.0.1", 0), _handler(self.application))


def _handler(application: Wsgi) -> type[Handler]:
    class ApplicationHandler(Handler):
        def serve(self) -> None:
            body = Incoming(self)
            response = Response()

            def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
                response.status = int(status.partition(" ")[0])
                for name, value in headers:
                    response.headers.setdefault(name, []).append(value)

            chunks = application(self.environ(body), start_response)
            try:
                content = iter(chunks)
                first = next(content, b"")
                self.send_head(response)
                self.end_headers()
                for chunk in itertools.chain([first], content):
                    self.wfile.write(chunk)
            finally:
                getattr(chunks, "close", lambda: None)()
            for _ in body.blocks():  # the next request begins after the rest of a rejected body
                pass

        def environ(self, body: Incoming) -> dict[str, Any]:
            path, _, query = self.path.partition("?")
            environ: dict[str, Any] = {
                "REQUEST_METHOD": self.command,
                "SCRIPT_NAME": "",
                "PATH_INFO": unquote(path, encoding="latin-1"),
                "QUERY_STRING": query,
                "SERVER_NAME": "127.0.0.1",
                "SERVER_PORT": str(self.connection.getsockname()[1]),
                "SERVER_PROTOCOL": self.request_version,
                "REMOTE_ADDR": self.client_address[0],
                "wsgi.version": (1, 0),
                "wsgi.url_scheme": "http",
                "wsgi.input": body,
                "wsgi.input_terminated": True,
                "wsgi.multithread": True,
                "wsgi.multiprocess": False,
                "wsgi.run_once": False,
            }
            for name, value in self.headers.items():
                key = name.upper().replace("-", "_")
                key = key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"
                environ[key] = f"{environ[key]},{value}" if key in environ else value
            return environ

    return ApplicationHandler
