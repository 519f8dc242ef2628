"""End-to-end tests of the verbs: arguments, files on disk and requests."""

import copy
import inspect
import io
import json
import logging
import os
import pickle
import re
import tarfile
import time
import zipfile
from pathlib import Path

import attrs
import ocikit
import pytest
from ocikit.spec import media_types

from tests.support.fake_registry import FakeRegistry, Response, certificate
from tests.support.home import QUICK, moved, state, tree, write

DATA = {"data/a.csv": "x\n1\n", "data/deep/b.bin": bytes(range(256)) * 400, "data/c.txt": ""}


@pytest.fixture
def data(home):
    """Create a folder `data` in the working folder and return its content."""
    write(home, DATA)
    return {name: content.encode() if isinstance(content, str) else content for name, content in DATA.items()}


@pytest.fixture
def art(data, server, session):
    """Push `data` to HOST/t/d:v1 and return the artifact; the cache stays empty."""
    pushed = session.push(f"{server.host}/t/d:v1", "data")
    server.requests.clear()
    return pushed


@pytest.fixture(params=["registry", "layout", "archive"])
def target(request, home):
    """Return a reference without a tag; every verb must accept each kind."""
    if request.param == "registry":
        return f"{request.getfixturevalue('server').host}/t/d"
    return {"layout": "oci:store", "archive": "oci-archive:store.tar"}[request.param]


def image(session, reference, platform="linux/amd64", files=("etc/hostname",), parent=None):
    """Write a small image to a layout and return its descriptor."""
    import hashlib
    import io

    store = ocikit.Layout(reference)
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(platform)
            tar.addfile(entry, io.BytesIO(platform.encode()))
    layer = ocikit.Descriptor.of(raw.getvalue(), media_types.OCI_LAYER)
    os_, arch = platform.split("/")
    diff = f"sha256:{hashlib.sha256(raw.getvalue()).hexdigest()}"
    config = json.dumps({"os": os_, "architecture": arch, "rootfs": {"type": "layers", "diff_ids": [diff]}}).encode()
    described = ocikit.Descriptor.of(config, media_types.OCI_CONFIG)
    manifest = ocikit.Manifest(config=described, layers=(layer,))
    store.push_bytes(layer, raw.getvalue())
    store.push_bytes(described, config)
    store.push_bytes(manifest.descriptor, manifest.raw, tag=platform.replace("/", "-"))
    return manifest.descriptor


def images(home, *platforms, tag="v1"):
    """Write a layout `images` with a tagged index of small images and return its reference."""
    import attrs

    children = []
    for platform in platforms:
        described = image(None, home / "images", platform)
        children.append(attrs.evolve(described, platform=ocikit.Platform.parse(platform)))
    index = ocikit.Index(manifests=tuple(children))
    ocikit.Layout(home / "images").push_bytes(index.descriptor, index.raw, tag=tag)
    return "oci:images:" + tag


# Pulling


def test_pull_returns_pushed_bytes(target, data, session, home):
    pushed = session.push(f"{target}:v1", "data")
    pulled = session.pull(f"{target}:v1", "back")
    assert tree(home / "back") == data
    assert pulled.digest == pushed.digest == ocikit.Digest.of(pulled.document.raw)
    assert pulled.path == home / "back"
    assert str(pulled.reference) == f"{target}:v1@{pushed.digest}"


@pytest.mark.parametrize("words", [True, False])
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_first_verb_detects_tls_of_local_registry(data, home, verb, words):
    paths = certificate(home.parent)
    with FakeRegistry(tls=paths, tls_words=words) as server:
        ref, network = f"localhost:{server.port}/t/d:v1", attrs.evolve(QUICK, ca=str(paths[0]))
        if verb == "pull":
            with ocikit.Session(network=attrs.evolve(network, schemes={ref.partition("/")[0]: "https"})) as other:
                other.push(ref, "data")
        with ocikit.Session(network=network) as session:
            if verb == "push":
                session.push(ref, "data")
            session.pull(ref, "back")
        assert tree(home / "back") == data


def test_pull_without_folder_returns_read_only_cached_files(target, data, session, home):
    session.push(f"{target}:v1", "data")
    pulled = session.pull(f"{target}:v1")
    assert tree(Path(pulled)) == data
    assert Path(pulled).is_relative_to(os.environ["OCIKIT_CACHE"])
    assert not os.stat(Path(pulled) / "data/a.csv").st_mode & 0o222


def test_second_pull_to_cache_sends_one_head_request(art, data, session, server):
    first = session.pull(f"{server.host}/t/d:v1")
    assert sorted(moved(server)) == [
        "GET blobs",
        "GET blobs",
        "GET manifests",
        "HEAD manifests",
    ]  # c.txt is empty and needs no request
    second = session.pull(f"{server.host}/t/d:v1")
    assert moved(server) == ["HEAD manifests"]
    assert second.path == first.path
    assert "already there" in second.summary


def test_cached_pinned_reference_sends_no_request(art, session, server):
    session.pull(f"{server.host}/t/d:v1")
    server.requests.clear()
    again = session.pull(art.reference)
    (
        again.read("data/a.csv"),
        again.config,
        list(again.files),
        session.inspect(art.reference),
        session.pin(art.reference),
    )
    assert moved(server) == []


def test_second_pull_to_folder_moves_nothing(art, session, server, home):
    session.pull(f"{server.host}/t/d:v1", "out")
    assert moved(server).count("GET blobs") == 2
    before = state(home / "out")
    session.pull(f"{server.host}/t/d:v1", "out")
    assert moved(server) == ["HEAD manifests"]
    assert state(home / "out") == before


def test_pull_to_folder_stores_no_copy_in_cache(art, session, server, data):
    session.pull(f"{server.host}/t/d:v1", "out")
    blobs = [p for p in Path(os.environ["OCIKIT_CACHE"]).rglob("*") if p.is_file() and p.parent.name == "sha256"]
    assert [ocikit.Digest.of(p.read_bytes()) for p in blobs] == [art.digest]  # documents only


def test_pull_to_folder_copies_cached_content_without_request(art, session, server, data, home):
    session.pull(f"{server.host}/t/d:v1")
    server.requests.clear()
    session.pull(f"{server.host}/t/d:v1", "out")
    assert moved(server) == ["HEAD manifests"]
    assert tree(home / "out") == data
    (home / "out/data/a.csv").write_text("edited")  # an edit, which must not change the cache
    assert session.pull(f"{server.host}/t/d:v1").read("data/a.csv") == data["data/a.csv"]


def test_pull_of_moved_tag_fetches_only_changes(art, session, server, home):
    session.pull(f"{server.host}/t/d:v1", "out")
    write(home, {"data/a.csv": "x\n2\n"})
    os.unlink(home / "data/c.txt")
    session.push(f"{server.host}/t/d:v1", "data")
    server.requests.clear()
    session.pull(f"{server.host}/t/d:v1", "out")
    assert moved(server).count("GET blobs") == 1
    assert tree(home / "out")["data/a.csv"] == b"x\n2\n"
    assert "data/c.txt" not in tree(home / "out")


def test_include_and_exclude_select_files(art, session, server, home):
    session.pull(f"{server.host}/t/d:v1", "one", include="*.csv")
    assert set(tree(home / "one")) == {"data/a.csv"}
    assert moved(server).count("GET blobs") == 1
    session.pull(f"{server.host}/t/d:v1", "two", include=["data/"], exclude=["data/deep/"])
    assert set(tree(home / "two")) == {"data/a.csv", "data/c.txt"}
    session.pull(f"{server.host}/t/d:v1", "one", exclude="*.csv")  # keeps the files of the first pull
    assert set(tree(home / "one")) == set(DATA)
    with pytest.raises(ocikit.FileNotInArtifact, match=r"no file matches include=\['\*.parquet'\]") as caught:
        session.pull(f"{server.host}/t/d:v1", "three", include="*.parquet")
    assert "data/deep/b.bin" in caught.value.hint
    assert not (home / "three").exists()


@pytest.fixture
def mixed(home, session):
    """Return a reference of an artifact with a usable title, an absolute path, and two files of one title."""
    store = ocikit.Layout(home / "mixed")
    contents = {"good.csv": b"1", "/home/ci/bad.bin": b"2", "twin": b"3", "./twin": b"4"}
    layers = []
    for title, content in contents.items():
        layers.append(ocikit.Descriptor.of(content, "text/csv", annotations={"org.opencontainers.image.title": title}))
        store.push_bytes(layers[-1], content)
    empty = ocikit.Descriptor.of(b"{}", media_types.EMPTY)
    store.push_bytes(empty, b"{}")
    manifest = ocikit.Manifest(artifact_type="a/b", config=empty, layers=tuple(layers))
    store.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    return "oci:mixed:v1"


def test_unusable_title_does_not_block_other_files(mixed, session, home):
    art = session.inspect(mixed)
    assert list(art) == list(art.files) == ["good.csv"]
    session.pull(mixed, "out", include="good.csv")
    assert tree(home / "out") == {"good.csv": b"1"}
    session.pull(mixed, "rest", exclude=["/home/*", "*twin"])
    assert tree(home / "rest") == {"good.csv": b"1"}
    assert (session.pull(mixed, include="*.csv").path / "good.csv").read_bytes() == b"1"
    assert session.open(mixed, "good.csv").read() == session.download(mixed, "good.csv").read_bytes() == b"1"


@pytest.mark.parametrize("to", ["out", None])
@pytest.mark.parametrize("options", [{}, {"include": "/home/*"}, {"include": "*twin"}])
def test_pull_of_unusable_title_is_refused_before_fetching(mixed, session, home, to, options):
    before = state(home)
    with pytest.raises(ocikit.errors.UnsafeArchive, match="is an absolute path|two files have the title"):
        session.pull(mixed, to, **options)
    assert state(home) == before and not list(session.cache.root.rglob("sha256/*"))[2:]


