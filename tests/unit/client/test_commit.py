"""Commits apply operations to what a tag names, so that no writer loses another's files."""

import io
import json
import threading
import time
from types import SimpleNamespace

import ocikit
import pytest
from ocikit.client import commit as commits
from ocikit.client.commit import Annotate, Draft, Drop, Guard, Put, Rename, commit, push_blob, read_base, titled
from ocikit.spec import media_types
from ocikit.store.layout.layout import Layout
from ocikit.store.memory import MemoryStore

from tests.support.home import moved


def layer(title, content=b""):
    return titled(ocikit.Descriptor.of(content or title.encode(), "text/plain"), title)


def put(store, title, content=b"", **options):
    """Return the operation for a file whose content is pushed."""
    made = layer(title, content)
    push_blob(store, made, lambda: io.BytesIO(content or title.encode()))
    return Put(layer=made, **options)


@pytest.fixture
def save(tmp_path):
    """Commit operations to the tag v1 of a store."""

    def saving(store, *operations, owner=None, tag="v1", **options):
        owner = store if owner is None else owner
        reference = ocikit.Reference.parse(f"h.example/r:{tag}")
        return commit(store, tag, operations, reference=reference, owner=owner, locks=tmp_path / "locks", **options)

    return saving


def files(store, tag="v1"):
    """Return the titles with their content."""
    manifest = store.document(store.resolve(tag))
    return {title: store.fetch(found) for title, found in manifest.named.files.items()}


@pytest.fixture(params=["registry", "without conditions", "layout", "memory"])
def store(request, server, repository, tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "_LOOK", 0.01)
    server.conditions = request.param == "registry"
    if request.param == "layout":
        return Layout(tmp_path / "layout")
    return MemoryStore() if request.param == "memory" else repository


def test_commit_creates_and_changes_an_artifact(store, save):
    first = save(store, put(store, "a"), put(store, "b/c"))
    assert first.before is None
    assert files(store) == {"a": b"a", "b/c": b"b/c"}
    second = save(store, put(store, "a", b"new"), Drop(title="b/c"), Annotate(key="k", value="v"))
    assert second.before == first.descriptor.digest
    assert files(store) == {"a": b"new"}
    assert second.manifest.annotations == {"k": "v"}
    third = save(store, Drop(title="a"), Annotate(key="k", value=None))
    assert files(store) == {}
    assert [blob.media_type for blob in third.manifest.layers] == [media_types.EMPTY]


def test_commit_without_a_change_pushes_nothing(server, repository, save):
    save(repository, put(repository, "a"))
    moved(server)
    assert save(repository, Put(layer=layer("a"))).before == repository.resolve("v1").digest
    assert "PUT manifests" not in moved(server)


def test_threads_lose_no_file_and_share_manifests(store, save, server):
    operations = [put(store, f"{n}/{i}") for n in range(8) for i in range(5)]
    moved(server)
    errors = []

    def write(part):
        try:
            for operation in part:
                save(store, operation)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(operations[n::8],)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(files(store)) == 40
    assert moved(server).count("PUT manifests") < 40


def test_rejected_condition_applies_operations_to_the_new_manifest(server, repository, save):
    save(repository, put(repository, "a"))
    base = read_base(repository, "v1")
    save(repository, put(repository, "b"), owner="another")
    operation = put(repository, "c")
    moved(server)
    save(repository, operation, base=base)
    assert set(files(repository)) == {"a", "b", "c"}


def test_replaced_manifest_is_merged_again(server, open_repository, save, monkeypatch, caplog):
    """A registry without conditions: another client reads before our push, and pushes after it."""
    monkeypatch.setattr(commits, "_LOOK", 0.01)
    server.conditions = False
    ours, theirs = open_repository(server, push=True), open_repository(server, push=True)
    save(ours, put(ours, "a"))
    old = read_base(theirs, "v1")
    draft = Draft(old.manifest)
    put(theirs, "theirs").apply(draft)
    other = draft.build()
    pauses = []

    def replaced_meanwhile(seconds):
        if not pauses:
            theirs.push_document(other.descriptor, other.raw, ["v1"])
        pauses.append(seconds)

    monkeypatch.setattr(commits, "time", SimpleNamespace(sleep=replaced_meanwhile, monotonic=time.monotonic))
    result = save(ours, put(ours, "ours"))
    assert set(files(ours)) == {"a", "ours", "theirs"}
    assert result.descriptor.digest == ours.resolve("v1").digest
    assert "merged again" in caplog.text


