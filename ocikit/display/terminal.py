"""Terminal output of cards, rendered by rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ocikit.display.card import Card, Section
from ocikit.display.cells import Size, text_of
from ocikit.display.text import CELL, sanitize, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.tree import Tree


def tree(card: Card) -> RenderableType:
    """Return the card as a tree of rich; its text is never parsed as markup."""
    from rich.text import Text  # noqa: PLC0415 - rich is optional
    from rich.tree import Tree  # noqa: PLC0415 - rich is optional

    root = Tree(_head(card), guide_style="dim")
    if card.lead:
        root.add(Text(sanitize(card.lead)))
    if card.facts:
        root.add(_facts(card.facts))
    for section in card.sections:
        _section(root, section)
    return root


def _head(card: Card) -> RenderableType:
    from rich.text import Text  # noqa: PLC0415 - rich is optional

    head = Text(text_of(card.title), style="bold")
    if notes := " · ".join(shorten(text_of(note), CELL) for note in card.notes if note != ""):
        head.append(f"  {notes}", style="not bold dim")
    return head


def _facts(facts: Sequence[tuple[str, object]]) -> Table:
    from rich.table import Table  # noqa: PLC0415 - rich is optional
    from rich.text import Text  # noqa: PLC0415 - rich is optional

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(shorten(name.replace("_", " "), CELL)), Text(text_of(value, whole=True)))
    return grid


def _section(branch: Tree, section: Section) -> None:
    from rich.text import Text  # noqa: PLC0415 - rich is optional

    title = Text(sanitize(section.heading or "items"), style="bold")
    for note in (f"{section.total:,}" if section.total else "", text_of(section.note)):
        if note:
            title.append(f"  {shorten(note, CELL)}", style="not bold dim")
    twig = branch.add(title)
    if not section.open:
        return
    if section.facts:
        twig.add(_facts(section.facts))
    if section.rows:
        twig.add(_table(section))
    if section.names:
        twig.add(Text("  ".join(shorten(text_of(name), CELL) for name in section.names)))
    for card in section.cards:
        twig.add(_head(card))
    if section.body is not None:
        twig.add(Text(section.body.text()))
    if (more := section.total - section.shown) > 0:
        twig.add(Text(f"… {more:,} more", style="dim"))
    if section.hint != "":
        twig.add(Text(text_of(section.hint, whole=True), style="dim"))


def _table(section: Section) -> Table:
    from rich.table import Table  # noqa: PLC0415 - rich is optional
    from rich.text import Text  # noqa: PLC0415 - rich is optional

    table = Table(box=None, pad_edge=False, show_header=bool(section.headers), header_style="dim")
    first = section.rows[0]
    for position in range(len(first)):
        name = section.headers[position] if position < len(section.headers) else ""
        table.add_column(
            Text(sanitize(name)), justify="right" if isinstance(first[position], Size) else "left", overflow="fold"
        )
    for row in section.rows:
        table.add_row(*(Text(shorten(text_of(value), CELL)) for value in row))
    return table
