"""Copies between stores: order, skipped content, failures, referrers, plans, progress, lost blobs."""

import io
import json
import os
import signal
import threading
import time

import pytest
from ocikit import errors
from ocikit.progress.base import Progress
from ocikit.spec import media_types
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.memory import MemoryStore
from ocikit.transfer.plan import copy, plan

from tests.support.fake_registry import Response

OCI, INDEX, LAYER = media_types.OCI_MANIFEST, media_types.OCI_INDEX, media_types.OCI_LAYER
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


class RecordingStore(MemoryStore):
    """A memory store that records calls in order and fails on request."""

    def __init__(self):
        super().__init__()
        self.log = []
        self.lock = threading.Lock()
        self.hooks = {}

    def _record(self, verb, descriptor, *more):
        with self.lock:
            self.log.append((verb, descriptor.digest, *more))
        for (hooked, digest), hook in self.hooks.items():
            if hooked == verb and digest in (None, descriptor.digest):
                hook()

    def open(self, descriptor):
        self._record("open", descriptor)
        return super().open(descriptor)

    def push(self, descriptor, stream, *, tag=None):
        self._record("push", descriptor, tag)
        super().push(descriptor, stream, tag=tag)

    def exists(self, descriptor):
        self._record("exists", descriptor)
        return super().exists(descriptor)

    def fail(self, verb, digest, error):
        def hook():
            raise error

        self.hooks[verb, digest] = hook

    def calls(self, verb):
        return [entry[1] for entry in self.log if entry[0] == verb]


class RecordingProgress(Progress):
    """A listener that records events."""

    def __init__(self):
        self.lock = threading.Lock()
        self.size = self.count = None
        self.advanced, self.finished, self.notes, self.ended = {}, [], [], []

    def begin(self, title, *, size, count):
        self.size, self.count = size, count

    def advance(self, descriptor, n):
        with self.lock:
            self.advanced[descriptor.digest] = self.advanced.get(descriptor.digest, 0) + n

    def finish(self, descriptor, outcome):
        with self.lock:
            self.finished.append((descriptor.digest, outcome))

    def note(self, message):
        self.notes.append(message)

    def end(self, *, failed=False):
        self.ended.append(failed)


def to_json(descriptor, **more):
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size} | more


def add_blob(store, content, media_type=LAYER):
    descriptor = Descriptor.of(content, media_type)
    store.push_bytes(descriptor, content)
    return descriptor


def add_manifest(store, *layers, tag=None, config=EMPTY_DESCRIPTOR, **fields):
    if config is EMPTY_DESCRIPTOR:
        store.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    layers = [layer if isinstance(layer, dict) else to_json(layer) for layer in layers]
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": to_json(config), "layers": layers} | fields
    ).encode()
    descriptor = Descriptor.of(raw, OCI)
    store.push_bytes(descriptor, raw, tag=tag)
    return descriptor


def add_index(store, *manifests, tag=None, **fields):
    entries = [m if isinstance(m, dict) else to_json(m) for m in manifests]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries} | fields).encode()
    descriptor = Descriptor.of(raw, INDEX)
    store.push_bytes(descriptor, raw, tag=tag)
    return descriptor


@pytest.fixture
def source():
    store = RecordingStore()
    yield store


@pytest.fixture
def target():
    return RecordingStore()


@pytest.fixture
def image(source):
    """A manifest with a config and three layers, tagged v1."""
    layers = [add_blob(source, bytes([n]) * 100_000) for n in range(3)]
    manifest = add_manifest(
        source, *layers, config=add_blob(source, b'{"os": "linux"}', "application/x.config"), tag="v1"
    )
    source.log.clear()
    return manifest


# Order


@pytest.mark.parametrize("workers", [1, 4])
def test_children_come_before_parents_and_tagged_root_last(source, target, workers):
    a = add_manifest(source, add_blob(source, b"a"))
    b = add_manifest(source, add_blob(source, b"b"), annotations={"n": "b"})
    inner = add_index(source, b)
    root = add_index(source, a, inner, tag="v1")
    assert copy(source, "v1", target, tags=["v2"], workers=workers).digest == root.digest
    pushed = target.calls("push")
    documents = [a.digest, b.digest, inner.digest, root.digest]
    assert pushed[-4:] == documents, "documents come after all blobs, children first"
    assert [entry for entry in target.log if entry[0] == "push" and entry[2]] == [("push", root.digest, "v2")]
    assert target.tags() == ["v2"]
    assert target.fetch(root) == source.fetch(root)


