"""Bearer tokens and the token endpoint (distribution token.md, oauth.md)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from ocikit.errors import InvalidArgument, InvalidReference
from ocikit.server.auth.access import ANONYMOUS, Identity, Permission
from ocikit.server.auth.basic import PasswordAccess, check_quotable, plain_http_error
from ocikit.server.auth.jwt import InvalidToken, Signer, check_key, load_key
from ocikit.server.auth.rules import Rules
from ocikit.server.auth.throttle import FAILURES, FailureLog
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request, Response, json_response
from ocikit.server.http.transfer import SMALL_BODY
from ocikit.spec.challenge import Scope, merge_scopes
from ocikit.spec.reference import check_repository

#: Path of the token endpoint below the registry's mount point, next to `/v2/`.
_ENDPOINT = "/token"

#: Seconds. oauth.md: "a token should never be returned with less than 60 seconds to live".
_MIN_TTL = 60

#: Bytes of a form: a refresh token and a hundred scopes.
_MAX_FORM = 1 << 17

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

#: RFC 3986 3.2.2 and 3.3, without the characters that could end a quoted string: this prevents header injection.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*")

_ACTIONS = ("pull", "push", "delete")


class TokenAccess(PasswordAccess):
    """Bearer authentication, with a token endpoint and an htpasswd file.

    A token grants the requested scopes as far as the rules allow them. Later requests are checked against the current rules
    and users too: a removed rule, a removed user or a new password invalidates the token.

    Args:
        path: File with users; see `HtpasswdAccess`.
        key: File with the signing key, created if it is missing; or the key itself, as bytes. All processes of a registry need the
            same key. A process that can read it can impersonate any user.
        rules: Access rules or a file with them; None allows everything for users and nothing for others.
        allow_anonymous_pull: Allow pulls without a login. This overrides the rules.
        service: Name of the registry in challenges and tokens.
        issuer: Name of the token issuer; the service by default.
        ttl: Seconds until a token expires, at least 60.
        refresh_ttl: Seconds until a refresh token expires. A client stores it instead of a password.
        realm: URL of the token endpoint for clients; derived from the request's host by default.
        allow_plain_http: Accept passwords over plain http; see `HtpasswdAccess`.
        failures: Failed logins of one user from one address in five minutes before further ones are rejected.
        failure_log: The failed logins of all processes; None counts those of each process.
        clock: Function that returns the seconds since the epoch.

    Raises:
        InvalidArgument: A file cannot be read or is invalid, or other users can read the key.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: str | os.PathLike[str] | bytes,
        rules: Rules | str | os.PathLike[str] | None = None,
        *,
        allow_anonymous_pull: bool = False,
        service: str = "ocikit",
        issuer: str = "",
        ttl: int = 300,
        refresh_ttl: int = 90 * 24 * 3600,
        realm: str = "",
        allow_plain_http: bool = False,
        failures: int = FAILURES,
        failure_log: FailureLog | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = check_quotable("service", service)
        super().__init__(
            path,
            rules,
            allow_anonymous_pull=allow_anonymous_pull,
            realm=service,
            allow_plain_http=allow_plain_http,
            failures=failures,
            failure_log=failure_log,
        )
        if ttl < _MIN_TTL:
            raise InvalidArgument(f"ttl={ttl} is too short", hint=f"use at least {_MIN_TTL} seconds")
        secret = check_key(key) if isinstance(key, bytes) else load_key(key)
        self._signer = Signer(secret, service=service, issuer=issuer or service, clock=clock)
        self._ttl = ttl
        self._refresh_ttl = refresh_ttl
        self._realm = realm and check_quotable("realm", realm)

    def identify(self, request: Request) -> Identity:
        """Return the identity of the request's token, with an error if it is invalid."""
        header = request.header("Authorization")
        if not header:
            return ANONYMOUS
        match = _BEARER.fullmatch(header)
        try:
            identity, stamp = self._signer.verify_access_token(match[1] if match else "")
            self._check_stamp(identity.name, stamp)
        except InvalidToken:
            return Identity(error="invalid_token")
        return identity

    def allows(self, identity: Identity, permission: Permission) -> bool:
        """Return True if the rules allow it, and the token grants it if there is one."""
        granted = identity.grants is None or any(
            permission.repository == repository and permission.action in actions
            for repository, actions in identity.grants
        )
        return granted and self._rules().allows(identity.name, permission)

    def can_pull(self, identity: Identity, repository: str) -> bool:
        """Return True if the rules allow a pull, regardless of the token's scopes."""
        return self._rules().allows(identity.name, Permission("pull", repository))

    def challenge(self, request: Request, permissions: Sequence[Permission], identity: Identity = ANONYMOUS) -> str:
        """Return a `Bearer` challenge (token.md#how-to-authenticate, RFC 6750 3).

        Args:
            request: The request.
            permissions: All permissions that the request needs.
            identity: Current identity of the sender.

        Returns:
            The challenge; "" if the rules do not allow the first permission.

        Raises:
            ErrorResponse: 403 over plain http, so that the client does not send a password; 400 for an invalid Host.
        """
        rules = self._rules()
        # Only the first permission counts: if the source of a mount is not allowed, the request becomes a normal upload
        if identity.name and permissions and not rules.allows(identity.name, permissions[0]):
            return ""
        if not self._accepts_passwords(request):
            raise plain_http_error()
        scopes = merge_scopes(map(_scope_for, permissions))
        error = identity.error or ("insufficient_scope" if identity.grants is not None else "")
        parameters = {
            "realm": self._token_url(request),
            "service": self._service,
            "scope": " ".join(map(str, scopes)),
            "error": error,
        }
        # The oldest clients parse only this form: one header, one scope, all values quoted, no space after commas
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items() if value)

    def respond(self, request: Request) -> Response | None:
        """Issue a token (token.md#requesting-a-token, oauth.md#getting-a-token).

        Args:
            request: The request.

        Returns:
            The response; None at other paths.

        Raises:
            ErrorResponse: 400 for an invalid request, 401 for wrong credentials, 403 over plain http, 405 for another
                method, 429 after too many failures.
        """
        if request.path != _ENDPOINT:
            return None
        if request.method == "GET":
            return self._token_from_query(request)
        if request.method == "POST":
            return self._token_from_form(request)
        raise ErrorResponse(405, "UNSUPPORTED", "use GET or POST", headers=(("Allow", "GET, POST"),))

    def _token_from_query(self, request: Request) -> Response:
        self._check_service(request.parameter("service"))
        user = self._login(request)
        if not user and not self._rules().allows_anonymous:
            raise self._unauthorized(request, "authentication required to get a token")
        refresh = request.parameter("offline_token") == "true"
        return self._token_response(
            user, request.parameters("scope"), self._new_refresh_token(user) if user and refresh else ""
        )

    def _token_from_form(self, request: Request) -> Response:
        form = _parse_form(request)
        self._check_service(form.get("service"))
        if not self._accepts_passwords(request):
            raise plain_http_error()
        grant_type, scopes = form.get("grant_type"), [form.get("scope", "")]
        if grant_type == "password":
            user = form.get("username", "")
            if not self._htpasswd.verify(user, form.get("password", "").encode(), request.remote):
                raise self._unauthorized(request, "wrong user or password")
            refresh = self._new_refresh_token(user) if form.get("access_type") == "offline" else ""
            return self._token_response(user, scopes, refresh)
        if grant_type == "refresh_token":
            refresh = form.get("refresh_token", "")
            try:
                user, stamp = self._signer.verify_refresh_token(refresh)
                self._check_stamp(user, stamp)
            except InvalidToken as error:
                raise self._unauthorized(
                    request, "the refresh token is invalid or has expired; log in again"
                ) from error
            return self._token_response(user, scopes, refresh)
        raise ErrorResponse(400, "UNSUPPORTED", 'grant_type must be "password" or "refresh_token"')

    def _token_response(self, user: str, scopes: Iterable[str], refresh: str) -> Response:
        """Return a token for the allowed scopes; too few are no error (jwt.md)."""
        granted = self._granted_scopes(user, [text for value in scopes for text in value.split()])
        token, issued = self._signer.access_token(user, self._stamp(user) or "", granted, ttl=self._ttl)
        document = {
            "token": token,
            "access_token": token,
            "expires_in": self._ttl,
            "issued_at": datetime.fromtimestamp(issued, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(map(str, granted)),
        }
        headers = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))
        return json_response(200, document | ({"refresh_token": refresh} if refresh else {}), headers)

    def _granted_scopes(self, user: str, texts: Iterable[str]) -> list[Scope]:
        """Return the scopes with their allowed actions; unknown scopes are ignored."""
        rules, granted = self._rules(), []
        for scope in merge_scopes(map(_parse_scope, texts)):
            if scope.resource_type == "repository" and _is_repository(scope.name):
                requested = _ACTIONS if "*" in scope.actions else [a for a in scope.actions if a in _ACTIONS]
                if allowed := [action for action in requested if rules.allows(user, Permission(action, scope.name))]:
                    granted.append(Scope.repository(scope.name, *allowed))
            elif Scope.catalog() == scope and rules.allows(user, Permission("catalog")):
                granted.append(scope)
        return granted

    def _stamp(self, user: str) -> str | None:
        return self._htpasswd.fingerprint(user, self._signer.stamp_key) if user else ""

    def _check_stamp(self, user: str, stamp: str) -> None:
        if self._stamp(user) != stamp:
            raise InvalidToken("the user was removed or has a new password")

    def _new_refresh_token(self, user: str) -> str:
        return self._signer.refresh_token(user, self._stamp(user) or "", ttl=self._refresh_ttl)

    def _check_service(self, service: str | None) -> None:
        if service not in {None, self._service}:
            raise ErrorResponse(400, "UNSUPPORTED", f"this endpoint issues tokens for {self._service} only")

    def _token_url(self, request: Request) -> str:
        """Return the URL of the token endpoint as the client reaches it.

        Raises:
            ErrorResponse: 400 for an invalid Host.
        """
        if self._realm:
            return self._realm
        if not (_HOST.fullmatch(request.host) and _PREFIX.fullmatch(request.prefix)):
            raise ErrorResponse(400, "UNSUPPORTED", "the Host header is invalid")
        return f"{'https' if request.scheme == 'https' else 'http'}://{request.host}{request.prefix}{_ENDPOINT}"


