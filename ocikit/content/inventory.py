"""Looking after a cache: what is there, whether it is whole, and what can go."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from attrs import field, frozen

from ocikit import display
from ocikit.content.blobs import BUFFER, blob_path
from ocikit.errors import OcikitError
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import parse_document
from ocikit.spec.reference import Reference

__all__ = [
    "CacheInfo",
    "CachedRepository",
    "Name",
    "PrunePlan",
    "VerifyReport",
    "names",
    "plan_prune",
    "scan",
    "verify",
]

_SNAPSHOT = re.compile(r"([a-z0-9]+)-([0-9a-f]{64,})")


@frozen(kw_only=True)
class Name:
    """Something in a cache that names a manifest: the note on a tag, or a snapshot."""

    repository: str
    """Registry and name."""
    tag: str | None
    digest: Digest
    path: Path
    used: float
    """When it was last used, in seconds since 1970."""

    @property
    def is_snapshot(self) -> bool:
        """Whether it is a folder of files."""
        return self.tag is None

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag is not None else f"{self.repository}@{self.digest}"


@frozen(kw_only=True, repr=False)
class CachedRepository(display.Shown):
    """What a cache has of one repository."""

    name: str
    tags: tuple[str, ...]
    snapshots: int
    size: int
    """Bytes of the blobs that its tags and snapshots name; repositories share blobs."""
    last_used: datetime

    def __rich_repr__(self) -> display.Description:
        yield "name", self.name
        yield "size", self.size
        yield "tags", list(self.tags), []
        yield "snapshots", self.snapshots, 0
        yield "last_used", self.last_used.isoformat(" ", "minutes")


@frozen(kw_only=True, repr=False)
class CacheInfo(display.Shown):
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
        yield "root", str(self.root)
        yield "repositories", len(self.repositories)
        yield "blobs", self.blobs
        yield "size", self.size
        yield "partial", self.partial, 0

    def _html_parts(self) -> tuple[str, ...]:
        rows = [
            (r.name, display.listed(r.tags), display.size_cell(r.size), r.last_used.isoformat(" ", "minutes"))
            for r in self.repositories
        ]
        return (display.table(("repository", "tags", "size", "last used"), rows),)


@frozen(kw_only=True, repr=False)
class VerifyReport(display.Shown):
    """What hashing every blob again has found."""

    checked: int
    size: int
    """Bytes that were hashed."""
    bad: tuple[tuple[Path, str], ...]
    """Damaged files, each with what is wrong."""
    removed: bool
    """Whether they were deleted; they are fetched again when they are needed."""

    def __rich_repr__(self) -> display.Description:
        yield "checked", self.checked
        yield "size", self.size
        yield "bad", len(self.bad)
        yield "removed", self.removed, False

    def _html_parts(self) -> tuple[str, ...]:
        return (display.table(("damaged", "why"), [(str(p), why) for p, why in self.bad]),) if self.bad else ()


def names(root: Path) -> list[Name]:
    """The tags and snapshots in a cache; notes that can't be read are none."""
    found = []
    for path, status in _files(root / "refs"):
        if path.suffix != ".json":
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OcikitError):
            noted = json.loads(path.read_bytes())
            reference = Reference.parse(noted["reference"])
            found.append(
                Name(
                    repository=reference.name,
                    tag=reference.target,
                    digest=Digest(noted["digest"]),
                    path=path,
                    used=status.st_mtime,
                )
            )
    found += _snapshots(root / "snapshots", ())
    return found


def _snapshots(folder: Path, parts: tuple[str, ...]) -> Iterator[Name]:
    for entry in _listing(folder):
        with contextlib.suppress(OSError):
            if not entry.is_dir(follow_symlinks=False):
                continue
            if match := _SNAPSHOT.fullmatch(entry.name):
                yield Name(
                    repository="/".join(map(unquote, parts)),
                    tag=None,
                    digest=Digest(f"{match[1]}:{match[2]}"),
                    path=Path(entry.path),
                    used=entry.stat().st_mtime,
                )
            else:
                yield from _snapshots(Path(entry.path), (*parts, entry.name))


def _listing(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """All files below a folder, links not followed; what vanishes meanwhile is left out."""
    for entry in _listing(folder):
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry.path))
            else:
                yield Path(entry.path), entry.stat(follow_symlinks=False)
        except OSError:
            continue


def _blobs(root: Path) -> Iterator[tuple[Digest, Path, os.stat_result]]:
    for path, status in _files(root / "blobs"):
        with contextlib.suppress(ValueError):
            yield Digest(f"{path.parent.name}:{path.name}"), path, status


