"""What nobody names is swept out, and nothing else, whatever happens between the steps of a push."""

import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from ocikit.server.http.app import Application
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import ManifestRow, UnknownUpload
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import GRACE, collect
from ocikit.server.storage.memory import memory_storage
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest

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
    """Let time go by: for everything that is kept now."""
    with storage.metadata._engine.begin() as connection:
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
        digest=Digest.of(raw), media_type="application/vnd.oci.image.manifest.v1+json", size=len(raw),
        children=children, subject=subject, referrer="{}" if subject else "",
    )  # fmt: skip
    storage.put_manifest(repository, entry, io.BytesIO(raw), tags, strict=True, **rest)
    return entry.digest


def merciless(storage):
    """A collector for which nothing is ever new: it deletes whatever nobody names now. A push that takes longer than the
    grace period meets one, and so does one on a machine whose clock is set."""
    future = time.time() + 1000
    storage.metadata.adopt(list(storage.blobs.iterate()))
    for digest, _ in list(storage.metadata.unnamed(future)):
        storage.metadata.drop(digest, future, storage.blobs)


def kept(storage):
    return set(storage.blobs.iterate())


def sound(storage):
    """Nothing names what isn't there, or isn't whole."""
    return verify(storage).wrong == ()


def once(act):
    """Only the first time."""
    left = [act]

    def call():
        if left:
            left.pop()()

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


# What goes, and when


def test_what_no_manifest_needs_stays_for_the_grace_period(storage):
    digest = push(storage)
    collect(storage)
    assert kept(storage) == {digest}
    age(storage)
    swept = collect(storage)
    assert kept(storage) == set()
    assert storage.blob("a", digest) is None
    assert (swept.blobs, swept.content, swept.size) == ((("a", digest, 50),), ((digest, 50),), 50)


def test_what_manifests_need_stays_for_good(storage):
    blobs = [push(storage) for _ in range(3)]
    image = put(storage, *blobs[:2])
    index = put(storage, image, tags=["v1"])
    age(storage)
    collect(storage)
    assert kept(storage) == {*blobs[:2], image, index}
    assert sound(storage)


def test_content_goes_with_its_last_repository(storage):
    digest = push(storage, b"shared")
    push(storage, b"shared", "b")
    put(storage, digest, repository="b")
    age(storage)
    collect(storage)
    assert storage.blob("a", digest) is None
    assert storage.blob("b", digest) == 6


def test_what_a_deleted_manifest_needed_goes_a_grace_period_later(storage):
    digest = push(storage)
    manifest = put(storage, digest, tags=["v1"])
    age(storage)
    storage.metadata.delete_manifest("a", manifest)
    collect(storage)
    assert kept(storage) == {digest, manifest}
    age(storage)
    collect(storage)
    assert kept(storage) == set()


def test_a_dry_run_tells_and_does_nothing(storage):
    digest, other = push(storage), push(storage)
    manifest = put(storage, other)
    storage.metadata.unlink("a", push(storage, b"unlinked"))
    storage.uploads.create("a")
    age(storage)
    told = collect(storage, untagged=True, dry_run=True)
    assert told.dry_run
    assert [row[:2] for row in told.blobs] == [("a", digest)]
    assert [row[:2] for row in told.manifests] == [("a", manifest)]
    assert told.content == ((Digest.of(b"unlinked"), 8), (digest, 50))
    assert repr(told) == "Collection(dry_run=True, manifests=1, blobs=1, content=2, size=58 B)"
    table = told._repr_html_()
    assert all(each.partition(":")[2][:12] in table for each in (digest, manifest, Digest.of(b"unlinked")))
    assert len(kept(storage)) == 4
    assert storage.uploads.count() == 1
    assert set(collect(storage, untagged=True).content) == set(told.content)


def test_names_in_a_table_are_escaped(storage):
    storage.metadata.link("<script>", push(storage), 1)
    age(storage)
    assert "<script>" not in collect(storage, dry_run=True)._repr_html_()


def test_what_a_crash_left_behind_goes_a_grace_period_after_it_is_found(files, tmp_path):
    kept_digest = push(files)
    put(files, kept_digest, tags=["v1"])
    orphan = Digest.of(b"orphan")
    files.blobs.put(orphan, io.BytesIO(b"orphan"))
    half = tmp_path / "store" / "blobs" / "sha256" / f".{orphan.encoded}.host.1.00000000"
    half.write_bytes(b"orp")
    session = files.uploads.create("a")
    swept = collect(files)
    assert (swept.content, swept.uploads, swept.leftovers) == ((), 0, 0)
    assert orphan in kept(files)
    age(files)
    old = time.time() - 2 * 24 * 3600
    for path in (half, *(tmp_path / "store" / "uploads").iterdir()):
        os.utime(path, (old, old))
    swept = collect(files)
    assert (swept.content, swept.uploads, swept.leftovers) == (((orphan, 6),), 1, 1)
    assert orphan not in kept(files)
    assert not half.exists()
    with pytest.raises(UnknownUpload):
        files.uploads.size(session)
    assert sound(files)


