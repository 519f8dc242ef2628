"""What an error of PostgreSQL means for the statement that failed."""

from __future__ import annotations

import re
from enum import Enum


class Fault(Enum):
    """What happens after an error."""

    CONFLICT = "conflict"
    """Another transaction was in the way: the same change may succeed now."""
    BROKEN = "broken"
    """The connection is not usable: the same change may succeed with another one."""
    AWAY = "away"
    """The database cannot do it now."""
    DEFECT = "defect"
    """The statement or its parameters are wrong."""


#: Serialization failure, deadlock, lock timeout.
_CONFLICTS = frozenset({"40001", "40P01", "55P03"})

#: The server ends the connection (57P01, 57P02, 57P05, 25P03), an answer is unknown (40003), the server has become a standby
#: (25006), and a prepared statement is unknown to a pooler's other connection (26000, 42P05).
_BROKEN = frozenset({"57P01", "57P02", "57P05", "25P03", "40003", "25006", "26000", "42P05"})

#: Classes of SQLSTATEs: connection exception.
_BROKEN_CLASSES = frozenset({"08"})

#: Classes of SQLSTATEs: invalid authorization, unknown database, insufficient resources, operator intervention with statement
#: timeouts, system error.
_AWAY_CLASSES = frozenset({"28", "3D", "53", "57", "58"})

_NAMES = {
    "25006": "the server is a read-only standby",
    "53100": "the disk of the server is full",
    "53200": "the server is out of memory",
    "53300": "the server accepts no more connections",
    "55P03": "another transaction holds a lock",
    "57014": "the statement took too long",
    "57P01": "the server is shutting down",
    "57P02": "the server has crashed",
    "57P03": "the server is starting or shutting down",
}


def classify(sqlstate: str | None, message: str, *, operational: bool, closed: bool) -> Fault:
    """Return what an error means.

    Args:
        sqlstate: The code of the server's error; None if the server did not report one.
        message: The server's message.
        operational: Whether the driver calls it an operational error.
        closed: Whether the connection is closed.
    """
    if sqlstate in _CONFLICTS:
        return Fault.CONFLICT
    if sqlstate is None:
        return Fault.BROKEN if operational or closed else Fault.DEFECT
    # A migration has changed a table that a prepared statement reads; the connection prepares it again
    stale = sqlstate == "0A000" and "cached plan" in message
    if stale or sqlstate in _BROKEN or sqlstate[:2] in _BROKEN_CLASSES:
        return Fault.BROKEN
    if operational or closed or sqlstate[:2] in _AWAY_CLASSES:
        return Fault.AWAY
    return Fault.DEFECT


def reason(sqlstate: str | None, message: str, *, user: str = "") -> str:
    r"""Return the reason of a failure for a message, without parameters and user names.

    Args:
        sqlstate: The code of the server's error, or None.
        message: The driver's message.
        user: The name of the role, which is masked.

    >>> reason("57P01", "terminating connection due to administrator command")
    'the server is shutting down (57P01)'
    >>> reason(None, 'connection failed: connection to server at "::1", port 1 failed: Connection refused\nIs it running?')
    'Connection refused'
    """
    if sqlstate:
        return f"{_NAMES.get(sqlstate, 'an error of the server')} ({sqlstate})"
    line = next((line for line in message.splitlines() if "failed: " in line), message.partition("\n")[0])
    line = re.sub(r"^.*failed: (?:FATAL: +)?", "", line).strip()
    if "unsupported startup parameter" in line:
        line += ' (for PgBouncer, add "?pgbouncer=1" to the URL)'
    return line.replace(f'"{user}"', "…") if user else line


def safe_message(sqlstate: str | None, message: str) -> str:
    """Return the message of an error without the values of parameters.

    Args:
        sqlstate: The code of the server's error; None for an error of the driver.
        message: The primary message of the server. The messages of data exceptions contain the data.

    >>> safe_message("22P02", 'invalid input syntax for type bigint: "secret"')
    'SQLSTATE 22P02'
    """
    if sqlstate is None:
        return "the driver cannot send the statement"
    return f"SQLSTATE {sqlstate}" if sqlstate.startswith("22") or not message else f"{message} (SQLSTATE {sqlstate})"


_CHANGE = re.compile(r"\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+([a-z_]+)")
_READ = re.compile(r"\b(?:FROM|JOIN)\s+([a-z_]+)")


def operation(sql: str) -> str:
    """Return a short name of a statement for metrics: its verb and its first table.

    >>> operation("WITH gone AS (DELETE FROM uploads WHERE id = %(id)s) SELECT 1")
    'delete uploads'
    >>> operation("SELECT digest FROM tags WHERE name = %(name)s FOR UPDATE")
    'select tags'
    >>> operation("SELECT 1")
    'select'
    """
    if match := _CHANGE.search(sql):
        return f"{match[1].split()[0].lower()} {match[2]}"
    match = _READ.search(sql)
    return f"select {match[1]}" if match else "select"
