"""Unpacking layers to disk. image-spec layer.md#applying-changesets.

Everything goes through descriptors of folders, opened one name at a time and never through a symlink, into a new folder
beside the target. One rename puts it in place; after a failure there is nothing at the target.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from attrs import frozen

from ocikit import display
from ocikit.errors import ContentError, OcikitError, UnsafeArchive
from ocikit.layers.layer import LayerLimits
from ocikit.layers.tar import EntryBody, TarEntry
from ocikit.layers.tree import Folder, Tree

# Windows has neither; there `os.open` has no folders by descriptor either, and unpacking says so.
_FOLDER: Final = (
    os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)

_SETID: Final = stat.S_ISUID | stat.S_ISGID
_IMPLIED: Final = 0o755  # the mode of folders that no entry describes
_OWNER_LIMIT: Final = 2**32 - 1  # the last id means "leave it" to chown

_KINDS: Final = {
    stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFIFO: "fifo",
}  # fmt: skip


@frozen(kw_only=True)
class SkippedEntry:
    """What of an entry was not unpacked."""

    path: str
    what: str
    """Such as "character device" or "setuid"."""


@frozen(kw_only=True, repr=False)
class Unpacked(display.Displayable):
    """What unpacking did."""

    path: Path
    """The folder; as given, links in it resolved."""
    files: int
    """Files written, those that later layers replaced too."""
    size: int
    """Bytes of these files, holes included."""
    left_out: tuple[SkippedEntry, ...] = ()
    """Devices, setuid bits and other things that weren't asked for."""

    def __rich_repr__(self) -> display.Description:
        yield "path", display.display_path(self.path)
        yield "files", self.files
        yield "size", display.Size(self.size)
        yield "left_out", len(self.left_out), 0

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "left_out")

    def _sections(self) -> Iterator[display.Section]:
        if self.left_out:
            rows = ((each.path, each.what) for each in self.left_out)
            yield display.Section(title="left out", headers=("path", "what"), rows=rows, count=len(self.left_out))


def unpack(
    layers: Iterable[tuple[BinaryIO, str]],
    target: str | os.PathLike[str],
    *,
    limits: LayerLimits | None = None,
    confined: bool = False,
    strip: str = "",
    overwrite: bool = False,
    owner: bool = False,
    special: bool = False,
    keep_setuid: bool = False,
    xattrs: bool = False,
) -> Unpacked:
    """Apply layers in order to a new folder.

    Args:
        layers: (stream, media type) each, lowest first; taken one by one, read to the end, not closed.
        target: the folder to make. It must not exist or be empty.
        limits: what the layers may cost together.
        confined: for folders of data, not file systems of containers: refuse symlinks that may lead out of the folder,
            paths that go through a link, and devices. Otherwise links may point anywhere, as in any root file system;
            they are never followed out of the target.
        strip: a folder that all names start with, left out: the title, for a folder packed by `pack` or by oras.
        overwrite: replace a folder that isn't empty, as a whole and only once all is unpacked.
        owner: give files their owner and group; needs root.
        special: make devices and FIFOs; devices need root. Otherwise they are left out, and named in the result.
        keep_setuid: keep the setuid and setgid bits.
        xattrs: set extended attributes, file capabilities among them.
    Raises:
        ContentError: if a layer is damaged, the target isn't empty, or the disk refuses.
        UnsafeArchive: if an entry would write outside the target, or a limit is exceeded. Nothing is kept.
    """
    if os.open not in os.supports_dir_fd:
        raise OcikitError(
            "unpacking needs a system that opens files relative to folders",
            hint="on Windows, use the Windows Subsystem for Linux",
        )
    final = Path(os.path.realpath(target))
    _check_target(final, overwrite=overwrite)
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{final.name[:40]}.", suffix=".unpacking", dir=final.parent))
    tree = None
    try:
        tree = _Disk(
            scratch, limits=limits or LayerLimits(), confined=confined, strip=strip,
            owner=owner, special=special, keep_setuid=keep_setuid, xattrs=xattrs,
        )  # fmt: skip
        for stream, media_type in layers:
            tree.apply(stream, media_type)
        tree.finish()
        _put_in_place(scratch, final, overwrite=overwrite)
    except BaseException:
        discard(scratch)
        raise
    finally:
        if tree is not None:
            tree.close()
    return Unpacked(path=final, files=tree.files, size=tree.size, left_out=tuple(tree.left_out))


