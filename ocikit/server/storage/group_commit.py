"""Group commit: one transaction for the changes of several threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar

from attrs import define

T = TypeVar("T")
C = TypeVar("C")


@define(eq=False)
class _Change(Generic[C]):
    """A queued change and its result."""

    work: Callable[[C], Any]
    durable: bool
    """Whether the change must survive a power cut."""
    exclusive: bool
    """Whether the change has side effects outside of the database, so it must not run twice."""
    done: bool = False
    result: Any = None
    error: Exception | None = None


class GroupCommit(Generic[C]):
    """A queue of changes; one thread commits the changes of all threads with one sync.

    The thread that holds `lock` commits. SQLite's busy handler cannot replace the lock, because it is not fair.

    Args:
        transaction: Opens a transaction; its argument is True for a durable commit.
    """

    def __init__(self, transaction: Callable[[bool], AbstractContextManager[C]]) -> None:
        self.lock = threading.Lock()
        self._transaction = transaction
        self._queue: deque[_Change[C]] = deque()

    def run(self, work: Callable[[C], T], *, durable: bool, exclusive: bool = False) -> T:
        """Run a change in a transaction and return its result.

        Args:
            work: The change; it may run twice unless it is exclusive.
            durable: Whether the change must survive a power cut.
            exclusive: Run the change in a transaction of its own.

        Raises:
            Exception: The error of `work` or of the commit.
        """
        change = _Change(work, durable, exclusive)
        self._queue.append(change)
        with self.lock:
            while not change.done:
                batch = [self._queue.popleft() for _ in range(len(self._queue))]
                try:
                    self._commit(batch)
                finally:
                    # After an interrupt, the other threads commit their own changes
                    retry = [item for item in batch if not (item.done or item is change)]
                    self._queue.extendleft(reversed(retry))
        if change.error is not None:
            raise change.error
        result: T = change.result
        return result

    def _commit(self, batch: Sequence[_Change[C]]) -> None:
        """Commit all changes together, or each on its own if one fails."""
        if len(batch) == 1 or not any(change.exclusive for change in batch):
            try:
                with self._transaction(any(change.durable for change in batch)) as connection:
                    results = [change.work(connection) for change in batch]
            except Exception as error:  # noqa: BLE001 - raised in the thread that queued the change
                if len(batch) == 1:
                    batch[0].error, batch[0].done = error, True
                    return
            else:
                for change, result in zip(batch, results, strict=True):
                    change.result, change.done = result, True
                return
        for change in batch:
            self._commit([change])
