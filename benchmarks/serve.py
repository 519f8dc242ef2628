"""Start and stop times of `ocikit.serve()`: `python -m benchmarks.serve`.

Measures from a fresh interpreter to the first response of `/v2/`, and the duration of `stop()` during a transfer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import requests

import ocikit
from benchmarks.measure import MIB
from benchmarks.tools import environment

# The system clock, because the interpreter's own start counts
START = """
import ocikit, time
server = ocikit.serve()
import http.client
connection = http.client.HTTPConnection(server.host)
connection.request("GET", "/v2/")
assert connection.getresponse().status == 200
print(time.clock_gettime(time.CLOCK_MONOTONIC), flush=True)
"""


def coming(folder: Path) -> float:
    """Return the seconds from the start of an interpreter to the first response."""
    started = time.clock_gettime(time.CLOCK_MONOTONIC)
    done = subprocess.run(
        [sys.executable, "-c", START], env=environment(folder), cwd=folder, capture_output=True, text=True, check=True
    )
    return float(done.stdout) - started


def going(folder: Path) -> float:
    """Return the seconds of a stop while a client downloads a blob."""
    big = folder / "big.bin"
    if not big.exists():
        big.write_bytes(os.urandom(256 * MIB))
    server = ocikit.serve()
    with ocikit.Session(cache=folder / "cache", progress="none") as session:
        pushed = session.push(f"{server.host}/bench/big:v1", big)
        digest = pushed.manifest.layers[0].digest
    with requests.get(f"{server.url}/v2/bench/big/blobs/{digest}", stream=True, timeout=10) as response:
        response.raw.read(MIB)
        started = time.perf_counter()
        server.stop()
        return time.perf_counter() - started


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocikit-bench-") as name:
        for what, work in (
            ("fresh interpreter until the first answer", coming),
            ("stop, in the middle of a blob", going),
        ):
            times = [work(Path(name)) for _ in range(options.rounds)]
            print(f"{what}: median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}")


if __name__ == "__main__":
    main()
