"""Files below a folder that others may write to, opened one name at a time.

Each write below the folder goes through the descriptor of its parent, which was opened without following symlinks. A
folder that another user replaces by a link while a pull runs (TOCTOU) therefore leads nowhere. A link that was in the
folder before is followed if its target is inside: the target is opened one name at a time, too.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from attrs import define, field, frozen

from ocikit.errors import ContentError, UnsafeArchive
from ocikit.folder.plan import Status, to_status
from ocikit.layers.openat import HAS_DIR_FD, NEW_FILE, OPEN_FOLDER, READ_FILE
from ocikit.spec.titles import OWN_FOLDER
from ocikit.store.parts import Part, PartFolder


@frozen
class Place:
    """The place of a file: a name in an open folder."""

    name: str
    folder: Path
    """The path of the parent folder."""
    fd: int | None
    """The parent folder, valid within the block that yields the place."""
    blocker: str = ""
    """Path of a parent that is not a folder."""
    exists: bool = True
    """Whether the parent folder exists."""

    @property
    def path(self) -> Path:
        """The path, for messages, and for platforms without descriptors of folders."""
        return self.folder / self.name

    @property
    def at(self) -> str:
        """The path for system calls with `dir_fd=fd`."""
        return self.name if self.fd is not None else str(self.path)

    def stat(self) -> os.stat_result | None:
        """Return the status of what is there, or None. Links are not followed."""
        if not self.exists:
            return None
        try:
            return os.stat(self.at, dir_fd=self.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def status(self) -> Status | None:
        """Return the status that plans compare, or None."""
        result = self.stat()
        return None if result is None else to_status(result)

    def open(self) -> io.FileIO:
        """Open a regular file for reading.

        Raises:
            OSError: It does not exist, or is a link or another kind of file.
        """
        fd = os.open(self.at, READ_FILE, dir_fd=self.fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise OSError(f"{self.path} is not a regular file")
        return io.FileIO(fd, "rb")

    def unlink(self) -> None:
        """Delete the file or link."""
        os.unlink(self.at, dir_fd=self.fd)

    def remove_empty_folders(self) -> None:
        """Delete the folder that is there, with its subfolders.

        Raises:
            OSError: There is a file or a link in it.
        """
        if HAS_DIR_FD:
            for _, folders, _, inner in os.fwalk(self.at, topdown=False, dir_fd=self.fd):
                for name in folders:
                    os.rmdir(name, dir_fd=inner)
        else:
            for folder, _, _ in os.walk(self.path, topdown=False):
                if folder != str(self.path):
                    os.rmdir(folder)
        os.rmdir(self.at, dir_fd=self.fd)


@define(eq=False)
class OpenFolder:
    """A folder whose files are written through descriptors.

    Args:
        path: The folder.
    """

    path: Path
    root: Path = field(init=False)
    """The folder with symlinks resolved."""
    own: int | None = field(default=None, init=False)
    """Descriptor of `.ocikit`; None on platforms without descriptors of folders."""
    parts: PartFolder = field(init=False)
    """Unfinished transfers."""
    _fd: int | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Create the folder and `.ocikit` where they are absent, and open them.

        Raises:
            ContentError: A folder cannot be created.
            UnsafeArchive: `.ocikit` or a folder in it is a symlink.
        """
        own = self.path / OWN_FOLDER
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.root = self.path.resolve()
            if not HAS_DIR_FD:
                (own / "partial").mkdir(parents=True, exist_ok=True)
                self.parts = PartFolder(own / "partial")
                return
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.own = _open_own(self._fd, OWN_FOLDER, own)
            self.parts = PartFolder(own / "partial", _open_own(self.own, "partial", own / "partial"))
        except OSError as error:
            self.close()
            raise ContentError(
                f"creating {own} failed: {error.strerror}", hint="check the folder's permissions"
            ) from error

    def close(self) -> None:
        """Close the descriptors."""
        parts = getattr(self, "parts", None)
        fds = (self._fd, self.own, parts.fd if parts is not None else None)
        self._fd = self.own = None
        for fd in fds:
            if fd is not None:
                os.close(fd)
        if parts is not None:
            self.parts = PartFolder(parts.path)

    def __del__(self) -> None:  # a pull that failed
        self.close()

    @contextlib.contextmanager
    def place(
        self,
        title: str,
        *,
        removable: frozenset[str] | None = None,
        changed: Callable[[Path], object] | None = None,
    ) -> Iterator[Place]:
        """Yield the place of a title.

        Args:
            title: Path in the folder, with "/".
            removable: Paths of files that a folder may replace. With None, nothing is created or deleted.
            changed: Called with each folder that gets a new folder.

        Raises:
            UnsafeArchive: A symlink leads out of the folder or into `.ocikit` (path traversal).
        """
        *folders, name = (part for part in title.split("/") if part not in {"", "."})
        current, fd = self.root, self._duplicate()
        try:
            for i, folder in enumerate(folders):
                outer, parent = Place(folder, current, fd), "/".join(folders[: i + 1])
                found = outer.stat()
                if found is not None and stat.S_ISLNK(found.st_mode):
                    target = check_inside(self.root, outer.path, title)
                    if target.is_dir():
                        opened = self._open_below(target.relative_to(self.root).parts)
                        _close(fd)
                        current, fd = target, opened
                        continue
                if found is not None and not stat.S_ISDIR(found.st_mode):
                    if removable is None or parent not in removable:
                        yield Place(name, current.joinpath(*folders[i:]), None, blocker=parent)
                        return
                    with contextlib.suppress(FileNotFoundError):
                        outer.unlink()
                    found = None
                if found is None:
                    if removable is None:
                        yield Place(name, current.joinpath(*folders[i:]), None, exists=False)
                        return
                    with contextlib.suppress(FileExistsError):  # another thread created it
                        os.mkdir(outer.at, dir_fd=fd)
                    if changed is not None:
                        changed(current)
                opened = _open_folder(outer, title)
                _close(fd)
                current, fd = outer.path, opened
            yield Place(name, current, fd)
        finally:
            _close(fd)

    def create(self, name: str) -> Part:
        """Return a new file among the parts, such as a clone."""
        fd = os.open(self.parts.at(name), NEW_FILE, 0o666, dir_fd=self.parts.fd)
        return Part(self.parts, name, io.FileIO(fd, "rb+"), locked=False)

    def _duplicate(self) -> int | None:
        return None if self._fd is None else os.dup(self._fd)

    def _open_below(self, names: tuple[str, ...]) -> int | None:
        """Open a folder from the root, one name at a time."""
        fd, path = self._duplicate(), self.root
        for name in names:
            try:
                opened = _open_folder(Place(name, path, fd), "/".join(names))
            finally:
                _close(fd)
            fd, path = opened, path / name
        return fd


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _open_folder(place: Place, title: str) -> int | None:
    """Open a folder; reject a link."""
    if place.fd is None:
        return None
    try:
        return os.open(place.at, OPEN_FOLDER, dir_fd=place.fd)
    except OSError as error:
        raise _replaced(title, place.path) from error


def _replaced(title: str, path: Path) -> UnsafeArchive:
    return UnsafeArchive(
        f"{title!r} cannot be written: {path} was replaced during the pull",
        hint="another program changes the folder; end it, or pull to another folder",
    )


def _open_own(fd: int, name: str, path: Path) -> int:
    """Create and open a folder that must not be a link."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, dir_fd=fd)
    try:
        return os.open(name, OPEN_FOLDER, dir_fd=fd)
    except OSError as error:
        if not stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise
        raise UnsafeArchive(
            f"{path} is a link", hint="delete the link: ocikit stores its record in this folder"
        ) from error


def check_inside(root: Path, link: Path, title: str) -> Path:
    """Return the target of a link if the folder may be written through it.

    Raises:
        UnsafeArchive: The target is outside, or in `.ocikit`, or another program replaces the link meanwhile (TOCTOU).
    """
    try:
        target = link.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise _replaced(title, link) from error
    inside = target.relative_to(root).parts if target.is_relative_to(root) else ("..",)
    if inside and inside[0].casefold() in {"..", OWN_FOLDER}:
        raise UnsafeArchive(
            f"{title!r} would be written through a link to {target}",
            hint="replace the link with a folder, or pull to another folder",
        )
    return target