def test_failed_blob_sets_no_tag(source, target, image):
    layer = source.document(image).layers[1]
    target.fail("push", layer.digest, errors.UploadInvalid("no"))
    with pytest.raises(errors.CopyError):
        copy(source, "v1", target, tags=["v1"])
    assert target.tags() == []
    assert image.digest not in target.calls("push")


def test_failed_document_sets_no_tag(source, target):
    child = add_manifest(source)
    root = add_index(source, child, tag="v1")
    target.fail("push", child.digest, errors.UploadInvalid("no"))
    with pytest.raises(errors.CopyError):
        copy(source, "v1", target, tags=["v1"])
    assert target.tags() == [] and root.digest not in target.calls("push")


def test_all_tags_point_to_root(source, target, image):
    copy(source, "v1", target, tags=["a", "b", "c"])
    assert target.tags() == ["a", "b", "c"]
    assert {target.resolve(t).digest for t in "abc"} == {image.digest}


def test_copy_without_tag_resolves_by_digest(source, target, image):
    copy(source, image, target)
    assert target.tags() == []
    assert target.resolve(image.digest).digest == image.digest


def test_document_bytes_are_preserved(source, target):
    """Including odd spacing and unknown keys."""
    source.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    raw = json.dumps(
        {
            "future": {"x": [1]},
            "config": to_json(EMPTY_DESCRIPTOR),
            "layers": None,
            "schemaVersion": 2,
            "mediaType": OCI,
        },
        indent=7,
    ).encode()
    root = Descriptor.of(raw, OCI)
    source.push_bytes(root, raw, tag="v1")
    copy(source, "v1", target, tags=["v1"])
    assert target.fetch(target.resolve("v1")) == raw


# Each digest once


def test_repeated_content_is_copied_once(source, target):
    """Even if its descriptors have different titles and media types."""
    blob = add_blob(source, b"shared" * 1000)
    other = to_json(blob, annotations={"org.opencontainers.image.title": "b"})
    typed = to_json(blob, mediaType="application/octet-stream")
    manifests = [add_manifest(source, blob, other, typed, blob, annotations={"n": str(n)}) for n in range(8)]
    add_index(source, *manifests, *manifests, tag="v1")
    source.log.clear()
    progress = RecordingProgress()
    copy(source, "v1", target, tags=["v1"], workers=8, progress=progress)
    assert source.calls("open").count(blob.digest) == 1
    assert target.calls("push").count(blob.digest) == 1
    assert len(target.calls("push")) == len(set(target.calls("push")))
    assert progress.advanced[blob.digest] == blob.size


def test_nested_indexes_are_walked(source, target):
    """Nested OCI and Docker indexes are documents, not blobs."""
    leaf = add_manifest(source, add_blob(source, b"leaf"))
    raw = json.dumps({"schemaVersion": 2, "mediaType": media_types.DOCKER_INDEX, "manifests": [to_json(leaf)]}).encode()
    docker = Descriptor.of(raw, media_types.DOCKER_INDEX)
    source.push_bytes(docker, raw)
    add_index(source, add_index(source, docker), tag="v1")
    copy(source, "v1", target, tags=["v1"])
    assert target.fetch(docker) == raw and target.exists(leaf)


def test_too_deeply_nested_indexes_are_rejected(source, target):
    inner = add_manifest(source)
    for depth in range(40):
        inner = add_index(source, inner, annotations={"depth": str(depth)})
    with pytest.raises(errors.InvalidDocument, match="nested"):
        copy(source, inner, target)
    with pytest.raises(errors.InvalidDocument, match="nested"):
        plan(source, inner, target, platform="linux/amd64")
    assert target.log == []


