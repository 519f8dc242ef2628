"""A short run of `python -m tests.tools.soak_wild`."""

from pathlib import Path

import pytest

from tests.tools import soak_wild

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="it looks at processes in /proc")

CONNECTIONS = 8  # that a session has open


def test_processes_survive_faulty_network():
    found = soak_wild.soak(20, processes=2, pause=0.05, rate=0.08, seed=7, grace=5, every=0.2, collect_every=1)
    assert found["wrong"] == []
    assert found["done"].keys() == soak_wild.DEEDS.keys()
    assert found["errors"]
    assert len(found["faults"]) == 9
    assert min(found["layout blobs"], found["cache blobs"], found["registry blobs"]) > 5
    assert found["layout misses"] == 0
    for name in ("process 0", "process 1"):
        left = found["open"][name]["end"]
        assert left["sockets"] <= CONNECTIONS, name
        assert left["files"] - left["sockets"] <= 3, name  # contents of every process
        assert left["threads"] == 1, name
    for name, spans in found["open"].items():
        assert spans["end"]["files"] <= spans["warm"]["files"] + CONNECTIONS, name
        assert spans["end"]["threads"] <= spans["warm"]["threads"] + CONNECTIONS, name


def test_corruption_is_detected(tmp_path):
    (tmp_path / "7-100.bin").write_bytes(soak_wild.content("7-100.bin"))
    soak_wild.check(tmp_path, {"7-100.bin"})
    (tmp_path / "7-100.bin").write_bytes(soak_wild.content("8-100.bin"))
    with pytest.raises(soak_wild.Wrong, match="damaged"):
        soak_wild.check(tmp_path, {"7-100.bin"})
    with pytest.raises(soak_wild.Wrong, match="instead of"):
        soak_wild.check(tmp_path, {"7-100.bin", "8-100.bin"})
