"""Files of earlier pulls into folders that hold content which the cache lacks.

A pull into a folder does not fill the cache: that would take the disk space twice. Instead the cache records the folder
(`Cache.note_folder`). A later pull finds unedited files in the records of these folders, copies or clones them, and
verifies the copy. Content that was edited meanwhile is downloaded.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from ocikit.folder.record import FolderRecord
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.titles import OWN_FOLDER


class FolderCopies:
    """Lookup of content in folders; thread-safe. Their records are read on first use.

    Args:
        folders: Returns the folders, the most recently used first.
    """

    def __init__(self, folders: Callable[[], Iterable[Path]]) -> None:
        self._folders = folders
        self._lock = threading.Lock()
        self._files: dict[Digest, list[tuple[Path, int, int]]] | None = None

    def find(self, descriptor: Descriptor) -> Path | None:
        """Return the path of an unedited file with the content, or None."""
        with self._lock:
            if self._files is None:
                self._files = self._read()
        for path, size, mtime_ns in self._files.get(descriptor.digest, ()):
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if (status.st_size, status.st_mtime_ns) == (size, mtime_ns) and size == descriptor.size:
                    return path
        return None

    def _read(self) -> dict[Digest, list[tuple[Path, int, int]]]:
        files: dict[Digest, list[tuple[Path, int, int]]] = {}
        for folder in self._folders():
            record = FolderRecord.load(folder / OWN_FOLDER / "manifest.json")
            for title, file in record.files.items():
                if not file.is_link:
                    files.setdefault(file.digest, []).append((folder / title, file.size, file.mtime_ns))
        return files
