"""Text for users: sanitized, shortened, with units."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

#: C0 and C1 controls, bidirectional marks and overrides (U+202A-E, U+2066-9 and others), and lone surrogates, which
#: cannot be encoded.
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: All line boundaries of `str.splitlines`.
_LINE_END = re.compile("\r\n|[\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
#: Terminal escape sequences. An operating system command (`ESC ]`) without its end is not matched: the match would
#: remove the rest of the message.
_ANSI = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])")

ROWS = 20  # rows of a table before "… n more"
CELL = 80  # characters of a table cell; its tooltip shows the rest
LINE = 100  # characters of a one-line repr


def sanitize(text: object, *, newlines: bool = False) -> str:
    r"""Return `text` without terminal escapes, control characters and bidirectional overrides.

    Tabs and line ends become spaces. With `newlines`, line ends are preserved.

    >>> sanitize("a\x1b[31mred\x1b[0m\x07 and\na line")
    'ared and a line'
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    lines = _LINE_END.sub("\n" if newlines else " ", _ANSI.sub("", whole).replace("\t", " "))
    return _CONTROLS.sub("", lines)


def size(n: int) -> str:
    """Return a number of bytes with a decimal unit.

    >>> size(999), size(4_200_000_000)
    ('999 B', '4.2 GB')
    """
    if n < 1000:
        return f"{n} B"
    value = float(n)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """Return a number of seconds as text with units.

    >>> duration(0.25), duration(75)
    ('0.2 s', '1 min 15 s')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shorten(text: object, limit: int) -> str:
    """Return sanitized text of at most `limit` characters."""
    whole = sanitize(text)
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def quoted(text: object, limit: int = 120) -> str:
    """Return the repr of untrusted text for a message, with at most `limit` characters."""
    return shorten(repr(text), limit)


def display_path(path: str | os.PathLike[str]) -> str:
    """Return a path relative to the current folder, or to the home folder as `~`.

    >>> display_path(os.path.join(os.getcwd(), "data", "back"))
    'data/back'
    """
    whole = Path(path)
    try:
        here = Path.cwd()
        if whole.is_relative_to(here):
            return whole.relative_to(here).as_posix()
        home = Path.home()
    except (OSError, RuntimeError):  # the current folder was deleted, or the user has no home
        return str(whole)
    if whole.is_relative_to(home) and home != Path(home.anchor):
        return (Path("~") / whole.relative_to(home)).as_posix()
    return str(whole)


def join_limited(items: Iterable[object], limit: int = 10, *, of: int | None = None) -> str:
    """Return a comma-separated list of at most `limit` items, with the number of omitted ones.

    Args:
        items: Values to list.
        limit: Maximum number of listed items.
        of: Total number of items; None counts them.
    """
    if of is None:
        items = items if isinstance(items, Collection) else tuple(items)
        of = len(items)
    more = of - limit
    shown = ", ".join(shorten(item, CELL) for item in itertools.islice(items, limit))
    return shown + (f", … {more:,} more" if more > 0 else "")


def nearest(name: object, names: Iterable[str], limit: int = 5) -> list[str]:
    """Return the names that are most similar to `name`, most similar first.

    >>> nearest("trian.csv", ["test.csv", "train.csv", "notes.md"])
    ['train.csv', 'test.csv']
    """
    return difflib.get_close_matches(str(name), names, n=limit, cutoff=0.4)


def pluralize(n: int, one: str, many: str = "") -> str:
    """Return a number with its noun in the singular or plural.

    >>> pluralize(1, "file"), pluralize(10_000, "file"), pluralize(2, "repository", "repositories")
    ('1 file', '10,000 files', '2 repositories')
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
