"""Content by digest: a row contains the key of the object."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from attrs import define

from ocikit.server.storage.base import BlobStore, Unavailable, UnknownUpload
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest
from ocikit.server.storage.cluster.object_store import ObjectStore, new_key
from ocikit.server.storage.cluster.sessions import RECEIVED, Received, Sessions
from ocikit.spec.digest import Digest
from ocikit.store.files import BUFFER

if TYPE_CHECKING:
    import psycopg

#: Bytes of a stream that are kept in memory before they go to a file.
_IN_MEMORY = 1 << 20

#: Digests that are read at once.
_PAGE = 1000

#: Unreferenced content is reviewed after the grace period [seconds].
_REVIEW = """
    INSERT INTO review (kind, repository, digest, after)
    SELECT 'c', 0, %(digest)s, clock_timestamp() + %(grace)s * interval '1 second' FROM stored
    ON CONFLICT (kind, repository, digest) DO UPDATE SET after = EXCLUDED.after"""


@define(eq=False)
class ClusterBlobs(BlobStore):
    """Content in rows and objects.

    Args:
        database: The rows.
        objects: The objects.
        state: Folder for streams that are being stored.
        grace: Seconds that unreferenced content is kept.
        keep_deleted: Seconds that an object stays after its deletion.
    """

    _database: Database
    _objects: ObjectStore
    _state: Path
    _grace: float = 3600.0
    _keep_deleted: float = 7 * 24 * 3600.0

    def stat(self, digest: Digest) -> int | None:
        """Return the size in bytes, or None."""
        row = self._find(digest)
        return None if row is None else row.size

    def open(self, digest: Digest) -> BinaryIO:
        """Open the object, or the bytes in the row.

        Raises:
            KeyError: The content is not stored.
        """
        row = self._find(digest)
        if row is None:
            raise KeyError(digest)
        return open_content(self._objects, row, 0, row.size)

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Write a new object, and then its key to the row."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=os.fspath(self._state)) as file:
            shutil.copyfileobj(stream, file, BUFFER)
            size = file.tell()
            file.seek(0)
            self._put(digest, cast("BinaryIO", file), size)

    def put_file(self, digest: Digest, path: Path) -> None:
        """Write a new object, and then its key to the row; remove the file."""
        with path.open("rb") as file:
            self._put(digest, file, os.fstat(file.fileno()).st_size)
        path.unlink()

    def take(self, digest: Digest, received: Received) -> None:
        """Make the object of an upload the content of a digest, in the change that ends its session.

        Content that is stored already stays; the object becomes garbage.

        Raises:
            UnknownUpload: Another request has taken the session.
        """
        rows = self._database.change(
            f"""
            WITH {RECEIVED}, stored AS (
                INSERT INTO content (digest, size, key) SELECT %(digest)s, %(size)s, %(key)s FROM received
                ON CONFLICT (digest) DO UPDATE
                SET key = coalesce(content.key, EXCLUDED.key), touched = clock_timestamp()
                RETURNING key
            ), surplus AS (
                INSERT INTO garbage (key, after) SELECT %(key)s, clock_timestamp() FROM stored WHERE key <> %(key)s
            ), review AS ({_REVIEW})
            SELECT key FROM stored
            """,
            {
                "upload": received.upload,
                "epoch": received.epoch,
                "key": received.key,
                "digest": encode_digest(digest),
                "size": received.size,
                "grace": self._grace,
            },
        )
        if not rows and self._find(digest) is None:
            raise UnknownUpload(received.upload)

    def delete(self, digest: Digest) -> None:
        """Move the object to the garbage; the row stays without content."""
        self._database.change(
            """
            WITH old AS (
                SELECT key FROM content WHERE digest = %(digest)s FOR UPDATE
            ), absent AS (
                UPDATE content SET key = NULL, inline = NULL FROM old WHERE content.digest = %(digest)s
            )
            INSERT INTO garbage (key, after)
            SELECT key, clock_timestamp() + %(keep_deleted)s * interval '1 second' FROM old WHERE key IS NOT NULL
            ON CONFLICT DO NOTHING
            """,
            {"digest": encode_digest(digest), "keep_deleted": self._keep_deleted},
        )

    def iterate(self) -> Iterator[Digest]:
        """Yield the digest of all stored content, ordered by digest."""
        last = b""
        while True:
            rows = self._database.rows(
                """
                SELECT digest FROM content
                WHERE digest > %(last)s AND (key IS NOT NULL OR inline IS NOT NULL) ORDER BY digest LIMIT %(page)s
                """,
                {"last": last, "page": _PAGE},
            )
            for row in rows:
                yield decode_digest(row.digest)
            if len(rows) < _PAGE:
                return
            last = rows[-1].digest

    def _find(self, digest: Digest) -> Any:
        return self._database.row(
            """
            SELECT size, key, inline FROM content
            WHERE digest = %(digest)s AND (key IS NOT NULL OR inline IS NOT NULL)
            """,
            {"digest": encode_digest(digest)},
        )

    def _put(self, digest: Digest, file: BinaryIO, size: int) -> None:
        """Write a new object, and then its key to the row.

        Raises:
            Unavailable: Writing took so long that the sweep has deleted the object.
        """
        key = new_key()
        Sessions(self._database).intend(key)
        self._objects.put(key, file, size, digest=digest)
        parameters = {
            "digest": encode_digest(digest),
            "size": size,
            "key": key,
            "grace": self._grace,
            "keep_deleted": self._keep_deleted,
        }

        def store(connection: psycopg.Connection[Any]) -> bool:
            connection.execute(
                "INSERT INTO content (digest, size) VALUES (%(digest)s, %(size)s) ON CONFLICT DO NOTHING", parameters
            )
            # In a statement of its own: it sees what was committed while it waited
            old = connection.execute(
                "SELECT key FROM content WHERE digest = %(digest)s FOR UPDATE", parameters
            ).fetchone()
            if old is not None and old.key == key:
                return True
            intent = connection.execute("DELETE FROM garbage WHERE key = %(key)s AND NOT doomed", parameters)
            if not intent.rowcount:
                return False
            connection.execute(
                f"""
                WITH stored AS (
                    UPDATE content SET key = %(key)s, size = %(size)s, touched = clock_timestamp()
                    WHERE digest = %(digest)s RETURNING digest
                ) {_REVIEW}
                """,
                parameters,
            )
            if old is not None and old.key is not None:
                connection.execute(
                    """
                    INSERT INTO garbage (key, after)
                    VALUES (%(old)s, clock_timestamp() + %(keep_deleted)s * interval '1 second')
                    """,
                    {**parameters, "old": old.key},
                )
            return True

        if not self._database.transaction(store):
            raise Unavailable(f"{digest} took too long to store")


def open_content(objects: ObjectStore, row: Any, first: int, length: int) -> BinaryIO:
    """Open a range of content as a seekable file.

    Args:
        objects: The object store.
        row: A row with `size` [bytes], `key` and `inline`.
        first: Offset of the first byte that is read.
        length: Bytes that are read at most.

    Raises:
        KeyError: The object is missing.
    """
    if row.inline is not None:
        file: BinaryIO = io.BytesIO(bytes(row.inline))
        file.seek(first)
        return file
    if row.key is None:
        raise KeyError("the content is not stored")
    return cast("BinaryIO", _ObjectFile(objects, row.key, row.size, first, length))


class _ObjectFile(io.RawIOBase):
    """An object as a seekable file. A read after a seek is a new request for a range.

    Args:
        objects: The object store.
        key: Key of the object.
        size: Size of the object in bytes.
        first: Offset of the first byte that is read.
        length: Bytes that are read at most, unless the caller seeks.

    Raises:
        KeyError: The object is missing.
    """

    def __init__(self, objects: ObjectStore, key: str, size: int, first: int, length: int) -> None:
        self._objects = objects
        self._key = key
        self._size = size
        self._position = first
        # At once: a missing object must be noticed before a response begins
        self._stream: BinaryIO | None = objects.open(key, first, length) if length else None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position; the stream at another position is closed."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        position = max(base + offset, 0)
        if position != self._position:
            self._close_stream()
            self._position = position
        return position

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, and no bytes at the end."""
        if self.closed:
            raise ValueError("the file is closed")
        if self._stream is None:
            if self._position >= self._size or size == 0:
                return b""
            self._stream = self._objects.open(self._key, self._position)
        chunk = self._stream.read(size)
        self._position += len(chunk)
        return chunk

    def readall(self) -> bytes:
        """Return the rest."""
        return self.read()

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer, and return the number of bytes."""
        view = memoryview(buffer).cast("B")
        chunk = self.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        """Close the stream."""
        self._close_stream()
        super().close()

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()
