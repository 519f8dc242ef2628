"""What can go from a cache: a plan, and carrying it out beside whoever uses the cache meanwhile."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from attrs import field, frozen

from ocikit import display
from ocikit.spec.digest import Digest
from ocikit.spec.reference import Reference
from ocikit.store.cache.scan import Graph, Name, blobs_in, files_below, listing, names


@frozen(kw_only=True, repr=False)
class PrunePlan(display.Displayable):
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
        named = Graph(self.root).reach(n.digest for n in names(self.root))
        for digest, path, changed in self._blobs:
            if digest not in named and _unchanged(path, changed):
                gone += _remove(path)
        for path, changed in self._parts:
            if _unchanged(path, changed):
                gone += _remove_snapshot(self.root, path) if path.is_dir() else _remove(path)
        return gone

    def __rich_repr__(self) -> display.Description:
        yield "files", len(self.files)
        yield "bytes", display.Size(self.bytes)
        yield "names", tuple(map(str, self.names[: display.ROWS])), ()

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "frees", display.Size(self.bytes)
        yield "files", len(self.files)
        yield "cache", display.display_path(self.root)
        yield "do it", display.Code(".run()")

    def _sections(self) -> Iterator[display.Section]:
        if self.names:
            rows = ((str(n), display.Timestamp.of(n.used)) for n in self.names)
            headers = ("reference", "last used")
            yield display.Section(title="forgets", headers=headers, rows=rows, count=len(self.names), unfolded=True)
        if self.files:
            paths = (display.display_path(path) for path in self.files)
            yield display.Section(
                title="deletes", headers=("file",), rows=((p,) for p in paths), count=len(self.files), unfolded=False
            )


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
    graph = Graph(root)
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
        for digest, path, status in blobs_in(root)
        if digest in forgotten or (unreferenced and digest not in named and now - status.st_mtime > grace)
    ]
    parts = []
    for entry in listing(root / "partial") if unreferenced else ():
        with contextlib.suppress(OSError):
            changed = entry.stat(follow_symlinks=False).st_mtime
            if now - changed > grace:
                parts.append((Path(entry.path), changed))
    files = [(path, status) for _, path, status in blobs]
    for path in [name.path for name in going] + [path for path, _ in parts]:
        with contextlib.suppress(OSError):
            files += list(files_below(path)) if path.is_dir() else [(path, path.lstat())]
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
    freed = _freed(status for _, status in files_below(aside))
    shutil.rmtree(aside, ignore_errors=True)
    return freed


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove folders that became empty, up to the root."""
    with contextlib.suppress(OSError):
        while folder not in {root, root / "refs", root / "snapshots"}:
            folder.rmdir()
            folder = folder.parent
