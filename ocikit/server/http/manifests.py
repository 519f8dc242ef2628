"""Manifests over HTTP. distribution-spec spec.md#pulling-manifests, #pushing-manifests, #deleting-manifests."""

from __future__ import annotations

import io
import json
import threading
from contextlib import nullcontext, suppress
from typing import Any

from ocikit.display import quoted
from ocikit.errors import InvalidDigest, InvalidDocument, OcikitError, UnsupportedSchema1
from ocikit.server.auth.access import Permission
from ocikit.server.http.blobs import FileBody, matches
from ocikit.server.http.context import RequestContext, digest, repository, tag, unknown_name
from ocikit.server.http.errors import ErrorResponse, advice
from ocikit.server.http.request import Response
from ocikit.server.storage.base import ManifestRow, PreconditionFailed
from ocikit.spec import media_types
from ocikit.spec.digest import Digest
from ocikit.spec.document import load_json, unstructure
from ocikit.spec.manifest import Index, Manifest, parse_document

#: Bytes. Python needs fifty times as many for the objects of a document that was made to be dear, and all cores together
#: are no faster than one: larger documents take turns.
_SMALL = 256 * 1024
_LARGE = threading.Lock()

#: Things that are missing. An answer is not for megabytes, and no image has as many layers.
_TOLD = 1000

#: Characters. RFC 6838 #4.2 has 127 on either side of the slash; parameters are not for types of artifacts.
_TYPE_LIMIT = 255

#: Characters: sha512 has 135. A digest stands in headers and in paths.
_DIGEST_LIMIT = 255


def get(exchange: RequestContext, name: str, reference: str) -> Response:
    """A manifest, byte for byte. Raises: Refusal: 404."""
    name = repository(name)
    exchange.require(Permission("pull", name))
    reference = _asked(exchange, name, reference)
    entry = exchange.storage.metadata.manifest(name, reference)
    if entry is None or exchange.storage.blobs.stat(entry.digest) != entry.size:
        raise _unknown(exchange, name, reference)
    known = (("Docker-Content-Digest", entry.digest), ("ETag", f'"{entry.digest}"'))
    if matches(exchange.request.header("If-None-Match"), entry.digest):
        return Response(304, known)
    headers = (*known, ("Content-Type", entry.media_type), ("Content-Length", str(entry.size)))
    if exchange.request.method == "HEAD":
        return Response(200, headers)
    try:
        return Response(200, headers, FileBody(exchange.storage.blobs.open(entry.digest), 0, entry.size))
    except KeyError as error:
        raise _unknown(exchange, name, reference) from error


