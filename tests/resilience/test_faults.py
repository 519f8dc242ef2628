"""Faults between ocikit and real registries: correct bytes or a typed error, and few retransmitted bytes.

`python -m tests.tools.fault_table` tests every request with every fault, for other clients too.
"""

import io
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ocikit
import pytest
from ocikit.errors import ConnectionFailed, OcikitError, RegistryError, TimedOut
from ocikit.remote.auth.keychain import ANONYMOUS, Keychain
from ocikit.remote.config.network import Network
from ocikit.remote.http.responses import drain
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry
from ocikit.spec.descriptor import Descriptor
from ocikit.testing.proxy import Proxy

from tests.resilience import matrix
from tests.resilience.matrix import FORMS, MIB, Cell, Image
from tests.support import images, peers
from tests.support.home import largest_file

SIZE = 16 * MIB
BLOB, UPLOAD = r"/v2/.+/blobs/sha256:.+", r"/v2/.+/blobs/uploads/.+"
CHUNK = 4 * MIB

#: Bytes. A reset discards bytes that this machine received and did not read.
UNREAD = int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[2]) if Path("/proc").is_dir() else 8 * MIB


@pytest.fixture(
    scope="module", params=["ocikit", pytest.param("distribution3", marks=pytest.mark.peers("distribution3"))]
)
def upstream(request):
    with peers.KINDS[request.param]() as running:
        yield running


#: Kinds that are independent of the registry's storage.
ours = pytest.mark.parametrize("upstream", ["ocikit"], indirect=True)


@pytest.fixture
def proxy(upstream):
    with Proxy(upstream.url) as running:
        yield running


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return Image.made(tmp_path_factory.mktemp("image") / "layout", SIZE)


# One fault

HALF = SIZE // 2 + 17
BROKEN = [Cell("GET blob", "cut", at) for at in matrix.positions(SIZE)]
BROKEN += [Cell("GET blob", "reset", at) for at in (0, HALF, SIZE - 1)]
BROKEN += [Cell("GET blob", kind, HALF) for kind in ("stall", "chunked, cut", "short")]
AGAIN = [Cell("GET blob", kind, HALF) for kind in ("wrong Content-Range", "200 to a range", "416")]
ASKED = ["502, HTML", "503, date", "429", "answer lost", "no answer"]


@pytest.mark.parametrize("cell", BROKEN, ids=str)
def test_broken_pull_resumes_at_its_offset(image, proxy, tmp_path, cell):
    outcome = matrix.pull("ocikit", image, proxy, cell, tmp_path)
    assert outcome.survived, outcome.why
    assert outcome.moved <= image.size + (UNREAD if cell.kind == "reset" else 0) + MIB


@pytest.mark.parametrize("cell", AGAIN, ids=str)
def test_pull_without_ranges_starts_again(image, proxy, tmp_path, cell):
    outcome = matrix.pull("ocikit", image, proxy, cell, tmp_path)
    assert outcome.survived, outcome.why
    assert sum(fault.fired for fault in proxy.faults) >= 1
    # Responses that were requested, wrong and not read fit into buffers
    assert outcome.moved <= HALF + image.size + UNREAD + MIB


@ours
@pytest.mark.parametrize("kind", ASKED)
def test_pull_retries_failed_request(image, proxy, tmp_path, kind):
    outcome = matrix.pull("ocikit", image, proxy, Cell("GET blob", kind), tmp_path)
    assert outcome.survived, outcome.why
    assert outcome.moved <= image.size + UNREAD


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Image.made(tmp_path_factory.mktemp("image") / "layout", 1000)


@ours
@pytest.mark.parametrize("request_", ["HEAD manifest", "GET manifest"])
@pytest.mark.parametrize("kind", ["502, HTML", "never asked", "answer lost, reset"])
def test_document_request_is_retried(small, proxy, tmp_path, request_, kind):
    assert matrix.pull("ocikit", small, proxy, Cell(request_, kind), tmp_path).survived


@ours
@pytest.mark.parametrize("kind", ["cut", "chunked, cut", "short", "gzip"])
def test_truncated_document_is_requested_again(small, proxy, tmp_path, kind):
    outcome = matrix.pull("ocikit", small, proxy, Cell("GET manifest", kind, 100), tmp_path)
    assert not outcome.lied
    assert outcome.survived or kind.startswith("short"), outcome.why


@ours
@pytest.mark.parametrize("cell", [Cell("GET blob", "gzip"), Cell("GET blob", "slow")], ids=str)
def test_pull_accepts_any_framing_of_the_body(image, proxy, tmp_path, cell):
    outcome = matrix.pull("ocikit", image, proxy, cell, tmp_path)
    assert outcome.survived, outcome.why


PUSHED = [Cell("PUT blob", "request cut", at) for at in matrix.positions(SIZE)]
PUSHED += [Cell("PUT blob", "request reset", at) for at in (0, HALF)]
PUSHED += [Cell("PUT blob", kind) for kind in ("500", "503, date", "429", "answer lost")]


