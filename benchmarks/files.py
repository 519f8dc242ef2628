"""Calls about one file, for artifacts of 1,000 and of 16,000 files: python -m benchmarks.files.

Each call must cost the same for any number of files, so the ratio is at most 1.5. The first call of each kind is not
counted: it parses the manifest and the folder's record once. A tag costs one HEAD request, whose time is the registry's:
ocikit's own verifies the manifest for each.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ocikit
from ocikit.spec.annotations import TITLE

COUNTS = (1_000, 16_000)
_SIZE = 20  # bytes of a file


def _push(server: ocikit.Server, session: ocikit.Session, count: int) -> str:
    """Push an artifact with `count` names for few blobs and return its reference."""
    repository = session.repository(f"{server.host}/t/n{count}", push=True)
    blobs = [f"{n:0{_SIZE}}".encode() for n in range(10)]
    for blob in blobs:
        repository.push_bytes(ocikit.Descriptor.of(blob, "text/csv"), blob)
    empty = ocikit.Descriptor.of(b"{}", "application/vnd.oci.empty.v1+json")
    repository.push_bytes(empty, b"{}")
    layers = tuple(
        ocikit.Descriptor.of(blobs[n % 10], "text/csv", annotations={TITLE: f"d/{n:05}.csv"}) for n in range(count)
    )
    manifest = ocikit.Manifest(config=empty, layers=layers, artifact_type="application/x.set")
    repository.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    return f"{server.host}/t/n{count}:v1"


def _least(call: Callable[[], object], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)  # other processes only add to it


def _calls(session: ocikit.Session, ref: str, folder: Path, count: int) -> dict[str, Callable[[], object]]:
    """Return the calls about one file, by their name in the table."""
    pulled = session.pull(ref, folder)
    inspected = session.inspect(ref)
    name, repository = "d/00500.csv", session.repository(ref)
    return {
        "art[n]": lambda: inspected[name],
        "pulled[n].read()": pulled[name].read,
        "pulled[n].open()": lambda: pulled[name].open().close(),
        "os.fspath(pulled[n])": lambda: os.fspath(pulled[name]),
        "inspected[n].read()": inspected[name].read,
        "inspected[n].open()": lambda: inspected[name].open().close(),
        "os.fspath(inspected[n])": lambda: os.fspath(inspected[name]),
        "n in art.files": lambda: name in inspected.files,
        "open(pinned, n)": lambda: session.open(inspected, name).close(),
        "download(pinned, n)": lambda: session.download(inspected, name),
        "open(tag, n)": lambda: session.open(ref, name).close(),
        "download(tag, n)": lambda: session.download(ref, name),
        "HEAD of the tag alone": lambda: repository.resolve("v1"),
        "list(art.files), a file": lambda: [list(inspected.files) for _ in range(COUNTS[-1] // count)],
        "explore's list, a file": lambda: [
            [name.lower() for name in list(inspected.files)] for _ in range(COUNTS[-1] // count)
        ],
        "a row of explore's list": lambda: f"{name}  ({inspected[name].size})",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    rounds = parser.parse_args().rounds
    found: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as place, ocikit.serve() as server:
        for count in COUNTS:
            session = ocikit.Session(cache=Path(place, f"cache{count}"), progress=False)
            calls = _calls(session, _push(server, session, count), Path(place, str(count)), count)
            found[count] = {
                name: _least(call, 5 if name.endswith("a file") else rounds) for name, call in calls.items()
            }
    few, many = (found[count] for count in COUNTS)
    print(f"{'call':26} {COUNTS[0]:>10,} {COUNTS[1]:>10,}  ratio")
    for name, before in few.items():
        print(f"{name:26} {before * 1e6:7.0f} us {many[name] * 1e6:7.0f} us  {many[name] / before:5.2f}")


if __name__ == "__main__":
    main()
