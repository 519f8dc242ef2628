"""Who we are to registries: log in, log out, and see where credentials come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from ocikit.client.session import Session
from ocikit.remote.auth.explanation import Explanation

if TYPE_CHECKING:
    from ocikit.notebook.login import LoginForm


def explain(host: str, repository: str = "") -> Explanation:
    """Where credentials for a registry are looked for, what is there, and which are used; never a secret.

    Args:
        host: the registry, such as "ghcr.io".
        repository: a name in it, for credentials that are bound to a path.
    """
    with Session() as session:
        return session.explain(host, repository)


@overload
def login(host: str, username: str = "", password: str | None = None, *, form: Literal[False] = False) -> str: ...


@overload
def login(host: str, username: str = "", *, form: Literal[True]) -> LoginForm: ...


def login(host: str, username: str = "", password: str | None = None, *, form: bool = False) -> str | LoginForm:
    """Check credentials with a registry and keep them where docker and podman find them, too. Gives the place.

    What isn't given is asked for, the password unseen; `form=True` shows a form in a notebook instead.

    Raises: Unauthorized: they are wrong, and nothing is kept. CredentialsError: nobody can be asked here.
    """
    with Session() as session:
        return session.login(host, username, form=True) if form else session.login(host, username, password)


def logout(host: str) -> bool:
    """Forget what `login` kept for a registry; whether there was anything."""
    with Session() as session:
        return session.logout(host)
