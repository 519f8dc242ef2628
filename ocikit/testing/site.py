"""The servers of a registry on loopback: its API, and for some its token server and the storage of its blobs.

    with Site(upstream, "ghcr.io", storage="https://pkg-containers.githubusercontent.com") as site:
        site.bearer("https://ghcr.io/token", user="octocat", password="ghp_…")
        QUIRKS["ghcr-no-referrers"].install(site)
        ...
        assert site.triggered["ghcr-no-referrers"]
        assert site.leaks() == []                       # no credential left its server

Clients use the loopback address. A subclass may publish the servers under other origins.
"""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

from attrs import define, evolve, field
from requests.structures import CaseInsensitiveDict

from ocikit.spec.challenge import Scope
from ocikit.testing.messages import Request, Response, error_response
from ocikit.testing.proxy import Proxy
from ocikit.testing.tokens import TokenServer

UPLOAD = r"/v2/(.+)/blobs/uploads/([^/]*)"
BLOB = r"/v2/(.+)/blobs/([a-z0-9]+:[0-9a-f]+)"
MANIFEST = r"/v2/(.+)/manifests/([^/]+)"
TAGS = r"/v2/(.+)/tags/list"
REFERRERS = r"/v2/(.+)/referrers/([^/]+)"

#: The path of the token server.
TOKEN = "/token"  # noqa: S105 - a path

#: Maximum number of names on a page, so every listing has several pages.
PAGES = {"tags/list": 10, "_catalog": 100}

#: The name of the machine in URLs of the storage. Clients that forward credentials compare names without ports.
_STORAGE_NAME = "localhost"

_KINDS = ("/blobs/", "/manifests/", "/tags/", "/referrers/")


