"""A lost database is restored from the copies of manifests and tags in the object store."""

import io
import os

import pytest
from ocikit.errors import InvalidArgument
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.copies import manifest_key, queue_copies, tag_key, write_copies
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.digests import encode_digest
from ocikit.server.storage.cluster.rebuild import rebuild

from tests.support.cluster_rows import HOUR


@pytest.fixture
def new_url(postgres_server):
    """The URL of another migrated database."""
    with postgres_server.database(migrated=True) as url:
        yield url


def test_copies_follow_manifests_and_tags(rows):
    manifest = rows.manifest(rows.push(), repository="team/app", tags=["v1", "latest"], raw=b"{}")
    assert write_copies(rows.database, rows.objects) == 3
    with rows.objects.open(tag_key("team/app", "v1")) as file:
        assert file.read().decode() == manifest
    with rows.objects.open(manifest_key("team/app", manifest)) as file:
        assert file.read().endswith(b"\n{}")
    assert write_copies(rows.database, rows.objects) == 0
    number = rows.repository("team/app")
    rows.change("DELETE FROM tags WHERE name = 'v1'")
    rows.copy(number, "v1")
    write_copies(rows.database, rows.objects)
    assert [key for key, _, _ in rows.objects.iterate("t/")] == [tag_key("team/app", "latest")]
    rows.delete_manifest(manifest, "team/app")
    rows.copy(number, "latest")
    write_copies(rows.database, rows.objects)
    assert [*rows.objects.iterate("t/"), *rows.objects.iterate("m/")] == []


def test_repository_and_tag_of_one_name_have_copies(rows):
    """A key of one is not a folder of the other."""
    rows.manifest(repository="a", tags=["b"])
    rows.manifest(repository="a/b", tags=["c"])
    rows.manifest(repository="a/b/c", tags=["c"])
    assert write_copies(rows.database, rows.objects) == 6


def test_change_during_a_copy_is_copied_again(rows, monkeypatch):
    rows.manifest(tags=["v1"])
    number, put = rows.repository("a"), rows.objects.put

    def put_and_change(key, *args, **kwargs):
        put(key, *args, **kwargs)
        rows.change("UPDATE copies SET after = clock_timestamp() + interval '1 hour' WHERE reference = 'v1'")

    monkeypatch.setattr(rows.objects, "put", put_and_change)
    write_copies(rows.database, rows.objects)
    assert rows.all("SELECT repository, reference FROM copies") == [(number, "v1")]


def test_copy_of_a_damaged_manifest_stays(rows):
    manifest = rows.manifest(raw=b"{}")
    write_copies(rows.database, rows.objects)
    rows.change("UPDATE content SET inline = NULL")
    queue_copies(rows.database, rows.objects)
    write_copies(rows.database, rows.objects)
    with rows.objects.open(manifest_key("a", manifest)) as file:
        assert file.read().endswith(b"\n{}")


def test_copies_of_a_restored_database_are_written_again(rows, new_url):
    """Copies of what it does not have are deleted, also those of repositories that it does not have."""
    kept = rows.manifest(tags=["v1"])
    lost = rows.manifest(tags=["later"])
    rows.manifest(repository="later", tags=["v1"])
    write_copies(rows.database, rows.objects)
    rows.objects.delete([manifest_key("a", kept), tag_key("a", "v1")])
    strange = ["m/a@/sha256:00", "m/a@/x:00", "m/notes", "t/notes", "t/a@/x:y"]
    for key in strange:
        rows.objects.put(key, io.BytesIO(b"?"), 1)
    rows.change("DELETE FROM manifests WHERE digest <> %(d)s", d=encode_digest(kept))
    rows.change("DELETE FROM repositories WHERE name = 'later'")
    queue_copies(rows.database, rows.objects)
    write_copies(rows.database, rows.objects)
    keys = [key for prefix in ("m/", "t/") for key, _, _ in rows.objects.iterate(prefix)]
    assert sorted(keys) == sorted([manifest_key("a", kept), tag_key("a", "v1"), *strange])
    assert lost not in str(keys)
    assert set(rebuild(new_url, rows.objects_url, keep_deleted=HOUR).damaged) == set(strange)


