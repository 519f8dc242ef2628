"""The commands that show documents and lists of a registry: `inspect`, `validate`, `tags`, `catalog`."""

from __future__ import annotations

import sys
from typing import Any

import ocikit
from ocikit import display
from ocikit.cli.command import argument, command
from ocikit.cli.options import dialect_option, flag, json_lines_option, json_option, option, reference, with_session
from ocikit.cli.output import print_note
from ocikit.cli.results import artifact_facts, print_json, print_json_line
from ocikit.spec import media_types
from ocikit.spec.reference import parse_reference
from ocikit.spec.titles import layer_name


@command(
    schema="inspect",
    examples=(
        ("Kind, size, annotations and layers", "ocikit inspect ghcr.io/ada/waves:v1"),
        ("The manifest", "ocikit inspect ghcr.io/ada/waves:v1 --raw | jq ."),
    ),
)
@reference()
@flag("--raw", help="Write the exact bytes of the document.")
@json_option
@dialect_option
@with_session
def inspect(session: ocikit.Session, ref: str, *, raw: bool, as_json: bool, **settings: Any) -> None:
    """Show the documents of an artifact or image.

    Layers are not fetched.
    """
    artifact = session.inspect(ref, **settings)
    if raw:
        sys.stdout.buffer.write(artifact.document.raw)
        return
    if as_json:
        print_json(_facts(artifact))
        return
    print(f"{display.sanitize(artifact.reference)}  {display.sanitize(artifact.kind)}  {display.size(artifact.size)}")
    for key, value in artifact.annotations.items():
        print(f"  {display.sanitize(key)}: {display.sanitize(value)}")
    if artifact.is_index and not artifact.is_nested:
        for manifest in artifact.index.manifests:
            print(f"  {display.sanitize(manifest.platform or manifest.media_type):24}  {manifest.digest}")
    else:
        # Do not use .files: it omits layers whose title is not a valid file name
        unnamed = artifact.unnamed
        for layer in artifact.layers:
            if layer.media_type != media_types.EMPTY:
                name = layer_name(layer) if layer.title is not None else layer.media_type
                # Unusable titles are shown with the whole digest, which is the only name of their content
                digest = layer.digest if layer.digest in unnamed else layer.digest.short
                print(f"  {display.size(layer.size):>10}  {digest}  {display.sanitize(name)}")


def _facts(artifact: ocikit.Artifact) -> dict[str, Any]:
    document = artifact.document
    layers = () if artifact.is_index and not artifact.is_nested else artifact.layers
    return {
        **artifact_facts(artifact),
        "media_type": artifact.descriptor.media_type,
        "artifact_type": document.artifact_type,
        "annotations": dict(artifact.annotations),
        "platforms": [str(platform) for platform in artifact.platforms],
        "layers": [
            {"title": layer.title, "media_type": layer.media_type, "digest": str(layer.digest), "size": layer.size}
            for layer in layers
        ],
        "manifests": [
            {
                "platform": None if manifest.platform is None else str(manifest.platform),
                "media_type": manifest.media_type,
                "digest": str(manifest.digest),
                "size": manifest.size,
            }
            for manifest in (artifact.index.manifests if artifact.is_index else ())
        ],
    }


@command(
    schema="validate",
    examples=(
        ("All manifests and configs", "ocikit validate ghcr.io/ada/waves:v1"),
        ("One platform of an image in a layout", "ocikit validate oci:image:latest --platform linux/arm64"),
    ),
)
@reference()
@option(
    "--platform", metavar="OS/ARCH[/VARIANT]", complete="platforms", help="Check only the manifest of this platform."
)
@json_option
@with_session
def validate(session: ocikit.Session, ref: str, *, as_json: bool, **settings: Any) -> int:
    """Check documents against the specification.

    These are indexes, manifests and configs of images; layers are not fetched. Each violation is printed with its place.
    The exit code is 1 if there are violations.
    """
    report = session.validate(ref, **settings)
    if as_json:
        print_json(
            {
                "reference": str(report.reference),
                "ok": report.ok,
                "documents": [str(document.digest) for document in report.documents],
                "violations": [
                    {"document": str(each.digest), "path": each.path, "message": each.message}
                    for each in report.violations
                ],
            }
        )
        return 0 if report.ok else 1
    for violation in report.violations:
        print(display.sanitize(violation))
    print_note(report.summary)
    return 0 if report.ok else 1


@command(
    schema="tags",
    examples=(
        ("All tags", "ocikit tags ghcr.io/ada/waves"),
        ("The newest version", "ocikit tags ghcr.io/ada/waves | sort -V | tail -1"),
    ),
)
@reference("Repository, such as ghcr.io/ada/waves, or layout.")
@json_lines_option
@with_session
def tags(session: ocikit.Session, ref: str, *, as_json: bool) -> None:
    """List the tags of a repository.

    They are printed as their pages arrive.
    """
    name = parse_reference(ref)
    for tag in session.tags(ref):
        if as_json:
            print_json_line({"tag": tag, "reference": str(name.tagged(tag))})
        else:
            print(display.sanitize(tag))


@command(
    schema="catalog",
    examples=(
        ("All repositories", "ocikit catalog registry.example.com"),
        ("Those of one group", "ocikit catalog localhost:5000 | grep ^ada/"),
    ),
)
@argument("host", "HOST", "Registry, such as registry.example.com or localhost:5000.", complete="hosts")
@json_lines_option
@with_session
def catalog(session: ocikit.Session, host: str, *, as_json: bool) -> None:
    """List the repositories of a registry.

    Many public registries do not list theirs.
    """
    for name in session.catalog(host):
        if as_json:
            print_json_line({"repository": name, "reference": f"{host}/{name}"})
        else:
            print(display.sanitize(name))
