"""Shards: the same bytes on every machine, boundaries that stay, archives that other tools open."""

import io
import os
import random
import tarfile
import zipfile

import pytest
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.layers import zip as zips
from ocikit.layers.pack import select
from ocikit.layers.unpack import unpack
from ocikit.layers.zip import ZipMember, encode_directory, encode_local, parse_directory
from ocikit.spec.annotations import SHARD, SHARD_DIRECTORY, SHARD_DIRECTORY_SIZE, SHARD_FIRST, SHARD_LAST
from ocikit.spec.digest import Digest

from tests.support.home import tree, write

FILES = {"images/a.jpg": b"a", "images/deep/b.txt": b"b" * 5000, "images/empty": b"", "images/über.csv": b"1,2\n"}


def packed(folder, *, kind="zip", size=1 << 20, **options):
    return select([folder], shards=kind, shard_size=size, **options).pack()


def many(folder, count=400, seed=0):
    generator = random.Random(seed)
    return write(folder, {f"d/{n:05}.bin": generator.randbytes(generator.randrange(2000)) for n in range(count)})


def contents(layers):
    found = {}
    for layer in layers:
        with layer.open() as file:
            found[layer.title] = file.read()
    return found


def test_zip_is_read_by_zipfile(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    os.chmod(tmp_path / "images/a.jpg", 0o700)
    monkeypatch.chdir(tmp_path)
    (layer,) = packed("images/")
    with layer.open() as file, zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
        assert archive.namelist() == sorted(FILES)
        info = archive.getinfo("images/a.jpg")
        assert (info.date_time, info.external_attr >> 16, info.compress_type) == ((1980, 1, 1, 0, 0, 0), 0o100755, 0)
        assert archive.getinfo("images/empty").external_attr >> 16 == 0o100644
    assert layer.descriptor.media_type == "application/zip"
    annotations = layer.descriptor.annotations
    assert (layer.title, annotations[SHARD]) == ("images-00000.zip", "images/")
    assert (annotations[SHARD_FIRST], annotations[SHARD_LAST]) == ("images/a.jpg", "images/über.csv")
    with layer.open() as file:
        directory = file.read()[-int(annotations[SHARD_DIRECTORY_SIZE]) :]
    assert Digest.of(directory) == annotations[SHARD_DIRECTORY]


def test_tar_is_read_by_tarfile(tmp_path, monkeypatch):
    write(tmp_path, FILES)
    monkeypatch.chdir(tmp_path)
    (layer,) = packed("images/", kind="tar")
    with layer.open() as file, tarfile.open(fileobj=file) as archive:
        assert {m.name: archive.extractfile(m).read() for m in archive} == FILES
        assert archive.getnames() == sorted(FILES)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_equal_files_have_equal_shards(tmp_path, kind):
    digests = []
    for name in ("one", "two"):
        folder = many(tmp_path / name)
        digests.append([layer.descriptor.digest for layer in packed(folder / "d", kind=kind, size=50_000)])
    assert digests[0] == digests[1]
    assert len(digests[0]) > 5


def test_digest_of_a_shard_is_fixed(tmp_path):
    """A new version must not change it: every shard would be sent again."""
    write(tmp_path, {"d/a": b"1", "d/b": b"2"})
    for path in (tmp_path / "d").iterdir():
        path.chmod(0o644)
    (layer,) = packed(tmp_path / "d")
    assert layer.descriptor.digest == "sha256:cce832b44423470d47b2f5f6e78b52f3287c75500e6d45d13c3d671d35e7f945"


def test_shards_are_of_at_most_that_size(tmp_path):
    layers = packed(many(tmp_path) / "d", size=50_000)
    assert all(layer.size <= 50_000 for layer in layers)
    assert len(layers) < 40  # of 400 kB
    firsts = [layer.descriptor.annotations[SHARD_FIRST] for layer in layers]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("change", ["edit", "add", "remove", "grow"])
def test_change_of_one_file_changes_few_shards(tmp_path, seed, change):
    folder = many(tmp_path, 800) / "d"
    before = {layer.descriptor.digest for layer in packed(folder, size=50_000)}
    path = folder / f"{random.Random(seed).randrange(800):05}.bin"
    if change == "edit":
        path.write_bytes(bytes(path.stat().st_size or 1))
    elif change == "grow":
        path.write_bytes(bytes(path.stat().st_size + 300))
    elif change == "add":
        path.with_suffix(".new").write_bytes(b"new")
    else:
        path.unlink()
    after = {layer.descriptor.digest for layer in packed(folder, size=50_000)}
    assert len(after - before) <= 2


def test_files_of_a_sample_stay_together(tmp_path):
    write(tmp_path, {f"d/{n:04}.{suffix}": os.urandom(700) for n in range(200) for suffix in ("jpg", "json", "txt")})
    layers = packed(tmp_path / "d", kind="tar", size=30_000)
    assert len(layers) > 5
    for layer in layers:
        with layer.open() as file, tarfile.open(fileobj=file) as archive:
            names = archive.getnames()
        assert len(names) == 3 * len({name.partition(".")[0] for name in names})


def test_released_shard_is_written_again(tmp_path):
    folder = many(tmp_path) / "d"
    layers = packed(folder, size=50_000, spool=tmp_path / "spool" if (tmp_path / "spool").mkdir() is None else None)
    assert list((tmp_path / "spool").iterdir()) == []
    for layer in layers:
        with layer.open() as file:
            assert Digest.of(file.read()) == layer.descriptor.digest
    assert list((tmp_path / "spool").iterdir()) == []
    (folder / "00001.bin").write_bytes(b"changed")
    with pytest.raises(ContentError, match="changed"):
        layers[0].open()


def test_file_above_the_size_is_a_shard_of_its_own(tmp_path):
    write(tmp_path, {"d/a": b"1", "d/b": os.urandom(3 << 20), "d/c": b"2"})
    layers = packed(tmp_path / "d", size=1 << 20)
    sizes = [layer.size for layer in layers]
    assert max(sizes) > 3 << 20
    found = {}
    for raw in contents(layers).values():
        archive = zipfile.ZipFile(io.BytesIO(raw))
        assert archive.testzip() is None
        found |= {name: archive.read(name) for name in archive.namelist()}
    assert found["d/b"] == (tmp_path / "d/b").read_bytes()


def test_whiteout_is_refused(tmp_path):
    write(tmp_path, {"d/.wh.a": b"1"})
    with pytest.raises(ContentError, match=r"\.wh\."):
        packed(tmp_path / "d")


# The format


@pytest.mark.parametrize(
    ("size", "offset"), [(1 << 32, 0), ((1 << 32) - 1, 0), (5, 1 << 33), (1 << 34, 1 << 35), ((1 << 32) - 2, 0)]
)
def test_large_numbers_survive(size, offset):
    first = ZipMember("first", offset - 35, 7, False, 0) if offset else None
    start = first.start + first.size if first else 0
    member = ZipMember("a/b", size, 7, True, start)
    members = [member] if first is None else [first, member]
    end = member.start + size
    assert parse_directory(encode_directory(members, end), end) == members


def test_many_members_survive():
    members, at = [], 0
    for n in range(70_000):
        members.append(ZipMember(f"{n:05}", 0, 0, False, at))
        at = members[-1].start
    raw = encode_directory(members, at)
    assert parse_directory(raw, at) == members
    stream = io.BytesIO(b"".join(encode_local(m.name, 0, 0, executable=False) for m in members) + raw)
    assert len(zipfile.ZipFile(stream).namelist()) == 70_000


def zipped(files, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("damage", ["cut", "bit", "content", "other", "deflated", "directory"])
def test_damaged_zip_is_refused(tmp_path, damage):
    write(tmp_path, FILES)
    (layer,) = packed(tmp_path / "images")
    with layer.open() as file:
        raw = bytearray(file.read())
    if damage == "cut":
        del raw[-30:]
    elif damage == "bit":
        raw[6] ^= 1
    elif damage == "content":
        raw[raw.index(b"bbbb") + 9] ^= 1
    elif damage == "other":
        raw = bytearray(os.urandom(1000))
    elif damage == "deflated":
        raw = bytearray(zipped({"a": b"a" * 1000}, compression=zipfile.ZIP_DEFLATED))
    else:
        raw[-40] ^= 1
    with pytest.raises(ContentError):
        unpack([(io.BytesIO(raw), "application/zip")], tmp_path / "out", confined=True)
    assert not (tmp_path / "out").exists()


def shard(*names):
    raw, members = b"", []
    for name in names:
        member = ZipMember(name, 1, zips.zlib.crc32(b"x"), False, len(raw))
        raw += encode_local(name, 1, member.crc, executable=False) + b"x"
        members.append(member)
    return raw + encode_directory(members, len(raw))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", ".ocikit/manifest.json", "C:\\x", "", "a/" * 200 + "x"])
def test_unsafe_name_is_refused(tmp_path, name):
    with pytest.raises(UnsafeArchive):
        unpack([(io.BytesIO(shard("ok", name)), "application/zip")], tmp_path / "out", confined=True)
    assert not (tmp_path / "out").exists()


def test_zip_is_unpacked(tmp_path):
    write(tmp_path, FILES)
    os.chmod(tmp_path / "images/a.jpg", 0o700)
    (layer,) = packed(tmp_path / "images")
    with layer.open() as file:
        unpack([(file, "application/zip")], tmp_path / "out", confined=True, strip="images")
    assert {f"images/{name}": content for name, content in tree(tmp_path / "out").items()} == FILES
    assert os.access(tmp_path / "out/a.jpg", os.X_OK)
    assert not os.access(tmp_path / "out/empty", os.X_OK)
