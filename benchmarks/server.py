"""Our registry compared with distribution 3 in one run: `python -m benchmarks server`.

Pushes and pulls the three shapes of `python -m benchmarks` with oras and ocikit, at both registries in turn. Then moves
`--gib` gibibytes in and out of ours and prints its peak memory, and the cost of a rejected upload.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

from attrs import evolve

from benchmarks.data import QUICK, SHAPES, Shape
from benchmarks.measure import MIB, Cost, family, high_water, machine, measure
from benchmarks.tools import environment, pulls, pushes
from benchmarks.transfers import KINDS, Settings, prepared
from tests.support import peers

CLIENTS = ("oras", "ocikit")
OURS, THEIRS = "ocikit", "distribution 3"


def throughput(mine: peers.Registry, theirs: peers.Registry, shape: Shape, rounds: int, folder: Path) -> None:
    """Print medians, ratios in the same round, and the registries' CPU seconds, for one shape."""
    costs: dict[tuple[str, str, str], list[Cost]] = {}
    with prepared(Settings(CLIENTS), mine, folder, shape) as first:
        second = evolve(first, registry=theirs, host=theirs.host)
        second.seed()
        for turn in range(rounds):
            benches = [(OURS, first), (THEIRS, second)]
            for kind in KINDS:
                for client in CLIENTS:
                    for name, bench in benches if turn % 2 else reversed(benches):
                        costs.setdefault((kind, client, name), []).append(bench.run(kind, client, str(turn)))
            print(f"  round {turn + 1} of {rounds} done", file=sys.stderr)
    print(
        f"\n{shape}\n\n| | {OURS} s | {THEIRS} s | ratio | {OURS} CPU s | {THEIRS} CPU s |\n|---|---|---|---|---|---|"
    )
    for kind in KINDS:
        for client in CLIENTS:
            pair = [costs[kind, client, name] for name in (OURS, THEIRS)]
            ratios = sorted(one.wall / other.wall for one, other in zip(*pair, strict=True))
            walls = " | ".join(f"{statistics.median(cost.wall for cost in each):.2f}" for each in pair)
            cpus = " | ".join(f"{statistics.median(cost.server for cost in each):.2f}" for each in pair)
            ratio = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            print(f"| {kind} by {client} | {walls} | {ratio} | {cpus} |", flush=True)


def memory(registry: peers.Registry, gib: int, folder: Path) -> None:
    """Print the peak memory of all server processes while gibibytes go in and out."""
    env, data = environment(folder), folder / "data"
    data.mkdir()
    big = data / "big.bin"
    with big.open("wb") as file:
        for _ in range(gib * 1024):
            file.write(os.urandom(MIB))
    out = folder / "out"
    pushed = measure(pushes(registry.host, [big], folder)["oras"](f"{registry.host}/bench/big:v1"), data, env)
    pulled = measure(pulls(registry.host, "bench/big", [])["oras"](out), data, env)
    shutil.rmtree(data)
    shutil.rmtree(out)
    peak = sum(high_water(pid) for pid in family(registry.process.pid))
    print(
        f"\n{gib} GiB in {pushed.wall:.1f} s, out {pulled.wall:.1f} s: "
        f"server's peak memory {peak / MIB:.0f} MiB, all processes together"
    )


def refused(registry: peers.Registry) -> None:
    """Print the bytes that the server reads of a rejected 4 GiB upload."""
    announced, sent = 4 << 30, 0
    host, _, port = registry.host.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /v2/a/blobs/uploads/?digest=sha256:{'0' * 64} HTTP/1.1\r\nHost: {registry.host}\r\n"
        connection.sendall(f"{head}Content-Length: {announced}\r\n\r\n".encode())
        block = bytes(65536)
        started = time.perf_counter()
        try:
            while sent < announced:
                sent += connection.send(block)
        except OSError:
            pass
    print(f"a refused upload of 4 GiB: {sent / 1e6:.1f} MB taken in {time.perf_counter() - started:.2f} s, then closed")


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks server", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", choices=list(SHAPES), action="append")
    parser.add_argument("--gib", type=int, default=4, help="0 skips the test of memory")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tls", action="store_true", help="use TLS")
    parser.add_argument("--quick", action="store_true", help="small files")
    options = parser.parse_args()
    shapes = QUICK if options.quick else SHAPES
    with tempfile.TemporaryDirectory(prefix="ocikit-bench-") as name:
        folder = Path(name)
        tls = peers.certificate(folder) if options.tls else None
        with peers.ocikit(workers=options.workers, tls=tls) as mine, peers.distribution3(tls=tls) as theirs:
            print(f"rounds: {options.rounds}; workers of ours: {options.workers}; {machine(sha=True)}", flush=True)
            for shape in options.shape or shapes:
                throughput(mine, theirs, shapes[shape], options.rounds, folder)
        if options.gib:
            with peers.ocikit(workers=options.workers) as mine:
                memory(mine, options.gib, folder)
        with peers.ocikit(options=["--read-only"]) as mine:
            refused(mine)


if __name__ == "__main__":
    main()
