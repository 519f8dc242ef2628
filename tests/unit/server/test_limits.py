"""Limits of a server over real connections: framing, large bodies, truncated bodies and slow clients.

The HTTP server parses the framing. It accepts three forms that RFC 9112 allows: a repeated Content-Length with the same number,
lines that end with LF only, and a chunked body with a Content-Length. It ignores that length and closes the connection after
the request. The application sees none of them. An invalid chunk ends the body like the last chunk, and the connection is
closed. The part before it counts as the body, so only digests and complete documents reveal the truncation.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading

import ocikit
import pytest
from ocikit.server import Limits

from tests.support.wsgi import MANIFEST, NAME, digest_of

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="the server does not support Windows"),
]

ABSENT = "sha256:" + "0" * 64
FOUR_GIB = 4 * 1024**3


class Wire:
    """A raw connection."""

    head = False

    def __init__(self, server, buffer=None):
        host, _, port = server.host.rpartition(":")
        self.socket = socket.socket()
        if buffer:
            for which in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                self.socket.setsockopt(socket.SOL_SOCKET, which, buffer)
        self.socket.settimeout(60)
        self.socket.connect((host, int(port)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *parts):
        """Send all parts, until the server closes the connection."""
        with contextlib.suppress(OSError):
            for part in parts:
                self.socket.sendall(part if isinstance(part, bytes) else part.encode())
        return self

    def send_request(self, method, url, *headers, body=b""):
        """Send a request; headers are complete lines."""
        self.head = method == "HEAD"
        lines = "".join(f"{line}\r\n" for line in (f"{method} {url} HTTP/1.1", "Host: localhost", *headers))
        return self.send(f"{lines}\r\n", body)

    def read_response(self):
        """Return the status, headers and body of one response."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._receive(1)
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        status, body = int(line.split()[1]), bytearray()
        while status >= 200 and not self.head and len(body) < int(headers.get("content-length", 0)):
            body += self._receive(1 << 20)
        return status, headers, bytes(body)

    def _receive(self, size):
        data = self.socket.recv(size)
        if not data:
            raise EOFError("closed")
        return data

    def read_all(self):
        """Return all bytes until the server closes the connection."""
        data = b""
        with contextlib.suppress(ConnectionError):
            while chunk := self.socket.recv(65536):
                data += chunk
        return data


@pytest.fixture(scope="module")
def server():
    with ocikit.serve() as running:
        yield running


def send_request(server, method, url, *headers, body=b""):
    """Send one request on a new connection and return its response."""
    length = () if method in {"GET", "HEAD", "DELETE"} else (f"Content-Length: {len(body)}",)
    with Wire(server) as wire:
        return wire.send_request(method, url, "Connection: close", *length, *headers, body=body).read_response()


def push(server, content, name=NAME):
    digest = digest_of(content)
    assert send_request(server, "POST", f"/v2/{name}/blobs/uploads/?digest={digest}", body=content)[0] == 201
    return digest


def image(server, name=NAME):
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": push(server, b"{}", name), "size": 2}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []}).encode()


def tag(server, name, reference="v1"):
    response = send_request(
        server, "PUT", f"/v2/{name}/manifests/{reference}", f"Content-Type: {MANIFEST}", body=image(server, name)
    )
    assert response[0] == 201


def begin(server):
    return send_request(server, "POST", f"/v2/{NAME}/blobs/uploads/")[1]["location"]


def process_memory(server, field="VmHWM"):
    """Return the peak process_memory of the server's processes in bytes."""

    def tree(pid):
        yield pid
        for task in os.listdir(f"/proc/{pid}/task"):
            # A thread may end in the meantime
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                with open(f"/proc/{pid}/task/{task}/children") as children:
                    children_ids = children.read().split()
                for child in children_ids:
                    yield from tree(int(child))

    total = 0
    for pid in tree(server._child.process.pid):
        with open(f"/proc/{pid}/status") as status:
            total += next(int(line.split()[1]) * 1024 for line in status if line.startswith(field))
    return total


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is measured in /proc")


# Framing


HIDDEN = b"DELETE /v2/smuggled/manifests/v1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
SIZE = len(HIDDEN)
LAST_CHUNK = b"0\r\n\r\n"

