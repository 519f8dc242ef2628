"""What a registry asks for and what it gave: challenges, scopes, tokens. No I/O. distribution token.md, RFC 9110 #11."""

from __future__ import annotations

import ipaddress
import json
import math
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from threading import Lock
from typing import Any, NoReturn, TypeAlias
from urllib.parse import urlsplit

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import InvalidResponse, redact
from ocikit.spec.annotations import FrozenMap

__all__ = [
    "TOKEN_LIMIT",
    "Challenge",
    "Scope",
    "Token",
    "TokenCache",
    "TokenKey",
    "check_realm",
    "merge_scopes",
    "parse_challenges",
    "preferred",
]

TOKEN_LIMIT = 1 << 20  # bytes of a token response; containers/image allows the same, others less
LIFETIME = 60.0  # seconds: token.md, for answers without expires_in, and the least that a token may have to live
MARGIN = 10.0  # seconds before its expiry at which a token is renewed: a request takes time to arrive
_LONGEST = 365 * 86400.0  # seconds; what a server claims beyond that is no fact

_SPACE = re.compile(r"[\s,]*")
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - the grammar's `token`: RFC 9110 #5.6.2
_TOKEN68 = re.compile(r"\s+([0-9A-Za-z\-._~+/]+=*)(?=\s*(?:,|$))")
# Unquoted values may hold what the grammar forbids: registries have sent bare URLs.
_PARAMETER = re.compile(rf'({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"?|([^\s,"]*))', re.DOTALL)
_SCHEME = re.compile(rf"({_TOKEN})(?=\s|,|$)")
_JUNK = re.compile(r'[^\s,"]+|"')
#: What may follow "Bearer " in a header; anything else could smuggle in a header of its own. RFC 6750 #2.1, widened.
_BEARER = re.compile(r"[\x21-\x7e]+")


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
        """For bearer the URL of the token server, unchecked: see `check_realm`; "" if missing."""
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
            if found:
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


def preferred(challenges: Iterable[Challenge]) -> Challenge | None:
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


@frozen(kw_only=True)
class Token:
    """A bearer token and when it ends. It refuses to be pickled: it is a secret."""

    value: str = field(repr=False)
    expires_at: float
    """Seconds since the epoch, by this machine's clock. (The monotonic clock stands still while a laptop sleeps.)"""
    refresh_token: str = field(default="", repr=False)
    """For the token server only; kept in memory, never stored. "" if none came."""

    @classmethod
    def parse(cls, body: bytes, now: float, *, url: str = "", host: str = "") -> Token:
        """The token in a token server's answer. distribution token.md#token-response-fields, oauth.md#response-fields.

        `now` is when the answer came, in seconds since the epoch. A token counts as fresh for `expires_in` from its
        `issued_at`, but never longer than from `now`, and never shorter than 60 seconds from `now`, which is what the
        specification promises: a server with a wrong clock can neither prolong a token nor have it fetched each time.

        Raises:
            InvalidResponse: if it isn't JSON, is over 1 MiB, or has neither `token` nor `access_token`.
        """
        if len(body) > TOKEN_LIMIT:
            _refuse(f"is over {TOKEN_LIMIT} bytes", url, host)
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        # Raised out here: a JSONDecodeError in the chain would carry the body, and with it what may be secret.
        if not isinstance(answer, dict):
            _refuse("is not a JSON object", url, host)
        # ACR sends only access_token; others send token, or both, or one of them empty.
        value = next((v for v in (answer.get("token"), answer.get("access_token")) if isinstance(v, str) and v), "")
        if not value:
            _refuse("has neither token nor access_token", url, host)
        if not _BEARER.fullmatch(value):
            _refuse("holds a token with characters that no header may have", url, host)
        lifetime = max(LIFETIME, _seconds(answer.get("expires_in")))
        age = max(0.0, now - _epoch(answer.get("issued_at"), now))
        refresh = answer.get("refresh_token")
        return cls(
            value=value,
            expires_at=now + max(LIFETIME, lifetime - age),
            refresh_token=refresh if isinstance(refresh, str) else "",
        )

    def fresh(self, now: float, margin: float = MARGIN) -> bool:
        """Whether the token still holds in `margin` seconds."""
        return now + margin < self.expires_at

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Token is a secret and can't be pickled; the other process fetches its own")


