"""Models of Ollama: a manifest of Docker with layers of their own types. ollama manifest/layer.go, types/model/config.go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ocikit.dialects.base import Content, Dialect, first, named, number, numbered, text, texts
from ocikit.dialects.model import Model
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

LAYER_PREFIX: Final = "application/vnd.ollama.image."

#: Names of layers by the end of their media type. A template has the syntax of Go, not of Jinja.
_NAMES: Final = {
    "model": "model.gguf",
    "projector": "mmproj.gguf",
    "adapter": "adapter.gguf",
    "draft": "draft.gguf",
    "template": "template.txt",
    "system": "system.txt",
    "prompt": "prompt.txt",
    "params": "params.json",
    "messages": "messages.json",
    "license": "LICENSE",
    "embed": "embed.json",
    "json": "data.json",
    "tensor": "tensor.bin",
}


class OllamaModel(Dialect):
    """Layers with a key `name`, or with names by their media types, which may have parameters."""

    describes_model = True

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:  # names are in the manifest
        """Return the layers with their names as titles."""
        taken: set[str] = set()
        layers = []
        for layer in manifest.layers:
            kind = layer.media_type.partition(";")[0].strip().removeprefix(LAYER_PREFIX)
            name = text(layer.extra.get("name")) or layer.title
            if name is None and kind in _NAMES:
                name = numbered(_NAMES[kind], taken)
            layers.append(layer if name is None else named(layer, name))
        return layers

    def model(self, manifest: Manifest, config: Mapping[str, Any]) -> Model:
        """Return what the config states."""
        host, model = text(config.get("remote_host")), text(config.get("remote_model"))
        return Model(
            dialect=self.name,
            name=text(config.get("base_name")),
            family=first([text(config.get("model_family")), *texts(config.get("model_families"))]),
            parameters=text(config.get("model_type")),
            format=text(config.get("model_format")),
            quantization=text(config.get("file_type")),
            context=number(config.get("context_length")),
            parent=f"{host}/{model}" if host and model else model,
        )
