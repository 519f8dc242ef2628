"""A TCP proxy on loopback with the faults of networks, for any protocol: PostgreSQL, S3, the registry itself.

    with TcpProxy(server.port) as proxy:
        connect(proxy.port)
        proxy.delay = 0.2                       # each block of bytes, in both directions
        proxy.black_hole = True                 # nothing arrives, without any error; False delivers what was held
        proxy.refuse = True                     # new connections are reset
        proxy.resets = 0.01                     # the share of blocks at which a connection is reset
        proxy.cut()                             # end all connections now
        proxy.cut_after(1000, answers=True)     # end the connection that has answered 1000 bytes from now on
        proxy.lose_answer(b"COMMIT")            # deliver the next request with these words, and end its connection without an answer
        proxy.lose_request(b"COMMIT")           # end the connection before the request arrives

Faults can be set while connections are open. A rule that ends a connection is used once.
"""

import contextlib
import random
import socket
import struct
import threading
import time

from attrs import define, field

_BLOCK = 1 << 16
_TICK = 0.01  # seconds


@define(eq=False)
class _Rule:
    """What ends a connection, once."""

    words: bytes = b""
    count: int = 0
    answers: bool = False
    delivers: bool = False
    reset: bool = False


@define(eq=False)
class _Pair:
    """A connection of a client with its connection to the server."""

    client: socket.socket
    server: socket.socket
    silent: _Rule | None = None  # answers are not delivered any more
    ended: bool = False
    _lock: threading.Lock = field(factory=threading.Lock)

    def end(self, *, reset: bool = False) -> None:
        with self._lock:
            if self.ended:
                return  # the other direction must not turn a reset into an orderly end
            self.ended = True
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # This wakes the thread that reads. Without a reset it also ends the connection in order
                sock.shutdown(socket.SHUT_RD if reset else socket.SHUT_RDWR)
            sock.close()


@define(eq=False)
class TcpProxy:
    """A proxy in threads of this process.

    Args:
        upstream: The port of the server.
        host: The host of the server.
    """

    upstream: int
    host: str = "127.0.0.1"
    delay: float = 0.0
    black_hole: bool = False
    refuse: bool = False
    resets: float = 0.0
    accepted: int = field(default=0, init=False)
    _rules: list[_Rule] = field(factory=list, init=False)
    _pairs: list[_Pair] = field(factory=list, init=False)
    _listener: socket.socket = field(init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)
    _chance: random.Random = field(factory=lambda: random.Random(1), init=False)

    def __enter__(self) -> "TcpProxy":
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        threading.Thread(target=self._accept, name="tcp-proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self.black_hole = False
        self.cut()

    @property
    def port(self) -> int:
        """The port for clients."""
        return self._listener.getsockname()[1]

    def url(self, url: str) -> str:
        """Return a URL of the server with the port of this proxy."""
        return url.replace(f":{self.upstream}", f":{self.port}", 1)

    def cut(self, *, reset: bool = False) -> int:
        """End all connections, and return their number."""
        with self._lock:
            pairs = [pair for pair in self._pairs if not pair.ended]
            self._pairs.clear()
        for pair in pairs:
            pair.end(reset=reset)
        return len(pairs)

    def cut_after(self, count: int, *, answers: bool, reset: bool = False) -> None:
        """End a connection as soon as it has moved so many bytes of requests or answers; the bytes before arrive."""
        self._add(_Rule(count=count, answers=answers, reset=reset))

    def lose_answer(self, words: bytes, *, reset: bool = False) -> None:
        """Deliver the next request with these words, and end its connection instead of delivering the answer."""
        self._add(_Rule(words=words, delivers=True, reset=reset))

    def lose_request(self, words: bytes, *, reset: bool = False) -> None:
        """End the connection of the next request with these words before the request arrives."""
        self._add(_Rule(words=words, reset=reset))

    @property
    def pending(self) -> int:
        """The number of rules that were not used yet."""
        return len(self._rules)

    def _add(self, rule: _Rule) -> None:
        with self._lock:
            self._rules.append(rule)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            try:
                if self.refuse:
                    raise ConnectionRefusedError
                server = socket.create_connection((self.host, self.upstream), timeout=10)
            except OSError:
                _Pair(client, client).end(reset=True)
                continue
            server.settimeout(None)
            for sock in (client, server):
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._lock:
                self._pairs = [*(old for old in self._pairs if not old.ended), pair]
            for source, target, answers in ((client, server, False), (server, client, True)):
                arguments = (pair, source, target, answers)
                threading.Thread(target=self._forward, args=arguments, name="tcp-proxy", daemon=True).start()

    def _forward(self, pair: _Pair, source: socket.socket, target: socket.socket, answers: bool) -> None:
        reset = False
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                if self.delay:
                    time.sleep(self.delay)
                while self.black_hole and not pair.ended:
                    time.sleep(_TICK)
                if answers and pair.silent is not None:
                    reset = pair.silent.reset
                    break
                if self.resets and self._chance.random() < self.resets:
                    reset = True
                    break
                rule = self._used(block, answers)
                if rule is None:
                    target.sendall(block)
                elif rule.delivers:
                    pair.silent = rule
                    target.sendall(block)
                else:
                    reset = rule.reset
                    target.sendall(b"" if rule.words else block[: rule.count])
                    break
        pair.end(reset=reset)

    def _used(self, block: bytes, answers: bool) -> _Rule | None:
        """Return the rule that a block fulfills, and remove it."""
        with self._lock:
            for rule in self._rules:
                if rule.answers != answers:
                    continue
                if rule.words and rule.words in block:
                    self._rules.remove(rule)
                    return rule
                if not rule.words:
                    if rule.count <= len(block):
                        self._rules.remove(rule)
                        return rule
                    rule.count -= len(block)
        return None
