"""Drawings of graphs: SVG without a script, and a tree of text."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping

from attrs import field, frozen

from ocikit.display.cells import TOOLTIP, Cell, Safe
from ocikit.display.text import sanitize, shorten

_DRAWN = 40  # nodes of a drawing; more would not fit into a page
_LINES = 200  # of a tree
_NAME = 27  # characters in a box
_NOTE = 36
_WIDTH, _HEIGHT = 220, 44  # of a box, in pixels
_GAP_X, _GAP_Y = 48, 14
_TEXT_LINE = 160  # characters of a line of a tree


@frozen(kw_only=True)
class GraphNode:
    """A node of a graph."""

    name: str
    """The first line of its box."""
    note: str = ""
    """The second line."""
    detail: str = ""
    """The tooltip."""
    sources: tuple[str, ...] = ()
    """The keys of the nodes that point to it."""
    is_certain: bool = True
    """False draws a dashed box."""


def _nodes(items: Mapping[str, GraphNode]) -> dict[str, GraphNode]:
    return dict(items)


@frozen
class Graph(Cell):
    """A directed graph, drawn from the left to its first node on the right.

    >>> print(Graph({"m": GraphNode(name="model", sources=("d", "b")), "d": GraphNode(name="data"),
    ...              "b": GraphNode(name="base", note="deleted", sources=("d",))}))
    model
    ├── data
    └── base  deleted
        └── data
    """

    nodes: Mapping[str, GraphNode] = field(converter=_nodes)
    """By key; the first is where all arrows lead to."""

    def __str__(self) -> str:
        return self.text()

    def text(self, *, whole: bool = False) -> str:
        """Return the graph as a tree with the first node at the top; the sources of a node are listed once."""
        lines: list[str] = []
        for line in self._lines():
            if len(lines) == _LINES:
                lines.append("…")
                break
            lines.append(shorten(line, _TEXT_LINE))
        return "\n".join(lines)

    def _lines(self) -> Iterator[str]:
        if not self.nodes:
            return
        listed: set[str] = set()
        # Keys with the prefixes of their own line and of the lines below
        waiting = [(next(iter(self.nodes)), "", "")]
        while waiting:
            key, before, below = waiting.pop()
            node = self.nodes[key]
            sources = [source for source in node.sources if source in self.nodes]
            repeated = bool(sources) and key in listed
            listed.add(key)
            note = f"  {node.note}" if node.note else ""
            yield f"{before}{sanitize(node.name)}{sanitize(note)}{'  (sources above)' if repeated else ''}"
            if not repeated:
                last = len(sources) - 1
                marks = [("└── ", "    ") if i == last else ("├── ", "│   ") for i in range(len(sources))]
                pairs = list(zip(sources, marks, strict=True))
                waiting += [(source, below + mark, below + space) for source, (mark, space) in reversed(pairs)]

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return the graph as SVG, without a script and without a style of its own."""
        places = self._places()
        if not places:
            return Safe("")
        width = max(x for x, _ in places.values()) + _WIDTH + 2
        height = max(y for _, y in places.values()) + _HEIGHT + 2
        parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">']
        parts += self._arrows(places)
        parts += [_box(self.nodes[key], x, y, tooltip) for key, (x, y) in places.items()]
        more = len(self.nodes) - len(places)
        below = f"<div><small>… {more:,} more</small></div>" if more else ""
        return Safe(f'<div class="ocikit-graph">{"".join(parts)}</svg></div>{below}')

    def _places(self) -> dict[str, tuple[int, int]]:
        """Return the left upper corner of each box that is drawn. The column is the longest way to the first node."""
        drawn = list(self.nodes)[:_DRAWN]
        columns = dict.fromkeys(drawn, 0)
        for _ in drawn:  # at most: the longest way has fewer steps, and a cycle would have no longest way
            changed = False
            for key in drawn:
                for source in self.nodes[key].sources:
                    if source in columns and columns[source] <= columns[key] < len(drawn):
                        columns[source] = columns[key] + 1
                        changed = True
            if not changed:
                break
        last = max(columns.values(), default=0)
        rows: dict[int, int] = {}
        places = {}
        for key, column in columns.items():
            row = rows.get(column, 0)
            rows[column] = row + 1
            # Every second column is lower by 50 % of a row, so that an arrow over it passes between its boxes
            shift = (_HEIGHT + _GAP_Y) // 2 * (column % 2)
            places[key] = (1 + (last - column) * (_WIDTH + _GAP_X), 1 + row * (_HEIGHT + _GAP_Y) + shift)
        return places

    def _arrows(self, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
        for key, (x, y) in places.items():
            for source in self.nodes[key].sources:
                if source not in places:
                    continue
                left, top = places[source]
                start, end, middle = left + _WIDTH, x, y + _HEIGHT // 2
                bend = (start + end) // 2
                way = f"M{start} {top + _HEIGHT // 2}C{bend} {top + _HEIGHT // 2} {bend} {middle} {end - 6} {middle}"
                yield f'<path d="{way}" fill="none" stroke="currentColor" opacity=".6"/>'
                yield f'<path d="M{end} {middle}l-7 -4v8z" fill="currentColor" opacity=".6"/>'


def _box(node: GraphNode, x: int, y: int, tooltip: int) -> str:
    dashes = "" if node.is_certain else ' stroke-dasharray="4 3"'
    detail = f"<title>{_escaped(node.detail, tooltip)}</title>" if node.detail and tooltip else ""
    # The end of a name distinguishes it: the repository and the tag
    name = sanitize(node.name)
    name = name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"
    frame = (
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="none" stroke="currentColor"{dashes}/>'
    )
    first = f'<text x="{x + 8}" y="{y + 18}" font-size="13" fill="currentColor">{html.escape(name)}</text>'
    second = _escaped(node.note, _NOTE)
    second = f'<text x="{x + 8}" y="{y + 35}" font-size="11" fill="currentColor" opacity=".75">{second}</text>'
    return f"<g>{detail}{frame}{first}{second if node.note else ''}</g>"


def _escaped(text: str, limit: int) -> str:
    return html.escape(shorten(text, limit))
