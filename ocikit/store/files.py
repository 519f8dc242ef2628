"""Content-addressed files: written beside, hashed while written, checked, fsynced, renamed.

A file at its final name is whole. A part that a crash left behind can be taken up again: its bytes are hashed first.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import queue
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ocikit.display import shorten
from ocikit.errors import ContentError, UnverifiableDigest
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, Hasher
from ocikit.store.streams import ByteStream, ReadableInto, check_size

#: Bytes. Below, the cost of a call shows beside hashing. Above 256 KiB, Linux 6.16 and newer keeps what is written in huge
#: pages, and a virtual machine that has to get these back from its host first spends two seconds a GiB on that.
BUFFER = 1 << 17
_RING = 32  # buffers between reader and hasher: enough to even out, and 4 MiB a transfer
_PIPELINED = 4 << 20  # bytes; below this a thread costs more than it saves
_NAME = 200  # characters: names of files end at 255 bytes, and those of parts are longer than the blob's
_ORPHANED = 3600.0  # seconds; a part of another host's that nobody wrote to for so long is nobody's

_PART = re.compile(r"(?P<host>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}")


def blob_path(root: Path, digest: Digest) -> Path:
    """Where a blob is below `root`: `blobs/<algorithm>/<encoded>`. image-spec image-layout.md#blobs.

    Raises: UnverifiableDigest: if a part is longer than the names of files can be; no algorithm that is known has such.
    """
    if max(len(digest.algorithm), len(digest.encoded)) > _NAME:
        raise UnverifiableDigest(
            f"the digest {shorten(digest, 40)} has {len(digest)} characters, too many for the name of a file",
            hint="sha256 and sha512 can be verified; ask the publisher for one",
        )
    return root / "blobs" / digest.algorithm / digest.encoded


def open_file(path: Path) -> io.FileIO:
    """A file for reading, unbuffered. Folders of others may have a FIFO in its place, which would keep us waiting.

    Raises: FileNotFoundError; ContentError: it is no file, or can't be read.
    """
    try:
        # On a file O_NONBLOCK changes nothing
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        file = io.FileIO(os.open(path, flags), "rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except OSError as error:  # FileIO refuses folders
        raise ContentError(
            f"cannot read {path}: {error.strerror or error}", hint="it should be a file that you may read"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ContentError(f"cannot read {path}: it is no file", hint="it should be a file; copy it again")
    return file


def write_blob(
    stream: ByteStream, descriptor: Descriptor, final: Path, *, parts: Path, mode: int = 0o444, sync: bool = True
) -> None:
    """Write a stream to its final name once it is verified.

    Args:
        stream: the content; a seekable one resumes a part that was left behind.
        descriptor: what it must be.
        final: where it goes; replaced if it is there.
        parts: the folder for what isn't whole yet, on the same file system.
        mode: permissions of the final file.
        sync: whether it must survive a power cut before its name appears.
    Raises:
        SizeMismatch, DigestMismatch: nothing is kept.
        ContentError: the disk is full, or the folder can't be written; a part stays for the next try if it can.
    """
    with verified_part(stream, descriptor, parts=parts, sync=sync, near=final) as part:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(part, mode)
        os.utime(part)  # a part that was taken up whole is as old as its last byte; sweeps judge blobs by their age
        os.replace(part, final)
    if sync:
        fsync_folder(final.parent)


@contextlib.contextmanager
def verified_part(
    stream: ByteStream, descriptor: Descriptor, *, parts: Path, sync: bool = True, near: Path | None = None
) -> Iterator[Path]:
    """A verified part file, to be given its name within the block; left there, it is taken up by the next try.

    Arguments and errors are those of `receive`; *near* is what an error about the disk names.
    """
    part = parts / f"{descriptor.digest.algorithm}-{descriptor.digest.encoded}.{_own_suffix()}"
    _active.add(part.name)
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if stream.seekable():
            _adopt(parts, part)
        write_verified(stream, descriptor, part, sync=sync)
        yield part
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise _disk_error(error, near or part) from error
        raise
    finally:
        _active.discard(part.name)


#: Names of the parts that this process is writing; others with its process id are left over from a failure.
_active: set[str] = set()

_DISK_ERRORS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENAMETOOLONG,
}


def _disk_error(error: OSError, path: Path) -> ContentError:
    hints = {
        errno.ENOSPC: "free some space and call again: what was received so far is kept and resumed",
        errno.EDQUOT: "your quota is used up; free some space and call again",
        errno.EFBIG: "raise the file size limit (ulimit -f) and call again",
    }
    return ContentError(
        f"cannot write {path}: {os.strerror(error.errno or 0)}",
        hint=hints.get(error.errno or 0, "check the folder's permissions"),
    )


def write_verified(stream: ByteStream, descriptor: Descriptor, part: Path, *, sync: bool = True) -> None:
    """Write a stream into a part file and verify it; bytes that are already in the part are hashed and skipped.

    On a wrong size or digest the part is removed; on a broken transfer it stays, to be resumed.
    """
    hasher = descriptor.digest.hasher()
    with open(part, "ab+", buffering=0) as sink:
        done = _rehash(sink, hasher, descriptor) if sink.tell() else 0
        if done:
            try:
                stream.seek(done)
            except OSError:
                sink.truncate(0)
                hasher, done = descriptor.digest.hasher(), 0
                stream.seek(0)
        whole = done and done == descriptor.size
        written = done if whole else done + copy_and_hash(stream, sink, hasher, descriptor.size - done)
        if done and written == descriptor.size and hasher.hexdigest() != descriptor.digest.encoded:
            # What was left behind may be damaged, as a power cut does; that costs a transfer, not a failure
            sink.truncate(0)
            stream.seek(0)
            hasher = descriptor.digest.hasher()
            written = copy_and_hash(stream, sink, hasher, descriptor.size)
        if sync:
            os.fsync(sink.fileno())
    try:
        check_size(descriptor, written)
        descriptor.digest.check(hasher.hexdigest(), str(descriptor))
    except ContentError:
        # A part that is wrong must not come back
        part.unlink(missing_ok=True)
        raise


def _rehash(sink: io.FileIO, hasher: Hasher, descriptor: Descriptor) -> int:
    """Hash what a part holds; a part that is too long starts over."""
    length = sink.seek(0, os.SEEK_END)
    if length > descriptor.size:
        sink.truncate(0)
        return 0
    sink.seek(0)
    buffer = memoryview(bytearray(BUFFER))
    while n := sink.readinto(buffer):
        hasher.update(buffer[:n])
    return length


def copy_and_hash(stream: ReadableInto, sink: BinaryIO, hasher: Hasher | None, expected: int) -> int:
    """Move bytes from a stream to a file, and to a hasher if there is one. Gives the number moved.

    Args:
        stream: what has `readinto`.
        sink: an unbuffered file.
        hasher: takes in what was written, no more.
        expected: bytes; it stops soon after that many, so that too many can be noticed.
    """
    # With a transfer for each core, threads of their own for hashes would only wait for one another
    if hasher is None or expected < _PIPELINED or len(_moving) >= (os.cpu_count() or 1):
        return _copy(stream, sink, hasher, expected)
    _moving.add(token := object())
    try:
        return _pipeline(stream, sink, hasher, expected)
    finally:
        _moving.discard(token)


#: Transfers that have two threads.
_moving: set[object] = set()


def _copy(stream: ReadableInto, sink: BinaryIO, hasher: Hasher | None, expected: int) -> int:
    buffer = memoryview(bytearray(min(BUFFER, expected + 1)))
    moved = 0
    while moved <= expected and (n := stream.readinto(buffer)):
        moved += n
        _write(sink, buffer[:n])
        if hasher is not None:
            hasher.update(buffer[:n])
    return moved


def _pipeline(stream: ReadableInto, sink: BinaryIO, hasher: Hasher, expected: int) -> int:
    """As `_copy`, with hash and file on their own thread: hashlib, socket and file calls release the interpreter lock.

    Receiving costs about as much as hashing and writing together, so two threads keep two cores busy.
    """
    free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
    for _ in range(_RING):
        free.put(memoryview(bytearray(BUFFER)))

    failures: list[BaseException] = []

    def keeping() -> None:
        while (item := full.get()) is not None:
            buffer, n = item
            if not failures:
                try:
                    _write(sink, buffer[:n])
                    hasher.update(buffer[:n])
                except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
                    failures.append(error)
            free.put(buffer)

    thread = threading.Thread(target=keeping, name="ocikit-keep", daemon=True)
    thread.start()
    moved = 0
    try:
        while moved <= expected and not failures:
            buffer = free.get()
            n = stream.readinto(buffer)
            if not n:
                break
            moved += n
            full.put((buffer, n))
    finally:
        full.put(None)
        thread.join()
    if failures:
        raise failures[0]
    return moved


def _write(sink: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[sink.write(view) :]


def _own_suffix() -> str:
    return f"{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())}.{os.getpid()}.{secrets.token_hex(4)}"


def _adopt(parts: Path, mine: Path) -> None:
    """Take over a part of the same content that nobody works on, by renaming it: one of several takers wins."""
    prefix = mine.name.split(".", 1)[0] + "."
    with contextlib.suppress(OSError):
        candidates = sorted(_orphans(parts, prefix), key=lambda item: -item[1])
        for path, _ in candidates:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, mine)
                return


def _orphans(parts: Path, prefix: str) -> Iterator[tuple[Path, int]]:
    """Parts that nobody works on, with their sizes."""
    host = _own_suffix().split(".", 1)[0]
    with os.scandir(parts) as listing:
        for entry in listing:
            if not entry.name.startswith(prefix):
                continue
            match = _PART.fullmatch(entry.name[len(prefix) :])
            if match is None:
                continue
            status = entry.stat()
            ours = match["host"] == host
            if (ours and not _busy(entry.name, int(match["pid"]))) or time.time() - status.st_mtime > _ORPHANED:
                yield Path(entry.path), status.st_size


def _busy(name: str, pid: int) -> bool:
    """Whether a process of this machine may still be writing."""
    if pid == os.getpid():
        return name in _active
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_atomically(path: Path, content: bytes, *, mode: int = 0o644, sync: bool = True) -> None:
    """Replace a small file atomically.

    Args:
        path: The file; its folder must exist.
        content: The new content.
        mode: Permissions of a new file, before the umask.
        sync: Whether the file must survive a power cut when this returns.

    Raises:
        ContentError: The disk is full, or the folder is not writable.
    """
    try:
        with atomic_writer(path, mode=mode, sync=sync) as file:
            file.write(content)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise _disk_error(error, path) from error
        raise


@contextlib.contextmanager
def atomic_writer(path: Path, *, mode: int = 0o644, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file next to `path` that is renamed to `path` at the end of the block.

    Readers see the old content or the new, never a part. After an exception in the block, nothing has changed.

    Args:
        path: The file to write; its folder must exist. A symlink is replaced, not followed.
        mode: Permissions of the file, before the umask.
        sync: Whether the file must survive a power cut when the block ends.
        replace: Whether to replace an existing file.

    Raises:
        FileExistsError: The file exists and `replace` is False; it keeps its content.
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{_own_suffix()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(fd, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(fd)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)  # unlike a rename, a link never replaces a file
            temporary.unlink()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut; file systems that cannot fsync folders are ignored."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
