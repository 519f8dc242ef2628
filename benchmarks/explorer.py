"""The explorer on a registry of 10,000 repositories, one of them with 100,000 tags: python -m benchmarks.explorer.

Rows are inserted through the storage. Then the registry is served and explored. Prints the seconds from the call, or the
click, to names in a list, and the memory.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import ocikit
from ocikit.notebook.explorer import Explorer
from ocikit.server.storage.base import ManifestRow
from ocikit.server.storage.files import file_storage
from ocikit.spec.digest import Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = b"{}"


def fill(folder: Path, repositories: int, tags: int) -> None:
    """Insert rows: every repository has the same manifest; "big" has it under many tags."""
    storage = file_storage(folder, durable=False)
    blob = Digest.of(EMPTY)
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": blob, "size": len(EMPTY)}
    raw = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "text/x", "config": config, "layers": []}
    ).encode()
    entry = ManifestRow(
        digest=Digest.of(raw), media_type=MANIFEST, size=len(raw), children=(blob,), artifact_type="text/x",
        subject=None, referrer="",
    )  # fmt: skip
    for content, digest in ((EMPTY, blob), (raw, entry.digest)):
        storage.blobs.put(digest, io.BytesIO(content))
    for n in range(repositories):
        name = "big" if n == 0 else f"team-{n % 97:02}/project-{n:05}"
        storage.metadata.add_blob(name, blob, len(EMPTY))
        names = [f"v{i // 1000}.{i % 1000}" for i in range(tags)] if n == 0 else ["v1"]
        for start in range(0, len(names), 1000):
            storage.metadata.put_manifest(name, entry, names[start : start + 1000])
    storage.close()


def seconds(act: Callable[[], object], explorer: Callable[[], Explorer]) -> float:
    """Measure the time until an action has completed."""
    begun = time.perf_counter()
    act()
    if not explorer().wait(300):
        raise RuntimeError("it never came")
    return time.perf_counter() - begun


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repositories", type=int, default=10_000)
    parser.add_argument("--tags", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), options.repositories, options.tags)
        with ocikit.serve(folder) as server, ocikit.Session(progress=False, cache=Path(folder) / "cache") as session:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            for _ in range(options.rounds):
                opened: list[Explorer] = []

                def open_(where: str, opened: list[Explorer] = opened) -> None:
                    opened.append(ocikit.explore(where, session))

                def here(opened: list[Explorer] = opened) -> Explorer:
                    return opened[-1]

                steps: dict[str, Callable[[], object]] = {
                    "catalog, first names": lambda: open_(server.host),
                    "catalog, filtered for the last": lambda: setattr(here().repositories.filter, "value", "09999"),
                    "tags, first names": lambda: open_(f"{server.host}/big"),
                    "tags, 200 more": lambda: here().tags.more.click(),  # noqa: PLW0108 - there is none yet
                    "one tag, with its manifest": lambda: setattr(here().tags.list, "value", "v0.1"),
                    "tags, filtered for the last": lambda: setattr(here().tags.filter, "value", "v99.999"),
                    "tags, newest first": lambda: setattr(here().tags.order, "value", "newest first"),
                }
                for what, act in steps.items():
                    taken.setdefault(what, []).append(seconds(act, here))
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{options.repositories:,} repositories, {options.tags:,} tags; median (slowest) of {options.rounds}")
    for what, times in taken.items():
        print(f"  {what:32} {statistics.median(times):6.2f} s  ({max(times):.2f})")
    print(f"  memory at its highest: {after // 1024} MiB, {(after - before) // 1024} MiB above the start")
    return 0


if __name__ == "__main__":
    sys.exit(main())
