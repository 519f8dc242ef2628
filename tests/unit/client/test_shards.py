"""Shards: pushed, pulled as the original files, changed and pushed again."""

import os
import random
import time

import ocikit
import pytest
from ocikit.errors import ContentError, FileNotInArtifact, InvalidArgument, UnsafeArchive
from ocikit.spec.annotations import SHARD, TITLE

from tests.support.home import cli, moved, tree, write

COUNT = 300


def files(folder="images", count=COUNT):
    generator = random.Random(0)
    return {f"{folder}/{n % 7}/{n:04}.bin": generator.randbytes(generator.randrange(2000)) for n in range(count)}


@pytest.fixture
def images(home):
    write(home, files())
    os.chmod(home / "images/1/0001.bin", 0o755)
    return home


@pytest.fixture
def ahead(monkeypatch):
    """A clock for which files that were just written are long unchanged."""
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10_000_000_000)


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("path", ["images", "images/."])
def test_pull_restores_the_files(session, server, images, tmp_path, kind, path):
    art = session.push(f"{server.host}/ds:v1", path, shards=kind, shard_size="64KB")
    assert len(art.files) > 4
    assert all(layer.size <= 64_000 for layer in art.manifest.layers)
    pulled = session.pull(f"{server.host}/ds:v1", tmp_path / "out")
    prefix = "" if path.endswith(".") else "images/"
    assert tree(tmp_path / "out") == {prefix + name.removeprefix("images/"): raw for name, raw in files().items()}
    assert os.access(tmp_path / f"out/{prefix}1/0001.bin", os.X_OK)
    assert str(COUNT) in pulled.summary


def test_name_of_a_member_leads_to_its_shard(session, server, images):
    """`artifact.files` has the shards. The hint costs no request."""
    art = session.push(f"{server.host}/ds:v1", "images", shards="zip")
    moved(server)
    with pytest.raises(FileNotInArtifact) as caught:
        art["images/1/0001.bin"]
    assert "artifact.members['images/1/0001.bin']" in caught.value.hint
    assert moved(server) == []
    with session.edit(f"{server.host}/ds:v1", dry_run=True) as e, pytest.raises(FileNotInArtifact) as caught:
        del e["images/1/0001.bin"]
    assert "shards=" in caught.value.hint
    with pytest.raises(FileNotInArtifact) as caught:
        art["other.bin"]
    assert "members" not in caught.value.hint


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_second_pull_fetches_changed_shards(session, server, images, tmp_path, kind):
    ref = f"{server.host}/ds:v1"
    first = session.push(ref, "images", shards=kind, shard_size=64_000)
    session.pull(ref, tmp_path / "out")
    (images / "images/3/0003.bin").write_bytes(b"changed")
    (images / "images/4/0004.bin").unlink()
    second = session.push(ref, "images", shards=kind, shard_size=64_000)
    new = {layer.digest for layer in second.manifest.layers} - {layer.digest for layer in first.manifest.layers}
    assert 1 <= len(new) <= 4
    moved(server)
    session.pull(ref, tmp_path / "out")
    assert moved(server).count("GET blobs") == len(new)
    expected = files() | {"images/3/0003.bin": b"changed"}
    del expected["images/4/0004.bin"]
    assert tree(tmp_path / "out") == expected


def test_edited_file_stops_the_pull(session, server, images, tmp_path):
    ref = f"{server.host}/ds:v1"
    session.push(ref, "images", shards="zip", shard_size=64_000)
    session.pull(ref, tmp_path / "out")
    (tmp_path / "out/images/0/0000.bin").write_bytes(b"mine")
    (images / "images/0/0000.bin").write_bytes(b"theirs")
    session.push(ref, "images", shards="zip", shard_size=64_000)
    with pytest.raises(ContentError, match="0000"):
        session.pull(ref, tmp_path / "out")
    assert (tmp_path / "out/images/0/0000.bin").read_bytes() == b"mine"


def test_shards_can_be_kept(session, server, images, tmp_path):
    ref = f"{server.host}/ds:v1"
    art = session.push(ref, "images", shards="zip", shard_size=64_000)
    session.pull(ref, tmp_path / "out", archive=False)
    assert sorted(tree(tmp_path / "out")) == sorted(art.files)
    assert "images-00000.zip" in art.files


def test_single_files_stay_files(session, server, images):
    write(images, {"labels.csv": b"1,2"})
    art = session.push(f"{server.host}/ds:v1", "images", "labels.csv", shards="zip")
    assert list(art.files) == ["images-00000.zip", "labels.csv"]


