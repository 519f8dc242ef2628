"""Fixtures for everyone: registries, our own first and real ones of others, and repository names of one's own."""

import itertools
import os
import re
import signal

import pytest

from tests.support import images, peers
from tests.support.token_server import TokenServer

#: A test that asks for one of these runs real programs, unless it gets our own registry.
INTEROP = {"registry", "htpasswd_registry", "token_registry", "debian"}


def pytest_configure():
    # A shell that starts us in the background ignores these for us and all that we start, who have to end by them
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if INTEROP.intersection(getattr(item, "fixturenames", ())) - _parameters(item) - _ours(item):
            item.add_marker(pytest.mark.interop)
        if os.environ.get("OCIKIT_PEERS") == "skip" and item.get_closest_marker("interop"):
            item.add_marker(pytest.mark.skip(reason="OCIKIT_PEERS=skip"))


def _parameters(item):
    """A test's own parameters: one of them may have the name of a fixture here, and needs no registry for it."""
    marks = [mark for mark in item.iter_markers("parametrize") if not mark.kwargs.get("indirect")]
    names = [mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0] for mark in marks]
    return {name.strip() for some in names for name in some}


def _ours(item):
    """The fixtures that give this test our own registry: it comes with the package, and needs no program."""
    callspec = getattr(item, "callspec", None)
    return {name for name, value in callspec.params.items() if value == "ocikit"} if callspec else set()


@pytest.fixture(scope="session", params=peers.KINDS)
def registry(request):
    """A running registry of each kind: `.host`, `.url`, `.kind`; anyone may do anything."""
    with peers.KINDS[request.param]() as running:
        yield running


@pytest.fixture(scope="session", params=["ocikit", "distribution2", "distribution3", "zot"])
def htpasswd_registry(request):
    """A registry that wants Basic authentication: `.user`, `.password`."""
    with peers.KINDS[request.param](htpasswd=("ada", "love:lace é")) as running:
        yield running


@pytest.fixture(scope="session")
def token_server():
    """The token server behind `token_registry`: ada may do everything, bob may pull, nobody may pull public/*."""
    users = {"ada": "love:lace é", "bob": "builder"}
    rights = {"bob": {"*": {"pull"}}}
    with TokenServer(users=users, rights=rights, anonymous={"public/*": {"pull"}}) as server:
        yield server


@pytest.fixture(scope="session", params=["distribution2", "distribution3"])
def token_registry(request, token_server):
    """A registry that wants Bearer tokens: `.token` is its server; ada's `.user` and `.password`."""
    with peers.KINDS[request.param](token=token_server) as running:
        running.user, running.password = "ada", token_server.users["ada"]
        yield running


@pytest.fixture(scope="session")
def debian():
    """A real Debian image in several forms; see tests/support/images.py."""
    return images.debian()


_counter = itertools.count(1)


@pytest.fixture
def repo(request):
    """A repository name that no other test uses: "t/<name of the test>-<number>"."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"t/{slug[:60].rstrip('-')}-{next(_counter)}"
