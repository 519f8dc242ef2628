"""A file that is loaded again when it changes, such as users or access rules."""

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

#: Seconds. File systems can have timestamps this coarse: a second change in this time may not change the timestamp.
_TIMESTAMP_RESOLUTION = 2.0

T = TypeVar("T")


class ReloadingFile(Generic[T]):
    """The parsed content of a file, loaded again after each change.

    If a changed file cannot be read or is invalid, the error is logged and the last valid content remains.

    Args:
        path: The file.
        load: Function that reads and parses the file.

    Raises:
        InvalidArgument: The file cannot be read the first time, or is invalid.
    """

    def __init__(self, path: str | os.PathLike[str], load: Callable[[Path], T]) -> None:
        self.path = Path(path)
        self._load = load
        self._lock = threading.Lock()
        self._version = self._stat()
        self._settled = False
        try:
            self._value = load(self.path)
        except OSError as error:
            raise InvalidArgument(f"cannot read {self.path}: {error.strerror or error}") from error

    @property
    def value(self) -> T:
        """The current content."""
        version = self._stat()
        if version != self._version or not self._settled:
            with self._lock:
                self._reload(version)
        return self._value

    def _stat(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _reload(self, version: tuple[int, ...]) -> None:
        changed, self._version = version != self._version, version
        self._settled = not version or abs(time.time() - version[0] / 1e9) > _TIMESTAMP_RESOLUTION
        try:
            self._value = self._load(self.path)
        except (InvalidArgument, OSError) as error:
            if changed:
                _log.error("%s; the previous content stays in effect", error)
