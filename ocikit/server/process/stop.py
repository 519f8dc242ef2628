"""The stop of a server: first without new clients, then without new requests, then at once.

SIGTERM makes `/readyz` respond 503 for `drain_delay` seconds, so that load balancers send requests to other machines. Then the
workers accept no connections, and requests in progress have `drain` seconds. Connections that remain are closed shortly before
the end: a request that ends by itself stores the part of an upload that has arrived, and frees its lease. A further signal
skips the current step. Workers see the steps as files in the scratch folder.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ocikit.server.auth.access import Problem
from ocikit.server.process.options import ServerConfig

_log = logging.getLogger("ocikit.server")

#: Files of the scratch folder: the server stops soon, and it accepts no connections.
_LEAVING, _STOPPING = "leaving", "stopping"


class Stop:
    """The handler of SIGTERM, SIGINT and SIGHUP in the main process.

    Args:
        server: The server of granian.
        config: Configuration of the server.
    """

    def __init__(self, server: Any, config: ServerConfig) -> None:
        self._server = server
        self._config = config
        self._scratch = Path(config.scratch)
        self._leaving = False

    def __call__(self, number: int, _: object) -> None:
        """Begin the next step."""
        delay = self._config.options.drain_delay if number == signal.SIGTERM else 0.0
        if self._server.interrupt_signal:
            if not self._config.attached:  # the parent may have sent both signals
                for worker in list(self._server.wrks):
                    worker.kill()
        elif delay and not self._leaving:
            self._leaving = True
            (self._scratch / _LEAVING).touch()
            timer = threading.Timer(delay, self._begin)
            timer.daemon = True
            timer.start()
        else:
            self._begin()

    def _begin(self) -> None:
        with contextlib.suppress(OSError):
            (self._scratch / _STOPPING).touch()
        self._server.signal_handler_interrupt()


class StopWatch:
    """What a worker knows of the stop.

    Args:
        config: Configuration of the server.
    """

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._scratch = Path(config.scratch)
        self._since: float | None = None
        self.begun = threading.Event()
        """Set once the process accepts no connections."""

    def problems(self) -> Sequence[Problem]:
        """Return the problem that `/readyz` reports once the server stops soon."""
        leaving = any((self._scratch / name).exists() for name in (_LEAVING, _STOPPING))
        return (Problem("this process stops"),) if leaving else ()

    def must_cut(self) -> bool:
        """Return True once the requests in progress have had their time; called each second."""
        if self._since is None and (self._scratch / _STOPPING).exists():
            self._since = time.monotonic()
            self.begun.set()
        return self._since is not None and time.monotonic() - self._since >= self._config.cut_after
