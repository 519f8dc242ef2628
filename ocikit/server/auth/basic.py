"""Names and passwords in a header: RFC 7617. Adapters share what is here."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ocikit.display import quoted
from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import ANONYMOUS, Access, Identity, Permission
from ocikit.server.auth.htpasswd import Htpasswd
from ocikit.server.auth.reloading import ReloadingFile
from ocikit.server.auth.rules import Rules
from ocikit.server.auth.throttle import FAILURES
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.http.request import Request
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.challenge import Challenge

_CREDENTIALS = re.compile(r"basic +([A-Za-z0-9+/]+={0,2}) *", re.IGNORECASE)

#: Characters of an Authorization header; more than any name and password need.
_LONGEST = 8000

#: What proxies say they have passed on.
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via")


class PasswordAccess(Access):
    """What adapters with an htpasswd file have in common: users, rules, and where passwords may be sent."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        rules: Rules | str | os.PathLike[str] | None,
        *,
        anonymous_pull: bool,
        realm: str,
        allow_plain_http: bool,
        failures: int,
    ) -> None:
        self._htpasswd = Htpasswd(path, failures=failures)
        self._rules = _rules_of(rules, anonymous_pull=anonymous_pull)
        self._basic = basic_challenge(realm)
        self._allow_plain_http = allow_plain_http

    def allows_anonymous_ping(self, request: Request) -> bool:
        """Only where there is something without a login, and no way to log in."""
        return not self._private(request) and self._rules().anybody

    def _private(self, request: Request) -> bool:
        return self._allow_plain_http or is_private(request)

    def _login(self, request: Request) -> str:
        """The user whose password a request has; "" for none. Raises: Refusal: 401; 403 where others could read it; 429."""
        header = request.header("Authorization")
        if not header:
            return ""
        if not self._private(request):
            raise not_private()
        given = credentials(header)
        # podman and skopeo answer a challenge in this way where they have no password
        if given == ("", b""):
            return ""
        if given is None or not self._htpasswd.verify(*given, request.remote):
            raise self._refused(request, "wrong user or password")
        return given[0]

    def _refused(self, request: Request, message: str) -> ErrorResponse:
        if not self._private(request):
            return not_private()
        return ErrorResponse(401, "UNAUTHORIZED", message, headers=(("WWW-Authenticate", self._basic),))


class HtpasswdAccess(PasswordAccess):
    """Asks for names and passwords, which are in an htpasswd file, with every request.

    Docker logs in this way, too, but then pulls nothing without a login: what everybody may pull needs `TokenAccess`.

    Args:
        path: the file, with bcrypt hashes as `htpasswd -B` makes them; read again when it changes.
        rules: who may do what, or a file that says so; everything for everybody who is in the file, if not given.
        anonymous_pull: whether everybody may pull everything, whatever the rules.
        realm: what clients show when they ask for a password.
        allow_plain_http: whether passwords are taken though somebody on the way could read them: without TLS, and not from
            this machine. Unless it is so, nobody there is asked for one, either.
    Raises:
        InvalidArgument: if a file can't be read, or holds anything else.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        rules: Rules | str | os.PathLike[str] | None = None,
        *,
        anonymous_pull: bool = False,
        realm: str = "ocikit",
        allow_plain_http: bool = False,
        failures: int = FAILURES,
    ) -> None:
        super().__init__(
            path,
            rules,
            anonymous_pull=anonymous_pull,
            realm=realm,
            allow_plain_http=allow_plain_http,
            failures=failures,
        )

    def identify(self, request: Request) -> Identity:
        """Who sends it. Raises: Refusal: 401 for a wrong password; 403 for one that others could read; 429."""
        user = self._login(request)
        return Identity(user) if user else ANONYMOUS

    def allows(self, identity: Identity, need: Permission) -> bool:
        """Whether the rules let somebody."""
        return self._rules().allows(identity.name, need)

    def challenge(self, request: Request, needs: Sequence[Permission], identity: Identity = ANONYMOUS) -> str:
        """`Basic`, for those who didn't say who they are. Raises: Refusal: 403 where nobody should."""
        if not identity.anonymous:
            return ""
        if not self._private(request):
            raise not_private()
        return self._basic


def credentials(header: str) -> tuple[str, bytes] | None:
    """The user and password in an Authorization header; None if there are none to be read. RFC 7617 #2.

    >>> credentials("Basic YWRhOmxvdmU6bGFjZQ==")
    ('ada', b'love:lace')
    """
    match = _CREDENTIALS.fullmatch(header) if len(header) <= _LONGEST else None
    if match is None:
        return None
    try:
        user, colon, password = base64.b64decode(match[1] + "=" * (-len(match[1]) % 4), validate=True).partition(b":")
        return (user.decode(), password) if colon else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def basic_challenge(realm: str) -> str:
    """A challenge that asks for a name and a password in UTF-8. RFC 7617 #2.1. Raises: InvalidArgument."""
    parameters = FrozenMap({"realm": check_word("realm", realm), "charset": "UTF-8"})
    return str(Challenge(scheme="Basic", parameters=parameters))


def check_word(name: str, word: str) -> str:
    """The word, if it can stand in a header between quotes as it is. Raises: InvalidArgument."""
    if re.fullmatch(r"[ !#-\[\]-~]+", word) is None:
        raise InvalidArgument(
            f"{name}={quoted(word)}", hint="printable ASCII characters, without quotes and backslashes"
        )
    return word


def is_private(request: Request) -> bool:
    """Whether nobody on the way can read it: by TLS, or within this machine.

    A proxy on this machine that isn't among `Settings.trusted_proxies` doesn't make its clients local.
    """
    if request.scheme == "https":
        return True
    try:
        address = ipaddress.ip_address(request.remote)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback and not any(request.header(name) for name in _FORWARDED)


def not_private() -> ErrorResponse:
    """The answer where a password could be read on its way. It asks for none, so that no client sends one."""
    return ErrorResponse(
        403, "DENIED",
        "this registry takes passwords over TLS only, since others could read them: ask for it by https. Its operator can "
        "put TLS in front and name that proxy in trusted_proxies, or allow_plain_http",
    )  # fmt: skip


def _rules_of(rules: Rules | str | os.PathLike[str] | None, *, anonymous_pull: bool = False) -> Callable[[], Rules]:
    """What gives the rules as of now. Raises: InvalidArgument."""
    if rules is None or isinstance(rules, Rules):
        fixed = Rules.default() if rules is None else rules
        fixed = fixed.with_anonymous_pull() if anonymous_pull else fixed
        return lambda: fixed

    def load(path: Path) -> Rules:
        loaded = Rules.load(path)
        return loaded.with_anonymous_pull() if anonymous_pull else loaded

    watched = ReloadingFile(rules, load)
    return lambda: watched.value
