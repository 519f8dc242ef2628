"""Network settings: timeouts, retries, proxies, certificates and mirrors."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Self

import attrs
import requests
import requests.adapters
from attrs import field, frozen

from ocikit import display
from ocikit._version import __version__
from ocikit.errors import InvalidArgument
from ocikit.remote.config.mirror import Mirror, longest_match, parse_mirrors, parse_prefixes
from ocikit.spec.arguments import check_mapping, check_number, to_texts
from ocikit.spec.calls import explain_methods
from ocikit.spec.reference import Reference

USER_AGENT: Final = f"ocikit/{__version__} (python {platform.python_version()}; requests {requests.__version__})"


#: Fields that are not shown: they may contain secrets, or are functions.
_SECRET: Final = frozenset({"certificate", "proxies", "headers", "adapter"})

#: Fields that pickles do not have.
_UNPICKLED: Final = frozenset({"headers", "proxies", "adapter"})


def _restore(settings: dict[str, Any]) -> Network:
    return Network(**settings)


def _hosts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(to_texts(names, "insecure"))


@frozen
class Route:
    """The result of looking up a repository in the mirror settings.

    >>> network = ocikit.Network(blocked=["docker.io"])
    >>> network.route(ocikit.Reference.parse("alpine:3.20"))
    Route(blocked=True, mirrors=())
    """

    blocked: bool
    """True if the repository must not be used."""
    mirrors: tuple[tuple[Mirror, str], ...] = ()
    """The mirrors in order, each with the repository's name on it."""


