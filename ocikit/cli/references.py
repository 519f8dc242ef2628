"""The commands about tags and digests: `resolve`, `exists`, `tag`, `delete`."""

from __future__ import annotations

import sys

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import (
    dry_run_option,
    flag,
    json_lines_option,
    json_option,
    platform_option,
    reference,
    with_session,
)
from ocikit.cli.output import print_note
from ocikit.cli.prompts import ask
from ocikit.cli.results import print_json, print_json_line

_NOT_FOUND = 3  # the exit code of a missing artifact


@command(
    schema="resolve",
    examples=(
        ("The reference with the digest that the tag names now", "ocikit resolve ghcr.io/ada/waves:v1"),
        ("Only the digest", "ocikit resolve ghcr.io/ada/waves:v1 --digest"),
        ("Of one platform of an image", "ocikit resolve docker.io/library/alpine:3 --platform linux/arm64"),
    ),
)
@reference()
@flag("--digest", "only_digest", help="Print only the digest.")
@platform_option("select")
@json_option
@with_session
def resolve(session: ocikit.Session, ref: str, *, only_digest: bool, platform: str | None, as_json: bool) -> None:
    """Print a reference with the digest that it names now.

    Others get the same bytes by it, even after the tag has moved.
    """
    pinned = session.pin(ref) if platform is None else session.inspect(ref, platform=platform).reference
    if as_json:
        print_json({"reference": str(pinned), "digest": str(pinned.digest), "tag": pinned.tag})
    else:
        print(pinned.digest if only_digest else display.sanitize(pinned))


@command(
    schema="exists",
    examples=(
        (
            "Push a version only once",
            "ocikit exists ghcr.io/ada/waves:v1 || ocikit push ghcr.io/ada/waves:v1 waves",
        ),
        ("As JSON", "ocikit exists ghcr.io/ada/waves:v1 --json"),
    ),
)
@reference()
@json_option
@with_session
def exists(session: ocikit.Session, ref: str, *, as_json: bool) -> int:
    """Tell by the exit code whether there is an artifact.

    It is 0 if there is, and 3 if there is no such tag, digest or repository. The registry is always asked, not the cache.
    """
    there = session.exists(ref)
    if as_json:
        print_json({"reference": ref, "exists": there})
    else:
        print_note(display.sanitize(f"{ref} exists" if there else f"there is no {ref}"))
    return 0 if there else _NOT_FOUND


@command(
    schema="tag",
    examples=(
        ("Another tag for a version", "ocikit tag ghcr.io/ada/waves:v1.2 stable latest"),
        ("A tag for a digest", "ocikit tag ghcr.io/ada/waves@sha256:… v1"),
        ("See which tags would move", "ocikit tag ghcr.io/ada/waves:v1.2 stable --dry-run"),
    ),
)
@reference("Artifact that gets the tags.")
@argument("tags", "TAG...", "New tags in the same repository. An existing tag moves.")
@dry_run_option
@json_option
@with_session
def tag(session: ocikit.Session, ref: str, tags: tuple[str, ...], *, dry_run: bool, as_json: bool) -> None:
    """Give an artifact more tags in its repository.

    Its bytes stay unchanged, and nothing is transferred. The reference with the digest is printed.
    """
    if not (dry_run or as_json):
        print(display.sanitize(session.tag(ref, *tags)))
        return
    plan = session.tag(ref, *tags, dry_run=True)
    if not dry_run:
        session.tag(plan.reference, *tags)
    changes = {name: _change(plan, name) for name in plan.tags}
    if as_json:
        entries = [{"tag": name, "change": change} for name, change in changes.items()]
        pinned = {"reference": str(plan.reference), "digest": str(plan.reference.digest)}
        print_json({**pinned, "tags": entries, "dry_run": dry_run})
        return
    for name, change in changes.items():
        before = f" from {plan.current[name].short}" if change == "moved" else ""
        print(display.sanitize(f"{name}  {change}{before}"))


def _change(plan: ocikit.TagPlan, tag: str) -> str:
    current = plan.current.get(tag)
    if current is None:
        return "created"
    return "unchanged" if current == plan.reference.digest else "moved"


@command(
    schema="delete",
    examples=(
        ("A tag; other tags of the same bytes stay", "ocikit delete ghcr.io/ada/waves:test"),
        ("A manifest with all its tags", "ocikit delete ghcr.io/ada/waves@sha256:…"),
        ("See what would be deleted", "ocikit delete ghcr.io/ada/waves:test --dry-run"),
        ("Without a question", "ocikit delete ghcr.io/ada/waves:test ghcr.io/ada/waves:old --yes"),
    ),
)
@argument("refs", "REFERENCE...", "Reference with a tag, or with a digest for the manifest and all its tags.")
@flag("-y", "--yes", help="Ask no question. Without a terminal, none is asked.")
@dry_run_option
@json_lines_option
@with_session
def delete(session: ocikit.Session, refs: tuple[str, ...], *, yes: bool, dry_run: bool, as_json: bool) -> int:
    """Delete tags, or manifests with all their tags.

    A terminal is asked first. All references are resolved before the first deletion, so a wrong one deletes nothing.
    The registry's garbage collection frees the space later.
    """
    plans = [session.delete(ref, dry_run=True) for ref in refs]
    if not (dry_run or yes) and sys.stdin.isatty() and sys.stderr.isatty():
        for plan in plans:
            print_note(_deletion(plan))
        if ask("Delete? [y/N] ").lower() not in {"y", "yes"}:
            print_note("nothing was deleted")
            return 1
    for plan in plans:
        if not dry_run:
            session.delete(plan.reference)
        if as_json:
            what = {"deletes": "tag" if plan.keeps_manifest else "manifest"}
            print_json_line({"reference": str(plan.reference), "digest": str(plan.digest), **what, "dry_run": dry_run})
        elif dry_run:
            print(_deletion(plan))
        else:
            print_note(display.sanitize(f"deleted {plan.reference}"))
    return 0


def _deletion(plan: ocikit.DeletePlan) -> str:
    what = f"the tag of {plan.digest.short}" if plan.keeps_manifest else "the manifest and all its tags"
    return display.sanitize(f"{plan.reference}  {what}")
