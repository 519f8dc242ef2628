"""Rate limit of failed logins, per user and client network.

Two rules apply, each in a window of five minutes:

- One user name from one network has a limit of failures. Further attempts are rejected, also with the right password.
- A network with many failures in all, of any names, is not rejected: a JupyterHub or a NAT has many users behind one address.
  Its attempts are checked one at a time instead, so that a list of names occupies one core at most. Users who logged in from
  there within a day do not wait.

A proxy in front of the registry hides the addresses of its clients. `Settings.trusted_proxies` restores them.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from attrs import define, field, frozen

from ocikit.server.http.errors import ErrorResponse

_log = logging.getLogger("ocikit.server")

#: Seconds in which failures are counted.
_WINDOW = 300.0

#: Failures of one user name from one address. Rejected attempts are not counted: a script with an old password must not use
#: up the limit of the whole address.
FAILURES = 10

#: Factor for all failures from one address, above which its attempts are checked one at a time.
_ADDRESS_FACTOR = 10

#: Attempts from one address that wait for their check, and the seconds that each waits at most.
_WAITING, _WAIT = 8, 5.0

#: Seconds for which a successful login lets a user pass without waiting.
_KNOWN = 24 * 3600.0

#: Addresses and names with failures that are stored; beyond, the oldest are dropped.
_MAX_ENTRIES = 10_000

#: Characters of a user name that are compared: names are up to 8 KB long, and thousands are stored.
_NAME_LIMIT = 100


#: Seconds for which an answer of the other processes holds for a client without failures.
_SHARED_SECONDS = 5.0


@frozen
class SharedFailures:
    """Failed logins that all processes of a registry have counted."""

    ages: tuple[float, ...]
    """Seconds since the failures of a user name from a network, the newest first."""
    network: int
    """Failures of the network, of any names."""


class FailureLog(Protocol):
    """Failed logins of all processes of a registry.

    Both methods return None if the log cannot be reached: then each process counts its own.
    """

    def recent(self, network: str, user: str, *, window: float, limit: int) -> SharedFailures | None:
        """Return the recent failures.

        Args:
            network: Network of the client.
            user: Name of the user.
            window: Seconds of which failures count.
            limit: Failures of the name that are returned at most; ten times as many of the network.
        """

    def add(self, network: str, user: str, *, window: float, limit: int) -> SharedFailures | None:
        """Count a failure, and return the recent ones with it; see `recent`."""


@define(eq=False)
class _Queue:
    """The attempts of one network that are checked one at a time."""

    turn: threading.Lock = field(factory=threading.Lock)
    waiting: int = 0


_NO_FAILURES = SharedFailures((), 0)


class LoginThrottle:
    """Failed logins of the last minutes, per address and user.

    Each process counts its own, and those of the others if there is a log of all.

    Args:
        clock: Function that returns the time in seconds.
        failures: Failures of one user name from one address.
        log: The failures of all processes.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        failures: int = FAILURES,
        log: FailureLog | None = None,
    ) -> None:
        self._clock = clock
        self._limit = failures
        self._log = log
        self._shared: OrderedDict[tuple[str, str], tuple[float, SharedFailures]] = OrderedDict()
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, ...], deque[float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._queues: dict[str, _Queue] = {}
        self._warned: set[str] = set()

    def check(self, remote: str, user: str) -> None:
        """Check that another attempt is allowed.

        Args:
            remote: Address of the client.
            user: Name of the user.

        Raises:
            ErrorResponse: 429 TOOMANYREQUESTS with Retry-After.
        """
        with self._lock:
            self._check((_network(remote), user[:_NAME_LIMIT]))

    @contextmanager
    def attempt(self, remote: str, user: str) -> Iterator[Callable[[], None]]:
        """Count an attempt as a failure; yield the function that revokes it.

        The attempt is counted first: otherwise a thousand concurrent attempts would all find one left. Check the password
        inside the block.

        Args:
            remote: Address of the client.
            user: Name of the user.

        Raises:
            ErrorResponse: 429 TOOMANYREQUESTS with Retry-After.
        """
        network = _network(remote)
        pair = network, user[:_NAME_LIMIT]
        keys = pair, (network,)
        self._ask_others(pair)
        passed = False
        with self._lock:
            self._check(pair)
            now = self._clock()
            many = self._network_failures(pair) >= self._limit * _ADDRESS_FACTOR
            is_known = self._known.get(pair, -math.inf) > now - _KNOWN
            for key in keys:
                self._failures.setdefault(key, deque()).append(now)
                self._failures.move_to_end(key)
            while len(self._failures) > _MAX_ENTRIES:
                self._failures.popitem(last=False)

        def revoke() -> None:
            for key in keys:
                if (times := self._failures.get(key)) and now in times:
                    times.remove(now)

        def succeeded() -> None:
            nonlocal passed
            passed = True
            with self._lock:
                revoke()
                self._known[pair] = self._clock()
                self._known.move_to_end(pair)
                while len(self._known) > _MAX_ENTRIES:
                    self._known.popitem(last=False)

        if not many or is_known:
            yield succeeded
            if not passed:
                self._tell_others(pair)
            return
        try:
            self._wait_for_turn(network)
        except ErrorResponse:
            with self._lock:
                revoke()
            raise
        try:
            yield succeeded
            if not passed:
                self._tell_others(pair)
        finally:
            self._end_turn(network)

    def _wait_for_turn(self, network: str) -> None:
        """Wait until no other attempt of a network is checked.

        Raises:
            ErrorResponse: 429 TOOMANYREQUESTS; too many attempts wait.
        """
        with self._lock:
            self._warn(network)
            queue = self._queues.setdefault(network, _Queue())
            full = queue.waiting >= _WAITING
            queue.waiting += not full
        if full:
            raise _too_many(1.0)
        if not queue.turn.acquire(timeout=_WAIT):
            self._leave(network)
            raise _too_many(1.0)

    def _end_turn(self, network: str) -> None:
        self._queues[network].turn.release()
        self._leave(network)

    def _leave(self, network: str) -> None:
        """Remove an attempt from a queue, and the queue with the last one."""
        with self._lock:
            queue = self._queues[network]
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[network]

    def _warn(self, network: str) -> None:
        if network in self._warned:
            return
        if len(self._warned) >= _MAX_ENTRIES:
            self._warned.clear()
        self._warned.add(network)
        _log.warning(
            "many failed logins from %s: they are checked one at a time now. If it is a proxy, add it to trusted_proxies",
            network,
        )

    def _recent(self, key: tuple[str, ...]) -> deque[float]:
        """Return the times of recent failures, and forget older ones."""
        times = self._failures.get(key, deque())
        while times and times[0] <= self._clock() - _WINDOW:
            times.popleft()
        if not times:
            self._failures.pop(key, None)
        return times

    def _check(self, pair: tuple[str, str]) -> None:
        times = self._recent(pair)
        if len(times) >= self._limit:
            raise _too_many(times[-self._limit] + _WINDOW - self._clock())
        at, shared = self._shared.get(pair, (0.0, _NO_FAILURES))
        if len(shared.ages) >= self._limit:
            wait = at - shared.ages[self._limit - 1] + _WINDOW - self._clock()
            if wait > 0:
                raise _too_many(wait)

    def _network_failures(self, pair: tuple[str, str]) -> int:
        at, shared = self._shared.get(pair, (-math.inf, _NO_FAILURES))
        others = shared.network if at > self._clock() - _WINDOW else 0
        return max(len(self._recent(pair[:1])), others)

    def _ask_others(self, pair: tuple[str, str]) -> None:
        """Ask for the failures of all processes, unless a client without failures was asked for a moment ago."""
        if self._log is None:
            return
        with self._lock:
            at, shared = self._shared.get(pair, (-math.inf, _NO_FAILURES))
            suspect = self._recent(pair[:1]) or shared.network
            if not suspect and at > self._clock() - _SHARED_SECONDS:
                return
        self._keep(pair, self._log.recent(*pair, window=_WINDOW, limit=self._limit))

    def _tell_others(self, pair: tuple[str, str]) -> None:
        """Count a failure for all processes."""
        if self._log is not None:
            self._keep(pair, self._log.add(*pair, window=_WINDOW, limit=self._limit))

    def _keep(self, pair: tuple[str, str], shared: SharedFailures | None) -> None:
        if shared is None:
            return
        with self._lock:
            self._shared[pair] = self._clock(), shared
            self._shared.move_to_end(pair)
            while len(self._shared) > _MAX_ENTRIES:
                self._shared.popitem(last=False)


def _too_many(wait: float) -> ErrorResponse:
    return ErrorResponse(
        429,
        "TOOMANYREQUESTS",
        "too many failed logins; wait, and check the password",
        headers=(("Retry-After", str(math.ceil(wait))),),
    )


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
