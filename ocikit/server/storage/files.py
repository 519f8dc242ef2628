"""Blobs and uploads as files, and everything of a registry in one folder.

::

    blobs/<algorithm>/<encoded>                 content, mode 0444, each once
    blobs/<algorithm>/.<encoded>.…              on its way there
    uploads/<id>.<whose>                        what was received so far; its size is the offset
    registry.db                                 rows: see metadata.py
    token.key                                   what signs tokens, where there are any: see signing.py

Half a file is never at its final name. Nothing in the folder is read or written through a symbolic link.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from attrs import define, field

from ocikit.errors import InvalidArgument, InvalidDigest
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import (
    BlobStore,
    OffsetMismatch,
    Storage,
    UnknownUpload,
    Upload,
    UploadDigestMismatch,
    UploadStore,
)
from ocikit.spec.digest import VERIFIABLE, Digest, Hasher, new_hasher
from ocikit.store.files import BUFFER, atomic_writer, blob_path, copy_and_hash, fsync_folder

#: Running hashes that are kept: each a few hundred bytes.
_HASHES = 10_000

#: More than any file has: a body of unknown length.
_ENDLESS = 2**62

#: Bytes. What is taken of a body of unknown length before it is worth a second thread.
_START = 1 << 20

#: Sessions. To list more takes a while, so that they are listed for no more than this share of the time.
_MANY, _SHARE = 1000, 0.05

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")


def file_storage(folder: str | os.PathLike[str], *, grace: float = 3600.0, durable: bool = True) -> Storage:
    """Everything of a registry in one folder; it is made if it isn't there.

    Args:
        folder: on a local disk: SQLite's locks don't work on most network file systems.
        grace: seconds that content nobody names is kept.
        durable: whether what is acknowledged survives a power cut, rather than a crash of the process.
    """
    from ocikit.server.storage.sql import SqlMetadata  # noqa: PLC0415 - SQLAlchemy, on use

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    storage = Storage(
        FileBlobs(root, durable=durable),
        FileUploads(root / "uploads", durable=durable),
        SqlMetadata.file(root / "registry.db", grace=grace, durable=durable),
    )
    if durable:
        fsync_folder(root)
    return storage


@define(eq=False)
class FileBlobs(BlobStore):
    """Content-addressed files below a folder.

    Args:
        root: the folder that has `blobs/`.
        durable: whether content survives a power cut before it is acknowledged, rather than a crash of the process.
    """

    root: Path
    durable: bool = True
    _folders: set[Path] = field(factory=set, init=False)

    def stat(self, digest: Digest) -> int | None:
        """The size, or None."""
        try:
            found = os.stat(blob_path(self.root, digest), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def open(self, digest: Digest) -> BinaryIO:
        """The file. Raises: KeyError."""
        try:
            fd = os.open(blob_path(self.root, digest), os.O_RDONLY | _NOFOLLOW)
        except FileNotFoundError as error:
            raise KeyError(digest) from error
        return open(fd, "rb", buffering=0)

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Write beside, sync, rename."""
        path = self._place(digest)
        with atomic_writer(path, mode=0o444, sync=self.durable) as file:
            while piece := stream.read(BUFFER):
                file.write(piece)
        self._settle(path)

    def take(self, digest: Digest, path: Path) -> None:
        """Rename a file that is on the same file system; otherwise as `put`."""
        final = self._place(digest)
        try:
            os.replace(path, final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            super().take(digest, path)
            return
        with contextlib.suppress(FileNotFoundError):  # the collector was faster
            os.chmod(final, 0o444)
        self._settle(final)

    def delete(self, digest: Digest) -> None:
        """Unlink; who reads it reads on."""
        blob_path(self.root, digest).unlink(missing_ok=True)

    def iterate(self) -> Iterator[Digest]:
        """Every file with a digest's name."""
        for algorithm in sorted(VERIFIABLE):
            for entry in self._entries(algorithm):
                with contextlib.suppress(InvalidDigest):
                    yield Digest(f"{algorithm}:{entry.name}")

    def tidy(self, before: float) -> int:
        """Unlink files beside the blobs that nobody has written to since."""
        gone = 0
        for algorithm in sorted(VERIFIABLE):
            for entry in self._entries(algorithm):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.startswith(".") and entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)
                        gone += 1
        return gone

    def _entries(self, algorithm: str) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "blobs" / algorithm) as listing:
            yield from listing

    def _place(self, digest: Digest) -> Path:
        """Where content goes, in a folder that is there and lasts. Raises: InvalidArgument: if that leads elsewhere."""
        path = blob_path(self.root, digest)
        if path.parent not in self._folders:
            for folder in (path.parent.parent, path.parent):
                _make(folder)
                if self.durable:
                    fsync_folder(folder.parent)
            self._folders.add(path.parent)
        return path

    def _settle(self, path: Path) -> None:
        if self.durable:
            fsync_folder(path.parent)


