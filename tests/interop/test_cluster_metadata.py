"""Metadata in PostgreSQL: the contract, races, clocks, plans of queries."""

import contextlib
import secrets
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
from ocikit.server.storage.base import BlobInUse, MissingChildren, PreconditionFailed, QuotaExceeded, UnknownUpload
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import decode_digest, encode_digest
from ocikit.server.storage.cluster.metadata import PostgresMetadata
from ocikit.server.storage.cluster.sessions import Received
from ocikit.server.testing import MetadataContract
from ocikit.server.testing.bodies import RecordingBlobStore, manifest_row, random_digest

STORE = RecordingBlobStore()


class StoredMetadata(PostgresMetadata):
    """Metadata that takes any blob and manifest as stored, as the contract does."""

    def add_blob(self, repository, digest, size, *, quota=None, received=None):
        super().add_blob(repository, digest, size, quota=quota, received=received)
        words = "UPDATE content SET key = %(key)s WHERE digest = %(digest)s AND key IS NULL"
        self.database.change(words, {"key": new_key(), "digest": encode_digest(digest)})

    def put_manifest(self, repository, row, tags=(), **options):
        super().put_manifest(repository, attrs.evolve(row, raw=bytes(row.size)), tags, **options)


def new_key():
    return f"c/{secrets.token_hex(16)}"


@pytest.fixture
def database(database_url):
    database = Database(database_url, pool=20)
    yield database
    database.close()


@pytest.fixture
def metadata(database):
    return StoredMetadata(database, grace=0)


class TestPostgresMetadata(MetadataContract):
    deletes_by_digest = False

    @pytest.fixture
    def metadata(self, metadata):
        return metadata


# Uploads


def receive(database, size=3, *, upload="", epoch=1):
    """Insert the session of an upload, and the intent of its object."""
    upload, key = upload or secrets.token_urlsafe(24), new_key()
    session = "INSERT INTO uploads (id, repository, owner, holder, algorithm, epoch) VALUES (%(id)s, 'a', '', '', 'sha256', %(epoch)s)"
    database.change(session + " ON CONFLICT (id) DO UPDATE SET epoch = EXCLUDED.epoch", {"id": upload, "epoch": epoch})
    database.change("INSERT INTO garbage (key, after) VALUES (%(key)s, now() + interval '1 day')", {"key": key})
    return Received(upload=upload, epoch=epoch, key=key, size=size)


def keys(database, table):
    return [row.key for row in database.rows(f"SELECT key FROM {table} WHERE key IS NOT NULL ORDER BY key")]


@pytest.mark.parametrize("quota", [None, 100])
def test_object_of_upload_becomes_content(database, quota):
    metadata, digest, received = PostgresMetadata(database), random_digest(), receive(database)
    metadata.add_blob("a", digest, 3, received=received, quota=quota)
    found = metadata.find("a", digest)
    assert (found.size, found.key, found.inline) == (3, received.key, None)
    assert keys(database, "garbage") == []
    assert database.rows("SELECT id FROM uploads") == []
    # The answer was lost, and the change is made again
    metadata.add_blob("a", digest, 3, received=received, quota=quota)
    assert metadata.find("a", digest).key == received.key


def test_second_object_of_same_content_is_garbage(database):
    metadata, digest = PostgresMetadata(database), random_digest()
    first, second = receive(database), receive(database)
    metadata.add_blob("a", digest, 3, received=first)
    metadata.add_blob("b", digest, 3, received=second)
    assert metadata.find("a", digest).key == metadata.find("b", digest).key == first.key
    assert keys(database, "garbage") == [second.key]
    assert database.row("SELECT after <= clock_timestamp() AS due FROM garbage").due


def test_lost_content_takes_the_pushed_object(database):
    metadata, digest = PostgresMetadata(database), random_digest()
    metadata.add_blob("a", digest, 3, received=receive(database))
    database.change("UPDATE content SET key = NULL")
    assert metadata.blob_size("a", digest) is None
    assert metadata.sizes("a", [digest]) == {}
    assert not metadata.mount("b", digest, "a")
    with pytest.raises(MissingChildren):
        metadata.put_manifest(
            "a", attrs.evolve(manifest_row(children=(digest,)), raw=b"1234567"), require_children=True
        )
    received = receive(database)
    metadata.add_blob("b", digest, 3, received=received)
    assert metadata.find("a", digest).key == metadata.find("b", digest).key == received.key


