"""The cache: blobs, tags, snapshots, verification and pruning."""

import errno
import io
import os
import socket
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ocikit.errors import (
    BlobUnknown,
    ContentError,
    InvalidArgument,
    ManifestUnknown,
    NotFound,
    UnsafeArchive,
)
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest
from ocikit.spec.reference import Reference
from ocikit.store import reflink
from ocikit.store.cache.cache import Cache, offline

from tests.contracts.store import StoreContract

REF = Reference.parse("localhost:5000/team/data:v1")


class TestCache(StoreContract):
    @pytest.fixture
    def store(self, tmp_path):
        return Cache(tmp_path / "cache")

    # The cache stores content that was requested and lists no referrers
    test_referrers_are_found_by_subject = None
    test_referrers_can_be_filtered_by_artifact_type = None
    test_referrer_without_artifact_type_has_config_type = None
    test_referrer_can_precede_its_subject = None
    test_index_can_be_subject_and_referrer = None
    test_deleted_referrer_is_not_listed = None


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def layer(content, title=None, media_type=mt.OCTET_STREAM):
    return Descriptor.of(content, media_type, annotations={TITLE: title} if title is not None else {})


def artifact(cache, files, *, reference=REF, **fields):
    """Push an artifact with files by title, and remember its reference."""
    layers = [layer(content, title) for title, content in files.items()]
    for descriptor, content in zip(layers, files.values(), strict=True):
        cache.push_bytes(descriptor, content)
    cache.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=layers, **fields)
    cache.push_bytes(manifest.descriptor, manifest.raw)
    if reference is not None:
        cache.remember(reference, manifest.descriptor)
    return manifest


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def age(path, seconds):
    """Set the modification time of a file to some seconds ago."""
    changed = time.time() - seconds
    os.utime(path, (changed, changed), follow_symlinks=False)


# Root folder


def test_reading_an_absent_cache_creates_nothing(tmp_path):
    cache = Cache(tmp_path / "cache")
    assert not cache.exists(EMPTY_DESCRIPTOR)
    assert cache.recall(REF) is None
    assert cache.lookup(REF.pinned(EMPTY_DESCRIPTOR.digest)) is None
    assert (cache.scan().blobs, cache.verify().checked, cache.prune().files) == (0, 0, ())
    assert cache.prune().run() == 0
    assert list(tmp_path.iterdir()) == []


def test_default_root_is_evaluated_on_each_use(tmp_path, monkeypatch):
    cache = Cache()
    monkeypatch.setenv("OCIKIT_CACHE", str(tmp_path / "one"))
    assert cache.root == tmp_path / "one"
    monkeypatch.setenv("OCIKIT_CACHE", str(tmp_path / "two"))
    assert cache.root == tmp_path / "two"
    monkeypatch.delenv("OCIKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.root.name == "ocikit"
    assert cache.root.is_relative_to(tmp_path)
    assert Cache("~/here").root == tmp_path / "here"


def test_cache_has_a_tag_file_for_backup_programs(cache):
    cache.push_bytes(layer(b"x"), b"x")
    assert (cache.root / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")


def test_unwritable_root_raises_content_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ContentError, match="OCIKIT_CACHE"):
        Cache(tmp_path / "file" / "cache").push_bytes(layer(b"x"), b"x")


def test_repr_reads_nothing_from_disk(tmp_path):
    assert repr(Cache(tmp_path / "absent")) == f"Cache(root={str(tmp_path / 'absent')!r})"
    assert not (tmp_path / "absent").exists()


def test_offline_reads_the_environment_on_each_call(monkeypatch):
    for text, meaning in {"1": True, "true": True, "YES": True, "0": False, "": False, "off": False}.items():
        monkeypatch.setenv("OCIKIT_OFFLINE", text)
        assert offline() is meaning
    monkeypatch.delenv("OCIKIT_OFFLINE")
    assert offline() is False


# Blobs


def test_blob_path_is_its_digest_and_file_is_read_only(cache):
    blob = layer(b"content")
    cache.push_bytes(blob, b"content")
    path = cache.root / "blobs" / "sha256" / blob.digest.encoded
    assert cache.path(blob.digest) == path
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o444
    assert list((cache.root / "partial").iterdir()) == []


def test_truncated_blob_is_absent_and_replaced(cache):
    blob = layer(b"content")
    cache.push_bytes(blob, b"content")
    path = cache.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"cont")
    assert not cache.exists(blob)
    with pytest.raises(NotFound):
        cache.open(blob)
    cache.push_bytes(blob, b"content")
    assert cache.fetch(blob) == b"content"


