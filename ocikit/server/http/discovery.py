"""What there is: the base, tags, referrers, the catalog. distribution-spec spec.md#content-discovery."""

from __future__ import annotations

from urllib.parse import urlencode

from ocikit.display import quoted
from ocikit.server.auth.access import Permission
from ocikit.server.http.context import RequestContext, digest, repository, unknown_name
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Response, json_response
from ocikit.spec import media_types
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT

#: Bytes of an index around its manifests, with room to spare.
_AROUND = 1000

#: Referrers that are read at first, and at most. One may be as large as a manifest: more are read where they are small.
_FIRST, _ROWS = 16, 1000


def base(exchange: RequestContext) -> Response:
    """Whether this is a registry, and whether the caller is let in. spec.md#determining-support."""
    identity, access, request = exchange.identity, exchange.access, exchange.request
    nobody = identity.anonymous and identity.grants is None
    if identity.error or (nobody and not access.allows_anonymous_ping(request)):
        challenge = access.challenge(request, (), identity)
        headers = (("WWW-Authenticate", challenge),) if challenge else ()
        code = "UNAUTHORIZED" if challenge else "DENIED"
        raise ErrorResponse(401 if challenge else 403, code, "log in to use this registry", headers=headers)
    return json_response(200, {})


def tags(exchange: RequestContext, name: str) -> Response:
    """Tags in order, byte by byte. Raises: Refusal: 400, 404."""
    name = repository(name)
    exchange.require(Permission("pull", name))
    limit, last = _page(exchange)
    metadata = exchange.storage.metadata
    found = metadata.tags(name, last=last, limit=limit + 1) if limit else []
    if not found and not metadata.has_repository(name):
        raise unknown_name(name)
    return _listed(exchange, f"/v2/{name}/tags/list", {"name": name}, "tags", found, limit)


def catalog(exchange: RequestContext) -> Response:
    """Repositories in order, as far as the caller may pull from them. Raises: Refusal: 400, 404."""
    if not exchange.settings.catalog:
        raise ErrorResponse(404, "UNSUPPORTED", "this registry doesn't list its repositories: ask for one by name")
    exchange.require(Permission("catalog"))
    limit, last = _page(exchange)
    found: list[str] = []
    while limit and len(found) <= limit:
        # Many at once: of a long catalog somebody may see nearly nothing
        names = exchange.storage.metadata.repositories(last=last, limit=max(limit + 1, _ROWS))
        if not names:
            break
        found += [name for name in names if exchange.reads(name)]
        last = names[-1]
    return _listed(exchange, "/v2/_catalog", {}, "repositories", found[: limit + 1], limit)


def referrers(exchange: RequestContext, name: str, reference: str) -> Response:
    """The manifests whose subject a digest is, as an index. spec.md#listing-referrers. Raises: Refusal: 400."""
    name, subject = repository(name), digest(reference, verifiable=False)
    exchange.require(Permission("pull", name))
    request = exchange.request
    # A media type has no spaces; who writes the address by hand forgets that "+" is one there
    artifact_type = (request.parameter("artifactType") or "").replace(" ", "+")
    shown, last, more = _referrers(exchange, name, subject, artifact_type or None, request.parameter("last") or "")
    # The rows hold JSON already
    raw = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' % (media_types.OCI_INDEX.encode(), b",".join(shown))
    headers = [("Content-Type", media_types.OCI_INDEX), ("Content-Length", str(len(raw)))]
    if artifact_type:
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if more:
        kept = {"artifactType": artifact_type} if artifact_type else {}
        headers.append(_next(exchange, f"/v2/{name}/referrers/{subject}", {**kept, "last": last}))
    return Response(200, tuple(headers), [raw])


def _referrers(
    exchange: RequestContext, name: str, subject: Digest, artifact_type: str | None, last: str
) -> tuple[list[bytes], str, bool]:
    """As many descriptors as one document holds, the digest of the last, and whether there are more."""
    shown: list[bytes] = []
    size, rows = _AROUND, _FIRST
    while True:
        entries = exchange.storage.metadata.referrers(name, subject, artifact_type=artifact_type, last=last, limit=rows)
        for entry in entries:
            raw = entry.referrer.encode()
            size += len(raw) + 1
            if size > DOCUMENT_LIMIT and shown:
                return shown, last, True
            shown.append(raw)
            last = entry.digest
        if len(entries) < rows:
            return shown, last, False
        rows = max(1, min(_ROWS, (DOCUMENT_LIMIT - size) * len(shown) // size))


def _page(exchange: RequestContext) -> tuple[int, str]:
    """How many names, after which one. Raises: Refusal: 400."""
    most = exchange.settings.limits.page
    text = exchange.request.parameter("n")
    last = exchange.request.parameter("last") or ""
    if text is None:
        return most, last
    if not (text.isascii() and text.isdigit()):
        raise ErrorResponse(400, "UNSUPPORTED", f"n is the number of names to list, 0 or more, and not {quoted(text)}")
    return min(int(text.lstrip("0")[:19] or "0"), most), last


def _listed(
    exchange: RequestContext, path: str, body: dict[str, object], key: str, found: list[str], limit: int
) -> Response:
    """A page of names, with a link to the next if there is one more than asked for."""
    page = found[:limit]
    headers = [_next(exchange, path, {"n": str(limit), "last": page[-1]})] if len(found) > limit > 0 else []
    return json_response(200, {**body, key: page}, headers)


def _next(exchange: RequestContext, path: str, query: dict[str, str]) -> tuple[str, str]:
    return "Link", f'<{exchange.request.link(path, urlencode(query))}>; rel="next"'
