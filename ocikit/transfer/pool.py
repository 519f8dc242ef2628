"""Worker threads of transfers."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

from ocikit.display.tracebacks import hide_internal_frames
from ocikit.transfer.slots import SLOTS
from ocikit.waits import UNLIMITED

WORKERS = 8  # as huggingface_hub; with fewer, the latency of the registry dominates for many small blobs

_SHUTDOWN = 5.0  # seconds to wait for worker threads to stop after Ctrl-C

T = TypeVar("T")


class Cancelled(Exception):
    """The work was cancelled: another item failed, or the user pressed Ctrl-C."""


def raise_if_cancelled(stop: threading.Event) -> None:
    """Check whether the work should stop.

    Args:
        stop: The event that `run_parallel` hands to the work.

    Raises:
        Cancelled: It is set.
    """
    if stop.is_set():
        raise Cancelled


def run_parallel(items: Iterable[T], work: Callable[[T, threading.Event], object], *, workers: int = WORKERS) -> None:
    """Call `work` for each item on several threads and raise the first failure.

    A failure or Ctrl-C sets the event and stops the rest. Ctrl-C waits a few seconds for the threads.

    Args:
        items: Consumed lazily, one item at a time. A sequence gets no more threads than items.
        work: Called with an item and an event that is set when the work should stop; it may raise `Cancelled` then.
        workers: Threads; with 1, everything runs on the caller's thread. Large blobs use those that are idle.
    """
    threads = min(workers, len(items)) if isinstance(items, Sized) else workers
    remaining = iter(items)
    lock, stop, done = threading.Lock(), threading.Event(), threading.Semaphore(0)
    failures: list[BaseException] = []

    def take() -> Iterator[T]:
        while not stop.is_set():
            with lock:
                try:
                    item = next(remaining)
                except StopIteration:
                    return
            yield item

    def loop() -> None:
        try:
            with SLOTS.work(workers):
                for item in take():
                    work(item, stop)
        except Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001 - raised below, on the caller's thread
            failures.append(error)
            stop.set()
        finally:
            done.release()

    if threads <= 1:
        loop()
    else:
        _run_threads(loop, threads, stop, done)
    if failures:
        if isinstance(failures[0], KeyboardInterrupt):  # on the caller's thread
            hide_internal_frames(failures[0])
        raise failures[0]


def _run_threads(loop: Callable[[], None], workers: int, stop: threading.Event, done: threading.Semaphore) -> None:
    """Run `loop`, which releases `done` at its end, on daemon threads."""
    # Daemon threads: otherwise a blocked read would keep the interpreter from exiting after Ctrl-C.
    # Copied contexts: `progress.notify` finds the listener of the surrounding transfer.
    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(loop,), name=f"ocikit-{i}", daemon=True)
        for i in range(workers)
    ]
    running = 0
    try:
        for thread in threads:
            thread.start()
            running += 1
        while running:
            # Not join(): until Python 3.13, an interrupted join marks the thread as finished (cpython#90882)
            done.acquire(timeout=UNLIMITED)
            running -= 1
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            hide_internal_frames(error)
        stop.set()
        deadline = time.monotonic() + _SHUTDOWN
        while running and done.acquire(timeout=max(0.0, deadline - time.monotonic())):
            running -= 1
        raise
