"""Ranges of titles: which files a shard, or a manifest of a nested index, may have, without a look into it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Self

from attrs import frozen

from ocikit.errors import UnsafeArchive
from ocikit.spec.annotations import PREFIX, PREFIX_FIRST, PREFIX_LAST, SHARD, SHARD_FIRST, SHARD_LAST
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.titles import is_shard, safe_title

_LAST: Final = "\U0010ffff"  # no title is after it
_WILDCARD = re.compile(r"[*?\[]")


@frozen(kw_only=True)
class TitleRange:
    """The range of the titles of one part of an artifact. It comes from annotations, so the part itself must be checked."""

    prefix: str
    """The folder that all titles start with, with "/" at its end; empty for the top folder."""
    first: str
    last: str

    @classmethod
    def of_shard(cls, layer: Descriptor) -> Self:
        """Return the titles of a shard, from its annotations.

        Raises:
            UnsafeArchive: A title leads out of its folder.
        """
        return cls._of(layer, SHARD, SHARD_FIRST, SHARD_LAST)

    @classmethod
    def of_manifest(cls, descriptor: Descriptor) -> Self:
        """Return the titles of a manifest in a nested index, from its annotations.

        Raises:
            UnsafeArchive: A title leads out of its folder.
        """
        return cls._of(descriptor, PREFIX, PREFIX_FIRST, PREFIX_LAST)

    @classmethod
    def _of(cls, descriptor: Descriptor, *keys: str) -> Self:
        prefix, first, last = (descriptor.annotations.get(key, "") for key in keys)
        for title in (prefix, first, last):
            if title:
                safe_title(title)  # path traversal: file systems show the folders of these titles
        return cls(prefix=prefix, first=first, last=last or _LAST)

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders that have files of the part."""
        return tuple({title.rpartition("/")[0]: None for title in (self.prefix, self.first, self.last)})

    def holds(self, title: str) -> bool:
        """Return True if the part may have this title."""
        return title.startswith(self.prefix) and self.first <= title <= self.last

    def is_below(self, name: str) -> bool:
        """Return True if the part may have a file of this name, or files in the folder of this name.

        >>> part = TitleRange(prefix="a/", first="a/1", last="a/9")
        >>> part.is_below("a/5"), part.is_below("a"), part.is_below("b")
        (True, True, False)
        """
        return not name or (self.first <= f"{name}/{_LAST}" and name <= self.last)

    def is_listed_in(self, folder: str) -> bool:
        """Return True if the part may have files directly in a folder, or folders there that its range does not name.

        If the prefix is deeper, the only name that it adds to the folder is in the prefix.

        >>> TitleRange(prefix="a/b/", first="a/b/1", last="a/b/2").is_listed_in("a")
        False
        """
        start = f"{folder}/" if folder else ""
        return self.is_below(folder) and not (self.prefix != start and self.prefix.startswith(start))

    def may_match(self, patterns: Iterable[str]) -> bool:
        """Return True if the part may have titles that match one of the patterns; also without patterns.

        The text before the first wildcard of a pattern is compared.

        >>> TitleRange(prefix="a/", first="a/1", last="a/9").may_match(["b/*.csv"])
        False
        """
        starts = [_WILDCARD.split(pattern, maxsplit=1)[0] for pattern in patterns]
        return not starts or any(self.first <= start + _LAST and start <= self.last for start in starts)


def holds_title(layer: Descriptor, title: str) -> bool:
    """Return True if a layer is a shard that may have a file of this title."""
    if not is_shard(layer):
        return False
    try:
        return TitleRange.of_shard(layer).holds(title)
    except UnsafeArchive:
        return False
