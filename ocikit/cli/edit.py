"""The command `edit`: changes of an artifact without downloading what stays."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

import ocikit
from ocikit import display
from ocikit.cli.arguments import key_value

_ORDER = "Files are removed, renamed, replaced and added in this order."


def add_edit(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.description = f"{parser.description}. {_ORDER}"
    parser.add_argument("reference", help="artifact with a tag, which moves to the result")
    add = "add files and folders under the names that push gives them, or one under another name"
    parser.add_argument("--add", action="append", default=[], metavar="PATH[=NAME]", help=add)
    remove = "remove the files whose names match; logs/ are all below a folder"
    parser.add_argument("--remove", action="append", default=[], metavar="PATTERN", help=remove)
    rename = "give a file another name"
    parser.add_argument("--rename", action="append", type=key_value, default=[], metavar="NAME=NEW", help=rename)
    replace = "replace the content of a file"
    parser.add_argument("--replace", action="append", type=key_value, default=[], metavar="NAME=PATH", help=replace)
    annotate = "set an annotation of the manifest"
    parser.add_argument("--annotate", action="append", type=key_value, default=[], metavar="KEY=VALUE", help=annotate)
    to = "reference of the result, if the tag must not move; its repository may be another one"
    parser.add_argument("--to", metavar="REFERENCE", help=to)
    expect = "fail if the tag does not name this digest"
    parser.add_argument("--expect", metavar="DIGEST", help=expect)
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="another tag of the result")
    parser.add_argument("--secrets", action="store_true", help="add files that look like secrets, such as .env")
    parser.add_argument("--dry-run", action="store_true", help="change nothing, and print what would change")


def edit(session: ocikit.Session, options: argparse.Namespace) -> ocikit.Edit:
    """Edit an artifact.

    Args:
        session: Session that writes.
        options: Options of the command.

    Returns:
        The edit, which has ended.

    Raises:
        FileNotInArtifact: There is no file to remove, rename or replace.
        Conflict: Another writer has changed a file that the edit changes, or the tag has another digest than expected.
    """
    changes = (
        options.add,
        options.remove,
        options.rename,
        options.replace,
        options.annotate,
        options.input,
        options.to,
    )
    if not any(changes):
        raise ocikit.InvalidArgument("nothing to edit", hint="name a change, such as --add PATH or --remove PATTERN")
    with session.edit(
        options.reference,
        to=options.to,
        expect=options.expect,
        tags=options.tag,
        message=options.message,
        inputs=options.input,
        version=options.version,
        dry_run=options.dry_run,
    ) as e:
        for pattern in options.remove:
            if not e.remove(pattern):
                raise ocikit.FileNotInArtifact(
                    f"{e.reference} has no file that matches {display.quoted(pattern)}",
                    hint=f"it has {display.join_limited(e)}" if len(e) else "it has no files",
                )
        for before, after in options.rename:
            e.rename(before, after)
        for name, path in options.replace:
            e.file(name)  # raises if there is no such file
            e[name] = path
        for path, name in map(_path_and_name, options.add):
            if name:
                e[name] = path
            else:
                e.add(path, secrets=options.secrets)
        for key, value in options.annotate:
            e.annotations[key] = value
    return e


def _path_and_name(text: str) -> tuple[str, str]:
    """Return the path and the name of `PATH[=NAME]`; a path that exists may contain the sign."""
    path, equals, name = text.rpartition("=")
    return (text, "") if not equals or os.path.exists(os.path.expanduser(text)) else (path, name)


def plan_lines(plan: ocikit.EditPlan) -> Iterator[str]:
    """Yield a line for each change of a plan."""
    sizes = {"+": plan.added, "~": plan.changed, "-": plan.removed}
    for mark, files in sizes.items():
        for name, layer in files.items():
            yield f"{mark} {display.sanitize(name)}  {display.size(layer.size)}"
    for before, after in plan.renamed.items():
        yield f"→ {display.sanitize(before)} → {display.sanitize(after)}"
    for key, value in plan.annotations.items():
        yield f"{display.sanitize(key)}: {display.sanitize(value or '')}"
    yield str(plan)
