"""Notebook output during a transfer and after it."""

import re

import ocikit
import pytest
from ocikit.testing.proxy import Proxy

from tests.support import peers

SIZE = 4_000_000  # bytes
PACE = 2_000_000  # bytes a second: slow enough for two looks by a browser
BLOB = "/v2/a/slow/blobs/sha256:.*"
LINE = re.compile(r"pulled 1 file, 4\.0 MB in \d+\.\d s -> (.+)")

BAR = ".progress-bar"


@pytest.fixture(scope="module")
def store():
    with peers.ocikit() as registry:
        yield registry


@pytest.fixture
def slow(store, tmp_path, monkeypatch):
    """A registry behind a slow connection; it has `a/slow:v1`, a file of four megabytes."""
    monkeypatch.setenv("OCIKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "big.bin").write_bytes(bytes(SIZE - 1) + b"\n")
    ocikit.push(f"{store.host}/a/slow:v1", tmp_path / "big.bin", progress=False)
    with Proxy(store.url) as proxy:
        proxy.on("GET", BLOB, throttle=PACE, times=None)
        yield proxy


#: An empty cache, because a pull copies files of an earlier pull of the same lab.
FRESH = "import os, tempfile\nos.environ['OCIKIT_CACHE'] = tempfile.mkdtemp()\nimport ocikit\n"


def pull(server, to):
    return f'{FRESH}ocikit.pull("{server.host}/a/slow:v1", "{to}");'


def moves(bar):
    """Wait until a bar has grown."""
    bar.wait_for()
    page = bar.page
    width = "bar => parseFloat(bar.style.width)"
    first = bar.evaluate(width)
    page.wait_for_function("([bar, first]) => parseFloat(bar.style.width) > first", arg=[bar.element_handle(), first])
    return first, bar.evaluate(width)


def lines(cell):
    """Return a saved cell's outputs, which are lines only."""
    assert {output.output_type for output in cell.outputs} == {"display_data"}
    assert {kind for output in cell.outputs for kind in output.data} == {"text/plain"}
    return [output.data["text/plain"] for output in cell.outputs]


def test_bar_moves_and_leaves_a_line(notebook, slow, shots):
    with notebook([pull(slow, "moves")]) as open_:
        open_.start()
        bar = open_.output(0).locator(BAR)
        first, then = moves(bar)
        assert 0 <= first < then <= 100
        assert "pull slow" in open_.output(0).inner_text().replace("\u2007", " ")
        open_.page.screenshot(path=shots("progress-moves"))
        open_.wait()
        assert bar.count() == 0
        assert LINE.fullmatch(open_.output(0).inner_text())
        open_.page.screenshot(path=shots("progress-line"))
        [line] = lines(open_.saved().cells[0])
        assert LINE.fullmatch(line)[1] == "moves"
        assert open_.seen.errors == []


def test_bar_reports_resumed_transfer(notebook, slow, shots):
    slow.on("GET", BLOB, cut=SIZE // 2, throttle=PACE)
    with notebook([pull(slow, "resumed")], theme="dark", width=480) as open_:
        open_.start()
        open_.output(0).get_by_text("resuming at").wait_for()
        open_.page.screenshot(path=shots("progress-resumed-dark-480"))
        assert open_.output(0).locator(BAR).bounding_box()["width"] > 20
        assert open_.flaws() == [[]]
        open_.wait()
        assert LINE.fullmatch(open_.output(0).inner_text())
        assert len(slow.seen("GET", BLOB)) == 2


@pytest.mark.parametrize("kernel", ["python3", "bare"], ids=["widgets", "no widgets"])
def test_interrupted_call_leaves_no_bar(notebook, slow, kernel, shots):
    with notebook([pull(slow, f"interrupted-{kernel}"), "'not reached'"], kernel=kernel) as open_:
        open_.start()
        if kernel == "bare":
            open_.output(0).get_by_text("%|").wait_for()
        else:
            moves(open_.output(0).locator(BAR))
        open_.interrupt()
        open_.wait()
        error = open_.output(0).last
        assert "KeyboardInterrupt" in error.inner_text()
        assert open_.output(0).locator(BAR).count() == 0
        assert "%|" not in open_.output(0).first.inner_text()
        open_.picture(shots(f"progress-interrupted-{kernel}"))
        first, *rest = open_.saved().cells[0].outputs
        assert first.data == {"text/plain": ""}
        assert [output.ename for output in rest] == ["KeyboardInterrupt"]


def test_two_threads_have_two_bars_and_two_lines(notebook, slow, shots):
    both = f"""{FRESH}
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    for to in ("one", "other"):
        pool.submit(ocikit.pull, "{slow.host}/a/slow:v1", to)
"""
    with notebook([both]) as open_:
        open_.start()
        bars = open_.output(0).locator(BAR)
        moves(bars.nth(0))
        moves(bars.nth(1))
        open_.page.screenshot(path=shots("progress-two-threads"))
        open_.wait()
        assert bars.count() == 0
        assert sorted(LINE.fullmatch(line)[1] for line in lines(open_.saved().cells[0])) == ["one", "other"]


def test_text_bar_moves_without_widgets(notebook, slow, shots):
    with notebook([pull(slow, "bare")], kernel="bare") as open_:
        open_.start()
        open_.output(0).get_by_text("%|").wait_for()
        first = open_.output(0).inner_text()
        open_.output(0).get_by_text("%|").filter(has_not_text=first).wait_for()
        open_.page.screenshot(path=shots("progress-text"))
        open_.wait()
        assert open_.output(0).count() == 1
        [line] = lines(open_.saved().cells[0])
        assert LINE.fullmatch(line)


def test_progress_false_shows_no_bar(notebook, slow):
    off = f'import os\nos.environ["OCIKIT_PROGRESS"] = "none"\n{pull(slow, "silent")}'
    with notebook([off, pull(slow, "silent2").replace(");", ", progress=False);")]) as open_:
        slow.faults.clear()
        open_.run()
        assert [cell.outputs for cell in open_.saved().cells] == [[], []]