def _check_target(target: Path, *, overwrite: bool) -> None:
    try:
        with os.scandir(target) as found:
            empty = next(found, None) is None
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
        scratch.rename(target)  # over nothing, or over an empty folder: one step
        return
    except OSError as error:
        if not overwrite or error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise ContentError(
                f"could not rename the unpacked folder to {str(target)!r}: {error.strerror}",
                hint="something else was put there meanwhile; choose another folder",
            ) from error
    old = Path(tempfile.mkdtemp(prefix=f".{target.name[:40]}.", suffix=".old", dir=target.parent))
    target.rename(old)
    try:
        scratch.rename(target)
    except BaseException:
        old.rename(target)
        raise
    discard(old)


def discard(folder: Path) -> None:
    """Remove a folder of ours, whatever the modes in it."""
    for above, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(above, name)  # names may be any bytes
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(folder, ignore_errors=True)


class _Disk(Tree):
    """A tree of files below a folder that is ours alone until it is finished."""

    def __init__(
        self, path: Path, *, limits: LayerLimits, confined: bool, strip: str,
        owner: bool, special: bool, keep_setuid: bool, xattrs: bool,
    ) -> None:  # fmt: skip
        super().__init__(limits=limits, confined=confined, strip=strip)
        self._owner, self._special, self._keep_setuid, self._xattrs = owner, special, keep_setuid, xattrs
        self.files = 0
        self.size = 0
        self.left_out: list[SkippedEntry] = []
        self._absent: set[str] = set()
        # The way from the root to the folder last used: archives go depth first, so most of it is used again.
        self._way = [self.root]
        self._fds = [os.open(path, _FOLDER)]

    def close(self) -> None:
        """Close the folders."""
        while self._fds:
            os.close(self._fds.pop())

    def add(self, entry: TarEntry, body: EntryBody) -> None:
        try:
            super().add(entry, body)
        except OcikitError:
            raise
        except OSError as error:
            raise _disk_says(entry.path, error) from error

    def finish(self) -> None:
        """Give folders their modes and times, which writing into them would have changed; the deepest first."""
        self._finish(self.root)

    def _finish(self, folder: Folder) -> None:
        for child in folder.folders.values():
            self._finish(child)
        fd, entry = self._fd(folder), folder.entry
        try:
            if entry is None:
                os.fchmod(fd, _IMPLIED)
            else:
                self._dress(fd, entry)
        except OSError as error:
            raise _disk_says(folder.path(), error) from error

    def _fd(self, folder: Folder) -> int:
        """A descriptor of the folder; it stays open until the next call."""
        if folder is self._way[-1]:
            return self._fds[-1]
        way = folder.chain
        same = 0
        while same < min(len(way), len(self._way)) and way[same] is self._way[same]:
            same += 1
        while len(self._fds) > same:
            os.close(self._fds.pop())
            self._way.pop()
        for step in way[same:]:
            self._fds.append(os.open(step.name, _FOLDER, dir_fd=self._fds[-1]))
            self._way.append(step)
        return self._fds[-1]

    def kind(self, folder: Folder, name: str) -> str | None:
        try:
            found = os.stat(name, dir_fd=self._fd(folder), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return _KINDS.get(stat.S_IFMT(found.st_mode), "special file")

    def readlink(self, folder: Folder, name: str) -> str:
        return os.readlink(name, dir_fd=self._fd(folder))

    def names(self, folder: Folder) -> list[str]:
        with os.scandir(self._fd(folder)) as found:
            return [item.name for item in found]

    def mkdir(self, folder: Folder, name: str) -> None:
        os.mkdir(name, 0o700, dir_fd=self._fd(folder))

    def remove(self, folder: Folder, name: str, *, is_folder: bool) -> None:
        if is_folder:
            shutil.rmtree(name, dir_fd=self._fd(folder))
        else:
            os.unlink(name, dir_fd=self._fd(folder))

    def put(self, folder: Folder, name: str, entry: TarEntry, body: EntryBody) -> None:
        fd = self._fd(folder)
        if self._absent:
            self._absent.discard(folder.path(name))
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
            raise self._refused(entry, f"is a {entry.type}, which a folder of data has no use for")
        else:
            self._absent.add(folder.path(name))
            self.skip(entry, entry.type)

    def _write(self, folder: int, name: str, entry: TarEntry, body: EntryBody) -> None:
        fd = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
        try:
            for offset, length in body.segments:
                if offset:
                    os.lseek(fd, offset, os.SEEK_SET)
                left = length
                while left:
                    piece = body.read(left)
                    left -= len(piece)
                    while piece:
                        piece = piece[os.write(fd, piece) :]
            if body.segments != ((0, entry.size),):
                os.ftruncate(fd, entry.size)  # a hole at the end
            self._dress(fd, entry)
        finally:
            os.close(fd)
        self.files += 1
        self.size += entry.size

    def _dress(self, fd: int, entry: TarEntry) -> None:
        """Owner, then mode (chown clears setuid), attributes, and time last: all on the open file."""
        if self._owner:
            os.fchown(fd, *_ids(entry))
        mode = entry.mode
        if mode & _SETID and not self._keep_setuid:
            self.skip(
                entry, " and ".join(n for n, bit in (("setuid", stat.S_ISUID), ("setgid", stat.S_ISGID)) if mode & bit)
            )
            mode &= ~_SETID
        os.fchmod(fd, mode)
        if self._xattrs:
            for key, value in entry.xattrs.items():
                try:
                    os.setxattr(fd, key, value)
                except OSError as error:
                    if error.errno not in {errno.ENOTSUP, errno.EPERM}:
                        raise
                    self.skip(entry, f"extended attribute {key}")
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _make_special(self, folder: int, name: str, entry: TarEntry) -> None:
        kind = {"character device": stat.S_IFCHR, "block device": stat.S_IFBLK, "fifo": stat.S_IFIFO}[entry.type]
        try:
            device = os.makedev(*(entry.device or (0, 0)))
        except (OverflowError, ValueError) as error:
            raise UnsafeArchive(f"{entry.path!r} is device {entry.device}", hint="such devices don't exist") from error
        os.mknod(name, kind | 0o600, device, dir_fd=folder)
        if self._owner:
            os.chown(name, *_ids(entry), dir_fd=folder, follow_symlinks=False)
        # The name is new and the folder ours alone: nothing can have put a link there, and chmod can't be told not to follow.
        os.chmod(name, entry.mode if self._keep_setuid else entry.mode & ~_SETID, dir_fd=folder)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)

    def link(self, folder: Folder, name: str, source: Folder, source_name: str, entry: TarEntry) -> None:
        held = os.dup(self._fd(source))
        try:
            os.link(source_name, name, src_dir_fd=held, dst_dir_fd=self._fd(folder), follow_symlinks=False)
        finally:
            os.close(held)

    def skip(self, entry: TarEntry, why: str) -> None:
        self.left_out.append(SkippedEntry(path=entry.clean_path, what=why))

    def skipped(self, path: str) -> bool:
        return path in self._absent


def _ids(entry: TarEntry) -> tuple[int, int]:
    if not (0 <= entry.uid < _OWNER_LIMIT and 0 <= entry.gid < _OWNER_LIMIT):
        raise UnsafeArchive(f"{entry.path!r} belongs to {entry.uid}:{entry.gid}", hint="such owners don't exist")
    return entry.uid, entry.gid


def _disk_says(path: str, error: OSError) -> ContentError:
    hints = {
        errno.ENOSPC: "free some space, or unpack on another disk",
        errno.EDQUOT: "your quota is used up; unpack on another disk",
        errno.EPERM: "owners and devices need root; leave out owner= and special=",
        errno.EMLINK: "the file system doesn't allow so many hard links; unpack on another",
    }
    return ContentError(
        f"could not unpack {path!r}: {error.strerror or error}",
        hint=hints.get(error.errno or 0, "nothing was kept; check the file system that you unpack to"),
    )
