"""Rate limit of failed logins, per user and client network."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ocikit.server.http.errors import ErrorResponse

#: Seconds in which failures are counted.
_WINDOW = 300.0

#: Failures of one user name from one address. Rejected attempts are not counted: a script with an old password must not use
#: up the limit of the whole address.
FAILURES = 10

#: Factor for all failures from one address. An attempt counts until it succeeds, so a room full of people must be able to
#: log in at once. A list of user names must not fit.
_ADDRESS_FACTOR = 10

#: Addresses and names with failures that are stored; beyond, the oldest are dropped.
_MAX_ENTRIES = 10_000


class LoginThrottle:
    """Failed logins of the last minutes, per address and user.

    Each process counts its own.

    Args:
        clock: Function that returns the time in seconds.
        failures: Failures of one user name from one address.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, failures: int = FAILURES) -> None:
        self._clock = clock
        self._limits = failures, failures * _ADDRESS_FACTOR
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()

    def check(self, remote: str, user: str) -> None:
        """Check that another attempt is allowed.

        Args:
            remote: Address of the client.
            user: Name of the user.

        Raises:
            ErrorResponse: 429 TOOMANYREQUESTS with Retry-After.
        """
        with self._lock:
            self._check(_keys(remote, user))

    @contextmanager
    def attempt(self, remote: str, user: str) -> Iterator[Callable[[], None]]:
        """Count an attempt as a failure; yield the function that revokes it.

        The attempt is counted first: otherwise a thousand concurrent attempts would all find one left.

        Args:
            remote: Address of the client.
            user: Name of the user.

        Raises:
            ErrorResponse: 429 TOOMANYREQUESTS with Retry-After.
        """
        keys = _keys(remote, user)
        with self._lock:
            self._check(keys)
            now = self._clock()
            for key in keys:
                self._failures.setdefault(key, deque()).append(now)
                self._failures.move_to_end(key)
            while len(self._failures) > _MAX_ENTRIES:
                self._failures.popitem(last=False)

        def succeeded() -> None:
            with self._lock:
                for key in keys:
                    if (times := self._failures.get(key)) and now in times:
                        times.remove(now)

        yield succeeded

    def _check(self, keys: Sequence[tuple[str, ...]]) -> None:
        now, wait = self._clock(), 0.0
        for key, limit in zip(keys, self._limits, strict=True):
            times = self._failures.get(key, deque())
            while times and times[0] <= now - _WINDOW:
                times.popleft()
            if len(times) >= limit:
                wait = max(wait, times[-limit] + _WINDOW - now)
            elif not times:
                self._failures.pop(key, None)
        if wait:
            raise ErrorResponse(
                429,
                "TOOMANYREQUESTS",
                "too many failed logins; wait, and check the password",
                headers=(("Retry-After", str(math.ceil(wait))),),
            )


def _keys(remote: str, user: str) -> tuple[tuple[str, ...], ...]:
    network = _network(remote)
    return (network, user), (network,)


def _network(remote: str) -> str:
    """Return the network of a client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
