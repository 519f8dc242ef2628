"""Folders to pull to: writable files, and `.ocikit` with the record of the pulls.

A pull makes a plan without changing anything, then calls `begin`, `place` for each transfer (from several threads), and
`finish`. A file that a user edited is overwritten only by force, and files appear atomically.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import cast

import attrs
from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, EditedFiles, UnsafeArchive
from ocikit.folder.archives import SYMLINK, Archive, delete_unpacked
from ocikit.folder.places import OpenFolder, Place, check_inside
from ocikit.folder.plan import FolderPlan, PlannedFile, Transfer, make_plan, to_status
from ocikit.folder.record import FileRecord, FolderRecord
from ocikit.layers.openat import HAS_DIR_FD
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, hash_file
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.media_types import OCTET_STREAM
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import OWN_FOLDER, check_titles, layers_by_path
from ocikit.store.base import blob_not_found
from ocikit.store.files import atomic_writer, fsync_folder
from ocikit.store.locks import lock_in_folder
from ocikit.store.parts import Part, write_part
from ocikit.store.reflink import clone_file
from ocikit.store.streams import ByteStream

#: Seconds without a change after which a pull that succeeds deletes an unfinished transfer.
_STALE_AFTER = 86400.0
_LOCK_TIMEOUT = 60.0  # seconds to wait for another pull that saves its record, which takes milliseconds


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
    _open: OpenFolder | None = field(default=None, init=False)
    """The folder while a pull writes to it."""
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
        files: Manifest | Sequence[Descriptor] | Mapping[str, Descriptor],
        *,
        reference: AnyReference | None = None,
        force: bool = False,
        partial: bool = False,
        archives: Iterable[Archive] = (),
    ) -> FolderPlan:
        """Return the plan of a pull. Nothing is changed.

        Args:
            files: A manifest, its layers, or the files by title.
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
        if not isinstance(files, Mapping):
            layers = files.layers if isinstance(files, Manifest) else files
            requested = layers_by_path(layers, fold_case=fold_case)
        else:
            paths = check_titles(files, fold_case=fold_case)
            requested = {path.as_posix(): descriptor for path, descriptor in zip(paths, files.values(), strict=True)}
        record = self.record
        archives = tuple(archive if archive.files is not None else _recorded(archive, record) for archive in archives)
        if archives:
            archives = tuple(archive.without(requested) for archive in archives)
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
        self.close()
        self._open = OpenFolder(self.path)
        self._root = self._open.root
        self._plan, self._placed, self._changed_folders = plan, {}, set()
        changing = [file for file in plan.files if file.decision != "present"]
        if changing:
            with self._edit_record() as (record, save):
                expected = dict(record.expected)
                for file in changing:
                    expected[file.title] = tuple(dict.fromkeys((*expected.get(file.title, ()), file.descriptor.digest)))
                save(attrs.evolve(record, expected=expected))

    @contextlib.contextmanager
    def unpacking(self) -> Iterator[Callable[[Descriptor], Path]]:
        """Return a function that names a new folder to unpack an archive to, for the next plan; delete it after the block.

        Raises:
            ContentError: The folder cannot be written.
            UnsafeArchive: `.ocikit` is a symlink.
        """
        parts, name = self._opened().parts, f"unpacked.{secrets.token_hex(8)}"
        os.mkdir(parts.at(name), 0o700, dir_fd=parts.fd)
        scratch = parts.path / name

        try:
            yield lambda layer: scratch / layer.digest.encoded
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
                self._copy_unpacked(path, file)
            else:
                self._move_into_place(path, file)
        for archive in plan.archives:
            for title in archive.folders:
                with (
                    contextlib.suppress(UnsafeArchive),
                    self._opened().place(f"{title}/x", removable=plan.removable, changed=self._changed_folders.add),
                ):
                    pass

    def _copy_unpacked(self, path: Path, file: PlannedFile) -> None:
        with self._opened().create(f"clone.{secrets.token_hex(8)}") as clone, open(path, "rb") as source:
            try:
                shutil.copyfileobj(source, clone.file)
                status = os.stat(path)
                if HAS_DIR_FD:
                    os.fchmod(clone.file.fileno(), stat.S_IMODE(status.st_mode))
                    os.utime(clone.file.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
                self._move_into_place(clone, file)
            finally:
                clone.discard()

    def place(self, transfer: Transfer, source: ByteStream | Path, *, verify: bool = False) -> bool:
        """Write verified content to all its files. Thread-safe.

        Args:
            transfer: A transfer of the plan.
            source: A stream, or the path of a cached blob, which is cloned or copied. A seekable stream resumes an
                unfinished transfer.
            verify: Whether a clone of a path is hashed, because users may edit the file.

        Returns:
            True if the content was written, False if another pull has stored it in the folder meanwhile.

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
            try:
                content = io.FileIO(source)
            except FileNotFoundError as error:
                raise blob_not_found(transfer.descriptor, str(source.parent)) from error
            with content:
                for file in transfer.files:
                    self._copy(content, file, verify=verify)
            return True

        def place(part: Part) -> None:
            for file in others:
                self._copy(part.file, file)
            self._move_into_place(part, first)

        if self._receive(source, first, place, exists=lambda: self._was_placed(first)):
            return True
        for file in others:
            self._copy_from(first.title, file)
        return False

    def finish(self, document: Manifest | Index | None = None, reference: AnyReference | None = None) -> None:
        """Copy duplicates, delete files that were removed upstream, and save the record.

        Args:
            document: The pulled manifest; its bytes are recorded.
            reference: The pinned reference of the artifact.
        """
        plan = self._active_plan("finish")
        for file in plan.copies:
            self._copy_from(cast("str", file.copy_of), file)
        for title in plan.removed:
            self._remove(title, plan)
        if self.sync:
            for folder in self._changed_folders:
                fsync_folder(folder)
        with self._edit_record() as (before, save):
            record = self._next_record(plan, before, document, reference)
            if record != before:
                save(record)
        self._delete_stale()
        self._plan = None
        self.close()

    def close(self) -> None:
        """End a pull that failed; `begin` starts the next one."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _next_record(
        self,
        plan: FolderPlan,
        before: FolderRecord,
        document: Manifest | Index | None,
        reference: AnyReference | None,
    ) -> FolderRecord:
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
        # With hidden files, fewer are recorded than counted: the next pull unpacks the shard again, as they may be shown then
        counts = {archive.layer.digest: len(archive.files or ()) + archive.hidden for archive in plan.archives}
        return FolderRecord(
            archives={
                digest: count for digest, count in (before.archives | counts).items() if digest in recorded or not count
            },
            reference=str(reference) if reference is not None else before.reference,
            document=document.raw if document is not None else before.document,
            files=files | self._placed,
            expected={title: digests for title, digests in before.expected.items() if title not in titles},
        )

    def __rich_repr__(self) -> display.Description:
        yield "path", display.display_path(self.path)

    def _active_plan(self, method: str) -> FolderPlan:
        if self._plan is None:
            raise ContentError(f"{method}() failed: begin() was not called", hint="call begin() with a plan first")
        return self._plan

    def _opened(self) -> OpenFolder:
        if self._open is None:
            self._open = OpenFolder(self.path)
        return self._open

    @contextlib.contextmanager
    def _edit_record(self) -> Iterator[tuple[FolderRecord, Callable[[FolderRecord], None]]]:
        """Yield the record and a function that replaces it. Pulls of other processes wait."""
        own = self._opened().own
        with lock_in_folder(self.record_path.parent, "lock", dir_fd=own, timeout=_LOCK_TIMEOUT):
            yield self.record, lambda record: record.save(self.record_path, sync=self.sync, dir_fd=own)

    def _ignores_case(self) -> bool:
        """Return True if "A" and "a" are the same file, judged by the nearest folder."""
        for path in (self.path / OWN_FOLDER, self.path, *self.path.parents):
            other = path.with_name(path.name.swapcase()) if path.name else path
            if other != path and os.path.exists(path):  # False without permissions, unlike Path.exists
                return os.path.exists(other) and other.samefile(path)
        return False

    def _locate(self, title: str) -> tuple[Path, str]:
        """Return the resolved path of a title for reading, and its first parent that is not a folder.

        The second value is "" if all parents are folders.

        Raises:
            UnsafeArchive: A symlink leads out of the folder or into `.ocikit` (path traversal).
        """
        root = current = self._root or self.path.resolve()
        *folders, name = PurePosixPath(title).parts
        for i, folder in enumerate(folders):
            current /= folder
            try:
                mode = os.lstat(current).st_mode
            except (FileNotFoundError, NotADirectoryError):
                mode = 0
            if stat.S_ISLNK(mode):
                target = check_inside(root, current, title)
                if target.is_dir():
                    current, mode = target, stat.S_IFDIR
            if mode and not stat.S_ISDIR(mode):
                return current.joinpath(*folders[i + 1 :], name), "/".join(folders[: i + 1])
        return current / name, ""

    def _receive(
        self,
        stream: ByteStream,
        file: PlannedFile,
        place: Callable[[Part], object],
        exists: Callable[[], bool] | None = None,
        *,
        share: bool = True,
    ) -> bool:
        return write_part(
            stream,
            file.descriptor,
            place,
            parts=self._opened().parts,
            exists=exists,
            share=share,
            sync=self.sync,
            near=self.path / file.title,
        )

    def _copy_from(self, title: str, file: PlannedFile) -> None:
        """Place a copy of another file of the folder."""
        try:
            with self._opened().place(title) as place, place.open() as source:
                self._copy(source, file, verify=True)
        except FileNotFoundError as error:
            raise _edit_conflict(self.path / title) from error

    def _copy(self, source: io.FileIO, file: PlannedFile, *, verify: bool = False) -> None:
        """Place a file from disk.

        Never link it, because users edit the files of the folder.

        Args:
            source: The open file.
            file: The file to write.
            verify: Whether a clone is hashed, because users edit the source too.
        """
        descriptor = file.descriptor
        with self._opened().create(f"clone.{secrets.token_hex(8)}") as clone:
            fd = clone.file.fileno()
            try:
                if clone_file(source.fileno(), fd) and clone.size == descriptor.size:
                    verified = not verify or hash_file(fd, descriptor.digest.algorithm) == descriptor.digest
                    if verified:
                        if self.sync:
                            os.fsync(fd)
                        self._move_into_place(clone, file)
                        return
            finally:
                clone.discard()
        source.seek(0)
        self._receive(source, file, lambda part: self._move_into_place(part, file), share=False)

    def _was_placed(self, file: PlannedFile) -> bool:
        """Return True if a pull in another process has written a file after the plan."""
        plan = self._active_plan("place")
        with self._opened().place(file.title) as place:
            status = place.status()
            if place.blocker or status is None or status == plan.statuses.get(file.title):
                return False
            if not _has_content(place, file.descriptor):
                return False
        self._note_placed(file, size=status[0], mtime_ns=status[1])
        return True

    def _move_into_place(self, part: Part | Path, file: PlannedFile) -> None:
        """Rename a verified file to its final path, unless a user edited the file there."""
        plan = self._active_plan("place")
        changed = self._changed_folders.add
        with self._opened().place(file.title, removable=plan.removable, changed=changed) as place:
            if place.blocker:
                raise _edit_conflict(self.path / place.blocker)
            found = place.stat()
            status = None if found is None else to_status(found)
            if found is not None and stat.S_ISDIR(found.st_mode):
                self._remove_folder(file.title, place, plan)
            elif status not in {None, plan.statuses.get(file.title)} and not _has_content(place, file.descriptor):
                raise _edit_conflict(place.path)
            if file.descriptor.is_executable:
                _make_executable(part if isinstance(part, Path) else part.file.fileno())
            written = os.lstat(part) if isinstance(part, Path) else os.fstat(part.file.fileno())
            try:
                if isinstance(part, Path):
                    os.replace(part, place.at, dst_dir_fd=place.fd)
                else:
                    part.move(place.at, dir_fd=place.fd)
            except OSError as error:
                if error.errno != errno.EXDEV:  # another file system is mounted within the folder
                    raise
                written = _copy_across(part, place)
            self._changed_folders.add(place.folder)
        self._note_placed(file, size=written.st_size, mtime_ns=written.st_mtime_ns)

    def _note_placed(self, file: PlannedFile, *, size: int, mtime_ns: int) -> None:
        self._placed[file.title] = FileRecord(
            digest=file.descriptor.digest,
            size=size,
            mtime_ns=mtime_ns,
            source=self._active_plan("place").source,
            archive=file.archive,
            is_link=file.descriptor.media_type == SYMLINK,
        )

    def _remove_folder(self, title: str, place: Place, plan: FolderPlan) -> None:
        """Remove a folder that holds only removable files."""
        for other in plan.removable:
            if other.startswith(f"{title}/"):
                self._remove(other, plan)
        if place.stat() is None:
            return
        try:
            place.remove_empty_folders()
        except OSError as error:
            raise _edit_conflict(place.path) from error

    def _remove(self, title: str, plan: FolderPlan) -> None:
        """Delete an unedited file of an earlier pull, and folders that become empty."""
        with contextlib.suppress(UnsafeArchive, FileNotFoundError):
            with self._opened().place(title) as place:
                status = place.status()
                if place.blocker or status is None or status != plan.statuses.get(title):
                    return
                place.unlink()
                self._changed_folders.add(place.folder)
            self._remove_empty(title)

    def _remove_empty(self, title: str) -> None:
        with contextlib.suppress(OSError):
            for parent in list(PurePosixPath(title).parents)[:-1]:
                with self._opened().place(parent.as_posix()) as place:
                    os.rmdir(place.at, dir_fd=place.fd)

    def _delete_stale(self) -> None:
        """Delete unfinished transfers of pulls that were not repeated."""
        parts, before = self._opened().parts, time.time() - _STALE_AFTER
        for name, status in parts.list():
            if status.st_mtime < before:
                if stat.S_ISDIR(status.st_mode):
                    delete_unpacked(parts.path / name)
                else:
                    parts.remove(name, before=before)


