"""Cards: title, facts and sections of an object, independent of their output format."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    """A table, a row of names, or nested cards; only the first `ROWS` items are stored."""

    title: str
    headers: tuple[str, ...] = ()
    rows: tuple[Sequence[object], ...] = field(default=(), converter=_first)
    names: tuple[object, ...] = field(default=(), converter=_first)
    """Values in a row instead of a table, such as tags."""
    cards: tuple[Card, ...] = field(default=(), converter=_first)
    body: Cell | None = None
    """A text of several lines."""
    count: int | None = None
    """Total number of items; None is the number of stored items."""
    note: object = ""
    """Shown next to the title."""
    hint: object = ""
    """Shown below the items, such as a call that returns all of them."""
    unfolded: bool | None = None
    """True if the section is expanded at first; None expands short sections."""

    @property
    def shown(self) -> int:
        """Number of stored items."""
        return len(self.rows) + len(self.names) + len(self.cards)

    @property
    def total(self) -> int:
        """Total number of items."""
        return self.shown if self.count is None else self.count

    @property
    def heading(self) -> str:
        """Title, or "no ..." for an empty section."""
        return f"no {self.title}" if self.count == 0 else self.title

    @property
    def open(self) -> bool:
        """True if the section is expanded at first."""
        return self.total <= _OPEN if self.unfolded is None else self.unfolded


@frozen(kw_only=True)
class Card:
    """Title, facts and sections of an object."""

    title: str
    notes: tuple[object, ...] = ()
    """Shown next to the title; a collapsed nested card shows only title and notes."""
    facts: tuple[tuple[str, object], ...] = ()
    sections: tuple[Section, ...] = ()


def annotations_section(annotations: Mapping[str, str]) -> Iterator[Section]:
    """Yield a section of annotations with links, or nothing if there are none."""
    if annotations:
        rows = (
            (key, Timestamp(value) if key.endswith(".created") else Link(value)) for key, value in annotations.items()
        )
        yield Section(title="annotations", headers=("key", "value"), rows=rows, count=len(annotations))
