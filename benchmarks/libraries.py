"""Seconds of reads by URL over a connection with a delay: python -m benchmarks libraries.

Two columns of a Parquet file of 63 MB with 14 columns, by fsspec's `open_parquet_file`, next to polars' native reader and
fsspec's `http`, which read the blob's URL. `--delay` sets the round trip. `python -m benchmarks acceptance` has bytes and
requests. Needs the extras `data` and `test`, and aiohttp for fsspec's `http`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ocikit
from tests.support import peers
from tests.support.home import ROOT

_ROWS = 500_000
_FLOATS = 13  # columns c0 to c12, next to k
_COLUMNS = ["c0", "k"]
_ROUNDS = 7

POLARS = "polars on the blob's URL"
HTTP = "fsspec http"
WHOLE = "all of it, File.open"
WHOLE_FS = "all of it, fs.open"


def write(folder: Path) -> None:
    """Write the files: `year=2023/a.parquet`, `year=2024/a.parquet`, `t.csv`, `lines.jsonl`, `v2.zarr`, `v3.zarr`, `w.zip`."""
    import numpy as np  # noqa: PLC0415 - an optional package
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    import pyarrow.csv  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415 - as above
    import xarray as xr  # noqa: PLC0415 - as above

    rng = np.random.default_rng(1)
    for year in (2023, 2024):
        columns: dict[str, Any] = {f"c{n}": rng.standard_normal(_ROWS) for n in range(_FLOATS)} | {
            "k": np.arange(_ROWS)
        }
        (folder / f"year={year}").mkdir()
        pq.write_table(
            pa.table(columns), folder / f"year={year}/a.parquet", row_group_size=_ROWS // 10, use_dictionary=False
        )
    pyarrow.csv.write_csv(pa.table(columns).select(["c0", "c1", "k"]).slice(0, 550_000), folder / "t.csv")
    (folder / "lines.jsonl").write_text("".join(f'{{"k": {n}, "text": "{n:060}"}}\n' for n in range(100_000)))
    values = rng.standard_normal((8, 200, 400))
    weather = xr.Dataset({"t": (("time", "y", "x"), values)})
    encoding = {"t": {"chunks": (1, 200, 400)}}
    for version in (2, 3):
        weather.to_zarr(folder / f"v{version}.zarr", zarr_format=version, encoding=encoding, consolidated=version == 2)
    with zipfile.ZipFile(folder / "w.zip", "w") as archive:
        for path in sorted((folder / "v3.zarr").rglob("*")):
            archive.write(path, path.relative_to(folder / "v3.zarr"))


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Copy one direction, each piece after a delay. The rate is not limited."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(1 << 20):
            loop.call_later(delay, writer.write, piece)
    loop.call_later(delay, writer.close)


async def delayed(host: str, port: int, delay: float) -> None:
    """Serve as a proxy whose round trips take longer, also that of a new connection; print the port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(2 * delay)
        back, forth = await asyncio.open_connection(host, port)
        await asyncio.gather(_forward(reader, forth, delay), _forward(back, writer, delay))

    server = await asyncio.start_server(accept, "127.0.0.1")
    print(server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


@contextlib.contextmanager
def slow(host: str, delay: float) -> Iterator[str]:
    """Run the proxy as a process and yield its host; without a delay, yield the host."""
    if not delay:
        yield host
        return
    command = [sys.executable, "-m", "benchmarks.libraries", "--proxy", host, "--delay", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        port = process.stdout.readline() if process.stdout else ""
        try:
            yield f"127.0.0.1:{port.strip()}"
        finally:
            process.kill()


def race(url: str) -> dict[str, list[float]]:
    """Read with each reader in turn, in this process; return the seconds of each round."""
    import fsspec.parquet  # noqa: PLC0415 - an optional package
    import polars as pl  # noqa: PLC0415 - an optional package
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional package

    path = f"{url}/year=2023/a.parquet"
    found = ocikit.inspect(url.removeprefix("ocikit://"))["year=2023/a.parquet"]
    blob = found.url()
    files = ocikit.fs()
    files.info(path)

    def coalesced() -> object:
        with fsspec.parquet.open_parquet_file(path, columns=_COLUMNS, engine="pyarrow") as stream:
            return pq.read_table(stream, columns=_COLUMNS)

    def anew() -> object:
        files.invalidate_cache()
        return coalesced()

    def opened() -> object:
        with files.open(path) as stream:
            return pq.read_table(stream, columns=_COLUMNS)

    def over_http() -> object:
        with fsspec.open(blob) as stream:
            return pq.read_table(stream, columns=_COLUMNS)

    def whole() -> object:
        with found.open() as stream:
            return len(stream.read())

    def whole_by_fs() -> object:
        with files.open(path) as stream:
            return len(stream.read())

    readers: dict[str, Callable[[], object]] = {
        "open_parquet_file": coalesced,
        "open_parquet_file, tag resolved": anew,
        "fs.open": opened,
        POLARS: lambda: pl.scan_parquet(blob).select(_COLUMNS).collect(),
        HTTP: over_http,
        WHOLE: whole,
        WHOLE_FS: whole_by_fs,
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(_ROUNDS + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    return {name: each[1:] for name, each in seconds.items()}


def run_race(url: str, cache: Path) -> dict[str, list[float]]:
    """Run `race` in a new process."""
    env = os.environ | {"OCIKIT_CACHE": str(cache), "OCIKIT_PROGRESS": "none", "HOME": str(cache / "home")}
    command = [sys.executable, "-m", "benchmarks.libraries", "--race", url]
    ran = subprocess.run(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(ran.stdout)
    return found


def ratio(seconds: Mapping[str, list[float]], mine: str, other: str) -> float:
    """Return the median of the ratios of the same round."""
    return statistics.median(a / b for a, b in zip(seconds[mine], seconds[other], strict=True))


def show_race(seconds: Mapping[str, list[float]]) -> None:
    """Print medians of seconds, and ratios."""
    print(f"{'':34}{'s':>8}{'to polars':>12}{'to http':>10}")
    for name, mine in seconds.items():
        ratios = "".join(f"{ratio(seconds, name, other):11.2f}" for other in (POLARS, HTTP))
        print(f"{name:34}{statistics.median(mine):8.3f}{ratios}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--race", metavar="URL", help="run the readers in this process")
    parser.add_argument("--proxy", metavar="HOST", help="run the proxy with a delay")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds of a round trip (0.02)")
    parser.add_argument("--registry", nargs="*", default=["ocikit"], choices=["ocikit", "distribution3"])
    options = parser.parse_args()
    if options.proxy:
        host, _, port = options.proxy.rpartition(":")
        return asyncio.run(delayed(host, int(port), options.delay / 2))
    if options.race:
        print(json.dumps(race(options.race)), flush=True)
        os._exit(0)  # threads of the libraries that still run end the process by a signal
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "d").mkdir()
        write(folder / "d")
        for kind in options.registry:
            with peers.KINDS[kind]() as registry, ocikit.Session(progress=False, cache=folder / "push") as session:
                session.push(f"{registry.host}/t/d:v1", f"{folder}/d/.")
                for delay in (options.delay, 0):
                    print(f"\n{kind}, two columns, {delay * 1000:g} ms a round trip\n", flush=True)
                    with slow(registry.host, delay) as host:
                        show_race(run_race(f"ocikit://{host}/t/d:v1", folder / f"{kind}{delay}"))
    return None


if __name__ == "__main__":
    main()
