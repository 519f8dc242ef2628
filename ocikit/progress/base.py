"""Progress events of transfers: transfers report them, listeners display or count them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from ocikit import display
from ocikit.display.signatures import readable
from ocikit.forks import ForkSafeLock
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor

#: The outcome for one descriptor: its bytes were moved, were already present, were mounted within the registry, were
#: skipped (non-distributable layers), or failed.
Outcome = Literal["moved", "present", "mounted", "skipped", "failed"]

#: The note of an interrupted transfer, on the command line and in tracebacks.
INTERRUPTED = "stopped; received data is stored, the next call resumes"


@readable
class Progress:
    """A listener for progress events that ignores them; subclass it. Events come from several threads.

    >>> class Names(ocikit.Progress):
    ...     def finish(self, descriptor, outcome):
    ...         if descriptor.title:
    ...             print(descriptor.title, outcome)
    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, progress=Names())
    note.txt moved
    """

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Handle the start of a transfer of `count` items with `size` bytes in all.

        Args:
            title: Title of the transfer.
            size: Bytes of all items.
            count: Number of items.

        >>> class Totals(ocikit.Progress):
        ...     def begin(self, title, *, size, count):
        ...         print(f"{count} items")
        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, progress=Totals())
        3 items
        """

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Handle `n` more transferred bytes; negative before bytes are sent again.

        The digest of a file that is hashed while it is sent has only zeros here, until `finish`.

        Args:
            descriptor: The blob or document.
            n: Number of bytes.

        >>> class Bytes(ocikit.Progress):
        ...     size = 0
        ...     def advance(self, descriptor, n):
        ...         self.size += n if descriptor.title else 0
        >>> progress = Bytes()
        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, progress=progress)
        >>> progress.size
        5
        """

    def resume(self, descriptor: Descriptor, n: int) -> None:
        """Handle `n` bytes that an earlier call received; `advance` has reported them, too.

        Args:
            descriptor: The blob.
            n: Number of bytes.

        >>> class Resumed(ocikit.Progress):
        ...     def resume(self, descriptor, n):
        ...         print(f"{n} bytes of {descriptor.title} were here")
        >>> Resumed().resume(ocikit.Descriptor.of(b"hello", "text/plain").annotated(**{"org.opencontainers.image.title": "a.txt"}), 3)
        3 bytes of a.txt were here
        """

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """Handle the end of one blob or document; "present" and "mounted" moved no bytes.

        Args:
            descriptor: The blob or document.
            outcome: How the transfer of the item ended.

        >>> class Outcomes(ocikit.Progress):
        ...     def finish(self, descriptor, outcome):
        ...         if descriptor.title:
        ...             print(descriptor.title, outcome)
        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, progress=Outcomes())
        note.txt moved
        """

    def note(self, message: str) -> None:
        """Handle a message for the user: a retry, a resumption, a skipped layer.

        >>> class Notes(ocikit.Progress):
        ...     def note(self, message):
        ...         print(message)
        >>> Notes().note("retrying in 2 s")
        retrying in 2 s
        """

    def end(self, *, failed: bool = False) -> None:
        """Handle the end of the transfer.

        >>> class End(ocikit.Progress):
        ...     def end(self, *, failed=False):
        ...         print("failed" if failed else "complete")
        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, progress=End())
        complete
        """

    def summary(self, line: str) -> None:
        """Handle the one-line summary of the whole call.

        >>> class Summary(ocikit.Progress):
        ...     def summary(self, line):
        ...         print(line)
        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, progress=Summary())
        pushed 1 file, 5 B in ...
        """


SILENT = Progress()

_listener: ContextVar[Progress] = ContextVar("listener", default=SILENT)


@contextmanager
def progress_scope(progress: Progress, title: str, *, size: int, count: int) -> Iterator[None]:
    """Report begin and end of a transfer, whose listener receives `notify`.

    A Ctrl-C in it gets a note about the next call, which Python and IPython show below the traceback.
    """
    token = _listener.set(progress)
    failed = True
    try:
        progress.begin(title, size=size, count=count)
        yield
        failed = False
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(INTERRUPTED)
        raise
    finally:
        _listener.reset(token)
        progress.end(failed=failed)


def notify(message: str) -> None:
    """Send a note to the listener of the current transfer."""
    _listener.get().note(message)


class TransferStats(Progress):
    """Counts of what a call moved; passes every event on.

    Args:
        listener: The listener that receives the events.
    """

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self._lock = ForkSafeLock()
        self._started = time.monotonic()
        self.files = 0
        self.size = 0
        """Bytes in all."""
        self.moved = 0
        """Bytes that were transferred or copied."""
        self.resumed = 0
        """Bytes that an earlier call received before it was interrupted."""
        self.unpacked = 0
        """Files of unpacked archives."""

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Pass the event on."""
        self._listener.begin(title, size=size, count=count)

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Pass the event on."""
        self._listener.advance(descriptor, n)

    def resume(self, descriptor: Descriptor, n: int) -> None:
        """Count the bytes and pass the event on."""
        with self._lock:
            self.moved -= n
            self.resumed += n
        self._listener.resume(descriptor, n)

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """Count the blob and pass the event on."""
        with self._lock:
            if not descriptor.is_document and descriptor.media_type != media_types.EMPTY and outcome != "skipped":
                self.files += 1
                self.size += descriptor.size
                self.moved += descriptor.size if outcome == "moved" else 0
        self._listener.finish(descriptor, outcome)

    def note(self, message: str) -> None:
        """Pass the event on."""
        self._listener.note(message)

    def end(self, *, failed: bool = False) -> None:
        """Pass the event on."""
        self._listener.end(failed=failed)

    def summary(self, line: str) -> None:
        """Pass the event on."""
        self._listener.summary(line)

    def describe(self, verb: str, target: str) -> str:
        """Return the summary.

        Example: "pulled 3 files, 4.2 MB (1.0 MB already there, 0.5 MB resumed) in 0.3 s -> data".
        """
        present = self.size - self.moved - self.resumed
        parts = [(present, "already there"), (self.resumed, "resumed")]
        known = ", ".join(f"{display.size(count)} {how}" for count, how in parts if count)
        saved = f" ({known})" if known else ""
        saved += f", unpacked to {display.pluralize(self.unpacked, 'file')}" if self.unpacked else ""
        took = display.duration(time.monotonic() - self._started)
        return f"{verb} {display.pluralize(self.files, 'file')}, {display.size(self.size)}{saved} in {took} -> {target}"
