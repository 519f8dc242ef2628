"""Notebooks run from top to bottom, and their saved outputs are current and contain no private data."""

import copy
import itertools
import re

import nbformat
import pytest

from tests.tools import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))

#: Paths of machines, tokens, and terminal colours.
PRIVATE = re.compile(r"/tmp/|/home/|/root/|/Users/|/work/|[A-Za-z]:\\\\|eyJ[\w-]+\.[\w-]+\.|Bearer |Basic |\x1b\[")


def read(path):
    return nbformat.read(path, as_version=4)


def outputs(cell):
    """Yield type and text of each output of a cell. Streams may arrive in any number of parts, which are joined."""
    parts = itertools.groupby(cell.get("outputs", ()), key=lambda output: output.get("name"))
    for stream, several in parts:
        if stream is not None:
            yield stream, "".join(output.text for output in several)
            continue
        for output in several:
            yield from data_of(output)


def data_of(output):
    """Yield type and text of an output that is not a stream."""
    if output.output_type == "error":
        yield "error", "\n".join(output.traceback)
    else:
        yield from sorted(output.data.items())


#: Text that differs between runs or library versions: times, ports, digests of compressed content, and the bytes that the
#: threads of duckdb request.
VARIABLE = {
    r"\bin \d+\.\d+ s\b": "in … s",
    r"127\.0\.0\.1:\d+": "127.0.0.1:…",
    r"sha256:[0-9a-f]{12,64}": "sha256:…",
    r"\[\d+\.\d of (\d+ MB)\]": r"[… of \1]",
}


def stable_outputs(cell):
    """Return the outputs without variable text and without HTML, which may change."""
    texts = []
    for kind, text in outputs(cell):
        for pattern, dots in VARIABLE.items():
            text = re.sub(pattern, dots, text)
        texts += [(kind, text)] if kind != "text/html" else []
    return texts


def test_notebooks_exist():
    assert PATHS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_notebook_run_reproduces_saved_outputs(path, tmp_path, monkeypatch):
    monkeypatch.delenv("OCIKIT_REGISTRY", raising=False)
    saved = read(path)
    ran = notebooks.run(copy.deepcopy(saved), tmp_path)
    for before, after in zip(saved.cells, ran.cells, strict=True):
        for kind, text in outputs(after):
            assert kind not in {"error", "stderr"}, text
            assert kind != "application/vnd.jupyter.widget-view+json"
        # Readers must see the present output; `python -m tests.tools.notebooks` saves it again
        assert stable_outputs(before) == stable_outputs(after), before.source


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_saved_notebook_is_valid_and_has_no_private_data(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < 200_000
    assert notebook.cells[0].cell_type == "markdown"
    assert "On this page you" in notebook.cells[0].source
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in notebook.cells:
        assert not PRIVATE.search(cell.source), cell.source
        for kind, text in outputs(cell):
            assert kind not in {"error", "stderr"}
            assert not PRIVATE.search(text), text


@pytest.mark.interop
@pytest.mark.parametrize("path", [p for p in PATHS if "OCIKIT_REGISTRY" in p.read_text()], ids=lambda path: path.name)
def test_notebook_runs_against_registry(path, registry, tmp_path, monkeypatch):
    monkeypatch.setenv("OCIKIT_REGISTRY", registry.host)
    for cell in notebooks.run(read(path), tmp_path).cells:
        for kind, text in outputs(cell):
            assert kind not in {"error", "stderr"}, text
