"""Previews of the first bytes of a file: text, JSON, table, picture or hexadecimal dump."""

from __future__ import annotations

import csv
import io
import json
from typing import Final

from attrs import frozen

from ocikit import display

TEXT: Final = 64 * 1024  # bytes, about a thousand lines
PICTURE: Final = 2 << 20  # bytes; a partial picture cannot be shown

_LINES = 200
_ROWS = 20
_COLUMNS = 12
_HEX = 256  # bytes

#: Picture formats by their first bytes. SVG is excluded, because it may contain scripts (XSS).
_PICTURE_FORMATS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif")


@frozen
class Preview:
    """Escaped HTML and possibly a picture."""

    html: str
    picture: bytes = b""
    format: str = ""


def preview_size(name: str, size: int) -> int:
    """Return the number of bytes that the preview of a file needs."""
    return min(size, PICTURE if name.lower().endswith(_PICTURE_SUFFIXES) and size <= PICTURE else TEXT)


def preview(name: str, head: bytes, size: int) -> Preview:
    """Return the preview of a file; its format is detected from the content and the suffix of the name.

    Args:
        name: Name of the file.
        head: First bytes of the file, see `preview_size`.
        size: Size of the whole file, in bytes.
    """
    whole = len(head) >= size
    part = "" if whole else f", the first {display.size(len(head))}"
    for signature, kind in _PICTURE_FORMATS.items():
        if head.startswith(signature):
            if not whole:
                return Preview(_caption(f"{kind.upper()} picture of {display.size(size)}, too large for a preview"))
            return Preview(_caption(f"{kind.upper()} picture"), head, kind)
    if not head:
        return Preview(_caption("empty"))
    text = _text(head, whole=whole)
    if text is None:
        return Preview(_caption(f"binary{part}") + _block(_hexadecimal(head[:_HEX])))
    suffix = name.rpartition(".")[2].lower()
    if suffix in {"csv", "tsv"} and (shown := _table(text, "\t" if suffix == "tsv" else ",", whole=whole)):
        return Preview(_caption(f"table{part}") + shown)
    if whole and (suffix in {"json", "ipynb", "geojson"} or text.lstrip()[:1] in {"{", "["}):
        text = _indented(text)
    lines = text.splitlines()
    more = f"\n… {len(lines) - _LINES} more lines" if len(lines) > _LINES else "" if whole else "\n…"
    return Preview(_caption(f"text{part}") + _block("\n".join(lines[:_LINES]) + more))


def _caption(text: str) -> str:
    return f"<div><small>{display.escape(text)}</small></div>"


def _block(text: str) -> str:
    lines = (display.escape(line, 400) for line in text.split("\n"))
    return '<pre style="white-space:pre-wrap;overflow-wrap:anywhere;margin:0">' + "\n".join(lines) + "</pre>"


def _text(head: bytes, *, whole: bool) -> str | None:
    """Return UTF-8 bytes as text, or None; the last character may be incomplete."""
    if b"\0" in head:
        return None
    for cut in range(1 if whole else 4):
        try:
            return head[: len(head) - cut].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
    return None


def _table(text: str, delimiter: str, *, whole: bool) -> str:
    lines = text.splitlines(keepends=True)
    complete = lines if whole else lines[:-1]  # the last line may be truncated
    try:
        rows = [row for row in csv.reader(io.StringIO("".join(complete[: _ROWS + 1])), delimiter=delimiter) if row]
    except csv.Error:
        return ""
    if not rows or max(map(len, rows)) < 2:
        return ""
    more = len(complete) - len(rows)
    or_more = "" if whole else " or more"
    note = f"<small>… {display.pluralize(more, 'more line')}{or_more}</small>" if more > 0 else ""
    return display.table(rows[0][:_COLUMNS], [row[:_COLUMNS] for row in rows[1:]], _ROWS) + note


def _indented(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _hexadecimal(head: bytes) -> str:
    rows = (head[i : i + 16] for i in range(0, len(head), 16))
    return "\n".join(
        f"{i * 16:06x}  {row.hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for i, row in enumerate(rows)
    )
