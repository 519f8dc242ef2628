"""Contents of a cache: tags, snapshots, blobs, and their verification."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import stat
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote

import attrs
from attrs import frozen

from ocikit import display
from ocikit.errors import ContentError, OcikitError
from ocikit.spec import media_types
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.reference import Reference
from ocikit.store.admission import available_cores
from ocikit.store.files import blob_path, read_file
from ocikit.store.graph import Graph, Link
from ocikit.store.results import CorruptBlob, VerifyResult, check_blobs

_FOLDER_LIMIT = 500  # folders, and entries of each, that `repositories` visits

_LOOPBACK = frozenset({"127.0.0.1", "[::1]", "localhost"})
_FIRST_TEMPORARY = 32_768  # the first port that Linux gives to programs that ask for any; other systems begin later
_CONNECT_TIMEOUT = 1.0  # seconds; a closed port of this machine answers at once

_SNAPSHOT = re.compile(r"([a-z0-9]+)-([0-9a-f]{64,})")


@frozen(kw_only=True)
class CachedName:
    """A tag or a snapshot in a cache."""

    repository: str
    """Registry and repository name."""
    tag: str | None
    """None for a snapshot."""
    digest: Digest
    """Digest of the manifest."""
    path: Path
    last_used: float
    """Seconds since the epoch."""

    @property
    def is_snapshot(self) -> bool:
        """Whether this is a folder of files."""
        return self.tag is None

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag is not None else f"{self.repository}@{self.digest}"


@frozen(kw_only=True, repr=False)
class CachedRepository(display.Displayable):
    """Cached content of one repository."""

    name: str
    tags: tuple[str, ...]
    snapshots: int
    """Number of snapshots."""
    size: int
    """Bytes of the blobs that its tags and snapshots reference. Repositories share blobs."""
    last_used: datetime

    def __rich_repr__(self) -> display.Description:
        yield "name", self.name
        yield "size", display.Size(self.size)
        yield "tags", self.tags, ()
        yield "snapshots", self.snapshots, 0
        yield "last_used", display.Timestamp.of(self.last_used)

    def _card_title(self) -> object:
        host, slash, name = self.name.partition("/")
        return display.Name(f"{host}{slash}", name)

    def _card_notes(self) -> Iterator[object]:
        yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "name", "size", "tags")

    def _sections(self) -> Iterator[display.Section]:
        yield display.Section(title="tags", names=self.tags, count=len(self.tags))


@frozen(kw_only=True, repr=False)
class CacheInfo(display.Displayable):
    """Contents of a cache at the time of `Cache.scan`.

    >>> info = ocikit.cache.scan()
    >>> info.size, info.repositories
    (0, ())
    """

    root: Path
    repositories: tuple[CachedRepository, ...]
    """Sorted by size, largest first."""
    blobs: int
    """Number of blobs."""
    size: int
    """Bytes of all blobs."""
    partial: int
    """Bytes of unfinished transfers."""
    closed: tuple[CachedRepository, ...] = ()
    """Repositories of registries on this machine that have stopped, such as those of `serve()`. `Cache.prune` deletes them."""

    def __rich_repr__(self) -> display.Description:
        yield "root", display.display_path(self.root)
        yield "repositories", len(self.repositories)
        yield "blobs", self.blobs
        yield "size", display.Size(self.size)
        yield "partial", display.Size(self.partial), 0
        yield "closed", len(self.closed), 0

    def _card_title(self) -> object:
        return "cache"

    def _card_notes(self) -> Iterator[object]:
        yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "folder", display.Code(display.display_path(self.root))
        yield "blobs", self.blobs
        if self.partial:
            yield "unfinished transfers", display.Size(self.partial)
        if self.closed:
            yield (
                "stopped registries",
                f"{display.pluralize(len(self.closed), 'repository', 'repositories')} of this machine",
            )
        yield "free space", display.Code('ocikit.cache.prune(older_than="30d").run()')

    def _sections(self) -> Iterator[display.Section]:
        rows = (
            (
                repository.name,
                display.Size(repository.size),
                display.join_limited(repository.tags, 5),
                display.Timestamp.of(repository.last_used),
            )
            for repository in self.repositories
        )
        headers = ("repository", "size", "tags", "last used")
        count = len(self.repositories)
        yield display.Section(title="repositories", headers=headers, rows=rows, count=count, unfolded=True)


def read_names(root: Path) -> list[CachedName]:
    """Return the tags and snapshots in a cache. Skip unreadable tags."""
    names = []
    for path, status in files_below(root / "refs"):
        if path.suffix != ".json":
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, OcikitError):
            record = json.loads(read_file(path))
            reference = Reference.parse(record["reference"])
            names.append(
                CachedName(
                    repository=reference.name,
                    tag=reference.target,
                    digest=Digest(record["digest"]),
                    path=path,
                    last_used=status.st_mtime,
                )
            )
    names += _read_snapshots(root / "snapshots", ())
    return names


def _read_snapshots(folder: Path, parts: tuple[str, ...]) -> Iterator[CachedName]:
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
                yield from _read_snapshots(Path(entry.path), (*parts, entry.name))


def list_folder(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder; an empty list if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def stopped_registries(repositories: Iterable[str]) -> set[str]:
    """Return the hosts on this machine, with a port that systems give temporarily, where no server listens any more.

    Args:
        repositories: Registries with repository names.
    """
    return {host for host in set(map(_host_of, repositories)) if _is_stopped(host)}


def _host_of(repository: str) -> str:
    return repository.partition("/")[0]


def _is_stopped(host: str) -> bool:
    name, _, port = host.rpartition(":")
    if name not in _LOOPBACK or not port.isdecimal() or not _FIRST_TEMPORARY <= int(port) < 65536:
        return False
    try:
        socket.create_connection((name.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def hosts(root: Path) -> list[str]:
    """Return the registries whose tags a cache has."""
    return sorted(unquote(entry.name) for entry in list_folder(root / "refs") if entry.is_dir(follow_symlinks=False))


def repositories(root: Path, host: str) -> list[str]:
    """Return repositories of a registry that have tags in a cache.

    The search is limited, for completion.
    """
    start = root / "refs" / quote(host, safe="")
    folders: list[Path] = []
    pending = deque([start])
    for _ in range(_FOLDER_LIMIT):
        if not pending:
            break
        folder = pending.popleft()
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in itertools.islice(entries, _FOLDER_LIMIT):
                if entry.is_dir(follow_symlinks=False):
                    pending.append(folder / entry.name)
                elif entry.name.endswith(".json") and folder not in folders[-1:]:
                    folders.append(folder)
    return sorted(unquote(folder.relative_to(start).as_posix()) for folder in folders)


def tags(root: Path, host: str, repository: str) -> list[str]:
    """Return the tags of a repository that a cache has."""
    folder = root / "refs" / quote(host, safe="") / repository
    return sorted(name.removesuffix(".json") for entry in list_folder(folder) if (name := entry.name).endswith(".json"))


def files_below(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Iterate over all files below a folder without following links.

    Skip files that vanish meanwhile.
    """
    for entry in list_folder(folder):
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            else:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
        except OSError:
            continue


