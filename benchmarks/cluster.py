"""The registry on three pairs of stores compared with distribution 3 on the same S3 server: `python -m benchmarks cluster`.

The stores are SQLite and files, PostgreSQL and files, PostgreSQL and S3 (versitygw), with 1, 2 and 4 workers. Rounds are
interleaved: in each, every stack is loaded in turn with each operation. Prints medians over the rounds, ratios to distribution
3 within a round, and the CPU time of an operation over all processes: server, database, object store. The clients' own CPU
time is shown apart. `--large` moves blobs of a gibibyte, streamed and redirected.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attrs import define, field, frozen

from benchmarks.clients import OPERATIONS, Clients, clients, prepare, pull, push_file
from benchmarks.measure import MIB, machine
from benchmarks.stacks import Stack, Stacks, stacks

THEIRS = "distribution 3"
MATRIX = ("GET manifest by tag", "GET blob 64 KiB", "PUT manifest + tag", "push blob 4 KiB")
KINDS = {"sqlite": "SQLite + files", "files": "PostgreSQL + files", "s3": "PostgreSQL + S3"}


@frozen
class Result:
    """One stack under one operation in one round."""

    rate: float
    #: CPU milliseconds of an operation: server, database, store.
    costs: tuple[float, ...]
    #: CPU milliseconds of an operation in the clients.
    client: float
    #: 99th percentile of the latency in milliseconds.
    slow: float
    failures: dict[int, int]

    @property
    def cost(self) -> float:
        return sum(self.costs)


def run(stack: Stack, load: Clients, operation: str, seconds: float) -> Result:
    """Load a stack with an operation."""
    before = stack.cpu()
    done = load.load(stack.host, operation, seconds)
    count = max(done.count, 1)
    costs = tuple((after - first) * 1000 / count for first, after in zip(before, stack.cpu(), strict=True))
    slow = statistics.quantiles(done.latencies, n=100)[-1] * 1000 if len(done.latencies) > 1 else 0.0
    return Result(done.rate, costs, done.cpu * 1000 / count, slow, done.failures)


@define
class Table:
    """Results by operation and stack, one for each round."""

    results: dict[tuple[str, str], list[Result]] = field(factory=dict)

    def add(self, operation: str, stack: str, result: Result) -> None:
        self.results.setdefault((operation, stack), []).append(result)

    def print(self, names: Sequence[str], reference: str) -> None:
        """Print the medians, and ratios to the reference in the same round."""
        for operation in dict.fromkeys(key for key, _ in self.results):
            print(
                f"\n{operation}\n\n| | /s | ratio of rates | p99 ms | CPU ms | of it server + stores | ratio of CPU | client ms |"
            )
            print("|---|---|---|---|---|---|---|---|")
            base = self.results.get((operation, reference), [])
            for name in names:
                mine = self.results[operation, name]
                rates = [one.rate / other.rate for one, other in zip(mine, base, strict=False)]
                costs = [other.cost / max(one.cost, 1e-9) for one, other in zip(mine, base, strict=False)]
                parts = " + ".join(
                    f"{statistics.median(part):.2f}" for part in zip(*(one.costs for one in mine), strict=True)
                )
                print(
                    f"| {name} | {median(mine, lambda one: one.rate):.0f} | {spread(rates)} "
                    f"| {median(mine, lambda one: one.slow):.1f} | {median(mine, lambda one: one.cost):.2f} | {parts} "
                    f"| {spread(costs)} | {median(mine, lambda one: one.client):.2f} |{failed(mine)}",
                    flush=True,
                )


def median(results: Sequence[Result], value: Callable[[Result], float]) -> float:
    return statistics.median(value(one) for one in results)


def spread(ratios: Sequence[float]) -> str:
    if not ratios:
        return ""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def failed(results: Sequence[Result]) -> str:
    statuses: dict[int, int] = {}
    for one in results:
        for status, count in one.failures.items():
            statuses[status] = statuses.get(status, 0) + count
    return f" failures: {statuses}" if statuses else ""


def compare(chosen: Sequence[Stack], operations: Sequence[str], load: Clients, rounds: int, seconds: float) -> Table:
    """Load all stacks with all operations, in turn in each round."""
    for stack in chosen:
        prepare(stack.host)
        for operation in operations:  # caches and pools fill
            run(stack, load, operation, 0.3)
    table = Table()
    for turn in range(rounds):
        for operation in operations:
            for stack in chosen if turn % 2 else list(reversed(chosen)):
                table.add(operation, stack.name, run(stack, load, operation, seconds))
        print(f"  round {turn + 1} of {rounds} done", file=sys.stderr, flush=True)
    return table


@frozen
class Transfer:
    """One large blob: seconds and CPU seconds of server, database and store."""

    seconds: float
    costs: tuple[float, ...]


def transfer(stack: Stack, work: Callable[[], object]) -> Transfer:
    """Measure a transfer. Pending writes of the one before do not count."""
    os.sync()
    before, begun = stack.cpu(), time.perf_counter()
    work()
    seconds = time.perf_counter() - begun
    return Transfer(seconds, tuple(after - first for first, after in zip(before, stack.cpu(), strict=True)))


def blob(path: Path, size: int) -> str:
    """Write a new random blob and return its digest."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(size // MIB):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
    return f"sha256:{digest.hexdigest()}"


