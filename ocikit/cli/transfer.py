"""The commands that move content: `pull`, `push`, `copy`, `watch`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import click

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import (
    dialect_option,
    dry_run_option,
    flag,
    joined,
    json_option,
    notes_options,
    option,
    pairs_option,
    platform_option,
    reference,
    seconds,
    selection_options,
    with_session,
)
from ocikit.cli.output import print_note
from ocikit.cli.results import artifact_facts, print_artifact, print_json
from ocikit.client.arguments import WRITTEN
from ocikit.spec import media_types
from ocikit.spec.titles import LINKS

_source_options = joined(
    option(
        "--links",
        type=click.Choice(LINKS),
        default=LINKS[0],
        help="Follow symlinks that stay in their folder (inside, the default), follow all, or skip all.",
    ),
    flag("--hidden", help="Push all files: also .git, caches, what .ocikitignore names, and likely secrets."),
    flag("--secrets", help="Push files that look like secrets, such as .env."),
)


@command(
    schema="pull",
    examples=(
        ("Write the files to the folder data", "ocikit pull ghcr.io/ada/waves:v1 data"),
        (
            "Only tables, and overwrite what was edited",
            "ocikit pull ghcr.io/ada/waves:v1 data --include '*.csv' --force",
        ),
        ("Fetch to the cache, and print the path", "ocikit pull ghcr.io/ada/waves:v1"),
    ),
)
@reference()
@argument("to", "[FOLDER]", "Folder to write the files to; without it, they are in the cache.", complete="folders")
@selection_options("pull")
@platform_option("pull")
@flag("--force", help="Overwrite edited files.")
@option(
    "--archive/--no-archive",
    default=None,
    help="Unpack all tar layers, or none; by default, folders that were pushed as archives.",
)
@dialect_option
@option("--root", metavar="FOLDER", help="Write only what is below this folder of an image, such as models.")
@dry_run_option
@json_option
@with_session
def pull(session: ocikit.Session, ref: str, *, dry_run: bool, as_json: bool, **settings: Any) -> None:
    """Pull an artifact to the cache, or as files to a folder.

    The path of the files is printed. Content is verified, an interrupted pull resumes, and edited files stay.
    """
    artifact = session.pull(ref, dry_run=dry_run, **settings)
    print_artifact(artifact, dry_run=dry_run, as_json=as_json, with_path=True)


@command(
    schema="push",
    examples=(
        ("Push a folder: its files keep their names below waves/", "ocikit push ghcr.io/ada/waves:v1 waves"),
        ("Push what is in the folder, without its name", "ocikit push ghcr.io/ada/waves:v1 waves/."),
        (
            "A model with its source, as the next version",
            "ocikit push ghcr.io/ada/model:latest model.pkl \\\n    --input ghcr.io/ada/waves:v1 --version next",
        ),
    ),
)
@reference("Reference of the new artifact, such as ghcr.io/ada/waves:v1.")
@argument("paths", "PATH...", "Files and folders. A folder that ends with /. leaves its name out.", complete="paths")
@option("--artifact-type", metavar="TYPE", help="Type of the artifact, as a media type.")
@pairs_option("--annotation", "annotations", metavar="KEY=VALUE", help="Annotation of the manifest; repeatable.")
@option(
    "--archive",
    type=click.Choice(["tar", "tar+gzip", "tar+zstd"]),
    help="Push each folder as one archive of this format.",
)
@option(
    "--shards",
    type=click.Choice(tuple(media_types.SHARDS)),
    help="Push the files of each folder in archives without compression, for very many files.",
)
@option("--shard-size", default="256MiB", metavar="SIZE", help="Size of the largest shard (256MiB).")
@flag("--index", help="List the files in several manifests, for more files than one manifest can list.")
@option("--as", "as_", type=click.Choice(WRITTEN), help="Write the model format of the CNCF, KitOps or Docker.")
@pairs_option("--model", metavar="KEY=VALUE", help="With --as, a fact about the model: license=MIT. Repeatable.")
@pairs_option(
    "--class",
    "classes",
    metavar="PATTERN=CLASS",
    help="With --as, the class of files: weights, config, doc, code or dataset. Repeatable.",
)
@option("--subject", metavar="REFERENCE", complete="references", help="Artifact that the new one refers to.")
@notes_options
@selection_options("push")
@_source_options
@dry_run_option
@json_option
@with_session
def push(
    session: ocikit.Session, ref: str, paths: tuple[str, ...], *, dry_run: bool, as_json: bool, **settings: Any
) -> None:
    """Push files and folders as an artifact.

    The reference with the digest of the artifact is printed. Content that the registry has is not sent again.
    """
    artifact = session.push(ref, *paths, dry_run=dry_run, **settings)
    print_artifact(artifact, dry_run=dry_run, as_json=as_json)


@command(
    schema="copy",
    examples=(
        ("From one registry to another", "ocikit copy ghcr.io/ada/waves:v1 registry.example.com/ada/waves:v1"),
        (
            "Into a layout on disk, with signatures and reports",
            "ocikit copy ghcr.io/ada/waves:v1 oci:waves --referrers",
        ),
        ("One platform of an image", "ocikit copy docker.io/library/alpine:3 oci:alpine --platform linux/arm64"),
    ),
)
@argument("source", "SOURCE", "Reference to copy from.", complete="references")
@argument(
    "target", "TARGET", "Reference to copy to; without a tag, it gets the tag of the source.", complete="references"
)
@flag("--referrers", help="Copy the artifacts that are attached to it, too.")
@flag("--cosign", help="Copy the tags of cosign's signatures, too.")
@platform_option("copy")
@option(
    "--convert",
    type=click.Choice(["oci"]),
    help="Write Docker's manifests and lists as OCI ones; their digests change.",
)
@dry_run_option
@json_option
@with_session
def copy(session: ocikit.Session, source: str, target: str, *, dry_run: bool, as_json: bool, **settings: Any) -> None:
    """Copy between registries, layouts and archives.

    A layout is oci:FOLDER, an archive is oci-archive:FILE or docker-archive:FILE. Content goes straight from one side to
    the other, and what the target has is not sent again.
    """
    artifact = session.copy(source, target, dry_run=dry_run, **settings)
    print_artifact(artifact, dry_run=dry_run, as_json=as_json)


@command(
    schema="watch",
    examples=(
        ("Push checkpoints while a training writes them", "ocikit watch runs/7 ghcr.io/ada/runs:live"),
        ("Every minute, without logs", "ocikit watch runs/7 ghcr.io/ada/runs:live --every 60 --exclude '*.log'"),
    ),
)
@argument("folder", "FOLDER", "Folder to watch.", complete="folders")
@reference("Reference whose tag moves with each push.")
@option("--every", type=seconds, default=300, metavar="SECONDS", help="Time between pushes (300).")
@selection_options("push")
@_source_options
@json_option
@with_session
def watch(session: ocikit.Session, folder: str, ref: str, *, as_json: bool, **settings: Any) -> None:
    """Push a folder while another program writes to it.

    Ctrl-C ends it with a last push. The reference of that push is printed.
    """
    with ocikit.watch(folder, ref, session=session, **settings) as watching, suppress(KeyboardInterrupt):
        print_note(f"watching {display.display_path(watching.folder)}; Ctrl-C ends with a last push")
        watching.block()
    artifact = watching.artifact
    if as_json:
        print_json(None if artifact is None else artifact_facts(artifact))
    else:
        print("nothing was pushed" if artifact is None else artifact.reference)
