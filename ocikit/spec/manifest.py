"""Manifests and indexes, OCI and Docker v2 alike. image-spec manifest.md and image-index.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Self, TypeAlias, cast

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidDocument, NoMatchingPlatform, UnsupportedSchema1
from ocikit.spec import media_types
from ocikit.spec.annotations import REF_NAME, Annotations, to_annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT, Document, load_json, structure
from ocikit.spec.platform import Platform

#: How buildkit says which manifest an attestation is about.
_ABOUT = "vnd.docker.reference.digest"

#: How a platform may be wished for: text, a value, or a test on descriptors.
PlatformLike: TypeAlias = "str | Platform | Callable[[Descriptor], bool]"


def _descriptors(items: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    return tuple(items)


class _Typed(Document):
    """A document that says which type it is."""

    __slots__ = ()

    @classmethod
    def parse(cls, raw: bytes, *, limit: int = DOCUMENT_LIMIT) -> Self:
        """The document that the bytes spell. Raises: InvalidDocument, UnsupportedSchema1: see `parse_document`."""
        return cast("Self", _parse(raw, None, limit, cls))


@frozen(kw_only=True, repr=False)
class Manifest(_Typed):
    """A config and layers: one image, or one artifact.

    >>> m = Manifest(config=Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json"), layers=())
    >>> Manifest.parse(m.raw).digest == m.digest
    True
    """

    schema_version: int = field(default=2, metadata={"always": True, "order": 0})
    media_type: str | None = field(default=media_types.OCI_MANIFEST, metadata={"always": True, "order": 1})
    artifact_type: str | None = field(default=None, metadata={"order": 2})
    config: Descriptor
    layers: tuple[Descriptor, ...] = field(default=(), converter=_descriptors, metadata={"always": True})
    subject: Descriptor | None = None
    annotations: Annotations = field(factory=Annotations, converter=to_annotations)

    default_media_type: ClassVar[str] = media_types.OCI_MANIFEST

    @property
    def kind(self) -> str:
        """What the artifact is: its artifactType, else its config's media type. image-spec manifest.md#guidelines."""
        return self.artifact_type or self.config.media_type

    @property
    def is_image(self) -> bool:
        """Whether the layers make up a file system."""
        return self.config.media_type in media_types.CONFIG_TYPES

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers, in order, repeated digests included."""
        return (self.config, *self.layers)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """Everything that must be there before this document: config and layers. The subject may be absent."""
        return self.blobs

    def as_referrer(self, digest: Digest | None = None) -> Descriptor:
        """Return the descriptor that a list of referrers has for this manifest. distribution-spec spec.md#listing-referrers.

        Its artifact type is the config's media type if the manifest names none; its annotations are the manifest's.

        Args:
            digest: The digest that it was pushed with, if that is not its sha256 digest.
        """
        return _referrer(self, digest, self.kind)

    def __rich_repr__(self) -> display.Description:
        yield "kind", self.kind
        yield "digest", display.DigestCell(self.digest)
        yield "layers", len(self.layers)
        yield "size", display.Size(sum(layer.size for layer in self.layers))
        yield "subject", display.DigestCell(self.subject.digest) if self.subject else None, None
        yield "annotations", dict(self.annotations), {}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from _facts(self)
        if self.config.media_type != media_types.EMPTY:
            yield "config", str(self.config)
        if self.subject is not None:
            yield "subject", display.DigestCell(self.subject.digest)

    def _sections(self) -> Iterator[display.Section]:
        layers, size = self.layers, display.Size(sum(layer.size for layer in self.layers))
        headers: tuple[str, ...] = ("size", "type", "digest")
        rows: Iterable[tuple[object, ...]] = (
            (display.Size(each.size), each.media_type, display.DigestCell(each.digest)) for each in layers
        )
        if any(each.title is not None for each in layers[: display.ROWS]):
            headers = ("title", *headers)
            rows = ((each.title, *row) for each, row in zip(layers, rows, strict=False))
        yield display.Section(
            title="layers", headers=headers, rows=rows, count=len(layers), note=size if layers else "", unfolded=True
        )
        yield from display.annotations_section(self.annotations)


@frozen(kw_only=True, repr=False)
class Index(_Typed):
    """A list of manifests, most often one for each platform; it may hold further indexes."""

    schema_version: int = field(default=2, metadata={"always": True, "order": 0})
    media_type: str | None = field(default=media_types.OCI_INDEX, metadata={"always": True, "order": 1})
    artifact_type: str | None = field(default=None, metadata={"order": 2})
    manifests: tuple[Descriptor, ...] = field(default=(), converter=_descriptors, metadata={"always": True})
    subject: Descriptor | None = None
    annotations: Annotations = field(factory=Annotations, converter=to_annotations)

    default_media_type: ClassVar[str] = media_types.OCI_INDEX

    @property
    def kind(self) -> str:
        """The artifactType, else the media type."""
        return self.artifact_type or self.media_type or media_types.OCI_INDEX

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests, in order."""
        return self.manifests

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms that it has, in order, each once; attestations (`unknown/unknown`) are left out."""
        found = (d.platform for d in self.manifests if d.platform is not None and d.platform.known)
        return tuple(dict.fromkeys(found))

    def as_referrer(self, digest: Digest | None = None) -> Descriptor:
        """Return the descriptor that a list of referrers has for this index. distribution-spec spec.md#listing-referrers.

        It has the artifact type and the annotations of the index.

        Args:
            digest: The digest that it was pushed with, if that is not its sha256 digest.
        """
        return _referrer(self, digest, self.artifact_type)

    def select(self, platform: PlatformLike | None = None) -> Descriptor:
        """The manifest that suits a platform best; among equals the first, as the specification asks.

        If none does, an index without a platform of its own is given, if there is one: look in there.

        Args:
            platform: "os/architecture[/variant]", a `Platform`, a test on descriptors, or None for this machine's.
        Raises:
            NoMatchingPlatform: with the platforms that there are.
        """
        descriptors = [d for d in self.manifests if d.platform is None or d.platform.known]
        if callable(platform):
            found = next((d for d in descriptors if platform(d)), None)
            wish = "such platform"
        else:
            wanted = Platform.host() if platform is None else Platform.parse(platform)
            ranked = [(rank, i) for i, d in enumerate(descriptors)
                      if d.platform is not None and (rank := wanted.rank(d.platform)) is not None]  # fmt: skip
            found = descriptors[min(ranked)[1]] if ranked else None
            wish = str(wanted)
            if found is None:
                unnamed = [d for d in descriptors if d.platform is None]
                nested = [d for d in unnamed if d.media_type in media_types.INDEX_TYPES]
                # One manifest that names no platform leaves no choice
                found = next(iter(nested or (unnamed if len(descriptors) == 1 else ())), None)
        if found is None:
            have = display.join_limited(self.platforms, 20) or "no platforms at all"
            raise NoMatchingPlatform(
                f"No {wish} in this index. It has {have}.",
                hint="pass platform=… with one of these"
                if self.platforms
                else "name one of its manifests by digest; inspect() shows them",
                available=self.platforms,
            )
        return found

    def __rich_repr__(self) -> display.Description:
        yield "kind", self.kind
        yield "digest", display.DigestCell(self.digest)
        yield "manifests", len(self.manifests)
        yield "platforms", [str(p) for p in self.platforms], []
        yield "subject", display.DigestCell(self.subject.digest) if self.subject else None, None
        yield "annotations", dict(self.annotations), {}

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from _facts(self)
        if self.subject is not None:
            yield "subject", display.DigestCell(self.subject.digest)

    def _sections(self) -> Iterator[display.Section]:
        return index_sections(self, manifest_card)


def index_sections(index: Index, card: Callable[[Descriptor], display.Card]) -> Iterator[display.Section]:
    """What an index holds: a card for each manifest, as `card` makes it; attestations apart, folded away."""
    found = [m for m in index.manifests if m.platform is None or m.platform.known]
    yield display.Section(title="manifests", cards=map(card, found), count=len(found), unfolded=True)
    if said := [m for m in index.manifests if m.platform is not None and not m.platform.known]:
        headers = ("digest", "size", "about")
        rows = (
            (display.DigestCell(m.digest), display.Size(m.size), display.DigestCell(m.annotations.get(_ABOUT, "")))
            for m in said
        )
        yield display.Section(title="attestations", headers=headers, rows=rows, count=len(said), unfolded=False)
    yield from display.annotations_section(index.annotations)


def manifest_card(descriptor: Descriptor) -> display.Card:
    """What is said of a manifest where it isn't at hand: in an index."""
    name = descriptor.platform or descriptor.annotations.get(REF_NAME) or descriptor.artifact_type
    return display.Card(
        title=display.shorten(name or descriptor.media_type, display.CELL),
        notes=(display.DigestCell(descriptor.digest),),
    )


def _facts(document: Manifest | Index) -> Iterator[tuple[str, object]]:
    yield "kind", document.kind
    yield "digest", display.DigestCell(document.digest)
    yield "media type", document.media_type


def _referrer(document: Manifest | Index, digest: Digest | None, artifact_type: str | None) -> Descriptor:
    return attrs.evolve(
        document.descriptor,
        digest=digest or document.digest,
        artifact_type=artifact_type,
        annotations=document.annotations,
    )


def parse_document(raw: bytes, media_type: str | None = None, *, limit: int = DOCUMENT_LIMIT) -> Manifest | Index:
    """The manifest or index that the bytes spell.

    Args:
        raw: the document.
        media_type: the type that it was announced with; parameters are ignored.
        limit: the largest document to accept, in bytes.
    Raises:
        UnsupportedSchema1: for Docker's schema 1, with the bytes.
        InvalidDocument: if it is neither manifest nor index, or says another type than it was announced with.
    """
    return _parse(raw, media_type, limit, None)


def _parse(raw: bytes, media_type: str | None, limit: int, wanted: type[Document] | None) -> Manifest | Index:
    value = load_json(raw, "manifest", limit=limit)
    announced = (media_type or "").partition(";")[0].strip().lower()
    if announced not in media_types.SCHEMA1_TYPES and not media_types.is_document(announced):
        announced = ""  # as vague as application/json: the document knows better
    said = value.get("mediaType")
    if said is not None and not isinstance(said, str):
        raise InvalidDocument("manifest: expected a string @ $.mediaType")
    kind = (said or "").lower() or announced
    if announced and kind != announced:
        raise InvalidDocument(
            f"the registry announced {announced}, but the document says {display.quoted(said)} @ $.mediaType",
            hint="the registry or something in front of it changed the type; the content can't be trusted",
        )
    version = value.get("schemaVersion")
    if (type(version) is int and version == 1) or kind in media_types.SCHEMA1_TYPES:
        raise UnsupportedSchema1(
            "this is a Docker schema 1 manifest, a format withdrawn in 2024",
            hint="ask its publisher to push it again with a current client; the bytes are in the error's .raw",
            raw=bytes(raw),
        )
    cls: type[Manifest | Index]
    if kind in media_types.INDEX_TYPES:
        cls = Index
    elif kind in media_types.MANIFEST_TYPES:
        cls = Manifest
    elif kind:
        raise InvalidDocument(
            f"{display.quoted(said)} is not a manifest or index type", hint="fetch it as a blob instead"
        )
    else:
        cls = Index if wanted is Index or value.get("manifests") is not None else Manifest
    # A document that can be read as two different things is the type confusion of CVE-2021-41190
    foreign = [key for key in (("layers", "config") if cls is Index else ("manifests",)) if value.get(key) is not None]
    if foreign:
        raise InvalidDocument(
            f"an {'index' if cls is Index else 'image manifest'} with $.{foreign[0]}",
            hint="it could be read as two different things; it is refused, as other clients do",
        )
    if wanted is not None and cls is not wanted:
        raise InvalidDocument(
            f"the document is of type {kind or cls.default_media_type}, expected {wanted.default_media_type}",
            hint="parse_document takes either",
        )
    document = structure(value, cls)
    if document.schema_version != 2:
        raise InvalidDocument(f"manifest: schemaVersion {document.schema_version}, expected 2 @ $.schemaVersion")
    object.__setattr__(document, "_raw", bytes(raw))
    if not said:
        # Documents without a mediaType are legal: they are what they were announced as. Changed and encoded anew, they
        # say it, since some registries insist.
        object.__setattr__(document, "media_type", announced or cls.default_media_type)
    return document
