"""The dialects that a push can write, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ocikit.dialects.classes import classify
from ocikit.dialects.facts import ModelFile, facts_of
from ocikit.dialects.write_docker import DockerWriter
from ocikit.dialects.write_kitops import KitWriter
from ocikit.dialects.write_modelpack import ModelPackWriter
from ocikit.dialects.writing import Writer

_WRITERS: Final[Mapping[str, type[Writer]]] = {
    "modelpack": ModelPackWriter,
    "kit": KitWriter,
    "kitops": KitWriter,
    "docker": DockerWriter,
}


def writer_for(
    name: str,
    files: Iterable[tuple[str, Path | bytes, int]],
    model: Mapping[str, Any] | None = None,
    classes: Mapping[str, str] | None = None,
) -> Writer:
    """Return what writes an artifact of a dialect.

    Args:
        name: Name of the dialect, such as "modelpack".
        files: The files of the model as title, path or content, and size [bytes].
        model: Facts about the model by name; others are read from the files.
        classes: Classes of files by pattern of their titles.

    Raises:
        InvalidArgument: A fact or a class is invalid.
        ContentError: A pattern of classes matches no file, or the dialect does not take these files.
    """
    files = tuple(files)
    kinds = classify(((title, size) for title, _, size in files), classes)
    found = (ModelFile(title=title, content=content, size=size, kind=kinds[title]) for title, content, size in files)
    return _WRITERS[name](kinds=kinds, facts=facts_of(found, model))