def _scope_for(permission: Permission) -> Scope:
    """Return the scope of a permission; a push needs a pull to check existing blobs."""
    if permission.action == "catalog":
        return Scope.catalog()
    actions = ("pull", "push") if permission.action == "push" else (permission.action,)
    return Scope.repository(permission.repository, *actions)


def _parse_scope(text: str) -> Scope:
    """Return a scope without its resource class (scope.md#resource-class)."""
    scope = Scope.parse(text)
    return Scope(resource_type=scope.resource_type.partition("(")[0], name=scope.name, actions=scope.actions)


def _is_repository(name: str) -> bool:
    try:
        return bool(check_repository(name))
    except InvalidReference:
        return False


def _parse_form(request: Request) -> dict[str, str]:
    """Return the fields of a form; a field must not be repeated (RFC 6749 3.2).

    Raises:
        ErrorResponse: 400 for an invalid form, 413 for a form that is too large.
    """
    if request.header("Content-Type").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ErrorResponse(400, "UNSUPPORTED", "the Content-Type must be application/x-www-form-urlencoded")
    raw = request.body.set_limit(_MAX_FORM).set_deadline(SMALL_BODY).read()
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError as error:
        raise ErrorResponse(400, "UNSUPPORTED", "the form is not UTF-8 or has too many fields") from error
    form = dict(pairs)
    if "\0" in form.get("username", ""):
        raise ErrorResponse(400, "UNSUPPORTED", "the user name has a NUL character")
    if len(form) != len(pairs):
        raise ErrorResponse(400, "UNSUPPORTED", "the form has a repeated field")
    return form
