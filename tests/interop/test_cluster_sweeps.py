"""Sweeps of a registry in PostgreSQL delete exactly what nothing references."""

import io
import logging
import os
import threading

import psycopg
import pytest
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.digests import encode_digest
from ocikit.server.storage.cluster.garbage import delete_garbage
from ocikit.server.storage.cluster.leases import LeaseLost, lease
from ocikit.server.storage.cluster.objects import new_key
from ocikit.server.storage.cluster.strays import strays
from ocikit.server.storage.cluster.sweep import collect, run_due_sweeps, run_sweeps, sweep
from ocikit.server.storage.cluster.verify import verify_content

from tests.support.cluster_rows import HOUR


@pytest.fixture
def other(rows):
    """A connection of a request in progress."""
    with psycopg.connect(rows.url) as connection:
        yield connection
        connection.rollback()


def test_old_blob_without_manifest_is_deleted_with_its_object(rows):
    digest = rows.push()
    rows.age()
    assert rows.review() == ([digest], [digest])
    assert rows.all("SELECT * FROM review") == [] == rows.all("SELECT * FROM content")
    assert delete_garbage(rows.database, rows.objects) == 1
    assert rows.keys() == [] == rows.all("SELECT * FROM garbage")


def test_recent_blob_stays_and_is_reviewed_when_it_is_due(rows):
    rows.push()
    assert rows.review() == ([], [])
    assert rows.one("SELECT review.after - blobs.touched = interval '1 hour' FROM review, blobs")


def test_blob_of_a_manifest_stays_and_leaves_the_queue(rows):
    rows.manifest(rows.push())
    rows.age()
    assert rows.review() == ([], [])
    assert rows.all("SELECT * FROM review") == []


def test_blob_of_another_repository_keeps_the_content(rows):
    data = os.urandom(9)
    digest = rows.push("a", data)
    rows.push("b", data)
    rows.manifest(digest, repository="b")
    rows.age()
    assert rows.review() == ([digest], [])
    assert rows.all("SELECT * FROM garbage") == []
    assert rows.all("SELECT * FROM review") == []


def test_deleted_manifest_loses_its_content(rows):
    digest = rows.manifest()
    rows.age()
    rows.delete_manifest(digest)
    assert rows.review() == ([], [digest])


def test_kept_objects_are_deleted_later(rows):
    digest = rows.push()
    rows.age()
    assert rows.review(keep=HOUR) == ([digest], [digest])
    assert delete_garbage(rows.database, rows.objects) == 0
    assert len(rows.keys()) == 1
    rows.age()
    assert delete_garbage(rows.database, rows.objects) == 1
    assert rows.keys() == []


def test_removed_blob_frees_the_quota(rows):
    rows.push(data=b"1234567")
    rows.change("UPDATE repositories SET used = 10")
    rows.age()
    rows.review()
    assert rows.one("SELECT used FROM repositories") == 3


def test_thousands_of_blobs_are_reviewed_in_batches(rows):
    number = rows.repository("a")
    rows.change(
        "WITH d AS (SELECT decode('01' || lpad(to_hex(i), 64, '0'), 'hex') AS digest FROM generate_series(1, 1050) i),"
        " c AS (INSERT INTO content (digest, size, key, touched) SELECT digest, 1, digest::text, '-infinity' FROM d),"
        " b AS (INSERT INTO blobs SELECT %(r)s, digest, '-infinity' FROM d)"
        " INSERT INTO review SELECT 'b', %(r)s, digest, '-infinity' FROM d",
        r=number,
    )
    blobs, content = rows.review()
    assert len(blobs) == len(content) == len(set(content)) == 1050
    assert rows.one("SELECT count(*) FROM garbage") == 1050


def test_review_skips_a_blob_that_a_push_of_its_manifest_has_locked(rows, other):
    digest = rows.push()
    rows.age()
    other.execute("SELECT 1 FROM blobs FOR KEY SHARE")
    assert rows.review() == ([], [])
    other.rollback()
    assert rows.all("SELECT kind, after > now() FROM review") == [("b", True)]
    rows.age()
    assert rows.review() == ([digest], [digest])


