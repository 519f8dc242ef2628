"""Progress of commands: bars in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocikit.cli.command import is_quiet
from ocikit.progress.bars import Bars, bars

if TYPE_CHECKING:
    from ocikit.progress.base import Progress


class _BarsAlone(Bars):
    """Bars in a terminal, without the summary."""

    def summary(self, line: str) -> None:
        """Print nothing: `print_summary` does it."""


def progress() -> Progress | str:
    """Return the listener of a command: bars if stderr is a terminal, and none if the command is quiet."""
    if is_quiet():
        return "none"
    return _BarsAlone(notebook=False) if isinstance(bars(None), Bars) else "none"
