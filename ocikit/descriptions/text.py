"""Text: tables, JSON and other text by their first bytes. Types are inferred from the first lines.

`csv.Sniffer` is not used: its regular expressions need hours for some text (DoS).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from ocikit import display
from ocikit.descriptions.limits import COLUMNS, LINES
from ocikit.descriptions.model import Column
from ocikit.errors import ContentError

_DELIMITERS: Final = ",;\t|"
_INTEGER: Final = re.compile(r"[+-]?\d{1,300}")
_JSON_TYPES: Final[Mapping[type, str]] = {
    dict: "object", list: "array", str: "text", int: "integer", float: "number", bool: "boolean", type(None): "null",
}  # fmt: skip
_SAMPLE = 20  # lines that the delimiter is chosen by
_NAMES = 20  # keys of an object that are listed


def decode(head: bytes, size: int | None) -> tuple[str, str] | None:
    """Return text and the name of its encoding; None for bytes that are not text.

    Args:
        head: The first bytes of a file.
        size: Size of the file, in bytes; None if it is unknown. The last character of a part may be incomplete.
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head[: len(head) & ~1].decode("utf-16", "replace"), "UTF-16"
    if b"\0" in head:
        return None
    whole = size is not None and len(head) >= size
    for cut in range(1 if whole else 4):
        try:
            return head[: len(head) - cut].decode("utf-8-sig"), "UTF-8"
        except UnicodeDecodeError:
            continue
    return None


def read_csv(head: bytes, size: int | None, *, delimiter: str = "") -> dict[str, Any]:
    """Return the columns of a table of text, and its rows, which are estimated if only a part was read.

    Args:
        head: The first bytes of the file.
        size: Size of the file, in bytes; None if it is unknown.
        delimiter: Between values; "" chooses the most likely one.

    Raises:
        ContentError: The bytes are not text.
    """
    text, encoding = _decoded(head, size)
    lines, whole = _complete_lines(text, len(head), size)
    delimiter = delimiter or _delimiter(lines)
    try:
        rows = [row for row in csv.reader(io.StringIO("".join(lines)), delimiter=delimiter) if row]
    except csv.Error as error:
        raise ContentError(f"it cannot be split into values: {error}", hint="read the file as text") from error
    if not rows:
        return {"kind": "table", "rows": 0 if whole else None, "metadata": {"encoding": encoding}}
    names = rows[0] if _is_header(rows[0]) else [f"column {i + 1}" for i in range(len(rows[0]))]
    body = rows[1:] if names is rows[0] else rows
    if len(names) > COLUMNS:
        raise ContentError(f"it has {len(names):,} columns; the limit is {COLUMNS:,}", hint="read the file as text")
    columns = tuple(_column(name, i, body, whole=whole) for i, name in enumerate(names))
    shown = {"\t": "tab", ";": "semicolon", "|": "bar"}.get(delimiter, "comma")
    facts: dict[str, Any] = {
        "kind": "table",
        "columns": columns,
        "metadata": {"delimiter": shown, "encoding": encoding},
    }
    return facts | _row_count(len(body), lines, size, whole=whole)


def read_json_lines(head: bytes, size: int | None) -> dict[str, Any]:
    """Return the keys of objects, one a line, and the rows, which are estimated if only a part was read.

    Raises:
        ContentError: One of the first lines is not JSON.
    """
    text, encoding = _decoded(head, size)
    lines, whole = _complete_lines(text, len(head), size)
    lines = [line for line in lines if line.strip()]
    if not lines and text.strip():
        return {
            "kind": "table",
            "note": "its first line is longer than what was read",
            "metadata": {"encoding": encoding},
        }
    types: dict[str, set[str]] = {}
    for number, line in enumerate(lines[:LINES], 1):
        value = _json(line, f"line {number}")
        for key, item in value.items() if isinstance(value, dict) else [("(value)", value)]:
            if len(types) < COLUMNS or key in types:
                types.setdefault(key, set()).add(_JSON_TYPES[type(item)])
    columns = tuple(Column(name=key, type=" or ".join(sorted(found))) for key, found in types.items())
    facts: dict[str, Any] = {"kind": "table", "columns": columns, "metadata": {"encoding": encoding}}
    return facts | _row_count(len(lines), lines, size, whole=whole)


