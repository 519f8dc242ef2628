"""Folders to pull to: what is moved, what stays, what is never overwritten, and titles that lead elsewhere."""

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import attrs
import pytest
from ocikit.errors import BlobUnknown, ContentError, DigestMismatch, SizeMismatch, UnsafeArchive
from ocikit.folder import folder as folder_module
from ocikit.folder.folder import Folder
from ocikit.spec import media_types as mt
from ocikit.spec.annotations import TITLE
from ocikit.spec.descriptor import EMPTY_DESCRIPTOR, Descriptor
from ocikit.spec.manifest import Manifest
from ocikit.spec.reference import LayoutReference, Reference
from ocikit.store.cache.cache import Cache

REF = Reference.parse("localhost:5000/team/data:v1")


def layer(content, title):
    return Descriptor.of(content, mt.OCTET_STREAM, annotations={TITLE: title})


def artifact(files):
    return Manifest(config=EMPTY_DESCRIPTOR, layers=[layer(content, title) for title, content in files.items()])


def pull(path, files, *, reference=REF, moved=None, **wishes):
    """Pull files by title; gives the plan. `moved` collects the digests that were transferred."""
    by_digest = {layer(content, "x").digest: content for content in files.values()}
    folder = Folder(path)
    manifest = artifact(files)
    plan = folder.plan(manifest, reference=reference, **wishes)
    folder.begin(plan)
    for transfer in plan.transfers:
        if moved is not None:
            moved.append(transfer.descriptor.digest)
        folder.place(transfer, io.BytesIO(by_digest[transfer.descriptor.digest]))
    folder.finish(manifest, reference)
    return plan


def tree(path):
    """Files and their bytes, ours left out."""
    return {
        p.relative_to(path).as_posix(): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and ".ocikit" not in p.parts
    }


def decisions(plan):
    return {f.title: f.decision for f in plan.files}


def edit(path, content):
    path.write_bytes(content)
    os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns + 10**9))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data"


FILES = {"a.csv": b"1" * 100, "deep/er/b.csv": b"2" * 200, "c.csv": b"3" * 300}


# What a pull does


def test_a_pull_makes_real_files_that_can_be_written(path):
    umask = os.umask(0o022)
    try:
        pull(path, FILES)
    finally:
        os.umask(umask)
    assert tree(path) == FILES
    for title in FILES:
        status = (path / title).lstat()
        assert (status.st_mode & 0o777, status.st_nlink) == (0o644, 1)
    assert list((path / ".ocikit" / "partial").iterdir()) == []


def test_the_users_umask_is_respected(path):
    umask = os.umask(0o077)
    try:
        pull(path, {"a": b"1"})
    finally:
        os.umask(umask)
    assert (path / "a").stat().st_mode & 0o777 == 0o600


def test_a_plan_changes_nothing(path):
    plan = Folder(path).plan(artifact(FILES))
    assert decisions(plan) == dict.fromkeys(FILES, "fetch")
    assert plan.size == 600
    assert not path.exists()
    assert repr(plan).startswith("FolderPlan(fetch=3, size=600 B, path=")


def test_a_second_pull_moves_nothing_and_writes_nothing(path):
    pull(path, FILES)
    before = {p: p.stat() for p in path.rglob("*") if p.is_file()}
    moved = []
    plan = pull(path, FILES, moved=moved)
    assert (moved, decisions(plan)) == ([], dict.fromkeys(FILES, "present"))
    assert {p: p.stat() for p in path.rglob("*") if p.is_file()} == before


def test_a_second_pull_reads_no_file_that_was_not_touched(path, monkeypatch):
    pull(path, FILES)
    monkeypatch.setattr("ocikit.folder.plan.hash_file", None)
    assert decisions(Folder(path).plan(artifact(FILES), reference=REF)) == dict.fromkeys(FILES, "present")


