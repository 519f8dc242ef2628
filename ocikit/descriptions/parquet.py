"""Parquet: the file ends with its schema, its row groups and their statistics. pyarrow parses them.

https://parquet.apache.org/docs/file-format
"""

from __future__ import annotations

import contextlib
import decimal
from typing import Any, Final, Literal

from ocikit import display
from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import COLUMNS, STATISTICS
from ocikit.descriptions.model import Column
from ocikit.descriptions.thrift import parse_struct
from ocikit.errors import ContentError
from ocikit.packages import package

#: Numbers of fields in parquet.thrift.
_ROW_GROUPS = 4
_COLUMNS = 1
_META_DATA, _PATH, _TYPE, _VALUES, _STATISTICS = 3, 3, 1, 5, 12
_NULLS, _MAX, _MIN = 3, 5, 6

#: Bytes of values by their physical type: BOOLEAN, INT32, INT64, INT96, FLOAT, DOUBLE.
_SIZES: Final = {0: 1, 1: 4, 2: 8, 3: 12, 4: 4, 5: 8}
_BYTE_ARRAY = 6
_LONGEST = 1 << 12  # bytes of a value that is shown

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
    package("pyarrow", "reading the footer of a Parquet file")
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
        # A damaged footer, or one whose fields have other types; the rest of it was read
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            found = _statistics(raw, schema)
    facts = {"row groups": f"{footer.num_row_groups:,}", "written by": display.shorten(footer.created_by or "", _VALUE)}
    return {
        "kind": "table",
        "rows": footer.num_rows,
        "columns": tuple(Column(name=name, type=kind, **found.get(name, {})) for name, kind in names),
        "metadata": {key: value for key, value in facts.items() if value},
    }


def _statistics(raw: bytes, schema: Any) -> dict[str, dict[str, Any]]:
    """Return the number of missing values, least and greatest value of each column that is not nested.

    Args:
        raw: The footer with its trailer.
        schema: The schema of Arrow.

    Raises:
        ValueError: The footer is damaged.
    """
    kinds = {str(column.name): column.type for column in schema}
    chunks: dict[str, list[tuple[int, dict[int, Any], bool]]] = {name: [] for name in kinds}
    groups = parse_struct(raw[:-8]).get(_ROW_GROUPS, [])
    for group in groups:
        for chunk in group.get(_COLUMNS, []):
            column = chunk.get(_META_DATA, {})  # an encrypted column has none
            name = b".".join(column.get(_PATH, [])).decode("utf-8", "replace")
            if name in chunks:
                stated = column.get(_STATISTICS, {})
                empty = stated.get(_NULLS) == column.get(_VALUES)  # no value, so neither a least nor a greatest one
                chunks[name].append((column.get(_TYPE, -1), stated, empty))
    found: dict[str, dict[str, Any]] = {}
    for name, parts in chunks.items():
        if not parts or len(parts) != len(groups):
            continue
        values: dict[str, Any] = {}
        if all(isinstance(each.get(_NULLS), int) and each[_NULLS] >= 0 for _, each, _ in parts):
            values["nulls"] = sum(each[_NULLS] for _, each, _ in parts)
        with contextlib.suppress(Exception):  # values of unknown types, and of damaged files
            filled = [(physical, each) for physical, each, empty in parts if not empty]
            least = min(_value(each[_MIN], kinds[name], physical) for physical, each in filled)
            most = max(_value(each[_MAX], kinds[name], physical) for physical, each in filled)
            values |= {"min": _text(least), "max": _text(most)}
        if values:
            found[name] = values
    return found


def _value(raw: bytes, kind: Any, physical: int) -> Any:
    """Return the value of a statistic, in the plain encoding.

    Args:
        raw: The bytes.
        kind: The type in Arrow.
        physical: The type in Parquet.

    Raises:
        ValueError: The value has another size than its type.
    """
    import pyarrow as pa  # noqa: PLC0415 - a heavy package

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if len(raw) > _LONGEST:
        raise ValueError("the value is too long")
    if pa.types.is_decimal(kind):
        order: Literal["little", "big"] = "little" if physical in _SIZES else "big"
        return decimal.Decimal(int.from_bytes(raw, order, signed=True)).scaleb(-kind.scale)
    if physical == _BYTE_ARRAY:
        return raw
    if physical in _SIZES and len(raw) != _SIZES[physical]:
        raise ValueError("the value has another size")
    if pa.types.is_boolean(kind):
        return bool(raw[0])
    width = kind.bit_width // 8
    if physical not in _SIZES and not pa.types.is_float16(kind):
        return raw
    if len(raw) < width:
        raise ValueError("the value is too short")
    return pa.Array.from_buffers(kind, 1, [None, pa.py_buffer(raw[:width])])[0].as_py()


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return display.shorten(value, _VALUE)
