"""Part files: transfers that are locked, resumed and verified before their content gets its final name.

A writer holds the lock of its part (see `locks`). The part of a digest has one name in its folder, so writers in several
threads and processes agree on it: the first one transfers, the others wait for the lock and then use the content. A part
without a holder was left behind: the next writer rehashes and resumes it, in any process, container or host. The wait
ends when the part does not grow any more; the writer then transfers into a part of its own.

Bytes are written at their own offsets, never appended. Before the rename, the size of the file itself is compared, and
the name must still lead to the open file. A part that vanished is written again from the open file.

File systems without locks have neither waiting nor resumption: each writer has its own part.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import define, frozen

from ocikit.errors import ContentError
from ocikit.progress.base import notify
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, Hasher
from ocikit.store.admission import ADMISSION
from ocikit.store.files import BUFFER, copy_and_hash, disk_errors, fsync_folder
from ocikit.store.locks import LocksUnsupported, has_locks, try_lock, try_lock_file, unlock
from ocikit.store.streams import ByteStream, StreamWrapper, check_size

if TYPE_CHECKING:
    from filelock import BaseFileLock

_STALL = 30.0  # seconds without growth after which a waiting writer transfers by itself
_MAX_WAIT = 600.0  # seconds of waiting in all
_POLL = (0.005, 0.1)  # seconds between two attempts, at first and at most
_NOTE_AFTER = 1.0  # seconds of waiting after which the user is informed
_ATTEMPTS = 4  # of writes whose part is deleted or changed by others

_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class PartLost(Exception):
    """The part was deleted or changed by another process."""


class _Unusable(Exception):
    """The name of a part leads to something that must not be written to."""


@frozen
class PartFolder:
    """A folder of part files.

    Args:
        path: The folder; it is created when a part is.
        fd: A descriptor of the folder. Parts are then opened relative to it, so the path may change meanwhile.
    """

    path: Path
    fd: int | None = None

    def at(self, name: str) -> str:
        """Return the path of a part for system calls with `dir_fd=fd`."""
        return name if self.fd is not None else os.path.join(self.path, name)

    def open(self, name: str, flags: int) -> io.FileIO:
        """Open a part for reading and writing."""
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # garbage collection removes empty folders
                fd = os.open(self.at(name), _OPEN | flags, 0o666, dir_fd=self.fd)
                return io.FileIO(fd, "rb+")
            if self.fd is not None or not flags & os.O_CREAT:
                break
            self.path.mkdir(parents=True, exist_ok=True)
        raise ContentError(f"writing {self.path / name} failed: the folder was deleted meanwhile", hint="call again")

    def list(self, prefix: str = "") -> list[tuple[str, os.stat_result]]:
        """Return the names and status of the parts whose names start with a prefix."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.path if self.fd is None else self.fd) as listing:
            for entry in listing:
                if entry.name.startswith(prefix):
                    with contextlib.suppress(OSError):
                        found.append((entry.name, entry.stat(follow_symlinks=False)))
        return found

    def remove(self, name: str, *, before: float) -> bool:
        """Delete a part that no process writes; return True if it was deleted.

        Args:
            name: Name of the part.
            before: Seconds since the epoch; a part that was changed later stays.
        """
        try:
            changed = os.stat(self.at(name), dir_fd=self.fd, follow_symlinks=False).st_mtime
            if changed >= before:
                return False
            with contextlib.suppress(LocksUnsupported, _Unusable):
                part = _try_open(self, name, 0)
                if part is None:
                    return False
                with part:
                    part.discard()
                    return True
            os.unlink(self.at(name), dir_fd=self.fd)
            return True
        except (OSError, ContentError):
            return False


