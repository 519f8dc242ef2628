"""Garbage collection deletes exactly the unreferenced content, also between the steps of a push."""

import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from ocikit.errors import ContentError
from ocikit.server.http.app import Application
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import ManifestRow, MissingChildren, UnknownUpload
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import GRACE, gc
from ocikit.server.storage.memory import memory_storage
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest
from ocikit.store.results import RemovedBlob

from tests.support.wsgi import call


@pytest.fixture(params=["files", "memory"])
def storage(request, tmp_path):
    storage = file_storage(tmp_path / "store", durable=False) if request.param == "files" else memory_storage()
    yield storage
    storage.close()


@pytest.fixture
def files(tmp_path):
    storage = file_storage(tmp_path / "store", durable=False)
    yield storage
    storage.close()


def age(storage, seconds=2 * GRACE):
    """Make all rows older."""
    with storage.metadata.engine.begin() as connection:
        for table in ("content", "blobs", "manifests"):
            connection.execute(sa.text(f"UPDATE {table} SET touched = touched - {seconds}"))


def push(storage, content=None, repository="a"):
    content = os.urandom(50) if content is None else content
    digest = Digest.of(content)
    storage.finish(storage.uploads.create(repository), digest, RequestBody(io.BytesIO(content), length=len(content)))
    return digest


def put(storage, *children, tags=(), repository="a", subject=None, **rest):
    raw = json.dumps([*children, subject, os.urandom(8).hex()]).encode()
    entry = ManifestRow(
        digest=Digest.of(raw),
        media_type="application/vnd.oci.image.manifest.v1+json",
        size=len(raw),
        children=children,
        subject=subject,
        referrer="{}" if subject else "",
    )
    storage.put_manifest(repository, entry, io.BytesIO(raw), tags, require_children=True, **rest)
    return entry.digest


def collect_without_grace(storage):
    """Collect without a grace period, as for a push that takes longer than it, or after a clock change."""
    future = time.time() + 1000
    storage.metadata.register_orphans(list(storage.blobs.iterate()))
    for digest, _ in list(storage.metadata.unreferenced_content(future)):
        storage.metadata.delete_if_unreferenced(digest, future, storage.blobs)


def stored(storage):
    return set(storage.blobs.iterate())


def is_sound(storage):
    """Return True if all referenced content is stored and intact."""
    return verify(storage).ok


def once(act):
    """Return a function that calls `act` only the first time."""
    pending = [act]

    def call():
        if pending:
            pending.pop()()

    return call


def hook(monkeypatch, target, name, **when):
    monkeypatch.setattr(type(target), name, hooked(getattr(type(target), name), **when))


def hooked(method, before=None, after=None):
    def call(self, *args, **kwargs):
        if before is not None:
            before()
        result = method(self, *args, **kwargs)
        if after is not None:
            after()
        return result

    return call


# Content and grace periods


def test_unreferenced_blob_stays_for_grace_period(storage):
    digest = push(storage)
    gc(storage)
    assert stored(storage) == {digest}
    age(storage)
    result = gc(storage)
    assert stored(storage) == set()
    assert storage.blob_size("a", digest) is None
    assert result.unlinked == (RemovedBlob(digest=digest, size=50, repository="a"),)
    assert (result.blobs, result.size) == ((RemovedBlob(digest=digest, size=50),), 50)


def test_referenced_blobs_stay(storage):
    blobs = [push(storage) for _ in range(3)]
    image = put(storage, *blobs[:2])
    index = put(storage, image, tags=["v1"])
    age(storage)
    gc(storage)
    assert stored(storage) == {*blobs[:2], image, index}
    assert is_sound(storage)


def test_content_stays_while_one_repository_references_it(storage):
    digest = push(storage, b"shared")
    push(storage, b"shared", "b")
    put(storage, digest, repository="b")
    age(storage)
    gc(storage)
    assert storage.blob_size("a", digest) is None
    assert storage.blob_size("b", digest) == 6


def test_children_of_deleted_manifest_go_a_grace_period_later(storage):
    digest = push(storage)
    manifest = put(storage, digest, tags=["v1"])
    age(storage)
    storage.metadata.delete_manifest("a", manifest)
    gc(storage)
    assert stored(storage) == {digest, manifest}
    age(storage)
    gc(storage)
    assert stored(storage) == set()


