"""What every store does: MemoryStore, Layout, our server and real registries run the same sentences.

    class TestMemoryStore(StoreContract):
        @pytest.fixture
        def store(self):
            return MemoryStore()

Nothing but the Store interface is used, children are pushed before parents, every config and layer exists, and no two
tests share content or names, so that one repository of a real registry may serve them all.
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
    """An image of its own: config, layers, manifest, in this order."""
    config = push_blob(store, image_config(), mt.DOCKER_CONFIG if docker else mt.OCI_CONFIG)
    kind = mt.DOCKER_LAYER_GZIP if docker else mt.OCI_LAYER_GZIP
    blobs = [push_blob(store, unique("layer"), kind) for _ in range(layers)]
    manifest_type = mt.DOCKER_MANIFEST if docker else mt.OCI_MANIFEST
    manifest = Manifest(media_type=manifest_type, config=config, layers=blobs, **fields)
    return push_document(store, manifest.raw, manifest_type, tag=tag)


def push_artifact(store: Store, *, tag: str | None = None, **fields) -> Descriptor:
    """An artifact: an empty config and one layer."""
    store.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    layer = push_blob(store, unique("artifact"), "text/plain")
    return push_document(
        store, Manifest(config=EMPTY_DESCRIPTOR, layers=[layer], **fields).raw, mt.OCI_MANIFEST, tag=tag
    )


def push_index(store: Store, children: list[Descriptor], *, tag: str | None = None, docker: bool = False, **fields):
    kind = mt.DOCKER_INDEX if docker else mt.OCI_INDEX
    return push_document(store, Index(media_type=kind, manifests=children, **fields).raw, kind, tag=tag)


def on(child: Descriptor, platform: str) -> Descriptor:
    """A child as an index lists it."""
    return Descriptor(
        media_type=child.media_type, digest=child.digest, size=child.size, platform=Platform.parse(platform)
    )


class StoreContract:
    """Inherit, give a `store` fixture, and say what this kind of store can't do."""

    #: What a wrong digest raises: a registry finds it out itself, and answers in its own words.
    refusal: tuple[type[Exception], ...] = (DigestMismatch,)
    can_untag = True
    can_delete = True
    #: Whether blobs named by sha512 can be pushed, and manifests.
    sha512 = True
    sha512_manifests = True
    #: Whether it takes Docker's manifests and manifest lists.
    docker = True
    #: Whether it refuses names that are no tags.
    checks_tags = True

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    # Blobs

    def test_what_is_pushed_can_be_fetched(self, store):
        content = unique()
        descriptor = push_blob(store, content)
        assert store.exists(descriptor)
        assert store.fetch(descriptor) == content

    def test_what_is_pushed_can_be_opened_as_a_stream_with_readinto(self, store):
        content = unique()
        descriptor = push_blob(store, content)
        with store.open(descriptor) as stream:
            buffer = bytearray(len(content) + 10)
            got = 0
            while n := stream.readinto(memoryview(buffer)[got:]):
                got += n
        assert bytes(buffer[:got]) == content

    def test_an_open_blob_can_be_read_from_the_middle_where_it_is_seekable(self, store):
        content = unique() * 100
        descriptor = push_blob(store, content)
        with store.open(descriptor) as stream:
            if not stream.seekable():
                pytest.skip("this medium doesn't seek")
            stream.seek(1000)
            assert stream.read(10) == content[1000:1010]
            stream.seek(0)
            assert stream.read(5) == content[:5]

    def test_a_blob_of_several_megabytes_comes_back_whole(self, store):
        content = secrets.token_bytes(5 << 20)
        descriptor = push_blob(store, content)
        with store.open(descriptor) as stream:
            parts = []
            while part := stream.read(1 << 20):
                parts.append(part)
        assert b"".join(parts) == content

    def test_what_was_never_pushed_is_not_there(self, store):
        absent = Descriptor.of(unique(), mt.OCTET_STREAM)
        assert not store.exists(absent)
        with pytest.raises(NotFound):
            store.fetch(absent)
        with pytest.raises(NotFound):
            with store.open(absent) as stream:
                stream.read(1)

    def test_an_absent_manifest_is_not_there(self, store):
        absent = Descriptor.of(unique(), mt.OCI_MANIFEST)
        assert not store.exists(absent)
        with pytest.raises(NotFound):
            store.fetch(absent)

    def test_a_blob_without_bytes_can_be_kept(self, store):
        descriptor = push_blob(store, b"")
        assert store.exists(descriptor)
        assert store.fetch(descriptor) == b""

    def test_pushing_twice_is_no_error(self, store):
        content = unique()
        first = push_blob(store, content)
        assert push_blob(store, content) == first
        assert store.fetch(first) == content

    def test_several_threads_may_push_the_same_blob(self, store):
        content = unique() * 1000
        with ThreadPoolExecutor(4) as pool:
            descriptors = list(pool.map(lambda _: push_blob(store, content), range(8)))
        assert store.fetch(descriptors[0]) == content

    def test_a_sha512_blob_is_kept_under_its_digest(self, store):
        if not self.sha512:
            pytest.skip("this store doesn't take sha512")
        content = unique()
        descriptor = push_blob(store, content, algorithm="sha512")
        assert descriptor.digest.algorithm == "sha512"
        assert store.exists(descriptor)
        assert store.fetch(descriptor) == content

    def test_of_content_with_another_digest_nothing_is_kept(self, store):
        promised, sent = unique("promised"), unique("received")
        assert len(promised) == len(sent)
        descriptor = Descriptor.of(promised, mt.OCTET_STREAM)
        with pytest.raises(self.refusal):
            store.push_bytes(descriptor, sent)
        assert not store.exists(descriptor)
        assert not store.exists(Descriptor.of(sent, mt.OCTET_STREAM))

    @pytest.mark.parametrize("change", [lambda c: c[:-1], lambda c: b"", lambda c: c + b"!", lambda c: c * 100])
    def test_of_content_that_is_too_short_or_too_long_nothing_is_kept(self, store, change):
        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        with pytest.raises(SizeMismatch):
            store.push_bytes(descriptor, change(content))
        assert not store.exists(descriptor)

    def test_after_a_refused_push_the_right_content_is_taken(self, store):
        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        with pytest.raises(SizeMismatch):
            store.push_bytes(descriptor, content[:-1])
        store.push_bytes(descriptor, content)
        assert store.fetch(descriptor) == content

    def test_fetching_into_memory_has_a_limit(self, store):
        content = unique() * 10
        descriptor = push_blob(store, content)
        with pytest.raises(ValueError, match="limit"):
            store.fetch(descriptor, limit=100)

    # Documents and names

    def test_a_tag_resolves_to_what_was_pushed_with_it(self, store):
        tag = tag_name()
        pushed = push_image(store, tag=tag)
        resolved = store.resolve(tag)
        assert (resolved.digest, resolved.size, resolved.media_type) == (pushed.digest, pushed.size, mt.OCI_MANIFEST)

    def test_a_digest_resolves_to_the_manifest_tagged_or_not(self, store):
        untagged, tagged = push_image(store), push_image(store, tag=tag_name())
        for pushed in (untagged, tagged):
            resolved = store.resolve(pushed.digest)
            assert (resolved.digest, resolved.size, resolved.media_type) == (
                pushed.digest,
                pushed.size,
                mt.OCI_MANIFEST,
            )

    def test_resolving_what_is_not_there_says_so(self, store):
        with pytest.raises(NotFound):
            store.resolve(tag_name())
        with pytest.raises(NotFound):
            store.resolve(Descriptor.of(unique(), mt.OCI_MANIFEST).digest)

    def test_a_resolved_descriptor_does_not_carry_a_name(self, store):
        tag = tag_name()
        push_image(store, tag=tag)
        assert REF_NAME not in store.resolve(tag).annotations

    def test_a_tag_can_be_added_to_a_manifest_that_is_there(self, store):
        first, second = tag_name(), tag_name()
        pushed = push_image(store, tag=first)
        store.tag(pushed, second)
        assert store.resolve(first).digest == store.resolve(second).digest == pushed.digest

    def test_a_tag_can_be_added_to_a_manifest_pushed_without(self, store):
        tag = tag_name()
        pushed = push_image(store)
        store.tag(pushed, tag)
        assert store.resolve(tag).digest == pushed.digest

    def test_a_tag_given_to_another_manifest_moves(self, store):
        tag = tag_name()
        old = push_image(store, tag=tag)
        new = push_image(store, tag=tag)
        assert store.resolve(tag).digest == new.digest
        assert store.exists(old)
        assert store.resolve(old.digest).digest == old.digest

    def test_tagging_twice_is_no_error(self, store):
        tag = tag_name()
        pushed = push_image(store, tag=tag)
        store.tag(pushed, tag)
        assert store.resolve(tag).digest == pushed.digest

    def test_what_is_not_there_can_not_be_tagged(self, store):
        tag = tag_name()
        absent = Descriptor.of(
            Manifest(config=EMPTY_DESCRIPTOR, annotations={"x": secrets.token_hex(8)}).raw, mt.OCI_MANIFEST
        )
        with pytest.raises(NotFound):
            store.tag(absent, tag)
        with pytest.raises(NotFound):
            store.resolve(tag)

    @pytest.mark.parametrize("bad", ["", "-x", "a b", "../up", "a//b", "é"])
    def test_names_outside_the_grammar_are_refused(self, store, bad):
        if not self.checks_tags:
            pytest.skip("this store leaves that to others")
        pushed = push_image(store)
        with pytest.raises(InvalidReference):
            store.tag(pushed, bad)

    def test_keeping_a_manifest_without_a_tag_is_no_error(self, store):
        pushed = push_image(store)
        store.keep(pushed)
        store.keep(pushed)
        assert store.resolve(pushed.digest).digest == pushed.digest

    def test_a_document_keeps_its_bytes_with_odd_spacing_and_unknown_keys(self, store):
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

    def test_a_document_with_another_digest_is_refused(self, store):
        good, bad = push_image(store), unique()
        descriptor = Descriptor.of(bad, mt.OCI_MANIFEST)
        other = store.fetch(good)
        tag = tag_name()
        with pytest.raises(self.refusal):
            store.push_bytes(
                Descriptor(media_type=mt.OCI_MANIFEST, digest=descriptor.digest, size=len(other)), other, tag=tag
            )
        assert not store.exists(descriptor)
        with pytest.raises(NotFound):
            store.resolve(tag)

    def test_a_manifest_named_by_sha512_is_kept_under_that_digest(self, store):
        if not self.sha512_manifests:
            pytest.skip("this store doesn't take sha512")
        config = push_blob(store, image_config(), mt.OCI_CONFIG)
        raw = Manifest(config=config).raw
        descriptor = Descriptor.of(raw, mt.OCI_MANIFEST, algorithm="sha512")
        store.push_bytes(descriptor, raw)
        assert store.fetch(descriptor) == raw
        assert store.resolve(descriptor.digest).digest == descriptor.digest

    def test_docker_manifests_and_lists_keep_their_types(self, store):
        if not self.docker:
            pytest.skip("this store doesn't take Docker's types")
        tag, list_tag = tag_name(), tag_name()
        manifest = push_image(store, docker=True, tag=tag)
        listed = push_index(store, [on(manifest, "linux/amd64")], docker=True, tag=list_tag)
        assert store.resolve(tag).media_type == mt.DOCKER_MANIFEST
        assert store.resolve(list_tag).media_type == mt.DOCKER_INDEX
        assert store.resolve(manifest.digest).media_type == mt.DOCKER_MANIFEST
        assert isinstance(store.document(manifest), Manifest)
        assert store.document(listed).manifests[0].digest == manifest.digest

    def test_an_index_of_indexes_comes_back(self, store):
        manifests = [push_image(store), push_image(store)]
        inner = push_index(store, [on(manifests[0], "linux/amd64"), on(manifests[1], "linux/arm64/v8")])
        tag = tag_name()
        push_index(store, [inner], tag=tag)
        outer = store.document(store.resolve(tag))
        assert isinstance(outer, Index)
        found = store.document(outer.manifests[0])
        assert [child.digest for child in found.manifests] == [m.digest for m in manifests]
        assert store.document(found.select("linux/arm64")).digest == manifests[1].digest

    def test_several_threads_may_tag(self, store):
        images = [push_image(store) for _ in range(4)]
        names = [tag_name() for _ in range(16)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: store.tag(images[pair[0] % 4], pair[1]), enumerate(names)))
        assert [store.resolve(name).digest for name in names] == [images[i % 4].digest for i in range(16)]

    # Referrers

    def test_referrers_are_found_by_their_subject(self, store):
        subject = push_image(store, tag=tag_name())
        sbom = push_artifact(store, subject=subject, artifact_type=SBOM, annotations={"by": "a test"})
        signature = push_artifact(store, subject=subject, artifact_type="application/vnd.example.signature")
        push_artifact(store, subject=push_image(store), artifact_type=SBOM)
        found = {one.digest: one for one in store.referrers(subject)}
        assert found.keys() == {sbom.digest, signature.digest}
        assert found[sbom.digest].artifact_type == SBOM
        assert found[sbom.digest].annotations["by"] == "a test"
        assert found[sbom.digest].media_type == mt.OCI_MANIFEST
        assert found[sbom.digest].size == sbom.size

    def test_referrers_can_be_chosen_by_artifact_type(self, store):
        subject = push_image(store)
        sbom = push_artifact(store, subject=subject, artifact_type=SBOM)
        push_artifact(store, subject=subject, artifact_type="application/vnd.example.signature")
        assert [one.digest for one in store.referrers(subject, SBOM)] == [sbom.digest]
        assert list(store.referrers(subject, "application/vnd.example.none")) == []

    def test_a_referrer_without_artifact_type_goes_by_its_configs_type(self, store):
        subject = push_image(store)
        config = push_blob(store, unique("config"), "application/vnd.example.config+json")
        raw = Manifest(config=config, subject=subject.bare()).raw
        pushed = push_document(store, raw, mt.OCI_MANIFEST)
        found = store.referrers(subject, "application/vnd.example.config+json")
        assert [one.digest for one in found] == [pushed.digest]

    def test_what_nobody_refers_to_has_no_referrers(self, store):
        assert list(store.referrers(push_image(store))) == []
        assert list(store.referrers(Descriptor.of(unique(), mt.OCI_MANIFEST))) == []

    def test_a_referrer_may_come_before_its_subject(self, store):
        config = push_blob(store, image_config(), mt.OCI_CONFIG)
        subject = Manifest(config=config)
        early = push_artifact(store, subject=subject.descriptor, artifact_type=SBOM)
        push_document(store, subject.raw, mt.OCI_MANIFEST)
        assert [one.digest for one in store.referrers(subject.descriptor)] == [early.digest]

    def test_an_index_can_be_subject_and_referrer(self, store):
        child = push_image(store)
        subject = push_index(store, [on(child, "linux/amd64")])
        referring = push_index(store, [on(child, "linux/amd64")], subject=subject.bare(), artifact_type=SBOM)
        found = store.referrers(subject)
        assert [(one.digest, one.media_type, one.artifact_type) for one in found] == [
            (referring.digest, mt.OCI_INDEX, SBOM)
        ]

    # Taking away

    def test_untagging_takes_one_name_and_leaves_content_and_other_names(self, store):
        if not self.can_untag:
            pytest.skip("this store can't untag")
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

    def test_untagging_what_is_no_tag_says_so(self, store):
        if not self.can_untag:
            pytest.skip("this store can't untag")
        with pytest.raises(NotFound):
            store.untag(tag_name())

    def test_a_deleted_manifest_is_gone_with_its_names(self, store):
        if not self.can_delete:
            pytest.skip("this store can't delete")
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

    def test_a_deleted_blob_is_gone(self, store):
        if not self.can_delete:
            pytest.skip("this store can't delete")
        descriptor = push_blob(store, unique())
        store.delete(descriptor)
        assert not store.exists(descriptor)
        with pytest.raises(BlobUnknown):
            store.fetch(descriptor)

    def test_deleting_what_is_not_there_says_so(self, store):
        if not self.can_delete:
            pytest.skip("this store can't delete")
        with pytest.raises(NotFound):
            store.delete(Descriptor.of(unique(), mt.OCI_MANIFEST))

    def test_what_was_deleted_can_be_pushed_again(self, store):
        if not self.can_delete:
            pytest.skip("this store can't delete")
        content = unique()
        descriptor = push_blob(store, content)
        store.delete(descriptor)
        store.push_bytes(descriptor, content)
        assert store.fetch(descriptor) == content

    def test_a_deleted_referrer_is_listed_no_longer(self, store):
        if not self.can_delete:
            pytest.skip("this store can't delete")
        subject = push_image(store)
        gone = push_artifact(store, subject=subject, artifact_type=SBOM)
        stays = push_artifact(store, subject=subject, artifact_type=SBOM)
        store.delete(gone)
        assert [one.digest for one in store.referrers(subject)] == [stays.digest]

    def test_a_stream_is_read_where_it_stands(self, store):
        # A stream that can't seek, handing out a few bytes at a time, as a socket does
        class Trickle(io.RawIOBase):
            def __init__(self, content):
                self.left = content

            def readable(self):
                return True

            def readinto(self, buffer):
                step = self.left[: min(7, len(buffer))]
                buffer[: len(step)] = step
                self.left = self.left[len(step) :]
                return len(step)

        content = unique()
        descriptor = Descriptor.of(content, mt.OCTET_STREAM)
        store.push(descriptor, Trickle(content))
        assert store.fetch(descriptor) == content
