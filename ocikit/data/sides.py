"""The two sides of a comparison: the files of an artifact, and those of a folder on disk."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from attrs import define, field

from ocikit.client.arguments import StrPath
from ocikit.client.artifact import Artifact
from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.folder.archives import describe_link
from ocikit.folder.folder import Folder
from ocikit.folder.record import FileRecord, FolderRecord
from ocikit.layers.walk import FileWalker, FoundFile, title_of, unreadable
from ocikit.spec.annotations import MODE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, hash_file
from ocikit.spec.manifest import Manifest, PlatformLike
from ocikit.spec.media_types import media_type_of
from ocikit.spec.reference import AnyReference, ReferenceLike, parse_reference
from ocikit.spec.titles import is_selected
from ocikit.store.files import open_file
from ocikit.transfer.pool import run_parallel


@define
class Side:
    """The files of one side of a comparison by name."""

    name: str
    """What the user named: a reference, or a path."""
    files: dict[str, Descriptor]
    manifest: Manifest | None = None
    """None for a folder."""
    reference: AnyReference | None = None
    """The artifact, pinned by digest; None for a folder."""
    paths: dict[str, Path] = field(factory=dict)
    """Where the files of a folder are."""

    def ranges(self, reader: ContentReader, title: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of a file, given by offset and length [bytes], unverified."""
        if self.reference is not None:
            return reader.ranges(self.reference, self.files[title], spans, whole=False)
        parts = []
        with open_file(self.paths[title]) as file:
            for offset, length in spans:
                file.seek(offset)
                parts.append(file.read(length))
        return parts


def is_folder(value: object) -> bool:
    """Return True for a path on disk: a path object, or text that names an existing file or folder, or can only be a path.

    >>> is_folder("./data"), is_folder("data/"), is_folder("ghcr.io/org/data:v1")
    (True, True, False)
    """
    if isinstance(value, Artifact):
        return False
    if isinstance(value, os.PathLike):
        return True
    if not isinstance(value, str):
        return False
    return value.startswith((".", "/", "~")) or value.endswith(("/", os.sep)) or os.path.exists(value)


def read_artifact(
    reader: ContentReader,
    artifact: ReferenceLike | Artifact,
    *,
    include: Sequence[str],
    exclude: Sequence[str],
    platform: PlatformLike | None,
) -> Side:
    """Return the files of an artifact from its manifest. A tag costs one request, or two if the manifest is cached.

    Raises:
        NotFound: There is no such artifact.
        NoMatchingPlatform: An index has no manifest for the platform.
    """
    if (
        not isinstance(artifact, Artifact)
        or platform is not None
        or (artifact.is_index and artifact.nested_files is None)
    ):
        reference = artifact.reference if isinstance(artifact, Artifact) else parse_reference(artifact)
        with reader.backends.open_source(reference) as source:
            resolver = Resolver(source, reader.cache, get_unknown=True)
            artifact = Artifact(reader, reference, *resolver.resolve_files(reference, platform))
    nested = artifact.nested_files
    manifest = artifact.manifest if nested is None else nested.manifest(include)[0]
    named = artifact.named if nested is None else manifest.named
    layers: dict[str, Descriptor] = {**named.files}
    for layer, _ in named.unusable:
        layers[layer.digest] = layer
    if include or exclude:
        layers = {title: layer for title, layer in layers.items() if is_selected(title, include, exclude)}
    reference = artifact.reference
    return Side(name=str(reference), files=layers, manifest=manifest, reference=reference)


