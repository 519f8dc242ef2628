"""Reading of layouts: resolving, referrers, verification."""

import os
import pickle
import subprocess

import pytest
from ocikit.errors import (
    BlobUnknown,
    ContentError,
    NotFound,
)
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    SBOM,
    StoreContract,
    image_config,
    push_artifact,
    push_blob,
    push_image,
    push_index,
    unique,
)


class TestLayout(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        with Layout(tmp_path / "layout") as layout:
            yield layout


@pytest.fixture
def layout(tmp_path):
    with Layout(tmp_path / "layout") as layout:
        yield layout


def test_reading_a_missing_folder_creates_nothing(tmp_path):
    layout = Layout(tmp_path / "new")
    assert layout.tags() == []
    assert not layout.exists(EMPTY_DESCRIPTOR)
    assert layout.gc(dry_run=True).digests == ()
    with pytest.raises(NotFound):
        layout.resolve("v1")
    assert not (tmp_path / "new").exists()


def test_folder_without_layout_raises_not_found(tmp_path):
    with pytest.raises(NotFound, match="does not exist"):
        Layout(tmp_path / "absent", create=False)
    with pytest.raises(NotFound, match="no file oci-layout") as caught:
        Layout(tmp_path, create=False)
    assert "oci:path:tag" in caught.value.hint
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    with pytest.raises(NotFound, match=r"no file index\.json"):
        Layout(tmp_path, create=False)


def test_layout_is_pickled_and_its_repr_shows_the_path(layout):
    push_image(layout, tag="v1")
    again = pickle.loads(pickle.dumps(layout))
    assert again.tags() == ["v1"]
    assert repr(again) == f"Layout(path={str(layout.path)!r})" or repr(again).endswith("…")


def test_reference_without_tag_means_the_only_image(layout):
    with pytest.raises(NotFound, match="no images"):
        layout.only()
    image = push_image(layout, tag="v1")
    assert layout.only().digest == image.digest
    layout.tag(image, "v2")
    push_artifact(layout, subject=image, artifact_type=SBOM)
    assert layout.only().digest == image.digest
    other = push_image(layout, tag="v3")
    with pytest.raises(NotFound, match="v1, v2, v3"):
        layout.only()
    layout.tag(other, "latest")
    assert layout.only().digest == other.digest


def test_config_blob_does_not_resolve(layout):
    blob = push_blob(layout, image_config(), mt.OCI_CONFIG)
    with pytest.raises(NotFound):
        layout.resolve(blob.digest)


def test_corrupt_manifest_does_not_resolve_by_digest(layout):
    image = push_image(layout)
    path = layout.blob(image.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"amd64", b"arm64").replace(b'"layers"', b'"leyers"'))
    with pytest.raises(NotFound):
        layout.resolve(image.digest)


def test_truncated_blob_is_absent_and_replaced(layout):
    content = unique()
    blob = push_blob(layout, content)
    layout.blob(blob.digest).chmod(0o644)
    layout.blob(blob.digest).write_bytes(content[:5])
    assert not layout.exists(blob)
    layout.push_bytes(blob, content)
    assert layout.exists(blob)
    assert layout.fetch(blob) == content


def test_untagged_referrer_is_still_found(layout):
    subject = push_image(layout, tag="v1")
    sbom = push_artifact(layout, subject=subject, artifact_type=SBOM, tag="sbom")
    layout.untag("sbom")
    assert [descriptor.digest for descriptor in layout.referrers(subject)] == [sbom.digest]
    assert layout.tags() == ["v1"]


def test_referrers_within_an_index_are_found(layout):
    subject = push_image(layout)
    layer = push_blob(layout, unique())
    push_blob(layout, b"{}", mt.EMPTY)
    raw = Manifest(config=EMPTY_DESCRIPTOR, layers=[layer], subject=subject, artifact_type=SBOM).raw
    layout.blob(Digest.of(raw)).write_bytes(raw)  # like tools that do not list referrers
    referring = Descriptor.of(raw, mt.OCI_MANIFEST)
    push_index(layout, [subject, referring], tag="all")
    assert [descriptor.digest for descriptor in layout.referrers(subject)] == [referring.digest]


def test_verify_lists_corrupt_missing_and_unverifiable_blobs(layout):
    image = push_image(layout, tag="v1")
    bad, gone = layout.document(image).layers
    assert layout.verify().ok
    layout.blob(bad.digest).chmod(0o644)
    content = bytearray(layout.blob(bad.digest).read_bytes())
    content[3] ^= 1
    layout.blob(bad.digest).write_bytes(content)
    layout.blob(gone.digest).unlink()
    blake = Digest(f"blake3:{'0' * 64}")
    layout.blob(blake).parent.mkdir()
    layout.blob(blake).write_bytes(b"?")
    result = layout.verify(workers=2)
    assert not result.ok
    assert [blob.digest for blob in result.corrupt] == [bad.digest]
    assert result.corrupt[0].path == layout.blob(bad.digest)
    assert result.missing == (gone.digest,)
    assert result.unverifiable == (blake,)
    assert result.checked == 3
    assert bad.digest.encoded in repr(result) or repr(result).endswith("…")


def test_layout_on_read_only_file_system_is_read(layout):
    image = push_image(layout, tag="v1")
    layout.close()
    if os.geteuid() == 0:
        bind = subprocess.run(["mount", "--bind", layout.path, layout.path], check=False, capture_output=True)
        if bind.returncode:
            pytest.skip("mounting isn't allowed here")
        subprocess.run(["mount", "-o", "remount,ro,bind", layout.path], check=True)
    else:
        layout.path.chmod(0o555)
    try:
        reader = Layout(layout.path, create=False)
        assert reader.document(reader.resolve("v1")).digest == image.digest
        assert reader.exists(image)
        assert reader.verify().ok
        assert reader.gc(dry_run=True, grace=0).digests == ()
        with pytest.raises(ContentError, match="cannot write"):
            reader.tag(image, "v2")
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", layout.path], check=True)
        else:
            layout.path.chmod(0o755)


def test_missing_blob_error_names_the_layout(layout):
    push_image(layout, tag="v1")
    with pytest.raises(BlobUnknown, match=str(layout.path)):
        layout.open(Descriptor.of(unique(), mt.OCTET_STREAM))
