"""Text for people: safe in a terminal, short, with units."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path

#: C0 and C1 controls, the marks and overrides that reorder what a terminal shows (U+202A-E, U+2066-9 and kin), and
#: lone surrogates, which no terminal or file takes.
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: Everything that str.splitlines takes for the end of a line.
_LINE_END = re.compile("\r\n|[\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
#: An operating system command (`ESC ]`) goes with its text only if it ends: else it could swallow the rest of a message.
_ANSI = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])")

ROWS = 20  # rows of a table before "… n more"
CELL = 80  # characters of a cell; the rest is in its title
LINE = 100  # characters of a one-line repr


def sanitize(text: object, *, newlines: bool = False) -> str:
    r"""Text that is safe in a terminal: without ANSI sequences, control characters and bidirectional overrides.

    Line ends and tabs become spaces; with `newlines`, line ends stay.

    >>> sanitize("a\x1b[31mred\x1b[0m\x07 and\na line")
    'ared and a line'
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    lines = _LINE_END.sub("\n" if newlines else " ", _ANSI.sub("", whole).replace("\t", " "))
    return _CONTROLS.sub("", lines)


def size(n: int) -> str:
    """Bytes for people, in decimal units.

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
    """Seconds for people.

    >>> duration(0.25), duration(75)
    ('0.2 s', '1 min 15 s')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def shorten(text: object, limit: int) -> str:
    """Cleaned text of at most `limit` characters."""
    whole = sanitize(text)
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def quoted(text: object, limit: int = 120) -> str:
    """A foreign text in a message: its repr, of at most `limit` characters."""
    return shorten(repr(text), limit)


def display_path(path: str | os.PathLike[str]) -> str:
    """A path for people, short and with nothing of the machine: from the current folder, or from home as `~`.

    >>> display_path(os.path.join(os.getcwd(), "data", "back"))
    'data/back'
    """
    whole = Path(path)
    try:
        here = Path.cwd()
        if whole.is_relative_to(here):
            return whole.relative_to(here).as_posix()
        home = Path.home()
    except (OSError, RuntimeError):  # the current folder is gone, nobody has a home
        return str(whole)
    if whole.is_relative_to(home) and home != Path(home.anchor):
        return (Path("~") / whole.relative_to(home)).as_posix()
    return str(whole)


def join_limited(items: Iterable[object], limit: int = 10, *, of: int | None = None) -> str:
    """A comma-separated list that says how many more there are; `of` how many, if `items` need not be counted."""
    if of is None:
        items = items if isinstance(items, Collection) else tuple(items)
        of = len(items)
    more = of - limit
    shown = ", ".join(shorten(item, CELL) for item in itertools.islice(items, limit))
    return shown + (f", … {more:,} more" if more > 0 else "")


def pluralize(n: int, one: str, many: str = "") -> str:
    """A number with its noun.

    >>> pluralize(1, "file"), pluralize(10_000, "file"), pluralize(2, "repository", "repositories")
    ('1 file', '10,000 files', '2 repositories')
    """
    return f"{n:,} {one if n == 1 else many or f'{one}s'}"
