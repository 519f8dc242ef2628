"""The contract of stores, for MemoryStore, Layout, Cache, the ocikit server and real registries.

    class TestMemoryStore(StoreContract):
        @pytest.fixture
        def store(self):
            return MemoryStore()

The tests use the Store interface only and push children before parents. Every config and layer exists. No two tests
share content or tags, so all of them can run in one repository of a real registry.
"""

import io
import json
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest
from ocikit.errors import BlobUnknown, DigestMismatch, InvalidReference, NotFound, SizeMismatch
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import REF_NAME
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.platform import Platform
from ocikit.store.base import Store

SBOM = "application/vnd.example.sbom.v1+json"


def unique(prefix: str = "content") -> bytes:
    return f"{prefix} {secrets.token_hex(16)}".encode()


def tag_name() -> str:
    return f"t-{secrets.token_hex(8)}"


def push_blob(store: Store, content: bytes, media_type: str = mt.OCTET_STREAM, *, algorithm: str = "sha256", **fields):
    descriptor = Descriptor.of(content, media_type, algorithm=algorithm, **fields)
    store.push_bytes(descriptor, content)
    return descriptor


def image_config(**more) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "author": secrets.token_hex(8),
            **more,
        }
    ).encode()


def push_document(store: Store, raw: bytes, media_type: str, *, tag: str | None = None, **fields) -> Descriptor:
    descriptor = Descriptor.of(raw, media_type, **fields)
    store.push_bytes(descriptor, raw, tag=tag)
    return descriptor


def push_image(store: Store, *, tag: str | None = None, layers: int = 2, docker: bool = False, **fields) -> Descriptor:
    """Push a unique image in this order: config, layers, manifest."""
    config = push_blob(store, image_config(), mt.DOCKER_CONFIG if docker else mt.OCI_CONFIG)
    layer_type = mt.DOCKER_LAYER_GZIP if docker else mt.OCI_LAYER_GZIP
    blobs = [push_blob(store, unique("layer"), layer_type) for _ in range(layers)]
    manifest_type = mt.DOCKER_MANIFEST if docker else mt.OCI_MANIFEST
    manifest = Manifest(media_type=manifest_type, config=config, layers=blobs, **fields)
    return push_document(store, manifest.raw, manifest_type, tag=tag)


def push_artifact(store: Store, *, tag: str | None = None, **fields) -> Descriptor:
    """Push an artifact with an empty config and one layer."""
    store.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    layer = push_blob(store, unique("artifact"), "text/plain")
    return push_document(
        store, Manifest(config=EMPTY_DESCRIPTOR, layers=[layer], **fields).raw, mt.OCI_MANIFEST, tag=tag
    )


def push_index(store: Store, children: list[Descriptor], *, tag: str | None = None, docker: bool = False, **fields):
    media_type = mt.DOCKER_INDEX if docker else mt.OCI_INDEX
    return push_document(store, Index(media_type=media_type, manifests=children, **fields).raw, media_type, tag=tag)


def on(child: Descriptor, platform: str) -> Descriptor:
    """Return the descriptor of a child with its platform."""
    return Descriptor(
        media_type=child.media_type, digest=child.digest, size=child.size, platform=Platform.parse(platform)
    )


