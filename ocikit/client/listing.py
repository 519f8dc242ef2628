"""Lists that a registry gives in pages: read as they are looked at, shown as far as they are known."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import re
import threading
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, overload

from ocikit import display
from ocikit.client.tag_order import TagSummary
from ocikit.errors import OcikitError
from ocikit.spec.annotations import CREATED, DESCRIPTION, TITLE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.reference import parse_reference

T = TypeVar("T")

_BATCH = 1000  # tags sorted at once, so that a look at very many of them takes no time
_FIRST = 100  # items fetched before a listing is given out: errors show at the call, and there is something to show


class Listing(Sequence[T], display.Displayable, Generic[T]):
    """A sequence that fetches its pages when they are reached; `len` and negative indexes fetch them all.

    >>> names = Listing(iter(["a", "b", "c"]), "tags", "localhost:5000/data")
    >>> names[1], "c" in names, len(names)
    ('b', True, 3)
    >>> names, Listing(iter(["team/data"]), "repositories", "localhost:5000")
    (<3 tags of localhost:5000/data: 'a', 'b', 'c'>, <1 repository of localhost:5000: 'team/data'>)
    """

    def __init__(self, items: Iterator[T], what: str, where: str) -> None:
        self._items = items
        self._known: list[T] = []
        self._whole = False
        self._broken: Exception | None = None
        self._what = what
        self._where = where
        self._lock = threading.Lock()
        self._sorted = TagSummary()
        self._read(_FIRST)

    def _read(self, count: int | None) -> None:
        """Know at least `count` items, or all. Raises: what the registry said instead of a page, each time it is asked."""
        with self._lock:
            if self._whole or (count is not None and count <= len(self._known)):
                return
            if self._broken is not None:
                # A generator that raised is over: what is known would pass for everything
                raise self._broken
            wanted = None if count is None else count - len(self._known)
            try:
                self._known.extend(itertools.islice(self._items, wanted))
            except Exception as error:
                self._broken = error
                raise
            self._whole = count is None or len(self._known) < count
            if self._what == "tags" and len(self._known) - self._sorted.count >= _BATCH:
                self._sorted = self._names()

    @property
    def known(self) -> tuple[T, ...]:
        """What has been read so far; nothing is fetched for it."""
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
            near = step > 0 and start >= 0 and stop is not None and stop >= 0
            self._read(stop if near else None)
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

    __hash__ = None  # type: ignore[assignment]  # it grows

    def _line(self) -> str:
        shown = ", ".join(display.sanitize(repr(item) if isinstance(item, str) else item) for item in self._known[:5])
        return display.shorten(
            f"<{self._count()} {self._noun()} of {self._where}{': ' if shown else ''}{shown}>", display.LINE
        )

    def _count(self) -> str:
        return f"{len(self._known)}" if self._whole else f"{len(self._known)} or more"

    def _noun(self) -> str:
        one = self._whole and len(self._known) == 1
        return re.sub("ies$", "y", self._what).removesuffix("s") if one else self._what

    def __rich_repr__(self) -> display.Description:
        yield "where", self._where
        yield self._what, self._count()

    def _facts(self) -> Iterator[tuple[str, object]]:
        if not self._whole:
            yield "read so far", f"{len(self._known):,}; list(…) reads all"
        if self._known:
            yield from self._next()

    def _next(self) -> Iterator[tuple[str, object]]:
        """What to do with one of them."""
        first = self._known[0]
        if self._what == "repositories":
            yield "look", display.code_call("ocikit.tags", f"{self._where}/{first}")
        elif self._what == "tags" and (newest := self._names().newest):
            yield "look", display.code_call("ocikit.inspect", f"{self._where}:{newest}")

    def _card(self) -> display.Card:
        title = f"{self._count()} {self._noun()}"
        return display.Card(
            title=title, notes=(f"of {self._where}",), facts=tuple(self._facts()), sections=tuple(self._sections())
        )

    def _names(self) -> TagSummary:
        """The names in their order: what was sorted while they were read, and what came since."""
        known, sorted_ = self._known, self._sorted
        return sorted_.with_more(map(str, known[sorted_.count :]))

    def _sections(self) -> Iterator[display.Section]:
        if not self._known:
            return
        if isinstance(self._known[0], Descriptor):
            yield from _by_type([d for d in self._known if isinstance(d, Descriptor)], self._where)
        elif self._what == "tags":
            yield from self._names().sections()
        else:
            yield display.Section(title=self._what, names=self._known, count=len(self._known), unfolded=True)


def _by_type(referrers: Sequence[Descriptor], where: str) -> Iterator[display.Section]:
    """What refers to a manifest: a section for each artifact type, the newest first."""
    with contextlib.suppress(OcikitError):
        where = parse_reference(where).name
    types: dict[str, list[Descriptor]] = {}
    for each in referrers:
        types.setdefault(each.artifact_type or each.media_type, []).append(each)
    for kind, same in itertools.islice(types.items(), display.ROWS):
        newest = heapq.nlargest(display.ROWS, same, key=lambda d: str(d.annotations.get(CREATED, "")))
        cards = (_referrer(each, where) for each in newest)
        yield display.Section(title=kind, cards=cards, count=len(same), unfolded=len(types) <= display.ROWS // 2)
    if len(types) > display.ROWS:
        yield display.Section(title=f"… {len(types) - display.ROWS:,} more types")


def _referrer(descriptor: Descriptor, where: str) -> display.Card:
    created = descriptor.annotations.get(CREATED)
    name = descriptor.title or descriptor.annotations.get(DESCRIPTION)
    digest = display.DigestCell(descriptor.digest)
    notes = (display.Timestamp(created) if created else "", display.Size(descriptor.size), digest if name else "")
    look = display.code_call("ocikit.inspect", f"{where}@{descriptor.digest}")
    rest = {key: value for key, value in descriptor.annotations.items() if key not in {CREATED, TITLE}}
    return display.Card(
        title=display.shorten(name or digest.text(), display.CELL),
        notes=notes,
        facts=(("look", look),),
        sections=tuple(display.annotations_section(rest)),
    )
