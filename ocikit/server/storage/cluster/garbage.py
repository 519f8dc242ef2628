"""Deletion of the objects that no row names any more.

A key gets into the table `garbage` in the transaction that takes it from its row, or before its object is written. The key is
marked as doomed, and that is committed, before its object is deleted. A commit of an upload never uses a doomed key. An object
that is deleted twice, or an hour later than planned, is therefore not named by any row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.object_store import ObjectStore

#: Keys of one request.
_BATCH = 1000

#: Seconds in which this process deletes doomed objects. Another one tries after that.
_CLAIM = 600.0

#: Limit of a statement [seconds].
_SECONDS = 60.0

#: Characters of a reason that the table keeps.
_REASON = 500

_DOOM = """
WITH due AS MATERIALIZED (
    SELECT key FROM garbage WHERE after < now() ORDER BY after LIMIT %(batch)s FOR UPDATE SKIP LOCKED
)
UPDATE garbage SET doomed = true, after = clock_timestamp() + %(claim)s * interval '1 second'
FROM due WHERE garbage.key = due.key
RETURNING garbage.key, garbage.multipart
"""

_FORGET = "DELETE FROM garbage WHERE key = ANY(%(keys)s) AND doomed"

#: A minute after the first failure, at most a day later after many.
_POSTPONE = """
UPDATE garbage SET tries = tries + 1, error = queued.error,
    after = clock_timestamp() + least(power(2, least(tries, 12)) * interval '1 minute', interval '1 day')
FROM unnest(%(keys)s::text[], %(errors)s::text[]) AS queued (key, error)
WHERE garbage.key = queued.key
"""


def delete_garbage(database: Database, objects: ObjectStore, *, beat: Callable[[], None] = lambda: None) -> int:
    """Delete the objects that are due; return their number.

    Args:
        database: Database of the registry.
        objects: Object store of the registry.
        beat: Called after each batch.

    Raises:
        Unavailable: The database or the object store cannot be reached. What was not deleted is tried again later.
    """
    deleted = 0
    while True:
        rows = database.change(_DOOM, {"batch": _BATCH, "claim": _CLAIM}, seconds=_SECONDS)
        if not rows:
            return deleted
        failed = _delete(objects, rows)
        if done := [row.key for row in rows if row.key not in failed]:
            database.change(_FORGET, {"keys": done}, seconds=_SECONDS)
        if failed:
            reasons = [reason[:_REASON].replace("\0", "") for reason in failed.values()]
            database.change(_POSTPONE, {"keys": list(failed), "errors": reasons})
        deleted += len(done)
        if len(rows) < _BATCH:
            return deleted
        beat()


def _delete(objects: ObjectStore, rows: Sequence[Any]) -> dict[str, str]:
    """Abort multipart uploads and delete objects; return failures: key to reason.

    Raises:
        Unavailable: The object store cannot be reached.
    """
    failed: dict[str, str] = {}
    for row in rows:
        if row.multipart is not None:
            try:
                objects.abort_parts(row.key, row.multipart)
            except Unavailable as error:
                failed[row.key] = str(error)
    keys = [row.key for row in rows if row.key not in failed]
    return {**failed, **(objects.delete(keys) if keys else {})}
