"""Settings and limits of a registry."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal, get_args

from attrs import asdict, field, frozen

from ocikit.errors import InvalidArgument
from ocikit.server.auth.throttle import FAILURES
from ocikit.server.http.request import host_name
from ocikit.spec.document import DOCUMENT_LIMIT

References = Literal["strict", "sparse"]
Validation = Literal["structure", "schema"]

#: Kinds of content that can be deleted.
_DELETABLE = frozenset({"manifests", "blobs", "tags"})


@frozen(kw_only=True)
class Limits:
    """Maximum sizes and numbers; None means unlimited.

    >>> from ocikit.server import Limits
    >>> Limits(blob=10_000_000_000).sessions
    10000
    """

    manifest: int = DOCUMENT_LIMIT
    """Bytes of a manifest; the specification requires 4 MiB. spec.md#pushing-manifests"""
    blob: int | None = None
    """Bytes of a blob."""
    repository: int | None = None
    """Total bytes of a repository: blobs, manifests and unfinished uploads."""
    sessions: int = 10_000
    """Uploads in progress."""
    sessions_each: int = 1_000
    """Uploads in progress of one user, or of one anonymous client's address. Above a limit, idle uploads give way."""
    page: int = 10_000
    """Names in one response; a link leads to the rest."""
    tags: int = 100
    """Tags that one request may set."""
    failures: int = FAILURES
    """Failed logins of one user from one address in five minutes, before further attempts must wait. Above ten times as
    many from one address, its logins are checked one at a time."""

    def __attrs_post_init__(self) -> None:
        """Validate the numbers.

        Raises:
            InvalidArgument: A limit is below 1.
        """
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise InvalidArgument(
                    f"limit {name}={value} is below 1", hint="use 1 or more; read_only=True rejects all pushes"
                )


def _strings(names: Iterable[str]) -> tuple[str, ...]:
    """Wrap a single string: iterating it would allow each of its characters."""
    return (names,) if isinstance(names, str) else tuple(names)


def _hosts(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(host_name(name) for name in _strings(names))


def _proxies(addresses: Iterable[str]) -> tuple[str, ...]:
    """Check the networks.

    Raises:
        InvalidArgument: One is invalid.
    """
    for address in (proxies := _strings(addresses)):
        try:
            # WSGI servers report "" for a Unix socket
            ipaddress.ip_network(address or "::", strict=False)
        except ValueError as error:
            raise InvalidArgument(
                f"trusted proxy {address!r} is not an address", hint='use an address, or a network such as "10.0.0.0/8"'
            ) from error
    return proxies


def _deletable(names: Iterable[str]) -> frozenset[str]:
    kinds = frozenset(_strings(names))
    if unknown := kinds - _DELETABLE:
        raise InvalidArgument(f"deletion of {sorted(unknown)} is unknown", hint="choose from manifests, blobs, tags")
    return kinds


@frozen(kw_only=True)
class Settings:
    """Behaviour of a registry.

    >>> from ocikit.server import Application, Limits, Settings, memory_storage
    >>> application = Application(memory_storage(), settings=Settings(read_only=True, limits=Limits(page=100)))
    """

    references: References = "strict"
    """ "strict": manifests are accepted only if their children exist. "sparse": children may be missing."""
    validate: Validation = "structure"
    """ "structure": types and digests of manifests are checked. "schema": also the specification's JSON schemas."""
    read_only: bool = False
    """Whether all changes are rejected."""
    deletion: frozenset[str] = field(default=_DELETABLE, converter=_deletable)
    """The kinds of content that may be deleted."""
    delete_referenced: bool = False
    """Whether blobs that a manifest references may be deleted."""
    names: str = ""
    """A regular expression that repository names must match completely for a push; "" for any name."""
    hosts: tuple[str, ...] = field(default=(), converter=_hosts)
    """The host names, without ports, that clients may use; none for any.

    Set it for a registry on loopback to prevent DNS rebinding: a web page points its own name at this machine, and the
    browser sends the page's requests to the registry."""
    trusted_proxies: tuple[str, ...] = field(default=(), converter=_proxies)
    """Addresses of proxies, or networks such as "10.0.0.0/8", whose X-Forwarded headers are used."""
    catalog: bool = True
    """Whether `/v2/_catalog` lists repositories."""
    metrics: bool = True
    """Whether `/metrics` serves metrics for Prometheus."""
    redirect: bool = False
    """Whether clients are sent to the object store for blobs above 64 KiB, if the storage has URLs for them."""
    limits: Limits = field(factory=Limits)

    def __attrs_post_init__(self) -> None:
        """Validate the values.

        Raises:
            InvalidArgument: A value is invalid.
        """
        for name, value, choices in (
            ("references", self.references, get_args(References)),
            ("validate", self.validate, get_args(Validation)),
        ):
            if value not in choices:
                raise InvalidArgument(f"{name}={value!r} is unknown", hint=f"choose from {', '.join(choices)}")
        try:
            re.compile(self.names)
        except re.error as error:
            raise InvalidArgument(
                f"names={self.names!r} is not a regular expression: {error}", hint="escape special characters"
            ) from error
