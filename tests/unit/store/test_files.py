"""Atomic and verified writes: resumption, orphans, corrupt content, interrupts, full disks, concurrency."""

import errno
import io
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocikit.errors import ContentError, DigestMismatch, SizeMismatch
from ocikit.spec.descriptor import Descriptor
from ocikit.store import files
from ocikit.store.files import blob_path, verified_part, write_atomically, write_blob
from ocikit.store.streams import ProgressReader

CONTENT = os.urandom(6 << 20)  # large enough for the pipeline of reading and hashing
SMALL = b"a small file\n" * 100


def describe(content):
    return Descriptor.of(content, "application/octet-stream")


class RecordingStream(io.BytesIO):
    """A seekable stream that records seeks and bytes read, and fails at an offset."""

    def __init__(self, content, *, stop=None, error=None):
        super().__init__(content)
        self.stop, self.error, self.seeks, self.bytes_read = stop, error, [], 0

    def seek(self, offset, whence=0):
        self.seeks.append(offset)
        return super().seek(offset, whence)

    def readinto(self, buffer):
        if self.stop is not None:
            if self.tell() >= self.stop:
                raise self.error
            buffer = memoryview(buffer)[: self.stop - self.tell()]
        n = super().readinto(buffer)
        self.bytes_read += n
        return n


class Pipe(io.RawIOBase):
    """An unseekable stream."""

    def __init__(self, content):
        self.inner = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.inner.readinto(buffer)


@pytest.fixture
def paths(tmp_path):
    """The final path and the folder for parts."""
    return tmp_path / "blobs" / "final", tmp_path / "partial"


