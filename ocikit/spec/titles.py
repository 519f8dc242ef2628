"""Validation of the titles of layers, which become file paths. image-spec annotations.md."""

from __future__ import annotations

import glob
import re
import unicodedata
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, Literal, TypeAlias

from attrs import frozen

from ocikit.display import quoted
from ocikit.errors import InvalidDigest, UnsafeArchive
from ocikit.spec import media_types
from ocikit.spec.annotations import SHARD, UNPACK, UNPACK_INTO, UNPACKED_DIGEST
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

#: The folder of ocikit's record of a pulled folder; artifacts must not write into it.
OWN_FOLDER: Final = ".ocikit"

NAME_LIMIT: Final = 255  # bytes: NAME_MAX of every common file system
PATH_LIMIT: Final = 4096  # bytes: Linux' PATH_MAX

#: How a push handles symlinks: follow those that stay in their folder, follow all, or skip all.
Links: TypeAlias = Literal["inside", "follow", "skip"]
LINKS: Final[tuple[Links, ...]] = ("inside", "follow", "skip")

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_COMPRESSED = "gzip|gz|zstd|zst|xz|bzip2|bz2"
_TAR_TYPE = re.compile(rf"[./+-](tar|gtar)([.+-]({_COMPRESSED}))?$")
_TAR_NAME = re.compile(rf"\.(tar(\.({_COMPRESSED}))?|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
_DRIVE = re.compile("[A-Za-z]:")
#: Nearly every title: it needs no further checks. Its parts are short and do not begin with a dot.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}(?:/[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}){0,19}")


def safe_title(title: str) -> PurePosixPath:
    """Return the title as a relative path that stays within its folder on any system.

    This prevents path traversal, because titles come from the publisher.

    >>> safe_title("data/train.csv").as_posix()
    'data/train.csv'

    Raises:
        UnsafeArchive: The title is unsafe; the message has the reason.
    """
    problem = _problem(title)
    if problem:
        raise UnsafeArchive(
            f"the title {quoted(title)} {problem}", hint="give the file another name, or skip it with exclude="
        )
    return PurePosixPath(title)


def _problem(title: str) -> str:
    if _PLAIN.fullmatch(title):
        return ""
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
        return "is a folder, not a file"
    if any(part.casefold() == OWN_FOLDER for part in parts):
        return f"is in {OWN_FOLDER!r}, which is reserved for the records of this library"
    if len(raw) > PATH_LIMIT:
        return f"is {len(raw)} bytes long; the limit is {PATH_LIMIT}"
    longest = max(len(part.encode()) for part in parts)
    return f"has a name of {longest} bytes; the limit is {NAME_LIMIT}" if longest > NAME_LIMIT else ""


def check_titles(titles: Iterable[str], *, fold_case: bool = False) -> tuple[PurePosixPath, ...]:
    """Return the titles as paths that can all exist in one folder.

    Args:
        titles: The titles.
        fold_case: Reject titles that differ only in case, for case-insensitive file systems.

    Raises:
        UnsafeArchive: A title is unsafe, two are equal, or one is a parent folder of another.
    """
    paths = tuple(safe_title(title) for title in titles)
    _check_together(map(str, paths), fold_case=fold_case)
    return paths


def _check_together(names: Iterable[str], *, fold_case: bool) -> None:
    """Check that safe paths can all exist in one folder, as `check_titles`."""
    files: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name).casefold() if fold_case else name
        other = files.get(key)
        if other is not None:
            if other == name:
                raise UnsafeArchive(
                    f"two files have the title {name!r}",
                    hint="one folder can't contain both: rename one before pushing, or fetch them by digest",
                )
            raise UnsafeArchive(
                f"the titles {other!r} and {name!r} are one file on this file system",
                hint="choose a folder on a case-sensitive file system",
            )
        files[key] = name
    folders: set[str] = set()
    for key, name in files.items():
        folder = key.rpartition("/")[0]
        while folder and folder not in folders:
            if folder in files:
                raise UnsafeArchive(
                    f"the title {files[folder]!r} is a file, but a folder in {name!r}",
                    hint="choose one of them with include= or exclude=",
                )
            folders.add(folder)
            folder = folder.rpartition("/")[0]


