"""Forked workers read on in streams that their parent opened: python -m tests.tools.fork_streams --rounds 1000.

Each round reads a part of a stream, forks workers, and reads the rest in all processes. The table has the number of wrong
bytes for each kind of source.
"""

import argparse
import os
import random
import tempfile
from pathlib import Path

import ocikit

CONTENT = random.Random(7).randbytes(300_000)
KINDS = ("registry", "cache", "folder", "layout", "archive")


def wrong_bytes(stream, start):
    """Read on and return the number of wrong or missing bytes."""
    rest = stream.read()
    want = CONTENT[start:]
    return sum(a != b for a, b in zip(rest, want, strict=False)) + abs(len(rest) - len(want))


def one_round(stream, rng, workers):
    start = rng.choice((1, 1000, 65_536, 100_001))
    ends = []
    with stream:
        if stream.read(start) != CONTENT[:start]:
            return start
        for _ in range(workers):
            reader, writer = os.pipe()
            if not os.fork():
                try:
                    os.write(writer, str(wrong_bytes(stream, start)).encode())
                finally:
                    os._exit(0)
            os.close(writer)
            ends.append(reader)
        wrong = wrong_bytes(stream, start)
    for reader in ends:
        with os.fdopen(reader, "rb") as pipe:
            wrong += int(pipe.read() or len(CONTENT))
        os.wait()
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    rng = random.Random(1)
    with tempfile.TemporaryDirectory() as folder, ocikit.serve() as server:
        os.chdir(folder)
        Path("blob.bin").write_bytes(CONTENT)
        wrong = dict.fromkeys(KINDS, 0)
        with (
            ocikit.Session(cache="empty", progress=False) as remote,
            ocikit.Session(cache="full", progress=False) as local,
        ):
            targets = {"layout": "oci:store:v1", "archive": "oci-archive:store.tar:v1"}
            registry = f"{server.host}/t/d:v1"
            for target in (registry, *targets.values()):
                remote.push(target, "blob.bin")
            local.pull(registry)
            pulled = remote.pull(registry, "out")
            for n in range(options.rounds):
                kind = KINDS[n % len(KINDS)]
                if kind == "folder":
                    stream = pulled.open("blob.bin")
                else:
                    session = local if kind == "cache" else remote
                    stream = session.open(targets.get(kind, registry), "blob.bin")
                wrong[kind] += one_round(stream, rng, options.workers)
    for kind, count in wrong.items():
        print(f"{kind:10} {options.rounds // len(KINDS):5} rounds, {options.workers} workers: {count} wrong bytes")


if __name__ == "__main__":
    main()
