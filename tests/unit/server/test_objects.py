"""Object stores: the contract for a folder and for S3, and faults of the network."""

import io
import os
import secrets
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from ocikit.errors import InvalidArgument
from ocikit.server.storage.base import Unavailable
from ocikit.server.storage.cluster.objects import new_key, open_objects
from ocikit.server.storage.cluster.s3 import s3_place
from ocikit.server.testing import ObjectStoreContract
from ocikit.server.testing.bodies import LARGE

from tests.support.tcp_proxy import TcpProxy

#: Bytes; S3's least.
SMALL_PARTS = 5 << 20


class TestFolderObjects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, tmp_path):
        store = open_objects(tmp_path.as_uri())
        store.part_size = SMALL_PARTS
        return store


class TestS3Objects(ObjectStoreContract):
    @pytest.fixture
    def objects(self, objects_url):
        store = open_objects(objects_url)
        store.part_size = SMALL_PARTS
        yield store
        store.close()


# URLs


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("s3://bucket", {"bucket": "bucket", "path_style": False}),
        ("s3://bucket/", {"bucket": "bucket", "prefix": ""}),
        ("s3://bucket/a/b/", {"bucket": "bucket", "prefix": "a/b"}),
        ("s3://my.bucket", {"path_style": True}),
        ("s3://b?endpoint_url=http://s3.lab:9000/", {"endpoint": "http://s3.lab:9000", "path_style": True}),
        ("s3://b?endpoint_url=https://s3.lab&path_style=0", {"endpoint": "https://s3.lab", "path_style": False}),
        ("s3://b?region=eu-west-1&path_style=true", {"region": "eu-west-1", "path_style": True}),
        ("s3://b?public_url=https://blobs.lab/x", {"public_endpoint": "https://blobs.lab/x", "endpoint": None}),
    ],
)
def test_url_states_the_place_of_objects(url, place):
    found = s3_place(url)
    assert {name: getattr(found, name) for name in place} == place


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3://bucket#x",
        "s3://bucket?region",
        "s3://bucket?unknown=1",
        "s3://bucket?path_style=maybe",
        "s3://bucket?endpoint_url=s3.lab",
        "s3://bucket?endpoint_url=https://s3.lab/?a=b",
        "gs://bucket",
        "/folder",
        "file:folder",
        "file://host/folder",
        "file:///no/such/folder",
    ],
)
def test_invalid_url_is_refused_with_a_hint(url):
    with pytest.raises(InvalidArgument) as error:
        open_objects(url)
    assert error.value.hint


@pytest.mark.parametrize(
    "url",
    [
        "s3://ada:hunter2@bucket",
        "s3://bucket?secret_access_key=hunter2",
        "s3://bucket?session_token=hunter2",
        "s3://bucket?endpoint_url=https://ada:hunter2@s3.lab",
    ],
)
def test_credentials_in_url_are_refused_and_not_shown(url):
    with pytest.raises(InvalidArgument, match="credentials") as error:
        open_objects(url)
    assert "hunter2" not in f"{error.value} {error.value.hint}"


def test_missing_credentials_are_reported(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InvalidArgument, match="no credentials") as error:
        open_objects("s3://bucket?endpoint_url=http://127.0.0.1:9")
    assert "AWS_ACCESS_KEY_ID" in error.value.hint


def test_keys_are_random_and_spread():
    keys = {new_key() for _ in range(10_000)}
    assert len(keys) == 10_000
    assert len({key[:4] for key in keys}) > 900
    assert all(key.startswith(f"c/{key.rpartition('/')[2][:2]}/") for key in keys)


# Faults of a folder


def test_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(InvalidArgument, match="other files"):
        open_objects(tmp_path.as_uri())


def test_folder_that_is_not_mounted_has_no_missing_objects(tmp_path):
    """Objects of a file server that is away must not be taken for deleted ones."""
    objects = open_objects(tmp_path.as_uri())
    key = new_key()
    objects.put(key, io.BytesIO(b"1"), 1)
    away = tmp_path.with_name("away")
    tmp_path.rename(away)
    tmp_path.mkdir()
    asks = [
        objects.check,
        lambda: objects.open(key),
        lambda: objects.size(key),
        lambda: objects.digest(key),
        lambda: objects.delete([key]),
        lambda: objects.put(new_key(), io.BytesIO(b"1"), 1),
        lambda: objects.begin_parts(key),
        lambda: list(objects.iterate("c/")),
    ]
    for ask in asks:
        with pytest.raises(Unavailable):
            ask()
    tmp_path.rmdir()
    away.rename(tmp_path)
    assert objects.size(key) == 1


