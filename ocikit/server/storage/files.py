"""Blobs and uploads as files; everything of a registry in one folder.

::

    blobs/<algorithm>/<encoded>                 content, mode 0444
    blobs/<algorithm>/.<encoded>.…              partial content
    uploads/<id>.<repository>.<owner>           received bytes; the file size is the offset, the id ends with the holder
    registry.db                                 metadata, mode 0600, see sql.py
    reserve                                     disk space for deletions on a full disk, see reserve.py
    token.key                                   signing key of tokens, see auth/jwt.py

A final name never holds partial content. Symbolic links in the folder are never followed. New folders have mode 0700: other
users of the machine cannot read content that access control denies them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from attrs import define, field

from ocikit.errors import InvalidArgument, InvalidDigest
from ocikit.server.storage.base import (
    BlobStore,
    LengthMismatch,
    OffsetMismatch,
    UnknownUpload,
    Upload,
    UploadBody,
    UploadDigestMismatch,
    UploadState,
    UploadStore,
)
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.hashes import HashCache, RunningHash
from ocikit.spec.digest import VERIFIABLE, Digest
from ocikit.store.files import BUFFER, atomic_writer, blob_path, create_private_folder, fsync_folder

#: Sessions above which listing is slow, and the share of time that is spent on listing at most.
_MANY_SESSIONS, _LISTING_SHARE = 1000, 0.05

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)

_UPLOAD_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")


def file_storage(folder: str | os.PathLike[str], *, grace: float = 3600.0, durable: bool = True) -> Storage:
    """Open or create a registry's storage in a folder.

    Args:
        folder: Folder on a local disk: SQLite's locks do not work on most network file systems.
        grace: Seconds that unreferenced content is kept.
        durable: Whether acknowledged changes survive a power cut, not only a crash of the process.

    Returns:
        The storage, for an `Application`. Close it when the application has ended.

    Raises:
        InvalidArgument: A subfolder is a symbolic link.

    >>> from ocikit.server import Application, file_storage
    >>> storage = file_storage("registry")
    >>> application = Application(storage)
    >>> storage.close()
    """
    from ocikit.server.storage.sql import SqlMetadata  # noqa: PLC0415 - SQLAlchemy is heavy

    root = Path(folder)
    create_private_folder(root)
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
    """Content-addressed files in a folder.

    Args:
        root: The folder that contains `blobs/`.
        durable: Whether acknowledged content survives a power cut, not only a crash of the process.
    """

    root: Path
    durable: bool = True
    _created: set[Path] = field(factory=set, init=False)
    """Folders that are known to exist."""

    def stat(self, digest: Digest) -> int | None:
        """Return the size in bytes, or None."""
        try:
            status = os.stat(self._name(digest), follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def open(self, digest: Digest) -> BinaryIO:
        """Open the file.

        Raises:
            KeyError: The content is not stored.
        """
        try:
            fd = os.open(self._name(digest), os.O_RDONLY | _NOFOLLOW)
        except FileNotFoundError as error:
            raise KeyError(digest) from error
        return open(fd, "rb", buffering=0)

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Write a temporary file, sync and rename it."""
        path = self._path(digest)
        with atomic_writer(path, mode=0o444, sync=self.durable) as file:
            while chunk := stream.read(BUFFER):
                file.write(chunk)

    def put_file(self, digest: Digest, path: Path) -> None:
        """Rename a file on the same file system; copy it otherwise."""
        target = self._path(digest)
        try:
            os.replace(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            super().put_file(digest, path)
            return
        with contextlib.suppress(FileNotFoundError):  # the collector deleted it already
            os.chmod(target, 0o444)
        self._sync_folder(target)

    def delete(self, digest: Digest) -> None:
        """Unlink the file; open files stay readable."""
        blob_path(self.root, digest).unlink(missing_ok=True)

    def iterate(self) -> Iterator[Digest]:
        """Yield the digest of each file whose name is one."""
        for algorithm in sorted(VERIFIABLE):
            for entry in self._entries(algorithm):
                with contextlib.suppress(InvalidDigest):
                    yield Digest(f"{algorithm}:{entry.name}")

    def remove_partial(self, before: float) -> int:
        """Delete temporary files that were last written before a time."""
        deleted = 0
        for algorithm in sorted(VERIFIABLE):
            for entry in self._entries(algorithm):
                with contextlib.suppress(FileNotFoundError):
                    if entry.name.startswith(".") and entry.stat(follow_symlinks=False).st_mtime < before:
                        os.unlink(entry.path)
                        deleted += 1
        return deleted

    def _entries(self, algorithm: str) -> Iterator[os.DirEntry[str]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "blobs" / algorithm) as listing:
            yield from listing

    def _name(self, digest: Digest) -> str:
        """Return the path of content as text: each request needs it, and a `Path` takes longer than opening the file."""
        algorithm, _, encoded = digest.partition(":")
        return f"{self.root}/blobs/{algorithm}/{encoded}"

    def _path(self, digest: Digest) -> Path:
        """Return the path of content; create its folder durably.

        Raises:
            InvalidArgument: A folder is a symbolic link.
        """
        path = blob_path(self.root, digest)
        if path.parent not in self._created:
            for folder in (path.parent.parent, path.parent):
                _create_folder(folder)
                if self.durable:
                    fsync_folder(folder.parent)
            self._created.add(path.parent)
        return path

    def _sync_folder(self, path: Path) -> None:
        if self.durable:
            fsync_folder(path.parent)


@define(eq=False)
class FileUploads(UploadStore):
    """Upload sessions as files.

    A file name contains hashes of repository and owner, so requests of others cannot find the session.

    Args:
        root: Folder of the files; on the file system of the blobs, so that finishing is a rename.
        durable: See `FileBlobs`.
    """

    root: Path
    durable: bool = True
    _hashes: HashCache = field(factory=HashCache, init=False, repr=False)
    """Hashes of bytes that this process received; the rest is hashed at the end."""
    _listing: tuple[float, list[str]] = field(default=(0.0, []), init=False, repr=False)
    """The time until which a cached listing of many sessions is used, and its file names."""

    def __attrs_post_init__(self) -> None:
        """Create the folder.

        Raises:
            InvalidArgument: The folder is a symbolic link.
        """
        _create_folder(self.root)

    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256", holder: str = "") -> Upload:
        """Create an empty file with a random name."""
        upload = Upload(secrets.token_urlsafe(24) + _holder_hash(holder), repository, owner)
        path = self._path(upload)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        valid_until, names = self._listing
        if valid_until:
            names.append(path.name)
        self._hashes.keep(upload.id, RunningHash(algorithm))
        return upload

    def size(self, upload: Upload) -> int:
        """Return the file size.

        Raises:
            UnknownUpload: The session does not exist.
        """
        try:
            return os.stat(self._path(upload), follow_symlinks=False).st_size
        except OSError as error:
            raise UnknownUpload(upload.id) from error

    def append(self, upload: Upload, body: UploadBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Append a body to the file, and hash it.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: The offset is not the current size, or another request writes.
            LengthMismatch: The body does not have `length` bytes.
        """
        with self._open_locked(upload) as (file, before, running_hash):
            size = _append(file, before, running_hash, body, offset, length)
            if os.fstat(file.fileno()).st_nlink == 0:
                # Another request aborted the session meanwhile
                raise UnknownUpload(upload.id)
            return size

    def finish(
        self,
        upload: Upload,
        digest: Digest,
        body: UploadBody,
        blobs: BlobStore,
        *,
        offset: int | None = None,
        length: int | None = None,
    ) -> int:
        """Append the last body, verify the digest, and move the file to the blobs.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: See `append`.
            LengthMismatch: See `append`.
            UploadDigestMismatch: The bytes have another digest.
        """
        path = self._path(upload)
        with self._open_locked(upload) as (file, before, cached_hash):
            same_algorithm = cached_hash.algorithm == digest.algorithm
            running_hash = cached_hash if same_algorithm else RunningHash(digest.algorithm)
            size = _append(file, before, running_hash, body, offset, length)
            running_hash.hash_rest(file)
            if (actual := running_hash.hexdigest()) != digest.encoded:
                path.unlink(missing_ok=True)
                raise UploadDigestMismatch(
                    f"the uploaded bytes have the digest {digest.algorithm}:{actual}; the upload was deleted"
                )
            if self.durable:
                os.fsync(file.fileno())
            try:
                blobs.put_file(digest, path)
            except FileNotFoundError as error:
                if path.exists():
                    raise
                raise UnknownUpload(upload.id) from error
        self._hashes.take(upload.id)
        return size

    def abort(self, upload: Upload) -> None:
        """Delete the file.

        Raises:
            UnknownUpload: The session does not exist.
        """
        try:
            self._path(upload).unlink()
        except OSError as error:
            raise UnknownUpload(upload.id) from error
        self._hashes.take(upload.id)

    def count(self, holder: str | None = None) -> int:
        """Return the number of files of one holder, or in all."""
        now = time.monotonic()
        valid_until, names = self._listing
        if now >= valid_until:
            names = os.listdir(self.root)
            valid_until = now + (time.monotonic() - now) / _LISTING_SHARE
            self._listing = (valid_until, names) if len(names) > _MANY_SESSIONS else (0.0, [])
        return len(names) if holder is None else sum(_is_held(name, _holder_hash(holder)) for name in names)

    def used_bytes(self, repository: str) -> int:
        """Return the total size of a repository's files."""
        part, used = f".{_name_hash(repository)}.", 0
        with os.scandir(self.root) as listing:
            for entry in listing:
                if part in entry.name:
                    with contextlib.suppress(FileNotFoundError):
                        used += entry.stat(follow_symlinks=False).st_size
        return used

    def states(self, holder: str | None = None) -> Iterator[UploadState]:
        """Yield time and size of the files of one holder, or of all."""
        for entry in self._entries(holder):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                yield UploadState(status.st_mtime, status.st_size)

    def expire(self, before: float, *, empty_before: float | None = None, holder: str | None = None) -> int:
        """Delete old files, except those that a request is writing."""
        limits = (before, before if empty_before is None else empty_before)

        def is_old(status: os.stat_result) -> bool:
            return status.st_mtime < limits[status.st_size == 0]

        expired = 0
        for entry in self._entries(holder):
            with contextlib.suppress(OSError):
                if not is_old(entry.stat(follow_symlinks=False)):
                    continue
                with open(os.open(entry.path, os.O_RDWR | _NOFOLLOW), "r+b", buffering=0) as file:
                    if _try_lock(file.fileno()) and is_old(os.fstat(file.fileno())):
                        os.unlink(entry.path)
                        expired += 1
        if expired:
            self._listing = (0.0, [])
        return expired

    def _entries(self, holder: str | None) -> Iterator[os.DirEntry[str]]:
        suffix = None if holder is None else _holder_hash(holder)
        with os.scandir(self.root) as listing:
            for entry in listing:
                if suffix is None or _is_held(entry.name, suffix):
                    yield entry

    def _path(self, upload: Upload) -> Path:
        if _UPLOAD_ID.fullmatch(upload.id) is None:
            raise UnknownUpload(upload.id)
        return self.root / f"{upload.id}.{_name_hash(upload.repository)}.{_name_hash(upload.owner)}"

    @contextlib.contextmanager
    def _open_locked(self, upload: Upload) -> Iterator[tuple[BinaryIO, int, RunningHash]]:
        """Open a session's file at its end, locked for one request.

        Yields:
            The file, its size in bytes, and its running hash.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: Another request writes.
        """
        path = self._path(upload)
        try:
            fd = os.open(path, os.O_RDWR | _NOFOLLOW)
        except OSError as error:
            raise UnknownUpload(upload.id) from error
        with open(fd, "r+b", buffering=0) as file:
            if not _try_lock(fd):
                raise OffsetMismatch(os.fstat(fd).st_size)
            if not path.exists():
                # Another request finished or aborted the session before the lock was taken
                raise UnknownUpload(upload.id)
            size = file.seek(0, os.SEEK_END)
            running_hash = self._hashes.take(upload.id) or RunningHash("sha256")
            try:
                yield file, size, running_hash
            finally:
                status = os.fstat(fd)
                # A hash of bytes that were truncated again is useless
                if status.st_nlink and running_hash.count <= status.st_size:
                    self._hashes.keep(upload.id, running_hash)


def _append(
    file: BinaryIO, size: int, running_hash: RunningHash, body: UploadBody, offset: int | None, length: int | None
) -> int:
    """Append a body to a file and return the new size.

    Raises:
        OffsetMismatch: The offset is not the current size.
        LengthMismatch: The body does not have `length` bytes.
    """
    if offset is not None and offset != size:
        raise OffsetMismatch(size)
    hasher = running_hash if running_hash.count == size else None
    expected = length if length is not None else body.length
    try:
        received = _receive(body, file, hasher, expected)
        if length is not None and received != length:
            raise LengthMismatch(length, received)
    except BaseException:
        if length is not None:
            file.truncate(size)
        raise
    return size + received


def _receive(body: UploadBody, file: BinaryIO, hasher: RunningHash | None, expected: int | None) -> int:
    """Write a body to a file, hash it, and return its number of bytes.

    One thread writes and hashes. The HTTP server receives the next bytes meanwhile, on a thread of its own, so a third one
    would cost a tenth more CPU time and save no time. Chunks are not copied again.

    Args:
        body: The content.
        file: An unbuffered file.
        hasher: Updated with the bytes that were written, if given.
        expected: Bytes; receiving stops shortly after that many, so that the caller notices a longer body. None for no limit.
    """
    received = 0
    while (expected is None or received <= expected) and (chunk := body.read_chunk(BUFFER)):
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]
        if hasher is not None:
            hasher.update(chunk)
        received += len(chunk)
    return received


def _create_folder(folder: Path) -> None:
    """Create a private folder if it does not exist.

    Raises:
        InvalidArgument: The folder is a symbolic link.
    """
    if folder.is_symlink():
        raise InvalidArgument(f"{folder} is a symbolic link", hint="replace it with a folder: links are not followed")
    create_private_folder(folder)


@lru_cache(maxsize=1024)
def _name_hash(text: str) -> str:
    """Return a hash of a name that is safe in a file name."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _holder_hash(holder: str) -> str:
    """Return the end of the ids of a holder's sessions."""
    return _name_hash(holder)[:16]


def _is_held(name: str, suffix: str) -> bool:
    """Return True if a file is a session of a holder."""
    return name.partition(".")[0].endswith(suffix)


def _try_lock(fd: int) -> bool:
    """Lock a file until it is closed; return False if it is locked already."""
    try:
        import fcntl  # noqa: PLC0415 - not available on Windows
    except ImportError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
