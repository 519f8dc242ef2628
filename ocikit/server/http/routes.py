"""Routes: the endpoint for a path and method. distribution-spec spec.md#endpoints."""

from __future__ import annotations

from collections.abc import Callable

from ocikit.display import shorten
from ocikit.server.http import blobs, discovery, manifests, uploads
from ocikit.server.http.context import RequestContext
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Response

Endpoint = Callable[..., Response]
Methods = dict[str, Endpoint]

#: Methods that do not change anything.
READ_METHODS = ("GET", "HEAD")

#: Endpoints by fixed path.
_FIXED: dict[str, Methods] = {
    "/v2/": dict.fromkeys(READ_METHODS, discovery.base),
    "/v2": dict.fromkeys(READ_METHODS, discovery.base),
    "/v2/_catalog": dict.fromkeys(READ_METHODS, discovery.catalog),
}

#: Endpoints of `/v2/<name>/<kind>/<reference>` by kind.
_KINDS: dict[str, Methods] = {
    "blobs": {**dict.fromkeys(READ_METHODS, blobs.get), "DELETE": blobs.delete},
    "manifests": {**dict.fromkeys(READ_METHODS, manifests.get), "PUT": manifests.put, "DELETE": manifests.delete},
    "referrers": dict.fromkeys(READ_METHODS, discovery.referrers),
}
_TAGS: Methods = dict.fromkeys(READ_METHODS, discovery.tags)
_UPLOADS: Methods = {"POST": uploads.create}
_UPLOAD: Methods = {
    "GET": uploads.status,
    "PATCH": uploads.append,
    "PUT": uploads.finish,
    "DELETE": uploads.cancel,
}


def dispatch(ctx: RequestContext) -> Response:
    """Call the endpoint of a request.

    Raises:
        ErrorResponse: 404, 405, or the endpoint's error.
    """
    request = ctx.request
    route = find_route(request.path)
    if route is None:
        raise ErrorResponse(404, "NAME_UNKNOWN", "there is no such path; the registry API is below /v2/")
    methods, arguments = route
    endpoint = methods.get(request.method)
    if endpoint is None:
        raise method_not_allowed(request.method, methods)
    try:
        return endpoint(ctx, *arguments)
    except ErrorResponse as error:
        if error.status == 405:
            # The method is disabled by settings. 405 must list the remaining methods in `Allow` (RFC 9110 #15.5.6)
            allowed = [
                method
                for method in methods
                if method in READ_METHODS or not (method == request.method or ctx.settings.read_only)
            ]
            error.headers += (("Allow", ", ".join(allowed)),)
        raise


def find_route(path: str) -> tuple[Methods, tuple[str, ...]] | None:
    """Return the endpoints of a path by method, and its unchecked arguments.

    Parse from the end: "blobs" and "tags" may be parts of a repository name too.
    """
    if methods := _FIXED.get(path):
        return methods, ()
    rest, _, last = path.removeprefix("/v2/").rpartition("/")
    name, _, kind = rest.rpartition("/")
    if not name or not path.startswith("/v2/"):
        return None
    if kind == "uploads" and name.endswith("/blobs"):
        name = name.removesuffix("/blobs")
        return (_UPLOAD, (name, last)) if last else (_UPLOADS, (name,))
    if kind == "blobs" and last == "uploads":
        return _UPLOADS, (name,)
    if kind == "tags" and last == "list":
        return _TAGS, (name,)
    methods = _KINDS.get(kind, {})
    return (methods, (name, last)) if methods else None


def method_not_allowed(method: str, allowed: Methods | tuple[str, ...]) -> ErrorResponse:
    """Return the error for a method that a path does not support."""
    names = ", ".join(allowed)
    return ErrorResponse(
        405,
        "UNSUPPORTED",
        f"{shorten(method, 20)} is not supported for this path; use {names}",
        headers=(("Allow", names),),
    )
