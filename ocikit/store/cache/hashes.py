"""Digests of files that earlier pushes have read, so that a push hashes only what has changed.

One file, `hashes`, has a line for each: its checksum, the day, a key and a value. Processes only append to it, in one
write, without a lock: home folders are often on network file systems. A line that is torn or damaged has a wrong checksum
and is ignored, which costs another hash.

A key names the state of files, see `ocikit.layers.states`.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ocikit.errors import ContentError
from ocikit.forks import ForkSafeLock
from ocikit.store.files import read_file, write_atomically

_DAYS: Final = 30  # since the last use, after which a line is dropped
_FRESH_DAYS: Final = 7  # after which a line that is used is written again
_LIMIT: Final = 64 << 20  # bytes of the file; it starts anew beyond
_SLACK: Final = 1000  # lines that may be superseded before the file is written again


class HashCache:
    """Values by the state of files, kept between pushes; safe in threads and processes.

    Args:
        path: The file. It is read on first use and written by `save`.
        prepare: Called before the file is written, to create its folder.
    """

    def __init__(self, path: Path, prepare: Callable[[], object] = bool) -> None:
        self._path = path
        self._prepare = prepare
        self._lock = ForkSafeLock()
        self._known: dict[str, tuple[int, str]] | None = None
        self._added: dict[str, str] = {}
        self._used: set[str] = set()
        self._lines = 0

    def get(self, key: str) -> str | None:
        """Return the value of a key, or None."""
        with self._lock:
            found = self._load().get(key)
            if found is None or not found[1]:
                return None
            self._used.add(key)
            if found[0] < _today() - _FRESH_DAYS:
                self._added[key] = found[1]
            return found[1]

    def put(self, key: str, value: str) -> None:
        """Record the value of a key, which has no spaces."""
        with self._lock:
            self._load()[key] = _today(), value
            self._added[key] = value

    def drop_used(self) -> None:
        """Drop the values that were used, because a registry did not accept one of them."""
        for key in tuple(self._used):
            self.put(key, "")

    def save(self) -> None:
        """Append what is new to the file; write the file again if most of it is old.

        Raises:
            ContentError: The disk is full, or the folder cannot be written.
            OSError: The file cannot be written.
        """
        with self._lock:
            added, self._added = self._added, {}
            if not added:
                return
            self._prepare()
            known = self._load()
            if self._lines + len(added) > 2 * len(known) + _SLACK:
                lines = (_line(key, day, value) for key, (day, value) in known.items() if value)
                write_atomically(self._path, "".join(lines).encode(), sync=False)
                self._lines = len(known)
                return
            data = "".join(_line(key, _today(), value) for key, value in added.items()).encode()
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                # A line break first: the last line of another process may be torn
                os.write(fd, b"\n" + data)
            finally:
                os.close(fd)
            self._lines += len(added)

    def _load(self) -> dict[str, tuple[int, str]]:
        if self._known is None:
            self._known = {}
            with contextlib.suppress(OSError, ContentError):
                raw = read_file(self._path, _LIMIT)
                for line in raw.split(b"\n") if len(raw) <= _LIMIT else ():
                    if line:
                        self._lines += 1
                        self._read(line)
                if len(raw) > _LIMIT:
                    self._lines = _LIMIT
        return self._known

    def _read(self, line: bytes) -> None:
        check, _, rest = line.partition(b" ")
        with contextlib.suppress(ValueError):
            if int(check, 16) == zlib.crc32(rest):
                day, key, value = rest.decode("ascii").split(" ")
                if int(day) >= _today() - _DAYS and self._known is not None:
                    self._known[key] = int(day), value


def _today() -> int:
    return int(time.time() // 86400)


def _line(key: str, day: int, value: str) -> str:
    text = f"{day} {key} {value}"
    return f"{zlib.crc32(text.encode()):08x} {text}\n"
