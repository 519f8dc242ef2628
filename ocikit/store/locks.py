"""Advisory locks of files. The operating system drops them with their process.

A lock identifies the writer. Process ids, host names and modification times cannot: they are reused in containers, shared
between them, or come from another clock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ocikit import display
from ocikit.errors import ContentError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_POLL = 0.01  # seconds between two attempts

#: Errors of file systems without locks.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


class LocksUnsupported(Exception):
    """The file system or the platform has no locks of open files."""


def has_locks() -> bool:
    """Return True if the platform has locks of open files; Windows has none."""
    try:
        import fcntl  # noqa: F401, PLC0415 - not available on Windows
    except ImportError:
        return False
    return True


def try_lock(fd: int) -> bool:
    """Lock an open file until it is closed; return False if another descriptor holds the lock.

    Threads exclude each other like processes if each of them has opened the file.

    Raises:
        LocksUnsupported: The file system or the platform has no such locks.
    """
    try:
        import fcntl  # noqa: PLC0415 - not available on Windows
    except ImportError:
        raise LocksUnsupported from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupported from error
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock of an open file, also if a forked process has inherited the descriptor."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl  # noqa: PLC0415 - not available on Windows

        fcntl.flock(fd, fcntl.LOCK_UN)


def try_lock_file(path: Path) -> BaseFileLock | None:
    """Lock a file next to the one to protect; return None if another process or thread holds the lock.

    For platforms without locks of open files.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 80 ms of import that few calls need

    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except (Timeout, NotImplementedError, PermissionError):
        return None
    return lock


@contextlib.contextmanager
def exclusive(path: Path, timeout: float) -> Iterator[None]:
    """Hold the lock of a file for the block; create the file if necessary.

    Args:
        path: File of the lock; its content means nothing.
        timeout: Seconds to wait for the lock.

    Raises:
        ContentError: Another process holds the lock for too long.
        OSError: The file cannot be opened.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 80 ms of import that readers do not need

    lock = FileLock(path, timeout=timeout, poll_interval=_POLL)
    try:
        lock.acquire()
    except Timeout as error:
        raise _timeout_error(path, timeout) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def lock_in_folder(folder: Path, name: str, *, dir_fd: int | None, timeout: float) -> Iterator[None]:
    """Hold the lock of a file in a folder for the block; go without one where locks are unsupported.

    Args:
        folder: The folder.
        name: Name of the file, which is created if necessary.
        dir_fd: A descriptor of the folder. The path is then not followed, so it may change meanwhile.
        timeout: Seconds to wait for the lock.

    Raises:
        ContentError: Another process holds the lock for too long.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    fd = os.open(name if dir_fd is not None else folder / name, flags, 0o666, dir_fd=dir_fd)
    deadline = time.monotonic() + timeout
    try:
        with contextlib.suppress(LocksUnsupported):
            while not try_lock(fd):
                if time.monotonic() > deadline:
                    raise _timeout_error(folder / name, timeout)
                time.sleep(_POLL)
        yield
    finally:
        unlock(fd)
        os.close(fd)


def _timeout_error(path: Path, timeout: float) -> ContentError:
    return ContentError(
        f"locking {path} failed: another process has held the lock for {display.duration(timeout)}",
        hint="wait for that process or end it; the lock is released when it ends",
    )
