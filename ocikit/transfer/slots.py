"""Worker slots: the count of workers that are busy, so that a large blob can use the idle ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from ocikit.forks import ForkSafeLock, fork_count

_limit: ContextVar[int] = ContextVar("workers", default=1)


class WorkerSlots:
    """The busy workers of all transfers of this process.

    Transfers that run at the same time share the count: the idle workers of one are not those of the next. Safe in
    threads. A forked child starts with no busy worker, because the threads of its parent do not exist there.
    """

    def __init__(self) -> None:
        self._busy: set[object] = set()
        self._forks = fork_count()
        self._lock = ForkSafeLock()

    @contextmanager
    def work(self, limit: int) -> Iterator[None]:
        """Count this thread as a busy worker within the block.

        Args:
            limit: Workers of the transfer.
        """
        token = _limit.set(limit)
        slot = object()
        with self._lock:
            self._current().add(slot)
        try:
            yield
        finally:
            self.release(slot)
            _limit.reset(token)

    def idle(self, limit: int) -> int:
        """Return the number of workers that do nothing; negative if there are more than the limit allows.

        Args:
            limit: Workers of the transfer.
        """
        return limit - len(self._current())

    def borrow(self, limit: int) -> object | None:
        """Return the slot of an idle worker, or None if all are busy.

        Args:
            limit: Workers of the transfer.
        """
        with self._lock:
            if self.idle(limit) <= 0:
                return None
            slot = object()
            self._current().add(slot)
            return slot

    def release(self, slot: object) -> None:
        """Return a slot; a slot that was returned before, or of the parent process, is ignored."""
        with self._lock:
            self._current().discard(slot)

    def _current(self) -> set[object]:
        if self._forks != fork_count():
            self._busy, self._forks = set(), fork_count()
        return self._busy


#: The slots of this process.
SLOTS = WorkerSlots()


def worker_limit() -> int:
    """Return the number of workers of the transfer that this thread works for, 1 without a transfer."""
    return _limit.get()
