"""Upload endpoints: create, append, finish, status, cancel, mount.

distribution-spec spec.md#pushing-blobs.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator

from ocikit.display import quoted
from ocikit.server.auth.access import Permission
from ocikit.server.http.context import RequestContext, parse_digest, parse_repository, quota_exceeded
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request, Response
from ocikit.server.http.transfer import client_key
from ocikit.server.storage.base import (
    LengthMismatch,
    OffsetMismatch,
    QuotaExceeded,
    UnknownUpload,
    Upload,
    UploadBody,
    UploadDigestMismatch,
)
from ocikit.spec.digest import VERIFIABLE, Digest

#: The specification's form, and HTTP's form for responses, which old clients send.
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,18})-([0-9]{1,18})(?:/(?:[0-9]{1,18}|\*))?")

#: Received bytes after which a quota is checked again.
_QUOTA_INTERVAL = 1 << 20

#: Seconds of idleness after which an upload without bytes, and one with bytes, gives way to a new one above a limit. Clients
#: send the first bytes at once, and restart an upload that is unknown.
_EMPTY_GIVES_WAY, _GIVES_WAY = 60.0, 600.0


def create(ctx: RequestContext, name: str) -> Response:
    """Create an upload, mount a blob, or store a whole blob.

    Raises:
        ErrorResponse: 400, 413 or 429.
    """
    name = parse_repository(name)
    request = ctx.request
    mount, source = request.parameter("mount"), _mount_source(request)
    permissions = [Permission("push", name)]
    if mount and source and (not ctx.allows("push", name) or ctx.can_pull(source)):
        # Ask for both scopes in one token. If the caller cannot read the source, fall back to a normal upload without
        # revealing that the source exists
        permissions.append(Permission("pull", source))
    ctx.require(*permissions)
    ctx.require_writable()
    ctx.require_allowed_name(name)
    _limit_body(ctx, name, 0)
    if mount is not None and _mount(ctx, name, parse_digest(mount), source):
        return _created(ctx, name, Digest(mount))
    algorithm = request.parameter("digest-algorithm") or "sha256"
    if algorithm not in VERIFIABLE:
        raise ErrorResponse(
            400, "DIGEST_INVALID", f"digest-algorithm {quoted(algorithm)} is not supported; use sha256 or sha512"
        )
    parameter = request.parameter("digest")
    digest = parse_digest(parameter) if parameter is not None and mount is None else None
    uploads = ctx.storage.uploads
    if digest is None:
        _make_room(ctx)
        upload = uploads.create(name, ctx.identity.name, algorithm=algorithm, holder=_holder(ctx))
        return Response(202, (*_progress_headers(ctx, upload, 0), ("Content-Length", "0")))
    # The session ends with this request, so it is limited by the number of requests only
    upload = uploads.create(name, ctx.identity.name, algorithm=digest.algorithm)
    try:
        return _finish(ctx, upload, digest, None)
    except BaseException:
        # The client does not know the session and cannot resume it
        with contextlib.suppress(UnknownUpload):
            uploads.abort(upload)
        raise


def append(ctx: RequestContext, name: str, session: str) -> Response:
    """Append a chunk; without Content-Range it is appended at the end.

    Raises:
        ErrorResponse: 400, 404, 413 or 416.
    """
    upload = _upload(ctx, name, session)
    size = _upload_size(ctx, upload)
    _limit_body(ctx, upload.repository, size)
    offset, length = _content_range(ctx, upload, size)
    with _storage_errors(ctx, upload):
        size = ctx.storage.uploads.append(upload, _body(ctx, upload.repository), offset=offset, length=length)
    return Response(202, (*_progress_headers(ctx, upload, size), ("Content-Length", "0")))


def finish(ctx: RequestContext, name: str, session: str) -> Response:
    """Append the last chunk, if any, and finish the upload.

    Raises:
        ErrorResponse: 400, 404, 413 or 416.
    """
    upload = _upload(ctx, name, session)
    parameter = ctx.request.parameter("digest")
    size = _upload_size(ctx, upload)
    if parameter is None:
        raise ErrorResponse(400, "DIGEST_INVALID", "the digest is missing; add ?digest=<digest of the whole blob>")
    digest = parse_digest(parameter)
    _limit_body(ctx, upload.repository, size)
    return _finish(ctx, upload, digest, size)


def status(ctx: RequestContext, name: str, session: str) -> Response:
    """Return the number of bytes received.

    Raises:
        ErrorResponse: 404 if there is no such session.
    """
    upload = _upload(ctx, name, session, writing=False)
    return Response(204, _progress_headers(ctx, upload, _upload_size(ctx, upload)))


def cancel(ctx: RequestContext, name: str, session: str) -> Response:
    """Delete an upload.

    Raises:
        ErrorResponse: 404 if there is no such session.
    """
    upload = _upload(ctx, name, session)
    with _storage_errors(ctx, upload):
        ctx.storage.uploads.abort(upload)
    return Response(204)


def _finish(ctx: RequestContext, upload: Upload, digest: Digest, size: int | None) -> Response:
    """Finish an upload of `size` bytes; None for a single request without a session."""
    offset, length = _content_range(ctx, upload, size) if size is not None else (None, None)
    with _storage_errors(ctx, upload):
        try:
            ctx.storage.finish(
                upload,
                digest,
                _body(ctx, upload.repository),
                offset=offset,
                length=length,
                quota=ctx.settings.limits.repository,
            )
        except UploadDigestMismatch as error:
            raise ErrorResponse(
                400, "DIGEST_INVALID", f"{error}: upload it again", detail={"digest": digest}
            ) from error
    return _created(ctx, upload.repository, digest)


@contextlib.contextmanager
def _storage_errors(ctx: RequestContext, upload: Upload) -> Iterator[None]:
    """Convert errors of the storage.

    Raises:
        ErrorResponse: 400, 404, 413 or 416.
    """
    try:
        yield
    except UnknownUpload as error:
        raise _unknown_upload(upload) from error
    except OffsetMismatch as error:
        raise _offset_mismatch(ctx, upload, error.size) from error
    except LengthMismatch as error:
        raise ErrorResponse(400, "SIZE_INVALID", str(error)) from error
    except QuotaExceeded as error:
        # A concurrent push used up the quota
        raise quota_exceeded(ctx, upload.repository) from error


def _mount_source(request: Request) -> str | None:
    """Return the repository to mount from.

    Returns:
        None for any repository; "" for an invalid name, which leads to an upload.
    """
    name = request.parameter("from")
    try:
        return parse_repository(name) if name else None
    except ErrorResponse:
        return ""


def _mount(ctx: RequestContext, name: str, digest: Digest, source: str | None) -> bool:
    """Mount a blob from a repository that the client may read.

    Without a source, only repositories that the client's token names are used, so that a token for one repository does not
    reveal or copy content of others.

    Returns:
        False if there is no such repository.
    """
    storage, quota = ctx.storage, ctx.settings.limits.repository
    if source == "":
        return False
    sources = [source] if source is not None else storage.metadata.repositories_with(digest)
    try:
        return any(
            ctx.allows("pull", repository) and storage.mount(name, digest, repository, quota=quota)
            for repository in sources
        )
    except QuotaExceeded as error:
        raise quota_exceeded(ctx, name) from error


def _holder(ctx: RequestContext) -> str:
    """Return whose limit of uploads counts: the user's, or that of an anonymous client's network."""
    return f"user {ctx.identity.name}" if ctx.identity.name else f"client {client_key(ctx.request.remote)}"


def _make_room(ctx: RequestContext) -> None:
    """Check that one more upload is allowed; above a limit, delete uploads that are idle.

    DoS: a client may abandon any number of uploads. They must not prevent uploads of others, or later ones of the client.

    Raises:
        ErrorResponse: 429 if the holder has too many sessions.
    """
    limits, uploads = ctx.settings.limits, ctx.storage.uploads
    total = uploads.count()
    holder = _holder(ctx)
    for limit, counted in ((limits.sessions_each, holder), (limits.sessions, None)):
        # Count the holder's uploads only if there are many in all, because each count lists all
        if total < limit or uploads.count(counted) < limit:
            continue
        now = uploads.now()
        if uploads.expire(now - _GIVES_WAY, empty_before=now - _EMPTY_GIVES_WAY, holder=counted):
            continue
        waits = [
            state.written + (_GIVES_WAY if state.size else _EMPTY_GIVES_WAY) - now for state in uploads.states(counted)
        ]
        seconds = max(math.ceil(min(waits, default=0)), 1)
        raise ErrorResponse(
            429,
            "TOOMANYREQUESTS",
            f"{limit} uploads are in progress; finish or cancel some, or try again in {seconds} s",
            headers=(("Retry-After", str(seconds)),),
        )


def _limit_body(ctx: RequestContext, name: str, size: int) -> None:
    """Limit the body by the blob limit and the quota, after `size` bytes.

    Raises:
        ErrorResponse: 413 if the announced length is above the limit.
    """
    limits, body = ctx.settings.limits, ctx.request.body
    limit = None if limits.blob is None else max(limits.blob - size, 0)
    text = f"blobs of at most {limits.blob} bytes"
    if limits.repository is not None:
        stored = ctx.storage.metadata.used_bytes(name)
        free = limits.repository - stored - ctx.storage.uploads.used_bytes(name)
        # The last request of an upload may add no bytes: it needs no space apart from that of its session
        if stored + max(size, 1) > limits.repository or (free < 1 and not size):
            raise quota_exceeded(ctx, name)
        if limit is None or free < limit:
            limit, text = max(free, 0), f"{max(free, 0)} more bytes in {name}"
    body.set_limit(limit, text)


class _QuotaBody:
    """A body that checks the quota again after each MiB: concurrent uploads share the free space.

    Args:
        ctx: Context of the request.
        repository: Repository name.
    """

    def __init__(self, ctx: RequestContext, repository: str) -> None:
        self._ctx = ctx
        self._repository = repository
        self._unchecked = 0

    @property
    def length(self) -> int | None:
        """The announced length in bytes, or None for a chunked body."""
        return self._ctx.request.body.length

    def read_chunk(self, size: int = _QUOTA_INTERVAL) -> bytes:
        """Return at most `size` bytes, and no bytes at the end.

        Raises:
            ErrorResponse: 413 above the quota, and the errors of the body.
        """
        chunk = self._ctx.request.body.read_chunk(size)
        self._unchecked += len(chunk)
        if self._unchecked >= _QUOTA_INTERVAL:
            self._unchecked = 0
            self._check()
        return chunk

    def _check(self) -> None:
        storage, quota = self._ctx.storage, self._ctx.settings.limits.repository
        used = storage.metadata.used_bytes(self._repository) + storage.uploads.used_bytes(self._repository)
        if quota is not None and used > quota:
            raise quota_exceeded(self._ctx, self._repository)


def _body(ctx: RequestContext, repository: str) -> UploadBody:
    """Return the request's body, with its quota if there is one."""
    return ctx.request.body if ctx.settings.limits.repository is None else _QuotaBody(ctx, repository)


