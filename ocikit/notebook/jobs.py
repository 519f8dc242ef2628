"""Background jobs of widgets."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from ocikit.errors import OcikitError

T = TypeVar("T")

IsStale: TypeAlias = Callable[[], bool]
"""Function that returns True once the result of a job is no longer needed."""


class Jobs:
    """Threads that keep the kernel responsive; in each slot, only the result of the latest job is used."""

    def __init__(self) -> None:
        self._latest: dict[str, int] = {}
        self._running = 0
        self._changed = threading.Condition()

    def run(
        self,
        slot: str,
        work: Callable[[IsStale], T],
        then: Callable[[T], None],
        failed: Callable[[OcikitError], None],
    ) -> None:
        """Run a job in a thread.

        Args:
            slot: Name of the slot; a later job in the same slot makes this one stale.
            work: Function to run; it may stop early once the job is stale.
            then: Called with the result, unless the job is stale.
            failed: Called with the error of `work`, unless the job is stale.
        """
        with self._changed:
            number = self._latest[slot] = self._latest.get(slot, 0) + 1
            self._running += 1

        def is_stale() -> bool:
            return self._latest[slot] != number

        def job() -> None:
            try:
                result = work(is_stale)
                with self._changed:
                    if not is_stale():
                        then(result)
            except OcikitError as error:
                with self._changed:
                    if not is_stale():
                        failed(error)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

        threading.Thread(target=job, name=f"ocikit-explore-{slot}", daemon=True).start()

    def cancel(self, slot: str) -> None:
        """Make the present job of a slot stale."""
        with self._changed:
            self._latest[slot] = self._latest.get(slot, 0) + 1

    def wait(self, timeout: float) -> bool:
        """Wait until all jobs have finished.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            False if a job is still running.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)
