"""Caches that cannot be written, and that several threads, processes and folders share."""

import logging
import os
import subprocess

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
    with caplog.at_level(logging.WARNING, "ocikit"):
        again = ocikit.Session(cache=session.cache.root, progress=False)
        assert again.pull(reference).path == folder
        assert again.download(reference, "data/a.csv").read_bytes() == CONTENT["data/a.csv"]
        with again.open(reference, "data/b.bin") as stream:
            assert stream.read() == CONTENT["data/b.bin"]
        again.inspect(reference)
    assert [record.levelname for record in caplog.records if "cache" in record.message] == ["WARNING"]


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
