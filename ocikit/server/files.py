"""Blobs and uploads as files, and everything of a registry in one folder.

::

    blobs/<algorithm>/<encoded>                 content, mode 0444, each once
    uploads/<id>.<whose>                        what was received so far; its size is the offset
    registry.db                                 rows: see metadata.py
    token.key                                   what signs tokens, where there are any: see signing.py

Half a file is never at its final name. Nothing is opened for writing through a symbolic link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from attrs import define, field

from ocikit.content.blobs import BUFFER, blob_path, fsync_folder, pump, replacing
from ocikit.errors import InvalidArgument, InvalidDigest
from ocikit.server.message import Body
from ocikit.server.refusal import Refusal
from ocikit.server.storage import (
    BlobStore,
    OutOfOrder,
    Storage,
    UnknownUpload,
    Upload,
    UploadStore,
    WrongDigest,
)
from ocikit.spec.digest import VERIFIABLE, Digest, Hasher, new_hasher

__all__ = ["FileBlobs", "FileUploads", "file_storage"]

#: Running hashes that are kept: each a few hundred bytes.
_HASHES = 10_000

#: More than any file has: a body of unknown length.
_ENDLESS = 2**62

_ID = re.compile(r"[A-Za-z0-9_-]{22,64}")


def file_storage(folder: str | os.PathLike[str], *, grace: float = 3600.0, durable: bool = True) -> Storage:
    """Everything of a registry in one folder; it is made if it isn't there.

    Args:
        folder: on a local disk: SQLite's locks don't work on most network file systems.
        grace: seconds that content nobody names is kept.
        durable: whether what is acknowledged survives a power cut, rather than a crash of the process.
    """
    from ocikit.server.metadata import SqlMetadata  # noqa: PLC0415 - SQLAlchemy, on use

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    return Storage(
        FileBlobs(root, durable=durable),
        FileUploads(root / "uploads", durable=durable),
        SqlMetadata.file(root / "registry.db", grace=grace, durable=durable),
    )


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
            return os.stat(blob_path(self.root, digest)).st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> BinaryIO:
        """The file. Raises: KeyError."""
        try:
            return open(blob_path(self.root, digest), "rb", buffering=0)
        except FileNotFoundError as error:
            raise KeyError(digest) from error

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Write beside, sync, rename."""
        path = self._place(digest)
        with replacing(path, mode=0o444, sync=self.durable) as file:
            while piece := stream.read(BUFFER):
                file.write(piece)
        self._settle(path)

    def take(self, digest: Digest, path: Path) -> None:
        """Rename a file that is on the same file system; otherwise as `put`."""
        final = self._place(digest)
        os.chmod(path, 0o444)
        try:
            os.replace(path, final)
        except OSError:
            super().take(digest, path)
        else:
            self._settle(final)

    def delete(self, digest: Digest) -> None:
        """Unlink; who reads it reads on."""
        blob_path(self.root, digest).unlink(missing_ok=True)

    def iterate(self) -> Iterator[Digest]:
        """Every file with a digest's name."""
        for algorithm in sorted(VERIFIABLE):
            with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "blobs" / algorithm) as listing:
                for entry in listing:
                    with contextlib.suppress(InvalidDigest):
                        yield Digest(f"{algorithm}:{entry.name}")

    def tidy(self, before: float) -> int:
        """Unlink files beside the blobs that nobody has written to since."""
        gone = 0
        for algorithm in sorted(VERIFIABLE):
            with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "blobs" / algorithm) as listing:
                gone += _unlink_old((entry for entry in listing if entry.name.startswith(".")), before)
        return gone

    def _place(self, digest: Digest) -> Path:
        path = blob_path(self.root, digest)
        if path.parent not in self._folders:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._folders.add(path.parent)
        return path

    def _settle(self, path: Path) -> None:
        if self.durable:
            fsync_folder(path.parent)


