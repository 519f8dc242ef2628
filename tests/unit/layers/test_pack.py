"""Packing of files and folders as layers."""

import gzip
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import textwrap
import threading
from pathlib import Path

import pytest
from ocikit.errors import ContentError, NotFound, OcikitError, UnsafeArchive
from ocikit.layers import compression
from ocikit.layers.layer import entries
from ocikit.layers.pack import pack
from ocikit.layers.unpack import unpack
from ocikit.spec import media_types
from ocikit.spec.annotations import TITLE, UNPACK
from ocikit.spec.digest import Digest
from ocikit.spec.titles import is_selected

from tests.support import images, peers
from tests.support.trees import differences, tree


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with some data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    for name, text in {"data/a.csv": "a,b\n", "data/sub/b.json": "{}", "data/sub/c": "c", "model.bin": "0101"}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    return tmp_path


def titles(*paths, **options):
    return [layer.title for layer in pack(paths, **options)]


def read(layer):
    with layer.open() as file:
        return file.read()


def list_entries(layer):
    return list(entries(io.BytesIO(read(layer))))


# Files


def test_every_file_is_layer_with_path_as_title(here):
    layers = pack(["model.bin", "data"])
    assert [layer.title for layer in layers] == ["model.bin", "data/a.csv", "data/sub/b.json", "data/sub/c"]
    for layer in layers:
        content = (here / layer.title).read_bytes()
        assert read(layer) == content
        assert (layer.descriptor.digest, layer.size, layer.diff_id) == (Digest.of(content), len(content), None)
        assert dict(layer.descriptor.annotations) == {TITLE: layer.title}


def test_titles_keep_relative_paths_and_last_name_of_others(here, monkeypatch):
    assert titles(".") == ["data/a.csv", "data/sub/b.json", "data/sub/c", "model.bin"]
    assert titles("data/") == titles("./data") == ["data/a.csv", "data/sub/b.json", "data/sub/c"]
    assert titles("data/.") == titles("data/./") == titles(f"{here}/data/.") == ["a.csv", "sub/b.json", "sub/c"]
    assert titles("data/sub") == ["data/sub/b.json", "data/sub/c"]
    assert titles(here / "data" / "sub") == ["sub/b.json", "sub/c"]
    assert titles("data/a.csv") == ["data/a.csv"]
    assert titles(here / "data/a.csv") == ["a.csv"]
    monkeypatch.chdir(here / "data" / "sub")
    assert titles("../a.csv") == ["a.csv"]
    assert titles("..") == ["data/a.csv", "data/sub/b.json", "data/sub/c"]


def test_media_types_are_guessed_by_name_unless_given(here):
    (here / "x.tar.gz").write_bytes(b"")
    (here / "model.safetensors").write_bytes(b"")
    layers = pack(["."], media_types={"data/sub/c": "application/vnd.example"})
    assert {layer.title: layer.descriptor.media_type for layer in layers} == {
        "data/a.csv": "text/csv",
        "data/sub/b.json": "application/json",
        "data/sub/c": "application/vnd.example",
        "model.bin": "application/octet-stream",
        "model.safetensors": "application/x-safetensors",
        "x.tar.gz": "application/gzip",
    }
    with pytest.raises(ContentError, match="dat/sub/c") as caught:
        pack(["."], media_types={"dat/sub/c": "x/y"})
    assert "data/sub/c" in caught.value.hint


def test_patterns_select_files_by_title(here):
    assert titles("data", include=["*.csv", "*.json"]) == ["data/a.csv", "data/sub/b.json"]
    assert titles("data", exclude=["data/sub/"]) == ["data/a.csv"]
    assert is_selected("a/b", include=["a/"]) and not is_selected("ab", include=["a/"])
    with pytest.raises(ContentError, match="match the patterns"):
        pack(["data"], include=["*.parquet"])


def test_file_changed_after_hashing_is_not_opened(here):
    path = here / "model.bin"
    for change in (
        lambda: path.write_text("0101 and more"),
        lambda: path.write_text("1010") and os.utime(path, (1, 1)),
        lambda: path.unlink(),
    ):
        path.write_text("0101")
        [layer] = pack(["model.bin"])
        assert read(layer) == b"0101"
        change()
        with pytest.raises(ContentError, match="model.bin' changed while it was pushed"):
            layer.open()


