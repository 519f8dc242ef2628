"""Servers on loopback with scripted faults, which record their requests."""

from __future__ import annotations

import gzip
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from attrs import define, field

from ocikit.testing.messages import Request, Response
from ocikit.waits import UNLIMITED

#: Bytes that are read at once.
BLOCK = 1 << 16

#: Bytes of a chunk, for responses that a fault sends in chunks.
_CHUNK = 1000


@define(kw_only=True)
class Fault:
    """One scripted fault; see `Script.on`.

    Example:
        >>> from ocikit.testing import Fault, Request
        >>> fault = Fault(method="GET", path="/v2/.*", status=503, times=2)
        >>> fault.suits(Request("GET", "/v2/ada/notes/tags/list?n=10", {}, b""))
        True
    """

    method: str
    path: str
    times: int | None = 1
    fired: int = 0
    """The number of requests that had this fault."""
    when: Callable[[Request], bool] | None = None
    status: int | None = None
    headers: Mapping[str, Any] = field(factory=dict)
    without: tuple[str, ...] = ()
    body: bytes | None = None
    change: Callable[[Request, Response], Response | None] | None = None
    corrupt: bool = False
    cut: int | None = None
    cut_request: int | None = None
    drop: str = ""
    reset: bool = False
    stall: float = 0.0
    delay: float = 0.0
    length: int | None = None
    chunked: bool = False
    gzip: bool = False
    throttle: float = 0.0
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False, eq=False)

    def suits(self, request: Request) -> bool:
        """Return True if the fault is for this request and is not used up.

        Args:
            request: A request to the server.

        Example:
            >>> from ocikit.testing import Fault, Request
            >>> Fault(method="PUT", path=".*").suits(Request("GET", "/v2/", {}, b""))
            False
        """
        named = re.fullmatch(self.method, request.method) and re.fullmatch(self.path, request.path)
        return bool(self.times != 0 and named and (self.when is None or self.when(request)))

    def claim(self, request: Request) -> bool:
        """Count the fault and return True if it is for this request and is not used up.

        Args:
            request: A request to the server.

        Example:
            >>> from ocikit.testing import Fault, Request
            >>> fault, request = Fault(method=".*", path=".*", times=1), Request("GET", "/v2/", {}, b"")
            >>> fault.claim(request), fault.claim(request), fault.fired
            (True, False, 1)
        """
        with self._lock:
            if not self.suits(request):
                return False
            self.fired += 1
            self.times = None if self.times is None else self.times - 1
            return True

    def damage(self, body: bytes) -> bytes:
        """Return a body with one changed bit if the fault corrupts content.

        Args:
            body: The body of a response, or its first bytes.

        Example:
            >>> from ocikit.testing import Fault
            >>> Fault(method=".*", path=".*", corrupt=True).damage(b"abc")
            b'`bc'
        """
        return bytes([body[0] ^ 1]) + body[1:] if self.corrupt and body else body


class Listener(ThreadingHTTPServer):
    """The listening socket of a server, with one thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self.closing = threading.Event()
        self._connections: set[Any] = set()
        super().__init__(*args)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def start(self, name: str) -> None:
        """Accept connections in a thread of that name."""
        self._thread.name = name
        self._thread.start()

    def stop(self) -> None:
        """Close all connections and end the thread."""
        self.shutdown()
        self.server_close()
        self._thread.join(timeout=UNLIMITED)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection after its last request."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the socket and all connections. Delays and stalls end at once."""
        self.closing.set()
        super().server_close()
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@define(eq=False, slots=False)
class Script:
    """A server on a free loopback port with scripted faults, which records its requests. Subclasses implement `listen`."""

    bind: int = field(default=0, kw_only=True, repr=False)
    """The port to listen on; 0 is a free one."""
    guard: Callable[[Request], Response | None] | None = field(default=None, init=False, repr=False)
    """It is called first. A `Response` from it is sent instead, such as a 401."""
    requests: list[Request] = field(factory=list, init=False, repr=False)
    faults: list[Fault] = field(factory=list, init=False, repr=False)
    _lock: threading.RLock = field(factory=threading.RLock, init=False, repr=False)
    _server: Listener = field(init=False, repr=False)

    def listen(self) -> Listener:
        """Return the listening socket."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._server = self.listen()
        self._server.start(type(self).__name__)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def port(self) -> int:
        """The port."""
        return self._server.server_port

    @property
    def host(self) -> str:
        """The address with the port, such as "127.0.0.1:40123"."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The origin, such as "http://127.0.0.1:40123"."""
        return f"http://{self.host}"

    def on(self, method: str, path: str, **fault: Any) -> Fault:
        """Script a fault for the next request that matches. The newest fault is tried first.

        Args:
            method: A regular expression for the whole method.
            path: A regular expression for the whole path without the query.
            fault: Fields of the fault.
                `times`: Number of requests; None is all.
                `when`: Another condition on the request.
                `status`: Send this status with `headers` and `body`, without calling the registry.
                `headers`, `without`, `body`: Without `status`, these change the registry's response.
                `change`: Called with request and response, and may replace the response.
                `corrupt`: Change one bit of the response body.
                `cut`: Bytes of the response body after which the connection ends, after `stall` seconds.
                `cut_request`: Bytes of the request body that are read or forwarded before the connection ends.
                `drop`: "before" closes the connection without processing, "after" instead of a response.
                `reset`: Close connections with a TCP reset.
                `delay`: Seconds before the response.
                `throttle`: Bytes a second, for a proxy only.
                `length`: The `Content-Length` to claim.
                `chunked`, `gzip`: The framing of the body.

        Returns:
            The fault. Its `fired` counts the requests that had it.
        """
        made = Fault(method=method, path=path, **fault)
        self.faults.insert(0, made)
        return made

    def seen(self, method: str = ".*", path: str = ".*") -> list[Request]:
        """Return the recorded requests that match regular expressions for method and path."""
        return [r for r in list(self.requests) if re.fullmatch(method, r.method) and re.fullmatch(path, r.path)]

    def matched(self, request: Request) -> Request | None:
        """Return the request that faults are compared with; None for a request without faults."""
        return request

    def pick(self, request: Request) -> Fault:
        """Record a request and return its fault, or a fault without effect."""
        with self._lock:
            self.requests.append(request)
        matched = self.matched(request)
        if matched is not None:
            for fault in list(self.faults):
                if fault.claim(matched):
                    return fault
        return Fault(method="", path="")


