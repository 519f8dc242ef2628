"""Files that are read again when they change: who is in a group of people shouldn't need a restart."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ocikit.errors import InvalidArgument

_log = logging.getLogger("ocikit.server")

#: Seconds. Clocks of file systems may be so coarse: what changed just now may change again without looking any newer.
_FRESH = 2.0

T = TypeVar("T")


class ReloadingFile(Generic[T]):
    """What a file says, as of now.

    A file that can't be read any more, or makes no sense, changes nothing: the log says so, and what it said last goes on.

    Args:
        path: the file.
        read: what makes a value of it.
    Raises:
        InvalidArgument: if it can't be read the first time.
    """

    def __init__(self, path: str | os.PathLike[str], read: Callable[[Path], T]) -> None:
        self.path = Path(path)
        self._read = read
        self._lock = threading.Lock()
        self._seen = self._look()
        self._settled = False
        try:
            self._value = read(self.path)
        except OSError as error:
            raise InvalidArgument(f"{self.path} can't be read: {error.strerror or error}") from error

    @property
    def value(self) -> T:
        """What the file says."""
        seen = self._look()
        if seen != self._seen or not self._settled:
            with self._lock:
                self._again(seen)
        return self._value

    def _look(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _again(self, seen: tuple[int, ...]) -> None:
        changed, self._seen = seen != self._seen, seen
        self._settled = not seen or abs(time.time() - seen[0] / 1e9) > _FRESH
        try:
            self._value = self._read(self.path)
        except (InvalidArgument, OSError) as error:
            if changed:
                _log.error("%s; what it said before still holds", error)
