"""The loop of authentication: a challenge comes back, a token is asked for, and goes to its own registry only.

token-auth token.md and oauth.md.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlencode

import requests
from attrs import field, frozen

from ocikit import display
from ocikit.errors import ConnectionFailed, Denied, RegistryError, TimedOut, Unauthorized
from ocikit.remote.auth.keychain import ANONYMOUS, Credentials, Keychain
from ocikit.remote.auth.tokens import TOKEN_LIMIT, Token, TokenCache, TokenKey
from ocikit.remote.http.errors import error_from_response
from ocikit.remote.http.responses import drain, read_limited
from ocikit.remote.http.urls import check_realm
from ocikit.spec.challenge import Challenge, Scope, merge_scopes, parse_challenges, select_challenge

log = logging.getLogger("ocikit")

_CREDENTIALS_KEPT = 30.0  # seconds: a helper is a process of its own, and a thousand blobs must not start a thousand
_CLIENT = "ocikit"
_BREAKS = 2  # times that the answer of a token server may end too early
_REFUSED = frozenset({400, 401, 403})  # how token servers refuse credentials or scopes


class Send(Protocol):
    """Sends one request without any credentials of its own."""

    def __call__(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
        """The response, redirects followed."""


@frozen
class Authorization:
    """What goes into the header, and where it came from."""

    value: str = field(repr=False)
    """Empty: nothing is sent, on purpose."""
    key: TokenKey | None = None
    token: Token | None = field(default=None, repr=False)
    who: str = ""
    """Whose credentials it came from, for messages; "" if nobody's."""


