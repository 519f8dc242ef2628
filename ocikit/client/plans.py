"""Plans of calls that change tags or delete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from ocikit import display
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.reference import AnyReference


@frozen(kw_only=True, repr=False)
class DeletePlan(display.Displayable):
    """What a deletion removes: a tag, or a manifest with all its tags.

    >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
    >>> plan = ocikit.delete("oci:waves:v1", dry_run=True)
    >>> plan.digest == artifact.digest, plan.keeps_manifest
    (True, True)
    """

    reference: AnyReference
    """The deleted tag or digest."""
    digest: Digest
    """The manifest that the reference names."""

    @property
    def keeps_manifest(self) -> bool:
        """Whether only a tag is removed."""
        return self.reference.digest is None

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "digest", display.DigestCell(self.digest)
        yield "deletes", f"the tag {self.reference.tag}" if self.keeps_manifest else "the manifest and all its tags"

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        yield "plan of a deletion"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "reference")


@frozen(kw_only=True, repr=False)
class EditPlan(display.Displayable):
    """What an edit changes.

    >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
    >>> with ocikit.edit("oci:waves:v1", dry_run=True) as edit:
    ...     edit["b.txt"] = b"new"
    >>> list(edit.plan.added), list(edit.plan.changed)
    (['b.txt'], [])
    """

    reference: AnyReference
    """The tag that it moves."""
    base: Digest | None
    """The manifest that is edited; None for a new artifact."""
    added: Mapping[str, Descriptor]
    """New files by name."""
    changed: Mapping[str, Descriptor]
    """Files with other content than before, by name."""
    removed: Mapping[str, Descriptor]
    renamed: Mapping[str, str]
    """New names by the name before; the content is the same."""
    annotations: Mapping[str, str | None]
    """Changed annotations; None removes one."""
    config: bool
    """Whether the config is replaced."""

    def __bool__(self) -> bool:
        return any((self.added, self.changed, self.removed, self.renamed, self.annotations, self.config))

    @property
    def size(self) -> int:
        """Bytes of added and changed files, each digest once."""
        layers = (*self.added.values(), *self.changed.values())
        return sum({layer.digest: layer.size for layer in layers}.values())

    def __str__(self) -> str:
        counts = {
            "added": len(self.added),
            "replaced": len(self.changed),
            "removed": len(self.removed),
            "renamed": len(self.renamed),
        }
        parts = [f"{count} {name}" for name, count in counts.items() if count]
        parts += ["annotations set"] if self.annotations else []
        parts += ["config replaced"] if self.config else []
        return ", ".join(parts) or "nothing changed"

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "changes", str(self)
        yield "size", display.Size(self.size)

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        yield "plan of an edit"
        yield str(self)
        yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        return iter(())

    def _sections(self) -> Iterator[display.Section]:
        rows = [
            *(("+", name, display.Size(layer.size)) for name, layer in self.added.items()),
            *(("~", name, display.Size(layer.size)) for name, layer in self.changed.items()),
            *(("-", name, display.Size(layer.size)) for name, layer in self.removed.items()),
            *(("→", f"{before} → {after}", "") for before, after in self.renamed.items()),
        ]
        if rows:
            yield display.Section(
                title="files", headers=("", "name", "size"), rows=rows, count=len(rows), unfolded=True
            )
        set_now = {key: value for key, value in self.annotations.items() if value is not None}
        yield from display.annotations_section(set_now)


@frozen(kw_only=True, repr=False)
class TagPlan(display.Displayable):
    """The tags that a call gives to a manifest.

    >>> artifact = ocikit.push("oci:waves:v1", {"a.txt": b"hello"})
    >>> plan = ocikit.tag("oci:waves:v1", "latest", dry_run=True)
    >>> plan.tags, dict(plan.current)
    (('latest',), {})
    """

    reference: AnyReference
    """The manifest, pinned by digest."""
    tags: tuple[str, ...]
    current: Mapping[str, Digest]
    """The digests that existing tags name now."""

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "tags", list(self.tags)

    def _card_title(self) -> object:
        return display.title_of(self.reference)

    def _card_notes(self) -> Iterator[object]:
        yield "plan of tags"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "pinned", display.Code(self.reference)

    def _sections(self) -> Iterator[display.Section]:
        rows = tuple((tag, *self._change(tag)) for tag in self.tags)
        yield display.Section(
            title="tags", headers=("tag", "change", "current digest"), rows=rows, count=len(rows), unfolded=True
        )

    def _change(self, tag: str) -> tuple[str, object]:
        current = self.current.get(tag)
        if current is None:
            return "created", ""
        return "unchanged" if current == self.reference.digest else "moved", display.DigestCell(current)
