"""Total timeouts hold: a server that sends or accepts a byte now and then cannot hold a call indefinitely."""

import io
import json
import random
import socket
import threading
import time

import pytest
from ocikit import errors
from ocikit.spec.descriptor import Descriptor
from ocikit.store.memory import MemoryStore

PAUSE = 0.02  # seconds between bytes
CONTENT = random.Random(5).randbytes(9 << 20)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
OCI = "application/vnd.oci.image.manifest.v1+json"


class Trickle:
    """A slow server, a context manager.

    `paths` maps a method and a part of the path, such as GET_manifests, to a response: status, headers, body, and which
    of "headers", "body" and "request" is slow. Other requests get an empty 200.
    """

    def __init__(self, **paths):
        self.paths = paths
        self.requests = []
        self._over = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self.host = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._socket.close()

    def _accept(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        try:
            with connection, connection.makefile("rb") as incoming:
                while line := incoming.readline().decode():
                    fields = dict(
                        iter(lambda: incoming.readline().decode().strip().lower().partition(": ")[::2], ("", ""))
                    )
                    method, path, _ = line.split(" ")
                    self.requests.append(f"{method} {path}")
                    key = next((k for k in self.paths if k.split("_")[0] == method and k.split("_")[1] in path), "")
                    status, headers, body, slow = self.paths.get(key) or (200, {}, b"", "")
                    left = int(fields.get("content-length", 0))
                    while left and (part := incoming.read(min(left, 16384))):
                        left -= len(part)
                        if slow == "request":
                            self._over.wait(PAUSE)
                    head = f"HTTP/1.1 {status} .\r\nContent-Length: {len(body)}\r\n"
                    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
                    self._send(connection, head.encode(), slow == "headers")
                    if method != "HEAD":
                        self._send(connection, body, slow == "body")
        except OSError:
            pass

    def _send(self, connection, content, slowly):
        for i in range(0, len(content), 1 if slowly else 1 << 20):
            connection.sendall(content[i : i + (1 if slowly else 1 << 20)])
            if slowly and self._over.wait(PAUSE):
                raise OSError


RAW = json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": {"mediaType": "a/b", "digest": BLOB.digest, "size": 1}, "layers": [], "annotations": {"x": "y" * 20_000}}).encode()  # fmt: skip
LONG = {f"X-{n}": "x" * 1000 for n in range(20)}


@pytest.mark.parametrize(("headers", "slow"), [(LONG, "headers"), ({"Content-Type": OCI}, "body")])
def test_slow_document_ends_at_total_timeout(open_repository, headers, slow):
    with Trickle(GET_manifests=(200, headers, RAW, slow)) as trickle:
        with pytest.raises(errors.TimedOut, match="more than 0.5 s in total"):
            open_repository(trickle.host, total_timeout=0.5).get_manifest("v1")
        assert len(trickle.requests) == 1


@pytest.mark.parametrize("slow", ["headers", "body"])
def test_slow_blob_ends_at_total_timeout(open_repository, slow):
    with Trickle(GET_blobs=(200, LONG, CONTENT, slow)) as trickle:
        with pytest.raises(errors.TimedOut, match="more than 0.5 s in total"):
            open_repository(trickle.host, total_timeout=0.5).open(BLOB).read()
        assert len(trickle.requests) == 1


def test_slow_token_ends_at_total_timeout_of_its_call(open_repository):
    with Trickle() as trickle:
        challenge = {"WWW-Authenticate": f'Bearer realm="http://{trickle.host}/token"'}
        trickle.paths["GET_manifests"] = (401, challenge, b"", "")
        for slow in ("headers", "body"):
            trickle.paths["GET_token"] = (200, LONG, json.dumps({"token": "t" * 20_000}).encode(), slow)
            with pytest.raises(errors.TimedOut, match="more than 0.5 s in total"):
                open_repository(trickle.host, total_timeout=0.5).get_manifest("v1")


def test_slow_error_body_is_raised_without_message(open_repository):
    words = json.dumps({"errors": [{"code": "DENIED", "message": "no" * 10_000}]}).encode()
    with Trickle(GET_manifests=(403, {}, words, "body")) as trickle, pytest.raises(errors.Denied) as caught:
        open_repository(trickle.host, total_timeout=0.5).get_manifest("v1")
    assert "nono" not in str(caught.value)


def test_slow_deletion_response_is_not_read_completely(open_repository):
    with Trickle(DELETE_manifests=(202, {}, b" " * 60_000, "body")) as trickle:
        open_repository(trickle.host, total_timeout=0.5).delete_manifest("v1")


@pytest.mark.parametrize("chunk_size", [None, 4 << 20])
@pytest.mark.parametrize("slow", ["request", "headers"])
def test_slow_upload_ends_at_total_timeout(open_repository, chunk_size, slow):
    with Trickle(POST_uploads=(202, {"Location": "/v2/a/b/blobs/uploads/1"}, b"", "")) as trickle:
        trickle.paths |= {"PUT_uploads": (201, LONG, b"", slow), "PATCH_uploads": (202, LONG, b"", slow)}
        trickle.paths["HEAD_blobs"] = (404, {}, b"", "")
        with pytest.raises(errors.TimedOut, match="more than 0.5 s in total"):
            open_repository(trickle.host, push=True, total_timeout=0.5).push(BLOB, io.BytesIO(CONTENT), chunk_size=chunk_size)  # fmt: skip
        assert [r.split()[0] for r in trickle.requests[:3]] == ["POST", "PATCH" if chunk_size else "PUT", "DELETE"]
        assert len(trickle.requests) == 3, "the session is cancelled, and nothing is tried again"


def test_slow_document_is_limited_without_total_timeout(open_repository):
    with Trickle(GET_manifests=(200, {"Content-Type": OCI}, RAW, "body")) as trickle:
        with pytest.raises(errors.TimedOut, match="too slowly"):
            open_repository(trickle.host, read_timeout=0.3, retries=0).get_manifest("v1")


def test_pausing_document_completes(server, open_repository):
    """Delays below the timeouts have no effect."""
    server.manifest("a/b", RAW, "v1")
    server.on("GET", "/v2/a/b/manifests/v1", delay=0.2)
    assert open_repository(server, read_timeout=2, total_timeout=5).get_manifest("v1")[0] == RAW


def test_retry_after_total_timeout_is_not_awaited(server, open_repository):
    server.manifest("a/b", RAW, "v1")
    server.on("GET", ".*", status=503, headers={"Retry-After": "60"}, times=None)
    with pytest.raises(errors.RegistryError, match="503"):
        open_repository(server, total_timeout=5).get_manifest("v1")
    assert len(server.requests) == 1


def test_blob_read_continues_after_request_with_deadline(server, open_repository):
    """A reused connection drops the deadline of its last request."""
    server.blob("a/b", CONTENT)
    server.manifest("a/b", RAW, "v1")
    repository = open_repository(server, total_timeout=1.0)
    repository.get_manifest("v1")
    time.sleep(1.0)
    target = MemoryStore()
    target.push(BLOB, repository.open(BLOB))
    assert target.fetch(BLOB, limit=1 << 30) == CONTENT and server.connections == 1
