"""Removal of what nothing references any more, from a queue.

Each change that lets go of content writes what may be unreferenced now into the table `review`. A sweep reads this queue and
never whole tables. Its cost depends on what changed, not on what is stored.

A review never waits for a lock while it holds one of a row that a request needs: it skips rows that a request has locked. Rows
are locked first, and their users are looked for in the next statement, which has a newer snapshot. A request that has locked a
row before is therefore seen, and one that comes later waits and finds the row deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest
from ocikit.store.results import RemovedBlob

if TYPE_CHECKING:
    import psycopg

#: Rows of one transaction.
_BATCH = 100

#: Rows that become due at once.
_PAGE = 1000

#: Limit of a statement that reads a whole table [seconds].
_SCAN_SECONDS = 3600.0

#: Limit of a transaction [seconds]: cold pages of a large database are slow.
_SECONDS = 60.0

#: Seconds after which a row that a request had locked is reviewed again.
_BUSY = 5.0

_DUE = """
SELECT repository, digest FROM review WHERE kind = %(kind)s AND after < now()
ORDER BY after LIMIT %(batch)s FOR UPDATE SKIP LOCKED
"""

#: Deletions from these repositories change their counts, which pushes with a quota lock.
_LOCK_REPOSITORIES = """
SELECT id FROM repositories WHERE id = ANY(%(repositories)s) FOR NO KEY UPDATE SKIP LOCKED
"""

_LOCK_BLOBS = """
SELECT blobs.repository, blobs.digest FROM blobs JOIN unnest(%(repositories)s::bigint[], %(digests)s::bytea[]) AS queued (repository, digest) USING (repository, digest)
FOR UPDATE OF blobs SKIP LOCKED
"""

_DELETE_BLOBS = """
WITH deleted AS (
    DELETE FROM blobs USING unnest(%(repositories)s::bigint[], %(digests)s::bytea[]) AS queued (repository, digest)
    WHERE blobs.repository = queued.repository AND blobs.digest = queued.digest
        AND blobs.touched < now() - %(grace)s * interval '1 second'
        AND NOT EXISTS (
            SELECT FROM children WHERE children.repository = blobs.repository AND children.child = blobs.digest
        )
    RETURNING blobs.repository, blobs.digest
), sized AS (
    SELECT deleted.repository, deleted.digest, content.size FROM deleted JOIN content USING (digest)
), freed AS (
    UPDATE repositories SET used = greatest(used - freed.size, 0)
    FROM (SELECT repository, sum(size) AS size FROM sized GROUP BY repository) AS freed
    WHERE repositories.id = freed.repository AND used IS NOT NULL
), released AS (
    INSERT INTO review (kind, repository, digest, after)
    SELECT DISTINCT 'c'::"char", 0, digest, now() FROM deleted ORDER BY 3
    ON CONFLICT (kind, repository, digest) DO UPDATE SET after = least(review.after, EXCLUDED.after)
)
SELECT sized.*, repositories.name FROM sized JOIN repositories ON repositories.id = sized.repository
"""

_BLOB_STATES = """
SELECT queued.repository, queued.digest, blobs.digest IS NULL AS absent,
    blobs.touched + %(grace)s * interval '1 second' AS due,
    blobs.touched >= now() - %(grace)s * interval '1 second' AS young,
    EXISTS (
        SELECT FROM children WHERE children.repository = queued.repository AND children.child = queued.digest
    ) AS used
FROM unnest(%(repositories)s::bigint[], %(digests)s::bytea[]) AS queued (repository, digest) LEFT JOIN blobs USING (repository, digest)
"""

_LOCK_CONTENT = "SELECT digest FROM content WHERE digest = ANY(%(digests)s) FOR UPDATE SKIP LOCKED"

_DELETE_CONTENT = """
WITH deleted AS (
    DELETE FROM content
    WHERE digest = ANY(%(digests)s) AND touched < now() - %(grace)s * interval '1 second'
        AND NOT EXISTS (SELECT FROM blobs WHERE blobs.digest = content.digest)
        AND NOT EXISTS (SELECT FROM manifests WHERE manifests.digest = content.digest)
    RETURNING digest, size, key
), garbage AS (
    INSERT INTO garbage (key, after)
    SELECT key, clock_timestamp() + %(keep)s * interval '1 second' FROM deleted WHERE key IS NOT NULL
    ON CONFLICT (key) DO NOTHING
)
SELECT digest, size FROM deleted
"""

_CONTENT_STATES = """
SELECT 0::bigint AS repository, queued.digest, content.digest IS NULL AS absent,
    content.touched + %(grace)s * interval '1 second' AS due,
    content.touched >= now() - %(grace)s * interval '1 second' AS young,
    EXISTS (SELECT FROM blobs WHERE blobs.digest = content.digest)
    OR EXISTS (SELECT FROM manifests WHERE manifests.digest = content.digest) AS used
