"""Verification of cached files before they are used or given out by path.

Content is verified when it is written. Later a disk, an editor or another program may change it. So the cache records
the state of each verified file: inode, size and modification time. A file whose state is unknown or has changed is
hashed. If its digest is wrong, it is deleted, counts as absent, and is fetched again by the call that needs it.

The states of large files are recorded on disk, in `verified/<algorithm>/<hash>`. Small files are hashed once in each
process, which takes no longer than to read a record. Damage that leaves the state unchanged is detected when the content
is read to its end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

from ocikit.display import display_path
from ocikit.errors import ContentError
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, hash_file
from ocikit.store.files import read_file, write_atomically

log = logging.getLogger("ocikit")

_SMALL = 1 << 20  # bytes; hashing them takes a millisecond
_STATES = 8  # recorded for one digest: the blob, and copies of it in snapshots
_REMEMBERED = 100_000  # files; a hundred bytes each


class VerifiedFiles:
    """The states of the verified files of a cache; thread-safe.

    A record that cannot be written costs another verification in the next process.
    """

    def __init__(self) -> None:
        self._states: set[tuple[str, Digest]] = set()  # not by path: a file of a snapshot is a link to its blob

    def record(self, root: Path, path: Path, digest: Digest) -> None:
        """Record the state of a file that has just been verified.

        Args:
            root: The cache.
            path: The file.
            digest: Digest of the content.
        """
        with contextlib.suppress(OSError):
            self._record(root, path, digest, os.stat(path))

    def is_intact(self, root: Path, path: Path, descriptor: Descriptor, *, quick: bool = False) -> bool:
        """Return True if a file has the content of a descriptor; delete it if it is damaged.

        Args:
            root: The cache.
            path: The file.
            descriptor: Descriptor of the content.
            quick: Return False instead of hashing a large file.
        """
        try:
            status = os.stat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_size != descriptor.size:
                return False
            digest = descriptor.digest
            state = _state(status)
            if (state, digest) in self._states:
                return True
            if not digest.verifiable:
                return True
            is_recorded = status.st_size > _SMALL and state in _read(_record_path(root, digest))
            if quick and not is_recorded and status.st_size > _SMALL:
                return False
            if not is_recorded and hash_file(path, digest.algorithm) != digest:
                log.info("%s is damaged; it is deleted and fetched again", display_path(path))
                discard(path)
                return False
            self._record(root, path, digest, status)
        except OSError:
            return False
        return True

    def _record(self, root: Path, path: Path, digest: Digest, status: os.stat_result) -> None:
        if len(self._states) >= _REMEMBERED:
            self._states.clear()
        state = _state(status)
        self._states.add((state, digest))
        if status.st_size > _SMALL:
            record = _record_path(root, digest)
            known = _read(record)
            if state not in known:
                with contextlib.suppress(OSError, ContentError):
                    record.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(record, "\n".join([*known, state][-_STATES:]).encode(), sync=False)


def discard(path: Path) -> None:
    """Delete a damaged file, if its folder can be written."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def forget(blob: Path) -> None:
    """Delete the record of a deleted blob, `<cache>/blobs/<algorithm>/<hash>`."""
    algorithm = blob.parent
    if algorithm.parent.name == "blobs":
        discard(algorithm.parents[1] / "verified" / algorithm.name / blob.name)


def _record_path(root: Path, digest: Digest) -> Path:
    return root / "verified" / digest.algorithm / digest.encoded


def _read(path: Path) -> list[str]:
    """Return the recorded states, the oldest first."""
    try:
        return read_file(path).decode("ascii").splitlines()[-_STATES:]
    except (OSError, ContentError, UnicodeDecodeError):
        return []


def _state(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino} {status.st_size} {status.st_mtime_ns}"
