"""Synthetic rows of a registry in PostgreSQL, as many as years of pushes would leave.

Rows come from `INSERT … SELECT generate_series` into the real tables with their real indexes. Blobs have no bytes. Manifests
are valid: their rows contain documents with the right digests, so that clients can pull them.

- Five layers of its own for each manifest, and one layer that manifests of all repositories share.
- Ten tags for each manifest, written as ten manifests at a time to one repository.
- One in twenty groups of ten manifests goes to the repository `all/large`: statistics must not hide it.
- One manifest in ten has a subject.
- Reviews, garbage, uploads and failed logins that are not due.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import psycopg
from psycopg import sql

#: Blobs of each manifest that no other manifest has.
LAYERS = 5

#: Manifests that are pushed to one repository one after the other.
GROUP = 10

#: Tags of each manifest.
TAGS = 10

#: Layers that manifests of all repositories share.
SHARED = 100

#: One group in so many is in the large repository.
SKEW = 20

#: The repository with a twentieth of all rows.
LARGE = "all/large"

#: Manifests of one transaction.
_BATCH = 50_000

_FUNCTIONS = """
CREATE FUNCTION pg_temp.blob(n bigint) RETURNS bytea IMMUTABLE LANGUAGE sql AS
$$ SELECT '\\x01'::bytea || sha256(convert_to('blob ' || n, 'UTF8')) $$;
CREATE FUNCTION pg_temp.shared(n bigint) RETURNS bytea IMMUTABLE LANGUAGE sql AS
$$ SELECT '\\x01'::bytea || sha256(convert_to('shared ' || n, 'UTF8')) $$;
CREATE FUNCTION pg_temp.key(digest bytea) RETURNS text IMMUTABLE LANGUAGE sql AS
$$ SELECT 'c/' || substr(md5(digest), 1, 2) || '/' || substr(md5(digest), 3, 26) $$;
CREATE FUNCTION pg_temp.layer(digest bytea) RETURNS text IMMUTABLE LANGUAGE sql AS
$$ SELECT '{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:' || encode(substr(digest, 2), 'hex')
   || '","size":1048576}' $$;
CREATE FUNCTION pg_temp.repository(j bigint, repositories bigint) RETURNS bigint IMMUTABLE LANGUAGE sql AS
$$ SELECT CASE WHEN (j / %(group)s) %% %(skew)s = 0 THEN 1 ELSE 2 + (j / %(group)s) %% (repositories - 1) END $$;
CREATE FUNCTION pg_temp.document(j bigint, subject bytea) RETURNS text IMMUTABLE LANGUAGE sql AS
$$ SELECT '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":'
   || replace(pg_temp.layer(pg_temp.blob(j * %(layers)s)), '.layer.v1.tar+gzip', '.config.v1+json') || ',"layers":['
   || pg_temp.layer(pg_temp.shared(j %% %(shared)s)) || ','
   || (SELECT string_agg(pg_temp.layer(pg_temp.blob(j * %(layers)s + n)), ',') FROM generate_series(1, %(layers)s - 1) n)
   || ']' || coalesce(',"artifactType":"application/x-signature","subject":' || replace(pg_temp.layer(subject),
   '.layer.v1.tar+gzip', '.manifest.v1+json'), '') || '}' $$
"""

_STATEMENTS = {
    "manifests of this batch": """
CREATE TEMP TABLE batch ON COMMIT DROP AS
SELECT j, pg_temp.repository(j, %(repositories)s) AS repository, pg_temp.document(j, NULL) AS document, NULL::bytea AS subject
FROM generate_series(%(first)s, %(last)s) j""",
    "subjects": """
WITH subjects AS (SELECT j, '\\x01'::bytea || sha256(convert_to(document, 'UTF8')) AS digest FROM batch
    WHERE j %% %(group)s = 0)
UPDATE batch SET subject = subjects.digest, document = pg_temp.document(batch.j, subjects.digest)
FROM subjects WHERE subjects.j = batch.j - %(group)s + 1 AND batch.j %% %(group)s = %(group)s - 1""",
    "content of manifests": """
INSERT INTO content (digest, size, inline, touched)
SELECT '\\x01'::bytea || sha256(convert_to(document, 'UTF8')), octet_length(document), convert_to(document, 'UTF8'),
    clock_timestamp() - random() * interval '300 days' FROM batch""",
    "content": """
INSERT INTO content (digest, size, key, touched)
SELECT pg_temp.blob(n), 1048576, pg_temp.key(pg_temp.blob(n)), clock_timestamp() - random() * interval '300 days'
FROM generate_series(%(first)s * %(layers)s, (%(last)s + 1) * %(layers)s - 1) n""",
    "blobs": """
INSERT INTO blobs (repository, digest, touched)
SELECT pg_temp.repository(n / %(layers)s, %(repositories)s), pg_temp.blob(n), clock_timestamp() - interval '1 day'
FROM generate_series(%(first)s * %(layers)s, (%(last)s + 1) * %(layers)s - 1) n""",
    "shared blobs": """