def put(exchange: RequestContext, name: str, reference: str) -> Response:
    """Take in a manifest, under a tag, or a digest and any number of tags. Raises: Refusal: 400, 412, 413, 414."""
    name, reference = repository(name), _reference(reference)
    exchange.require(Permission("push", name))
    exchange.writing()
    exchange.naming(name)
    request, settings = exchange.request, exchange.settings
    tags = _tags(exchange, reference)
    most = settings.limits.manifest
    raw = request.body.allow(most, f"manifests of at most {most} bytes").read()
    expected = Digest(reference) if ":" in reference else None
    found = Digest.of(raw, expected.algorithm if expected else "sha256")
    if expected is not None and found != expected:
        raise ErrorResponse(
            400, "DIGEST_INVALID", f"what was sent is {found}, not {expected}: it changed on the way, or has another name",
            detail={"digest": found},
        )  # fmt: skip
    with _LARGE if len(raw) > _SMALL else nullcontext():
        document = _parse(exchange, raw)
        entry = _entry(document, found, len(raw))
        subject = document.subject.digest if document.subject is not None else None
        del document
    try:
        exchange.storage.put_manifest(
            name, entry, io.BytesIO(raw), tags, strict=settings.references == "strict",
            fresh=request.header("If-None-Match").strip() == "*", expected=_expected(exchange, name, reference),
        )  # fmt: skip
    except KeyError as error:
        absent = sorted(error.args[0])
        told = [
            f"{name} has no {each}, which the manifest references: push or mount it first" for each in absent[:_TOLD]
        ]
        if len(absent) > _TOLD:
            told[-1] += f"; and {len(absent) - _TOLD} more are missing"
        raise ErrorResponse(
            400, "MANIFEST_BLOB_UNKNOWN", f"{name} lacks what the manifest references",
            detail=[{"digest": each} for each in absent[:_TOLD]], each=told,
        ) from error  # fmt: skip
    except PreconditionFailed as error:
        raise ErrorResponse(412, "DENIED", f"{error}; look at it, and decide again") from error
    headers = [
        ("Location", request.link(f"/v2/{name}/manifests/{reference}")),
        ("Docker-Content-Digest", found),
        ("ETag", f'"{found}"'),
        ("Content-Length", "0"),
    ]
    if subject is not None:
        headers.append(("OCI-Subject", subject))
    if expected is not None:
        # One header each, but no more than ten: some clients take a hundred headers in all
        lines = -(-len(tags) // 10)
        headers += [("OCI-Tag", ", ".join(tags[at : at + lines])) for at in range(0, len(tags), lines or 1)]
    return Response(201, tuple(headers))


def delete(exchange: RequestContext, name: str, reference: str) -> Response:
    """Remove a tag; or a manifest and all its tags. Raises: Refusal: 404, 405."""
    name = repository(name)
    exchange.require(Permission("delete", name))
    reference = _asked(exchange, name, reference)
    by_digest = ":" in reference
    exchange.writing("manifests" if by_digest else "tags")
    metadata = exchange.storage.metadata
    gone = metadata.delete_manifest(name, Digest(reference)) if by_digest else metadata.untag(name, reference)
    if not gone:
        raise _unknown(exchange, name, reference)
    return Response(202, (("Content-Length", "0"),))


def _reference(text: str) -> str:
    return digest(text) if ":" in text else tag(text)


def _asked(exchange: RequestContext, name: str, text: str) -> str:
    """What somebody asks for: a tag that can't be one isn't there. Raises: Refusal: 404; 400 for half a digest."""
    try:
        return _reference(text)
    except ErrorResponse as error:
        if ":" in text:
            raise
        raise _unknown(exchange, name, text) from error


def _tags(exchange: RequestContext, reference: str) -> list[str]:
    """What shall name the manifest. Raises: Refusal: 400, 414."""
    tags = list(dict.fromkeys(tag(each) for each in exchange.request.parameters("tag")))
    if ":" not in reference:
        if tags:
            raise ErrorResponse(400, "MANIFEST_INVALID", "tag= goes with a push by digest: put the digest in the path")
        return [reference]
    most = exchange.settings.limits.tags
    if len(tags) > most:
        raise ErrorResponse(
            414, "UNSUPPORTED", f"{len(tags)} tags, and {most} are the most at once: push the rest in a second request"
        )
    return tags


def _expected(exchange: RequestContext, name: str, reference: str) -> list[Digest] | None:
    """The digests that If-Match names, or None without it; what isn't one matches nothing. RFC 9110 #13.1.1."""
    condition = exchange.request.header("If-Match").strip()
    if not condition:
        return None
    if condition == "*":
        now = exchange.storage.metadata.manifest(name, reference)
        return [now.digest] if now is not None else []
    named = []
    for text in condition.split(","):
        with suppress(InvalidDigest):
            named.append(Digest(text.strip().removeprefix("W/").strip('"')))
    return named


def _parse(exchange: RequestContext, raw: bytes) -> Manifest | Index:
    """The document, once it is what it says. Raises: Refusal: 400 MANIFEST_INVALID."""
    announced = exchange.request.header("Content-Type").partition(";")[0].strip()
    try:
        said = load_json(raw, "the manifest", limit=len(raw)).get("mediaType")
    except InvalidDocument as error:
        raise _invalid(advice(error)) from error
    if said is not None and not isinstance(said, str):
        raise _invalid("expected a string @ $.mediaType")
    if said is not None and announced and said != announced.lower():
        raise _invalid(f"Content-Type is {quoted(announced)}, and $.mediaType {quoted(said)}: they must be the same")
    kind = announced.lower() if said is None else said
    if kind and not media_types.is_document(kind):
        raise _invalid(
            f"{quoted(kind)} is no type of manifest that is kept here: make it {media_types.OCI_MANIFEST} or "
            f"{media_types.OCI_INDEX}, or push it as a blob", accepted=list(media_types.ACCEPTED),
        )  # fmt: skip
    try:
        document = parse_document(raw, kind, limit=len(raw))
    except UnsupportedSchema1 as error:
        raise _invalid(f"{error.message}: push it with a current client") from error
    except OcikitError as error:
        raise _invalid(advice(error)) from error
    if exchange.settings.validate == "schema":
        from ocikit.spec.validation import find_violations  # noqa: PLC0415 - jsonschema, only where it is asked for

        if wrong := find_violations(raw, document.media_type, limit=len(raw)):
            raise ErrorResponse(
                400, "MANIFEST_INVALID", "the manifest breaks the image specification's schema",
                detail=[{"path": each.path, "message": each.message} for each in wrong],
                each=[f"the manifest breaks the image specification's schema @ {each.path}: {each.message}" for each in wrong],
            )  # fmt: skip
    return document


def _invalid(message: str, **detail: Any) -> ErrorResponse:
    return ErrorResponse(400, "MANIFEST_INVALID", message, detail=detail or None)


def _entry(document: Manifest | Index, found: Digest, size: int) -> ManifestRow:
    """The row of a manifest. Raises: Refusal: 400 for names that no header and no table takes."""
    media_type = document.media_type or document.default_media_type
    listed = document.as_referrer(found)
    subject = document.subject.digest if document.subject is not None else None
    kind = listed.artifact_type
    if kind is not None and not (kind.isascii() and kind.isprintable() and len(kind) <= _TYPE_LIMIT):
        raise _invalid(f"{quoted(kind)} is not a media type: see RFC 6838 for what stands in one")
    for child in (*document.children, *([document.subject] if document.subject else ())):
        if len(child.digest) > _DIGEST_LIMIT:
            raise _invalid(
                f"{quoted(str(child.digest))} has {len(child.digest)} characters; {_DIGEST_LIMIT} are the most"
            )
    shown = ""
    if subject is not None:
        value = unstructure(listed)
        shown = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if not _is_text(shown):
            shown = json.dumps(value, separators=(",", ":"))
    children = (child.digest for child in document.children if not media_types.is_foreign(child.media_type))
    return ManifestRow(
        digest=found, media_type=media_type, size=size, subject=subject, artifact_type=kind, referrer=shown,
        children=tuple(dict.fromkeys(children)),
    )  # fmt: skip


def _is_text(text: str) -> bool:
    """Whether UTF-8 can say it: halves of surrogate pairs can stand in JSON, and nowhere else."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unknown(exchange: RequestContext, name: str, reference: str) -> ErrorResponse:
    if not exchange.storage.metadata.has_repository(name):
        return unknown_name(name)
    return ErrorResponse(
        404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}: look at /v2/{name}/tags/list, or push it",
        detail={"reference": reference},
    )  # fmt: skip