def test_circle_of_indexes_is_rejected(target):
    """The source returns documents with wrong digests, since digests cannot form a circle."""
    digests = [Digest("sha256:" + c * 64) for c in "ab"]

    class CircularStore(MemoryStore):
        def fetch(self, descriptor, *, limit=0):
            other = digests[1 - digests.index(descriptor.digest)]
            return json.dumps(
                {
                    "schemaVersion": 2,
                    "mediaType": INDEX,
                    "manifests": [{"mediaType": INDEX, "digest": other, "size": 1}],
                }
            ).encode()

    with pytest.raises(errors.InvalidDocument, match="circle"):
        copy(CircularStore(), Descriptor(media_type=INDEX, digest=digests[0], size=1), target)


# Content that is not transferred


def test_present_blobs_are_skipped_and_documents_walked(source, target, image):
    layers = source.document(image).layers
    copy(source, "v1", target, tags=["v1"])
    target.delete(layers[0])
    target.log.clear()
    source.log.clear()
    progress = RecordingProgress()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    blobs = [d for d in source.calls("open") if d != image.digest]
    assert blobs == [layers[0].digest], "the manifest exists, but a blob is missing"
    assert dict(progress.finished)[layers[0].digest] == "moved"
    assert dict(progress.finished)[layers[1].digest] == "present"


def test_mounted_blob_transfers_no_bytes(source, image):
    class MountingStore(RecordingStore):
        def mount(self, descriptor, source):
            self.push_bytes(descriptor, source.fetch(descriptor))
            return True

    target, progress = MountingStore(), RecordingProgress()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    outcomes = dict(progress.finished)
    assert [outcomes[layer.digest] for layer in source.document(image).layers] == ["mounted"] * 3
    assert set(progress.advanced) == {image.digest}


def test_registry_mounts_its_own_blobs(server, open_repository):
    store = MemoryStore()
    layer = add_blob(store, b"layer" * 1000)
    image = add_manifest(store, layer, tag="v1")
    first = open_repository(server, "src/a", push=True)
    copy(store, "v1", first, tags=["v1"])
    server.requests.clear()
    second = type(first)(first.transport, "dst/b", actions=("pull", "push"))
    copy(first, "v1", second, tags=["v1"])
    assert server.tags["dst/b", "v1"] == image.digest
    assert server.blobs["dst/b", layer.digest] == b"layer" * 1000
    assert [r for r in server.requests if r.method in {"PATCH", "GET"} and "/blobs/" in r.path] == []
    assert [r for r in server.requests if r.method == "PUT" and "/blobs/" in r.path] == []


def test_embedded_content_is_used_if_it_matches_digest(target):
    source = RecordingStore()
    content, wrong = b"embedded", b"embedde!"
    descriptor, other = Descriptor.of(content, LAYER), Descriptor.of(b"12345678", LAYER)
    import base64

    data = {"data": base64.b64encode(content).decode()}
    corrupt = {"data": base64.b64encode(wrong).decode()}
    add_blob(source, b"12345678")
    add_manifest(source, to_json(descriptor, **data), to_json(other, **corrupt), tag="v1")
    source.log.clear()
    copy(source, "v1", target, tags=["v1"])
    assert target.fetch(descriptor) == content and target.fetch(other) == b"12345678"
    assert descriptor.digest not in source.calls("open")
    assert other.digest in source.calls("open")


def test_empty_descriptor_needs_no_request(source, target):
    add_manifest(source, EMPTY_DESCRIPTOR, tag="v1")
    source.log.clear()
    copy(source, "v1", target, tags=["v1"])
    assert EMPTY_DESCRIPTOR.digest not in source.calls("open")
    assert target.fetch(EMPTY_DESCRIPTOR) == b"{}"


def test_foreign_layers_are_skipped_with_note(source, target):
    layer = Descriptor.of(b"windows", FOREIGN, urls=("https://example.com/layer",))
    own = add_blob(source, b"own")
    add_manifest(source, to_json(layer, urls=["https://example.com/layer"]), own, tag="v1")
    progress = RecordingProgress()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    assert not MemoryStore.exists(target, layer) and target.exists(own)
    assert (layer.digest, "skipped") in progress.finished
    assert any("redistributed" in note for note in progress.notes)


def test_layer_that_is_foreign_in_one_manifest_only_is_copied(source, target):
    own = add_blob(source, b"both")
    add_index(source, add_manifest(source, to_json(own) | {"mediaType": FOREIGN}), add_manifest(source, own), tag="v1")
    progress = RecordingProgress()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    assert [outcome for digest, outcome in progress.finished if digest == own.digest] == ["moved"]
    assert progress.size == sum(progress.advanced.values())