def list_parts(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def part_name(content, *, host=None, pid=None):
    digest = describe(content).digest
    host = host or files._own_suffix().rsplit(".", 2)[0]
    return f"{digest.algorithm}-{digest.encoded}.{host}.{pid or os.getpid()}.{os.urandom(4).hex()}"


def write_part(parts, content, prefix, **owner):
    parts.mkdir(exist_ok=True)
    path = parts / part_name(content, **owner)
    path.write_bytes(prefix)
    return path


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("content", [CONTENT, SMALL, b""])
@pytest.mark.parametrize("stream", [io.BytesIO, Pipe])
def test_written_blob_is_complete_and_read_only(paths, content, stream):
    final, parts = paths
    write_blob(stream(content), describe(content), final, parts=parts)
    assert final.read_bytes() == content
    assert final.stat().st_mode & 0o777 == 0o444
    assert list_parts(parts) == []


def test_blob_path_has_algorithm_and_encoded_digest(tmp_path):
    digest = describe(SMALL).digest
    assert blob_path(tmp_path, digest) == tmp_path / "blobs" / "sha256" / digest.encoded


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_broken_transfer_is_resumed(paths, content):
    final, parts = paths
    half = len(content) // 2
    with pytest.raises(ConnectionResetError):
        write_blob(
            RecordingStream(content, stop=half, error=ConnectionResetError()), describe(content), final, parts=parts
        )
    assert not final.exists()
    [part] = list_parts(parts)
    assert part.read_bytes() == content[:half]
    stream = RecordingStream(content)
    write_blob(stream, describe(content), final, parts=parts)
    assert final.read_bytes() == content
    assert stream.seeks == [half]
    assert stream.bytes_read == len(content) - half
    assert list_parts(parts) == []


@pytest.mark.parametrize("size", [1, len(SMALL) - 1])
def test_transfer_resumes_at_first_and_last_byte(paths, size):
    final, parts = paths
    write_part(parts, SMALL, SMALL[:size], pid=dead_pid())
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.bytes_read == len(SMALL) - size


def test_complete_part_needs_no_byte(paths):
    final, parts = paths
    write_part(parts, SMALL, SMALL, pid=dead_pid())
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.bytes_read == 0


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_corrupt_part_is_transferred_again(paths, content):
    final, parts = paths
    half = len(content) // 2
    write_part(parts, content, bytes(half), pid=dead_pid())
    stream = RecordingStream(content)
    write_blob(stream, describe(content), final, parts=parts)
    assert final.read_bytes() == content
    assert stream.seeks == [half, 0]


def test_too_long_part_starts_over(paths):
    final, parts = paths
    write_part(parts, SMALL, SMALL + b"more", pid=dead_pid())
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.bytes_read == len(SMALL)


def test_failed_seek_starts_over(paths):
    class FailingSeek(RecordingStream):
        def seek(self, offset, whence=0):
            if offset:
                raise OSError(errno.ESPIPE, "no ranges here")
            return super().seek(offset, whence)

    final, parts = paths
    write_part(parts, SMALL, SMALL[:50], pid=dead_pid())
    write_blob(FailingSeek(SMALL), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL


def test_unseekable_stream_resumes_no_part(paths):
    final, parts = paths
    part = write_part(parts, SMALL, SMALL[:50], pid=dead_pid())
    write_blob(Pipe(SMALL), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert list_parts(parts) == [part]


def test_part_of_dead_process_is_adopted(paths):
    final, parts = paths
    write_part(parts, SMALL, SMALL[:50], pid=dead_pid())
    write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
    assert list_parts(parts) == []


def test_largest_orphan_is_adopted(paths):
    final, parts = paths
    for length in (10, 70, 30):
        write_part(parts, SMALL, SMALL[:length], pid=dead_pid())
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.seeks == [70]


def test_part_of_running_process_is_not_touched(paths):
    final, parts = paths
    part = write_part(parts, SMALL, SMALL[:50], pid=os.getppid())
    write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
    assert list_parts(parts) == [part]
    assert part.read_bytes() == SMALL[:50]


def test_part_of_other_host_is_adopted_after_one_hour(paths):
    final, parts = paths
    part = write_part(parts, SMALL, SMALL[:50], host="elsewhere.example", pid=os.getpid())
    write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
    assert list_parts(parts) == [part]
    long_ago = time.time() - 3700
    os.utime(part, (long_ago, long_ago))
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.seeks == [50]
    assert list_parts(parts) == []


def test_part_of_other_content_is_not_touched(paths):
    final, parts = paths
    part = write_part(parts, CONTENT, CONTENT[:50], pid=dead_pid())
    write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
    assert list_parts(parts) == [part]


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_wrong_digest_leaves_no_file(paths, content):
    final, parts = paths
    with pytest.raises(DigestMismatch) as caught:
        write_blob(io.BytesIO(bytes(len(content))), describe(content), final, parts=parts)
    assert caught.value.expected == describe(content).digest
    assert not final.exists()
    assert list_parts(parts) == []


@pytest.mark.parametrize("content", [CONTENT, SMALL])
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[:0], lambda c: c + b"!", lambda c: c * 3])
def test_wrong_size_leaves_no_file(paths, content, change):
    final, parts = paths
    with pytest.raises(SizeMismatch):
        write_blob(io.BytesIO(change(content)), describe(content), final, parts=parts)
    assert not final.exists()
    assert list_parts(parts) == []


def test_endless_stream_is_read_to_expected_size_only(paths):
    class Endless(Pipe):
        bytes_read = 0

        def readinto(self, buffer):
            self.bytes_read += len(buffer)
            return len(buffer)

    final, parts = paths
    stream = Endless(b"")
    with pytest.raises(SizeMismatch):
        write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.bytes_read <= len(SMALL) + (1 << 20)


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_ctrl_c_keeps_part_and_writes_no_final_file(paths, content):
    final, parts = paths
    half = len(content) // 2
    with pytest.raises(KeyboardInterrupt):
        write_blob(
            RecordingStream(content, stop=half, error=KeyboardInterrupt()), describe(content), final, parts=parts
        )
    assert not final.exists()
    [part] = list_parts(parts)
    assert part.read_bytes() == content[:half]


def test_existing_file_stays_until_new_content_is_complete(paths):
    final, parts = paths
    final.parent.mkdir()
    final.write_bytes(b"old")
    with pytest.raises(ConnectionResetError):
        write_blob(RecordingStream(SMALL, stop=100, error=ConnectionResetError()), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == b"old"
    write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL


def test_threads_can_write_same_content(paths):
    final, parts = paths
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_blob(RecordingStream(CONTENT), describe(CONTENT), final, parts=parts), range(8)))
    assert final.read_bytes() == CONTENT
    assert list_parts(parts) == []


