"""A load balancer that sends each request to the next server, also those of one connection.

    with RoundRobin(["127.0.0.1:15001", "127.0.0.1:15002"]) as balancer:
        requests.get(f"{balancer.url}/v2/")

Heads and bodies pass unchanged. Each request has a connection of its own to its server, so that any of its workers takes it.
As a separate process: `python -m tests.support.round_robin HOST:PORT HOST:PORT`.
"""

import asyncio
import contextlib
import itertools
import socket
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias

_BLOCK = 1 << 16  # bytes
_HEAD = 1 << 17  # bytes: the longest head
_CONNECT = 5.0  # seconds
_LINGER = 1.0  # seconds

_REFUSED = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


#: What a message is read from.
_Reader: TypeAlias = "asyncio.StreamReader | _Socket"


class _Closed(Exception):
    """One side closed its connection in the middle of a message."""


class _Head:
    """The start line and the headers of a message."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.start, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
        self._headers = [(name.strip().lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)]

    def values(self, name: str) -> str:
        """Return the values of a header, in lower case, joined by commas."""
        return ",".join(value for key, value in self._headers if key == name).lower()

    @property
    def closes(self) -> bool:
        return "close" in self.values("connection") or self.start.rstrip().endswith("HTTP/1.0")

    @property
    def chunked(self) -> bool:
        return "chunked" in self.values("transfer-encoding")

    @property
    def length(self) -> int | None:
        text = self.values("content-length")
        return int(text) if text.isdigit() else None


class _Socket:
    """A connection to a server, whose response can still be read after a write has failed: asyncio's streams end with it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._ended = False

    async def write(self, block: bytes) -> None:
        await self._loop.sock_sendall(self._connection, block)

    async def read(self, size: int) -> bytes:
        if not self._buffer:
            await self._more()
        block, self._buffer = self._buffer[:size], self._buffer[size:]
        return block

    async def readuntil(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if self._ended or len(self._buffer) > _HEAD:
                raise asyncio.IncompleteReadError(self._buffer, None)
            await self._more()
        at += len(end)
        block, self._buffer = self._buffer[:at], self._buffer[at:]
        return block

    async def _more(self) -> None:
        block = await self._loop.sock_recv(self._connection, _BLOCK)
        self._ended = not block
        self._buffer += block

    def shutdown(self) -> None:
        """Close the connection: the other end sees it in the middle of a body."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


async def _open(server: str) -> _Socket:
    host, _, port = server.rpartition(":")
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_CONNECT):
            await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    except BaseException:
        connection.close()
        raise
    return _Socket(connection)


async def _head(reader: _Reader) -> _Head | None:
    """Read a head; None if the connection ends before it."""
    first = await reader.read(1)
    if not first:
        return None
    if not first.isalpha():
        raise _Closed  # a client that tries TLS first waits for an end
    return _Head(first + await reader.readuntil(b"\r\n\r\n"))


async def _sized(reader: _Reader, size: int) -> AsyncIterator[bytes]:
    while size:
        block = await reader.read(min(size, _BLOCK))
        if not block:
            raise _Closed
        size -= len(block)
        yield block


async def _chunks(reader: _Reader) -> AsyncIterator[bytes]:
    """Yield a chunked body as it is, with its framing and trailers."""
    while True:
        line = await reader.readuntil(b"\n")
        yield line
        size = int(line.partition(b";")[0], 16)
        if not size:
            break
        async for block in _sized(reader, size):
            yield block
        yield await reader.readuntil(b"\n")
    while True:
        line = await reader.readuntil(b"\n")
        yield line
        if not line.strip():
            return


async def _rest(reader: _Reader) -> AsyncIterator[bytes]:
    while block := await reader.read(_BLOCK):
        yield block


class RoundRobin:
    """The balancer on a free loopback port, a context manager.

    Args:
        servers: The servers, each as HOST:PORT.
    """

    def __init__(self, servers: Sequence[str]) -> None:
        self.servers = list(servers)
        self.host = ""
        #: Number of requests by server.
        self.counts: Counter[str] = Counter()
        self._next = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The URL of the balancer."""
        return f"http://{self.host}"

    def __enter__(self) -> "RoundRobin":
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_HEAD, backlog=1024)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        address, port = self._server.sockets[0].getsockname()[:2]
        self.host = f"{address}:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, _Closed, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # one side closed its connection, so the other one is closed too
        except asyncio.CancelledError:
            pass  # the balancer ends
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Pass one request and its response; return whether the connection stays open."""
        request = await _head(reader)
        if request is None:
            return False
        server = self.servers[next(self._next) % len(self.servers)]
        self.counts[server] += 1
        try:
            there = await _open(server)
        except (OSError, TimeoutError):
            writer.write(_REFUSED)
            await writer.drain()
            return False
        try:
            await there.write(request.raw)
            upward = asyncio.ensure_future(self._up(request, reader, there))
            try:
                answer = await self._back(request, there, writer)
                if answer.closes or request.closes:
                    # A close with an unread body would reset the connection, and the client would lose the response
                    writer.write_eof()
                    await asyncio.wait([upward], timeout=_LINGER)
                    return False
                return await upward  # a server may answer before the body has come
            finally:
                upward.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await upward
        finally:
            there.close()

    async def _up(self, request: _Head, reader: _Reader, there: _Socket) -> bool:
        """Pass the body of a request; return whether it was read to its end."""
        body = _chunks(reader) if request.chunked else _sized(reader, request.length or 0)
        gone = False
        try:
            async for block in body:
                if not gone:
                    try:
                        await there.write(block)
                    except OSError:
                        gone = True  # it has answered, and the rest of the body is dropped
        except (_Closed, asyncio.IncompleteReadError):
            there.shutdown()  # the server sees a broken body
            return False
        return True

    async def _back(self, request: _Head, there: _Socket, writer: asyncio.StreamWriter) -> _Head:
        """Pass the response."""
        while True:
            answer = await _head(there)
            if answer is None:
                raise _Closed
            writer.write(answer.raw)
            status = int(answer.start.split()[1])
            if status >= 200:
                break
            await writer.drain()
        if not (request.start.startswith("HEAD ") or status in (204, 304)):
            if answer.chunked:
                body = _chunks(there)
            elif answer.length is not None:
                body = _sized(there, answer.length)
            else:
                body = _rest(there)
            async for block in body:
                writer.write(block)
                await writer.drain()
        await writer.drain()
        return answer


if __name__ == "__main__":
    with RoundRobin(sys.argv[1:]) as started:
        print(started.host, flush=True)
        sys.stdin.read()  # until the parent process closes the pipe
