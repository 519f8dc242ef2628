"""Examples of docstrings as tests: a folder, a home and a registry for each. A plugin of pytest, named in pyproject.toml.

Examples write to the current folder and use `ocikit` without an import. They may name the registry `localhost:5000`, which
`ocikit serve` starts for a reader. Here a new, empty registry on a free port takes its place.
"""

import doctest

import ocikit
import pytest
from _pytest.doctest import DoctestItem
from ocikit.client.shared import shared_session

from tests.support.fake_registry import FakeRegistry
from tests.support.home import enter_home

#: The registry that examples name.
HOST = "localhost:5000"


@pytest.fixture(autouse=True)
def _example_environment(request, doctest_namespace):
    """Give an example a scratch folder, an empty home and, if it names one, a registry."""
    if not isinstance(request.node, DoctestItem):
        yield
        return
    doctest_namespace["ocikit"] = ocikit
    enter_home(request.getfixturevalue("tmp_path"), request.getfixturevalue("monkeypatch"))
    if not names_registry(request.node.dtest):
        yield
        return
    with FakeRegistry() as server:
        move_registry(request.node.dtest, server.host)
        yield
        shared_session.drop()


def pytest_collection_modifyitems(config, items):
    """Run an example once: `ocikit.pull` has that of `Session.pull`."""
    shared = {id(item): item.dtest.docstring for item in items if isinstance(item, DoctestItem)}
    first: dict[str, int] = {}
    for key, docstring in shared.items():
        first.setdefault(docstring, key)
    again = {key for key, docstring in shared.items() if first[docstring] != key}
    if again:
        config.hook.pytest_deselected(items=[item for item in items if id(item) in again])
        items[:] = [item for item in items if id(item) not in again]


def names_registry(test: doctest.DocTest) -> bool:
    """Return True if an example connects to the registry."""
    return any(HOST in example.source for example in test.examples)


def move_registry(test: doctest.DocTest, host: str) -> None:
    """Let examples and their output name another host."""
    for example in test.examples:
        example.source, example.want = (text.replace(HOST, host) for text in (example.source, example.want))
        example.exc_msg = example.exc_msg and example.exc_msg.replace(HOST, host)
