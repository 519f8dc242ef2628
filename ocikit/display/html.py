"""Cards as HTML: tables and `<details>`, which mean the same without their style; no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ocikit.display.card import Card, Section
from ocikit.display.cells import TOOLTIP, Safe, Size, Timestamp, escape, html_of
from ocikit.display.text import ROWS

HTML_LIMIT = 100_000  # bytes; a larger page is made again with less in it

_DEPTH = 4  # cards within cards

_LIGHT = "--of:#1f2328;--ob:#fff;--om:#59636e;--ol:#d1d9e0;--oa:#0969da"
_DARK = "--of:#e6edf3;--ob:#111418;--om:#9198a1;--ol:#3d444d;--oa:#6cb6ff"

#: Colours are the place's own where it names them: JupyterLab and VS Code do. Else they are ours, by what the page says
#: about its theme (Sphinx, Colab, Material for MkDocs, VS Code, JupyterLab), else by what the reader's system says.
CSS = (
    f"<style>.ocikit{{{_LIGHT}}}"
    f"@media(prefers-color-scheme:dark){{.ocikit{{{_DARK}}}}}"
    ":is(html[data-theme=light],html[theme=light],body.vscode-light,[data-md-color-scheme=default],"
    f"[data-jp-theme-light=true]) .ocikit{{{_LIGHT}}}"
    ":is(html[data-theme=dark],html[theme=dark],body.vscode-dark,[data-md-color-scheme=slate],"
    f"[data-jp-theme-light=false]) .ocikit{{{_DARK}}}"
    ".ocikit{color:var(--jp-content-font-color1,var(--vscode-editor-foreground,var(--of)));"
    "background:var(--jp-layout-color0,var(--vscode-editor-background,var(--ob)));"
    "--m:var(--jp-content-font-color2,var(--vscode-descriptionForeground,var(--om)));"
    "--l:var(--jp-border-color2,var(--vscode-panel-border,var(--ol)));"
    "font-size:13px;line-height:1.45;max-width:60em;padding:.3em .5em;container-type:inline-size}"
    ".ocikit table{border-collapse:collapse;table-layout:auto;margin:.1em 0 .3em;border:0;font-size:inherit;"
    "color:inherit}"
    ".ocikit tr{background:transparent!important;border:0;text-align:left!important}"
    ".ocikit :is(th,td){text-align:left!important;vertical-align:top;padding:.1em 1em .1em 0;border:0;"
    "background:transparent;color:inherit;white-space:normal;overflow-wrap:anywhere;max-width:46em}"
    ".ocikit td:first-child{overflow-wrap:break-word}"
    ".ocikit th{font-weight:400;color:var(--m);white-space:nowrap}"
    ".ocikit thead th{border-bottom:1px solid var(--l)}"
    ".ocikit .ocikit-n{text-align:right!important;white-space:nowrap}"
    ".ocikit :is(.ocikit-rows code,.ocikit-t){white-space:nowrap}"
    ".ocikit small{color:var(--m);font-size:12px}"
    ".ocikit code{font-size:12px!important;background:transparent!important;color:inherit;padding:0!important;"
    "white-space:pre-wrap}"
    ".ocikit .ocikit-copy{user-select:all;border-bottom:1px dotted var(--m)}"
    ".ocikit a{color:var(--jp-content-link-color,var(--vscode-textLink-foreground,var(--oa)))}"
    ".ocikit summary{cursor:pointer}"
    ".ocikit details{margin:.1em 0 .1em .2em}"
    ".ocikit details>:not(summary){margin-left:1.1em}"
    ".ocikit .ocikit-names>*{margin-right:.7em;display:inline-block;max-width:100%;overflow-wrap:anywhere}"
    # Too narrow for columns: each row is a paragraph
    "@container(max-width:520px){.ocikit .ocikit-rows thead{display:none}"
    ".ocikit .ocikit-rows tr{border-bottom:1px solid var(--l)}"
    ".ocikit tr{display:block}.ocikit :is(th,td){display:inline-block;padding-right:.7em;max-width:100%}"
    ".ocikit :is(th,td,code){white-space:pre-wrap!important;overflow-wrap:anywhere!important}}"
    "</style>"
)


def page(card: Card) -> Safe | None:
    """The HTML of a card; None if even the least of it is above `HTML_LIMIT`."""
    for tooltip, rows in ((TOOLTIP, ROWS), (100, 5), (0, 0)):
        body = _Page(tooltip, rows).card(card)
        whole = f'{CSS}<div class="ocikit">{body}</div>'
        if len(whole) <= HTML_LIMIT and len(whole.encode()) <= HTML_LIMIT:
            return Safe(whole)
    return None


class _Page:
    """Writes cards with tooltips of some length, and so many rows of what is nested."""

    def __init__(self, tooltip: int, rows: int) -> None:
        self.tooltip = tooltip
        self.rows = rows

    def card(self, card: Card, depth: int = 0) -> str:
        head = f"<div>{self._head(card)}</div>" if depth == 0 else ""
        return head + self._facts(card) + "".join(self._section(s, depth) for s in card.sections)

    def _head(self, card: Card) -> str:
        notes = " ".join(self._value(note) for note in card.notes if note != "")
        return f"<strong>{escape(card.title)}</strong>" + (f" <small>{notes}</small>" if notes else "")

    def _value(self, value: object, *, whole: bool = False) -> str:
        return html_of(value, whole=whole, tooltip=self.tooltip)

    def _facts(self, card: Card) -> str:
        if not card.facts:
            return ""
        rows = "".join(
            f"<tr><th>{escape(name.replace('_', ' '), tooltip=self.tooltip)}</th><td>{self._value(value, whole=True)}</td></tr>"
            for name, value in card.facts
        )
        return f'<table class="ocikit-facts"><tbody>{rows}</tbody></table>'

    def _section(self, section: Section, depth: int) -> str:
        limit = ROWS if depth == 0 else self.rows
        more = section.total - min(section.shown, limit)
        count = f"{section.total:,}" if section.shown or section.total else ""
        note = " · ".join(filter(None, [count, self._value(section.note)]))
        inside = "".join(self._inside(section, limit, depth))
        if more > 0:
            inside += f"<div><small>… {more:,} more</small></div>"
        if section.hint != "":
            inside += f"<div><small>{self._value(section.hint, whole=True)}</small></div>"
        unfolded = " open" if section.open and depth == 0 else ""
        title = f"{escape(section.heading)} <small>{note}</small>" if note else escape(section.heading)
        return f"<details{unfolded}><summary>{title}</summary>{inside}</details>" if inside else f"<div>{title}</div>"

    def _inside(self, section: Section, limit: int, depth: int) -> Iterator[str]:
        if section.rows[:limit]:
            yield _table(section.headers, section.rows[:limit], self.tooltip)
        if section.names[:limit]:
            names = " ".join(f"<code>{self._value(name)}</code>" for name in section.names[:limit])
            yield f'<div class="ocikit-names">{names}</div>'
        for card in section.cards[:limit]:
            body = self.card(card, depth + 1) if depth < _DEPTH else ""
            head = self._head(card)
            yield f"<details><summary>{head}</summary>{body}</details>" if body else f"<div>{head}</div>"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], limit: int = ROWS) -> Safe:
    """A table by itself, at home in a page that has a card; every cell is escaped."""
    more = len(rows) - limit
    below = f"<div><small>… {more:,} more</small></div>" if more > 0 else ""
    return Safe(f'<div class="ocikit">{_table(headers, rows[:limit])}{below}</div>')


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]], tooltip: int = TOOLTIP) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in headers)
    body = "".join(f"<tr>{''.join(_cell(value, tooltip) for value in row)}</tr>" for row in rows)
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<table class="ocikit-rows">{head}<tbody>{body}</tbody></table>'


def _cell(value: object, tooltip: int) -> str:
    kind = (
        ' class="ocikit-n"' if isinstance(value, Size) else ' class="ocikit-t"' if isinstance(value, Timestamp) else ""
    )
    return f"<td{kind}>{html_of(value, tooltip=tooltip)}</td>"
