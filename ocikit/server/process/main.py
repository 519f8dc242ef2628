"""The program behind `python -m ocikit serve`: a main process that holds the port, and workers that answer.

granian does HTTP. Its main process starts workers by fork where that can be done, starts others for those that crash,
and stops them all. What stands here is what it leaves open: the port is ours alone, a terminal that closes ends the
server, and so does the process that it was started from.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve

from ocikit.errors import ServerFailed
from ocikit.server.http.settings import Settings
from ocikit.server.process import access_log as log
from ocikit.server.process import worker
from ocikit.server.process.options import EXTRA, Options, bracketed

#: Requests at once in each worker: one holds a thread while its body moves. Threads are started when they are needed and
#: cost 80 KB each, so that hundreds of clients who stop in the middle of a body keep nobody else from being served.
_THREADS = 512

#: Connections at once in each worker; further ones wait to be accepted.
_CONNECTIONS = 4096

#: Seconds for requests under way when the server is stopped: whoever waits at a terminal, and whoever waits in a notebook.
_DRAIN, _DRAIN_ATTACHED = 5.0, 0.3

#: Seconds that a connection may take for the headers of a request, or be idle before the next.
_HEADERS = 30.0


def run(options: Options) -> int:
    """Serve until a signal comes, or the end of the process that this one is attached to. Gives an exit code.

    Raises:
        ServerFailed: if it can't start.
        InvalidArgument: for options that make no sense.
    """
    granian = _granian()
    with contextlib.ExitStack() as stack:
        address, port = stack.enter_context(_reserved(options.host, options.port))
        options = evolve(options, host=address, port=port, settings=_guarded(options.settings, address))
        worker.check(options)
        scratch = options.attached or stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-serve-"))
        options = evolve(options, scratch=scratch)
        worker.prepare(options)
        try:
            server = granian(**_settings(options))
        except (OSError, ValueError) as error:
            raise ServerFailed(
                f"{options.tls_cert} and {options.tls_key} can't be used: {error}", hint="give a PEM file each"
            ) from error
        return _serve(server, options)


def _serve(server: Any, options: Options) -> int:
    orphaned = threading.Event()
    hangup = signal.getsignal(signal.SIGHUP)
    logging.getLogger("_granian").addFilter(lambda _: not server.interrupt_signal)

    def started() -> None:
        # granian reloads at SIGHUP; a terminal that closes ends us, unless nohup wants otherwise
        signal.signal(signal.SIGHUP, hangup if hangup == signal.SIG_IGN else signal.getsignal(signal.SIGTERM))
        if options.attached:
            threading.Thread(target=_end_with_parent, args=(orphaned,), daemon=True).start()

    server.on_startup(started)
    code = 0
    try:
        server.serve(target_loader=partial(worker.load, options), wrap_loader=False)
    except SystemExit as stop:
        # A worker that obeys Ctrl-C before granian tells it to counts as crashed
        code = 0 if server.interrupt_signal else int(stop.code or 0)
    if orphaned.is_set() and options.attached:
        shutil.rmtree(options.attached, ignore_errors=True)
    return code


def _end_with_parent(orphaned: threading.Event) -> None:
    """Wait for the end of stdin: nobody holds the other end of the pipe any more."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _granian() -> Any:
    try:
        import granian  # noqa: PLC0415 - on use
        import sqlalchemy  # noqa: F401, PLC0415 - on use
    except ImportError as error:
        raise ServerFailed(f"serving needs {error.name}, which isn't installed", hint=EXTRA) from error
    # Since Python 3.14 other ways are the default, which import everything once more for each worker. Nothing runs here yet
    # that a fork could break.
    if sys.platform == "linux":
        import multiprocessing  # noqa: PLC0415 - granian has it

        multiprocessing.set_start_method("fork", force=True)
    return granian.Granian


def _settings(options: Options) -> dict[str, Any]:
    """What granian is told, with reasons."""
    from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols  # noqa: PLC0415 - on use
    from granian.http import HTTP1Settings  # noqa: PLC0415 - on use
    from granian.log import LogLevels  # noqa: PLC0415 - on use

    idle = min(_HEADERS, options.timeout)
    return {
        "target": "ocikit",  # a name in logs
        "address": options.host,
        "port": options.port,
        "interface": Interfaces.WSGI,
        "workers": options.workers,
        "blocking_threads": _THREADS,
        "backpressure": _CONNECTIONS,
        "backlog": 1024,
        "loop": Loops.asyncio,  # unused by WSGI; others cost an import
        # No registry client speaks HTTP/2 without TLS, and with it one connection would be all of a client's transfers
        "http": HTTPModes.http1,
        "http1_settings": HTTP1Settings(header_read_timeout=int(idle * 1000)),
        "websockets": False,
        "log_level": LogLevels.error,
        "log_dictconfig": log.config(),
        "ssl_cert": Path(options.tls_cert) if options.tls_cert else None,
        "ssl_key": Path(options.tls_key) if options.tls_key else None,
        "ssl_protocol_min": SSLProtocols.tls12,  # granian wants 1.3, which proxies and older clients don't have
        "respawn_failed_workers": True,
        "workers_kill_timeout": _DRAIN_ATTACHED if options.attached else _DRAIN,
    }


def _guarded(settings: Settings, address: str) -> Settings:
    """On loopback, the names that a server has there are the only ones that clients may use."""
    if not ipaddress.ip_address(address).is_loopback:
        return settings
    names = ("localhost", "127.0.0.1", "[::1]", bracketed(address), *settings.hosts)
    return evolve(settings, hosts=tuple(dict.fromkeys(names)))


@contextlib.contextmanager
def _reserved(host: str, port: int) -> Iterator[tuple[str, int]]:
    """An address and a port that nobody else has, nor gets: numbers, for granian. Raises: ServerFailed.

    granian listens with SO_REUSEPORT on Linux: two servers of one user would share a port, and get half of the requests
    each. So a socket of ours has it first, alone, and lets only those in who say SO_REUSEPORT, until we are gone. It
    doesn't listen, and gets no connections. Elsewhere granian's own socket is alone, and follows after a moment.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        held = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise _refused(host, port, error) from error
    with held:
        try:
            # For what is left of connections of an earlier server on this port
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(address)
            numbers = held.getsockname()
            if sys.platform == "linux":
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            else:
                held.close()
        except (OSError, OverflowError) as error:
            raise _refused(host, port, error) from error
        yield numbers[0], numbers[1]


def _refused(host: str, port: int, error: Exception) -> ServerFailed:
    reason = getattr(error, "strerror", None) or str(error)
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    return ServerFailed(
        f"can't listen on {bracketed(host)}:{port}: {reason}",
        hint="stop what listens there, or choose another port; 0 is one that is free"
        if taken
        else "choose an address of this machine, such as 127.0.0.1, and a port that you may listen on",
    )
