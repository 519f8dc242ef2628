"""Garbage collection and verification of a layout.

An unreadable document aborts the collection: the content that it references is unknown. Blobs that may belong to a
transfer in progress are not deleted:

1. Blobs that changed within the grace period.
2. Blobs that changed after another process opened a `Layout` and pushed to it. A lease, which is a locked file, marks
   such a layout; the lock ends with its process.
3. Blobs that change during the collection.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ocikit.spec.digest import Digest
from ocikit.store.files import blob_path
from ocikit.store.graph import STORED_LIMIT, Link
from ocikit.store.layout.disk import LayoutDisk, links_from, scan_files
from ocikit.store.layout.index import to_descriptor
from ocikit.store.parts import PartFolder
from ocikit.store.results import GCResult, RemovedBlob, VerifyResult, check_blobs


def collect(
    disk: LayoutDisk, *, dry_run: bool, grace: float, lease: str | None, run: Callable[[], GCResult]
) -> GCResult:
    """Delete the blobs that are unreachable from `index.json`.

    The caller must hold the lock unless it is a dry run.

    Args:
        disk: Files of the layout.
        dry_run: Whether to delete nothing.
        grace: Seconds since the last change for which a blob is not deleted.
        lease: Path of the caller's own lease, which does not protect content from the caller.
        run: Collection to run after a dry run.
    """
    started = min(disk.live_leases(clean=not dry_run, exclude=lease), default=time.time())
    cutoff = min(time.time() - grace, started)
    if not dry_run:
        _finish_aborted_sweep(disk, cutoff)
    blobs = dict(disk.blobs())
    live = _live_digests(disk, blobs, cutoff)
    removed = [
        RemovedBlob(digest=digest, size=blobs[digest].st_size)
        for digest in sorted(blobs.keys() - live)
        if blobs[digest].st_mtime < cutoff and (dry_run or _remove(disk, digest, cutoff))
    ]
    partial = [(path, status.st_size) for path, status in scan_files(disk.partial) if status.st_mtime < cutoff]
    if not dry_run:
        parts = PartFolder(disk.partial)
        partial = [(path, size) for path, size in partial if parts.remove(path.name, before=cutoff)]
    return GCResult(
        dry_run=dry_run,
        blobs=tuple(removed),
        partial=len(partial),
        partial_size=sum(size for _, size in partial),
        run=run,
    )


def _live_digests(disk: LayoutDisk, blobs: dict[Digest, os.stat_result], cutoff: float) -> set[Digest]:
    """Return the digests that entries, young documents and their referrers reach."""
    graph = disk.graph()
    live = graph.walk(links_from(map(to_descriptor, disk.entries())))
    # Other blobs may be documents too: a root that has no name yet, or a referrer that another tool did not list
    candidates = [
        Link(digest=digest) for digest, status in blobs.items() if digest not in live and status.st_size <= STORED_LIMIT
    ]
    candidates = [link for link in candidates if graph.children(link)]
    while reached := [
        link
        for link in candidates
        if blobs[link.digest].st_mtime >= cutoff
        or any(child.subject and child.digest in live for child in graph.children(link))
    ]:
        candidates = [link for link in candidates if link not in reached]
        graph.walk(reached, seen=live)
    return live


def _remove(disk: LayoutDisk, digest: Digest, cutoff: float) -> bool:
    """Delete a blob unless it was touched meanwhile; return True if it was deleted.

    A push or an existence check updates the modification time without a lock. To avoid this race, the blob is moved to
    a place where no other process touches it, and its age is checked again there.
    """
    trashed = blob_path(disk.trash, digest)
    trashed.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(disk.blob(digest), trashed)
    except FileNotFoundError:
        return False
    return _delete_or_restore(trashed, disk.blob(digest), cutoff)


def _delete_or_restore(trashed: Path, original: Path, cutoff: float) -> bool:
    if trashed.stat().st_mtime >= cutoff:
        os.rename(trashed, original)
        return False
    trashed.unlink()
    return True


def _finish_aborted_sweep(disk: LayoutDisk, cutoff: float) -> None:
    """Delete or restore the blobs that a killed sweep left in the trash."""
    for folder in list((disk.trash / "blobs").glob("*")):
        for trashed, _ in list(scan_files(folder)):
            _delete_or_restore(trashed, disk.blob(Digest(f"{folder.name}:{trashed.name}")), cutoff)


def verify(disk: LayoutDisk, *, workers: int) -> VerifyResult:
    """Hash all blobs and list content that is referenced but missing.

    Args:
        disk: Files of the layout.
        workers: Number of threads.
    """
    blobs = dict(disk.blobs())
    verifiable = [digest for digest in blobs if digest.verifiable]
    corrupt = check_blobs(((digest, disk.blob(digest)) for digest in verifiable), workers=workers)
    referenced = disk.graph(strict=False).walk(links_from(map(to_descriptor, disk.entries())))
    return VerifyResult(
        checked=len(verifiable),
        size=sum(blobs[digest].st_size for digest in verifiable),
        corrupt=corrupt,
        missing=tuple(sorted(referenced - blobs.keys())),
        unverifiable=tuple(sorted(blobs.keys() - set(verifiable))),
    )
