"""Atomic writes of files: full disks, concurrency, existing files."""

import errno
import hashlib
import io
import itertools
import os
import random
import subprocess
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocikit.errors import ContentError
from ocikit.spec.digest import Digest
from ocikit.store import files
from ocikit.store.files import blob_path, write_atomically
from ocikit.store.streams import ProgressReader


def test_blob_path_has_algorithm_and_encoded_digest(tmp_path):
    digest = Digest.of(b"content")
    assert blob_path(tmp_path, digest) == tmp_path / "blobs" / "sha256" / digest.encoded


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 1 MiB."""
    mount = tmp_path / "mount"
    mount.mkdir()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True)
    if result.returncode:
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_failed_atomic_write_keeps_old_file(full_disk):
    path = full_disk / "index.json"
    write_atomically(path, b"old")
    with pytest.raises(ContentError):
        write_atomically(path, bytes(2 << 20))
    assert [p.name for p in full_disk.iterdir()] == ["index.json"]
    assert path.read_bytes() == b"old"


def test_atomic_write_shows_old_or_new_content(tmp_path):
    path = tmp_path / "index.json"
    contents = [bytes([65 + i]) * 5000 for i in range(4)]
    write_atomically(path, contents[0])

    def write(i):
        for _ in range(50):
            write_atomically(path, contents[i], sync=False)

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(write, i) for i in range(4)]
        while not all(future.done() for future in futures):
            assert path.read_bytes() in contents
        [future.result() for future in futures]
    assert [p.name for p in tmp_path.iterdir()] == ["index.json"]


def test_atomic_writer_without_replace_keeps_existing_file(tmp_path):
    path = tmp_path / "key"
    with files.atomic_writer(path, replace=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), files.atomic_writer(path, replace=False) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_reader_counts_bytes_that_were_never_read():
    def reader():
        reported.clear()
        return ProgressReader(io.BytesIO(bytes(100)), reported.append)

    reported = []
    resumed = reader()
    resumed.seek(60)
    assert len(resumed.read()) == 40
    assert (resumed.skipped, sum(reported)) == (60, 100)
    # The resumed bytes are corrupt, so the whole blob is read
    corrupt = reader()
    corrupt.seek(60)
    corrupt.read(20)
    corrupt.seek(0)
    corrupt.read()
    assert (corrupt.skipped, sum(reported)) == (0, 100)
    # An upload that breaks and continues reads everything once
    broken = reader()
    broken.read(80)
    broken.seek(0)
    broken.seek(50)
    broken.read()
    assert (broken.skipped, sum(reported)) == (0, 100)


class _Stream(io.RawIOBase):
    """Content in reads of odd sizes, which records the names of the threads that exist meanwhile."""

    def __init__(self, content, fail_at=None):
        self.content, self.fail_at = content, fail_at
        self.position, self.reads, self.threads = 0, 0, set()

    def readinto(self, buffer):
        if self.fail_at is not None and self.position >= self.fail_at:
            raise ConnectionError("the connection broke")
        self.reads += 1
        self.threads |= {thread.name for thread in threading.enumerate()}
        n = min(len(buffer), len(self.content) - self.position, 700_001 if self.reads % 3 else 5)
        buffer[:n] = self.content[self.position : self.position + n]
        self.position += n
        return n


class _Sink(io.BytesIO):
    """A file that takes at most 100,000 bytes at once, and none beyond its limit."""

    def __init__(self, limit=1 << 30):
        super().__init__()
        self.limit, self.largest = limit, 0

    def write(self, data):
        self.largest = max(self.largest, len(data))
        if self.tell() + len(data) > self.limit:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data[:100_000])


LARGE = random.Random(7).randbytes(9_000_001)


@pytest.mark.parametrize(
    ("copies", "cores", "beside"),
    [(1, 1, False), (1, 2, True), (2, 2, False), (8, 2, False), (2, 4, True), (3, 4, False), (8, 16, True)],
)
def test_copies_hash_on_second_threads_only_with_idle_cores(copies, cores, beside):
    assert files.hashes_beside(copies, cores) is beside


@pytest.mark.parametrize("cores", [1, 8])
def test_large_copy_has_exact_bytes_and_digest(monkeypatch, cores):
    monkeypatch.setattr(files, "available_cores", lambda: cores)
    stream, sink, hasher = _Stream(LARGE), _Sink(), hashlib.sha256()
    assert files.copy_and_hash(stream, sink, hasher, len(LARGE)) == len(LARGE)
    assert sink.getvalue() == LARGE
    assert hasher.hexdigest() == hashlib.sha256(LARGE).hexdigest()
    assert ("ocikit-hash" in stream.threads) is (cores > 1)
    assert sink.largest <= files.BUFFER
    assert "ocikit-hash" not in {thread.name for thread in threading.enumerate()}


def test_large_copy_changes_mode_between_turns(monkeypatch):
    cores = itertools.cycle([8, 8, 8, 1, 1])
    monkeypatch.setattr(files, "available_cores", lambda: next(cores))
    sink, hasher = _Sink(), hashlib.sha256()
    assert files.copy_and_hash(_Stream(LARGE), sink, hasher, len(LARGE)) == len(LARGE)
    assert sink.getvalue() == LARGE
    assert hasher.hexdigest() == hashlib.sha256(LARGE).hexdigest()


@pytest.mark.parametrize("cores", [1, 8])
def test_broken_large_copy_keeps_what_it_received(monkeypatch, cores):
    monkeypatch.setattr(files, "available_cores", lambda: cores)
    sink, hasher = _Sink(), hashlib.sha256()
    stream = _Stream(LARGE, fail_at=6_000_000)
    with pytest.raises(ConnectionError):
        files.copy_and_hash(stream, sink, hasher, len(LARGE))
    assert sink.getvalue() == LARGE[: stream.position]
    assert hasher.hexdigest() == hashlib.sha256(LARGE[: stream.position]).hexdigest()
    assert "ocikit-hash" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("cores", [1, 8])
def test_full_disk_ends_large_copy(monkeypatch, cores):
    monkeypatch.setattr(files, "available_cores", lambda: cores)
    with pytest.raises(OSError, match="No space"):
        files.copy_and_hash(_Stream(LARGE), _Sink(5_000_000), hashlib.sha256(), len(LARGE))
    assert "ocikit-hash" not in {thread.name for thread in threading.enumerate()}


def test_error_of_hashing_thread_is_raised_by_copy(monkeypatch):
    class Broken:
        def update(self, data):
            raise MemoryError("no memory")

    monkeypatch.setattr(files, "available_cores", lambda: 8)
    with pytest.raises(MemoryError):
        files.copy_and_hash(_Stream(LARGE), _Sink(), Broken(), len(LARGE))


def test_large_copy_takes_at_most_4_mib_of_buffers(monkeypatch):
    monkeypatch.setattr(files, "available_cores", lambda: 8)
    size = 64 << 20

    class Zeros(io.RawIOBase):
        def readinto(self, buffer):
            return len(buffer)

    tracemalloc.start()
    try:
        with io.FileIO(os.devnull, "wb") as sink:
            files.copy_and_hash(Zeros(), sink, hashlib.sha256(), size)
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
