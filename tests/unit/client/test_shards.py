"""Shards: pushed, pulled as the original files, changed and pushed again."""

import os
import random
import time

import ocikit
import pytest
from ocikit.errors import ContentError, InvalidArgument, UnsafeArchive
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
