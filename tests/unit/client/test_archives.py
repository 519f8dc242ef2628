"""Layers that are archives: images with wrong configs, folders of oras, charts of Helm, artifacts of Flux."""

import io
import tarfile

import ocikit
import pytest
from ocikit.spec.annotations import Annotations

from tests.support import images
from tests.support.home import tree

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
        assert caught.value.message.endswith("has no archives to unpack: its layers are plain files")
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
