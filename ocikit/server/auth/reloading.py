"""A file that is loaded again when it changes, such as users or access rules.

A changed file that cannot be read or is invalid keeps its previous content for `GRACE` seconds, because editors and deployments
replace files in several steps. Afterwards access fails closed with a 503 response: a removed user or rule must not stay in
effect. The log and `/readyz` report both states.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import Problem
from ocikit.server.http.errors import ErrorResponse

_log = logging.getLogger("ocikit.server")

#: Seconds for which the previous content of a broken file stays in effect.
GRACE = 60.0

#: Seconds between attempts to load a broken file.
_RETRY_INTERVAL = 1.0

#: Seconds. File systems can have timestamps this coarse: a second change in this time may not change the timestamp.
_TIMESTAMP_RESOLUTION = 2.0

T = TypeVar("T")


class ReloadingFile(Generic[T]):
    """The parsed content of a file, loaded again after each change.

    Args:
        path: The file.
        load: Function that reads and parses the file.
        content: The content in words, such as "users", for clients: they do not see the path.
        clock: Function that returns the time in seconds.

    Raises:
        InvalidArgument: The file cannot be read the first time, or is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        load: Callable[[Path], T],
        *,
        content: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(path)
        self._load = load
        self._content = content
        self._clock = clock
        self._lock = threading.Lock()
        self._version = self._stat()
        self._settled = False
        self._broken_since: float | None = None
        self._tried = 0.0
        self._closed = False
        try:
            self._value = load(self.path)
        except OSError as error:
            raise InvalidArgument(f"cannot read {self.path}: {error.strerror or error}") from error

    @property
    def value(self) -> T:
        """The current content.

        Raises:
            ErrorResponse: 503 for a file that has been broken for longer than the grace.
        """
        self._refresh()
        if self._closed:
            raise ErrorResponse(
                503,
                "UNKNOWN",
                f"the registry cannot load its {self._content}; ask its operator to look at the log",
                headers=(("Retry-After", "60"),),
            )
        return self._value

    @property
    def problem(self) -> Problem | None:
        """The state of a broken file; None for a valid one."""
        self._refresh()
        if self._broken_since is None:
            return None
        return Problem(f"the {self._content} cannot be loaded; see the log", blocking=self._closed)

    def _refresh(self) -> None:
        """Load the file if it has changed, and close access at the end of the grace."""
        version = self._stat()
        changed = version != self._version or not self._settled
        if not changed and self._broken_since is None:
            return
        with self._lock:
            if changed or self._clock() - self._tried >= _RETRY_INTERVAL:
                self._reload(version)
            if self._broken_since is not None and not self._closed and self._clock() - self._broken_since >= GRACE:
                self._closed = True
                _log.error("%s is still broken; requests that need its %s get 503", self.path, self._content)

    def _stat(self) -> tuple[int, ...]:
        try:
            status = os.stat(self.path)
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns

    def _reload(self, version: tuple[int, ...]) -> None:
        changed, self._version = version != self._version, version
        self._settled = not version or abs(time.time() - version[0] / 1e9) > _TIMESTAMP_RESOLUTION
        self._tried = self._clock()
        try:
            self._value = self._load(self.path)
        except (InvalidArgument, OSError) as error:
            first = self._broken_since is None
            if first:
                self._broken_since = self._clock()
            if first or changed:
                _log.error(
                    "%s; the previous %s stay in effect for %g seconds, then requests that need them get 503",
                    error,
                    self._content,
                    GRACE,
                )
            return
        if self._broken_since is not None:
            _log.warning("%s is valid again", self.path)
        self._broken_since, self._closed = None, False
