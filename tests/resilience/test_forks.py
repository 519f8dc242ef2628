"""Streams and sessions that a process opened are used on in forked children."""

import os
import random
import sys
import threading

import ocikit
import pytest
from ocikit.forks import ForkSafeLock, fork_count

from tests.support.home import write

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")

CONTENT = random.Random(7).randbytes(5_000_000)  # more than what is read as a whole
WORKERS = 4


def in_child(work):
    """Start a forked child that runs `work`; return a function that waits and returns its exit code."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            code = 0 if work() else 2
        except BaseException as error:
            print(repr(error), file=sys.stderr)
        os._exit(code)
    return lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def opened(kind, server, session, home):
    """Return a stream of `CONTENT` from one kind of source."""
    target = f"{server.host}/t/d:v1"
    if kind in {"layout", "archive"}:
        target = {"layout": "oci:store:v1", "archive": "oci-archive:store.tar:v1"}[kind]
    write(home, {"blob.bin": CONTENT})
    session.push(target, "blob.bin")
    if kind == "cache":
        session.pull(target)
    if kind == "folder":
        return session.pull(target, "out").open("blob.bin")
    return session.open(target, "blob.bin")


def read_rest(stream, start):
    """Read on in pieces; return True if all bytes are right."""
    position = start
    while chunk := stream.read(500_000):
        if chunk != CONTENT[position : position + len(chunk)]:
            return False
        position += len(chunk)
    return position == len(CONTENT)


@pytest.mark.parametrize("kind", ["registry", "cache", "folder", "layout", "archive"])
@pytest.mark.parametrize("start", [0, 1000, 199_999])
def test_open_stream_reads_right_bytes_after_fork(kind, start, server, session, home):
    for _ in range(2):
        with opened(kind, server, session, home) as stream:
            assert stream.read(start) == CONTENT[:start]
            children = [in_child(lambda: read_rest(stream, start)) for _ in range(WORKERS)]
            assert read_rest(stream, start)
            assert [wait() for wait in children] == [0] * WORKERS


def test_forked_child_requests_rest_by_range(server, session, home):
    with opened("registry", server, session, home) as stream:
        assert stream.read(1000) == CONTENT[:1000]
        server.requests.clear()
        assert in_child(lambda: read_rest(stream, 1000))() == 0
        ranges = [r.headers.get("Range") for r in server.seen("GET", "/v2/t/d/blobs/.*")]
        assert ranges[0].startswith("bytes=65536-") and all(ranges), "nothing is requested again"
        assert read_rest(stream, 1000)


def test_grandchild_reads_right_bytes_after_its_child_read(server, session, home):
    with opened("registry", server, session, home) as stream:
        assert stream.read(1000) == CONTENT[:1000]

        def work():
            right = stream.read(70_000) == CONTENT[1000:71_000]
            return right and in_child(lambda: read_rest(stream, 71_000))() == 0 and read_rest(stream, 71_000)

        assert in_child(work)() == 0
        assert read_rest(stream, 1000)


def test_seek_in_forked_child_leaves_parent_in_place(server, session, home):
    with opened("registry", server, session, home) as stream:
        assert stream.read(1000) == CONTENT[:1000]
        assert in_child(lambda: stream.seek(0) == 0 and read_rest(stream, 0))() == 0
        assert read_rest(stream, 1000)


def test_session_works_in_forked_child_while_lock_is_held(server, session, home):
    write(home, {"a.txt": b"x"})
    artifact = session.push(f"{server.host}/t/d:v1", "a.txt")
    tags = session.tags(f"{server.host}/t/d")
    locks = [session._backends._lock, tags._lock, session._backends._transport(_host(server))._connections.lock]
    held, done = threading.Event(), threading.Event()

    def hold():
        with locks[0], locks[1], locks[2]:
            held.set()
            done.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(20)
    try:
        wait = in_child(lambda: artifact.read("a.txt") == b"x" and list(tags) == ["v1"])
        assert wait() == 0
    finally:
        done.set()
        thread.join()


def _host(server):
    from ocikit.spec.reference import RegistryHost

    return RegistryHost(server.host)


def test_lock_stays_held_in_child_by_thread_that_forked():
    lock = ForkSafeLock()

    def work():
        return lock._lock.locked()

    with lock:
        assert in_child(work)() == 0
    assert not lock._lock.locked()


def test_fork_count_differs_in_each_descendant():
    here = fork_count()
    assert in_child(lambda: fork_count() == here + 1 and in_child(lambda: fork_count() == here + 2)() == 0)() == 0
    assert fork_count() == here


def test_local_file_reads_like_a_file(tmp_path):
    from ocikit.store.files import open_file

    path = tmp_path / "f"
    path.write_bytes(CONTENT)
    with open_file(path) as ours, path.open("rb", buffering=0) as theirs:
        assert ours.read(10) == theirs.read(10) and ours.tell() == 10
        assert ours.seek(-5, os.SEEK_END) == theirs.seek(-5, os.SEEK_END)
        assert ours.read() == theirs.read() == CONTENT[-5:] and ours.read(1) == b""
        assert ours.seek(10**7) == 10**7 and ours.read() == b""
        assert ours.seek(0) == 0 and ours.readall() == CONTENT
        with pytest.raises(OSError):
            ours.seek(-1)
        assert os.fstat(ours.fileno()).st_size == len(CONTENT)
    with pytest.raises(ValueError, match="closed"):
        ours.read(1)
    with pytest.raises(ValueError, match="closed"):
        ours.tell()


def test_memory_store_is_copied_with_its_content():
    import copy
    import pickle

    store = ocikit.MemoryStore()
    blob = ocikit.Descriptor.of(b"hello", "text/plain")
    store.push_bytes(blob, b"hello")
    for other in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        assert other.fetch(blob) == b"hello"
