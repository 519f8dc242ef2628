"""Values with their own text and HTML form."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self
from urllib.parse import urlsplit

from attrs import frozen

from ocikit.display.text import CELL, join_limited, sanitize, shorten, size

_DIGITS = 12  # shown digits of a digest, as in docker
TOOLTIP = 1000  # characters of a tooltip
_WHOLE = 2000  # maximum length of a value shown in full, such as a reference
_URL = 500  # maximum length of a URL that becomes a link


class Safe(str):
    """HTML that is already escaped."""

    __slots__ = ()


def escape(text: object, limit: int = CELL, tooltip: int = TOOLTIP) -> Safe:
    """Return escaped HTML of a text of at most `limit` characters, with the full text in a tooltip.

    >>> escape("<b>")
    '&lt;b&gt;'
    """
    whole = sanitize(text)
    if len(whole) <= limit:
        return Safe(html.escape(whole))
    shown = f"{html.escape(whole[: limit - 1])}…"
    return Safe(f'<span title="{html.escape(shorten(whole, tooltip))}">{shown}</span>' if tooltip else shown)


class Cell:
    """A value with its own text and HTML form.

    `whole` requests the full form, which fits into a fact but not into a table.
    """

    __slots__ = ()

    def text(self, *, whole: bool = False) -> str:
        """Return plain text."""
        raise NotImplementedError

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return escaped HTML."""
        return escape(self.text(whole=whole), _WHOLE if whole else CELL, tooltip)


class Size(Cell, int):
    """Number of bytes.

    >>> Size(4_200_000), Size(4_200_000).text(whole=True)
    (4.2 MB, '4.2 MB (4,200,000 bytes)')
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return size(int(self))

    __str__ = __repr__

    def text(self, *, whole: bool = False) -> str:
        """Return the size with a unit; in full, also the exact number."""
        return f"{size(int(self))} ({int(self):,} bytes)" if whole and self >= 1000 else size(int(self))

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the size with a unit, and the exact number next to it or in the tooltip."""
        if whole or not tooltip or self < 1000:
            return Safe(self.text(whole=whole))
        return Safe(f'<span title="{int(self):,} bytes">{self.text()}</span>')


class DigestCell(Cell, str):
    """Digest.

    >>> DigestCell("sha256:" + "ab" * 32)
    'sha256:abababababab'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(self.text())

    def text(self, *, whole: bool = False) -> str:
        """Return the first twelve digits, or all of them."""
        algorithm, _, encoded = str(self).partition(":")
        return sanitize(self) if whole else sanitize(f"{algorithm}:{encoded[:_DIGITS]}")

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the first digits with the full digest in the tooltip; in full, one click selects all digits.

        The style sheet cuts a full digest after its first digits. Copied text has all of them.
        """
        if whole:
            return Safe(f'<code class="ocikit-copy ocikit-cut">{escape(self.text(whole=True), _WHOLE, 0)}</code>')
        if not tooltip:
            return Safe(f"<code>{escape(self.text(), CELL, 0)}</code>")
        return Safe(f'<code title="{html.escape(shorten(self, 200))}">{html.escape(shorten(self.text(), CELL))}</code>')


class Timestamp(Cell, str):
    """Time in RFC 3339 format, or any other text.

    The form is never relative ("3 days ago"), because a saved notebook would show it indefinitely.

    >>> Timestamp("2026-11-03T16:05:00.5+02:00"), Timestamp("yesterday"), Timestamp.of(1_793_714_700)
    ('2026-11-03 14:05 UTC', 'yesterday', '2026-11-03 14:05 UTC')
    """

    __slots__ = ()

    @classmethod
    def of(cls, moment: datetime | float) -> Self:
        """Return the timestamp of a `datetime` or of seconds since 1970."""
        if not isinstance(moment, datetime):
            moment = datetime.fromtimestamp(moment, UTC)
        return cls(moment.isoformat())

    def __repr__(self) -> str:
        return repr(self.text())

    def text(self, *, whole: bool = False) -> str:
        """Return the time to the minute in UTC; a text that is not a time is returned as it is."""
        try:
            moment = datetime.fromisoformat(str(self))
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        except (ValueError, OverflowError):
            return sanitize(self)
        return moment.strftime("%Y-%m-%d %H:%M UTC")

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the time, with the original text in the tooltip."""
        shown = self.text()
        if not tooltip or shown == str(self):
            return escape(shown, CELL, tooltip)
        return Safe(f'<span title="{html.escape(shorten(self, 200))}">{escape(shown, CELL, 0)}</span>')


class Code(Cell, str):
    """Code or reference to copy; one click selects all of it."""

    __slots__ = ()

    def text(self, *, whole: bool = False) -> str:
        """Return the full text."""
        return sanitize(self)

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the full text, because a shortened one could not be run."""
        return Safe(f'<code class="ocikit-copy">{escape(self, _WHOLE, 0)}</code>')


