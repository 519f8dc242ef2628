"""Bearer tokens, and their cache. distribution token.md and oauth.md."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from typing import NoReturn, TypeAlias

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import InvalidResponse, redact
from ocikit.forks import ForkSafeLock, fork_count
from ocikit.spec.challenge import Scope, merge_scopes
from ocikit.waits import UNLIMITED

TOKEN_LIMIT = 1 << 20  # bytes of a token response; containers/image allows the same, others less
LIFETIME = 60.0  # seconds: the default without expires_in, and the minimum (token.md)
MARGIN = 10.0  # seconds before expiry at which a token is renewed, because a request takes time to arrive
_MAX_LIFETIME = 365 * 86400.0  # seconds; longer lifetimes in responses are cut

#: A token in a header. This prevents header injection. RFC 6750 section 2.1, with more characters.
_BEARER = re.compile(r"[\x21-\x7e]+")


@frozen(kw_only=True)
class Token:
    """A bearer token with its expiry time. It is a secret and can't be pickled."""

    value: str = field(repr=False)
    expires_at: float
    """Seconds since the epoch by this machine's clock. The monotonic clock would stop while a laptop sleeps."""
    refresh_token: str = field(default="", repr=False)
    """A new refresh token for the token server, or "". It is never written to disk."""

    @classmethod
    def parse(cls, body: bytes, now: float, *, url: str = "", host: str = "") -> Token:
        """Return the token of a response.

        See distribution token.md#token-response-fields, oauth.md#response-fields.

        The token expires `expires_in` seconds after its `issued_at`, but at most `expires_in` and at least 60 seconds
        after `now`. So the wrong clock of a server neither prolongs a token nor causes a fetch for each request.

        Args:
            body: The body of the response.
            now: Time of the response, in seconds since the epoch.
            url: URL of the token server, for errors.
            host: The registry, for errors.

        Raises:
            InvalidResponse: The body is not JSON, is over 1 MiB, or has neither `token` nor `access_token`.
        """
        if len(body) > TOKEN_LIMIT:
            _reject(f"is over {TOKEN_LIMIT} bytes", url, host)
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            fields = None
        # Raise outside the `except` block: a chained JSONDecodeError would contain the body with its secrets.
        if not isinstance(fields, dict):
            _reject("is not a JSON object", url, host)
        # ACR sends only access_token; others send token, or both, or one of them empty.
        value = next((v for v in (fields.get("token"), fields.get("access_token")) if isinstance(v, str) and v), "")
        if not value:
            _reject("has neither token nor access_token", url, host)
        if not _BEARER.fullmatch(value):
            _reject("has a token with characters that are invalid in a header", url, host)
        lifetime = max(LIFETIME, _seconds(fields.get("expires_in")))
        age = max(0.0, now - _epoch(fields.get("issued_at"), now))
        refresh = fields.get("refresh_token")
        return cls(
            value=value,
            expires_at=now + max(LIFETIME, lifetime - age),
            refresh_token=refresh if isinstance(refresh, str) and _BEARER.fullmatch(refresh) else "",
        )

    def fresh(self, now: float, margin: float = MARGIN) -> bool:
        """Return True if the token is still valid in `margin` seconds."""
        return now + margin < self.expires_at

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Token is a secret and can't be pickled; fetch one in the other process")


def _reject(problem: str, url: str, host: str) -> NoReturn:
    where = redact(url) if url else "the token server"
    raise InvalidResponse(
        f"the response of {where} {problem}",
        hint="check the registry's address, and for a proxy or a sign-in page in front of it",
        url=url,
        host=host,
    )


def _seconds(value: object) -> float:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return min(seconds, _MAX_LIFETIME) if math.isfinite(seconds) else 0.0


