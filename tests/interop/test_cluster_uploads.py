"""Upload sessions and content in PostgreSQL and an object store."""

import contextlib
import io
import os
import secrets

import pytest
from ocikit.server.http.errors import ErrorResponse
from ocikit.server.storage.base import (
    LengthMismatch,
    OffsetMismatch,
    QuotaExceeded,
    Unavailable,
    UnknownUpload,
    UploadDigestMismatch,
)
from ocikit.server.storage.cluster.blobs import ClusterBlobs
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.garbage import delete_garbage
from ocikit.server.storage.cluster.metadata import PostgresMetadata
from ocikit.server.storage.cluster.objects import open_objects
from ocikit.server.storage.cluster.storage import ClusterStorage
from ocikit.server.storage.cluster.uploads import SqlUploads
from ocikit.server.testing import BlobStoreContract, UploadStoreContract
from ocikit.server.testing.bodies import broken_body, chunked_body, interrupted_body, random_content, sized_body
from ocikit.spec.digest import Digest

from tests.support.tcp_proxy import TcpProxy

#: The smallest part that S3 accepts.
PART = 5 << 20


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(params=["s3", "folder"])
def objects(request, tmp_path):
    if request.param == "s3":
        url = request.getfixturevalue("objects_url")
    else:
        (tmp_path / "objects").mkdir()
        url = f"file://{tmp_path}/objects"
    objects = open_objects(url, state=tmp_path)
    yield objects
    objects.close()


@pytest.fixture
def blobs(database, objects, tmp_path):
    return ClusterBlobs(database, objects, tmp_path)


@pytest.fixture
def uploads(database, objects, tmp_path):
    return SqlUploads(database, objects, tmp_path)


class TestClusterBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, database, objects, tmp_path):
        return ClusterBlobs(database, objects, tmp_path)


class TestSqlUploads(UploadStoreContract):
    @pytest.fixture
    def blobs(self, database, objects, tmp_path):
        return ClusterBlobs(database, objects, tmp_path)

    @pytest.fixture
    def uploads(self, database, objects, tmp_path):
        return SqlUploads(database, objects, tmp_path)

    def reopen(self, uploads):
        return SqlUploads(uploads.database, uploads.objects, uploads.state)


# Sessions that move between processes


@pytest.fixture
def small_parts(objects, monkeypatch):
    monkeypatch.setattr(type(objects), "part_size", PART)


@pytest.fixture
def stores(database, objects, tmp_path, small_parts):
    """Two processes with the same sessions."""
    return SqlUploads(database, objects, tmp_path), SqlUploads(database, objects, tmp_path)


def read(blobs, digest):
    with blobs.open(digest) as file:
        return file.read()


def keys(objects):
    return {key for key, _, _ in objects.iterate("c/")}


def named(database):
    return {row.key for row in database.rows("SELECT key FROM content WHERE key IS NOT NULL")}


def swept(database, objects):
    """Delete all garbage, and return the keys that are left."""
    database.change("UPDATE garbage SET after = '-infinity'")
    delete_garbage(database, objects)
    assert database.rows("SELECT key FROM garbage") == []
    return keys(objects)


def end_leases(database):
    """Let all leases end, as those of stopped processes do."""
    database.change("UPDATE uploads SET lease = '-infinity'")


class Interrupted:
    """An object store, or a database, that calls a function before or after one of its methods.

    Args:
        target: The store.
        name: Name of the method.
        act: Called once.
        after: Whether the method runs first.
    """

    def __init__(self, target, name, act, *, after=False):
        self._target, self._name, self._act, self._after = target, name, act, after

    def __getattr__(self, name):
        method = getattr(self._target, name)
        if name != self._name or self._act is None:
            return method

        def call(*arguments, **options):
            act, self._act = self._act, None
            if not self._after:
                act()
            result = method(*arguments, **options)
            if self._after:
                act()
            return result

        return call


