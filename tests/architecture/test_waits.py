"""Ctrl-C ends every wait for another thread: each has a limit."""

import ast

import pytest

from tests.tools.import_graph import ROOT

#: Methods that wait; without arguments they have no limit.
METHODS = {"acquire", "get", "join", "result", "wait"}

#: Waits of processes and threads that no user waits for: the server's, and the end of a process that was killed.
ALLOWED = {
    "server/process/worker.py": {"restarts.wait"},
    "server/process/child.py": {"self.process.wait"},
    "remote/auth/helpers.py": {"process.wait"},
    "remote/spans.py": {"self._changed.wait"},  # in the threads that receive pieces
    "store/files.py": {"self._full.get"},  # in the thread that hashes
    "store/locks.py": {"lock.acquire"},  # of filelock, which looks again and again
    "store/layout/disk.py": {"lock.acquire"},
    # Context variables
    "progress/base.py": {"_listener.get"},
    "remote/http/deadlines.py": {"_current.get"},
    "transfer/slots.py": {"_limit.get"},
}


@pytest.mark.parametrize(
    "path",
    [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT / "server/testing"],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_waits_have_a_limit(path):
    name = path.relative_to(ROOT).as_posix()
    found = {
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in METHODS
        and not node.args
        and not node.keywords
    }
    assert found <= ALLOWED.get(name, set()), "give it `timeout=UNLIMITED` of ocikit.waits"
