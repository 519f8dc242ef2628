"""Options of a server process."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from typing import Literal

from attrs import field, frozen

from ocikit.errors import InvalidArgument
from ocikit.server.http.settings import Limits, Settings

#: The command that installs the packages of the server.
INSTALL_COMMAND = "pip install 'ocikit[server]'"


def _strings(values: str | Iterable[str]) -> tuple[str, ...]:
    # Wrap a single string: iterating it would give its characters
    return (values,) if isinstance(values, str) else tuple(values)


def _file_name(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


@frozen(kw_only=True)
class ServerOptions:
    """Options of `ocikit.serve` and `python -m ocikit serve`, with their defaults.

    Attributes:
        host: Address to listen on. Other machines cannot reach 127.0.0.1; "0.0.0.0" listens on all interfaces.
        token: Issue bearer tokens for passwords. Clients send the token with further requests.
        allow_anonymous_pull: Allow pulls without a login. This overrides the rules.
        allow_plain_http: Accept passwords from other machines over plain http. An attacker on the network can read them.
        tls_cert: Certificate for https. A PEM file, with the certificate chain.
        tls_key: Private key of the certificate. A PEM file.
        workers: Number of worker processes.
        read_only: Reject every change.
        allow_delete: Accept requests to delete blobs, manifests and tags.
        references: Require the children of a manifest ("strict"), or accept it before them ("sparse").
        validate: Check the types and digests of manifests ("structure"), or also their JSON schema ("schema").
        limits: Maximum of each resource, such as the bytes of a blob.
        hosts: Host names that clients may use. The loopback names are always allowed on a loopback address. Elsewhere every
            name is allowed if none is given.
        trusted_proxies: Addresses or networks of proxies whose X-Forwarded headers are used.
        metrics: Serve Prometheus metrics at /metrics. With users, a request needs the permission to list the catalog.
            Needs the package prometheus-client.
        log_format: Format of the access log on stderr. "none" logs failures only.
        collect_every: Seconds between garbage collections; 0 disables them.
        grace: Seconds that unreferenced content is stored before it is deleted.
        timeout: Seconds without data after which a connection is closed. A transfer must also move 1 KiB a second on average
            over this time. Forms and manifests have shorter limits.
        sync: Wait for the disk before a write is acknowledged. Otherwise a power failure can lose acknowledged content.

    >>> ServerOptions(workers=2).workers
    2
    """

    host: str = "127.0.0.1"
    token: bool = False
    allow_anonymous_pull: bool = False
    allow_plain_http: bool = False
    tls_cert: str | None = field(default=None, converter=_file_name)
    tls_key: str | None = field(default=None, converter=_file_name)
    workers: int = 1
    read_only: bool = False
    allow_delete: bool = field(default=True, metadata={"flag": "no-delete"})
    references: Literal["strict", "sparse"] = "strict"
    validate: Literal["structure", "schema"] = "structure"
    limits: Limits = field(factory=Limits, metadata={"flag": "limit"})
    hosts: tuple[str, ...] = field(default=(), converter=_strings, metadata={"flag": "allow-host"})
    trusted_proxies: tuple[str, ...] = field(default=(), converter=_strings, metadata={"flag": "trusted-proxy"})
    metrics: bool = True
    log_format: Literal["json", "text", "none"] = "none"
    collect_every: float = 3600.0
    grace: float = 3600.0
    timeout: float = 120.0
    sync: bool = True

    def __attrs_post_init__(self) -> None:
        """Check the values."""
        if self.workers < 1:
            raise InvalidArgument(f"workers={self.workers} is invalid", hint="use at least 1")
        for name, minimum in (("collect_every", 0.0), ("grace", 0.0), ("timeout", 1.0)):
            if not minimum <= getattr(self, name) < float("inf"):
                raise InvalidArgument(
                    f"{name}={getattr(self, name)} is invalid", hint=f"use a number of seconds, at least {minimum:g}"
                )
        if self.log_format not in {"json", "text", "none"}:
            raise InvalidArgument(f"unknown log_format={self.log_format!r}", hint="choose from json, text, none")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("tls_cert and tls_key must be given together", hint="add the other file")
        self.settings()

    def settings(self) -> Settings:
        """Return the settings of the registry.

        Raises:
            InvalidArgument: A setting is invalid.
        """
        return Settings(
            references=self.references,
            validate=self.validate,
            read_only=self.read_only,
            deletion=frozenset({"manifests", "blobs", "tags"} if self.allow_delete else ()),
            hosts=self.hosts,
            trusted_proxies=self.trusted_proxies,
            metrics=self.metrics,
            limits=self.limits,
        )


def option_descriptions() -> dict[str, str]:
    """Return the description of each option, from the docstring of `ServerOptions`."""
    _, _, section = inspect.cleandoc(ServerOptions.__doc__ or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


@frozen(kw_only=True)
class ServerConfig:
    """Configuration of one server process."""

    path: str
    """Folder of the registry."""
    port: int = 5000
    """Port to listen on; 0 selects a free port."""
    htpasswd: str | None = None
    """File with users; None disables authentication."""
    rules: str | None = None
    """TOML file with access rules."""
    options: ServerOptions = field(factory=ServerOptions)
    attached: str | None = None
    """Folder of the parent process; the server ends with the parent, which holds the other end of stdin open."""
    scratch: str = ""
    """Temporary folder of one run, shared by its workers."""
    connections: int = 4096
    """Concurrent connections of each worker."""
    threads: int = 512
    """Concurrent requests of each worker."""

    def __attrs_post_init__(self) -> None:
        """Check the port."""
        if not 0 <= self.port < 65536:
            raise InvalidArgument(
                f"port={self.port} is invalid", hint="use a port from 1 to 65535, or 0 for a free port"
            )

    @property
    def name(self) -> str:
        """The host and port, as references on this machine spell it."""
        host = self.options.host
        loopback = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
        return f"{bracketed(loopback.get(host, host))}:{self.port}"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self.options.tls_cert else 'http'}://{self.name}"


def bracketed(host: str) -> str:
    """Return a host for a URL, with brackets around an IPv6 address (RFC 3986 3.2.2)."""
    return f"[{host}]" if ":" in host else host
