"""How to reach registries: timeouts, patience, proxies and certificates as one value."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import requests
import requests.adapters
from attrs import field, frozen

from ocikit._version import __version__

__all__ = ["USER_AGENT", "Network"]

USER_AGENT: Final = f"ocikit/{__version__} (python {platform.python_version()}; requests {requests.__version__})"


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
    """A client certificate: one file, or certificate and key. Shown to registries only, not to where they redirect."""
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    """By scheme; None reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY."""
    connect_timeout: float = 10.0
    """Seconds."""
    read_timeout: float = 60.0
    """Seconds without a byte; the answer to an upload may take five times as long, while the registry stores it."""
    total_timeout: float | None = None
    """Seconds for one request with its retries, or for one blob with its resumptions; None sets no limit."""
    retries: int = 4
    """Further tries after a failure that may pass."""
    max_wait: float = 120.0
    """Seconds to wait in all for one request's retries; a registry that asks for more gets an error instead."""
    connections: int = 8
    """Kept open per host."""
    user_agent: str = USER_AGENT
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    """Sent along to registries only, not to where they redirect."""
    adapter: Callable[[str], requests.adapters.BaseAdapter] | None = field(default=None, repr=False)
    """Gives an adapter of requests for an origin such as "https://ghcr.io", to be used instead of ours."""
    schemes: Mapping[str, str] = field(factory=dict)
    """"http" or "https" for hosts where it is known; otherwise https, or what a loopback host answers to."""
