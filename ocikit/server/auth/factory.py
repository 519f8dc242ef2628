"""Access adapters from the options of the command line and of `serve`."""

from __future__ import annotations

import os
from pathlib import Path

from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import Access, OpenAccess
from ocikit.server.auth.basic import HtpasswdAccess
from ocikit.server.auth.throttle import FAILURES, FailureLog
from ocikit.server.auth.tokens import TokenAccess


def access_from(
    *,
    htpasswd: str | os.PathLike[str] | None = None,
    token: bool = False,
    folder: str | os.PathLike[str] | None = None,
    key: bytes | None = None,
    rules: str | os.PathLike[str] | None = None,
    allow_anonymous_pull: bool = False,
    allow_plain_http: bool = False,
    failures: int = FAILURES,
    failure_log: FailureLog | None = None,
) -> Access:
    """Return the access adapter for some options.

    Args:
        htpasswd: File with users; None disables authentication.
        token: Issue bearer tokens for passwords.
        folder: Folder of the registry; the signing key of the tokens is `token.key` in it.
        key: The signing key itself, in place of the file.
        rules: File with access rules; None allows everything for users and nothing for others.
        allow_anonymous_pull: Allow pulls without a login. This overrides the rules.
        allow_plain_http: Accept passwords from other machines over plain http.
        failures: Failed logins of one user from one address in five minutes before further ones are rejected.
        failure_log: The failed logins of all processes; None counts those of each process.

    Returns:
        The adapter.

    Raises:
        InvalidArgument: The options contradict each other, or a file is invalid.
    """
    if htpasswd is None:
        needs_users = {"token": token, "rules": rules, "allow_anonymous_pull": allow_anonymous_pull}
        if names := [name for name, value in needs_users.items() if value]:
            raise InvalidArgument(f"{names[0]} requires users", hint="add an htpasswd file; htpasswd -B creates one")
        return OpenAccess()
    if not token:
        return HtpasswdAccess(
            htpasswd,
            rules,
            allow_anonymous_pull=allow_anonymous_pull,
            allow_plain_http=allow_plain_http,
            failures=failures,
            failure_log=failure_log,
        )
    if key is None and folder is None:
        raise InvalidArgument("token requires a folder for the signing key", hint="pass folder=")
    return TokenAccess(
        htpasswd,
        key if key is not None else Path(folder or "") / "token.key",
        rules,
        allow_anonymous_pull=allow_anonymous_pull,
        allow_plain_http=allow_plain_http,
        failures=failures,
        failure_log=failure_log,
    )
