"""Archives of `docker save`, read and written as layouts."""

import gzip
import io
import json
import os
import tarfile

import pytest
from ocikit.errors import (
    DigestMismatch,
    InvalidDocument,
    ManifestUnknown,
    NoMatchingPlatform,
    NotFound,
    UnsafeArchive,
)
from ocikit.spec import media_types as mt
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.store.layout.archive import open_archive
from ocikit.store.layout.docker import open_docker_archive, read_docker_archive, write_docker_archive
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    image_config,
    on,
    push_artifact,
    push_blob,
    push_document,
    push_index,
    unique,
)
from tests.support import images
from tests.support.tars import rewrite_tar


def write_docker_tar(path, layers: dict[str, bytes], *, diff_ids=None, tags=("x:1",), links=()):
    """Write an archive of one image; `layers` maps file names to bytes, `links` are symbolic links."""
    config = image_config(rootfs={"type": "layers", "diff_ids": diff_ids or [Digest.of(c) for c in layers.values()]})
    files = {"config.json": config, **layers}
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": tags, "Layers": list(layers)}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def push_plain_image(layout, **fields):
    """Push an image with one uncompressed layer and a config that names it, as docker requires."""
    layer = push_blob(layout, unique(), mt.OCI_LAYER)
    config = push_blob(layout, image_config(rootfs={"type": "layers", "diff_ids": [layer.digest]}), mt.OCI_CONFIG)
    return push_document(layout, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST, **fields)


# Reading


def test_saved_image_is_read_under_its_name(tmp_path):
    path = images.docker_archive(tmp_path / "docker.tar", tag="team/small:1.0")
    layout = Layout(tmp_path / "layout")
    (descriptor,) = read_docker_archive(path, layout)
    assert layout.tags() == ["team/small:1.0"]
    manifest = layout.document(layout.resolve("team/small:1.0"))
    assert manifest.digest == descriptor.digest
    assert manifest.config.media_type == mt.OCI_CONFIG
    assert [layer.media_type for layer in manifest.layers] == [mt.OCI_LAYER]
    assert layout.verify().ok
    assert read_docker_archive(path, Layout(tmp_path / "again"))[0].digest == descriptor.digest


def test_docker_archive_opened_as_oci_archive_names_the_scheme(tmp_path):
    path = images.docker_archive(tmp_path / "docker.tar", tag="team/small:1.0")
    with pytest.raises(NotFound, match="no image layout") as caught, open_archive(path):
        pass
    assert "docker save" in caught.value.hint
    assert f"docker-archive:{path}" in caught.value.hint


def test_compressed_layer_stays_compressed_and_is_verified(tmp_path):
    plain = unique() * 100
    packed = gzip.compress(plain)
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": packed}, diff_ids=[Digest.of(plain)], tags=None)
    layout = Layout(tmp_path / "layout")
    (descriptor,) = read_docker_archive(path, layout)
    (layer,) = layout.document(descriptor).layers
    assert (layer.media_type, layer.digest) == (mt.OCI_LAYER_GZIP, Digest.of(packed))
    assert len(layout.entries()) == 1
    with pytest.raises(DigestMismatch):
        read_docker_archive(write_docker_tar(tmp_path / "e.tar", {"l.tar": packed}), Layout(tmp_path / "other"))


def test_linked_layers_are_followed_only_within_the_archive(tmp_path):
    plain = unique()
    path = write_docker_tar(tmp_path / "d.tar", {"a/layer.tar": plain}, links=[("b/layer.tar", "../a/layer.tar")])

    def use_link(member, content):
        if member.name == "manifest.json":
            content = content.replace(b"a/layer.tar", b"b/layer.tar")
        return member, content

    rewrite_tar(path, use_link)
    layout = Layout(tmp_path / "layout")
    read_docker_archive(path, layout)
    assert layout.verify().ok
    for target, error in (("/etc/passwd", NotFound), ("../../../etc/passwd", NotFound), ("layer.tar", UnsafeArchive)):
        path = write_docker_tar(tmp_path / "e.tar", {"a/layer.tar": plain}, links=[("b/layer.tar", target)])
        rewrite_tar(path, use_link)
        with pytest.raises(error):
            read_docker_archive(path, Layout(tmp_path / "other"))


def test_layer_with_wrong_digest_is_rejected(tmp_path):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()}, diff_ids=[Digest.of(unique())])
    layout = Layout(tmp_path / "layout")
    with pytest.raises(DigestMismatch):
        read_docker_archive(path, layout)
    assert layout.tags() == []


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "not JSON"),
        ("{}", "array of objects"),
        ("[1]", "array of objects"),
        ("[{}]", r"\$\[0\].Config"),
        ('[{"Config": "config.json", "Layers": "x"}]', r"\$\[0\].Layers"),
        ('[{"Config": "config.json", "RepoTags": [1]}]', r"\$\[0\].RepoTags"),
        ('[{"Config": "config.json", "Layers": []}]', "0 layers, but"),
    ],
)
def test_invalid_manifest_json_names_the_position(tmp_path, manifest, message):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()})
    rewrite_tar(path, lambda m, content: (m, manifest.encode() if m.name == "manifest.json" else content))
    with pytest.raises(InvalidDocument, match=message):
        read_docker_archive(path, Layout(tmp_path / "layout"))


