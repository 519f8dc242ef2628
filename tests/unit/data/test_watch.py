"""Watched folders: what each round pushes, and what happens at the end."""

import os
import subprocess
import sys
import threading
import time

import ocikit
import pytest
from ocikit.client import commit as commits
from ocikit.data import watch as watches
from ocikit.errors import ContentError, InvalidArgument, InvalidDocument, NotFound, ServerFailed

from tests.support.home import ROOT, moved, write

LONG = 3600


@pytest.fixture
def ref(server, monkeypatch):
    monkeypatch.setattr(commits, "_LOOK", 0.01)
    monkeypatch.setattr(watches, "_LOOK", 0.01)
    return f"{server.host}/run:live"


@pytest.fixture
def run(home):
    return write(home / "run", {"a.txt": "a", "deep/b.txt": "b"})


def settle(folder):
    """Make all files look as if they were written a minute ago; the time of the last change of status stays."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 60, time.time() - 60))


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Let a file count as complete by its modification time: the system sets the other time itself."""
    monkeypatch.setattr(watches, "is_settled", lambda info, now: info.st_mtime_ns < now - 2_000_000_000)


def content(session, ref):
    return {name: file.read() for name, file in session.inspect(ref).files.items()}


def until(condition):
    """Wait until a thread has done something."""
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError


def test_watch_pushes_at_once_and_at_the_end(session, ref, run):
    settle(run)
    with ocikit.watch("run/", ref, every=LONG, session=session) as watch:
        assert content(session, ref) == {"run/a.txt": b"a", "run/deep/b.txt": b"b"}
        write(run, {"c.txt": "c"})
    assert content(session, ref) == {"run/a.txt": b"a", "run/deep/b.txt": b"b", "run/c.txt": b"c"}
    assert (watch.pushes, watch.artifact.digest, watch.error) == (2, session.pin(ref).digest, None)
    assert "ocikit-watch" not in {thread.name for thread in threading.enumerate()}


def test_function_without_session_pushes(session, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=LONG):
        pass
    assert content(session, ref) == {"a.txt": b"a", "deep/b.txt": b"b"}


def test_round_sends_changed_files_only(session, server, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=LONG, session=session) as watch:
        write(run, {"a.txt": "changed"})
        (run / "deep" / "b.txt").unlink()
        settle(run)
        server.requests.clear()
        watch._push(is_last=False)
        sent = [request for request in moved(server) if request.split()[0] in {"POST", "PUT"}]
        assert sent.count("PUT manifests") == 1
        assert len(sent) <= 3  # at most POST and PUT of one blob
        assert content(session, ref) == {"a.txt": b"changed"}


def test_round_without_changes_sends_no_request(session, server, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=LONG, session=session) as watch:
        server.requests.clear()
        watch._push(is_last=False)
        assert not server.requests
        digest = watch.artifact.digest
    assert not server.requests
    assert watch.artifact.digest == digest


def test_thread_pushes_rounds(session, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=0.05, session=session) as watch:
        write(run, {"new": "1"})
        settle(run)
        until(lambda: "new" in session.inspect(ref).files)
        assert watch.pushes >= 2


def test_file_just_written_is_left_for_one_round(session, ref, run):
    settle(run)
    write(run, {"log.txt": "1"})
    with ocikit.watch("run/.", ref, every=LONG, session=session) as watch:
        assert "log.txt" not in content(session, ref)
        write(run, {"log.txt": "1\n2"})
        watch._push(is_last=False)
        assert content(session, ref)["log.txt"] == b"1\n2"
        write(run, {"log.txt": "1\n2\n3"})
        watch._push(is_last=False)
        assert content(session, ref)["log.txt"] == b"1\n2"
    assert content(session, ref)["log.txt"] == b"1\n2\n3"


def test_file_that_changes_while_it_is_read_is_left(session, ref, run, monkeypatch):
    settle(run)
    original = ocikit.Edit.add
    times = []

    def add(edit, *paths, **options):
        if "a.txt" in paths[0]:
            times.append(1)
            write(run, {"a.txt": "a" * (len(times) + 1)})
            raise ContentError("'a.txt' changed while it was pushed")
        return original(edit, *paths, **options)

    monkeypatch.setattr(ocikit.Edit, "add", add)
    watch = ocikit.watch("run/.", ref, every=LONG, session=session)
    assert content(session, ref) == {"deep/b.txt": b"b"}
    assert watch.error is None
    monkeypatch.setattr(ocikit.Edit, "add", original)
    watch.stop()
    assert content(session, ref)["a.txt"] == (run / "a.txt").read_bytes()
    assert "a.txt" in watch.artifact.files


