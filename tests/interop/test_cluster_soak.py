"""A cluster loses nothing that it acknowledged when its parts are killed and when the network fails; short runs of `tests.tools`."""

import pytest

from tests.tools import cluster_faults, soak_cluster

pytestmark = [pytest.mark.interop, pytest.mark.peers("postgresql", "versitygw")]

#: Seconds that a busy machine needs for what takes 2 and 15 usually.
RECOVERY, LONGEST = 10.0, 30.0

#: Faults without a measurement.
UNTIMED = ("A", "B", "D", "F", "G")


def test_killed_parts_of_cluster_lose_nothing():
    found = soak_cluster.soak(30, clients=12, every=5, recovery=RECOVERY, longest=LONGEST)
    assert found["wrong"] == []
    assert found["acknowledged"] > 100
    assert {"worker", "machine", "postgres", "s3"} <= found["outages"].keys()


def test_faults_of_network_lose_nothing():
    names = ("cut", "refuse", "cut in the middle", "black hole")
    found = soak_cluster.soak(42, clients=12, every=1, network=names, recovery=RECOVERY, longest=LONGEST)
    assert found["wrong"] == []
    assert found["acknowledged"] > 100
    assert {"postgres cut", "s3 cut", "postgres black hole"} <= found["outages"].keys()


@pytest.fixture(scope="module")
def stack():
    with cluster_faults.stacks() as started:
        yield started


@pytest.mark.parametrize("letter", UNTIMED)
def test_fault_of_shared_storage_is_harmless(stack, letter):
    stack.fresh()
    try:
        text, ok = cluster_faults.FAULTS[letter](stack)
    finally:
        stack.close()
    assert ok, text
