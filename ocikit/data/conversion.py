"""Tables and values from files on disk, and back to files, for the command line.

The formats of files on disk are those that other programs write: CSV and JSON lines, too, which `ocikit.save` does not write,
because they do not keep the types of columns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

from ocikit import display
from ocikit.errors import ContentError, InvalidArgument, InvalidDocument
from ocikit.packages import package
from ocikit.store.files import atomic_writer, check_regular_file


def _read_csv(path: Path) -> Any:
    csv = package("pyarrow.csv", "a table as CSV")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    return csv.read_csv(str(path), parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))


def _read_lines(path: Path) -> Any:
    return package("pyarrow.json", "a table as JSON lines").read_json(str(path))


def _read_parquet(path: Path) -> Any:
    return package("pyarrow.parquet", "a table as Parquet").read_table(str(path), partitioning=None)


def _read_arrow(path: Path) -> Any:
    return package("pyarrow", "a table as Arrow").ipc.open_file(str(path)).read_all()


def _read_value(path: Path) -> Any:
    return json.loads(path.read_bytes())


_READERS: Final[Mapping[str, Callable[[Path], Any]]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
    ".json": _read_value,
}


def _write_csv(table: Any, file: BinaryIO) -> None:
    package("pyarrow.csv", "a table as CSV").write_csv(table, file)


def _write_tsv(table: Any, file: BinaryIO) -> None:
    csv = package("pyarrow.csv", "a table as TSV")
    csv.write_csv(table, file, csv.WriteOptions(delimiter="\t"))


def _write_lines(table: Any, file: BinaryIO) -> None:
    file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows_of(table))


def _write_parquet(table: Any, file: BinaryIO) -> None:
    package("pyarrow.parquet", "a table as Parquet").write_table(table, file, compression="zstd")


def _write_arrow(table: Any, file: BinaryIO) -> None:
    with package("pyarrow", "a table as Arrow").ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def _write_json(value: Any, file: BinaryIO) -> None:
    file.write(json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


_WRITERS: Final[Mapping[str, Callable[[Any, BinaryIO], None]]] = {
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".jsonl": _write_lines,
    ".ndjson": _write_lines,
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
    ".feather": _write_arrow,
    ".json": lambda table, file: _write_json(list(rows_of(table)), file),
}


def read_file(path: Path) -> Any:
    """Return the table of a file as a pyarrow.Table, or the value of a JSON file.

    Args:
        path: The file; the ending of its name is that of its format.

    Raises:
        InvalidArgument: The ending is of another format.
        InvalidDocument: The content has another format.
        ContentError: The file cannot be read.
        OcikitError: pyarrow is not installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InvalidArgument(
            f"{display.display_path(path)} has the format of no table or value",
            hint=f"the name ends with one of {', '.join(_READERS)}; 'edit' and 'push' take any file as it is",
        )
    try:
        check_regular_file(path)
        return reader(path)
    except FileNotFoundError as error:
        raise ContentError(f"there is no file {display.display_path(path)}") from error
    except OSError as error:
        raise ContentError(f"{display.display_path(path)} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"{display.display_path(path)} is invalid: {_cause(error)}") from error


def write_file(value: Any, path: Path) -> None:
    """Write a table or a value to a file in the format that its name ends with. The file appears when it is complete.

    Args:
        value: A pyarrow.Table, or a value for a JSON file.
        path: The file, which is replaced.

    Raises:
        InvalidArgument: The ending is of another format, or the format does not keep the value.
        ContentError: The file cannot be written.
    """
    shown, ending = display.display_path(path), path.suffix.lower()
    if not is_table(value):
        writers: Mapping[str, Callable[[Any, BinaryIO], None]] = {".json": _write_json}
        value = to_plain(value)
    else:
        writers = _WRITERS
    if ending not in writers:
        raise InvalidArgument(
            f"{shown} does not have a format for {'a table' if is_table(value) else 'this object'}",
            hint=f"end the name with {' or '.join(writers)}; 'pull' writes files as they are",
        )
    try:
        with atomic_writer(path, mode=0o666, sync=False) as file:
            writers[ending](value, file)
    except OSError as error:
        raise ContentError(f"cannot write {shown}: {error.strerror or error}") from error
    except ValueError as error:  # those of pyarrow are ValueErrors
        raise InvalidArgument(
            f"{shown} does not keep the table: {_cause(error)}", hint="use .parquet, .arrow or .jsonl"
        ) from error


def is_table(value: object) -> bool:
    """Return True for a pyarrow.Table."""
    return type(value).__module__.partition(".")[0] == "pyarrow" and type(value).__name__ == "Table"


def _cause(error: Exception) -> str:
    return display.shorten(" ".join(str(error).split()), 300)


def part_of(table: Any, columns: Sequence[str], rows: int | None) -> Any:
    """Return some columns and rows of a pyarrow.Table.

    Args:
        table: The table.
        columns: Names of columns; none selects all.
        rows: Number of rows from the start; None for all.

    Raises:
        InvalidArgument: There is no such column.
    """
    for name in columns:
        if name not in table.column_names:
            near = display.nearest(name, table.column_names, 3)
            raise InvalidArgument(
                f"the table has no column {display.quoted(name)}",
                hint=f"its columns: {display.join_limited(near or table.column_names, 5)}",
            )
    return (table.select(list(columns)) if columns else table).slice(0, rows)


def rows_of(table: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a pyarrow.Table as dictionaries of JSON values."""
    for batch in table.to_batches(max_chunksize=1000):
        for row in batch.to_pylist():
            yield to_plain(row)


def to_plain(value: Any) -> Any:
    """Return a JSON value for a value: arrays as lists, times in ISO 8601, bytes and others as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else None  # JSON has neither infinity nor NaN
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(each) for each in value]
    if hasattr(value, "tolist"):  # an array or a number of numpy, a tensor
        return to_plain(value.tolist())
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value)
