"""The bar in marimo: a thread of its own draws it, and a line remains."""

import sys
import time

import pytest
from ocikit.progress.bars import bars
from ocikit.progress.base import SILENT
from ocikit.spec.descriptor import Descriptor

from tests.support.widgets import marimo_module

FILE = Descriptor.of(bytes(10), "text/plain")


@pytest.fixture
def drawn(monkeypatch):
    """Return what a stand-in for marimo draws."""
    texts = []
    monkeypatch.setitem(sys.modules, "marimo", marimo_module(texts))
    return texts


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_bar_is_drawn_and_removed(drawn, capsys):
    bar = bars(None)
    bar.begin("pull <b>", size=20, count=2)
    bar.advance(FILE, 5)
    wait_for(lambda: "25: 5 B of 20 B" in drawn)
    bar.finish(FILE, "present")
    wait_for(lambda: "50: 15 B of 20 B" in drawn)
    bar.end()
    wait_for(lambda: drawn[-1] == "removed")
    assert drawn[0] == "pull &lt;b&gt;"
    bar.summary("pulled 2 files\x1b[31m")
    assert capsys.readouterr().out == "pulled 2 files\n"


def test_setting_turns_the_bar_off(drawn):
    assert bars(False) is SILENT
    bar = bars(None)
    bar.end()
    assert drawn == []
