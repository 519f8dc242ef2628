"""A proxy in front of a registry that injects faults at exact bytes and counts transferred bytes.

    with Proxy("http://127.0.0.1:5000") as proxy:
        proxy.on("GET", r"/v2/.*/blobs/sha256:.*", cut=12345)            # the response ends after 12345 bytes of its body
        proxy.on("PATCH", ".*", cut_request=1 << 20, reset=True)         # the registry gets 1 MiB, the client a reset
        proxy.after.append(lambda request, answer: ...)                  # for every response with a small body
        ...
        assert sum(p.sent for p in proxy.passed) < size + (1 << 20)

The client's Host header is forwarded, so absolute Locations lead back through the proxy. Bodies are streamed: cuts and
throttles work at any size.
"""

from __future__ import annotations

import http.client
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from attrs import define, evolve, field, frozen

from ocikit.testing.faults import BLOCK, Cut, Fault, Handler, Incoming, Listener, Script
from ocikit.testing.messages import Request, Response

#: Bytes. Bodies up to this size are in `Request.body` and `Response.body`. Larger bodies are streamed, and both fields are empty.
SMALL = 1 << 20

#: Headers of one connection, which are not forwarded. RFC 9110 #7.6.1
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection", "te", "upgrade"}

#: A hook before the registry: it may respond itself or replace the request.
Before: TypeAlias = Callable[[Request], Response | Request | None]
#: A hook after the registry: it may change the response in place or replace it.
After: TypeAlias = Callable[[Request, Response], Response | None]


@frozen
class Passed:
    """One request with the registry's status (0 without a response) and the bytes of both bodies."""

    request: Request
    status: int
    received: int
    """Bytes from the client."""
    sent: int
    """Bytes to the client."""


@define(eq=False)
class Proxy(Script):
    """The proxy on a free loopback port, a context manager. Its fields may change while it runs."""

    upstream: str
    before: list[Before] = field(factory=list, init=False, repr=False)
    """They are called in order before the registry. The first Response is sent. `guard` comes first."""
    after: list[After] = field(factory=list, init=False, repr=False)
    """They are called in order with the responses of the registry and of `before`."""
    passed: list[Passed] = field(factory=list, init=False, repr=False)

    def listen(self) -> Listener:
        """Return the listening socket."""
        return ProxyListener(("127.0.0.1", self.bind), _handler(self))

    def prepare(self, request: Request) -> Response | Request:
        """Return the result of the hooks: a response, or the request to forward."""
        if self.guard is not None and (answer := self.guard(request)) is not None:
            return answer
        for hook in self.before:
            made = hook(request)
            if isinstance(made, Response):
                return made
            request = made or request
        return request

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection to the registry."""
        parts = urlsplit(self.upstream)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60, blocksize=BLOCK)


class ProxyListener(Listener):
    """A listening socket that ignores the errors of closed connections."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection, because that is the purpose. Other errors are bugs."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError | TimeoutError | ValueError):
            super().handle_error(request, client_address)


