"""Counts and seconds of the calls of an object store, for metrics."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from attrs import define, field

from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.object_store import ObjectStore
from ocikit.spec.digest import Digest


@define(eq=False)
class ObjectStatistics:
    """Counts of a process since its start."""

    calls: Counter[str] = field(factory=Counter)
    """Calls by operation, such as "put", also those that failed."""
    seconds: Counter[str] = field(factory=Counter)
    """Seconds of these calls. Those of reading are until the first byte."""
    failures: Counter[str] = field(factory=Counter)
    """Calls that ended with `Unavailable`, by operation."""
    _lock: threading.Lock = field(factory=threading.Lock, repr=False)

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Count the block as a call."""
        started, failed = time.monotonic(), 0
        try:
            yield
        except Unavailable:
            failed = 1
            raise
        finally:
            with self._lock:
                self.calls[name] += 1
                self.seconds[name] += time.monotonic() - started  # type: ignore[assignment]  # counts of seconds are floats
                self.failures[name] += failed


class CountedObjects(ObjectStore):
    """An object store that counts its calls.

    Args:
        objects: The object store.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self.part_size = objects.part_size
        self.statistics = ObjectStatistics()

    def __repr__(self) -> str:
        return repr(self._objects)

    def put(self, key: str, file: BinaryIO, size: int, *, digest: Digest | None = None) -> None:
        """Store an object durably, in one step."""
        with self.statistics.call("put"):
            self._objects.put(key, file, size, digest=digest)

    def open(self, key: str, first: int = 0, length: int | None = None) -> BinaryIO:
        """Open an object or a part of it."""
        with self.statistics.call("get"):
            return self._objects.open(key, first, length)

    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, or None."""
        with self.statistics.call("head"):
            return self._objects.size(key)

    def digest(self, key: str) -> Digest | None:
        """Return the digest in the metadata of an object, or None."""
        with self.statistics.call("head"):
            return self._objects.digest(key)

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete up to 1000 objects; return the reason for each key that was not deleted."""
        with self.statistics.call("delete"):
            return self._objects.delete(keys)

    def iterate(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int, float]]:
        """Yield key, size in bytes and time of each object, ordered by key."""
        return self._objects.iterate(prefix, after=after)

    def begin_parts(self, key: str, *, digest: Digest | None = None) -> str:
        """Begin an object of several parts and return the id of the multipart upload."""
        with self.statistics.call("begin parts"):
            return self._objects.begin_parts(key, digest=digest)

    def put_part(self, key: str, multipart: str, number: int, file: BinaryIO, size: int) -> str:
        """Store a part and return its ETag."""
        with self.statistics.call("put part"):
            return self._objects.put_part(key, multipart, number, file, size)

    def complete_parts(self, key: str, multipart: str, etags: Sequence[str]) -> None:
        """Make the object of its parts, in one step."""
        with self.statistics.call("complete parts"):
            self._objects.complete_parts(key, multipart, etags)

    def abort_parts(self, key: str, multipart: str) -> None:
        """Delete a multipart upload with its parts; do nothing if there is none."""
        with self.statistics.call("abort parts"):
            self._objects.abort_parts(key, multipart)

    def link(self, key: str, *, seconds: int) -> str | None:
        """Return a URL from which a client reads the object without credentials, or None."""
        return self._objects.link(key, seconds=seconds)

    def check(self) -> None:
        """Ask the store for an answer within two seconds."""
        with self.statistics.call("check"):
            self._objects.check()

    def close(self) -> None:
        """Close all connections."""
        self._objects.close()
