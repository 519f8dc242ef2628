"""Looking after a cache: what is there, and whether it is whole."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import attrs
from attrs import frozen

from ocikit import display
from ocikit.errors import OcikitError
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import parse_document
from ocikit.spec.reference import Reference
from ocikit.store.files import blob_path
from ocikit.store.results import CorruptBlob, VerifyResult, check_blobs

_FOLDERS = 500  # that a look at a cache goes through

_SNAPSHOT = re.compile(r"([a-z0-9]+)-([0-9a-f]{64,})")


@frozen(kw_only=True)
class CachedName:
    """Something in a cache that names a manifest: the note on a tag, or a snapshot."""

    repository: str
    """Registry and name."""
    tag: str | None
    digest: Digest
    path: Path
    last_used: float
    """When it was last used, in seconds since 1970."""

    @property
    def is_snapshot(self) -> bool:
        """Whether it is a folder of files."""
        return self.tag is None

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag is not None else f"{self.repository}@{self.digest}"


@frozen(kw_only=True, repr=False)
class CachedRepository(display.Displayable):
    """What a cache has of one repository."""

    name: str
    tags: tuple[str, ...]
    snapshots: int
    size: int
    """Bytes of the blobs that its tags and snapshots name; repositories share blobs."""
    last_used: datetime

    def __rich_repr__(self) -> display.Description:
        yield "name", self.name
        yield "size", display.Size(self.size)
        yield "tags", self.tags, ()
        yield "snapshots", self.snapshots, 0
        yield "last_used", display.Timestamp.of(self.last_used)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "tags")

    def _sections(self) -> Iterator[display.Section]:
        yield display.Section(title="tags", names=self.tags, count=len(self.tags))


@frozen(kw_only=True, repr=False)
class CacheInfo(display.Displayable):
    """What is in a cache, as it was when `Cache.scan` walked it."""

    root: Path
    repositories: tuple[CachedRepository, ...]
    """By size, largest first."""
    blobs: int
    size: int
    """Bytes of all blobs, each counted once."""
    partial: int
    """Bytes of what isn't whole yet, or was left behind."""

    def __rich_repr__(self) -> display.Description:
        yield "root", display.display_path(self.root)
        yield "repositories", len(self.repositories)
        yield "blobs", self.blobs
        yield "size", display.Size(self.size)
        yield "partial", display.Size(self.partial), 0

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "repositories")
        yield "make room", display.Code("ocikit.cache.prune(older_than=…)")

    def _sections(self) -> Iterator[display.Section]:
        rows = (
            (r.name, display.Size(r.size), display.join_limited(r.tags, 5), display.Timestamp.of(r.last_used))
            for r in self.repositories
        )
        headers = ("repository", "size", "tags", "last used")
        count = len(self.repositories)
        yield display.Section(title="repositories", headers=headers, rows=rows, count=count, unfolded=True)


def read_names(root: Path) -> list[CachedName]:
    """The tags and snapshots in a cache; notes that can't be read are none."""
    found = []
    for path, status in files_below(root / "refs"):
        if path.suffix != ".json":
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OcikitError):
            noted = json.loads(path.read_bytes())
            reference = Reference.parse(noted["reference"])
            found.append(
                CachedName(
                    repository=reference.name,
                    tag=reference.target,
                    digest=Digest(noted["digest"]),
                    path=path,
                    last_used=status.st_mtime,
                )
            )
    found += _snapshots(root / "snapshots", ())
    return found


