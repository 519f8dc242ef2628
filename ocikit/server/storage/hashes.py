"""Hashes of uploads that continue in a later request."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import BinaryIO

from attrs import define, field

from ocikit.spec.digest import Hasher, new_hasher
from ocikit.store.files import BUFFER

#: Running hashes that are cached, a few hundred bytes each.
CACHE_SIZE = 10_000


@define
class RunningHash:
    """The hash of the first `count` bytes of an upload."""

    algorithm: str
    count: int = 0
    _hasher: Hasher = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._hasher = new_hasher(self.algorithm)

    def update(self, data: bytes | memoryview, /) -> None:
        """Hash more bytes."""
        self._hasher.update(data)
        self.count += len(data)

    def hexdigest(self) -> str:
        """Return the hash of the bytes so far in lower-case hex."""
        return self._hasher.hexdigest()

    def hash_rest(self, file: BinaryIO) -> None:
        """Hash the bytes of a file that are not hashed yet."""
        file.seek(self.count)
        while chunk := file.read(BUFFER):
            self.update(chunk)


@define(eq=False)
class HashCache:
    """The running hashes of a process by session id; the oldest ones are dropped."""

    _hashes: OrderedDict[str, RunningHash] = field(factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def __len__(self) -> int:
        return len(self._hashes)

    def keep(self, session: str, running: RunningHash) -> None:
        """Keep the hash of a session."""
        with self._lock:
            self._hashes[session] = running
            if len(self._hashes) > CACHE_SIZE:
                self._hashes.popitem(last=False)

    def take(self, session: str) -> RunningHash | None:
        """Remove and return the hash of a session, or None."""
        with self._lock:
            return self._hashes.pop(session, None)
