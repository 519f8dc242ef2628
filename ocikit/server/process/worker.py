"""Worker process of a server: builds the application, reports readiness, runs garbage collection, ends with its main process."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import multiprocessing
import os
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from multiprocessing import connection
from pathlib import Path

from ocikit.server.auth.access import Permission
from ocikit.server.http.app import HEALTHY, AccessRecord, Application
from ocikit.server.http.context import RequestContext
from ocikit.server.http.request import Request, Response
from ocikit.server.process.access_log import access_log
from ocikit.server.process.connection_close import CloseUnreadConnection
from ocikit.server.process.options import ServerConfig
from ocikit.server.process.restarts import Restarts
from ocikit.server.process.slow_clients import CHECK_INTERVAL, SlowClients
from ocikit.server.process.stop import StopWatch
from ocikit.server.process.stores import as_cluster, open_access, open_storage
from ocikit.server.storage.base import DISK_FULL
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.gc import expire_uploads, gc

_log = logging.getLogger("ocikit.server")

#: Seconds between readiness checks.
_READY_INTERVAL = 0.005

#: Seconds between checks whether a garbage collection is due.
_COLLECT_INTERVAL = 30.0

#: File that exists until one worker takes over to report that the server is ready.
UNREPORTED = "unreported"

#: Folder with the response of /healthz, which the HTTP server sends without a thread for requests.
HEALTH, HEALTH_FILE = "health", "status.json"


def prepare(config: ServerConfig) -> None:
    """Create the files in the scratch folder that the workers share."""
    (Path(config.scratch) / UNREPORTED).touch()
    health = Path(config.scratch) / HEALTH
    health.mkdir()
    (health / HEALTH_FILE).write_bytes(HEALTHY)


def load(config: ServerConfig, restarts: Restarts | None = None) -> SlowClients:
    """Return the WSGI application, in a worker process.

    Args:
        config: Configuration of the server.
        restarts: Restarts of workers, for the pause of this one.
    """
    _init_signals(config)
    if restarts is not None:
        restarts.wait()
    # granian copies the environment into each request's environ, where HTTP_RANGE would be a header of the client
    for name in [name for name in os.environ if name.startswith("HTTP_")]:
        del os.environ[name]
    options, settings = config.options, config.options.settings()
    storage = open_storage(config)
    access, stop = open_access(config, storage), StopWatch(config)
    callbacks = [callback for callback in (access_log(options.log_format),) if callback]
    routes: dict[str, Callable[[Request], Response]] = {}
    update: Callable[[], None] | None = None
    if options.metrics and find_spec("prometheus_client"):
        from ocikit.server.process.metrics import Metrics  # noqa: PLC0415 - optional package

        metrics = Metrics(Path(config.scratch), storage, None if config.path is None else Path(config.path))
        if config.clustered:
            metrics.add_cluster(as_cluster(storage))
        callbacks.append(metrics.count)
        update = metrics.update

        def page(request: Request) -> Response:
            # Metrics cover all users, so they need the permission for the catalog. The client's address
            # cannot replace the permission, because a proxy on this machine may hide it
            ctx = RequestContext(request, access.identify(request), access, storage, settings)
            ctx.require(Permission("catalog"))
            return metrics.page()

        routes["/metrics"] = page
    registry = Application(
        storage,
        access=access,
        settings=settings,
        on_request=partial(_notify, callbacks),
        extra_routes=routes,
        problems=stop.problems,
    )
    application = SlowClients(
        CloseUnreadConnection(registry),
        options.timeout,
        threads=config.threads,
        connections=max(config.connections // 2, 1),
        proxies=options.trusted_proxies,
        port=config.port,
    )
    threading.Thread(target=_watch, args=(config, application, stop, update), name="ocikit-watch", daemon=True).start()
    if options.collect_every > 0 and not options.read_only:
        collect = partial(_sweep, stop=stop) if config.clustered else _collect_periodically
        threading.Thread(target=collect, args=(config, storage), name="ocikit-gc", daemon=True).start()
    return application


def report(message: Mapping[str, str]) -> None:
    """Write a JSON line to the parent process on stdout."""
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{json.dumps(message)}\n")
        sys.stdout.flush()


def _init_signals(config: ServerConfig) -> None:
    """Ignore the terminal's signals; the main process stops the workers."""
    if multiprocessing.parent_process() is None:
        return
    # The inherited handler of the main process does nothing in a worker; granian installs its own later
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not config.attached:
        # A worker that handles Ctrl-C before granian stops it counts as crashed and is replaced
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background group may still log to the terminal


