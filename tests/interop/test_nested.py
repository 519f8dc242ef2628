"""Nested indexes in real registries, and through other clients."""

import ocikit
import pytest
from ocikit.client import push

from tests.support import peers
from tests.support.home import tree, write

FILES = {f"images/{n % 5}/{n:03}.bin": b"%d" % n for n in range(100)}


@pytest.fixture
def ref(registry, repo, home, session, monkeypatch):
    monkeypatch.setattr(push, "_NESTED_FILES", 30)
    write(home, FILES)
    reference = registry.reference(repo)
    session.push(reference, "images", index=True)
    return reference


def test_registry_keeps_a_nested_index(ref, home, session, tmp_path):
    before = session.inspect(ref)
    assert tree(session.pull(ref, tmp_path / "out").path) == FILES
    (home / "images/3/003.bin").write_bytes(b"new")
    after = session.push(ref, "images", index=True)
    changed = {child.digest for child in after.index.manifests} - {child.digest for child in before.index.manifests}
    assert len(changed) == 1
    with ocikit.Session(progress=False, cache=home.parent / "reader") as reader:
        assert tree(reader.pull(ref, tmp_path / "out").path) == FILES | {"images/3/003.bin": b"new"}
        assert session.validate(ref).ok


@pytest.mark.peers("oras", "crane")
def test_other_clients_copy_a_nested_index(ref, registry, session, tmp_path):
    name, _, tag = ref.rpartition(":")
    peers.run("oras", "cp", "-r", "--from-plain-http", "--to-plain-http", ref, f"{name}-oras:{tag}")
    peers.run("crane", "copy", "--insecure", ref, f"{name}-crane:{tag}")
    for other in ("oras", "crane"):
        copied = session.inspect(f"{name}-{other}:{tag}")
        assert copied.digest == session.inspect(ref).digest
        assert tree(copied.pull(tmp_path / other).path) == FILES


@pytest.mark.peers("oras")
def test_oras_pulls_a_manifest_of_a_nested_index(ref, session, tmp_path):
    index = session.inspect(ref).index
    for child in index.manifests:
        peers.run("oras", "pull", "--plain-http", f"{ref.rpartition(':')[0]}@{child.digest}", "-o", tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
