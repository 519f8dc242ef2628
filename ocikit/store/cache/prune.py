"""Pruning and garbage collection of a cache while other processes use it."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from attrs import field, frozen

from ocikit import display
from ocikit.spec.digest import Digest
from ocikit.spec.reference import Reference
from ocikit.store.cache.scan import (
    CachedName,
    CacheGraph,
    blobs_in,
    files_below,
    list_folder,
    read_names,
    stopped_registries,
)
from ocikit.store.cache.verified import forget
from ocikit.store.parts import PartFolder
from ocikit.store.results import GCResult, RemovedBlob


@frozen(kw_only=True, repr=False)
class PrunePlan(display.Displayable):
    """Files of a cache that `run` deletes.

    >>> artifact = ocikit.push("localhost:5000/ada/waves:v1", {"note.txt": b"hello"})
    >>> artifact = ocikit.pull("localhost:5000/ada/waves:v1")
    >>> plan = ocikit.cache.prune(reference="localhost:5000/ada/waves", grace=0)
    >>> [str(name) for name in plan.names if name.tag]
    ['localhost:5000/ada/waves:v1']
    """

    root: Path
    names: tuple[CachedName, ...]
    """Tags and snapshots to delete."""
    files: tuple[Path, ...]
    """All files to delete, including those of snapshots."""
    bytes: int
    """Bytes of disk space that are freed. Hard links to files that stay do not count."""
    blobs: tuple[tuple[Digest, Path, os.stat_result], ...] = field(repr=False)
    """Blobs to delete, as they were at the time of the plan."""
    partial: tuple[tuple[Path, float], ...] = field(repr=False)
    """Unfinished transfers to delete, with their modification times."""

    def run(self) -> int:
        """Delete the files and return the number of freed bytes.

        Files that were used, fetched or tagged after the plan are not deleted. Open files remain readable;
        deleted content is downloaded again when it is needed.

        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> cache.push_bytes(blob, b"hello")
        >>> freed = cache.prune(grace=0).run()
        >>> cache.exists(blob)
        False
        """
        freed = 0
        for name in self.names:
            if _unchanged(name.path, name.last_used):
                freed += _remove_snapshot(self.root, name.path) if name.is_snapshot else _remove(name.path) or 0
                _remove_empty(name.path.parent, self.root)
        return freed + sum(freed for _, freed in self.delete_blobs()) + sum(self.delete_partial())

    def delete_blobs(self) -> Iterator[tuple[RemovedBlob, int]]:
        """Delete blobs that are still unreferenced; yield each with the freed bytes.

        >>> cache, blob = ocikit.Cache("cache"), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> cache.push_bytes(blob, b"hello")
        >>> [removed.digest.short for removed, freed in cache.prune(grace=0).delete_blobs()]
        ['sha256:2cf24dba5fb0']
        """
        referenced = CacheGraph(self.root).reach(name.digest for name in read_names(self.root))
        for digest, path, status in self.blobs:
            if digest not in referenced and _unchanged(path, status.st_mtime) and (freed := _remove(path)) is not None:
                yield RemovedBlob(digest=digest, size=status.st_size), freed

    def delete_partial(self) -> Iterator[int]:
        """Delete the unfinished transfers; iterate over the bytes that each one frees.

        >>> list(ocikit.cache.prune().delete_partial())
        []
        """
        for path, changed in self.partial:
            if _unchanged(path, changed):
                yield _remove_snapshot(self.root, path) if path.is_dir() else _remove_part(path)

    def __rich_repr__(self) -> display.Description:
        yield "files", len(self.files)
        yield "bytes", display.Size(self.bytes)
        yield "names", tuple(map(str, self.names[: display.ROWS])), ()

    def _card_title(self) -> object:
        return f"{display.pluralize(len(self.files), 'file')} to delete" if self.files else "nothing to delete"

    def _card_notes(self) -> Iterator[object]:
        yield display.Size(self.bytes)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "cache", display.display_path(self.root)
        yield "run", display.Code(".run()")

    def _sections(self) -> Iterator[display.Section]:
        if self.names:
            rows = ((str(name), display.Timestamp.of(name.last_used)) for name in self.names)
            headers = ("reference", "last used")
            yield display.Section(
                title="tags and snapshots to delete", headers=headers, rows=rows, count=len(self.names), unfolded=True
            )
        if self.files:
            files = ((display.display_path(path),) for path in self.files)
            yield display.Section(
                title="files to delete", headers=("file",), rows=files, count=len(self.files), unfolded=False
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
    """Return the plan for `Cache.prune`; times are in seconds."""
    now = time.time()
    graph = CacheGraph(root)
    names = read_names(root)
    reached = {name: graph.reach([name.digest]) for name in names}
    requested = None if reference is None else Reference.parse(reference)
    patterns = tuple(keep)
    retained = [name for name in names if any(_matches(pattern, name) for pattern in patterns)]
    # Retain the snapshots of retained tags
    retained += [
        name
        for name in names
        if any(name.digest in reached[other] for other in retained if other.repository == name.repository)
    ]
    removed = [
        name
        for name in names
        if (older_than is not None or requested is not None)
        and (requested is None or _is_requested(requested, name, names, reached))
        and (older_than is None or now - _last_used(name, names, reached) > older_than)
        and name not in retained
    ]
    stopped = stopped_registries(name.repository for name in names) if unreferenced and requested is None else set()
    removed += [
        name
        for name in names
        if name.repository.partition("/")[0] in stopped
        and now - _last_used(name, names, reached) > grace
        and name not in retained
        and name not in removed
    ]
    referenced = set[Digest]().union(*(reached[name] for name in names if name not in removed))
    released = set[Digest]().union(*(reached[name] for name in removed)) - referenced
    blobs = [
        (digest, path, status)
        for digest, path, status in blobs_in(root)
        if digest in released or (unreferenced and digest not in referenced and now - status.st_mtime > grace)
    ]
    partial = list(_old_partial(root, now - grace)) if unreferenced else []
    files = [(path, status) for _, path, status in blobs]
    for path in [name.path for name in removed] + [path for path, _ in partial]:
        files += _files_of(path)
    return PrunePlan(
        root=root,
        names=tuple(removed),
        files=tuple(path for path, _ in files),
        bytes=_freed_bytes(status for _, status in files),
        blobs=tuple(blobs),
        partial=tuple(partial),
    )


def _old_partial(root: Path, before: float) -> Iterator[tuple[Path, float]]:
    """Iterate over the unfinished transfers that did not change since a time."""
    for entry in list_folder(root / "partial"):
        with contextlib.suppress(OSError):
            changed = entry.stat(follow_symlinks=False).st_mtime
            if changed < before:
                yield Path(entry.path), changed


def collect(root: Path, *, dry_run: bool, grace: float, run: Callable[[], GCResult]) -> GCResult:
    """Delete the blobs that no tag or snapshot references, and unfinished transfers.

    Args:
        root: Folder of the cache.
        dry_run: Whether to delete nothing.
        grace: Seconds since the last change for which a file is not deleted.
        run: Collection to run after a dry run.
    """
    plan = plan_prune(root, grace=grace)
    if dry_run:
        removed = [RemovedBlob(digest=digest, size=status.st_size) for digest, _, status in plan.blobs]
        partial = [_freed_bytes(status for _, status in _files_of(path)) for path, _ in plan.partial]
    else:
        removed = [blob for blob, _ in plan.delete_blobs()]
        partial = list(plan.delete_partial())
    return GCResult(dry_run=dry_run, blobs=tuple(removed), partial=len(partial), partial_size=sum(partial), run=run)


def _is_requested(
    requested: Reference, name: CachedName, names: list[CachedName], reached: dict[CachedName, set[Digest]]
) -> bool:
    """Return True if a name belongs to the requested repository, tag or digest."""
    if name.repository != requested.name:
        return False
    if requested.digest is not None:
        return requested.digest == name.digest
    if requested.tag is None or not name.is_snapshot:
        return requested.tag in {None, name.tag}
    # A snapshot belongs to a tag if no other tag of the repository leads to it
    tags = [
        other
        for other in names
        if other.repository == requested.name and not other.is_snapshot and name.digest in reached[other]
    ]
    return bool(tags) and all(other.tag == requested.tag for other in tags)


def _last_used(name: CachedName, names: list[CachedName], reached: dict[CachedName, set[Digest]]) -> float:
    """Return when a name was last used.

    The use of a snapshot is a use of its tag, and vice versa.
    """
    return max(
        other.last_used
        for other in names
        if other.repository == name.repository and (name.digest in reached[other] or other.digest in reached[name])
    )


def _matches(pattern: str | Reference, name: CachedName) -> bool:
    if isinstance(pattern, str) and any(wildcard in pattern for wildcard in "*?["):
        return any(fnmatch.fnmatchcase(text, pattern) for text in (name.repository, str(name)))
    reference = Reference.parse(pattern)
    return (
        reference.name == name.repository
        and reference.tag in {None, name.tag}
        and reference.digest in {None, name.digest}
    )


def _files_of(path: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the file at a path, or the files below a folder."""
    with contextlib.suppress(OSError):
        return list(files_below(path)) if path.is_dir() else [(path, path.lstat())]
    return []


