"""The registry as a WSGI application: routes, access, errors, and a word about every request. PEP 3333."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen

from ocikit.display import quoted, shorten
from ocikit.errors import ContentError
from ocikit.server.auth.access import Access, OpenAccess
from ocikit.server.http import blobs, discovery, manifests, uploads
from ocikit.server.http.context import RequestContext
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request, Response, host_name, json_response
from ocikit.server.http.settings import Settings
from ocikit.server.storage.base import Storage
from ocikit.spec.document import DOCUMENT_LIMIT

_log = logging.getLogger("ocikit.server")

Endpoint = Callable[..., Response]

_Methods = dict[str, Endpoint]

_READ = ("GET", "HEAD")

#: distribution-spec spec.md#endpoints: what the first path answers, and what `/v2/<name>/<kind>/<reference>` does by kind.
_ROOTS: dict[str, _Methods] = {
    "/v2/": dict.fromkeys(_READ, discovery.base),
    "/v2": dict.fromkeys(_READ, discovery.base),
    "/v2/_catalog": dict.fromkeys(_READ, discovery.catalog),
}
_KINDS: dict[str, _Methods] = {
    "blobs": {**dict.fromkeys(_READ, blobs.get), "DELETE": blobs.delete},
    "manifests": {**dict.fromkeys(_READ, manifests.get), "PUT": manifests.put, "DELETE": manifests.delete},
    "referrers": dict.fromkeys(_READ, discovery.referrers),
}
_TAGS: _Methods = dict.fromkeys(_READ, discovery.tags)
_UPLOADS: _Methods = {"POST": uploads.create}
_UPLOAD: _Methods = {
    "GET": uploads.status, "PATCH": uploads.append, "PUT": uploads.finish, "DELETE": uploads.cancel,
}  # fmt: skip

#: Bytes of a refused body that are read, so that clients get to the answer: a manifest, or a small chunk.
_DISCARDED = DOCUMENT_LIMIT

#: What every response says. Blobs and errors come from strangers: a browser must not guess that they are pages.
_HEADERS = (("Docker-Distribution-Api-Version", "registry/2.0"), ("X-Content-Type-Options", "nosniff"))


@frozen(kw_only=True)
class AccessRecord:
    """What is told of a request when it is over."""

    remote: str
    user: str
    method: str
    path: str
    status: int
    received: int
    """Bytes of the body that were read."""
    sent: int
    """Bytes of the body that were taken by the server."""
    seconds: float
    agent: str
    code: str = ""
    """The specification's code of an error."""
    query: tuple[tuple[str, str], ...] = ()


