"""How to reach registries: timeouts, patience, proxies, certificates and mirrors as one value."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Self, TypeAlias, get_args

import requests
import requests.adapters
from attrs import field, frozen

from ocikit import display
from ocikit._version import __version__
from ocikit.errors import InvalidArgument, InvalidReference
from ocikit.spec.reference import Reference

USER_AGENT: Final = f"ocikit/{__version__} (python {platform.python_version()}; requests {requests.__version__})"


#: What a mirror is asked for.
Pull: TypeAlias = Literal["all", "digest-only", "tag-only"]


def _hosts(names: Iterable[str]) -> frozenset[str]:
    return frozenset(names)


def _place(text: str) -> str:
    """A host, perhaps with the first parts of names there. Raises: InvalidReference."""
    place = text.rstrip("/") if isinstance(text, str) else ""
    first = place.partition("/")[0]
    if not (set(".:") & set(first) or first.lower() == "localhost") or "@" in place or "://" in place:
        raise InvalidReference(
            f"{display.quoted(text)} is not a registry's host or a place in it",
            hint='write it like "mirror.example:5000" or "cache.example/hub", without a scheme',
        )
    # Two parts behind it, lest a host alone is taken for a name in Docker Hub's library
    return Reference.parse(f"{place}/x/x").name.removesuffix("/x/x")


def _prefix(text: str) -> str:
    """As `_place`, or `*.` and a domain. containers-registries.conf(5)."""
    if isinstance(text, str) and text.startswith("*."):
        if not set("/:") & set(text):
            return f"*.{_place(f'x.{text[2:]}')[2:]}"
        raise InvalidReference(
            f"{display.quoted(text)} has more than a domain behind the asterisk", hint='write it like "*.example.com"'
        )
    return _place(text)


def _prefixes(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(map(_prefix, texts))


@frozen
class Mirror:
    """Where a registry's content can be read, too.

    Args:
        location: host and perhaps port, and the path that takes the place of what is mirrored: `cache.example/hub`.
        pull: "digest-only" is never asked what a tag names, which it may not have heard of yet; "tag-only" is asked
            only for references without a digest; "all" is asked for both.
        ns: tell it the registry that is meant, as `ns=` in each request. distribution-spec spec.md#registry-proxying.
        insecure: speak to it without TLS, or with a certificate that nobody vouches for.
        final: the content has moved there: nothing is asked after it, the registry neither.

    >>> Mirror("cache.example/hub", pull="digest-only").location
    'cache.example/hub'
    """

    location: str = field(converter=_place)
    pull: Pull = field(default="all", kw_only=True)
    ns: bool = field(default=False, kw_only=True)
    insecure: bool = field(default=False, kw_only=True)
    final: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.pull not in get_args(Pull) or (self.final and self.pull != "all"):
            raise InvalidArgument(
                f"pull={display.quoted(self.pull, 60)} for the mirror {self.location}",
                hint=f'one of {display.join_limited(get_args(Pull))}; a final one takes "all"',
            )


#: Mirrors as they are given: in order, by registry, by the first parts of names in it, or by `*.` and a domain.
Mirrors: TypeAlias = Mapping[str, Sequence[Mirror | str] | Mirror | str]


def _mirrors(given: Mirrors) -> dict[str, tuple[Mirror, ...]]:
    many = (
        {p: [m] if isinstance(m, str | Mirror) else m for p, m in given.items()} if isinstance(given, Mapping) else None
    )
    if many is None or not all(isinstance(some, Sequence) for some in many.values()):
        raise InvalidArgument(
            f"mirrors={display.quoted(given, 80)} doesn't say which registry has which mirrors",
            hint='write it like {"docker.io": ["mirror.example:5000"]}',
        )
    return {_prefix(p): tuple(m if isinstance(m, Mirror) else Mirror(m) for m in some) for p, some in many.items()}


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
    mirrors: Mapping[str, tuple[Mirror, ...]] = field(factory=dict, converter=_mirrors)
    blocked: frozenset[str] = field(default=frozenset(), converter=_prefixes)

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
        from ocikit.remote.config.registries_conf import read  # noqa: PLC0415 - it makes values of this module; few sessions ask

        found = read(path)
        return cls(
            **settings
            | {
                "mirrors": {**found.mirrors, **_mirrors(settings.get("mirrors", {}))},
                "blocked": found.blocked | _prefixes(settings.get("blocked", ())),
                "insecure": found.insecure | _hosts(settings.get("insecure", ())),
            }
        )

    def is_blocked(self, name: str) -> bool:
        """Whether a registry, or a repository with its registry, must not be asked."""
        return bool(self.blocked) and self._matching(name)[0] in self.blocked

    def route(self, reference: Reference) -> tuple[tuple[Mirror, str], ...]:
        """The mirrors of a reference's repository, and its name at each."""
        if not self.mirrors:
            return ()
        prefix, length = self._matching(reference.name)
        rest = reference.name[length:].lstrip("/")
        found = []
        for mirror in self.mirrors.get(prefix, ()):
            path = mirror.location.partition("/")[2]
            if name := "/".join(filter(None, (path, rest))):
                found.append((mirror, name))
            if mirror.final:
                break
        return tuple(found)

    def _matching(self, name: str) -> tuple[str, int]:
        """The longest prefix of a name that there are settings for, and how much of the name it stands for."""
        host = name.partition("/")[0]
        found, best = "", (0, False)
        for prefix in (*self.mirrors, *self.blocked):
            if prefix.startswith("*."):
                fits, length = host.endswith(prefix[1:]), len(host)
            else:
                fits, length = f"{name}/".startswith(f"{prefix}/"), len(prefix)
            if fits and (rank := (length, not prefix.startswith("*."))) > best:
                found, best = prefix, rank
        return found, best[0]