def test_review_skips_a_blob_of_a_repository_whose_quota_is_counted(rows, other):
    rows.push()
    rows.age()
    other.execute("SELECT 1 FROM repositories FOR UPDATE")
    assert rows.review() == ([], [])


def test_push_of_a_manifest_waits_and_finds_no_blob(rows, other):
    """A collector that has locked the row first makes the push look again."""
    rows.push()
    rows.age()
    seen = []
    with psycopg.connect(rows.url) as collector:
        collector.execute("SELECT 1 FROM blobs FOR UPDATE")
        push = threading.Thread(
            target=lambda: seen.append(other.execute("SELECT 1 FROM blobs FOR KEY SHARE").fetchall()), daemon=True
        )
        push.start()
        push.join(0.2)
        assert push.is_alive()
        collector.execute("DELETE FROM blobs")
    push.join(10)
    assert seen == [[]]


def test_review_skips_content_that_a_mount_has_locked(rows, other):
    digest = rows.push()
    rows.change("DELETE FROM blobs")
    rows.queue("c", digest)
    rows.age()
    other.execute("SELECT 1 FROM content FOR KEY SHARE")
    assert rows.review() == ([], [])


def test_commit_never_uses_a_doomed_key(rows, other):
    """The sweep dooms keys and stops, the late commit of the upload finds its intent doomed."""
    key = rows.put(b"late")
    rows.change("INSERT INTO garbage (key, after) VALUES (%(k)s, now() - interval '1 s')", k=key)

    class Away(type(rows.objects)):
        def delete(self, keys):
            raise Unavailable("the object store does not answer")

    away = object.__new__(Away)
    with pytest.raises(Unavailable):
        delete_garbage(rows.database, away)
    assert other.execute("DELETE FROM garbage WHERE key = %s AND NOT doomed RETURNING key", [key]).fetchall() == []
    other.rollback()
    rows.age()
    assert delete_garbage(rows.database, rows.objects) == 1
    assert rows.keys() == []


def test_object_that_cannot_be_deleted_is_tried_later(rows):
    keys = [rows.put(b"1"), rows.put(b"2")]
    for key in keys:
        rows.change("INSERT INTO garbage (key, after) VALUES (%(k)s, now() - interval '1 s')", k=key)

    class Failing(type(rows.objects)):
        def delete(self, keys):
            return {key: "AccessDenied" for key in keys if key == min(keys)}

    failing = object.__new__(Failing)
    assert delete_garbage(rows.database, failing) == 1
    found = rows.all("SELECT key, tries, error, doomed, after > now() + interval '50 s' FROM garbage")
    assert found == [(min(keys), 1, "AccessDenied", True, True)]


def test_multipart_upload_is_aborted_before_its_key_goes(rows):
    key = new_key()
    multipart = rows.objects.begin_parts(key)
    etag = rows.objects.put_part(key, multipart, 1, io.BytesIO(b"part"), 4)
    rows.change("INSERT INTO garbage (key, multipart, after) VALUES (%(k)s, %(m)s, '-infinity')", k=key, m=multipart)
    assert delete_garbage(rows.database, rows.objects) == 1
    with pytest.raises(KeyError):
        rows.objects.complete_parts(key, multipart, [etag])


def test_lease_is_held_by_one_process(rows):
    with lease(rows.database, "sweep") as first, lease(rows.database, "sweep") as second:
        assert first is not None
        assert second is None
    with lease(rows.database, "sweep") as third:
        assert third is not None


def test_work_that_was_done_is_not_due_again(rows):
    with lease(rows.database, "sweep", every=HOUR) as first:
        assert first is not None
    with lease(rows.database, "sweep", every=HOUR) as second:
        assert second is None
    with lease(rows.database, "sweep", every=0) as third:
        assert third is not None


