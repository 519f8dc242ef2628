"""ModelPack artifacts of the CNCF, written. model-spec docs/spec.md, docs/config.md, schema/config-schema.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from attrs import frozen

from ocikit.dialects.classes import FileClass
from ocikit.dialects.facts import to_json
from ocikit.dialects.modelpack import CONFIG_TYPE, LAYER_PREFIX, MANIFEST_TYPE, UNTESTED
from ocikit.dialects.writing import Writer, filled
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import Descriptor

_TYPES: Final[Mapping[FileClass, str]] = {
    "weights": "weight",
    "config": "weight.config",
    "doc": "doc",
    "code": "code",
    "dataset": "dataset",
}


@frozen(kw_only=True)
class ModelPackWriter(Writer):
    """Writes ModelPack: layers without archives, and nothing that depends on the time or the machine."""

    artifact_type: ClassVar[str | None] = MANIFEST_TYPE
    config_type: ClassVar[str] = CONFIG_TYPE

    def layer_type(self, layer: Descriptor) -> str:
        """Return the media type of a file without an archive around it."""
        return f"{LAYER_PREFIX}{_TYPES[self.kinds[layer.annotations[TITLE]]]}.v1.raw"

    def annotations(self, layer: Descriptor) -> dict[str, str]:
        """Return the path, and that the class was inferred from the name of the file."""
        return {**super().annotations(layer), UNTESTED: "true"}

    def config(self, layers: Sequence[Descriptor]) -> bytes:
        """Return the model's config. The schema allows no other keys, and requires all three objects."""
        facts = self.facts
        capabilities = filled(
            {
                "inputTypes": facts.inputs,
                "outputTypes": facts.outputs,
                "knowledgeCutoff": facts.knowledge_cutoff,
                "reasoning": facts.reasoning,
                "toolUsage": facts.tool_usage,
                "reward": facts.reward,
                "languages": facts.languages,
            }
        )
        return to_json(
            {
                "descriptor": filled(
                    {
                        "createdAt": facts.created,
                        "authors": facts.authors,
                        "family": facts.family,
                        "name": facts.name,
                        "docURL": facts.documentation,
                        "sourceURL": facts.source,
                        "datasetsURL": facts.datasets,
                        "version": facts.version,
                        "revision": facts.revision,
                        "vendor": facts.vendor,
                        "licenses": facts.license,
                        "title": facts.title,
                        "description": facts.description,
                    }
                ),
                # The content of a raw layer is not compressed: its digest is that of the blob
                "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
                "config": filled(
                    {
                        "architecture": facts.architecture,
                        "format": facts.format,
                        "paramSize": facts.parameters,
                        "precision": facts.precision,
                        "quantization": facts.quantization,
                        "capabilities": capabilities,
                    }
                ),
            }
        )
