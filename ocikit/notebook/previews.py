"""Previews of files: text, Markdown, notebooks, tables, tensors, pictures and hexadecimal dumps.

All of it comes from the publisher of a file, so all text is escaped, and nothing runs. Pictures are `<img>` elements with a
`data:` URL. Browsers run no scripts in them and load nothing for them, also for SVG (SVG 2, secure static mode).
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from ocikit import display
from ocikit.client.artifact import File
from ocikit.descriptions.describe import describe, is_binary_format
from ocikit.descriptions.front_matter import read_front_matter
from ocikit.descriptions.rows import read_rows
from ocikit.display.html import page
from ocikit.errors import ContentError, OcikitError
from ocikit.spec.annotations import thaw

TEXT: Final = 64 * 1024  # bytes, about a thousand lines
PICTURE: Final = 2 << 20  # bytes; a partial picture cannot be shown
NOTEBOOK: Final = 1 << 20  # bytes; a partial notebook cannot be parsed

_LINES = 200
_ROWS = 20
_COLUMNS = 12
_VALUE = 60  # characters of a cell
_HEX = 512  # bytes
_CELLS = 60  # of a notebook
_OUTPUT = 4000  # characters of an output
_FACTS = 12  # values of front matter
_PIXELS = 50_000_000  # a larger picture takes too much memory of the browser (decompression bomb)

#: Picture formats by their first bytes.
_PICTURES: Final = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".svg")
_MARKDOWN = (".md", ".markdown")


def load_preview(file: File) -> str:
    """Return the preview of a file as HTML; it requests the parts of the file that it shows.

    Raises:
        OcikitError: The file cannot be read or is damaged.
    """
    if not is_binary_format(file.name, file.media_type):
        return preview(file.name, file.head(preview_size(file.name, file.size)), file.size)
    found = file.describe()
    rows = _parquet_rows(file, verified=found.verified) if found.format == "parquet" else ""
    card = display.card_of(found)
    facts = tuple(fact for fact in card.facts if fact[0] not in {"name", "content", "size"})
    details = page(attrs.evolve(card, title="stated in the file", notes=(), facts=facts)) or ""
    return _page(_caption(file.name, found.summary, display.size(file.size)) + rows + details)


def preview_size(name: str, size: int) -> int:
    """Return the number of bytes that the preview of a file needs."""
    lower = name.lower()
    if lower.endswith(_PICTURE_SUFFIXES) and size <= PICTURE:
        return size
    return min(size, NOTEBOOK if lower.endswith(".ipynb") and size <= NOTEBOOK else TEXT)


def preview(name: str, head: bytes, size: int) -> str:
    """Return the preview of a file as HTML; its format is detected from the content and the suffix of the name.

    Args:
        name: Name of the file.
        head: First bytes of the file, see `preview_size`.
        size: Size of the whole file, in bytes.
    """
    if not head:
        return _page(_caption(name, "empty"))
    whole = len(head) >= size
    part = "" if whole else f"the first {display.size(len(head))} of {display.size(size)}"
    text = _text(head, whole=whole)
    if kind := _picture_format(name, head, text):
        return _page(_picture(name, kind, head, size))
    if text is None:
        return _page(_caption(name, "binary", part or display.size(size)) + _scrolled(_hexadecimal(head[:_HEX]), name))
    suffix = name.rpartition(".")[2].lower()
    summary, body = "text", ""
    if name.lower().endswith(_MARKDOWN):
        summary, body = "Markdown", _markdown(text)
    elif suffix == "ipynb" and whole:
        summary, body = "notebook", _notebook(text)
    elif suffix in {"csv", "tsv"}:
        body = _csv(text, "\t" if suffix == "tsv" else ",", whole=whole)
        summary = _summary(name, head, size) if body else "text"
    if not body:
        if whole and (suffix in {"json", "ipynb", "geojson"} or text.lstrip()[:1] in {"{", "["}):
            text = _indented(text)
        lines = text.splitlines()
        more = f"\n… {len(lines) - _LINES} more lines" if len(lines) > _LINES else "" if whole else "\n…"
        body = _scrolled("\n".join(lines[:_LINES]) + more, name)
    return _page(_caption(name, summary, part or display.size(size)) + body)


# Parts of pages


def _page(body: str) -> str:
    return f'<div class="ocikit-preview">{body}</div>'


def _caption(name: str, *facts: str) -> str:
    notes = " · ".join(display.escape(fact) for fact in facts if fact)
    return f"<div><strong>{display.escape(name, 120)}</strong> <small>{notes}</small></div>"


def _scrolled(text: str, name: str) -> str:
    """Return text in an area that scrolls, also with the arrow keys."""
    lines = "\n".join(display.escape(line, 2000, 0) for line in text.split("\n"))
    return f'<pre tabindex="0" role="region" aria-label="content of {display.escape(name, 120, 0)}">{lines}</pre>'


def _data_table(headers: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of data, whose columns stay aligned on narrow pages."""

    def cells(tag: str, values: Iterable[object]) -> str:
        return "".join(f"<{tag}>{display.escape(value, _VALUE)}</{tag}>" for value in values)

    head = f"<thead><tr>{cells('th', headers)}</tr></thead>"
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="ocikit-grid" tabindex="0" role="region" aria-label="first rows"><table>{head}<tbody>{body}</tbody></table></div>'


def _note(text: str) -> str:
    return f"<div><small>{display.escape(text, 200)}</small></div>"


# Pictures


