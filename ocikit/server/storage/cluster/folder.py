"""Objects as files of a folder, which several machines may share over NFS.

An object is a file under its key. An object of several parts is a folder with the extension `.parts`: its file `index` has
the names and sizes of the parts. Every part is a file of its own with a random name, and a part that arrives again is another
file. A process that was stopped in the middle of a write therefore never changes an object when it continues.

All files appear by a rename, and are synced before.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import io
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from ocikit.errors import InvalidArgument
from ocikit.server.storage.base import DISK_FULL, Unavailable
from ocikit.server.storage.cluster.object_store import InvalidPart, ObjectStore, checked_key, require_size
from ocikit.spec.digest import Digest
from ocikit.store.files import BUFFER, fsync_folder

#: The file that shows that the folder is mounted.
_MARK = ".ocikit-objects"

#: Multipart uploads, and files that are not complete. No key starts with a dot.
_UPLOADS, _TEMPORARY = ".uploads", ".temporary"

#: The extension of an object of several parts, and its list of parts.
_PARTS, _INDEX = ".parts", "index"

#: The extended attribute with the digest of an object.
_DIGEST = "user.ocikit-digest"

#: A folder of file systems.
_RECOVERED = "lost+found"

#: Seconds after which nothing writes to a temporary file any more.
_STALE = 86_400

#: Seconds for a health check.
_CHECK = 2.0


class FolderObjects(ObjectStore):
    """Objects as files of a folder.

    Args:
        folder: The folder. It must exist: a folder that is not mounted must not count as an empty store.

    Raises:
        InvalidArgument: The folder does not exist, is not writable, or has other files.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder
        self._probe: threading.Thread | None = None
        try:
            self._prepare()
        except OSError as error:
            raise InvalidArgument(
                f"the folder {folder} of the object store cannot be used: {error.strerror or error}",
                hint="create or mount it, and give this user the right to write",
            ) from error

    def _prepare(self) -> None:
        names = {name for name in os.listdir(self._root) if name != _RECOVERED}
        if _MARK not in names:
            if names:
                raise InvalidArgument(
                    f"the folder {self._root} of the object store has other files", hint="choose an empty folder"
                )
            (self._root / _MARK).touch()
        for name in (_UPLOADS, _TEMPORARY):
            (self._root / name).mkdir(exist_ok=True)
        self._remove_stale()

    def _remove_stale(self) -> None:
        """Delete the files of processes that ended in the middle of a write, by the clock of the folder."""
        new = self._root / _TEMPORARY / secrets.token_hex(16)
        new.touch(exist_ok=False)
        before = new.stat().st_mtime - _STALE
        new.unlink()
        for path in (self._root / _TEMPORARY).iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process deletes them, too
                if path.stat().st_mtime < before:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self._root)!r})"

    def put(self, key: str, file: BinaryIO, size: int, *, digest: Digest | None = None) -> None:
        """See `ObjectStore`."""
        path = self._path(key)
        require_size(file, size)
        temporary = self._root / _TEMPORARY / secrets.token_hex(16)
        try:
            self._write(temporary, file, size, digest)
            with self._errors(key):
                self._publish(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def open(self, key: str, first: int = 0, length: int | None = None) -> BinaryIO:
        """See `ObjectStore`."""
        path = self._path(key)
        with self._errors(key):
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:
                return _Parts(path.with_name(path.name + _PARTS), first, length)  # type: ignore[return-value]  # typeshed has no BinaryIO in io
            file.seek(first)
            return file if length is None else _Range(file, length)  # type: ignore[return-value]  # see above

    def size(self, key: str) -> int | None:
        """See `ObjectStore`."""
        path = self._path(key)
        try:
            with self._errors(key):
                try:
                    return path.stat().st_size
                except FileNotFoundError:
                    return sum(size for _, size in _read_index(path.with_name(path.name + _PARTS)))
        except KeyError:
            return None

    def digest(self, key: str) -> Digest | None:
        """See `ObjectStore`."""
        path = self._path(key)
        try:
            with self._errors(key):
                if not path.exists():
                    path = path.with_name(path.name + _PARTS) / _INDEX
                return _digest_of(path)
        except KeyError:
            return None

    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """See `ObjectStore`."""
        failures: dict[str, str] = {}
        for key in keys:
            path = self._path(key)
            try:
                try:
                    path.unlink()
                except FileNotFoundError:
                    self._delete_parts(path.with_name(path.name + _PARTS))
            except OSError as error:
                failures[key] = error.strerror or str(error)
        if failures:
            self.check()  # a missing mount is reported once, not for each key
        return failures

    def iterate(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int, float]]:
        """See `ObjectStore`."""
        yield from self._walk(prefix.rpartition("/")[0], prefix, after)

    def begin_parts(self, key: str, *, digest: Digest | None = None) -> str:
        """See `ObjectStore`."""
        self._path(key)
        multipart = secrets.token_hex(16)
        with self._errors(key):
            folder = self._root / _UPLOADS / multipart
            folder.mkdir()
            if digest is not None:
                (folder / "digest").write_text(digest)
        return multipart

    def put_part(self, key: str, multipart: str, number: int, file: BinaryIO, size: int) -> str:
        """See `ObjectStore`."""
        self._path(key)
        if number < 1:
            raise ValueError(f"{number} is not the number of a part")
        require_size(file, size)
        etag = f"{number}-{size}-{secrets.token_hex(16)}"
        self._write(self._upload(multipart) / etag, file, size, None, key=multipart)
        return etag

    def complete_parts(self, key: str, multipart: str, etags: Sequence[str]) -> None:
        """See `ObjectStore`."""
        path = self._path(key)
        upload = self._upload(multipart)
        with self._errors(multipart):
            names = set(os.listdir(upload))
            parts = [(etag, _part_size(etag, number)) for number, etag in enumerate(etags, start=1)]
            if not parts or not names.issuperset(etags):
                raise InvalidPart(f"a part of {key} is missing")
            if any(size != parts[0][1] or size < self.part_size for _, size in parts[:-1]):
                raise InvalidPart(
                    f"a part of {key} has another size than its first one, or less than {self.part_size} bytes"
                )
            for name in names.difference(etags, {"digest"}):
                (upload / name).unlink(missing_ok=True)
            digest = (upload / "digest").read_text() if "digest" in names else None
            index = "".join(f"{name} {size}\n" for name, size in parts).encode()
            temporary = upload / secrets.token_hex(16)
            self._write(temporary, io.BytesIO(index), len(index), Digest(digest) if digest else None, key=multipart)
            temporary.replace(upload / _INDEX)
            fsync_folder(upload)
            self._publish(upload, path.with_name(path.name + _PARTS))

    def abort_parts(self, key: str, multipart: str) -> None:
        """See `ObjectStore`."""
        with contextlib.suppress(KeyError), self._errors(multipart):
            self._delete_parts(self._upload(multipart))

    def link(self, key: str, *, seconds: int) -> str | None:
        """See `ObjectStore`."""
        return None

    def check(self) -> None:
        """See `ObjectStore`."""
        found: list[bool] = []

        def look() -> None:
            with contextlib.suppress(OSError):
                os.stat(self._root / _MARK)
                found.append(os.access(self._root / _TEMPORARY, os.W_OK))

        # A file server that is away holds a thread for as long as it is away: one, not one for each check
        running = self._probe
        if running is not None:
            running.join(_CHECK)
        if running is None or not running.is_alive():
            self._probe = probe = threading.Thread(target=look, name="check of the object store", daemon=True)
            probe.start()
            probe.join(_CHECK)
        if not any(found):
            raise Unavailable(f"the folder {self._root} of the object store does not answer")

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _upload(self, multipart: str) -> Path:
        if not multipart.isalnum():  # path traversal
            raise KeyError(multipart)
        return self._root / _UPLOADS / multipart

    def _write(self, path: Path, file: BinaryIO, size: int, digest: Digest | None, *, key: str = "") -> None:
        """Write a synced file. Errors of the source pass unchanged."""
        with self._errors(key):
            target = path.open("xb", buffering=0)
        with target:
            left = size
            while left:
                block = file.read(min(BUFFER, left))
                if not block:
                    raise ValueError(f"{size} bytes were announced, and the file ends {left} bytes before")
                left -= len(block)
                with self._errors(key):
                    rest = memoryview(block)
                    while rest:
                        rest = rest[target.write(rest) :]
            with self._errors(key):
                if digest is not None and hasattr(os, "setxattr"):
                    with contextlib.suppress(OSError):  # without attributes, a rebuild hashes the object
                        os.setxattr(target.fileno(), _DIGEST, digest.encode())
                os.fsync(target.fileno())

    def _publish(self, temporary: Path, path: Path) -> None:
        """Rename a file or folder, and make the name durable."""
        try:
            temporary.rename(path)
        except FileNotFoundError:
            missing = [folder for folder in path.parents if self._root in folder.parents and not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(path)
            for folder in missing:
                fsync_folder(folder.parent)
        fsync_folder(path.parent)

    def _delete_parts(self, folder: Path) -> None:
        """Delete a folder of parts; its rename comes first, so that no half of an object is left."""
        doomed = self._root / _TEMPORARY / secrets.token_hex(16)
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            os.stat(self._root / _MARK)
            return
        shutil.rmtree(doomed, ignore_errors=True)

    def _walk(self, folder: str, prefix: str, after: str) -> Iterator[tuple[str, int, float]]:
        """Yield the objects below a folder, "" for the root."""
        base = folder + "/" if folder else ""
        try:
            with self._errors(folder), os.scandir(self._root / folder) as found:
                entries = [
                    (base + name, whole, entry)
                    for entry in found
                    if not entry.name.startswith(".") and entry.name != _RECOVERED
                    for name, whole in [_name(entry)]
                ]
        except KeyError:
            return
        for key, whole, entry in sorted(entries, key=lambda item: item[0]):
            if whole and key.startswith(prefix) and key > after:
                with contextlib.suppress(KeyError), self._errors(key):
                    yield (key, *_facts(entry))
            elif not whole and (key.startswith(prefix) or prefix.startswith(key)) and not _is_before(key, after):
                yield from self._walk(key[:-1], prefix, after)

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Report a missing file as KeyError, and a folder that is away as `Unavailable`."""
        try:
            yield
        except FileNotFoundError as error:
            if not (self._root / _MARK).exists():
                raise Unavailable(f"the folder {self._root} of the object store is not mounted") from error
            raise KeyError(key) from error
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise Unavailable(f"the object store failed: {error.strerror or error}") from error


def _name(entry: os.DirEntry[str]) -> tuple[str, bool]:
    """Return the last part of a key, and whether it is an object; a folder of objects ends with a slash."""
    if not entry.is_dir():
        return entry.name, True
    if entry.name.endswith(_PARTS):
        return entry.name.removesuffix(_PARTS), True
    return entry.name + "/", False


def _is_before(folder: str, after: str) -> bool:
    """Return True if each key of a folder, which ends with a slash, is `after` or before."""
    return not after.startswith(folder) and folder < after


def _facts(entry: os.DirEntry[str]) -> tuple[int, float]:
    """Return size and time of an object."""
    if not entry.is_dir():
        status = entry.stat()
        return status.st_size, status.st_mtime
    path = Path(entry.path)
    return sum(size for _, size in _read_index(path)), (path / _INDEX).stat().st_mtime


def _part_size(etag: str, number: int) -> int:
    """Return the size of a part by its ETag.

    Raises:
        InvalidPart: The ETag is not that of a part with this number.
    """
    first, _, rest = etag.partition("-")
    size = rest.partition("-")[0]
    if first != str(number) or not size.isdecimal() or "/" in etag:
        raise InvalidPart(f"{etag!r} is not the ETag of part {number}")
    return int(size)


def _read_index(folder: Path) -> list[tuple[str, int]]:
    lines = (folder / _INDEX).read_text().splitlines()
    return [(name, int(size)) for name, _, size in (line.partition(" ") for line in lines)]


def _digest_of(path: Path) -> Digest | None:
    if not hasattr(os, "getxattr"):
        return None
    try:
        return Digest(os.getxattr(path, _DIGEST).decode())
    except OSError as error:
        if error.errno in {errno.ENODATA, errno.ENOTSUP}:
            return None
        raise


class _Range(io.RawIOBase):
    """The next bytes of a file, up to a limit."""

    def __init__(self, file: io.FileIO, length: int) -> None:
        self._file = file
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Parts(io.RawIOBase):
    """An object of several parts, from a position to a limit."""

    def __init__(self, folder: Path, first: int, length: int | None) -> None:
        parts = _read_index(folder)
        self._paths = [folder / name for name, _ in parts]
        self._ends = list(accumulate(size for _, size in parts))
        self._position = first
        self._end = self._ends[-1] if length is None else min(first + length, self._ends[-1])
        self._file: io.FileIO | None = None
        self._file_end = first

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._end - self._position
        if left <= 0 or not len(buffer):
            return 0
        file = self._file
        if file is None or self._position >= self._file_end:
            file = self._open()
        count = file.readinto(memoryview(buffer)[: min(left, self._file_end - self._position)])
        if not count:
            raise Unavailable(f"a part of an object ends early: {file.name!r}")
        self._position += count
        return count

    def _open(self) -> io.FileIO:
        if self._file is not None:
            self._file.close()
        number = bisect.bisect_right(self._ends, self._position)
        try:
            self._file = file = self._paths[number].open("rb", buffering=0)
        except OSError as error:
            raise Unavailable(f"a part of an object cannot be read: {error.strerror}") from error
        self._file_end = self._ends[number]
        file.seek(self._position - (self._ends[number - 1] if number else 0))
        return file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        super().close()
