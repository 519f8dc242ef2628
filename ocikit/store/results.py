"""Results of garbage collection and verification."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import field, frozen

from ocikit import display
from ocikit.errors import OcikitError
from ocikit.spec.digest import Digest, hash_file

#: Why a blob is corrupt: it is absent, has another size or another digest, or cannot be read.
Problem: TypeAlias = Literal["missing", "size", "digest", "unreadable"]


@frozen(kw_only=True)
class RemovedBlob:
    """A blob or manifest that a garbage collection deleted, or would delete."""

    digest: Digest
    size: int
    """Bytes."""
    repository: str = ""
    """Name of the repository that lost it; empty if the stored content itself is deleted."""


@frozen(kw_only=True, repr=False)
class GCResult(display.Displayable):
    """Result of a garbage collection, or of its dry run.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> ocikit.delete("oci:waves:v1")
    >>> ocikit.Layout("waves").gc(dry_run=True, grace=0)
    GCResult(dry_run=True, blobs=3, size=487 B)
    """

    dry_run: bool
    blobs: tuple[RemovedBlob, ...] = ()
    """Deleted content."""
    manifests: tuple[RemovedBlob, ...] = ()
    """Untagged manifests that were deleted from their repositories."""
    unlinked: tuple[RemovedBlob, ...] = ()
    """Blobs that were removed from a repository. Their content is deleted once no repository has it."""
    partial: int = 0
    """Number of unfinished transfers that were deleted."""
    partial_size: int = 0
    """Bytes of the unfinished transfers."""
    uploads: int = 0
    """Number of expired upload sessions. A dry run does not count them."""
    _run: Callable[[], GCResult] | None = field(default=None, eq=False, repr=False)

    @property
    def digests(self) -> tuple[Digest, ...]:
        """Digests of the deleted content."""
        return tuple(blob.digest for blob in self.blobs)

    @property
    def size(self) -> int:
        """Bytes of the deleted content and of unfinished transfers."""
        return sum(blob.size for blob in self.blobs) + self.partial_size

    def run(self) -> GCResult:
        """Run the garbage collection after a dry run; return itself if it has run already.

        The store is scanned again, because it may have changed since the dry run.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> ocikit.delete("oci:waves:v1")
        >>> result = ocikit.Layout("waves").gc(dry_run=True, grace=0)
        >>> result.run().dry_run
        False
        """
        return self._run() if self.dry_run and self._run is not None else self

    def __rich_repr__(self) -> display.Description:
        yield "dry_run", self.dry_run
        yield "blobs", len(self.blobs)
        yield "size", display.Size(self.size)
        yield "manifests", len(self.manifests), 0
        yield "unlinked", len(self.unlinked), 0
        yield "partial", self.partial, 0
        yield "uploads", self.uploads, 0

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "blobs", "manifests", "unlinked")

    def _sections(self) -> Iterator[display.Section]:
        for title, removed in (("untagged manifests", self.manifests), ("removed from repositories", self.unlinked)):
            if removed:
                rows = ((blob.repository, display.Size(blob.size), display.DigestCell(blob.digest)) for blob in removed)
                headers = ("repository", "size", "digest")
                yield display.Section(title=title, headers=headers, rows=rows, count=len(removed))
        yield display.Section(
            title="blobs to delete" if self.dry_run else "blobs deleted",
            headers=("size", "digest"),
            rows=((display.Size(blob.size), display.DigestCell(blob.digest)) for blob in self.blobs),
            count=len(self.blobs),
            hint=display.Code(".run()") if self.dry_run and self._run is not None and self.blobs else "",
        )


@frozen(kw_only=True)
class CorruptBlob:
    """A blob that is missing or does not match its digest.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> layout = ocikit.Layout("waves")
    >>> size = layout.blob(ocikit.Digest.of(b"hello")).write_bytes(b"jello")
    >>> [(blob.problem, blob.digest.short) for blob in layout.verify().corrupt]
    [('digest', 'sha256:2cf24dba5fb0')]
    """

    digest: Digest
    problem: Problem
    detail: str = ""
    """The problem in words, such as the digest that the content has."""
    path: Path | None = None
    """The corrupt file; None if the content is missing or is not a file."""
    expected_size: int | None = None
    """Bytes, as documents or repositories record it; None if none does."""
    actual_size: int | None = None
    """Bytes that are stored; None if the content is missing."""
    repositories: tuple[str, ...] = ()
    """Repositories that have the blob. A push of the blob to any of them repairs it for all."""


@frozen(kw_only=True, repr=False)
class VerifyResult(display.Displayable):
    """Result of hashing all stored content.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> ocikit.Layout("waves").verify()
    VerifyResult(ok=True, checked=3, size=487 B)
    """

    checked: int
    """Number of blobs that were hashed."""
    size: int
    """Bytes that were hashed."""
    corrupt: tuple[CorruptBlob, ...] = ()
    """Blobs to store again."""
    missing: tuple[Digest, ...] = ()
    """Content that documents in a layout reference but that the layout lacks. A layout may be incomplete."""
    unverifiable: tuple[Digest, ...] = ()
    """Blobs with a digest algorithm that cannot be computed."""
    removed: bool = False
    """Whether the corrupt content was deleted."""

    @property
    def ok(self) -> bool:
        """Whether no blob is corrupt."""
        return not self.corrupt

    def __rich_repr__(self) -> display.Description:
        yield "ok", self.ok
        yield "checked", self.checked
        yield "size", display.Size(self.size)
        yield "corrupt", tuple(display.DigestCell(blob.digest) for blob in self.corrupt[: display.ROWS]), ()
        yield "missing", tuple(map(display.DigestCell, self.missing[: display.ROWS])), ()
        yield "unverifiable", tuple(map(display.DigestCell, self.unverifiable[: display.ROWS])), ()
        yield "removed", self.removed, False

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "corrupt", "missing", "unverifiable")

    def _sections(self) -> Iterator[display.Section]:
        if self.corrupt:
            yield display.Section(
                title="corrupt",
                headers=("problem", "where", "digest"),
                rows=((_problem(blob), _location(blob), display.DigestCell(blob.digest)) for blob in self.corrupt),
                count=len(self.corrupt),
                unfolded=True,
            )
        for title, digests in (("missing", self.missing), ("unverifiable", self.unverifiable)):
            if digests:
                yield display.Section(title=title, names=map(display.DigestCell, digests), count=len(digests))


def check_blobs(files: Iterable[tuple[Digest, Path]], *, workers: int) -> tuple[CorruptBlob, ...]:
    """Return the files whose content does not match its digest.

    Skip files that are deleted meanwhile.

    Args:
        files: Digests and the files that hold their content.
        workers: Number of threads.
    """
    with ThreadPoolExecutor(max(workers, 1), thread_name_prefix="ocikit-verify") as pool:
        return tuple(filter(None, pool.map(lambda item: _check_file(*item), files)))


def _check_file(digest: Digest, path: Path) -> CorruptBlob | None:
    try:
        actual = hash_file(path, digest.algorithm)
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    except (OSError, OcikitError) as error:
        return CorruptBlob(digest=digest, problem="unreadable", detail=display.sanitize(error), path=path)
    if actual == digest:
        return None
    return CorruptBlob(
        digest=digest, problem="digest", detail=f"its content has digest {actual}", path=path, actual_size=size
    )


def _problem(blob: CorruptBlob) -> str:
    return blob.detail or blob.problem


def _location(blob: CorruptBlob) -> str:
    if blob.path is not None:
        return display.display_path(blob.path)
    return display.join_limited(blob.repositories) or "(no repository)"
