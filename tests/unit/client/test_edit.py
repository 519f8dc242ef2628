"""Edits change artifacts in place of their tags without downloading what stays."""

import os

import ocikit
import pytest
from ocikit.client import commit as commits
from ocikit.spec import media_types
from ocikit.spec.annotations import BASE_DIGEST, BASE_NAME

from tests.support.home import moved, write

FILES = {"a.csv": b"x,y\n1,2\n", "deep/b.txt": b"b", "old.tmp": b"t"}


@pytest.fixture
def ref(session, server, home, monkeypatch):
    monkeypatch.setattr(commits, "_LOOK", 0.01)
    write(home, FILES)
    session.push(f"{server.host}/ds:v1", "a.csv", "deep", "old.tmp", annotations={"k": "v"})
    server.requests.clear()
    return f"{server.host}/ds:v1"


def content(session, ref):
    artifact = session.inspect(ref)
    return {name: file.read() for name, file in artifact.files.items()}


def test_edit_adds_replaces_removes_renames_and_annotates(session, ref, home):
    write(home, {"n/x": "1", "n/y": "2", "local.csv": "local"})
    before = session.pin(ref).digest
    with session.edit(ref) as e:
        e["a.csv"] = "local.csv"
        e["bytes"] = b"raw"
        assert e.add("n") == ("n/x", "n/y")
        e.rename("deep/b.txt", "c.txt")
        assert e.remove("*.tmp") == ("old.tmp",)
        e.annotations["k"] = "new"
        e.annotations["more"] = "m"
        assert e["bytes"].read() == b"raw" and e["c.txt"].read() == b"b"
        assert "old.tmp" not in e and len(e) == 5
    assert content(session, ref) == {"a.csv": b"local", "c.txt": b"b", "bytes": b"raw", "n/x": b"1", "n/y": b"2"}
    assert e.artifact.annotations == {"k": "new", "more": "m", BASE_DIGEST: before, BASE_NAME: ref}
    assert e.artifact.digest == session.pin(ref).digest
    assert str(e.plan) == "3 added, 1 replaced, 1 removed, 1 renamed, annotations set"
    assert e.artifact.summary.startswith("edited: 3 added, 1 replaced")


def test_rename_costs_three_requests_and_no_content(session, ref, server, monkeypatch):
    monkeypatch.setattr(commits, "_FRESH", 60)
    for conditions, requests in ((True, ["GET", "PUT", "PUT"]), (False, ["GET", "PUT", "HEAD"])):
        server.conditions = conditions
        with ocikit.Session(progress=False) as fresh, fresh.edit(ref) as e:
            e.rename(next(iter(e)), f"renamed-{conditions}")
        assert moved(server) == [f"{method} manifests" for method in requests]


def test_exception_leaves_the_tag(session, ref, server):
    before = session.pin(ref)
    server.requests.clear()
    with pytest.raises(RuntimeError), session.edit(ref) as e:
        e["x"] = b"x"
        raise RuntimeError
    assert "PUT manifests" not in moved(server)
    assert (session.pin(ref), e.artifact) == (before, None)
    with pytest.raises(ocikit.InvalidArgument, match="ended"):
        e["x"] = b"x"


def test_changes_of_others_are_merged(session, ref):
    with session.edit(ref) as mine, session.edit(ref) as theirs:
        mine["mine"] = b"1"
        theirs["theirs"] = b"2"
    assert set(content(session, ref)) == {*FILES, "mine", "theirs"}


def test_same_file_changed_on_both_sides_is_a_conflict(session, ref):
    with pytest.raises(ocikit.Conflict) as caught, session.edit(ref) as mine:
        mine["a.csv"] = b"mine"
        mine["more"] = b"more"
        with session.edit(ref) as theirs:
            theirs["a.csv"] = b"theirs"
    assert caught.value.titles == ("a.csv",)
    assert caught.value.theirs == theirs.artifact.digest
    assert content(session, ref)["a.csv"] == b"theirs"


def test_wrong_content_and_target_have_advice(session, ref, server):
    with session.edit(ref, dry_run=True) as e, pytest.raises(ocikit.InvalidArgument, match="content of type int"):
        e["a"] = 3
    with pytest.raises(ocikit.InvalidArgument) as caught:
        session.edit(ref, to="v2")
    assert f"to='{server.host}/ds:v2'" in caught.value.hint


def test_unexpected_digest_is_a_conflict(session, ref, server):
    old = session.inspect(ref)
    with session.edit(ref, expect=old) as e:
        e["x"] = b"1"
    with pytest.raises(ocikit.Conflict), session.edit(ref, expect=old.digest) as late:
        late["y"] = b"1"
    with pytest.raises(ocikit.Conflict), session.edit(ref, expect=e.artifact) as mine:
        mine["mine"] = b"1"
        with session.edit(ref) as theirs:
            theirs["theirs"] = b"1"
    assert session.pin(ref).digest == theirs.artifact.digest


