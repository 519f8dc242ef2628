"""Cards: what an object is, the facts about it, and sections of what it holds. One card makes a page or a terminal's tree."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, TypeAlias

from attrs import field, frozen

from ocikit.display.cells import Link, Timestamp
from ocikit.display.text import LINE, ROWS, sanitize, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType

Description: TypeAlias = Iterator[tuple[str, Any] | tuple[str, Any, Any]]

_OPEN = 10  # a section of no more is unfolded from the start


def _first(items: Iterable[Any]) -> tuple[Any, ...]:
    """No more than is shown is ever looked at."""
    return tuple(itertools.islice(items, ROWS))


@frozen(kw_only=True)
class Section:
    """A table, names in a row, or cards; the first `ROWS` of them are kept."""

    title: str
    headers: tuple[str, ...] = ()
    rows: tuple[Sequence[object], ...] = field(default=(), converter=_first)
    names: tuple[object, ...] = field(default=(), converter=_first)
    """Shown one after another instead of a table: tags, say."""
    cards: tuple[Card, ...] = field(default=(), converter=_first)
    count: int | None = None
    """How many there are in all; None is as many as were given."""
    note: object = ""
    """Beside the title."""
    hint: object = ""
    """Below: how to get what isn't here."""
    unfolded: bool | None = None
    """Whether it is open from the start; None opens what is short."""

    @property
    def shown(self) -> int:
        """How many are kept."""
        return len(self.rows) + len(self.names) + len(self.cards)

    @property
    def total(self) -> int:
        """How many there are."""
        return self.shown if self.count is None else self.count

    @property
    def heading(self) -> str:
        """What is above it."""
        return f"no {self.title}" if self.count == 0 else self.title

    @property
    def open(self) -> bool:
        """Whether it is unfolded from the start."""
        return self.total <= _OPEN if self.unfolded is None else self.unfolded


@frozen(kw_only=True)
class Card:
    """How an object looks."""

    title: str
    notes: tuple[object, ...] = ()
    """Beside the title; all that is seen of a card that is folded within another."""
    facts: tuple[tuple[str, object], ...] = ()
    sections: tuple[Section, ...] = ()


class Displayable:
    """Gives `__repr__`, `_repr_html_` and `__rich__` to a class that has `__rich_repr__`, and perhaps `_sections`.

    `_facts` may say more than the line has room for.
    """

    __slots__ = ()

    def __rich_repr__(self) -> Description:
        raise NotImplementedError

    def _facts(self) -> Iterable[tuple[str, object]]:
        """What the card says beside its sections."""
        return non_default_fields(self.__rich_repr__())

    def _sections(self) -> Iterable[Section]:
        """What the object holds."""
        return ()

    def _card(self) -> Card:
        return Card(title=type(self).__name__, facts=tuple(self._facts()), sections=tuple(self._sections()))

    def _line(self) -> str:
        """The repr."""
        return line(type(self).__name__, self.__rich_repr__())

    def __repr__(self) -> str:
        try:
            return self._line()
        except Exception as error:  # noqa: BLE001 - a repr must never raise
            return _failed(type(self).__name__, error)

    def _repr_html_(self) -> str:
        from ocikit.display.html import page  # noqa: PLC0415 - for who looks

        try:
            return page(self._card()) or f"<pre>{html.escape(repr(self))}</pre>"
        except Exception as error:  # noqa: BLE001 - a repr must never raise
            return f"<pre>{html.escape(_failed(type(self).__name__, error))}</pre>"

    def __rich__(self) -> RenderableType:
        from ocikit.display.terminal import tree  # noqa: PLC0415 - rich is loaded by who uses it

        try:
            return tree(self._card())
        except Exception:  # noqa: BLE001 - a repr must never raise
            return tree(Card(title=repr(self)))


def _failed(name: str, error: Exception) -> str:
    return f"<ocikit.{name}: repr failed: {type(error).__name__}>"


def card_of(thing: Displayable) -> Card:
    """An object's card, to be shown within another's."""
    return thing._card()  # noqa: SLF001 - the one place that asks


def non_default_fields(description: Description, *without: str) -> Iterator[tuple[str, Any]]:
    """The description's pairs, without defaults and some names."""
    for name, value, *default in description:
        if name not in without and default != [value]:
            yield name, value


def line(name: str, description: Description) -> str:
    """The plain one-line repr of a description, at most `LINE` characters."""
    inside = ", ".join(f"{key}={_short(value)}" for key, value in non_default_fields(description))
    return shorten(f"{name}({inside})", LINE)


def _short(value: object) -> str:
    """The repr of a value, of which no more than a line is looked at."""
    if isinstance(value, Sized) and not isinstance(value, str | bytes) and len(value) > ROWS:
        return f"<{len(value):,}>"
    return sanitize(repr(value))


def annotations_section(annotations: Mapping[str, str]) -> Iterator[Section]:
    """The section of annotations, if there are any; addresses in them can be followed."""
    if annotations:
        rows = (
            (key, Timestamp(value) if key.endswith(".created") else Link(value)) for key, value in annotations.items()
        )
        yield Section(title="annotations", headers=("key", "value"), rows=rows, count=len(annotations))