def test_a_pull_of_a_new_version_moves_only_what_changed(path):
    pull(path, FILES)
    inode = (path / "a.csv").stat().st_ino
    moved = []
    new = {"a.csv": FILES["a.csv"], "deep/er/b.csv": b"new", "d.csv": b"4"}
    plan = pull(path, new, moved=moved)
    assert decisions(plan) == {"a.csv": "present", "deep/er/b.csv": "replace", "d.csv": "fetch"}
    assert plan.removed == ("c.csv",)
    assert moved == [layer(b"new", "").digest, layer(b"4", "").digest]
    assert tree(path) == new
    assert (path / "a.csv").stat().st_ino == inode


def test_a_file_that_was_only_touched_is_not_an_edited_one(path):
    pull(path, FILES)
    os.utime(path / "a.csv", (1, 1))
    os.utime(path / "c.csv", (1, 1))
    plan = pull(path, {**FILES, "a.csv": b"new"})
    assert decisions(plan) == {"a.csv": "replace", "deep/er/b.csv": "present", "c.csv": "present"}
    assert Folder(path).record.files["c.csv"].mtime_ns == 10**9


def test_a_file_that_is_there_without_a_record_is_known_by_its_content(path):
    path.mkdir()
    (path / "a.csv").write_bytes(FILES["a.csv"])
    moved = []
    plan = pull(path, FILES, moved=moved)
    assert decisions(plan)["a.csv"] == "present"
    assert layer(FILES["a.csv"], "").digest not in moved


def test_a_deleted_file_comes_back(path):
    pull(path, FILES)
    (path / "a.csv").unlink()
    assert decisions(pull(path, FILES))["a.csv"] == "fetch"
    assert tree(path) == FILES


def test_content_with_two_titles_is_got_once(path):
    moved = []
    files = {"a": b"same", "b/c": b"same", "d": b"other"}
    plan = pull(path, files, moved=moved)
    assert len(moved) == 2
    assert plan.size == 9
    assert tree(path) == files
    (path / "a").write_bytes(b"edited")
    assert (path / "b/c").read_bytes() == b"same"


def test_a_file_that_was_renamed_upstream_is_copied_and_not_got_again(path):
    pull(path, {"old/name": b"1" * 100, "stays": b"2"})
    moved = []
    plan = pull(path, {"new/name": b"1" * 100, "stays": b"2", "twin": b"2"}, moved=moved)
    assert moved == []
    assert {f.title: f.copy_of for f in plan.copies} == {"new/name": "old/name", "twin": "stays"}
    assert tree(path) == {"new/name": b"1" * 100, "stays": b"2", "twin": b"2"}
    assert not (path / "old").exists()


def test_a_cached_blob_is_copied_and_never_linked(path, tmp_path):
    cache = Cache(tmp_path / "cache")
    cache.push_bytes(layer(b"content", "a"), b"content")
    blob = cache.path(layer(b"content", "a").digest)
    folder = Folder(path)
    manifest = artifact({"a": b"content", "b": b"content"})
    plan = folder.plan(manifest)
    folder.begin(plan)
    folder.place(plan.transfers[0], blob)
    folder.finish(manifest)
    assert tree(path) == {"a": b"content", "b": b"content"}
    for name in ("a", "b"):
        status = (path / name).lstat()
        assert (status.st_nlink, status.st_mode & 0o200) == (1, 0o200)
        (path / name).write_bytes(b"edited")
    assert blob.read_bytes() == b"content"


def test_a_damaged_cached_blob_is_not_copied(path, tmp_path):
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"content"}))
    folder.begin(plan)
    (tmp_path / "blob").write_bytes(b"CONTENT")
    with pytest.raises(DigestMismatch):
        folder.place(plan.transfers[0], tmp_path / "blob")
    (tmp_path / "blob").write_bytes(b"con")
    with pytest.raises(SizeMismatch):
        folder.place(plan.transfers[0], tmp_path / "blob")
    with pytest.raises(BlobUnknown):
        folder.place(plan.transfers[0], tmp_path / "absent")
    assert tree(path) == {}


