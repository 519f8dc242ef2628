"""Files on disk as comparable values."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

_TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFCHR: "character device", stat.S_IFBLK: "block device", stat.S_IFSOCK: "socket",
}  # fmt: skip


class Node(NamedTuple):
    """One path. `names` are all hard links of the same file."""

    type: str
    mode: int
    target: str | None
    size: int | None
    sha256: str | None
    names: tuple[str, ...]
    owner: tuple[int, int] | None = None
    mtime: float | None = None


def tree(path: str | os.PathLike[str], *, owner: bool = False, mtime: bool = False) -> dict[str, Node]:
    """Return everything below a folder by relative path; the folder itself is "."."""
    root = Path(path)
    infos = {".": root.lstat()}
    for above, folders, files in os.walk(root):
        for name in folders + files:
            item = Path(above, name)
            infos[item.relative_to(root).as_posix()] = item.lstat()
    names: dict[tuple[int, int], list[str]] = {}
    for name, info in infos.items():
        if not stat.S_ISDIR(info.st_mode) and info.st_nlink > 1:
            names.setdefault((info.st_dev, info.st_ino), []).append(name)
    return {
        name: Node(
            type=_TYPES[stat.S_IFMT(info.st_mode)],
            mode=0 if stat.S_ISLNK(info.st_mode) else stat.S_IMODE(info.st_mode),
            target=os.readlink(root / name) if stat.S_ISLNK(info.st_mode) else None,
            size=info.st_size if stat.S_ISREG(info.st_mode) else None,
            sha256=_sha256(root / name) if stat.S_ISREG(info.st_mode) else None,
            names=tuple(sorted(names.get((info.st_dev, info.st_ino), ()))),
            owner=(info.st_uid, info.st_gid) if owner else None,
            mtime=info.st_mtime if mtime else None,
        )
        for name, info in sorted(infos.items())
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(left: dict[str, Node], right: dict[str, Node]) -> list[str]:
    """Return the differences between two trees, one line each."""
    return [
        f"{name}: {left.get(name)} | {right.get(name)}"
        for name in sorted({*left, *right})
        if left.get(name) != right.get(name)
    ]