#: Ambiguous requests (request smuggling): headers, bytes after them, and the expected status.
AMBIGUOUS_REQUESTS = {
    "both lengths": (
        [f"Content-Length: {len(LAST_CHUNK) + SIZE}", "Transfer-Encoding: chunked"],
        LAST_CHUNK + HIDDEN,
        202,
    ),
    "both lengths, reversed": (
        ["Transfer-Encoding: chunked", "Content-Length: 4"],
        b"%x\r\n" % SIZE + HIDDEN + b"\r\n" + LAST_CHUNK,
        202,
    ),
    "two lengths": ([f"Content-Length: {SIZE}", "Content-Length: 0"], HIDDEN, 400),
    "two lengths, reversed": (["Content-Length: 0", f"Content-Length: {SIZE}"], HIDDEN, 400),
    "a list of lengths": ([f"Content-Length: 0, {SIZE}"], HIDDEN, 400),
    "a length with a sign": ([f"Content-Length: +{SIZE}"], HIDDEN, 400),
    "a negative length": ([f"Content-Length: -{SIZE}"], HIDDEN, 400),
    "a length in hexadecimal": ([f"Content-Length: 0x{SIZE:x}"], HIDDEN, 400),
    "a length of 70 bits": ([f"Content-Length: {2**70}"], HIDDEN, 400),
    "a folded header": ([f"X-A: a\r\n Content-Length: {SIZE}"], HIDDEN, 400),
    "a folded length": ([f"Content-Length:\r\n {SIZE}"], HIDDEN, 400),
    "a space before the colon": ([f"Content-Length : {SIZE}"], HIDDEN, 400),
    "a tab before the colon": (["Transfer-Encoding\t: chunked"], LAST_CHUNK + HIDDEN, 400),
    "an unknown coding": (["Transfer-Encoding: xchunked"], LAST_CHUNK + HIDDEN, 400),
    "a coding in quotes": (['Transfer-Encoding: "chunked"'], LAST_CHUNK + HIDDEN, 400),
    "the coding identity": (["Transfer-Encoding: identity", f"Content-Length: {SIZE}"], HIDDEN, 400),
    "chunked not last": (["Transfer-Encoding: chunked, identity"], LAST_CHUNK + HIDDEN, 400),
    "a lone CR": ([f"X-A: a\rContent-Length: {SIZE}"], HIDDEN, 400),
    "a NUL": ([f"X-A: a\0Content-Length: {SIZE}"], HIDDEN, 400),
    "a space in front of the first header": ([" X-A: a"], HIDDEN, 400),
    "a header without a name": ([": a"], HIDDEN, 400),
    "a header without a colon": (["chunked"], HIDDEN, 400),
    "a chunk size with 0x": (["Transfer-Encoding: chunked"], b"0x0\r\n\r\n" + HIDDEN, 202),
    "a negative chunk": (["Transfer-Encoding: chunked"], b"-1\r\n\r\n" + HIDDEN, 202),
    "a chunk of 2^64 bytes": (["Transfer-Encoding: chunked"], b"10000000000000000\r\n\r\n" + HIDDEN, 202),
    "a chunk without CR": (["Transfer-Encoding: chunked"], b"0\n\n" + HIDDEN, 202),
    "an extension with a newline": (["Transfer-Encoding: chunked"], b"0;a\nb\r\n\r\n" + HIDDEN, 202),
    "an endless extension": (["Transfer-Encoding: chunked"], b"0;" + b"a" * 100_000 + b"\r\n\r\n" + HIDDEN, 202),
    "a chunk longer than its size": (["Transfer-Encoding: chunked"], b"1\r\nabc\r\n0\r\n\r\n" + HIDDEN, 202),
}


@pytest.mark.parametrize("name", AMBIGUOUS_REQUESTS)
def test_ambiguous_framing_closes_the_connection(server, name):
    tag(server, "smuggled")
    headers, body, expected = AMBIGUOUS_REQUESTS[name]
    with Wire(server) as wire:
        wire.send_request("POST", f"/v2/{NAME}/blobs/uploads/", *headers, body=body)
        data = wire.read_all()
    assert re.findall(rb"HTTP/1\.1 (\d+)", data) == [b"%d" % expected]
    assert send_request(server, "HEAD", "/v2/smuggled/manifests/v1")[0] == 200


