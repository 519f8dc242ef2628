"""The plan of a pull into a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeAlias

import attrs
from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import EditedFiles, UnsafeArchive
from ocikit.folder.archives import Archive, describe_link
from ocikit.folder.record import FolderRecord
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, hash_file
from ocikit.store.admission import available_cores

#: What a pull does with a file: "present" leaves it; "fetch" adds it; "replace" replaces a file of an earlier pull;
#: "overwrite" replaces a user's file with `force=True`; "edited" means that a user's file stops the pull.
Decision: TypeAlias = Literal["present", "fetch", "replace", "overwrite", "edited"]

#: Titles of the decisions in a card, the most important first.
_TITLES: dict[Decision, str] = {
    "edited": "in the way: edited, or not of this artifact",
    "overwrite": "to overwrite",
    "replace": "to replace",
    "fetch": "to fetch",
    "present": "present",
}

#: Size, modification time in nanoseconds and inode, which change when a file is edited.
Status: TypeAlias = tuple[int, int, int]


@frozen(kw_only=True)
class PlannedFile:
    """A file of the artifact, and what a pull does with it."""

    title: str
    """Path in the folder, with "/"."""
    descriptor: Descriptor
    decision: Decision
    conflict: str = ""
    """Path of the user's file or folder that stops the pull."""
    archive: Digest | None = None
    """The archive that the file is unpacked from."""
    copy_of: str | None = None
    """Title of a file in the folder with the same content, which is copied instead of downloaded."""


@frozen(kw_only=True)
class Transfer:
    """Content to get once for all its files."""

    descriptor: Descriptor
    files: tuple[PlannedFile, ...]


@frozen(kw_only=True, repr=False)
class FolderPlan(display.Displayable):
    """The plan of a pull into a folder.

    >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
    >>> plan = ocikit.pull("oci:waves:v1", "data", dry_run=True).plan
    >>> plan
    FolderPlan(fetch=1, size=5 B, path='data')
    """

    path: Path
    files: tuple[PlannedFile, ...]
    removed: tuple[str, ...] = ()
    """Unedited files of an earlier pull that the artifact no longer has."""
    kept_edited: tuple[str, ...] = ()
    """Edited files of an earlier pull that the artifact no longer has. They are not deleted."""
    source: str = ""
    """Registry and repository of the artifact."""
    removable: frozenset[str] = field(default=frozenset(), repr=False)
    """Paths that may be deleted because another file or folder replaces them."""
    statuses: Mapping[str, Status | None] = field(factory=dict, repr=False)
    """Files as they were at the time of the plan. A file that changes later is not overwritten."""
    archives: tuple[Archive, ...] = ()
    """Archives whose files are in the folder after the pull."""

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Content to get, without duplicates, in the artifact's order."""
        groups: dict[tuple[str, int], list[PlannedFile]] = {}
        for file in self.files:
            if file.decision not in {"present", "edited"} and file.copy_of is None and file.archive is None:
                groups.setdefault(file.descriptor.key, []).append(file)
        return tuple(Transfer(descriptor=same[0].descriptor, files=tuple(same)) for same in groups.values())

    @property
    def copies(self) -> tuple[PlannedFile, ...]:
        """Files whose content is in the folder under another name."""
        return tuple(file for file in self.files if file.copy_of is not None)

    @property
    def unpacked(self) -> tuple[PlannedFile, ...]:
        """Files to move from unpacked archives."""
        return tuple(f for f in self.files if f.archive is not None and f.decision not in {"present", "edited"})

    @property
    def packed(self) -> tuple[Archive, ...]:
        """Archives to unpack before the files are placed."""
        changing = {file.archive for file in self.unpacked}
        return tuple(
            archive
            for archive in self.archives
            if archive.content is None and (archive.files is None or archive.layer.digest in changing)
        )

    @property
    def size(self) -> int:
        """Bytes to get."""
        archives = sum(archive.layer.size for archive in self.packed)
        return archives + sum(transfer.descriptor.size for transfer in self.transfers)

    @property
    def edited(self) -> tuple[str, ...]:
        """Paths of user's files that stop the pull."""
        return tuple(dict.fromkeys(file.conflict for file in self.files if file.decision == "edited"))

    def check(self) -> None:
        """Check that no user's files stop the pull.

        Raises:
            EditedFiles: Files that a user created or edited are in the way; the message lists them.

        >>> artifact = ocikit.push("oci:waves:v1", {"note.txt": b"hello"})
        >>> plan = ocikit.pull("oci:waves:v1", "data", dry_run=True).plan
        >>> plan.check()
        """
        if not self.edited:
            return
        subject = "a file that was edited or is" if len(self.edited) == 1 else "files that were edited or are"
        raise EditedFiles(
            f"{display.display_path(self.path)} has {subject} not from this artifact:"
            f" {display.join_limited(self.edited)}",
            hint="pass force=True to overwrite files, move them away, or pull to another folder; nothing was changed",
            files=self.edited,
        )

    def __rich_repr__(self) -> display.Description:
        for decision in ("present", "fetch", "replace", "overwrite", "edited"):
            yield decision, sum(file.decision == decision for file in self.files), 0
        yield "removed", len(self.removed), 0
        yield "size", display.Size(self.size)
        yield "path", display.display_path(self.path)

    def _card_title(self) -> object:
        return display.Name.of_path(display.display_path(self.path))

    def _card_notes(self) -> Iterator[object]:
        yield "plan of a pull"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "to fetch", display.Size(self.size)

    def _sections(self) -> Iterator[display.Section]:
        for decision, title in _TITLES.items():
            if files := [file for file in self.files if file.decision == decision]:
                rows = (
                    (file.title, display.Size(file.descriptor.size), file.copy_of and f"copy of {file.copy_of}")
                    for file in files
                )
                yield display.Section(
                    title=title,
                    headers=("file", "size", ""),
                    rows=rows,
                    hint=display.Code("force=True") if decision == "edited" else "",
                    count=len(files),
                    note=display.Size(sum(file.descriptor.size for file in files)),
                    unfolded=decision != "present",
                )
        if self.packed:
            yield display.Section(
                title="to unpack",
                headers=("archive", "size"),
                rows=((archive.layer.title or "", display.Size(archive.layer.size)) for archive in self.packed),
                count=len(self.packed),
                unfolded=True,
            )
        kept_title = "edited, and no longer in the artifact: not deleted"
        for title, titles in (("to delete", self.removed), (kept_title, self.kept_edited)):
            if titles:
                yield display.Section(title=title, names=titles, count=len(titles))


