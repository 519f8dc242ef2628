"""Sending a blob: one PUT, or chunks where that is refused. distribution-spec spec.md#pushing-blobs."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Sequence
from typing import BinaryIO, cast
from urllib.parse import quote, urljoin

import requests
from attrs import define, frozen

from ocikit.content.store import check_size
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
from ocikit.remote.challenge import Scope
from ocikit.remote.origin import check_step
from ocikit.remote.responses import finish
from ocikit.remote.transport import Transport
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

__all__ = ["CHUNK", "UploadSession", "upload"]

log = logging.getLogger("ocikit")

CHUNK = 4 << 20  # bytes: GHCR refuses larger PATCHes (oci-client PR#37)
_TRIES = 4  # sessions for one blob before it is given up
_STALLS = 4  # times that a session may be asked where it is without having moved
_PATIENCE = 5  # the answer to a whole blob may take so many read timeouts: the registry stores it first


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
        absolute = urljoin(str(response.url), location)
        if not transport.serves(absolute) and not transport.insecure:
            check_step(str(response.url), absolute)
        given = response.headers.get("OCI-Chunk-Min-Length", "")
        return cls(location=absolute, minimum=int(given) if re.fullmatch(r"\d{1,18}", given) else minimum)

    def closing(self, digest: Digest) -> str:
        """The URL of the last PUT: the location's query stays as it is, the digest comes behind it."""
        return f"{self.location}{'&' if '?' in self.location else '?'}digest={quote(digest, safe='')}"


class _Exactly:
    """A stream from where it stands, of just so many bytes.

    A registry would wait for the missing ones until it times out, and take those beyond for the next request.
    """

    def __init__(self, stream: BinaryIO, descriptor: Descriptor) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._start = stream.tell() if stream.seekable() else 0
        self._position = 0

    def read(self, size: int = -1, /) -> bytes:
        """Bytes, at most `size`. Raises: SizeMismatch: the stream ends too early, or doesn't end."""
        data = self._stream.read(size)
        self._position += len(data)
        if self._position > self._descriptor.size or (not data and size):
            check_size(self._descriptor, self._position)
        return data

    def seekable(self) -> bool:
        return self._stream.seekable()

    def seek(self, offset: int, /) -> int:
        self._position = self._stream.seek(self._start + offset) - self._start
        return self._position

    def tell(self) -> int:
        return self._position


