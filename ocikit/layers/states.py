"""States of files, by which a push recognizes files that an earlier push has hashed.

A state is path, size, times, inode and mode. A file that was changed shortly before it was hashed is not recorded: another
change within the resolution of its times would leave the state as it is. Git treats such files the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final, Protocol

from ocikit.spec.digest import new_hasher

#: Nanoseconds. Times of files have a resolution of up to 2 s, on FAT.
_SETTLED: Final = 2_000_000_000
_KEY = 40  # characters


class KnownHashes(Protocol):
    """Results of hashing by the state of files."""

    def get(self, key: str) -> str | None:
        """Return the result for a key, or None."""

    def put(self, key: str, value: str) -> None:
        """Record the result for a key. It has no spaces."""


class NoHashes:
    """Records nothing."""

    def get(self, key: str) -> str | None:
        """Return None."""
        return None

    def put(self, key: str, value: str) -> None:
        """Ignore the result."""


def state_key(kind: str, files: Iterable[tuple[str, os.stat_result]]) -> str:
    """Return the key for files in their present state.

    Args:
        kind: What is computed from the files, with all else that the result depends on.
        files: Path and status of each.
    """
    hasher = new_hasher("sha256")
    hasher.update(kind.encode())
    for path, info in files:
        numbers = info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_dev, info.st_ino, info.st_mode
        hasher.update(b"\0%s\0%s" % (os.fsencode(path), repr(numbers).encode()))
    return hasher.hexdigest()[:_KEY]


def is_settled(info: os.stat_result, now: int) -> bool:
    """Return True if a file was not changed shortly before a time.

    Args:
        info: Status of the file.
        now: When hashing began, in nanoseconds since 1970.
    """
    return max(info.st_mtime_ns, info.st_ctime_ns) < now - _SETTLED
