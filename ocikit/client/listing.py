"""Sequences that fetch the pages of a registry lazily."""

from __future__ import annotations

import contextlib
import fnmatch
import heapq
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, TypeAlias, TypeVar, overload

from ocikit import display
from ocikit.errors import OcikitError
from ocikit.forks import ForkSafeLock
from ocikit.spec.annotations import CREATED, DESCRIPTION, TITLE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.kinds import artifact_kind
from ocikit.spec.reference import parse_reference
from ocikit.spec.tag_order import TagSummary, versions_newest_first

T = TypeVar("T")

Kind: TypeAlias = Literal["tags", "repositories", "referrers"]

_STANDARD = "org.opencontainers.image."  # annotations that the specification defines
_VALUES = 3  # annotations of a referrer that its line shows
_BATCH = 1000  # tags per sorting step; sorting while reading keeps the display of very long lists fast
_FIRST = 100  # items fetched at first: errors are raised by the call, and the display has content


class Listing(Sequence[T], display.Displayable, Generic[T]):
    """A sequence that fetches its pages on demand; `len`, negative indexes and a pickle fetch all of them.

    Args:
        items: Iterator of the items, which fetches the pages.
        kind: Noun of the items in the display.
        origin: The repository, registry or reference that the items belong to.

    >>> tags = ocikit.Listing(iter(["a", "b", "c"]), "tags", "localhost:5000/data")
    >>> tags[1], "c" in tags, len(tags)
    ('b', True, 3)
    >>> tags, ocikit.Listing(iter(["team/data"]), "repositories", "localhost:5000")
    (<3 tags of localhost:5000/data: 'a', 'b', 'c'>, <1 repository of localhost:5000: 'team/data'>)
    """

    def __init__(self, items: Iterator[T], kind: Kind, origin: str) -> None:
        self._items = items
        self._known: list[T] = []
        self._complete = False
        self._error: Exception | None = None
        self._kind = kind
        self._origin = origin
        self._lock = ForkSafeLock()
        self._summary = TagSummary()
        self._read(_FIRST)

    def _read(self, count: int | None) -> None:
        """Fetch until `count` items are known; None fetches all.

        Raises:
            OcikitError: A page could not be fetched; later calls raise the same error.
        """
        with self._lock:
            if self._complete or (count is not None and count <= len(self._known)):
                return
            if self._error is not None:
                # Raise again: the generator has ended, so the list would appear complete
                raise self._error
            missing = None if count is None else count - len(self._known)
            try:
                self._known.extend(itertools.islice(self._items, missing))
            except Exception as error:
                self._error = error
                raise
            self._complete = count is None or len(self._known) < count
            if self._kind == "tags" and len(self._known) - self._summary.count >= _BATCH:
                self._summary = self._summarize()

    @property
    def known(self) -> tuple[T, ...]:
        """The items read so far; does not fetch."""
        return tuple(self._known)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if not isinstance(index, slice):
            self._read(index + 1 if index >= 0 else None)
        else:
            start, stop, step = index.start or 0, index.stop, index.step or 1
            bounded = step > 0 and start >= 0 and stop is not None and stop >= 0
            self._read(stop if bounded else None)
        return self._known[index]

    def __iter__(self) -> Iterator[T]:
        for position in itertools.count():
            self._read(position + 1)
            if position >= len(self._known):
                return
            yield self._known[position]

    def __bool__(self) -> bool:
        self._read(1)
        return bool(self._known)

    def __len__(self) -> int:
        self._read(None)
        return len(self._known)

    def __eq__(self, other: object) -> bool:
        return (
            list(self) == list(other) if isinstance(other, Sequence) and not isinstance(other, str) else NotImplemented
        )

    __hash__ = None  # type: ignore[assignment]  # mutable: it grows

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (list(self), self._kind, self._origin)

    def __deepcopy__(self, memo: dict[int, object]) -> Listing[T]:
        return Listing(iter(list(self)), self._kind, self._origin)

    def _line(self) -> str:
        shown = ", ".join(display.sanitize(repr(item) if isinstance(item, str) else item) for item in self._known[:5])
        return display.shorten(
            f"<{self._count()} {self._noun()} of {self._origin}{': ' if shown else ''}{shown}>", display.LINE
        )

    def _count(self) -> str:
        return f"{len(self._known)}" if self._complete else f"{len(self._known)} or more"

    def _noun(self) -> str:
        one = self._complete and len(self._known) == 1
        return re.sub("ies$", "y", self._kind).removesuffix("s") if one else self._kind

    def __rich_repr__(self) -> display.Description:
        yield "origin", self._origin
        yield self._kind, self._count()

    def _facts(self) -> Iterator[tuple[str, object]]:
        if not self._complete:
            yield "fetched", f"{len(self._known):,}; list(…) fetches all"
        if self._known:
            yield from self._example()

    def _example(self) -> Iterator[tuple[str, object]]:
        """Yield a call for one of the items."""
        first = self._known[0]
        if self._kind == "repositories":
            yield "show", display.code_call("ocikit.tags", f"{self._origin}/{first}")
        elif self._kind == "tags" and (newest := self._summarize().newest):
            yield "show", display.code_call("ocikit.inspect", f"{self._origin}:{newest}")

    def _card_title(self) -> object:
        return f"{self._count()} {self._noun()}"

    def _card_notes(self) -> Iterator[object]:
        yield f"of {self._origin}"

    def _summarize(self) -> TagSummary:
        """Return the summary of all known tags: the one made while reading, and the tags read since then."""
        known, summary = self._known, self._summary
        return summary.with_more(map(str, known[summary.count :]))

    def _sections(self) -> Iterator[display.Section]:
        if not self._known:
            return
        if isinstance(self._known[0], Descriptor):
            yield from _by_type([d for d in self._known if isinstance(d, Descriptor)], self._origin)
        elif self._kind == "tags":
            yield from self._summarize().sections()
        else:
            yield display.Section(title=self._kind, names=self._known, count=len(self._known), unfolded=True)


