"""Referrers: what refers to a manifest, by the registry's API or by the fallback tag.

distribution-spec spec.md#listing-referrers and #referrers-tag-schema. This module works on any repository that has the
few calls of `Manifests`, so that `Repository` can be built on it.
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
from ocikit.spec.manifest import Index, Manifest, parse_document

log = logging.getLogger("ocikit")

_TRIES = 5  # to replace a fallback index that others replace too


class Manifests(Protocol):
    """The calls of a repository that this module needs."""

    def get_manifest(self, target: str) -> tuple[bytes, str, requests.Response]:
        """Bytes, media type, response."""

    def put_manifest(
        self, target: str, raw: bytes, media_type: str, *, if_match: str | None = None
    ) -> requests.Response:
        """Push a manifest."""

    def delete_manifest(self, target: str) -> None:
        """Delete a manifest by digest."""

    def list_referrers(self, digest: Digest, artifact_type: str | None = None) -> Iterator[tuple[bytes, bool]]:
        """Pages of the API."""


def fallback_tag(digest: Digest) -> str:
    """The tag that lists the referrers of a digest where the API is missing.

    >>> fallback_tag(Digest("sha256:" + "a" * 64)) == "sha256-" + "a" * 64
    True
    """
    return re.sub(r"[^A-Za-z0-9._-]", "-", f"{digest.algorithm[:32]}-{digest.encoded[:64]}")


def referring(document: Manifest | Index) -> Descriptor:
    """How a list of referrers describes a document: with its artifact type and all its annotations."""
    kind = document.artifact_type or (document.config.media_type if isinstance(document, Manifest) else None)
    return attrs.evolve(document.descriptor, artifact_type=kind, annotations=document.annotations)


def find(
    manifests: Manifests, digest: Digest, artifact_type: str | None, *, api: bool | None
) -> tuple[list[Descriptor], bool]:
    """Every referrer of a digest, and whether the API answered.

    Args:
        manifests: the repository.
        digest: the subject's.
        artifact_type: only those of this type.
        api: False skips the API: it is known to be missing.

    Raises: InvalidResponse: the API answered with an index by its type, but not by its content.
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
            # Registries of before the API answer its path with whatever they have for bad requests
            if error.status not in {400, 404, 405, 406, 501}:
                raise
        else:
            # The API has answered: a page that is wrong or missing must not pass for the end of the list
            found = _referrers(first, digest, artifact_type)
            for page in pages:
                found += _referrers(page, digest, artifact_type)
            return list(dict.fromkeys(found)), True
    return _filtered(_Fallback.read(manifests, digest).entries, artifact_type), False


def _referrers(page: tuple[bytes, bool] | None, digest: Digest, artifact_type: str | None) -> list[Descriptor]:
    """What one page of the API lists."""
    if page is None:
        return []
    raw, filtered = page
    try:
        index = Index.parse(raw, limit=len(raw))
    except InvalidDocument as error:
        raise InvalidResponse(
            f"the list of referrers of {digest} is not an index: {error.message}",
            hint="the registry's referrers API is broken, or something changed its answer; tell its operators",
        ) from error
    # Harbor filters without saying so, others say so without filtering: harbor#18413
    return list(index.manifests) if filtered else _filtered(index.manifests, artifact_type)


def _filtered(descriptors: Sequence[Descriptor], artifact_type: str | None) -> list[Descriptor]:
    return [d for d in descriptors if artifact_type is None or d.artifact_type == artifact_type]


@frozen
class _Fallback:
    """What stands at the fallback tag."""

    index: Index | None = None
    etag: str | None = None
    occupied: bool = False
    """By something that is no list."""

    @property
    def entries(self) -> tuple[Descriptor, ...]:
        return self.index.manifests if self.index else ()

    @classmethod
    def read(cls, manifests: Manifests, digest: Digest) -> _Fallback:
        """The list of a subject's referrers, or that there is none."""
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
    """Enter a referrer in the fallback index. distribution-spec spec.md#pushing-manifests-with-subject.

    Raises: RegistryError: if the index can't be read or written.
    """

    def change(entries: list[Descriptor]) -> list[Descriptor]:
        return entries if any(e.digest == referrer.digest for e in entries) else [*entries, referrer]

    _change(manifests, subject, change, create=True)


def remove(manifests: Manifests, subject: Digest, referrer: Digest) -> None:
    """Take a referrer out of the fallback index; nothing happens if it isn't in it."""
    _change(manifests, subject, lambda entries: [e for e in entries if e.digest != referrer], create=False)


def _change(
    manifests: Manifests, subject: Digest, change: Callable[[list[Descriptor]], list[Descriptor]], *, create: bool
) -> None:
    tag = fallback_tag(subject)
    for attempt in range(_TRIES):
        found = _Fallback.read(manifests, subject)
        if found.occupied and create:
            raise InvalidResponse(
                f"the tag {tag}, where the referrers of {subject.short} should be listed, holds something else",
                hint="what refers to it was pushed, but is not in a list; delete the tag, and push once more",
            )
        index = found.index
        if index is None and not create:
            return
        after = change(list(found.entries))
        if after == list(found.entries) and index is not None:
            return
        fresh = (
            attrs.evolve(index, manifests=tuple(after))
            if index
            else Index(manifests=tuple(after), annotations=Annotations())
        )
        try:
            manifests.put_manifest(tag, fresh.raw, fresh.media_type or media_types.OCI_INDEX, if_match=found.etag)
        except RegistryError as error:
            if error.status != 412 or attempt == _TRIES - 1:
                raise
            continue
        # Without conditional requests another client may have come between: look once more
        now = _Fallback.read(manifests, subject)
        if now.index is not None and change(list(now.entries)) == list(now.entries):
            if index is not None and index.digest not in {fresh.digest, now.index.digest}:
                _forget(manifests, index)
            return
    log.warning("the list of referrers at %s changed while it was written; %s may be missing from it", tag, subject)


def _forget(manifests: Manifests, old: Index) -> None:
    """Delete the index that was replaced. ECR and GHCR refuse that, and it does no harm: oras#1228, oras#915."""
    try:
        manifests.delete_manifest(old.digest)
    except OcikitError as error:
        log.warning("the list of referrers that was replaced stays in the registry: %s", error.message)
