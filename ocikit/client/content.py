"""What a dialect reads of an artifact to name its layers: the config, and other artifacts that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from ocikit.client.reader import ContentReader
from ocikit.client.resolver import Resolver
from ocikit.spec.document import load_json
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference, parse_reference


@frozen
class ArtifactContent:
    """The content of an artifact as dialects read it.

    Args:
        reader: Reads it.
        reference: The artifact.
        manifest: Its manifest.
    """

    _reader: ContentReader = field(repr=False)
    reference: AnyReference
    _manifest: Manifest = field(repr=False)

    def config(self) -> Mapping[str, Any]:
        """Return the JSON of the config, which is requested once and cached.

        Raises:
            InvalidDocument: The config is not a JSON object, or larger than a document may be.
        """
        raw = self._reader.read(self.reference, self._manifest.config)
        return load_json(raw, f"the config of {self.reference}")

    def parent(self, reference: str) -> tuple[str, Manifest, ArtifactContent]:
        """Return another artifact: its name with tag, its manifest, and its content.

        Raises:
            InvalidReference: The reference is invalid.
            NotFound: There is no such artifact.
        """
        parsed = parse_reference(reference)
        with self._reader.backends.open_source(parsed) as source:
            descriptor, manifest = Resolver(source, self._reader.cache, get_unknown=True).resolve_manifest(parsed)
        return str(parsed), manifest, ArtifactContent(self._reader, parsed.pinned(descriptor.digest), manifest)
