"""A token server for registries with Bearer tokens, as token.md, oauth.md and jwt.md specify.

`requests` records every request with its scopes and its user.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler
from typing import Any, Self

from attrs import define, evolve, field, frozen

from ocikit.testing.faults import Listener

ALL = frozenset({"pull", "push", "delete", "*"})


@frozen(kw_only=True)
class TokenRequest:
    """One request to the token server."""

    method: str
    path: str
    parameters: Mapping[str, tuple[str, ...]]
    """Every parameter of the query or form with all its values, including passwords."""
    headers: Mapping[str, str]
    user: str | None = None
    """The claimed user, of Basic or of grant_type=password."""
    subject: str | None = None
    """The authenticated user; None is anonymous."""
    status: int = 0
    granted: tuple[str, ...] = ()
    """The scopes in the token."""

    @property
    def scopes(self) -> tuple[str, ...]:
        """The requested scopes, from repeated parameters and from space-separated lists."""
        return tuple(scope for value in self.parameters.get("scope", ()) for scope in value.split())

    @property
    def service(self) -> str | None:
        """The requested service."""
        return next(iter(self.parameters.get("service", ())), None)

    @property
    def grant(self) -> str | None:
        """The grant_type of a POST."""
        return next(iter(self.parameters.get("grant_type", ())), None)


@define(eq=False)
class TokenServer:
    """The token server on a free loopback port, a context manager. Its fields may change while it runs."""

    users: dict[str, str] = field(factory=lambda: {"ada": "lovelace"}, repr=False)
    """Passwords by user."""
    rights: dict[str, dict[str, Iterable[str]]] = field(factory=dict)
    """By user: actions by pattern of a repository, or of type:name. Users without an entry have all permissions."""
    anonymous: dict[str, Iterable[str]] = field(factory=dict)
    """The same for anonymous clients."""
    hostname: str = "localhost"
    """The host name in the realm: crane rejects a realm with a loopback address, but accepts a name."""
    service: str = "registry.test"
    issuer: str = "ocikit.testing"

    expires_in: int | None = 300
    """Seconds, as sent to the client. None omits the field."""
    lifetime: int | None = None
    """Seconds until the token really expires, if different. distribution 3 grants 60 more."""
    issued_at: bool = True
    only_access_token: bool = False
    only_token: bool = False
    refuse_scopes: set[str] = field(factory=set)
    """Scopes that make the whole exchange fail, as Docker Hub does for an invisible mount source."""
    refuse_status: int = 403
    post: bool = True
    """False returns 404, as servers without OAuth 2 do."""
    get: bool = True
    rotate: bool = False
    """Each refresh returns a new refresh token and invalidates the old one."""
    outage: int = 0
    """The number of next requests that fail with 503."""

    requests: list[TokenRequest] = field(factory=list, init=False)
    refresh_tokens: dict[str, str | None] = field(factory=dict, init=False, repr=False)
    _key: bytes = field(factory=lambda: secrets.token_bytes(32), init=False, repr=False)
    _issued: set[str] = field(factory=set, init=False, repr=False)
    _revoked: set[str] = field(factory=set, init=False, repr=False)
    _server: Listener = field(init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def __enter__(self) -> Self:
        self._server = Listener(("127.0.0.1", 0), _handler(self))
        self._server.start(type(self).__name__)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    @property
    def host(self) -> str:
        """The name with the port."""
        return f"{self.hostname}:{self._server.server_port}"

    @property
    def realm(self) -> str:
        """The URL of the tokens."""
        return f"http://{self.host}/token"

    def challenge(self, *scopes: str) -> str:
        """Return a WWW-Authenticate value with this server as its realm."""
        scope = f',scope="{" ".join(scopes)}"' if scopes else ""
        return f'Bearer realm="{self.realm}",service="{self.service}"{scope}'

    def sign(self, subject: str | None, scopes: Iterable[str], **claims: Any) -> str:
        """Return a token for exactly these scopes, without a permission check. Claims replace those of the token."""
        now = int(time.time())
        lifetime = (
            self.lifetime if self.lifetime is not None else self.expires_in if self.expires_in is not None else 60
        )
        access = []
        for scope in scopes:
            kind, name, actions = _parse_scope(scope)
            access.append({"type": kind, "name": name, "actions": sorted(actions)})
        serial = secrets.token_hex(16)
        with self._lock:
            self._issued.add(serial)
        payload = {
            "iss": self.issuer,
            "sub": subject or "",
            "aud": self.service,
            "exp": now + lifetime,
            "nbf": now - 60 + min(lifetime, 0),
            "iat": now,
            "jti": serial,
            "access": access,
        }
        return self.encode(payload | claims)

    def encode(self, payload: dict[str, Any]) -> str:
        """Sign a token."""
        import jwt  # noqa: PLC0415 - an optional package

        return jwt.encode(payload, self._key, algorithm="HS256")

    def decode(self, token: str) -> dict[str, Any]:
        """Return the claims of a token after checking its signature."""
        import jwt  # noqa: PLC0415 - an optional package

        claims: dict[str, Any] = jwt.decode(token, self._key, algorithms=["HS256"], audience=self.service)
        return claims

    def claims(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a valid token, or None."""
        import jwt  # noqa: PLC0415 - an optional package

        try:
            claims = self.decode(token)
        except jwt.InvalidTokenError:
            return None
        return None if claims["jti"] in self._revoked else claims

    def revoke(self) -> None:
        """Make all tokens invalid that the server has issued."""
        with self._lock:
            self._revoked |= self._issued

    def granted(self, subject: str | None, scope: str) -> str | None:
        """Return the part of a scope that this user has, or None."""
        kind, name, actions = _parse_scope(scope)
        rights = self.anonymous if subject is None else self.rights.get(subject, {"*": ALL, "*:*": ALL})
        allowed: set[str] = set()
        for pattern, some in rights.items():
            if fnmatchcase(f"{kind}:{name}", pattern if ":" in pattern else f"repository:{pattern}"):
                allowed |= set(some)
        kept = [action for action in actions if action in allowed]
        return f"{kind}:{name}:{','.join(kept)}" if kept else None

    def answer(self, request: TokenRequest, secret: str | None) -> tuple[TokenRequest, dict[str, Any]]:
        """Return the request to record and the body to send.

        Args:
            request: The request.
            secret: The password of its user.
        """
        with self._lock:
            if self.outage > 0:
                self.outage -= 1
                return evolve(request, status=503), _error("UNAVAILABLE", "come back later")
        if not (self.post if request.method == "POST" else self.get):
            return evolve(request, status=404), _error("NOT_FOUND", "not here")
        if urllib.parse.urlsplit(request.path).path != "/token":
            return evolve(request, status=404), _error("NOT_FOUND", "the realm is /token")

        first = {key: values[0] for key, values in request.parameters.items()}
        if request.method == "POST" and not (first.get("service") and first.get("client_id")):
            return evolve(request, status=400), {"error": "invalid_request", "error_description": "service, client_id"}
        refresh = None
        if request.grant == "refresh_token":
            refresh = first.get("refresh_token", "")
            with self._lock:
                if refresh not in self.refresh_tokens:
                    return evolve(request, status=401), {"error": "invalid_grant"} | _error(
                        "UNAUTHORIZED", "unknown refresh token"
                    )
                subject = self.refresh_tokens[refresh]
                if self.rotate:
                    del self.refresh_tokens[refresh]
                    refresh = None
        elif request.method == "POST" and request.grant != "password":
            return evolve(request, status=400), {"error": "unsupported_grant_type"}
        elif request.user is None:
            subject = None
        elif self.users.get(request.user) == secret:
            subject = request.user
        else:
            return evolve(request, status=401), _error("UNAUTHORIZED", "incorrect username or password")
        request = evolve(request, subject=subject)

        if refused := self.refuse_scopes.intersection(request.scopes):
            return evolve(request, status=self.refuse_status), _error(
                "DENIED", f"access to {' '.join(sorted(refused))} is refused"
            )
        granted = tuple(some for scope in request.scopes if (some := self.granted(subject, scope)))
        token = self.sign(subject, granted)
        body: dict[str, Any] = {"access_token": token}
        if request.method == "POST":
            body["scope"] = " ".join(granted)
        elif self.only_token:
            body = {"token": token}
        elif not self.only_access_token:
            body = {"token": token, "access_token": token}
        if self.expires_in is not None:
            body["expires_in"] = self.expires_in
        if self.issued_at:
            body["issued_at"] = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        offline = first.get("access_type") == "offline" or first.get("offline_token") == "true"
        if subject is not None and (offline or request.grant == "refresh_token"):
            if refresh is None:
                refresh = secrets.token_urlsafe(32)
                with self._lock:
                    self.refresh_tokens[refresh] = subject
            body["refresh_token"] = refresh
        return evolve(request, status=200, granted=granted), body


