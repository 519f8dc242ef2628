"""Kill a registry repeatedly while clients write to it: `python -m tests.tools.soak_crash --rounds 200`.

In each round a server with two workers gets SIGKILL at a random moment. Before the restart, its folder is checked: no row
names missing or incomplete content. Afterwards every client requests all acknowledged content, hashes it, and continues
its uploads at the server's offset.
"""

import argparse
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import ocikit
from attrs import define, field
from ocikit.server.storage.files import FileBlobs, file_storage
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
GRACE = 30.0  # seconds: shorter than a soak, so that garbage collection has work
SAFE = 12.0  # seconds: an acknowledged, unreferenced blob of that age may have been deleted
CLIENTS = 6


class Wrong(Exception):
    """The registry broke a guarantee."""


@define
class Upload:
    """An upload in progress: its URL and its minimum offset."""

    location: str
    content: bytes
    acknowledged: int = 0


@define(eq=False)
class Client:
    """A client that writes to its own repository and records acknowledgements."""

    name: str
    random: random.Random
    host: str = ""
    connection: http.client.HTTPConnection | None = None
    blobs: dict[str, float] = field(factory=dict)
    """Acknowledged blobs with their time."""
    manifests: dict[str, bytes] = field(factory=dict)
    """Acknowledged manifests by digest."""
    children: dict[str, list[str]] = field(factory=dict)
    tags: dict[str, set[str]] = field(factory=dict)
    """Possible targets of a tag: the last acknowledged one, and the one in progress at the kill."""
    doubtful: set[str] = field(factory=set)
    """Manifests with a deletion in progress."""
    deleted: set[str] = field(factory=set)
    upload: Upload | None = None
    done: int = 0
    resumed: int = 0
    shared: list[bytes] = field(factory=list)

    def connect(self, host):
        """Connect to a server, or to none."""
        if self.connection is not None:
            self.connection.close()
        self.host, self.connection = host, None

    def ask(self, method, path, body=None, **headers):
        """Return status, headers and body.

        Raises:
            OSError: The server has died.
            HTTPException: The server has died.
        """
        if self.connection is None:
            host, port = self.host.rsplit(":", 1)
            self.connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            self.connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = self.connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except BaseException:
            self.connect(self.host)
            raise

    def expect(self, wanted, answer):
        if answer[0] not in wanted:
            raise Wrong(f"{self.name}: {answer[0]} instead of {wanted}: {answer[2][:300]!r}")
        return answer

    def run(self, stop):
        try:
            while not stop.is_set():
                self.random.choices([self.push, self.push_parts, self.put, self.retag, self.delete], [4, 3, 5, 2, 1])[
                    0
                ]()
                self.done += 1
        except (OSError, http.client.HTTPException):
            return

    # Client operations

    def content(self):
        if self.random.random() < 0.3:
            return self.random.choice(self.shared)  # content that other clients push too
        return self.random.randbytes(self.random.choice([0, 10, 1000, 70_000, 300_000]))

    def push(self):
        content = self.content()
        digest = Digest.of(content)
        if self.random.random() < 0.5:
            answer = self.ask("POST", f"/v2/{self.name}/blobs/uploads/?digest={digest}", content)
        else:
            location = self.expect({202}, self.ask("POST", f"/v2/{self.name}/blobs/uploads/"))[1]["Location"]
            answer = self.ask("PUT", f"{location}?digest={digest}", content)
        self.expect({201}, answer)
        self.blobs[digest] = time.monotonic()

    def push_parts(self):
        if self.upload is None:
            content = self.random.randbytes(self.random.choice([1000, 100_000, 500_000]))
            location = self.expect({202}, self.ask("POST", f"/v2/{self.name}/blobs/uploads/"))[1]["Location"]
            self.upload = Upload(location, content)
        self.go_on(self.upload)

    def go_on(self, upload):
        size = max(len(upload.content) // 4, 1)
        while upload.acknowledged < len(upload.content):
            at = upload.acknowledged
            part = upload.content[at : at + size]
            if self.random.random() < 0.5:
                answer = self.ask("PATCH", upload.location, part, Content_Range=f"{at}-{at + len(part) - 1}")
            else:
                answer = self.ask("PATCH", upload.location, iter([part]))  # chunked
            headers = self.expect({202}, answer)[1]
            if headers["Range"] != f"0-{at + len(part) - 1}":
                raise Wrong(f"{self.name}: {headers['Range']} after {at + len(part)} bytes")
            upload.acknowledged += len(part)
        digest = Digest.of(upload.content)
        # From here on the upload may complete without an acknowledgement
        self.upload, finishing = None, upload
        self.expect({201}, self.ask("PUT", f"{finishing.location}?digest={digest}"))
        self.blobs[digest] = time.monotonic()

    def put(self):
        fresh = [digest for digest, when in self.blobs.items() if time.monotonic() - when < SAFE]
        if not fresh:
            return self.push()
        layers = self.random.sample(fresh, min(len(fresh), 3))
        raw = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "annotations": {"x": self.random.randbytes(8).hex()},
            "config": {"mediaType": "application/x", "digest": layers[0], "size": 0},
            "layers": [{"mediaType": "application/x", "digest": each, "size": 0} for each in layers[1:]],
        }).encode()  # fmt: skip
        digest, tag = Digest.of(raw), f"t{self.random.randrange(5)}"
        before = self.tags.setdefault(tag, {""})
        self.tags[tag] = {*before, digest}
        self.expect({201}, self.ask("PUT", f"/v2/{self.name}/manifests/{tag}", raw, Content_Type=MANIFEST))
        self.tags[tag] = {digest}
        self.manifests[digest], self.children[digest] = raw, layers

    def retag(self):
        if not self.manifests:
            return self.put()
        digest, tag = self.random.choice(list(self.manifests)), f"t{self.random.randrange(5)}"
        self.tags[tag] = {*self.tags.get(tag, {""}), digest}
        raw = self.manifests[digest]
        self.expect({201}, self.ask("PUT", f"/v2/{self.name}/manifests/{tag}", raw, Content_Type=MANIFEST))
        self.tags[tag] = {digest}

    def delete(self):
        if len(self.manifests) < 10:
            return self.put()
        digest = self.random.choice(list(self.manifests))
        del self.manifests[digest]
        self.doubtful.add(digest)
        for tag, names in self.tags.items():
            if digest in names:
                self.tags[tag] = {*names, ""}
        self.expect({202}, self.ask("DELETE", f"/v2/{self.name}/manifests/{digest}"))
        self.doubtful.discard(digest)
        self.deleted.add(digest)
        for names in self.tags.values():
            names.discard(digest)
        # Content that only this manifest referenced is deleted after the grace period
        for child in self.children.pop(digest):
            self.blobs.pop(child, None)

    # Checks after a restart

    def check(self):
        """Check that all acknowledged content exists and is complete.

        Raises:
            Wrong: Content is missing or damaged.
        """
        for digest in self.doubtful:
            status, _, raw = self.expect({200, 404}, self.ask("GET", f"/v2/{self.name}/manifests/{digest}"))
            if status == 404:
                self.children.pop(digest)
                self.deleted.add(digest)
            else:
                self.manifests[digest] = raw
        self.doubtful.clear()
        for digest in self.deleted:
            self.expect({404}, self.ask("HEAD", f"/v2/{self.name}/manifests/{digest}"))
        self.deleted.clear()
        needed = {child for children in self.children.values() for child in children}
        for digest, raw in self.manifests.items():
            if self.expect({200}, self.ask("GET", f"/v2/{self.name}/manifests/{digest}"))[2] != raw:
                raise Wrong(f"{self.name}: {digest} has other bytes")
        for tag, names in self.tags.items():
            status, headers, _ = self.expect({200, 404}, self.ask("HEAD", f"/v2/{self.name}/manifests/{tag}"))
            found = headers["Docker-Content-Digest"] if status == 200 else ""
            if found not in names:
                raise Wrong(f"{self.name}:{tag} is {found or 'gone'}, and not one of {names}")
            if found and found not in self.manifests:
                self.adopt(found)
                needed |= set(self.children[found])
            self.tags[tag] = {found}
        for digest, when in list(self.blobs.items()):
            if digest not in needed and time.monotonic() - when > SAFE:
                del self.blobs[digest]
        for digest in {*self.blobs, *needed}:
            content = self.expect({200}, self.ask("GET", f"/v2/{self.name}/blobs/{digest}"))[2]
            if Digest.of(content) != digest:
                raise Wrong(f"{self.name}: {digest} has other bytes")
        if self.upload is not None:
            self.resume(self.upload)

    def adopt(self, digest):
        """Check that a manifest with a lost acknowledgement is complete."""
        raw = self.expect({200}, self.ask("GET", f"/v2/{self.name}/manifests/{digest}"))[2]
        if Digest.of(raw) != digest:
            raise Wrong(f"{self.name}: {digest} has other bytes")
        document = json.loads(raw)
        self.manifests[digest] = raw
        self.children[digest] = [document["config"]["digest"], *(layer["digest"] for layer in document["layers"])]

    def resume(self, upload):
        headers = self.expect({204}, self.ask("GET", upload.location))[1]
        last = int(headers["Range"].partition("-")[2])
        size = last + 1 if last else 0
        if last == 0 and upload.acknowledged == 1:
            size = 1
        if not upload.acknowledged <= size <= len(upload.content):
            raise Wrong(f"{self.name}: {size} bytes of an upload, and {upload.acknowledged} were acknowledged")
        upload.acknowledged = size
        self.go_on(upload)
        self.resumed += 1