def test_object_that_the_sweep_has_taken_is_not_used(database):
    metadata, digest, received = PostgresMetadata(database), random_digest(), receive(database)
    database.change("UPDATE garbage SET doomed = true")
    with pytest.raises(UnknownUpload):
        metadata.add_blob("a", digest, 3, received=received)
    assert metadata.find("a", digest) is None
    assert keys(database, "garbage") == [received.key]
    assert not metadata.has_repository("a")


def test_upload_of_another_request_is_not_used(database):
    metadata, digest, received = PostgresMetadata(database), random_digest(), receive(database)
    receive(database, upload=received.upload, epoch=2)
    with pytest.raises(UnknownUpload):
        metadata.add_blob("a", digest, 3, received=received)
    assert metadata.find("a", digest) is None
    assert database.row("SELECT epoch FROM uploads").epoch == 2
    assert received.key in keys(database, "garbage")


def test_blob_above_quota_keeps_its_upload(database):
    metadata, received = PostgresMetadata(database), receive(database)
    with pytest.raises(QuotaExceeded):
        metadata.add_blob("a", random_digest(), 3, received=received, quota=2)
    assert keys(database, "garbage") == [received.key]
    assert len(database.rows("SELECT id FROM uploads")) == 1


def test_pushed_manifest_can_be_read_as_blob_and_back(database):
    metadata, row = PostgresMetadata(database), attrs.evolve(manifest_row(3), raw=b"{ }")
    metadata.put_manifest("a", row)
    assert metadata.manifest("a", row.digest).raw == b"{ }"
    metadata.add_blob("b", row.digest, 3, received=receive(database))
    assert metadata.find("b", row.digest).key is not None
    assert metadata.manifest("a", row.digest).raw == b"{ }"


# Quotas


def test_used_bytes_stay_exact_while_they_are_first_summed(metadata, database):
    """Pushes without a quota do not count, until a push with one sums what is there."""
    metadata.add_blob("a", random_digest(), 1)

    def push(n):
        if n == 20:
            return metadata.used_bytes("a")
        digest = random_digest()
        metadata.add_blob("a", digest, 1, quota=1000 if n % 5 == 4 else None)
        if n % 4 == 0:
            metadata.remove_blob("a", digest)
        return None

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(push, range(64)))
    held = database.row("SELECT count(*) AS number FROM blobs").number
    assert metadata.used_bytes("a") == held == 1 + 63 - 15


def test_quota_holds_for_sixteen_writers(metadata):
    def push(n):
        with contextlib.suppress(QuotaExceeded):
            if n % 2:
                metadata.add_blob("a", random_digest(), 10, quota=100)
            else:
                metadata.put_manifest("a", manifest_row(10), [f"t{n}"], quota=100)
            return 1
        return 0

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(push, range(64))) == 10
    assert metadata.used_bytes("a") == 100


# Races: one change has done its work and not committed yet, the other one comes then


def fetch(cursor):
    return cursor.fetchall() if cursor.description else []


class PausingDatabase(Database):
    """A database whose changes wait before they commit."""

    def __init__(self, url):
        super().__init__(url)
        self.reached, self.go = threading.Event(), threading.Event()

    def change(self, sql, params=None, **options):
        return self.transaction(lambda connection: fetch(connection.execute(sql, params)), **options)

    def transaction(self, work, **options):
        def paused(connection):
            result = work(connection)
            self.reached.set()
            self.go.wait(20)
            return result

        return super().transaction(paused, **options)