@pytest.mark.parametrize(
    "line",
    [
        "POST /v2/a/blobs/uploads/ HTTP/1.1 x",
        "POST  /v2/a/blobs/uploads/ HTTP/1.1",
        "POST /v2/a b/blobs/uploads/ HTTP/1.1",
        "POST /v2/a/blobs/uploads/",
        "POST /v2/a/blobs/uploads/ HTTP/9.9",
        "P\0ST /v2/ HTTP/1.1",
        " GET /v2/ HTTP/1.1",
        "\x16\x03\x01",
    ],
)
def test_invalid_request_line_closes_the_connection(server, line):
    tag(server, "smuggled")
    with Wire(server) as wire:
        data = wire.send(f"{line}\r\nHost: localhost\r\n\r\n", HIDDEN).read_all()
    assert re.findall(rb"HTTP/1\.1 (\d+)", data) in ([b"400"], [])
    assert send_request(server, "HEAD", "/v2/smuggled/manifests/v1")[0] == 200


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        (["Content-Length: 3"], b"abc", 202),
        (["Content-Length: 3", "Content-Length: 3"], b"abc", 202),
        (["Transfer-Encoding: chunked"], b"3\r\nabc\r\n0\r\n\r\n", 202),
        (["Transfer-Encoding: Chunked"], b"3;a=b\r\nabc\r\n0\r\nContent-Length: 9\r\nX-Evil: 1\r\n\r\n", 202),
        (["Transfer-Encoding: gzip, chunked"], b"3\r\nabc\r\n0\r\n\r\n", 400),
        (["Host: evil.example", "Content-Length: 3"], b"abc", 400),
        # WSGI does not distinguish "_" from "-": such a length is ignored, and such a coding with a length is rejected
        (["Content_Length: 99", "Content-Length: 3"], b"abc", 202),
        (["Transfer_Encoding: chunked", "Content-Length: 3"], b"abc", 400),
    ],
    ids=range(8),
)
def test_body_ends_at_its_declared_length(server, headers, body, expected):
    with Wire(server) as wire:
        wire.send_request("PATCH", begin(server), *headers, body=body).send_request("GET", "/v2/")
        status, headers, _ = wire.read_response()
        assert status == expected
        if status == 202:
            assert headers["range"] == "0-2"
            assert wire.read_response()[::2] == (200, b"{}")


def test_head_response_has_no_body(server):
    digest = push(server, b"hello")
    with Wire(server) as wire:
        for path, expected in (
            (f"blobs/{digest}", 200),
            (f"blobs/{ABSENT}", 404),
            ("manifests/none", 404),
            ("tags/list", 200),
            ("x", 404),
        ):
            status, headers, _ = wire.send_request("HEAD", f"/v2/{NAME}/{path}").read_response()
            assert status == expected and int(headers["content-length"]) > 0
            assert wire.send_request("GET", "/v2/").read_response()[2] == b"{}"


@pytest.mark.parametrize("headers", [[], ["Host: localhost"]], ids=["none", "two"])
def test_request_without_exactly_one_host_returns_400(server, headers):
    with Wire(server) as wire:
        lines = "".join(f"{line}\r\n" for line in headers * 2)
        assert wire.send(f"GET /v2/ HTTP/1.1\r\n{lines}\r\n").read_response()[0] == 400


# Large bodies


@pytest.fixture(scope="module", params=[401, 405, 413])
def rejecting_server(request, tmp_path_factory):
    """Return a server that rejects every upload, with its status in `rejection`."""
    import bcrypt

    users = tmp_path_factory.mktemp("users") / "htpasswd"
    users.write_bytes(b"ada:" + bcrypt.hashpw(b"lovelace", bcrypt.gensalt(4)) + b"\n")
    arguments = {
        401: {"htpasswd": users},
        405: {"options": ocikit.ServerOptions(read_only=True)},
        413: {"options": ocikit.ServerOptions(limits=Limits(blob=1000, manifest=1000))},
    }
    with ocikit.serve(**arguments[request.param]) as running:
        running.rejection = request.param
        yield running