@define(eq=False)
class _Upload:
    """One blob on its way."""

    transport: Transport
    path: str
    descriptor: Descriptor
    stream: _Exactly
    scopes: Sequence[Scope]
    doing: str
    session: UploadSession | None = None

    def open(self) -> UploadSession:
        algorithm = self.descriptor.digest.algorithm
        query = "" if algorithm == "sha256" else f"?digest-algorithm={algorithm}"
        response = self._request("POST", self.path + query, {})
        finish(response)
        self.session = UploadSession.of(response, self.transport)
        return self.session

    def whole(self) -> None:
        """One PUT with all bytes."""
        session = self.session or self.open()
        self.stream_to(0)
        response = self.transport.request(
            "PUT", session.closing(self.descriptor.digest), self.doing, scopes=self.scopes,
            headers={"Content-Type": "application/octet-stream"},
            body=cast("BinaryIO", self.stream) if self.descriptor.size else b"", length=self.descriptor.size,
            retry=False, timeout=self.transport.network.read_timeout * _PATIENCE,
        )  # fmt: skip
        self._check(response)

    def chunks(self, size: int) -> None:
        """PATCHes of at most `size` bytes, the place kept by us: ranges that registries report are stale or ambiguous."""
        session = self.session or self.open()
        size = max(size, session.minimum)
        offset, stalls = 0, 0
        while offset < self.descriptor.size:
            self.stream_to(offset)
            chunk = _read_exactly(self.stream, min(size, self.descriptor.size - offset))
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{offset}-{offset + len(chunk) - 1}",
            }
            try:
                # 201 is ECR's answer to a PATCH, 204 that of some others: regclient#81, ggcr#2198
                response = self._request("PATCH", session.location, headers, chunk)
                finish(response)
                session = (
                    UploadSession.of(response, self.transport, minimum=session.minimum)
                    if response.headers.get("Location")
                    else session
                )
                offset += len(chunk)
                stalls = 0
            except (RangeInvalid, ConnectionFailed) as error:
                session, reached = self.status(session, error)
                stalls = stalls + 1 if reached <= offset else 0
                if stalls > _STALLS or reached > self.descriptor.size:
                    raise
                offset = reached
            self.session = session
        response = self._request("PUT", session.closing(self.descriptor.digest), {})
        self._check(response)

    def status(self, session: UploadSession, cause: OcikitError) -> tuple[UploadSession, int]:
        """Where the registry says that the upload is. Raises the cause if it doesn't know."""
        try:
            response = self._request("GET", session.location, {})
        except RegistryError as error:
            raise cause from error
        finish(response)
        match = re.fullmatch(r"(?:bytes=)?0-(\d+)", response.headers.get("Range", ""))
        if match is None:
            raise cause
        moved = (
            UploadSession.of(response, self.transport, minimum=session.minimum)
            if response.headers.get("Location")
            else session
        )
        # "0-0" is one byte or none: sending from 0 again is right for the one and refused for the other
        return moved, int(match[1]) + 1 if match[1] != "0" else 0

    def abandon(self) -> None:
        """Cancel the session; whether that works is the registry's business."""
        session, self.session = self.session, None
        if session is not None:
            with contextlib.suppress(OcikitError):
                response = self._request("DELETE", session.location, {}, retry=False)
                finish(response)

    def stream_to(self, offset: int) -> None:
        if self.stream.seekable():
            if self.stream.tell() != offset:
                self.stream.seek(offset)
        elif self.stream.tell() != offset:
            raise io.UnsupportedOperation("the content can be read only once")

    def _request(
        self, method: str, target: str, headers: dict[str, str], body: bytes | None = None, *, retry: bool = True
    ) -> requests.Response:
        retry = retry and method in {"POST", "GET"}
        return self.transport.request(
            method, target, self.doing, scopes=self.scopes, headers=headers, body=body, retry=retry
        )

    def _check(self, response: requests.Response) -> None:
        finish(response)
        said = response.headers.get("Docker-Content-Digest")
        if said and said != self.descriptor.digest and said.partition(":")[0] == self.descriptor.digest.algorithm:
            raise UploadInvalid(
                f"{self.transport.host} stored {said} for {self.descriptor.digest}",
                hint="the registry damaged the content; don't use what was pushed",
                status=response.status_code, url=str(response.url), host=self.transport.host,
            )  # fmt: skip
        self.session = None


def upload(
    transport: Transport,
    path: str,
    descriptor: Descriptor,
    stream: BinaryIO,
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
    work = _Upload(transport, path, descriptor, _Exactly(stream, descriptor), scopes, doing, session)
    size = chunk_size
    for attempt in range(_TRIES):
        try:
            if size is None:
                work.whole()
            else:
                work.chunks(size)
            return
        except (TooLarge, RangeInvalid) as error:
            work.abandon()
            if size is not None or attempt == _TRIES - 1 or not stream.seekable():
                raise
            log.info("%s: refused whole (%s); sending chunks of %d bytes", doing, error.status, CHUNK)
            size = CHUNK
        except (ConnectionFailed, RegistryError) as error:
            lasting = isinstance(error, RegistryError) and not isinstance(error, UploadUnknown) and error.status < 500
            if lasting or attempt == _TRIES - 1 or not stream.seekable():
                work.abandon()
                raise
            log.info("%s: %s; trying again in a new session", doing, error.message)
            work.abandon()
        except BaseException:
            # Ctrl-C too: the registry need not keep the half
            work.abandon()
            raise


def _read_exactly(stream: _Exactly, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
