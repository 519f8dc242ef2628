"""Access by what a command line or `serve()` says of it."""

from __future__ import annotations

import os
from pathlib import Path

from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import Access, OpenAccess
from ocikit.server.auth.basic import HtpasswdAccess
from ocikit.server.auth.throttle import FAILURES
from ocikit.server.auth.tokens import TokenAccess


def access_from(
    *,
    htpasswd: str | os.PathLike[str] | None = None,
    token: bool = False,
    folder: str | os.PathLike[str] | None = None,
    rules: str | os.PathLike[str] | None = None,
    anonymous_pull: bool = False,
    allow_plain_http: bool = False,
    failures: int = FAILURES,
) -> Access:
    """The adapter for some settings.

    Args:
        htpasswd: the file with users; None lets everybody do everything.
        token: whether clients get tokens for their passwords, and send these.
        folder: where the registry keeps things: the key that tokens are signed with is `token.key` in it.
        rules: a file with rules; None is everything for users, and nothing for others.
        anonymous_pull: whether everybody may pull everything, whatever the rules.
        allow_plain_http: whether passwords are taken without TLS from other machines.
        failures: wrong passwords of one user from one address in five minutes, before they have to wait.
    Raises:
        InvalidArgument: if the settings don't go together, or a file isn't as it should be.
    """
    if htpasswd is None:
        said = {"token": token, "rules": rules, "anonymous_pull": anonymous_pull}
        if without := [name for name, value in said.items() if value]:
            raise InvalidArgument(f"{without[0]} goes with users", hint="name an htpasswd file; htpasswd -B makes one")
        return OpenAccess()
    if not token:
        return HtpasswdAccess(
            htpasswd, rules, anonymous_pull=anonymous_pull, allow_plain_http=allow_plain_http, failures=failures
        )
    if folder is None:
        raise InvalidArgument("tokens need a folder for their key")
    return TokenAccess(
        htpasswd, Path(folder) / "token.key", rules, anonymous_pull=anonymous_pull, allow_plain_http=allow_plain_http,
        failures=failures,
    )  # fmt: skip
