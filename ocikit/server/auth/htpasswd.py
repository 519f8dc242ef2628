"""Users and bcrypt hashes of an htpasswd file, as written by Apache's `htpasswd -B`."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import field, frozen

from ocikit.display import quoted
from ocikit.errors import ContentError, InvalidArgument
from ocikit.server.auth.access import Problem
from ocikit.server.auth.reloading import ReloadingFile
from ocikit.server.auth.throttle import FAILURES, FailureLog, LoginThrottle
from ocikit.store.files import read_file

#: The variants of bcrypt that differ in name only; `$2x$` is a broken one.
_BCRYPT = re.compile(r"\$2[aby]\$([0-9][0-9])\$[./A-Za-z0-9]{53}")

#: Prefixes of other hashes, for error messages.
_OTHER_HASHES = {
    "$apr1$": "MD5",
    "$1$": "MD5",
    "{SHA}": "SHA-1",
    "$5$": "SHA-256",
    "$6$": "SHA-512",
    "$2x$": "broken bcrypt",
    "$argon2": "Argon2",
}

#: Accepted bcrypt costs. A cost of 17 takes ten seconds; more would make each login a DoS.
_COSTS = range(4, 18)

#: bcrypt cost of new hashes, and of the dummy hash of a file without entries.
_DEFAULT_COST = 10

#: Bytes of a password that bcrypt uses. Longer passwords are truncated, as other programs do.
_BCRYPT_BYTES = 72

#: Seconds for which a correct login is cached: bcrypt takes a quarter of a second by design, and clients send the password
#: with each of a thousand requests.
_CACHE_SECONDS = 120.0

#: Cached logins.
_CACHE_SIZE = 1000

#: Locks for concurrent checks of the same login; more than there are cores.
_STRIPES = 64


@frozen
class HtpasswdEntries:
    """The entries of an htpasswd file."""

    hashes: Mapping[str, bytes] = field(repr=False)
    """bcrypt hash of each user."""
    dummy_hash: bytes = field(repr=False)
    """A hash of no password, at the most frequent cost: checking it for unknown users prevents a timing attack."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> HtpasswdEntries:
        """Read a file.

        Args:
            path: The file.

        Returns:
            Entries of the file.

        Raises:
            InvalidArgument: The file is not UTF-8, or an entry has no bcrypt hash.
            OSError: The file cannot be read.
        """
        try:
            return cls.parse(read_file(Path(path)).decode())
        except ContentError as error:
            raise InvalidArgument(error.message, hint=error.hint) from error
        except (InvalidArgument, UnicodeDecodeError) as error:
            message = error.message if isinstance(error, InvalidArgument) else "not UTF-8"
            hint = error.hint if isinstance(error, InvalidArgument) else ""
            raise InvalidArgument(f"{os.fspath(path)}: {message}", hint=hint) from error

    @classmethod
    def parse(cls, text: str) -> HtpasswdEntries:
        """Parse the content of a file, one entry a line.

        Args:
            text: The content.

        Returns:
            Entries of the file.

        Raises:
            InvalidArgument: An entry is invalid or has no bcrypt hash. The message contains no hash.
        """
        import bcrypt  # noqa: PLC0415 - optional package

        hashes: dict[str, bytes] = {}
        costs: Counter[int] = Counter()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            user, colon, hashed = line.strip().partition(":")
            match = _BCRYPT.fullmatch(hashed)
            if not colon or not user or user == "*" or not user.isprintable():
                raise InvalidArgument(f"line {number}: invalid entry", hint="use <user>:<hash>; '*' cannot be a user")
            if match is None or int(match[1]) not in _COSTS:
                kind = next((name for prefix, name in _OTHER_HASHES.items() if hashed.startswith(prefix)), "")
                problem = f"the cost {match[1]}" if match else kind or "an unknown format"
                raise InvalidArgument(
                    f"line {number}: the hash of {quoted(user)} has {problem}; only bcrypt is supported",
                    hint=f"run htpasswd -B <file> {quoted(user)}",
                )
            if user in hashes:
                raise InvalidArgument(f"line {number}: duplicate user {quoted(user)}")
            hashes[user] = hashed.encode()
            costs[int(match[1])] += 1
        cost = costs.most_common(1)[0][0] if costs else _DEFAULT_COST
        return cls(hashes, bcrypt.gensalt(cost) + b"." * 31)


