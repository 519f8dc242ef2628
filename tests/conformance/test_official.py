"""Our registry passes the specification's own conformance suite in every mode."""

import pytest

from tests.conformance import official
from tests.conformance.targets import OURS
from tests.support import peers

pytestmark = pytest.mark.interop


@pytest.mark.peers(official.PROGRAMME)
@pytest.mark.parametrize("target", OURS, ids=str)
def test_server_passes_official_suite(target, tmp_path):
    result = official.run_target(target, tmp_path)
    assert result.failed == {}
    assert result.skipped == []
    assert result.warnings == []
    if target.mode == "read-only":
        assert len(result.passed) == 19  # read-only runs
    else:
        assert len(result.passed) == 78
        # One of two tests that no registry can pass both
        assert [name.rpartition("discovery ")[2] for name in result.disabled] == ["disabled should return a 202"]


@pytest.mark.peers(official.PROGRAMME, of=["kind"])
@pytest.mark.parametrize("kind", ["olareg"])
def test_other_registry_passes_official_suite(kind):
    """Another registry passes, so a failure on ours is a defect of ours."""
    with peers.KINDS[kind]() as registry:
        result = official.run(registry.url)
    assert (result.failed, result.skipped) == ({}, [])


@pytest.mark.peers(official.PROGRAMME, "distribution3")
def test_incomplete_registry_fails_official_suite():
    with peers.distribution3() as registry:
        result = official.run(registry.url, anonymous_mount=False)
    assert any("referrers" in name or "references" in name.lower() for name in result.failed)