@pytest.mark.parametrize("chunk", [PART // 3, PART, 2 * PART + 7])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_two_processes_take_turns_at_every_request(stores, blobs, database, objects, chunk, algorithm):
    content = os.urandom(3 * PART + 1000)
    digest = Digest.of(content, algorithm)
    upload = stores[0].create("a")
    for number, start in enumerate(range(0, len(content), chunk)):
        taken = content[start : start + chunk]
        store = stores[number % 2]
        assert store.size(upload) == start
        assert store.append(upload, sized_body(taken), offset=start, length=len(taken)) == start + len(taken)
    stores[1].finish(upload, digest, sized_body(b""), blobs)
    assert read(blobs, digest) == content
    assert swept(database, objects) == named(database)


@pytest.mark.parametrize("body", [sized_body, chunked_body])
def test_one_large_chunk_is_finished_elsewhere_unread(stores, blobs, database, objects, body, monkeypatch):
    digest, content = random_content(40 << 20)
    upload = stores[0].create("a")
    assert stores[0].append(upload, body(content)) == len(content)
    opened = []
    stores[1].objects = Interrupted(objects, "open", lambda: opened.append(1))
    stores[1].finish(upload, digest, sized_body(b""), blobs)
    # The rest below a part is read; the object is not
    assert len(opened) <= 1
    assert read(blobs, digest) == content
    assert swept(database, objects) == named(database)


def test_one_process_hashes_chunks_without_reading(stores, blobs, objects):
    digest, content = random_content(2 * PART)
    upload = stores[0].create("a")
    for start in range(0, len(content), PART):
        stores[0].append(upload, sized_body(content[start : start + PART]))
    opened = []
    stores[0].objects = Interrupted(objects, "open", lambda: opened.append(1))
    stores[0].finish(upload, digest, sized_body(b""), blobs)
    assert opened == []
    assert read(blobs, digest) == content


def test_many_tiny_chunks_stay_a_short_row(stores, blobs, database, objects):
    content = os.urandom(100)
    upload = stores[0].create("a")
    for number in range(len(content)):
        stores[number % 2].append(upload, sized_body(content[number : number + 1]), offset=number)
    (row,) = database.rows("SELECT jsonb_array_length(pieces) AS pieces FROM uploads")
    assert row.pieces <= 8
    stores[0].finish(upload, Digest.of(content), sized_body(b""), blobs)
    assert read(blobs, Digest.of(content)) == content
    assert swept(database, objects) == named(database)


def test_single_piece_becomes_the_blob_without_a_copy(stores, blobs, database, objects):
    digest, content = random_content()
    upload = stores[0].create("a")
    stores[0].append(upload, chunked_body(content))
    (key,) = keys(objects)
    stores[1].finish(upload, digest, sized_body(b""), blobs)
    assert keys(objects) == named(database) == {key}


def test_wrong_digest_leaves_no_object(stores, blobs, database, objects):
    for size in (0, 100, PART, 2 * PART + 1):
        digest, content = random_content(size)
        for chunks in ([content], [content[:50], content[50:]], [content, b""]):
            upload = stores[0].create("a")
            for chunk in chunks[:-1]:
                stores[0].append(upload, sized_body(chunk))
            with pytest.raises(UploadDigestMismatch, match=digest.encoded):
                stores[1].finish(upload, Digest.of(b"other"), sized_body(chunks[-1]), blobs)
    assert database.rows("SELECT id FROM uploads") == []
    assert swept(database, objects) == set()


def test_short_range_of_parts_changes_nothing(stores, blobs, database, objects):
    digest, content = random_content(3 * PART + 10)
    upload = stores[0].create("a")
    stores[0].append(upload, sized_body(content[:10]))
    with pytest.raises(LengthMismatch):
        stores[1].append(upload, chunked_body(os.urandom(2 * PART)), offset=10, length=3 * PART)
    with pytest.raises(ErrorResponse):
        stores[1].append(upload, broken_body(os.urandom(2 * PART)), offset=10, length=3 * PART)
    assert stores[0].size(upload) == 10
    stores[1].finish(upload, digest, sized_body(content[10:]), blobs, offset=10, length=3 * PART)
    assert read(blobs, digest) == content
    assert swept(database, objects) == named(database)


def test_broken_body_keeps_parts_and_piece(stores, blobs):
    digest, content = random_content(3 * PART)
    upload = stores[0].create("a")
    with pytest.raises(ErrorResponse):
        stores[0].append(upload, broken_body(content[: 2 * PART + 5]))
    assert stores[1].size(upload) == 2 * PART + 5
    stores[1].finish(upload, digest, sized_body(content[2 * PART + 5 :]), blobs, offset=2 * PART + 5)
    assert read(blobs, digest) == content


def test_announced_size_decides_the_size_of_parts(stores, blobs, database):
    upload = stores[0].create("a")
    digest, content = random_content(25 << 20)
    with pytest.raises(ErrorResponse):
        stores[0].append(upload, broken_body(content, missing=200 << 30))
    (row,) = database.rows("SELECT part_size, cardinality(etags) AS parts FROM uploads")
    assert row.part_size * 10_000 > 200 << 30
    assert row.parts == 1
    stores[1].finish(upload, digest, sized_body(b""), blobs)
    assert read(blobs, digest) == content


def test_failed_object_store_keeps_session(stores, blobs, objects):
    digest, content = random_content()
    upload = stores[0].create("a")
    stores[0].append(upload, sized_body(content[:50]))

    def fail():
        raise Unavailable("the object store does not answer")

    stores[0].objects = Interrupted(objects, "put", fail)
    with pytest.raises(Unavailable):
        stores[0].append(upload, sized_body(content[50:]))
    assert stores[1].size(upload) == 50
    stores[1].finish(upload, digest, sized_body(content[50:]), blobs, offset=50)
    assert read(blobs, digest) == content


@pytest.mark.parametrize("finish", [True, False])
def test_object_whose_answer_is_lost_becomes_garbage(stores, blobs, database, objects, finish):
    """The object store has the object, and the request fails: only the intent names the object."""
    digest, content = random_content()
    upload = stores[0].create("a")

    def fail():
        raise Unavailable("the object store does not answer")

    stores[0].objects = Interrupted(objects, "put", fail, after=True)
    with pytest.raises(Unavailable):
        if finish:
            stores[0].finish(upload, digest, sized_body(content), blobs)
        else:
            stores[0].append(upload, sized_body(content))
    stores[1].finish(upload, digest, sized_body(content), blobs, offset=0)
    assert len(keys(objects)) == 2
    assert swept(database, objects) == named(database)
    assert read(blobs, digest) == content


# Stopped processes


@pytest.mark.parametrize("size", [1000, 3 * PART])
def test_stopped_request_loses_its_lease(stores, blobs, database, objects, size):
    digest, content = random_content(size)
    upload = stores[0].create("a")

    def take_over():
        with pytest.raises(OffsetMismatch):
            stores[1].append(upload, sized_body(b"early"))
        end_leases(database)
        start = stores[1].size(upload)
        assert stores[1].append(upload, sized_body(content[start:]), offset=start) == size

    with pytest.raises(OffsetMismatch) as raised:
        stores[0].append(upload, interrupted_body(content, take_over))
    assert raised.value.size == size
    stores[1].finish(upload, digest, sized_body(b""), blobs)
    assert read(blobs, digest) == content
    assert swept(database, objects) == named(database)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("name", "size"), [("put", 1000), ("put_part", 2 * PART), ("begin_parts", 2 * PART), ("complete_parts", 2 * PART)]
)
def test_late_write_of_an_old_lease_changes_nothing(stores, blobs, database, objects, name, size, after):
    digest, content = random_content(size)
    upload = stores[0].create("a")

    def take_over():
        end_leases(database)
        start = stores[1].size(upload)
        stores[1].finish(upload, digest, sized_body(content[start:]), blobs, offset=start)

    stores[0].objects = Interrupted(objects, name, take_over, after=after)
    with contextlib.suppress(UnknownUpload):  # the blob is there, so success would be right as well
        stores[0].finish(upload, digest, sized_body(content), blobs)
    assert read(blobs, digest) == content
    assert database.rows("SELECT id FROM uploads") == []
    left = swept(database, objects)
    assert left == named(database)
    assert read(blobs, digest) == content


def test_late_part_with_other_bytes_breaks_no_blob(stores, blobs, database, objects):
    digest, content = random_content(2 * PART)
    upload = stores[0].create("a")
    stores[0].append(upload, sized_body(content[:PART]))
    late = []

    def put_late():
        (row,) = database.rows("SELECT key, multipart FROM uploads")
        late.append(objects.put_part(row.key, row.multipart, 1, io.BytesIO(os.urandom(PART)), PART))

    stores[1].objects = Interrupted(objects, "complete_parts", put_late)
    try:
        stores[1].finish(upload, digest, sized_body(content[PART:]), blobs)
    except UnknownUpload:
        assert blobs.stat(digest) is None
        stores[0].finish(stores[0].create("a"), digest, sized_body(content), blobs)
    assert late
    assert read(blobs, digest) == content
    assert swept(database, objects) == named(database)


def test_deletion_that_arrives_late_deletes_no_new_content(uploads, blobs, database, objects):
    digest, content = random_content()
    uploads.finish(uploads.create("a"), digest, sized_body(content), blobs)
    (old,) = named(database)
    blobs.delete(digest)
    uploads.finish(uploads.create("a"), digest, sized_body(content), blobs)
    assert objects.delete([old]) == {}
    assert read(blobs, digest) == content
    assert swept(database, objects) == named(database)


def test_object_that_the_sweep_takes_is_never_committed(uploads, blobs, database, objects):
    digest, content = random_content()
    upload = uploads.create("a")
    uploads.objects = Interrupted(objects, "put", lambda: swept(database, objects), after=True)
    with pytest.raises(UnknownUpload):
        uploads.finish(upload, digest, sized_body(content), blobs)
    assert blobs.stat(digest) is None
    uploads.finish(uploads.create("a"), digest, sized_body(content), blobs)
    assert read(blobs, digest) == content


def test_expiry_deletes_all_objects_of_a_session(stores, database, objects):
    upload = stores[0].create("a")
    stores[0].append(upload, sized_body(os.urandom(PART + 100)))
    stores[0].append(upload, sized_body(b"more"))
    assert stores[1].expire(stores[1].now() + 60) == 1
    (multipart,) = database.rows("SELECT key, multipart FROM garbage WHERE multipart IS NOT NULL")
    assert swept(database, objects) == set()
    with pytest.raises(KeyError):
        objects.put_part(multipart.key, multipart.multipart, 2, io.BytesIO(b"late"), 4)


def test_ended_leases_are_free_at_once(stores, blobs):
    digest, content = random_content()
    upload = stores[0].create("a")

    def drain():
        assert stores[0].leased() == 1
        stores[0].release_all()
        stores[1].append(upload, sized_body(content))

    with pytest.raises(OffsetMismatch):
        stores[0].append(upload, interrupted_body(b"cut off", drain))
    assert stores[0].leased() == 0
    stores[1].finish(upload, digest, sized_body(b""), blobs)
    assert read(blobs, digest) == content


# Crashes


class Crashed(BaseException):
    """The end of a process."""


class Crashing:
    """A database or an object store whose process ends at a step; see `Steps`."""

    def __init__(self, target, steps):
        self._target, self._steps = target, steps

    def __getattr__(self, name):
        method = getattr(self._target, name)
        if not callable(method):
            return method

        def call(*arguments, **options):
            self._steps.take()
            result = method(*arguments, **options)
            if name != "open":  # it would stay open
                self._steps.take()
            return result

        return call


class Steps:
    """Counts the begins and ends of calls; from one of them on, all fail."""

    def __init__(self, stop=None):
        self.taken, self._stop = 0, stop

    def take(self):
        if self._stop is not None and self.taken >= self._stop:
            raise Crashed
        self.taken += 1


class Away:
    """A database that does not answer."""

    def __getattr__(self, name):
        def fail(*arguments, **options):
            raise Unavailable("the database does not answer")

        return fail


def storage_of(database, objects, state):
    return ClusterStorage(
        blobs=ClusterBlobs(database, objects, state),
        uploads=SqlUploads(database, objects, state),
        metadata=PostgresMetadata(database),
        database=database,
        objects=objects,
        state=state,
        grace=3600.0,
        keep_deleted=0.0,
    )


def push(storage, content, digest, upload):
    """Push in three requests from where the session is."""
    half = len(content) // 2
    size = storage.uploads.size(upload)
    if size < half:
        size = storage.uploads.append(upload, sized_body(content[size:half]), offset=size)
    if size < len(content) - 10:
        size = storage.uploads.append(upload, chunked_body(content[size:-10]), offset=size)
    assert storage.finish(upload, digest, sized_body(content[size:]), offset=size) == len(content)


@pytest.mark.parametrize("size", [1000, 2 * PART + 1000])
@pytest.mark.parametrize("retried", [True, False])
def test_crash_at_every_step_loses_no_byte(database, objects, tmp_path, small_parts, size, retried):
    """A process ends at a step; then another one continues, or the session expires. The sweep leaves what is named."""
    stop, crashed = 0, True
    storage = storage_of(database, objects, tmp_path)
    while crashed:
        content = secrets.token_bytes(size)
        digest = Digest.of(content)
        upload = storage.uploads.create("a")
        steps = Steps(stop)
        try:
            push(storage_of(Crashing(database, steps), Crashing(objects, steps), tmp_path), content, digest, upload)
            crashed = False
        except Crashed:
            pass
        end_leases(database)
        pushed = storage.find_blob("a", digest)
        if pushed is not None:
            with pytest.raises(UnknownUpload):
                storage.uploads.size(upload)
        elif retried:
            push(storage, content, digest, upload)
            pushed = storage.find_blob("a", digest)
        assert crashed or pushed is not None
        if pushed is not None:
            with pushed.open(0, size) as file:
                assert file.read() == content
        storage.uploads.expire(storage.uploads.now() + 60)
        assert swept(database, objects) == named(database), (stop, steps.taken)
        storage.blobs.delete(digest)
        stop += 1 if size < PART else 3
    assert stop > 10


def test_blob_above_the_quota_deletes_its_session(database, objects, tmp_path):
    storage = storage_of(database, objects, tmp_path)
    digest, content = random_content()
    upload = storage.uploads.create("a")
    storage.uploads.append(upload, sized_body(content[:50]))
    with pytest.raises(QuotaExceeded):
        storage.finish(upload, digest, sized_body(content[50:]), quota=99)
    with pytest.raises(UnknownUpload):
        storage.uploads.size(upload)
    assert storage.uploads.leased() == 0
    assert swept(database, objects) == set()


def test_database_away_at_the_end_keeps_the_session(database, objects, tmp_path):
    storage = storage_of(database, objects, tmp_path)
    digest, content = random_content()
    upload = storage.uploads.create("a")
    storage.uploads.append(upload, sized_body(content[:50]))

    storage.metadata = PostgresMetadata(Away())
    with pytest.raises(Unavailable):
        storage.finish(upload, digest, sized_body(content[50:]))
    assert storage.uploads.size(upload) == 50
    storage.metadata = PostgresMetadata(database)
    # The lease has ended, so that the client may try again at once
    assert storage.finish(upload, digest, sized_body(content[50:]), offset=50) == len(content)
    assert read(storage.blobs, digest) == content
    assert swept(database, objects) == named(database)


# Answers that are lost


@pytest.mark.parametrize("lose", ["lose_answer", "lose_request"])
@pytest.mark.parametrize(
    "words",
    [
        b"INSERT INTO uploads",
        b"WITH leased AS",
        b"WITH mine AS",
        b"INSERT INTO garbage (key, after) VALUES",
        b"ended AS",
    ],
)
def test_lost_answer_of_the_database_is_asked_again(
    database, database_url, postgres_server, tmp_path, monkeypatch, lose, words
):
    """Each statement of a push may run twice. The push succeeds, and the sweep leaves its object only."""
    (tmp_path / "objects").mkdir()
    objects = open_objects(f"file://{tmp_path}/objects", state=tmp_path)
    monkeypatch.setattr(type(objects), "part_size", PART)
    digest, content = random_content(PART + 1000)
    with TcpProxy(postgres_server.port) as proxy:
        behind = Database(proxy.url(database_url))
        storage = storage_of(behind, objects, tmp_path)
        behind.check()
        getattr(proxy, lose)(words)
        push(storage, content, digest, storage.uploads.create("a"))
        assert sum(behind.statistics.retries.values()) == 1
        behind.close()
    assert read(ClusterBlobs(database, objects, tmp_path), digest) == content
    assert database.rows("SELECT id FROM uploads") == []
    assert swept(database, objects) == named(database)


def test_lost_answer_of_an_expiry_is_asked_again(database, database_url, postgres_server, tmp_path):
    (tmp_path / "objects").mkdir()
    objects = open_objects(f"file://{tmp_path}/objects", state=tmp_path)
    with TcpProxy(postgres_server.port) as proxy:
        behind = Database(proxy.url(database_url))
        uploads = SqlUploads(behind, objects, tmp_path)
        upload = uploads.create("a")
        uploads.append(upload, sized_body(b"abandoned"))
        proxy.lose_answer(b"DELETE FROM uploads")
        uploads.expire(uploads.now() + 60)
        behind.close()
    assert database.rows("SELECT id FROM uploads") == []
    assert swept(database, objects) == set()


def test_many_requests_share_a_count_of_many_sessions(uploads, database):
    """Each POST of an upload counted all sessions, and PostgreSQL read the whole table."""
    database.change(
        "INSERT INTO uploads (id, repository, owner, holder, algorithm) SELECT n, 'a', '', 'b', 'sha256' "
        "FROM generate_series(1, 501) n"
    )
    calls = sum(database.statistics.calls.values())
    assert {uploads.count() for _ in range(200)} == {501}
    assert sum(database.statistics.calls.values()) - calls < 100
    assert uploads.count("b") == 501
