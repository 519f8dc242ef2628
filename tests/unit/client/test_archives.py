"""Layers that are archives: images with wrong configs, folders of oras, charts of Helm, artifacts of Flux."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import ocikit
import pytest
from ocikit.spec.annotations import Annotations

from tests.support import images, peers
from tests.support.home import tree, write

CHART = {"chart/Chart.yaml": b"name: chart", "chart/templates/a.yaml": b"kind: Pod"}


def tar(files, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def push(home, *layers, config_type="application/vnd.example.config.v1+json", tag="v1"):
    """Push layers of (content, media type, annotations) to a layout and return the reference."""
    layout = ocikit.Layout(home / "store")
    config = ocikit.Descriptor.of(b"{}", config_type)
    layout.push_bytes(config, b"{}")
    descriptors = []
    for content, media_type, annotations in layers:
        plain = ocikit.Descriptor.of(content, media_type)
        descriptors.append(
            ocikit.Descriptor(
                media_type=media_type, digest=plain.digest, size=plain.size, annotations=Annotations(annotations)
            )
        )
        layout.push_bytes(plain, content)
    manifest = ocikit.Manifest(config=config, layers=tuple(descriptors))
    layout.push_bytes(manifest.descriptor, manifest.raw, tag=tag)
    return f"oci:store:{tag}"


OTHERS = {
    "helm": (
        "application/vnd.cncf.helm.config.v1+json",
        "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        "w:gz",
    ),
    "flux": ("application/vnd.cncf.flux.config.v1+json", "application/vnd.cncf.flux.content.v1.tar+gzip", "w:gz"),
    "wasm": ("application/vnd.example.config.v1+json", "application/vnd.example.tar.xz", "w:xz"),
    "plain tar": ("application/vnd.example.config.v1+json", "application/x-tar", "w"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_archives_of_other_tools_unpack_and_list(kind, home, session):
    config_type, media_type, mode = OTHERS[kind]
    signature = (b"-----BEGIN PGP", "application/vnd.cncf.helm.chart.provenance.v1.prov", {})
    ref = push(home, (tar(CHART, mode), media_type, {}), signature, config_type=config_type)
    art = session.inspect(ref)
    art.unpack("out")
    assert tree(home / "out") == CHART
    assert set(art.tree()) == {"chart", "chart/templates", *CHART}


def test_titled_tar_of_octets_unpacks(home, session):
    title = {"org.opencontainers.image.title": "data.tar.bz2"}
    session.inspect(push(home, (tar(CHART, "w:bz2"), "application/octet-stream", title))).unpack("out")
    assert tree(home / "out") == CHART


def test_tree_of_plain_files_is_refused_with_their_names_in_hint(home, session):
    title = {"org.opencontainers.image.title": "a.csv"}
    art = session.inspect(push(home, (b"a,b", "text/csv", title)))
    for call in (art.tree, lambda: art.unpack("out")):
        with pytest.raises(ocikit.ContentError) as caught:
            call()
        assert caught.value.message.endswith("has no archives: its layers are plain files")
        assert "list(artifact.files)" in caught.value.hint
    assert not (home / "out").exists()


WRONG = {
    "other": (["sha256:" + "0" * 64] * 2, "the uncompressed layer 1 is sha256:"),
    "fewer": (["sha256:" + "0" * 64], "the image has 2 layers, and its config has 1 diff_id"),
    "more": (["sha256:" + "0" * 64] * 3, "the image has 2 layers, and its config has 3 diff_ids"),
    "none": ([], "the image has 2 layers, and its config has 0 diff_ids"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_image_with_wrong_diff_ids_does_not_unpack(wrong, home, session):
    diff_ids, message = WRONG[wrong]
    layout = images.layered(home / "image", tar({"a": b"1"}), tar({"b": b"2"}), diff_ids=diff_ids)
    art = session.inspect(f"oci:{layout}:latest")
    for call in (art.tree, lambda: art.unpack("out")):
        with pytest.raises(ocikit.ContentError, match=message) as caught:
            call()
        assert "ask its publisher" in caught.value.hint
    assert not (home / "out").exists()


# Packed folders, pulled into a folder


@pytest.fixture(params=["tar", "tar+gzip", "tar+zstd"])
def packed(request, home, session):
    """Push a folder as an archive, and return the reference."""
    return push_folder(session, FILES, archive=request.param)


FILES = {"data/a.csv": "x,y\n", "data/deep/b.bin": bytes(range(256)) * 40, "data/deep/same": "x,y\n"}


def push_folder(session, files, archive="tar+gzip", tag="v1"):
    shutil.rmtree("data", ignore_errors=True)
    write(Path(), files)
    session.push(f"oci:store:{tag}", "data", archive=archive)
    shutil.rmtree("data")
    return f"oci:store:{tag}"


def content(files):
    return {name: value.encode() if isinstance(value, str) else value for name, value in files.items()}


def test_pull_unpacks_packed_folder(packed, home, session):
    art = session.pull(packed, "out")
    assert tree(home / "out") == content(FILES)
    assert ", unpacked to 3 files in " in art.summary
    assert (home / "out/data/a.csv").stat().st_mode & 0o600 == 0o600
    assert art["data"].read() == Path(os.fspath(art["data"])).read_bytes()


def test_second_pull_of_packed_folder_changes_nothing(packed, home, session):
    session.pull(packed, "out")
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (home / "out").rglob("*")}
    again = session.pull(packed, "out")
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (home / "out").rglob("*")} == before
    assert {file.decision for file in session.pull(packed, "out", dry_run=True).plan.files} == {"present"}
    assert "already there" in again.summary
    assert not list((home / "out/.ocikit/partial").iterdir())


def test_second_pull_of_unchanged_archive_needs_no_content(home, server, session):
    write(home, FILES)
    ref = session.push(f"{server.host}/t/d:v1", "data", archive="tar+gzip").reference
    session.pull(ref, "out")
    shutil.rmtree(session.cache.root)
    server.requests.clear()
    session.pull(ref, "out")
    assert not [request for request in server.requests if "/blobs/" in request.target and request.method == "GET"]


def test_packed_folder_is_unpacked_without_writable_cache(home, session, caplog):
    write(home, FILES | {"file": ""})
    session.push("oci:store:v1", "data", archive="tar+gzip")
    with ocikit.Session(cache=home / "file" / "cache", progress=False) as other:
        other.pull("oci:store:v1", "out")
    assert tree(home / "out") == content(FILES)
    assert "unpacking without the cache" in caplog.text


def test_damaged_cached_archive_is_fetched_again(home, server, session):
    write(home, FILES)
    art = session.push(f"{server.host}/t/d:v1", "data", archive="tar+gzip")
    layer = session.pull(art.reference).files["data"].descriptor
    path = session.cache.path(layer.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-8] + b"damaged!")
    session.pull(art.reference, "out")
    assert tree(home / "out") == content(FILES)


def test_deleted_file_of_packed_folder_comes_back(packed, home, session):
    session.pull(packed, "out")
    (home / "out/data/a.csv").unlink()
    session.pull(packed, "out")
    assert tree(home / "out") == content(FILES)


def test_edited_file_of_packed_folder_stops_pull(packed, home, session):
    session.pull(packed, "out")
    (home / "out/data/a.csv").write_text("mine")
    (home / "out/data/notes").write_text("also mine")
    newer = push_folder(session, FILES | {"data/a.csv": "newer", "data/new": "n"}, tag="v2")
    for ref in (packed, newer):
        with pytest.raises(ocikit.ContentError, match="data/a.csv") as caught:
            session.pull(ref, "out")
        assert "force=True" in caught.value.hint
        assert tree(home / "out") == content(FILES) | {"data/a.csv": b"mine", "data/notes": b"also mine"}
        assert not list((home / "out/.ocikit/partial").iterdir())
    session.pull(newer, "out", force=True)
    expected = content(FILES) | {"data/a.csv": b"newer", "data/new": b"n", "data/notes": b"also mine"}
    assert tree(home / "out") == expected


def test_newer_packed_folder_replaces_changed_and_removes_old_files(packed, home, session):
    session.pull(packed, "out")
    kept = (home / "out/data/a.csv").stat()
    newer = push_folder(session, {"data/a.csv": "x,y\n", "data/deep": "a file now"}, tag="v2")
    session.pull(newer, "out")
    assert tree(home / "out") == {"data/a.csv": b"x,y\n", "data/deep": b"a file now"}
    assert (home / "out/data/a.csv").stat().st_ino == kept.st_ino
    session.pull(packed, "out")
    assert tree(home / "out") == content(FILES)


def test_packed_folder_can_stay_an_archive_and_change_over(packed, home, session):
    session.pull(packed, "out", archive=False)
    assert (home / "out/data").read_bytes() == session.inspect(packed)["data"].read()
    session.pull(packed, "out")
    assert tree(home / "out") == content(FILES)
    session.pull(packed, "out", archive=False)
    assert (home / "out/data").is_file()


def test_dry_run_of_packed_folder_plans_and_changes_nothing(packed, home, session):
    plan = session.pull(packed, "out", dry_run=True).plan
    assert [archive.layer.title for archive in plan.packed] == ["data"]
    assert plan.size == session.inspect(packed)["data"].size
    assert "to unpack" in plan._repr_html_()
    assert not (home / "out").exists()


def test_files_and_archives_share_a_folder(home, session):
    write(home, {"plain.txt": "p", **FILES})
    session.push("oci:store:v1", "data", "plain.txt", archive="tar")
    session.pull("oci:store:v1", "out", include="plain.txt")
    assert tree(home / "out") == {"plain.txt": b"p"}
    session.pull("oci:store:v1", "out")
    assert tree(home / "out") == content(FILES) | {"plain.txt": b"p"}
    session.push("oci:store:v2", "plain.txt")
    session.pull("oci:store:v2", "out")
    assert tree(home / "out") == {"plain.txt": b"p"}
    assert not (home / "out/data").exists()


def test_two_archives_of_one_folder_do_not_mix_records(home, session):
    first = push_folder(session, FILES)
    write(home, {"data/a.csv": "x,y\n", "data/other": "o"})
    session.push("oci:second:v1", "data", archive="tar")
    session.pull(first, "out")
    session.pull("oci:second:v1", "out")
    (home / "out/data/a.csv").unlink()
    session.pull(first, "out")
    assert tree(home / "out") == content(FILES) | {"data/other": b"o"}


def test_links_modes_and_empty_folders_of_packed_folder_are_kept(home, session):
    write(home, FILES)
    (home / "data/run.sh").write_text("#!/bin/sh")
    (home / "data/run.sh").chmod(0o755)
    (home / "data/link").symlink_to("deep/b.bin")
    (home / "data/empty").mkdir()
    session.push("oci:store:v1", "data", archive="tar+gzip")
    session.pull("oci:store:v1", "out")
    out = home / "out/data"
    assert (os.readlink(out / "link"), (out / "empty").is_dir()) == ("deep/b.bin", True)
    assert os.access(out / "run.sh", os.X_OK) and not os.access(out / "a.csv", os.X_OK)
    assert {file.decision for file in session.pull("oci:store:v1", "out", dry_run=True).plan.files} == {"present"}
    (out / "link").unlink()
    (out / "link").symlink_to("a.csv")
    with pytest.raises(ocikit.ContentError, match="data/link"):
        session.pull("oci:store:v1", "out")
    session.pull("oci:store:v1", "out", force=True)
    assert os.readlink(out / "link") == "deep/b.bin"


def folder_layer(*members, title="data", **annotations):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, fields, value in members:
            info = tarfile.TarInfo(name)
            info.size = len(value)
            for key, field in fields.items():
                setattr(info, key, field)
            archive.addfile(info, io.BytesIO(value))
    unpack = {"org.opencontainers.image.title": title, "io.deis.oras.content.unpack": "true", **annotations}
    return stream.getvalue(), "application/vnd.oci.image.layer.v1.tar", unpack


LINK = {"type": tarfile.SYMTYPE, "linkname": "../../secret"}
HOSTILE = {
    "absolute path": [("/etc/x", {}, b"evil")],
    "path upwards": [("data/../../secret", {}, b"evil")],
    "link out": [("data/l", LINK, b"")],
    "another folder": [("other/x", {}, b"evil")],
    "own records": [("data/.ocikit/manifest.json", {}, b"{}")],
    "device": [("data/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b"")],
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_packed_folder_writes_nothing(attack, home, session):
    (home.parent / "secret").write_bytes(b"untouched")
    ref = push(home, folder_layer(("data/fine", {}, b"1"), *HOSTILE[attack]))
    with pytest.raises(ocikit.UnsafeArchive):
        session.pull(ref, "out")
    assert tree(home / "out") == {}
    assert (home.parent / "secret").read_bytes() == b"untouched"
    session.pull(ref, "out", archive=False)
    assert (home / "out/data").is_file()


def test_packed_folder_with_other_content_digest_is_rejected(home, session):
    other = {"io.deis.oras.content.digest": "sha256:" + "0" * 64}
    with pytest.raises(ocikit.ContentError, match="the uncompressed layer 1 is"):
        session.pull(push(home, folder_layer(("data/x", {}, b"1"), **other)), "out")


def test_hard_links_of_packed_folder_become_separate_files(home, session):
    hard = {"type": tarfile.LNKTYPE, "linkname": "data/a"}
    session.pull(push(home, folder_layer(("data/a", {}, b"1"), ("data/b", hard, b""))), "out")
    assert tree(home / "out") == {"data/a": b"1", "data/b": b"1"}
    assert (home / "out/data/a").stat().st_nlink == 1


@pytest.mark.parametrize("title", [".", "./"])
def test_packed_current_folder_unpacks_to_top(title, home, session):
    session.pull(push(home, folder_layer(("a", {}, b"1"), ("./d/b", {}, b"2"), title=title)), "out")
    assert tree(home / "out") == {"a": b"1", "d/b": b"2"}


def test_every_tar_layer_is_unpacked_when_asked(home, session):
    config_type, media_type, mode = OTHERS["helm"]
    ref = push(home, (tar(CHART, mode), media_type, {}), config_type=config_type)
    session.pull(ref, "kept")
    assert len(tree(home / "kept")) == 1
    session.pull(ref, "out", archive=True)
    assert tree(home / "out") == CHART
    assert {file.decision for file in session.pull(ref, "out", archive=True, dry_run=True).plan.files} == {"present"}


def test_archive_option_needs_folder_and_no_image(home, session):
    ref = push(home, (tar(CHART), "application/x-tar", {}))
    with pytest.raises(ocikit.InvalidArgument, match="needs a folder"):
        session.pull(ref, archive=True)
    with pytest.raises(ocikit.InvalidArgument, match="layers of an image"):
        session.pull(f"oci:{images.small(home / 'image')}:latest", "out", archive=True)


@pytest.mark.interop
@pytest.mark.peers("oras")
def test_folder_pushed_by_oras_is_unpacked_by_pull(home, session):
    write(home, FILES)
    (home / "data/empty").mkdir()
    peers.run("oras", "push", "--oci-layout", f"{home / 'lay'}:v1", "data/", cwd=home)
    session.pull("oci:lay:v1", "out")
    assert tree(home / "out") == content(FILES)
    assert (home / "out/data/empty").is_dir()
