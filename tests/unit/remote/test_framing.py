"""Responses whose framing violates HTTP: chunk sizes, lengths, interim responses, trailers."""

import contextlib
import socket
import threading
import time
import tracemalloc

import pytest
from ocikit import errors
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.config.network import Network
from ocikit.remote.http import deadlines
from ocikit.remote.http.framing import MAX_INTERIM, MAX_TRAILERS
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry
from ocikit.spec.descriptor import Descriptor

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class RawServer:
    """A server that sends the same bytes for each request, then a filler until the client leaves."""

    def __init__(self, content, filler=b"", most=64 << 20, pause=0.0, close=False):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests = self.connections = 0
        self._close = close
        self._content, self._filler, self._most, self._pause = content, filler, most, pause
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=self._listener.accept()[:1], daemon=True).start()

    def _answer(self, connection):
        self.connections += 1
        with contextlib.suppress(OSError), connection:
            while connection.recv(1 << 16):
                self.requests += 1
                connection.sendall(self._content.replace(b"HOST", self.host.encode()))
                sent = 0
                while self._filler and sent < self._most:
                    connection.sendall(self._filler)
                    sent += len(self._filler)
                    time.sleep(self._pause)
                if self._filler or self._close:
                    return

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def raw():
    """A function that starts a server for raw bytes and returns it with a registry that uses it."""
    with contextlib.ExitStack() as stack:

        def start(content, filler=b"", *, retries=2, read_timeout=5.0, **options):
            server = stack.enter_context(contextlib.closing(RawServer(content, filler, **options)))
            network = Network(retries=retries, read_timeout=read_timeout, schemes={server.host: "http"})
            transport = Transport(server.host, network=network, keychain=Keychain(environ={}))
            stack.callback(transport.close)
            return server, Registry(transport)

        yield start


class _Counted(deadlines.TooSlow):
    """A TooSlow that counts itself."""

    count = 0

    def __init__(self, *args):
        super().__init__(*args)
        type(self).count += 1


SIZES = [b"-1", b"-2", b"+5", b" 5", b"5 ", b"\t5", b"1_0", b"0x5", b"", b"g", b"\xb2", b"f" * 40]


@pytest.mark.parametrize("size", SIZES, ids=repr)
def test_invalid_chunk_size_is_invalid_response(raw, size):
    server, registry = raw(CHUNKED + size + b"\r\n" + b"x" * 64)
    repository = registry.repository("a/b")
    with pytest.raises(errors.InvalidResponse, match="the size of a chunk is"):
        repository.tags()
    assert server.requests == 1  # another attempt would have the same result
    with pytest.raises(errors.InvalidResponse, match="the size of a chunk is"):
        repository.fetch(Descriptor.of(b"x" * 64, MANIFEST))
    with (
        pytest.raises(errors.InvalidResponse, match="the size of a chunk is"),
        repository.open(Descriptor.of(b"x" * 64, "application/octet-stream")) as blob,
    ):
        blob.read()


