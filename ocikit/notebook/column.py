"""Fields and lists of the explorer and the login form; the column of names with a filter, sorting and paging.

Every field and list has a label, for screen readers: `named` hides it where a placeholder or a button explains the field,
`styles` returns the CSS for both. `set_options` changes the options of a list and its selection in one message.
"""

from __future__ import annotations

import functools
import itertools
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ipywidgets as w  # type: ignore[import-untyped]  # has no types

from ocikit import display
from ocikit.errors import OcikitError
from ocikit.notebook.assist import read_text
from ocikit.notebook.jobs import IsStale, Jobs
from ocikit.spec.tag_order import newest_first

PAGE = 200  # names per page: a browser scrolls them smoothly, and the filter finds the others
SORTED = 1000  # names that are read to sort them by version; the rest of a longer list is read on demand
FEW = 8  # names that need no filter
DELAY = 0.2  # seconds before a request: moving through a list with the arrow keys must not fetch every item

_ROWS = 6  # visible names of a list
_NEWEST = "newest first"
_LISTED = "as listed"


def message(text: str, *, problem: bool = False) -> str:
    """Return a message as escaped HTML; problems are marked in light and dark themes."""
    lines = "<br>".join(display.escape(line, 400) for line in display.sanitize(text, newlines=True).split("\n"))
    return f'<div class="ocikit-message{" ocikit-problem" if problem else ""}">{lines}</div>'


