"""Connections to PostgreSQL: faults of the network and of the server, transactions whose answers are lost, forks."""

import itertools
import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from ocikit.errors import InvalidArgument
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.database import Database, connection_url, pool_size

from tests.support.tcp_proxy import TcpProxy

#: Seconds after which a call hangs. Its own limits are 10 s and less, and a busy machine adds to them.
END = 60

#: Seconds after which a database that has come back is not used again. One attempt to connect every half second is enough.
BACK = 20

ONE = "SELECT 1 AS one"


@pytest.fixture
def proxy(postgres_server):
    with TcpProxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def database(empty_database_url, proxy):
    database = Database(proxy.url(empty_database_url), pool=4)
    database.change("CREATE TABLE entries (name text)")
    yield database
    database.close()


@pytest.fixture
def name(empty_database_url):
    return empty_database_url.rpartition("/")[2]


def count(database):
    return database.row("SELECT count(*) AS n FROM entries").n


def insert(connection):
    connection.execute("INSERT INTO entries VALUES ('a')")
    return "inserted"


def recovers(database):
    """Return True if the database answers again within the limit."""
    end = time.monotonic() + BACK
    while True:
        try:
            return database.row(ONE).one == 1
        except Unavailable:
            if time.monotonic() > end:
                return False
            time.sleep(0.02)


def test_idle_connections_that_were_cut_cost_no_error(database, proxy):
    assert proxy.cut() > 0
    assert database.row(ONE).one == 1


def test_connections_that_the_server_ended_cost_no_error(database, postgres_server, name):
    assert postgres_server.cut_connections(name) > 0
    assert database.row(ONE).one == 1
    assert database.transaction(insert) == "inserted"


def test_black_hole_ends_within_the_limit_and_recovers(database, proxy):
    proxy.black_hole = True
    started = time.monotonic()
    with pytest.raises(Unavailable, match="no answer within the limit"):
        database.row(ONE, seconds=1)
    assert time.monotonic() - started < END
    # From now on connections fail, one at a time
    with ThreadPoolExecutor(16) as threads:
        failures = [threads.submit(database.row, ONE) for _ in range(16)]
    assert all(isinstance(failure.exception(), Unavailable) for failure in failures)
    assert time.monotonic() - started < END
    proxy.black_hole = False
    assert recovers(database)


def test_silence_in_the_middle_of_an_answer_ends(database, proxy):
    def silence():
        time.sleep(0.3)
        proxy.black_hole = True

    thread = threading.Thread(target=silence)
    thread.start()
    with pytest.raises(Unavailable):
        database.rows("SELECT repeat('x', 100), pg_sleep(0.001) FROM generate_series(1, 10000)", seconds=2)
    thread.join(END)
    proxy.black_hole = False
    assert recovers(database)


def test_answer_that_is_cut_is_asked_again(database, proxy):
    proxy.cut_after(500, answers=True, reset=True)
    assert len(database.row("SELECT repeat('x', 100000) AS x").x) == 100000
    assert proxy.pending == 0


def test_slow_network_causes_no_failure(database, proxy):
    proxy.delay = 0.2
    assert database.row(ONE).one == 1
    assert database.transaction(insert) == "inserted"


def test_few_resets_cause_no_failures(database, proxy):
    proxy.resets = 0.005
    assert {database.row(ONE).one for _ in range(500)} == {1}


def test_refused_connections_fail_at_once_and_recover(database, proxy):
    proxy.refuse = True
    proxy.cut()
    for _ in range(50):
        with pytest.raises(Unavailable):
            database.row(ONE)
    proxy.refuse = False
    assert recovers(database)


def test_outage_of_the_server_ends_with_its_return(database, postgres_server):
    postgres_server.crash()
    try:
        with pytest.raises(Unavailable):
            database.row(ONE)
    finally:
        postgres_server.start()
    assert recovers(database)


def test_retries_do_not_double_the_load_of_an_outage(database, proxy):
    for _ in range(100):
        proxy.lose_answer(ONE.encode())
    for _ in range(40):
        with pytest.raises(Unavailable):
            database.row(ONE)
    statistics = database.statistics
    assert statistics.failures == {"connection": 40}
    assert statistics.retries["connection"] <= 10


def test_outage_is_logged_once(database, proxy, caplog):
    proxy.refuse = True
    proxy.cut()
    for _ in range(5):
        with pytest.raises(Unavailable):
            database.row(ONE)
        time.sleep(0.1)
    proxy.refuse = False
    assert recovers(database)
    words = [record.message for record in caplog.records if record.name == "ocikit.server"]
    assert len(words) == 2
    assert "cannot be reached" in words[0]
    assert "is back" in words[1]


