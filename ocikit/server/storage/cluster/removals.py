"""Changes that remove blobs, manifests and tags from repositories, and content from the database.

A removal locks the row in a statement of its own and looks for users in the next one, which sees what was committed before the
lock was granted. One statement is not enough: it would not see a manifest that was put while it waited for the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ocikit.server.storage.base import BlobInUse
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest
from ocikit.server.storage.cluster.repositories import LOCK
from ocikit.spec.digest import Digest

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

#: Manifests that one transaction deletes.
_DELETE_BATCH = 1000

_LOCK_CONTENT = """
SELECT digest FROM content WHERE digest = ANY(%(digests)s::bytea[]) ORDER BY digest FOR NO KEY UPDATE"""

_LOCK_BLOB = """
SELECT 1 FROM blobs WHERE repository = %(repository)s AND digest = %(digest)s
    AND touched < coalesce(to_timestamp(%(before)s), 'infinity') FOR UPDATE"""

_IS_REFERENCED = "SELECT 1 FROM children WHERE repository = %(repository)s AND child = %(digest)s LIMIT 1"

_RELEASED = """
reviewed AS (
    INSERT INTO review (kind, repository, digest, after)
    SELECT 'c', 0, digest, clock_timestamp() + %(grace)s * interval '1 second' FROM removed ORDER BY digest
    ON CONFLICT (kind, repository, digest) DO UPDATE SET after = EXCLUDED.after
), sized AS (
    UPDATE content c SET touched = clock_timestamp() FROM removed WHERE c.digest = removed.digest
    RETURNING c.digest, c.size
), counted AS (
    UPDATE repositories r SET used = greatest(r.used - (SELECT coalesce(sum(size), 0) FROM sized), 0)
    WHERE r.id = %(repository)s AND r.used IS NOT NULL
)"""

_REMOVE_BLOB = f"""
WITH removed AS (
    DELETE FROM blobs WHERE repository = %(repository)s AND digest = %(digest)s RETURNING digest
), {_RELEASED}
SELECT digest FROM removed
"""

#: Deletions of manifests wait for each other, and for nothing else, in each repository.
_ONE_DELETION = "SELECT pg_advisory_xact_lock(7011, hashint8(%(repository)s))"

_LOCK_MANIFESTS = """
SELECT digest FROM manifests WHERE repository = %(repository)s AND digest = ANY(%(digests)s::bytea[])
ORDER BY digest FOR UPDATE"""

#: Tags are locked after manifests, as a push does.
_LOCK_TAGS = """
SELECT t.name FROM (
    SELECT t.name FROM unnest(%(digests)s::bytea[]) AS k (digest), LATERAL (
        SELECT name FROM tags WHERE repository = %(repository)s AND digest = k.digest OFFSET 0
    ) AS t ORDER BY t.name
) AS k, LATERAL (
    SELECT t.name FROM tags t WHERE t.repository = %(repository)s AND t.name = k.name LIMIT 1 FOR UPDATE
) AS t
"""

#: The grace period of children and referrers starts again. What another change has locked is renewed or deleted by it.
_RELEASE_BLOBS = """
WITH children AS (
    SELECT DISTINCT child FROM children WHERE repository = %(repository)s AND manifest = ANY(%(digests)s::bytea[])
), blobs_of AS (
    SELECT b.digest FROM children, LATERAL (
        SELECT b.digest FROM blobs b WHERE b.repository = %(repository)s AND b.digest = children.child LIMIT 1
    ) AS b
), reviewed AS (
    INSERT INTO review (kind, repository, digest, after)
    SELECT 'b', %(repository)s, digest, clock_timestamp() + %(grace)s * interval '1 second' FROM blobs_of ORDER BY digest
    ON CONFLICT (kind, repository, digest) DO UPDATE SET after = EXCLUDED.after
)
UPDATE blobs b SET touched = clock_timestamp() FROM (
    SELECT b.digest FROM blobs_of, LATERAL (
        SELECT b.digest FROM blobs b WHERE b.repository = %(repository)s AND b.digest = blobs_of.digest
        LIMIT 1 FOR NO KEY UPDATE OF b SKIP LOCKED
    ) AS b
) AS k WHERE b.repository = %(repository)s AND b.digest = k.digest
"""

_RELEASE_MANIFESTS = """
UPDATE manifests m SET touched = clock_timestamp() FROM (
    SELECT m.digest FROM (
        SELECT child AS digest FROM children WHERE repository = %(repository)s AND manifest = ANY(%(digests)s::bytea[])
        UNION
        SELECT m.digest FROM unnest(%(digests)s::bytea[]) AS k (subject), LATERAL (
            SELECT m.digest FROM manifests m WHERE m.repository = %(repository)s AND m.subject = k.subject OFFSET 0
        ) AS m
    ) AS k, LATERAL (
        SELECT m.digest FROM manifests m WHERE m.repository = %(repository)s AND m.digest = k.digest
            AND m.digest <> ALL(%(digests)s::bytea[]) LIMIT 1 FOR NO KEY UPDATE OF m SKIP LOCKED
    ) AS m
) AS k WHERE m.repository = %(repository)s AND m.digest = k.digest
"""

_DELETE_MANIFESTS = f"""
WITH untagged AS (
    SELECT name FROM tags WHERE repository = %(repository)s AND digest = ANY(%(digests)s::bytea[])
), removed AS (
    DELETE FROM manifests WHERE repository = %(repository)s AND digest = ANY(%(digests)s::bytea[]) RETURNING digest
), {_RELEASED}, copied AS (
    INSERT INTO copies (repository, reference)
    SELECT %(repository)s, reference FROM (SELECT name FROM untagged UNION SELECT unnest(%(references)s::text[])) AS g (reference)
    ORDER BY reference
    ON CONFLICT (repository, reference) DO UPDATE SET after = clock_timestamp()
)
SELECT digest, size FROM sized
"""

_DELETE_TAG = """
WITH removed AS (
    DELETE FROM tags WHERE repository = %(repository)s AND name = %(tag)s RETURNING digest
), abandoned AS (
    UPDATE manifests m SET touched = clock_timestamp() FROM (
        SELECT m.digest FROM removed, LATERAL (
            SELECT m.digest FROM manifests m WHERE m.repository = %(repository)s AND m.digest = removed.digest
            LIMIT 1 FOR NO KEY UPDATE OF m SKIP LOCKED
        ) AS m
    ) AS k WHERE m.repository = %(repository)s AND m.digest = k.digest
), copied AS (
    INSERT INTO copies (repository, reference) SELECT %(repository)s, %(tag)s FROM removed
    ON CONFLICT (repository, reference) DO UPDATE SET after = clock_timestamp()
)
SELECT digest FROM removed
"""

#: Old manifests that no tag and no recent manifest reaches. A reached manifest reaches its children and its referrers.
UNTAGGED = """
WITH RECURSIVE reached (digest) AS (
    SELECT m.digest FROM manifests m WHERE m.repository = %(repository)s AND (m.touched >= to_timestamp(%(before)s)
        OR EXISTS (SELECT FROM tags t WHERE t.repository = %(repository)s AND t.digest = m.digest))
    UNION
    SELECT linked.digest FROM reached, LATERAL (
        SELECT m.digest FROM children k JOIN manifests m ON m.repository = k.repository AND m.digest = k.child
        WHERE k.repository = %(repository)s AND k.manifest = reached.digest
        UNION ALL
        SELECT m.digest FROM manifests m WHERE m.repository = %(repository)s AND m.subject = reached.digest
    ) AS linked
)
SELECT m.digest, c.size FROM manifests m JOIN content c USING (digest)
WHERE m.repository = %(repository)s AND NOT EXISTS (SELECT FROM reached WHERE reached.digest = m.digest)
ORDER BY m.digest
"""

_PARENTS = """
SELECT child FROM children WHERE repository = %(repository)s AND child = ANY(%(digests)s::bytea[])
    AND manifest = ANY(%(digests)s::bytea[])
