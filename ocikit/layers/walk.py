"""Files and folders to push, and their titles."""

from __future__ import annotations

import errno
import glob
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import ContentError, NotFound
from ocikit.layers.ignore import IGNORE_FILE, IgnoreFile, is_left_out, looks_secret
from ocikit.layers.layer import escapes
from ocikit.spec.titles import OWN_FOLDER, Links, excludes_folder, is_selected

_NAMES = 1000  # entries of a folder that are compared with a name that is not there
_NEAREST = 3  # similar names in the hint

_KINDS = {
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
}


@frozen(kw_only=True)
class FoundFile:
    """A file, folder or symlink with its title."""

    title: str
    path: Path
    info: os.stat_result
    target: str | None = None
    """The target of a symlink that is packed as a symlink."""

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder."""
        return self.target is None and stat.S_ISDIR(self.info.st_mode)


def title_of(path: str | os.PathLike[str]) -> str:
    """Return the prefix of the titles for a path; empty for the current folder, and for a path that ends with "/.".

    A relative path is its own title. The title of an absolute path, or of one with "..", is its last name.

    >>> title_of("./data/a.csv"), title_of("/srv/data"), title_of("."), title_of("data/.")
    ('data/a.csv', 'data', '', '')
    """
    if os.path.basename(os.fspath(path).rstrip("/" + os.sep)) == os.curdir:
        return ""  # Path() removes the dot
    path = Path(path)
    if path.is_absolute() or ".." in path.parts:
        return Path(os.path.abspath(path)).name  # resolve() would return the name of a link's target
    return "/".join(path.parts)


@define(eq=False)
class FileWalker:
    """Options of walks over the files of paths, and what the walks have left out.

    Args:
        include: Glob patterns of titles; all if empty.
        exclude: Glob patterns of titles to skip. A folder is not entered if a pattern excludes all of it.
        links: How to handle symlinks; see `pack`.
        hidden: Whether to yield what is left out by default, and what `.ocikitignore` files ignore.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    links: Links = "inside"
    hidden: bool = False
    left_out: list[str] = field(factory=list, init=False)
    """Titles that were left out by default; those of folders end with "/"."""
    secrets: list[str] = field(factory=list, init=False)
    """Titles of yielded files that look like secrets."""

    def walk(self, path: str | os.PathLike[str], title: str, *, keep_links: bool = False) -> Iterator[FoundFile]:
        """Yield the file, or the content of the folder in the order of titles.

        Args:
            path: A file or folder; a symlink is followed, wherever its target is.
            title: The title of the file, or the prefix of the titles.
            keep_links: Whether symlinks that stay inside the folder stay symlinks.

        Raises:
            NotFound: There is no such path.
            ContentError: A folder cannot be read, a link cannot be followed, or a path is a special file.
        """
        path = Path(path)
        try:
            info = path.stat()
        except PermissionError as error:
            raise unreadable(path, "", error) from error
        except (OSError, ValueError) as error:  # ValueError: a null character
            problem = error.strerror if isinstance(error, OSError) else error
            raise NotFound(f"cannot read {str(path)!r}: {problem}", hint=_advice(path)) from error
        if stat.S_ISDIR(info.st_mode):
            root = os.path.realpath(path)
            yield from self._walk_folder(path, title, (root,), (), keep_links=keep_links)
        elif is_selected(title, self.include, self.exclude):
            yield self._file(path, title, info)

    def _walk_folder(
        self,
        folder: Path,
        title: str,
        parents: tuple[str, ...],
        ignore_files: tuple[IgnoreFile, ...],
        *,
        keep_links: bool,
    ) -> Iterator[FoundFile]:
        """Yield the content of a folder.

        `parents` are the real paths of the folders from the root to this one.
        """
        try:
            with os.scandir(folder) as listing:
                items = sorted(listing, key=lambda item: item.name)
            if not self.hidden and any(item.name == IGNORE_FILE for item in items):
                ignore_files = (*ignore_files, IgnoreFile.read(folder / IGNORE_FILE, title))
            for item in items:
                name, path = f"{title}/{item.name}" if title else item.name, Path(item.path)
                if item.name.casefold() == OWN_FOLDER:
                    continue  # ocikit's records in pulled folders
                info = item.stat(follow_symlinks=False)
                if self._is_left_out(name, item.name, ignore_files, is_folder=stat.S_ISDIR(info.st_mode)):
                    continue
                if stat.S_ISLNK(info.st_mode):
                    if self.links == "skip" or not is_selected(name, (), self.exclude):
                        continue
                    if keep_links and self.links == "inside":
                        if is_selected(name, self.include):
                            yield self._link(path, name, info, len(parents) - 1)
                        continue
                    if excludes_folder(name, self.exclude) and path.is_dir():
                        continue
                    info = self._follow(path, parents)
                if stat.S_ISDIR(info.st_mode):
                    if excludes_folder(name, self.exclude):
                        continue
                    yield FoundFile(title=name, path=path, info=info)
                    below = (*parents, os.path.realpath(path))
                    yield from self._walk_folder(path, name, below, ignore_files, keep_links=keep_links)
                elif is_selected(name, self.include, self.exclude):
                    yield self._file(path, name, info)
        except OSError as error:
            raise unreadable(folder, title, error, is_folder=True) from error

    def _is_left_out(self, title: str, name: str, ignore_files: Sequence[IgnoreFile], *, is_folder: bool) -> bool:
        """Return True for titles that are left out by default, or by the nearest ignore file with a pattern for them."""
        if self.hidden:
            return False
        for ignore_file in reversed(ignore_files):
            ignored = ignore_file.ignores(title, is_folder=is_folder)
            if ignored is not None:
                return ignored
        if not is_left_out(name):
            return name == IGNORE_FILE
        shown = f"{title}/" if is_folder else title
        if is_selected(shown, self.include, self.exclude):
            self.left_out.append(shown)
        return True

    def _file(self, path: Path, title: str, info: os.stat_result) -> FoundFile:
        if not stat.S_ISREG(info.st_mode):
            kind = _KINDS.get(stat.S_IFMT(info.st_mode), "special file")
            raise ContentError(f"{str(path)!r} is a {kind}, which cannot be pushed", hint="skip it with exclude=")
        if looks_secret(path):
            self.secrets.append(title)
        return FoundFile(title=title, path=path, info=info)

    def _link(self, path: Path, title: str, info: os.stat_result, depth: int) -> FoundFile:
        target = os.readlink(path)
        if escapes(depth, target):
            raise _outside(path, target)
        return FoundFile(title=title, path=path, info=info, target=target)

    def _follow(self, path: Path, parents: tuple[str, ...]) -> os.stat_result:
        """Return the status of a link's target.

        Raises:
            ContentError: The link is broken, leads in a circle, or leads out of the root.
        """
        try:
            real = os.path.realpath(path, strict=True)
            info = os.stat(real)
        except OSError as error:
            problem = "leads in a circle" if error.errno == errno.ELOOP else f"is broken: {error.strerror}"
            raise ContentError(
                f"the link {str(path)!r} {problem}", hint='fix it, or skip links with links="skip"'
            ) from error
        if real in parents:
            raise ContentError(
                f"the link {str(path)!r} leads in a circle, to one of its own parent folders",
                hint='skip links with links="skip", or this one with exclude=',
            )
        if self.links == "inside" and os.path.commonpath([real, parents[0]]) != parents[0]:
            raise _outside(path, real)
        return info