def test_files_are_placed_from_many_threads(path):
    files = {f"d{i % 7}/e{i % 3}/{i}": bytes([i % 256]) * (i + 1) for i in range(200)}
    by_digest = {layer(content, "").digest: content for content in files.values()}
    folder = Folder(path)
    plan = folder.plan(artifact(files))
    folder.begin(plan)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda t: folder.place(t, io.BytesIO(by_digest[t.descriptor.digest])), plan.transfers))
    folder.finish(artifact(files))
    assert tree(path) == files
    assert decisions(Folder(path).plan(artifact(files))) == dict.fromkeys(files, "present")


def test_layers_without_title_get_a_name_and_empty_ones_no_file(path):
    folder = Folder(path)
    plan = folder.plan(Manifest(config=EMPTY_DESCRIPTOR, layers=[Descriptor.of(b"x", mt.OCI_LAYER), EMPTY_DESCRIPTOR]))
    [file] = plan.files
    assert file.title == f"sha256-{Descriptor.of(b'x', mt.OCI_LAYER).digest.encoded[:12]}.tar"


# What is known afterwards


def test_the_record_keeps_the_manifest_byte_for_byte(path):
    manifest = artifact(FILES)
    raw = json.dumps(json.loads(manifest.raw), indent=3).replace("csv", "cs\\u0076").encode() + b"\n"
    odd = Manifest.parse(raw)
    folder = Folder(path)
    plan = folder.plan({})
    folder.begin(plan)
    folder.finish(odd, REF.pinned(odd.digest))
    assert Folder(path).document.raw == raw
    assert Folder(path).document.digest == odd.digest
    assert Folder(path).record.reference == str(REF.pinned(odd.digest))


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"[" * 100_000, b'{"files": 1}', b'{"files": {"a.csv": 1, "b": {"digest": 1}}, "expected": []}'],
)
def test_a_record_that_can_not_be_read_costs_hashing_and_no_failure(path, damage):
    pull(path, FILES)
    Folder(path).record_path.write_bytes(damage)
    moved = []
    pull(path, FILES, moved=moved)
    assert moved == []
    assert Folder(path).record.files.keys() == FILES.keys()


def test_a_record_from_elsewhere_removes_nothing_outside_the_folder(path, tmp_path):
    pull(path, FILES)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    status = victim.stat()
    known = json.loads(Folder(path).record_path.read_bytes())
    entry = {"digest": layer(b"mine", "").digest, "size": 4, "mtime_ns": status.st_mtime_ns, "source": REF.name}
    known["files"] |= {"../victim": entry, str(victim): entry, "link/victim": entry}
    Folder(path).record_path.write_text(json.dumps(known))
    (path / "link").symlink_to(tmp_path)
    pull(path, FILES)
    assert victim.read_bytes() == b"mine"


# What users edited


def test_an_edited_file_stops_the_pull_before_anything_is_written(path):
    pull(path, FILES)
    edit(path / "a.csv", b"my notes")
    with pytest.raises(ContentError, match=r"a\.csv") as caught:
        pull(path, {**{t: b"new " + c for t, c in FILES.items()}, "z": b"new"})
    assert "force=True" in caught.value.hint
    assert tree(path) == {**FILES, "a.csv": b"my notes"}


def test_an_edit_of_the_same_size_is_seen(path):
    pull(path, FILES)
    edit(path / "a.csv", b"X" * 100)
    with pytest.raises(ContentError):
        pull(path, FILES)
    assert (path / "a.csv").read_bytes() == b"X" * 100


def test_force_overwrites_what_was_edited(path):
    pull(path, FILES)
    edit(path / "a.csv", b"my notes")
    plan = pull(path, FILES, force=True)
    assert decisions(plan)["a.csv"] == "overwrite"
    assert tree(path) == FILES


def test_a_users_own_file_in_the_way_is_not_overwritten(path):
    path.mkdir()
    (path / "a.csv").write_bytes(b"mine")
    with pytest.raises(ContentError, match=r"a\.csv"):
        pull(path, FILES)
    assert tree(path) == {"a.csv": b"mine"}
    assert not (path / ".ocikit").exists()


def test_an_edit_that_happens_to_be_what_is_wanted_is_no_edit(path):
    pull(path, FILES)
    edit(path / "a.csv", b"new")
    assert decisions(pull(path, {**FILES, "a.csv": b"new"}))["a.csv"] == "present"