def test_failed_work_is_due_at_once(rows):
    def fail():
        with lease(rows.database, "sweep", every=HOUR):
            raise ValueError

    with pytest.raises(ValueError, match="^$"):
        fail()
    with lease(rows.database, "sweep", every=HOUR) as again:
        assert again is not None


def test_lease_of_a_stopped_process_ends(rows, monkeypatch):
    monkeypatch.setattr("ocikit.server.storage.cluster.leases._RENEW", 0)
    with lease(rows.database, "sweep") as stopped:
        rows.change("UPDATE leases SET until = now() - interval '1 s'")
        with lease(rows.database, "sweep") as taken:
            assert taken is not None
            with pytest.raises(LeaseLost):
                stopped.renew()
        with pytest.raises(LeaseLost):
            stopped.renew()


def garbage(rows):
    """Add an object that a sweep deletes."""
    rows.change("INSERT INTO garbage (key, after) VALUES (%(k)s, now() - interval '1 s')", k=rows.put(b"old"))


def test_sweep_reports_what_it_deleted(rows):
    digest = rows.push("team/app", b"12345")
    rows.uploads.create("a")
    rows.age()
    garbage(rows)
    rows.change("INSERT INTO failures VALUES ('192.0.2.1', 'ada', '-infinity')")
    result = sweep(rows, grace=HOUR, expiry=-1)
    assert [(blob.digest, blob.size, blob.repository) for blob in result.unlinked] == [(digest, 5, "team/app")]
    assert [(blob.digest, blob.size) for blob in result.blobs] == [(digest, 5)]
    assert result.uploads == 1
    assert rows.keys() == [] == rows.all("SELECT * FROM failures")


def test_collection_finds_what_the_queue_has_lost(rows):
    """It also deletes what a shorter grace period makes due."""
    lost, waiting = rows.push(), rows.push()
    kept = rows.manifest(rows.push())
    rows.age()
    rows.change("DELETE FROM review WHERE digest = %(d)s", d=encode_digest(lost))
    rows.change("UPDATE review SET after = now() + interval '1 hour'")
    assert sweep(rows, grace=HOUR).blobs == ()
    young = rows.push()
    assert set(collect(rows, grace=HOUR).digests) == {lost, waiting}
    assert rows.all("SELECT digest FROM blobs WHERE digest = %(d)s", d=encode_digest(young))
    rows.delete_manifest(kept)
    rows.change("DELETE FROM review")
    assert len(collect(rows, grace=0).digests) == 3


def test_sweep_of_one_machine_is_not_due_at_another(rows):
    garbage(rows)
    run_due_sweeps(rows, grace=HOUR, every=HOUR)
    assert rows.keys() == []
    garbage(rows)
    run_due_sweeps(rows, grace=HOUR, every=HOUR)
    assert len(rows.keys()) == 1


def test_copies_are_written_where_collection_is_disabled(rows):
    rows.manifest(tags=["v1"])
    garbage(rows)
    run_due_sweeps(rows, grace=HOUR, every=0)
    assert len(rows.keys()) == 1
    assert len(list(rows.objects.iterate("t/"))) == 1


def test_sweep_without_an_object_store_is_logged_in_one_line(rows, monkeypatch, caplog):
    def fail(_):
        raise Unavailable("the object store does not answer")

    garbage(rows)
    with monkeypatch.context() as patch:
        patch.setattr(rows.objects, "delete", fail)
        run_due_sweeps(rows, grace=HOUR, every=HOUR)
    assert [(record.levelno, record.exc_info) for record in caplog.records] == [(logging.WARNING, None)]
    rows.age()
    run_due_sweeps(rows, grace=HOUR, every=HOUR)
    assert rows.keys() == []


def test_sweeps_end_when_the_worker_does(rows):
    garbage(rows)
    stop = threading.Event()
    thread = threading.Thread(
        target=run_sweeps, args=(rows,), kwargs={"grace": HOUR, "every": 0.05, "stop": stop}, daemon=True
    )
    thread.start()
    while rows.keys():
        assert thread.is_alive()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()


