"""Caches that cannot be written, and that several threads, processes and folders share."""

import logging
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import ocikit
import pytest

from tests.support.home import tree, write

FILES = {"data/a.csv": "x\n1\n", "data/b.bin": bytes(range(256)) * 400}
CONTENT = {name: content.encode() if isinstance(content, str) else content for name, content in FILES.items()}


@pytest.fixture
def reference(home, server, session):
    """A pushed folder; the cache stays empty."""
    write(home, FILES)
    session.push(f"{server.host}/t/d:v1", "data")
    server.requests.clear()
    return f"{server.host}/t/d:v1"


@pytest.fixture
def read_only():
    """Make folders read-only until the end of the test."""
    mounts, modes = [], []

    def apply(path):
        if os.geteuid():
            for folder in [path, *path.rglob("*")]:
                if folder.is_dir():
                    modes.append(folder)
                    folder.chmod(0o555)
            return
        bind = ["mount", "--bind", path, path]
        if subprocess.run(bind, capture_output=True).returncode:
            pytest.skip("root needs mounts to make a folder read-only")
        mounts.append(path)
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)

    yield apply
    for path in mounts:
        subprocess.run(["umount", path], check=True)
    for folder in modes:
        folder.chmod(0o755)


def test_read_only_cache_serves_what_it_has(home, reference, session, read_only, caplog):
    folder = session.pull(reference).path
    read_only(session.cache.root)
    with caplog.at_level(logging.INFO, "ocikit"):
        again = ocikit.Session(cache=session.cache.root, progress=False)
        assert again.pull(reference).path == folder
        assert again.download(reference, "data/a.csv").read_bytes() == CONTENT["data/a.csv"]
        with again.open(reference, "data/b.bin") as stream:
            assert stream.read() == CONTENT["data/b.bin"]
        again.inspect(reference)
    assert sum("nothing is added to the cache" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("root", ["/dev/null/cache", "/proc/nonexistent/cache"])
def test_pull_to_a_folder_needs_no_cache(home, reference, root):
    session = ocikit.Session(cache=root, progress=False)
    session.pull(reference, home / "out")
    assert tree(home / "out") == CONTENT
    with session.open(reference, "data/a.csv") as stream:
        assert stream.read() == CONTENT["data/a.csv"]
    assert session.inspect(reference).config is not None


def test_pull_into_a_cache_that_cannot_be_written_is_a_typed_error(home, reference):
    session = ocikit.Session(cache="/dev/null/cache", progress=False)
    with pytest.raises(ocikit.ContentError, match="creating the cache at /dev/null/cache failed") as caught:
        session.pull(reference)
    assert "OCIKIT_CACHE" in caught.value.hint


def blob_requests(server):
    return [request.path for request in server.requests if "/blobs/" in request.path and request.method == "GET"]


def test_second_folder_copies_from_the_first(home, reference, session, server):
    session.pull(reference, home / "one")
    assert blob_requests(server)
    server.requests.clear()
    session.pull(reference, home / "two")
    assert blob_requests(server) == []
    assert tree(home / "two") == CONTENT
    # Also content for the cache
    assert session.download(reference, "data/a.csv").read_bytes() == CONTENT["data/a.csv"]
    assert blob_requests(server) == []


def test_edited_file_is_not_copied_into_a_second_folder(home, reference, session, server):
    session.pull(reference, home / "one")
    edited = home / "one/data/a.csv"
    before = edited.stat()
    edited.write_bytes(b"y\n1\n")
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    (home / "one/data/b.bin").unlink()
    server.requests.clear()
    session.pull(reference, home / "two")
    assert tree(home / "two") == CONTENT
    assert len(blob_requests(server)) == 2


def test_threads_of_a_session_transfer_each_blob_once(home, reference, session, server):
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: session.pull(reference).path, range(8)))
    assert len(paths) == 1
    assert len(blob_requests(server)) == len(set(blob_requests(server)))
