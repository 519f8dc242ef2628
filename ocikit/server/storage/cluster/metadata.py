"""Metadata in PostgreSQL, for any number of processes on any number of machines.

No change waits for a lock of all changes, and none waits for the object store. Times are those of the database's clock. Content
whose row has neither a key nor bytes counts as absent: a client that pushes it again repairs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field

from ocikit.server.storage.base import (
    BlobInUse,
    BlobStore,
    ManifestRow,
    Metadata,
    MissingChildren,
    PreconditionFailed,
    QuotaExceeded,
    UnknownUpload,
)
from ocikit.server.storage.cluster import links, lists, manifests, removals
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest, is_storable
from ocikit.server.storage.cluster.repositories import INSERT, Repositories, Unmeasured
from ocikit.server.storage.cluster.sessions import Received
from ocikit.spec.digest import Digest

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

#: The part of the grace period after which a request renews a timestamp, so that most requests write no row.
_STALE = 0.25

_FIND = f"""
SELECT c.size, c.key, CASE WHEN c.key IS NULL THEN c.inline END AS inline, b.touched < {links.STALE} AND NOT EXISTS (
    SELECT FROM children k WHERE k.repository = b.repository AND k.child = b.digest
) AS renew
FROM blobs b JOIN content c USING (digest)
WHERE b.repository = %(repository)s AND b.digest = %(digest)s AND {links.IS_STORED}
"""

_TOUCH_BLOB = """
UPDATE blobs SET touched = clock_timestamp() WHERE repository = %(repository)s AND digest = %(digest)s RETURNING digest
"""

_TOUCH_MANIFEST = _TOUCH_BLOB.replace("blobs", "manifests")

_TOUCH_CONTENT = f"UPDATE content SET touched = clock_timestamp() WHERE digest = %(digest)s AND touched < {links.STALE}"

_SIZES = f"""
SELECT k.digest, h.size FROM unnest(%(digests)s::bytea[]) AS k (digest), LATERAL (
    SELECT c.size FROM blobs b JOIN content c USING (digest)
    WHERE b.repository = %(repository)s AND b.digest = k.digest AND {links.IS_STORED}
    UNION ALL
    SELECT c.size FROM manifests m JOIN content c USING (digest)
    WHERE m.repository = %(repository)s AND m.digest = k.digest AND c.inline IS NOT NULL
    LIMIT 1
) AS h
"""

_BY_TAG = f"""
SELECT {lists.COLUMNS}, c.inline, false AS renew
FROM tags t JOIN manifests m ON m.repository = t.repository AND m.digest = t.digest JOIN content c ON c.digest = m.digest
WHERE t.repository = %(repository)s AND t.name = %(tag)s AND c.inline IS NOT NULL
"""

_BY_DIGEST = f"""
SELECT {lists.COLUMNS}, c.inline, m.touched < {links.STALE}
    AND NOT EXISTS (SELECT FROM children k WHERE k.repository = m.repository AND k.child = m.digest)
    AND NOT EXISTS (SELECT FROM tags t WHERE t.repository = m.repository AND t.digest = m.digest) AS renew
