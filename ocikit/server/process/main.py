"""Main process of a server: reserves the port, starts the workers with granian, and stops them.

granian serves HTTP, forks the workers where the platform allows it, and replaces workers that crash. This module adds an
exclusive port, a stop when the terminal closes, and a stop when the parent process ends.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
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

import cattrs
from attrs import evolve

from ocikit.errors import OcikitError, ServerFailed
from ocikit.server.process import access_log, worker
from ocikit.server.process.options import INSTALL_COMMAND, ServerConfig, ServerOptions, bracketed
from ocikit.server.process.restarts import Restarts
from ocikit.server.process.stop import Stop
from ocikit.server.process.stores import Inspection, check

_log = logging.getLogger("ocikit.server")

#: Concurrent requests of each worker: a request holds a thread while its body is transferred. Threads start on demand and
#: cost 80 KB each, so hundreds of clients that stall in a body do not block other requests.
_THREADS = 512

#: Concurrent connections of each worker; further ones wait to be accepted.
_CONNECTIONS = 4096

#: Descriptors of a worker that are neither connections nor files of requests.
_OTHER_DESCRIPTORS = 128

#: Seconds for the headers of a request, and for an idle connection before its next request.
_HEADER_TIMEOUT = 30.0


def main() -> int:
    """Serve the configuration on stdin.

    The URL or the error is reported as a JSON line on stdout.

    Returns:
        The exit code.
    """
    line = sys.stdin.buffer.readline()
    if not line:  # the parent has already ended
        return 1
    try:
        return run(cattrs.Converter().structure(json.loads(line), ServerConfig))
    except OcikitError as error:
        worker.report({"error": error.message, "hint": error.hint})
        return 1


def run(config: ServerConfig) -> int:
    """Serve until a signal arrives or the parent process ends.

    Args:
        config: Configuration of the server.

    Returns:
        The exit code.

    Raises:
        ServerFailed: The server cannot start.
        InvalidArgument: The stores are not named, or the access options or a file that they name are invalid.
    """
    granian = _load_granian()
    config = _sized(config)
    with contextlib.ExitStack() as stack:
        address, port = stack.enter_context(_reserved_port(config.options.host, config.port))
        options = evolve(config.options, host=address, hosts=_allowed_hosts(config.options, address))
        config = evolve(config, port=port, options=options)
        scratch = config.attached or stack.enter_context(tempfile.TemporaryDirectory(prefix="ocikit-serve-"))
        config = evolve(config, scratch=scratch)
        inspection = check(config)
        config = evolve(config, token_secret=inspection.token_secret)
        worker.prepare(config)
        try:
            server = granian(**_granian_settings(config))
        except (OSError, ValueError) as error:
            raise ServerFailed(
                f"invalid certificate {options.tls_cert} or key {options.tls_key}: {error}",
                hint="give each as a PEM file",
            ) from error
        for warning in inspection.warnings:
            _log.warning("%s", warning)
        return _serve(server, config)


def inspect_stores(config: ServerConfig) -> Inspection:
    """Open the stores, users and rules as a server would, and close them again.

    Args:
        config: Configuration of the server.

    Returns:
        What was found.

    Raises:
        ServerFailed: A store cannot be used, or a package is missing.
        InvalidArgument: The access options or a file that they name are invalid.
    """
    _load_granian()
    with tempfile.TemporaryDirectory(prefix="ocikit-check-") as scratch:
        return check(evolve(_sized(config), scratch=scratch))


def _sized(config: ServerConfig) -> ServerConfig:
    """Return the configuration with the numbers that this machine allows.

    Raises:
        InvalidArgument: No store is named.
    """
    config.require_store()
    # Each request may use a connection and a file
    connections = max(min((_raise_descriptor_limit() - _OTHER_DESCRIPTORS) // 2, _CONNECTIONS), 32)
    return evolve(config, connections=connections, threads=min(_THREADS, connections))


def _serve(server: Any, config: ServerConfig) -> int:
    parent_ended = threading.Event()
    hangup = signal.getsignal(signal.SIGHUP)
    stop = Stop(server, config)
    logging.getLogger("_granian").addFilter(lambda _: not server.interrupt_signal)

    def started() -> None:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        # granian reloads on SIGHUP. A closed terminal must stop the server instead, except under nohup
        signal.signal(signal.SIGHUP, hangup if hangup == signal.SIG_IGN else stop)
        if config.attached:
            threading.Thread(target=_stop_with_parent, args=(parent_ended,), daemon=True).start()

    server.on_startup(started)
    restarts = Restarts(Path(config.scratch) / worker.UNREPORTED)
    server.respawned_wrks = restarts
    code = 0
    try:
        server.serve(target_loader=partial(worker.load, config, restarts), wrap_loader=False)
    except SystemExit as end:
        # A worker that handles Ctrl-C before granian stops it counts as crashed
        code = 0 if server.interrupt_signal else int(end.code or 0)
    if parent_ended.is_set() and config.attached:
        shutil.rmtree(config.attached, ignore_errors=True)
    return code


def _stop_with_parent(parent_ended: threading.Event) -> None:
    """Wait for the end of stdin: it comes when the parent process has ended."""
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    parent_ended.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _raise_descriptor_limit() -> int:
    """Raise the soft limit of descriptors to the hard limit and return it.

    Many systems start processes with a soft limit of 1024, for programs that use select(2).
    """
    try:
        import resource  # noqa: PLC0415 - missing on Windows
    except ImportError:
        return sys.maxsize
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS refuses an unlimited number
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _load_granian() -> Any:
    try:
        import granian  # noqa: PLC0415 - optional package
        import sqlalchemy  # noqa: F401, PLC0415 - optional package
    except ImportError as error:
        raise ServerFailed(f"the package {error.name} is not installed", hint=INSTALL_COMMAND) from error
    # Python 3.14 no longer forks by default; the other methods import everything again in each worker. Forking is safe here:
    # no thread runs yet
    if sys.platform == "linux":
        import multiprocessing  # noqa: PLC0415 - imported by granian anyway

        multiprocessing.set_start_method("fork", force=True)
    return granian.Granian


def _granian_settings(config: ServerConfig) -> dict[str, Any]:
    """Return the arguments of `granian.Granian`."""
    from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols  # noqa: PLC0415 - optional package
    from granian.http import HTTP1Settings  # noqa: PLC0415 - optional package
    from granian.log import LogLevels  # noqa: PLC0415 - optional package

    options = config.options
    header_timeout = min(_HEADER_TIMEOUT, options.timeout)
    return {
        "target": "ocikit",  # appears in logs
        "address": options.host,
        "port": config.port,
        "interface": Interfaces.WSGI,
        "workers": options.workers,
        "blocking_threads": config.threads,
        "backpressure": config.connections,
        # The HTTP server itself responds to /healthz, so that slow clients cannot delay it
        "static_path_route": ["/healthz"],
        "static_path_mount": [Path(config.scratch) / worker.HEALTH],
        "static_path_dir_to_file": worker.HEALTH_FILE,
        "static_path_expires": 0,
        "backlog": 1024,
        "loop": Loops.asyncio,  # not used by WSGI; the other loops cost an import
        # Registry clients use HTTP/2 with TLS only, and then one connection would carry all transfers of a client
        "http": HTTPModes.http1,
        "http1_settings": HTTP1Settings(header_read_timeout=int(header_timeout * 1000)),
        "websockets": False,
        "log_level": LogLevels.error,
        "log_dictconfig": access_log.logging_config(),
        "ssl_cert": Path(options.tls_cert) if options.tls_cert else None,
        "ssl_key": Path(options.tls_key) if options.tls_key else None,
        "ssl_protocol_min": SSLProtocols.tls12,  # granian's default is 1.3; proxies and older clients lack it
        "respawn_failed_workers": True,
        "workers_kill_timeout": config.drain,
    }


def _allowed_hosts(options: ServerOptions, address: str) -> tuple[str, ...]:
    """Return the allowed host names; on loopback, always with the loopback names.

    This prevents DNS rebinding: a web page could resolve its own name to this address and then read the registry.
    """
    if not ipaddress.ip_address(address).is_loopback:
        return options.hosts
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "[::1]", bracketed(address), *options.hosts)))


@contextlib.contextmanager
def _reserved_port(host: str, port: int) -> Iterator[tuple[str, int]]:
    """Reserve a port and yield the numeric address and port, as granian needs them.

    granian listens with SO_REUSEPORT on Linux, so two servers of one user could share a port and get half of the requests
    each. A socket of this process therefore binds the port exclusively first, then sets SO_REUSEPORT to admit granian. It
    does not listen, so it gets no connections. On other systems granian's own socket is exclusive and binds a moment later.

    Raises:
        ServerFailed: The port is taken, or the host or port cannot be used.
    """
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(addresses, key=lambda info: info[0] != socket.AF_INET)
        reservation = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise _cannot_listen(host, port, error) from error
    with reservation:
        try:
            # Connections of an earlier server may still be in TIME_WAIT on this port
            reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            reservation.bind(address)
            name = reservation.getsockname()
            if sys.platform == "linux":
                reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
                reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            else:
                reservation.close()
        except (OSError, OverflowError) as error:
            raise _cannot_listen(host, port, error) from error
        yield name[0], name[1]


def _cannot_listen(host: str, port: int, error: Exception) -> ServerFailed:
    reason = getattr(error, "strerror", None) or str(error)
    port_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    return ServerFailed(
        f"cannot listen on {bracketed(host)}:{port}: {reason}",
        hint="stop the other program, or choose another port; 0 selects a free port"
        if port_taken
        else "choose an address of this machine, such as 127.0.0.1, and a port that you may use",
    )
