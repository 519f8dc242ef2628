"""A limit on the large copies that run at the same time, while the processor is their limit.

Eight connections hide the latency of a network. On a fast network, eight threads on two cores cost a quarter more time than
three: they wait for one another and for the interpreter lock.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from ocikit.forks import fork_count

#: Bytes of the smallest content that waits for other copies.
LARGE: Final = 32 << 20

_TICK = 0.01  # seconds between two looks at the running copies
_SAMPLE = 0.1  # seconds over which the use of the processor is measured
_BUSY = 0.4  # of all cores; below this, the network or the disk is the limit
_OPEN = 2.0  # seconds without a limit after that


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Admission:
    """The large copies of this process. A forked child starts without any."""

    def __init__(self) -> None:
        self._running: set[object] = set()
        self._forks = fork_count()
        self._open_until = 0.0

    @contextlib.contextmanager
    def admit(self, size: int, check: Callable[[], object]) -> Iterator[None]:
        """Wait until a copy may run, and count it within the block.

        There is one copy more than cores at most, while this process keeps the cores busy.

        Args:
            size: Bytes of the content. Small content never waits and is not counted.
            check: Called while the copy waits. It may raise an error to stop it.
        """
        if size < LARGE:
            yield
            return
        if self._forks != fork_count():
            self._running, self._forks = set(), fork_count()
        self._wait(check)
        self._running.add(token := object())
        try:
            yield
        finally:
            self._running.discard(token)

    def _wait(self, check: Callable[[], object]) -> None:
        begun, used = time.monotonic(), time.process_time()
        while len(self._running) > available_cores() and begun > self._open_until:
            check()
            time.sleep(_TICK)
            passed = time.monotonic() - begun
            if passed >= _SAMPLE:
                if time.process_time() - used < _BUSY * available_cores() * passed:
                    self._open_until = begun + passed + _OPEN
                begun, used = time.monotonic(), time.process_time()


#: The copies of this process.
ADMISSION = Admission()
