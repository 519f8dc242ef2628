"""The servers of tests: PostgreSQL and S3 as processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.support import postgres, s3

ROOT = Path(__file__).resolve().parents[2]


def test_each_test_has_a_database_of_its_own(postgres_server, empty_database_url):
    with postgres_server.database() as other, psycopg.connect(empty_database_url) as connection:
        connection.execute("CREATE TABLE t (number int)")
        with psycopg.connect(other) as second, pytest.raises(psycopg.errors.UndefinedTable):
            second.execute("SELECT * FROM t")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(other)


def test_registry_owns_its_database_and_no_more(postgres_server, empty_database_url):
    with psycopg.connect(empty_database_url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("CREATE ROLE another")


@pytest.mark.peers("postgresql")
def test_database_keeps_commits_over_a_crash():
    with postgres.running() as server:
        url = server.create()
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE t AS SELECT 7 AS number")
        server.crash()
        server.start()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT number FROM t").fetchall() == [(7,)]


def test_stores_of_two_tests_share_no_object(s3_server):
    assert s3_server.url() != s3_server.url()


@pytest.mark.peers("postgresql", "versitygw")
@pytest.mark.parametrize("server", [postgres, s3])
def test_server_ends_with_its_killed_process(server):
    """Kill a tool or a test run that has started a server: it leaves no process and no folder."""
    module = server.__name__
    code = (
        f"import sys; from {module} import running\n"
        "with running() as server:\n"
        "    print(server.service.pid, server.service.folder, flush=True); sys.stdin.readline()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    with child:
        pid, folder = child.stdout.readline().split()
        child.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (runs(int(pid)) or os.path.exists(folder)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(int(pid))
    assert not os.path.exists(folder)


def runs(pid):
    """Return True if a process with this id runs; one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
