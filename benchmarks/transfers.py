"""Pull and push, compared with other tools and the floors in one run: `python -m benchmarks [pull|push]`.

Starts a registry on a loopback port and writes random data in three shapes. Each round runs every tool once, in an order
that rotates, and verifies the output. Prints medians, and ratios of wall time in the same round: median (least to most).
Timings of different runs are not comparable. Requests are counted by a proxy, in a run of their own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from attrs import define, evolve, field, frozen

from benchmarks.counting import Count, CountingProxy
from benchmarks.data import QUICK, SHAPES, Shape, digests, make
from benchmarks.measure import MIB, Cost, machine, measure
from benchmarks.tools import FLOORS, TOOLS, environment, missing, ocikit, pulls, pushes, versions
from tests.support import peers

KINDS = ("pull", "push")
REGISTRIES = ("distribution3", "distribution2", "ocikit")


@define
class Result:
    """What one tool has cost in each round, and its requests."""

    costs: list[Cost] = field(factory=list)
    count: Count | None = None
    failed: str = ""

    def median(self, what: Callable[[Cost], float]) -> float:
        return statistics.median(map(what, self.costs))

    def ratio(self, other: Result | None) -> str:
        """Return the ratios of wall time to another tool in the same round: median, least, most."""
        if other is None or other is self or other.failed or self.failed:
            return ""
        ratios = sorted(mine.wall / theirs.wall for mine, theirs in zip(self.costs, other.costs, strict=True))
        return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


#: Results by tool.
Results: TypeAlias = dict[str, Result]


@frozen
class Settings:
    """What to compare."""

    tools: tuple[str, ...]
    kinds: tuple[str, ...] = KINDS
    sha: bool = True
    before: Path | None = None

    def order(self, turn: int) -> list[str]:
        """Return the tools in the order of a round."""
        return [self.tools[(i + turn) % len(self.tools)] for i in range(len(self.tools))]


@frozen
class Bench:
    """Test data on a registry, as files, and as a layout."""

    settings: Settings
    registry: peers.Registry
    folder: Path
    shape: Shape
    files: list[Path]
    wanted: set[str]
    #: Where the tools connect to: the registry, or a proxy.
    host: str

    @property
    def repository(self) -> str:
        return f"bench/{self.shape.count}x{self.shape.size}"

    @property
    def reference(self) -> str:
        return f"{self.host}/{self.repository}:v1"

    @property
    def env(self) -> dict[str, str]:
        tls = self.registry.tls
        return environment(self.folder, certificate=tls[0] if tls else None, sha=self.settings.sha)

    @property
    def _options(self) -> dict[str, Any]:
        return {"tls": self.registry.tls is not None, "before": self.settings.before}

    def cost(self, command: list[str]) -> Cost:
        """Run a command with empty caches."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        # skopeo mounts a blob that it has seen in another repository: that is a different benchmark
        shutil.rmtree(self.folder / ".local", ignore_errors=True)
        shutil.rmtree("/var/lib/containers/cache", ignore_errors=True)
        return measure(
            command,
            self.files[0].parent,
            self.env,
            server=self.registry.process.pid,
            warm=min(2 * self.shape.total + 64 * MIB, 2048 * MIB),
        )

    def seed(self) -> None:
        """Push the data, for tools to pull."""
        self.cost(ocikit("push", "--quiet", self.reference, *[f.name for f in self.files]))

    def pull(self, tool: str) -> Cost:
        """Pull with a tool and verify all files.

        Raises:
            RuntimeError: The command failed, or files are missing or wrong.
        """
        blobs = [f"sha256:{digest}" for digest in sorted(self.wanted)]
        out = Path(tempfile.mkdtemp(prefix="out-", dir=self.folder))
        try:
            cost = self.cost(pulls(self.host, self.repository, blobs, **self._options)[tool](out))
            if missing := self.wanted - digests(out):
                raise RuntimeError(f"{len(missing)} of {len(self.wanted)} files are missing or wrong")
            return cost
        finally:
            shutil.rmtree(out)

    def push(self, tool: str, name: str) -> Cost:
        """Push with a tool to a new repository and compare the manifest's layers with the files.

        Raises:
            RuntimeError: The command failed, or the registry has other blobs.
        """
        reference = f"{self.host}/{self.repository}-{tool}-{name}:v1"
        cost = self.cost(pushes(self.host, self.files, self.folder / "layout", **self._options)[tool](reference))
        if tool not in FLOORS:
            check = subprocess.run(
                ocikit("inspect", "--raw", reference), env=self.env, capture_output=True, text=True, check=True
            )
            if not self.wanted <= {layer["digest"][7:] for layer in json.loads(check.stdout)["layers"]}:
                raise RuntimeError("the registry has other blobs than were pushed")
        return cost

    def run(self, kind: str, tool: str, name: str) -> Cost:
        return self.pull(tool) if kind == "pull" else self.push(tool, name)

    def counted(self, kind: str, tool: str) -> Count:
        """Run a tool once through a proxy and return its requests."""
        with CountingProxy(self.registry.url) as proxy:
            evolve(self, host=proxy.host).run(kind, tool, "counted")
            return proxy.count


@contextmanager
def prepared(settings: Settings, registry: peers.Registry, folder: Path, shape: Shape) -> Iterator[Bench]:
    """Write test data and push it."""
    files = make(folder / "data", shape)
    bench = Bench(settings, registry, folder, shape, files, digests(folder / "data"), registry.host)
    bench.seed()
    bench.cost(ocikit("copy", "--quiet", bench.reference, f"oci:{folder / 'layout'}:v1"))
    yield bench
    shutil.rmtree(folder / "data")
    shutil.rmtree(folder / "layout")


