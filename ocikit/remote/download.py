"""Seekable, resumable reading of blobs. distribution-spec spec.md#pulling-blobs."""

from __future__ import annotations

import io
import logging
import re
import time

import requests

from ocikit import display
from ocikit.errors import ConnectionFailed, OcikitError, SizeMismatch, TimedOut
from ocikit.forks import fork_count
from ocikit.progress.base import notify
from ocikit.remote.http.causes import CONNECTION_ERRORS, is_timeout, root_cause
from ocikit.remote.http.deadlines import deadline_scope
from ocikit.remote.http.framing import framing_error
from ocikit.remote.http.responses import body_of, drain, invalid_framing, is_encoded, release, request_fields
from ocikit.remote.http.transport import Transport
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.store.streams import PositionedStream, ReadableInto

log = logging.getLogger("ocikit")

_MIN_PROGRESS = 1 << 20  # bytes; a resumption that gained as much does not count as a stall
_MAX_STALLS = 5  # resumptions in a row without progress
_STALL_WAIT = 0.1  # seconds before the second of them, doubled for each further one
_CHUNK = 1 << 17  # bytes read from a socket at once: what a broken read had received must be transferred again
_COMPRESSED_TYPE = re.compile(r"[+.-](gzip|gz|zstd|zst|zip)$")  # media types of compressed blobs


