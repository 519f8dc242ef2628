"""A registry site under its real name: API, token server and redirected storage, all on this machine.

    with NamedSite(upstream, "ghcr.io", storage="https://pkg-containers.githubusercontent.com") as scene:
        scene.bearer("https://ghcr.io/token", user="octocat", password="ghp_…")
        QUIRKS["ghcr-no-referrers"].install(scene)
        with scene.session(tmp_path) as session:
            session.pull("ghcr.io/seed/files:v1")
        assert scene.triggered["ghcr-no-referrers"]
        scene.check()                                   # no credential left its server

The client sees real names and https. An adapter routes each request to the loopback server for its origin.
"""

import itertools
from typing import Any
from urllib.parse import urlsplit

import ocikit
import requests
import requests.adapters
from attrs import define, field
from ocikit.remote.auth.keychain import Keychain
from ocikit.testing.messages import Request
from ocikit.testing.proxy import Proxy
from ocikit.testing.site import Site


@define(eq=False, slots=False)
class NamedSite(Site):
    """A registry behind a proxy under its own name; a context manager."""

    strays: list[str] = field(factory=list, init=False)
    """Requested URLs that have no server here."""
    _ways: dict[str, str] = field(factory=dict, init=False, repr=False)

    def publish(self, server: Proxy, url: str, path: str = "") -> str:
        """Serve a public URL, and return it."""
        self._ways[url] = server.url + path
        return url

    def install(self) -> None:
        super().install()
        for server in {self.proxy, self.blobs}:
            server.before.append(self._as_upstream)

    def _as_upstream(self, request: Request) -> None:
        """Replace the Host header, because the real registry knows only its own name."""
        request.headers.replace_header("Host", urlsplit(self.upstream).netloc)

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

    def check(self, said: str = "") -> None:
        """Check that no other host was requested and that no credential left its server.

        Args:
            said: The user's output. It must contain no secret.
        """
        assert self.strays == []
        assert self.leaks(said) == []


class _Detour(requests.adapters.HTTPAdapter):
    """An adapter that routes requests for public hosts to their loopback servers, invisibly to the client."""

    def __init__(self, scene: NamedSite) -> None:
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
