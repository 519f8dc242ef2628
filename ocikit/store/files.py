"""Atomic, verified and resumable writes of files.

Content is hashed while it is written to a temporary file. The file is then verified, fsynced and renamed, so a file at
its final path is always complete. Parts that a crash left behind are rehashed and resumed.
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
from ocikit.store.streams import ByteStream, LocalFile, ReadableInto, check_size

#: Bytes. With smaller buffers the cost of calls shows next to hashing. With buffers above 256 KiB, Linux 6.16 and newer
#: uses huge pages for written data, and a virtual machine that must get these from its host spends two seconds a GiB on it.
BUFFER = 1 << 17
_RING = 32  # buffers between reader and writer; 4 MiB a transfer
_PIPELINE_MIN = 4 << 20  # bytes; below this, a second thread costs more than it saves
_NAME_LIMIT = 200  # characters; file names are limited to 255 bytes, and part files have longer names than blobs
_ORPHAN_AGE = 3600.0  # seconds without a write after which a part file of another host is an orphan

_PART_SUFFIX = re.compile(r"(?P<host>.+)\.(?P<pid>\d+)\.[0-9a-f]{8}")


def blob_path(root: Path, digest: Digest) -> Path:
    """Return the path of a blob. image-spec image-layout.md#blobs.

    Raises:
        UnverifiableDigest: The digest is too long for a file name; no known algorithm has such digests.
    """
    if max(len(digest.algorithm), len(digest.encoded)) > _NAME_LIMIT:
        raise UnverifiableDigest(
            f"the digest {shorten(digest, 40)} has {len(digest)} characters, too many for a file name",
            hint="sha256 and sha512 can be verified; ask the publisher for one",
        )
    return root / "blobs" / digest.algorithm / digest.encoded


def open_file(path: Path) -> LocalFile:
    """Open a regular file for reading, unbuffered.

    Raises:
        FileNotFoundError: There is no such file.
        ContentError: The path is not a regular file, or is not readable.
    """
    try:
        # O_NONBLOCK: an untrusted folder may contain a FIFO, which would block here. It has no effect on regular files.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        file = LocalFile(io.FileIO(os.open(path, flags), "rb"), str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
    except OSError as error:  # FileIO rejects folders
        raise ContentError(
            f"cannot read {path}: {error.strerror or error}", hint="it must be a regular file that you may read"
        ) from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ContentError(f"cannot read {path}: it is not a regular file", hint="copy the content again")
    return file


def write_blob(
    stream: ByteStream, descriptor: Descriptor, final: Path, *, parts: Path, mode: int = 0o444, sync: bool = True
) -> None:
    """Write a stream to its final path once it is verified.

    Args:
        stream: The content; a seekable stream resumes a part that was left behind.
        descriptor: The expected size and digest.
        final: The final path; an existing file is replaced.
        parts: The folder for part files, on the same file system.
        mode: Permissions of the final file.
        sync: Whether the content must survive a power cut before it is visible at its final path.

    Raises:
        SizeMismatch: The content has another size; nothing is stored.
        DigestMismatch: The content has another digest; nothing is stored.
        ContentError: The disk is full, or the folder is not writable. The part stays and is resumed by the next call.
    """
    with verified_part(stream, descriptor, parts=parts, sync=sync, near=final) as part:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(part, mode)
        os.utime(part)  # a resumed part may be old, and garbage collection judges blobs by their age
        os.replace(part, final)
    if sync:
        fsync_folder(final.parent)


@contextlib.contextmanager
def verified_part(
    stream: ByteStream, descriptor: Descriptor, *, parts: Path, sync: bool = True, near: Path | None = None
) -> Iterator[Path]:
    """Write and verify a part file; the caller renames it within the block.

    A part file that is left behind is resumed by the next call for the same content.

    Args:
        stream: The content; a seekable stream resumes a part that was left behind.
        descriptor: The expected size and digest.
        parts: The folder for part files.
        sync: Whether to fsync the part file.
        near: The path that an error about the disk names; the part file by default.

    Raises:
        SizeMismatch: The content has another size; nothing is stored.
        DigestMismatch: The content has another digest; nothing is stored.
        ContentError: The disk is full, or the folder is not writable.
    """
    part = parts / f"{descriptor.digest.algorithm}-{descriptor.digest.encoded}.{_own_suffix()}"
    _active.add(part.name)
    try:
        parts.mkdir(parents=True, exist_ok=True)
        if stream.seekable():
            _adopt_orphan(parts, part)
        write_verified(stream, descriptor, part, sync=sync)
        yield part
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise _disk_error(error, near or part) from error
        raise
    finally:
        _active.discard(part.name)


#: Names of the part files that this process is writing; others with its process id were left behind by a failure.
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
    """Write a stream into a part file, after the bytes it already has, and verify it.

    A part with a wrong size or digest is deleted. After a broken transfer it stays, to be resumed.

    Raises:
        SizeMismatch: The content has another size.
        DigestMismatch: The content has another digest.
    """
    hasher = descriptor.digest.hasher()
    with open(part, "ab+", buffering=0) as sink:
        resumed = _rehash(sink, hasher, descriptor) if sink.tell() else 0
        if resumed:
            try:
                stream.seek(resumed)
            except OSError:
                sink.truncate(0)
                hasher, resumed = descriptor.digest.hasher(), 0
                stream.seek(0)
        complete = resumed and resumed == descriptor.size
        written = resumed if complete else resumed + copy_and_hash(stream, sink, hasher, descriptor.size - resumed)
        if resumed and written == descriptor.size and hasher.hexdigest() != descriptor.digest.encoded:
            # The resumed bytes may be corrupt, for example after a power cut: transfer again instead of failing
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
        part.unlink(missing_ok=True)  # a corrupt part must not be resumed
        raise


def _rehash(sink: io.FileIO, hasher: Hasher, descriptor: Descriptor) -> int:
    """Hash the content of a part file and return its length, 0 if it is too long."""
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
    """Copy bytes from a stream to a file and a hasher, and return the number of bytes.

    Args:
        stream: The content.
        sink: An unbuffered file.
        hasher: Updated with the bytes that were written, if given.
        expected: Bytes; copying stops shortly after that many, so that the caller notices longer content.
    """
    # With as many transfers as cores, second threads would only wait for one another
    if hasher is None or expected < _PIPELINE_MIN or len(_pipelines) >= (os.cpu_count() or 1):
        return _copy(stream, sink, hasher, expected)
    _pipelines.add(token := object())
    try:
        return _pipeline(stream, sink, hasher, expected)
    finally:
        _pipelines.discard(token)


#: Transfers that use two threads.
_pipelines: set[object] = set()


def _copy(stream: ReadableInto, sink: BinaryIO, hasher: Hasher | None, expected: int) -> int:
    buffer = memoryview(bytearray(min(BUFFER, expected + 1)))
    copied = 0
    while copied <= expected and (n := stream.readinto(buffer)):
        copied += n
        _write(sink, buffer[:n])
        if hasher is not None:
            hasher.update(buffer[:n])
    return copied


def _pipeline(stream: ReadableInto, sink: BinaryIO, hasher: Hasher, expected: int) -> int:
    """Copy like `_copy`, with writes and hashing on a second thread.

    hashlib, sockets and files release the interpreter lock. Receiving costs about as much as hashing and writing
    together, so two threads keep two cores busy.
    """
    free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
    full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
    for _ in range(_RING):
        free.put(memoryview(bytearray(BUFFER)))

    failures: list[BaseException] = []

    def write_and_hash() -> None:
        while (item := full.get()) is not None:
            buffer, n = item
            if not failures:
                try:
                    _write(sink, buffer[:n])
                    hasher.update(buffer[:n])
                except BaseException as error:  # noqa: BLE001 - raised below, on the caller's thread
                    failures.append(error)
            free.put(buffer)

    thread = threading.Thread(target=write_and_hash, name="ocikit-writer", daemon=True)
    thread.start()
    copied = 0
    try:
        while copied <= expected and not failures:
            buffer = free.get()
            n = stream.readinto(buffer)
            if not n:
                break
            copied += n
            full.put((buffer, n))
    finally:
        full.put(None)
        thread.join()
    if failures:
        raise failures[0]
    return copied


def _write(sink: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[sink.write(view) :]


def _own_suffix() -> str:
    return f"{re.sub('[^A-Za-z0-9-]', '-', socket.gethostname())}.{os.getpid()}.{secrets.token_hex(4)}"


def _adopt_orphan(parts: Path, part: Path) -> None:
    """Rename the largest orphaned part of the same content to `part`.

    Of several processes that try it, one succeeds.
    """
    prefix = part.name.split(".", 1)[0] + "."
    with contextlib.suppress(OSError):
        candidates = sorted(_orphans(parts, prefix), key=lambda item: -item[1])
        for path, _ in candidates:
            with contextlib.suppress(FileNotFoundError):
                os.rename(path, part)
                return


def _orphans(parts: Path, prefix: str) -> Iterator[tuple[Path, int]]:
    """Yield the parts that no process is writing, with their sizes in bytes."""
    host = _own_suffix().split(".", 1)[0]
    with os.scandir(parts) as listing:
        for entry in listing:
            if not entry.name.startswith(prefix):
                continue
            match = _PART_SUFFIX.fullmatch(entry.name[len(prefix) :])
            if match is None:
                continue
            status = entry.stat()
            same_host = match["host"] == host
            dead = same_host and not _may_be_writing(entry.name, int(match["pid"]))
            if dead or time.time() - status.st_mtime > _ORPHAN_AGE:
                yield Path(entry.path), status.st_size


def _may_be_writing(name: str, pid: int) -> bool:
    """Return True if a process of this host may still write the part."""
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
    """Open a temporary file that is renamed to `path` at the end of the block.

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
    # File names are limited to 255 bytes
    temporary = path.with_name(f".{path.name[:40]}.{_own_suffix()}")
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


def create_private_folder(folder: Path) -> None:
    """Create a folder that other users cannot enter; an existing folder keeps its permissions.

    Files below it may be readable by all: stores hold content that only its owner may have access to.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where fsync is supported."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