def test_stopped_write_of_a_part_changes_no_object(tmp_path):
    """A process is stopped in the middle of a part. Another one goes on and completes; then the first continues."""
    objects = open_objects(tmp_path.as_uri())
    key = new_key()
    multipart = objects.begin_parts(key)

    def complete():
        etag = objects.put_part(key, multipart, 1, io.BytesIO(b"right"), 5)
        objects.complete_parts(key, multipart, [etag])

    class Stopping(io.BytesIO):
        def read(self, size=-1):
            data = super().read(size)
            if data:
                complete()
            return data

    etag = objects.put_part(key, multipart, 1, Stopping(b"wrong"), 5)
    with pytest.raises(KeyError):
        objects.complete_parts(key, multipart, [etag])
    assert objects.open(key).read() == b"right"


def test_temporary_files_of_ended_processes_are_deleted(tmp_path):
    open_objects(tmp_path.as_uri())
    old, new = tmp_path / ".temporary" / "old", tmp_path / ".temporary" / "new"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    open_objects(tmp_path.as_uri())
    assert not old.exists()
    assert new.exists()


# Faults of S3


@pytest.fixture
def proxy(s3_server):
    """A faulty network before the S3 server."""
    with TcpProxy(int(s3_server.host.rpartition(":")[2])) as running:
        yield running


@pytest.fixture
def far(s3_server, objects_url, proxy):
    """An object store behind the faulty network."""
    store = open_objects(s3_server.url(endpoint=f"http://127.0.0.1:{proxy.port}"))
    yield store
    store.close()


@pytest.mark.parametrize("cuts", [1, 3])
def test_reader_continues_after_broken_answers(far, proxy, cuts):
    key, content = new_key(), secrets.token_bytes(20 << 20)
    far.put(key, io.BytesIO(content), len(content))
    with far.open(key, 7) as file:
        pieces = [file.read(1000)]
        for _ in range(cuts):
            proxy.cut()
            pieces.append(file.read(6 << 20))
        pieces.append(file.read())
    assert b"".join(pieces) == content[7:]


@pytest.mark.timeout(120)
def test_reader_of_a_store_that_is_away_ends(far, proxy):
    key, content = new_key(), bytes(20 << 20)
    far.put(key, io.BytesIO(content), len(content))
    with far.open(key) as file:
        file.read(1000)
        proxy.refuse = True
        proxy.cut()
        with pytest.raises(Unavailable):
            file.read()
    proxy.refuse = False
    assert far.size(key) == len(content)


@pytest.mark.parametrize("size", [1000, LARGE])
@pytest.mark.parametrize("lose", ["lose_answer", "lose_request"])
def test_put_with_a_lost_answer_is_repeated(far, proxy, size, lose):
    key, content = new_key(), secrets.token_bytes(size)
    getattr(proxy, lose)(b"PUT /")
    far.put(key, io.BytesIO(content), size)
    assert far.open(key).read() == content


@pytest.mark.parametrize("lose", ["lose_answer", "lose_request"])
def test_parts_with_lost_answers_make_the_object(far, proxy, lose):
    key = new_key()
    getattr(proxy, lose)(b"?uploads")
    multipart = far.begin_parts(key)
    getattr(proxy, lose)(b"partNumber=1")
    etag = far.put_part(key, multipart, 1, io.BytesIO(b"123"), 3)
    getattr(proxy, lose)(b"uploadId=")
    try:
        far.complete_parts(key, multipart, [etag])
    except KeyError:
        assert lose == "lose_answer"
    assert far.open(key).read() == b"123"


