"""Notes and summaries of commands, which go to stderr; stdout has the result."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ocikit import display
from ocikit.cli.command import is_quiet
from ocikit.cli.streams import print_message

if TYPE_CHECKING:
    import ocikit


def print_note(text: str) -> None:
    """Print a line to stderr, unless the command is quiet."""
    if not is_quiet():
        print_message(text)


def print_summary(artifact: ocikit.Artifact) -> None:
    """Print what a transfer did to stderr; stdout has only the result, for pipes."""
    if not sys.stderr.isatty():  # in a terminal, the progress bar has printed it
        print_note(display.sanitize(artifact.summary))
