"""`oci-layout` and `index.json` as they are on disk. image-spec image-layout.md#indexjson-file.

Entries stay plain JSON from reading to writing: what another tool wrote, known here or not, comes out as it went in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from ocikit.display import quoted
from ocikit.errors import InvalidDocument, NotFound
from ocikit.spec import media_types
from ocikit.spec.annotations import REF_NAME, Annotations
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.document import load_json, structure, unstructure
from ocikit.store.files import open_file

HEADER = b'{"imageLayoutVersion":"1.0.0"}'
EMPTY_INDEX: Mapping[str, Any] = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []}

INDEX_LIMIT = 64 << 20  # bytes; some 200,000 entries. A larger one is likelier to be no index at all

#: Where containerd and buildx keep an entry's full name. It belongs to one name, so another name doesn't inherit it.
_CONTAINERD_NAME = "io.containerd.image.name"

_ADVICE = 'to make a layout of it, open it with Layout(path) and push, or write to "oci:path:tag"'


def read_index(folder: Path, *, create: bool) -> dict[str, Any]:
    """The JSON of `index.json`, with a list of manifests in any case.

    Args:
        folder: the layout.
        create: whether a folder that is no layout yet counts as an empty one.
    Raises:
        NotFound: if the folder or one of its two files isn't there.
        InvalidDocument: if one of them isn't what it should be.
        ContentError: if one of them can't be read.
    """
    header = _read(folder / "oci-layout")
    raw = _read(folder / "index.json")
    if header is not None:
        version = _json(header, folder / "oci-layout").get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise InvalidDocument(
                f"{folder / 'oci-layout'} says imageLayoutVersion {quoted(version)}, expected 1.x @ $.imageLayoutVersion",
                hint="a layout of this version can't be read here; ask whoever wrote it for version 1.0.0",
            )
    elif not create:
        if not folder.is_dir():
            raise NotFound(f"{folder} is not there, or is no folder", hint=_ADVICE)
        raise NotFound(f"{folder} is no image layout: it has no file oci-layout", hint=_ADVICE)
    if raw is not None:
        index = _json(raw, folder / "index.json")
        manifests = index.get("manifests")
        if manifests is not None and not isinstance(manifests, list):
            raise InvalidDocument(f"{folder / 'index.json'}: expected an array @ $.manifests")
        return {**index, "manifests": manifests or []}
    # A process that was killed while it made a layout may have left anything but blobs
    if create and not any((folder / "blobs").glob("*/*")):
        return {**EMPTY_INDEX, "manifests": []}
    raise NotFound(
        f"{folder} is no whole image layout: it has no file index.json",
        hint="copy it again; its blobs are of use only with the index",
    )


def _read(path: Path) -> bytes | None:
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= INDEX_LIMIT:
                return file.readall()
    except FileNotFoundError:
        return None
    raise InvalidDocument(
        f"{path} is {size} bytes, above the limit of {INDEX_LIMIT}", hint="it is no index of a layout"
    )


def _json(raw: bytes, path: Path) -> dict[str, Any]:
    """The JSON of a file. A message never quotes what a link leads to: a layout of others may lead to a file of ours."""
    try:
        return load_json(raw, str(path), limit=INDEX_LIMIT)
    except InvalidDocument:
        if path.is_symlink():
            raise InvalidDocument(
                f"{path} leads to a file that is not its JSON", hint="copy the layout again"
            ) from None
        raise


def encode_index(index: Mapping[str, Any]) -> bytes:
    """The bytes of `index.json`. Escaped, since other tools may have left halves of surrogate pairs in it."""
    return json.dumps(index, separators=(",", ":")).encode()


def to_descriptor(entry: Any) -> Descriptor:
    """The descriptor that an entry is. Raises: InvalidDocument."""
    return structure(entry, Descriptor)


def digest_of(entry: Any) -> Any:
    """The digest that an entry names, unchecked."""
    return entry.get("digest") if isinstance(entry, dict) else None


def name_of(entry: Any) -> str | None:
    """An entry's name, or None."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def without_name(descriptor: Descriptor) -> Descriptor:
    """A descriptor without the name that one layout gave it: it means nothing elsewhere. image-spec annotations.md."""
    kept = {key: text for key, text in descriptor.annotations.items() if key not in {REF_NAME, _CONTAINERD_NAME}}
    return attrs.evolve(descriptor, annotations=Annotations(kept))


def new_entry(descriptor: Descriptor, *, name: str | None = None) -> dict[str, Any]:
    """A new entry: the descriptor without its content, with a name."""
    bare = attrs.evolve(without_name(descriptor), data=None)
    entry = unstructure(bare)
    if name is not None:
        entry["annotations"] = {**entry.get("annotations", {}), REF_NAME: name}
    return entry


def rename(entry: dict[str, Any], name: str | None) -> None:
    """Give an entry a name, or take its name away; the rest of it stays."""
    said = entry.get("annotations")
    # Whatever else stands there names nothing
    named = said if isinstance(said, dict) else {}
    annotations = {k: v for k, v in named.items() if k not in {REF_NAME, _CONTAINERD_NAME}}
    if name is not None:
        annotations[REF_NAME] = name
    if annotations:
        entry["annotations"] = annotations
    else:
        entry.pop("annotations", None)