@pytest.mark.parametrize("framing", [f"Content-Length: {FOUR_GIB}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("path", [f"POST /v2/a/blobs/uploads/?digest={ABSENT}", "PUT /v2/a/manifests/v1"])
def test_rejected_upload_of_4_gib_is_not_read(rejecting_server, framing, path):
    method, _, url = path.partition(" ")
    before = process_memory(rejecting_server) if sys.platform == "linux" else 0
    with Wire(rejecting_server, buffer=1 << 16) as wire:
        wire.send_request(
            method,
            url,
            framing,
            f"Content-Type: {MANIFEST}",
            body=b"%x\r\n" % FOUR_GIB if "chunked" in framing else b"",
        )
        sent, block = 0, bytes(1 << 16)
        with contextlib.suppress(OSError):
            while sent < FOUR_GIB:
                sent += wire.socket.send(block)
        status, headers, body = wire.read_response()
        assert wire.read_all() == b""
    assert status == rejecting_server.rejection
    assert headers["content-type"] == "application/json" and json.loads(body)["errors"]
    # The server reads at most 4 MiB; `sent` also counts the bytes in the buffers of the kernel
    assert sent < 12_000_000
    if sys.platform == "linux":
        assert process_memory(rejecting_server) - before < 30_000_000


@pytest.mark.parametrize("size", [10, FOUR_GIB])
def test_rejected_request_gets_no_100_continue(rejecting_server, size):
    with Wire(rejecting_server) as wire:
        wire.send_request(
            "POST", f"/v2/a/blobs/uploads/?digest={ABSENT}", f"Content-Length: {size + 1000}", "Expect: 100-continue"
        )
        assert wire.read_response()[0] == rejecting_server.rejection
        assert b"100 Continue" not in wire.read_all()


def test_accepted_request_gets_100_continue(server):
    with Wire(server) as wire:
        digest = digest_of(b"hello")
        wire.send_request(
            "POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", "Content-Length: 5", "Expect: 100-continue"
        )
        assert wire.read_response()[0] == 100
        assert wire.send(b"hello").read_response()[0] == 201
        wire.send_request("PATCH", begin(server), "Transfer-Encoding: chunked", "Expect: 100-continue")
        assert wire.read_response()[0] == 100
        assert wire.send(b"5\r\nhello\r\n", LAST_CHUNK).read_response()[1]["range"] == "0-4"


def test_too_large_manifest_returns_413_on_kept_connection(server):
    raw = image(server) + b" " * 4 * 1024 * 1024
    for _ in range(3):
        response = send_request(server, "PUT", f"/v2/{NAME}/manifests/v1", f"Content-Type: {MANIFEST}", body=raw)
        assert (response[0], json.loads(response[2])["errors"][0]["code"]) == (413, "SIZE_INVALID")
        with Wire(server) as wire:
            body = b"%x\r\n%b\r\n" % (len(raw), raw) + LAST_CHUNK
            wire.send_request(
                "PUT", f"/v2/{NAME}/manifests/v1", f"Content-Type: {MANIFEST}", "Transfer-Encoding: chunked", body=body
            )
            assert wire.read_response()[0] == 413


def test_chunk_out_of_order_returns_416_on_kept_connection(server):
    location, chunk = begin(server), bytes(3_000_000)
    with Wire(server) as wire:
        for _ in range(3):
            wire.send_request(
                "PATCH", location, f"Content-Range: 5-{len(chunk) + 4}", f"Content-Length: {len(chunk)}", body=chunk
            )
            status, headers, _ = wire.read_response()
            assert (status, headers["location"], headers["range"]) == (416, location, "0-0")
        wire.send_request(
            "PATCH", location, f"Content-Range: 0-{len(chunk) - 1}", f"Content-Length: {len(chunk)}", body=chunk
        )
        assert wire.read_response()[1]["range"] == f"0-{len(chunk) - 1}"


@pytest.mark.parametrize(
    ("request_", "statuses"),
    [
        (b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 2_000_000 + b"\r\n\r\n", {400, 431}),
        (
            b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n"
            + b"".join(b"X-%d: a\r\n" % n for n in range(100_000))
            + b"\r\n",
            {400, 431},
        ),
        (b"GET /v2/" + b"a" * 2_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 414, 431}),
        (b"GET /v2/?" + b"a&" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 414, 431}),
        (b"A" * 3_000_000, {400, 414, 431}),
    ],
    ids=["a header", "headers", "a path", "a query", "a method"],
)
@on_linux
def test_endless_request_head_is_rejected(server, request_, statuses):
    before = process_memory(server)
    with Wire(server) as wire:
        data = wire.send(request_).read_all()
    assert not data or int(data.split()[1]) in statuses
    assert process_memory(server) - before < 30_000_000
    assert send_request(server, "GET", "/v2/")[0] == 200


@on_linux
def test_huge_declared_chunk_allocates_no_memory(server):
    before = process_memory(server)
    with Wire(server) as wire:
        wire.send_request("PATCH", begin(server), "Transfer-Encoding: chunked", body=b"FFFFFFFFFFFF\r\nabc")
    with Wire(server) as wire:
        wire.send_request(
            "PUT",
            f"/v2/{NAME}/manifests/v1",
            "Transfer-Encoding: chunked",
            body=b"FFFFFFFFFFFF\r\n" + b"x" * 10_000_000,
        )
        assert wire.read_response()[0] == 413
    assert process_memory(server) - before < 50_000_000