@pytest.mark.parametrize("size", [b"-1", b"-2"])
def test_invalid_chunk_size_of_token_is_invalid_response(raw, size):
    token, _ = raw(CHUNKED + size + b"\r\n" + b"x" * 64)
    challenge = f'WWW-Authenticate: Bearer realm="http://{token.host}/token",service="x"'
    _, registry = raw(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n" + challenge.encode() + b"\r\n\r\n")
    with pytest.raises(errors.InvalidResponse, match="the size of a chunk is"):
        registry.repository("a/b").tags()


def test_chunk_size_of_minus_one_costs_no_memory(raw):
    _, registry = raw(CHUNKED + b"-1\r\n", filler=b"x" * (1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(errors.InvalidResponse):
            registry.repository("a/b").tags()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("line", [b"5", b"05", b"5;a=b", b"5 ;a=b", b'5;a="b c"'])
def test_valid_chunk_size_is_read(raw, line):
    body = b'{"name":"a/b","tags":["v1"]}'
    chunks = line + b"\r\n" + body[:5] + b"\r\n" + f"{len(body) - 5:X}".encode() + b"\r\n" + body[5:] + b"\r\n0\r\n\r\n"
    _, registry = raw(CHUNKED + chunks)
    assert list(registry.repository("a/b").tags()) == ["v1"]


@pytest.mark.parametrize("length", [b"-1", b"+5", b"1_0", b"0x5", b"five", b"5;6"])
def test_invalid_content_length_is_invalid_response(raw, length):
    _, registry = raw(HEAD + b"Content-Length: " + length + b"\r\n\r\n{}")
    with pytest.raises(errors.InvalidResponse, match="Content-Length is"):
        registry.repository("a/b").tags()


@pytest.mark.parametrize("second", [b"5", b"2, 3"])
def test_contradictory_content_lengths_are_invalid_response(raw, second):
    _, registry = raw(HEAD + b"Content-Length: 2\r\nContent-Length: " + second + b"\r\n\r\n{}")
    with pytest.raises(errors.InvalidResponse, match="Content-Length is"):
        registry.repository("a/b").tags()


def test_repeated_content_length_is_read(raw):
    body = b'{"name":"a/b","tags":["v1"]}'
    length = f"Content-Length: {len(body)}, {len(body)}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    server, registry = raw(HEAD + length + body)
    assert [list(registry.repository("a/b").tags()) for _ in range(2)] == [["v1"], ["v1"]]
    assert server.connections == 1


LINES = [b"no colon", b"Name : value", b": value", b"N\0me: value", b"Name: a\0b", b"Name: a\rX: b", b"N\xe4me: value"]


@pytest.mark.parametrize("line", LINES, ids=repr)
def test_invalid_header_line_is_invalid_response(raw, line):
    server, registry = raw(HEAD + line + b"\r\nContent-Length: 2\r\n\r\n{}")
    with pytest.raises(errors.InvalidResponse, match="a header is"):
        registry.repository("a/b").tags()
    assert server.requests == 1


def test_first_header_line_cannot_be_folded(raw):
    _, registry = raw(b"HTTP/1.1 200 OK\r\n folded: x\r\nContent-Length: 2\r\n\r\n{}")
    with pytest.raises(errors.InvalidResponse, match="a header is"):
        registry.repository("a/b").tags()


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=repr)
def test_folded_header_is_one_value(raw, end):
    """obs-fold is replaced with a space: RFC 9112 section 5.2."""
    body = b'{"name":"a/b","tags":["v1"]}'
    head = [b"HTTP/1.1 200 OK", b"X-Note:  a", b"\tb ", b"  c", b"Empty:", b"Content-Length: %d" % len(body), b"", b""]
    _, registry = raw(end.join(head) + body)
    response = registry.transport.request("GET", "/v2/", "ask")
    assert response.headers["X-Note"] == "a b c"
    assert response.headers["empty"] == ""
    assert response.raw.headers["x-note"] == "a b c"
    assert response.json()["tags"] == ["v1"]


def test_hundred_headers_are_read_and_more_fail(raw):
    for count in (100, 101):
        _, registry = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + b"a: b\r\n" * (count - 1) + b"\r\n", retries=0)
        if count == 100:
            assert registry.transport.request("GET", "/v2/", "ask").headers["a"].count("b") == 99
        else:
            with pytest.raises(errors.ConnectionFailed, match="more than 100 headers"):
                registry.transport.request("GET", "/v2/", "ask")


def test_headers_cut_short_are_requested_again(raw):
    """http.client would take the connection's end for the end of the headers."""
    server, registry = raw(HEAD + b"Content-Le", close=True, retries=1)
    with pytest.raises(errors.ConnectionFailed):
        registry.repository("a/b").tags()
    assert server.requests == 2


def test_endless_interim_responses_are_invalid_response(raw):
    _, registry = raw(b"", filler=b"HTTP/1.1 100 Continue\r\n\r\n", most=1 << 30)
    with pytest.raises(errors.InvalidResponse, match=f"more than {MAX_INTERIM} interim responses"):
        registry.repository("a/b").tags()


def test_headers_that_never_end_time_out(raw, monkeypatch):
    monkeypatch.setattr(deadlines, "TooSlow", _Counted)
    _, registry = raw(HEAD, filler=b"X", pause=0.02, retries=0, read_timeout=0.2)
    with pytest.raises(errors.TimedOut):
        registry.repository("a/b").tags()
    assert _Counted.count == 1  # the bytes arrive faster than the read timeout


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
def test_interim_responses_are_skipped(raw, status):
    body = b'{"name":"a/b","tags":["v1"]}'
    interim = b"HTTP/1.1 " + status + b"\r\nLink: </style.css>\r\n\r\n"
    _, registry = raw(interim * 2 + HEAD + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert list(registry.repository("a/b").tags()) == ["v1"]


def test_endless_trailers_are_invalid_response(raw):
    _, registry = raw(CHUNKED + b"2\r\n{}\r\n0\r\n", filler=b"X-A: b\r\n" * 100, most=1 << 30)
    with pytest.raises(errors.InvalidResponse, match=f"more than {MAX_TRAILERS} trailers"):
        registry.repository("a/b").tags()