@pytest.mark.parametrize("cell", PUSHED, ids=str)
def test_broken_push_completes(image, proxy, tmp_path, cell):
    outcome = matrix.push("ocikit", image, proxy, cell, tmp_path)
    assert outcome.survived, outcome.why


@ours
def test_broken_upload_waits_before_status_request(image, proxy, tmp_path):
    cell = Cell("PUT blob", "request cut", image.size)
    # A busy machine may need more than a moment
    moved = (matrix.push("ocikit", image, proxy, cell, tmp_path).moved for _ in range(5))
    assert any(each <= image.size + MIB for each in moved)


@ours
@pytest.mark.parametrize("request_", ["HEAD blob", "POST", "PUT manifest"])
@pytest.mark.parametrize("kind", ["502, HTML", "never asked", "answer lost, reset"])
def test_other_requests_of_push_are_retried(small, proxy, tmp_path, request_, kind):
    assert matrix.push("ocikit", small, proxy, Cell(request_, kind), tmp_path).survived


@ours
@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("kind", ["cut", "reset", "answer lost"])
def test_empty_and_one_byte_blobs_survive_both_ways(proxy, repo, open_blob, size, kind):
    descriptor, repository = open_blob(random.Random(kind).randbytes(size))
    lost = {"cut": {"cut_request": 0}, "reset": {"cut_request": 0, "reset": True}}
    proxy.on("PUT", UPLOAD, **lost.get(kind, FORMS[kind](0)[0]))
    repository.push(descriptor, io.BytesIO(random.Random(kind).randbytes(size)))
    proxy.on("GET", BLOB, **FORMS[kind](0)[0])
    with repository.open(descriptor) as stream:
        assert stream.read() == random.Random(kind).randbytes(size)


@pytest.fixture
def open_blob(proxy, repo):
    """Return the descriptor of content, and a repository to push it to."""
    transport = Transport(proxy.host, network=Network(read_timeout=2), keychain=Keychain(ANONYMOUS, environ={}))
    repository = Registry(transport).repository(repo, push=True)
    yield lambda content: (Descriptor.of(content, "application/octet-stream"), repository)
    transport.close()