def test_file_with_unusable_title_is_read_by_digest(mixed, session):
    art = session.inspect(mixed)
    assert [file.read() for file in art.unnamed.values()] == [b"2", b"3", b"4"]
    with pytest.raises(ocikit.errors.UnsafeArchive, match="'/home/ci/bad.bin' is an absolute path") as caught:
        session.open(mixed, "/home/ci/bad.bin")
    digest = ocikit.Digest.of(b"2")
    assert f"open(ref, '{digest}')" in caught.value.hint
    assert session.open(mixed, digest).read() == art[digest].read() == art.read(digest) == b"2"
    path = session.download(mixed, digest)
    assert (path.name, path.read_bytes()) == (f"sha256-{digest.encoded[:12]}", b"2")
    assert art[art.unnamed[digest].name].digest == digest
    assert "titles that cannot be file names" in art._repr_html_() and digest in art._repr_html_()


def test_pull_overwrites_edited_files_only_with_force(art, session, server, data, home):
    session.pull(f"{server.host}/t/d:v1", "out")
    (home / "out/data/a.csv").write_text("edited")
    before = state(home / "out")
    with pytest.raises(ocikit.ContentError, match="data/a.csv") as caught:
        session.pull(f"{server.host}/t/d:v1", "out")
    assert "force=True" in caught.value.hint
    assert state(home / "out") == before
    session.pull(f"{server.host}/t/d:v1", "out", force=True)
    assert tree(home / "out") == data


def test_pull_dry_run_shows_plan_and_creates_no_folder(art, session, server, home):
    before = state(home)
    to_folder = session.pull(f"{server.host}/t/d:v1", "out", dry_run=True)
    to_cache = session.pull(f"{server.host}/t/d:v1", dry_run=True)
    assert state(home) == before
    assert [f.decision for f in to_folder.plan.files] == ["fetch"] * 3
    assert to_folder.plan.size == sum(len(v) for v in DATA.values())
    assert {s.descriptor.title: s.outcome for s in to_cache.plan.items if s.descriptor.title} == dict.fromkeys(
        DATA, "moved"
    )
    assert "GET blobs" not in moved(server)
    assert to_folder.path is None


def test_offline_pull_uses_last_known_tag_with_warning(art, session, server, data, monkeypatch, caplog):
    session.pull(f"{server.host}/t/d:v1")
    server.requests.clear()
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    with caplog.at_level(logging.WARNING, "ocikit"):
        pulled = session.pull(f"{server.host}/t/d:v1")
    assert tree(Path(pulled)) == data
    assert "offline" in caplog.text and "t/d:v1 as it was on" in caplog.text
    assert pulled.digest == art.digest
    assert moved(server) == []


def test_offline_read_of_uncached_content_names_it(art, session, server, monkeypatch, home):
    session.inspect(f"{server.host}/t/d:v1")
    server.requests.clear()
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    for ref in (f"{server.host}/t/d:v2", f"{server.host}/t/d@sha256:{'0' * 64}", f"{server.host}/t/d:v1"):
        with pytest.raises(ocikit.OfflineError, match="OCIKIT_OFFLINE"):
            session.pull(ref)
    for call in (
        lambda: session.tags(f"{server.host}/t/d"),
        lambda: session.catalog(server.host),
        lambda: session.push(f"{server.host}/t/d:v3", "data"),
        lambda: session.delete(f"{server.host}/t/d:v1"),
        lambda: session.tag(f"{server.host}/t/d:v1", "x"),
        lambda: session.referrers(f"{server.host}/t/d:v1"),
        lambda: session.copy("oci:nope", f"{server.host}/t/d"),
        lambda: session.ping(server.host),
    ):
        with pytest.raises(ocikit.OcikitError) as caught:
            call()
        assert isinstance(caught.value, ocikit.OfflineError | ocikit.NotFound)
    assert moved(server) == []


def test_layouts_work_offline(data, session, monkeypatch, home):
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    session.push("oci:store:v1", "data")
    session.pull("oci:store:v1", "back")
    assert tree(home / "back") == data


def test_pull_selects_own_or_given_platform(home, session):
    host = str(ocikit.Platform.host())
    ref = images(home, "linux/s390x", "linux/riscv64", host)
    assert session.pull(ref).config.architecture == ocikit.Platform.host().architecture
    assert session.pull(ref, platform="linux/riscv64").config.architecture == "riscv64"
    assert session.inspect(ref).is_index
    assert [str(p) for p in session.inspect(ref).platforms] == ["linux/s390x", "linux/riscv64", host]


def test_missing_platform_lists_available_ones(home, session):
    ref = images(home, "linux/s390x", "linux/riscv64")
    with pytest.raises(ocikit.NoMatchingPlatform, match="It has linux/s390x, linux/riscv64") as caught:
        session.pull(ref, "out", platform="windows/amd64")
    assert [str(p) for p in caught.value.available] == ["linux/s390x", "linux/riscv64"]
    assert not (home / "out").exists()


def test_tilde_in_paths_is_home_folder(home, session, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, {"data/a.txt": "a", "data/deep/b.txt": "b"})
    assert list(session.push("oci:store:v1", "~/data")) == ["data/a.txt", "data/deep/b.txt"]
    packed = session.push("oci:store:v2", "~/data", archive="tar+gzip")
    packed.unpack("~/root")
    assert (tmp_path / "root/data/a.txt").read_text() == "a" and not (home / "~").exists()
    session.attach("oci:store:v1", "~/data/a.txt", artifact_type="text/x-note")
    with ocikit.serve("~/registry") as server:
        assert server.path == tmp_path / "registry"


@pytest.fixture(params=["registry", "layout", "archive"])
def arm(request, home, session):
    """Return a reference to a single image for linux/arm64, in each kind of store."""
    image(session, home / "images", "linux/arm64")
    local = "oci:images:linux-arm64"
    ref = {"layout": local, "archive": "oci-archive:images.tar:arm"}.get(request.param)
    ref = ref or f"{request.getfixturevalue('server').host}/t/image:arm"
    if ref != local:
        session.copy(local, ref)
    return ref


OTHER = r"No linux/amd64 here\. sha256:[0-9a-f]+ is a single image for linux/arm64\."


@pytest.mark.parametrize("platform", ["linux/amd64", ocikit.Platform.parse("linux/amd64")])
def test_single_image_of_other_platform_is_refused(arm, session, platform):
    verbs = (
        lambda: session.pull(arm, platform=platform),
        lambda: session.pull(arm, "out", platform=platform, dry_run=True),
        lambda: session.inspect(arm, platform=platform),
        lambda: session.copy(arm, "oci:copy:v1", platform=platform),
        lambda: session.copy(arm, "docker-archive:copy.tar:a/b:v1", platform=platform),
        lambda: session.open(arm, "layer", platform=platform),
        lambda: session.download(arm, "layer", platform=platform),
        lambda: session.pull(arm).pull("out", platform=platform),
        lambda: session.validate(arm, platform=platform),
    )
    for verb in verbs:
        with pytest.raises(ocikit.NoMatchingPlatform, match=OTHER) as caught:
            verb()
        assert [str(p) for p in caught.value.available] == ["linux/arm64"]
    assert not Path("out").exists() and not Path("copy.tar").exists()


def test_single_image_of_same_platform_is_used(arm, session):
    for platform in ("linux/arm64", "linux/arm64/v8", "linux/aarch64", lambda d: d.platform.architecture == "arm64"):
        assert session.pull(arm, platform=platform).config.architecture == "arm64"
        assert session.inspect(arm, platform=platform).is_image
        assert session.copy(arm, "oci:copy:v1", platform=platform).is_image
        assert session.validate(arm, platform=platform).ok
    with pytest.raises(ocikit.NoMatchingPlatform, match="No such platform here"):
        session.pull(arm, platform=lambda d: d.platform.os == "windows")


def test_single_image_without_platform_argument_is_used(arm, session):
    assert session.pull(arm).config.architecture == "arm64"
    session.copy(arm, "docker-archive:copy.tar:a/b:v1")
    assert session.inspect("docker-archive:copy.tar").config.architecture == "arm64"


def test_platform_is_ignored_for_artifacts_without_one(art, session):
    assert session.pull(str(art.reference), platform="linux/arm64").read("data/a.csv")


def test_pull_resolves_nested_index(home, session):
    images(home, "linux/s390x", tag="inner")
    layout = ocikit.Layout(home / "images")
    outer = ocikit.Index(manifests=(layout.resolve("inner"),))
    layout.push_bytes(outer.descriptor, outer.raw, tag="outer")
    assert session.pull("oci:images:outer", platform="linux/s390x").config.architecture == "s390x"


def test_image_lists_tree_and_unpacks(home, session):
    images(home, "linux/s390x")
    art = session.pull("oci:images:v1", platform="linux/s390x")
    assert art.is_image and art.path is None
    assert "etc/hostname" in art.tree()
    art.unpack(home / "root")
    assert (home / "root/etc/hostname").read_text() == "linux/s390x"
    assert isinstance(art.config, ocikit.ImageConfig)


def test_packed_folder_unpacks(target, data, session, home):
    for kind in ("tar", "tar+gzip"):
        pushed = session.push(f"{target}:v1", "data", archive=kind)
        assert len(pushed.files) == 1
        session.pull(f"{target}:v1").unpack(home / kind)
        assert tree(home / kind) == data


def test_artifact_pull_writes_folder(art, session, data, home):
    saved = session.inspect(art.reference).pull("out")
    assert tree(home / "out") == data
    assert saved.path == home / "out"


# Pushing


def test_push_keeps_relative_paths_of_folders(target, data, session, home):
    pushed = session.push(f"{target}:v1", "data")
    assert set(pushed.files) == set(DATA)
    assert set(session.push(f"{target}:v2", home / "data").files) == set(
        DATA
    )  # names from an absolute path begin with the folder
    assert set(session.push(f"{target}:v3", "data/deep/b.bin").files) == {"data/deep/b.bin"}


def test_same_files_have_same_digest_in_every_store(data, session, server, home):
    digests = {
        session.push(ref, "data").digest
        for ref in (f"{server.host}/t/d:v1", f"{server.host}/t/e:v2", "oci:store:v1", "oci-archive:store.tar:v1")
    }
    assert len(digests) == 1
    archived = {session.push(f"oci:store:{i}", "data", archive="tar+gzip").digest for i in range(2)}
    assert len(archived) == 1


def test_push_without_tag_is_tagged_latest(target, data, session):
    assert session.push(target, "data").reference.digest == session.pin(f"{target}:latest").digest
    assert list(session.tags(target)) == ["latest"]


