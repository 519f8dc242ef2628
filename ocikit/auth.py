"""Who we are to registries: log in, log out, and see where credentials come from."""

from __future__ import annotations

from ocikit.remote.explanation import Explanation
from ocikit.session import Session

__all__ = ["explain", "login", "logout"]


def explain(host: str, repository: str = "") -> Explanation:
    """Where credentials for a registry are looked for, what is there, and which are used; never a secret.

    Args:
        host: the registry, such as "ghcr.io".
        repository: a name in it, for credentials that are bound to a path.
    """
    with Session() as session:
        return session.explain(host, repository)


def login(host: str, username: str = "", password: str | None = None) -> str:
    """Check credentials with a registry and keep them where docker and podman find them, too. Gives the place.

    Without a password it is asked for, unseen.

    Raises: Unauthorized: they are wrong, and nothing is kept.
    """
    with Session() as session:
        return session.login(host, username, password)


def logout(host: str) -> bool:
    """Forget what `login` kept for a registry; whether there was anything."""
    with Session() as session:
        return session.logout(host)
