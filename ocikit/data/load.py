"""Files of an artifact are loaded as the objects that they were."""

from __future__ import annotations

import builtins
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ocikit import display
from ocikit.client.arguments import ProgressLike
from ocikit.client.artifact import Artifact, File
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.data.codecs.format import Part
from ocikit.data.formats import load_file, main_title
from ocikit.errors import FileNotInArtifact, InvalidArgument
from ocikit.spec.annotations import TYPE
from ocikit.spec.arguments import to_texts
from ocikit.spec.reference import ReferenceLike, parse_reference

_NEAREST = 3  # similar names in the hint for a missing file


class Objects(Mapping[str, Any], display.Displayable):
    """The objects of an artifact by the names of their files. Each is loaded when it is used.

    The ending of a name may be left out: `objects["train"]` is that of `train.parquet`.

    Args:
        artifact: Has the files.
        load: Loads the object of a file.
    """

    def __init__(self, artifact: Artifact, load: Any) -> None:
        self.artifact = artifact
        self._files = object_files(artifact)
        self._load = load

    def __getitem__(self, name: str) -> Any:
        return self._load(find_file(self.artifact, self._files, name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(_find(self._files, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._files)

    def __repr__(self) -> str:
        return display.Displayable.__repr__(self)

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.artifact.reference)
        yield "objects", len(self)

    def _card_title(self) -> object:
        return display.pluralize(len(self), "object")

    def _card_notes(self) -> Iterator[object]:
        yield display.title_of(self.artifact)

    def _facts(self) -> Iterator[tuple[str, object]]:
        for name in list(self)[:1]:
            yield "load one", display.Code(f"[{json.dumps(display.sanitize(name), ensure_ascii=False)}]")

    def _sections(self) -> Iterator[display.Section]:
        yield display.Section(
            title="",
            headers=("name", "saved from", "size"),
            rows=(
                (name, file.descriptor.annotations.get(TYPE, ""), display.Size(file.size))
                for name, file in self._files.items()
            ),
            count=len(self),
            unfolded=True,
        )


def load(
    reader: ContentReader,
    ref: ReferenceLike | Artifact | File,
    name: str | None = None,
    *,
    columns: Iterable[str] | None = None,
    filters: Any = None,
    rows: int | None = None,
    as_: builtins.type | str | None = None,
    trusted: Sequence[str] = (),
    progress: ProgressLike = None,
) -> Any:
    """Load an object; see `ocikit.load`."""
    part = Part(
        columns=None if columns is None else to_texts([columns] if isinstance(columns, str) else columns, "columns"),
        filters=filters,
        rows=_check_rows(rows),
        trusted=to_texts(trusted, "trusted"),
    )
    one = partial(_load_file, part=part, as_=as_, progress=progress)
    if isinstance(ref, File):
        return one(ref)
    artifact = ref if isinstance(ref, Artifact) else _opened(reader, ref)
    files = object_files(artifact)
    if name is not None:
        return one(find_file(artifact, files, name))
    if len(files) == 1:
        return one(next(iter(files.values())))
    if not files:
        raise FileNotInArtifact(f"{artifact.reference} has no files", hint="artifact.manifest has its layers")
    return Objects(artifact, one)


def _opened(reader: ContentReader, ref: ReferenceLike) -> Artifact:
    reference = parse_reference(ref)
    with reader.backends.open_source(reference) as source:
        resolver = Resolver(source, reader.cache, get_unknown=True)
        return Artifact(reader, reference, *resolver.resolve_files(reference))


def _check_rows(rows: int | None) -> int | None:
    if rows is not None and (not isinstance(rows, int) or isinstance(rows, bool) or rows < 0):
        raise InvalidArgument(f"rows={rows!r} is invalid", hint="pass a number of rows, 0 or more")
    return rows


def _load_file(file: File, *, part: Part, as_: builtins.type | str | None, progress: ProgressLike) -> Any:
    return load_file(file, part, as_, progress=progress)


def object_files(artifact: Artifact) -> dict[str, File]:
    """Return the files that are objects, by the names of the objects.

    The files of a folder that is an object, such as a zarr, are one.
    """
    files: dict[str, File] = {}
    folders = {name: title for title in artifact.files if (name := main_title(title)) is not None}
    for title, file in artifact.files.items():
        folder = next((name for name in folders if title.startswith(f"{name}/")), None)
        if folder is None:
            files[title] = file
        elif title == folders[folder]:
            files[folder] = file
    return files


def find_file(artifact: Artifact, files: Mapping[str, File], name: str) -> File:
    """Return the file of an object by its name, with or without the ending.

    Raises:
        FileNotInArtifact: There is none; the hint has the nearest names.
        InvalidArgument: Several have that name.
    """
    found = _find(files, name)
    if len(found) == 1:
        return files[found[0]]
    if found:
        raise InvalidArgument(
            f"{display.quoted(name)} is the name of several files",
            hint=f"use one of {display.join_limited(map(display.quoted, found), _NEAREST)}",
        )
    if name in artifact:
        return artifact[name]
    near = display.nearest(name, files, _NEAREST)
    raise FileNotInArtifact(
        f"{artifact.reference} has no object {display.quoted(name)}",
        hint=f"nearest: {display.join_limited(near)}" if near else f"there is {display.join_limited(files, _NEAREST)}",
    )


def _find(files: Mapping[str, File], name: str) -> list[str]:
    if name in files:
        return [name]
    return [title for title in files if title.startswith(f"{name}.") and "/" not in title[len(name) :]]
