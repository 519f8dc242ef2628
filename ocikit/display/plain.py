"""Plain text of cards for terminals: aligned columns without a package for it."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence

from ocikit.display.card import Card, Section
from ocikit.display.cells import Cell, Name, Size, text_of
from ocikit.display.text import CELL, sanitize, shorten

_WIDEST = 120  # columns; longer lines are hard to read
_NARROWEST = 40
_LEAST = 8  # columns of a cell that is cut
_GAP = "  "
_TEXT_LINES = 20  # shown of a text of several lines


def plain_text(card: Card, width: int | None = None) -> str:
    """Return a card as text of several lines.

    Args:
        card: The card.
        width: Columns of the terminal; None asks the terminal.
    """
    if width is None:
        width = min(shutil.get_terminal_size().columns, _WIDEST)
    return "\n".join(_lines(card, max(width, _NARROWEST)))


def _lines(card: Card, width: int) -> Iterator[str]:
    yield _head(card)
    if card.lead:
        yield from textwrap.wrap(sanitize(card.lead), width)
    yield from _facts(card.facts)
    for section in card.sections:
        yield from _section(section, width)


def _head(card: Card) -> str:
    notes = " · ".join(shorten(text_of(note), CELL) for note in card.notes if note != "")
    return f"{text_of(card.title)}  {notes}".rstrip()


def _facts(facts: Sequence[tuple[str, object]]) -> Iterator[str]:
    names = [shorten(name.replace("_", " "), CELL) for name, _ in facts]
    longest = max(map(_columns, names), default=0)
    for name, (_, value) in zip(names, facts, strict=True):
        yield f"{_padded(name, longest)}{_GAP}{text_of(value, whole=not isinstance(value, Size))}".rstrip()


def _section(section: Section, width: int) -> Iterator[str]:
    if not section.open and section.facts:
        return  # a terminal cannot unfold them
    if section.title:
        notes = " · ".join(filter(None, (f"{section.total:,}" if section.total else "", text_of(section.note))))
        yield f"{sanitize(section.heading)}{_GAP}{shorten(notes, CELL)}".rstrip()
    if not section.open:
        return
    indent = _GAP if section.title else ""
    yield from (f"{indent}{line}" for line in _items(section, width - len(indent)))
    if (more := section.total - section.shown) > 0:
        yield f"{indent}… {more:,} more"
    if section.hint != "":
        yield f"{indent}{text_of(section.hint, whole=True)}"


def _items(section: Section, width: int) -> Iterator[str]:
    yield from _facts(section.facts)
    if section.rows:
        yield from _table(section, width)
    if section.names:
        names = _GAP.join(shorten(text_of(name), CELL) for name in section.names)
        yield from textwrap.wrap(names, width, break_on_hyphens=False)
    yield from map(_head, section.cards)
    if section.body is not None:
        lines = section.body.text().splitlines()
        yield from lines[:_TEXT_LINES]
        if len(lines) > _TEXT_LINES:
            yield "…"


def _table(section: Section, width: int) -> Iterator[str]:
    """Yield the lines of a table that fits into the width; columns of texts are cut before columns of values."""
    first = section.rows[0]
    right = [_is_number(value) for value in first]
    rows = [[shorten(text_of(value), CELL) for value in row] for row in section.rows]
    if section.headers:
        rows.insert(0, [*map(sanitize, section.headers), *[""] * (len(first) - len(section.headers))])
    widths = [max(map(_columns, column)) for column in zip(*rows, strict=True)]
    space = width - len(_GAP) * (len(widths) - 1)
    _shrink(
        widths, [i for i, value in enumerate(first) if not isinstance(value, Cell) or isinstance(value, Name)], space
    )
    _shrink(widths, range(len(widths)), space)
    for row in rows:
        cells = (
            _padded(_cut(text, columns), columns, right=is_number)
            for text, columns, is_number in zip(row, widths, right, strict=True)
        )
        yield _GAP.join(cells).rstrip()


def _shrink(widths: list[int], columns: Sequence[int], space: int) -> None:
    """Cut the widest of these columns until all columns fit into the space, or the columns have `_LEAST`."""
    while (excess := sum(widths) - space) > 0 and columns:
        widest, *others = sorted(columns, key=widths.__getitem__, reverse=True)
        limit = max([_LEAST, *(widths[i] - 1 for i in others[:1])])
        if widths[widest] <= _LEAST:
            return
        widths[widest] = max(min(widths[widest] - 1, limit), widths[widest] - excess)


def _is_number(value: object) -> bool:
    return isinstance(value, Size) or (isinstance(value, int) and not isinstance(value, Cell | bool))


def _columns(text: str) -> int:
    """Return the columns of a text in a terminal, where East Asian characters are two wide and accents none."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _cut(text: str, columns: int) -> str:
    if _columns(text) <= columns:
        return text
    while _columns(text) > columns - 1:
        text = text[:-1]
    return f"{text}…"


def _padded(text: str, columns: int, *, right: bool = False) -> str:
    spaces = " " * (columns - _columns(text))
    return f"{spaces}{text}" if right else f"{text}{spaces}"