def test_few_allowed_connections_are_shared(database, postgres_server, name, proxy):
    with postgres_server.connect() as admin:
        admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 1')
    proxy.cut()
    assert recovers(database)
    with ThreadPoolExecutor(4) as threads:
        assert {row.one for row in threads.map(lambda _: database.row(ONE), range(400))} == {1}


def test_no_allowed_connection_is_unavailable(database, postgres_server, name, proxy):
    with postgres_server.connect() as admin:
        admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')
        proxy.cut()
        with pytest.raises(Unavailable, match="too many connections"):
            database.row(ONE)
        admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT -1')
    assert recovers(database)


def test_use_of_all_connections_is_unavailable(empty_database_url):
    database = Database(empty_database_url, pool=1)
    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(database.row, "SELECT pg_sleep(2)")
        while not database.connections_in_use:
            time.sleep(0.01)
        with pytest.raises(Unavailable, match="in use"):
            database.row(ONE, seconds=0.5)
        slow.result()
    assert database.row(ONE).one == 1
    database.close()


def test_waiting_call_gets_its_turn_under_load(empty_database_url):
    database = Database(empty_database_url, pool=2)
    ended = threading.Event()

    def load():
        while not ended.is_set():
            database.row(ONE)

    with ThreadPoolExecutor(4) as threads:
        busy = [threads.submit(load) for _ in range(4)]
        try:
            assert {database.row(ONE).one for _ in range(200)} == {1}
        finally:
            ended.set()
        for thread in busy:
            thread.result(END)
    database.close()


def test_slow_statement_is_unavailable_at_the_server_first(database):
    started = time.monotonic()
    with pytest.raises(Unavailable, match="57014"):
        database.row("SELECT pg_sleep(30)")
    assert time.monotonic() - started < END
    assert database.statistics.retries == {}


def test_longer_limit_of_a_call_holds_for_the_server(database):
    assert database.row("SHOW statement_timeout", seconds=20).statement_timeout == "18s"
    assert database.row("SHOW statement_timeout").statement_timeout == "8s"


def test_standby_is_unavailable(database, postgres_server, name, proxy):
    with postgres_server.connect() as admin:
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        proxy.cut()
        with pytest.raises(Unavailable, match="25006"):
            database.transaction(insert)
        admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    assert recovers(database)
    assert database.transaction(insert) == "inserted"


def test_deadlock_is_resolved_by_another_attempt(database):
    database.change("INSERT INTO entries VALUES ('a'), ('b')")
    both = threading.Barrier(2)
    attempts = []

    def lock(first, second):
        def work(connection):
            attempts.append(first)
            connection.execute("UPDATE entries SET name = name WHERE name = %(n)s", {"n": first})
            if len(attempts) <= 2:
                both.wait(END)
            connection.execute("UPDATE entries SET name = name WHERE name = %(n)s", {"n": second})
            return first

        return database.transaction(work)

    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lock, "ab", "ba"))
    assert results == ["a", "b"]
    assert len(attempts) == 3
    assert database.statistics.retries == {"40P01": 1}


def test_commit_without_an_answer_is_not_repeated(database, proxy):
    database.row(ONE)
    proxy.lose_answer(b"COMMIT")
    assert database.transaction(insert, idempotent=False) == "inserted"
    assert proxy.pending == 0
    assert count(database) == 1


def test_commit_that_did_not_arrive_is_repeated(database, proxy):
    database.row(ONE)
    proxy.lose_request(b"COMMIT")
    assert database.transaction(insert, idempotent=False) == "inserted"
    assert proxy.pending == 0
    assert count(database) == 1


def test_acknowledged_changes_are_made_once_under_faults(database, proxy):
    acknowledged, ended = [], threading.Event()

    def push(number):
        made, names = 0, (f"{number}-{i}" for i in itertools.count())
        while made < 50:
            name = next(names)

            def work(connection, name=name):
                connection.execute("INSERT INTO entries VALUES (%(name)s)", {"name": name})

            try:
                database.transaction(work, idempotent=False)
            except Unavailable:
                time.sleep(0.05)  # calls fail at once until the next attempt to connect
                continue
            acknowledged.append(name)
            made += 1

    def disturb():
        while not ended.wait(0.2):
            proxy.lose_answer(b"COMMIT", reset=True)
            proxy.cut()

    proxy.resets = 0.01
    thread = threading.Thread(target=disturb)
    thread.start()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(push, range(8)))
    ended.set()
    thread.join(END)
    proxy.resets = 0.0
    assert recovers(database)
    rows = database.rows("SELECT name, count(*) AS n FROM entries GROUP BY name")
    assert {row.n for row in rows} == {1}
    assert set(acknowledged) <= {row.name for row in rows}
    assert len(acknowledged) == 8 * 50


def test_idempotent_change_is_repeated_after_a_lost_commit(database, proxy):
    proxy.lose_answer(b"COMMIT")
    assert database.transaction(insert) == "inserted"
    assert count(database) == 2


