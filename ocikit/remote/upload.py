"""Sending a blob: one PUT, or chunks where that is refused. distribution-spec spec.md#pushing-blobs."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Sequence
from typing import BinaryIO, cast
from urllib.parse import quote

import requests
from attrs import define, frozen

from ocikit import display
from ocikit.errors import (
    ConnectionFailed,
    InvalidResponse,
    OcikitError,
    RangeInvalid,
    RegistryError,
    TooLarge,
    UploadInvalid,
    UploadUnknown,
)
from ocikit.progress.base import notify
from ocikit.remote.http.deadlines import deadline_scope
from ocikit.remote.http.responses import drain
from ocikit.remote.http.retry import backoff
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import check_redirect, join
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.streams import ByteStream, check_size

log = logging.getLogger("ocikit")

CHUNK = 4 << 20  # bytes: GHCR refuses larger PATCHes (oci-client PR#37)
_TRIES = 4  # sessions for one blob before it is given up
_STALLS = 4  # times that a session may be asked where it is without having moved
_PATIENCE = 5  # the answer to a whole blob may take so many read timeouts: the registry stores it first
_PARTING = 5.0  # seconds to wait for the answer to a cancellation; whoever pressed Ctrl-C wants to leave
_WORTH = 1 << 20  # bytes of a broken PUT that a registry has to have kept to go on from there
_NOTICE = 0.25  # seconds: a registry needs a moment to see that a connection is gone, and to put away what came
_KEPT = 32 << 20  # bytes of a chunk that is kept in memory when its stream can't be read again


@frozen(kw_only=True)
class UploadSession:
    """An upload that a registry has opened: an opaque URL, and how small chunks may be."""

    location: str
    """Absolute; changes with every answer."""
    minimum: int = 0
    """Bytes: every chunk but the last is at least so long (`OCI-Chunk-Min-Length`)."""

    @classmethod
    def of(cls, response: requests.Response, transport: Transport, *, minimum: int = 0) -> UploadSession:
        """The session that a response's Location names.

        Raises: InvalidResponse: if there is none, or it leads somewhere unsafe.
        """
        location = response.headers.get("Location")
        if not location:
            raise InvalidResponse(
                f"{transport.host} opened an upload without saying where (no Location header)",
                hint="this is not a working registry; tell its operators",
                url=str(response.url), status=response.status_code, host=transport.host,
            )  # fmt: skip
        # Relative to the URL that was asked, with its query kept byte for byte: it may be signed
        absolute = join(str(response.url), location)
        if not transport.serves(absolute):
            check_redirect(str(response.url), absolute, insecure=transport.insecure)
        given = response.headers.get("OCI-Chunk-Min-Length", "")
        return cls(location=absolute, minimum=int(given) if re.fullmatch(r"\d{1,18}", given) else minimum)

    def closing(self, digest: Digest) -> str:
        """The URL of the last PUT: the location's query stays as it is, the digest comes behind it."""
        return f"{self.location}{'&' if '?' in self.location else '?'}digest={quote(digest, safe='')}"


class _Unreadable(Exception):
    """The content can't be read; not an OSError, which urllib3 would take for a broken connection."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Part:
    """So many bytes of a stream, from where it stands, as the body of a request.

    A registry would wait for missing bytes until it times out, and take those beyond for the next request.
    """

    def __init__(self, stream: ByteStream, descriptor: Descriptor, offset: int, length: int) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._offset = offset
        self._length = length
        self._start = stream.tell() if stream.seekable() else 0
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Bytes, at most `size`. Raises: _Unreadable: for SizeMismatch, too: the stream ends too early, or doesn't end."""
        left = self._length - self._position
        if not left:
            return b""
        whole = self._offset + self._length == self._descriptor.size
        try:
            # With the last bytes one more is asked for, before they are sent
            data = self._stream.read(left + whole if size < 0 or size > left else size)
            self._position += len(data)
            if not data or (whole and self._position == self._length and self._stream.read(1)):
                check_size(self._descriptor, self._offset + self._position + bool(data))
            elif self._position > self._length:
                check_size(self._descriptor, self._offset + self._position)
        except Exception as error:
            raise _Unreadable(error) from error
        return data

    def seekable(self) -> bool:
        """Whether it can be read again."""
        return self._stream.seekable()

    def seek(self, offset: int, /) -> int:
        """Move; from the part's first byte."""
        self._position = self._stream.seek(self._start + offset) - self._start
        return self._position

    def tell(self) -> int:
        """The position, from the part's first byte."""
        return self._position


