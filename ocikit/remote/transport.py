"""One registry over HTTP: send, authenticate, retry, redirect, raise.

Requests go through the adapters of a `requests.Session`, but not through its `request`: no cookies (Harbor takes one
as a sign of a browser and starts asking for CSRF tokens), no netrc (it overrides Authorization: requests#3929), no
response hooks, and redirects that never carry a credential to another origin.
"""

from __future__ import annotations

import http.client
import io
import logging
import os
import platform
import random
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import urljoin

import requests
import requests.adapters
import requests.utils
import urllib3.exceptions
from attrs import field, frozen

from ocikit import display
from ocikit._version import __version__
from ocikit.errors import ConnectionFailed, InvalidResponse, RegistryError, TimedOut, redact
from ocikit.remote.authentication import Authenticator, Authorization
from ocikit.remote.challenge import Scope
from ocikit.remote.credentials import Keychain
from ocikit.remote.origin import Origin, check_step, is_loopback
from ocikit.remote.responses import failure, finish, report_warnings, retry_after
from ocikit.remote.tokens import TokenCache

__all__ = ["BROKEN", "Network", "Transport"]

log = logging.getLogger("ocikit")

USER_AGENT: Final = f"ocikit/{__version__} (python {platform.python_version()}; requests {requests.__version__})"

_REDIRECTS = 10  # as curl and browsers bound them
_BLOCK = 1 << 18  # bytes handed to a socket at once; http.client's 16 KiB costs a third of a fast upload's time
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})

