"""Layouts shared with skopeo, oras and crane."""

import io
import json

import pytest
from ocikit.spec import media_types as mt
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    SBOM,
    image_config,
    push_artifact,
    push_blob,
    push_document,
)
from tests.support import peers
from tests.support.layouts import blob_digests


@pytest.fixture
def layout(tmp_path):
    with Layout(tmp_path / "layout") as layout:
        yield layout


@pytest.fixture
def image(layout):
    """An image with one layer that is a valid tar, as tools require."""
    import gzip
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        member = tarfile.TarInfo("hello.txt")
        member.size = 5
        tar.addfile(member, io.BytesIO(b"hello"))
    plain = file.getvalue()
    layer = push_blob(layout, gzip.compress(plain, mtime=0), mt.OCI_LAYER_GZIP)
    config = push_blob(layout, image_config(rootfs={"type": "layers", "diff_ids": [Digest.of(plain)]}), mt.OCI_CONFIG)
    return push_document(layout, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST, tag="v1")


@pytest.mark.peers("skopeo")
def test_skopeo_and_ocikit_read_layouts_of_each_other(layout, image, tmp_path):
    shown = json.loads(peers.run("skopeo", "inspect", "--raw", f"oci:{layout.path}:v1").stdout)
    assert shown == json.loads(layout.fetch(image))
    peers.run("skopeo", "--insecure-policy", "copy", f"oci:{layout.path}:v1", f"oci:{tmp_path}/theirs:v1")
    with Layout(tmp_path / "theirs", create=False) as theirs:
        assert theirs.resolve("v1").digest == image.digest
        assert theirs.only().digest == image.digest
        theirs.tag(theirs.resolve("v1"), "v2")
    # Each tool continues with a layout that the other has changed
    peers.run("skopeo", "--insecure-policy", "copy", f"oci:{tmp_path}/theirs:v2", f"oci:{tmp_path}/theirs:v3")
    theirs = Layout(tmp_path / "theirs", create=False)
    assert theirs.resolve("v3").digest == image.digest
    assert {"v1", "v2"} <= set(theirs.tags()) or "v3" in theirs.tags()
    theirs.gc(grace=0)
    assert theirs.verify().ok
    assert theirs.verify().missing == ()


@pytest.mark.peers("oras")
def test_oras_and_ocikit_read_layouts_of_each_other(layout, image, tmp_path):
    sbom = push_artifact(layout, subject=image, artifact_type=SBOM, annotations={"a": "b"})
    raw = peers.run("oras", "manifest", "fetch", "--oci-layout", f"{layout.path}:v1").stdout
    assert raw.encode().rstrip(b"\n") == layout.fetch(image)
    listed = peers.run("oras", "repo", "tags", "--oci-layout", layout.path).stdout.split()
    assert listed == ["v1"]
    tree = peers.run("oras", "discover", "--oci-layout", "--format", "json", f"{layout.path}:v1").stdout
    assert sbom.digest in tree
    theirs = tmp_path / "theirs"
    peers.run("oras", "cp", "-r", "--from-oci-layout", "--to-oci-layout", f"{layout.path}:v1", f"{theirs}:v1")
    (tmp_path / "note.txt").write_text("hello")
    peers.run(
        "oras",
        "attach",
        "--oci-layout",
        "--artifact-type",
        "application/vnd.example.note",
        f"{theirs}:v1",
        "note.txt",
        cwd=tmp_path,
    )
    with Layout(theirs, create=False) as ours:
        assert ours.resolve("v1").digest == image.digest
        referrers = {descriptor.artifact_type: descriptor for descriptor in ours.referrers(image)}
        assert referrers.keys() == {SBOM, "application/vnd.example.note"}
        assert referrers[SBOM].annotations == {"a": "b"}
        before = blob_digests(ours)
        assert ours.gc(grace=0).digests == ()
        assert blob_digests(ours) == before
        ours.tag(image, "v2")
    peers.run("oras", "tag", "--oci-layout", f"{theirs}:v2", "v3")
    assert Layout(theirs).tags() == ["v1", "v2", "v3"]


@pytest.mark.peers("crane", "distribution3")
def test_crane_pushes_a_layout_and_ocikit_reads_its_pull(layout, image, tmp_path):
    with peers.distribution3() as registry:
        reference = registry.reference("t/layout", "v1")
        peers.run("crane", "push", "--insecure", layout.path, reference)
        assert peers.run("crane", "digest", "--insecure", reference).stdout.strip() == image.digest
        peers.run("crane", "validate", "--insecure", "--remote", reference)
        peers.run("crane", "pull", "--insecure", "--format", "oci", reference, tmp_path / "theirs")
    with Layout(tmp_path / "theirs", create=False) as theirs:
        assert theirs.only().digest == image.digest  # crane writes no names
        assert theirs.verify().ok
        theirs.tag(theirs.only(), "named")
        assert theirs.resolve("named").digest == image.digest
        theirs.gc(grace=0)
        assert theirs.verify().missing == ()
