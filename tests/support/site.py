"""A registry site under its real name: API, token server and redirected storage, all on this machine.

    with Site(upstream, "ghcr.io", storage="https://pkg-containers.githubusercontent.com") as scene:
        scene.bearer("https://ghcr.io/token", user="octocat", password="ghp_…")
        QUIRKS["ghcr-no-referrers"].install(scene)
        with scene.session(tmp_path) as session:
            session.pull("ghcr.io/seed/files:v1")
        assert scene.met["ghcr-no-referrers"]
        scene.check()                                   # no credential left its server

The client sees real names and https. An adapter routes each request to the loopback server for its origin.
"""

import base64
import http.client
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import ocikit
import requests
import requests.adapters
import requests.structures
from attrs import define, evolve, field
from ocikit.remote.auth.keychain import Keychain
from ocikit.spec.challenge import Scope

from tests.support.fake_registry import Request, Response, error_response
from tests.support.proxy import Proxy
from tests.support.token_server import TokenServer

UPLOAD = r"/v2/(.+)/blobs/uploads/([^/]*)"
BLOB = r"/v2/(.+)/blobs/([a-z0-9]+:[0-9a-f]+)"
MANIFEST = r"/v2/(.+)/manifests/([^/]+)"
TAGS = r"/v2/(.+)/tags/list"
REFERRERS = r"/v2/(.+)/referrers/([^/]+)"

#: Maximum number of names on a page, so every listing has several pages.
PAGES = {"tags/list": 10, "_catalog": 100}

_KINDS = ("/blobs/", "/manifests/", "/tags/", "/referrers/")


