"""Questions to the person at a terminal. They go to stderr, because stdout has only results."""

from __future__ import annotations

import sys


def ask(question: str) -> str:
    """Return the answer to a question, without spaces around it; "" at the end of stdin.

    Args:
        question: Text of the question, with a space at its end.
    """
    sys.stderr.write(question)
    sys.stderr.flush()
    return sys.stdin.readline().strip()
