"""Repositories as numbers: other tables refer to them by eight bytes instead of a name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import is_storable

if TYPE_CHECKING:
    import psycopg

#: Names that a process remembers, about 200 bytes each.
_REMEMBERED = 50_000

_FIND = "SELECT id FROM repositories WHERE name = %(name)s"

#: Return the id of a known repository, and the bytes that it uses. The lock is shared by all changes of the repository. It
#: excludes `measure`, so that no change is missed while the bytes are summed.
LOCK = "SELECT r.id, r.used FROM repositories r WHERE r.id = %(repository)s FOR KEY SHARE"

#: The same for a repository that may not exist. The update changes nothing: it returns an existing row.
INSERT = """
INSERT INTO repositories AS r (name, used) VALUES (%(name)s, %(start)s::bigint)
ON CONFLICT (name) DO UPDATE SET used = r.used RETURNING r.id, r.used
"""

_LOCK_ALONE = "SELECT used FROM repositories WHERE id = %(repository)s FOR UPDATE"

_SUM = """
SELECT coalesce(sum(c.size), 0)::bigint AS used FROM (
    SELECT digest FROM blobs WHERE repository = %(repository)s
    UNION ALL SELECT digest FROM manifests WHERE repository = %(repository)s
) AS held JOIN content c USING (digest)
"""

_SET_USED = "UPDATE repositories SET used = %(used)s WHERE id = %(repository)s"

_USED = "SELECT used FROM repositories WHERE id = %(repository)s"


class Unmeasured(Exception):
    """The bytes of a repository were not summed yet: `Repositories.measure` does it."""


class Repositories:
    """The ids of repositories. Their rows are never deleted.

    Args:
        database: Database of the registry.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ids: dict[str, int] = {}

    def find(self, name: str) -> int | None:
        """Return the id of a repository, or None if nothing was ever pushed to it."""
        found = self._ids.get(name)
        if found is None and is_storable(name):
            row = self._database.row(_FIND, {"name": name})
            if row is not None:
                found = self.remember(name, row.id)
        return found

    def remember(self, name: str, repository: int) -> int:
        """Remember the id of a repository whose row is committed, and return it."""
        if len(self._ids) >= _REMEMBERED:
            self._ids.clear()  # names are looked up again, one row each
        self._ids[name] = repository
        return repository

    def used_bytes(self, repository: int) -> int:
        """Return the total size of a repository's blobs and manifests."""
        row = self._database.row(_USED, {"repository": repository})
        return self.measure(repository) if row.used is None else int(row.used)

    def measure(self, repository: int) -> int:
        """Sum the bytes of a repository once; from then on each change adds its own.

        Changes of the repository wait meanwhile.
        """
        params: dict[str, Any] = {"repository": repository}

        def work(connection: psycopg.Connection[Any]) -> int:
            row = connection.execute(_LOCK_ALONE, params).fetchone()
            if row.used is None:  # type: ignore[union-attr]  # rows of repositories are never deleted
                # A statement of its own: it sees what was committed before the lock was granted
                row = connection.execute(_SUM, params).fetchone()
                connection.execute(_SET_USED, {**params, "used": row.used})  # type: ignore[union-attr]  # a sum
            return int(row.used)  # type: ignore[union-attr]  # as above

        return self._database.transaction(work, seconds=60)