def everything(objects):
    """Return a call of each operation that asks the store."""
    key = new_key()
    return [
        objects.check,
        lambda: objects.open(key),
        lambda: objects.size(key),
        lambda: objects.digest(key),
        lambda: objects.delete([key]),
        lambda: objects.put(key, io.BytesIO(b"1"), 1),
        lambda: objects.put(key, io.BytesIO(bytes(LARGE)), LARGE),
        lambda: objects.begin_parts(key),
        lambda: objects.put_part(key, "id", 1, io.BytesIO(b"1"), 1),
        lambda: objects.complete_parts(key, "id", ["etag"]),
        lambda: objects.abort_parts(key, "id"),
        lambda: list(objects.iterate("c/")),
    ]


def failures(calls):
    """Call functions at once and return their errors."""

    def failure(call):
        try:
            call()
        except Exception as error:
            return error
        return None

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(failure, calls))


@pytest.mark.timeout(120)
def test_closed_port_is_unavailable(far, proxy):
    proxy.refuse = True
    assert {type(error) for error in failures(everything(far))} == {Unavailable}


@pytest.mark.timeout(120)
def test_black_hole_is_unavailable_within_the_limits(far, proxy):
    proxy.black_hole = True
    assert {type(error) for error in failures(everything(far))} == {Unavailable}


def test_missing_bucket_is_unavailable(s3_server, objects_url):
    objects = open_objects(objects_url.replace("//registry/", "//missing/"))
    found = {type(error) for error in failures(everything(objects))}
    objects.close()
    assert found == {Unavailable}


def test_wrong_secret_is_unavailable_and_not_shown(objects_url, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-correct-horse")
    objects = open_objects(objects_url)
    found = failures(everything(objects))
    objects.close()
    assert {type(error) for error in found} == {Unavailable}
    assert "hunter2" not in repr([found, objects, vars(objects)])


# Presigned URLs


def test_link_gives_the_object_without_credentials(objects_url):
    objects = open_objects(objects_url)
    key = new_key()
    objects.put(key, io.BytesIO(b"0123456789"), 10)
    url = objects.link(key, seconds=60)
    whole = requests.get(url)
    part = requests.get(url, headers={"Range": "bytes=2-4"})
    assert (whole.status_code, whole.content, part.status_code, part.content) == (200, b"0123456789", 206, b"234")
    assert whole.headers["Content-Type"] == "application/octet-stream"
    assert {"private", "immutable"} <= set(whole.headers["Cache-Control"].replace(",", "").split())
    other = new_key()
    objects.put(other, io.BytesIO(b"secret"), 6)
    for wrong in (
        url.replace(key, other),
        url + "0",
        url.replace("private", "public"),
        url.replace("Expires=60", "Expires=600"),
        url.partition("?")[0],
    ):
        assert requests.get(wrong).status_code == 403
    assert requests.put(url, data=b"x").status_code == 403
    assert requests.delete(url).status_code == 403


def test_expired_link_is_refused(objects_url):
    objects = open_objects(objects_url)
    key = new_key()
    objects.put(key, io.BytesIO(b"1"), 1)
    url = objects.link(key, seconds=1)
    deadline = time.monotonic() + 30
    while (status := requests.get(url).status_code) == 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert status == 403


def test_link_leads_to_the_public_server(s3_server, objects_url, proxy):
    public = f"http://127.0.0.1:{proxy.port}"
    objects = open_objects(s3_server.url(public_url=public))
    key = new_key()
    objects.put(key, io.BytesIO(b"1"), 1)
    assert not proxy.accepted
    url = objects.link(key, seconds=60)
    assert url.startswith(f"{public}/")
    assert requests.get(url).content == b"1"


def test_use_in_a_forked_process_is_reported(s3_server, objects_url):
    """The threads of obstore do not exist in a forked process. A request there would never end."""
    code = (
        "import io, os, sys\n"
        "from ocikit.server.storage.cluster.objects import open_objects\n"
        "objects = open_objects(sys.argv[1])\n"
        "if not os.fork():\n"
        "    objects.check()\n"
        "    os._exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 7\n"
        "objects.check()\n"
        "if not os.fork():\n"
        "    try: objects.check()\n"
        "    except RuntimeError as error: print(error, flush=True)\n"
        "    os._exit(8)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 8\n"
        "objects.check()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, objects_url], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "use it in the workers" in done.stdout
