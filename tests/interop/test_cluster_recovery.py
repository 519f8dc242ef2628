"""Collectors, restores and rebuilds of a registry in PostgreSQL and an object store lose nothing."""

import io
import os
import threading

import pytest
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import ManifestRow
from ocikit.server.storage.cluster.copies import write_copies
from ocikit.server.storage.cluster.garbage import delete_garbage
from ocikit.server.storage.cluster.rebuild import rebuild
from ocikit.server.storage.cluster.storage import cluster_storage
from ocikit.server.storage.cluster.strays import strays
from ocikit.server.storage.cluster.sweep import sweep
from ocikit.server.storage.gc import gc
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest
from psycopg import sql

from tests.tools.soak_collector import soak

HOUR = 3600.0


@pytest.fixture
def open_storage(tmp_path, objects_url):
    """A function that opens a storage of a database and the test's object store."""
    opened = []

    def open_one(url, *, keep_deleted=HOUR, grace=HOUR):
        state = tmp_path / f"state{len(opened)}"
        state.mkdir()
        storage = cluster_storage(url, objects_url, grace=grace, keep_deleted=keep_deleted, state=state, pool=4)
        opened.append(storage)
        return storage

    yield open_one
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(open_storage, database_url):
    return open_storage(database_url)


def push(storage, content=None, repository="a"):
    content = os.urandom(50) if content is None else content
    digest = Digest.of(content)
    storage.finish(storage.uploads.create(repository), digest, RequestBody(io.BytesIO(content), length=len(content)))
    return digest


def put(storage, *children, repository="a", tags=("v1",), **row):
    raw = os.urandom(40)
    digest = Digest.of(raw)
    storage.put_manifest(
        repository,
        ManifestRow(digest=digest, media_type="application/json", size=len(raw), children=children, **row),
        io.BytesIO(raw),
        tags,
    )
    return digest


def read(storage, repository, digest):
    """Return the bytes of a blob, or None."""
    blob = storage.find_blob(repository, digest)
    if blob is None:
        return None
    with blob.open(0, blob.size) as stream:
        return stream.read()


def collect(storage):
    """Sweep as if the grace period were over."""
    storage.database.change("UPDATE review SET after = '-infinity'")
    return sweep(storage, grace=0)


def age(storage):
    """Make the deletion of all objects due."""
    storage.database.change("UPDATE garbage SET after = '-infinity'")


def test_delete_that_arrives_late_loses_nothing(storage, monkeypatch):
    """A collector sends a DELETE. The content is pushed again and acknowledged, and then the DELETE arrives."""
    content = os.urandom(90)
    digest = push(storage, content)
    collect(storage)
    age(storage)
    late = []
    with monkeypatch.context() as patch:
        patch.setattr(storage.objects, "delete", lambda keys: late.extend(keys) or {})
        delete_garbage(storage.database, storage.objects)
    assert late
    assert push(storage, content) == digest
    assert storage.objects.delete(late) == {}
    assert read(storage, "a", digest) == content
    assert verify(storage).ok


def test_content_that_is_pushed_again_has_another_object(storage):
    content = os.urandom(90)
    push(storage, content)
    collect(storage)
    digest = push(storage, content)
    age(storage)
    assert delete_garbage(storage.database, storage.objects) == 1
    assert read(storage, "a", digest) == content


def test_deletion_of_a_manifest_frees_its_objects(storage):
    """What nothing references is deleted by the queues, without a look at all rows."""
    manifest = put(storage, push(storage), push(storage))
    collect(storage)
    assert len(list(storage.objects.iterate("c/"))) == 2
    storage.metadata.delete_manifest("a", manifest)
    result = collect(storage)
    assert (len(result.unlinked), len(result.blobs)) == (2, 3)
    age(storage)
    sweep(storage, grace=0)
    assert list(storage.objects.iterate("c/")) == []
    assert storage.database.rows("SELECT digest FROM content UNION SELECT digest FROM review") == []


def test_removed_blob_frees_its_object(storage):
    digest = push(storage)
    assert storage.metadata.remove_blob("a", digest)
    assert [blob.digest for blob in collect(storage).blobs] == [digest]


def test_mounted_blob_without_manifest_is_deleted(storage):
    digest = push(storage)
    put(storage, digest)
    assert storage.mount("b", digest, "a")
    assert [(blob.digest, blob.repository) for blob in collect(storage).unlinked] == [(digest, "b")]


def test_full_collection_needs_no_queue(open_storage, database_url):
    storage = open_storage(database_url, grace=0, keep_deleted=0)
    lost, kept = push(storage), push(storage)
    put(storage, kept)
    untagged = put(storage, tags=())
    planned = gc(storage, grace=0, dry_run=True, untagged=True)
    assert planned.digests == (lost,)
    assert [blob.digest for blob in planned.manifests] == [untagged]
    storage.database.change("DELETE FROM review")
    result = gc(storage, grace=0, untagged=True)
    assert [blob.digest for blob in result.manifests] == [untagged]
    assert sorted(result.digests) == sorted((lost, untagged))
    assert len(list(storage.objects.iterate("c/"))) == 1


def test_damaged_blob_is_pushed_again(storage, s3_server):
    content = os.urandom(50)
    digest = push(storage, content)
    put(storage, digest)
    key = storage.metadata.find("a", digest).key
    storage.objects.delete([key])
    assert [blob.problem for blob in verify(storage, sizes=True).corrupt] == ["missing"]
    assert not verify(storage, remove=True).ok
    assert storage.blob_size("a", digest) is None
    push(storage, content)
    assert read(storage, "a", digest) == content
    assert verify(storage).ok


