"""Copies of manifests and tags in the object store, from which `rebuild` restores a lost database.

Each change of a manifest or tag writes a row of the table `copies` in its transaction. A copier writes the objects later, off the
request. The object of a manifest has a line of JSON with its row and the keys of its blobs, and then the bytes of the manifest.
The object of a tag has the digest. Each component of a repository ends with "@", which no name has, so that no key is also a
folder of other keys: a store may be a file system.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, islice
from typing import Any

from attrs import define, field, frozen

from ocikit.errors import InvalidDigest
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest
from ocikit.server.storage.cluster.object_store import ObjectStore
from ocikit.server.storage.cluster.parallel import parallel_map
from ocikit.spec.digest import Digest

#: Prefixes of the keys.
MANIFESTS, TAGS = "m/", "t/"

#: Limit of a statement over all manifests or tags [seconds].
_SECONDS = 3600.0

#: Rows of one step.
_BATCH = 200

_DUE = """
SELECT repository, reference, after::text AS after, name FROM copies JOIN repositories ON repositories.id = copies.repository
WHERE after < now() ORDER BY after LIMIT %(batch)s
"""

_MANIFESTS = """
SELECT repository, manifests.digest, media_type, subject, artifact_type, referrer, inline
FROM unnest(%(repositories)s::bigint[], %(digests)s::bytea[]) AS queued (repository, digest)
JOIN manifests USING (repository, digest) JOIN content ON content.digest = manifests.digest
"""

_CHILDREN = """
SELECT children.repository, children.manifest, children.child, content.size, content.key
FROM unnest(%(repositories)s::bigint[], %(digests)s::bytea[]) AS queued (repository, manifest)
JOIN children USING (repository, manifest)
LEFT JOIN blobs ON blobs.repository = children.repository AND blobs.digest = children.child
LEFT JOIN content ON content.digest = blobs.digest
ORDER BY children.repository, children.manifest, children.child
"""

_TAGS = """
SELECT repository, name, digest FROM unnest(%(repositories)s::bigint[], %(names)s::text[]) AS queued (repository, name)
JOIN tags USING (repository, name)
"""

#: A change since the row was read has another time: its row stays.
_FORGET = """
DELETE FROM copies USING unnest(%(repositories)s::bigint[], %(references)s::text[], %(after)s::timestamptz[])
    AS queued (repository, reference, after)
