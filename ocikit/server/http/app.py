"""The registry as a WSGI application. PEP 3333."""

from __future__ import annotations

import json
import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from attrs import frozen

from ocikit.display import quoted
from ocikit.errors import ContentError
from ocikit.server.auth.access import Access, OpenAccess, Problem
from ocikit.server.http.context import RequestContext
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import METHODS_WITH_BODY, Request, Response, host_name, json_response
from ocikit.server.http.routes import READ_METHODS, dispatch, method_not_allowed
from ocikit.server.http.settings import Settings
from ocikit.server.storage.base import DISK_FULL, Unavailable
from ocikit.server.storage.combined import Storage
from ocikit.spec.document import DOCUMENT_LIMIT

_log = logging.getLogger("ocikit.server")

#: Bytes of a rejected body that are read, so that the client sees the response: a manifest or a small chunk.
_DISCARD_LIMIT = DOCUMENT_LIMIT

#: The response of /healthz, which a process may also send without the application.
HEALTHY = b'{"status":"ok"}'

#: The id of an upload, after its first characters.
_UPLOAD = re.compile(r"(/blobs/uploads/[^/]{6})[^/]+\Z")

#: Headers of every response. "nosniff" prevents XSS: browsers must not interpret untrusted blobs as pages.
_HEADERS = (("Docker-Distribution-Api-Version", "registry/2.0"), ("X-Content-Type-Options", "nosniff"))

#: The code of a 5xx response. Clients retry it; the specification's codes are for 4xx. spec.md#error-codes
_FAILED = "UNKNOWN"

#: Code and seconds of a response while the database or the object store is away. Clients retry it, at different times.
_AWAY, _RETRY_AFTER = "UNAVAILABLE", (1, 5)

#: Seconds between two lines of the log about the same store that is away: each request of an outage fails.
_LOG_INTERVAL = 1.0

#: Causes of outages whose last line is remembered.
_CAUSES = 100


@frozen(kw_only=True)
class AccessRecord:
    """A finished request, for logs and metrics."""

    remote: str
    user: str
    method: str
    path: str
    status: int
    received: int
    """Bytes of the request body that were read."""
    sent: int
    """Bytes of the response body that were sent."""
    seconds: float
    agent: str
    code: str = ""
    """The specification's error code."""
    query: tuple[tuple[str, str], ...] = ()


