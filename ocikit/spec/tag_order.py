"""Order of tags: "latest", versions with the newest first, other names, digests."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from attrs import field, frozen

from ocikit.display import ROWS, Section

#: A version such as "v2.10.1-rc1" or "2026-11-20": numbers and a suffix. Longer numbers are not versions.
_VERSION = re.compile(r"[vV]?(\d{1,18}(?:\.\d{1,18})*)(?!\d)(.*)", re.DOTALL)

#: Tags of cosign ("sha256-….sig"), of the referrers fallback, and of builds by commit.
_DIGEST = re.compile(r"(?:sha\d{3}-)?[0-9a-f]{32,128}(?:[._-].*)?", re.DOTALL)

#: Suffix of a pre-release: "-rc1", "b2", ".dev3", but not "-alpine" or "-bookworm".
_PRE_RELEASE = re.compile(
    r"(?:^|[._-])(?:rc|alpha|beta|dev|pre|preview|prerelease|snapshot|nightly|canary|[abm](?=\.?\d))[.\d]*(?![a-z\d])",
    re.IGNORECASE,
)

_NUMBERS = re.compile(r"(\d{1,18})")

#: Sort key; the last element is the tag itself.
_Key: TypeAlias = tuple[Any, ...]


def _natural_key(text: str) -> _Key:
    """Return a key that sorts "a10" after "a9"."""
    parts = _NUMBERS.split(text)
    return tuple(int(part) if position % 2 else part for position, part in enumerate(parts))


def _version_key(match: re.Match[str]) -> _Key:
    # "3.1" is newer than "3.1-rc2" and than any other variant of it
    suffix = match[2]
    return tuple(map(int, match[1].split("."))), not suffix, _natural_key(suffix) if suffix else (), match[0]


def _name_key(name: str) -> _Key:
    return name != "latest", _natural_key(name), name


@frozen
class _Groups:
    """Tags by kind, not sorted."""

    versions: list[_Key] = field(factory=list)
    releases: list[_Key] = field(factory=list)
    names: list[str] = field(factory=list)
    digests: list[str] = field(factory=list)

    def add(self, tags: Iterable[str]) -> None:
        for tag in tags:
            if _DIGEST.fullmatch(tag):
                self.digests.append(tag)
            elif match := _VERSION.fullmatch(tag):
                key = _version_key(match)
                self.versions.append(key)
                if not _PRE_RELEASE.search(match[2]):
                    self.releases.append(key)
            else:
                self.names.append(tag)


def newest_first(tags: Iterable[str]) -> list[str]:
    """Return tags in this order: "latest", versions with the newest first, other names, digests.

    >>> newest_first(["v1.10-rc1", "main", "3.1-rc2", "v1.10", "latest", "3.1", "v1.9"])
    ['latest', '3.1', '3.1-rc2', 'v1.10', 'v1.10-rc1', 'v1.9', 'main']
    """
    groups = _Groups()
    groups.add(tags)
    names = sorted(groups.names, key=_name_key)
    latest = names.count("latest")
    versions = (key[-1] for key in sorted(groups.versions, reverse=True))
    return [*names[:latest], *versions, *names[latest:], *sorted(groups.digests)]


def versions_newest_first(tags: Iterable[str]) -> list[str]:
    """Return the tags that are versions, newest first.

    >>> versions_newest_first(["v1.9", "latest", "v1.10", "main", "2026-11"])
    ['2026-11', 'v1.10', 'v1.9']
    """
    groups = _Groups()
    groups.add(tags)
    return [key[-1] for key in sorted(groups.versions, reverse=True)]


@frozen(kw_only=True)
class TagSummary:
    """The first `ROWS` tags of each kind, and the number of tags of each kind.

    >>> tags = TagSummary().with_more(["v1.9", "v1.10", "latest", "v1.10-rc1", "sha256-" + "ab" * 32])
    >>> tags.versions, tags.names, tags.newest
    (('v1.10', 'v1.10-rc1', 'v1.9'), ('latest',), 'v1.10')
    """

    count: int = 0
    versions: tuple[str, ...] = ()
    """Versions, newest first."""
    release: str = ""
    """The newest version that is not a pre-release, or ""."""
    names: tuple[str, ...] = ()
    """Other names, with "latest" first."""
    digests: tuple[str, ...] = ()
    counts: tuple[int, int, int] = (0, 0, 0)
    """Number of versions, names and digests."""

    def with_more(self, tags: Iterable[str]) -> TagSummary:
        """Return a summary that includes more tags."""
        known, new = _Groups(), _Groups()
        known.add(self.versions)
        known.releases.extend(_version_key(match) for match in [_VERSION.fullmatch(self.release)] if match)
        new.add(tags)
        added = len(new.versions), len(new.names), len(new.digests)
        releases = known.releases + new.releases
        return TagSummary(
            count=self.count + sum(added),
            versions=tuple(key[-1] for key in heapq.nlargest(ROWS, known.versions + new.versions)),
            release=max(releases)[-1] if releases else "",
            names=tuple(heapq.nsmallest(ROWS, (*self.names, *new.names), key=_name_key)),
            digests=(*self.digests, *new.digests)[:ROWS],
            counts=(self.counts[0] + added[0], self.counts[1] + added[1], self.counts[2] + added[2]),
        )

    @property
    def newest(self) -> str:
        """The newest release, else the newest version, else the first name, else ""."""
        return self.release or next(iter(self.versions or self.names), "")

    def sections(self) -> Iterator[Section]:
        """Yield a section for each kind that has tags."""
        kinds = (("versions, newest first", self.versions), ("other names", self.names), ("digests", self.digests))
        for (title, tags), count in zip(kinds, self.counts, strict=True):
            if tags:
                yield Section(title=title, names=tags, count=count, unfolded=title != "digests")
