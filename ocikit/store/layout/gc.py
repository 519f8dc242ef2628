"""Sweeping and auditing a layout: which blobs nothing leads to, and which are not what their names say.

A sweep never trusts silence: a document that can't be read stops it, and what may be part of a transfer under way stays.
Three things tell that it may: it changed within the grace; a `Layout` that pushed before it is still open in some
process (its lease, a locked file, says so and dies with the process); or it changes while the sweep looks at it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from ocikit import display
from ocikit.errors import DigestMismatch, InvalidDigest, InvalidDocument
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.files import blob_path, open_file
from ocikit.store.graph import STORED_LIMIT, Graph, Link

if TYPE_CHECKING:
    from ocikit.store.layout.layout import Layout


@frozen(kw_only=True, repr=False)
class Garbage(display.Displayable):
    """What a sweep removed, or would remove."""

    digests: tuple[Digest, ...]
    size: int
    """Bytes, those of the parts included."""
    parts: int = 0
    """Unfinished downloads that nobody took up again."""
    removed: bool
    _layout: Layout = field(eq=False)
    _grace: float

    def run(self) -> Garbage:
        """Sweep now; after a dry run. The layout is looked at again, for it may have changed."""
        return self if self.removed else self._layout.gc(grace=self._grace)

    def __rich_repr__(self) -> display.Description:
        yield "blobs", len(self.digests)
        yield "size", display.Size(self.size)
        yield "parts", self.parts, 0
        yield "removed", self.removed

    def _sections(self) -> Iterator[display.Section]:
        hint = "" if self.removed or not self.digests else display.Code(".run()")
        yield display.Section(
            title="blobs", names=map(display.DigestCell, self.digests), count=len(self.digests), hint=hint
        )


@frozen(kw_only=True, repr=False)
class Audit(display.Displayable):
    """What hashing every blob found."""

    checked: int
    """Blobs that were hashed."""
    size: int
    """Bytes that were hashed."""
    damaged: tuple[Digest, ...]
    """Their bytes are not what their names say: delete them and copy them again."""
    missing: tuple[Digest, ...]
    """Named by a document here, and elsewhere if anywhere: a layout need not be complete."""
    unverifiable: tuple[Digest, ...]
    """Of an algorithm that can't be computed here."""

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged

    def __rich_repr__(self) -> display.Description:
        yield "ok", self.ok
        yield "checked", self.checked
        yield "size", display.Size(self.size)
        for title, digests in self._found():
            yield title, tuple(map(display.DigestCell, digests)), ()

    def _found(self) -> tuple[tuple[str, tuple[Digest, ...]], ...]:
        return ("damaged", self.damaged), ("missing", self.missing), ("unverifiable", self.unverifiable)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "damaged", len(self.damaged)
        yield "checked", self.checked
        yield "size", display.Size(self.size)

    def _sections(self) -> Iterator[display.Section]:
        for title, digests in self._found():
            if digests:
                yield display.Section(title=title, names=map(display.DigestCell, digests), count=len(digests))


def links_from(descriptors: Iterable[Descriptor]) -> list[Link]:
    """The descriptors as links to start from."""
    return [Link(digest=one.digest, media_type=one.media_type) for one in descriptors]


def graph(layout: Layout, *, strict: bool = True) -> Graph:
    """What leads to what in a layout; a strict one raises for documents that are damaged."""

    def read(link: Link) -> bytes | None:
        document = media_types.is_document(link.media_type)
        try:
            with io.BufferedReader(open_file(layout.blob(link.digest))) as file:
                if not document:
                    # Of unknown type: worth a look if it may be a document
                    if os.fstat(file.fileno()).st_size > STORED_LIMIT or not file.read(64).lstrip().startswith(b"{"):
                        return None
                    file.seek(0)
                raw = file.read(STORED_LIMIT + 1)
        except FileNotFoundError:
            return None
        if document and strict:
            _check(link.digest, raw)
        return raw

    return Graph(read, strict=strict)


def _check(digest: Digest, raw: bytes) -> None:
    hint = "its children can't be known, so nothing is removed; delete it, or copy it there again"
    if len(raw) > STORED_LIMIT:
        raise InvalidDocument(f"{digest} is larger than any document may be", hint=hint)
    try:
        if digest.verifiable:
            digest.verify(raw, "the document")
    except DigestMismatch as error:
        raise InvalidDocument(f"{digest} is damaged", hint=hint) from error


def blobs(layout: Layout) -> Iterator[tuple[Digest, os.stat_result]]:
    """Every blob on disk. Files whose names are no digests are nobody's business."""
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(os.listdir(layout.path / "blobs")):
            with contextlib.suppress(NotADirectoryError), os.scandir(layout.path / "blobs" / folder) as listing:
                for entry in listing:
                    with contextlib.suppress(InvalidDigest, FileNotFoundError):
                        digest = Digest(f"{folder}:{entry.name}")
                        if entry.is_file():
                            yield digest, entry.stat()