def test_dry_run_sends_nothing(session, ref, server, home):
    with session.edit(ref, dry_run=True) as e:
        e["x"] = b"12345"
        e.add("deep")
        del e["a.csv"]
        with pytest.raises(ocikit.InvalidArgument):
            str(e.url)
    assert {request.method for request in server.requests} == {"GET"}
    assert (list(e.plan.added), list(e.plan.removed), e.plan.size) == (["x"], ["a.csv"], 5)
    assert e.artifact.plan is e.plan
    assert "1 added, 1 removed" in repr(e.plan)


def test_result_in_another_repository_is_mounted(session, ref, server):
    with session.edit(ref, to=f"{server.host}/other:v2", tags=["latest"]) as e:
        e["x"] = b"x"
        del e["old.tmp"]
    assert set(content(session, f"{server.host}/other:latest")) == {"a.csv", "deep/b.txt", "x"}
    assert content(session, f"{server.host}/other:v2") == content(session, f"{server.host}/other:latest")
    assert set(content(session, ref)) == set(FILES)
    assert not [r for r in server.requests if r.method == "GET" and "/ds/blobs/" in r.path and r.target.endswith("b")]


def test_other_tag_keeps_the_first(session, ref, server):
    before = session.pin(ref)
    with session.edit(ref, to=f"{server.host}/ds:v2") as e:
        e["a.csv"] = b"2"
    assert session.pin(ref) == before
    assert content(session, f"{server.host}/ds:v2")["a.csv"] == b"2"
    with session.edit(str(before), to=f"{server.host}/ds:v2") as again:
        pass
    assert again.artifact.digest == before.digest


def test_missing_artifact_is_created(session, server, home):
    with session.edit(f"{server.host}/new:v1") as e:
        assert dict(e) == {}
        e["a"] = b"a"
    assert content(session, f"{server.host}/new:v1") == {"a": b"a"}


def test_layout_is_edited(session, home):
    write(home, FILES)
    session.push("oci:layout:v1", "a.csv")
    with session.edit("oci:layout:v1") as e:
        e["b"] = b"b"
    assert content(session, "oci:layout:v1") == {"a.csv": FILES["a.csv"], "b": b"b"}


def test_config_is_replaced(session, ref, server):
    with session.edit(ref) as e:
        e.config = {"a": 1}
        assert e.config == {"a": 1}
    assert session.inspect(ref).config == {"a": 1}
    assert session.inspect(ref).manifest.config.media_type == "application/json"


def test_attachments_of_the_version_before_are_named(session, ref, home):
    write(home, {"report.json": "{}"})
    session.attach(ref, "report.json", artifact_type="application/x.report")
    before = session.pin(ref)
    with session.edit(ref) as e:
        e["x"] = b"x"
    assert "1 attachment of the version before (application/x.report)" in e.artifact.summary
    assert before.digest.short in e.artifact.summary


@pytest.mark.parametrize("title", ["../x", "/etc/passwd", ".ocikit/manifest.json", ""])
def test_unsafe_name_is_refused(session, ref, title):
    with pytest.raises(ocikit.UnsafeArchive), session.edit(ref) as e:
        e[title] = b"x"


def test_missing_file_is_named(session, ref):
    with session.edit(ref) as e:
        for call in (lambda: e["a.cvs"], lambda: e.rename("a.cvs", "b"), lambda: e.pop("a.cvs")):
            with pytest.raises(KeyError) as caught:
                call()
            assert "a.csv" in caught.value.hint
        assert e.get("a.cvs") is None


def test_secret_is_refused(session, ref, home):
    write(home, {".env": "KEY=1"})
    with pytest.raises(ocikit.ContentError, match="secret"), session.edit(ref) as e:
        e.add(".env")


def test_pinned_reference_expects_its_digest(session, ref):
    pinned = session.pin(ref)
    with session.edit(ref) as e:
        e["x"] = b"x"
    with pytest.raises(ocikit.Conflict), session.edit(str(pinned)) as late:
        late["y"] = b"y"
    with pytest.raises(ocikit.InvalidReference):
        session.edit(f"{pinned.name}@{pinned.digest}")


def test_image_is_refused(session, server):
    config = server.blob("a/b", b"{}")
    image = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {"mediaType": media_types.OCI_CONFIG, "digest": config, "size": 2},
        "layers": [],
    }
    server.manifest("a/b", image, "v1")
    with pytest.raises(ocikit.InvalidDocument, match="image"), session.edit(f"{server.host}/a/b:v1") as e:
        e["x"] = b"x"


def test_edit_of_nothing_creates_no_artifact(session, server, home):
    with pytest.raises(ocikit.ManifestUnknown), session.edit(f"{server.host}/ds:typo") as e:
        assert e.remove("*.tmp") == ()
    assert server.tags == {}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process")
def test_forked_child_cannot_change_an_edit(session, ref):
    """Its parent would not see the change: the file would be lost without an error."""
    with session.edit(ref) as e:
        child = os.fork()
        if not child:
            try:
                e["x"] = b"x"
            except ocikit.InvalidArgument:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_cache_folder_of_a_commit_is_private(session, server, home):
    with session.edit(f"{server.host}/new:v1") as e:
        e["a"] = b"a"
    assert session.cache.root.stat().st_mode & 0o077 == 0
    assert (session.cache.root / "CACHEDIR.TAG").exists()
