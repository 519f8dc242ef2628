"""Parquet: the file ends with its schema, its row groups and their statistics. pyarrow parses them.

https://parquet.apache.org/docs/file-format
"""

from __future__ import annotations

import contextlib
from typing import Any

from ocikit import display
from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import COLUMNS, STATISTICS
from ocikit.descriptions.model import Column
from ocikit.descriptions.packages import require_pyarrow
from ocikit.errors import ContentError

_VALUE = 80  # characters of a least or greatest value
_STRING = 1 << 20  # bytes of a text in the footer, such as a name
_CONTAINER = 1 << 20  # items of a list in the footer, such as the row groups


def read_parquet(content: Content, *, statistics: bool = True) -> dict[str, Any]:
    """Return columns, rows and facts of a file.

    Args:
        content: The file.
        statistics: Read the least and greatest values of columns, too.

    Raises:
        ContentError: The file is not a Parquet file, or its footer is too large.
        OcikitError: pyarrow is not installed.
    """
    if content.tail().endswith(b"PARE"):
        raise ContentError("its footer is encrypted", hint="open the file with pyarrow and the key")
    raw = content.footer(8, b"PAR1")
    require_pyarrow("reading the footer of a Parquet file")
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - a heavy package
    from pyarrow import parquet  # noqa: PLC0415 - as above

    # Only the footer is parsed, so a file of nothing else is enough
    file = parquet.ParquetFile(
        pa.BufferReader(raw), thrift_string_size_limit=_STRING, thrift_container_size_limit=_CONTAINER
    )
    footer = file.metadata
    if footer.num_rows < 0:
        raise ValueError("a negative number of rows")
    schema = footer.schema.to_arrow_schema()
    names = [(str(column.name), str(column.type)) for column in schema]
    if len(names) > COLUMNS:
        raise ContentError(
            f"it has {len(names):,} columns; the limit is {COLUMNS:,}", hint="open the file with pyarrow"
        )
    found: dict[str, dict[str, Any]] = {}
    if statistics and footer.num_columns * footer.num_row_groups <= STATISTICS:
        found = _statistics(footer)
    facts = {"row groups": f"{footer.num_row_groups:,}", "written by": display.shorten(footer.created_by or "", _VALUE)}
    return {
        "kind": "table",
        "rows": footer.num_rows,
        "columns": tuple(Column(name=name, type=kind, **found.get(name, {})) for name, kind in names),
        "metadata": {key: value for key, value in facts.items() if value},
    }


def _statistics(footer: Any) -> dict[str, dict[str, Any]]:
    """Return the number of missing values, least and greatest value of each column that is not nested."""
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    found = {}
    for j in range(footer.num_columns):
        chunks = [group.column(j) for group in groups]
        if not chunks or footer.schema.column(j).max_repetition_level:
            continue
        path = chunks[0].path_in_schema
        stated = [chunk.statistics for chunk in chunks]
        values: dict[str, Any] = {}
        if all(each is not None and each.has_null_count for each in stated):
            values["nulls"] = sum(each.null_count for each in stated)
        if all(each is not None and each.has_min_max for each in stated):
            # pyarrow cannot convert the statistics of some types. Values of damaged files cannot be compared
            with contextlib.suppress(Exception):
                least, most = min(each.min for each in stated), max(each.max for each in stated)
                values |= {"min": _text(least), "max": _text(most)}
        found[path] = values
    return found


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return display.shorten(value, _VALUE)