def live(client, host, ready, stop, wrong):
    """Run one client between a start and a kill of the server."""
    try:
        client.connect(host)
        client.check()
        ready.wait()
        client.run(stop)
    except Exception as error:
        wrong.append(error)
        ready.abort()
    finally:
        client.connect("")


def soak(rounds, *, seed=None, longest=0.8, workers=2, tell=lambda text: None):
    """Run the soak and return counts.

    Raises:
        Wrong: The registry broke a guarantee.
    """
    seed = secrets.randbits(32) if seed is None else seed
    dice = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix="ocikit-soak-"))
    shared = [dice.randbytes(dice.choice([100, 50_000])) for _ in range(5)]
    clients = [Client(f"c{n}", random.Random(dice.randbytes(8)), shared=shared) for n in range(CLIENTS)]
    wrong = []
    try:
        for number in range(rounds):
            with ocikit.serve(
                folder, options=ocikit.ServerOptions(workers=workers, grace=GRACE, collect_every=0.2)
            ) as server:
                stop, ready = threading.Event(), threading.Barrier(len(clients) + 1)
                threads = [
                    threading.Thread(target=live, args=(client, server.host, ready, stop, wrong)) for client in clients
                ]
                for thread in threads:
                    thread.start()
                try:
                    ready.wait()
                    time.sleep(dice.uniform(0.02, longest))
                except threading.BrokenBarrierError:
                    pass
                # The process group that was started above
                os.killpg(server._child.process.pid, signal.SIGKILL)
                for thread in threads:
                    thread.join()
                stop.set()
            if wrong:
                raise Wrong(f"round {number} of seed {seed}: {wrong[0]}") from wrong[0]
            look(folder, f"round {number} of seed {seed}")
            tell(f"round {number + 1}: {sum(client.done for client in clients)} writes")
        with ocikit.serve(folder, options=ocikit.ServerOptions(workers=workers, grace=GRACE)) as server:
            for client in clients:
                client.connect(server.host)
                client.check()
                client.connect("")
        leftovers = [path for path in folder.rglob(".*") if path.is_file()]
        return {
            "seed": seed, "rounds": rounds, "writes": sum(client.done for client in clients),
            "manifests": sum(len(client.manifests) for client in clients),
            "blobs": sum(1 for _ in FileBlobs(folder).iterate()),
            "resumed": sum(client.resumed for client in clients), "leftovers": len(leftovers),
        }  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def look(folder, when):
    """Check that no row names missing or incomplete content.

    Raises:
        Wrong: A row does.
    """
    storage = file_storage(folder)
    try:
        report = verify(storage)
    finally:
        storage.close()
    if not report.ok:
        raise Wrong(f"{when}: {report.corrupt}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int)
    options = parser.parse_args()
    begun = time.monotonic()
    found = soak(options.rounds, seed=options.seed, tell=lambda text: print(f"\r{text} ", end="", file=sys.stderr))
    print(json.dumps({**found, "seconds": round(time.monotonic() - begun)}))


if __name__ == "__main__":
    main()
