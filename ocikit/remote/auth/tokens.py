"""What a token server gave: tokens, kept for their own registry. No I/O. distribution token.md, oauth.md."""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from threading import Lock
from typing import Any, NoReturn, TypeAlias

from attrs import define, field, frozen

from ocikit import display
from ocikit.errors import InvalidResponse, redact
from ocikit.spec.challenge import Scope, merge_scopes

TOKEN_LIMIT = 1 << 20  # bytes of a token response; containers/image allows the same, others less
LIFETIME = 60.0  # seconds: token.md, for answers without expires_in, and the least that a token may have to live
MARGIN = 10.0  # seconds before its expiry at which a token is renewed: a request takes time to arrive
_LONGEST = 365 * 86400.0  # seconds; what a server claims beyond that is no fact

#: What may follow "Bearer " in a header; anything else could smuggle in a header of its own. RFC 6750 #2.1, widened.
_BEARER = re.compile(r"[\x21-\x7e]+")


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
            refresh_token=refresh if isinstance(refresh, str) and _BEARER.fullmatch(refresh) else "",
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
class TokenCache(display.Displayable):
    """Tokens by `TokenKey`, for any number of threads. A pickle of it is an empty cache."""

    clock: Callable[[], float] = time.time
    """Seconds since the epoch."""
    _lock: Any = field(factory=Lock, init=False)
    _tokens: dict[_Place, dict[tuple[Scope, ...], Token]] = field(factory=dict, init=False)
    _flights: dict[TokenKey, Future[Token]] = field(factory=dict, init=False)
    _pid: int = field(factory=os.getpid, init=False)

    @staticmethod
    def key(host: str, realm: str, service: str, scopes: Iterable[Scope], identity: str) -> TokenKey:
        """The key of these five."""
        return TokenKey(host=host, realm=realm, service=service, scopes=scopes, identity=identity)

    def get(self, key: TokenKey) -> Token | None:
        """A fresh token for the key, or one that may do more: what pushes serves pulls. None if there is none."""
        self._notice_fork()
        with self._lock:
            return self._find(key)

    def _notice_fork(self) -> None:
        """In a child process no thread is left that would let go of the lock, or bring what it went for."""
        if self._pid != os.getpid():
            self._lock, self._flights, self._pid = Lock(), {}, os.getpid()

    def _find(self, key: TokenKey) -> Token | None:
        now = self.clock()
        fresh = {scopes: t for scopes, t in self._tokens.get(key.place, {}).items() if t.fresh(now)}
        if exact := fresh.get(key.scopes):
            return exact
        wider = [t for have, t in fresh.items() if all(any(h.covers(wish) for h in have) for wish in key.scopes)]
        return max(wider, key=lambda t: t.expires_at, default=None)

    def put(self, key: TokenKey, token: Token) -> None:
        """Keep the token, and forget those of the same place that have ended."""
        self._notice_fork()
        with self._lock:
            now = self.clock()
            kept = {scopes: t for scopes, t in self._tokens.get(key.place, {}).items() if t.fresh(now)}
            self._tokens[key.place] = {**kept, key.scopes: token}

    def drop(self, key: TokenKey, token: Token | None = None) -> None:
        """Forget what the registry refused: this token wherever it is kept for the key's place, else the key's own.

        Pass the token that was sent: another thread may have renewed it already, and the new one stays.
        """
        self._notice_fork()
        with self._lock:
            kept = self._tokens.get(key.place, {})
            gone = [scopes for scopes, t in kept.items() if (t == token if token else scopes == key.scopes)]
            for scopes in gone:
                del kept[scopes]

    def get_or_fetch(self, key: TokenKey, fetch: Callable[[], Token]) -> Token:
        """A fresh token; of the threads that miss the same key one fetches, and the others wait for what it gets.

        They share its failure too: eight workers with a wrong password are one failed login, not eight.
        """
        self._notice_fork()
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