def _refuse(problem: str, url: str, host: str) -> NoReturn:
    where = redact(url) if url else "the token server"
    raise InvalidResponse(
        f"the answer of {where} {problem}",
        hint="check the registry's address, and whether a proxy or a sign-in page answers in its place",
        url=url,
        host=host,
    )


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return min(seconds, _LONGEST) if math.isfinite(seconds) else 0.0


def _epoch(value: object, default: float) -> float:
    try:
        when = datetime.fromisoformat(value.upper()) if isinstance(value, str) else None
        if when is None:
            return default
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return default


def _canonical(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    return tuple(sorted(merge_scopes(scopes), key=str))


_Place: TypeAlias = tuple[str, str, str, str]


@frozen(kw_only=True)
class TokenKey:
    """What a token is good for: one registry, one token server, one service, some scopes, one identity."""

    host: str
    realm: str
    service: str = ""
    scopes: tuple[Scope, ...] = field(default=(), converter=_canonical)
    """Merged and sorted: the order in which scopes were wished for makes no other token."""
    identity: str = ""
    """`Credentials.identity`."""

    @property
    def place(self) -> _Place:
        """Everything but the scopes."""
        return self.host, self.realm, self.service, self.identity


@define(eq=False, repr=False)
class TokenCache(display.Shown):
    """Tokens by `TokenKey`, for any number of threads. A pickle of it is an empty cache."""

    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    _lock: Any = field(factory=Lock, init=False)
    _tokens: dict[_Place, dict[tuple[Scope, ...], Token]] = field(factory=dict, init=False)
    _flights: dict[TokenKey, Future[Token]] = field(factory=dict, init=False)

    @staticmethod
    def key(host: str, realm: str, service: str, scopes: Iterable[Scope], identity: str) -> TokenKey:
        """The key of these five."""
        return TokenKey(host=host, realm=realm, service=service, scopes=scopes, identity=identity)

    def get(self, key: TokenKey) -> Token | None:
        """A fresh token for the key, or one that may do more: what pushes serves pulls. None if there is none."""
        with self._lock:
            return self._find(key)

    def _find(self, key: TokenKey) -> Token | None:
        now = self.clock()
        fresh = {scopes: t for scopes, t in self._tokens.get(key.place, {}).items() if t.fresh(now)}
        if exact := fresh.get(key.scopes):
            return exact
        wider = [t for have, t in fresh.items() if all(any(h.covers(wish) for h in have) for wish in key.scopes)]
        return max(wider, key=lambda t: t.expires_at, default=None)

    def put(self, key: TokenKey, token: Token) -> None:
        """Keep the token, and forget those of the same place that have ended."""
        with self._lock:
            now = self.clock()
            kept = {scopes: t for scopes, t in self._tokens.get(key.place, {}).items() if t.fresh(now)}
            self._tokens[key.place] = {**kept, key.scopes: token}

    def drop(self, key: TokenKey, token: Token | None = None) -> None:
        """Forget what the registry refused: this token wherever it is kept for the key's place, else the key's own.

        Pass the token that was sent: another thread may have renewed it already, and the new one stays.
        """
        with self._lock:
            kept = self._tokens.get(key.place, {})
            gone = [scopes for scopes, t in kept.items() if (t == token if token else scopes == key.scopes)]
            for scopes in gone:
                del kept[scopes]

    def get_or_fetch(self, key: TokenKey, fetch: Callable[[], Token]) -> Token:
        """A fresh token; of the threads that miss the same key one fetches, and the others wait for what it gets.

        They share its failure too: eight workers with a wrong password are one failed login, not eight.
        """
        while True:
            with self._lock:
                if token := self._find(key):
                    return token
                flight = self._flights.get(key)
                if mine := flight is None:
                    flight = self._flights[key] = Future()
            if mine:
                return self._fly(key, flight, fetch)
            try:
                return flight.result()
            except CancelledError:
                continue  # the thread that fetched was interrupted; the next one takes over

    def _fly(self, key: TokenKey, flight: Future[Token], fetch: Callable[[], Token]) -> Token:
        try:
            token = fetch()
            self.put(key, token)
        except BaseException as error:
            with self._lock:
                del self._flights[key]
            if isinstance(error, Exception):
                flight.set_exception(error)
            else:
                flight.cancel()
            raise
        with self._lock:
            del self._flights[key]
        flight.set_result(token)
        return token

    def __rich_repr__(self) -> display.Description:
        with self._lock:
            tokens, fetching = sum(map(len, self._tokens.values())), len(self._flights)
        yield "tokens", tokens
        yield "fetching", fetching, 0

    def __reduce__(self) -> tuple[type[TokenCache], tuple[()]]:
        return TokenCache, ()


_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Where clouds keep a machine's own credentials, beyond link-local 169.254/16: Alibaba, Oracle, Azure, AWS, Google.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        ("100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254"),
    )
)
_METADATA_NAMES = frozenset({"metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal"})


