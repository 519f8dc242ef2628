"""Peak memory of one large blob, pushed and pulled: `python -m benchmarks memory --gib 4`.

Prints the kernel's high-water mark of each process above that of an idle `import ocikit`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.data import digests
from benchmarks.measure import MIB, measure
from benchmarks.tools import environment, ocikit
from tests.support import peers

IDLE = "import ocikit, time; time.sleep(0.3)"

#: Pulls a reference to a folder without parallel ranges.
ONE_STREAM = """
import sys, ocikit
with ocikit.Session(network=ocikit.Network(ranges=False), progress=False) as session:
    session.pull(sys.argv[1], sys.argv[2])
"""


def main() -> None:
    """Write the blob, move it in both directions, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--gib", type=int, default=4)
    parser.add_argument("--registry", choices=("distribution3", "ocikit"), default="distribution3")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocikit-memory-") as name, peers.KINDS[options.registry]() as registry:
        folder = Path(name)
        env = environment(folder)
        expected = hashlib.sha256()
        with (folder / "big.bin").open("wb") as file:
            for _ in range(options.gib * 1024):
                block = os.urandom(MIB)
                expected.update(block)
                file.write(block)
        idle = measure([sys.executable, "-c", IDLE], folder, env).memory
        print(f"idle import ocikit: {idle / MIB:.0f} MiB")
        reference = f"{registry.host}/memory/big:v1"
        work = {
            "push": ocikit("push", "--quiet", reference, "big.bin"),
            "pull to the cache": ocikit("pull", "--quiet", reference),
            "pull to a folder": ocikit("pull", "--quiet", reference, "back"),
            "pull to a folder without parallel ranges": [sys.executable, "-c", ONE_STREAM, reference, "back"],
        }
        for what, arguments in work.items():
            cost = measure(arguments, folder, env)
            print(f"{what}: {(cost.memory - idle) / MIB:.0f} MiB above idle, {cost.wall:.1f} s, CPU {cost.cpu:.1f} s")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            if "folder" in what:
                if expected.hexdigest() not in digests(folder / "back"):
                    raise RuntimeError("other bytes came back than were pushed")
                shutil.rmtree(folder / "back")
        print(f"each pull returned the {options.gib} GiB that were pushed")


if __name__ == "__main__":
    main()
