"""Which dialect an artifact has, by its artifact type, the type of its config, then the types of its layers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NamedTuple, cast

from ocikit.dialects.base import NO_CONTENT, Dialect
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, Manifest

#: How layers are named: by their dialect, or None for the layers as they are.
AUTO: Final = "auto"


class _Signs(NamedTuple):
    """How to recognize a dialect."""

    name: str
    place: str
    """Module and class in this folder."""
    artifact: str = ""
    """Artifact type, or the start of it."""
    config: str = ""
    """Media type of the config, or the start of it."""
    layers: str = ""
    """Start of the media types of layers."""


#: The dialects. An artifact type decides before the type of a config, and that before the types of layers.
_DIALECTS: Final = (
    _Signs(
        "modelpack",
        "modelpack:ModelPack",
        "application/vnd.cncf.model.manifest.",
        "application/vnd.cncf.model.config.",
        "application/vnd.cncf.model.",
    ),
    _Signs(
        "cnai",
        "modelpack:ModelPack",
        "application/vnd.cnai.model.manifest.",
        "application/vnd.cnai.model.config.",
        "application/vnd.cnai.model.",
    ),
    _Signs(
        "kitops",
        "kitops:ModelKit",
        "application/vnd.kitops.modelkit.manifest.",
        "application/vnd.kitops.modelkit.config.",
        "application/vnd.kitops.modelkit.",
    ),
    _Signs("kitops", "kitops:ModelKit", "", "application/vnd.jozu.model.config.", "application/vnd.jozu.model."),
    _Signs("ollama", "ollama:OllamaModel", "", "", "application/vnd.ollama.image."),
    _Signs("docker", "docker:DockerModel", "", "application/vnd.docker.ai.model.config.", "application/vnd.docker.ai."),
    _Signs("helm", "helm:HelmChart", "", "application/vnd.cncf.helm.config."),
    _Signs("flux", "flux:FluxArtifact", "", "application/vnd.cncf.flux.config."),
)


def recognise(document: Manifest | Index) -> Dialect:
    """Return the dialect of an artifact.

    That of an image is "image", that of an index is "index", and that of other artifacts is "files", also with a nested index.

    >>> recognise(Manifest(config=Descriptor.of(b"{}", "application/vnd.cncf.model.config.v1+json"))).name
    'modelpack'
    """
    if isinstance(document, Index):
        return _plain("files" if document.is_nested else "index")
    config = document.config.media_type
    for signs in _DIALECTS:
        if signs.artifact and (document.artifact_type or "").startswith(signs.artifact):
            return _dialect(signs)
    for signs in _DIALECTS:
        if signs.config and config.startswith(signs.config):
            return _dialect(signs)
    kinds = {layer.media_type for layer in document.layers}
    for signs in _DIALECTS:
        if signs.layers and any(kind.startswith(signs.layers) for kind in kinds):
            return _dialect(signs)
    return _plain("image" if document.is_image else "files")


def recognise_model(document: Manifest | Index) -> Dialect:
    """Return the dialect that describes an artifact: `recognise`, or "huggingface" for files with the names of a model.

    The files have their titles in both, so only facts about the artifact need the difference.
    """
    dialect = recognise(document)
    if dialect.name == "files" and isinstance(document, Manifest):
        from ocikit.dialects.huggingface import HuggingFaceFolder, is_folder  # noqa: PLC0415 - only facts need it

        if is_folder(document):
            return HuggingFaceFolder("huggingface")
    return dialect


def layers_without_config(manifest: Manifest) -> Sequence[Descriptor]:
    """Return the layers with the names that the manifest alone gives them, which costs no request."""
    dialect = recognise(manifest)
    return manifest.layers if dialect.needs_config else dialect.layers(manifest, NO_CONTENT)


@functools.cache
def _plain(name: str) -> Dialect:
    return Dialect(name)


@functools.cache
def _dialect(signs: _Signs) -> Dialect:
    # By name, because most processes read no model
    module, _, name = signs.place.partition(":")
    return cast("Dialect", getattr(import_module(f"ocikit.dialects.{module}"), name)(signs.name))