def read_json(head: bytes, size: int | None) -> dict[str, Any]:
    """Return what a JSON document is at its top level.

    Raises:
        ContentError: The document is not JSON.
    """
    text, _ = _decoded(head, size)
    if size is None or len(head) < size:
        if text.lstrip()[:1] not in {"{", "["}:
            raise ContentError("it does not begin with { or [", hint="read the file as text")
        return {"kind": "text", "note": "it is larger than what was read, so it was not parsed"}
    value = _json(text, "the document")
    if isinstance(value, dict):
        if isinstance(value.get("cells"), list) and "nbformat" in value:
            return _notebook(value)
        keys = display.join_limited(value, _NAMES)
        return {"kind": "text", "metadata": {"type": f"object of {display.pluralize(len(value), 'key')}", "keys": keys}}
    if isinstance(value, list):
        found = " or ".join(sorted({_JSON_TYPES[type(item)] for item in value}))
        return {"kind": "text", "rows": len(value), "metadata": {"type": f"array of {found or 'nothing'}"}}
    return {"kind": "text", "metadata": {"type": _JSON_TYPES[type(value)]}}


def read_text(head: bytes, size: int | None) -> dict[str, Any]:
    """Return the encoding of text, and its number of lines if it was read whole.

    Raises:
        ContentError: The bytes are not text.
    """
    text, encoding = _decoded(head, size)
    facts = {"encoding": encoding}
    if size is not None and len(head) >= size:
        facts["lines"] = f"{len(text.splitlines()):,}"
    return {"kind": "text", "metadata": facts}


def _decoded(head: bytes, size: int | None) -> tuple[str, str]:
    found = decode(head, size)
    if found is not None:
        return found
    if b"\0" in head:
        raise ContentError("it is not text", hint="its name or media type is that of text, but its content is binary")
    return head.decode("latin-1"), "unknown, not UTF-8"


def _complete_lines(text: str, read: int, size: int | None) -> tuple[list[str], bool]:
    """Return the complete lines of text with their ends, and whether they are all of the file."""
    lines = text.splitlines(keepends=True) if "\r" in text else text.split("\n")
    if "\r" not in text:
        lines = [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    if size is not None and read >= size:
        return lines, True
    return lines[:-1], False


def _delimiter(lines: Sequence[str]) -> str:
    """Return the delimiter that splits the first lines into the same number of values, at least two."""
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        try:
            rows = [row for row in csv.reader(lines[:_SAMPLE], delimiter=delimiter) if row]
        except csv.Error:
            continue
        widths = {len(row) for row in rows}
        if len(widths) == 1 and (width := widths.pop()) > max(1, most):
            best, most = delimiter, width
    if most == 0 and lines:  # no delimiter fits all lines
        best = max(_DELIMITERS, key=lines[0].count)
    return best


def _is_header(row: Sequence[str]) -> bool:
    """Return True if a first row has names: distinct, not empty, and none of them a number."""
    return len(set(row)) == len(row) and all(cell.strip() and _value_type(cell) == "text" for cell in row)


def _column(name: str, i: int, rows: Sequence[Sequence[str]], *, whole: bool) -> Column:
    values = [row[i].strip() if i < len(row) else "" for row in rows]
    found = {_value_type(value) for value in values[:LINES] if value}
    if found == {"integer", "number"}:
        found = {"number"}
    return Column(
        name=display.shorten(name, display.CELL),
        type=found.pop() if len(found) == 1 else "text",
        nulls=sum(not value for value in values) if whole else None,
    )


def _value_type(value: str) -> str:
    if _INTEGER.fullmatch(value):
        return "integer"
    if value.lower() in {"true", "false"}:
        return "boolean"
    if "_" not in value and len(value) < 400:
        try:
            number = float(value)
        except ValueError:
            pass
        else:
            return "number" if math.isfinite(number) or value.lower() in {"nan", "inf", "-inf"} else "text"
    if 8 <= len(value) <= 40 and value[:4].isdecimal():
        try:
            datetime.fromisoformat(value)
        except ValueError:
            return "text"
        return "date" if len(value) <= 10 else "time"
    return "text"


def _row_count(rows: int, lines: Sequence[str], size: int | None, *, whole: bool) -> dict[str, Any]:
    if whole:
        return {"rows": rows}
    read = sum(len(line.encode("utf-8", "replace")) for line in lines)
    if size is None or not read or not rows:
        return {}
    estimate = round(size / read * rows)
    return {"rows": round(estimate, 2 - len(str(estimate))), "approximate": True}


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ContentError(
            f"{what} is not JSON: {display.shorten(error, 160)}",
            hint="read the file as text to see where it is damaged",
        ) from error


def _notebook(value: Mapping[str, Any]) -> dict[str, Any]:
    kinds = [cell.get("cell_type") for cell in value["cells"] if isinstance(cell, dict)]
    facts = {"cells": f"{len(kinds):,}", "code cells": f"{kinds.count('code'):,}"}
    metadata = value.get("metadata")
    kernel = metadata.get("kernelspec") if isinstance(metadata, dict) else None
    if isinstance(kernel, dict) and isinstance(kernel.get("display_name"), str):
        facts["kernel"] = display.shorten(kernel["display_name"], display.CELL)
    return {"kind": "text", "format": "notebook", "metadata": facts}
