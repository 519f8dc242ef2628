"""What dialects have in common: a name, names of layers, facts about a model."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

import attrs

from ocikit.spec.annotations import TITLE, UNPACK_INTO, Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import is_archive

if TYPE_CHECKING:
    from ocikit.dialects.model import Model

_SURROGATES = re.compile("[\ud800-\udfff]")
_TEXT = 4096  # characters of a fact; a longer one is not a fact, and cards must stay small
_TEXTS = 64  # values of a fact


class Content(Protocol):
    """What the names of layers depend on, in some dialects."""

    @property
    def reference(self) -> AnyReference:
        """The artifact."""

    def config(self) -> Mapping[str, Any]:
        """Return the JSON of the config.

        Raises:
            InvalidDocument: The config is not a JSON object, or too large.
        """

    def parent(self, reference: str) -> tuple[str, Manifest, Content]:
        """Return another artifact: its name, its manifest, and its content.

        Raises:
            OcikitError: There is no such artifact.
        """


class _NoContent:
    """The content of an artifact for dialects that need none."""

    @property
    def reference(self) -> AnyReference:
        raise NotImplementedError

    def config(self) -> Mapping[str, Any]:
        raise NotImplementedError

    def parent(self, reference: str) -> tuple[str, Manifest, Content]:
        raise NotImplementedError


NO_CONTENT: Final[Content] = _NoContent()


class Dialect:
    """A format of artifacts: what its layers are called, and what its config states.

    This class is that of artifacts whose layers have titles, as oras and ocikit push them.

    Args:
        name: Name of the dialect, such as "modelpack".
    """

    #: Whether the names of layers are in the config.
    needs_config: ClassVar[bool] = False
    #: Whether the config describes a model.
    describes_model: ClassVar[bool] = False

    def __init__(self, name: str = "files") -> None:
        self.name = name

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:
        """Return the layers with their names as titles.

        They are those of the manifest, in its order; files that no layer has are at the end, with embedded content.

        Args:
            manifest: The manifest.
            content: Reads the config, if the names are there.

        Raises:
            InvalidDocument: The config is not one of this dialect.
        """
        return manifest.layers

    def facts(self, manifest: Manifest) -> Descriptor:
        """Return the blob that states facts about a model: JSON, usually the config."""
        return manifest.config

    def model(self, manifest: Manifest, config: Mapping[str, Any]) -> Model | None:
        """Return what the blob of `facts` states about a model; None for an artifact that is not a model."""
        return None


def named(layer: Descriptor, title: str) -> Descriptor:
    """Return a layer with a name. It is not checked here, because one bad name must not affect other layers."""
    return layer if layer.title == title else layer.annotated(**{TITLE: title})


def unpacked(layer: Descriptor, title: str, into: str = "") -> Descriptor:
    """Return an archive with a name, to be unpacked by a pull.

    Args:
        layer: The archive.
        title: Name of the layer in listings.
        into: The folder that its members are below; they have their whole paths if it is empty.
    """
    return attrs.evolve(layer, annotations=Annotations({**layer.annotations, TITLE: title, UNPACK_INTO: into}))


def named_or_unpacked(layer: Descriptor, title: str) -> Descriptor:
    """Return a layer with a name. An archive, by its media type, is to be unpacked by a pull."""
    bare = attrs.evolve(layer, annotations=Annotations())
    return unpacked(layer, title) if is_archive(bare) else named(layer, title)


def numbered(title: str, taken: set[str]) -> str:
    """Return a title that is not taken, with a number before its suffix if necessary, and add it to `taken`.

    >>> taken = set()
    >>> [numbered("model.gguf", taken) for _ in range(3)]
    ['model.gguf', 'model-2.gguf', 'model-3.gguf']
    """
    stem, suffix = posixpath.splitext(title)
    number, result = 1, title
    while result in taken:
        number += 1
        result = f"{stem}-{number}{suffix}"
    taken.add(result)
    return result


def text(value: object) -> str:
    """Return text or a number as text, limited in length; other values are empty."""
    if isinstance(value, bool):
        return ""
    return valid(str(value)[:_TEXT]).strip() if isinstance(value, str | int | float) else ""


def valid(value: str) -> str:
    """Return text without lone surrogates, which JSON may have and no file or terminal takes."""
    return _SURROGATES.sub("\ufffd", value)


def texts(value: object) -> tuple[str, ...]:
    """Return the texts of a list, or one text as a list."""
    if isinstance(value, str):
        value = [value]
    return tuple(filter(None, map(text, value[:_TEXTS]))) if isinstance(value, list | tuple) else ()


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for other values."""
    return value if isinstance(value, Mapping) else {}


def items(value: object) -> list[Mapping[str, Any]]:
    """Return the objects of a JSON array."""
    return [mapping(item) for item in value] if isinstance(value, list | tuple) else []


def number(value: object) -> int | None:
    """Return a whole number above 0, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def first(values: Iterable[str]) -> str:
    """Return the first text that is not empty."""
    return next(filter(None, values), "")
