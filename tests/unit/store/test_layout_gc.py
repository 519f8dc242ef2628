"""Garbage collection of layouts."""

import json
import os
import time

import pytest
from ocikit.errors import (
    InUse,
    InvalidDocument,
)
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest
from ocikit.store.layout import gc
from ocikit.store.layout.disk import LayoutDisk
from ocikit.store.layout.layout import Layout

from tests.contracts.store import (
    SBOM,
    image_config,
    on,
    push_artifact,
    push_blob,
    push_document,
    push_image,
    push_index,
    unique,
)
from tests.support.layouts import blob_digests, content_of, make_old, read_index, start_python, wait_for, write_index


@pytest.fixture
def layout(tmp_path):
    with Layout(tmp_path / "layout") as layout:
        yield layout


def test_gc_keeps_layers_of_docker_manifests(layout):
    image = push_image(layout, docker=True)
    push_index(layout, [on(image, "linux/amd64")], docker=True, tag="v1")
    before = blob_digests(layout)
    assert layout.gc(grace=0).digests == ()
    assert blob_digests(layout) == before
    assert layout.verify().missing == ()


def test_gc_keeps_manifest_pulled_by_digest(layout):
    image = push_image(layout)
    layout.keep(image)
    before = blob_digests(layout)
    layout.gc(grace=0)
    assert blob_digests(layout) == before
    assert layout.resolve(image.digest).digest == image.digest


def test_gc_keeps_blobs_of_a_pull_in_progress(layout):
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


def test_gc_keeps_blobs_of_a_pull_longer_than_the_grace(layout):
    blob = push_blob(layout, unique())
    with Layout(layout.path) as other:
        assert other.gc(grace=0).digests == ()  # its layout is still open and may push more
        layout.close()
        assert other.gc(grace=0).digests == (blob.digest,)


def test_gc_keeps_old_blob_that_a_pull_has_checked(layout):
    blob = push_blob(layout, unique())
    make_old(layout)
    layout.close()
    with Layout(layout.path) as puller, Layout(layout.path) as other:
        assert puller.exists(blob)
        assert other.gc().digests == ()
        make_old(layout)
        assert other.gc().digests == (blob.digest,)


def test_lease_protects_blobs_checked_before_the_first_push(layout):
    blob = push_blob(layout, unique())
    make_old(layout)
    layout.close()
    with Layout(layout.path) as puller, Layout(layout.path) as other:
        assert puller.exists(blob)
        time.sleep(0.05)
        push_blob(puller, unique())
        assert other.gc(grace=0).digests == ()


def test_gc_keeps_blob_touched_during_the_sweep(layout):
    touched, old = push_blob(layout, unique()), push_blob(layout, unique())
    make_old(layout)
    assert layout.exists(touched)
    disk = LayoutDisk(layout.path)
    assert not gc._remove(disk, touched.digest, cutoff=time.time() - 60)
    assert gc._remove(disk, old.digest, cutoff=time.time() - 60)
    assert not gc._remove(disk, old.digest, cutoff=time.time() - 60)
    assert layout.fetch(touched)
    assert not layout.exists(old)


def test_gc_after_untag_keeps_image_with_another_name(layout):
    image = push_image(layout, tag="a")
    layout.tag(image, "b")
    layout.untag("a")
    layout.gc(grace=0)
    assert layout.resolve("b").digest == image.digest
    assert layout.verify().missing == ()


def test_gc_after_delete_of_index_keeps_named_children(layout):
    child, unnamed = push_image(layout, tag="child"), push_image(layout)
    expected = content_of(layout, child)
    listed = push_index(layout, [on(child, "linux/amd64"), on(unnamed, "linux/arm64/v8")], tag="all")
    layout.delete(listed)
    assert layout.tags() == ["child"]
    layout.gc(grace=0)
    assert blob_digests(layout) == expected


def test_gc_keeps_layer_shared_under_another_title(layout):
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


def test_gc_deletes_unreachable_blobs(layout):
    image = push_image(layout, tag="v1")
    expected = blob_digests(layout)
    orphan = push_blob(layout, unique())
    gone = push_image(layout, tag="v2")
    gone_content = content_of(layout, gone)
    layout.untag("v2")
    result = layout.gc(grace=0)
    assert set(result.digests) == {orphan.digest, *gone_content}
    assert not result.dry_run
    assert result.size > 0
    assert blob_digests(layout) == expected
    assert layout.resolve("v1").digest == image.digest


def test_gc_dry_run_deletes_nothing_until_run(layout):
    orphan = push_blob(layout, unique())
    plan = layout.gc(grace=0, dry_run=True)
    assert plan.digests == (orphan.digest,)
    assert plan.size == orphan.size
    assert plan.dry_run
    assert layout.exists(orphan)
    result = layout.gc(grace=0, dry_run=True).run()
    assert not result.dry_run
    assert result.digests == (orphan.digest,)
    assert not layout.exists(orphan)
    assert result.run() is result


def test_gc_keeps_blobs_younger_than_the_grace(layout):
    old, young = push_blob(layout, unique()), push_blob(layout, unique())
    layout.close()
    then = time.time() - 100
    os.utime(layout.blob(old.digest), (then, then))
    assert layout.gc(grace=101).digests == ()
    assert layout.gc(grace=99).digests == (old.digest,)
    assert layout.exists(young)


def test_second_push_renews_the_age_of_a_blob(layout):
    content = unique()
    blob = push_blob(layout, content)
    make_old(layout)
    layout.push_bytes(blob, content)
    assert layout.gc().digests == ()