@define(eq=False, slots=False)
class Site:
    """A registry behind a proxy under its own name; a context manager."""

    upstream: str
    """URL of the real registry."""
    host: str
    """The host in references."""
    storage: str = ""
    """The origin that blobs are redirected to; "" is none."""
    api_host: str = ""
    """The host of the API, if it is not `host`."""

    met: Counter[str] = field(factory=Counter, init=False)
    """Number of uses of each quirk by name."""
    strays: list[str] = field(factory=list, init=False)
    """Requested URLs that have no server here."""
    credentials: Any = field(default=None, init=False, repr=False)
    """The user's credentials."""
    stale: Any = field(default=None, init=False, repr=False)
    """The same credentials, expired."""
    authorization: str = field(default="", init=False, repr=False)
    """The account's Basic credentials, for the registry or its token server."""
    proxy: Proxy = field(init=False)
    store: Proxy = field(init=False)
    auth: Proxy = field(init=False)
    tokens: TokenServer = field(init=False)
    _secrets: set[str] = field(factory=set, init=False, repr=False)
    _challenge: Callable[..., str] | None = field(default=None, init=False, repr=False)
    _ways: dict[str, str] = field(factory=dict, init=False, repr=False)
    _late: int = field(default=0, init=False, repr=False)
    _signed: dict[str, str] = field(factory=dict, init=False, repr=False)
    _stack: ExitStack = field(factory=ExitStack, init=False, repr=False)

    def __enter__(self) -> "Site":
        self.proxy = self._stack.enter_context(Proxy(self.upstream))
        self._ways[f"https://{self.api_host or self.host}"] = self.proxy.url
        if self.storage:
            self.store = self._stack.enter_context(Proxy(self.upstream))
            self._ways[self.storage] = self.store.url
            self._redirect()

        @self.before("GET", "/v2/_catalog|" + TAGS)
        def page(request: Request) -> Request:
            most = PAGES["_catalog" if request.path.endswith("_catalog") else "tags/list"]
            return rewritten(request, n=str(min(int(request.query.get("n", ["1000"])[0]), most)))

        for server in {self.proxy, self.blobs}:
            server.before.append(self._as_upstream)
        self._late = len(self.proxy.before)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The client

    def session(self, folder: Any, credentials: Any = None, *, anonymous: bool = False) -> ocikit.Session:
        """Return a session that reaches this site's hosts, with its cache below `folder`. A Keychain is used unchanged."""
        given = None if anonymous else credentials or self.credentials
        known = given if isinstance(given, Keychain) else {self.host: given}
        network = ocikit.Network(
            adapter=lambda _: _Detour(self), retries=2, max_wait=5, connect_timeout=5, read_timeout=20
        )
        cache = folder / f"cache-{next(_counter)}"
        return ocikit.Session(credentials=known, network=network, cache=cache, progress=False)

    def ref(self, name: str, tag: str = "v1") -> str:
        """Return a reference to this site."""
        return f"{self.host}/{name}:{tag}"

    def way(self, url: str) -> str:
        """Return the loopback URL for a public URL."""
        for prefix in sorted(self._ways, key=len, reverse=True):
            if url.startswith(prefix) and url[len(prefix) : len(prefix) + 1] in {"", "/", "?"}:
                return self._ways[prefix] + url[len(prefix) :]
        self.strays.append(url)
        raise requests.ConnectionError(f"no server stands for {url}")

    # The registry

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
        return self.store if self.storage else self.proxy

    def ask(self, method: str, target: str) -> int:
        """Send a request directly to the real registry and return the status."""
        connection = http.client.HTTPConnection(urlsplit(self.upstream).netloc, timeout=10)
        try:
            connection.request(method, target)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def _as_upstream(self, request: Request) -> None:
        """Replace the Host header, because the real registry knows only its own name."""
        request.headers.replace_header("Host", urlsplit(self.upstream).netloc)

    def _redirect(self) -> None:
        numbers = itertools.count(1)

        @self.before("GET", BLOB)
        def away(request: Request) -> Response:
            digest, signature = request.path.rpartition("/")[2], f"s{next(numbers)}"
            self._signed[signature] = request.path
            query = urlencode({"X-Amz-Signature": signature, "X-Amz-Expires": "20"})
            return Response(
                307, {"Location": f"{self.storage}/docker/registry/{digest.replace(':', '/')}/data?{query}"}
            )

        def here(request: Request) -> Response | Request:
            path = self._signed.get(request.query.get("X-Amz-Signature", [""])[0])
            return error_response(403, "AccessDenied") if path is None else evolve(request, target=path)

        self.store.before.append(here)

    # Access control

    def basic(self, user: str, password: str, realm: str = "Registry") -> None:
        """Require Basic authentication for each request."""
        self._account(user, password)
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
        """Require tokens from a token server at `realm`. The repositories in `anonymous` are public."""
        self._account(user, password)
        self.tokens = self._stack.enter_context(
            TokenServer(
                users={user: password},
                service=service,
                anonymous={pattern: {"pull"} for pattern in anonymous},
                rights={} if catalog else {user: {"*": {"pull", "push", "delete"}}},
            )
        )
        self.auth = self._stack.enter_context(Proxy(self.tokens.realm.removesuffix("/token")))
        self._ways[realm] = f"{self.auth.url}/token"

        def challenge(*scopes: Scope, problem: str = "") -> str:
            parts = {"realm": realm, "service": service}
            parts |= {"scope": " ".join(map(str, scopes))} if scopes else {}
            parts |= {"error": problem} if problem else {}
            return "Bearer " + ",".join(f'{key}="{value}"' for key, value in parts.items())

        self._challenge = challenge

        def guard(request: Request) -> Response | None:
            wanted = _wanted(request)
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not token:
                return self.unauthorized(*wanted)
            try:
                access = self.tokens.claims(token)["access"]
            except Exception:
                return self.unauthorized(*wanted, problem="invalid_token")
            had = [Scope(resource_type=a["type"], name=a["name"], actions=a["actions"]) for a in access]
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

    def _account(self, user: str, password: str) -> None:
        self.credentials, self.stale = (user, password), (user, f"expired-{password}")
        self.authorization = f"Basic {_pair(user, password)}"
        for _, word in (self.credentials, self.stale):
            self._secrets |= {word, _pair(user, word)}

    def keep_secret(self, word: str) -> None:
        """Register another secret that only the registry and its token server may receive."""
        self._secrets.add(word)

    # Checks

    def check(self, said: str = "") -> None:
        """Check that no other host was requested and that no credential left its server.

        Args:
            said: The user's output. It must contain no secret.
        """
        assert self.strays == []
        tokens = {r.headers.get("Authorization", "").removeprefix("Bearer ") for r in self.proxy.requests} - {""}
        assert not [word for word in self._secrets | tokens if word in said]
        if self.storage:
            assert not [r for r in self.store.requests if "Authorization" in r.headers]
            assert not [word for word in self._secrets | tokens for r in self.store.requests if word in _text(r)]
        if hasattr(self, "tokens"):
            assert not [word for word in self._secrets for r in self.proxy.requests if word in _text(r)]
            assert not [word for word in tokens for r in self.auth.requests if word in _text(r)]


class _Detour(requests.adapters.HTTPAdapter):
    """An adapter that routes requests for public hosts to their loopback servers, invisibly to the client."""

    def __init__(self, scene: Site) -> None:
        self._scene = scene
        super().__init__(pool_connections=4, pool_maxsize=8, max_retries=0)

    def send(self, request: Any, **options: Any) -> Any:
        there = request.copy()
        there.url = self._scene.way(request.url)
        there.headers["Host"] = urlsplit(request.url).netloc
        response = super().send(there, **options)
        response.url, response.request = request.url, request
        return response


_counter = itertools.count(1)


def _hook(hooks: list[Any], method: str, path: str, place: int) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        def hook(request: Request, *answer: Any) -> Any:
            if not re.fullmatch(method, request.method) or not re.fullmatch(path, request.path):
                return None
            for one in answer:
                one.headers = requests.structures.CaseInsensitiveDict(one.headers)
            return function(request, *answer)

        hooks.insert(place, hook)
        return function

    return add


def _pair(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


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