@define(eq=False, slots=False)
class Site:
    """A registry behind a proxy; a context manager."""

    upstream: str
    """URL of the registry that does the work."""
    host: str = ""
    """The host in references of the registry that is imitated."""
    storage: str = ""
    """The origin of the storage that blobs are redirected to; "" for none."""
    api_host: str = ""
    """The host of the API, if it is not `host`."""
    pages: bool = True
    """Whether listings have short pages."""
    port: int = 0
    """The port of the API; 0 is a free one."""

    triggered: Counter[str] = field(factory=Counter, init=False)
    """Number of uses of each quirk by name."""
    credentials: tuple[str, str] | None = field(default=None, init=False, repr=False)
    """The user's credentials."""
    stale: tuple[str, str] | None = field(default=None, init=False, repr=False)
    """The same credentials, expired."""
    authorization: str = field(default="", init=False, repr=False)
    """The account's Basic credentials, for the registry or its token server."""
    proxy: Proxy = field(init=False)
    """The API."""
    store: Proxy = field(init=False)
    """The storage, if there is one (`redirects`)."""
    auth: Proxy = field(init=False)
    """The proxy of the token server, if there is one (`has_tokens`)."""
    tokens: TokenServer = field(init=False)
    """The token server, if there is one."""
    _storage_origin: str = field(default="", init=False, repr=False)
    _secrets: set[str] = field(factory=set, init=False, repr=False)
    _challenge: Callable[..., str] | None = field(default=None, init=False, repr=False)
    _late: int = field(default=0, init=False, repr=False)
    _signed: dict[str, str] = field(factory=dict, init=False, repr=False)
    _stack: ExitStack = field(factory=ExitStack, init=False, repr=False)

    def __enter__(self) -> Self:
        self.proxy = self._stack.enter_context(Api(self.upstream, redirects=self.redirects, bind=self.port))
        self.publish(self.proxy, f"https://{self.api_host or self.host}")
        if self.storage:
            self.store = self._stack.enter_context(Storage(self.upstream, self._signed))
            self._storage_origin = self.publish(self.store, self.storage)
        self.install()
        self._late = len(self.proxy.before)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def publish(self, server: Proxy, url: str, path: str = "") -> str:
        """Return the URL that clients use for a server.

        Args:
            server: A running server.
            url: URL of the server at the registry that is imitated.
            path: The path of this URL at the server; only a token server has one.
        """
        # SSRF: oras rejects a token server on loopback, unless it has the address of the registry
        return f"http://{_STORAGE_NAME}:{server.port}{path}" if not path else f"{self.proxy.url}{path}"

    def install(self) -> None:
        """Install the hooks that run after those of the quirks."""
        if self.redirects:
            self._redirect()
        if self.pages:

            @self.before("GET", "/v2/_catalog|" + TAGS)
            def page(request: Request) -> Request:
                most = PAGES["_catalog" if request.path.endswith("_catalog") else "tags/list"]
                return rewritten(request, n=str(min(int(request.query.get("n", ["1000"])[0]), most)))

    # The registry

    @property
    def redirects(self) -> bool:
        """True if blobs are redirected to a storage."""
        return bool(self.storage)

    @property
    def has_tokens(self) -> bool:
        """True if clients need tokens of a token server."""
        return hasattr(self, "tokens")

    def before(self, method: str, path: str) -> Callable[[Any], Any]:
        """Decorate a hook for requests, by regular expressions for the whole method and path.

        The site's own hooks for redirects and pages run last.
        """
        return _hook(self.proxy.before, method, path, len(self.proxy.before) - self._late)

    def after(self, method: str, path: str) -> Callable[[Any], Any]:
        """Decorate a hook for responses. The newest hook runs first."""
        return _hook(self.proxy.after, method, path, 0)

    @property
    def blobs(self) -> Proxy:
        """The proxy that serves blobs."""
        return self.store if self.redirects else self.proxy

    def ask(self, method: str, target: str) -> int:
        """Send a request directly to the registry that does the work, and return the status."""
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=10)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def _redirect(self) -> None:
        numbers = itertools.count(1)

        @self.before("GET", BLOB)
        def away(request: Request) -> Response:
            digest, signature = request.path.rpartition("/")[2], f"s{next(numbers)}"
            self._signed[signature] = request.path
            query = urlencode({"X-Amz-Signature": signature, "X-Amz-Expires": "20"})
            path = f"/docker/registry/{digest.replace(':', '/')}/data"
            return Response(307, {"Location": f"{self._storage_origin}{path}?{query}"})

        def here(request: Request) -> Response | Request:
            path = self._signed.get(_signature(request))
            return error_response(403, "AccessDenied") if path is None else evolve(request, target=path)

        self.store.before.append(here)

    # Access control

    def basic(self, user: str, password: str, realm: str = "Registry") -> None:
        """Require Basic authentication for each request."""
        self.account(user, password)
        self._challenge = lambda *_, **__: f'Basic realm="{realm}",service="{self.host}"'

        def guard(request: Request) -> Response | None:
            return None if request.headers.get("Authorization") == self.authorization else self.unauthorized()

        self.proxy.guard = guard

    def bearer(
        self,
        realm: str,
        *,
        user: str,
        password: str,
        anonymous: Iterable[str] = (),
        catalog: bool = True,
        service: str = "registry",
    ) -> None:
        """Require tokens from a token server.

        Args:
            realm: The URL of its tokens at the registry that is imitated.
            user: The only user.
            password: The user's password.
            anonymous: Patterns of public repositories.
            catalog: Whether the user may list all repositories.
            service: The name of the registry in challenges.
        """
        self.account(user, password)
        tokens = self.tokens = self._stack.enter_context(
            TokenServer(
                users={user: password},
                service=service,
                anonymous={pattern: {"pull"} for pattern in anonymous},
                rights={} if catalog else {user: {"*": {"pull", "push", "delete"}}},
            )
        )
        self.auth = self._stack.enter_context(Proxy(tokens.realm.removesuffix("/token")))
        realm = self.publish(self.auth, realm, TOKEN)

        def challenge(*scopes: Scope, problem: str = "") -> str:
            parts = {"realm": realm, "service": service}
            parts |= {"scope": " ".join(map(str, scopes))} if scopes else {}
            parts |= {"error": problem} if problem else {}
            return "Bearer " + ",".join(f'{key}="{value}"' for key, value in parts.items())

        self._challenge = challenge

        def guard(request: Request) -> Response | None:
            if request.path == TOKEN:
                return _relay(request, self.auth)
            wanted = _wanted(request)
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not token:
                return self.unauthorized(*wanted)
            claims = tokens.claims(token)
            if claims is None:
                return self.unauthorized(*wanted, problem="invalid_token")
            had = [Scope(resource_type=a["type"], name=a["name"], actions=a["actions"]) for a in claims["access"]]
            if all(any(h.covers(w) for h in had) for w in wanted):
                return None
            return self.unauthorized(*wanted, problem="insufficient_scope")

        self.proxy.guard = guard

    def unauthorized(self, *scopes: Scope, problem: str = "") -> Response:
        """Return the registry's 401 response."""
        answer = error_response(401, "UNAUTHORIZED", "authentication required")
        if self._challenge is not None:
            answer.headers["WWW-Authenticate"] = self._challenge(*scopes, problem=problem)
        return answer

    def account(self, user: str, password: str) -> None:
        """Set the credentials that the registry accepts."""
        self.credentials, self.stale = (user, password), (user, f"expired-{password}")
        self.authorization = f"Basic {_pair(user, password)}"
        for _, word in (self.credentials, self.stale):
            self._secrets |= {word, _pair(user, word)}
        if self.has_tokens:
            self.tokens.users = {user: password}

    def keep_secret(self, word: str) -> None:
        """Register another secret that only the registry and its token server may receive."""
        self._secrets.add(word)

    # Checks

    def leaks(self, text: str = "") -> list[str]:
        """Return where credentials and tokens went that must not have them, one line each.

        Args:
            text: Output of the program under test, which must contain no secret.
        """
        api = [request for request in list(self.proxy.requests) if request.path != TOKEN]
        tokens = {request.headers.get("Authorization", "").removeprefix("Bearer ") for request in api} - {""}
        found = ["a secret is in the text"] * any(word in text for word in self._secrets | tokens)
        if self.redirects:
            found += _leaks("the storage", self.store.requests, {"Authorization", *self._secrets, *tokens})
        if self.has_tokens:
            found += _leaks("the API", api, self._secrets)
            found += _leaks("the token server", self.auth.requests, tokens)
        return found