def test_parallel_hashing_keeps_order_and_raises_failure(here):
    for i in range(50):
        (here / f"data/{i:03}").write_bytes(os.urandom(i * 1000))
    names = [f"data/{i:03}" for i in range(50)]
    assert [layer.descriptor.digest for layer in pack(names)] == [Digest.of((here / n).read_bytes()) for n in names]
    assert pack(names, workers=1)[7].descriptor == pack(names)[7].descriptor
    threads = threading.active_count()
    if os.geteuid():
        (here / "data/003").chmod(0)
        with pytest.raises(OSError):
            pack(names)
    assert threading.active_count() == threads


def test_empty_folder_needs_archive(here):
    (here / "empty/inside").mkdir(parents=True)
    with pytest.raises(ContentError, match="'empty' has no files") as caught:
        pack(["empty"])
    assert 'archive="tar+gzip"' in caught.value.hint
    (here / "data/empty").mkdir()
    assert "data/empty" not in titles("data")


def test_missing_path_is_named_in_error(here):
    with pytest.raises(NotFound, match="'no/such'") as caught:
        pack(["data", "no/such"])
    assert str(here) in caught.value.hint


def test_two_files_with_same_title_are_rejected(here):
    (here / "other/data").mkdir(parents=True)
    (here / "other/data/a.csv").write_text("other")
    with pytest.raises(UnsafeArchive, match="two files have the title 'data/a.csv'"):
        pack(["data", here / "other" / "data"])
    with pytest.raises(UnsafeArchive, match="two files"):
        pack(["data", "data/a.csv"])


def test_ocikit_records_are_skipped(here):
    (here / "data/.ocikit").mkdir()
    (here / "data/.ocikit/manifest.json").write_text("{}")
    assert titles("data") == ["data/a.csv", "data/sub/b.json", "data/sub/c"]
    [layer] = pack(["data"], archive="tar")
    assert not any(".ocikit" in e.path for e in list_entries(layer))


