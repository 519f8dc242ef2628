"""The one algorithm behind every transfer: what moves, in what order, and what happens when it can't."""

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
from ocikit.transfer.pool import Cancelled, run_parallel

from tests.support.fake_registry import Response

OCI, INDEX, LAYER = media_types.OCI_MANIFEST, media_types.OCI_INDEX, media_types.OCI_LAYER
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


class Scripted(MemoryStore):
    """A store in memory that notes what is asked of it, in order, and fails where it is told to."""

    def __init__(self):
        super().__init__()
        self.log = []
        self.lock = threading.Lock()
        self.hooks = {}

    def _note(self, verb, descriptor, *more):
        with self.lock:
            self.log.append((verb, descriptor.digest, *more))
        for (what, digest), hook in self.hooks.items():
            if what == verb and digest in (None, descriptor.digest):
                hook()

    def open(self, descriptor):
        self._note("open", descriptor)
        return super().open(descriptor)

    def push(self, descriptor, stream, *, tag=None):
        self._note("push", descriptor, tag)
        super().push(descriptor, stream, tag=tag)

    def exists(self, descriptor):
        self._note("exists", descriptor)
        return super().exists(descriptor)

    def fail(self, verb, digest, error):
        def hook():
            raise error

        self.hooks[verb, digest] = hook

    def did(self, verb):
        return [entry[1] for entry in self.log if entry[0] == verb]


class Listening(Progress):
    """Progress that remembers."""

    def __init__(self):
        self.lock = threading.Lock()
        self.size = self.count = None
        self.advanced, self.finished, self.notes, self.ended = {}, [], [], []

    def begin(self, title, *, size, count):
        self.size, self.count = size, count

    def advance(self, descriptor, n):
        with self.lock:
            self.advanced[descriptor.digest] = self.advanced.get(descriptor.digest, 0) + n

    def finish(self, descriptor, fate):
        with self.lock:
            self.finished.append((descriptor.digest, fate))

    def note(self, message):
        self.notes.append(message)

    def end(self, *, failed=False):
        self.ended.append(failed)


def wire(descriptor, **more):
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size} | more


def add_blob(store, content, media_type=LAYER):
    descriptor = Descriptor.of(content, media_type)
    store.push_bytes(descriptor, content)
    return descriptor


def add_manifest(store, *layers, tag=None, config=EMPTY_DESCRIPTOR, **fields):
    if config is EMPTY_DESCRIPTOR:
        store.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    layers = [layer if isinstance(layer, dict) else wire(layer) for layer in layers]
    raw = json.dumps({"schemaVersion": 2, "mediaType": OCI, "config": wire(config), "layers": layers} | fields).encode()
    descriptor = Descriptor.of(raw, OCI)
    store.push_bytes(descriptor, raw, tag=tag)
    return descriptor


def add_index(store, *manifests, tag=None, **fields):
    entries = [m if isinstance(m, dict) else wire(m) for m in manifests]
    raw = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries} | fields).encode()
    descriptor = Descriptor.of(raw, INDEX)
    store.push_bytes(descriptor, raw, tag=tag)
    return descriptor


@pytest.fixture
def source():
    store = Scripted()
    yield store


@pytest.fixture
def target():
    return Scripted()


@pytest.fixture
def image(source):
    """A manifest of a config and three layers, as v1."""
    layers = [add_blob(source, bytes([n]) * 100_000) for n in range(3)]
    made = add_manifest(source, *layers, config=add_blob(source, b'{"os": "linux"}', "application/x.config"), tag="v1")
    source.log.clear()
    return made


# -- order


@pytest.mark.parametrize("workers", [1, 4])
def test_children_come_before_parents_and_the_root_last_with_its_tag(source, target, workers):
    a = add_manifest(source, add_blob(source, b"a"))
    b = add_manifest(source, add_blob(source, b"b"), annotations={"n": "b"})
    inner = add_index(source, b)
    root = add_index(source, a, inner, tag="v1")
    assert copy(source, "v1", target, tags=["v2"], workers=workers).digest == root.digest
    pushed = target.did("push")
    documents = [a.digest, b.digest, inner.digest, root.digest]
    assert pushed[-4:] == documents, "documents after all blobs, children first"
    assert [entry for entry in target.log if entry[0] == "push" and entry[2]] == [("push", root.digest, "v2")]
    assert target.tags() == ["v2"]
    assert target.fetch(root) == source.fetch(root)