INSERT INTO blobs (repository, digest, touched)
SELECT repository, pg_temp.shared(j %% %(shared)s), clock_timestamp() - interval '1 day' FROM batch ON CONFLICT DO NOTHING""",
    "manifests": """
INSERT INTO manifests (repository, digest, media_type, subject, artifact_type, referrer, touched)
SELECT repository, '\\x01'::bytea || sha256(convert_to(document, 'UTF8')), 'application/vnd.oci.image.manifest.v1+json',
    subject, CASE WHEN subject IS NOT NULL THEN 'application/x-signature' END,
    CASE WHEN subject IS NOT NULL THEN '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:'
    || encode(sha256(convert_to(document, 'UTF8')), 'hex') || '","size":' || octet_length(document)
    || ',"artifactType":"application/x-signature"}' END, clock_timestamp() - interval '1 day' FROM batch""",
    "children": """
INSERT INTO children (repository, manifest, child)
SELECT repository, '\\x01'::bytea || sha256(convert_to(document, 'UTF8')), child FROM batch CROSS JOIN LATERAL (
    SELECT pg_temp.blob(j * %(layers)s + n) AS child FROM generate_series(0, %(layers)s - 1) n
    UNION ALL SELECT pg_temp.shared(j %% %(shared)s)) AS layers""",
    "tags": """
INSERT INTO tags (repository, name, digest)
SELECT repository, 'v' || j || '.' || n, '\\x01'::bytea || sha256(convert_to(document, 'UTF8'))
FROM batch CROSS JOIN generate_series(0, %(tags)s - 1) n""",
}

_START = """
INSERT INTO repositories (id, name) OVERRIDING SYSTEM VALUE
SELECT n, CASE n WHEN 1 THEN %(large)s ELSE 'team-' || n %% 97 || '/service-' || n END
FROM generate_series(1, %(repositories)s) n;
SELECT setval(pg_get_serial_sequence('repositories', 'id'), %(repositories)s);
INSERT INTO content (digest, size, key)
SELECT pg_temp.shared(n), 1048576, pg_temp.key(pg_temp.shared(n)) FROM generate_series(0, %(shared)s - 1) n
"""

_FUTURE = """
INSERT INTO review (kind, repository, digest, after)
SELECT 'b', 2 + n %% (%(repositories)s - 1), pg_temp.blob(n), clock_timestamp() + interval '30 days' + n * interval '1 s'
FROM generate_series(1, %(manifests)s / 10) n;
INSERT INTO garbage (key, after)
SELECT pg_temp.key(sha256(convert_to('garbage ' || n, 'UTF8'))), clock_timestamp() + interval '30 days' + n * interval '1 s'
FROM generate_series(1, %(manifests)s / 10) n;
INSERT INTO uploads (id, repository, owner, holder, algorithm, size, written)
SELECT md5(n::text) || md5('x' || n), 'team-1/service-' || n, 'user ' || n %% 100, 'user ' || n %% 100, 'sha256', n,
    clock_timestamp() + interval '30 days'
FROM generate_series(1, 5000) n;
INSERT INTO failures (client, name, at)
SELECT '10.0.' || n / 256 || '.' || n %% 256, 'ada', clock_timestamp() + interval '30 days' FROM generate_series(1, 10000) n
"""

#: Statements that take all their constants from here, because functions have no parameters.
_CONSTANTS = {"group": GROUP, "skew": SKEW, "layers": LAYERS, "shared": SHARED}


def repositories_of(blobs: int) -> int:
    """Return the number of repositories that share so many blobs."""
    return max(blobs // 500, 20)


def fill(database: psycopg.Connection[tuple[object, ...]], blobs: int, report: Callable[[str], None]) -> None:
    """Fill empty tables.

    Args:
        database: A connection of a superuser with autocommit: foreign keys are not checked.
        blobs: Number of blobs. There are twice as many tags, and a fifth as many manifests.
        report: Receives a line for each batch.
    """
    manifests, repositories = blobs // LAYERS, repositories_of(blobs)
    params = {
        **_CONSTANTS,
        "tags": TAGS,
        "large": LARGE,
        "repositories": repositories,
        "manifests": manifests,
    }
    database.execute("SET session_replication_role = replica")
    database.execute("SET synchronous_commit = off")
    database.execute(literal(_FUNCTIONS, params))
    database.execute(literal(_START, params))
    begun = time.monotonic()
    for first in range(0, manifests, _BATCH):
        last = min(first + _BATCH, manifests) - 1
        with database.transaction():
            for statement in _STATEMENTS.values():
                database.execute(literal(statement, {**params, "first": first, "last": last}))
        report(f"{last + 1} of {manifests} manifests after {time.monotonic() - begun:.0f} s")
    database.execute(literal(_FUTURE, params))
    database.execute("VACUUM (ANALYZE)")
    report(f"vacuumed after {time.monotonic() - begun:.0f} s")
    database.execute("RESET session_replication_role")
    database.execute("CHECKPOINT")


def literal(statement: str, params: dict[str, object]) -> bytes:
    """Return statements with their parameters as literals: several statements, and functions, have no parameters."""
    return (statement % {name: sql.Literal(value).as_string(None) for name, value in params.items()}).encode()