class BlobReader(PositionedStream):
    """A blob as a seekable stream.

    A broken or short response is resumed at the byte where it broke, at the registry's URL. A forked child requests the
    rest from its own position. The bytes are not verified here. Nothing is requested before the first read.

    With a span the stream begins and ends there, by closed ranges; positions stay those in the blob. If the registry
    ignores or rejects the range, the stream goes on to the end of the blob: see `whole`.

    Args:
        transport: The registry.
        path: Path of the blob.
        descriptor: Descriptor of the blob; its size is the end of the stream.
        scope: Right to pull.
        action: Operation, as named in error messages.
        span: First byte, and the one after the last; None reads the whole blob.
        deadline: Time of the monotonic clock; None begins a new one with the first request.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        descriptor: Descriptor,
        scope: Scope,
        action: str,
        *,
        span: tuple[int, int] | None = None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(descriptor.size)
        self._transport = transport
        self._path = path
        self._descriptor = descriptor
        self._scope = scope
        self._action = action
        self._response: requests.Response | None = None
        self._forks = fork_count()  # of the process that owns the response
        self._source: ReadableInto = io.BytesIO()
        self._started = False
        self._start, self._end = span or (0, descriptor.size)
        self._position = self._resumed_at = self._start
        self._deadline = deadline
        self._stalls = 0
        self.whole = span is None
        """Whether the stream reaches the end of the blob: there was no span, or the registry did not honour it."""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer and return the number of bytes, 0 at the end.

        Raises:
            BlobUnknown: The registry does not have the blob.
            RegistryError: The registry rejects the request.
            ConnectionFailed: The connection breaks repeatedly without progress.
            InvalidResponse: The lengths in the response are invalid.
            SizeMismatch: The registry sends more bytes than the descriptor's size, or than the span's.
        """
        self._check_open()
        self._drop_inherited()
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        while True:
            if self._position >= self._end and self._response is None:
                return 0
            n, error = 0, None
            self._transport.check_deadline(self._deadline, self._action)
            try:
                if self._response is None:
                    self._deadline = self._deadline or self._transport.deadline()
                    with deadline_scope(self._deadline):
                        self._connect()
                left = self._end - self._position  # a response without the range has moved the end
                # Request one byte more at the end, to detect a body that is too long
                n, error = self._fill(view[: left + 1] if len(view) > left else view)
            except CONNECTION_ERRORS as caught:
                if isinstance(caught, OcikitError) and (not isinstance(caught, ConnectionFailed) or not self._started):
                    raise
                error = caught
            left = self._end - self._position
            if n > left:
                self._release()
                raise self._too_long()
            self._position += n
            if error is not None or not n:
                if n == left:
                    self._release()
                    return n
                self._prepare_resume(error)
            if n:
                return n

    def close(self) -> None:
        """Release the connection."""
        self._release()
        super().close()

    def _move(self, position: int) -> None:
        self._release()
        self._position = self._resumed_at = position

    def _too_long(self) -> SizeMismatch:
        size = self._descriptor.size if self.whole else self._end - self._start
        return SizeMismatch(
            f"{self._transport.host} sends more than {size} bytes for {'' if self.whole else 'a range of '}{self._descriptor.digest}",
            hint="the descriptor or the registry is wrong; the content was discarded",
            expected=size,
            actual=size + 1,
        )

    def _fill(self, view: memoryview) -> tuple[int, Exception | None]:
        """Fill the view; return the number of bytes, and the error that interrupted them."""
        received = 0
        try:
            while received < len(view) and (n := self._source.readinto(view[received : received + _CHUNK])):
                received += n
        except CONNECTION_ERRORS as error:
            return received, error
        return received, None

    def _drop_inherited(self) -> None:
        """Drop the response in a forked child, because the parent reads from its socket.

        The next request asks for the rest. Closing the response closes the child's copy of the socket only.
        """
        if self._forks != fork_count():
            response, self._response, self._forks = self._response, None, fork_count()
            if response is not None:
                response.close()

    def _release(self) -> None:
        """Return the connection to its pool after a complete body, else close it."""
        self._drop_inherited()
        response, self._response = self._response, None
        if response is not None:
            release(response)

    def _prepare_resume(self, error: Exception | None) -> None:
        """Release the broken connection, and wait if there was no progress."""
        if (response := self._response) is not None and (violation := framing_error(error)) is not None:
            self._release()
            raise invalid_framing(violation, self._action, **request_fields(response)) from None
        gained = self._position - self._resumed_at
        self._stalls = 0 if gained >= _MIN_PROGRESS else self._stalls + 1
        self._resumed_at = self._position
        self._release()
        if self._stalls > _MAX_STALLS:
            kind = TimedOut if is_timeout(error) else ConnectionFailed
            raise kind(
                f"failed to {self._action}: {self._transport.host} broke off {self._stalls} times at byte "
                f"{self._position} of {self._descriptor.size} of {self._descriptor.digest}",
                hint="call again: what was received is stored and resumed; if it breaks at the same byte, the registry's copy is truncated",
            ) from root_cause(error)
        log.info("%s: resuming at byte %d of %d", self._action, self._position, self._descriptor.size)
        notify(f"{self._transport.host} broke off; resuming at {display.size(self._position)}")
        if self._stalls > 1:
            time.sleep(_STALL_WAIT * 2 ** (self._stalls - 2))

    def _connect(self) -> None:
        """Request the span, or the rest of the blob, from the current position."""
        start, size = self._position, self._descriptor.size
        if not start and self.whole:
            self._use(self._get())
            return
        response = self._get(f"bytes={start}-{'' if self.whole else self._end - 1}")
        usable = response.status_code == 206 and has_range(response, start, size, self._end)
        usable = usable and not is_encoded(response)  # a range of the encoded bytes
        self._transport.has_sent_range = usable
        if not usable and response.status_code != 200:
            # After 400, 416 or another range only the whole body is certainly correct
            drain(response)
            response = self._get()
        self._use(response)
        if response.status_code == 200:
            self._end, self.whole = size, True
            self._skip(start)

    def _get(self, span: str = "") -> requests.Response:
        headers, ok_statuses = ({"Range": span}, (400, 416)) if span else ({}, ())
        return self._transport.request(
            "GET", self._path, self._action, scopes=(self._scope,), headers=headers, ok_statuses=ok_statuses
        )

    def _use(self, response: requests.Response) -> None:
        """Read from a response, decoded if a proxy compressed it."""
        self._response = response
        self._started = True
        length = response.headers.get("Content-Length", "")
        # Storage may send Content-Encoding with a blob that is compressed itself: compare the length, else the type
        plain = length == str(self._descriptor.size) if length else _COMPRESSED_TYPE.search(self._descriptor.media_type)
        if is_encoded(response) and not plain:
            self._source = _Decoder(response)
            return
        # http.client reads from the socket into the buffer; urllib3's readinto copies
        body = body_of(response)
        self._source = body if hasattr(body, "readinto") else response.raw

    def _skip(self, count: int) -> None:
        """Read and discard `count` bytes because the server ignored the range."""
        scratch = memoryview(bytearray(_CHUNK))
        while count:
            n = self._source.readinto(scratch[: min(count, _CHUNK)]) or 0
            if not n:
                raise ConnectionFailed(f"{self._transport.host} broke off before byte {self._position}")
            count -= n


class _Decoder:
    """A body whose Content-Encoding is removed."""

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw
        self._rest = b""

    def readinto(self, buffer: memoryview, /) -> int:
        data = self._rest or self._raw.read(len(buffer), decode_content=True)  # urllib3 1 may return more than that
        n = min(len(data), len(buffer))
        buffer[:n], self._rest = data[:n], data[n:]
        return n


def has_range(response: requests.Response, start: int, size: int, end: int | None = None) -> bool:
    """Return True if Content-Range is exactly what was requested. RFC 9110 section 14.4.

    Args:
        response: Response to a range request.
        start: Requested first byte.
        size: Bytes of the blob.
        end: The byte after the requested last one; None for the rest of the blob.
    """
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "").strip()
    )
    last = (size if end is None else end) - 1
    return match is not None and int(match[1]) == start and int(match[2]) == last and match[3] in {"*", str(size)}
