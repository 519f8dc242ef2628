"""JSON Web Tokens (RFC 7519, distribution jwt.md) and the file of their signing key."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ocikit.errors import ContentError, InvalidArgument
from ocikit.server.auth.access import Identity
from ocikit.spec.challenge import Scope
from ocikit.store.files import atomic_writer, create_private_folder, open_file

#: The only accepted algorithm. The registry verifies its own tokens, so it needs no public keys; accepting another algorithm
#: would allow algorithm confusion.
_ALGORITHM = "HS256"

#: Bytes of a key: those of SHA-256 (RFC 7518 3.2).
_KEY_SIZE = 32

#: Seconds by which the clocks of machines with the same key may differ.
_LEEWAY = 10

#: Characters of a token with more than a hundred repositories; longer ones are rejected unread.
_MAX_TOKEN = 1 << 16

_CLAIMS = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti")


class InvalidToken(Exception):
    """A token that is malformed, expired, or not issued by this registry for this use."""


def load_key(path: str | os.PathLike[str]) -> bytes:
    """Read the signing key, and create it first if the file is missing.

    Processes that start at the same time get the same key.

    Args:
        path: File of the key.

    Returns:
        The key.

    Raises:
        InvalidArgument: Other users can read the file, the key is too short, or the file cannot be read or created.
    """
    path = Path(path)
    try:
        if not path.exists():
            _create_key(path)
        with open_file(path) as file:
            status = os.fstat(file.fileno())
            # Windows has no such mode bits; the access list of the folder counts there
            if os.name != "nt" and status.st_mode & 0o077:
                raise InvalidArgument(
                    f"other users can access the signing key {path}: mode {stat.S_IMODE(status.st_mode):04o}",
                    hint="delete the file if it may have been read, and a new key is created; otherwise run chmod 600",
                )
            key = file.read(1 << 16).strip()
    except ContentError as error:
        raise InvalidArgument(f"the signing key: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise InvalidArgument(f"cannot read or create the signing key {path}: {error.strerror or error}") from error
    if len(key) < _KEY_SIZE:
        raise InvalidArgument(
            f"the signing key {path} has {len(key)} bytes",
            hint=f"it needs {_KEY_SIZE}; delete the file, and a new key is created",
        )
    return key


def check_key(key: bytes) -> bytes:
    """Return a signing key that is long enough.

    Raises:
        InvalidArgument: The key is too short.
    """
    if len(key) < _KEY_SIZE:
        raise InvalidArgument(f"the signing key has {len(key)} bytes", hint=f"it needs {_KEY_SIZE}, of random bits")
    return key


def _create_key(path: Path) -> None:
    """Write a new key, unless another process writes one first."""
    create_private_folder(path.parent)
    with contextlib.suppress(FileExistsError), atomic_writer(path, mode=0o600, replace=False) as file:
        file.write(secrets.token_hex(_KEY_SIZE).encode() + b"\n")


class Signer:
    """Issues and verifies tokens.

    Access and refresh tokens have different keys and audiences.

    Args:
        key: Signing key; see `load_key`.
        service: Audience of access tokens: the name of this registry.
        issuer: Name of the issuer.
        clock: Function that returns the seconds since the epoch.
    """

    def __init__(self, key: bytes, *, service: str, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._access_key, self._refresh_key, self._stamp_key = (
            hmac.new(key, f"ocikit {use}".encode(), hashlib.sha256).digest() for use in ("access", "refresh", "stamp")
        )
        self._service = service
        self._issuer = issuer
        self._clock = clock

    @property
    def stamp_key(self) -> bytes:
        """Key of the stamps, which bind tokens to passwords: see `Htpasswd.fingerprint`."""
        return self._stamp_key

    def access_token(self, user: str, stamp: str, scopes: Iterable[Scope], *, ttl: int) -> tuple[str, int]:
        """Issue an access token (jwt.md#getting-a-bearer-token).

        Args:
            user: Name of the user.
            stamp: Fingerprint of the user's password.
            scopes: Scopes that the token grants.
            ttl: Seconds until the token expires.

        Returns:
            The token, and the time of its issue in seconds since the epoch.
        """
        access = [{"type": scope.resource_type, "name": scope.name, "actions": list(scope.actions)} for scope in scopes]
        return self._sign(self._access_key, self._service, user, stamp, ttl, access=access)

    def refresh_token(self, user: str, stamp: str, *, ttl: int) -> str:
        """Issue a refresh token (oauth.md#refresh-token-format).

        Args:
            user: Name of the user.
            stamp: Fingerprint of the user's password.
            ttl: Seconds until the token expires.

        Returns:
            The token.
        """
        return self._sign(self._refresh_key, self._refresh_audience, user, stamp, ttl)[0]

    def verify_access_token(self, token: str) -> tuple[Identity, str]:
        """Verify an access token.

        Args:
            token: The token.

        Returns:
            The identity with its grants, and the stamp.

        Raises:
            InvalidToken: The token is invalid.
        """
        claims = self._verify(token, self._access_key, self._service)
        try:
            grants = tuple(_grant(entry) for entry in claims["access"])
            return Identity(claims["sub"], grants), claims["stamp"]
        except (KeyError, TypeError) as error:
            raise InvalidToken(f"invalid claims: {error!r}") from error

    def verify_refresh_token(self, token: str) -> tuple[str, str]:
        """Verify a refresh token.

        Args:
            token: The token.

        Returns:
            The user and the stamp.

        Raises:
            InvalidToken: The token is invalid.
        """
        claims = self._verify(token, self._refresh_key, self._refresh_audience)
        return str(claims["sub"]), str(claims.get("stamp"))

    @property
    def _refresh_audience(self) -> str:
        return f"{self._service}/token"

    def _sign(self, key: bytes, audience: str, user: str, stamp: str, ttl: int, **claims: object) -> tuple[str, int]:
        import jwt  # noqa: PLC0415 - optional package

        now = int(self._clock())
        payload = {
            "iss": self._issuer,
            "sub": user,
            "aud": audience,
            "exp": now + ttl,
            "nbf": now,
            "iat": now,
            "jti": secrets.token_hex(16),
            "stamp": stamp,
            **claims,
        }
        return jwt.encode(payload, key, algorithm=_ALGORITHM), now

    def _verify(self, token: str, key: bytes, audience: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415 - optional package

        if len(token) > _MAX_TOKEN:
            raise InvalidToken("the token is too long")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=audience,
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={"require": list(_CLAIMS)},
            )
        # PyJWT parses the header before it verifies the signature, so an attacker controls that JSON
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidToken(str(error)) from error
        return claims


def _grant(entry: Any) -> tuple[str, frozenset[str]]:
    """Return one entry of the claim `access` as a repository and its actions (jwt.md)."""
    if entry["type"] == "repository":
        return str(entry["name"]), frozenset(entry["actions"])
    if (entry["type"], entry["name"], entry["actions"]) == ("registry", "catalog", ["*"]):
        return "", frozenset({"catalog"})
    raise TypeError(entry["type"])
