"""Access to the content of artifacts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, SupportsIndex

from ocikit.client.arguments import ProgressLike, check_progress
from ocikit.client.backends import Backends
from ocikit.client.listing import Listing
from ocikit.client.pull import fetch_to_cache, snapshot
from ocikit.client.resolver import Resolver
from ocikit.errors import DigestMismatch, Unsupported
from ocikit.progress.base import Progress
from ocikit.remote.mirrors import retry_without_bad_mirrors
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import AnyReference, Reference
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache
from ocikit.store.files import open_file
from ocikit.store.streams import VerifiedReader, WholeReader, check_spans, read_parts

_BUFFER = 1 << 16  # bytes
_WHOLE = DOCUMENT_LIMIT  # bytes of content that is requested as a whole and cached
_EXACT = 64 << 20  # bytes of a read without copies of a part; larger ones may use a little more than they need


class ContentReader:
    """Content of artifacts from the cache, a file on disk, or the source of a reference.

    Args:
        backends: Opens the source of a reference.
        cache: Where fetched content is stored.
        workers: Number of parallel transfers.
        progress: Default for calls that show progress.
    """

    def __init__(self, backends: Backends, cache: Cache, *, workers: int, progress: ProgressLike = None) -> None:
        self.backends = backends
        self.cache = cache
        self.workers = workers
        self.progress = check_progress(progress)

    def listener(self, progress: ProgressLike) -> Progress:
        """Return the listener for a call's `progress` argument."""
        choice = self.progress if progress is None else check_progress(progress)
        if isinstance(choice, Progress):
            return choice
        from ocikit.progress.bars import bars  # noqa: PLC0415 - only calls that move content need tqdm

        return bars(choice)

    def open(self, reference: AnyReference, descriptor: Descriptor, file: Path | None = None) -> ContentStream:
        """Return content as a seekable stream that requests what is read; reading it from start to end verifies it.

        Small content of a registry is requested as a whole by the first read, verified, and stored in the cache.

        Args:
            reference: The artifact that names the content.
            descriptor: The content.
            file: A file that holds the content, if there is one.
        """
        raw = self._open_local(descriptor, file) or self._open_remote(reference, descriptor, random=True)
        return ContentStream(raw, partial(_reopened, self, reference, descriptor, file), descriptor.size)

    def stream(self, reference: AnyReference, descriptor: Descriptor, file: Path | None = None) -> BinaryIO:
        """Return content as `open` does, but to be read from start to end."""
        raw = self._open_local(descriptor, file) or self._open_remote(reference, descriptor, random=False)
        return io.BufferedReader(raw, _BUFFER)

    def read_all(self, reference: AnyReference, descriptor: Descriptor, file: Path | None = None) -> bytes:
        """Return whole content, verified; fetch it again, once, if the cached blob is damaged."""
        if self.cache.path(descriptor.digest).exists():
            with contextlib.suppress(DigestMismatch):
                return self._read_cached(reference, descriptor)
            return self._read_cached(reference, descriptor)  # the damaged blob has been deleted
        with self.stream(reference, descriptor, file) as stream:
            return stream.read()

    def _read_cached(self, reference: AnyReference, descriptor: Descriptor) -> bytes:
        if not self.cache.exists(descriptor):
            self.fetch(reference, [descriptor], progress=False)
        with self.stream(reference, descriptor) as stream:
            return stream.read()

    def head(self, reference: AnyReference, descriptor: Descriptor, size: int, file: Path | None = None) -> bytes:
        """Return the first `size` bytes of content, unverified; content of a few KiB is verified and cached."""
        if (raw := self._open_local(descriptor, file)) is not None:
            with io.BufferedReader(raw, _BUFFER) as stream:
                return stream.read(size)
        with self._source(reference, descriptor) as source:
            if source.cacheable and descriptor.size <= min(max(size, _BUFFER), _WHOLE):
                return self.read(reference, descriptor)[:size]
            return source.head(descriptor, size)

    def ranges(
        self,
        reference: AnyReference,
        descriptor: Descriptor,
        spans: Sequence[tuple[int, int]],
        file: Path | None = None,
        *,
        whole: bool = True,
    ) -> list[bytes]:
        """Return ranges of content, each given by offset and length.

        Args:
            reference: The artifact that names the content.
            descriptor: The content.
            spans: Pairs of offset and length, in bytes.
            file: A file that holds the content, if there is one.
            whole: Request small content as a whole, to verify and cache it.

        Raises:
            InvalidArgument: A range is not within the content.
        """
        parts = check_spans(descriptor, spans)
        if (raw := self._open_local(descriptor, file)) is not None:
            with io.BufferedReader(raw, _BUFFER) as stream:
                return read_parts(stream, parts)
        with self._source(reference, descriptor) as source:
            if whole and source.cacheable and descriptor.size <= _WHOLE:
                content = self.read(reference, descriptor)
                return [content[start:end] for start, end in parts]
            return source.ranges(descriptor, spans)

    def url(self, reference: AnyReference, descriptor: Descriptor, *, signed: bool = False) -> str:
        """Return the URL of content at its registry, or the signed one that the registry redirects to.

        Raises:
            Unsupported: The content is in a layout, or the registry does not redirect.
        """
        reference = descriptor.reference or reference
        if not isinstance(reference, Reference):
            raise Unsupported(f"{reference} is on disk and has no URL", hint="use the path: file.path")
        repository = self.backends.repository(reference)
        return repository.signed_url(descriptor) if signed else repository.blob_url(descriptor.digest)

    def _source(self, reference: AnyReference, descriptor: Descriptor) -> AbstractContextManager[Source]:
        """Open the registry or layout that has the content of an artifact: perhaps that of the model that it extends."""
        return self.backends.open_source(descriptor.reference or reference)

    def _open_local(self, descriptor: Descriptor, file: Path | None) -> io.RawIOBase | None:
        """Return a stream over content that is embedded, cached or in a file, or None."""
        if (embedded := descriptor.embedded) is not None:
            return WholeReader(len(embedded), lambda: embedded)
        if self.cache.exists(descriptor):
            return _CachedReader(self.cache, descriptor)
        return None if file is None else VerifiedReader(open_file(file), descriptor)

    def _open_remote(self, reference: AnyReference, descriptor: Descriptor, *, random: bool) -> io.RawIOBase:
        """Return a stream over content of a source; nothing is requested before the first read."""
        with self._source(reference, descriptor) as source:
            stream = source.open_random(descriptor) if random else source.open(descriptor)
            if source.cacheable and descriptor.size <= _WHOLE:
                return WholeReader(descriptor.size, lambda: self.read(reference, descriptor))
            return VerifiedReader(stream, descriptor)

    def document(self, reference: AnyReference, descriptor: Descriptor) -> Manifest | Index:
        """Return a document by its descriptor, from the cache if possible."""
        with self.backends.open_source(reference) as source:
            return Resolver(source, self.cache).fetch_document(descriptor)

    def __reduce__(self) -> tuple[Any, ...]:
        # A listener belongs to this process; without one, the other process follows its own environment
        progress = None if isinstance(self.progress, Progress) else self.progress
        return partial(ContentReader, workers=self.workers, progress=progress), (self.backends, self.cache)

    def __deepcopy__(self, memo: object) -> ContentReader:
        return self

    def read(self, reference: AnyReference, descriptor: Descriptor) -> bytes:
        """Return a small blob, verified; store it in the cache."""
        if self.cache.exists(descriptor):
            return self.cache.fetch(descriptor)
        with self._source(reference, descriptor) as source:
            content = source.fetch(descriptor)
        with self.cache.optional_write():
            self.cache.push_bytes(descriptor, content)
        return content

    def fetch(self, reference: AnyReference, blobs: Iterable[Descriptor], *, progress: ProgressLike = None) -> None:
        """Fetch blobs into the cache, except foreign layers and those that it holds."""
        blobs = [blob for blob in blobs if not media_types.is_foreign(blob.media_type)]
        if all(map(self.cache.exists, blobs)):
            return
        with self.backends.open_source(reference) as opened:
            source, listener = self.backends.with_others(opened, blobs), self.listener(progress)
            retry_without_bad_mirrors(
                source,
                lambda: fetch_to_cache(
                    source, self.cache, blobs, workers=self.workers, progress=listener, title="fetch"
                ),
            )

    def fetch_files(
        self,
        reference: AnyReference,
        document: Manifest | Index,
        layers: Iterable[Descriptor],
        *,
        progress: ProgressLike = None,
    ) -> Path:
        """Return a read-only folder in the cache with layers as files; fetch missing ones."""
        layers = list(layers)
        self.fetch(reference, layers, progress=progress)
        return snapshot(self.cache, reference, document, layers)

    def referrers(self, reference: AnyReference, artifact_type: str | None = None) -> Listing[Descriptor]:
        """Return the descriptors of manifests whose subject is the reference."""
        with self.backends.open_source(reference) as source:
            found = source.referrers(Resolver(source, self.cache).resolve(reference), artifact_type)
        return Listing((descriptor.located(reference) for descriptor in found), "referrers", str(reference))


