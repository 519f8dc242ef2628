"""The command `migrate`: the tables of a registry in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable

import click

from ocikit.cli.command import command
from ocikit.cli.options import flag, option
from ocikit.cli.output import print_note
from ocikit.server.storage.cluster.migrations import Revision, pending
from ocikit.server.storage.cluster.migrations import migrate as migrate_tables


@command(
    examples=(
        ("Bring the tables up to date", "ocikit migrate --metadata postgresql://registry@db/registry"),
        ("Only look", "ocikit migrate --metadata postgresql://registry@db/registry --check"),
    )
)
@option(
    "--metadata",
    metavar="URL",
    required=True,
    help="Database, such as postgresql://registry@db/registry; its password is read from ~/.pgpass.",
)
@flag("--check", help="Change nothing; exit with 1 if there are changes to make.")
@option("--to", metavar="REVISION", help="Go to this revision, forwards or back (the newest).")
def migrate(*, metadata: str, check: bool, to: str | None) -> int:
    """Make or change a registry's tables in PostgreSQL.

    The registry may be running.
    """
    if check and to is not None:
        raise click.UsageError("--check and --to exclude each other")
    if check:
        steps = pending(metadata)
        _print(steps)
        print_note("the tables are not up to date" if steps else "the tables are up to date")
        return 1 if steps else 0
    result = migrate_tables(metadata, to or "head")
    _print(result.steps)
    if not result.steps:
        print_note(f"nothing to do: the tables have the revision {result.after}")
    elif result.before:
        print_note(f"the tables went from the revision {result.before} to {result.after}")
    else:
        print_note(f"the tables of the revision {result.after} were made")
    return 0


def _print(steps: Iterable[Revision]) -> None:
    for step in steps:
        print(f"{step.number}  {step.summary}")
