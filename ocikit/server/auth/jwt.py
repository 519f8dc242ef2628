"""Tokens as JSON Web Tokens, and the file with the key that signs them. distribution jwt.md, RFC 7519."""

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

from ocikit.errors import InvalidArgument
from ocikit.server.auth.access import Identity
from ocikit.spec.challenge import Scope

#: The only algorithm that is ever taken: who verifies is who signs, so that no public keys are needed.
_ALGORITHM = "HS256"

#: Bytes of a key: those of SHA-256. RFC 7518 #3.2
_KEY = 32

#: Seconds by which the clocks of several machines with the same key may differ.
_LEEWAY = 10

#: Characters of a token; more than one for a hundred repositories. What is longer isn't looked at.
_LONGEST = 1 << 16

_CLAIMS = ("iss", "sub", "aud", "exp", "nbf", "iat", "jti")


class InvalidToken(Exception):
    """A token that is over, of somebody else, for something else, or none at all."""


def load_key(path: str | os.PathLike[str]) -> bytes:
    """The key in a file, which is made if it isn't there; processes that start together get the same.

    Raises:
        InvalidArgument: if others can read the file, it is too short, or it can't be made.
    """
    path = Path(path)
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            # Windows keeps no such bits; there the folder's rights are what counts
            if os.name != "nt" and status.st_mode & 0o077:
                raise InvalidArgument(
                    f"{path} may be read by others: mode {stat.S_IMODE(status.st_mode):04o}",
                    hint="who has read it can make tokens for anybody: delete it, and a new one is made; or chmod 600",
                )
            key = file.read(1 << 16).strip()
    except OSError as error:
        raise InvalidArgument(f"the key {path} can't be read or made: {error.strerror or error}") from error
    if len(key) < _KEY:
        raise InvalidArgument(
            f"the key {path} has {len(key)} bytes", hint=f"it needs {_KEY}; delete it, and one is made"
        )
    return key


def _make(path: Path) -> None:
    """A new key, whole when it is at its name; nothing, if another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
    try:
        with os.fdopen(file, "wb") as stream:
            stream.write(secrets.token_hex(_KEY).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
        # Unlike a rename, a link never replaces what is there
        with contextlib.suppress(FileExistsError):
            os.link(beside, path)
    finally:
        beside.unlink()


class Signer:
    """Makes tokens, and reads those that it made. Access and refresh tokens have different keys and audiences.

    Args:
        key: what signs; see `load_key`.
        service: whom access tokens are for: this registry.
        issuer: who makes them.
        clock: seconds since the epoch.
    """

    def __init__(self, key: bytes, *, service: str, issuer: str, clock: Callable[[], float] = time.time) -> None:
        self._access, self._refresh, self._stamps = (
            hmac.new(key, f"ocikit {use}".encode(), hashlib.sha256).digest() for use in ("access", "refresh", "stamp")
        )
        self._service = service
        self._issuer = issuer
        self._clock = clock

    @property
    def stamp_key(self) -> bytes:
        """The key for what ties a token to a password: `Htpasswd.fingerprint`."""
        return self._stamps

    def access(self, user: str, stamp: str, scopes: Iterable[Scope], *, ttl: int) -> tuple[str, int]:
        """A token for scopes, and when it was made. jwt.md#getting-a-bearer-token."""
        access = [{"type": s.resource_type, "name": s.name, "actions": list(s.actions)} for s in scopes]
        return self._sign(self._access, self._service, user, stamp, ttl, access=access)

    def refresh(self, user: str, stamp: str, *, ttl: int) -> str:
        """A token that gets others. oauth.md#refresh-token-format."""
        return self._sign(self._refresh, self._refresh_audience, user, stamp, ttl)[0]

    def identity(self, token: str) -> tuple[Identity, str]:
        """Who has an access token, what it grants, and its stamp. Raises: InvalidToken."""
        claims = self._claims(token, self._access, self._service)
        try:
            grants = tuple(_grant(entry) for entry in claims["access"])
            return Identity(claims["sub"], grants), claims["stamp"]
        except (KeyError, TypeError) as error:
            raise InvalidToken(f"not a token of this registry's: {error!r}") from error

    def user(self, token: str) -> tuple[str, str]:
        """Whose refresh token it is, and its stamp. Raises: InvalidToken."""
        claims = self._claims(token, self._refresh, self._refresh_audience)
        return str(claims["sub"]), str(claims.get("stamp"))

    @property
    def _refresh_audience(self) -> str:
        return f"{self._service}/token"

    def _sign(self, key: bytes, audience: str, user: str, stamp: str, ttl: int, **more: Any) -> tuple[str, int]:
        import jwt  # noqa: PLC0415 - heavy

        now = int(self._clock())
        claims = {
            "iss": self._issuer, "sub": user, "aud": audience, "exp": now + ttl, "nbf": now, "iat": now,
            "jti": secrets.token_hex(16), "stamp": stamp, **more,
        }  # fmt: skip
        return jwt.encode(claims, key, algorithm=_ALGORITHM), now

    def _claims(self, token: str, key: bytes, audience: str) -> dict[str, Any]:
        import jwt  # noqa: PLC0415 - heavy

        if len(token) > _LONGEST:
            raise InvalidToken("longer than any token of this registry's")
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key, algorithms=[_ALGORITHM], audience=audience, issuer=self._issuer, leeway=_LEEWAY,
                options={"require": list(_CLAIMS)},
            )  # fmt: skip
        # The header is parsed before the signature is looked at, so that it may be any JSON
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidToken(str(error)) from error
        return claims


def _grant(entry: Any) -> tuple[str, frozenset[str]]:
    """One entry of the claim `access`. jwt.md: type, name, actions."""
    if entry["type"] == "repository":
        return str(entry["name"]), frozenset(entry["actions"])
    if (entry["type"], entry["name"], entry["actions"]) == ("registry", "catalog", ["*"]):
        return "", frozenset({"catalog"})
    raise TypeError(entry["type"])
