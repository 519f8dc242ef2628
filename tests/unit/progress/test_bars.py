"""Progress where people look: terminals, notebooks, pipes and logs."""

import io
import itertools
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from ocikit.progress.bars import Bars, bars
from ocikit.progress.base import SILENT, Progress
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest

from tests.support.home import write
from tests.tools.notebooks import run_cells

BLOB = Descriptor(media_type=mt.OCTET_STREAM, digest=Digest("sha256:" + "a" * 64), size=1000)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal as standard error, for the module under test: pytest's own capture puts back what is set in `sys`."""
    monkeypatch.delenv("OCIKIT_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return standard_error(monkeypatch, Terminal())


def standard_error(monkeypatch, stream):
    world = SimpleNamespace(stderr=stream, stdout=io.StringIO(), modules=sys.modules)
    monkeypatch.setattr("ocikit.progress.bars.sys", world)
    return stream


@pytest.fixture
def hurried(monkeypatch):
    """Every step is drawn."""
    monkeypatch.setattr("ocikit.progress.bars._INTERVAL", 0)


def screen(written: str) -> list[str]:
    """The lines that a terminal shows once all of this was written."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def percentages(written: str) -> list[int]:
    return [int(found) for found in re.findall(r"(\d+)%\|", written)]


# Whether there is a bar ------------------------------------------------------------------------------------------------


def test_a_terminal_gets_a_bar_and_a_pipe_none(terminal, monkeypatch):
    assert isinstance(bars(None), Bars)
    assert isinstance(bars("auto"), Bars)
    standard_error(monkeypatch, io.StringIO())
    assert bars(None) is SILENT
    assert bars("auto") is SILENT
    assert isinstance(bars(True), Bars)
    standard_error(monkeypatch, None)
    assert bars(None) is SILENT


@pytest.mark.parametrize("wish", [False, "none", "off"])
def test_nobody_gets_a_bar_who_wants_none(terminal, wish):
    assert bars(wish) is SILENT


def test_the_environment_decides_where_the_call_does_not(terminal, monkeypatch):
    monkeypatch.setenv("OCIKIT_PROGRESS", "none")
    assert bars(None) is SILENT
    assert isinstance(bars(True), Bars)
    monkeypatch.setenv("OCIKIT_PROGRESS", "text")
    standard_error(monkeypatch, io.StringIO())
    assert isinstance(bars(None), Bars)
    assert bars(False) is SILENT


def test_a_dumb_terminal_gets_none(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert bars(None) is SILENT


# What it draws ---------------------------------------------------------------------------------------------------------


def test_a_bar_ends_at_a_hundred_percent_and_leaves_one_line(terminal, hurried):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    for _ in range(10):
        bar.advance(BLOB, 100)
    bar.finish(BLOB, "moved")
    bar.end()
    bar.tell("pulled 1 file, 1.0 kB in 0.1 s -> data")
    written = terminal.getvalue()
    assert percentages(written) == sorted(percentages(written))
    assert percentages(written)[-1] == 100
    assert "pull data" in written
    assert screen(written) == ["pulled 1 file, 1.0 kB in 0.1 s -> data"]


def test_a_bar_that_gets_slow_is_still_drawn(terminal, hurried):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar.advance(BLOB, 900)
    for _ in range(9):
        bar.advance(BLOB, 10)
    bar.end()
    assert percentages(terminal.getvalue())[:11] == [0, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]


def test_a_bar_never_goes_back(terminal, hurried):
    bar = bars(None)
    bar.begin("push data", size=1000, count=1)
    bar.advance(BLOB, 600)
    bar.advance(BLOB, -600)  # sent again from the start
    for _ in range(10):
        bar.advance(BLOB, 100)
    bar.end()
    written = terminal.getvalue()
    assert percentages(written) == sorted(percentages(written))
    assert percentages(written)[-1] == 100


def test_what_is_there_already_does_not_count_as_moved(terminal, hurried):
    bar = bars(None)
    bar.begin("pull data", size=2000, count=2)
    bar.advance(BLOB, 500)
    bar.finish(BLOB, "present")
    written = terminal.getvalue()
    assert "500/2.00k" in written
    assert "500/1.00k" in written
    bar.end()
    assert percentages(written) == sorted(percentages(written))


def test_a_failure_leaves_nothing_behind_that_looks_done(terminal, hurried):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar.advance(BLOB, 400)
    bar.end(failed=True)
    written = terminal.getvalue()
    assert 100 not in percentages(written)
    assert screen(written) == []


def test_a_call_that_moves_nothing_closes_its_bar(terminal, hurried):
    bar = bars(None)
    bar.begin("pull data", size=0, count=0)
    bar.end()
    bar.end()
    assert screen(terminal.getvalue()) == []


def test_a_title_cannot_move_the_cursor(terminal, hurried):
    bar = bars(None)
    bar.begin("pull \x1b[2Jevil\u202e\nname", size=10, count=1)
    bar.note("\x1b[2Jnote")
    bar.end()
    bar.tell("done \x1b[2J\x07")
    written = terminal.getvalue()
    assert "\x1b[2J" not in written
    assert "\u202e" not in written
    assert screen(written) == ["done"]


def test_bars_are_drawn_ten_times_a_second_at_most(terminal):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    began = time.monotonic()
    for _ in range(1000):
        bar.advance(BLOB, 1)
    took = time.monotonic() - began
    bar.end()
    assert len(percentages(terminal.getvalue())) <= 4 + took / 0.1


def test_a_word_beside_the_bar_goes_once_the_transfer_goes_on(terminal, hurried, monkeypatch):
    monkeypatch.setattr("ocikit.progress.bars._NOTED", 0)
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar.note("503; trying again in 2.0 s")
    assert "503; trying again in 2.0 s" in screen(terminal.getvalue())[-1]
    bar.advance(BLOB, 100)
    assert "trying again" not in terminal.getvalue().rpartition("\r")[2]
    bar.end()


class Notes(Progress):
    def __init__(self):
        self.heard = []

    def note(self, message):
        self.heard.append(message)


BIG = bytes(300_000)


@pytest.mark.parametrize(
    ("fault", "heard"),
    [
        ({"cut": 200_000}, r"127\.0\.0\.1:\d+ broke off; resuming at 200\.0 kB"),
        ({"status": 503, "headers": {"Retry-After": "0"}}, r"127\.0\.0\.1:\d+: 503; trying again in 0\.0 s"),
        ({"drop": "before"}, r"127\.0\.0\.1:\d+: .+; trying again in \d\.\d s"),
    ],
    ids=["cut", "503", "dropped"],
)
def test_who_listens_hears_of_a_download_that_goes_on(server, session, home, fault, heard):
    session.push(f"{server.host}/a/b:v1", write(home / "data", {"big.bin": BIG}))
    server.on("GET", f"/v2/a/b/blobs/{Digest.of(BIG)}", **fault)
    notes = Notes()
    session.pull(f"{server.host}/a/b:v1", home / "back", progress=notes)
    [said] = notes.heard
    assert re.fullmatch(heard, said)


def test_who_listens_hears_of_an_upload_that_is_sent_again(server, session, home):
    server.on("PUT", "/v2/a/b/blobs/uploads/.*", cut_request=100_000)
    notes = Notes()
    session.push(f"{server.host}/a/b:v1", write(home / "data", {"big.bin": BIG}), progress=notes)
    assert notes.heard == ["the upload broke; beginning it again"]


def test_two_calls_at_once_hear_of_their_own_troubles(server, session, home):
    session.push(f"{server.host}/a/b:v1", write(home / "data", {"big.bin": BIG}))
    server.on("GET", f"/v2/a/b/blobs/{Digest.of(BIG)}", cut=200_000)
    listeners = [Notes(), Notes()]
    with ThreadPoolExecutor(2) as pool:
        for n, notes in enumerate(listeners):
            pool.submit(session.pull, f"{server.host}/a/b:v1", home / f"back{n}", progress=notes)
    assert sorted(len(notes.heard) for notes in listeners) == [0, 1]


# Real terminals and pipes ----------------------------------------------------------------------------------------------


PUSH = """
    import ocikit, pathlib
    pathlib.Path("data").mkdir()
    pathlib.Path("data/a.bin").write_bytes(bytes(300_000))
    ocikit.push("oci:store:v1", "data")
    ocikit.pull("oci:store:v1", "back")
"""

SLOW = """
    import io, time
    from ocikit.transfer.plan import copy
    from ocikit.store.memory import MemoryStore
    from ocikit.progress.bars import bars
    from ocikit.spec.descriptor import Descriptor, EMPTY_DESCRIPTOR
    from ocikit.spec.manifest import Manifest

    class Slow(io.BytesIO):
        def read(self, size=-1):
            time.sleep(0.05)
            return super().read(1000)

        def readinto(self, buffer):
            data = self.read()
            buffer[: len(data)] = data
            return len(data)

    class Store(MemoryStore):
        def open(self, descriptor):
            return Slow(super().open(descriptor).read())

    here, there = Store(), MemoryStore()
    content = bytes(1_000_000)
    layer = Descriptor.of(content, "application/octet-stream")
    here.push_bytes(layer, content)
    here.push_bytes(EMPTY_DESCRIPTOR, b"{}")
    manifest = Manifest(config=EMPTY_DESCRIPTOR, layers=(layer,))
    here.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    copy(here, "v1", there, tags=["v1"], progress=bars(None))
"""


def environment(tmp_path):
    kept = {name: value for name, value in os.environ.items() if name not in {"OCIKIT_PROGRESS", "CI"}}
    return kept | {"TERM": "xterm", "COLUMNS": "100", "OCIKIT_CACHE": str(tmp_path / "cache")}


def in_a_terminal(code, tmp_path, *, interrupt=False):
    """What the code wrote to a terminal, and how it ended."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )  # fmt: skip
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    part = os.read(ours, 1 << 16)
                except OSError:  # Linux's end of file, on a terminal
                    break
                if not part:
                    break
                written += part
            if interrupt and b"%|" in written:
                interrupt = False
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
        status = process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return written.decode(), status


def test_in_a_terminal_one_line_is_left_of_each_call(tmp_path):
    written, status = in_a_terminal(PUSH, tmp_path)
    assert status == 0, written
    lines = screen(written)
    assert [line.split()[0] for line in lines] == ["pushed", "pulled"]
    drawn = [title for title, _ in itertools.groupby(re.findall(r"([\w:. ]+):   0%\|", written))]
    assert drawn == ["push oci:store", "pull oci:store"]  # one bar a call, however often it is drawn


@pytest.mark.timeout(60)
def test_ctrl_c_closes_the_bar_and_ends_soon(tmp_path):
    written, status = in_a_terminal(SLOW, tmp_path, interrupt=True)
    assert status in {-signal.SIGINT, 1, 130}
    lines = screen(written)
    assert lines[-1] == "KeyboardInterrupt"
    assert lines[0].startswith("Traceback")
    assert not any("%|" in line for line in lines)
    assert 100 not in percentages(written)


def test_in_a_pipe_nothing_is_drawn(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PUSH)]
    done = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_log_that_wants_text_gets_lines(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PUSH)]
    wanted = environment(tmp_path) | {"OCIKIT_PROGRESS": "text"}
    done = subprocess.run(command, cwd=tmp_path, env=wanted, capture_output=True, check=True)
    assert done.stdout == b""
    assert [line.split()[0] for line in screen(done.stderr.decode())] == ["pushed", "pulled"]


