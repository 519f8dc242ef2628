"""How to reach registries: timeouts, patience, proxies, certificates and mirrors as one value."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

import requests
import requests.adapters
from attrs import field, frozen

from ocikit._version import __version__
from ocikit.remote.config.mirror import Mirror, longest_match, parse_mirrors, parse_prefixes
from ocikit.remote.config.registries_conf import load_registries_conf
from ocikit.spec.reference import Reference

USER_AGENT: Final = f"ocikit/{__version__} (python {platform.python_version()}; requests {requests.__version__})"


def _hosts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


@frozen
class Route:
    """Where a repository may be read."""

    blocked: bool
    mirrors: tuple[tuple[Mirror, str], ...] = ()
    """The mirrors in order, each with the repository's name on it."""


@frozen(kw_only=True)
class Network:
    """How to reach registries; one value for a session.

    Args:
        insecure: hosts that may be spoken to without TLS, or with a certificate that nobody vouches for.
        ca: a file of certificates to trust besides the usual ones.
        certificate: a client certificate: one file, or certificate and key. Shown to registries only, not to where
            they redirect.
        proxies: by scheme; None reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
        connect_timeout: seconds.
        read_timeout: seconds without a byte; the answer to an upload may take five times as long, while the registry
            stores it.
        total_timeout: seconds for one request with its retries, or for one blob with its resumptions, both ways, and
            for the token that it needs; None sets no limit. What was received of a blob is kept, and resumed by the
            next call.
        retries: further tries after a failure that may pass.
        max_wait: seconds to wait in all for one request's retries; a registry that asks for more gets an error
            instead.
        connections: kept open per host.
        user_agent: how we call ourselves.
        headers: sent along to registries only, not to where they redirect.
        adapter: gives an adapter of requests for an origin such as "https://ghcr.io", to be used instead of ours.
        schemes: "http" or "https" for hosts where it is known; otherwise https, or what a loopback host answers to.
        mirrors: where manifests and blobs are read first, in order, by registry (`docker.io`) or by the first parts of
            names (`quay.io/team`, the longest counts): hosts with paths, or `Mirror`. A mirror gets its own credentials
            only, and neither `headers` nor `certificate`. Tags are listed, referrers looked up, and everything is
            written at the registry itself, which is also what `Session.repository` gives.
        blocked: registries, or first parts of names, that must not be asked; longer ones in `mirrors` are exceptions.

    >>> Network(total_timeout=600, mirrors={"docker.io": Mirror("mirror.example:5000")}).retries
    4
    """

    insecure: frozenset[str] = field(default=frozenset(), converter=_hosts)
    ca: str | None = None
    certificate: str | tuple[str, str] | None = field(default=None, repr=False)
    proxies: Mapping[str, str] | None = field(default=None, repr=False)
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    total_timeout: float | None = None
    retries: int = 4
    max_wait: float = 120.0
    connections: int = 8
    user_agent: str = USER_AGENT
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    adapter: Callable[[str], requests.adapters.BaseAdapter] | None = field(default=None, repr=False)
    schemes: Mapping[str, str] = field(factory=dict)
    mirrors: Mapping[str, tuple[Mirror, ...]] = field(factory=dict, converter=parse_mirrors)
    blocked: frozenset[str] = field(default=frozenset(), converter=parse_prefixes)

    @classmethod
    def from_registries_conf(cls, path: str | os.PathLike[str] | None = None, **settings: Any) -> Self:
        """Mirrors, blocked and insecure registries as podman and buildah know them. containers-registries.conf(5).

        It is read when this is called, and never else. Short names, search registries and helpers are ignored, which
        the log says.

        Args:
            path: the file; None is `~/.config/containers/registries.conf`, else the one in `/etc/containers`, with the
                folders `registries.conf.d` beside.
            settings: further fields; they count beside what the file says.

        Raises:
            NotFound: if there is no such file. InvalidDocument: with the place in it that is wrong.
        """
        found = load_registries_conf(path)
        return cls(
            **settings
            | {
                "mirrors": {**found.mirrors, **parse_mirrors(settings.get("mirrors", {}))},
                "blocked": found.blocked | parse_prefixes(settings.get("blocked", ())),
                "insecure": found.insecure | _hosts(settings.get("insecure", ())),
            }
        )

    def is_blocked(self, name: str) -> bool:
        """Return True if a registry, or a repository with its registry, must not be used."""
        return bool(self.blocked) and longest_match(name, (*self.mirrors, *self.blocked))[0] in self.blocked

    def route(self, reference: Reference) -> Route:
        """Return whether a reference's repository is blocked, and its mirrors."""
        if not (self.mirrors or self.blocked):
            return Route(blocked=False)
        prefix, length = longest_match(reference.name, (*self.mirrors, *self.blocked))
        rest = reference.name[length:].lstrip("/")
        mirrors = []
        for mirror in self.mirrors.get(prefix, ()):
            if name := "/".join(filter(None, (mirror.path, rest))):
                mirrors.append((mirror, name))
            if mirror.final:
                break
        return Route(blocked=prefix in self.blocked, mirrors=tuple(mirrors))
