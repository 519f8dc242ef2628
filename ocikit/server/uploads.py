"""Uploads over HTTP: begin, chunk, finish, ask, cancel, mount. distribution-spec spec.md#pushing-blobs."""

from __future__ import annotations

import errno
import re

from ocikit.server.access import Need
from ocikit.server.exchange import Exchange, digest, repository
from ocikit.server.message import Response
from ocikit.server.refusal import Refusal
from ocikit.server.storage import OutOfOrder, UnknownUpload, Upload, WrongDigest
from ocikit.spec.digest import VERIFIABLE, Digest

__all__ = ["FULL", "append", "cancel", "create", "finish", "status"]

#: What a full disk or a used-up quota says.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def create(exchange: Exchange, name: str) -> Response:
    """Begin an upload; or mount; or take the whole blob at once. Raises: Refusal: 400, 413, 429."""
    name = repository(name)
    request = exchange.request
    mount, source = request.parameter("mount"), request.parameter("from")
    needs = [Need("push", name)]
    if not exchange.access.allows(exchange.identity, needs[0]) and mount and source:
        # So that one token does for both
        needs.append(Need("pull", repository(source)))
    exchange.require(*needs)
    exchange.writing()
    exchange.naming(name)
    if mount is not None and _mount(exchange, name, digest(mount), source):
        return _created(exchange, name, Digest(mount))
    algorithm = request.parameter("digest-algorithm") or "sha256"
    if algorithm not in VERIFIABLE:
        raise Refusal(400, "DIGEST_INVALID", f"{algorithm} can't be computed here; use sha256 or sha512")
    whole = request.parameter("digest")
    wanted = digest(whole) if whole is not None and mount is None else None
    request.body.allow(exchange.settings.limits.blob)
    _room(exchange, name)
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


def append(exchange: Exchange, name: str, session: str) -> Response:
    """Take in a chunk; without Content-Range, whatever comes next. Raises: Refusal: 400, 404, 413, 416."""
    upload = _upload(exchange, name, session)
    size = _size(exchange, upload)
    _limit(exchange, size)
    offset, length = _content_range(exchange, upload, size)
    try:
        size = exchange.storage.uploads.append(upload, exchange.request.body, offset=offset, length=length)
    except UnknownUpload as error:
        raise _unknown(upload) from error
    except OutOfOrder as error:
        raise _out_of_order(exchange, upload, error.size) from error
    return Response(202, (*_where(exchange, upload, size), ("Content-Length", "0")))


def finish(exchange: Exchange, name: str, session: str) -> Response:
    """Take in the last chunk, if any, and end the upload. Raises: Refusal: 400, 404, 413, 416."""
    upload = _upload(exchange, name, session)
    text = exchange.request.parameter("digest")
    size = _size(exchange, upload)
    if text is None:
        raise Refusal(400, "DIGEST_INVALID", "an upload ends with PUT …?digest=<digest of the whole blob>")
    wanted = digest(text)
    _limit(exchange, size)
    return _finish(exchange, upload, wanted, size)


def status(exchange: Exchange, name: str, session: str) -> Response:
    """How far an upload is. Raises: Refusal: 404."""
    upload = _upload(exchange, name, session)
    return Response(204, _where(exchange, upload, _size(exchange, upload)))


def cancel(exchange: Exchange, name: str, session: str) -> Response:
    """End an upload without a blob. Raises: Refusal: 404."""
    upload = _upload(exchange, name, session)
    try:
        exchange.storage.uploads.abort(upload)
    except UnknownUpload as error:
        raise _unknown(upload) from error
    return Response(204)


def _finish(exchange: Exchange, upload: Upload, wanted: Digest, size: int | None) -> Response:
    offset, length = _content_range(exchange, upload, size) if size is not None else (None, None)
    try:
        exchange.storage.finish(upload, wanted, exchange.request.body, offset=offset, length=length)
    except UnknownUpload as error:
        raise _unknown(upload) from error
    except OutOfOrder as error:
        raise _out_of_order(exchange, upload, error.size) from error
    except WrongDigest as error:
        raise Refusal(400, "DIGEST_INVALID", str(error), detail={"digest": wanted}) from error
    return _created(exchange, upload.repository, wanted)