@pytest.mark.parametrize("archive", [None, "tar"])
def test_special_file_is_rejected_with_name(here, archive):
    os.mkfifo(here / "data/pipe")
    with pytest.raises(ContentError, match="data/pipe' is a FIFO"):
        pack(["data"], archive=archive)
    pack(["data"], archive=archive, exclude=["*pipe"])
    (here / "data/pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("data/s")
        with pytest.raises(ContentError, match="is a socket"):
            pack(["data"], archive=archive)


def test_file_names_that_are_not_portable_are_rejected(here):
    for name in ("back\\slash", "new\nline", "C:x"):
        (here / name).write_text("")
        with pytest.raises(UnsafeArchive, match="give|title"):
            pack(["."])
        (here / name).unlink()
    try:
        Path(os.fsdecode(b"bad\xff")).write_text("")
    except OSError:
        return  # the file system allows Unicode only
    with pytest.raises(UnsafeArchive, match="not valid Unicode"):
        pack(["."])


# Symlinks


def test_links_inside_folder_are_followed(here):
    (here / "data/link").symlink_to("sub")
    (here / "data/file").symlink_to("sub/c")
    contents = {layer.title: read(layer) for layer in pack(["data"])}
    assert contents["data/link/c"] == contents["data/file"] == b"c"


def test_links_out_of_folder_are_rejected_followed_or_skipped(here):
    (here / "data/out").symlink_to(here / "model.bin")
    with pytest.raises(ContentError, match="data/out' leads out of its folder") as caught:
        pack(["data"])
    assert 'links="follow"' in caught.value.hint
    assert "data/out" in titles("data", links="follow")
    assert "data/out" not in titles("data", links="skip")
    assert "data/out" not in titles("data", exclude=["data/out"])
    (here / "given").symlink_to(here / "data/sub")
    assert titles("given") == ["given/b.json", "given/c"], "a given link is followed"


def test_broken_and_circular_links_are_rejected(here):
    for target, problem in (("..", "circle"), (".", "circle"), ("loop", "circle"), ("nowhere", "is broken")):
        (here / "data/sub/loop").symlink_to(target)
        for links in ("inside", "follow"):
            with pytest.raises(ContentError, match=problem):
                pack(["data"], links=links)
        assert "data/sub/loop" not in titles("data", links="skip")
        (here / "data/sub/loop").unlink()


# Archives

TYPES = {"tar": media_types.OCI_LAYER, "tar+gzip": media_types.OCI_LAYER_GZIP, "tar+zstd": media_types.OCI_LAYER_ZSTD}


@pytest.mark.parametrize("archive", TYPES)
def test_archive_option_packs_folder_as_one_layer(here, archive, tmp_path_factory):
    (here / "data/empty").mkdir()
    (here / "data/up").symlink_to("sub/c")
    (here / "data/run").write_text("#!/bin/sh\n")
    (here / "data/run").chmod(0o700)
    (here / ("data/" + "ł" * 100)).write_text("long")
    layers = pack(["data", "model.bin"], archive=archive)
    assert [layer.title for layer in layers] == ["data", "model.bin"]
    layer = layers[0]
    blob = read(layer)
    assert (layer.descriptor.digest, layer.size) == (Digest.of(blob), len(blob))
    assert layer.descriptor.media_type == TYPES[archive]
    assert layer.descriptor.annotations[UNPACK] == "true"
    plain = {"tar": bytes, "tar+gzip": gzip.decompress, "tar+zstd": compression.import_zstd().decompress}[archive](blob)
    assert layer.diff_id == Digest.of(plain)
    # Read by an independent implementation, Python's tarfile
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == [
        "data",
        "data/a.csv",
        "data/empty",
        "data/run",
        "data/sub",
        "data/sub/b.json",
        "data/sub/c",
        "data/up",
        "data/" + "ł" * 100,
    ]
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {(0, 0, "", "", 0)}
    assert {m.name: oct(m.mode) for m in members}["data/run"] == "0o755"
    target = tmp_path_factory.mktemp("out") / "data"
    with layer.open() as stream:
        unpack([(stream, layer.descriptor.media_type)], target, confined=True, strip=layer.title)
    for folder in (target, here / "data"):
        (folder / "run").chmod(0o755)
        folder.chmod(0o755)
    assert differences(tree(target), tree(here / "data")) == []


@pytest.mark.parametrize("archive", TYPES)
def test_archives_are_reproducible(here, archive, tmp_path_factory, monkeypatch):
    [first] = pack(["data"], archive=archive)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("sub/c", "sub/b.json", "a.csv"):  # different order, times and modes
        path = elsewhere / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((here / "data" / name).read_bytes())
        path.chmod(0o600)
        os.utime(path, (1e9, 1e9))
    monkeypatch.chdir(elsewhere)
    [second] = pack([elsewhere / "data"], archive=archive)
    assert read(first) == read(second)
    assert first.descriptor == second.descriptor
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    [third] = pack(["data"], archive=archive)
    assert {e.mtime_ns for e in list_entries(third)} == {1_700_000_000 * 10**9}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ContentError, match="SOURCE_DATE_EPOCH"):
        pack(["data"], archive=archive)


def test_tar_bytes_do_not_change_between_releases(here):
    [layer] = pack(["data"], archive="tar")
    assert layer.diff_id == "sha256:15b67cc6ecc365012463491ba8cb0daf718fb5379dd072e674550d5ec38c1bf9"


def test_patterns_select_archived_files(here):
    (here / "data/empty").mkdir()
    [layer] = pack(["data"], archive="tar", include=["*.json"])
    assert [e.path for e in list_entries(layer)] == ["data", "data/sub", "data/sub/b.json"]


def test_current_folder_is_archived_under_its_name(here):
    [layer] = pack(["."], archive="tar")
    assert layer.title == here.name


def test_archived_links_inside_folder_stay_links(here):
    (here / "data/sub/up").symlink_to("../a.csv")
    (here / "data/dangling").symlink_to("later")
    [layer] = pack(["data"], archive="tar")
    assert {e.path: e.target for e in list_entries(layer) if e.target} == {
        "data/sub/up": "../a.csv",
        "data/dangling": "later",
    }
    (here / "data/dangling").unlink()
    for target in ("/etc/hostname", "../model.bin", "sub/../a.csv"):
        (here / "data/out").symlink_to(target)
        with pytest.raises(ContentError, match="leads out of its folder"):
            pack(["data"], archive="tar")
        [layer] = pack(["data"], archive="tar", links="skip")
        (here / "data/out").unlink()
    [layer] = pack(["data"], archive="tar", links="follow")
    assert {e.path: e.type for e in list_entries(layer)}["data/sub/up"] == "file"


