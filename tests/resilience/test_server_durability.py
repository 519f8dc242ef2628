"""Durability of acknowledged writes: order of syncs and renames, full disks, and quotas."""

import contextlib
import io
import json
import os
import resource
import subprocess
from pathlib import Path

import pytest
import sqlalchemy as sa
from ocikit.server.http.app import Application
from ocikit.server.http.request import RequestBody
from ocikit.server.http.settings import Limits, Settings
from ocikit.server.storage.files import FileBlobs, FileUploads, file_storage
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest

from tests.support.wsgi import call

MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture(params=[True, False], ids=["durable", "unsynced"])
def durable(request):
    return request.param


class Recorder:
    """Records disk operations in order: ("fsync", path), ("rename", from, to), ("commit", synced)."""

    def __init__(self, monkeypatch, root):
        self.root, self.operations = Path(root), []
        fsync, replace = os.fsync, os.replace

        def recorded_fsync(fd):
            fsync(fd)
            self.operations.append(("fsync", self.name(os.readlink(f"/proc/self/fd/{fd}"))))

        def recorded_replace(source, target, **folders):
            replace(source, target, **folders)
            self.operations.append(("rename", self.name(source), self.name(target)))

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(os, "replace", recorded_replace)

    def watch(self, engine):
        @sa.event.listens_for(engine, "commit")
        def commit(connection):
            level = connection.exec_driver_sql("PRAGMA synchronous").scalar()
            self.operations.append(("commit", level == 2))

    def name(self, path):
        """Return a path relative to the root, without random parts."""
        parts = Path(path).relative_to(self.root).parts
        if parts[:1] == ("uploads",):
            return "session"
        if parts and parts[-1].startswith("."):
            return "temporary"
        return "/".join(parts)

    def during(self, act):
        self.operations.clear()
        result = act()
        return result, list(self.operations)


@pytest.fixture
def recording(monkeypatch, tmp_path, durable):
    """Return a recorder and a registry whose folders exist."""
    root = tmp_path.resolve() / "store"
    root.mkdir()
    recorder = Recorder(monkeypatch, root)
    storage = file_storage(root, durable=durable)
    recorder.watch(storage.metadata.engine)
    application = Application(storage)
    push(application, b"first")
    put(application, b"first", "first")
    yield recorder, application
    storage.close()


