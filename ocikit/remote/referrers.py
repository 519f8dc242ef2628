"""Referrers of a manifest, by the registry's API or by the fallback tag.

distribution-spec spec.md#listing-referrers and #referrers-tag-schema.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import attrs
import requests
from attrs import frozen

from ocikit.errors import InvalidDocument, InvalidResponse, NotFound, OcikitError, RegistryError
from ocikit.spec import media_types
from ocikit.spec.annotations import Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, parse_document

log = logging.getLogger("ocikit")

_MAX_TRIES = 5  # to replace a fallback index that other clients replace, too


class Manifests(Protocol):
    """The endpoints of a repository that referrers need."""

    def get_manifest(self, target: str) -> tuple[bytes, str, requests.Response]:
        """Return the bytes, the media type and the response."""

    def put_manifest(
        self, target: str, raw: bytes, media_type: str, *, if_match: str | None = None
    ) -> requests.Response:
        """Push a manifest."""

    def delete_manifest(self, target: str) -> None:
        """Delete a manifest by digest."""

    def list_referrers(self, digest: Digest, artifact_type: str | None = None) -> Iterator[tuple[bytes, bool]]:
        """Yield pages of the API."""


def fallback_tag(digest: Digest) -> str:
    """Return the tag that lists the referrers of a digest if the registry has no API.

    >>> fallback_tag(Digest("sha256:" + "a" * 64)) == "sha256-" + "a" * 64
    True
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{digest.algorithm[:32]}-{digest.encoded[:64]}")


def find(
    manifests: Manifests, digest: Digest, artifact_type: str | None, *, api: bool | None
) -> tuple[list[Descriptor], bool]:
    """Return all referrers of a digest, and whether they came from the API.

    Args:
        manifests: Repository of the subject.
        digest: Digest of the subject.
        artifact_type: Return referrers of this type only.
        api: False if the registry is known to have no API.

    Raises:
        InvalidResponse: The API returned an index by its type, but not by its content.
    """
    if api is not False:
        pages = manifests.list_referrers(digest, artifact_type)
        try:
            first = next(pages, None)
        except NotFound:
            pass
        except InvalidResponse as error:
            log.info("no referrers API: %s", error.message)
        except RegistryError as error:
            # Registries without the API answer its path with any of the statuses for invalid requests
            if error.status not in {400, 404, 405, 406, 501}:
                raise
        else:
            # The API exists: an invalid or missing page must not end the list silently
            found = _parse_page(first, digest, artifact_type)
            for page in pages:
                found += _parse_page(page, digest, artifact_type)
            return list(dict.fromkeys(found)), True
    return _filter(_Fallback.read(manifests, digest).entries, artifact_type), False


def _parse_page(page: tuple[bytes, bool] | None, digest: Digest, artifact_type: str | None) -> list[Descriptor]:
    if page is None:
        return []
    raw, filtered = page
    try:
        index = Index.parse(raw, limit=len(raw))
    except InvalidDocument as error:
        raise InvalidResponse(
            f"the list of referrers of {digest} is not an index: {error.message}",
            hint="the registry's referrers API is broken, or a proxy changed the response; contact its operator",
        ) from error
    # Harbor filters without reporting it, others report it without filtering: harbor#18413
    return list(index.manifests) if filtered else _filter(index.manifests, artifact_type)


def _filter(descriptors: Sequence[Descriptor], artifact_type: str | None) -> list[Descriptor]:
    return [d for d in descriptors if artifact_type is None or d.artifact_type == artifact_type]


@frozen
class _Fallback:
    """The content of a fallback tag."""

    index: Index | None = None
    etag: str | None = None
    occupied: bool = False
    """Whether the tag names something other than a list of referrers."""

    @property
    def entries(self) -> tuple[Descriptor, ...]:
        return self.index.manifests if self.index else ()

    @classmethod
    def read(cls, manifests: Manifests, digest: Digest) -> _Fallback:
        try:
            raw, kind, response = manifests.get_manifest(fallback_tag(digest))
        except NotFound:
            return cls()
        # GitLab resolves the tag sha256-<hex> to the subject itself: oras-go#1396
        if Digest.of(raw, digest.algorithm if digest.verifiable else "sha256") == digest:
            return cls()
        try:
            document = parse_document(raw, kind, limit=len(raw))
        except InvalidDocument:
            return cls(occupied=True)
        return cls(document, response.headers.get("ETag")) if isinstance(document, Index) else cls(occupied=True)


def add(manifests: Manifests, subject: Digest, referrer: Descriptor) -> None:
    """Add a referrer to the fallback index.

    distribution-spec spec.md#pushing-manifests-with-subject.

    Raises:
        RegistryError: The index can't be read or written.
        InvalidResponse: The tag names something other than an index.
    """

    def edit(entries: list[Descriptor]) -> list[Descriptor]:
        return entries if any(entry.digest == referrer.digest for entry in entries) else [*entries, referrer]

    _edit_index(manifests, subject, edit, create=True)


def remove(manifests: Manifests, subject: Digest, referrer: Digest) -> None:
    """Remove a referrer from the fallback index, if it is listed.

    Raises:
        RegistryError: The index can't be read or written.
    """
    _edit_index(manifests, subject, lambda entries: [e for e in entries if e.digest != referrer], create=False)


def _edit_index(
    manifests: Manifests, subject: Digest, edit: Callable[[list[Descriptor]], list[Descriptor]], *, create: bool
) -> None:
    """Replace the fallback index, again if another client replaces it meanwhile (race)."""
    tag = fallback_tag(subject)
    for attempt in range(_MAX_TRIES):
        fallback = _Fallback.read(manifests, subject)
        if fallback.occupied and create:
            raise InvalidResponse(
                f"the tag {tag}, which should list the referrers of {subject.short}, names something else",
                hint="the referrer was pushed, but is not listed; delete the tag, and push again",
            )
        index = fallback.index
        if index is None and not create:
            return
        entries = edit(list(fallback.entries))
        if entries == list(fallback.entries) and index is not None:
            return
        base = index or Index(manifests=(), annotations=Annotations())
        new = attrs.evolve(base, manifests=tuple(entries))
        try:
            manifests.put_manifest(tag, new.raw, new.media_type or media_types.OCI_INDEX, if_match=fallback.etag)
        except RegistryError as error:
            if error.status != 412 or attempt == _MAX_TRIES - 1:
                raise
            continue
        # Read it again: without conditional requests another client may have replaced it at the same time
        current = _Fallback.read(manifests, subject).index
        if current is not None and edit(list(current.manifests)) == list(current.manifests):
            if index is not None and index.digest not in {new.digest, current.digest}:
                _delete_old(manifests, index)
            return
    log.warning("the list of referrers at %s changed while it was written; %s may be missing from it", tag, subject)


def _delete_old(manifests: Manifests, index: Index) -> None:
    """Delete the replaced index.

    ECR and GHCR reject that, which does no harm: oras#1228, oras#915.
    """
    try:
        manifests.delete_manifest(index.digest)
    except OcikitError as error:
        log.warning("the replaced list of referrers stays in the registry: %s", error.message)