def collect(layout: Layout, *, dry_run: bool, grace: float, lease: str | None) -> Garbage:
    """Find what nothing leads to, and remove it unless it is a dry run. Whoever removes holds the layout's lock.

    Args:
        layout: where.
        dry_run: only find.
        grace: seconds.
        lease: the caller's own, which protects nothing from the caller.
    """
    own = layout.path / ".ocikit"
    trash = own / "trash"
    started = min(live_leases(own / "leases", clean=not dry_run, but=lease), default=time.time())
    cutoff = min(time.time() - grace, started)
    if not dry_run:
        _empty(trash, layout, cutoff)
    found = dict(blobs(layout))
    live = _live(layout, found, cutoff)
    removed: list[Digest] = []
    size = 0
    for digest in sorted(found.keys() - live):
        if found[digest].st_mtime >= cutoff or not (dry_run or _remove(layout, digest, trash, cutoff)):
            continue
        removed.append(digest)
        size += found[digest].st_size
    parts = 0
    for path, status in list(_files(own / "partial")):
        if status.st_mtime < cutoff:
            if not dry_run:
                path.unlink(missing_ok=True)
            parts += 1
            size += status.st_size
    return Garbage(digests=tuple(removed), size=size, parts=parts, removed=not dry_run, layout=layout, grace=grace)


def _live(layout: Layout, found: dict[Digest, os.stat_result], cutoff: float) -> set[Digest]:
    """Digests that entries lead to, and documents that are too young to judge, and referrers of either."""
    links = graph(layout)
    live = links.walk(links_from(layout.entries()))
    # Whatever else may be a document: a root pushed but not named yet, or a referrer that another tool didn't list
    loose = [
        Link(digest=digest) for digest, status in found.items() if digest not in live and status.st_size <= STORED_LIMIT
    ]
    loose = [link for link in loose if links.children(link)]
    grown = True
    while grown:
        kept = [
            link
            for link in loose
            if found[link.digest].st_mtime >= cutoff
            or any(child.subject and child.digest in live for child in links.children(link))
        ]
        loose = [link for link in loose if link not in kept]
        links.walk(kept, seen=live)
        grown = bool(kept)
    return live


def _remove(layout: Layout, digest: Digest, trash: Path, cutoff: float) -> bool:
    """Take a blob away unless somebody touches it at this very moment; whether it went.

    Whoever pushes or asks for a blob makes it young, without a lock. So it is moved aside first, where nobody touches
    it any more, and judged again.
    """
    aside = blob_path(trash, digest)
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(layout.blob(digest), aside)
    except FileNotFoundError:
        return False
    return _judge(aside, layout.blob(digest), cutoff)


def _judge(aside: Path, home: Path, cutoff: float) -> bool:
    if aside.stat().st_mtime >= cutoff:
        os.rename(aside, home)
        return False
    aside.unlink()
    return True


def _empty(trash: Path, layout: Layout, cutoff: float) -> None:
    """Finish what a sweep that was killed left half done."""
    for folder in list((trash / "blobs").glob("*")):
        for aside, _ in list(_files(folder)):
            _judge(aside, layout.blob(Digest(f"{folder.name}:{aside.name}")), cutoff)


def _files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as listing:
        for entry in listing:
            with contextlib.suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat()


def live_leases(folder: Path, *, clean: bool, but: str | None = None) -> Iterator[float]:
    """When the open layouts that pushed something first did so, in seconds since the epoch.

    Args:
        folder: where the leases are.
        clean: whether to remove those whose process is gone; only under the layout's lock.
        but: a lease to pass over.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415 - 80 ms of import that reading doesn't need

    for path, status in list(_files(folder)):
        if str(path) == but:
            continue
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield status.st_mtime
            continue
        if clean:
            path.unlink(missing_ok=True)
        lock.release()


def audit(layout: Layout, *, workers: int) -> Audit:
    """Hash every blob, and look for what documents name and the layout doesn't have."""
    found = dict(blobs(layout))
    verifiable = [digest for digest in found if digest.verifiable]

    def damaged(digest: Digest) -> bool:
        try:
            with open(layout.blob(digest), "rb", buffering=0) as file:
                return hashlib.file_digest(file, digest.algorithm).hexdigest() != digest.encoded
        except FileNotFoundError:
            return False  # swept meanwhile

    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="ocikit-verify") as pool:
        wrong = list(pool.map(damaged, verifiable))
    named = graph(layout, strict=False).walk(links_from(layout.entries()))
    return Audit(
        checked=len(verifiable),
        size=sum(found[digest].st_size for digest in verifiable),
        damaged=tuple(digest for digest, bad in zip(verifiable, wrong, strict=True) if bad),
        missing=tuple(sorted(digest for digest in named if digest not in found)),
        unverifiable=tuple(sorted(found.keys() - set(verifiable))),
    )
