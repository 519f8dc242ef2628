"""Small requests to our registry and to distribution 3, one at a time: `python -m benchmarks endpoints`.

Each request goes over one kept connection. Registries take turns in blocks of requests. Prints medians of wall time, and the
CPU time of the registry for a request, whose resolution is the kernel's clock (10 ms) divided by the number of requests.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from itertools import count

from attrs import define, field

from benchmarks.measure import cpu, machine
from ocikit.spec.digest import Digest
from tests.support import peers

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SMALL = 65536
BLOCK = 50  # requests of one kind before the other registry's turn


@define(eq=False)
class Client:
    """One connection to a registry that has one artifact, `a:v1`."""

    registry: peers.Registry
    connection: HTTPConnection = field(init=False)
    content: bytes = field(init=False, repr=False)
    blob: Digest = field(init=False)
    raw: bytes = field(init=False, repr=False)
    seconds: dict[str, list[float]] = field(factory=dict, init=False)
    server: dict[str, float] = field(factory=dict, init=False)
    _serial: Iterator[int] = field(factory=count, init=False)

    def __attrs_post_init__(self) -> None:
        self.connection = HTTPConnection(self.registry.host, timeout=60)
        self.content = os.urandom(SMALL)
        self.blob = Digest.of(self.content)
        self.raw = self.manifest()
        self.upload(self.content)
        self.upload(b"{}")
        self.ask("PUT", "/v2/a/manifests/v1", self.raw, MANIFEST)

    def manifest(self) -> bytes:
        """Return a new manifest of the blob."""
        config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest.of(b"{}"), "size": 2}
        layer = {"mediaType": "application/octet-stream", "digest": self.blob, "size": SMALL}
        notes = {"serial": str(next(self._serial))}
        value = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": notes}
        return json.dumps(value).encode()

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/octet-stream") -> str:
        """Send a request, read the response, and return its Location.

        Raises:
            RuntimeError: The registry rejected it.
        """
        # Without Accept, distribution answers 404 for manifests of the image specification
        self.connection.request(method, path, body, {"Accept": "*/*, " + MANIFEST, "Content-Type": kind})
        response = self.connection.getresponse()
        text = response.read()
        if response.status >= 300:
            raise RuntimeError(f"{self.registry.kind}: {method} {path}: {response.status} {text[:200]!r}")
        return response.headers.get("Location", "")

    def upload(self, content: bytes) -> None:
        """Upload a blob with POST and PUT."""
        place = self.ask("POST", "/v2/a/blobs/uploads/")
        place = place.removeprefix(self.registry.url)
        self.ask("PUT", f"{place}{'&' if '?' in place else '?'}digest={Digest.of(content)}", content)

    def requests(self) -> dict[str, Callable[[], object]]:
        """Return the requests by what they do."""
        return {
            "GET /v2/": lambda: self.ask("GET", "/v2/"),
            "HEAD blob": lambda: self.ask("HEAD", f"/v2/a/blobs/{self.blob}"),
            "GET blob of 64 KiB": lambda: self.ask("GET", f"/v2/a/blobs/{self.blob}"),
            "HEAD manifest by tag": lambda: self.ask("HEAD", "/v2/a/manifests/v1"),
            "GET manifest by tag": lambda: self.ask("GET", "/v2/a/manifests/v1"),
            "GET manifest by digest": lambda: self.ask("GET", f"/v2/a/manifests/{Digest.of(self.raw)}"),
            "POST and PUT blob of 64 KiB": lambda: self.upload(os.urandom(SMALL)),
            "PUT manifest": lambda: self.ask("PUT", "/v2/a/manifests/new", self.manifest(), MANIFEST),
        }

    def run(self, what: str, call: Callable[[], object]) -> None:
        """Send one block of requests."""
        call()  # a turn of the other registry has cooled the caches
        before = cpu(self.registry.process.pid)
        for _ in range(BLOCK):
            begun = time.perf_counter()
            call()
            self.seconds.setdefault(what, []).append(time.perf_counter() - begun)
        self.server[what] = self.server.get(what, 0.0) + cpu(self.registry.process.pid) - before


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks endpoints", description=__doc__)
    parser.add_argument("--blocks", type=int, default=20, help=f"of {BLOCK} requests, for each request and registry")
    parser.add_argument("--workers", type=int, default=1, help="processes of our registry")
    options = parser.parse_args()
    with peers.ocikit(workers=options.workers) as mine, peers.distribution3() as theirs:
        print(f"requests: {options.blocks * BLOCK}; workers of ours: {options.workers}; {machine(sha=True)}\n")
        print("| | ocikit ms | distribution 3 ms | ratio | ocikit CPU ms | distribution 3 CPU ms | ratio |")
        print("|---|---|---|---|---|---|---|")
        clients = [Client(mine), Client(theirs)]
        for what in clients[0].requests():
            for turn in range(options.blocks):
                for client in clients if turn % 2 else reversed(clients):
                    client.run(what, client.requests()[what])
            walls = [statistics.median(client.seconds[what]) * 1000 for client in clients]
            cpus = [client.server[what] / (options.blocks * BLOCK) * 1000 for client in clients]
            cells = [f"{values[0]:.2f} | {values[1]:.2f} | {values[0] / values[1]:.2f}" for values in (walls, cpus)]
            print(f"| {what} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
