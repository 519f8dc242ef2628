"""The commands about versions: `diff`, `history`, `lineage`."""

from __future__ import annotations

from typing import Any

import ocikit
from ocikit.cli.command import argument, command
from ocikit.cli.options import (
    flag,
    json_option,
    number_option,
    platform_option,
    reference,
    selection_options,
    with_session,
)


@command(
    schema="diff",
    examples=(
        ("Two versions", "ocikit diff ghcr.io/ada/waves:v1 ghcr.io/ada/waves:v2"),
        ("What was edited in a folder", "ocikit diff ghcr.io/ada/waves:v1 data"),
        ("Columns and rows of tables", "ocikit diff ghcr.io/ada/waves:v1 ghcr.io/ada/waves:v2 --tables"),
    ),
)
@argument("before", "REFERENCE", "Reference or folder, before the changes.", complete="references")
@argument("after", "REFERENCE|FOLDER", "Reference or folder, after the changes.", complete="references")
@selection_options("compare")
@platform_option("compare")
@flag("--tables", help="Compare columns and row counts of tables.")
@flag("--json", "as_json", help="Write JSON, with the keys of dvc diff.")
@flag("--exit-code", help="Exit with 1 if they differ.")
@with_session
def diff(session: ocikit.Session, before: str, after: str, *, as_json: bool, exit_code: bool, **settings: Any) -> int:
    """Compare two versions, or an artifact and a folder.

    Names and digests are compared, and no file is fetched.
    """
    found = ocikit.diff(before, after, session=session, **settings)
    print(found.to_json(indent=2) if as_json else found)
    return 1 if exit_code and found else 0


@command(
    schema="history",
    examples=(
        ("Tags, digests, times and messages", "ocikit history ghcr.io/ada/waves:latest"),
        ("The digest of the newest version", "ocikit history ghcr.io/ada/waves:latest --limit 1 --json"),
    ),
)
@reference()
@number_option("--limit", default=20, help="Number of versions (20).")
@json_option
@with_session
def history(session: ocikit.Session, ref: str, *, as_json: bool, **settings: Any) -> None:
    """List the versions of an artifact, the newest first.

    Versions are manifests with a tag of v1, v2, …, or that name the version before.
    """
    found = ocikit.history(ref, session=session, **settings)
    print(found.to_json(indent=2) if as_json else found)


@command(
    schema="lineage",
    examples=(
        ("As a tree", "ocikit lineage ghcr.io/ada/model:v3"),
        ("Only the direct sources, as JSON", "ocikit lineage ghcr.io/ada/model:v3 --depth 1 --json"),
    ),
)
@reference()
@number_option("--depth", default=10, help="Number of steps (10).")
@json_option
@with_session
def lineage(session: ocikit.Session, ref: str, *, as_json: bool, **settings: Any) -> None:
    """Show which artifacts an artifact was made from.

    These are the references that a push names with --input.
    """
    found = ocikit.lineage(ref, session=session, **settings)
    print(found.to_json(indent=2) if as_json else found)
