"""A proxy between a client and a real registry that lets things go wrong, byte by byte, and counts what moves.

    with peers.ocikit() as registry, Proxy(registry.url) as proxy:
        proxy.on("GET", r"/v2/.*/blobs/sha256:.*", cut=12345)            # the answer ends after 12345 bytes of its body
        proxy.on("PATCH", ".*", cut_request=1 << 20, reset=True)         # the registry gets 1 MiB, the client a reset
        proxy.after.append(lambda request, answer: ...)                  # on every answer that it is small enough for
        ...
        assert sum(p.sent for p in proxy.passed) < size + (1 << 20)

The client's Host goes on to the registry, so that absolute Locations lead back through the proxy. Bodies stream: cuts and
throttles work at any size. In a process of its own: `python -m tests.support.proxy URL --seed 7 --rate 0.05`.
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

#: Bytes: bodies up to this are in `Request.body` and `Answer.body`; larger ones stream past, and both are empty then.
SMALL = 1 << 20

_BLOCK = 1 << 16  # bytes
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection", "te", "upgrade"}

#: Answers itself, or changes the request, or does nothing.
Before: TypeAlias = Callable[[Request], Response | Request | None]
#: Changes the answer, in place or by another.
After: TypeAlias = Callable[[Request, Response], Response | None]


@frozen
class Passed:
    """One request that was dealt with: the registry's status, 0 if it gave none or wasn't asked, and bytes of bodies."""

    request: Request
    status: int
    received: int
    """From the client."""
    sent: int
    """To the client."""


@define(eq=False)
class Proxy(Script):
    """Runs on a free loopback port; a context manager. Fields may be changed while it runs."""

    upstream: str
    #: All of them, in turn, before the registry is asked; the first Answer is sent. `guard` comes before them.
    before: list[Before] = field(factory=list, init=False, repr=False)
    #: All of them, in turn, on the registry's answers and those of `before`.
    after: list[After] = field(factory=list, init=False, repr=False)
    passed: list[Passed] = field(factory=list, init=False, repr=False)

    def listen(self) -> ThreadingHTTPServer:
        return _Listener(("127.0.0.1", 0), _handler(self))

    def prepare(self, request: Request) -> Response | Request:
        """What the hooks make of a request: an answer, or the request that goes on."""
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
        """A client that hangs up is what we are here for; anything else is a mistake of ours."""
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError | TimeoutError | ValueError):
            super().handle_error(request, client_address)


class _Cut(Exception):
    """As many bytes of the request as were allowed have gone by."""


class _Incoming:
    """The body of a request, whichever way it travels."""

    def __init__(self, handler: Handler) -> None:
        self._file = handler.rfile
        self.chunked = "chunked" in handler.headers.get("Transfer-Encoding", "").lower()
        self.length = None if self.chunked else int(handler.headers.get("Content-Length") or 0)
        self.count = 0

    def blocks(self, cut: int | None = None) -> Iterator[bytes]:
        """Its bytes. Raises: _Cut: after `cut` of them. ConnectionError: the client hung up."""
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
            with suppress(ConnectionError):  # a registry may answer before it has read all
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
    """Lets a part of all requests go wrong, in every way that a network or a registry under load does."""

    seed: int = 1
    #: Of all requests, those that go wrong: 0 to 1.
    rate: float = 0.05
    #: How often each kind of fault came.
    counts: Counter[str] = field(factory=Counter, init=False)
    _chance: random.Random = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def pick(self, request: Request) -> Fault:
        """A fault by the dice. Nothing is remembered: a soak sends millions."""
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
        sys.stdin.read()  # until whoever started it hangs up
        print(json.dumps(proxy.counts), flush=True)


if __name__ == "__main__":
    main()
