"""A progress bar in a notebook of marimo, which has no IPython and shows no ipywidgets."""

from __future__ import annotations

import html
import sys
import threading
from typing import Any

from ocikit import display
from ocikit.forks import ForkSafeLock
from ocikit.progress.base import Outcome, Progress
from ocikit.spec.descriptor import Descriptor

_INTERVAL = 0.2  # seconds between redraws
_END = 2.0  # seconds that the end of a call waits for the last redraw


def in_marimo() -> bool:
    """Return True in a notebook of marimo, which has already imported it."""
    marimo = sys.modules.get("marimo")
    return bool(marimo is not None and marimo.running_in_notebook())


class MarimoBar(Progress):
    """A progress bar for the bytes of a whole call.

    A thread of marimo draws it, because the threads of a transfer cannot reach the page.
    """

    def __init__(self) -> None:
        self._lock = ForkSafeLock()
        self._done = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Draw the bar."""
        import marimo  # type: ignore[import-not-found]  # noqa: PLC0415 - a notebook has it loaded

        with self._lock:
            self._done = 0
        self._ended = threading.Event()
        self._thread = marimo.Thread(target=self._draw, args=(display.shorten(title, 40), max(1, size)), daemon=True)
        self._thread.start()

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Count the bytes."""
        with self._lock:
            self._done += n

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """Count content that was not moved as done."""
        if outcome != "moved":
            self.advance(descriptor, descriptor.size)

    def end(self, *, failed: bool = False) -> None:
        """Remove the bar."""
        thread, self._thread = self._thread, None
        self._ended.set()
        if thread is not None:
            thread.join(_END)

    def summary(self, line: str) -> None:
        """Write the summary to the console of the cell."""
        sys.stdout.write(f"{display.sanitize(line)}\n")

    def _draw(self, title: str, size: int) -> None:
        import marimo  # noqa: PLC0415 - a notebook has it loaded

        ended, shown = self._ended, 0
        bar: Any
        options = {"total": 100, "show_rate": False, "remove_on_exit": True}  # its own rate has no unit
        with marimo.status.progress_bar(title=html.escape(title), **options) as bar:
            while not ended.wait(_INTERVAL):
                done = min(self._done, size)
                percent = done * 100 // size
                if percent > shown:
                    text = f"{display.size(done)} of {display.size(size)}"
                    bar.update(increment=percent - shown, subtitle=text)
                    shown = percent
