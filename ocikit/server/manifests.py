"""Manifests over HTTP. distribution-spec spec.md#pulling-manifests, #pushing-manifests, #deleting-manifests."""

from __future__ import annotations

import io
import json

from ocikit.content.links import referrer
from ocikit.display import quoted
from ocikit.errors import OcikitError
from ocikit.server.access import Need
from ocikit.server.blobs import FileBody, matches
from ocikit.server.exchange import Exchange, digest, repository, tag
from ocikit.server.message import Response
from ocikit.server.refusal import Refusal
from ocikit.server.storage import Conflict, Entry
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.document import converter, load_json
from ocikit.spec.manifest import Index, Manifest, parse_document

__all__ = ["delete", "get", "put"]


def get(exchange: Exchange, name: str, reference: str) -> Response:
    """A manifest, byte for byte. Raises: Refusal: 404."""
    name = repository(name)
    exchange.require(Need("pull", name))
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


def put(exchange: Exchange, name: str, reference: str) -> Response:
    """Take in a manifest, under a tag, or a digest and any number of tags. Raises: Refusal: 400, 412, 413."""
    name, reference = repository(name), _reference(reference)
    exchange.require(Need("push", name))
    exchange.writing()
    exchange.naming(name)
    request, settings = exchange.request, exchange.settings
    raw = request.body.allow(settings.limits.manifest).read()
    expected = Digest(reference) if ":" in reference else None
    found = Digest.of(raw, expected.algorithm if expected else "sha256")
    if expected is not None and found != expected:
        raise Refusal(400, "DIGEST_INVALID", f"the manifest's digest is {found}", detail={"digest": found})
    document = _parse(exchange, raw)
    entry = _entry(document, found, len(raw))
    tags = _tags(exchange, reference)
    if_match, fresh = request.header("If-Match"), request.header("If-None-Match").strip() == "*"
    try:
        exchange.storage.put_manifest(
            name, entry, io.BytesIO(raw), tags, strict=settings.references == "strict", fresh=fresh,
            expected=_expected(if_match) if if_match else None,
        )  # fmt: skip
    except KeyError as error:
        absent = sorted(error.args[0])
        raise Refusal(
            400, "MANIFEST_BLOB_UNKNOWN", f"push what the manifest references to {name} first",
            detail=[{"digest": d} for d in absent],
        ) from error  # fmt: skip
    except Conflict as error:
        raise Refusal(412, "DENIED", str(error)) from error
    headers = [
        ("Location", request.link(f"/v2/{name}/manifests/{reference}")),
        ("Docker-Content-Digest", found),
        ("ETag", f'"{found}"'),
        ("Content-Length", "0"),
    ]
    if document.subject is not None:
        headers.append(("OCI-Subject", document.subject.digest))
    headers += [("OCI-Tag", each) for each in request.parameters("tag")]
    return Response(201, tuple(headers))


def delete(exchange: Exchange, name: str, reference: str) -> Response:
    """Remove a tag; or a manifest and all its tags. Raises: Refusal: 404, 405."""
    name = repository(name)
    exchange.require(Need("delete", name))
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


def _asked(exchange: Exchange, name: str, text: str) -> str:
    """What somebody asks for: a tag that can't be one isn't there. Raises: Refusal: 404; 400 for half a digest."""
    try:
        return _reference(text)
    except Refusal as error:
        if ":" in text:
            raise
        raise _unknown(exchange, name, text) from error


def _tags(exchange: Exchange, reference: str) -> list[str]:
    tags = [tag(each) for each in exchange.request.parameters("tag")]
    if ":" not in reference:
        if tags:
            raise Refusal(400, "MANIFEST_INVALID", "tag= goes with a push by digest")
        return [reference]
    if len(tags) > exchange.settings.limits.tags:
        raise Refusal(414, "UNSUPPORTED", f"no more than {exchange.settings.limits.tags} tags at once")
    return list(dict.fromkeys(tags))


def _expected(if_match: str) -> list[Digest]:
    """The digests that a condition names; what isn't one matches nothing."""
    if if_match.strip() == "*":
        raise Refusal(400, "UNSUPPORTED", "If-Match takes the ETag of a manifest")
    texts = [each.strip().removeprefix("W/").strip('"') for each in if_match.split(",")]
    return [digest(each) for each in texts]


def _parse(exchange: Exchange, raw: bytes) -> Manifest | Index:
    """The document, once it is what it says. Raises: Refusal: 400 MANIFEST_INVALID."""
    announced = exchange.request.header("Content-Type").partition(";")[0].strip()
    if announced and not media_types.is_document(announced.lower()):
        raise Refusal(
            400, "MANIFEST_INVALID", f"{announced} is no type of manifest that is kept here",
            detail={"accepted": list(media_types.ACCEPTED)},
        )  # fmt: skip
    try:
        said = load_json(raw, "manifest", limit=exchange.settings.limits.manifest).get("mediaType")
        if announced and isinstance(said, str) and said != announced:
            raise Refusal(400, "MANIFEST_INVALID", f"Content-Type is {announced}, and $.mediaType {quoted(said)}")
        document = parse_document(raw, announced, limit=exchange.settings.limits.manifest)
    except OcikitError as error:
        raise Refusal(400, "MANIFEST_INVALID", error.message) from error
    if exchange.settings.validate == "schema":
        from ocikit.spec.validation import violations  # noqa: PLC0415 - jsonschema, only where it is asked for

        if wrong := violations(raw, document.media_type):
            raise Refusal(
                400, "MANIFEST_INVALID", "the manifest breaks the image specification's schema",
                detail=[{"path": each.path, "message": each.message} for each in wrong],
            )  # fmt: skip
    return document


def _entry(document: Manifest | Index, found: Digest, size: int) -> Entry:
    media_type = document.media_type or document.default_media_type
    itself = Descriptor(media_type=media_type, digest=found, size=size)
    listed = referrer(itself, document)
    subject = document.subject.digest if document.subject is not None else None
    return Entry(
        digest=found, media_type=media_type, size=size, subject=subject, artifact_type=listed.artifact_type,
        referrer=json.dumps(converter().unstructure(listed), separators=(",", ":")) if subject else "",
        children=tuple(dict.fromkeys(child.digest for child in document.children if not media_types.is_foreign(child.media_type))),
    )  # fmt: skip


def _unknown(exchange: Exchange, name: str, reference: str) -> Refusal:
    if not exchange.storage.metadata.has_repository(name):
        return Refusal(404, "NAME_UNKNOWN", f"no repository {name}", detail={"name": name})
    return Refusal(404, "MANIFEST_UNKNOWN", f"{name} has no manifest {reference}", detail={"reference": reference})