@define(eq=False)
class _Upload:
    """One blob on its way."""

    transport: Transport
    path: str
    descriptor: Descriptor
    stream: ByteStream
    scopes: Sequence[Scope]
    doing: str
    deadline: float | None
    session: UploadSession | None = None
    start: int = 0
    """Where the content begins in the stream."""
    body: BinaryIO | bytes = b""
    """What went into the last PUT of the whole."""
    final: bool = False
    """Whether the registry called the blob complete though we hadn't closed the session."""

    def open(self) -> UploadSession:
        algorithm = self.descriptor.digest.algorithm
        query = "" if algorithm == "sha256" else f"?digest-algorithm={algorithm}"
        response = self._request("POST", self.path + query)
        self.session = UploadSession.of(response, self.transport)
        return self.session

    def whole(self) -> None:
        """One PUT with all bytes."""
        session = self.session or self.open()
        self.body = self.part(0, self.descriptor.size)
        self._request(
            "PUT", session.closing(self.descriptor.digest),
            headers={"Content-Type": "application/octet-stream"},
            body=self.body, length=self.descriptor.size,
            timeout=self.transport.network.read_timeout * _PATIENCE,
        )  # fmt: skip

    def kept(self, cause: ConnectionFailed | RegistryError) -> int | None:
        """The byte from which a PUT that broke can be continued in its session; None if that isn't worth it.

        distribution 3 and olareg keep what came of it; distribution 2.8 drops the session, and others say nothing.
        """
        if self.session is None:
            return None
        try:
            session, reached = self.status(self.session, cause)
        except (ConnectionFailed, RegistryError):
            return None
        # What a stream that can't seek gave is gone, but for what the registry has
        gone = 0 if isinstance(self.body, bytes) or self.stream.seekable() else self.body.tell()
        if not max(_WORTH, gone) <= reached <= self.descriptor.size:
            return None
        self.session = session
        return reached

    def chunks(self, size: int, offset: int = 0) -> None:
        """PATCHes of at most `size` bytes, the place kept by us: ranges that registries report are stale or ambiguous."""
        session = self.session or self.open()
        size = max(size, session.minimum)
        stalls = 0
        chunk: BinaryIO | bytes = b""
        while offset < self.descriptor.size:
            length = min(size, self.descriptor.size - offset)
            if isinstance(chunk, bytes) and chunk:  # what is left of one that can't be read again
                length = len(chunk)
            else:
                chunk = self.part(offset, length)
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{offset}-{offset + length - 1}"}
            try:
                response = self._request("PATCH", session.location, headers=headers, body=chunk, length=length)
                # 201 is ECR's answer to a PATCH, 204 that of some others: regclient#81, ggcr#2198
                self.final |= response.status_code == 201
                session = self._moved(session, response)
                offset += length
                chunk, stalls = b"", 0
            except (RegistryError, ConnectionFailed) as error:
                if isinstance(error, RegistryError) and not isinstance(error, RangeInvalid):
                    if error.status < 500:
                        raise
                    time.sleep(backoff(stalls))
                session, reached = self.status(session, error)
                if isinstance(error, RangeInvalid) and reached == offset and length > CHUNK:
                    raise  # the place is right, so it is the size
                # Elsewhere than within what was sent, or again where it was: this session leads nowhere
                stalls = stalls + 1 if reached <= offset else 0
                if isinstance(error, RangeInvalid) and offset == reached == 0 and self.stream.seekable():
                    reached = 1  # it was one byte
                lost = not self.stream.seekable() and (reached < offset or not isinstance(chunk, bytes))
                if lost or stalls > _STALLS or reached > offset + length:
                    raise
                chunk = chunk[reached - offset :] if isinstance(chunk, bytes) else b""
                offset = reached
            self.session = session
        self._request("PUT", session.closing(self.descriptor.digest))

    def part(self, offset: int, length: int) -> BinaryIO | bytes:
        """Bytes of the content, to be sent; again, if the stream can seek or they are few."""
        if not length:
            return b""
        if self.stream.seekable():
            if self.stream.tell() != self.start + offset:
                self.stream.seek(self.start + offset)
            return cast("BinaryIO", _Part(self.stream, self.descriptor, offset, length))
        part = _Part(self.stream, self.descriptor, offset, length)
        if length == self.descriptor.size or length > _KEPT:
            return cast("BinaryIO", part)
        return b"".join(iter(lambda: part.read(length), b""))

    def status(self, session: UploadSession, cause: OcikitError) -> tuple[UploadSession, int]:
        """Where the registry says that the upload is. Raises the cause if it doesn't know."""
        try:
            response = self._request("GET", session.location)
        except RegistryError as error:
            raise cause from error
        match = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", response.headers.get("Range", ""))
        if match is None:
            raise cause
        # "0-0" is one byte or none: sending from 0 again is right for the one and refused for the other
        return self._moved(session, response), int(match[1]) + 1 if match[1] != "0" else 0

    def _moved(self, session: UploadSession, response: requests.Response) -> UploadSession:
        if not response.headers.get("Location"):
            return session
        return UploadSession.of(response, self.transport, minimum=session.minimum)

    def abandon(self) -> None:
        """Cancel the session; whether that works is the registry's business."""
        session, self.session = self.session, None
        if session is not None:
            with contextlib.suppress(OcikitError), deadline_scope(time.monotonic() + _PARTING):
                drain(self.transport.request("DELETE", session.location, self.doing, scopes=self.scopes, retry=False))

    def stored(self) -> bool:
        """Whether the blob is there after all: the answer to the last request may have got lost on its way."""
        path = f"{self.path.removesuffix('uploads/')}{self.descriptor.digest}"
        try:
            with deadline_scope(self.deadline):
                response = self.transport.request(
                    "HEAD", path, self.doing, scopes=self.scopes, ok_statuses=(403, 404), retry=False
                )
        except OcikitError:
            return False
        drain(response)
        return response.status_code == 200

    def _request(
        self,
        method: str,
        target: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
        length: int | None = None,
        timeout: float | None = None,
    ) -> requests.Response:
        """One request; one that moves bytes is never repeated blindly, since the session may have taken a part of them."""
        try:
            with deadline_scope(self.deadline):
                response = self.transport.request(
                    method, target, self.doing, scopes=self.scopes, headers=headers, body=body, length=length,
                    retry=method in {"POST", "GET"}, timeout=timeout,
                )  # fmt: skip
        except ConnectionFailed:
            if body:
                time.sleep(_NOTICE)
            raise
        drain(response)
        if method == "PUT":
            self.session = None
            self._check(response)
        return response

    def _check(self, response: requests.Response) -> None:
        said = response.headers.get("Docker-Content-Digest")
        if not said or said == self.descriptor.digest:
            return
        if said.partition(":")[0] != self.descriptor.digest.algorithm and self.stored():
            return  # the registry goes by another name for the same content
        raise UploadInvalid(
            f"{self.transport.host} stored {said} for {self.descriptor.digest}",
            hint="the registry damaged the content, or doesn't know the algorithm; don't use what was pushed",
            status=response.status_code, url=str(response.url), host=self.transport.host,
        )  # fmt: skip