FROM manifests m JOIN content c USING (digest)
WHERE m.repository = %(repository)s AND m.digest = %(digest)s AND c.inline IS NOT NULL
"""


@define(eq=False)
class PostgresMetadata(Metadata):
    """Metadata in PostgreSQL.

    Args:
        database: Database with the tables of the registry.
        grace: Seconds that unreferenced content is kept.
        keep_deleted: Seconds that the objects of deleted content are kept.
    """

    database: Database
    grace: float = 3600.0
    keep_deleted: float = 7 * 86400.0
    _repositories: Repositories = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Begin without known repositories."""
        self._repositories = Repositories(self.database)

    def now(self) -> float:
        """Return the time of the database in seconds since the epoch."""
        return self.database.now()

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    # Repositories

    def repositories(self, *, last: str = "", limit: int) -> list[str]:
        """Return repository names after `last` in order."""
        return [row.name for row in self.database.rows(lists.REPOSITORIES, {"last": lists.bound(last), "limit": limit})]

    def has_repository(self, repository: str) -> bool:
        """Return True if anything was ever pushed to the repository."""
        return self._repositories.find(repository) is not None

    def used_bytes(self, repository: str) -> int:
        """Return the total size of a repository's blobs and manifests.

        The first call sums them. From then on each change adds its own bytes.
        """
        found = self._repositories.find(repository)
        return 0 if found is None else self._repositories.used_bytes(found)

    # Blobs

    def find(self, repository: str, digest: Digest) -> Any:
        """Return where the content of a blob is, and renew its timestamp.

        Returns:
            A row with `size` [bytes], `key` of the object, and `inline`, the bytes of content without a key; or None.
        """
        found = self._repositories.find(repository)
        if found is None:
            return None
        params = {"repository": found, "digest": encode_digest(digest), "stale": self._stale}
        row = self.database.row(_FIND, params)
        # A referenced blob needs no renewal: deleting the manifest sets its timestamp
        if row is not None and row.renew and not self.database.change(_TOUCH_BLOB, params):
            return None
        return row

    def blob_size(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob, and renew its timestamp."""
        row = self.find(repository, digest)
        return None if row is None else int(row.size)

    def repositories_with(self, digest: Digest) -> Iterator[str]:
        """Yield the repositories that have a blob."""
        return lists.holders(self.database, digest)

    def protect_from_gc(self, digest: Digest) -> None:
        """Renew the timestamp of content."""
        self.database.change(_TOUCH_CONTENT, {"digest": encode_digest(digest), "stale": self._stale})

    def add_blob(
        self,
        repository: str,
        digest: Digest,
        size: int,
        *,
        quota: int | None = None,
        received: Received | None = None,
    ) -> None:
        """Add a blob to a repository.

        Args:
            repository: Repository name.
            digest: Digest of the blob.
            size: Size of the blob in bytes.
            quota: Maximum of `used_bytes`.
            received: The object of an upload, which ends with this change. Without one the content counts as absent, unless
                it was stored before.

        Raises:
            QuotaExceeded: The blob does not fit; the upload goes on.
            UnknownUpload: The upload has ended without this blob, or another request has it.
        """
        params = {"digest": encode_digest(digest), "size": size}
        if received is not None:
            params |= {"upload": received.upload, "epoch": received.epoch, "key": received.key}
        if not self._link(repository, links.ADD if received is None else links.ADD_RECEIVED, params, quota):
            # The change may have been made although its answer was lost
            found = self._repositories.find(repository)
            if found is None or not self.database.row(links.HAS_BLOB, {**params, "repository": found}):
                raise UnknownUpload(received.upload if received is not None else "")

    def mount(self, repository: str, digest: Digest, source: str, *, quota: int | None = None) -> bool:
        """Add another repository's blob to a repository.

        Returns:
            False if the source does not have the blob.

        Raises:
            QuotaExceeded: The blob does not fit; nothing changed.
        """
        found = self._repositories.find(source)
        params = {"digest": encode_digest(digest), "source": found}
        return found is not None and self._link(repository, links.MOUNT, params, quota)

    def remove_blob(self, repository: str, digest: Digest, *, force: bool = False) -> bool:
        """Remove a blob from a repository.

        Raises:
            BlobInUse: A manifest references it and `force` is False.
        """
        found = self._repositories.find(repository)
        return found is not None and self.database.transaction(
            lambda connection: removals.remove_blob(connection, found, digest, grace=self.grace, force=force),
            idempotent=False,
        )

    def sizes(self, repository: str, digests: Sequence[Digest]) -> dict[Digest, int]:
        """Return the sizes of those digests that are blobs or manifests of the repository."""
        found = self._repositories.find(repository) if digests else None
        if found is None:
            return {}
        params = {"repository": found, "digests": [encode_digest(digest) for digest in digests]}
        return {decode_digest(row.digest): int(row.size) for row in self.database.rows(_SIZES, params)}

    # Manifests

    def put_manifest(
        self,
        repository: str,
        row: ManifestRow,
        tags: Sequence[str] = (),
        *,
        require_children: bool = False,
        if_match: Sequence[Digest] | None = None,
        if_none_match: bool = False,
        quota: int | None = None,
    ) -> None:
        """Add a manifest with its bytes, and set tags to it.

        Raises:
            MissingChildren: A child is missing and `require_children` is True.
            PreconditionFailed: A condition does not hold.
            QuotaExceeded: The manifest does not fit.
        """
        conditional = if_match is not None or if_none_match
        children = sorted({encode_digest(child) for child in row.children})
        names = sorted(set(tags))
        params = {
            "digest": encode_digest(row.digest),
            "size": row.size,
            "raw": row.raw,
            "media_type": row.media_type,
            "subject": None if row.subject is None else encode_digest(row.subject),
            "artifact_type": row.artifact_type,
            "referrer": row.referrer or None,
            "reference": row.digest,
            "children": children,
            "wanted": len(children),
            "require": require_children,
            "tags": names,
        }

        def check(result: Any) -> None:
            if conditional:
                _check_conditions(row, names, result, if_match)
            _check_quota(repository, result, quota)
            if not result.complete:
                missing = {*children} - {*result.children}
                raise MissingChildren({decode_digest(child) for child in missing})

        statement = manifests.PUT_NEW_TAGS if if_none_match and if_match is None else manifests.PUT
        self._write(repository, statement, params, check, quota=quota, conditional=conditional)

    def manifest(self, repository: str, reference: str) -> ManifestRow | None:
        """Return the manifest of a tag or digest with its bytes, and renew its timestamp."""
        found = self._repositories.find(repository)
        if found is None or not is_storable(reference):
            return None
        params: dict[str, Any] = {"repository": found}
        if ":" in reference:
            params |= {"digest": encode_digest(reference), "stale": self._stale}
            row = self.database.row(_BY_DIGEST, params)
        else:
            row = self.database.row(_BY_TAG, {**params, "tag": reference})
        if row is None or (row.renew and not self.database.change(_TOUCH_MANIFEST, params)):
            return None
        return lists.manifest_row(row, row.inline)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Delete a manifest with its tags."""
        found = self._repositories.find(repository)
        return found is not None and self.database.transaction(
            lambda connection: removals.delete_manifest(connection, found, digest, grace=self.grace), idempotent=False
        )

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Delete a tag."""
        found = self._repositories.find(repository) if is_storable(tag) else None
        return found is not None and self.database.transaction(
            lambda connection: removals.delete_tag(connection, found, tag), idempotent=False
        )

    def tags(self, repository: str, *, last: str = "", limit: int) -> list[str]:
        """Return tags after `last` in order."""
        found = self._repositories.find(repository)
        if found is None:
            return []
        params = {"repository": found, "last": lists.bound(last), "limit": limit}
        return [row.name for row in self.database.rows(lists.TAGS, params)]

    def referrers(
        self, repository: str, subject: Digest, *, artifact_type: str | None = None, last: str = "", limit: int
    ) -> list[ManifestRow]:
        """Return the manifests with the subject, ordered by digest."""
        found = self._repositories.find(repository)
        if found is None or (artifact_type is not None and not is_storable(artifact_type)):
            return []
        return lists.referrers(self.database, found, subject, artifact_type=artifact_type, last=last, limit=limit)

    # Garbage collection

    def iter_references(self) -> Iterator[tuple[Digest, str, int]]:
        """Yield digest, repository and size of all blobs and manifests."""
        return lists.references(self.database)

    def untagged_manifests(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Yield unused manifests that no tag reaches."""
        return lists.untagged(self.database, before)

    def delete_untagged(self, repository: str, before: float) -> list[tuple[Digest, int]]:
        """Delete a repository's manifests that no tag reaches, many in a transaction."""
        found = self._repositories.find(repository)
        deleted: list[tuple[Digest, int]] = []
        more = found is not None
        while more:
            batch, more = self.database.transaction(
                lambda connection: removals.delete_untagged(connection, found, before, grace=self.grace),  # type: ignore[arg-type]  # not None here
                idempotent=False,
                seconds=300,
            )
            deleted += batch
        return deleted

    def unreferenced_blobs(self, before: float) -> Iterator[tuple[str, Digest, int]]:
        """Yield old blobs that no manifest of the repository references."""
        return lists.unreferenced_blobs(self.database, before)

    def unreferenced_content(self, before: float) -> Iterator[tuple[Digest, int]]:
        """Yield old content that is neither a blob nor a manifest."""
        return lists.unreferenced_content(self.database, before)

    def register_orphans(self, digests: Sequence[Digest]) -> int:
        """Return 0: an object without a row is found by its key, not by a digest."""
        return 0

    def remove_blob_if_unused(self, repository: str, digest: Digest, before: float) -> bool:
        """Remove a blob if it is still unreferenced and old."""
        found = self._repositories.find(repository)
        if found is None:
            return False
        try:
            return self.database.transaction(
                lambda connection: removals.remove_blob(connection, found, digest, grace=self.grace, before=before),
                idempotent=False,
            )
        except BlobInUse:
            return False

    def delete_if_unreferenced(self, digest: Digest, before: float, blobs: BlobStore) -> bool:
        """Delete the row of content if it is still unreferenced and old. The sweep deletes its object later."""
        return self.database.transaction(
            lambda connection: removals.delete_content(connection, digest, before, keep=self.keep_deleted),
            idempotent=False,
        )

    def exclusive(self, work: Callable[[], T]) -> T:
        """Run a function at once: no write of an object is harmed by a concurrent change."""
        return work()

    @property
    def _stale(self) -> float:
        return self.grace * _STALE

    def _link(self, repository: str, statement: str, params: dict[str, Any], quota: int | None) -> bool:
        """Add a blob; return False if its content or its upload does not exist.

        Raises:
            QuotaExceeded: It does not fit.
        """
        return self._write(repository, statement, params, lambda row: _check_quota(repository, row, quota), quota=quota)

    def _write(
        self,
        repository: str,
        statement: str,
        params: dict[str, Any],
        check: Callable[[Any], None],
        *,
        quota: int | None,
        conditional: bool = False,
    ) -> bool:
        """Run a statement that changes a repository; return False if it returns no row.

        Args:
            repository: Name of the repository, which may not exist.
            statement: Statement that changes rows.
            params: Parameters of the statement.
            check: Raises an error if the result is not allowed; the change is undone then.
            quota: Maximum of the bytes that the repository uses, or None.
            conditional: Whether the change is not made twice if its answer is lost.
        """
        found = self._repositories.find(repository)
        params = {**params, "repository": found, "stale": self._stale, "grace": self.grace}
        if found is not None and quota is None and not conditional:
            # The statement itself changes nothing if a child or the content is missing
            for row in self.database.change(statement, params):
                check(row)
                return True
            return False

        def work(connection: psycopg.Connection[Any]) -> int:
            repo = found
            if repo is None:
                start = {"name": repository, "start": None if quota is None else 0}
                repo = connection.execute(INSERT, start).fetchone().id  # type: ignore[union-attr]  # always a row
            row = connection.execute(statement, {**params, "repository": repo}).fetchone()
            if row is None:
                raise _Missing
            check(row)
            return int(repo)

        try:
            self._repositories.remember(repository, self.database.transaction(work, idempotent=not conditional))
        except _Missing:
            return False
        except Unmeasured:
            # A repository that another process has inserted meanwhile is known now
            self._repositories.measure(found or self._repositories.find(repository) or 0)
            return self._write(repository, statement, params, check, quota=quota, conditional=conditional)
        return True


class _Missing(Exception):
    """What a change needs does not exist; nothing changed."""


def _check_quota(repository: str, row: Any, quota: int | None) -> None:
    """Check that a change has left a repository within its quota.

    Raises:
        QuotaExceeded: It has not.
        Unmeasured: The bytes of the repository were not summed yet.
    """
    if quota is None or not row.inserted:
        return
    if row.used is None:
        raise Unmeasured
    if row.used > quota:
        raise QuotaExceeded(repository)


def _check_conditions(row: ManifestRow, names: Sequence[str], result: Any, if_match: Sequence[Digest] | None) -> None:
    """Compare what tags were, or whether the manifest existed, with the client's condition.

    Raises:
        PreconditionFailed: The condition does not hold.
    """
    current = {name: decode_digest(target) for name, target in zip(result.names, result.targets, strict=True)}
    if not names:
        names = [row.digest]
        current = {} if result.inserted else {row.digest: row.digest}
    for name in names:
        digest = current.get(name)
        if if_match is None and digest is not None:
            raise PreconditionFailed(f"{name} exists already: {digest}")
        if if_match is not None and digest not in if_match:
            raise PreconditionFailed(f"{name} is now {digest}" if digest else f"{name} does not exist")
    if if_match is None and result.complete and names != [row.digest] and result.tagged < len(names):
        raise PreconditionFailed("a tag was set meanwhile")
