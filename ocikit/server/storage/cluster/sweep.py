"""Garbage collection of a registry in PostgreSQL and an object store, while it serves.

Each worker of each machine runs `run_sweeps` in a thread. Leases in the database give the work to one of them at a time. A sweep
reads queues, so that one with nothing to do costs a few lookups.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ocikit.server.storage.base import Unavailable, UploadStore
from ocikit.server.storage.cluster.copies import write_copies
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.garbage import delete_garbage
from ocikit.server.storage.cluster.leases import LeaseLost, lease
from ocikit.server.storage.cluster.object_store import ObjectStore
from ocikit.server.storage.cluster.review import queue_unreferenced, review_blobs, review_content
from ocikit.server.storage.gc import UPLOAD_EXPIRY, expire_uploads
from ocikit.store.results import GCResult

_log = logging.getLogger("ocikit.server")

#: Seconds between copies of what changed.
_COPY_EVERY = 10.0

#: Seconds that failed logins are kept: longer than any limit counts them.
_FAILURES = 3600.0

_DELETE_FAILURES = "DELETE FROM failures WHERE at < now() - %(seconds)s * interval '1 second'"


class SweptStorage(Protocol):
    """What a sweep needs of a storage."""

    @property
    def database(self) -> Database:
        """Rows."""

    @property
    def objects(self) -> ObjectStore:
        """Objects."""

    @property
    def uploads(self) -> UploadStore:
        """Upload sessions."""

    @property
    def keep_deleted(self) -> float:
        """Seconds that the object of deleted content is kept."""


def sweep(
    storage: SweptStorage,
    *,
    grace: float,
    expiry: float = UPLOAD_EXPIRY,
    beat: Callable[[], None] = lambda: None,
) -> GCResult:
    """Delete what the queues name and nothing references.

    Several sweeps may run at once, in any process, while registries serve the storage.

    Args:
        storage: Storage of a registry, which may be serving.
        grace: Seconds that unreferenced content is kept.
        expiry: Seconds that an idle upload is kept; one without bytes is kept for ten minutes at most.
        beat: Called between the steps.

    Returns:
        The content that was deleted, and the blobs that were removed from repositories. Objects are deleted later.

    Raises:
        Unavailable: The database or the object store cannot be reached.
    """
    uploads = expire_uploads(storage.uploads, expiry=expiry)
    beat()
    unlinked = tuple(review_blobs(storage.database, grace=grace, beat=beat))
    blobs = tuple(review_content(storage.database, grace=grace, keep_deleted=storage.keep_deleted, beat=beat))
    delete_garbage(storage.database, storage.objects, beat=beat)
    storage.database.change(_DELETE_FAILURES, {"seconds": _FAILURES}, seconds=60.0)
    return GCResult(dry_run=False, blobs=blobs, unlinked=unlinked, uploads=uploads)


def collect(storage: SweptStorage, *, grace: float, expiry: float = UPLOAD_EXPIRY) -> GCResult:
    """Look for unreferenced content in all tables, then sweep.

    Args:
        storage: Storage of a registry, which may be serving.
        grace: Seconds that unreferenced content is kept.
        expiry: Seconds that an idle upload is kept.

    Returns:
        See `sweep`.

    Raises:
        Unavailable: The database or the object store cannot be reached.
    """
    queue_unreferenced(storage.database, grace=grace)
    return sweep(storage, grace=grace, expiry=expiry)


def run_sweeps(storage: SweptStorage, *, grace: float, every: float, stop: threading.Event) -> None:
    """Sweep and write copies from time to time, in the thread of a worker.

    Args:
        storage: Storage of the registry.
        grace: Seconds that unreferenced content is kept.
        every: Seconds between sweeps of all machines together; 0 only writes copies.
        stop: Ends this function when it is set, at the next step.
    """
    while not stop.wait(_pause(every) * random.uniform(0.5, 1)):  # noqa: S311 - jitter
        run_due_sweeps(storage, grace=grace, every=every, stop=stop)


def run_due_sweeps(storage: SweptStorage, *, grace: float, every: float, stop: threading.Event | None = None) -> None:
    """Sweep and write copies if that is due and no other process does it. Errors are logged.

    Args:
        storage: Storage of the registry.
        grace: Seconds that unreferenced content is kept.
        every: Seconds between sweeps of all machines together; 0 only writes copies.
        stop: Ends this function when it is set, at the next step.
    """
    work: dict[str, tuple[float, Callable[[Callable[[], None]], object]]] = {
        "copies": (
            _pause(every) / 2,
            lambda beat: write_copies(storage.database, storage.objects, beat=beat),
        ),
        "sweep": (every, lambda beat: sweep(storage, grace=grace, beat=beat)),
    }
    if not every:
        del work["sweep"]
    for name, (seconds, run) in work.items():
        try:
            with lease(storage.database, name, every=seconds) as taken:
                if taken is not None:
                    run(partial(_beat, taken.renew, stop))
        except _Stopped:
            return
        except (Unavailable, LeaseLost) as error:
            _log.warning("the work %r of the sweeps is delayed: %s", name, error)
        except Exception:  # noqa: BLE001 - such as a full disk; the next turn may succeed
            _log.exception("the sweep of %s failed", name)


def _pause(every: float) -> float:
    return min(every, _COPY_EVERY) if every else _COPY_EVERY


class _Stopped(Exception):
    """The worker ends."""


def _beat(renew: Callable[[], None], stop: threading.Event | None) -> None:
    if stop is not None and stop.is_set():
        raise _Stopped
    renew()
