"""Connection pools for a registry and its redirect targets."""

from __future__ import annotations

import logging
import os
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import requests
import requests.adapters
import requests.utils
import urllib3
import urllib3.connection
import urllib3.connectionpool

from ocikit.errors import ConnectionFailed, ContentError, redact
from ocikit.forks import ForkSafeLock, fork_count
from ocikit.remote.config.network import Network
from ocikit.remote.http import deadlines
from ocikit.remote.http.exchange import BLOCK_SIZE, Exchanging, Headers
from ocikit.remote.http.no_proxy import is_excluded
from ocikit.remote.http.request import BodyStream
from ocikit.remote.http.urls import Origin
from ocikit.store.files import check_regular_file

log = logging.getLogger("ocikit")


class Connections:
    """Pools of connections, by origin. Safe in threads and after a fork.

    Args:
        host: Registry. Its client certificate and its insecure setting apply to its own origin only.
        base: Returns the root of its URLs, with the scheme that is known by then.
        network: Timeouts, proxies, certificates.
    """

    def __init__(self, host: str, base: Callable[[], str], network: Network) -> None:
        self._host = host
        self._base = base
        self._network = network
        self._adapters: dict[tuple[str, bool, bool], _Adapter] = {}
        self._routes: dict[str, tuple[requests.adapters.BaseAdapter, dict[str, str]]] = {}
        self._forks = fork_count()
        self.lock = ForkSafeLock()

    def close(self) -> None:
        """Close all connections; the next request opens new ones."""
        self._reset_after_fork()
        with self.lock:
            adapters, self._adapters, self._routes = self._adapters, {}, {}
        for adapter in adapters.values():
            adapter.close()

    def send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | BodyStream | None = None,
        length: int | None = None,
        timeout: float | None = None,
    ) -> requests.Response:
        """Send one request through the adapter for its URL and return the unread response.

        Args:
            method: HTTP method.
            url: Absolute URL.
            headers: All headers but Content-Length.
            body: Bytes or a stream.
            length: Bytes of the stream.
            timeout: Seconds without data, if not the network's.

        Raises:
            ConnectionFailed: A certificate can't be read.
        """
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = method, url
        prepared.body = body  # type: ignore[assignment]  # the stubs lack streams
        prepared.headers = Headers(headers.items())
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else length)
        elif method in {"POST", "PUT", "PATCH"}:
            prepared.headers["Content-Length"] = "0"
        started = time.monotonic()
        adapter, proxies = self._route(url)
        limits = self._network.connect_timeout, timeout or self._network.read_timeout
        if (deadline := deadlines.current_deadline()) is not None:
            left = max(0.001, deadline - started)
            limits = min(limits[0], left), min(limits[1], left)
            if body is not None and not isinstance(body, bytes):
                prepared.body = deadlines.TimedBody(body, deadline)  # type: ignore[assignment]  # as above
        response = adapter.send(prepared, stream=True, timeout=limits, proxies=proxies)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s -> %s in %.3f s", method, redact(url), response.status_code, time.monotonic() - started)
        return response

    def _reset_after_fork(self) -> None:
        """Drop all pools in a child process: sockets can't be shared."""
        if self._forks != fork_count():
            self._adapters, self._routes, self._forks = {}, {}, fork_count()

    def _route(self, url: str) -> tuple[requests.adapters.BaseAdapter, dict[str, str]]:
        """Return the adapter and the proxies for a URL's origin, determined once for each origin."""
        self._reset_after_fork()
        origin = "/".join(url.split("/", 3)[:3])
        route = self._routes.get(origin)
        if route is None:
            custom = self._network.adapter
            route = self._routes[origin] = custom(origin) if custom else self._adapter(url), self._proxies(url)
        return route

    def _adapter(self, url: str) -> _Adapter:
        """Return the adapter for a URL.

        Only configured hosts get the client certificate, and only insecure ones are not verified.
        """
        origin = Origin.of(url)
        home = origin.scheme == "https" and origin == Origin.of(self._base())
        names = {origin.host, f"{origin.host}:{origin.port}", f"[{origin.host}]:{origin.port}"}
        insecure = names & self._network.insecure or (home and self._host in self._network.insecure)
        key = origin.scheme, home, bool(insecure)
        adapter = self._adapters.get(key)
        if adapter is None:
            context = None if origin.scheme == "http" else self._context(home=home, verify=not insecure)
            with self.lock:
                adapter = self._adapters.setdefault(key, _Adapter(self._network.connections, context))
        return adapter

    def _context(self, *, home: bool, verify: bool) -> ssl.SSLContext:
        """Return the TLS context for the registry's own origin or for other hosts.

        Args:
            home: The registry's own origin, which gets the client certificate.
            verify: Verify certificates of servers.

        Raises:
            ConnectionFailed: A certificate can't be read.
        """
        folder = _host_certificates(self._host)
        # These replace the trusted certificates, as everywhere in Python; ssl itself reads SSL_CERT_FILE
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        extra = [self._network.ca] if self._network.ca else []
        extra += [str(path) for path in sorted(folder.glob("*.crt"))] if folder else []
        reading = bundle or ""
        try:
            if bundle:
                is_folder = os.path.isdir(bundle)
                context = ssl.create_default_context(
                    cafile=None if is_folder else bundle, capath=bundle if is_folder else None
                )
            else:
                context = ssl.create_default_context()
                if not context.cert_store_stats()["x509_ca"]:  # no system certificates, as on some macOS
                    context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
            for reading in extra:
                check_regular_file(reading)
                context.load_verify_locations(cafile=reading)
            certificate = self._network.certificate or _client_pair(folder)
            if home and certificate:
                pair = (certificate, None) if isinstance(certificate, str) else certificate
                reading = pair[0]
                for part in filter(None, pair):
                    check_regular_file(part)
                context.load_cert_chain(*pair)
        except (ContentError, OSError) as error:
            reason = error.message if isinstance(error, ContentError) else error.strerror or error
            raise ConnectionFailed(
                f"the certificate {reading} can't be used: {reason}",
                hint="check the path, and that the file holds PEM",
            ) from error
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _proxies(self, url: str) -> dict[str, str]:
        origin = Origin.of(url)
        if origin.loopback:
            return {}
        if self._network.proxies is not None:
            return dict(self._network.proxies)
        no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        if is_excluded(origin.host, origin.port, no_proxy):
            return {}
        # Without variables, Windows and macOS have settings of their own
        if not urllib.request.getproxies_environment() and urllib.request.proxy_bypass(origin.host):
            return {}
        return urllib.request.getproxies()


