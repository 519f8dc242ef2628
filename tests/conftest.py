"""Fixtures for all tests: registries (ours first, then real ones), users, and unique repository names."""

import faulthandler
import itertools
import os
import re
import signal
import tempfile
from pathlib import Path

import hypothesis
import ocikit
import pytest
from ocikit.remote.auth.keychain import ANONYMOUS, Keychain
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry

from tests.support import images, peers, postgres, s3
from tests.support.fake_registry import FakeRegistry
from tests.support.home import QUICK, enter_home
from tests.support.token_server import TokenServer

#: Fixtures that run real programs, unless they are our own registry.
INTEROP = {"registry", "htpasswd_registry", "token_registry", "debian", "postgres_server", "s3_server"}

#: The peer of each fixture that has one peer only.
PEERS = {"debian": "debian", "postgres_server": "postgresql", "s3_server": "versitygw"}


# A busy machine makes examples slow: that is not a failure of the code
hypothesis.settings.register_profile("ocikit", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ocikit")


def pytest_configure():
    # A shell that starts us in the background ignores these signals for us and our children, which must end by them
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_sessionstart():
    # pytest writes the stack of a crash between its dots; here `pytest_handlecrashitem` finds it
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        faulthandler.enable(_crash_file(os.getppid(), worker).open("w"))


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(report):
    """Say how a worker of xdist ended, and where it was."""
    gateway = report.node.gateway
    path = _crash_file(os.getpid(), gateway.id)
    stack = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    report.longrepr = f"{report.longrepr}\nexit status {gateway._io.popen.wait(10)}\n{stack}"


def pytest_sessionfinish():
    if worker := os.environ.get("PYTEST_XDIST_WORKER"):
        _crash_file(os.getppid(), worker).unlink(missing_ok=True)


def pytest_make_parametrize_id(val):
    """Name long content by its size: an archive made during the collection differs between the workers of xdist."""
    return f"{len(val)} bytes" if isinstance(val, bytes) and len(val) > 40 else None


def _crash_file(pid, worker):
    return Path(tempfile.gettempdir(), f"ocikit-tests-{pid}-{worker}")


def pytest_collection_modifyitems(items):
    for item in items:
        if INTEROP.intersection(getattr(item, "fixturenames", ())) - _parameters(item) - _ours(item) or any(
            item.iter_markers("peers")
        ):
            item.add_marker(pytest.mark.interop)
        if os.environ.get("OCIKIT_PEERS") == "skip" and item.get_closest_marker("interop"):
            item.add_marker(pytest.mark.skip(reason="OCIKIT_PEERS=skip"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Look for the peers of a test before any fixture is made."""
    values = getattr(getattr(item, "callspec", None), "params", {})
    for mark in item.iter_markers("peers"):
        peers.need(*mark.args, *(values[name] for name in mark.kwargs.get("of", ())))
    for name in INTEROP.intersection(getattr(item, "fixturenames", ())) - _parameters(item):
        if name in PEERS or values.get(name) in peers.KINDS:
            peers.need(values.get(name, PEERS.get(name)))


def _parameters(item):
    """Return a test's own parameters: one with the name of a fixture here needs no registry."""
    marks = [mark for mark in item.iter_markers("parametrize") if not mark.kwargs.get("indirect")]
    names = [mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0] for mark in marks]
    return {name.strip() for some in names for name in some}


def _ours(item):
    """Return the fixtures that are our own registry here: it needs no external program."""
    callspec = getattr(item, "callspec", None)
    return {name for name, value in callspec.params.items() if value == "ocikit"} if callspec else set()


@pytest.fixture(scope="session", params=peers.KINDS)
def registry(request):
    """A running registry of each kind without access control: `.host`, `.url`, `.kind`."""
    with peers.KINDS[request.param]() as running:
        yield running


@pytest.fixture(scope="session", params=["ocikit", "distribution2", "distribution3", "zot"])
def htpasswd_registry(request):
    """A registry with Basic authentication: `.user`, `.password`."""
    with peers.KINDS[request.param](htpasswd=("ada", "love:lace é")) as running:
        yield running


@pytest.fixture(scope="session")
def token_server():
    """The token server of `token_registry`: ada has all permissions, bob may pull, anonymous clients may pull public/*."""
    users = {"ada": "love:lace é", "bob": "builder"}
    rights = {"bob": {"*": {"pull"}}}
    with TokenServer(users=users, rights=rights, anonymous={"public/*": {"pull"}}) as server:
        yield server


@pytest.fixture(scope="session", params=["distribution2", "distribution3"])
def token_registry(request, token_server):
    """A registry with Bearer tokens: `.token` is its server; ada's `.user` and `.password`."""
    with peers.KINDS[request.param](token=token_server) as running:
        running.user, running.password = "ada", token_server.users["ada"]
        yield running


@pytest.fixture(scope="session")
def debian():
    """A real Debian image in several forms; see tests/support/images.py."""
    return images.debian()


# Servers of the registry's cluster storage


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server of this process; see tests/support/postgres.py."""
    with postgres.running() as server:
        yield server


@pytest.fixture
def empty_database_url(postgres_server):
    """The URL of a new, empty database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture
def database_url(postgres_server):
    """The URL of a new database with the tables of the registry."""
    with postgres_server.database(migrated=True) as url:
        yield url


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server of this process; see tests/support/s3.py."""
    with s3.running() as server:
        yield server


@pytest.fixture
def objects_url(s3_server, monkeypatch):
    """The URL of an empty object store on `s3_server`, with its credentials in the environment."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    return s3_server.url()


# A user: home folder, session, fake registries


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The working folder of a user: no credentials, an empty cache, no settings in the environment."""
    return enter_home(tmp_path / "house", monkeypatch)


@pytest.fixture
def session(home):
    """A session with short timeouts."""
    with ocikit.Session(progress=False, network=QUICK) as opened:
        yield opened


@pytest.fixture
def server():
    """A fake registry with scripted faults."""
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def other():
    """A fake registry on another host."""
    with FakeRegistry() as running:
        yield running


@pytest.fixture
def connect():
    """Open a transport: `connect(server, credentials=…, **network)`. The server may be a host name."""
    opened = []

    def connecting(server, credentials=ANONYMOUS, **network):
        host = server if isinstance(server, str) else server.host
        keychain = credentials if isinstance(credentials, Keychain) else Keychain(credentials, environ={})
        opened.append(Transport(host, network=Network(**network), keychain=keychain))
        return opened[-1]

    yield connecting
    for transport in opened:
        transport.close()


@pytest.fixture
def open_repository(connect):
    """Open a repository: `open_repository(server, "a/b", push=True, credentials=…, **network)`."""
    return lambda server, name="a/b", push=False, **rest: Registry(connect(server, **rest)).repository(name, push=push)


@pytest.fixture
def repository(open_repository, server):
    """The repository a/b on `server`, with push permission."""
    return open_repository(server, push=True)


_counter = itertools.count(1)


@pytest.fixture
def repo(request):
    """Return a unique repository name: "t/<name of the test>-<number>"."""
    slug = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")
    return f"t/{slug[:60].rstrip('-')}-{next(_counter)}"
