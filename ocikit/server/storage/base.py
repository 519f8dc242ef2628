"""The interfaces of a registry's storage: content, upload sessions and metadata.

`combined.Storage` combines the three.
"""

from __future__ import annotations

import errno
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from attrs import field, frozen

from ocikit.spec.digest import Digest

T = TypeVar("T")

#: Error numbers of a full disk or an exhausted disk quota.
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Unavailable(Exception):
    """The database or the object store cannot be reached now.

    Args:
        message: What does not answer.
        retry_after: Seconds after which a client may try again.
    """

    def __init__(self, message: str, *, retry_after: float = 2.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnknownUpload(LookupError):
    """The repository and user have no such upload session."""


class MissingChildren(LookupError):
    """A manifest references content that its repository does not have.

    Args:
        digests: Digests of the missing content.
    """

    def __init__(self, digests: set[Digest]) -> None:
        super().__init__(", ".join(sorted(digests)))
        self.digests = digests


class OffsetMismatch(Exception):
    """A chunk does not start at the end of the upload.

    Args:
        size: Current size of the upload in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(f"the upload has {size} bytes")
        self.size = size


class LengthMismatch(Exception):
    """A body has more or fewer bytes than its Content-Range.

    Args:
        expected: Bytes according to Content-Range.
        actual: Bytes received.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"Content-Range has {expected} bytes, the body {actual}")
        self.expected = expected
        self.actual = actual


class UploadDigestMismatch(Exception):
    """The uploaded bytes do not match the digest; the session is deleted."""


class PreconditionFailed(Exception):
    """An If-Match or If-None-Match condition does not hold."""


class BlobInUse(Exception):
    """A manifest still references the blob."""


class QuotaExceeded(Exception):
    """The content does not fit into the repository's quota."""


class UploadBody(Protocol):
    """A request body, read once from start to end.

    Reading raises the error that the HTTP layer reports to the client, for example for a broken connection. Adapters
    must not catch it.

    >>> from ocikit.server.http.request import RequestBody
    >>> import io
    >>> body = RequestBody(io.BytesIO(b"hello"), length=5)
    >>> body.length, body.read_chunk(2), body.read_chunk(9)
    (5, b'he', b'llo')
    """

    @property
    def length(self) -> int | None:
        """The announced length in bytes, or None for a chunked body."""

    def read_chunk(self, size: int = ...) -> bytes:
        """Return at most `size` bytes, and no bytes at the end.

        >>> import io
        >>> from ocikit.server.http.request import RequestBody
        >>> body = RequestBody(io.BytesIO(b"hello"), length=5)
        >>> body.read_chunk(3), body.read_chunk(3), body.read_chunk(3)
        (b'hel', b'lo', b'')
        """


class StoredBlob(ABC):
    """A blob of a repository, ready to be read.

    >>> import io
    >>> from ocikit.server import memory_storage
    >>> storage, digest = memory_storage(), ocikit.Digest.of(b"hello")
    >>> storage.blobs.put(digest, io.BytesIO(b"hello"))
    >>> storage.metadata.add_blob("ada/waves", digest, 5)
    >>> with storage.find_blob("ada/waves", digest).open(1, 3) as file:
    ...     file.read(3)
    b'ell'
    >>> storage.close()
    """

    size: int
    """Bytes."""

    @abstractmethod
    def open(self, first: int, length: int) -> BinaryIO:
        """Open the content at a byte.

        Args:
            first: Offset of the first byte that is read.
            length: Bytes that are read at most.

        Returns:
            The content from that byte on.

        Raises:
            KeyError: The content is not stored.
        """

    def link(self, *, seconds: int) -> str | None:
        """Return a URL that a client reads the content from without credentials; None if the store has none.

        Args:
            seconds: How long the URL is valid.

        >>> import io
        >>> from ocikit.server import memory_storage
        >>> storage, digest = memory_storage(), ocikit.Digest.of(b"hello")
        >>> storage.blobs.put(digest, io.BytesIO(b"hello"))
        >>> storage.metadata.add_blob("ada/waves", digest, 5)
        >>> print(storage.find_blob("ada/waves", digest).link(seconds=60))
        None
        >>> storage.close()
        """
        return None


