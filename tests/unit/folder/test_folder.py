"""Folders to pull to: transfers, edited files, unsafe titles and interrupted pulls."""

import ctypes
import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
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


def pull(path, files, *, reference=REF, transferred=None, **options):
    """Pull files by title and return the plan. `transferred` collects the transferred digests."""
    by_digest = {layer(content, "x").digest: content for content in files.values()}
    folder = Folder(path)
    manifest = artifact(files)
    plan = folder.plan(manifest, reference=reference, **options)
    folder.begin(plan)
    for transfer in plan.transfers:
        if transferred is not None:
            transferred.append(transfer.descriptor.digest)
        folder.place(transfer, io.BytesIO(by_digest[transfer.descriptor.digest]))
    folder.finish(manifest, reference)
    return plan


def tree(path):
    """Return the bytes of all files outside of `.ocikit`."""
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


# Pulls


def test_pull_writes_regular_writable_files(path):
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


def test_file_permissions_respect_the_umask(path):
    umask = os.umask(0o077)
    try:
        pull(path, {"a": b"1"})
    finally:
        os.umask(umask)
    assert (path / "a").stat().st_mode & 0o777 == 0o600


def test_plan_changes_nothing(path):
    plan = Folder(path).plan(artifact(FILES))
    assert decisions(plan) == dict.fromkeys(FILES, "fetch")
    assert plan.size == 600
    assert not path.exists()
    assert repr(plan).startswith("FolderPlan(fetch=3, size=600 B, path=")


def test_second_pull_transfers_and_writes_nothing(path):
    def written():  # without access times: a pull reads the folder record
        stats = {p: p.stat() for p in path.rglob("*") if p.is_file()}
        return {p: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for p, stat in stats.items()}

    pull(path, FILES)
    before = written()
    transferred = []
    plan = pull(path, FILES, transferred=transferred)
    assert (transferred, decisions(plan)) == ([], dict.fromkeys(FILES, "present"))
    assert written() == before


def test_second_plan_hashes_no_unchanged_file(path, monkeypatch):
    pull(path, FILES)
    monkeypatch.setattr("ocikit.folder.plan.hash_file", None)
    assert decisions(Folder(path).plan(artifact(FILES), reference=REF)) == dict.fromkeys(FILES, "present")


def test_pull_of_new_version_transfers_only_changes(path):
    pull(path, FILES)
    inode = (path / "a.csv").stat().st_ino
    transferred = []
    new = {"a.csv": FILES["a.csv"], "deep/er/b.csv": b"new", "d.csv": b"4"}
    plan = pull(path, new, transferred=transferred)
    assert decisions(plan) == {"a.csv": "present", "deep/er/b.csv": "replace", "d.csv": "fetch"}
    assert plan.removed == ("c.csv",)
    assert transferred == [layer(b"new", "").digest, layer(b"4", "").digest]
    assert tree(path) == new
    assert (path / "a.csv").stat().st_ino == inode


def test_touched_file_is_not_edited(path):
    pull(path, FILES)
    os.utime(path / "a.csv", (1, 1))
    os.utime(path / "c.csv", (1, 1))
    plan = pull(path, {**FILES, "a.csv": b"new"})
    assert decisions(plan) == {"a.csv": "replace", "deep/er/b.csv": "present", "c.csv": "present"}
    assert Folder(path).record.files["c.csv"].mtime_ns == 10**9


def test_file_without_record_is_recognized_by_content(path):
    path.mkdir()
    (path / "a.csv").write_bytes(FILES["a.csv"])
    transferred = []
    plan = pull(path, FILES, transferred=transferred)
    assert decisions(plan)["a.csv"] == "present"
    assert layer(FILES["a.csv"], "").digest not in transferred


def test_deleted_file_is_fetched_again(path):
    pull(path, FILES)
    (path / "a.csv").unlink()
    assert decisions(pull(path, FILES))["a.csv"] == "fetch"
    assert tree(path) == FILES


def test_content_with_two_titles_is_transferred_once(path):
    transferred = []
    files = {"a": b"same", "b/c": b"same", "d": b"other"}
    plan = pull(path, files, transferred=transferred)
    assert len(transferred) == 2
    assert plan.size == 9
    assert tree(path) == files
    (path / "a").write_bytes(b"edited")
    assert (path / "b/c").read_bytes() == b"same"


