"""What there is: the base, tags, referrers, the catalog. distribution-spec spec.md#content-discovery."""

from __future__ import annotations

from urllib.parse import urlencode

from ocikit.server.access import Need
from ocikit.server.exchange import Exchange, digest, repository
from ocikit.server.message import Response, json_response
from ocikit.server.refusal import Refusal
from ocikit.spec import media_types
from ocikit.spec.document import DOCUMENT_LIMIT

__all__ = ["base", "catalog", "referrers", "tags"]

#: Bytes of an index around its manifests, with room to spare.
_AROUND = 1000

#: Referrers that are read at once.
_ROWS = 1000


def base(exchange: Exchange) -> Response:
    """Whether this is a registry, and whether the caller is let in. spec.md#determining-support."""
    identity, access, request = exchange.identity, exchange.access, exchange.request
    nobody = identity.anonymous and identity.grants is None
    if identity.problem or (nobody and not access.welcomes(request)):
        challenge = access.challenge(request, (), identity)
        headers = (("WWW-Authenticate", challenge),) if challenge else ()
        code = "UNAUTHORIZED" if challenge else "DENIED"
        raise Refusal(401 if challenge else 403, code, "log in to use this registry", headers=headers)
    return json_response(200, {})


def tags(exchange: Exchange, name: str) -> Response:
    """Tags in order, byte by byte. Raises: Refusal: 400, 404."""
    name = repository(name)
    exchange.require(Need("pull", name))
    metadata = exchange.storage.metadata
    if not metadata.has_repository(name):
        raise Refusal(404, "NAME_UNKNOWN", f"no repository {name}", detail={"name": name})
    limit, last = _page(exchange)
    found = metadata.tags(name, last=last, limit=limit + 1) if limit else []
    return _listed(exchange, f"/v2/{name}/tags/list", {"name": name}, "tags", found, limit)


def catalog(exchange: Exchange) -> Response:
    """Repositories in order, as far as the caller may pull from them. Raises: Refusal: 400, 404."""
    if not exchange.settings.catalog:
        raise Refusal(404, "UNSUPPORTED", "this registry has no catalog")
    exchange.require(Need("catalog"))
    limit, last = _page(exchange)
    found: list[str] = []
    while limit and len(found) <= limit:
        names = exchange.storage.metadata.repositories(last=last, limit=limit + 1)
        if not names:
            break
        found += [name for name in names if exchange.lists(name)]
        last = names[-1]
    return _listed(exchange, "/v2/_catalog", {}, "repositories", found[: limit + 1], limit)


def referrers(exchange: Exchange, name: str, reference: str) -> Response:
    """The manifests whose subject a digest is, as an index. spec.md#listing-referrers. Raises: Refusal: 400."""
    name, subject = repository(name), digest(reference)
    exchange.require(Need("pull", name))
    request = exchange.request
    artifact_type = request.parameter("artifactType")
    last = request.parameter("last") or ""
    shown: list[str] = []
    size, more = _AROUND, True
    while more:
        entries = exchange.storage.metadata.referrers(
            name, subject, artifact_type=artifact_type or None, last=last, limit=_ROWS
        )
        more = len(entries) == _ROWS
        for entry in entries:
            length = len(entry.referrer.encode()) + 1
            if size + length > DOCUMENT_LIMIT and shown:
                more = True
                break
            shown.append(entry.referrer)
            size, last = size + length, entry.digest
        else:
            continue
        break
    # The rows hold JSON already
    raw = f'{{"schemaVersion":2,"mediaType":"{media_types.OCI_INDEX}","manifests":[{",".join(shown)}]}}'.encode()
    headers = [("Content-Type", media_types.OCI_INDEX), ("Content-Length", str(len(raw)))]
    if artifact_type:
        headers.append(("OCI-Filters-Applied", "artifactType"))
    if more:
        kept = {"artifactType": artifact_type} if artifact_type else {}
        headers.append(_next(exchange, f"/v2/{name}/referrers/{subject}", {**kept, "last": last}))
    return Response(200, tuple(headers), [raw])


def _page(exchange: Exchange) -> tuple[int, str]:
    """How many names, after which one. Raises: Refusal: 400."""
    most = exchange.settings.limits.page
    text = exchange.request.parameter("n")
    last = exchange.request.parameter("last") or ""
    if text is None:
        return most, last
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Refusal(400, "UNSUPPORTED", "n is the number of names to list, 0 or more")
    return min(int(text), most), last


def _listed(exchange: Exchange, path: str, body: dict[str, object], key: str, found: list[str], limit: int) -> Response:
    """A page of names, with a link to the next if there is one more than asked for."""
    page = found[:limit]
    headers = [_next(exchange, path, {"n": str(limit), "last": page[-1]})] if len(found) > limit > 0 else []
    return json_response(200, {**body, key: page}, headers)


def _next(exchange: Exchange, path: str, query: dict[str, str]) -> tuple[str, str]:
    return "Link", f'<{exchange.request.link(path, urlencode(query))}>; rel="next"'
