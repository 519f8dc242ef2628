"""Faults of PostgreSQL at each step of each change: the change is made once, or not at all, and no answer is wrong."""

import attrs
import pytest
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.metadata import PostgresMetadata
from ocikit.server.storage.cluster.sessions import Received
from ocikit.server.testing.bodies import RecordingBlobStore, manifest_row, random_digest

from tests.support.tcp_proxy import TcpProxy

BLOB, OTHER, UNUSED = (random_digest() for _ in range(3))
CHILD, OLD = (attrs.evolve(manifest_row(), raw=b"1234567") for _ in range(2))
INDEX = attrs.evolve(manifest_row(children=(BLOB, CHILD.digest)), raw=b"1234567")
RECEIVED = Received(upload="u" * 24, epoch=7, key="c/received", size=3)
STORE = RecordingBlobStore()

TABLES = (
    "repositories",
    "content",
    "blobs",
    "manifests",
    "children",
    "tags",
    "uploads",
    "garbage",
    "review",
    "copies",
)

#: What each table has, without times and numbers.
_STATE = (
    "SELECT name, used FROM repositories",
    "SELECT digest, key, inline FROM content",
    "SELECT r.name, digest FROM blobs JOIN repositories r ON r.id = repository",
    "SELECT r.name, digest, media_type FROM manifests JOIN repositories r ON r.id = repository",
    "SELECT r.name, manifest, child FROM children JOIN repositories r ON r.id = repository",
    "SELECT r.name, t.name AS tag, digest FROM tags t JOIN repositories r ON r.id = repository",
    "SELECT id, epoch FROM uploads",
    "SELECT key, doomed FROM garbage",
    "SELECT kind, r.name, digest FROM review LEFT JOIN repositories r ON r.id = repository",
    "SELECT r.name, reference FROM copies JOIN repositories r ON r.id = repository",
)


def prepare(database):
    """Fill the tables: a blob, a manifest with a tag, one with a referrer, an upload, content without a repository."""
    database.change(f"TRUNCATE {', '.join(TABLES)}")
    metadata = PostgresMetadata(database, grace=0)
    for name, digest in (("a", BLOB), ("b", OTHER), ("old", UNUSED)):
        metadata.add_blob(name, digest, 3)
        database.change("UPDATE content SET key = 'c/' || %(name)s WHERE key IS NULL", {"name": name})
    metadata.remove_blob("old", UNUSED)
    metadata.put_manifest("a", CHILD)
    metadata.put_manifest("a", OLD, ["v1", "v2"])
    metadata.used_bytes("a")
    session = "INSERT INTO uploads (id, repository, owner, holder, algorithm, epoch) VALUES (%(id)s, 'a', '', '', 'sha256', 7)"
    database.change(session, {"id": RECEIVED.upload})
    database.change("INSERT INTO garbage (key, after) VALUES (%(key)s, now())", {"key": RECEIVED.key})


def state(database):
    """Return the rows of all tables."""
    return [sorted(database.rows(query), key=repr) for query in _STATE]


PUSHED = random_digest()

#: Each change, with what it returns.
CHANGES = {
    "add_blob": (lambda m: m.add_blob("a", PUSHED, 3, received=RECEIVED), None),
    "add_blob_quota": (lambda m: m.add_blob("a", PUSHED, 3, received=RECEIVED, quota=1000), None),
    "add_first_blob": (lambda m: m.add_blob("new", PUSHED, 3, received=RECEIVED), None),
    "mount": (lambda m: m.mount("a", OTHER, "b"), True),
    "first_mount": (lambda m: m.mount("new", OTHER, "b"), True),
    "put": (lambda m: m.put_manifest("a", INDEX, ["v1", "v3"], require_children=True), None),
    "put_quota": (lambda m: m.put_manifest("a", INDEX, ["v1", "v3"], quota=1000), None),
    "put_if_match": (lambda m: m.put_manifest("a", INDEX, ["v1"], if_match=[OLD.digest]), None),
    "put_if_none_match": (lambda m: m.put_manifest("a", INDEX, ["v3"], if_none_match=True), None),
    "put_manifest_if_none_match": (lambda m: m.put_manifest("a", INDEX, if_none_match=True), None),
    "delete_tag": (lambda m: m.delete_tag("a", "v1"), True),
    "delete_manifest": (lambda m: m.delete_manifest("a", OLD.digest), True),
    "remove_blob": (lambda m: m.remove_blob("a", BLOB), True),
    "remove_unused_blob": (lambda m: m.remove_blob_if_unused("a", BLOB, m.now() + 10), True),
    "delete_content": (lambda m: m.delete_if_unreferenced(UNUSED, m.now() + 10, STORE), True),
    "delete_untagged": (lambda m: m.delete_untagged("a", m.now() + 10), [(CHILD.digest, 7)]),
    "used_bytes": (lambda m: m.used_bytes("b"), 3),
    "blob_size": (lambda m: m.blob_size("a", BLOB), 3),
    "manifest": (lambda m: m.manifest("a", CHILD.digest), CHILD),
}

