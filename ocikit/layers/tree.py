"""The tree that layers result in. image-spec layer.md#applying-changesets.

One algorithm applies entries and whiteouts, in memory for `listing.merged_tree` and on disk for `unpack.unpack`. Paths
are resolved within the root like after a chroot, one name at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Final, cast

from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.layers.layer import Budget, LayerLimits, check_path, escapes, open_layer, resolve_path
from ocikit.layers.tar import EntryBody, Readable, TarEntry, members
from ocikit.layers.zip import zip_members
from ocikit.spec.digest import Digest, new_hasher
from ocikit.spec.media_types import ZIP
from ocikit.spec.titles import OWN_FOLDER

WHITEOUT: Final = ".wh."
OPAQUE: Final = ".wh..wh..opq"
_BOOKKEEPING: Final = ".wh..wh."  # records of AUFS; very old Docker layers contain some
_LINKS: Final = 40  # symlinks followed in one path; MAXSYMLINKS of Linux


@define(eq=False)
class Folder:
    """A folder of a tree, and the names that the current layer has written in it."""

    name: str
    parent: Folder | None = None
    depth: int = 0
    entry: TarEntry | None = None
    folders: dict[str, Folder] = field(factory=dict)
    files: dict[str, TarEntry] = field(factory=dict)
    """All entries except folders; empty if the tree is on disk."""
    _touched: set[str] | None = None
    _layer: int = 0

    def touch(self, name: str, layer: int) -> None:
        """Record that the layer has written this name: its own whiteouts do not hide it."""
        if self._touched is None or self._layer != layer:
            self._touched, self._layer = set(), layer
        self._touched.add(name)

    def touched(self, name: str, layer: int) -> bool:
        """Return True if the layer has written the name; always for the first layer."""
        return layer == 0 or (self._layer == layer and name in (self._touched or ()))

    @property
    def chain(self) -> list[Folder]:
        """The folders from the root to this one."""
        chain = [self]
        while (parent := chain[-1].parent) is not None:
            chain.append(parent)
        return chain[::-1]

    def path(self, name: str = "") -> str:
        """Return the path of a name in this folder, from the root."""
        return "/".join([folder.name for folder in self.chain[1:]] + ([name] if name else []))


def check_diff_ids(diff_ids: Sequence[Digest | None], layers: int) -> None:
    """Check that there is one digest for each layer. image-spec config.md#properties, `rootfs`.

    Raises:
        ContentError: The numbers differ.
    """
    if len(diff_ids) != layers:
        raise ContentError(
            f"the image has {display.pluralize(layers, 'layer')}, and its config has"
            f" {display.pluralize(len(diff_ids), 'diff_id')}",
            hint="the image's config does not describe its layers; ask its publisher for a new one",
        )


class Tree(ABC):
    """Layers applied to a root; subclasses store the entries.

    Args:
        limits: The limits for all layers together.
        confined: For data folders: paths are relative, links must stay inside, and nothing is written through a link.
        strip: A folder that all paths start with, to be removed from them.
        skip_others: Skip paths that do not start with `strip`, instead of refusing them.
    """

    def __init__(
        self, *, limits: LayerLimits, confined: bool = False, strip: str = "", skip_others: bool = False
    ) -> None:
        self.root = Folder("")
        self.layer = -1
        self._budget = Budget(limits)
        self._confined = confined
        self._strip = check_path(strip, limits) if strip else ()
        self._skip_others = skip_others

    def apply(self, layers: Iterable[tuple[Readable, str]], diff_ids: Sequence[Digest | None] | None = None) -> None:
        """Apply the whiteouts and entries of layers.

        Args:
            layers: (stream, media type) pairs, lowest first; each stream is read to its end and not closed.
            diff_ids: The digests of the uncompressed layers; None does not check them, or one of them.

        Raises:
            ContentError: A layer is damaged or has another digest, or there are more or fewer layers than digests.
            UnsafeArchive: An entry would write outside the root, or a limit is exceeded.
        """
        for stream, media_type in layers:
            self.layer += 1
            expected = diff_ids[self.layer] if diff_ids is not None and self.layer < len(diff_ids) else None
            hasher = None if expected is None else new_hasher(expected.algorithm)
            content = open_layer(stream, budget=self._budget, hasher=hasher)
            for entry, body in zip_members(content) if media_type == ZIP else members(content, media_type):
                self._budget.count_entry(entry, body)
                self.add(entry, body)
            if hasher is not None and expected is not None and hasher.hexdigest() != expected.encoded:
                raise ContentError(
                    f"the uncompressed layer {self.layer + 1} is {expected.algorithm}:{hasher.hexdigest()}, and its"
                    f" diff_id is {expected}",
                    hint="the image's config does not describe its layers; ask its publisher for a new one",
                )
        if diff_ids is not None:
            check_diff_ids(diff_ids, self.layer + 1)

    def add(self, entry: TarEntry, body: EntryBody) -> None:
        """Apply one entry.

        Raises:
            UnsafeArchive: The entry would write outside the root.
        """
        if self._skip_others and not self._is_below(entry):
            return
        parts = self._strip_path(entry.path)
        if not parts:
            if entry.type != "directory":
                raise self._unsafe(entry, f"would make the root a {entry.type}")
            self.root.entry = entry
            return
        *parents, name = parts
        if self._confined and any(part.casefold() == OWN_FOLDER for part in parts):
            raise self._unsafe(entry, f"is in {OWN_FOLDER!r}, which is reserved for ocikit's own records")
        if name == OPAQUE or (name.startswith(WHITEOUT) and not name.startswith(_BOOKKEEPING)):
            self._whiteout(parents, name, entry)
        elif any(part.startswith(_BOOKKEEPING) for part in parts):
            self.note_skipped(entry, "AUFS bookkeeping")
        elif any(part.startswith(WHITEOUT) for part in parents):
            raise self._unsafe(entry, "is inside a whiteout, which is not a folder")
        else:
            self._write_entry(cast("Folder", self._find_folder(parents, entry, make=True)), name, entry, body)

    def _is_below(self, entry: TarEntry) -> bool:
        """Return True for an entry below `strip`; apply a whiteout of that folder, or of one above it."""
        parts, root = resolve_path(entry.path, self._budget.limits), self._strip
        if parts[: len(root)] == root:
            return True
        *parents, name = parts or ("",)
        if parents == list(root[: len(parents)]) and name in {OPAQUE, f"{WHITEOUT}{root[len(parents)]}"} and self.layer:
            self._hide_all(self.root)
        return False

    def _strip_path(self, path: str) -> tuple[str, ...]:
        # A part of an image has the paths of the image, which may be absolute
        check = check_path if self._confined and not self._skip_others else resolve_path
        parts = check(path, self._budget.limits)
        if parts[: len(self._strip)] == self._strip:
            return parts[len(self._strip) :]
        if parts and parts != self._strip[: len(parts)]:
            raise UnsafeArchive(
                f"{path!r} is not below {'/'.join(self._strip)!r}, where all entries of this archive must be",
                hint="the layer's title and content do not match; ask its publisher",
            )
        return ()

    def _unsafe(self, entry: TarEntry, problem: str) -> UnsafeArchive:
        return UnsafeArchive(
            f"{entry.path!r} {problem}", hint="nothing was unpacked; don't use the archive unless you trust it"
        )

    def _find_folder(self, names: Iterable[str], entry: TarEntry, *, make: bool) -> Folder | None:
        """Return the folder at a path within the root, following links inside it.

        Args:
            names: The path.
            entry: The current entry, for messages.
            make: Whether to make missing folders; otherwise the result is None.

        Raises:
            UnsafeArchive: The path has too many links, is not a folder, or is not allowed in a confined tree.
        """
        folder, followed = self.root, 0
        pending = list(names)[::-1]
        while pending:
            part = pending.pop()
            if part == "..":
                folder = folder.parent or folder
                continue
            child = folder.folders.get(part)
            if child is None:
                kind = self.kind(folder, part)
                if kind == "symlink":
                    followed += 1
                    if self._confined:
                        raise self._unsafe(entry, f"goes through the link {folder.path(part)!r}")
                    if followed > _LINKS:
                        raise self._unsafe(entry, f"goes through more than {_LINKS} links")
                    target = self.readlink(folder, part)
                    folder = self.root if target.startswith("/") else folder
                    pending += [name for name in reversed(target.split("/")) if name not in {"", "."}]
                    continue
                if not make:
                    return None
                if kind is not None:
                    raise self._unsafe(entry, f"is below {folder.path(part)!r}, which is a {kind}")
                child = self._make_folder(folder, part, entry)
            folder = child
        if make and self.layer:
            current = folder
            while current.parent is not None and not current.parent.touched(current.name, self.layer):
                current.parent.touch(current.name, self.layer)
                current = current.parent
        return folder

    def _make_folder(self, folder: Folder, name: str, entry: TarEntry) -> Folder:
        if folder.depth >= self._budget.limits.depth:
            raise self._unsafe(entry, f"is more than {self._budget.limits.depth} folders deep after following links")
        self.mkdir(folder, name)
        child = folder.folders[name] = Folder(name, folder, folder.depth + 1)
        return child

    def _write_entry(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
        existing = "directory" if name in folder.folders else self.kind(folder, name)
        if entry.type == "directory":
            if existing not in {None, "directory"}:
                self._remove(folder, name)
            (folder.folders.get(name) or self._make_folder(folder, name, entry)).entry = entry
        elif entry.type == "hardlink":
            self._add_hard_link(folder, name, existing is not None, entry)
        else:
            if entry.type == "symlink" and self._confined and escapes(folder.depth, entry.target or ""):
                raise self._unsafe(entry, f"is a link to {entry.target!r}, which may lead out of the folder")
            if existing:
                self._remove(folder, name)
            self.put(folder, name, entry, body)
        if self.layer:
            folder.touch(name, self.layer)

    def _add_hard_link(self, folder: Folder, name: str, existing: bool, entry: TarEntry) -> None:
        parts = self._strip_path(entry.target or "")
        source = self._find_folder(parts[:-1], entry, make=False) if parts else None
        kind = self.kind(source, parts[-1]) if source and parts[-1] not in source.folders else None
        if source is None or kind is None:
            if self.was_skipped(source.path(parts[-1]) if source else ""):
                self.note_skipped(entry, "hard link to a skipped entry")
                return
            raise self._unsafe(entry, f"is a hard link to {entry.target!r}, which is not a file in the archive")
        if self._confined and kind != "file":
            raise self._unsafe(entry, f"is a hard link to {entry.target!r}, which is a {kind}")
        if (source, parts[-1]) == (folder, name):
            return
        if existing:
            self._remove(folder, name)
            if source.chain[0] is not self.root or self.kind(source, parts[-1]) is None:
                raise self._unsafe(entry, f"replaces the target of its own hard link, {entry.target!r}")
        self.link(folder, name, source, parts[-1], entry)

    def _remove(self, folder: Folder, name: str) -> None:
        child = folder.folders.pop(name, None)
        if child is not None:
            child.parent = None
        self.remove(folder, name, is_folder=child is not None)

    def _whiteout(self, parents: list[str], name: str, entry: TarEntry) -> None:
        hidden = name.removeprefix(WHITEOUT)
        if hidden in {"", ".", ".."}:
            raise self._unsafe(entry, "is a whiteout without a valid name")
        folder = self._find_folder(parents, entry, make=False)
        if folder is None or self.layer == 0:
            return
        if name == OPAQUE:
            self._hide_all(folder)
        else:
            self._hide(folder, hidden)

    def _hide(self, folder: Folder, name: str) -> None:
        """Remove the content of lower layers at this name; keep the content of this layer."""
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
        """Return the type of an entry, or None for folders and missing entries."""

    @abstractmethod
    def readlink(self, folder: Folder, name: str) -> str:
        """Return the target of a symlink."""

    @abstractmethod
    def names(self, folder: Folder) -> list[str]:
        """Return the names of all entries in a folder."""

    @abstractmethod
    def mkdir(self, folder: Folder, name: str) -> None:
        """Make a folder; the name is free."""

    @abstractmethod
    def put(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
        """Write a file, symlink or device; the name is free."""

    @abstractmethod
    def link(self, folder: Folder, name: str, source: Folder, source_name: str, entry: TarEntry) -> None:
        """Make a hard link to an existing file."""

    @abstractmethod
    def remove(self, folder: Folder, name: str, *, is_folder: bool) -> None:
        """Remove a file, or a folder with its content."""

    def note_skipped(self, entry: TarEntry, reason: str) -> None:  # noqa: B027 - a tree in memory skips nothing
        """Record that an entry, or a part of it, was skipped."""

    def was_skipped(self, path: str) -> bool:
        """Return True if the entry at a path was skipped."""
        return False
