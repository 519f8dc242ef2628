"""Many concurrent clients of a server with two workers: no lost writes, and no partial reads."""

import contextlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import ocikit
import pytest
from ocikit.server.http.settings import Limits
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest

from tests.tools import soak_crowd
from tests.tools.soak_crash import Client

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def server(store):
    with ocikit.serve(store, options=ocikit.ServerOptions(workers=2)) as running:
        yield running


@pytest.fixture
def clients(server):
    """Return a function that opens a client with its own connection."""
    opened = []

    def open_client(host=server.host):
        opened.append(Client(str(len(opened)), None))
        opened[-1].connect(host)
        return opened[-1]

    yield open_client
    for client in opened:
        client.connect("")


def run_concurrently(calls):
    """Call functions at the same moment, each in a thread, and return the results."""
    start = threading.Barrier(len(calls))

    def run(call):
        start.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def push(client, content, repository):
    return client.ask("POST", f"/v2/{repository}/blobs/uploads/?digest={Digest.of(content)}", content)[0]


def image(*layers, **annotations):
    parts = [{"mediaType": "application/x", "digest": Digest.of(layer), "size": len(layer)} for layer in layers]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:], "annotations": annotations}
    ).encode()


def put(client, raw, repository, tag):
    return client.ask("PUT", f"/v2/{repository}/manifests/{tag}", raw, Content_Type=MANIFEST)[0]


def test_concurrent_pushes_of_one_blob_succeed(clients, store, repo):
    content = os.urandom(300_000)
    calls = [partial(push, clients(), content, repo) for _ in range(32)]
    assert run_concurrently(calls) == [201] * 32
    assert clients().ask("GET", f"/v2/{repo}/blobs/{Digest.of(content)}")[2] == content
    files = [path.name for path in (store / "blobs" / "sha256").iterdir()]
    assert files.count(Digest.of(content).encoded) == 1
    assert not [name for name in files if name.startswith(".")]


def test_concurrent_tags_are_all_stored(clients, repo):
    content = os.urandom(10)
    assert push(clients(), content, repo) == 201
    tags = [f"t{n:02}" for n in range(32)]
    calls = [partial(put, clients(), image(content, tag=tag), repo, tag) for tag in tags]
    assert run_concurrently(calls) == [201] * 32
    assert json.loads(clients().ask("GET", f"/v2/{repo}/tags/list")[2])["tags"] == tags
    for tag in tags:
        assert clients().ask("GET", f"/v2/{repo}/manifests/{tag}")[2] == image(content, tag=tag)


def test_concurrent_pushes_of_one_tag_never_mix(clients, repo):
    contents = [os.urandom(10) for _ in range(16)]
    manifests = [image(content, n=str(n)) for n, content in enumerate(contents)]
    first = clients()
    for content in contents:
        assert push(first, content, repo) == 201
    assert put(first, manifests[0], repo, "v1") == 201
    over, seen = threading.Event(), set()

    def look(client):
        while not over.is_set():
            status, headers, raw = client.ask("GET", f"/v2/{repo}/manifests/v1")
            assert (status, headers["Docker-Content-Digest"]) == (200, Digest.of(raw))
            seen.add(raw)

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(look, clients()) for _ in range(2)]
        try:
            calls = [partial(put, clients(), raw, repo, "v1") for raw in manifests]
            assert run_concurrently(calls) == [201] * 16
        finally:
            over.set()
        for future in readers:
            future.result()
    assert seen <= set(manifests)
    assert put(first, manifests[3], repo, "v1") == 201
    assert clients().ask("GET", f"/v2/{repo}/manifests/v1")[2] == manifests[3]


@pytest.mark.parametrize("ranged", [True, False])
def test_one_of_many_chunks_for_one_offset_is_accepted(clients, repo, ranged):
    location = clients().ask("POST", f"/v2/{repo}/blobs/uploads/")[1]["Location"]
    chunks = [bytes([n]) * 200_000 for n in range(8)]
    headers = {"Content_Range": "0-199999"} if ranged else {}
    calls = [partial(clients().ask, "PATCH", location, chunk, **headers) for chunk in chunks]
    responses = run_concurrently(calls)
    accepted = [chunk for chunk, response in zip(chunks, responses, strict=True) if response[0] == 202]
    assert {response[0] for response in responses} <= {202, 416}
    if ranged:
        assert len(accepted) == 1
    size = clients().ask("GET", location)[1]["Range"]
    assert size == f"0-{200_000 * len(accepted) - 1}"
    # Each chunk is complete, in any order
    joined = b"".join(sorted(accepted))
    if len(accepted) == 1:
        assert clients().ask("PUT", f"{location}?digest={Digest.of(joined)}")[0] == 201