def test_rows_without_a_file_go_as_well(files, tmp_path):
    digest = push(files)
    (tmp_path / "store" / "blobs" / "sha256" / digest.encoded).unlink()
    age(files)
    assert len(collect(files).content) == 1
    assert list(files.metadata.iter_references()) == []


def test_expired_uploads_go_and_others_do_not(files, tmp_path):
    uploads = [files.uploads.create("a") for _ in range(3)]
    paths = {path.name.partition(".")[0]: path for path in (tmp_path / "store" / "uploads").iterdir()}
    old = time.time() - 100
    os.utime(paths[uploads[0].id], (old, old))
    assert collect(files, expiry=99).uploads == 1
    assert [files.uploads.size(upload) for upload in uploads[1:]] == [0, 0]


# Manifests without a tag


def test_manifests_without_a_tag_stay_unless_that_is_asked_for(storage):
    manifest = put(storage, push(storage))
    age(storage)
    assert collect(storage).manifests == ()
    assert storage.metadata.manifest("a", manifest)


def test_manifests_that_no_tag_leads_to_go_with_what_they_needed(storage):
    shared, own = push(storage), push(storage)
    child = put(storage, shared)
    index = put(storage, child, tags=["v1"])
    signature = put(storage, subject=child)
    free = put(storage, shared, own)
    signature_of_free = put(storage, subject=free)
    age(storage)
    swept = collect(storage, untagged=True)
    assert {row[1] for row in swept.manifests} == {free, signature_of_free}
    assert kept(storage) >= {own, free}
    age(storage)
    collect(storage, untagged=True)
    assert kept(storage) == {shared, child, index, signature}
    assert sound(storage)


def test_a_tag_that_is_given_while_manifests_are_swept_out_keeps_its_manifest(storage, monkeypatch):
    child = put(storage, push(storage))
    manifest = put(storage, child)
    signature = put(storage, subject=manifest)
    age(storage)
    again = storage.metadata.manifest("a", manifest)
    age(storage)
    give = once(lambda: storage.metadata.put("a", again, ["v1"]))
    hook(monkeypatch, storage.metadata, "drop_untagged", before=give)
    collect(storage, untagged=True)
    assert storage.metadata.manifest("a", "v1") == again
    assert all(storage.metadata.manifest("a", each) for each in (child, signature))


def test_very_many_manifests_go_a_few_at_a_time_and_never_what_is_in_others_first(files, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.sql._AT_A_TIME", 3)
    children = [put(files) for _ in range(8)]
    indexes = [put(files, *children[n : n + 2]) for n in range(7)]
    stays = put(files, tags=["v1"])
    age(files)
    gone = {row[1] for row in collect(files, untagged=True).manifests}
    assert gone >= set(indexes)
    age(files)
    assert gone | {row[1] for row in collect(files, untagged=True).manifests} == {*children, *indexes}
    age(files)
    collect(files)
    assert kept(files) == {stays}


# Interleavings: the collector runs in the middle of each thing


def steps(storage):
    """Where a push can be interrupted: (object, method, before or after)."""
    taking = "take" if hasattr(storage.uploads, "root") else "put"
    return [
        (target, name, when)
        for target, name in (
            (storage.metadata, "claim"),
            (storage.uploads, "finish"),
            (storage.blobs, taking),
            (storage.metadata, "link"),
            (storage.blobs, "stat"),
        )
        for when in ("before", "after")
    ]


@pytest.mark.parametrize("step", range(10))
@pytest.mark.parametrize("sweep", [collect, merciless])
def test_an_upload_of_what_is_being_deleted_is_there_if_it_is_acknowledged(storage, monkeypatch, step, sweep):
    """The same content was here, and nobody has had it for longer than the grace period."""
    content = b"comes and goes"
    digest = push(storage, content)
    storage.metadata.unlink("a", digest)
    age(storage)
    target, name, when = steps(storage)[step]
    with monkeypatch.context() as patch:
        hook(patch, target, name, **{when: once(lambda: sweep(storage))})
        try:
            push(storage, content)
            acknowledged = True
        except UnknownUpload:
            acknowledged = False
    assert acknowledged or sweep is merciless
    collect(storage)
    assert (storage.blob("a", digest) == len(content)) == acknowledged
    push(storage, content)
    assert storage.blob("a", digest) == len(content)
    assert sound(storage)


@pytest.mark.parametrize("sweep", [collect, merciless])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("method", ["link", "claim", "put", "missing"])
def test_a_manifest_that_is_acknowledged_is_there_with_all_it_needs(storage, monkeypatch, method, when, sweep):
    raw = b'{"the same": "each time"}'
    entry = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=len(raw))
    storage.put_manifest("a", entry, io.BytesIO(raw), ["v0"])
    storage.metadata.delete_manifest("a", entry.digest)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, method, **{when: once(lambda: sweep(storage))})
        storage.put_manifest("a", entry, io.BytesIO(raw), ["v1"], strict=True)
    collect(storage)
    assert storage.metadata.manifest("a", "v1") == entry
    assert storage.blobs.stat(entry.digest) == len(raw)
    assert sound(storage)