class _Graph:
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
    graph = _Graph(root)
    sizes = {digest: status.st_size for digest, _, status in _blobs(root)}
    by_repository: dict[str, list[Name]] = {}
    for name in names(root):
        by_repository.setdefault(name.repository, []).append(name)
    repositories = [
        CachedRepository(
            name=repository,
            tags=tuple(sorted(n.tag for n in mine if n.tag is not None)),
            snapshots=sum(n.is_snapshot for n in mine),
            size=sum(sizes.get(digest, 0) for digest in graph.reach(n.digest for n in mine)),
            last_used=datetime.fromtimestamp(max(n.used for n in mine), UTC),
        )
        for repository, mine in by_repository.items()
    ]
    return CacheInfo(
        root=root,
        repositories=tuple(sorted(repositories, key=lambda r: (-r.size, r.name))),
        blobs=len(sizes),
        size=sum(sizes.values()),
        partial=sum(status.st_size for _, status in _files(root / "partial")),
    )


def verify(root: Path, *, remove: bool = False) -> VerifyReport:
    """Hash every blob of the cache at `root` again."""

    def problem(item: tuple[Digest, Path, os.stat_result]) -> str:
        digest, path, _ = item
        try:
            hasher = digest.hasher()
            buffer = memoryview(bytearray(BUFFER))
            with open(path, "rb", buffering=0) as file:
                while n := file.readinto(buffer):
                    hasher.update(buffer[:n])
        except FileNotFoundError:
            return ""  # pruned meanwhile
        except (OSError, OcikitError) as error:
            return display.clean(error)
        actual = hasher.hexdigest()
        return "" if actual == digest.encoded else f"its content has digest {digest.algorithm}:{actual}"

    blobs = list(_blobs(root))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "ocikit-verify") as pool:
        problems = list(pool.map(problem, blobs))
    bad = [(path, why) for (_, path, _), why in zip(blobs, problems, strict=True) if why]
    if bad:
        bad += _linked([path for path, _ in bad], root / "snapshots")
    if remove:
        for path, _ in bad:
            path.unlink(missing_ok=True)
    return VerifyReport(
        checked=len(blobs), size=sum(status.st_size for _, _, status in blobs), bad=tuple(bad), removed=remove
    )


