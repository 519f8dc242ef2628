"""Look whether everything is still as it was kept: disks forget, and people delete files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter

from attrs import frozen

from ocikit import display
from ocikit.server.storage.base import BlobStore, Storage
from ocikit.spec.digest import Digest

#: Bytes that are hashed at once.
_PIECE = 1 << 20


@frozen(kw_only=True)
class Wrong:
    """Content that isn't what its digest says, or isn't there."""

    digest: str
    expected: int | None
    """Its size in bytes, as repositories have it; None if none has it."""
    found: int | None
    """The size in bytes of what is there; None if there is nothing."""
    repositories: tuple[str, ...]
    """Who has it: a push of the same digest to any of them heals it for all."""

    @property
    def what(self) -> str:
        """In a word: missing, size or digest."""
        if self.found is None:
            return "missing"
        return "size" if self.expected not in {None, self.found} else "digest"


@frozen(kw_only=True, repr=False)
class Verification(display.Displayable):
    """What was looked at, and what is wrong with it."""

    checked: int
    """Blobs and manifests whose bytes were hashed."""
    size: int
    """Bytes that were hashed."""
    wrong: tuple[Wrong, ...] = ()
    discarded: bool = False
    """Whether the bytes of what is wrong were deleted."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong

    def __rich_repr__(self) -> display.Description:
        yield "checked", self.checked
        yield "size", display.Size(self.size)
        yield "wrong", len(self.wrong)
        yield "discarded", self.discarded, False

    def _sections(self) -> Iterator[display.Section]:
        if self.wrong:
            rows = (
                (w.what, display.join_limited(w.repositories) or "(nobody's)", display.DigestCell(w.digest))
                for w in self.wrong
            )
            headers = ("wrong", "repository", "digest")
            yield display.Section(title="wrong", headers=headers, rows=rows, count=len(self.wrong), unfolded=True)


def verify(storage: Storage, *, discard: bool = False) -> Verification:
    """Hash everything that is kept, and look for what should be.

    Content of a wrong size is answered with 404 already, so that clients push it again, and that heals it. Of content
    with the right size and wrong bytes a client that asks first is told that it is there: *discard* makes them push it.

    Args:
        storage: of a registry that may be serving, from this process or another.
        discard: whether to delete the bytes of what is wrong. Nobody can use them; whoever has them keeps the name.
    """
    checked = size = 0
    rotten: dict[Digest, int] = {}
    for digest in storage.blobs.iterate():
        there = storage.blobs.stat(digest)
        whole = there is not None and _whole(storage.blobs, digest)
        if there is None or whole is None:
            continue  # deleted just now
        checked, size = checked + 1, size + there
        if not whole:
            rotten[digest] = there
            if discard:
                storage.metadata.alone(partial(_discard, storage.blobs, digest))
    wrong = []
    for digest, rows in groupby(storage.metadata.iter_references(), key=itemgetter(0)):
        held = {name: expected for _, name, expected in rows}
        found = rotten.get(digest, storage.blobs.stat(digest))
        if digest in rotten or (found not in held.values() and _held(storage, digest, held)):
            wrong.append(Wrong(digest=digest, expected=max(held.values()), found=found, repositories=tuple(held)))
    named = {each.digest for each in wrong}
    wrong += [
        Wrong(digest=digest, expected=None, found=found, repositories=())
        for digest, found in rotten.items()
        if digest not in named
    ]
    return Verification(checked=checked, size=size, wrong=tuple(wrong), discarded=discard)


def _whole(blobs: BlobStore, digest: Digest) -> bool | None:
    """Whether content has its digest; None if it isn't there. What can't be read isn't whole."""
    hasher = digest.hasher()
    try:
        with blobs.open(digest) as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
    except KeyError:
        return None
    except OSError:
        return False
    return hasher.hexdigest() == digest.encoded


def _discard(blobs: BlobStore, digest: Digest) -> None:
    """Delete what is wrong, unless somebody has pushed it again."""
    if _whole(blobs, digest) is False:
        blobs.delete(digest)


def _held(storage: Storage, digest: Digest, repositories: Iterable[str]) -> bool:
    """Whether anybody still has content: what was deleted just now isn't missing."""
    metadata = storage.metadata
    return any(
        metadata.blob(name, digest) is not None or metadata.manifest(name, digest) is not None for name in repositories
    )