def test_nothing_is_tagged_if_a_blob_failed(source, target, image):
    layer = source.document(image).layers[1]
    target.fail("push", layer.digest, errors.UploadInvalid("no"))
    with pytest.raises(errors.CopyError):
        copy(source, "v1", target, tags=["v1"])
    assert target.tags() == []
    assert image.digest not in target.did("push")


def test_nothing_is_tagged_if_a_document_failed(source, target):
    child = add_manifest(source)
    root = add_index(source, child, tag="v1")
    target.fail("push", child.digest, errors.UploadInvalid("no"))
    with pytest.raises(errors.CopyError):
        copy(source, "v1", target, tags=["v1"])
    assert target.tags() == [] and root.digest not in target.did("push")


def test_several_tags_all_name_the_root(source, target, image):
    copy(source, "v1", target, tags=["a", "b", "c"])
    assert target.tags() == ["a", "b", "c"]
    assert {target.resolve(t).digest for t in "abc"} == {image.digest}


def test_a_copy_without_a_tag_is_there_by_digest(source, target, image):
    copy(source, image, target)
    assert target.tags() == []
    assert target.resolve(image.digest).digest == image.digest


def test_the_bytes_of_documents_stay_as_they_are(source, target):
    """Odd spacing and unknown keys too."""
    source.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    raw = json.dumps({"future": {"x": [1]}, "config": wire(EMPTY_DESCRIPTOR), "layers": None, "schemaVersion": 2, "mediaType": OCI}, indent=7).encode()  # fmt: skip
    root = Descriptor.of(raw, OCI)
    source.push_bytes(root, raw, tag="v1")
    copy(source, "v1", target, tags=["v1"])
    assert target.fetch(target.resolve("v1")) == raw


# -- each digest once


def test_content_that_is_named_often_moves_once(source, target):
    """Whatever title or type its descriptors give it."""
    blob = add_blob(source, b"shared" * 1000)
    other = wire(blob, annotations={"org.opencontainers.image.title": "b"})
    typed = wire(blob, mediaType="application/octet-stream")
    manifests = [add_manifest(source, blob, other, typed, blob, annotations={"n": str(n)}) for n in range(8)]
    add_index(source, *manifests, *manifests, tag="v1")
    source.log.clear()
    progress = Listening()
    copy(source, "v1", target, tags=["v1"], workers=8, progress=progress)
    assert source.did("open").count(blob.digest) == 1
    assert target.did("push").count(blob.digest) == 1
    assert len(target.did("push")) == len(set(target.did("push")))
    assert progress.advanced[blob.digest] == blob.size


def test_nested_indexes_are_walked(source, target):
    """An index in an index is no blob, Docker's list neither."""
    leaf = add_manifest(source, add_blob(source, b"leaf"))
    raw = json.dumps({"schemaVersion": 2, "mediaType": media_types.DOCKER_INDEX, "manifests": [wire(leaf)]}).encode()
    docker = Descriptor.of(raw, media_types.DOCKER_INDEX)
    source.push_bytes(docker, raw)
    add_index(source, add_index(source, docker), tag="v1")
    copy(source, "v1", target, tags=["v1"])
    assert target.fetch(docker) == raw and target.exists(leaf)


def test_indexes_that_are_nested_too_deep_are_refused(source, target):
    inner = add_manifest(source)
    for depth in range(40):
        inner = add_index(source, inner, annotations={"depth": str(depth)})
    with pytest.raises(errors.InvalidDocument, match="nested"):
        copy(source, inner, target)
    with pytest.raises(errors.InvalidDocument, match="nested"):
        plan(source, inner, target, platform="linux/amd64")
    assert target.log == []


def test_a_circle_is_refused(target):
    """A source that lies about digests: no hash can do this."""
    digests = [Digest("sha256:" + c * 64) for c in "ab"]

    class Lying(MemoryStore):
        def fetch(self, descriptor, *, limit=0):
            there = digests[1 - digests.index(descriptor.digest)]
            return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"mediaType": INDEX, "digest": there, "size": 1}]}).encode()  # fmt: skip

    with pytest.raises(errors.InvalidDocument, match="circle"):
        copy(Lying(), Descriptor(media_type=INDEX, digest=digests[0], size=1), target)