@pytest.mark.parametrize("which, at", [(0, 0), (0, 1), (0, CHUNK // 2), (2, 1), (2, CHUNK // 2), (2, CHUNK - 1)])
def test_broken_chunk_resends_only_that_chunk(proxy, open_blob, which, at):
    content = random.Random(at).randbytes(SIZE)
    descriptor, repository = open_blob(content)
    seen = iter(range(100))
    proxy.on("PATCH", UPLOAD, cut_request=at, reset=True, when=lambda _: next(seen) == which)
    # A registry that has not noticed the broken connection reports an offset that it will undo
    proxy.on("GET", UPLOAD, delay=0.3, times=None)
    repository.push(descriptor, io.BytesIO(content), chunk_size=CHUNK)
    assert repository.exists(descriptor)
    assert matrix.moved(proxy, descriptor.digest) <= SIZE + CHUNK + MIB
    with repository.open(descriptor) as stream:
        assert stream.read() == content


@ours
def test_dropped_request_does_not_change_scheme(proxy):
    for milliseconds in range(0, 40, 4):
        proxy.on("GET", "/v2/", delay=milliseconds / 1000)
        proxy.on("GET", "/v2/dropped", drop="before")
        transport = Transport(proxy.host, network=Network(retries=1), keychain=Keychain(ANONYMOUS, environ={}))
        with ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(transport.request, "GET", path, "ask", ok_statuses=(404,))
                for path in ("/v2/dropped", "/v2/")
            ]
            assert [drain(each.result()) for each in asked] == [None, None]
        assert transport.base == proxy.url
        transport.close()


# Faults that stay

FOR_EVER = {
    "cut": ConnectionFailed,
    "short": ConnectionFailed,
    "502, HTML": RegistryError,
    "429": RegistryError,
    "no answer": TimedOut,
}


@ours
@pytest.mark.parametrize("kind", FOR_EVER)
def test_pull_from_dead_registry_raises_and_stores_nothing(image, proxy, repo, tmp_path, kind):
    image.put(proxy.upstream, repo, whole=True)
    Cell("GET blob", kind, 1000).install(proxy, image.layer, times=None)
    network = Network(read_timeout=0.3, retries=1)
    with ocikit.Session(credentials=ANONYMOUS, cache=tmp_path, network=network, progress=False) as session:
        with pytest.raises(FOR_EVER[kind]):
            session.pull(f"{proxy.host}/{repo}:v1")
    assert not images.blob(tmp_path, image.layer).exists()


@ours
@pytest.mark.parametrize("kind", ["request cut", "500"])
def test_push_to_dead_registry_raises(image, proxy, repo, tmp_path, kind):
    image.put(proxy.upstream, repo, whole=False)
    for request in ("PUT blob", "PATCH"):
        Cell(request, kind, 1000).install(proxy, image.layer, times=None)
    proxy.on("HEAD", BLOB, status=404, times=None)
    network = Network(read_timeout=1, retries=1)
    with ocikit.Session(credentials=ANONYMOUS, cache=tmp_path, network=network, progress=False) as session:
        with pytest.raises(OcikitError):
            session.copy(f"oci:{image.layout}:v1", f"{proxy.host}/{repo}:v1")


# Tokens


@pytest.fixture(scope="module")
def guarded(image):
    """Our own registry with tokens and an image."""
    with peers.ocikit(htpasswd=("ada", "lovelace"), options=["--token"]) as running:
        with ocikit.Session(credentials=running.auth, progress=False) as session:
            session.copy(f"oci:{image.layout}:v1", f"{running.host}/t/guarded:v1")
        yield running


@pytest.mark.parametrize(
    "kind", ["cut", "reset", "chunked, cut", "gzip", "503, seconds", "429", "never asked", "answer lost"]
)
def test_token_request_is_retried(guarded, small, tmp_path, kind):
    with Proxy(guarded.url) as proxy:
        Cell("GET token", kind, 10).install(proxy, small.layer)
        network = Network(read_timeout=matrix.READ_TIMEOUT)
        with ocikit.Session(credentials=guarded.auth, cache=tmp_path, network=network, progress=False) as session:
            session.pull(f"{proxy.host}/t/guarded:v1")
        assert proxy.faults[0].fired == 1


# Called again

NAME = "data.bin"


@pytest.fixture
def pulled(proxy, repo, tmp_path):
    """Return a reference to an artifact of one file through the proxy, its content, and a pull function."""
    content = random.Random(repo).randbytes(SIZE)
    (tmp_path / NAME).write_bytes(content)
    with ocikit.Session(credentials=ANONYMOUS, cache=tmp_path / "first", progress=False) as session:
        session.push(f"{proxy.upstream.removeprefix('http://')}/{repo}:v1", tmp_path / NAME)

    def pull(to):
        hasty = Network(retries=0)
        with ocikit.Session(credentials=ANONYMOUS, cache=tmp_path / "cache", network=hasty, progress=False) as session:
            return Path(session.pull(f"{proxy.host}/{repo}:v1", to)) / NAME

    return f"{proxy.host}/{repo}:v1", content, pull


def parts(folder: Path) -> int:
    """Return the size of the largest part that a transfer has left in a folder [bytes]."""
    return max(map(largest_file, folder.rglob("partial")), default=0)


@pytest.mark.parametrize("place, at", [("cache", 1 << 16), ("cache", SIZE // 2), ("to", SIZE // 2), ("to", SIZE - 1)])
def test_killed_pull_resumes(proxy, pulled, tmp_path, place, at):
    reference, content, pull = pulled
    to = tmp_path / "to" if place == "to" else None
    proxy.on("GET", BLOB, cut=at, stall=20, when=lambda r: r.headers.get("Range") is None)
    code = "import sys, ocikit; ocikit.pull(sys.argv[1], sys.argv[2] or None, progress=False)"
    process = subprocess.Popen(
        [sys.executable, "-c", code, reference, str(to or "")],
        env={**os.environ, "OCIKIT_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)},
    )
    try:
        until = time.monotonic() + 30
        while parts(tmp_path) < at - 2 * (1 << 17) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = parts(tmp_path)
    assert kept >= at - 2 * (1 << 17)
    proxy.faults.clear()
    begun = len(proxy.requests)
    assert pull(to).read_bytes() == content
    again = [r for r in proxy.requests[begun:] if r.method == "GET" and "/blobs/" in r.path]
    assert [r.headers.get("Range") for r in again if "Range" in r.headers] == ([f"bytes={kept}-"] if kept else [])
    assert sum(p.sent for p in proxy.passed if p.request in again) <= SIZE - at + MIB


@ours
@pytest.mark.parametrize("place", ["cache", "to"])
def test_failed_pull_resumes(proxy, pulled, tmp_path, place):
    _, content, pull = pulled
    to = tmp_path / "to" if place == "to" else None
    proxy.on("GET", BLOB, status=500, times=None, when=lambda r: "Range" in r.headers)
    proxy.on("GET", BLOB, cut=SIZE // 2)
    with pytest.raises(RegistryError):
        pull(to)
    proxy.faults.clear()
    proxy.passed.clear()
    assert pull(to).read_bytes() == content
    assert sum(p.sent for p in proxy.passed) <= SIZE // 2 + MIB


# Others


@pytest.mark.peers(of=["client"])
@pytest.mark.parametrize("client", matrix.CLIENTS)
def test_every_client_succeeds_without_faults(small, upstream, tmp_path, client):
    with Proxy(upstream.url) as proxy:
        for act in (matrix.pull, matrix.push):
            outcome = act(client, small, proxy, Cell("GET token", "500"), tmp_path)
            assert outcome.survived, outcome.why
