"""Progress bars in notebooks and terminals, drawn by tqdm.

`OCIKIT_PROGRESS=none` turns bars off, `text` forces plain text. Nothing is drawn in a pipe or a CI log.
"""

from __future__ import annotations

import contextlib
import html
import os
import sys
import time
from typing import Any

from ocikit import display
from ocikit.forks import ForkSafeLock
from ocikit.progress.base import SILENT, Outcome, Progress
from ocikit.progress.marimo import MarimoBar, in_marimo
from ocikit.spec.descriptor import Descriptor

_INTERVAL = 0.1  # seconds between redraws: more would overload a notebook's comm channel
_NOTE_SECONDS = 5.0  # seconds that a note stays next to a moving bar


def bars(setting: bool | str | None) -> Progress:
    """Return the listener for a progress setting.

    Args:
        setting: False or "none" for silence; True or "text" to draw always; None or "auto" to draw only in notebooks
            and terminals.
    """
    if setting is None:
        setting = os.environ.get("OCIKIT_PROGRESS") or "auto"
    if setting is False or str(setting).lower() in {"none", "0", "false", "off"}:
        return SILENT
    if setting != "text" and in_marimo():
        return MarimoBar()
    if setting == "auto" and not (_in_notebook() or _is_terminal()):
        return SILENT
    if not _in_notebook() and _is_missing(sys.stderr):
        return SILENT
    return Bars(notebook=setting != "text" and _in_notebook())


