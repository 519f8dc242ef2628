"""Content-addressed files: resumed, adopted, refused, interrupted, on full disks, and by several at once."""

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
from ocikit.store import files as blobs
from ocikit.store.files import blob_path, verified_part, write_atomically, write_blob

CONTENT = os.urandom(6 << 20)  # above the size from which reading and hashing are a pipeline
SMALL = b"a small file\n" * 100


def described(content):
    return Descriptor.of(content, "application/octet-stream")


class Read(io.BytesIO):
    """A seekable stream that notes where it was read from, and may break."""

    def __init__(self, content, *, stop=None, error=None):
        super().__init__(content)
        self.stop, self.error, self.sought, self.given = stop, error, [], 0

    def seek(self, offset, whence=0):
        self.sought.append(offset)
        return super().seek(offset, whence)

    def readinto(self, buffer):
        if self.stop is not None:
            if self.tell() >= self.stop:
                raise self.error
            buffer = memoryview(buffer)[: self.stop - self.tell()]
        n = super().readinto(buffer)
        self.given += n
        return n


class Pipe(io.RawIOBase):
    """A stream that can't seek."""

    def __init__(self, content):
        self.inner = io.BytesIO(content)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self.inner.readinto(buffer)


@pytest.fixture
def place(tmp_path):
    """The final name and the folder for parts."""
    return tmp_path / "blobs" / "final", tmp_path / "partial"


def parts_in(folder):
    return sorted(folder.iterdir()) if folder.exists() else []


def part_name(content, *, host=None, pid=None):
    digest = described(content).digest
    host = host or blobs._own_suffix().rsplit(".", 2)[0]
    return f"{digest.algorithm}-{digest.encoded}.{host}.{pid or os.getpid()}.{os.urandom(4).hex()}"


def leave(parts, content, prefix, **owner):
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
def test_what_is_received_has_its_bytes_and_is_read_only(place, content, stream):
    final, parts = place
    write_blob(stream(content), described(content), final, parts=parts)
    assert final.read_bytes() == content
    assert final.stat().st_mode & 0o777 == 0o444
    assert parts_in(parts) == []


def test_a_blob_is_found_below_its_algorithm(tmp_path):
    digest = described(SMALL).digest
    assert blob_path(tmp_path, digest) == tmp_path / "blobs" / "sha256" / digest.encoded


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_a_broken_transfer_leaves_a_part_and_the_next_one_reads_only_the_rest(place, content):
    final, parts = place
    half = len(content) // 2
    with pytest.raises(ConnectionResetError):
        write_blob(Read(content, stop=half, error=ConnectionResetError()), described(content), final, parts=parts)
    assert not final.exists()
    [part] = parts_in(parts)
    assert part.read_bytes() == content[:half]
    again = Read(content)
    write_blob(again, described(content), final, parts=parts)
    assert final.read_bytes() == content
    assert again.sought == [half]
    assert again.given == len(content) - half
    assert parts_in(parts) == []


@pytest.mark.parametrize("kept", [1, len(SMALL) - 1])
def test_resuming_works_from_the_first_and_the_last_byte(place, kept):
    final, parts = place
    leave(parts, SMALL, SMALL[:kept], pid=dead_pid())
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.given == len(SMALL) - kept


def test_a_part_that_is_whole_already_needs_no_byte(place):
    final, parts = place
    leave(parts, SMALL, SMALL, pid=dead_pid())
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.given == 0


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_a_damaged_part_costs_a_transfer_and_no_failure(place, content):
    final, parts = place
    half = len(content) // 2
    leave(parts, content, bytes(half), pid=dead_pid())
    stream = Read(content)
    write_blob(stream, described(content), final, parts=parts)
    assert final.read_bytes() == content
    assert stream.sought == [half, 0]


def test_a_part_that_is_too_long_starts_over(place):
    final, parts = place
    leave(parts, SMALL, SMALL + b"more", pid=dead_pid())
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert stream.given == len(SMALL)