# Failures


def test_error_has_side_and_descriptor(source, target, image):
    layer = source.document(image).layers[1]
    source.delete(layer)
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target)
    assert caught.value.side == "source" and caught.value.descriptor.digest == layer.digest
    assert isinstance(caught.value.__cause__, errors.NotFound)
    assert "source" in str(caught.value)


def test_rejected_push_is_target_error(source, target, image):
    layer = source.document(image).layers[1]
    target.fail("push", layer.digest, errors.Denied("quota", hint="buy more"))
    with pytest.raises(errors.CopyError, match="quota") as caught:
        copy(source, "v1", target)
    assert caught.value.side == "target" and caught.value.hint == "buy more"


def test_failed_existence_check_is_target_error(source, target, image):
    target.fail("exists", None, errors.ConnectionFailed("down"))
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target)
    assert caught.value.side == "target"


@pytest.mark.parametrize(
    "error", [errors.ConnectionFailed("broke off"), OSError(5, "Input/output error"), errors.BlobUnknown("gone")]
)
def test_failed_read_is_source_error(source, image, server, open_repository, error):
    """The error passes through the target's code and must not be attributed to the target."""
    layer = source.document(image).layers[1]

    class FailingStream(io.BytesIO):
        def read(self, size=-1):
            raise error

        readinto = read

    inner = source.open
    source.open = lambda d: FailingStream() if d.digest == layer.digest else inner(d)
    for target in (MemoryStore(), open_repository(server, push=True)):
        with pytest.raises(errors.CopyError) as caught:
            copy(source, "v1", target)
        assert caught.value.side == "source"
        assert caught.value.__cause__ is error
    assert server.uploads == {}


def test_corrupt_content_is_source_error_and_not_stored(source, target, image):
    layer = source.document(image).layers[1]
    source._blobs[layer.digest] = b"\xff" * layer.size
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target, tags=["v1"])
    assert caught.value.side == "source" and isinstance(caught.value.__cause__, errors.DigestMismatch)
    assert not target.exists(layer) and target.tags() == []


def test_corrupt_document_is_not_walked(source, target, image):
    source._blobs[image.digest] = (
        source._blobs[image.digest].replace(b"linux", b"Linux").replace(b'"layers"', b'"layerS"')
    )
    with pytest.raises(errors.CopyError) as caught:
        copy(source, image, target)
    assert caught.value.side == "source"
    assert target.log == []


def test_unverifiable_digest_is_rejected(source, target):
    layer = {"mediaType": LAYER, "digest": "blake9:" + "a" * 64, "size": 3}
    add_manifest(source, layer, tag="v1")
    source._blobs[Digest(layer["digest"])] = b"abc"
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target, tags=["v1"])
    assert isinstance(caught.value.__cause__, errors.UnverifiableDigest)
    assert target.tags() == []


