"""How things look: one description feeds repr, rich and HTML; everything foreign is escaped here.

An object describes itself with `__rich_repr__`, which yields `(name, value)` or `(name, value, default)`, as rich's
protocol says. `Shown` derives `__repr__` and `_repr_html_` from that. No repr does I/O, and none raises.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

__all__ = [
    "Description",
    "Safe",
    "Shown",
    "clean",
    "digest_cell",
    "duration",
    "h",
    "line",
    "listed",
    "place",
    "quoted",
    "shorten",
    "size",
    "size_cell",
    "table",
]

Description: TypeAlias = Iterator[tuple[str, Any] | tuple[str, Any, Any]]

#: C0 and C1 controls, the marks and overrides that reorder what a terminal shows (U+202A-E, U+2066-9 and kin), and
#: lone surrogates, which no terminal or file takes.
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
#: Everything that str.splitlines takes for the end of a line.
_LINE_END = re.compile("\r\n|[\n\x0b\x0c\r\x1c-\x1e\x85\u2028\u2029]")
#: An operating system command (`ESC ]`) goes with its text only if it ends: else it could swallow the rest of a message.
_ANSI = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\-_])")

ROWS = 20  # rows of a table before "… n more"
CELL = 80  # characters of a cell; the rest is in its title
HTML_LIMIT = 100_000  # bytes; a larger repr falls back to its text
LINE = 100  # characters of a one-line repr

CSS = (
    "<style>.ocikit{font-size:13px;line-height:1.45;max-width:60em;overflow-x:auto;color:var(--jp-content-font-color1,"
    "var(--vscode-foreground,inherit))}.ocikit table{border-collapse:collapse;margin:.2em 0}.ocikit th,.ocikit td{"
    "text-align:left!important;vertical-align:top;padding:.1em .8em .1em 0;background:transparent}.ocikit th{"
    "font-weight:600;opacity:.75;white-space:nowrap}.ocikit code{font-size:12px;background:transparent;color:inherit}"
    ".ocikit summary{cursor:pointer}.ocikit .ocikit-title{font-weight:600}</style>"
)


def clean(text: object, *, newlines: bool = False) -> str:
    r"""Text that is safe in a terminal: without ANSI sequences, control characters and bidirectional overrides.

    Line ends and tabs become spaces; with `newlines`, line ends stay.

    >>> clean("a\x1b[31mred\x1b[0m\x07 and\na line")
    'ared and a line'
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    lines = _LINE_END.sub("\n" if newlines else " ", _ANSI.sub("", whole).replace("\t", " "))
    return _CONTROLS.sub("", lines)


def h(text: object, limit: int = CELL) -> str:
    """Escaped HTML of any text, shortened to `limit` characters with the whole in a tooltip.

    >>> h("<b>")
    '&lt;b&gt;'
    """
    whole = clean(text)
    if len(whole) <= limit:
        return html.escape(whole)
    tooltip = html.escape(whole[:2000])
    return f'<span title="{tooltip}">{html.escape(whole[: limit - 1])}…</span>'


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
    whole = clean(text)
    return whole if len(whole) <= limit else f"{whole[: limit - 1]}…"


def quoted(text: object, limit: int = 120) -> str:
    """A foreign text in a message: its repr, of at most `limit` characters."""
    return shorten(repr(text), limit)


def place(path: str | os.PathLike[str]) -> str:
    """A path for people, short and with nothing of the machine: from the current folder, or from home as `~`.

    >>> place(os.path.join(os.getcwd(), "data", "back"))
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


def listed(items: Iterable[object], limit: int = 10) -> str:
    """A comma-separated list that says how many more there are."""
    everything = [shorten(i, CELL) for i in items]
    more = len(everything) - limit
    return ", ".join(everything[:limit]) + (f", … {more} more" if more > 0 else "")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], limit: int = ROWS) -> str:
    """An HTML table with every cell escaped and at most `limit` rows."""
    head = "".join(f"<th>{h(name)}</th>" for name in headers)
    body = "".join("<tr>" + "".join(f"<td>{_cell(c)}</td>" for c in row) + "</tr>" for row in rows[:limit])
    more = len(rows) - limit
    if more > 0:
        body += f'<tr><td colspan="{len(headers)}">… {more} more</td></tr>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: object) -> str:
    if isinstance(value, Safe):
        return value
    return h(value)


class Safe(str):
    """HTML that this module made: already escaped."""

    __slots__ = ()


def digest_cell(digest: str) -> Safe:
    """Twelve characters of a digest, with the whole of it in the tooltip."""
    algorithm, _, encoded = digest.partition(":")
    return Safe(
        f'<code title="{html.escape(clean(digest))}">{html.escape(clean(f"{algorithm}:{encoded[:12]}"))}</code>'
    )


def size_cell(n: int) -> Safe:
    """A human size with the exact bytes in the tooltip."""
    return Safe(f'<span title="{int(n)} bytes">{html.escape(size(n))}</span>')


def _shown(description: Description) -> Iterator[tuple[str, Any]]:
    """The description's pairs, defaults left out."""
    for item in description:
        if len(item) == 3 and item[1] == item[2]:
            continue
        yield item[0], item[1]


def line(name: str, description: Description) -> str:
    """The plain one-line repr of a description, at most `LINE` characters."""
    inside = ", ".join(f"{key}={clean(repr(value))}" for key, value in _shown(description))
    return shorten(f"{name}({inside})", LINE)


class Shown:
    """Gives `__repr__` and `_repr_html_` to a class that has `__rich_repr__`. Subclasses may add `_html_parts`."""

    __slots__ = ()

    def __rich_repr__(self) -> Description:
        raise NotImplementedError

    def _html_parts(self) -> Iterable[str]:
        """Further HTML, already escaped, below the table of the description."""
        return ()

    def __repr__(self) -> str:
        name = type(self).__name__
        try:
            return line(name, self.__rich_repr__())
        except Exception as error:  # noqa: BLE001 - a repr must never raise
            return f"<ocikit.{name}: repr failed: {type(error).__name__}>"

    def _repr_html_(self) -> str:
        name = type(self).__name__
        try:
            text = html.escape(repr(self))
            rows = [
                (key, value if isinstance(value, Safe) else _plain(value))
                for key, value in _shown(self.__rich_repr__())
            ]
            inner = "".join(f"<tr><th>{h(k)}</th><td>{_cell(v)}</td></tr>" for k, v in rows)
            whole = (
                f'{CSS}<div class="ocikit"><span class="ocikit-title">ocikit.{h(name)}</span>'
                f"<table><tbody>{inner}</tbody></table>{''.join(self._html_parts())}</div>"
            )
            return whole if len(whole.encode()) <= HTML_LIMIT else f"<pre>{text}</pre>"
        except Exception as error:  # noqa: BLE001 - a repr must never raise
            return f"<pre>&lt;ocikit.{html.escape(name)}: repr failed: {html.escape(type(error).__name__)}&gt;</pre>"


def _plain(value: object) -> str:
    return value if isinstance(value, str) else clean(repr(value))
