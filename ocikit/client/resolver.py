"""From a reference to its documents, with as few requests as can be: pinned and cached costs none, a tag one."""

from __future__ import annotations

import logging

import attrs

from ocikit.client.backends import offline_error, root_of
from ocikit.errors import InvalidReference, ManifestUnknown
from ocikit.remote.repository import Repository
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, Manifest, PlatformLike, parse_document
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference, LayoutReference, Reference
from ocikit.store.base import Source
from ocikit.store.cache.cache import Cache, offline

log = logging.getLogger("ocikit")


class Resolver:
    """Finds descriptors and documents in a cache first, in their source then."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def locate(self, source: Source, reference: AnyReference) -> Descriptor:
        """The descriptor of a reference: pinned and cached costs no request, a tag costs one, offline none."""
        if isinstance(reference, LayoutReference):
            return source.resolve(root_of(source, reference))
        if (pinned := self.cache.lookup(reference)) is not None:
            return pinned
        if offline():
            remembered = self.cache.recall(reference)
            if remembered is None:
                raise offline_error(str(reference))
            log.warning("offline: %s is what it was on %s", reference, remembered.fetched_at.strftime("%Y-%m-%d %H:%M"))
            return remembered.descriptor
        try:
            descriptor = source.resolve(reference.target)
        except ManifestUnknown as error:
            if error.hint or reference.digest is None:
                raise
            raise ManifestUnknown(
                f"{reference.name} has no manifest {reference.digest}",
                hint=f"it may have been deleted, or be in another repository; ocikit.tags({reference.name!r}) lists what is named",
                method=error.method, url=error.url, status=error.status, errors=error.errors, request_id=error.request_id,
                host=error.host,
            ) from error  # fmt: skip
        if not self.cache.exists(descriptor):
            # Not in the cache, or there with another size: a HEAD may state a wrong one
            known = self.cache.lookup(reference.pinned(descriptor.digest))
            descriptor = descriptor if known is None else attrs.evolve(descriptor, size=known.size)
        self.cache.remember(reference, descriptor)
        return descriptor

    def root(self, source: Source, reference: AnyReference) -> tuple[Descriptor, Manifest | Index]:
        """What a reference names, and its descriptor with the size that it has: HEAD requests may have stated another."""
        descriptor = self.locate(source, reference)
        document = self.document(source, descriptor)
        if document.size != descriptor.size:
            descriptor = attrs.evolve(descriptor, size=document.size)
            if isinstance(reference, Reference):
                self.cache.remember(reference, descriptor)
        return descriptor, document

    def document(self, source: Source, descriptor: Descriptor) -> Manifest | Index:
        """A document, from the cache or the source; registries' documents are kept."""
        if not self.cache.exists(descriptor):
            raw = source.fetch(descriptor)
            document = parse_document(raw, descriptor.media_type)
            if isinstance(source, Repository):
                self.cache.push_bytes(attrs.evolve(descriptor, size=len(raw)), raw)
            return document
        return parse_document(self.cache.fetch(descriptor), descriptor.media_type)

    def manifest(
        self, source: Source, reference: AnyReference, platform: PlatformLike | None
    ) -> tuple[Descriptor, Manifest]:
        """The manifest of a reference, through indexes."""
        if platform is not None and not callable(platform):
            platform = Platform.parse(platform)  # a mistake in it shows for a single manifest, too
        descriptor, document = self.root(source, reference)
        for _ in range(8):
            if isinstance(document, Manifest):
                return descriptor, document
            descriptor = document.select(platform)
            document = self.document(source, descriptor)
        raise InvalidReference(
            f"{reference} is an index in an index in an index …", hint="its publisher should flatten it"
        )
