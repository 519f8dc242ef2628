"""Discovery endpoints: base, tags, referrers, catalog.

distribution-spec spec.md#content-discovery.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from ocikit.display import quoted
from ocikit.server.auth.access import Permission
from ocikit.server.http.context import RequestContext, parse_digest, parse_repository, unknown_repository
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Response, json_response
from ocikit.spec import media_types
from ocikit.spec.digest import Digest
from ocikit.spec.document import DOCUMENT_LIMIT

#: Bytes of an index without its manifests, rounded up.
_INDEX_OVERHEAD = 1000

#: Rows that the first query and later queries read. One referrer may be as large as a manifest, so the first is small.
_FIRST_ROWS, _MAX_ROWS = 16, 1000


def base(ctx: RequestContext) -> Response:
    """Respond to a ping of an authorized client. spec.md#determining-support.

    Raises:
        ErrorResponse: 401 or 403.
    """
    identity, access, request = ctx.identity, ctx.access, ctx.request
    unknown_client = identity.anonymous and identity.grants is None
    if identity.error or (unknown_client and not access.allows_anonymous_ping(request)):
        challenge = access.challenge(request, (), identity)
        headers = (("WWW-Authenticate", challenge),) if challenge else ()
        code = "UNAUTHORIZED" if challenge else "DENIED"
        raise ErrorResponse(401 if challenge else 403, code, "log in to use this registry", headers=headers)
    return json_response(200, {})


def tags(ctx: RequestContext, name: str) -> Response:
    """Return a page of tags, sorted byte by byte.

    Raises:
        ErrorResponse: 400 or 404.
    """
    name = parse_repository(name)
    ctx.require(Permission("pull", name))
    limit, last = _page_parameters(ctx)
    metadata = ctx.storage.metadata
    names = metadata.tags(name, last=last, limit=limit + 1) if limit else []
    if not names and not metadata.has_repository(name):
        raise unknown_repository(name)
    return _names_response(ctx, f"/v2/{name}/tags/list", {"name": name}, "tags", names, limit)


def catalog(ctx: RequestContext) -> Response:
    """Return a page of the repositories that the client may pull from.

    Raises:
        ErrorResponse: 400 or 404.
    """
    if not ctx.settings.catalog:
        raise ErrorResponse(404, "UNSUPPORTED", "the catalog is disabled; request a repository by its name")
    ctx.require(Permission("catalog"))
    limit, last = _page_parameters(ctx)
    visible: list[str] = []
    while limit and len(visible) <= limit:
        # Read many at once: the client may be allowed to see only a few of them
        names = ctx.storage.metadata.repositories(last=last, limit=max(limit + 1, _MAX_ROWS))
        if not names:
            break
        visible += [name for name in names if ctx.can_pull(name)]
        last = names[-1]
    return _names_response(ctx, "/v2/_catalog", {}, "repositories", visible[: limit + 1], limit)


def referrers(ctx: RequestContext, name: str, reference: str) -> Response:
    """Return the referrers of a digest as an index. spec.md#listing-referrers.

    Raises:
        ErrorResponse: 400 if a parameter is invalid.
    """
    name, subject = parse_repository(name), parse_digest(reference, verifiable=False)
    ctx.require(Permission("pull", name))
    request = ctx.request
    # Media types have no spaces: an unencoded "+" in a query is decoded to one
    artifact_type = (request.parameter("artifactType") or "").replace(" ", "+")
    descriptors, last, more = _read_referrers(
        ctx, name, subject, artifact_type or None, request.parameter("last") or ""
    )
    # The rows contain JSON already
    raw = b'{"schemaVersion":2,"mediaType":"%s","manifests":[%s]}' % (
        media_types.OCI_INDEX.encode(),
        b",".join(descriptors),
    )
    headers = [("Content-Type", media_types.OCI_INDEX), ("Content-Length", str(len(raw)))]
    if artifact_type:
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if more:
        filters = {"artifactType": artifact_type} if artifact_type else {}
        headers.append(_next_link(ctx, f"/v2/{name}/referrers/{subject}", {**filters, "last": last}))
    return Response(200, tuple(headers), [raw])


def _read_referrers(
    ctx: RequestContext, name: str, subject: Digest, artifact_type: str | None, last: str
) -> tuple[list[bytes], str, bool]:
    """Read the descriptors that fit into one document.

    Returns:
        The descriptors as JSON, the digest of the last one, and whether there are more.
    """
    descriptors: list[bytes] = []
    size, limit = _INDEX_OVERHEAD, _FIRST_ROWS
    while True:
        rows = ctx.storage.metadata.referrers(name, subject, artifact_type=artifact_type, last=last, limit=limit)
        for row in rows:
            raw = row.referrer.encode()
            size += len(raw) + 1
            if size > DOCUMENT_LIMIT and descriptors:
                return descriptors, last, True
            descriptors.append(raw)
            last = row.digest
        if len(rows) < limit:
            return descriptors, last, False
        limit = max(1, min(_MAX_ROWS, (DOCUMENT_LIMIT - size) * len(descriptors) // size))


def _page_parameters(ctx: RequestContext) -> tuple[int, str]:
    """Return the page size and the last name of the previous page.

    Raises:
        ErrorResponse: 400 if a parameter is invalid.
    """
    limit = ctx.settings.limits.page
    text = ctx.request.parameter("n")
    last = ctx.request.parameter("last") or ""
    if text is None:
        return limit, last
    if not (text.isascii() and text.isdigit()):
        raise ErrorResponse(400, "UNSUPPORTED", f"page size n={quoted(text)} is invalid; use a number of 0 or more")
    return min(int(text.lstrip("0")[:19] or "0"), limit), last


def _names_response(
    ctx: RequestContext, path: str, body: dict[str, object], key: str, names: Sequence[str], limit: int
) -> Response:
    """Return a page of names, with a link to the next page if any."""
    page = names[:limit]
    headers = [_next_link(ctx, path, {"n": str(limit), "last": page[-1]})] if len(names) > limit > 0 else []
    return json_response(200, {**body, key: page}, headers)


def _next_link(ctx: RequestContext, path: str, query: dict[str, str]) -> tuple[str, str]:
    return "Link", f'<{ctx.request.link(path, urlencode(query))}>; rel="next"'