def test_dry_run_lists_and_deletes_nothing_until_run(storage):
    digest, other = push(storage), push(storage)
    manifest = put(storage, other)
    storage.metadata.remove_blob("a", push(storage, b"unlinked"))
    storage.uploads.create("a")
    age(storage)
    result = gc(storage, untagged=True, dry_run=True)
    assert result.dry_run
    assert [(blob.repository, blob.digest) for blob in result.unlinked] == [("a", digest)]
    assert [(blob.repository, blob.digest) for blob in result.manifests] == [("a", manifest)]
    assert [(blob.digest, blob.size) for blob in result.blobs] == [(Digest.of(b"unlinked"), 8), (digest, 50)]
    assert repr(result) == "GCResult(dry_run=True, blobs=2, size=58 B, manifests=1, unlinked=1)"
    table = result._repr_html_()
    assert all(item.partition(":")[2][:12] in table for item in (digest, manifest, Digest.of(b"unlinked")))
    assert len(stored(storage)) == 4
    assert storage.uploads.count() == 1
    executed = result.run()
    assert not executed.dry_run
    assert set(executed.blobs) == set(result.blobs)
    assert storage.metadata.manifest("a", manifest) is None


def test_repository_names_are_escaped_in_html(storage):
    storage.metadata.add_blob("<script>", push(storage), 1)
    age(storage)
    assert "<script>" not in gc(storage, dry_run=True)._repr_html_()


def test_crash_leftovers_go_a_grace_period_after_detection(files, tmp_path):
    kept_digest = push(files)
    put(files, kept_digest, tags=["v1"])
    orphan = Digest.of(b"orphan")
    files.blobs.put(orphan, io.BytesIO(b"orphan"))
    half = tmp_path / "store" / "blobs" / "sha256" / f".{orphan.encoded}.host.1.00000000"
    half.write_bytes(b"orp")
    session = files.uploads.create("a")
    result = gc(files)
    assert (result.blobs, result.uploads, result.partial) == ((), 0, 0)
    assert orphan in stored(files)
    age(files)
    old = time.time() - 2 * 24 * 3600
    for path in (half, *(tmp_path / "store" / "uploads").iterdir()):
        os.utime(path, (old, old))
    result = gc(files)
    assert (result.blobs, result.uploads, result.partial) == ((RemovedBlob(digest=orphan, size=6),), 1, 1)
    assert orphan not in stored(files)
    assert not half.exists()
    with pytest.raises(UnknownUpload):
        files.uploads.size(session)
    assert is_sound(files)


def test_rows_without_file_are_deleted(files, tmp_path):
    digest = push(files)
    (tmp_path / "store" / "blobs" / "sha256" / digest.encoded).unlink()
    age(files)
    assert len(gc(files).blobs) == 1
    assert list(files.metadata.iter_references()) == []


def test_only_expired_uploads_are_deleted(files, tmp_path):
    uploads = [files.uploads.create("a") for _ in range(3)]
    paths = {path.name.partition(".")[0]: path for path in (tmp_path / "store" / "uploads").iterdir()}
    old = time.time() - 100
    os.utime(paths[uploads[0].id], (old, old))
    assert gc(files, expiry=99).uploads == 1
    assert [files.uploads.size(upload) for upload in uploads[1:]] == [0, 0]


# Untagged manifests


def test_untagged_manifests_stay_by_default(storage):
    manifest = put(storage, push(storage))
    age(storage)
    assert gc(storage).manifests == ()
    assert storage.metadata.manifest("a", manifest)


def test_untagged_manifests_go_with_their_children(storage):
    shared, own = push(storage), push(storage)
    child = put(storage, shared)
    index = put(storage, child, tags=["v1"])
    signature = put(storage, subject=child)
    free = put(storage, shared, own)
    signature_of_free = put(storage, subject=free)
    age(storage)
    result = gc(storage, untagged=True)
    assert {manifest.digest for manifest in result.manifests} == {free, signature_of_free}
    assert stored(storage) >= {own, free}
    age(storage)
    gc(storage, untagged=True)
    assert stored(storage) == {shared, child, index, signature}
    assert is_sound(storage)


def test_tag_set_during_collection_keeps_its_manifest(storage, monkeypatch):
    child = put(storage, push(storage))
    manifest = put(storage, child)
    signature = put(storage, subject=manifest)
    age(storage)
    again = storage.metadata.manifest("a", manifest)
    age(storage)
    give = once(lambda: storage.metadata.put_manifest("a", again, ["v1"]))
    hook(monkeypatch, storage.metadata, "delete_untagged", before=give)
    gc(storage, untagged=True)
    assert storage.metadata.manifest("a", "v1") == again
    assert all(storage.metadata.manifest("a", digest) for digest in (child, signature))


