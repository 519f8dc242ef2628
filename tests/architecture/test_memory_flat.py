"""Flat memory: peak resident memory of a push and a pull above an idle interpreter.

`OCIKIT_MEMORY_MIB=1024 pytest tests/architecture/test_memory_flat.py` measures with a larger file.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.support.home import ROOT

MIB = 1 << 20
SIZE = int(os.environ.get("OCIKIT_MEMORY_MIB", "256")) * MIB
LIMIT = 100 * MIB


def peak(code, home):
    """Return the peak resident memory of an interpreter that runs the code [bytes]."""
    # A child inherits ru_maxrss from its parent process. VmHWM starts again at exec
    whole = (
        "import ocikit, json, sys\n"
        + textwrap.dedent(code)
        + textwrap.dedent("""
        with open("/proc/self/status") as status:
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        print(json.dumps(peak * 1024))
    """)
    )
    done = subprocess.run(
        [sys.executable, "-c", whole],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux reports the peak memory of a process")
@pytest.mark.parametrize("kind", ["layout", "registry", "archive"])
def test_push_and_pull_use_little_memory(kind, home, request, record_property):
    if kind == "registry":
        host = request.getfixturevalue("stored").host
    ref = {"layout": "oci:store:v1", "registry": "{host}/t/big:v1", "archive": "oci-archive:store.tar:v1"}[kind]
    ref = ref.format(host=host) if kind == "registry" else ref
    size = SIZE if kind != "archive" else SIZE // 4
    with open(home / "big.bin", "wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    idle = peak("", home)
    steps = {
        "push": f"ocikit.push({ref!r}, 'big.bin')",
        "push packed": f"ocikit.push({ref!r} + '-packed', '.', include='*.bin', archive='tar')",
        "pull to a folder": f"ocikit.pull({ref!r}, 'out')",
        "pull to the cache": f"ocikit.pull({ref!r})",
        "read": f"""
            with ocikit.open({ref!r}, 'big.bin') as stream:
                while stream.read(1 << 20): pass
        """,
        "copy": f"ocikit.copy({ref!r}, 'oci:copy')",
    }
    above = {name: peak(code, home) - idle for name, code in steps.items()}
    for name, value in above.items():
        record_property(f"{kind}, {name} (MiB above idle)", round(value / MIB, 1))
    print(kind, {name: round(value / MIB, 1) for name, value in above.items()}, "MiB above", round(idle / MIB, 1))
    assert max(above.values()) < LIMIT, above
    assert (home / "out/big.bin").stat().st_size == size


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux reports the peak memory of a process")
@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_saved_stream_of_a_table_uses_little_memory(format, home, record_property):
    code = """
        import numpy as np, pyarrow as pa
        ROWS = 1 << 17
        schema = pa.schema([("a", pa.float64())])
        def batches(count):
            random = np.random.default_rng(1)
            for _ in range(count):
                yield pa.record_batch([random.random(ROWS)], schema)
        def save(count):
            reader = pa.RecordBatchReader.from_batches(schema, batches(count))
            ocikit.save("oci:store:v1", reader, format=FORMAT)
    """.replace("FORMAT", repr(format))
    few, many = (peak(textwrap.dedent(code) + f"save({count})", home) for count in (8, 8 + SIZE // MIB))
    record_property(f"{format} (MiB above a small one)", round((many - few) / MIB, 1))
    assert many - few < LIMIT * 2, (few, many)  # a group of rows is collected, and encoded


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux reports the peak memory of a process")
def test_measurement_sees_short_allocations(home):
    assert peak("x = b'x' * (200 << 20); del x", home) - peak("", home) > 190 * MIB


@pytest.fixture(scope="module")
def stored():
    """Use a real registry, because the fake one keeps content in memory."""
    from tests.support import peers

    with peers.distribution2() as running:
        yield running
