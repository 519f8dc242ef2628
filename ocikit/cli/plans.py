"""What a dry run prints: one line for each change, and a sum."""

from __future__ import annotations

from collections.abc import Iterator

import ocikit
from ocikit import display

_MARKS = {"fetch": "+", "replace": "~", "overwrite": "~", "edited": "!"}


def plan_lines(plan: ocikit.Plan | ocikit.FolderPlan | ocikit.EditPlan | None) -> Iterator[str]:
    """Yield the lines of a dry run.

    "+" is new, "~" replaced, "-" deleted, "→" renamed, and "!" stops the command without --force.

    Args:
        plan: What the artifact of a dry run has; None if there is nothing to do.
    """
    if plan is None:
        yield "nothing to do"
    elif isinstance(plan, ocikit.EditPlan):
        yield from _edit_lines(plan)
    elif isinstance(plan, ocikit.FolderPlan):
        yield from _folder_lines(plan)
    else:
        yield from _transfer_lines(plan)


def content_name(descriptor: ocikit.Descriptor) -> str:
    """Return what a step of a transfer is called: a file by its name, other content by its type."""
    return descriptor.title or descriptor.artifact_type or descriptor.media_type


def _edit_lines(plan: ocikit.EditPlan) -> Iterator[str]:
    """Yield a line for each change of an edit."""
    sizes = {"+": plan.added, "~": plan.changed, "-": plan.removed}
    for mark, files in sizes.items():
        for name, layer in files.items():
            yield f"{mark} {display.sanitize(name)}  {display.size(layer.size)}"
    for before, after in plan.renamed.items():
        yield f"→ {display.sanitize(before)} → {display.sanitize(after)}"
    for key, value in plan.annotations.items():
        yield f"{display.sanitize(key)}: {display.sanitize(value or '')}"
    yield str(plan)


def _folder_lines(plan: ocikit.FolderPlan) -> Iterator[str]:
    for file in plan.files:
        if file.decision in _MARKS:
            yield f"{_MARKS[file.decision]} {display.sanitize(file.title)}  {display.size(file.descriptor.size)}"
    for name in plan.removed:
        yield f"- {display.sanitize(name)}"
    present = sum(file.decision == "present" for file in plan.files)
    there = f", {display.pluralize(present, 'file')} already there" if present else ""
    stop = "; edited files are in the way: add --force to overwrite them" if plan.edited else ""
    yield f"{display.size(plan.size)} to fetch to {display.display_path(plan.path)}{there}{stop}"


def _transfer_lines(plan: ocikit.Plan) -> Iterator[str]:
    items = plan.items
    for item in items:
        if item.outcome == "moved":
            yield f"+ {display.sanitize(content_name(item.descriptor))}  {display.size(item.descriptor.size)}"
    present = sum(item.outcome == "present" for item in items)
    there = (
        f", {display.pluralize(present, 'blob or document', 'blobs and documents')} already there" if present else ""
    )
    skipped = f", {len(plan.foreign)} skipped: they may not be redistributed" if plan.foreign else ""
    yield f"{display.size(plan.size)} to move{there}{skipped}"
