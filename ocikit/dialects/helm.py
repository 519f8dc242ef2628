"""Charts of Helm, which `helm pull` writes as one archive with a name by the chart's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from ocikit.dialects.base import Content, Dialect, named, text
from ocikit.errors import InvalidDocument
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

_SUFFIXES: Final = {
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip": ".tgz",
    "application/vnd.cncf.helm.chart.provenance.v1.prov": ".tgz.prov",
}


class HelmChart(Dialect):
    """A chart and perhaps its provenance, both with the name and version of the config."""

    needs_config = True

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:
        """Return the layers with their names as titles."""
        stem = ""
        with suppress(InvalidDocument):  # then the layers have no names, as before
            config = content.config()
            name, version = text(config.get("name")), text(config.get("version"))
            stem = f"{name}-{version}" if name and version else ""
        return [
            named(layer, stem + _SUFFIXES[layer.media_type])
            if stem and layer.title is None and layer.media_type in _SUFFIXES
            else layer
            for layer in manifest.layers
        ]
