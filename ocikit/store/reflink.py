"""Giving a file a second place without moving its bytes, where the file system can."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from ocikit.spec.descriptor import Descriptor
from ocikit.store.files import verified_part

_FICLONE = 0x40049409  # linux/fs.h; ioctl_ficlone(2)

#: How a file came to its second place.
LinkMethod: TypeAlias = Literal["reflink", "hard link", "symlink", "copy"]


def reflink(source: Path, target: Path) -> bool:
    """Make `target`, which must not exist, share the source's blocks until one is written to; False if it can't.

    btrfs, XFS and bcachefs can.
    """
    try:
        import fcntl  # noqa: PLC0415 - Windows has none
    except ImportError:
        return False
    with open(source, "rb") as old:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            fcntl.ioctl(fd, _FICLONE, old.fileno())
            return True
        except OSError:
            os.unlink(target)
            return False
        finally:
            os.close(fd)


def link(
    source: Path, target: Path, descriptor: Descriptor, *, parts: Path, start: LinkMethod = "reflink"
) -> LinkMethod:
    """Make a read-only `target` of a blob by the cheapest means there is: reflink, hard link, symlink, copy.

    Args:
        source: a blob; mode 0444.
        target: where to; must not exist, its folder must.
        descriptor: what the blob is; a copy is verified.
        parts: a folder on the target's file system.
        start: the first means to try: what worked for the last file. File systems don't change their minds.
    Returns:
        What worked.
    Raises:
        FileExistsError: if the target is there.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if start == "reflink" and reflink(source, target):
        os.chmod(target, 0o444)
        return "reflink"
    if start in {"reflink", "hard link"} and _made(os.link, source, target):
        return "hard link"
    if start != "copy" and _made(os.symlink, source.absolute(), target):
        return "symlink"
    with (
        open(source, "rb", buffering=0) as stream,
        verified_part(stream, descriptor, parts=parts) as part,
    ):
        os.chmod(part, 0o444)
        os.rename(part, target)
    return "copy"


def _made(means: Callable[[Path, Path], None], source: Path, target: Path) -> bool:
    """Whether the file system went along: it may know no links, allow no more of them, or be another one."""
    try:
        means(source, target)
    except FileExistsError:
        raise
    except (NotImplementedError, OSError):
        return False
    return True
