"""What a description has: columns, tensors, members and facts of a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, TypeAlias

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.spec.annotations import FrozenMap

#: What a file is, for a person.
Kind: TypeAlias = Literal["table", "tensors", "array", "archive", "store", "picture", "text", "binary"]

_SHOWN = 200  # characters of a value in a card


@frozen(kw_only=True)
class Column:
    """A column of a table.

    >>> from ocikit.descriptions.model import Column
    >>> Column(name="x", type="double", nulls=0).type
    'double'
    """

    name: str
    type: str
    nulls: int | None = None
    """Number of missing values, as the writer of the file states it; None if it is unknown."""
    min: str | None = None
    """The least value, as the writer of the file states it; None if it is unknown."""
    max: str | None = None
    """The greatest value, likewise."""


@frozen(kw_only=True)
class Tensor:
    """A named array in a file.

    >>> from ocikit.descriptions.model import Tensor
    >>> Tensor(dtype="F32", shape=(2, 3)).shape
    (2, 3)
    """

    dtype: str = ""
    """The type of the elements, as the format calls it; "" if it was not read."""
    shape: tuple[int, ...] | None = None
    """The dimensions in the order of the file; those of GGUF begin with the one whose elements are adjacent."""
    size: int | None = None
    """Bytes in the file; None for a type of unknown size."""
    offset: int | None = None
    """Where its bytes begin in the file; None if they are compressed, or if it was not read."""
    file: str = ""
    """The file that has it, if it is not the described one."""

    @property
    def elements(self) -> int | None:
        """The number of elements; None if the shape is unknown."""
        return None if self.shape is None else math.prod(self.shape)


@frozen(kw_only=True)
class Entry:
    """A member of an archive.

    >>> from ocikit.descriptions.model import Entry
    >>> Entry(name="waves/sine.csv", size=1200, packed=300).name
    'waves/sine.csv'
    """

    name: str
    size: int
    """Bytes, as the archive states them."""
    packed: int
    """Bytes in the archive."""


def _tensors(items: Mapping[str, Tensor]) -> FrozenMap[Tensor]:
    return FrozenMap(items)


def _texts(items: Mapping[str, str]) -> FrozenMap[str]:
    return FrozenMap(items)


@frozen(kw_only=True, repr=False)
class Description(display.Displayable):
    """What is in a file, read from a few of its bytes.

    All of it is what the file states about itself. Parts of a file cannot be verified, because a digest is that of the
    whole file: see `verified`.

    >>> artifact = ocikit.push("oci:waves:v1", {"waves.jsonl": b'{"x": 0, "y": 1.5}'})
    >>> description = ocikit.describe("oci:waves:v1", "waves.jsonl")
    >>> description.kind, [(column.name, column.type) for column in description.columns]
    ('table', [('x', 'integer'), ('y', 'number')])
    """

    name: str
    """The name of the file."""
    kind: Kind
    """What it is."""
    format: str
    """Its format by its content, such as "parquet"; its name decides only if the content does not."""
    size: int
    """Size in bytes."""
    rows: int | None = None
    """The number of rows of a table; None if it is unknown."""
    approximate: bool = False
    """Whether `rows` is an estimate."""
    columns: tuple[Column, ...] = ()
    """The columns of a table."""
    tensors: Mapping[str, Tensor] = field(factory=dict, converter=_tensors)
    """Tensors by name, in the order of the file."""
    dtype: str = ""
    """The type of the elements of an array; the colors of a picture."""
    shape: tuple[int, ...] | None = None
    """The dimensions of an array; height and width of a picture."""
    entries: tuple[Entry, ...] = ()
    """The members of an archive."""
    metadata: Mapping[str, str] = field(factory=dict, converter=_texts)
    """Further facts of the file as text, such as the metadata of safetensors and the key-value pairs of GGUF."""
    runs_code: bool = False
    """Whether opening the file runs code of its publisher, as with pickles. Such a file is recognised, not parsed."""
    note: str = ""
    """What was not read, or that the name is that of another format."""
    bytes_read: int = 0
    """Bytes that were requested."""
    requests: int = 0
    """Ranges that were requested."""
    verified: bool = False
    """Whether the description is of verified content. Only small files are read whole."""

    @property
    def parameters(self) -> int | None:
        """The number of elements of all tensors; None without tensors or with one of unknown shape."""
        counts = [tensor.elements for tensor in self.tensors.values()]
        return sum(count for count in counts if count is not None) if counts and None not in counts else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON. What is unknown or empty is absent.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> description = ocikit.describe("oci:waves:v1", "note.txt").to_dict()
        >>> description["name"], description["kind"], description["size"]
        ('note.txt', 'text', 5)
        """
        value: dict[str, Any] = {"name": self.name, "kind": self.kind, "format": self.format, "size": self.size}
        value |= {"rows": self.rows, "approximate": self.approximate or None, "dtype": self.dtype}
        value |= {"shape": self.shape, "parameters": self.parameters}
        value["columns"] = [_without_none(column) for column in self.columns]
        value["tensors"] = {name: _without_none(tensor) for name, tensor in self.tensors.items()}
        value["entries"] = [_without_none(entry) for entry in self.entries]
        value |= {"metadata": dict(self.metadata), "runs_code": self.runs_code or None, "note": self.note}
        value = {key: item for key, item in value.items() if item is not None and item not in ("", [], {})}
        return value | {"bytes_read": self.bytes_read, "requests": self.requests, "verified": self.verified}

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict()` as JSON.

        Args:
            indent: Spaces of each level; None writes one line.

        >>> import json
        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> json.loads(ocikit.describe("oci:waves:v1", "note.txt").to_json())["format"]
        'text'
        """
        return json.dumps(self.to_dict(), indent=indent)

    def to_text(self) -> str:
        """Return the facts, and a line for each column, tensor and member, as the command line prints them.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> print(ocikit.describe("oci:waves:v1", "note.txt").to_text())
        note.txt: text
        5 B, read 5 B
        <BLANKLINE>
        metadata (2)
        key       value
        encoding  UTF-8
        lines     1
        """
        lines = [str(self), f"{display.size(self.size)}, read {display.size(self.bytes_read)}"]
        lines += [f"note: {self.note}"] if self.note else []
        for section in self._sections():
            rows = [[display.shorten(cell, display.CELL) for cell in row] for row in section.rows]
            widths = [max(map(len, cells)) for cells in zip(section.headers, *rows, strict=True)]
            lines.append(f"\n{section.title} ({section.total:,})")
            lines += [
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                for row in [section.headers, *rows]
            ]
            if section.total > section.shown:
                lines.append(f"\N{HORIZONTAL ELLIPSIS} {section.total - section.shown:,} more")
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """One line without the name, such as "parquet, 500,000 rows, 14 columns"."""
        return ", ".join(
            [display.shorten(self.format, _SHOWN), *(f"{value} {name}".strip() for name, value in self._counts())]
        )

    def _counts(self) -> Iterator[tuple[str, str]]:
        """Yield noun and number of what the file has."""
        if self.rows is not None:
            yield ("row" if self.rows == 1 else "rows"), f"{'about ' if self.approximate else ''}{self.rows:,}"
        if self.columns:
            yield _count(self.columns, "column")
        if self.tensors:
            yield _count(self.tensors, "tensor")
        if self.parameters is not None:
            yield "parameters", _magnitude(self.parameters)
        if self.dtype:
            yield "", display.shorten(self.dtype, display.CELL)
        if self.shape is not None and self.kind == "picture":
            yield "pixels", _shape(self.shape[::-1])
        elif self.shape is not None:
            yield "", _shape(self.shape) or "one value"
        if "members" in self.metadata:
            yield ("member" if self.metadata["members"] == "1" else "members"), self.metadata["members"]
        if self.runs_code:
            yield "", "opening it runs code"

    def __str__(self) -> str:
        return f"{display.sanitize(self.name)}: {self.summary}"

    def __rich_repr__(self) -> display.Description:
        yield "name", self.name
        yield "format", self.format
        yield "size", display.Size(self.size)
        yield "rows", self.rows, None
        yield "columns", len(self.columns), 0
        yield "tensors", len(self.tensors), 0
        yield "parameters", self.parameters, None
        yield "dtype", self.dtype, ""
        yield "shape", self.shape, None
        yield "runs_code", self.runs_code, False

    def _card_title(self) -> object:
        return display.Name.of_path(self.name)

    def _card_notes(self) -> Iterator[object]:
        yield self.format
        yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "content", self.summary
        if self.runs_code:
            yield "warning", "opening it runs code of its publisher: only open files of people you trust"
        if self.note:
            yield "note", self.note
        how = ", verified" if self.verified else ""
        if self.bytes_read < self.size:
            how = ", not verified, because only parts of it were read"
        yield "read", f"{display.size(self.bytes_read)} by {display.pluralize(self.requests, 'request')}{how}"

    def _sections(self) -> Iterator[display.Section]:
        if self.columns:
            yield _column_section(self.columns)
        if self.tensors:
            yield _tensor_section(self.tensors)
        if self.entries:
            rows = ((entry.name, display.Size(entry.size), display.Size(entry.packed)) for entry in self.entries)
            headers = ("name", "size", "packed")
            yield display.Section(title="members", headers=headers, rows=rows, count=len(self.entries))
        if self.metadata:
            pairs = ((key, display.shorten(value, _SHOWN)) for key, value in self.metadata.items())
            yield display.Section(title="metadata", headers=("key", "value"), rows=pairs, count=len(self.metadata))


def _column_section(columns: Iterable[Column]) -> display.Section:
    columns = tuple(columns)
    stated = any(column.min is not None or column.nulls is not None for column in columns)

    def row(column: Column) -> tuple[object, ...]:
        start = (column.name, column.type)
        nulls = "" if column.nulls is None else f"{column.nulls:,}"
        return (*start, nulls, column.min or "", column.max or "") if stated else start

    headers = ("name", "type", "nulls", "min", "max") if stated else ("name", "type")
    note = "statistics as the writer of the file states them" if stated else ""
    return display.Section(
        title="columns",
        headers=headers,
        rows=map(row, columns),
        count=len(columns),
        note=note,
        is_data=True,
        unfolded=True,
    )


def _tensor_section(tensors: Mapping[str, Tensor]) -> display.Section:
    apart = any(tensor.file for tensor in tensors.values())

    def row(item: tuple[str, Tensor]) -> tuple[object, ...]:
        name, tensor = item
        shape = "" if tensor.shape is None else _shape(tensor.shape)
        size = "" if tensor.size is None else display.Size(tensor.size)
        return (name, tensor.dtype, shape, size, *([tensor.file] if apart else []))

    headers = ("name", "type", "shape", "size", *(["file"] if apart else []))
    return display.Section(
        title="tensors",
        headers=headers,
        rows=map(row, tensors.items()),
        count=len(tensors),
        is_data=True,
        unfolded=True,
    )


def _without_none(value: Column | Tensor | Entry) -> dict[str, Any]:
    return attrs.asdict(value, filter=lambda _, item: item is not None and item != "", recurse=False)


def _count(items: Mapping[str, object] | tuple[object, ...], one: str) -> tuple[str, str]:
    return (one if len(items) == 1 else f"{one}s"), f"{len(items):,}"


def _shape(shape: tuple[int, ...]) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{length:,}" for length in shape)


def _magnitude(count: int) -> str:
    """Return a number of parameters as people write it.

    >>> _magnitude(950), _magnitude(125_000_000), _magnitude(8_030_261_248)
    ('950', '125.0M', '8.0B')
    """
    if count < 1_000_000:
        return f"{count:,}"
    for limit, unit in ((10**9, "M"), (10**12, "B"), (10**15, "T")):
        if count < limit * 0.99995:
            return f"{count * 1000 / limit:.1f}{unit}"
    return f"{count:.3g}"