@explain_methods
@frozen(kw_only=True, repr=False)
class Network(display.Displayable):
    """Network settings of a session.

    A pickle has neither `headers`, `proxies` nor `adapter`: the first two may contain secrets.

    Args:
        insecure: Hosts that may be reached without TLS or with any certificate.
        ca: File of CA certificates to trust in addition to the default ones.
        certificate: A client certificate: one file, or certificate and key. It is used for registries only, not for
            redirects to other hosts.
        proxies: Proxy URLs by scheme. None reads HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
        connect_timeout: Seconds to connect.
        read_timeout: Seconds without data. The response to an upload may take five times as long, while the registry
            stores it.
        total_timeout: Seconds for one request with its retries, or for one upload or download of a blob with its
            resumptions, including its token. None sets no limit. The received part of a blob is stored, and the next
            call resumes it.
        retries: Retries after a transient failure.
        max_wait: Seconds to wait in all for the retries of one request. If the registry demands a longer wait, the
            request fails.
        connections: Connections per host that are kept open.
        ranges: Whether idle workers of a transfer request ranges of a large blob in parallel. A host that answers
            otherwise than with the requested range gets no further such requests in the session.
        user_agent: The User-Agent header.
        headers: Additional headers. They are sent to registries only, not to redirects to other hosts.
        adapter: Function that returns the adapter of requests for an origin such as "https://ghcr.io".
        schemes: "http" or "https" by host. Other hosts use https, except that loopback hosts are probed.
        mirrors: Mirrors in order, by registry (`docker.io`) or by the first parts of names (`quay.io/team`; the longest
            match counts): hosts with paths, or `Mirror`. Manifests and blobs are read from mirrors first. A mirror gets
            its own credentials only, and neither `headers` nor `certificate`. Tag lists, referrers and writes use the
            registry itself, as does `Session.repository`.
        blocked: Registries or first parts of names that must not be used. Longer prefixes in `mirrors` are exceptions.

    >>> ocikit.Network(total_timeout=600, mirrors={"docker.io": ocikit.Mirror("mirror.example:5000")}).retries
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
    ranges: bool = True
    user_agent: str = USER_AGENT
    headers: Mapping[str, str] = field(factory=dict, repr=False)
    adapter: Callable[[str], requests.adapters.BaseAdapter] | None = field(default=None, repr=False)
    schemes: Mapping[str, str] = field(factory=dict)
    mirrors: Mapping[str, tuple[Mirror, ...]] = field(factory=dict, converter=parse_mirrors)
    blocked: frozenset[str] = field(default=frozenset(), converter=parse_prefixes)

    def __attrs_post_init__(self) -> None:
        for name in ("connect_timeout", "read_timeout", "total_timeout"):
            if (seconds := getattr(self, name)) is not None or name != "total_timeout":
                check_number(seconds, name, least=0.001)
        check_number(self.max_wait, "max_wait", least=0)
        check_number(self.retries, "retries", least=0, whole=True)
        check_number(self.connections, "connections", least=1, whole=True)
        check_mapping(self.headers, "headers", '{"X-Name": "value"}')
        check_mapping(self.schemes, "schemes", '{"registry.example": "http"}')
        if self.proxies is not None:
            check_mapping(self.proxies, "proxies", '{"https": "http://proxy.example:3128"}')
        for name in ("ca", "certificate"):
            value = getattr(self, name)
            parts = value if name == "certificate" and isinstance(value, tuple) and len(value) == 2 else (value,)
            if not all(part is None or isinstance(part, str | os.PathLike) for part in parts):
                raise InvalidArgument(
                    f"{name} is a {type(value).__name__}, not the path of a file",
                    hint='write it like certificate=("client.cert", "client.key")'
                    if name == "certificate"
                    else 'write it like ca="ca.pem"',
                )

    def __rich_repr__(self) -> display.Description:
        defaults = Network()
        for item in attrs.fields(Network):
            if item.name not in _SECRET:
                yield item.name, getattr(self, item.name), getattr(defaults, item.name)

    def _card_title(self) -> object:
        return "network settings"

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield "timeouts", f"{self.connect_timeout:g} s to connect, {self.read_timeout:g} s without data"
        if self.total_timeout is not None:
            yield "total", f"{self.total_timeout:g} s for a request with its retries"
        yield "retries", f"{self.retries}, after at most {self.max_wait:g} s of waiting"
        yield "connections", f"{self.connections} for each host"
        if self.ca is not None:
            yield "certificates", self.ca
        for name in ("insecure", "blocked"):
            if hosts := getattr(self, name):
                yield name, sorted(hosts)
        if self.schemes:
            yield "schemes", self.schemes

    def _sections(self) -> Iterator[display.Section]:
        if self.mirrors:
            rows = ((name, ", ".join(m.location for m in mirrors)) for name, mirrors in self.mirrors.items())
            yield display.Section(title="mirrors", headers=("name", "mirrors"), rows=rows, count=len(self.mirrors))

    @classmethod
    def from_registries_conf(cls, path: str | os.PathLike[str] | None = None, **settings: Any) -> Self:
        """Return settings with the mirrors, blocked and insecure registries of podman.

        See containers-registries.conf(5).

        The file is read only by this call. Short names, search registries and helpers are ignored and logged.

        Args:
            path: The file. None is `~/.config/containers/registries.conf`, else the one in `/etc/containers`, with the
                files in the folder `registries.conf.d` next to it.
            settings: Further fields, which are merged with those of the file.

        Raises:
            NotFound: The file does not exist.
            InvalidDocument: The file is invalid; the message has the path in it.
            InvalidArgument: A setting has the wrong type.

        >>> from pathlib import Path
        >>> size = Path("registries.conf").write_text('''
        ... [[registry]]
        ... location = "docker.io"
        ... blocked = true
        ... ''')
        >>> ocikit.Network.from_registries_conf("registries.conf").blocked
        frozenset({'docker.io'})
        """
        from ocikit.remote.config.registries_conf import (  # noqa: PLC0415 - 3 ms of import time, mostly tomllib
            load_registries_conf,
        )

        conf = load_registries_conf(path)
        return cls(
            **settings
            | {
                "mirrors": {**conf.mirrors, **parse_mirrors(settings.get("mirrors", {}))},
                "blocked": conf.blocked | parse_prefixes(settings.get("blocked", ())),
                "insecure": conf.insecure | _hosts(settings.get("insecure", ())),
            }
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Headers and proxies may contain secrets, and adapters belong to this process
        kept = {name: value for name, value in attrs.asdict(self, recurse=False).items() if name not in _UNPICKLED}
        return _restore, (kept,)

    def __deepcopy__(self, memo: object) -> Network:
        return self

    def is_blocked(self, name: str) -> bool:
        """Return True if a registry, or a repository with its registry, must not be used.

        >>> network = ocikit.Network(blocked=["docker.io"])
        >>> network.is_blocked("docker.io/library/alpine"), network.is_blocked("ghcr.io/org/data")
        (True, False)
        """
        return bool(self.blocked) and longest_match(name, (*self.mirrors, *self.blocked))[0] in self.blocked

    def route(self, reference: Reference) -> Route:
        """Return whether a reference's repository is blocked, and its mirrors.

        >>> network = ocikit.Network(mirrors={"docker.io": ["mirror.example:5000"]})
        >>> route = network.route(ocikit.Reference.parse("alpine:3.20"))
        >>> [(mirror.location, name) for mirror, name in route.mirrors]
        [('mirror.example:5000', 'library/alpine')]
        """
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
