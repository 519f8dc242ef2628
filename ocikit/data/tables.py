"""Columns and row counts of table files, read from their footers.

A Parquet file ends with its schema and the number of rows of each group, an Arrow file with its schema and the places of
its batches. So two small ranges describe a file of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from attrs import field, frozen

from ocikit import display
from ocikit.descriptions.arrow import read_arrow
from ocikit.descriptions.content import Content, Ranges
from ocikit.descriptions.parquet import read_parquet
from ocikit.errors import ContentError, OcikitError
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.media_types import media_type_of

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
    content = Content(size, ranges, requests=_REQUESTS)
    try:
        facts = read_parquet(content, statistics=False) if kind == "parquet" else read_arrow(content)
    except (OcikitError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises ArrowException, OSError, ValueError, KeyError and others
        raise ContentError(
            f"this is not a valid {kind} file: {display.shorten(error, 200)}",
            hint="read the file with pyarrow to see where it is damaged",
        ) from error
    return Table(columns={column.name: column.type for column in facts["columns"]}, rows=facts["rows"])


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
