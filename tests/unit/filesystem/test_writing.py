"""The file system writes: each closed file is a commit, and transactions and edits make one of many files."""

import io
import os
import pickle
import threading

import fsspec
import ocikit
import pytest
from ocikit.client import commit as commits
from ocikit.filesystem import views

from tests.support.home import moved, write


@pytest.fixture
def fs(session, monkeypatch):
    monkeypatch.setattr(commits, "_LOOK", 0.01)
    return ocikit.fs(session)


@pytest.fixture
def root(server):
    return f"{server.host}/ds:v1"


def content(session, root):
    return {name: file.read() for name, file in session.inspect(root).files.items()}


def test_closed_file_is_committed(fs, root, session):
    with fs.open(f"{root}/a/b.bin", "wb") as file:
        assert file.write(b"12") == 2
        assert not fs.exists(root)
        file.write(memoryview(b"345"))
        assert file.tell() == 5
    assert content(session, root) == {"a/b.bin": b"12345"}
    assert fs.cat_file(f"{root}/a/b.bin") == b"12345"
    assert session.inspect(root).files["a/b.bin"].media_type
    with fs.open(f"ocikit://{root}/t.csv", "w", encoding="utf-8", newline="") as text:
        text.write("é\r\n")
    assert fs.cat_file(f"{root}/t.csv") == "é\r\n".encode()


def test_large_file_is_uploaded_from_disk(fs, root):
    large = os.urandom(6 << 20)
    with fs.open(f"{root}/large", "wb") as file:
        for start in range(0, len(large), 1 << 20):
            file.write(large[start : start + (1 << 20)])
    assert fs.cat_file(f"{root}/large") == large


@pytest.mark.parametrize("mode", ["wb", "w"])
def test_failed_block_commits_nothing(fs, root, mode):
    with pytest.raises(RuntimeError), fs.open(f"{root}/a", mode) as file:
        file.write("half" if mode == "w" else b"half")
        raise RuntimeError
    assert not fs.exists(root)


def test_file_that_is_never_closed_is_not_committed(fs, root, caplog):
    """polars does not close the files that it is handed: `write_csv(fs.open(path, "wb"))` would be lost silently."""
    file = fs.open(f"{root}/a", "wb")
    file.write(b"half")
    del file
    assert not fs.exists(root)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{root}/a was not closed, so it was not written; use: with fs.open(…) as file"
    ]


def test_closed_and_failed_files_warn_of_nothing(fs, root, caplog):
    with fs.open(f"{root}/a", "wb") as file:
        file.write(b"1")
    with pytest.raises(RuntimeError), fs.open(f"{root}/b", "wb") as file:
        raise RuntimeError
    fs.open(f"{root}/c", "wb").discard()
    del file
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_seek_in_a_written_file_has_advice(fs, root):
    """h5netcdf writes in place."""
    with pytest.raises(io.UnsupportedOperation, match="put_file"), fs.open(f"{root}/a", "wb") as file:
        assert not file.seekable()
        file.seek(0)
    assert not fs.exists(root)


def test_exclusive_mode_refuses_an_existing_file(fs, root):
    fs.pipe_file(f"{root}/a", b"1")
    with pytest.raises(FileExistsError):
        fs.open(f"{root}/a", "xb")
    with pytest.raises(FileExistsError):
        fs.pipe_file(f"{root}/a", b"2", mode="create")
    with fs.open(f"{root}/b", "xb") as file:
        file.write(b"new")
    assert fs.cat_file(f"{root}/a") == b"1"


@pytest.mark.parametrize("mode", ["ab", "r+b", "a"])
def test_mode_for_changes_in_place_is_refused(fs, root, mode):
    with pytest.raises(ocikit.InvalidArgument):
        fs.open(f"{root}/a", mode)


def test_pinned_and_untagged_paths_cannot_be_written(fs, root, session):
    fs.pipe_file(f"{root}/a", b"1")
    for path in (f"{session.pin(root)}/b", f"{root.removesuffix(':v1')}/b"):
        with pytest.raises(ocikit.InvalidReference):
            fs.pipe_file(path, b"x")
    with pytest.raises(IsADirectoryError):
        fs.open(root, "wb")