def test_push_sets_several_tags(target, data, session):
    pushed = session.push(f"{target}:v1", "data", tags=["v1.2", "stable"])
    assert sorted(session.tags(target)) == ["stable", "v1", "v1.2"]
    assert {session.pin(f"{target}:{t}").digest for t in ("v1", "v1.2", "stable")} == {pushed.digest}


def test_push_stores_types_annotations_and_config(target, data, session):
    pushed = session.push(
        f"{target}:v1",
        "data",
        artifact_type="application/vnd.example.set",
        annotations={"a": "ü", "b": ""},
        config={"rows": 3},
        config_type="application/vnd.example.config+json",
        media_types={"data/a.csv": "text/x"},
    )
    result = session.inspect(f"{target}:v1")
    assert result.kind == "application/vnd.example.set"
    assert dict(result.annotations) == {"a": "ü", "b": ""}
    assert result.config["rows"] == 3
    assert result.manifest.config.media_type == "application/vnd.example.config+json"
    assert result["data/a.csv"].media_type == "text/x"
    assert pushed.digest == result.digest


def test_second_push_uploads_only_manifest(art, session, server):
    session.push(f"{server.host}/t/d:v2", "data")
    requests = moved(server)
    assert "PUT manifests" in requests
    assert not [a for a in requests if a.endswith("uploads")]


def test_push_uploads_shared_content_once(session, server, home):
    write(home, {f"data/{i}": "same" for i in range(20)})
    session.push(f"{server.host}/t/d:v1", "data")
    assert moved(server).count("PUT uploads") == 2  # the content, and the empty config
    session.pull(f"{server.host}/t/d:v1", "out")
    assert moved(server).count("GET blobs") == 1
    assert len(tree(home / "out")) == 20


def test_push_with_rejected_blob_sets_no_tag(data, session, server):
    server.on(
        "PUT",
        r"/v2/t/d/blobs/uploads/.*",
        times=None,
        status=403,
        body=b'{"errors":[{"code":"DENIED","message":"no"}]}',
    )
    with pytest.raises(ocikit.Denied, match="DENIED"):
        session.push(f"{server.host}/t/d:v1", "data")
    assert not server.tags and not server.manifests


def test_push_dry_run_leaves_no_files(target, data, session, server, home):
    before = state(home)
    planned = session.push(f"{target}:v1", "data", dry_run=True)
    assert state(home) == before
    assert not server.blobs and not server.manifests and not server.uploads
    assert {s.outcome for s in planned.plan.items} == {"moved"}
    assert planned.plan.tags == ("v1",)
    real = session.push(f"{target}:v1", "data")
    assert real.digest == planned.digest
    assert {
        s.outcome for s in session.push(f"{target}:v1", "data", dry_run=True).plan.items if not s.descriptor.is_document
    } == {"present"}


def test_push_names_left_out_files_in_summary(target, data, session, home):
    write(home, {"data/.git/config": "x", "data/.DS_Store": "x", "data/n/__pycache__/m.pyc": "x"})
    pushed = session.push(f"{target}:v1", "data")
    assert sorted(pushed.files) == sorted(data)
    assert pushed.summary.endswith("; left out: data/.DS_Store, data/.git/, data/n/__pycache__/")
    assert len(session.push(f"{target}:v1", "data", hidden=True).files) == 6


def test_push_refuses_secret_unless_asked_for(target, data, session, home):
    write(home, {"data/.env": "TOKEN=hunter2"})
    for options in ({}, {"dry_run": True}, {"archive": "tar"}):
        with pytest.raises(
            ocikit.errors.ContentError, match="look like secrets would be published: data/.env"
        ) as caught:
            session.push(f"{target}:v1", "data", **options)
        assert "hunter2" not in str(caught.value)
    pushed = session.push(f"{target}:v1", "data", secrets=True)
    assert pushed.summary.endswith("; with what looks like a secret: data/.env")
    with pytest.raises(ocikit.errors.ContentError, match="look like secrets"):
        session.attach(f"{target}:v1", "data/.env", artifact_type="application/vnd.example")
    attached = session.attach(f"{target}:v1", "data/.env", artifact_type="application/vnd.example", secrets=True)
    assert "secret: data/.env" in attached.summary


def test_push_follows_links_of_hugging_face_snapshot(target, session, home):
    write(home, {"hub/blobs/1f": "{}", "hub/snapshots/main/README.md": "# a"})
    (home / "hub/snapshots/main/config.json").symlink_to("../../blobs/1f")
    with pytest.raises(ocikit.errors.ContentError, match="leads out of its folder") as caught:
        session.push(f"{target}:v1", "hub/snapshots/main/.")
    assert 'links="follow"' in caught.value.hint
    pushed = session.push(f"{target}:v1", "hub/snapshots/main/.", links="follow")
    assert {file.name: file.media_type for file in pushed.files.values()} == {
        "README.md": "text/markdown",
        "config.json": "application/json",
    }
    assert list(session.push(f"{target}:v1", "hub/snapshots/main/.", links="skip").files) == ["README.md"]
    kind = {"artifact_type": "application/vnd.example"}
    assert len(session.attach(f"{target}:v1", "hub/snapshots/main", links="follow", **kind).files) == 2
    with pytest.raises(ocikit.errors.InvalidArgument, match="links='all' is unknown"):
        session.push(f"{target}:v1", "hub/snapshots/main", links="all")


@pytest.mark.parametrize("dry_run", [True, False])
def test_push_of_too_many_files_names_limit_and_remedy(server, session, home, monkeypatch, dry_run):
    monkeypatch.setattr("ocikit.client.push.DOCUMENT_LIMIT", 1 << 20)
    write(home, {f"many/{i:05}.json": "" for i in range(6000)})
    with pytest.raises(ocikit.errors.ContentError, match="manifest of 6,000 files has 1.1 MiB") as caught:
        session.push(f"{server.host}/t/d:v1", "many", dry_run=dry_run)
    assert "registries accept 1 MiB" in caught.value.message
    assert 'shards="zip"' in caught.value.hint and "index=True" in caught.value.hint
    assert not server.requests


def test_push_of_folder_with_dot_puts_files_at_root(target, session, home):
    write(home, {"waves/sine.csv": "0", "waves/sub/cosine.csv": "1"})
    session.push(f"{target}:v1", "waves/.")
    session.pull(f"{target}:v1", "waves/")
    pushed = session.push(f"{target}:v1", "waves/.")
    assert list(pushed.files) == ["sine.csv", "sub/cosine.csv"]


@pytest.mark.parametrize("archive", [None, "tar+gzip"])
def test_pull_into_folder_of_same_name_reports_nesting(target, session, home, archive):
    write(home, {"waves/sine.csv": "0", "waves/sub/cosine.csv": "1"})
    session.push(f"{target}:v1", "waves/", archive=archive)
    summary = session.pull(f"{target}:v1", "waves/").summary
    assert "; the artifact has a folder waves/ of its own: its files are in waves/waves/, pull to '.'" in summary
    assert summary.endswith('or push "waves/."')
    assert "of its own" not in session.pull(f"{target}:v1", "other").summary
    assert "of its own" not in session.pull(f"{target}:v1").summary


@pytest.mark.parametrize("archive", [None, "tar"])
def test_push_detects_file_changed_during_upload(archive, session, server, home):
    """A large file changes after it was hashed, while the registry is asked for it."""
    write(home, {"data/a": b"1" * 200_000})

    def change(request, response):
        write(home, {"data/a": b"2" * 200_001})
        return response

    server.on("HEAD", "/v2/t/d/blobs/.*", change=change)
    if archive:  # the archive was written before the change
        pushed = session.push(f"{server.host}/t/d:v1", "data", archive=archive)
        session.pull(pushed.reference).unpack(home / "out")
        assert (home / "out/data/a").read_bytes() == b"1" * 200_000
        return
    with pytest.raises(ocikit.OcikitError, match=r"data/a.*changed while it was pushed"):
        session.push(f"{server.host}/t/d:v1", "data")
    assert not server.tags


