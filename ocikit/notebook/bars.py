"""One progress bar a call, by tqdm: in a notebook, in a terminal, and nowhere else.

`OCIKIT_PROGRESS=none` turns bars off, `text` forces the plain one. In a pipe or a CI log nothing is drawn.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time
from typing import Any

from ocikit import display
from ocikit.content.progress import SILENT, Fate, Progress
from ocikit.spec.descriptor import Descriptor

__all__ = ["Bars", "bars"]

_INTERVAL = 0.1  # seconds between redraws: a notebook's comm channel chokes on more


def bars(wish: bool | str | None) -> Progress:
    """The listener that a wish means here.

    Args:
        wish: False or "none" for silence; True or "text" to draw wherever this runs; None or "auto" to draw for people.
    """
    if wish is None:
        wish = os.environ.get("OCIKIT_PROGRESS") or "auto"
    if wish is False or str(wish).lower() in {"none", "0", "false", "off"}:
        return SILENT
    if wish == "auto" and not (_in_notebook() or _is_terminal()):
        return SILENT
    return Bars(notebook=wish != "text" and _in_notebook())


def _in_notebook() -> bool:
    """Whether this is a Jupyter kernel. IPython isn't imported to find out: a kernel has done that."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _is_terminal() -> bool:
    stream = sys.stderr
    return stream is not None and hasattr(stream, "isatty") and stream.isatty() and os.environ.get("TERM") != "dumb"


class Bars(Progress):
    """A bar over the bytes of a whole call; calls come from several threads."""

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._widgets = notebook and importlib.util.find_spec("ipywidgets") is not None
        self._bar: Any = None
        self._lock = threading.Lock()
        self._waiting = 0
        self._drawn = 0.0

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Draw the bar."""
        # tqdm.auto would warn about missing widgets, and decides at import for the whole process
        kind: Any
        if self._widgets:
            from tqdm.notebook import tqdm as kind  # noqa: PLC0415 - needs ipywidgets
        else:
            from tqdm import tqdm as kind  # noqa: PLC0415 - loaded when a bar is drawn
        self._bar = kind(
            total=size, unit="B", unit_scale=True, unit_divisor=1000, leave=False, desc=display.shorten(title, 40),
            mininterval=_INTERVAL, file=None if self._widgets else sys.stderr, dynamic_ncols=not self._widgets,
        )  # fmt: skip

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Move the bar, at most ten times a second."""
        with self._lock:
            self._waiting += n
            self._draw()

    def finish(self, descriptor: Descriptor, fate: Fate) -> None:
        """What needn't be moved is taken off the total: the rate stays the wire's."""
        with self._lock:
            if fate != "moved" and self._bar is not None:
                self._bar.total = max(0, self._bar.total - descriptor.size)
                self._draw()

    def note(self, message: str) -> None:
        """Show a word beside the bar."""
        with self._lock:
            if self._bar is not None:
                self._bar.set_postfix_str(display.shorten(message, 60), refresh=True)

    def end(self, *, failed: bool = False) -> None:
        """Take the bar away."""
        with self._lock:
            bar, self._bar = self._bar, None
            if bar is None:
                return
            bar.update(self._waiting)
            self._waiting = 0
            if not failed:
                bar.total = bar.n  # a notebook's bar turns red if it closes short
            bar.close()

    def tell(self, line: str) -> None:
        """Leave one line behind."""
        from tqdm import tqdm  # noqa: PLC0415 - as above

        tqdm.write(display.clean(line), file=sys.stdout if self._notebook else sys.stderr)

    def _draw(self) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._drawn >= _INTERVAL:
            self._bar.update(self._waiting)
            self._waiting, self._drawn = 0, now