# -- what needs no moving


def test_blobs_that_are_present_are_skipped_and_documents_walked(source, target, image):
    layers = source.document(image).layers
    copy(source, "v1", target, tags=["v1"])
    target.delete(layers[0])
    target.log.clear()
    source.log.clear()
    progress = Listening()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    blobs = [d for d in source.did("open") if d != image.digest]
    assert blobs == [layers[0].digest], "a manifest that is there does not mean that its blobs are"
    assert dict(progress.finished)[layers[0].digest] == "moved"
    assert dict(progress.finished)[layers[1].digest] == "present"


def test_a_blob_that_can_be_mounted_moves_no_bytes(source, image):
    class Mounting(Scripted):
        def mount(self, descriptor, source):
            self.push_bytes(descriptor, source.fetch(descriptor))
            return True

    target, progress = Mounting(), Listening()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    fates = dict(progress.finished)
    assert [fates[layer.digest] for layer in source.document(image).layers] == ["mounted"] * 3
    assert set(progress.advanced) == {image.digest}


def test_a_registry_mounts_within_itself(server, open_repository):
    store = MemoryStore()
    layer = add_blob(store, b"layer" * 1000)
    image = add_manifest(store, layer, tag="v1")
    here = open_repository(server, "src/a", push=True)
    copy(store, "v1", here, tags=["v1"])
    server.requests.clear()
    there = type(here)(here.transport, "dst/b", actions=("pull", "push"))
    copy(here, "v1", there, tags=["v1"])
    assert server.tags["dst/b", "v1"] == image.digest
    assert server.blobs["dst/b", layer.digest] == b"layer" * 1000
    assert [r for r in server.requests if r.method in {"PATCH", "GET"} and "/blobs/" in r.path] == []
    assert [r for r in server.requests if r.method == "PUT" and "/blobs/" in r.path] == []


def test_embedded_content_is_used_if_it_is_what_it_should_be(target):
    source = Scripted()
    content, wrong = b"embedded", b"embedde!"
    descriptor, other = Descriptor.of(content, LAYER), Descriptor.of(b"12345678", LAYER)
    import base64

    data = {"data": base64.b64encode(content).decode()}
    lie = {"data": base64.b64encode(wrong).decode()}
    add_blob(source, b"12345678")
    add_manifest(source, wire(descriptor, **data), wire(other, **lie), tag="v1")
    source.log.clear()
    copy(source, "v1", target, tags=["v1"])
    assert target.fetch(descriptor) == content and target.fetch(other) == b"12345678"
    assert descriptor.digest not in source.did("open")
    assert other.digest in source.did("open")


def test_the_empty_descriptor_costs_no_request(source, target):
    add_manifest(source, EMPTY_DESCRIPTOR, tag="v1")
    source.log.clear()
    copy(source, "v1", target, tags=["v1"])
    assert EMPTY_DESCRIPTOR.digest not in source.did("open")
    assert target.fetch(EMPTY_DESCRIPTOR) == b"{}"


def test_foreign_layers_are_left_out_with_a_note(source, target):
    layer = Descriptor.of(b"windows", FOREIGN, urls=("https://example.com/layer",))
    own = add_blob(source, b"own")
    add_manifest(source, wire(layer, urls=["https://example.com/layer"]), own, tag="v1")
    progress = Listening()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    assert not MemoryStore.exists(target, layer) and target.exists(own)
    assert (layer.digest, "skipped") in progress.finished
    assert any("redistributed" in note for note in progress.notes)


def test_a_layer_that_is_foreign_here_and_not_there_is_moved(source, target):
    own = add_blob(source, b"both")
    add_index(source, add_manifest(source, wire(own) | {"mediaType": FOREIGN}), add_manifest(source, own), tag="v1")
    progress = Listening()
    copy(source, "v1", target, tags=["v1"], progress=progress)
    assert [fate for digest, fate in progress.finished if digest == own.digest] == ["moved"]
    assert progress.size == sum(progress.advanced.values())


# -- failures


