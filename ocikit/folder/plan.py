"""What a pull into a folder is going to do, and how it is found out."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, TypeAlias

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.folder.record import FolderRecord
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher
from ocikit.store.files import BUFFER

#: What becomes of a file: it is there; it is new; it replaces a file of an earlier pull; it overwrites a user's file by
#: force; or a user's file is in its place, and the pull stops before anything is written.
Decision: TypeAlias = Literal["present", "fetch", "replace", "overwrite", "edited"]

#: What the decisions are called for people, in the order in which they matter.
_WORDS: dict[Decision, str] = {
    "edited": "in the way: edited, or not of this artifact",
    "overwrite": "to overwrite",
    "replace": "to replace",
    "fetch": "to fetch",
    "present": "there already",
}

#: Size, modification time in nanoseconds and inode: what changes when somebody edits a file.
Status: TypeAlias = tuple[int, int, int]


@frozen(kw_only=True)
class PlannedFile:
    """A file of the artifact, and what becomes of it."""

    title: str
    """Its path in the folder, with "/"."""
    descriptor: Descriptor
    decision: Decision
    in_the_way: str = ""
    """With "edited", the path of the user's file or folder."""
    origin: str | None = None
    """A file in the folder with the same content, to copy instead of a transfer."""


@frozen(kw_only=True)
class Transfer:
    """Content to get once, for all files that have it."""

    descriptor: Descriptor
    files: tuple[PlannedFile, ...]


@frozen(kw_only=True, repr=False)
class FolderPlan(display.Displayable):
    """What a pull into a folder is going to do."""

    path: Path
    files: tuple[PlannedFile, ...]
    removed: tuple[str, ...] = ()
    """Unedited files of an earlier pull that the artifact no longer has."""
    left: tuple[str, ...] = ()
    """Files of an earlier pull that the artifact no longer has, but that were edited: they stay."""
    source: str = ""
    """The registry and repository."""
    yielding: frozenset[str] = field(default=frozenset(), repr=False)
    """Paths that may be deleted because something else has to be there."""
    seen: Mapping[str, Status | None] = field(factory=dict, repr=False)
    """What the files were like when the plan was made; who edits one later is not overwritten."""

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """What has to be got, each content once, in the artifact's order."""
        groups: dict[tuple[str, int], list[PlannedFile]] = {}
        for file in self.files:
            if file.decision not in {"present", "edited"} and file.origin is None:
                groups.setdefault(file.descriptor.key, []).append(file)
        return tuple(Transfer(descriptor=same[0].descriptor, files=tuple(same)) for same in groups.values())

    @property
    def copies(self) -> tuple[PlannedFile, ...]:
        """Files whose content is in the folder already, under another name."""
        return tuple(f for f in self.files if f.origin is not None)

    @property
    def size(self) -> int:
        """Bytes to get."""
        return sum(transfer.descriptor.size for transfer in self.transfers)

    @property
    def edited(self) -> tuple[str, ...]:
        """Paths of user's files that are in the way."""
        return tuple(dict.fromkeys(f.in_the_way for f in self.files if f.decision == "edited"))

    def check(self) -> None:
        """Raises: ContentError: if files that a user edited, or made, are in the way; it lists them."""
        if not self.edited:
            return
        what = "a file that was edited or is" if len(self.edited) == 1 else "files that were edited or are"
        raise ContentError(
            f"{display.display_path(self.path)} has {what} not from this artifact: {display.join_limited(self.edited)}",
            hint="pass force=True to overwrite files, move them away, or pull to another folder; nothing was changed",
        )

    def __rich_repr__(self) -> display.Description:
        for decision in ("present", "fetch", "replace", "overwrite", "edited"):
            yield decision, sum(f.decision == decision for f in self.files), 0
        yield "removed", len(self.removed), 0
        yield "size", display.Size(self.size)
        yield "path", display.display_path(self.path)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "path", display.display_path(self.path)
        yield "to get", display.Size(self.size)

    def _sections(self) -> Iterator[display.Section]:
        for decision, words in _WORDS.items():
            if files := [file for file in self.files if file.decision == decision]:
                # A file with the same content may be in the folder, under another name
                yield display.Section(
                    title=words,
                    headers=("file", "size", ""),
                    rows=((f.title, display.Size(f.descriptor.size), f.origin and f"as {f.origin}") for f in files),
                    hint=display.Code("force=True") if decision == "edited" else "",
                    count=len(files),
                    note=display.Size(sum(f.descriptor.size for f in files)),
                    unfolded=decision != "present",
                )
        for words, titles in (("to remove", self.removed), ("left: edited, and no longer in the artifact", self.left)):
            if titles:
                yield display.Section(title=words, names=titles, count=len(titles))


