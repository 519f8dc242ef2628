"""Differences between two versions are those of their manifests, and between an artifact and a folder those of its files."""

import json
import os
import pickle
import shutil
from pathlib import Path

import ocikit
import pytest
from ocikit.data.diff import compare
from ocikit.data.sides import Side

from tests.support import images
from tests.support.cards import harmless
from tests.support.home import cli, moved, write

TITLE = "org.opencontainers.image.title"


def layer(title, content=b"", media_type="text/plain", **notes):
    return ocikit.Descriptor.of(content, media_type, annotations={TITLE: title} | notes)


def manifest(*layers, **more):
    return ocikit.Manifest(
        config=ocikit.Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json"), layers=layers, **more
    )


def between(before, after):
    sides = [Side(name="a", files=dict(m.named.files), manifest=m) for m in (before, after)]
    return compare(*sides)


@pytest.fixture
def count():
    """Number of files."""
    return 40


@pytest.fixture
def files(home, count):
    return write(home, {f"ds/{i:04}.csv": f"{i}\n" for i in range(count)})


@pytest.fixture
def versions(session, server, files):
    """Two versions: one file added, one removed, one changed, one renamed."""
    first = session.push(f"{server.host}/t/ds:v1", "ds").reference
    write(files, {"ds/new.csv": "new\n", "ds/0007.csv": "changed\n"})
    (files / "ds/0001.csv").unlink()
    (files / "ds/0002.csv").rename(files / "ds/two.csv")
    second = session.push(f"{server.host}/t/ds:v2", "ds").reference
    server.requests.clear()
    return f"{first.name}:v1", f"{second.name}:v2"


# Two artifacts


@pytest.mark.parametrize("count", [1000])
def test_four_changes_among_1000_files_are_found(session, server, versions):
    found = ocikit.diff(*versions, session=session)
    assert len(moved(server)) <= 4
    assert list(found.added) == ["ds/new.csv"]
    assert list(found.removed) == ["ds/0001.csv"]
    assert list(found.changed) == ["ds/0007.csv"]
    assert [(r.before, r.after) for r in found.renamed] == [("ds/0002.csv", "ds/two.csv")]
    assert (found.same, found.bytes_to_fetch) == (997, len("new\n") + len("changed\n"))
    assert found.changed["ds/0007.csv"].delta == len("changed\n") - len("7\n")
    assert found
    assert ocikit.diff(*versions, session=session).same == 997
    assert len(moved(server)) == 2  # only the tags


def test_artifacts_cost_no_request(session, server, versions):
    first, second = (session.inspect(ref) for ref in versions)
    server.requests.clear()
    assert len(ocikit.diff(first, second, session=session).added) == 1
    assert moved(server) == []


def test_equal_versions_are_false(session, versions):
    found = ocikit.diff(versions[0], versions[0], session=session)
    assert not found
    assert (found.same, found.bytes_to_fetch, found.added) == (40, 0, {})
    assert str(found) == "40 the same"


def test_patterns_select_files_of_both_sides(session, versions):
    found = ocikit.diff(*versions, include="ds/*.csv", exclude=["ds/0*"], session=session)
    assert (list(found.added), found.renamed, found.same) == (["ds/new.csv", "ds/two.csv"], (), 0)


def test_json_has_the_keys_of_dvc(session, versions):
    value = json.loads(ocikit.diff(*versions, session=session).to_json())
    digests = {text: str(ocikit.Digest.of(text.encode())) for text in ("new\n", "1\n", "7\n", "changed\n", "2\n")}
    assert value["added"] == [{"path": "ds/new.csv", "hash": digests["new\n"], "size": 4}]
    assert value["deleted"] == [{"path": "ds/0001.csv", "hash": digests["1\n"], "size": 2}]
    hashes = {"old": digests["7\n"], "new": digests["changed\n"]}
    assert value["modified"] == [{"path": "ds/0007.csv", "hash": hashes, "size": {"old": 2, "new": 8}}]
    paths = {"old": "ds/0002.csv", "new": "ds/two.csv"}
    assert value["renamed"] == [{"path": paths, "hash": digests["2\n"], "size": 2}]
    assert (value["same"], value["bytes_to_fetch"]) == (37, 12)


def test_annotations_config_and_type_are_compared():
    before = manifest(layer("a"), annotations={"version": "1", "old": "x"}, artifact_type="application/a")
    config = ocikit.Descriptor.of(b'{"a": 1}', "application/json")
    after = ocikit.Manifest(config=config, layers=(layer("a"),), annotations={"version": "2", "new": "y"})
    found = between(before, after)
    assert found.annotations == {"version": ("1", "2"), "old": ("x", None), "new": (None, "y")}
    assert found.config == (before.config, config)
    assert found.kind == ("application/a", "application/json")
    assert (found.same, found.bytes_to_fetch) == (1, config.size)
    assert found
    assert "version: 1 → 2" in str(found)


