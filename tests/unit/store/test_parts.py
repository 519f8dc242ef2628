"""Parts of transfers: locks, resumption, corrupt content, interrupts, full disks, concurrency."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocikit.errors import ContentError, DigestMismatch, SizeMismatch
from ocikit.spec.descriptor import Descriptor
from ocikit.store import locks
from ocikit.store import parts as parts_module
from ocikit.store.parts import PartFolder, write_blob, write_part
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


def part_name(content, suffix=""):
    digest = describe(content).digest
    return f"{digest.algorithm}-{digest.encoded}{suffix}"


def write_part_file(parts, content, prefix, suffix=""):
    parts.mkdir(exist_ok=True)
    path = parts / part_name(content, suffix)
    path.write_bytes(prefix)
    return path


@pytest.mark.parametrize("content", [CONTENT, SMALL, b""])
@pytest.mark.parametrize("stream", [io.BytesIO, Pipe])
def test_written_blob_is_complete_and_read_only(paths, content, stream):
    final, parts = paths
    write_blob(stream(content), describe(content), final, parts=parts)
    assert final.read_bytes() == content
    assert final.stat().st_mode & 0o777 == 0o444
    assert list_parts(parts) == []


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
    write_part_file(parts, SMALL, SMALL[:size])
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.bytes_read == len(SMALL) - size


def test_complete_part_needs_no_byte(paths):
    final, parts = paths
    write_part_file(parts, SMALL, SMALL)
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.bytes_read == 0


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_corrupt_part_is_transferred_again(paths, content):
    final, parts = paths
    half = len(content) // 2
    write_part_file(parts, content, bytes(half))
    stream = RecordingStream(content)
    write_blob(stream, describe(content), final, parts=parts)
    assert final.read_bytes() == content
    assert stream.seeks == [half, 0]


def test_too_long_part_starts_over(paths):
    final, parts = paths
    write_part_file(parts, SMALL, SMALL + b"more")
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
    write_part_file(parts, SMALL, SMALL[:50])
    write_blob(FailingSeek(SMALL), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL


def test_unseekable_stream_resumes_no_part(paths):
    final, parts = paths
    part = write_part_file(parts, SMALL, SMALL[:50])
    write_blob(Pipe(SMALL), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert list_parts(parts) == [part]


@pytest.mark.parametrize("suffix", ["", ".0a1b2c3d", ".other-host.1.0a1b2c3d"])
def test_part_without_lock_is_resumed_at_once(paths, suffix):
    """Neither the host name nor the process id of its writer matters."""
    final, parts = paths
    write_part_file(parts, SMALL, SMALL[:50], suffix)
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.seeks == [50]
    assert list_parts(parts) == []


def test_largest_part_without_lock_is_adopted(paths):
    final, parts = paths
    for i, length in enumerate((10, 70, 30)):
        write_part_file(parts, SMALL, SMALL[:length], f".{i}")
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.seeks == [70]


class LockedPart:
    """A part that a writer in this process holds until the end of the block."""

    def __init__(self, parts, content, prefix):
        self.path = write_part_file(parts, content, prefix)

    def __enter__(self):
        self.file = self.path.open("r+b")
        assert locks.try_lock(self.file.fileno())
        return self

    def __exit__(self, *_):
        self.file.close()


def test_stalled_holder_is_not_waited_for_longer(paths, monkeypatch):
    monkeypatch.setattr(parts_module, "_STALL", 0.05)
    final, parts = paths
    with LockedPart(parts, SMALL, SMALL[:50]) as held:
        assert write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
        assert held.path.read_bytes() == SMALL[:50]
    assert final.read_bytes() == SMALL
    assert list_parts(parts) == [held.path]


def test_waiting_writer_uses_the_content_of_the_holder(paths):
    final, parts = paths
    with LockedPart(parts, SMALL, SMALL) as held, ThreadPoolExecutor(1) as pool:
        stream = RecordingStream(SMALL)
        waiting = pool.submit(write_blob, stream, describe(SMALL), final, parts=parts)
        time.sleep(0.1)
        final.parent.mkdir()
        held.path.rename(final)
        assert waiting.result() is False
    assert stream.bytes_read == 0
    assert list_parts(parts) == []


def test_waiting_writer_resumes_when_the_holder_ends(paths):
    final, parts = paths
    with ThreadPoolExecutor(1) as pool:
        stream = RecordingStream(SMALL)
        with LockedPart(parts, SMALL, SMALL[:50]):
            waiting = pool.submit(write_blob, stream, describe(SMALL), final, parts=parts)
            time.sleep(0.1)
        assert waiting.result() is True
    assert stream.seeks == [50]


def test_waiting_writer_stops_when_its_transfer_is_cancelled(paths):
    class Stop(Exception):
        pass

    def stop(n):
        raise Stop

    final, parts = paths
    with LockedPart(parts, SMALL, SMALL[:50]), pytest.raises(Stop):
        write_blob(ProgressReader(RecordingStream(SMALL), stop), describe(SMALL), final, parts=parts)


@pytest.mark.parametrize("content", [CONTENT, SMALL])
@pytest.mark.parametrize("stream", [RecordingStream, Pipe])
def test_deleted_part_is_written_again(paths, content, stream):
    final, parts = paths
    calls = []

    def place(part):
        calls.append(part.path.read_bytes() if part.path.exists() else None)
        if len(calls) == 1:
            shutil.rmtree(parts)
        part.move(final)

    source = stream(content)
    final.parent.mkdir()
    assert write_part(source, describe(content), place, parts=PartFolder(parts))
    assert final.read_bytes() == content
    assert calls == [content, content]


def test_part_that_is_always_deleted_raises_typed_error(paths):
    final, parts = paths

    def place(part):
        part.path.unlink()
        part.move(final)

    with pytest.raises(ContentError, match="another process deletes or changes"):
        write_part(RecordingStream(SMALL), describe(SMALL), place, parts=PartFolder(parts))
    assert list_parts(parts) == []


def test_part_that_others_append_to_is_never_placed(paths):
    final, parts = paths

    class Appending(RecordingStream):
        appended = False

        def readinto(self, buffer):
            n = super().readinto(buffer)
            if n and self.tell() == len(SMALL) and not self.appended:
                self.appended = True
                with open(parts / part_name(SMALL), "ab") as file:
                    file.write(bytes(len(SMALL) * 2))
            return n

    write_blob(Appending(SMALL), describe(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL


@pytest.mark.parametrize("make", [os.symlink, os.link])
def test_part_that_is_a_link_is_not_written_to(paths, tmp_path, make):
    """Another user of the folder could let the part lead to any file (path traversal)."""
    final, parts = paths
    victim = tmp_path / "victim"
    victim.write_bytes(b"old")
    parts.mkdir()
    make(victim, parts / part_name(SMALL))
    write_blob(RecordingStream(SMALL), describe(SMALL), final, parts=parts)
    assert victim.read_bytes() == b"old"
    assert final.read_bytes() == SMALL
    assert not final.is_symlink()


@pytest.fixture(params=["open files", "files next to them", "unsupported"])
def kind_of_lock(request, monkeypatch):
    """Each way to lock a part."""
    if request.param == "files next to them":
        monkeypatch.setattr(parts_module, "has_locks", lambda: False)
    elif request.param == "unsupported":

        def try_lock(fd):
            raise locks.LocksUnsupported

        monkeypatch.setattr(parts_module, "try_lock", try_lock)
    return request.param


def test_threads_share_one_transfer_where_locks_are_supported(paths, kind_of_lock):
    final, parts = paths
    streams = [RecordingStream(CONTENT) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        written = list(pool.map(lambda s: write_blob(s, describe(CONTENT), final, parts=parts, reuse=True), streams))
    assert final.read_bytes() == CONTENT
    assert [path for path in list_parts(parts) if path.suffix != ".lock"] == []
    if kind_of_lock != "unsupported":
        assert sum(written) == 1
        assert sum(stream.bytes_read for stream in streams) == len(CONTENT)


def test_forked_child_writes_no_part_of_its_parent(paths):
    """The child closes its copies of open parts; the lock of the parent stays."""
    final, parts = paths
    result = []

    def place(part):
        if (child := os.fork()) == 0:
            os._exit(0 if part.file.closed else 1)
        result.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        with part.path.open("r+b") as other:
            result.append(locks.try_lock(other.fileno()))
        part.move(final)

    final.parent.mkdir()
    write_part(RecordingStream(SMALL), describe(SMALL), place, parts=PartFolder(parts))
    assert result == [0, False]


def test_old_part_is_removed_where_locks_are_unsupported(paths, kind_of_lock):
    _, parts = paths
    path = write_part_file(parts, SMALL, SMALL[:50])
    assert PartFolder(parts).remove(path.name, before=time.time() + 60)
    assert not path.exists()


def test_only_parts_without_lock_are_removed(paths):
    _, parts = paths
    folder = PartFolder(parts)
    with LockedPart(parts, SMALL, SMALL[:50]) as held:
        assert not folder.remove(held.path.name, before=time.time() + 60)
        assert list_parts(parts) == [held.path]
    assert not folder.remove(held.path.name, before=time.time() - 60)
    assert folder.remove(held.path.name, before=time.time() + 60)
    assert list_parts(parts) == []


def test_part_of_other_content_is_not_touched(paths):
    final, parts = paths
    part = write_part_file(parts, CONTENT, CONTENT[:50])
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

    def place(part):
        assert part.path.read_bytes() == SMALL
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_part(RecordingStream(SMALL), describe(SMALL), place, parts=PartFolder(parts))
    stream = RecordingStream(SMALL)
    write_blob(stream, describe(SMALL), final, parts=parts)
    assert stream.bytes_read == 0
    assert final.read_bytes() == SMALL


SCRIPT = """
import io, os, sys, time
from pathlib import Path
from ocikit.store.parts import write_blob
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
