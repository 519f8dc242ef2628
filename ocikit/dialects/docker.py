"""Models of Docker Model Runner. model-runner pkg/distribution/types/config.go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ocikit.dialects.base import Content, Dialect, mapping, named_or_unpacked, number, numbered, text
from ocikit.dialects.model import Model
from ocikit.dialects.modelpack import FILEPATH, with_filepath
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

CONFIG_PREFIX: Final = "application/vnd.docker.ai.model.config."
LAYER_PREFIX: Final = "application/vnd.docker.ai."

#: Weights, which may be in several layers, by media type: the suffix of their names.
_WEIGHTS: Final = {
    "application/vnd.docker.ai.gguf.v3": "gguf",
    "application/vnd.docker.ai.safetensors": "safetensors",
    "application/vnd.docker.ai.dduf": "dduf",
}
#: Names of other layers by media type, for models without paths (version 0.1).
_NAMES: Final = {
    "application/vnd.docker.ai.license": "LICENSE",
    "application/vnd.docker.ai.mmproj": "mmproj.gguf",
    "application/vnd.docker.ai.chat.template.jinja": "template.jinja",
    "application/vnd.docker.ai.vllm.config.tar": "config",
    "application/vnd.docker.ai.dir.tar": "files",
}


class DockerModel(Dialect):
    """Layers with paths in annotations, as in ModelPack (version 0.2), or with names by their media types (0.1)."""

    describes_model = True

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:
        """Return the layers with their names as titles."""
        layers = [with_filepath(layer) for layer in manifest.layers]
        counts = Counter(layer.media_type for layer in manifest.layers if FILEPATH not in layer.annotations)
        taken = {layer.title for layer in layers if layer.title is not None}
        parts: Counter[str] = Counter()
        for i, layer in enumerate(layers):
            kind = layer.media_type
            if layer.title is not None or (kind not in _WEIGHTS and kind not in _NAMES):
                continue
            parts[kind] += 1
            if (suffix := _WEIGHTS.get(kind)) is None:
                title = _NAMES[kind]
            elif counts[kind] == 1:
                title = f"model.{suffix}"
            else:
                title = f"model-{parts[kind]:05}-of-{counts[kind]:05}.{suffix}"
            layers[i] = named_or_unpacked(layer, numbered(title, taken))
        return layers

    def model(self, manifest: Manifest, config: Mapping[str, Any]) -> Model:
        """Return what the config states."""
        made = mapping(config.get("config"))
        gguf = mapping(made.get("gguf"))
        return Model(
            dialect=self.name,
            name=text(gguf.get("general.name")),
            family=text(gguf.get("general.basename")),
            parameters=text(made.get("parameters")),
            license=text(gguf.get("general.license")),
            format=text(made.get("format")),
            quantization=text(made.get("quantization")),
            architecture=text(made.get("architecture")),
            context=number(made.get("context_size")),
            created=text(mapping(config.get("descriptor")).get("created")),
        )