def large(chosen: Sequence[Stack], folder: Path, size: int, rounds: int, *, chunked: bool) -> None:
    """Push and pull a large blob, at each stack in turn, and print medians."""
    done: dict[tuple[str, str], list[Transfer]] = {}
    path, redirected = folder / "large.bin", {}
    for turn in range(rounds):
        for stack in chosen if turn % 2 else list(reversed(chosen)):
            digest = blob(path, size)

            def upload(at: Stack = stack, of: str = digest) -> None:
                push_file(at.host, "load/large", path, of, chunked=chunked)

            def download(at: Stack = stack, of: str = digest) -> None:
                redirected[at.name] = pull(at.host, "load/large", of)

            done.setdefault(("push", stack.name), []).append(transfer(stack, upload))
            download()  # into the page cache
            done.setdefault(("pull", stack.name), []).append(transfer(stack, download))
            path.unlink()
        print(f"  large: round {turn + 1} of {rounds} done", file=sys.stderr, flush=True)
    reference = THEIRS if any(stack.name == THEIRS for stack in chosen) else chosen[-1].name
    print(f"\n{size // MIB} MiB, {'chunked' if chunked else 'with Content-Length'}\n")
    print("| | s | MiB/s | ratio of rates | CPU s | of it server + stores | ratio of CPU | peak MiB | redirected |")
    print("|---|---|---|---|---|---|---|---|---|")
    for kind in ("push", "pull"):
        base = done[kind, reference]
        for stack in chosen:
            mine = done[kind, stack.name]
            seconds = statistics.median(one.seconds for one in mine)
            ratios = [other.seconds / one.seconds for one, other in zip(mine, base, strict=True)]
            costs = [sum(other.costs) / max(sum(one.costs), 0.01) for one, other in zip(mine, base, strict=True)]
            total = statistics.median(sum(one.costs) for one in mine)
            parts = " + ".join(
                f"{statistics.median(part):.2f}" for part in zip(*(one.costs for one in mine), strict=True)
            )
            print(
                f"| {kind}: {stack.name} | {seconds:.2f} | {size / MIB / seconds:.0f} | {spread(ratios)} | {total:.2f} | {parts} "
                f"| {spread(costs)} | {stack.memory() / MIB:.0f} | {'yes' if redirected[stack.name] else 'no'} |",
                flush=True,
            )


def started(make: Stacks, kinds: Sequence[str], workers: Sequence[int]) -> list[Stack]:
    """Start the stacks of the matrix."""
    kind = {"sqlite": make.embedded, "files": make.files, "s3": make.cluster}
    return [kind[each](f"{KINDS[each]}, {count}", count) for each in kinds for count in workers]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cluster", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each operation at each stack in each round")
    parser.add_argument("--stack", choices=list(KINDS), action="append", help="default: all")
    parser.add_argument("--workers", type=int, action="append", help="default: 1, 2 and 4")
    parser.add_argument("--operation", choices=list(OPERATIONS), action="append", help=f"default: {', '.join(MATRIX)}")
    parser.add_argument("--processes", type=int, default=2, help="client processes")
    parser.add_argument("--connections", type=int, default=16, help="of all client processes together")
    parser.add_argument("--no-theirs", action="store_true", help="without distribution 3")
    parser.add_argument("--no-sync", action="store_true", help="PostgreSQL does not wait for the disk")
    parser.add_argument("--large", type=int, default=0, metavar="MIB", help="push and pull blobs of this size instead")
    parser.add_argument(
        "--chunked", action="store_true", help="push large blobs without Content-Length, as docker does"
    )
    options = parser.parse_args()
    kinds, counts = options.stack or list(KINDS), options.workers or ([1] if options.large else [1, 2, 4])
    with stacks(durable=not options.no_sync) as make:
        chosen = started(make, kinds, counts)
        if not options.no_theirs:
            chosen.append(make.distribution(THEIRS))
        sync = "off" if options.no_sync else "on"
        print(f"rounds: {options.rounds}; fsync of PostgreSQL: {sync}; {machine(sha=True)}", flush=True)
        if options.large:
            if "s3" in kinds:
                chosen += [make.cluster(f"{KINDS['s3']}, {n}, redirects", n, redirect=True) for n in counts[:1]]
            if not options.no_theirs:
                chosen.append(make.distribution(f"{THEIRS}, redirects", redirect=True))
            large(chosen, make.folder, options.large * MIB, options.rounds, chunked=options.chunked)
            return
        print(f"clients: {options.processes} processes, {options.connections} connections; {options.seconds:g} s each")
        with clients(options.processes, options.connections) as load:
            table = compare(chosen, options.operation or MATRIX, load, options.rounds, options.seconds)
        table.print([stack.name for stack in chosen], THEIRS if not options.no_theirs else chosen[0].name)


if __name__ == "__main__":
    main()
