"""Names that publishers give to files, checked before they become paths. image-spec annotations.md."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final

from ocikit.display import quoted
from ocikit.errors import UnsafeArchive
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor

#: Where we keep what we know of a pulled folder; no artifact may write into it.
OWN_FOLDER: Final = ".ocikit"

NAME_LIMIT: Final = 255  # bytes: NAME_MAX of every common file system
PATH_LIMIT: Final = 4096  # bytes: Linux' PATH_MAX

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile("[A-Za-z]:")


def safe_title(title: str) -> PurePosixPath:
    """The title as a relative path that stays within its folder on any system.

    >>> safe_title("data/train.csv").as_posix()
    'data/train.csv'

    Raises:
        UnsafeArchive: naming the title and what is wrong with it.
    """
    problem = _problem(title)
    if problem:
        raise UnsafeArchive(
            f"the title {quoted(title)} {problem}", hint="give the file another name, or fetch this blob by its digest"
        )
    return PurePosixPath(title)


def _problem(title: str) -> str:
    if not title or title.isspace():
        return "is empty"
    if _CONTROL.search(title):
        return "has control characters"
    try:
        raw = title.encode()
    except UnicodeEncodeError:
        return "is not valid Unicode text"
    if "\\" in title:
        return "has a backslash, which separates folders on Windows"
    if title.startswith("/"):
        return "is an absolute path"
    if _DRIVE.match(title):
        return "starts with a drive letter"
    parts = [part for part in title.split("/") if part not in {"", "."}]
    if ".." in parts:
        return 'leaves its folder by ".."'
    if not parts:
        return "names a folder, not a file"
    if any(part.casefold() == OWN_FOLDER for part in parts):
        return f"is in {OWN_FOLDER!r}, which is kept for this library's own records"
    if len(raw) > PATH_LIMIT:
        return f"is {len(raw)} bytes long; the limit is {PATH_LIMIT}"
    longest = max(len(part.encode()) for part in parts)
    return f"has a name of {longest} bytes; the limit is {NAME_LIMIT}" if longest > NAME_LIMIT else ""


def check_titles(titles: Iterable[str], *, fold_case: bool = False) -> tuple[PurePosixPath, ...]:
    """The titles as paths that can all exist in one folder.

    Args:
        titles: as their publisher wrote them.
        fold_case: for folders that don't tell "A" from "a": refuse titles that differ only so.
    Raises:
        UnsafeArchive: if one is unsafe, two are the same, or one is a folder in another.
    """
    paths = tuple(safe_title(title) for title in titles)
    files: dict[PurePosixPath, PurePosixPath] = {}
    for path in paths:
        key = _folded(path) if fold_case else path
        if files.get(key) == path:
            raise UnsafeArchive(
                f"two files have the title {str(path)!r}",
                hint="one folder can't hold both: rename one to push them, fetch them by digest to pull them",
            )
        if key in files:
            raise UnsafeArchive(
                f"the titles {str(files[key])!r} and {str(path)!r} are one file on this file system",
                hint="choose a folder on a file system that tells upper from lower case",
            )
        files[key] = path
    for key, path in files.items():
        for parent in key.parents:
            if parent in files:
                raise UnsafeArchive(
                    f"the title {str(files[parent])!r} is a file, and a folder in {str(path)!r}",
                    hint="choose one of them with include= or exclude=",
                )
    return paths


def _folded(path: PurePosixPath) -> PurePosixPath:
    return PurePosixPath(unicodedata.normalize("NFC", str(path)).casefold())


def is_selected(title: str, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> bool:
    """Whether glob patterns choose the title: any of `include`, or all if there are none, and none of `exclude`.

    `*` matches any characters, "/" too, so that `*.csv` finds a file at any depth; `data/` means all that is below.

    >>> is_selected("data/train.csv", include=["*.csv"], exclude=["old/"])
    True
    """
    include = tuple(include)
    return (not include or any(_matches(title, p) for p in include)) and not any(_matches(title, p) for p in exclude)


def _matches(title: str, pattern: str) -> bool:
    return fnmatchcase(title, pattern + "*" if pattern.endswith("/") else pattern)


#: Endings of layers that have no title, by the end of their media type.
_ENDINGS = {
    ".tar+gzip": ".tar.gz",
    ".tar.gzip": ".tar.gz",
    ".tar+zstd": ".tar.zst",
    ".tar": ".tar",
    "+json": ".json",
    "/json": ".json",
}


def layer_path(layer: Descriptor) -> str:
    """The layer's relative path, with "/" between its parts.

    >>> layer_path(Descriptor.of(b"", media_types.OCI_LAYER_GZIP))
    'sha256-e3b0c44298fc.tar.gz'

    Raises: UnsafeArchive: if its title leads out of the folder.
    """
    if layer.title is not None:
        return safe_title(layer.title).as_posix()
    ending = next((end for kind, end in _ENDINGS.items() if layer.media_type.endswith(kind)), "")
    return f"{layer.digest.algorithm}-{layer.digest.encoded[:12]}{ending}"


def layers_by_path(layers: Iterable[Descriptor], *, fold_case: bool = False) -> dict[str, Descriptor]:
    """The layers by relative path, in order; empty descriptors are no files.

    A layer without title that is listed twice is one file.

    Raises: UnsafeArchive: if a title leads out of the folder, two layers claim one path, or one is a file where
        another needs a folder. With *fold_case*, titles that differ in case only claim one path too.
    """
    files = [layer for layer in layers if layer.media_type != media_types.EMPTY]
    untitled = {layer.key: layer for layer in files if layer.title is None}
    files = [layer for layer in files if layer.title is not None or untitled.pop(layer.key, None) is not None]
    names = [layer_path(layer) for layer in files]
    check_titles(names, fold_case=fold_case)
    return dict(zip(names, files, strict=True))