def test_unchanged_shards_are_not_read(session, server, images, ahead, monkeypatch):
    ref = f"{server.host}/ds:v1"
    first = session.push(ref, "images", shards="zip", shard_size=64_000)
    written = []
    from ocikit.layers.shards import Shard

    write_shard = Shard.write
    monkeypatch.setattr(Shard, "write", lambda self, *a: written.append(self.title) or write_shard(self, *a))
    assert session.push(ref, "images", shards="zip", shard_size=64_000).digest == first.digest
    assert written == []
    (images / "images/3/0003.bin").write_bytes(b"changed")
    moved(server)
    second = session.push(ref, "images", shards="zip", shard_size=64_000)
    assert 1 <= len(written) <= 2
    assert moved(server).count("PUT manifests") == 1
    assert session.push(f"{server.host}/other:v1", "images", shards="zip", shard_size=64_000).digest == second.digest


def test_push_leaves_no_temporary_file(session, server, images, tmp_path, monkeypatch):
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    session.push(f"{server.host}/ds:v1", "images", shards="tar", shard_size=64_000)
    assert list(spool.iterdir()) == []


def test_dry_run_sends_nothing(session, server, images):
    art = session.push(f"{server.host}/ds:v1", "images", shards="zip", dry_run=True)
    assert art.plan is not None
    assert not [request for request in moved(server) if request.split()[0] in {"POST", "PUT", "PATCH"}]


def test_too_many_files_name_shards(session, server, home, monkeypatch):
    monkeypatch.setattr("ocikit.client.push.DOCUMENT_LIMIT", 10_000)
    write(home, files(count=100))
    with pytest.raises(ContentError, match=r"100 files.*MiB") as caught:
        session.push(f"{server.host}/ds:v1", "images")
    assert "shards=" in caught.value.hint
    assert not [request for request in moved(server) if request.split()[0] in {"POST", "PUT", "PATCH"}]


@pytest.mark.parametrize(
    "options", [{"shards": "rar"}, {"shards": "zip", "archive": "tar"}, {"shards": "zip", "shard_size": "big"}]
)
def test_invalid_options_are_refused(session, server, images, options):
    with pytest.raises(InvalidArgument):
        session.push(f"{server.host}/ds:v1", "images", **options)
    assert moved(server) == []


def test_written_file_replaces_one_of_a_shard(session, server, images, tmp_path):
    ref = f"{server.host}/ds:v1"
    session.push(ref, "images", shards="zip", shard_size=64_000)
    with session.edit(ref) as edit:
        edit.fs.pipe_file("images/3/0003.bin", b"new")
    for _ in range(2):
        session.pull(ref, tmp_path / "out")
        assert tree(tmp_path / "out") == files() | {"images/3/0003.bin": b"new"}
    with session.edit(ref) as edit:
        edit.remove("images/3/0003.bin")
    session.pull(ref, tmp_path / "out")
    assert tree(tmp_path / "out") == files()


def test_shard_outside_its_folder_is_refused(session, server, images, tmp_path):
    """A shard writes below the folder that its annotation names, and nowhere else."""
    ref = f"{server.host}/ds:v1"
    art = session.push(ref, "images", shards="zip")
    (layer,) = art.manifest.layers
    repository = session.repository(ref, push=True)
    for prefix in ("other/", "../", "/etc/", "images/../.."):
        annotations = {**layer.annotations, SHARD: prefix, TITLE: "x.zip"}
        wrong = ocikit.Descriptor(
            media_type=layer.media_type, digest=layer.digest, size=layer.size, annotations=annotations
        )
        manifest = ocikit.Manifest(config=art.manifest.config, layers=(wrong,), artifact_type="application/x.x")
        repository.push_bytes(manifest.descriptor, manifest.raw, tag="wrong")
        with pytest.raises(UnsafeArchive):
            session.pull(f"{server.host}/ds:wrong", tmp_path / "out/in")
        assert tree(tmp_path / "out") == {}


def test_command_line_pushes_shards(server, images):
    run = cli(
        "push", f"{server.host}/ds:v1", "images", "--shards", "zip", "--shard-size", "64KB", "--insecure", server.host
    )
    assert run.returncode == 0, run.stderr
    assert len(ocikit.inspect(f"{server.host}/ds:v1").files) > 4


LARGE = {f"images/{n % 7}/{n:04}.bin": random.Random(n).randbytes(20_000) for n in range(1500)}


@pytest.fixture(params=["zip", "tar"])
def shards(request, session, server, home):
    """Four shards of 9 MB or fewer, and a plain file."""
    write(home, LARGE | {"labels.csv": b"1,2"})
    os.chmod(home / "images/3/0003.bin", 0o755)
    ref = f"{server.host}/ds:v1"
    session.push(ref, "images", "labels.csv", shards=request.param, shard_size="9MiB")
    moved(server)
    return ref


@pytest.fixture
def reader(home):
    with ocikit.Session(progress=False, cache=home.parent / "reader") as session:
        yield session


