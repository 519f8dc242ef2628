"""Host and prompt of a login."""

from __future__ import annotations

import getpass

from ocikit.client.arguments import check_login_key
from ocikit.errors import CredentialsError
from ocikit.remote.auth.docker_config import normalize_key
from ocikit.spec.reference import RegistryHost


def login_host(host: str) -> str:
    """Return the registry host of a login, without scheme and path.

    Raises:
        InvalidReference: The text does not name a registry host.

    >>> from ocikit.client.login import login_host
    >>> login_host("docker.io")
    'docker.io'
    """
    name = normalize_key(check_login_key(host)).partition("/")[0]
    RegistryHost.parse(name)
    return name


def ask_credentials(host: str, username: str = "") -> tuple[str, str]:
    """Return a user name and a password from prompts; the password is not echoed.

    Args:
        host: Host of the registry.
        username: Name of the account; "" prompts for it.

    Raises:
        CredentialsError: A prompt is not possible here.
    """
    try:
        username = username or input(f"User name at {host}: ").strip()
        return username, getpass.getpass(f"Password or token of {username or 'the account'} at {host}: ")
    except (EOFError, OSError, RuntimeError) as error:  # a kernel without a front end raises RuntimeError
        raise CredentialsError(
            f"login at {host} failed: the password cannot be prompted for here",
            hint="pass user name and password from where your secrets are stored, such as os.environ",
        ) from error
