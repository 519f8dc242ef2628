"""What the config of a model states."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
from attrs import field, frozen

from ocikit import display
from ocikit.spec.annotations import to_strings


@frozen(kw_only=True, repr=False)
class Model(display.Displayable):
    """What the config of a model states; text is empty if it states nothing.

    The publisher wrote all of it, and nothing verifies it.

    >>> ocikit.Model(dialect="modelpack", name="tiny", parameters="8B", license="MIT").parameters
    '8B'
    """

    dialect: str
    """The format of the artifact, such as "modelpack"."""
    name: str = ""
    family: str = ""
    """Such as "llama3"."""
    parameters: str = ""
    """Number of parameters, such as "8B"."""
    license: str = ""
    """SPDX identifiers, separated by commas, or other text."""
    framework: str = ""
    """Such as "pytorch"."""
    format: str = ""
    """Format of the weights, such as "safetensors"."""
    precision: str = ""
    """Types of the weights, such as "bfloat16"."""
    quantization: str = ""
    """Such as "Q4_K_M"."""
    architecture: str = ""
    """Such as "transformer" or "LlamaForCausalLM"."""
    context: int | None = None
    """Number of tokens that the model takes; None if it is not stated."""
    version: str = ""
    description: str = ""
    vendor: str = ""
    authors: tuple[str, ...] = field(default=(), converter=to_strings)
    languages: tuple[str, ...] = field(default=(), converter=to_strings)
    inputs: tuple[str, ...] = field(default=(), converter=to_strings)
    """Kinds of inputs, such as "text" and "image"."""
    outputs: tuple[str, ...] = field(default=(), converter=to_strings)
    created: str = ""
    """Date and time, as in RFC 3339."""
    source: str = ""
    """URL of its source."""
    documentation: str = ""
    """URL of its documentation."""
    parent: str = ""
    """Reference of the model that this one extends."""

    @property
    def licence(self) -> str:
        """The license."""
        return self.license

    def __rich_repr__(self) -> display.Description:
        yield "dialect", self.dialect
        yield from self._stated()

    def _card_title(self) -> object:
        return self.name or "model"

    def _card_notes(self) -> Iterator[object]:
        yield f"model ({self.dialect})"
        yield self.parameters

    def _card_lead(self) -> str:
        return self.description

    def _facts(self) -> Iterator[tuple[str, object]]:
        for name, value in self._stated():
            if name in {"name", "parameters", "description"}:
                continue
            yield name, ", ".join(value) if isinstance(value, tuple) else value

    def _stated(self) -> Iterator[tuple[str, object]]:
        names = [attribute.name for attribute in attrs.fields(Model) if attribute.name != "dialect"]
        return ((name, value) for name in names if (value := getattr(self, name)))