def _freed_bytes(files: Iterable[os.stat_result]) -> int:
    """Return the bytes that deleting files frees.

    A file is freed if all its hard links are among the given files.
    """
    links: dict[tuple[int, int], list[os.stat_result]] = {}
    for status in files:
        links.setdefault((status.st_dev, status.st_ino), []).append(status)
    return sum(same[0].st_size for same in links.values() if len(same) >= same[0].st_nlink)


def _unchanged(path: Path, changed: float) -> bool:
    try:
        return path.lstat().st_mtime == changed
    except OSError:
        return False


def _remove(path: Path) -> int | None:
    """Delete a file and return the freed bytes; None if it does not exist."""
    try:
        status = path.lstat()
        os.unlink(path)
    except FileNotFoundError:
        return None
    forget(path)
    return status.st_size if status.st_nlink <= 1 else 0


def _remove_part(path: Path) -> int:
    """Delete an unfinished transfer, unless a process writes it; return the freed bytes."""
    try:
        size = path.lstat().st_size
    except OSError:
        return 0
    return size if PartFolder(path.parent).remove(path.name, before=time.time()) else 0


def _remove_snapshot(root: Path, path: Path) -> int:
    """Delete a folder and return the freed bytes.

    It is renamed first, so that no process sees a part of it.
    """
    removed = root / "partial" / f"removed.{path.name}.{time.time_ns():x}"
    try:
        removed.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, removed)
    except FileNotFoundError:
        return 0
    freed = _freed_bytes(status for _, status in files_below(removed))
    shutil.rmtree(removed, ignore_errors=True)
    return freed


def _remove_empty(folder: Path, root: Path) -> None:
    """Remove a folder and its parents up to the root, as far as they are empty."""
    with contextlib.suppress(OSError):
        while folder not in {root, root / "refs", root / "snapshots"}:
            folder.rmdir()
            folder = folder.parent