@pytest.mark.parametrize("sweep", [collect, merciless])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["blob", "link"])
def test_a_mount_of_what_is_being_deleted_is_there_if_it_is_acknowledged(storage, monkeypatch, name, when, sweep):
    digest = push(storage)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, name, **{when: once(lambda: sweep(storage))})
        mounted = storage.mount("b", digest, "a")
    collect(storage)
    assert (storage.blob("b", digest) is not None) == mounted
    assert mounted or (name, when) == ("blob", "before")


def test_who_was_told_that_a_blob_is_there_can_name_it(storage):
    """HEAD, a collection, and then the manifest."""
    application = Application(storage)
    digest = push(storage)
    age(storage)
    assert call(application, "HEAD", f"/v2/a/blobs/{digest}").status == 200
    age(storage, 0.7 * GRACE)
    collect(storage)
    config = push(storage, b"{}")
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {
        "schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
        "layers": [{"mediaType": "text/plain", "digest": digest, "size": 50}],
    }  # fmt: skip
    answer = call(application, "PUT", "/v2/a/manifests/v1", {"Content-Type": kind}, json.dumps(manifest).encode())
    assert answer.status == 201
    age(storage)
    collect(storage)
    assert call(application, "GET", f"/v2/a/blobs/{digest}").status == 200


def test_who_was_told_that_a_needed_blob_is_there_can_name_it_though_its_manifest_goes(storage):
    digest = push(storage)
    manifest = put(storage, digest, tags=["v1"])
    age(storage)
    assert storage.blob("a", digest) == 50
    storage.metadata.delete_manifest("a", manifest)
    collect(storage)
    put(storage, digest, tags=["v2"])
    assert sound(storage)


def test_a_deleted_manifest_can_be_pushed_again_at_any_time(storage):
    digest = push(storage)
    raw = b"{}"
    entry = ManifestRow(digest=Digest.of(raw), media_type="application/json", size=2, children=(digest,))
    for wait in (0, 0.5 * GRACE, 2 * GRACE):
        storage.put_manifest("a", entry, io.BytesIO(raw), ["v1"], strict=True)
        storage.metadata.delete_manifest("a", entry.digest)
        age(storage, wait)
        collect(storage)
        if storage.blob("a", digest) is None:
            assert wait == 2 * GRACE
            digest_again = push(storage, b"something else")
            entry = ManifestRow(digest=entry.digest, media_type="application/json", size=2, children=(digest_again,))
    storage.put_manifest("a", entry, io.BytesIO(raw), ["v1"], strict=True)
    assert sound(storage)


def test_a_blob_that_is_needed_since_it_was_found_stays(storage, monkeypatch):
    digest = push(storage)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, "drop_link", before=once(lambda: put(storage, digest, tags=["v1"])))
        assert collect(storage).blobs == ()
    assert sound(storage)
    assert storage.blob("a", digest) == 50


@pytest.mark.parametrize("claimed", ["claim", "link"])
def test_content_that_is_claimed_since_it_was_found_stays(storage, monkeypatch, claimed):
    digest = push(storage)
    storage.metadata.unlink("a", digest)
    age(storage)

    def claim():
        if claimed == "claim":
            storage.metadata.claim(digest)
        else:
            storage.metadata.link("b", digest, 50)

    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, "drop", before=once(claim))
        assert collect(storage).content == ()
    assert kept(storage) == {digest}


def test_two_collectors_at_once_delete_each_thing_once(storage, monkeypatch):
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
            return collect(storage)

        with ThreadPoolExecutor(2) as pool:
            swept = list(pool.map(sweep, range(2)))
    assert sorted(deleted) == sorted(digests)
    assert sorted(row[0] for one in swept for row in one.content) == sorted(digests)
    assert sorted(row[1] for one in swept for row in one.blobs) == sorted(digests)
    assert storage.blob("a", stays) == 50


def test_two_collectors_in_step_delete_each_thing_once(storage, monkeypatch):
    digest = push(storage)
    age(storage)
    with monkeypatch.context() as patch:
        hook(patch, storage.metadata, "drop_link", before=once(lambda: inner.append(collect(storage))))
        inner = []
        outer = collect(storage)
    assert (len(inner[0].content), len(outer.content), len(outer.blobs)) == (1, 0, 0)
    assert kept(storage) == set()
    assert storage.blob("a", digest) is None