@define
class _Hash:
    """The hash of the first bytes of an upload, and how many these are."""

    algorithm: str
    count: int = 0
    _hasher: Hasher = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._hasher = new_hasher(self.algorithm)

    def update(self, data: bytes | memoryview, /) -> None:
        self._hasher.update(data)
        self.count += len(data)

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()

    def catch_up(self, file: BinaryIO) -> None:
        """Hash the rest of a file."""
        file.seek(self.count)
        while piece := file.read(BUFFER):
            self.update(piece)


@define(eq=False)
class FileUploads(UploadStore):
    """One file for each session. Its name says whose it is, so that nobody else's request finds it.

    Args:
        root: the folder for the files; on the same file system as the blobs, so that finishing is renaming.
        durable: as for `FileBlobs`.
    """

    root: Path
    durable: bool = True
    _hashes: OrderedDict[str, _Hash] = field(factory=OrderedDict, init=False, repr=False)
    """By id, of what this process has received in order; the rest is hashed at the end."""
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)
    _listed: tuple[float, list[str]] = field(default=(0.0, []), init=False, repr=False)
    """The names of the files, if there are many, and until when they will do."""

    def __attrs_post_init__(self) -> None:
        """Make the folder. Raises: InvalidArgument: if something else is in its place."""
        _make(self.root)

    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256") -> Upload:
        """Make an empty file of a random name."""
        upload = Upload(secrets.token_urlsafe(24), repository, owner)
        path, nothing = self._path(upload), _Hash(algorithm)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        until, names = self._listed
        if until:
            names.append(path.name)
        self._remember(upload, nothing)
        return upload

    def size(self, upload: Upload) -> int:
        """The file's size. Raises: UnknownUpload."""
        try:
            return os.stat(self._path(upload), follow_symlinks=False).st_size
        except OSError as error:
            raise UnknownUpload(upload.id) from error

    def append(self, upload: Upload, body: RequestBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Write at the end, and hash."""
        with self._writing(upload) as (file, before, known):
            size = _receive(file, before, known, body, offset, length)
            if os.fstat(file.fileno()).st_nlink == 0:
                # Another request has cancelled it meanwhile
                raise UnknownUpload(upload.id)
            return size

    def finish(
        self, upload: Upload, digest: Digest, body: RequestBody, blobs: BlobStore, *, offset: int | None = None,
        length: int | None = None,
    ) -> int:  # fmt: skip
        """Write the rest, compare digests, sync, hand the file over."""
        path = self._path(upload)
        with self._writing(upload) as (file, before, known):
            hashed = known if known.algorithm == digest.algorithm else _Hash(digest.algorithm)
            size = _receive(file, before, hashed, body, offset, length)
            hashed.catch_up(file)
            if (actual := hashed.hexdigest()) != digest.encoded:
                path.unlink(missing_ok=True)
                raise UploadDigestMismatch(f"what was uploaded is {digest.algorithm}:{actual}; nothing of it was kept")
            if self.durable:
                os.fsync(file.fileno())
            try:
                blobs.take(digest, path)
            except FileNotFoundError as error:
                if path.exists():
                    raise
                raise UnknownUpload(upload.id) from error
        self._forget(upload)
        return size

    def abort(self, upload: Upload) -> None:
        """Unlink the file. Raises: UnknownUpload."""
        try:
            self._path(upload).unlink()
        except OSError as error:
            raise UnknownUpload(upload.id) from error
        self._forget(upload)

    def count(self, owner: str | None = None) -> int:
        """Files of one owner, or all."""
        now = time.monotonic()
        until, names = self._listed
        if now >= until:
            names = os.listdir(self.root)
            until = now + (time.monotonic() - now) / _SHARE
            self._listed = (until, names) if len(names) > _MANY else (0.0, [])
        return len(names) if owner is None else sum(name.endswith(f".{_mark(owner)}") for name in names)

    def expire(self, before: float) -> int:
        """Unlink old files, but none that a request is writing to."""
        gone = 0
        with os.scandir(self.root) as listing:
            for entry in listing:
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime >= before:
                        continue
                    with open(os.open(entry.path, os.O_RDWR | _NOFOLLOW), "r+b", buffering=0) as file:
                        if _locked(file.fileno()) and os.fstat(file.fileno()).st_mtime < before:
                            os.unlink(entry.path)
                            gone += 1
        return gone

    def _path(self, upload: Upload) -> Path:
        if _ID.fullmatch(upload.id) is None:
            raise UnknownUpload(upload.id)
        return self.root / f"{upload.id}.{_mark(upload.repository)}.{_mark(upload.owner)}"

    @contextlib.contextmanager
    def _writing(self, upload: Upload) -> Iterator[tuple[BinaryIO, int, _Hash]]:
        """The file at its end, its size, and what is known of its hash, for one request at a time.

        Raises:
            UnknownUpload, OutOfOrder.
        """
        path = self._path(upload)
        try:
            fd = os.open(path, os.O_RDWR | _NOFOLLOW)
        except OSError as error:
            raise UnknownUpload(upload.id) from error
        with open(fd, "r+b", buffering=0) as file:
            if not _locked(fd):
                raise OffsetMismatch(os.fstat(fd).st_size)
            if not path.exists():
                # Another request has just finished or cancelled it
                raise UnknownUpload(upload.id)
            size = file.seek(0, os.SEEK_END)
            with self._lock:
                known = self._hashes.pop(upload.id, None) or _Hash("sha256")
            try:
                yield file, size, known
            finally:
                status = os.fstat(fd)
                # What was hashed may have been taken back
                if status.st_nlink and known.count <= status.st_size:
                    self._remember(upload, known)

    def _remember(self, upload: Upload, known: _Hash) -> None:
        with self._lock:
            self._hashes[upload.id] = known
            if len(self._hashes) > _HASHES:
                self._hashes.popitem(last=False)

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            self._hashes.pop(upload.id, None)


def _receive(file: BinaryIO, size: int, known: _Hash, body: RequestBody, offset: int | None, length: int | None) -> int:
    """Move a body to the end of the file; gives the size then. Raises: OutOfOrder, Refusal."""
    if offset is not None and offset != size:
        raise OffsetMismatch(size)
    hasher = known if known.count == size else None
    announced = length if length is not None else body.length
    try:
        moved = copy_and_hash(body, file, hasher, _START if announced is None else announced)
        if announced is None and moved > _START:
            moved += copy_and_hash(body, file, hasher, _ENDLESS)
        if length is not None and moved != length:
            raise ErrorResponse(400, "SIZE_INVALID", f"Content-Range has {length} bytes, the body {moved}")
    except BaseException:
        if length is not None:
            file.truncate(size)
        raise
    return size + moved


def _make(folder: Path) -> None:
    """Make a folder if it isn't there. Raises: InvalidArgument: if it is elsewhere."""
    if folder.is_symlink():
        raise InvalidArgument(f"{folder} is a symbolic link", hint="a registry writes to folders of its own only")
    folder.mkdir(parents=True, exist_ok=True)


def _mark(text: str) -> str:
    """A name in a file's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _locked(fd: int) -> bool:
    """Lock a file against other threads and processes, until it is closed; False if somebody has it."""
    try:
        import fcntl  # noqa: PLC0415 - not on Windows
    except ImportError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