def test_copy_and_move_move_no_content(fs, root, server, session):
    fs.pipe({f"{root}/a/{n}": b"content %d" % n for n in range(5)})
    assert moved(server).count("PUT manifests") <= 2  # the first also finds out whether conditions are honoured
    fs.copy(f"{root}/a", f"{root}/b", recursive=True)
    fs.mv(f"{root}/a", f"{root}/c", recursive=True)
    requests = moved(server)
    assert requests.count("PUT manifests") == 2
    assert not [request for request in requests if "blobs" in request or "uploads" in request]
    assert set(content(session, root)) == {f"{folder}/{n}" for folder in "bc" for n in range(5)}
    other = f"{server.host}/other:v1"
    fs.copy(f"{root}/b/1", f"{other}/x")
    assert fs.cat_file(f"{other}/x") == b"content 1"


def test_remove_is_one_commit_and_keeps_the_artifact(fs, root, server, session):
    fs.pipe({f"{root}/a/{n}": b"%d" % n for n in range(5)})
    moved(server)
    with pytest.raises(IsADirectoryError):
        fs.rm(f"{root}/a")
    fs.rm(f"{root}/a", recursive=True)
    assert moved(server).count("PUT manifests") == 1
    assert fs.ls(root) == []
    with pytest.raises(FileNotFoundError):
        fs.rm_file(f"{root}/a/1")
    fs.rm(root, recursive=True)
    assert not fs.exists(root)
    with pytest.raises(ocikit.NotFound):
        session.inspect(root)


def test_folder_is_put_by_one_commit(fs, root, server, home):
    write(home, {f"d/{n}": b"%d" % n for n in range(10)})
    fs.put("d", f"{root}/d", recursive=True)
    assert sorted(fs.find(root)) == sorted(f"{root}/d/{n}" for n in range(10))
    assert moved(server).count("PUT manifests") <= 2


def test_folders_exist_while_they_have_files(fs, root):
    fs.mkdir(f"{root}/a")
    fs.makedirs(f"{root}/a/b", exist_ok=True)
    assert not fs.exists(f"{root}/a")
    fs.touch(f"{root}/a/b")
    with pytest.raises(OSError, match="has files"):
        fs.rmdir(f"{root}/a")
    fs.rm_file(f"{root}/a/b")
    fs.rmdir(f"{root}/a")


def test_transaction_makes_one_manifest_and_reads_its_writes(fs, root, server, session):
    with fs.transaction:
        for n in range(10):
            with fs.open(f"{root}/{n}", "wb") as file:
                file.write(b"%d" % n)
            assert fs.cat_file(f"{root}/{n}") == b"%d" % n
        fs.rm_file(f"{root}/9")
        assert len(fs.ls(root)) == 9
        assert "PUT manifests" not in moved(server)
    assert moved(server).count("PUT manifests") <= 2
    assert len(content(session, root)) == 9
    fs.pipe_file(f"{root}/after", b"x")
    assert len(content(session, root)) == 10


def test_failed_transaction_changes_nothing(fs, root, session):
    fs.pipe_file(f"{root}/a", b"1")
    with pytest.raises(RuntimeError), fs.transaction:
        fs.pipe_file(f"{root}/b", b"2")
        fs.rm_file(f"{root}/a")
        raise RuntimeError
    assert content(session, root) == {"a": b"1"}
    assert fs.cat_file(f"{root}/a") == b"1"
    assert not fs.exists(f"{root}/b")


def test_edit_is_written_by_url_from_any_thread(fs, root, server, session):
    fs.pipe_file(f"{root}/old", b"old")
    with session.edit(root) as e:
        url = e.url

        def write_by_url():
            with fsspec.open(f"{url}/by/url", "wb") as file:
                file.write(b"url")

        thread = threading.Thread(target=write_by_url)
        thread.start()
        thread.join()
        with e.fs.open("by/fs", "wb") as file:
            file.write(b"fs")
        e["bytes"] = b"raw"
        assert sorted(e.fs.find("")) == ["by/fs", "by/url", "bytes", "old"]
        with fsspec.open(f"{url}/bytes", "rb") as file:
            assert file.read() == b"raw"
        e.fs.rm_file("old")
        assert e.fs.cat_file("by/url") == b"url" and "old" not in e
        moved(server)
    assert moved(server).count("PUT manifests") == 1
    assert content(session, root) == {"by/url": b"url", "by/fs": b"fs", "bytes": b"raw"}
    with pytest.raises(ocikit.InvalidArgument, match="ended"):
        fsspec.open(f"{url}/late", "wb").open()


