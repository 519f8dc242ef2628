"""Upload sessions as rows: leases, progress, expiry.

A request writes to a session while it holds the session's lease. A lease has a random epoch, and each change of the row names
it: a request whose lease another request has taken changes nothing.

A key of an object is in one of three places at any time: in `garbage`, in the row of a session, or in `content`. The first is
its intent: the key is inserted there before the object is written, so that a crash leaves no object that nothing names. A
change that uses the key deletes the intent.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence

from attrs import define, field, frozen

from ocikit.server.storage.base import OffsetMismatch, UnknownUpload, Upload, UploadState
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import is_storable

#: Seconds between two renewals of a lease while bytes arrive.
RENEWAL = 3.0

#: The length of a lease: a stopped request delays the next one by so much.
_LEASE = "interval '10 seconds'"

#: How long a request may write an object before the sweep deletes it.
_INTENT = "interval '24 hours'"

_UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")

#: An offset that no session reaches, within the range of a bigint.
_BEYOND = (1 << 63) - 1

#: Above this number of sessions, a count of all is used again for some seconds.
_MANY_SESSIONS, _COUNTED = 500, 1.0

#: Sessions that `Sessions.states` reads at once.
_PAGE = 1000

#: The end of a session whose bytes are an object. The parts of a statement that follow select from `received`, which has no row
#: if the lease is another request's, or if the sweep has taken the object. Parameters: upload, epoch, key.
RECEIVED = """
    ended AS (
        DELETE FROM uploads WHERE id = %(upload)s AND epoch = %(epoch)s RETURNING key, multipart, pieces
    ), intent AS (
        DELETE FROM garbage USING ended WHERE garbage.key = %(key)s AND NOT garbage.doomed RETURNING garbage.key
    ), others AS (
        INSERT INTO garbage (key, multipart, after)
        SELECT key, multipart, clock_timestamp() FROM ended WHERE key <> %(key)s
        UNION ALL
        SELECT piece->>0, NULL, clock_timestamp() FROM ended, jsonb_array_elements(pieces) AS piece WHERE piece->>0 <> %(key)s
        ON CONFLICT (key) DO UPDATE SET multipart = EXCLUDED.multipart, after = EXCLUDED.after
    ), received AS (
        SELECT 1 AS one FROM ended
        WHERE EXISTS (SELECT FROM intent)
            OR ended.key = %(key)s
            OR ended.pieces @> jsonb_build_array(jsonb_build_array(%(key)s::text))
    )"""

#: The objects of the sessions in `deleted` become garbage.
_DISCARD = """
    discarded AS (
        INSERT INTO garbage (key, multipart, after)
        SELECT key, multipart, clock_timestamp() FROM deleted WHERE key IS NOT NULL
        UNION ALL
        SELECT piece->>0, NULL, clock_timestamp() FROM deleted, jsonb_array_elements(pieces) AS piece
        ON CONFLICT (key) DO UPDATE SET multipart = EXCLUDED.multipart, after = EXCLUDED.after
    )"""


@frozen
class Received:
    """The verified object of an upload whose session is still leased."""

    upload: str
    """Id of the session."""
    epoch: int
    """The lease."""
    key: str
    """Key of the object."""
    size: int
    """Bytes."""


@frozen
class Piece:
    """Bytes of a session after its parts, as an object of their own."""

    key: str
    size: int
    """Bytes."""


@frozen
class Multipart:
    """The multipart upload of a session's parts."""

    key: str
    """Key of the object."""
    id: str
    part_size: int
    """Bytes of each part."""


@define
class Session:
    """The row of a leased session, with what the request has added and not saved yet."""

    id: str
    epoch: int
    """The random number of the lease."""
    algorithm: str
    """The algorithm of `hash`."""
    size: int
    """Bytes in parts and pieces."""
    hash: bytes | None
    """The hash of these bytes; None if no process has hashed all of them in order."""
    multipart: Multipart | None
    etags: list[str]
    """The parts."""
    pieces: list[Piece]
    saved_parts: int = field(init=False)
    """The parts that the row has."""

    def __attrs_post_init__(self) -> None:
        self.saved_parts = len(self.etags)

    @property
    def pending(self) -> int:
        """Bytes of the pieces."""
        return sum(piece.size for piece in self.pieces)

    @property
    def is_sealed(self) -> bool:
        """True if the last part is shorter than the others: nothing can follow it."""
        return self.multipart is not None and self.size - self.pending != len(self.etags) * self.multipart.part_size


