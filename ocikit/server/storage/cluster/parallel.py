"""Work on many objects at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ocikit.waits import UNLIMITED

T = TypeVar("T")
S = TypeVar("S")

#: Threads, which mostly wait for the object store.
_THREADS = 8


def parallel_map(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """Yield the results of a function in order. Few items are on their way at once, so that memory stays flat.

    Args:
        work: Called in threads; its first error is raised.
        items: Read in the thread of the caller.
    """
    running: deque[Future[T]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="ocikit-objects") as pool:
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) >= 2 * _THREADS:
                    yield running.popleft().result(timeout=UNLIMITED)
            while running:
                yield running.popleft().result(timeout=UNLIMITED)
        finally:
            for future in running:
                future.cancel()
