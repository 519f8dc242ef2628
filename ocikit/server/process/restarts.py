"""Restarts of workers that ended unexpectedly, with growing pauses.

granian replaces such a worker at once and ends the server if the same worker ends twice within 5.5 seconds. A server must
survive a worker that runs out of memory twice. `Restarts` takes the place of granian's record of restarts: it finds no two
restarts close to each other, and each new worker waits before it starts.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

_log = logging.getLogger("ocikit.server")

#: Seconds before the second restart in a row; each further pause is twice as long, up to the maximum.
_PAUSE, _MAXIMUM_PAUSE = 0.5, 30.0

#: Seconds without an unexpected end after which the first restart has no pause again.
_CALM = 60.0


class Restarts(dict[int, float]):
    """Times of restarts by worker, in the form of granian's record.

    Args:
        unreported: File that exists until the server has started. Before that, a second end is an error of the
            configuration and ends the server.
    """

    def __init__(self, unreported: Path) -> None:
        super().__init__()
        self.pause = 0.0
        """Seconds that the worker to be started next waits."""
        self._unreported = unreported
        self._in_a_row: dict[int, int] = {}

    def __setitem__(self, worker: int, now: float) -> None:
        last = super().get(worker)
        in_a_row = self._in_a_row.get(worker, 0) + 1 if last is not None and now - last < _CALM else 0
        self._in_a_row[worker] = in_a_row
        self.pause = min(_PAUSE * 2 ** min(in_a_row - 1, 10), _MAXIMUM_PAUSE) if in_a_row else 0.0
        # The calm period starts when the new worker starts
        super().__setitem__(worker, now + self.pause)
        after = f"in {self.pause:g} s" if self.pause else "now"
        _log.error("worker %d ended unexpectedly and is started again %s", worker + 1, after)

    def get(self, worker: int, default: Any = None, /) -> Any:
        """Return a time in the past, which granian compares with the time of the next end."""
        return super().get(worker, default) if self._unreported.exists() else default

    def clear(self) -> None:
        """Keep the times: granian clears its record before each restart."""

    def wait(self) -> None:
        """Wait for the pause, in the new worker."""
        time.sleep(self.pause)
