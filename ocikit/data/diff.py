"""What differs between two versions of an artifact, or between an artifact and a folder, without their content."""

from __future__ import annotations

import difflib
import itertools
import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.client.arguments import StrPath, to_patterns
from ocikit.client.artifact import Artifact
from ocikit.client.reader import ContentReader
from ocikit.data.sides import Side, is_folder, read_artifact, read_folder
from ocikit.data.tables import TableChange, TableFormat, compare_tables, read_table, table_format
from ocikit.errors import ContentError, InvalidArgument
from ocikit.packages import package
from ocikit.spec.annotations import TITLE, FrozenMap
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest, PlatformLike
from ocikit.spec.reference import ReferenceLike
from ocikit.transfer.pool import run_parallel

_ARROW = "\N{RIGHTWARDS ARROW}"
_MINUS = "\N{MINUS SIGN}"

_TABLES = 200  # pairs of tables that are compared by footers
_PAIRS = 2_500  # of titles with the same content that are compared with each other
_LONG = 200  # characters of a title that are compared with another; the time grows with the square
_DEPTH = 8  # levels of folders that views sum up; a title may have thousands


@frozen(kw_only=True, repr=False)
class Change(display.Displayable):
    """A file that only one side has, or that differs between them.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> artifact = ocikit.push("oci:waves:v2", {"note.txt": b"hello world"})
    >>> change = ocikit.diff("oci:waves:v1", "oci:waves:v2").changed["note.txt"]
    >>> change.before.size, change.after.size, change.delta
    (5, 11, 6)
    """

    title: str
    before: Descriptor | None = None
    """None for a new file."""
    after: Descriptor | None = None
    """None for a removed file."""
    table: TableChange | None = None
    """What differs in the tables, if they were compared."""

    @property
    def delta(self) -> int:
        """How many bytes the file has grown."""
        return (self.after.size if self.after else 0) - (self.before.size if self.before else 0)

    @property
    def same_content(self) -> bool:
        """Whether only the media type or annotations of the file differ."""
        return self.before is not None and self.after is not None and self.before.digest == self.after.digest

    def __rich_repr__(self) -> display.Description:
        yield "title", self.title
        yield "before", str(self.before) if self.before else None, None
        yield "after", str(self.after) if self.after else None, None
        yield "table", str(self.table) if self.table else None, None


@frozen(kw_only=True, repr=False)
class Rename(display.Displayable):
    """A file with the same content under another title.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> artifact = ocikit.push("oci:waves:v2", {"greeting.txt": b"hello"})
    >>> ocikit.diff("oci:waves:v1", "oci:waves:v2").renamed[0].after
    'greeting.txt'
    """

    before: str
    after: str
    descriptor: Descriptor
    """Of the new title."""

    def __rich_repr__(self) -> display.Description:
        yield "before", self.before
        yield "after", self.after
        yield "size", display.Size(self.descriptor.size)


def _changes(items: Mapping[str, Change]) -> FrozenMap[Change]:
    return FrozenMap(items)


def _pairs(items: Mapping[str, tuple[str | None, str | None]]) -> FrozenMap[tuple[str | None, str | None]]:
    return FrozenMap(items)


