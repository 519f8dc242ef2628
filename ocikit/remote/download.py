"""Reading a blob: seekable, and resumed when the connection breaks. distribution-spec spec.md#pulling-blobs."""

from __future__ import annotations

import io
import logging
import re
from typing import Any

import requests

from ocikit.errors import ConnectionFailed, RegistryError, SizeMismatch
from ocikit.remote.challenge import Scope
from ocikit.remote.responses import BROKEN, finish
from ocikit.remote.transport import Transport
from ocikit.spec.descriptor import Descriptor

__all__ = ["BlobReader"]

log = logging.getLogger("ocikit")

_PROGRESS = 1 << 20  # bytes; a resumption that gained as much doesn't count against the limit
_STALLS = 5  # resumptions in a row that gained less
_SKIP = 1 << 16  # bytes read at once when a server ignores Range


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
        self._position = 0
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
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the next read asks for a range."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._descriptor.size}[whence]
        position = max(0, base + offset)
        if position != self._position:
            self._drop()
            self._position = self._mark = position
        return position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer; 0 at the end.

        Raises: BlobUnknown and other RegistryErrors; ConnectionFailed: if resuming leads nowhere; SizeMismatch: if
        the registry has more bytes than the descriptor says.
        """
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        while True:
            left = self._descriptor.size - self._position
            if left <= 0 and self._response is None:
                return 0
            error: Exception | None = None
            try:
                if self._response is None:
                    self._connect()
                # At the end one more byte is asked for: a longer body must not pass as a whole one
                n = self._fill(view[: left + 1] if len(view) > left else view)
            except BROKEN as broken:
                if isinstance(broken, RegistryError):
                    raise
                n, error = 0, broken
            if n > left:
                self._drop()
                raise SizeMismatch(
                    f"{self._transport.host} sends more than {self._descriptor.size} bytes for {self._descriptor.digest}",
                    hint="the descriptor or the registry is wrong; nothing of it was kept",
                    expected=self._descriptor.size,
                    actual=self._descriptor.size + 1,
                )
            if n or not left:
                self._position += n
                if not n:
                    self._drop()
                return n
            self._resume(error)

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()
        super().close()

    def _fill(self, view: memoryview) -> int:
        return int(self._source.readinto(view) or 0)

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
            raise ConnectionFailed(
                f"{self._transport.host} broke off {self._stalls} times at byte {self._position} of {self._descriptor.size} "
                f"of {self._descriptor.digest}",
                hint="call again: what was received is kept and resumed; if it breaks at the same byte, the registry's copy is cut short",
            ) from error
        log.info("%s: resuming at byte %d of %d", self._doing, self._position, self._descriptor.size)

    def _connect(self) -> None:
        start = self._position
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._get(headers, allow=(416,) if start else ())
        if start:
            usable = response.status_code == 206 and _starts_at(response, start, self._descriptor.size)
            if not usable and response.status_code != 200:
                # 416, or a range that isn't the one asked for: the whole body is the answer that can't be wrong
                finish(response)
                response = self._get({})
            if response.status_code == 200:
                self._adopt(response)
                self._skip(start)
                return
        self._adopt(response)

    def _get(self, headers: dict[str, str], allow: tuple[int, ...] = ()) -> requests.Response:
        return self._transport.request(
            "GET", self._path, self._doing, scopes=(self._scope,), headers=headers, allow=allow
        )

    def _adopt(self, response: requests.Response) -> None:
        """Take the body as it comes, unless a proxy compressed it though we asked it not to."""
        self._response = response
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        announced = response.headers.get("Content-Length", "")
        if encoding not in {"", "identity"} and announced != str(self._descriptor.size):
            self._source = _Decoded(response)
            return
        # urllib3's own readinto reads a bytes object and copies it; http.client's goes from the socket to the buffer
        inner = getattr(response.raw, "_fp", None)
        self._source = inner if hasattr(inner, "readinto") else response.raw

    def _skip(self, count: int) -> None:
        """Read up to a position that the server wouldn't start from."""
        scratch = memoryview(bytearray(_SKIP))
        while count:
            n = self._fill(scratch[: min(count, _SKIP)])
            if not n:
                raise ConnectionFailed(f"{self._transport.host} broke off while skipping to byte {self._position}")
            count -= n


class _Decoded:
    """A body whose Content-Encoding has to be taken off."""

    def __init__(self, response: requests.Response) -> None:
        self._raw = response.raw

    def readinto(self, view: memoryview) -> int:
        data = self._raw.read(len(view), decode_content=True)
        view[: len(data)] = data
        return len(data)


def _starts_at(response: requests.Response, start: int, size: int) -> bool:
    """Whether Content-Range is exactly the rest of the blob. RFC 9110 section 14.4."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    return match is not None and int(match[1]) == start and int(match[2]) == size - 1 and match[3] in {"*", str(size)}