def test_a_collector_of_another_process_sees_the_same(files, tmp_path):
    digest, other = push(files), push(files)
    put(files, digest, tags=["v1"])
    age(files)
    second = file_storage(tmp_path / "store", durable=False)
    try:
        assert [row[0] for row in collect(second).content] == [other]
        assert sound(second)
    finally:
        second.close()
    assert files.blob("a", digest) == 50


def test_pushes_and_deletions_by_many_threads_lose_nothing_to_merciless_collectors(files):
    """Each thread pushes and deletes the same few things; whatever is acknowledged and not deleted is there."""
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
            except (UnknownUpload, KeyError):
                continue  # not acknowledged
            found = files.metadata.manifest(name, "v1")
            if found is None or found.digest != manifest or files.blobs.stat(manifest) != found.size:
                failures.append(("manifest", found))
            if files.blob(name, blobs[n]) != 20_000:
                failures.append(("blob", files.blobs.stat(blobs[n])))
            files.metadata.delete_manifest(name, manifest)
            if turns % 2:
                files.metadata.unlink(name, blobs[n], force=True)
        return turns

    def sweep(_):
        while time.monotonic() < end:
            merciless(files)

    with ThreadPoolExecutor(8) as pool:
        sweepers = [pool.submit(sweep, None) for _ in range(2)]
        turns = list(pool.map(work, range(6)))
        for each in sweepers:
            each.result()
    assert failures == []
    assert all(turns)
    assert sound(files)


# Looking whether all is well


def test_verify_finds_what_is_wrong(files, tmp_path):
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
    report = verify(files)
    assert not report.ok
    assert {(each.digest, each.what, each.expected, each.found, each.repositories) for each in report.wrong} == {
        (short, "size", 50, 5, ("a",)),
        (rotten, "digest", 50, 50, ("a",)),
        (gone, "missing", 50, None, ("a",)),
        (stray, "digest", None, 13, ()),
    }
    assert report.checked == 5
    assert "wrong=4" in repr(report)
    assert rotten.partition(":")[2][:12] in report._repr_html_()
    assert files.metadata.manifest("a", manifest)


def test_what_is_wrong_is_healed_by_pushing_it_again(files, tmp_path):
    contents = [os.urandom(50) for _ in range(3)]
    digests = [push(files, content) for content in contents]
    put(files, *digests, tags=["v1"])
    folder = tmp_path / "store" / "blobs" / "sha256"
    for digest, wrong in zip(digests, (b"", os.urandom(50), os.urandom(51)), strict=True):
        (folder / digest.encoded).chmod(0o644)
        (folder / digest.encoded).write_bytes(wrong)
    # Of one a client is told that it is there, until somebody looks inside
    assert [files.blob("a", digest) for digest in digests] == [None, 50, None]
    assert len(verify(files, discard=True).wrong) == 3
    assert [files.blob("a", digest) for digest in digests] == [None, None, None]
    assert [each.what for each in verify(files).wrong] == ["missing"] * 3
    for content in contents:
        push(files, content, "b")
    assert verify(files).ok
    assert [files.blob("a", digest) for digest in digests] == [50, 50, 50]


def test_what_is_pushed_again_while_it_is_found_wrong_is_not_discarded(files, tmp_path, monkeypatch):
    content = os.urandom(50)
    digest = push(files, content)
    path = tmp_path / "store" / "blobs" / "sha256" / digest.encoded
    path.chmod(0o644)
    path.write_bytes(os.urandom(50))
    with monkeypatch.context() as patch:
        hook(patch, files.metadata, "alone", before=once(lambda: push(files, content)))
        verify(files, discard=True)
    assert verify(files).ok


def test_a_blob_that_can_not_be_read_is_wrong(files, monkeypatch):
    digest = push(files)

    class Broken(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(type(files.blobs), "open", lambda self, digest: Broken())
        assert [(each.digest, each.what) for each in verify(files).wrong] == [(digest, "digest")]


def test_what_is_deleted_while_it_is_verified_is_not_missing(files, monkeypatch):
    digest = push(files)

    def delete():
        files.metadata.unlink("a", digest)
        merciless(files)

    with monkeypatch.context() as patch:
        hook(patch, files.blobs, "open", before=once(delete))
        with pytest.raises(KeyError):
            files.blobs.open(digest)
    push(files)
    with monkeypatch.context() as patch:
        hook(patch, files.blobs, "stat", before=once(lambda: None))
        assert verify(files).ok


def test_an_empty_registry_is_sound(storage):
    report = verify(storage)
    assert (report.ok, report.checked, report.size) == (True, 0, 0)
    assert repr(report) == "Verification(checked=0, size=0 B, wrong=0)"