@frozen(kw_only=True, repr=False)
class Diff(display.Displayable):
    """What differs between two versions; False if nothing does.

    >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
    >>> artifact = ocikit.push("oci:waves:v2", {"a.txt": b"jello", "b.txt": b""})
    >>> diff = ocikit.diff("oci:waves:v1", "oci:waves:v2")
    >>> list(diff.added), list(diff.changed), bool(diff)
    (['b.txt'], ['a.txt'], True)
    """

    a: str
    """The reference of the first version, pinned by digest."""
    b: str
    """The reference of the second one, or a path."""
    added: Mapping[str, Change] = field(factory=dict, converter=_changes)
    """Files that only `b` has, by title."""
    removed: Mapping[str, Change] = field(factory=dict, converter=_changes)
    """Files that only `a` has, by title."""
    changed: Mapping[str, Change] = field(factory=dict, converter=_changes)
    """Files that differ, by title: in content, or only in media type or annotations."""
    renamed: tuple[Rename, ...] = ()
    """Files with the same content under another title."""
    same: int = 0
    """Number of files that do not differ."""
    annotations: Mapping[str, tuple[str | None, str | None]] = field(factory=dict, converter=_pairs)
    """Annotations of the artifacts that differ, before and after; None where one is missing. A folder has none."""
    config: tuple[Descriptor, Descriptor] | None = None
    """The configs, if they differ."""
    kind: tuple[str, str] | None = None
    """The artifact types, if they differ."""
    bytes_to_fetch: int = 0
    """Bytes of content that only `b` has: what a pull of `b` fetches after one of `a`, or a push of the folder sends."""
    note: str = ""
    """What was not compared."""

    def __bool__(self) -> bool:
        found = (self.added, self.removed, self.changed, self.renamed, self.annotations, self.config, self.kind)
        return any(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values. The keys of files are those of `dvc diff --json`.

        These are `added`, `deleted`, `modified` and `renamed`, each a list of files with `path` and `hash`. Two values
        before and after are an object with `old` and `new`.

        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
        >>> artifact = ocikit.push("oci:waves:v2", {"a.txt": b"jello"})
        >>> [file["path"] for file in ocikit.diff("oci:waves:v1", "oci:waves:v2").to_dict()["modified"]]
        ['a.txt']
        """

        def entry(title: str, descriptor: Descriptor | None) -> dict[str, Any]:
            return {} if descriptor is None else {"path": title, "hash": descriptor.digest, "size": descriptor.size}

        def pair(before: object, after: object) -> dict[str, Any]:
            return {"old": before, "new": after}

        def modified(change: Change) -> dict[str, Any]:
            before, after = change.before, change.after
            if before is None or after is None:
                return {}
            value = {
                "path": change.title,
                "hash": pair(before.digest, after.digest),
                "size": pair(before.size, after.size),
            }
            return value if change.table is None else {**value, "table": _table_values(change.table)}

        value: dict[str, Any] = {
            "a": self.a,
            "b": self.b,
            "added": [entry(title, change.after) for title, change in self.added.items()],
            "deleted": [entry(title, change.before) for title, change in self.removed.items()],
            "modified": [modified(change) for change in self.changed.values()],
            "renamed": [
                {"path": pair(r.before, r.after), "hash": r.descriptor.digest, "size": r.descriptor.size}
                for r in self.renamed
            ],
            "same": self.same,
            "annotations": {key: pair(*values) for key, values in self.annotations.items()},
            "config": None if self.config is None else pair(self.config[0].digest, self.config[1].digest),
            "artifact_type": None if self.kind is None else pair(*self.kind),
            "bytes_to_fetch": self.bytes_to_fetch,
        }
        return {**value, "note": self.note} if self.note else value

    def to_json(self, *, indent: int | None = None) -> str:
        """Return `to_dict()` as JSON.

        Args:
            indent: Spaces of each level; None writes one line.

        >>> import json
        >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
        >>> json.loads(ocikit.diff("oci:waves:v1", "oci:waves:v1").to_json())["added"]
        []
        """
        return json.dumps(self.to_dict(), indent=indent)

    def __str__(self) -> str:
        lines = [self._counts()]
        rows = [[display.shorten(cell, display.CELL) for cell in row] for row in self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows[: display.ROWS], strict=True)]
        for mark, title, size, detail in rows[: display.ROWS]:
            lines.append(f"{mark} {title:{widths[1]}}  {size:>{widths[2]}}  {detail}".rstrip())
        if len(rows) > display.ROWS:
            lines.append(f"\N{HORIZONTAL ELLIPSIS} {len(rows) - display.ROWS:,} more")
        lines += [display.shorten(f"{name}: {value}", display.LINE) for name, value in self._other_facts()]
        for key, (before, after) in itertools.islice(self.annotations.items(), display.ROWS):
            lines.append(display.shorten(f"{key}: {_value(before)} {_ARROW} {_value(after)}", display.LINE))
        return "\n".join(lines)

    def __rich_repr__(self) -> display.Description:
        yield "added", len(self.added), 0
        yield "removed", len(self.removed), 0
        yield "changed", len(self.changed), 0
        yield "renamed", len(self.renamed), 0
        yield "same", self.same
        yield "annotations", len(self.annotations), 0
        yield "config", self.config is not None, False
        yield "bytes_to_fetch", display.Size(self.bytes_to_fetch), 0

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "from", display.Code(self.a)
        yield "to", display.Code(self.b)
        yield "files", self._counts()
        yield from self._other_facts()

    def _other_facts(self) -> Iterator[tuple[str, object]]:
        if self.bytes_to_fetch:
            yield "to fetch", display.Size(self.bytes_to_fetch)
        if self.kind is not None:
            yield "type", f"{self.kind[0]} {_ARROW} {self.kind[1]}"
        if self.config is not None:
            before, after = self.config
            yield "config", f"{before.digest.short} {_ARROW} {after.digest.short}"
        if self.note:
            yield "note", self.note

    def _counts(self) -> str:
        counts = {
            "added": len(self.added),
            "removed": len(self.removed),
            "changed": len(self.changed),
            "renamed": len(self.renamed),
        }
        differing = [f"{count:,} {name}" for name, count in counts.items() if count]
        return ", ".join([*differing, f"{self.same:,} the same"])

    def _sections(self) -> Iterator[display.Section]:
        count = len(self.added) + len(self.removed) + len(self.changed) + len(self.renamed)
        if count:
            rows = self._rows()
            yield display.Section(
                title="changes",
                headers=("", "file", "size", "detail"),
                rows=rows,
                count=len(rows),
                note="" if len(rows) == count else display.pluralize(count, "file"),
                unfolded=True,
            )
        if self.annotations:
            yield display.Section(
                title="annotations",
                headers=("key", "before", "after"),
                rows=((key, _value(before), _value(after)) for key, (before, after) in self.annotations.items()),
                count=len(self.annotations),
                unfolded=True,
            )

    def _rows(self) -> list[tuple[str, str, str, str]]:
        """Return mark, title, size and detail of each change by title. Folders with many changes are one row."""
        rows = [_Row("+", title, change.delta, "") for title, change in self.added.items()]
        rows += [_Row(_MINUS, title, change.delta, "") for title, change in self.removed.items()]
        rows += [_Row("~", title, change.delta, _detail(change)) for title, change in self.changed.items()]
        rows += [_Row(_ARROW, r.after, 0, f"was {r.before}") for r in self.renamed]
        return [(row.mark, row.title, _signed(row.delta), row.detail) for row in _summed_up(rows)]


@frozen
class _Row:
    mark: str
    title: str
    delta: int
    detail: str


def _summed_up(rows: Sequence[_Row]) -> list[_Row]:
    """Return rows by title; a folder that needs more rows than a table shows becomes one row, the deepest ones first."""
    by_folder: dict[tuple[str, ...], list[_Row]] = {}
    for row in rows:
        by_folder.setdefault(tuple(row.title.split("/")[:-1][:_DEPTH]), []).append(row)
    sums: dict[tuple[str, ...], Counter[str]] = {}
    for depth in range(_DEPTH, 0, -1):
        for folder in [folder for folder in by_folder if len(folder) == depth]:
            inner = by_folder.pop(folder)
            if len(inner) > display.ROWS:
                marks: Counter[str] = Counter()
                for row in inner:
                    marks.update(sums.pop(tuple(row.title.split("/")[:-1]), None) or [row.mark])
                sums[folder] = marks
                names = {"+": "added", _MINUS: "removed", "~": "changed", _ARROW: "renamed"}
                detail = ", ".join(f"{marks[mark]:,} {name}" for mark, name in names.items() if marks[mark])
                inner = [_Row("\N{PLUS-MINUS SIGN}", "/".join(folder) + "/", sum(row.delta for row in inner), detail)]
            by_folder.setdefault(folder[:-1], []).extend(inner)
    return sorted(by_folder.get((), []), key=lambda row: row.title)


def _detail(change: Change) -> str:
    if change.table is not None:
        return str(change.table)
    before, after = change.before, change.after
    if before is None or after is None or not change.same_content:
        return ""
    if before.media_type != after.media_type:
        return f"{before.media_type} {_ARROW} {after.media_type}"
    if before.is_executable != after.is_executable:
        return "executable" if after.is_executable else "not executable"
    return "annotations"


def _signed(count: int) -> str:
    """Return a number of bytes with its sign."""
    return "" if count == 0 else f"{'+' if count > 0 else _MINUS}{display.size(abs(count))}"


def _value(text: str | None) -> str:
    return "(none)" if text is None else text


def _table_values(change: TableChange) -> dict[str, Any]:
    if change.problem:
        return {"problem": change.problem}
    return {
        "added": dict(change.added),
        "deleted": dict(change.removed),
        "retyped": {name: {"old": old, "new": new} for name, (old, new) in change.retyped.items()},
        "rows": {"old": change.rows[0], "new": change.rows[1]},
        "stated_by_writer": {name: stated.to_dict() for name, stated in change.stated.items()},
    }


def diff(
    reader: ContentReader,
    a: ReferenceLike | Artifact,
    b: ReferenceLike | Artifact | StrPath,
    *,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    tables: bool = False,
    platform: PlatformLike | None = None,
) -> Diff:
    """Return what differs between two versions; see `ocikit.diff`."""
    if is_folder(a):
        raise InvalidArgument(
            f"the first version must be an artifact, not the path {display.quoted(os.fspath(a))}",  # type: ignore[arg-type]  # as is_folder checked
            hint="write diff(reference, folder)",
        )
    if tables:
        package("pyarrow", "diff(tables=True)")
    included, excluded = to_patterns(include), to_patterns(exclude)
    before = read_artifact(reader, a, include=included, exclude=excluded, platform=platform)
    if is_folder(b):
        after = read_folder(b, before, include=included, exclude=excluded, workers=reader.workers)  # type: ignore[arg-type]  # as above
    else:
        after = read_artifact(reader, b, include=included, exclude=excluded, platform=platform)  # type: ignore[arg-type]  # as above
    found = compare(before, after)
    return _compare_tables(reader, found, before, after) if tables else found


def compare(before: Side, after: Side) -> Diff:
    """Return what differs between two sides."""
    old, new = before.files, after.files
    added = {title: layer for title, layer in new.items() if title not in old}
    removed = {title: layer for title, layer in old.items() if title not in new}
    folder = after.manifest is None
    changed = {
        title: Change(title=title, before=layer, after=new[title])
        for title, layer in old.items()
        if title in new and _differ(layer, new[title], folder=folder)
    }
    renamed = [Rename(before=was, after=now, descriptor=added[now]) for was, now in _renames(removed, added)]
    for rename in renamed:
        del removed[rename.before], added[rename.after]
    here = {layer.digest for layer in old.values()}
    fetched = {layer.digest: layer.size for layer in new.values() if layer.digest not in here}
    found = Diff(
        a=before.name,
        b=after.name,
        added={title: Change(title=title, after=layer) for title, layer in added.items()},
        removed={title: Change(title=title, before=layer) for title, layer in removed.items()},
        changed=changed,
        renamed=tuple(renamed),
        same=len(old) - len(removed) - len(renamed) - len(changed),
        bytes_to_fetch=sum(fetched.values()),
    )
    if before.manifest is None or after.manifest is None:
        return found
    return _with_documents(found, before.manifest, after.manifest)


def _with_documents(found: Diff, before: Manifest, after: Manifest) -> Diff:
    """Add what differs between the manifests apart from their layers."""
    keys = dict.fromkeys([*before.annotations, *after.annotations])
    pairs = {key: (before.annotations.get(key), after.annotations.get(key)) for key in keys}
    config = None
    fetched = found.bytes_to_fetch
    if (before.config.digest, before.config.media_type) != (after.config.digest, after.config.media_type):
        config = (before.config, after.config)
        if before.config.digest != after.config.digest and after.config.embedded is None:
            fetched += after.config.size
    return attrs.evolve(
        found,
        annotations={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        config=config,
        kind=None if before.kind == after.kind else (before.kind, after.kind),
        bytes_to_fetch=fetched,
    )


def _differ(before: Descriptor, after: Descriptor, *, folder: bool) -> bool:
    """Return True if files differ. A file on disk has no media type and no annotations but its mode."""
    if before.digest != after.digest:
        return True
    if folder:
        return os.name == "posix" and before.is_executable != after.is_executable
    return before.media_type != after.media_type or _notes(before) != _notes(after)


def _notes(layer: Descriptor) -> dict[str, str]:
    return {key: value for key, value in layer.annotations.items() if key != TITLE}


def _renames(removed: Mapping[str, Descriptor], added: Mapping[str, Descriptor]) -> list[tuple[str, str]]:
    """Return pairs of titles with the same content, one to one, the nearest titles first."""
    by_digest: dict[Digest, list[str]] = {}
    for title, layer in added.items():
        by_digest.setdefault(layer.digest, []).append(title)
    waiting: dict[Digest, list[str]] = {}
    for title, layer in removed.items():
        if layer.digest in by_digest:
            waiting.setdefault(layer.digest, []).append(title)
    pairs = [pair for digest, titles in waiting.items() for pair in _nearest_pairs(titles, by_digest[digest])]
    return sorted(pairs, key=lambda pair: pair[1])


def _nearest_pairs(before: list[str], after: list[str]) -> Iterator[tuple[str, str]]:
    """Yield pairs of titles of files with the same content."""
    if len(before) == len(after) == 1:
        yield before[0], after[0]
        return
    # Files that moved to another folder keep their name. Without this step, a moved folder of many equal files would need
    # the distance of each pair
    named: dict[str, list[str]] = {}
    for title in reversed(after):
        named.setdefault(title.rpartition("/")[2], []).append(title)
    rest = []
    taken = set()
    for title in before:
        if same_name := named.get(title.rpartition("/")[2]):
            taken.add(same_name[-1])
            yield title, same_name.pop()
        else:
            rest.append(title)
    left = [title for title in after if title not in taken]
    if len(rest) * len(left) > _PAIRS:
        yield from zip(rest, left, strict=False)
        return
    likeness = {
        (was, now): difflib.SequenceMatcher(None, was[-_LONG:], now[-_LONG:], autojunk=False).ratio()
        for was in rest
        for now in left
    }
    used: set[str] = set()
    for was, now in sorted(likeness, key=lambda pair: -likeness[pair]):
        if f"a{was}" not in used and f"b{now}" not in used:
            used |= {f"a{was}", f"b{now}"}
            yield was, now


def _compare_tables(reader: ContentReader, found: Diff, before: Side, after: Side) -> Diff:
    """Compare the changed tables by their footers."""
    pairs: list[tuple[str, TableFormat]] = []
    for title, change in found.changed.items():
        if change.before is None or change.after is None or change.same_content:
            continue
        old, new = table_format(title, change.before.media_type), table_format(title, change.after.media_type)
        if old is not None and old == new:
            pairs.append((title, old))
    if len(pairs) > _TABLES:
        note = f"{len(pairs):,} tables differ: more than {_TABLES} are not compared by columns and rows"
        return attrs.evolve(found, note=note)
    compared: dict[str, TableChange] = {}

    def work(pair: tuple[str, TableFormat], _: threading.Event) -> None:
        title, kind = pair
        try:
            tables = [
                read_table(kind, side.files[title].size, lambda spans, side=side: side.ranges(reader, title, spans))  # type: ignore[misc]  # the default of a lambda
                for side in (before, after)
            ]
        except ContentError as error:  # the size and digest of a damaged file differ, too
            compared[title] = TableChange(problem=error.message)
        else:
            compared[title] = compare_tables(*tables)

    run_parallel(pairs, work, workers=reader.workers)
    changed = {
        title: attrs.evolve(change, table=compared[title]) if title in compared else change
        for title, change in found.changed.items()
    }
    return attrs.evolve(found, changed=changed)