def test_corrupt_document_is_deleted_and_absent(cache):
    blob = layer(b"content")
    cache.push_bytes(blob, b"content")
    path = cache.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"CONTENT")
    with pytest.raises(NotFound):
        cache.fetch(blob)
    assert not path.exists()


def test_descriptor_with_wrong_size_leaves_the_blob_unchanged(cache):
    blob = layer(b"content")
    cache.push_bytes(blob, b"content")
    with pytest.raises(NotFound):
        cache.fetch(Descriptor(media_type=mt.OCTET_STREAM, digest=blob.digest, size=3))
    assert cache.fetch(blob) == b"content"


def test_embedded_content_is_read_without_a_file(cache):
    assert cache.open(EMPTY_DESCRIPTOR).read() == b"{}"
    assert cache.fetch(EMPTY_DESCRIPTOR) == b"{}"
    assert not cache.exists(EMPTY_DESCRIPTOR)


# References


def test_recall_returns_descriptor_and_time(cache):
    before = datetime.now(UTC)
    cache.remember(REF, layer(b"x", media_type=mt.OCI_INDEX))
    recalled = cache.recall(REF)
    assert recalled.descriptor == layer(b"x", media_type=mt.OCI_INDEX)
    assert before <= recalled.fetched_at <= datetime.now(UTC)
    descriptor, fetched_at = recalled
    assert cache.recall(REF.tagged("v2")) is None


def test_reference_without_tag_is_remembered_as_latest(cache):
    cache.remember(Reference.parse("alpine"), layer(b"x"))
    assert cache.recall(Reference.parse("docker.io/library/alpine:latest")).descriptor.digest == layer(b"x").digest


def test_reference_with_digest_is_not_remembered(cache):
    cache.remember(REF.pinned(layer(b"x").digest), layer(b"x"))
    assert cache.recall(REF) is None
    assert not cache.root.exists()


def test_port_is_escaped_in_file_names(cache):
    cache.remember(REF, layer(b"x"))
    assert (cache.root / "refs" / "localhost%3A5000" / "team" / "data" / "v1.json").is_file()
    six = Reference.parse("[::1]:5000/a:b")
    cache.remember(six, layer(b"y"))
    assert cache.recall(six).descriptor.digest == layer(b"y").digest
    assert not any(":" in p.name for p in cache.root.rglob("*"))


