"""Requests to one registry: authenticated, retried, redirected, failures as typed errors.

Requests use the adapters of `requests`, but not its sessions, because sessions

- send cookies: Harbor treats a client with cookies as a browser and requires CSRF tokens,
- read netrc, which overrides Authorization: requests#3929,
- run response hooks,
- carry credentials to other origins in redirects (credential forwarding).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import requests

from ocikit import display
from ocikit.errors import ConnectionFailed, InvalidResponse, OcikitError, TimedOut
from ocikit.progress.base import notify
from ocikit.remote.auth.authenticator import Authenticator, Authorization
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config.network import Network
from ocikit.remote.http.causes import CONNECTION_ERRORS, is_unsent
from ocikit.remote.http.connections import Connections
from ocikit.remote.http.deadlines import deadline_scope
from ocikit.remote.http.errors import error_from_response
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.redirects import RedirectFollower
from ocikit.remote.http.request import Body, BodyStream, Request
from ocikit.remote.http.responses import buffer_body, drain, read_limited, report_warnings
from ocikit.remote.http.retry import Retry, backoff
from ocikit.remote.http.scheme import Scheme
from ocikit.remote.http.urls import Origin, join
from ocikit.spec.challenge import Scope
from ocikit.spec.digest import Digest

log = logging.getLogger("ocikit")

_READ_ONCE = "a stream that can be read only once can't be sent again with a new token: pass a file, or call again"
#: A path as ocikit builds them: no part of it can lead to another host or another path.
_PATH = re.compile(r"(?:/[A-Za-z0-9_:][A-Za-z0-9_:.-]*)+/?")


class Transport(display.Displayable):
    """All requests to one registry, and to the URLs to which it redirects. Safe in threads.

    Args:
        host: Registry, as in references.
        api_host: Host of its API, if another, as with Docker Hub.
        network: Timeouts, proxies, certificates.
        keychain: Credentials for the host.
        tokens: Token cache that a session's hosts share.
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
        self.ranges = self.network.ranges
        """Whether ranges of a blob may be requested in parallel; False once the host did not answer with a range."""
        self.conditional: bool | None = None
        """Whether the host rejects a PUT whose `If-Match` does not match; None until a PUT has shown it."""
        self.has_sent_range = False
        """Whether the host answered the latest request for a range with that range."""
        self._api_host = api_host
        self._keychain = keychain or Keychain()
        self._connections = Connections(host, lambda: self.base, self.network)
        self._scheme = Scheme(host, api_host or host, self.network, self._connections)
        self._retry = Retry(host, self.network, self._scheme)
        self._redirects = RedirectFollower(host, self.network, self._connections, self.serves)
        self._auth = Authenticator(
            host, self._keychain, tokens or TokenCache(), self._send_bare, allow_private=self.insecure
        )
        self.post_blobs: bool | None = None
        """Whether the registry takes a small blob in one request; None until it was tried."""
        self.patch_blobs = True
        """Whether the registry takes a large blob in one PATCH, with its digest at the end."""

    def __reduce__(self) -> tuple[Any, ...]:
        transport = partial(Transport, api_host=self._api_host, network=self.network, keychain=self._keychain)
        return transport, (self.host,)

    @property
    def base(self) -> str:
        """The root of the registry's URLs, such as "https://ghcr.io"."""
        return self._scheme.base

    @property
    def insecure(self) -> bool:
        """Whether plain http and unknown certificates are allowed for this host."""
        return self.host in self.network.insecure

    @property
    def challenged(self) -> bool:
        """Whether the registry has asked for credentials in this session."""
        return self._auth.challenged

    @property
    def rate_limit(self) -> RateLimit | None:
        """The most recent rate limit that the registry reported."""
        return self._redirects.rate_limit

    @property
    def throttled(self) -> int:
        """The number of responses so far that demanded a pause of all threads (429, 503)."""
        return self._retry.throttled

    def __rich_repr__(self) -> display.Description:
        yield "host", self.host
        yield "base", self.base
        yield "insecure", self.insecure, False

    def serves(self, url: str) -> bool:
        """Return True if `url` has the registry's origin: scheme, host and port."""
        # The fast path serves nearly every URL; parsing costs a tenth of a small request
        return url.startswith(f"{self.base}/") or Origin.of(url) == Origin.of(self.base)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        self._connections.close()

    def forget_redirect(self, url: str) -> None:
        """Ask the registry again at the next range of a blob, instead of the object store that it redirected to."""
        self._redirects.forget(url)

    def deadline(self) -> float | None:
        """Return the deadline for an operation that starts now, or None without a limit.

        Deadlines are times of the monotonic clock.
        """
        return self._retry.deadline()

    def check_deadline(self, deadline: float | None, action: str) -> None:
        """Check that a deadline has not passed.

        Raises:
            TimedOut: It has passed.
        """
        self._retry.check_deadline(deadline, action)

    def request(
        self,
        method: str,
        target: str,
        action: str,
        *,
        scopes: Sequence[Scope] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes | BodyStream | None = None,
        length: int | None = None,
        ok_statuses: Sequence[int] = (),
        retry: bool = True,
        timeout: float | None = None,
    ) -> requests.Response:
        """Send a request and return its unread response.

        Args:
            method: HTTP method.
            target: Path such as "/v2/", or absolute URL that the registry returned.
            action: Operation, as named in error messages.
            scopes: Rights that the request needs.
            headers: Additional headers.
            body: Bytes, or a stream from its current position; it is rewound for another attempt if it is seekable.
            length: Bytes of the stream.
            ok_statuses: Statuses above 399 that are returned instead of raised.
            retry: Retry after temporary failures. A 429 is retried in any case if the body can be sent again, because
                the registry has not executed the request.
            timeout: Seconds without data, if not the network's.

        Raises:
            RegistryError: The status is above 399; the class depends on the status and the code.
            ConnectionFailed: There was no response.
            TimedOut: The response did not arrive in time.
        """
        content = Body(body)
        sent: Authorization | None = None
        maybe_executed = False

        def attempt() -> requests.Response:
            nonlocal sent, maybe_executed
            content.rewind()
            # The scheme may change between attempts. Joining paths that ocikit built would cost as much as all deadlines
            url = self.base + target if _PATH.fullmatch(target) else join(self.base, target)
            try:
                request = Request(method, url, headers or {}, content, length, timeout)
                response, sent = self._send_authorized(request, scopes)
            except CONNECTION_ERRORS as error:
                maybe_executed |= not is_unsent(error)
                raise
            maybe_executed |= response.status_code >= 500
            return response

        deadline = self.deadline()
        try:
            with deadline_scope(deadline):
                response = self._retry.send(
                    attempt,
                    action,
                    method=method,
                    target=target,
                    retry=retry and content.repeatable,
                    repeatable=content.repeatable,
                )
        except TimedOut:
            self.check_deadline(deadline, action)  # it may have passed while a token was requested
            raise
        report_warnings(response)
        # An earlier attempt, whose response was lost, may have deleted what is missing now
        deleted = method == "DELETE" and response.status_code == 404 and maybe_executed
        self._check_status(response, action, (*ok_statuses, 404) if deleted else ok_statuses, sent, content)
        return response

    def _check_status(
        self,
        response: requests.Response,
        action: str,
        ok_statuses: Sequence[int],
        sent: Authorization | None,
        body: Body,
    ) -> None:
        status = response.status_code
        if status >= 400 and status not in ok_statuses:
            unrepeatable = status == 401 and sent is not None and not body.repeatable
            rejected = sent.account if sent and not unrepeatable else ""
            raise error_from_response(response, action, hint=_READ_ONCE if unrepeatable else "", rejected=rejected)
        if 300 <= status < 400:
            drain(response)
            raise InvalidResponse(
                f"failed to {action}: {self.host} returned {status} without a Location",
                hint="the server or a proxy in front of it does not implement the registry API",
                method=response.request.method or "",
                url=str(response.url),
                status=status,
                host=self.host,
            )

    def read(
        self,
        target: str,
        action: str,
        *,
        limit: int,
        scopes: Sequence[Scope] = (),
        headers: Mapping[str, str] | None = None,
        ok_statuses: Sequence[int] = (),
        digest: Digest | None = None,
    ) -> tuple[bytes, requests.Response]:
        """GET a body, again if the connection breaks within it.

        Args:
            target: Path or absolute URL.
            action: Operation, as named in error messages.
            limit: Greatest length of the body, in bytes.
            scopes: Rights that the request needs.
            headers: Additional headers.
            ok_statuses: Statuses above 399 that are returned instead of raised.
            digest: Expected digest, if known; not verified, see `read_limited`.

        Returns:
            The body and its response.

        Raises:
            RegistryError: The status is above 399.
            TooLarge: The body exceeds the limit.
            ConnectionFailed: There was no complete response.
        """
        attempts, deadline = 0, self.deadline()
        while True:
            with deadline_scope(deadline):
                response = self.request("GET", target, action, scopes=scopes, headers=headers, ok_statuses=ok_statuses)
            try:
                return read_limited(response, limit, action, digest=digest), response
            except ConnectionFailed as error:
                self.check_deadline(deadline, action)
                if attempts >= self.network.retries:
                    raise
                log.info("%s; trying again", error.message)
                notify(f"{self.host} broke off; trying again")
                time.sleep(backoff(attempts))
                attempts += 1

    def _send_authorized(
        self, request: Request, scopes: Sequence[Scope]
    ) -> tuple[requests.Response, Authorization | None]:
        """Send with the cached token, and after a 401 with a new or wider one.

        Returns:
            The response, and the authorization that was sent if the response is the registry's own.
        """
        method, url, body = request.method, request.url, request.body
        first = sent = self._auth.header(scopes) if self.serves(url) else None
        for attempt in range(3):
            response, trusted = self._redirects.send(request, sent.value if sent else "")
            if response.status_code != 401 or not trusted or attempt == 2 or not body.repeatable:
                break
            try:
                authorization = self._auth.answer(response, url, scopes, sent, again=attempt > 0)
            except BaseException:
                response.close()
                raise
            if authorization is None:
                break
            drain(response)
            sent = authorization
            body.rewind()
        rejected = trusted and response.status_code in {401, 403} and sent is not None and sent.account
        if rejected and method in {"GET", "HEAD"}:
            response = self._retry_anonymously(response, request, scopes, untried=first is not None)
        return response, sent if trusted else None

    def _retry_anonymously(
        self, rejection: requests.Response, request: Request, scopes: Sequence[Scope], *, untried: bool
    ) -> requests.Response:
        """Repeat a read without the rejected credentials; return the rejection if that fails, too."""
        authorization = self._auth.anonymous_authorization(scopes, untried=untried)
        if authorization is None:
            return rejection
        buffer_body(rejection)
        try:
            response, trusted = self._redirects.send(attrs.evolve(request, body=Body()), authorization.value)
        except (OcikitError, *CONNECTION_ERRORS):
            return rejection
        allowed = response.status_code < 400 or response.status_code == 416
        if allowed or (trusted and response.status_code in {401, 403}):
            self._auth.note_anonymous_read(scopes, allowed=allowed)
        if not allowed:
            drain(response)
        return response if allowed else rejection

    def _send_bare(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
        """Send a request to a token server, without the registry's credentials and headers."""
        headers = {
            "User-Agent": self.network.user_agent,
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            **headers,
        }
        return self._retry.send(
            lambda: self._redirects.send_bare(method, url, headers, body),
            f"get a token for {self.host}",
            method=method,
            target=url,
            # A refresh token may be used up although the response was lost: RFC 6749 section 6
            retry=method == "GET",
            repeatable=True,
            detect_scheme=False,
        )