def test_a_failure_says_which_side_and_what(source, target, image):
    layer = source.document(image).layers[1]
    source.delete(layer)
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target)
    assert caught.value.side == "source" and caught.value.descriptor.digest == layer.digest
    assert isinstance(caught.value.__cause__, errors.NotFound)
    assert "source" in str(caught.value)


def test_a_target_that_refuses_is_the_target(source, target, image):
    layer = source.document(image).layers[1]
    target.fail("push", layer.digest, errors.Denied("quota", hint="buy more"))
    with pytest.raises(errors.CopyError, match="quota") as caught:
        copy(source, "v1", target)
    assert caught.value.side == "target" and caught.value.hint == "buy more"


def test_a_target_that_cannot_be_asked_is_the_target(source, target, image):
    target.fail("exists", None, errors.ConnectionFailed("down"))
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target)
    assert caught.value.side == "target"


@pytest.mark.parametrize("error", [errors.ConnectionFailed("broke off"), OSError(5, "Input/output error"), errors.BlobUnknown("gone")])  # fmt: skip
def test_a_source_that_fails_while_it_is_read_is_the_source(source, image, server, open_repository, error):
    """The other end of the pipe must not be blamed, however the error travels through it."""
    layer = source.document(image).layers[1]

    class Breaking(io.BytesIO):
        def read(self, size=-1):
            raise error

        readinto = read

    inner = source.open
    source.open = lambda d: Breaking() if d.digest == layer.digest else inner(d)
    for target in (MemoryStore(), open_repository(server, push=True)):
        with pytest.raises(errors.CopyError) as caught:
            copy(source, "v1", target)
        assert caught.value.side == "source"
        assert caught.value.__cause__ is error
    assert server.uploads == {}


def test_content_that_is_not_its_digest_is_the_sources_fault_and_not_kept(source, target, image):
    layer = source.document(image).layers[1]
    source._blobs[layer.digest] = b"\xff" * layer.size
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target, tags=["v1"])
    assert caught.value.side == "source" and isinstance(caught.value.__cause__, errors.DigestMismatch)
    assert not target.exists(layer) and target.tags() == []


def test_a_document_that_is_not_its_digest_is_not_walked(source, target, image):
    source._blobs[image.digest] = (
        source._blobs[image.digest].replace(b"linux", b"Linux").replace(b'"layers"', b'"layerS"')
    )
    with pytest.raises(errors.CopyError) as caught:
        copy(source, image, target)
    assert caught.value.side == "source"
    assert target.log == []


def test_a_digest_that_cannot_be_verified_is_refused(source, target):
    strange = {"mediaType": LAYER, "digest": "blake9:" + "a" * 64, "size": 3}
    add_manifest(source, strange, tag="v1")
    source._blobs[Digest(strange["digest"])] = b"abc"
    with pytest.raises(errors.CopyError) as caught:
        copy(source, "v1", target, tags=["v1"])
    assert isinstance(caught.value.__cause__, errors.UnverifiableDigest)
    assert target.tags() == []


