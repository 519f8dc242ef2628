"""Restoration of a lost database from the object store.

The copies of manifests have their rows and the keys of their blobs, and the copies of tags have their digests. What was pushed
but is in no manifest yet is lost. What changed after the last run of the copier is as it was before.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field, frozen

from ocikit.errors import InvalidArgument, InvalidDigest
from ocikit.server.storage.cluster.copies import MANIFESTS, TAGS, ManifestCopy, split_key
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest
from ocikit.server.storage.cluster.listing import Listing, content_pages, list_content
from ocikit.server.storage.cluster.object_store import ObjectStore
from ocikit.server.storage.cluster.parallel import parallel_map
from ocikit.spec.digest import Digest, new_hasher

if TYPE_CHECKING:
    import psycopg

T = TypeVar("T")

_log = logging.getLogger("ocikit.server")

#: Objects or rows of one transaction.
_BATCH = 200


#: Limit of a statement [seconds].
_SECONDS = 3600.0

#: Bytes that are hashed at once.
_CHUNK_SIZE = 1 << 20

#: The lease of a rebuild that has not ended. A database with rows is refused without it.
_MARK = "rebuild"

_IS_USED = """
SELECT (EXISTS (SELECT FROM repositories) OR EXISTS (SELECT FROM content))
    AND NOT EXISTS (SELECT FROM leases WHERE name = %(name)s) AS used
"""

_BEGIN = "INSERT INTO leases (name, holder, until) VALUES (%(name)s, '', '-infinity') ON CONFLICT (name) DO NOTHING"

_END = "DELETE FROM leases WHERE name = %(name)s"

_REPOSITORIES = """
INSERT INTO repositories (name) SELECT DISTINCT name FROM unnest(%(names)s::text[]) AS name ORDER BY name
ON CONFLICT (name) DO NOTHING
"""

_CONTENT = """
INSERT INTO content (digest, size, key)
SELECT DISTINCT ON (digest) digest, size, key
FROM unnest(%(digests)s::bytea[], %(sizes)s::bigint[], %(keys)s::text[]) AS blob (digest, size, key) ORDER BY digest, key
ON CONFLICT (digest) DO UPDATE SET key = coalesce(content.key, EXCLUDED.key)
"""

_INLINE = """
INSERT INTO content (digest, size, inline) VALUES (%(digest)s, %(size)s, %(raw)s)
ON CONFLICT (digest) DO UPDATE SET inline = EXCLUDED.inline
"""

_BLOBS = """
INSERT INTO blobs (repository, digest)
SELECT DISTINCT repositories.id, blob.digest FROM unnest(%(names)s::text[], %(digests)s::bytea[]) AS blob (name, digest)
JOIN repositories USING (name)
ON CONFLICT (repository, digest) DO NOTHING
"""

_MANIFEST = """
INSERT INTO manifests (repository, digest, media_type, subject, artifact_type, referrer)
SELECT id, %(digest)s, %(media_type)s, %(subject)s, %(artifact_type)s, %(referrer)s FROM repositories WHERE name = %(name)s
ON CONFLICT (repository, digest) DO NOTHING
"""

_CHILDREN = """
INSERT INTO children (repository, manifest, child)
SELECT DISTINCT id, %(digest)s::bytea, child FROM repositories, unnest(%(children)s::bytea[]) AS child WHERE name = %(name)s
ON CONFLICT (repository, manifest, child) DO NOTHING
"""

_TAGS = """
INSERT INTO tags (repository, name, digest)
SELECT manifests.repository, tag.name, manifests.digest
FROM unnest(%(repositories)s::text[], %(names)s::text[], %(digests)s::bytea[]) AS tag (repository, name, digest)
JOIN repositories ON repositories.name = tag.repository
JOIN manifests ON manifests.repository = repositories.id AND manifests.digest = tag.digest
ON CONFLICT (repository, name) DO NOTHING
"""

_LOSE = "UPDATE content SET key = NULL WHERE digest = ANY(%(digests)s)"

#: What manifests name and no row has; blobs of repositories without an object first.
_WANTED = """
SELECT blobs.digest, blobs.repository FROM content JOIN blobs USING (digest) WHERE key IS NULL AND inline IS NULL
UNION
SELECT children.child, children.repository FROM children
WHERE NOT EXISTS (
    SELECT FROM blobs WHERE blobs.repository = children.repository AND blobs.digest = children.child
) AND NOT EXISTS (
    SELECT FROM manifests WHERE manifests.repository = children.repository AND manifests.digest = children.child
)
"""

_FIND = """
WITH found AS (
    INSERT INTO content (digest, size, key) VALUES (%(digest)s, %(size)s, %(key)s)
    ON CONFLICT (digest) DO UPDATE SET key = EXCLUDED.key, size = EXCLUDED.size
    RETURNING digest
)
INSERT INTO blobs (repository, digest) SELECT repository, digest FROM found, unnest(%(repositories)s::bigint[]) AS repository
ON CONFLICT (repository, digest) DO NOTHING
"""

_DISCARD = """
INSERT INTO garbage (key, after) SELECT key, clock_timestamp() + %(keep)s * interval '1 second' FROM unnest(%(keys)s::text[]) AS key
ON CONFLICT (key) DO NOTHING
"""

_COUNTS = """
SELECT (SELECT count(*) FROM repositories) AS repositories, (SELECT count(*) FROM manifests) AS manifests,
    (SELECT count(*) FROM tags) AS tags, (SELECT count(*) FROM blobs) AS blobs
