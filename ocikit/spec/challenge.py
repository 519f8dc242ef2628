"""Authentication challenges and scopes. distribution token.md, RFC 9110 section 11."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from ocikit.spec.annotations import FrozenMap, to_strings

_SPACE = re.compile(r"[\s,]*")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - the grammar's `token`, RFC 9110 section 5.6.2
_TOKEN68 = re.compile(r"\s+([0-9A-Za-z\-._~+/]+=*)(?=\s*(?:,|$))")
# Accept characters in unquoted values that the grammar forbids, because registries have sent bare URLs.
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^\s,"]*))', re.DOTALL)
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)")
_JUNK = re.compile(r'[^\s,"]+|"')


@frozen(kw_only=True)
class Challenge:
    """One authentication scheme that a registry offers.

    >>> (c,) = parse_challenges(['Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull"'])
    >>> c.scheme, c.realm, c.scope
    ('bearer', 'https://auth.example/token', ('repository:a:pull',))
    """

    scheme: str
    """The scheme in lower case: "bearer", "basic" or another."""
    parameters: FrozenMap[str] = field(factory=FrozenMap)
    """Parameters with names in lower case and unquoted values."""
    token68: str = ""
    """The value that schemes such as Negotiate have instead of parameters."""

    @property
    def realm(self) -> str:
        """The URL of the token server, not validated; "" if missing."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """The name of the registry on the token server, or ""."""
        return self.parameters.get("service", "")

    @property
    def scope(self) -> tuple[str, ...]:
        """The scopes that the request needs; empty if the registry sent none, as for `/v2/`."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def error(self) -> str:
        """The reason why the token was rejected, such as "insufficient_scope" or "invalid_token", or ""."""
        return self.parameters.get("error", "")

    def __str__(self) -> str:
        def quoted(text: str) -> str:
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

        rest = self.token68 or ", ".join(f"{name}={quoted(value)}" for name, value in self.parameters.items())
        return f"{self.scheme} {rest}" if rest else self.scheme


def parse_challenges(values: Sequence[str]) -> tuple[Challenge, ...]:
    r"""Return the challenges of all `WWW-Authenticate` values, in order.

    See RFC 9110 section 11.6.1.

    Invalid parts are skipped.

    >>> [c.scheme for c in parse_challenges(['Negotiate, BASIC realm="a \\"b\\"", charset=UTF-8', "Bearer"])]
    ['negotiate', 'basic', 'bearer']
    """
    return tuple(challenge for value in values for challenge in _challenges(value))


def _challenges(value: str) -> list[Challenge]:
    results: list[tuple[str, dict[str, str], str]] = []
    position = 0
    while (position := _SPACE.match(value, position).end()) < len(value):  # type: ignore[union-attr] # it matches "" too
        if match := _PARAMETER.match(value, position):
            if results and not results[-1][2]:  # a challenge has a token68 or parameters, not both
                _add_parameter(results[-1][1], match)
            position = match.end()
        elif match := _SCHEME.match(value, position):
            position = match.end()
            token68 = _TOKEN68.match(value, position)
            results.append((match[1].lower(), {}, token68[1] if token68 else ""))
            position = token68.end() if token68 else position
        else:
            position = _JUNK.match(value, position).end()  # type: ignore[union-attr] # the rest is neither space nor comma
    return [Challenge(scheme=s, parameters=FrozenMap(p), token68=t) for s, p, t in results]


def _add_parameter(parameters: dict[str, str], match: re.Match[str]) -> None:
    name = match[1].lower()
    text = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
    # scope.md requires "a scope field for each required resource scope"; of other parameters the first one counts.
    if name == "scope" and name in parameters:
        parameters[name] += f" {text}"
    else:
        parameters.setdefault(name, text)


def select_challenge(challenges: Iterable[Challenge]) -> Challenge | None:
    """Return the challenge to answer: bearer, else basic, else None."""
    known = [c for c in challenges if c.scheme in {"bearer", "basic"}]
    # A bearer challenge without a realm can't be answered. Return it only as the last choice: the caller reports it.
    return min(known, key=lambda c: (c.scheme == "bearer" and not c.realm, c.scheme != "bearer"), default=None)


def _unique(actions: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(to_strings(actions))))


@frozen(kw_only=True)
class Scope:
    """Allowed actions on one resource. distribution scope.md#resource-scope-grammar.

    >>> str(Scope.repository("library/alpine", "push", "pull"))
    'repository:library/alpine:pull,push'
    """

    resource_type: str
    """ "repository" or "registry"; for a scope that violates the grammar its whole text."""
    name: str = ""
    actions: tuple[str, ...] = field(default=(), converter=_unique)
    """Sorted actions without duplicates; "*" and unknown actions are preserved."""

    @classmethod
    def parse(cls, text: str | Scope) -> Scope:
        """Return the scope of a text.

        The name may contain a colon (`localhost:5000/a`); any text is a scope.

        >>> Scope.parse("repository:localhost:5000/a:pull").name
        'localhost:5000/a'
        """
        if isinstance(text, Scope):
            return text
        if text.count(":") < 2:
            return cls(resource_type=text)
        resource_type, _, rest = text.partition(":")
        name, _, actions = rest.rpartition(":")
        return cls(resource_type=resource_type, name=name, actions=[a for a in actions.split(",") if a])

    @classmethod
    def repository(cls, name: str, *actions: str) -> Scope:
        """Return the scope of a repository; actions are "pull", "push" and "delete"."""
        return cls(resource_type="repository", name=name, actions=actions)

    @classmethod
    def catalog(cls) -> Scope:
        """Return the scope for listing a registry's repositories: `registry:catalog:*`."""
        return cls(resource_type="registry", name="catalog", actions=("*",))

    def covers(self, other: Scope) -> bool:
        """Return True if this scope allows all actions of the other one."""
        same = (self.resource_type, self.name) == (other.resource_type, other.name)
        return same and ("*" in self.actions or set(other.actions) <= set(self.actions))

    def __str__(self) -> str:
        if not self.name and not self.actions:
            return self.resource_type
        return f"{self.resource_type}:{self.name}:{','.join(self.actions)}"


def merge_scopes(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """Return one scope per resource with all of its actions.

    The first resource, the target, stays first.

    >>> a, b = Scope.repository("a", "push"), Scope.repository("b", "pull")
    >>> [str(s) for s in merge_scopes([a, b, Scope.repository("a", "pull")])]
    ['repository:a:pull,push', 'repository:b:pull']
    """
    merged: dict[tuple[str, str], Scope] = {}
    for scope in scopes:
        key = scope.resource_type, scope.name
        known = merged[key].actions if key in merged else ()
        merged[key] = Scope(resource_type=scope.resource_type, name=scope.name, actions=(*known, *scope.actions))
    return tuple(merged.values())
