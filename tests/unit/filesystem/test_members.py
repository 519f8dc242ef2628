"""Files in shards are listed and read as if they were files of the artifact."""

import os
import pickle

import ocikit
import pytest
from ocikit.errors import ContentError, DigestMismatch, FileNotInArtifact, OcikitError
from ocikit.spec.annotations import SHARD, SHARD_DIRECTORY_SIZE

from tests.support.home import QUICK, moved, write

LARGE = os.urandom(9 << 20)
FILES = {f"images/{n % 3}/{n:04}.bin": os.urandom(6000) for n in range(1500)} | {
    "images/empty": b"",
    "images/large": LARGE,
}


@pytest.fixture(params=["zip", "tar"])
def kind(request):
    return request.param


@pytest.fixture
def ref(server, home, kind):
    write(home, FILES | {"labels.csv": b"1,2"})
    with ocikit.Session(progress=False, cache=home.parent / "pusher") as pusher:
        pusher.push(f"{server.host}/ds:v1", "images", "labels.csv", shards=kind, shard_size="16MiB")
    server.requests.clear()
    return f"{server.host}/ds:v1"


@pytest.fixture
def fs(session):
    return ocikit.fs(session)


def test_members_are_listed_as_files(fs, ref):
    assert fs.ls(ref, detail=False) == [f"{ref}/images", f"{ref}/labels.csv"]
    assert fs.ls(f"{ref}/images", detail=False) == [f"{ref}/images/{n}" for n in ("0", "1", "2", "empty", "large")]
    assert sorted(fs.find(ref)) == sorted(f"{ref}/{name}" for name in [*FILES, "labels.csv"])
    assert fs.isdir(f"{ref}/images/1")
    assert fs.isfile(f"{ref}/images/empty")
    assert not fs.exists(f"{ref}/images/none")
    info = fs.info(f"{ref}/images/large")
    assert (info["size"], info["type"], info["shard"][:7]) == (len(LARGE), "file", "images-")


def test_listing_without_a_shard_fails(fs, ref, server):
    """fsspec would leave out the files of a shard that cannot be read."""
    server.on("GET", "/v2/ds/blobs/.*", status=403, times=99)
    for call in (fs.find, fs.walk, fs.glob):
        with pytest.raises(PermissionError):
            list(call(f"{ref}/**" if call == fs.glob else ref))


@pytest.mark.parametrize("kind", ["zip"], indirect=True)
def test_one_member_costs_three_requests(fs, ref, server, session):
    assert fs.cat_file(f"{ref}/images/1/0001.bin") == FILES["images/1/0001.bin"]
    assert moved(server) == ["GET manifests", "GET blobs", "GET blobs"]
    assert fs.cat_file(f"{ref}/images/1/0004.bin") == FILES["images/1/0004.bin"]
    assert moved(server) == ["GET blobs"]
    with ocikit.Session(progress=False, network=QUICK) as later:
        art = later.inspect(ref)
        moved(server)
        assert art.members["images/1/0007.bin"].read_bytes() == FILES["images/1/0007.bin"]
    assert moved(server) == ["GET blobs"]


def test_every_member_is_read(fs, ref, session):
    names = [*list(FILES)[:50], "images/empty", "images/large"]
    assert fs.cat([f"{ref}/{name}" for name in names]) == {f"{ref}/{name}": FILES[name] for name in names}
    members = session.inspect(ref).members
    assert len(members) == len(FILES)
    assert sorted(members) == sorted(FILES)
    assert "images/none" not in members
    with pytest.raises(FileNotInArtifact):
        members["images/none"]


def test_ranges_of_members_are_slices(fs, ref):
    path = f"{ref}/images/large"
    assert fs.cat_file(path, 5, 100) == LARGE[5:100]
    assert fs.cat_file(path, -7) == LARGE[-7:]
    assert fs.cat_ranges([path, f"{ref}/images/empty"], [1 << 20, 0], [(1 << 20) + 9, 0]) == [
        LARGE[1 << 20 : (1 << 20) + 9], b"",
    ]  # fmt: skip
    with fs.open(path) as stream:
        stream.seek(8 << 20)
        assert stream.read(10) == LARGE[8 << 20 :][:10]
        copy = pickle.loads(pickle.dumps(stream))
        assert copy.read(10) == LARGE[8 << 20 :][10:20]
        stream.seek(0)
        assert stream.read() == LARGE


