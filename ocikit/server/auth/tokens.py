"""Bearer tokens: the registry asks for them, and gives them out at a token endpoint of its own.

distribution token.md and oauth.md: a client gets a token for its password, good for a few things and a few minutes, and
sends that with its requests.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from urllib.parse import parse_qsl

from ocikit.errors import InvalidArgument, InvalidReference
from ocikit.server.auth.access import ANONYMOUS, Identity, Permission
from ocikit.server.auth.basic import PasswordAccess, check_word, not_private
from ocikit.server.auth.jwt import InvalidToken, Signer, load_key
from ocikit.server.auth.rules import Rules
from ocikit.server.auth.throttle import FAILURES
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request, Response, json_response
from ocikit.spec.challenge import Scope, merge_scopes
from ocikit.spec.reference import check_repository

#: Below the mount point of the registry, beside `/v2/`.
_PATH = "/token"

#: Seconds. oauth.md: "a token should never be returned with less than 60 seconds to live".
_SHORTEST = 60

#: Bytes of a form: a refresh token, and a hundred scopes.
_FORM = 1 << 17

_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)

#: RFC 3986 #3.2.2 and #3.3, of which nothing can end the quotes of a challenge.
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%!$&'()*+,;=:@-]+)*")

_ACTIONS = ("pull", "push", "delete")


class TokenAccess(PasswordAccess):
    """Asks for tokens, and has the endpoint that gives them for the passwords in an htpasswd file.

    A token says what it may be used for: what its user asked for, as far as the rules go. It ends early when a rule, the
    user's password, or the user goes.

    Args:
        path: the file with users; see `HtpasswdAccess`.
        key: the file with the key that signs tokens. It is made if it isn't there; every process of a registry needs the
            same. Who can read it can be anybody here.
        rules: who may do what, or a file that says so; everything for everybody who is in the file, if not given.
        anonymous_pull: whether everybody may pull everything, whatever the rules.
        service: the registry's name in challenges and tokens.
        issuer: the name of who makes tokens; that of the service, if not given.
        ttl: seconds that a token is good for; at least 60.
        refresh_ttl: seconds that a refresh token is good for, which a client keeps instead of a password.
        realm: the URL of the token endpoint as clients see it, if what they call this registry isn't it.
        allow_plain_http: as for `HtpasswdAccess`.
        clock: seconds since the epoch.
    Raises:
        InvalidArgument: if a file can't be read, or holds anything else, or others can read the key.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: str | os.PathLike[str],
        rules: Rules | str | os.PathLike[str] | None = None,
        *,
        anonymous_pull: bool = False,
        service: str = "ocikit",
        issuer: str = "",
        ttl: int = 300,
        refresh_ttl: int = 90 * 24 * 3600,
        realm: str = "",
        allow_plain_http: bool = False,
        failures: int = FAILURES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._service = check_word("service", service)
        super().__init__(
            path,
            rules,
            anonymous_pull=anonymous_pull,
            realm=service,
            allow_plain_http=allow_plain_http,
            failures=failures,
        )
        if ttl < _SHORTEST:
            raise InvalidArgument(f"ttl={ttl}", hint=f"clients take at least {_SHORTEST} seconds")
        self._signer = Signer(load_key(key), service=service, issuer=issuer or service, clock=clock)
        self._ttl = ttl
        self._refresh_ttl = refresh_ttl
        self._realm = realm and check_word("realm", realm)

    def identify(self, request: Request) -> Identity:
        """Who has the token; somebody with a problem, if it isn't good."""
        header = request.header("Authorization")
        if not header:
            return ANONYMOUS
        match = _BEARER.fullmatch(header)
        try:
            identity, stamp = self._signer.identity(match[1] if match else "")
            self._check_stamp(identity.name, stamp)
        except InvalidToken:
            return Identity(problem="invalid_token")
        return identity

    def allows(self, identity: Identity, need: Permission) -> bool:
        """Whether the token is for that, and the rules still allow it; without a token, what they allow everybody."""
        granted = identity.grants is None or any(
            need.repository == repository and need.action in actions for repository, actions in identity.grants
        )
        return granted and self._rules().allows(identity.name, need)

    def reads(self, identity: Identity, repository: str) -> bool:
        """Whether the user may pull it: a token for the catalog names no repositories."""
        return self._rules().allows(identity.name, Permission("pull", repository))

    def challenge(self, request: Request, needs: Sequence[Permission], identity: Identity = ANONYMOUS) -> str:
        """`Bearer`, with the scopes for the needs. token.md#how-to-authenticate, RFC 6750 #3.

        Raises: Refusal: 403 where nobody should send a password; 400 for a Host that is none.
        """
        rules = self._rules()
        # A mount's source may be refused: then it is an upload
        if identity.name and needs and not rules.allows(identity.name, needs[0]):
            return ""
        if not self._private(request):
            raise not_private()
        scopes = merge_scopes(_scope(need) for need in needs)
        error = identity.problem or ("insufficient_scope" if identity.grants is not None else "")
        said = {
            "realm": self._realm_of(request),
            "service": self._service,
            "scope": " ".join(map(str, scopes)),
            "error": error,
        }
        # One header, one scope, everything quoted, no space after commas: what the oldest clients read
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in said.items() if value)

    def answer(self, request: Request) -> Response | None:
        """A token. token.md#requesting-a-token, oauth.md#getting-a-token. Raises: Refusal: 400, 401, 403, 405, 429."""
        if request.path != _PATH:
            return None
        if request.method == "GET":
            return self._by_query(request)
        if request.method == "POST":
            return self._by_form(request)
        raise ErrorResponse(405, "UNSUPPORTED", "GET or POST", headers=(("Allow", "GET, POST"),))

    def _by_query(self, request: Request) -> Response:
        self._check_service(request.parameter("service"))
        user = self._login(request)
        if not user and not self._rules().anybody:
            raise self._refused(request, "log in for a token")
        refresh = request.parameter("offline_token") == "true"
        return self._token(user, request.parameters("scope"), self._new_refresh_token(user) if user and refresh else "")

    def _by_form(self, request: Request) -> Response:
        form = _form(request)
        self._check_service(form.get("service"))
        if not self._private(request):
            raise not_private()
        grant, scopes = form.get("grant_type"), [form.get("scope", "")]
        if grant == "password":
            user = form.get("username", "")
            if not self._htpasswd.verify(user, form.get("password", "").encode(), request.remote):
                raise self._refused(request, "wrong user or password")
            return self._token(
                user, scopes, self._new_refresh_token(user) if form.get("access_type") == "offline" else ""
            )
        if grant == "refresh_token":
            refresh = form.get("refresh_token", "")
            try:
                user, stamp = self._signer.user(refresh)
                self._check_stamp(user, stamp)
            except InvalidToken as error:
                raise self._refused(request, "this refresh token isn't good, or no longer; log in again") from error
            return self._token(user, scopes, refresh)
        raise ErrorResponse(400, "UNSUPPORTED", 'grant_type is "password" or "refresh_token"')

    def _token(self, user: str, scopes: Iterable[str], refresh: str) -> Response:
        """A token for what was asked for, as far as the rules go. Less than that is no error: jwt.md."""
        granted = self._granted(user, [text for each in scopes for text in each.split()])
        token, issued = self._signer.access(user, self._stamp(user) or "", granted, ttl=self._ttl)
        answer = {
            "token": token,
            "access_token": token,
            "expires_in": self._ttl,
            "issued_at": datetime.fromtimestamp(issued, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "scope": " ".join(map(str, granted)),
        }
        headers = (("Cache-Control", "no-store"), ("Pragma", "no-cache"))
        return json_response(200, answer | ({"refresh_token": refresh} if refresh else {}), headers)

    def _granted(self, user: str, texts: Iterable[str]) -> list[Scope]:
        """The scopes, each with what is left of it. What is no scope of ours is left out."""
        rules, granted = self._rules(), []
        for scope in merge_scopes(map(_ours, texts)):
            if scope.resource_type == "repository" and _is_repository(scope.name):
                wanted = _ACTIONS if "*" in scope.actions else [a for a in scope.actions if a in _ACTIONS]
                if left := [action for action in wanted if rules.allows(user, Permission(action, scope.name))]:
                    granted.append(Scope.repository(scope.name, *left))
            elif Scope.catalog() == scope and rules.allows(user, Permission("catalog")):
                granted.append(scope)
        return granted

    def _stamp(self, user: str) -> str | None:
        return self._htpasswd.fingerprint(user, self._signer.stamp_key) if user else ""

    def _check_stamp(self, user: str, stamp: str) -> None:
        if self._stamp(user) != stamp:
            raise InvalidToken("the user is gone, or has a new password")

    def _new_refresh_token(self, user: str) -> str:
        return self._signer.refresh(user, self._stamp(user) or "", ttl=self._refresh_ttl)

    def _check_service(self, service: str | None) -> None:
        if service not in {None, self._service}:
            raise ErrorResponse(400, "UNSUPPORTED", f"tokens from here are for {self._service}")

    def _realm_of(self, request: Request) -> str:
        """Where the token endpoint is for the client that asks."""
        if self._realm:
            return self._realm
        if not (_HOST.fullmatch(request.host) and _PREFIX.fullmatch(request.prefix)):
            raise ErrorResponse(400, "UNSUPPORTED", "the Host header is no host")
        return f"{'https' if request.scheme == 'https' else 'http'}://{request.host}{request.prefix}{_PATH}"


def _scope(need: Permission) -> Scope:
    """The scope for a need; who pushes looks first at what is there."""
    if need.action == "catalog":
        return Scope.catalog()
    return Scope.repository(need.repository, *(("pull", "push") if need.action == "push" else (need.action,)))


def _ours(text: str) -> Scope:
    """A scope without its resource class, which is ignored: scope.md#resource-class."""
    scope = Scope.parse(text)
    return Scope(resource_type=scope.resource_type.partition("(")[0], name=scope.name, actions=scope.actions)


def _is_repository(name: str) -> bool:
    try:
        return bool(check_repository(name))
    except InvalidReference:
        return False


def _form(request: Request) -> dict[str, str]:
    """The fields of a form, each once: RFC 6749 #3.2. Raises: Refusal: 400, 413."""
    if request.header("Content-Type").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise ErrorResponse(400, "UNSUPPORTED", "a form is application/x-www-form-urlencoded")
    raw = request.body.allow(_FORM).read()
    try:
        pairs = parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError as error:
        raise ErrorResponse(400, "UNSUPPORTED", "the form is not UTF-8, or has too many fields") from error
    form = dict(pairs)
    if len(form) != len(pairs):
        raise ErrorResponse(400, "UNSUPPORTED", "a field stands twice in the form")
    return form
