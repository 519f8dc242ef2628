"""Layouts and archives of ocikit's verbs, read by other tools, and the reverse. tests/unit/store has those of oras and crane."""

import json

import pytest
from ocikit.client.session import Session
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.store.layout.layout import Layout

from tests.support import images, peers

pytestmark = pytest.mark.interop


@pytest.fixture
def session(tmp_path):
    with Session(credentials=ANONYMOUS, cache=tmp_path / "cache", progress=False) as session:
        yield session


@pytest.fixture
def source(tmp_path):
    """Write an image as a layout without any tool."""
    return images.small(tmp_path / "source", tag="v1")


@pytest.mark.peers("umoci")
def test_umoci_edits_layout_and_ocikit_reads_it_back(session, source, tmp_path):
    ours = tmp_path / "ours"
    digest = session.copy(f"oci:{source}:v1", f"oci:{ours}:v1").digest
    root = images.unpack(ours, "v1", tmp_path / "bundle")
    assert {path: (root / path).read_bytes() for path in images.FILES} == images.FILES
    peers.run("umoci", "tag", "--image", f"{ours}:v1", "v2")
    (root / "added").write_text("by umoci\n")
    peers.run("umoci", "repack", "--image", f"{ours}:v3", tmp_path / "bundle")
    peers.run("umoci", "gc", "--layout", ours)
    assert sorted(session.tags(f"oci:{ours}")) == ["v1", "v2", "v3"]
    assert session.pin(f"oci:{ours}:v2").digest == digest
    image = session.inspect(f"oci:{ours}:v3")
    assert len(image.manifest.layers) == 2
    done = image.unpack(tmp_path / "root", owner=True)
    assert (done.path / "added").read_text() == "by umoci\n"
    with Layout(ours) as layout:
        layout.untag("v3")
        layout.gc(grace=0)
        assert layout.verify().ok
        assert layout.verify().missing == ()
    assert peers.run("umoci", "ls", "--layout", ours).stdout.split() == ["v1", "v2"]
    peers.run("umoci", "stat", "--image", f"{ours}:v1")


@pytest.mark.peers("skopeo")
def test_skopeo_and_ocikit_read_each_others_archives(session, source, tmp_path):
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    copied = session.copy(f"oci:{source}:v1", f"oci-archive:{ours}:v1")
    raw = peers.run("skopeo", "inspect", "--raw", f"oci-archive:{ours}:v1").stdout
    assert raw.encode() == copied.document.raw
    images.skopeo("copy", f"oci-archive:{ours}:v1", f"oci-archive:{theirs}:v2")
    assert session.pin(f"oci-archive:{theirs}:v2").digest == copied.digest
    back = session.copy(f"oci-archive:{theirs}:v2", f"oci:{tmp_path / 'back'}:v1")
    assert back.document.raw == copied.document.raw
    with Layout(tmp_path / "back") as layout:
        assert layout.verify().ok
        assert layout.verify().missing == ()


@pytest.mark.peers("oras")
def test_archive_takes_push_attach_and_pull(session, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a\n1\n")
    archive = f"oci-archive:{tmp_path / 'data.tar'}"
    pushed = session.push(f"{archive}:v1", tmp_path / "data")
    session.attach(f"{archive}:v1", tmp_path / "data" / "a.csv", artifact_type="application/vnd.example.report")
    assert [one.artifact_type for one in session.referrers(f"{archive}:v1")] == ["application/vnd.example.report"]
    assert list(session.tags(archive)) == ["v1"]
    assert session.pull(f"{archive}:v1", tmp_path / "back").digest == pushed.digest
    assert (tmp_path / "back" / "data" / "a.csv").read_text() == "a\n1\n"
    found = peers.run("oras", "manifest", "fetch", "--oci-layout", f"{tmp_path / 'data.tar'}:v1").stdout
    assert json.loads(found) == json.loads(pushed.document.raw)


@pytest.mark.peers("oras")
def test_oras_and_ocikit_read_each_others_layouts(session, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.csv").write_text("a\n1\n")
    session.push(f"oci:{tmp_path / 'ours'}:v1", tmp_path / "data")
    peers.run("oras", "pull", "--oci-layout", "--output", tmp_path / "out", f"{tmp_path / 'ours'}:v1")
    assert (tmp_path / "out" / "data" / "a.csv").read_text() == "a\n1\n"
    peers.run("oras", "push", "--oci-layout", f"{tmp_path / 'theirs'}:v1", "data/a.csv:text/csv", cwd=tmp_path)
    artifact = session.pull(f"oci:{tmp_path / 'theirs'}:v1", tmp_path / "back")
    assert artifact["data/a.csv"].media_type == "text/csv"
    assert (tmp_path / "back" / "data" / "a.csv").read_text() == "a\n1\n"


@pytest.mark.peers("oras")
def test_folder_packed_by_oras_is_unpacked(session, tmp_path):
    (tmp_path / "data" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "deep" / "a.csv").write_text("a\n1\n")
    peers.run("oras", "push", "--oci-layout", f"{tmp_path / 'theirs'}:v1", "data", cwd=tmp_path)
    artifact = session.inspect(f"oci:{tmp_path / 'theirs'}:v1")
    assert list(artifact.files) == ["data"]
    done = artifact.unpack(tmp_path / "back")
    assert (done.path / "data" / "deep" / "a.csv").read_text() == "a\n1\n"


@pytest.mark.peers("skopeo")
def test_skopeo_and_ocikit_read_docker_archives_of_each_other(session, source, tmp_path):
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    session.copy(f"oci:{source}:v1", f"docker-archive:{ours}:small:1")
    listed = json.loads(peers.run("skopeo", "inspect", f"docker-archive:{ours}:small:1").stdout)
    images.skopeo("copy", f"docker-archive:{ours}:docker.io/library/small:1", f"oci:{tmp_path / 'read'}:v1")
    assert session.inspect(f"oci:{tmp_path / 'read'}:v1").manifest.config.digest == (
        session.inspect(f"oci:{source}:v1").manifest.config.digest
    )
    images.skopeo("copy", f"oci:{source}:v1", f"docker-archive:{theirs}:team/small:2")
    image = session.inspect(f"docker-archive:{theirs}:team/small:2")
    assert session.pin(f"docker-archive:{theirs}").digest == image.digest
    assert image.config.digest == session.inspect(f"oci:{source}:v1").config.digest
    assert list(session.tags(f"docker-archive:{theirs}")) == ["docker.io/team/small:2"]
    assert len(listed["Layers"]) == len(image.manifest.layers)
    root = session.pull(f"docker-archive:{theirs}:team/small:2").unpack(tmp_path / "root").path
    assert {path: (root / path).read_bytes() for path in images.FILES} == images.FILES
    session.copy(f"docker-archive:{theirs}:team/small:2", f"oci:{tmp_path / 'back'}:v1")
    images.skopeo("copy", f"oci:{tmp_path / 'back'}:v1", f"docker-archive:{tmp_path / 'again.tar'}:small:3")
    session.tag(f"docker-archive:{ours}:small:1", "other:v1")
    images.skopeo("copy", f"docker-archive:{ours}:other:v1", f"oci:{tmp_path / 'other'}:v1")
