"""The merged tree of layers, without unpacking them. image-spec layer.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import attrs

from ocikit.layers.layer import LayerLimits
from ocikit.layers.tar import EntryBody, Readable, TarEntry
from ocikit.layers.tree import Folder, Tree
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.digest import Digest


def merged_tree(
    layers: Iterable[tuple[Readable, str]],
    *,
    diff_ids: Sequence[Digest | None] | None = None,
    limits: LayerLimits | None = None,
) -> FrozenMap[TarEntry]:
    """Return the entries that the layers result in, by path and in order.

    Paths are final: `usr/lib/x` for a layer's `lib/x` if `lib` is a link to `usr/lib`. Each entry has the layer and the
    path of its content. A hard link has the size and mode of its file.

    Args:
        layers: (stream, media type) pairs, lowest first; each stream is read to its end and not closed.
        diff_ids: The digests of the uncompressed layers, from the image's config; None does not check them.
        limits: The limits for all layers together.

    Raises:
        ContentError: A layer is damaged, or not the one of its diff_id.
        UnsafeArchive: An entry would write outside the root, or a limit is exceeded.
    """
    tree = _MemoryTree(limits=limits or LayerLimits())
    tree.apply(layers, diff_ids)
    return FrozenMap({entry.path: entry for entry in tree.walk(tree.root)})


class _MemoryTree(Tree):
    """A tree in memory."""

    def walk(self, folder: Folder) -> Iterator[TarEntry]:
        """Yield all entries below a folder, each folder before its content."""
        for name in sorted(self.names(folder)):
            child = folder.folders.get(name)
            if child is None:
                yield folder.files[name]
                continue
            path = child.path()
            # Layers may contain files of a folder without an entry for the folder itself
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
        """Do nothing: the `Folder` is enough."""

    def put(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
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
