"""A large blob comes in parallel ranges from a real registry behind a slow proxy: right bytes, and few of them twice."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from ocikit import Session
from ocikit.remote.config.mirror import Mirror
from ocikit.testing.proxy import Proxy

from tests.support import peers
from tests.support.home import ROOT, largest_file

MIB = 1 << 20
SIZE = 64 * MIB
WINDOW = 32 * MIB
BLOB = r"/v2/.+/blobs/sha256:.+"
UNREAD = 8 * MIB  # bytes on the way over all connections
RATE = 20e6  # bytes a second and connection

PULL = "import sys, ocikit; ocikit.pull(sys.argv[1], 'out', progress=False)"


@pytest.fixture(
    scope="module", params=["ocikit", pytest.param("distribution3", marks=pytest.mark.peers("distribution3"))]
)
def upstream(request):
    with peers.KINDS[request.param]() as running:
        yield running


@pytest.fixture
def proxy(upstream):
    with Proxy(upstream.url) as running:
        yield running


@pytest.fixture
def pushed(upstream, repo, session, home):
    """A file in the registry: its reference without the host, and its digest."""
    content = os.urandom(SIZE)
    (home / "big.bin").write_bytes(content)
    session.push(f"{upstream.host}/{repo}:v1", "big.bin")
    return f"{repo}:v1", hashlib.sha256(content).hexdigest()


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ranges(proxy):
    """Return the ranges of the large blob that were requested: (first, last)."""
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", r.headers.get("Range", "")) for r in proxy.seen("GET", BLOB)]
    return sorted((int(match[1]), int(match[2])) for match in found if match)


def start(reference, home):
    """Start a pull into the folder "out" in another process."""
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", PULL, reference], cwd=home, env=env)


def test_pull_requests_each_byte_once(proxy, pushed, session, home):
    proxy.on("GET", BLOB, times=None, throttle=RATE, delay=0.03)
    name, digest = pushed
    session.pull(f"{proxy.host}/{name}", "out")
    assert sha256(home / "out" / "big.bin") == digest
    asked = ranges(proxy)
    assert len(asked) > 4
    assert [last + 1 for _, last in asked] == [first for first, _ in asked[1:]] + [SIZE]


def test_pull_reads_ranges_of_a_mirror(upstream, proxy, pushed, home, tmp_path):
    proxy.on("GET", BLOB, times=None, throttle=RATE)
    name, digest = pushed
    with Session(
        mirrors={upstream.host: [Mirror(proxy.host, insecure=True)]}, cache=tmp_path, progress=False
    ) as reading:
        reading.pull(f"{upstream.host}/{name}", "out")
    assert sha256(home / "out" / "big.bin") == digest
    assert ranges(proxy)[0][0] == 0
    assert ranges(proxy)[-1][1] == SIZE - 1
    assert len(ranges(proxy)) > 4


def test_broken_ranges_are_resumed(proxy, pushed, session, home):
    proxy.on("GET", BLOB, times=None, throttle=RATE)
    for i in range(6):
        proxy.on("GET", BLOB, when=lambda r: "Range" in r.headers, throttle=RATE, cut=MIB + i, reset=i % 2 == 0)
    name, digest = pushed
    session.pull(f"{proxy.host}/{name}", "out")
    assert sha256(home / "out" / "big.bin") == digest


def test_registry_without_ranges_is_one_request(proxy, pushed, session, home):
    proxy.on("GET", BLOB, times=None, throttle=4 * RATE)

    def forget_range(request):
        del request.headers["Range"]
        return request

    proxy.before.append(forget_range)
    name, digest = pushed
    session.pull(f"{proxy.host}/{name}", "out")
    assert sha256(home / "out" / "big.bin") == digest
    assert len(proxy.seen("GET", BLOB)) <= 2  # the empty config is the other one
    assert sum(each.sent for each in proxy.passed if each.status == 200) < SIZE + MIB


def test_killed_pull_repeats_one_window_at_most(proxy, pushed, home):
    proxy.on("GET", BLOB, times=None, throttle=RATE)
    name, digest = pushed
    first = start(f"{proxy.host}/{name}", home)
    deadline = time.monotonic() + 60
    while not (home / "out").exists() or largest_file(home / "out") < SIZE // 2:
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    kept = largest_file(home / "out")
    assert kept >= SIZE // 2
    while len(proxy.passed) < len(proxy.requests):  # the proxy notices late that the process has ended
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sum(each.sent for each in proxy.passed) - kept <= WINDOW + UNREAD
    proxy.requests.clear()
    assert start(f"{proxy.host}/{name}", home).wait() == 0
    assert sha256(home / "out" / "big.bin") == digest
    asked = ranges(proxy)
    assert asked[0][0] == kept
    assert [last + 1 for _, last in asked] == [first for first, _ in asked[1:]] + [SIZE]


def test_interrupted_pull_ends_at_once(proxy, pushed, home):
    """The process ends although the proxy does not send any more bytes."""
    proxy.on("GET", BLOB, when=lambda r: "Range" in r.headers, times=None, throttle=RATE, cut=5 * MIB // 2, stall=120)
    name, _ = pushed
    process = start(f"{proxy.host}/{name}", home)
    deadline = time.monotonic() + 60
    while len(ranges(proxy)) < 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) != 0


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux reports the peak memory of a process")
def test_window_is_all_that_parallel_ranges_hold(proxy, pushed, home, record_property):
    proxy.on("GET", BLOB, times=None, throttle=RATE)
    code = textwrap.dedent("""
        import sys, ocikit
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
        from ocikit.remote.config.network import Network
        ocikit.Session(network=Network(ranges=False), progress=False).inspect(sys.argv[1])
        before = peak()
        ocikit.pull(sys.argv[1], "out", progress=False)
        print(peak() - before)
    """)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, f"{proxy.host}/{pushed[0]}"]
    grown = int(subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, check=True).stdout)
    record_property("MiB", grown)
    assert grown <= (WINDOW >> 20) + 40
    assert Path(home / "out" / "big.bin").stat().st_size == SIZE
