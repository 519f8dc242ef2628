"""Waits for a client, as the process and the application report them to each other.

A request that waits for its client holds a thread. The process that serves the application may limit such waits: it puts a
`Transfer` into the WSGI environ under `TRANSFER`, and the endpoints report what they wait for. Under other WSGI servers the
key is absent, and waits have the limits of that server.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Protocol

#: Key of the WSGI environ.
TRANSFER = "ocikit.transfer"

#: Seconds for a whole form, and for the whole rest of a rejected body.
SMALL_BODY = 10.0

#: Seconds for a whole manifest of at most 4 MiB.
MANIFEST_BODY = 30.0


class Transfer(Protocol):
    """The waits of one request for its client."""

    def begin(self, client: str) -> None:
        """Reserve a thread for waits; further calls do nothing.

        Args:
            client: The client's address.

        Raises:
            ErrorResponse: 429 if the client holds its share of the threads; 503 if all threads wait.
        """

    def set_deadline(self, seconds: float) -> None:
        """Limit the time until the whole body has arrived."""


def transfer_of(environ: Mapping[str, Any]) -> Transfer | None:
    """Return the transfer of a request, or None."""
    transfer: Transfer | None = environ.get(TRANSFER)
    return transfer


@lru_cache(maxsize=1024)
def client_key(address: str) -> str:
    """Return the network that counts as one client.

    One client usually controls all 2^64 addresses of an IPv6 network.

    >>> client_key("192.0.2.7"), client_key("2001:db8::7"), client_key("::ffff:192.0.2.7")
    ('192.0.2.7', '2001:db8::/64', '192.0.2.7')
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(IPv6Network((int(parsed), 64), strict=False))