"""

_LOCK_UNUSED = """
SELECT digest FROM content WHERE digest = %(digest)s AND touched < to_timestamp(%(before)s) FOR UPDATE SKIP LOCKED
"""

_DELETE_CONTENT = """
WITH removed AS (
    DELETE FROM content c WHERE digest = %(digest)s
        AND NOT EXISTS (SELECT FROM blobs b WHERE b.digest = c.digest)
        AND NOT EXISTS (SELECT FROM manifests m WHERE m.digest = c.digest)
    RETURNING digest, key
), discarded AS (
    INSERT INTO garbage (key, after)
    SELECT key, clock_timestamp() + %(keep)s * interval '1 second' FROM removed WHERE key IS NOT NULL
    ON CONFLICT (key) DO NOTHING
)
SELECT digest FROM removed
"""


def remove_blob(
    connection: Connection,
    repository: int,
    digest: Digest,
    *,
    grace: float,
    before: float | None = None,
    force: bool = False,
) -> bool:
    """Remove a blob from a repository.

    Args:
        connection: Connection in a transaction.
        repository: Id of the repository.
        digest: Digest of the blob.
        grace: Seconds after which its content is reviewed.
        before: Time in seconds since the epoch: a blob that was used later stays. None for no limit.
        force: Whether to remove it although a manifest references it.

    Returns:
        False if the repository does not have the blob, or if it was used later.

    Raises:
        BlobInUse: A manifest references it and `force` is False.
    """
    encoded = encode_digest(digest)
    params = {"repository": repository, "digest": encoded, "digests": [encoded], "before": before, "grace": grace}
    connection.execute(LOCK, params)
    # The collector does not wait for requests: what they have locked is in use
    skip = "" if before is None else " SKIP LOCKED"
    locked = connection.execute(_LOCK_CONTENT + skip, params).fetchall()
    if not locked or connection.execute(_LOCK_BLOB + skip, params).fetchone() is None:
        return False
    if not force and connection.execute(_IS_REFERENCED, params).fetchone() is not None:
        raise BlobInUse(digest)
    connection.execute(_REMOVE_BLOB, params)
    return True


def delete_manifest(connection: Connection, repository: int, digest: Digest, *, grace: float) -> bool:
    """Delete a manifest with its tags; return False if the repository does not have it."""
    connection.execute(_ONE_DELETION, {"repository": repository})
    return bool(_delete(connection, repository, [encode_digest(digest)], grace=grace))


def delete_tag(connection: Connection, repository: int, tag: str) -> bool:
    """Delete a tag; return False if it does not exist."""
    return connection.execute(_DELETE_TAG, {"repository": repository, "tag": tag}).fetchone() is not None


def delete_untagged(
    connection: Connection, repository: int, before: float, *, grace: float
) -> tuple[list[tuple[Digest, int]], bool]:
    """Delete manifests that no tag reaches, many at once.

    Returns:
        The deleted manifests with their sizes, and whether there are more.
    """
    params: dict[str, Any] = {"repository": repository, "before": before}
    connection.execute(_ONE_DELETION, params)
    batch = [row.digest for row in connection.execute(UNTAGGED, params)]
    last = len(batch) <= _DELETE_BATCH
    if not last:
        # An index is deleted before its children, because their grace period starts with its deletion
        children = {row.child for row in connection.execute(_PARENTS, {**params, "digests": batch})}
        batch = [digest for digest in batch if digest not in children][:_DELETE_BATCH]
    if not batch:
        return [], False
    connection.execute(LOCK, params)
    # The collector does not wait for requests: what they have locked is in use
    for lock in (_LOCK_CONTENT, _LOCK_MANIFESTS):
        batch = [row.digest for row in connection.execute(f"{lock} SKIP LOCKED", {**params, "digests": batch})]
    # What was put before the locks is seen now, and what comes later waits for them
    unused = {row.digest for row in connection.execute(UNTAGGED, params)}
    deleted = _delete(connection, repository, [digest for digest in batch if digest in unused], grace=grace)
    return deleted, bool(deleted) and not last


def delete_content(connection: Connection, digest: Digest, before: float, *, keep: float) -> bool:
    """Delete content that no repository has had since a time; its object is garbage after `keep` seconds."""
    params = {"digest": encode_digest(digest), "before": before, "keep": keep}
    if connection.execute(_LOCK_UNUSED, params).fetchone() is None:
        return False
    return connection.execute(_DELETE_CONTENT, params).fetchone() is not None


def _delete(
    connection: Connection, repository: int, digests: Sequence[bytes], *, grace: float
) -> list[tuple[Digest, int]]:
    references = [decode_digest(digest) for digest in digests]
    params = {"repository": repository, "digests": list(digests), "references": references, "grace": grace}
    connection.execute(LOCK, params)
    connection.execute(_LOCK_CONTENT, params)
    locked = [row.digest for row in connection.execute(_LOCK_MANIFESTS, params)]
    if not locked:
        return []
    connection.execute(_LOCK_TAGS, params)
    connection.execute(_RELEASE_BLOBS, params)
    connection.execute(_RELEASE_MANIFESTS, params)
    return [(decode_digest(row.digest), int(row.size)) for row in connection.execute(_DELETE_MANIFESTS, params)]