def test_a_stream_that_refuses_to_seek_starts_over(place):
    class Stubborn(Read):
        def seek(self, offset, whence=0):
            if offset:
                raise OSError(errno.ESPIPE, "no ranges here")
            return super().seek(offset, whence)

    final, parts = place
    leave(parts, SMALL, SMALL[:50], pid=dead_pid())
    write_blob(Stubborn(SMALL), described(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL


def test_a_stream_that_can_not_seek_takes_up_no_part(place):
    final, parts = place
    left = leave(parts, SMALL, SMALL[:50], pid=dead_pid())
    write_blob(Pipe(SMALL), described(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL
    assert parts_in(parts) == [left]


def test_the_part_of_a_dead_process_is_adopted(place):
    final, parts = place
    leave(parts, SMALL, SMALL[:50], pid=dead_pid())
    write_blob(Read(SMALL), described(SMALL), final, parts=parts)
    assert parts_in(parts) == []


def test_the_largest_orphan_is_adopted(place):
    final, parts = place
    for length in (10, 70, 30):
        leave(parts, SMALL, SMALL[:length], pid=dead_pid())
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert stream.sought == [70]


def test_the_part_of_a_living_process_is_left_alone(place):
    final, parts = place
    left = leave(parts, SMALL, SMALL[:50], pid=os.getppid())
    write_blob(Read(SMALL), described(SMALL), final, parts=parts)
    assert parts_in(parts) == [left]
    assert left.read_bytes() == SMALL[:50]


def test_the_part_of_another_host_is_adopted_only_when_nobody_wrote_to_it_for_an_hour(place):
    final, parts = place
    young = leave(parts, SMALL, SMALL[:50], host="elsewhere.example", pid=os.getpid())
    write_blob(Read(SMALL), described(SMALL), final, parts=parts)
    assert parts_in(parts) == [young]
    long_ago = time.time() - 3700
    os.utime(young, (long_ago, long_ago))
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert stream.sought == [50]
    assert parts_in(parts) == []


def test_the_part_of_other_content_is_left_alone(place):
    final, parts = place
    left = leave(parts, CONTENT, CONTENT[:50], pid=dead_pid())
    write_blob(Read(SMALL), described(SMALL), final, parts=parts)
    assert parts_in(parts) == [left]


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_of_a_wrong_digest_nothing_is_left(place, content):
    final, parts = place
    with pytest.raises(DigestMismatch) as caught:
        write_blob(io.BytesIO(bytes(len(content))), described(content), final, parts=parts)
    assert caught.value.expected == described(content).digest
    assert not final.exists()
    assert parts_in(parts) == []


@pytest.mark.parametrize("content", [CONTENT, SMALL])
@pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: c[:0], lambda c: c + b"!", lambda c: c * 3])
def test_of_content_too_short_or_too_long_nothing_is_left(place, content, change):
    final, parts = place
    with pytest.raises(SizeMismatch):
        write_blob(io.BytesIO(change(content)), described(content), final, parts=parts)
    assert not final.exists()
    assert parts_in(parts) == []


def test_an_endless_stream_is_dropped_soon_after_the_size(place):
    class Endless(Pipe):
        given = 0

        def readinto(self, buffer):
            self.given += len(buffer)
            return len(buffer)

    final, parts = place
    stream = Endless(b"")
    with pytest.raises(SizeMismatch):
        write_blob(stream, described(SMALL), final, parts=parts)
    assert stream.given <= len(SMALL) + (1 << 20)


@pytest.mark.parametrize("content", [CONTENT, SMALL])
def test_ctrl_c_in_the_middle_keeps_the_part_and_names_nothing(place, content):
    final, parts = place
    half = len(content) // 2
    with pytest.raises(KeyboardInterrupt):
        write_blob(Read(content, stop=half, error=KeyboardInterrupt()), described(content), final, parts=parts)
    assert not final.exists()
    [part] = parts_in(parts)
    assert part.read_bytes() == content[:half]


def test_what_was_there_stays_until_the_new_content_is_whole(place):
    final, parts = place
    final.parent.mkdir()
    final.write_bytes(b"old")
    with pytest.raises(ConnectionResetError):
        write_blob(Read(SMALL, stop=100, error=ConnectionResetError()), described(SMALL), final, parts=parts)
    assert final.read_bytes() == b"old"
    write_blob(Read(SMALL), described(SMALL), final, parts=parts)
    assert final.read_bytes() == SMALL


def test_threads_that_receive_the_same_content_do_not_disturb_each_other(place):
    final, parts = place
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write_blob(Read(CONTENT), described(CONTENT), final, parts=parts), range(8)))
    assert final.read_bytes() == CONTENT
    assert parts_in(parts) == []


