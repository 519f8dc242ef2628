"""Test every request with every fault, for ocikit and other clients, and print Markdown: `python -m tests.tools.fault_table`.

python -m tests.tools.fault_table                      # all faults, ocikit, two registries
python -m tests.tools.fault_table --clients            # fewer faults, all clients, our registry
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ocikit.testing.proxy import Proxy

from tests.resilience.matrix import CLIENTS, MIB, PULLS, PUSHES, Cell, Image, Outcome, cells, pull, push
from tests.support import peers

REGISTRIES = ("ocikit", "distribution3")


def short(size: int) -> list[Cell]:
    """Return the cells for the comparison of clients: one position of each kind, at the largest body."""
    half = size // 2
    blob = [Cell("GET blob", kind, half) for kind in (
        "cut", "reset", "stall", "short", "wrong Content-Range", "200 to a range", "416", "500", "502, HTML", "503, seconds",
        "429", "no answer", "gzip")]  # fmt: skip
    manifest = [Cell("GET manifest", kind, 100) for kind in ("cut", "502, HTML", "503, seconds", "never asked")]
    return [*blob, *manifest]


def short_push(size: int) -> list[Cell]:
    """Return the same for pushes; a client sends either PATCH or PUT."""
    half = size // 2
    some = [Cell("POST", kind) for kind in ("500", "429", "never asked")]
    for request in ("PATCH", "PUT blob"):
        some += [
            Cell(request, kind, half)
            for kind in ("request cut", "request reset", "500", "503, seconds", "429", "answer lost")
        ]
    return [
        *some,
        *(Cell("PUT manifest", kind) for kind in ("502, HTML", "503, seconds", "never asked", "answer lost")),
    ]


def told(outcome: Outcome, size: int, fired: bool) -> str:
    """Format a cell: result, transferred bytes as a multiple of the layer, and seconds."""
    if not fired:
        return "-"
    word = "yes" if outcome.survived else "LIES" if outcome.lied else "no"
    return f"{word} {outcome.moved / size:.2f}x {outcome.seconds:.1f}s"


def run(
    columns: Iterable[tuple[str, str]], pulls: list[Cell], pushes: list[Cell], image: Image, folder: Path
) -> list[str]:
    """Return lines of Markdown; a column is a client and a registry."""
    columns = list(columns)
    found: dict[tuple[str, str], dict[Cell, str]] = {}
    reasons: list[str] = []
    for client, kind in columns:
        with peers.KINDS[kind]() as registry, Proxy(registry.url) as proxy:
            for act, some in ((pull, pulls), (push, pushes)):
                for cell in some:
                    outcome = act(client, image, proxy, cell, folder)
                    fired = any(fault.fired for fault in proxy.faults)
                    found.setdefault((client, kind), {})[cell] = told(outcome, image.size, fired)
                    if fired and not outcome.survived:
                        reasons.append(
                            f"* {client} at {kind}, {cell}: {outcome.why or 'nothing'}".replace("\n", " ")[:400]
                        )
    lines = [f"| fault | {' | '.join(f'{c} at {k}' for c, k in columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {cell} | {' | '.join(found[column][cell] for column in columns)} |" for cell in [*pulls, *pushes]]
    return [*lines, "", *reasons]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", action="store_true", help="compare all clients")
    parser.add_argument("--size", type=float, default=16, help="MiB of the layer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocikit-faults-") as name:
        folder = Path(name)
        image = Image.made(folder / "image", int(options.size * MIB))
        if options.clients:
            columns = [(client, "ocikit") for client in CLIENTS if client == "ocikit" or peers.where(client)]
            lines = run(columns, short(image.size), short_push(image.size), image, folder)
        else:
            lines = run(
                [("ocikit", kind) for kind in REGISTRIES],
                cells(PULLS, image.size),
                cells(PUSHES, image.size),
                image,
                folder,
            )
        print("\n".join(lines))


if __name__ == "__main__":
    main()
