"""Uploads over HTTP: begin, chunk, finish, ask, cancel, mount. distribution-spec spec.md#pushing-blobs."""

from __future__ import annotations

import errno
import re

from ocikit.display import quoted
from ocikit.server.auth.access import Permission
from ocikit.server.http.context import RequestContext, digest, repository
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request, Response
from ocikit.server.storage.base import OffsetMismatch, QuotaExceeded, UnknownUpload, Upload, UploadDigestMismatch
from ocikit.spec.digest import VERIFIABLE, Digest

#: As the specification has it, and as HTTP has it for responses: old clients send that.
_CHUNK = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]{1,18}|\*))?")

#: What a full disk or a used-up quota says.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def create(exchange: RequestContext, name: str) -> Response:
    """Begin an upload; or mount; or take the whole blob at once. Raises: Refusal: 400, 413, 429."""
    name = repository(name)
    request = exchange.request
    mount, source = request.parameter("mount"), _source(request)
    needs = [Permission("push", name)]
    if mount and source and (not exchange.allows("push", name) or exchange.reads(source)):
        # So that one token does for both. Who may not read the source at all hears nothing of it, and uploads
        needs.append(Permission("pull", source))
    exchange.require(*needs)
    exchange.writing()
    exchange.naming(name)
    _limit(exchange, name, 0)
    if mount is not None and _mount(exchange, name, digest(mount), source):
        return _created(exchange, name, Digest(mount))
    algorithm = request.parameter("digest-algorithm") or "sha256"
    if algorithm not in VERIFIABLE:
        raise ErrorResponse(
            400, "DIGEST_INVALID", f"digest-algorithm {quoted(algorithm)} can't be computed here; use sha256 or sha512"
        )
    whole = request.parameter("digest")
    wanted = digest(whole) if whole is not None and mount is None else None
    _room(exchange)
    uploads = exchange.storage.uploads
    upload = uploads.create(name, exchange.identity.name, algorithm=wanted.algorithm if wanted else algorithm)
    if wanted is None:
        return Response(202, (*_where(exchange, upload, 0), ("Content-Length", "0")))
    try:
        return _finish(exchange, upload, wanted, None)
    except BaseException:
        # Nobody knows the session's name, so nobody can go on with it
        _forget(exchange, upload)
        raise


def append(exchange: RequestContext, name: str, session: str) -> Response:
    """Take in a chunk; without Content-Range, whatever comes next. Raises: Refusal: 400, 404, 413, 416."""
    upload = _upload(exchange, name, session)
    size = _size(exchange, upload)
    _limit(exchange, upload.repository, size)
    offset, length = _content_range(exchange, upload, size)
    try:
        size = exchange.storage.uploads.append(upload, exchange.request.body, offset=offset, length=length)
    except UnknownUpload as error:
        raise _unknown(upload) from error
    except OffsetMismatch as error:
        raise _out_of_order(exchange, upload, error.size) from error
    return Response(202, (*_where(exchange, upload, size), ("Content-Length", "0")))


def finish(exchange: RequestContext, name: str, session: str) -> Response:
    """Take in the last chunk, if any, and end the upload. Raises: Refusal: 400, 404, 413, 416."""
    upload = _upload(exchange, name, session)
    text = exchange.request.parameter("digest")
    size = _size(exchange, upload)
    if text is None:
        raise ErrorResponse(400, "DIGEST_INVALID", "an upload ends with ?digest=<digest of the whole blob>; add it")
    wanted = digest(text)
    _limit(exchange, upload.repository, size)
    return _finish(exchange, upload, wanted, size)


def status(exchange: RequestContext, name: str, session: str) -> Response:
    """How far an upload is. Raises: Refusal: 404."""
    upload = _upload(exchange, name, session, writing=False)
    return Response(204, _where(exchange, upload, _size(exchange, upload)))


def cancel(exchange: RequestContext, name: str, session: str) -> Response:
    """End an upload without a blob. Raises: Refusal: 404."""
    upload = _upload(exchange, name, session)
    try:
        exchange.storage.uploads.abort(upload)
    except UnknownUpload as error:
        raise _unknown(upload) from error
    return Response(204)


def _finish(exchange: RequestContext, upload: Upload, wanted: Digest, size: int | None) -> Response:
    offset, length = _content_range(exchange, upload, size) if size is not None else (None, None)
    try:
        exchange.storage.finish(
            upload, wanted, exchange.request.body, offset=offset, length=length,
            quota=exchange.settings.limits.repository,
        )  # fmt: skip
    except QuotaExceeded as error:
        # Others were faster
        raise _full(exchange, upload.repository) from error
    except UnknownUpload as error:
        raise _unknown(upload) from error
    except OffsetMismatch as error:
        raise _out_of_order(exchange, upload, error.size) from error
    except UploadDigestMismatch as error:
        raise ErrorResponse(400, "DIGEST_INVALID", f"{error}: upload it again", detail={"digest": wanted}) from error
    return _created(exchange, upload.repository, wanted)