def test_a_file_edited_while_the_pull_runs_is_not_overwritten(path):
    pull(path, FILES)
    new = {"a.csv": b"new"}
    folder = Folder(path)
    plan = folder.plan(artifact(new), partial=True)
    folder.begin(plan)

    class Meanwhile(io.BytesIO):
        def readinto(self, buffer):
            edit(path / "a.csv", b"my notes")
            return super().readinto(buffer)

    with pytest.raises(ContentError, match="edited during"):
        folder.place(plan.transfers[0], Meanwhile(b"new"))
    assert (path / "a.csv").read_bytes() == b"my notes"


def test_a_file_that_appears_while_the_pull_runs_is_not_overwritten(path):
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"new"}))
    folder.begin(plan)
    (path / "a").write_bytes(b"mine")
    with pytest.raises(ContentError, match="edited during"):
        folder.place(plan.transfers[0], io.BytesIO(b"new"))
    assert (path / "a").read_bytes() == b"mine"


def test_a_file_that_is_gone_upstream_but_was_edited_stays_and_becomes_the_users(path):
    pull(path, FILES)
    edit(path / "c.csv", b"my notes")
    rest = {t: c for t, c in FILES.items() if t != "c.csv"}
    plan = pull(path, rest)
    assert (plan.removed, plan.kept_edited) == ((), ("c.csv",))
    assert tree(path) == {**rest, "c.csv": b"my notes"}
    with pytest.raises(ContentError):
        pull(path, FILES)


def test_a_file_edited_after_the_plan_is_not_removed(path):
    pull(path, FILES)
    folder = Folder(path)
    manifest = artifact({"a.csv": FILES["a.csv"]})
    plan = folder.plan(manifest, reference=REF)
    folder.begin(plan)
    edit(path / "c.csv", b"my notes")
    folder.finish(manifest, REF)
    assert tree(path) == {"a.csv": FILES["a.csv"], "c.csv": b"my notes"}


def test_a_selection_removes_nothing(path):
    pull(path, FILES)
    plan = pull(path, {"a.csv": b"new"}, partial=True)
    assert plan.removed == ()
    assert tree(path) == {**FILES, "a.csv": b"new"}
    assert decisions(Folder(path).plan(artifact({**FILES, "a.csv": b"new"}))) == dict.fromkeys(FILES, "present")


def test_two_artifacts_share_a_folder(path):
    pull(path, FILES)
    other = {"model.bin": b"9"}
    plan = pull(path, other, reference=Reference.parse("h.io/model:v1"))
    assert plan.removed == ()
    assert tree(path) == {**FILES, **other}
    assert pull(path, {"a.csv": FILES["a.csv"]}).removed == ("deep/er/b.csv", "c.csv")
    assert tree(path) == {"a.csv": FILES["a.csv"], **other}
    pull(path, other, reference=LayoutReference.parse("oci:images:v1"))


def test_other_files_and_folders_of_the_user_stay(path):
    (path / "mine").mkdir(parents=True)
    (path / "mine" / "x").write_bytes(b"x")
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "mine").write_bytes(b"y")
    pull(path, FILES)
    pull(path, {"a.csv": b"1"})
    assert tree(path) == {"a.csv": b"1", "mine/x": b"x", "deep/mine": b"y"}
    assert not (path / "deep" / "er").exists()


# Files where folders should be, and the other way round


def test_a_file_that_became_a_folder_upstream_makes_way(path):
    pull(path, {"x": b"1", "y": b"2"})
    moved = []
    pull(path, {"x/deep/1": b"1", "x/2": b"3", "y": b"2"}, moved=moved)
    assert tree(path) == {"x/deep/1": b"1", "x/2": b"3", "y": b"2"}


def test_a_folder_that_became_a_file_upstream_makes_way(path):
    pull(path, {"x/deep/1": b"1", "x/2": b"3"})
    pull(path, {"x": b"1"})
    assert tree(path) == {"x": b"1"}