def on_enter(field: Any, act: Callable[[], None]) -> None:
    """Call `act` when Enter is pressed in a text field."""

    def receive(_: Any, content: Any, __: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "submit":
            act()

    field.on_msg(receive)


@functools.cache
def css() -> str:
    """Return the style of explorer, forms and previews as a `<style>` element."""
    lines = re.sub(r"/[*].*?[*]/", "", read_text("style.css"), flags=re.DOTALL).splitlines()
    return f"<style>{''.join(map(str.strip, lines))}</style>"


def styles() -> Any:
    """Return an invisible widget with the style of lists and named fields."""
    return w.HTML(css(), layout=w.Layout(display="none"))


def status() -> Any:
    """Return a widget for messages, which screen readers announce."""
    area = w.HTML()
    area.add_class("ocikit-status")
    return area


def named(field: Any, name: str) -> Any:
    """Give a field a label that only screen readers show, and return it."""
    field.description = name
    field.add_class("ocikit-named")
    return field


def titled(choice: Any, title: str) -> Any:
    """Give a list a title above it, which is its label, and return it."""
    choice.description = title
    choice.add_class("ocikit-list")
    return choice


def set_options(choice: Any, options: Sequence[Any], value: Any, *, rows: int | None = None) -> None:
    """Change the options of a list and its selection together.

    Browsers reject a selection beyond the options. One message with both prevents such a state in between.

    Args:
        choice: A `Select` or `SelectMultiple`.
        options: The new options.
        value: The new selection.
        rows: The new number of visible rows; None keeps it.
    """
    with choice.hold_sync():
        choice.index = () if isinstance(choice, w.SelectMultiple) else None
        choice.options = options
        if rows is not None:
            choice.rows = rows
        choice.value = value


class Column:
    """A list of names: a click or an arrow key selects one, or Enter after typing a part of it.

    Args:
        title: Plural noun of the names.
        one: Singular of the noun.
        jobs: Jobs that read the names.
        on_select: Called with the selected name.
        on_change: Called after the names have changed, or with the error of a request.
        sortable: True sorts by version, newest first. A list of more than `SORTED` names offers it.
    """

    def __init__(
        self,
        title: str,
        one: str,
        jobs: Jobs,
        on_select: Callable[[str], None],
        on_change: Callable[[OcikitError | None], None],
        *,
        sortable: bool = False,
    ) -> None:
        self._title = title
        self._one = one
        self._jobs = jobs
        self._on_select = on_select
        self._on_change = on_change
        self._sortable = sortable
        self._names: Sequence[str] = ()
        self._limit = PAGE
        self._filling = False
        hidden = w.Layout(width="auto", display="none")
        self.filter = w.Text(placeholder=f"filter {title}, Enter opens the first", layout=hidden)
        named(self.filter, f"filter {title}")
        self.order = w.Dropdown(options=[_NEWEST, _LISTED], layout=w.Layout(width="auto", display="none"))
        named(self.order, f"order of {title}")
        self.list = w.Select(options=[], rows=_ROWS, layout=w.Layout(width="auto"), description_allow_html=False)
        titled(self.list, title)
        self.more = w.Button(description=f"more {title}", layout=w.Layout(width="auto", display="none"))
        self.status = status()
        parts = [self.list, self.filter, self.order, self.more, self.status]
        self.widget = w.VBox(parts, layout=w.Layout(display="none"))
        self.filter.observe(lambda _: self._refresh(), "value")
        self.order.observe(lambda _: self._refresh(), "value")
        on_enter(self.filter, self._update_and_select)
        self.more.on_click(lambda _: self._update(self._limit + PAGE))
        self.list.observe(self._pick, "value")

    @property
    def shown(self) -> tuple[str, ...]:
        """The names on the page; empty if the column is hidden."""
        return () if self.widget.layout.display == "none" else tuple(name for _, name in self.list.options)

    def show(self, load: Callable[[], Sequence[str]], selected: str = "") -> None:
        """Show the column and load its names.

        Args:
            load: Function that returns the names; it runs in the background.
            selected: Name to mark as selected, without a call of `on_select`.
        """
        self._names = ()
        self.widget.layout.display = None
        self._set([], selected)
        self._reset(_NEWEST)
        self.filter.layout.display = self.order.layout.display = self.more.layout.display = "none"
        self.status.value = message(f"loading {self._title} …")

        def work(is_stale: IsStale) -> tuple[Sequence[str], int]:
            time.sleep(DELAY)
            if is_stale():
                return (), 0
            names = load()
            return names, len(names[: SORTED + 1]) if self._sortable else len(names[: FEW + 1])

        def then(result: tuple[Sequence[str], int]) -> None:
            self._names, count = result
            self.filter.layout.display = None if count > FEW else "none"
            if self._sortable and count > SORTED:
                self._reset(_LISTED)
                self.order.layout.display = None
            self._update(PAGE, selected)

        self._jobs.run(self._title, work, then, self._show_error)

    def hide(self) -> None:
        """Hide the column and cancel its job."""
        self._jobs.cancel(self._title)
        self._names = ()
        self.widget.layout.display = "none"

    def select(self, name: str) -> None:
        """Mark a name as selected if it is shown, without a call of `on_select`."""
        self._filling = True
        try:
            self.list.value = name if name in [option for _, option in self.list.options] else None
        finally:
            self._filling = False

    def _reset(self, order: str) -> None:
        self._filling = True
        try:
            self.filter.value, self.order.value = "", order
        finally:
            self._filling = False

    def _show_error(self, error: OcikitError) -> None:
        self.status.value = message(str(error), problem=True)
        self._on_change(error)

    def _refresh(self) -> None:
        if not self._filling:
            self._update(PAGE)

    def _update_and_select(self) -> None:
        self._update(PAGE, select_first=True)

    def _update(self, limit: int, selected: str = "", *, select_first: bool = False) -> None:
        self._limit = limit
        names, text = self._names, self.filter.value.strip().lower()
        newest = self._sortable and self.order.value == _NEWEST
        selected = selected or self.list.value or ""

        def work(is_stale: IsStale) -> tuple[list[str], int, bool]:
            checked, matches = 0, []
            source: Iterator[str] = itertools.takewhile(lambda _: not is_stale(), names)
            for name in newest_first(source) if newest else source:
                if is_stale():
                    break
                checked += 1
                if text in name.lower():
                    matches.append(name)
                    if len(matches) > limit:
                        break
                if checked % 5000 == 0:
                    self.status.value = message(f"searched {checked:,} …")
            return matches[:limit], checked, len(matches) > limit

        def then(result: tuple[list[str], int, bool]) -> None:
            matches, checked, more = result
            self._set(matches, selected)
            self.more.layout.display = None if more else "none"
            self.status.value = self._count(len(matches), checked, more=more)
            self._on_change(None)
            if select_first and matches:
                self.list.value = matches[0]

        self._jobs.run(f"{self._title} list", work, then, self._show_error)

    def _count(self, matches: int, checked: int, *, more: bool) -> str:
        """Return how many names are shown, unless the list shows all of them."""
        text = self.filter.value.strip()
        if matches and not text and not more and matches <= _ROWS:
            return ""
        condition = f" with {text!r}" if text else ""
        total = f" of {checked:,}" if text and not more else ""
        count = f"the first {matches:,} {self._title}" if more else f"no {self._title}"
        if matches and not more:
            count = display.pluralize(matches, self._one, self._title)
        return message(f"{count}{condition}{total}")

    def _set(self, names: Sequence[str], selected: str) -> None:
        self._filling = True
        try:
            options = [(display.shorten(name, 200), name) for name in names]
            value = selected if selected in names else None
            set_options(self.list, options, value, rows=min(_ROWS, max(2, len(names))))
        finally:
            self._filling = False

    def _pick(self, change: Any) -> None:
        if not self._filling and change["new"]:
            self._on_select(change["new"])
