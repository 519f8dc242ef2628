"""Plans of calls that change tags or delete."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from ocikit import display
from ocikit.spec.digest import Digest
from ocikit.spec.reference import AnyReference


@frozen(kw_only=True, repr=False)
class DeletePlan(display.Displayable):
    """What a deletion removes: a tag, or a manifest with all its tags."""

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


@frozen(kw_only=True, repr=False)
class TagPlan(display.Displayable):
    """The tags that a call gives to a manifest."""

    reference: AnyReference
    """The manifest, pinned by digest."""
    tags: tuple[str, ...]
    current: Mapping[str, Digest]
    """The digests that existing tags name now."""

    def __rich_repr__(self) -> display.Description:
        yield "reference", str(self.reference)
        yield "tags", list(self.tags)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "reference", display.Code(self.reference)

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