def test_push_reads_small_file_once(session, server, home, monkeypatch):
    """A small file that changes after it was hashed is pushed as it was."""
    write(home, {f"data/{i}": f"small {i}" for i in range(20)})
    opened = []
    path_open = Path.open

    def record(path, *args, **options):
        opened.append(path.name)
        return path_open(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", record)
        session.push(f"{server.host}/t/d:v1", "data")
    assert sorted(name for name in opened if name.isdecimal()) == sorted(map(str, range(20)))
    assert session.pull(f"{server.host}/t/d:v1", "out").files["data/7"].read() == b"small 7"


@pytest.mark.parametrize("size", [10, 300_000])
def test_push_sends_layers_before_last_file_is_hashed(session, server, home, monkeypatch, size):
    write(home, {f"data/{i}": str(i) * size for i in range(4)})
    path_open, sent = Path.open, []

    def wait(path, *args, **options):
        if path.name == "3":
            deadline = time.monotonic() + 20
            while len(server.blobs) < 4 and time.monotonic() < deadline:  # the config and three layers
                time.sleep(0.01)
            sent.append(len(server.blobs))
        return path_open(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", wait)
        session.push(f"{server.host}/t/d:v1", "data")
    assert sent[0] == 4
    assert len(server.seen("PUT", ".*/manifests/.*")) == 1


def test_push_to_known_tag_asks_for_changed_files_only(session, server, home):
    """One request for the tag's manifest replaces one for each file."""
    ref = f"{server.host}/t/d:v1"
    write(home, {f"data/{i}": str(i) * 200_000 for i in range(9)})
    session.push(ref, "data")
    write(home, {"data/7": "changed"})
    server.requests.clear()
    session.push(ref, "data")
    assert len(server.seen("HEAD", ".*/blobs/.*")) == 2  # the changed file and the config, which is embedded
    assert [len(server.seen(*which)) for which in (("GET", ".*"), ("POST", ".*"), ("PUT", ".*"))] == [2, 1, 2]
    assert session.pull(ref, "out").files["data/7"].read() == b"changed"


def test_push_to_known_tag_restores_lost_blob(session, server, home):
    """The registry has lost a blob that the tag's manifest names, and rejects the manifest."""
    ref = f"{server.host}/t/d:v1"
    write(home, {f"data/{i}": str(i) * 10 for i in range(4)})
    lost = session.push(ref, "data").files["data/2"].digest
    del server.blobs["t/d", lost]

    def guard(request):
        missing = request.method == "PUT" and "/manifests/" in request.path and ("t/d", lost) not in server.blobs
        body = json.dumps({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN", "detail": lost}]}).encode()
        return Response(404, {}, body) if missing else None

    server.guard = guard
    session.push(ref, "data")
    assert server.blobs["t/d", lost] == b"2222222222"


@pytest.mark.parametrize("count", [1, 3])
def test_push_to_new_repository_asks_for_no_small_blob(session, server, home, count):
    write(home, {f"data/{i}": str(i) * 10 for i in range(count)})
    session.push(f"{server.host}/t/d:v1", "data")
    assert len(server.seen("GET", ".*")) == 1 and not server.seen("HEAD", ".*")
    assert len(server.seen("POST", ".*")) == count + 1


LARGE = bytes(range(256)) * (40 << 10)  # 10 MiB
UPLOAD = "/v2/t/d/blobs/uploads/.*"


def uploads(server, size=1 << 20):
    """Return method and body size of the large upload's requests."""
    return [
        (r.method, len(r.body)) for r in server.seen("PATCH|PUT", UPLOAD) if r.method == "PATCH" or len(r.body) > size
    ]


def test_large_file_is_hashed_while_it_is_sent(session, server, home):
    """A repository that is new gets a PATCH with the content, and a PUT with the digest."""
    write(home, {"large": LARGE})
    pushed = session.push(f"{server.host}/t/d:v1", "large")
    assert uploads(server) == [("PATCH", len(LARGE))]
    assert server.seen("PUT", UPLOAD)[-1].query["digest"] == [pushed.files["large"].digest]
    assert server.blobs["t/d", pushed.files["large"].digest] == LARGE and not server.uploads
    assert len(server.seen("HEAD", ".*/blobs/.*")) == 1  # of the config


def test_large_file_is_hashed_first_where_it_may_exist(session, server, home):
    """A push that was interrupted has sent the config, and maybe the file."""
    write(home, {"large": LARGE})
    server.blob("t/d", LARGE)
    server.blob("t/d", b"{}")
    server.on("GET", ".*/tags/list", status=404)
    session.push(f"{server.host}/t/d:v1", "large")
    assert uploads(server) == []
    session.push(f"{server.host}/t/d:v2", "large")
    assert uploads(server) == []


@pytest.mark.parametrize("status", [400, 405, 413, 416, 500])
def test_rejected_pass_is_followed_by_put(session, server, home, status):
    """The host is remembered, unless the failure is temporary."""
    write(home, {"large": LARGE})
    server.on("PATCH", UPLOAD, status=status)
    session.push(f"{server.host}/t/d:v1", "large")
    sent = uploads(server)
    assert sent[0][0] == "PATCH" and len(sent) > 1 and LARGE in server.blobs.values() and not server.uploads
    server.requests.clear()
    session.push(f"{server.host}/t/other:v1", "large")
    assert bool(server.seen("PATCH", "/v2/t/other/.*")) == (status == 500)


def test_broken_pass_resumes_with_digest(session, server, home):
    write(home, {"large": LARGE})
    server.on("PATCH", UPLOAD, cut_request=6 << 20)
    pushed = session.push(f"{server.host}/t/d:v1", "large")
    assert server.blobs["t/d", pushed.files["large"].digest] == LARGE and not server.uploads
    assert pushed.summary.startswith("pushed 1 file, 10.5 MB")


@pytest.mark.parametrize("change", [{"drop": "after"}, {"drop": "before"}, {"status": 503}])
def test_lost_end_of_pass_is_repeated(session, server, home, change):
    write(home, {"large": LARGE})
    server.on("PUT", UPLOAD, when=lambda request: "44136fa" not in request.target, **change)
    pushed = session.push(f"{server.host}/t/d:v1", "large")
    assert uploads(server) == [("PATCH", len(LARGE))]
    assert server.blobs["t/d", pushed.files["large"].digest] == LARGE and not server.uploads


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_file_that_changes_in_pass_is_not_stored(session, server, home, size):
    write(home, {"large": LARGE})

    def change(request, response):
        write(home, {"large": bytes(len(LARGE) + size)})
        return response

    server.on("PATCH", UPLOAD, change=change)
    with pytest.raises(ocikit.ContentError, match="large' changed while it was pushed"):
        session.push(f"{server.host}/t/d:v1", "large")
    assert set(server.blobs.values()) <= {b"{}"} and not server.tags and not server.uploads


def test_pass_that_stores_another_digest_raises_error(session, server, home):
    write(home, {"large": LARGE})
    wrong = {"Docker-Content-Digest": f"sha256:{'1' * 64}"}
    server.on("PUT", UPLOAD, when=lambda request: "44136fa" not in request.target, headers=wrong)
    with pytest.raises(ocikit.UploadInvalid, match="stored sha256:1"):
        session.push(f"{server.host}/t/d:v1", "large")
    assert not server.tags


def test_progress_of_pass_adds_up(session, server, home):
    write(home, {"large": LARGE})
    advanced = []

    class Listener(ocikit.Progress):
        def advance(self, descriptor, n):
            advanced.append(n)

    server.on("PATCH", UPLOAD, status=400)
    pushed = session.push(f"{server.host}/t/d:v1", "large", progress=Listener())
    assert sum(advanced) == len(LARGE) + 2 + len(pushed.document.raw)


@pytest.mark.parametrize("size", [10, 300_000])
def test_push_with_unreadable_file_sets_no_tag(session, server, home, monkeypatch, size):
    write(home, {f"data/{i}": str(i) * size for i in range(4)})
    path_open = Path.open

    def fail(path, *args, **options):
        if path.name == "3":
            raise PermissionError(13, "Permission denied")
        return path_open(path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fail)
        with pytest.raises(ocikit.ContentError, match=r"reading 'data/3' failed") as caught:
            session.push(f"{server.host}/t/d:v1", "data")
    assert "exclude='data/3'" in caught.value.hint
    assert not server.tags and not server.manifests


def test_push_with_config_without_type_sends_nothing(session, server, data):
    with pytest.raises(ocikit.InvalidDocument, match="media type"):
        session.push(f"{server.host}/t/d:v1", "data", config=b"{}")
    assert not server.requests


def test_push_reports_each_byte_once(session, server, home):
    write(home, {"data/a": b"a" * 300_000, "data/b": b"b" * 300, "data/c": b"b" * 300})
    events = []

    class Listener(ocikit.Progress):
        def begin(self, title, *, size, count):
            events.append(("begin", size, count))

        def advance(self, descriptor, n):
            events.append((descriptor.title, n))

        def finish(self, descriptor, outcome):
            events.append((descriptor.title, outcome))

    pushed = session.push(f"{server.host}/t/d:v1", "data", progress=Listener())
    moved_bytes = sum(event[1] for event in events if isinstance(event[1], int) and len(event) == 2)
    assert events[0] == ("begin", 2 + 300_600, 5)
    assert moved_bytes == 2 + 300_300 + len(pushed.document.raw)
    assert sorted(event[1] for event in events if event[1] in {"moved", "present"}) == ["moved"] * 4 + ["present"]
    assert pushed.summary.startswith("pushed 3 files, 300.6 kB (300 B already there)")


def test_push_to_other_digest_fails_before_upload(target, data, session, server, home):
    before = state(home)
    with pytest.raises(ocikit.InvalidReference, match="has the digest"):
        session.push(f"{target}@sha256:{'0' * 64}", "data")
    assert not server.blobs and state(home) == before
    digest = session.push(f"{target}:v1", "data", dry_run=True).digest
    assert session.push(f"{target}@{digest}", "data").digest == digest


def test_referrers_lists_attached_artifact(target, data, session, home):
    session.push(f"{target}:v1", "data")
    write(home, {"report.json": '{"ok": true}'})
    attached = session.attach(f"{target}:v1", "report.json", artifact_type="application/vnd.example.report")
    bare = session.attach(f"{target}:v1", artifact_type="application/vnd.example.mark", annotations={"by": "ada"})
    result = session.referrers(f"{target}:v1")
    assert {d.digest for d in result} == {attached.digest, bare.digest}
    assert [d.digest for d in session.referrers(f"{target}:v1", "application/vnd.example.report")] == [attached.digest]
    assert next(d for d in result if d.digest == bare.digest).annotations["by"] == "ada"
    assert attached.manifest.subject.digest == session.pin(f"{target}:v1").digest
    assert session.inspect(attached.reference).read("report.json") == b'{"ok": true}'
    assert list(session.tags(target)) == ["v1"]
    assert {d.digest for d in session.inspect(f"{target}:v1").referrers()} == {d.digest for d in result}


def test_referrers_work_without_referrers_api(data, session, server, home):
    server.referrers = False
    session.push(f"{server.host}/t/d:v1", "data")
    attached = session.attach(f"{server.host}/t/d:v1", "data/a.csv", artifact_type="application/x.report")
    assert [d.digest for d in session.referrers(f"{server.host}/t/d:v1")] == [attached.digest]


def test_referrers_of_plain_artifact_are_empty(target, data, session):
    session.push(f"{target}:v1", "data")
    assert not session.referrers(f"{target}:v1")
    assert len(session.referrers(f"{target}:v1")) == 0


# Copying


@pytest.fixture(params=["registry", "layout", "archive"])
def elsewhere(request, home):
    if request.param == "registry":
        return f"{request.getfixturevalue('server').host}/copies/d"
    return {"layout": "oci:copies", "archive": "oci-archive:copies.tar"}[request.param]


def test_copy_has_same_bytes(target, elsewhere, data, session, home):
    pushed = session.push(f"{target}:v1", "data")
    copied = session.copy(f"{target}:v1", elsewhere, tags=["also"])
    assert copied.digest == pushed.digest
    assert sorted(session.tags(elsewhere)) == ["also", "v1"]
    session.pull(f"{elsewhere}:also", "back")
    assert tree(home / "back") == data


def test_copy_without_tag_is_findable(data, session, server, home):
    session.push(f"{server.host}/t/d", "data")
    for source, destination in (
        (f"{server.host}/t/d", "oci:one"),
        (f"{server.host}/t/d", f"{server.host}/t/two"),
        ("oci:one", f"{server.host}/t/three"),
        ("oci:one", "oci:four"),
    ):
        digest = session.copy(source, destination).digest
        assert session.pull(destination).digest == digest


def test_copy_within_registry_moves_no_blob(art, session, server):
    session.copy(f"{server.host}/t/d:v1", f"{server.host}/other/d:v1")
    requests = moved(server)
    assert "GET blobs" not in requests and "PUT uploads" not in requests
    assert requests.count("POST uploads") == 4  # mounts


def test_copy_includes_referrers_on_request(target, elsewhere, data, session, home):
    session.push(f"{target}:v1", "data")
    attached = session.attach(f"{target}:v1", "data/a.csv", artifact_type="application/x.report")
    session.copy(f"{target}:v1", elsewhere)
    assert not session.referrers(f"{elsewhere}:v1")
    session.copy(f"{target}:v1", elsewhere, referrers=True)
    assert [d.digest for d in session.referrers(f"{elsewhere}:v1")] == [attached.digest]


def test_copy_of_platform_copies_its_manifest(home, session, server):
    ref = images(home, "linux/s390x", "linux/riscv64")
    whole = session.copy(ref, f"{server.host}/t/images")
    assert whole.is_index and len(server.manifests) == 3
    one = session.copy(ref, f"{server.host}/t/one", platform="linux/s390x")
    assert not one.is_index
    assert one.digest == session.inspect(ref, platform="linux/s390x").digest
    with pytest.raises(ocikit.NoMatchingPlatform, match="linux/riscv64"):
        session.copy(ref, f"{server.host}/t/none", platform="linux/mips")


def test_failed_copy_names_side_and_content(art, session, server, home):
    layer = art["data/deep/b.bin"].descriptor
    del server.blobs["t/d", layer.digest]
    with pytest.raises(ocikit.CopyError, match="the source failed") as caught:
        session.copy(f"{server.host}/t/d:v1", "oci:out")
    assert caught.value.side == "source" and caught.value.descriptor.digest == layer.digest
    assert isinstance(caught.value.__cause__, ocikit.BlobUnknown)
    assert not session.tags("oci:out")
    assert pickle.loads(pickle.dumps(caught.value)).side == "source"
    session.push("oci:there:v1", "data")
    server.on("PUT", "/v2/t/x/manifests/.*", times=None, status=403)
    with pytest.raises(ocikit.CopyError, match="the target failed") as caught:
        session.copy("oci:there:v1", f"{server.host}/t/x")
    assert caught.value.side == "target" and isinstance(caught.value.__cause__, ocikit.Denied)


def test_copy_to_other_digest_fails(target, data, session, home):
    session.push(f"{target}:v1", "data")
    with pytest.raises(ocikit.InvalidReference, match="leave the digest out"):
        session.copy(f"{target}:v1", f"oci:out@sha256:{'0' * 64}")
    assert not (home / "out/blobs").exists()


def test_copy_dry_run_shows_plan(art, session, server, home):
    before = state(home)
    planned = session.copy(f"{server.host}/t/d:v1", "oci:out", dry_run=True)
    assert state(home) == before
    assert planned.plan.size >= sum(len(v) for v in DATA.values())
    session.copy(f"{server.host}/t/d:v1", "oci:out")
    again = session.copy(f"{server.host}/t/d:v1", "oci:out", dry_run=True)
    assert len(again.plan.present) == len(again.plan.blobs)


# One file


def test_download_returns_path_with_file_name(target, data, session):
    session.push(f"{target}:v1", "data")
    path = session.download(f"{target}:v1", "data/deep/b.bin")
    assert path.read_bytes() == data["data/deep/b.bin"]
    assert path.name == "b.bin" and path.parent.name == "deep"


def test_second_download_fetches_no_blob(art, session, server):
    session.download(f"{server.host}/t/d:v1", "data/a.csv")
    assert moved(server).count("GET blobs") == 1
    session.download(f"{server.host}/t/d:v1", "data/a.csv")
    assert moved(server) == ["HEAD manifests"]


def test_missing_file_name_lists_nearest(target, data, session):
    session.push(f"{target}:v1", "data")
    for call in (session.download, session.open):
        with pytest.raises(ocikit.FileNotInArtifact, match="no file 'data/a.cvs' among 3") as caught:
            call(f"{target}:v1", "data/a.cvs")
        assert "data/a.csv" in caught.value.hint
        assert isinstance(caught.value, LookupError)


def test_open_returns_seekable_verified_stream(target, data, session):
    session.push(f"{target}:v1", "data")
    with session.open(f"{target}:v1", "data/deep/b.bin") as stream:
        assert stream.seekable()
        assert stream.read(4) == b"\0\1\2\3"
        stream.seek(-2, os.SEEK_END)
        assert stream.read() == b"\xfe\xff"
        stream.seek(0)
        assert stream.read() == data["data/deep/b.bin"]


def test_partial_read_requests_only_range(session, server, home):
    write(home, {"big.bin": os.urandom(5 << 20)})
    session.push(f"{server.host}/t/d:v1", "big.bin")
    server.requests.clear()
    with session.open(f"{server.host}/t/d:v1", "big.bin") as stream:
        stream.seek((5 << 20) - 10)
        assert stream.read(10) == (home / "big.bin").read_bytes()[-10:]
    (request,) = server.seen("GET", ".*/blobs/.*")
    assert request.headers["Range"] == f"bytes={(5 << 20) - 65536}-{(5 << 20) - 1}"
    assert not [p for p in Path(os.environ["OCIKIT_CACHE"]).rglob("*") if p.is_file() and p.stat().st_size > 1 << 19]


@pytest.mark.parametrize("first", ["open", "head", "read", "readinto"])
def test_small_file_is_requested_once_and_cached(session, server, home, first):
    write(home, {"a.csv": "x" * 9_999})
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "a.csv")
    file = session.inspect(ref)["a.csv"]
    server.requests.clear()
    if first == "open":
        assert file.open().read(10) == b"x" * 10
    elif first == "readinto":
        assert file.readinto(bytearray(10)) == 10
    else:
        getattr(file, first)(10)
    assert [r.headers.get("Range") for r in server.requests] == [None]
    assert file.open().read() == session.inspect(ref)["a.csv"].head(20_000) == b"x" * 9_999
    assert len(server.seen("GET", ".*/blobs/.*")) == 1


def test_stream_reads_exactly_what_is_asked(session, server, home):
    """A buffer that rounds reads would request more, or twice."""
    content = os.urandom(5 << 20)
    write(home, {"big.bin": content})
    session.push(f"{server.host}/t/d:v1", "big.bin")
    server.requests.clear()
    with session.open(f"{server.host}/t/d:v1", "big.bin") as stream:
        stream.seek(1_000_000)
        assert stream.read(300_001) == content[1_000_000:1_300_001]
        stream.seek(3_000_000)
        assert stream.readinto(into := bytearray(100_001)) == 100_001 and into == content[3_000_000:3_100_001]
        assert stream.tell() == 3_100_001
        stream.seek(-5, 2)
        assert stream.read(100_000) == content[-5:] and stream.read(100_000) == b""
    found = [r.headers.get("Range") for r in server.seen("GET", ".*/blobs/.*")]
    assert found[:2] == ["bytes=1000000-1300000", "bytes=3000000-3100000"] and len(found) == 3


def test_stream_survives_a_pickle_at_its_position(session, server, home):
    content = os.urandom(5 << 20)
    write(home, {"big.bin": content, "small.bin": b"0123456789"})
    session.push(f"{server.host}/t/d:v1", "big.bin", "small.bin")
    for name, expected in (("big.bin", content), ("small.bin", b"0123456789")):
        stream = session.open(f"{server.host}/t/d:v1", name)
        assert stream.read(3) == expected[:3]
        copied = pickle.loads(pickle.dumps(stream))
        assert copied.tell() == 3 and copied.read() == expected[3:]
        assert stream.read() == expected[3:]


def test_parquet_column_requests_its_chunks_and_footer(session, server, home):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    numbers = [n * 7919 % 1_000_003 for n in range(100_000)]
    table = pa.table({f"c{n}": [number * (n + 1) for number in numbers] for n in range(8)})
    pq.write_table(table, "t.parquet", row_group_size=20_000, use_dictionary=False, compression="none")
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "t.parquet")
    ref = session.inspect(ref)
    server.requests.clear()
    metadata = pq.ParquetFile(session.open(ref, "t.parquet")).metadata
    assert metadata.num_rows == 100_000 and len(server.requests) == 1
    needed = sum(metadata.row_group(n).column(3).total_compressed_size for n in range(5))
    server.requests.clear()
    found = pq.read_table(session.open(ref, "t.parquet"), columns=["c3"])
    assert found["c3"].to_pylist() == table["c3"].to_pylist()
    spans = [re.fullmatch(r"bytes=(\d+)-(\d+)", r.headers["Range"]).groups() for r in server.requests]
    assert len(spans) == 6 and sum(int(last) + 1 - int(first) for first, last in spans) == needed + 65536
    assert server.connections <= 2, "the push and all reads"


def test_names_in_a_zip_are_one_request(session, server, home):
    with zipfile.ZipFile("a.zip", "w") as archive:
        for n in range(50):
            archive.writestr(f"{n}.bin", os.urandom(100_000))
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "a.zip")
    ref = session.inspect(ref)
    server.requests.clear()
    with session.open(ref, "a.zip") as stream, zipfile.ZipFile(stream) as archive:
        assert len(archive.namelist()) == 50
    assert len(server.requests) == 1


def test_whole_content_is_requested_by_one_stream(session, server, home):
    content = os.urandom(5 << 20)
    write(home, {"big.bin": content})
    file = session.push(f"{server.host}/t/d:v1", "big.bin")["big.bin"]
    for read in (file.read_bytes, lambda: file.save(home / "copy").read_bytes()):
        server.requests.clear()
        assert read() == content
        assert [r.headers.get("Range") for r in server.seen("GET", ".*/blobs/.*")] == [None]


def test_open_detects_corrupt_content(art, session, server):
    layer = art["data/deep/b.bin"].descriptor
    server.blobs["t/d", layer.digest] = bytes(layer.size)
    with pytest.raises(ocikit.DigestMismatch), session.open(f"{server.host}/t/d:v1", "data/deep/b.bin") as stream:
        stream.read()
    with pytest.raises(ocikit.DigestMismatch):
        session.download(f"{server.host}/t/d:v1", "data/deep/b.bin")


def test_file_is_a_path(target, data, session):
    session.push(f"{target}:v1", "data")
    file = session.inspect(f"{target}:v1")["data/a.csv"]
    with open(file) as stream:
        assert stream.read() == "x\n1\n"
    assert Path(file).suffix == ".csv"


def test_files_of_pulled_folder_are_read_without_request(art, session, server, data, home):
    pulled = session.pull(f"{server.host}/t/d:v1", "out")
    server.requests.clear()
    assert {name: pulled.read(name) for name in pulled} == data
    assert Path(pulled["data/a.csv"]) == home / "out/data/a.csv"
    assert os.fspath(pulled) == str(home / "out")
    assert moved(server) == []
    (home / "out/data/a.csv").write_text("edited")
    assert pulled.read("data/a.csv") == data["data/a.csv"]  # the published content, not the edited file


def test_path_of_edited_file_has_published_content(target, data, session, home):
    session.push(f"{target}:v1", "data")
    pulled = session.pull(f"{target}:v1", "out")
    (home / "out/data/a.csv").write_text("edited")
    file = pulled["data/a.csv"]
    assert Path(file).read_bytes() == file.read() == data["data/a.csv"]
    assert Path(file).is_relative_to(os.environ["OCIKIT_CACHE"]) and file.download() == Path(file)
    assert (home / "out/data/a.csv").read_text() == "edited"


def test_open_and_download_select_platform(session, home):
    ref = images(home, "linux/amd64", "linux/arm64")
    for platform in ("linux/amd64", "linux/arm64"):
        (name,) = session.inspect(ref, platform=platform).files
        with session.open(ref, name, platform=platform) as stream:
            content = stream.read()
        assert platform.encode() in content
        assert session.download(ref, name, platform=platform).read_bytes() == content
    with pytest.raises(ocikit.NoMatchingPlatform):
        session.open(ref, name, platform="linux/s390x")


def test_artifact_without_folder_has_no_path(art, session):
    with pytest.raises(ocikit.NotFound, match="isn't on disk") as caught:
        os.fspath(session.inspect(art.reference))
    assert "pull" in caught.value.hint


# Arguments


@pytest.mark.parametrize("path", ["data", "data/", "data/a.csv", Path("data")])
def test_push_names_the_order_of_reference_and_path(data, session, server, path):
    with pytest.raises(ocikit.InvalidReference, match="is a path, not a reference") as caught:
        session.push(path, f"{server.host}/t/d:v1")
    assert "the reference comes first: push(" in caught.value.hint and f"{server.host}/t/d:v1" in caught.value.hint


@pytest.mark.parametrize("name", ["backup", "backup:v1"])
def test_push_and_copy_to_official_image_fail(art, session, home, name):
    for call in (lambda: session.copy(art, name), lambda: session.push(name, "data")):
        with pytest.raises(ocikit.InvalidReference, match="is the official image docker.io/library/backup") as caught:
            call()
        assert f"'oci:{name}'" in caught.value.hint and f"'docker.io/ACCOUNT/{name}'" in caught.value.hint


def test_folder_may_have_the_name_of_a_repository(data, session, server, home, monkeypatch):
    """Which of them exists distinguishes a path from a reference."""
    write(home, {f"{server.host}/t/d": "x"})
    assert len(session.push(f"{server.host}/t/d", "data/a.csv")) == 1
    assert session.exists(f"{server.host}/t/d")


@pytest.mark.parametrize("setting", ["yes", "Text", 5, 0.5, b"none", ["auto"]])
def test_unknown_progress_is_rejected(art, session, setting):
    for call in (lambda: session.pull(art, progress=setting), lambda: ocikit.Session(progress=setting)):
        with pytest.raises(ocikit.InvalidArgument, match="progress=.* is unknown") as caught:
            call()
        assert "'auto', 'text', 'none' or a Progress" in caught.value.hint


@pytest.mark.parametrize("setting", ["ada:secret", b"x", 5, ("ada",), ("ada", None), ["ada", "secret"]])
def test_credentials_of_another_kind_are_rejected(home, setting):
    with pytest.raises(ocikit.CredentialsError, match="credentials can't be a") as caught:
        ocikit.Session(credentials=setting)
    assert '("user", "password")' in caught.value.hint and "secret" not in str(caught.value)


def test_artifact_type_of_referrers_is_text(art, session):
    for call in (lambda: session.referrers(art, 5), lambda: art.referrers(b"x")):
        with pytest.raises(ocikit.InvalidArgument, match="artifact_type=.* is not a media type"):
            call()


class Table:
    """A table as pandas has them: no truth value, and a long repr."""

    def __bool__(self):
        raise ValueError("ambiguous")

    def __repr__(self):
        return "secret rows"


@pytest.mark.parametrize("paths", [(Table(),), ({"t.csv": Table()},), (Table(), "data")])
def test_push_of_an_object_names_save(data, session, server, paths):
    with pytest.raises(ocikit.InvalidArgument, match="Table") as caught:
        session.push(f"{server.host}/t/d:v1", *paths)
    assert "ocikit.save(ref, " in caught.value.hint and "secret rows" not in str(caught.value)


def test_push_of_an_artifact_names_copy(art, session, server, home):
    with pytest.raises(ocikit.InvalidArgument, match="is an artifact that is not in a folder") as caught:
        session.push(f"{server.host}/t/e:v1", art)
    assert "ocikit.copy(artifact, ref)" in caught.value.hint
    pulled = session.pull(art, "back")
    assert "back/data/a.csv" in session.push(f"{server.host}/t/e:v1", pulled)


@pytest.mark.parametrize("verb", ["push", "edit"])
def test_push_takes_files_that_are_open(session, server, home, verb):
    write(home, {"a.bin": b"0123456789"})
    ref = f"{server.host}/t/d:v1"
    with open("a.bin", "rb") as file:
        file.seek(4)
        if verb == "push":
            session.push(ref, {"x/a.bin": file, "b.bin": io.BytesIO(b"b" * 3_000_000), "c.bin": b"c"})
        else:
            with session.edit(ref) as edit:
                edit["x/a.bin"], edit["b.bin"], edit["c.bin"] = file, io.BytesIO(b"b" * 3_000_000), b"c"
    pushed = session.inspect(ref)
    assert pushed["x/a.bin"].read() == b"456789" and pushed["b.bin"].read() == b"b" * 3_000_000
    assert sorted(pushed) == ["b.bin", "c.bin", "x/a.bin"]


def test_push_of_text_stream_fails(session, server, home):
    with pytest.raises(ocikit.InvalidArgument, match="'a.txt' is text, not bytes") as caught:
        session.push(f"{server.host}/t/d:v1", {"a.txt": io.StringIO("x")})
    assert '"rb"' in caught.value.hint and not server.manifests


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("data/*.csv", 'push(ref, "data", include="*.csv")'),
        ("*.csv", 'push(ref, ".", include="*.csv")'),
        ("data/a.cvs", "nearest: data/a.csv; relative paths start at"),
        ("dta", "nearest: data; relative paths start at"),
        ("nowhere/at/all", "relative paths start at"),
    ],
)
def test_push_of_missing_path_has_a_next_step(data, session, server, path, hint):
    with pytest.raises(ocikit.NotFound, match="cannot read") as caught:
        session.push(f"{server.host}/t/d:v1", path)
    assert hint in caught.value.hint


