"""Notes and summaries of commands, which go to stderr; stdout has the result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ocikit import display
from ocikit.cli.command import is_quiet
from ocikit.cli.streams import print_message
from ocikit.progress.bars import Bars, bars

if TYPE_CHECKING:
    import ocikit
    from ocikit.progress.base import Progress

_TARGET = re.compile(r" -> .*?(?=; |$)")


class _BarsAlone(Bars):
    """Bars in a terminal, without the summary."""

    def summary(self, line: str) -> None:
        """Print nothing: `print_summary` does it."""


def progress() -> Progress | str:
    """Return the listener of a command: bars if stderr is a terminal, and none if the command is quiet."""
    if is_quiet():
        return "none"
    return _BarsAlone(notebook=False) if isinstance(bars(None), Bars) else "none"


def print_note(text: str) -> None:
    """Print a line to stderr, unless the command is quiet."""
    if not is_quiet():
        print_message(text)


def print_summary(artifact: ocikit.Artifact) -> None:
    """Print what a transfer did to stderr, without the reference or path, which is the result on stdout."""
    print_note(display.sanitize(_TARGET.sub("", artifact.summary, count=1)))
