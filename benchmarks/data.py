"""The test data: random files in three shapes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from attrs import frozen

from benchmarks.measure import MIB


@frozen
class Shape:
    """Files of one size."""

    count: int
    size: int

    def __str__(self) -> str:
        size = f"{self.size >> 20} MiB" if self.size >= MIB else f"{self.size >> 10} KiB"
        return f"{self.count:,} x {size}"

    @property
    def total(self) -> int:
        """All bytes."""
        return self.count * self.size


SHAPES = {"1": Shape(1, 1024 * MIB), "2": Shape(8, 128 * MIB), "3": Shape(1000, 65536)}

#: For a look at all tools in two minutes. The ratios are those of start-up times.
QUICK = {"1": Shape(1, 64 * MIB), "2": Shape(4, 16 * MIB), "3": Shape(100, 65536)}


def make(folder: Path, shape: Shape) -> list[Path]:
    """Write random files."""
    folder.mkdir(parents=True)
    made = []
    for i in range(shape.count):
        path = folder / f"{i:04}.bin"
        with path.open("wb") as file:
            for _ in range(max(1, shape.size // MIB)):
                file.write(os.urandom(min(shape.size, MIB)))
        made.append(path)
    return made


def digests(folder: Path) -> set[str]:
    """Return the sha256 of every file below a folder."""
    found = set()
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                found.add(hashlib.file_digest(file, "sha256").hexdigest())
    return found
