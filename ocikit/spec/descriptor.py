"""Content descriptors. image-spec descriptor.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.spec import media_types
from ocikit.spec.about import ABOUT, about_facts, lead_of
from ocikit.spec.annotations import MODE, TITLE, Annotations, FrozenMap, to_annotations, to_frozen, to_strings
from ocikit.spec.digest import Digest
from ocikit.spec.kinds import artifact_kind, file_kind
from ocikit.spec.platform import Platform
from ocikit.spec.reference import AnyReference

_MODE = re.compile("[0-7]{3,7}")


def _platform(platform: Platform | None) -> Platform | None:
    """Return None for an empty platform, which clients written in Go accept in an index."""
    return None if platform == Platform() else platform


@frozen(kw_only=True, repr=False)
class Descriptor(display.Displayable):
    """The media type, digest and size of content, and its metadata.

    >>> ocikit.Descriptor.of(b"{}", "application/json").size
    2
    """

    media_type: str
    digest: Digest
    size: int
    """Size in bytes."""
    urls: tuple[str, ...] = field(default=(), converter=to_strings)
    """Other URLs of the content; requests to them never carry credentials."""
    annotations: Annotations = field(factory=Annotations, converter=to_annotations)
    data: bytes | None = field(default=None, repr=False)
    """The embedded content. It is used only if it has this digest and size."""
    artifact_type: str | None = None
    platform: Platform | None = field(default=None, converter=_platform)
    """None if it is absent or empty."""
    extra: FrozenMap[Any] = field(factory=FrozenMap, converter=to_frozen)
    """Unknown keys, preserved unchanged."""
    reference: AnyReference | None = field(default=None, init=False, eq=False, repr=False)
    """Where it was listed, pinned by digest; None elsewhere. It is not part of the JSON."""

    @classmethod
    def of(cls, content: bytes, media_type: str, *, algorithm: str = "sha256", **fields: Any) -> Descriptor:
        """Return the descriptor of the bytes, with further fields as keywords.

        Args:
            content: The bytes.
            media_type: Media type of the content.
            algorithm: "sha256" or "sha512".
            fields: Further fields, such as `annotations`.

        >>> ocikit.Descriptor.of(b"hello", "text/plain", annotations={"org.opencontainers.image.title": "note.txt"})
        Descriptor(media_type='text/plain', digest='sha256:2cf24dba5fb0', size=5 B, title='note.txt')
        """
        return cls(media_type=media_type, digest=Digest.of(content, algorithm), size=len(content), **fields)

    @property
    def title(self) -> str | None:
        """The file name given by the publisher.

        It is not validated, so beware of path traversal: see `safe_title`.
        """
        return self.annotations.get(TITLE)

    @property
    def is_executable(self) -> bool:
        """True if the publisher's file had permission to be executed."""
        mode = self.annotations.get(MODE, "")
        return _MODE.fullmatch(mode) is not None and bool(int(mode, 8) & 0o100)

    @property
    def embedded(self) -> bytes | None:
        """The embedded content if it has the digest and size, else None."""
        if self.digest == EMPTY_DESCRIPTOR.digest and self.size == EMPTY_DESCRIPTOR.size:
            return b"{}"
        if self.data is None or len(self.data) != self.size or not self.digest.verifiable:
            return None
        return self.data if Digest.of(self.data, self.digest.algorithm) == self.digest else None

    @property
    def is_document(self) -> bool:
        """True for a manifest or an index."""
        return media_types.is_document(self.media_type)

    @property
    def key(self) -> tuple[str, int]:
        """The identity of the content: digest and size."""
        return self.digest, self.size

    def bare(self) -> Descriptor:
        """Return a copy with media type, digest, size and artifact type only.

        >>> descriptor = ocikit.Descriptor.of(b"{}", "application/json", annotations={"org.example.lot": "7"})
        >>> descriptor.bare()
        Descriptor(media_type='application/json', digest='sha256:44136fa355b3', size=2 B)
        """
        return Descriptor(
            media_type=self.media_type, digest=self.digest, size=self.size, artifact_type=self.artifact_type
        )

    def annotated(self, **annotations: str) -> Descriptor:
        """Return a copy with more annotations.

        >>> descriptor = ocikit.Descriptor.of(b"{}", "application/json")
        >>> dict(descriptor.annotated(**{"org.example.lot": "7"}).annotations)
        {'org.example.lot': '7'}
        """
        return attrs.evolve(self, annotations=Annotations({**self.annotations, **annotations}))

    def located(self, repository: AnyReference) -> Descriptor:
        """Return a copy with its reference in a repository or layout, so that verbs take it.

        >>> descriptor = ocikit.Descriptor.of(b"{}", "application/json")
        >>> place = ocikit.Reference.parse("ghcr.io/org/data:v1")
        >>> descriptor.located(place).reference.name
        'ghcr.io/org/data'
        """
        copy = attrs.evolve(self)
        object.__setattr__(copy, "reference", attrs.evolve(repository, tag=None, digest=self.digest))
        return copy

    def __str__(self) -> str:
        name = display.shorten(self.title or self.artifact_type or self.media_type, display.CELL)
        return f"{name} ({self.digest.short}, {display.size(self.size)})"

    def __rich_repr__(self) -> display.Description:
        yield "media_type", self.media_type
        yield "digest", display.DigestCell(self.digest)
        yield "size", display.Size(self.size)
        yield "title", self.title, None
        yield "artifact_type", self.artifact_type, None
        yield "platform", str(self.platform) if self.platform else None, None
        yield "urls", self.urls, ()

    def _kind(self) -> str:
        return artifact_kind(self.artifact_type) if self.artifact_type else file_kind(self.media_type, self.title or "")

    def _card_title(self) -> object:
        return display.Name.of_path(self.title) if self.title else str(self.platform or self._kind())

    def _card_notes(self) -> Iterator[object]:
        if self.title or self.platform:
            yield self._kind()
        yield display.Size(self.size)

    def _card_lead(self) -> str:
        return lead_of({key: value for key, value in self.annotations.items() if key != TITLE})

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from about_facts(self.annotations)
        yield "digest", display.DigestCell(self.digest)
        if self.urls:
            yield "urls", self.urls

    def _sections(self) -> Iterator[display.Section]:
        yield from display.annotations_section(self.annotations, without={*ABOUT, TITLE})
        types = (("artifact type", self.artifact_type), ("media type", self.media_type))
        facts = [(name, value) for name, value in types if value]
        yield from display.details_section((*facts, ("size", display.Size(self.size))))


EMPTY_DESCRIPTOR = Descriptor.of(b"{}", media_types.EMPTY, data=b"{}")
