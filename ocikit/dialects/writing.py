"""Model artifacts of other tools: the media types, annotations and config of an artifact over the files of a model.

Every file is one layer with its own bytes, in each dialect. So the files of a model are stored once for all dialects,
and a title gives them their names in tools that know no dialect.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from attrs import field, frozen

from ocikit.dialects.classes import FileClass
from ocikit.dialects.facts import Facts
from ocikit.dialects.modelpack import FILEPATH
from ocikit.spec.annotations import TITLE, Annotations
from ocikit.spec.descriptor import Descriptor


@frozen(kw_only=True)
class Writer(ABC):
    """What makes an artifact of one dialect from packed files."""

    kinds: Mapping[str, FileClass]
    """The class of each file by its title."""
    facts: Facts = field(factory=Facts)
    artifact_type: ClassVar[str | None]
    config_type: ClassVar[str]

    def write(self, layers: Sequence[Descriptor]) -> tuple[tuple[Descriptor, ...], bytes]:
        """Return the layers with the media types and annotations of the dialect, and the config."""
        written = tuple(
            attrs.evolve(
                layer,
                media_type=self.layer_type(layer),
                annotations=Annotations({**layer.annotations, **self.annotations(layer)}),
            )
            for layer in layers
        )
        return written, self.config(written)

    @abstractmethod
    def layer_type(self, layer: Descriptor) -> str:
        """Return the media type of a file."""

    def annotations(self, layer: Descriptor) -> dict[str, str]:
        """Return what is added to the annotations of a file."""
        return {FILEPATH: layer.annotations[TITLE]}

    @abstractmethod
    def config(self, layers: Sequence[Descriptor]) -> bytes:
        """Return the config of the artifact with these layers."""


def filled(items: Mapping[str, Any]) -> dict[str, Any]:
    """Return the items without empty values; False and 0 are values."""
    return {key: value for key, value in items.items() if value is not None and value not in ("", (), [], {})}