def test_a_folder_with_a_users_file_never_makes_way(path):
    pull(path, {"x/1": b"1"})
    (path / "x" / "mine").write_bytes(b"mine")
    for force in (False, True):
        with pytest.raises(ContentError, match="x/"):
            pull(path, {"x": b"new"}, force=force)
    assert tree(path) == {"x/1": b"1", "x/mine": b"mine"}


def test_a_users_file_where_a_folder_is_needed_makes_way_only_by_force(path):
    path.mkdir()
    (path / "x").write_bytes(b"mine")
    with pytest.raises(ContentError, match="x"):
        pull(path, {"x/1": b"1"})
    assert tree(path) == {"x": b"mine"}
    pull(path, {"x/1": b"1"}, force=True)
    assert tree(path) == {"x/1": b"1"}


def test_a_file_at_the_folders_own_path_is_a_typed_error(path):
    path.write_bytes(b"x")
    with pytest.raises(ContentError, match="is not a folder"):
        pull(path, FILES)
    assert path.read_bytes() == b"x"


# Titles and links that lead elsewhere


@pytest.mark.parametrize(
    "title",
    ["../../x", "../data-evil/x", "/tmp/x", "a/../../x", "..", ".", "", "a\\..\\x", "C:x", "a\x00b", ".ocikit/manifest.json",
     ".OCIKIT/manifest.json", "./.ocikit/x", "x" * 300],
)  # fmt: skip
def test_titles_that_lead_elsewhere_are_refused_before_anything_is_written(path, tmp_path, title):
    for files in (artifact({"good": b"1", title: b"2"}), {"good": layer(b"1", ""), title: layer(b"2", "")}):
        with pytest.raises(UnsafeArchive):
            Folder(path).plan(files)
    assert list(tmp_path.iterdir()) == []


def test_two_layers_with_one_title_are_refused(path):
    manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=[layer(b"1", "a"), layer(b"2", "./a")])
    with pytest.raises(UnsafeArchive):
        Folder(path).plan(manifest)


def test_titles_that_differ_in_case_are_refused_where_they_are_one_file(path, monkeypatch):
    files = artifact({"Data.csv": b"1", "data.csv": b"2"})
    Folder(path).plan(files)
    monkeypatch.setattr(Folder, "_ignores_case", lambda self: True)
    with pytest.raises(UnsafeArchive):
        Folder(path).plan(files)


