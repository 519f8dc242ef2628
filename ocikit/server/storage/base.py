"""Where a registry keeps things: three small protocols, and the order in which they are told.

Bytes first, whole and verified; then the rows that make them visible; then a look whether the bytes are still there; then
the answer. A crash in between leaves content that nobody names, for `collect` to find, and never a name without content.

Content is deleted only in `Metadata.drop` and `Metadata.alone`, while nobody can name anything. Whoever deletes before a
row is written is found out by the look after it; after the row, nobody deletes. So it doesn't matter how long a push takes,
nor what the clock does: what was acknowledged is there. The grace period is for pushes between their blobs and manifest.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TypeVar

from attrs import define, frozen

from ocikit.server.http.request import RequestBody
from ocikit.spec.digest import Digest

T = TypeVar("T")

#: Bytes that are compared at once.
_PIECE = 1 << 17


class UnknownUpload(LookupError):
    """No such upload session in this repository, for this user."""


class OffsetMismatch(Exception):
    """Bytes that don't follow what is there; `size` is how much that is."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the upload has {size} bytes")
        self.size = size


class UploadDigestMismatch(Exception):
    """An upload that isn't what it should be; it is gone."""


class PreconditionFailed(Exception):
    """A condition of the client's that doesn't hold any more."""


class BlobInUse(Exception):
    """Content that a manifest still needs."""


class QuotaExceeded(Exception):
    """A blob that a repository has no room for."""


class BlobStore(ABC):
    """Content by digest, each once for all repositories. Many threads and processes use it at once."""

    @abstractmethod
    def stat(self, digest: Digest) -> int | None:
        """The size in bytes of what is there, or None."""

    @abstractmethod
    def open(self, digest: Digest) -> BinaryIO:
        """The content, seekable; it can be read to its end even if it is deleted meanwhile. Raises: KeyError."""

    @abstractmethod
    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Take in verified content, whole and lasting when this returns; replaces what is there.

        Until then, and if it fails, everybody sees what was there before.
        """

    def take(self, digest: Digest, path: Path) -> None:
        """Take in a verified, synced file that the caller doesn't need any more; by moving it, where that can be done.

        The file stays as it is if this fails.
        """
        with path.open("rb") as stream:
            self.put(digest, stream)
        path.unlink()

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Remove content; nothing happens if it isn't there."""

    @abstractmethod
    def iterate(self) -> Iterator[Digest]:
        """Every digest that there is, in any order."""

    def tidy(self, before: float) -> int:
        """Remove what a crash left half-written before a time in seconds since the epoch; gives how many."""
        return 0


@frozen
class Upload:
    """An upload session, as its URL names it: good for one repository and one user only."""

    id: str
    """At least 128 random bits in URL-safe characters."""
    repository: str
    owner: str = ""
    """Who began it; "" for anyone."""


