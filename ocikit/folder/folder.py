"""Folders to pull to: writable files, and `.ocikit` with the record of the pulls.

A pull makes a plan without changing anything, then calls `begin`, `place` for each transfer (from several threads), and
`finish`. A file that a user edited is overwritten only by force, and files appear atomically.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import attrs
from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.folder.archives import SYMLINK, Archive, delete_unpacked, unpack_archive
from ocikit.folder.plan import FolderPlan, PlannedFile, Transfer, make_plan, status_of
from ocikit.folder.record import FileRecord, FolderRecord
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, hash_file
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.media_types import OCTET_STREAM
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import OWN_FOLDER, check_titles, layers_by_path
from ocikit.store.base import blob_not_found
from ocikit.store.files import atomic_writer, fsync_folder, verified_part
from ocikit.store.reflink import reflink
from ocikit.store.streams import ByteStream

#: Seconds without a change after which a pull that succeeds deletes an unfinished transfer.
_STALE_AFTER = 86400.0


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()


@define(eq=False, repr=False)
class Folder(display.Displayable):
    """A folder to pull to.

    Args:
        path: The folder; `begin` creates it.
        sync: Whether files must survive a power cut before they appear.
    """

    path: Path = field(converter=_absolute)
    sync: bool = field(default=True, kw_only=True)
    _root: Path | None = field(default=None, init=False)
    """The folder with symlinks resolved."""
    _plan: FolderPlan | None = field(default=None, init=False)
    _placed: dict[str, FileRecord] = field(factory=dict, init=False)
    _changed_folders: set[Path] = field(factory=set, init=False)

    @property
    def record_path(self) -> Path:
        """Path of the record, whether it exists or not."""
        return self.path / OWN_FOLDER / "manifest.json"

    @property
    def record(self) -> FolderRecord:
        """Record of the earlier pulls."""
        return FolderRecord.load(self.record_path)

    @property
    def document(self) -> Manifest | Index | None:
        """Manifest of the last pull, or None."""
        raw = self.record.document
        return None if raw is None else parse_document(raw)

    def unedited(self, title: str, descriptor: Descriptor) -> Path | None:
        """Return the path of a file that is unedited; otherwise None."""
        entry, path = self.record.files.get(title), self.path / title
        with contextlib.suppress(OSError):
            status = path.stat()
            if entry is not None and (entry.size, entry.mtime_ns) == (status.st_size, status.st_mtime_ns):
                return path if entry.digest == descriptor.digest else None
        return None

    def plan(
        self,
        files: Manifest | Mapping[str, Descriptor],
        *,
        reference: AnyReference | None = None,
        force: bool = False,
        partial: bool = False,
        archives: Iterable[Archive] = (),
    ) -> FolderPlan:
        """Return the plan of a pull. Nothing is changed.

        Args:
            files: A manifest, or the files by title.
            reference: Reference of the artifact. Files of other repositories are never deleted.
            force: Whether to overwrite files that a user edited.
            partial: Whether the files are a selection. Then files outside of it are not deleted.
            archives: Layers to unpack, which are not among the files.

        Raises:
            UnsafeArchive: A title leads out of the folder, perhaps through a symlink (path traversal), or two titles
                have the same path.
            ContentError: The path is not a folder.
        """
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise ContentError(f"{self.path} is not a folder", hint="pass a folder to pull to")
        self._root = self.path.resolve()
        fold_case = self._ignores_case()
        if isinstance(files, Manifest):
            requested = layers_by_path(files.layers, fold_case=fold_case)
        else:
            paths = check_titles(files, fold_case=fold_case)
            requested = {path.as_posix(): descriptor for path, descriptor in zip(paths, files.values(), strict=True)}
        record = self.record
        archives = tuple(archive if archive.files is not None else _recorded(archive, record) for archive in archives)
        if archives:
            requested = _with_archives(requested, archives, fold_case=fold_case)
        unknown = [archive for archive in archives if archive.files is None]
        source = reference.name if reference is not None else ""
        removed_upstream = [
            title
            for title, file in record.files.items()
            if title not in requested
            and file.source == source
            and not partial
            and not (file.archive is not None and any(archive.contains(title) for archive in unknown))
        ]
        return make_plan(
            self.path,
            requested,
            removed_upstream,
            record,
            self._locate,
            source=source,
            force=force,
            archives=archives,
        )

    def begin(self, plan: FolderPlan) -> None:
        """Create the folder and record what is about to be written.

        Raises:
            ContentError: Edited files are in the way, or the folder cannot be written.
            UnsafeArchive: `.ocikit` is a symlink.
        """
        plan.check()
        self._prepare()
        self._plan, self._placed, self._changed_folders = plan, {}, set()
        changing = [file for file in plan.files if file.decision != "present"]
        if changing:
            record = self.record
            expected = dict(record.expected)
            for file in changing:
                expected[file.title] = tuple(dict.fromkeys((*expected.get(file.title, ()), file.descriptor.digest)))
            attrs.evolve(record, expected=expected).save(self.record_path, sync=self.sync)

    def _prepare(self) -> None:
        """Create the folder and the one for its records."""
        own = self.path / OWN_FOLDER
        try:
            own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ContentError(
                f"creating {own} failed: {error.strerror}", hint="check the folder's permissions"
            ) from error
        if own.is_symlink():
            raise UnsafeArchive(f"{own} is a link", hint="delete the link: ocikit stores its record in this folder")
        self._partial.mkdir(exist_ok=True)
        self._root = self.path.resolve()

    @contextlib.contextmanager
    def unpacking(self) -> Iterator[Callable[[Descriptor, BinaryIO], Archive]]:
        """Return a function that unpacks an archive for the next plan; delete its files after the block.

        Raises:
            ContentError: The folder cannot be written.
            UnsafeArchive: `.ocikit` is a symlink.
        """
        self._prepare()
        scratch = self._partial / f"unpacked.{secrets.token_hex(8)}"

        def unpack(layer: Descriptor, stream: BinaryIO) -> Archive:
            scratch.mkdir(exist_ok=True)
            return unpack_archive(layer, stream, scratch / layer.digest.encoded)

        try:
            yield unpack
        finally:
            delete_unpacked(scratch)

    def place_unpacked(self) -> None:
        """Move the files of unpacked archives, and create their empty folders.

        Raises:
            ContentError: The disk is full, or a file was edited after the plan.
            UnsafeArchive: A symlink leads out of the folder.
        """
        plan = self._active_plan("place_unpacked")
        archives = {archive.layer.digest: archive for archive in plan.archives}
        for file in plan.unpacked:
            path = archives[cast("Digest", file.archive)].path(file.title)
            if not path.is_symlink() and path.stat().st_nlink > 1:
                # Hard links of the archive become separate files: an edit must change one of them only
                copy = self._partial / f"clone.{secrets.token_hex(8)}"
                shutil.copy2(path, copy)
                path = copy
            self._move_into_place(path, file)
        for archive in plan.archives:
            for title in archive.folders:
                with contextlib.suppress(UnsafeArchive):
                    self._locate(f"{title}/x", plan=plan)

    def place(self, transfer: Transfer, source: ByteStream | Path) -> None:
        """Write verified content to all its files. Thread-safe.

        Args:
            transfer: A transfer of the plan.
            source: A stream, or the path of a cached blob, which is cloned or copied. A seekable stream resumes an
                unfinished transfer.

        Raises:
            SizeMismatch: The content has another size; nothing is stored.
            DigestMismatch: The content has another digest; nothing is stored.
            BlobUnknown: The cached blob does not exist.
            ContentError: The disk is full, or a file was edited after the plan. Received content is stored
                for the next pull.
            UnsafeArchive: A symlink leads out of the folder.
        """
        first, *others = transfer.files
        if isinstance(source, Path):
            for file in transfer.files:
                self._copy(source, file)
            return
        with self._receive(source, first) as part:
            for file in others:
                self._copy(part, file)
            self._move_into_place(part, first)

    def finish(self, document: Manifest | Index | None = None, reference: AnyReference | None = None) -> None:
        """Copy duplicates, delete files that were removed upstream, and save the record.

        Args:
            document: The pulled manifest; its bytes are recorded.
            reference: The pinned reference of the artifact.
        """
        plan = self._active_plan("finish")
        for file in plan.copies:
            self._copy(self._locate(cast("str", file.copy_of))[0], file)
        for title in plan.removed:
            self._remove(title, plan)
        if self.sync:
            for folder in self._changed_folders:
                fsync_folder(folder)
        before = self.record
        titles = {file.title for file in plan.files}
        dropped = {*plan.removed, *plan.kept_edited}
        files = {title: file for title, file in before.files.items() if title not in dropped}
        for planned in plan.files:
            if planned.decision == "present" and planned.descriptor.is_executable:
                with contextlib.suppress(OSError):
                    _make_executable(self._locate(planned.title)[0])
            if planned.decision == "present" and (status := plan.statuses[planned.title]) is not None:
                files[planned.title] = FileRecord(
                    digest=planned.descriptor.digest,
                    size=status[0],
                    mtime_ns=status[1],
                    source=plan.source,
                    archive=planned.archive,
                    is_link=planned.descriptor.media_type == SYMLINK,
                )
        recorded = {file.archive for file in (*files.values(), *self._placed.values())}
        counts = {archive.layer.digest: len(archive.files or ()) for archive in plan.archives}
        record = FolderRecord(
            archives={
                digest: count for digest, count in (before.archives | counts).items() if digest in recorded or not count
            },
            reference=str(reference) if reference is not None else before.reference,
            document=document.raw if document is not None else before.document,
            files=files | self._placed,
            expected={title: digests for title, digests in before.expected.items() if title not in titles},
        )
        if record != before:
            record.save(self.record_path, sync=self.sync)
        self._delete_stale()
        self._plan = None

    def __rich_repr__(self) -> display.Description:
        yield "path", display.display_path(self.path)

    @property
    def _partial(self) -> Path:
        return self.path / OWN_FOLDER / "partial"

    def _active_plan(self, method: str) -> FolderPlan:
        if self._plan is None:
            raise ContentError(f"{method}() failed: begin() was not called", hint="call begin() with a plan first")
        return self._plan

    def _ignores_case(self) -> bool:
        """Return True if "A" and "a" are the same file, judged by the nearest folder."""
        for path in (self.path / OWN_FOLDER, self.path, *self.path.parents):
            other = path.with_name(path.name.swapcase()) if path.name else path
            if other != path and path.exists():
                return other.exists() and other.samefile(path)
        return False

    def _locate(self, title: str, *, plan: FolderPlan | None = None) -> tuple[Path, str]:
        """Return the resolved path of a title, and its first parent that is not a folder.

        The second value is "" if all parents are folders. With a plan, create missing folders and delete removable
        files.

        Raises:
            UnsafeArchive: A symlink leads out of the folder or into `.ocikit` (path traversal).
        """
        root = current = self._root or self.path.resolve()
        *folders, name = PurePosixPath(title).parts
        for i, folder in enumerate(folders):
            current /= folder
            parent = "/".join(folders[: i + 1])
            try:
                mode = os.lstat(current).st_mode
            except (FileNotFoundError, NotADirectoryError):
                mode = 0
            if stat.S_ISLNK(mode):
                target = _check_inside(root, current.resolve(), title)
                if target.is_dir():
                    current, mode = target, stat.S_IFDIR
            if mode and not stat.S_ISDIR(mode):
                if plan is None or parent not in plan.removable:
                    return current.joinpath(*folders[i + 1 :], name), parent
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(current)
                mode = 0
            if not mode and plan is not None:
                with contextlib.suppress(FileExistsError):  # another thread created it
                    os.mkdir(current)
                self._changed_folders.add(current.parent)
        return current / name, ""

    def _receive(self, stream: ByteStream, file: PlannedFile) -> AbstractContextManager[Path]:
        final = self.path / file.title
        return verified_part(stream, file.descriptor, parts=self._partial, sync=self.sync, near=final)

    def _copy(self, source: Path, file: PlannedFile) -> None:
        """Place a file from disk.

        Never link it, because users edit the files of the folder.
        """
        clone = self._partial / f"clone.{secrets.token_hex(8)}"
        try:
            if reflink(source, clone) and clone.stat().st_size == file.descriptor.size:
                if self.sync:
                    _fsync(clone)
                self._move_into_place(clone, file)
                return
            with open(source, "rb", buffering=0) as stream, self._receive(stream, file) as part:
                self._move_into_place(part, file)
        except FileNotFoundError as error:
            if str(error.filename) == str(source):
                raise blob_not_found(file.descriptor, str(source.parent)) from error
            raise
        finally:
            clone.unlink(missing_ok=True)

    def _move_into_place(self, part: Path, file: PlannedFile) -> None:
        """Rename a verified file to its final path, unless a user edited the file there."""
        plan = self._active_plan("place")
        final, blocker = self._locate(file.title, plan=plan)
        if blocker:
            raise _edit_conflict(self.path / blocker)
        status = status_of(final)
        if status is not None and stat.S_ISDIR(os.lstat(final).st_mode):
            self._remove_folder(file.title, final, plan)
        elif (
            status is not None and status != plan.statuses.get(file.title) and not _has_content(final, file.descriptor)
        ):
            raise _edit_conflict(final)
        if file.descriptor.is_executable:
            _make_executable(part)
        written = os.lstat(part)
        try:
            os.replace(part, final)
        except OSError as error:
            if error.errno != errno.EXDEV:  # another file system is mounted within the folder
                raise
            if part.is_symlink():
                final.unlink(missing_ok=True)
                final.symlink_to(os.readlink(part))
            else:
                with open(part, "rb") as source, atomic_writer(final, mode=0o666) as target:
                    shutil.copyfileobj(source, target)
            part.unlink()
            written = os.lstat(final)
        self._changed_folders.add(final.parent)
        self._placed[file.title] = FileRecord(
            digest=file.descriptor.digest,
            size=written.st_size,
            mtime_ns=written.st_mtime_ns,
            source=plan.source,
            archive=file.archive,
            is_link=file.descriptor.media_type == SYMLINK,
        )

    def _remove_folder(self, title: str, path: Path, plan: FolderPlan) -> None:
        """Remove a folder that holds only removable files."""
        for other in plan.removable:
            if other.startswith(f"{title}/"):
                self._remove(other, plan)
        for folder, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(folder)
            except OSError as error:
                raise _edit_conflict(Path(folder)) from error

    def _remove(self, title: str, plan: FolderPlan) -> None:
        """Delete an unedited file of an earlier pull, and folders that become empty."""
        with contextlib.suppress(UnsafeArchive, FileNotFoundError):
            path, blocker = self._locate(title)
            if blocker or status_of(path) != plan.statuses.get(title):
                return
            os.unlink(path)
            self._changed_folders.add(path.parent)
            self._remove_empty(path.parents)

    def _remove_empty(self, folders: Iterable[Path]) -> None:
        with contextlib.suppress(OSError):
            for folder in folders:
                if folder == self._root:
                    break
                os.rmdir(folder)

    def _delete_stale(self) -> None:
        """Delete unfinished transfers of pulls that were not repeated."""
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self._partial)):
                if time.time() - entry.stat().st_mtime > _STALE_AFTER:
                    if entry.is_dir(follow_symlinks=False):
                        delete_unpacked(Path(entry.path))
                    else:
                        os.unlink(entry.path)


def _recorded(archive: Archive, record: FolderRecord) -> Archive:
    """Return an archive with the files that an earlier pull has unpacked from it, if it has."""
    known = record.unpacked(archive.layer.digest)
    if known is None or not all(map(archive.contains, known)):
        return archive
    files = {
        title: Descriptor(media_type=SYMLINK if file.is_link else OCTET_STREAM, digest=file.digest, size=file.size)
        for title, file in known.items()
    }
    return attrs.evolve(archive, files=files)


def _with_archives(
    files: Mapping[str, Descriptor], archives: Iterable[Archive], *, fold_case: bool
) -> dict[str, Descriptor]:
    """Return the files of an artifact and its archives by title.

    Raises:
        UnsafeArchive: Two of them have one path, or a title is unsafe.
    """
    pairs = [*files.items(), *(pair for archive in archives for pair in (archive.files or {}).items())]
    paths = check_titles((title for title, _ in pairs), fold_case=fold_case)
    return {path.as_posix(): descriptor for path, (_, descriptor) in zip(paths, pairs, strict=True)}


def _check_inside(root: Path, target: Path, title: str) -> Path:
    """Return the target of a link if the folder may be written through it."""
    inside = target.relative_to(root).parts if target.is_relative_to(root) else ("..",)
    if inside and inside[0].casefold() in {"..", OWN_FOLDER}:
        raise UnsafeArchive(
            f"{title!r} would be written through a link to {target}",
            hint="replace the link with a folder, or pull to another folder",
        )
    return target


def _has_content(path: Path, descriptor: Descriptor) -> bool:
    """Return True if a regular file has this content.

    A pull in another process may have written it.
    """
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.lstat(path).st_mode) and path.stat().st_size == descriptor.size:
            return hash_file(path, descriptor.digest.algorithm) == descriptor.digest
    return False


def _make_executable(path: Path) -> None:
    """Allow everyone who may read a file to execute it."""
    mode = path.lstat().st_mode
    executable = mode | (mode & 0o444) >> 2
    if stat.S_ISREG(mode) and executable != mode:
        path.chmod(stat.S_IMODE(executable))


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _edit_conflict(path: Path) -> ContentError:
    return ContentError(
        f"writing {path} failed: it was edited during the pull",
        hint="call again to see the differences; force=True overwrites it",
    )
