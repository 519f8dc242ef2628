"""Basic authentication (RFC 7617), and the base class of adapters with an htpasswd file."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ocikit.display import quoted
from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import ANONYMOUS, Access, Identity, Permission, Problem
from ocikit.server.auth.htpasswd import Htpasswd
from ocikit.server.auth.reloading import ReloadingFile
from ocikit.server.auth.rules import Rules
from ocikit.server.auth.throttle import FAILURES, FailureLog
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.challenge import Challenge

_BASIC = re.compile(r"basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)

#: Characters of an Authorization header; longer ones are rejected unread.
_MAX_HEADER = 8000

#: Headers that show that a proxy forwarded the request.
_PROXY_HEADERS = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via")


class PasswordAccess(Access):
    """Base class of adapters with an htpasswd file and rules."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        rules: Rules | str | os.PathLike[str] | None,
        *,
        allow_anonymous_pull: bool,
        realm: str,
        allow_plain_http: bool,
        failures: int,
        failure_log: FailureLog | None = None,
    ) -> None:
        self._htpasswd = Htpasswd(path, failures=failures, log=failure_log)
        self._rules_file = _rules_file(rules, allow_anonymous_pull=allow_anonymous_pull)
        self._basic_challenge = basic_challenge(realm)
        self._allow_plain_http = allow_plain_http

    def problems(self) -> Sequence[Problem]:
        """Return the problems of the files of users and rules."""
        rules = None if isinstance(self._rules_file, Rules) else self._rules_file.problem
        return tuple(problem for problem in (self._htpasswd.problem, rules) if problem is not None)

    def _rules(self) -> Rules:
        """Return the current rules.

        Raises:
            ErrorResponse: 503 if their file has been broken for longer than the grace.
        """
        return self._rules_file if isinstance(self._rules_file, Rules) else self._rules_file.value

    def allows_anonymous_ping(self, request: Request) -> bool:
        """Return True if the connection is plain http and a rule needs no login."""
        return not self._accepts_passwords(request) and self._rules().allows_anonymous

    def _accepts_passwords(self, request: Request) -> bool:
        return self._allow_plain_http or is_private(request)

    def _login(self, request: Request) -> str:
        """Return the user of the request's Basic credentials; "" without credentials.

        Raises:
            ErrorResponse: 401 for a wrong password, 403 over plain http, 429 after too many failures.
        """
        header = request.header("Authorization")
        if not header:
            return ""
        if not self._accepts_passwords(request):
            raise plain_http_error()
        login = parse_basic(header)
        # podman and skopeo answer a challenge with empty credentials if they have no password
        if login == ("", b""):
            return ""
        if login is None or not self._htpasswd.verify(*login, request.remote):
            raise self._unauthorized(request, "wrong user or password")
        return login[0]

    def _unauthorized(self, request: Request, message: str) -> ErrorResponse:
        if not self._accepts_passwords(request):
            return plain_http_error()
        return ErrorResponse(401, "UNAUTHORIZED", message, headers=(("WWW-Authenticate", self._basic_challenge),))