@define(eq=False)
class Part:
    """An open part, locked where the file system has locks."""

    folder: PartFolder
    name: str
    file: io.FileIO
    locked: bool
    beside: BaseFileLock | None = None
    """The lock on platforms without locks of open files."""

    def __attrs_post_init__(self) -> None:
        _open_parts.add(self)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> Path:
        """Path of the part."""
        return self.folder.path / self.name

    @property
    def size(self) -> int:
        """Bytes that the file has."""
        return os.fstat(self.file.fileno()).st_size

    def is_current(self) -> bool:
        """Return True if the name leads to the open file."""
        try:
            found = os.stat(self.folder.at(self.name), dir_fd=self.folder.fd, follow_symlinks=False)
        except OSError:
            return False
        return os.path.samestat(found, os.fstat(self.file.fileno()))

    def move(self, target: str | os.PathLike[str], *, dir_fd: int | None = None) -> None:
        """Rename the part to its final name.

        Raises:
            PartLost: Another process deleted or replaced the part.
        """
        if not self.is_current():
            raise PartLost
        if os.name == "nt":
            self.file.close()  # Windows renames no open files; the lock next to the part is still held
        try:
            if self.folder.fd is None and dir_fd is None:
                os.replace(self.path, target)
            else:
                os.rename(self.folder.at(self.name), target, src_dir_fd=self.folder.fd, dst_dir_fd=dir_fd)
        except FileNotFoundError:
            if self.is_current():
                raise
            raise PartLost from None

    def discard(self) -> None:
        """Delete the part if it is still there."""
        if self.is_current():
            with contextlib.suppress(OSError):
                os.unlink(self.folder.at(self.name), dir_fd=self.folder.fd)

    def close(self) -> None:
        """Release the lock and close the file."""
        _open_parts.discard(self)
        if not self.file.closed:
            if self.locked:
                unlock(self.file.fileno())
            self.file.close()
        if self.beside is not None:
            self.beside.release()
            self.beside = None


#: Parts that this process writes. A forked child closes its copies: it must not write to files of its parent.
_open_parts: set[Part] = set()


def _close_in_child() -> None:
    for part in list(_open_parts):
        part.file.close()
    _open_parts.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def write_blob(
    stream: ByteStream,
    descriptor: Descriptor,
    final: Path,
    *,
    parts: Path,
    mode: int = 0o444,
    sync: bool = True,
    reuse: bool = False,
) -> bool:
    """Write a stream to its final path once it is verified.

    Args:
        stream: The content; a seekable stream resumes a part that was left behind.
        descriptor: The expected size and digest.
        final: The final path; an existing file is replaced.
        parts: The folder for part files, on the same file system.
        mode: Permissions of the final file.
        sync: Whether the content must survive a power cut before it is visible at its final path.
        reuse: Whether an existing file of the right size is used instead. A file that another writer stores during
            the call is always used.

    Returns:
        True if the stream was written, False if the content was there.

    Raises:
        SizeMismatch: The content has another size; nothing is stored.
        DigestMismatch: The content has another digest; nothing is stored.
        ContentError: The disk is full, or the folder is not writable. The part stays and is resumed by the next call.
    """
    before = _identity(final)

    def exists() -> bool:
        now = _identity(final)
        return now is not None and now[0] == descriptor.size and (reuse or now != before)

    def place(part: Part) -> None:
        if os.chmod in os.supports_fd:
            os.fchmod(part.file.fileno(), mode)
        else:
            os.chmod(part.path, mode)
        # A resumed part may be old, and garbage collection judges blobs by their age
        os.utime(part.file.fileno() if os.utime in os.supports_fd else part.path)
        for is_last_attempt in (False, True):
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.move(final)
                return
            except FileNotFoundError:  # garbage collection removes empty folders
                if is_last_attempt:
                    raise

    written = write_part(stream, descriptor, place, parts=PartFolder(parts), exists=exists, sync=sync, near=final)
    if written and sync:
        fsync_folder(final.parent)
    return written


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return size, inode and modification time of a file; None if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_ino, status.st_mtime_ns