class _Adapter(requests.adapters.HTTPAdapter):
    """An adapter with large blocks and its own TLS context, through proxies, too."""

    def __init__(self, pool_size: int, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._pools: dict[str, urllib3.connectionpool.HTTPConnectionPool] = {}
        super().__init__(pool_connections=4, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """Create the pools with the additional options."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._options())
        self._set_pool_classes(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> urllib3.PoolManager:
        """Return the pools of a proxy with the additional options."""
        manager: urllib3.PoolManager = super().proxy_manager_for(proxy, **proxy_kwargs, **self._options())
        self._set_pool_classes(manager)
        return manager

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """Send a request, straight on a connection of the pool if there is no proxy."""
        if proxies:
            return super().send(request, stream, timeout, verify, cert, proxies)
        url = str(request.url)
        scheme, _, netloc, path = url.split("/", 3)
        pool = self._pools.get(netloc)
        if pool is None or pool.pool is None:  # new, or closed to make room
            pool = self._pools[netloc] = self.poolmanager.connection_from_url(f"{scheme}//{netloc}/")
        connect, read = timeout
        answer = cast("Exchanging", pool).exchange(request, f"/{path}", connect_timeout=connect, read_timeout=read)
        if answer is not None:
            return answer
        raw = pool.urlopen(
            str(request.method),
            f"/{path}",
            body=request.body,
            headers=request.headers,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=connect, read=read),
            preload_content=False,
            decode_content=False,
        )
        response = requests.Response()
        response.status_code, response.raw, response.url, response.request = raw.status, raw, url, request
        response.headers = requests.structures.CaseInsensitiveDict(raw.headers)
        return response

    def cert_verify(self, conn: object, url: str, verify: object, cert: object) -> None:
        """Do nothing, because the context verifies.

        requests would load its own certificates for each connection.
        """

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """Return the key of a pool; the context decides what is verified."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"cert_reqs": "CERT_NONE" if self._unverified else "CERT_REQUIRED"}

    def _options(self) -> dict[str, Any]:
        return {"blocksize": BLOCK_SIZE} | ({"ssl_context": self._context} if self._context else {})

    @property
    def _unverified(self) -> bool:
        return self._context is not None and self._context.verify_mode == ssl.CERT_NONE

    def _set_pool_classes(self, manager: urllib3.PoolManager) -> None:
        https = _UnverifiedPool if self._unverified else _SecurePool
        manager.pool_classes_by_scheme = {"http": _Pool, "https": https}


class _Pool(Exchanging, urllib3.connectionpool.HTTPConnectionPool):
    pass


class _SecurePool(Exchanging, urllib3.connectionpool.HTTPSConnectionPool):
    pass


class _UnverifiedConnection(urllib3.connection.HTTPSConnection):
    """A connection to a host that the user named insecure, without a warning for each request."""

    def connect(self) -> None:
        super().connect()
        self.is_verified = True


class _UnverifiedPool(_SecurePool):
    ConnectionCls = _UnverifiedConnection


def _host_certificates(host: str) -> Path | None:
    """Return the first folder with certificates for a host. containers-certs.d.5.md."""
    roots = (Path.home() / ".config/containers/certs.d", Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
    return next((root / host for root in roots if (root / host).is_dir()), None)


def _client_pair(folder: Path | None) -> tuple[str, str] | None:
    if folder is None:
        return None
    for certificate in sorted(folder.glob("*.cert")):
        key = certificate.with_suffix(".key")
        if key.is_file():
            return str(certificate), str(key)
    return None