def test_deleted_tag_is_not_created_again(server, repository, save, monkeypatch):
    server.conditions = False
    clock = SimpleNamespace(sleep=lambda _: server.tags.clear(), monotonic=time.monotonic)
    monkeypatch.setattr(commits, "time", clock)
    save(repository, put(repository, "a"))
    assert server.tags == {}


def test_host_that_compares_other_etags_is_written_without_conditions(server, repository, save):
    save(repository, put(repository, "a"))
    operation = put(repository, "b")
    server.on("PUT", r"/v2/.*/manifests/v1", status=412)
    save(repository, operation)
    assert set(files(repository)) == {"a", "b"}
    assert repository.transport.conditional is False


def test_rename_moves_what_is_there(store, save):
    save(store, put(store, "a"))
    save(store, put(store, "a", b"newer"))
    save(store, Rename(before="a", after="b/a"))
    assert files(store) == {"b/a": b"newer"}
    with pytest.raises(ocikit.FileNotInArtifact):
        save(store, Rename(before="a", after="c"))


def test_failed_request_does_not_affect_its_group(store, save):
    """One writer's conflict is raised there only; the others' files are committed."""
    save(store, put(store, "a"))
    with pytest.raises(FileExistsError):
        save(store, put(store, "a", b"other", new=True))
    with pytest.raises(ocikit.Conflict) as caught:
        save(store, put(store, "a/b"))
    assert caught.value.titles == ("a", "a/b")
    assert files(store) == {"a": b"a"}


def test_guard_raises_conflict_and_leaves_the_tag(store, save):
    first = save(store, put(store, "a")).descriptor.digest
    second = save(store, Guard(digest=first), put(store, "a", b"2")).descriptor.digest
    with pytest.raises(ocikit.Conflict) as caught:
        save(store, Guard(digest=first), put(store, "b"))
    assert (caught.value.base, caught.value.theirs) == (first, second)
    with pytest.raises(ocikit.Conflict, match="a"):
        save(store, Guard(files={"a": (ocikit.Digest.of(b"a"), ocikit.Digest.of(b"3"))}), put(store, "a", b"3"))
    assert files(store) == {"a": b"2"}


def test_untitled_layers_and_unknown_keys_are_kept(server, repository, save):
    content = server.blob("a/b", b"raw")
    raw = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "artifactType": "application/x.test",
        "config": {"mediaType": media_types.EMPTY, "digest": server.blob("a/b", b"{}"), "size": 2},
        "layers": [
            {"mediaType": "text/plain", "digest": content, "size": 3},
            {
                "mediaType": "text/plain",
                "digest": content,
                "size": 3,
                "annotations": {"org.opencontainers.image.title": "/etc"},
            },
        ],
        "x-key": [1],
    }
    server.manifest("a/b", json.dumps(raw).encode(), "v1")
    made = json.loads(save(repository, put(repository, "a")).manifest.raw)
    assert made["layers"][:2] == raw["layers"]
    assert (made["x-key"], made["artifactType"]) == ([1], "application/x.test")


@pytest.mark.parametrize("kind", ["image", "index", "model"])
def test_documents_that_list_their_layers_are_refused(repository, save, kind):
    config = {"image": media_types.OCI_CONFIG, "model": "application/vnd.cncf.model.config.v1+json"}.get(kind)
    if kind == "index":
        document = ocikit.Index(manifests=())
    else:
        described = ocikit.Descriptor.of(b"{}", config)
        repository.push_bytes(described, b"{}")
        document = ocikit.Manifest(config=described, layers=())
    repository.push_document(document.descriptor, document.raw, ["v1"])
    with pytest.raises(ocikit.InvalidDocument) as caught:
        save(repository, put(repository, "a"))
    assert caught.value.hint
    assert repository.resolve("v1").digest == document.digest
