"""Image layouts in a tar."""

import gzip
import io
import json
import os
import tarfile

import pytest
from ocikit.errors import ContentError, DigestMismatch, NotFound, UnsafeArchive
from ocikit.store.layout.archive import open_archive, write_archive
from ocikit.store.layout.docker import read_docker_archive, write_docker_archive
from ocikit.store.layout.layout import Layout
from ocikit.transfer.plan import copy

from tests.contracts.store import on, push_image, push_index
from tests.support import images, peers
from tests.support.tars import rewrite_tar


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "images.tar"
    with open_archive(path, "w") as layout:
        push_image(layout, tag="v1")
        push_image(layout, tag="v2")
    return path


def test_written_archive_is_read_back(tmp_path):
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


def test_archive_bytes_depend_only_on_content(archive, tmp_path):
    with open_archive(archive) as layout:
        for path in layout.path.glob("blobs/*/*"):
            os.utime(path, (1, 1))
        write_archive(layout, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert [m.name for m in members[:3]] == ["oci-layout", "index.json", "blobs"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert not any(".ocikit" in m.name for m in members)


def test_changed_archive_is_replaced_and_unchanged_one_is_not(archive):
    before = os.stat(archive)
    with open_archive(archive, "a") as layout:
        layout.tags()
    assert os.stat(archive).st_ino == before.st_ino
    with open_archive(archive, "a") as layout:
        layout.tag(layout.resolve("v1"), "v3")
    with open_archive(archive) as layout:
        assert layout.tags() == ["v1", "v2", "v3"]


def test_error_within_the_block_leaves_the_archive_unchanged(archive):
    before = archive.read_bytes()
    with pytest.raises(ZeroDivisionError), open_archive(archive, "a") as layout:
        layout.untag("v1")
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), open_archive(archive, "w") as layout:
        open("/nowhere/at/all")
    assert archive.read_bytes() == before
    assert [entry.name for entry in os.scandir(archive.parent)] == ["images.tar"]


def test_changes_to_an_archive_opened_for_reading_are_discarded(archive):
    before = archive.read_bytes()
    with open_archive(archive) as layout:
        layout.untag("v1")
    assert archive.read_bytes() == before


def test_append_mode_creates_an_archive(tmp_path):
    with open_archive(tmp_path / "new.tar", "a") as layout:
        push_image(layout, tag="v1")
    with open_archive(tmp_path / "new.tar") as layout:
        assert layout.tags() == ["v1"]


def test_one_name_is_copied_to_an_archive_with_its_content(tmp_path):
    layout = Layout(tmp_path / "layout")
    image = push_image(layout)
    push_index(layout, [on(image, "linux/amd64")], tag="all")
    other = push_image(layout, tag="other")
    with open_archive(tmp_path / "one.tar", "w") as target:
        copy(layout, "all", target, tags=["all"])
    with open_archive(tmp_path / "one.tar") as layout:
        assert layout.tags() == ["all"]
        assert layout.verify().ok
        assert layout.verify().missing == ()
        assert layout.exists(image)
        assert not layout.exists(other)


def test_archive_is_copied_to_a_layout_and_names_move(archive, tmp_path):
    layout = Layout(tmp_path / "layout")
    own = push_image(layout, tag="own")
    push_image(layout, tag="v1")
    with open_archive(archive) as source:
        for name in source.tags():
            copy(source, name, layout, tags=[name])
        first = source.resolve("v1")
    assert layout.tags() == ["own", "v1", "v2"]
    assert layout.resolve("v1").digest == first.digest
    assert layout.resolve("own").digest == own.digest
    layout.gc(grace=0)
    assert layout.verify().missing == ()


def test_unknown_keys_survive_and_unknown_files_are_skipped(archive):
    def add_key(member, content):
        if member.name == "index.json":
            return member, json.dumps({**json.loads(content), "future": 1}, indent=3).encode()
        return member, content

    rewrite_tar(archive, add_key)
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
def test_archive_of_links_and_devices_is_rejected(tmp_path, kind, name):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(UnsafeArchive, match="regular file"), open_archive(path):
        pass


def test_blob_that_does_not_match_its_digest_is_rejected(archive):
    def corrupt(member, content):
        if member.isreg() and member.name.startswith("blobs/") and b"layer " in content:
            content = content.replace(b"layer ", b"Layer ")
        return member, content

    rewrite_tar(archive, corrupt)
    with pytest.raises(DigestMismatch), open_archive(archive):
        pass
    assert [entry.name for entry in os.scandir(archive.parent)] == ["images.tar"]


def test_corrupt_blob_is_not_written_to_an_archive(tmp_path):
    layout = Layout(tmp_path / "layout")
    blob = layout.document(push_image(layout, tag="v1")).layers[0]
    layout.blob(blob.digest).chmod(0o644)
    layout.blob(blob.digest).write_bytes(bytes(blob.size))
    with pytest.raises(DigestMismatch):
        write_archive(layout, tmp_path / "out.tar")
    assert sorted(entry.name for entry in os.scandir(tmp_path)) == ["layout"]


@pytest.mark.parametrize("length", [0, 10, 600, 5000])
def test_truncated_archive_is_named_in_the_error(archive, length):
    archive.write_bytes(archive.read_bytes()[:length])
    with pytest.raises((ContentError, NotFound)) as caught, open_archive(archive):
        pass
    assert str(archive) in str(caught.value)


def test_missing_archive_is_not_found(tmp_path):
    with pytest.raises(NotFound, match="does not exist"), open_archive(tmp_path / "absent.tar"):
        pass
    with pytest.raises(NotFound, match="oci:"), open_archive(tmp_path):
        pass


def test_compressed_archive_is_read(archive, tmp_path):
    packed = tmp_path / "images.tar.gz"
    packed.write_bytes(gzip.compress(archive.read_bytes()))
    with open_archive(packed) as layout:
        assert layout.tags() == ["v1", "v2"]
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(ContentError, match="truncated"), open_archive(packed):
        pass


def test_archive_in_a_missing_folder_raises_content_error(tmp_path):
    with pytest.raises(ContentError, match="cannot write"), open_archive(tmp_path / "absent" / "x.tar", "w") as layout:
        push_image(layout, tag="v1")


# Interoperability


@pytest.mark.peers("skopeo")
def test_skopeo_and_ocikit_read_archives_of_each_other(tmp_path):
    layout = Layout(images.small(tmp_path / "small", tag="v1"))
    digest = layout.resolve("v1").digest
    write_archive(layout, tmp_path / "ours.tar")
    skopeo = ("skopeo", "--insecure-policy", "copy")
    peers.run(*skopeo, f"oci-archive:{tmp_path}/ours.tar:v1", f"oci-archive:{tmp_path}/theirs.tar:v2")
    with open_archive(tmp_path / "theirs.tar", "a") as theirs:
        assert theirs.resolve("v2").digest == digest
        theirs.tag(theirs.resolve("v2"), "v3")
    peers.run("skopeo", "inspect", "--raw", f"oci-archive:{tmp_path}/theirs.tar:v3")
    write_docker_archive(layout, tmp_path / "docker.tar", {"v1": ["docker.io/library/small:1"]})
    peers.run("skopeo", "inspect", "--raw", f"docker-archive:{tmp_path}/docker.tar")
    peers.run(*skopeo, f"docker-archive:{tmp_path}/docker.tar", f"docker-archive:{tmp_path}/back.tar:small:2")
    back = Layout(tmp_path / "back")
    read_docker_archive(tmp_path / "back.tar", back)
    assert len(back.tags()) == 1
    assert back.verify().missing == ()


@pytest.mark.peers("oras")
def test_oras_reads_an_archive(tmp_path):
    layout = Layout(images.small(tmp_path / "small", tag="v1"))
    write_archive(layout, tmp_path / "ours.tar")
    raw = peers.run("oras", "manifest", "fetch", "--oci-layout", f"{tmp_path}/ours.tar:v1").stdout
    assert raw.encode().rstrip(b"\n") == layout.fetch(layout.resolve("v1"))
    with tarfile.open(tmp_path / "ours.tar") as tar:
        assert "oci-layout" in tar.getnames()
