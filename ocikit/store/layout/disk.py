"""Files of a layout: blobs, index, inter-process lock and leases.

Layouts may hold unknown files, so the lock, leases and unfinished transfers are below `.ocikit/`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from attrs import define, field

from ocikit import display
from ocikit.errors import ContentError, DigestMismatch, InvalidDigest, InvalidDocument, OcikitError
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.files import blob_path, open_file, write_atomically
from ocikit.store.graph import STORED_LIMIT, Graph, Link
from ocikit.store.layout.index import HEADER, encode_index, read_index

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: Seconds to wait for the lock. A change of `index.json` takes milliseconds, a sweep of a large layout up to a minute.
_LOCK_TIMEOUT = 300.0
_LOCK_POLL = 0.01  # seconds between two attempts


@define(eq=False)
class LayoutDisk:
    """Files of an image layout.

    Args:
        path: Folder of the layout.
        create: Whether a folder without a layout is read as an empty layout.
    """

    path: Path
    create: bool = field(default=True, kw_only=True)

    @property
    def partial(self) -> Path:
        """Folder of unfinished transfers."""
        return self.path / ".ocikit" / "partial"

    @property
    def trash(self) -> Path:
        """Folder of blobs that a sweep is about to delete."""
        return self.path / ".ocikit" / "trash"

    @property
    def leases(self) -> Path:
        """Folder of the leases of open layouts."""
        return self.path / ".ocikit" / "leases"

    # Blobs

    def blob(self, digest: Digest) -> Path:
        """Return the path of a blob, whether it exists or not."""
        return blob_path(self.path, digest)

    def blobs(self) -> Iterator[tuple[Digest, os.stat_result]]:
        """Iterate over all blobs. Skip files whose names are not digests."""
        with contextlib.suppress(FileNotFoundError):
            for folder in sorted(os.listdir(self.path / "blobs")):
                with contextlib.suppress(NotADirectoryError), os.scandir(self.path / "blobs" / folder) as listing:
                    for entry in listing:
                        with contextlib.suppress(InvalidDigest, FileNotFoundError):
                            digest = Digest(f"{folder}:{entry.name}")
                            if entry.is_file():
                                yield digest, entry.stat()

    def graph(self, *, strict: bool = True) -> Graph:
        """Return the graph of documents and their content.

        Args:
            strict: Whether a corrupt document raises InvalidDocument; otherwise it has no children.
        """

        def read(link: Link) -> bytes | None:
            is_document = media_types.is_document(link.media_type)
            try:
                with io.BufferedReader(open_file(self.blob(link.digest))) as file:
                    if not is_document:
                        # Content of an unknown type may be a document: parse what is small and looks like JSON
                        size = os.fstat(file.fileno()).st_size
                        if size > STORED_LIMIT or not file.read(64).lstrip().startswith(b"{"):
                            return None
                        file.seek(0)
                    raw = file.read(STORED_LIMIT + 1)
            except FileNotFoundError:
                return None
            if is_document and strict:
                _check_document(link.digest, raw)
            return raw

        return Graph(read, strict=strict)

    # Index

    def read_index(self) -> dict[str, Any]:
        """Return the JSON of `index.json`.

        Raises:
            NotFound: There is no layout and `create` is False.
            InvalidDocument: `oci-layout` or `index.json` is invalid.
        """
        return read_index(self.path, create=self.create)

    def entries(self) -> list[Any]:
        """Return the entries of `index.json` as JSON."""
        return cast("list[Any]", self.read_index()["manifests"])

    @contextlib.contextmanager
    def edit_entries(self) -> Iterator[list[Any]]:
        """Yield the entries for changes in place, then replace `index.json`.

        The caller must hold the lock.
        """
        index = self.read_index()
        before = json.dumps(index["manifests"])
        yield index["manifests"]
        if json.dumps(index["manifests"]) != before:
            path = self.path / "index.json"
            write_atomically(path, encode_index(index), mode=path.stat().st_mode & 0o777)

    def initialize(self) -> None:
        """Write the files of an empty layout where they are absent.

        The caller must hold the lock.
        """
        with _write_errors(self.path):
            (self.path / "blobs").mkdir(exist_ok=True)
        index = self.read_index()
        if not (self.path / "index.json").exists():
            write_atomically(self.path / "index.json", encode_index(index))
        # This file comes last: a folder that has it is a layout
        if not (self.path / "oci-layout").exists():
            write_atomically(self.path / "oci-layout", HEADER)

    # Lock and leases

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude writers in other processes and threads.

        The operating system releases the lock of a dead process.

        Raises:
            ContentError: Another process holds the lock for too long, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout  # noqa: PLC0415 - 80 ms of import that readers don't need

        folder = self.path / ".ocikit"
        with _write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / "lock", timeout=_LOCK_TIMEOUT, poll_interval=_LOCK_POLL)
            try:
                lock.acquire()
            except Timeout as error:
                raise ContentError(
                    f"locking {self.path} failed: another process has held the lock for"
                    f" {display.duration(_LOCK_TIMEOUT)}",
                    hint="wait for that process or end it; the lock is released when it ends",
                ) from error
        try:
            yield
        finally:
            lock.release()

    def acquire_lease(self, started: float | None) -> BaseFileLock:
        """Return a new lease: a locked file that protects recent content from sweeps.

        The caller must hold the lock.

        Args:
            started: Seconds since the epoch from which on content is protected; None for now.
        """
        from filelock import FileLock  # noqa: PLC0415 - 80 ms of import that readers don't need

        with _write_errors(self.leases):
            self.leases.mkdir(exist_ok=True)
            list(self.live_leases(clean=True))
            lease = FileLock(self.leases / secrets.token_hex(8), thread_local=False)
            lease.acquire(timeout=_LOCK_TIMEOUT)
            if started is not None:
                # The clock of file systems is coarser than `time.time()`
                os.utime(lease.lock_file, (started - 0.1,) * 2)
        return lease

    def live_leases(self, *, clean: bool, exclude: str | None = None) -> Iterator[float]:
        """Iterate over the start times of held leases, in seconds since the epoch.

        Args:
            clean: Whether to delete the leases of dead processes. The caller must hold the lock.
            exclude: Path of a lease to skip.
        """
        from filelock import FileLock, Timeout  # noqa: PLC0415 - 80 ms of import that readers don't need

        for path, status in list(scan_files(self.leases)):
            if str(path) == exclude:
                continue
            lock = FileLock(path)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                yield status.st_mtime
                continue
            if clean:
                path.unlink(missing_ok=True)
            lock.release()


def links_from(descriptors: Iterable[Descriptor]) -> list[Link]:
    """Return the links to the content of descriptors."""
    return [Link(digest=descriptor.digest, media_type=descriptor.media_type) for descriptor in descriptors]


def scan_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Iterate over the items of a folder with their status.

    Skip items that vanish during the scan.
    """
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as listing:
        for entry in listing:
            with contextlib.suppress(FileNotFoundError):
                yield Path(entry.path), entry.stat()


def _check_document(digest: Digest, raw: bytes) -> None:
    hint = "nothing is deleted while its children are unknown; delete the document or copy it again"
    if len(raw) > STORED_LIMIT:
        raise InvalidDocument(f"{digest} is larger than the limit of {STORED_LIMIT} bytes for documents", hint=hint)
    try:
        if digest.verifiable:
            digest.verify(raw, "the document")
    except DigestMismatch as error:
        raise InvalidDocument(f"{digest} is corrupt", hint=hint) from error


@contextlib.contextmanager
def _write_errors(path: Path) -> Iterator[None]:
    """Turn operating system errors into ContentError."""
    try:
        yield
    except OcikitError:
        raise
    except OSError as error:
        raise ContentError(
            f"cannot write {path}: {error.strerror or error}", hint="check the folder's permissions and the disk"
        ) from error