@pytest.fixture
def copy_database(postgres_server):
    """A function that copies a database that no process uses, as a backup does."""
    names = []

    def copy(url):
        source = url.rpartition("/")[2]
        names.append(f"{source}_copy{len(names)}")
        with postgres_server.connect() as admin:
            words = "CREATE DATABASE {} OWNER {} TEMPLATE {}"
            admin.execute(
                sql.SQL(words).format(sql.Identifier(names[-1]), sql.Identifier("ocikit"), sql.Identifier(source))
            )
        return postgres_server.url(names[-1])

    yield copy
    with postgres_server.connect() as admin:
        for name in names:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize("keep_deleted", [HOUR, 0])
def test_database_of_an_hour_ago_finds_its_objects(open_storage, database_url, copy_database, tmp_path, keep_deleted):
    """Objects are kept after their rows are deleted, so that the rows of a backup still find them."""
    storage = open_storage(database_url, keep_deleted=keep_deleted)
    contents = {push(storage, content, f"team/{n % 3}"): content for n in range(9) for content in [os.urandom(99)]}
    manifests = [put(storage, *list(contents)[n::3], repository=f"team/{n}", tags=["v1", f"v{n}"]) for n in range(3)]
    storage.close()
    backup = copy_database(database_url)
    storage = open_storage(database_url, keep_deleted=keep_deleted)
    for number, manifest in enumerate(manifests):
        storage.metadata.delete_manifest(f"team/{number}", manifest)
    later = push(storage, os.urandom(99), "team/0")
    for _ in range(2):
        collect(storage)
    assert storage.database.rows("SELECT digest FROM content") == []

    restored = open_storage(backup, keep_deleted=keep_deleted)
    if not keep_deleted:
        assert {blob.problem for blob in verify(restored).corrupt} == {"missing"}
        return
    assert verify(restored).ok
    assert verify(restored, sizes=True).ok
    for number, (digest, content) in enumerate(contents.items()):
        assert read(restored, f"team/{number % 3}", digest) == content
    for number, manifest in enumerate(manifests):
        assert restored.metadata.manifest(f"team/{number}", f"v{number}").digest == manifest
    assert restored.find_blob("team/0", later) is None
    found = strays(restored.database, restored.objects, state=tmp_path, keep_deleted=0, age=-HOUR)
    assert found.count == 1  # what was pushed since
    assert verify(restored).ok


def test_registry_is_rebuilt_without_its_database(storage, open_storage, postgres_server, objects_url, database_url):
    contents = {}

    def blob(repository, content):
        contents[(repository, push(storage, content, repository))] = content
        return Digest.of(content)

    shared, large = os.urandom(100), os.urandom(17 << 20)
    for name in ("a", "a/b", "team/app"):
        image = put(storage, blob(name, shared), blob(name, os.urandom(70)), repository=name, tags=["v1", "latest"])
        put(storage, image, repository=name, tags=["index"])
        signature = ManifestRow(digest=image, media_type="", size=0)
        put(
            storage,
            blob(name, b"{}"),
            repository=name,
            tags=(),
            subject=signature.digest,
            artifact_type="application/x",
            referrer="{}",
        )
    put(storage, blob("a", large), repository="a", tags=["large"])
    assert storage.mount("b", Digest.of(shared), "a")
    put(storage, Digest.of(shared), repository="b")
    write_copies(storage.database, storage.objects)
    with postgres_server.database(migrated=True) as url:
        result = rebuild(url, objects_url, keep_deleted=0)
        assert (result.repositories, result.manifests, result.missing) == (4, 11, ())
        rebuilt = open_storage(url)
        assert verify(rebuilt).ok
        for (repository, digest), content in contents.items():
            assert read(rebuilt, repository, digest) == content
        for name in storage.metadata.repositories(limit=10):
            tags = storage.metadata.tags(name, limit=10)
            assert rebuilt.metadata.tags(name, limit=10) == tags
            for tag in tags:
                before, after = storage.metadata.manifest(name, tag), rebuilt.metadata.manifest(name, tag)
                assert before == after
                assert rebuilt.open_manifest(after).read() == storage.open_manifest(before).read()
                assert rebuilt.metadata.referrers(name, before.digest, limit=9) == storage.metadata.referrers(
                    name, before.digest, limit=9
                )
        for _ in range(2):
            rebuilt.database.change("UPDATE review SET after = '-infinity'")
            sweep(rebuilt, grace=0)
        assert verify(rebuilt).ok


@pytest.mark.parametrize("grace", [0, 1])
def test_collectors_and_pushes_of_the_same_content_lose_nothing(database_url, objects_url, tmp_path, grace):
    counts, wrong = soak(database_url, objects_url, tmp_path, seconds=5, clients=8, grace=grace, keep_deleted=0.5)
    assert not wrong
    assert counts["manifests checked"]
    assert counts["contents deleted"]


def test_two_sweeps_at_once_delete_each_row_once(storage):
    digests = {push(storage) for _ in range(150)}
    storage.database.change("UPDATE review SET after = '-infinity'")
    results = []
    threads = [threading.Thread(target=lambda: results.append(sweep(storage, grace=0)), daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    removed = [blob.digest for result in results for blob in result.unlinked]
    assert len(removed) == len(set(removed))
    results.append(collect(storage))
    deleted = [blob.digest for result in results for blob in result.blobs]
    assert sorted(deleted) == sorted(digests)
