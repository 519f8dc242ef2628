"""Where a URL leads: its origin, and which ways from one origin to another are safe. No I/O."""

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

#: Scheme, user, host and port of a URL that everybody reads alike. Backslashes, escapes and spaces in these lead one parser
#: to one host and the next to another: what `urlsplit` takes for a user's name may be the host that urllib3 connects to.
_AUTHORITY = re.compile(
    r"https?://(?:[\w.~!$&'()*+,;=:%-]*@)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+(?:%[\w.~-]+)?\])(?::\d*)?(?=[/?#]|$)",
    re.ASCII | re.IGNORECASE,
)

_NO_PATH = re.compile(r"^https?://[^/?#]+(?=[?#]|$)", re.IGNORECASE)

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Prefixes with an IPv4 address in their last 32 bits: compatible, translated (RFC 2765), and NAT64's (RFC 6052, RFC 8215).
_EMBEDDING = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48")))

#: Where clouds keep a machine's own credentials, beyond link-local 169.254/16: Alibaba, Oracle, Azure, AWS, Google.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})


@frozen
class Origin:
    """Scheme, host and port: what a credential is bound to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of a URL. Raises: InvalidResponse: if it isn't one of http or https, or can be read in two ways."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            # The reason has the host in it, and with it a user's name and password
            raise InvalidResponse(f"{_shown(url)!r} is not a URL") from None
        if parts.scheme in _PORTS and not _AUTHORITY.match(url):
            raise InvalidResponse(
                f"{_shown(url)!r} is written so that programs may read another host in it",
                hint="the registry sent it, and it was not followed; don't trust that registry before its operators explain it",
            )
        if parts.scheme not in _PORTS or not parts.hostname:
            raise InvalidResponse(
                f"{_shown(url)!r} is not an http or https URL", hint="the registry sent it; tell its operators"
            )
        return cls(parts.scheme, parts.hostname.lower(), port or _PORTS[parts.scheme])

    @property
    def loopback(self) -> bool:
        """Whether this machine is meant."""
        return _loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host, with or without port, is this machine.

    >>> is_loopback("localhost:5000"), is_loopback("[::1]:5000"), is_loopback("10.0.0.1")
    (True, True, False)
    """
    return _loopback(urlsplit(f"//{host}").hostname or "")


def join(base: str, location: str) -> str:
    """Where a Location or a Link leads, seen from the URL that gave it; its query stays as it is. RFC 3986 section 5.

    Raises: InvalidResponse: if it can't be read.
    """
    try:
        # A query may follow the host at once; a fragment isn't sent
        return _NO_PATH.sub(r"\g<0>/", urljoin(base, location)).partition("#")[0]
    except ValueError:
        raise InvalidResponse(
            f"{_shown(location)!r} is not a URL", hint="the registry sent it; tell its operators"
        ) from None


def check_redirect(source: str, target: str, *, insecure: bool = False) -> None:
    """Refuse a redirect or an upload location that leads somewhere unsafe.

    From https to http, from a public host to this machine, and from anywhere to a cloud's metadata address; the last
    alone if the user was *insecure* with the host on purpose. Private ranges are left alone: many a registry keeps its
    blobs on a neighbour. Addresses are checked as written, see `check_realm`.

    Raises: InvalidResponse.
    """
    here, there = Origin.of(source), Origin.of(target)
    if here.scheme == "https" and there.scheme == "http" and not insecure:
        raise InvalidResponse(
            f"{here.host} sends us from https to {_shown(target)}",
            hint="content would travel unprotected; the registry's own address (its 'externalurl' or 'http.host') is set up wrong",
        )
    if here.host == there.host:
        return
    if _metadata(there.host) or (there.loopback and not _private(here.host) and not insecure):
        raise InvalidResponse(
            f"{here.host} sends us to {_shown(target)}, an address of this machine or its network",
            hint="a registry has no business there; refused",
        )


def check_realm(realm: str, registry_url: str, *, allow_private: bool = False) -> None:
    """Refuse a token server that a registry must not send credentials to.

    The realm must be an `https` URL, unless the registry itself is asked over `http`. The realm of a registry that
    isn't itself on a private or loopback address may not be on one, unless `allow_private`; none may be a cloud's
    metadata address. Addresses are checked as written: a name that resolves to a private address is not found out.

    Raises:
        InvalidResponse: naming the realm and the registry.
    """
    try:
        there, here = urlsplit(realm), urlsplit(registry_url)
        host, home = (there.hostname or "").rstrip("."), (here.hostname or "").rstrip(".")
        _ = there.port  # raises if it isn't a number
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
        f"{_shown(registry_url)} asks for credentials to be sent to {_shown(realm)!r}, {problem}",
        hint="nothing was sent; if the registry is really yours, have its token realm corrected, or allow private realms",
        url=registry_url,
        host=here.netloc.rpartition("@")[2],
    )


def _shown(url: str) -> str:
    """A URL for a message: without its secrets, and no longer than people read."""
    return shorten(redact(url), 300)


def _address(host: str) -> _Address | None:
    """The IP address that the host spells, in any way that resolvers take (`127.1`, `0x7f000001`), or None."""
    host = host.partition("%")[0].rstrip(".")
    try:
        address: _Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # no request: inet_aton only reads
        except (OSError, ValueError):
            return None
    if isinstance(address, ipaddress.IPv6Address):
        embedded = int(address) > 1 and any(address in network for network in _EMBEDDING)
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if embedded else None
        return inner or address.ipv4_mapped or address.sixtofour or address
    return address


def _loopback(host: str) -> bool:
    """Whether a host name is this machine. RFC 6761 section 6.3."""
    host = host.rstrip(".").lower()
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _private(host: str) -> bool:
    """Whether a host name is this machine or an address that only its network has."""
    address = _address(host)
    return _loopback(host) if address is None else not address.is_global or address.is_multicast


def _metadata(host: str) -> bool:
    """Whether a host name is where a cloud's machine finds its credentials."""
    host = host.rstrip(".").lower()
    address = _address(host)
    return host in _METADATA_NAMES or (address is not None and (address.is_link_local or address in _METADATA))
