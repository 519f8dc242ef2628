"""Disk space that is kept for transactions that free space.

On a full disk, a deletion fails without it: SQLite writes a change to its log before it applies it. The file `reserve` holds
the space. A change that frees space and finds no space runs again while the file is empty. Afterwards the file is filled
again, as far as there is space. Uploads cannot use it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from attrs import define

#: Bytes of the reserve: the log of SQLite, which it empties at 4 MB, and the pages that it adds to the database.
_SIZE = 16 << 20

#: The part of the file system that the reserve uses at most.
_PART = 1 / 16

#: Bytes that are allocated at once.
_CHUNK_SIZE = 1 << 16


@define(eq=False)
class DiskReserve:
    """A file that occupies space until it is needed.

    Several processes may use it: one at a time holds its lock.

    Args:
        path: The file, on the file system of the storage.
    """

    path: Path

    def fill(self) -> None:
        """Occupy the space, or as much as there is."""
        with contextlib.suppress(OSError), self._locked() as fd:
            self._fill(fd)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Free the space during the block."""
        with self._locked() as fd:
            os.ftruncate(fd, 0)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    self._fill(fd)

    def _fill(self, fd: int) -> None:
        size = min(_SIZE, int(shutil.disk_usage(self.path.parent).total * _PART))
        end = os.fstat(fd).st_size
        try:
            while end < size:
                _allocate(fd, end, min(_CHUNK_SIZE, size - end))
                end = os.fstat(fd).st_size
        except OSError:
            os.ftruncate(fd, end)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            with contextlib.suppress(ImportError):
                import fcntl  # noqa: PLC0415 - missing on Windows

                fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


def _allocate(fd: int, offset: int, size: int) -> None:
    """Allocate a range of a file.

    Raises:
        OSError: There is no space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, offset, size)
    else:
        os.lseek(fd, offset, os.SEEK_SET)
        # Random bytes: a file system may compress others
        os.write(fd, os.urandom(size))
