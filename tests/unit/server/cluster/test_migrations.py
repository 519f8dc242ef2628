"""Migrations of the tables: versions, locks, an upgrade while old processes run, the command."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from ocikit.cli import main
from ocikit.errors import InvalidArgument, ServerFailed
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.migrations import NEWEST, check_version, migrate, pending

_NEXT = '''
"""A column for the test."""

from alembic import op

revision = "0002"
down_revision = "0001"
usable_from = "0001"


def upgrade():
    op.execute("ALTER TABLE tags ADD COLUMN note text")
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS tags_by_note")
        op.execute("CREATE INDEX CONCURRENTLY tags_by_note ON tags (note)")


def downgrade():
    op.execute("ALTER TABLE tags DROP COLUMN note")
'''


@pytest.fixture
def folder(tmp_path):
    """A folder with the revision of a later release, which extends the tables."""
    (tmp_path / "r0002.py").write_text(_NEXT)
    return tmp_path


@pytest.fixture
def database(database_url):
    database = Database(database_url, pool=2)
    yield database
    database.close()


def test_empty_database_gets_all_tables(empty_database_url):
    assert [step.number for step in pending(empty_database_url)] == [NEWEST]
    result = migrate(empty_database_url)
    assert (result.before, result.after) == ("", NEWEST)
    assert pending(empty_database_url) == ()
    assert migrate(empty_database_url).steps == ()


def test_migrations_at_once_run_one_after_another(empty_database_url):
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(migrate, [empty_database_url] * 4))
    assert sorted(len(result.steps) for result in results) == [0, 0, 0, 1]


def test_process_starts_on_its_tables(database):
    assert check_version(database) == NEWEST


def test_process_without_tables_names_the_command(empty_database_url):
    database = Database(empty_database_url, pool=1)
    with pytest.raises(ServerFailed, match="no tables") as caught:
        check_version(database)
    assert "migrate --metadata" in caught.value.hint
    database.close()


def test_process_starts_on_the_tables_before(database):
    assert check_version(database, newest="0002") == "0001"


def test_process_refuses_tables_that_are_too_old(database):
    with pytest.raises(ServerFailed, match="needs 0003") as caught:
        check_version(database, newest="0003")
    assert "migrate --metadata" in caught.value.hint


def test_process_refuses_newer_tables_that_dropped_something(database, database_url, folder):
    (folder / "r0002.py").write_text(_NEXT.replace('usable_from = "0001"', 'usable_from = "0002"'))
    migrate(database_url, folders=[folder])
    with pytest.raises(ServerFailed, match="revision 0002") as caught:
        check_version(database)
    assert "update ocikit" in caught.value.hint


def test_old_and_new_code_run_on_extended_tables(database, database_url, folder, caplog):
    select, ended, failures = "SELECT * FROM tags", threading.Event(), []

    def old():
        while not ended.is_set():
            try:
                database.rows(select)
                database.transaction(lambda connection: connection.execute(select).fetchall())
            except Exception as error:
                failures.append(error)

    with ThreadPoolExecutor(2) as threads:
        workers = [threads.submit(old) for _ in range(2)]
        try:
            assert [step.number for step in migrate(database_url, folders=[folder]).steps] == ["0002"]
            new = Database(database_url, pool=1)
            assert new.rows("SELECT note FROM tags") == []
            assert check_version(new, newest="0002") == "0002"
            # An old process that starts again, after a crash or for the way back
            with caplog.at_level(logging.WARNING):
                assert check_version(database) == "0002"
            assert "newer than this ocikit" in caplog.text
            assert migrate(database_url, "0001", folders=[folder]).after == "0001"
            assert check_version(new, newest="0002") == "0001"
            new.close()
        finally:
            ended.set()
        for worker in workers:
            worker.result(20)
    assert failures == []


def test_migration_gives_way_to_a_long_transaction(database_url, folder):
    with psycopg.connect(database_url) as other, ThreadPoolExecutor(1) as threads:
        other.execute("SELECT * FROM tags")
        migration = threads.submit(migrate, database_url, folders=[folder])
        time.sleep(3)
        assert not migration.done()
        other.rollback()
        assert migration.result(30).after == "0002"


def test_migration_ends_after_its_wait(database_url, folder):
    with psycopg.connect(database_url) as other:
        other.execute("SELECT * FROM tags")
        with pytest.raises(ServerFailed, match="holds a lock"):
            migrate(database_url, folders=[folder], wait=0)
        with pytest.raises(ServerFailed, match="another one is running"):
            other.execute("SELECT pg_advisory_lock(%s)", [0x6F63696B6974])
            migrate(database_url, folders=[folder], wait=0)


def test_older_release_leaves_newer_tables(database_url, folder):
    migrate(database_url, folders=[folder])
    result = migrate(database_url)
    assert (result.before, result.after, result.steps) == ("0002", "0002", ())
    assert pending(database_url) == ()
    with pytest.raises(ServerFailed, match="0002") as caught:
        migrate(database_url, "0001")
    assert "newer ocikit" in caught.value.hint


def test_unknown_revision_is_refused(database_url):
    for revision in ("0009", "base", "-1"):
        with pytest.raises(InvalidArgument, match="unknown revision"):
            migrate(database_url, revision)


def test_failed_migration_reports_no_user_name(postgres_server):
    url = postgres_server.url("missing", user="ocikit")
    with pytest.raises(ServerFailed, match="does not exist") as caught:
        migrate(url)
    assert "ocikit@" not in str(caught.value)


def test_command_makes_and_checks_the_tables(empty_database_url, capsys):
    assert main(["migrate", "--metadata", empty_database_url, "--check"]) == 1
    assert "0001  The tables of the first release" in capsys.readouterr().out
    assert main(["migrate", "--metadata", empty_database_url]) == 0
    assert "revision 0001 were made" in capsys.readouterr().err
    assert main(["migrate", "--metadata", empty_database_url, "--check"]) == 0
    assert main(["migrate", "--metadata", empty_database_url]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "nothing to do" in output.err


def test_command_reports_a_missing_database(capsys):
    assert main(["migrate", "--metadata", "postgresql://ada@127.0.0.1:1/registry"]) == 5
    assert "Connection refused" in capsys.readouterr().err


def test_revisions_are_numbered_files_of_the_package():
    from ocikit.server.storage.cluster import migrations

    folder = Path(migrations.__file__).parent / "versions"
    names = sorted(path.name for path in folder.glob("r*.py"))
    assert [int(name[1:5]) for name in names] == list(range(1, len(names) + 1))
    assert names[-1][1:5] == NEWEST
