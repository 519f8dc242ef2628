"""Fields and lists of the explorer and the login form; the column of names with a filter, sorting and paging.

Every field and list has a label, for screen readers: `named` hides it where a placeholder or a button explains the field,
`styles` returns the CSS for both. `set_options` changes the options of a list and its selection in one message.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ipywidgets as w  # type: ignore[import-untyped]  # has no types

from ocikit import display
from ocikit.client.tag_order import newest_first
from ocikit.errors import OcikitError
from ocikit.notebook.jobs import IsStale, Jobs

PAGE = 200  # names per page: a browser scrolls them smoothly, and the filter finds the others


def message(text: str, *, problem: bool = False) -> str:
    """Return a message as escaped HTML; problems are marked in light and dark themes."""
    style = "border-left:3px solid #d9534f;padding-left:.5em" if problem else "opacity:.75"
    lines = "<br>".join(display.escape(line, 400) for line in display.sanitize(text, newlines=True).split("\n"))
    return f'<div style="line-height:1.35;white-space:normal;{style}">{lines}</div>'


def on_enter(field: Any, act: Callable[[], None]) -> None:
    """Call `act` when Enter is pressed in a text field.

    JupyterLab intercepts the arrow keys of lists to move between cells, but passes all keys of text fields.
    """

    def receive(_: Any, content: Any, __: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "submit":
            act()

    field.on_msg(receive)


_CSS = (
    ".jupyter-widgets.ocikit-list{flex-direction:column;align-items:stretch}"
    ".jupyter-widgets.ocikit-list>.widget-label{text-align:left;width:auto;font-weight:bold}"
    ".jupyter-widgets.ocikit-list>select{flex:none}"
    ".jupyter-widgets.ocikit-named>.widget-label{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}"
)


def styles() -> Any:
    """Return an invisible widget with the CSS of lists and named fields."""
    return w.HTML(f"<style>{_CSS}</style>", layout=w.Layout(display="none"))


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
    """A list of names: a click selects one, or Enter after typing a part of it.

    Args:
        title: Plural noun of the names.
        jobs: Jobs that read the names.
        on_select: Called with the selected name.
        sortable: True offers sorting by version.
    """

    def __init__(self, title: str, jobs: Jobs, on_select: Callable[[str], None], *, sortable: bool = False) -> None:
        self._title = title
        self._jobs = jobs
        self._on_select = on_select
        self._names: Sequence[str] = ()
        self._limit = PAGE
        self._filling = False
        self.filter = w.Text(
            placeholder=f"filter {title}, Enter opens the first", layout=w.Layout(width="auto"), continuous_update=True
        )
        named(self.filter, f"filter {title}")
        self.order = w.Dropdown(options=["as listed", "newest first"], layout=w.Layout(width="auto"))
        named(self.order, f"order of {title}")
        self.list = w.Select(options=[], rows=12, layout=w.Layout(width="auto"), description_allow_html=False)
        titled(self.list, title)
        self.more = w.Button(description="more", layout=w.Layout(width="auto", display="none"))
        self.status = w.HTML()
        self.order.layout.display = None if sortable else "none"
        self.widget = w.VBox(
            [self.filter, self.order, self.list, self.more, self.status],
            layout=w.Layout(flex="1 1 200px", min_width="180px", max_width="100%", display="none"),
        )
        self.filter.observe(lambda _: self._update(PAGE), "value")
        self.order.observe(lambda _: self._update(PAGE), "value")
        on_enter(self.filter, self._update_and_select)
        self.more.on_click(lambda _: self._update(self._limit + PAGE))
        self.list.observe(self._pick, "value")

    def show(self, load: Callable[[], Sequence[str]], selected: str = "") -> None:
        """Show the column and load its names.

        Args:
            load: Function that returns the names; it runs in the background.
            selected: Name to mark as selected, without a call of `on_select`.
        """
        self._names = ()
        self.widget.layout.display = None
        self._set([], selected)
        self.filter.value = ""
        self.status.value = message(f"loading {self._title} …")

        def then(names: Sequence[str]) -> None:
            self._names = names
            self._update(PAGE, selected)

        self._jobs.run(self._title, lambda _: load(), then, self._show_error)

    def hide(self) -> None:
        """Hide the column and cancel its job."""
        self._jobs.cancel(self._title)
        self._names = ()
        self.widget.layout.display = "none"

    def _show_error(self, error: OcikitError) -> None:
        self.status.value = message(str(error), problem=True)

    def _update_and_select(self) -> None:
        self._update(PAGE, select_first=True)

    def _update(self, limit: int, selected: str = "", *, select_first: bool = False) -> None:
        self._limit = limit
        names, text, newest = self._names, self.filter.value.strip().lower(), self.order.value == "newest first"
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
            condition = f" with {self.filter.value.strip()!r}" if text else ""
            total = f" of {checked:,}" if text and not more else ""
            count = f"the first {len(matches):,}" if more else f"{len(matches):,}" if matches else "no"
            self.status.value = message(f"{count} {self._title}{condition}{total}")
            if select_first and matches:
                self.list.value = matches[0]

        self._jobs.run(f"{self._title} list", work, then, self._show_error)

    def _set(self, names: Sequence[str], selected: str) -> None:
        self._filling = True
        try:
            options = [(display.shorten(name, 200), name) for name in names]
            value = selected if selected in names else None
            set_options(self.list, options, value, rows=min(12, max(3, len(names) + 1)))
        finally:
            self._filling = False

    def _pick(self, change: Any) -> None:
        if not self._filling and change["new"]:
            self._on_select(change["new"])
