"""SQL tables of the metadata and prebuilt statements for the requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

schema = sa.MetaData()

#: SQLite compares names and digests byte by byte.
_Text = sa.String()


def _table(name: str, *columns: Any) -> sa.Table:
    return sa.Table(name, schema, *columns, sqlite_with_rowid=False)


def _references_manifest(digest: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["repository", digest], ["manifests.repository", "manifests.digest"], ondelete="CASCADE"
    )


repositories = _table("repositories", sa.Column("name", _Text, primary_key=True))

#: Stored content of all repositories. `touched` is when it was last stored, referenced or released, in seconds since
#: the epoch.
content = _table(
    "content",
    sa.Column("digest", _Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("touched", sa.Double, nullable=False),
)

#: Blobs of a repository. `touched` is when a blob was last pushed, requested while unreferenced, or released by a
#: manifest.
blobs = _table(
    "blobs",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("digest", _Text, sa.ForeignKey("content.digest"), primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("touched", sa.Double, nullable=False),
    sa.Index("blobs_by_digest", "digest"),
)

#: Manifests of a repository. `touched` is when a manifest was last pushed, requested by digest while unreferenced, or
#: released by a tag or manifest.
manifests = _table(
    "manifests",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("digest", _Text, sa.ForeignKey("content.digest"), primary_key=True),
    sa.Column("media_type", _Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("subject", _Text),
    sa.Column("artifact_type", _Text),
    sa.Column("referrer", sa.Text, nullable=False),
    sa.Column("touched", sa.Double, nullable=False),
    sa.Index("manifests_by_digest", "digest"),
    sa.Index("referrers", "repository", "subject", "digest"),
    sa.Index("referrers_by_type", "repository", "subject", "artifact_type", "digest"),
)

#: References from a manifest to a blob or manifest of its repository.
children = _table(
    "children",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("manifest", _Text, primary_key=True),
    sa.Column("child", _Text, primary_key=True),
    _references_manifest("manifest"),
    sa.Index("children_by_child", "repository", "child"),
)

tags = _table(
    "tags",
    sa.Column("repository", _Text, primary_key=True),
    sa.Column("name", _Text, primary_key=True),
    sa.Column("digest", _Text, nullable=False),
    _references_manifest("digest"),
    sa.Index("tags_by_digest", "repository", "digest"),
)

# SQLAlchemy reserves column names in the SET clause of an UPDATE, so parameters have names of their own
_repository: sa.BindParameter[str] = sa.bindparam("r")
_digest: sa.BindParameter[str] = sa.bindparam("d")

IS_REFERENCED = sa.exists().where(children.c.repository == _repository, children.c.child == _digest)
IS_BLOB = (blobs.c.repository == _repository) & (blobs.c.digest == _digest)
IS_MANIFEST = (manifests.c.repository == _repository) & (manifests.c.digest == _digest)
IS_TAG = (tags.c.repository == _repository) & (tags.c.name == sa.bindparam("tag"))

#: Conditions of content that is neither a blob nor a manifest of any repository.
IS_UNREFERENCED_CONTENT = (
    ~sa.exists().where(blobs.c.digest == content.c.digest),
    ~sa.exists().where(manifests.c.digest == content.c.digest),
)

_select_manifest = sa.select(
    manifests.c.digest,
    manifests.c.media_type,
    manifests.c.size,
    manifests.c.subject,
    manifests.c.artifact_type,
    manifests.c.referrer,
    manifests.c.touched,
)

select_blob = sa.select(blobs.c.size, blobs.c.touched, IS_REFERENCED.label("referenced")).where(IS_BLOB)
select_used_bytes = sa.select(
    sum(
        (
            sa.select(sa.func.coalesce(sa.func.sum(table.c.size), 0))
            .where(table.c.repository == _repository)
            .scalar_subquery()
            for table in (blobs, manifests)
        ),
        start=sa.literal_column("0"),
    )
)
select_content_touched = sa.select(content.c.touched).where(content.c.digest == _digest)
select_by_digest = _select_manifest.add_columns(
    (IS_REFERENCED | sa.exists().where(tags.c.repository == _repository, tags.c.digest == _digest)).label("referenced")
).where(IS_MANIFEST)
select_by_tag = _select_manifest.join(
    tags, (tags.c.repository == manifests.c.repository) & (tags.c.digest == manifests.c.digest)
).where(IS_TAG)
select_tags = (
    sa.select(tags.c.name)
    .where(tags.c.repository == _repository, tags.c.name > sa.bindparam("last"))
    .order_by(tags.c.name)
    .limit(sa.bindparam("limit"))
)
_select_referrers = (
    _select_manifest.where(
        manifests.c.repository == _repository,
        manifests.c.subject == _digest,
        manifests.c.digest > sa.bindparam("last"),
    )
    .order_by(manifests.c.digest)
    .limit(sa.bindparam("limit"))
)
# Without the hint SQLite scans all manifests in order, which takes 14 times as long in a repository with 100,000
select_referrers = _select_referrers.with_hint(manifests, "INDEXED BY referrers", "sqlite")
select_referrers_by_type = _select_referrers.where(manifests.c.artifact_type == sa.bindparam("type")).with_hint(
    manifests, "INDEXED BY referrers_by_type", "sqlite"
)
select_sizes = sa.union_all(
    *(
        sa.select(table.c.digest, table.c.size).where(
            table.c.repository == _repository, table.c.digest.in_(sa.bindparam("digests", expanding=True))
        )
        for table in (blobs, manifests)
    )
)

#: Children of a manifest that its repository does not have.
select_missing_children = sa.select(children.c.child).where(
    children.c.repository == _repository,
    children.c.manifest == _digest,
    ~sa.exists().where(blobs.c.repository == _repository, blobs.c.digest == children.c.child),
    ~sa.exists().where(manifests.c.repository == _repository, manifests.c.digest == children.c.child),
)

touch_content = sa.update(content).where(content.c.digest == _digest).values(touched=sa.bindparam("now"))
touch_blob = sa.update(blobs).where(IS_BLOB).values(touched=sa.bindparam("now"))
touch_manifest = sa.update(manifests).where(IS_MANIFEST).values(touched=sa.bindparam("now"))
#: Touches the manifest that a tag points to, unless it is the given one.
touch_tagged = (
    sa.update(manifests)
    .where(
        manifests.c.repository == _repository,
        manifests.c.digest.in_(sa.select(tags.c.digest).where(IS_TAG, tags.c.digest != _digest)),
    )
    .values(touched=sa.bindparam("now"))
)
insert_manifest = sa.insert(manifests)
insert_children = sa.insert(children)


def _upsert(table: sa.Table, key: Sequence[str], *updated: str) -> Any:
    """Return a statement that inserts a row or updates the existing one."""
    row = insert(table)
    return row.on_conflict_do_update(index_elements=key, set_={name: row.excluded[name] for name in updated})


upsert_repository = insert(repositories).on_conflict_do_nothing()
upsert_content = _upsert(content, ["digest"], "size", "touched")
upsert_blob = _upsert(blobs, ["repository", "digest"], "size", "touched")
upsert_tag = _upsert(tags, ["repository", "name"], "digest")
insert_orphan = insert(content).on_conflict_do_nothing()
