"""Columns and row counts of table files, read from their footers.

A Parquet file ends with its schema and the number of rows of each group, an Arrow file with its schema and the places of
its batches. So two small ranges describe a file of any size. pyarrow parses them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from attrs import field, frozen

from ocikit import display
from ocikit.errors import ContentError, OcikitError
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.media_types import media_type_of

#: The formats of table files with a footer.
TableFormat: TypeAlias = Literal["parquet", "arrow"]

#: Returns parts of a file, given by offset and length [bytes].
Ranges: TypeAlias = Callable[[Sequence[tuple[int, int]]], list[bytes]]

_FORMATS: Final[Mapping[str, TableFormat]] = {
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.apache.arrow.file": "arrow",
}

_TAIL = 64 << 10  # bytes of the first range; pyarrow reads as much, and few footers are larger
_LARGEST = 16 << 20  # bytes of a footer; a larger one would cost more memory than a description is worth
_BATCHES = 16  # of an Arrow file whose rows are counted: each one beyond the tail costs a small range
_BLOCK = struct.Struct("<qixxxxq")  # offset, length of the header, length of the body
_SHOWN = 5  # columns in a summary


def _texts(items: Mapping[str, str]) -> FrozenMap[str]:
    return FrozenMap(items)


def _pairs(items: Mapping[str, tuple[str, str]]) -> FrozenMap[tuple[str, str]]:
    return FrozenMap(items)


@frozen(kw_only=True)
class Table:
    """The columns and the number of rows of a table file."""

    columns: Mapping[str, str] = field(converter=_texts)
    """Types by name, in the order of the file."""
    rows: int | None = None
    """None if the footer does not have it."""


@frozen(kw_only=True, repr=False)
class TableChange(display.Displayable):
    """What differs between two versions of a table."""

    added: Mapping[str, str] = field(factory=dict, converter=_texts)
    """Types of new columns by name."""
    removed: Mapping[str, str] = field(factory=dict, converter=_texts)
    """Types by name of columns that only the first version has."""
    retyped: Mapping[str, tuple[str, str]] = field(factory=dict, converter=_pairs)
    """Types before and after of columns by name."""
    rows: tuple[int | None, int | None] = (None, None)
    """Numbers of rows before and after; None if a footer does not have it."""
    problem: str = ""
    """Why the tables could not be compared."""

    def __str__(self) -> str:
        if self.problem:
            return display.sanitize(self.problem)
        parts = [f"+ {name}: {kind}" for name, kind in self.added.items()]
        parts += [f"\N{MINUS SIGN} {name}" for name in self.removed]
        parts += [f"~ {name}: {old} \N{RIGHTWARDS ARROW} {new}" for name, (old, new) in self.retyped.items()]
        text = display.join_limited(parts, _SHOWN)
        before, after = self.rows
        if before is None or after is None:
            return text or "the same columns"
        rows = f"{after:,} rows" if before == after else f"{before:,} \N{RIGHTWARDS ARROW} {after:,} rows"
        return f"{text}; {rows}" if text else rows

    def __rich_repr__(self) -> display.Description:
        yield "added", dict(self.added), {}
        yield "removed", dict(self.removed), {}
        yield "retyped", dict(self.retyped), {}
        yield "rows", self.rows, (None, None)
        yield "problem", self.problem, ""


def table_format(name: str, media_type: str = "") -> TableFormat | None:
    """Return the format of a table file by its media type or the suffix of its name; None for other files.

    >>> table_format("a.parquet"), table_format("a", "application/vnd.apache.arrow.file"), table_format("a.csv")
    ('parquet', 'arrow', None)
    """
    return _FORMATS.get(media_type) or _FORMATS.get(media_type_of(name))


def require_pyarrow(what: str) -> None:
    """Check that pyarrow is installed.

    Args:
        what: The call that needs it, for the message.

    Raises:
        OcikitError: It is missing.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: F401, PLC0415 - a heavy package without types
    except ImportError as error:
        raise OcikitError(f"{what} needs pyarrow", hint="pip install 'ocikit[data]'") from error


