"""What commands print as a result: references, and JSON by the schemas of `ocikit.cli.schemas`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ocikit
from ocikit import display
from ocikit.cli.output import print_summary
from ocikit.cli.plans import content_name, plan_lines


def print_json(value: Any) -> None:
    """Print one document. All characters are ASCII, so no text of a registry reaches a terminal as it is."""
    print(json.dumps(value, indent=2))


def print_json_line(value: Any) -> None:
    """Print one document of several, in a line of its own."""
    print(json.dumps(value))


def print_artifact(artifact: ocikit.Artifact, *, dry_run: bool, as_json: bool, with_path: bool = False) -> None:
    """Print what a command has made: the reference with the digest, or JSON. A dry run prints its plan.

    Args:
        artifact: The result.
        dry_run: Whether nothing was changed; then the plan is a part of it.
        as_json: Print JSON.
        with_path: Whether the path of the files is a part of the result; it takes the place of the reference.
    """
    path = artifact.path if with_path else None
    if as_json:
        value = artifact_facts(artifact) | {"dry_run": dry_run, "plan": list(_steps(artifact)) if dry_run else None}
        print_json(value | ({"path": None if path is None else str(path)} if with_path else {}))
        return
    if dry_run:
        for line in plan_lines(artifact.plan):
            print(line)
        return
    print_summary(artifact)
    print(display.sanitize(artifact.reference if path is None else path))


def artifact_facts(artifact: ocikit.Artifact) -> dict[str, Any]:
    """Return what all commands tell of an artifact."""
    return {
        "reference": str(artifact.reference),
        "digest": str(artifact.digest),
        "tag": artifact.reference.tag,
        "kind": artifact.kind,
        "size": artifact.size,
    }


def _steps(artifact: ocikit.Artifact) -> Iterator[dict[str, Any]]:
    """Yield the steps of a dry run."""
    plan = artifact.plan
    if isinstance(plan, ocikit.Plan):
        for item in plan.items:
            action = _ACTIONS.get(item.outcome, item.outcome)
            yield _step(content_name(item.descriptor), action, item.descriptor)
    elif isinstance(plan, ocikit.FolderPlan):
        for file in plan.files:
            yield _step(file.title, file.decision, file.descriptor)
        yield from (_step(name, "remove") for name in plan.removed)
    elif plan is not None:
        yield from (_step(name, "add", layer) for name, layer in plan.added.items())
        yield from (_step(name, "replace", layer) for name, layer in plan.changed.items())
        yield from (_step(name, "remove", layer) for name, layer in plan.removed.items())
        yield from (_step(after, "rename", before=before) for before, after in plan.renamed.items())
        yield from (_step(key, "annotate") for key in plan.annotations)


_ACTIONS = {"moved": "transfer", "skipped": "skip"}


def _step(
    name: str, action: str, descriptor: ocikit.Descriptor | None = None, before: str | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "action": action,
        "digest": None if descriptor is None else str(descriptor.digest),
        "size": None if descriptor is None else descriptor.size,
        "before": before,
    }
