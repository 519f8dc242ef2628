"""The statement that puts a manifest, with its content, children and tags."""

from __future__ import annotations

from ocikit.server.storage.cluster.links import IS_STORED, STALE
from ocikit.server.storage.cluster.repositories import LOCK

# Rows are looked up one by one with `LATERAL` and `LIMIT 1`. For `digest = ANY(…)`, the database reads all rows of the
# repository where it takes the repository for a small one, as it does before it has counted the rows of a new table.

#: The children that the repository has. Removals of them wait for this change, and then see that it needs them.
_CHILDREN = f"""
k AS (SELECT unnest(%(children)s::bytea[]) AS child),
n AS (SELECT unnest(%(tags)s::text[]) AS name),
kid_blobs AS (
    SELECT b.digest FROM repo, k, LATERAL (
        SELECT b.digest FROM blobs b JOIN content c USING (digest)
        WHERE b.repository = repo.id AND b.digest = k.child AND {IS_STORED} LIMIT 1 FOR KEY SHARE OF b
    ) AS b
), kid_manifests AS (
    SELECT m.digest FROM repo, k, LATERAL (
        SELECT m.digest FROM manifests m JOIN content c USING (digest)
        WHERE m.repository = repo.id AND m.digest = k.child AND c.inline IS NOT NULL LIMIT 1 FOR KEY SHARE OF m
    ) AS m
), kids AS (
    SELECT digest FROM kid_blobs UNION SELECT digest FROM kid_manifests
), fit AS (
    SELECT repo.* FROM repo WHERE (SELECT count(*) FROM kids) = %(wanted)s OR NOT %(require)s
)"""

#: The content. Recent content is only locked, in a mode that pushes share. It is updated otherwise.
_CONTENT = f"""
present AS (
    SELECT c.digest FROM content c, fit
    WHERE c.digest = %(digest)s AND c.touched >= {STALE} AND c.inline IS NOT NULL FOR KEY SHARE OF c
), stored AS (
    INSERT INTO content AS c (digest, size, inline)
    SELECT %(digest)s, %(size)s, %(raw)s FROM fit WHERE NOT EXISTS (SELECT FROM present)
    ON CONFLICT (digest) DO UPDATE SET inline = EXCLUDED.inline, size = EXCLUDED.size, touched = clock_timestamp()
    RETURNING c.digest
), kept AS (SELECT digest FROM present UNION ALL SELECT digest FROM stored)"""

#: The manifest. First it is locked with those that the tags leave, in the order of their digests.
_MANIFEST = """
aimed AS (
    SELECT t.digest FROM fit, n, LATERAL (
        SELECT t.digest FROM tags t WHERE t.repository = fit.id AND t.name = n.name LIMIT 1
    ) AS t
), held AS (
    SELECT m.digest FROM fit, (SELECT digest FROM kept UNION SELECT digest FROM aimed ORDER BY 1) AS h, LATERAL (
        SELECT m.digest FROM manifests m WHERE m.repository = fit.id AND m.digest = h.digest
        LIMIT 1 FOR NO KEY UPDATE
    ) AS m
), made AS (
    INSERT INTO manifests AS m (repository, digest, media_type, subject, artifact_type, referrer)
    SELECT fit.id, kept.digest, %(media_type)s, %(subject)s, %(artifact_type)s, %(referrer)s
    FROM fit, kept WHERE (SELECT count(*) FROM held) >= 0
    ON CONFLICT (repository, digest) DO UPDATE SET touched = clock_timestamp() RETURNING m.repository, m.xmax = 0 AS inserted
), parts AS (
    INSERT INTO children (repository, manifest, child)
    SELECT repository, %(digest)s, child FROM made, k WHERE inserted
)"""

#: The tags, and the grace period of the manifests that they leave. One that another change has locked is renewed or deleted by it.
_TAGGED = """
old AS (
    SELECT t.name, t.digest FROM made, n, LATERAL (
        SELECT t.name, t.digest FROM tags t WHERE t.repository = made.repository AND t.name = n.name
        LIMIT 1 FOR UPDATE
    ) AS t
), abandoned AS (
    UPDATE manifests SET touched = clock_timestamp() WHERE ctid = ANY(ARRAY(
        SELECT m.ctid FROM made, old, LATERAL (
            SELECT m.ctid FROM manifests m WHERE m.repository = made.repository AND m.digest = old.digest
            LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
        ) AS m WHERE old.digest <> %(digest)s
    ))
), tagged AS (
    INSERT INTO tags AS t (repository, name, digest)
    SELECT repository, n.name, %(digest)s FROM made, n
    WHERE (SELECT count(*) FROM old) >= 0
    ON CONFLICT (repository, name) {conflict} RETURNING t.name
)"""

_REST = """
reviewed AS (
    DELETE FROM review WHERE ctid = ANY(ARRAY(
        SELECT q.ctid FROM made, k, LATERAL (
            SELECT q.ctid FROM review q WHERE q.kind = 'b' AND q.repository = made.repository AND q.digest = k.child
            LIMIT 1 FOR UPDATE SKIP LOCKED
        ) AS q
    ))
), copied AS (
    INSERT INTO copies (repository, reference)
    SELECT repo.id, changed.reference FROM repo, (
        SELECT %(reference)s AS reference FROM made WHERE inserted UNION ALL SELECT name FROM tagged
    ) AS changed ORDER BY changed.reference
    ON CONFLICT (repository, reference) DO UPDATE SET after = clock_timestamp()
), counted AS (
    UPDATE repositories r SET used = r.used + %(size)s FROM fit, made, (SELECT count(*) FROM tagged) AS last
    WHERE r.id = fit.id AND fit.used IS NOT NULL AND made.inserted RETURNING r.used
)
SELECT repo.id, EXISTS (SELECT FROM fit) AS complete, ARRAY(SELECT digest FROM kids) AS children,
    coalesce((SELECT inserted FROM made), false) AS inserted, (SELECT used FROM counted) AS used,
    ARRAY(SELECT name FROM old) AS names, ARRAY(SELECT digest FROM old) AS targets, (SELECT count(*) FROM tagged) AS tagged
FROM repo
"""

_MOVE = "DO UPDATE SET digest = EXCLUDED.digest WHERE t.digest <> EXCLUDED.digest"


_PARTS = (f"WITH repo AS ({LOCK})", _CHILDREN, _CONTENT, _MANIFEST)


def _joined(*parts: str) -> str:
    """Return a statement without line breaks: psycopg parses one above 4096 characters for each call."""
    return " ".join(",".join(parts).split()).replace("( ", "(").replace(" )", ")")


#: Puts a manifest and moves tags to it.
PUT = _joined(*_PARTS, _TAGGED.format(conflict=_MOVE), _REST)

#: Puts a manifest with new tags; existing ones stay as they are.
PUT_NEW_TAGS = _joined(*_PARTS, _TAGGED.format(conflict="DO NOTHING"), _REST)
