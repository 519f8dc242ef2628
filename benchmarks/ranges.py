"""One large blob over slow connections: `python -m benchmarks.ranges`.

A proxy limits the rate of each connection, as registries and their storage do. Prints medians, the ratio of wall time to
oras and crane in the same round, requests and connections; then the same for a registry without ranges, and the bytes that
a second pull requests again after `kill -9` in the middle of the first. `--rate 0` measures without a limit.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from attrs import evolve

from benchmarks.counting import CountingProxy
from benchmarks.data import Shape, digests, make
from benchmarks.measure import MIB, Cost, machine, measure
from benchmarks.tools import environment, ocikit, pulls
from ocikit.testing.messages import Request
from tests.support import peers

#: Pulls with one connection for each blob.
SINGLE = """
import sys, ocikit
from ocikit.remote.config.network import Network
ocikit.Session(network=Network(ranges=False), progress=False).pull(sys.argv[1], sys.argv[2])
"""


def without_range(request: Request) -> Request:
    """Return a request as a registry without ranges understands it."""
    headers = copy.copy(request.headers)
    del headers["Range"]
    return evolve(request, headers=headers)


def throttle(proxy: CountingProxy, rate: float, delay: float) -> None:
    """Limit the rate of each response, and delay it.

    Args:
        proxy: In front of the registry.
        rate: Bytes a second; 0 sets no limit.
        delay: Seconds.
    """
    proxy.faults.clear()
    proxy.on("GET", ".*/blobs/.*", times=None, throttle=rate, delay=delay)


def clear(proxy: CountingProxy, folder: Path) -> Path:
    """Forget all counts and cached content; return a new folder to pull to."""
    proxy.passed.clear()
    proxy.connections = 0
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "out").mkdir()
    return folder / "out"


def compare(proxy: CountingProxy, folder: Path, size: int, wanted: set[str], rounds: int, tools: list[str]) -> None:
    """Pull with each tool in turn and print a table."""
    commands = pulls(proxy.host, "bench/ranges", sorted(f"sha256:{digest}" for digest in wanted))
    single = ["env", "PYTHONPATH=.", *ocikit()[:1], "-c", SINGLE, f"{proxy.host}/bench/ranges:v1"]
    commands["single"] = lambda out: [*single, str(out)]
    costs: dict[str, list[Cost]] = {tool: [] for tool in tools}
    counts: dict[str, tuple[int, int]] = {}
    for turn in range(rounds):
        for i in range(len(tools)):
            tool = tools[(i + turn) % len(tools)]
            out = clear(proxy, folder)
            cost = measure(commands[tool](out), Path.cwd(), environment(folder), warm=size + 64 * MIB)
            if not wanted <= digests(out):
                raise RuntimeError(f"{tool} has not pulled the content")
            costs[tool].append(cost)
            counts[tool] = len(proxy.passed), proxy.connections
    print("| tool | s | CPU s | MiB | requests | connections |", *(f"to {t} |" for t in tools if t != "ocikit"))
    print("|---|--:|--:|--:|--:|--:|" + "--:|" * sum(t != "ocikit" for t in tools))
    for tool in tools:
        mine = costs[tool]
        wall, cpu = (statistics.median(getattr(c, what) for c in mine) for what in ("wall", "cpu"))
        ratios = (
            statistics.median(a.wall / b.wall for a, b in zip(mine, costs[other], strict=True))
            for other in tools
            if other != "ocikit"
        )
        memory = max(c.memory for c in mine) // MIB
        print(f"| {tool} | {wall:.2f} | {cpu:.2f} | {memory} | {counts[tool][0]} | {counts[tool][1]} |",
              *(f"{ratio:.2f} |" for ratio in ratios), flush=True)  # fmt: skip


def killed(proxy: CountingProxy, folder: Path, size: int, wanted: set[str]) -> int:
    """Return the bytes that two pulls have received in excess of the blob, if `kill -9` ends the first in its middle."""
    out = clear(proxy, folder)
    command = ocikit("pull", "--quiet", f"{proxy.host}/bench/ranges:v1", str(out))
    first = subprocess.Popen(command, env=environment(folder))
    while sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and out in path.parents) < size // 2:
        time.sleep(0.01)
    first.kill()
    first.wait()
    time.sleep(1)  # the proxy notices
    subprocess.run(command, env=environment(folder), check=True)
    if not wanted <= digests(out):
        raise RuntimeError("the content is wrong")
    return sum(each.sent for each in proxy.passed) - size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=128, help="MiB (128)")
    parser.add_argument("--rate", type=float, default=20.0, help="MB a second and connection (20)")
    parser.add_argument("--delays", type=float, nargs="*", default=[0.0, 0.03], help="seconds (0 and 0.03)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tools", nargs="*", default=["ocikit", "single", "oras", "crane"])
    options = parser.parse_args()
    size = options.size * MIB
    with tempfile.TemporaryDirectory() as name, peers.distribution3() as registry, CountingProxy(registry.url) as proxy:
        folder = Path(name)
        files = make(folder / "data", Shape(1, size))
        wanted = digests(folder / "data")
        push = ocikit("push", "--quiet", f"{registry.host}/bench/ranges:v1", files[0].name)
        subprocess.run(push, cwd=files[0].parent, env=environment(folder), check=True)
        print(f"{machine(sha=True)}\n\none blob of {options.size} MiB, {options.rate:g} MB/s a connection")
        for delay in options.delays:
            print(f"\n{delay * 1000:g} ms until a response:\n", flush=True)
            throttle(proxy, options.rate * 1e6, delay)
            compare(proxy, folder, size, wanted, options.rounds, options.tools)
        print("\na registry without ranges:\n", flush=True)
        proxy.before.append(without_range)
        throttle(proxy, options.rate * 1e6, 0)
        compare(proxy, folder, size, wanted, options.rounds, [t for t in options.tools if t in {"ocikit", "single"}])
        proxy.before.clear()
        if options.rate:
            throttle(proxy, options.rate * 1e6, 0)
            again = [killed(proxy, folder, size, wanted) / MIB for _ in range(3)]
            print(f"\nafter kill -9 at 50 %, requested again [MiB]: {', '.join(f'{each:.1f}' for each in again)}")


if __name__ == "__main__":
    main()
