"""Storage adapters fulfil the contracts; further properties of files and rows."""

import contextlib
import http.client
import io
import os
import signal
import subprocess
import sys
import threading
import time

import ocikit
import pytest
import sqlalchemy as sa
from ocikit.errors import InvalidArgument
from ocikit.server import Application
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import ManifestRow, MissingChildren, UnknownUpload
from ocikit.server.storage.combined import Storage
from ocikit.server.storage.files import FileBlobs, FileUploads, file_storage
from ocikit.server.storage.memory import MemoryBlobs, MemoryUploads
from ocikit.server.storage.sql import SqlMetadata
from ocikit.server.testing import BlobStoreContract, MetadataContract, UploadStoreContract
from ocikit.server.testing.bodies import interrupted_body, random_content
from ocikit.spec.digest import Digest

from tests.support.example_storage import ObjectBlobs
from tests.support.home import ROOT
from tests.support.http import free_port
from tests.support.wsgi import INDEX, Registry


@pytest.fixture(params=[True, False], ids=["durable", "fast"])
def durable(request):
    return request.param


class TestFileBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self, tmp_path, durable):
        return FileBlobs(tmp_path / "store", durable=durable)


class TestMemoryBlobs(BlobStoreContract):
    @pytest.fixture
    def blobs(self):
        return MemoryBlobs()


class TestObjectBlobs(BlobStoreContract):
    """The example of CONTRIBUTING.md."""

    @pytest.fixture
    def blobs(self, tmp_path):
        return ObjectBlobs(f"file://{tmp_path}/objects")


class TestFileUploads(UploadStoreContract):
    @pytest.fixture
    def uploads(self, tmp_path):
        return FileUploads(tmp_path / "store" / "uploads")

    @pytest.fixture
    def blobs(self, tmp_path):
        return FileBlobs(tmp_path / "store")

    def reopen(self, uploads):
        return FileUploads(uploads.root)


class TestMemoryUploads(UploadStoreContract):
    persistent = False

    @pytest.fixture
    def uploads(self):
        return MemoryUploads()

    @pytest.fixture
    def blobs(self):
        return MemoryBlobs()


class TestSqlMetadataOnFile(MetadataContract):
    @pytest.fixture
    def metadata(self, tmp_path):
        metadata = SqlMetadata.file(tmp_path / "registry.db", grace=0, durable=False)
        yield metadata
        metadata.close()


class TestSqlMetadataInMemory(MetadataContract):
    @pytest.fixture
    def metadata(self):
        metadata = SqlMetadata.memory(grace=0)
        yield metadata
        metadata.close()


class TestUploadsToObjects(UploadStoreContract):
    """Sessions are files and blobs are objects, so finishing copies instead of renaming."""

    @pytest.fixture
    def uploads(self, tmp_path):
        return FileUploads(tmp_path / "uploads")

    @pytest.fixture
    def blobs(self, tmp_path):
        return ObjectBlobs(f"file://{tmp_path}/objects")

    def reopen(self, uploads):
        return FileUploads(uploads.root)


