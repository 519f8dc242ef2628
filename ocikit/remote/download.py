"""Reading a blob: seekable, and resumed when the connection breaks. distribution-spec spec.md#pulling-blobs."""

from __future__ import annotations

import io
import logging
import re
import time
from typing import Any

import requests

from ocikit import display
from ocikit.errors import ConnectionFailed, OcikitError, SizeMismatch, TimedOut
from ocikit.progress.base import notify
from ocikit.remote.http.causes import CONNECTION_ERRORS, is_timeout, root_cause
from ocikit.remote.http.deadlines import deadline_scope
from ocikit.remote.http.responses import drain, is_encoded
from ocikit.remote.http.transport import Transport
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor

log = logging.getLogger("ocikit")

_PROGRESS = 1 << 20  # bytes; a resumption that gained as much doesn't count against the limit
_STALLS = 5  # resumptions in a row that gained less
_PAUSE = 0.1  # seconds before the second of them; doubled from one to the next
_PIECE = 1 << 17  # bytes asked of a socket at once: what a piece had when the connection broke has to come again
_PACKED = re.compile(r"[+.-](gzip|gz|zstd|zst|zip)$")  # media types whose own bytes are compressed


class BlobReader(io.RawIOBase):
    """A blob as a stream. A broken or short answer is resumed from the byte where it broke, at the registry's URL.

    The bytes are not verified here; whoever keeps them does that. No request is made before the first read.
    """

    def __init__(self, transport: Transport, path: str, descriptor: Descriptor, scope: Scope, doing: str) -> None:
        self._transport = transport
        self._path = path
        self._descriptor = descriptor
        self._scope = scope
        self._doing = doing
        self._response: requests.Response | None = None
        self._source: Any = None
        self._begun = False
        self._position = 0
        self._deadline: float | None = None  # set by the first request
        self._mark = 0  # where the last resumption started
        self._stalls = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always: a server without ranges costs reading from the start."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the next read asks for a range."""
        self._check_open()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._descriptor.size}
        if whence not in bases or (whence == io.SEEK_SET and offset < 0):
            raise ValueError(f"seek to {offset} with whence={whence}")
        position = max(0, bases[whence] + offset)
        if position != self._position:
            self._drop()
            self._position = self._mark = position
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer; 0 at the end.

        Raises: BlobUnknown and other RegistryErrors; ConnectionFailed: if resuming leads nowhere; SizeMismatch: if
        the registry has more bytes than the descriptor says.
        """
        self._check_open()
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        while True:
            left = self._descriptor.size - self._position
            if left <= 0 and self._response is None:
                return 0
            n, error = 0, None
            self._transport.check_deadline(self._deadline, self._doing)
            try:
                if self._response is None:
                    self._deadline = self._deadline or self._transport.deadline()
                    with deadline_scope(self._deadline):
                        self._connect()
                # At the end one more byte is asked for: a longer body must not pass as a whole one
                n, error = self._fill(view[: left + 1] if len(view) > left else view)
            except CONNECTION_ERRORS as broken:
                if isinstance(broken, OcikitError) and (not isinstance(broken, ConnectionFailed) or not self._begun):
                    raise
                error = broken
            if n > left:
                self._drop()
                raise SizeMismatch(
                    f"{self._transport.host} sends more than {self._descriptor.size} bytes for {self._descriptor.digest}",
                    hint="the descriptor or the registry is wrong; nothing of it was kept",
                    expected=self._descriptor.size,
                    actual=self._descriptor.size + 1,
                )
            self._position += n
            if error is not None or not n:
                if n == left:
                    self._drop()
                    return n
                self._resume(error)
            if n:
                return n

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the blob is closed")

    def _fill(self, view: memoryview) -> tuple[int, Exception | None]:
        """How many bytes came, and what broke after them."""
        got = 0
        try:
            while got < len(view) and (n := self._source.readinto(view[got : got + _PIECE])):
                got += n
        except CONNECTION_ERRORS as error:
            return got, error
        return got, None

    def _drop(self) -> None:
        response, self._response, self._source = self._response, None, None
        if response is None:
            return
        # A body read to its end leaves the connection fit for the next request
        inner = getattr(response.raw, "_fp", None)
        if inner is not None and getattr(inner, "closed", False) is False and getattr(inner, "length", None) == 0:
            inner.close()
        if inner is not None and inner.isclosed():
            response.raw.release_conn()
        else:
            response.close()

    def _resume(self, error: Exception | None) -> None:
        """Get ready to ask again from here, if that leads anywhere."""
        gained = self._position - self._mark
        self._stalls = 0 if gained >= _PROGRESS else self._stalls + 1
        self._mark = self._position
        self._drop()
        if self._stalls > _STALLS:
            kind = TimedOut if is_timeout(error) else ConnectionFailed
            raise kind(
                f"{self._transport.host} broke off {self._stalls} times at byte {self._position} of {self._descriptor.size} "
                f"of {self._descriptor.digest}",
                hint="call again: what was received is kept and resumed; if it breaks at the same byte, the registry's copy is cut short",
            ) from root_cause(error)
        log.info("%s: resuming at byte %d of %d", self._doing, self._position, self._descriptor.size)
        notify(f"{self._transport.host} broke off; resuming at {display.size(self._position)}")
        if self._stalls > 1:
            time.sleep(_PAUSE * 2 ** (self._stalls - 2))

    def _connect(self) -> None:
        start = self._position
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._get(headers, ok_statuses=(416,) if start else ())
        if start:
            usable = response.status_code == 206 and _starts_at(response, start, self._descriptor.size)
            usable = usable and not is_encoded(response)  # a range of what a proxy made of it
            if not usable and response.status_code != 200:
                # 416, or a range that isn't the one asked for: the whole body is the answer that can't be wrong
                drain(response)
                response = self._get({})
            if response.status_code == 200:
                self._adopt(response)
                self._skip(start)
                return
        self._adopt(response)

    def _get(self, headers: dict[str, str], ok_statuses: tuple[int, ...] = ()) -> requests.Response:
        return self._transport.request(
            "GET", self._path, self._doing, scopes=(self._scope,), headers=headers, ok_statuses=ok_statuses
        )

    def _adopt(self, response: requests.Response) -> None:
        """Take the body as it comes, unless a proxy compressed it though we asked it not to."""
        self._response = response
        self._begun = True
        announced = response.headers.get("Content-Length", "")
        # Storage may keep the header with a file that is compressed itself: its length tells, else its type
        own = announced == str(self._descriptor.size) if announced else _PACKED.search(self._descriptor.media_type)
        if is_encoded(response) and not own:
            self._source = _Decoded(response)
            return
        # urllib3's own readinto reads a bytes object and copies it; http.client's goes from the socket to the buffer
        inner = getattr(response.raw, "_fp", None)
        self._source = inner if hasattr(inner, "readinto") else response.raw

    def _skip(self, count: int) -> None:
        """Read up to a position that the server wouldn't start from."""
        scratch = memoryview(bytearray(_PIECE))
        while count:
            n = int(self._source.readinto(scratch[: min(count, _PIECE)]) or 0)
            if not n:
                raise ConnectionFailed(f"{self._transport.host} broke off while skipping to byte {self._position}")
            count -= n


class _Decoded:
    """A body whose Content-Encoding has to be taken off."""

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw
        self._rest = b""

    def readinto(self, view: memoryview) -> int:
        data = self._rest or self._raw.read(len(view), decode_content=True)  # urllib3 1 may give more than that
        n = min(len(data), len(view))
        view[:n], self._rest = data[:n], data[n:]
        return n


def _starts_at(response: requests.Response, start: int, size: int) -> bool:
    """Whether Content-Range is exactly the rest of the blob. RFC 9110 section 14.4."""
    match = re.fullmatch(
        r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", response.headers.get("Content-Range", "").strip()
    )
    return match is not None and int(match[1]) == start and int(match[2]) == size - 1 and match[3] in {"*", str(size)}