def _upload(ctx: RequestContext, name: str, session: str, *, writing: bool = True) -> Upload:
    """Return the session of a request after checking permissions."""
    name = parse_repository(name)
    ctx.require(Permission("push", name))
    if writing:
        ctx.require_writable()
    return Upload(session, name, ctx.identity.name)


def _upload_size(ctx: RequestContext, upload: Upload) -> int:
    with _storage_errors(ctx, upload):
        return ctx.storage.uploads.size(upload)


def _content_range(ctx: RequestContext, upload: Upload, size: int) -> tuple[int | None, int | None]:
    """Return offset and length of a chunk; None for each without Content-Range.

    Raises:
        ErrorResponse: 400 or 416.
    """
    header = ctx.request.header("Content-Range")
    if not header:
        return None, None
    match = _CONTENT_RANGE.fullmatch(header)
    if match is None:
        raise ErrorResponse(
            400, "BLOB_UPLOAD_INVALID", f"Content-Range {quoted(header)} is invalid; use <first byte>-<last byte>"
        )
    first, last = int(match[1]), int(match[2])
    length, announced = last - first + 1, ctx.request.body.length
    if first != size:
        raise _offset_mismatch(ctx, upload, size)
    if length < 0 or (announced is not None and announced != length):
        actual = "another number" if announced is None else announced
        raise ErrorResponse(
            400,
            "SIZE_INVALID",
            f"Content-Range {first}-{last} is {max(length, 0)} bytes, but the body has {actual}; make both equal",
        )
    return first, length


