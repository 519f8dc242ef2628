"""The embedded registry of this checkout compared with another checkout's: `python -m benchmarks before FOLDER`.

Prints requests a second on SQLite and files, the time until `ocikit.serve()` is ready, and the CPU time of imports. Rounds are
interleaved, and ratios are those within a round.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import ocikit
from benchmarks.clients import clients
from benchmarks.cluster import MATRIX, compare, spread
from benchmarks.measure import machine
from benchmarks.stacks import stacks

BEFORE, AFTER = "before", "after"

#: Prints the milliseconds from the call until a client is answered.
_START = """
import time, http.client, ocikit
begun = time.perf_counter()
server = ocikit.serve()
connection = http.client.HTTPConnection(server.host)
connection.request("GET", "/v2/")
assert connection.getresponse().status == 200
print((time.perf_counter() - begun) * 1000)
server.stop()
"""


def start(env: Mapping[str, str], folder: Path) -> float:
    """Return the milliseconds until `ocikit.serve()` is ready."""
    done = subprocess.run(
        [sys.executable, "-c", _START], env=env, cwd=folder, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def importing(code: str) -> Callable[[Mapping[str, str], Path], float]:
    """Return a function that measures the CPU milliseconds of a process."""

    def measured(env: Mapping[str, str], folder: Path) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000

    return measured


_MEASURES: dict[str, Callable[[Mapping[str, str], Path], float]] = {
    "ocikit.serve() until an answer, ms": start,
    "ocikit.serve() until it is stopped, CPU ms of both processes": importing(_START),
    "import ocikit, CPU ms": importing("import ocikit"),
    "import ocikit.server, CPU ms": importing("import ocikit.server"),
    "python -m ocikit serve --help, CPU ms": importing(
        "import contextlib, io, ocikit.cli\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): ocikit.cli.main(['serve', '--help'])"
    ),
}


def processes(checkouts: Mapping[str, Path], rounds: int) -> None:
    """Print what processes cost."""
    results: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="ocikit-bench-") as name:
        for turn in range(rounds + 1):
            for what, measure in _MEASURES.items():
                for which in (BEFORE, AFTER) if turn % 2 else (AFTER, BEFORE):
                    env = {**os.environ, "PYTHONPATH": str(checkouts[which]), "HOME": name}
                    value = measure(env, Path(name))
                    if turn:  # the first round compiles
                        results.setdefault((what, which), []).append(value)
    print("\n| | before | after | least before | least after | after : before |\n|---|---|---|---|---|---|")
    for what in _MEASURES:
        one, other = results[what, BEFORE], results[what, AFTER]
        ratios = [second / first for first, second in zip(one, other, strict=True)]
        cells = f"{statistics.median(one):.0f} | {statistics.median(other):.0f} | {min(one):.0f} | {min(other):.0f}"
        print(f"| {what} | {cells} | {spread(ratios)} |", flush=True)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks before", description=__doc__)
    parser.add_argument("folder", type=Path, help="the other checkout")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    mine = Path(ocikit.__file__).parent.parent
    print(f"rounds: {options.rounds}; {machine(sha=True)}", flush=True)
    with stacks() as make, clients(2, 16) as load:
        chosen = [
            make.embedded(BEFORE, options.workers, checkout=options.folder.resolve()),
            make.embedded(AFTER, options.workers, checkout=mine),
        ]
        compare(chosen, [*MATRIX, "HEAD blob"], load, options.rounds, options.seconds).print([BEFORE, AFTER], BEFORE)
    processes({BEFORE: options.folder.resolve(), AFTER: mine}, options.rounds)


if __name__ == "__main__":
    main()
