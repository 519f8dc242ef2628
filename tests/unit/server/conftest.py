"""Fixtures of the server tests."""

import pytest
from ocikit.server import Application, Settings

from tests.support.wsgi import Registry, storage_of


@pytest.fixture(params=["memory", "files"])
def make_registry(request, tmp_path):
    """Return a function that creates a registry with settings; all share one storage."""
    storage = storage_of(request.param, tmp_path / "registry")
    yield lambda access=None, **settings: Registry(Application(storage, access=access, settings=Settings(**settings)))
    storage.close()


@pytest.fixture
def app(make_registry):
    return make_registry()