def test_verified_part_without_rename_is_resumed(paths):
    final, parts = paths
    with pytest.raises(ZeroDivisionError):
        with verified_part(RecordingStream(SMALL), describe(SMALL), parts=parts) as part:
            assert part.read_bytes() == SMALL
            raise ZeroDivisionError
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.bytes_read == 0
    assert final.read_bytes() == SMALL


SCRIPT = """
import io, os, sys, time
from pathlib import Path
from ocikit.store.files import write_blob
from ocikit.spec.descriptor import Descriptor

root, source, delay = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
content = source.read_bytes()

class Slow(io.BytesIO):
    def readinto(self, buffer):
        time.sleep(delay)
        return super().readinto(memoryview(buffer)[: 1 << 16])

write_blob(Slow(content), Descriptor.of(content, "a/b"), root / "final", parts=root / "partial")
"""


def start_writer(tmp_path, content, delay=0.0, **options):
    source = tmp_path / "source"
    source.write_bytes(content)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(source), str(delay)],
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_processes_can_write_same_content(tmp_path):
    processes = [start_writer(tmp_path, CONTENT) for _ in range(3)]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [("", 0)] * 3
    assert (tmp_path / "final").read_bytes() == CONTENT
    assert list_parts(tmp_path / "partial") == []


def test_killed_transfer_is_resumed_by_next_process(tmp_path):
    process = start_writer(tmp_path, CONTENT, delay=0.02)
    parts = tmp_path / "partial"
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size > 1 << 18 for p in list_parts(parts)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "final").exists()
    [part] = list_parts(parts)
    size = part.stat().st_size
    assert part.read_bytes() == CONTENT[:size]
    stream = RecordingStream(CONTENT)
    write_blob(stream, describe(CONTENT), tmp_path / "final", parts=parts)
    assert (tmp_path / "final").read_bytes() == CONTENT
    assert stream.bytes_read == len(CONTENT) - size
    assert list_parts(parts) == []


def test_file_size_limit_raises_typed_error_with_hint(tmp_path):
    # Like on a full disk, the failure happens in the middle of a write
    import resource

    process = start_writer(
        tmp_path, CONTENT, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    )
    stderr = process.communicate()[1]
    assert process.returncode == 1
    assert "ocikit.errors.ContentError: cannot write" in stderr
    assert "ulimit -f" in stderr
    assert not (tmp_path / "final").exists()
    [part] = list_parts(tmp_path / "partial")
    assert part.read_bytes() == CONTENT[: 1 << 20]
    stream = RecordingStream(CONTENT)
    write_blob(stream, describe(CONTENT), tmp_path / "final", parts=tmp_path / "partial")
    assert stream.seeks == [1 << 20]


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


def test_full_disk_keeps_part(full_disk):
    with pytest.raises(ContentError, match="No space left") as caught:
        write_blob(RecordingStream(CONTENT), describe(CONTENT), full_disk / "final", parts=full_disk / "partial")
    assert "free some space" in caught.value.hint
    assert not (full_disk / "final").exists()
    [part] = list_parts(full_disk / "partial")
    content = part.read_bytes()
    assert content == CONTENT[: len(content)]


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


def test_any_host_name_results_in_valid_part_name(paths, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "näme.with/slash and dots.1.2")
    final, parts = paths
    with pytest.raises(ConnectionResetError):
        write_blob(RecordingStream(SMALL, stop=50, error=ConnectionResetError()), describe(SMALL), final, parts=parts)
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.seeks == [50]


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