def push(application, content, repository="a"):
    digest = Digest.of(content)
    response = call(application, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", {}, content)
    return response


def manifest(content):
    part = {"mediaType": "application/x", "digest": Digest.of(content), "size": len(content)}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": part, "layers": []}).encode()


def put(application, content, tag, raw=None):
    raw = raw or manifest(content)
    return call(application, "PUT", f"/v2/a/manifests/{tag}", {"Content-Type": MANIFEST}, raw)


def test_blob_is_synced_before_it_is_acknowledged(recording, durable):
    recorder, application = recording
    name = f"blobs/sha256/{Digest.of(b'content').encoded}"
    response, operations = recorder.during(lambda: push(application, b"content"))
    assert response.status == 201
    assert operations == (
        [("fsync", "session"), ("rename", "session", name), ("fsync", "blobs/sha256"), ("commit", True)]
        if durable
        else [("rename", "session", name), ("commit", False)]
    )


def test_manifest_is_synced_before_it_is_acknowledged(recording, durable):
    recorder, application = recording
    push(application, b"content")
    name = f"blobs/sha256/{Digest.of(manifest(b'content')).encoded}"
    response, operations = recorder.during(lambda: put(application, b"content", "v1"))
    assert response.status == 201
    assert operations == (
        [("fsync", "temporary"), ("rename", "temporary", name), ("fsync", "blobs/sha256"), ("commit", True)]
        if durable
        else [("rename", "temporary", name), ("commit", False)]
    )


def test_tag_mount_and_delete_are_one_transaction_each(recording, durable):
    recorder, application = recording
    blob = Digest.of(b"first")
    for act, status in (
        (lambda: put(application, b"first", "second"), 201),
        (lambda: call(application, "POST", f"/v2/b/blobs/uploads/?mount={blob}&from=a"), 201),
        (lambda: call(application, "DELETE", f"/v2/b/blobs/{blob}"), 202),
        (lambda: call(application, "DELETE", "/v2/a/manifests/second"), 202),
        (lambda: call(application, "DELETE", f"/v2/a/manifests/{Digest.of(manifest(b'first'))}"), 202),
    ):
        response, operations = recorder.during(act)
        assert (response.status, operations) == (status, [("commit", durable)])


def test_reads_write_nothing(recording):
    recorder, application = recording
    blob = Digest.of(b"first")
    for path in (f"blobs/{blob}", "manifests/first", "tags/list", f"referrers/{blob}"):
        for method in ("HEAD", "GET"):
            response, operations = recorder.during(
                lambda method=method, path=path: call(application, method, f"/v2/a/{path}")
            )
            assert (response.status, operations) == (200, [])


def test_access_time_is_written_without_sync(recording):
    recorder, application = recording
    push(application, b"old")
    with application.storage.metadata.engine.begin() as connection:
        connection.execute(sa.text("UPDATE blobs SET touched = touched - 1800"))
    response, operations = recorder.during(lambda: call(application, "HEAD", f"/v2/a/blobs/{Digest.of(b'old')}"))
    assert (response.status, operations) == (200, [("commit", False)])
    response, operations = recorder.during(lambda: call(application, "HEAD", f"/v2/a/blobs/{Digest.of(b'old')}"))
    assert (response.status, operations) == (200, [])


def test_new_folders_are_synced_before_their_content(monkeypatch, tmp_path):
    root = tmp_path.resolve() / "store"
    root.mkdir()
    recorder = Recorder(monkeypatch, root)
    storage = file_storage(root)
    assert recorder.operations == [("fsync", "")]
    recorder.watch(storage.metadata.engine)
    name = f"blobs/sha256/{Digest.of(b'content').encoded}"
    _, operations = recorder.during(lambda: push(Application(storage), b"content"))
    assert operations == [
        ("fsync", "session"),
        ("fsync", ""),
        ("fsync", "blobs"),
        ("rename", "session", name),
        ("fsync", "blobs/sha256"),
        ("commit", True),
    ]
    storage.close()


# Full disks


@pytest.fixture
def application(tmp_path):
    storage = file_storage(tmp_path / "store")
    yield Application(storage)
    storage.close()


@contextlib.contextmanager
def file_size_limit(size):
    """Limit the size of files: the kernel rejects larger writes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def assert_disk_full(response):
    assert response.status == 507
    assert response.code == "UNKNOWN"
    assert "full" in response.errors[0]["message"]


def resume(application, location, content):
    """Resume an upload, and return the stored size at which it continued."""
    response = call(application, "GET", location)
    assert response.status == 204
    size = int(response.headers["range"].partition("-")[2]) + 1
    content_range = f"{size}-{len(content) - 1}"
    response = call(application, "PATCH", location, {"Content-Range": content_range}, content[size:])
    assert response.status == 202
    digest = Digest.of(content)
    assert call(application, "PUT", f"{location}?digest={digest}").status == 201
    assert call(application, "GET", f"/v2/a/blobs/{digest}").body == content
    return size


@pytest.mark.parametrize("ranged", [False, True])
@pytest.mark.parametrize("size", [300_000, 6 << 20])
def test_upload_on_full_disk_resumes_when_space_is_free(application, size, ranged):
    content = os.urandom(size)
    location = call(application, "POST", "/v2/a/blobs/uploads/").headers["location"]
    assert call(application, "PATCH", location, {}, content[:50_000]).status == 202
    headers = {"Content-Range": f"50000-{size - 1}"} if ranged else {}
    with file_size_limit(200_000):
        assert_disk_full(call(application, "PATCH", location, headers, content[50_000:]))
        assert_disk_full(
            call(application, "PUT", f"{location}?digest={Digest.of(content)}", headers, content[50_000:])
            if ranged
            else call(application, "PATCH", location, {}, b"more")
        )
        assert call(application, "HEAD", f"/v2/a/blobs/{Digest.of(content)}").status == 404
    assert list(application.storage.blobs.iterate()) == []
    assert resume(application, location, content) == (50_000 if ranged else 200_000)


def test_monolithic_upload_on_full_disk_leaves_no_blob(application):
    content = os.urandom(300_000)
    with file_size_limit(200_000):
        assert_disk_full(push(application, content))
    assert application.storage.uploads.count() == 0
    assert push(application, content).status == 201


def test_manifest_on_full_disk_is_not_stored(application, tmp_path):
    push(application, b"content")
    raw = manifest(b"content") + b" " * 300_000
    with file_size_limit(200_000):
        assert_disk_full(put(application, b"content", "v1", raw))
    assert call(application, "GET", "/v2/a/manifests/v1").status == 404
    assert not [path for path in (tmp_path / "store" / "blobs").rglob(".*") if path.is_file()]
    assert put(application, b"content", "v1", raw).status == 201


def test_full_database_acknowledges_nothing(application):
    push(application, b"before")
    engine = application.storage.metadata.engine

    def no_room(connection):
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    sa.event.listen(engine, "begin", no_room)
    repository = "a/" + "/".join(["long-name-of-a-repository"] * 8)
    statuses = [push(application, os.urandom(10), f"{repository}-{n}").status for n in range(100)]
    sa.event.remove(engine, "begin", no_room)
    assert set(statuses) == {201, 507}
    first = statuses.index(507)
    assert push(application, b"after", f"{repository}-{first}").status in {201, 507}
    assert verify(application.storage).ok
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1073741823")
    assert push(application, b"after").status == 201


def test_store_recovers_from_full_file_system(tmp_path):
    """Uses a separate file system, if the test may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"mount requires root: {mounted.stderr.decode().strip()}")
    try:
        storage = file_storage(disk / "store")
        application = Application(storage)
        filler, content = disk / "filler", os.urandom(600_000)
        filler.write_bytes(bytes(1 << 20))
        location = call(application, "POST", "/v2/a/blobs/uploads/").headers["location"]
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(4096)):
                if os.statvfs(disk).f_bavail * 4096 < 400_000:
                    break
        assert_disk_full(call(application, "PATCH", location, {}, content))
        assert list(storage.blobs.iterate()) == []
        filler.unlink()
        assert 0 < resume(application, location, content) < 600_000
        assert verify(storage).ok
        storage.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_failed_last_step_keeps_the_upload_session(application, monkeypatch):
    content = os.urandom(1000)
    digest = Digest.of(content)
    location = call(application, "POST", "/v2/a/blobs/uploads/").headers["location"]
    for name in ("fsync", "replace"):

        def fail(*_, **__):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            assert_disk_full(
                call(application, "PUT", f"{location}?digest={digest}", {}, content if name == "fsync" else b"")
            )
        assert call(application, "GET", location).headers["range"] == "0-999"
        assert call(application, "HEAD", f"/v2/a/blobs/{digest}").status == 404
    assert call(application, "PUT", f"{location}?digest={digest}").status == 201
    assert call(application, "GET", f"/v2/a/blobs/{digest}").body == content


