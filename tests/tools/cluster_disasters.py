"""What a cluster has again after a disaster: `python -m tests.tools.cluster_disasters` prints a Markdown table.

Content of each kind is pushed, something is lost, the operator's commands run, and everything is read and compared byte for byte.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from attrs import define, field
from ocikit.server.storage.cluster.copies import queue_copies
from ocikit.server.storage.cluster.database import Database
from ocikit.server.storage.cluster.migrations import migrate
from ocikit.server.storage.cluster.objects import open_objects
from ocikit.spec.digest import Digest
from psycopg import sql

from tests.support import cluster, postgres, s3

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"

ROW = "| {:<58} | {:>9} | {:>9} | {:>9} | {:>9} | {:<30} |"

GRACE = 5.0  # seconds

#: Seconds after which the sweep has deleted what it can.
_SWEPT = 120.0

OPTIONS = ["--grace", f"{GRACE:g}", "--collect-every", "1", "--log-format", "none"]


@define
class Kept:
    """Acknowledged content."""

    tags: dict[tuple[str, str], str] = field(factory=dict)
    manifests: dict[tuple[str, str], bytes] = field(factory=dict)
    blobs: dict[tuple[str, str], bytes] = field(factory=dict)
    referrers: dict[tuple[str, str], set[str]] = field(factory=dict)


class Registry:
    """Requests to one machine or a balancer."""

    def __init__(self, host: str) -> None:
        self.connection = http.client.HTTPConnection(host, timeout=60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str):
        """Return status, headers and body."""
        self.connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def blob(self, kept: Kept, repo: str, raw: bytes) -> dict:
        """Push a blob, and return its descriptor."""
        digest = str(Digest.of(raw))
        location = self.ask("POST", f"/v2/{repo}/blobs/uploads/")[1]["Location"]
        path = "/" + location.split("/", 3)[3] if location.startswith("http") else location
        status, _, answer = self.ask("PUT", f"{path}{'&' if '?' in path else '?'}digest={digest}", raw)
        assert status == 201, answer
        kept.blobs[repo, digest] = raw
        return {"mediaType": LAYER, "digest": digest, "size": len(raw)}

    def manifest(self, kept: Kept, repo: str, tag: str | None, document: dict) -> dict:
        """Push a manifest, and return its descriptor."""
        raw = json.dumps(document).encode()
        digest = str(Digest.of(raw))
        status, _, answer = self.ask(
            "PUT", f"/v2/{repo}/manifests/{tag or digest}", raw, Content_Type=document["mediaType"]
        )
        assert status == 201, answer
        kept.manifests[repo, digest] = raw
        if tag:
            kept.tags[repo, tag] = digest
        if subject := document.get("subject"):
            kept.referrers.setdefault((repo, subject["digest"]), set()).add(digest)
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(raw)}


def fill(host: str, dice: random.Random, names: str, number: int = 4, *, large: bool = True) -> Kept:
    """Push images, indexes, and artifacts with a subject, with small and large blobs."""
    kept, registry = Kept(), Registry(host)
    shared = dice.randbytes(3000)
    for n in range(number):
        repo = f"{names}/r{n}"
        images = []
        for size in (10, 5000, 300_000, *([20 << 20] if large and n == 0 else [])):
            config = registry.blob(kept, repo, dice.randbytes(200)) | {"mediaType": CONFIG}
            layers = [registry.blob(kept, repo, raw) for raw in (dice.randbytes(size), shared)]
            document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
            images.append(registry.manifest(kept, repo, f"image-{size}", document))
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": images}
        registry.manifest(kept, repo, "index", index)
        report = registry.blob(kept, repo, dice.randbytes(777))
        referrer = {
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.report",
            "config": registry.blob(kept, repo, b"{}") | {"mediaType": "application/vnd.oci.empty.v1+json"},
            "layers": [report], "subject": images[0],
        }  # fmt: skip
        registry.manifest(kept, repo, None, referrer)
    return kept


def there(host: str, kept: Kept) -> list[str]:
    """Return how many tags, manifests, blobs and referrers are there, byte for byte."""
    registry = Registry(host)
    accept = {"Accept": f"{MANIFEST}, {INDEX}"}
    tags = manifests = blobs = referrers = 0
    for (repo, tag), digest in kept.tags.items():
        status, headers, _ = registry.ask("HEAD", f"/v2/{repo}/manifests/{tag}", **accept)
        tags += status == 200 and headers["Docker-Content-Digest"] == digest
    for (repo, digest), raw in kept.manifests.items():
        status, headers, found = registry.ask("GET", f"/v2/{repo}/manifests/{digest}", **accept)
        manifests += status == 200 and found == raw and headers["Content-Type"] == json.loads(raw)["mediaType"]
    for (repo, digest), raw in kept.blobs.items():
        with contextlib.suppress(http.client.HTTPException):
            status, _, found = registry.ask("GET", f"/v2/{repo}/blobs/{digest}")
            blobs += status == 200 and found == raw
    for (repo, subject), digests in kept.referrers.items():
        found = json.loads(registry.ask("GET", f"/v2/{repo}/referrers/{subject}")[2])
        referrers += {each["digest"] for each in found.get("manifests", [])} == digests
    counts = [(tags, kept.tags), (manifests, kept.manifests), (blobs, kept.blobs), (referrers, kept.referrers)]
    return [f"{found}/{len(total)}" for found, total in counts]


def push_again(host: str, kept: Kept) -> None:
    """Push all blobs and manifests again, as clients do that miss them."""
    registry, rest = Registry(host), Kept()
    for (repo, digest), raw in kept.blobs.items():
        if registry.ask("HEAD", f"/v2/{repo}/blobs/{digest}")[0] != 200:
            registry.blob(rest, repo, raw)
    for (repo, digest), raw in kept.manifests.items():
        document = json.loads(raw)
        tags = [tag for (name, tag), target in kept.tags.items() if (name, target) == (repo, digest)]
        for tag in tags or [digest]:
            status, _, answer = registry.ask(
                "PUT", f"/v2/{repo}/manifests/{tag}", raw, Content_Type=document["mediaType"]
            )
            assert status == 201, answer


def command(servers: "Servers", *words: str, database: str) -> str:
    """Run a command of the operator, and return the last line of its output."""
    run = [sys.executable, "-m", "ocikit", *words, "--metadata", database, "--blobs", servers.blobs]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=os.environ | servers.s3.environ)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return f"exit {done.returncode}: {lines[-1] if lines else ''}"


@define
class Servers:
    """PostgreSQL and an S3 server, and the registry's URLs."""

    postgres: postgres.PostgresServer
    s3: s3.S3Server
    metadata: str
    blobs: str
    folder: Path

    @contextmanager
    def serve(self, metadata: str | None = None, *options: str) -> Iterator[str]:
        """Start a machine with a new state folder, and return its host."""
        chosen = options or OPTIONS
        with (
            cluster.running(
                metadata or self.metadata, self.blobs, machines=1, options=chosen, env=self.s3.environ
            ) as machines,
        ):
            yield machines[0].host

    def copy(self, metadata: str) -> str:
        """Copy a database without connections, as a backup does."""
        name = metadata.rpartition("/")[2]
        copy = f"{name}_{time.monotonic_ns()}"
        with self.postgres.connect() as admin:
            words = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}")
            admin.execute(words.format(*map(sql.Identifier, (copy, postgres.ROLE, name))))
        return self.postgres.url(copy)

    def copy_again(self, metadata: str) -> None:
        """Queue the copies of all manifests and tags of a restored database."""
        with mock.patch.dict(os.environ, self.s3.environ):
            database = Database(metadata)
            try:
                queue_copies(database, open_objects(self.blobs))
            finally:
                database.close()

    @property
    def objects(self) -> Path:
        """The folder of the objects."""
        return self.s3.bucket / self.blobs.partition("?")[0].split("/", 3)[3]