# Names


def test_tags_fetch_pages_on_demand(session, server, home):
    for i in range(250):
        server.manifest("t/d", b'{"schemaVersion":2}', f"v{i:03}")
    server.page = 50
    tags = session.tags(f"{server.host}/t/d")
    assert moved(server) == ["GET tags"] * 2
    assert "100 or more tags" in repr(tags) and tags._repr_html_() and bool(tags) and moved(server) == []
    assert tags[0] == "v000" and tags[120] == "v120" and moved(server) == ["GET tags"]
    assert tags[130:140] == [f"v{i}" for i in range(130, 140)] and moved(server) == []
    assert "v199" in tags and moved(server) == ["GET tags"]
    assert len(tags) == 250 and moved(server) == ["GET tags"]
    assert tags[-1] == "v249" and tags[::-1][0] == "v249" and tags[240:230:-5] == ["v240", "v235"]
    assert list(tags) == tags and moved(server) == []
    assert len(repr(tags)) <= 100


def test_tags_have_newest_version_and_versions(session, server, home):
    for tag in ("latest", "main", "v1.10", "v1.2", "v2.0-rc1"):
        server.manifest("t/d", b'{"schemaVersion":2}', tag)
    tags = session.tags(f"{server.host}/t/d")
    assert tags[-1] == "v2.0-rc1" and tags.newest == "v1.10" and tags.versions == ["v2.0-rc1", "v1.10", "v1.2"]
    for twin in (pickle.loads(pickle.dumps(tags)), copy.deepcopy(tags)):
        assert type(twin) is ocikit.Tags and twin == tags and twin.newest == "v1.10"


