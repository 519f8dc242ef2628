"""What all machines of a registry share in the database: secrets, and the failed logins of the last minutes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from typing import Any

from ocikit.errors import ServerFailed
from ocikit.server.auth.throttle import SharedFailures
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.database import Database

_log = logging.getLogger("ocikit.server")

#: Seconds that a login waits for the failures of the other machines.
_LIMIT = 1.0

#: Failures of a network that count, as a multiple of those of one name.
_NETWORK_FACTOR = 10

#: Characters of a hashed user name.
_NAME_SIZE = 32


def shared_secret(database: Database, name: str, size: int = 32) -> bytes:
    """Return a secret of random bytes that all machines share. The first one that asks makes it.

    The database makes the bytes: as a parameter of a statement they could get into its log.

    Args:
        database: The database.
        name: Name of the secret, such as "token".
        size: Bytes of a new secret.

    Raises:
        ServerFailed: The secret has fewer bytes.
        Unavailable: The database cannot be reached.
    """
    row = database.row(_SECRET, {"name": name}, name="secret")
    if row is None:
        blocks = -(-size // hashlib.sha256().digest_size)
        database.change(_NEW_SECRET, {"name": name, "size": size, "blocks": blocks}, name="secret")
        row = database.row(_SECRET, {"name": name}, name="secret")
    value = b"" if row is None else bytes(row.value)
    if len(value) < size:
        raise ServerFailed(
            f"the secret {name!r} of the database has {len(value)} bytes, and {size} are needed",
            hint="delete its row from the table secrets, then restart all processes; clients log in again",
        )
    return value


class DatabaseFailures:
    """Failed logins that all machines of a registry count together.

    User names are hashed: users type passwords into the wrong field. The sweep deletes old rows.

    Args:
        database: The database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def recent(self, network: str, user: str, *, window: float, limit: int) -> SharedFailures | None:
        """Return the recent failures; None if the database cannot be reached. See `FailureLog.recent`."""
        return self._ask(_RECENT, _parameters(network, user, window, limit), "recent failures")

    def add(self, network: str, user: str, *, window: float, limit: int) -> SharedFailures | None:
        """Count a failure, and return the recent ones with it; see `recent`."""
        shared = self._ask(_ADD, _parameters(network, user, window, limit), "add failure")
        # The statement does not see the row that it inserts
        return shared and SharedFailures((0.0, *shared.ages)[:limit], shared.network + 1)

    def _ask(self, sql: str, parameters: Mapping[str, Any], name: str) -> SharedFailures | None:
        try:
            row = self._database.row(sql, parameters, name=name, seconds=_LIMIT)
        except Unavailable as error:
            _log.warning("failed logins of other machines are not counted now: %s", error)
            return None
        return SharedFailures(tuple(row.ages), row.network)


def _parameters(network: str, user: str, window: float, limit: int) -> Mapping[str, Any]:
    name = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:_NAME_SIZE]
    client = network.replace("\0", "")
    return {"client": client, "name": name, "window": window, "limit": limit, "many": limit * _NETWORK_FACTOR}


_SECRET = "SELECT value FROM secrets WHERE name = %(name)s"  # noqa: S105 - a statement

#: A random UUID has 122 bits of the generator for keys.
_NEW_SECRET = """
INSERT INTO secrets (name, value)
SELECT %(name)s, substring(string_agg(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())
                                             || uuid_send(gen_random_uuid())), ''::bytea) FROM 1 FOR %(size)s)
FROM generate_series(1, %(blocks)s)
ON CONFLICT (name) DO NOTHING
"""  # noqa: S105 - a statement

_RECENT = """
SELECT (SELECT count(*) FROM (
            SELECT 1 FROM failures WHERE client = %(client)s AND at > now() - make_interval(secs => %(window)s)
            LIMIT %(many)s
        ) AS counted) AS network,
       ARRAY(
           SELECT extract(epoch FROM now() - at)::float8 FROM failures
           WHERE client = %(client)s AND name = %(name)s AND at > now() - make_interval(secs => %(window)s)
           ORDER BY at DESC LIMIT %(limit)s
       ) AS ages
"""

_ADD = f"WITH added AS (INSERT INTO failures (client, name) VALUES (%(client)s, %(name)s)) {_RECENT}"