def write_part(
    stream: ByteStream,
    descriptor: Descriptor,
    place: Callable[[Part], object],
    *,
    parts: PartFolder,
    exists: Callable[[], bool] | None = None,
    share: bool = True,
    sync: bool = True,
    near: Path | None = None,
) -> bool:
    """Write and verify a part, then place it.

    Args:
        stream: The content; a seekable stream resumes a part that was left behind.
        descriptor: The expected size and digest.
        place: Gets the verified part and renames it. It is called again if the part was lost.
        parts: The folder for part files.
        exists: Returns True if another writer has stored the content. It is called once the part is locked.
        share: Whether other writers of the content may wait for this one and resume it. Copies of local files need
            neither.
        sync: Whether to fsync the part.
        near: The path that an error about the disk names; the part by default.

    Returns:
        True if the part was placed, False if the content existed.

    Raises:
        SizeMismatch: The content has another size; nothing is stored.
        DigestMismatch: The content has another digest; nothing is stored.
        ContentError: The disk is full, or the folder is not writable.
    """
    name = f"{descriptor.digest.algorithm}-{descriptor.digest.encoded}"
    exists = exists or (lambda: False)
    where = near or parts.path / name
    with contextlib.ExitStack() as opened, disk_errors(where):
        for attempt in range(_ATTEMPTS):
            part = _claim(parts, descriptor.digest, exists, stream, own=attempt > 1 or not share)
            if part is None:
                return False
            opened.callback(_close, part)
            if exists():
                return False
            if part.size and not stream.seekable():
                part = _open_own(parts, name)  # keep what another stream resumes
                opened.callback(_close, part)
            try:
                _fill(stream, descriptor, part, sync=sync)
                place(part)
                return True
            except PartLost:
                if (copy := _reopened(part, descriptor)) is not None:
                    stream = opened.enter_context(copy)
                elif stream.seekable():
                    stream.seek(0)
                else:
                    break
    raise ContentError(
        f"writing {where} failed: another process deletes or changes {parts.path / name}",
        hint="end that process and call again",
    )


def _close(part: Part) -> None:
    """Close a part; delete it if it is empty, because there is nothing to resume."""
    if not part.file.closed and not part.size:
        part.discard()
    part.close()


def _reopened(part: Part, descriptor: Descriptor) -> io.FileIO | None:
    """Return a stream over the complete content of a part whose name is lost, or None."""
    if part.file.closed or part.size != descriptor.size:
        return None
    copy = io.FileIO(os.dup(part.file.fileno()), "rb")
    copy.seek(0)
    return copy


def _claim(
    parts: PartFolder, digest: Digest, exists: Callable[[], bool], stream: ByteStream, *, own: bool
) -> Part | None:
    """Return a locked part; None if another writer stores the content meanwhile."""
    name = f"{digest.algorithm}-{digest.encoded}"
    if own:
        return _open_own(parts, name)
    started = grown = time.monotonic()
    last_size, pause, noted = -1, _POLL[0], False
    while True:
        try:
            part = _try_open(parts, name, os.O_CREAT)
        except (LocksUnsupported, _Unusable):
            return _open_own(parts, name)
        if part is not None:
            return part if part.size else _adopt_other(part)
        now = time.monotonic()
        size = _size_of(parts, name)
        if size != last_size:
            last_size, grown = size, now
        if now - grown > _STALL or now - started > _MAX_WAIT:
            return _open_own(parts, name)
        if now - started > _NOTE_AFTER and not noted:
            noted = True
            notify(f"waiting for another transfer of {digest.short}")
        if isinstance(stream, StreamWrapper):
            stream.check()
        time.sleep(pause)
        pause = min(2 * pause, _POLL[1])
        if exists():
            return None


def _size_of(parts: PartFolder, name: str) -> int:
    """Return the size of a part in bytes, -1 if it does not exist."""
    try:
        return os.stat(parts.at(name), dir_fd=parts.fd, follow_symlinks=False).st_size
    except OSError:
        return -1


def _try_open(parts: PartFolder, name: str, flags: int) -> Part | None:
    """Return a part with its lock; None if another writer holds it.

    Raises:
        LocksUnsupported: The file system has no locks.
        _Unusable: The name leads to something else, or to a part of another user.
    """
    try:
        part = Part(parts, name, parts.open(name, flags), locked=False)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ENXIO}:
            raise _Unusable from error
        raise
    status = os.fstat(part.file.fileno())
    # A file with another name or owner may be changed after it was verified (TOCTOU), or belong to something else
    is_foreign = hasattr(os, "geteuid") and status.st_uid != os.geteuid()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or is_foreign:
        part.close()
        raise _Unusable
    try:
        if has_locks():
            part.locked = held = try_lock(part.file.fileno())
        else:
            part.beside = try_lock_file(parts.path / f"{name}.lock")
            held = part.beside is not None
    except BaseException:
        _close(part)
        raise
    # Between opening and locking, the holder may have renamed the file to its final name
    if held and part.is_current():
        return part
    part.close()
    return None


