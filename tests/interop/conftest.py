"""Fixtures of the tests of a registry in PostgreSQL."""

import pytest

from tests.support.cluster_rows import Rows


@pytest.fixture(scope="module")
def shared_url(postgres_server):
    """The URL of a database for all tests of a module: emptying it is faster than making one."""
    with postgres_server.database(migrated=True) as url:
        yield url


@pytest.fixture
def rows(shared_url, tmp_path):
    """The rows and objects of an empty registry."""
    rows = Rows(shared_url, tmp_path / "objects")
    yield rows
    rows.database.close()
