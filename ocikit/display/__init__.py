"""How things look: one description feeds repr, rich and HTML; everything foreign is escaped here.

An object describes itself with `__rich_repr__`, which yields `(name, value)` or `(name, value, default)`, as rich's
protocol says, and with `_sections`: tables and cards of what it holds. `Shown` makes of that the line that is its
`repr`, the page of a notebook and the tree of a terminal. None of them does I/O, and none raises.
"""

from ocikit.display.card import Card, Description, Section, Shown, card_of, given, notes
from ocikit.display.cells import Cell, Code, Hash, Link, Safe, Size, When, call, h
from ocikit.display.html import HTML_LIMIT, table
from ocikit.display.text import (
    CELL,
    LINE,
    ROWS,
    clean,
    counted,
    duration,
    listed,
    place,
    quoted,
    shorten,
    size,
)

__all__ = [
    "CELL",
    "HTML_LIMIT",
    "LINE",
    "ROWS",
    "Card",
    "Cell",
    "Code",
    "Description",
    "Hash",
    "Link",
    "Safe",
    "Section",
    "Shown",
    "Size",
    "When",
    "call",
    "card_of",
    "clean",
    "counted",
    "duration",
    "given",
    "h",
    "listed",
    "notes",
    "place",
    "quoted",
    "shorten",
    "size",
    "table",
]
