"""Answers to the challenges of one registry. distribution token.md and oauth.md."""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Sequence
from typing import Protocol
from urllib.parse import urlencode

import requests
from attrs import field, frozen

from ocikit import display
from ocikit.errors import ConnectionFailed, Denied, RegistryError, TimedOut, Unauthorized
from ocikit.forks import ForkSafeLock
from ocikit.remote.auth.keychain import ANONYMOUS, Credentials, Keychain
from ocikit.remote.auth.tokens import TOKEN_LIMIT, Token, TokenCache, TokenKey
from ocikit.remote.http.errors import error_from_response
from ocikit.remote.http.responses import drain, read_limited
from ocikit.remote.http.urls import check_realm
from ocikit.spec.challenge import Challenge, Scope, merge_scopes, parse_challenges, select_challenge

log = logging.getLogger("ocikit")

# Seconds for which credentials are reused: a helper is a process, and a thousand blobs must not spawn a thousand.
_CREDENTIALS_LIFETIME = 30.0
_CLIENT_ID = "ocikit"
_BODY_RETRIES = 2  # retries after a token response that ends early
_REJECTED_STATUSES = frozenset({400, 401, 403})  # statuses of token servers for rejected credentials or scopes


class Send(Protocol):
    """A function that sends one request without adding credentials."""

    def __call__(self, method: str, url: str, headers: dict[str, str], body: bytes | None) -> requests.Response:
        """Return the response after redirects."""


@frozen
class Authorization:
    """The value of an Authorization header, and its origin."""

    value: str = field(repr=False)
    """The value; "" means that the request is sent without the header on purpose."""
    key: TokenKey | None = None
    token: Token | None = field(default=None, repr=False)
    account: str = ""
    """The account that it belongs to, for messages; "" for anonymous access."""


