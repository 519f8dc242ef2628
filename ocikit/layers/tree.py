"""The tree that layers make together. image-spec layer.md#applying-changesets.

One algorithm applies entries and whiteouts. In memory it gives a listing (`archive.merged_tree`), on disk the files
themselves (`unpack.unpack`). Paths are resolved within the root as after a chroot, one name at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final, cast

from attrs import define, field

from ocikit.errors import UnsafeArchive
from ocikit.layers.layer import Budget, LayerLimits, check_name, escapes, open_layer
from ocikit.layers.tar import EntryBody, Readable, TarEntry, members
from ocikit.spec.titles import OWN_FOLDER

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_BOOKKEEPING: Final = ".wh..wh."  # how AUFS kept its own records; very old Docker layers have some
_LINKS: Final = 40  # symlinks followed in one path; Linux' MAXSYMLINKS


@define(eq=False)
class Folder:
    """A folder of a tree, and what the layer being applied has done in it."""

    name: str
    parent: Folder | None = None
    depth: int = 0
    entry: TarEntry | None = None
    folders: dict[str, Folder] = field(factory=dict)
    files: dict[str, TarEntry] = field(factory=dict)
    """Everything that isn't a folder; empty where the tree is on disk."""
    _touched: set[str] | None = None
    _layer: int = 0

    def touch(self, name: str, layer: int) -> None:
        """Note that the layer has this name here: its whiteouts don't hide it."""
        if self._touched is None or self._layer != layer:
            self._touched, self._layer = set(), layer
        self._touched.add(name)

    def touched(self, name: str, layer: int) -> bool:
        """Whether the layer itself brought the name. Below the first layer there is nothing that it could hide."""
        return layer == 0 or (self._layer == layer and name in (self._touched or ()))

    @property
    def chain(self) -> list[Folder]:
        """The folders from the root to this one."""
        found = [self]
        while (parent := found[-1].parent) is not None:
            found.append(parent)
        return found[::-1]

    def path(self, name: str = "") -> str:
        """The path of a name in this folder, from the root."""
        return "/".join([f.name for f in self.chain[1:]] + ([name] if name else []))