WHERE copies.repository = queued.repository AND copies.reference = queued.reference AND copies.after = queued.after
"""

_QUEUE_ALL = """
INSERT INTO copies (repository, reference)
SELECT repository, %(algorithm)s || encode(substring(digest FROM 2), 'hex') FROM manifests WHERE get_byte(digest, 0) = %(code)s
ON CONFLICT (repository, reference) DO UPDATE SET after = EXCLUDED.after
"""

_QUEUE_TAGS = """
INSERT INTO copies (repository, reference) SELECT repository, name FROM tags
ON CONFLICT (repository, reference) DO UPDATE SET after = EXCLUDED.after
"""

#: The copier deletes the copy of a reference that has no row.
_QUEUE_KEYS = """
INSERT INTO copies (repository, reference)
SELECT id, reference FROM unnest(%(names)s::text[], %(references)s::text[]) AS copied (name, reference)
JOIN repositories USING (name) ORDER BY id, reference
ON CONFLICT (repository, reference) DO NOTHING
"""

_UNKNOWN = """
SELECT name FROM unnest(%(names)s::text[]) AS name WHERE NOT EXISTS (SELECT FROM repositories WHERE repositories.name = name.name)
"""


@frozen(kw_only=True)
class ChildCopy:
    """A child of a manifest in its copy."""

    digest: Digest
    size: int | None = None
    """Bytes. None: it was not a blob of the repository at the time of the copy."""
    key: str | None = None
    """The object of the blob."""


@frozen(kw_only=True)
class ManifestCopy:
    """The row and bytes of a manifest, as they are in an object."""

    digest: Digest
    media_type: str
    subject: Digest | None = None
    artifact_type: str | None = None
    referrer: str | None = None
    children: tuple[ChildCopy, ...] = ()
    raw: bytes = field(repr=False)

    def encode(self) -> bytes:
        """Return the content of the object."""
        header = {
            "digest": self.digest,
            "mediaType": self.media_type,
            "subject": self.subject,
            "artifactType": self.artifact_type,
            "referrer": self.referrer,
            "children": [[child.digest, child.size, child.key] for child in self.children],
        }
        return json.dumps(header, separators=(",", ":")).encode() + b"\n" + self.raw

    @classmethod
    def decode(cls, data: bytes) -> ManifestCopy:
        """Return the copy in an object.

        Raises:
            ValueError: The object is damaged, or its bytes have another digest.
        """
        line, _, raw = data.partition(b"\n")
        header = json.loads(line)
        try:
            digest, subject = Digest(header["digest"]), header["subject"]
            hasher = digest.hasher()
            hasher.update(raw)
            if hasher.hexdigest() != digest.encoded:
                raise ValueError(f"the bytes are not those of {digest}")
            return cls(
                digest=digest,
                media_type=header["mediaType"],
                subject=None if subject is None else Digest(subject),
                artifact_type=header["artifactType"],
                referrer=header["referrer"],
                children=tuple(
                    ChildCopy(digest=Digest(child), size=size, key=key) for child, size, key in header["children"]
                ),
                raw=raw,
            )
        except (KeyError, TypeError, InvalidDigest) as error:
            raise ValueError("the line of JSON lacks a field") from error


def manifest_key(repository: str, digest: Digest) -> str:
    """Return the key of the copy of a manifest.

    >>> manifest_key("team/app", Digest("sha256:" + "0" * 64))[:24]
    'm/team@/app@/sha256:0000'
    """
    return f"{MANIFESTS}{_folder(repository)}{digest}"


def tag_key(repository: str, tag: str) -> str:
    """Return the key of the copy of a tag.

    >>> tag_key("team/app", "v1")
    't/team@/app@/v1'
    """
    return f"{TAGS}{_folder(repository)}{tag}"


def split_key(key: str) -> tuple[str, str]:
    """Return the repository of a key, and its tag or digest.

    >>> split_key("t/team@/app@/v1")
    ('team/app', 'v1')
    """
    folder, _, name = key[2:].rpartition("@/")
    return folder.replace("@/", "/"), name


def queue_copies(database: Database, objects: ObjectStore) -> None:
    """Queue a copy of all manifests and tags, and delete copies of what the database does not have.

    This is for a database that was restored from a backup, and for an object store that lost copies.

    Args:
        database: Database of the registry.
        objects: Object store of the registry.

    Raises:
        Unavailable: The database or the object store cannot be reached.
    """
    for code, algorithm in ((1, "sha256:"), (2, "sha512:")):
        database.change(_QUEUE_ALL, {"code": code, "algorithm": algorithm}, seconds=_SECONDS)
    database.change(_QUEUE_TAGS, seconds=_SECONDS)
    for prefix in (MANIFESTS, TAGS):
        keys = (key for key, _, _ in objects.iterate(prefix) if _is_copy(key))
        while batch := list(islice(keys, _BATCH)):
            references = [split_key(key) for key in batch]
            names = [name for name, _ in references]
            database.change(_QUEUE_KEYS, {"names": names, "references": [reference for _, reference in references]})
            unknown = {row.name for row in database.rows(_UNKNOWN, {"names": names})}
            if strange := [key for key, name in zip(batch, names, strict=True) if name in unknown]:
                objects.delete(strange)


def write_copies(database: Database, objects: ObjectStore, *, beat: Callable[[], None] = lambda: None) -> int:
    """Write or delete the copies that are outdated; return their number.

    Args:
        database: Database of the registry.
        objects: Object store of the registry.
        beat: Called after each batch.

    Raises:
        Unavailable: The database or the object store cannot be reached. What was not copied stays in the queue.
    """
    return _Copier(database, objects).run(beat)


@define
class _Copier:
    """One run of the copier."""

    _database: Database
    _objects: ObjectStore

    def run(self, beat: Callable[[], None]) -> int:
        copied = 0
        while rows := self._database.rows(_DUE, {"batch": _BATCH}):
            content = self._content(rows)
            for _ in parallel_map(self._put, [(key, data) for key, data in content.items() if data is not None]):
                pass
            deleted = [key for key, data in content.items() if data is None]
            failed = self._objects.delete(deleted) if deleted else {}
            done = [row for row in rows if _key(row) not in failed]
            params = {
                "repositories": [row.repository for row in done],
                "references": [row.reference for row in done],
                "after": [row.after for row in done],
            }
            self._database.change(_FORGET, params)
            copied += len(done)
            if failed or len(rows) < _BATCH:
                break
            beat()
        return copied

    def _content(self, rows: Sequence[Any]) -> dict[str, bytes | None]:
        """Return the content of the objects by key; None for a manifest or tag that was deleted."""
        content: dict[str, bytes | None] = {_key(row): None for row in rows}
        names = {row.repository: row.name for row in rows}
        manifests = [row for row in rows if ":" in row.reference]
        if manifests:
            for row, copy in self._manifests(manifests):
                key = manifest_key(names[row.repository], decode_digest(row.digest))
                if copy is None:
                    del content[key]  # the row has lost the bytes: the old copy is all that is left
                else:
                    content[key] = copy.encode()
        if tags := [row for row in rows if ":" not in row.reference]:
            params = {"repositories": [row.repository for row in tags], "names": [row.reference for row in tags]}
            for row in self._database.rows(_TAGS, params):
                content[tag_key(names[row.repository], row.name)] = decode_digest(row.digest).encode()
        return content

    def _manifests(self, rows: Sequence[Any]) -> Iterator[tuple[Any, ManifestCopy | None]]:
        params = {
            "repositories": [row.repository for row in rows],
            "digests": [encode_digest(row.reference) for row in rows],
        }
        children = {
            key: tuple(ChildCopy(digest=decode_digest(row.child), size=row.size, key=row.key) for row in group)
            for key, group in groupby(
                self._database.rows(_CHILDREN, params), key=lambda row: (row.repository, bytes(row.manifest))
            )
        }
        for row in self._database.rows(_MANIFESTS, params):
            if row.inline is None:
                yield row, None
                continue
            copy = ManifestCopy(
                digest=decode_digest(row.digest),
                media_type=row.media_type,
                subject=None if row.subject is None else decode_digest(row.subject),
                artifact_type=row.artifact_type,
                referrer=row.referrer,
                children=children.get((row.repository, bytes(row.digest)), ()),
                raw=bytes(row.inline),
            )
            yield row, copy

    def _put(self, item: tuple[str, bytes]) -> None:
        key, data = item
        self._objects.put(key, io.BytesIO(data), len(data))


def _key(row: Any) -> str:
    digest = ":" in row.reference
    return manifest_key(row.name, Digest(row.reference)) if digest else tag_key(row.name, row.reference)


def _is_copy(key: str) -> bool:
    """Return True if a key is one of a copy: other programs may have put objects there."""
    repository, reference = split_key(key)
    if not repository or ":" not in reference:
        return bool(repository) and key.startswith(TAGS)
    try:
        return key == manifest_key(repository, Digest(reference)) and Digest(reference).algorithm in {
            "sha256",
            "sha512",
        }
    except InvalidDigest:
        return False


def _folder(repository: str) -> str:
    return repository.replace("/", "@/") + "@/"