def upload(
    transport: Transport,
    path: str,
    descriptor: Descriptor,
    stream: ByteStream,
    *,
    scopes: Sequence[Scope],
    doing: str,
    session: UploadSession | None = None,
    chunk_size: int | None = None,
) -> None:
    """Send a blob.

    Args:
        transport: the registry.
        path: the repository's uploads endpoint.
        descriptor: what the stream holds.
        stream: read from where it stands to its end; a seekable one can be sent again after a failure.
        scopes: the rights that it takes.
        doing: for messages.
        session: an upload that is open already: a mount that wasn't granted leaves one.
        chunk_size: bytes; None sends the whole in one request, and chunks of 4 MiB only if that is refused.

    Raises:
        SizeMismatch: the stream has more or fewer bytes than its descriptor says.
        UploadInvalid: the registry refuses the content. RegistryError, ConnectionFailed: after the retries.
    """
    start = stream.tell() if stream.seekable() else 0
    size, deadline = chunk_size, transport.deadline()
    work = _Upload(transport, path, descriptor, stream, scopes, doing, deadline, session, start)
    attempt, offset = 0, 0  # the latter above 0 goes on within the session of a PUT that broke
    while True:
        transport.check_deadline(deadline, doing)
        try:
            if offset:
                work.chunks(CHUNK, offset)
            elif size is None:
                work.whole()
            else:
                work.chunks(size)
            return
        except _Unreadable as unreadable:
            work.abandon()
            raise unreadable.error from unreadable.error.__cause__
        except (ConnectionFailed, RegistryError) as error:
            refused = isinstance(error, TooLarge | RangeInvalid) and not offset and (size is None or size > CHUNK)
            lost = _lost(error)
            broken = bool(offset) or (lost and not attempt) or _may_pass(error)
            stored = (broken or work.final) and not refused and work.stored()
            kept = work.kept(error) if broken and not stored and not offset and size is None else None
            if kept:
                log.info("%s: %s; going on at byte %d of %d", doing, error.message, kept, descriptor.size)
                notify(f"the upload broke; going on at {display.size(kept)}")
                offset = kept
                continue
            offset = 0
            work.abandon()
            if stored:
                return
            attempt += 1
            if not (broken or refused) or attempt == _TRIES or not stream.seekable():
                if lost and not error.hint:
                    error.hint = "if several replicas answer for this host, they need the same http.secret"
                raise
            if refused:
                log.info("%s: %s; sending chunks of %d bytes", doing, error.message, CHUNK)
                size = CHUNK
            else:
                log.info("%s: %s; trying again in a new session", doing, error.message)
                notify("the upload broke; beginning it again")
                time.sleep(backoff(attempt - 1))
        except BaseException:
            # Ctrl-C too: the registry need not keep the half
            work.abandon()
            raise


def _lost(error: OcikitError) -> bool:
    """Whether the registry doesn't know the session: that of another replica, perhaps.

    distribution says 404 with BLOB_UPLOAD_INVALID then: oras-dotnet#132. With another status that may be a verdict on the content.
    """
    invalid = isinstance(error, UploadInvalid) and (error.status == 404 or error.code == "BLOB_UPLOAD_INVALID")
    return invalid or isinstance(error, UploadUnknown)


def _may_pass(error: OcikitError) -> bool:
    """Whether a new session may do better, and the one after that."""
    if isinstance(error, RegistryError) and (error.status >= 500 or (_lost(error) and error.status == 404)):
        return True
    return isinstance(error, ConnectionFailed | UploadUnknown | RangeInvalid)