def test_stray_objects_become_garbage(rows, tmp_path):
    rows.push()
    stray = rows.put(b"stray")
    intent = rows.put(b"intent")
    rows.change("INSERT INTO garbage (key, after) VALUES (%(k)s, now() + interval '1 day')", k=intent)
    piece, object_key = rows.put(b"piece"), rows.put(b"parts")
    rows.change(
        "INSERT INTO uploads (id, repository, owner, holder, algorithm, key, pieces)"
        " VALUES ('u', 'a', '', '', 'sha256', %(k)s, jsonb_build_array(jsonb_build_array(%(p)s::text, 5)))",
        k=object_key,
        p=piece,
    )
    options = {"state": tmp_path, "keep_deleted": 0.0}
    assert strays(rows.database, rows.objects, **options).count == 0  # too young
    found = strays(rows.database, rows.objects, age=-HOUR, dry_run=True, **options)
    assert (found.count, found.size) == (1, 5)
    assert strays(rows.database, rows.objects, age=-HOUR, **options) == found
    assert delete_garbage(rows.database, rows.objects) == 1
    assert stray not in rows.keys()
    assert len(rows.keys()) == 4
    assert strays(rows.database, rows.objects, age=-HOUR, **options).count == 0


def verify(rows, tmp_path, **options):
    return verify_content(rows.database, rows.objects, state=tmp_path, keep_deleted=0.0, **options)


@pytest.mark.parametrize("sizes", [False, True])
def test_intact_content_is_verified(rows, tmp_path, sizes):
    rows.manifest(rows.push(data=b"12345"), raw=b"123")
    result = verify(rows, tmp_path, sizes=sizes)
    assert result.ok
    assert (result.checked, result.size) == ((1, 0) if sizes else (2, 8))


@pytest.mark.parametrize("sizes", [False, True])
def test_missing_and_short_objects_are_found(rows, tmp_path, sizes):
    missing, short = rows.push(), rows.push("team/b")
    rows.objects.delete([rows.key_of(missing)])
    (rows.folder / rows.key_of(short)).write_bytes(b"short")
    found = {blob.digest: blob for blob in verify(rows, tmp_path, sizes=sizes).corrupt}
    assert found.keys() == {missing, short}
    assert (found[missing].problem, found[missing].actual_size, found[missing].repositories) == (
        "missing",
        None,
        ("a",),
    )
    assert (found[short].problem, found[short].actual_size, found[short].repositories) == ("size", 5, ("team/b",))


def test_damaged_content_is_removed_until_it_is_pushed_again(rows, tmp_path):
    blob = rows.push(data=b"12345")
    manifest = rows.manifest(raw=b"123")
    key = rows.key_of(blob)
    (rows.folder / key).write_bytes(b"54321")
    rows.change("UPDATE content SET inline = '321' WHERE inline IS NOT NULL")
    result = verify(rows, tmp_path, remove=True)
    assert {found.digest: found.problem for found in result.corrupt} == {blob: "digest", manifest: "digest"}
    assert rows.all("SELECT key, inline FROM content") == [(None, None)] * 2
    assert rows.all("SELECT key FROM garbage") == [(key,)]
    assert {found.problem for found in verify(rows, tmp_path).corrupt} == {"missing"}


def test_content_that_was_pushed_again_meanwhile_is_not_removed(rows, tmp_path, monkeypatch):
    blob = rows.push(data=b"12345")
    (rows.folder / rows.key_of(blob)).write_bytes(b"54321")
    new, open_object = rows.put(b"12345"), rows.objects.open

    def open_and_push(key, *args):
        rows.change("UPDATE content SET key = %(k)s", k=new)
        return open_object(key, *args)

    monkeypatch.setattr(rows.objects, "open", open_and_push)
    assert verify(rows, tmp_path, remove=True).ok
    assert rows.key_of(blob) == new
