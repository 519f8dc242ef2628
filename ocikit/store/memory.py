"""A store in memory, for tests and small artifacts."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from attrs import define, field

from ocikit import display
from ocikit.forks import ForkSafeLock
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.reference import check_ref_name
from ocikit.store.base import Store, blob_not_found
from ocikit.store.graph import STORED_LIMIT, parse_digest, unknown_reference
from ocikit.store.streams import ByteStream, read_verified

_PLACE = "the memory store"


@define(eq=False, repr=False)
class MemoryStore(display.Displayable, Store):
    """Content and tags in dictionaries; thread-safe.

    >>> store = ocikit.MemoryStore()
    >>> blob = ocikit.Descriptor.of(b"hello", "text/plain")
    >>> store.push_bytes(blob, b"hello")
    >>> store.fetch(blob)
    b'hello'
    """

    _blobs: dict[Digest, bytes] = field(factory=dict, init=False)
    _documents: dict[Digest, tuple[Descriptor, Manifest | Index]] = field(factory=dict, init=False)
    _tags: dict[str, Digest] = field(factory=dict, init=False)
    _lock: ForkSafeLock = field(factory=ForkSafeLock, init=False)

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest.

        Raises:
            ManifestUnknown: There is no such tag or digest; the hint has the nearest tags.

        >>> store, index = ocikit.MemoryStore(), ocikit.Index(manifests=[])
        >>> store.push_document(index.descriptor, index.raw, tags=["v1"])
        >>> store.resolve("v1") == index.descriptor
        True
        """
        with self._lock:
            digest = parse_digest(reference) or self._tags.get(reference)
            stored = self._documents.get(digest) if digest else None
            if stored is None:
                raise unknown_reference(reference, _PLACE, sorted(self._tags))
            return stored[0]

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Open the content as a seekable stream.

        Raises:
            BlobUnknown: The store does not have the content.
        """
        content = self._blobs.get(descriptor.digest)
        if content is None:
            raise blob_not_found(descriptor, _PLACE)
        return io.BytesIO(content)

    def exists(self, descriptor: Descriptor) -> bool:
        """Return True if the store has the content in this size."""
        content = self._blobs.get(descriptor.digest)
        return content is not None and len(content) == descriptor.size

    def push(self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None) -> None:
        """Store verified content, optionally with a tag.

        Args:
            descriptor: Media type, digest and size of the content.
            stream: The content.
            tag: A tag for the content.

        Raises:
            SizeMismatch: The content has another size; nothing is stored.
            DigestMismatch: The content has another digest; nothing is stored.
            InvalidDocument: The content is not a valid manifest or index.
        """
        if tag is not None:
            check_ref_name(tag)
        document = None
        if descriptor.is_document:
            content = read_verified(stream, descriptor, limit=STORED_LIMIT)
            document = parse_document(content, descriptor.media_type, limit=STORED_LIMIT)
        else:
            content = read_verified(stream, descriptor, limit=descriptor.size)
        with self._lock:
            self._blobs[descriptor.digest] = content
            if document is not None:
                self._documents[descriptor.digest] = (descriptor.bare(), document)
        if tag is not None:
            self.tag(descriptor, tag)

    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Point a tag at a stored manifest; an existing tag moves.

        Args:
            descriptor: Stored content.
            tag: The name.

        Raises:
            BlobUnknown: The store does not have the manifest.
            InvalidReference: The tag is invalid.
        """
        check_ref_name(tag)
        with self._lock:
            if descriptor.digest not in self._documents:
                raise blob_not_found(descriptor, _PLACE)
            self._tags[tag] = descriptor.digest

    def untag(self, tag: str) -> None:
        """Remove a tag.

        Raises:
            ManifestUnknown: There is no such tag.
        """
        with self._lock:
            if self._tags.pop(tag, None) is None:
                raise unknown_reference(tag, _PLACE, sorted(self._tags))

    def delete(self, descriptor: Descriptor) -> None:
        """Delete content and all of its tags.

        Raises:
            BlobUnknown: The store does not have the content.
        """
        with self._lock:
            if self._blobs.pop(descriptor.digest, None) is None:
                raise blob_not_found(descriptor, _PLACE)
            self._documents.pop(descriptor.digest, None)
            self._tags = {name: digest for name, digest in self._tags.items() if digest != descriptor.digest}

    def tags(self) -> Sequence[str]:
        """Return all tags, sorted."""
        with self._lock:
            return sorted(self._tags)

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """Return the manifests with this subject, oldest first.

        Args:
            descriptor: The subject.
            artifact_type: Return only artifacts of this type; None returns all.
        """
        with self._lock:
            documents = list(self._documents.values())
        listed = (
            document.as_referrer(stored.digest)
            for stored, document in documents
            if document.subject is not None and document.subject.digest == descriptor.digest
        )
        return [referrer for referrer in listed if artifact_type in (None, referrer.artifact_type)]

    def __rich_repr__(self) -> display.Description:
        # Copy without the lock: a debugger may show the store while its own thread holds the lock
        contents, tags = list(self._blobs.values()), sorted(self._tags)
        yield "tags", tuple(tags)
        yield "blobs", len(contents)
        yield "size", display.Size(sum(map(len, contents)))

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "tags")

    def _sections(self) -> Iterator[display.Section]:
        if tags := sorted(self._tags):
            yield display.Section(title="tags", names=tags, count=len(tags))
