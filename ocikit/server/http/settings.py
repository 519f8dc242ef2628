"""What a registry allows: switches and limits, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import asdict, field, frozen

from ocikit.errors import InvalidArgument
from ocikit.server.auth.throttle import FAILURES
from ocikit.server.http.request import host_name
from ocikit.spec.document import DOCUMENT_LIMIT


@frozen(kw_only=True)
class Limits:
    """The most of each thing. None is no limit."""

    manifest: int = DOCUMENT_LIMIT
    """Bytes of a manifest; the specification asks for 4 MiB. spec.md#pushing-manifests"""
    blob: int | None = None
    """Bytes of a blob."""
    repository: int | None = None
    """Bytes of a repository's blobs, together."""
    sessions: int = 10_000
    """Uploads under way."""
    sessions_each: int = 1_000
    """Uploads under way, of one user; without users, of everybody."""
    page: int = 10_000
    """Names in one answer; longer lists go on at a link."""
    tags: int = 100
    """Tags that one request may set."""
    failures: int = FAILURES
    """Wrong passwords of one user from one address in five minutes; ten times as many from one address. Then they wait."""

    def __attrs_post_init__(self) -> None:
        """Check the numbers."""
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise InvalidArgument(f"limit {name}={value}", hint="1 is the least; a registry can be read_only")


def _texts(names: Iterable[str]) -> tuple[str, ...]:
    """One text is one item: a string is a collection of its parts, too, and would let in whoever is a part of it."""
    return (names,) if isinstance(names, str) else tuple(names)


def _hosts(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(host_name(name) for name in _texts(names))


def _actions(names: Iterable[str]) -> frozenset[str]:
    found = frozenset(_texts(names))
    if strange := found - {"manifests", "blobs", "tags"}:
        raise InvalidArgument(f"deletion of {sorted(strange)}", hint="choose from manifests, blobs, tags")
    return found


@frozen(kw_only=True)
class Settings:
    """How a registry behaves."""

    references: str = "strict"
    """ "strict": a manifest is taken only after what it references. "sparse": before it, too."""
    validate: str = "structure"
    """ "structure": types and digests of manifests are checked. "schema": the specification's JSON schemas, too."""
    read_only: bool = False
    """Whether every change is refused."""
    deletion: frozenset[str] = field(default=frozenset({"manifests", "blobs", "tags"}), converter=_actions)
    """What may be deleted."""
    delete_referenced: bool = False
    """Whether a blob may be deleted that a manifest still references."""
    names: str = ""
    """A regular expression that names of repositories must match as a whole to be pushed to; "" for any."""
    hosts: tuple[str, ...] = field(default=(), converter=_hosts)
    """The names, without ports, that clients may call this registry by; none for any. A web page can give its own name an
    address on this machine, and then speak to whatever listens here: a registry on loopback should say who it is."""
    trusted_proxies: tuple[str, ...] = field(default=(), converter=_texts)
    """Addresses of proxies whose X-Forwarded headers are believed."""
    catalog: bool = True
    """Whether `/v2/_catalog` lists repositories."""
    metrics: bool = True
    """Whether `/metrics` tells Prometheus."""
    limits: Limits = field(factory=Limits)

    def __attrs_post_init__(self) -> None:
        """Check the words."""
        for name, value, words in (
            ("references", self.references, ("strict", "sparse")),
            ("validate", self.validate, ("structure", "schema")),
        ):
            if value not in words:
                raise InvalidArgument(f"{name}={value!r}", hint=f"choose from {', '.join(words)}")
        try:
            re.compile(self.names)
        except re.error as error:
            raise InvalidArgument(f"names={self.names!r} is not a regular expression: {error}") from error