def read_table(kind: TableFormat, size: int, ranges: Ranges) -> Table:
    """Return the columns and the number of rows of a table file.

    One range of at most 64 KiB is read from the end of the file. The rest of a larger footer is a second range. The rows of
    an Arrow file are counted by one small range for each batch, up to 16 batches.

    Args:
        kind: The format of the file.
        size: Of the file, in bytes.
        ranges: Reads parts of the file. Its errors are raised as they are.

    Raises:
        ContentError: The file does not have this format, or its footer is larger than 16 MiB.
        OcikitError: pyarrow is not installed.
    """
    require_pyarrow("reading a table's footer")
    file = _Ending(size, ranges)
    try:
        return _read_parquet(file) if kind == "parquet" else _read_arrow(file)
    except (OcikitError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises ArrowException, OSError, ValueError, KeyError and others
        raise ContentError(
            f"this is not a valid {kind} file: {display.shorten(error, 200)}",
            hint="read the file with pyarrow to see where it is damaged",
        ) from error


def compare_tables(before: Table, after: Table) -> TableChange:
    """Return what differs between two tables."""
    common = before.columns.keys() & after.columns.keys()
    return TableChange(
        added={name: kind for name, kind in after.columns.items() if name not in common},
        removed={name: kind for name, kind in before.columns.items() if name not in common},
        retyped={
            name: (kind, after.columns[name])
            for name, kind in before.columns.items()
            if name in common and kind != after.columns[name]
        },
        rows=(before.rows, after.rows),
    )


def _read_parquet(file: _Ending) -> Table:
    import pyarrow as pa  # noqa: PLC0415 - a heavy package
    from pyarrow import parquet  # noqa: PLC0415 - as above

    # Only the footer is parsed, so a file of nothing else is enough
    footer = parquet.read_metadata(pa.BufferReader(file.footer(8, b"PAR1")))
    return Table(columns=_columns(footer.schema.to_arrow_schema()), rows=footer.num_rows)


def _read_arrow(file: _Ending) -> Table:
    import pyarrow as pa  # noqa: PLC0415 - a heavy package
    from pyarrow import ipc  # noqa: PLC0415 - as above

    footer = file.footer(10, b"ARROW1")
    # Only the footer is parsed. The file begins with its magic number, padded to eight bytes
    schema = ipc.open_file(pa.BufferReader(b"ARROW1\0\0" + footer)).schema
    blocks = _arrow_blocks(footer)
    rows = None
    if len(blocks) <= _BATCHES and all(length <= _TAIL for _, length in blocks):
        rows = sum(map(_arrow_rows, file.parts(blocks)))
    return Table(columns=_columns(schema), rows=rows)


def _columns(schema: Iterable[Any]) -> dict[str, str]:
    return {str(column.name): str(column.type) for column in schema}


def _arrow_blocks(footer: bytes) -> list[tuple[int, int]]:
    """Return the offset and length of the header of each batch: `recordBatches` of the table `Footer` in File.fbs.

    pyarrow counts rows only by reading all batches.
    """
    place = _flatbuffer_field(footer, *struct.unpack_from("<I", footer), index=3)
    if place is None:
        return []
    vector = place + struct.unpack_from("<I", footer, place)[0]
    (count,) = struct.unpack_from("<I", footer, vector)
    if vector + 4 + count * _BLOCK.size > len(footer):
        raise ValueError("more batches than the footer has")
    return [_BLOCK.unpack_from(footer, vector + 4 + i * _BLOCK.size)[:2] for i in range(count)]


def _arrow_rows(header: bytes) -> int:
    """Return the length of a batch: `header.length` of the table `Message` in Message.fbs, after its length."""
    start = 8 if header[:4] == b"\xff" * 4 else 4  # files of Arrow before 0.15 have no continuation marker
    root = start + struct.unpack_from("<I", header, start)[0]
    place = _flatbuffer_field(header, root, index=2)
    if place is None:
        raise ValueError("a batch without a header")
    batch = place + struct.unpack_from("<I", header, place)[0]
    length = _flatbuffer_field(header, batch, index=0)
    (rows,) = (0,) if length is None else struct.unpack_from("<q", header, length)
    if rows < 0:
        raise ValueError("a batch with a negative number of rows")
    return int(rows)


def _flatbuffer_field(content: bytes, table: int, *, index: int) -> int | None:
    """Return the position of a field of a table; None if it has its default value."""
    vtable = table - struct.unpack_from("<i", content, table)[0]
    if not 0 <= vtable < len(content):
        raise ValueError("an offset outside of the document")
    (size,) = struct.unpack_from("<H", content, vtable)
    place = 4 + 2 * index
    offset = struct.unpack_from("<H", content, vtable + place)[0] if place < size else 0
    return table + int(offset) if offset else None


class _Ending:
    """The end of a file, and parts of it that are requested when they are needed.

    Args:
        size: Of the file, in bytes.
        ranges: Reads parts of it.
    """

    def __init__(self, size: int, ranges: Ranges) -> None:
        self._size = size
        self._ranges = ranges
        self._start = max(0, size - _TAIL)
        (self._end,) = ranges([(self._start, size - self._start)]) if size else [b""]
        """The content from `_start` to the end of the file."""

    def footer(self, trailer: int, magic: bytes) -> bytes:
        """Return the footer with its trailer: a length and a magic number.

        Args:
            trailer: Length of the trailer in bytes, which begins with the length of the footer in four bytes.
            magic: The end of the file.

        Raises:
            ContentError: The file has another end, or the footer is too large.
        """
        if len(self._end) < trailer or not self._end.endswith(magic):
            raise ContentError(
                f"the file does not end with {magic.decode()!r}",
                hint="its name or media type is that of a table, but it may be cut short or encrypted",
            )
        length = int.from_bytes(self._end[-trailer : 4 - trailer], "little") + trailer
        if length > min(self._size, _LARGEST):
            raise ContentError(
                f"its footer would have {length:,} bytes; the file has {self._size:,}, and the limit is {_LARGEST:,}",
                hint="open the file with pyarrow",
            )
        if length > len(self._end):
            start = self._size - length
            (more,) = self._ranges([(start, self._start - start)])
            self._start, self._end = start, more + self._end
        return self._end[-length:]

    def parts(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of the file; those that are not at its end are requested together."""
        for start, length in spans:
            if not 0 <= start <= start + length <= self._size:
                raise ValueError("an offset outside of the file")
        missing = [span for span in spans if span[0] < self._start]
        found = dict(zip(missing, self._ranges(missing) if missing else (), strict=True))
        return [
            found[start, length] if start < self._start else self._end[start - self._start :][:length]
            for start, length in spans
        ]
