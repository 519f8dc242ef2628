"""Folders to pull to: real, writable files, and `.ocikit` with what is known of them.

A pull plans first, touching nothing; then `begin`, `place` for each transfer, from several threads, and `finish`. A file
that a user edited is never overwritten unless forced, and none is ever there by half.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import cast

import attrs
from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.folder.plan import FolderPlan, PlannedFile, Transfer, decide, digest_of, status_of
from ocikit.folder.record import FileRecord, FolderRecord
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Index, Manifest, parse_document
from ocikit.spec.reference import AnyReference
from ocikit.spec.titles import OWN_FOLDER, check_titles, layers_by_path
from ocikit.store.base import blob_not_found
from ocikit.store.files import fsync_folder, verified_part
from ocikit.store.reflink import reflink
from ocikit.store.streams import ByteStream

_STALE = 86400.0  # seconds; a part that nobody took up for a day is deleted by the next pull that succeeds


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(path).expanduser().absolute()


@define(eq=False, repr=False)
class Folder(display.Displayable):
    """A folder to pull to.

    Args:
        path: the folder; made by `begin`.
        sync: whether files must survive a power cut before their names appear.
    """

    path: Path = field(converter=_absolute)
    sync: bool = field(default=True, kw_only=True)
    _real: Path | None = field(default=None, init=False)
    """The folder without links on the way to it."""
    _plan: FolderPlan | None = field(default=None, init=False)
    _placed: dict[str, FileRecord] = field(factory=dict, init=False)
    _touched: set[Path] = field(factory=set, init=False)

    @property
    def record_path(self) -> Path:
        """Where the record is, or would be."""
        return self.path / OWN_FOLDER / "manifest.json"

    @property
    def record(self) -> FolderRecord:
        """What the last pull left behind, read now."""
        return FolderRecord.load(self.record_path)

    @property
    def document(self) -> Manifest | Index | None:
        """The manifest that was pulled last, if one is known."""
        raw = self.record.document
        return None if raw is None else parse_document(raw)

    def unedited(self, title: str, descriptor: Descriptor) -> Path | None:
        """The file of that title, if it is the content that was pulled and nobody touched it since."""
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
    ) -> FolderPlan:
        """What a pull of these files would do; nothing is changed.

        Args:
            files: a manifest, or the files by title.
            reference: where they are from; files from elsewhere are never removed.
            force: overwrite files that a user edited.
            partial: the files are a selection: what isn't among them stays.
        Raises:
            UnsafeArchive: if a title leads out of the folder, perhaps by a link in it, or two claim one path.
            ContentError: if there is a file where the folder should be.
        """
        if os.path.lexists(self.path) and not self.path.is_dir():
            raise ContentError(f"{self.path} is not a folder", hint="pass a folder to pull to")
        self._real = self.path.resolve()
        fold_case = self._ignores_case()
        if isinstance(files, Manifest):
            wanted = layers_by_path(files.layers, fold_case=fold_case)
        else:
            paths = check_titles(files, fold_case=fold_case)
            wanted = {path.as_posix(): descriptor for path, descriptor in zip(paths, files.values(), strict=True)}
        record = self.record
        source = reference.name if reference is not None else ""
        gone = [t for t, e in record.files.items() if t not in wanted and e.source == source and not partial]
        return decide(self.path, wanted, gone, record, self._locate, source=source, force=force)

    def begin(self, plan: FolderPlan) -> None:
        """Make the folder ready and note what is about to be written. Raises: ContentError: as `FolderPlan.check`."""
        plan.check()
        own = self.path / OWN_FOLDER
        try:
            own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ContentError(f"cannot make {own}: {error.strerror}", hint="check the folder's permissions") from error
        if own.is_symlink():
            raise UnsafeArchive(f"{own} is a link", hint="delete it: that folder is this library's own")
        self._parts.mkdir(exist_ok=True)
        self._real = self.path.resolve()
        self._plan, self._placed, self._touched = plan, {}, set()
        changing = [f for f in plan.files if f.decision != "present"]
        if changing:
            record = self.record
            expected = dict(record.expected)
            for file in changing:
                expected[file.title] = tuple(dict.fromkeys((*expected.get(file.title, ()), file.descriptor.digest)))
            attrs.evolve(record, expected=expected).save(self.record_path, sync=self.sync)

    def place(self, transfer: Transfer, source: ByteStream | Path) -> None:
        """Write content to all its places, verified. Safe to call from several threads.

        Args:
            transfer: one of the plan's.
            source: a stream, seekable if it is to resume; or the path of a cached blob, which is reflinked or copied.
        Raises:
            SizeMismatch, DigestMismatch: nothing is kept.
            NotFound: if there is no such cached blob.
            ContentError: if the disk is full, or a file was edited since the plan was made; what was received is kept
                for the next try.
            UnsafeArchive: if a link leads out of the folder.
        """
        first, *others = transfer.files
        if isinstance(source, Path):
            for file in transfer.files:
                self._copy(source, file)
            return
        with self._received(source, first) as part:
            for file in others:
                self._copy(part, file)
            self._settle(part, first)

    def finish(self, document: Manifest | Index | None = None, reference: AnyReference | None = None) -> None:
        """Copy what is here under another name, remove what is gone upstream, and write down what there is now.

        Args:
            document: what was pulled; its bytes are kept.
            reference: where from, pinned.
        """
        plan = self._plan
        if plan is None:
            raise ContentError("finish() was called without begin()")
        for file in plan.copies:
            self._copy(self._locate(cast("str", file.origin))[0], file)
        for title in plan.removed:
            self._remove(title, plan)
        if self.sync:
            for folder in self._touched:
                fsync_folder(folder)
        before = self.record
        titles = {f.title for f in plan.files}
        known = {t: e for t, e in before.files.items() if t not in plan.removed and t not in plan.left}
        for file in plan.files:
            if file.decision == "present" and (seen := plan.seen[file.title]) is not None:
                digest = file.descriptor.digest
                known[file.title] = FileRecord(digest=digest, size=seen[0], mtime_ns=seen[1], source=plan.source)
        record = FolderRecord(
            reference=str(reference) if reference is not None else before.reference,
            document=document.raw if document is not None else before.document,
            files=known | self._placed,
            expected={t: d for t, d in before.expected.items() if t not in titles},
        )
        if record != before:
            record.save(self.record_path, sync=self.sync)
        self._sweep()
        self._plan = None

    def __rich_repr__(self) -> display.Description:
        yield "path", display.display_path(self.path)

    @property
    def _parts(self) -> Path:
        return self.path / OWN_FOLDER / "partial"

    def _ignores_case(self) -> bool:
        """Whether "A" and "a" are one file here, as far as the nearest folder that exists can tell."""
        for path in (self.path / OWN_FOLDER, self.path, *self.path.parents):
            other = path.with_name(path.name.swapcase()) if path.name else path
            if other != path and path.exists():
                return other.exists() and other.samefile(path)
        return False

    def _locate(self, title: str, *, plan: FolderPlan | None = None) -> tuple[Path, str]:
        """The path of a title, free of links, and what isn't a folder on the way to it, or "".

        With a plan, folders are made, and files that yield are deleted.

        Raises: UnsafeArchive: if a link leads out of the folder, or into `.ocikit`.
        """
        root = at = self._real or self.path.resolve()
        *folders, name = PurePosixPath(title).parts
        for i, part in enumerate(folders):
            at /= part
            way = "/".join(folders[: i + 1])
            try:
                mode = os.lstat(at).st_mode
            except (FileNotFoundError, NotADirectoryError):
                mode = 0
            if stat.S_ISLNK(mode):
                real = _inside(root, at.resolve(), title)
                if real.is_dir():
                    at, mode = real, stat.S_IFDIR
            if mode and not stat.S_ISDIR(mode):
                if plan is None or way not in plan.yielding:
                    return at.joinpath(*folders[i + 1 :], name), way
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(at)
                mode = 0
            if not mode and plan is not None:
                with contextlib.suppress(FileExistsError):  # another thread's
                    os.mkdir(at)
                self._touched.add(at.parent)
        return at / name, ""

    def _received(self, stream: ByteStream, file: PlannedFile) -> AbstractContextManager[Path]:
        return verified_part(stream, file.descriptor, parts=self._parts, sync=self.sync, near=self.path / file.title)

    def _copy(self, source: Path, file: PlannedFile) -> None:
        """Place a file that is on disk; never by a link, since users edit what is in folders."""
        clone = self._parts / f"clone.{secrets.token_hex(8)}"
        try:
            if reflink(source, clone) and clone.stat().st_size == file.descriptor.size:
                if self.sync:
                    _fsync(clone)
                self._settle(clone, file)
                return
            with open(source, "rb", buffering=0) as stream, self._received(stream, file) as part:
                self._settle(part, file)
        except FileNotFoundError as error:
            if str(error.filename) == str(source):
                raise blob_not_found(file.descriptor, str(source.parent)) from error
            raise
        finally:
            clone.unlink(missing_ok=True)

    def _settle(self, part: Path, file: PlannedFile) -> None:
        """Give a verified part its name, if nobody has edited what is there."""
        plan = cast("FolderPlan", self._plan)
        final, blocker = self._locate(file.title, plan=plan)
        if blocker:
            raise _edited(self.path / blocker)
        now = status_of(final)
        if now is not None and stat.S_ISDIR(os.lstat(final).st_mode):
            self._clear(file.title, final, plan)
        elif now is not None and now != plan.seen.get(file.title) and not _same(final, file.descriptor):
            raise _edited(final)
        status = os.stat(part)
        try:
            os.replace(part, final)
        except OSError as error:
            if error.errno != errno.EXDEV:  # something is mounted in the folder
                raise
            _move(part, final)
            status = os.stat(final)
        self._touched.add(final.parent)
        self._placed[file.title] = FileRecord(
            digest=file.descriptor.digest, size=status.st_size, mtime_ns=status.st_mtime_ns, source=plan.source
        )

    def _clear(self, title: str, path: Path, plan: FolderPlan) -> None:
        """Remove a folder that only had files which yield."""
        for other in plan.yielding:
            if other.startswith(f"{title}/"):
                self._remove(other, plan)
        for folder, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(folder)
            except OSError as error:
                raise _edited(Path(folder)) from error

    def _remove(self, title: str, plan: FolderPlan) -> None:
        """Delete a file of an earlier pull unless it was edited meanwhile, and folders that become empty."""
        with contextlib.suppress(UnsafeArchive, FileNotFoundError):
            path, blocker = self._locate(title)
            if blocker or status_of(path) != plan.seen.get(title):
                return
            os.unlink(path)
            self._touched.add(path.parent)
            with contextlib.suppress(OSError):
                for folder in path.parents:
                    if folder == self._real:
                        break
                    os.rmdir(folder)

    def _sweep(self) -> None:
        """Delete parts that nobody came back for."""
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self._parts)):
                if time.time() - entry.stat().st_mtime > _STALE:
                    os.unlink(entry.path)


def _inside(root: Path, real: Path, title: str) -> Path:
    inside = real.relative_to(root).parts if real.is_relative_to(root) else ("..",)
    if inside and inside[0].casefold() in {"..", OWN_FOLDER}:
        raise UnsafeArchive(
            f"{title!r} would be written through a link to {real}",
            hint="replace the link with a folder, or pull to another folder",
        )
    return real


def _same(path: Path, descriptor: Descriptor) -> bool:
    """Whether a file, not a link, has that content: perhaps another process pulls the same."""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.lstat(path).st_mode) and path.stat().st_size == descriptor.size:
            return digest_of(path, descriptor.digest.algorithm) == descriptor.digest
    return False


def _move(part: Path, final: Path) -> None:
    """Replace a file on another file system, by a copy beside it."""
    beside = final.with_name(f".{secrets.token_hex(8)}.part")
    try:
        shutil.copyfile(part, beside)
        _fsync(beside)
        os.replace(beside, final)
    finally:
        beside.unlink(missing_ok=True)
    part.unlink()


def _fsync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _edited(path: Path) -> ContentError:
    return ContentError(
        f"{path} was edited while the pull was under way",
        hint="call again to see what is different; force=True overwrites it",
    )
