"""The list of all objects with content, compared with rows on the disk of this process: it may be longer than memory."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import define, field

from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.object_store import ObjectStore

#: Prefix of the keys of content.
CONTENT = "c/"

#: Rows of one page.
_PAGE = 5000

_CONTENT_PAGE = """
SELECT digest, size, key, inline IS NOT NULL AS inline FROM content WHERE digest > %(last)s ORDER BY digest LIMIT %(page)s
"""

_UPLOADS_PAGE = """
SELECT id, key, ARRAY(SELECT piece ->> 0 FROM jsonb_array_elements(pieces) AS piece) AS pieces
FROM uploads WHERE id > %(last)s ORDER BY id LIMIT %(page)s
"""

_GARBAGE_PAGE = "SELECT key FROM garbage WHERE key > %(last)s ORDER BY key LIMIT %(page)s"


@define(eq=False)
class Listing:
    """Keys and sizes of objects. `list_content` makes one."""

    _rows: sqlite3.Connection = field(repr=False)

    def discard(self, keys: Iterable[str]) -> None:
        """Remove keys from the list."""
        self._rows.execute("BEGIN")
        self._rows.executemany("DELETE FROM objects WHERE key = ?", ((key,) for key in keys))
        self._rows.execute("COMMIT")

    def sizes(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the sizes in bytes of those keys that are in the list."""
        found: dict[str, int] = {}
        for key in keys:
            row = self._rows.execute("SELECT size FROM objects WHERE key = ?", (key,)).fetchone()
            if row is not None:
                found[key] = row[0]
        return found

    def batches(self, size: int) -> Iterator[list[tuple[str, int]]]:
        """Yield keys and sizes, `size` at a time."""
        last = ""
        while True:
            page = "SELECT key, size FROM objects WHERE key > ? ORDER BY key LIMIT ?"
            rows = self._rows.execute(page, (last, size)).fetchall()
            if not rows:
                return
            yield rows
            last = rows[-1][0]


@contextlib.contextmanager
def list_content(objects: ObjectStore, state: Path, *, before: float | None = None) -> Iterator[Listing]:
    """List all objects with content.

    Args:
        objects: Object store of the registry.
        state: Folder for the list.
        before: Time in seconds since the epoch; newer objects are left out. None lists all.

    Yields:
        The list. It is deleted at the end of the block.

    Raises:
        Unavailable: The object store cannot be reached.
    """
    with (
        tempfile.TemporaryDirectory(prefix="list-", dir=state, ignore_cleanup_errors=True) as folder,
        contextlib.closing(sqlite3.connect(Path(folder) / "objects.db", isolation_level=None)) as rows,
    ):
        rows.execute("PRAGMA journal_mode = OFF")
        rows.execute("PRAGMA synchronous = OFF")
        rows.execute("CREATE TABLE objects (key TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID")
        found = ((key, size) for key, size, time in objects.iterate(CONTENT) if before is None or time < before)
        while page := list(islice(found, _PAGE)):
            rows.execute("BEGIN")
            rows.executemany("INSERT OR REPLACE INTO objects VALUES (?, ?)", page)
            rows.execute("COMMIT")
        yield Listing(rows)


def content_pages(database: Database) -> Iterator[list[Any]]:
    """Yield all rows of content in the order of their digests, a page at a time."""
    last = b""
    while rows := database.rows(_CONTENT_PAGE, {"last": last, "page": _PAGE}):
        yield rows
        last = rows[-1].digest


def named_keys(database: Database) -> Iterator[list[str]]:
    """Yield all keys that rows name, a page at a time.

    Tables are read in the order in which a key moves between them, so that no key is missed on its way: from an upload to the
    content to the garbage.
    """
    last = ""
    while rows := database.rows(_UPLOADS_PAGE, {"last": last, "page": _PAGE}):
        yield [key for row in rows for key in (row.key, *row.pieces) if key is not None]
        last = rows[-1].id
    for page in content_pages(database):
        yield [row.key for row in page if row.key is not None]
    last = ""
    while rows := database.rows(_GARBAGE_PAGE, {"last": last, "page": _PAGE}):
        yield [row.key for row in rows]
        last = rows[-1].key
