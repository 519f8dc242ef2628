"""The first bytes of a file, as something to look at: text, JSON, a table, a picture, or bytes as hexadecimal numbers."""

from __future__ import annotations

import csv
import io
import json
from typing import Final

from attrs import frozen

from ocikit import display

TEXT: Final = 64 * 1024  # bytes: some thousand lines; who wants more wants the file
PICTURE: Final = 2 << 20  # bytes: a picture can't be shown by half

_LINES = 200
_ROWS = 20
_COLUMNS = 12
_HEX = 256  # bytes

#: Pictures by their first bytes. Not SVG: it is a document that may hold scripts.
_PICTURES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}
_PICTURE_NAMES = (".png", ".jpg", ".jpeg", ".gif")


@frozen
class Preview:
    """What to show: HTML that is safe as it is, or a picture."""

    html: str
    picture: bytes = b""
    format: str = ""


def wanted(name: str, size: int) -> int:
    """How many bytes of a file a preview needs."""
    return min(size, PICTURE if name.lower().endswith(_PICTURE_NAMES) and size <= PICTURE else TEXT)


def preview(name: str, head: bytes, size: int) -> Preview:
    """Show the first bytes of a file of `size` bytes; what they are is told by themselves, and by the name's ending."""
    whole = len(head) >= size
    part = "" if whole else f", the first {display.size(len(head))}"
    for start, kind in _PICTURES.items():
        if head.startswith(start):
            if not whole:
                return _facts(f"a {kind.upper()} picture of {display.size(size)}: too large for a preview")
            return Preview(_facts(f"{kind.upper()} picture").html, head, kind)
    if not head:
        return _facts("empty")
    text = _text(head, whole=whole)
    if text is None:
        return Preview(_facts(f"binary{part}").html + _block(_hexadecimal(head[:_HEX])))
    ending = name.rpartition(".")[2].lower()
    if ending in {"csv", "tsv"} and (shown := _table(text, "\t" if ending == "tsv" else ",", whole=whole)):
        return Preview(_facts(f"table{part}").html + shown)
    if whole and (ending in {"json", "ipynb", "geojson"} or text.lstrip()[:1] in {"{", "["}):
        text = _indented(text)
    lines = text.splitlines()
    more = f"\n… {len(lines) - _LINES} more lines" if len(lines) > _LINES else "" if whole else "\n…"
    return Preview(_facts(f"text{part}").html + _block("\n".join(lines[:_LINES]) + more))


def _facts(about: str) -> Preview:
    return Preview(f"<div><small>{display.escape(about)}</small></div>")


def _block(text: str) -> str:
    lines = (display.escape(line, 400) for line in text.split("\n"))
    return '<pre style="white-space:pre-wrap;overflow-wrap:anywhere;margin:0">' + "\n".join(lines) + "</pre>"


def _text(head: bytes, *, whole: bool) -> str | None:
    """The bytes as text, if they are UTF-8; the last character may be cut in two."""
    if b"\0" in head:
        return None
    for less in range(1 if whole else 4):
        try:
            return head[: len(head) - less].decode("utf-8-sig")
        except UnicodeDecodeError:
            continue
    return None


def _table(text: str, delimiter: str, *, whole: bool) -> str:
    lines = text.splitlines(keepends=True)
    kept = lines if whole else lines[:-1]  # the last line may be half a line
    try:
        rows = [row for row in csv.reader(io.StringIO("".join(kept[: _ROWS + 1])), delimiter=delimiter) if row]
    except csv.Error:
        return ""
    if not rows or max(map(len, rows)) < 2:
        return ""
    more = len(kept) - len(rows)
    note = (
        f"<small>… {more} more line{'s' if more > 1 else ''}{'' if whole else ' or more'}</small>" if more > 0 else ""
    )
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