FROM unnest(%(digests)s::bytea[]) AS queued (digest) LEFT JOIN content USING (digest)
"""

_FORGET = """
DELETE FROM review USING unnest(%(repositories)s::bigint[], %(digests)s::bytea[]) AS queued (repository, digest)
WHERE kind = %(kind)s AND review.repository = queued.repository AND review.digest = queued.digest
"""

_POSTPONE = """
UPDATE review SET after = coalesce(queued.due, now() + %(busy)s * interval '1 second')
FROM unnest(%(repositories)s::bigint[], %(digests)s::bytea[], %(due)s::timestamptz[]) AS queued (repository, digest, due)
WHERE kind = %(kind)s AND review.repository = queued.repository AND review.digest = queued.digest
"""

#: What a queue should have, if it ever lost a row. Rows of the queue that exist are not locked.
_QUEUE_BLOBS = """
INSERT INTO review (kind, repository, digest, after)
SELECT 'b', repository, digest, now() FROM blobs WHERE touched < now() - %(grace)s * interval '1 second' AND NOT EXISTS (
    SELECT FROM children WHERE children.repository = blobs.repository AND children.child = blobs.digest
)
ON CONFLICT (kind, repository, digest) DO NOTHING
"""

_QUEUE_CONTENT = """
INSERT INTO review (kind, repository, digest, after)
SELECT 'c', 0, digest, now() FROM content WHERE touched < now() - %(grace)s * interval '1 second'
    AND NOT EXISTS (SELECT FROM blobs WHERE blobs.digest = content.digest)
    AND NOT EXISTS (SELECT FROM manifests WHERE manifests.digest = content.digest)