def test_patterns_select_files_in_shards(reader, shards, tmp_path):
    pulled = reader.pull(shards, tmp_path / "out", include=["images/3/*", "*.csv"], exclude="*0010.bin")
    expected = {name: raw for name, raw in LARGE.items() if name.startswith("images/3/") and "0010" not in name}
    assert tree(tmp_path / "out") == expected | {"labels.csv": b"1,2"}
    assert os.access(tmp_path / "out/images/3/0003.bin", os.X_OK)
    assert f"{len(expected)} files" in pulled.summary
    assert set(tree(reader.pull(shards, tmp_path / "all").path)) == {*LARGE, "labels.csv"}
    reader.pull(shards, tmp_path / "out")
    assert tree(tmp_path / "out") == LARGE | {"labels.csv": b"1,2"}


def test_excluded_files_of_shards_are_left_out(reader, shards, tmp_path):
    reader.pull(shards, tmp_path / "out", exclude="images/[0-5]/*")
    expected = {name: raw for name, raw in LARGE.items() if name.startswith("images/6/")}
    assert tree(tmp_path / "out") == expected | {"labels.csv": b"1,2"}


@pytest.mark.parametrize("shards", ["zip"], indirect=True)
def test_few_files_are_read_by_ranges(reader, server, shards, tmp_path):
    names = ["images/3/0003.bin", "images/3/0010.bin"]
    for _ in range(2):
        reader.pull(shards, tmp_path / "out", include=names)
        assert tree(tmp_path / "out") == {name: LARGE[name] for name in names}
        requests, got = list(server.requests), moved(server)
    ranges = [request for request in requests if "/blobs/" in request.path]
    assert ranges == []
    assert got == ["HEAD manifests"]
    assert os.access(tmp_path / "out/images/3/0003.bin", os.X_OK)
    (tmp_path / "out/images/3/0010.bin").unlink()
    reader.pull(shards, tmp_path / "out", include=names)
    assert tree(tmp_path / "out") == {name: LARGE[name] for name in names}


@pytest.mark.parametrize("shards", ["zip"], indirect=True)
def test_shard_without_selected_file_is_not_fetched(reader, server, shards, tmp_path):
    reader.pull(shards, tmp_path / "out", include="images/3/0003.bin")
    assert moved(server).count("GET blobs") == 2  # a directory, and the file
    reader.pull(shards, tmp_path / "one", include="*.csv")
    art = reader.inspect(shards)
    directories = len(art.members.shards) - 1
    assert moved(server).count("GET blobs") == directories + 1
    with pytest.raises(FileNotInArtifact):
        reader.pull(shards, tmp_path / "out", include="images/none")


@pytest.mark.parametrize("shards", ["zip"], indirect=True)
def test_many_files_of_a_shard_fetch_it_whole(reader, server, shards, tmp_path):
    shard = reader.inspect(shards).members.parts[0][1]
    moved(server)
    names = [name for name in sorted(LARGE) if shard.holds(name)][:-1]
    reader.pull(shards, tmp_path / "out", include=names)
    assert tree(tmp_path / "out") == {name: LARGE[name] for name in names}
    assert moved(server).count("GET blobs") <= 2


@pytest.mark.parametrize("shards", ["zip"], indirect=True)
def test_name_of_a_shard_selects_all_its_files(reader, shards, tmp_path):
    reader.pull(shards, tmp_path / "out", include="images-00000.zip")
    layer, titles = reader.inspect(shards).members.parts[0]
    assert layer.title == "images-00000.zip"
    assert tree(tmp_path / "out") == {name: raw for name, raw in LARGE.items() if titles.holds(name)}
    reader.pull(shards, tmp_path / "kept", include="images/3/0003.bin", archive=False)
    assert [name[:7] for name in tree(tmp_path / "kept")] == ["images-"]


@pytest.mark.parametrize("shards", ["zip"], indirect=True)
def test_edited_file_stops_a_selected_pull(reader, shards, tmp_path):
    write(tmp_path / "out", {"images/3/0003.bin": b"mine"})
    with pytest.raises(ContentError, match="0003"):
        reader.pull(shards, tmp_path / "out", include="images/3/*")
    assert tree(tmp_path / "out") == {"images/3/0003.bin": b"mine"}
    reader.pull(shards, tmp_path / "out", include="images/3/0003.bin", force=True)
    assert tree(tmp_path / "out") == {"images/3/0003.bin": LARGE["images/3/0003.bin"]}
    with pytest.raises(FileNotInArtifact):
        reader.pull(shards, tmp_path / "out", exclude="*")


def test_attached_folder_is_sharded(session, server, images, tmp_path):
    ref = f"{server.host}/ds:v1"
    session.push(ref, "images/0/0000.bin")
    art = session.attach(ref, "images", artifact_type="application/x.masks", shards="zip", shard_size="64KB")
    assert len(art.members.shards) > 4
    (referrer,) = session.referrers(ref)
    assert tree(session.pull(referrer.reference, tmp_path / "out").path) == files()