def _handler(proxy: Proxy) -> type[Handler]:
    class ProxyHandler(Handler):
        def serve(self) -> None:
            body = Incoming(self)
            small = body.length is not None and body.length <= SMALL
            whole = b"".join(body.blocks()) if small else b""
            request = Request(self.command, self.path, self.headers, whole)
            fault = proxy.pick(request)
            self.pause(fault.delay)
            if fault.drop == "before":
                return self.done(request, 0, body, 0, fault)
            if fault.status is not None:
                made: Response | Request = Response(fault.status, dict(fault.headers), fault.body or b"")
            else:
                made = proxy.prepare(request)
            if isinstance(made, Response):
                if not small:
                    for _ in body.blocks():
                        pass
                return self.finish_with(request, made, body, fault)
            upstream = proxy.connect()
            try:
                self.forward(made, upstream, body, iter([whole]) if small else None, fault)
                return self.back(made, upstream, body, fault)
            except Cut:
                upstream.close()
                self.done(request, 0, body, 0, fault)
            finally:
                upstream.close()

        def forward(
            self,
            request: Request,
            upstream: http.client.HTTPConnection,
            body: Incoming,
            whole: Iterator[bytes] | None,
            fault: Fault,
        ) -> None:
            upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in _HOP:
                    upstream.putheader(name, value)
            if body.chunked:
                upstream.putheader("Transfer-Encoding", "chunked")
            upstream.endheaders()
            with suppress(ConnectionError):  # a registry may respond before it has read the whole body
                for block in self.paced(whole if whole is not None else body.blocks(fault.cut_request), fault):
                    piece = block if whole is None or fault.cut_request is None else block[: fault.cut_request]
                    upstream.send(b"%x\r\n%s\r\n" % (len(piece), piece) if body.chunked else piece)
                if body.chunked:
                    upstream.send(b"0\r\n\r\n")
            if fault.cut_request is not None:
                raise Cut

        def back(self, request: Request, upstream: http.client.HTTPConnection, body: Incoming, fault: Fault) -> None:
            got = upstream.getresponse()
            headers: dict[str, Any] = {}
            for name, value in got.getheaders():
                if name.lower() not in _HOP:
                    headers[name] = [*headers[name], value] if isinstance(headers.get(name), list) else (
                        [headers[name], value] if name in headers else value)  # fmt: skip
            head = self.command == "HEAD"
            if head or fault.gzip or fault.chunked or fault.body is not None or (got.length or 0) <= SMALL:
                content = got.read()
                if not head:
                    headers = {k: v for k, v in headers.items() if k.lower() != "content-length"}
                return self.finish_with(request, Response(got.status, headers, content), body, fault)
            answer = Response(got.status, headers)
            for hook in proxy.after:
                answer = hook(request, answer) or answer
            answer = self.faulty(request, answer, fault)
            if fault.drop == "after":
                return self.done(request, answer.status, body, 0, fault)
            self.send_head(answer)
            self.end_headers()
            return self.stream(request, answer, self.paced(_blocks(got, fault), fault), body, fault)

        def stream(
            self, request: Request, answer: Response, blocks: Iterable[bytes], body: Incoming, fault: Fault
        ) -> None:
            sent = 0
            try:
                for block in blocks:
                    piece = block if fault.cut is None else block[: max(0, fault.cut - sent)]
                    self.wfile.write(piece)
                    sent += len(piece)
                    if fault.cut is not None and sent >= fault.cut:
                        break
            except ConnectionError:
                self.close_connection = True
            proxy.passed.append(Passed(request, answer.status, body.count, sent))
            if fault.cut is not None:
                self.pause(fault.stall)
                self.end(reset=fault.reset)

        def finish_with(self, request: Request, answer: Response, body: Incoming, fault: Fault) -> None:
            for hook in proxy.after:
                answer = hook(request, answer) or answer
            answer = self.faulty(request, answer, fault)
            if fault.drop == "after":
                self.done(request, answer.status, body, 0, fault)
                return
            sent = 0 if self.command == "HEAD" else len(answer.body[: fault.cut])
            proxy.passed.append(Passed(request, answer.status, body.count, sent))
            with suppress(ConnectionError):
                self.send_answer(answer, fault)

        def faulty(self, request: Request, answer: Response, fault: Fault) -> Response:
            lost = {name.lower() for name in fault.without}
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in lost} | dict(fault.headers)
            answer = evolve(answer, headers=headers, body=answer.body if fault.body is None else fault.body)
            return (fault.change and fault.change(request, answer)) or answer

        def done(self, request: Request, status: int, body: Incoming, sent: int, fault: Fault) -> None:
            proxy.passed.append(Passed(request, status, body.count, sent))
            self.end(reset=fault.reset)

        def paced(self, blocks: Iterable[bytes], fault: Fault) -> Iterator[bytes]:
            for block in blocks:
                if not fault.throttle:
                    yield block
                    continue
                step = max(1, int(fault.throttle / 20))
                for i in range(0, len(block), step):
                    yield block[i : i + step]
                    self.pause(len(block[i : i + step]) / fault.throttle)

    return ProxyHandler


def _blocks(response: http.client.HTTPResponse, fault: Fault) -> Iterator[bytes]:
    """Yield the body of a response, the first block with the fault's damage."""
    block = fault.damage(response.read(BLOCK))
    while block:
        yield block
        block = response.read(BLOCK)