def test_same_content_of_another_type_is_a_change():
    found = between(manifest(layer("a")), manifest(layer("a", media_type="text/csv")))
    assert found.changed["a"].same_content
    assert found.bytes_to_fetch == 0
    assert "text/plain → text/csv" in str(found)
    found = between(manifest(layer("run.sh")), manifest(layer("run.sh", **{"io.ocikit.mode": "0755"})))
    assert "~ run.sh" in str(found)
    assert "executable" in str(found)


def test_copy_of_a_file_costs_nothing_to_fetch():
    found = between(manifest(layer("a", b"x")), manifest(layer("a", b"x"), layer("b", b"x")))
    assert (list(found.added), found.renamed, found.bytes_to_fetch) == (["b"], (), 0)


def test_renames_are_one_to_one_and_nearest_first():
    before = manifest(*(layer(f"{name}", b"same") for name in ("old/x.csv", "old/y.csv", "logs/train.log", "gone")))
    after = manifest(*(layer(f"{name}", b"same") for name in ("new/y.csv", "new/x.csv", "logs/training.log")))
    found = between(before, after)
    assert [(r.before, r.after) for r in found.renamed] == [
        ("logs/train.log", "logs/training.log"),
        ("old/x.csv", "new/x.csv"),
        ("old/y.csv", "new/y.csv"),
    ]
    assert list(found.removed) == ["gone"]
    assert not found.added


def test_renames_of_many_equal_files_take_linear_time():
    before = manifest(*(layer(f"a{i}", b"same") for i in range(4000)))
    after = manifest(*(layer(f"b{i}", b"same") for i in range(4000)))
    assert len(between(before, after).renamed) == 4000


def test_titles_that_cannot_be_files_are_compared_by_digest():
    before, after = manifest(layer("/etc/passwd", b"1"), layer("a")), manifest(layer("/etc/passwd", b"2"), layer("a"))
    sides = []
    for document in (before, after):
        extra = {d.digest: d for d, _ in document.named.unusable}
        sides.append(Side(name="x", files={**document.named.files, **extra}, manifest=document))
    found = compare(*sides)
    assert (len(found.added), len(found.removed), found.same) == (1, 1, 1)


def test_index_is_compared_for_a_platform(session, server, home):
    images.small(home / "image")
    with pytest.raises(ocikit.NoMatchingPlatform):
        ocikit.diff("oci:image", "oci:image", platform="plan9/mips", session=session)
    assert not ocikit.diff("oci:image", "oci:image", session=session)


# Views


def test_folder_with_more_than_20_changes_is_one_row():
    before = manifest(layer("README", b"1"), *(layer(f"img/train/{i}.png", b"%d" % i) for i in range(25)))
    after = manifest(layer("README", b"2"), *(layer(f"img/test/{i}.png", b"t%d" % i) for i in range(15)))
    found = between(before, after)
    lines = str(found).splitlines()
    assert len(lines) == 1 + 1 + 15 + 1 + 1  # counts, README, single files, one folder, bytes
    assert any(line.startswith("± img/train/") and line.endswith("25 removed") for line in lines)
    assert len(json.loads(found.to_json())["deleted"]) == 25
    assert harmless(found._repr_html_())
    assert pickle.loads(pickle.dumps(found)) == found


def test_nested_folders_are_summed_up_together():
    after = manifest(*(layer(f"d/{i}/{j}/a", b"%d %d" % (i, j)) for i in range(30) for j in range(30)), layer("x"))
    lines = str(between(manifest(), after)).splitlines()
    assert lines[1].startswith("± d/")
    assert lines[1].endswith("900 added")
    assert lines[2].startswith("+ x")


def test_hostile_titles_are_shown_harmlessly():
    deep = "/".join("a" * 1900)
    found = between(manifest(), manifest(layer("\x1b[31m<b>x"), *(layer(f"{deep}/{i}", b"%d" % i) for i in range(30))))
    assert "\x1b" not in str(found)
    assert harmless(found._repr_html_())


# A folder


def test_unedited_folder_of_a_pull_does_not_differ(session, server, versions, home):
    session.pull(versions[0], "out")
    server.requests.clear()
    for path in ("out", "out/", "./out", Path("out"), home / "out"):
        assert not ocikit.diff(versions[0], path, session=session)
    assert set(moved(server)) <= {"HEAD manifests", "GET manifests"}


def test_edits_of_a_pulled_folder_are_found(session, versions, home):
    session.pull(versions[0], "out")
    (home / "out/ds/0000.csv").write_text("edited\n")
    (home / "out/ds/0001.csv").rename(home / "out/moved.csv")
    write(home, {"out/.git/config": "x", "out/ds/new.csv": "n"})
    found = ocikit.diff(versions[0], "out", session=session)
    assert (list(found.added), list(found.changed)) == (["ds/new.csv"], ["ds/0000.csv"])
    assert [(r.before, r.after) for r in found.renamed] == [("ds/0001.csv", "moved.csv")]
    assert (found.same, found.b, found.annotations, found.config) == (38, "out", {}, None)


