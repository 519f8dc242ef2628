"""Subcommand `migrate`: the tables of a registry in PostgreSQL."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from ocikit.cli.streams import print_message
from ocikit.server.storage.cluster.migrations import Revision, migrate, pending


def add_migrate(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `migrate`."""
    metadata = "database, such as postgresql://registry@db/registry; its password is read from ~/.pgpass"
    parser.add_argument("--metadata", metavar="URL", required=True, help=metadata)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--check", action="store_true", help="change nothing; exit with 1 if there are changes to make")
    choice.add_argument(
        "--to", default="head", metavar="REVISION", help="go to this revision, forwards or back (the newest)"
    )
    parser.set_defaults(run=run_migrate)


def run_migrate(arguments: argparse.Namespace) -> int:
    """Bring the tables of a database to a revision.

    Args:
        arguments: Arguments of `migrate`.

    Returns:
        1 if `--check` has found changes to make, else 0.
    """
    if arguments.check:
        steps = pending(arguments.metadata)
        _print(steps)
        print_message("the tables are not up to date" if steps else "the tables are up to date")
        return 1 if steps else 0
    result = migrate(arguments.metadata, arguments.to)
    _print(result.steps)
    if not result.steps:
        print_message(f"nothing to do: the tables have the revision {result.after}")
    elif result.before:
        print_message(f"the tables went from the revision {result.before} to {result.after}")
    else:
        print_message(f"the tables of the revision {result.after} were made")
    return 0


def _print(steps: Iterable[Revision]) -> None:
    for step in steps:
        print(f"{step.number}  {step.summary}")