def _open_own(parts: PartFolder, name: str) -> Part:
    """Return a new part that no other writer waits for."""
    own = f"{name}.{secrets.token_hex(4)}"
    with contextlib.suppress(LocksUnsupported, _Unusable):
        part = _try_open(parts, own, os.O_CREAT | os.O_EXCL)
        if part is not None:
            return part
    own = f"{name}.{secrets.token_hex(4)}"
    return Part(parts, own, parts.open(own, os.O_CREAT | os.O_EXCL), locked=False)


def _adopt_other(part: Part) -> Part:
    """Return the largest part of the same content that has no holder, under the name of an empty part."""
    parts, prefix = part.folder, f"{part.name}."
    found = [(name, status.st_size) for name, status in parts.list(prefix) if status.st_size]
    for name, _ in sorted(found, key=lambda item: -item[1]):
        with contextlib.suppress(OSError, ContentError, LocksUnsupported, _Unusable):
            other = _try_open(parts, name, 0)
            if other is None:
                continue
            try:
                other.move(parts.at(part.name), dir_fd=parts.fd)
            except (OSError, PartLost):
                other.close()
                continue
            other.name = part.name
            part.close()
            return other
    return part


def _fill(stream: ByteStream, descriptor: Descriptor, part: Part, *, sync: bool) -> None:
    """Write a stream into a part, after the bytes it already has, and verify it.

    A part with a wrong size or digest is deleted. After a broken transfer it stays, to be resumed.

    Raises:
        SizeMismatch: The content has another size.
        DigestMismatch: The content has another digest.
        PartLost: Another process has written to the file.
    """
    sink, hasher, found = part.file, descriptor.digest.hasher(), part.size
    resumed = _rehash(sink, hasher, descriptor) if found else 0
    if resumed and not stream.seekable():
        resumed = 0
    elif resumed:
        try:
            stream.seek(resumed)
        except OSError:
            stream.seek(0)
            resumed = 0
    if found and not resumed:
        hasher = _restart(part, descriptor)
    complete = resumed and resumed == descriptor.size
    check = stream.check if isinstance(stream, StreamWrapper) else lambda: None
    with ADMISSION.admit(descriptor.size - resumed, check):
        written = resumed if complete else resumed + copy_and_hash(stream, sink, hasher, descriptor.size - resumed)
    if resumed and written == descriptor.size and hasher.hexdigest() != descriptor.digest.encoded:
        # The resumed bytes may be corrupt, for example after a power cut: transfer again instead of failing
        stream.seek(0)
        hasher = _restart(part, descriptor)
        written = copy_and_hash(stream, sink, hasher, descriptor.size)
    if sync:
        os.fsync(sink.fileno())
    try:
        check_size(descriptor, written)
        descriptor.digest.check(hasher.hexdigest(), descriptor)
    except ContentError:
        part.discard()  # a corrupt part must not be resumed
        raise
    if part.size != written:
        part.discard()
        raise PartLost


def _restart(part: Part, descriptor: Descriptor) -> Hasher:
    """Empty a part and return a new hasher."""
    part.file.truncate(0)
    part.file.seek(0)
    return descriptor.digest.hasher()


def _rehash(sink: io.FileIO, hasher: Hasher, descriptor: Descriptor) -> int:
    """Hash the content of a part and return its length, 0 if it is too long."""
    sink.seek(0)
    buffer = memoryview(bytearray(BUFFER))
    length = 0
    while n := sink.readinto(buffer):
        hasher.update(buffer[:n])
        length += n
        if length > descriptor.size:
            return 0
    return length
