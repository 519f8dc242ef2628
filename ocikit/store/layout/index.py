"""The files `oci-layout` and `index.json`.

Entries remain plain JSON from reading to writing, so that keys of other tools survive unchanged. image-spec
image-layout.md#indexjson-file.
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

INDEX_LIMIT = 64 << 20  # bytes, for about 200,000 entries; a larger file is probably not an index

#: Annotation in which containerd and buildx store an entry's full name. It belongs to one name only.
_CONTAINERD_NAME = "io.containerd.image.name"

_HINT = 'to create a layout there, push with Layout(path), or write to "oci:path:tag"'


def read_index(folder: Path, *, create: bool) -> dict[str, Any]:
    """Return the JSON of `index.json`, always with a list of manifests.

    Args:
        folder: Folder of the layout.
        create: Whether a folder without a layout is read as an empty layout.

    Raises:
        NotFound: The folder or one of the two files does not exist.
        InvalidDocument: One of the files is invalid.
        ContentError: One of the files cannot be read.
    """
    header = _read(folder / "oci-layout")
    raw = _read(folder / "index.json")
    if header is not None:
        version = _parse(header, folder / "oci-layout").get("imageLayoutVersion")
        if not isinstance(version, str) or not version.startswith("1."):
            raise InvalidDocument(
                f"{folder / 'oci-layout'} has imageLayoutVersion {quoted(version)}, expected 1.x @ $.imageLayoutVersion",
                hint="layouts of this version are not supported; write the layout with version 1.0.0",
            )
    elif not create:
        if not folder.is_dir():
            raise NotFound(f"{folder} is not a folder, or does not exist", hint=_HINT)
        raise NotFound(f"{folder} is not an image layout: it has no file oci-layout", hint=_HINT)
    if raw is not None:
        index = _parse(raw, folder / "index.json")
        manifests = index.get("manifests")
        if manifests is not None and not isinstance(manifests, list):
            raise InvalidDocument(f"{folder / 'index.json'}: expected an array @ $.manifests")
        return {**index, "manifests": manifests or []}
    # A process that was killed while it created the layout may have left anything except blobs
    if create and not any((folder / "blobs").glob("*/*")):
        return {**EMPTY_INDEX, "manifests": []}
    raise NotFound(f"{folder} is an incomplete image layout: it has no file index.json", hint="copy the layout again")


def _read(path: Path) -> bytes | None:
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size <= INDEX_LIMIT:
                return file.readall()
    except FileNotFoundError:
        return None
    raise InvalidDocument(
        f"{path} is {size} bytes, above the limit of {INDEX_LIMIT}", hint="it is probably not a layout's index"
    )


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    """Parse the JSON of a file.

    A message never quotes the target of a symlink: a hostile layout may link to a private file of the user.
    """
    try:
        return load_json(raw, str(path), limit=INDEX_LIMIT)
    except InvalidDocument:
        if path.is_symlink():
            raise InvalidDocument(f"{path} is a link to invalid JSON", hint="copy the layout again") from None
        raise


def encode_index(index: Mapping[str, Any]) -> bytes:
    """Return the bytes of `index.json`.

    They are ASCII, because other tools may have written lone surrogates.
    """
    return json.dumps(index, separators=(",", ":")).encode()


def to_descriptor(entry: Any) -> Descriptor:
    """Return the descriptor of an entry.

    Raises:
        InvalidDocument: The entry is not a descriptor.
    """
    return structure(entry, Descriptor)


def digest_of(entry: Any) -> object:
    """Return the digest of an entry, not validated, or None."""
    return entry.get("digest") if isinstance(entry, dict) else None


def name_of(entry: Any) -> str | None:
    """Return the name of an entry, or None."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def without_name(descriptor: Descriptor) -> Descriptor:
    """Return a descriptor without its name.

    A name has a meaning only within one layout. image-spec annotations.md.
    """
    return attrs.evolve(descriptor, annotations=Annotations(_without_names(descriptor.annotations)))


def new_entry(descriptor: Descriptor, *, name: str | None = None) -> dict[str, Any]:
    """Return a new entry: the descriptor without embedded content, with a name."""
    entry: dict[str, Any] = unstructure(attrs.evolve(without_name(descriptor), data=None))
    if name is not None:
        entry["annotations"] = {**entry.get("annotations", {}), REF_NAME: name}
    return entry


def rename(entry: dict[str, Any], name: str | None) -> None:
    """Set the name of an entry, or remove it if `name` is None."""
    annotations = entry.get("annotations")
    # Replace a value that is not an object: it holds no names
    renamed = _without_names(annotations if isinstance(annotations, dict) else {})
    if name is not None:
        renamed[REF_NAME] = name
    if renamed:
        entry["annotations"] = renamed
    else:
        entry.pop("annotations", None)


def _without_names(annotations: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in annotations.items() if key not in {REF_NAME, _CONTAINERD_NAME}}
