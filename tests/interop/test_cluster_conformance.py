"""Two machines with two workers each are one registry: every request of a client goes to another machine."""

import contextlib
import os
import re
import subprocess
import sys

import pytest

from tests.conformance import official
from tests.conformance.test_official import COUNTS
from tests.contracts import test_repository
from tests.contracts.test_repository import session  # noqa: F401 - a fixture
from tests.interop import test_interop, test_server_interop
from tests.interop.test_interop import flat, reachable
from tests.interop.test_server_interop import containerd  # noqa: F401 - a fixture
from tests.support import cluster, images, peers
from tests.support.home import ROOT

pytestmark = [pytest.mark.interop, pytest.mark.peers("postgresql", "versitygw")]

#: Checks of our own suite.
OWN = 250


class Cluster:
    """What the tests of other registries expect of one."""

    kind = "ocikit"

    def __init__(self, machines, host):
        self.machines = machines
        self.host = host
        self.url = f"http://{host}"

    def reference(self, repository, tag="latest"):
        return f"{self.host}/{repository}:{tag}"


@contextlib.contextmanager
def _started(references):
    options = ["--references", references, "--log-format", "json"]
    with cluster.whole(options=options) as found, found.machines.balancer() as balancer:
        yield Cluster(found.machines, balancer.host)
        assert len(balancer.counts) == 2
        for machine in found.machines:
            assert "Traceback" not in machine.log


@pytest.fixture(scope="module")
def ours():
    with _started("sparse") as found:
        yield found


@pytest.fixture(scope="module")
def strict():
    with _started("strict") as found:
        yield found


@pytest.mark.peers(official.PROGRAMME)
def test_cluster_passes_official_suite(ours):
    result = official.run(ours.url, "dev")
    assert (result.failed, result.skipped) == ([], [])
    assert (len(result.passed), len(result.disabled)) == COUNTS["dev"]


@pytest.mark.peers(official.PROGRAMME)
def test_strict_cluster_passes_official_suite(strict):
    result = official.run(strict.url, "stable")
    assert (result.failed, result.skipped) == ([], [])
    assert (len(result.passed), len(result.disabled)) == COUNTS["stable"]


@pytest.mark.parametrize("mode", ["dev", "stable"])
def test_cluster_passes_own_suite(mode, request):
    found = request.getfixturevalue({"dev": "ours", "stable": "strict"}[mode])
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-n0"]
    command += [ROOT / "tests" / "conformance", "--ignore", ROOT / "tests" / "conformance" / "test_official.py"]
    env = os.environ | {"OCIKIT_CONFORMANCE_URL": found.url, "OCIKIT_CONFORMANCE_MODE": mode}
    env.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout[-8000:]
    passed = re.search(r"^(\d+) passed", done.stdout, re.MULTILINE)
    assert passed, done.stdout[-8000:]
    assert int(passed[1]) > (OWN if mode == "dev" else OWN // 2)
    assert "skipped" not in done.stdout


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Write a multi-platform image as a layout without any client."""
    return flat(tmp_path_factory.mktemp("flat"))


@pytest.mark.peers(of=["client"])
@pytest.mark.parametrize("client", test_server_interop.WRITERS)
def test_client_reads_what_it_wrote(client, ours, content, containerd, tmp_path):
    reference = ours.reference(f"t/by-{client}", "v1")
    test_server_interop.transfer(client, f"oci:{content.layout}:v1", reference, tmp_path, containerd, ours)
    test_server_interop.transfer(client, reference, f"oci:{tmp_path / 'layout'}:v1", tmp_path, containerd, ours)
    (tmp_path / "ours").mkdir()
    test_interop.transfer("ocikit", reference, f"oci:{tmp_path / 'ours' / 'layout'}:v1", tmp_path / "ours")
    folder = tmp_path / "ours" / "layout" if client == "ctr" else tmp_path / "layout"
    for digest, raw in reachable(content.layout, content.root).items():
        assert images.blob(folder, digest).read_bytes() == raw


@pytest.mark.peers("crane", of=["client"])
@pytest.mark.parametrize("client", ["crane", "oras"])
def test_large_layer_moves_whole(client, ours, tmp_path):
    """It has more than one part of the object store, and its chunks go to both machines."""
    raw = os.urandom(40 << 20)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "large.bin").write_bytes(raw)
    reference = ours.reference(f"t/large-{client}", "v1")
    with test_interop.ocikit_in(tmp_path) as session:
        if client == "oras":
            peers.run("oras", "push", "--plain-http", reference, "large.bin", cwd=tmp_path / "work")
        else:
            session.push(reference, tmp_path / "work" / "large.bin")
        session.pull(reference, tmp_path / "back")
    assert (tmp_path / "back" / "large.bin").read_bytes() == raw


class TestRepository(test_repository.TestRepository):
    @pytest.fixture
    def registry(self, ours):
        return ours