def test_file_renamed_upstream_is_copied_locally(path):
    pull(path, {"old/name": b"1" * 100, "stays": b"2"})
    transferred = []
    plan = pull(path, {"new/name": b"1" * 100, "stays": b"2", "twin": b"2"}, transferred=transferred)
    assert transferred == []
    assert {f.title: f.copy_of for f in plan.copies} == {"new/name": "old/name", "twin": "stays"}
    assert tree(path) == {"new/name": b"1" * 100, "stays": b"2", "twin": b"2"}
    assert not (path / "old").exists()


def test_cached_blob_is_copied_not_linked(path, tmp_path):
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


def test_corrupt_cached_blob_is_not_copied(path, tmp_path):
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


def test_layer_without_title_gets_a_name_and_empty_one_no_file(path):
    folder = Folder(path)
    plan = folder.plan(Manifest(config=EMPTY_DESCRIPTOR, layers=[Descriptor.of(b"x", mt.OCI_LAYER), EMPTY_DESCRIPTOR]))
    [file] = plan.files
    assert file.title == f"sha256-{Descriptor.of(b'x', mt.OCI_LAYER).digest.encoded[:12]}.tar"


# Records


def test_record_keeps_the_exact_manifest_bytes(path):
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
def test_unreadable_record_costs_hashing_only(path, damage):
    pull(path, FILES)
    Folder(path).record_path.write_bytes(damage)
    transferred = []
    pull(path, FILES, transferred=transferred)
    assert transferred == []
    assert Folder(path).record.files.keys() == FILES.keys()


def test_hostile_record_deletes_nothing_outside_the_folder(path, tmp_path):
    pull(path, FILES)
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    status = victim.stat()
    record = json.loads(Folder(path).record_path.read_bytes())
    entry = {"digest": layer(b"mine", "").digest, "size": 4, "mtime_ns": status.st_mtime_ns, "source": REF.name}
    record["files"] |= {"../victim": entry, str(victim): entry, "link/victim": entry}
    Folder(path).record_path.write_text(json.dumps(record))
    (path / "link").symlink_to(tmp_path)
    pull(path, FILES)
    assert victim.read_bytes() == b"mine"


# Edited files


def test_edited_file_stops_the_pull_before_writing(path):
    pull(path, FILES)
    edit(path / "a.csv", b"my notes")
    with pytest.raises(ContentError, match=r"a\.csv") as caught:
        pull(path, {**{t: b"new " + c for t, c in FILES.items()}, "z": b"new"})
    assert "force=True" in caught.value.hint
    assert tree(path) == {**FILES, "a.csv": b"my notes"}


def test_edit_of_the_same_size_is_detected(path):
    pull(path, FILES)
    edit(path / "a.csv", b"X" * 100)
    with pytest.raises(ContentError):
        pull(path, FILES)
    assert (path / "a.csv").read_bytes() == b"X" * 100


def test_force_overwrites_edited_file(path):
    pull(path, FILES)
    edit(path / "a.csv", b"my notes")
    plan = pull(path, FILES, force=True)
    assert decisions(plan)["a.csv"] == "overwrite"
    assert tree(path) == FILES


def test_users_file_is_not_overwritten(path):
    path.mkdir()
    (path / "a.csv").write_bytes(b"mine")
    with pytest.raises(ContentError, match=r"a\.csv"):
        pull(path, FILES)
    assert tree(path) == {"a.csv": b"mine"}
    assert not (path / ".ocikit").exists()


def test_edit_equal_to_the_new_content_is_present(path):
    pull(path, FILES)
    edit(path / "a.csv", b"new")
    assert decisions(pull(path, {**FILES, "a.csv": b"new"}))["a.csv"] == "present"


def test_file_edited_during_the_pull_is_not_overwritten(path):
    pull(path, FILES)
    new = {"a.csv": b"new"}
    folder = Folder(path)
    plan = folder.plan(artifact(new), partial=True)
    folder.begin(plan)

    class EditingStream(io.BytesIO):
        def readinto(self, buffer):
            edit(path / "a.csv", b"my notes")
            return super().readinto(buffer)

    with pytest.raises(ContentError, match="edited during"):
        folder.place(plan.transfers[0], EditingStream(b"new"))
    assert (path / "a.csv").read_bytes() == b"my notes"


def test_file_created_during_the_pull_is_not_overwritten(path):
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"new"}))
    folder.begin(plan)
    (path / "a").write_bytes(b"mine")
    with pytest.raises(ContentError, match="edited during"):
        folder.place(plan.transfers[0], io.BytesIO(b"new"))
    assert (path / "a").read_bytes() == b"mine"


def test_edited_file_removed_upstream_becomes_the_users(path):
    pull(path, FILES)
    edit(path / "c.csv", b"my notes")
    rest = {t: c for t, c in FILES.items() if t != "c.csv"}
    plan = pull(path, rest)
    assert (plan.removed, plan.kept_edited) == ((), ("c.csv",))
    assert tree(path) == {**rest, "c.csv": b"my notes"}
    with pytest.raises(ContentError):
        pull(path, FILES)


