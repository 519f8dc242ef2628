"""Archives in a pulled folder: layers that a pull unpacks.

An archive is unpacked to a temporary folder in `.ocikit`, under the limits and rules for data (`unpack(confined=True)`).
Its files then take part in the plan like other files of the artifact. So edits are detected, a second pull changes only
what differs, and the record lists them. The record also shows which files an unchanged archive has, without reading it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, cast

import attrs
from attrs import frozen

from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import hash_file
from ocikit.spec.titles import check_titles, is_shard, packed_prefix, stripped_prefix, unpacked_digest
from ocikit.transfer.pool import run_parallel

#: Media type of a symlink from an archive, as in the shared MIME database.
SYMLINK = "inode/symlink"


@frozen(kw_only=True)
class Archive:
    """A layer to unpack, and its files as far as they are known."""

    layer: Descriptor
    files: Mapping[str, Descriptor] | None = None
    """Files and symlinks by title; None if they are unknown."""
    folders: tuple[str, ...] = ()
    """Empty folders by title."""
    content: Path | None = None
    """The folder that the archive is unpacked in, under its prefix; None if it is not unpacked."""
    hidden: int = 0
    """Number of files of a shard that are left out: not selected, or replaced by files of the artifact."""
    selected: frozenset[str] | None = None
    """Titles of the files to unpack from a shard; None unpacks all."""

    @property
    def prefix(self) -> str:
        """The folder of all files; empty for the top folder."""
        return packed_prefix(self.layer)

    def contains(self, title: str) -> bool:
        """Return True if a file with this title could be from the archive."""
        return not self.prefix or title.startswith(f"{self.prefix}/")

    def without(self, titles: Mapping[str, object]) -> Archive:
        """Return the archive without the files that the artifact has under the same titles, if this is a shard.

        A file that was written to an artifact replaces the one in its shard.
        """
        if not self.files or not is_shard(self.layer) or titles.keys().isdisjoint(self.files):
            return self
        files = {title: file for title, file in self.files.items() if title not in titles}
        return attrs.evolve(self, files=files, hidden=self.hidden + len(self.files) - len(files))

    def select(self, titles: frozenset[str]) -> Archive:
        """Return the unpacked archive with some of its files only."""
        files = {title: file for title, file in (self.files or {}).items() if title in titles}
        return attrs.evolve(
            self, files=files, folders=(), selected=titles, hidden=self.hidden + len(self.files or ()) - len(files)
        )

    def path(self, title: str) -> Path:
        """Return the path of an unpacked file."""
        return cast("Path", self.content) / title.removeprefix(f"{self.prefix}/" if self.prefix else "")


def unpack_archive(layer: Descriptor, stream: BinaryIO, folder: Path) -> Archive:
    """Unpack an archive into a new folder and list its files.

    Args:
        layer: The archive.
        stream: Content of the archive.
        folder: The folder to make.

    Raises:
        ContentError: The archive is damaged, or the disk is full.
        UnsafeArchive: An entry leads out of the folder, or a limit is exceeded; nothing is left behind.
    """
    from ocikit.layers.unpack import unpack  # noqa: PLC0415 - only archives need tar and decompression

    strip = stripped_prefix(layer)
    unpack([(stream, layer.media_type)], folder, diff_ids=[unpacked_digest(layer)], confined=True, strip=strip)
    return _unpacked(layer, folder)


def place_members(
    layer: Descriptor, titles: frozenset[str], hidden: int, save: Callable[[str, Path], object], folder: Path
) -> Archive:
    """Write some files of a shard into a new folder and list them.

    Args:
        layer: The shard.
        titles: Titles of the files.
        hidden: Number of the other files.
        save: Writes a file of this title to a path.
        folder: The folder to make.

    Raises:
        ContentError: A file is damaged, or the disk is full.
        UnsafeArchive: Two files cannot exist in one folder.
    """
    archive = Archive(layer=layer, content=folder)
    paths = {title: archive.path(title) for title in titles}
    check_titles(titles)
    for parent in {path.parent for path in paths.values()}:
        parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_parallel(paths.items(), lambda item, _: save(*item))
    return attrs.evolve(_unpacked(layer, folder), selected=titles, hidden=hidden)


def _unpacked(layer: Descriptor, folder: Path) -> Archive:
    """Return an archive with the files in the folder that it was unpacked in."""
    prefix = packed_prefix(layer)
    files, folders = {}, []
    for name, path in _walk(folder):
        title = f"{prefix}/{name}" if prefix else name
        if path.is_symlink():
            files[title] = describe_link(os.readlink(path))
        elif path.is_dir():
            folders.append(title)
        else:
            path.chmod(path.stat().st_mode | stat.S_IRUSR | stat.S_IWUSR)
            files[title] = Descriptor(
                media_type=media_types.OCTET_STREAM, digest=hash_file(path, "sha256"), size=path.stat().st_size
            )
    return Archive(layer=layer, files=files, folders=tuple(folders), content=folder)


def delete_unpacked(folder: Path) -> None:
    """Delete a folder of unpacked archives, even without permissions for it."""
    from ocikit.layers.unpack import remove_tree  # noqa: PLC0415 - only archives need tar and decompression

    remove_tree(folder)


def describe_link(target: str) -> Descriptor:
    """Return the descriptor of a symlink. No file has its digest."""
    return Descriptor.of(b"symlink\0" + os.fsencode(target), SYMLINK)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield files, links and empty folders by relative path; make folders writable, so that files can be moved."""
    root.chmod(0o700)
    for base, folders, names in os.walk(root):
        path = Path(base)
        links = [name for name in folders if (path / name).is_symlink()]
        for name in folders:
            if name not in links:
                (path / name).chmod(0o700)
        relative = path.relative_to(root).as_posix()
        if path != root and not folders and not names:
            yield relative, path
        for name in sorted([*links, *names]):
            yield (path / name).relative_to(root).as_posix(), path / name
        folders.sort()