def _picture_format(name: str, head: bytes, text: str | None) -> str:
    """Return the format of a picture by its first bytes, or ""."""
    for signature, kind in _PICTURES.items():
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return "svg" if text is not None and name.lower().endswith(".svg") and "<svg" in text else ""


def _picture(name: str, kind: str, head: bytes, size: int) -> str:
    if len(head) < size:
        return _caption(name, f"{kind.upper()} picture of {display.size(size)}, too large for a preview")
    pixels = 0
    summary = f"{kind.upper()} picture"
    if kind != "svg":
        with contextlib.suppress(OcikitError):
            found = describe(name, size, _ranges(head), media_type=f"image/{kind}")
            height, width = found.shape or (0, 0)
            pixels = height * width
            summary = f"{summary}, {width:,} \N{MULTIPLICATION SIGN} {height:,} pixels"
    if pixels > _PIXELS:
        return _caption(name, summary, "too large for a preview")
    media_type = "svg+xml" if kind == "svg" else kind
    data = base64.b64encode(head).decode()
    image = f'<img alt="{display.escape(name, 120, 0)}" src="data:image/{media_type};base64,{data}">'
    return _caption(name, summary, display.size(size)) + image


def _ranges(head: bytes) -> Callable[[Sequence[tuple[int, int]]], list[bytes]]:
    """Return a function that reads ranges of the first bytes."""

    def read(spans: Sequence[tuple[int, int]]) -> list[bytes]:
        if any(offset + length > len(head) for offset, length in spans):
            raise ContentError("a preview reads the first bytes only")
        return [head[offset : offset + length] for offset, length in spans]

    return read


def _summary(name: str, head: bytes, size: int) -> str:
    """Return what is in a file by its first bytes, such as "csv, 50 rows, 3 columns"."""
    try:
        return describe(name, size, _ranges(head)).summary
    except OcikitError:
        return "table"


# Text


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


def _markdown(text: str) -> str:
    """Return Markdown and the values of its front matter."""
    parts = read_front_matter(text)
    facts = [(key, thaw(value)) for key, value in itertools.islice(parts.data.items(), _FACTS)]
    rows = "".join(
        f"<tr><th>{display.escape(key)}</th><td>{display.escape(_plain(value))}</td></tr>" for key, value in facts
    )
    table = f"<table><tbody>{rows}</tbody></table>" if rows else ""
    return f'{table}<div class="ocikit-text">{display.Markdown(parts.text).html()}</div>'


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _notebook(text: str) -> str:
    """Return the cells of a notebook with the text of their outputs, or "" if it is not a notebook."""
    try:
        cells = json.loads(text)["cells"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    if not isinstance(cells, list):
        return ""
    shown = "".join(_notebook_cell(cell) for cell in cells[:_CELLS] if isinstance(cell, dict))
    more = len(cells) - _CELLS
    return shown + (_note(f"… {display.pluralize(more, 'more cell')}") if more > 0 else "")


def _notebook_cell(cell: Mapping[str, Any]) -> str:
    source = _joined(cell.get("source"))
    if cell.get("cell_type") == "markdown":
        return f'<div class="ocikit-text">{display.Markdown(source[:_OUTPUT]).html()}</div>'
    outputs = cell.get("outputs")
    texts = [_output(item) for item in outputs if isinstance(item, dict)] if isinstance(outputs, list) else []
    blocks = [("ocikit-in", source), *(("ocikit-out", text) for text in texts if text.strip())]
    return "".join(f'<pre class="{name}">{_lines(text)}</pre>' for name, text in blocks)


def _output(output: Mapping[str, Any]) -> str:
    """Return the text of an output of a cell."""
    data = output.get("data")
    if isinstance(data, dict):
        return _joined(data.get("text/plain"))
    if "traceback" in output:
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    return _joined(output.get("text"))


def _joined(text: object) -> str:
    """Return the text of a cell, which is a string or a list of lines."""
    if isinstance(text, list):
        return "".join(part for part in text if isinstance(part, str))
    return text if isinstance(text, str) else ""


def _lines(text: str) -> str:
    short = display.sanitize(text[:_OUTPUT], newlines=True)
    return "\n".join(display.escape(line, 2000, 0) for line in short.split("\n")) + (
        "\n…" if len(text) > _OUTPUT else ""
    )


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


# Tables


def _csv(text: str, delimiter: str, *, whole: bool) -> str:
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
    note = _note(f"… {display.pluralize(more, 'more line')}{or_more}") if more > 0 else ""
    return _data_table(rows[0][:_COLUMNS], [row[:_COLUMNS] for row in rows[1:]]) + note


def _parquet_rows(file: File, *, verified: bool) -> str:
    """Return the first rows of a Parquet file, or why they are not shown."""
    try:
        with file.open() as stream:
            found = read_rows(stream, rows=_ROWS, columns=_COLUMNS)
    except OcikitError as error:
        return _note(f"rows are not shown: {error.message}")
    if not found.rows:
        return ""
    if not found.columns:
        return _note("rows are not shown: the first row group is too large for a preview")
    shown = _data_table(list(found.columns), zip(*found.columns.values(), strict=True))
    counts = f"the first {min(_ROWS, found.rows):,} of {display.pluralize(found.rows, 'row')}"
    some, every = len(found.columns), len(found.names)
    some_columns = f", {some:,} of {every:,} columns" if some < every else ""
    how = "" if verified else "; not verified, because only parts of the file were read"
    return shown + _note(f"{counts}{some_columns}{how}")
