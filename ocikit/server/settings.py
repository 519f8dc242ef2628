"""What a registry allows: switches and limits, each with its reason."""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import field, frozen

from ocikit.errors import InvalidArgument
from ocikit.spec.document import DOCUMENT_LIMIT

__all__ = ["Limits", "Settings"]


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


def _actions(names: Iterable[str]) -> frozenset[str]:
    found = frozenset(names)
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
    """A regular expression that names of new repositories must match as a whole; "" for any."""
    hosts: tuple[str, ...] = ()
    """The names, without ports, that clients may call this registry by; none for any. A web page can give its own name an
    address on this machine, and then speak to whatever listens here: a registry on loopback should say who it is."""
    trusted_proxies: tuple[str, ...] = ()
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