@pytest.fixture
def race(database_url, metadata, database):
    """Run two changes: the second one begins when the first one is done and not committed. Return what both raise or return."""
    pausing = PausingDatabase(database_url)
    held = StoredMetadata(pausing, grace=0)

    def result(change, on):
        try:
            return change(on)
        except (BlobInUse, MissingChildren, PreconditionFailed, UnknownUpload) as error:
            return type(error)

    def run(first, second, *, waits=True):
        pausing.reached.clear()
        pausing.go.clear()
        with ThreadPoolExecutor(2) as pool:
            try:
                one = pool.submit(result, first, held)
                assert pausing.reached.wait(10)
                two = pool.submit(result, second, metadata)
                waiting = (
                    "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
                )
                deadline = time.monotonic() + 10
                while waits and not two.done() and not database.rows(waiting):
                    assert time.monotonic() < deadline
                    time.sleep(0.005)
                if waits:
                    assert not two.done()
                else:
                    two.result(timeout=10)
            finally:
                pausing.go.set()
            return one.result(timeout=20), two.result(timeout=20)

    yield run
    pausing.close()


def put_index(child):
    row = manifest_row(children=(child,))
    return lambda metadata: metadata.put_manifest("a", row, ["v1"], require_children=True)


REMOVALS = {
    "remove": lambda digest: lambda metadata: metadata.remove_blob("a", digest),
    "collect": lambda digest: lambda metadata: metadata.remove_blob_if_unused("a", digest, metadata.now() + 10),
}


@pytest.mark.parametrize("removal", REMOVALS)
def test_manifest_keeps_blob_that_is_being_removed_later(race, metadata, removal):
    blob = random_digest()
    metadata.add_blob("a", blob, 3)
    one, two = race(put_index(blob), REMOVALS[removal](blob), waits=removal == "remove")
    assert one is None
    assert two in (BlobInUse, False)
    assert metadata.blob_size("a", blob) == 3
    assert metadata.tags("a", limit=2) == ["v1"]


@pytest.mark.parametrize("removal", REMOVALS)
def test_manifest_misses_blob_that_is_being_removed(race, metadata, removal):
    blob = random_digest()
    metadata.add_blob("a", blob, 3)
    assert race(REMOVALS[removal](blob), put_index(blob)) == (True, MissingChildren)
    assert metadata.blob_size("a", blob) is None
    assert metadata.tags("a", limit=2) == []


MANIFEST_REMOVALS = {
    "delete": lambda digest: lambda metadata: metadata.delete_manifest("a", digest),
    "collect": lambda digest: lambda metadata: bool(metadata.delete_untagged("a", metadata.now() + 10)),
}


@pytest.mark.parametrize("removal", MANIFEST_REMOVALS)
def test_index_misses_manifest_that_is_being_deleted(race, metadata, removal):
    child = manifest_row()
    metadata.put_manifest("a", child)
    assert race(MANIFEST_REMOVALS[removal](child.digest), put_index(child.digest)) == (True, MissingChildren)
    assert metadata.manifest("a", "v1") is None


def test_index_keeps_manifest_that_is_being_collected(race, metadata):
    child = manifest_row()
    metadata.put_manifest("a", child)
    assert race(put_index(child.digest), MANIFEST_REMOVALS["collect"](child.digest), waits=False) == (None, False)
    assert metadata.manifest("a", child.digest) is not None


def test_tag_keeps_manifest_that_is_being_collected(race, metadata):
    row = manifest_row()
    metadata.put_manifest("a", row)
    tag = lambda metadata: metadata.put_manifest("a", row, ["v1"])  # noqa: E731
    assert race(tag, MANIFEST_REMOVALS["collect"](row.digest), waits=False) == (None, False)
    assert metadata.manifest("a", "v1") == row


@pytest.mark.parametrize("removal", MANIFEST_REMOVALS)
def test_manifest_is_put_again_after_its_deletion(race, metadata, removal):
    row = manifest_row()
    metadata.put_manifest("a", row)
    again = lambda metadata: metadata.put_manifest("a", row, ["v1"])  # noqa: E731
    assert race(MANIFEST_REMOVALS[removal](row.digest), again) == (True, None)
    assert metadata.manifest("a", "v1") == row


