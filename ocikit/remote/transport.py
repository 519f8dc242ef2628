"""One registry over HTTP: send, authenticate, retry, redirect, raise.

Requests go through the adapters of `requests`, but not through its sessions: no cookies (Harbor takes one as a sign of a
browser and starts asking for CSRF tokens), no netrc (it overrides Authorization: requests#3929), no response hooks, and
redirects that never carry a credential to another origin.
"""

from __future__ import annotations

import io
import logging
import os
import platform
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import requests
import requests.adapters
import requests.utils
import urllib3
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
from attrs import field, frozen

from ocikit import display
from ocikit._version import __version__
from ocikit.errors import ConnectionFailed, InvalidResponse, OcikitError, TimedOut, Unsupported, redact
from ocikit.remote.authentication import Authenticator, Authorization
from ocikit.remote.challenge import Scope
from ocikit.remote.credentials import Keychain
from ocikit.remote.origin import Origin, check_step, is_loopback, join
from ocikit.remote.responses import (
    BROKEN,
    failure,
    finish,
    innermost,
    is_timeout,
    read_limited,
    report_warnings,
    retry_after,
)
from ocikit.remote.tokens import TokenCache

__all__ = ["Network", "Transport", "backoff"]

log = logging.getLogger("ocikit")

USER_AGENT: Final = f"ocikit/{__version__} (python {platform.python_version()}; requests {requests.__version__})"

_REDIRECTS = 10  # as curl and browsers bound them
_BLOCK = 1 << 18  # bytes handed to a socket at once; http.client's 16 KiB costs a third of a fast upload's time
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
#: How TLS ports answer plain http: Go's, nginx's and Apache's words.
_TLS_PORT = re.compile(rb"\bto (an? )?(https|ssl|tls)", re.IGNORECASE)


def _hosts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen(kw_only=True)
class Network:
    """How to reach registries; one value for a session."""

    insecure: frozenset[str] = field(default=frozenset(), converter=_hosts)
    """Hosts that may be spoken to without TLS, or with a certificate that nobody vouches for."""
    ca: str | None = None
    """A file of certificates to trust besides the usual ones."""
    certificate: str | tuple[str, str] | None = field(default=None, repr=False)
    """A client certificate: one file, or certificate and key. Shown to registries only, not to where they redirect."""
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    """By scheme; None reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY."""
    connect_timeout: float = 10.0
    """Seconds."""
    read_timeout: float = 60.0
    """Seconds without a byte; the answer to an upload may take five times as long, while the registry stores it."""
    retries: int = 4
    """Further tries after a failure that may pass."""
    max_wait: float = 120.0
    """Seconds to wait in all for one request's retries; a registry that asks for more gets an error instead."""
    connections: int = 8
    """Kept open per host."""
    user_agent: str = USER_AGENT
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    """Sent along to registries only, not to where they redirect."""
    schemes: Mapping[str, str] = field(factory=dict)
    """"http" or "https" for hosts where it is known; otherwise https, or what a loopback host answers to."""