class BlobStore(ABC):
    """Content by digest, stored once for all repositories.

    Many threads and processes use it at once.

    >>> import io
    >>> from ocikit.server import memory_storage
    >>> blobs, digest = memory_storage().blobs, ocikit.Digest.of(b"hello")
    >>> blobs.put(digest, io.BytesIO(b"hello"))
    >>> blobs.stat(digest), blobs.open(digest).read(), list(blobs.iterate()) == [digest]
    (5, b'hello', True)
    >>> blobs.delete(digest)
    """

    @abstractmethod
    def stat(self, digest: Digest) -> int | None:
        """Return the size in bytes of stored content, or None."""

    @abstractmethod
    def open(self, digest: Digest) -> BinaryIO:
        """Open content as a seekable file that stays readable after a deletion.

        Raises:
            KeyError: The content is not stored.
        """

    @abstractmethod
    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Store verified content durably; replace existing content atomically.

        Readers see the old content until this returns, and also if it fails.

        Args:
            digest: Digest of the content.
            stream: The content, verified.
        """

    def put_file(self, digest: Digest, path: Path) -> None:
        """Store a verified, synced file and remove it; move it where possible.

        The file stays unchanged if this fails.

        Args:
            digest: Digest of the content.
            path: A file on the same host.

        >>> from pathlib import Path
        >>> from ocikit.server import memory_storage
        >>> size = Path("upload").write_bytes(b"hello")
        >>> blobs, digest = memory_storage().blobs, ocikit.Digest.of(b"hello")
        >>> blobs.put_file(digest, Path("upload"))
        >>> blobs.stat(digest), Path("upload").exists()
        (5, False)
        """
        with path.open("rb") as stream:
            self.put(digest, stream)
        path.unlink()

    @abstractmethod
    def delete(self, digest: Digest) -> None:
        """Delete content; do nothing if it is not stored."""

    @abstractmethod
    def iterate(self) -> Iterator[Digest]:
        """Yield the digest of all stored content in any order."""

    def remove_partial(self, before: float) -> int:
        """Delete the incomplete files of crashed processes; return their number.

        Args:
            before: Time in seconds since the epoch; newer files are kept.

        >>> import time
        >>> from ocikit.server import memory_storage
        >>> memory_storage().blobs.remove_partial(time.time() - 3600)
        0
        """
        return 0


@frozen
class Upload:
    """An upload session, valid for one repository and one user.

    >>> from ocikit.server import memory_storage
    >>> upload = memory_storage().uploads.create("ada/waves", "ada")
    >>> upload.repository, upload.owner
    ('ada/waves', 'ada')
    """

    id: str
    """At least 128 random bits in URL-safe characters."""
    repository: str
    owner: str = ""
    """The user name; "" for anonymous uploads."""


@frozen
class UploadState:
    """How long an upload session is idle, and whether it is empty.

    >>> from ocikit.server import memory_storage
    >>> uploads = memory_storage().uploads
    >>> upload = uploads.create("ada/waves")
    >>> [state.size for state in uploads.states()]
    [0]
    """

    written: float
    """Time in seconds since the epoch when it was created or last written."""
    size: int
    """Bytes received."""


class UploadStore(ABC):
    """Upload sessions. They survive a restart and belong to the user who created them.

    Sessions are counted by holder: the user, or the network of an anonymous client. The address of a client may change
    between two requests, so it does not decide the ownership.

    >>> import io
    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.http.request import RequestBody
    >>> storage, digest = memory_storage(), ocikit.Digest.of(b"hello")
    >>> upload = storage.uploads.create("ada/waves", "ada")
    >>> storage.uploads.append(upload, RequestBody(io.BytesIO(b"hel"), length=3))
    3
    >>> storage.uploads.finish(upload, digest, RequestBody(io.BytesIO(b"lo"), length=2), storage.blobs)
    5
    >>> storage.blobs.stat(digest), storage.uploads.count()
    (5, 0)
    """

    def now(self) -> float:
        """Return the time of the store's clock in seconds since the epoch; all its times are by it.

        >>> import time
        >>> from ocikit.server import memory_storage
        >>> memory_storage().uploads.now() <= time.time()
        True
        """
        return time.time()

    @abstractmethod
    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256", holder: str = "") -> Upload:
        """Create an empty session.

        Args:
            repository: Target repository.
            owner: User name.
            algorithm: Expected digest algorithm; a hint, other algorithms work too.
            holder: The client that the session counts for.

        Returns:
            The session.
        """

    @abstractmethod
    def size(self, upload: Upload) -> int:
        """Return the number of bytes received.

        Raises:
            UnknownUpload: The session does not exist.
        """

    @abstractmethod
    def append(self, upload: Upload, body: UploadBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Append a body and return the new size.

        Bytes received before a broken connection or a full disk are kept.

        Args:
            upload: Session of the upload.
            body: Bytes to append; its errors pass through.
            offset: Offset that the client expects in bytes; None for the end.
            length: Length that the client announced in bytes; on a mismatch the whole body is dropped.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: The offset is not the current size, or another request writes; nothing changed.
            LengthMismatch: The body does not have `length` bytes.
        """

    @abstractmethod
    def finish(
        self,
        upload: Upload,
        digest: Digest,
        body: UploadBody,
        blobs: BlobStore,
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> int:
        """Append the last body, verify the digest, store the blob, and return its size.

        The session is deleted on success. If `blobs` fails, the session stays.

        Args:
            upload: Session of the upload.
            digest: Digest of the whole blob.
            body: The last bytes; its errors pass through.
            blobs: The store of the blob.
            offset: Offset that the client expects in bytes; None for the end.
            length: Length that the client announced in bytes.

        Raises:
            UnknownUpload: See `append`.
            OffsetMismatch: See `append`.
            LengthMismatch: See `append`.
            UploadDigestMismatch: The bytes have another digest; the session is deleted.
        """

    @abstractmethod
    def abort(self, upload: Upload) -> None:
        """Delete a session.

        Raises:
            UnknownUpload: The session does not exist.
        """

    @abstractmethod
    def count(self, holder: str | None = None) -> int:
        """Return the number of sessions of one holder, or of all.

        Large numbers may be slightly outdated.
        """

    @abstractmethod
    def used_bytes(self, repository: str) -> int:
        """Return the number of bytes that the sessions of a repository have received."""

    @abstractmethod
    def states(self, holder: str | None = None) -> Iterator[UploadState]:
        """Yield the state of each session of one holder, or of all."""

    @abstractmethod
    def expire(self, before: float, *, empty_before: float | None = None, holder: str | None = None) -> int:
        """Delete idle sessions that were last written before a time; return their number.

        Args:
            before: Time in seconds since the epoch.
            empty_before: Time for sessions without bytes; None uses that of other sessions.
            holder: Delete sessions of this holder only; None for all.
        """


@frozen(kw_only=True)
class ManifestRow:
    """The metadata of a manifest in a repository.

    >>> from ocikit.server.storage.base import ManifestRow
    >>> index = ocikit.Index(manifests=[])
    >>> ManifestRow(digest=index.digest, media_type=index.media_type, size=index.size).size
    88
    """

    digest: Digest
    media_type: str
    size: int
    subject: Digest | None = None
    artifact_type: str | None = None
    """The artifact type in a list of referrers."""
    referrer: str = ""
    """The descriptor in a list of referrers as JSON; "" without a subject."""
    children: tuple[Digest, ...] = ()
    """The configs, layers and manifests that it references."""
    raw: bytes | None = field(default=None, repr=False, eq=False)
    """The manifest's bytes, if the metadata has them."""


class Metadata(ABC):
    """Repositories, tags and references.

    Each change is one transaction. Lists are sorted byte by byte.

    >>> from ocikit.server import memory_storage
    >>> from ocikit.server.storage.base import ManifestRow
    >>> metadata, index = memory_storage().metadata, ocikit.Index(manifests=[])
    >>> metadata.add_blob("ada/waves", ocikit.Digest.of(b"hello"), 5)
    >>> row = ManifestRow(digest=index.digest, media_type=index.media_type, size=index.size)
    >>> metadata.put_manifest("ada/waves", row, ["v1", "latest"])
    >>> metadata.tags("ada/waves", limit=10), metadata.repositories(limit=10)
    (['latest', 'v1'], ['ada/waves'])
    >>> metadata.close()
    """

    def now(self) -> float:
        """Return the time of the store's clock in seconds since the epoch; all its times are by it.

        >>> import time
        >>> from ocikit.server import memory_storage
        >>> metadata = memory_storage().metadata
        >>> metadata.now() <= time.time()
        True
        >>> metadata.close()
        """
        return time.time()

    @abstractmethod
    def repositories(self, *, last: str = "", limit: int) -> list[str]:
        """Return repository names after `last` in order.

        Args:
            last: Last name of the page before.
            limit: Greatest number of names.
        """

    @abstractmethod
    def has_repository(self, repository: str) -> bool:
        """Return True if anything was ever pushed to the repository."""

    @abstractmethod
    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Return the size in bytes of a blob of the repository, or None.

        The call protects the blob from garbage collection for at least three quarters of a grace period.

        Args:
            repository: Repository name.
            digest: Digest of the blob.
        """

    @abstractmethod
    def used_bytes(self, repository: str) -> int:
        """Return the total size of a repository's blobs and manifests."""

    @abstractmethod
    def repositories_with(self, digest: Digest) -> Iterator[str]:
        """Yield the repositories that have a blob."""

    @abstractmethod
    def protect_from_gc(self, digest: Digest) -> None:
        """Protect content for most of a grace period before it is stored and referenced."""

    @abstractmethod
    def add_blob(self, repository: str, digest: Digest, size: int, *, quota: int | None = None) -> None:
        """Add a stored blob to a repository.

        Args:
            repository: Repository name.
            digest: Digest of the blob.
            size: Size of the blob in bytes.
            quota: Maximum of `used_bytes`; a blob that the repository already has counts once.

        Raises:
            QuotaExceeded: The blob does not fit; nothing changed.
        """

    @abstractmethod
    def remove_blob(self, repository: str, digest: Digest, *, force: bool = False) -> bool:
        """Remove a blob from a repository; its content stays for a grace period.

        Args:
            repository: Repository name.
            digest: Digest of the blob.
            force: Remove a blob that a manifest references, too.

        Returns:
            False if the repository does not have the blob.

        Raises:
            BlobInUse: A manifest of the repository references it and `force` is False.
        """

    @abstractmethod
    def sizes(self, repository: str, digests: Sequence[Digest]) -> dict[Digest, int]:
        """Return the sizes in bytes of those digests that are blobs or manifests of the repository.

        Args:
            repository: Repository name.
            digests: Digests to look up.
        """

    @abstractmethod
    def put_manifest(
        self,
        repository: str,
        row: ManifestRow,
        tags: Sequence[str] = (),
        *,
        require_children: bool = False,
        if_match: Sequence[Digest] | None = None,
        if_none_match: bool = False,
        quota: int | None = None,
    ) -> None:
        """Add a manifest whose bytes are stored, and set tags to it.

        Args:
            repository: Repository name.
            row: Row of the manifest.
            tags: Tags to set.
            require_children: Reject the manifest if a child is missing.
            if_match: The tags must now point to one of these digests; without tags, the manifest must be one of them.
            if_none_match: The tags must not exist; without tags, the manifest must not exist.
            quota: Maximum of `used_bytes`; a manifest that the repository already has counts once.

        Raises:
            MissingChildren: A child is missing and `require_children` is True; nothing changed.
            PreconditionFailed: A condition does not hold; nothing changed.
            QuotaExceeded: The manifest does not fit; nothing changed.
        """

    @abstractmethod
    def manifest(self, repository: str, reference: str) -> ManifestRow | None:
        """Return the manifest of a tag or digest without its children, or None.

        A lookup by digest protects the manifest like `blob_size`.

        Args:
            repository: Repository name.
            reference: A tag or digest.
        """

    @abstractmethod
    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Delete a manifest with its tags; its children stay for a grace period.

        Args:
            repository: Repository name.
            digest: Digest of the manifest.

        Returns:
            False if the repository does not have the manifest.
        """

    @abstractmethod
    def delete_tag(self, repository: str, tag: str) -> bool:
        """Delete a tag; return False if it does not exist.

        Args:
            repository: Repository name.
            tag: The tag.
        """

    @abstractmethod
    def tags(self, repository: str, *, last: str = "", limit: int) -> list[str]:
        """Return tags after `last` in order.

        Args:
            repository: Repository name.
            last: Last tag of the page before.
            limit: Greatest number of tags.
        """

    @abstractmethod
    def referrers(
        self, repository: str, subject: Digest, *, artifact_type: str | None = None, last: str = "", limit: int
    ) -> list[ManifestRow]:
        """Return a subject's manifests after the digest `last`, ordered by digest.

        Args:
            repository: Repository name.
            subject: Digest of the subject.
            artifact_type: Return only manifests of this type; None returns all.
            last: Digest of the last manifest of the page before.
            limit: Greatest number of manifests.
        """

    @abstractmethod
    def iter_references(self) -> Iterator[tuple[Digest, str, int]]:
        """Yield digest, repository and size of all blobs and manifests, ordered by digest."""

    @abstractmethod
    def untagged_manifests(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Yield repository, digest and size of unused manifests that no tag reaches.

        A tag reaches its manifest, the children of a reached manifest, and the referrers of a reached manifest.

        Args:
            before: Time in seconds since the epoch. Manifests that were pushed, requested or untagged later are kept.
        """

    @abstractmethod
    def delete_untagged(self, repository: str, before: float) -> list[tuple[Digest, int]]:
        """Delete a repository's `untagged_manifests` atomically; return digests and sizes.

        Args:
            repository: Repository name.
            before: Time in seconds since the epoch.
        """

    @abstractmethod
    def unreferenced_blobs(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Yield repository, digest and size of old blobs without a manifest."""

    @abstractmethod
    def unreferenced_content(self, before: float) -> Iterator[tuple[Digest, int]]:
        """Yield digest and size of content that no repository has had since a time."""

    @abstractmethod
    def register_orphans(self, digests: Sequence[Digest]) -> int:
        """Add rows for stored content without a row; return their number.

        The grace period of the content starts now.
        """

    @abstractmethod
    def remove_blob_if_unused(self, repository: str, digest: Digest, before: float) -> bool:
        """Remove a blob if it is still one of the `unreferenced_blobs`.

        Args:
            repository: Repository name.
            digest: Digest of the blob.
            before: Time in seconds since the epoch.

        Returns:
            True if the blob was removed.
        """

    @abstractmethod
    def delete_if_unreferenced(self, digest: Digest, before: float, blobs: BlobStore) -> bool:
        """Delete content if it is still `unreferenced_content`; inserts wait meanwhile.

        Args:
            digest: Digest of the content.
            before: Time in seconds since the epoch.
            blobs: The store of the content.

        Returns:
            True if the content was deleted.
        """

    @abstractmethod
    def exclusive(self, work: Callable[[], T]) -> T:
        """Run a function while no thread or process can insert a row.

        Returns:
            The result of the function.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all connections."""
