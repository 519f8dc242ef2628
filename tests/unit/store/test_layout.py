"""Image layouts on disk: other tools' quirks, several processes, crashes, full disks, and sweeping."""

import io
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from ocikit.errors import (
    BlobUnknown,
    ContentError,
    InUse,
    InvalidDigest,
    InvalidDocument,
    InvalidReference,
    ManifestUnknown,
    NotFound,
)
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import REF_NAME, TITLE
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Manifest
from ocikit.store.layout import gc
from ocikit.store.layout.disk import LayoutDisk
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    SBOM,
    StoreContract,
    image_config,
    on,
    push_artifact,
    push_blob,
    push_document,
    push_image,
    push_index,
    unique,
)
from tests.support import peers

ROOT = Path(__file__).resolve().parents[3]


class TestLayout(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        with Layout(tmp_path / "layout") as layout:
            yield layout


@pytest.fixture
def layout(tmp_path):
    with Layout(tmp_path / "layout") as opened:
        yield opened


def index(layout) -> dict:
    return json.loads((layout.path / "index.json").read_bytes())


def write_index(layout, value) -> None:
    (layout.path / "index.json").write_text(json.dumps(value))


def on_disk(layout) -> set[str]:
    return {f"{path.parent.name}:{path.name}" for path in layout.path.glob("blobs/*/*")}


def content_of(layout, descriptor) -> set[str]:
    """A manifest with its config and layers."""
    return {str(descriptor.digest), *(str(blob.digest) for blob in layout.document(descriptor).blobs)}


def make_old(layout, seconds: float = 7200) -> None:
    then = time.time() - seconds
    for path in layout.path.glob("blobs/*/*"):
        os.utime(path, (then, then))


def python(code: str, *arguments, **options) -> subprocess.Popen:
    """Another process that runs the code."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


# The folder ------------------------------------------------------------------------------------------------------------


def test_a_new_layout_is_what_the_specification_says(layout):
    push_image(layout, tag="v1")
    assert json.loads((layout.path / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    value = index(layout)
    assert value["schemaVersion"] == 2
    assert value["mediaType"] == mt.OCI_INDEX
    (entry,) = value["manifests"]
    assert entry["annotations"] == {REF_NAME: "v1"}
    for path in layout.path.glob("blobs/sha256/*"):
        assert Digest.of(path.read_bytes()).encoded == path.name
        assert path.stat().st_mode & 0o777 == 0o444


def test_looking_at_a_folder_that_is_no_layout_changes_nothing(tmp_path):
    layout = Layout(tmp_path / "new")
    assert layout.tags() == []
    assert not layout.exists(EMPTY_DESCRIPTOR)
    assert layout.gc(dry_run=True).digests == ()
    with pytest.raises(NotFound):
        layout.resolve("v1")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_no_layout_is_an_error_that_says_what_is_missing(tmp_path):
    with pytest.raises(NotFound, match="is not there"):
        Layout(tmp_path / "absent", create=False)
    with pytest.raises(NotFound, match="no file oci-layout") as caught:
        Layout(tmp_path, create=False)
    assert "oci:path:tag" in caught.value.hint
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    with pytest.raises(NotFound, match=r"no file index\.json"):
        Layout(tmp_path, create=False)


def test_a_layout_that_lost_its_index_is_not_taken_for_an_empty_one(layout):
    push_image(layout, tag="v1")
    (layout.path / "index.json").unlink()
    with pytest.raises(NotFound, match=r"index\.json"):
        Layout(layout.path)
    with pytest.raises(NotFound, match=r"index\.json"):
        layout.gc(grace=0)


@pytest.mark.parametrize(
    ("name", "content", "words"),
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
def test_an_unreadable_layout_is_an_error_that_names_the_file(layout, name, content, words):
    push_image(layout, tag="v1")
    (layout.path / name).write_text(content)
    with pytest.raises(InvalidDocument, match=words) as caught:
        Layout(layout.path)
    assert name in str(caught.value)
    with pytest.raises(InvalidDocument):
        layout.gc(grace=0)


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.9.7-dev"])
def test_any_version_one_is_read(layout, version):
    pushed = push_image(layout, tag="v1")
    (layout.path / "oci-layout").write_text(json.dumps({"imageLayoutVersion": version, "more": 1}))
    assert Layout(layout.path, create=False).resolve("v1").digest == pushed.digest
    push_image(layout, tag="v2")
    assert json.loads((layout.path / "oci-layout").read_bytes())["imageLayoutVersion"] == version


def test_unknown_files_and_entries_are_no_trouble(layout):
    pushed = push_image(layout, tag="v1")
    (layout.path / "manifest.json").write_text("[]")
    (layout.path / "blobs" / "README").write_text("hello")
    (layout.path / "blobs" / "sha256" / "not-a-digest").write_text("hello")
    (layout.path / "blobs" / "sha256" / "folder").mkdir()
    value = index(layout)
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
    assert again.resolve("v1.0").digest.encoded == "3" * 64  # the first, as the specification chooses among equals
    assert again.resolve("x:y").media_type == mt.DOCKER_MANIFEST
    assert len(again.entries()) == 6
    assert again.referrers(pushed) == []
    again.gc(grace=0)
    assert {"not-a-digest", "folder"} <= {path.name for path in layout.path.glob("blobs/sha256/*")}
    assert (layout.path / "manifest.json").exists()


def test_one_broken_entry_does_not_hide_the_others(layout):
    pushed = push_image(layout, tag="v1")
    value = index(layout)
    value["manifests"] += [{"digest": "nonsense", "annotations": {REF_NAME: "bad"}}, 7, None, {"annotations": None}]
    write_index(layout, value)
    assert layout.resolve("v1").digest == pushed.digest
    assert layout.tags() == ["bad", "v1"]
    layout.tag(pushed, "v2")
    assert index(layout)["manifests"][1:5] == value["manifests"][1:]
    with pytest.raises(InvalidDocument):
        layout.resolve("bad")
    with pytest.raises(InvalidDocument):
        layout.gc(grace=0)  # what can't be understood may stand for something


def test_null_manifests_mean_none(layout):
    push_blob(layout, b"x")
    write_index(layout, {"schemaVersion": 2, "manifests": None})
    assert layout.tags() == []
    push_image(layout, tag="v1")
    assert layout.tags() == ["v1"]


def test_unknown_keys_and_other_tools_entries_survive_a_change_as_they_were(layout):
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
    value = index(layout)
    assert value["manifests"][0] == foreign
    assert list(value["manifests"][0]) == list(foreign)
    assert value["future"] == {"a": [1, 2.5]}
    assert value["annotations"] == {"k": "v"}


def test_an_index_of_many_megabytes_is_read(layout):
    pushed = push_image(layout, tag="v1")
    value = index(layout)
    value["manifests"] += [
        {**value["manifests"][0], "annotations": {REF_NAME: f"t{i}", "pad": "x" * 200}} for i in range(20_000)
    ]
    write_index(layout, value)
    assert (layout.path / "index.json").stat().st_size > 4 << 20
    assert layout.resolve("t19999").digest == pushed.digest


def test_a_layout_can_be_pickled_and_shows_its_path(layout):
    push_image(layout, tag="v1")
    again = pickle.loads(pickle.dumps(layout))
    assert again.tags() == ["v1"]
    assert repr(again) == f"Layout(path={str(layout.path)!r})" or repr(again).endswith("…")


# Names -----------------------------------------------------------------------------------------------------------------


def test_untag_removes_exactly_one_name(layout):
    image = push_image(layout, tag="a")
    layout.tag(image, "b")
    layout.tag(image, "team/c:1.0")
    layout.untag("b")
    assert layout.tags() == ["a", "team/c:1.0"]
    assert content_of(layout, image) <= on_disk(layout)


def test_a_moved_name_leaves_no_entry_behind(layout):
    push_image(layout, tag="v1")
    new = push_image(layout, tag="v1")
    assert [entry.digest for entry in layout.entries()] == [new.digest]


def test_an_entry_without_a_name_is_given_one_and_keeps_the_rest(layout):
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
    (entry,) = index(layout)["manifests"]
    assert entry["annotations"] == {"k": "v", REF_NAME: "v1"}
    assert entry["platform"] == {"os": "linux", "architecture": "s390x"}
    layout.tag(image, "v2")
    first, second = layout.entries()
    assert first.platform == second.platform
    assert second.artifact_type == SBOM
    assert second.annotations == {"k": "v", REF_NAME: "v2"}


def test_a_new_entry_keeps_platform_artifact_type_and_annotations_of_the_descriptor(layout):
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


def test_a_name_can_not_read_as_a_digest(layout):
    image = push_image(layout)
    with pytest.raises(InvalidReference, match="digest"):
        layout.tag(image, f"sha256:{'0' * 64}")
    with pytest.raises(InvalidDigest):
        layout.resolve("sha256:0123")


def test_an_entry_can_not_pass_for_another_digest(layout):
    image, wanted = push_image(layout, tag="evil"), push_image(layout)
    value = index(layout)
    value["manifests"][0]["annotations"][REF_NAME] = wanted.digest
    write_index(layout, value)
    assert layout.resolve(wanted.digest).digest == wanted.digest != image.digest


def test_an_unknown_name_comes_with_near_ones(layout):
    push_image(layout, tag="release-1.0")
    with pytest.raises(ManifestUnknown, match=r"release-1\.0"):
        layout.resolve("relaese-1.0")
    with pytest.raises(ManifestUnknown, match=r"release-1\.0"):
        layout.untag("something else")


def test_without_a_tag_the_only_image_is_meant(layout):
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


def test_a_blob_that_is_no_manifest_does_not_resolve(layout):
    blob = push_blob(layout, image_config(), mt.OCI_CONFIG)
    with pytest.raises(NotFound):
        layout.resolve(blob.digest)


def test_a_damaged_manifest_does_not_resolve_by_its_digest(layout):
    image = push_image(layout)
    path = layout.blob(image.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"amd64", b"arm64").replace(b'"layers"', b'"leyers"'))
    with pytest.raises(NotFound):
        layout.resolve(image.digest)


def test_a_truncated_blob_counts_as_absent_and_is_replaced(layout):
    content = unique()
    blob = push_blob(layout, content)
    layout.blob(blob.digest).chmod(0o644)
    layout.blob(blob.digest).write_bytes(content[:5])
    assert not layout.exists(blob)
    layout.push_bytes(blob, content)
    assert layout.exists(blob)
    assert layout.fetch(blob) == content


def test_an_index_that_others_may_write_stays_so(layout):
    image = push_image(layout, tag="v1")
    (layout.path / "index.json").chmod(0o664)
    old = os.umask(0)
    try:
        layout.tag(image, "v2")
    finally:
        os.umask(old)
    assert (layout.path / "index.json").stat().st_mode & 0o777 == 0o664


def test_what_is_no_manifest_is_not_taken_for_one(layout):
    raw = b'{"schemaVersion": 2, "layers": "none"}'
    with pytest.raises(InvalidDocument):
        push_document(layout, raw, mt.OCI_MANIFEST, tag="bad")
    assert on_disk(layout) == set()
    assert layout.tags() == []


def test_a_referrer_that_loses_its_name_is_still_found(layout):
    subject = push_image(layout, tag="v1")
    sbom = push_artifact(layout, subject=subject, artifact_type=SBOM, tag="sbom")
    layout.untag("sbom")
    assert [one.digest for one in layout.referrers(subject)] == [sbom.digest]
    assert layout.tags() == ["v1"]


def test_referrers_within_an_index_are_found(layout):
    subject = push_image(layout)
    layer = push_blob(layout, unique())
    push_blob(layout, b"{}", mt.EMPTY)
    raw = Manifest(config=EMPTY_DESCRIPTOR, layers=[layer], subject=subject, artifact_type=SBOM).raw
    layout.blob(Digest.of(raw)).write_bytes(raw)  # as tools do that list no referrers
    referring = Descriptor.of(raw, mt.OCI_MANIFEST)
    push_index(layout, [subject, referring], tag="all")
    assert [one.digest for one in layout.referrers(subject)] == [referring.digest]


# Deleting --------------------------------------------------------------------------------------------------------------


def test_deleting_refuses_what_another_entry_leads_to_and_says_which(layout):
    child = push_image(layout, tag="child")
    push_index(layout, [push_index(layout, [on(child, "linux/amd64")])], tag="all")
    before = index(layout), on_disk(layout)
    with pytest.raises(InUse, match="part of all") as caught:
        layout.delete(child)
    assert [one.annotations[REF_NAME] for one in caught.value.users] == ["all"]
    layer = layout.document(child).layers[0]
    with pytest.raises(InUse, match="all, child|child, all"):
        layout.delete(layer)
    assert (index(layout), on_disk(layout)) == before


def test_a_damaged_document_can_be_deleted(layout):
    bad, other = push_image(layout, tag="bad"), push_image(layout, tag="worse")
    for image in (bad, other):
        layout.blob(image.digest).chmod(0o644)
        layout.blob(image.digest).write_bytes(b"?")
    layout.delete(bad)
    assert layout.tags() == ["worse"]


def test_a_subject_can_be_deleted_and_its_referrers_stay(layout):
    subject = push_image(layout, tag="v1")
    sbom = push_artifact(layout, subject=subject, artifact_type=SBOM)
    layout.delete(subject)
    assert layout.exists(sbom)
    assert layout.tags() == []
    layout.gc(grace=0)
    assert on_disk(layout) == content_of(layout, sbom)


# Defects of other clients, not to be repeated ---------------------------------------------------------------------------


def test_gc_keeps_the_layers_of_docker_manifests(layout):
    image = push_image(layout, docker=True)
    push_index(layout, [on(image, "linux/amd64")], docker=True, tag="v1")
    before = on_disk(layout)
    assert layout.gc(grace=0).digests == ()
    assert on_disk(layout) == before
    assert layout.verify().missing == ()


def test_gc_keeps_what_was_pulled_by_digest(layout):
    image = push_image(layout)
    layout.keep(image)
    before = on_disk(layout)
    layout.gc(grace=0)
    assert on_disk(layout) == before
    assert layout.resolve(image.digest).digest == image.digest


def test_gc_between_the_blobs_of_a_pull_removes_none_of_them(layout):
    config = push_blob(layout, image_config(), mt.OCI_CONFIG)
    with Layout(layout.path) as other:
        assert other.gc().digests == ()
    layer = push_blob(layout, unique(), mt.OCI_LAYER_GZIP)
    with Layout(layout.path) as other:
        assert other.gc().digests == ()
    image = push_document(layout, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST)
    with Layout(layout.path) as other:
        assert other.gc().digests == ()
    layout.tag(image, "v1")
    assert layout.verify().missing == ()


def test_gc_spares_a_pull_that_takes_longer_than_the_grace(layout):
    blob = push_blob(layout, unique())
    with Layout(layout.path) as other:
        assert other.gc(grace=0).digests == ()  # its Layout is open: it may have more to come
        layout.close()
        assert other.gc(grace=0).digests == (blob.digest,)


def test_gc_spares_what_a_pull_found_to_be_there_already(layout):
    blob = push_blob(layout, unique())
    make_old(layout)
    layout.close()
    with Layout(layout.path) as pulling, Layout(layout.path) as other:
        assert pulling.exists(blob)
        assert other.gc().digests == ()
        make_old(layout)
        assert other.gc().digests == (blob.digest,)


def test_gc_spares_what_a_long_pull_found_to_be_there_before_it_pushed_anything(layout):
    blob = push_blob(layout, unique())
    make_old(layout)
    layout.close()
    with Layout(layout.path) as pulling, Layout(layout.path) as other:
        assert pulling.exists(blob)
        time.sleep(0.05)
        push_blob(pulling, unique())
        assert other.gc(grace=0).digests == ()


def test_gc_spares_what_is_touched_while_it_sweeps(layout):
    touched, old = push_blob(layout, unique()), push_blob(layout, unique())
    make_old(layout)
    assert layout.exists(touched)
    disk = LayoutDisk(layout.path)
    assert not gc._remove(disk, touched.digest, cutoff=time.time() - 60)
    assert gc._remove(disk, old.digest, cutoff=time.time() - 60)
    assert not gc._remove(disk, old.digest, cutoff=time.time() - 60)
    assert layout.fetch(touched)
    assert not layout.exists(old)


def test_removing_an_image_keeps_its_other_names_until_it_is_deleted_itself(layout):
    image = push_image(layout, tag="a")
    layout.tag(image, "b")
    layout.untag("a")
    layout.gc(grace=0)
    assert layout.resolve("b").digest == image.digest
    assert layout.verify().missing == ()


def test_removing_an_index_keeps_children_that_have_names(layout):
    child, nameless = push_image(layout, tag="child"), push_image(layout)
    kept = content_of(layout, child)
    listed = push_index(layout, [on(child, "linux/amd64"), on(nameless, "linux/arm64/v8")], tag="all")
    layout.delete(listed)
    assert layout.tags() == ["child"]
    layout.gc(grace=0)
    assert on_disk(layout) == kept


def test_a_layer_shared_under_another_title_is_kept(layout):
    config = push_blob(layout, image_config(), mt.OCI_CONFIG)
    shared = unique("layer")
    push_blob(layout, shared, mt.OCI_LAYER_GZIP)
    images = []
    for title, kind in (("a.bin", mt.OCI_LAYER_GZIP), ("b.bin", mt.OCI_LAYER)):
        layer = Descriptor.of(shared, kind, annotations={TITLE: title})
        images.append(push_document(layout, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST, tag=title[0]))
    layout.delete(images[0])
    layout.gc(grace=0)
    assert layout.fetch(Descriptor.of(shared, mt.OCI_LAYER)) == shared
    with pytest.raises(InUse):
        layout.delete(Descriptor.of(shared, "application/another-type"))


def test_tagging_keeps_the_digest_of_documents_with_keys_from_the_future(layout):
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


# Sweeping --------------------------------------------------------------------------------------------------------------


def test_gc_removes_what_nothing_leads_to(layout):
    image = push_image(layout, tag="v1")
    kept = on_disk(layout)
    orphan = push_blob(layout, unique())
    gone = push_image(layout, tag="v2")
    gone_content = content_of(layout, gone)
    layout.untag("v2")
    report = layout.gc(grace=0)
    assert set(report.digests) == {orphan.digest, *gone_content}
    assert not report.dry_run
    assert report.size > 0
    assert on_disk(layout) == kept
    assert layout.resolve("v1").digest == image.digest


def test_a_dry_run_of_gc_removes_nothing_and_can_be_run(layout):
    orphan = push_blob(layout, unique())
    plan = layout.gc(grace=0, dry_run=True)
    assert plan.digests == (orphan.digest,)
    assert plan.size == orphan.size
    assert plan.dry_run
    assert layout.exists(orphan)
    done = layout.gc(grace=0, dry_run=True).run()
    assert not done.dry_run
    assert done.digests == (orphan.digest,)
    assert not layout.exists(orphan)
    assert done.run() is done


def test_gc_leaves_what_is_younger_than_the_grace(layout):
    old, young = push_blob(layout, unique()), push_blob(layout, unique())
    layout.close()
    then = time.time() - 100
    os.utime(layout.blob(old.digest), (then, then))
    assert layout.gc(grace=101).digests == ()
    assert layout.gc(grace=99).digests == (old.digest,)
    assert layout.exists(young)


def test_pushing_again_makes_a_blob_young(layout):
    content = unique()
    blob = push_blob(layout, content)
    make_old(layout)
    layout.push_bytes(blob, content)
    assert layout.gc().digests == ()


def test_the_old_content_of_a_young_manifest_stays(layout):
    image = push_image(layout)
    make_old(layout)
    os.utime(layout.blob(image.digest))
    layout.close()
    with Layout(layout.path) as other:
        assert other.gc().digests == ()


def test_gc_keeps_subjects_referrers_and_referrers_of_referrers(layout):
    subject = push_image(layout, tag="v1")
    sbom = push_artifact(layout, subject=subject, artifact_type=SBOM)
    push_artifact(layout, subject=sbom, artifact_type="application/vnd.example.signature")
    before = on_disk(layout)
    value = index(layout)
    value["manifests"] = [entry for entry in value["manifests"] if entry.get("annotations")]
    write_index(layout, value)  # as skopeo leaves it: referrers are not listed
    assert layout.gc(grace=0).digests == ()
    assert on_disk(layout) == before
    layout.untag("v1")
    layout.gc(grace=0)
    assert on_disk(layout) == set()


def test_gc_keeps_the_subject_of_an_entry(layout):
    subject = push_image(layout)
    push_artifact(layout, subject=subject, artifact_type=SBOM, tag="sbom")
    before = on_disk(layout)
    layout.gc(grace=0)
    assert on_disk(layout) == before


def test_gc_keeps_entries_of_unknown_types_and_what_they_name(layout):
    layer = push_blob(layout, unique())
    raw = json.dumps({"blobs": [{"mediaType": "x/y", "digest": layer.digest, "size": layer.size}]}).encode()
    future = push_document(layout, raw, "application/vnd.example.manifest.v9+json")
    xml = push_blob(layout, b"<xml/>", "application/xml")
    layout.tag(future, "future")
    layout.tag(xml, "xml")
    before = on_disk(layout)
    layout.gc(grace=0)
    assert on_disk(layout) == before


def test_gc_follows_documents_listed_under_a_wrong_type(layout):
    image = push_image(layout)
    layout.tag(Descriptor(media_type=mt.OCTET_STREAM, digest=image.digest, size=image.size), "odd")
    before = on_disk(layout)
    layout.gc(grace=0)
    assert on_disk(layout) == before


def test_gc_keeps_sha512_and_leaves_algorithms_it_does_not_know(layout):
    config = push_blob(layout, image_config(), mt.OCI_CONFIG, algorithm="sha512")
    push_document(layout, Manifest(config=config).raw, mt.OCI_MANIFEST, tag="v1")
    (layout.path / "blobs" / "blake3").mkdir()
    (layout.path / "blobs" / "blake3" / ("0" * 64)).write_bytes(b"?")
    layout.gc(grace=0)
    assert layout.exists(config)
    assert layout.verify().missing == ()


@pytest.mark.parametrize("damage", [b"not json", b'{"schemaVersion":2}', b""])
def test_gc_refuses_when_a_document_can_not_be_trusted(layout, damage):
    image = push_image(layout, tag="v1")
    orphan = push_blob(layout, unique())
    layout.blob(image.digest).chmod(0o644)
    layout.blob(image.digest).write_bytes(damage)
    with pytest.raises(InvalidDocument, match=image.digest.encoded):
        layout.gc(grace=0)
    assert layout.exists(orphan)
    assert len(on_disk(layout)) == 5


def test_gc_goes_on_where_documents_and_blobs_are_missing(layout):
    present, absent = push_image(layout), push_image(layout)
    push_index(layout, [on(present, "linux/amd64"), on(absent, "linux/arm64/v8")], tag="sparse")
    layout.blob(absent.digest).unlink()
    layout.blob(layout.document(present).layers[0].digest).unlink()
    layout.gc(grace=0)
    assert layout.exists(present)
    assert absent.digest in layout.verify().missing


def test_gc_cleans_up_unfinished_downloads_by_age(layout):
    push_blob(layout, unique())
    layout.close()
    parts = layout.path / ".ocikit" / "partial"
    (parts / f"sha256-{'0' * 64}.elsewhere.1.00000000").write_bytes(b"young")
    old = parts / f"sha256-{'1' * 64}.elsewhere.1.00000000"
    old.write_bytes(b"old")
    os.utime(old, (1, 1))
    report = layout.gc()
    assert report.partial == 1
    assert report.size == 3
    assert [path.name[7] for path in parts.iterdir()] == ["0"]


def test_gc_puts_back_what_a_killed_sweep_moved_aside_if_it_is_young(layout):
    young, old = push_blob(layout, unique()), push_blob(layout, unique())
    layout.close()
    trash = layout.path / ".ocikit" / "trash" / "blobs" / "sha256"
    trash.mkdir(parents=True)
    for blob in (young, old):
        layout.blob(blob.digest).rename(trash / blob.digest.encoded)
    os.utime(trash / old.digest.encoded, (1, 1))
    layout.gc()
    assert layout.exists(young)
    assert not layout.exists(old)
    assert list(trash.iterdir()) == []


def test_gc_in_another_process_loses_nothing_of_what_is_pushed_meanwhile(layout):
    """Images are pushed, tagged, checked and untagged while somebody sweeps without any grace."""
    push_image(layout, tag="stays")
    layout.close()
    sweeping = python(
        """
        import sys, time
        from ocikit.store.layout.layout import Layout
        swept, end = 0, time.monotonic() + 4
        while time.monotonic() < end:
            with Layout(sys.argv[1]) as layout:
                swept += len(layout.gc(grace=0).digests)
        print(swept)
        """,
        layout.path,
    )
    rounds = 0
    while sweeping.poll() is None:
        with Layout(layout.path) as pushing:
            shared = unique("layer")
            for name in ("a", "b"):
                config = push_blob(pushing, image_config(), mt.OCI_CONFIG)
                layer = Descriptor.of(shared, mt.OCI_LAYER_GZIP)
                if not pushing.exists(layer):
                    pushing.push_bytes(layer, shared)
                push_document(pushing, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST, tag=name)
            for name in ("a", "b"):
                manifest = pushing.document(pushing.resolve(name))
                assert all(pushing.exists(blob) for blob in manifest.blobs)
                pushing.untag(name)
        rounds += 1
    assert int(finished(sweeping)) > 0
    assert rounds > 5
    assert layout.verify().ok
    assert layout.tags() == ["stays"]
    assert all(layout.exists(blob) for blob in layout.document(layout.resolve("stays")).blobs)


# Verifying -------------------------------------------------------------------------------------------------------------


def test_verify_finds_what_is_damaged_missing_or_of_an_unknown_algorithm(layout):
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
    report = layout.verify(workers=2)
    assert not report.ok
    assert [blob.digest for blob in report.corrupt] == [bad.digest]
    assert report.corrupt[0].path == layout.blob(bad.digest)
    assert report.missing == (gone.digest,)
    assert report.unverifiable == (blake,)
    assert report.checked == 3
    assert bad.digest.encoded in repr(report) or repr(report).endswith("…")


# Several processes, crashes, disks -------------------------------------------------------------------------------------

TAGGING = """
    import sys
    from ocikit.store.layout.layout import Layout
    with Layout(sys.argv[1]) as layout:
        image = layout.resolve("start")
        for i in range(50):
            layout.tag(image, f"{sys.argv[2]}-{i}")
"""


def test_index_json_survives_two_processes_tagging_at_once(layout):
    push_image(layout, tag="start")
    processes = [python(TAGGING, layout.path, name) for name in ("a", "b")]
    while any(process.poll() is None for process in processes):
        assert "start" in Layout(layout.path, create=False).tags()  # a reader never sees half an index
    for process in processes:
        finished(process)
    assert len(layout.tags()) == 101


def test_index_json_survives_threads_with_layouts_of_their_own(layout):
    image = push_image(layout, tag="start")
    errors = []

    def tagging(name):
        try:
            with Layout(layout.path) as own:
                for i in range(20):
                    own.tag(image, f"{name}-{i}")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=tagging, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(layout.tags()) == 121


def test_two_processes_may_create_one_layout(tmp_path):
    code = """
        import sys
        from ocikit.store.layout.layout import Layout
        from ocikit.spec.descriptor import Descriptor
        with Layout(sys.argv[1]) as layout:
            raw = sys.argv[2].encode()
            layout.push_bytes(Descriptor.of(raw, "text/plain"), raw, tag=sys.argv[2])
    """
    for round_ in range(5):
        processes = [python(code, tmp_path / str(round_), name) for name in ("a", "b", "c")]
        for process in processes:
            finished(process)
        assert Layout(tmp_path / str(round_), create=False).tags() == ["a", "b", "c"]


CRASHING = """
    import io, json, os, sys
    from ocikit.store.layout.layout import Layout
    from ocikit.spec import media_types as mt
    from ocikit.spec.descriptor import Descriptor
    from ocikit.spec.manifest import Manifest
    layout = Layout(sys.argv[1])
    print("ready", flush=True)
    i = 0
    while True:
        i += 1
        config, layer = json.dumps({"n": i, "r": os.urandom(8).hex()}).encode(), os.urandom(200_000)
        c, l = Descriptor.of(config, mt.OCI_CONFIG), Descriptor.of(layer, mt.OCI_LAYER)
        layout.push_bytes(c, config)
        layout.push_bytes(l, layer)
        m = Manifest(config=c, layers=[l])
        layout.push_bytes(m.descriptor, m.raw, tag=f"t{i % 7}")
        layout.tag(m.descriptor, "last")
        if i % 3 == 0:
            layout.untag(f"t{i % 7}")
        if i % 4 == 0:
            layout.gc(grace=0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_layout_survives_kill_9_at_any_point(tmp_path):
    path = tmp_path / "layout"
    dice = random.Random(9)
    for _ in range(12):
        process = python(CRASHING, path)
        process.stdout.readline()
        time.sleep(dice.uniform(0, 0.25))
        process.kill()
        process.communicate()
        layout = Layout(path)
        report = layout.verify()
        assert report.ok
        assert report.missing == ()
        for tag in layout.tags():
            assert all(layout.exists(blob) for blob in layout.document(layout.resolve(tag)).blobs)
        layout.close()
    with Layout(path) as layout:  # locks and leases went with their processes
        push_image(layout, tag="after")
        layout.gc(grace=0)
        assert layout.verify().ok
        assert "after" in layout.tags()
        assert len(list((path / ".ocikit" / "leases").iterdir())) == 1


FILLING = """
    import os, sys
    from ocikit.store.layout.layout import Layout
    from ocikit.errors import ContentError
    from ocikit.spec import media_types as mt
    from ocikit.spec.descriptor import Descriptor
    if sys.argv[2] == "limit":
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    with Layout(sys.argv[1]) as layout:
        small = b"small"
        layout.push_bytes(Descriptor.of(small, "text/plain"), small, tag="small")
        large = os.urandom(3 << 20)
        try:
            layout.push_bytes(Descriptor.of(large, "text/plain"), large, tag="large")
        except ContentError as error:
            print(error)
        else:
            sys.exit("nothing was raised")
        assert not layout.exists(Descriptor.of(large, "text/plain"))
        assert layout.tags() == ["small"], layout.tags()
        assert layout.verify().ok
"""


def test_a_file_size_limit_is_an_error_that_says_so_and_leaves_the_layout_whole(tmp_path):
    out = finished(python(FILLING, tmp_path / "layout", "limit"))
    assert "cannot write" in out
    assert "ulimit" in out


def test_a_full_disk_is_an_error_that_says_so_and_leaves_the_layout_whole(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False, capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root; the file size limit is tested instead")
    try:
        out = finished(python(FILLING, disk / "layout", "disk"))
        assert "No space left" in out
        assert "free some space" in out
        # Not a byte is left even for the index
        layout = Layout(disk / "layout")
        image = Descriptor.of(b"small", "text/plain")
        with (disk / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(bytes(4096))
        with pytest.raises(ContentError, match="No space left"):
            for i in range(2000):
                layout.tag(image, f"tag-{i}")
        assert layout.verify().ok
        assert "small" in layout.tags()
        (disk / "filler").unlink()
        for part in layout.path.glob(".ocikit/partial/*"):
            part.unlink()
        layout.tag(image, "room-again")
        assert "room-again" in layout.tags()
        layout.close()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_can_not_be_written_is_a_content_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ContentError, match="cannot write"):
        push_blob(Layout(tmp_path / "file" / "layout"), b"x")
    with pytest.raises(ContentError, match="cannot write"):
        push_blob(Layout(tmp_path / "file"), b"x")


def test_a_layout_on_a_medium_that_can_not_be_written_is_read(layout):
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


def test_nothing_is_left_of_a_layout_that_was_closed(layout):
    push_image(layout, tag="v1")
    assert len(list((layout.path / ".ocikit" / "leases").iterdir())) == 1
    layout.close()
    layout.close()
    assert list((layout.path / ".ocikit" / "leases").iterdir()) == []
    assert list((layout.path / ".ocikit" / "partial").iterdir()) == []


def test_a_push_that_breaks_off_is_resumed(layout):
    content = random.Random(3).randbytes(6 << 20)
    blob = Descriptor.of(content, mt.OCTET_STREAM)

    class Breaking(io.BytesIO):
        def readinto(self, buffer):
            if self.tell() >= 4 << 20:
                raise ConnectionError("the line is dead")
            return super().readinto(memoryview(buffer)[: 1 << 19])

    with pytest.raises(ConnectionError):
        layout.push(blob, Breaking(content))
    assert not layout.exists(blob)

    class Counting(io.BytesIO):
        read_bytes = 0

        def readinto(self, buffer):
            n = super().readinto(buffer)
            Counting.read_bytes += n
            return n

    layout.push(blob, Counting(content))
    assert layout.exists(blob)
    assert Counting.read_bytes <= 3 << 20


def test_a_missing_blob_says_where_it_was_looked_for(layout):
    push_image(layout, tag="v1")
    with pytest.raises(BlobUnknown, match=str(layout.path)):
        layout.open(Descriptor.of(unique(), mt.OCTET_STREAM))


# Other tools -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def image(layout):
    """An image that tools accept: one layer that is a tar."""
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


@pytest.mark.interop
def test_skopeo_reads_what_we_write_and_we_read_what_skopeo_writes(layout, image, tmp_path):
    shown = json.loads(peers.run("skopeo", "inspect", "--raw", f"oci:{layout.path}:v1").stdout)
    assert shown == json.loads(layout.fetch(image))
    peers.run("skopeo", "--insecure-policy", "copy", f"oci:{layout.path}:v1", f"oci:{tmp_path}/theirs:v1")
    with Layout(tmp_path / "theirs", create=False) as theirs:
        assert theirs.resolve("v1").digest == image.digest
        assert theirs.only().digest == image.digest
        theirs.tag(theirs.resolve("v1"), "v2")
    # And skopeo goes on with a layout that we changed, and we with one that it changed
    peers.run("skopeo", "--insecure-policy", "copy", f"oci:{tmp_path}/theirs:v2", f"oci:{tmp_path}/theirs:v3")
    theirs = Layout(tmp_path / "theirs", create=False)
    assert theirs.resolve("v3").digest == image.digest
    assert {"v1", "v2"} <= set(theirs.tags()) or "v3" in theirs.tags()
    theirs.gc(grace=0)
    assert theirs.verify().ok
    assert theirs.verify().missing == ()


@pytest.mark.interop
def test_oras_reads_what_we_write_and_we_read_what_oras_writes(layout, image, tmp_path):
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
        "oras", "attach", "--oci-layout", "--artifact-type", "application/vnd.example.note",
        f"{theirs}:v1", "note.txt", cwd=tmp_path,
    )  # fmt: skip
    with Layout(theirs, create=False) as ours:
        assert ours.resolve("v1").digest == image.digest
        found = {one.artifact_type: one for one in ours.referrers(image)}
        assert found.keys() == {SBOM, "application/vnd.example.note"}
        assert found[SBOM].annotations == {"a": "b"}
        before = on_disk(ours)
        assert ours.gc(grace=0).digests == ()
        assert on_disk(ours) == before
        ours.tag(image, "v2")
    peers.run("oras", "tag", "--oci-layout", f"{theirs}:v2", "v3")
    assert Layout(theirs).tags() == ["v1", "v2", "v3"]


@pytest.mark.interop
def test_crane_pushes_what_we_write_and_we_read_what_crane_pulls(layout, image, tmp_path):
    with peers.distribution3() as registry:
        reference = registry.reference("t/layout", "v1")
        peers.run("crane", "push", "--insecure", layout.path, reference)
        assert peers.run("crane", "digest", "--insecure", reference).stdout.strip() == image.digest
        peers.run("crane", "validate", "--insecure", "--remote", reference)
        peers.run("crane", "pull", "--insecure", "--format", "oci", reference, tmp_path / "theirs")
    with Layout(tmp_path / "theirs", create=False) as theirs:
        assert theirs.only().digest == image.digest  # crane gives no names
        assert theirs.verify().ok
        theirs.tag(theirs.only(), "named")
        assert theirs.resolve("named").digest == image.digest
        theirs.gc(grace=0)
        assert theirs.verify().missing == ()