def test_many_manifests_are_deleted_in_batches_indexes_first(files, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.sql_gc._DELETE_BATCH", 3)
    children = [put(files) for _ in range(8)]
    indexes = [put(files, *children[n : n + 2]) for n in range(7)]
    stays = put(files, tags=["v1"])
    age(files)
    deleted = {manifest.digest for manifest in gc(files, untagged=True).manifests}
    assert deleted >= set(indexes)
    age(files)
    deleted |= {manifest.digest for manifest in gc(files, untagged=True).manifests}
    assert deleted == {*children, *indexes}
    age(files)
    gc(files)
    assert stored(files) == {stays}


# Interleavings: a collection runs in the middle of each operation


def steps(storage):
    """Return the points where a push can be interrupted: object, method, before or after."""
    taking = "put_file" if hasattr(storage.uploads, "root") else "put"
    return [
        (target, name, when)
        for target, name in (
            (storage.metadata, "protect_from_gc"),
            (storage.uploads, "finish"),
            (storage.blobs, taking),
            (storage.metadata, "add_blob"),
            (storage.blobs, "stat"),
        )
        for when in ("before", "after")
    ]


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("sweep", [gc, collect_without_grace])
def test_acknowledged_upload_survives_concurrent_collection(storage, monkeypatch, step, sweep):
    """The same content was stored before and is unreferenced for longer than the grace period."""
    content = b"comes and goes"
    digest = push(storage, content)
    storage.metadata.remove_blob("a", digest)
    age(storage)
    target, name, when = steps(storage)[step]
    with monkeypatch.context() as patch:
        hook(patch, target, name, **{when: once(lambda: sweep(storage))})
        try:
            push(storage, content)
            acknowledged = True
        except UnknownUpload:
            acknowledged = False
    assert acknowledged or sweep is collect_without_grace
    gc(storage)
    assert (storage.blob_size("a", digest) == len(content)) == acknowledged
    push(storage, content)
    assert storage.blob_size("a", digest) == len(content)
    assert is_sound(storage)


@pytest.mark.parametrize("sweep", [gc, collect_without_grace])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["add_blob", "protect_from_gc", "put_manifest", "sizes"])
def test_acknowledged_manifest_survives_concurrent_collection(storage, monkeypatch, method, when, sweep):
    raw = b'{"the same": "each time"}'
    entry = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=len(raw))
    storage.put_manifest("a", entry, io.BytesIO(raw), ["v0"])
    storage.metadata.delete_manifest("a", entry.digest)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, method, **{when: once(lambda: sweep(storage))})
        storage.put_manifest("a", entry, io.BytesIO(raw), ["v1"], require_children=True)
    gc(storage)
    assert storage.metadata.manifest("a", "v1") == entry
    assert storage.blobs.stat(entry.digest) == len(raw)
    assert is_sound(storage)


@pytest.mark.parametrize("sweep", [gc, collect_without_grace])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["blob_size", "add_blob"])
def test_acknowledged_mount_survives_concurrent_collection(storage, monkeypatch, name, when, sweep):
    digest = push(storage)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, name, **{when: once(lambda: sweep(storage))})
        mounted = storage.mount("b", digest, "a")
    gc(storage)
    assert (storage.blob_size("b", digest) is not None) == mounted
    assert mounted or (name, when) == ("blob_size", "before")


def test_blob_confirmed_by_head_can_be_referenced_later(storage):
    """A client sends HEAD, a collection runs, and the client pushes the manifest."""
    application = Application(storage)
    digest = push(storage)
    age(storage)
    assert call(application, "HEAD", f"/v2/a/blobs/{digest}").status == 200
    age(storage, 0.7 * GRACE)
    gc(storage)
    config = push(storage, b"{}")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": digest, "size": 50}],
    }
    answer = call(application, "PUT", "/v2/a/manifests/v1", {"Content-Type": kind}, json.dumps(manifest).encode())
    assert answer.status == 201
    age(storage)
    gc(storage)
    assert call(application, "GET", f"/v2/a/blobs/{digest}").status == 200


def test_confirmed_blob_survives_deletion_of_its_manifest(storage):
    digest = push(storage)
    manifest = put(storage, digest, tags=["v1"])
    age(storage)
    assert storage.blob_size("a", digest) == 50
    storage.metadata.delete_manifest("a", manifest)
    gc(storage)
    put(storage, digest, tags=["v2"])
    assert is_sound(storage)


