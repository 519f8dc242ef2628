"""Credentials for registries: log in, log out, explain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ocikit.client.login import login_host
from ocikit.client.session import Session
from ocikit.client.shared import shared_session
from ocikit.errors import OcikitError
from ocikit.remote.auth.explanation import Explanation
from ocikit.spec.calls import explain_call

if TYPE_CHECKING:
    from ocikit.notebook.login import LoginForm


@explain_call
def explain(host: str, repository: str = "") -> Explanation:
    """Return where credentials for a registry come from, without secrets.

    Args:
        host: Host of the registry, such as "ghcr.io".
        repository: Name of a repository, for credentials that apply to a path.

    >>> ocikit.auth.explain("ghcr.io")
    Explanation(host='ghcr.io', kind='anonymous')
    """
    with shared_session.use() as session:
        return session.explain(host, repository)


@explain_call
def login(host: str, username: str = "", password: str | None = None) -> str:
    """Check credentials with a registry and store them.

    Docker and podman find them, too. Missing values are prompted for; the password is not echoed. See `login_form` for a form in a notebook.

    Args:
        host: Host of the registry, such as "ghcr.io".
        username: Name of the account.
        password: Password or token; None prompts for it.

    Returns:
        Where the credentials are stored. A note follows if the registry requires no login and did not check them.

    Raises:
        Unauthorized: The credentials are invalid; nothing is stored.
        CredentialsError: A prompt is not possible here.
        ConnectionFailed: The credentials could not be checked; nothing is stored.

    >>> ocikit.auth.login("localhost:5000", "ada", "not shown")
    '~/.docker/config.json; they were not checked, because localhost:5000 requires no login'
    """
    try:
        with shared_session.use() as session:
            return session.login(host, username, password)
    finally:
        shared_session.drop()


@explain_call
def login_form(host: str, username: str = "", session: Session | None = None) -> LoginForm:
    """Return a login form for a notebook; its button does what `login` does.

    Args:
        host: Host of the registry, such as "ghcr.io".
        username: Initial name of the account.
        session: Session that logs in; None calls `login`.

    Raises:
        InvalidReference: `host` is not a registry host.
        OcikitError: ipywidgets is not installed.

    >>> ocikit.auth.login_form("ghcr.io")
    <login form for ghcr.io>
    """
    try:
        from ocikit.notebook.login import LoginForm  # noqa: PLC0415 - needs ipywidgets
    except ImportError as error:
        raise OcikitError("login_form needs ipywidgets", hint="pip install 'ocikit[notebook]'") from error
    return LoginForm(login_host(host), username, session.login if session else login)


@explain_call
def logout(host: str) -> bool:
    """Delete the credentials that `login` stored for a registry.

    Returns:
        True if there were any.

    >>> place = ocikit.auth.login("localhost:5000", "ada", "not shown")
    >>> ocikit.auth.logout("localhost:5000")
    True
    """
    try:
        with shared_session.use() as session:
            return session.logout(host)
    finally:
        shared_session.drop()
