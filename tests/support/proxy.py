"""A proxy in front of a real registry that injects faults at exact bytes and counts transferred bytes.

    with peers.ocikit() as registry, Proxy(registry.url) as proxy:
        proxy.on("GET", r"/v2/.*/blobs/sha256:.*", cut=12345)            # the response ends after 12345 bytes of its body
        proxy.on("PATCH", ".*", cut_request=1 << 20, reset=True)         # the registry gets 1 MiB, the client a reset
        proxy.after.append(lambda request, answer: ...)                  # for every response with a small body
        ...
        assert sum(p.sent for p in proxy.passed) < size + (1 << 20)

The client's Host header is forwarded, so absolute Locations lead back through the proxy. Bodies are streamed: cuts and
throttles work at any size. As a separate process: `python -m tests.support.proxy URL --seed 7 --rate 0.05`.
"""

import argparse
import http.client
import json
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from attrs import define, evolve, field, frozen

from tests.support.fake_registry import Fault, Handler, Listener, Request, Response, Script

#: Bytes. Bodies up to this size are in `Request.body` and `Response.body`. Larger bodies are streamed, and both fields are empty.
SMALL = 1 << 20

_BLOCK = 1 << 16  # bytes
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
    #: Called in order before the registry. The first Response is sent. `guard` comes first.
    before: list[Before] = field(factory=list, init=False, repr=False)
    #: Called in order with the responses of the registry and of `before`.
    after: list[After] = field(factory=list, init=False, repr=False)
    passed: list[Passed] = field(factory=list, init=False, repr=False)

    def listen(self) -> ThreadingHTTPServer:
        return _Listener(("127.0.0.1", 0), _handler(self))

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
        parts = urlsplit(self.upstream)
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60, blocksize=_BLOCK)


class _Listener(Listener):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close the connection, because that is the purpose. Other errors are bugs."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError | TimeoutError | ValueError):
            super().handle_error(request, client_address)


class _Cut(Exception):
    """The allowed number of request bytes has passed."""


class _Incoming:
    """The body of a request, in any framing."""

    def __init__(self, handler: Handler) -> None:
        self._file = handler.rfile
        self.chunked = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self.length = None if self.chunked else int(handler.headers.get("Content-Length") or 0)
        self.count = 0

    def blocks(self, cut: int | None = None) -> Iterator[bytes]:
        """Yield its bytes.

        Raises:
            _Cut: `cut` bytes have passed.
            ConnectionError: The client closed the connection.
        """
        for size in self._sizes():
            while size:
                want = min(size, _BLOCK, *([] if cut is None else [cut - self.count]))
                if not want and cut is not None:
                    raise _Cut
                block = self._file.read(want)
                self.count += len(block)
                if len(block) < want:
                    raise ConnectionAbortedError
                size -= want
                yield block
        if cut is not None:
            raise _Cut

    def _sizes(self) -> Iterator[int]:
        if self.length is not None:
            yield self.length
            return
        while size := int(self._file.readline(1000).partition(b";")[0], 16):
            yield size
            self._file.readline(10)
        while self._file.readline(1000).strip():
            pass


def _handler(proxy: Proxy) -> type[Handler]:
    class ProxyHandler(Handler):
        def serve(self) -> None:
            body = _Incoming(self)
            small = body.length is not None and body.length <= SMALL
            whole = b"".join(body.blocks()) if small else b""
            request = Request(self.command, self.path, self.headers, whole)
            fault = proxy.pick(request)
            time.sleep(fault.delay)
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
            except _Cut:
                upstream.close()
                self.done(request, 0, body, 0, fault)
            finally:
                upstream.close()

        def forward(self, request: Request, upstream: Any, body: _Incoming, whole: Any, fault: Fault) -> None:
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
                raise _Cut

        def back(self, request: Request, upstream: Any, body: _Incoming, fault: Fault) -> None:
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
            self.stream(request, answer, self.paced(iter(lambda: got.read(_BLOCK), b""), fault), body, fault)

        def stream(self, request: Request, answer: Response, blocks: Any, body: _Incoming, fault: Fault) -> None:
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
                time.sleep(fault.stall)
                self.end(fault.reset)

        def finish_with(self, request: Request, answer: Response, body: _Incoming, fault: Fault) -> None:
            for hook in proxy.after:
                answer = hook(request, answer) or answer
            answer = self.faulty(request, answer, fault)
            if fault.drop == "after":
                return self.done(request, answer.status, body, 0, fault)
            sent = 0 if self.command == "HEAD" else len(answer.body[: fault.cut])
            proxy.passed.append(Passed(request, answer.status, body.count, sent))
            with suppress(ConnectionError):
                self.send_answer(answer, fault)

        def faulty(self, request: Request, answer: Response, fault: Fault) -> Response:
            lost = {name.lower() for name in fault.without}
            headers = {k: v for k, v in answer.headers.items() if k.lower() not in lost} | dict(fault.headers)
            answer = evolve(answer, headers=headers, body=answer.body if fault.body is None else fault.body)
            return (fault.change and fault.change(request, answer)) or answer

        def done(self, request: Request, status: int, body: _Incoming, sent: int, fault: Fault) -> None:
            proxy.passed.append(Passed(request, status, body.count, sent))
            self.end(fault.reset)

        def paced(self, blocks: Iterator[bytes], fault: Fault) -> Iterator[bytes]:
            for block in blocks:
                if not fault.throttle:
                    yield block
                    continue
                step = max(1, int(fault.throttle / 20))
                for i in range(0, len(block), step):
                    yield block[i : i + step]
                    time.sleep(len(block[i : i + step]) / fault.throttle)

    return ProxyHandler


@define(eq=False)
class Scatter(Proxy):
    """A proxy that injects random faults of networks and overloaded registries into a share of all requests."""

    seed: int = 1
    #: The share of faulty requests: 0 to 1.
    rate: float = 0.05
    #: Number of injected faults by kind.
    counts: Counter[str] = field(factory=Counter, init=False)
    _chance: random.Random = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def pick(self, request: Request) -> Fault:
        """Return a random fault. Requests are not recorded, because a soak sends millions."""
        with self._lock:
            self.passed.clear()
            if self._chance.random() >= self.rate:
                return Fault(method="", path="")
            where, reset = int(10 ** self._chance.uniform(0, 6.5)), self._chance.random() < 0.5
            kinds: dict[str, dict[str, Any]] = {
                "answer cut": {"cut": where, "reset": reset},
                "request cut": {"cut_request": where, "reset": reset},
                "never asked": {"drop": "before", "reset": reset},
                "answer lost": {"drop": "after", "reset": reset},
                "slow": {"delay": self._chance.uniform(0, 0.5)},
                "503": {"status": 503, "headers": {"Retry-After": "0"}},
                "429": {"status": 429, "headers": {"Retry-After": "0"}},
                "500": {"status": 500},
                "502": {"status": 502, "body": b"<html><title>Bad Gateway</title></html>"},
            }
            kind = self._chance.choice(sorted(kinds))
            self.counts[kind] += 1
        return Fault(method="", path="", **kinds[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("upstream")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    options = parser.parse_args()
    with Scatter(options.upstream, seed=options.seed, rate=options.rate) as proxy:
        print(proxy.host, flush=True)
        sys.stdin.read()  # until the parent process closes the pipe
        print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    main()