def test_record_spares_the_hash_of_unedited_files(session, versions, home, monkeypatch):
    session.pull(versions[0], "out")
    (home / "out/ds/0000.csv").write_text("edited\n")
    hashed = []
    real = ocikit.data.sides.hash_file
    monkeypatch.setattr("ocikit.data.sides.hash_file", lambda path, *rest: hashed.append(path) or real(path, *rest))
    ocikit.diff(versions[0], "out", session=session)
    assert [path.name for path in hashed] == ["0000.csv"]


def test_folder_is_compared_with_the_titles_of_a_push(session, server, home):
    write(home, {"waves/sine.csv": "1", "waves/.ipynb_checkpoints/x": "y", "waves/deep/b": "2"})
    named = session.push(f"{server.host}/t/d:v1", "waves")
    bare = session.push(f"{server.host}/t/d:v2", "waves/.")
    assert not ocikit.diff(named, "waves/", session=session)
    assert not ocikit.diff(bare, "waves/.", session=session)
    assert not ocikit.diff(named, home / "waves", session=session)
    assert len(ocikit.diff(bare, "waves/", session=session).renamed) == 2
    os.chdir("waves")
    assert not ocikit.diff(bare, ".", session=session)


def test_hidden_files_of_the_artifact_are_compared(session, server, home):
    write(home, {"waves/sine.csv": "1", "waves/.git/config": "2"})
    pushed = session.push(f"{server.host}/t/d:v1", "waves", hidden=True)
    assert not ocikit.diff(pushed, "waves/", session=session)
    shutil.rmtree("waves/.git")
    assert list(ocikit.diff(pushed, "waves/", session=session).removed) == ["waves/.git/config"]


def test_link_out_of_the_folder_is_not_followed(session, server, home):
    write(home, {"waves/a": "1", "waves/.git/config": "2", "secret/config": "3"})
    pushed = session.push(f"{server.host}/t/d:v1", "waves", hidden=True)
    shutil.rmtree("waves/.git")
    os.symlink(home / "secret", "waves/.git")
    assert list(ocikit.diff(pushed, "waves/", session=session).removed) == ["waves/.git/config"]


def test_unpacked_archive_is_compared_file_by_file(session, server, home):
    write(home, {"waves/a.csv": "1", "waves/b.csv": "2", "waves/run.sh": "3"})
    (home / "waves/run.sh").chmod(0o755)
    os.symlink("a.csv", home / "waves/link")
    pushed = session.push(f"{server.host}/t/d:v1", "waves", archive="tar+gzip")
    session.pull(pushed, "out")
    assert not ocikit.diff(pushed, "out", session=session)
    (home / "out/waves/b.csv").write_text("edited")
    found = ocikit.diff(pushed, "out", session=session)
    assert (list(found.changed), found.same) == (["waves/b.csv"], 3)


def test_members_of_pulled_shards_are_compared(session, server, home):
    write(home, {f"images/{i}.txt": f"{i}" for i in range(30)})
    pushed = session.push(f"{server.host}/t/d:v1", "images", shards="zip")
    session.pull(pushed, "out")
    assert not ocikit.diff(pushed, "out", session=session)
    (home / "out/images/7.txt").write_text("edited")
    assert list(ocikit.diff(pushed, "out", session=session).changed) == ["images/7.txt"]


def test_mode_of_a_file_on_disk_is_compared(session, server, home):
    write(home, {"run.sh": "#!/bin/sh"})
    pushed = session.push(f"{server.host}/t/d:v1", "run.sh")
    assert not ocikit.diff(pushed, Path("run.sh"), session=session)
    (home / "run.sh").chmod(0o755)
    assert ocikit.diff(pushed, "run.sh", session=session).changed["run.sh"].same_content


def test_missing_folder_and_wrong_order_are_errors(session, server, home):
    write(home, {"waves/a": "1"})
    pushed = session.push(f"{server.host}/t/d:v1", "waves")
    with pytest.raises(ocikit.NotFound):
        ocikit.diff(pushed, "missing/", session=session)
    with pytest.raises(ocikit.InvalidArgument, match="must be an artifact"):
        ocikit.diff("waves/", pushed, session=session)
    with pytest.raises(ocikit.NotFound):
        ocikit.diff(pushed, f"{server.host}/t/d:v9", session=session)


def test_shared_session_is_used_without_one(versions, server):
    server.requests.clear()
    assert ocikit.diff(*versions).same == 37


# The command line


def test_command_line_shows_differences(server, versions, home):
    run = cli("diff", *versions)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("1 added, 1 removed, 1 changed, 1 renamed, 37 the same\n")
    assert cli("diff", *versions, "--exit-code").returncode == 1
    run = cli("diff", versions[0], versions[0], "--exit-code", "--json")
    assert (run.returncode, json.loads(run.stdout)["added"]) == (0, [])
