"""The commands about attached artifacts: `attach`, `referrers`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from attrs import frozen

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import (
    dry_run_option,
    json_lines_option,
    json_option,
    number_option,
    option,
    pairs_option,
    reference,
    repeated_option,
    selection_options,
    with_session,
)
from ocikit.cli.output import print_note
from ocikit.cli.results import print_artifact, print_json_line


@command(
    schema="attach",
    examples=(
        (
            "A report about an artifact",
            "ocikit attach ghcr.io/ada/waves:v1 report.html \\\n    --artifact-type application/vnd.example.report",
        ),
        (
            "Only annotations",
            "ocikit attach ghcr.io/ada/waves:v1 --annotation reviewed-by=ada \\\n    --artifact-type application/vnd.example.review",
        ),
    ),
)
@reference("Artifact that the files are about; it stays unchanged.")
@argument("paths", "[PATH]...", "Files and folders; none are needed if annotations are enough.")
@option("--artifact-type", metavar="TYPE", required=True, help="Type of the new artifact, as a media type.")
@pairs_option("--annotation", "annotations", metavar="KEY=VALUE", help="Annotation of the new manifest; repeatable.")
@repeated_option("--tag", "tags", metavar="TAG", help="Tag of the new artifact; usually it has none. Repeatable.")
@option(
    "--archive",
    type=click.Choice(["tar", "tar+gzip", "tar+zstd"]),
    help="Attach each folder as one archive of this format.",
)
@selection_options("attach")
@dry_run_option
@json_option
@with_session
def attach(
    session: ocikit.Session, ref: str, paths: tuple[str, ...], *, dry_run: bool, as_json: bool, **settings: Any
) -> None:
    """Attach files to an artifact, such as a report.

    The new artifact has the other one as its subject, and 'ocikit referrers' lists it. Its reference is printed.
    """
    artifact = session.attach(ref, *paths, dry_run=dry_run, **settings)
    print_artifact(artifact, dry_run=dry_run, as_json=as_json)


@frozen(kw_only=True)
class _Attached:
    """A referrer and its place in the tree."""

    descriptor: ocikit.Descriptor
    depth: int
    """1 for a referrer of the artifact itself."""
    last: tuple[bool, ...]
    """For each level, whether the branch ends there."""
    subject: str
    """The digest that it refers to."""


@command(
    schema="referrers",
    examples=(
        ("Reports, signatures, and what is attached to them", "ocikit referrers ghcr.io/ada/waves:v1"),
        (
            "The digests of all reports",
            "ocikit referrers ghcr.io/ada/waves:v1 --json \\\n    --artifact-type application/vnd.example.report | jq -r .digest",
        ),
    ),
)
@reference()
@option("--artifact-type", metavar="TYPE", help="Only artifacts of this type, at the first level.")
@number_option(
    "--depth", default="10", help="Levels of the tree (10); 1 lists what is attached to the artifact itself."
)
@json_lines_option
@with_session
def referrers(session: ocikit.Session, ref: str, *, artifact_type: str | None, depth: int, as_json: bool) -> None:
    """Show what is attached to an artifact, as a tree.

    Each line has type, digest, size and time. An artifact is listed once, even if several paths lead to it.
    """
    pinned = session.pin(ref)
    if not as_json:
        print(display.sanitize(pinned))
    found = False
    for attached in _tree(session, pinned, artifact_type, depth):
        found = True
        if as_json:
            print_json_line(_facts(attached))
        else:
            print(_line(attached))
    if not found:
        print_note("nothing is attached to it" if artifact_type is None else "nothing of this type is attached to it")


def _tree(
    session: ocikit.Session, pinned: ocikit.AnyReference, artifact_type: str | None, depth: int
) -> Iterator[_Attached]:
    """Yield referrers, each before its own, with a limit of levels: a registry could make up more without an end."""
    seen = {str(pinned.digest)}

    def level(ref: ocikit.AnyReference, kind: str | None, last: tuple[bool, ...]) -> Iterator[_Attached]:
        items = [d for d in session.referrers(ref, kind) if str(d.digest) not in seen]
        seen.update(str(d.digest) for d in items)
        for number, descriptor in enumerate(items, 1):
            ends = (*last, number == len(items))
            yield _Attached(descriptor=descriptor, depth=len(ends), last=ends, subject=str(ref.digest))
            if len(ends) < depth:
                yield from level(pinned.pinned(descriptor.digest), None, ends)

    yield from level(pinned, artifact_type, ())


def _line(attached: _Attached) -> str:
    descriptor = attached.descriptor
    *above, last = attached.last
    branch = "".join("    " if ended else "│   " for ended in above) + ("└── " if last else "├── ")
    kind = descriptor.artifact_type or descriptor.media_type
    created = descriptor.annotations.get("org.opencontainers.image.created", "")
    return display.sanitize(f"{branch}{kind}  {descriptor.digest}  {display.size(descriptor.size)}  {created}".rstrip())


def _facts(attached: _Attached) -> dict[str, Any]:
    descriptor = attached.descriptor
    return {
        "digest": str(descriptor.digest),
        "artifact_type": descriptor.artifact_type,
        "media_type": descriptor.media_type,
        "size": descriptor.size,
        "subject": attached.subject,
        "depth": attached.depth,
        "annotations": dict(descriptor.annotations),
    }