@define(eq=False)
class Api(Proxy):
    """The API of a registry."""

    redirects: bool = field(kw_only=True)
    """Whether blobs are redirected to a storage. Their GET has its faults there."""

    def matched(self, request: Request) -> Request | None:
        """Return the request that faults are compared with; None for a redirect."""
        return None if self.redirects and request.method == "GET" and re.fullmatch(BLOB, request.path) else request


@define(eq=False)
class Storage(Proxy):
    """The storage that blobs are redirected to. Its faults are those of the paths of the registry."""

    signed: dict[str, str] = field(factory=dict, repr=False)
    """Paths of the registry, by signature."""

    def matched(self, request: Request) -> Request | None:
        """Return the request that faults are compared with: that of the registry."""
        path = self.signed.get(_signature(request))
        return request if path is None else evolve(request, target=path)


def _relay(request: Request, server: Proxy) -> Response:
    """Send a request to another server, and return its response."""
    connection = http.client.HTTPConnection(server.host, timeout=60)
    try:
        headers = {name: value for name, value in request.headers.items() if name.lower() != "expect"}
        connection.request(request.method, request.target, request.body, headers)
        response = connection.getresponse()
        body = response.read()
        kept = {
            name: value for name, value in response.getheaders() if name.lower() not in {"connection", "content-length"}
        }
        return Response(response.status, kept, body)
    finally:
        connection.close()


def _signature(request: Request) -> str:
    return request.query.get("X-Amz-Signature", [""])[0]


def _hook(hooks: list[Any], method: str, path: str, place: int) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        def hook(request: Request, *answer: Response) -> Any:
            if not re.fullmatch(method, request.method) or not re.fullmatch(path, request.path):
                return None
            for one in answer:
                one.headers = CaseInsensitiveDict(one.headers)  # type: ignore[assignment]  # a mapping
            return function(request, *answer)

        hooks.insert(place, hook)
        return function

    return add


def _pair(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def _leaks(name: str, requests: Iterable[Request], words: set[str]) -> list[str]:
    return [
        f"{name} received a secret with {request.method} {request.path}"
        for request in list(requests)
        if any(word in _text(request) for word in words)
    ]


def _text(request: Request) -> str:
    return f"{request.target}\n{json.dumps(dict(request.headers.items()))}"


def _wanted(request: Request) -> list[Scope]:
    """Return the scopes that a request requires; an empty list accepts any token."""
    if request.path == "/v2/_catalog":
        return [Scope.parse("registry:catalog:*")]
    for kind in _KINDS:
        if request.path.startswith("/v2/") and kind in request.path:
            name = request.path.removeprefix("/v2/").partition(kind)[0]
            actions = {"GET": ["pull"], "HEAD": ["pull"], "DELETE": ["delete"]}.get(request.method, ["pull", "push"])
            if "/uploads/" in request.path:
                actions = ["pull", "push"]
            mounted = [Scope.repository(source, "pull") for source in request.query.get("from", ())]
            return [Scope.repository(name, *actions), *mounted]
    return []


def rewritten(request: Request, **parameters: str | None) -> Request:
    """Return the request with changed query parameters; None removes one."""
    query = dict(parse_qsl(request.target.partition("?")[2], keep_blank_values=True)) | parameters
    left = urlencode({key: value for key, value in query.items() if value is not None})
    return evolve(request, target=request.path + (f"?{left}" if left else ""))
