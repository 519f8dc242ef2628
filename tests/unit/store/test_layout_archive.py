"""Layouts in one tar, and what docker save writes."""

import gzip
import io
import json
import os
import tarfile

import pytest
from ocikit.errors import (
    ContentError,
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
from ocikit.store.layout.archive import open_archive, read_archive, write_archive
from ocikit.store.layout.docker import read_docker_archive, write_docker_archive
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    image_config,
    on,
    push_artifact,
    push_blob,
    push_document,
    push_image,
    push_index,
    unique,
)
from tests.support import images, peers


def names(path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def rewrite(path, change) -> None:
    """Write a tar again with each member, and its content, changed; None leaves it out."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read() if member.isreg() else None) for member in tar]
    with tarfile.open(path, "w") as tar:
        for member, content in members:
            if (changed := change(member, content)) is not None:
                member, content = changed
                if content is not None:
                    member.size = len(content)
                tar.addfile(member, io.BytesIO(content) if content is not None else None)


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "images.tar"
    with open_archive(path, "w") as layout:
        push_image(layout, tag="v1")
        push_image(layout, tag="v2")
    return path


def test_what_is_written_to_an_archive_is_read_from_it(tmp_path):
    path = tmp_path / "images.tar"
    with open_archive(path, "w") as layout:
        image = push_image(layout, tag="v1")
        raw = layout.fetch(image)
        assert not path.exists()
    with open_archive(path) as layout:
        assert layout.fetch(layout.resolve("v1")) == raw
        assert all(layout.exists(blob) for blob in layout.document(image).blobs)
        unpacked = layout.path
    assert not unpacked.exists()
    assert [entry.name for entry in os.scandir(tmp_path)] == ["images.tar"]


def test_an_archive_depends_on_its_content_alone(archive, tmp_path):
    layout = Layout(tmp_path / "layout")
    read_archive(archive, layout)
    for path in layout.path.glob("blobs/*/*"):
        os.utime(path, (1, 1))
    write_archive(layout, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:3]] == ["oci-layout", "index.json", "blobs"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert not any(".ocikit" in m.name for m in members)


def test_a_changed_archive_is_replaced_and_an_unchanged_one_is_left_alone(archive):
    before = os.stat(archive)
    with open_archive(archive, "a") as layout:
        layout.tags()
    assert os.stat(archive).st_ino == before.st_ino
    with open_archive(archive, "a") as layout:
        layout.tag(layout.resolve("v1"), "v3")
    with open_archive(archive) as layout:
        assert layout.tags() == ["v1", "v2", "v3"]


def test_an_error_within_the_block_leaves_the_archive_as_it_was(archive):
    before = archive.read_bytes()
    with pytest.raises(ZeroDivisionError), open_archive(archive, "a") as layout:
        layout.untag("v1")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), open_archive(archive, "w") as layout:
        open("/nowhere/at/all")
    assert archive.read_bytes() == before
    assert [entry.name for entry in os.scandir(archive.parent)] == ["images.tar"]


def test_what_is_done_to_an_archive_opened_for_reading_stays_there(archive):
    before = archive.read_bytes()
    with open_archive(archive) as layout:
        layout.untag("v1")
    assert archive.read_bytes() == before


def test_an_archive_that_is_appended_to_may_be_new(tmp_path):
    with open_archive(tmp_path / "new.tar", "a") as layout:
        push_image(layout, tag="v1")
    with open_archive(tmp_path / "new.tar") as layout:
        assert layout.tags() == ["v1"]


def test_one_name_can_be_written_with_all_that_it_leads_to(tmp_path):
    layout = Layout(tmp_path / "layout")
    image = push_image(layout)
    push_index(layout, [on(image, "linux/amd64")], tag="all")
    other = push_image(layout, tag="other")
    write_archive(layout, tmp_path / "one.tar", "all")
    with open_archive(tmp_path / "one.tar") as one:
        assert one.tags() == ["all"]
        assert one.verify().ok
        assert one.verify().missing == ()
        assert one.exists(image)
        assert not one.exists(other)
    with pytest.raises(ManifestUnknown, match="other"):
        write_archive(layout, tmp_path / "none.tar", "othr")
    assert not (tmp_path / "none.tar").exists()


def test_an_archive_can_be_added_to_a_layout(archive, tmp_path):
    layout = Layout(tmp_path / "layout")
    mine = push_image(layout, tag="mine")
    push_image(layout, tag="v1")
    found = read_archive(archive, layout)
    assert layout.tags() == ["mine", "v1", "v2"]
    assert layout.resolve("v1").digest == found[0].digest
    assert layout.resolve("mine").digest == mine.digest
    layout.gc(grace=0)
    assert layout.verify().missing == ()


def test_unknown_keys_and_files_of_an_archive(archive):
    def change(member, content):
        if member.name == "index.json":
            return member, json.dumps({**json.loads(content), "future": 1}, indent=3).encode()
        return member, content

    rewrite(archive, change)
    with tarfile.open(archive, "a") as tar:
        for name in ("../outside", "/absolute", "blobs/../../x", "blobs/sha256/not-a-digest", "manifest.json"):
            member = tarfile.TarInfo(name)
            member.size = 2
            tar.addfile(member, io.BytesIO(b"[]"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with open_archive(archive) as layout:
        assert json.loads((layout.path / "index.json").read_bytes())["future"] == 1
        assert sorted(entry.name for entry in os.scandir(layout.path)) == [
            ".ocikit",
            "blobs",
            "index.json",
            "oci-layout",
        ]
        assert layout.verify().ok
    assert not (archive.parent.parent / "outside").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("name", ["oci-layout", "index.json", f"blobs/sha256/{'0' * 64}", f"./blobs/sha256/{'0' * 64}"])
def test_an_archive_of_links_and_devices_is_refused(tmp_path, kind, name):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UnsafeArchive, match="regular file"), open_archive(path):
        pass


def test_a_blob_that_is_not_what_its_name_says_is_refused(archive, tmp_path):
    def change(member, content):
        if member.isreg() and member.name.startswith("blobs/") and b"layer " in content:
            content = content.replace(b"layer ", b"Layer ")
        return member, content

    rewrite(archive, change)
    with pytest.raises(DigestMismatch), open_archive(archive):
        pass
    layout = Layout(tmp_path / "layout")
    with pytest.raises(DigestMismatch):
        read_archive(archive, layout)
    assert layout.tags() == []
    assert layout.verify().ok


def test_a_damaged_blob_is_not_written_to_an_archive(tmp_path):
    layout = Layout(tmp_path / "layout")
    blob = layout.document(push_image(layout, tag="v1")).layers[0]
    layout.blob(blob.digest).chmod(0o644)
    layout.blob(blob.digest).write_bytes(bytes(blob.size))
    with pytest.raises(DigestMismatch):
        write_archive(layout, tmp_path / "out.tar")
    assert sorted(entry.name for entry in os.scandir(tmp_path)) == ["layout"]


@pytest.mark.parametrize("keep", [0, 10, 600, 5000])
def test_an_archive_that_was_cut_short_says_so(archive, keep):
    archive.write_bytes(archive.read_bytes()[:keep])
    with pytest.raises((ContentError, NotFound)) as caught, open_archive(archive):
        pass
    assert str(archive) in str(caught.value)


def test_an_archive_that_is_not_there_says_so(tmp_path):
    with pytest.raises(NotFound, match="not there"), open_archive(tmp_path / "absent.tar"):
        pass
    with pytest.raises(NotFound, match="oci:"), open_archive(tmp_path):
        pass


def test_compressed_archives_are_read(archive, tmp_path):
    packed = tmp_path / "images.tar.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes()))
    with open_archive(packed) as layout:
        assert layout.tags() == ["v1", "v2"]
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(ContentError, match="cut short"), open_archive(packed):
        pass


def test_an_archive_in_a_folder_that_is_not_there_is_a_content_error(tmp_path):
    with pytest.raises(ContentError, match="cannot write"), open_archive(tmp_path / "absent" / "x.tar", "w") as layout:
        push_image(layout, tag="v1")


# Docker ----------------------------------------------------------------------------------------------------------------


def test_what_docker_saved_becomes_an_image_under_its_name(tmp_path):
    path = images.docker_archive(tmp_path / "docker.tar", tag="team/small:1.0")
    layout = Layout(tmp_path / "layout")
    (found,) = read_docker_archive(path, layout)
    assert layout.tags() == ["team/small:1.0"]
    manifest = layout.document(layout.resolve("team/small:1.0"))
    assert manifest.digest == found.digest
    assert manifest.config.media_type == mt.OCI_CONFIG
    assert [layer.media_type for layer in manifest.layers] == [mt.OCI_LAYER]
    assert layout.verify().ok
    assert read_docker_archive(path, Layout(tmp_path / "again"))[0].digest == found.digest
    with pytest.raises(NotFound, match="no image layout") as caught, open_archive(path):
        pass
    assert "docker save" in caught.value.hint


def docker_tar(path, layers: dict[str, bytes], *, diff_ids=None, tags=("x:1",), extra=()):
    """An archive of one image; each layer's file name to its bytes."""
    config = image_config(rootfs={"type": "layers", "diff_ids": diff_ids or [Digest.of(c) for c in layers.values()]})
    files = {"config.json": config, **layers}
    files["manifest.json"] = json.dumps([{"Config": "config.json", "RepoTags": tags, "Layers": list(layers)}]).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in extra:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def test_a_compressed_layer_of_docker_stays_so_and_is_checked(tmp_path):
    plain = unique() * 100
    packed = gzip.compress(plain)
    path = docker_tar(tmp_path / "d.tar", {"l.tar": packed}, diff_ids=[Digest.of(plain)], tags=None)
    layout = Layout(tmp_path / "layout")
    (found,) = read_docker_archive(path, layout)
    (layer,) = layout.document(found).layers
    assert (layer.media_type, layer.digest) == (mt.OCI_LAYER_GZIP, Digest.of(packed))
    assert len(layout.entries()) == 1
    with pytest.raises(DigestMismatch):
        read_docker_archive(docker_tar(tmp_path / "e.tar", {"l.tar": packed}), Layout(tmp_path / "other"))


def test_layers_that_docker_linked_are_followed_within_the_archive(tmp_path):
    plain = unique()
    path = docker_tar(tmp_path / "d.tar", {"a/layer.tar": plain}, extra=[("b/layer.tar", "../a/layer.tar")])

    def change(member, content):
        if member.name == "manifest.json":
            content = content.replace(b"a/layer.tar", b"b/layer.tar")
        return member, content

    rewrite(path, change)
    layout = Layout(tmp_path / "layout")
    read_docker_archive(path, layout)
    assert layout.verify().ok
    for target, error in (("/etc/passwd", NotFound), ("../../../etc/passwd", NotFound), ("layer.tar", UnsafeArchive)):
        path = docker_tar(tmp_path / "e.tar", {"a/layer.tar": plain}, extra=[("b/layer.tar", target)])
        rewrite(path, change)
        with pytest.raises(error):
            read_docker_archive(path, Layout(tmp_path / "other"))


def test_a_layer_that_its_config_does_not_name_is_refused(tmp_path):
    path = docker_tar(tmp_path / "d.tar", {"l.tar": unique()}, diff_ids=[Digest.of(unique())])
    layout = Layout(tmp_path / "layout")
    with pytest.raises(DigestMismatch):
        read_docker_archive(path, layout)
    assert layout.tags() == []


@pytest.mark.parametrize(
    ("manifest", "words"),
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
def test_a_broken_manifest_json_says_where(tmp_path, manifest, words):
    path = docker_tar(tmp_path / "d.tar", {"l.tar": unique()})
    rewrite(path, lambda m, content: (m, manifest.encode() if m.name == "manifest.json" else content))
    with pytest.raises(InvalidDocument, match=words):
        read_docker_archive(path, Layout(tmp_path / "layout"))


def test_a_file_that_the_archive_lacks_is_named(tmp_path):
    path = docker_tar(tmp_path / "d.tar", {"l.tar": unique()})
    rewrite(path, lambda m, content: None if m.name == "l.tar" else (m, content))
    with pytest.raises(NotFound, match=r"l\.tar"):
        read_docker_archive(path, Layout(tmp_path / "layout"))
    rewrite(path, lambda m, content: None if m.name == "manifest.json" else (m, content))
    with pytest.raises(NotFound, match=r"manifest\.json"):
        read_docker_archive(path, Layout(tmp_path / "layout"))


def test_an_image_survives_the_way_to_docker_and_back(tmp_path):
    layout = Layout(tmp_path / "layout")
    plain = unique()
    layer = push_blob(layout, plain, mt.OCI_LAYER)
    config = push_blob(layout, image_config(rootfs={"type": "layers", "diff_ids": [layer.digest]}), mt.OCI_CONFIG)
    image = push_document(layout, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST)
    push_index(layout, [on(image, "linux/riscv64")], tag="v1")
    with pytest.raises(NoMatchingPlatform):
        write_docker_archive(layout, tmp_path / "d.tar", {"x:1": "v1"}, platform="linux/s390x")
    write_docker_archive(layout, tmp_path / "d.tar", {"x:1": "v1", "x:2": image.digest}, platform="linux/riscv64")
    back = Layout(tmp_path / "back")
    (found,) = read_docker_archive(tmp_path / "d.tar", back)
    assert found.digest == image.digest
    assert back.tags() == ["x:1", "x:2"]
    push_artifact(layout, tag="artifact")
    with pytest.raises(InvalidDocument, match="not an image"):
        write_docker_archive(layout, tmp_path / "d.tar", {"x:1": "artifact"})


# Other tools -----------------------------------------------------------------------------------------------------------


@pytest.mark.interop
def test_skopeo_reads_our_archives_and_we_read_those_of_skopeo(tmp_path):
    layout = Layout(images.small(tmp_path / "small", tag="v1"))
    digest = layout.resolve("v1").digest
    write_archive(layout, tmp_path / "ours.tar", "v1")
    skopeo = ("skopeo", "--insecure-policy", "copy")
    peers.run(*skopeo, f"oci-archive:{tmp_path}/ours.tar:v1", f"oci-archive:{tmp_path}/theirs.tar:v2")
    with open_archive(tmp_path / "theirs.tar", "a") as theirs:
        assert theirs.resolve("v2").digest == digest
        theirs.tag(theirs.resolve("v2"), "v3")
    peers.run("skopeo", "inspect", "--raw", f"oci-archive:{tmp_path}/theirs.tar:v3")
    write_docker_archive(layout, tmp_path / "docker.tar", {"docker.io/library/small:1": "v1"})
    peers.run("skopeo", "inspect", "--raw", f"docker-archive:{tmp_path}/docker.tar")
    peers.run(*skopeo, f"docker-archive:{tmp_path}/docker.tar", f"docker-archive:{tmp_path}/back.tar:small:2")
    back = Layout(tmp_path / "back")
    read_docker_archive(tmp_path / "back.tar", back)
    assert len(back.tags()) == 1
    assert back.verify().missing == ()


@pytest.mark.interop
def test_oras_reads_our_archives(tmp_path):
    layout = Layout(images.small(tmp_path / "small", tag="v1"))
    write_archive(layout, tmp_path / "ours.tar")
    raw = peers.run("oras", "manifest", "fetch", "--oci-layout", f"{tmp_path}/ours.tar:v1").stdout
    assert raw.encode().rstrip(b"\n") == layout.fetch(layout.resolve("v1"))
    assert "oci-layout" in names(tmp_path / "ours.tar")