def is_selected(title: str, include: Iterable[str] = (), exclude: Iterable[str] = ()) -> bool:
    """Return True if a title matches any `include` pattern and no `exclude` pattern.

    Without `include` all match.

    `*` matches any characters including "/", so `*.csv` matches at any depth. `data/` matches all files below it.

    >>> is_selected("data/train.csv", include=["*.csv"], exclude=["old/"])
    True
    """
    include = tuple(include)
    return (not include or any(_matches(title, p) for p in include)) and not any(_matches(title, p) for p in exclude)


def excludes_folder(title: str, exclude: Iterable[str]) -> bool:
    """Return True if a pattern excludes everything in a folder, so that it need not be read.

    >>> excludes_folder("a/old", ["old/"]), excludes_folder("old", ["old/"]), excludes_folder("old", ["old/*"])
    (False, True, True)
    """
    return any(pattern.endswith(("/", "*")) and _matches(f"{title}/", pattern) for pattern in exclude)


def _matches(title: str, pattern: str) -> bool:
    return fnmatchcase(title, pattern + "*" if pattern.endswith("/") else pattern)


#: File extensions of layers without title, by the end of their media type.
_EXTENSIONS = {
    ".tar+gzip": ".tar.gz",
    ".tar.gzip": ".tar.gz",
    ".tar+zstd": ".tar.zst",
    ".tar+xz": ".tar.xz",
    ".tar+bzip2": ".tar.bz2",
    ".tar": ".tar",
    "+json": ".json",
    "/json": ".json",
}


def layer_path(layer: Descriptor) -> str:
    """Return the layer's relative path as a file, with "/" between its parts.

    >>> layer_path(Descriptor.of(b"", media_types.OCI_LAYER_GZIP))
    'sha256-e3b0c44298fc.tar.gz'

    Raises:
        UnsafeArchive: The title is unsafe.
    """
    if layer.title is not None:
        extension = _extension(layer) if is_unpacked_into(layer) else ""
        if _PLAIN.fullmatch(layer.title):
            return layer.title + extension
        if problem := _problem(layer.title):
            raise unusable_title(layer, problem)
        return "/".join(part for part in layer.title.split("/") if part not in {"", "."}) + extension
    return f"{layer.digest.algorithm}-{layer.digest.encoded[:12]}{_extension(layer)}"


def _extension(layer: Descriptor) -> str:
    return next((ext for suffix, ext in _EXTENSIONS.items() if layer.media_type.endswith(suffix)), "")


def layer_name(layer: Descriptor) -> str:
    """Return the layer's name in listings; patterns are compared with it.

    It is the relative path, or the title if that is not a safe path. The name of an archive that a dialect unpacks ends
    with "/".
    """
    if layer.title is not None and _problem(layer.title):
        return layer.title
    path = layer_path(layer)
    return f"{path.removesuffix(_extension(layer))}/" if layer.title is not None and is_unpacked_into(layer) else path


def unusable_title(layer: Descriptor, problem: str) -> UnsafeArchive:
    """Return the error for a layer whose title cannot be a file.

    Args:
        layer: The layer.
        problem: The reason, as in `NamedLayers.unusable`.
    """
    title = layer.title or ""
    return UnsafeArchive(
        f"the title {quoted(title)} {problem}",
        hint=f"skip it with exclude={quoted(glob.escape(title))}, or read it by its digest: open(ref, '{layer.digest}')",
    )


@frozen
class NamedLayers:
    """The layers of an artifact as files: those with a usable name, and the others apart."""

    files: Mapping[str, Descriptor]
    """By relative path, in order."""
    unusable: tuple[tuple[Descriptor, str], ...]
    """Layers whose title cannot be a file, with the reason, such as "is an absolute path"."""


