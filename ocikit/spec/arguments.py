"""Checks of arguments: collections, mappings and numbers.

A text is also a collection, of its letters, so a text in place of a list would be accepted silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from ocikit.display import quoted
from ocikit.errors import InvalidArgument

_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhdw])")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_SHOWN = 80  # characters of an invalid value in a message


def to_texts(value: Iterable[str], name: str) -> tuple[str, ...]:
    """Return a collection of texts as a tuple.

    Args:
        value: The argument.
        name: Name of the argument, for messages.

    Raises:
        InvalidArgument: The value is a single text, not a collection, or has other elements.
    """
    if isinstance(value, str):
        raise InvalidArgument(
            f"{name}={quoted(value, _SHOWN)} is one text, not a list of texts",
            hint=f"write it as a list: {name}=[{quoted(value, _SHOWN)}]",
        )
    texts = tuple(value) if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray) else (None,)
    if not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(
            f"{name}={quoted(value, _SHOWN)} is not a list of texts", hint=f'write it like {name}=["…", "…"]'
        )
    return texts


def check_mapping(value: Any, name: str, example: str) -> None:
    """Check that an argument is a mapping from texts to texts.

    Args:
        value: The argument.
        name: Name of the argument, for messages.
        example: How to write it.

    Raises:
        InvalidArgument: It is something else. The message does not show it, because it may be a secret.
    """
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise InvalidArgument(f"{name} is not a mapping of texts to texts", hint=f"write it like {name}={example}")


def check_number(value: Any, name: str, *, least: float, whole: bool = False) -> None:
    """Check that an argument is a number that is not too small.

    Args:
        value: The argument.
        name: Name of the argument, for messages.
        least: The smallest number.
        whole: Whether it must be an integer.

    Raises:
        InvalidArgument: It is not such a number.
    """
    kind: Any = int if whole else int | float
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < float("inf"):
        raise InvalidArgument(
            f"{name}={quoted(value, _SHOWN)} is invalid",
            hint=f"pass {'a whole number' if whole else 'a number'} of at least {least:g}",
        )


def to_seconds(value: timedelta | float | str, name: str) -> float:
    """Return a number of seconds, from a number, a `timedelta` or a text such as "7d".

    Args:
        value: The argument.
        name: Name of the argument, for messages.

    >>> to_seconds("7d", "older_than"), to_seconds("1.5 h", "older_than")
    (604800.0, 5400.0)

    Raises:
        InvalidArgument: It is none of these.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(
            f"{name}={quoted(value, _SHOWN)} is not a length of time",
            hint='write it like "7d", "12h" or "30m", or as a timedelta or a number of seconds',
        )
    return float(match[1]) * _UNITS[match[2]]