@contextlib.contextmanager
def granian(target, **environment):
    """Run a WSGI application in a process and return its address."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--factory", "--port", str(port), target]
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            assert process.poll() is None
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/v2/")
                assert connection.getresponse().status == 200
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
            finally:
                connection.close()
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_custom_storage_serves_real_clients(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "table.csv").write_bytes(os.urandom(300_000))
    objects = tmp_path / "objects"
    with granian(
        "tests.support.example_storage:registry", BLOBS=f"file://{objects}", STATE=str(tmp_path / "state")
    ) as host:
        pushed = ocikit.push(f"{host}/lab/data:v1", tmp_path / "data" / "table.csv")
        ocikit.pull(f"{host}/lab/data:v1", tmp_path / "out")
        assert ocikit.tags(f"{host}/lab/data") == ["v1"]
    assert (tmp_path / "out" / "table.csv").read_bytes() == (tmp_path / "data" / "table.csv").read_bytes()
    assert (objects / "blobs" / "sha256" / pushed.digest.partition(":")[2]).is_file()


# Files


def body(content):
    return RequestBody(io.BytesIO(content), length=len(content))


def test_blob_files_are_read_only(tmp_path):
    blobs, uploads, content = FileBlobs(tmp_path), FileUploads(tmp_path / "uploads"), b"content"
    digests = [Digest.of(content), Digest.of(content, "sha512")]
    blobs.put(digests[0], io.BytesIO(content))
    uploads.finish(uploads.create("a"), digests[1], body(content), blobs)
    for digest in digests:
        path = tmp_path / "blobs" / digest.algorithm / digest.encoded
        assert path.stat().st_mode & 0o777 == 0o444
    assert sorted(path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file()) == sorted(
        digest.encoded for digest in digests
    )
    assert list((tmp_path / "uploads").iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize("existing", [False, True])
def test_new_store_is_private(tmp_path, existing):
    root = tmp_path / "srv" / "registry"
    if existing:
        root.mkdir(parents=True)
    storage = file_storage(root)
    push(storage, b"content")
    storage.uploads.create("a")
    modes = {path.relative_to(root).as_posix(): path.stat().st_mode & 0o777 for path in root.rglob("*")}
    storage.close()
    assert {root.stat().st_mode & 0o777} == {0o755 if existing else 0o700}
    assert [name for name, mode in modes.items() if "/" not in name and mode & 0o077] == []
    assert {"registry.db", "blobs", "uploads"} <= modes.keys()


@pytest.mark.parametrize("folder", ["blobs", "blobs/sha256"])
def test_symlinked_blob_folder_is_rejected(tmp_path, folder):
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "store" / folder
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidArgument, match="symbolic link"):
        FileBlobs(tmp_path / "store").put(Digest.of(b"x"), io.BytesIO(b"x"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_symlinked_upload_folder_is_rejected(tmp_path):
    (tmp_path / "uploads").symlink_to(tmp_path)
    with pytest.raises(InvalidArgument, match="symbolic link"):
        FileUploads(tmp_path / "uploads")


def test_symlinked_blob_is_ignored_and_replaced(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    blobs, digest = FileBlobs(tmp_path), Digest.of(b"public")
    path = tmp_path / "blobs" / "sha256" / digest.encoded
    path.parent.mkdir(parents=True)
    path.symlink_to(secret)
    assert blobs.stat(digest) is None
    with pytest.raises((KeyError, OSError)):
        blobs.open(digest)
    blobs.put(digest, io.BytesIO(b"public"))
    assert (secret.read_bytes(), path.read_bytes(), path.is_symlink()) == (b"secret", b"public", False)


def test_symlinked_session_is_unknown(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"")
    uploads = FileUploads(tmp_path / "uploads")
    upload = uploads.create("a")
    (path,) = (tmp_path / "uploads").iterdir()
    path.unlink()
    path.symlink_to(target)
    with pytest.raises(UnknownUpload):
        uploads.append(upload, body(b"overwritten"))
    assert target.read_bytes() == b""


def test_large_upload_starts_no_thread(tmp_path):
    storage, threads = file_storage(tmp_path), []
    digest, content = random_content(8 << 20)
    before = threading.active_count()
    upload = storage.uploads.create("a")
    storage.finish(upload, digest, interrupted_body(content, lambda: threads.append(threading.active_count())))
    assert threads == [before]
    assert storage.blob_size("a", digest) == len(content)
    storage.close()


def test_foreign_files_are_not_listed_as_blobs(tmp_path):
    blobs = FileBlobs(tmp_path)
    blobs.put(Digest.of(b"x"), io.BytesIO(b"x"))
    for name in ("README", ".x.y", "0" * 63, "G" * 64):
        (tmp_path / "blobs" / "sha256" / name).write_bytes(b"")
    assert list(blobs.iterate()) == [Digest.of(b"x")]


def test_old_partial_files_are_removed(tmp_path):
    blobs = FileBlobs(tmp_path)
    blobs.put(Digest.of(b"x"), io.BytesIO(b"x"))
    partial = tmp_path / "blobs" / "sha256" / f".{'0' * 64}.host.1.00000000"
    partial.write_bytes(b"half")
    assert blobs.remove_partial(time.time() - 3600) == 0
    assert blobs.remove_partial(time.time() + 3600) == 1
    assert not partial.exists()
    assert blobs.stat(Digest.of(b"x")) == 1


def test_count_of_many_sessions_uses_cached_listing(tmp_path, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.files._MANY_SESSIONS", 10)
    monkeypatch.setattr("ocikit.server.storage.files._LISTING_SHARE", 1e-9)
    uploads = FileUploads(tmp_path / "uploads")
    listings = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listings.append(path) or listdir(path))
    for n in range(20):
        uploads.create("a", "ada", holder="ada")
        assert uploads.count() == n + 1
    assert uploads.count("ada") == 20
    assert len(listings) == 11


def test_hash_cache_is_limited_to_latest_sessions(tmp_path, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.hashes.CACHE_SIZE", 2)
    blobs, uploads = FileBlobs(tmp_path), FileUploads(tmp_path / "uploads")
    created = [uploads.create("a") for _ in range(5)]
    for upload in created:
        uploads.append(upload, body(b"con"))
    assert len(uploads._hashes) == 2
    for upload in created:
        uploads.finish(upload, Digest.of(b"content"), body(b"tent"), blobs)
    assert len(uploads._hashes) == 0


# Rows


def test_lookups_share_one_connection(tmp_path):
    metadata = SqlMetadata.file(tmp_path / "registry.db")
    checkouts = []
    sa.event.listen(metadata.engine, "checkout", lambda *_: checkouts.append(1))
    for _ in range(20):
        assert metadata.blob_size("a", Digest.of(b"")) is None
    metadata.close()
    assert len(checkouts) == 1


def test_idle_reader_sees_changes_of_other_processes(tmp_path):
    metadata, other = (SqlMetadata.file(tmp_path / "registry.db") for _ in range(2))
    assert not metadata.has_repository("a")
    other.add_blob("a", Digest.of(b""), 0)
    assert metadata.has_repository("a")
    with other.engine.connect() as connection:
        busy, *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    metadata.close()
    other.close()
    assert not busy, "an idle reader holds a snapshot"


def test_writer_finds_connection_while_all_readers_read(tmp_path):
    metadata = SqlMetadata.file(tmp_path / "registry.db")
    started, done = threading.Semaphore(0), threading.Event()

    def read():
        with metadata._database.read():
            started.release()
            done.wait(30)

    readers = [threading.Thread(target=read) for _ in range(12)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(7):
            assert started.acquire(timeout=30)
        metadata.add_blob("a", Digest.of(b""), 0)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert metadata.has_repository("a")
    metadata.close()


def test_failed_read_gives_its_connection_back(tmp_path):
    metadata = SqlMetadata.file(tmp_path / "registry.db")
    for _ in range(20):
        with pytest.raises(sa.exc.OperationalError), metadata._database.read() as connection:
            connection.exec_driver_sql("SELECT * FROM nothing")
    assert not metadata.has_repository("a")
    metadata.close()


def test_no_query_scans_a_whole_table():
    """The time of each query is independent of the table size."""
    metadata, queries = SqlMetadata.memory(grace=0), []
    blob, row = (
        Digest.of(b"blob"),
        ManifestRow(digest=Digest.of(b"1"), media_type="x", size=1, children=(Digest.of(b"blob"),)),
    )
    signature = ManifestRow(digest=Digest.of(b"2"), media_type="x", size=1, subject=row.digest, referrer="{}")

    def record(connection, cursor, statement, parameters, context, many):
        if statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")) and not many:
            queries.append((statement, parameters))

    sa.event.listen(metadata.engine, "before_cursor_execute", record)
    metadata.add_blob("a", blob, 4, quota=10)
    metadata.put_manifest("a", row, ["v1"], require_children=True)
    metadata.put_manifest("a", row, ["v1"], if_match=[row.digest])
    metadata.put_manifest("a", signature)
    metadata.manifest("a", "v1"), metadata.manifest("a", signature.digest), metadata.tags("a", limit=1)
    (
        metadata.sizes("a", [blob]),
        metadata.blob_size("a", blob),
        metadata.protect_from_gc(blob),
        metadata.has_repository("a"),
    )
    metadata.repositories(limit=1), list(metadata.repositories_with(blob))
    metadata.referrers("a", row.digest, limit=1), metadata.referrers("a", row.digest, artifact_type="x", limit=1)
    metadata.delete_tag("a", "v1"), metadata.delete_manifest("a", row.digest), metadata.remove_blob("a", blob)
    sa.event.remove(metadata.engine, "before_cursor_execute", record)
    with metadata._database.read() as connection:
        plans = [
            (statement, [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)])
            for statement, parameters in queries
        ]
    metadata.close()
    assert len(plans) > 25
    plans = [(statement, [step for step in steps if step != "SCAN CONSTANT ROW"]) for statement, steps in plans]
    assert not [(statement, steps) for statement, steps in plans if any(step.startswith("SCAN") for step in steps)]
    hinted = [steps for statement, steps in plans if "INDEXED BY" in statement]
    assert [steps[0].partition("USING ")[2] for steps in hinted] == [
        "INDEX referrers (repository=? AND subject=? AND digest>?)",
        "INDEX referrers_by_type (repository=? AND subject=? AND artifact_type=? AND digest>?)",
    ]


# Damaged content


@pytest.fixture
def storage(tmp_path):
    storage = Storage(
        FileBlobs(tmp_path / "store"),
        FileUploads(tmp_path / "store" / "uploads"),
        SqlMetadata.file(tmp_path / "registry.db"),
    )
    yield storage
    storage.close()


def push(storage, content, repository="a"):
    digest = Digest.of(content)
    storage.finish(storage.uploads.create(repository), digest, body(content))
    return digest


def damage(storage, digest, content):
    path = storage.blobs.root / "blobs" / digest.algorithm / digest.encoded
    path.chmod(0o644)
    path.write_bytes(content)


def test_blob_of_wrong_size_is_repaired_by_push(storage):
    digest = push(storage, b"content")
    damage(storage, digest, b"conten")
    assert storage.blob_size("a", digest) is None
    assert not storage.mount("b", digest, "a")
    push(storage, b"content", "b")
    assert storage.blob_size("a", digest) == storage.blob_size("b", digest) == 7


@pytest.mark.parametrize("damaged", [b'{"a":2}', b"{}", b"", b'{"a":1} and more'])
def test_putting_manifest_again_repairs_it(storage, damaged):
    raw = b'{"a":1}'
    row = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=len(raw))
    storage.put_manifest("a", row, io.BytesIO(raw), ["v1"])
    damage(storage, row.digest, damaged)
    storage.put_manifest("a", row, io.BytesIO(raw), ["v1"])
    with storage.blobs.open(row.digest) as file:
        assert file.read() == raw


def test_putting_stored_manifest_writes_no_file(storage):
    raw = b'{"a":1}'
    row = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=len(raw))
    storage.put_manifest("a", row, io.BytesIO(raw), ["v1"])
    path = storage.blobs.root / "blobs" / "sha256" / row.digest.encoded
    before = path.stat().st_ino
    storage.put_manifest("a", row, io.BytesIO(raw), ["v2"])
    assert path.stat().st_ino == before


@pytest.mark.parametrize("damaged", [None, b"conten", b"content and more"])
def test_manifest_with_lost_child_is_rejected(storage, damaged):
    digest = push(storage, b"content")
    if damaged is None:
        storage.blobs.delete(digest)
    else:
        damage(storage, digest, damaged)
    row = ManifestRow(digest=Digest.of(b"{}"), media_type="application/json", size=2, children=(digest,))
    with pytest.raises(MissingChildren) as raised:
        storage.put_manifest("a", row, io.BytesIO(b"{}"), ["v1"], require_children=True)
    assert raised.value.digests == {digest}
    storage.put_manifest("a", row, io.BytesIO(b"{}"), ["sparse"])
    push(storage, b"content", "b")
    storage.put_manifest("a", row, io.BytesIO(b"{}"), ["v1"], require_children=True)


@pytest.mark.parametrize("damaged", [None, b'{"a":2}', b"{}", b"", b'{"a":1} and more'])
def test_damaged_manifest_counts_as_absent(storage, damaged, caplog):
    raw = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % INDEX.encode()
    app = Registry(Application(storage))
    digest = Digest.of(raw)
    assert app("PUT", "/v2/a/manifests/v1", {"Content-Type": INDEX}, raw).status == 201
    if damaged is None:
        storage.blobs.delete(digest)
    else:
        damage(storage, digest, damaged.ljust(len(raw)) if damaged == b'{"a":2}' else damaged)
    for reference in ("v1", digest):
        for method in ("GET", "HEAD"):
            assert app(method, f"/v2/a/manifests/{reference}").status == 404
    assert damaged is None or "damaged" in caplog.text
    assert app("PUT", "/v2/a/manifests/v1", {"Content-Type": INDEX}, raw).status == 201
    assert app("GET", "/v2/a/manifests/v1").body == raw


class CountedFile(io.FileIO):
    """A file that counts the bytes that are read."""

    total = 0

    def read(self, size=-1):
        chunk = super().read(size)
        CountedFile.total += len(chunk)
        return chunk


class CountedBlobs(FileBlobs):
    def open(self, digest):
        with super().open(digest) as file:
            return CountedFile(os.dup(file.fileno()), "rb")


def test_manifest_is_hashed_again_only_after_change(tmp_path, monkeypatch):
    storage = file_storage(tmp_path)
    storage.blobs = CountedBlobs(tmp_path)
    raw = b'{"a":1}'
    row = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=len(raw))
    storage.put_manifest("a", row, io.BytesIO(raw), ["v1"])

    def read_bytes(expected=True):
        CountedFile.total = 0
        file = storage.open_manifest(row)
        assert (file is not None) is expected
        if file is not None:
            file.close()
        return CountedFile.total

    # A file that has just changed may change again with the same time
    assert read_bytes() == read_bytes() == len(raw)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10)
    assert read_bytes() == len(raw)
    assert read_bytes() == 0
    damage(storage, row.digest, b'{"a":2}')
    assert read_bytes(expected=False) == len(raw)
    storage.put_manifest("a", row, io.BytesIO(raw), ["v1"])
    assert read_bytes() == len(raw)
