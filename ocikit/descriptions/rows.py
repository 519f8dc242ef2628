"""The first rows of a Parquet file, for a preview."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

from attrs import frozen

from ocikit import display
from ocikit.errors import ContentError, OcikitError
from ocikit.packages import package

_PACKED = 4 << 20  # bytes of the first row group that are read
_UNPACKED = 32 << 20  # bytes of them without compression, as the file states it
_LIMIT = 1 << 20  # bytes of a text and items of a list in the footer


@frozen(kw_only=True)
class FirstRows:
    """The first rows of a table, of as many columns as are small enough to be read."""

    columns: Mapping[str, Sequence[Any]]
    """Values by column."""
    rows: int
    """Number of rows of the file."""
    names: Sequence[str]
    """All columns of the file."""


def read_rows(stream: BinaryIO, *, rows: int, columns: int) -> FirstRows:
    """Return the first rows of a Parquet file.

    At most a few MiB of the first row group are read. Columns that do not fit are left out.

    Args:
        stream: The file, seekable.
        rows: Maximum number of rows.
        columns: Maximum number of columns.

    Raises:
        ContentError: The file is damaged.
        OcikitError: pyarrow is not installed.
    """
    package("pyarrow", "reading the rows of a Parquet file")
    from pyarrow import parquet  # type: ignore[import-untyped]  # noqa: PLC0415 - a heavy package

    found: dict[str, list[Any]] = {}
    try:
        file = parquet.ParquetFile(
            stream, thrift_string_size_limit=_LIMIT, thrift_container_size_limit=_LIMIT, pre_buffer=False
        )
        every = [str(name) for name in file.schema_arrow.names]
        if file.num_row_groups:
            names = _small_columns(file.metadata.row_group(0), every)[:columns]
            batches = file.iter_batches(batch_size=rows, row_groups=[0], columns=names, use_threads=False)
            found = next((batch.slice(0, rows).to_pydict() for batch in batches), {}) if names else {}
        return FirstRows(columns=found, rows=file.metadata.num_rows, names=every)
    except OcikitError:
        raise
    except Exception as error:  # pyarrow raises ArrowException, OSError, ValueError, KeyError and others
        raise ContentError(
            f"reading rows failed: {display.shorten(error, 200)}", hint="fetch the file again, or open it with pyarrow"
        ) from error


def _small_columns(group: Any, names: Sequence[str]) -> list[str]:
    """Return the first columns that are small enough together."""
    sizes = dict.fromkeys(names, (0, 0))
    for i in range(group.num_columns):
        chunk = group.column(i)
        name = chunk.path_in_schema.partition(".")[0]
        packed, unpacked = sizes.get(name, (0, 0))
        sizes[name] = packed + chunk.total_compressed_size, unpacked + chunk.total_uncompressed_size
    found: list[str] = []
    packed = unpacked = 0
    for name in names:
        if packed + sizes[name][0] <= _PACKED and unpacked + sizes[name][1] <= _UNPACKED:
            packed, unpacked = packed + sizes[name][0], unpacked + sizes[name][1]
            found.append(name)
    return found