def test_members_are_saved(fs, ref, tmp_path):
    fs.get(f"{ref}/images/0", str(tmp_path / "out"), recursive=True)
    assert (tmp_path / "out/0003.bin").read_bytes() == FILES["images/0/0003.bin"]
    fs.get_file(f"{ref}/images/large", tmp_path / "large")
    assert (tmp_path / "large").read_bytes() == LARGE


def test_whole_shards_are_cached_on_request(session, ref, server):
    fs = ocikit.fs(session)
    whole = type(fs)(reader=session.reader, cache="files", skip_instance_cache=True)
    with whole.open(f"{ref}/images/1/0001.bin") as stream:
        assert stream.read() == FILES["images/1/0001.bin"]
    moved(server)
    assert whole.cat_file(f"{ref}/images/1/0001.bin") == FILES["images/1/0001.bin"]
    assert moved(server) == []


def test_identity_is_that_of_shard_and_place(fs, ref):
    one, two = f"{ref}/images/1/0001.bin", f"{ref}/images/1/0004.bin"
    assert fs.ukey(one) != fs.ukey(two)
    assert fs.ukey(one).startswith("sha256:")
    assert fs.checksum(one) != fs.checksum(two)
    with pytest.raises(OcikitError, match="no URL"):
        fs.url(one)


@pytest.mark.parametrize("kind", ["zip"], indirect=True)
@pytest.mark.parametrize("damage", ["directory", "annotation", "prefix"])
def test_damaged_shard_is_refused(session, ref, server, damage):
    art = session.inspect(ref)
    (layer, *_) = [layer for layer in art.manifest.layers if SHARD in layer.annotations]
    changes = {
        "directory": {SHARD_DIRECTORY_SIZE: "1000"},
        "annotation": {SHARD_DIRECTORY_SIZE: "-5"},
        "prefix": {SHARD: "other/"},
    }
    annotations = {**layer.annotations, **changes[damage]}
    wrong = ocikit.Descriptor(
        media_type=layer.media_type, digest=layer.digest, size=layer.size, annotations=annotations
    )
    manifest = ocikit.Manifest(config=art.manifest.config, layers=(wrong,), artifact_type="application/x.x")
    session.repository(ref, push=True).push_bytes(manifest.descriptor, manifest.raw, tag="wrong")
    members = session.inspect(f"{server.host}/ds:wrong").members
    with pytest.raises((ContentError, DigestMismatch)):
        list(members)


@pytest.mark.parametrize("kind", ["zip"], indirect=True)
def test_damaged_member_is_refused(session, ref, server):
    members = session.inspect(ref).members
    small, large = members["images/1/0001.bin"], members["images/large"]
    for member, needle in ((small, FILES["images/1/0001.bin"]), (large, LARGE)):
        for digest, content in list(server.blobs.items()):
            if needle in content:
                at = content.index(needle) + 100
                server.blobs[digest] = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        with pytest.raises(ContentError, match="damaged"), member.open() as stream:
            while stream.read(1 << 20):
                pass
        with pytest.raises(ContentError, match="damaged"):
            member.read_bytes()


def test_written_file_replaces_a_member(fs, ref):
    fs.pipe_file(f"{ref}/images/1/0001.bin", b"new")
    fs.cp_file(f"{ref}/images/1/0004.bin", f"{ref}/copy.bin")
    assert fs.cat_file(f"{ref}/images/1/0001.bin") == b"new"
    assert fs.cat_file(f"{ref}/copy.bin") == FILES["images/1/0004.bin"]
    assert fs.cat_file(f"{ref}/images/1/0007.bin") == FILES["images/1/0007.bin"]
    with pytest.raises(OcikitError, match="a part of images-"):
        fs.rm_file(f"{ref}/images/1/0007.bin")
    fs.rm_file(f"{ref}/images/1/0001.bin")
    assert fs.cat_file(f"{ref}/images/1/0001.bin") == FILES["images/1/0001.bin"]


def test_edit_reads_members(session, ref):
    with session.edit(ref) as edit:
        edit.fs.pipe_file("images/1/0001.bin", b"new")
        assert edit.fs.cat_file("images/1/0001.bin") == b"new"
        assert edit.fs.cat_file("images/1/0004.bin") == FILES["images/1/0004.bin"]
        edit.fs.rm("images/1/0001.bin")
        assert edit.fs.cat_file("images/1/0001.bin") == FILES["images/1/0001.bin"]