def _source(request: Request) -> str | None:
    """Where to mount from: any repository for None, no repository for "", since what can't be mounted can be uploaded."""
    name = request.parameter("from")
    try:
        return repository(name) if name else None
    except ErrorResponse:
        return ""


def _mount(exchange: RequestContext, name: str, wanted: Digest, source: str | None) -> bool:
    """Take a blob over from a repository that the caller may read. No word about one that they may not.

    Where from isn't said, no token can name it in advance: what the caller's rules say decides.
    """
    storage, quota = exchange.storage, exchange.settings.limits.repository
    if source == "":
        return False
    sources = [source] if source is not None else storage.metadata.repositories_with(wanted)
    try:
        return any(exchange.reads(other) and storage.mount(name, wanted, other, quota=quota) for other in sources)
    except QuotaExceeded as error:
        raise _full(exchange, name) from error


def _room(exchange: RequestContext) -> None:
    """Go on only if there is room for one more session. Raises: Refusal: 429."""
    limits, uploads = exchange.settings.limits, exchange.storage.uploads
    under_way = uploads.count()
    # Counting is looking through all of them: once, as long as there are few
    if under_way >= limits.sessions or (
        under_way >= limits.sessions_each and uploads.count(exchange.identity.name) >= limits.sessions_each
    ):
        raise ErrorResponse(
            429, "TOOMANYREQUESTS", "too many uploads are under way; finish or cancel some, or wait",
            headers=(("Retry-After", "60"),),
        )  # fmt: skip


def _limit(exchange: RequestContext, name: str, size: int) -> None:
    """Hold the body to what may still come, after so many bytes. Raises: Refusal: 413."""
    limits = exchange.settings.limits
    limit, what = limits.blob, f"blobs of at most {limits.blob} bytes"
    if limits.repository is not None:
        left = limits.repository - exchange.storage.metadata.used(name)
        if left < max(size, 1):
            raise _full(exchange, name)
        if limit is None or left < limit:
            limit, what = left, f"{left} more bytes in {name}"
    exchange.request.body.allow(None if limit is None else max(limit - size, 0), what)


def _full(exchange: RequestContext, name: str) -> ErrorResponse:
    most = exchange.settings.limits.repository
    return ErrorResponse(413, "DENIED", f"{name} is full: {most} bytes are what it may have; delete something first")


def _upload(exchange: RequestContext, name: str, session: str, *, writing: bool = True) -> Upload:
    name = repository(name)
    exchange.require(Permission("push", name))
    if writing:
        exchange.writing()
    return Upload(session, name, exchange.identity.name)


def _size(exchange: RequestContext, upload: Upload) -> int:
    try:
        return exchange.storage.uploads.size(upload)
    except UnknownUpload as error:
        raise _unknown(upload) from error


def _content_range(exchange: RequestContext, upload: Upload, size: int) -> tuple[int | None, int | None]:
    """Where the chunk goes and how long it is, as far as the client says. Raises: Refusal: 400, 416."""
    text = exchange.request.header("Content-Range")
    if not text:
        return None, None
    match = _CHUNK.fullmatch(text)
    if match is None:
        raise ErrorResponse(
            400, "BLOB_UPLOAD_INVALID", f"Content-Range of a chunk is <first byte>-<last byte>, not {quoted(text)}"
        )
    first, last = int(match[1]), int(match[2])
    length, announced = last - first + 1, exchange.request.body.length
    if first != size:
        raise _out_of_order(exchange, upload, size)
    if length < 0 or (announced is not None and announced != length):
        raise ErrorResponse(
            400, "SIZE_INVALID", f"Content-Range {first}-{last} is {max(length, 0)} bytes, and the body has "
            f"{'some' if announced is None else announced}: send as many as it says",
        )  # fmt: skip
    return first, length


def _created(exchange: RequestContext, name: str, wanted: Digest) -> Response:
    location = exchange.request.link(f"/v2/{name}/blobs/{wanted}")
    return Response(201, (("Location", location), ("Docker-Content-Digest", wanted), ("Content-Length", "0")))


def _where(exchange: RequestContext, upload: Upload, size: int) -> tuple[tuple[str, str], ...]:
    """Location and range: how to go on. Clients read a number after the dash even when there are no bytes."""
    return (
        ("Location", exchange.request.link(f"/v2/{upload.repository}/blobs/uploads/{upload.id}")),
        ("Range", f"0-{max(size - 1, 0)}"),
        ("Docker-Upload-UUID", upload.id),
    )


def _out_of_order(exchange: RequestContext, upload: Upload, size: int) -> ErrorResponse:
    return ErrorResponse(
        416, "BLOB_UPLOAD_INVALID", f"the upload has {size} bytes: go on with byte {size}, one request at a time",
        headers=_where(exchange, upload, size),
    )  # fmt: skip


def _unknown(upload: Upload) -> ErrorResponse:
    return ErrorResponse(
        404, "BLOB_UPLOAD_UNKNOWN", f"{upload.repository} has no such upload of yours: begin a new one"
    )


def _forget(exchange: RequestContext, upload: Upload) -> None:
    try:
        exchange.storage.uploads.abort(upload)
    except UnknownUpload:
        return
