"""Our registry passes the specification's own conformance program in every mode."""

import pytest

from tests.conformance import official
from tests.conformance.targets import OURS
from tests.support import peers

pytestmark = pytest.mark.peers(official.PROGRAMME)

#: Numbers of passed and disabled tests.
COUNTS = {"dev": (981, 0), "stable": (829, 2), "read-only": (38, 22)}


@pytest.mark.parametrize("target", OURS, ids=str)
def test_server_passes_official_suite(target, tmp_path):
    result = official.run_target(target, tmp_path)
    assert (result.failed, result.skipped) == ([], [])
    assert (len(result.passed), len(result.disabled)) == COUNTS[target.mode]
    if target.mode == "stable":
        assert {name.rpartition("/")[2] for name in result.disabled} == {"blob-post-cancel"}


@pytest.mark.peers("distribution3")
def test_incomplete_registry_fails_official_suite():
    with peers.distribution3() as registry:
        result = official.run(registry.url)
    assert "artifacts-with-subject/referrers" in result.failed
    assert "index/pull" in result.passed
