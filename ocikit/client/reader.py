"""Access to the content of artifacts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from ocikit.client.arguments import ProgressLike
from ocikit.client.backends import Backends
from ocikit.client.listing import Listing
from ocikit.client.pull import fetch_to_cache, snapshot
from ocikit.client.resolver import Resolver
from ocikit.errors import DigestMismatch, Unsupported
from ocikit.progress.base import Progress
from ocikit.remote.mirrors import retry_without_bad_mirrors
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import AnyReference, Reference
from ocikit.store.cache.cache import Cache
from ocikit.store.files import open_file
from ocikit.store.streams import ByteStream, VerifiedReader

_BUFFER = 1 << 16  # bytes


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
        self.progress = progress

    def listener(self, progress: ProgressLike) -> Progress:
        """Return the listener for a call's `progress` argument."""
        choice = self.progress if progress is None else progress
        if isinstance(choice, Progress):
            return choice
        from ocikit.progress.bars import bars  # noqa: PLC0415 - only calls that move content need tqdm

        return bars(choice)

    def open(self, reference: AnyReference, descriptor: Descriptor, file: Path | None = None) -> BinaryIO:
        """Return content as a seekable stream; reading it from start to end verifies it.

        Args:
            reference: The artifact that names the content.
            descriptor: The content.
            file: A file that holds the content, if there is one.
        """
        if (stream := self._open_local(descriptor, file)) is not None:
            return stream
        with self.backends.open_source(reference) as source:
            return _verified_stream(source.open(descriptor), descriptor)

    def read_all(self, reference: AnyReference, descriptor: Descriptor, file: Path | None = None) -> bytes:
        """Return whole content, verified; fetch it again, once, if the cached blob is damaged."""
        if self.cache.path(descriptor.digest).exists():
            with contextlib.suppress(DigestMismatch):
                return self._read_cached(reference, descriptor)
            return self._read_cached(reference, descriptor)  # the damaged blob has been deleted
        with self.open(reference, descriptor, file) as stream:
            return stream.read()

    def _read_cached(self, reference: AnyReference, descriptor: Descriptor) -> bytes:
        if not self.cache.exists(descriptor):
            self.fetch(reference, [descriptor], progress=False)
        with self.open(reference, descriptor) as stream:
            return stream.read()

    def head(self, reference: AnyReference, descriptor: Descriptor, size: int, file: Path | None = None) -> bytes:
        """Return the first `size` bytes of content, unverified."""
        if (stream := self._open_local(descriptor, file)) is not None:
            with stream:
                return stream.read(size)
        with self.backends.open_source(reference) as source:
            return source.head(descriptor, size)

    def ranges(
        self,
        reference: AnyReference,
        descriptor: Descriptor,
        spans: Sequence[tuple[int, int]],
        file: Path | None = None,
    ) -> list[bytes]:
        """Return ranges of content, each given by offset and length."""
        with self.open(reference, descriptor, file) as stream:
            contents = []
            for offset, length in spans:
                stream.seek(offset)
                contents.append(stream.read(length))
            return contents

    def url(self, reference: AnyReference, descriptor: Descriptor, *, signed: bool = False) -> str:
        """Return the URL of content at its registry, or the signed one that the registry redirects to.

        Raises:
            Unsupported: The content is in a layout, or the registry does not redirect.
        """
        if not isinstance(reference, Reference):
            raise Unsupported(f"{reference} is on disk and has no URL", hint="use the path: file.path")
        repository = self.backends.repository(reference)
        return repository.signed_url(descriptor) if signed else repository.blob_url(descriptor.digest)

    def _open_local(self, descriptor: Descriptor, file: Path | None) -> BinaryIO | None:
        """Return a stream over content that is embedded, cached or in a file, or None."""
        if (embedded := descriptor.embedded) is not None:
            return io.BytesIO(embedded)
        if self.cache.exists(descriptor):
            return io.BufferedReader(_CachedReader(self.cache, descriptor), _BUFFER)
        return None if file is None else _verified_stream(open_file(file), descriptor)

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
        with self.backends.open_source(reference) as source:
            content = source.fetch(descriptor)
        with self.cache.optional_write():
            self.cache.push_bytes(descriptor, content)
        return content

    def fetch(self, reference: AnyReference, blobs: Iterable[Descriptor], *, progress: ProgressLike = None) -> None:
        """Fetch blobs into the cache, except foreign layers and those that it holds."""
        blobs = [blob for blob in blobs if not media_types.is_foreign(blob.media_type)]
        if all(map(self.cache.exists, blobs)):
            return
        with self.backends.open_source(reference) as source:
            listener = self.listener(progress)
            retry_without_bad_mirrors(
                source,
                lambda: fetch_to_cache(
                    source, self.cache, blobs, workers=self.workers, progress=listener, title="fetch"
                ),
            )

    def fetch_files(
        self,
        reference: AnyReference,
        manifest: Manifest,
        layers: Iterable[Descriptor],
        *,
        progress: ProgressLike = None,
    ) -> Path:
        """Return a read-only folder in the cache with layers as files; fetch missing ones."""
        layers = list(layers)
        self.fetch(reference, layers, progress=progress)
        return snapshot(self.cache, reference, manifest, layers)

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


def _verified_stream(stream: ByteStream, descriptor: Descriptor) -> BinaryIO:
    return io.BufferedReader(VerifiedReader(stream, descriptor), _BUFFER)