def test_equal_folders_give_one_digest(session, ref, run):
    write(run, {f"{i}.txt": f"{i}" * i for i in range(20)})
    digests = {
        ocikit.watch("run/.", f"{ref}-{number}", every=LONG, session=session).stop().digest for number in range(3)
    }
    assert len(digests) == 1


def test_files_of_others_stay(session, ref, run):
    settle(run)
    session.push(ref, {"notes.md": b"mine"})
    with ocikit.watch("run/.", ref, every=LONG, session=session), session.edit(ref) as e:
        e["theirs"] = b"1"
    assert set(content(session, ref)) == {"a.txt", "deep/b.txt", "notes.md", "theirs"}


def test_rounds_show_no_progress(home, ref, run, capfd):
    settle(run)
    with ocikit.Session(progress=True) as session, ocikit.watch("run/.", ref, every=LONG, session=session):
        pass
    assert capfd.readouterr() == ("", "")


def test_failed_round_is_repeated(session, server, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=LONG, session=session) as watch:
        write(run, {"c": "1"})
        settle(run)
        server.on("PUT", r".*/manifests/.*", status=500, times=3)
        watch._push(is_last=False)
        assert isinstance(watch.error, ServerFailed | ocikit.RegistryError)
        assert "error" in repr(watch) and "500" in watch._repr_html_()
    assert watch.error is None
    assert "c" in content(session, ref)


def test_error_of_last_push_is_raised_once(session, server, ref, run):
    settle(run)
    watch = ocikit.watch("run/.", ref, every=LONG, session=session)
    write(run, {"c": "1"})
    server.on("PUT", r".*/manifests/.*", status=403, times=None)
    with pytest.raises(ocikit.Denied):
        watch.stop()
    assert watch.stop() is watch.artifact


def test_error_of_the_block_has_a_note_about_the_last_push(session, server, ref, run):
    settle(run)
    with (
        pytest.raises(RuntimeError, match="training failed") as caught,
        ocikit.watch("run/.", ref, every=LONG, session=session),
    ):
        write(run, {"c": "1"})
        server.on("PUT", r".*/manifests/.*", status=403, times=None)
        raise RuntimeError("training failed")
    assert caught.value.__notes__[0].startswith("the last push of run failed:")


def test_folder_is_pushed_after_an_error_of_the_block(session, ref, run):
    settle(run)
    with pytest.raises(RuntimeError), ocikit.watch("run/.", ref, every=LONG, session=session):
        write(run, {"c": "1"})
        raise RuntimeError
    assert "c" in content(session, ref)


def test_secret_is_an_error_at_once(session, ref, run):
    write(run, {".env": "KEY=1"})
    settle(run)
    with pytest.raises(ContentError, match="look like secrets"):
        ocikit.watch("run/.", ref, session=session)
    with ocikit.watch("run/.", ref, every=LONG, session=session, secrets=True):
        assert ".env" in content(session, ref)


def test_patterns_select_watched_files(session, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=LONG, session=session, exclude="deep/"):
        assert set(content(session, ref)) == {"a.txt"}


def test_empty_folder_is_pushed_when_it_has_files(session, server, ref, home):
    (home / "empty").mkdir()
    with ocikit.watch("empty/.", ref, every=LONG, session=session) as watch:
        assert not server.requests
        assert (watch.artifact, watch.pushes) == (None, 0)
        write(home / "empty", {"x": "1"})
    assert content(session, ref) == {"x": b"1"}
    assert ocikit.watch("empty/.", f"{ref}-2", include="nothing", session=session).stop() is None


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), "5m", None])
def test_wrong_interval_is_refused(ref, run, every):
    with pytest.raises(InvalidArgument, match="every="):
        ocikit.watch("run/.", ref, every=every)


def test_missing_folder_and_image_are_refused(session, server, ref, run):
    with pytest.raises(NotFound, match="cannot read 'missing'"):
        ocikit.watch("missing", ref, session=session)
    settle(run)
    server.manifest(
        "run", {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}, "live"
    )
    with pytest.raises(InvalidDocument):
        ocikit.watch("run/.", ref, session=session)


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "raise RuntimeError('x')", "del watch"])
def test_interpreter_waits_for_the_last_push(session, ref, run, end):
    code = f"""
import ocikit, pathlib
watch = ocikit.watch("run/.", {ref!r}, every=3600)
pathlib.Path("run/late.txt").write_text("late")
{end}
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=60, check=False
    )
    assert ended.returncode == {"": 0, "del watch": 0, "raise SystemExit(3)": 3}.get(end, 1)
    assert set(content(session, ref)) == {"a.txt", "deep/b.txt", "late.txt"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_does_not_push(session, server, ref, run):
    settle(run)
    with ocikit.watch("run/.", ref, every=LONG, session=session) as watch:
        server.requests.clear()
        write(run, {"c": "1"})
        if (child := os.fork()) == 0:
            watch.stop()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not server.requests