def test_repository_named_like_a_tag_file_does_not_collide(cache):
    names = ["h.io/a:b", "h.io/a/b.json:c", "h.io/a/b.json/d:e", f"h.io/a/sha256-{'0' * 64}:f"]
    for i, name in enumerate(names):
        cache.remember(Reference.parse(name), layer(bytes([i])))
    for i, name in enumerate(names):
        assert cache.recall(Reference.parse(name)).descriptor.digest == layer(bytes([i])).digest
    assert {r.name for r in cache.scan().repositories} == {Reference.parse(name).name for name in names}


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"reference": "localhost:5000/team/data:v1"}',
        b'{"reference": "localhost:5000/team/data:v1", "digest": "sha256:no", "mediaType": "a/b", "size": 1, "fetched_at": "2026-01-01T00:00:00+00:00"}',
        b'{"reference": "localhost:5000/team/data:V1", "digest": "DIGEST", "mediaType": "a/b", "size": 1, "fetched_at": "2026-01-01T00:00:00+00:00"}',
        b'{"reference": "localhost:5000/team/data:v1", "digest": "DIGEST", "mediaType": "a/b", "size": -1, "fetched_at": "2026-01-01T00:00:00+00:00"}',
        b'{"reference": "localhost:5000/team/data:v1", "digest": "DIGEST", "mediaType": "a/b", "size": 1, "fetched_at": "soon"}',
    ],
)
def test_unreadable_tag_record_counts_as_absent(cache, damage):
    cache.remember(REF, layer(b"x"))
    cache.reference_path(REF).write_bytes(damage.replace(b"DIGEST", layer(b"x").digest.encode()))
    assert cache.recall(REF) is None
    with pytest.raises(ManifestUnknown):
        cache.resolve(str(REF))
    cache.scan()
    cache.prune().run()
    cache.remember(REF, layer(b"x"))
    assert cache.recall(REF) is not None


def test_lookup_of_pinned_manifest_reads_its_bytes(cache):
    manifest = artifact(cache, {"a": b"1"}, artifact_type="application/x")
    descriptor = cache.lookup(REF.pinned(manifest.digest))
    assert descriptor == manifest.descriptor
    assert descriptor.artifact_type == "application/x"
    assert cache.resolve(f"h.io/elsewhere@{manifest.digest}") == manifest.descriptor
    assert cache.lookup(REF) is None


def test_lookup_ignores_content_that_is_not_a_manifest(cache):
    for content in (b"not json", b"[]", b'{"schemaVersion": 1}', bytes(5 << 20)):
        blob = layer(content)
        cache.push_bytes(blob, content)
        assert cache.lookup(REF.pinned(blob.digest)) is None
    manifest = artifact(cache, {})
    path = cache.path(manifest.digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(b"2", b"3"))
    assert cache.lookup(REF.pinned(manifest.digest)) is None


def test_threads_remember_recall_and_prune_concurrently(cache):
    known = [layer(bytes([i])) for i in range(4)]
    for i, descriptor in enumerate(known):
        cache.push_bytes(descriptor, bytes([i]))

    def remember(i):
        for _ in range(30):
            cache.remember(REF, known[i])

    def prune():
        for _ in range(30):
            cache.prune(older_than=0.0).run()

    with ThreadPoolExecutor(5) as pool:
        work = [pool.submit(remember, i) for i in range(4)] + [pool.submit(prune)]
        while not all(w.done() for w in work):
            recalled = cache.recall(REF)
            assert recalled is None or recalled.descriptor in known
        [w.result() for w in work]


# Snapshots


def test_snapshot_has_read_only_files_at_their_titles(cache):
    files = {"a.csv": b"1", "deep/er/b.csv": b"2", "same": b"1"}
    manifest = artifact(cache, files)
    folder = cache.snapshot(REF, manifest)
    assert tree(folder) == files
    digest = manifest.digest
    assert folder == cache.root / "snapshots" / "localhost%3A5000" / "team" / "data" / f"sha256-{digest.encoded}"
    assert all(p.stat().st_mode & 0o777 == 0o444 for p in folder.rglob("*") if p.is_file())
    assert list((cache.root / "partial").iterdir()) == []


def test_layer_without_title_is_named_by_its_digest(cache):
    contents = {
        b"1": mt.OCI_LAYER_GZIP,
        b"2": mt.DOCKER_LAYER_GZIP,
        b"3": mt.OCI_LAYER_ZSTD,
        b"4": mt.OCI_LAYER,
        b"5": "application/vnd.x+json",
        b"6": "text/x",
    }
    layers = [layer(content, media_type=media_type) for content, media_type in contents.items()]
    for descriptor, content in zip(layers, contents, strict=True):
        cache.push_bytes(descriptor, content)
    folder = cache.snapshot(REF, Manifest(config=EMPTY_DESCRIPTOR, layers=[*layers, layers[0], EMPTY_DESCRIPTOR]))
    endings = [".tar.gz", ".tar.gz", ".tar.zst", ".tar", ".json", ""]
    assert tree(folder) == {
        f"sha256-{Digest.of(content).encoded[:12]}{ending}": content
        for content, ending in zip(contents, endings, strict=True)
    }


