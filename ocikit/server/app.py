"""The registry as a WSGI application: routes, access, errors, and a word about every request. PEP 3333."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import frozen

from ocikit.errors import ContentError
from ocikit.server import blobs, discovery, manifests, uploads
from ocikit.server.access import Access, OpenAccess
from ocikit.server.exchange import Exchange
from ocikit.server.message import Request, Response, json_response
from ocikit.server.refusal import Refusal
from ocikit.server.settings import Settings
from ocikit.server.storage import Storage

__all__ = ["Application", "Record"]

_log = logging.getLogger("ocikit.server")

Endpoint = Callable[..., Response]

#: distribution-spec spec.md#endpoints. A name is anything here, and checked by the grammar before it is used.
_ROUTES: tuple[tuple[re.Pattern[str], dict[str, Endpoint]], ...] = tuple(
    (re.compile(path, re.DOTALL), methods)
    for path, methods in (
        (r"/v2/?", {"GET": discovery.base, "HEAD": discovery.base}),
        (r"/v2/_catalog", {"GET": discovery.catalog, "HEAD": discovery.catalog}),
        (r"/v2/(.+)/blobs/uploads/?", {"POST": uploads.create}),
        (
            r"/v2/(.+)/blobs/uploads/([^/]*)",
            {"GET": uploads.status, "PATCH": uploads.append, "PUT": uploads.finish, "DELETE": uploads.cancel},
        ),
        (r"/v2/(.+)/blobs/([^/]*)", {"GET": blobs.get, "HEAD": blobs.get, "DELETE": blobs.delete}),
        (
            r"/v2/(.+)/manifests/([^/]*)",
            {"GET": manifests.get, "HEAD": manifests.get, "PUT": manifests.put, "DELETE": manifests.delete},
        ),
        (r"/v2/(.+)/tags/list", {"GET": discovery.tags, "HEAD": discovery.tags}),
        (r"/v2/(.+)/referrers/([^/]*)", {"GET": discovery.referrers, "HEAD": discovery.referrers}),
    )
)

#: What every response says. Blobs and errors come from strangers: a browser must not guess that they are pages.
_HEADERS = (("Docker-Distribution-Api-Version", "registry/2.0"), ("X-Content-Type-Options", "nosniff"))


@frozen(kw_only=True)
class Record:
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
        told: Callable[[Record], None] | None = None,
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
                exchange = Exchange(request, identity, self.access, self.storage, self.settings)
                response = _dispatch(exchange)
        except Refusal as error:
            code = error.code
            response = json_response(error.status, error.errors, error.headers)
        except (ContentError, OSError) as error:
            code = "UNKNOWN"
            response = _failed(error)
        except Exception:  # noqa: BLE001 - a stranger must not see a traceback, and the log must
            _log.exception("%s %s failed", environ.get("REQUEST_METHOD"), environ.get("PATH_INFO"))
            code = "UNKNOWN"
            response = json_response(500, {"errors": [{"code": "UNKNOWN", "message": "the registry failed"}]})
        if environ.get("REQUEST_METHOD") == "HEAD":
            _close(response.body)
            response = Response(response.status, response.headers)
        # A digest is a kind of str, and PEP 3333 asks for str itself
        start_response(response.line, [*_HEADERS, *((key, str(value)) for key, value in response.headers)])
        if self._told is None:
            return response.body

        def tell(sent: int) -> None:
            assert self._told is not None  # noqa: S101 - for the type checker
            self._told(
                Record(
                    remote=request.remote if request else "", user=exchange.identity.name if exchange else "",
                    method=str(environ.get("REQUEST_METHOD", "")), path=request.path if request else "",
                    status=response.status, received=request.body.taken if request else 0, sent=sent,
                    seconds=time.perf_counter() - begun, agent=str(environ.get("HTTP_USER_AGENT", "")), code=code,
                    query=request.query if request else (),
                )
            )  # fmt: skip

        if isinstance(response.body, list | tuple):
            tell(sum(map(len, response.body)))
            return response.body
        return _Counted(response.body, tell)

    def _check_host(self, request: Request) -> None:
        """Refuse names that aren't ours. Raises: Refusal: 421."""
        hosts = self.settings.hosts
        if hosts and re.sub(r":\d*\Z", "", request.host).lower() not in hosts:
            raise Refusal(421, "DENIED", f"this registry is {', '.join(hosts)}, not {request.host}")

    def _page(self, request: Request) -> Response | None:
        if request.path.startswith("/v2/"):
            return None
        page = self._pages.get(request.path)
        if page is not None and request.method in {"GET", "HEAD"}:
            return page(request)
        return self.access.answer(request)


def _dispatch(exchange: Exchange) -> Response:
    """Find the endpoint and ask it. Raises: Refusal."""
    request = exchange.request
    for path, methods in _ROUTES:
        if match := path.fullmatch(request.path):
            endpoint = methods.get(request.method)
            if endpoint is None:
                allowed = ", ".join(methods)
                raise Refusal(
                    405, "UNSUPPORTED", f"{request.method} is not for this path; {allowed} are",
                    headers=(("Allow", allowed),),
                )  # fmt: skip
            return endpoint(exchange, *match.groups())
    raise Refusal(404, "NAME_UNKNOWN", "no such path; the registry is at /v2/")


def _failed(error: Exception) -> Response:
    """The disk is full, or worse."""
    cause = error.__cause__ if isinstance(error, ContentError) and isinstance(error.__cause__, OSError) else error
    full = getattr(cause, "errno", None) in uploads.FULL
    _log.error("%s", error)
    message = "the registry's disk is full" if full else "the registry failed"
    return json_response(507 if full else 500, {"errors": [{"code": "UNKNOWN", "message": message}]})


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