def test_file_edited_after_the_plan_is_not_deleted(path):
    pull(path, FILES)
    folder = Folder(path)
    manifest = artifact({"a.csv": FILES["a.csv"]})
    plan = folder.plan(manifest, reference=REF)
    folder.begin(plan)
    edit(path / "c.csv", b"my notes")
    folder.finish(manifest, REF)
    assert tree(path) == {"a.csv": FILES["a.csv"], "c.csv": b"my notes"}


def test_partial_pull_deletes_nothing(path):
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


def test_other_files_and_folders_of_the_user_are_kept(path):
    (path / "mine").mkdir(parents=True)
    (path / "mine" / "x").write_bytes(b"x")
    (path / "deep" / "er").mkdir(parents=True)
    (path / "deep" / "mine").write_bytes(b"y")
    pull(path, FILES)
    pull(path, {"a.csv": b"1"})
    assert tree(path) == {"a.csv": b"1", "mine/x": b"x", "deep/mine": b"y"}
    assert not (path / "deep" / "er").exists()


# Files and folders that replace each other


def test_file_is_replaced_by_folder_upstream(path):
    pull(path, {"x": b"1", "y": b"2"})
    transferred = []
    pull(path, {"x/deep/1": b"1", "x/2": b"3", "y": b"2"}, transferred=transferred)
    assert tree(path) == {"x/deep/1": b"1", "x/2": b"3", "y": b"2"}


def test_folder_is_replaced_by_file_upstream(path):
    pull(path, {"x/deep/1": b"1", "x/2": b"3"})
    pull(path, {"x": b"1"})
    assert tree(path) == {"x": b"1"}


def test_folder_with_a_users_file_is_never_replaced(path):
    pull(path, {"x/1": b"1"})
    (path / "x" / "mine").write_bytes(b"mine")
    for force in (False, True):
        with pytest.raises(ContentError, match="x/"):
            pull(path, {"x": b"new"}, force=force)
    assert tree(path) == {"x/1": b"1", "x/mine": b"mine"}


def test_users_file_is_replaced_by_folder_only_by_force(path):
    path.mkdir()
    (path / "x").write_bytes(b"mine")
    with pytest.raises(ContentError, match="x"):
        pull(path, {"x/1": b"1"})
    assert tree(path) == {"x": b"mine"}
    pull(path, {"x/1": b"1"}, force=True)
    assert tree(path) == {"x/1": b"1"}


def test_file_at_the_path_of_the_folder_raises_content_error(path):
    path.write_bytes(b"x")
    with pytest.raises(ContentError, match="is not a folder"):
        pull(path, FILES)
    assert path.read_bytes() == b"x"


# Path traversal


@pytest.mark.parametrize(
    "title",
    [
        "../../x",
        "../data-evil/x",
        "/tmp/x",
        "a/../../x",
        "..",
        ".",
        "",
        "a\\..\\x",
        "C:x",
        "a\x00b",
        ".ocikit/manifest.json",
        ".OCIKIT/manifest.json",
        "./.ocikit/x",
        "x" * 300,
    ],
)
def test_unsafe_titles_are_rejected_before_writing(path, tmp_path, title):
    for files in (artifact({"good": b"1", title: b"2"}), {"good": layer(b"1", ""), title: layer(b"2", "")}):
        with pytest.raises(UnsafeArchive):
            Folder(path).plan(files)
    assert list(tmp_path.iterdir()) == []


def test_layers_with_the_same_title_are_rejected(path):
    manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=[layer(b"1", "a"), layer(b"2", "./a")])
    with pytest.raises(UnsafeArchive):
        Folder(path).plan(manifest)


def test_case_collision_is_rejected_if_the_disk_ignores_case(path, monkeypatch):
    files = artifact({"Data.csv": b"1", "data.csv": b"2"})
    Folder(path).plan(files)
    monkeypatch.setattr(Folder, "_ignores_case", lambda self: True)
    with pytest.raises(UnsafeArchive):
        Folder(path).plan(files)


@pytest.mark.parametrize("target", ["outside", "/etc", "../outside", "absent-outside/../../outside"])
def test_link_out_of_the_folder_is_not_followed(path, tmp_path, target):
    outside = tmp_path / "outside"
    outside.mkdir()
    path.mkdir()
    (path / "sub").symlink_to(outside if target == "outside" else target)
    for force in (False, True):
        with pytest.raises(UnsafeArchive, match="link"):
            pull(path, {"sub/x": b"1", "sub/deep/x": b"2"}, force=force)
    assert list(outside.iterdir()) == []


