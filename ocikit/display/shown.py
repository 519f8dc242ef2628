"""Mixin that adds repr, HTML and rich output to a class."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from ocikit.display.card import Card, Section
from ocikit.display.html import page
from ocikit.display.terminal import tree
from ocikit.display.text import LINE, ROWS, sanitize, shorten

if TYPE_CHECKING:
    from rich.console import RenderableType

Description: TypeAlias = Iterator[tuple[str, Any] | tuple[str, Any, Any]]


class Displayable:
    """Mixin with `__repr__`, `_repr_html_` and `__rich__`, which never raise.

    A subclass may override `__rich_repr__` (fields of the repr), `_facts` (facts of the card) and `_sections`.
    """

    __slots__ = ()

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

    def _card(self) -> Card:
        return Card(title=type(self).__name__, facts=tuple(self._facts()), sections=tuple(self._sections()))

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