def _snapshots(folder: Path, parts: tuple[str, ...]) -> Iterator[CachedName]:
    for entry in list_folder(folder):
        with contextlib.suppress(OSError, ValueError):
            if not entry.is_dir(follow_symlinks=False):
                continue
            if match := _SNAPSHOT.fullmatch(entry.name):
                yield CachedName(
                    repository="/".join(map(unquote, parts)),
                    tag=None,
                    digest=Digest(f"{match[1]}:{match[2]}"),
                    path=Path(entry.path),
                    last_used=entry.stat().st_mtime,
                )
            else:
                yield from _snapshots(Path(entry.path), (*parts, entry.name))


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder; nothing if it isn't there."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def repositories(root: Path, host: str) -> list[str]:
    """The repositories of a registry that a cache has notes on. A look, not a walk: in a large cache it ends early."""
    start = root / "refs" / quote(host, safe="")
    found: list[Path] = []
    waiting = [start]
    for _ in range(_FOLDERS):
        if not waiting:
            break
        folder = waiting.pop(0)
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in itertools.islice(entries, _FOLDERS):
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(folder / entry.name)
                elif entry.name.endswith(".json") and folder not in found[-1:]:
                    found.append(folder)
    return sorted(unquote(folder.relative_to(start).as_posix()) for folder in found)


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files below a folder, links not followed; what vanishes meanwhile is left out."""
    for entry in list_folder(folder):
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            else:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
        except OSError:
            continue


def blobs_in(root: Path) -> Iterator[tuple[Digest, Path, os.stat_result]]:
    """The blobs of the cache at `root`."""
    for path, status in files_below(root / "blobs"):
        with contextlib.suppress(ValueError):
            yield Digest(f"{path.parent.name}:{path.name}"), path, status


class Graph:
    """What names what, read from cached documents, each once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._children: dict[Digest, tuple[tuple[Digest, bool], ...]] = {}

    def reach(self, digests: Iterable[Digest]) -> set[Digest]:
        """The documents' digests and all that they name, down to layers."""
        seen: set[Digest] = set()
        waiting = list(digests)
        while waiting:
            document = waiting.pop()
            if document not in seen:
                seen.add(document)
                for child, is_document in self._named(document):
                    if is_document:
                        waiting.append(child)
                    else:
                        seen.add(child)
        return seen

    def _named(self, digest: Digest) -> tuple[tuple[Digest, bool], ...]:
        if digest not in self._children:
            self._children[digest] = ()
            path = blob_path(self._root, digest)
            with contextlib.suppress(OSError, OcikitError):
                if path.stat().st_size <= DOCUMENT_LIMIT:
                    children = parse_document(path.read_bytes()).children
                    self._children[digest] = tuple((c.digest, c.is_document) for c in children)
        return self._children[digest]


def scan(root: Path) -> CacheInfo:
    """What is in the cache at `root`."""
    graph = Graph(root)
    sizes = {digest: status.st_size for digest, _, status in blobs_in(root)}
    by_repository: dict[str, list[CachedName]] = {}
    for name in read_names(root):
        by_repository.setdefault(name.repository, []).append(name)
    repositories = [
        CachedRepository(
            name=repository,
            tags=tuple(sorted(n.tag for n in mine if n.tag is not None)),
            snapshots=sum(n.is_snapshot for n in mine),
            size=sum(sizes.get(digest, 0) for digest in graph.reach(n.digest for n in mine)),
            last_used=datetime.fromtimestamp(max(n.last_used for n in mine), UTC),
        )
        for repository, mine in by_repository.items()
    ]
    return CacheInfo(
        root=root,
        repositories=tuple(sorted(repositories, key=lambda r: (-r.size, r.name))),
        blobs=len(sizes),
        size=sum(sizes.values()),
        partial=sum(status.st_size for _, status in files_below(root / "partial")),
    )


def verify(root: Path, *, remove: bool = False) -> VerifyResult:
    """Hash all blobs of the cache at `root`; find the snapshot files that are links to corrupt blobs.

    Args:
        root: Folder of the cache.
        remove: Whether to delete corrupt files.
    """
    blobs = list(blobs_in(root))
    corrupt = check_blobs(((digest, path) for digest, path, _ in blobs), workers=min(8, os.cpu_count() or 1))
    if corrupt:
        corrupt += tuple(_links_to(corrupt, root / "snapshots"))
    if remove:
        for blob in corrupt:
            if blob.path is not None:
                blob.path.unlink(missing_ok=True)
    return VerifyResult(
        checked=len(blobs), size=sum(status.st_size for _, _, status in blobs), corrupt=corrupt, removed=remove
    )


def _links_to(corrupt: Iterable[CorruptBlob], folder: Path) -> Iterator[CorruptBlob]:
    """Iterate over the files below a folder that are links to corrupt blobs."""
    inodes: dict[tuple[int, int], CorruptBlob] = {}
    for blob in corrupt:
        if blob.path is not None:
            with contextlib.suppress(OSError):
                status = blob.path.stat()
                inodes[status.st_dev, status.st_ino] = blob
    for path, status in files_below(folder):
        with contextlib.suppress(OSError):
            target = path.stat() if stat.S_ISLNK(status.st_mode) else status
            if (linked := inodes.get((target.st_dev, target.st_ino))) and linked.path is not None:
                yield attrs.evolve(
                    blob, path=path, detail=f"link to corrupt content: {display.display_path(linked.path)}"
                )
