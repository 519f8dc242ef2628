"""A second path for a file without copying its bytes, where the file system supports it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from ocikit.spec.descriptor import Descriptor
from ocikit.store.parts import Part, PartFolder, write_part

_FICLONE = 0x40049409  # linux/fs.h; ioctl_ficlone(2)

#: How `link` created the target.
LinkMethod: TypeAlias = Literal["reflink", "hard link", "symlink", "copy"]


def reflink(source: Path, target: Path) -> bool:
    """Create a copy-on-write clone of a file; return False if unsupported.

    btrfs, XFS and bcachefs have them.

    Args:
        source: The file to clone.
        target: The clone; it must not exist.
    """
    with open(source, "rb") as file:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            cloned = clone_file(file.fileno(), fd)
        finally:
            os.close(fd)
        if not cloned:
            os.unlink(target)
        return cloned


def clone_file(source: int, target: int) -> bool:
    """Let an open, empty file share the bytes of another one; return False if unsupported."""
    try:
        import fcntl  # noqa: PLC0415 - not available on Windows

        fcntl.ioctl(target, _FICLONE, source)
    except (ImportError, OSError):
        return False
    return True


def link(
    source: Path, target: Path, descriptor: Descriptor, *, parts: Path, start: LinkMethod = "reflink"
) -> LinkMethod:
    """Create a read-only `target` from a blob by the cheapest possible method.

    The methods are reflink, hard link, symlink and copy.

    Args:
        source: The blob; its mode is 0444.
        target: The new path; it must not exist, its folder must.
        descriptor: The blob's digest and size; a copy is verified.
        parts: The folder for partial copies, on the target's file system.
        start: The first method to try. Pass the method that worked for the previous file on this file system.

    Returns:
        The method that worked.

    Raises:
        FileExistsError: The target exists.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if start == "reflink" and reflink(source, target):
        os.chmod(target, 0o444)
        return "reflink"
    if start in {"reflink", "hard link"} and _try_link(os.link, source, target):
        return "hard link"
    if start != "copy" and _try_link(os.symlink, source.absolute(), target):
        return "symlink"

    def place(part: Part) -> None:
        os.chmod(part.path, 0o444)
        part.move(target)

    with open(source, "rb", buffering=0) as stream:
        write_part(stream, descriptor, place, parts=PartFolder(parts), share=False)
    return "copy"


def _try_link(method: Callable[[Path, Path], None], source: Path, target: Path) -> bool:
    """Create a link; return False if the file system does not support it."""
    try:
        method(source, target)
    except FileExistsError:
        raise
    except (NotImplementedError, OSError):
        return False
    return True
