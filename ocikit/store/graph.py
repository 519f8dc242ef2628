"""What documents point at, by digest alone, and how a store says that a name isn't there.

Sweeping may never lose content, so links are read from the JSON as it is: OCI and Docker documents, and whatever a later
specification adds, as long as it names content by descriptors. image-spec descriptor.md#properties.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import InvalidDigest, InvalidDocument, ManifestUnknown
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.manifest import Index, Manifest

#: Bytes. Documents over 4 MiB are refused unless asked for, up to twice that; a store keeps what may be asked for.
STORED_LIMIT = 2 * DOCUMENT_LIMIT

#: Prefixes that mark a digest even where a name could stand: names of layouts may hold colons.
_DIGESTS = ("sha256:", "sha512:", "blake3:")


@frozen(kw_only=True)
class Link:
    """One document naming other content."""

    digest: Digest
    media_type: str = ""
    subject: bool = False
    """Whether it is what a referrer refers to: a link that may dangle."""


def links(raw: bytes) -> tuple[Link, ...]:
    """Everything that a JSON document points at, each descriptor in it once.

    Raises: InvalidDocument: if it isn't a JSON object, or a descriptor in it has no valid digest.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(f"not JSON: {error}") from error
    if not isinstance(document, dict):
        raise InvalidDocument(f"a JSON {type(document).__name__}, expected an object @ $")
    return tuple(dict.fromkeys(_links(document)))


def _links(document: dict[str, Any]) -> Iterator[Link]:
    subject = document.get("subject")
    left: list[Any] = [document]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left.extend(reversed(value))
        if not isinstance(value, dict):
            continue
        left.extend(reversed(value.values()))
        # `blobSum` is how Docker's schema 1 names its layers: not understood here, but not to be lost either
        text = value.get("digest", value.get("blobSum"))
        if not isinstance(text, str):
            continue
        kind = value.get("mediaType")
        try:
            digest = Digest(text)
        except InvalidDigest as error:
            if kind is None and "size" not in value:
                continue  # no descriptor: an annotation may be called "digest" too
            raise InvalidDocument(error.message) from error
        yield Link(digest=digest, media_type=kind if isinstance(kind, str) else "", subject=value is subject)


@define(eq=False)
class Graph:
    """Which content leads to which, within one store; a document is read once.

    Args:
        read: the bytes of a document, or None if it isn't there or, for content of another type, is no document.
            It may raise for a document that can't be trusted.
        strict: whether content announced as a document that isn't one raises; otherwise it leads nowhere.
    """

    _read: Callable[[Link], bytes | None]
    strict: bool = field(default=True, kw_only=True)
    _known: dict[Digest, tuple[Link, ...]] = field(factory=dict, init=False)

    def children(self, link: Link) -> tuple[Link, ...]:
        """What the content points at. Raises: InvalidDocument: for a document that can't be read as one."""
        # Only links that were read are remembered: a wrong type in one place must not hide them in another
        if (known := self._known.get(link.digest)) is not None:
            return known
        document = media_types.is_document(link.media_type)
        if not document and (media_types.is_layer(link.media_type) or link.media_type in media_types.CONFIG_TYPES):
            return ()
        raw = self._read(link)
        if raw is None:
            return ()
        try:
            found = links(raw)
        except InvalidDocument as error:
            if document and self.strict:
                raise InvalidDocument(f"{link.digest} is {error.message}", hint=error.hint) from error
            return ()
        self._known[link.digest] = found
        return found

    def walk(self, roots: Iterable[Link], *, subjects: bool = True, seen: set[Digest] | None = None) -> set[Digest]:
        """Every digest that can be reached, the roots included.

        Args:
            roots: where to start.
            subjects: whether what referrers refer to is reached through them.
            seen: digests of an earlier walk; they are not followed again, and new ones are added.
        """
        reached: set[Digest] = set() if seen is None else seen
        followed: set[Link] = set()
        left = list(roots)
        while left:
            link = left.pop()
            if link in followed or (link.subject and not subjects):
                continue
            followed.add(link)
            reached.add(link.digest)
            left.extend(self.children(link))
        return reached


def referrer(descriptor: Descriptor, document: Manifest | Index) -> Descriptor:
    """A document as a list of referrers shows it. distribution-spec spec.md#listing-referrers.

    Its artifact type is the config's media type where it names none; its annotations are the document's.
    """
    kind = document.artifact_type or (document.config.media_type if isinstance(document, Manifest) else None)
    return Descriptor(
        media_type=document.media_type or descriptor.media_type,
        digest=descriptor.digest,
        size=descriptor.size,
        artifact_type=kind,
        annotations=document.annotations,
    )


def parse_digest(reference: str) -> Digest | None:
    """The digest that a reference spells, or None for a name. Raises: InvalidDigest: for half a digest."""
    return Digest(reference) if reference.startswith(_DIGESTS) else None


def unknown_reference(reference: str, place: str, names: Sequence[str]) -> ManifestUnknown:
    """The error for a name or digest that a place doesn't have, with the names that come near."""
    if near := display.nearest(reference, names):
        hint = f"near names: {display.join_limited(near)}"
    elif names:
        hint = f"it has {display.join_limited(names)}"
    else:
        hint = "nothing in it has a name"
    return ManifestUnknown(f"{place} has no {reference!r}", hint=hint)