def _linked(paths: list[Path], folder: Path) -> Iterator[tuple[Path, str]]:
    """Files below a folder that are links to one of the paths."""
    inodes: dict[tuple[int, int], Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            inodes[status.st_dev, status.st_ino] = path
    for path, status in _files(folder):
        with contextlib.suppress(OSError):
            where = path.stat() if stat.S_ISLNK(status.st_mode) else status
            if blob := inodes.get((where.st_dev, where.st_ino)):
                yield path, f"it is a link to {blob}"


@frozen(kw_only=True, repr=False)
class PrunePlan(display.Shown):
    """What can be deleted from a cache; `run` does it."""

    root: Path
    names: tuple[Name, ...]
    """Tags and snapshots to forget."""
    files: tuple[Path, ...]
    """All files that go, those of snapshots included."""
    bytes: int
    """What the disk gets back; links to files that stay don't count."""
    _blobs: tuple[tuple[Digest, Path, float], ...] = field(alias="blobs", repr=False)
    _parts: tuple[tuple[Path, float], ...] = field(alias="parts", repr=False)

    def run(self) -> int:
        """Delete it, and say how many bytes of files are gone.

        What was used, fetched or named since the plan was made stays. Whoever reads a file goes on reading it; whoever
        opens one next fetches it again.
        """
        gone = 0
        for name in self.names:
            if _unchanged(name.path, name.used):
                gone += _remove_snapshot(self.root, name.path) if name.is_snapshot else _remove(name.path)
                _remove_empty(name.path.parent, self.root)
        named = _Graph(self.root).reach(n.digest for n in names(self.root))
        for digest, path, changed in self._blobs:
            if digest not in named and _unchanged(path, changed):
                gone += _remove(path)
        for path, changed in self._parts:
            if _unchanged(path, changed):
                gone += _remove_snapshot(self.root, path) if path.is_dir() else _remove(path)
        return gone

    def __rich_repr__(self) -> display.Description:
        yield "files", len(self.files)
        yield "bytes", self.bytes
        yield "names", [str(n) for n in self.names], []

    def _html_parts(self) -> tuple[str, ...]:
        rows = [(str(n), datetime.fromtimestamp(n.used, UTC).isoformat(" ", "minutes")) for n in self.names]
        return (display.table(("forgets", "last used"), rows),) if rows else ()


def plan_prune(
    root: Path,
    *,
    older_than: float | None = None,
    reference: str | Reference | None = None,
    keep: Iterable[str | Reference] = (),
    unreferenced: bool = True,
    grace: float = 3600.0,
) -> PrunePlan:
    """What can be deleted from the cache at `root`; the arguments are those of `Cache.prune`, times in seconds."""
    now = time.time()
    graph = _Graph(root)
    everything = names(root)
    reached = {name: graph.reach([name.digest]) for name in everything}
    wanted = None if reference is None else Reference.parse(reference)
    patterns = tuple(keep)
    kept = [name for name in everything if any(_matches(pattern, name) for pattern in patterns)]
    # The snapshot of a tag that is kept, is kept
    kept += [n for n in everything if any(n.digest in reached[k] for k in kept if k.repository == n.repository)]
    going = [
        name
        for name in everything
        if (older_than is not None or wanted is not None)
        and (wanted is None or _concerns(wanted, name, everything, reached))
        and (older_than is None or now - _last_used(name, everything, reached) > older_than)
        and name not in kept
    ]
    staying = [name for name in everything if name not in going]
    named = set().union(*(reached[name] for name in staying)) if staying else set()
    forgotten = set().union(*(reached[name] for name in going)) - named if going else set()
    blobs = [
        (digest, path, status)
        for digest, path, status in _blobs(root)
        if digest in forgotten or (unreferenced and digest not in named and now - status.st_mtime > grace)
    ]
    parts = []
    for entry in _listing(root / "partial") if unreferenced else ():
        with contextlib.suppress(OSError):
            changed = entry.stat(follow_symlinks=False).st_mtime
            if now - changed > grace:
                parts.append((Path(entry.path), changed))
    files = [(path, status) for _, path, status in blobs]
    for path in [name.path for name in going] + [path for path, _ in parts]:
        with contextlib.suppress(OSError):
            files += list(_files(path)) if path.is_dir() else [(path, path.lstat())]
    return PrunePlan(
        root=root,
        names=tuple(going),
        files=tuple(path for path, _ in files),
        bytes=_freed(status for _, status in files),
        blobs=tuple((digest, path, status.st_mtime) for digest, path, status in blobs),
        parts=tuple(parts),
    )


def _concerns(wanted: Reference, name: Name, everything: list[Name], reached: dict[Name, set[Digest]]) -> bool:
    """Whether a name goes when *wanted* is to go: a whole repository, or one tag or digest with its snapshots."""
    if name.repository != wanted.name:
        return False
    if wanted.digest is not None:
        return wanted.digest == name.digest
    if wanted.tag is None or not name.is_snapshot:
        return wanted.tag in {None, name.tag}
    tags = [n for n in everything if n.repository == wanted.name and not n.is_snapshot and name.digest in reached[n]]
    return bool(tags) and all(n.tag == wanted.tag for n in tags)


def _last_used(name: Name, everything: list[Name], reached: dict[Name, set[Digest]]) -> float:
    """A tag is used when its snapshot is, and the other way round."""
    return max(
        other.used
        for other in everything
        if other.repository == name.repository and (name.digest in reached[other] or other.digest in reached[name])
    )


def _matches(pattern: str | Reference, name: Name) -> bool:
    if isinstance(pattern, str) and any(c in pattern for c in "*?["):
        return any(fnmatch.fnmatchcase(text, pattern) for text in (name.repository, str(name)))
    reference = Reference.parse(pattern)
    return (
        reference.name == name.repository
        and reference.tag in {None, name.tag}
        and reference.digest in {None, name.digest}
    )


def _freed(files: Iterable[os.stat_result]) -> int:
    """Bytes of files whose every link is among those given."""
    links: dict[tuple[int, int], list[os.stat_result]] = {}
    for status in files:
        links.setdefault((status.st_dev, status.st_ino), []).append(status)
    return sum(same[0].st_size for same in links.values() if len(same) >= same[0].st_nlink)


def _unchanged(path: Path, changed: float) -> bool:
    try:
        return path.lstat().st_mtime == changed
    except OSError:
        return False


def _remove(path: Path) -> int:
    try:
        status = path.lstat()
        os.unlink(path)
    except FileNotFoundError:
        return 0
    return status.st_size if status.st_nlink <= 1 else 0


def _remove_snapshot(root: Path, path: Path) -> int:
    """Take a folder out of sight as a whole, then delete it."""
    aside = root / "partial" / f"removed.{path.name}.{time.time_ns():x}"
    try:
        aside.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, aside)
    except FileNotFoundError:
        return 0
    freed = _freed(status for _, status in _files(aside))
    shutil.rmtree(aside, ignore_errors=True)
    return freed


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove folders that became empty, up to the root."""
    with contextlib.suppress(OSError):
        while folder not in {root, root / "refs", root / "snapshots"}:
            folder.rmdir()
            folder = folder.parent
