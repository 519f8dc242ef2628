"""State that must not be shared with forked processes.

A child process inherits sockets, file positions and locks. Two processes that read from one socket or from one open file
both get wrong bytes, and a lock that another thread of the parent held is never released in the child. Three rules:

- Streams of local files read at their own position (`store.streams.LocalFile`).
- State with a socket records `fork_count()` and is dropped when the count differs (`BlobReader`, `Connections`,
  `TokenCache`).
- Locks of objects that outlive a call are `ForkSafeLock`s.

A child also has copies of all objects. At its end, or when it drops its copy, it must not delete files or close
connections that its parent still uses: `finalize` calls back only in the process that made the finalizer.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from ocikit.waits import UNLIMITED

_count = 0
_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def fork_count() -> int:
    """Return the number of forks between the first process and this one.

    Unlike a process id, the value differs in every descendant: the system reuses ids.
    """
    return _count


class ForkSafeLock:
    """A lock for `with` blocks that is open in a forked child, and after a copy or a pickle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        _locks.add(self)

    def __enter__(self) -> None:
        self._lock.acquire(timeout=UNLIMITED)
        self._owner = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._owner = None
        self._lock.release()

    def reset(self) -> None:
        """Replace the lock in a child process, unless the thread that forked holds it.

        All other threads of the parent do not exist in the child.
        """
        if self._owner != threading.get_ident():
            self._lock, self._owner = threading.Lock(), None

    def __reduce__(self) -> tuple[type[ForkSafeLock], tuple[()]]:
        return ForkSafeLock, ()


def finalize(obj: object, callback: Callable[[], object], *, at_exit: bool = True) -> weakref.finalize[[], object]:
    """Return a finalizer that calls back in this process only.

    Args:
        obj: When it is garbage collected, the callback runs.
        callback: Must not refer to `obj`.
        at_exit: Whether the callback also runs at the end of the process.
    """
    made_at = fork_count()

    def run() -> None:
        if fork_count() == made_at:
            callback()

    made = weakref.finalize(obj, run)
    made.atexit = at_exit
    return made


def _after_fork_in_child() -> None:
    global _count  # noqa: PLW0603 - a property of the process
    _count += 1
    for lock in list(_locks):
        lock.reset()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