def blobs_in(root: Path) -> Iterator[tuple[Digest, Path, os.stat_result]]:
    """Iterate over the blobs of a cache."""
    for path, status in files_below(root / "blobs"):
        with contextlib.suppress(ValueError):
            yield Digest(f"{path.parent.name}:{path.name}"), path, status


class CacheGraph:
    """References between cached documents and their content.

    Args:
        root: Folder of the cache.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._graph = Graph(self._read, strict=False)

    def reach(self, digests: Iterable[Digest]) -> set[Digest]:
        """Return the digests of documents and of all content that they reference."""
        return self._graph.walk((Link(digest=digest) for digest in digests), subjects=False)

    def _read(self, link: Link) -> bytes | None:
        if link.media_type and not media_types.is_document(link.media_type):
            return None
        path = blob_path(self._root, link.digest)
        with contextlib.suppress(OSError, ContentError):
            if path.stat().st_size <= DOCUMENT_LIMIT:
                return read_file(path, DOCUMENT_LIMIT)
        return None


def scan(root: Path) -> CacheInfo:
    """Return the contents of a cache."""
    graph = CacheGraph(root)
    sizes = {digest: status.st_size for digest, _, status in blobs_in(root)}
    by_repository: dict[str, list[CachedName]] = defaultdict(list)
    for name in read_names(root):
        by_repository[name.repository].append(name)
    repositories = [
        CachedRepository(
            name=repository,
            tags=tuple(sorted(name.tag for name in names if name.tag is not None)),
            snapshots=sum(name.is_snapshot for name in names),
            size=sum(sizes.get(digest, 0) for digest in graph.reach(name.digest for name in names)),
            last_used=datetime.fromtimestamp(max(name.last_used for name in names), UTC),
        )
        for repository, names in by_repository.items()
    ]
    repositories.sort(key=lambda repository: (-repository.size, repository.name))
    stopped = stopped_registries(by_repository)
    closed = tuple(repository for repository in repositories if _host_of(repository.name) in stopped)
    return CacheInfo(
        root=root,
        repositories=tuple(repository for repository in repositories if repository not in closed),
        closed=closed,
        blobs=len(sizes),
        size=sum(sizes.values()),
        partial=sum(status.st_size for _, status in files_below(root / "partial")),
    )


def verify(root: Path, *, remove: bool = False) -> VerifyResult:
    """Hash all blobs of a cache and find the snapshot files that link to corrupt ones.

    Args:
        root: Folder of the cache.
        remove: Whether to delete corrupt files.
    """
    blobs = list(blobs_in(root))
    corrupt = check_blobs(((digest, path) for digest, path, _ in blobs), workers=min(8, available_cores()))
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
    inodes: dict[tuple[int, int], tuple[CorruptBlob, Path]] = {}
    for blob in corrupt:
        if blob.path is not None:
            with contextlib.suppress(OSError):
                status = blob.path.stat()
                inodes[status.st_dev, status.st_ino] = blob, blob.path
    for path, status in files_below(folder):
        with contextlib.suppress(OSError):
            target = path.stat() if stat.S_ISLNK(status.st_mode) else status
            if match := inodes.get((target.st_dev, target.st_ino)):
                blob, blob_file = match
                yield attrs.evolve(
                    blob, path=path, detail=f"link to corrupt content: {display.display_path(blob_file)}"
                )