def test_second_chunk_is_rejected_during_a_transfer(server, clients, repo):
    location = clients().ask("POST", f"/v2/{repo}/blobs/uploads/")[1]["Location"]
    content = os.urandom(500_000)
    with slow(server, location, len(content)) as sending:
        sending(content[:300_000])
        size = arrived(clients(), location, 200_000)
        status, headers, _ = clients().ask("PATCH", location, b"other")
        assert (status, headers["Range"]) == (416, f"0-{size - 1}")
        assert clients().ask("PUT", f"{location}?digest={Digest.of(content[:size])}")[0] == 416
        sending(content[300_000:])
        arrived(clients(), location, len(content))
    # The lock is released just before the response is sent
    while (status := clients().ask("PUT", f"{location}?digest={Digest.of(content)}")[0]) == 416:
        time.sleep(0.01)
    assert status == 201


@contextlib.contextmanager
def slow(server, location, length=None):
    """Start a PATCH and yield the function that sends its body; without a length, the body is chunked."""
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        how = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        connection.sendall(f"PATCH {location} HTTP/1.1\r\nHost: {server.host}\r\n{how}\r\n\r\n".encode())

        def send(part):
            connection.sendall(part if length is not None else b"%x\r\n%s\r\n" % (len(part), part))

        yield send


def arrived(client, location, size):
    """Wait until `size` bytes of an upload are stored, and return the stored size; the test's timeout limits this.

    A server reads a body in chunks, and waits until a chunk is complete or the client has disconnected.
    """
    while (stored := int(client.ask("GET", location)[1]["Range"].partition("-")[2]) + 1) < size:
        time.sleep(0.01)
    return stored


def members(server):
    """Return the /proc folders of the processes of a server."""
    folders = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[3]) == server._child.process.pid:
                folders.append(path.parent)
    return folders


def descriptors(server):
    """Return the number of upload and blob files that the server's processes have open."""
    names = []
    for process in members(server):
        for fd in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                names.append(os.readlink(fd))
    return sum("/uploads/" in name or "/blobs/" in name for name in names)


def test_every_worker_keeps_its_database_locks(server, clients, store, repo):
    """Without locks another process assumes that it is alone, and truncates a file that is mapped by others."""
    calls = [partial(push, clients(), os.urandom(1000), repo) for _ in range(32)]
    assert run_concurrently(calls) == [201] * 32
    mapped = os.stat(store / "registry.db-shm").st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    holders = {fields[4] for fields in lines if fields[5].endswith(f":{mapped}")}
    users = {process.name for process in members(server) if "registry.db-shm" in (process / "maps").read_text()}
    assert users
    assert users <= holders


@pytest.mark.parametrize("length", [500_000, None], ids=["announced", "chunked"])
def test_upload_of_disconnected_client_can_be_resumed(server, clients, repo, length):
    content = os.urandom(500_000)
    client = clients()
    location = client.ask("POST", f"/v2/{repo}/blobs/uploads/")[1]["Location"]
    with slow(server, location, length) as sending:
        sending(content[:300_000])
        arrived(client, location, 200_000)
    while descriptors(server):
        time.sleep(0.01)
    size = arrived(client, location, 200_000)
    assert size <= 300_000
    assert client.ask("PATCH", location, content[size:], Content_Range=f"{size}-{len(content) - 1}")[0] == 202
    assert client.ask("PUT", f"{location}?digest={Digest.of(content)}")[0] == 201
    assert client.ask("GET", f"/v2/{repo}/blobs/{Digest.of(content)}")[2] == content


