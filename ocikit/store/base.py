"""The small interface that everything holding content has, and reading that believes nothing before the last byte."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import BinaryIO, ClassVar, cast

from ocikit.errors import BlobUnknown, InvalidDocument, SizeMismatch
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest, parse_document


class Source(ABC):
    """Somewhere that content can be read from."""

    cacheable: ClassVar[bool] = False
    """Whether documents belong in the cache because each read costs requests."""

    @abstractmethod
    def resolve(self, reference: str) -> Descriptor:
        """The descriptor that a tag or a digest names. Raises: NotFound."""

    @abstractmethod
    def open(self, descriptor: Descriptor) -> BinaryIO:
        """The content as a stream, seekable where the medium allows, with `readinto`.

        The bytes are not verified: a `Store` verifies what it takes in, `fetch` and `VerifiedReader` what they give out.

        Raises: NotFound: if it isn't there.
        """

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """The verified content, in memory; for documents and other small things.

        Raises: NotFound, SizeMismatch, DigestMismatch, InvalidDocument: if it is larger than `limit` bytes.
        """
        if (embedded := descriptor.embedded) is not None:
            return embedded
        with self.open(descriptor) as stream:
            return read_verified(stream, descriptor, limit=limit)

    def raw_document(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return the bytes that a tag or digest names, neither verified nor parsed, with a descriptor of them.

        Raises:
            NotFound: There is no such document.
        """
        descriptor = self.resolve(reference)
        return descriptor, self.fetch(descriptor)

    def head(self, descriptor: Descriptor, size: int) -> bytes:
        """The first `size` bytes, to look at: not verified. Raises: NotFound."""
        found = b""
        with self.open(descriptor) as stream:
            while len(found) < size and (part := stream.read(size - len(found))):
                found += part
        return found

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """The verified manifest or index. Raises: NotFound, InvalidDocument, ContentError."""
        return parse_document(self.fetch(descriptor), descriptor.media_type)

    def default_reference(self) -> str:
        """Return the tag or digest that a reference without either means."""
        return "latest"

    def resolve_verified(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest with the size of the actual bytes.

        Raises:
            NotFound: There is no such document.
        """
        return self.resolve(reference)

    def tags(self) -> Sequence[str]:
        """Return all tags."""
        return ()

    def iter_tags(self) -> Iterator[str]:
        """Yield all tags, fetching pages on demand."""
        yield from self.tags()

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """The manifests whose subject is the descriptor's, with their artifact types and annotations."""
        return ()


class Store(Source):
    """Somewhere that content can be kept too. Whatever is pushed is verified before it can be read."""

    @abstractmethod
    def exists(self, descriptor: Descriptor) -> bool:
        """Whether the content is there."""

    def cheaper_to_push(self, descriptor: Descriptor) -> bool:
        """Whether a transfer should push without asking first: true where asking costs as much, and finds nothing."""
        return False

    @abstractmethod
    def push(self, descriptor: Descriptor, stream: BinaryIO, *, tag: str | None = None) -> None:
        """Take in content, verified; with a tag, name it so. Pushing what is there already is no error.

        Raises: SizeMismatch, DigestMismatch: and nothing is kept.
        """

    def mount(self, descriptor: Descriptor, source: Source) -> bool:
        """Take over content from a store near by without moving its bytes; False if that can't be done."""
        return False

    @abstractmethod
    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Let a tag name a manifest that is there. Raises: NotFound."""

    @abstractmethod
    def untag(self, tag: str) -> None:
        """Take away one name; content and other names stay. Raises: NotFound."""

    @abstractmethod
    def delete(self, descriptor: Descriptor) -> None:
        """Remove content and, for a manifest, every name of it. Raises: NotFound."""

    def keep(self, descriptor: Descriptor) -> None:
        """Hold on to a manifest that gets no tag, where only what has an entry is safe from a sweep. Raises: NotFound."""

    def push_document(self, descriptor: Descriptor, raw: bytes, tags: Sequence[str] = ()) -> None:
        """Push a manifest or index under all its names."""
        self.push_bytes(descriptor, raw, tag=tags[0] if tags else None)
        for name in tags[1:]:
            self.tag(descriptor, name)

    def push_bytes(self, descriptor: Descriptor, content: bytes, *, tag: str | None = None) -> None:
        """Push content that is in memory."""
        self.push(descriptor, io.BytesIO(content), tag=tag)


def blob_not_found(descriptor: Descriptor, place: str) -> BlobUnknown:
    """The error for content that a place on disk or in memory doesn't have."""
    return BlobUnknown(f"{place} has no {descriptor.digest}", hint="copy it there first, or look with verify()")


def read_verified(stream: BinaryIO, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
    """All of a stream, checked against size and digest; never more than the descriptor says is read.

    Raises: SizeMismatch, DigestMismatch, InvalidDocument: if the descriptor's size is above `limit`.
    """
    if descriptor.size > limit:
        raise InvalidDocument(
            f"{descriptor} is {descriptor.size} bytes, above the limit of {limit} for documents",
            hint="open it as a file instead, or ask its publisher to move content into blobs",
        )
    parts: list[bytes] = []
    left = descriptor.size + 1
    while left > 0 and (part := stream.read(min(left, 1 << 16))):
        parts.append(part)
        left -= len(part)
    content = b"".join(parts)
    check_size(descriptor, len(content))
    descriptor.digest.verify(content, descriptor.media_type)
    return content


def check_size(descriptor: Descriptor, actual: int) -> None:
    """Compare sizes. Raises: SizeMismatch."""
    if actual != descriptor.size:
        relation = "more than" if actual > descriptor.size else "only"
        amount = f"{relation} {min(actual, descriptor.size)} bytes"
        raise SizeMismatch(
            f"{descriptor.digest} has {amount}, expected {descriptor.size}",
            hint="the transfer was cut short or the descriptor is wrong; nothing of it was kept",
            expected=descriptor.size,
            actual=actual,
        )


class VerifiedReader(io.RawIOBase):
    """A stream that raises at its end unless size and digest are right.

    Reading from the first byte to the last verifies; after a seek to elsewhere only the size can be held to, and
    `verified` stays False.
    """

    def __init__(self, stream: BinaryIO, descriptor: Descriptor) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._hasher = descriptor.digest.hasher()
        self._hashed = 0  # the contiguous front
        self._position = 0
        self.verified = False

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer. Raises: SizeMismatch, DigestMismatch: at the end."""
        view = memoryview(buffer).cast("B")
        n = cast("int", self._stream.readinto(view))  # type: ignore[attr-defined]  # streams of sources have it
        if self._position == self._hashed and n:
            self._hasher.update(view[:n])
            self._hashed += n
        self._position += n
        if self._position > self._descriptor.size or (n == 0 and len(view) and self._position < self._descriptor.size):
            check_size(self._descriptor, self._position)
        if self._hashed == self._descriptor.size and not self.verified:
            self._descriptor.digest.check(self._hasher.hexdigest(), str(self._descriptor))
            self.verified = True
        return n

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """As the stream below."""
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the next read starts there."""
        if whence == io.SEEK_END:
            offset, whence = self._descriptor.size + offset, io.SEEK_SET
        elif whence == io.SEEK_CUR:
            offset, whence = self._position + offset, io.SEEK_SET
        self._position = self._stream.seek(max(offset, 0), whence)
        return self._position

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def close(self) -> None:
        """Close the stream below."""
        if not self.closed:
            self._stream.close()
        super().close()
