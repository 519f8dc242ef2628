"""What an artifact cannot hold is kept in another way, or named in the summary."""

import os

import ocikit
import pytest
from ocikit.spec import media_types

from tests.support.home import cli, tree, write


def test_executable_file_stays_executable(server, session, home):
    write(home, {"data/run.sh": "#!/bin/sh", "data/copy.sh": "#!/bin/sh", "data/a.csv": "x"})
    (home / "data/run.sh").chmod(0o700)
    (home / "data/copy.sh").chmod(0o711)
    art = session.push(f"{server.host}/t/d:v1", "data")
    assert {name: file.descriptor.annotations.get("io.ocikit.mode") for name, file in art.files.items()} == {
        "data/a.csv": None,
        "data/copy.sh": "0755",
        "data/run.sh": "0755",
    }
    for folder in ("out", "out"):
        session.pull(art.reference, folder)
        assert [os.access(home / "out/data" / name, os.X_OK) for name in ("run.sh", "copy.sh", "a.csv")] == [
            True,
            True,
            False,
        ]
        (home / "out/data/run.sh").chmod(0o644)


@pytest.mark.parametrize("mode", ["x", "", "9999", "0o755", "-1", "1" * 5000])
def test_invalid_mode_annotation_is_ignored(mode):
    annotations = {"io.ocikit.mode": mode}
    assert not ocikit.Descriptor.of(b"", "text/plain", annotations=annotations).is_executable


def test_mode_annotation_sets_permission_to_execute_only(server, session, home):
    layer = ocikit.Descriptor.of(
        b"x", "text/plain", annotations={"org.opencontainers.image.title": "a", "io.ocikit.mode": "6777"}
    )
    manifest = ocikit.Manifest(config=ocikit.Descriptor.of(b"{}", "a/b"), layers=(layer,))
    server.blob("t/d", b"x"), server.blob("t/d", b"{}")
    server.manifest("t/d", manifest.raw, "v1")
    session.pull(f"{server.host}/t/d:v1", "out")
    plain = write(home, {"plain": "p"}) / "plain"
    readable = plain.stat().st_mode & 0o444
    assert (home / "out/a").stat().st_mode & 0o7777 == plain.stat().st_mode & 0o7777 | readable >> 2


def test_empty_folders_are_named_in_summary_of_push(server, session, home):
    write(home, {"data/a.csv": "x", "data/full/b": "y"})
    (home / "data/logs/deep").mkdir(parents=True)
    art = session.push(f"{server.host}/t/d:v1", "data")
    assert art.summary.endswith("; empty folders are not pushed: data/logs/deep/ (archive= keeps them)")
    assert "empty" not in session.push(f"{server.host}/t/d:v1", "data", archive="tar").summary
    assert "empty" not in session.push(f"{server.host}/t/d:v1", "data/full").summary
    session.pull(f"{server.host}/t/d:v1", "out")


def test_foreign_layers_are_named_in_summary_of_pull_and_copy(server, session, home):
    foreign = ocikit.Descriptor.of(b"far away", media_types.DOCKER_FOREIGN_LAYER)
    layer = ocikit.Descriptor.of(b"x", media_types.DOCKER_LAYER)
    config = ocikit.Descriptor.of(b"{}", media_types.DOCKER_CONFIG)
    manifest = ocikit.Manifest(media_type=media_types.DOCKER_MANIFEST, config=config, layers=(foreign, layer))
    server.blob("t/d", b"x"), server.blob("t/d", b"{}")
    server.manifest("t/d", manifest.raw, "v1", media_type=media_types.DOCKER_MANIFEST)
    ref = f"{server.host}/t/d:v1"
    said = "; left out: 1 foreign layer, which registries do not store"
    for art in (session.pull(ref), session.pull(ref, "out"), session.copy(ref, "oci:store:v1")):
        assert said in art.summary


def signed(session, host, home):
    """Push an artifact with a signature and an attestation of cosign, and return its reference."""
    write(home, {"a.csv": "x", "signature": "s"})
    art = session.push(f"{host}/t/d:v1", "a.csv")
    name = art.digest.replace(":", "-")
    for suffix in ("sig", "att"):
        session.push(f"{host}/t/d:{name}.{suffix}", "signature", annotations={"kind": suffix})
    return f"{host}/t/d:v1", name


def test_cosign_tags_are_named_in_summary_of_copy(server, session, home):
    ref, name = signed(session, server.host, home)
    copied = session.copy(ref, "oci:store:v1", referrers=True)
    assert copied.summary.endswith(f"; not copied: {name}.sig, {name}.att of cosign (cosign=True copies them)")
    assert list(session.tags("oci:store")) == ["v1"]
    assert "cosign" not in session.copy(ref, "oci:store:v1").summary


@pytest.mark.parametrize("referrers", [True, False])
def test_cosign_tags_are_copied_when_asked(referrers, server, session, home):
    ref, name = signed(session, server.host, home)
    copied = session.copy(ref, "oci:store:v1", referrers=referrers, cosign=True)
    assert sorted(session.tags("oci:store")) == sorted(["v1", f"{name}.sig", f"{name}.att"])
    assert "not copied" not in copied.summary
    session.pull(f"oci:store:{name}.sig", "out")
    assert tree(home / "out") == {"signature": b"s"}


def test_cosign_tags_of_manifests_in_index_are_copied(server, session, home):
    ref, name = signed(session, server.host, home)
    inner = session.inspect(ref).descriptor
    index = ocikit.Index(manifests=(inner,))
    server.manifest("t/d", index.raw, "index", media_type=media_types.OCI_INDEX)
    session.copy(f"{server.host}/t/d:index", "oci:store:index", cosign=True)
    assert f"{name}.sig" in session.tags("oci:store")


def test_command_line_copies_cosign_tags(server, session, home):
    ref, name = signed(session, server.host, home)
    done = cli("copy", "--cosign", ref, "oci:store:v1", cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"{name}.sig" in session.tags("oci:store")
