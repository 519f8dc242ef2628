"""Tests declare the programs that they run, so that they skip before they make anything."""

import ast
import os
import subprocess
import sys
from pathlib import Path

from tests.support import peers

TESTS = Path(__file__).resolve().parents[1]

#: Functions of tests that run one program, with its name.
HELPERS = {"images.skopeo": "skopeo", "images.unpack": "umoci", "images.debian": "debian",
           "postgres.running": "postgresql", "s3.running": "versitygw"}  # fmt: skip

#: Functions of tests whose first argument is a program.
RUNNERS = {"peers.run", "peers.find", "tool"}


def called(function):
    """Return the literal names of programs and registries in the calls of a function."""
    found = set()
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        name, first = ast.unparse(node.func), node.args[0] if node.args else None
        if name in RUNNERS and isinstance(first, ast.Constant):
            found.add(first.value)
        elif name in HELPERS:
            found.add(HELPERS[name])
        elif name.startswith("peers.") and name.removeprefix("peers.") in peers.KINDS:
            found.add(name.removeprefix("peers."))
    return found


def declared(*nodes):
    """Return the arguments of the `peers` marks of decorators and of `pytestmark`."""
    calls = [call for node in nodes for call in ast.walk(node) if isinstance(call, ast.Call)]
    marks = [call for call in calls if ast.unparse(call.func) == "pytest.mark.peers"]
    return {argument.value for mark in marks for argument in mark.args if isinstance(argument, ast.Constant)}


def chosen(function):
    """Return the texts that a function compares with a value, as with a parameter that `of` names."""
    places = [node for node in ast.walk(function) if isinstance(node, ast.MatchValue | ast.Compare)]
    return {node.value for place in places for node in ast.walk(place) if isinstance(node, ast.Constant)}


def undeclared(path):
    """Return {test: programs} of the calls that no mark declares."""
    module = ast.parse(path.read_text())
    common = [n for n in module.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"]
    found = {}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            known = declared(*common, *node.decorator_list)
            programs = {program for name in known for program in (name, *peers.PROGRAMS.get(name, ()))}
            if missing := called(node) - programs - chosen(node) - {"ocikit"}:
                found[f"{path.relative_to(TESTS)}: {node.name}"] = missing
    return found


def test_tests_declare_the_programs_that_they_run():
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        found |= undeclared(path)
    assert found == {}


def test_hidden_peer_is_missing(monkeypatch):
    there = [name for name in ("python3", "git", "tar") if peers.where(name)]
    monkeypatch.setenv("OCIKIT_PEERS", "none")
    assert [peers.where(name) for name in there] == [None] * len(there)
    monkeypatch.setenv("OCIKIT_PEERS", ",".join(there[:1]))
    assert [name for name in there if peers.where(name)] == there[:1]


def test_test_without_its_peer_makes_no_fixture(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def made(): raise RuntimeError('made')\n"
        "@pytest.mark.peers(of=['who'])\n"
        "@pytest.mark.parametrize('who', ['oras', 'distribution3', 'ocikit'])\n"
        "def test_it(made, who): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["-c", TESTS.parent / "pyproject.toml", f"--rootdir={tmp_path}", tmp_path / "test_it.py"]
    environ = os.environ | {"OCIKIT_PEERS": "none", "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(command, env=environ, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert "1 error" in done.stdout, done.stdout + done.stderr
    assert "2 skipped" in done.stdout, done.stdout