def released(metadata, digest):
    metadata.add_blob("old", digest, 3)
    metadata.remove_blob("old", digest)


def drop(digest):
    return lambda metadata: metadata.delete_if_unreferenced(digest, metadata.now() + 10, STORE)


@pytest.mark.parametrize("kind", ["blob", "upload", "manifest"])
def test_content_that_is_being_used_is_not_deleted(race, metadata, database, kind):
    digest = random_digest()
    released(metadata, digest)
    assert race(use(database, digest, kind), drop(digest), waits=False) == (None, False)
    assert metadata.sizes("a", [digest]) == {digest: 3}


@pytest.mark.parametrize("kind", ["blob", "upload", "manifest"])
def test_content_is_used_again_while_it_is_being_deleted(race, metadata, database, kind):
    digest = random_digest()
    released(metadata, digest)
    [old] = keys(database, "content")
    assert race(drop(digest), use(database, digest, kind)) == (True, None)
    assert metadata.sizes("a", [digest]) == {digest: 3}
    assert keys(database, "garbage") == [old]
    assert old not in keys(database, "content")


def use(database, digest, kind):
    if kind == "manifest":
        row = attrs.evolve(manifest_row(3), digest=digest)
        return lambda metadata: metadata.put_manifest("a", row)
    received = receive(database) if kind == "upload" else None
    return lambda metadata: metadata.add_blob("a", digest, 3, received=received)


def test_mounted_content_is_not_deleted(race, metadata):
    digest = random_digest()
    metadata.add_blob("old", digest, 3)

    def remove(metadata):
        assert metadata.remove_blob("old", digest)
        return drop(digest)(metadata)

    assert race(lambda metadata: metadata.mount("a", digest, "old"), remove, waits=False) == (True, False)
    assert metadata.blob_size("a", digest) == 3


def test_blob_is_not_mounted_without_source(metadata):
    digest = random_digest()
    metadata.add_blob("old", digest, 3)
    assert not metadata.mount("a", random_digest(), "old")
    metadata.remove_blob("old", digest)
    assert not metadata.mount("a", digest, "old")
    assert not metadata.mount("a", digest, "b")
    assert not metadata.has_repository("a")


@pytest.mark.parametrize("condition", ["if_match", "if_none_match"])
def test_one_of_two_conditional_tags_is_set(race, metadata, condition):
    first, rows = manifest_row(), [manifest_row() for _ in range(2)]
    metadata.put_manifest("a", first, ["v1"] if condition == "if_match" else [])
    options = {"if_match": [first.digest]} if condition == "if_match" else {"if_none_match": True}
    puts = [lambda metadata, row=row: metadata.put_manifest("a", row, ["v1"], **options) for row in rows]
    assert race(*puts) == (None, PreconditionFailed)
    assert metadata.manifest("a", "v1") == rows[0]
    assert metadata.manifest("a", rows[1].digest) is None


def test_two_moves_of_a_tag_follow_each_other(race, metadata):
    first, rows = manifest_row(), [manifest_row() for _ in range(2)]
    metadata.put_manifest("a", first, ["v1"])
    puts = [lambda metadata, row=row: metadata.put_manifest("a", row, ["v1"]) for row in rows]
    assert race(*puts) == (None, None)
    assert metadata.manifest("a", "v1") == rows[1]


def test_pushes_of_popular_blob_do_not_wait_for_each_other(database_url, race, database):
    """The empty config of all artifacts is pushed to many repositories at once."""
    digest = random_digest()
    metadata = StoredMetadata(database)
    metadata.add_blob("old", digest, 2)
    for name in "ab":
        metadata.add_blob(name, random_digest(), 1)
    pushes = [lambda _, n=name: PostgresMetadata(_.database).add_blob(n, digest, 2) for name in "ab"]
    assert race(*pushes, waits=False) == (None, None)


# Text and clocks


