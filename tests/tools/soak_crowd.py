"""Push, pull, move and delete concurrently while collectors run: `python -m tests.tools.soak_crowd --seconds 60`.

Each thread is a client with real ocikit calls. Some tags only move, and must exist and be complete at every moment. Other
tags are created and deleted. Two collectors with a short grace period run as processes, next to the server's two workers.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ocikit
from attrs import define, field
from ocikit.errors import OcikitError
from ocikit.server.storage.files import file_storage
from ocikit.server.storage.gc import gc
from ocikit.server.storage.verify import verify

GRACE = 3.0  # seconds: longer than a push takes between its first blob and its manifest on a busy machine
SIZES = (10, 5_000, 200_000)


@define(eq=False)
class Crowd:
    """The clients' operations on one registry."""

    host: str
    folder: Path
    end: float
    standing: tuple[str, ...] = ()
    """Content that always exists."""
    counts: dict[str, int] = field(factory=dict)
    slow: list[str] = field(factory=list)
    """Pushes that took longer than the grace period and were rejected; their client retries."""
    lock: threading.Lock = field(factory=threading.Lock)

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def files(self, dice, name):
        """Write a few files, some of them shared by all clients."""
        folder = self.folder / f"{name}-{dice.random()}"
        folder.mkdir()
        for n in range(dice.randint(1, 3)):
            shared = dice.random() < 0.5
            content = bytes([dice.randrange(4)]) * 30_000 if shared else dice.randbytes(dice.choice(SIZES))
            (folder / f"{n}.bin").write_bytes(content)
        return folder

    def push(self, session, dice, reference, name):
        """Push and return the artifact, or None if it took too long."""
        folder = self.files(dice, name)
        begun = time.monotonic()
        try:
            pushed = session.push(f"{self.host}/{reference}", folder)
        except OcikitError as error:
            if time.monotonic() - begun < GRACE * 0.7:
                raise
            self.slow.append(str(error))
            return None
        finally:
            shutil.rmtree(folder)
        self.count("push")
        return pushed

    def pull(self, dice, reference, name):
        """Pull with an empty cache, so that all content comes over the network."""
        out = self.folder / f"out-{name}-{dice.random()}"
        try:
            with ocikit.Session(cache=out / "cache") as session:
                session.pull(f"{self.host}/{reference}", out / "files")
        finally:
            shutil.rmtree(out, ignore_errors=True)
        self.count("pull")

    def move(self, number):
        """Push new versions to a tag that always exists."""
        dice = random.Random(number)
        with self.session(number) as session:
            while time.monotonic() < self.end:
                self.push(session, dice, self.standing[number], f"m{number}")

    def read(self, number):
        """Pull tags that always exist: no pull fails."""
        dice = random.Random(number)
        while time.monotonic() < self.end:
            self.pull(dice, dice.choice(self.standing), f"p{number}")

    def come_and_go(self, number):
        """Push, inspect and delete the same names repeatedly."""
        dice, name = random.Random(number), f"passing/r{number % 2}"
        with self.session(number) as session:
            while time.monotonic() < self.end:
                pushed = self.push(session, dice, f"{name}:t{number}", f"g{number}")
                if pushed is None:
                    continue
                self.pull(dice, f"{name}:t{number}", f"g{number}")
                session.delete(f"{self.host}/{name}@{pushed.digest}")
                self.count("delete")
                assert f"t{number}" not in session.tags(f"{self.host}/{name}")

    def session(self, number):
        """Return a client with its own cache."""
        return ocikit.Session(cache=self.folder / f"cache-{number}")


def sweep(path, end):
    """Run a collector without pause."""
    storage = file_storage(path, grace=GRACE)
    turns, freed = 0, 0
    while time.time() < end:
        swept = gc(storage, grace=GRACE, untagged=turns % 2 == 0)
        turns, freed = turns + 1, freed + len(swept.blobs)
    storage.close()
    print(json.dumps([turns, freed]))


def soak(seconds, *, movers=3, readers=3, passers=2):
    """Run the soak, return counts, and raise the first error of a thread."""
    with tempfile.TemporaryDirectory(prefix="ocikit-crowd-") as scratch:
        store = Path(scratch) / "store"
        with ocikit.serve(store, options=ocikit.ServerOptions(workers=2, grace=GRACE, collect_every=0.5)) as server:
            crowd = Crowd(server.host, Path(scratch), time.monotonic() + seconds)
            crowd.standing = tuple(f"moving/r{n % 3}:t{n}" for n in range(movers))
            with crowd.session("first") as session:
                for n, reference in enumerate(crowd.standing):
                    while crowd.push(session, random.Random(n), reference, f"s{n}") is None:
                        pass
            command = [sys.executable, "-m", "tests.tools.soak_crowd", "--sweep", str(store), "--seconds", str(seconds)]
            sweepers = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
            with ThreadPoolExecutor(movers + readers + passers) as pool:
                work = [pool.submit(crowd.move, n) for n in range(movers)]
                work += [pool.submit(crowd.read, 100 + n) for n in range(readers)]
                work += [pool.submit(crowd.come_and_go, 200 + n) for n in range(passers)]
            swept = [json.loads(each.communicate()[0]) for each in sweepers]
            for each in work:
                each.result()
        storage = file_storage(store)
        try:
            report = verify(storage)
            assert report.ok, report.corrupt
        finally:
            storage.close()
    return {
        **crowd.counts, "collections": sum(turns for turns, _ in swept), "freed": sum(freed for _, freed in swept),
        "kept": report.checked, "too slow": len(crowd.slow),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--sweep")
    options = parser.parse_args()
    if options.sweep:
        sweep(options.sweep, time.time() + options.seconds)
    else:
        print(json.dumps(soak(options.seconds)))


if __name__ == "__main__":
    main()