def test_whiteout_names_cannot_be_archived(here):
    (here / "data/.wh.a").write_text("")
    with pytest.raises(ContentError, match="mean removed files"):
        pack(["data"], archive="tar")
    assert "data/.wh.a" in titles("data")


def test_temporary_file_is_deleted_with_its_layer(here, tmp_path_factory):
    spool = tmp_path_factory.mktemp("spool")
    [layer] = pack(["data"], archive="tar", spool=spool)
    assert len(list(spool.iterdir())) == 1
    layer.close()
    assert list(spool.iterdir()) == []
    layer.close()
    with pytest.raises(ContentError):
        layer.open()
    [layer] = pack(["data"], archive="tar", spool=spool)
    del layer
    assert list(spool.iterdir()) == []
    os.mkfifo(here / "data/pipe")
    for archive in TYPES:
        with pytest.raises(ContentError):
            pack(["data"], archive=archive, spool=spool)
        assert list(spool.iterdir()) == []


def test_missing_zstd_error_has_install_command(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(OcikitError) as caught:
        pack(["data"], archive="tar+zstd")
    assert "pip install ocikit[zstd]" in caught.value.hint


# Peers


@pytest.mark.peers("oras")
def test_oras_unpacks_folder_packed_by_ocikit(here, tmp_path_factory):
    [layer] = pack(["data"], archive="tar+gzip")
    layout = images.small(tmp_path_factory.mktemp("layout"))
    descriptor = images.put(layout, layer.descriptor.media_type, read(layer))
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "artifactType": "application/vnd.example",
        "config": images.put(layout, media_types.EMPTY, b"{}"),
        "layers": [descriptor | {"annotations": dict(layer.descriptor.annotations)}],
    }
    images._tag(layout, images.put(layout, images.MANIFEST, images.encode(manifest)), "data")
    out = tmp_path_factory.mktemp("oras")
    peers.run("oras", "pull", "--oci-layout", f"{layout}:data", "-o", out)
    assert differences(tree(out / "data"), tree(here / "data")) == []


@pytest.mark.peers("oras")
def test_ocikit_unpacks_folder_packed_by_oras(here, tmp_path_factory):
    (here / "data/sub/up").symlink_to("../a.csv")
    layout, out = tmp_path_factory.mktemp("layout"), tmp_path_factory.mktemp("out") / "data"
    peers.run("oras", "push", "--oci-layout", f"{layout}:data", "data", cwd=here)
    [entry] = json.loads((layout / "index.json").read_bytes())["manifests"]
    [layer] = json.loads(images.blob(layout, entry["digest"]).read_bytes())["layers"]
    assert layer["annotations"][UNPACK] == "true"
    with images.blob(layout, layer["digest"]).open("rb") as stream:
        unpack([(stream, layer["mediaType"])], out, confined=True, strip=layer["annotations"][TITLE])
    assert differences(tree(out), tree(here / "data")) == []
    ours = {layer.title: layer.descriptor.annotations.keys() for layer in pack(["data"], archive="tar+gzip")}
    assert ours == {layer["annotations"][TITLE]: layer["annotations"].keys()}


@pytest.mark.peers("tar")
def test_gnu_tar_reads_packed_folder(here):
    (here / ("data/" + "n" * 200)).write_text("long")
    (here / "data/link").symlink_to("n" * 200)
    [layer] = pack(["data"], archive="tar")
    result = subprocess.run([peers.find("tar"), "-t"], input=read(layer), capture_output=True, check=True)
    assert result.stderr == b""
    assert ("data/" + "n" * 200).encode() in result.stdout.splitlines()


def test_forked_child_deletes_no_packed_archive(here):
    """The temporary archive belongs to the process that packed it."""
    script = textwrap.dedent("""
        import os, sys
        from ocikit.layers.pack import pack
        [packed] = pack([sys.argv[1]], archive="tar")
        if os.fork() == 0:
            del packed
            sys.exit()
        os.wait()
        with packed.open() as stream:
            print(len(stream.read()) == packed.size)
    """)
    result = subprocess.run([sys.executable, "-c", script, "data"], capture_output=True, text=True, check=True)
    assert result.stdout == "True\n"