def status_of(path: Path) -> Status | None:
    """What a file or link is like; None if there is none."""
    try:
        return _status(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _status(found: os.stat_result) -> Status:
    return found.st_size, found.st_mtime_ns, found.st_ino


def digest_of(path: Path, algorithm: str) -> Digest | None:
    """The digest of a file's content; None if it can't be read."""
    hasher = new_hasher(algorithm)
    buffer = memoryview(bytearray(BUFFER))
    with contextlib.suppress(OSError), open(path, "rb", buffering=0) as file:
        while n := file.readinto(buffer):
            hasher.update(buffer[:n])
        return Digest(f"{algorithm}:{hasher.hexdigest()}")
    return None


@define
class _Look:
    """What is at a title's path."""

    path: Path
    kind: Literal["nothing", "file", "folder", "other"]
    status: Status | None
    ours: frozenset[Digest]
    """Digests that pulls have written there, or may have."""
    digest: Digest | None = None
    """Of the content, if it is one of those that matter."""

    @classmethod
    def at(cls, path: Path, title: str, record: FolderRecord) -> _Look:
        """Look, without reading."""
        entry = record.files.get(title)
        ours = frozenset((*record.expected.get(title, ()), *((entry.digest,) if entry else ())))
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, "nothing", None, ours)
        status = _status(found)
        if not stat.S_ISREG(found.st_mode):
            return cls(path, "folder" if stat.S_ISDIR(found.st_mode) else "other", status, ours)
        unedited = entry is not None and status[:2] == (entry.size, entry.mtime_ns)
        return cls(path, "file", status, ours, entry.digest if entry is not None and unedited else None)

    @property
    def is_ours(self) -> bool:
        """Whether it is as a pull left it."""
        return self.digest in self.ours

    def read(self, wanted: Digest | None) -> None:
        """Hash the file, if its size and time don't tell that it is unedited."""
        if self.kind != "file" or self.digest is not None:
            return
        candidates = {*self.ours, *((wanted,) if wanted is not None else ())}
        for algorithm in {digest.algorithm for digest in candidates if digest.verifiable}:
            found = digest_of(self.path, algorithm)
            self.digest = found if found in candidates else self.digest


def decide(
    root: Path,
    wanted: Mapping[str, Descriptor],
    gone: Sequence[str],
    record: FolderRecord,
    locate: Callable[[str], tuple[Path, str]],
    *,
    source: str = "",
    force: bool = False,
) -> FolderPlan:
    """The plan.

    Args:
        root: the folder.
        wanted: the artifact's files.
        gone: files of earlier pulls that are to be removed unless they were edited.
        record: what earlier pulls left.
        locate: gives the path of a title, and what isn't a folder on the way to it, or "".
        source: the registry and repository.
        force: whether to overwrite a user's files.
    """
    looks: dict[str, _Look] = {}
    blocked: dict[str, str] = {}
    for title in (*wanted, *gone):
        try:
            path, blocked[title] = locate(title)
        except UnsafeArchive:
            if title in wanted:
                raise
            continue  # a user's link took the place of a folder of ours: nothing of it is ours to remove
        looks[title] = _Look.at(path, title, record)
    gone = [title for title in gone if title in looks]
    # A file of another size than wanted is still read if it may be an earlier pull's: then it isn't edited
    unsure = [t for t, look in looks.items() if look.kind == "file" and look.digest is None and _worth(look, wanted, t)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "ocikit-hash") as pool:
        list(pool.map(lambda t: looks[t].read(wanted[t].digest if t in wanted else None), unsure))
    removed = [title for title in gone if looks[title].is_ours and not blocked[title]]
    yielding = set(removed)
    planned = [
        _planned(title, descriptor, looks[title], blocked[title], yielding, force=force)
        for title, descriptor in wanted.items()
    ]
    # A file that makes way for a folder, or a folder for a file, may be gone by the time it is to be copied
    ways = set(_ways(wanted))
    steady = [t for t in removed if t not in ways and wanted.keys().isdisjoint(_ways([t]))]
    have = {looks[title].digest: title for title in steady}
    have |= {f.descriptor.digest: f.title for f in planned if f.decision == "present"}
    changing = {"fetch", "replace", "overwrite"}
    planned = [attrs.evolve(f, origin=have.get(f.descriptor.digest)) if f.decision in changing else f for f in planned]
    return FolderPlan(
        path=root,
        files=tuple(planned),
        removed=tuple(removed),
        left=tuple(title for title in gone if looks[title].status is not None and title not in yielding),
        source=source,
        yielding=frozenset(yielding),
        seen={title: look.status for title, look in looks.items()},
    )


def _ways(titles: Iterable[str]) -> Iterator[str]:
    """The folders that titles go through."""
    for title in titles:
        yield from (title[:i] for i, c in enumerate(title) if c == "/")


def _worth(look: _Look, wanted: Mapping[str, Descriptor], title: str) -> bool:
    size = look.status[0] if look.status is not None else -1
    return bool(look.ours) or (title in wanted and wanted[title].size == size)


def _planned(
    title: str, descriptor: Descriptor, look: _Look, blocker: str, yielding: set[str], *, force: bool
) -> PlannedFile:
    def decided(decision: Decision, in_the_way: str = "") -> PlannedFile:
        return PlannedFile(title=title, descriptor=descriptor, decision=decision, in_the_way=in_the_way)

    if blocker:
        if force:
            yielding.add(blocker)
        return decided("fetch") if blocker in yielding else decided("edited", blocker)
    if look.kind == "nothing":
        return decided("fetch")
    if look.kind == "folder":
        # Not even force deletes a user's folder
        files = (
            f"{title}/{path.relative_to(look.path).as_posix()}" for path in look.path.rglob("*") if not _plain(path)
        )
        return decided("fetch") if all(file in yielding for file in files) else decided("edited", f"{title}/")
    if look.digest == descriptor.digest:
        return decided("present")
    if look.is_ours:
        return decided("replace")
    return decided("overwrite") if force else decided("edited", title)


def _plain(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