def test_failure_stops_other_transfers(source, target):
    layers = [add_blob(source, bytes([n % 256, n // 256]) * 1000) for n in range(60)]
    add_manifest(source, *layers, tag="v1")
    gate = threading.Event()

    def wait():
        gate.wait(5)

    target.hooks["push", None] = wait
    target.fail("push", layers[0].digest, errors.Denied("no"))
    target.hooks = dict(reversed(target.hooks.items()))
    threading.Timer(0.2, gate.set).start()
    progress = RecordingProgress()
    with pytest.raises(errors.CopyError, match="no"):
        copy(source, "v1", target, workers=4, progress=progress)
    assert len(target.calls("push")) <= 8
    assert progress.ended == [True]


@pytest.mark.timeout(15)
def test_failure_stops_transfer_in_progress(source, target):
    slow = add_blob(source, b"s" * 1_000_000)
    rejected = add_blob(source, b"rejected")
    add_manifest(source, slow, rejected, tag="v1")
    reading = threading.Event()

    class SlowStream(io.BytesIO):
        def read(self, size=-1):
            reading.set()
            time.sleep(0.02)
            return super().read(min(size, 1000) if size >= 0 else 1000)

    inner = source.open
    source.open = lambda d: SlowStream(b"s" * 1_000_000) if d.digest == slow.digest else inner(d)

    def fail():
        reading.wait(5)
        raise errors.Denied("no")

    target.hooks["push", rejected.digest] = fail
    with pytest.raises(errors.CopyError, match="no"):
        copy(source, "v1", target, workers=2)
    assert not MemoryStore.exists(target, slow)


@pytest.fixture
def restarting():
    """A handler of SIGINT that lets the system restart calls, as polars installs on first use."""
    signal.siginterrupt(signal.SIGINT, False)
    yield
    signal.siginterrupt(signal.SIGINT, True)


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("restarting")
@pytest.mark.parametrize("workers", [1, 4])
def test_ctrl_c_stops_quickly_and_keeps_complete_blobs(source, target, workers):
    first = add_blob(source, b"first")
    layers = [add_blob(source, bytes([n]) * 1_000_000) for n in range(8)]
    add_manifest(source, first, *layers, tag="v1")

    class SlowStream(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.02)
            return super().read(min(size, 1000) if size >= 0 else 1000)

    inner = source.open
    source.open = lambda d: inner(d) if d.size < 1_000_000 else SlowStream(source._blobs[d.digest])
    progress = RecordingProgress()
    before = threading.active_count()
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        copy(source, "v1", target, tags=["v1"], workers=workers, progress=progress)
    assert target.exists(first) and target.tags() == []
    assert not any(target.exists(layer) for layer in layers), "it stops before their end"
    assert progress.ended == [True]
    time.sleep(0.1)
    assert threading.active_count() <= before, "all worker threads have stopped"


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("restarting")
def test_ctrl_c_does_not_wait_for_blocked_read(source, target, monkeypatch):
    from ocikit.transfer import pool

    monkeypatch.setattr(pool, "_SHUTDOWN", 0.3)
    blob = add_blob(source, b"x" * 100)
    add_manifest(source, blob, tag="v1")
    release = threading.Event()

    class BlockedStream(io.BytesIO):
        def read(self, size=-1):
            release.wait(120)
            return b""

    inner = source.open
    source.open = lambda d: BlockedStream() if d.digest == blob.digest else inner(d)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        copy(source, "v1", target, workers=2)
    release.set()


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("restarting")
def test_ctrl_c_during_upload_leaves_no_session(source, server, open_repository):
    layer = add_blob(source, b"x" * 5_000_000)
    add_manifest(source, layer, tag="v1")

    class SlowStream(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.02)
            return super().read(min(size, 10_000) if size >= 0 else 10_000)

    inner = source.open
    source.open = lambda d: SlowStream(b"x" * 5_000_000) if d.digest == layer.digest else inner(d)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        copy(source, "v1", open_repository(server, push=True), tags=["v1"], workers=2)
    assert server.uploads == {} and server.tags == {} and layer.digest not in {digest for _, digest in server.blobs}


# Platforms and referrers


def test_platform_option_copies_one_manifest_of_index(source, target):
    amd = add_manifest(source, add_blob(source, b"amd"))
    arm = add_manifest(source, add_blob(source, b"arm"))
    inner = add_index(source, to_json(arm, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}))
    add_index(source, to_json(amd, platform={"os": "linux", "architecture": "amd64"}), inner, tag="v1")
    assert copy(source, "v1", target, tags=["amd"], platform="linux/amd64").digest == amd.digest
    assert target.tags() == ["amd"] and not target.exists(arm)
    assert copy(source, "v1", target, tags=["arm"], platform="linux/arm64").digest == arm.digest
    assert copy(source, amd, MemoryStore(), platform="linux/arm64").digest == amd.digest, "the config is not an image's"
    with pytest.raises(errors.NoMatchingPlatform) as caught:
        copy(source, inner, target, platform="windows/amd64")
    assert "linux/arm64" in str(caught.value)


def test_referrers_and_their_referrers_are_copied(source, target, image):
    signature = add_manifest(source, add_blob(source, b"signature"), subject=to_json(image), artifactType="x/signature")
    countersigned = add_manifest(source, subject=to_json(signature), artifactType="x/counter")
    listed = add_index(
        source,
        add_manifest(source, add_blob(source, b"attested")),
        subject=to_json(image),
        artifactType="x/attestations",
    )
    copy(source, "v1", target, tags=["v1"], referrers=True)
    assert {d.digest for d in target.referrers(image)} == {signature.digest, listed.digest}
    assert [d.digest for d in target.referrers(signature)] == [countersigned.digest]
    tagged = [n for n, entry in enumerate(target.log) if entry[:2] == ("push", image.digest) and entry[2]]
    pushed = [n for n, entry in enumerate(target.log) if entry[:2] == ("push", countersigned.digest)]
    assert pushed < tagged, "the tag comes after all referrers"
    other = MemoryStore()
    copy(source, "v1", other, tags=["v1"])
    assert list(other.referrers(image)) == []


def test_referrers_of_index_children_are_copied(source, target):
    child = add_manifest(source, add_blob(source, b"child"))
    root = add_index(source, child, tag="v1")
    signature = add_manifest(source, subject=to_json(child), artifactType="x/signature")
    copy(source, "v1", target, tags=["v1"], referrers=True)
    assert [d.digest for d in target.referrers(child)] == [signature.digest]
    assert target.resolve("v1").digest == root.digest


def test_referrers_in_circle_end(source, target):
    """A referrer can be pushed before its subject, so lists of referrers can be circular."""
    a = add_manifest(source, annotations={"n": "a"}, tag="v1")
    b = add_manifest(source, subject=to_json(a))
    inner = source.referrers
    source.referrers = lambda d, artifact_type=None: [
        *inner(d),
        Descriptor(media_type=OCI, digest=a.digest, size=a.size),
    ]
    copy(source, "v1", target, tags=["v1"], referrers=True)
    assert target.exists(b)


def serve_referrers(server, lists):
    """Make the registry return these lists of referrers, independent of its manifests."""

    def guard(request):
        subject = request.path.rpartition("/referrers/")[2]
        if "/referrers/" not in request.path:
            return None
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [to_json(d) for d in lists(subject)]}
        return Response(200, {"Content-Type": INDEX}, json.dumps(body).encode())

    server.guard = guard


def add_server_manifest(server, **fields):
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": to_json(EMPTY_DESCRIPTOR), "layers": []} | fields
    ).encode()
    server.manifest("a/b", raw)
    return Descriptor.of(raw, OCI)


def test_circular_lists_of_referrers_end(server, open_repository, target):
    server.blob("a/b", b"{}")
    root = add_server_manifest(server)
    first = add_server_manifest(server, subject=to_json(root))
    second = add_server_manifest(server, subject=to_json(first))
    lists = {root.digest: [first, root], first.digest: [second, root, first], second.digest: [first, root, second]}
    serve_referrers(server, lambda subject: lists[subject])
    copy(open_repository(server), root, target, tags=["v1"], referrers=True)
    assert [target.exists(d) for d in (root, first, second)] == [True] * 3
    assert len(server.seen("GET", ".*/referrers/.*")) == 3, "each list is requested once"


def test_endless_chain_of_referrers_is_rejected(server, open_repository, target):
    server.blob("a/b", b"{}")
    root = add_server_manifest(server)

    def another(subject):
        return [add_server_manifest(server, subject=to_json(root), annotations={"of": subject})]

    serve_referrers(server, another)
    with pytest.raises(errors.InvalidDocument, match="more than 16"):
        copy(open_repository(server), root, target, tags=["v1"], referrers=True)
    assert len(server.requests) < 50 and target.log == []


# Plans


def test_plan_copies_nothing_and_has_sizes(source, target, image):
    layers = source.document(image).layers
    target.push_bytes(layers[0], source.fetch(layers[0]))
    target.log.clear()
    planned = plan(source, "v1", target, tags=["v1"])
    config = source.document(image).config
    assert planned.size == 300_000 + config.size + image.size and not planned.checked
    assert target.log == []
    checked = plan(source, "v1", target, tags=["v1"], check=True)
    assert checked.size == 200_000 + config.size + image.size
    assert [item.outcome for item in checked.items].count("present") == 1
    assert set(target.calls("exists")) == {b.digest for b in (config, *layers)} and target.calls("push") == []
    assert image.digest.encoded[:12] in repr(planned)
    target.log.clear()
    progress = RecordingProgress()
    checked.run(progress=progress)
    assert target.calls("exists") == [], "present blobs are not checked again"
    assert sum(progress.advanced.values()) == checked.size
    assert target.tags() == ["v1"]


def test_plan_raises_for_unknown_reference(source, target):
    with pytest.raises(errors.ManifestUnknown):
        plan(source, "v9", target)


# Progress


@pytest.mark.parametrize("workers", [1, 4])
def test_progress_adds_up_and_each_item_finishes_once(source, target, workers):
    """Every byte counts once; an empty blob causes no division by zero."""
    layers = [add_blob(source, os.urandom(n * 12_345)) for n in range(8)]
    assert layers[0].size == 0
    manifests = [add_manifest(source, *layers, layers[0], annotations={"n": str(n)}) for n in range(3)]
    root = add_index(source, *manifests, tag="v1")
    progress = RecordingProgress()
    copy(source, "v1", target, tags=["a", "b"], workers=workers, progress=progress)
    everything = [EMPTY_DESCRIPTOR, *layers, *manifests, root]
    assert progress.size == sum(d.size for d in everything)
    assert progress.count == len(everything) == len(progress.finished)
    assert {d: n for d, n in progress.advanced.items() if n} == {d.digest: d.size for d in everything if d.size}
    assert sorted(progress.finished) == sorted((d.digest, "moved") for d in everything)
    assert progress.ended == [False]


def test_progress_adds_up_after_dropped_connections(source, image, server, open_repository):
    config = source.document(image).config
    server.on(
        "PUT", ".*/blobs/.*", cut_request=50_000, times=2, when=lambda r: int(r.headers["Content-Length"]) > 50_000
    )
    server.on("PUT", ".*/blobs/.*", drop="after")
    progress = RecordingProgress()
    copy(source, "v1", open_repository(server, push=True), tags=["v1"], progress=progress)
    assert sum(progress.advanced.values()) == progress.size == 300_000 + config.size + image.size
    server.on("GET", ".*/blobs/.*", cut=50_000, times=2)
    progress = RecordingProgress()
    copy(open_repository(server), "v1", MemoryStore(), progress=progress)
    assert sum(progress.advanced.values()) == progress.size == 300_000 + config.size + image.size


def test_progress_adds_up_if_blob_appears_during_upload(source, image, server, open_repository):
    """The connection breaks and another client has pushed the blob meanwhile."""
    layer = source.document(image).layers[0]

    def push_meanwhile(request):
        if request.headers["Content-Length"] == str(layer.size):
            server.blobs["a/b", layer.digest] = source._blobs[layer.digest]
            return True
        return False

    server.on("PUT", ".*/blobs/.*", cut_request=50_000, when=push_meanwhile)
    progress = RecordingProgress()
    copy(source, "v1", open_repository(server, push=True), tags=["v1"], workers=1, progress=progress)
    assert sum(progress.advanced.values()) == progress.size


# Blobs that a registry lost


def require_children(server, response):
    """Make the registry reject manifests with missing children.

    `response` has the status and a function that returns the errors for missing digests.
    """

    def guard(request):
        name, kind, _ = request.path.removeprefix("/v2/").partition("/manifests/")
        if request.method != "PUT" or not kind:
            return None
        document = json.loads(request.body)
        children = [document["config"], *document["layers"]] if "layers" in document else document["manifests"]
        lost = [d["digest"] for d in children if (name, d["digest"]) not in {*server.blobs, *server.manifests}]
        return Response(response[0], {}, json.dumps({"errors": response[1](lost)}).encode()) if lost else None

    server.guard = guard


def by_detail(lost):
    return [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": d} for d in lost]


RESPONSES = [
    (404, by_detail),
    (400, by_detail),
    (400, lambda lost: [{"code": "MANIFEST_BLOB_UNKNOWN", "detail": {"digest": d}} for d in lost]),
    (400, lambda lost: [{"code": "MANIFEST_BLOB_UNKNOWN", "message": f"unknown blob {lost[0]}"}]),
    (400, lambda lost: [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blobs are missing", "detail": None}]),
    (404, lambda lost: [{"code": "BLOB_UNKNOWN", "message": "blob unknown", "detail": {"Digest": lost[0]}}]),
]


def uploads(server):
    return [r.query["digest"][0] for r in server.seen("PUT", "/v2/a/b/blobs/uploads/.*")]


@pytest.mark.parametrize("response", RESPONSES)
def test_blob_collected_before_its_manifest_is_pushed_again(source, image, server, open_repository, response):
    require_children(server, response)
    first = source.document(image).layers[0].digest

    def collect(request, answer):
        del server.blobs["a/b", first]

    server.on("PUT", "/v2/a/b/blobs/uploads/.*", change=collect, when=lambda r: r.query["digest"] == [first])
    progress = RecordingProgress()
    copy(source, image, open_repository(server, push=True), tags=["v1"], workers=1, progress=progress)
    assert server.tags["a/b", "v1"] == image.digest
    assert first in {digest for _, digest in server.blobs}
    others = [d for d in set(uploads(server)) if d != first]
    assert uploads(server).count(first) == 2
    named = response[1]([first]) != response[1](["x"])  # without digests in the error, all blobs are pushed again
    assert [uploads(server).count(d) for d in others] == [1 if named else 2] * len(others)
    assert progress.advanced[first] == 100_000 and progress.ended == [False], "pushed twice, counted once"
    assert any(first in note for note in progress.notes)


@pytest.mark.parametrize("method", ["HEAD", "mount"])
def test_blob_falsely_reported_as_present_is_pushed(source, image, server, open_repository, method):
    require_children(server, RESPONSES[0])
    target = open_repository(server, push=True)
    if method == "HEAD":
        server.manifest("a/b", {"schemaVersion": 2}, "old")
        server.on("HEAD", "/v2/a/b/blobs/.*", status=200, times=None)
        origin = source
    else:
        origin = open_repository(server, "other/name")
        copy(source, image, open_repository(server, "other/name", push=True), workers=1)
        server.on("POST", "/v2/a/b/blobs/uploads/", status=201, when=lambda r: "mount" in r.query, times=None)
    copy(origin, image, target, tags=["v1"])
    document = source.document(image)
    assert server.tags["a/b", "v1"] == image.digest
    assert sorted(uploads(server)) == sorted(d.digest for d in document.children), "each blob is pushed once"


def test_blob_lost_twice_raises_error_with_digest(source, image, server, open_repository):
    lost = source.document(image).layers[1].digest
    answer = json.dumps({"errors": by_detail([lost])}).encode()
    server.on("PUT", "/v2/a/b/manifests/.*", status=404, body=answer, times=None)
    with pytest.raises(errors.CopyError) as caught:
        copy(source, image, open_repository(server, push=True), tags=["v1"])
    cause = caught.value.__cause__
    assert isinstance(cause, errors.ManifestBlobUnknown) and cause.digests == (lost,)
    assert lost in str(cause) and lost in str(caught.value) and "operator" in caught.value.hint
    assert uploads(server).count(lost) == 2 and len(server.seen("PUT", "/v2/a/b/manifests/.*")) == 2


def test_manifest_lost_before_its_index_is_pushed_with_children(source, server, open_repository):
    require_children(server, RESPONSES[0])
    layer = add_blob(source, b"layer" * 1000)
    child = add_manifest(source, layer)
    index = add_index(source, child, tag="v1")

    def collect(request, answer):
        del server.manifests["a/b", child.digest], server.blobs["a/b", layer.digest]

    server.on("PUT", f"/v2/a/b/manifests/{child.digest}", change=collect)
    copy(source, index, open_repository(server, push=True), tags=["v1"])
    assert server.tags["a/b", "v1"] == index.digest
    assert ("a/b", child.digest) in server.manifests and ("a/b", layer.digest) in server.blobs


def test_missing_foreign_layer_raises_error_without_retry(source, server, open_repository):
    require_children(server, RESPONSES[0])
    foreign = Descriptor.of(b"elsewhere", FOREIGN)
    image = add_manifest(source, to_json(foreign, urls=["https://example.com/layer"]))
    with pytest.raises(errors.CopyError, match=foreign.digest):
        copy(source, image, open_repository(server, push=True), tags=["v1"])
    assert len(server.seen("PUT", "/v2/a/b/manifests/.*")) == 1