def _mount(exchange: Exchange, name: str, wanted: Digest, source: str | None) -> bool:
    """Take a blob over from a repository that the caller may read. No word about one that they may not."""
    storage = exchange.storage
    if source:
        source = repository(source)
        return exchange.allows("pull", source) and storage.mount(name, wanted, source)
    return any(exchange.allows("pull", other) and storage.mount(name, wanted, other)
               for other in storage.metadata.holders(wanted))  # fmt: skip


def _room(exchange: Exchange, name: str) -> None:
    """Go on only if there is room for one more session. Raises: Refusal: 429, 413."""
    limits, uploads = exchange.settings.limits, exchange.storage.uploads
    owner = exchange.identity.name
    if uploads.count() >= limits.sessions or uploads.count(owner) >= limits.sessions_each:
        raise Refusal(
            429, "TOOMANYREQUESTS", "too many uploads are under way; finish or cancel some",
            headers=(("Retry-After", "60"),),
        )  # fmt: skip
    if limits.repository is not None and exchange.storage.metadata.used(name) >= limits.repository:
        raise Refusal(413, "DENIED", f"{name} is full: {limits.repository} bytes; delete something first")


def _limit(exchange: Exchange, size: int) -> None:
    """Hold the body to what may still come."""
    limit = exchange.settings.limits.blob
    exchange.request.body.allow(None if limit is None else max(limit - size, 0))


def _upload(exchange: Exchange, name: str, session: str) -> Upload:
    name = repository(name)
    exchange.require(Need("push", name))
    exchange.writing()
    return Upload(session, name, exchange.identity.name)


def _size(exchange: Exchange, upload: Upload) -> int:
    try:
        return exchange.storage.uploads.size(upload)
    except UnknownUpload as error:
        raise _unknown(upload) from error


def _content_range(exchange: Exchange, upload: Upload, size: int) -> tuple[int | None, int | None]:
    """Where the chunk goes and how long it is, as far as the client says. Raises: Refusal: 400, 416."""
    text = exchange.request.header("Content-Range")
    if not text:
        return None, None
    match = re.fullmatch(r"(?:bytes[ =])?(\d{1,19})-(\d{1,19})(?:/(?:\d{1,19}|\*))?", text)
    if match is None:
        raise Refusal(400, "BLOB_UPLOAD_INVALID", "Content-Range of a chunk is <first byte>-<last byte>")
    first, last = int(match[1]), int(match[2])
    length, announced = last - first + 1, exchange.request.body.length
    if first != size:
        raise _out_of_order(exchange, upload, size)
    if length < 0 or (announced is not None and announced != length):
        raise Refusal(400, "SIZE_INVALID", f"Content-Range has {max(length, 0)} bytes, the body {announced}")
    return first, length


def _created(exchange: Exchange, name: str, wanted: Digest) -> Response:
    location = exchange.request.link(f"/v2/{name}/blobs/{wanted}")
    return Response(201, (("Location", location), ("Docker-Content-Digest", wanted), ("Content-Length", "0")))


def _where(exchange: Exchange, upload: Upload, size: int) -> tuple[tuple[str, str], ...]:
    """Location and range: how to go on. Clients read a number after the dash even when there are no bytes."""
    return (
        ("Location", exchange.request.link(f"/v2/{upload.repository}/blobs/uploads/{upload.id}")),
        ("Range", f"0-{max(size - 1, 0)}"),
        ("Docker-Upload-UUID", upload.id),
    )


def _out_of_order(exchange: Exchange, upload: Upload, size: int) -> Refusal:
    return Refusal(
        416, "BLOB_UPLOAD_INVALID", f"the upload has {size} bytes; go on there, one request at a time",
        headers=_where(exchange, upload, size),
    )  # fmt: skip


def _unknown(upload: Upload) -> Refusal:
    return Refusal(404, "BLOB_UPLOAD_UNKNOWN", f"{upload.repository} has no such upload of yours; begin a new one")


def _forget(exchange: Exchange, upload: Upload) -> None:
    try:
        exchange.storage.uploads.abort(upload)
    except UnknownUpload:
        return
