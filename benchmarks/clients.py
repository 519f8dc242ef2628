"""Clients that load a registry and cost little themselves: processes with a few connections each, and no HTTP library."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import resource
import selectors
import socket
import statistics
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

from attrs import define, field, frozen

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REPOSITORIES = 20
SMALL, MEDIUM = 4 << 10, 64 << 10
_READ = 1 << 18

#: Seconds without an answer after which a client gives up.
_TIMEOUT = 60.0


@frozen
class Answer:
    """The head of a response, and its body's length."""

    status: int
    location: str
    length: int


#: Requests of one client: it sends the bytes that it gets, and sends the answer back.
Requests = Generator[bytes, Answer, None]


@frozen
class Load:
    """What the clients did in a time."""

    count: int
    seconds: float
    cpu: float
    """CPU seconds of the clients."""
    failures: dict[int, int]
    """Number of unexpected answers by their status."""
    latencies: list[float]
    """A sample in seconds."""

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def request(
    method: str, target: str, host: str, body: bytes = b"", media_type: str = "application/octet-stream"
) -> bytes:
    """Return the bytes of a request."""
    head = f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nAccept: {MANIFEST}\r\n"
    if body or method != "GET":
        head += f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


def target_of(location: str) -> str:
    """Return the path and query of a Location header."""
    parts = urlsplit(location)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def repository(n: int) -> str:
    return f"load/r{n}"


def content(n: int, size: int) -> bytes:
    """Return the blob of a repository, the same in each process."""
    return random.Random(f"{n} {size}").randbytes(size)  # noqa: S311 - the same in each process


def manifest(n: int, note: str = "") -> bytes:
    """Return a manifest of the blobs of a repository."""

    def part(size: int) -> dict[str, object]:
        return {"mediaType": "application/x", "digest": digest_of(content(n, size)), "size": size}

    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": part(SMALL), "layers": [part(MEDIUM)]}
    return json.dumps(value | ({"annotations": {"note": note}} if note else {})).encode()


# Operations: each yields requests indefinitely; what it yields last before it begins anew completes one operation ------------------


def get_manifest(host: str, _dice: random.Random) -> Iterator[Requests]:
    """GET a manifest by its tag."""
    ready = [request("GET", f"/v2/{repository(n)}/manifests/v1", host) for n in range(REPOSITORIES)]
    return _repeated(ready, 200)


def get_blob(host: str, _dice: random.Random) -> Iterator[Requests]:
    """GET a blob of 64 KiB."""
    digests = [digest_of(content(n, MEDIUM)) for n in range(REPOSITORIES)]
    ready = [request("GET", f"/v2/{repository(n)}/blobs/{digest}", host) for n, digest in enumerate(digests)]
    return _repeated(ready, 200)


def head_blob(host: str, _dice: random.Random) -> Iterator[Requests]:
    """HEAD of a blob."""
    digests = [digest_of(content(n, MEDIUM)) for n in range(REPOSITORIES)]
    ready = [request("HEAD", f"/v2/{repository(n)}/blobs/{digest}", host) for n, digest in enumerate(digests)]
    return _repeated(ready, 200)


def put_manifest(host: str, dice: random.Random) -> Iterator[Requests]:
    """PUT a new manifest with a new tag."""
    bodies = [manifest(n, "NOTE-OF-THIS-ONE") for n in range(REPOSITORIES)]
    while True:
        n, note = dice.randrange(REPOSITORIES), f"{dice.getrandbits(64):016x}"
        body = bodies[n].replace(b"NOTE-OF-THIS-ONE", note.encode())
        yield _one(request("PUT", f"/v2/{repository(n)}/manifests/t-{note}", host, body, MANIFEST), 201)


def push_blob(host: str, dice: random.Random) -> Iterator[Requests]:
    """Push a new blob of 4 KiB: POST and PUT."""
    while True:
        yield _push(host, repository(dice.randrange(REPOSITORIES)), dice.randbytes(SMALL))


OPERATIONS: dict[str, Callable[[str, random.Random], Iterator[Requests]]] = {
    "GET manifest by tag": get_manifest,
    "GET blob 64 KiB": get_blob,
    "PUT manifest + tag": put_manifest,
    "push blob 4 KiB": push_blob,
    "HEAD blob": head_blob,
}