def test_a_lent_part_that_gets_no_name_is_taken_up_by_the_next_try(place):
    final, parts = place
    with pytest.raises(ZeroDivisionError):
        with verified_part(Read(SMALL), described(SMALL), parts=parts) as part:
            assert part.read_bytes() == SMALL
            raise ZeroDivisionError
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert stream.given == 0
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


def receiving(tmp_path, content, delay=0.0, **how):
    source = tmp_path / "source"
    source.write_bytes(content)
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path), str(source), str(delay)],
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def test_processes_that_receive_the_same_content_do_not_disturb_each_other(tmp_path):
    processes = [receiving(tmp_path, CONTENT) for _ in range(3)]
    assert [(p.communicate()[1], p.returncode) for p in processes] == [("", 0)] * 3
    assert (tmp_path / "final").read_bytes() == CONTENT
    assert parts_in(tmp_path / "partial") == []


def test_after_a_kill_in_the_middle_the_next_process_resumes(tmp_path):
    process = receiving(tmp_path, CONTENT, delay=0.02)
    parts = tmp_path / "partial"
    deadline = time.monotonic() + 30
    while not any(p.stat().st_size > 1 << 18 for p in parts_in(parts)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "final").exists()
    [part] = parts_in(parts)
    done = part.stat().st_size
    assert part.read_bytes() == CONTENT[:done]
    stream = Read(CONTENT)
    write_blob(stream, described(CONTENT), tmp_path / "final", parts=parts)
    assert (tmp_path / "final").read_bytes() == CONTENT
    assert stream.given == len(CONTENT) - done
    assert parts_in(parts) == []


def test_a_full_disk_is_a_typed_error_that_says_what_to_do(tmp_path):
    # A limit on file sizes fails where a full disk would: in the middle of a write
    import resource

    process = receiving(
        tmp_path, CONTENT, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    )
    stderr = process.communicate()[1]
    assert process.returncode == 1
    assert "ocikit.errors.ContentError: cannot write" in stderr
    assert "ulimit -f" in stderr
    assert not (tmp_path / "final").exists()
    [part] = parts_in(tmp_path / "partial")
    assert part.read_bytes() == CONTENT[: 1 << 20]
    stream = Read(CONTENT)
    write_blob(stream, described(CONTENT), tmp_path / "final", parts=tmp_path / "partial")
    assert stream.sought == [1 << 20]


@pytest.fixture
def full_disk(tmp_path):
    """A file system of 1 MiB."""
    mount = tmp_path / "mount"
    mount.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True)
    if done.returncode:
        pytest.skip("mounting a small file system needs root")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_on_a_disk_that_is_really_full_the_part_is_kept(full_disk):
    with pytest.raises(ContentError, match="No space left") as caught:
        write_blob(Read(CONTENT), described(CONTENT), full_disk / "final", parts=full_disk / "partial")
    assert "free some space" in caught.value.hint
    assert not (full_disk / "final").exists()
    [part] = parts_in(full_disk / "partial")
    kept = part.read_bytes()
    assert kept == CONTENT[: len(kept)]


def test_replacing_a_small_file_on_a_full_disk_leaves_the_old_one(full_disk):
    path = full_disk / "index.json"
    write_atomically(path, b"old")
    with pytest.raises(ContentError):
        write_atomically(path, bytes(2 << 20))
    assert [p.name for p in full_disk.iterdir()] == ["index.json"]
    assert path.read_bytes() == b"old"


def test_replacing_a_small_file_shows_the_old_bytes_or_the_new(tmp_path):
    path = tmp_path / "index.json"
    contents = [bytes([65 + i]) * 5000 for i in range(4)]
    write_atomically(path, contents[0])

    def write(i):
        for _ in range(50):
            write_atomically(path, contents[i], sync=False)

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, i) for i in range(4)]
        while not all(w.done() for w in writing):
            assert path.read_bytes() in contents
        [w.result() for w in writing]
    assert [p.name for p in tmp_path.iterdir()] == ["index.json"]


def test_names_of_hosts_do_not_break_the_names_of_parts(place, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "näme.with/slash and dots.1.2")
    final, parts = place
    with pytest.raises(ConnectionResetError):
        write_blob(Read(SMALL, stop=50, error=ConnectionResetError()), described(SMALL), final, parts=parts)
    stream = Read(SMALL)
    write_blob(stream, described(SMALL), final, parts=parts)
    assert stream.sought == [50]