class Tags(Listing[str]):
    """Tags of a repository or layout in its order, with the versions among them.

    Args:
        items: Tags, in the order of the registry.
        origin: Reference of the repository.

    >>> from ocikit.client.listing import Tags
    >>> tags = Tags(iter(["latest", "v1.10", "v1.2", "v2.0-rc1"]), "localhost:5000/data")
    >>> tags.newest, tags.versions
    ('v1.10', ['v2.0-rc1', 'v1.10', 'v1.2'])
    """

    def __init__(self, items: Iterator[str], origin: str) -> None:
        super().__init__(items, "tags", origin)

    @property
    def newest(self) -> str:
        """The newest version that is not a pre-release, else the newest version, else the first name; "" without tags.

        All pages are fetched.
        """
        return TagSummary().with_more(self).newest

    @property
    def versions(self) -> list[str]:
        """The tags that are versions, such as "v1.2" and "2026-11-20", newest first; all pages are fetched."""
        return versions_newest_first(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_tags, (list(self), self._origin)

    def __deepcopy__(self, memo: dict[int, object]) -> Tags:
        return Tags(iter(list(self)), self._origin)


def select_tags(tags: Iterator[str], patterns: Sequence[str]) -> Iterator[str]:
    """Return the tags that match one of the patterns, in their order.

    Args:
        tags: Tags of a repository.
        patterns: Glob patterns.

    >>> from ocikit.client.listing import select_tags
    >>> list(select_tags(iter(["latest", "v1.2", "v1.10"]), ["v1.*"]))
    ['v1.2', 'v1.10']
    """
    if "*" in patterns:
        return tags
    return (tag for tag in tags if any(fnmatch.fnmatchcase(tag, pattern) for pattern in patterns))


def _restore(items: list[T], kind: Kind, origin: str) -> Listing[T]:
    """Return a complete listing from its pickle."""
    listing = Listing(iter(items), kind, origin)
    len(listing)
    return listing


def _restore_tags(items: list[str], origin: str) -> Tags:
    """Return complete tags from their pickle."""
    tags = Tags(iter(items), origin)
    len(tags)
    return tags


def _by_type(referrers: Sequence[Descriptor], origin: str) -> Iterator[display.Section]:
    """Yield a section of referrers for each artifact type, newest first."""
    repository = origin
    with contextlib.suppress(OcikitError):
        repository = parse_reference(origin).name
    types: dict[str, list[Descriptor]] = {}
    for referrer in referrers:
        types.setdefault(referrer.artifact_type or referrer.media_type, []).append(referrer)
    for artifact_type, members in itertools.islice(types.items(), display.ROWS):
        newest = heapq.nlargest(display.ROWS, members, key=lambda d: str(d.annotations.get(CREATED, "")))
        cards = (_referrer_card(referrer, repository) for referrer in newest)
        title = artifact_kind(artifact_type)
        yield display.Section(
            title=title,
            cards=cards,
            count=len(members),
            note="" if title == artifact_type else artifact_type,
            unfolded=len(types) <= display.ROWS // 2,
        )
    if len(types) > display.ROWS:
        yield display.Section(title=f"… {len(types) - display.ROWS:,} more types")


def _referrer_card(descriptor: Descriptor, repository: str) -> display.Card:
    """Return the card of a referrer: its title shows its name, or else annotations such as "auc=0.93"."""
    created = descriptor.annotations.get(CREATED)
    name = descriptor.title or descriptor.annotations.get(DESCRIPTION)
    own = {key: value for key, value in descriptor.annotations.items() if not key.startswith(_STANDARD)}
    values = display.join_limited((f"{key}={value}" for key, value in own.items()), _VALUES, of=len(own))
    title = name or values or display.DigestCell(descriptor.digest).text()
    notes = (
        values if name else "",
        display.Timestamp(created) if created else "",
        display.Size(descriptor.size),
    )
    show = display.code_call("ocikit.inspect", f"{repository}@{descriptor.digest}")
    return display.Card(
        title=display.shorten(title, display.CELL),
        notes=notes,
        facts=(("show", show),),
        sections=tuple(display.annotations_section(descriptor.annotations, without={CREATED, TITLE})),
    )
