"""What a registry asks for: challenges and scopes. No I/O. distribution token.md, RFC 9110 #11."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from attrs import field, frozen

from ocikit.spec.annotations import FrozenMap

_SPACE = re.compile(r"[\s,]*")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - the grammar's `token`: RFC 9110 #5.6.2
_TOKEN68 = re.compile(r"\s+([0-9A-Za-z\-._~+/]+=*)(?=\s*(?:,|$))")
# Unquoted values may hold what the grammar forbids: registries have sent bare URLs.
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^\s,"]*))', re.DOTALL)
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)")
_JUNK = re.compile(r'[^\s,"]+|"')


@frozen(kw_only=True)
class Challenge:
    """One way in that a registry offers.

    >>> (c,) = parse_challenges(['Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull"'])
    >>> c.scheme, c.realm, c.scope
    ('bearer', 'https://auth.example/token', ('repository:a:pull',))
    """

    scheme: str
    """In lower case: "bearer", "basic", or what else the registry said."""
    parameters: FrozenMap[str] = field(factory=FrozenMap)
    """Names in lower case; values unquoted."""
    token68: str = ""
    """What a scheme such as Negotiate has instead of parameters."""

    @property
    def realm(self) -> str:
        """For bearer the URL of the token server, unchecked; "" if missing."""
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        """The registry's name at the token server, or ""."""
        return self.parameters.get("service", "")

    @property
    def scope(self) -> tuple[str, ...]:
        """The scopes that the request needs; empty if the registry doesn't say, as for `/v2/`."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def error(self) -> str:
        """Why a token that was sent isn't enough, such as "insufficient_scope" or "invalid_token", or ""."""
        return self.parameters.get("error", "")

    def __str__(self) -> str:
        def quoted(text: str) -> str:
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

        rest = self.token68 or ", ".join(f"{name}={quoted(value)}" for name, value in self.parameters.items())
        return f"{self.scheme} {rest}" if rest else self.scheme


def parse_challenges(values: Sequence[str]) -> tuple[Challenge, ...]:
    r"""Every challenge in every `WWW-Authenticate` value, in order; what can't be read is passed over. RFC 9110 #11.6.1.

    >>> [c.scheme for c in parse_challenges(['Negotiate, BASIC realm="a \\"b\\"", charset=UTF-8', "Bearer"])]
    ['negotiate', 'basic', 'bearer']
    """
    return tuple(challenge for value in values for challenge in _challenges(value))


def _challenges(value: str) -> list[Challenge]:
    found: list[tuple[str, dict[str, str], str]] = []
    at = 0
    while (at := _SPACE.match(value, at).end()) < len(value):  # type: ignore[union-attr] # it matches nothing, too
        if match := _PARAMETER.match(value, at):
            if found and not found[-1][2]:  # a challenge has a token68 or parameters, not both
                _, parameters, _ = found[-1]
                name = match[1].lower()
                text = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2], flags=re.DOTALL)
                # scope.md asks for "a scope field for each required resource scope"; of others the first one counts.
                if name == "scope" and name in parameters:
                    parameters[name] += f" {text}"
                else:
                    parameters.setdefault(name, text)
            at = match.end()
        elif match := _SCHEME.match(value, at):
            at = match.end()
            token68 = _TOKEN68.match(value, at)
            found.append((match[1].lower(), {}, token68[1] if token68 else ""))
            at = token68.end() if token68 else at
        else:
            at = _JUNK.match(value, at).end()  # type: ignore[union-attr] # the rest is neither space nor comma
    return [Challenge(scheme=s, parameters=FrozenMap(p), token68=t) for s, p, t in found]


def select_challenge(challenges: Iterable[Challenge]) -> Challenge | None:
    """The challenge to answer: bearer before basic; None if there is neither."""
    known = [c for c in challenges if c.scheme in {"bearer", "basic"}]
    # Bearer without a realm can't be answered; it comes last, so that whoever gets it can say so.
    return min(known, key=lambda c: (c.scheme == "bearer" and not c.realm, c.scheme != "bearer"), default=None)


def _unique(actions: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(actions)))


@frozen(kw_only=True)
class Scope:
    """What may be done to one resource. distribution scope.md#resource-scope-grammar.

    >>> str(Scope.repository("library/alpine", "push", "pull"))
    'repository:library/alpine:pull,push'
    """

    resource_type: str
    """ "repository" or "registry"; the whole text of a scope that doesn't follow the grammar."""
    name: str = ""
    actions: tuple[str, ...] = field(default=(), converter=_unique)
    """Sorted, each once; "*" and unknown ones are kept."""

    @classmethod
    def parse(cls, text: str | Scope) -> Scope:
        """The scope that the text spells. The name may hold a colon (`localhost:5000/a`); any text is a scope.

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
        """The scope for a repository; actions are "pull", "push", "delete"."""
        return cls(resource_type="repository", name=name, actions=actions)

    @classmethod
    def catalog(cls) -> Scope:
        """The scope for listing a registry's repositories: `registry:catalog:*`."""
        return cls(resource_type="registry", name="catalog", actions=("*",))

    def covers(self, other: Scope) -> bool:
        """Whether whoever has this scope may do what the other says."""
        same = (self.resource_type, self.name) == (other.resource_type, other.name)
        return same and ("*" in self.actions or set(other.actions) <= set(self.actions))

    def __str__(self) -> str:
        if not self.name and not self.actions:
            return self.resource_type
        return f"{self.resource_type}:{self.name}:{','.join(self.actions)}"


def merge_scopes(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    """One scope per resource with all of its actions; the first resource, which is the target, stays first.

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