class Application:
    """An OCI registry for any WSGI server, at the root or below a mount point.

    Args:
        storage: Storage, such as `file_storage(folder)`, `memory_storage()`, or custom adapters.
        access: Access control; without it, all clients may do everything.
        settings: Settings and limits.
        on_request: Called with an `AccessRecord` after each request.
        extra_routes: Further exact paths and their handlers, such as "/metrics".
        problems: Returns further problems for `/readyz`, such as a process that stops soon.

    >>> from wsgiref.util import setup_testing_defaults
    >>> from ocikit.server import Application, memory_storage
    >>> application, environ = Application(memory_storage()), {"PATH_INFO": "/v2/"}
    >>> setup_testing_defaults(environ)
    >>> list(application(environ, lambda status, headers: print(status)))
    200 OK
    [b'{}']
    """

    def __init__(
        self,
        storage: Storage,
        *,
        access: Access | None = None,
        settings: Settings | None = None,
        on_request: Callable[[AccessRecord], None] | None = None,
        extra_routes: dict[str, Callable[[Request], Response]] | None = None,
        problems: Callable[[], Sequence[Problem]] | None = None,
    ) -> None:
        self.storage = storage
        self.access = access or OpenAccess()
        self.settings = settings or Settings()
        self.on_request = on_request
        self._problems = problems
        self._outage = _Outage()
        self._extra_routes = {
            "/healthz": lambda _: json_response(200, json.loads(HEALTHY)),
            "/readyz": lambda _: self._readiness(),
            **(extra_routes or {}),
        }

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Respond to one request."""
        started = time.perf_counter()
        request = ctx = None
        code = ""
        try:
            request = Request.from_environ(environ, trusted=self.settings.trusted_proxies)
            self._check_host(request)
            response = self._respond_extra(request)
            if response is None:
                identity = self.access.identify(request)
                ctx = RequestContext(request, identity, self.access, self.storage, self.settings)
                response = dispatch(ctx)
        except ErrorResponse as error:
            code = error.code
            if ctx is not None and _may_discard(ctx, error):
                ctx.request.body.discard(_DISCARD_LIMIT)
            response = json_response(error.status, error.errors, error.headers)
        except Unavailable as error:
            code = _AWAY
            self._outage.log(error, _operation(environ))
            response = _unavailable(error)
        except Exception as error:  # noqa: BLE001 - clients must not see a traceback; it is logged
            code = _FAILED
            response = _internal_error(error, environ)
        if environ.get("REQUEST_METHOD") == "HEAD":
            _close(response.body)
            response = Response(response.status, response.headers)
        # PEP 3333 requires exactly `str`, and a digest is a subclass
        start_response(response.line, [*_HEADERS, *((key, str(value)) for key, value in response.headers)])

        def record(sent: int, code: str = code) -> None:
            if self.on_request is None:
                return
            self._notify(
                AccessRecord(
                    **_request_fields(environ, request),
                    user=ctx.identity.name if ctx else "",
                    status=response.status,
                    sent=sent,
                    seconds=time.perf_counter() - started,
                    code=code,
                )
            )

        if isinstance(response.body, list | tuple):
            record(sum(map(len, response.body)))
            return response.body
        return _CountingBody(response.body, record, lambda error: self._outage.log(error, _operation(environ)))

    def _notify(self, record: AccessRecord) -> None:
        """Call `on_request`; its errors are logged and do not fail the request."""
        try:
            if self.on_request is not None:
                self.on_request(record)
        except Exception:  # noqa: BLE001 - callbacks may raise anything
            _log.exception("on_request failed")

    def _readiness(self) -> Response:
        """Report whether requests can be answered: 503 while users, rules or a store cannot be read, and before the end."""
        problems = [*self.access.problems(), *(self._problems() if self._problems else ())]
        try:
            self.storage.check()
        except Unavailable as error:
            self._outage.log(error, "GET /readyz")
            problems.append(Problem(str(error)))
        except Exception:  # noqa: BLE001 - adapters may raise anything
            _log.exception("reading the metadata failed")
            problems.append(Problem("the metadata cannot be read; see the log"))
        blocked = any(problem.blocking for problem in problems)
        status = "unavailable" if blocked else "degraded" if problems else "ok"
        body = {"status": status} | ({"problems": [problem.message for problem in problems]} if problems else {})
        return json_response(503 if blocked else 200, body)

    def _check_host(self, request: Request) -> None:
        """Reject requests for other host names, which prevents DNS rebinding.

        Raises:
            ErrorResponse: 421 if the host is another one.
        """
        hosts = self.settings.hosts
        if hosts and (name := host_name(request.host)) not in hosts:
            raise ErrorResponse(421, "DENIED", f"the host of this registry is {' or '.join(hosts)}, not {name}")

    def _respond_extra(self, request: Request) -> Response | None:
        """Return the response for a path outside of `/v2/`, or None."""
        if request.path.startswith("/v2/"):
            return None
        handler = self._extra_routes.get(request.path)
        if handler is None:
            return self.access.respond(request)
        if request.method not in READ_METHODS:
            raise method_not_allowed(request.method, READ_METHODS)
        return handler(request)


def _may_discard(ctx: RequestContext, error: ErrorResponse) -> bool:
    """Return True if the rest of a rejected body is read, which keeps the connection.

    DoS: it is read for authorized clients only, so that others cannot occupy a thread, and not after an error that rejects
    the wait itself. A client that expects 100 Continue has not sent its body yet.
    """
    request = ctx.request
    return (
        ctx.authorized
        and request.method in METHODS_WITH_BODY
        and error.status not in {408, 429, 503}
        and not request.header("Expect")
    )


def _request_fields(environ: dict[str, Any], request: Request | None) -> dict[str, Any]:
    """Return the fields of an access record that come from the request.

    Args:
        environ: WSGI environ.
        request: Parsed request; None if it is invalid.
    """
    return {
        "remote": request.remote if request else str(environ.get("REMOTE_ADDR", "")),
        "method": str(environ.get("REQUEST_METHOD", "")),
        "path": request.path if request else str(environ.get("PATH_INFO", "")),
        "received": request.body.bytes_read if request else 0,
        "agent": str(environ.get("HTTP_USER_AGENT", "")),
        "query": request.query if request else (),
    }


def _internal_error(error: Exception, environ: dict[str, Any]) -> Response:
    """Log an error and return a response without its details."""
    operation = _operation(environ)
    cause = error.__cause__ if isinstance(error, ContentError) and isinstance(error.__cause__, OSError) else error
    if isinstance(cause, OSError) and cause.errno in DISK_FULL:
        _log.error("%s failed: %s", operation, cause)
        return json_response(507, _error_body("the registry's disk is full; ask its operator to free space"))
    _log.error("%s failed", operation, exc_info=error)
    return json_response(500, _error_body("the registry failed; see its log"))


def _unavailable(error: Unavailable) -> Response:
    """Return a response without the details of what is away: 503, to be repeated after seconds with jitter."""
    first, last = _RETRY_AFTER
    seconds = error.retry_after * random.uniform(0.5, 1.5)  # noqa: S311 - jitter: clients do not come back all at once
    retry = ("Retry-After", str(min(max(math.ceil(seconds), first), last)))
    return json_response(503, _error_body("the registry cannot reach its storage; try again", _AWAY), (retry,))


def masked_path(path: str) -> str:
    """Return a path for logs: the id of an upload is the only credential that continuing an anonymous upload needs.

    >>> masked_path("/v2/ada/data/blobs/uploads/kWfZ0r1vQ")
    '/v2/ada/data/blobs/uploads/kWfZ0r…'
    """
    return _UPLOAD.sub(r"\1…", path)


def _operation(environ: dict[str, Any]) -> str:
    path = masked_path(str(environ.get("PATH_INFO", "")))
    return f"{quoted(environ.get('REQUEST_METHOD', ''), 20)} {quoted(path)}"


def _error_body(message: str, code: str = _FAILED) -> dict[str, Any]:
    return {"errors": [{"code": code, "message": message}]}


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


class _Outage:
    """The log of an outage: one line a second for each cause, without a traceback."""

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}

    def log(self, error: Unavailable, operation: str) -> None:
        cause, now = str(error), time.monotonic()
        if now - self._logged.get(cause, -math.inf) >= _LOG_INTERVAL:
            if len(self._logged) >= _CAUSES:
                self._logged.clear()
            self._logged[cause] = now
            _log.error("%s failed: %s; clients get 503 until it answers", operation, cause)


class _CountingBody:
    """A response body that reports the number of sent bytes when it ends or is closed.

    Args:
        body: Chunks of the body.
        record: Called once with the number of sent bytes, and with a code if the body failed.
        failed: Called if a store is away in the middle of the body. The server cuts the connection then.
    """

    def __init__(
        self, body: Iterable[bytes], record: Callable[..., None], failed: Callable[[Unavailable], None]
    ) -> None:
        self._body = body
        self._chunks = iter(body)
        self._record: Callable[..., None] | None = record
        self._failed = failed
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = next(self._chunks)
        except Unavailable as error:
            self._failed(error)
            self._end(_AWAY)
            raise
        except BaseException:
            self._end()
            raise
        self._sent += len(chunk)
        return chunk

    def close(self) -> None:
        """Close the body and report once."""
        self._end()

    def _end(self, *code: str) -> None:
        record, self._record = self._record, None
        if record is not None:
            _close(self._body)
            record(self._sent, *code)