class Tree(ABC):
    """Layers applied to a root; what a name is and how it is made is the subclass's business.

    Args:
        limits: what the layers may cost together.
        confined: for folders of data: links only to what is inside, and nothing is written through a link.
        strip: a folder that all names start with, left out.
    """

    def __init__(self, *, limits: LayerLimits, confined: bool = False, strip: str = "") -> None:
        self.root = Folder("")
        self.layer = -1
        self._budget = Budget(limits)
        self._confined = confined
        self._strip = check_name(strip, limits) if strip else ()

    def apply(self, stream: Readable, media_type: str = "") -> None:
        """Apply a layer: its whiteouts to what is there, its entries over it. image-spec layer.md#applying-changesets."""
        self.layer += 1
        for entry, body in members(open_layer(stream, media_type, budget=self._budget)):
            self._budget.next(entry, body)
            self.add(entry, body)

    def add(self, entry: TarEntry, body: EntryBody) -> None:
        """Apply one entry."""
        parts = self._parts(entry.path)
        if not parts:
            if entry.type != "directory":
                raise self._refused(entry, f"would make the root a {entry.type}")
            self.root.entry = entry
            return
        *parents, name = parts
        if self._confined and any(part.casefold() == OWN_FOLDER for part in parts):
            raise self._refused(entry, f"is in {OWN_FOLDER!r}, which is kept for this library's own records")
        if name == OPAQUE or (name.startswith(WHITEOUT) and not name.startswith(_BOOKKEEPING)):
            self._whiteout(parents, name, entry)
        elif any(part.startswith(_BOOKKEEPING) for part in parts):
            self.skip(entry, "AUFS bookkeeping")
        elif any(part.startswith(WHITEOUT) for part in parents):
            raise self._refused(entry, "is inside a whiteout, which is no folder")
        else:
            self._place(cast("Folder", self._enter(parents, entry)), name, entry, body)

    def _parts(self, name: str) -> tuple[str, ...]:
        parts = check_name(name, self._budget.limits)
        if parts[: len(self._strip)] == self._strip:
            return parts[len(self._strip) :]
        if parts and parts != self._strip[: len(parts)]:
            raise UnsafeArchive(
                f"{name!r} is not below {'/'.join(self._strip)!r}, where all of this archive should be",
                hint="the layer's title and its content disagree; ask its publisher",
            )
        return ()

    def _refused(self, entry: TarEntry, why: str) -> UnsafeArchive:
        return UnsafeArchive(
            f"{entry.path!r} {why}", hint="nothing was kept; don't use the archive unless you trust it"
        )

    def _enter(self, parents: Iterable[str], entry: TarEntry, *, make: bool = True) -> Folder | None:
        """The folder that the names lead to, within the root; made if it isn't there, or None unless `make`."""
        folder, followed = self.root, 0
        todo = list(parents)[::-1]
        while todo:
            part = todo.pop()
            if part == "..":
                folder = folder.parent or folder
                continue
            child = folder.folders.get(part)
            if child is None:
                kind = self.kind(folder, part)
                if kind == "symlink":
                    followed += 1
                    if self._confined:
                        raise self._refused(entry, f"goes through the link {folder.path(part)!r}")
                    if followed > _LINKS:
                        raise self._refused(entry, f"goes through more than {_LINKS} links")
                    target = self.readlink(folder, part)
                    folder = self.root if target.startswith("/") else folder
                    todo += [p for p in reversed(target.split("/")) if p not in {"", "."}]
                    continue
                if not make:
                    return None
                if kind is not None:
                    raise self._refused(entry, f"is below {folder.path(part)!r}, which is a {kind}")
                child = self._make(folder, part, entry)
            folder = child
        if make and self.layer:
            above = folder
            while above.parent is not None and not above.parent.touched(above.name, self.layer):
                above.parent.touch(above.name, self.layer)
                above = above.parent
        return folder

    def _make(self, folder: Folder, name: str, entry: TarEntry) -> Folder:
        if folder.depth >= self._budget.limits.depth:
            raise self._refused(entry, f"is more than {self._budget.limits.depth} folders deep, links followed")
        self.mkdir(folder, name)
        made = folder.folders[name] = Folder(name, folder, folder.depth + 1)
        return made

    def _place(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
        existing = "directory" if name in folder.folders else self.kind(folder, name)
        if entry.type == "directory":
            if existing not in {None, "directory"}:
                self._remove(folder, name)
            (folder.folders.get(name) or self._make(folder, name, entry)).entry = entry
        elif entry.type == "hardlink":
            self._link(folder, name, existing is not None, entry)
        else:
            if entry.type == "symlink" and self._confined and escapes(folder.depth, entry.target or ""):
                raise self._refused(entry, f"is a link to {entry.target!r}, which may lead out of the folder")
            if existing:
                self._remove(folder, name)
            self.put(folder, name, entry, body)
        if self.layer:
            folder.touch(name, self.layer)

    def _link(self, folder: Folder, name: str, existing: bool, entry: TarEntry) -> None:
        parts = self._parts(entry.target or "")
        source = self._enter(parts[:-1], entry, make=False) if parts else None
        kind = self.kind(source, parts[-1]) if source and parts[-1] not in source.folders else None
        if source is None or kind is None:
            if self.skipped(source.path(parts[-1]) if source else ""):
                self.skip(entry, "another name of what was left out")
                return
            raise self._refused(entry, f"is a hard link to {entry.target!r}, which is not a file in the archive")
        if self._confined and kind != "file":
            raise self._refused(entry, f"is a hard link to {entry.target!r}, which is a {kind}")
        if (source, parts[-1]) == (folder, name):
            return
        if existing:
            self._remove(folder, name)
            if source.chain[0] is not self.root or self.kind(source, parts[-1]) is None:
                raise self._refused(entry, f"replaces what it is a hard link to, {entry.target!r}")
        self.link(folder, name, source, parts[-1], entry)

    def _remove(self, folder: Folder, name: str) -> None:
        gone = folder.folders.pop(name, None)
        if gone is not None:
            gone.parent = None
        self.remove(folder, name, is_folder=gone is not None)

    def _whiteout(self, parents: list[str], name: str, entry: TarEntry) -> None:
        hidden = name.removeprefix(WHITEOUT)
        if hidden in {"", ".", ".."}:
            raise self._refused(entry, "is a whiteout of nothing that has a name")
        folder = self._enter(parents, entry, make=False)
        if folder is None or self.layer == 0:
            return
        if name == OPAQUE:
            self._hide_all(folder)
        else:
            self._hide(folder, hidden)

    def _hide(self, folder: Folder, name: str) -> None:
        """Remove what lower layers have under this name, and keep what this layer has."""
        child = folder.folders.get(name)
        if not folder.touched(name, self.layer):
            if child or self.kind(folder, name):
                self._remove(folder, name)
        elif child:
            self._hide_all(child)

    def _hide_all(self, folder: Folder) -> None:
        for name in self.names(folder):
            self._hide(folder, name)

    @abstractmethod
    def kind(self, folder: Folder, name: str) -> str | None:
        """What the name is, if it is there and no folder."""

    @abstractmethod
    def readlink(self, folder: Folder, name: str) -> str:
        """Where a symlink leads."""

    @abstractmethod
    def names(self, folder: Folder) -> list[str]:
        """Everything in a folder."""

    @abstractmethod
    def mkdir(self, folder: Folder, name: str) -> None:
        """Make a folder where nothing is."""

    @abstractmethod
    def put(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
        """Make a file, symlink or device where nothing is."""

    @abstractmethod
    def link(self, folder: Folder, name: str, source: Folder, source_name: str, entry: TarEntry) -> None:
        """Make another name for a file."""

    @abstractmethod
    def remove(self, folder: Folder, name: str, *, is_folder: bool) -> None:
        """Remove a file, or a folder with all that is in it."""

    def skip(self, entry: TarEntry, why: str) -> None:  # noqa: B027 - a listing has nothing to note
        """Note that an entry was left out."""

    def skipped(self, path: str) -> bool:  # for subclasses
        """Whether the path was left out."""
        return False
