"""Files on their way out: packed layers and the manifest that names them, as a source. image-spec manifest.md#guidelines."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from attrs import frozen

from ocikit.errors import InvalidDocument, ManifestUnknown
from ocikit.layers.pack import Packed
from ocikit.spec.annotations import Annotations
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.store.base import Source, blob_not_found
from ocikit.store.streams import ByteStream

#: What a push of plain files is, if nobody says otherwise.
FILES_ARTIFACT_TYPE = "application/vnd.ocikit.files.v1"


@frozen(kw_only=True)
class PackedArtifact(Source):
    """A manifest with its config and layers, ready to be copied somewhere."""

    manifest: Manifest
    config: bytes
    layers: Mapping[Digest, Packed]

    def resolve(self, reference: str) -> Descriptor:
        """The manifest, whatever it is called."""
        if ":" in reference and reference != self.manifest.digest:
            raise ManifestUnknown(f"these files are not {reference}")
        return self.manifest.descriptor

    def open(self, descriptor: Descriptor) -> ByteStream:
        """A layer's file, or the documents. Raises: ContentError: if a file changed since it was hashed."""
        if descriptor.digest == self.manifest.digest:
            return io.BytesIO(self.manifest.raw)
        if descriptor.digest == self.manifest.config.digest:
            return io.BytesIO(self.config)
        packed = self.layers.get(descriptor.digest)
        if packed is None:
            raise blob_not_found(descriptor, "what was packed")
        return packed.open()


def build_artifact(
    packed: Sequence[Packed],
    *,
    artifact_type: str | None = None,
    config: bytes | None = None,
    config_type: str | None = None,
    annotations: Mapping[str, str] | None = None,
    subject: Descriptor | None = None,
) -> PackedArtifact:
    """A manifest over packed layers, by the specification's guidance.

    Without a config the artifact's type says what it is; with one, its media type does, and `artifact_type` may say more;
    without layers there is the empty one. image-spec manifest.md#guidelines-for-artifact-usage.

    Raises: InvalidDocument: for a config without its type, or the other way round.
    """
    if (config is None) != (config_type is None):
        raise InvalidDocument(
            "a config and its media type go together", hint="pass both config= and config_type=, or neither"
        )
    content = b"{}" if config is None else config
    described = EMPTY_DESCRIPTOR if config is None else Descriptor.of(content, config_type or "")
    manifest = Manifest(
        artifact_type=artifact_type or (FILES_ARTIFACT_TYPE if config is None else None),
        config=described,
        layers=tuple(p.descriptor for p in packed) or (EMPTY_DESCRIPTOR,),
        subject=subject,
        annotations=Annotations(annotations or {}),
    )
    # One copy of content, however many files have it
    return PackedArtifact(manifest=manifest, config=content, layers={p.descriptor.digest: p for p in packed})
