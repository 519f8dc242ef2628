"""Boundaries of parts that depend on the content alone: the same files are cut in the same places on every machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from ocikit.spec.digest import Digest

#: Whether the items from one position to before another make a part that is small enough.
Fits: TypeAlias = Callable[[int, int], bool]

#: Bytes of an entry of a manifest without its title and media type, at most.
ENTRY_SIZE: Final = 210


def cut(ranks: Sequence[Any], fits: Fits) -> list[tuple[int, int]]:
    """Return the start and end of each part of a list, in order.

    A part that is too large is cut after the item with the lowest rank, and so are both parts, as in a treap. If ranks are
    hashes of names, the boundaries depend on the names alone, and a change moves those next to it only. On average, a part
    has half of the size that fits.

    Args:
        ranks: A rank for each item.
        fits: Whether a part is small enough. A part of one item is not cut.

    >>> cut([3, 1, 2, 4], lambda start, end: end - start <= 2)
    [(0, 2), (2, 4)]
    """
    parts, pending = [], [(0, len(ranks))]
    while pending:
        start, end = pending.pop()
        if end - start < 2 or fits(start, end):
            parts.append((start, end))
        else:
            middle = min(range(start + 1, end), key=lambda index: ranks[index - 1])
            pending += [(middle, end), (start, middle)]
    return parts


def rank_of(title: str) -> str:
    """Return the rank of a title: its hash."""
    return Digest.of(title.encode()).encoded


def folder_ranks(titles: Sequence[str]) -> list[tuple[int, str]]:
    """Return ranks of sorted titles that cut between folders first, so that a folder is in few parts.

    >>> [depth for depth, _ in folder_ranks(["a/b/1", "a/b/2", "a/c/1", "d"])]
    [2, 1, 0, 0]
    """
    followers = [*titles[1:], ""] if titles else []
    return [
        (common_folder(title, after).count("/"), rank_of(title)) for title, after in zip(titles, followers, strict=True)
    ]


def common_folder(title: str, other: str) -> str:
    """Return the deepest folder of both titles, with "/" at its end; empty for the top folder.

    >>> common_folder("a/b/1", "a/bc/2")
    'a/'
    """
    common = ""
    for folder, also in zip(title.split("/")[:-1], other.split("/")[:-1], strict=False):
        if folder != also:
            break
        common += f"{folder}/"
    return common
