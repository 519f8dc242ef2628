"""Damaged blobs in the cache are deleted and fetched again, by every way to their content."""

import os

import ocikit
import pytest

from tests.support.home import write

SMALL, LARGE = b"small" * 100, bytes(range(256)) * (3 << 12)  # below and above the size with a record on disk
CONTENT = {"small.bin": SMALL, "large.bin": LARGE}


@pytest.fixture
def ref(home, session, server):
    """A pulled artifact with a small and a large file, as a reference; nothing is verified in this process."""
    write(home, CONTENT)
    ref = str(session.push(f"{server.host}/t/d:v1", *CONTENT).reference)
    session.pull(ref)
    server.requests.clear()
    return ref


@pytest.fixture(params=["changed", "rotten"])
def damage(request, session, ref):
    """A function that overwrites bytes of a cached blob; "rotten" keeps the modification time."""

    def overwrite(name):
        path = session.cache.path(session.inspect(ref).files[name].digest)
        before = os.stat(path)
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"\xff\xfe\xfd\xfc")
        if request.param == "rotten":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        path.chmod(0o444)
        return path

    overwrite.kind = request.param
    return overwrite


def fresh(session):
    """A session as in another process."""
    return ocikit.Session(cache=session.cache.root, progress=False)


def blob_requests(server):
    return len(server.seen("GET", ".*/blobs/.*"))


@pytest.mark.parametrize("name", CONTENT)
def test_read_of_damaged_blob_is_fetched_again_once(session, server, ref, damage, name):
    damage(name)
    for _ in range(2):
        with fresh(session) as again:
            assert again.inspect(ref).files[name].read() == CONTENT[name]
    assert blob_requests(server) == 1


@pytest.mark.parametrize("name", CONTENT)
def test_pull_to_folder_of_damaged_blob_is_fetched_again(session, server, ref, damage, name):
    damage(name)
    with fresh(session) as again:
        folder = again.pull(ref, "out").path
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT


@pytest.mark.parametrize("damage", ["changed"], indirect=True)
@pytest.mark.parametrize("give", ["pull", "download", "fspath"])
@pytest.mark.parametrize("name", CONTENT)
def test_path_to_changed_blob_has_right_content(session, server, ref, damage, name, give):
    damage(name)
    with fresh(session) as again:
        if give == "pull":
            path = os.path.join(again.pull(ref), name)
        elif give == "download":
            path = again.download(ref, name)
        else:
            path = os.fspath(again.inspect(ref).files[name])
        with open(path, "rb") as file:
            assert file.read() == CONTENT[name]
    assert blob_requests(server) == 1


def test_damage_within_one_process_is_noticed(session, server, ref, damage):
    damage("large.bin")
    if damage.kind == "changed":
        assert session.download(ref, "large.bin").read_bytes() == LARGE
    assert session.inspect(ref).read("large.bin") == LARGE


def test_stream_of_rotten_blob_raises_and_next_one_is_right(session, ref, damage):
    damage("large.bin")
    if damage.kind == "rotten":
        with pytest.raises(ocikit.DigestMismatch), session.open(ref, "large.bin") as stream:
            stream.read()
    with session.open(ref, "large.bin") as stream:
        assert stream.read() == LARGE


def test_unchanged_large_blob_is_not_hashed_again(session, ref, monkeypatch):
    def refuse(path, algorithm="sha256"):
        assert os.stat(path).st_size < 1 << 20
        return original(path, algorithm)

    original = ocikit.store.cache.verified.hash_file
    monkeypatch.setattr("ocikit.store.cache.verified.hash_file", refuse)
    with fresh(session) as again:
        assert again.download(ref, "large.bin").read_bytes() == LARGE
        assert again.pull(ref, "out").path


def test_record_of_deleted_blob_is_deleted(session, ref):
    layer = session.inspect(ref).files["large.bin"].descriptor
    record = session.cache.root / "verified" / layer.digest.algorithm / layer.digest.encoded
    assert record.exists()
    session.cache.delete(layer)
    assert not record.exists()
