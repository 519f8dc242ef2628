"""KitOps ModelKits, written. kitops pkg/artifact/kitfile.go.

The layers are raw: kit reads their paths from the annotation of ModelPack. Older releases of kit read only tar layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from attrs import frozen

from ocikit.dialects.classes import FileClass
from ocikit.dialects.facts import to_json
from ocikit.dialects.kitops import CONFIG_TYPE, LAYER_PREFIX, MANIFEST_TYPE
from ocikit.dialects.writing import Writer, filled
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import Descriptor

#: The type of a layer by class, and the list of the Kitfile that has its entry.
_TYPES: Final[Mapping[FileClass, str]] = {
    "weights": "modelpart",
    "config": "modelpart",
    "doc": "docs",
    "code": "code",
    "dataset": "dataset",
}
_LISTS: Final = {"code": "code", "dataset": "datasets", "docs": "docs"}


@frozen(kw_only=True)
class KitWriter(Writer):
    """Writes a ModelKit whose config is its Kitfile.

    kit finds the entry of a layer by counting the layers of its type, so each list has the order of the layers.
    """

    artifact_type: ClassVar[str | None] = MANIFEST_TYPE
    config_type: ClassVar[str] = CONFIG_TYPE

    def layer_type(self, layer: Descriptor) -> str:
        """Return the media type of a file: one is the model, and other weights and their configs are its parts."""
        return f"{LAYER_PREFIX}{self._type(layer.annotations[TITLE])}.v1.raw"

    @property
    def _model(self) -> str:
        """The title of the file that is the model; empty if there are no weights.

        kit takes a path with ":" or "@" for a reference to another ModelKit.
        """
        weights = (title for title, kind in self.kinds.items() if kind == "weights")
        return next((title for title in weights if ":" not in title and "@" not in title), "")

    def _type(self, title: str) -> str:
        if title == self._model:
            return "model"
        kind = _TYPES[self.kinds[title]]
        return "dataset" if kind == "modelpart" and not self._model else kind  # as kit does without a model

    def config(self, layers: Sequence[Descriptor]) -> bytes:
        """Return the Kitfile with the digests of the layers."""
        facts, license_ = self.facts, " AND ".join(self.facts.license)
        model: dict[str, Any] = {}
        parts: list[dict[str, str]] = []
        lists: dict[str, list[dict[str, str]]] = {name: [] for name in _LISTS.values()}
        for layer in layers:
            title = layer.annotations[TITLE]
            entry = {"path": title, "digest": str(layer.digest), "diffId": str(layer.digest)}
            kind = self._type(title)
            if kind == "model":
                model = {
                    "name": facts.name,
                    "path": title,
                    "license": license_,
                    "framework": facts.framework,
                    "format": facts.format,
                    "version": facts.version,
                    "description": facts.description,
                    "parts": parts,
                    "digest": entry["digest"],
                    "diffId": entry["diffId"],
                }
            elif kind == "modelpart":
                parts.append(entry)
            else:
                lists[_LISTS[kind]].append(entry)
        package = {
            "name": facts.name,
            "version": facts.version,
            "description": facts.description,
            "license": license_,
            "authors": facts.authors,
        }
        kitfile = {"manifestVersion": "1.0.0", "package": filled(package), "model": filled(model), **lists}
        return to_json(filled(kitfile))
