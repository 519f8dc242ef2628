"""Leases on periodic work, so that one process of all machines does it at a time."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator

from attrs import define, field

from ocikit.server.storage.cluster.database import Database

#: Seconds after which the lease of a stopped process ends.
_SECONDS = 60.0

#: Seconds after which a lease is renewed.
_RENEW = 20.0

_IS_TAKEN = """
SELECT 1 FROM leases WHERE name = %(name)s AND (until > now() OR done > now() - %(every)s * interval '1 second')
"""

_TAKE = """
INSERT INTO leases (name, holder, until)
VALUES (%(name)s, %(holder)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, until = EXCLUDED.until
WHERE leases.holder = EXCLUDED.holder
    OR (leases.until < clock_timestamp() AND leases.done < clock_timestamp() - %(every)s * interval '1 second')
RETURNING name
"""

_RENEWAL = """
UPDATE leases SET until = clock_timestamp() + %(seconds)s * interval '1 second'
WHERE name = %(name)s AND holder = %(holder)s RETURNING name
"""

_RETURN = """
UPDATE leases SET until = '-infinity', done = CASE WHEN %(done)s THEN clock_timestamp() ELSE done END
WHERE name = %(name)s AND holder = %(holder)s
"""


class LeaseLost(Exception):
    """Another process has taken the lease, because this one did not renew it in time."""


@define(eq=False)
class Lease:
    """A lease that this process holds."""

    name: str
    _database: Database = field(repr=False)
    _holder: str = field(repr=False)
    _renewed: float = field(factory=time.monotonic, init=False, repr=False)

    def renew(self) -> None:
        """Renew the lease if it is old. Long work calls this after each step.

        Raises:
            LeaseLost: Another process has taken it.
            Unavailable: The database cannot be reached.
        """
        now = time.monotonic()
        if now - self._renewed < _RENEW:
            return
        if not self._database.change(_RENEWAL, {"name": self.name, "holder": self._holder, "seconds": _SECONDS}):
            raise LeaseLost(self.name)
        self._renewed = now


@contextlib.contextmanager
def lease(database: Database, name: str, *, every: float = 0.0) -> Iterator[Lease | None]:
    """Take a lease for the block.

    The lease only saves work: what runs under it is correct with several holders, too.

    Args:
        database: Database of all processes.
        name: Name of the work.
        every: Seconds since the work was last done before it is due again.

    Yields:
        The lease. None if another process holds it, or if the work is not due.

    Raises:
        Unavailable: The database cannot be reached.
    """
    if database.row(_IS_TAKEN, {"name": name, "every": every}) is not None:
        yield None
        return
    holder = secrets.token_hex(8)
    if not database.change(_TAKE, {"name": name, "holder": holder, "seconds": _SECONDS, "every": every}):
        yield None
        return
    done = False
    try:
        yield Lease(name, database, holder)
        done = True
    finally:
        database.change(_RETURN, {"name": name, "holder": holder, "done": done})
