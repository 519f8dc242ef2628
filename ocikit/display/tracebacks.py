"""IPython tracebacks without the frames of this library."""

from __future__ import annotations

import copy
import functools
import os
import sys
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import cast

from ocikit.display.text import pluralize, sanitize

#: Packages whose frames are hidden.
_INTERNAL = {"ocikit", "requests", "urllib3", "cattrs", "attr", "tqdm", "filelock"} | sys.stdlib_module_names


def short_traceback(error: BaseException, causes: Sequence[BaseException] = ()) -> list[str]:
    """Return the lines that IPython shows for an error.

    `%xmode Verbose` and `OCIKIT_TRACEBACK=full` show all frames. The error keeps its full traceback for `%debug` and logs.

    Args:
        error: The uncaught error.
        causes: Causes of the error, nearest first, each shown in one line.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None:
        return "".join(traceback.format_exception(error)).splitlines()
    formatter = shell.InteractiveTB
    frames = _frames(error.__traceback__)
    hidden = _count_internal(frames)
    if os.environ.get("OCIKIT_TRACEBACK") == "full" or formatter.mode == "Verbose" or not hidden:
        return cast("list[str]", formatter.structured_traceback(type(error), error, error.__traceback__))
    # Copy the error to remove its causes: their frames are internal, too
    twin = copy.copy(error)
    lines = formatter.structured_traceback(type(twin), twin, _traceback_of(frames[:-hidden]))
    cause_lines = [f"caused by {type(cause).__name__}: {sanitize(cause)}" for cause in causes]
    note = f"({pluralize(hidden, 'frame')} of ocikit hidden; %xmode Verbose or OCIKIT_TRACEBACK=full shows them)"
    return [*lines, *cause_lines, note]


def hide_internal_frames(error: KeyboardInterrupt | TypeError) -> None:
    """Hide the internal frames of a Ctrl-C, or of a call with wrong arguments, in IPython, as for errors of this library."""
    error._render_traceback_ = functools.partial(short_traceback, error)  # type: ignore[union-attr]  # read by IPython


def _frames(traceback_: TracebackType | None) -> list[TracebackType]:
    frames = []
    while traceback_ is not None:
        frames.append(traceback_)
        traceback_ = traceback_.tb_next
    return frames


def _count_internal(frames: Sequence[TracebackType]) -> int:
    """Return the number of internal frames after the last external one, which may be a callback."""
    count = 0
    for frame in reversed(frames):
        if str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0] not in _INTERNAL:
            break
        count += 1
    return count


def _traceback_of(frames: Sequence[TracebackType]) -> TracebackType | None:
    """Return a new traceback of these frames only."""
    result = None
    for frame in reversed(frames):
        result = TracebackType(result, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return result
