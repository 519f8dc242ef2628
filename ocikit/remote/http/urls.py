"""Origins of URLs, and checks against SSRF and credential forwarding. No I/O."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TypeAlias
from urllib.parse import urljoin, urlsplit

from attrs import frozen

from ocikit.display import shorten
from ocikit.errors import InvalidResponse, redact

_PORTS = {"http": 80, "https": 443}

#: Scheme, user, host and port of an unambiguous URL. Backslashes, escapes and spaces make parsers disagree: what `urlsplit`
#: parses as a user name may be the host to which urllib3 connects (SSRF).
_AUTHORITY = re.compile(
    r"https?://(?:[\w.~!$&'()*+,;=:%-]*@)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+(?:%[\w.~-]+)?\])(?::\d*)?(?=[/?#]|$)",
    re.ASCII | re.IGNORECASE,
)

_NO_PATH = re.compile(r"^https?://[^/?#]+(?=[?#]|$)", re.IGNORECASE)

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Prefixes with an IPv4 address in their last 32 bits: compatible, translated (RFC 2765), and NAT64's (RFC 6052, RFC 8215).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))

#: Metadata addresses that serve a machine's own credentials, beyond link-local 169.254/16: Alibaba, Oracle, Azure, AWS, Google.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})


@frozen
class Origin:
    """Scheme, host and port, to which credentials are bound."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return the origin of a URL.

        Raises:
            InvalidResponse: The URL is not one of http or https, or is ambiguous.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # Drop the cause: its message contains the host, and with it the user name and the password
            raise InvalidResponse(f"{_for_message(url)!r} is not a URL") from None
        if parts.scheme in _PORTS and not _AUTHORITY.match(url):
            raise InvalidResponse(
                f"{_for_message(url)!r} is ambiguous: programs may parse another host from it",
                hint="the registry returned it, and it was not followed; contact its operator before you use the registry",
            )
        if parts.scheme not in _PORTS or not parts.hostname:
            raise InvalidResponse(
                f"{_for_message(url)!r} is not an http or https URL",
                hint="the registry returned it; contact its operator",
            )
        return cls(parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme])

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine."""
        return _loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return True if a host, with or without port, is this machine.

    >>> is_loopback("localhost:5000"), is_loopback("[::1]:5000"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    return _loopback(urlsplit(f"//{host}").hostname or "")


def join(base: str, location: str) -> str:
    """Resolve a Location or a Link against the URL that returned it.

    The query stays unchanged. RFC 3986 section 5.

    Raises:
        InvalidResponse: The location is not a URL.
    """
    try:
        # A query may follow the host directly; a fragment is not sent
        return _NO_PATH.sub(r"\g<0>/", urljoin(base, location)).partition("#")[0]
    except ValueError:
        raise InvalidResponse(
            f"{_for_message(location)!r} is not a URL", hint="the registry returned it; contact its operator"
        ) from None


def check_redirect(source: str, target: str, *, insecure: bool = False) -> None:
    """Reject an unsafe redirect or upload location (SSRF, downgrade).

    Unsafe are the steps from https to http, from a public host to this machine, and from any host to a cloud's metadata
    address. Other private addresses are allowed, because many registries store blobs on another host of their network.
    Addresses are checked as written, see `check_realm`.

    Args:
        source: URL that returned the target.
        target: Absolute URL.
        insecure: The user allowed plain http for the registry; only metadata addresses are then rejected.

    Raises:
        InvalidResponse: The step is unsafe.
    """
    here, there = Origin.of(source), Origin.of(target)
    if here.scheme == "https" and there.scheme == "http" and not insecure:
        raise InvalidResponse(
            f"{here.host} redirects from https to {_for_message(target)}",
            hint="content would be sent unencrypted; the registry's own address (its 'externalurl' or 'http.host') is misconfigured",
        )
    if here.host == there.host:
        return
    if _metadata(there.host) or (there.loopback and not _private(here.host) and not insecure):
        raise InvalidResponse(
            f"{here.host} redirects to {_for_message(target)}, an address of this machine or its network",
            hint="refused: registries have no reason to redirect there",
        )


def check_realm(realm: str, registry_url: str, *, allow_private: bool = False) -> None:
    """Reject an unsafe token server (SSRF, credential forwarding).

    The realm must be an `https` URL, unless the registry itself uses `http`. A metadata address is never allowed, and a
    private or loopback address only for a registry that has one, too. Addresses are checked as written: a name that
    resolves to a private address is not detected.

    Args:
        realm: URL of the token server.
        registry_url: URL of the request that was challenged.
        allow_private: Allow private and loopback addresses for any registry.

    Raises:
        InvalidResponse: The realm is unsafe.
    """
    try:
        there, here = urlsplit(realm), urlsplit(registry_url)
        host, home = (there.hostname or "").rstrip("."), (here.hostname or "").rstrip(".")
        _ = there.port  # raises if it is not a number
        user = "@" in there.netloc
    except ValueError:
        there, here, host, home, user = urlsplit(""), urlsplit(registry_url), "", "", False
    if not re.fullmatch(r"[\x21-\x7e]+", realm) or not _AUTHORITY.match(realm) or not host:
        problem = "which is not an http or https URL"
    elif user:
        problem = "which holds a user name"
    elif there.scheme == "http" and here.scheme != "http":
        problem = "which is not https"
    elif host == home:
        return
    elif _metadata(host):
        problem = "which is a metadata or link-local address"
    elif _private(host) and not _private(home) and not allow_private:
        problem = "which is a private or loopback address"
    else:
        return
    raise InvalidResponse(
        f"{_for_message(registry_url)} requests credentials for {_for_message(realm)!r}, {problem}",
        hint="nothing was sent; if the registry is yours, correct its token realm, or allow private realms",
        url=registry_url,
        host=here.netloc.rpartition("@")[2],
    )


def _for_message(url: str) -> str:
    """Return a URL for a message, redacted and shortened."""
    return shorten(redact(url), 300)


def _address(host: str) -> _Address | None:
    """Return an IP address in any notation (`127.1`, `0x7f000001`), or None for a name."""
    host = host.partition("%")[0].rstrip(".")
    try:
        address: _Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # parses without a DNS request
        except (OSError, ValueError):
            return None
    if isinstance(address, ipaddress.IPv6Address):
        embedded = int(address) > 1 and any(address in network for network in _EMBEDDING)
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if embedded else None
        return inner or address.ipv4_mapped or address.sixtofour or address
    return address


def _loopback(host: str) -> bool:
    """Return True if a host is this machine. RFC 6761 section 6.3."""
    host = host.rstrip(".").lower()
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _private(host: str) -> bool:
    """Return True if a host is this machine or an address of a private network."""
    address = _address(host)
    return _loopback(host) if address is None else not address.is_global or address.is_multicast


def _metadata(host: str) -> bool:
    """Return True if a host serves the credentials of a cloud machine (metadata service)."""
    host = host.rstrip(".").lower()
    address = _address(host)
    return host in _METADATA_NAMES or (address is not None and (address.is_link_local or address in _METADATA))
