"""Models of Docker Model Runner, written in version 0.2. model-runner pkg/distribution/types/config.go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Final

from attrs import frozen

from ocikit.dialects.docker import CONFIG_PREFIX, LAYER_PREFIX
from ocikit.dialects.facts import to_json
from ocikit.dialects.writing import Writer, filled
from ocikit.errors import ContentError
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import Descriptor

#: Types of layers by pattern of lower-case file names; the first match decides. Docker finds the projector of a model that
#: sees images by its type only.
_TYPES: Final = (
    ("*mmproj*.gguf", "mmproj"),
    ("*.gguf", "gguf.v3"),
    ("*.safetensors", "safetensors"),
    ("*.dduf", "dduf"),
    ("*.jinja", "chat.template.jinja"),
    ("license*", "license"),
    ("licence*", "license"),
)
_FORMATS: Final[Mapping[str, str]] = {"gguf.v3": "gguf", "safetensors": "safetensors", "dduf": "diffusers"}


@frozen(kw_only=True)
class DockerWriter(Writer):
    """Writes a model that Docker Model Runner starts: its weights are GGUF, safetensors or DDUF."""

    artifact_type: ClassVar[str | None] = None
    config_type: ClassVar[str] = f"{CONFIG_PREFIX}v0.2+json"

    def __attrs_post_init__(self) -> None:
        if not any(_kind(title) in _FORMATS for title in self.kinds):
            raise ContentError(
                "a model of Docker needs weights in .gguf, .safetensors or .dduf files",
                hint='as_="modelpack" takes a model of any format',
            )

    def layer_type(self, layer: Descriptor) -> str:
        """Return the media type of a file by its name."""
        return f"{LAYER_PREFIX}{_kind(layer.annotations[TITLE])}"

    def config(self, layers: Sequence[Descriptor]) -> bytes:
        """Return the model's config."""
        facts = self.facts
        sizes: Counter[str] = Counter()
        for layer in layers:
            sizes[_FORMATS.get(_kind(layer.annotations[TITLE]), "")] += layer.size
        del sizes[""]
        chosen, size = sizes.most_common(1)[0] if sizes else ("", 0)
        about = {
            "general.name": facts.name,
            "general.architecture": facts.architecture,
            "general.license": " AND ".join(facts.license),
        }
        config: dict[str, Any] = {
            "format": chosen,
            "quantization": facts.quantization,
            "parameters": facts.parameters,
            "architecture": facts.architecture,
            "size": f"{size / (1 << 30):.2f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.2f} MiB",
            "gguf": filled(about) if chosen == "gguf" else {},
            "context_size": facts.context,
        }
        return to_json(
            {
                "config": filled(config),
                "descriptor": filled({"created": facts.created}),
                "rootfs": {"type": "rootfs", "diff_ids": [layer.digest for layer in layers]},
            }
        )


def _kind(title: str) -> str:
    """Return the type of a file; a file that has no type of its own is a file of the model."""
    name = title.rpartition("/")[2].lower()
    return next((kind for pattern, kind in _TYPES if fnmatchcase(name, pattern)), "model.file")
