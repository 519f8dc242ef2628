"""Types of command-line arguments."""

from __future__ import annotations

import argparse
import re

_KEYWORD = re.compile(r"""\b([a-z_]+)=(?:True|(None\b|"[^"]*"|'[^']*')|(?![\w\["'(]))""")


def positive_int(text: str) -> int:
    """Return a whole number above 0.

    Args:
        text: Value on the command line.

    Raises:
        argparse.ArgumentTypeError: The value is not such a number.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def seconds(text: str) -> float:
    """Return a finite number of seconds, at least 0.

    Args:
        text: Value on the command line.

    Raises:
        argparse.ArgumentTypeError: The value is not such a number.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return number


def key_value(text: str) -> tuple[str, str]:
    """Return the key and the value of `KEY=VALUE`.

    Args:
        text: Value on the command line.

    Raises:
        argparse.ArgumentTypeError: The text has another form.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def with_options(text: str, options: argparse.Namespace) -> str:
    """Return the text of an error with the options of a command in place of Python's keywords.

    Args:
        text: Text of an error.
        options: Options of the command.

    >>> with_options('use links="skip", force=True or platform=', argparse.Namespace(links=None, force=False))
    'use --links "skip", --force or platform='
    """

    def option(match: re.Match[str]) -> str:
        if match[1] not in options:
            return match[0]
        value = "none" if match[2] == "None" else match[2]
        return f"--{match[1].replace('_', '-')}" + (f" {value}" if value else "")

    return _KEYWORD.sub(option, text)
