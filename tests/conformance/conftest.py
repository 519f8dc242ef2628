"""`server`, `dev_server` and `read_only` are the checked registries; `kept` is content of each kind in one."""

import contextlib

import pytest
from attrs import frozen

from tests.conformance import upload_flows as moves
from tests.conformance.content import Kind
from tests.conformance.documents import DEV, KINDS, make
from tests.conformance.targets import Target, running, targets
from tests.conformance.upload_flows import Server
from tests.conformance.wire import Wire

#: The modes of a fixture.
MODES = {"server": ("dev", "stable"), "dev_server": ("dev",), "strict_server": ("stable",), "read_only": ("read-only",)}


@frozen
class Kept:
    """Content and its repository."""

    kind: Kind
    repo: str


def pytest_generate_tests(metafunc):
    for name, modes in MODES.items():
        if name not in metafunc.fixturenames:
            continue
        ours = [target for target in targets() if target.mode in modes]
        if "kept" in metafunc.fixturenames and name != "read_only":
            both = [(t, kind) for t in ours for kind in KINDS if t.mode == "dev" or kind not in DEV]
            values = [pytest.param(t, kind, id=f"{t}-{kind}", marks=_marks(t)) for t, kind in both]
            metafunc.parametrize((name, "kept"), values, indirect=True)
        else:
            metafunc.parametrize(name, [pytest.param(t, id=str(t), marks=_marks(t)) for t in ours], indirect=True)


def pytest_collection_modifyitems(items):
    """Deselect checks without a registry, because no check of this suite is skipped."""
    items[:] = [item for item in items if _asks_somebody(item)]


def _asks_somebody(item) -> bool:
    params = getattr(item, "callspec", None) and item.callspec.params
    return not params or all(isinstance(params[name], Target) for name in MODES if name in params)


def _marks(target: Target):
    return () if target.ordinary else (pytest.mark.interop,)


@pytest.fixture(scope="session")
def started(tmp_path_factory):
    """Start each registry once; all of them stop with the session."""
    servers: dict[Target, Server] = {}
    with contextlib.ExitStack() as stack:

        def start(target: Target) -> Server:
            if target not in servers:
                folder = tmp_path_factory.mktemp("registry")
                servers[target] = stack.enter_context(_server(target, folder))
            return servers[target]

        yield start


@contextlib.contextmanager
def _server(target, folder, *, keep=False):
    with running(target, folder, keep=keep) as there:
        wire = Wire(there.url, there.user, there.password)
        with contextlib.closing(wire):
            yield Server(wire, there.mode, there.access == "bearer")


@pytest.fixture(scope="session")
def server(request, started):
    """A registry in dev or stable mode."""
    return started(request.param)


@pytest.fixture(scope="session")
def dev_server(request, started):
    """A registry with features of unreleased specifications."""
    return started(request.param)


@pytest.fixture(scope="session")
def strict_server(request, started):
    """A registry that accepts manifests only after their children."""
    return started(request.param)


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """The folder of a registry with every kind of content, and that content."""
    folder = tmp_path_factory.mktemp("filled")
    with _server(Target("dev"), folder, keep=True) as server:
        kept = [_keep(server, name) for name in KINDS]
    return folder, kept


@pytest.fixture(scope="session")
def read_only(request, filled):
    """A read-only registry and its content."""
    folder, kept = filled
    with _server(request.param, folder) as server:
        yield server, kept


@pytest.fixture(scope="module")
def kept(request, server):
    """Content of one kind in its own repository. Checks do not change it."""
    return _keep(server, request.param)


def _keep(server: Server, name: str) -> Kept:
    kept = Kept(make(name), moves.new_name(name))
    moves.push(server, kept.repo, kept.kind)
    return kept


@pytest.fixture(autouse=True)
def _told(request, record_property):
    """Report the checked registry and close the connection, because a registry may close an idle one."""
    name = next((name for name in MODES if name in request.fixturenames), None)
    if name is None:
        yield
        return
    record_property("target", str(request.node.callspec.params[name]))
    value = request.getfixturevalue(name)
    yield
    (value[0] if isinstance(value, tuple) else value).wire.close()