class Htpasswd:
    """Checks passwords against an htpasswd file; a changed file is loaded again, see `reloading`.

    Args:
        path: The file.
        clock: Function that returns the time in seconds.
        failures: Failed logins of one user from one address in five minutes before further ones are rejected.
        log: The failed logins of all processes; None counts those of this process.

    Raises:
        InvalidArgument: The file cannot be read, or an entry is invalid.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        clock: Callable[[], float] = time.monotonic,
        *,
        failures: int = FAILURES,
        log: FailureLog | None = None,
    ) -> None:
        self._entries = ReloadingFile(path, HtpasswdEntries.load, content="users", clock=clock)
        self._throttle = LoginThrottle(clock, failures, log)
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, float] = OrderedDict()
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    def __repr__(self) -> str:
        return f"Htpasswd({os.fspath(self._entries.path)!r})"

    @property
    def problem(self) -> Problem | None:
        """The state of a broken file; None for a valid one."""
        return self._entries.problem

    def verify(self, user: str, password: bytes, remote: str) -> bool:
        """Check a password; an unknown user takes as long as a wrong password.

        Args:
            user: Name of the user.
            password: Password in UTF-8 (RFC 7617 2.1).
            remote: Address of the client.

        Returns:
            True if the password is correct.

        Raises:
            ErrorResponse: 429 after too many failures. It is raised before the check, so that a correct guess does not show.
                503 if the file has been broken for longer than the grace.
        """
        entries = self._entries.value
        known = entries.hashes.get(user)
        # The cache key includes the hash: a new password in the file invalidates the old one
        cache_key = self._cache_key(user, known or entries.dummy_hash, password)
        self._throttle.check(remote, user)
        if self._is_cached(cache_key):
            return True
        # A client opens several connections at once; check the same login once for all of them
        with self._stripes[cache_key[0] % _STRIPES], self._throttle.attempt(remote, user) as succeeded:
            if not self._is_cached(cache_key):
                matches = _matches(password, known or entries.dummy_hash)
                if not matches or known is None:
                    return False
            succeeded()
            self._add_to_cache(cache_key)
            return True

    def fingerprint(self, user: str, key: bytes) -> str | None:
        """Return a keyed hash of the user's password hash; None for an unknown user.

        Raises:
            ErrorResponse: 503 if the file has been broken for longer than the grace.
        """
        known = self._entries.value.hashes.get(user)
        return None if known is None else hmac.new(key, known, hashlib.sha256).hexdigest()

    def _cache_key(self, *parts: str | bytes) -> bytes:
        """Return an HMAC of a login; its key prevents an offline password search."""
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part
            mac.update(len(raw).to_bytes(8, "big") + raw)
        return mac.digest()

    def _is_cached(self, key: bytes) -> bool:
        with self._lock:
            expiry = self._cache.get(key)
            if expiry is not None and expiry <= self._clock():
                del self._cache[key]
                expiry = None
            return expiry is not None

    def _add_to_cache(self, key: bytes) -> None:
        with self._lock:
            self._cache.setdefault(key, self._clock() + _CACHE_SECONDS)
            while len(self._cache) > _CACHE_SIZE:
                self._cache.popitem(last=False)


def format_htpasswd(passwords: Mapping[str, str]) -> str:
    """Hash passwords and format them as the content of an htpasswd file.

    Args:
        passwords: Password of each user.

    Returns:
        One line for each user.

    Raises:
        InvalidArgument: A user name is invalid.
    """
    import bcrypt  # noqa: PLC0415 - optional package

    for user in passwords:
        if not user or ":" in user or not user.isprintable() or user != user.strip() or user.startswith("#"):
            raise InvalidArgument(f"invalid user name {quoted(user)}", hint="use letters and digits")
    salt = bcrypt.gensalt
    lines = (
        f"{user}:{bcrypt.hashpw(password.encode()[:_BCRYPT_BYTES], salt(_DEFAULT_COST)).decode()}\n"
        for user, password in passwords.items()
    )
    return "".join(lines)


def _matches(password: bytes, hashed: bytes) -> bool:
    import bcrypt  # noqa: PLC0415 - optional package

    return bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed)
