"""Uploads of blobs in one PUT or in chunks. distribution-spec spec.md#pushing-blobs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

import requests
from attrs import define

from ocikit import display
from ocikit.errors import (
    ConnectionFailed,
    NameUnknown,
    OcikitError,
    RangeInvalid,
    RegistryError,
    SizeMismatch,
    TooLarge,
    UploadInvalid,
    UploadUnknown,
)
from ocikit.progress.base import notify
from ocikit.remote.endpoints import Endpoints, UploadSession, wrong_blob
from ocikit.remote.http.deadlines import deadline_scope
from ocikit.remote.http.request import BodyStream
from ocikit.remote.http.retry import backoff
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest, new_hasher
from ocikit.store.streams import ByteStream, check_size

log = logging.getLogger("ocikit")

CHUNK = 4 << 20  # bytes: GHCR rejects larger PATCHes (oci-client PR#37)
_MAX_SESSIONS = 4  # for one blob
_MAX_STALLS = 4  # status requests in a row without progress
_COMMIT_TIMEOUT = 5  # read timeouts for the response to a whole blob: the registry stores it first
_CANCEL_TIMEOUT = 5.0  # seconds for the response to a cancellation: a user who pressed Ctrl-C must not wait
_MIN_RESUME = 1 << 20  # bytes of an interrupted PUT that the registry must have stored to resume there
_SETTLE_TIME = 0.25  # seconds for a registry to notice a broken connection and to store what it received
_BUFFERED_CHUNK = 32 << 20  # bytes of the largest chunk that is buffered when its stream can't be read again
_CLOSING_TIME = 1.0  # seconds for the response to the PUT of a session that has the whole blob
_READ_SIZE = 1 << 20  # bytes that are hashed at once when they are not sent
_SMALL_BLOB = 128 << 10  # bytes of a blob that is read as a whole, and sent in one request where a registry takes that


def upload(
    endpoints: Endpoints,
    descriptor: Descriptor,
    stream: ByteStream,
    *,
    session: UploadSession | None = None,
    chunk_size: int | None = None,
    continued: bool = False,
) -> None:
    """Upload a blob, with retries and resumption.

    Args:
        endpoints: Repository to push to.
        descriptor: Descriptor of the content.
        stream: Read from its current position to its end; a seekable stream can be sent again after a failure.
        session: Open upload session, as a mount that was not granted leaves one.
        chunk_size: Bytes; None sends the whole blob in one request, and chunks of 4 MiB only if that is rejected.
        continued: Whether the session holds a part of the blob.

    Raises:
        SizeMismatch: The stream has more or fewer bytes than its descriptor.
        UploadInvalid: The registry rejects the content.
        RegistryError: The registry rejects a request, or fails after all retries.
        ConnectionFailed: The connection breaks after all retries.
    """
    start = stream.tell() if stream.seekable() else 0
    transport, action = endpoints.transport, endpoints.action_name("push to", descriptor.digest.short)
    deadline = transport.deadline()
    blob = _Upload(endpoints, descriptor, stream, deadline, session, start)
    attempts, offset = 0, 0  # an offset above 0 resumes in the session of an interrupted PUT
    if continued:
        offset = blob.resume_offset() or 0
        if not offset:
            blob.cancel()
    while True:
        transport.check_deadline(deadline, action)
        try:
            if offset:
                blob.put_chunks(CHUNK, offset)
            elif chunk_size is None:
                blob.put_monolithic()
            else:
                blob.put_chunks(chunk_size)
            return
        except _SourceError as source_error:
            blob.cancel()
            raise source_error.error from source_error.error.__cause__
        except (ConnectionFailed, RegistryError) as error:
            too_large = (
                isinstance(error, TooLarge | RangeInvalid) and not offset and (chunk_size is None or chunk_size > CHUNK)
            )
            session_lost = _is_session_lost(error)
            temporary = bool(offset) or (session_lost and not attempts) or _is_temporary(error)
            exists = (temporary or blob.complete) and not too_large and blob.blob_exists()
            if temporary and not exists and not offset and chunk_size is None and (resume := blob.resume_offset()):
                log.info("%s: %s; resuming at byte %d of %d", action, error.message, resume, descriptor.size)
                notify(f"the upload broke; resuming at {display.size(resume)}")
                offset = resume
                continue
            offset = 0
            blob.cancel()
            if exists:
                return
            attempts += 1
            if not (temporary or too_large) or attempts == _MAX_SESSIONS or not stream.seekable():
                if session_lost and not error.hint:
                    error.hint = "if several replicas serve this host, they need the same http.secret"
                raise
            if too_large:
                log.info("%s: %s; sending chunks of %d bytes", action, error.message, CHUNK)
                chunk_size = CHUNK
            else:
                log.info("%s: %s; trying again in a new session", action, error.message)
                notify("the upload broke; starting again")
                time.sleep(backoff(attempts - 1))
        except BaseException:
            # Also after Ctrl-C: the registry need not store a partial blob
            blob.cancel()
            raise


def upload_unhashed(
    endpoints: Endpoints, stream: ByteStream, size: int, check: Callable[[], object]
) -> tuple[Digest, UploadSession | None, bool]:
    """Upload a blob that is hashed while it is sent: a PATCH with the content, and a PUT with the digest.

    A failure does not end the upload, because the digest is known afterwards: `upload` resumes it.

    Args:
        endpoints: Repository to push to.
        stream: Read from its start to its end; seekable.
        size: Bytes of the content.
        check: Called before the PUT; it raises an error if the content has changed.

    Returns:
        The digest, the session that can be resumed, and whether the blob is stored.

    Raises:
        SizeMismatch: The stream has more or fewer bytes.
        UploadInvalid: The registry stored another blob.
        Unauthorized: The registry requires other credentials.
        Denied: The credentials do not allow the push.
    """
    transport, body = endpoints.transport, _HashedBody(stream, size)
    session: UploadSession | None = None
    try:
        with deadline_scope(transport.deadline()):
            session = endpoints.post_upload()
            started = time.monotonic()
            try:
                session = endpoints.patch_upload(session, 0, body, length=size)
                sent = time.monotonic()
                digest = body.digest()
                check()
                timeout = transport.network.read_timeout * _COMMIT_TIMEOUT
                response = endpoints.put_upload(session, digest, timeout=timeout)
            except (ConnectionFailed, RegistryError) as error:
                status = getattr(error, "status", 0)
                if status in {401, 403}:
                    raise
                log.info("%s: %s; resuming with the digest", session.action, error.message)
                if isinstance(error, RegistryError) and status < 500:
                    transport.patch_blobs = False
                if isinstance(error, ConnectionFailed):
                    time.sleep(_SETTLE_TIME)
                digest = body.digest()
                check()
                return digest, session, False
        # A registry that reads the blob again to hash it is faster with the digest before the content
        closing = time.monotonic() - sent
        if closing > _CLOSING_TIME and closing > (sent - started) / 3:
            transport.patch_blobs = False
        stored = response.headers.get("Docker-Content-Digest")
        if stored and stored != digest and stored.partition(":")[0] == digest.algorithm:
            raise wrong_blob(response, transport.host, digest)
    except BaseException as error:
        if session is not None:
            with contextlib.suppress(OcikitError), deadline_scope(time.monotonic() + _CANCEL_TIMEOUT):
                endpoints.delete_upload(session)
        if isinstance(error, _SourceError):
            raise error.error from error.error.__cause__
        raise
    return digest, None, True


def _is_session_lost(error: OcikitError) -> bool:
    """Return True if the registry does not know the session.

    Another replica may have opened it: distribution then returns 404 with BLOB_UPLOAD_INVALID (oras-dotnet#132). With
    another status that code may also mean that the content is invalid.
    """
    if isinstance(error, UploadInvalid):
        return error.status == 404 or error.code == "BLOB_UPLOAD_INVALID"
    return isinstance(error, UploadUnknown)


def _is_temporary(error: OcikitError) -> bool:
    """Return True if a new session may succeed."""
    if isinstance(error, RegistryError) and (error.status >= 500 or (_is_session_lost(error) and error.status == 404)):
        return True
    return isinstance(error, ConnectionFailed | UploadUnknown | RangeInvalid)


@define(eq=False)
class _Upload:
    """One blob that is being uploaded."""

    endpoints: Endpoints
    descriptor: Descriptor
    stream: ByteStream
    deadline: float | None
    session: UploadSession | None = None
    start: int = 0
    """Position in the stream where the content begins."""
    body: bytes | BodyStream = b""
    """Body of the last monolithic PUT."""
    complete: bool = False
    """Whether the registry reported the blob as complete before the session was closed."""

    def open(self) -> UploadSession:
        with deadline_scope(self.deadline):
            self.session = self.endpoints.post_upload(self.descriptor.digest)
        return self.session

    def put_monolithic(self) -> None:
        """Send the whole blob in one POST if the registry takes that, or in one PUT."""
        if self.session is None and self._post():
            return
        session = self.session or self.open()
        self.body = self._part(0, self.descriptor.size)
        read_timeout = self.endpoints.transport.network.read_timeout
        with self._sending(self.body):
            response = self.endpoints.put_upload(
                session,
                self.descriptor.digest,
                self.body,
                length=self.descriptor.size,
                timeout=read_timeout * _COMMIT_TIMEOUT,
            )
        self._close(response)

    def _post(self) -> bool:
        """Send a small blob in the POST; return False if a PUT must follow.

        Registries may ignore the body and open a session, as distribution does, or reject the request. The first blob
        shows it for the host. Its session is used, so nothing is lost but its bytes.
        """
        transport, digest = self.endpoints.transport, self.descriptor.digest
        known = transport.post_blobs
        if known is False or self.descriptor.size > _SMALL_BLOB or digest.algorithm != "sha256":
            return False
        self.body = content = self._part(0, self.descriptor.size)
        if not isinstance(content, bytes):
            return False
        transport.post_blobs = known or False  # other threads need not try at the same time
        try:
            with self._sending(content):
                self.session = self.endpoints.post_blob(digest, content, retry=bool(known))
        except (ConnectionFailed, RegistryError) as error:
            if isinstance(error, NameUnknown) or getattr(error, "status", 0) in {401, 403, 429}:
                transport.post_blobs = known  # the PUT would be rejected, too
                raise
            if known and _is_temporary(error):
                raise
            transport.post_blobs = False
            return False
        transport.post_blobs = self.session is None
        return self.session is None

    def put_chunks(self, size: int, offset: int = 0) -> None:
        """Send PATCHes of at most `size` bytes from byte `offset`, and close the session.

        The offset is tracked here because registries report stale or ambiguous ranges.
        """
        session = self.session or self.open()
        size = max(size, session.min_chunk)
        stalls = 0
        chunk: bytes | BodyStream = b""
        while offset < self.descriptor.size:
            length = min(size, self.descriptor.size - offset)
            if isinstance(chunk, bytes) and chunk:  # the rest of a buffered chunk
                length = len(chunk)
            else:
                chunk = self._part(offset, length)
            try:
                with self._sending(chunk):
                    session = self.endpoints.patch_upload(session, offset, chunk, length=length)
                # 201 is ECR's response to a PATCH, 204 that of some others: regclient#81, ggcr#2198
                self.complete |= session.complete
                offset += length
                chunk, stalls = b"", 0
            except (RegistryError, ConnectionFailed) as error:
                if isinstance(error, RegistryError) and not isinstance(error, RangeInvalid):
                    if error.status < 500:
                        raise
                    time.sleep(backoff(stalls))
                session, received = self._status(session, error)
                if isinstance(error, RangeInvalid) and received == offset and length > CHUNK:
                    raise  # the offset is correct, so the registry rejects the size
                stalls = stalls + 1 if received <= offset else 0
                if isinstance(error, RangeInvalid) and offset == received == 0 and self.stream.seekable():
                    received = 1  # the ambiguous `Range: 0-0` meant one byte
                lost = not self.stream.seekable() and (received < offset or not isinstance(chunk, bytes))
                # A session that moved elsewhere than into the chunk, or does not move, is useless
                if lost or stalls > _MAX_STALLS or received > offset + length:
                    raise
                chunk = chunk[received - offset :] if isinstance(chunk, bytes) else b""
                offset = received
            self.session = session
        with deadline_scope(self.deadline):
            response = self.endpoints.put_upload(session, self.descriptor.digest)
        self._close(response)

    def resume_offset(self) -> int | None:
        """Return the byte from which an interrupted PUT can resume, or None to restart.

        distribution 3 and olareg store what they received; distribution 2.8 drops the session.
        """
        if self.session is None:
            return None
        try:
            with deadline_scope(self.deadline):
                session, received = self.endpoints.get_upload(self.session)
        except (ConnectionFailed, RegistryError):
            return None
        # What was read from a stream that can't seek must have reached the registry
        consumed = 0 if isinstance(self.body, bytes) or self.stream.seekable() else self.body.tell()
        if received is None or not max(_MIN_RESUME, consumed) <= received <= self.descriptor.size:
            return None
        self.session = session
        return received

    def blob_exists(self) -> bool:
        """Return True if the blob was stored although the response was lost."""
        try:
            with deadline_scope(self.deadline):
                response = self.endpoints.head_blob(
                    self.descriptor.digest, push=True, ok_statuses=(403, 404), retry=False
                )
        except OcikitError:
            return False
        return response.status_code == 200

    def cancel(self) -> None:
        """Cancel the session; errors are ignored, as the specification recommends."""
        session, self.session = self.session, None
        if session is not None:
            with contextlib.suppress(OcikitError), deadline_scope(time.monotonic() + _CANCEL_TIMEOUT):
                self.endpoints.delete_upload(session)

    def _part(self, offset: int, length: int) -> bytes | BodyStream:
        """Return a part of the content as a request body.

        A small blob is read as a whole: one write to the socket costs less than a stream. A part of a stream that can't
        seek is buffered, if it isn't large.
        """
        if not length:
            return b""
        if self.stream.seekable() and self.stream.tell() != self.start + offset:
            self.stream.seek(self.start + offset)
        part = _Part(self.stream, self.descriptor, offset, length)
        small = length == self.descriptor.size <= _SMALL_BLOB
        if not small and (self.stream.seekable() or length == self.descriptor.size or length > _BUFFERED_CHUNK):
            return part
        return b"".join(iter(lambda: part.read(length), b""))

    def _status(self, session: UploadSession, cause: OcikitError) -> tuple[UploadSession, int]:
        """Return the session and its number of bytes; raise the cause if it is unknown."""
        try:
            with deadline_scope(self.deadline):
                session, received = self.endpoints.get_upload(session)
        except RegistryError as error:
            raise cause from error
        if received is None:
            raise cause
        return session, received

    @contextlib.contextmanager
    def _sending(self, body: bytes | BodyStream) -> Iterator[None]:
        try:
            with deadline_scope(self.deadline):
                yield
        except ConnectionFailed:
            if body:
                time.sleep(_SETTLE_TIME)
            raise

    def _close(self, response: requests.Response) -> None:
        """Check the digest of the stored blob after the final PUT.

        Raises:
            UploadInvalid: The registry stored another digest.
        """
        self.session = None
        stored, expected = response.headers.get("Docker-Content-Digest"), self.descriptor.digest
        if not stored or stored == expected:
            return
        if stored.partition(":")[0] != expected.algorithm and self.blob_exists():
            return  # the registry returns the digest of another algorithm for the same content
        raise wrong_blob(response, self.endpoints.transport.host, expected)


class _SourceError(Exception):
    """The content can't be read.

    This is not an OSError, which urllib3 would treat as a broken connection.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _HashedBody:
    """A stream as a request body that hashes what is read. It has exactly the announced length."""

    def __init__(self, stream: ByteStream, size: int) -> None:
        self._stream = stream
        self._size = size
        self._position = 0
        self._hasher = new_hasher("sha256")

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes, and hash them.

        Raises:
            _SourceError: The stream can't be read, or has fewer bytes.
        """
        left = self._size - self._position
        if not left:
            return b""
        try:
            data = self._stream.read(left if size < 0 else min(size, left))
            if not data:
                raise SizeMismatch(
                    f"the content has only {self._position} bytes, expected {self._size}",
                    hint="push again when no program writes to it",
                    expected=self._size,
                    actual=self._position,
                )
        except Exception as error:
            raise _SourceError(error) from error
        self._hasher.update(data)
        self._position += len(data)
        return data

    def seekable(self) -> bool:
        """Return True, because the body can be sent again from its start."""
        return True

    def seek(self, offset: int, /) -> int:
        """Move to the start, for another attempt."""
        if offset != self._position:
            self._hasher = new_hasher("sha256")
            self._position = self._stream.seek(offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def digest(self) -> Digest:
        """Return the digest of the content; what was not sent is read now."""
        while self.read(_READ_SIZE):
            pass
        return Digest(f"sha256:{self._hasher.hexdigest()}")


class _Part:
    """A part of a stream as a request body.

    It has exactly the announced length. A registry would wait for missing bytes until it times out. It would treat
    additional bytes as the next request (request smuggling).
    """

    def __init__(self, stream: ByteStream, descriptor: Descriptor, offset: int, length: int) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._offset = offset
        self._length = length
        self._start = stream.tell() if stream.seekable() else 0
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Read at most `size` bytes.

        Raises:
            _SourceError: The stream can't be read, or has more or fewer bytes than its descriptor.
        """
        left = self._length - self._position
        if not left:
            return b""
        last = self._offset + self._length == self._descriptor.size
        try:
            # Read one byte more than the last ones, before they are sent, to detect a stream that is too long
            data = self._stream.read(left + last if size < 0 or size > left else size)
            self._position += len(data)
            if not data or (last and self._position == self._length and self._stream.read(1)):
                check_size(self._descriptor, self._offset + self._position + bool(data))
            elif self._position > self._length:
                check_size(self._descriptor, self._offset + self._position)
        except Exception as error:
            raise _SourceError(error) from error
        return data

    def seekable(self) -> bool:
        """Return True if the part can be read again."""
        return self._stream.seekable()

    def seek(self, offset: int, /) -> int:
        """Move to an offset from the part's first byte."""
        self._position = self._stream.seek(self._start + offset) - self._start
        return self._position

    def tell(self) -> int:
        """Return the position from the part's first byte."""
        return self._position
