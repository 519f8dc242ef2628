"""Unpacking of layers to disk. image-spec layer.md#applying-changesets.

To prevent path traversal and TOCTOU attacks, every path is opened one name at a time, relative to the descriptor of its
folder and never through a symlink. Layers are unpacked into a new folder next to the target, which one rename puts in
place. A failure leaves nothing at the target.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from ocikit import display
from ocikit.errors import ContentError, OcikitError, UnsafeArchive
from ocikit.layers.layer import LayerLimits
from ocikit.layers.openat import HAS_DIR_FD, NEW_FILE, OPEN_FOLDER
from ocikit.layers.tar import EntryBody, Readable, TarEntry
from ocikit.layers.tree import Folder, Tree
from ocikit.spec.digest import Digest

_SETID: Final = stat.S_ISUID | stat.S_ISGID
_DEFAULT_FOLDER_MODE: Final = 0o755  # for folders without an entry
_OWNER_LIMIT: Final = 2**32 - 1  # chown interprets this id as "unchanged"

_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
}


@frozen(kw_only=True)
class SkippedEntry:
    """An entry, or a part of it, that was not unpacked."""

    path: str
    reason: str
    """Such as "character device" or "setuid"."""


@frozen(kw_only=True, repr=False)
class Unpacked(display.Displayable):
    """The result of `unpack`.

    >>> from pathlib import Path
    >>> ocikit.Unpacked(path=Path("folder"), files=3, size=1200)
    Unpacked(path='folder', files=3, size=1.2 kB)
    """

    path: Path
    """The folder, with symlinks resolved."""
    files: int
    """Files written, including those that later layers replaced."""
    size: int
    """Bytes of these files, including holes."""
    skipped: tuple[SkippedEntry, ...] = ()
    """Devices, setuid bits and attributes that the options exclude."""

    def __rich_repr__(self) -> display.Description:
        yield "path", display.display_path(self.path)
        yield "files", self.files
        yield "size", display.Size(self.size)
        yield "skipped", len(self.skipped), 0

    def _card_title(self) -> object:
        return display.Name.of_path(display.display_path(self.path))

    def _card_notes(self) -> Iterator[object]:
        yield display.pluralize(self.files, "file")
        yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        return iter(())

    def _sections(self) -> Iterator[display.Section]:
        if self.skipped:
            rows = ((entry.path, entry.reason) for entry in self.skipped)
            yield display.Section(title="skipped", headers=("path", "reason"), rows=rows, count=len(self.skipped))


def unpack(
    layers: Iterable[tuple[Readable, str]],
    target: str | os.PathLike[str],
    *,
    diff_ids: Sequence[Digest | None] | None = None,
    limits: LayerLimits | None = None,
    confined: bool = False,
    strip: str = "",
    skip_others: bool = False,
    overwrite: bool = False,
    owner: bool = False,
    special: bool = False,
    keep_setuid: bool = False,
    xattrs: bool = False,
) -> Unpacked:
    """Apply layers in order to a new folder.

    Args:
        layers: (stream, media type) pairs, lowest first; each stream is read to its end and not closed.
        target: The folder to make. It must not exist or be empty.
        diff_ids: The digests of the uncompressed layers, from the image's config; None does not check them.
        limits: The limits for all layers together.
        confined: For data folders, as opposed to root file systems of containers. Reject absolute paths, symlinks that
            may lead out of the folder, paths through links, and devices. Without it paths and links are resolved like
            after a chroot: they may point anywhere, but are never followed out of the target.
        strip: A folder that all paths start with, to be removed from them: the title of a folder packed by `pack` or
            oras.
        skip_others: Unpack only what is below `strip`.
        overwrite: Replace a folder that is not empty, as a whole and only after everything is unpacked.
        owner: Set the owner and group of files; needs root.
        special: Make devices and FIFOs; devices need root. Without it they are skipped and listed in the result.
        keep_setuid: Keep the setuid and setgid bits.
        xattrs: Set extended attributes, including file capabilities.

    Returns:
        The folder, with the numbers of files and bytes and what was skipped.

    Raises:
        ContentError: A layer is damaged or not the one of its diff_id, the target is not empty, or the disk is full or not writable.
        UnsafeArchive: An entry would write outside the target, or a limit is exceeded; nothing is unpacked.
        OcikitError: The operating system is not supported.

    >>> import io, tarfile
    >>> from ocikit.layers.unpack import unpack
    >>> archive = io.BytesIO()
    >>> with tarfile.open(fileobj=archive, mode="w") as tar:
    ...     tar.addfile(tarfile.TarInfo("empty.txt"))
    >>> layer = (io.BytesIO(archive.getvalue()), "application/vnd.oci.image.layer.v1.tar")
    >>> unpack([layer], "folder").files
    1
    """
    if not HAS_DIR_FD:
        raise OcikitError(
            "unpacking needs a system that opens files relative to folders",
            hint="on Windows, use the Windows Subsystem for Linux, or pull archives as files with archive=False",
        )
    final = Path(os.path.realpath(os.path.expanduser(target)))
    _check_target(final, overwrite=overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name[:40]}.", suffix=".unpacking", dir=final.parent))
    tree = None
    try:
        tree = _DiskTree(
            scratch,
            limits=limits or LayerLimits(),
            confined=confined,
            strip=strip,
            skip_others=skip_others,
            owner=owner,
            special=special,
            keep_setuid=keep_setuid,
            xattrs=xattrs,
        )
        tree.apply(layers, diff_ids)
        if skip_others and tree.root.entry is None and not tree.files and not tree.root.folders:
            raise ContentError(
                f"there is no folder {strip!r} in the image", hint="list its content with artifact.tree()"
            )
        tree.finish()
        _put_in_place(scratch, final, overwrite=overwrite)
    except BaseException:
        remove_tree(scratch)
        raise
    finally:
        if tree is not None:
            tree.close()
    return Unpacked(path=final, files=tree.files, size=tree.size, skipped=tuple(tree.skipped))


def _check_target(target: Path, *, overwrite: bool) -> None:
    try:
        with os.scandir(target) as listing:
            empty = next(listing, None) is None
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise ContentError(f"{str(target)!r} is not a folder", hint="choose another name") from error
    if not empty and not overwrite:
        raise ContentError(
            f"{str(target)!r} is not empty", hint="choose another folder, or pass overwrite=True to replace this one"
        )


def _put_in_place(scratch: Path, target: Path, *, overwrite: bool) -> None:
    try:
        scratch.rename(target)  # atomic if the target is missing or empty
        return
    except OSError as error:
        if not overwrite or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise ContentError(
                f"cannot rename the unpacked folder to {str(target)!r}: {error.strerror}",
                hint="the target was created by another process; choose another folder",
            ) from error
    old = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".old", dir=target.parent))
    target.rename(old)
    try:
        scratch.rename(target)
    except BaseException:
        old.rename(target)
        raise
    remove_tree(old)


def remove_tree(folder: Path) -> None:
    """Remove a folder with its content, even without permissions for it."""
    for parent, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)  # names may be any bytes
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


class _DiskTree(Tree):
    """A tree of files in a private folder."""

    def __init__(
        self,
        path: Path,
        *,
        limits: LayerLimits,
        confined: bool,
        strip: str,
        skip_others: bool,
        owner: bool,
        special: bool,
        keep_setuid: bool,
        xattrs: bool,
    ) -> None:
        super().__init__(limits=limits, confined=confined, strip=strip, skip_others=skip_others)
        self._owner, self._special, self._keep_setuid, self._xattrs = owner, special, keep_setuid, xattrs
        self.files = 0
        self.size = 0
        self.skipped: list[SkippedEntry] = []
        self._skipped_paths: set[str] = set()
        # The folders from the root to the last one used: archives are depth first, so most of them are used again
        self._open_folders = [self.root]
        self._fds = [os.open(path, OPEN_FOLDER)]

    def close(self) -> None:
        """Close the open folders."""
        while self._fds:
            os.close(self._fds.pop())

    def add(self, entry: TarEntry, body: EntryBody) -> None:
        try:
            super().add(entry, body)
        except OcikitError:
            raise
        except OSError as error:
            raise _disk_error(entry.path, error) from error

    def finish(self) -> None:
        """Set modes and times of folders last, deepest first: writes change them."""
        self._finish(self.root)

    def _finish(self, folder: Folder) -> None:
        for child in folder.folders.values():
            self._finish(child)
        fd, entry = self._fd(folder), folder.entry
        try:
            if entry is None:
                os.fchmod(fd, _DEFAULT_FOLDER_MODE)
            else:
                self._apply_metadata(fd, entry)
        except OSError as error:
            raise _disk_error(folder.path(), error) from error

    def _fd(self, folder: Folder) -> int:
        """Return a descriptor of the folder, valid until the next call."""
        if folder is self._open_folders[-1]:
            return self._fds[-1]
        chain = folder.chain
        common = 0
        while common < min(len(chain), len(self._open_folders)) and chain[common] is self._open_folders[common]:
            common += 1
        while len(self._fds) > common:
            os.close(self._fds.pop())
            self._open_folders.pop()
        for child in chain[common:]:
            self._fds.append(os.open(child.name, OPEN_FOLDER, dir_fd=self._fds[-1]))
            self._open_folders.append(child)
        return self._fds[-1]

    def kind(self, folder: Folder, name: str) -> str | None:
        try:
            status = os.stat(name, dir_fd=self._fd(folder), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _KINDS.get(stat.S_IFMT(status.st_mode), "special file")

    def readlink(self, folder: Folder, name: str) -> str:
        return os.readlink(name, dir_fd=self._fd(folder))

    def names(self, folder: Folder) -> list[str]:
        with os.scandir(self._fd(folder)) as listing:
            return [item.name for item in listing]

    def mkdir(self, folder: Folder, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=self._fd(folder))

    def remove(self, folder: Folder, name: str, *, is_folder: bool) -> None:
        if is_folder:
            shutil.rmtree(name, dir_fd=self._fd(folder))
        else:
            os.unlink(name, dir_fd=self._fd(folder))

    def put(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
        fd = self._fd(folder)
        if self._skipped_paths:
            self._skipped_paths.discard(folder.path(name))
        if entry.type == "file":
            self._write(fd, name, entry, body)
        elif entry.type == "symlink":
            os.symlink(entry.target or "", name, dir_fd=fd)
            if self._owner:
                os.chown(name, *_ids(entry), dir_fd=fd, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=fd, follow_symlinks=False)
        elif self._special:
            self._make_special(fd, name, entry)
        elif self._confined:
            raise self._unsafe(entry, f"is a {entry.type}, which is not allowed in a data folder")
        else:
            self._skipped_paths.add(folder.path(name))
            self.note_skipped(entry, entry.type)

    def _write(self, folder: int, name: str, entry: TarEntry, body: EntryBody) -> None:
        fd = os.open(name, NEW_FILE, 0o600, dir_fd=folder)
        try:
            for offset, length in body.segments:
                if offset:
                    os.lseek(fd, offset, os.SEEK_SET)
                left = length
                while left:
                    data = body.read(left)
                    left -= len(data)
                    while data:
                        data = data[os.write(fd, data) :]
            if body.segments != ((0, entry.size),):
                os.ftruncate(fd, entry.size)  # a hole at the end
            self._apply_metadata(fd, entry)
        finally:
            os.close(fd)
        self.files += 1
        self.size += entry.size

    def _apply_metadata(self, fd: int, entry: TarEntry) -> None:
        """Set owner, mode, attributes and time, in this order: chown clears setuid."""
        if self._owner:
            os.fchown(fd, *_ids(entry))
        mode = entry.mode
        if mode & _SETID and not self._keep_setuid:
            bits = (("setuid", stat.S_ISUID), ("setgid", stat.S_ISGID))
            self.note_skipped(entry, " and ".join(name for name, bit in bits if mode & bit))
            mode &= ~_SETID
        os.fchmod(fd, mode)
        if self._xattrs:
            for key, value in entry.xattrs.items():
                try:
                    os.setxattr(fd, key, value)
                except OSError as error:
                    if error.errno not in {errno.ENOTSUP, errno.EPERM}:
                        raise
                    self.note_skipped(entry, f"extended attribute {key}")
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _make_special(self, folder: int, name: str, entry: TarEntry) -> None:
        kind = {"character device": stat.S_IFCHR, "block device": stat.S_IFBLK, "fifo": stat.S_IFIFO}[entry.type]
        try:
            device = os.makedev(*(entry.device or (0, 0)))
        except (OverflowError, ValueError) as error:
            raise UnsafeArchive(f"{entry.path!r} is device {entry.device}", hint="there are no such devices") from error
        os.mknod(name, kind | 0o600, device, dir_fd=folder)
        if self._owner:
            os.chown(name, *_ids(entry), dir_fd=folder, follow_symlinks=False)
        # chmod would follow a symlink. It cannot be one (TOCTOU): the name is new and the folder private.
        os.chmod(name, entry.mode if self._keep_setuid else entry.mode & ~_SETID, dir_fd=folder)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def link(self, folder: Folder, name: str, source: Folder, source_name: str, entry: TarEntry) -> None:
        source_fd = os.dup(self._fd(source))
        try:
            os.link(source_name, name, src_dir_fd=source_fd, dst_dir_fd=self._fd(folder), follow_symlinks=False)
        finally:
            os.close(source_fd)

    def note_skipped(self, entry: TarEntry, reason: str) -> None:
        self.skipped.append(SkippedEntry(path=entry.clean_path, reason=reason))

    def was_skipped(self, path: str) -> bool:
        return path in self._skipped_paths


def _ids(entry: TarEntry) -> tuple[int, int]:
    if not (0 <= entry.uid < _OWNER_LIMIT and 0 <= entry.gid < _OWNER_LIMIT):
        raise UnsafeArchive(f"{entry.path!r} belongs to {entry.uid}:{entry.gid}", hint="there are no such owners")
    return entry.uid, entry.gid


def _disk_error(path: str, error: OSError) -> ContentError:
    hints = {
        errno.ENOSPC: "free some space, or unpack on another disk",
        errno.EDQUOT: "your quota is used up; unpack on another disk",
        errno.EPERM: "owners and devices need root; omit owner= and special=",
        errno.EMLINK: "the file system does not allow so many hard links; unpack on another",
    }
    return ContentError(
        f"cannot unpack {path!r}: {error.strerror or error}",
        hint=hints.get(error.errno or 0, "nothing was unpacked; check the file system of the target"),
    )