def status_of(path: Path) -> Status | None:
    """Return the status of a file or link; None if it does not exist."""
    try:
        return to_status(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def to_status(result: os.stat_result) -> Status:
    """Return what a plan compares to detect edits."""
    return result.st_size, result.st_mtime_ns, result.st_ino


@define
class _LocalFile:
    """State of the path of a title before the pull."""

    path: Path
    kind: Literal["missing", "file", "folder", "other"]
    status: Status | None
    pulled: frozenset[Digest]
    """Digests that earlier pulls have written there, or may have written."""
    blocker: str = ""
    """Path of a parent that is not a folder."""
    digest: Digest | None = None
    """Digest of the content, if it is one of `pulled` or the new one."""

    @classmethod
    def inspect(cls, path: Path, title: str, record: FolderRecord, *, blocker: str) -> _LocalFile:
        """Return the state of a path without reading the file."""
        entry = record.files.get(title)
        pulled = frozenset((*record.expected.get(title, ()), *((entry.digest,) if entry else ())))
        try:
            result = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path, "missing", None, pulled, blocker)
        status = to_status(result)
        if stat.S_ISLNK(result.st_mode):
            return cls(path, "other", status, pulled, blocker, _link_digest(path))
        if not stat.S_ISREG(result.st_mode):
            return cls(path, "folder" if stat.S_ISDIR(result.st_mode) else "other", status, pulled, blocker)
        unedited = entry is not None and status[:2] == (entry.size, entry.mtime_ns)
        return cls(path, "file", status, pulled, blocker, entry.digest if entry is not None and unedited else None)

    @property
    def is_unedited(self) -> bool:
        """Whether the file is as a pull wrote it."""
        return self.digest in self.pulled

    def needs_hash(self, new: Descriptor | None) -> bool:
        """Return True if only a hash can show that the file is unedited or up to date.

        A file of another size than the new one may still be unedited.
        """
        if self.kind != "file" or self.digest is not None:
            return False
        return bool(self.pulled) or (new is not None and self.status is not None and self.status[0] == new.size)

    def hash(self, new: Descriptor | None) -> None:
        """Set the digest to the one of `pulled` or the new one that the content has."""
        candidates = {*self.pulled, *((new.digest,) if new is not None else ())}
        for algorithm in {digest.algorithm for digest in candidates if digest.verifiable}:
            try:
                digest = hash_file(self.path, algorithm)
            except OSError:
                continue
            self.digest = digest if digest in candidates else self.digest


