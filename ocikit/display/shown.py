"""Mixin that adds repr, HTML and rich output to a class."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from ocikit.display.card import Card, Section
from ocikit.display.html import page
from ocikit.display.plain import plain_text
from ocikit.display.signatures import readable
from ocikit.display.terminal import tree
from ocikit.display.text import LINE, ROWS, sanitize, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType

Description: TypeAlias = Iterator[tuple[str, Any] | tuple[str, Any, Any]]


class Displayable:
    """Mixin with `__repr__`, `_repr_html_`, `_repr_pretty_` and `__rich__`, which never raise.

    A subclass may override `__rich_repr__` (fields of the repr), and the parts of the card: `_card_title`, `_card_notes`, `_card_lead`,
    `_facts` and `_sections`.
    """

    __slots__ = ()

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        readable(cls)

    def __rich_repr__(self) -> Description:
        """Yield `(name, value)` or `(name, value, default)` for each field, as rich's protocol requires.

        By default these are the public fields of an attrs class. `metadata={"show": function}` converts a value.
        """
        for field in attrs.fields(type(self)):  # type: ignore[arg-type]  # other classes override the method
            if field.repr and not field.name.startswith("_"):
                value, show = getattr(self, field.name), field.metadata.get("show")
                shown = value if show is None or value is None else show(value)
                yield (field.name, shown) if field.default is attrs.NOTHING else (field.name, shown, field.default)

    def _facts(self) -> Iterable[tuple[str, object]]:
        """Return the facts of the card."""
        return non_default_fields(self.__rich_repr__())

    def _sections(self) -> Iterable[Section]:
        """Return the sections of the card."""
        return ()

    def _card_title(self) -> object:
        """Return the title of the card: the name of the object, or its class for an object without a name."""
        return type(self).__name__

    def _card_notes(self) -> Iterable[object]:
        """Return what the card shows next to its title, such as kind and size."""
        return ()

    def _card_lead(self) -> str:
        """Return a description of the object in words."""
        return ""

    def _card(self) -> Card:
        return Card(
            title=self._card_title(),
            notes=tuple(self._card_notes()),
            lead=self._card_lead(),
            facts=tuple(self._facts()),
            sections=tuple(self._sections()),
        )

    def _line(self) -> str:
        """Return the repr."""
        fields = ", ".join(f"{name}={_short_repr(value)}" for name, value in non_default_fields(self.__rich_repr__()))
        return shorten(f"{type(self).__name__}({fields})", LINE)

    def __repr__(self) -> str:
        try:
            return self._line()
        except Exception as error:  # noqa: BLE001 - a repr must never raise
            return _failed(self, error)

    def _repr_html_(self) -> str:
        try:
            return page(self._card()) or f"<pre>{html.escape(repr(self))}</pre>"
        except Exception as error:  # noqa: BLE001 - a repr must never raise
            return f"<pre>{html.escape(_failed(self, error))}</pre>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Print the card in IPython, or one line within another object and for objects without a table."""
        try:
            nested = cycle or len(getattr(printer, "stack", ())) > 1
            card = None if nested or isinstance(self, BaseException) else self._card()
            text = repr(self) if card is None or not card.sections else plain_text(card)
        except Exception:  # noqa: BLE001 - a repr must never raise
            text = repr(self)
        printer.text(text)

    def __rich__(self) -> RenderableType:
        try:
            return tree(self._card())
        except Exception:  # noqa: BLE001 - a repr must never raise
            return tree(Card(title=repr(self)))


def _failed(value: Displayable, error: Exception) -> str:
    return f"<ocikit.{type(value).__name__}: repr failed: {type(error).__name__}>"


def card_of(value: Displayable) -> Card:
    """Return the card of an object, to nest it within another card."""
    return value._card()  # noqa: SLF001 - subclasses override it, callers use this function


def title_of(value: Displayable) -> object:
    """Return the title of an object's card."""
    return value._card_title()  # noqa: SLF001 - as for `card_of`


def non_default_fields(description: Description, *without: str) -> Iterator[tuple[str, Any]]:
    """Yield the `(name, value)` pairs of a description, except defaults and the names in `without`."""
    for name, value, *default in description:
        if name not in without and default != [value]:
            yield name, value


def _short_repr(value: object) -> str:
    """Return the repr of a value, or only the length of a long collection."""
    if isinstance(value, Sized) and not isinstance(value, str | bytes) and len(value) > ROWS:
        return f"<{len(value):,}>"
    return sanitize(repr(value))