class HtpasswdAccess(PasswordAccess):
    """Basic authentication of each request against an htpasswd file.

    Docker supports this, but requires a login for every pull then. Use `TokenAccess` for public repositories.

    Args:
        path: File with bcrypt hashes, as `htpasswd -B` writes them; it is loaded again when it changes. A broken or deleted
            file keeps its last users for a minute, then logins get a 503 response.
        rules: Access rules or a file with them; None allows everything for users and nothing for others.
        allow_anonymous_pull: Allow pulls without a login. This overrides the rules.
        realm: Name that clients show when they ask for a password.
        allow_plain_http: Accept passwords over plain http from other machines, where an attacker on the network can read
            them. Otherwise such clients get no challenge either.
        failures: Failed logins of one user from one address in five minutes before further ones are rejected.
        failure_log: The failed logins of all processes; None counts those of each process.

    Raises:
        InvalidArgument: A file cannot be read or is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rules: Rules | str | os.PathLike[str] | None = None,
        *,
        allow_anonymous_pull: bool = False,
        realm: str = "ocikit",
        allow_plain_http: bool = False,
        failures: int = FAILURES,
        failure_log: FailureLog | None = None,
    ) -> None:
        super().__init__(
            path,
            rules,
            allow_anonymous_pull=allow_anonymous_pull,
            realm=realm,
            allow_plain_http=allow_plain_http,
            failures=failures,
            failure_log=failure_log,
        )

    def identify(self, request: Request) -> Identity:
        """Return the user of the request's credentials.

        Args:
            request: The request.

        Returns:
            The identity; ANONYMOUS without credentials.

        Raises:
            ErrorResponse: 401 for a wrong password, 403 over plain http, 429 after too many failures.
        """
        user = self._login(request)
        return Identity(user) if user else ANONYMOUS

    def allows(self, identity: Identity, permission: Permission) -> bool:
        """Return True if the rules allow it."""
        return self._rules().allows(identity.name, permission)

    def challenge(self, request: Request, permissions: Sequence[Permission], identity: Identity = ANONYMOUS) -> str:
        """Return a `Basic` challenge for an anonymous request.

        Args:
            request: The request.
            permissions: Permissions that the request needs.
            identity: Current identity of the sender.

        Returns:
            The challenge; "" for a logged-in user.

        Raises:
            ErrorResponse: 403 over plain http, so that the client does not send a password.
        """
        if not identity.anonymous:
            return ""
        if not self._accepts_passwords(request):
            raise plain_http_error()
        return self._basic_challenge


def parse_basic(header: str) -> tuple[str, bytes] | None:
    """Return the user and password of an Authorization header; None if it is invalid.

    The format is that of RFC 7617 2.

    >>> parse_basic("Basic YWRhOmxvdmU6bGFjZQ==")
    ('ada', b'love:lace')
    """
    match = _BASIC.fullmatch(header) if len(header) <= _MAX_HEADER else None
    if match is None:
        return None
    try:
        user, colon, password = base64.b64decode(match[1] + "=" * (-len(match[1]) % 4), validate=True).partition(b":")
        # RFC 7617 2: a user name has no control characters
        return (user.decode(), password) if colon and b"\0" not in user else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def basic_challenge(realm: str) -> str:
    """Return a challenge for a user and password in UTF-8 (RFC 7617 2.1).

    Args:
        realm: Name that clients show.

    Returns:
        The header value.

    Raises:
        InvalidArgument: The realm cannot be quoted.
    """
    parameters = FrozenMap({"realm": check_quotable("realm", realm), "charset": "UTF-8"})
    return str(Challenge(scheme="Basic", parameters=parameters))


def check_quotable(name: str, value: str) -> str:
    """Return a value that can be quoted in a header without escapes.

    Args:
        name: Name of the argument, for the error.
        value: The value.

    Returns:
        The value.

    Raises:
        InvalidArgument: The value could break out of the quotes (header injection).
    """
    if re.fullmatch(r"[ !#-\[\]-~]+", value) is None:
        raise InvalidArgument(
            f"invalid {name}={quoted(value)}", hint="use printable ASCII characters without quotes and backslashes"
        )
    return value


def is_private(request: Request) -> bool:
    """Return True if the request uses TLS or comes from this machine.

    Requests of a local proxy count as remote unless the proxy is one of `Settings.trusted_proxies`.
    """
    if request.scheme == "https":
        return True
    try:
        address = ipaddress.ip_address(request.remote)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback and not any(request.header(name) for name in _PROXY_HEADERS)


def plain_http_error() -> ErrorResponse:
    """Return a 403 response without a challenge, so that no password is sent."""
    return ErrorResponse(
        403,
        "DENIED",
        "this registry accepts passwords over https only; use https. The operator can add a TLS proxy to trusted_proxies, or "
        "set allow_plain_http",
    )


def _rules_file(
    rules: Rules | str | os.PathLike[str] | None, *, allow_anonymous_pull: bool = False
) -> ReloadingFile[Rules] | Rules:
    """Return the file that holds the rules, or fixed rules.

    Raises:
        InvalidArgument: The file cannot be read or is invalid.
    """
    if rules is None or isinstance(rules, Rules):
        fixed = Rules.default() if rules is None else rules
        return fixed.with_anonymous_pull() if allow_anonymous_pull else fixed

    def load(path: Path) -> Rules:
        loaded = Rules.load(path)
        return loaded.with_anonymous_pull() if allow_anonymous_pull else loaded

    return ReloadingFile(rules, load, content="access rules")
