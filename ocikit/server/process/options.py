"""Options of a server process."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterable
from typing import Literal
from urllib.parse import urlsplit

from attrs import field, frozen

from ocikit.display import quoted, readable
from ocikit.errors import InvalidArgument
from ocikit.server.http.settings import Limits, Settings
from ocikit.spec.arguments import check_number
from ocikit.spec.calls import explain_methods

#: The command that installs the packages of the server.
INSTALL_COMMAND = "pip install 'ocikit[server]'"

#: The command that installs the packages of a registry in a database and an object store.
INSTALL_CLUSTER_COMMAND = "pip install 'ocikit[cluster]'"

#: The value of `token_key` for a key that all machines share.
IN_DATABASE = "database"

#: Seconds that requests in progress have to finish at a stop: of a folder, of a registry on several machines, and when a
#: notebook waits for it.
_DRAIN, _DRAIN_CLUSTER, _DRAIN_ATTACHED = 5.0, 60.0, 0.3

#: Seconds before the end of requests in progress at which their connections are closed, so that they end by themselves: a part
#: of an upload that has arrived is stored, and another process can continue at once.
_CUT = 1.5

#: Threads of a worker for each connection to the database, and the most connections.
_THREADS_EACH, _MAX_POOL = 8, 16

#: Options that mean nothing for a registry in a folder.
_CLUSTER_ONLY = ("state", "redirect", "keep_deleted", "pool")


def _strings(values: str | Iterable[str]) -> tuple[str, ...]:
    # Wrap a single string: iterating it would give its characters
    return (values,) if isinstance(values, str) else tuple(values)


def _file_name(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


@explain_methods
@readable
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
        drain: Seconds that requests in progress have to finish at a stop. None means 5 s for a folder, 60 s for a registry on
            several machines.
        drain_delay: Seconds between SIGTERM and the stop. Meanwhile /readyz responds 503, so that a load balancer sends requests
            to other machines.
        state: Folder for the parts of uploads on their way to the object store. None means a temporary one.
        redirect: Send clients to the object store for blobs above 64 KiB ("blobs"), or send all content itself ("never").
        token_key: File with the key that signs tokens, or "database" for one that all machines share. None means the folder of
            the registry, or the database.
        keep_deleted: Seconds that the objects of deleted content are stored. A backup of the database that is younger finds all
            its content.
        pool: Connections of each worker to the database. None means one for 8 threads, 16 at most.

    >>> ocikit.ServerOptions(workers=2).workers
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
    drain: float | None = None
    drain_delay: float = 0.0
    state: str | None = field(default=None, converter=_file_name, metadata={"metavar": "FOLDER"})
    redirect: Literal["never", "blobs"] = "never"
    token_key: str | None = field(default=None, converter=_file_name, metadata={"metavar": "FILE|database"})
    keep_deleted: float = 7 * 24 * 3600.0
    pool: int | None = None

    def __attrs_post_init__(self) -> None:
        """Check the values."""
        check_number(self.workers, "workers", least=1, whole=True)
        for name, minimum in (
            ("collect_every", 0.0),
            ("grace", 0.0),
            ("timeout", 1.0),
            ("drain", 0.1),
            ("drain_delay", 0.0),
            ("keep_deleted", 0.0),
        ):
            if (value := getattr(self, name)) is not None:
                check_number(value, name, least=minimum)
        if self.log_format not in {"json", "text", "none"}:
            raise InvalidArgument(f"unknown log_format={self.log_format!r}", hint="choose from json, text, none")
        if self.pool is not None:
            check_number(self.pool, "pool", least=1, whole=True)
        if self.redirect not in {"never", "blobs"}:
            raise InvalidArgument(f"unknown redirect={self.redirect!r}", hint="choose from never, blobs")
        if self.token_key is not None and not self.token:
            raise InvalidArgument("token_key needs token", hint="add token=True, or --token on the command line")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("tls_cert and tls_key must be given together", hint="add the other file")
        self.settings()

    def settings(self) -> Settings:
        """Return the settings of the registry.

        Raises:
            InvalidArgument: A setting is invalid.

        >>> ocikit.ServerOptions(read_only=True).settings().read_only
        True
        """
        return Settings(
            references=self.references,
            validate=self.validate,
            read_only=self.read_only,
            deletion=frozenset({"manifests", "blobs", "tags"} if self.allow_delete else ()),
            hosts=self.hosts,
            trusted_proxies=self.trusted_proxies,
            metrics=self.metrics,
            redirect=self.redirect == "blobs",
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

    path: str | None = None
    """Folder of the registry; None for one in a database and an object store."""
    metadata: str | None = field(default=None, repr=lambda url: repr(url and masked_url(url)))
    """URL of the database; None for a folder."""
    blobs: str | None = field(default=None, repr=lambda url: repr(url and masked_url(url)))
    """URL of the object store; None for a folder."""
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
    token_secret: bytes | None = field(default=None, repr=False)
    """Key that signs tokens, from the database; None for a file."""

    def __attrs_post_init__(self) -> None:
        """Check the port, and that the options fit the stores.

        Raises:
            InvalidArgument: They do not.
        """
        if not isinstance(self.port, int) or not 0 <= self.port < 65536:
            raise InvalidArgument(
                f"port={quoted(self.port)} is invalid", hint="use a port from 1 to 65535, or 0 for a free port"
            )
        if self.path is not None and (self.metadata is not None or self.blobs is not None):
            raise InvalidArgument(
                "a registry is in a folder, or in a database and an object store",
                hint="leave out the folder, or metadata and blobs",
            )
        if self.metadata is not None and self.blobs is None:
            raise InvalidArgument(
                "blobs is missing: a registry in a database has its content in an object store",
                hint='add blobs="s3://bucket/prefix", or blobs="file:///folder" for a folder that all machines share',
            )
        if self.blobs is not None and self.metadata is None:
            raise InvalidArgument(
                "metadata is missing: a registry in an object store has its rows in a database",
                hint='add metadata="postgresql://user@host/database"',
            )
        if self.clustered:
            if not self.options.sync:
                raise InvalidArgument("sync=False is for a folder only", hint="leave it out")
            return
        defaults = ServerOptions()
        if wrong := [name for name in _CLUSTER_ONLY if getattr(self.options, name) != getattr(defaults, name)]:
            raise InvalidArgument(
                f"{wrong[0]} is for a registry in a database and an object store",
                hint="leave it out, or give metadata and blobs instead of a folder",
            )
        if self.options.token_key == IN_DATABASE:
            raise InvalidArgument(
                "token_key='database' is for a registry in a database", hint="leave it out, or give the path of a file"
            )

    def require_store(self) -> ServerConfig:
        """Return the configuration itself.

        Raises:
            InvalidArgument: It names no store.
        """
        if not (self.path or self.clustered):
            raise InvalidArgument(
                "no registry is named",
                hint="give a folder, or metadata and blobs for one in a database and an object store",
            )
        return self

    @property
    def clustered(self) -> bool:
        """Whether the registry is in a database and an object store."""
        return self.metadata is not None

    @property
    def drain(self) -> float:
        """Seconds that requests in progress have to finish at a stop."""
        if self.options.drain is not None:
            return self.options.drain
        return _DRAIN_ATTACHED if self.attached else _DRAIN_CLUSTER if self.clustered else _DRAIN

    @property
    def cut_after(self) -> float:
        """Seconds after the begin of a stop at which the connections of requests in progress are closed."""
        return self.drain - _CUT if self.drain > 2 * _CUT else self.drain / 2

    @property
    def pool(self) -> int:
        """Connections of each worker to the database."""
        return self.options.pool or min(max(self.threads // _THREADS_EACH, 1), _MAX_POOL)

    @property
    def store(self) -> str:
        """Where the registry is, without user names and passwords."""
        if self.metadata is None or self.blobs is None:
            return self.path or ""
        return f"{masked_url(self.metadata)} and {masked_url(self.blobs)}"

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


def masked_url(url: str) -> str:
    """Return a URL without user name, password and parameters.

    >>> masked_url("postgresql://ada:lovelace@db:5433/registry?sslmode=require")
    'postgresql://db:5433/registry'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an invalid URL"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
