"""Our registry compared with distribution 3 in one run: `python -m benchmarks.server`.

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
from collections.abc import Iterable
from pathlib import Path

from benchmarks.__main__ import MIB, SHAPES, Cost, digests, environment, high_water, make, measure, ocikit
from tests.support import peers

CLIENTS = ("oras", "ocikit")


def client(name: str, verb: str, reference: str, names: list[str], out: Path) -> list[str]:
    """Return the command of a client."""
    if name == "ocikit":
        return ocikit(verb, "--quiet", reference, *(names if verb == "push" else [str(out)]))
    oras = [str(peers.find("oras")), verb, "--plain-http"]
    if verb == "push":
        return [*oras, "--artifact-type", "application/x.bench", reference, *names]
    return [*oras, reference, "-o", str(out)]


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        children += [int(child) for child in (task / "children").read_text().split()]
    return [pid, *(each for child in children for each in family(child))]


def throughput(registries: dict[str, peers.Registry], shapes: Iterable[str], rounds: int, folder: Path) -> None:
    """Return medians and ratios, a table for each shape."""
    env = environment(folder)
    for shape in shapes:
        data = folder / "data"
        names = [path.name for path in make(data, shape)]
        wanted = digests(data)
        costs: dict[tuple[str, str, str], list[Cost]] = {}
        for turn in range(rounds):
            for name in CLIENTS:
                for kind, registry in registries.items():
                    reference = f"{registry.host}/bench/{len(names)}-{name}-{turn}:v1"
                    pushed = measure(client(name, "push", reference, names, data), data, env)
                    costs.setdefault(("push", name, kind), []).append(pushed)
                    out = folder / "out"
                    shutil.rmtree(folder / "cache", ignore_errors=True)
                    pulled = measure(client(name, "pull", reference, names, out), data, env)
                    costs.setdefault(("pull", name, kind), []).append(pulled)
                    if not wanted <= digests(out):
                        raise RuntimeError(f"{name} pulled something else from {kind}")
                    shutil.rmtree(out)
            print(f"  round {turn + 1} of {rounds} done", file=sys.stderr)
        shutil.rmtree(data)
        print(f"\n{shape}\n\n| | {' | '.join(f'{kind} s' for kind in registries)} | our speed to distribution's |")
        print(f"|---|{'---|' * len(registries)}---|")
        for verb in ("push", "pull"):
            for name in CLIENTS:
                medians = [statistics.median(cost.wall for cost in costs[verb, name, kind]) for kind in registries]
                cells = " | ".join(f"{wall:.2f}" for wall in medians)
                print(f"| {verb} by {name} | {cells} | {medians[-1] / medians[0]:.2f} |")


def memory(registry: peers.Registry, gib: int, folder: Path) -> None:
    """Return the peak memory of all server processes while gibibytes go in and out."""
    env, data = environment(folder), folder / "data"
    data.mkdir()
    with (data / "big.bin").open("wb") as file:
        for _ in range(gib * 1024):
            file.write(os.urandom(MIB))
    reference = f"{registry.host}/bench/big:v1"
    pushed = measure(client("oras", "push", reference, ["big.bin"], data), data, env)
    pulled = measure(client("oras", "pull", reference, [], folder / "out"), data, env)
    peak = sum(high_water(pid) for pid in family(registry.process.pid))
    print(
        f"\n{gib} GiB in {pushed.wall:.1f} s, out {pulled.wall:.1f} s: "
        f"server's peak memory {peak / MIB:.0f} MiB, all processes together"
    )


def refused(registry: peers.Registry) -> None:
    """Return the bytes that the server reads of a rejected 4 GiB upload."""
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.server", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shape", choices=["1", "2", "3"], action="append")
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    shapes = [list(SHAPES)[int(i) - 1] for i in options.shape or ("1", "2", "3")]

    with tempfile.TemporaryDirectory(prefix="ocikit-bench-") as name:
        with peers.ocikit(workers=options.workers) as mine, peers.distribution3() as theirs:
            print(f"{options.rounds} rounds, medians; our workers: {options.workers}")
            throughput({"ocikit": mine, "distribution 3": theirs}, shapes, options.rounds, Path(name))
        if options.gib:
            with peers.ocikit(workers=options.workers) as mine:
                memory(mine, options.gib, Path(name))
        with peers.ocikit(options=["--read-only"]) as mine:
            refused(mine)


if __name__ == "__main__":
    main()