@pytest.mark.parametrize("target", ["outside", "/etc", "../outside", "absent-outside/../../outside"])
def test_a_folder_that_is_a_link_to_elsewhere_is_not_written_through(path, tmp_path, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    path.mkdir()
    (path / "sub").symlink_to(outside if target == "outside" else target)
    for force in (False, True):
        with pytest.raises(UnsafeArchive, match="link"):
            pull(path, {"sub/x": b"1", "sub/deep/x": b"2"}, force=force)
    assert list(outside.iterdir()) == []


def test_a_folder_that_becomes_a_link_while_the_pull_runs_is_not_written_through(path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = Folder(path)
    plan = folder.plan(artifact({"sub/x": b"1"}))
    folder.begin(plan)
    (path / "sub").symlink_to(outside)
    with pytest.raises(UnsafeArchive):
        folder.place(plan.transfers[0], io.BytesIO(b"1"))
    assert list(outside.iterdir()) == []


def test_a_link_within_the_folder_is_followed(path):
    (path / "real").mkdir(parents=True)
    (path / "sub").symlink_to("real")
    pull(path, {"sub/x": b"1"})
    assert (path / "sub").is_symlink()
    assert (path / "real" / "x").read_bytes() == b"1"
    assert decisions(Folder(path).plan(artifact({"sub/x": b"1"}))) == {"sub/x": "present"}


def test_a_link_into_our_own_records_is_not_followed(path):
    pull(path, FILES)
    before = Folder(path).record_path.read_bytes()
    (path / "sub").symlink_to(".ocikit")
    with pytest.raises(UnsafeArchive):
        pull(path, {"sub/manifest.json": b"{}"}, force=True)
    assert Folder(path).record_path.read_bytes() == before


def test_records_behind_a_link_are_refused(path, tmp_path):
    path.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (path / ".ocikit").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeArchive):
        pull(path, FILES)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_file_that_is_a_link_is_an_edit_and_by_force_replaced_not_followed(path, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    pull(path, FILES)
    (path / "a.csv").unlink()
    (path / "a.csv").symlink_to(outside)
    with pytest.raises(ContentError, match=r"a\.csv"):
        pull(path, FILES)
    pull(path, FILES, force=True)
    assert outside.read_bytes() == b"mine"
    assert not (path / "a.csv").is_symlink()
    assert tree(path) == FILES


def test_the_folder_itself_may_be_a_link(path, tmp_path):
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real")
    pull(path, FILES)
    assert tree(tmp_path / "real") == FILES


# Failures


def test_a_wrong_digest_leaves_the_old_file(path):
    pull(path, FILES)
    folder = Folder(path)
    plan = folder.plan(artifact({"a.csv": b"new"}), partial=True)
    folder.begin(plan)
    with pytest.raises(DigestMismatch):
        folder.place(plan.transfers[0], io.BytesIO(b"NEW"))
    assert tree(path) == FILES
    assert list((path / ".ocikit" / "partial").iterdir()) == []


class Breaks(io.BytesIO):
    """A stream that ends in an error after so many bytes, and notes how much it gave."""

    def __init__(self, content, after=None, error=None):
        super().__init__(content)
        self.after, self.error, self.given = after, error, 0

    def readinto(self, buffer):
        if self.after is not None:
            if self.tell() >= self.after:
                raise self.error
            buffer = memoryview(buffer)[: self.after - self.tell()]
        n = super().readinto(buffer)
        self.given += n
        return n


@pytest.mark.parametrize("error", [ConnectionResetError, KeyboardInterrupt])
def test_a_pull_that_broke_off_is_resumed_and_whole_files_are_known_again(path, error):
    first = Folder(path)
    plan = first.plan(artifact(FILES), reference=REF)
    first.begin(plan)
    contents = {layer(c, "").digest: c for c in FILES.values()}
    first.place(plan.transfers[0], io.BytesIO(contents[plan.transfers[0].descriptor.digest]))
    broken = plan.transfers[1]
    with pytest.raises(error):
        first.place(broken, Breaks(contents[broken.descriptor.digest], 150, error()))
    assert tree(path) == {"a.csv": FILES["a.csv"]}
    again = Folder(path)
    plan = again.plan(artifact(FILES), reference=REF)
    assert decisions(plan) == {"a.csv": "present", "deep/er/b.csv": "fetch", "c.csv": "fetch"}
    again.begin(plan)
    stream = Breaks(contents[broken.descriptor.digest])
    again.place(plan.transfers[0], stream)
    assert stream.given == 50
    again.place(plan.transfers[1], io.BytesIO(FILES["c.csv"]))
    again.finish(artifact(FILES), REF)
    assert tree(path) == FILES


def test_what_a_broken_off_pull_wrote_is_not_taken_for_an_edit(path):
    pull(path, FILES)
    folder = Folder(path)
    newer = {t: b"newer " + c for t, c in FILES.items()}
    plan = folder.plan(artifact(newer), reference=REF)
    folder.begin(plan)
    folder.place(plan.transfers[0], io.BytesIO(newer["a.csv"]))
    # never finished; then the user wants the old version back, or a third one
    assert decisions(Folder(path).plan(artifact(FILES), reference=REF))["a.csv"] == "replace"
    assert decisions(Folder(path).plan(artifact({"a.csv": b"third"}), reference=REF)) == {"a.csv": "replace"}
    pull(path, FILES)
    assert tree(path) == FILES
    assert Folder(path).record.expected == {}


def test_a_full_disk_is_a_typed_error_and_no_file(tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        folder = Folder(mount / "data")
        content = os.urandom(4 << 20)
        plan = folder.plan(artifact({"big": content}))
        folder.begin(plan)
        with pytest.raises(ContentError, match="big: No space left"):
            folder.place(plan.transfers[0], io.BytesIO(content))
        assert tree(mount / "data") == {}
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_file_system_mounted_inside_the_folder_is_written_to(path):
    (path / "mounted").mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path / "mounted"], capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    try:
        pull(path, {"mounted/x": b"1", "y": b"1"})
        assert tree(path) == {"mounted/x": b"1", "y": b"1"}
        assert list((path / ".ocikit" / "partial").iterdir()) == []
        assert os.listdir(path / "mounted") == ["x"]
    finally:
        subprocess.run(["umount", path / "mounted"], check=True)


def test_where_blocks_can_be_shared_they_are(path, tmp_path, monkeypatch):
    shared = []

    def reflink(source, target):
        shared.append(source)
        target.write_bytes(source.read_bytes())
        return True

    monkeypatch.setattr(folder_module, "reflink", reflink)
    (tmp_path / "blob").write_bytes(b"content")
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"content"}))
    folder.begin(plan)
    folder.place(plan.transfers[0], tmp_path / "blob")
    assert shared == [tmp_path / "blob"]
    assert tree(path) == {"a": b"content"}
    assert list((path / ".ocikit" / "partial").iterdir()) == []