def test_gc_keeps_old_content_of_a_young_manifest(layout):
    image = push_image(layout)
    make_old(layout)
    os.utime(layout.blob(image.digest))
    layout.close()
    with Layout(layout.path) as other:
        assert other.gc().digests == ()


def test_gc_keeps_subjects_and_nested_referrers(layout):
    subject = push_image(layout, tag="v1")
    sbom = push_artifact(layout, subject=subject, artifact_type=SBOM)
    push_artifact(layout, subject=sbom, artifact_type="application/vnd.example.signature")
    before = blob_digests(layout)
    value = read_index(layout)
    value["manifests"] = [entry for entry in value["manifests"] if entry.get("annotations")]
    write_index(layout, value)  # skopeo does not list referrers
    assert layout.gc(grace=0).digests == ()
    assert blob_digests(layout) == before
    layout.untag("v1")
    layout.gc(grace=0)
    assert blob_digests(layout) == set()


def test_gc_keeps_the_subject_of_an_entry(layout):
    subject = push_image(layout)
    push_artifact(layout, subject=subject, artifact_type=SBOM, tag="sbom")
    before = blob_digests(layout)
    layout.gc(grace=0)
    assert blob_digests(layout) == before


def test_gc_keeps_entries_of_unknown_types_with_their_content(layout):
    layer = push_blob(layout, unique())
    raw = json.dumps({"blobs": [{"mediaType": "x/y", "digest": layer.digest, "size": layer.size}]}).encode()
    future = push_document(layout, raw, "application/vnd.example.manifest.v9+json")
    xml = push_blob(layout, b"<xml/>", "application/xml")
    layout.tag(future, "future")
    layout.tag(xml, "xml")
    before = blob_digests(layout)
    layout.gc(grace=0)
    assert blob_digests(layout) == before


def test_gc_follows_documents_listed_with_a_wrong_type(layout):
    image = push_image(layout)
    layout.tag(Descriptor(media_type=mt.OCTET_STREAM, digest=image.digest, size=image.size), "odd")
    before = blob_digests(layout)
    layout.gc(grace=0)
    assert blob_digests(layout) == before


def test_gc_keeps_sha512_and_accepts_unknown_algorithms(layout):
    config = push_blob(layout, image_config(), mt.OCI_CONFIG, algorithm="sha512")
    push_document(layout, Manifest(config=config).raw, mt.OCI_MANIFEST, tag="v1")
    (layout.path / "blobs" / "blake3").mkdir()
    (layout.path / "blobs" / "blake3" / ("0" * 64)).write_bytes(b"?")
    layout.gc(grace=0)
    assert layout.exists(config)
    assert layout.verify().missing == ()


@pytest.mark.parametrize("damage", [b"not json", b'{"schemaVersion":2}', b""])
def test_corrupt_document_aborts_gc(layout, damage):
    image = push_image(layout, tag="v1")
    orphan = push_blob(layout, unique())
    layout.blob(image.digest).chmod(0o644)
    layout.blob(image.digest).write_bytes(damage)
    with pytest.raises(InvalidDocument, match=image.digest.encoded):
        layout.gc(grace=0)
    assert layout.exists(orphan)
    assert len(blob_digests(layout)) == 5


def test_gc_accepts_missing_documents_and_blobs(layout):
    present, absent = push_image(layout), push_image(layout)
    push_index(layout, [on(present, "linux/amd64"), on(absent, "linux/arm64/v8")], tag="sparse")
    layout.blob(absent.digest).unlink()
    layout.blob(layout.document(present).layers[0].digest).unlink()
    layout.gc(grace=0)
    assert layout.exists(present)
    assert absent.digest in layout.verify().missing


def test_gc_deletes_old_unfinished_transfers(layout):
    push_blob(layout, unique())
    layout.close()
    parts = layout.path / ".ocikit" / "partial"
    (parts / f"sha256-{'0' * 64}.elsewhere.1.00000000").write_bytes(b"young")
    old = parts / f"sha256-{'1' * 64}.elsewhere.1.00000000"
    old.write_bytes(b"old")
    os.utime(old, (1, 1))
    result = layout.gc()
    assert result.partial == 1
    assert result.size == 3
    assert [path.name[7] for path in parts.iterdir()] == ["0"]


def test_gc_restores_young_blobs_of_a_killed_sweep(layout):
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


def test_gc_in_another_process_deletes_nothing_pushed_meanwhile(layout):
    """Push, tag, check and untag images during garbage collections without grace."""
    push_image(layout, tag="stays")
    layout.close()
    sweeper = start_python(
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
    while sweeper.poll() is None:
        with Layout(layout.path) as writer:
            shared = unique("layer")
            for name in ("a", "b"):
                config = push_blob(writer, image_config(), mt.OCI_CONFIG)
                layer = Descriptor.of(shared, mt.OCI_LAYER_GZIP)
                if not writer.exists(layer):
                    writer.push_bytes(layer, shared)
                push_document(writer, Manifest(config=config, layers=[layer]).raw, mt.OCI_MANIFEST, tag=name)
            for name in ("a", "b"):
                manifest = writer.document(writer.resolve(name))
                assert all(writer.exists(blob) for blob in manifest.blobs)
                writer.untag(name)
        rounds += 1
    assert int(wait_for(sweeper)) > 0
    assert rounds > 5
    assert layout.verify().ok
    assert layout.tags() == ["stays"]
    assert all(layout.exists(blob) for blob in layout.document(layout.resolve("stays")).blobs)
