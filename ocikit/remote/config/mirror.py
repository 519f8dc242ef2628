"""Mirrors of registries, and the prefixes of names that settings apply to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, get_args

from attrs import field, frozen

from ocikit import display
from ocikit.errors import InvalidArgument, InvalidReference
from ocikit.spec.arguments import to_texts
from ocikit.spec.reference import RegistryHost, check_name_length, check_repository

#: What a mirror is used for.
Pull: TypeAlias = Literal["all", "digest-only", "tag-only"]


def parse_location(text: str) -> str:
    """Return a registry host, perhaps with the first parts of names on it, in canonical form.

    >>> parse_location("registry-1.docker.io/team/")
    'docker.io/team'

    Raises:
        InvalidReference: The text is a URL, has no host, or an invalid part.
    """
    location = text.rstrip("/") if isinstance(text, str) else ""
    host, slash, path = location.partition("/")
    if not (set(".:") & set(host) or host.lower() == "localhost") or "@" in location or "://" in location:
        raise InvalidReference(
            f"{display.quoted(text)} is not a registry's host or a path on it",
            hint='write it like "mirror.example:5000" or "cache.example/hub", without a scheme',
        )
    name = RegistryHost.parse(host).name
    if not slash:
        return name
    check_repository(path, location)
    check_name_length(name, path)
    return f"{name}/{path}"


def parse_prefix(text: str) -> str:
    """Return a location as `parse_location` does, or `*.` and a domain.

    See containers-registries.conf(5).

    Raises:
        InvalidReference: The text is neither.
    """
    if isinstance(text, str) and text.startswith("*."):
        if not set("/:") & set(text):
            return f"*.{parse_location(f'x.{text[2:]}')[2:]}"
        raise InvalidReference(
            f"{display.quoted(text)} has more than a domain after the asterisk", hint='write it like "*.example.com"'
        )
    return parse_location(text)


@frozen
class Mirror:
    """A location where a registry's content can be read instead.

    Args:
        location: Host, perhaps port, and the path that replaces the mirrored prefix: `cache.example/hub`.
        pull: "digest-only" reads content by digest only and resolves no tags, which the mirror may have outdated.
            "tag-only" is used only for references without a digest. "all" is used for both.
        ns: Send the mirrored registry as `ns=` in each request. distribution-spec spec.md#registry-proxying.
        insecure: Connect without TLS, or accept any certificate.
        final: The content has moved there: neither later mirrors nor the registry itself are used.

    >>> ocikit.Mirror("cache.example/hub", pull="digest-only").location
    'cache.example/hub'
    """

    location: str = field(converter=parse_location)
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

    @property
    def host(self) -> RegistryHost:
        """The host of the location."""
        return RegistryHost(self.location.partition("/")[0])

    @property
    def path(self) -> str:
        """The path of the location, or ""."""
        return self.location.partition("/")[2]


#: Mirrors in order, by registry, by the first parts of names on it, or by `*.` and a domain.
Mirrors: TypeAlias = Mapping[str, Sequence[Mirror | str] | Mirror | str]


def parse_mirrors(mirrors: Mirrors) -> dict[str, tuple[Mirror, ...]]:
    """Return mirrors by canonical prefix.

    Raises:
        InvalidArgument: The value is not a mapping of prefixes to mirrors.
        InvalidReference: A prefix or a location is invalid.
    """
    lists = (
        {prefix: [value] if isinstance(value, str | Mirror) else value for prefix, value in mirrors.items()}
        if isinstance(mirrors, Mapping)
        else None
    )
    if lists is None or not all(isinstance(items, Sequence) for items in lists.values()):
        raise InvalidArgument(
            f"mirrors={display.quoted(mirrors, 80)} is not a mapping of registries to mirrors",
            hint='write it like {"docker.io": ["mirror.example:5000"]}',
        )
    return {
        parse_prefix(prefix): tuple(item if isinstance(item, Mirror) else Mirror(item) for item in items)
        for prefix, items in lists.items()
    }


def parse_prefixes(texts: Iterable[str]) -> frozenset[str]:
    """Return the canonical prefixes.

    Raises:
        InvalidArgument: The value is a single text, or not a collection of texts.
        InvalidReference: One of them is invalid.
    """
    return frozenset(map(parse_prefix, to_texts(texts, "blocked")))


def longest_match(name: str, prefixes: Iterable[str]) -> tuple[str, int]:
    """Return the longest prefix of a name, and the length of the part that it matches.

    The result is `("", 0)` without a match.

    A prefix without wildcard has precedence over `*.` and a domain that matches as much.
    """
    host = name.partition("/")[0]
    match, best = "", (0, False)
    for prefix in prefixes:
        exact = not prefix.startswith("*.")
        if exact:
            matches, length = f"{name}/".startswith(f"{prefix}/"), len(prefix)
        else:
            matches, length = host.endswith(prefix[1:]), len(host)
        if matches and (length, exact) > best:
            match, best = prefix, (length, exact)
    return match, best[0]
