"""Archives of layers: listed, merged and unpacked. image-spec layer.md.

What callers need is here; how it is done is in `header` and `tar` (the format), `compression`, `layer` (one layer and
its limits), `tree` (whiteouts and paths) and `unpack` (the disk).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

import attrs

from ocikit.layers.layer import LayerLimits
from ocikit.layers.tar import EntryBody, TarEntry
from ocikit.layers.tree import Folder, Tree
from ocikit.spec.annotations import FrozenMap


def merged_tree(layers: Iterable[tuple[BinaryIO, str]], *, limits: LayerLimits | None = None) -> FrozenMap[TarEntry]:
    """What the layers make together, by path and in order, without writing anything.

    Paths are where the content ends up: `usr/lib/x` for a layer's `lib/x` if `lib` is a link to `usr/lib`. Each entry
    says which layer holds its content and under which path. A hard link has the size and mode of its file.

    Args:
        layers: (stream, media type) each, lowest first; taken one by one, read to the end, not closed.
        limits: what the layers may cost together.
    Raises:
        ContentError: if a layer is damaged.
        UnsafeArchive: if one would write outside the root, or exceeds a limit.
    """
    tree = _Listing(limits=limits or LayerLimits())
    for stream, media_type in layers:
        tree.apply(stream, media_type)
    return FrozenMap({entry.path: entry for entry in tree.walk(tree.root)})


class _Listing(Tree):
    """A tree in memory."""

    def walk(self, folder: Folder) -> Iterator[TarEntry]:
        """Everything below a folder, each folder before what is in it."""
        for name in sorted(self.names(folder)):
            child = folder.folders.get(name)
            if child is None:
                yield folder.files[name]
                continue
            path = child.path()
            # A folder that no layer describes is one that all of them took for granted.
            yield attrs.evolve(child.entry or TarEntry(path=path, type="directory", mode=0o755), path=path)
            yield from self.walk(child)

    def kind(self, folder: Folder, name: str) -> str | None:
        entry = folder.files.get(name)
        if entry is None:
            return None
        return "file" if entry.type == "hardlink" else entry.type

    def readlink(self, folder: Folder, name: str) -> str:
        return folder.files[name].target or ""

    def names(self, folder: Folder) -> list[str]:
        return [*folder.folders, *folder.files]

    def mkdir(self, folder: Folder, name: str) -> None:
        """Nothing more: the folder itself is the record."""

    def put(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:  # only names and sizes
        folder.files[name] = attrs.evolve(entry, path=folder.path(name), layer=self.layer, stored_as=entry.clean_path)

    def link(self, folder: Folder, name: str, source: Folder, source_name: str, entry: TarEntry) -> None:
        origin, path = source.files[source_name], folder.path(name)
        if origin.type in {"file", "hardlink"}:
            target = origin.target if origin.type == "hardlink" else origin.path
            folder.files[name] = attrs.evolve(origin, path=path, type="hardlink", target=target)
        else:
            folder.files[name] = attrs.evolve(origin, path=path)

    def remove(self, folder: Folder, name: str, *, is_folder: bool) -> None:
        if not is_folder:
            del folder.files[name]