def test_link_created_during_the_pull_is_not_followed(path, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = Folder(path)
    plan = folder.plan(artifact({"sub/x": b"1"}))
    folder.begin(plan)
    (path / "sub").symlink_to(outside)
    with pytest.raises(UnsafeArchive):
        folder.place(plan.transfers[0], io.BytesIO(b"1"))
    assert list(outside.iterdir()) == []


def test_link_within_the_folder_is_followed(path):
    (path / "real").mkdir(parents=True)
    (path / "sub").symlink_to("real")
    pull(path, {"sub/x": b"1"})
    assert (path / "sub").is_symlink()
    assert (path / "real" / "x").read_bytes() == b"1"
    assert decisions(Folder(path).plan(artifact({"sub/x": b"1"}))) == {"sub/x": "present"}


def test_link_into_the_record_folder_is_not_followed(path):
    pull(path, FILES)
    before = Folder(path).record_path.read_bytes()
    (path / "sub").symlink_to(".ocikit")
    with pytest.raises(UnsafeArchive):
        pull(path, {"sub/manifest.json": b"{}"}, force=True)
    assert Folder(path).record_path.read_bytes() == before


def test_record_folder_behind_a_link_is_rejected(path, tmp_path):
    path.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (path / ".ocikit").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeArchive):
        pull(path, FILES)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_linked_file_is_an_edit_and_force_replaces_the_link(path, tmp_path):
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


def test_folder_itself_may_be_a_link(path, tmp_path):
    (tmp_path / "real").mkdir()
    path.symlink_to(tmp_path / "real")
    pull(path, FILES)
    assert tree(tmp_path / "real") == FILES


# Failures


def test_digest_mismatch_leaves_the_old_file(path):
    pull(path, FILES)
    folder = Folder(path)
    plan = folder.plan(artifact({"a.csv": b"new"}), partial=True)
    folder.begin(plan)
    with pytest.raises(DigestMismatch):
        folder.place(plan.transfers[0], io.BytesIO(b"NEW"))
    assert tree(path) == FILES
    assert list((path / ".ocikit" / "partial").iterdir()) == []


class BreakingStream(io.BytesIO):
    """A stream that raises after some bytes and counts the bytes that were read."""

    def __init__(self, content, after=None, error=None):
        super().__init__(content)
        self.after, self.error, self.bytes_read = after, error, 0

    def readinto(self, buffer):
        if self.after is not None:
            if self.tell() >= self.after:
                raise self.error
            buffer = memoryview(buffer)[: self.after - self.tell()]
        n = super().readinto(buffer)
        self.bytes_read += n
        return n


@pytest.mark.parametrize("error", [ConnectionResetError, KeyboardInterrupt])
def test_interrupted_pull_is_resumed(path, error):
    first = Folder(path)
    plan = first.plan(artifact(FILES), reference=REF)
    first.begin(plan)
    contents = {layer(c, "").digest: c for c in FILES.values()}
    first.place(plan.transfers[0], io.BytesIO(contents[plan.transfers[0].descriptor.digest]))
    interrupted = plan.transfers[1]
    with pytest.raises(error):
        first.place(interrupted, BreakingStream(contents[interrupted.descriptor.digest], 150, error()))
    assert tree(path) == {"a.csv": FILES["a.csv"]}
    again = Folder(path)
    plan = again.plan(artifact(FILES), reference=REF)
    assert decisions(plan) == {"a.csv": "present", "deep/er/b.csv": "fetch", "c.csv": "fetch"}
    again.begin(plan)
    stream = BreakingStream(contents[interrupted.descriptor.digest])
    again.place(plan.transfers[0], stream)
    assert stream.bytes_read == 50
    again.place(plan.transfers[1], io.BytesIO(FILES["c.csv"]))
    again.finish(artifact(FILES), REF)
    assert tree(path) == FILES


def test_files_of_an_interrupted_pull_are_not_edits(path):
    pull(path, FILES)
    folder = Folder(path)
    newer = {t: b"newer " + c for t, c in FILES.items()}
    plan = folder.plan(artifact(newer), reference=REF)
    folder.begin(plan)
    folder.place(plan.transfers[0], io.BytesIO(newer["a.csv"]))
    # The pull is never finished; then the user requests the old version, or a third one
    assert decisions(Folder(path).plan(artifact(FILES), reference=REF))["a.csv"] == "replace"
    assert decisions(Folder(path).plan(artifact({"a.csv": b"third"}), reference=REF)) == {"a.csv": "replace"}
    pull(path, FILES)
    assert tree(path) == FILES
    assert Folder(path).record.expected == {}


