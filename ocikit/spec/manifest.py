"""Manifests and indexes of OCI and Docker v2. image-spec manifest.md and image-index.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Self, TypeAlias, cast

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidDocument, NoMatchingPlatform, UnsupportedSchema1, Violation
from ocikit.spec import media_types
from ocikit.spec.about import ABOUT, about_facts, lead_of
from ocikit.spec.annotations import REF_NAME, Annotations, to_annotations
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT, Document, load_json, structure
from ocikit.spec.kinds import artifact_kind, file_kind
from ocikit.spec.platform import Platform
from ocikit.spec.titles import NamedLayers, name_layers

#: Annotation of buildkit with the digest of the manifest that an attestation is about.
ATTESTED_DIGEST = "vnd.docker.reference.digest"

#: A requested platform: text, a value, or a predicate of descriptors.
PlatformLike: TypeAlias = str | Platform | Callable[[Descriptor], bool]


def _descriptors(items: Iterable[Descriptor]) -> tuple[Descriptor, ...]:
    return tuple(items)


class _TypedDocument(Document):
    """A document with a mediaType field."""

    __slots__ = ()

    @classmethod
    def parse(cls, raw: bytes, *, limit: int = DOCUMENT_LIMIT) -> Self:
        """Return the document that is encoded in the bytes.

        Args:
            raw: JSON in UTF-8, stored unchanged.
            limit: Size of the largest document to accept, in bytes.

        Raises:
            UnsupportedSchema1: The document is a Docker schema 1 manifest.
            InvalidDocument: The document is not of this type; `problems` has each violation.

        >>> raw = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
        >>> ocikit.Index.parse(raw)
        Index(kind='application/vnd.oci.image.index.v1+json', digest='sha256:0de3ff5142db', manifests=0)
        >>> ocikit.Manifest.parse(raw)
        Traceback (most recent call last):
            ...
        ocikit.errors.InvalidDocument: the document is of type application/vnd.oci.image.index.v1+json, expected application/vnd.oci.image.manifest.v1+json
          -> parse_document accepts either
        """
        return cast("Self", _parse(raw, None, limit, cls))


@frozen(kw_only=True, repr=False)
class Manifest(_TypedDocument):
    """A config and layers: one image or one artifact.

    >>> m = ocikit.Manifest(config=ocikit.Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json"), layers=())
    >>> ocikit.Manifest.parse(m.raw).digest == m.digest
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
    _named: NamedLayers | None = field(default=None, init=False, eq=False, repr=False)

    @property
    def named(self) -> NamedLayers:
        """The layers by relative path; their titles are checked once."""
        if self._named is None:
            object.__setattr__(self, "_named", name_layers(self.layers))
        return cast("NamedLayers", self._named)

    @property
    def kind(self) -> str:
        """The artifactType, else the media type of the config.

        See image-spec manifest.md#guidelines.
        """
        return self.artifact_type or self.config.media_type

    @property
    def is_image(self) -> bool:
        """True if the layers are a file system.

        Models of Ollama and signatures of cosign have the config of an image, but no such layers.
        """
        layers = self.layers
        return self.config.media_type in media_types.CONFIG_TYPES and (
            not layers or any(media_types.is_layer(layer.media_type) for layer in layers)
        )

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The config and the layers in order, including repeated digests."""
        return (self.config, *self.layers)

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The content that must exist before this document: config and layers.

        The subject may be missing.
        """
        return self.blobs

    def as_referrer(self, digest: Digest | None = None) -> Descriptor:
        """Return the descriptor for a list of referrers.

        See distribution-spec spec.md#listing-referrers.

        It has the annotations of the manifest. Its artifact type is `kind`.

        Args:
            digest: The digest that the manifest was pushed with, if that is not its sha256 digest.

        >>> subject = ocikit.Descriptor.of(b"{}", "application/vnd.oci.image.manifest.v1+json")
        >>> config = ocikit.Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json")
        >>> manifest = ocikit.Manifest(artifact_type="application/vnd.example.sbom", config=config, layers=[], subject=subject)
        >>> manifest.as_referrer().artifact_type
        'application/vnd.example.sbom'
        """
        return _referrer(self, digest, self.kind)

    def __rich_repr__(self) -> display.Description:
        yield "kind", self.kind
        yield "digest", display.DigestCell(self.digest)
        yield "layers", len(self.layers)
        yield "size", display.Size(sum(layer.size for layer in self.layers))
        yield "subject", display.DigestCell(self.subject.digest) if self.subject else None, None
        yield "annotations", dict(self.annotations), {}

    def _card_notes(self) -> Iterator[object]:
        yield artifact_kind(self.kind)
        yield display.Size(sum(layer.size for layer in self.layers))

    def _card_lead(self) -> str:
        return lead_of(self.annotations)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from _facts(self)

    def _sections(self) -> Iterator[display.Section]:
        yield layers_section(self)
        yield from display.annotations_section(self.annotations, without=ABOUT)
        config = () if self.config.media_type == media_types.EMPTY else (("config", str(self.config)),)
        yield from display.details_section((("type", self.kind), *config, ("media type", self.media_type)))


@frozen(kw_only=True, repr=False)
class ArtifactManifest(Manifest):
    """An artifact manifest of 2022 and 2023: blobs without a config. ocikit reads and copies it, and writes none.

    image-spec v1.1.0-rc2 artifact.md. Its blobs are the layers; the config is the empty one and not a part of it.
    """

    schema_version: int = field(default=2, init=False)
    media_type: str | None = field(default=media_types.OCI_ARTIFACT, metadata={"always": True, "order": 1})
    config: Descriptor = field(default=EMPTY_DESCRIPTOR, init=False)
    layers: tuple[Descriptor, ...] = field(default=(), converter=_descriptors, metadata={"wire": "blobs"})

    default_media_type: ClassVar[str] = media_types.OCI_ARTIFACT

    @property
    def kind(self) -> str:
        """The artifactType, else the media type."""
        return self.artifact_type or self.default_media_type

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """The blobs in order, including repeated digests."""
        return self.layers


@frozen(kw_only=True, repr=False)
class Index(_TypedDocument):
    """A list of manifests, usually one per platform. It may contain indexes.

    >>> platform = ocikit.Platform.parse("linux/arm64")
    >>> manifest = ocikit.Descriptor.of(b"{}", "application/vnd.oci.image.manifest.v1+json", platform=platform)
    >>> index = ocikit.Index(manifests=[manifest])
    >>> index.platforms
    (Platform(os='linux', architecture='arm64'),)
    """

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
    def is_nested(self) -> bool:
        """True for a nested index, whose manifests list the files of one artifact."""
        return self.artifact_type == media_types.FOLDER

    @property
    def children(self) -> tuple[Descriptor, ...]:
        """The manifests, in order."""
        return self.manifests

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms in order without duplicates.

        Attestations (`unknown/unknown`) are excluded.
        """
        platforms = (d.platform for d in self.manifests if d.platform is not None and d.platform.known)
        return tuple(dict.fromkeys(platforms))

    def as_referrer(self, digest: Digest | None = None) -> Descriptor:
        """Return the descriptor for a list of referrers.

        See distribution-spec spec.md#listing-referrers.

        It has the artifact type and the annotations of the index.

        Args:
            digest: The digest that the index was pushed with, if that is not its sha256 digest.

        >>> subject = ocikit.Descriptor.of(b"{}", "application/vnd.oci.image.manifest.v1+json")
        >>> index = ocikit.Index(artifact_type="application/vnd.example.results", manifests=[], subject=subject)
        >>> index.as_referrer().artifact_type
        'application/vnd.example.results'
        """
        return _referrer(self, digest, self.artifact_type)

    def select(self, platform: PlatformLike | None = None) -> Descriptor:
        """Return the manifest that suits a platform best.

        Of equal ones the first, as the specification requires.

        Without a match, return the first nested index without a platform: it may contain one.

        Args:
            platform: "os/architecture[/variant]", a `Platform`, a predicate of descriptors, or None for this machine's.

        Raises:
            NoMatchingPlatform: No manifest suits; `available` has the platforms of the index.

        >>> platforms = [ocikit.Platform.parse(name) for name in ("linux/amd64", "linux/arm64")]
        >>> kind = "application/vnd.oci.image.manifest.v1+json"
        >>> index = ocikit.Index(manifests=[ocikit.Descriptor.of(b"{}", kind, platform=platform) for platform in platforms])
        >>> index.select("linux/arm64").platform
        Platform(os='linux', architecture='arm64')
        >>> index.select("linux/s390x")
        Traceback (most recent call last):
            ...
        ocikit.errors.NoMatchingPlatform: No linux/s390x in this index. It has linux/amd64, linux/arm64.
          -> pass platform=… with one of these
        """
        descriptors = [d for d in self.manifests if d.platform is None or d.platform.known]
        if callable(platform):
            match, name = next((d for d in descriptors if platform(d)), None), "such platform"
        else:
            requested = Platform.host() if platform is None else Platform.parse(platform)
            match, name = _best_match(descriptors, requested), str(requested)
        if match is None:
            available = display.join_limited(self.platforms, 20) or "no platforms at all"
            raise NoMatchingPlatform(
                f"No {name} in this index. It has {available}.",
                hint="pass platform=… with one of these"
                if self.platforms
                else "name one of its manifests by digest; inspect() shows them",
                available=self.platforms,
            )
        return match

    def __rich_repr__(self) -> display.Description:
        yield "kind", self.kind
        yield "digest", display.DigestCell(self.digest)
        yield "manifests", len(self.manifests)
        yield "platforms", [str(p) for p in self.platforms], []
        yield "subject", display.DigestCell(self.subject.digest) if self.subject else None, None
        yield "annotations", dict(self.annotations), {}

    def _card_notes(self) -> Iterator[object]:
        yield artifact_kind(self.kind)
        yield display.pluralize(len(self.manifests), "manifest")

    def _card_lead(self) -> str:
        return lead_of(self.annotations)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from _facts(self)

    def _sections(self) -> Iterator[display.Section]:
        yield from manifest_sections(self, manifest_card)
        yield from display.annotations_section(self.annotations, without=ABOUT)
        yield from display.details_section((("type", self.kind), ("media type", self.media_type)))


def _best_match(descriptors: list[Descriptor], requested: Platform) -> Descriptor | None:
    ranks = [
        (rank, position)
        for position, descriptor in enumerate(descriptors)
        if descriptor.platform is not None and (rank := requested.rank(descriptor.platform)) is not None
    ]
    if ranks:
        return descriptors[min(ranks)[1]]
    without_platform = [d for d in descriptors if d.platform is None]
    nested = [d for d in without_platform if d.media_type in media_types.INDEX_TYPES]
    # A single manifest without a platform leaves no choice.
    return next(iter(nested or (without_platform if len(descriptors) == 1 else ())), None)


def layers_section(manifest: Manifest) -> display.Section:
    """Return a table of the layers."""
    layers, size = manifest.layers, display.Size(sum(layer.size for layer in manifest.layers))
    headers: tuple[str, ...] = ("size", "kind", "digest")
    rows: Iterable[tuple[object, ...]] = (
        (display.Size(layer.size), file_kind(layer.media_type, layer.title or ""), display.DigestCell(layer.digest))
        for layer in layers
    )
    if any(layer.title is not None for layer in layers[: display.ROWS]):
        headers = ("title", *headers)
        rows = ((layer.title, *row) for layer, row in zip(layers, rows, strict=False))
    return display.Section(
        title="layers", headers=headers, rows=rows, count=len(layers), note=size if layers else "", unfolded=True
    )


def manifest_sections(index: Index, card: Callable[[Descriptor], display.Card]) -> Iterator[display.Section]:
    """Return the sections of an index: a card for each manifest, and the attestations in a collapsed table."""
    manifests = [m for m in index.manifests if m.platform is None or m.platform.known]
    yield display.Section(title="manifests", cards=map(card, manifests), count=len(manifests), unfolded=True)
    if attestations := [m for m in index.manifests if m.platform is not None and not m.platform.known]:
        rows = (
            (
                display.DigestCell(m.digest),
                display.Size(m.size),
                display.DigestCell(m.annotations.get(ATTESTED_DIGEST, "")),
            )
            for m in attestations
        )
        yield display.Section(
            title="attestations",
            headers=("digest", "size", "subject"),
            rows=rows,
            count=len(attestations),
            unfolded=False,
        )


def manifest_card(descriptor: Descriptor) -> display.Card:
    """Return the card of a manifest of which only the descriptor is known."""
    name = descriptor.platform or descriptor.annotations.get(REF_NAME)
    kind = artifact_kind(descriptor.artifact_type or descriptor.media_type)
    return display.Card(
        title=display.shorten(name or kind, display.CELL),
        notes=(display.DigestCell(descriptor.digest),),
    )


def _facts(document: Manifest | Index) -> Iterator[tuple[str, object]]:
    yield from about_facts(document.annotations)
    yield "digest", display.DigestCell(document.digest)
    if document.subject is not None:
        yield "attached to", display.DigestCell(document.subject.digest)


def _referrer(document: Manifest | Index, digest: Digest | None, artifact_type: str | None) -> Descriptor:
    return attrs.evolve(
        document.descriptor,
        digest=digest or document.digest,
        artifact_type=artifact_type,
        annotations=document.annotations,
    )


def parse_document(raw: bytes, media_type: str | None = None, *, limit: int = DOCUMENT_LIMIT) -> Manifest | Index:
    """Return the manifest or index that is encoded in the bytes.

    Args:
        raw: The document.
        media_type: The announced type, without regard to parameters.
        limit: Size of the largest document to accept, in bytes.

    Raises:
        UnsupportedSchema1: The document is a Docker schema 1 manifest; `raw` has its bytes.
        InvalidDocument: The document is neither manifest nor index, or has another type than announced.

    >>> from ocikit.spec.manifest import parse_document
    >>> raw = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
    >>> document = parse_document(raw)
    >>> type(document).__name__, document.raw == raw
    ('Index', True)
    """
    return _parse(raw, media_type, limit, None)


def _parse(raw: bytes, media_type: str | None, limit: int, expected: type[Document] | None) -> Manifest | Index:
    value = load_json(raw, "manifest", limit=limit)
    announced = (media_type or "").partition(";")[0].strip().lower()
    if announced not in media_types.SCHEMA1_TYPES and not media_types.is_document(announced):
        announced = ""  # vague, such as application/json: use the type in the document
    stated = value.get("mediaType")
    if stated is not None and not isinstance(stated, str):
        raise _problem("$.mediaType", "expected a string")
    kind = (stated or "").lower() or announced
    if announced and kind != announced:
        raise InvalidDocument(
            f"the registry announced {announced}, but the document has {display.quoted(stated)} @ $.mediaType",
            hint="the registry or a proxy changed the type, so the content can't be trusted",
            problems=[Violation(path="$.mediaType", message=f"expected {announced}, found {display.quoted(stated)}")],
        )
    version = value.get("schemaVersion")
    if (type(version) is int and version == 1) or kind in media_types.SCHEMA1_TYPES:
        raise UnsupportedSchema1(
            "this is a Docker schema 1 manifest, a format withdrawn in 2024",
            hint="ask its publisher to push it again with a current client; the error has the bytes in .raw",
            raw=bytes(raw),
        )
    cls = _document_class(value, kind, expected)
    _check_not_ambiguous(value, cls)
    if expected is not None and not issubclass(cls, expected):
        raise InvalidDocument(
            f"the document is of type {kind or cls.default_media_type}, expected {expected.default_media_type}",
            hint="parse_document accepts either",
        )
    document = structure(value, cls)
    if document.schema_version != 2:
        raise _problem("$.schemaVersion", f"schemaVersion {document.schema_version}, expected 2")
    object.__setattr__(document, "_raw", bytes(raw))
    if not stated:
        # Documents without mediaType are valid and have the announced type. Changed and encoded again they get the
        # field, because some registries require it.
        object.__setattr__(document, "media_type", announced or cls.default_media_type)
    return document


def _document_class(value: dict[str, Any], kind: str, expected: type[Document] | None) -> type[Manifest | Index]:
    if kind in media_types.INDEX_TYPES:
        return Index
    if kind == media_types.OCI_ARTIFACT:
        return ArtifactManifest
    if kind in media_types.MANIFEST_TYPES:
        return Manifest
    if kind:
        hint = "fetch it as a blob instead"
        if kind == media_types.OLLAMA_LIST:
            hint = "it lists forms of one model for several programs; name one of them by its digest: …@sha256:…"
        raise InvalidDocument(f"{display.quoted(kind)} is not a manifest or index type", hint=hint)
    return Index if expected is Index or value.get("manifests") is not None else Manifest


#: The name of a document, and the keys that only other documents have.
_AMBIGUOUS: Mapping[type, tuple[str, tuple[str, ...]]] = {
    Index: ("an index", ("layers", "config")),
    ArtifactManifest: ("an artifact manifest", ("manifests", "layers", "config")),
}


def _check_not_ambiguous(value: dict[str, Any], cls: type[Manifest | Index]) -> None:
    """Reject a document that could be parsed as manifest and as index: the type confusion of CVE-2021-41190."""
    name, foreign = _AMBIGUOUS.get(cls, ("an image manifest", ("manifests",)))
    for key in foreign:
        if value.get(key) is not None:
            raise InvalidDocument(
                f"{name} with $.{key}",
                hint="it could be parsed as two different documents, so it is rejected, as by other clients",
            )


def _problem(path: str, message: str) -> InvalidDocument:
    return InvalidDocument.from_problems("manifest", [Violation(path=path, message=message)])
