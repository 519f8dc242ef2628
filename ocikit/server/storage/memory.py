"""A registry's storage in memory: for tests and demonstrations."""

from __future__ import annotations

import contextlib
import io
import secrets
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from attrs import define, field

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
from ocikit.spec.digest import Digest


def memory_storage(*, grace: float = 3600.0) -> Storage:
    """Storage that is gone with the process."""
    from ocikit.server.storage.sql import SqlMetadata  # noqa: PLC0415 - SQLAlchemy, on use

    return Storage(MemoryBlobs(), MemoryUploads(), SqlMetadata.memory(grace=grace))


@define(eq=False)
class MemoryBlobs(BlobStore):
    """Content in a dictionary."""

    _content: dict[Digest, bytes] = field(factory=dict, init=False, repr=False)

    def stat(self, digest: Digest) -> int | None:
        """The size, or None."""
        content = self._content.get(digest)
        return None if content is None else len(content)

    def open(self, digest: Digest) -> BinaryIO:
        """The content. Raises: KeyError."""
        return io.BytesIO(self._content[digest])

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Keep it."""
        self._content[digest] = stream.read()

    def delete(self, digest: Digest) -> None:
        """Forget it."""
        self._content.pop(digest, None)

    def iterate(self) -> Iterator[Digest]:
        """Every digest."""
        return iter(list(self._content))


@define
class _Session:
    content: bytearray = field(factory=bytearray)
    written: float = field(factory=time.time)
    busy: bool = False


@define(eq=False)
class MemoryUploads(UploadStore):
    """What was received so far, in a dictionary."""

    _sessions: dict[Upload, _Session] = field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def create(self, repository: str, owner: str = "", *, algorithm: str = "sha256") -> Upload:
        """Begin."""
        upload = Upload(secrets.token_urlsafe(24), repository, owner)
        self._sessions[upload] = _Session()
        return upload

    def size(self, upload: Upload) -> int:
        """Bytes so far. Raises: UnknownUpload."""
        return len(self._session(upload).content)

    def append(self, upload: Upload, body: RequestBody, *, offset: int | None = None, length: int | None = None) -> int:
        """Take in a body."""
        with self._writing(upload, offset) as session:
            size = _receive(session, body, length)
            self._session(upload)  # another request may have cancelled it
            return size

    def finish(
        self, upload: Upload, digest: Digest, body: RequestBody, blobs: BlobStore, *, offset: int | None = None,
        length: int | None = None,
    ) -> int:  # fmt: skip
        """Take in the last body, verify, hand over."""
        with self._writing(upload, offset) as session:
            size = _receive(session, body, length)
            actual = Digest.of(bytes(session.content), digest.algorithm)
            if actual == digest:
                blobs.put(digest, io.BytesIO(session.content))
            self.abort(upload)
        if actual != digest:
            raise UploadDigestMismatch(f"what was uploaded is {actual}; nothing of it was kept")
        return size

    def abort(self, upload: Upload) -> None:
        """Forget it. Raises: UnknownUpload."""
        if self._sessions.pop(upload, None) is None:
            raise UnknownUpload(upload.id)

    def count(self, owner: str | None = None) -> int:
        """Sessions of one owner, or all."""
        return sum(owner is None or upload.owner == owner for upload in list(self._sessions))

    def expire(self, before: float) -> int:
        """Forget the old ones."""
        with self._lock:
            old = [upload for upload, each in list(self._sessions.items()) if each.written < before and not each.busy]
            return sum(self._sessions.pop(upload, None) is not None for upload in old)

    def _session(self, upload: Upload) -> _Session:
        session = self._sessions.get(upload)
        if session is None:
            raise UnknownUpload(upload.id)
        return session

    @contextlib.contextmanager
    def _writing(self, upload: Upload, offset: int | None) -> Iterator[_Session]:
        """The session, for one request at a time. Raises: UnknownUpload, OutOfOrder."""
        with self._lock:
            session = self._session(upload)
            if session.busy or (offset is not None and offset != len(session.content)):
                raise OffsetMismatch(len(session.content))
            session.busy = True
        try:
            yield session
        finally:
            session.busy = False


def _receive(session: _Session, body: RequestBody, length: int | None) -> int:
    """Add a body to the content; gives the size then. Raises: Refusal."""
    before = len(session.content)
    session.written = time.time()
    try:
        while piece := body.piece():
            session.content += piece
        moved = len(session.content) - before
        if length is not None and moved != length:
            raise ErrorResponse(400, "SIZE_INVALID", f"Content-Range has {length} bytes, the body {moved}")
    except BaseException:
        if length is not None:
            del session.content[before:]
        raise
    return len(session.content)