@define(eq=False)
class FileUploads(UploadStore):
    """One file for each session. Its name says whose it is, so that nobody else's request finds it.

    Args:
        root: the folder for the files; on the same file system as the blobs, so that finishing is renaming.
        durable: as for `FileBlobs`.
    """

    root: Path
    durable: bool = True
    _hashes: OrderedDict[str, tuple[int, str, Hasher]] = field(factory=OrderedDict, init=False)
    """By id: the size that was hashed, the algorithm, the hasher. After a restart files are hashed again."""
    _lock: threading.Lock = field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        """Make the folder. Raises: InvalidArgument: if something else is in its place."""
        if self.root.is_symlink():
            raise InvalidArgument(
                f"{self.root} is a symbolic link", hint="a registry writes to folders of its own only"
            )
        self.root.mkdir(parents=True, exist_ok=True)

    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256") -> Upload:
        """Make an empty file of a random name."""
        upload = Upload(secrets.token_urlsafe(24), repository, owner)
        os.close(os.open(self._path(upload), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        self._remember(upload, 0, algorithm, new_hasher(algorithm))
        return upload

    def size(self, upload: Upload) -> int:
        """The file's size. Raises: UnknownUpload."""
        try:
            return os.stat(self._path(upload), follow_symlinks=False).st_size
        except OSError as error:
            raise UnknownUpload(upload.id) from error

    def append(self, upload: Upload, body: Body, *, offset: int | None = None, length: int | None = None) -> int:
        """Write at the end, and hash."""
        with self._writing(upload) as (file, size):
            algorithm, hasher = self._recall(upload, size)
            return self._receive(upload, file, size, algorithm, hasher, body, offset, length)

    def finish(
        self, upload: Upload, digest: Digest, body: Body, blobs: BlobStore, *, offset: int | None = None,
        length: int | None = None,
    ) -> int:  # fmt: skip
        """Write the rest, compare digests, sync, hand the file over."""
        with self._writing(upload) as (file, before):
            algorithm, hasher = self._recall(upload, before)
            if before == 0:
                algorithm, hasher = digest.algorithm, digest.hasher()
            size = self._receive(upload, file, before, algorithm, hasher, body, offset, length)
            self._forget(upload)
            path = self._path(upload)
            if hasher is None or algorithm != digest.algorithm:
                hasher = _rehash(file, digest)
            if (actual := hasher.hexdigest()) != digest.encoded:
                path.unlink(missing_ok=True)
                raise WrongDigest(f"what was uploaded is {digest.algorithm}:{actual}; nothing of it was kept")
            if self.durable:
                os.fsync(file.fileno())
            blobs.take(digest, path)
            return size

    def abort(self, upload: Upload) -> None:
        """Unlink the file. Raises: UnknownUpload."""
        self._forget(upload)
        try:
            self._path(upload).unlink()
        except OSError as error:
            raise UnknownUpload(upload.id) from error

    def count(self, owner: str | None = None) -> int:
        """Files of one owner, or all."""
        names = os.listdir(self.root)
        return len(names) if owner is None else sum(name.endswith(f".{_mark(owner)}") for name in names)

    def expire(self, before: float) -> int:
        """Unlink old files."""
        with os.scandir(self.root) as listing:
            return _unlink_old(listing, before)

    def _path(self, upload: Upload) -> Path:
        if _ID.fullmatch(upload.id) is None:
            raise UnknownUpload(upload.id)
        return self.root / f"{upload.id}.{_mark(upload.repository)}.{_mark(upload.owner)}"

    @contextlib.contextmanager
    def _writing(self, upload: Upload) -> Iterator[tuple[BinaryIO, int]]:
        """The file at its end and its size, for one request at a time. Raises: UnknownUpload, OutOfOrder."""
        try:
            fd = os.open(self._path(upload), os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
        except OSError as error:
            raise UnknownUpload(upload.id) from error
        with open(fd, "r+b", buffering=0) as file:
            size = os.fstat(fd).st_size
            if not _locked(fd):
                raise OutOfOrder(size)
            if os.fstat(fd).st_nlink == 0 or not self._path(upload).exists():
                # Another request has just finished it
                raise UnknownUpload(upload.id)
            yield file, file.seek(0, os.SEEK_END)

    def _receive(
        self, upload: Upload, file: BinaryIO, size: int, algorithm: str, hasher: Hasher | None, body: Body,
        offset: int | None, length: int | None,
    ) -> int:  # fmt: skip
        """Move a body to the end of the file; gives the size then. Raises: OutOfOrder, Refusal."""
        if offset is not None and offset != size:
            self._remember(upload, size, algorithm, hasher)
            raise OutOfOrder(size)
        known = length if length is not None else body.length
        try:
            moved = pump(cast("BinaryIO", body), file, hasher, _ENDLESS if known is None else known)
        except BaseException:
            if length is not None:
                file.truncate(size)
            raise
        if length is not None and moved != length:
            file.truncate(size)
            raise Refusal(400, "SIZE_INVALID", f"Content-Range has {length} bytes, the body {moved}")
        self._remember(upload, size + moved, algorithm, hasher)
        return size + moved

    def _remember(self, upload: Upload, size: int, algorithm: str, hasher: Hasher | None) -> None:
        if hasher is None:
            return
        with self._lock:
            self._hashes[upload.id] = (size, algorithm, hasher)
            if len(self._hashes) > _HASHES:
                self._hashes.popitem(last=False)

    def _recall(self, upload: Upload, size: int) -> tuple[str, Hasher | None]:
        """The hash of what is there so far, if it is known; whoever gets it is the only one to have it."""
        with self._lock:
            hashed, algorithm, hasher = self._hashes.pop(upload.id, (-1, "sha256", None))
        if hasher is not None and hashed == size:
            return algorithm, hasher
        return algorithm, new_hasher(algorithm) if size == 0 else None

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            self._hashes.pop(upload.id, None)


def _unlink_old(entries: Iterable[os.DirEntry[str]], before: float) -> int:
    gone = 0
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_mtime < before:
                os.unlink(entry.path)
                gone += 1
    return gone


def _mark(text: str) -> str:
    """A name in a file's name."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _rehash(file: BinaryIO, digest: Digest) -> Hasher:
    file.seek(0)
    hasher = digest.hasher()
    while piece := file.read(BUFFER):
        hasher.update(piece)
    return hasher


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