class Unexpected(Exception):
    """An answer with another status than the operation expects."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status = status


def _expect(answer: Answer, status: int) -> None:
    if answer.status != status:
        raise Unexpected(answer.status)


def _one(sent: bytes, status: int) -> Requests:
    _expect((yield sent), status)


def _repeated(ready: Sequence[bytes], status: int) -> Iterator[Requests]:
    while True:
        for sent in ready:
            yield _one(sent, status)


def _push(host: str, name: str, data: bytes) -> Requests:
    answer = yield request("POST", f"/v2/{name}/blobs/uploads/", host)
    _expect(answer, 202)
    target = target_of(answer.location)
    separator = "&" if "?" in target else "?"
    _expect((yield request("PUT", f"{target}{separator}digest={digest_of(data)}", host, data)), 201)


# Connections -----------------------------------------------------------------------------------------------------------------


@define(eq=False)
class Client:
    """A connection that runs one operation after the other."""

    host: str
    operations: Iterator[Requests]
    done: int = 0
    failures: dict[int, int] = field(factory=dict)
    latencies: list[float] = field(factory=list)
    _socket: socket.socket = field(init=False)
    _current: Requests = field(init=False)
    _begun: float = field(init=False, default=0.0)
    _head: bytes = field(init=False, default=b"")
    _answer: Answer | None = field(init=False, default=None)
    _rest: int = field(init=False, default=0)

    def open(self) -> socket.socket:
        """Connect and send the first request."""
        self._socket = connect(self.host)
        self._begin()
        return self._socket

    def close(self) -> None:
        self._socket.close()

    def receive(self, buffer: bytearray) -> bool:
        """Read what has arrived; send the next request after a whole answer.

        Returns:
            False if the server closed the connection.
        """
        count = self._socket.recv_into(buffer)
        if not count:
            self.failures[0] = self.failures.get(0, 0) + 1
            return False
        if self._answer is None:
            self._head += buffer[:count]
            head, found, body = self._head.partition(b"\r\n\r\n")
            if not found:
                return True
            self._answer = parse(head)
            empty = self._answer.status in {204, 304} or self._sent_head
            self._rest = 0 if empty else self._answer.length
            self._rest -= len(body)
        else:
            self._rest -= count
        if self._rest <= 0:
            answer, self._answer, self._head = self._answer, None, b""
            self._advance(answer)
        return True

    def _begin(self) -> None:
        self._current = next(self.operations)
        self._begun = time.perf_counter()
        self._send(next(self._current))

    def _advance(self, answer: Answer) -> None:
        try:
            self._send(self._current.send(answer))
            return
        except StopIteration:
            self.done += 1
            self.latencies.append(time.perf_counter() - self._begun)
        except Unexpected as error:
            self.failures[error.status] = self.failures.get(error.status, 0) + 1
        self._begin()

    def _send(self, data: bytes) -> None:
        self._sent_head = data.startswith(b"HEAD ")
        self._socket.sendall(data)

    _sent_head: bool = field(init=False, default=False)


def connect(host: str) -> socket.socket:
    """Return a connection to HOST:PORT."""
    name, _, port = host.rpartition(":")
    made = socket.create_connection((name, int(port)), timeout=_TIMEOUT)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def parse(head: bytes) -> Answer:
    """Return the status, location and length of a response."""
    lines = head.split(b"\r\n")
    location, length = "", 0
    for line in lines[1:]:
        name, _, value = line.partition(b":")
        match name.lower():
            case b"location":
                location = value.strip().decode()
            case b"content-length":
                length = int(value)
            case b"transfer-encoding":
                raise ValueError("a chunked response: the clients of the benchmark need its length")
    return Answer(int(lines[0][9:12]), location, length)


def _run(host: str, operation: str, seconds: float, connections: int, seed: int) -> Load:
    """Run an operation on several connections of this process."""
    clients = [Client(host, OPERATIONS[operation](host, random.Random(f"{seed} {n}"))) for n in range(connections)]  # noqa: S311
    buffer = bytearray(_READ)
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.open(), selectors.EVENT_READ, client)
        before, begun = _cpu(), time.perf_counter()
        for client in clients:
            client.done = 0
        end = begun + seconds
        while time.perf_counter() < end:
            ready = selector.select(1.0)
            for key, _ in ready:
                if not key.data.receive(buffer):
                    selector.unregister(key.fileobj)
                    key.data.close()
                    selector.register(key.data.open(), selectors.EVENT_READ, key.data)
        elapsed, used = time.perf_counter() - begun, _cpu() - before
    failures: dict[int, int] = {}
    latencies: list[float] = []
    for client in clients:
        client.close()
        latencies += client.latencies[:2000]
        for status, count in client.failures.items():
            failures[status] = failures.get(status, 0) + count
    return Load(sum(client.done for client in clients), elapsed, used, failures, latencies)


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# Processes -------------------------------------------------------------------------------------------------------------------


def _serve(pipe: Connection) -> None:
    """Run what the parent asks for, until it closes the pipe."""
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(_run(*asked))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            pipe.send(error)


@define(eq=False)
class Clients:
    """Client processes that wait for work."""

    connections: int
    _pipes: list[Connection] = field(factory=list)

    def load(self, host: str, operation: str, seconds: float) -> Load:
        """Run an operation on all connections for a time.

        Raises:
            RuntimeError: A client failed.
        """
        seed = random.SystemRandom().getrandbits(48)
        each = self.connections // len(self._pipes)
        for n, pipe in enumerate(self._pipes):
            pipe.send((host, operation, seconds, each, seed + n))
        answers: list[Load | Exception] = [pipe.recv() for pipe in self._pipes]
        loads = [answer for answer in answers if isinstance(answer, Load)]
        for answer in answers:
            if answer not in loads:
                raise RuntimeError(f"{operation} at {host} failed: {answer!r}")
        failures: dict[int, int] = {}
        for load in loads:
            for status, count in load.failures.items():
                failures[status] = failures.get(status, 0) + count
        return Load(
            sum(load.count for load in loads),
            statistics.mean(load.seconds for load in loads),
            sum(load.cpu for load in loads),
            failures,
            [each for load in loads for each in load.latencies],
        )


@contextmanager
def clients(processes: int, connections: int) -> Iterator[Clients]:
    """Start client processes, and end them."""
    context = multiprocessing.get_context("spawn")
    made = Clients(connections)
    started = []
    try:
        for _ in range(processes):
            mine, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(theirs,), daemon=True)
            child.start()
            theirs.close()
            made._pipes.append(mine)  # noqa: SLF001 - made here
            started.append(child)
        yield made
    finally:
        for pipe in made._pipes:  # noqa: SLF001 - made here
            pipe.close()
        for child in started:
            child.join(5)


# Single requests -------------------------------------------------------------------------------------------------------------


def perform(host: str, operation: Requests) -> None:
    """Run one operation on a connection of its own.

    Raises:
        Unexpected: The registry answered with another status.
    """
    with connect(host) as connection:
        answer: Answer | None = None
        while True:
            try:
                sent = operation.send(answer) if answer else next(operation)
            except StopIteration:
                return
            connection.sendall(sent)
            answer = receive(connection)


def receive(connection: socket.socket) -> Answer:
    """Read a whole response, and drop its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        got = connection.recv(_READ)
        if not got:
            raise ConnectionError("the registry closed the connection")
        data += got
    head, _, body = data.partition(b"\r\n\r\n")
    answer = parse(head)
    rest, buffer = answer.length - len(body), bytearray(1 << 20)
    while rest > 0:
        count = connection.recv_into(buffer)
        if not count:
            raise ConnectionError("the registry closed the connection")
        rest -= count
    return answer


