"""How things look: one description feeds repr, rich and HTML; everything foreign is escaped here.

An object describes itself with `__rich_repr__`, which yields `(name, value)` or `(name, value, default)`, as rich's
protocol says, and with `_sections`: tables and cards of what it holds. `Shown` makes of that the line that is its
`repr`, the page of a notebook and the tree of a terminal. None of them does I/O, and none raises.
"""

from ocikit.display.card import (
    Card,
    Description,
    Displayable,
    Section,
    annotations_section,
    card_of,
    non_default_fields,
)
from ocikit.display.cells import Cell, Code, DigestCell, Link, Safe, Size, Timestamp, code_call, escape
from ocikit.display.html import HTML_LIMIT, table
from ocikit.display.text import (
    CELL,
    LINE,
    ROWS,
    display_path,
    duration,
    join_limited,
    nearest,
    pluralize,
    quoted,
    sanitize,
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
    "DigestCell",
    "Displayable",
    "Link",
    "Safe",
    "Section",
    "Size",
    "Timestamp",
    "annotations_section",
    "card_of",
    "code_call",
    "display_path",
    "duration",
    "escape",
    "join_limited",
    "nearest",
    "non_default_fields",
    "pluralize",
    "quoted",
    "sanitize",
    "shorten",
    "size",
    "table",
]