def _in_notebook() -> bool:
    """Return True in a Jupyter kernel, which has already imported IPython."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _has_widgets() -> bool:
    """Return True if ipywidgets can be imported; an installed one may be broken."""
    try:
        import ipywidgets  # type: ignore[import-untyped]  # noqa: F401, PLC0415 - heavy, in notebooks only
    except Exception:  # noqa: BLE001 - after any failure the bar is drawn without widgets
        return False
    return True


def _is_terminal() -> bool:
    stream = sys.stderr
    if _is_missing(stream) or not hasattr(stream, "isatty"):
        return False
    return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"


def _is_missing(stream: Any) -> bool:
    """Return True for a closed stream, and for that of a process without a console."""
    return stream is None or getattr(stream, "closed", False)


class Bars(Progress):
    """One progress bar for the bytes of a whole call; thread-safe.

    In a notebook the summary replaces the bar, so that a saved notebook contains the summary only.

    Args:
        notebook: Whether to draw in a notebook; otherwise in a terminal.
    """

    def __init__(self, *, notebook: bool) -> None:
        self._notebook = notebook
        self._widgets = notebook and _has_widgets()
        self._bar: Any = None
        self._output: _CellOutput | None = None
        self._box: Any = None
        self._lock = ForkSafeLock()
        self._transferred = 0
        self._drawn = 0.0
        self._noted = 0.0

    def begin(self, title: str, *, size: int, count: int) -> None:
        """Draw the bar."""
        # Not tqdm.auto: it warns about missing widgets and decides once, at import, for the whole process
        tqdm_class: Any
        if self._widgets:
            from tqdm.notebook import tqdm as tqdm_class  # noqa: PLC0415 - needs ipywidgets
        else:
            from tqdm import tqdm as tqdm_class  # noqa: PLC0415 - 80 ms of import, only when a bar is drawn
        options: dict[str, Any] = (
            {"display": False} if self._widgets else {"file": _TolerantStream(sys.stderr), "dynamic_ncols": True}
        )
        if self._notebook and not self._widgets:
            self._output = _CellOutput({"text/plain": ""})
            options = {"file": self._output, "ncols": 80}
        with self._lock:
            self._transferred, self._drawn = 0, time.monotonic()
            # Redraws are triggered here: tqdm's own throttling can freeze a bar for ten seconds when a transfer slows down
            self._bar = tqdm_class(
                total=size,
                unit="B",
                unit_scale=True,
                unit_divisor=1000,
                leave=False,
                desc=display.shorten(title, 40),
                mininterval=0,
                miniters=1,
                **options,
            )
        if self._widgets:
            self._box = _box(self._bar.container)
            self._output = _CellOutput(self._box._repr_mimebundle_() | {"text/plain": repr(self._bar.container)})

    def advance(self, descriptor: Descriptor, n: int) -> None:
        """Move the bar, at most ten times a second."""
        with self._lock:
            self._transferred += n
            self._draw()

    def finish(self, descriptor: Descriptor, outcome: Outcome) -> None:
        """Subtract content that was not moved from the total."""
        with self._lock:
            if outcome != "moved" and self._bar is not None:
                self._bar.total = max(0, self._bar.total - descriptor.size)
                self._draw()

    def note(self, message: str) -> None:
        """Show a note next to the bar."""
        with self._lock:
            if self._bar is not None:
                self._noted = time.monotonic()
                self._show_note(display.shorten(message, 60))

    def end(self, *, failed: bool = False) -> None:
        """Remove the bar."""
        with self._lock:
            bar, self._bar = self._bar, None
            if bar is None:
                return
            if not failed:
                bar.total = max(bar.n, self._transferred)  # a notebook's bar turns red if it closes below its total
                bar.update(bar.total - bar.n)
            bar.close()
            if self._box is not None:
                self._box.children[1].close()
                self._box.close()
        if self._output is not None:
            self._output.show("")

    def summary(self, line: str) -> None:
        """Print the summary; in a notebook it replaces the bar."""
        if self._output is not None:
            self._output.show(display.sanitize(line))
            return
        from tqdm import tqdm  # noqa: PLC0415 - 80 ms of import, only when a summary is printed

        tqdm.write(display.sanitize(line), file=_TolerantStream(sys.stdout if self._notebook else sys.stderr))

    def _draw(self) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._drawn >= _INTERVAL:
            if self._noted and now - self._noted >= _NOTE_SECONDS:
                self._noted = 0.0
                self._show_note("")
            # Bytes that are sent again were drawn before: the bar waits for them and never goes back
            if not self._bar.update(max(0, self._transferred - self._bar.n)):
                self._bar.refresh()
            self._drawn = now

    def _show_note(self, text: str) -> None:
        if self._box is not None:
            label = self._box.children[1]
            label.value, label.layout.display = html.escape(text), "" if text else "none"
        else:
            self._bar.set_postfix_str(text, refresh=True)


def _box(row: Any) -> Any:
    """Return a box with tqdm's widgets, wrapped on narrow pages, and a label."""
    from ipywidgets import HTML, VBox  # noqa: PLC0415 - a kernel with widgets has it loaded

    _, bar, _ = row.children
    bar.layout.flex, bar.layout.width, bar.layout.max_width = "1 1 10em", "auto", "25em"
    row.layout.flex_flow = "row wrap"
    label = HTML()
    label.layout.display = "none"
    return VBox([row, label])


class _TolerantStream:
    """An output stream whose failures are ignored: a closed terminal must not end a transfer.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, if the stream takes it."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if it works."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            self._stream.flush()


class _CellOutput:
    """One replaceable output of a notebook cell; as a file, it shows the last text written to it.

    Args:
        content: The first content, by media type.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        from IPython.display import display as display_output  # noqa: PLC0415 - a kernel has it loaded

        self._handle: Any = display_output(content, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    encoding = "utf-8"  # without it, tqdm draws with "#"

    def show(self, text: str) -> None:
        """Replace the output."""
        self._handle.update({"text/plain": text}, raw=True)

    def write(self, text: str) -> int:
        """Replace the output, like a terminal's line after a carriage return."""
        if line := text.replace("\r", "").rstrip():
            self.show(line)
        return len(text)

    def flush(self) -> None:
        """Do nothing: writes are not buffered."""
