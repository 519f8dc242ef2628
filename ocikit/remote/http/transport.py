"""One registry over HTTP: send, authenticate, retry, redirect, raise.

Requests go through the adapters of `requests`, but not through its sessions: no cookies (Harbor takes one as a sign of a
browser and starts asking for CSRF tokens), no netrc (it overrides Authorization: requests#3929), no response hooks, and
redirects that never carry a credential to another origin.
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO

import requests
import urllib3

from ocikit import display
from ocikit.errors import ConnectionFailed, InvalidResponse, OcikitError, TimedOut, Unsupported, redact
from ocikit.progress.base import notify
from ocikit.remote.auth.authenticator import Authenticator, Authorization
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config.network import Network
from ocikit.remote.http.connections import Connections
from ocikit.remote.http.deadlines import current_deadline, deadline_scope
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.responses import (
    CONNECTION_ERRORS,
    buffer_body,
    drain,
    error_from_response,
    is_timeout,
    read_limited,
    report_warnings,
    retry_after,
    root_cause,
)
from ocikit.remote.http.urls import Origin, check_redirect, is_loopback, join
from ocikit.spec.challenge import Scope
from ocikit.spec.digest import Digest

log = logging.getLogger("ocikit")

_REDIRECTS = 10  # as curl and browsers bound them
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_READ_ONCE = "what can be read only once can't be sent again with a new token: pass a file, or call again"
_REDIRECTING = frozenset({301, 302, 303, 307, 308})
#: A path as we make them: nothing in it could lead to another host or another path.
_PATH = re.compile(r"(?:/[A-Za-z0-9_:][A-Za-z0-9_:.-]*)+/?")
#: How TLS ports answer plain http: Go's, nginx's and Apache's words.
_TLS_PORT = re.compile(rb"\bto (an? )?(https|ssl|tls)", re.IGNORECASE)


class Transport(display.Displayable):
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
        self._connections = Connections(host, lambda: self.base, self.network)
        self._not_before = 0.0
        self._reached = False  # whether this host has ever answered
        self.rate_limit: RateLimit | None = None
        """What the registry said last of how often it may be asked."""

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
        self._connections.close()

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
        doubtful = False

        def send() -> requests.Response:
            nonlocal sent, doubtful
            replay.rewind()
            try:
                response, sent = self._authorized(method, target, scopes, dict(headers or {}), replay, length, timeout)
            except CONNECTION_ERRORS as error:
                doubtful |= not _never_sent(error)
                raise
            doubtful |= response.status_code >= 500
            return response

        again = replay.possible
        deadline = self.deadline()
        try:
            with deadline_scope(deadline):
                response = self._persist(send, method, target, doing, retry=retry and again, again=again)
        except TimedOut:
            self.check_deadline(deadline, doing)  # it may have passed while a token was asked for
            raise
        report_warnings(response)
        status = response.status_code
        # What a try whose answer got lost has deleted is not there for the next one
        deleted = method == "DELETE" and status == 404 and doubtful
        if status >= 400 and status not in allow and not deleted:
            once = status == 401 and sent is not None and not replay.possible
            who = sent.who if sent and not once else ""
            raise error_from_response(response, doing, hint=_READ_ONCE if once else "", rejected=who)
        if 300 <= status < 400:
            drain(response)
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
        digest: Digest | None = None,
    ) -> tuple[bytes, requests.Response]:
        """GET a body of at most `limit` bytes; it is asked for again when the connection breaks within it.

        `digest` is what it should have; it is not verified here, see `read_limited`.

        Raises: as `request`, and TooLarge.
        """
        attempt, deadline = 0, self.deadline()
        while True:
            with deadline_scope(deadline):
                response = self.request("GET", target, doing, scopes=scopes, headers=headers, allow=allow)
            try:
                return read_limited(response, limit, doing, digest=digest), response
            except ConnectionFailed as error:
                self.check_deadline(deadline, doing)
                if attempt >= self.network.retries:
                    raise
                log.info("%s; trying again", error.message)
                notify(f"{self.host} broke off; trying again")
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
        deadline = self.deadline()
        while True:
            self.check_deadline(deadline, doing)
            response: requests.Response | None = None
            error: Exception | None = None
            scheme = self._scheme
            try:
                _sleep(min(self._not_before - time.monotonic(), self.network.max_wait), deadline)
                response = send()
            except OcikitError:
                raise
            except CONNECTION_ERRORS as broken:
                if retry and settle and self._guess_again(broken, scheme):
                    continue
                error = broken
            self._reached |= response is not None
            if response is not None and response.status_code not in _RETRIED:
                if again and settle and self._settle(response, scheme, method):
                    drain(response)
                    continue
                return response
            asked = retry_after(response) if response is not None else None
            wait = backoff(attempt) if asked is None else asked
            if response is not None and wait <= self.network.max_wait:
                status = response.status_code
                if status == 429 or (status == 503 and asked is not None):
                    # What one thread is asked to wait, every thread waits
                    self._not_before = max(self._not_before, time.monotonic() + wait)
            hopeless = error is not None and not self._reached and _never_there(error)
            limited = again and response is not None and response.status_code == 429
            if (
                hopeless
                or not (retry or limited)
                or attempt >= self.network.retries
                or waited + wait > self.network.max_wait
                or (asked is not None and deadline is not None and time.monotonic() + wait > deadline)
            ):
                break
            reason = response.status_code if response is not None else _reason(error)
            log.info("%s: %s; trying again in %.1f s", doing, reason, wait)
            notify(f"{self.host}: {reason}; trying again in {display.duration(wait)}")
            if response is not None:
                drain(response)
            _sleep(wait, deadline)
            waited += wait
            attempt += 1
        if response is not None:
            return response
        self.check_deadline(deadline, doing)
        raise self._unreachable(error, method, target, doing) from root_cause(error)

    def deadline(self) -> float | None:
        """When what begins now has to be done, by the monotonic clock; None: there is no limit."""
        limit, around = self.network.total_timeout, current_deadline()
        if limit is None or (around is not None and around < time.monotonic() + limit):
            return around
        return time.monotonic() + limit

    def check_deadline(self, deadline: float | None, doing: str) -> None:
        """Raises: TimedOut: past it."""
        if deadline is not None and time.monotonic() >= deadline:
            limit = self.network.total_timeout
            raise TimedOut(
                f"{self.host} took more than {'its time' if limit is None else f'{limit:g} s'} in all to {doing}",
                hint="raise total_timeout in Network(…); what was received is kept and resumed",
            )

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
        # Our own paths need no resolving, which would cost as much as all that deadlines take
        url = self.base + target if _PATH.fullmatch(target) else join(self.base, target)
        home = self.serves(url)
        first = sent = self._auth.header(scopes) if home else None
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
            drain(response)
            sent = answer
            replay.rewind()
        refused = home and response.status_code in {401, 403} and sent is not None and sent.who
        if refused and method in {"GET", "HEAD"}:
            response = self._as_stranger(response, method, url, scopes, headers, timeout, unknown=first is not None)
        return response, sent if home else None

    def _as_stranger(
        self,
        refusal: requests.Response,
        method: str,
        url: str,
        scopes: Sequence[Scope],
        headers: dict[str, str],
        timeout: float | None,
        *,
        unknown: bool,
    ) -> requests.Response:
        """A read once more without the credentials that were refused; the refusal, if a stranger gets no more."""
        answer = self._auth.stranger(scopes, unknown=unknown)
        if answer is None:
            return refusal
        buffer_body(refusal)
        try:
            response, home = self._follow(method, url, headers, answer, _Replay(None), None, timeout)
        except (OcikitError, *CONNECTION_ERRORS):
            return refusal
        allowed = response.status_code < 400 or response.status_code == 416
        if allowed or (home and response.status_code in {401, 403}):
            self._auth.read_as_stranger(scopes, allowed=allowed)
        if not allowed:
            drain(response)
        return response if allowed else refusal

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
                if authorization and authorization.value:
                    sending["Authorization"] = authorization.value
            response = self._connections.send(method, url, sending, replay.body, length, timeout)
            if home and (said := RateLimit.of(response.headers)):
                self.rate_limit = said
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTING or not location:
                return response, home
            if method not in {"GET", "HEAD"} and response.status_code not in {307, 308}:
                drain(response)
                raise InvalidResponse(
                    f"{self.host} answers {method} with {response.status_code} to {redact(location)}",
                    hint="a registry's upload address was moved; check the host's name and scheme",
                    method=method, url=url, status=response.status_code, host=self.host,
                )  # fmt: skip
            drain(response)
            target = join(url, location)
            check_redirect(url, target, insecure=self.insecure)
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
            response = self._connections.send(method, url, headers, body, None, None)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTING or not location:
                return response
            drain(response)
            target = join(url, location)
            check_redirect(url, target)
            if Origin.of(target) != Origin.of(url):
                if body is not None:
                    raise InvalidResponse(
                        f"the token server of {self.host} sends our refresh token to {redact(target)}; refused"
                    )
                headers.pop("Authorization", None)
            url = target
        raise InvalidResponse(f"the token server of {self.host} redirects more than {_REDIRECTS} times")

    def _settle(self, response: requests.Response, scheme: str, method: str) -> bool:
        """Keep the guessed scheme, unless a TLS port answered plain http with a 400 that says so."""
        tls = False
        if scheme == "http" and response.status_code == 400 and (self._guessed or self._scheme != scheme):
            tls = self._wants_tls() if method == "HEAD" else _says_tls(response)
        with self._connections.lock:
            if tls:
                self._scheme = "https"
            elif self._guessed:
                # Another thread may have guessed anew meanwhile, after a connection that broke
                self._scheme = scheme
            self._guessed = False
        return tls

    def _wants_tls(self) -> bool:
        """Whether a port that was guessed to speak plain http says otherwise to a GET: to a HEAD it has no words."""
        headers = {"User-Agent": self.network.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        try:
            response = self._connections.send("GET", f"http://{self._api_host}/v2/", headers, None, None, None)
        except CONNECTION_ERRORS:
            return False
        return _says_tls(response)

    def _guess_again(self, error: Exception, scheme: str) -> bool:
        """Whether the other scheme is worth a try: loopback hosts start with http, insecure ones with https."""
        with self._connections.lock:
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
        if isinstance(error, requests.exceptions.SSLError | urllib3.exceptions.SSLError) or "certificate" in reason:
            hint = "pass ca=… with the certificate that vouches for it, or name the host in insecure=[…] if you must"
        elif isinstance(error, requests.exceptions.ProxyError):
            hint = "check HTTPS_PROXY and NO_PROXY"
        else:
            hint = "check the host's name and port, the network, and that the registry is running"
        return ConnectionFailed(f"no answer from {where.host}:{where.port} to {doing} ({method}): {reason}", hint=hint)


class _Replay:
    """A body, and whether it can be sent again."""

    def __init__(self, body: bytes | BinaryIO | None) -> None:
        self.body = body
        self._start = body.tell() if body is not None and not isinstance(body, bytes) and body.seekable() else None
        self.possible = body is None or isinstance(body, bytes) or self._start is not None

    def rewind(self) -> None:
        if self._start is not None and self.body is not None and not isinstance(self.body, bytes):
            self.body.seek(self._start)


def _says_tls(response: requests.Response) -> bool:
    """Whether an answer is a TLS port's to plain http."""
    words = buffer_body(response)
    return response.status_code == 400 and _TLS_PORT.search(words) is not None


def _never_sent(error: Exception) -> bool:
    """Whether there was no connection to send anything on."""
    return any(text in repr(error) for text in ("NewConnectionError", "ConnectTimeout", "NameResolutionError"))


def _sleep(seconds: float, deadline: float | None) -> None:
    if deadline is not None:
        seconds = min(seconds, deadline - time.monotonic())
    if seconds > 0:
        time.sleep(seconds)


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
    inner = root_cause(error) or Exception("no answer")
    text = str(inner) or type(inner).__name__
    # urllib3 puts the connection object first: "HTTPConnection(host=…): Failed to …: [Errno 111] Connection refused"
    return display.shorten(text.rpartition("[Errno ")[2].partition("] ")[2] or text, 200)
