"""Push and delete the same content while collectors run: `python -m tests.tools.soak_collector --seconds 600`.

Threads of several machines push, mount and delete the same blobs and manifests of them, over PostgreSQL and an S3 server.
Collectors with a grace period of zero or one second run at the same time, and each DELETE of an object arrives seconds late. A
manifest that was acknowledged and not deleted has all its children, byte for byte, at every moment. A blob that was acknowledged
is there for most of the grace period. In the end, everything is deleted and no object is left.
"""

import argparse
import io
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from attrs import define, field
from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import BlobInUse, ManifestRow, MissingChildren, OffsetMismatch, UnknownUpload
from ocikit.server.storage.cluster.copies import write_copies
from ocikit.server.storage.cluster.storage import cluster_storage
from ocikit.server.storage.cluster.strays import strays
from ocikit.server.storage.cluster.sweep import sweep
from ocikit.server.storage.gc import gc
from ocikit.server.storage.verify import verify
from ocikit.spec.digest import Digest

from tests.support import postgres, s3

BLOBS = 50

#: Manifests of a client: few, so that most blobs become unreferenced again and again.
MANIFESTS = 2

#: Seconds after which an object store deletes an object, at most: the answer to the DELETE comes at once.
LATE = 3.0

#: Repositories in which only the collector removes blobs, and one in which clients do, too.
KEPT, SHARED = ("team/kept", "team/other"), "team/shared"

MEDIA_TYPE = "application/vnd.oci.image.manifest.v1+json"