class Authenticator:
    """Authentication to one registry with the user's credentials or anonymously.

    Args:
        host: The registry as in references.
        keychain: The source of credentials.
        tokens: The token cache, shared by the hosts of a session.
        send: Function that sends a request to a token server.
        allow_private: Allow a token server with a private address although the registry has a public one.
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
        self._credentials_cache: dict[str, tuple[Credentials, float]] = {}
        self._rotated: dict[tuple[str, str], str] = {}
        self._rejected: set[tuple[str, str]] = set()
        self._not_public: set[tuple[str, str]] = set()
        self._too_wide: set[TokenKey] = set()
        self._refresh_lock = ForkSafeLock()
        self._warning_lock = ForkSafeLock()

    def __repr__(self) -> str:
        return f"Authenticator({self._host!r}, {self._challenge.scheme if self._challenge else 'not asked yet'})"

    @property
    def challenged(self) -> bool:
        """Whether the registry has asked for credentials."""
        return self._challenge is not None

    def header(self, scopes: Sequence[Scope]) -> Authorization | None:
        """Return the authorization for a request.

        The result is None before the first challenge of the registry.
        """
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
        """Return the authorization after a 401, or None if no other one is available.

        Args:
            response: The response with status 401.
            registry_url: The request's URL; the token server must be at least as protected.
            scopes: The scopes that the request needs.
            sent: The rejected authorization, if any.
            again: The rejected authorization was itself an answer to a 401, so only a wider scope can help.

        Raises:
            OcikitError: The token server is not allowed, failed, or rejected the credentials.
        """
        # urllib3 keeps repeated headers apart; requests joins them.
        values = response.raw.headers.getlist("WWW-Authenticate") or [response.headers.get("WWW-Authenticate", "")]
        challenge = select_challenge(parse_challenges(values))
        if challenge is None:
            return None
        if challenge.scheme == "bearer":
            check_realm(challenge.realm, registry_url, allow_private=self._allow_private)
        self._challenge = challenge
        self._credentials_cache.clear()
        needed = merge_scopes([*scopes, *(Scope.parse(text) for text in challenge.scope)])
        if sent is not None and sent.key is not None:
            narrowed = self._key(challenge, needed, self._credentials(needed)) in self._too_wide
            if narrowed and challenge.error == "insufficient_scope":
                return None  # the token server has rejected the missing scope
            covered = all(any(scope.covers(need) for scope in sent.key.scopes) for need in needed)
            if again and (narrowed or covered):
                return None
            # The token is expired, revoked or too narrow: get a new one instead of sending it again.
            self._tokens.drop(sent.key, sent.token)
        answer = self._authorization(challenge, needed)
        return None if answer is None or (sent is not None and answer.value == sent.value) else answer

    def anonymous_authorization(self, scopes: Sequence[Scope], *, untried: bool) -> Authorization | None:
        """Return an anonymous authorization for a read whose credentials were rejected.

        The result is None if anonymous access can't help.

        GHCR responds with 403 to an expired token even for public images (oras#1161). The caller reports the result
        to `note_anonymous_read`.

        Args:
            scopes: The scopes that the request needs.
            untried: The request has not been sent without authorization yet.
        """
        challenge, credentials = self._challenge, self._credentials(scopes)
        identity = credentials.identity, _repository(scopes)
        if challenge is None or credentials.anonymous or not _reads_only(scopes) or identity in self._not_public:
            return None
        if challenge.scheme == "basic":
            return Authorization("") if untried else None
        try:
            return self._token(self._key(challenge, scopes, ANONYMOUS), challenge, scopes, ANONYMOUS, "")
        except RegistryError as error:
            if error.status in _REJECTED_STATUSES:
                self._not_public.add(identity)
        except ConnectionFailed:
            pass  # the original 401 or 403 is the better error
        return None

    def note_anonymous_read(self, scopes: Sequence[Scope], *, allowed: bool) -> None:
        """Record the result of an anonymous read.

        Args:
            scopes: The scopes of the request.
            allowed: Read this repository anonymously from now on, else never try that again.
        """
        credentials = self._credentials(scopes)
        if allowed:
            self._reject(credentials, scopes)
        else:
            self._not_public.add((credentials.identity, _repository(scopes)))

    def _reject(self, credentials: Credentials, scopes: Sequence[Scope]) -> None:
        """Use no credentials for reads of this repository from now on."""
        identity = credentials.identity, _repository(scopes)
        with self._warning_lock:
            is_new = identity not in self._rejected and not credentials.anonymous
            self._rejected.add(identity)
        if is_new:
            log.warning(
                "%s rejected the stored credentials of %s; reading anonymously", self._host, _account(credentials)
            )

    def _authorization(self, challenge: Challenge, scopes: Sequence[Scope]) -> Authorization | None:
        credentials = self._credentials(scopes)
        account = "" if credentials.anonymous else _account(credentials)
        if credentials.registry_token:
            return Authorization(f"Bearer {credentials.registry_token}", account=account)
        if challenge.scheme == "basic":
            basic = _basic(credentials)
            return Authorization(basic, account=account) if basic else None
        key = self._key(challenge, scopes, credentials)
        if key not in self._too_wide:
            try:
                return self._token(key, challenge, scopes, credentials, account)
            except RegistryError as error:
                if len(scopes) == 1 or error.status not in _REJECTED_STATUSES:
                    raise
            # Docker Hub rejects all scopes if it does not grant one of them: ggcr#1679, harbor#17097.
            self._too_wide.add(key)
        target = scopes[:1]
        return self._token(self._key(challenge, target, credentials), challenge, target, credentials, account)

    def _key(self, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials) -> TokenKey:
        return TokenCache.key(self._host, challenge.realm, challenge.service, scopes, credentials.identity)

    def _token(
        self, key: TokenKey, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials, account: str
    ) -> Authorization:
        token = self._tokens.get_or_fetch(key, lambda: self._fetch(challenge, scopes, credentials))
        return Authorization(f"Bearer {token.value}", key, token, account)

    def _credentials(self, scopes: Sequence[Scope]) -> Credentials:
        repository = _repository(scopes)
        cached = self._credentials_cache.get(repository)
        if cached is None or time.monotonic() - cached[1] > _CREDENTIALS_LIFETIME:
            cached = self._keychain.for_reference(self._host, repository), time.monotonic()
            self._credentials_cache[repository] = cached
        if (cached[0].identity, repository) in self._rejected and _reads_only(scopes):
            return ANONYMOUS
        return cached[0]

    def _fetch(self, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials) -> Token:
        """Return a new token; if the credentials are rejected, an anonymous one for reads."""
        try:
            return self._exchange(challenge, scopes, credentials)
        except RegistryError as error:
            if error.status not in _REJECTED_STATUSES or credentials.anonymous:
                raise
            rejection = error
        if _reads_only(scopes):
            # A stale login must not hide public content: oras#1161.
            key = self._key(challenge, scopes, ANONYMOUS)
            try:
                token = self._tokens.get_or_fetch(key, lambda: self._exchange(challenge, scopes, ANONYMOUS))
            except RegistryError:
                pass
            else:
                self._reject(credentials, scopes)
                return token
        error_class = Denied if isinstance(rejection, Denied) else Unauthorized
        raise error_class(
            f"{self._host} rejected the credentials of {_account(credentials)}: {rejection.message}",
            hint=f"log in again with ocikit.login({self._host!r}); "
            f"ocikit.auth.explain({self._host!r}) shows where the credentials come from",
            method=rejection.method,
            url=rejection.url,
            status=rejection.status,
            errors=rejection.errors,
            request_id=rejection.request_id,
            host=self._host,
        ) from rejection

    def _exchange(self, challenge: Challenge, scopes: Sequence[Scope], credentials: Credentials) -> Token:
        texts = [str(scope) for scope in scopes]
        if credentials.identity_token and (token := self._refresh(challenge, texts, credentials)):
            return token
        query = [("service", challenge.service)] if challenge.service else []
        query += [("scope", text) for text in texts]
        separator = "&" if "?" in challenge.realm else "?"
        url = challenge.realm + (separator + urlencode(query) if query else "")
        basic = _basic(credentials)
        attempts = 0
        while True:
            response = self._send("GET", url, {"Authorization": basic} if basic else {}, None)
            try:
                return self._parse(response)
            except ConnectionFailed as error:
                # `_send` retries failures before the body only.
                attempts += 1
                if attempts > _BODY_RETRIES or isinstance(error, TimedOut):
                    raise
                log.info("%s; trying again", error.message)

    def _refresh(self, challenge: Challenge, texts: Sequence[str], credentials: Credentials) -> Token | None:
        """Return a token for an identity token by POST; None if the server lacks this.

        See distribution oauth.md.
        """
        # One at a time: a server that rotates refresh tokens accepts each of them once.
        with self._refresh_lock:
            # Key by realm (credential forwarding): a refresh token of one server must not be sent to another one that
            # the registry names later.
            key = challenge.realm, credentials.identity
            form = {
                "grant_type": "refresh_token",
                "service": challenge.service,
                "client_id": _CLIENT_ID,
                "refresh_token": self._rotated.get(key) or credentials.identity_token,
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
                self._rotated[key] = token.refresh_token
            return token

    def _parse(self, response: requests.Response) -> Token:
        if response.status_code != 200:
            raise error_from_response(
                response,
                f"get a token for {self._host}",
                hint=f"ocikit.auth.explain({self._host!r}) shows which credentials are sent",
            )
        body = read_limited(response, TOKEN_LIMIT, f"get a token for {self._host}")
        return Token.parse(body, time.time(), url=str(response.url), host=self._host)


def _basic(credentials: Credentials) -> str | None:
    if not credentials.password:
        return None
    pair = f"{credentials.username}:{credentials.password}"
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def _account(credentials: Credentials) -> str:
    return display.quoted(credentials.username or credentials.kind)


def _repository(scopes: Sequence[Scope]) -> str:
    return next((s.name for s in scopes if s.resource_type == "repository"), "")


def _reads_only(scopes: Sequence[Scope]) -> bool:
    """Return True if anonymous access may suffice.

    Requests without scopes check the credentials themselves.
    """
    return bool(scopes) and all(set(scope.actions) <= {"pull"} for scope in scopes)
