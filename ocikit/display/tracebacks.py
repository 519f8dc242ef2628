"""Tracebacks in IPython: the lines of who called, and what to do; the library's own frames, which answer nothing, are folded away."""

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

#: What stands between a call and the error that it ends with.
_INSIDE = {"ocikit", "requests", "urllib3", "cattrs", "attr", "tqdm", "filelock"} | sys.stdlib_module_names


def short_traceback(error: BaseException, causes: Sequence[BaseException] = ()) -> list[str]:
    """The lines that IPython shows for an error; all of them with `%xmode Verbose` or `OCIKIT_TRACEBACK=full`.

    The error itself keeps its whole traceback, for `%debug`, for logs and for whoever catches it.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is None:
        return "".join(traceback.format_exception(error)).splitlines()
    painter = shell.InteractiveTB
    frames = _parts(error.__traceback__)
    inside = _tail(frames)
    if os.environ.get("OCIKIT_TRACEBACK") == "full" or painter.mode == "Verbose" or not inside:
        return cast("list[str]", painter.structured_traceback(type(error), error, error.__traceback__))
    # A copy is without its causes: their frames are ours and our libraries'
    alone = copy.copy(error)
    lines = painter.structured_traceback(type(alone), alone, _without(frames[:-inside]))
    told = [f"because of {type(each).__name__}: {sanitize(each)}" for each in causes]
    note = f"({pluralize(inside, 'frame')} of ocikit folded away; %xmode Verbose or OCIKIT_TRACEBACK=full shows them)"
    return [*lines, *told, note]


def hide_internal_frames(interrupt: KeyboardInterrupt) -> None:
    """Let IPython show it as it shows our errors: who stops a call knows that it waited, and need not see for what."""
    interrupt._render_traceback_ = functools.partial(short_traceback, interrupt)  # type: ignore[attr-defined]  # IPython looks for it


def _parts(whole: TracebackType | None) -> list[TracebackType]:
    parts = []
    while whole is not None:
        parts.append(whole)
        whole = whole.tb_next
    return parts


def _tail(frames: Sequence[TracebackType]) -> int:
    """How many frames at the end are ours: after the last of somebody else's, be it in a callback."""
    count = 0
    for part in reversed(frames):
        if str(part.tb_frame.f_globals.get("__name__", "")).partition(".")[0] not in _INSIDE:
            break
        count += 1
    return count


def _without(frames: Sequence[TracebackType]) -> TracebackType | None:
    """A traceback of these frames only; theirs is not touched."""
    made = None
    for part in reversed(frames):
        made = TracebackType(made, part.tb_frame, part.tb_lasti, part.tb_lineno)
    return made
