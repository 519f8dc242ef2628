"""Sweep out what nobody names, while the registry serves.

What was let go of, or never came to be named, stays for a grace period: a push names its blobs last. Being pushed, mounted,
asked for, or named begins the period anew; so what a deleted manifest needed goes when the manifest has been gone for so
long, and not with it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter

from attrs import frozen

from ocikit import display
from ocikit.server.storage.base import Storage
from ocikit.spec.digest import Digest

#: Seconds that content nobody names is kept: longer than any push takes between its first blob and its manifest.
GRACE = 3600.0

#: Seconds that an upload nobody goes on with is kept.
EXPIRY = 24 * 3600.0

#: Digests that are looked up at once.
_BATCH = 500


@frozen(kw_only=True, repr=False)
class GCResult(display.Displayable):
    """What was swept out, or would be."""

    dry_run: bool
    manifests: tuple[tuple[str, str, int], ...] = ()
    """Without a tag, if those were asked for: the repository's name, the digest, the size in bytes."""
    blobs: tuple[tuple[str, str, int], ...] = ()
    """Taken from a repository: its name, the digest, the size in bytes."""
    content: tuple[tuple[str, int], ...] = ()
    """Deleted, since it is nobody's: the digest and the size in bytes."""
    uploads: int = 0
    """Sessions that had expired; a dry run doesn't count them."""
    leftovers: int = 0
    """Half-written files of a crash; a dry run doesn't count them."""

    @property
    def size(self) -> int:
        """Bytes that were freed."""
        return sum(size for _, size in self.content)

    def __rich_repr__(self) -> display.Description:
        yield "dry_run", self.dry_run
        yield "manifests", len(self.manifests), 0
        yield "blobs", len(self.blobs)
        yield "content", len(self.content)
        yield "size", display.Size(self.size)
        yield "uploads", self.uploads, 0
        yield "leftovers", self.leftovers, 0

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "manifests", "blobs", "content")

    def _sections(self) -> Iterator[display.Section]:
        for title, taken in (("manifests without a tag", self.manifests), ("taken from repositories", self.blobs)):
            if taken:
                rows = ((name, display.Size(size), display.DigestCell(digest)) for name, digest, size in taken)
                headers = ("repository", "size", "digest")
                yield display.Section(title=title, headers=headers, rows=rows, count=len(taken))
        if self.content:
            gone = ((display.Size(size), display.DigestCell(digest)) for digest, size in self.content)
            title = "content to delete" if self.dry_run else "content deleted"
            yield display.Section(title=title, headers=("size", "digest"), rows=gone, count=len(self.content))


def collect(
    storage: Storage, *, grace: float = GRACE, expiry: float = EXPIRY, untagged: bool = False, dry_run: bool = False
) -> GCResult:
    """Delete what nobody has named for a grace period.

    Any number of these may run at once, in any process, while registries serve the storage.

    Args:
        storage: of a registry that may be serving, from this process or another.
        grace: seconds; no shorter than the one that the storage was opened with.
        expiry: seconds that an idle upload is kept.
        untagged: whether manifests go, too, that no tag leads to: neither by an index nor as a referrer, such as a
            signature, of what it leads to. What they needed goes a grace period later.
        dry_run: whether only to tell.
    """
    now = time.time()
    before = now - grace
    manifests = _manifests(storage, before, dry_run=dry_run) if untagged else ()
    taken = tuple(
        (name, str(digest), size)
        for name, digest, size in storage.metadata.unreferenced(before)
        if dry_run or storage.metadata.remove_blob_if_unused(name, digest, before)
    )
    if dry_run:
        content = {str(digest): size for digest, size in storage.metadata.unnamed(before)}
        return GCResult(
            dry_run=True, manifests=manifests, blobs=taken, content=(*content.items(), *_released(storage, taken))
        )
    found = storage.blobs.iterate()
    while some := list(islice(found, _BATCH)):
        storage.metadata.adopt(some)
    return GCResult(
        dry_run=False, manifests=manifests, blobs=taken, content=_content(storage, before),
        uploads=storage.uploads.expire(now - expiry), leftovers=storage.blobs.tidy(now - max(grace, GRACE)),
    )  # fmt: skip


def _manifests(storage: Storage, before: float, *, dry_run: bool) -> tuple[tuple[str, str, int], ...]:
    found = storage.metadata.untagged(before)
    if dry_run:
        return tuple((name, str(digest), size) for name, digest, size in found)
    return tuple(
        (name, str(digest), size)
        for name, _ in groupby(found, key=itemgetter(0))
        for digest, size in storage.metadata.drop_untagged(name, before)
    )


def _content(storage: Storage, before: float) -> tuple[tuple[str, int], ...]:
    gone = []
    for digest, size in storage.metadata.unnamed(before):
        # What a crash left behind was adopted without its size
        there = size or storage.blobs.stat(digest) or 0
        if storage.metadata.drop(digest, before, storage.blobs):
            gone.append((str(digest), there))
    return tuple(gone)


def _released(storage: Storage, taken: Iterable[tuple[str, str, int]]) -> Iterator[tuple[str, int]]:
    """What would be nobody's if blobs were taken from repositories."""
    holders: dict[tuple[str, int], set[str]] = {}
    for name, digest, size in taken:
        holders.setdefault((digest, size), set()).add(name)
    for (digest, size), names in holders.items():
        if names.issuperset(storage.metadata.repositories_with(Digest(digest))):
            yield digest, size
