"""Statements that add blobs to repositories."""

from __future__ import annotations

from ocikit.server.storage.cluster.repositories import LOCK
from ocikit.server.storage.cluster.sessions import RECEIVED

#: Condition that content is stored.
IS_STORED = "(c.key IS NOT NULL OR c.inline IS NOT NULL)"

#: A time before which rows are renewed, so that most requests write none.
STALE = "clock_timestamp() - %(stale)s * interval '1 second'"

#: The content of another repository's blob. The lock excludes its deletion.
_MOUNTED = f"""
kept AS (
    SELECT c.digest, c.key, c.size FROM blobs b JOIN content c USING (digest)
    WHERE b.repository = %(source)s AND b.digest = %(digest)s AND {IS_STORED} FOR KEY SHARE OF c
)"""

#: Content with the key of a received object, unless it has one: then the received object is garbage. Recent content is only
#: locked, in a mode that pushes share. It is updated otherwise.
_STORED = f"""
present AS (
    SELECT c.digest, c.key, c.size FROM content c, origin
    WHERE c.digest = %(digest)s AND c.touched >= {STALE}
        AND (c.key IS NOT NULL OR (origin.key IS NULL AND c.inline IS NOT NULL)) FOR KEY SHARE OF c
), stored AS (
    INSERT INTO content AS c (digest, size, key)
    SELECT %(digest)s, %(size)s, origin.key FROM origin WHERE NOT EXISTS (SELECT FROM present)
    ON CONFLICT (digest) DO UPDATE SET key = coalesce(c.key, EXCLUDED.key), touched = clock_timestamp(),
        size = CASE WHEN c.key IS NULL THEN EXCLUDED.size ELSE c.size END
    RETURNING c.digest, c.key, c.size
), kept AS (SELECT * FROM present UNION ALL SELECT * FROM stored),
surplus AS (
    INSERT INTO garbage (key, after) SELECT origin.key, clock_timestamp() FROM origin, kept WHERE kept.key <> origin.key
    ON CONFLICT (key) DO UPDATE SET after = EXCLUDED.after
)"""

#: The blob, its review after a grace period, and the bytes that the repository uses.
_LINKED = f"""
blob AS (
    INSERT INTO blobs AS b (repository, digest) SELECT repo.id, kept.digest FROM repo, kept
    ON CONFLICT (repository, digest) DO UPDATE SET touched = clock_timestamp() WHERE b.touched < {STALE}
    RETURNING b.repository, b.digest, b.xmax = 0 AS inserted
), reviewed AS (
    INSERT INTO review (kind, repository, digest, after)
    SELECT 'b', repository, digest, clock_timestamp() + %(grace)s * interval '1 second' FROM blob WHERE inserted
    ON CONFLICT (kind, repository, digest) DO UPDATE SET after = EXCLUDED.after
), counted AS (
    UPDATE repositories r SET used = r.used + kept.size FROM repo, blob, kept
    WHERE r.id = repo.id AND repo.used IS NOT NULL AND blob.inserted RETURNING r.used
)
SELECT repo.id, (SELECT used FROM counted) AS used, coalesce((SELECT inserted FROM blob), false) AS inserted
FROM repo, kept
"""

#: Whether a repository has a blob with content.
HAS_BLOB = f"""
SELECT 1 FROM blobs b JOIN content c USING (digest)
WHERE b.repository = %(repository)s AND b.digest = %(digest)s AND {IS_STORED}
"""


_NO_ORIGIN = "origin AS (SELECT NULL::text AS key)"

#: Adds a blob whose content has a row already.
ADD = f"WITH {_NO_ORIGIN}, {_STORED}, repo AS ({LOCK}), {_LINKED}"

#: Adds the object of an upload, which ends. It returns no row if another request has the upload, or if the sweep has taken the object.
ADD_RECEIVED = (
    f"WITH {RECEIVED}, origin AS (SELECT %(key)s::text AS key FROM received), {_STORED}, repo AS ({LOCK}), {_LINKED}"
)

#: Adds another repository's blob. It returns no row if that does not have it.
MOUNT = f"WITH {_MOUNTED}, repo AS ({LOCK}), {_LINKED}"