class _CachedReader(VerifiedReader):
    """A stream of a cached blob, which is deleted if it proves damaged."""

    def __init__(self, cache: Cache, descriptor: Descriptor) -> None:
        super().__init__(cache.open(descriptor), descriptor)
        self._cache = cache

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # as in VerifiedReader
        try:
            return super().readinto(buffer)
        except DigestMismatch:
            self._cache.discard(self._descriptor)
            raise


class ContentStream(io.BufferedReader):
    """Content as a buffered stream. It is seekable and can be pickled: the copy opens the pinned content again.

    Args:
        raw: The content.
        reopen: Opens the content again, at a position; can be pickled.
        size: Size of the content, in bytes.
    """

    def __init__(self, raw: io.RawIOBase, reopen: Callable[[int], ContentStream], size: int) -> None:
        super().__init__(raw, _BUFFER)
        self._reopen = reopen
        self._size = size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or the rest without a size."""
        if size is None or not _BUFFER < size <= _EXACT:
            return super().read(size)
        # BufferedReader.read() reads whole buffers. Its readinto() reads exactly what is missing: one range
        buffer = bytearray(max(0, min(size, self._size - self.tell())))
        return bytes(memoryview(buffer)[: self.readinto(buffer)])

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        return self._reopen, (self.tell(),)


def _reopened(
    reader: ContentReader, reference: AnyReference, descriptor: Descriptor, file: Path | None, position: int
) -> ContentStream:
    stream = reader.open(reference, descriptor, file if file is not None and file.exists() else None)
    stream.seek(position)
    return stream