def test_blob_from_another_file_system_is_copied(tmp_path, monkeypatch):
    blobs, uploads, replace = FileBlobs(tmp_path), FileUploads(tmp_path / "uploads"), os.replace

    def across(source, target, **folders):
        if "uploads" in str(source):
            raise OSError(18, "Invalid cross-device link")
        replace(source, target, **folders)

    monkeypatch.setattr(os, "replace", across)
    body = RequestBody(io.BytesIO(b"content"), length=7)
    uploads.finish(uploads.create("a"), Digest.of(b"content"), body, blobs)
    assert blobs.stat(Digest.of(b"content")) == 7
    assert uploads.count() == 0


# Quotas


def test_full_repository_rejects_blobs(tmp_path):
    storage = file_storage(tmp_path / "store")
    application = Application(storage, settings=Settings(limits=Limits(repository=100)))
    assert push(application, b"x" * 60).status == 201
    response = push(application, b"y" * 41)
    assert (response.status, response.code) in {(413, "DENIED"), (413, "SIZE_INVALID")}
    assert push(application, b"y" * 40).status == 201
    assert push(application, b"z").status == 413
    assert push(application, b"z" * 100, "b").status == 201
    response = call(application, "POST", f"/v2/a/blobs/uploads/?mount={Digest.of(b'z' * 100)}&from=b")
    assert response.status == 413
    assert call(application, "DELETE", f"/v2/a/blobs/{Digest.of(b'y' * 40)}").status == 202
    assert push(application, b"z").status == 201
    assert storage.metadata.used_bytes("a") == 61
    storage.close()


def test_chunked_upload_respects_the_repository_quota(tmp_path):
    storage = file_storage(tmp_path / "store")
    application = Application(storage, settings=Settings(limits=Limits(repository=100)))
    location = call(application, "POST", "/v2/a/blobs/uploads/").headers["location"]
    assert call(application, "PATCH", location, {}, b"x" * 60).status == 202
    assert call(application, "PATCH", location, {}, b"x" * 60).status == 413
    assert call(application, "PATCH", location, {}, [b"x" * 60]).status == 413
    # Unfinished uploads count, so that a finished one always fits
    assert push(application, b"y" * 50).status == 413
    assert call(application, "PUT", f"{location}?digest={Digest.of(b'x' * 60)}").status == 201
    assert storage.metadata.used_bytes("a") == 60
    storage.close()


def test_sessions_are_limited_in_total_and_per_user(tmp_path):
    storage = file_storage(tmp_path / "store")
    application = Application(storage, settings=Settings(limits=Limits(sessions=3, sessions_each=2)))
    for name in ("other", "other"):
        storage.uploads.create("a", name)
    begin = lambda: call(application, "POST", "/v2/a/blobs/uploads/")  # noqa: E731
    first = begin()
    assert first.status == 202
    response = begin()
    assert (response.status, response.code) == (429, "TOOMANYREQUESTS")
    assert int(response.headers["retry-after"]) > 0
    assert call(application, "DELETE", first.headers["location"]).status == 204
    assert begin().status == 202
    assert begin().status == 429
    # Idle uploads free their place
    for path in (tmp_path / "store" / "uploads").iterdir():
        os.utime(path, (0, 0))
    assert [begin().status for _ in range(3)] == [202, 202, 429]
    storage.close()
