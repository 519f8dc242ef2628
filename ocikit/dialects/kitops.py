"""ModelKits of KitOps, whose config is a Kitfile. kitops pkg/artifact/kitfile.go and pkg/lib/unpack/core.go."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from ocikit.dialects.base import (
    Content,
    Dialect,
    first,
    items,
    mapping,
    named,
    named_or_unpacked,
    text,
    texts,
    unpacked,
)
from ocikit.dialects.kitfile import encode_kitfile
from ocikit.dialects.model import Model
from ocikit.dialects.modelpack import FILEPATH, below_folder
from ocikit.errors import InvalidDocument, OcikitError
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import Reference

MANIFEST_TYPE: Final = "application/vnd.kitops.modelkit.manifest.v1+json"
CONFIG_TYPE: Final = "application/vnd.kitops.modelkit.config.v1+json"
LAYER_PREFIX: Final = "application/vnd.kitops.modelkit."

#: Models that a model extends, one by the other. kit follows as many.
MAX_PARENTS: Final = 10

_TYPE = re.compile(r"application/vnd\.(?:kitops\.modelkit|jozu\.model)\.(\w+)\.v1\.(\w+)(?:\+\w+)?")
#: The list of the Kitfile that has the entries of a layer's type, in the order of the layers.
_LISTS: Final = {"code": "code", "dataset": "datasets", "docs": "docs"}
#: Types of layers that a model takes from the one it extends.
_INHERITED: Final = frozenset({"model", "modelpart"})


class _Entry(NamedTuple):
    """The entry of a layer in a Kitfile."""

    path: str
    digest: str
    """Empty in Kitfiles before 2025. Members of such layers have paths below the folder of this one."""


class ModelKit(Dialect):
    """Archives or files with their paths in the Kitfile; the weights may be those of another ModelKit."""

    needs_config = True
    describes_model = True

    def layers(self, manifest: Manifest, content: Content) -> Sequence[Descriptor]:
        """Return the layers with their names as titles, the weights of models that this one extends, and the Kitfile.

        Raises:
            InvalidDocument: The config is not a Kitfile, or models extend each other in a circle.
        """
        config = content.config()
        layers = [*_named(manifest, config), *_inherited(manifest, config, content)]
        name, raw = encode_kitfile(config)
        kitfile = Descriptor.of(raw, "application/yaml" if name == "Kitfile" else "application/json", data=raw)
        return [*layers, named(kitfile, name)]

    def model(self, manifest: Manifest, config: Mapping[str, Any]) -> Model:
        """Return what the Kitfile states."""
        return kitfile_model(self.name, config)


def kitfile_model(dialect: str, config: Mapping[str, Any]) -> Model:
    """Return what a Kitfile states about its model.

    Args:
        dialect: The format of the artifact.
        config: The Kitfile.
    """
    package, model = mapping(config.get("package")), mapping(config.get("model"))
    path = text(model.get("path"))
    return Model(
        dialect=dialect,
        name=first([text(model.get("name")), text(package.get("name"))]),
        parameters=text(model.get("parameters")),
        license=first([text(model.get("license")), text(package.get("license"))]),
        framework=text(model.get("framework")),
        format=text(model.get("format")),
        version=first([text(model.get("version")), text(package.get("version"))]),
        description=first([text(model.get("description")), text(package.get("description"))]),
        authors=texts(package.get("authors")),
        parent=path if _is_reference(path) else "",
    )


def _is_reference(path: str) -> bool:
    """Return True if the path of a model is the reference of another one, as kit decides."""
    if ":" not in path and "@" not in path:
        return False
    with suppress(OcikitError):
        Reference.parse(path)
        return True
    return False


def _entries(config: Mapping[str, Any]) -> dict[str, list[_Entry]]:
    """Return the entries of a Kitfile by the type of their layers; "" has all."""
    model = mapping(config.get("model"))
    lists: dict[str, list[Mapping[str, Any]]] = {
        "model": [] if _is_reference(text(model.get("path"))) or not model else [model],
        "modelpart": items(model.get("parts")),
        **{kind: items(config.get(key)) for kind, key in _LISTS.items()},
    }
    known = {"model", *_LISTS.values()}
    lists["other"] = [entry for key, value in config.items() if key not in known for entry in items(value)]
    found = {
        kind: [_Entry(text(entry.get("path")), text(entry.get("digest"))) for entry in entries]
        for kind, entries in lists.items()
    }
    return found | {"": [entry for entries in found.values() for entry in entries]}


def _named(manifest: Manifest, config: Mapping[str, Any]) -> Iterator[Descriptor]:
    """Yield the layers with the paths of their entries, which have their digests, or the same place among their type."""
    entries = _entries(config)
    by_digest = {entry.digest: entry for entry in entries[""] if entry.digest}
    counts: Counter[str] = Counter()
    for layer in manifest.layers:
        match = _TYPE.fullmatch(layer.media_type)
        kind, form = (match[1], match[2]) if match is not None else ("", "")
        place = counts[kind]
        counts[kind] += 1
        same = entries.get(kind, []) if kind else []
        entry = by_digest.get(layer.digest) or (same[place] if place < len(same) else None)
        path = below_folder(layer.annotations.get(FILEPATH, "")) or (entry.path.strip() if entry is not None else "")
        if form == "tar":
            # The members of an old layer have paths relative to the folder of its path
            is_old = entry is not None and not entry.digest and FILEPATH not in layer.annotations
            folder = posixpath.dirname(posixpath.normpath(path)) if is_old and path else ""
            yield unpacked(layer, _folder_name(path) or layer.title or kind, folder)
        elif path:
            yield named_or_unpacked(layer, path)
        else:
            yield layer


def _folder_name(path: str) -> str:
    """Return the path of an archive without a name for the top folder, which has no name in listings."""
    return "" if set(path.split("/")) <= {"", "."} else path


def _inherited(manifest: Manifest, config: Mapping[str, Any], content: Content) -> Iterator[Descriptor]:
    """Yield the weights of the models that a model extends, as kit does.

    Raises:
        InvalidDocument: There are too many, or they extend each other in a circle.
        OcikitError: There is no such model.
    """
    chain, seen = ["this model"], {manifest.digest}
    while _is_reference(reference := text(mapping(config.get("model")).get("path"))):
        if len(chain) > MAX_PARENTS:
            raise _wrong_chain(f"more than {MAX_PARENTS} models extend each other", chain)
        try:
            name, manifest, content = content.parent(reference)
        except OcikitError as error:
            raise error.reworded(
                f"{' => '.join([*chain, reference])}: {error.message}",
                "the model extends another one; dialect=None gives its own layers",
            ) from error
        chain.append(name)
        if manifest.digest in seen:
            raise _wrong_chain("models extend each other in a circle", chain)
        seen.add(manifest.digest)
        config = content.config()
        for layer, plain in zip(_named(manifest, config), manifest.layers, strict=True):
            match = _TYPE.fullmatch(plain.media_type)
            if match is not None and match[1] in _INHERITED:
                yield layer.located(content.reference)


def _wrong_chain(problem: str, chain: Sequence[str]) -> InvalidDocument:
    return InvalidDocument(
        f"{problem}: {' => '.join(chain)}",
        hint="ask the publisher to repair it; dialect=None gives the model's own layers",
    )
