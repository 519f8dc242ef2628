"""`index.json` and `oci-layout`: names, entries and files of other tools."""

import json
import os

import pytest
from ocikit.errors import (
    InvalidDigest,
    InvalidDocument,
    InvalidReference,
    ManifestUnknown,
    NotFound,
)
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    SBOM,
    image_config,
    on,
    push_blob,
    push_document,
    push_image,
)
from tests.support.layouts import blob_digests, content_of, read_index, write_index


@pytest.fixture
def layout(tmp_path):
    with Layout(tmp_path / "layout") as layout:
        yield layout


def test_new_layout_has_the_files_of_the_specification(layout):
    push_image(layout, tag="v1")
    assert json.loads((layout.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    value = read_index(layout)
    assert value["schemaVersion"] == 2
    assert value["mediaType"] == mt.OCI_INDEX
    (entry,) = value["manifests"]
    assert entry["annotations"] == {REF_NAME: "v1"}
    for path in layout.path.glob("blobs/sha256/*"):
        assert Digest.of(path.read_bytes()).encoded == path.name
        assert path.stat().st_mode & 0o777 == 0o444


def test_missing_index_with_blobs_raises_not_found(layout):
    push_image(layout, tag="v1")
    (layout.path / "index.json").unlink()
    with pytest.raises(NotFound, match=r"index\.json"):
        Layout(layout.path)
    with pytest.raises(NotFound, match=r"index\.json"):
        layout.gc(grace=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("oci-layout", "", "not JSON"),
        ("oci-layout", "[]", "expected an object"),
        ("oci-layout", "{}", "imageLayoutVersion None"),
        ("oci-layout", '{"imageLayoutVersion":"2.0.0"}', "'2.0.0', expected 1.x"),
        ("index.json", "", "not JSON"),
        ("index.json", '{"schemaVersion":2,"manifests":', "not JSON"),
        ("index.json", "[1]", "expected an object"),
        ("index.json", '{"manifests": {}}', r"expected an array @ \$\.manifests"),
    ],
)
def test_invalid_layout_file_is_named_in_the_error(layout, name, content, message):
    push_image(layout, tag="v1")
    (layout.path / name).write_text(content)
    with pytest.raises(InvalidDocument, match=message) as caught:
        Layout(layout.path)
    assert name in str(caught.value)
    with pytest.raises(InvalidDocument):
        layout.gc(grace=0)


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.9.7-dev"])
def test_any_layout_version_1_is_read(layout, version):
    pushed = push_image(layout, tag="v1")
    (layout.path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": version, "more": 1}))
    assert Layout(layout.path, create=False).resolve("v1").digest == pushed.digest
    push_image(layout, tag="v2")
    assert json.loads((layout.path / "oci-layout").read_bytes())["imageLayoutVersion"] == version


def test_unknown_files_and_entries_are_accepted(layout):
    pushed = push_image(layout, tag="v1")
    (layout.path / "manifest.json").write_text("[]")
    (layout.path / "blobs" / "README").write_text("hello")
    (layout.path / "blobs" / "sha256" / "not-a-digest").write_text("hello")
    (layout.path / "blobs" / "sha256" / "folder").mkdir()
    value = read_index(layout)
    value["manifests"][:0] = [
        {"mediaType": "application/xml", "digest": f"sha256:{'0' * 64}", "size": 3, "annotations": {"a": "b"}},
        {"mediaType": mt.OCI_MANIFEST, "digest": f"sha256:{'1' * 64}", "size": 3},
        {"mediaType": mt.DOCKER_MANIFEST, "digest": f"sha256:{'2' * 64}", "size": 3, "annotations": {REF_NAME: "x:y"}},
        {"mediaType": mt.OCI_MANIFEST, "digest": f"sha256:{'3' * 64}", "size": 3, "annotations": {REF_NAME: "v1.0"}},
        {"mediaType": mt.OCI_MANIFEST, "digest": f"sha256:{'4' * 64}", "size": 3, "annotations": {REF_NAME: "v1.0"}},
    ]
    write_index(layout, value)
    again = Layout(layout.path, create=False)
    assert again.tags() == ["v1", "v1.0", "x:y"]
    assert again.resolve("v1").digest == pushed.digest
    assert again.resolve("v1.0").digest.encoded == "3" * 64  # the first, as the specification requires
    assert again.resolve("x:y").media_type == mt.DOCKER_MANIFEST
    assert len(again.entries()) == 6
    assert again.referrers(pushed) == []
    again.gc(grace=0)
    assert {"not-a-digest", "folder"} <= {path.name for path in layout.path.glob("blobs/sha256/*")}
    assert (layout.path / "manifest.json").exists()


def test_invalid_entry_does_not_hide_valid_ones(layout):
    pushed = push_image(layout, tag="v1")
    value = read_index(layout)
    value["manifests"] += [{"digest": "nonsense", "annotations": {REF_NAME: "bad"}}, 7, None, {"annotations": None}]
    write_index(layout, value)
    assert layout.resolve("v1").digest == pushed.digest
    assert layout.tags() == ["bad", "v1"]
    layout.tag(pushed, "v2")
    assert read_index(layout)["manifests"][1:5] == value["manifests"][1:]
    with pytest.raises(InvalidDocument):
        layout.resolve("bad")
    with pytest.raises(InvalidDocument):
        layout.gc(grace=0)  # an invalid entry may reference any content


def test_null_manifests_are_an_empty_list(layout):
    push_blob(layout, b"x")
    write_index(layout, {"schemaVersion": 2, "manifests": None})
    assert layout.tags() == []
    push_image(layout, tag="v1")
    assert layout.tags() == ["v1"]


def test_unknown_keys_and_entries_survive_a_change(layout):
    pushed = push_image(layout)
    foreign = {
        "mediaType": mt.OCI_MANIFEST,
        "size": 3,
        "digest": f"sha256:{'a' * 64}",
        "platform": {"os": "linux", "architecture": "riscv64", "future": ["x"]},
        "annotations": {REF_NAME: "other", "io.containerd.image.name": "docker.io/library/other:latest"},
        "com.example": {"é": None},
        "urls": None,
    }
    write_index(
        layout, {"future": {"a": [1, 2.5]}, "schemaVersion": 2, "manifests": [foreign], "annotations": {"k": "v"}}
    )
    layout.tag(pushed, "v1")
    layout.untag("v1")
    layout.tag(pushed, "v2")
    value = read_index(layout)
    assert value["manifests"][0] == foreign
    assert list(value["manifests"][0]) == list(foreign)
    assert value["future"] == {"a": [1, 2.5]}
    assert value["annotations"] == {"k": "v"}


def test_index_of_many_megabytes_is_read(layout):
    pushed = push_image(layout, tag="v1")
    value = read_index(layout)
    value["manifests"] += [
        {**value["manifests"][0], "annotations": {REF_NAME: f"t{i}", "pad": "x" * 200}} for i in range(20_000)
    ]
    write_index(layout, value)
    assert (layout.path / "index.json").stat().st_size > 4 << 20
    assert layout.resolve("t19999").digest == pushed.digest


def test_untag_removes_exactly_one_name(layout):
    image = push_image(layout, tag="a")
    layout.tag(image, "b")
    layout.tag(image, "team/c:1.0")
    layout.untag("b")
    assert layout.tags() == ["a", "team/c:1.0"]
    assert content_of(layout, image) <= blob_digests(layout)


def test_moved_name_leaves_no_entry_behind(layout):
    push_image(layout, tag="v1")
    new = push_image(layout, tag="v1")
    assert [entry.digest for entry in layout.entries()] == [new.digest]


def test_tag_names_an_unnamed_entry_and_keeps_its_fields(layout):
    image = push_image(layout)
    write_index(
        layout,
        {
            "schemaVersion": 2,
            "manifests": [
                {
                    "mediaType": image.media_type,
                    "size": image.size,
                    "digest": image.digest,
                    "artifactType": SBOM,
                    "platform": {"os": "linux", "architecture": "s390x"},
                    "annotations": {"k": "v"},
                }
            ],
        },
    )
    layout.tag(image, "v1")
    (entry,) = read_index(layout)["manifests"]
    assert entry["annotations"] == {"k": "v", REF_NAME: "v1"}
    assert entry["platform"] == {"os": "linux", "architecture": "s390x"}
    layout.tag(image, "v2")
    first, second = layout.entries()
    assert first.platform == second.platform
    assert second.artifact_type == SBOM
    assert second.annotations == {"k": "v", REF_NAME: "v2"}


def test_new_entry_keeps_the_fields_of_the_descriptor(layout):
    image = push_image(layout)
    wide = Descriptor(
        media_type=image.media_type,
        digest=image.digest,
        size=image.size,
        artifact_type=SBOM,
        platform=on(image, "linux/arm64/v8").platform,
        annotations={"k": "v", REF_NAME: "from-elsewhere"},
        data=layout.fetch(image),
    )
    layout.tag(wide, "v1")
    (entry,) = layout.entries()
    assert (entry.artifact_type, str(entry.platform), entry.data) == (SBOM, "linux/arm64/v8", None)
    assert entry.annotations == {"k": "v", REF_NAME: "v1"}


def test_name_that_starts_like_a_digest_is_rejected(layout):
    image = push_image(layout)
    with pytest.raises(InvalidReference, match="digest"):
        layout.tag(image, f"sha256:{'0' * 64}")
    with pytest.raises(InvalidDigest):
        layout.resolve("sha256:0123")


def test_entry_named_like_a_digest_does_not_resolve_as_it(layout):
    image, wanted = push_image(layout, tag="evil"), push_image(layout)
    value = read_index(layout)
    value["manifests"][0]["annotations"][REF_NAME] = wanted.digest
    write_index(layout, value)
    assert layout.resolve(wanted.digest).digest == wanted.digest != image.digest


def test_unknown_name_error_lists_similar_names(layout):
    push_image(layout, tag="release-1.0")
    with pytest.raises(ManifestUnknown, match=r"release-1\.0"):
        layout.resolve("relaese-1.0")
    with pytest.raises(ManifestUnknown, match=r"release-1\.0"):
        layout.untag("something else")


def test_permissions_of_index_json_are_kept(layout):
    image = push_image(layout, tag="v1")
    (layout.path / "index.json").chmod(0o664)
    old = os.umask(0)
    try:
        layout.tag(image, "v2")
    finally:
        os.umask(old)
    assert (layout.path / "index.json").stat().st_mode & 0o777 == 0o664


def test_tag_keeps_the_digest_of_a_document_with_unknown_keys(layout):
    config = push_blob(layout, image_config(), mt.OCI_CONFIG)
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": mt.OCI_MANIFEST,
            "artifactType": SBOM,
            "config": {"mediaType": config.media_type, "digest": config.digest, "size": config.size},
            "layers": [],
            "later": True,
        },
        indent=2,
    ).encode()
    pushed = push_document(layout, raw, mt.OCI_MANIFEST)
    layout.tag(pushed, "v1")
    assert layout.resolve("v1").digest == Digest.of(raw)
    assert layout.fetch(layout.resolve("v1")) == raw
