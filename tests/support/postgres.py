"""A PostgreSQL server as a process in a temporary folder.

    with postgres.running() as server, server.database(migrated=True) as url:
        Database(url)

Tests use the fixtures `database_url` (a new database with the tables of the registry), `empty_database_url` and
`postgres_server` of tests/conftest.py: they skip where PostgreSQL is missing, and share one server for each process of
pytest. Tools and benchmarks use `running`. By hand, with its URLs on the standard output until a line arrives:

    python -m tests.support.postgres
"""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql

from tests.support import peers
from tests.support.http import free_port
from tests.support.service import Service

#: The account that PostgreSQL runs as if this process is root's: it refuses root.
_ACCOUNT = "postgres"

#: The role of the registry. It owns its databases and has no other rights.
ROLE = "ocikit"

#: What tests do not need: these settings lose commits in a power cut only.
_QUICK = {"fsync": "off", "full_page_writes": "off"}


class PostgresServer:
    """A running server. `running` makes it.

    Args:
        folder: The folder of the server, owned by its account.
        port: A free loopback port.
        user: The account of the process, or None.
    """

    def __init__(self, folder: Path, port: int, user: str | None) -> None:
        self.port = port
        self.data = folder / "data"
        command = [peers.find("postgres"), "-D", self.data]
        self.service = Service("postgres", command, folder, self._ready, ending=signal.SIGINT, user=user)
        self._lock = threading.Lock()
        self._count = 0
        self._template: str | None = None

    def url(self, database: str = "postgres", *, user: str = ROLE) -> str:
        """Return the URL of a database for a role."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres", *, user: str = _ACCOUNT) -> "psycopg.Connection[tuple[object, ...]]":
        """Return a connection with autocommit, as superuser by default."""
        return psycopg.connect(self.url(database, user=user), autocommit=True, connect_timeout=5)

    @contextmanager
    def database(self, *, migrated: bool = False) -> Iterator[str]:
        """Make a new database, return its URL, and drop the database with its connections at the end."""
        url = self.create(migrated=migrated)
        try:
            yield url
        finally:
            with self.connect() as admin:
                name = sql.Identifier(url.rpartition("/")[2])
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def create(self, *, migrated: bool = False) -> str:
        """Make a new database, with the tables of the registry if wanted, and return its URL."""
        with self._lock:
            if migrated and self._template is None:
                from ocikit.server.storage.cluster.migrations import migrate

                empty = self._create("template1")
                migrate(self.url(empty))
                self._template = empty
            return self.url(self._create(self._template if migrated and self._template else "template1"))

    def _create(self, template: str) -> str:
        self._count += 1
        name = f"t{os.getpid()}_{self._count}"
        with self.connect() as admin:
            words = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
            admin.execute(words.format(sql.Identifier(name), sql.Identifier(ROLE), sql.Identifier(template)))
        return name

    def cut_connections(self, database: str) -> int:
        """End all connections of a database at the server, as a failover does; return their number."""
        with self.connect() as admin:
            words = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
            return len(admin.execute(words, [database]).fetchall())

    def start(self) -> None:
        """Start the server again after `stop` or `crash`."""
        self.service.start()

    def stop(self) -> None:
        """Stop the server, and end its connections."""
        self.service.stop()

    def crash(self) -> None:
        """Stop the server at once, as a crash does: it recovers from its log at the next start."""
        self.service.stop(signal.SIGQUIT)

    def _ready(self) -> bool:
        try:
            with self.connect() as admin:
                admin.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def running(*, durable: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[PostgresServer]:
    """Start a server, and remove it at the end.

    Args:
        durable: Whether commits wait for the disk, as they do in production.
        settings: More settings of postgresql.conf.
    """
    user = _ACCOUNT if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="ocikit-postgres-"))
    try:
        if user:
            entry = pwd.getpwnam(user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
        _initialize(folder, user)
        port = free_port()
        chosen = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "64MB",
            "log_line_prefix": "%m [%p] ",
            **({} if durable else _QUICK),
            **(settings or {}),
        }
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in chosen.items())
        server = PostgresServer(folder, port, user)
        server.start()
        try:
            with server.connect() as admin:
                admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(ROLE)))
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _initialize(folder: Path, user: str | None) -> None:
    command = [peers.find("initdb"), "-D", folder / "data", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
    command += ["--no-sync", f"--username={_ACCOUNT}"]
    account = {"user": user, "group": user, "extra_groups": []} if user else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, **account)
    if done.returncode:
        raise RuntimeError(f"initdb failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    with running(durable="--durable" in sys.argv) as started:
        print(started.create(), started.url(user=_ACCOUNT), flush=True)
        sys.stdin.readline()
