"""The record of the pulls into a folder: `.ocikit/manifest.json`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self, TypeVar, cast

from attrs import field, frozen

from ocikit.errors import ContentError, OcikitError
from ocikit.spec.digest import Digest
from ocikit.spec.titles import safe_title
from ocikit.store.files import read_file, write_atomically
from ocikit.store.memo import FileMemo

_T = TypeVar("_T")


@frozen(kw_only=True)
class FileRecord:
    """A file as it was written."""

    digest: Digest
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time in nanoseconds. A file with the same size and time is unedited."""
    source: str = ""
    """Registry and repository of the file. Several artifacts may be pulled into one folder."""
    archive: Digest | None = None
    """The archive that the file was unpacked from."""
    is_link: bool = False
    """Whether the file is a symlink; its digest is that of `describe_link`."""


@frozen(kw_only=True)
class FolderRecord:
    """Files that pulls have written to a folder, or are about to write."""

    reference: str = ""
    """Pinned reference of the last pull."""
    document: bytes | None = field(default=None, repr=False)
    """Exact bytes of its manifest."""
    files: dict[str, FileRecord] = field(factory=dict, repr=False)
    """Files by title."""
    expected: dict[str, tuple[Digest, ...]] = field(factory=dict, repr=False)
    """Digests, by title, that interrupted pulls may have written. Such files are not edits of the user."""
    archives: dict[Digest, int] = field(factory=dict, repr=False)
    """Numbers of files of unpacked archives. If another pull has replaced some of them, fewer files are recorded."""

    def unpacked(self, archive: Digest) -> dict[str, FileRecord] | None:
        """Return the files of an archive by title; None if they are not known."""
        files = {title: file for title, file in self.files.items() if file.archive == archive}
        return files if self.archives.get(archive) == len(files) else None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the record at a path; an empty record if it is missing or unreadable."""
        return cast("Self", _records.get(path, cls._load))

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            record = json.loads(read_file(path))
            document = record.get("document")
            return cls(
                reference=str(record.get("reference", "")),
                # Surrogates represent the bytes of a document that is not valid UTF-8
                document=document.encode("utf-8", "surrogateescape") if isinstance(document, str) else None,
                files=_parse_items(record.get("files"), _parse_file),
                expected=_parse_items(record.get("expected"), lambda digests: tuple(map(Digest, digests))),
                archives=_parse_archives(record.get("archives")),
            )
        except (OSError, ContentError, ValueError, TypeError, AttributeError, RecursionError):
            return cls()

    def save(self, path: Path, *, sync: bool = True, dir_fd: int | None = None) -> None:
        """Replace the record at a path.

        Args:
            path: File of the record.
            sync: Whether the record must survive a power cut when this returns.
            dir_fd: A descriptor of the file's folder.

        Raises:
            ContentError: The disk is full, or the folder cannot be written.
        """
        record: dict[str, Any] = {
            "reference": self.reference,
            "files": {
                title: {
                    "digest": file.digest,
                    "size": file.size,
                    "mtime_ns": file.mtime_ns,
                    "source": file.source,
                    **({"archive": file.archive} if file.archive is not None else {}),
                    **({"link": True} if file.is_link else {}),
                }
                for title, file in self.files.items()
            },
        }
        if self.document is not None:
            record["document"] = self.document.decode("utf-8", "surrogateescape")
        if self.expected:
            record["expected"] = self.expected
        if self.archives:
            record["archives"] = self.archives
        # Without an indent, because Python's encoder for that takes ten times as long as the one in C
        write_atomically(path, json.dumps(record).encode(), sync=sync, dir_fd=dir_fd)


#: Records of folders whose files are read.
_records: Final[FileMemo[FolderRecord]] = FileMemo(limit=16 << 20)


def _parse_file(value: Any) -> FileRecord:
    size, mtime_ns = value["size"], value["mtime_ns"]
    if type(size) is not int or type(mtime_ns) is not int:
        raise TypeError("size and mtime_ns must be integers")
    archive = value.get("archive")
    return FileRecord(
        digest=Digest(value["digest"]),
        size=size,
        mtime_ns=mtime_ns,
        source=str(value.get("source", "")),
        archive=None if archive is None else Digest(archive),
        is_link=value.get("link") is True,
    )


def _parse_archives(value: Any) -> dict[Digest, int]:
    archives: dict[Digest, int] = {}
    for digest, count in value.items() if isinstance(value, dict) else ():
        with contextlib.suppress(ValueError):
            if type(count) is int:
                archives[Digest(digest)] = count
    return archives


def _parse_items(value: Any, parse: Callable[[Any], _T]) -> dict[str, _T]:
    """Return the valid items of an object.

    Path traversal: the record may come from another person's folder, so its titles are validated like remote input.
    """
    items: dict[str, _T] = {}
    for title, item in value.items() if isinstance(value, dict) else ():
        with contextlib.suppress(OcikitError, ValueError, TypeError, KeyError, AttributeError):
            items[safe_title(title).as_posix()] = parse(item)
    return items