def _notify(callbacks: Sequence[Callable[[AccessRecord], None]], record: AccessRecord) -> None:
    for callback in callbacks:
        callback(record)


def _watch(config: ServerConfig, application: SlowClients, stop: StopWatch, update: Callable[[], None] | None) -> None:
    """Report readiness, close slow connections and those that outlast a stop, and end with the main process."""
    main = multiprocessing.parent_process()

    def alive(seconds: float) -> bool:
        # The sentinel is a pipe that closes however the main process ends. Workers that are threads of it have no parent
        if connection.wait([main.sentinel] if main else [], seconds):
            os._exit(1)
        return True

    _report_ready(config, alive)
    while alive(min(config.options.timeout / 4, CHECK_INTERVAL, config.cut_after)):
        try:
            application.close_slow()
            if stop.must_cut():
                application.close_all()
            if update is not None:
                update()
        except OSError:
            _log.exception("closing slow connections failed")


def _report_ready(config: ServerConfig, alive: Callable[[float], bool]) -> None:
    """Write the address to stdout as soon as `/v2/` responds, once for all workers."""
    try:
        (Path(config.scratch) / UNREPORTED).unlink()
    except FileNotFoundError:
        return
    while not _responds(config) and alive(_READY_INTERVAL):
        pass
    if config.attached:
        report({"name": config.name, "url": config.url})
        return
    with contextlib.suppress(OSError):
        sys.stdout.write(
            f"serving {config.store} at {config.url}; press Ctrl-C to stop\n"
            f"  python -m ocikit push {config.name}/name:v1 folder/\n"
        )
        sys.stdout.flush()


def _responds(config: ServerConfig) -> bool:
    """Return True if `/v2/` responds, with any status."""
    host, _, port = config.name.rpartition(":")
    host = host.strip("[]")
    client = (
        http.client.HTTPSConnection(host, int(port), timeout=10, context=_unverified_context())
        if config.options.tls_cert
        else http.client.HTTPConnection(host, int(port), timeout=10)
    )
    try:
        client.request("GET", "/v2/", headers={"User-Agent": "ocikit"})
        client.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        client.close()
    return True


def _unverified_context() -> ssl.SSLContext:
    """Return a TLS context without verification, for requests of the server to itself."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _sweep(config: ServerConfig, storage: Storage, *, stop: StopWatch) -> None:
    """Run the sweeps of a registry that several machines share, each of them in one process at a time."""
    from ocikit.server.storage.cluster.sweep import run_sweeps  # noqa: PLC0415 - needs optional packages

    options = config.options
    run_sweeps(as_cluster(storage), grace=options.grace, every=options.collect_every, stop=stop.begun)


def _collect_periodically(config: ServerConfig, storage: Storage) -> None:
    """Run garbage collection at the interval, in one of the processes of a folder."""
    options = config.options
    while True:
        time.sleep(min(_COLLECT_INTERVAL, options.collect_every))
        try:
            expire_uploads(storage.uploads)
            with _claim_turn(Path(config.path or "") / "collected", options.collect_every) as claimed:
                if claimed:
                    gc(storage, grace=options.grace)
        except Exception:  # noqa: BLE001 - such as a full disk; the next turn may succeed
            _log.exception("garbage collection failed")


@contextlib.contextmanager
def _claim_turn(marker: Path, interval: float) -> Iterator[bool]:
    """Yield True if a marker file is older than the interval and not locked.

    The time of the file is updated at the end of the block.
    """
    import fcntl  # noqa: PLC0415 - missing on Windows

    try:
        fd = os.open(marker, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        yield True  # several collections at once do no harm
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        if time.time() - os.fstat(fd).st_mtime < interval:
            yield False
            return
        yield True
        os.utime(fd)
    finally:
        os.close(fd)