"""


@frozen(kw_only=True)
class Rebuilt:
    """What a rebuild has restored."""

    repositories: int
    manifests: int
    tags: int
    blobs: int
    """Blobs of repositories."""
    damaged: tuple[str, ...] = ()
    """Keys of copies that could not be used."""
    missing: tuple[Digest, ...] = ()
    """Content that manifests name and the object store does not have, such as layers that are stored elsewhere."""
    unused: int = 0
    """Objects that no manifest names. They are deleted later."""


def rebuild(metadata: str, blobs: str, *, keep_deleted: float, state: Path | None = None) -> Rebuilt:
    """Fill a new database with what the object store has.

    Args:
        metadata: URL of a migrated database without repositories, or of one whose rebuild was interrupted.
        blobs: URL of the object store.
        keep_deleted: Seconds after which objects are deleted that no manifest names.
        state: Folder for the list of all objects; None for a temporary one.

    Returns:
        The numbers of rows, and what is missing.

    Raises:
        InvalidArgument: The database has repositories, or a URL is invalid.
        Unavailable: The database or the object store cannot be reached. The rebuild can be started again.
    """
    from ocikit.server.storage.cluster.objects import open_objects  # noqa: PLC0415 - imports the clients of S3

    with tempfile.TemporaryDirectory(prefix="rebuild-", dir=state) as folder:
        objects = open_objects(blobs, state=Path(folder))
        database = Database(metadata)
        try:
            return _Rebuild(database, objects).run(Path(folder), keep_deleted)
        finally:
            database.close()


@define
class _Rebuild:
    """One rebuild."""

    _database: Database
    _objects: ObjectStore
    _damaged: list[str] = field(factory=list, init=False)

    def run(self, state: Path, keep: float) -> Rebuilt:
        database = self._database
        if database.row(_IS_USED, {"name": _MARK}).used:
            raise InvalidArgument(
                "the database has repositories",
                hint="make a new database with `python -m ocikit migrate`, and rebuild into that one",
            )
        database.change(_BEGIN, {"name": _MARK})
        for batch in _batches(parallel_map(self._read_manifest, self._keys(MANIFESTS))):
            copies = [item for item in batch if item is not None]
            database.transaction(partial(_insert_manifests, copies=copies), name="rebuild", seconds=_SECONDS)
        for tags in _batches(parallel_map(self._read_tag, self._keys(TAGS))):
            self._insert_tags([item for item in tags if item is not None])
        with list_content(self._objects, state) as listing:
            self._claim(listing)
            missing = self._find_wanted(listing)
            unused = 0
            for keys in listing.batches(_BATCH):
                unused += len(keys)
                database.change(_DISCARD, {"keys": [key for key, _ in keys], "keep": keep})
        database.change(_END, {"name": _MARK})
        counts = database.row(_COUNTS, seconds=_SECONDS)
        return Rebuilt(**counts._asdict(), damaged=tuple(self._damaged), missing=tuple(missing), unused=unused)

    def _keys(self, prefix: str) -> Iterator[str]:
        return (key for key, _, _ in self._objects.iterate(prefix))

    def _read(self, key: str) -> bytes:
        with self._objects.open(key) as file:
            return b"".join(iter(partial(file.read, _CHUNK_SIZE), b""))

    def _read_manifest(self, key: str) -> tuple[str, ManifestCopy] | None:
        """Return repository and copy of a key, in a thread; None if it is damaged."""
        repository, reference = split_key(key)
        try:
            copy = ManifestCopy.decode(self._read(key))
            if copy.digest != reference:
                raise ValueError(f"the object is a copy of {copy.digest}")
        except (KeyError, ValueError) as error:
            self._skip(key, error)
            return None
        return repository, copy

    def _read_tag(self, key: str) -> tuple[str, str, bytes] | None:
        """Return repository, tag and encoded digest of a key, in a thread; None if it is damaged."""
        repository, tag = split_key(key)
        try:
            return repository, tag, encode_digest(Digest(self._read(key).decode()))
        except (KeyError, ValueError, InvalidDigest) as error:
            self._skip(key, error)
            return None

    def _skip(self, key: str, error: Exception) -> None:
        _log.warning("the copy %s cannot be used: %s", key, error)
        self._damaged.append(key)

    def _insert_tags(self, tags: Sequence[tuple[str, str, bytes]]) -> None:
        params = {
            "repositories": [repository for repository, _, _ in tags],
            "names": [name for _, name, _ in tags],
            "digests": [digest for _, _, digest in tags],
        }
        self._database.change(_TAGS, params)

    def _claim(self, listing: Listing) -> None:
        """Take the objects of rows from the list, and the keys without an object from the rows."""
        for page in content_pages(self._database):
            rows = [row for row in page if row.key is not None]
            found = listing.sizes(row.key for row in rows)
            if lost := [row.digest for row in rows if found.get(row.key) != row.size]:
                self._database.change(_LOSE, {"digests": lost}, seconds=_SECONDS)
            listing.discard(row.key for row in rows if found.get(row.key) == row.size)

    def _find_wanted(self, listing: Listing) -> list[Digest]:
        """Look for wanted content in the objects that no copy names; return what is not found."""
        wanted: dict[Digest, list[int]] = {}
        for row in self._database.rows(_WANTED, seconds=_SECONDS):
            wanted.setdefault(decode_digest(row.digest), []).append(row.repository)
        if not wanted:
            return []
        algorithms = sorted({digest.algorithm for digest in wanted} & {"sha256", "sha512"})
        objects = (item for batch in listing.batches(_BATCH) for item in batch)
        claimed = []
        for key, size, digests in parallel_map(
            partial(self._identify, wanted=frozenset(wanted), algorithms=algorithms), objects
        ):
            for digest in digests & wanted.keys():
                params = {"digest": encode_digest(digest), "size": size, "key": key, "repositories": wanted.pop(digest)}
                self._database.change(_FIND, params)
                claimed.append(key)
        listing.discard(claimed)
        return sorted(wanted)

    def _identify(
        self, item: tuple[str, int], *, wanted: frozenset[Digest], algorithms: Sequence[str]
    ) -> tuple[str, int, set[Digest]]:
        """Return key, size and computed digests of an object, in a thread.

        The metadata of an object saves reading it, if that digest is not wanted. It is never used unverified.
        """
        key, size = item
        stated = self._objects.digest(key)
        if stated is not None and stated not in wanted:
            return key, size, set()
        hashers = {name: new_hasher(name) for name in ([stated.algorithm] if stated is not None else algorithms)}
        try:
            with self._objects.open(key) as file:
                while chunk := file.read(_CHUNK_SIZE):
                    for hasher in hashers.values():
                        hasher.update(chunk)
        except KeyError:
            return key, size, set()
        return key, size, {Digest(f"{name}:{hasher.hexdigest()}") for name, hasher in hashers.items()}


def _insert_manifests(connection: psycopg.Connection[Any], *, copies: Sequence[tuple[str, ManifestCopy]]) -> None:
    connection.execute(_REPOSITORIES, {"names": [repository for repository, _ in copies]})
    blobs = [
        (repository, encode_digest(child.digest), child.size, child.key)
        for repository, copy in copies
        for child in copy.children
        if child.size is not None
    ]
    params = {
        "names": [repository for repository, _, _, _ in blobs],
        "digests": [digest for _, digest, _, _ in blobs],
        "sizes": [size for _, _, size, _ in blobs],
        "keys": [key for _, _, _, key in blobs],
    }
    connection.execute(_CONTENT, params)
    connection.execute(_BLOBS, params)
    for repository, copy in copies:
        digest = encode_digest(copy.digest)
        connection.execute(_INLINE, {"digest": digest, "size": len(copy.raw), "raw": copy.raw})
        row = {
            "name": repository,
            "digest": digest,
            "media_type": copy.media_type,
            "subject": None if copy.subject is None else encode_digest(copy.subject),
            "artifact_type": copy.artifact_type,
            "referrer": copy.referrer,
        }
        connection.execute(_MANIFEST, row)
        children = [encode_digest(child.digest) for child in copy.children]
        connection.execute(_CHILDREN, {"name": repository, "digest": digest, "children": children})


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