def compare(bench: Bench, rounds: int, *, count: bool) -> dict[str, Results]:
    """Run every tool in turn, and return results by direction. A tool that fails once is not run again."""
    results: dict[str, Results] = {kind: {} for kind in bench.settings.kinds}
    for turn in range(rounds):
        for kind, found in results.items():
            for tool in bench.settings.order(turn):
                if tool == ("openssl" if kind == "pull" else "curl"):
                    continue
                result = found.setdefault(tool, Result())
                if result.failed:
                    continue
                try:
                    result.costs.append(bench.run(kind, tool, str(turn)))
                except RuntimeError as error:
                    result.failed = str(error).strip().splitlines()[-1][:100]
        print(f"  round {turn + 1} of {rounds} done", file=sys.stderr)
    if count:
        for kind, found in results.items():
            for tool, result in found.items():
                if tool != "openssl" and not result.failed:
                    result.count = bench.counted(kind, tool)
    return results


def verifying(settings: Settings, registry: peers.Registry, folder: Path) -> dict[str, str]:
    """Return which tools detect a damaged blob of the registry."""
    verdicts = {}
    with prepared(settings, registry, folder, Shape(1, MIB)) as bench:
        (digest,) = bench.wanted
        (stored,) = list(registry.storage.rglob(f"{digest}/data")) or [
            path for path in registry.storage.rglob(f"*{digest}") if path.is_file()
        ]
        content = bytearray(stored.read_bytes())
        content[1000] ^= 1
        stored.chmod(0o644)
        stored.write_bytes(content)
        for tool in settings.tools:
            if tool == "openssl":
                continue
            try:
                bench.pull(tool)
            except RuntimeError as error:
                last = str(error).strip().splitlines()[-1][:100]
                verdicts[tool] = "no" if "missing or wrong" in last else f"yes: {last}"
    return verdicts


def table(results: Results, blobs: int) -> str:
    """Return the results of one direction and shape as Markdown."""
    lines = [
        "| tool | wall s | ratio to oras | ocikit's to it | CPU s | registry CPU s | peak MiB | requests a blob | connections |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for tool in sorted(results, key=TOOLS.index):
        result = results[tool]
        name = f"{tool} (floor)" if tool in FLOORS else tool
        if result.failed:
            lines.append(f"| {name} | failed: {result.failed} |")
            continue
        cells = [name, f"{result.median(lambda c: c.wall):.2f}", result.ratio(results.get("oras"))]
        cells.append(ours.ratio(result) if (ours := results.get("ocikit")) else "")
        cells += [
            f"{result.median(lambda c: c.cpu):.2f}",
            f"{result.median(lambda c: c.server):.2f}",
            f"{result.median(lambda c: c.memory) / MIB:.0f}",
        ]
        if count := result.count:
            cells += [f"{count.requests / blobs:.2f}", f"{count.connections}"]
        else:
            cells += ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("kind", nargs="?", choices=KINDS, help="one direction only")
    parser.add_argument("--rounds", type=int, help="5, or 1 with --quick")
    parser.add_argument("--shape", choices=list(SHAPES), action="append", help="1: one blob, 2: eight, 3: a thousand")
    parser.add_argument("--tool", choices=TOOLS, action="append", help="only these")
    parser.add_argument("--registry", choices=REGISTRIES, default=REGISTRIES[0])
    parser.add_argument("--tls", action="store_true", help="use TLS with a certificate that each tool trusts")
    parser.add_argument("--no-sha", action="store_true", help="mask the SHA instructions for all clients")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another checkout of ocikit, as a tool `before`")
    parser.add_argument("--no-count", action="store_true", help="skip the runs that count requests")
    parser.add_argument("--quick", action="store_true", help="small files, for a look in two minutes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stop the registry and delete gibibytes of files
    rounds = options.rounds or (1 if options.quick else 5)
    lacking = missing()
    tools = tuple(
        tool for tool in options.tool or TOOLS if tool not in lacking and (tool != "before" or options.before)
    )
    if lacking:
        print(f"missing: {', '.join(lacking)}; run `bash .ci/peers`", file=sys.stderr)
    before = options.before.resolve() if options.before else None
    settings = Settings(tools, (options.kind,) if options.kind else KINDS, not options.no_sha, before)
    shapes = QUICK if options.quick else SHAPES
    with tempfile.TemporaryDirectory(prefix="ocikit-bench-") as name:
        folder = Path(name)
        tls = peers.certificate(folder) if options.tls else None
        with peers.KINDS[options.registry](tls=tls) as registry:
            print(f"{options.registry}{' with TLS' if tls else ''}; rounds: {rounds}; {machine(sha=settings.sha)}")
            print(versions(), flush=True)
            for shape in [shapes[each] for each in options.shape or shapes]:
                with prepared(settings, registry, folder, shape) as bench:
                    for kind, results in compare(bench, rounds, count=not (tls or options.no_count)).items():
                        print(f"\n{kind}, {shape}\n\n{table(results, shape.count)}", flush=True)
            if "pull" in settings.kinds:
                print("\ndetects a damaged blob on pull\n\n| tool | |\n|---|---|")
                for tool, verdict in verifying(settings, registry, folder).items():
                    print(f"| {tool} | {verdict} |")


if __name__ == "__main__":
    main()