class UploadStore(ABC):
    """Uploads on their way: they outlive a restart, and belong to whom they were begun by."""

    @abstractmethod
    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256") -> Upload:
        """Begin, with no bytes. *algorithm* is what the digest will most likely be of; any other works too."""

    @abstractmethod
    def size(self, upload: Upload) -> int:
        """Bytes received so far. Raises: UnknownUpload."""

    @abstractmethod
    def append(self, upload: Upload, body: RequestBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Take in a body, and give the size after it. What came before a broken body's end, or a full disk, is kept.

        Args:
            upload: the session.
            body: the bytes.
            offset: where the client believes that they go; None for the end.
            length: how many the client says there are; if there are not as many, nothing of them is kept.
        Raises:
            UnknownUpload, Refusal: for the body's sake.
            OutOfOrder: if they don't go there, or another request is writing; nothing has changed.
        """

    @abstractmethod
    def finish(
        self, upload: Upload, digest: Digest, body: RequestBody, blobs: BlobStore, *, offset: int | None = None,
        length: int | None = None,
    ) -> int:  # fmt: skip
        """Take in the last body, verify, hand the content over, end the session; gives the size.

        Raises:
            UnknownUpload, OutOfOrder, Refusal: as `append`; the session goes on, as it does when *blobs* fails.
            WrongDigest: the session is gone.
        """

    @abstractmethod
    def abort(self, upload: Upload) -> None:
        """End without keeping anything. Raises: UnknownUpload."""

    @abstractmethod
    def count(self, owner: str | None = None) -> int:
        """How many sessions there are, of one owner or in all; of very many, it may be how many there were just now."""

    @abstractmethod
    def expire(self, before: float) -> int:
        """Remove what nobody wrote to since a time in seconds since the epoch, nor is writing to; gives how many."""


@frozen(kw_only=True)
class ManifestRow:
    """A manifest in a repository."""

    digest: Digest
    media_type: str
    size: int
    subject: Digest | None = None
    artifact_type: str | None = None
    """As a list of referrers shows it."""
    referrer: str = ""
    """The descriptor that such a list has for it, as JSON; "" without a subject."""
    children: tuple[Digest, ...] = ()
    """Configs, layers and manifests that it can't do without."""


class Metadata(ABC):
    """Which repository has what under which name. Every change is one transaction; order is byte by byte."""

    @abstractmethod
    def repositories(self, *, last: str = "", limit: int) -> list[str]:
        """Names after *last*, in order."""

    @abstractmethod
    def has_repository(self, repository: str) -> bool:
        """Whether anything was ever kept under the name."""

    @abstractmethod
    def blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that the repository has, or None.

        Asking keeps the collector away for most of a grace period, three quarters of it at least.
        """

    @abstractmethod
    def used(self, repository: str) -> int:
        """Bytes of the blobs that a repository has."""

    @abstractmethod
    def repositories_with(self, digest: Digest) -> Iterator[str]:
        """The repositories that have a blob."""

    @abstractmethod
    def claim(self, digest: Digest) -> None:
        """Keep the collector away from content that is about to be put and named, for most of a grace period."""

    @abstractmethod
    def link(self, repository: str, digest: Digest, size: int, *, quota: int | None = None) -> None:
        """Let a repository have a blob that is in the store.

        Args:
            repository: its name.
            digest: the blob's.
            size: bytes of the blob.
            quota: bytes that all its blobs may have together; what it has already, it may have again.
        Raises:
            Full: above the quota; nothing has changed.
        """

    @abstractmethod
    def unlink(self, repository: str, digest: Digest, *, force: bool = False) -> bool:
        """Take a blob from a repository; False if it has none. Its content stays for a grace period.

        Raises:
            Referenced: if a manifest of the repository needs it, unless forced.
        """

    @abstractmethod
    def missing(self, repository: str, digests: Sequence[Digest]) -> set[Digest]:
        """Those of the digests that are neither blobs nor manifests of the repository."""

    @abstractmethod
    def put(
        self, repository: str, entry: ManifestRow, tags: Sequence[str] = (), *, strict: bool = False,
        expected: Sequence[Digest] | None = None, fresh: bool = False,
    ) -> None:  # fmt: skip
        """Add a manifest whose bytes are in the store, and let tags name it.

        Args:
            repository: its name.
            entry: the manifest.
            tags: what shall name it.
            strict: whether every child must be there.
            expected: the tags must name one of these now; without tags, the manifest itself must be one.
            fresh: the tags must name nothing now; without tags, the manifest must not be there.
        Raises:
            KeyError: with the set of children that aren't there, if strict; nothing has changed.
            Conflict: if a tag isn't as expected; nothing has changed.
        """

    @abstractmethod
    def manifest(self, repository: str, reference: str) -> ManifestRow | None:
        """What a tag or digest names; without children. Asking by digest keeps the collector away, as with `blob`."""

    @abstractmethod
    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest with its tags; False if there is none. What it needed stays for a grace period."""

    @abstractmethod
    def untag(self, repository: str, tag: str) -> bool:
        """Remove a tag; False if there is none."""

    @abstractmethod
    def tags(self, repository: str, *, last: str = "", limit: int) -> list[str]:
        """Tags after *last*, in order."""

    @abstractmethod
    def referrers(
        self, repository: str, subject: Digest, *, artifact_type: str | None = None, last: str = "", limit: int
    ) -> list[ManifestRow]:
        """The manifests with the subject, ordered by digest, after the digest *last*."""

    @abstractmethod
    def iter_references(self) -> Iterator[tuple[Digest, str, int]]:
        """Everything that anybody has, blobs and manifests: digest, repository, size; ordered by digest."""

    @abstractmethod
    def untagged(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Manifests that no tag leads to, and that were last pushed, asked for or let go of before a time.

        A tag leads to a manifest, to the manifests in it, to the manifests whose subject is one of these, and so on.
        """

    @abstractmethod
    def drop_untagged(self, repository: str, before: float) -> list[tuple[Digest, int]]:
        """Delete a repository's manifests that are as `untagged` says, at one moment; gives their digests and sizes."""

    @abstractmethod
    def unreferenced(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Blobs that a repository has had since before a time, and no manifest of it needs: name, digest, size."""

    @abstractmethod
    def unnamed(self, before: float) -> Iterator[tuple[Digest, int]]:
        """Content that nobody has had since before a time, with its size."""

    @abstractmethod
    def adopt(self, digests: Sequence[Digest]) -> int:
        """Content found in the store without a row gets one, aged from now; gives how many there were."""

    @abstractmethod
    def remove_blob_if_unused(self, repository: str, digest: Digest, before: float) -> bool:
        """Unlink, if it is still as `unreferenced` said."""

    @abstractmethod
    def drop(self, digest: Digest, before: float, blobs: BlobStore) -> bool:
        """Delete content, if it is still as `unnamed` said, with nobody able to name it meanwhile."""

    @abstractmethod
    def alone(self, work: Callable[[], T]) -> T:
        """Do something while nobody, in this process or another, can name anything."""

    @abstractmethod
    def close(self) -> None:
        """Let go of connections."""


@define(eq=False)
class Storage:
    """The three together, and what must be done to all of them in order."""

    blobs: BlobStore
    uploads: UploadStore
    metadata: Metadata

    def finish(
        self, upload: Upload, digest: Digest, body: RequestBody, *, offset: int | None = None, length: int | None = None,
        quota: int | None = None,
    ) -> int:  # fmt: skip
        """End an upload: its content is a blob of the repository. Gives the size.

        Raises:
            UnknownUpload, OutOfOrder, Refusal, WrongDigest: as `UploadStore.finish`.
            Full: as `Metadata.link`; the session is gone.
        """
        self.metadata.claim(digest)
        size = self.uploads.finish(upload, digest, body, self.blobs, offset=offset, length=length)
        if not self._link(upload.repository, digest, size, quota):
            # The collector was faster: the body took longer than the grace period
            raise UnknownUpload(upload.id)
        return size

    def blob(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob that the repository has and the store too, whole; else None, and pushing it again heals."""
        size = self.metadata.blob(repository, digest)
        return size if size is not None and self.blobs.stat(digest) == size else None

    def mount(self, repository: str, digest: Digest, source: str, *, quota: int | None = None) -> bool:
        """Let a repository have what another one has; False if that one doesn't. Raises: Full: as `Metadata.link`."""
        size = self.blob(source, digest)
        return size is not None and self._link(repository, digest, size, quota)

    def put_manifest(
        self, repository: str, entry: ManifestRow, stream: BinaryIO, tags: Sequence[str] = (), *, strict: bool = False,
        expected: Sequence[Digest] | None = None, fresh: bool = False,
    ) -> None:  # fmt: skip
        """Keep a manifest's bytes, from a seekable stream, then its row and names. Raises: as `Metadata.put`."""
        if strict and (absent := self.metadata.missing(repository, entry.children)):
            raise KeyError(absent)
        self.metadata.claim(entry.digest)
        self._keep(entry, stream)
        self.metadata.put(repository, entry, tags, strict=strict, expected=expected, fresh=fresh)
        if self.blobs.stat(entry.digest) != entry.size:
            # The collector was faster
            self._keep(entry, stream)

    def close(self) -> None:
        """Let go of connections."""
        self.metadata.close()

    def _link(self, repository: str, digest: Digest, size: int, quota: int | None) -> bool:
        """Let a repository have a blob; False if the store has lost it meanwhile.

        The row stays then, since somebody else may have pushed the blob by now. Without content it shows nothing.
        """
        self.metadata.link(repository, digest, size, quota=quota)
        return self.blobs.stat(digest) == size

    def _keep(self, entry: ManifestRow, stream: BinaryIO) -> None:
        """Put a manifest's bytes, unless exactly these are there: then a sync is saved."""
        stream.seek(0)
        if not self._same(entry, stream):
            stream.seek(0)
            self.blobs.put(entry.digest, stream)

    def _same(self, entry: ManifestRow, stream: BinaryIO) -> bool:
        if self.blobs.stat(entry.digest) != entry.size:
            return False
        with contextlib.suppress(KeyError), self.blobs.open(entry.digest) as kept:
            while piece := kept.read(_PIECE):
                if stream.read(len(piece)) != piece:
                    return False
            return not stream.read(1)
        return False
