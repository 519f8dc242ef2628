"""Fixtures for tests of repositories."""

import pytest

from tests.support.manifests import RAW


@pytest.fixture
def tagged(server):
    """The fake registry with the manifest RAW as a/b:v1."""
    server.manifest("a/b", RAW, "v1")
    return server