def _copy_across(part: Part | Path, place: Place) -> os.stat_result:
    """Write a file to another file system; return its status."""
    if isinstance(part, Path) and part.is_symlink():
        with contextlib.suppress(FileNotFoundError):
            place.unlink()
        os.symlink(os.readlink(part), place.at, dir_fd=place.fd)
        part.unlink()
    else:
        with atomic_writer(place.path, mode=0o666, dir_fd=place.fd) as target:
            if isinstance(part, Path):
                with open(part, "rb") as source:
                    shutil.copyfileobj(source, target)
                part.unlink()
            else:
                part.file.seek(0)
                shutil.copyfileobj(part.file, target)
                part.discard()
    return os.stat(place.at, dir_fd=place.fd, follow_symlinks=False)


def _recorded(archive: Archive, record: FolderRecord) -> Archive:
    """Return an archive with the files that an earlier pull has unpacked from it, if it has."""
    if archive.selected is None:
        known = record.unpacked(archive.layer.digest)
    else:
        named = {title: record.files[title] for title in archive.selected if title in record.files}
        known = named if len(named) == len(archive.selected) else None
        if any(file.archive != archive.layer.digest for file in named.values()):
            known = None
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


def _has_content(place: Place, descriptor: Descriptor) -> bool:
    """Return True if a regular file has this content.

    A pull in another process may have written it.
    """
    with contextlib.suppress(OSError), place.open() as file:
        if os.fstat(file.fileno()).st_size == descriptor.size:
            return hash_file(file.fileno(), descriptor.digest.algorithm) == descriptor.digest
    return False


def _make_executable(file: Path | int) -> None:
    """Add the permission to execute a file wherever there is the permission to read it."""
    mode = (os.fstat(file) if isinstance(file, int) else file.lstat()).st_mode
    executable = mode | (mode & 0o444) >> 2
    if stat.S_ISREG(mode) and executable != mode and (isinstance(file, Path) or os.chmod in os.supports_fd):
        os.chmod(file, stat.S_IMODE(executable))


def _edit_conflict(path: Path) -> EditedFiles:
    return EditedFiles(
        f"writing {path} failed: it was edited during the pull",
        hint="call again to see the differences; force=True overwrites it",
        files=[str(path)],
    )
