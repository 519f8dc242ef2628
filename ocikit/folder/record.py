"""What is known of a folder that was pulled to: `.ocikit/manifest.json`, one small file replaced as a whole."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Self

from attrs import field, frozen

from ocikit.errors import OcikitError
from ocikit.spec.digest import Digest
from ocikit.spec.titles import safe_title
from ocikit.store.files import write_atomically


@frozen(kw_only=True)
class FileRecord:
    """A file as it was written."""

    digest: Digest
    size: int
    """Bytes."""
    mtime_ns: int
    """Its modification time in nanoseconds: a file with the same size and time wasn't edited."""
    source: str = ""
    """The registry and repository that it is from; several artifacts may be pulled into one folder."""


@frozen(kw_only=True)
class FolderRecord:
    """What a folder holds, and what it is about to hold."""

    reference: str = ""
    """What was pulled last, pinned."""
    document: bytes | None = field(default=None, repr=False)
    """The exact bytes of its manifest."""
    files: dict[str, FileRecord] = field(factory=dict, repr=False)
    expected: dict[str, tuple[Digest, ...]] = field(factory=dict, repr=False)
    """What pulls that were broken off may have written: such files are ours, not the user's."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """The record at a path; an empty one if it isn't there or can't be read."""
        try:
            known = json.loads(path.read_bytes())
            text = known.get("document")
            return cls(
                reference=str(known.get("reference", "")),
                # JSON may hold any bytes in the guise of text; surrogates bring back those that aren't UTF-8
                document=text.encode("utf-8", "surrogateescape") if isinstance(text, str) else None,
                files=_items(known.get("files"), _entry),
                expected=_items(known.get("expected"), lambda digests: tuple(map(Digest, digests))),
            )
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return cls()

    def save(self, path: Path, *, sync: bool = True) -> None:
        """Replace the record at a path. Raises: ContentError."""
        known: dict[str, Any] = {
            "reference": self.reference,
            "files": {
                title: {"digest": e.digest, "size": e.size, "mtime_ns": e.mtime_ns, "source": e.source}
                for title, e in self.files.items()
            },
        }
        if self.document is not None:
            known["document"] = self.document.decode("utf-8", "surrogateescape")
        if self.expected:
            known["expected"] = self.expected
        write_atomically(path, json.dumps(known, indent=1).encode(), sync=sync)


def _entry(value: Any) -> FileRecord:
    size, mtime_ns = value["size"], value["mtime_ns"]
    if type(size) is not int or type(mtime_ns) is not int:
        raise TypeError("sizes and times are integers")
    return FileRecord(digest=Digest(value["digest"]), size=size, mtime_ns=mtime_ns, source=str(value.get("source", "")))


def _items(value: Any, parse: Any) -> dict[str, Any]:
    """The readable items. Folders are passed on, records in them too: names are checked as a publisher's are."""
    items = {}
    for title, item in value.items() if isinstance(value, dict) else ():
        with contextlib.suppress(OcikitError, ValueError, TypeError, KeyError, AttributeError):
            items[safe_title(title).as_posix()] = parse(item)
    return items
