"""A registry in PostgreSQL and an object store: its storage in this process, and pushes and pulls of clients."""

import http.client
import io
import os
import sys

import ocikit
import pytest
from ocikit.server import Application
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.storage import cluster_storage
from ocikit.spec.digest import Digest

from tests.support.http import free_port
from tests.support.service import Service
from tests.support.wsgi import INDEX, Registry


@pytest.fixture(params=["s3", "folder"])
def blobs_url(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("objects_url")
    (tmp_path / "objects").mkdir()
    return f"file://{tmp_path}/objects"


@pytest.fixture
def storage(database_url, blobs_url, tmp_path):
    storage = cluster_storage(database_url, blobs_url, state=tmp_path / "state")
    yield storage
    storage.close()


@pytest.fixture
def app(storage):
    return Registry(Application(storage))


def test_blob_is_pushed_and_read_in_ranges(app):
    content = os.urandom(300_000)
    blob = app.blob(content)
    path = f"/v2/team/data/blobs/{blob['digest']}"
    assert app("GET", path).body == content
    assert app("HEAD", path).headers["content-length"] == "300000"
    part = app("GET", path, {"Range": "bytes=1000-1999"})
    assert (part.status, part.body) == (206, content[1000:2000])
    assert app("GET", f"/v2/other/blobs/{blob['digest']}").status == 404


def test_manifest_is_read_by_tag_and_digest(app, storage):
    raw = app.image()
    digest = app.pushed(raw)
    for reference in ("v1", digest):
        found = app("GET", f"/v2/team/data/manifests/{reference}")
        assert (found.status, found.body) == (200, raw)
    # Manifests are rows
    assert len(list(storage.objects.iterate("c/"))) == 1


def test_damaged_manifest_row_counts_as_absent(app, storage, caplog):
    raw = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % INDEX.encode()
    digest = app.pushed(raw, media_type=INDEX)
    storage.database.change("UPDATE content SET inline = 'damaged'::bytea")
    assert app("GET", "/v2/team/data/manifests/v1").status == 404
    assert "damaged" in caplog.text
    storage.blobs.delete(Digest(digest))
    assert app("GET", "/v2/team/data/manifests/v1").status == 404
    assert app.pushed(raw, media_type=INDEX) == digest
    assert app("GET", "/v2/team/data/manifests/v1").body == raw


def test_lost_content_is_pushed_again(app, storage):
    content = b"content"
    digest = app.blob(content)["digest"]
    storage.blobs.delete(Digest(digest))
    for method in ("GET", "HEAD"):
        assert app(method, f"/v2/team/data/blobs/{digest}").status == 404
    assert app("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=team/data").status == 202
    app.blob(content)
    assert app("GET", f"/v2/team/data/blobs/{digest}").body == content


def test_mount_copies_no_byte(app, storage):
    digest = app.blob(b"shared")["digest"]
    assert app("POST", f"/v2/other/blobs/uploads/?mount={digest}&from=team/data").status == 201
    assert app("GET", f"/v2/other/blobs/{digest}").body == b"shared"
    assert len(list(storage.objects.iterate("c/"))) == 1


def test_same_blob_in_two_repositories_is_one_object(app, storage):
    for name in ("a", "b"):
        app.blob(b"same", name)
    assert len(storage.database.rows("SELECT key FROM content")) == 1
    (surplus,) = storage.database.rows("SELECT key FROM garbage")
    assert len(list(storage.objects.iterate("c/"))) == 2
    assert storage.objects.delete([surplus.key]) == {}
    for name in ("a", "b"):
        assert app("GET", f"/v2/{name}/blobs/{Digest.of(b'same')}").body == b"same"


def test_check_of_unreachable_database_is_unavailable(database_url, blobs_url, tmp_path):
    storage = cluster_storage("postgresql://127.0.0.1:1/registry", blobs_url, state=tmp_path / "other", check=False)
    with pytest.raises(Unavailable):
        storage.check()
    with pytest.raises(Unavailable):
        storage.find_blob("a", Digest.of(b""))
    storage.close()


def test_reading_of_a_manifest_needs_no_object(app, storage):
    raw = app.image()
    row = storage.metadata.manifest("team/data", app.pushed(raw))
    assert storage.open_manifest(row).read() == raw
    assert isinstance(storage.open_manifest(row), io.BytesIO)


def test_ocikit_pushes_and_pulls_files(database_url, blobs_url, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--factory", "--port", str(port)]
    command += ["tests.support.cluster_app:registry"]
    environ = {"METADATA": database_url, "BLOBS": blobs_url, "STATE": str(tmp_path / "state")}
    log = tmp_path / "service"
    log.mkdir()

    def is_ready():
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/v2/")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    (tmp_path / "data").mkdir()
    files = {"small.csv": os.urandom(100), "part.bin": os.urandom(3 << 20), "large.bin": os.urandom(40 << 20)}
    for name, content in files.items():
        (tmp_path / "data" / name).write_bytes(content)
    service = Service("granian", command, log, is_ready, env=environ)
    service.start()
    try:
        reference = f"127.0.0.1:{port}/lab/data:v1"
        ocikit.push(reference, *(tmp_path / "data" / name for name in files))
        ocikit.pull(reference, tmp_path / "out")
    finally:
        service.stop()
    for name, content in files.items():
        assert (tmp_path / "out" / name).read_bytes() == content
