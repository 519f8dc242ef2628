"""A store in memory: for tests, for small artifacts made on the fly, and as the shortest description of a store."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Sequence

from attrs import define, field

from ocikit import display
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.reference import check_ref_name
from ocikit.store.base import Store, blob_not_found
from ocikit.store.graph import STORED_LIMIT, parse_digest, referrer, unknown_reference
from ocikit.store.streams import ByteStream, read_verified

_PLACE = "the store in memory"


@define(eq=False, repr=False)
class MemoryStore(display.Displayable, Store):
    """Content and names in dictionaries; safe to use from several threads.

    >>> store = MemoryStore()
    >>> blob = Descriptor.of(b"hello", "text/plain")
    >>> store.push_bytes(blob, b"hello")
    >>> store.fetch(blob)
    b'hello'
    """

    _blobs: dict[Digest, bytes] = field(factory=dict, init=False)
    _documents: dict[Digest, tuple[Descriptor, Manifest | Index]] = field(factory=dict, init=False)
    _tags: dict[str, Digest] = field(factory=dict, init=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor that a tag or a digest names. Raises: ManifestUnknown: with the names that come near."""
        with self._lock:
            digest = parse_digest(reference) or self._tags.get(reference)
            found = self._documents.get(digest) if digest else None
            if found is None:
                raise unknown_reference(reference, _PLACE, sorted(self._tags))
            return found[0]

    def open(self, descriptor: Descriptor) -> ByteStream:
        """The content as a seekable stream. Raises: BlobUnknown."""
        content = self._blobs.get(descriptor.digest)
        if content is None:
            raise blob_not_found(descriptor, _PLACE)
        return io.BytesIO(content)

    def exists(self, descriptor: Descriptor) -> bool:
        """Whether the content is there, in this size."""
        content = self._blobs.get(descriptor.digest)
        return content is not None and len(content) == descriptor.size

    def push(self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None) -> None:
        """Take in content, verified; with a tag, name it so.

        Raises:
            SizeMismatch, DigestMismatch: and nothing is kept.
            InvalidDocument: for a manifest or index that isn't one.
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
        """Let a tag name a manifest that is there; a tag in use moves. Raises: NotFound, InvalidReference."""
        check_ref_name(tag)
        with self._lock:
            if descriptor.digest not in self._documents:
                raise blob_not_found(descriptor, _PLACE)
            self._tags[tag] = descriptor.digest

    def untag(self, tag: str) -> None:
        """Take away one name. Raises: ManifestUnknown."""
        with self._lock:
            if self._tags.pop(tag, None) is None:
                raise unknown_reference(tag, _PLACE, sorted(self._tags))

    def delete(self, descriptor: Descriptor) -> None:
        """Remove content and every name of it. Raises: BlobUnknown."""
        with self._lock:
            if self._blobs.pop(descriptor.digest, None) is None:
                raise blob_not_found(descriptor, _PLACE)
            self._documents.pop(descriptor.digest, None)
            self._tags = {name: digest for name, digest in self._tags.items() if digest != descriptor.digest}

    def tags(self) -> Sequence[str]:
        """Every tag, sorted."""
        with self._lock:
            return sorted(self._tags)

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """The manifests whose subject is the descriptor's, oldest first."""
        with self._lock:
            documents = list(self._documents.values())
        found = (
            referrer(shown, document)
            for shown, document in documents
            if document.subject is not None and document.subject.digest == descriptor.digest
        )
        return [one for one in found if artifact_type is None or one.artifact_type == artifact_type]

    def __rich_repr__(self) -> display.Description:
        # Copied, not locked: whoever holds the lock may be the one that is being looked at
        contents, tags = list(self._blobs.values()), sorted(self._tags)
        yield "tags", tuple(tags)
        yield "blobs", len(contents)
        yield "size", display.Size(sum(map(len, contents)))

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "tags")

    def _sections(self) -> Iterator[display.Section]:
        if tags := sorted(self._tags):
            yield display.Section(title="tags", names=tags, count=len(tags))
