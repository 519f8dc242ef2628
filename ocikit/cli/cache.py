"""The command `cache`: what the cache has, what is damaged, and what may be deleted."""

from __future__ import annotations

from datetime import timedelta

import ocikit
from ocikit import display
from ocikit.cli.command import Group, command
from ocikit.cli.options import dry_run_option, flag, json_option, number_option, repeated_option
from ocikit.cli.results import print_json


@command(
    schema="cache ls",
    name="ls",
    examples=(
        ("Repositories with sizes, tags and last use", "ocikit cache ls"),
        ("The size of all of it", "ocikit cache ls --json | jq .size"),
    ),
)
@json_option
def _ls(*, as_json: bool) -> None:
    """List the repositories in the cache, with sizes.

    The last line has the size of the whole cache, and its folder.
    """
    found = ocikit.cache.scan()
    if as_json:
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
        print_json({"root": str(found.root), **numbers, "repositories": repositories})
        return
    for each in found.repositories:
        used = display.Timestamp.of(each.last_used).text()
        tags = display.join_limited(each.tags, 5)
        print(f"{display.size(each.size):>10}  {used}  {display.sanitize(each.name)}{f'  {tags}' if tags else ''}")
    blobs = display.pluralize(found.blobs, "blob")
    print(f"{display.size(found.size):>10}  {blobs} in {display.display_path(found.root)}")


@command(
    schema="cache verify",
    name="verify",
    examples=(
        ("Look for damage", "ocikit cache verify"),
        ("Delete what is damaged", "ocikit cache verify --remove"),
    ),
)
@flag("--remove", help="Delete what is damaged; it is fetched again on use.")
@json_option
def _verify(*, remove: bool, as_json: bool) -> int:
    """Hash all content of the cache.

    The exit code is 1 if content is damaged and not removed.
    """
    result = ocikit.cache.verify(remove=remove)
    if as_json:
        corrupt = [{"digest": str(each.digest), "problem": each.problem} for each in result.corrupt]
        value = {"checked": result.checked, "size": result.size, "corrupt": corrupt, "removed": result.removed}
        print_json(value)
    else:
        for each in result.corrupt:
            path = "" if each.path is None else f"  {display.display_path(each.path)}"
            print(f"{each.digest}  {'deleted' if result.removed else each.problem}{path}")
        print(
            f"{display.pluralize(result.checked, 'blob')}, {display.size(result.size)}, {len(result.corrupt):,} damaged"
        )
    return 1 if result.corrupt and not result.removed else 0


@command(
    schema="cache prune",
    name="prune",
    examples=(
        ("What no tag references", "ocikit cache prune"),
        (
            "Also what was not used for a month, except one group",
            "ocikit cache prune --older-than 30 --keep 'ghcr.io/ada/*'",
        ),
    ),
)
@number_option("--older-than", help="Delete tags and files that were last used more than N days ago.")
@repeated_option("--keep", metavar="PATTERN", help="References that are not deleted, such as 'ghcr.io/ada/*'.")
@dry_run_option
@json_option
def _prune(*, older_than: int | None, keep: tuple[str, ...], dry_run: bool, as_json: bool) -> None:
    """Delete content that was not used for some days, and what no tag references."""
    age = None if older_than is None else timedelta(days=older_than)
    plan = ocikit.cache.prune(older_than=age, keep=keep)
    freed = plan.bytes if dry_run else plan.run()
    if as_json:
        names = [str(name) for name in plan.names]
        print_json({"dry_run": dry_run, "names": names, "size": freed})
        return
    for name in plan.names:
        print(display.sanitize(name))
    print(f"{display.size(freed)} {'would be freed' if dry_run else 'freed'}")


cache = Group(
    name="cache",
    help="List, verify or prune the cache.\n\nThe variable OCIKIT_CACHE names another folder.",
    commands=[_ls, _verify, _prune],
)