#: Changes of the collector, which does not wait for requests.
COLLECTOR = {"remove_unused_blob", "delete_content", "delete_untagged"}


def expected(database, change):
    """Return what the tables have before and after a change without faults."""
    prepare(database)
    before = state(database)
    work, result = CHANGES[change]
    assert work(PostgresMetadata(database, grace=0)) == result
    return before, state(database)


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def proxied(database_url, postgres_server):
    """A database through a proxy, and the proxy."""
    with TcpProxy(postgres_server.port) as proxy:
        database = Database(proxy.url(database_url))
        yield database, proxy
        database.close()


@pytest.mark.parametrize("answers", [False, True], ids=["requests", "answers"])
@pytest.mark.parametrize("change", CHANGES)
def test_change_cut_at_any_byte_is_made_once_or_not(database, proxied, change, answers):
    """The connection ends within each message. Most changes succeed in the second attempt."""
    before, after = expected(database, change)
    (faulty, proxy), (work, result) = proxied, CHANGES[change]
    made = 0
    for number in range(400):
        prepare(database)
        metadata = PostgresMetadata(faulty, grace=0)
        faulty.check()
        proxy.cut_after(1 + number * 211, answers=answers)
        try:
            done = work(metadata)
        except Unavailable:
            assert state(database) in (before, after)
        else:
            # The locks of the broken connection may last a moment longer, and the collector skips what is locked
            skipped = change in COLLECTOR and not done
            assert skipped or done == result
            assert state(database) == (before if skipped else after)
            made += not skipped
        if proxy.pending:
            break
    assert made > number / 2
    proxy.cut()


@pytest.mark.parametrize("change", CHANGES)
def test_change_whose_commit_is_not_answered_is_made_once(database, proxied, change):
    _, after = expected(database, change)
    (faulty, proxy), (work, result) = proxied, CHANGES[change]
    for lose in (proxy.lose_answer, proxy.lose_request):
        prepare(database)
        metadata = PostgresMetadata(faulty, grace=0)
        faulty.check()
        lose(b"COMMIT")
        assert work(metadata) == result
        assert state(database) == after


_FAULT = """
CREATE SEQUENCE steps;
CREATE TABLE fault (step bigint, code text);
INSERT INTO fault VALUES (0, '');
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE next fault; BEGIN
    SELECT * FROM fault INTO next;
    IF nextval('steps') = next.step THEN
        RAISE EXCEPTION 'injected' USING ERRCODE = next.code;
    END IF;
    RETURN NULL;
END $$;
"""

_TRIGGER = "CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON {} FOR EACH STATEMENT EXECUTE FUNCTION fail();"


@pytest.mark.parametrize("change", CHANGES)
def test_change_after_conflict_at_any_step_is_made_once(database, change):
    """A serialization failure or a deadlock is raised before each part of each statement that writes."""
    _, after = expected(database, change)
    work, result = CHANGES[change]
    statements = _FAULT + "".join(_TRIGGER.format(table) for table in TABLES)
    database.transaction(lambda connection: connection.execute(statements))
    for step in range(1, 60):
        database.change("UPDATE fault SET step = 0")
        prepare(database)
        before = sum(database.statistics.retries.values())
        code = "40001" if step % 2 else "40P01"
        database.change("UPDATE fault SET step = %(step)s, code = %(code)s", {"step": step, "code": code})
        database.change("ALTER SEQUENCE steps RESTART")
        assert work(PostgresMetadata(database, grace=0)) == result
        assert state(database) == after
        if sum(database.statistics.retries.values()) == before:
            break
    assert step < 59
