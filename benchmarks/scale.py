"""A repository with many tags and manifests compared with a small one: `python -m benchmarks.scale`.

Rows are inserted through the storage without a server. Then both are served and receive the same requests in turn. Prints
medians, 95th percentiles, ratios of large to small, and the memory of both servers.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from attrs import define, field

import ocikit
from benchmarks.measure import family
from ocikit.server.storage.base import ManifestRow
from ocikit.server.storage.files import file_storage
from ocikit.spec.digest import Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
BLOB = b"{}"
REFERRERS = 20
SAMPLE = 300  # manifests with bytes: those that are requested


@define(eq=False)
class Place:
    """A served repository of some size and its client."""

    size: int
    folder: Path
    server: ocikit.Server = field(init=False)
    connection: http.client.HTTPConnection = field(init=False)
    seconds: dict[str, list[float]] = field(factory=dict)

    def fill(self) -> None:
        storage = file_storage(self.folder, durable=False)
        blob = Digest.of(BLOB)
        storage.blobs.put(blob, io.BytesIO(BLOB))
        storage.metadata.add_blob("a", blob, len(BLOB))
        for n in range(self.size + REFERRERS):
            raw = document(n)
            referrer = n >= self.size
            entry = ManifestRow(
                digest=Digest.of(raw), media_type=MANIFEST, size=len(raw), children=(blob,), artifact_type="text/x",
                subject=Digest.of(document(0)) if referrer else None, referrer=listed(raw) if referrer else "",
            )  # fmt: skip
            storage.metadata.put_manifest("a", entry, [] if referrer else [tag(n)])
            if n % max(self.size // SAMPLE, 1) == 0 or referrer:
                storage.blobs.put(entry.digest, io.BytesIO(raw))
        storage.close()

    def serve(self) -> None:
        self.server = ocikit.serve(self.folder)
        self.connection = http.client.HTTPConnection(self.server.host, timeout=60)

    def time(self, what: str, method: str, path: str, body: bytes | None = None) -> None:
        headers = {"Content-Type": MANIFEST} if body else {}
        begun = time.perf_counter()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        answer.read()
        self.seconds.setdefault(what, []).append(time.perf_counter() - begun)
        if answer.status not in {200, 201}:
            raise RuntimeError(f"{method} {path}: {answer.status}")

    @property
    def memory(self) -> int:
        """Return the memory of the server's processes, which are children of this one and their children [bytes]."""
        main = self.server._child.process.pid  # noqa: SLF001 - no other caller needs it
        return sum(resident(pid) for pid in family(main))


def resident(pid: int) -> int:
    """Return the memory of a process [bytes]."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tag(n: int) -> str:
    return f"v{n:09}"


def document(n: int) -> bytes:
    part = {"mediaType": "application/x", "digest": Digest.of(BLOB), "size": len(BLOB)}
    value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": part, "layers": [], "annotations": {"n": str(n)}}
    return json.dumps(value).encode()


def listed(raw: bytes) -> str:
    return json.dumps({"mediaType": MANIFEST, "digest": Digest.of(raw), "size": len(raw), "artifactType": "text/x"})


def requests(place: Place, dice: random.Random) -> list[tuple[str, str, str, bytes | None]]:
    step = max(place.size // SAMPLE, 1)
    known = dice.randrange(0, place.size, step)
    return [
        ("put a tag", "PUT", f"/v2/a/manifests/new-{dice.random()}", document(known)),
        ("list 100 tags", "GET", f"/v2/a/tags/list?n=100&last={tag(dice.randrange(place.size))}", None),
        ("resolve a tag", "HEAD", f"/v2/a/manifests/{tag(known)}", None),
        ("get a manifest", "GET", f"/v2/a/manifests/{tag(known)}", None),
        ("list referrers", "GET", f"/v2/a/referrers/{Digest.of(document(0))}", None),
        ("ask for a blob", "HEAD", f"/v2/a/blobs/{Digest.of(BLOB)}", None),
    ]


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=100)[round(share * 100) - 1] * 1000


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=500)
    options = parser.parse_args()
    dice = random.Random(1)  # noqa: S311 - for the same requests in each run
    with tempfile.TemporaryDirectory(prefix="ocikit-scale-") as scratch:
        places = [Place(size, Path(scratch) / str(size)) for size in (options.small, options.large)]
        for place in places:
            begun = time.perf_counter()
            place.fill()
            print(f"{place.size} tags and manifests: filled in {time.perf_counter() - begun:.0f} s", file=sys.stderr)
            place.serve()
        for turn in range(options.rounds + 20):
            for place in places:
                for request in requests(place, dice):
                    place.time(*request)
            if turn == 20:
                for place in places:
                    place.seconds.clear()
        small, large = places
        print(f"| ms | {small.size} p50 | {large.size} p50 | ratio | {small.size} p95 | {large.size} p95 | ratio |")
        print("|---|---|---|---|---|---|---|")
        for what in small.seconds:
            cells = []
            for share in (0.5, 0.95):
                one, other = (percentile(place.seconds[what], share) for place in places)
                cells += [f"{one:.2f}", f"{other:.2f}", f"{other / one:.2f}"]
            print(f"| {what} | {' | '.join(cells)} |")
        print(f"memory: {small.memory / 1e6:.0f} MB and {large.memory / 1e6:.0f} MB")
        for place in places:
            place.server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