def test_pattern_selects_tags(session, server, home):
    for i in range(120):
        server.manifest("t/d", b'{"schemaVersion":2}', f"v1.{i:03}")
    server.manifest("t/d", b'{"schemaVersion":2}', "latest")
    server.page = 50
    ref = f"{server.host}/t/d"
    assert session.tags(ref, "v1.01?") == [f"v1.{i:03}" for i in range(10, 20)]
    assert session.tags(ref, ["latest", "v1.000"]) == ["latest", "v1.000"]
    assert len(session.tags(ref, "v1.*")) == 120 and len(session.tags(ref)) == 121
    nothing = session.tags(ref, "v2.*")
    assert nothing == [] and nothing.newest == "" and nothing.versions == []
    with pytest.raises(ocikit.InvalidArgument, match="a pattern is text, not int") as caught:
        session.tags(ref, 5)
    assert "v1.*" in caught.value.hint


def test_exists_answers_with_one_request(target, art, session, server, home):
    pushed = session.push(f"{target}:v1", "data")
    server.requests.clear()
    for name in (":v1", f"@{pushed.digest}", f":v1@{pushed.digest}"):
        assert session.exists(target + name) is True
        assert set(moved(server)) <= {"HEAD manifests"}
    for name in (":v2", "", f"@sha256:{'0' * 64}"):
        assert session.exists(target + name) is (name == "" and not target.startswith(server.host)), name
        assert set(moved(server)) <= {"HEAD manifests"}
    assert session.exists(pushed) is True


