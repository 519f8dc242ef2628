"""One progress bar a call, by tqdm: in a notebook, in a terminal, and nowhere else.

`OCIKIT_PROGRESS=none` turns bars off, `text` forces the plain one. In a pipe or a CI log nothing is drawn.
"""

from __future__ import annotations

import html
import os
import sys
import threading
import time
from typing import Any

from ocikit import display
from ocikit.progress.base import SILENT, Outcome, Progress
from ocikit.spec.descriptor import Descriptor

_INTERVAL = 0.1  # seconds between redraws: a notebook's comm channel chokes on more
_NOTED = 5.0  # seconds that a word stands beside a bar that moves


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


def _has_widgets() -> bool:
    """Whether ipywidgets can be imported: it may be there and broken."""
    try:
        import ipywidgets  # type: ignore[import-untyped]  # noqa: F401, PLC0415 - in a notebook only
    except Exception:  # noqa: BLE001 - whatever it fails with, the bar is drawn without it
        return False
    return True


def _is_terminal() -> bool:
    stream = sys.stderr
    return stream is not None and hasattr(stream, "isatty") and stream.isatty() and os.environ.get("TERM") != "dumb"


class Bars(Progress):
    """A bar over the bytes of a whole call; calls come from several threads.

    In a notebook the line that `tell` leaves takes the bar's place: what is saved is the line.
    """

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._widgets = notebook and _has_widgets()
        self._bar: Any = None
        self._place: Any = None
        self._box: Any = None
        self._lock = threading.Lock()
        self._done = 0
        self._drawn = 0.0
        self._noted = 0.0

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Draw the bar."""
        # tqdm.auto would warn about missing widgets, and decides at import for the whole process
        kind: Any
        if self._widgets:
            from tqdm.notebook import tqdm as kind  # noqa: PLC0415 - needs ipywidgets
        else:
            from tqdm import tqdm as kind  # noqa: PLC0415 - loaded when a bar is drawn
        about: dict[str, Any] = {"display": False} if self._widgets else {"file": sys.stderr, "dynamic_ncols": True}
        if self._notebook and not self._widgets:
            self._place = _Place({"text/plain": ""})
            about = {"file": self._place, "ncols": 80}
        with self._lock:
            self._done, self._drawn = 0, time.monotonic()
            # We say when to draw: tqdm's own thrift can hold a bar still for ten seconds when a transfer gets slow
            self._bar = kind(
                total=size, unit="B", unit_scale=True, unit_divisor=1000, leave=False,
                desc=display.shorten(title, 40), mininterval=0, miniters=1, **about,
            )  # fmt: skip
        if self._widgets:
            self._box = _box(self._bar.container)
            self._place = _Place(self._box._repr_mimebundle_() | {"text/plain": repr(self._bar.container)})

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Move the bar, at most ten times a second."""
        with self._lock:
            self._done += n
            self._draw()

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """What needn't be moved is taken off the total: the rate stays the wire's."""
        with self._lock:
            if outcome != "moved" and self._bar is not None:
                self._bar.total = max(0, self._bar.total - descriptor.size)
                self._draw()

    def note(self, message: str) -> None:
        """Show a word beside the bar."""
        with self._lock:
            if self._bar is not None:
                self._noted = time.monotonic()
                self._say(display.shorten(message, 60))

    def end(self, *, failed: bool = False) -> None:
        """Take the bar away."""
        with self._lock:
            bar, self._bar = self._bar, None
            if bar is None:
                return
            if not failed:
                bar.total = max(bar.n, self._done)  # a notebook's bar turns red if it closes short
                bar.update(bar.total - bar.n)
            bar.close()
            if self._box is not None:
                self._box.children[1].close()
                self._box.close()
        if self._place is not None:
            self._place.show("")

    def tell(self, line: str) -> None:
        """Leave one line behind."""
        if self._place is not None:
            self._place.show(display.sanitize(line))
            return
        from tqdm import tqdm  # noqa: PLC0415 - as above

        tqdm.write(display.sanitize(line), file=sys.stdout if self._notebook else sys.stderr)

    def _draw(self) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._drawn >= _INTERVAL:
            if self._noted and now - self._noted >= _NOTED:
                self._noted = 0.0
                self._say("")
            # What is sent again was drawn already: the bar waits for it, and never goes back
            if not self._bar.update(max(0, self._done - self._bar.n)):
                self._bar.refresh()
            self._drawn = now

    def _say(self, word: str) -> None:
        if self._box is not None:
            place = self._box.children[1]
            place.value, place.layout.display = html.escape(word), "" if word else "none"
        else:
            self._bar.set_postfix_str(word, refresh=True)


def _box(row: Any) -> Any:
    """A box with tqdm's row of widgets, which breaks where a page is narrow, and a word below it."""
    from ipywidgets import HTML, VBox  # noqa: PLC0415 - a kernel with widgets has it loaded

    _, bar, _ = row.children
    bar.layout.flex, bar.layout.width, bar.layout.max_width = "1 1 10em", "auto", "25em"
    row.layout.flex_flow = "row wrap"
    word = HTML()
    word.layout.display = "none"
    return VBox([row, word])


class _Place:
    """One output of a notebook's cell, whose content changes; as a file, it shows what was written last.

    Args:
        first: what to show at first, by media type.
    """

    def __init__(self, first: dict[str, Any]) -> None:
        from IPython.display import display as show  # noqa: PLC0415 - a kernel has it loaded

        self._handle: Any = show(first, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    encoding = "utf-8"  # tqdm draws with # where it doesn't know better

    def show(self, text: str) -> None:
        """Replace what is shown."""
        self._handle.update({"text/plain": text}, raw=True)

    def write(self, text: str) -> int:
        """Replace what is shown, as a terminal's line is after a carriage return."""
        if line := text.replace("\r", "").rstrip():
            self.show(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""
