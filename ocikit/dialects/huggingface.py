"""Folders as on the Hugging Face Hub: files with titles, weights among them, and config.json with facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from ocikit.dialects.base import Dialect, first, mapping, number, text, texts
from ocikit.dialects.model import Model
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

CONFIG: Final = "config.json"
#: Formats of weights by suffix, the better described first, and the framework of those that only one reads.
_FORMATS: Final = {
    ".safetensors": ("safetensors", ""),
    ".gguf": ("gguf", ""),
    ".bin": ("pt", "pytorch"),
    ".pt": ("pt", "pytorch"),
    ".onnx": ("onnx", ""),
    ".h5": ("h5", "tensorflow"),
    ".msgpack": ("msgpack", "jax"),
}
_CONTEXT: Final = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "model_max_length")


class HuggingFaceFolder(Dialect):
    """Files with titles; the facts are in config.json and not in the config of the manifest."""

    describes_model = True

    def facts(self, manifest: Manifest) -> Descriptor:
        """Return the blob that states the facts."""
        return next((layer for layer in manifest.layers if _is_config(layer.title)), manifest.config)

    def model(self, manifest: Manifest, config: Mapping[str, Any]) -> Model:
        """Return what config.json states."""
        suffixes = {PurePosixPath(layer.title).suffix.lower() for layer in manifest.layers if layer.title is not None}
        form, framework = next((_FORMATS[suffix] for suffix in _FORMATS if suffix in suffixes), ("", ""))
        inner = mapping(config.get("text_config"))  # of models for text and pictures
        return Model(
            dialect=self.name,
            name=text(config.get("_name_or_path")),
            family=text(config.get("model_type")),
            framework=framework,
            format=form,
            precision=first(text(part.get(key)) for part in (config, inner) for key in ("dtype", "torch_dtype")),
            quantization=text(mapping(config.get("quantization_config")).get("quant_method")),
            architecture=first(texts(config.get("architectures"))),
            context=next((n for part in (config, inner) for key in _CONTEXT if (n := number(part.get(key)))), None),
        )


def is_folder(manifest: Manifest) -> bool:
    """Return True if the files are those of a model: weights, and config.json in the same folder as the others."""
    titles = [layer.title for layer in manifest.layers if layer.title is not None]
    return any(map(_is_config, titles)) and any(PurePosixPath(title).suffix.lower() in _FORMATS for title in titles)


def _is_config(title: str | None) -> bool:
    return title is not None and title.rpartition("/")[2] == CONFIG and title.count("/") <= 1
