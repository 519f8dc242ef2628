"""Atomic writes of files, and copies that hash.

A temporary file is written, fsynced and renamed, so a file at its final path is always complete. `parts` adds locks,
resumption and verification for content that has a digest.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import queue
import secrets
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ocikit.display import shorten
from ocikit.errors import ContentError, UnverifiableDigest
from ocikit.spec.digest import Digest, Hasher
from ocikit.store.admission import available_cores
from ocikit.store.streams import LocalFile, ReadableInto
from ocikit.waits import UNLIMITED

#: Bytes. With smaller buffers the cost of calls shows next to hashing. With buffers above 256 KiB, Linux 6.16 and newer
#: uses huge pages for written data, and a virtual machine that must get these from its host spends two seconds a GiB on it.
BUFFER = 1 << 17
_LARGE = 4 << 20  # bytes; below this, larger turns and a second thread cost more than they save
_TURN = 1 << 20  # bytes of large content that are hashed at once; each pause of the copy costs the network, too
_RING = 4  # buffers between reader and hasher
_NAME_LIMIT = 200  # characters; file names are limited to 255 bytes, and part files have longer names than blobs


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
    return root.joinpath("blobs", digest.algorithm, digest.encoded)


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


def read_file(path: Path, limit: int | None = None) -> bytes:
    """Return the content of a regular file; a FIFO or a device in its place is refused.

    Args:
        path: The file.
        limit: Bytes; one byte more is read at most, so that the caller notices a larger file.

    Raises:
        FileNotFoundError: There is no such file.
        ContentError: The path is not a regular file, or is not readable.
    """
    with open_file(path) as file:
        chunks: list[bytes] = []
        left = sys.maxsize if limit is None else limit + 1
        while left > 0 and (chunk := file.read(min(left, 1 << 20))):
            chunks.append(chunk)
            left -= len(chunk)
        return b"".join(chunks)


def check_regular_file(path: str | os.PathLike[str]) -> None:
    """Check that a path for another library is a file: a FIFO or device could block it.

    Raises:
        FileNotFoundError: There is no such file.
        ContentError: The path is not a regular file, or is not readable.
    """
    open_file(Path(path)).close()


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


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk into ContentError.

    Args:
        path: The path that the message names.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise _disk_error(error, path) from error
        raise


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


def copy_and_hash(stream: ReadableInto, sink: BinaryIO, hasher: Hasher | None, expected: int) -> int:
    """Copy bytes from a stream to a file and a hasher, and return the number of bytes.

    Args:
        stream: The content.
        sink: An unbuffered file.
        hasher: Updated with the bytes that were written, if given.
        expected: Bytes; copying stops shortly after that many, so that the caller notices longer content.
    """
    if hasher is None or expected < _LARGE:
        return _copy(stream, sink, hasher, expected)
    _large_copies.add(token := object())
    try:
        return _copy_large(stream, sink, hasher, expected)
    finally:
        _large_copies.discard(token)


#: Copies of large content that run now.
_large_copies: set[object] = set()


def hashes_beside(copies: int, cores: int) -> bool:
    """Return True if copies should hash on threads of their own.

    hashlib, sockets and files release the interpreter lock, so a second thread for each copy uses an idle core. Without
    an idle core, the threads only wait for one another and for the interpreter lock.

    Args:
        copies: Copies that run at the same time.
        cores: Cores that this process may use.
    """
    return 2 * copies <= cores


def _copy(stream: ReadableInto, sink: BinaryIO, hasher: Hasher | None, expected: int) -> int:
    buffer = memoryview(bytearray(min(BUFFER, expected + 1)))
    copied = 0
    while copied <= expected and (n := stream.readinto(buffer)):
        copied += n
        _write(sink, buffer[:n])
        if hasher is not None:
            hasher.update(buffer[:n])
    return copied


def _copy_large(stream: ReadableInto, sink: BinaryIO, hasher: Hasher, expected: int) -> int:
    """Copy like `_copy`, with fewer and larger updates of the hasher, on a second thread while cores are idle."""
    hashing = _Hashing(hasher)
    copied, n = 0, 1
    try:
        while copied <= expected and n and hashing.error is None:
            buffer, filled = hashing.buffer(), 0
            try:
                while filled < _TURN and copied <= expected and (n := stream.readinto(buffer[filled:][:BUFFER])):
                    # At once: what waits in memory is lost with the process
                    _write(sink, buffer[filled : filled + n])
                    filled += n
                    copied += n
            finally:
                hashing.update(buffer, filled)
    finally:
        hashing.finish()
    return copied


class _Hashing:
    """The hashing of one large copy, in order.

    Args:
        hasher: Updated with all bytes.
    """

    def __init__(self, hasher: Hasher) -> None:
        self._hasher = hasher
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._buffers = 0
        self._thread: threading.Thread | None = None
        self.error: BaseException | None = None
        """The error of the hasher, raised by `finish`."""

    def buffer(self) -> memoryview:
        """Return a buffer that is not in use; wait for one if the copy is faster than the hash."""
        if self._free.empty() and self._buffers < _RING:
            self._buffers += 1
            return memoryview(bytearray(_TURN))
        return self._free.get(timeout=UNLIMITED)

    def update(self, buffer: memoryview, n: int) -> None:
        """Hash the first `n` bytes of a buffer, now or on the second thread, and free it."""
        if hashes_beside(len(_large_copies), available_cores()):
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="ocikit-hash", daemon=True)
                self._thread.start()
            self._full.put((buffer, n))
            return
        others = [self._free.get(timeout=UNLIMITED) for _ in range(self._buffers - 1)]  # the bytes before were hashed
        self._update(buffer, n)
        for other in others:
            self._free.put(other)

    def finish(self) -> None:
        """Wait for the second thread, and raise its error."""
        if self._thread is not None:
            self._full.put(None)
            self._thread.join(UNLIMITED)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            self._update(*item)

    def _update(self, buffer: memoryview, n: int) -> None:
        try:
            if self.error is None:
                self._hasher.update(buffer[:n])
        except BaseException as error:  # noqa: BLE001 - raised by `finish`, on the caller's thread
            self.error = error
        finally:
            self._free.put(buffer)


def _write(sink: BinaryIO, view: memoryview) -> None:
    while view:
        view = view[sink.write(view[:BUFFER]) :]  # larger writes are slow, see BUFFER


def write_atomically(
    path: Path, content: bytes, *, mode: int = 0o644, sync: bool = True, dir_fd: int | None = None
) -> None:
    """Replace a small file atomically.

    Args:
        path: The file; its folder must exist.
        content: The new content.
        mode: Permissions of a new file, before the umask.
        sync: Whether the file must survive a power cut when this returns.
        dir_fd: A descriptor of the file's folder. The path is then not followed, so it may change meanwhile.

    Raises:
        ContentError: The disk is full, or the folder is not writable.
    """
    with disk_errors(path), atomic_writer(path, mode=mode, sync=sync, dir_fd=dir_fd) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_writer(
    path: Path, *, mode: int = 0o644, sync: bool = True, replace: bool = True, dir_fd: int | None = None
) -> Iterator[BinaryIO]:
    """Open a temporary file that is renamed to `path` at the end of the block.

    Readers see the old content or the new, never a part. After an exception in the block, nothing has changed.

    Args:
        path: The file to write; its folder must exist. A symlink is replaced, not followed.
        mode: Permissions of the file, before the umask.
        sync: Whether the file must survive a power cut when the block ends.
        replace: Whether to replace an existing file.
        dir_fd: A descriptor of the file's folder. The path is then not followed, so it may change meanwhile.

    Raises:
        FileExistsError: The file exists and `replace` is False; it keeps its content.
        OSError: The file cannot be written.
    """
    # File names are limited to 255 bytes
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}")
    new, final = (str(temporary), str(path)) if dir_fd is None else (temporary.name, path.name)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode, dir_fd=dir_fd)
    try:
        with open(fd, "wb") as file:
            yield file
            if sync:
                file.flush()
                os.fsync(fd)
        if replace:
            os.replace(new, final, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        else:
            os.link(new, final, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)  # unlike a rename, a link never replaces a file
            os.unlink(new, dir_fd=dir_fd)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new, dir_fd=dir_fd)
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
