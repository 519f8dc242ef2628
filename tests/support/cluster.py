"""Registries on one database and one object store, each a "machine": a server process with its own workers, port and state.

    with cluster.running(database_url, objects_url) as machines, machines.balancer() as balancer:
        requests.get(f"{balancer.url}/v2/")

`whole` starts PostgreSQL and an S3 server too.
"""

import contextlib
import http.client
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.support import postgres, s3
from tests.support.http import free_port
from tests.support.postgres import PostgresServer
from tests.support.round_robin import RoundRobin
from tests.support.s3 import S3Server
from tests.support.service import Service
from tests.support.tcp_proxy import TcpProxy

_GONE = 10.0  # seconds


class Machine:
    """A server process with its workers.

    Args:
        name: Its name for messages.
        command: The options of `ocikit serve` without state and port.
        folder: Its state.
        env: Environment variables in addition to those of this process.
    """

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path, env: Mapping[str, str]) -> None:
        self.host = f"127.0.0.1:{free_port()}"
        start = [sys.executable, "-m", "ocikit", "serve", "--port", self.host.rpartition(":")[2], *command]
        self.service = Service(name, start, folder, self.is_ready, env=env)

    @property
    def log(self) -> str:
        """What the server has logged."""
        return self.service.log.read_text(errors="replace")

    @property
    def workers(self) -> list[int]:
        """The ids of the worker processes."""
        pid = self.service.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def is_ready(self) -> bool:
        """Whether the server answers."""
        return self.status("/v2/") in (200, 401)

    def status(self, path: str) -> int | None:
        """Return the status of a GET; None without an answer."""
        connection = http.client.HTTPConnection(self.host, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", path)
            return connection.getresponse().status
        return None

    def kill_worker(self, number: int) -> None:
        """End a worker by SIGKILL. The server starts another one."""
        workers = self.workers
        if workers:
            _kill(workers[number % len(workers)])

    def kill(self) -> None:
        """End the server with its workers by SIGKILL, as a power cut does."""
        workers = self.workers
        self.service.kill()
        for worker in workers:
            _kill(worker)
        deadline = time.monotonic() + _GONE
        while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
            time.sleep(0.01)

    def start(self) -> None:
        """Start the server again after `kill` or `stop`."""
        self.service.start()

    def stop(self) -> None:
        """Stop the server."""
        self.service.stop()


class Machines(list[Machine]):
    """The machines of a cluster."""

    @property
    def hosts(self) -> list[str]:
        """HOST:PORT of each machine."""
        return [machine.host for machine in self]

    def balancer(self) -> RoundRobin:
        """Return a load balancer before them, a context manager."""
        return RoundRobin(self.hosts)

    def start(self) -> None:
        """Start all machines."""
        for machine in self:
            machine.start()

    def stop(self) -> None:
        """Stop all machines."""
        for machine in self:
            machine.stop()


@contextmanager
def running(
    metadata: str,
    blobs: str,
    *,
    machines: int = 2,
    workers: int = 2,
    options: Sequence[str | Path] = (),
    env: Mapping[str, str] | None = None,
) -> Iterator[Machines]:
    """Start machines, and stop them at the end.

    Args:
        metadata: The URL of a database with the tables of the registry.
        blobs: The URL of an object store.
        machines: Their number.
        workers: Workers of each.
        options: More options of `ocikit serve`.
        env: Environment variables, such as the credentials of the object store.
    """
    folder = Path(tempfile.mkdtemp(prefix="ocikit-cluster-"))
    found = Machines()
    try:
        for number in range(machines):
            state = folder / f"machine{number}"
            state.mkdir()
            command = ["--metadata", metadata, "--blobs", blobs, "--state", state / "state", "--workers", str(workers)]
            found.append(Machine(f"machine {number}", [*command, *options], state, env or {}))
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


@frozen
class Whole:
    """Machines with their servers."""

    machines: Machines
    postgres: PostgresServer
    s3: S3Server
    metadata: str
    """The URL of the database."""
    blobs: str
    """The URL of the object store."""
    database_proxy: TcpProxy | None = None
    """The proxy between the machines and PostgreSQL."""
    objects_proxy: TcpProxy | None = None
    """The proxy between the machines and the S3 server."""


@contextmanager
def whole(
    *,
    machines: int = 2,
    workers: int = 2,
    options: Sequence[str | Path] = (),
    durable: bool = False,
    folder: Path | None = None,
    proxied: bool = False,
) -> Iterator[Whole]:
    """Start PostgreSQL, an S3 server and machines, and remove all of them at the end.

    Args:
        machines: Number of machines.
        workers: Workers of each.
        options: More options of `ocikit serve`.
        durable: Whether commits wait for the disk.
        folder: The parent of the S3 server's folder.
        proxied: Whether proxies are between the machines and the two servers.
    """
    with (
        postgres.running(durable=durable) as database,
        s3.running(folder) as store,
        database.database(migrated=True) as metadata,
    ):
        blobs, env = store.url(), store.environ
        with contextlib.ExitStack() as stack:
            proxies: list[TcpProxy] = []
            urls = [metadata, blobs]
            if proxied:
                ports = (database.port, int(store.host.rpartition(":")[2]))
                proxies = [stack.enter_context(TcpProxy(port)) for port in ports]
                urls = [proxies[0].url(metadata), blobs.replace(f"%3A{ports[1]}", f"%3A{proxies[1].port}")]
            started = stack.enter_context(running(*urls, machines=machines, workers=workers, options=options, env=env))
            yield Whole(started, database, store, metadata, blobs, *proxies)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
