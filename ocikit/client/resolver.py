"""Resolution of references to documents, from the cache where possible."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import attrs

from ocikit.client.backends import offline_error
from ocikit.errors import BlobUnknown, ManifestUnknown
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, Manifest, PlatformLike
from ocikit.spec.reference import AnyReference, Reference
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache, offline
from ocikit.store.selection import select_manifest

log = logging.getLogger("ocikit")


class Resolver:
    """Lookup of descriptors and documents in the cache first, then in a source.

    A pinned reference whose document is cached costs no request, a tag costs one, and offline mode none.

    Args:
        source: The registry or layout of the references.
        cache: Where documents of registries and the targets of tags are stored.
        get_unknown: Resolve references whose document is not cached by GET. The document is then read without another
            request.
    """

    def __init__(self, source: Source, cache: Cache, *, get_unknown: bool = False) -> None:
        self.source = source
        self.cache = cache
        self._get_unknown = get_unknown

    def resolve(self, reference: AnyReference) -> Descriptor:
        """Return the descriptor of a reference.

        Raises:
            NotFound: There is no such tag or digest.
            OfflineError: The cache does not know the reference, and registries must not be contacted.
        """
        if not isinstance(reference, Reference):
            return self.source.resolve(target_of(self.source, reference))
        if (cached := self.cache.lookup(reference)) is not None:
            return cached
        if offline():
            return self._recall(reference)
        by_get = self._get_unknown and not self._is_known(reference)
        descriptor = self._request(self.source.resolve_verified if by_get else self.source.resolve, reference)
        if not self.cache.exists(descriptor):
            # The document may be cached with another size: a HEAD response may state a wrong one
            cached = self.cache.lookup(reference.pinned(descriptor.digest))
            descriptor = descriptor if cached is None else attrs.evolve(descriptor, size=cached.size)
        self.cache.remember(reference, descriptor)
        return descriptor

    def _recall(self, reference: Reference) -> Descriptor:
        remembered = self.cache.recall(reference)
        if remembered is None:
            raise offline_error(str(reference))
        fetched = remembered.fetched_at.strftime("%Y-%m-%d %H:%M")
        log.warning("offline: using %s as it was on %s", reference, fetched)
        return remembered.descriptor

    def _is_known(self, reference: Reference) -> bool:
        """Return True if the cache has the document that a tag named last."""
        remembered = self.cache.recall(reference)
        return remembered is not None and self.cache.exists(remembered.descriptor)

    def _request(self, request: Callable[[str], Descriptor], reference: Reference) -> Descriptor:
        try:
            return request(reference.target)
        except ManifestUnknown as error:
            if error.hint or reference.digest is None:
                raise
            raise error.reworded(
                f"{reference.name} has no manifest {reference.digest}",
                f"it may have been deleted, or be in another repository; ocikit.tags({reference.name!r}) lists the tags",
            ) from error

    def resolve_document(self, reference: AnyReference) -> tuple[Descriptor, Manifest | Index]:
        """Return the document of a reference and its descriptor with the actual size."""
        descriptor = self.resolve(reference)
        document = self.fetch_document(descriptor)
        if document.size != descriptor.size:
            descriptor = attrs.evolve(descriptor, size=document.size)
            if isinstance(reference, Reference):
                self.cache.remember(reference, descriptor)
        return descriptor, document

    def fetch_document(self, descriptor: Descriptor) -> Manifest | Index:
        """Return a document; store the documents of registries in the cache."""
        if self.cache.exists(descriptor):
            with contextlib.suppress(BlobUnknown):  # a damaged document was deleted
                return self.cache.document(descriptor)
        document = self.source.document(descriptor)
        if self.source.cacheable:
            with self.cache.optional_write():
                self.cache.push_bytes(attrs.evolve(descriptor, size=document.size), document.raw)
        return document

    def resolve_manifest(
        self, reference: AnyReference, platform: PlatformLike | None = None
    ) -> tuple[Descriptor, Manifest]:
        """Return the manifest of a reference and its descriptor; select from indexes.

        Raises:
            NoMatchingPlatform: No manifest of an index has the platform, or a single image has another one.
            InvalidReference: The platform is invalid.
            InvalidDocument: Too many indexes are nested.
        """
        return self._select(*self.resolve_document(reference), platform)

    def resolve_files(
        self, reference: AnyReference, platform: PlatformLike | None = None
    ) -> tuple[Descriptor, Manifest | Index]:
        """Return what `resolve_manifest` does, or a nested index, whose manifests list the files of one artifact."""
        root, document = self.resolve_document(reference)
        if isinstance(document, Index) and document.is_nested and platform is None:
            return root, document
        return self._select(root, document, platform)

    def _select(
        self, root: Descriptor, document: Manifest | Index, platform: PlatformLike | None
    ) -> tuple[Descriptor, Manifest]:
        return select_manifest(
            root,
            platform,
            document=lambda descriptor: document if descriptor is root else self.fetch_document(descriptor),
            blob=self._fetch_config,
        )

    def _fetch_config(self, descriptor: Descriptor) -> bytes:
        """Return a config; store the configs of registries in the cache."""
        if self.cache.exists(descriptor):
            return self.cache.fetch(descriptor)
        raw = self.source.fetch(descriptor)
        if self.source.cacheable:
            self.cache.push_bytes(descriptor, raw)
        return raw


def target_of(source: Source, reference: AnyReference) -> str:
    """Return the digest or tag of a reference, or the source's default."""
    return reference.digest or reference.tag or source.default_reference()
