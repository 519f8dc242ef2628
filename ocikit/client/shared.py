"""The session that the one-line functions of a process share.

Ten calls about one registry need one connection and one token, not ten. A shared session must not be noticed otherwise:
each call uses what a new session would read. So the session is replaced when a setting of the process has changed: the
environment, a file with credentials, or the class of connections, which recorders such as vcrpy replace. It is also
replaced after a fork, a login, a failed login or connection, and a while without calls.

No thread closes idle connections, because a process with threads cannot fork safely. The next call does, or the end of
the process. Until then a server may close them, which the next request notices.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Final

import urllib3.connectionpool

from ocikit.client.reader import ContentReader
from ocikit.client.session import Session
from ocikit.errors import ConnectionFailed, Denied, Unauthorized
from ocikit.forks import ForkSafeLock, fork_count
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.config.network import Network

_IDLE = 60.0  # seconds without calls; many servers close idle connections after 60 to 120 seconds
_CONNECTIONS = 32  # per host: calls of several threads share them

#: Variables that connections read when they are opened.
_NETWORK_VARIABLES: Final = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    *("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "HOME"),
)


class _Held:
    """A session, and the calls that use it.

    Args:
        settings: What the session has read or will read.
    """

    def __init__(self, settings: int) -> None:
        self.session = Session(network=Network(connections=_CONNECTIONS))
        self.settings = settings
        self.calls = 0
        self.last_used = time.monotonic()

    def is_current(self, settings: int) -> bool:
        """Return True if the session fits the settings, and its connections are not idle."""
        return self.settings == settings and (self.calls > 0 or time.monotonic() - self.last_used < _IDLE)


class SharedSession:
    """A session that is replaced when a new one would differ. Safe in threads and after a fork."""

    def __init__(self) -> None:
        self._held: _Held | None = None
        self._keychain = Keychain()
        self._lock = ForkSafeLock()

    @contextlib.contextmanager
    def use(self) -> Iterator[Session]:
        """Return the session for one call."""
        held = self._enter()
        try:
            yield held.session
        except (ConnectionFailed, Denied, Unauthorized):
            # The next call starts anew: the user may start a server, or log in by a credential helper
            self.drop()
            raise
        finally:
            self._leave(held)

    def current(self) -> Session:
        """Return the session for a caller between two uses, such as a file system. It may be replaced before the next one."""
        held = self._enter()
        self._leave(held)
        return held.session

    def drop(self) -> None:
        """Let the next call use a new session. The connections are closed when the running calls have ended."""
        with self._lock:
            held, self._held = self._held, None
            is_unused = held is not None and not held.calls
        if held is not None and is_unused:
            held.session.close()

    def _enter(self) -> _Held:
        settings = self._settings()
        with self._lock:
            old = self._held
            held = old if old is not None and old.is_current(settings) else _Held(settings)
            self._held = held
            held.calls += 1
        if old is not None and old is not held and not old.calls:
            old.session.close()
        return held

    def _leave(self, held: _Held) -> None:
        with self._lock:
            held.calls -= 1
            held.last_used = time.monotonic()
            is_dropped = held is not self._held and not held.calls
        if is_dropped:
            held.session.close()

    def _settings(self) -> int:
        """Return a hash of what a new session would read. It has no secrets."""
        network = tuple(map(os.environ.get, _NETWORK_VARIABLES))
        recorder = urllib3.connectionpool.HTTPConnectionPool.ConnectionCls
        return hash((fork_count(), network, recorder, self._keychain.state()))


#: The session of the functions in `ocikit` and `ocikit.auth`.
shared_session: Final = SharedSession()
atexit.register(shared_session.drop)


class SharedReader(ContentReader):
    """A reader of the shared session that follows its replacement. File systems keep it as long as the process lives."""

    def __init__(self) -> None:
        pass  # __getattr__ has the settings of the reader

    def __getattr__(self, name: str) -> Any:
        if name not in {"backends", "cache", "workers", "progress"}:
            raise AttributeError(name)
        return getattr(shared_session.current().reader, name)
