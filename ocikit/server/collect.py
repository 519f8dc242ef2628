"""Sweep out what nobody names, while the registry serves.

What was let go of, or never came to be named, stays for a grace period: a push names its blobs last. Being pushed, mounted,
asked for, or named begins the period anew.
"""

from __future__ import annotations

import time
from itertools import islice

from attrs import field, frozen

from ocikit import display
from ocikit.server.storage import Storage

__all__ = ["EXPIRY", "GRACE", "Collection", "collect"]

#: Seconds that content nobody names is kept: longer than any push takes between its first blob and its manifest.
GRACE = 3600.0

#: Seconds that an upload nobody goes on with is kept.
EXPIRY = 24 * 3600.0

#: Digests that are looked up at once.
_BATCH = 500


@frozen(kw_only=True, repr=False)
class Collection(display.Shown):
    """What was swept out, or would be."""

    dry_run: bool
    blobs: tuple[tuple[str, str, int], ...] = ()
    """Taken from a repository: its name, the digest, the size in bytes."""
    content: tuple[tuple[str, int], ...] = ()
    """Deleted: the digest and the size in bytes; 0 for what a crash left behind."""
    uploads: int = 0
    """Sessions that had expired; a dry run doesn't count them."""
    leftovers: int = field(default=0)
    """Half-written files of a crash; a dry run doesn't count them."""

    @property
    def size(self) -> int:
        """Bytes that were freed."""
        return sum(size for _, size in self.content)

    def __rich_repr__(self) -> display.Description:
        yield "dry_run", self.dry_run
        yield "blobs", len(self.blobs)
        yield "content", len(self.content)
        yield "size", self.size
        yield "uploads", self.uploads, 0
        yield "leftovers", self.leftovers, 0

    def _html_parts(self) -> tuple[str, ...]:
        rows = [(name, display.digest_cell(digest), display.size_cell(size)) for name, digest, size in self.blobs]
        rows += [("(nobody's)", display.digest_cell(digest), display.size_cell(size)) for digest, size in self.content]
        return (display.table(("repository", "digest", "size"), rows),)


def collect(storage: Storage, *, grace: float = GRACE, expiry: float = EXPIRY, dry_run: bool = False) -> Collection:
    """Delete what nobody has named for a grace period.

    Args:
        storage: of a registry that may be serving, from this process or another.
        grace: seconds; no shorter than the one that the storage was opened with.
        expiry: seconds that an idle upload is kept.
        dry_run: whether only to tell.
    """
    now = time.time()
    before, metadata = now - grace, storage.metadata
    taken = tuple(
        (name, str(digest), size)
        for name, digest, size in metadata.unreferenced(before)
        if dry_run or metadata.drop_link(name, digest, before)
    )
    if not dry_run:
        found = storage.blobs.iterate()
        while some := list(islice(found, _BATCH)):
            metadata.adopt(some)
    deleted = tuple(
        (str(digest), size)
        for digest, size in metadata.unnamed(before)
        if dry_run or metadata.drop(digest, before, storage.blobs)
    )
    return Collection(
        dry_run=dry_run, blobs=taken, content=deleted,
        uploads=0 if dry_run else storage.uploads.expire(now - expiry),
        leftovers=0 if dry_run else storage.blobs.tidy(now - max(grace, GRACE)),
    )  # fmt: skip