def _epoch(value: object, default: float) -> float:
    try:
        time_ = datetime.fromisoformat(value.upper()) if isinstance(value, str) else None
        if time_ is None:
            return default
        return (time_ if time_.tzinfo else time_.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return default


def _canonical(scopes: Iterable[Scope]) -> tuple[Scope, ...]:
    return tuple(sorted(merge_scopes(scopes), key=str))


#: Host, realm, service and identity.
_Audience: TypeAlias = tuple[str, str, str, str]


@frozen(kw_only=True)
class TokenKey:
    """The use of a token: registry, token server, service, scopes and identity."""

    host: str
    realm: str
    service: str = ""
    scopes: tuple[Scope, ...] = field(default=(), converter=_canonical)
    """Merged and sorted, so that the requested order makes no difference."""
    identity: str = ""
    """`Credentials.identity`."""

    @property
    def audience(self) -> _Audience:
        """All fields except the scopes."""
        return self.host, self.realm, self.service, self.identity


@define(eq=False, repr=False)
class TokenCache(display.Displayable):
    """A thread-safe cache of tokens by `TokenKey`. It is pickled as an empty cache."""

    clock: Callable[[], float] = time.time
    """Function that returns seconds since the epoch."""
    _lock: ForkSafeLock = field(factory=ForkSafeLock, init=False)
    _tokens: dict[_Audience, dict[tuple[Scope, ...], Token]] = field(factory=dict, init=False)
    _fetches: dict[TokenKey, Future[Token]] = field(factory=dict, init=False)
    _forks: int = field(factory=fork_count, init=False)

    @staticmethod
    def key(host: str, realm: str, service: str, scopes: Iterable[Scope], identity: str) -> TokenKey:
        """Return a key."""
        return TokenKey(host=host, realm=realm, service=service, scopes=scopes, identity=identity)

    def get(self, key: TokenKey) -> Token | None:
        """Return a fresh token for the key or for wider scopes, or None."""
        self._reset_after_fork()
        with self._lock:
            return self._find(key)

    def _reset_after_fork(self) -> None:
        """Drop the fetches in a child process, where the threads that make them do not exist."""
        if self._forks != fork_count():
            self._fetches, self._forks = {}, fork_count()

    def _find(self, key: TokenKey) -> Token | None:
        now = self.clock()
        fresh = {scopes: token for scopes, token in self._tokens.get(key.audience, {}).items() if token.fresh(now)}
        if exact := fresh.get(key.scopes):
            return exact
        wider = [
            token
            for granted, token in fresh.items()
            if all(any(scope.covers(needed) for scope in granted) for needed in key.scopes)
        ]
        return max(wider, key=lambda t: t.expires_at, default=None)

    def put(self, key: TokenKey, token: Token) -> None:
        """Store the token, and remove expired ones of the same audience."""
        self._reset_after_fork()
        with self._lock:
            now = self.clock()
            fresh = {scopes: t for scopes, t in self._tokens.get(key.audience, {}).items() if t.fresh(now)}
            self._tokens[key.audience] = {**fresh, key.scopes: token}

    def drop(self, key: TokenKey, token: Token | None = None) -> None:
        """Remove a rejected token.

        Args:
            key: The key of the request.
            token: The token that was sent, which is removed from all scopes. Another thread may have renewed it
                already, and the new one stays. None removes the token of the key.
        """
        self._reset_after_fork()
        with self._lock:
            tokens = self._tokens.get(key.audience, {})
            rejected = [scopes for scopes, t in tokens.items() if (t == token if token else scopes == key.scopes)]
            for scopes in rejected:
                del tokens[scopes]

    def get_or_fetch(self, key: TokenKey, fetch: Callable[[], Token]) -> Token:
        """Return a fresh token.

        One thread fetches it, and other threads with the same key wait for the result.

        They share its error too, so eight workers with a wrong password cause one failed login, not eight.
        """
        self._reset_after_fork()
        while True:
            with self._lock:
                if token := self._find(key):
                    return token
                future = self._fetches.get(key)
                if is_first := future is None:
                    future = self._fetches[key] = Future()
            if is_first:
                return self._fetch(key, future, fetch)
            try:
                return future.result(UNLIMITED)
            except CancelledError:
                continue  # the fetching thread was interrupted, so another one must fetch

    def _fetch(self, key: TokenKey, future: Future[Token], fetch: Callable[[], Token]) -> Token:
        try:
            token = fetch()
            self.put(key, token)
        except BaseException as error:
            with self._lock:
                del self._fetches[key]
            if isinstance(error, Exception):
                future.set_exception(error)
            else:
                future.cancel()
            raise
        with self._lock:
            del self._fetches[key]
        future.set_result(token)
        return token

    def __rich_repr__(self) -> display.Description:
        with self._lock:
            tokens, fetching = sum(map(len, self._tokens.values())), len(self._fetches)
        yield "tokens", tokens
        yield "fetching", fetching, 0

    def __reduce__(self) -> tuple[type[TokenCache], tuple[()]]:
        return TokenCache, ()
