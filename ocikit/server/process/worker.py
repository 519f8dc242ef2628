"""What each worker process of a server does beside answering: it says once that it is ready, sweeps, and dies with its main."""

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
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

from ocikit.errors import InvalidArgument, ServerFailed
from ocikit.server.auth.access import Access, Permission
from ocikit.server.auth.factory import access_from
from ocikit.server.http.app import AccessRecord, Application
from ocikit.server.http.context import RequestContext
from ocikit.server.http.request import Request, Response
from ocikit.server.process import access_log as log
from ocikit.server.process.connection_close import CloseUnreadConnection
from ocikit.server.process.metrics import Metrics
from ocikit.server.process.options import Options
from ocikit.server.process.stalled import StalledConnections
from ocikit.server.storage.base import Storage
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import collect

_log = logging.getLogger("ocikit.server")

#: Seconds between attempts to be answered.
_AGAIN = 0.005

#: Seconds between looks whether it is time to collect.
_LOOK = 30.0

#: The file that is there until a worker takes it on to say that the server is ready.
_UNSAID = "unsaid"


def open_storage(options: Options) -> Storage:
    """The store in the folder. Raises: ServerFailed."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 - on use

    try:
        return file_storage(options.path, grace=options.grace, durable=options.durable)
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
        raise ServerFailed(
            f"{options.path} can't hold a registry: {reason}",
            hint="name a folder on a local disk that you may write to",
        ) from error


def check(options: Options) -> None:
    """Go on only if workers will find everything: the folder, users, rules. Makes what isn't there, for all of them.

    Raises:
        ServerFailed, InvalidArgument: with what is wrong.
    """
    storage = open_storage(options)
    storage.close()
    probe = Path(options.path) / "uploads"
    if not os.access(probe, os.W_OK):
        raise ServerFailed(f"{options.path} can't be written to", hint="name a folder of yours, or change its mode")
    _access(options)


def prepare(options: Options) -> None:
    """Fill the folder that workers share for the time of a run."""
    (Path(options.scratch) / _UNSAID).touch()


def load(options: Options) -> Any:
    """The application, in a worker."""
    _settle(options)
    # granian puts the environment into every request's, where HTTP_RANGE is a header of the client
    for name in [name for name in os.environ if name.startswith("HTTP_")]:
        del os.environ[name]
    storage, access = open_storage(options), _access(options)
    told = [told for told in (log.access_log(options.log_format),) if told]
    pages: dict[str, Callable[[Request], Response]] = {}
    if options.settings.metrics:
        metrics = Metrics(Path(options.scratch), storage, Path(options.path))
        told.append(metrics.told)

        def page(request: Request) -> Response:
            # Names and numbers of everybody's: for those who may see the catalog, wherever they ask from. A proxy on this
            # machine may hide who that is
            RequestContext(request, access.identify(request), access, storage, options.settings).require(
                Permission("catalog")
            )
            return metrics.page()

        pages["/metrics"] = page
    registry = Application(storage, access=access, settings=options.settings, told=partial(_tell, told), pages=pages)
    application = StalledConnections(CloseUnreadConnection(registry), options.timeout)
    threading.Thread(target=_watch, args=(options, application), name="ocikit-watch", daemon=True).start()
    if options.collect_every > 0 and not options.settings.read_only:
        threading.Thread(target=_sweep, args=(options, storage), name="ocikit-collect", daemon=True).start()
    return application


def _settle(options: Options) -> None:
    """Be a worker: what a terminal sends is for the main process, which tells workers what to do."""
    if multiprocessing.parent_process() is None:
        return
    # Until granian handles it; what stands here is the main process's handler, which does nothing in a worker
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not options.attached:
        # A worker that ends at Ctrl-C before granian tells it to counts as crashed, and another one is started
        os.setpgid(0, 0)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # its log may go to that terminal nevertheless


def _tell(told: Sequence[Callable[[AccessRecord], None]], record: AccessRecord) -> None:
    for each in told:
        each(record)


def _access(options: Options) -> Access:
    try:
        return access_from(
            htpasswd=options.htpasswd, token=options.token, folder=options.path, rules=options.rules,
            anonymous_pull=options.anonymous_pull, allow_plain_http=options.allow_plain_http,
            failures=options.settings.limits.failures,
        )  # fmt: skip
    except OSError as error:
        raise InvalidArgument(f"{error.filename}: {error.strerror}") from error


def _watch(options: Options, application: StalledConnections) -> None:
    """Say that the server is ready; end stalled connections; end this process when its main process is gone."""
    main = multiprocessing.parent_process()

    def alive(seconds: float) -> bool:
        # Its end of a pipe closes however it ended. Where workers are threads of it there is none
        if connection.wait([main.sentinel] if main else [], seconds):
            os._exit(1)
        return True

    _announce(options, alive)
    while alive(options.timeout / 4):
        try:
            application.close_stalled()
        except OSError:
            _log.exception("connections can't be looked at")


def _announce(options: Options, alive: Callable[[float], bool]) -> None:
    """Once for all workers, as soon as `/v2/` answers: a line on stdout."""
    try:
        (Path(options.scratch) / _UNSAID).unlink()
    except FileNotFoundError:
        return
    while not _answers(options) and alive(_AGAIN):
        pass
    if options.attached:
        words = json.dumps({"name": options.name, "url": options.url})
    else:
        words = (
            f"serving {options.path} at {options.url}; Ctrl-C stops\n"
            f"  python -m ocikit push {options.name}/name:v1 folder/"
        )
    with contextlib.suppress(OSError):
        sys.stdout.write(f"{words}\n")
        sys.stdout.flush()


def _answers(options: Options) -> bool:
    """Whether `/v2/` answers anything at all: 401 will do."""
    host, _, port = options.name.rpartition(":")
    host = host.strip("[]")
    asking = (
        http.client.HTTPSConnection(host, int(port), timeout=10, context=_trusting())
        if options.tls_cert
        else http.client.HTTPConnection(host, int(port), timeout=10)
    )
    try:
        asking.request("GET", "/v2/", headers={"User-Agent": "ocikit"})
        asking.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asking.close()
    return True


def _trusting() -> ssl.SSLContext:
    """For a question to oneself, whose answer doesn't matter."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _sweep(options: Options, storage: Storage) -> None:
    """Collect from time to time; of all processes that serve a folder, the first whose turn it is."""
    while True:
        time.sleep(min(_LOOK, options.collect_every))
        try:
            with _turn(Path(options.path) / "collected", options.collect_every) as mine:
                if mine:
                    collect(storage, grace=options.grace)
        except Exception:  # noqa: BLE001 - a full disk, for one: next time may be better
            _log.exception("collecting failed")


@contextlib.contextmanager
def _turn(mark: Path, every: float) -> Iterator[bool]:
    """Whether so many seconds have passed since a file's time, and nobody else is at it. Sets the time when done."""
    import fcntl  # noqa: PLC0415 - not on Windows

    fd = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        if time.time() - os.fstat(fd).st_mtime < every:
            yield False
            return
        yield True
        os.utime(fd)
    finally:
        os.close(fd)
