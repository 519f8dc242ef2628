"""Users in an htpasswd file, with passwords kept by bcrypt, as `htpasswd -B` of Apache writes them."""

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
from ocikit.errors import InvalidArgument
from ocikit.server.auth.reloading import ReloadingFile
from ocikit.server.auth.throttle import FAILURES, LoginThrottle

#: The variants of bcrypt that differ in name only; `$2x$` is a broken one.
_BCRYPT = re.compile(r"\$2[aby]\$([0-9][0-9])\$[./A-Za-z0-9]{53}")

#: What else such files hold, to say so by name.
_OTHERS = {"$apr1$": "MD5", "$1$": "MD5", "{SHA}": "SHA-1", "$5$": "SHA-256", "$6$": "SHA-512", "$2x$": "broken bcrypt",
           "$argon2": "Argon2"}  # fmt: skip

#: What 2 to the power of bcrypt may cost: 17 is ten seconds, which is more of a way to bring a server down.
_COSTS = range(4, 18)

#: The cost where there are no entries to go by: bcrypt's own default in many languages.
_COST = 10

#: Bytes that bcrypt looks at; the rest never counted, and other programs take longer passwords for the same reason.
_BYTES = 72

#: Seconds for which a password that was right needn't be checked again. bcrypt takes a quarter of one, by design, and
#: clients send their password with each of a thousand requests.
_REMEMBERED = 120.0

#: Logins that are remembered.
_KEPT = 1000

#: Logins that are checked at the same time; more than there are cores.
_STRIPES = 64


@frozen
class Entries:
    """What such a file says: a hash for each user."""

    hashes: Mapping[str, bytes] = field(repr=False)
    nobody: bytes = field(repr=False)
    """A hash of nothing, as costly as most of the others: who isn't in the file takes as long as who is."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Entries:
        """The entries of a file. Raises: InvalidArgument: if it has others than bcrypt's; OSError."""
        try:
            return cls.parse(Path(path).read_bytes().decode())
        except (InvalidArgument, UnicodeDecodeError) as error:
            message = error.message if isinstance(error, InvalidArgument) else "not UTF-8"
            hint = error.hint if isinstance(error, InvalidArgument) else ""
            raise InvalidArgument(f"{os.fspath(path)}: {message}", hint=hint) from error

    @classmethod
    def parse(cls, text: str) -> Entries:
        """The entries that a text spells, one a line. Raises: InvalidArgument; no message has a hash in it."""
        import bcrypt  # noqa: PLC0415 - heavy

        hashes: dict[str, bytes] = {}
        costs: Counter[int] = Counter()
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            user, colon, said = line.strip().partition(":")
            match = _BCRYPT.fullmatch(said)
            if not colon or not user or user == "*" or not user.isprintable():
                raise InvalidArgument(f"line {number} is no entry", hint="one is <user>:<hash>; '*' is no name here")
            if match is None or int(match[1]) not in _COSTS:
                kind = next((name for start, name in _OTHERS.items() if said.startswith(start)), "")
                problem = f"the cost {match[1]}" if match else kind or "something else"
                raise InvalidArgument(
                    f"line {number}: {quoted(user)} has {problem} where a bcrypt hash should be",
                    hint=f"htpasswd -B <file> {quoted(user)} makes one",
                )
            if user in hashes:
                raise InvalidArgument(f"line {number}: {quoted(user)} is there twice")
            hashes[user] = said.encode()
            costs[int(match[1])] += 1
        most = costs.most_common(1)[0][0] if costs else _COST
        return cls(hashes, bcrypt.gensalt(most) + b"." * 31)


class Htpasswd:
    """Checks passwords against a file, which is read again when it changes.

    Args:
        path: the file.
        clock: seconds.
        failures: of one user from one address in five minutes, before they have to wait.
    Raises:
        InvalidArgument: if the file can't be read, or has others than bcrypt's hashes.
    """

    def __init__(
        self, path: str | os.PathLike[str], clock: Callable[[], float] = time.monotonic, *, failures: int = FAILURES
    ) -> None:
        self._entries = ReloadingFile(path, Entries.load)
        self._attempts = LoginThrottle(clock, failures)
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._lock = threading.Lock()
        self._right: OrderedDict[bytes, float] = OrderedDict()
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]

    def __repr__(self) -> str:
        return f"Htpasswd({os.fspath(self._entries.path)!r})"

    def verify(self, user: str, password: bytes, remote: str) -> bool:
        """Whether this is the user's password; whether there is such a user makes no difference in time.

        Args:
            user: the name.
            password: in UTF-8: RFC 7617 #2.1.
            remote: the address that it comes from.
        Raises:
            Refusal: 429 after too many failures. Before the password is looked at: a guess that is right must not show.
        """
        entries = self._entries.value
        known = entries.hashes.get(user)
        # Bound to the hash: with a new password in the file, the old one is forgotten
        proof = self._proof(user, known or entries.nobody, password)
        self._attempts.check(remote, user)
        if self._remembered(proof):
            return True
        # A client opens several connections at once; the same login is checked once for all of them
        with self._stripes[proof[0] % _STRIPES], self._attempts.attempt(remote, user) as succeeded:
            if not self._remembered(proof) and not (_matches(password, known or entries.nobody) and known is not None):
                return False
            succeeded()
            self._remember(proof)
            return True

    def fingerprint(self, user: str, key: bytes) -> str | None:
        """What changes with the user's password and tells nothing about it; None for who isn't there."""
        known = self._entries.value.hashes.get(user)
        return None if known is None else hmac.new(key, known, hashlib.sha256).hexdigest()

    def _proof(self, *parts: str | bytes) -> bytes:
        """Stands for a login: nobody gets the password out of it, or makes one, without this process's key."""
        proof = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in parts:
            raw = part.encode() if isinstance(part, str) else part
            proof.update(len(raw).to_bytes(8, "big") + raw)
        return proof.digest()

    def _remembered(self, proof: bytes) -> bool:
        with self._lock:
            until = self._right.get(proof)
            if until is not None and until <= self._clock():
                del self._right[proof]
                until = None
            return until is not None

    def _remember(self, proof: bytes) -> None:
        with self._lock:
            self._right.setdefault(proof, self._clock() + _REMEMBERED)
            while len(self._right) > _KEPT:
                self._right.popitem(last=False)


def _matches(password: bytes, known: bytes) -> bool:
    import bcrypt  # noqa: PLC0415 - heavy

    return bcrypt.checkpw(password[:_BYTES], known)