def test_disconnected_clients_leave_no_open_files(server, clients, repo):
    client, content = clients(), os.urandom(8 << 20)
    assert push(client, content, repo) == 201
    host, port = server.host.split(":")
    for turn in range(20):
        location = client.ask("POST", f"/v2/{repo}/blobs/uploads/")[1]["Location"]
        with slow(server, location, 300_000 if turn % 2 else None) as sending:
            sending(bytes(200_000))
            arrived(client, location, 100_000)
        with socket.create_connection((host, int(port)), timeout=30) as reading:
            request = f"GET /v2/{repo}/blobs/{Digest.of(content)} HTTP/1.1\r\nHost: {server.host}\r\n\r\n"
            reading.sendall(request.encode())
            assert reading.recv(1000)
    while descriptors(server):
        time.sleep(0.01)


def test_slow_reader_survives_delete(clients, server, store, repo):
    content = os.urandom(16 << 20)
    client, digest = clients(), Digest.of(content)
    assert push(client, content, repo) == 201
    host, port = server.host.split(":")
    with socket.create_connection((host, int(port)), timeout=30) as reading:
        request = f"GET /v2/{repo}/blobs/{digest} HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n"
        reading.sendall(request.encode())
        data = reading.recv(1000)
        assert client.ask("DELETE", f"/v2/{repo}/blobs/{digest}")[0] == 202
        assert client.ask("GET", f"/v2/{repo}/blobs/{digest}")[0] == 404
        # As garbage collection does after the grace period
        (store / "blobs" / "sha256" / digest.encoded).unlink()
        while part := reading.recv(1 << 20):
            data += part
    assert data.partition(b"\r\n\r\n")[2] == content
    assert client.ask("GET", f"/v2/{repo}/blobs/{digest}")[0] == 404
    assert push(client, content, repo) == 201


def test_readers_of_a_new_repository_see_nothing_or_all(clients, repo):
    contents = [os.urandom(1000) for _ in range(5)]
    raw = image(*contents)
    over = threading.Event()

    def read(client):
        """Read until the tag exists, and return the number of attempts."""
        turns = 0
        while True:
            turns += 1
            last = over.is_set()
            tags = client.ask("GET", f"/v2/{repo}/tags/list")
            assert tags[0] in {200, 404}
            assert tags[0] == 404 or json.loads(tags[2])["tags"] in ([], ["v1"])
            status, _, body = client.ask("GET", f"/v2/{repo}/manifests/v1")
            assert status in {200, 404}
            if status == 200:
                assert body == raw
                for content in contents:
                    assert client.ask("GET", f"/v2/{repo}/blobs/{Digest.of(content)}")[2] == content
                return turns
            assert not last

    def write(client):
        for content in contents:
            assert push(client, content, repo) == 201
        assert put(client, raw, repo, "v1") == 201
        over.set()
        return 0

    calls = [partial(read, clients()) for _ in range(6)]
    assert all(run_concurrently([*calls, partial(write, clients())])[:-1])


def test_limits_apply_to_all_workers_together(tmp_path):
    limits = Limits(repository=100_000, sessions=20, sessions_each=20)
    with (
        ocikit.serve(tmp_path, options=ocikit.ServerOptions(workers=2, limits=limits)) as server,
        contextlib.ExitStack() as stack,
    ):

        def opened():
            client = Client("", None)
            client.connect(server.host)
            stack.callback(client.connect, "")
            return client

        clients = [opened() for _ in range(16)]
        contents = [os.urandom(30_000) for _ in clients]
        calls = [partial(push, client, content, "a") for client, content in zip(clients, contents, strict=True)]
        responses = run_concurrently(calls)
        assert (responses.count(201), responses.count(413)) == (3, 13)
        started = [clients[n % 16].ask("POST", "/v2/b/blobs/uploads/") for n in range(25)]
        assert [status for status, _, _ in started] == [202] * 20 + [429] * 5
        # A cancelled upload allows one more, on any worker
        assert clients[0].ask("DELETE", started[0][1]["Location"])[0] == 204
        assert sorted(client.ask("POST", "/v2/b/blobs/uploads/")[0] for client in clients[:4]) == [202, 429, 429, 429]


def test_crowd_loses_nothing_during_garbage_collection():
    result = soak_crowd.soak(3)
    assert min(result["push"], result["pull"], result["collections"]) > 0


def test_store_is_valid_after_all_tests(server, store):
    storage = file_storage(store)
    try:
        assert verify(storage).ok
    finally:
        storage.close()
