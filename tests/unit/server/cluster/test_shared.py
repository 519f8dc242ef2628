"""Secrets and failed logins that all machines of a registry share."""

import threading
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import psycopg
import pytest
from ocikit.errors import InvalidArgument, ServerFailed
from ocikit.server import Application, access_from, memory_storage
from ocikit.server.auth.htpasswd import Htpasswd
from ocikit.server.auth.throttle import LoginThrottle
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.shared import DatabaseFailures, shared_secret

from tests.support.tcp_proxy import TcpProxy
from tests.support.wsgi import call

CLIENT = "203.0.113.7"


@pytest.fixture
def proxy(postgres_server):
    with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def databases(database_url, proxy):
    """The databases of two machines; faults of the proxy hit the first one."""
    databases = [Database(proxy.url(database_url), pool=2), Database(database_url, pool=2)]
    yield databases
    for database in databases:
        database.close()


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "htpasswd"
    path.write_text(f"ada:{bcrypt.hashpw(b'lovelace', bcrypt.gensalt(4)).decode()}\n")
    return path


@pytest.fixture
def machines(databases, users):
    return [Htpasswd(users, log=DatabaseFailures(database)) for database in databases]


def fail(machine, times, user="ada", remote=CLIENT):
    for _ in range(times):
        assert not machine.verify(user, b"wrong", remote)


def is_rejected(machine, user="ada", password=b"lovelace", remote=CLIENT):
    try:
        machine.verify(user, password, remote)
    except ErrorResponse as error:
        assert error.status == 429
        assert 0 < int(dict(error.headers)["Retry-After"]) <= 300
        return True
    return False


def test_machines_that_start_at_once_get_one_secret(databases):
    both = threading.Barrier(8)

    def get(number):
        both.wait(10)
        return shared_secret(databases[number % 2], "token")

    with ThreadPoolExecutor(8) as threads:
        values = set(threads.map(get, range(8)))
    assert len(values) == 1
    assert len(values.pop()) == 32
    assert shared_secret(databases[0], "other") != shared_secret(databases[0], "token")
    assert len(shared_secret(databases[0], "long", 100)) == 100


def test_short_secret_is_refused(databases, database_url):
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO secrets VALUES ('token', 'short')")
    with pytest.raises(ServerFailed) as caught:
        shared_secret(databases[0], "token")
    assert "delete its row" in caught.value.hint


def test_token_of_one_machine_is_accepted_by_another(databases, users):
    storage = memory_storage()
    machines = []
    for database in databases:
        key = shared_secret(database, "token")
        machines.append(Application(storage, access=access_from(htpasswd=users, token=True, key=key)))
    login = {"Authorization": "Basic YWRhOmxvdmVsYWNl"}
    token = call(machines[0], "GET", "/token?service=ocikit&scope=repository:a:pull,push", login).json["token"]
    for machine in machines:
        assert call(machine, "POST", "/v2/a/blobs/uploads/", {"Authorization": f"Bearer {token}"}).status == 202
        assert call(machine, "POST", "/v2/a/blobs/uploads/", {"Authorization": f"Bearer {token}x"}).status == 401


def test_short_key_is_refused(users):
    with pytest.raises(InvalidArgument, match="has 5 bytes"):
        access_from(htpasswd=users, token=True, key=b"short")


def test_failures_of_one_machine_count_at_another(machines):
    fail(machines[0], 10)
    assert is_rejected(machines[1])
    assert not is_rejected(machines[1], remote="198.51.100.1")
    assert not is_rejected(machines[1], user="grace")


def test_failures_of_two_machines_add_up(machines):
    fail(machines[1], 5)
    fail(machines[0], 5)
    assert is_rejected(machines[0])
    assert is_rejected(machines[1])


def test_success_leaves_the_failures(machines):
    fail(machines[0], 9)
    assert machines[1].verify("ada", b"lovelace", CLIENT)
    fail(machines[1], 1)
    assert is_rejected(machines[0])


def test_many_names_of_a_network_count_at_another_machine(databases, caplog):
    for number in range(100):
        DatabaseFailures(databases[0]).add(CLIENT, f"name{number}", window=300, limit=10)
    throttle = LoginThrottle(log=DatabaseFailures(databases[1]))
    with throttle.attempt(CLIENT, "ada"):
        pass
    assert "many failed logins" in caplog.text


def test_client_without_failures_is_asked_for_once(machines, databases):
    calls = databases[0].statistics.calls
    for number in range(5):
        assert machines[0].verify("ada", b"lovelace", CLIENT)
        machines[0]._cache.clear()
        assert calls["recent failures"] == 1, number


def test_logins_work_while_the_database_is_away(machines, proxy):
    proxy.refuse = True
    proxy.cut()
    assert machines[0].verify("ada", b"lovelace", CLIENT)
    fail(machines[0], 10)
    assert is_rejected(machines[0])
    assert not is_rejected(machines[1])


def test_failures_contain_no_user_name(machines, database_url):
    fail(machines[0], 1, user="hunter2\0")
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT client, name FROM failures").fetchall()
    assert [row[0] for row in rows] == [CLIENT]
    assert "hunter2" not in rows[0][1]


def test_old_failures_do_not_count(machines, database_url):
    fail(machines[0], 10)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE failures SET at = at - interval '1 hour'")
    assert not is_rejected(machines[1])