@frozen
class Name(Cell):
    """The name of a thing after the place where it is; one click selects both.

    >>> Name("registry.example/", "ada/waves:v1").text()
    'registry.example/ada/waves:v1'
    """

    place: str
    name: str

    @classmethod
    def of_path(cls, path: str) -> Self:
        """Return the name of a path, whose place is its folder.

        >>> Name.of_path("data/train.csv")
        Name(place='data/', name='train.csv')
        """
        folder, slash, name = path.rpartition("/")
        return cls(f"{folder}{slash}", name)

    def text(self, *, whole: bool = False) -> str:
        """Return place and name as one text."""
        return sanitize(f"{self.place}{self.name}")

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the name with its place in a lighter type."""
        place = f"<small>{escape(self.place, _WHOLE, 0)}</small>" if self.place else ""
        return Safe(f'<span class="ocikit-all">{place}{escape(self.name, _WHOLE, 0)}</span>')


def code_call(verb: str, *arguments: object) -> Code:
    """Return the source text of a call.

    >>> print(code_call("ocikit.pull", "ghcr.io/org/model:v1", "folder/"))
    ocikit.pull("ghcr.io/org/model:v1", "folder/")
    """
    return Code(f"{verb}({', '.join(json.dumps(sanitize(argument), ensure_ascii=False) for argument in arguments)})")


class Line(Cell, str):
    """Short text that stays on one line of a table, such as a number with a unit."""

    __slots__ = ()

    def text(self, *, whole: bool = False) -> str:
        """Return the text."""
        return sanitize(self)

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the text in an element that does not wrap."""
        return Safe(f'<span class="ocikit-t">{escape(self, CELL, tooltip)}</span>')


class Link(Cell, str):
    """Text that becomes a link if it is an http or https URL without user name."""

    __slots__ = ()

    def text(self, *, whole: bool = False) -> str:
        """Return the text."""
        return sanitize(self)

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return a link, or the text if it is not a URL."""
        shown = super().html(whole=whole, tooltip=tooltip)
        if not is_page(str(self)):
            return shown
        return Safe(f'<a href="{html.escape(self)}" rel="noopener noreferrer" target="_blank">{shown}</a>')


def is_page(text: str) -> bool:
    """Return True for an http or https URL without user name, which may become a link."""
    if len(text) > _URL or not text.startswith(("https://", "http://")) or sanitize(text) != text or " " in text:
        return False
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        return False
    return bool(parts.hostname) and "@" not in parts.netloc and "\\" not in text


def text_of(value: object, *, whole: bool = False) -> str:
    """Return any value as sanitized plain text."""
    if isinstance(value, Cell):
        return value.text(whole=whole)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, str):
        return sanitize(value)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        items = (_pair(key, value[key]) if isinstance(value, Mapping) else text_of(key) for key in value)
        return join_limited(items, of=len(value))
    return sanitize(value if type(value).__str__ is not object.__str__ else repr(value))


def _pair(key: object, value: object) -> str:
    # Image configs encode sets as objects with empty values
    return f"{key}={text_of(value)}" if value or isinstance(value, int) else str(key)


def html_of(value: object, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
    """Return any value as escaped HTML."""
    if isinstance(value, Safe):
        return value
    if isinstance(value, Cell):
        return value.html(whole=whole, tooltip=tooltip)
    return escape(text_of(value, whole=whole), _WHOLE if whole else CELL, tooltip)
