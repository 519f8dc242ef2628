"""The command `cache`: what the cache has, what is damaged, and what may be deleted."""

from __future__ import annotations

import argparse
import json
from datetime import timedelta

import ocikit
from ocikit import display
from ocikit.cli.arguments import positive_int


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Add `ls`, `verify` and `prune`."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, description: str) -> argparse.ArgumentParser:
        subparser = actions.add_parser(name, help=description, description=description)
        subparser.add_argument("--json", action="store_true", help="write JSON")
        return subparser

    action("ls", "list the repositories in the cache, with sizes").set_defaults(run=_list)
    verify = action("verify", "hash all content of the cache")
    verify.add_argument("--remove", action="store_true", help="delete what is damaged; it is fetched again on use")
    verify.set_defaults(run=_verify)
    prune = action("prune", "delete content that was not used for some days, and what no tag references")
    prune.add_argument(
        "--older-than", type=positive_int, metavar="DAYS", help="delete tags and files that were last used longer ago"
    )
    keep = "references that are not deleted, such as 'ghcr.io/org/*'"
    prune.add_argument("--keep", action="append", default=[], metavar="PATTERN", help=keep)
    prune.add_argument("--dry-run", action="store_true", help="show what would be deleted")
    prune.set_defaults(run=_prune)


def _list(options: argparse.Namespace) -> None:
    found = ocikit.cache.scan()
    if options.json:
        repositories = [
            {
                "name": each.name,
                "tags": list(each.tags),
                "snapshots": each.snapshots,
                "size": each.size,
                "last_used": each.last_used.isoformat(),
            }
            for each in found.repositories
        ]
        numbers = {"blobs": found.blobs, "size": found.size, "partial": found.partial}
        print(json.dumps({"root": str(found.root), **numbers, "repositories": repositories}, indent=2))
        return
    for each in found.repositories:
        used = display.Timestamp.of(each.last_used).text()
        tags = display.join_limited(each.tags, 5)
        print(f"{display.size(each.size):>10}  {used}  {display.sanitize(each.name)}{f'  {tags}' if tags else ''}")
    blobs = display.pluralize(found.blobs, "blob")
    print(f"{display.size(found.size):>10}  {blobs} in {display.display_path(found.root)}")


def _verify(options: argparse.Namespace) -> int:
    result = ocikit.cache.verify(remove=options.remove)
    if options.json:
        corrupt = [{"digest": str(each.digest), "problem": each.problem} for each in result.corrupt]
        value = {"checked": result.checked, "size": result.size, "corrupt": corrupt, "removed": result.removed}
        print(json.dumps(value, indent=2))
    else:
        for each in result.corrupt:
            path = "" if each.path is None else f"  {display.display_path(each.path)}"
            print(f"{each.digest}  {'deleted' if result.removed else each.problem}{path}")
        print(
            f"{display.pluralize(result.checked, 'blob')}, {display.size(result.size)}, {len(result.corrupt):,} damaged"
        )
    return 1 if result.corrupt and not result.removed else 0


def _prune(options: argparse.Namespace) -> None:
    older_than = None if options.older_than is None else timedelta(days=options.older_than)
    plan = ocikit.cache.prune(older_than=older_than, keep=options.keep)
    freed = plan.bytes if options.dry_run else plan.run()
    if options.json:
        names = [str(name) for name in plan.names]
        print(json.dumps({"dry_run": options.dry_run, "names": names, "size": freed}, indent=2))
        return
    for name in plan.names:
        print(display.sanitize(name))
    print(f"{display.size(freed)} {'would be freed' if options.dry_run else 'freed'}")