@on_linux
def test_large_manifests_are_parsed_one_at_a_time():
    """Parsing needs fifty times the size of a manifest in process_memory, so five at once must not be parsed concurrently."""
    config = b'{"mediaType":"a/b","digest":"%s","size":1}' % ABSENT.encode()
    raw = b'{"schemaVersion":2,"config":%s,"layers":[],"x":[%s]}' % (config, b",".join([b'{"a":1}'] * 200_000))
    with ocikit.serve(options=ocikit.ServerOptions(references="sparse")) as server:
        statuses = []

        def push(n):
            statuses.append(
                send_request(server, "PUT", f"/v2/{NAME}/manifests/v{n}", f"Content-Type: {MANIFEST}", body=raw)[0]
            )

        threads = [threading.Thread(target=push, args=(n,)) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [201] * 5
        assert process_memory(server) < 400_000_000


# Truncated bodies


@pytest.mark.parametrize("body", [b"", b"ab"])
def test_truncated_body_is_stored_and_resumed(server, body):
    location = begin(server)
    with Wire(server) as wire:
        wire.send_request("PATCH", location, "Content-Length: 5", body=body)
        wire.socket.shutdown(socket.SHUT_WR)
        wire.read_all()
    _, headers, _ = send_request(server, "PATCH", location)
    assert headers["range"] == f"0-{max(len(body) - 1, 0)}"
    rest = b"abcde"[len(body) :]
    assert send_request(server, "PATCH", location, f"Content-Range: {len(body)}-4", body=rest)[1]["range"] == "0-4"
    assert send_request(server, "PUT", f"{location}?digest={digest_of(b'abcde')}")[0] == 201


@pytest.mark.parametrize("framing", ["Content-Length: {}", "Transfer-Encoding: chunked"])
def test_truncated_manifest_is_not_stored(server, framing):
    name, raw = f"cut/{'chunked' if 'chunked' in framing else 'length'}", b""
    raw = image(server, name)
    for end in (0, 1, len(raw) // 2, len(raw) - 1):
        with Wire(server) as wire:
            part = raw[:end]
            body = b"%x\r\n" % len(raw) + part if "chunked" in framing else part
            wire.send_request(
                "PUT", f"/v2/{name}/manifests/v1", framing.format(len(raw)), f"Content-Type: {MANIFEST}", body=body
            )
            wire.socket.shutdown(socket.SHUT_WR)
            wire.read_all()
    assert json.loads(send_request(server, "GET", f"/v2/{name}/tags/list")[2])["tags"] == []


# Slow clients


@contextlib.contextmanager
def stalled_connections(server, count, *data, buffer=None):
    """Yield connections that have sent some bytes and then stall."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Wire(server, buffer)).send(*data) for _ in range(count)]


@pytest.mark.parametrize(
    "head", [b"", b"G", b"GET /v2/ HTTP/1.1\r\n", b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX-A: a"]
)
def test_slow_request_heads_block_no_others(server, head):
    with stalled_connections(server, 40, head):
        assert send_request(server, "GET", "/v2/")[0] == 200
        push(server, b"meanwhile")


@pytest.mark.parametrize("framing", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
def test_slow_request_bodies_block_no_others(server, framing):
    body = "2\r\nab\r\n" if "chunked" in framing else "ab"
    for head in (
        f"PUT /v2/{NAME}/manifests/slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: {MANIFEST}\r\n",
        f"POST /v2/{NAME}/blobs/uploads/?digest={ABSENT} HTTP/1.1\r\nHost: localhost\r\n",
    ):
        with stalled_connections(server, 40, f"{head}{framing}\r\n\r\n{body}"):
            assert send_request(server, "GET", "/v2/")[0] == 200
            tag(server, NAME, "meanwhile")


@on_linux
def test_slow_readers_block_no_others_and_use_no_memory(server):
    digest = push(server, os.urandom(1 << 20) * 32)
    before = process_memory(server, "VmRSS")
    head = f"GET /v2/{NAME}/blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with stalled_connections(server, 40, head, buffer=4096) as wires:
        for wire in wires:
            assert wire.socket.recv(12) == b"HTTP/1.1 200"
        assert send_request(server, "GET", "/v2/")[0] == 200
        tag(server, NAME, "meanwhile")
        assert process_memory(server, "VmRSS") - before < 300_000_000
    assert len(send_request(server, "GET", f"/v2/{NAME}/blobs/{digest}")[2]) == 32 << 20
