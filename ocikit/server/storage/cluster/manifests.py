"""The statement that puts a manifest, with its content, children and tags."""

from __future__ import annotations

from ocikit.server.storage.cluster.links import IS_STORED, STALE
from ocikit.server.storage.cluster.repositories import LOCK

# Rows are looked up one by one with `LATERAL` and `LIMIT 1`. For `digest = ANY(…)`, the database reads all rows of the
# repository where it takes the repository for a small one, as it does before it has counted the rows of a new table.

#: The children that the repository has. Removals of them wait for this change, and then see that it needs them.
_CHILDREN = f"""
kid_blobs AS (
    SELECT b.digest FROM repo, unnest(%(children)s::bytea[]) AS k (child), LATERAL (
        SELECT b.digest FROM blobs b JOIN content c USING (digest)
        WHERE b.repository = repo.id AND b.digest = k.child AND {IS_STORED} LIMIT 1 FOR KEY SHARE OF b
    ) AS b
), kid_manifests AS (
    SELECT m.digest FROM repo, unnest(%(children)s::bytea[]) AS k (child), LATERAL (
        SELECT m.digest FROM manifests m JOIN content c USING (digest)
        WHERE m.repository = repo.id AND m.digest = k.child AND c.inline IS NOT NULL LIMIT 1 FOR KEY SHARE OF m
    ) AS m
), kids AS MATERIALIZED (
    SELECT digest FROM kid_blobs UNION SELECT digest FROM kid_manifests
), complete AS (
    SELECT repo.* FROM repo WHERE (SELECT count(*) FROM kids) = %(wanted)s OR NOT %(require)s
)"""

#: The tags that move, and the manifests that they leave. Rows are locked in one order, so that two moves do not deadlock.
_LEFT = """
old AS (
    SELECT t.name, t.digest FROM complete, unnest(%(tags)s::text[]) AS k (name), LATERAL (
        SELECT t.name, t.digest FROM tags t WHERE t.repository = complete.id AND t.name = k.name LIMIT 1 FOR UPDATE OF t
    ) AS t
), held AS (
    SELECT m.digest FROM complete, (SELECT digest FROM old UNION SELECT %(digest)s ORDER BY 1) AS k, LATERAL (
        SELECT m.digest FROM manifests m WHERE m.repository = complete.id AND m.digest = k.digest
        LIMIT 1 FOR NO KEY UPDATE OF m
    ) AS m
), abandoned AS (
    UPDATE manifests m SET touched = clock_timestamp() FROM complete, held
    WHERE m.repository = complete.id AND m.digest = held.digest AND m.digest <> %(digest)s
)"""

_MANIFEST = f"""
present AS (
    SELECT c.digest FROM content c, complete
    WHERE c.digest = %(digest)s AND c.touched >= {STALE} AND c.inline IS NOT NULL FOR KEY SHARE OF c
), stored AS (
    INSERT INTO content AS c (digest, size, inline)
    SELECT %(digest)s, %(size)s, %(raw)s FROM complete WHERE NOT EXISTS (SELECT FROM present)
    ON CONFLICT (digest) DO UPDATE SET inline = EXCLUDED.inline, size = EXCLUDED.size, touched = clock_timestamp()
    RETURNING c.digest
), manifest AS (
    INSERT INTO manifests AS m (repository, digest, media_type, subject, artifact_type, referrer)
    SELECT complete.id, kept.digest, %(media_type)s, %(subject)s, %(artifact_type)s, %(referrer)s
    FROM complete, (SELECT * FROM present UNION ALL SELECT * FROM stored) AS kept
    WHERE (SELECT count(*) FROM held) >= 0
    ON CONFLICT (repository, digest) DO UPDATE SET touched = clock_timestamp() RETURNING m.repository, m.xmax = 0 AS inserted
), parts AS (
    INSERT INTO children (repository, manifest, child)
    SELECT repository, %(digest)s, unnest(%(children)s::bytea[]) FROM manifest WHERE inserted
    ON CONFLICT DO NOTHING
)"""

_TAGGED = """
tagged AS (
    INSERT INTO tags AS t (repository, name, digest)
    SELECT repository, unnest(%(tags)s::text[]), %(digest)s FROM manifest
    ON CONFLICT (repository, name) {conflict} RETURNING t.name
)"""

_REST = """
reviewed AS (
    DELETE FROM review WHERE ctid = ANY(ARRAY(
        SELECT q.ctid FROM manifest, unnest(%(children)s::bytea[]) AS k (child), LATERAL (
            SELECT q.ctid FROM review q WHERE q.kind = 'b' AND q.repository = manifest.repository AND q.digest = k.child
            LIMIT 1 FOR UPDATE OF q SKIP LOCKED
        ) AS q
    ))
), copied AS (
    INSERT INTO copies (repository, reference)
    SELECT repo.id, changed.reference FROM repo, (
        SELECT %(reference)s AS reference FROM manifest WHERE inserted UNION ALL SELECT name FROM tagged
    ) AS changed ORDER BY changed.reference
    ON CONFLICT (repository, reference) DO UPDATE SET after = clock_timestamp()
), counted AS (
    UPDATE repositories r SET used = r.used + %(size)s FROM complete, manifest, (SELECT count(*) FROM tagged) AS last
    WHERE r.id = complete.id AND complete.used IS NOT NULL AND manifest.inserted RETURNING r.used
)
SELECT repo.id, EXISTS (SELECT FROM complete) AS complete, ARRAY(SELECT digest FROM kids) AS children,
    coalesce((SELECT inserted FROM manifest), false) AS inserted, (SELECT used FROM counted) AS used,
    ARRAY(SELECT name FROM old) AS names, ARRAY(SELECT digest FROM old) AS targets, (SELECT count(*) FROM tagged) AS tagged
FROM repo
"""

_MOVE = "DO UPDATE SET digest = EXCLUDED.digest WHERE t.digest <> EXCLUDED.digest"


_PARTS = (f"WITH repo AS ({LOCK})", _CHILDREN, _LEFT, _MANIFEST)

#: Puts a manifest and moves tags to it.
PUT = ",".join((*_PARTS, _TAGGED.format(conflict=_MOVE), _REST))

#: Puts a manifest with new tags; existing ones stay as they are.
PUT_NEW_TAGS = ",".join((*_PARTS, _TAGGED.format(conflict="DO NOTHING"), _REST))
