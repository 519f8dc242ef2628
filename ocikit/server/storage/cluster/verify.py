"""Verification of a registry in PostgreSQL and an object store: missing and corrupt content."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest
from ocikit.server.storage.cluster.listing import content_pages, list_content
from ocikit.server.storage.cluster.object_store import ObjectStore
from ocikit.server.storage.cluster.parallel import parallel_map
from ocikit.spec.digest import Digest
from ocikit.store.results import CorruptBlob, Problem, VerifyResult

#: Bytes that are hashed at once.
_CHUNK_SIZE = 1 << 20

#: Repositories in a report.
_NAMES = 1000

#: Error numbers of content that the disk cannot return any more.
_UNREADABLE = frozenset({errno.EIO, errno.EBADMSG, getattr(errno, "EUCLEAN", errno.EIO)})

_INLINE = "SELECT inline FROM content WHERE digest = %(digest)s"

_IS_SAME = "SELECT 1 FROM content WHERE digest = %(digest)s AND key IS NOT DISTINCT FROM %(key)s AND size = %(size)s"

_REPOSITORIES = """
SELECT name FROM repositories WHERE id IN (
    SELECT repository FROM blobs WHERE digest = %(digest)s UNION SELECT repository FROM manifests WHERE digest = %(digest)s
) ORDER BY name LIMIT %(limit)s
"""

#: A client may have pushed the content again: the row has another key then.
_DROP_OBJECT = """
WITH changed AS (
    UPDATE content SET key = NULL WHERE digest = %(digest)s AND key = %(key)s RETURNING digest
)
INSERT INTO garbage (key, after) SELECT %(key)s, clock_timestamp() + %(keep)s * interval '1 second' FROM changed
ON CONFLICT (key) DO NOTHING
"""

_DROP_INLINE = "UPDATE content SET inline = NULL WHERE digest = %(digest)s AND inline = %(inline)s"


@frozen
class _Finding:
    """What is wrong with the content of a row."""

    row: Any
    problem: Problem
    actual_size: int | None = None
    inline: bytes | None = field(default=None, repr=False)


@frozen
class _Answer:
    """The result of hashing the content of a row."""

    hashed: int
    """Bytes."""
    finding: _Finding | None = None


def verify_content(
    database: Database,
    objects: ObjectStore,
    *,
    state: Path,
    keep_deleted: float,
    remove: bool = False,
    sizes: bool = False,
) -> VerifyResult:
    """Hash all content, or only compare sizes, and check that all referenced content is stored.

    Args:
        database: Database of the registry.
        objects: Object store of the registry.
        state: Folder for the list of all objects.
        keep_deleted: Seconds after which the object of removed content is deleted.
        remove: Whether to remove corrupt and missing content. It counts as absent until a client pushes it again.
        sizes: Whether to compare the list of all objects with the rows, and to read no content.

    Returns:
        The number of checked blobs and manifests, and the corrupt ones.

    Raises:
        Unavailable: The database or the object store cannot be reached.
    """
    verifier = _Verifier(database, objects, keep_deleted, remove)
    if sizes:
        with list_content(objects, state) as listing:
            for page in content_pages(database):
                found = listing.sizes(row.key for row in page if row.key is not None)
                for row in page:
                    verifier.compare(row, found.get(row.key))
    else:
        for answer in parallel_map(verifier.hash, (row for page in content_pages(database) for row in page)):
            verifier.add(answer)
    return VerifyResult(checked=verifier.checked, size=verifier.size, corrupt=tuple(verifier.corrupt), removed=remove)


@define
class _Verifier:
    """One verification."""

    _database: Database
    _objects: ObjectStore
    _keep: float
    _remove: bool
    checked: int = field(default=0, init=False)
    size: int = field(default=0, init=False)
    corrupt: list[CorruptBlob] = field(factory=list, init=False)

    def compare(self, row: Any, stored: int | None) -> None:
        """Compare a row with the size of its object in the list of all objects."""
        if row.key is None:
            if not row.inline:
                self._report(_Finding(row, "missing"))
            return
        self.checked += 1
        if stored != row.size:
            # The object may be newer than the list
            stored = self._objects.size(row.key)
            if stored != row.size:
                self._report(_Finding(row, "missing" if stored is None else "size", stored))

    def hash(self, row: Any) -> _Answer:
        """Hash the content of a row, in a thread."""
        digest = decode_digest(row.digest)
        if row.key is not None:
            return self._hash_object(row, digest)
        current = self._database.row(_INLINE, {"digest": row.digest}) if row.inline else None
        if current is None or current.inline is None:
            return _Answer(0, _Finding(row, "missing"))
        data = bytes(current.inline)
        problem = _problem(row.size, len(data), Digest.of(data, digest.algorithm) == digest)
        return _Answer(len(data), problem and _Finding(row, problem, len(data), data))

    def add(self, answer: _Answer) -> None:
        """Count what was hashed, and report what is wrong with it."""
        if answer.finding is None or answer.finding.problem != "missing":
            self.checked += 1
        self.size += answer.hashed
        if answer.finding is not None:
            self._report(answer.finding)

    def _hash_object(self, row: Any, digest: Digest) -> _Answer:
        hasher, size = digest.hasher(), 0
        try:
            with self._objects.open(row.key) as file:
                while chunk := file.read(_CHUNK_SIZE):
                    hasher.update(chunk)
                    size += len(chunk)
        except KeyError:
            return _Answer(0, _Finding(row, "missing"))
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
            return _Answer(size, _Finding(row, "unreadable", size))
        problem = _problem(row.size, size, hasher.hexdigest() == digest.encoded)
        return _Answer(size, problem and _Finding(row, problem, size))

    def _report(self, finding: _Finding) -> None:
        """Report a problem unless the row has changed meanwhile."""
        row, database = finding.row, self._database
        if database.row(_IS_SAME, {"digest": row.digest, "key": row.key, "size": row.size}) is None:
            return
        names = database.rows(_REPOSITORIES, {"digest": row.digest, "limit": _NAMES})
        if finding.problem == "missing" and not names:
            return  # no repository has it
        self.corrupt.append(
            CorruptBlob(
                digest=decode_digest(row.digest),
                problem=finding.problem,
                expected_size=row.size if names else None,
                actual_size=finding.actual_size,
                repositories=tuple(name.name for name in names),
            )
        )
        if not self._remove:
            return
        if row.key is not None:
            database.change(_DROP_OBJECT, {"digest": row.digest, "key": row.key, "keep": self._keep})
        elif finding.inline is not None:
            database.change(_DROP_INLINE, {"digest": row.digest, "inline": finding.inline})


def _problem(expected: int, actual: int, intact: bool) -> Problem | None:
    if actual != expected:
        return "size"
    return None if intact else "digest"