def delete_all(host: str, kept: Kept) -> None:
    """Delete all manifests and tags."""
    registry = Registry(host)
    for repo, digest in kept.manifests:
        assert registry.ask("DELETE", f"/v2/{repo}/manifests/{digest}")[0] in (202, 404)


def table(tell=print) -> list[list[str]]:
    """Run all disasters, print a row for each, and return the rows."""
    rows = []

    def row(name: str, counts: list[str], note: str = "") -> None:
        rows.append([name, *counts, note])
        tell(ROW.format(name, *counts, note), flush=True)

    tell(ROW.format("what", "tags", "manifests", "blobs", "referrers", "command"))
    tell("|---|---:|---:|---:|---:|---|")
    dice = random.Random(1)
    with postgres.running() as database, s3.running() as store, database.database(migrated=True) as metadata:
        folder = store.bucket.parent.parent
        servers = Servers(database, store, metadata, store.url(), folder)
        with servers.serve() as host:
            early = fill(host, dice, "early")
            time.sleep(5)  # the copies of manifests are written
            row("pushed", there(host, early))
        with servers.serve() as host:
            row("all machines lost, with their state folders", there(host, early))

        backup = servers.copy(metadata)
        with servers.serve() as host:
            late = fill(host, dice, "late", 2, large=False)
            delete_all(host, early)
            # Blobs are reviewed one grace period after their manifests, and content after its blobs. The sweep of the machines that were
            # stopped may have its lease.
            deadline = time.monotonic() + _SWEPT
            while not there(host, early)[2].startswith("0/") and time.monotonic() < deadline:
                time.sleep(GRACE + 1)
            row("deleted after a backup of the database", there(host, early))
        with servers.serve(backup) as host:
            row("database restored to the backup: of before", there(host, early))
            row("database restored to the backup: of after", there(host, late))
            servers.copy_again(backup)
            push_again(host, late)
            row("… of after, pushed again", there(host, late))
            time.sleep(15)  # the copies of manifests are written

        empty = database.create()
        migrate(empty)
        said = command(servers, "rebuild", database=empty)
        with servers.serve(empty) as host:
            row("database lost, rebuilt from the objects: of before", there(host, early), said)
            row("database lost, rebuilt from the objects: of after", there(host, late))

        kept = sorted((path for path in (servers.objects / "c").rglob("*") if path.is_file()), key=os.path.getsize)
        damaged = kept[-1]
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
        said = command(servers, "verify", database=empty)
        with servers.serve(empty) as host:
            row("an object damaged", there(host, early), said)
        said = command(servers, "verify", "--repair", database=empty)
        with servers.serve(empty) as host:
            push_again(host, early)
            row("… repaired, and pushed again", there(host, early), said)

        shutil.rmtree(servers.objects / "c")
        with servers.serve(empty) as host:
            row("all blobs' objects lost", there(host, early))
        said = command(servers, "verify", "--repair", database=empty)
        with servers.serve(empty) as host:
            push_again(host, early)
            row("… repaired, and pushed again", there(host, early), said)
    return rows


if __name__ == "__main__":
    table()
