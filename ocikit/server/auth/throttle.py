"""Failed logins, counted: who guesses passwords waits."""

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

#: Failures of one user name from one address. A script with an old password must not use up what others have, so that
#: attempts that are refused for their number aren't counted: such a script gets no further than this.
FAILURES = 10

#: How many times as many failures from one address, whatever the name. More than a room full of people who log in at once,
#: since an attempt counts until it has succeeded; and few for a list of names.
_ADDRESS = 10

#: Addresses and names that are remembered; beyond, the ones that were longest without a failure are forgotten.
_KEPT = 10_000


class LoginThrottle:
    """Failures of the last minutes, by address, and by address and user. Each process counts its own.

    Args:
        clock: seconds.
        failures: of one user name from one address.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, failures: int = FAILURES) -> None:
        self._clock = clock
        self._limits = failures, failures * _ADDRESS
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()

    def check(self, remote: str, user: str) -> None:
        """Go on only if there is an attempt left. Raises: Refusal: 429 TOOMANYREQUESTS with Retry-After."""
        with self._lock:
            self._check(_keys(remote, user))

    @contextmanager
    def attempt(self, remote: str, user: str) -> Iterator[Callable[[], None]]:
        """One attempt, counted as a failure until the function that it gives says that it was none.

        Counted first: a thousand attempts at the same time shall not all find that there is one left.

        Raises:
            Refusal: as `check`.
        """
        keys = _keys(remote, user)
        with self._lock:
            self._check(keys)
            now = self._clock()
            for key in keys:
                self._failures.setdefault(key, deque()).append(now)
                self._failures.move_to_end(key)
            while len(self._failures) > _KEPT:
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
                429, "TOOMANYREQUESTS", "too many failed logins; wait, and look at the password that is used",
                headers=(("Retry-After", str(math.ceil(wait))),),
            )  # fmt: skip


def _keys(remote: str, user: str) -> tuple[tuple[str, ...], ...]:
    network = _network(remote)
    return (network, user), (network,)


def _network(remote: str) -> str:
    """The address, as far as one person has only one of it: of IPv6 one gets a /64, and all that is in it."""
    try:
        address = ipaddress.ip_address(remote.partition("%")[0])
    except ValueError:
        return remote
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))
