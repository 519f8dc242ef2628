"""Registries on different stores, started side by side on this machine, and the CPU time of all their processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import define, field, frozen

from benchmarks.measure import cpu, family, high_water
from ocikit.server.storage.cluster.migrations import migrate
from tests.support import peers, postgres, s3
from tests.support.http import free_port

#: Seconds until a registry must answer.
_START = 60.0

#: Settings of PostgreSQL as an operator would choose them for this machine.
_POSTGRES = {"shared_buffers": "256MB", "max_connections": "300", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


@frozen
class Stack:
    """A running registry with the processes that it uses."""

    name: str
    host: str
    #: The server, and the database and the object store where there are some.
    pids: tuple[int, ...]

    def cpu(self) -> tuple[float, ...]:
        """Return the CPU seconds of each, with its descendants."""
        return tuple(cpu(pid) for pid in self.pids)

    def memory(self) -> int:
        """Return the peak memory of the server's processes together [bytes]."""
        return sum(high_water(pid) for pid in family(self.pids[0]))


@define(eq=False)
class Stacks:
    """Starts registries, which share one PostgreSQL and one S3 server."""

    folder: Path
    durable: bool = True
    _open: ExitStack = field(factory=ExitStack)
    _postgres: postgres.PostgresServer | None = None
    _s3: s3.S3Server | None = None
    _count: int = 0

    def embedded(self, name: str, workers: int, *, checkout: Path | None = None) -> Stack:
        """Start our registry on SQLite and files.

        Args:
            name: Name in tables.
            workers: Number of its processes.
            checkout: Another checkout of the sources; None for this one.
        """
        env = {"PYTHONPATH": str(checkout)} if checkout else {}
        return self._ocikit(name, [str(self._folder())], workers, env, ())

    def files(self, name: str, workers: int) -> Stack:
        """Start our registry on PostgreSQL and a folder."""
        blobs = self._folder().as_uri()
        return self._ocikit(name, ["--blobs", blobs, *self._metadata()], workers, {}, (self.postgres.service.pid,))

    def cluster(self, name: str, workers: int, *, redirect: bool = False) -> Stack:
        """Start our registry on PostgreSQL and S3."""
        words = ["--blobs", self.s3.url(), *self._metadata(), "--redirect", "blobs" if redirect else "never"]
        stores = (self.postgres.service.pid, self.s3.service.pid)
        return self._ocikit(name, words, workers, self.s3.environ, stores)

    def distribution(self, name: str, *, redirect: bool = False) -> Stack:
        """Start distribution 3 with its S3 driver on the same S3 server, as its image configures it."""
        folder, port = self._folder(), free_port()
        store = {
            "accesskey": s3.ACCESS,
            "secretkey": s3.SECRET,
            "region": s3.REGION,
            "regionendpoint": self.s3.endpoint,
            "forcepathstyle": True,
            "secure": False,
            "bucket": s3.BUCKET,
            "rootdirectory": f"/{folder.name}",
        }
        storage = {"s3": store, "redirect": {"disable": not redirect}, "cache": {"blobdescriptor": "inmemory"}}
        config = {
            "version": "0.1",
            "log": {"level": "warn", "accesslog": {"disabled": True}},
            "storage": {**storage, "delete": {"enabled": True}, "maintenance": {"uploadpurging": {"enabled": False}}},
            "validation": {"disabled": True},
            "http": {"addr": f"127.0.0.1:{port}", "secret": "the same for all"},
        }
        path = folder / "config.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return self._start(name, [peers.find("registry"), "serve", path], port, folder, {}, (self.s3.service.pid,))

    @property
    def postgres(self) -> postgres.PostgresServer:
        """The database server, started on first use."""
        if self._postgres is None:
            self._postgres = self._open.enter_context(postgres.running(durable=self.durable, settings=_POSTGRES))
        return self._postgres

    @property
    def s3(self) -> s3.S3Server:
        """The S3 server, started on first use."""
        if self._s3 is None:
            self._s3 = self._open.enter_context(s3.running())
        return self._s3

    def close(self) -> None:
        """End all servers."""
        self._open.close()

    def _ocikit(
        self, name: str, words: Sequence[str], workers: int, env: Mapping[str, str], stores: tuple[int, ...]
    ) -> Stack:
        folder, port = self._folder(), free_port()
        command = [sys.executable, "-m", "ocikit", "serve", *words, "--port", str(port), "--workers", str(workers)]
        command += ["--log-format", "none"]
        if stores:
            command += ["--state", str(folder / "state")]
        return self._start(name, command, port, folder, env, stores)

    def _start(
        self,
        name: str,
        command: Sequence[str | Path],
        port: int,
        folder: Path,
        env: Mapping[str, str],
        stores: tuple[int, ...],
    ) -> Stack:
        started = self._open.enter_context(peers.process(command, folder / "log", env))
        deadline = time.monotonic() + _START
        while not _answers(port):
            if time.monotonic() > deadline or started.poll() is not None:
                raise RuntimeError(f"{name} does not answer:\n{(folder / 'log').read_text(errors='replace')[-4000:]}")
            time.sleep(0.05)
        return Stack(name, f"127.0.0.1:{port}", (started.pid, *stores))

    def _metadata(self) -> list[str]:
        url = self.postgres.create()
        migrate(url)
        return ["--metadata", url]

    def _folder(self) -> Path:
        self._count += 1
        folder = self.folder / f"s{os.getpid()}-{self._count}"
        folder.mkdir()
        return folder


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    return False


@contextmanager
def stacks(*, durable: bool = True) -> Iterator[Stacks]:
    """Start registries in a temporary folder, and end them with all servers.

    Args:
        durable: Whether PostgreSQL waits for the disk.
    """
    with tempfile.TemporaryDirectory(prefix="ocikit-bench-", ignore_cleanup_errors=True) as name:
        made = Stacks(Path(name), durable)
        try:
            yield made
        finally:
            made.close()