def name_layers(layers: Iterable[Descriptor]) -> NamedLayers:
    """Return the layers by name; an unusable title does not affect the other layers.

    Empty descriptors are skipped. A layer that is listed twice is one file. If different layers have one title, the title
    is unusable.
    """
    by_path: dict[str, dict[Digest, Descriptor]] = {}
    unusable: list[tuple[Descriptor, str]] = []
    for layer in layers:
        if layer.media_type == media_types.EMPTY:
            continue
        if layer.title is not None and (problem := _problem(layer.title)):
            unusable.append((layer, problem))
        else:
            by_path.setdefault(layer_name(layer), {}).setdefault(layer.digest, layer)
    for same in by_path.values():
        if len(same) > 1:
            unusable += [(layer, f"is that of {len(same)} files") for layer in same.values()]
    files = {path: next(iter(same.values())) for path, same in by_path.items() if len(same) == 1}
    return NamedLayers(files, tuple(unusable))


def is_packed_folder(layer: Descriptor) -> bool:
    """Return True for a folder that was pushed as an archive, to be unpacked by a pull."""
    return layer.title is not None and layer.annotations.get(UNPACK) == "true"


def is_shard(layer: Descriptor) -> bool:
    """Return True for an archive with some of the files of a folder."""
    return SHARD in layer.annotations and layer.media_type in media_types.SHARDS.values()


def is_unpacked_into(layer: Descriptor) -> bool:
    """Return True for an archive of a dialect, whose members have their whole paths."""
    return UNPACK_INTO in layer.annotations


def is_unpacked_by_pull(layer: Descriptor) -> bool:
    """Return True for a layer that a pull unpacks by default: a packed folder, a shard, or an archive of a dialect."""
    return is_packed_folder(layer) or is_shard(layer) or is_unpacked_into(layer)


def packed_prefix(layer: Descriptor) -> str:
    """Return the folder that holds all files of an archive; empty for the top folder.

    It is the title of a packed folder, which all paths in its archive start with. `oras push .` writes the title ".".
    A shard has it in an annotation.

    Raises:
        UnsafeArchive: The title is unsafe.
    """
    if is_shard(layer):
        prefix = layer.annotations[SHARD].removesuffix("/")
        return safe_title(prefix).as_posix() if prefix else ""
    if is_unpacked_into(layer):
        prefix = layer.annotations[UNPACK_INTO]
        return safe_title(prefix).as_posix() if prefix else ""
    if not is_packed_folder(layer) or layer.title is None or set(layer.title.split("/")) <= {"", "."}:
        return ""
    return safe_title(layer.title).as_posix()


def stripped_prefix(layer: Descriptor) -> str:
    """Return the folder that the paths in an archive start with: `packed_prefix`, but not if members have whole paths.

    Raises:
        UnsafeArchive: The title is unsafe.
    """
    return "" if is_unpacked_into(layer) else packed_prefix(layer)


def unpacked_digest(layer: Descriptor) -> Digest | None:
    """Return the digest of a packed folder's uncompressed archive; None if it is not known or cannot be verified."""
    with suppress(InvalidDigest):
        digest = Digest(layer.annotations.get(UNPACKED_DIGEST, ""))
        return digest if digest.verifiable else None
    return None


def is_archive(layer: Descriptor) -> bool:
    """Return True for a packed folder, and for a tar archive by its media type or title.

    >>> is_archive(Descriptor.of(b"", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"))
    True
    """
    return (
        is_unpacked_by_pull(layer)
        or _TAR_TYPE.search(layer.media_type) is not None
        or _TAR_NAME.search(layer.title or "") is not None
    )


def layers_by_path(layers: Iterable[Descriptor], *, fold_case: bool = False) -> dict[str, Descriptor]:
    """Return the layers by relative path, in order.

    Empty descriptors are skipped. A layer without title that is listed twice is one file.

    Args:
        layers: The layers.
        fold_case: Reject titles that differ only in case, for case-insensitive file systems.

    Raises:
        UnsafeArchive: A title is unsafe, two layers have one path, or one is a parent folder of another.
    """
    files = [layer for layer in layers if layer.media_type != media_types.EMPTY]
    untitled = {layer.key: layer for layer in files if layer.title is None}
    files = [layer for layer in files if layer.title is not None or untitled.pop(layer.key, None) is not None]
    names = [layer_path(layer) for layer in files]
    _check_together(names, fold_case=fold_case)
    return dict(zip(names, files, strict=True))
