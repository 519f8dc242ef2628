"""fsspec's own suite of tests for file systems: copy, get, put, open and pipe."""

import itertools

import ocikit
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests import abstract

from tests.support import peers

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def running():
    with peers.ocikit() as registry:
        yield registry


class Fixtures(abstract.AbstractFixtures):
    @pytest.fixture
    def fs(self, session):
        return ocikit.fs(session)

    @pytest.fixture
    def fs_path(self, running):
        return f"{running.host}/t{next(_numbers)}:v1"

    @pytest.fixture
    def local_fs(self):
        return LocalFileSystem(auto_mkdir=True)

    @pytest.fixture
    def supports_empty_directories(self):
        return False


class TestCopy(abstract.AbstractCopyTests, Fixtures):
    pass


class TestGet(abstract.AbstractGetTests, Fixtures):
    pass


class TestPut(abstract.AbstractPutTests, Fixtures):
    pass


if hasattr(abstract, "AbstractOpenTests"):  # fsspec 2024.10 and newer

    class TestOpen(abstract.AbstractOpenTests, Fixtures):
        pass

    class TestPipe(abstract.AbstractPipeTests, Fixtures):
        pass
