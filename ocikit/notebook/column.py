"""A column of names in the explorer: filtered, sorted and shown in parts, whatever their number."""

from __future__ import annotations

import itertools
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import ipywidgets as w  # type: ignore[import-untyped]  # it has no types

from ocikit import display
from ocikit.errors import OcikitError

PAGE = 200  # names shown at once: a browser scrolls them without a pause, and people filter beyond

Names: TypeAlias = Sequence[str]


class Jobs:
    """Work in the background, so that the kernel never waits; of what one slot was asked, only the last counts."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}
        self._running = 0
        self._changed = threading.Condition()

    def run(
        self,
        slot: str,
        work: Callable[[Callable[[], bool]], Any],
        then: Callable[[Any], None],
        failed: Callable[[OcikitError], None],
    ) -> None:
        """Work in a thread; `work` gets a question that is true once its result is no longer wanted."""
        with self._changed:
            mine = self._asked[slot] = self._asked.get(slot, 0) + 1
            self._running += 1

        def stale() -> bool:
            return self._asked[slot] != mine

        def job() -> None:
            try:
                result = work(stale)
                with self._changed:
                    if not stale():
                        then(result)
            except OcikitError as error:
                with self._changed:
                    if not stale():
                        failed(error)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()

        threading.Thread(target=job, name=f"ocikit-explore-{slot}", daemon=True).start()

    def cancel(self, slot: str) -> None:
        """Let whatever runs in a slot come to nothing."""
        with self._changed:
            self._asked[slot] = self._asked.get(slot, 0) + 1

    def wait(self, timeout: float) -> bool:
        """Whether everything is done within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._running, timeout)


def message(text: str, *, problem: bool = False) -> str:
    """A line of the explorer's own as HTML; problems stand out in both themes."""
    style = "border-left:3px solid #d9534f;padding-left:.5em" if problem else "opacity:.75"
    lines = "<br>".join(display.escape(line, 400) for line in display.sanitize(text, newlines=True).split("\n"))
    return f'<div style="line-height:1.35;white-space:normal;{style}">{lines}</div>'


def newest_first(name: str) -> list[tuple[int, int, str]]:
    """A key for sorting names with numbers in them, to be used in reverse: v1.10 is after v1.9, and "latest" after all."""
    parts = re.findall(r"\d+|\D+", name)
    return [(2, 0, "")] if name == "latest" else [(1, int(p), "") if p.isdecimal() else (0, 0, p) for p in parts]


def on_enter(field: Any, act: Callable[[], None]) -> None:
    """Act when Enter is pressed in a field of text.

    JupyterLab keeps the arrow keys of lists for itself (they move between cells); a field of text has all of its keys.
    """

    def receive(_: Any, content: Any, __: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "submit":
            act()

    field.on_msg(receive)


class Column:
    """A list of names to choose from: by a click, or by typing a part of it and Enter.

    Args:
        title: what they are.
        jobs: where pages are read.
        chosen: called with a name that was chosen.
        sortable: whether sorting by version makes sense.
    """

    def __init__(self, title: str, jobs: Jobs, chosen: Callable[[str], None], *, sortable: bool = False) -> None:
        self._title = title
        self._jobs = jobs
        self._chosen = chosen
        self._names: Names = ()
        self._limit = PAGE
        self._filling = False
        self.filter = w.Text(
            placeholder=f"filter {title}, Enter opens the first", layout=w.Layout(width="auto"), continuous_update=True
        )
        self.order = w.Dropdown(options=["as listed", "newest first"], layout=w.Layout(width="auto"))
        self.list = w.Select(options=[], rows=12, layout=w.Layout(width="auto"), description_allow_html=False)
        self.more = w.Button(description="more", layout=w.Layout(width="auto", display="none"))
        self.status = w.HTML()
        self.order.layout.display = None if sortable else "none"
        self.widget = w.VBox(
            [w.HTML(f"<b>{display.escape(title)}</b>"), self.filter, self.order, self.list, self.more, self.status],
            layout=w.Layout(flex="1 1 200px", min_width="180px", max_width="100%", display="none"),
        )
        self.filter.observe(lambda _: self._again(PAGE), "value")
        self.order.observe(lambda _: self._again(PAGE), "value")
        on_enter(self.filter, self._again_and_open)
        self.more.on_click(lambda _: self._again(self._limit + PAGE))
        self.list.observe(self._pick, "value")

    def show(self, listing: Callable[[], Names], chosen: str = "") -> None:
        """Show the names that a call gives; `chosen` is marked, without being opened."""
        self._names = ()
        self.widget.layout.display = None
        self._set([], chosen)
        self.filter.value = ""
        self.status.value = message(f"asking for {self._title} …")

        def work(_: Callable[[], bool]) -> Names:
            return listing()

        def then(names: Names) -> None:
            self._names = names
            self._again(PAGE, chosen)

        self._jobs.run(self._title, work, then, self._problem)

    def hide(self) -> None:
        """Out of the way."""
        self._jobs.cancel(self._title)
        self._names = ()
        self.widget.layout.display = "none"

    def _problem(self, error: OcikitError) -> None:
        self.status.value = message(str(error), problem=True)

    def _again_and_open(self) -> None:
        self._again(PAGE, first=True)

    def _again(self, limit: int, chosen: str = "", *, first: bool = False) -> None:
        self._limit = limit
        names, text, newest = self._names, self.filter.value.strip().lower(), self.order.value == "newest first"
        chosen = chosen or self.list.value or ""

        def work(stale: Callable[[], bool]) -> tuple[list[str], int, bool]:
            looked, found = 0, []
            source: Iterator[str] = iter(names)
            if newest:
                everything = list(itertools.takewhile(lambda _: not stale(), source))
                source = iter(sorted(everything, key=newest_first, reverse=True))
            for name in source:
                if stale():
                    break
                looked += 1
                if text in name.lower():
                    found.append(name)
                    if len(found) > limit:
                        break
                if looked % 5000 == 0:
                    self.status.value = message(f"looked at {looked:,} …")
            return found[:limit], looked, len(found) > limit

        def then(result: tuple[list[str], int, bool]) -> None:
            found, looked, more = result
            self._set(found, chosen)
            self.more.layout.display = None if more else "none"
            which = f" with {self.filter.value.strip()!r}" if text else ""
            rest = f" of {looked:,}" if text and not more else ""
            count = f"the first {len(found):,}" if more else f"{len(found):,}"
            self.status.value = message(
                f"{count} {self._title}{which}{rest}" if found else f"no {self._title}{which}{rest}"
            )
            if first and found:
                self.list.value = found[0]

        self._jobs.run(f"{self._title} list", work, then, self._problem)

    def _set(self, names: Sequence[str], chosen: str) -> None:
        self._filling = True
        try:
            self.list.options = [(display.shorten(name, 200), name) for name in names]
            self.list.rows = min(12, max(3, len(names) + 1))
            self.list.value = chosen if chosen in names else None
        finally:
            self._filling = False

    def _pick(self, change: Any) -> None:
        if not self._filling and change["new"]:
            self._chosen(change["new"])