#: What a broken connection looks like, wherever it breaks.
BROKEN: Final = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)


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
    """A client certificate: one file, or certificate and key."""
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
        self._scheme = self.network.schemes.get(host)
        self._guessed = self._scheme is None
        if self._scheme is None:
            self._scheme = "http" if is_loopback(host) else "https"
        self._auth = Authenticator(host, keychain or Keychain(), tokens or TokenCache(), self._send_bare)
        self._session: requests.Session | None = None
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

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

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
            retry: whether to try again after a failure that may pass.
            timeout: seconds without a byte, if not the network's.

        Raises:
            RegistryError: a kind of it, for any other status above 399.
            ConnectionFailed, TimedOut: if there was no answer.
        """
        replay = _Replay(body)
        waited, attempt = 0.0, 0
        while True:
            response: requests.Response | None = None
            error: Exception | None = None
            try:
                self._hold()
                response = self._authorized(method, target, scopes, dict(headers or {}), replay, length, timeout)
            except RegistryError:
                raise
            except BROKEN as broken:
                if self._guess_again(broken):
                    continue
                error = broken
            self._reached |= response is not None
            if response is not None and response.status_code not in _RETRIED:
                if self._guessed and self._settle(response):
                    replay.rewind()
                    continue
                break
            wait = _backoff(attempt)
            if response is not None and (asked := retry_after(response)) is not None:
                wait = max(asked, 0.0)
            patient = (
                retry
                and (error is None or self._reached or not _never_there(error))
                and attempt < self.network.retries
                and waited + wait <= self.network.max_wait
            )
            if not patient or not replay.possible or (error is not None and not _may_repeat(method, error)):
                break
            log.info("%s: %s; trying again in %.1f s", doing, error or (response and response.status_code), wait)
            if response is not None:
                if response.status_code == 429:
                    # One thread's rate limit is every thread's
                    self._not_before = max(self._not_before, time.monotonic() + wait)
                finish(response)
            time.sleep(wait)
            waited += wait
            attempt += 1
            replay.rewind()
        if response is None:
            assert error is not None  # noqa: S101 - the loop leaves with one of the two
            raise self._unreachable(error, method, target, doing) from error
        report_warnings(response)
        if response.status_code >= 400 and response.status_code not in allow:
            raise failure(response, doing)
        return response

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
    ) -> requests.Response:
        """Send with the token for this host; on a 401 get one, and send once more, or twice if it was too narrow."""
        url = urljoin(self.base, target)
        home = Origin.of(url) == Origin.of(self.base)
        sent = self._auth.header(scopes) if home else None
        for _ in range(3):
            response, home = self._follow(method, url, headers, sent, replay, length, timeout)
            if response.status_code != 401 or not home:
                break
            answer = self._auth.answer(response, url, scopes, sent)
            if answer is None or not replay.possible:
                break
            finish(response)
            sent = answer
            replay.rewind()
        return response

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

        Gives the response, and whether it came from the registry itself.
        """
        base = Origin.of(self.base)
        for _ in range(_REDIRECTS + 1):
            home = Origin.of(url) == base
            sending = {"User-Agent": self.network.user_agent, "Accept-Encoding": "identity", "Accept": "*/*", **headers}
            if home:
                sending.update(self.network.headers)
                if authorization:
                    sending["Authorization"] = authorization.value
            response = self._send(method, url, sending, replay.body, length, timeout)
            location = response.headers.get("Location")
            if response.status_code not in {301, 302, 303, 307, 308} or not location:
                return response, home
            if method not in {"GET", "HEAD"} and response.status_code not in {307, 308}:
                raise InvalidResponse(
                    f"{self.host} answers {method} with {response.status_code} to {redact(location)}",
                    hint="a registry's upload address was moved; check the host's name and scheme",
                    method=method, url=url, status=response.status_code, host=self.host,
                )  # fmt: skip
            target = urljoin(url, location)
            if not self.insecure:
                check_step(url, target)
            finish(response)
            replay.rewind()
            url = target
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
        try:
            for _ in range(_REDIRECTS + 1):
                response = self._send(method, url, sending, body, None, None)
                location = response.headers.get("Location")
                if response.status_code not in {301, 302, 303, 307, 308} or not location:
                    return response
                target = urljoin(url, location)
                check_step(url, target)
                if Origin.of(target) != Origin.of(url):
                    if body is not None:
                        raise InvalidResponse(
                            f"the token server of {self.host} sends our refresh token to {redact(target)}; refused"
                        )
                    sending.pop("Authorization", None)
                finish(response)
                url = target
        except BROKEN as error:
            if isinstance(error, RegistryError):
                raise
            raise self._unreachable(error, method, url, f"a token for {self.host}") from error
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
        """One request, one response, through the session's adapter."""
        session = self._live_session()
        prepared = requests.PreparedRequest()
        prepared.method, prepared.url = method, url
        prepared.body = body  # type: ignore[assignment]  # the stubs leave out streams
        prepared.headers = requests.structures.CaseInsensitiveDict(headers)
        if body is not None:
            prepared.headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else length)
        elif method in {"POST", "PUT", "PATCH"}:
            prepared.headers["Content-Length"] = "0"
        started = time.monotonic()
        response = session.get_adapter(url).send(
            prepared,
            stream=True,
            timeout=(self.network.connect_timeout, timeout or self.network.read_timeout),
            verify=session.verify if session.verify is not None else True,
            cert=session.cert,
            proxies=self._proxies(url),
        )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s -> %s in %.3f s", method, redact(url), response.status_code, time.monotonic() - started)
        return response

    def _live_session(self) -> requests.Session:
        """The session of this process: sockets can't be shared with the parent after a fork."""
        session = self._session
        if session is not None and self._pid == os.getpid():
            return session
        with self._lock:
            if self._session is None or self._pid != os.getpid():
                self._session = self._new_session()
                self._pid = os.getpid()
            return self._session

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        folder = _host_certificates(self.host)
        session.cert = self.network.certificate or _client_pair(folder)
        # REQUESTS_CA_BUNDLE and SSL_CERT_FILE replace what is trusted, as everywhere in Python
        environment = next(
            (os.environ[k] for k in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE") if os.environ.get(k)),
            None,
        )
        session.verify = False if self.insecure else environment or True
        extra = [self.network.ca] if self.network.ca else []
        extra += [str(path) for path in sorted(folder.glob("*.crt"))] if folder else []
        adapter = _Adapter(self.network.connections, extra)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    def _proxies(self, url: str) -> dict[str, str]:
        if Origin.of(url).loopback:
            return {}
        if self.network.proxies is not None:
            return dict(self.network.proxies)
        return dict(requests.utils.get_environ_proxies(url, no_proxy=None))

    def _settle(self, response: requests.Response) -> bool:
        """Keep the guessed scheme, unless a TLS port answered plain http with a 400 that says so."""
        with self._lock:
            self._guessed = False
            if self._scheme != "http" or response.status_code != 400:
                return False
            words = response.raw.read(4096) or b""
            response.raw = io.BytesIO(words)  # for the error message, should it be another 400
            if b"https" not in words.lower():
                return False
            self._scheme = "https"
            return True

    def _guess_again(self, error: Exception) -> bool:
        """Whether the other scheme is worth a try: loopback hosts start with http, insecure ones with https."""
        with self._lock:
            if not self._guessed:
                return False
            self._guessed = False
            if is_loopback(self.host) and self._scheme == "http" and _not_http(error):
                self._scheme = "https"
                return True
            if self.insecure and self._scheme == "https":
                self._scheme = "http"
                return True
            return False

    def _unreachable(self, error: Exception, method: str, target: str, doing: str) -> ConnectionFailed:
        url = urljoin(self.base, target)
        where = Origin.of(url)
        reason = _reason(error)
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
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
    """Pools sized to the workers, large blocks on the way out, and certificates besides the usual ones."""

    def __init__(self, connections: int, certificates: Sequence[str]) -> None:
        self._certificates = certificates
        super().__init__(pool_connections=4, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any) -> None:
        """As requests does it, with our additions."""
        if self._certificates:
            context = ssl.create_default_context()
            for path in self._certificates:
                context.load_verify_locations(cafile=path)
            pool_kwargs["ssl_context"] = context
        super().init_poolmanager(connections, maxsize, block, blocksize=_BLOCK, **pool_kwargs)


class _Replay:
    """A body, and whether it can be sent again."""

    def __init__(self, body: bytes | BinaryIO | None) -> None:
        self.body = body
        self._start = body.tell() if body is not None and not isinstance(body, bytes) and body.seekable() else None
        self.possible = body is None or isinstance(body, bytes) or self._start is not None

    def rewind(self) -> None:
        if self._start is not None and self.body is not None and not isinstance(self.body, bytes):
            self.body.seek(self._start)
        elif not self.possible:
            raise io.UnsupportedOperation("this body can be sent only once")


def _may_repeat(method: str, error: Exception) -> bool:
    """Whether sending again can't do harm: safe methods always, others if the request never left."""
    return (
        method in _SAFE or isinstance(error, requests.exceptions.ConnectTimeout) or "NewConnectionError" in repr(error)
    )


def _never_there(error: Exception) -> bool:
    """Whether an error looks like a wrong name or port rather than a hiccup: waiting doesn't help against a typing mistake."""
    return any(text in repr(error) for text in ("NameResolutionError", "Connection refused"))


def _backoff(attempt: int) -> float:
    """Seconds: 0.25, 0.5, 1, … up to 8, with jitter, so that clients that failed together don't return together."""
    return float(min(8.0, 0.25 * 2**attempt) * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrets


def _not_http(error: Exception) -> bool:
    return any(text in repr(error) for text in ("BadStatusLine", "RemoteDisconnected", "ConnectionResetError"))


def _reason(error: BaseException) -> str:
    """The innermost words of an error from requests or urllib3, without their objects' addresses."""
    seen: BaseException = error
    while True:
        inner = (
            seen.__cause__
            or getattr(seen, "reason", None)
            or next((a for a in seen.args if isinstance(a, BaseException)), None)
        )
        if not isinstance(inner, BaseException) or inner is seen:
            break
        seen = inner
    text = str(seen) or type(seen).__name__
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
