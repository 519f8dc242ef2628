"""Blob endpoints: get, head, delete.

distribution-spec spec.md#pulling-blobs, #deleting-blobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from ocikit.server.auth.access import Permission
from ocikit.server.http.context import RequestContext, parse_digest, parse_repository
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Response
from ocikit.server.storage.base import BlobInUse, StoredBlob
from ocikit.spec.digest import Digest

#: One range with an optional start or end.
_RANGE = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)

#: Bytes that are sent at once. Larger chunks are not faster, and each connection holds one in memory. A response by path
#: would cost the same: granian 2.8 has no sendfile(2), it reads such a file in chunks too. Chunks are also what the limits for
#: slow readers count.
CHUNK_SIZE = 1 << 18

#: Bytes above which a blob is worth a second request, to the object store.
_REDIRECTED = 1 << 16

#: Seconds that a URL of the object store is valid. It outlives a deletion of the blob and a lost permission by this time.
LINK_SECONDS = 600


def get(ctx: RequestContext, name: str, reference: str) -> Response:
    """Return a blob, or one range of it.

    Raises:
        ErrorResponse: 404, 416, 429 or 503.
    """
    name, digest = parse_repository(name), parse_digest(reference)
    ctx.require(Permission("pull", name))
    blob = ctx.storage.find_blob(name, digest)
    if blob is None:
        raise unknown_blob(name, digest)
    size = blob.size
    etag = f'"{digest}"'
    headers = (
        ("Content-Type", "application/octet-stream"),
        ("Docker-Content-Digest", digest),
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        # Content by digest never changes; "private" keeps it out of shared caches, which do not check permissions
        ("Cache-Control", "private, max-age=31536000, immutable"),
    )
    request = ctx.request
    if etag_matches(request.header("If-None-Match"), digest):
        return Response(304, headers[1:])
    if request.method == "HEAD":
        # RFC 9110 #14.2: ranges apply to GET only
        return Response(200, (*headers, ("Content-Length", str(size))))
    if location := _redirect(ctx, blob):
        # The URL is signed for this content only, with any range. The client may use it for further ranges
        caching = ("Cache-Control", f"private, max-age={LINK_SECONDS * 9 // 10}")
        return Response(
            307, (("Location", location), ("Docker-Content-Digest", digest), caching, ("Content-Length", "0"))
        )
    byte_range = parse_range(request.header("Range"), size)
    if byte_range is None or request.header("If-Range") not in {"", etag}:
        return Response(200, (*headers, ("Content-Length", str(size))), _open(ctx, name, digest, blob, 0, size))
    first, last = byte_range
    if first > last:
        raise ErrorResponse(
            416,
            "SIZE_INVALID",
            f"the range is outside of the blob, which has {size} bytes",
            headers=(("Content-Range", f"bytes */{size}"),),
        )
    length = last - first + 1
    range_headers = (("Content-Length", str(length)), ("Content-Range", f"bytes {first}-{last}/{size}"))
    return Response(206, (*headers, *range_headers), _open(ctx, name, digest, blob, first, length))


def delete(ctx: RequestContext, name: str, reference: str) -> Response:
    """Remove a blob from a repository.

    Raises:
        ErrorResponse: 404 or 405.
    """
    name, digest = parse_repository(name), parse_digest(reference)
    ctx.require(Permission("delete", name))
    ctx.require_writable("blobs")
    try:
        removed = ctx.storage.metadata.remove_blob(name, digest, force=ctx.settings.delete_referenced)
    except BlobInUse as error:
        raise ErrorResponse(
            405, "UNSUPPORTED", f"a manifest in {name} references {digest}; delete the manifest first"
        ) from error
    if not removed:
        raise unknown_blob(name, digest)
    return Response(202, (("Content-Length", "0"), ("Docker-Content-Digest", digest)))


def unknown_blob(name: str, digest: Digest) -> ErrorResponse:
    """Return the error for a blob that the repository does not have."""
    return ErrorResponse(404, "BLOB_UNKNOWN", f"{name} has no blob {digest}; push it again", detail={"digest": digest})


def etag_matches(condition: str, digest: str) -> bool:
    """Return True if an If-None-Match header contains a digest. RFC 9110 #13.1.2."""
    if not condition:
        return False
    etags = [etag.strip().removeprefix("W/").strip('"') for etag in condition.split(",")]
    return "*" in etags or digest in etags


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """Return the first and last byte of a Range header. RFC 9110 #14.1.2.

    Args:
        header: Value of the Range header.
        size: Size of the content in bytes; the last byte is clamped to it.

    Returns:
        None for the whole content: without a header, for several ranges, and for other units. The first byte is
        above the last if the range cannot be satisfied.

    >>> parse_range("bytes=2-", 10), parse_range("bytes=-3", 10), parse_range("bytes=0-1,4-5", 10)
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


def _redirect(ctx: RequestContext, blob: StoredBlob) -> str | None:
    """Return the URL of the object store that a client is sent to, or None.

    A client that cannot reach the object store states that in a header.
    """
    if not ctx.settings.redirect or blob.size <= _REDIRECTED:
        return None
    if ctx.request.header("X-Ocikit-Redirect").strip().lower() == "no":
        return None
    return blob.link(seconds=LINK_SECONDS)


def _open(ctx: RequestContext, name: str, digest: Digest, blob: StoredBlob, first: int, length: int) -> FileBody:
    ctx.request.begin_transfer()
    try:
        return FileBody(blob.open(first, length), length)
    except KeyError as error:
        raise unknown_blob(name, digest) from error


class FileBody:
    """A response body that sends a part of a file and closes it at the end.

    Args:
        file: Open file, positioned at the first byte.
        length: Number of bytes.
    """

    def __init__(self, file: BinaryIO, length: int) -> None:
        self._file = file
        self._remaining = length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = self._file.read(min(CHUNK_SIZE, self._remaining)) if self._remaining else b""
        if not chunk:
            self.close()
            raise StopIteration
        self._remaining -= len(chunk)
        return chunk

    def close(self) -> None:
        """Close the file."""
        self._file.close()
