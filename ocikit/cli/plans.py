"""What a dry run prints: one line for each change, and a sum."""

from __future__ import annotations

from collections.abc import Iterator

from ocikit import EditPlan, FolderPlan, Plan, display

_MARKS = {"fetch": "+", "replace": "~", "overwrite": "~", "edited": "!"}


def plan_lines(plan: Plan | FolderPlan | EditPlan | None) -> Iterator[str]:
    """Yield the lines of a dry run.

    "+" is new, "~" replaced, "-" deleted, "→" renamed, and "!" stops the command without --force.

    Args:
        plan: What the artifact of a dry run has; None if there is nothing to do.
    """
    if plan is None:
        yield "nothing to do"
    elif isinstance(plan, EditPlan):
        yield from _edit_lines(plan)
    elif isinstance(plan, FolderPlan):
        yield from _folder_lines(plan)
    else:
        yield from _transfer_lines(plan)


def _edit_lines(plan: EditPlan) -> Iterator[str]:
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


def _folder_lines(plan: FolderPlan) -> Iterator[str]:
    for file in plan.files:
        if file.decision in _MARKS:
            yield f"{_MARKS[file.decision]} {display.sanitize(file.title)}  {display.size(file.descriptor.size)}"
    for name in plan.removed:
        yield f"- {display.sanitize(name)}"
    present = sum(file.decision == "present" for file in plan.files)
    there = f", {display.pluralize(present, 'file')} already there" if present else ""
    stop = "; edited files are in the way: add --force to overwrite them" if plan.edited else ""
    yield f"{display.size(plan.size)} to fetch to {display.display_path(plan.path)}{there}{stop}"


def _transfer_lines(plan: Plan) -> Iterator[str]:
    items = plan.items
    for item in items:
        if item.outcome == "moved":
            descriptor = item.descriptor
            name = descriptor.title or descriptor.artifact_type or descriptor.media_type
            yield f"+ {display.sanitize(name)}  {display.size(descriptor.size)}"
    present = sum(item.outcome == "present" for item in items)
    there = (
        f", {display.pluralize(present, 'blob or document', 'blobs and documents')} already there" if present else ""
    )
    skipped = f", {len(plan.foreign)} skipped: they may not be redistributed" if plan.foreign else ""
    yield f"{display.size(plan.size)} to move{there}{skipped}"
