"""Markdown of other people as HTML of our own: text, headings, lists, tables, code and links to web pages.

The parser only finds the structure. Each element is written here from a list of allowed ones, and all text is escaped. HTML
in the Markdown is left out, and images are shown as their text, because a remote image reveals who reads a page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ocikit.display.cells import TOOLTIP, Cell, Safe, is_page
from ocikit.display.text import sanitize

if TYPE_CHECKING:
    from markdown_it.token import Token

_LONGEST = 30_000  # characters that are shown; the parser needs at most 0.4 s for them
_LARGEST = 60_000  # bytes of the HTML; a whole page has 100,000 bytes
_LINES = 200  # shown in a terminal

_PLAIN = frozenset({"p", "ul", "li", "blockquote", "em", "strong", "s", "table", "thead", "tbody", "tr", "th", "td"})
_TAG = re.compile(r"</?[A-Za-z!?][^<>]*>")


class Markdown(Cell, str):
    """Markdown, as formatted HTML or as plain text."""

    __slots__ = ()

    def text(self, *, whole: bool = False) -> str:
        """Return the Markdown as it is, without terminal escapes; a long one is cut."""
        lines = sanitize(self[:_LONGEST], newlines=True).splitlines()
        more = "\n…" if len(self) > _LONGEST or len(lines) > _LINES else ""
        return "\n".join(lines[:_LINES]) + more

    def html(self, *, whole: bool = False, tooltip: int = TOOLTIP) -> Safe:
        """Return formatted text. Without markdown-it-py, which `ocikit[notebook]` has, it is the Markdown as it is."""
        limit = _LONGEST
        while True:
            source = sanitize(self[:limit], newlines=True)
            tokens = _parse(source)
            page = f"<pre>{html.escape(source)}</pre>" if tokens is None else "".join(_html(tokens))
            if len(self) > limit:
                page += "<p>…</p>"
            if len(page.encode()) <= _LARGEST or limit < 1000:
                return Safe(page)
            limit //= 2


def _parse(source: str) -> list[Token] | None:
    """Return the structure of Markdown, or None if there is no parser."""
    try:
        from markdown_it import MarkdownIt  # noqa: PLC0415 - optional, and 30 ms of import time
    except ImportError:
        return None
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(source)


def _html(tokens: Iterable[Token]) -> Iterator[str]:
    links: list[bool] = []  # of each open link: whether it is written
    for token in tokens:
        match token.type:
            case "inline":
                yield from _html(token.children or ())
            case "text" | "text_special":
                yield html.escape(token.content)
            case "softbreak":
                yield "\n"
            case "hardbreak":
                yield "<br>"
            case "hr":
                yield "<hr>"
            case "code_inline":
                yield f"<code>{html.escape(token.content)}</code>"
            case "fence" | "code_block":
                yield f"<pre><code>{html.escape(token.content)}</code></pre>"
            case "image":
                yield f"[{html.escape(token.content) or 'image'}]"
            case "html_block" | "html_inline":
                text = _without_tags(token.content)
                if token.type == "html_block":
                    text = text.strip()
                    yield f"<p>{html.escape(text)}</p>" if text else ""
                else:
                    yield html.escape(text)
            case "link_open":
                address = str(token.attrs.get("href", ""))
                links.append(is_page(address))
                if links[-1]:
                    yield f'<a href="{html.escape(address)}" rel="noopener noreferrer" target="_blank">'
            case "link_close":
                yield "</a>" if links.pop() else ""
            case "heading_open" | "heading_close":
                # The page has headings of its own
                yield f"<{'/' if token.nesting < 0 else ''}h{min(int(token.tag[1:]) + 2, 6)}>"
            case "ordered_list_open":
                start = token.attrs.get("start", 1)
                yield "<ol>" if start == 1 else f'<ol start="{int(start)}">'
            case "ordered_list_close":
                yield "</ol>"
            case _ if token.tag in _PLAIN and token.nesting and not token.hidden:
                yield f"<{'/' if token.nesting < 0 else ''}{token.tag}>"


def _without_tags(source: str) -> str:
    """Return the text of HTML. It is escaped afterwards, so a tag that is not found is harmless."""
    text = ""
    while source:
        before, _, rest = source.partition("<!--")
        text += before
        source = rest.partition("-->")[2]
    return _TAG.sub("", text)