@pytest.mark.parametrize("bad", ["a\0", "\0", "a\ud800"])
def test_text_that_postgres_refuses_is_not_found(metadata, bad):
    row = manifest_row(subject=random_digest(), artifact_type="text/x", referrer="{}")
    metadata.put_manifest("a", row, ["v1"])
    metadata.add_blob("a", random_digest(), 1)
    digest = random_digest()
    assert not metadata.has_repository(bad)
    assert metadata.used_bytes(bad) == 0
    assert metadata.blob_size(bad, digest) is metadata.find(bad, digest) is metadata.manifest(bad, "v1") is None
    assert metadata.sizes(bad, [digest]) == {}
    assert metadata.manifest("a", bad) is None
    assert metadata.tags(bad, limit=1) == metadata.referrers(bad, digest, limit=1) == []
    assert not metadata.delete_tag("a", bad)
    assert not metadata.delete_tag(bad, "v1")
    assert not metadata.delete_manifest(bad, digest)
    assert not metadata.remove_blob(bad, digest)
    assert not metadata.mount("a", digest, bad)
    assert metadata.delete_untagged(bad, time.time()) == []
    assert metadata.referrers("a", row.subject, artifact_type=bad, limit=1) == []
    assert metadata.referrers("a", row.subject, last=bad, limit=1) == [row]
    expected = {"a\0": [], "\0": ["a"], "a\ud800": []}[bad]
    assert metadata.repositories(last=bad, limit=2) == expected
    assert metadata.tags("a", last=bad, limit=2) == ["v1"]


def test_names_after_text_with_nul_are_complete(metadata):
    metadata.put_manifest("a", manifest_row(), ["a", "a-1", "b"])
    assert metadata.tags("a", last="a\0-9", limit=9) == ["a-1", "b"]
    assert metadata.tags("a", last="a\ud800", limit=9) == ["b"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_wrong_clock_of_a_worker_changes_nothing(database, monkeypatch, hours):
    right = StoredMetadata(database, grace=600)
    blob, row = random_digest(), manifest_row()
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + hours * 3600)
    wrong = StoredMetadata(database, grace=600)
    assert abs(wrong.now() - clock()) < 300
    wrong.add_blob("a", blob, 3)
    right.add_blob("a", random_digest(), 3)
    wrong.put_manifest("a", row)
    before = wrong.now() - 600
    assert list(wrong.unreferenced_blobs(before)) == list(wrong.untagged_manifests(before)) == []
    assert not wrong.remove_blob_if_unused("a", blob, before)
    wrong.remove_blob("a", blob)
    assert list(wrong.unreferenced_content(before)) == []
    assert not wrong.delete_if_unreferenced(blob, before, STORE)
    later = wrong.now() + 1
    assert {digest for digest, _ in right.unreferenced_content(later)} == {blob}


# Plans

_FILL = """
INSERT INTO repositories (name) SELECT 'lab/' || n FROM generate_series(1, 3000) n;
INSERT INTO content (digest, size, key, inline)
    SELECT decode('01' || md5(n::text) || md5(n::text), 'hex'), 10, 'c/' || n, CASE WHEN n <= 2000 THEN '\\x00'::bytea END
    FROM generate_series(1, 10000) n;
CREATE TEMPORARY TABLE numbered AS
    SELECT digest, row_number() OVER (ORDER BY key) AS n, inline IS NOT NULL AS manifest FROM content;
INSERT INTO blobs (repository, digest) SELECT 1 + n % 200, digest FROM numbered;
INSERT INTO manifests (repository, digest, media_type, subject, artifact_type, referrer)
    SELECT 1 + n % 200, digest, 'm', CASE WHEN n % 4 = 0 THEN digest END, 'text/x', '{}' FROM numbered WHERE manifest;
INSERT INTO tags (repository, name, digest) SELECT repository, 'v' || row_number() OVER (), digest FROM manifests;
INSERT INTO children (repository, manifest, child)
    SELECT m.repository, m.digest, b.digest FROM manifests m JOIN blobs b USING (repository) LIMIT 20000;
INSERT INTO review (kind, repository, digest, after) SELECT 'b', repository, digest, now() FROM blobs;
INSERT INTO review (kind, repository, digest, after) SELECT 'c', 0, digest, now() FROM blobs ON CONFLICT DO NOTHING;
INSERT INTO garbage (key, after) SELECT 'g/' || n, now() FROM generate_series(1, 5000) n;
INSERT INTO copies (repository, reference) SELECT repository, name FROM tags;
INSERT INTO uploads (id, repository, owner, holder, algorithm)
    SELECT n::text, 'lab/1', '', '', 'sha256' FROM generate_series(1, 5000) n;
ANALYZE
"""


