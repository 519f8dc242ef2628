"""Progress bars in terminals, notebooks, pipes and logs."""

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
    """A terminal as standard error of the module under test; pytest's capture restores changes of `sys`."""
    monkeypatch.delenv("OCIKIT_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return standard_error(monkeypatch, Terminal())


def standard_error(monkeypatch, stream):
    fake_sys = SimpleNamespace(stderr=stream, stdout=io.StringIO(), modules=sys.modules)
    monkeypatch.setattr("ocikit.progress.bars.sys", fake_sys)
    return stream


@pytest.fixture
def unthrottled(monkeypatch):
    """Draw every step."""
    monkeypatch.setattr("ocikit.progress.bars._INTERVAL", 0)


def screen(written: str) -> list[str]:
    """Return the lines that a terminal shows after this output."""
    lines = []
    for line in written.replace("\r\n", "\n").split("\n"):
        shown = ""
        for segment in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", line).split("\r"):
            shown = segment + shown[len(segment) :]
        lines.append(shown.rstrip())
    return [line for line in lines if line]


def percentages(written: str) -> list[int]:
    return [int(match) for match in re.findall(r"(\d+)%\|", written)]


# Bar or silence


def test_terminal_gets_bar_and_pipe_gets_none(terminal, monkeypatch):
    assert isinstance(bars(None), Bars)
    assert isinstance(bars("auto"), Bars)
    standard_error(monkeypatch, io.StringIO())
    assert bars(None) is SILENT
    assert bars("auto") is SILENT
    assert isinstance(bars(True), Bars)
    standard_error(monkeypatch, None)
    assert bars(None) is SILENT


@pytest.mark.parametrize("setting", [False, "none", "off"])
def test_setting_turns_bar_off(terminal, setting):
    assert bars(setting) is SILENT


def test_environment_is_default_for_setting(terminal, monkeypatch):
    monkeypatch.setenv("OCIKIT_PROGRESS", "none")
    assert bars(None) is SILENT
    assert isinstance(bars(True), Bars)
    monkeypatch.setenv("OCIKIT_PROGRESS", "text")
    standard_error(monkeypatch, io.StringIO())
    assert isinstance(bars(None), Bars)
    assert bars(False) is SILENT


def test_dumb_terminal_gets_no_bar(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert bars(None) is SILENT


# Drawing


def test_bar_ends_at_100_percent_and_leaves_one_line(terminal, unthrottled):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    for _ in range(10):
        bar.advance(BLOB, 100)
    bar.finish(BLOB, "moved")
    bar.end()
    bar.summary("pulled 1 file, 1.0 kB in 0.1 s -> data")
    written = terminal.getvalue()
    assert percentages(written) == sorted(percentages(written))
    assert percentages(written)[-1] == 100
    assert "pull data" in written
    assert screen(written) == ["pulled 1 file, 1.0 kB in 0.1 s -> data"]


def test_bar_is_drawn_when_transfer_slows_down(terminal, unthrottled):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar.advance(BLOB, 900)
    for _ in range(9):
        bar.advance(BLOB, 10)
    bar.end()
    assert percentages(terminal.getvalue())[:11] == [0, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99]


def test_bar_never_goes_back(terminal, unthrottled):
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


def test_present_content_does_not_count_as_moved(terminal, unthrottled):
    bar = bars(None)
    bar.begin("pull data", size=2000, count=2)
    bar.advance(BLOB, 500)
    bar.finish(BLOB, "present")
    written = terminal.getvalue()
    assert "500/2.00k" in written
    assert "500/1.00k" in written
    bar.end()
    assert percentages(written) == sorted(percentages(written))


def test_failure_leaves_no_bar_at_100_percent(terminal, unthrottled):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar.advance(BLOB, 400)
    bar.end(failed=True)
    written = terminal.getvalue()
    assert 100 not in percentages(written)
    assert screen(written) == []


def test_empty_transfer_closes_bar(terminal, unthrottled):
    bar = bars(None)
    bar.begin("pull data", size=0, count=0)
    bar.end()
    bar.end()
    assert screen(terminal.getvalue()) == []


def test_title_cannot_move_cursor(terminal, unthrottled):
    bar = bars(None)
    bar.begin("pull \x1b[2Jevil\u202e\nname", size=10, count=1)
    bar.note("\x1b[2Jnote")
    bar.end()
    bar.summary("done \x1b[2J\x07")
    written = terminal.getvalue()
    assert "\x1b[2J" not in written
    assert "\u202e" not in written
    assert screen(written) == ["done"]


def test_bar_is_drawn_at_most_ten_times_a_second(terminal):
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    began = time.monotonic()
    for _ in range(1000):
        bar.advance(BLOB, 1)
    took = time.monotonic() - began
    bar.end()
    assert len(percentages(terminal.getvalue())) <= 4 + took / 0.1


def test_note_disappears_when_transfer_continues(terminal, unthrottled, monkeypatch):
    monkeypatch.setattr("ocikit.progress.bars._NOTE_SECONDS", 0)
    bar = bars(None)
    bar.begin("pull data", size=1000, count=1)
    bar.note("503; trying again in 2.0 s")
    assert "503; trying again in 2.0 s" in screen(terminal.getvalue())[-1]
    bar.advance(BLOB, 100)
    assert "trying again" not in terminal.getvalue().rpartition("\r")[2]
    bar.end()


class Notes(Progress):
    def __init__(self):
        self.messages = []

    def note(self, message):
        self.messages.append(message)


BIG = bytes(300_000)


@pytest.mark.parametrize(
    ("fault", "pattern"),
    [
        ({"cut": 200_000}, r"127\.0\.0\.1:\d+ broke off; resuming at 200\.0 kB"),
        ({"status": 503, "headers": {"Retry-After": "0"}}, r"127\.0\.0\.1:\d+: 503; trying again in 0\.0 s"),
        ({"drop": "before"}, r"127\.0\.0\.1:\d+: .+; trying again in \d\.\d s"),
    ],
    ids=["cut", "503", "dropped"],
)
def test_listener_receives_note_of_resumed_download(server, session, home, fault, pattern):
    session.push(f"{server.host}/a/b:v1", write(home / "data", {"big.bin": BIG}))
    server.on("GET", f"/v2/a/b/blobs/{Digest.of(BIG)}", **fault)
    notes = Notes()
    session.pull(f"{server.host}/a/b:v1", home / "back", progress=notes)
    [message] = notes.messages
    assert re.fullmatch(pattern, message)


def test_listener_receives_note_of_repeated_upload(server, session, home):
    server.on("PUT", "/v2/a/b/blobs/uploads/.*", cut_request=100_000)
    notes = Notes()
    session.push(f"{server.host}/a/b:v1", write(home / "data", {"big.bin": BIG}), progress=notes)
    assert notes.messages == ["the upload broke; starting again"]


def test_parallel_calls_receive_their_own_notes(server, session, home):
    session.push(f"{server.host}/a/b:v1", write(home / "data", {"big.bin": BIG}))
    server.on("GET", f"/v2/a/b/blobs/{Digest.of(BIG)}", cut=200_000)
    listeners = [Notes(), Notes()]
    with ThreadPoolExecutor(2) as pool:
        for n, notes in enumerate(listeners):
            pool.submit(session.pull, f"{server.host}/a/b:v1", home / f"back{n}", progress=notes)
    assert sorted(len(notes.messages) for notes in listeners) == [0, 1]


# Real terminals and pipes


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
    inherited = {name: value for name, value in os.environ.items() if name not in {"OCIKIT_PROGRESS", "CI"}}
    return inherited | {"TERM": "xterm", "COLUMNS": "100", "OCIKIT_CACHE": str(tmp_path / "cache")}


def run_in_terminal(code, tmp_path, *, interrupt=False):
    """Run code in a pseudo-terminal; return its output and exit status."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, 100))
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(tmp_path),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    written = b""
    deadline = time.monotonic() + 60
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.2)[0]:
                try:
                    data = os.read(master, 1 << 16)
                except OSError:  # end of file of a terminal on Linux
                    break
                if not data:
                    break
                written += data
            if interrupt and b"%|" in written:
                interrupt = False
                time.sleep(0.3)
                process.send_signal(signal.SIGINT)
        status = process.wait(10)
    finally:
        process.kill()
        process.wait()
        os.close(master)
    return written.decode(), status


def test_terminal_keeps_one_line_per_call(tmp_path):
    written, status = run_in_terminal(PUSH, tmp_path)
    assert status == 0, written
    lines = screen(written)
    assert [line.split()[0] for line in lines] == ["pushed", "pulled"]
    drawn = [title for title, _ in itertools.groupby(re.findall(r"([\w:. ]+):   0%\|", written))]
    assert drawn == ["push oci:store", "pull oci:store"]  # one bar per call


@pytest.mark.timeout(60)
def test_ctrl_c_closes_bar_and_ends_soon(tmp_path):
    written, status = run_in_terminal(SLOW, tmp_path, interrupt=True)
    assert status in {-signal.SIGINT, 1, 130}
    lines = screen(written)
    assert lines[-2:] == ["KeyboardInterrupt", "stopped; received data is stored, the next call resumes"]
    assert lines[0].startswith("Traceback")
    assert not any("%|" in line for line in lines)
    assert 100 not in percentages(written)


def test_nothing_is_drawn_in_pipe(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PUSH)]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert (result.stdout, result.stderr) == ("", "")


def test_text_setting_writes_lines_to_log(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(PUSH)]
    env = environment(tmp_path) | {"OCIKIT_PROGRESS": "text"}
    result = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True)
    assert result.stdout == b""
    assert [line.split()[0] for line in screen(result.stderr.decode())] == ["pushed", "pulled"]


# Notebooks


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
def test_saved_notebook_has_one_line_per_call(tmp_path, widgets):
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
def test_notebook_shows_bar_during_transfer(tmp_path, widgets):
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


class Failing(io.StringIO):
    """A terminal that was closed."""

    def isatty(self):
        return True

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("setting", [None, "auto", "text", True])
@pytest.mark.parametrize("stream", ["missing", "closed", "failing", "ascii"])
def test_missing_or_failing_stream_fails_no_transfer(monkeypatch, setting, stream):
    descriptor = Descriptor.of(b"x" * 10, "text/plain")
    streams = {"missing": None, "closed": io.StringIO(), "failing": Failing()}
    streams["ascii"] = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    streams["closed"].close()
    monkeypatch.setattr(sys, "stderr", streams[stream])
    monkeypatch.delenv("OCIKIT_PROGRESS", raising=False)
    listener = bars(setting)
    assert listener is SILENT or stream in {"failing", "ascii"}
    listener.begin("pull 日本", size=10, count=1)
    listener.advance(descriptor, 10)
    listener.note("日本")
    listener.finish(descriptor, "moved")
    listener.end()
    listener.summary("pulled 日本")