def _created(ctx: RequestContext, name: str, digest: Digest) -> Response:
    location = ctx.request.link(f"/v2/{name}/blobs/{digest}")
    return Response(201, (("Location", location), ("Docker-Content-Digest", digest), ("Content-Length", "0")))


def _progress_headers(ctx: RequestContext, upload: Upload, size: int) -> tuple[tuple[str, str], ...]:
    """Return the headers that a client needs to resume.

    An empty upload has the range 0-0, because clients parse a number after the dash.
    """
    return (
        ("Location", ctx.request.link(f"/v2/{upload.repository}/blobs/uploads/{upload.id}")),
        ("Range", f"0-{max(size - 1, 0)}"),
        ("Docker-Upload-UUID", upload.id),
    )


def _offset_mismatch(ctx: RequestContext, upload: Upload, size: int) -> ErrorResponse:
    return ErrorResponse(
        416,
        "BLOB_UPLOAD_INVALID",
        f"the upload has {size} bytes; continue with byte {size}, one request at a time",
        headers=_progress_headers(ctx, upload, size),
    )


def _unknown_upload(upload: Upload) -> ErrorResponse:
    return ErrorResponse(
        404, "BLOB_UPLOAD_UNKNOWN", f"{upload.repository} has no such upload of this user; create a new one"
    )