@pytest.mark.parametrize("unsupported", [(), ("reflink",), ("reflink", "link"), ("reflink", "link", "symlink")])
def test_snapshot_uses_the_links_of_the_file_system(cache, monkeypatch, unsupported):
    def fails(*_):
        raise OSError(errno.EXDEV, "not here")

    if "reflink" in unsupported:
        monkeypatch.setattr(reflink, "reflink", lambda *_: False)
    for name in unsupported[1:]:
        monkeypatch.setattr(os, name, fails)
    files = {"a": b"1" * 1000, "b/c": b"2" * 1000}
    manifest = artifact(cache, files)
    folder = cache.snapshot(REF, manifest)
    assert tree(folder) == files
    for title in files:
        path = folder / title
        assert path.is_symlink() is (len(unsupported) == 2)
        assert path.lstat().st_nlink == (2 if len(unsupported) == 1 else path.lstat().st_nlink)
        assert path.stat().st_mode & 0o777 == 0o444
    assert cache.snapshot(REF, manifest) == folder


def test_existing_snapshot_is_reused(cache, monkeypatch):
    manifest = artifact(cache, {"a": b"1", "b": b"2"})
    folder = cache.snapshot(REF, manifest)
    inodes = {p.name: p.stat().st_ino for p in folder.iterdir()}
    age(folder, 1000)
    monkeypatch.setattr(Cache, "_assemble", None)
    assert cache.snapshot(REF, manifest) == folder
    assert {p.name: p.stat().st_ino for p in folder.iterdir()} == inodes
    assert time.time() - folder.stat().st_mtime < 500


def test_snapshot_with_missing_or_truncated_file_is_repaired(cache):
    files = {"a": b"1" * 10, "b/c": b"2" * 10, "d": b"3" * 10}
    manifest = artifact(cache, files)
    folder = cache.snapshot(REF, manifest)
    (folder / "a").unlink()
    (folder / "d").unlink()
    (folder / "d").write_bytes(b"3")
    cache.snapshot(REF, manifest)
    assert tree(folder) == files


def test_snapshot_of_some_layers_is_completed_later(cache):
    files = {"a": b"1", "b/c": b"2", "d": b"3"}
    manifest = artifact(cache, files)
    folder = cache.snapshot(REF, manifest, [manifest.layers[1]])
    assert tree(folder) == {"b/c": b"2"}
    assert cache.snapshot(REF, manifest, manifest.layers[:2]) == folder
    assert tree(folder) == {"a": b"1", "b/c": b"2"}
    cache.snapshot(REF, manifest)
    assert tree(folder) == files


def test_snapshot_of_uncached_blob_names_it(cache):
    manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=[layer(b"absent", "a")])
    with pytest.raises(BlobUnknown, match=layer(b"absent").digest):
        cache.snapshot(REF, manifest)
    assert not cache.snapshot_path(REF, manifest.digest).exists()
    assert list((cache.root / "partial").iterdir()) == []


def test_embedded_layer_becomes_a_file(cache):
    embedded = Descriptor.of(b"inside", "text/plain", data=b"inside", annotations={TITLE: "note.txt"})
    assert tree(cache.snapshot(REF, Manifest(config=EMPTY_DESCRIPTOR, layers=[embedded]))) == {"note.txt": b"inside"}


def test_snapshot_without_files_is_an_empty_folder(cache):
    folder = cache.snapshot(REF, Manifest(config=EMPTY_DESCRIPTOR, layers=[EMPTY_DESCRIPTOR]))
    assert folder.is_dir()
    assert tree(folder) == {}


