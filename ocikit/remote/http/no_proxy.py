"""The variable NO_PROXY, as Go's httpproxy and curl read it.

requests compares suffixes of names and IPv4 networks only. Values are written for all tools of a machine, so ocikit
reads the forms of the others: https://pkg.go.dev/golang.org/x/net/http/httpproxy.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TypeAlias

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")


def is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Return True if a host is reached without a proxy.

    The value has patterns, separated by commas or blanks: `*`; a domain, for itself and its subdomains; `.domain` and
    `*.domain`, for subdomains only; an IP address; a network (CIDR). Names and addresses may have a port. IPv6
    addresses may have brackets.

    Args:
        host: Name or address, without brackets.
        port: Port of the request.
        no_proxy: Value of NO_PROXY.

    >>> is_excluded("ghcr.io", 443, "*.io"), is_excluded("io", 443, "*.io")
    (True, False)
    >>> is_excluded("fd00::7", 5000, "[fd00::]/8"), is_excluded("10.1.2.3", 443, "10.0.0.0/8")
    (True, True)
    """
    name = host.lower().rstrip(".")
    address = _address(name)
    return any(_matches(pattern.lower(), name, address, port) for pattern in re.split(r"[\s,]+", no_proxy) if pattern)


def _matches(pattern: str, name: str, address: _Address | None, port: int) -> bool:
    if pattern == "*":
        return True
    if "/" in pattern:
        return address is not None and _in_network(pattern, address)
    with_port = _PORT.fullmatch(pattern)
    if with_port is not None:
        if int(with_port["port"]) != port:
            return False
        pattern = with_port["host"]
    literal = _address(pattern)
    if literal is not None:
        return literal == address
    pattern = pattern.removeprefix("*") if pattern.startswith("*.") else pattern
    domain = pattern.lstrip(".").rstrip(".")
    if not domain or address is not None:
        return False
    return name.endswith(f".{domain}") or (name == domain and not pattern.startswith("."))


def _in_network(pattern: str, address: _Address) -> bool:
    base, _, length = pattern.rpartition("/")
    if not re.fullmatch(r"[0-9]{1,3}", length):
        return False
    try:
        network = ipaddress.ip_network(f"{base.removeprefix('[').removesuffix(']')}/{length}", strict=False)
    except ValueError:
        return False
    return address in network


def _address(text: str) -> _Address | None:
    """Return the address of a text with or without brackets, or None for a name."""
    try:
        address: _Address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address
