"""Tags in the order in which people look for them: newest versions first, then words; digests, which nobody reads, apart."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from attrs import frozen

from ocikit.display import ROWS, Section

#: "v2.10.1-rc1" or "2026-11-20": numbers, and what comes after them. Longer numbers are no versions.
_VERSION = re.compile(r"[vV]?(\d{1,18}(?:\.\d{1,18})*)(?!\d)(.*)", re.DOTALL)

#: The tags of cosign ("sha256-….sig"), of the referrers fallback, and of builds by commit.
_DIGEST = re.compile(r"(?:sha\d{3}-)?[0-9a-f]{32,128}(?:[._-].*)?", re.DOTALL)

#: What comes after the numbers of a version that isn't out yet: "-rc1", "b2", ".dev3"; not "-alpine", "-bookworm".
_EARLY = re.compile(
    r"(?:^|[._-])(?:rc|alpha|beta|dev|pre|preview|prerelease|snapshot|nightly|canary|[abm](?=\.?\d))[.\d]*(?![a-z\d])",
    re.IGNORECASE,
)

_NUMBERS = re.compile(r"(\d{1,18})")

Key: TypeAlias = tuple[Any, ...]


def _natural(text: str) -> Key:
    """So that "a10" comes after "a9": text and numbers in turn."""
    parts = _NUMBERS.split(text)
    return tuple(int(part) if position % 2 else part for position, part in enumerate(parts))


def _version(match: re.Match[str]) -> Key:
    # "3.1" is newer than "3.1-rc2" and than any other variant of it
    suffix = match[2]
    return tuple(map(int, match[1].split("."))), not suffix, _natural(suffix) if suffix else (), match[0]


def _word(name: str) -> Key:
    return name != "latest", _natural(name), name


@frozen(kw_only=True)
class TagSummary:
    """As many names of each kind as are shown, and how many there are.

    >>> names = TagSummary().with_more(["v1.9", "v1.10", "latest", "v1.10-rc1", "sha256-" + "ab" * 32])
    >>> names.versions, names.words, names.newest
    (('v1.10', 'v1.10-rc1', 'v1.9'), ('latest',), 'v1.10')
    """

    count: int = 0
    versions: tuple[str, ...] = ()
    """The newest first."""
    release: str = ""
    """The newest version that is no pre-release; "" if there are only such."""
    words: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    counts: tuple[int, int, int] = (0, 0, 0)
    """Of versions, words and digests."""

    def with_more(self, names: Iterable[str]) -> TagSummary:
        """These and more names."""
        versions, words, digests = [_version(m) for v in self.versions if (m := _VERSION.fullmatch(v))], [], []
        before = len(versions)
        releases = [_version(match) for match in [_VERSION.fullmatch(self.release)] if match]
        for name in names:
            if _DIGEST.fullmatch(name):
                digests.append(name)
            elif match := _VERSION.fullmatch(name):
                versions.append(_version(match))
                if not _EARLY.search(match[2]):
                    releases.append(versions[-1])
            else:
                words.append(name)
        more = (len(versions) - before, len(words), len(digests))
        return TagSummary(
            count=self.count + sum(more),
            versions=tuple(key[-1] for key in heapq.nlargest(ROWS, versions)),
            release=max(releases)[-1] if releases else "",
            words=tuple(heapq.nsmallest(ROWS, (*self.words, *words), key=_word)),
            digests=(*self.digests, *digests)[:ROWS],
            counts=(self.counts[0] + more[0], self.counts[1] + more[1], self.counts[2] + more[2]),
        )

    @property
    def newest(self) -> str:
        """The newest release, else the newest version, else the first word, else ""."""
        return self.release or next(iter(self.versions or self.words), "")

    def sections(self) -> Iterator[Section]:
        """What a card shows of them."""
        kinds = (("versions, newest first", self.versions), ("other names", self.words), ("digests", self.digests))
        for (title, names), count in zip(kinds, self.counts, strict=True):
            if names:
                yield Section(title=title, names=names, count=count, unfolded=title != "digests")
