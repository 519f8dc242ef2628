"""Retries of requests: backoff, Retry-After and deadlines."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable

import requests

from ocikit import display
from ocikit.errors import OcikitError, TimedOut
from ocikit.progress.base import notify
from ocikit.remote.config.network import Network
from ocikit.remote.http.causes import CONNECTION_ERRORS, describe_cause, is_wrong_address, root_cause
from ocikit.remote.http.deadlines import current_deadline
from ocikit.remote.http.errors import error_without_response
from ocikit.remote.http.framing import framing_error
from ocikit.remote.http.responses import drain, retry_after
from ocikit.remote.http.scheme import Scheme
from ocikit.remote.http.urls import join

log = logging.getLogger("ocikit")

_RETRIED = frozenset({408, 429, 500, 502, 503, 504})


class Retry:
    """The retry policy for requests to one registry and its token server. Safe in threads.

    Args:
        host: Registry, as in references.
        network: Number of retries, longest wait, total timeout.
        scheme: Switched if the first response shows that the guess was wrong.
    """

    def __init__(self, host: str, network: Network, scheme: Scheme) -> None:
        self._host = host
        self._network = network
        self._scheme = scheme
        self._not_before = 0.0  # monotonic clock: all threads wait until then
        self._reached = False  # True once this host has responded
        self.throttled = 0
        """The number of responses so far that demanded a pause of all threads."""

    def send(
        self,
        attempt: Callable[[], requests.Response],
        action: str,
        *,
        method: str,
        target: str,
        retry: bool,
        repeatable: bool,
        detect_scheme: bool = True,
    ) -> requests.Response:
        """Send a request until its response is final or the retries are used up.

        Args:
            attempt: Sends the request once.
            action: Operation, as named in messages.
            method: HTTP method.
            target: Path or URL, for error messages.
            retry: Retry after broken connections and temporary failures.
            repeatable: The body can be sent again; a 429 is then retried in any case.
            detect_scheme: The response may confirm or change the guessed scheme.

        Returns:
            The last response, unread, with any status.

        Raises:
            ConnectionFailed: There was no response.
            InvalidResponse: The lengths in the response are invalid.
            TimedOut: The deadline has passed.
        """
        waited, attempts = 0.0, 0
        deadline = self.deadline()
        while True:
            self.check_deadline(deadline, action)
            response: requests.Response | None = None
            error: Exception | None = None
            scheme = self._scheme.name
            try:
                _sleep(min(self._not_before - time.monotonic(), self._network.max_wait), deadline)
                response = attempt()
            except OcikitError:
                raise
            except CONNECTION_ERRORS as caught:
                if retry and detect_scheme and self._scheme.switch(caught, scheme):
                    continue
                error = caught
            self._reached |= response is not None
            if response is not None and response.status_code not in _RETRIED:
                if repeatable and detect_scheme and self._scheme.confirm(response, scheme, method):
                    drain(response)
                    continue
                return response
            requested = retry_after(response) if response is not None else None
            wait = backoff(attempts) if requested is None else requested
            status = response.status_code if response is not None else None
            self.throttled += status in {429, 503}
            if (status == 429 or (status == 503 and requested is not None)) and wait <= self._network.max_wait:
                # All threads wait, because the rate limit holds for the host
                self._not_before = max(self._not_before, time.monotonic() + wait)
            final = framing_error(error) is not None
            final |= error is not None and not self._reached and is_wrong_address(error)
            if (
                final
                or not (retry or (repeatable and status == 429))
                or attempts >= self._network.retries
                or waited + wait > self._network.max_wait
                or (requested is not None and deadline is not None and time.monotonic() + wait > deadline)
            ):
                break
            reason = describe_cause(error) if status is None else status
            log.info("%s: %s; trying again in %.1f s", action, reason, wait)
            notify(f"{self._host}: {reason}; trying again in {display.duration(wait)}")
            if response is not None:
                drain(response)
            _sleep(wait, deadline)
            waited += wait
            attempts += 1
        if response is not None:
            return response
        self.check_deadline(deadline, action)
        url = join(self._scheme.base, target)
        raise error_without_response(error, action, method=method, url=url, network=self._network) from root_cause(
            error
        )

    def deadline(self) -> float | None:
        """Return the deadline for an operation that starts now, or None without a limit.

        Deadlines are times of the monotonic clock.
        """
        limit, enclosing = self._network.total_timeout, current_deadline()
        if limit is None or (enclosing is not None and enclosing < time.monotonic() + limit):
            return enclosing
        return time.monotonic() + limit

    def check_deadline(self, deadline: float | None, action: str) -> None:
        """Check that a deadline has not passed.

        Raises:
            TimedOut: It has passed.
        """
        if deadline is not None and time.monotonic() >= deadline:
            limit = self._network.total_timeout
            allowed = "the allowed time" if limit is None else f"{limit:g} s"
            raise TimedOut(
                f"failed to {action}: {self._host} took more than {allowed} in total",
                hint="increase total_timeout in Network(…); what was received is stored and resumed",
            )


def backoff(attempt: int) -> float:
    """Return 0.25, 0.5, 1, … up to 8 seconds, with jitter.

    Jitter spreads clients that failed together.
    """
    return float(min(8.0, 0.25 * 2**attempt) * random.uniform(0.75, 1.25))  # noqa: S311 - not for secrets


def _sleep(seconds: float, deadline: float | None) -> None:
    if deadline is not None:
        seconds = min(seconds, deadline - time.monotonic())
    if seconds > 0:
        time.sleep(seconds)