@define(eq=False)
class Soak:
    """Clients and collectors of several machines, until a time.

    Args:
        machines: Storages of one database and object store.
        end: Time of the monotonic clock.
        grace: Seconds.
    """

    machines: list
    end: float
    grace: float
    counts: Counter = field(factory=Counter)
    wrong: list[str] = field(factory=list)
    contents: list[bytes] = field(init=False)
    timers: list = field(factory=list)
    lock: threading.Lock = field(factory=threading.Lock)

    def __attrs_post_init__(self):
        dice = random.Random(7)
        self.contents = [dice.randbytes(dice.choice((40, 3000, 90_000))) for _ in range(BLOBS)]

    def run(self, clients):
        """Run all threads; return what was wrong."""
        for storage in self.machines:
            storage.objects.delete = partial(self.delete_late, storage.objects.delete)
        work = [self.client] * clients + [self.collect, self.collect, self.collect_all]
        with ThreadPoolExecutor(len(work)) as pool:
            for future in [pool.submit(function, number) for number, function in enumerate(work)]:
                future.result()
        self.wait()
        return self.wrong

    def wait(self):
        """Wait for the last deletions of objects."""
        for timer in self.timers:
            timer.join(60)

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    def fail(self, text):
        with self.lock:
            self.wrong.append(text)
        self.end = 0

    def delete_late(self, delete, keys):
        """Delete objects after a while, as a request does that was lost in the network for so long."""
        timer = threading.Timer(random.uniform(0, LATE), delete, (keys,))
        timer.daemon = True
        timer.start()
        self.timers.append(timer)
        return {}

    def collect(self, number):
        """Run sweeps one after the other, also several at once."""
        while time.monotonic() < self.end:
            result = sweep(self.machines[number % len(self.machines)], grace=self.grace)
            with self.lock:
                self.counts["blobs removed"] += len(result.unlinked)
                self.counts["contents deleted"] += len(result.blobs)
                self.counts["sweeps"] += 1
            time.sleep(0.01)

    def collect_all(self, number):
        """Run full collections and write copies."""
        storage = self.machines[number % len(self.machines)]
        while time.monotonic() < self.end:
            gc(storage, grace=self.grace, untagged=random.random() < 0.3)
            write_copies(storage.database, storage.objects)
            self.count("full collections")
            time.sleep(0.2)

    def client(self, number):
        """Push and delete; each manifest belongs to one client, which knows whether it must be there."""
        dice = random.Random(number)
        mine = {}
        while time.monotonic() < self.end:
            storage = dice.choice(self.machines)
            action = dice.choice(
                (self.push_blob, self.put, self.put, self.delete, self.remove, self.mount, self.look, self.look)
            )
            action(storage, dice, mine)
            self.count(action.__name__)
        for storage in self.machines:
            for key in mine:
                self.check(storage, key, mine[key])

    def push_blob(self, storage, dice, mine):
        repository, content = dice.choice(KEPT), dice.choice(self.contents)
        begin = time.monotonic()
        self.push(storage, repository, content)
        found = storage.find_blob(repository, Digest.of(content))
        if found is None and time.monotonic() - begin < 0.5 * self.grace:
            self.fail(f"an acknowledged blob is missing in {repository} at once")

    def push(self, storage, repository, content):
        """Push a blob as clients do: whole, or in two parts."""
        while True:
            upload = storage.uploads.create(repository)
            try:
                rest = content
                if random.random() < 0.3:
                    first, rest = content[: len(content) // 2], content[len(content) // 2 :]
                    storage.uploads.append(upload, RequestBody(io.BytesIO(first), length=len(first)))
                storage.finish(upload, Digest.of(content), RequestBody(io.BytesIO(rest), length=len(rest)))
            except (UnknownUpload, OffsetMismatch):
                self.count("uploads again")
                continue
            return

    def put(self, storage, dice, mine):
        """Push the children that are not there, then the manifest. A collector may be faster: then again."""
        if len(mine) >= MANIFESTS:
            self.delete(storage, dice, mine)
        repository = dice.choice((*KEPT, SHARED))
        children = dice.sample(self.contents, dice.randint(1, 3))
        digests = tuple(map(Digest.of, children))
        raw = dice.randbytes(200) + os.urandom(8)
        row = ManifestRow(
            digest=Digest.of(raw), media_type=MEDIA_TYPE, size=len(raw), children=tuple(sorted(set(digests)))
        )
        for _ in range(20):
            for content, digest in zip(children, digests, strict=True):
                if storage.blob_size(repository, digest) is None:
                    self.push(storage, repository, content)
            try:
                storage.put_manifest(repository, row, io.BytesIO(raw), [f"t{row.digest[-8:]}"], require_children=True)
            except MissingChildren:
                self.count("manifests again")
                continue
            mine[(repository, row.digest)] = (raw, children)
            self.check(storage, (repository, row.digest), mine[(repository, row.digest)])
            return
        self.count("manifests given up")

    def delete(self, storage, dice, mine):
        if mine:
            repository, digest = key = dice.choice(sorted(mine))
            del mine[key]
            if not storage.metadata.delete_manifest(repository, digest):
                self.fail(f"{repository} has lost the manifest {digest}")

    def remove(self, storage, dice, mine):
        try:
            storage.metadata.remove_blob(SHARED, Digest.of(dice.choice(self.contents)))
        except BlobInUse:
            self.count("blobs in use")

    def mount(self, storage, dice, mine):
        content = dice.choice(self.contents)
        begin = time.monotonic()
        mounted = storage.mount(KEPT[0], Digest.of(content), dice.choice((KEPT[1], SHARED)))
        if mounted:
            found = storage.find_blob(KEPT[0], Digest.of(content))
            if found is None and time.monotonic() - begin < 0.5 * self.grace:
                self.fail("a mounted blob is missing at once")

    def look(self, storage, dice, mine):
        if mine:
            key = dice.choice(sorted(mine))
            self.check(storage, key, mine[key])

    def check(self, storage, key, expected):
        """Read a manifest and its children at another machine."""
        repository, digest = key
        raw, children = expected
        row = storage.metadata.manifest(repository, digest)
        file = storage.open_manifest(row) if row is not None else None
        if file is None or file.read() != raw:
            return self.fail(f"{repository} has lost the manifest {digest}")
        for content in children:
            child = Digest.of(content)
            found = storage.find_blob(repository, child)
            if found is None:
                return self.fail(f"{repository} has lost {child}, a child of {digest}")
            try:
                with found.open(0, found.size) as stream:
                    data = stream.read()
            except KeyError:
                return self.fail(f"the object of {child} in {repository} is missing")
            if data != content:
                return self.fail(f"{child} in {repository} is damaged")
        return self.count("manifests checked")

    def clean(self):
        """Delete everything, and return the keys that are left."""
        storage = self.machines[0]
        for repository in (*KEPT, SHARED):
            for tag in storage.metadata.tags(repository, limit=1_000_000):
                row = storage.metadata.manifest(repository, tag)
                storage.metadata.delete_manifest(repository, row.digest)
        time.sleep(self.grace + 0.1)
        storage.database.change("UPDATE uploads SET lease = '-infinity'")
        for _ in range(3):  # blobs, their content, its objects
            storage.database.change("UPDATE review SET after = '-infinity'")
            sweep(storage, grace=0, expiry=-1)
            storage.database.change("UPDATE garbage SET after = '-infinity'")
        write_copies(storage.database, storage.objects)
        self.wait()
        return [key for key, _, _ in storage.objects.iterate("")]


@contextmanager
def machines(database_url, objects_url, folder, *, count=2, grace, keep_deleted, pool=8):
    """Open several storages of one database and object store."""
    opened = []
    try:
        for number in range(count):
            state = folder / f"state{number}"
            state.mkdir()
            opened.append(
                cluster_storage(
                    database_url, objects_url, grace=grace, keep_deleted=keep_deleted, state=state, pool=pool
                )
            )
        yield opened
    finally:
        for storage in opened:
            storage.close()


def soak(database_url, objects_url, folder, *, seconds, clients, grace, keep_deleted):
    """Run a soak; return its counts and what was wrong."""
    with machines(database_url, objects_url, folder, grace=grace, keep_deleted=keep_deleted) as storages:
        run = Soak(storages, time.monotonic() + seconds, grace)
        wrong = run.run(clients)
        result = verify(storages[0])
        wrong += [f"{blob.digest} is {blob.problem}" for blob in result.corrupt]
        found = strays(storages[0].database, storages[0].objects, state=folder, keep_deleted=0, age=-3600)
        wrong += [f"{found.count} objects have no row"] if found.count else []
        if not wrong:
            wrong += [f"{key} is left" for key in run.clean()]
        return run.counts, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--grace", type=float, default=1)
    parser.add_argument("--keep-deleted", type=float, default=1)
    arguments = parser.parse_args()
    with (
        postgres.running() as server,
        s3.running() as objects,
        server.database(migrated=True) as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.environ.update(objects.environ)
        counts, wrong = soak(
            url,
            objects.url(),
            Path(folder),
            seconds=arguments.seconds,
            clients=arguments.clients,
            grace=arguments.grace,
            keep_deleted=arguments.keep_deleted,
        )
    for name, count in sorted(counts.items()):
        print(f"{count:>9}  {name}")
    print("\n".join(wrong) or "nothing is lost, and nothing is left")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
