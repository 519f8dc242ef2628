"""The command `edit`: changes of an artifact without downloading what stays."""

from __future__ import annotations

import os
from typing import Literal

import ocikit
from ocikit import display
from ocikit.cli.command import command
from ocikit.cli.options import (
    dry_run_option,
    flag,
    json_option,
    key_value,
    notes_options,
    option,
    reference,
    repeated_option,
    with_session,
)
from ocikit.cli.results import print_artifact


@command(
    schema="edit",
    examples=(
        ("Add a file and remove the logs", "ocikit edit ghcr.io/ada/waves:v1 --add new.csv --remove 'logs/'"),
        ("Rename a file, and see what would change", "ocikit edit ghcr.io/ada/waves:v1 --rename a.csv=b.csv --dry-run"),
        (
            "Write the result to another tag",
            "ocikit edit ghcr.io/ada/waves:v1 --annotate rows=300 --to ghcr.io/ada/waves:v2",
        ),
    ),
)
@reference("Artifact with a tag, which moves to the result.")
@repeated_option(
    "--add", metavar="PATH[=NAME]", help="Add files and folders as push names them, or a file under another name."
)
@repeated_option("--remove", metavar="PATTERN", help="Remove the files that match; logs/ are all below a folder.")
@repeated_option("--rename", metavar="NAME=NEW", type=key_value, help="Give a file another name.")
@repeated_option("--replace", metavar="NAME=PATH", type=key_value, help="Replace the content of a file.")
@repeated_option("--annotate", metavar="KEY=VALUE", type=key_value, help="Set an annotation of the manifest.")
@option("--to", metavar="REFERENCE", complete="references", help="Reference of the result; without it, the tag moves.")
@option("--expect", metavar="DIGEST", help="Fail if the tag does not name this digest.")
@repeated_option("--tag", "tags", metavar="TAG", help="Another tag of the result.")
@flag("--secrets", help="Add files that look like secrets, such as .env.")
@notes_options
@dry_run_option
@json_option
@with_session
def edit(
    session: ocikit.Session,
    ref: str,
    *,
    add: tuple[str, ...],
    remove: tuple[str, ...],
    rename: tuple[tuple[str, str], ...],
    replace: tuple[tuple[str, str], ...],
    annotate: tuple[tuple[str, str], ...],
    to: str | None,
    expect: str | None,
    tags: tuple[str, ...],
    secrets: bool,
    message: str | None,
    inputs: tuple[str, ...],
    version: Literal["next"] | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Change an artifact without downloading what stays.

    Files are removed, renamed, replaced and added in this order. Changes of other writers are merged, unless both change
    one file.
    """
    if not any((add, remove, rename, replace, annotate, inputs, to)):
        raise ocikit.InvalidArgument("nothing to edit", hint="name a change, such as --add PATH or --remove PATTERN")
    with session.edit(
        ref, to=to, expect=expect, tags=tags, message=message, inputs=inputs, version=version, dry_run=dry_run
    ) as e:
        for pattern in remove:
            if not e.remove(pattern):
                raise ocikit.FileNotInArtifact(
                    f"{e.reference} has no file that matches {display.quoted(pattern)}",
                    hint=f"it has {display.join_limited(e)}" if len(e) else "it has no files",
                )
        for before, after in rename:
            e.rename(before, after)
        for name, path in replace:
            e.file(name)  # raises if there is no such file
            e[name] = path
        for path, name in map(_path_and_name, add):
            if name:
                e[name] = path
            else:
                e.add(path, secrets=secrets)
        for key, value in annotate:
            e.annotations[key] = value
    if e.artifact is not None:
        print_artifact(e.artifact, dry_run=dry_run, as_json=as_json)


def _path_and_name(text: str) -> tuple[str, str]:
    """Return the path and the name of `PATH[=NAME]`; a path that exists may contain the sign."""
    path, equals, name = text.rpartition("=")
    return (text, "") if not equals or os.path.exists(os.path.expanduser(text)) else (path, name)