class StoreContract:
    """The tests of the contract. Subclasses define a `store` fixture and the unsupported features."""

    #: The error for a wrong digest; a registry detects it itself and returns its own error.
    digest_error: tuple[type[Exception], ...] = (DigestMismatch,)
    can_untag = True
    can_delete = True
    #: Whether blobs and manifests can be pushed with sha512 digests.
    sha512 = True
    sha512_manifests = True
    #: Whether Docker manifests and manifest lists are supported.
    docker = True
    #: Whether invalid tags are rejected.
    checks_tags = True

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    # Blobs

    def test_pushed_blob_can_be_fetched(self, store):
        content = unique()
        descriptor = push_blob(store, content)
        assert store.exists(descriptor)
        assert store.fetch(descriptor) == content

    def test_open_returns_stream_with_readinto(self, store):
        content = unique()
        descriptor = push_blob(store, content)
        with store.open(descriptor) as stream:
            buffer = bytearray(len(content) + 10)
            size = 0
            while n := stream.readinto(memoryview(buffer)[size:]):
                size += n
        assert bytes(buffer[:size]) == content

    def test_seekable_stream_reads_from_offset(self, store):
        content = unique() * 100
        descriptor = push_blob(store, content)
        with store.open(descriptor) as stream:
            if not stream.seekable():
                pytest.skip("streams of this store cannot seek")
            stream.seek(1000)
            assert stream.read(10) == content[1000:1010]
            stream.seek(0)
            assert stream.read(5) == content[:5]

    def test_large_blob_is_read_completely(self, store):
        content = secrets.token_bytes(5 << 20)
        descriptor = push_blob(store, content)
        with store.open(descriptor) as stream:
            chunks = []
            while chunk := stream.read(1 << 20):
                chunks.append(chunk)
        assert b"".join(chunks) == content

    def test_missing_blob_raises_not_found(self, store):
        absent = Descriptor.of(unique(), mt.OCTET_STREAM)
        assert not store.exists(absent)
        with pytest.raises(NotFound):
            store.fetch(absent)
        with pytest.raises(NotFound):
            with store.open(absent) as stream:
                stream.read(1)

    def test_missing_manifest_raises_not_found(self, store):
        absent = Descriptor.of(unique(), mt.OCI_MANIFEST)
        assert not store.exists(absent)
        with pytest.raises(NotFound):
            store.fetch(absent)

    def test_empty_blob_can_be_stored(self, store):
        descriptor = push_blob(store, b"")
        assert store.exists(descriptor)
        assert store.fetch(descriptor) == b""

    def test_repeated_push_is_no_error(self, store):
        content = unique()
        first = push_blob(store, content)
        assert push_blob(store, content) == first
        assert store.fetch(first) == content

    def test_threads_can_push_same_blob(self, store):
        content = unique() * 1000
        with ThreadPoolExecutor(4) as pool:
            descriptors = list(pool.map(lambda _: push_blob(store, content), range(8)))
        assert store.fetch(descriptors[0]) == content

    def test_sha512_blob_is_stored_by_its_digest(self, store):
        if not self.sha512:
            pytest.skip("this store does not support sha512")
        content = unique()
        descriptor = push_blob(store, content, algorithm="sha512")
        assert descriptor.digest.algorithm == "sha512"
        assert store.exists(descriptor)
        assert store.fetch(descriptor) == content

    def test_wrong_digest_stores_nothing(self, store):
        expected, sent = unique("expected"), unique("received")
        assert len(expected) == len(sent)
        descriptor = Descriptor.of(expected, mt.OCTET_STREAM)
        with pytest.raises(self.digest_error):
            store.push_bytes(descriptor, sent)
        assert not store.exists(descriptor)
        assert not store.exists(Descriptor.of(sent, mt.OCTET_STREAM))

    @pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"", lambda c: c + b"!", lambda c: c * 100])
    def test_wrong_size_stores_nothing(self, store, change):
        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        with pytest.raises(SizeMismatch):
            store.push_bytes(descriptor, change(content))
        assert not store.exists(descriptor)

    def test_push_succeeds_after_rejected_push(self, store):
        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        with pytest.raises(SizeMismatch):
            store.push_bytes(descriptor, content[:-1])
        store.push_bytes(descriptor, content)
        assert store.fetch(descriptor) == content

    def test_fetch_has_size_limit(self, store):
        content = unique() * 10
        descriptor = push_blob(store, content)
        with pytest.raises(ValueError, match="limit"):
            store.fetch(descriptor, limit=100)

    # Documents and names

    def test_tag_resolves_to_pushed_manifest(self, store):
        tag = tag_name()
        pushed = push_image(store, tag=tag)
        resolved = store.resolve(tag)
        assert (resolved.digest, resolved.size, resolved.media_type) == (pushed.digest, pushed.size, mt.OCI_MANIFEST)

    def test_digest_resolves_to_tagged_and_untagged_manifest(self, store):
        untagged, tagged = push_image(store), push_image(store, tag=tag_name())
        for pushed in (untagged, tagged):
            resolved = store.resolve(pushed.digest)
            assert (resolved.digest, resolved.size, resolved.media_type) == (
                pushed.digest,
                pushed.size,
                mt.OCI_MANIFEST,
            )

    def test_resolve_of_missing_reference_raises_not_found(self, store):
        with pytest.raises(NotFound):
            store.resolve(tag_name())
        with pytest.raises(NotFound):
            store.resolve(Descriptor.of(unique(), mt.OCI_MANIFEST).digest)

    def test_resolved_descriptor_has_no_ref_name(self, store):
        tag = tag_name()
        push_image(store, tag=tag)
        assert REF_NAME not in store.resolve(tag).annotations

    def test_second_tag_can_be_added(self, store):
        first, second = tag_name(), tag_name()
        pushed = push_image(store, tag=first)
        store.tag(pushed, second)
        assert store.resolve(first).digest == store.resolve(second).digest == pushed.digest

    def test_tag_can_be_added_to_untagged_manifest(self, store):
        tag = tag_name()
        pushed = push_image(store)
        store.tag(pushed, tag)
        assert store.resolve(tag).digest == pushed.digest

    def test_tag_moves_to_new_manifest(self, store):
        tag = tag_name()
        old = push_image(store, tag=tag)
        new = push_image(store, tag=tag)
        assert store.resolve(tag).digest == new.digest
        assert store.exists(old)
        assert store.resolve(old.digest).digest == old.digest

    def test_repeated_tag_is_no_error(self, store):
        tag = tag_name()
        pushed = push_image(store, tag=tag)
        store.tag(pushed, tag)
        assert store.resolve(tag).digest == pushed.digest

    def test_missing_manifest_cannot_be_tagged(self, store):
        tag = tag_name()
        absent = Descriptor.of(
            Manifest(config=EMPTY_DESCRIPTOR, annotations={"x": secrets.token_hex(8)}).raw, mt.OCI_MANIFEST
        )
        with pytest.raises(NotFound):
            store.tag(absent, tag)
        with pytest.raises(NotFound):
            store.resolve(tag)

    @pytest.mark.parametrize("tag", ["", "-x", "a b", "../up", "a//b", "é"])
    def test_invalid_tag_is_rejected(self, store, tag):
        if not self.checks_tags:
            pytest.skip("this store does not validate tags")
        pushed = push_image(store)
        with pytest.raises(InvalidReference):
            store.tag(pushed, tag)

    def test_keep_of_untagged_manifest_is_no_error(self, store):
        pushed = push_image(store)
        store.keep(pushed)
        store.keep(pushed)
        assert store.resolve(pushed.digest).digest == pushed.digest

    def test_document_keeps_its_exact_bytes(self, store):
        config = push_blob(store, image_config(), mt.OCI_CONFIG)
        value = {
            "schemaVersion": 2,
            "mediaType": mt.OCI_MANIFEST,
            "config": {"size": config.size, "digest": config.digest, "mediaType": config.media_type},
            "layers": [],
            "com.example.future": {"a": [1, None, {"b": "é"}]},
        }
        raw = b" " + json.dumps(value, indent=3, ensure_ascii=True).replace('": ', '" :\t').encode() + b"\n\n"
        tag = tag_name()
        pushed = push_document(store, raw, mt.OCI_MANIFEST, tag=tag)
        assert store.fetch(store.resolve(tag)) == raw
        assert store.document(pushed).raw == raw
        assert store.document(pushed).extra["com.example.future"]["a"][0] == 1
        store.tag(pushed, f"{tag}-again")
        assert store.resolve(f"{tag}-again").digest == pushed.digest

    def test_document_with_wrong_digest_is_rejected(self, store):
        image, content = push_image(store), unique()
        descriptor = Descriptor.of(content, mt.OCI_MANIFEST)
        other = store.fetch(image)
        tag = tag_name()
        with pytest.raises(self.digest_error):
            store.push_bytes(
                Descriptor(media_type=mt.OCI_MANIFEST, digest=descriptor.digest, size=len(other)), other, tag=tag
            )
        assert not store.exists(descriptor)
        with pytest.raises(NotFound):
            store.resolve(tag)

    def test_sha512_manifest_is_stored_by_its_digest(self, store):
        if not self.sha512_manifests:
            pytest.skip("this store does not support sha512")
        config = push_blob(store, image_config(), mt.OCI_CONFIG)
        raw = Manifest(config=config).raw
        descriptor = Descriptor.of(raw, mt.OCI_MANIFEST, algorithm="sha512")
        store.push_bytes(descriptor, raw)
        assert store.fetch(descriptor) == raw
        assert store.resolve(descriptor.digest).digest == descriptor.digest

    def test_docker_manifest_and_list_keep_media_types(self, store):
        if not self.docker:
            pytest.skip("this store does not support Docker's media types")
        tag, list_tag = tag_name(), tag_name()
        manifest = push_image(store, docker=True, tag=tag)
        listed = push_index(store, [on(manifest, "linux/amd64")], docker=True, tag=list_tag)
        assert store.resolve(tag).media_type == mt.DOCKER_MANIFEST
        assert store.resolve(list_tag).media_type == mt.DOCKER_INDEX
        assert store.resolve(manifest.digest).media_type == mt.DOCKER_MANIFEST
        assert isinstance(store.document(manifest), Manifest)
        assert store.document(listed).manifests[0].digest == manifest.digest

    def test_index_of_indexes_can_be_read(self, store):
        manifests = [push_image(store), push_image(store)]
        inner = push_index(store, [on(manifests[0], "linux/amd64"), on(manifests[1], "linux/arm64/v8")])
        tag = tag_name()
        push_index(store, [inner], tag=tag)
        outer = store.document(store.resolve(tag))
        assert isinstance(outer, Index)
        nested = store.document(outer.manifests[0])
        assert [child.digest for child in nested.manifests] == [m.digest for m in manifests]
        assert store.document(nested.select("linux/arm64")).digest == manifests[1].digest

    def test_threads_can_tag(self, store):
        images = [push_image(store) for _ in range(4)]
        names = [tag_name() for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: store.tag(images[pair[0] % 4], pair[1]), enumerate(names)))
        assert [store.resolve(name).digest for name in names] == [images[i % 4].digest for i in range(16)]

    # Referrers

    def test_referrers_are_found_by_subject(self, store):
        subject = push_image(store, tag=tag_name())
        sbom = push_artifact(store, subject=subject, artifact_type=SBOM, annotations={"by": "a test"})
        signature = push_artifact(store, subject=subject, artifact_type="application/vnd.example.signature")
        push_artifact(store, subject=push_image(store), artifact_type=SBOM)
        referrers = {referrer.digest: referrer for referrer in store.referrers(subject)}
        assert referrers.keys() == {sbom.digest, signature.digest}
        assert referrers[sbom.digest].artifact_type == SBOM
        assert referrers[sbom.digest].annotations["by"] == "a test"
        assert referrers[sbom.digest].media_type == mt.OCI_MANIFEST
        assert referrers[sbom.digest].size == sbom.size

    def test_referrers_can_be_filtered_by_artifact_type(self, store):
        subject = push_image(store)
        sbom = push_artifact(store, subject=subject, artifact_type=SBOM)
        push_artifact(store, subject=subject, artifact_type="application/vnd.example.signature")
        assert [referrer.digest for referrer in store.referrers(subject, SBOM)] == [sbom.digest]
        assert list(store.referrers(subject, "application/vnd.example.none")) == []

    def test_referrer_without_artifact_type_has_config_type(self, store):
        subject = push_image(store)
        config = push_blob(store, unique("config"), "application/vnd.example.config+json")
        raw = Manifest(config=config, subject=subject.bare()).raw
        pushed = push_document(store, raw, mt.OCI_MANIFEST)
        referrers = store.referrers(subject, "application/vnd.example.config+json")
        assert [referrer.digest for referrer in referrers] == [pushed.digest]

    def test_manifest_without_referrers_has_empty_list(self, store):
        assert list(store.referrers(push_image(store))) == []
        assert list(store.referrers(Descriptor.of(unique(), mt.OCI_MANIFEST))) == []

    def test_referrer_can_precede_its_subject(self, store):
        config = push_blob(store, image_config(), mt.OCI_CONFIG)
        subject = Manifest(config=config)
        referrer = push_artifact(store, subject=subject.descriptor, artifact_type=SBOM)
        push_document(store, subject.raw, mt.OCI_MANIFEST)
        assert [found.digest for found in store.referrers(subject.descriptor)] == [referrer.digest]

    def test_index_can_be_subject_and_referrer(self, store):
        child = push_image(store)
        subject = push_index(store, [on(child, "linux/amd64")])
        index = push_index(store, [on(child, "linux/amd64")], subject=subject.bare(), artifact_type=SBOM)
        referrers = store.referrers(subject)
        assert [(referrer.digest, referrer.media_type, referrer.artifact_type) for referrer in referrers] == [
            (index.digest, mt.OCI_INDEX, SBOM)
        ]

    # Untag and delete

    def test_untag_removes_one_tag_and_keeps_content(self, store):
        if not self.can_untag:
            pytest.skip("this store cannot untag")
        first, second = tag_name(), tag_name()
        pushed = push_image(store, tag=first)
        store.tag(pushed, second)
        store.untag(first)
        with pytest.raises(NotFound):
            store.resolve(first)
        assert store.resolve(second).digest == pushed.digest
        store.untag(second)
        assert store.exists(pushed)
        manifest = store.document(pushed)
        assert all(store.exists(blob) for blob in manifest.blobs)

    def test_untag_of_missing_tag_raises_not_found(self, store):
        if not self.can_untag:
            pytest.skip("this store cannot untag")
        with pytest.raises(NotFound):
            store.untag(tag_name())

    def test_delete_removes_manifest_with_its_tags(self, store):
        if not self.can_delete:
            pytest.skip("this store cannot delete")
        first, second = tag_name(), tag_name()
        pushed = push_image(store, tag=first)
        store.tag(pushed, second)
        other = push_image(store, tag=tag_name())
        store.delete(pushed)
        assert not store.exists(pushed)
        for name in (first, second, pushed.digest):
            with pytest.raises(NotFound):
                store.resolve(name)
        assert store.exists(other)

    def test_delete_removes_blob(self, store):
        if not self.can_delete:
            pytest.skip("this store cannot delete")
        descriptor = push_blob(store, unique())
        store.delete(descriptor)
        assert not store.exists(descriptor)
        with pytest.raises(BlobUnknown):
            store.fetch(descriptor)

    def test_delete_of_missing_content_raises_not_found(self, store):
        if not self.can_delete:
            pytest.skip("this store cannot delete")
        with pytest.raises(NotFound):
            store.delete(Descriptor.of(unique(), mt.OCI_MANIFEST))

    def test_deleted_blob_can_be_pushed_again(self, store):
        if not self.can_delete:
            pytest.skip("this store cannot delete")
        content = unique()
        descriptor = push_blob(store, content)
        store.delete(descriptor)
        store.push_bytes(descriptor, content)
        assert store.fetch(descriptor) == content

    def test_deleted_referrer_is_not_listed(self, store):
        if not self.can_delete:
            pytest.skip("this store cannot delete")
        subject = push_image(store)
        deleted = push_artifact(store, subject=subject, artifact_type=SBOM)
        remaining = push_artifact(store, subject=subject, artifact_type=SBOM)
        store.delete(deleted)
        assert [referrer.digest for referrer in store.referrers(subject)] == [remaining.digest]

    def test_unseekable_stream_can_be_pushed(self, store):
        # An unseekable stream with short reads, like a socket
        class SlowStream(io.RawIOBase):
            def __init__(self, content):
                self.remaining = content

            def readable(self):
                return True

            def readinto(self, buffer):
                data = self.remaining[: min(7, len(buffer))]
                buffer[: len(data)] = data
                self.remaining = self.remaining[len(data) :]
                return len(data)

        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        store.push(descriptor, SlowStream(content))
        assert store.fetch(descriptor) == content