def test_a_failure_stops_the_siblings(source, target):
    layers = [add_blob(source, bytes([n % 256, n // 256]) * 1000) for n in range(60)]
    add_manifest(source, *layers, tag="v1")
    gate = threading.Event()

    def wait():
        gate.wait(5)

    target.hooks["push", None] = wait
    target.fail("push", layers[0].digest, errors.Denied("no"))
    target.hooks = dict(reversed(target.hooks.items()))
    threading.Timer(0.2, gate.set).start()
    progress = Listening()
    with pytest.raises(errors.CopyError, match="no"):
        copy(source, "v1", target, workers=4, progress=progress)
    assert len(target.did("push")) <= 8
    assert progress.ended == [True]


@pytest.mark.timeout(15)
def test_a_transfer_in_the_middle_stops_when_a_sibling_failed(source, target):
    slow = add_blob(source, b"s" * 1_000_000)
    bad = add_blob(source, b"bad")
    add_manifest(source, slow, bad, tag="v1")
    reading = threading.Event()

    class Slow(io.BytesIO):
        def read(self, size=-1):
            reading.set()
            time.sleep(0.02)
            return super().read(min(size, 1000) if size >= 0 else 1000)

    inner = source.open
    source.open = lambda d: Slow(b"s" * 1_000_000) if d.digest == slow.digest else inner(d)

    def fail():
        reading.wait(5)
        raise errors.Denied("no")

    target.hooks["push", bad.digest] = fail
    with pytest.raises(errors.CopyError, match="no"):
        copy(source, "v1", target, workers=2)
    assert not MemoryStore.exists(target, slow)


@pytest.mark.timeout(15)
@pytest.mark.parametrize("workers", [1, 4])
def test_ctrl_c_stops_quickly_and_keeps_what_is_whole(source, target, workers):
    first = add_blob(source, b"first")
    layers = [add_blob(source, bytes([n]) * 1_000_000) for n in range(8)]
    add_manifest(source, first, *layers, tag="v1")

    class Slow(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.02)
            return super().read(min(size, 1000) if size >= 0 else 1000)

    inner = source.open
    source.open = lambda d: inner(d) if d.size < 1_000_000 else Slow(source._blobs[d.digest])
    progress = Listening()
    before = threading.active_count()
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        copy(source, "v1", target, tags=["v1"], workers=workers, progress=progress)
    assert target.exists(first) and target.tags() == []
    assert progress.ended == [True]
    time.sleep(0.1)
    assert threading.active_count() <= before, "no worker goes on"


@pytest.mark.timeout(15)
def test_ctrl_c_does_not_wait_for_a_read_that_hangs(source, target, monkeypatch):
    from ocikit.transfer import pool

    monkeypatch.setattr(pool, "_SHUTDOWN", 0.3)
    blob = add_blob(source, b"x" * 100)
    add_manifest(source, blob, tag="v1")
    release = threading.Event()

    class Hanging(io.BytesIO):
        def read(self, size=-1):
            release.wait(20)
            return b""

    inner = source.open
    source.open = lambda d: Hanging() if d.digest == blob.digest else inner(d)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        copy(source, "v1", target, workers=2)
    release.set()


@pytest.mark.timeout(15)
def test_ctrl_c_in_the_middle_of_an_upload_leaves_no_session(source, server, open_repository):
    layer = add_blob(source, b"x" * 5_000_000)
    add_manifest(source, layer, tag="v1")

    class Slow(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.02)
            return super().read(min(size, 10_000) if size >= 0 else 10_000)

    inner = source.open
    source.open = lambda d: Slow(b"x" * 5_000_000) if d.digest == layer.digest else inner(d)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        copy(source, "v1", open_repository(server, push=True), tags=["v1"], workers=2)
    assert server.uploads == {} and server.tags == {}


# -- each


def test_each_works_on_every_item_once():
    done, lock = [], threading.Lock()

    def work(item, stop):
        with lock:
            done.append(item)

    run_parallel(range(1000), work, workers=8)
    assert sorted(done) == list(range(1000))


def test_each_raises_the_first_failure_and_takes_nothing_more():
    taken = []

    def work(item, stop):
        taken.append(item)
        if item == 3:
            raise ValueError("three")
        if stop.wait(0.5):
            raise Cancelled

    with pytest.raises(ValueError, match="three"):
        run_parallel(iter(range(1000)), work, workers=4)
    assert len(taken) < 12


def test_each_raises_what_an_iterator_raises():
    def items():
        yield 1
        raise ValueError("no more")

    for workers in (1, 3):
        with pytest.raises(ValueError, match="no more"):
            run_parallel(items(), lambda item, stop: None, workers=workers)


# -- a part of it


def test_one_platform_of_an_index(source, target):
    amd = add_manifest(source, add_blob(source, b"amd"))
    arm = add_manifest(source, add_blob(source, b"arm"))
    inner = add_index(source, wire(arm, platform={"os": "linux", "architecture": "arm64", "variant": "v8"}))
    add_index(source, wire(amd, platform={"os": "linux", "architecture": "amd64"}), inner, tag="v1")
    assert copy(source, "v1", target, tags=["amd"], platform="linux/amd64").digest == amd.digest
    assert target.tags() == ["amd"] and not target.exists(arm)
    assert copy(source, "v1", target, tags=["arm"], platform="linux/arm64").digest == arm.digest
    assert copy(source, amd, MemoryStore(), platform="linux/arm64").digest == amd.digest, "a manifest is what it is"
    with pytest.raises(errors.NoMatchingPlatform) as caught:
        copy(source, inner, target, platform="windows/amd64")
    assert "linux/arm64" in str(caught.value)


def test_referrers_and_theirs_come_along(source, target, image):
    signature = add_manifest(source, add_blob(source, b"signature"), subject=wire(image), artifactType="x/signature")
    countersigned = add_manifest(source, subject=wire(signature), artifactType="x/counter")
    listed = add_index(
        source, add_manifest(source, add_blob(source, b"attested")), subject=wire(image), artifactType="x/attestations"
    )
    copy(source, "v1", target, tags=["v1"], referrers=True)
    assert {d.digest for d in target.referrers(image)} == {signature.digest, listed.digest}
    assert [d.digest for d in target.referrers(signature)] == [countersigned.digest]
    tagged = [n for n, entry in enumerate(target.log) if entry[:2] == ("push", image.digest) and entry[2]]
    pushed = [n for n, entry in enumerate(target.log) if entry[:2] == ("push", countersigned.digest)]
    assert pushed < tagged, "the name comes last, when all that belongs to it is there"
    other = MemoryStore()
    copy(source, "v1", other, tags=["v1"])
    assert list(other.referrers(image)) == []


def test_referrers_of_the_children_of_an_index_come_along(source, target):
    child = add_manifest(source, add_blob(source, b"child"))
    root = add_index(source, child, tag="v1")
    signature = add_manifest(source, subject=wire(child), artifactType="x/signature")
    copy(source, "v1", target, tags=["v1"], referrers=True)
    assert [d.digest for d in target.referrers(child)] == [signature.digest]
    assert target.resolve("v1").digest == root.digest


def test_referrers_in_a_circle_end(source, target):
    """A subject may be pushed after what refers to it, so two may refer to each other's kin."""
    a = add_manifest(source, annotations={"n": "a"}, tag="v1")
    b = add_manifest(source, subject=wire(a))
    inner = source.referrers
    source.referrers = lambda d, artifact_type=None: [
        *inner(d),
        Descriptor(media_type=OCI, digest=a.digest, size=a.size),
    ]
    copy(source, "v1", target, tags=["v1"], referrers=True)
    assert target.exists(b)


def listing(server, lists):
    """Let the registry give these lists of referrers, whatever its manifests say."""

    def guard(request):
        subject = request.path.rpartition("/referrers/")[2]
        if "/referrers/" not in request.path:
            return None
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [wire(d) for d in lists(subject)]}
        return Response(200, {"Content-Type": INDEX}, json.dumps(body).encode())

    server.guard = guard


def manifest_of(server, **fields):
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI, "config": wire(EMPTY_DESCRIPTOR), "layers": []} | fields
    ).encode()
    server.manifest("a/b", raw)
    return Descriptor.of(raw, OCI)


def test_lists_of_referrers_that_lead_back_end(server, open_repository, target):
    server.blob("a/b", b"{}")
    root = manifest_of(server)
    first = manifest_of(server, subject=wire(root))
    second = manifest_of(server, subject=wire(first))
    lists = {root.digest: [first, root], first.digest: [second, root, first], second.digest: [first, root, second]}
    listing(server, lambda subject: lists[subject])
    copy(open_repository(server), root, target, tags=["v1"], referrers=True)
    assert [target.exists(d) for d in (root, first, second)] == [True] * 3
    assert len(server.seen("GET", ".*/referrers/.*")) == 3, "each is asked for once"


def test_referrers_without_end_are_refused(server, open_repository, target):
    server.blob("a/b", b"{}")
    root = manifest_of(server)

    def another(subject):
        return [manifest_of(server, subject=wire(root), annotations={"of": subject})]

    listing(server, another)
    with pytest.raises(errors.InvalidDocument, match="more than 16"):
        copy(open_repository(server), root, target, tags=["v1"], referrers=True)
    assert len(server.requests) < 50 and target.log == []


# -- plans


def test_a_plan_moves_nothing_and_knows_the_sizes(source, target, image):
    layers = source.document(image).layers
    target.push_bytes(layers[0], source.fetch(layers[0]))
    target.log.clear()
    made = plan(source, "v1", target, tags=["v1"])
    config = source.document(image).config
    assert made.size == 300_000 + config.size + image.size and not made.checked
    assert target.log == []
    checked = plan(source, "v1", target, tags=["v1"], check=True)
    assert checked.size == 200_000 + config.size + image.size
    assert [s.outcome for s in checked.items].count("present") == 1
    assert set(target.did("exists")) == {b.digest for b in (config, *layers)} and target.did("push") == []
    assert image.digest.encoded[:12] in repr(made)
    target.log.clear()
    progress = Listening()
    checked.run(progress=progress)
    assert target.did("exists") == [], "what is known is not asked again"
    assert sum(progress.advanced.values()) == checked.size
    assert target.tags() == ["v1"]


def test_a_reference_that_is_not_there_is_unknown(source, target):
    with pytest.raises(errors.ManifestUnknown):
        plan(source, "v9", target)


# -- progress


@pytest.mark.parametrize("workers", [1, 4])
def test_progress_adds_up_and_everything_finishes_once(source, target, workers):
    """Every byte of every piece of content, once, and no division by zero for an empty one."""
    layers = [add_blob(source, os.urandom(n * 12_345)) for n in range(8)]
    assert layers[0].size == 0
    manifests = [add_manifest(source, *layers, layers[0], annotations={"n": str(n)}) for n in range(3)]
    root = add_index(source, *manifests, tag="v1")
    progress = Listening()
    copy(source, "v1", target, tags=["a", "b"], workers=workers, progress=progress)
    everything = [EMPTY_DESCRIPTOR, *layers, *manifests, root]
    assert progress.size == sum(d.size for d in everything)
    assert progress.count == len(everything) == len(progress.finished)
    assert {d: n for d, n in progress.advanced.items() if n} == {d.digest: d.size for d in everything if d.size}
    assert sorted(progress.finished) == sorted((d.digest, "moved") for d in everything)
    assert progress.ended == [False]


def test_progress_adds_up_when_a_registry_drops_connections(source, image, server, open_repository):
    config = source.document(image).config
    server.on(
        "PUT", ".*/blobs/.*", cut_request=50_000, times=2, when=lambda r: int(r.headers["Content-Length"]) > 50_000
    )
    server.on("PUT", ".*/blobs/.*", drop="after")
    progress = Listening()
    copy(source, "v1", open_repository(server, push=True), tags=["v1"], progress=progress)
    assert sum(progress.advanced.values()) == progress.size == 300_000 + config.size + image.size
    server.on("GET", ".*/blobs/.*", cut=50_000, times=2)
    progress = Listening()
    copy(open_repository(server), "v1", MemoryStore(), progress=progress)
    assert sum(progress.advanced.values()) == progress.size == 300_000 + config.size + image.size


def test_progress_adds_up_when_an_upload_turns_out_to_be_there(source, image, server, open_repository):
    """The connection broke, but another client had pushed it."""
    layer = source.document(image).layers[0]

    def meanwhile(request):
        if request.headers["Content-Length"] == str(layer.size):
            server.blobs["a/b", layer.digest] = source._blobs[layer.digest]
            return True
        return False

    server.on("PUT", ".*/blobs/.*", cut_request=50_000, when=meanwhile)
    progress = Listening()
    copy(source, "v1", open_repository(server, push=True), tags=["v1"], workers=1, progress=progress)
    assert sum(progress.advanced.values()) == progress.size


# -- what a registry had and has no more


def strict(server, words):
    """Let the registry refuse manifests that name what it doesn't have; `words` makes its errors of the digests."""

    def guard(request):
        name, kind, _ = request.path.removeprefix("/v2/").partition("/manifests/")
        if request.method != "PUT" or not kind:
            return None
        document = json.loads(request.body)
        named = [document["config"], *document["layers"]] if "layers" in document else document["manifests"]
        lost = [d["digest"] for d in named if (name, d["digest"]) not in {*server.blobs, *server.manifests}]
        return Response(words[0], {}, json.dumps({"errors": words[1](lost)}).encode()) if lost else None

    server.guard = guard


def by_detail(lost):
    return [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blob unknown to registry", "detail": d} for d in lost]


WORDS = [
    (404, by_detail),
    (400, by_detail),
    (400, lambda lost: [{"code": "MANIFEST_BLOB_UNKNOWN", "detail": {"digest": d}} for d in lost]),
    (400, lambda lost: [{"code": "MANIFEST_BLOB_UNKNOWN", "message": f"unknown blob {lost[0]}"}]),
    (400, lambda lost: [{"code": "MANIFEST_BLOB_UNKNOWN", "message": "blobs are missing", "detail": None}]),
    (404, lambda lost: [{"code": "BLOB_UNKNOWN", "message": "blob unknown", "detail": {"Digest": lost[0]}}]),
]


def uploads(server):
    return [r.query["digest"][0] for r in server.seen("PUT", "/v2/a/b/blobs/uploads/.*")]


@pytest.mark.parametrize("words", WORDS)
def test_a_blob_that_is_collected_before_its_manifest_comes_is_sent_again(
    source, image, server, open_repository, words
):
    strict(server, words)
    first = source.document(image).layers[0].digest

    def collect(request, answer):
        del server.blobs["a/b", first]

    server.on("PUT", "/v2/a/b/blobs/uploads/.*", change=collect, when=lambda r: r.query["digest"] == [first])
    listening = Listening()
    copy(source, image, open_repository(server, push=True), tags=["v1"], workers=1, progress=listening)
    assert server.tags["a/b", "v1"] == image.digest
    assert first in {digest for _, digest in server.blobs}
    others = [d for d in set(uploads(server)) if d != first]
    assert uploads(server).count(first) == 2
    named = words[1]([first]) != words[1](["x"])  # a registry that names nothing gets all
    assert [uploads(server).count(d) for d in others] == [1 if named else 2] * len(others)
    assert listening.advanced[first] == 100_000 and listening.ended == [False], "sent twice, counted once"
    assert any(first in note for note in listening.notes)


@pytest.mark.parametrize("lie", ["HEAD", "mount"])
def test_a_blob_that_a_registry_only_claims_to_have_is_sent_after_all(source, image, server, open_repository, lie):
    strict(server, WORDS[0])
    target = open_repository(server, push=True)
    if lie == "HEAD":
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
    assert sorted(uploads(server)) == sorted(d.digest for d in document.children), "each once"


def test_a_registry_that_always_loses_a_blob_is_an_error_that_names_it(source, image, server, open_repository):
    lost = source.document(image).layers[1].digest
    answer = json.dumps({"errors": by_detail([lost])}).encode()
    server.on("PUT", "/v2/a/b/manifests/.*", status=404, body=answer, times=None)
    with pytest.raises(errors.CopyError) as caught:
        copy(source, image, open_repository(server, push=True), tags=["v1"])
    cause = caught.value.__cause__
    assert isinstance(cause, errors.ManifestBlobUnknown) and cause.digests == (lost,)
    assert lost in str(cause) and lost in str(caught.value) and "operator" in caught.value.hint
    assert uploads(server).count(lost) == 2 and len(server.seen("PUT", "/v2/a/b/manifests/.*")) == 2


def test_a_manifest_that_is_lost_before_its_index_is_sent_again_with_what_hangs_on_it(source, server, open_repository):
    strict(server, WORDS[0])
    layer = add_blob(source, b"layer" * 1000)
    child = add_manifest(source, layer)
    index = add_index(source, child, tag="v1")

    def collect(request, answer):
        del server.manifests["a/b", child.digest], server.blobs["a/b", layer.digest]

    server.on("PUT", f"/v2/a/b/manifests/{child.digest}", change=collect)
    copy(source, index, open_repository(server, push=True), tags=["v1"])
    assert server.tags["a/b", "v1"] == index.digest
    assert ("a/b", child.digest) in server.manifests and ("a/b", layer.digest) in server.blobs


def test_a_registry_that_misses_what_is_not_ours_to_send_is_an_error_at_once(source, server, open_repository):
    strict(server, WORDS[0])
    foreign = Descriptor.of(b"elsewhere", FOREIGN)
    image = add_manifest(source, wire(foreign, urls=["https://example.com/layer"]))
    with pytest.raises(errors.CopyError, match=foreign.digest):
        copy(source, image, open_repository(server, push=True), tags=["v1"])
    assert len(server.seen("PUT", "/v2/a/b/manifests/.*")) == 1
