"""Objects are saved as files of an artifact."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from attrs import frozen

from ocikit import display
from ocikit.client.arguments import ProgressLike, check_push
from ocikit.client.artifact import Artifact
from ocikit.client.edit import Edit
from ocikit.client.push import select_files
from ocikit.client.reader import ContentReader
from ocikit.data.codecs.format import Format, refused
from ocikit.data.formats import ending_of, formats_of, names_files, title_of
from ocikit.errors import Conflict, InvalidArgument
from ocikit.layers.pack import PackTask, Selection
from ocikit.spec.reference import ReferenceLike, parse_reference
from ocikit.spec.titles import check_titles

#: Whether a file of the same name is replaced, or all files are.
Replace: TypeAlias = bool | Literal["all"]

_SHOWN = 3  # names in a message


@frozen(kw_only=True)
class _Item:
    """An object and the file that it becomes."""

    title: str
    obj: Any
    format: Format | None
    """None for a file or folder on disk."""


def save(
    reader: ContentReader,
    ref: ReferenceLike,
    obj: Any,
    name: str | None = None,
    *,
    format: str | None = None,  # noqa: A002 - as the caller writes it
    tags: Iterable[str] = (),
    annotations: Mapping[str, str] | None = None,
    artifact_type: str | None = None,
    message: str | None = None,
    inputs: ReferenceLike | Iterable[ReferenceLike] = (),
    version: Literal["next"] | None = None,
    replace: Replace = True,
    dry_run: bool = False,
    progress: ProgressLike = None,
) -> Artifact:
    """Save an object; see `ocikit.save`.

    All objects are written to temporary files before anything is sent. So one that cannot be saved changes nothing.
    """
    reference = parse_reference(ref)
    check_push((), None, None, "inside", None, annotations, {"artifact_type": artifact_type})
    _check_texts(name=name, format=format)
    if not isinstance(replace, bool) and replace != "all":
        raise InvalidArgument(f"replace={replace!r} is invalid", hint='pass True, False or "all"')
    edit = Edit(
        reader,
        reference,
        tags=tags,
        message=message,
        inputs=inputs,
        version=version,
        dry_run=dry_run,
        progress=progress,
    )
    items = _items(obj, name, format)
    check_titles(item.title for item in items)
    with tempfile.TemporaryDirectory(prefix="ocikit-") as folder:
        selection = _write(items, Path(folder))
        kinds = {_main_title(item): item.format.annotations for item in items if item.format is not None}
        with edit:
            titles = [task.title for task in selection.tasks]
            if replace is not True:
                _replace_all(edit, titles) if replace == "all" else _check_new(edit, titles)
            edit.keeps_inputs = replace != "all"
            edit.put(selection, kinds)
            edit.annotations.update(annotations or {})
            if artifact_type is not None:
                edit.artifact_type = artifact_type
    artifact = edit.artifact
    if artifact is None:
        raise AssertionError("the edit has ended without a result")
    return artifact


def _check_texts(**values: str | None) -> None:
    for name, value in values.items():
        if value is not None and not isinstance(value, str):
            raise InvalidArgument(f"{name}={display.quoted(value, 60)} is not text", hint="pass a str")


def _items(obj: Any, name: str | None, format: str | None) -> list[_Item]:  # noqa: A002 - as above
    """Return the files of an object, or of the objects in a mapping of names.

    Raises:
        InvalidArgument: There is no format for an object.
    """
    if isinstance(obj, Path):
        title = obj.resolve().name if name is None else name
        if name is not None and not ending_of(name) and obj.is_file():
            title += obj.suffix
        return [_Item(title=title, obj=obj, format=None)]
    try:
        formats = formats_of(obj, format)
    except InvalidArgument:
        if not isinstance(obj, Mapping) or name is not None:
            raise
        formats = []
    if formats and not (name is None and names_files(obj)):
        return [_Item(title=title, obj=obj, format=each) for title, each in title_of(obj, formats, name)]
    items = []
    for key, value in obj.items():
        if not isinstance(key, str):
            why = f"its key {display.quoted(key, 60)} is not text, so it names no file"
            raise refused("the mapping", why, "use text")
        with _named(key):
            items += _items(value, key, format)
    return items


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Name the object of several that an error is about."""
    try:
        yield
    except InvalidArgument as error:
        raise error.reworded(f"{display.quoted(name, 60)}: {error.message}") from error.__cause__


def _main_title(item: _Item) -> str:
    """Return the title of the file that has the annotation."""
    main = None if item.format is None else item.format.main
    return item.title if main is None else f"{item.title}/{main}"


def _write(items: Iterable[_Item], folder: Path) -> Selection:
    """Write objects to files, and return what to push."""
    tasks: list[PackTask] = []
    for number, item in enumerate(items):
        path = item.obj
        if item.format is not None:
            path = folder / f"{number}{item.format.ending}"
            with _named(item.title):
                item.format.write(item.obj, path)
        types = None
        if item.format is not None and item.format.media_type is not None:
            types = {item.title: item.format.media_type}
        # A folder that was written has no file to leave out
        selection = select_files(({item.title: path},), media_types=types, hidden=item.format is not None)
        tasks += selection.tasks
    return Selection(tasks=tuple(tasks))


def _check_new(edit: Edit, titles: Iterable[str]) -> None:
    """Check that there are no files of these names.

    Raises:
        Conflict: There are.
    """
    if there := [title for title in titles if title in edit]:
        raise Conflict(
            f"{edit.reference} has {display.join_limited(map(display.quoted, there), _SHOWN)} already",
            hint="leave replace out to replace it, or choose another name",
            titles=there,
        )


def _replace_all(edit: Edit, titles: Iterable[str]) -> None:
    keep = set(titles)
    for title in list(edit):
        if title not in keep:
            del edit[title]