def test_full_disk_raises_and_leaves_no_file(tmp_path):
    mount = tmp_path / "mount"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    folder = Folder(mount / "data")
    try:
        content = os.urandom(4 << 20)
        plan = folder.plan(artifact({"big": content}))
        folder.begin(plan)
        with pytest.raises(ContentError, match="big: No space left"):
            folder.place(plan.transfers[0], io.BytesIO(content))
        assert tree(mount / "data") == {}
    finally:
        folder.close()
        subprocess.run(["umount", mount], check=True)


def test_mount_within_the_folder_is_written_to(path):
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


def test_reflink_is_used_where_supported(path, tmp_path, monkeypatch):
    shared = []

    def clone_file(source, target):
        shared.append(os.readlink(f"/proc/self/fd/{source}"))
        os.write(target, os.read(source, 100))
        return True

    monkeypatch.setattr(folder_module, "clone_file", clone_file)
    (tmp_path / "blob").write_bytes(b"content")
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"content"}))
    folder.begin(plan)
    folder.place(plan.transfers[0], tmp_path / "blob")
    assert shared == [str(tmp_path / "blob")]
    assert tree(path) == {"a": b"content"}
    assert list((path / ".ocikit" / "partial").iterdir()) == []


def test_same_file_of_another_process_is_accepted(path):
    folder = Folder(path)
    plan = folder.plan(artifact({"a": b"content"}))
    folder.begin(plan)
    pull(path, {"a": b"content"})
    folder.place(plan.transfers[0], io.BytesIO(b"content"))
    folder.finish()
    assert tree(path) == {"a": b"content"}


def test_processes_pull_into_one_folder_concurrently(path):
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


def test_next_pull_completes_after_sigkill_at_any_time(path):
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


def test_stale_unfinished_transfers_are_deleted(path):
    pull(path, {"a": b"1"})
    parts = path / ".ocikit" / "partial"
    (parts / "old").write_bytes(b"x")
    os.utime(parts / "old", (1, 1))
    (parts / "young").write_bytes(b"x")
    pull(path, {"a": b"2"})
    assert [p.name for p in parts.iterdir()] == ["young"]


def test_finish_without_begin_raises_content_error(path):
    with pytest.raises(ContentError):
        Folder(path).finish()


def test_plan_can_be_evolved_and_displayed(path):
    plan = Folder(path).plan(artifact(FILES))
    assert attrs.evolve(plan, removed=("x",)).removed == ("x",)
    assert "deep/er/b.csv" in plan._repr_html_()


def test_swapped_folder_leads_no_write_outside(path, tmp_path):
    """Another user replaces a subfolder by a link again and again while pulls run (TOCTOU)."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (path / "sub").mkdir(parents=True)
    (path / "link").symlink_to(outside)
    libc = ctypes.CDLL(None, use_errno=True)
    stop = threading.Event()

    def swap():
        a, b = os.fsencode(path / "sub"), os.fsencode(path / "link")
        while not stop.is_set():
            libc.renameat2(-100, a, -100, b, 2)  # RENAME_EXCHANGE

    thread = threading.Thread(target=swap)
    thread.start()
    outcomes = Counter()
    try:
        for i in range(150):
            try:
                pull(path, {f"sub/{i % 5}": b"%d" % i, "sub/deep/file": b"%d" % i}, force=True)
                outcomes["pulled"] += 1
            except (UnsafeArchive, ContentError) as error:
                outcomes[type(error).__name__] += 1
            assert os.listdir(outside) == []
    finally:
        stop.set()
        thread.join()
    assert outcomes["UnsafeArchive"]


@pytest.mark.parametrize("name", [".ocikit", ".ocikit/partial"])
def test_linked_record_folder_is_rejected(path, tmp_path, name):
    (tmp_path / "outside").mkdir()
    (path / name).parent.mkdir(parents=True)
    (path / name).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeArchive, match="is a link"):
        pull(path, {"a": b"content"})
    assert os.listdir(tmp_path / "outside") == []


def test_pulls_of_two_artifacts_into_one_folder_keep_both_records(path):
    """The record is read, changed and saved under a lock."""
    others = [Reference.parse(f"localhost:5000/team/{name}:v1") for name in "abcdefgh"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda ref: pull(path, {ref.repository: ref.repository.encode()}, reference=ref), others))
    assert {file.source for file in Folder(path).record.files.values()} == {ref.name for ref in others}
    assert Folder(path).record.expected == {}
