"""Interfaces of everything that holds content: `Source` can be read, `Store` can also be written."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, TypeAlias

from ocikit.display.signatures import readable
from ocikit.errors import BlobUnknown, NotFound
from ocikit.spec.arguments import to_texts
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.store.streams import ByteStream, check_spans, read_parts, read_verified

#: How `Store.swap` ended: the tag was set; it names something else; or it was set, perhaps over another writer's.
Swap: TypeAlias = Literal["done", "moved", "unchecked"]


@readable
class Source(ABC):
    """A place that content can be read from.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> source = ocikit.Layout("waves")
    >>> manifest = source.document(source.resolve("v1"))
    >>> [source.fetch(layer) for layer in manifest.layers]
    [b'hello']
    """

    cacheable: ClassVar[bool] = False
    """Whether documents belong in the cache because each read costs requests."""

    @abstractmethod
    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest.

        Raises:
            NotFound: The source has no such tag or digest.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> ocikit.Layout("waves").resolve("v1").digest == artifact.digest
        True
        """

    @abstractmethod
    def open(self, descriptor: Descriptor) -> ByteStream:
        """Open the content as a stream, seekable where the medium allows it.

        The bytes are not verified. Use `fetch`, `VerifiedReader` or `Store.push` to verify them.

        Raises:
            NotFound: The source does not have the content.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> store.push_bytes(blob, b"hello")
        >>> with store.open(blob) as stream:
        ...     stream.read(4)
        b'hell'
        """

    def has(self, reference: str) -> bool:
        """Return True if there is such a tag or digest.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> layout = ocikit.Layout("waves")
        >>> layout.has("v1"), layout.has("v2")
        (True, False)
        """
        try:
            self.resolve(reference)
        except NotFound:
            return False
        return True

    def open_random(self, descriptor: Descriptor) -> ByteStream:
        """Open the content as a stream that is cheap to seek in.

        Whole small content may be verified; parts of other content cannot be.

        Raises:
            NotFound: The source does not have the content.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> store.push_bytes(blob, b"hello")
        >>> with store.open_random(blob) as stream:
        ...     stream.seek(3), stream.read()
        (3, b'lo')
        """
        return self.open(descriptor)

    def ranges(self, descriptor: Descriptor, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of the content, unverified.

        Args:
            descriptor: The content.
            spans: Pairs of offset and length [bytes], in any order.

        Raises:
            InvalidArgument: A span is not within the content.
            NotFound: The source does not have the content.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello world", "text/plain")
        >>> store.push_bytes(blob, b"hello world")
        >>> store.ranges(blob, [(0, 2), (6, 5)])
        [b'he', b'world']
        """
        with self.open_random(descriptor) as stream:
            return read_parts(stream, check_spans(descriptor, spans))

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """Return the verified content of a document or another small blob.

        Args:
            descriptor: The content.
            limit: Bytes; larger content is refused.

        Raises:
            NotFound: The source does not have the content.
            SizeMismatch: The content has another size.
            DigestMismatch: The content has another digest.
            InvalidDocument: The descriptor's size is above `limit`.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> store.push_bytes(blob, b"hello")
        >>> store.fetch(blob)
        b'hello'
        """
        if (embedded := descriptor.embedded) is not None:
            return embedded
        with self.open(descriptor) as stream:
            return read_verified(stream, descriptor, limit=limit)

    def raw_document(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return a document's unverified, unparsed bytes with their descriptor.

        Raises:
            NotFound: There is no such document.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> descriptor, raw = ocikit.Layout("waves").raw_document("v1")
        >>> ocikit.Digest.of(raw) == descriptor.digest
        True
        """
        descriptor = self.resolve(reference)
        return descriptor, self.fetch(descriptor)

    def head(self, descriptor: Descriptor, size: int) -> bytes:
        """Return the first `size` bytes, unverified: for previews only.

        Args:
            descriptor: The content.
            size: Number of bytes.

        Raises:
            NotFound: The source does not have the content.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello world", "text/plain")
        >>> store.push_bytes(blob, b"hello world")
        >>> store.head(blob, 5)
        b'hello'
        """
        prefix = b""
        with self.open_random(descriptor) as stream:
            while len(prefix) < size and (chunk := stream.read(size - len(prefix))):
                prefix += chunk
        return prefix

    def document(self, descriptor: Descriptor) -> Manifest | Index:
        """Return the verified manifest or index.

        Raises:
            NotFound: The source does not have the document.
            ContentError: The bytes do not match the descriptor.
            InvalidDocument: The bytes are not a valid manifest or index.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> layout = ocikit.Layout("waves")
        >>> [layer.title for layer in layout.document(layout.resolve("v1")).layers]
        ['note.txt']
        """
        return parse_document(self.fetch(descriptor), descriptor.media_type)

    def default_reference(self) -> str:
        """Return the tag or digest that a reference without either means.

        >>> ocikit.MemoryStore().default_reference()
        'latest'
        """
        return "latest"

    def resolve_verified(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest with the size of the actual bytes.

        Raises:
            NotFound: There is no such document.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> descriptor = ocikit.Layout("waves").resolve_verified("v1")
        >>> descriptor.size == len(artifact.manifest.raw)
        True
        """
        return self.resolve(reference)

    def tags(self) -> Sequence[str]:
        """Return all tags.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, tags=["latest"])
        >>> ocikit.Layout("waves").tags()
        ['latest', 'v1']
        """
        return ()

    def iter_tags(self) -> Iterator[str]:
        """Yield all tags, fetching pages on demand.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, tags=["v2"])
        >>> next(ocikit.Layout("waves").iter_tags())
        'v1'
        """
        yield from self.tags()

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        """Return the manifests with this subject, with their annotations.

        Args:
            descriptor: The subject.
            artifact_type: Return only artifacts of this type; None returns all.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> report = ocikit.attach("oci:waves:v1", {"report.json": b"{}"}, artifact_type="application/vnd.example.report")
        >>> layout = ocikit.Layout("waves")
        >>> [referrer.artifact_type for referrer in layout.referrers(layout.resolve("v1"))]
        ['application/vnd.example.report']
        """
        return ()


@readable
class Store(Source):
    """A place that content can be written to. Everything pushed is verified before it can be read.

    >>> store = ocikit.MemoryStore()
    >>> blob = ocikit.Descriptor.of(b"hello", "text/plain")
    >>> store.push_bytes(blob, b"hello")
    >>> store.exists(blob)
    True
    """

    @abstractmethod
    def exists(self, descriptor: Descriptor) -> bool:
        """Return True if the store has the content.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> store.exists(blob)
        False
        """

    def cheaper_to_push(self, descriptor: Descriptor) -> bool:
        """Return True if transfers should push without calling `exists` first.

        >>> ocikit.MemoryStore().cheaper_to_push(ocikit.Descriptor.of(b"hello", "text/plain"))
        False
        """
        return False

    @abstractmethod
    def push(self, descriptor: Descriptor, stream: ByteStream, *, tag: str | None = None) -> None:
        """Write verified content. Pushing content that the store already has is no error.

        Args:
            descriptor: The expected media type, size and digest.
            stream: The content.
            tag: A tag for the content, set after the write.

        Raises:
            SizeMismatch: The content has another size; nothing is stored.
            DigestMismatch: The content has another digest; nothing is stored.

        >>> import io
        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> store.push(blob, io.BytesIO(b"jello"))
        Traceback (most recent call last):
            ...
        ocikit.errors.DigestMismatch: ...
        >>> store.push(blob, io.BytesIO(b"hello"))
        >>> store.fetch(blob)
        b'hello'
        """

    def takes_unhashed(self) -> bool:
        """Return True if a large file should be pushed by `push_unhashed`, without a digest.

        >>> ocikit.MemoryStore().takes_unhashed()
        False
        """
        return False

    def push_unhashed(self, stream: ByteStream, size: int, check: Callable[[], object]) -> tuple[Digest, bool]:
        """Write content whose digest is not known yet, in one pass.

        Args:
            stream: The content, seekable.
            size: Bytes of the content.
            check: Called before the content is stored; it raises an error if the content has changed.

        Returns:
            The digest, and whether the content is stored. If it isn't, `push` continues where this call ended.

        Raises:
            SizeMismatch: The content has another size; nothing is stored.

        >>> import io
        >>> with ocikit.Session() as session:
        ...     repository = session.repository("localhost:5000/ada/waves", push=True)
        ...     digest, is_stored = repository.push_unhashed(io.BytesIO(b"hello"), 5, lambda: None)
        >>> digest == ocikit.Digest.of(b"hello"), is_stored
        (True, True)
        """
        raise NotImplementedError

    def mount(self, descriptor: Descriptor, source: Source) -> bool:
        """Take over content from a store on the same host; return False if impossible.

        Args:
            descriptor: The content.
            source: A store on the same host.

        Returns:
            True if the store has the content now.

        >>> a, b = ocikit.MemoryStore(), ocikit.MemoryStore()
        >>> b.mount(ocikit.Descriptor.of(b"hello", "text/plain"), a)
        False
        """
        return False

    @abstractmethod
    def tag(self, descriptor: Descriptor, tag: str) -> None:
        """Point a tag at a stored manifest.

        Args:
            descriptor: A stored manifest.
            tag: The tag; one in use moves.

        Raises:
            NotFound: The store does not have the manifest.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> layout = ocikit.Layout("waves")
        >>> layout.tag(layout.resolve("v1"), "latest")
        >>> layout.tags()
        ['latest', 'v1']
        """

    @abstractmethod
    def untag(self, tag: str) -> None:
        """Remove one tag; content and other tags stay.

        Raises:
            NotFound: The store has no such tag.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, tags=["latest"])
        >>> layout = ocikit.Layout("waves")
        >>> layout.untag("latest")
        >>> layout.tags()
        ['v1']
        """

    @abstractmethod
    def delete(self, descriptor: Descriptor) -> None:
        """Delete content and, for a manifest, all of its tags.

        Raises:
            NotFound: The store does not have the content.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"}, tags=["latest"])
        >>> layout = ocikit.Layout("waves")
        >>> layout.delete(layout.resolve("v1"))
        >>> layout.tags()
        []
        """

    def keep(self, descriptor: Descriptor) -> None:
        """Protect an untagged manifest from garbage collection.

        Raises:
            NotFound: The store does not have the manifest.

        >>> layout, index = ocikit.Layout("waves"), ocikit.Index(manifests=[])
        >>> layout.push_bytes(index.descriptor, index.raw)
        >>> layout.keep(index.descriptor)
        >>> layout.gc(grace=0).blobs
        ()
        """

    def push_document(self, descriptor: Descriptor, raw: bytes, tags: Sequence[str] = ()) -> None:
        """Push a manifest or index with all of its tags.

        Args:
            descriptor: Descriptor of the manifest or index.
            raw: Exact bytes of the document.
            tags: Tags to set.

        >>> store, index = ocikit.MemoryStore(), ocikit.Index(manifests=[])
        >>> store.push_document(index.descriptor, index.raw, tags=["v1", "latest"])
        >>> store.tags()
        ['latest', 'v1']
        """
        tags = to_texts(tags, "tags")
        self.push_bytes(descriptor, raw, tag=tags[0] if tags else None)
        for name in tags[1:]:
            self.tag(descriptor, name)

    def swap(self, descriptor: Descriptor, raw: bytes, tag: str, expected: Digest | None) -> Swap:
        """Push a manifest under a tag if the tag names what the caller has read.

        Args:
            descriptor: Descriptor of the manifest.
            raw: Bytes of the manifest.
            tag: The tag to set.
            expected: What the tag must name; None if there must be no such tag.

        Returns:
            "done" if the tag was set in one step with the check, and "moved" if it names something else: nothing was
            changed. "unchecked" if the tag was set, but the store cannot tell whether it replaced another writer's.

        >>> store, index = ocikit.MemoryStore(), ocikit.Index(manifests=[])
        >>> store.swap(index.descriptor, index.raw, "v1", None)
        'unchecked'
        >>> store.swap(index.descriptor, index.raw, "v1", None)
        'moved'
        """
        try:
            current = self.resolve(tag).digest
        except NotFound:
            current = None
        if current != expected:
            return "moved"
        self.push_document(descriptor, raw, [tag])
        return "unchecked"

    def push_bytes(self, descriptor: Descriptor, content: bytes, *, tag: str | None = None) -> None:
        """Push content that is in memory.

        Args:
            descriptor: Descriptor of the content.
            content: The content.
            tag: A tag for a manifest.

        Raises:
            DigestMismatch: The content has another digest; nothing is stored.

        >>> store, blob = ocikit.MemoryStore(), ocikit.Descriptor.of(b"hello", "text/plain")
        >>> store.push_bytes(blob, b"hello")
        >>> store.fetch(blob)
        b'hello'
        """
        self.push(descriptor, io.BytesIO(content), tag=tag)


def blob_not_found(descriptor: Descriptor, place: str) -> BlobUnknown:
    """Return the error for content that a store on disk or in memory does not have."""
    return BlobUnknown(f"{place} has no {descriptor.digest}", hint="copy it there first, or look with verify()")