def prepare(host: str) -> None:
    """Push what the operations need."""
    for n in range(REPOSITORIES):
        for size in (SMALL, MEDIUM):
            perform(host, _push(host, repository(n), content(n, size)))
        perform(host, _one(request("PUT", f"/v2/{repository(n)}/manifests/v1", host, manifest(n), MANIFEST), 201))


def push_file(host: str, name: str, path: Path, digest: str, *, chunked: bool) -> None:
    """Push a large blob from a file: POST, PATCH, PUT.

    Args:
        host: Registry.
        name: Repository.
        path: File.
        digest: Its digest.
        chunked: Send the body in chunks without Content-Length, as docker does.
    """
    size = path.stat().st_size
    with connect(host) as connection, path.open("rb") as file:
        connection.sendall(request("POST", f"/v2/{name}/blobs/uploads/", host))
        answer = receive(connection)
        _expect(answer, 202)
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        head = (
            f"PATCH {target_of(answer.location)} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        )
        connection.sendall(f"{head}{length}\r\n\r\n".encode())
        if chunked:
            block = 1 << 18
            for offset in range(0, size, block):
                count = min(block, size - offset)
                connection.sendall(f"{count:x}\r\n".encode())
                connection.sendfile(file, offset, count)
                connection.sendall(b"\r\n")
            connection.sendall(b"0\r\n\r\n")
        else:
            connection.sendfile(file)
        answer = receive(connection)
        _expect(answer, 202)
        target = target_of(answer.location)
        connection.sendall(request("PUT", f"{target}{'&' if '?' in target else '?'}digest={digest}", host))
        _expect(receive(connection), 201)


def pull(host: str, name: str, digest: str) -> bool:
    """Pull a blob, also through one redirect, and drop its bytes.

    Returns:
        Whether the registry redirected.
    """
    with connect(host) as connection:
        connection.sendall(request("GET", f"/v2/{name}/blobs/{digest}", host))
        answer = receive(connection)
    if answer.status != 307:
        _expect(answer, 200)
        return False
    store = urlsplit(answer.location)
    with connect(store.netloc) as connection:
        connection.sendall(f"GET {target_of(answer.location)} HTTP/1.1\r\nHost: {store.netloc}\r\n\r\n".encode())
        _expect(receive(connection), 200)
    return True