_TABLES = {
    "repositories": "name",
    "content": "digest, size, key, inline",
    "manifests": "name, digest, media_type, subject, artifact_type, referrer",
    "children": "name, manifest, child",
    "blobs": "name, digest",
    "tags": "repositories.name, tags.name AS tag, digest",
}


def dump(database):
    """Return all rows that a rebuild restores."""
    join = "JOIN repositories ON repositories.id = repository"
    return {
        table: sorted(
            map(
                repr,
                database.rows(f"SELECT {columns} FROM {table} {'' if table in {'repositories', 'content'} else join}"),
            )
        )
        for table, columns in _TABLES.items()
    }


def restored(rows, new_url):
    result = rebuild(new_url, rows.objects_url, keep_deleted=HOUR)
    database = Database(new_url)
    try:
        return result, dump(database)
    finally:
        database.close()


def test_lost_database_is_rebuilt_from_copies(rows, new_url):
    shared = os.urandom(30)
    for name in ("a", "team/b", "team/b/c"):
        blob = rows.push(name, shared)
        inner = rows.manifest(blob, rows.push(name), repository=name)
        index = rows.manifest(inner, repository=name, tags=["v1", "b"])
        rows.change(
            "UPDATE manifests SET subject = %(s)s, artifact_type = 'x/y', referrer = '{\"é\": 1}' WHERE digest = %(d)s",
            s=encode_digest(index),
            d=encode_digest(rows.manifest(repository=name)),
        )
    write_copies(rows.database, rows.objects)
    result, found = restored(rows, new_url)
    assert found == dump(rows.database)
    assert (result.repositories, result.manifests, result.tags, result.blobs) == (3, 9, 6, 6)
    assert (result.damaged, result.missing) == ((), ())
    assert result.unused == 2  # of the two pushes of shared content that were not needed


def test_rebuild_finds_content_whose_copy_names_another_key(rows, new_url):
    """Content that was repaired has another key than its copy."""
    blobs = [rows.push(data=b"12345"), rows.push(data=b"123456")]
    rows.manifest(*blobs, tags=["v1"])
    write_copies(rows.database, rows.objects)
    rows.objects.delete([rows.key_of(blob) for blob in blobs])
    keys = [rows.put(b"12345"), rows.put(b"123456", digest=blobs[1])]
    lie = rows.put(b"lies", digest=blobs[0])
    for blob, key in zip(blobs, keys, strict=True):
        rows.change("UPDATE content SET key = %(k)s WHERE digest = %(d)s", k=key, d=encode_digest(blob))
    result, found = restored(rows, new_url)
    assert found == dump(rows.database)
    assert (result.missing, result.unused) == ((), 1)
    assert lie not in str(found)


def test_rebuild_names_what_is_missing_or_damaged(rows, new_url):
    blob = rows.push()
    rows.manifest(blob, tags=["v1"])
    damaged = rows.manifest(repository="b", tags=["v1"])
    write_copies(rows.database, rows.objects)
    rows.objects.delete([rows.key_of(blob), manifest_key("b", damaged)])
    rows.objects.put(manifest_key("b", damaged), io.BytesIO(b"{}\n"), 3)
    result, found = restored(rows, new_url)
    assert result.missing == (blob,)
    assert result.damaged == (manifest_key("b", damaged),)
    assert len(found["tags"]) == 1


def test_rebuild_refuses_a_database_that_is_in_use(rows):
    rows.repository("a")
    with pytest.raises(InvalidArgument, match="has repositories"):
        rebuild(rows.url, rows.objects_url, keep_deleted=HOUR)


def test_interrupted_rebuild_goes_on(rows, new_url, monkeypatch):
    rows.manifest(rows.push(), tags=["v1"])
    write_copies(rows.database, rows.objects)

    def fail(*_, **__):
        raise Unavailable("the object store does not answer")

    with monkeypatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr("ocikit.server.storage.cluster.rebuild.list_content", fail)
        rebuild(new_url, rows.objects_url, keep_deleted=HOUR)
    _, found = restored(rows, new_url)
    assert found == dump(rows.database)