def test_exists_is_false_for_absent_repository_and_layout(session, server, home):
    assert session.exists(f"{server.host}/no/thing:v1") is False
    assert session.exists("oci:nowhere:v1") is session.exists("oci-archive:nowhere.tar:v1") is False
    with pytest.raises(ocikit.InvalidReference):
        session.exists("no thing")


@pytest.mark.parametrize("status", [405, 501])
def test_exists_uses_get_where_head_is_not_answered(art, session, server, status):
    server.on("HEAD", ".*/manifests/.*", times=None, status=status)
    assert session.exists(f"{server.host}/t/d:v1") is True
    assert session.exists(f"{server.host}/t/d:v2") is False


@pytest.mark.parametrize(
    ("status", "error"), [(401, ocikit.Unauthorized), (403, ocikit.Denied), (500, ocikit.RegistryError)]
)
def test_exists_raises_if_registry_does_not_answer_the_question(session, server, home, status, error):
    server.on("HEAD", ".*/manifests/.*", times=None, status=status)
    with pytest.raises(error):
        session.exists(f"{server.host}/t/d:v1")


def test_exists_asks_the_cache_only_offline(art, session, server, monkeypatch):
    ref, absent = str(session.inspect(art.reference).reference), f"{server.host}/t/d:v2"
    server.manifests.clear()
    assert session.exists(ref) is False
    monkeypatch.setenv("OCIKIT_OFFLINE", "1")
    assert session.exists(ref) is True
    with pytest.raises(ocikit.OfflineError):
        session.exists(absent)


def test_near_repository_names_come_from_cache_and_listings(art, session, server, home):
    server.manifest("t/elsewhere", b'{"schemaVersion":2}', "v1")
    with pytest.raises(ocikit.NameUnknown) as caught:
        session.pull(f"{server.host}/t/elsewere:v1")
    assert "t/elsewhere" not in caught.value.hint
    session.catalog(server.host)
    for call in (session.pull, session.inspect, session.tags):
        with pytest.raises(ocikit.NameUnknown) as caught:
            call(f"{server.host}/t/elsewere:v1")
        assert caught.value.hint.startswith("nearest: t/elsewhere")


def test_failed_page_is_not_end_of_listing(session, server):
    for i in range(150):
        server.manifest("t/d", b'{"schemaVersion":2}', f"v{i:03}")
    server.page = 50
    server.on("GET", "/v2/t/d/tags/list", when=lambda r: r.query.get("last") == ["v099"], times=None, status=403)
    tags = session.tags(f"{server.host}/t/d")
    for _ in range(2):
        with pytest.raises(ocikit.Denied):
            len(tags)
        with pytest.raises(ocikit.Denied):
            list(tags)
    assert tags[99] == "v099"


def test_catalog_returns_listing(session, server, home):
    for i in range(3):
        server.manifest(f"t/d{i}", b'{"schemaVersion":2}', "v1")
    assert list(session.catalog(server.host)) == ["t/d0", "t/d1", "t/d2"]
    server.on("GET", "/v2/_catalog", times=None, status=404)
    with pytest.raises(ocikit.Unsupported, match="does not list its repositories") as caught:
        session.catalog(server.host)
    assert "ocikit.tags" in caught.value.hint


def test_pin_returns_reference_with_digest(target, data, session):
    pushed = session.push(f"{target}:v1", "data")
    assert session.pin(f"{target}:v1") == pushed.reference
    assert session.pin(pushed.reference) == pushed.reference


def test_tag_creates_and_moves_tags(target, data, session, home):
    first = session.push(f"{target}:v1", "data")
    assert session.tag(f"{target}:v1", "v2", "v3").digest == first.digest
    write(home, {"data/a.csv": "other"})
    second = session.push(f"{target}:v4", "data")
    session.tag(second.reference, "v3")
    digests = {t: session.pin(f"{target}:{t}").digest for t in session.tags(target)}
    assert digests == {"v1": first.digest, "v2": first.digest, "v3": second.digest, "v4": second.digest}


def test_tag_dry_run_returns_plan_and_changes_nothing(target, data, session, home):
    first = session.push(f"{target}:v1", "data")
    write(home, {"data/a.csv": "other"})
    second = session.push(f"{target}:v2", "data")
    plan = session.tag(f"{target}:v1", "v1", "v2", "v3", dry_run=True)
    assert plan.reference == first.reference
    assert dict(plan.current) == {"v1": first.digest, "v2": second.digest}
    (section,) = plan._sections()
    assert [row[:2] for row in section.rows] == [("v1", "unchanged"), ("v2", "moved"), ("v3", "created")]
    assert sorted(session.tags(target)) == ["v1", "v2"]
    assert session.pin(f"{target}:v2").digest == second.digest


def test_delete_dry_run_of_digest_names_manifest(target, data, session):
    pushed = session.push(f"{target}:v1", "data")
    plan = session.delete(pushed.reference, dry_run=True)
    assert plan.digest == pushed.digest and not plan.keeps_manifest
    assert dict(plan._facts())["deletes"] == "the manifest and all its tags"
    assert list(session.tags(target)) == ["v1"]


def test_delete_of_tag_leaves_other_tags(target, data, session):
    pushed = session.push(f"{target}:v1", "data", tags=["v2"])
    planned = session.delete(f"{target}:v1", dry_run=True)
    assert (str(planned.reference), planned.digest) == (f"{target}:v1", pushed.digest)
    assert planned.keeps_manifest and dict(planned._facts())["deletes"] == "the tag v1"
    assert sorted(session.tags(target)) == ["v1", "v2"]
    assert session.delete(f"{target}:v1") is None
    assert list(session.tags(target)) == ["v2"]
    assert session.pull(f"{target}:v2").digest == pushed.digest


def test_delete_of_digest_removes_all_tags(target, data, session):
    pushed = session.push(f"{target}:v1", "data", tags=["v2"])
    session.delete(f"{target}@{pushed.digest}")
    assert list(session.tags(target)) == []
    with pytest.raises(ocikit.NotFound):
        session.delete(f"{target}@{pushed.digest}")


def test_delete_requires_tag_or_digest(target, data, session):
    session.push(f"{target}:v1", "data")
    with pytest.raises(ocikit.InvalidReference, match="neither tag nor digest"):
        session.delete(target)
    assert list(session.tags(target)) == ["v1"]


def test_unsupported_tag_deletion_has_alternative_in_hint(art, session, server):
    server.tag_delete = False
    with pytest.raises(ocikit.Unsupported, match="can't delete the tag 'v1' alone") as caught:
        session.delete(f"{server.host}/t/d:v1")
    assert "by its digest" in caught.value.hint
    assert ("t/d", "v1") in server.tags


# Credentials


def basic(request):
    """Return a registry that accepts the credentials of ada."""
    import base64

    from tests.support.fake_registry import error_response

    wanted = "Basic " + base64.b64encode(b"ada:lovelace").decode()
    if request.headers.get("Authorization") != wanted:
        return error_response(401, "UNAUTHORIZED", **{"WWW-Authenticate": 'Basic realm="test"'})
    return None


def test_ping_reports_status_of_registry(session, server):
    assert session.ping(server.host)
    server.guard = basic
    answer = session.ping(server.host)
    assert not answer and answer.reachable and "credentials" in answer.problem
    assert not session.ping("127.0.0.1:1").reachable


def test_login_checks_credentials_before_storing(home, session, server, data):
    server.guard = basic
    config = Path(os.environ["DOCKER_CONFIG"]) / "config.json"
    with pytest.raises(ocikit.Unauthorized, match="rejects the credentials of ada") as caught:
        session.login(server.host, "ada", "wrong-secret")
    assert not config.exists() and "wrong-secret" not in str(caught.value)
    with pytest.raises(ocikit.Unauthorized):
        session.push(f"{server.host}/t/d:v1", "data")
    assert session.login(server.host, "ada", "lovelace")
    assert "lovelace" not in config.read_text() and oct(config.stat().st_mode & 0o777) == "0o600"
    assert session.push(f"{server.host}/t/d:v1", "data")
    shown = session.explain(server.host)
    assert shown.winner.username == "ada" and "lovelace" not in str(shown) + repr(shown) + shown._repr_html_()
    assert session.logout(server.host) and not session.logout(server.host)
    assert session.explain(server.host).winner is None
    assert json.loads(config.read_text()).get("auths", {}) == {}


def test_login_reports_that_an_open_registry_checked_nothing(home, session, server):
    assert session.login(server.host, "ada", "lovelace").endswith(
        f"not checked, because {server.host} requires no login"
    )
    assert not session.ping(server.host).requires_login
    server.guard = basic
    assert "not checked" not in session.login(server.host, "ada", "lovelace")
    assert session.ping(server.host).requires_login


def test_login_to_unreachable_registry_fails(home, session):
    with pytest.raises(ocikit.ConnectionFailed, match="could not be checked"):
        session.login("127.0.0.1:1", "ada", "lovelace")
    assert not (Path(os.environ["DOCKER_CONFIG"]) / "config.json").exists()


def test_credentials_are_sent_and_not_displayed(server, home, data):
    server.guard = basic
    for given in (
        ("ada", "lovelace"),
        {server.host: ("ada", "lovelace")},
        lambda host, repository: ("ada", "lovelace"),
    ):
        with ocikit.Session(credentials=given, progress=False) as session:
            assert session.push(f"{server.host}/t/d:v1", "data")
            assert "lovelace" not in repr(session) + session._repr_html_()


