"""Columns and row counts of table files, read from their footers.

A Parquet file ends with its schema and the number of rows of each group, an Arrow file with its schema and the places of
its batches. So two small ranges describe a file of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar

from attrs import field, frozen

from ocikit import display
from ocikit.descriptions.arrow import read_arrow
from ocikit.descriptions.content import Content, Ranges
from ocikit.descriptions.model import Column
from ocikit.descriptions.parquet import read_parquet
from ocikit.errors import ContentError, OcikitError
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.media_types import media_type_of

T = TypeVar("T")

#: The formats of table files with a footer.
TableFormat: TypeAlias = Literal["parquet", "arrow"]

_FORMATS: Final[Mapping[str, TableFormat]] = {
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.apache.arrow.file": "arrow",
}

_REQUESTS = 17  # the end of an Arrow file, and the headers of 16 batches that are far from each other
_SHOWN = 5  # columns in a summary


def _texts(items: Mapping[str, str]) -> FrozenMap[str]:
    return FrozenMap(items)


def _pairs(items: Mapping[str, tuple[str, str]]) -> FrozenMap[tuple[str, str]]:
    return FrozenMap(items)


def _columns(items: Mapping[str, Column]) -> FrozenMap[Column]:
    return FrozenMap(items)


def _stated(items: Mapping[str, StatedChange]) -> FrozenMap[StatedChange]:
    return FrozenMap(items)


@frozen(kw_only=True)
class Table:
    """The columns and the number of rows of a table file."""

    columns: Mapping[str, str] = field(converter=_texts)
    """Types by name, in the order of the file."""
    rows: int | None = None
    """None if the footer does not have it."""
    stated: Mapping[str, Column] = field(factory=dict, converter=_columns)
    """What the writer of the file states about the values of columns, by name. Nothing checks it."""


@frozen(kw_only=True)
class StatedChange:
    """What writers of two versions state about the values of a column; None where that is the same, or unknown."""

    nulls: tuple[int, int] | None = None
    """Numbers of missing values, before and after."""
    min: tuple[str, str] | None = None
    """Least values, likewise."""
    max: tuple[str, str] | None = None
    """Greatest values, likewise."""

    def __bool__(self) -> bool:
        return (self.nulls, self.min, self.max) != (None, None, None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: for each statistic that differs, an object with `old` and `new`."""
        pairs = {"nulls": self.nulls, "min": self.min, "max": self.max}
        return {name: {"old": pair[0], "new": pair[1]} for name, pair in pairs.items() if pair is not None}

    def __str__(self) -> str:
        pairs = {"nulls": self.nulls, "min": self.min, "max": self.max}
        return ", ".join(
            f"{name} {pair[0]} \N{RIGHTWARDS ARROW} {pair[1]}" for name, pair in pairs.items() if pair is not None
        )


@frozen(kw_only=True, repr=False)
class TableChange(display.Displayable):
    """What differs between two versions of a table.

    >>> from ocikit.data.tables import TableChange
    >>> change = TableChange(added={"z": "double"}, rows=(100, 120))
    >>> dict(change.added), change.rows
    ({'z': 'double'}, (100, 120))
    """

    added: Mapping[str, str] = field(factory=dict, converter=_texts)
    """Types of new columns by name."""
    removed: Mapping[str, str] = field(factory=dict, converter=_texts)
    """Types by name of columns that only the first version has."""
    retyped: Mapping[str, tuple[str, str]] = field(factory=dict, converter=_pairs)
    """Types before and after of columns by name."""
    rows: tuple[int | None, int | None] = (None, None)
    """Numbers of rows before and after; None if a footer does not have it."""
    stated: Mapping[str, StatedChange] = field(factory=dict, converter=_stated)
    """What the writers of the files state about columns, where it differs, by name. Nothing checks it."""
    problem: str = ""
    """Why the tables could not be compared."""

    def __str__(self) -> str:
        if self.problem:
            return display.sanitize(self.problem)
        parts = [f"+ {name}: {kind}" for name, kind in self.added.items()]
        parts += [f"\N{MINUS SIGN} {name}" for name in self.removed]
        parts += [f"~ {name}: {old} \N{RIGHTWARDS ARROW} {new}" for name, (old, new) in self.retyped.items()]
        texts = [display.join_limited(parts, _SHOWN)] if parts else []
        before, after = self.rows
        if before is not None and after is not None:
            texts.append(f"{after:,} rows" if before == after else f"{before:,} \N{RIGHTWARDS ARROW} {after:,} rows")
        elif not texts:
            texts = ["the same columns"]
        if self.stated:
            stated = display.join_limited([f"{name} {change}" for name, change in self.stated.items()], _SHOWN)
            texts.append(f"stated by the writer: {stated}")
        return "; ".join(texts)

    def __rich_repr__(self) -> display.Description:
        yield "added", dict(self.added), {}
        yield "removed", dict(self.removed), {}
        yield "retyped", dict(self.retyped), {}
        yield "rows", self.rows, (None, None)
        yield "stated", {name: str(change) for name, change in self.stated.items()}, {}
        yield "problem", self.problem, ""


def table_format(name: str, media_type: str = "") -> TableFormat | None:
    """Return the format of a table file by its media type or the suffix of its name; None for other files.

    >>> table_format("a.parquet"), table_format("a", "application/vnd.apache.arrow.file"), table_format("a.csv")
    ('parquet', 'arrow', None)
    """
    return _FORMATS.get(media_type) or _FORMATS.get(media_type_of(name))


def read_table(kind: TableFormat, size: int, ranges: Ranges) -> Table:
    """Return the columns and the number of rows of a table file.

    One range of at most 64 KiB is read from the end of the file. The rest of a larger footer is a second range. The rows of
    an Arrow file are counted by one small range for each batch, up to 16 batches.

    Args:
        kind: The format of the file.
        size: Size of the file, in bytes.
        ranges: Reads parts of the file. Its errors are raised as they are.

    Raises:
        ContentError: The file does not have this format, or its footer is larger than 16 MiB.
        OcikitError: pyarrow is not installed.
    """
    content = Content(size, ranges, requests=_REQUESTS)
    try:
        facts = read_parquet(content) if kind == "parquet" else read_arrow(content)
    except (OcikitError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises ArrowException, OSError, ValueError, KeyError and others
        raise ContentError(
            f"this is not a valid {kind} file: {display.shorten(error, 200)}",
            hint="read the file with pyarrow to see where it is damaged",
        ) from error
    columns: tuple[Column, ...] = facts["columns"]
    return Table(
        columns={column.name: column.type for column in columns},
        rows=facts["rows"],
        stated={column.name: column for column in columns if (column.nulls, column.min) != (None, None)},
    )


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
        stated={
            name: change
            for name, column in before.stated.items()
            if name in after.stated and (change := _compare_stated(column, after.stated[name]))
        },
    )


def _compare_stated(before: Column, after: Column) -> StatedChange:
    def pair(old: T | None, new: T | None) -> tuple[T, T] | None:
        return None if old is None or new is None or old == new else (old, new)

    return StatedChange(
        nulls=pair(before.nulls, after.nulls), min=pair(before.min, after.min), max=pair(before.max, after.max)
    )
