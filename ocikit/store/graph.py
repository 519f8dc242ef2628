"""Links between documents and content, read from raw JSON, and the errors for unknown references.

Garbage collection must not delete content that is in use, so links are read from the JSON as it is: OCI and Docker
documents, and documents of later specifications, if they name content by descriptors. image-spec descriptor.md#properties.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import InvalidDigest, InvalidDocument, ManifestUnknown
from ocikit.spec import media_types
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT

#: Bytes. Documents over 4 MiB are rejected by default and allowed up to twice that; stores accept the maximum.
STORED_LIMIT = 2 * DOCUMENT_LIMIT

#: Prefixes that mark a digest even where a name is allowed: names in layouts may contain colons.
_DIGEST_PREFIXES = ("sha256:", "sha512:", "blake3:")


@frozen(kw_only=True)
class Link:
    """A reference from a document to other content."""

    digest: Digest
    media_type: str = ""
    subject: bool = False
    """Whether this is the subject of a referrer; a subject may be missing."""


def links(raw: bytes) -> tuple[Link, ...]:
    """Return a link for each descriptor in a JSON document, without duplicates.

    Raises:
        InvalidDocument: The bytes are not a JSON object, or a descriptor has an invalid digest.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidDocument(f"a JSON {type(document).__name__}, expected an object @ $")
    return tuple(dict.fromkeys(_iter_links(document)))


def _iter_links(document: dict[str, Any]) -> Iterator[Link]:
    subject = document.get("subject")
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(reversed(value))
        if not isinstance(value, dict):
            continue
        pending.extend(reversed(value.values()))
        # Docker's schema 1 names layers by `blobSum`; it is not supported, but its layers must not be collected
        text = value.get("digest", value.get("blobSum"))
        if not isinstance(text, str):
            continue
        media_type = value.get("mediaType")
        try:
            digest = Digest(text)
        except InvalidDigest as error:
            if media_type is None and "size" not in value:
                continue  # not a descriptor: an annotation may be named "digest" too
            raise InvalidDocument(error.message) from error
        yield Link(
            digest=digest, media_type=media_type if isinstance(media_type, str) else "", subject=value is subject
        )


@define(eq=False)
class Graph:
    """The links of the documents in one store; each document is read once.

    Args:
        read: Returns the bytes of a document, or None if the store does not have it or the content is not a document.
            It may raise for a corrupt document.
        strict: Whether invalid JSON raises where a document is expected; otherwise it has no children.
    """

    _read: Callable[[Link], bytes | None]
    strict: bool = field(default=True, kw_only=True)
    _links: dict[Digest, tuple[Link, ...]] = field(factory=dict, init=False)

    def children(self, link: Link) -> tuple[Link, ...]:
        """Return the links in the content.

        Raises:
            InvalidDocument: The graph is strict and a document is not valid JSON.
        """
        # Cache only links that were read: a wrong media type in one place must not hide the links in another
        if (children := self._links.get(link.digest)) is not None:
            return children
        is_document = media_types.is_document(link.media_type)
        if not is_document and (media_types.is_layer(link.media_type) or link.media_type in media_types.CONFIG_TYPES):
            return ()
        raw = self._read(link)
        if raw is None:
            return ()
        try:
            children = links(raw)
        except InvalidDocument as error:
            if is_document and self.strict:
                raise InvalidDocument(f"{link.digest} is {error.message}", hint=error.hint) from error
            return ()
        self._links[link.digest] = children
        return children

    def walk(self, roots: Iterable[Link], *, subjects: bool = True, seen: set[Digest] | None = None) -> set[Digest]:
        """Return every reachable digest, including the roots.

        Args:
            roots: The links to start from.
            subjects: Whether to follow links from referrers to their subjects.
            seen: The digests of an earlier walk, to which the new ones are added.
        """
        reached: set[Digest] = set() if seen is None else seen
        followed: set[Link] = set()
        pending = list(roots)
        while pending:
            link = pending.pop()
            if link in followed or (link.subject and not subjects):
                continue
            followed.add(link)
            reached.add(link.digest)
            pending.extend(self.children(link))
        return reached


def parse_digest(reference: str) -> Digest | None:
    """Return the digest in a reference, or None if the reference is a name.

    Raises:
        InvalidDigest: The reference begins like a digest and is not a valid one.
    """
    return Digest(reference) if reference.startswith(_DIGEST_PREFIXES) else None


def unknown_reference(reference: str, place: str, names: Sequence[str]) -> ManifestUnknown:
    """Return the error for an unknown name or digest, with the nearest names."""
    if similar := display.nearest(reference, names):
        hint = f"nearest: {display.join_limited(similar)}"
    elif names:
        hint = f"it has {display.join_limited(names)}"
    else:
        hint = "it has no names"
    return ManifestUnknown(f"{place} has no {reference!r}", hint=hint)