def test_commit_without_an_answer_in_an_outage_is_unavailable(database, proxy):
    def work(connection):
        insert(connection)
        proxy.refuse = True
        return "inserted"

    proxy.lose_answer(b"COMMIT")
    with pytest.raises(Unavailable):
        database.transaction(work, idempotent=False)
    proxy.refuse = False
    assert recovers(database)
    assert count(database) == 1


def test_failed_change_is_rolled_back(database):
    def work(connection):
        insert(connection)
        raise KeyError("refused")

    with pytest.raises(KeyError):
        database.transaction(work)
    assert count(database) == 0
    assert database.connections_in_use == 0


def test_caught_error_of_a_statement_prevents_the_commit(database):
    def work(connection):
        insert(connection)
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("SELECT * FROM missing")

    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        database.transaction(work)
    assert count(database) == 0


def test_errors_contain_no_parameters(database):
    database.change("CREATE UNIQUE INDEX ON entries (name)")
    database.change("INSERT INTO entries VALUES (%(n)s)", {"n": "hunter2"})
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        database.change("INSERT INTO entries VALUES (%(n)s)", {"n": "hunter2"})
    assert "hunter2" not in str(caught.value)
    assert "23505" in str(caught.value)
    with pytest.raises(psycopg.errors.InvalidTextRepresentation) as caught:
        database.row("SELECT %(n)s::int", {"n": "hunter2"})
    assert "hunter2" not in str(caught.value)


def test_errors_contain_no_user_name(empty_database_url, caplog):
    url = empty_database_url.replace("ocikit@", "mallory@")
    database = Database(url)
    with pytest.raises(Unavailable) as caught:
        database.check()
    assert "does not exist" in str(caught.value)
    assert "mallory" not in str(caught.value) + caplog.text + repr(database)


def test_prepared_statements_survive_a_migration(database, empty_database_url):
    for _ in range(10):
        database.rows("SELECT * FROM entries")
    with psycopg.connect(empty_database_url, autocommit=True) as other:
        other.execute("ALTER TABLE entries ADD COLUMN size bigint")
    assert database.rows("SELECT * FROM entries") == []
    assert database.statistics.retries == {"0A000": 1}


def test_pooled_database_has_no_settings_of_the_session(empty_database_url, postgres_server):
    database = Database(f"{empty_database_url}?pgbouncer=1&application_name=a%20b")
    for _ in range(10):
        assert database.row("SHOW statement_timeout").statement_timeout == "0"
    assert database.row("SELECT count(*) AS n FROM pg_prepared_statements").n == 0
    database.close()


def test_connection_is_replaced_at_the_end_of_its_life(empty_database_url):
    database = Database(empty_database_url, pool=1)
    before = database.transaction(lambda connection: setattr(connection, "expires", 0) or connection.info.backend_pid)
    assert database.row("SELECT pg_backend_pid() AS pid").pid != before
    database.close()


def test_child_process_has_its_own_connections(database):
    pid_of = "SELECT pg_backend_pid() AS pid"
    parent = database.row(pid_of).pid
    child = os.fork()
    if not child:
        try:
            own = database.row(pid_of).pid
            os._exit(0 if own != parent else 1)
        finally:
            os._exit(2)
    end = time.monotonic() + END
    done, status = 0, 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert done
    assert os.waitstatus_to_exitcode(status) == 0
    assert database.row(pid_of).pid == parent


def test_calls_are_counted_by_operation(database):
    database.rows("SELECT name FROM entries")
    database.transaction(insert)
    database.transaction(lambda connection: insert(connection), name="put")
    calls = database.statistics.calls
    assert (calls["select entries"], calls["insert"], calls["put"]) == (1, 1, 1)
    assert database.statistics.seconds["put"] > 0


@pytest.mark.parametrize("enough", [True, False])
def test_connections_are_compared_with_the_limit(database, caplog, enough):
    caplog.set_level(logging.INFO)
    assert database.log_connections(1 if enough else 1000) is enough
    assert "the database allows 197" in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:hunter2@db/registry",
        "postgresql://db/registry?password=hunter2",
        "postgresql://db/registry?sslpassword=hunter2",
        "host=db password=hunter2",
        "mysql://ada:hunter2@db/registry",
        "postgresql://db/registry?hunter2=1",
        "postgresql://db/%hunter2",
    ],
)
def test_invalid_url_is_refused_without_its_secrets(url):
    with pytest.raises(InvalidArgument) as caught:
        Database(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint


def test_url_of_sqlalchemy_is_accepted():
    assert connection_url("postgresql+psycopg://a@h1,h2/b?pgbouncer=1") == "postgresql://a@h1,h2/b"


def test_pool_is_a_part_of_the_threads():
    assert [pool_size(threads) for threads in (1, 64, 512)] == [2, 8, 16]