class Application:
    """An OCI registry for any WSGI server, at the root or mounted under a prefix.

    Args:
        storage: where it keeps things: `files(folder)`, `memory()`, or adapters of one's own.
        access: who may do what; without it, everybody may do everything.
        settings: switches and limits.
        told: called with a `Record` when a request is over, for a log or for metrics.
        pages: further paths, exact, with what answers them, such as "/healthz".
    """

    def __init__(
        self,
        storage: Storage,
        *,
        access: Access | None = None,
        settings: Settings | None = None,
        told: Callable[[AccessRecord], None] | None = None,
        pages: dict[str, Callable[[Request], Response]] | None = None,
    ) -> None:
        self.storage = storage
        self.access = access or OpenAccess()
        self.settings = settings or Settings()
        self._told = told
        self._pages = {"/healthz": lambda _: json_response(200, {"status": "ok"}), **(pages or {})}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        begun = time.perf_counter()
        request = exchange = None
        code = ""
        try:
            request = Request.of(environ, trusted=self.settings.trusted_proxies)
            self._check_host(request)
            response = self._page(request)
            if response is None:
                identity = self.access.identify(request)
                exchange = RequestContext(request, identity, self.access, self.storage, self.settings)
                response = _dispatch(exchange)
        except ErrorResponse as error:
            code = error.code
            # Strangers must not keep us reading; nor must who waits to be told to send
            if exchange is not None and exchange.admitted and not exchange.request.header("Expect"):
                exchange.request.body.discard(_DISCARDED)
            response = json_response(error.status, error.errors, error.headers)
        except Exception as error:  # noqa: BLE001 - a stranger must not see a traceback, and the log must
            code = _FAILED
            response = _failed(error, environ)
        if environ.get("REQUEST_METHOD") == "HEAD":
            _close(response.body)
            response = Response(response.status, response.headers)
        # A digest is a kind of str, and PEP 3333 asks for str itself
        start_response(response.line, [*_HEADERS, *((key, str(value)) for key, value in response.headers)])
        if self._told is None:
            return response.body

        def tell(sent: int) -> None:
            self._tell(
                AccessRecord(
                    remote=request.remote if request else str(environ.get("REMOTE_ADDR", "")), user=exchange.identity.name if exchange else "",
                    method=str(environ.get("REQUEST_METHOD", "")), path=request.path if request else str(environ.get("PATH_INFO", "")),
                    status=response.status, received=request.body.taken if request else 0, sent=sent,
                    seconds=time.perf_counter() - begun, agent=str(environ.get("HTTP_USER_AGENT", "")), code=code,
                    query=request.query if request else (),
                )
            )  # fmt: skip

        if isinstance(response.body, list | tuple):
            tell(sum(map(len, response.body)))
            return response.body
        return _Counted(response.body, tell)

    def _tell(self, record: AccessRecord) -> None:
        """A log that fails must not fail the request."""
        try:
            if self._told is not None:
                self._told(record)
        except Exception:  # noqa: BLE001 - whatever a log does
            _log.exception("what is told of requests failed")

    def _check_host(self, request: Request) -> None:
        """Refuse names that aren't ours. Raises: Refusal: 421."""
        hosts = self.settings.hosts
        if hosts and (name := host_name(request.host)) not in hosts:
            raise ErrorResponse(421, "DENIED", f"this registry is called {' or '.join(hosts)}, not {name}")

    def _page(self, request: Request) -> Response | None:
        if request.path.startswith("/v2/"):
            return None
        page = self._pages.get(request.path)
        if page is None:
            return self.access.respond(request)
        if request.method not in _READ:
            allowed = (("Allow", ", ".join(_READ)),)
            raise ErrorResponse(
                405, "UNSUPPORTED", f"{shorten(request.method, 20)} is not for this path", headers=allowed
            )
        return page(request)


def _route(path: str) -> tuple[_Methods, tuple[str, ...]] | None:
    """The endpoints of a path by method, and what the path names: unchecked, a name is anything here.

    It is read from its end, since "blobs" and "tags" may be parts of a repository's name, too.
    """
    if methods := _ROOTS.get(path):
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


def _dispatch(exchange: RequestContext) -> Response:
    """Find the endpoint and ask it. Raises: Refusal."""
    request = exchange.request
    route = _route(request.path)
    if route is None:
        raise ErrorResponse(404, "NAME_UNKNOWN", "no such path; what this registry has is below /v2/")
    methods, named = route
    endpoint = methods.get(request.method)
    if endpoint is None:
        allowed = ", ".join(methods)
        raise ErrorResponse(
            405, "UNSUPPORTED", f"{shorten(request.method, 20)} is not for this path; {allowed} are",
            headers=(("Allow", allowed),),
        )  # fmt: skip
    try:
        return endpoint(exchange, *named)
    except ErrorResponse as error:
        if error.status == 405:
            # Switched off: RFC 9110 #15.5.6 wants to know what is left
            left = [m for m in methods if m in _READ or not (m == request.method or exchange.settings.read_only)]
            error.headers += (("Allow", ", ".join(left)),)
        raise


#: What clients of any age take for "try again"; the specification's codes are for 4xx. spec.md#error-codes
_FAILED = "UNKNOWN"


def _failed(error: Exception, environ: dict[str, Any]) -> Response:
    """The disk is full, or worse: what happened is for the log."""
    what = f"{quoted(environ.get('REQUEST_METHOD', ''), 20)} {quoted(environ.get('PATH_INFO', ''))}"
    cause = error.__cause__ if isinstance(error, ContentError) and isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.errno in uploads.FULL:
        _log.error("%s: %s", what, cause)
        return json_response(507, _error("the registry's disk is full; its operator must make room"))
    _log.error("%s failed", what, exc_info=error)
    return json_response(500, _error("the registry failed; its log says how"))


def _error(message: str) -> dict[str, Any]:
    return {"errors": [{"code": _FAILED, "message": message}]}


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


class _Counted:
    """A body that tells how much of it was taken, when it is over or given up."""

    def __init__(self, body: Iterable[bytes], tell: Callable[[int], None]) -> None:
        self._body = body
        self._pieces = iter(body)
        self._tell: Callable[[int], None] | None = tell
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except BaseException:
            self.close()
            raise
        self._sent += len(piece)
        return piece

    def close(self) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            _close(self._body)
            tell(self._sent)