ON CONFLICT (kind, repository, digest) DO NOTHING
"""

_HASTEN_BLOBS = """
WITH page AS (
    SELECT queued.repository, queued.digest FROM review AS queued JOIN blobs USING (repository, digest)
    WHERE queued.kind = 'b' AND queued.after > now() AND blobs.touched < now() - %(grace)s * interval '1 second'
        AND (queued.repository, queued.digest) > (%(repository)s, %(digest)s)
    ORDER BY queued.repository, queued.digest LIMIT %(page)s FOR UPDATE OF queued SKIP LOCKED
), hastened AS (
    UPDATE review SET after = now() FROM page
    WHERE review.kind = 'b' AND review.repository = page.repository AND review.digest = page.digest
)
SELECT repository, digest FROM page ORDER BY repository, digest
"""

_HASTEN_CONTENT = """
WITH page AS (
    SELECT queued.repository, queued.digest FROM review AS queued JOIN content USING (digest)
    WHERE queued.kind = 'c' AND queued.repository = 0 AND queued.after > now()
        AND content.touched < now() - %(grace)s * interval '1 second'
        AND (queued.repository, queued.digest) > (%(repository)s, %(digest)s)
    ORDER BY queued.repository, queued.digest LIMIT %(page)s FOR UPDATE OF queued SKIP LOCKED
), hastened AS (
    UPDATE review SET after = now() FROM page
    WHERE review.kind = 'c' AND review.repository = page.repository AND review.digest = page.digest
)
SELECT repository, digest FROM page ORDER BY repository, digest
"""

_Key = tuple[int, bytes]


@frozen
class _Batch:
    """What one transaction did."""

    size: int
    """Rows that it took from the queue."""
    removed: tuple[RemovedBlob, ...] = field(default=(), repr=False)


def review_blobs(database: Database, *, grace: float, beat: Callable[[], None]) -> Iterator[RemovedBlob]:
    """Remove queued blobs from repositories that have no manifest of them; yield the removed ones.

    Args:
        database: Database of the registry.
        grace: Seconds that a blob is kept after its last use.
        beat: Called after each batch.
    """
    yield from _review(database, partial(_review_blobs, grace=grace), beat)


def review_content(
    database: Database, *, grace: float, keep_deleted: float, beat: Callable[[], None]
) -> Iterator[RemovedBlob]:
    """Delete queued content that no repository has; yield it.

    Args:
        database: Database of the registry.
        grace: Seconds that content is kept after its last use.
        keep_deleted: Seconds after which its object is deleted.
        beat: Called after each batch.
    """
    yield from _review(database, partial(_review_content, grace=grace, keep=keep_deleted), beat)


def queue_unreferenced(database: Database, *, grace: float) -> None:
    """Queue everything that is unreferenced and old, and make it due now.

    This reads whole tables. Sweeps do not need it: it is for a shorter grace period than that of the registry, and for a queue
    that has lost rows.

    Args:
        database: Database of the registry.
        grace: Seconds that unreferenced content is kept.
    """
    for queue, hasten in ((_QUEUE_BLOBS, _HASTEN_BLOBS), (_QUEUE_CONTENT, _HASTEN_CONTENT)):
        database.change(queue, {"grace": grace}, seconds=_SCAN_SECONDS)
        last: _Key = (-1, b"")
        while True:
            params = {"grace": grace, "page": _PAGE, "repository": last[0], "digest": last[1]}
            rows = database.change(hasten, params, seconds=_SECONDS)
            if len(rows) < _PAGE:
                break
            last = (rows[-1].repository, rows[-1].digest)


def _review(
    database: Database, work: Callable[[psycopg.Connection[Any]], _Batch], beat: Callable[[], None]
) -> Iterator[RemovedBlob]:
    while True:
        batch = database.transaction(work, name="review", seconds=_SECONDS)
        yield from batch.removed
        if batch.size < _BATCH:
            return
        beat()


def _review_blobs(connection: psycopg.Connection[Any], *, grace: float) -> _Batch:
    due = connection.execute(_DUE, {"kind": "b", "batch": _BATCH}).fetchall()
    if not due:
        return _Batch(0)
    repositories = {"repositories": sorted({row.repository for row in due})}
    free = {row.id for row in connection.execute(_LOCK_REPOSITORIES, repositories)}
    queued = [(row.repository, row.digest) for row in due]
    params = _columns([key for key in queued if key[0] in free])
    locked = {(row.repository, row.digest) for row in connection.execute(_LOCK_BLOBS, params)}
    params = {**_columns(sorted(locked)), "grace": grace}
    deleted = connection.execute(_DELETE_BLOBS, params).fetchall() if locked else []
    states = connection.execute(_BLOB_STATES, {**_columns(queued), "grace": grace}).fetchall()
    _settle(connection, "b", states, locked)
    removed = (RemovedBlob(digest=decode_digest(row.digest), size=row.size, repository=row.name) for row in deleted)
    return _Batch(len(due), tuple(removed))


def _review_content(connection: psycopg.Connection[Any], *, grace: float, keep: float) -> _Batch:
    due = connection.execute(_DUE, {"kind": "c", "batch": _BATCH}).fetchall()
    if not due:
        return _Batch(0)
    digests = [row.digest for row in due]
    locked = [row.digest for row in connection.execute(_LOCK_CONTENT, {"digests": digests})]
    params: dict[str, Any] = {"digests": locked, "grace": grace, "keep": keep}
    deleted = connection.execute(_DELETE_CONTENT, params).fetchall() if locked else []
    states = connection.execute(_CONTENT_STATES, {"digests": digests, "grace": grace}).fetchall()
    _settle(connection, "c", states, {(0, digest) for digest in locked})
    removed = (RemovedBlob(digest=decode_digest(row.digest), size=row.size) for row in deleted)
    return _Batch(len(due), tuple(removed))


def _settle(connection: psycopg.Connection[Any], kind: str, states: Sequence[Any], locked: set[_Key]) -> None:
    """Take from the queue what is absent or used, and postpone the rest.

    What is used now is queued again by the change that lets go of it. That change waits for the row of the queue.
    """
    done: list[_Key] = []
    later: list[tuple[_Key, Any]] = []
    for row in states:
        key = (row.repository, row.digest)
        if row.absent or (row.used and key in locked):
            done.append(key)
        else:
            later.append((key, row.due if row.young else None))
    if done:
        connection.execute(_FORGET, {"kind": kind, **_columns(done)})
    if later:
        params = {"kind": kind, "busy": _BUSY, "due": [due for _, due in later], **_columns([key for key, _ in later])}
        connection.execute(_POSTPONE, params)


def _columns(keys: Sequence[_Key]) -> dict[str, Any]:
    return {"repositories": [key[0] for key in keys], "digests": [key[1] for key in keys]}
