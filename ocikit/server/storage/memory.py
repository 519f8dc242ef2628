"""Registry storage in memory, for tests and demonstrations."""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from attrs import define, field

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
from ocikit.spec.digest import Digest


def memory_storage(*, grace: float = 3600.0) -> Storage:
    """Return storage that ends with the process.

    Args:
        grace: Seconds that unreferenced content is kept.
    """
    from ocikit.server.storage.sql import SqlMetadata  # noqa: PLC0415 - SQLAlchemy is heavy

    return Storage(MemoryBlobs(), MemoryUploads(), SqlMetadata.memory(grace=grace))


@define(eq=False)
class MemoryBlobs(BlobStore):
    """Content in a dictionary."""

    _content: dict[Digest, bytes] = field(factory=dict, init=False, repr=False)

    def stat(self, digest: Digest) -> int | None:
        """Return the size in bytes, or None."""
        content = self._content.get(digest)
        return None if content is None else len(content)

    def open(self, digest: Digest) -> BinaryIO:
        """Open the content.

        Raises:
            KeyError: The content is not stored.
        """
        return io.BytesIO(self._content[digest])

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Store content."""
        self._content[digest] = stream.read()

    def delete(self, digest: Digest) -> None:
        """Delete content."""
        self._content.pop(digest, None)

    def iterate(self) -> Iterator[Digest]:
        """Yield the digest of all stored content."""
        return iter(list(self._content))


@define
class _Session:
    holder: str
    content: bytearray = field(factory=bytearray)
    written: float = field(factory=time.time)
    busy: bool = False


@define(eq=False)
class MemoryUploads(UploadStore):
    """Upload sessions in a dictionary."""

    _sessions: dict[Upload, _Session] = field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256", holder: str = "") -> Upload:
        """Create an empty session."""
        upload = Upload(secrets.token_urlsafe(24), repository, owner)
        self._sessions[upload] = _Session(holder)
        return upload

    def size(self, upload: Upload) -> int:
        """Return the number of bytes received.

        Raises:
            UnknownUpload: The session does not exist.
        """
        return len(self._session(upload).content)

    def append(self, upload: Upload, body: UploadBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Append a body and return the new size.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: The offset is not the current size, or another request writes.
            LengthMismatch: The body does not have `length` bytes.
        """
        with self._lock_session(upload, offset) as session:
            size = _append(session, body, length)
            self._session(upload)  # raises if another request aborted it meanwhile
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
        """Append the last body, verify the digest, store the blob, and return its size.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: See `append`.
            LengthMismatch: See `append`.
            UploadDigestMismatch: The bytes have another digest.
        """
        with self._lock_session(upload, offset) as session:
            size = _append(session, body, length)
            actual = Digest.of(bytes(session.content), digest.algorithm)
            if actual == digest:
                blobs.put(digest, io.BytesIO(session.content))
            self.abort(upload)
        if actual != digest:
            raise UploadDigestMismatch(f"the uploaded bytes have the digest {actual}; the upload was deleted")
        return size

    def abort(self, upload: Upload) -> None:
        """Delete a session.

        Raises:
            UnknownUpload: The session does not exist.
        """
        if self._sessions.pop(upload, None) is None:
            raise UnknownUpload(upload.id)

    def count(self, holder: str | None = None) -> int:
        """Return the number of sessions of one holder, or of all."""
        return sum(1 for _ in self.states(holder))

    def used_bytes(self, repository: str) -> int:
        """Return the number of bytes that the sessions of a repository have received."""
        sessions = list(self._sessions.items())
        return sum(len(session.content) for upload, session in sessions if upload.repository == repository)

    def states(self, holder: str | None = None) -> Iterator[UploadState]:
        """Yield the state of each session of one holder, or of all."""
        for session in list(self._sessions.values()):
            if holder in {None, session.holder}:
                yield UploadState(session.written, len(session.content))

    def expire(self, before: float, *, empty_before: float | None = None, holder: str | None = None) -> int:
        """Delete old idle sessions."""
        limits = (before, before if empty_before is None else empty_before)
        with self._lock:
            expired = [
                upload
                for upload, session in list(self._sessions.items())
                if session.written < limits[not session.content]
                and not session.busy
                and holder in {None, session.holder}
            ]
            return sum(self._sessions.pop(upload, None) is not None for upload in expired)

    def _session(self, upload: Upload) -> _Session:
        session = self._sessions.get(upload)
        if session is None:
            raise UnknownUpload(upload.id)
        return session

    @contextlib.contextmanager
    def _lock_session(self, upload: Upload, offset: int | None) -> Iterator[_Session]:
        """Reserve a session for one request.

        Raises:
            UnknownUpload: The session does not exist.
            OffsetMismatch: The offset is not the current size, or another request writes.
        """
        with self._lock:
            session = self._session(upload)
            if session.busy or (offset is not None and offset != len(session.content)):
                raise OffsetMismatch(len(session.content))
            session.busy = True
        try:
            yield session
        finally:
            session.busy = False


def _append(session: _Session, body: UploadBody, length: int | None) -> int:
    """Append a body to a session and return the new size.

    Raises:
        LengthMismatch: The body does not have `length` bytes.
    """
    before = len(session.content)
    session.written = time.time()
    try:
        while chunk := body.read_chunk():
            session.content += chunk
        received = len(session.content) - before
        if length is not None and received != length:
            raise LengthMismatch(length, received)
    except BaseException:
        if length is not None:
            del session.content[before:]
        raise
    return len(session.content)
