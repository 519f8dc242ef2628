"""Artifacts of Flux, whose archive `flux pull artifact` unpacks into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ocikit.dialects.base import Content, Dialect, unpacked
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

_CONTENT: Final = "application/vnd.cncf.flux.content.v1.tar+gzip"


class FluxArtifact(Dialect):
    """An archive of files without a name."""

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:  # names are not in the config
        """Return the layers; archives are to be unpacked by a pull."""
        return [
            unpacked(layer, "content") if layer.title is None and layer.media_type == _CONTENT else layer
            for layer in manifest.layers
        ]