class Authenticator:
    """Knows what one registry asks for, and answers with the user's credentials or none.

    Args:
        host: the registry, as in references.
        keychain: where credentials come from.
        tokens: shared by the hosts of a session.
        send: how to reach a token server.
        allow_private: whether the token server may have a private address though the registry has none.
    """

    def __init__(
        self, host: str, keychain: Keychain, tokens: TokenCache, send: Send, *, allow_private: bool = False
    ) -> None:
        self._host = host
        self._keychain = keychain
        self._tokens = tokens
        self._send = send
        self._allow_private = allow_private
        self._challenge: Challenge | None = None
        self._known: dict[str, tuple[Credentials, float]] = {}
        self._rotated: dict[tuple[str, str], str] = {}
        self._rejected: set[tuple[str, str]] = set()
        self._private: set[tuple[str, str]] = set()
        self._too_wide: set[TokenKey] = set()
        self._refreshing = threading.Lock()
        self._telling = threading.Lock()

    def __repr__(self) -> str:
        return f"Authenticator({self._host!r}, {self._challenge.scheme if self._challenge else 'not asked yet'})"

    def header(self, scopes: Sequence[Scope]) -> Authorization | None:
        """What to send before being asked: nothing until the registry has challenged once."""
        challenge = self._challenge
        return None if challenge is None else self._authorization(challenge, scopes)

    def answer(
        self,
        response: requests.Response,
        registry_url: str,
        scopes: Sequence[Scope],
        sent: Authorization | None,
        *,
        again: bool = False,
    ) -> Authorization | None:
        """What to send after a 401, or None if there is nothing better than what was sent.

        Args:
            response: the 401.
            registry_url: the request's URL; a token server must be no less protected.
            scopes: what the request needs.
            sent: what was refused, if anything.
            again: whether that was an answer to a 401 already: then only a wider scope can help.
        """
        # urllib3 keeps repeated headers apart; requests has joined them
        values = response.raw.headers.getlist("WWW-Authenticate") or [response.headers.get("WWW-Authenticate", "")]
        challenge = select_challenge(parse_challenges(values))
        if challenge is None:
            return None
        if challenge.scheme == "bearer":
            check_realm(challenge.realm, registry_url, allow_private=self._allow_private)
        self._challenge = challenge
        self._known.clear()
        wanted = merge_scopes([*scopes, *(Scope.parse(text) for text in challenge.scope)])
        if sent is not None and sent.key is not None:
            key = self._key(challenge, wanted, self._credentials(wanted))
            narrowed = key in self._too_wide
            if narrowed and challenge.error == "insufficient_scope":
                return None  # what is missing was refused by the token server
            if again and (narrowed or all(any(had.covers(s) for had in sent.key.scopes) for s in wanted)):
                return None
            # Expired, revoked, or too narrow: ask anew rather than send the same again
            self._tokens.drop(sent.key, sent.token)
        answer = self._authorization(challenge, wanted)
        return None if answer is None or (sent is not None and answer.value == sent.value) else answer

    def stranger(self, scopes: Sequence[Scope], *, unknown: bool) -> Authorization | None:
        """What anyone may send for a read whose credentials the registry refused; None if that can't lead further.

        GHCR answers 403 to whoever has an expired token, even for a public image: oras#1161. What comes of it is told to
        `read_as_stranger`.

        Args:
            scopes: what the request needs.
            unknown: whether the request hasn't been sent without any authorization yet.
        """
        challenge, credentials = self._challenge, self._credentials(scopes)
        place = credentials.identity, _repository(scopes)
        if challenge is None or credentials.anonymous or not _reads_only(scopes) or place in self._private:
            return None
        if challenge.scheme == "basic":
            return Authorization("") if unknown else None
        try:
            return self._token(self._key(challenge, scopes, ANONYMOUS), challenge, scopes, ANONYMOUS, "")
        except RegistryError as error:
            if error.status in _REFUSED:
                self._private.add(place)
        except ConnectionFailed:
            pass  # the refusal that there was says more
        return None

    def read_as_stranger(self, scopes: Sequence[Scope], *, allowed: bool) -> None:
        """Go on without the credentials for reads of this repository, or never try that again."""
        credentials = self._credentials(scopes)
        if allowed:
            self._leave_out(credentials, scopes)
        else:
            self._private.add((credentials.identity, _repository(scopes)))

    def _leave_out(self, credentials: Credentials, scopes: Sequence[Scope]) -> None:
        place = credentials.identity, _repository(scopes)
        with self._telling:
            new = place not in self._rejected and not credentials.anonymous
            self._rejected.add(place)
        if new:
            log.warning(
                "%s rejected the stored credentials of %s; reading anonymously", self._host, _whose(credentials)
            )

    def _authorization(self, challenge: Challenge, scopes: Sequence[Scope]) -> Authorization | None:
        credentials = self._credentials(scopes)
        who = "" if credentials.anonymous else _whose(credentials)
        if credentials.registry_token:
            return Authorization(f"Bearer {credentials.registry_token}", who=who)
        if challenge.scheme == "basic":
            basic = _basic(credentials)
            return Authorization(basic, who=who) if basic else None
        key = self._key(challenge, scopes, credentials)
        if key not in self._too_wide:
            try:
                return self._token(key, challenge, scopes, credentials, who)
            except RegistryError as error:
                if len(scopes) == 1 or error.status not in _REFUSED:
                    raise
            # Docker Hub refuses the whole exchange for one scope that it won't grant: ggcr#1679, harbor#17097
            self._too_wide.add(key)
        first = scopes[:1]
        return self._token(self._key(challenge, first, credentials), challenge, first, credentials, who)

    def _key(self, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials) -> TokenKey:
        return TokenCache.key(self._host, challenge.realm, challenge.service, scopes, credentials.identity)

    def _token(
        self, key: TokenKey, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials, who: str
    ) -> Authorization:
        token = self._tokens.get_or_fetch(key, lambda: self._fetch(challenge, scopes, credentials))
        return Authorization(f"Bearer {token.value}", key, token, who)

    def _credentials(self, scopes: Sequence[Scope]) -> Credentials:
        repository = _repository(scopes)
        known = self._known.get(repository)
        if known is None or time.monotonic() - known[1] > _CREDENTIALS_KEPT:
            known = self._keychain.for_reference(self._host, repository), time.monotonic()
            self._known[repository] = known
        if (known[0].identity, repository) in self._rejected and _reads_only(scopes):
            return ANONYMOUS
        return known[0]

    def _fetch(self, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials) -> Token:
        """A new token; refused credentials are left out of reads."""
        try:
            return self._exchange(challenge, scopes, credentials)
        except RegistryError as error:
            if error.status not in _REFUSED or credentials.anonymous:
                raise
            refusal = error
        if _reads_only(scopes):
            # A stale login must not hide what anyone may read: oras#1161
            key = self._key(challenge, scopes, ANONYMOUS)
            try:
                token = self._tokens.get_or_fetch(key, lambda: self._exchange(challenge, scopes, ANONYMOUS))
            except RegistryError:
                pass
            else:
                self._leave_out(credentials, scopes)
                return token
        kind = Denied if isinstance(refusal, Denied) else Unauthorized
        raise kind(
            f"{self._host} rejected the credentials of {_whose(credentials)}: {refusal.message}",
            hint=f"log in again with ocikit.login({self._host!r}); ocikit.auth.explain({self._host!r}) shows where they come from",
            method=refusal.method,
            url=refusal.url,
            status=refusal.status,
            errors=refusal.errors,
            request_id=refusal.request_id,
            host=self._host,
        ) from refusal

    def _exchange(self, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials) -> Token:
        texts = [str(scope) for scope in scopes]
        if credentials.identity_token and (token := self._refresh(challenge, texts, credentials)):
            return token
        query = [("service", challenge.service)] if challenge.service else []
        query += [("scope", text) for text in texts]
        joint = "&" if "?" in challenge.realm else "?"
        url = challenge.realm + (joint + urlencode(query) if query else "")
        basic = _basic(credentials)
        breaks = 0
        while True:
            response = self._send("GET", url, {"Authorization": basic} if basic else {}, None)
            try:
                return self._parse(response)
            except ConnectionFailed as error:
                # Within the body, as documents are asked for again: before that, it is `_send` that does
                breaks += 1
                if breaks > _BREAKS or isinstance(error, TimedOut):
                    raise
                log.info("%s; trying again", error.message)

    def _refresh(self, challenge: Challenge, texts: Sequence[str], credentials: Credentials) -> Token | None:
        """A token for an identity token, by POST; None if the server doesn't know of such. distribution oauth.md."""
        # One at a time: a server that rotates refresh tokens takes each of them once
        with self._refreshing:
            # What one token server gave is not for another that the registry names later
            kept = challenge.realm, credentials.identity
            refresh = self._rotated.get(kept) or credentials.identity_token
            form = {
                "grant_type": "refresh_token",
                "service": challenge.service,
                "client_id": _CLIENT,
                "refresh_token": refresh,
            }
            if texts:
                form["scope"] = " ".join(texts)
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = self._send("POST", challenge.realm, headers, urlencode(form).encode())
            if response.status_code in {404, 405}:
                drain(response)
                return None
            token = self._parse(response)
            if token.refresh_token:
                self._rotated[kept] = token.refresh_token
            return token

    def _parse(self, response: requests.Response) -> Token:
        if response.status_code != 200:
            raise error_from_response(
                response,
                f"get a token for {self._host}",
                hint=f"ocikit.auth.explain({self._host!r}) shows what is sent",
            )
        body = read_limited(response, TOKEN_LIMIT, f"get a token for {self._host}")
        return Token.parse(body, time.time(), url=str(response.url), host=self._host)


def _basic(credentials: Credentials) -> str | None:
    if not credentials.password:
        return None
    pair = f"{credentials.username}:{credentials.password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _whose(credentials: Credentials) -> str:
    return display.quoted(credentials.username or credentials.kind)


def _repository(scopes: Sequence[Scope]) -> str:
    return next((s.name for s in scopes if s.resource_type == "repository"), "")


def _reads_only(scopes: Sequence[Scope]) -> bool:
    """Whether a stranger may do it, too; without any scope it is a question about the credentials themselves."""
    return bool(scopes) and all(set(scope.actions) <= {"pull"} for scope in scopes)
