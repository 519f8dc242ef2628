"""HTML of cards: tables and `<details>`, readable without CSS; no scripts, no external resources.

Display protocols and widgets get exactly `str`: strict encoders of front ends, such as msgspec in marimo, refuse subclasses.
`Safe` stays within this room.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

from ocikit.display.card import Card, Section
from ocikit.display.cells import TOOLTIP, Size, Timestamp, escape, html_of
from ocikit.display.text import ROWS

HTML_LIMIT = 100_000  # bytes; a larger page is rendered again with less detail

_DEPTH = 4  # levels of nested cards
_LEAD = 400  # characters of a description


@functools.cache
def css() -> str:
    """Return the style sheet as a `<style>` element, without comments and line ends."""
    text = resources.files("ocikit.display").joinpath("style.css").read_text(encoding="utf-8")
    return f"<style>{''.join(map(str.strip, re.sub(r'/[*].*?[*]/', '', text, flags=re.DOTALL).splitlines()))}</style>"


def page(card: Card) -> str | None:
    """Return the HTML of a card, or None if it exceeds `HTML_LIMIT` even with the least detail."""
    for tooltip, rows in ((TOOLTIP, ROWS), (100, 5), (0, 0)):
        body = _Page(tooltip, rows).card(card)
        whole = f'{css()}<div class="ocikit">{body}</div>'
        if len(whole) <= HTML_LIMIT and len(whole.encode()) <= HTML_LIMIT:
            return whole
    return None


class _Page:
    """Renderer of a card.

    Args:
        tooltip: Maximum length of tooltips, in characters.
        rows: Maximum number of rows in nested sections.
    """

    def __init__(self, tooltip: int, rows: int) -> None:
        self.tooltip = tooltip
        self.rows = rows

    def card(self, card: Card, depth: int = 0) -> str:
        head = f'<div class="ocikit-head">{self._head(card)}</div>' if depth == 0 else ""
        lead = f'<div class="ocikit-lead">{escape(card.lead, _LEAD, self.tooltip)}</div>' if card.lead else ""
        return head + lead + self._facts(card.facts) + "".join(self._section(s, depth) for s in card.sections)

    def _head(self, card: Card) -> str:
        notes = " · ".join(self._value(note) for note in card.notes if note != "")
        title = html_of(card.title, tooltip=self.tooltip)
        return f"<strong>{title}</strong>" + (f" <small>{notes}</small>" if notes else "")

    def _value(self, value: object, *, whole: bool = False) -> str:
        return html_of(value, whole=whole, tooltip=self.tooltip)

    def _facts(self, facts: Sequence[tuple[str, object]]) -> str:
        if not facts:
            return ""
        rows = "".join(
            f"<tr><th>{escape(name.replace('_', ' '), tooltip=self.tooltip)}</th><td>{self._value(value, whole=True)}</td></tr>"
            for name, value in facts
        )
        return f'<table class="ocikit-facts"><tbody>{rows}</tbody></table>'

    def _section(self, section: Section, depth: int) -> str:
        limit = ROWS if depth == 0 else self.rows
        more = section.total - min(section.shown, limit)
        count = f"{section.total:,}" if section.shown or section.total else ""
        note = " · ".join(filter(None, [count, self._value(section.note)]))
        content = (self._facts(section.facts) if limit else "") + "".join(self._items(section, limit, depth))
        if section.body is not None and limit:
            content += f'<div class="ocikit-text">{self._value(section.body)}</div>'
        if more > 0:
            content += f"<div><small>… {more:,} more</small></div>"
        if section.hint != "":
            content += f"<div><small>{self._value(section.hint, whole=True)}</small></div>"
        unfolded = " open" if section.open and depth == 0 else ""
        if not section.title:
            return content
        title = f"{escape(section.heading)} <small>{note}</small>" if note else escape(section.heading)
        return f"<details{unfolded}><summary>{title}</summary>{content}</details>" if content else f"<div>{title}</div>"

    def _items(self, section: Section, limit: int, depth: int) -> Iterator[str]:
        if section.rows[:limit]:
            yield _table(section.headers, section.rows[:limit], self.tooltip, is_data=section.is_data)
        if section.names[:limit]:
            names = " ".join(f"<code>{self._value(name)}</code>" for name in section.names[:limit])
            yield f'<div class="ocikit-names">{names}</div>'
        for card in section.cards[:limit]:
            body = self.card(card, depth + 1) if depth < _DEPTH else ""
            head = self._head(card)
            yield f"<details><summary>{head}</summary>{body}</details>" if body else f"<div>{head}</div>"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], limit: int = ROWS) -> str:
    """Return a table of data without a card; every cell is escaped. The page needs another card for the style.

    Its columns stay columns in a narrow page, where it scrolls sideways.
    """
    more = len(rows) - limit
    below = f"<div><small>… {more:,} more</small></div>" if more > 0 else ""
    return f'<div class="ocikit">{_table(headers, rows[:limit], is_data=True)}{below}</div>'


def _table(
    headers: Sequence[str], rows: Iterable[Sequence[object]], tooltip: int = TOOLTIP, *, is_data: bool = False
) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(_cell(value, tooltip) for value in row)}</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    if is_data:
        scrolls = 'class="ocikit-data" tabindex="0" role="region" aria-label="table"'  # also with the arrow keys
        return f'<div {scrolls}><table class="ocikit-columns">{head}<tbody>{body}</tbody></table></div>'
    return f'<table class="ocikit-rows">{head}<tbody>{body}</tbody></table>'


def _cell(value: object, tooltip: int) -> str:
    attribute = (
        ' class="ocikit-n"' if isinstance(value, Size) else ' class="ocikit-t"' if isinstance(value, Timestamp) else ""
    )
    return f"<td{attribute}>{html_of(value, tooltip=tooltip)}</td>"