# Functions of `ocikit`


VERBS = (
    "attach",
    "catalog",
    "copy",
    "delete",
    "describe",
    "download",
    "edit",
    "exists",
    "inspect",
    "open",
    "pin",
    "ping",
    "pull",
    "push",
    "referrers",
    "tag",
    "tags",
    "validate",
)


@pytest.mark.parametrize("verb", VERBS)
def test_function_has_signature_and_docstring_of_verb(verb):
    call, method = getattr(ocikit, verb), getattr(ocikit.Session, verb)
    parameters = list(inspect.signature(method).parameters.values())
    assert list(inspect.signature(call).parameters.values()) == parameters[1:]
    assert inspect.getdoc(call) == inspect.getdoc(method)
    assert call.__name__ == call.__qualname__ == verb and call.__module__ == "ocikit"


@pytest.mark.parametrize(
    "fault", [{}, {"change": lambda r, _: Response(200, {}, b"x" * 99_999)}, {"cut": 10}, {"gzip": True}]
)
def test_head_of_file_requests_range(session, server, home, fault):
    write(home, {"data/a.csv": "x" * 99_999})
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "data")
    file = session.inspect(ref)["data/a.csv"]
    server.requests.clear()
    server.on("GET", ".*/blobs/.*", **fault)
    assert file.head(100) == b"x" * 100
    assert server.requests[0].headers["Range"] == "bytes=0-99"
    assert file.head(100_000) == b"x" * 99_999
    session.pull(ref)
    server.requests.clear()
    assert file.head(5) == b"x" * 5
    assert server.requests == []


def test_every_verb_has_a_function():
    methods = {n for n, f in vars(ocikit.Session).items() if inspect.isfunction(f) and not n.startswith("_")}
    low_level = {"close", "registry", "repository"}
    assert methods - low_level == {*VERBS, "login", "logout", "explain"}


def test_results_of_functions_stay_usable(data, server, home):
    ref = f"{server.host}/t/d:v1"
    pushed = ocikit.push(ref, "data")
    assert ocikit.pin(ref).digest == pushed.digest
    assert list(ocikit.tags(ref)) == ["v1"]
    assert pushed.read("data/a.csv") == data["data/a.csv"]
    art = ocikit.inspect(ref)
    assert art.config == {} and art.read("data/deep/b.bin") == data["data/deep/b.bin"]
    with ocikit.open(ref, "data/a.csv") as stream:
        assert stream.readline() == b"x\n"
    assert ocikit.download(ref, "data/a.csv").read_bytes() == data["data/a.csv"]
    assert tree(Path(ocikit.pull(ref, "back"))) == data
    assert ocikit.copy(ref, "oci:store").digest == pushed.digest
    assert ocikit.attach(ref, "data/a.csv", artifact_type="application/x.report").digest
    assert len(ocikit.referrers(ref)) == 1
    assert ocikit.tag(ref, "v2").digest == pushed.digest
    assert ocikit.delete(ref) is None
    assert list(ocikit.catalog(server.host)) == ["t/d"]
    assert ocikit.ping(server.host)
    assert ocikit.cache.root == Path(os.environ["OCIKIT_CACHE"])


def test_listing_of_function_still_fetches_pages(server, home):
    for i in range(150):
        server.manifest("t/d", b'{"schemaVersion":2}', f"v{i:03}")
    server.page = 60
    assert len(ocikit.tags(f"{server.host}/t/d")) == 150


def test_summary_of_call_is_one_line(art, session, server, home):
    line = session.pull(f"{server.host}/t/d:v1", "out").summary
    assert line.startswith("pulled 3 files, 102.4 kB in ") and line.endswith("-> out")
    assert session.pull(f"{server.host}/t/d:v1", "out").summary.startswith(
        "pulled 3 files, 102.4 kB (102.4 kB already there)"
    )


@pytest.mark.parametrize("target", ["cache", "folder", "layout"])
def test_summary_of_resumed_call_names_received_bytes(session, server, home, target):
    content = os.urandom(20_000_000)
    write(home, {"big.bin": content})
    ref = f"{server.host}/t/big:v1"
    session.push(ref, "big.bin")

    class Interrupting(ocikit.Progress):
        received = 0

        def advance(self, descriptor, n):
            self.received += n
            if self.received > 10_000_000:
                raise KeyboardInterrupt

    def transfer(progress=None):
        if target == "layout":
            return session.copy(ref, "oci:store:v1", progress=progress)
        return session.pull(ref, "out" if target == "folder" else None, progress=progress)

    with pytest.raises(KeyboardInterrupt) as interrupted:
        transfer(Interrupting())
    assert interrupted.value.__notes__ == ["stopped; received data is stored, the next call resumes"]
    summary = transfer().summary
    there = float(re.search(r" 1 file, 20\.0 MB \(([0-9.]+) MB resumed\) in ", summary)[1])
    assert 5 < there < 11


def test_progress_reports_all_bytes(art, session, server):
    class Listener(ocikit.Progress):
        moved = size = 0
        ended = None

        def begin(self, title, *, size, count):
            self.size = size

        def advance(self, descriptor, n):
            self.moved += n

        def end(self, *, failed=False):
            self.ended = not failed

    listener = Listener()
    session.pull(f"{server.host}/t/d:v1", progress=listener)
    assert listener.ended and listener.moved == sum(len(v) for v in DATA.values())


# Real registries


def test_round_trip_through_real_registry(registry, repo, data, session, home):
    ref = f"{registry.host}/{repo}:v1"
    pushed = session.push(ref, "data", tags=["v2"], artifact_type="application/vnd.example.set", annotations={"a": "b"})
    assert sorted(session.tags(ref)) == ["v1", "v2"]
    session.pull(ref, "back")
    assert tree(home / "back") == data
    with session.open(ref, "data/deep/b.bin") as stream:
        stream.seek(1000)
        assert stream.read(5) == data["data/deep/b.bin"][1000:1005]
    attached = session.attach(ref, "data/a.csv", artifact_type="application/vnd.example.report")
    assert [d.digest for d in session.referrers(ref)] == [attached.digest]
    copied = session.copy(ref, "oci:store", referrers=True)
    assert copied.digest == pushed.digest
    assert session.copy("oci:store:v1", f"{registry.host}/{repo}-copy", referrers=True).digest == pushed.digest
    assert [d.digest for d in session.referrers(f"{registry.host}/{repo}-copy:v1")] == [attached.digest]
    with pytest.raises(ocikit.ManifestUnknown, match="no tag 'v9'"):
        session.pull(f"{registry.host}/{repo}:v9")


def test_real_registry_checks_passwords(htpasswd_registry, repo, data, session, home):
    ref = f"{htpasswd_registry.host}/{repo}:v1"
    with pytest.raises(ocikit.Unauthorized) as caught:
        session.push(ref, "data")
    assert "login" in caught.value.hint
    with pytest.raises(ocikit.Unauthorized):
        session.login(htpasswd_registry.host, "ada", "wrong")
    session.login(htpasswd_registry.host, htpasswd_registry.user, htpasswd_registry.password)
    session.push(ref, "data")
    session.pull(ref, "back")
    assert tree(home / "back") == data


@pytest.mark.parametrize("cls", [ocikit.Session, ocikit.Network, ocikit.Mirror])
def test_docstring_explains_every_parameter(cls):
    """Shift-Tab shows the docstring of the class, not those of its fields."""
    documented = inspect.getdoc(cls).partition("Args:")[2]
    assert [name for name in inspect.signature(cls).parameters if f"    {name}: " not in documented] == []


def test_push_does_not_parse_its_manifest_again(data, server, session, monkeypatch):
    def parse(*_args, **_options):
        raise AssertionError("the manifest is already parsed")

    monkeypatch.setattr("ocikit.store.base.parse_document", parse)
    assert session.push(f"{server.host}/t/d:v1", "data").digest


# Paths and content agree


def assert_paths_agree(artifact):
    """Check that each file has the same content as a path, as bytes, as a stream and as a copy."""
    for file in artifact.files.values():
        content = file.read()
        assert Path(os.fspath(file)).read_bytes() == content
        assert file.download().read_bytes() == content
        assert file.open().read() == file.head(file.size) == content
        assert artifact.read(file.name) == content


def test_path_of_unselected_file_is_not_a_file_of_the_user(target, home, session):
    write(home, {"model.bin": b"published", "a.csv": b"1\n"})
    session.push(f"{target}:v1", "model.bin", "a.csv")
    write(home, {"to/model.bin": b"mine", "to/sub/x": b"y"})
    artifact = session.pull(f"{target}:v1", "to", include="*.csv")
    assert Path(os.fspath(artifact["model.bin"])).read_bytes() == b"published"
    assert_paths_agree(artifact)
    assert (home / "to/model.bin").read_bytes() == b"mine"


def test_path_of_older_artifact_is_not_a_file_of_the_newer(target, home, session):
    write(home, {"a.txt": b"one"})
    session.push(f"{target}:v1", "a.txt")
    write(home, {"a.txt": b"two"})
    session.push(f"{target}:v2", "a.txt")
    older = session.pull(f"{target}:v1", "to")
    assert older["a.txt"].read() == b"one"
    newer = session.pull(f"{target}:v2", "to")
    assert Path(os.fspath(older["a.txt"])).read_bytes() == b"one"
    assert Path(os.fspath(newer["a.txt"])).read_bytes() == b"two"
    assert_paths_agree(older)
    assert_paths_agree(newer)


@pytest.mark.parametrize("change", ["edit", "replace", "delete", "folder", "link"])
def test_path_of_changed_file_has_published_content(change, target, data, home, session):
    session.push(f"{target}:v1", "data")
    artifact = session.pull(f"{target}:v1", "to")
    path = home / "to/data/a.csv"
    published = path.read_bytes()
    if change == "edit":
        path.write_bytes(b"edited")
    else:
        path.unlink()
    if change == "replace":
        path.write_bytes(published[::-1])
    elif change == "folder":
        path.mkdir()
    elif change == "link":
        write(home, {"other": published[::-1]})
        path.symlink_to(home / "other")
    assert Path(os.fspath(artifact["data/a.csv"])).read_bytes() == published
    assert_paths_agree(artifact)