def test_deleted_manifest_can_be_pushed_again_at_any_time(storage):
    digest = push(storage)
    raw = b"{}"
    entry = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=2, children=(digest,))
    for wait in (0, 0.5 * GRACE, 2 * GRACE):
        storage.put_manifest("a", entry, io.BytesIO(raw), ["v1"], require_children=True)
        storage.metadata.delete_manifest("a", entry.digest)
        age(storage, wait)
        gc(storage)
        if storage.blob_size("a", digest) is None:
            assert wait == 2 * GRACE
            digest_again = push(storage, b"something else")
            entry = ManifestRow(digest=entry.digest, media_type="application/json", size=2, children=(digest_again,))
    storage.put_manifest("a", entry, io.BytesIO(raw), ["v1"], require_children=True)
    assert is_sound(storage)


def test_blob_referenced_during_collection_stays(storage, monkeypatch):
    digest = push(storage)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, "remove_blob_if_unused", before=once(lambda: put(storage, digest, tags=["v1"])))
        assert gc(storage).unlinked == ()
    assert is_sound(storage)
    assert storage.blob_size("a", digest) == 50


@pytest.mark.parametrize("claimed", ["claim", "link"])
def test_content_protected_during_collection_stays(storage, monkeypatch, claimed):
    digest = push(storage)
    storage.metadata.remove_blob("a", digest)
    age(storage)

    def claim():
        if claimed == "claim":
            storage.metadata.protect_from_gc(digest)
        else:
            storage.metadata.add_blob("b", digest, 50)

    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, "delete_if_unreferenced", before=once(claim))
        assert gc(storage).blobs == ()
    assert stored(storage) == {digest}


def test_concurrent_collections_delete_each_item_once(storage, monkeypatch):
    digests = {push(storage) for _ in range(30)}
    stays = push(storage)
    put(storage, stays, tags=["v1"])
    age(storage)
    both = threading.Barrier(2)
    deleted = []
    delete = type(storage.blobs).delete
    with monkeypatch.context() as patch:
        patch.setattr(
            type(storage.blobs), "delete", lambda self, digest: (deleted.append(digest), delete(self, digest))
        )

        def sweep(_):
            both.wait()
            return gc(storage)

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(sweep, range(2)))
    assert sorted(deleted) == sorted(digests)
    assert sorted(blob.digest for result in results for blob in result.blobs) == sorted(digests)
    assert sorted(blob.digest for result in results for blob in result.unlinked) == sorted(digests)
    assert storage.blob_size("a", stays) == 50


def test_nested_collections_delete_each_item_once(storage, monkeypatch):
    digest = push(storage)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, "remove_blob_if_unused", before=once(lambda: inner.append(gc(storage))))
        inner = []
        outer = gc(storage)
    assert (len(inner[0].blobs), len(outer.blobs), len(outer.unlinked)) == (1, 0, 0)
    assert stored(storage) == set()
    assert storage.blob_size("a", digest) is None


def test_collection_of_second_storage_sees_same_content(files, tmp_path):
    digest, other = push(files), push(files)
    put(files, digest, tags=["v1"])
    age(files)
    second = file_storage(tmp_path / "store", durable=False)
    try:
        assert [blob.digest for blob in gc(second).blobs] == [other]
        assert is_sound(second)
    finally:
        second.close()
    assert files.blob_size("a", digest) == 50


def test_concurrent_pushes_and_deletions_lose_no_acknowledged_content(files):
    """Each thread pushes and deletes the same content; acknowledged content that is not deleted is stored."""
    end = time.monotonic() + 1
    contents = [os.urandom(20_000) for _ in range(3)]
    blobs = [Digest.of(content) for content in contents]
    failures = []

    def work(number):
        name, turns = f"r{number}", 0
        while time.monotonic() < end:
            n = turns % 3
            turns += 1
            try:
                push(files, contents[n], name)
                manifest = put(files, blobs[n], tags=["v1"], repository=name)
            except (UnknownUpload, MissingChildren):
                continue  # not acknowledged
            found = files.metadata.manifest(name, "v1")
            if found is None or found.digest != manifest or files.blobs.stat(manifest) != found.size:
                failures.append(("manifest", found))
            if files.blob_size(name, blobs[n]) != 20_000:
                failures.append(("blob", files.blobs.stat(blobs[n])))
            files.metadata.delete_manifest(name, manifest)
            if turns % 2:
                files.metadata.remove_blob(name, blobs[n], force=True)
        return turns

    def sweep(_):
        while time.monotonic() < end:
            collect_without_grace(files)

    with ThreadPoolExecutor(8) as pool:
        sweepers = [pool.submit(sweep, None) for _ in range(2)]
        turns = list(pool.map(work, range(6)))
        for sweeper in sweepers:
            sweeper.result()
    assert failures == []
    assert all(turns)
    assert is_sound(files)


# Verification


