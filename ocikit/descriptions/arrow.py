"""Arrow IPC: a file ends with its schema and the places of its batches, a stream begins with its schema.

https://arrow.apache.org/docs/format/Columnar.html. pyarrow parses the schema. It counts rows only by reading all batches, so
their headers are read here.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import BATCHES, COLUMNS, FIRST
from ocikit.descriptions.model import Column
from ocikit.errors import ContentError
from ocikit.packages import package

_MAGIC: Final = b"ARROW1"
_BLOCK: Final = struct.Struct("<qixxxxq")  # offset, length of the header, length of the body


def read_arrow(content: Content) -> dict[str, Any]:
    """Return the columns of a file, and its rows if its requests suffice for the headers of its batches.

    Raises:
        ContentError: The file is not an Arrow file, or its footer is too large.
        OcikitError: pyarrow is not installed.
    """
    footer = content.footer(10, _MAGIC)
    package("pyarrow", "reading the footer of an Arrow file")
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - a heavy package
    from pyarrow import ipc  # noqa: PLC0415 - as above

    # Only the footer is parsed. The file begins with its magic number, padded to eight bytes
    schema = ipc.open_file(pa.BufferReader(_MAGIC + b"\0\0" + footer)).schema
    blocks = _blocks(footer)
    for start, length in blocks:
        if not 0 <= start <= start + length <= content.size:
            raise ValueError("an offset outside of the file")
    rows, note = None, ""
    if len(blocks) <= BATCHES and all(length <= FIRST for _, length in blocks):
        content.load(blocks)
        headers = [content.held(*block) for block in blocks]
        if None not in headers:
            rows = sum(_rows(header) for header in headers if header is not None)
    if rows is None:
        note = f"its rows are in {len(blocks):,} batches, whose headers were not read"
    return {
        "kind": "table",
        "rows": rows,
        "columns": _columns(schema),
        "metadata": {"batches": f"{len(blocks):,}"},
        "note": note,
    }


def read_arrow_stream(content: Content) -> dict[str, Any]:
    """Return the columns of a stream. Its rows are known only at its end.

    Raises:
        OcikitError: pyarrow is not installed.
    """
    head = content.head()
    package("pyarrow", "reading the schema of an Arrow stream")
    import pyarrow as pa  # noqa: PLC0415 - a heavy package
    from pyarrow import ipc  # noqa: PLC0415 - as above

    return {"kind": "table", "columns": _columns(ipc.read_schema(pa.BufferReader(head)))}


def _columns(schema: Any) -> tuple[Column, ...]:
    if len(schema) > COLUMNS:
        raise ContentError(
            f"it has {len(schema):,} columns; the limit is {COLUMNS:,}", hint="open the file with pyarrow"
        )
    return tuple(Column(name=str(column.name), type=str(column.type)) for column in schema)


def _blocks(footer: bytes) -> list[tuple[int, int]]:
    """Return the offset and length of the header of each batch: `recordBatches` of the table `Footer` in File.fbs."""
    place = _field(footer, *struct.unpack_from("<I", footer), index=3)
    if place is None:
        return []
    vector = place + struct.unpack_from("<I", footer, place)[0]
    (count,) = struct.unpack_from("<I", footer, vector)
    if vector + 4 + count * _BLOCK.size > len(footer):
        raise ValueError("more batches than the footer has")
    return [_BLOCK.unpack_from(footer, vector + 4 + i * _BLOCK.size)[:2] for i in range(count)]


def _rows(header: bytes) -> int:
    """Return the length of a batch: `header.length` of the table `Message` in Message.fbs, after its length."""
    start = 8 if header[:4] == b"\xff" * 4 else 4  # files of Arrow before 0.15 have no continuation marker
    root = start + struct.unpack_from("<I", header, start)[0]
    place = _field(header, root, index=2)
    if place is None:
        raise ValueError("a batch without a header")
    batch = place + struct.unpack_from("<I", header, place)[0]
    length = _field(header, batch, index=0)
    (rows,) = (0,) if length is None else struct.unpack_from("<q", header, length)
    if rows < 0:
        raise ValueError("a batch with a negative number of rows")
    return int(rows)


def _field(content: bytes, table: int, *, index: int) -> int | None:
    """Return the position of a field of a FlatBuffers table; None if it has its default value."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    if not 0 <= vtable < len(content):
        raise ValueError("an offset outside of the document")
    (size,) = struct.unpack_from("<H", content, vtable)
    place = 4 + 2 * index
    offset = struct.unpack_from("<H", content, vtable + place)[0] if place < size else 0
    return table + int(offset) if offset else None
