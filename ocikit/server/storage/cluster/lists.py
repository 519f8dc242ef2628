"""Lists of what a registry has, page by page: each page is one query with an index."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ocikit.errors import InvalidDigest
from ocikit.server.storage.base import ManifestRow
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest
from ocikit.server.storage.cluster.removals import UNTAGGED
from ocikit.spec.digest import Digest

#: Rows that are read at once.
_PAGE_SIZE = 1000

_SURROGATES = re.compile("[\ud800-\udfff]")

REPOSITORIES = "SELECT name FROM repositories WHERE name > %(last)s ORDER BY name LIMIT %(limit)s"

TAGS = "SELECT name FROM tags WHERE repository = %(repository)s AND name > %(last)s ORDER BY name LIMIT %(limit)s"

#: The columns of a `ManifestRow`, which `manifest_row` reads.
COLUMNS = "m.digest, m.media_type, c.size, m.subject, m.artifact_type, m.referrer"

_REFERRERS = f"""
SELECT {COLUMNS} FROM manifests m JOIN content c USING (digest)
WHERE m.repository = %(repository)s AND m.subject = %(subject)s AND m.digest > %(last)s AND c.inline IS NOT NULL
ORDER BY m.digest LIMIT %(limit)s
"""

_REFERRERS_BY_TYPE = _REFERRERS.replace("ORDER BY", "AND m.artifact_type = %(type)s ORDER BY")

_HOLDERS = """
SELECT r.id, r.name FROM blobs b JOIN repositories r ON r.id = b.repository
WHERE b.digest = %(digest)s AND b.repository > %(last)s ORDER BY b.repository LIMIT 100
"""

_REFERENCES = """
SELECT page.digest, page.repository, r.name, c.size FROM (
    (SELECT digest, repository FROM blobs WHERE (digest, repository) > (%(digest)s, %(repository)s)
        ORDER BY digest, repository LIMIT %(limit)s)
    UNION
    (SELECT digest, repository FROM manifests WHERE (digest, repository) > (%(digest)s, %(repository)s)
        ORDER BY digest, repository LIMIT %(limit)s)
    ORDER BY digest, repository LIMIT %(limit)s
) AS page JOIN repositories r ON r.id = page.repository JOIN content c ON c.digest = page.digest
ORDER BY page.digest, page.repository
"""

#: Repositories with old manifests without a tag, which a manifest may reach.
_CANDIDATES = """
SELECT r.id, r.name FROM repositories r, LATERAL (
    SELECT FROM manifests m WHERE m.repository = r.id AND m.touched < to_timestamp(%(before)s)
        AND NOT EXISTS (SELECT FROM tags t WHERE t.repository = r.id AND t.digest = m.digest) LIMIT 1
) AS old WHERE r.name > %(last)s ORDER BY r.name LIMIT 50
"""

#: All unreferenced blobs are in the queue of reviews, so that no table of all blobs is read.
_UNREFERENCED_BLOBS = """
SELECT q.repository, q.digest, r.name, c.size
FROM review q, LATERAL (
    SELECT FROM blobs b WHERE b.repository = q.repository AND b.digest = q.digest AND b.touched < to_timestamp(%(before)s)
        AND NOT EXISTS (SELECT FROM children k WHERE k.repository = q.repository AND k.child = q.digest) LIMIT 1
) AS unused, LATERAL (SELECT size FROM content WHERE digest = q.digest LIMIT 1) AS c, LATERAL (
    SELECT name FROM repositories WHERE id = q.repository LIMIT 1
) AS r
WHERE q.kind = 'b' AND (q.repository, q.digest) > (%(repository)s, %(digest)s)
ORDER BY q.repository, q.digest LIMIT %(limit)s
"""

_UNREFERENCED_CONTENT = """
SELECT q.digest, c.size FROM review q, LATERAL (
    SELECT c.size FROM content c WHERE c.digest = q.digest AND c.touched < to_timestamp(%(before)s)
        AND NOT EXISTS (SELECT FROM blobs b WHERE b.digest = q.digest)
        AND NOT EXISTS (SELECT FROM manifests m WHERE m.digest = q.digest) LIMIT 1
) AS c
WHERE q.kind = 'c' AND q.repository = 0 AND q.digest > %(digest)s
ORDER BY q.digest LIMIT %(limit)s
"""


def bound(text: str) -> str:
    r"""Return where a list goes on after a text that a client sent, for a comparison in PostgreSQL.

    Names have no NUL: those after "a\0b" are those after "a". They have no surrogates either, which sort after all ASCII.

    >>> bound("v1\0beta")
    'v1'
    """
    return _SURROGATES.sub("\U0010ffff", text.partition("\0")[0])


def referrers(
    database: Database, repository: int, subject: Digest, *, artifact_type: str | None, last: str, limit: int
) -> list[ManifestRow]:
    """Return the manifests with a subject, ordered by digest."""
    params: dict[str, Any] = {"repository": repository, "subject": encode_digest(subject), "limit": limit}
    params["last"] = _digest_bound(last)
    if artifact_type is not None:
        params["type"] = artifact_type
    rows = database.rows(_REFERRERS if artifact_type is None else _REFERRERS_BY_TYPE, params)
    return [manifest_row(row) for row in rows]


def holders(database: Database, digest: Digest) -> Iterator[str]:
    """Yield the repositories that have a blob."""
    params = {"digest": encode_digest(digest), "last": 0}
    while rows := database.rows(_HOLDERS, params):
        for row in rows:
            yield row.name
        params["last"] = rows[-1].id


def references(database: Database) -> Iterator[tuple[Digest, str, int]]:
    """Yield digest, repository and size of all blobs and manifests, ordered by digest."""
    for row in _pages(database, _REFERENCES, {}):
        yield decode_digest(row.digest), row.name, int(row.size)


def untagged(database: Database, before: float) -> Iterator[tuple[str, Digest, int]]:
    """Yield old manifests that no tag and no recent manifest reaches."""
    params: dict[str, Any] = {"last": "", "before": before}
    while candidates := database.rows(_CANDIDATES, params, seconds=300):
        for candidate in candidates:
            for row in database.rows(UNTAGGED, {"repository": candidate.id, "before": before}, seconds=300):
                yield candidate.name, decode_digest(row.digest), int(row.size)
        params["last"] = candidates[-1].name


def unreferenced_blobs(database: Database, before: float) -> Iterator[tuple[str, Digest, int]]:
    """Yield old blobs that no manifest of the repository references."""
    for row in _pages(database, _UNREFERENCED_BLOBS, {"before": before}):
        yield row.name, decode_digest(row.digest), int(row.size)


def unreferenced_content(database: Database, before: float) -> Iterator[tuple[Digest, int]]:
    """Yield old content that is neither a blob nor a manifest."""
    for row in _pages(database, _UNREFERENCED_CONTENT, {"before": before}):
        yield decode_digest(row.digest), int(row.size)


def manifest_row(row: Any, raw: bytes | None = None) -> ManifestRow:
    """Return the metadata of a manifest from a row of `COLUMNS`."""
    return ManifestRow(
        digest=decode_digest(row.digest),
        media_type=row.media_type,
        size=int(row.size),
        subject=None if row.subject is None else decode_digest(row.subject),
        artifact_type=row.artifact_type,
        referrer=row.referrer or "",
        raw=raw,
    )


def _pages(database: Database, sql: str, params: dict[str, Any]) -> Iterator[Any]:
    params = {**params, "digest": b"", "repository": 0, "limit": _PAGE_SIZE}
    while True:
        rows = database.rows(sql, params, seconds=60)
        yield from rows
        if len(rows) < _PAGE_SIZE:
            return
        params["digest"] = rows[-1].digest
        params["repository"] = getattr(rows[-1], "repository", 0)


def _digest_bound(last: str) -> bytes:
    """Return where a list of digests goes on after a text that a client sent."""
    try:
        return encode_digest(Digest(last))
    except InvalidDigest:
        # No digest is equal to it: the list goes on with the next digest of its algorithm
        return b""
