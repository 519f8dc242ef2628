"""The URL scheme of a registry, configured or detected from its responses."""

from __future__ import annotations

import re

import requests

from ocikit.remote.config.network import Network
from ocikit.remote.http.causes import CONNECTION_ERRORS, is_certificate_error, is_not_http
from ocikit.remote.http.connections import Connections
from ocikit.remote.http.responses import buffer_body
from ocikit.remote.http.urls import is_loopback

#: How the TLS ports of Go, nginx and Apache answer plain http.
_TLS_REQUIRED = re.compile(rb"\bto (an? )?(https|ssl|tls)", re.IGNORECASE)


class Scheme:
    """The URL scheme of one registry. Safe in threads.

    Unless the scheme is configured, loopback hosts start with http and all others with https.

    Args:
        host: Registry, as in references.
        api_host: Host and port of its API.
        network: Configured schemes and insecure hosts.
        connections: Connections for the probe of a port.
    """

    def __init__(self, host: str, api_host: str, network: Network, connections: Connections) -> None:
        self._host = host
        self._api_host = api_host
        self._network = network
        self._connections = connections
        self._guessed = host not in network.schemes
        self.name = network.schemes.get(host) or ("http" if is_loopback(host) else "https")
        """"http" or "https"."""

    @property
    def base(self) -> str:
        """The root of the registry's URLs, such as "https://ghcr.io"."""
        return f"{self.name}://{self._api_host}"

    def confirm(self, response: requests.Response, used: str, method: str) -> bool:
        """Confirm the guessed scheme, or switch to https if a TLS port rejected plain http.

        Args:
            response: A response to a request with the scheme `used`.
            used: Scheme of the request; another thread may have changed the scheme since.
            method: HTTP method of the request.

        Returns:
            True if the request must be sent again, over https.
        """
        tls = False
        if used == "http" and response.status_code == 400 and (self._guessed or self.name != used):
            tls = self._probe_tls() if method == "HEAD" else _requires_tls(response)
        with self._connections.lock:
            if tls:
                self.name = "https"
            elif self._guessed:
                # Another thread may have switched meanwhile, after a connection that broke
                self.name = used
            self._guessed = False
        return tls

    def switch(self, error: Exception, used: str) -> bool:
        """Switch to the other scheme after a broken connection, if the first one was guessed.

        Returns:
            True if the request must be sent again, with the other scheme.
        """
        with self._connections.lock:
            if self.name != used:
                return True  # another thread has switched meanwhile
            if not self._guessed:
                return False
            local = is_loopback(self._host)
            if used == "http" and local and is_not_http(error):
                self.name = "https"
                return True
            insecure = self._host in self._network.insecure
            if used == "https" and (insecure or (local and not is_certificate_error(error))):
                # For loopback hosts this is the second guess: the connection broke for another reason
                self.name, self._guessed = "http", False
                return True
            return False

    def _probe_tls(self) -> bool:
        """Probe with GET whether the port requires TLS: a response to HEAD has no body to inspect."""
        headers = {"User-Agent": self._network.user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        try:
            response = self._connections.send("GET", f"http://{self._api_host}/v2/", headers)
        except CONNECTION_ERRORS:
            return False
        return _requires_tls(response)


def _requires_tls(response: requests.Response) -> bool:
    body = buffer_body(response)
    return response.status_code == 400 and _TLS_REQUIRED.search(body) is not None
