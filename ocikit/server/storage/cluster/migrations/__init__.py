"""Migrations of the database, and the check of its version.

Revisions are numbered, and each one extends the tables: code of the release before still works on them. A release later, a further
revision may remove what no code uses any more. Its `usable_from` is the oldest one whose code still works. So the order of an upgrade
is: migrate, then replace the processes one by one.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from ocikit.display import quoted
from ocikit.errors import InvalidArgument, ServerFailed
from ocikit.server.storage.cluster.database import Database, connection_url
from ocikit.server.storage.cluster.sqlstates import reason

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

_log = logging.getLogger("ocikit.server")

#: The newest revision: this code is written for it, and works on the one before.
NEWEST = "0001"

#: The command for messages.
_COMMAND = "python -m ocikit migrate --metadata URL"

#: Key of the advisory lock of migrations.
_LOCK = 0x6F63696B6974  # "ocikit"

#: Seconds that a migration waits for another one, and for the locks of tables.
_WAIT = 600.0

#: Seconds between two looks at the lock of another migration.
_LOOK = 0.2


@frozen
class Revision:
    """A step of the migrations."""

    number: str
    """Its number, such as "0001"."""
    summary: str
    """What it does."""


@frozen
class MigrateResult:
    """What a migration has done."""

    before: str
    """The revision before; "" for an empty database."""
    after: str
    """The revision now."""
    steps: tuple[Revision, ...]
    """The revisions that were applied, or taken back."""


def migrate(url: str, revision: str = "head", *, folders: Sequence[Path] = (), wait: float = _WAIT) -> MigrateResult:
    """Bring the tables of a database to a revision; registries may use them meanwhile.

    Several calls at once are safe: one does it, the others wait. The role needs the right to create tables. The connection must not lead
    through PgBouncer.

    Args:
        url: URL of the database.
        revision: Number of a revision; "head" is the newest, and leaves the tables of a newer release as they are.
        folders: Folders with further revisions.
        wait: Seconds to wait for another migration, and for transactions that use a table.

    Returns:
        The revisions that were applied.

    Raises:
        InvalidArgument: The URL is invalid, or the revision is unknown.
        ServerFailed: The database cannot be reached, the role may not change it, the wait was too long, or a revision that this
            code does not know must be taken back.
    """
    config = _config(url, folders)
    target = _number(config, revision)
    end = time.monotonic() + wait
    with _failures(), _exclusive(url, end):
        before = _revision(url)
        newest = _number(config, "head")
        if before > newest:
            # An older release, after an upgrade or on the way back: it cannot take back what it does not know
            if revision == "head":
                return MigrateResult(before, before, ())
            raise ServerFailed(
                f"the migration of the database failed: it has the revision {before}, and this ocikit knows {newest} at most",
                hint="use the newer ocikit to take its changes back",
            )
        steps = _steps(config, before, target)
        _apply(config, before, target, end)
        return MigrateResult(before, target, steps)


def pending(url: str, *, folders: Sequence[Path] = ()) -> tuple[Revision, ...]:
    """Return the revisions that a migration would apply.

    Args:
        url: URL of the database.
        folders: Folders with further revisions.

    Raises:
        InvalidArgument: The URL is invalid.
        ServerFailed: The database cannot be reached.
    """
    config = _config(url, folders)
    with _failures():
        before = _revision(url)
    newest = _number(config, "head")
    return _steps(config, before, newest) if before < newest else ()


def check_version(database: Database, *, newest: str = NEWEST) -> str:
    """Check that this code works on the tables of a database.

    Args:
        database: The database.
        newest: The revision that this code is written for.

    Returns:
        The revision of the database.

    Raises:
        ServerFailed: The tables are missing, too old or too new. The hint has the command.
        Unavailable: The database cannot be reached.
    """
    import psycopg  # noqa: PLC0415 - optional package

    try:
        row = database.row(_VERSION, name="version")
    except psycopg.errors.UndefinedTable:
        raise ServerFailed("the database has no tables of a registry", hint=f"run: {_COMMAND}") from None
    except psycopg.errors.InsufficientPrivilege:
        raise ServerFailed(
            "the role of the registry may not read the tables of the database",
            hint=f"use the role that has run {_COMMAND}, or grant it SELECT, INSERT, UPDATE and DELETE on all tables",
        ) from None
    current = "" if row is None else str(row.version)
    if not current or int(current) < int(newest) - 1:
        raise ServerFailed(
            f"the tables of the database have the revision {current or 'none'}; this ocikit needs {newest}",
            hint=f"run: {_COMMAND}",
        )
    if int(current) <= int(newest):
        return current
    usable_from = (row.comment or "").rpartition(" ")[2]
    if not usable_from.isdigit() or int(usable_from) > int(newest):
        raise ServerFailed(
            f"the tables of the database have the revision {current}; this ocikit knows {newest} at most",
            hint=f"update ocikit; with a newer ocikit, {_COMMAND} --to {newest} takes the changes back",
        )
    _log.warning("the tables of the database are newer than this ocikit: revision %s, known %s", current, newest)
    return current


#: The revision, and the comment with the oldest one whose code works on it.
_VERSION = """
SELECT version_num AS version, obj_description('alembic_version'::regclass, 'pg_class') AS comment FROM alembic_version
"""


def _config(url: str, folders: Sequence[Path]) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - optional package

    here = Path(__file__).parent
    config = Config()
    for name, value in (
        ("script_location", str(here)),
        ("path_separator", "os"),
        ("version_path_separator", "os"),  # its name before alembic 1.16
        ("version_locations", ":".join(map(str, (here / "versions", *folders)))),
    ):
        config.set_main_option(name, value.replace("%", "%%"))
    config.attributes["url"] = connection_url(url).replace("postgresql://", "postgresql+psycopg://", 1)
    return config


def _scripts(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - optional package

    return ScriptDirectory.from_config(config)


def _revisions(config: Config) -> list[Revision]:
    """Return all revisions, the oldest first."""
    scripts = list(_scripts(config).walk_revisions())
    return [Revision(script.revision, (script.doc or "").rstrip(".")) for script in reversed(scripts)]


def _number(config: Config, revision: str) -> str:
    """Return the number of a revision.

    Raises:
        InvalidArgument: It is unknown.
    """
    known = [known.number for known in _revisions(config)]
    if revision == "head":
        return known[-1]
    if revision not in known:
        raise InvalidArgument(f"unknown revision {quoted(revision)}", hint=f"choose from {', '.join(known)}")
    return revision


def _steps(config: Config, before: str, target: str) -> tuple[Revision, ...]:
    low, high = sorted((before, target))
    between = [known for known in _revisions(config) if low < known.number <= high]
    return tuple(between if before <= target else reversed(between))


def _apply(config: Config, before: str, target: str, end: float) -> None:
    """Run the steps, again while transactions hold the locks of tables.

    A step waits two seconds only: all requests for its table queue behind it.
    """
    from alembic import command  # noqa: PLC0415 - optional package
    from psycopg.errors import LockNotAvailable  # noqa: PLC0415 - optional package
    from sqlalchemy.exc import OperationalError  # noqa: PLC0415 - optional package

    run = command.upgrade if before <= target else command.downgrade
    while True:
        try:
            run(config, target)
        except OperationalError as error:
            if not isinstance(error.orig, LockNotAvailable) or time.monotonic() > end:
                raise
            _log.info("the migration waits for transactions that use a table")
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - jitter
        else:
            return


def _revision(url: str) -> str:
    """Return the revision of a database; "" without tables."""
    import psycopg  # noqa: PLC0415 - optional package

    with psycopg.connect(connection_url(url), autocommit=True, connect_timeout=10) as connection:
        try:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        except psycopg.errors.UndefinedTable:
            return ""
        return "" if row is None else str(row[0])


@contextlib.contextmanager
def _exclusive(url: str, end: float) -> Iterator[None]:
    """Run one migration at a time.

    Raises:
        ServerFailed: Another one has not ended in time.
    """
    import psycopg  # noqa: PLC0415 - optional package

    with psycopg.connect(connection_url(url), autocommit=True, connect_timeout=10) as connection:
        # Look again and again: a statement that waits has a snapshot, and CREATE INDEX CONCURRENTLY would wait for its end
        while connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
            if time.monotonic() > end:
                raise ServerFailed(
                    "the migration of the database failed: another one is running", hint="wait for its end"
                )
            time.sleep(_LOOK)
        yield  # the lock ends with the connection


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Convert errors of the database.

    Raises:
        ServerFailed: The migration has failed.
    """
    import psycopg  # noqa: PLC0415 - optional package
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415 - optional package

    try:
        yield
    except (psycopg.Error, DBAPIError) as error:
        original = error.orig if isinstance(error, DBAPIError) else error
        sqlstate = original.sqlstate if isinstance(original, psycopg.Error) else None
        why, hint = reason(sqlstate, str(original)), "run the command again; finished revisions are kept"
        if isinstance(original, psycopg.errors.InsufficientPrivilege):
            why, hint = "the role may not change the tables", "use the role that owns the database"
        elif isinstance(original, psycopg.errors.LockNotAvailable):
            hint = "end the transactions that use the table for minutes, then run the command again"
        elif isinstance(original, psycopg.OperationalError):
            hint = "check the address, the role, and its password in ~/.pgpass"
        raise ServerFailed(f"the migration of the database failed: {why}", hint=hint) from None
