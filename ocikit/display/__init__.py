"""Display of objects: one description produces the repr, HTML and rich output; all untrusted text is escaped.

A class derives from `Displayable` and describes itself with `__rich_repr__`, `_facts` and `_sections`. Rendering does no
I/O and never raises.
"""

from ocikit.display.card import Card, Section, annotations_section, details_section
from ocikit.display.cells import (
    Cell,
    Code,
    DigestCell,
    Line,
    Link,
    Name,
    Safe,
    Size,
    Timestamp,
    code_call,
    escape,
    text_of,
)
from ocikit.display.graph import Graph, GraphNode
from ocikit.display.html import HTML_LIMIT, table
from ocikit.display.markdown import Markdown
from ocikit.display.plain import plain_text
from ocikit.display.shown import Description, Displayable, card_of, non_default_fields, title_of
from ocikit.display.signatures import readable, set_signature
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
    "Graph",
    "GraphNode",
    "Line",
    "Link",
    "Markdown",
    "Name",
    "Safe",
    "Section",
    "Size",
    "Timestamp",
    "annotations_section",
    "card_of",
    "code_call",
    "details_section",
    "display_path",
    "duration",
    "escape",
    "join_limited",
    "nearest",
    "non_default_fields",
    "plain_text",
    "pluralize",
    "quoted",
    "readable",
    "sanitize",
    "set_signature",
    "shorten",
    "size",
    "table",
    "text_of",
    "title_of",
]