class Transport(display.Shown):
    """A registry's host: every request to it, and to where it redirects, goes through here. Safe in threads.

    Args:
        host: as in references; Docker Hub's API host is used where that is meant.
        api_host: the host that answers, if another.
        network: timeouts, proxies, certificates.
        keychain: credentials.
        tokens: shared by a session's hosts.
    """

    def __init__(
        self,
        host: str,
        *,
        api_host: str | None = None,
        network: Network | None = None,
        keychain: Keychain | None = None,
        tokens: TokenCache | None = None,
    ) -> None:
        self.host = host
        self.network = network or Network()
        self._api_host = api_host or host
        self._guessed = host not in self.network.schemes
        self._scheme = self.network.schemes.get(host) or ("http" if is_loopback(host) else "https")
        self._auth = Authenticator(
            host, keychain or Keychain(), tokens or TokenCache(), self._send_bare, allow_private=self.insecure
        )
        self._adapters: dict[tuple[str, bool, bool], _Adapter] = {}
        self._routes: dict[str, tuple[_Adapter, dict[str, str]]] = {}
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._reached = False  # whether this host has ever answered

    @property
    def base(self) -> str:
        """The root of the registry's URLs, such as "https://ghcr.io"."""
        return f"{self._scheme}://{self._api_host}"

    @property
    def insecure(self) -> bool:
        """Whether plain http and unknown certificates were allowed for this host."""
        return self.host in self.network.insecure

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        yield "base", self.base
        yield "insecure", self.insecure, False

    def serves(self, url: str) -> bool:
        """Whether a URL is of the registry's own origin: scheme, host and port."""
        # Nearly every URL begins like this; to parse it would cost a tenth of a small request
        return url.startswith(f"{self.base}/") or Origin.of(url) == Origin.of(self.base)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._notice_fork()
        with self._lock:
            adapters, self._adapters, self._routes = self._adapters, {}, {}
        for adapter in adapters.values():
            adapter.close()

    def request(
        self,
        method: str,
        target: str,
        doing: str,
        *,
        scopes: Sequence[Scope] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | BinaryIO | None = None,
        length: int | None = None,
        allow: Sequence[int] = (),
        retry: bool = True,
        timeout: float | None = None,
    ) -> requests.Response:
        """Send a request and give its response, unread.

        Args:
            method: of HTTP.
            target: a path such as "/v2/", or an absolute URL that the registry gave.
            doing: what this is for, as error messages say it.
            scopes: the rights that it needs.
            headers: further ones.
            body: bytes, or a stream that is read from where it stands; wound back there for another try if it can be.
            length: the stream's number of bytes.
            allow: statuses above 399 to give back rather than raise.
            retry: whether to try again after a failure that may pass. After a 429 it is tried again in any case, if the
                body can be: the registry has done nothing yet.
            timeout: seconds without a byte, if not the network's.

        Raises:
            RegistryError: a kind of it, for any other status above 399.
            ConnectionFailed, TimedOut: if there was no answer.
        """
        replay = _Replay(body)
        sent: Authorization | None = None

        def send() -> requests.Response:
            nonlocal sent
            replay.rewind()
            response, sent = self._authorized(method, target, scopes, dict(headers or {}), replay, length, timeout)
            return response

        again = replay.possible
        response = self._persist(send, method, target, doing, retry=retry and again, again=again)
        report_warnings(response)
        status = response.status_code
        if status >= 400 and status not in allow:
            raise failure(response, doing, rejected=sent.who if sent else "")
        if 300 <= status < 400:
            finish(response)
            raise InvalidResponse(
                f"{self.host} answers {status} to {doing} without saying where to go",
                hint="this is not a working registry, or something in front of it isn't",
                method=method, url=str(response.url), status=status, host=self.host,
            )  # fmt: skip
        return response

    def read(
        self,
        target: str,
        doing: str,
        *,
        limit: int,
        scopes: Sequence[Scope] = (),
        headers: Mapping[str, str] | None = None,
        allow: Sequence[int] = (),
    ) -> tuple[bytes, requests.Response]:
        """GET a body of at most `limit` bytes; it is asked for again when the connection breaks within it.

        Raises: as `request`, and TooLarge.
        """
        attempt = 0
        while True:
            response = self.request("GET", target, doing, scopes=scopes, headers=headers, allow=allow)
            try:
                return read_limited(response, limit, doing), response
            except ConnectionFailed as error:
                if attempt >= self.network.retries:
                    raise
                log.info("%s; trying again", error.message)
                time.sleep(backoff(attempt))
                attempt += 1

    def _persist(
        self,
        send: Callable[[], requests.Response],
        method: str,
        target: str,
        doing: str,
        *,
        retry: bool,
        again: bool,
        settle: bool = True,
    ) -> requests.Response:
        """Send until there is an answer that will not change by waiting, or patience ends."""
        waited, attempt = 0.0, 0
        while True:
            response: requests.Response | None = None
            error: Exception | None = None
            scheme = self._scheme
            try:
                self._hold()
                response = send()
            except OcikitError:
                raise
            except BROKEN as broken:
                if retry and settle and self._guess_again(broken, scheme):
                    continue
                error = broken
            self._reached |= response is not None
            if response is not None and response.status_code not in _RETRIED:
                if again and settle and self._settle(response, scheme):
                    continue
                return response
            wait = backoff(attempt)
            if response is not None and (asked := retry_after(response)) is not None:
                wait = asked
            hopeless = error is not None and not self._reached and _never_there(error)
            limited = again and response is not None and response.status_code == 429
            if (
                hopeless
                or not (retry or limited)
                or attempt >= self.network.retries
                or waited + wait > self.network.max_wait
            ):
                break
            log.info(
                "%s: %s; trying again in %.1f s",
                doing,
                response.status_code if response is not None else _reason(error),
                wait,
            )
            if response is not None:
                if response.status_code == 429:
                    # One thread's rate limit is every thread's
                    self._not_before = max(self._not_before, time.monotonic() + wait)
                finish(response)
            time.sleep(wait)
            waited += wait
            attempt += 1
        if response is not None:
            return response
        raise self._unreachable(error, method, target, doing) from innermost(error)

    def _hold(self) -> None:
        wait = self._not_before - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, self.network.max_wait))

    def _authorized(
        self,
        method: str,
        target: str,
        scopes: Sequence[Scope],
        headers: dict[str, str],
        replay: _Replay,
        length: int | None,
        timeout: float | None,
    ) -> tuple[requests.Response, Authorization | None]:
        """Send with the token for this host; on a 401 get one, and send once more, or twice if it was too narrow.

        Gives the response, and what was sent to the registry if the response is its own.
        """
        url = join(self.base, target)
        home = self.serves(url)
        sent = self._auth.header(scopes) if home else None
        for attempt in range(3):
            response, home = self._follow(method, url, headers, sent, replay, length, timeout)
            if response.status_code != 401 or not home or attempt == 2 or not replay.possible:
                break
            try:
                answer = self._auth.answer(response, url, scopes, sent, again=attempt > 0)
            except BaseException:
                response.close()
                raise
            if answer is None:
                break
            finish(response)
            sent = answer
            replay.rewind()
        return response, sent if home else None

    def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        authorization: Authorization | None,
        replay: _Replay,
        length: int | None,
        timeout: float | None,
    ) -> tuple[requests.Response, bool]:
        """Send and follow redirects. The credential and the session's own headers stay with the first origin.

        Gives the response, and whether it came from the registry itself, without a detour.
        """
        home = self.serves(url)
        for _ in range(_REDIRECTS + 1):
            sending = {"User-Agent": self.network.user_agent, "Accept-Encoding": "identity", "Accept": "*/*", **headers}
            if home:
                sending.update(self.network.headers)
                if authorization:
                    sending["Authorization"] = authorization.value
            response = self._send(method, url, sending, replay.body, length, timeout)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTING or not location:
                return response, home
            if method not in {"GET", "HEAD"} and response.status_code not in {307, 308}:
                finish(response)
                raise InvalidResponse(
                    f"{self.host} answers {method} with {response.status_code} to {redact(location)}",
                    hint="a registry's upload address was moved; check the host's name and scheme",
                    method=method, url=url, status=response.status_code, host=self.host,
                )  # fmt: skip
            finish(response)
            target = join(url, location)
            if not self.insecure:
                check_step(url, target)
            if not replay.possible:
                raise Unsupported(
                    f"{self.host} sends an upload on to {redact(target)}, but its content can be read only once",
                    hint="pass a file, or anything that can seek",
                    method=method, url=url, status=response.status_code, host=self.host,
                )  # fmt: skip
            replay.rewind()
            url = target
            # Whoever leads away could lead back, to whatever they like: once gone, no credential any more
            home = home and self.serves(target)
        raise InvalidResponse(
            f"{self.host} redirects more than {_REDIRECTS} times", method=method, url=url, host=self.host
        )

    def _send_bare(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
        """A request to a token server: its own headers only, no redirect to another origin with them."""
        sending = {
            "User-Agent": self.network.user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **headers,
        }
        doing = f"get a token for {self.host}"

        def send() -> requests.Response:
            return self._follow_bare(method, url, dict(sending), body)

        # A refresh token may be used up though the answer got lost: RFC 6749 section 6
        return self._persist(send, method, url, doing, retry=method == "GET", again=True, settle=False)

    def _follow_bare(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
        for _ in range(_REDIRECTS + 1):
            response = self._send(method, url, headers, body, None, None)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTING or not location:
                return response
            finish(response)
            target = join(url, location)
            check_step(url, target)
            if Origin.of(target) != Origin.of(url):
                if body is not None:
                    raise InvalidResponse(
                        f"the token server of {self.host} sends our refresh token to {redact(target)}; refused"
                    )
                headers.pop("Authorization", None)
            url = target
        raise InvalidResponse(f"the token server of {self.host} redirects more than {_REDIRECTS} times")

    def _send(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | BinaryIO | None,
        length: int | None,
        timeout: float | None,
    ) -> requests.Response:
        """One request, one response, through the adapter for its URL."""
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = method, url
        prepared.body = body  # type: ignore[assignment]  # the stubs leave out streams
        prepared.headers = requests.structures.CaseInsensitiveDict(headers)
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else length)
        elif method in {"POST", "PUT", "PATCH"}:
            prepared.headers["Content-Length"] = "0"
        started = time.monotonic()
        adapter, proxies = self._route(url)
        response = adapter.send(
            prepared,
            stream=True,
            timeout=(self.network.connect_timeout, timeout or self.network.read_timeout),
            proxies=proxies,
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s -> %s in %.3f s", method, redact(url), response.status_code, time.monotonic() - started)
        return response

    def _notice_fork(self) -> None:
        """Start anew in a child process: sockets can't be shared, and a lock may be held by a thread that isn't here."""
        if self._pid != os.getpid():
            self._lock, self._adapters, self._routes, self._pid = threading.Lock(), {}, {}, os.getpid()

    def _route(self, url: str) -> tuple[_Adapter, dict[str, str]]:
        """The adapter and the proxies for a URL's origin, found once for each."""
        self._notice_fork()
        origin = "/".join(url.split("/", 3)[:3])
        route = self._routes.get(origin)
        if route is None:
            route = self._routes[origin] = self._adapter(url), self._proxies(url)
        return route

    def _adapter(self, url: str) -> _Adapter:
        """The pool of connections for a URL: client certificates and laxity are for the hosts that they were given for."""
        origin = Origin.of(url)
        home = origin.scheme == "https" and origin == Origin.of(self.base)
        names = {origin.host, f"{origin.host}:{origin.port}", f"[{origin.host}]:{origin.port}"}
        insecure = names & self.network.insecure or (home and self.insecure)
        key = origin.scheme, home, bool(insecure)
        adapter = self._adapters.get(key)
        if adapter is None:
            context = None if origin.scheme == "http" else self._context(home=home, verify=not insecure)
            with self._lock:
                adapter = self._adapters.setdefault(key, _Adapter(self.network.connections, context))
        return adapter

    def _context(self, *, home: bool, verify: bool) -> ssl.SSLContext:
        """Whom to trust. Raises: ConnectionFailed: if a certificate can't be read."""
        folder = _host_certificates(self.host)
        # These replace what is trusted, as everywhere in Python; ssl reads SSL_CERT_FILE itself
        instead = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        extra = [self.network.ca] if self.network.ca else []
        extra += [str(path) for path in sorted(folder.glob("*.crt"))] if folder else []
        reading = instead or ""
        try:
            if instead:
                whole = os.path.isdir(instead)
                context = ssl.create_default_context(
                    cafile=None if whole else instead, capath=instead if whole else None
                )
            else:
                context = ssl.create_default_context()
                if not context.cert_store_stats()["x509_ca"]:  # no certificates of the system, as on some macOS
                    context.load_verify_locations(requests.utils.DEFAULT_CA_BUNDLE_PATH)
            for reading in extra:
                context.load_verify_locations(cafile=reading)
            certificate = self.network.certificate or _client_pair(folder)
            if home and certificate:
                pair = (certificate, None) if isinstance(certificate, str) else certificate
                reading = pair[0]
                context.load_cert_chain(*pair)
        except OSError as error:
            raise ConnectionFailed(
                f"the certificate {reading} can't be used: {error.strerror or error}",
                hint="check the path, and that the file holds PEM",
            ) from error
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context

    def _proxies(self, url: str) -> dict[str, str]:
        if Origin.of(url).loopback:
            return {}
        if self.network.proxies is not None:
            return dict(self.network.proxies)
        return dict(requests.utils.get_environ_proxies(url, no_proxy=None))

    def _settle(self, response: requests.Response, scheme: str) -> bool:
        """Keep the guessed scheme, unless a TLS port answered plain http with a 400 that says so."""
        tls = False
        if scheme == "http" and response.status_code == 400 and (self._guessed or self._scheme != scheme):
            words = response.raw.read(4096) or b""
            headers = response.raw.headers
            finish(response)
            # For the error message, should it be another 400
            response.raw = urllib3.HTTPResponse(io.BytesIO(words), headers, 400, preload_content=False)
            tls = _TLS_PORT.search(words) is not None
        with self._lock:
            if tls:
                self._scheme = "https"
            self._guessed = False
        return tls

    def _guess_again(self, error: Exception, scheme: str) -> bool:
        """Whether the other scheme is worth a try: loopback hosts start with http, insecure ones with https."""
        with self._lock:
            if self._scheme != scheme:
                return True  # another thread found out meanwhile
            if not self._guessed:
                return False
            local = is_loopback(self.host)
            if scheme == "http" and local and _not_http(error):
                self._scheme = "https"
                return True
            if scheme == "https" and (self.insecure or (local and "CERTIFICATE" not in repr(error).upper())):
                # For this machine the second guess: the connection broke for another reason
                self._scheme, self._guessed = "http", False
                return True
            return False

    def _unreachable(self, error: Exception | None, method: str, target: str, doing: str) -> ConnectionFailed:
        url = join(self.base, target)
        where = Origin.of(url)
        reason = _reason(error)
        if is_timeout(error):
            return TimedOut(
                f"{where.host}:{where.port} did not answer in time to {doing} ({method})",
                hint=f"connect timeout {self.network.connect_timeout:g} s, read timeout {self.network.read_timeout:g} s: raise them with Network(…), or check the network",
            )
        if isinstance(error, requests.exceptions.SSLError) or "certificate" in reason:
            hint = "pass ca=… with the certificate that vouches for it, or name the host in insecure=[…] if you must"
        elif isinstance(error, requests.exceptions.ProxyError):
            hint = "check HTTPS_PROXY and NO_PROXY"
        else:
            hint = "check the host's name and port, the network, and that the registry is running"
        return ConnectionFailed(f"no answer from {where.host}:{where.port} to {doing} ({method}): {reason}", hint=hint)


class _Adapter(requests.adapters.HTTPAdapter):
    """Pools sized to the workers, large blocks on the way out, and our own context for TLS, through proxies too."""

    def __init__(self, connections: int, context: ssl.SSLContext | None) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """As requests does it, with our additions."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs, **self._additions())
        self._accept(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """As requests does it, with our additions."""
        manager = super().proxy_manager_for(proxy, **proxy_kwargs, **self._additions())
        self._accept(manager)
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Nothing: the context knows. Requests would load its own certificates for each connection."""

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """As requests does it; what is verified is in the context."""
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        unverified = self._context is not None and self._context.verify_mode == ssl.CERT_NONE
        return host, {"cert_reqs": "CERT_NONE" if unverified else "CERT_REQUIRED"}

    def _additions(self) -> dict[str, Any]:
        return {"blocksize": _BLOCK} | ({"ssl_context": self._context} if self._context else {})

    def _accept(self, manager: Any) -> None:
        if self._context is not None and self._context.verify_mode == ssl.CERT_NONE:
            manager.pool_classes_by_scheme = {**manager.pool_classes_by_scheme, "https": _UnverifiedPool}


class _Unverified(urllib3.connection.HTTPSConnection):
    """A connection to a host that was named insecure: whoever did that needs no warning with each request."""

    def connect(self) -> None:
        super().connect()
        self.is_verified = True


class _UnverifiedPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _Unverified


class _Replay:
    """A body, and whether it can be sent again."""

    def __init__(self, body: bytes | BinaryIO | None) -> None:
        self.body = body
        self._start = body.tell() if body is not None and not isinstance(body, bytes) and body.seekable() else None
        self.possible = body is None or isinstance(body, bytes) or self._start is not None

    def rewind(self) -> None:
        if self._start is not None and self.body is not None and not isinstance(self.body, bytes):
            self.body.seek(self._start)


def _never_there(error: Exception) -> bool:
    """Whether an error looks like a wrong name or port rather than a hiccup: waiting doesn't help against a typing mistake."""
    return any(text in repr(error) for text in ("NameResolutionError", "Connection refused"))


def backoff(attempt: int) -> float:
    """Seconds: 0.25, 0.5, 1, … up to 8, with jitter, so that clients that failed together don't return together."""
    return float(min(8.0, 0.25 * 2**attempt) * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrets


def _not_http(error: Exception) -> bool:
    return any(text in repr(error) for text in ("BadStatusLine", "RemoteDisconnected", "ConnectionResetError"))


def _reason(error: BaseException | None) -> str:
    """The innermost words of an error from requests or urllib3, without their objects' addresses."""
    inner = innermost(error) or Exception("no answer")
    text = str(inner) or type(inner).__name__
    # urllib3 puts the connection object first: "HTTPConnection(host=…): Failed to …: [Errno 111] Connection refused"
    return display.shorten(text.rpartition("[Errno ")[2].partition("] ")[2] or text, 200)


def _host_certificates(host: str) -> Path | None:
    """The first folder of certificates for a host. containers-certs.d.5.md."""
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
