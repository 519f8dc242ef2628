"""What is in the files and folders that a user gives, and under which titles."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeAlias

from attrs import define, frozen

from ocikit.errors import ContentError, NotFound
from ocikit.layers.layer import escapes
from ocikit.spec.titles import OWN_FOLDER, is_selected

Links: TypeAlias = Literal["inside", "follow", "skip"]

_KINDS = {
    stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
}  # fmt: skip


@frozen(kw_only=True)
class FoundFile:
    """A file, folder or symlink, and the title that it gets."""

    title: str
    path: Path
    info: os.stat_result
    target: str | None = None
    """Of a symlink that is kept as one."""

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.target is None and stat.S_ISDIR(self.info.st_mode)


def title_of(given: str | os.PathLike[str]) -> str:
    """What titles of a given path begin with; empty for the current folder.

    A relative path is kept as it was given. An absolute one, or one with "..", starts at its own last name.

    >>> title_of("./data/a.csv"), title_of("/srv/data"), title_of(".")
    ('data/a.csv', 'data', '')
    """
    path = Path(given)
    if path.is_absolute() or ".." in path.parts:
        return Path(os.path.abspath(path)).name  # resolve() would give the name of what a link leads to
    return "/".join(path.parts)


@define(eq=False)
class FileWalker:
    """How a given path is walked. `keep_links`: symlinks stay symlinks, where they stay inside the folder."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    links: Links = "inside"
    keep_links: bool = False

    def found(self, given: str | os.PathLike[str], title: str) -> Iterator[FoundFile]:
        """The file, or all that is in the folder, in the order of titles; each folder before what is in it.

        Raises:
            NotFound: if there is no such path.
            ContentError: for links that can't be followed, and for what is neither file, folder nor link.
        """
        path = Path(given)
        try:
            info = path.stat()  # a link that the user names is followed, wherever it leads
        except OSError as error:
            raise NotFound(
                f"{str(path)!r} can't be read: {error.strerror}", hint=f"relative paths start at {str(Path.cwd())!r}"
            ) from error
        if stat.S_ISDIR(info.st_mode):
            root = os.path.realpath(path)
            yield from self._folder(path, title, (root,), 0)
        elif is_selected(title, self.include, self.exclude):
            yield self._file(path, title, info)

    def _folder(self, folder: Path, title: str, above: tuple[str, ...], depth: int) -> Iterator[FoundFile]:
        """What is in a folder; `above` has the real paths of the given folder and of those on the way."""
        with os.scandir(folder) as listing:
            items = sorted(listing, key=lambda item: item.name)
        for item in items:
            name, path = f"{title}/{item.name}" if title else item.name, Path(item.path)
            if item.name.casefold() == OWN_FOLDER:
                continue  # our own records of a pulled folder
            info = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                if self.links == "skip" or not is_selected(name, (), self.exclude):
                    continue
                if self.keep_links and self.links == "inside":
                    if is_selected(name, self.include):
                        yield self._link(path, name, info, depth)
                    continue
                info = self._followed(path, above)
            if stat.S_ISDIR(info.st_mode):
                yield FoundFile(title=name, path=path, info=info)
                yield from self._folder(path, name, (*above, os.path.realpath(path)), depth + 1)
            elif is_selected(name, self.include, self.exclude):
                yield self._file(path, name, info)

    def _file(self, path: Path, title: str, info: os.stat_result) -> FoundFile:
        if not stat.S_ISREG(info.st_mode):
            kind = _KINDS.get(stat.S_IFMT(info.st_mode), "special file")
            raise ContentError(
                f"{str(path)!r} is a {kind}: it has no content to push", hint="leave it out with exclude="
            )
        return FoundFile(title=title, path=path, info=info)

    def _link(self, path: Path, title: str, info: os.stat_result, depth: int) -> FoundFile:
        target = os.readlink(path)
        if escapes(depth, target):
            raise _outside(path, target)
        return FoundFile(title=title, path=path, info=info, target=target)

    def _followed(self, path: Path, above: tuple[str, ...]) -> os.stat_result:
        """What a link leads to. Raises: ContentError: if it leads nowhere, in a circle, or out of the given folder."""
        try:
            real = os.path.realpath(path, strict=True)
            info = os.stat(real)
        except OSError as error:
            problem = "leads in a circle" if error.errno == errno.ELOOP else f"leads nowhere: {error.strerror}"
            raise ContentError(
                f"the link {str(path)!r} {problem}", hint='mend it, or leave links out with links="skip"'
            ) from error
        if real in above:
            raise ContentError(
                f"the link {str(path)!r} leads in a circle, to a folder that it is in",
                hint='leave links out with links="skip", or this one with exclude=',
            )
        if self.links == "inside" and os.path.commonpath([real, above[0]]) != above[0]:
            raise _outside(path, real)
        return info


def _outside(path: Path, target: str) -> ContentError:
    return ContentError(
        f"the link {str(path)!r} leads out of its folder, to {target!r}",
        hint='push what it leads to with links="follow", or leave links out with links="skip"',
    )