class Handler(BaseHTTPRequestHandler):
    """A connection with faults. Subclasses implement `serve`."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    disable_nagle_algorithm = True

    def serve(self) -> None:
        """Respond to one request."""
        raise NotImplementedError

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than the server runs."""
        if seconds and isinstance(self.server, Listener):
            self.server.closing.wait(seconds)

    def send_head(self, answer: Response) -> None:
        """Send status and headers, without the line that ends them."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            for one in value if isinstance(value, list) else [value]:
                self.send_header(name, one)

    def send_answer(self, answer: Response, fault: Fault) -> None:
        """Send a response with a fault."""
        body = fault.damage(answer.body)
        self.send_head(answer)
        if fault.gzip:
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        if fault.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            pieces = [body[i : i + _CHUNK] for i in range(0, len(body), _CHUNK)]
            body = b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in pieces) + b"0\r\n\r\n"
        elif not any(name.lower() == "content-length" for name in answer.headers) and answer.status != 204:
            self.send_header("Content-Length", str(len(body) if fault.length is None else fault.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if fault.cut is None else body[: fault.cut])
        if fault.cut is not None:
            self.wfile.flush()
            self.pause(fault.stall)
            self.end(reset=fault.reset)

    def end(self, *, reset: bool) -> None:
        """Close the connection, also with a TCP reset."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        self.serve()

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = _serve  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Log nothing: tests read `requests`."""


class Cut(Exception):
    """The allowed number of request bytes has passed."""


class Incoming:
    """The body of a request, with a length or in chunks."""

    def __init__(self, handler: Handler) -> None:
        self._file = handler.rfile
        self.chunked = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self.length = None if self.chunked else int(handler.headers.get("Content-Length") or 0)
        self.count = 0
        self._left = self.length or 0  # bytes of the body, or of the current chunk
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, and no bytes at the end.

        Raises:
            ConnectionError: The client closed the connection.
        """
        if not self._left and self.chunked and not self._ended:
            self._next_chunk()
        want = min(size, self._left, BLOCK)
        block = self._file.read(want)
        self.count += len(block)
        self._left -= len(block)
        if len(block) < want:
            raise ConnectionAbortedError
        return block

    def blocks(self, cut: int | None = None) -> Iterator[bytes]:
        """Yield its bytes.

        Args:
            cut: The number of bytes after which the connection ends; None for no limit.

        Raises:
            Cut: `cut` bytes have passed.
            ConnectionError: The client closed the connection.
        """
        while cut is None or self.count < cut:
            block = self.read(BLOCK if cut is None else cut - self.count)
            if not block:
                break
            yield block
        if cut is not None:
            raise Cut

    def _next_chunk(self) -> None:
        if self.count:
            self._file.readline(10)
        line = self._file.readline(1000)
        if not line:
            raise ConnectionAbortedError
        self._left = int(line.partition(b";")[0], 16)
        if not self._left:
            self._ended = True
            while self._file.readline(1000).strip():
                pass
