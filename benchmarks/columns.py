"""Random reads through `ocikit.open`: python -m benchmarks columns.

A Parquet file of 68 MB with 14 columns and 10 row groups, a zip of 68 MB, and a small file, behind a proxy that counts. The
counts do not depend on the machine. Needs pyarrow and numpy.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ocikit
from benchmarks.counting import CountingProxy

_ROWS = 625_000
_GROUPS = 10
_FLOATS = 13  # columns c0 to c12, next to k


def _write(folder: Path) -> None:
    """Write the files: `t.parquet`, `a.zip`, `small.bin`."""
    import numpy as np  # noqa: PLC0415 - an optional package
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    rng = np.random.default_rng(1)
    columns: dict[str, Any] = {f"c{n}": rng.standard_normal(_ROWS) for n in range(_FLOATS)}
    columns["k"] = rng.integers(0, 1 << 22, _ROWS)
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=_ROWS // _GROUPS, use_dictionary=False)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for n in range(200):
            archive.writestr(f"{n:03}.bin", os.urandom(340_000))
    (folder / "small.bin").write_bytes(os.urandom(100_000))


def _calls(session: ocikit.Session, ref: str) -> dict[str, Callable[[], object]]:
    """Return what is measured, by its name in the table. The reference is pinned and its manifest cached."""
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional package

    def opened(name: str) -> Any:
        return session.open(ref, name)

    def members() -> None:
        with opened("a.zip") as stream, zipfile.ZipFile(stream) as archive:
            archive.read("100.bin")

    def pieces() -> None:
        with opened("t.parquet") as stream:
            while stream.read(1 << 20):
                pass

    return {
        "ParquetFile(…).metadata": lambda: pq.ParquetFile(opened("t.parquet")).metadata,
        "column k": lambda: pq.ParquetFile(opened("t.parquet")).read(columns=["k"]),
        "columns c0, k": lambda: pq.ParquetFile(opened("t.parquet")).read(columns=["c0", "k"]),
        "read_table, column k": lambda: pq.read_table(opened("t.parquet"), columns=["k"]),
        "names in a zip": lambda: zipfile.ZipFile(opened("a.zip")).namelist(),
        "one file of a zip": members,
        "all, 1 MiB at once": pieces,
        "read()": lambda: opened("t.parquet").read(),
        "ten times read(10), large": lambda: [opened("t.parquet").read(10) for _ in range(10)],
        "ten times read(10), small": lambda: [opened("small.bin").read(10) for _ in range(10)],
        "ten times head(100)": lambda: [session.inspect(ref)["a.zip"].head(100) for _ in range(10)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as place, ocikit.serve() as server:
        folder = Path(place)
        _write(folder)
        with ocikit.Session(progress=False) as session:
            os.chdir(folder)
            pushed = session.push(f"{server.host}/t/d:v1", "t.parquet", "a.zip", "small.bin")
        print(f"t.parquet has {pushed['t.parquet'].size:,} bytes\n")
        print(f"{'':28}{'bytes':>12}{'requests':>10}{'connections':>13}")
        names: list[str] = []
        while True:
            with (
                CountingProxy(f"http://{server.host}") as proxy,
                ocikit.Session(progress=False, cache=folder / f"cache{len(names)}") as session,
            ):
                ref = str(session.inspect(f"{proxy.host}/t/d:v1").reference)
                calls = _calls(session, ref)
                name = next((name for name in calls if name not in names), None)
                if name is None:
                    return
                names.append(name)
                before = proxy.count
                calls[name]()
                count = proxy.count
            received, requests = count.received - before.received, count.requests - before.requests
            print(f"{name:28}{received:12,}{requests:10}{count.connections:13}", flush=True)


if __name__ == "__main__":
    main()