@define(eq=False)
class Sessions:
    """The rows of upload sessions."""

    _database: Database
    _total: tuple[float, int] = field(default=(0.0, 0), init=False, repr=False)
    """The time until which a large number of all sessions is used again, and the number."""

    def create(self, repository: str, owner: str, *, algorithm: str, holder: str) -> Upload:
        """Insert a session."""
        upload = Upload(secrets.token_urlsafe(24), repository, owner)
        self._database.change(
            """
            INSERT INTO uploads (id, repository, owner, algorithm, holder)
            VALUES (%(id)s, %(repository)s, %(owner)s, %(algorithm)s, %(holder)s) ON CONFLICT DO NOTHING
            """,
            {**_keys(upload), "algorithm": algorithm, "holder": _storable(holder)},
        )
        return upload

    def size(self, upload: Upload) -> int:
        """Return the number of bytes received.

        Raises:
            UnknownUpload: The session does not exist.
        """
        found = self._database.row(
            "SELECT size FROM uploads WHERE id = %(id)s AND repository = %(repository)s AND owner = %(owner)s",
            _keys(upload),
        )
        if found is None:
            raise UnknownUpload(upload.id)
        return int(found.size)

    def lease(self, upload: Upload, *, offset: int | None, key: str | None) -> Session:
        """Take the lease of a session.

        Args:
            upload: Session of the upload.
            offset: The size that the session must have in bytes.
            key: Key of an object that the request may write; its intent is inserted.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: It has another size, or another request has the lease.
        """
        # The statement may run twice, if the first answer is lost: the epoch marks its own lease
        epoch = secrets.randbits(62)
        rows = self._database.change(
            f"""
            WITH leased AS (
                UPDATE uploads
                SET lease = clock_timestamp() + {_LEASE}, epoch = %(epoch)s, written = clock_timestamp()
                WHERE id = %(id)s AND repository = %(repository)s AND owner = %(owner)s
                    AND (lease < clock_timestamp() OR epoch = %(epoch)s)
                    AND (%(offset)s::bigint IS NULL OR size = %(offset)s)
                RETURNING algorithm, size, hash, key, multipart, part_size, etags, pieces
            ), intent AS (
                INSERT INTO garbage (key, after)
                SELECT %(key)s, clock_timestamp() + {_INTENT} FROM leased WHERE %(key)s::text IS NOT NULL
                ON CONFLICT DO NOTHING
            )
            SELECT * FROM leased
            """,
            {**_keys(upload), "epoch": epoch, "key": key, "offset": None if offset is None else min(offset, _BEYOND)},
        )
        if not rows:
            raise OffsetMismatch(self.size(upload))
        row = rows[0]
        return Session(
            id=upload.id,
            epoch=epoch,
            algorithm=row.algorithm,
            size=row.size,
            hash=None if row.hash is None else bytes(row.hash),
            multipart=None if row.multipart is None else Multipart(row.key, row.multipart, row.part_size),
            etags=list(row.etags),
            pieces=[Piece(key, size) for key, size in row.pieces],
        )

    def renew(self, session: Session) -> None:
        """Renew the lease of a session.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: Another request has taken the lease.
        """
        rows = self._database.change(
            f"""
            UPDATE uploads SET lease = clock_timestamp() + {_LEASE}, written = clock_timestamp()
            WHERE id = %(id)s AND epoch = %(epoch)s RETURNING id
            """,
            {"id": session.id, "epoch": session.epoch},
        )
        if not rows:
            raise self._lost(session)

    def intend(self, key: str) -> None:
        """Insert the intent of an object that a request is going to write."""
        self._database.change(
            f"INSERT INTO garbage (key, after) VALUES (%(key)s, clock_timestamp() + {_INTENT}) ON CONFLICT DO NOTHING",
            {"key": key},
        )

    def save(
        self,
        session: Session,
        *,
        used: str | None = None,
        unused: str | None = None,
        dropped: Sequence[str] = (),
        free: bool = False,
    ) -> None:
        """Write what a request has added to a session.

        Args:
            session: Leased session.
            used: A new key of the session; its intent is deleted.
            unused: A key without an object; its intent is deleted.
            dropped: Keys that the session had; their objects become garbage.
            free: Whether the request ends, and with it the lease.

        Raises:
            UnknownUpload: The session does not exist, or the sweep has taken the new object.
            OffsetMismatch: Another request has taken the lease.
        """
        multipart = session.multipart
        rows = self._database.change(
            f"""
            WITH mine AS (
                SELECT id, key, pieces FROM uploads WHERE id = %(id)s AND epoch = %(epoch)s FOR UPDATE
            ), intent AS (
                DELETE FROM garbage USING mine WHERE garbage.key = %(used)s AND NOT garbage.doomed RETURNING garbage.key
            ), unused AS (
                DELETE FROM garbage USING mine WHERE garbage.key = %(unused)s AND NOT garbage.doomed
            ), saved AS (
                UPDATE uploads
                SET algorithm = %(algorithm)s, size = %(size)s, hash = %(hash)s, key = %(key)s, multipart = %(multipart)s,
                    part_size = %(part_size)s, etags = etags[:%(kept)s] || %(etags)s::text[], pieces = %(pieces)s::jsonb,
                    written = clock_timestamp(),
                    lease = CASE WHEN %(free)s THEN '-infinity' ELSE clock_timestamp() + {_LEASE} END
                FROM mine
                WHERE uploads.id = mine.id
                    AND (
                        %(used)s::text IS NULL
                        OR EXISTS (SELECT FROM intent)
                        OR mine.key = %(used)s
                        OR mine.pieces @> jsonb_build_array(jsonb_build_array(%(used)s::text))
                    )
                RETURNING uploads.id
            ), dropped AS (
                INSERT INTO garbage (key, after)
                SELECT key, clock_timestamp() FROM saved, unnest(%(dropped)s::text[]) AS key
                ON CONFLICT DO NOTHING
            )
            SELECT id FROM saved
            """,
            {
                "id": session.id,
                "epoch": session.epoch,
                "used": used,
                "unused": unused,
                "algorithm": session.algorithm,
                "size": session.size,
                "hash": session.hash,
                "key": None if multipart is None else multipart.key,
                "multipart": None if multipart is None else multipart.id,
                "part_size": None if multipart is None else multipart.part_size,
                "kept": session.saved_parts,
                "etags": session.etags[session.saved_parts :],
                "pieces": json.dumps([[piece.key, piece.size] for piece in session.pieces]),
                "dropped": list(dropped),
                "free": free,
            },
        )
        if not rows:
            raise self._lost(session)
        session.saved_parts = len(session.etags)

    def free(self, upload: str, epoch: int, *, unused: str | None = None) -> None:
        """End a lease without a change.

        Args:
            upload: Id of the session.
            epoch: The lease.
            unused: A key without an object; its intent is deleted.
        """
        self._database.change(
            """
            WITH unused AS (DELETE FROM garbage WHERE key = %(unused)s AND NOT doomed)
            UPDATE uploads SET lease = '-infinity' WHERE id = %(id)s AND epoch = %(epoch)s
            """,
            {"id": upload, "epoch": epoch, "unused": unused},
        )

    def free_all(self, leases: Sequence[tuple[str, int]]) -> None:
        """End leases, as `free` does."""
        self._database.change(
            """
            UPDATE uploads SET lease = '-infinity'
            FROM unnest(%(ids)s::text[], %(epochs)s::bigint[]) AS lease (id, epoch)
            WHERE uploads.id = lease.id AND uploads.epoch = lease.epoch
            """,
            {"ids": [upload for upload, _ in leases], "epochs": [epoch for _, epoch in leases]},
        )

    def drop(self, upload: str, epoch: int, *, unused: str | None = None) -> None:
        """Delete a leased session; do nothing if another request has the lease."""
        self._database.change(
            f"""
            WITH deleted AS (
                DELETE FROM uploads WHERE id = %(id)s AND epoch = %(epoch)s RETURNING key, multipart, pieces
            ), unused AS (
                DELETE FROM garbage WHERE key = %(unused)s AND NOT doomed
            ), {_DISCARD}
            SELECT 1 FROM deleted
            """,
            {"id": upload, "epoch": epoch, "unused": unused},
        )

    def abort(self, upload: Upload) -> None:
        """Delete a session, also while another request writes.

        Raises:
            UnknownUpload: The session does not exist.
        """
        rows = self._database.change(
            f"""
            WITH deleted AS (
                DELETE FROM uploads WHERE id = %(id)s AND repository = %(repository)s AND owner = %(owner)s
                RETURNING key, multipart, pieces
            ), {_DISCARD}
            SELECT 1 FROM deleted
            """,
            _keys(upload),
        )
        if not rows:
            raise UnknownUpload(upload.id)

    def count(self, holder: str | None) -> int:
        """Return the number of sessions of one holder, or of all.

        A large number of all sessions is used again for a second: PostgreSQL reads the whole table to count it.
        """
        if holder is not None:
            query = "SELECT count(*) AS number FROM uploads WHERE holder = %(holder)s"
            return int(self._database.row(query, {"holder": _storable(holder)}).number)
        valid_until, number = self._total
        if time.monotonic() >= valid_until:
            number = int(self._database.row("SELECT count(*) AS number FROM uploads").number)
            self._total = (time.monotonic() + _COUNTED if number > _MANY_SESSIONS else 0.0, number)
        return number

    def used_bytes(self, repository: str) -> int:
        """Return the number of bytes that the sessions of a repository have received."""
        row = self._database.row(
            "SELECT coalesce(sum(size), 0) AS used FROM uploads WHERE repository = %(repository)s",
            {"repository": _storable(repository)},
        )
        return int(row.used)

    def states(self, holder: str | None) -> Iterator[UploadState]:
        """Yield the state of each session of one holder, or of all."""
        where = "" if holder is None else "AND holder = %(holder)s"
        last = ""
        while True:
            rows = self._database.rows(
                f"""
                SELECT id, size, extract(epoch FROM written)::float8 AS written FROM uploads
                WHERE id > %(last)s {where} ORDER BY id LIMIT {_PAGE}
                """,
                {"last": last, "holder": None if holder is None else _storable(holder)},
            )
            for row in rows:
                yield UploadState(row.written, row.size)
            if len(rows) < _PAGE:
                return
            last = rows[-1].id

    def expire(self, before: float, empty_before: float, holder: str | None) -> int:
        """Delete sessions without a lease that were last written before a time; return their number.

        Args:
            before: Time in seconds since the epoch.
            empty_before: Time for sessions without bytes.
            holder: Delete sessions of this holder only; None for all.
        """
        where = "" if holder is None else "AND holder = %(holder)s"
        rows = self._database.change(
            f"""
            WITH old AS (
                SELECT id FROM uploads
                WHERE written < to_timestamp(greatest(%(before)s::float8, %(empty_before)s::float8))
                    AND written < to_timestamp(CASE size WHEN 0 THEN %(empty_before)s::float8 ELSE %(before)s::float8 END)
                    AND lease < clock_timestamp() {where}
                FOR UPDATE SKIP LOCKED
            ), deleted AS (
                DELETE FROM uploads USING old WHERE uploads.id = old.id RETURNING key, multipart, pieces
            ), {_DISCARD}
            SELECT count(*) AS number FROM deleted
            """,
            {
                "before": before,
                "empty_before": empty_before,
                "holder": None if holder is None else _storable(holder),
            },
        )
        return int(rows[0].number)

    def _lost(self, session: Session) -> Exception:
        """Return the error for a lease that another request has taken."""
        row = self._database.row(
            "SELECT size FROM uploads WHERE id = %(id)s AND epoch <> %(epoch)s",
            {"id": session.id, "epoch": session.epoch},
        )
        return UnknownUpload(session.id) if row is None else OffsetMismatch(row.size)


def _keys(upload: Upload) -> dict[str, str]:
    """Return the parameters that identify a session.

    Raises:
        UnknownUpload: The id is not one of `create`.
    """
    if _UPLOAD_ID.fullmatch(upload.id) is None:
        raise UnknownUpload(upload.id)
    return {"id": upload.id, "repository": _storable(upload.repository), "owner": _storable(upload.owner)}


def _storable(text: str) -> str:
    """Return a text that PostgreSQL accepts, unique for each text."""
    return text if is_storable(text) else f"\x01{text.encode(errors='surrogatepass').hex()}"