def _advice(path: Path) -> str:
    """Return the next step for a path that does not exist: patterns, near names, or where relative paths start."""
    if set(path.name) & set("*?["):
        return f'patterns are for include=: push(ref, "{display.sanitize(path.parent)}", include="{display.sanitize(path.name)}")'
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in itertools.islice(entries, _NAMES)]
    except (OSError, ValueError):
        return _start_of_relative_paths()
    near = display.nearest(path.name, names, _NEAREST)
    start = _start_of_relative_paths()
    return f"nearest: {display.join_limited(str(path.parent / name) for name in near)}; {start}" if near else start


def _start_of_relative_paths() -> str:
    try:
        return f"relative paths start at {os.getcwd()!r}"
    except OSError:
        return "the current folder was deleted: change to another one"


def unreadable(path: Path, title: str, error: OSError, *, is_folder: bool = False) -> ContentError:
    """Return the error for a file or folder that the operating system does not read.

    Args:
        path: The file or folder.
        title: Title of the file, for the pattern in the hint; "" for the root.
        error: The error of the operating system.
        is_folder: Whether it is a folder.
    """
    pattern = glob.escape(title) + ("/" if is_folder else "")
    skip = f", or skip it with exclude={display.quoted(pattern)}" if title else ""
    return ContentError(
        f"reading {str(path)!r} failed: {error.strerror or error}", hint=f"make it readable for this user{skip}"
    )


def _outside(path: Path, target: str) -> ContentError:
    return ContentError(
        f"the link {str(path)!r} leads out of its folder, to {target!r}",
        hint='push its target with links="follow", or skip links with links="skip"',
    )
