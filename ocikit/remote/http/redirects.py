"""Redirects of a registry: followed without forwarding credentials to another origin."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import requests
from attrs import frozen

from ocikit.errors import InvalidResponse, Unsupported, redact
from ocikit.remote.config.network import Network
from ocikit.remote.http.connections import Connections
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.request import Request
from ocikit.remote.http.responses import drain, request_fields
from ocikit.remote.http.urls import Origin, check_redirect, join

_MAX_REDIRECTS = 10  # as in curl and browsers
_REDIRECTING = frozenset({301, 302, 303, 307, 308})

#: How long the URL of an object store is valid [seconds], as it states.
_EXPIRES = re.compile(r"[?&]X-Amz-Expires=([0-9]{1,6})(?:&|\Z)")

_MARGIN = 30  # seconds before the end of a URL in which it is not used again
_MAX_KEPT = 1000  # URLs that are remembered


@frozen
class _Signed:
    """The URL of an object store that a registry has redirected to."""

    url: str
    until: float
    """Time of the monotonic clock."""


class RedirectFollower:
    """Sends requests to one registry and follows its redirects.

    Many ranges of one blob need one redirect: the signed URL of an object store is kept until it expires.

    Args:
        host: Registry, as in references.
        network: User agent, additional headers, insecure hosts.
        connections: Send single requests.
        serves: Returns True if a URL has the registry's origin.
    """

    def __init__(self, host: str, network: Network, connections: Connections, serves: Callable[[str], bool]) -> None:
        self._host = host
        self._network = network
        self._connections = connections
        self._serves = serves
        self.rate_limit: RateLimit | None = None
        """The most recent rate limit that the registry reported."""
        self._kept: dict[str, _Signed] = {}

    def forget(self, url: str) -> None:
        """Ask the registry again at the next range of a blob."""
        self._kept.pop(url, None)

    def send(self, request: Request, authorization: str = "") -> tuple[requests.Response, bool]:
        """Send a request and follow redirects.

        The credential and the network's own headers are sent to the first origin only.

        Args:
            request: Request to the registry or to a URL that it returned.
            authorization: Value of the header, if any.

        Returns:
            The response, and True if it came from the registry itself without a cross-origin redirect.

        Raises:
            InvalidResponse: A redirect is unsafe or there are too many.
            Unsupported: A body that can't be sent again is redirected.
        """
        method, url = request.method, request.url
        trusted = self._serves(url)
        if trusted and (ranged := self._send_to_kept(request)) is not None:
            return ranged, False
        for _ in range(_MAX_REDIRECTS + 1):
            headers = self._headers(request)
            if trusted:
                headers.update(self._network.headers)
                if authorization:
                    headers["Authorization"] = authorization
            response = self._connections.send(
                method, url, headers, request.body.content, request.length, request.timeout
            )
            if trusted and (rate_limit := RateLimit.of(response.headers)):
                self.rate_limit = rate_limit
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTING or not location:
                return response, trusted
            drain(response)
            url = self._next_url(request, response, url, location)
            if trusted:
                self._keep(request, url)
            request.body.rewind()
            # After one cross-origin redirect never send credentials again: the other host could redirect back to a URL
            # of its choice
            trusted = trusted and self._serves(url)
        raise InvalidResponse(
            f"{self._host} redirects more than {_MAX_REDIRECTS} times", method=method, url=url, host=self._host
        )

    def _headers(self, request: Request) -> dict[str, str]:
        """Return the headers that any host gets: they contain no credential."""
        return {
            "User-Agent": self._network.user_agent,
            "Accept-Encoding": "identity",
            "Accept": "*/*",
            **request.headers,
        }

    def _send_to_kept(self, request: Request) -> requests.Response | None:
        """Request a range at the object store that the registry redirected an earlier range of this blob to.

        Returns:
            The response. None if there is no such URL, or if it is not accepted any more.
        """
        kept = self._kept.get(request.url) if _is_range(request) else None
        if kept is None:
            return None
        if time.monotonic() < kept.until:
            try:
                response = self._connections.send("GET", kept.url, self._headers(request), None, None, request.timeout)
            except BaseException:
                self.forget(request.url)
                raise
            if response.status_code == 206:
                return response
            drain(response)
        self.forget(request.url)
        return None

    def _keep(self, request: Request, target: str) -> None:
        """Remember a signed URL of another origin, if it is that of a range."""
        match = _EXPIRES.search(target)
        if match is None or not _is_range(request) or self._serves(target):
            return
        if len(self._kept) >= _MAX_KEPT:
            self._kept.clear()
        self._kept[request.url] = _Signed(target, time.monotonic() + int(match[1]) - _MARGIN)

    def _next_url(self, request: Request, response: requests.Response, url: str, location: str) -> str:
        method, status = request.method, response.status_code
        if method not in {"GET", "HEAD"} and status not in {307, 308}:
            raise InvalidResponse(
                f"{self._host} answered {method} with {status} to {redact(location)}",
                hint="the registry's upload address has moved; check the host's name and scheme",
                **request_fields(response),
            )
        target = join(url, location)
        check_redirect(url, target, insecure=self._host in self._network.insecure)
        if not request.body.repeatable:
            raise Unsupported(
                f"{self._host} redirects an upload to {redact(target)}, but its content can be read only once",
                hint="pass a file, or any other seekable stream",
                **request_fields(response),
            )
        return target

    def send_bare(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
        """Send a request to a token server with its own headers only.

        Raises:
            InvalidResponse: A redirect is unsafe, there are too many, or one would forward a refresh token.
        """
        for _ in range(_MAX_REDIRECTS + 1):
            response = self._connections.send(method, url, headers, body)
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTING or not location:
                return response
            drain(response)
            target = join(url, location)
            check_redirect(url, target)
            if Origin.of(target) != Origin.of(url):
                if body is not None:
                    raise InvalidResponse(
                        f"the token server of {self._host} redirects a refresh token to {redact(target)}; refused"
                    )
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
            url = target
        raise InvalidResponse(f"the token server of {self._host} redirects more than {_MAX_REDIRECTS} times")


def _is_range(request: Request) -> bool:
    return request.method == "GET" and "Range" in request.headers