def test_commits_of_the_process_are_seen_by_url(fs, root, session, server):
    """The tag was pinned when it was read first. Edits, and writes through other file systems, move the pin."""
    fs.pipe_file(f"{root}/a", b"1")
    with ocikit.Session(progress=False) as other:
        files = ocikit.fs(other)
        assert [each.exists(f"{root}/a") for each in (fs, files)] == [True, True]
        with session.edit(root) as edit:
            edit["b"] = b"2"
        assert [each.cat_file(f"{root}/b") for each in (fs, files)] == [b"2", b"2"]
        with other.edit(f"{server.host}/other:v1", to=root) as edit:
            edit["c"] = b"3"
        assert [each.cat_file(f"{root}/c") for each in (fs, files)] == [b"3", b"3"]
        files.pipe_file(f"{root}/d", b"4")
        assert [each.cat_file(f"{root}/d") for each in (fs, files)] == [b"4", b"4"]


def test_writer_sees_the_files_of_other_writers(fs, root, session, home, monkeypatch):
    """Workers of dask write to the tag that the driver has written to. The driver reads what they have written."""
    monkeypatch.setattr(views, "_CURRENT", 0)
    fs.pipe_file(f"{root}/a", b"1")
    write(home, {"a": b"1", "theirs": b"2"})
    session.push(root, "a", "theirs")
    assert fs.cat_file(f"{root}/theirs") == b"2"
    fs.pipe_file(f"{root}/b", b"3")
    assert set(content(session, root)) == {"a", "theirs", "b"}
    session.delete(root)
    assert not fs.exists(f"{root}/b")


def test_tag_that_is_written_costs_one_look(fs, root, server, monkeypatch):
    fs.makedirs(f"{root}/folder")
    assert not fs.exists(f"{root}/a")
    assert moved(server) == ["GET manifests", "GET tags"]
    fs.pipe_file(f"{root}/a", b"1")
    moved(server)
    monkeypatch.setattr(views, "_CURRENT", 60)
    assert fs.exists(f"{root}/a") and fs.cat_file(f"{root}/a") == b"1"
    assert "HEAD manifests" not in moved(server)
    monkeypatch.setattr(views, "_CURRENT", 0)
    assert fs.exists(f"{root}/a")
    assert moved(server) == ["HEAD manifests"]


def test_made_folder_unpins_the_tag(fs, root, session, home, server):
    """dask makes the folder in the driver, and the workers write the files."""
    write(home, {"a": b"1", "theirs": b"2"})
    session.push(root, "a")
    assert not fs.exists(f"{root}/theirs")
    fs.makedirs(f"{root}/folder", exist_ok=True)
    session.push(root, "a", "theirs")
    assert fs.exists(f"{root}/theirs")
    moved(server)
    assert fs.exists(f"{root}/theirs")
    assert moved(server) in ([], ["HEAD manifests"])


def test_layout_on_disk_is_written(fs, session, home):
    path = f"{home}/layout:v1"
    fs.pipe_file(f"ocikit://{path}/a", b"1")
    fs.pipe({f"{path}/b": b"2", f"{path}/c": b"3"})
    assert content(session, "oci:layout:v1") == {"a": b"1", "b": b"2", "c": b"3"}


def test_file_system_with_writes_can_be_pickled(fs, root):
    fs.pipe_file(f"{root}/a", b"1")
    copy = pickle.loads(pickle.dumps(fs))
    copy.pipe_file(f"{root}/b", b"2")
    assert copy.cat_file(f"{root}/a") == b"1"


@pytest.mark.parametrize("title", ["../x", ".ocikit/x", "a\\b"])
def test_unsafe_path_is_refused(fs, root, title):
    with pytest.raises(ocikit.UnsafeArchive):
        fs.pipe_file(f"{root}/{title}", b"x")


def test_threads_share_a_transaction(fs, root, session, server):
    def put(n):
        fs.pipe_file(f"{root}/{n}", b"%d" % n)

    with fs.transaction:
        threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(content(session, root)) == 8


def test_copy_in_an_edit_of_another_repository_is_complete(fs, root, session, server):
    fs.pipe_file(f"{root}/a", b"content")
    with session.edit(root, to=f"{server.host}/other:v1") as e:
        e.fs.copy("a", "b")
        e.fs.mv("a", "c")
    assert content(session, f"{server.host}/other:v1") == {"b": b"content", "c": b"content"}