# Notebooks -------------------------------------------------------------------------------------------------------------


NOTEBOOK = [
    """
    import ocikit, pathlib
    pathlib.Path("data").mkdir()
    pathlib.Path("data/a.bin").write_bytes(bytes(300_000))
    """,
    """ocikit.push("oci:store:v1", "data");""",
    """ocikit.pull("oci:store:v1", "back");""",
    """ocikit.pull("oci:store:v1", "elsewhere", progress=False);""",
    """
    try:
        ocikit.pull("oci:store:v2", "back")
    except ocikit.NotFound:
        pass
    """,
]


@pytest.mark.parametrize("widgets", [True, False], ids=["widgets", "no widgets"])
def test_a_saved_notebook_has_one_line_for_each_call(tmp_path, widgets):
    first = "" if widgets else "import sys; sys.modules['ipywidgets'] = None"
    _, _, pushed, pulled, silent, missing = run_cells([first, *NOTEBOOK], tmp_path)
    for cell, verb in ((pushed, "pushed"), (pulled, "pulled")):
        [output] = cell.outputs
        assert output.output_type == "display_data"
        assert set(output.data) == {"text/plain"}
        assert output.data["text/plain"].startswith(f"{verb} 1 file, 300.0 kB in ")
    assert silent.outputs == []
    assert missing.outputs == []


@pytest.mark.parametrize("widgets", [True, False], ids=["widgets", "no widgets"])
def test_a_notebook_shows_a_bar_while_it_waits(tmp_path, widgets):
    first = "" if widgets else "import sys; sys.modules['ipywidgets'] = None"
    begin = """
    from ocikit.progress.bars import bars
    from ocikit.spec.descriptor import Descriptor
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar._drawn = 0
    bar.advance(Descriptor.of(b"x", "text/plain"), 420)
    bar._bar.refresh();
    """
    cells = run_cells([first, begin], tmp_path)
    [output] = cells[1].outputs
    if widgets:
        assert "application/vnd.jupyter.widget-view+json" in output.data
    else:
        assert "42%" in output.data["text/plain"]
    cells = run_cells([first, begin, "bar.end(failed=True)"], tmp_path)
    [output] = cells[1].outputs
    assert output.data == {"text/plain": ""}