def test_verify_finds_corrupt_and_missing_content(files, tmp_path):
    folder = tmp_path / "store" / "blobs" / "sha256"
    whole, short, rotten, gone = (push(files) for _ in range(4))
    manifest = put(files, whole, short, rotten, gone, tags=["v1"])
    stray = Digest.of(b"stray")
    for digest, content in ((short, b"short"), (rotten, os.urandom(50)), (stray, b"no such thing")):
        path = folder / digest.encoded
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(content)
    (folder / gone.encoded).unlink()
    result = verify(files)
    assert not result.ok
    assert {
        (blob.digest, blob.problem, blob.expected_size, blob.actual_size, blob.repositories) for blob in result.corrupt
    } == {
        (short, "size", 50, 5, ("a",)),
        (rotten, "digest", 50, 50, ("a",)),
        (gone, "missing", 50, None, ("a",)),
        (stray, "digest", None, 13, ()),
    }
    assert result.checked == 5
    first = result.corrupt[0].digest.partition(":")[2][:12]  # a repr has the first of many
    assert "ok=False" in repr(result) and first in repr(result)
    assert rotten.partition(":")[2][:12] in result._repr_html_()
    assert files.metadata.manifest("a", manifest)


def test_comparison_of_sizes_reads_no_content(files, tmp_path):
    folder = tmp_path / "store" / "blobs" / "sha256"
    whole, short, rotten, gone = (push(files) for _ in range(4))
    for digest, content in ((short, b"short"), (rotten, os.urandom(50))):
        (folder / digest.encoded).chmod(0o644)
        (folder / digest.encoded).write_bytes(content)
    (folder / gone.encoded).unlink()
    result = verify(files, sizes=True)
    assert {(blob.digest, blob.problem) for blob in result.corrupt} == {(short, "size"), (gone, "missing")}
    assert (result.checked, result.size) == (4, 0)
    assert whole not in {blob.digest for blob in result.corrupt}


def test_pushing_again_repairs_corrupt_content(files, tmp_path):
    contents = [os.urandom(50) for _ in range(3)]
    digests = [push(files, content) for content in contents]
    put(files, *digests, tags=["v1"])
    folder = tmp_path / "store" / "blobs" / "sha256"
    for digest, wrong in zip(digests, (b"", os.urandom(50), os.urandom(51)), strict=True):
        (folder / digest.encoded).chmod(0o644)
        (folder / digest.encoded).write_bytes(wrong)
    # Content of the right size looks complete until it is verified
    assert [files.blob_size("a", digest) for digest in digests] == [None, 50, None]
    assert len(verify(files, remove=True).corrupt) == 3
    assert [files.blob_size("a", digest) for digest in digests] == [None, None, None]
    assert [blob.problem for blob in verify(files).corrupt] == ["missing"] * 3
    for content in contents:
        push(files, content, "b")
    assert verify(files).ok
    assert [files.blob_size("a", digest) for digest in digests] == [50, 50, 50]


def test_content_pushed_again_during_verify_is_not_removed(files, tmp_path, monkeypatch):
    content = os.urandom(50)
    digest = push(files, content)
    path = tmp_path / "store" / "blobs" / "sha256" / digest.encoded
    path.chmod(0o644)
    path.write_bytes(os.urandom(50))
    with monkeypatch.context() as patch:
        hook(patch, files.metadata, "exclusive", before=once(lambda: push(files, content)))
        verify(files, remove=True)
    assert verify(files).ok


def test_unreadable_blob_is_corrupt(files, monkeypatch):
    digest = push(files)

    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(type(files.blobs), "open", lambda self, digest: Broken())
        assert [(blob.digest, blob.problem) for blob in verify(files).corrupt] == [(digest, "digest")]


def test_unreadable_permissions_delete_nothing(files, monkeypatch):
    digest = push(files)

    def denied(self, digest):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(files.blobs), "open", denied)
        with pytest.raises(ContentError, match="Permission denied"):
            verify(files, remove=True)
    assert files.blobs.stat(digest) == 50


def test_content_deleted_during_verify_is_not_missing(files, monkeypatch):
    digest = push(files)

    def delete():
        files.metadata.remove_blob("a", digest)
        collect_without_grace(files)

    with monkeypatch.context() as patch:
        hook(patch, files.blobs, "open", before=once(delete))
        with pytest.raises(KeyError):
            files.blobs.open(digest)
    push(files)
    with monkeypatch.context() as patch:
        hook(patch, files.blobs, "stat", before=once(lambda: None))
        assert verify(files).ok


def test_empty_registry_verifies(storage):
    result = verify(storage)
    assert (result.ok, result.checked, result.size) == (True, 0, 0)
    assert repr(result) == "VerifyResult(ok=True, checked=0, size=0 B)"