class ExplainingDatabase(Database):
    """A database that keeps the plan of each statement."""

    def __init__(self, url):
        super().__init__(url)
        self.plans, self.settings = [], "SET LOCAL enable_seqscan = on"

    def rows(self, sql, params=None, **options):
        return self.transaction(lambda connection: self.explained(connection).execute(sql, params).fetchall())

    def row(self, sql, params=None, **options):
        return next(iter(self.rows(sql, params)), None)

    def change(self, sql, params=None, **options):
        return self.transaction(lambda connection: fetch(self.explained(connection).execute(sql, params)))

    def transaction(self, work, **options):
        return super().transaction(lambda connection: work(self.explained(connection)), **options)

    def explained(self, connection):
        if isinstance(connection, _Explained):
            return connection
        connection.execute(self.settings)
        return _Explained(connection, self.plans)


class _Explained:
    def __init__(self, connection, plans):
        self._connection, self._plans = connection, plans

    def execute(self, sql, params=None):
        if not sql.lstrip().startswith("SET"):
            plan = "\n".join(row[0] for row in self._connection.execute(f"EXPLAIN {sql}", params))
            self._plans.append((sql, plan))
        return self._connection.execute(sql, params)


def test_no_query_reads_a_whole_table(database_url, database):
    database.transaction(lambda connection: connection.execute(_FILL), seconds=60)
    explaining = ExplainingDatabase(database_url)
    metadata = StoredMetadata(explaining, grace=0)
    blob = decode_digest(database.row("SELECT digest FROM blobs WHERE repository = 7 ORDER BY digest LIMIT 1").digest)
    row, child = manifest_row(children=(blob,)), manifest_row(subject=blob, artifact_type="x", referrer="{}")
    later = metadata.now() + 10
    metadata.add_blob("lab/7", random_digest(), 1, received=receive(database))
    metadata.mount("lab/6", blob, "lab/7")
    metadata.find("lab/7", blob), metadata.protect_from_gc(blob), metadata.sizes("lab/7", [blob, row.digest])
    metadata.put_manifest("lab/7", child)
    metadata.put_manifest("lab/7", row, ["new"], require_children=True)
    metadata.put_manifest("lab/7", row, ["new"], if_match=[row.digest])
    metadata.put_manifest("lab/7", row, ["newer"], if_none_match=True)
    metadata.manifest("lab/7", "new"), metadata.manifest("lab/7", child.digest), metadata.tags("lab/7", limit=9)
    metadata.repositories(limit=9), list(metadata.repositories_with(blob))
    metadata.referrers("lab/7", blob, limit=9), metadata.referrers("lab/7", blob, artifact_type="x", limit=9)
    metadata.delete_tag("lab/7", "new"), metadata.delete_manifest("lab/7", row.digest)
    metadata.remove_blob("lab/7", blob, force=True), metadata.delete_if_unreferenced(blob, later, STORE)
    # For a thousand rows of a small table, the database prefers to read all of it
    explaining.settings = "SET LOCAL enable_seqscan = off"
    metadata.used_bytes("lab/7"), metadata.add_blob("lab/7", random_digest(), 1, quota=10000)
    next(metadata.iter_references()), list(metadata.untagged_manifests(later)), list(metadata.unreferenced_blobs(later))
    list(metadata.unreferenced_content(later)), metadata.delete_untagged("lab/7", later)
    explaining.close()
    assert len(explaining.plans) > 50
    slow = [(sql, plan) for sql, plan in explaining.plans if "Seq Scan" in plan]
    assert not slow, "\n".join(f"{sql}\n{plan}" for sql, plan in slow)