def make_plan(
    root: Path,
    requested: Mapping[str, Descriptor],
    removed_upstream: Sequence[str],
    record: FolderRecord,
    locate: Callable[[str], tuple[Path, str]],
    *,
    source: str = "",
    force: bool = False,
    archives: Sequence[Archive] = (),
) -> FolderPlan:
    """Return the plan of a pull into a folder.

    Args:
        root: The folder.
        requested: Files of the artifact by title.
        removed_upstream: Files of earlier pulls to delete unless they were edited.
        record: The record of earlier pulls.
        locate: Returns the path of a title, and the path of a parent that is not a folder, or "".
        source: Registry and repository of the artifact.
        force: Whether to overwrite a user's files.
        archives: Archives, some of whose files are in `requested`.
    """
    origins = {title: archive.layer.digest for archive in archives for title in archive.files or ()}
    local = _inspect_files(requested, removed_upstream, record, locate)
    removed_upstream = [title for title in removed_upstream if title in local]
    removed = [title for title in removed_upstream if local[title].is_unedited and not local[title].blocker]
    removable = set(removed)
    files = [
        _plan_file(title, descriptor, local[title], removable, origins.get(title), force=force)
        for title, descriptor in requested.items()
    ]
    copyable = {local[title].digest: title for title in _never_replaced(removed, requested)}
    copyable |= {file.descriptor.digest: file.title for file in files if file.decision == "present"}
    changes = {"fetch", "replace", "overwrite"}
    files = [
        attrs.evolve(file, copy_of=copy)
        if file.decision in changes and file.archive is None and (copy := copyable.get(file.descriptor.digest))
        else file
        for file in files
    ]
    return FolderPlan(
        path=root,
        files=tuple(files),
        removed=tuple(removed),
        kept_edited=tuple(
            title for title in removed_upstream if local[title].status is not None and title not in removable
        ),
        source=source,
        removable=frozenset(removable),
        statuses={title: file.status for title, file in local.items()},
        archives=tuple(archives),
    )


def _inspect_files(
    requested: Mapping[str, Descriptor],
    removed_upstream: Iterable[str],
    record: FolderRecord,
    locate: Callable[[str], tuple[Path, str]],
) -> dict[str, _LocalFile]:
    """Return the state of the files by title; hash those that may be edited."""
    local: dict[str, _LocalFile] = {}
    for title in (*requested, *removed_upstream):
        try:
            path, blocker = locate(title)
        except UnsafeArchive:
            if title in requested:
                raise
            continue  # a user's link replaced a folder of a pull: nothing behind it may be deleted
        local[title] = _LocalFile.inspect(path, title, record, blocker=blocker)
    unknown = [title for title, file in local.items() if file.needs_hash(requested.get(title))]
    with ThreadPoolExecutor(min(8, available_cores()), "ocikit-hash") as pool:
        list(pool.map(lambda title: local[title].hash(requested.get(title)), unknown))
    return local


def _link_digest(path: Path) -> Digest | None:
    with suppress(OSError):
        return describe_link(os.readlink(path)).digest
    return None


def _never_replaced(removed: Iterable[str], requested: Mapping[str, Descriptor]) -> list[str]:
    """Return the files to delete that remain until the end of the pull.

    A file that a folder replaces, or that is in a folder that a file replaces, is deleted before it could be copied.
    """
    folders = set(_parents(requested))
    return [title for title in removed if title not in folders and requested.keys().isdisjoint(_parents([title]))]


def _parents(titles: Iterable[str]) -> Iterator[str]:
    """Iterate over the parent folders of titles."""
    for title in titles:
        yield from (title[:i] for i, character in enumerate(title) if character == "/")


def _plan_file(
    title: str, descriptor: Descriptor, local: _LocalFile, removable: set[str], archive: Digest | None, *, force: bool
) -> PlannedFile:
    """Return what a pull does with a file.

    With `force`, add a blocking parent to `removable`.
    """

    def planned(decision: Decision, conflict: str = "") -> PlannedFile:
        return PlannedFile(title=title, descriptor=descriptor, decision=decision, conflict=conflict, archive=archive)

    if local.blocker:
        if force:
            removable.add(local.blocker)
        return planned("fetch") if local.blocker in removable else planned("edited", local.blocker)
    if local.kind == "missing":
        return planned("fetch")
    if local.kind == "folder":
        # Even with `force`, a user's folder is not deleted
        files = (
            f"{title}/{path.relative_to(local.path).as_posix()}"
            for path in local.path.rglob("*")
            if not path.is_dir() or path.is_symlink()
        )
        return planned("fetch") if all(file in removable for file in files) else planned("edited", f"{title}/")
    if local.digest == descriptor.digest:
        return planned("present")
    if local.is_unedited:
        return planned("replace")
    return planned("overwrite") if force else planned("edited", title)
