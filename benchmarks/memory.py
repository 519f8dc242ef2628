"""Peak memory of one large blob, pushed and pulled: `python -m benchmarks.memory --gib 4`.

Prints the kernel's high-water mark of each process above that of an idle `import ocikit`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import MIB, environment, measure, ocikit
from tests.support import peers

IDLE = "import ocikit, time; time.sleep(0.3)"


def main() -> None:
    """Write the blob, move it in both directions, compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--gib", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocikit-memory-") as name, peers.distribution3() as registry:
        folder = Path(name)
        big, env = folder / "big.bin", environment(folder)
        expected = hashlib.sha256()
        with big.open("wb") as file:
            for _ in range(options.gib * 1024):
                block = os.urandom(MIB)
                expected.update(block)
                file.write(block)
        idle = measure([sys.executable, "-c", IDLE], folder, env).memory
        print(f"idle import ocikit: {idle / MIB:.0f} MiB")
        reference = f"{registry.host}/memory/big:v1"
        work = {
            "push": ocikit("push", "--quiet", reference, "big.bin"),
            "pull to a folder": ocikit("pull", "--quiet", reference, "back"),
            "pull to the cache": ocikit("pull", "--quiet", reference),
        }
        for what, command in work.items():
            cost = measure(command, folder, env)
            print(f"{what}: {(cost.memory - idle) / MIB:.0f} MiB above idle, {cost.wall:.1f} s")
        with (folder / "back" / "big.bin").open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == expected.hexdigest()
        print(f"what came back is {'the same' if same else 'DIFFERENT'}, {options.gib} GiB")


if __name__ == "__main__":
    main()