@pytest.mark.parametrize(
    "titles",
    [
        ["../../x"],
        ["/etc/x"],
        ["a/../../x"],
        ["C:\\x"],
        [".ocikit/x"],
        ["a", "a"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["x\x00"],
    ],
)
def test_unsafe_titles_are_rejected_before_writing(cache, tmp_path, titles):
    layers = [layer(bytes([i]), title) for i, title in enumerate(titles)]
    for i, descriptor in enumerate(layers):
        cache.push_bytes(descriptor, bytes([i]))
    before = tree(tmp_path)
    with pytest.raises(UnsafeArchive):
        cache.snapshot(REF, Manifest(config=EMPTY_DESCRIPTOR, layers=layers))
    assert tree(tmp_path) == before


def test_threads_create_the_same_snapshot_concurrently(cache):
    files = {f"d{i % 3}/{i}": bytes([i]) for i in range(30)}
    manifest = artifact(cache, files)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: cache.snapshot(REF, manifest), range(16)))
    assert set(folders) == {cache.snapshot_path(REF, manifest.digest)}
    assert tree(folders[0]) == files
    assert list((cache.root / "partial").iterdir()) == []


def test_processes_fill_one_cache_concurrently(tmp_path):
    script = """
        import io, sys
        from ocikit.store.cache.cache import Cache
        from ocikit.spec.annotations import TITLE
        from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
        from ocikit.spec.manifest import Manifest
        from ocikit.spec.reference import Reference
        cache, ref = Cache(sys.argv[1]), Reference.parse("h.io/a:b")
        contents = [bytes([i]) * 100_000 for i in range(40)]
        layers = [Descriptor.of(c, "a/b", annotations={TITLE: f"f{i}"}) for i, c in enumerate(contents)]
        for layer, content in zip(layers, contents):
            cache.push_bytes(layer, content)
        manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=layers)
        cache.push_bytes(manifest.descriptor, manifest.raw, tag="h.io/a:b")
        print(cache.snapshot(ref, manifest))
    """
    run = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "cache")]
    processes = [subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [p.communicate() for p in processes]
    assert {err for _, err in answers} == {""}
    [folder] = {Path(out.strip()) for out, _ in answers}
    assert tree(folder) == {f"f{i}": bytes([i]) * 100_000 for i in range(40)}
    cache = Cache(tmp_path / "cache")
    assert cache.verify().corrupt == ()
    assert list((cache.root / "partial").iterdir()) == []


# Housekeeping


def test_scan_counts_by_repository(cache):
    large = artifact(cache, {"a": b"1" * 1000, "b": b"2" * 500})
    artifact(cache, {"a": b"1" * 1000}, reference=Reference.parse("h.io/small:x"))
    cache.remember(REF.tagged("v2"), large.descriptor)
    cache.snapshot(REF, large)
    info = cache.scan()
    big, small = info.repositories
    assert (big.name, big.tags, big.snapshots) == (REF.name, ("v1", "v2"), 1)
    assert big.size == 1500 + large.size + 2
    assert small.name == "h.io/small"
    assert abs(big.last_used.timestamp() - time.time()) < 60
    assert info.size == sum(p.stat().st_size for p in (cache.root / "blobs").rglob("*") if p.is_file())
    assert info.blobs == 5
    assert "h.io/small" in info._repr_html_()


def test_scan_follows_an_index_to_its_cached_manifests(cache):
    manifest = artifact(cache, {"a": b"1" * 1000}, reference=None)
    absent = Descriptor.of(b"{ }", mt.OCI_MANIFEST)
    index = Index(manifests=[manifest.descriptor, absent])
    cache.push_bytes(index.descriptor, index.raw, tag=str(REF))
    assert cache.scan().repositories[0].size == index.size + manifest.size + 1000 + 2


def test_verify_finds_corrupt_blob_and_links_to_it(cache):
    manifest = artifact(cache, {"a": b"1" * 100, "b": b"2" * 100})
    folder = cache.snapshot(REF, manifest)
    assert (cache.verify().checked, cache.verify().corrupt) == (4, ())
    blob = cache.path(layer(b"1" * 100).digest)
    blob.chmod(0o644)
    with open(blob, "r+b") as file:
        file.write(b"X")
    linked = [folder / "a"] if (folder / "a").read_bytes()[:1] == b"X" else []
    result = cache.verify()
    assert [corrupt.path for corrupt in result.corrupt] == [blob, *linked]
    assert result.removed is False
    assert blob.exists()
    assert {corrupt.problem for corrupt in result.corrupt} == {"digest"}
    assert str(blob) in result._repr_html_()
    result = cache.verify(remove=True)
    assert result.removed is True
    assert not blob.exists()
    assert cache.verify().corrupt == ()
    cache.push_bytes(layer(b"1" * 100), b"1" * 100)
    assert tree(cache.snapshot(REF, manifest)) == {"a": b"1" * 100, "b": b"2" * 100}


def test_prune_by_default_deletes_old_unreferenced_blobs(cache):
    manifest = artifact(cache, {"a": b"1"})
    pinned = artifact(cache, {"b": b"2"}, reference=None)
    cache.snapshot(REF, pinned)
    old, young = layer(b"old"), layer(b"young")
    cache.push_bytes(old, b"old")
    cache.push_bytes(young, b"young")
    for path in (cache.root / "blobs" / "sha256").iterdir():
        if path != cache.path(young.digest):
            age(path, 4000)
    plan = cache.prune()
    assert plan.files == (cache.path(old.digest),)
    assert (plan.names, plan.bytes) == ((), 3)
    assert cache.exists(old)
    assert plan.run() == 3
    assert not cache.exists(old)
    assert cache.exists(young)
    for expected in (manifest, pinned):
        assert cache.exists(expected.descriptor)
        assert all(cache.exists(layer) for layer in expected.layers)
    assert cache.prune(unreferenced=False, grace=0).files == ()
    assert cache.prune(grace=-1).files == (cache.path(young.digest),)


def test_gc_deletes_old_unreferenced_blobs_and_unfinished_transfers(cache):
    artifact(cache, {"a": b"1"})
    old, young = layer(b"old"), layer(b"young")
    cache.push_bytes(old, b"old")
    cache.push_bytes(young, b"young")
    (cache.root / "partial" / "part").write_bytes(b"1234")
    for path in (*(cache.root / "blobs" / "sha256").iterdir(), cache.root / "partial" / "part"):
        if path != cache.path(young.digest):
            age(path, 4000)
    plan = cache.gc(dry_run=True)
    assert (plan.dry_run, plan.digests, plan.partial, plan.size) == (True, (old.digest,), 1, 7)
    assert cache.exists(old)
    result = plan.run()
    assert (result.dry_run, result.digests, result.partial, result.size) == (False, (old.digest,), 1, 7)
    assert not cache.exists(old)
    assert cache.exists(young)
    assert cache.verify().checked == 4
    assert cache.gc().size == 0


def test_prune_deletes_old_unfinished_transfers(cache):
    cache.push_bytes(layer(b"x"), b"x")
    parts = cache.root / "partial"
    (parts / "young").write_bytes(b"12")
    (parts / "old").write_bytes(b"123")
    (parts / "snapshot.old" / "deep").mkdir(parents=True)
    (parts / "snapshot.old" / "deep" / "file").write_bytes(b"1234")
    age(parts / "old", 4000)
    age(parts / "snapshot.old", 4000)
    plan = cache.prune()
    assert plan.bytes == 7
    assert plan.run() == 7
    assert [p.name for p in parts.iterdir()] == ["young"]


def test_prune_without_dry_run_deletes_at_once(cache):
    artifact(cache, {"old": b"o" * 100})
    age(cache.reference_path(REF), 10_000)
    assert cache.prune(older_than="1h", dry_run=True).names and cache.recall(REF) is not None
    plan = cache.prune(older_than="1h", dry_run=False)
    assert plan.bytes >= 100 and cache.recall(REF) is None and not any(path.exists() for path in plan.files)


@pytest.mark.parametrize("value", ["7", "soon", "7 days ago", "-1d", True, float("nan"), float("inf"), [7]])
def test_prune_with_invalid_age_deletes_nothing(cache, value):
    artifact(cache, {"old": b"o" * 100})
    with pytest.raises(InvalidArgument, match="older_than=.* is not a length of time") as caught:
        cache.prune(older_than=value, dry_run=False)
    assert '"7d"' in caught.value.hint and cache.recall(REF) is not None


def test_stopped_temporary_registries_are_apart_and_pruned(cache):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if port < 32_768:
            pytest.skip("the system gives other ports")
        here = Reference(registry=f"127.0.0.1:{port}", repository="a/b", tag="v1")
        artifact(cache, {"a": b"a" * 100}, reference=here)
        artifact(cache, {"b": b"b" * 100})
        age(cache.reference_path(here), 10_000)
        age(cache.reference_path(REF), 10_000)
        assert {r.name for r in cache.scan().repositories} == {here.name, REF.name} and cache.scan().closed == ()
        assert cache.prune(dry_run=False).names == ()
    info = cache.scan()
    assert [r.name for r in info.repositories] == [REF.name] and [r.name for r in info.closed] == [here.name]
    assert "stopped registries" in str(dict(info._facts()))
    assert cache.prune(unreferenced=False).names == cache.prune(keep=["127.0.0.1:*"]).names == ()
    assert cache.prune(grace=20_000).names == cache.prune(reference=REF.name).names[1:] == ()
    assert [name.repository for name in cache.prune(dry_run=False).names] == [here.name]
    assert cache.recall(here) is None and cache.recall(REF) is not None


def test_prune_by_age_deletes_tags_snapshots_and_their_blobs(cache):
    old = artifact(cache, {"shared": b"s" * 10, "old": b"o" * 100})
    new = artifact(cache, {"shared": b"s" * 10, "new": b"n" * 100}, reference=REF.tagged("v2"))
    old_folder, new_folder = cache.snapshot(REF, old), cache.snapshot(REF, new)
    age(cache.reference_path(REF), 10_000)
    age(old_folder, 9_000)
    assert cache.prune(older_than=9_500).names == cache.prune(older_than="3h").names == ()
    assert len(cache.prune(older_than="2 h").names) == 2
    plan = cache.prune(older_than=timedelta(hours=2))
    assert {str(n) for n in plan.names} == {str(REF), f"{REF.name}@{old.digest}"}
    assert plan.bytes >= 100 + old.size
    assert plan.run() == plan.bytes
    assert cache.recall(REF) is None
    assert not old_folder.exists()
    assert not cache.exists(layer(b"o" * 100))
    assert cache.exists(layer(b"s" * 10))
    assert tree(new_folder) == {"shared": b"s" * 10, "new": b"n" * 100}


def test_prune_of_one_reference_keeps_the_others(cache):
    first = artifact(cache, {"a": b"1" * 10})
    second = artifact(cache, {"a": b"2" * 10}, reference=REF.tagged("v2"))
    other = artifact(cache, {"a": b"3" * 10}, reference=Reference.parse("h.io/other:v1"))
    folders = [cache.snapshot(REF, first), cache.snapshot(REF, second)]
    plan = cache.prune(reference=str(REF), unreferenced=False)
    assert len(plan.names) == 2
    plan.run()
    assert not cache.exists(first.descriptor)
    assert [f.exists() for f in folders] == [False, True]
    assert cache.recall(REF.tagged("v2")) is not None
    cache.prune(reference=REF.name).run()
    assert not folders[1].exists()
    assert not (cache.root / "refs" / "localhost%3A5000").exists()
    assert cache.exists(other.descriptor)


def test_prune_keeps_digest_that_another_tag_references(cache):
    manifest = artifact(cache, {"a": b"1"})
    cache.remember(REF.tagged("same"), manifest.descriptor)
    folder = cache.snapshot(REF, manifest)
    cache.prune(reference=str(REF)).run()
    assert cache.recall(REF) is None
    assert folder.exists()
    assert cache.exists(manifest.descriptor)
    cache.prune(reference=f"{REF.name}@{manifest.digest}").run()
    assert not folder.exists()
    assert not cache.exists(manifest.descriptor)


@pytest.mark.parametrize("keep", [str(REF), REF, REF.name, "localhost:5000/*", "*:v1", "*/team/data"])
def test_prune_keeps_matching_references_with_their_snapshots(cache, keep):
    manifest = artifact(cache, {"a": b"1"})
    folder = cache.snapshot(REF, manifest)
    artifact(cache, {"b": b"2"}, reference=Reference.parse("h.io/other:v2"))
    cache.prune(older_than=-1, keep=[keep], grace=-1).run()
    assert cache.recall(REF) is not None
    assert tree(folder) == {"a": b"1"}
    assert cache.recall(Reference.parse("h.io/other:v2")) is None
    assert cache.verify().checked == 3


def test_prune_keeps_content_used_after_the_plan(cache):
    manifest = artifact(cache, {"a": b"1"})
    folder = cache.snapshot(REF, manifest)
    unnamed = artifact(cache, {"b": b"2"}, reference=None)
    for path in (cache.root / "blobs" / "sha256").iterdir():
        age(path, 5000)
    age(cache.reference_path(REF), 5000)
    age(folder, 5000)
    plan = cache.prune(older_than=10)
    assert len(plan.names) == 2
    cache.remember(REF, manifest.descriptor)
    cache.snapshot(REF, manifest)
    cache.remember(REF.tagged("new"), unnamed.descriptor)
    plan.run()
    assert tree(folder) == {"a": b"1"}
    assert cache.exists(manifest.descriptor)
    assert cache.exists(unnamed.descriptor)
    assert all(cache.exists(layer) for layer in unnamed.layers)


def test_open_blob_stays_readable_during_prune(cache):
    blob = layer(b"content")
    cache.push_bytes(blob, b"content")
    with cache.open(blob) as stream:
        assert stream.read(3) == b"con"
        cache.prune(grace=-1).run()
        assert not cache.exists(blob)
        assert stream.read() == b"tent"


def test_hard_links_are_counted_once(cache):
    manifest = artifact(cache, {"a": b"1" * 1000})
    folder = cache.snapshot(REF, manifest)
    if (folder / "a").stat().st_nlink != 2:
        pytest.skip("this file system made no hard link")
    plan = cache.prune(reference=str(REF))
    note = cache.reference_path(REF).stat().st_size
    assert plan.bytes == 1000 + manifest.size + 2 + note
    assert plan.run() == plan.bytes


def test_delete_of_a_manifest_deletes_its_tags(cache):
    manifest = artifact(cache, {"a": b"1"})
    cache.remember(REF.tagged("same"), manifest.descriptor)
    cache.delete(manifest.descriptor)
    assert cache.recall(REF) is None
    assert cache.recall(REF.tagged("same")) is None


def test_new_cache_is_private_and_existing_keeps_its_mode(tmp_path):
    private, shared = Cache(tmp_path / "new" / "cache"), Cache(tmp_path / "shared")
    shared.root.mkdir()
    shared.root.chmod(0o2775)
    for cache in (private, shared):
        cache.push(Descriptor.of(b"content", "text/plain"), io.BytesIO(b"content"))
    assert stat.S_IMODE(private.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(shared.root.stat().st_mode) == 0o2775
    assert (shared.root / "blobs").stat().st_mode & 0o005 == 0o005
