"""Time and size of representations: python -m benchmarks.reprs."""

import io
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
from rich.console import Console

import ocikit
from ocikit.client.listing import Listing
from tests.support import cards

ROUNDS = 20


def values() -> Iterator[tuple[str, Any]]:
    """Build large objects of every kind."""
    data = cards.many_manifest(10_000)
    index = ocikit.Index(manifests=[layer.bare() for layer in data.layers])
    yield "artifact of 10,000 files", cards.artifact(data)
    yield "its files", cards.artifact(data).files
    yield "its manifest", data
    yield "plan of 10,000 blobs", attrs.evolve(cards.copy_plan(), blobs=data.layers)
    yield "index of 10,000 manifests", cards.artifact(index)
    yield (
        "100,000 tags",
        cards.read_all(Listing((f"v1.{i // 100}.{i % 100}" for i in range(100_000)), "tags", cards.DATA)),
    )
    yield "100,000 names", cards.read_all(Listing((f"name-{i}" for i in range(100_000)), "tags", cards.DATA))
    yield (
        "10,000 repositories",
        cards.read_all(Listing((f"team-{i % 70}/p{i}" for i in range(10_000)), "repositories", cards.HOST)),
    )
    yield "10,000 referrers", cards.read_all(Listing(iter(data.layers), "referrers", cards.DATA))


def timed(look: Callable[[Any], object], value: object) -> tuple[float, float]:
    """Return the median and the maximum of some rounds [milliseconds]."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        look(value)
        taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken), max(taken)


def main() -> int:
    print(f"{'':28}{'repr':>14}{'HTML':>16}{'terminal':>16}{'HTML, bytes':>13}    median (slowest) of {ROUNDS}, ms")
    for name, value in values():
        console = Console(file=io.StringIO(), width=100)
        looks = (repr, type(value)._repr_html_, console.print)
        figures = "".join(
            f"{middle:8.2f} ({slowest:5.1f})" for middle, slowest in (timed(look, value) for look in looks)
        )
        print(f"{name:28}{figures}{len(value._repr_html_().encode()):13,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