def _address(host: str) -> _Address | None:
    """The IP address that the host spells, in any way that resolvers take (`127.1`, `0x7f000001`), or None."""
    host = host.partition("%")[0]
    try:
        address: _Address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(host))  # no request: inet_aton only reads
        except (OSError, ValueError):
            return None
    if isinstance(address, ipaddress.IPv6Address):
        nat64 = address in ipaddress.IPv6Network("64:ff9b::/96")
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if nat64 else address.ipv4_mapped or address.sixtofour
        return inner or address
    return address


def _private(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return not address.is_global or address.is_multicast


def _metadata(host: str) -> bool:
    address = _address(host)
    return host in _METADATA_NAMES or (address is not None and (address.is_link_local or address in _METADATA))


def check_realm(realm: str, registry_url: str, *, allow_private: bool = False) -> None:
    """Refuse a token server that a registry must not send credentials to.

    The realm must be an `https` URL, unless the registry itself is asked over `http`. The realm of a registry that
    isn't itself on a private or loopback address may not be on one, unless `allow_private`; none may be a cloud's
    metadata address. Addresses are checked as written: a name that resolves to a private address is not found out.

    Raises:
        InvalidResponse: naming the realm and the registry.
    """
    try:
        there, here = urlsplit(realm), urlsplit(registry_url)
        host, home = (there.hostname or "").rstrip("."), (here.hostname or "").rstrip(".")
        _ = there.port  # raises if it isn't a number
        user = "@" in there.netloc
    except ValueError:
        there, here, host, home, user = urlsplit(""), urlsplit(registry_url), "", "", False
    if not re.fullmatch(r"[\x21-\x7e]+", realm) or "\\" in realm or not host or there.scheme not in {"http", "https"}:
        problem = "which is not an http or https URL"
    elif user:
        problem = "which holds a user name"
    elif there.scheme == "http" and here.scheme != "http":
        problem = "which is not https"
    elif host == home:
        return
    elif _metadata(host):
        problem = "which is a metadata or link-local address"
    elif _private(host) and not _private(home) and not allow_private:
        problem = "which is a private or loopback address"
    else:
        return
    raise InvalidResponse(
        f"{redact(registry_url)} asks for credentials to be sent to {redact(realm)!r}, {problem}",
        hint="nothing was sent; if the registry is really yours, have its token realm corrected, or allow private realms",
        url=registry_url,
        host=here.netloc.rpartition("@")[2],
    )
