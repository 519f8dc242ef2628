"""Manifest endpoints: get, put, delete.

distribution-spec spec.md#pulling-manifests, #pushing-manifests, #deleting-manifests.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

from ocikit.display import quoted
from ocikit.errors import InvalidDigest, InvalidDocument, OcikitError, UnsupportedSchema1
from ocikit.server.auth.access import Permission
from ocikit.server.http.blobs import CHUNK_SIZE, FileBody, etag_matches
from ocikit.server.http.context import (
    RequestContext,
    parse_digest,
    parse_repository,
    parse_tag,
    quota_exceeded,
    unknown_repository,
)
from ocikit.server.http.errors import ErrorResponse, message_with_hint
from ocikit.server.http.request import Response
from ocikit.server.http.transfer import MANIFEST_BODY
from ocikit.server.storage.base import ManifestRow, MissingChildren, PreconditionFailed, QuotaExceeded
from ocikit.spec import media_types
from ocikit.spec.converter import unstructure
from ocikit.spec.digest import Digest
from ocikit.spec.document import load_json
from ocikit.spec.manifest import Index, Manifest, parse_document

#: Bytes. Parsing a hostile manifest can use 50 times its size in memory (DoS), so documents above this size are
#: parsed one at a time. Parsing them in parallel is not faster.
_PARALLEL_LIMIT = 256 * 1024
_LARGE_DOCUMENT_LOCK = threading.Lock()

#: Missing children that an error lists, so that the response stays small. No image has as many layers.
_LISTED_CHILDREN = 1000

#: Characters. RFC 6838 #4.2 allows 127 on either side of the slash; artifact types have no parameters.
_ARTIFACT_TYPE_LIMIT = 255

#: Characters; sha512 has 135. Digests are part of headers and paths.
_DIGEST_LIMIT = 255

#: OCI-Tag headers in a response. Some clients accept a hundred headers in all.
_TAG_HEADERS = 10


def get(ctx: RequestContext, name: str, reference: str) -> Response:
    """Return a manifest's exact bytes.

    Raises:
        ErrorResponse: 404 if there is no such manifest.
    """
    name = parse_repository(name)
    ctx.require(Permission("pull", name))
    reference = _lookup_reference(ctx, name, reference)
    row = ctx.storage.metadata.manifest(name, reference)
    file = ctx.storage.open_manifest(row) if row is not None else None
    if row is None or file is None:
        raise _unknown_manifest(ctx, name, reference)
    validators = (("Docker-Content-Digest", row.digest), ("ETag", f'"{row.digest}"'))
    headers = (*validators, ("Content-Type", row.media_type), ("Content-Length", str(row.size)))
    unchanged = etag_matches(ctx.request.header("If-None-Match"), row.digest)
    if unchanged or ctx.request.method == "HEAD":
        file.close()
        return Response(304, validators) if unchanged else Response(200, headers)
    body = FileBody(file, row.size)
    if row.size <= CHUNK_SIZE:
        # The server sends a list without this thread
        return Response(200, headers, list(body))
    try:
        ctx.request.begin_transfer()
    except BaseException:
        body.close()
        raise
    return Response(200, headers, body)


def put(ctx: RequestContext, name: str, reference: str) -> Response:
    """Store a manifest under a tag, or under its digest and any number of tags.

    Raises:
        ErrorResponse: 400, 412, 413 or 414.
    """
    name, reference = parse_repository(name), _parse_reference(reference)
    ctx.require(Permission("push", name))
    ctx.require_writable()
    ctx.require_allowed_name(name)
    tags = _requested_tags(ctx, reference)
    raw, digest = _read_manifest(ctx, reference)
    with _LARGE_DOCUMENT_LOCK if len(raw) > _PARALLEL_LIMIT else nullcontext():
        document = _parse(ctx, raw)
        row = _manifest_row(document, digest, len(raw))
        del document
    try:
        ctx.storage.put_manifest(
            name,
            row,
            io.BytesIO(raw),
            tags,
            require_children=ctx.settings.references == "strict",
            if_match=_if_match(ctx, name, reference),
            if_none_match=ctx.request.header("If-None-Match").strip() == "*",
            quota=ctx.settings.limits.repository,
        )
    except MissingChildren as error:
        raise _missing_children(name, error.digests) from error
    except PreconditionFailed as error:
        raise ErrorResponse(412, "DENIED", f"{error}; fetch it and retry") from error
    except QuotaExceeded as error:
        raise quota_exceeded(ctx, name) from error
    headers = [
        ("Location", ctx.request.link(f"/v2/{name}/manifests/{reference}")),
        ("Docker-Content-Digest", digest),
        ("ETag", f'"{digest}"'),
        ("Content-Length", "0"),
    ]
    if row.subject is not None:
        headers.append(("OCI-Subject", row.subject))
    if ":" in reference:
        headers += _tag_headers(tags)
    return Response(201, tuple(headers))


def delete(ctx: RequestContext, name: str, reference: str) -> Response:
    """Delete a tag, or a manifest with all its tags.

    Raises:
        ErrorResponse: 404 or 405.
    """
    name = parse_repository(name)
    ctx.require(Permission("delete", name))
    reference = _lookup_reference(ctx, name, reference)
    by_digest = ":" in reference
    ctx.require_writable("manifests" if by_digest else "tags")
    metadata = ctx.storage.metadata
    deleted = metadata.delete_manifest(name, Digest(reference)) if by_digest else metadata.delete_tag(name, reference)
    if not deleted:
        raise _unknown_manifest(ctx, name, reference)
    return Response(202, (("Content-Length", "0"),))


def _parse_reference(text: str) -> str:
    return parse_digest(text) if ":" in text else parse_tag(text)


def _lookup_reference(ctx: RequestContext, name: str, text: str) -> str:
    """Return the reference of a lookup.

    Raises:
        ErrorResponse: 404 for an invalid tag, which cannot exist; 400 for an invalid digest.
    """
    try:
        return _parse_reference(text)
    except ErrorResponse as error:
        if ":" in text:
            raise
        raise _unknown_manifest(ctx, name, text) from error


def _requested_tags(ctx: RequestContext, reference: str) -> list[str]:
    """Return the tags to set.

    Raises:
        ErrorResponse: 400 or 414.
    """
    tags = list(dict.fromkeys(parse_tag(tag) for tag in ctx.request.parameters("tag")))
    if ":" not in reference:
        if tags:
            raise ErrorResponse(
                400, "MANIFEST_INVALID", "tag= is supported only for a push by digest; put the digest in the path"
            )
        return [reference]
    limit = ctx.settings.limits.tags
    if len(tags) > limit:
        raise ErrorResponse(
            414, "UNSUPPORTED", f"the request has {len(tags)} tags, above the limit of {limit}; use several requests"
        )
    return tags


def _tag_headers(tags: Sequence[str]) -> list[tuple[str, str]]:
    """Return OCI-Tag headers, with several tags in each if there are many."""
    size = -(-len(tags) // _TAG_HEADERS)
    return [("OCI-Tag", ", ".join(tags[start : start + size])) for start in range(0, len(tags), size or 1)]


def _read_manifest(ctx: RequestContext, reference: str) -> tuple[bytes, Digest]:
    """Return the body and its digest, in the algorithm of the reference.

    Raises:
        ErrorResponse: 400 for another digest than the reference; 413.
    """
    limit = ctx.settings.limits.manifest
    body = ctx.request.body.set_limit(limit, f"manifests of at most {limit} bytes")
    raw = body.set_deadline(MANIFEST_BODY).read()
    expected = Digest(reference) if ":" in reference else None
    digest = Digest.of(raw, expected.algorithm if expected else "sha256")
    if expected is not None and digest != expected:
        raise ErrorResponse(
            400,
            "DIGEST_INVALID",
            f"the manifest has the digest {digest}, not {expected}; push it under its own digest",
            detail={"digest": digest},
        )
    return raw, digest


def _if_match(ctx: RequestContext, name: str, reference: str) -> list[Digest] | None:
    """Return the digests of the If-Match header, or None without it. RFC 9110 #13.1.1.

    An invalid digest matches nothing.
    """
    condition = ctx.request.header("If-Match").strip()
    if not condition:
        return None
    if condition == "*":
        row = ctx.storage.metadata.manifest(name, reference)
        return [row.digest] if row is not None else []
    digests = []
    for text in condition.split(","):
        with suppress(InvalidDigest):
            digests.append(Digest(text.strip().removeprefix("W/").strip('"')))
    return digests


def _missing_children(name: str, digests: set[Digest]) -> ErrorResponse:
    missing = sorted(digests)
    listed = missing[:_LISTED_CHILDREN]
    messages = [f"{name} has no {digest}, which the manifest references; push or mount it first" for digest in listed]
    if len(missing) > len(listed):
        messages[-1] += f"; {len(missing) - len(listed)} more are missing"
    return ErrorResponse(
        400,
        "MANIFEST_BLOB_UNKNOWN",
        f"{name} does not have all content that the manifest references",
        detail=[{"digest": digest} for digest in listed],
        messages=messages,
    )


def _parse(ctx: RequestContext, raw: bytes) -> Manifest | Index:
    """Parse a manifest, and compare its media type with Content-Type.

    Raises:
        ErrorResponse: 400 MANIFEST_INVALID.
    """
    content_type = ctx.request.header("Content-Type").partition(";")[0].strip()
    try:
        media_type = load_json(raw, "the manifest", limit=len(raw)).get("mediaType")
    except InvalidDocument as error:
        raise _invalid(message_with_hint(error)) from error
    if media_type is not None and not isinstance(media_type, str):
        raise _invalid("expected a string @ $.mediaType")
    if media_type is not None and content_type and media_type != content_type.lower():
        raise _invalid(
            f"Content-Type is {quoted(content_type)} but $.mediaType is {quoted(media_type)}: they must be the same"
        )
    kind = content_type.lower() if media_type is None else media_type
    if kind and not media_types.is_document(kind):
        raise _invalid(
            f"{quoted(kind)} is not a supported manifest type; use {media_types.OCI_MANIFEST} or "
            f"{media_types.OCI_INDEX}, or push it as a blob",
            accepted=list(media_types.ACCEPTED),
        )
    try:
        document = parse_document(raw, kind, limit=len(raw))
    except UnsupportedSchema1 as error:
        raise _invalid(f"{error.message}: push it with a current client") from error
    except OcikitError as error:
        raise _invalid(message_with_hint(error)) from error
    if ctx.settings.validate == "schema":
        _validate_schema(raw, document)
    return document


def _validate_schema(raw: bytes, document: Manifest | Index) -> None:
    """Validate a manifest with the specification's JSON schema.

    Raises:
        ErrorResponse: 400 MANIFEST_INVALID.
    """
    from ocikit.spec.validation import find_violations  # noqa: PLC0415 - jsonschema is heavy and optional

    if violations := find_violations(raw, document.media_type, limit=len(raw)):
        message = "the manifest violates the image specification's schema"
        raise ErrorResponse(
            400,
            "MANIFEST_INVALID",
            message,
            detail=[{"path": violation.path, "message": violation.message} for violation in violations],
            messages=[f"{message} @ {violation.path}: {violation.message}" for violation in violations],
        )


def _invalid(message: str, **detail: Any) -> ErrorResponse:
    return ErrorResponse(400, "MANIFEST_INVALID", message, detail=detail or None)


def _manifest_row(document: Manifest | Index, digest: Digest, size: int) -> ManifestRow:
    """Return the row of a manifest.

    Raises:
        ErrorResponse: 400 for values that do not fit into headers or tables.
    """
    referrer = document.as_referrer(digest)
    artifact_type = referrer.artifact_type
    if artifact_type is not None and not (
        artifact_type.isascii() and artifact_type.isprintable() and len(artifact_type) <= _ARTIFACT_TYPE_LIMIT
    ):
        raise _invalid(f"{quoted(artifact_type)} is not a media type; see RFC 6838")
    for child in (*document.children, *([document.subject] if document.subject else ())):
        if len(child.digest) > _DIGEST_LIMIT:
            raise _invalid(
                f"{quoted(str(child.digest))} has {len(child.digest)} characters; the limit is {_DIGEST_LIMIT}"
            )
    referrer_json = ""
    if document.subject is not None:
        value = unstructure(referrer)
        referrer_json = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if not _is_encodable(referrer_json):
            referrer_json = json.dumps(value, separators=(",", ":"))
    children = (child.digest for child in document.children if not media_types.is_foreign(child.media_type))
    return ManifestRow(
        digest=digest,
        media_type=referrer.media_type,
        size=size,
        subject=document.subject.digest if document.subject is not None else None,
        artifact_type=artifact_type,
        referrer=referrer_json,
        children=tuple(dict.fromkeys(children)),
    )


def _is_encodable(text: str) -> bool:
    """Return True if a text is valid UTF-8, without lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unknown_manifest(ctx: RequestContext, name: str, reference: str) -> ErrorResponse:
    if not ctx.storage.metadata.has_repository(name):
        return unknown_repository(name)
    return ErrorResponse(
        404,
        "MANIFEST_UNKNOWN",
        f"{name} has no manifest {reference}; see /v2/{name}/tags/list for its tags",
        detail={"reference": reference},
    )
