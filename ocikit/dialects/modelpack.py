"""ModelPack, the format of models of the CNCF, and the older one of CNAI. model-spec docs/spec.md and docs/annotations.md."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ocikit.dialects.base import Content, Dialect, mapping, named_or_unpacked, text, texts
from ocikit.dialects.model import Model
from ocikit.spec.annotations import MODE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

MANIFEST_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.cncf.model.config.v1+json"
LAYER_PREFIX: Final = "application/vnd.cncf.model."

#: The path of the file in a layer.
FILEPATH: Final = "org.cncf.model.filepath"
#: JSON with the name, mode, size and time of the file in a layer.
METADATA: Final = "org.cncf.model.file.metadata+json"
#: "true" if the media type of a layer is a guess.
UNTESTED: Final = "org.cncf.model.file.mediatype.untested"

#: The Kitfile as JSON, on models that kit writes.
KITFILE: Final = "ml.kitops.modelkit.kitfile"

_OLD_FILEPATH: Final = "org.cnai.model.filepath"
_OLD_TITLE: Final = "org.cnai.model.title"
_OLD_METADATA: Final = "org.cnai.model.file.metadata+json"

_JSON_LIMIT = 1 << 16  # characters
_PARENTS = re.compile(r"(?:\.{1,2}/+)*")


class ModelPack(Dialect):
    """Layers with the path of a file in an annotation; archives have the paths of their members."""

    describes_model = True

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:
        """Return the layers with their names as titles."""
        return [with_filepath(layer) for layer in manifest.layers]

    def model(self, manifest: Manifest, config: Mapping[str, Any]) -> Model:
        """Return what the config states, and the framework of kit's annotation."""
        about, made = mapping(config.get("descriptor")), mapping(config.get("config"))
        abilities = mapping(made.get("capabilities"))
        kitfile = mapping(_json(manifest.annotations.get(KITFILE, "")))
        return Model(
            dialect=self.name,
            name=text(about.get("name")),
            family=text(about.get("family")),
            parameters=text(made.get("paramSize")),
            license=", ".join(texts(about.get("licenses"))),
            framework=text(mapping(kitfile.get("model")).get("framework")),
            format=text(made.get("format")),
            precision=text(made.get("precision")),
            quantization=text(made.get("quantization")),
            architecture=text(made.get("architecture")),
            version=text(about.get("version")) or text(about.get("revision")),
            description=text(about.get("description")) or text(about.get("title")),
            vendor=text(about.get("vendor")),
            authors=texts(about.get("authors")),
            languages=texts(abilities.get("languages")),
            inputs=texts(abilities.get("inputTypes")),
            outputs=texts(abilities.get("outputTypes")),
            created=text(about.get("createdAt")),
            source=text(about.get("sourceURL")),
            documentation=text(about.get("docURL")),
        )


def with_filepath(layer: Descriptor) -> Descriptor:
    """Return a layer with the path of its annotation as title; without one it keeps its own title."""
    notes = layer.annotations
    path = notes.get(FILEPATH) or notes.get(_OLD_FILEPATH)
    title = below_folder(path) if path else notes.get(_OLD_TITLE) or layer.title
    if title is None:
        return layer
    result = named_or_unpacked(layer, title)
    metadata = notes.get(METADATA) or notes.get(_OLD_METADATA)
    return result.annotated(**{MODE: "0755"}) if metadata and MODE not in notes and _runs(metadata) else result


def below_folder(path: str) -> str:
    """Return the path of an annotation without leading "../", as Docker does.

    modctl writes them for models that are packed by an absolute path. Other unsafe paths stay, and are refused later.

    >>> below_folder("../../home/me/model.gguf")
    'home/me/model.gguf'
    """
    match = _PARENTS.match(path)
    return path[match.end() :] if match is not None and ".." in match[0] else path


def _runs(metadata: str) -> bool:
    """Return True if the metadata of a file permits its execution."""
    mode = mapping(_json(metadata)).get("mode")
    return isinstance(mode, int) and bool(mode & 0o100)


def _json(annotation: str) -> object:
    """Return the JSON value of an annotation; None if it is none, or too large."""
    with suppress(ValueError, RecursionError):
        return json.loads(annotation) if len(annotation) <= _JSON_LIMIT else None
    return None
