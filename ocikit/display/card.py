"""Cards: title, facts and sections of an object, independent of their output format."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import field, frozen

from ocikit.display.cells import Cell, Link, Timestamp
from ocikit.display.text import ROWS

_OPEN = 10  # sections with at most this many items are expanded at first


def _first(items: Iterable[Any]) -> tuple[Any, ...]:
    """Return the first `ROWS` items; the others are never evaluated."""
    return tuple(itertools.islice(items, ROWS))


@frozen(kw_only=True)
class Section:
    """Facts, a table, a row of names, or nested cards; only the first `ROWS` items are stored."""

    title: str
    """The heading; a section without one is always expanded."""
    headers: tuple[str, ...] = ()
    rows: tuple[Sequence[object], ...] = field(default=(), converter=_first)
    names: tuple[object, ...] = field(default=(), converter=_first)
    """Values in a row instead of a table, such as tags."""
    cards: tuple[Card, ...] = field(default=(), converter=_first)
    facts: tuple[tuple[str, object], ...] = field(default=(), converter=_first)
    """Names and values, shown like the facts of a card."""
    body: Cell | None = None
    """A text of several lines."""
    count: int | None = None
    """Total number of items; None is the number of stored items."""
    note: object = ""
    """Shown next to the title."""
    hint: object = ""
    """Shown below the items, such as a call that returns all of them."""
    is_data: bool = False
    """True for a table whose columns stay columns in a narrow page, such as statistics; rows of others are paragraphs."""
    unfolded: bool | None = None
    """True if the section is expanded at first; None expands short sections."""

    @property
    def shown(self) -> int:
        """Number of stored items."""
        return len(self.rows) + len(self.names) + len(self.cards)  # facts are not counted

    @property
    def total(self) -> int:
        """Total number of items."""
        return self.shown if self.count is None else self.count

    @property
    def heading(self) -> str:
        """Title, or "no ..." for an empty section."""
        return f"no {self.title}" if self.count == 0 and self.title else self.title

    @property
    def open(self) -> bool:
        """True if the section is expanded at first."""
        return not self.title or (self.total <= _OPEN if self.unfolded is None else self.unfolded)


@frozen(kw_only=True)
class Card:
    """Title, facts and sections of an object."""

    title: object
    """A text or a `Name`."""
    notes: tuple[object, ...] = ()
    """Shown next to the title, such as kind and size; a collapsed nested card shows only title and notes."""
    lead: str = ""
    """A description of the object in words, below the title."""
    facts: tuple[tuple[str, object], ...] = ()
    sections: tuple[Section, ...] = ()


def annotations_section(annotations: Mapping[str, str], *, without: Collection[str] = ()) -> Iterator[Section]:
    """Yield a section of annotations with links, or nothing if there are none.

    Args:
        annotations: All of them.
        without: The keys of those that the card shows elsewhere.
    """
    keys = [key for key in annotations if key not in without]
    if keys:
        rows = (
            (key, Timestamp(annotations[key]) if key.endswith(".created") else Link(annotations[key])) for key in keys
        )
        title = "annotations" if len(keys) == len(annotations) else "other annotations"
        yield Section(title=title, headers=("key", "value"), rows=rows, count=len(keys))


def details_section(facts: Iterable[tuple[str, object]]) -> Iterator[Section]:
    """Yield a folded section of technical facts, or nothing if there are none."""
    if facts := tuple(facts):
        yield Section(title="details", facts=facts, unfolded=False)