def _handler(server: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            self._serve(urllib.parse.urlsplit(self.path).query)

        def do_POST(self) -> None:
            self._serve(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())

        def _serve(self, encoded: str) -> None:
            parameters = {
                key: tuple(values) for key, values in urllib.parse.parse_qs(encoded, keep_blank_values=True).items()
            }
            user = secret = None
            scheme, _, value = self.headers.get("Authorization", "").partition(" ")
            if scheme.lower() == "basic":
                user, _, secret = base64.b64decode(value).decode().partition(":")
            elif self.command == "POST" and "username" in parameters:
                user, secret = parameters["username"][0], parameters.get("password", ("",))[0]
            request = TokenRequest(
                method=self.command,
                path=self.path,
                parameters=parameters,
                headers=dict(self.headers.items()),
                user=user,
            )
            request, body = server.answer(request, secret)
            server.requests.append(request)
            content = json.dumps(body).encode()
            with suppress(ConnectionError):
                self.send_response(request.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                if request.status == 401:
                    self.send_header("WWW-Authenticate", f'Basic realm="{server.issuer}"')
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Log nothing: tests read `requests`."""

    return Handler


def _parse_scope(scope: str) -> tuple[str, str, list[str]]:
    """Split into type, name and actions. The name may contain a colon: scope.md, a host's port."""
    kind, _, rest = scope.partition(":")
    name, _, actions = rest.rpartition(":")
    return kind.partition("(")[0], name, [action for action in actions.split(",") if action]


def _error(code: str, message: str) -> dict[str, Any]:
    return {"errors": [{"code": code, "message": message, "detail": None}], "details": message}