def read_folder(path: StrPath, other: Side, *, include: Sequence[str], exclude: Sequence[str], workers: int) -> Side:
    """Return the files of a folder or a file on disk, under the titles that a push would give them.

    A folder that was pulled to is read with the titles that the pull wrote. Its record spares the hashing of unedited files.
    Files that a push leaves out are read only if the other side has them.

    Args:
        path: The folder.
        other: The artifact. Archives that were unpacked into the folder are replaced by their files, in place.
        include: Glob patterns of titles; all if empty.
        exclude: Glob patterns of titles to skip.
        workers: Number of files that are hashed in parallel.

    Raises:
        NotFound: There is no such path.
        ContentError: A file or folder cannot be read.
    """
    root = Path(path).expanduser()
    record = Folder(root).record if root.is_dir() else FolderRecord()
    is_pulled = bool(record.files)
    prefix = "" if is_pulled else title_of(os.path.expanduser(path))
    if is_pulled:
        _expand_archives(other.files, record, include, exclude)
    walker = FileWalker(tuple(include), tuple(exclude))
    found = {file.title: file for file in walker.walk(root, prefix, keep_links=is_pulled) if not file.is_folder}
    for title in other.files.keys() - found.keys():
        if (file := _left_out(root, prefix, title)) is not None:
            found[title] = file
    side = Side(name=os.fspath(path), files={}, paths={title: file.path for title, file in found.items()})
    describe = partial(_describe, other=other.files, record=record)
    described: dict[str, Descriptor] = {}

    def work(file: FoundFile, _: threading.Event) -> None:
        described[file.title] = describe(file)

    run_parallel(list(found.values()), work, workers=workers)
    side.files.update((title, described[title]) for title in sorted(described))
    return side


def _expand_archives(
    files: dict[str, Descriptor], record: FolderRecord, include: Iterable[str], exclude: Iterable[str]
) -> None:
    """Replace archives by the files that were unpacked from them, which the record names with their digests."""
    if not record.archives:
        return
    members: dict[Digest, dict[str, FileRecord]] = {}
    for name, member in record.files.items():
        if member.archive is not None:
            members.setdefault(member.archive, {})[name] = member
    for title, layer in list(files.items()):
        found = members.get(layer.digest, {})
        # If another pull has replaced some of the files, the record does not name all of them
        if found and record.archives.get(layer.digest) == len(found):
            del files[title]
            for name, member in found.items():
                if name not in files and is_selected(name, include, exclude):
                    files[name] = _descriptor(name, member.digest, member.size)


def _left_out(root: Path, prefix: str, title: str) -> FoundFile | None:
    """Return a file of the artifact that a push leaves out by default, such as one below `.git`, if the folder has it."""
    if prefix and not title.startswith(f"{prefix}/"):
        return None
    path = root / title.removeprefix(f"{prefix}/" if prefix else "")
    try:
        info = os.lstat(path)
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except (OSError, ValueError):
        return None
    # A link to elsewhere could make the comparison read any file of the user
    return FoundFile(title=title, path=path, info=info) if inside and stat.S_ISREG(info.st_mode) else None


def _describe(file: FoundFile, *, other: Mapping[str, Descriptor], record: FolderRecord) -> Descriptor:
    """Return the descriptor of a file; an unedited one has the digest of the record."""
    entry, expected = record.files.get(file.title), other.get(file.title)
    if file.target is not None and (entry is None or entry.is_link):
        return describe_link(file.target)
    try:
        info = file.path.stat()
        unedited = entry is not None and (entry.size, entry.mtime_ns) == (info.st_size, info.st_mtime_ns)
        if entry is not None and unedited and not entry.is_link:
            digest = entry.digest
        else:
            verifiable = expected is not None and expected.digest.verifiable
            digest = hash_file(
                file.path, expected.digest.algorithm if expected is not None and verifiable else "sha256"
            )
    except OSError as error:
        raise unreadable(file.path, file.title, error) from error
    # A record does not know the modes of files in archives
    runs = info.st_mode & stat.S_IXUSR and os.name == "posix" and (entry is None or entry.archive is None)
    return _descriptor(file.title, digest, info.st_size, {MODE: "0755"} if runs else {})


def _descriptor(title: str, digest: Digest, size: int, annotations: Mapping[str, str] | None = None) -> Descriptor:
    return Descriptor(media_type=media_type_of(title), digest=digest, size=size, annotations=dict(annotations or {}))
