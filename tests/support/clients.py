"""Clients of the fault server, as fixtures: import them into a test module by name."""

import pytest
from ocikit.remote.auth.keychain import ANONYMOUS, Keychain
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.repository import Registry

from tests.support.fault_server import FaultServer

__all__ = ["connect", "open_repository", "other", "repository", "server"]


@pytest.fixture
def server():
    """A registry that does as it is told."""
    with FaultServer() as running:
        yield running


@pytest.fixture
def other():
    """Another host."""
    with FaultServer() as running:
        yield running


@pytest.fixture
def connect():
    """Opens a transport: `connect(server, credentials=…, **network)`; a host name does for the server, too."""
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
    """Opens a repository: `open_repository(server, "a/b", push=True, credentials=…, **network)`."""
    return lambda server, name="a/b", push=False, **rest: Registry(connect(server, **rest)).repository(name, push=push)


@pytest.fixture
def repository(open_repository, server):
    """The repository a/b on `server`, to push to."""
    return open_repository(server, push=True)