def test_missing_file_of_an_archive_is_named(tmp_path):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()})
    rewrite_tar(path, lambda m, content: None if m.name == "l.tar" else (m, content))
    with pytest.raises(NotFound, match=r"l\.tar"):
        read_docker_archive(path, Layout(tmp_path / "layout"))
    rewrite_tar(path, lambda m, content: None if m.name == "manifest.json" else (m, content))
    with pytest.raises(NotFound, match=r"manifest\.json"):
        read_docker_archive(path, Layout(tmp_path / "layout"))


# Writing


def test_image_survives_a_round_trip_through_docker_archive(tmp_path):
    layout = Layout(tmp_path / "layout")
    image = push_plain_image(layout)
    push_index(layout, [on(image, "linux/amd64")], tag="v1")
    with pytest.raises(NoMatchingPlatform):
        write_docker_archive(layout, tmp_path / "d.tar", {"v1": ["x:1"]}, platform="linux/s390x")
    write_docker_archive(layout, tmp_path / "d.tar", {"v1": ["x:1"], image.digest: ["x:2"]}, platform="linux/amd64")
    back = Layout(tmp_path / "back")
    (descriptor,) = read_docker_archive(tmp_path / "d.tar", back)
    assert descriptor.digest == image.digest
    assert back.tags() == ["x:1", "x:2"]
    push_artifact(layout, tag="artifact")
    with pytest.raises(InvalidDocument, match="not an image"):
        write_docker_archive(layout, tmp_path / "d.tar", {"artifact": ["x:1"]})


# Opened as a layout


def test_short_and_full_names_mean_the_same_image(tmp_path):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()}, tags=["alpine:3", "ghcr.io/team/app:v1"])
    with open_docker_archive(path) as layout:
        assert layout.tags() == ["docker.io/library/alpine:3", "ghcr.io/team/app:v1"]
        image = layout.resolve("alpine:3")
        assert layout.resolve("docker.io/library/alpine:3") == image == layout.resolve("ghcr.io/team/app:v1")
        assert layout.resolve(image.digest).digest == image.digest
        assert layout.only().digest == image.digest
        with pytest.raises(ManifestUnknown):
            layout.resolve("alpine")  # means alpine:latest


def test_written_images_are_read_back_with_and_without_names(tmp_path):
    path = tmp_path / "d.tar"
    with open_docker_archive(path, "a") as layout:
        named = push_plain_image(layout, tag="team/app:v1")
        layout.tag(named, "team/app")
        unnamed = push_plain_image(layout)
        layout.keep(unnamed)
        assert not path.exists()
    with open_docker_archive(path) as layout:
        assert layout.tags() == ["docker.io/team/app:latest", "docker.io/team/app:v1"]
        assert {entry.digest for entry in layout.entries()} == {named.digest, unnamed.digest}
    assert os.listdir(tmp_path) == ["d.tar"]


def test_changed_docker_archive_is_replaced_and_unchanged_one_is_not(tmp_path):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()}, tags=["x:1"])
    before = os.stat(path).st_ino
    with open_docker_archive(path, "a") as layout:
        image = layout.resolve("x:1")
    assert os.stat(path).st_ino == before
    with open_docker_archive(path, "a") as layout:
        layout.tag(image, "x:2")
        layout.untag("x:1")
    with open_docker_archive(path) as layout:
        assert layout.tags() == ["docker.io/library/x:2"]
        assert layout.resolve("x:2").digest == image.digest


def test_artifact_is_not_written_to_a_docker_archive(tmp_path):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()})
    before = path.read_bytes()
    with pytest.raises(InvalidDocument, match="not an image") as caught, open_docker_archive(path, "a") as layout:
        push_artifact(layout, tag="x:2")
    assert "oci-archive:" in caught.value.hint
    assert path.read_bytes() == before


def test_docker_archive_without_images_is_an_empty_layout(tmp_path):
    path = write_docker_tar(tmp_path / "d.tar", {"l.tar": unique()}, tags=["x:1"])
    with open_docker_archive(path, "a") as layout:
        layout.untag("x:1")
    with open_docker_archive(path) as layout:
        assert layout.tags() == []
        with pytest.raises(NotFound, match="no images"):
            layout.only()
    with open_docker_archive(path, "a") as layout:
        push_plain_image(layout, tag="x:2")
    with open_docker_archive(path) as layout:
        assert layout.tags() == ["docker.io/library/x:2"]
