"""Blobs over HTTP: get, head, delete. distribution-spec spec.md#pulling-blobs, #deleting-blobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from ocikit.server.auth.access import Permission
from ocikit.server.http.context import RequestContext, digest, repository
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Response
from ocikit.server.storage.base import BlobInUse
from ocikit.spec.digest import Digest

#: One range, with either end left out.
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)

#: Bytes a piece. Larger ones saved nothing, and each connection holds some.
PIECE = 1 << 18


def get(exchange: RequestContext, name: str, reference: str) -> Response:
    """A blob, or one range of it. Raises: Refusal: 404, 416."""
    name, wanted = repository(name), digest(reference)
    exchange.require(Permission("pull", name))
    size = exchange.storage.blob(name, wanted)
    if size is None:
        raise unknown(name, wanted)
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Docker-Content-Digest", wanted),
        ("ETag", f'"{wanted}"'),
        ("Accept-Ranges", "bytes"),
        # Content by digest never changes, and only those who may see it shall keep it
        ("Cache-Control", "private, max-age=31536000, immutable"),
    )
    request = exchange.request
    if matches(request.header("If-None-Match"), wanted):
        return Response(304, headers[1:])
    if request.method == "HEAD":
        # RFC 9110 #14.2: ranges are for GET
        return Response(200, (*headers, ("Content-Length", str(size))))
    part = single_range(request.header("Range"), size)
    if part is None or request.header("If-Range") not in {"", f'"{wanted}"'}:
        body = _open(exchange, name, wanted, 0, size)
        return Response(200, (*headers, ("Content-Length", str(size))), body)
    first, last = part
    if first > last:
        raise ErrorResponse(
            416, "SIZE_INVALID", f"there are no such bytes: the blob has {size}",
            headers=(("Content-Range", f"bytes */{size}"),),
        )  # fmt: skip
    ranged = (("Content-Length", str(last - first + 1)), ("Content-Range", f"bytes {first}-{last}/{size}"))
    return Response(206, (*headers, *ranged), _open(exchange, name, wanted, first, last - first + 1))


def delete(exchange: RequestContext, name: str, reference: str) -> Response:
    """Take a blob from a repository. Raises: Refusal: 404, 405."""
    name, wanted = repository(name), digest(reference)
    exchange.require(Permission("delete", name))
    exchange.writing("blobs")
    try:
        gone = exchange.storage.metadata.unlink(name, wanted, force=exchange.settings.delete_referenced)
    except BlobInUse as error:
        raise ErrorResponse(405, "UNSUPPORTED", f"a manifest in {name} needs {wanted}: delete that first") from error
    if not gone:
        raise unknown(name, wanted)
    return Response(202, (("Content-Length", "0"), ("Docker-Content-Digest", wanted)))


def unknown(name: str, wanted: Digest) -> ErrorResponse:
    """The answer for what isn't there, or may not be seen to be."""
    return ErrorResponse(
        404, "BLOB_UNKNOWN", f"{name} has no blob {wanted}; whoever has it can push it again", detail={"digest": wanted}
    )


def matches(condition: str, wanted: str) -> bool:
    """Whether an If-Match or If-None-Match names content. RFC 9110 #13.1.1."""
    if not condition:
        return False
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in condition.split(",")]
    return "*" in tags or wanted in tags


def single_range(header: str, size: int) -> tuple[int, int] | None:
    """The first and last byte of a range, clamped; None for all. RFC 9110 #14.1.2.

    One range of bytes is served; several, and other units, give everything, as they may. First above last is a range
    that can't be had.

    >>> single_range("bytes=2-", 10), single_range("bytes=-3", 10), single_range("bytes=0-1,4-5", 10)
    ((2, 9), (7, 9), None)
    """
    match = _RANGE.fullmatch(header) if header else None
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = int(match[2])
        return (max(size - length, 0), size - 1) if length and size else (1, 0)
    first, last = int(match[1]), int(match[2]) if match[2] else size - 1
    return (first, min(last, size - 1)) if first < size else (1, 0)


def _open(exchange: RequestContext, name: str, wanted: Digest, first: int, length: int) -> FileBody:
    try:
        return FileBody(exchange.storage.blobs.open(wanted), first, length)
    except KeyError as error:
        raise unknown(name, wanted) from error


class FileBody:
    """Some bytes of a file, by pieces; closes it at the end."""

    def __init__(self, file: BinaryIO, first: int, length: int) -> None:
        self._file = file
        self._left = length
        if first:
            file.seek(first)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        piece = self._file.read(min(PIECE, self._left)) if self._left else b""
        if not piece:
            self.close()
            raise StopIteration
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        """Close the file."""
        self._file.close()
