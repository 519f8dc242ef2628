"""Values parsed from files, kept while the state of the file is unchanged.

Records of folders and cached documents name all files of an artifact. Without this memo, a call about one file would parse
them again, and cost time by the number of all files.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

from ocikit.forks import ForkSafeLock

T = TypeVar("T")

#: Modification time in nanoseconds, size and inode. Files that are replaced atomically differ in the inode.
_State: TypeAlias = tuple[int, int, int]


class FileMemo(Generic[T]):
    """Values parsed from files; thread-safe.

    Values are shared between callers, which must not change them.

    Args:
        limit: Bytes of files whose values are kept; the least recently used value is dropped first.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = ForkSafeLock()
        self._entries: OrderedDict[tuple[str, str], tuple[_State, T]] = OrderedDict()

    def get(self, path: Path, load: Callable[[Path], T], variant: str = "") -> T:
        """Return the value of a file; load it if the file has changed.

        Args:
            path: The file. Without the file, `load` is called and its value is not kept.
            load: Parses the file.
            variant: How the file is parsed, if one file has several values.
        """
        key = str(path), variant
        try:
            # Before the load: a change in between is noticed by the next call
            status = os.stat(path)
        except OSError:
            return load(path)
        state = status.st_mtime_ns, status.st_size, status.st_ino
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry[0] == state:
                self._entries.move_to_end(key)
                return entry[1]
        value = load(path)
        with self._lock:
            self._entries[key] = state, value
            self._entries.move_to_end(key)
            while sum(kept[1] for kept, _ in self._entries.values()) > self._limit:
                self._entries.popitem(last=False)
        return value
