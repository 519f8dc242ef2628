"""Output streams of the command line, which may have another encoding than UTF-8, be closed, or fail.

Results go to stdout and messages to stderr. A character that the encoding lacks is written as an escape sequence. A stream that
is missing or fails does not change what a command does, and a failing stderr does not change its exit code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def prepare_streams() -> None:
    """Replace missing output streams by the null device, and escape characters that the encoding lacks."""
    if sys.stdout is None or sys.stderr is None:
        # Otherwise the next file or connection gets the number of a closed stream, and output would end in it
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(fd)
        sys.stdout = sys.stdout or _null_stream()
        sys.stderr = sys.stderr or _null_stream()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def print_message(text: str) -> None:
    """Print a line to stderr; a failure of stderr is ignored."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Redirect a failed stream to the null device.

    The interpreter flushes it again at exit, and its exit code is 120 after another failure.
    """
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(fd, stream.fileno())
        finally:
            os.close(fd)


def _null_stream() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