def test_a_file_that_another_process_put_there_meanwhile_is_fine_if_it_is_the_same(path):
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"content"}))
    folder.begin(plan)
    pull(path, {"a": b"content"})
    folder.place(plan.transfers[0], io.BytesIO(b"content"))
    folder.finish()
    assert tree(path) == {"a": b"content"}


def test_processes_that_pull_into_one_folder_agree(path):
    script = """
        import io, sys
        from concurrent.futures import ThreadPoolExecutor
        from ocikit.folder.folder import Folder
        from ocikit.spec.descriptor import Descriptor
        contents = {f"d{i % 5}/{i}": bytes([i]) * 50_000 for i in range(60)}
        files = {title: Descriptor.of(content, "a/b") for title, content in contents.items()}
        folder = Folder(sys.argv[1])
        plan = folder.plan(files)
        folder.begin(plan)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda t: folder.place(t, io.BytesIO(contents[t.files[0].title])), plan.transfers))
        folder.finish()
    """
    run = [sys.executable, "-c", textwrap.dedent(script), str(path)]
    processes = [subprocess.Popen(run, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert {p.communicate()[1] for p in processes} == {""}
    assert tree(path) == {f"d{i % 5}/{i}": bytes([i]) * 50_000 for i in range(60)}
    assert list((path / ".ocikit" / "partial").iterdir()) == []


def test_after_a_kill_at_any_time_every_file_is_whole_and_the_next_pull_completes(path):
    files = {f"{i}": bytes([i]) * 300_000 for i in range(40)}
    script = """
        import io, sys
        from ocikit.folder.folder import Folder
        from ocikit.spec.descriptor import Descriptor
        contents = {f"{i}": bytes([i]) * 300_000 for i in range(40)}
        folder = Folder(sys.argv[1])
        plan = folder.plan({title: Descriptor.of(content, "a/b") for title, content in contents.items()})
        folder.begin(plan)
        print("begun", flush=True)
        for transfer in plan.transfers:
            folder.place(transfer, io.BytesIO(contents[transfer.files[0].title]))
        folder.finish()
    """
    for delay in (0.0, 0.005, 0.01, 0.02, 0.04):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(path)], stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert tree(path).items() <= files.items()
    pull(path, files)
    assert tree(path) == files
    assert list((path / ".ocikit" / "partial").iterdir()) == []


def test_parts_that_nobody_came_back_for_are_swept(path):
    pull(path, {"a": b"1"})
    parts = path / ".ocikit" / "partial"
    (parts / "old").write_bytes(b"x")
    os.utime(parts / "old", (1, 1))
    (parts / "young").write_bytes(b"x")
    pull(path, {"a": b"2"})
    assert [p.name for p in parts.iterdir()] == ["young"]


def test_finishing_what_was_not_begun_is_an_error(path):
    with pytest.raises(ContentError):
        Folder(path).finish()


def test_values_can_be_evolved_and_shown(path):
    plan = Folder(path).plan(artifact(FILES))
    assert attrs.evolve(plan, removed=("x",)).removed == ("x",)
    assert "deep/er/b.csv" in plan._repr_html_()
