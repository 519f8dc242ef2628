"""The tables of the first release."""

from alembic import op

revision = "0001"
down_revision = None
usable_from = "0001"

_TABLES = """
CREATE TABLE repositories (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE,
    used bigint  -- bytes of its blobs and manifests; NULL until a quota asks for them
);

CREATE TABLE content (
    digest bytea PRIMARY KEY,
    size bigint NOT NULL,
    key text,      -- the object; NULL with inline NULL: the content is absent until it is pushed again
    inline bytea,  -- the bytes of a manifest
    touched timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE blobs (
    repository bigint NOT NULL REFERENCES repositories,
    digest bytea NOT NULL REFERENCES content,
    touched timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (repository, digest)
);
CREATE INDEX blobs_by_digest ON blobs (digest, repository);

CREATE TABLE manifests (
    repository bigint NOT NULL REFERENCES repositories,
    digest bytea NOT NULL REFERENCES content,
    media_type text NOT NULL,
    subject bytea,
    artifact_type text COLLATE "C",
    referrer text,  -- the descriptor in a list of referrers as JSON
    touched timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (repository, digest)
);
CREATE INDEX manifests_by_digest ON manifests (digest, repository);
CREATE INDEX referrers ON manifests (repository, subject, digest) WHERE subject IS NOT NULL;
CREATE INDEX referrers_by_type ON manifests (repository, subject, artifact_type, digest) WHERE subject IS NOT NULL;

CREATE TABLE children (
    repository bigint NOT NULL,
    manifest bytea NOT NULL,
    child bytea NOT NULL,
    PRIMARY KEY (repository, manifest, child),
    FOREIGN KEY (repository, manifest) REFERENCES manifests ON DELETE CASCADE
);
CREATE INDEX children_by_child ON children (repository, child);

CREATE TABLE tags (
    repository bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    PRIMARY KEY (repository, name),
    FOREIGN KEY (repository, digest) REFERENCES manifests ON DELETE CASCADE
);
CREATE INDEX tags_by_digest ON tags (repository, digest);

CREATE TABLE uploads (
    id text PRIMARY KEY,
    repository text COLLATE "C" NOT NULL,
    owner text NOT NULL,
    holder text NOT NULL,
    algorithm text NOT NULL,
    size bigint NOT NULL DEFAULT 0,                  -- bytes received
    hash bytea,                                      -- the hash of these bytes; NULL: they are read and hashed at the end
    key text,                                        -- the object of the parts
    multipart text,                                  -- the multipart upload of the parts
    part_size bigint,
    etags text[] NOT NULL DEFAULT '{}',              -- of the parts
    pieces jsonb NOT NULL DEFAULT '[]',              -- [[key, size], ...]: bytes after the parts
    epoch bigint NOT NULL DEFAULT 0,                 -- the number of the lease
    lease timestamptz NOT NULL DEFAULT '-infinity',  -- its end
    created timestamptz NOT NULL DEFAULT clock_timestamp(),
    written timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX uploads_by_holder ON uploads (holder);
CREATE INDEX uploads_by_repository ON uploads (repository, id);
CREATE INDEX uploads_by_written ON uploads (written);

CREATE TABLE garbage (
    key text PRIMARY KEY,
    multipart text,                        -- a multipart upload of the key, which is aborted first
    after timestamptz NOT NULL,
    doomed boolean NOT NULL DEFAULT false,  -- the object may be deleted at any moment; the key is never used again
    tries integer NOT NULL DEFAULT 0,
    error text
);
CREATE INDEX garbage_by_after ON garbage (after);

CREATE TABLE review (  -- what may have become unreferenced
    kind "char" NOT NULL,         -- b: a blob of a repository; c: content
    repository bigint NOT NULL,  -- 0 for content
    digest bytea NOT NULL,
    after timestamptz NOT NULL,
    PRIMARY KEY (kind, repository, digest)
);
CREATE INDEX review_by_after ON review (kind, after);

CREATE TABLE copies (  -- manifests and tags whose copies in the object store are outdated
    repository bigint NOT NULL,
    reference text COLLATE "C" NOT NULL,  -- a digest or a tag
    after timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (repository, reference)
);
CREATE INDEX copies_by_after ON copies (after);

CREATE TABLE leases (
    name text PRIMARY KEY,
    holder text NOT NULL,
    until timestamptz NOT NULL,
    done timestamptz NOT NULL DEFAULT '-infinity'
);

CREATE TABLE secrets (name text PRIMARY KEY, value bytea NOT NULL);

CREATE TABLE failures (  -- failed logins
    client text NOT NULL,
    name text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX failures_by_client ON failures (client, name, at);
CREATE INDEX failures_by_at ON failures (at);
"""


def upgrade() -> None:
    """Create the tables."""
    op.execute(_TABLES)


def downgrade() -> None:
    """Delete the tables."""
    op.execute(
        "DROP TABLE failures, secrets, leases, copies, review, garbage, uploads, tags, children, manifests, blobs, content,"
        " repositories"
    )
