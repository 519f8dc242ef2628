"""Notes and summaries of commands, which go to stderr; stdout has the result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ocikit import display
from ocikit.cli.command import is_quiet
from ocikit.cli.streams import print_message

if TYPE_CHECKING:
    import ocikit

_TARGET = re.compile(r" -> .*?(?=; |$)")


def print_note(text: str) -> None:
    """Print a line to stderr, unless the command is quiet."""
    if not is_quiet():
        print_message(text)


def print_summary(artifact: ocikit.Artifact) -> None:
    """Print what a transfer did to stderr, without the reference or path, which is the result on stdout."""
    print_note(display.sanitize(_TARGET.sub("", artifact.summary, count=1)))
