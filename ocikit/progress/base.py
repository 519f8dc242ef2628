"""Progress is told, not asked: the algorithms say what happens, and whoever listens may draw it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from ocikit import display
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor

#: What became of a descriptor: its bytes were moved, were there already, were mounted within the registry, were
#: left out (non-distributable layers), or failed.
Outcome = Literal["moved", "present", "mounted", "skipped", "failed"]


class Progress:
    """What an algorithm tells; this class listens and does nothing. Calls come from several threads."""

    def begin(self, title: str, *, size: int, count: int) -> None:
        """A transfer of `count` pieces of content starts, `size` bytes in all."""

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """`n` more bytes of the content went through; negative when a part has to be sent again."""

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """The content is done; with "present" and "mounted" no byte of it was moved."""

    def note(self, message: str) -> None:
        """Something worth a word: a retry, a resumption, a layer left out."""

    def end(self, *, failed: bool = False) -> None:
        """The transfer is over."""

    def tell(self, line: str) -> None:
        """What the whole call did, in the one line that stays."""


SILENT = Progress()

_listener: ContextVar[Progress] = ContextVar("listener", default=SILENT)


@contextmanager
def progress_scope(progress: Progress, title: str, *, size: int, count: int) -> Iterator[None]:
    """A transfer, from its beginning to its end; what is mentioned meanwhile reaches its listener."""
    token = _listener.set(progress)
    failed = True
    try:
        progress.begin(title, size=size, count=count)
        yield
        failed = False
    finally:
        _listener.reset(token)
        progress.end(failed=failed)


def notify(message: str) -> None:
    """A note to whoever listens to the transfer that this belongs to: from far below, where nobody knows of one."""
    _listener.get().note(message)


class TransferStats(Progress):
    """Counts what a call moves, and passes everything on."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self.files = 0
        self.size = 0
        """Bytes, in all."""
        self.moved = 0
        """Bytes that went over the wire or the disk."""

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Pass on."""
        self._shown.begin(title, size=size, count=count)

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Pass on."""
        self._shown.advance(descriptor, n)

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """Count, and pass on."""
        with self._lock:
            if not descriptor.is_document and descriptor.media_type != media_types.EMPTY and outcome != "skipped":
                self.files += 1
                self.size += descriptor.size
                self.moved += descriptor.size if outcome == "moved" else 0
        self._shown.finish(descriptor, outcome)

    def note(self, message: str) -> None:
        """Pass on."""
        self._shown.note(message)

    def end(self, *, failed: bool = False) -> None:
        """Pass on."""
        self._shown.end(failed=failed)

    def tell(self, line: str) -> None:
        """Pass on."""
        self._shown.tell(line)

    def line(self, verb: str, where: str) -> str:
        """What was done, for people: "pulled 3 files, 4.2 MB (1.0 MB already there) in 0.3 s -> data"."""
        there = self.size - self.moved
        saved = f" ({display.size(there)} already there)" if there else ""
        took = display.duration(time.monotonic() - self._started)
        return f"{verb} {self.files} file{'' if self.files == 1 else 's'}, {display.size(self.size)}{saved} in {took} -> {where}"
