"""Where a URL leads: its origin, and which ways from one origin to another are safe."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from attrs import frozen

from ocikit.errors import InvalidResponse, redact

__all__ = ["Origin", "check_step", "is_loopback"]

_PORTS = {"http": 80, "https": 443}


@frozen
class Origin:
    """Scheme, host and port: what a credential is bound to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of a URL. Raises: InvalidResponse: if it isn't one of http or https."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InvalidResponse(f"{redact(url)!r} is not a URL") from error
        if parts.scheme not in _PORTS or not parts.hostname:
            raise InvalidResponse(
                f"{redact(url)!r} is not an http or https URL", hint="the registry sent it; tell its operators"
            )
        return cls(parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme])


def is_loopback(host: str) -> bool:
    """Whether a host, with or without port, is this machine.

    >>> is_loopback("localhost:5000"), is_loopback("[::1]:5000"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and address.is_loopback


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def check_step(source: str, target: str) -> None:
    """Refuse a redirect or an upload location that leads somewhere unsafe.

    From https to http, and from a public host to this machine or its network's metadata address. Private ranges are
    left alone: many a registry keeps its blobs on a neighbour.

    Raises: InvalidResponse.
    """
    here, there = Origin.of(source), Origin.of(target)
    if here.scheme == "https" and there.scheme == "http":
        raise InvalidResponse(
            f"{here.host} sends us from https to {redact(target)}",
            hint="content would travel unprotected; the registry's own address (its 'externalurl' or 'http.host') is set up wrong",
        )
    address = _address(there.host)
    if (is_loopback(there.host) or (address is not None and address.is_link_local)) and not _is_near(here.host):
        raise InvalidResponse(
            f"{here.host} sends us to {redact(target)}, an address of this machine or its network",
            hint="a public registry has no business there; refused",
        )


def _is_near(host: str) -> bool:
    """Whether a host is this machine or on a private network."""
    address = _address(host)
    return is_loopback(host) or (address is not None and (address.is_private or address.is_link_local))
