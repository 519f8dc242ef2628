"""Data libraries that read files by URL: python -m benchmarks libraries.

Two Parquet files of 63 MB with 14 columns, a CSV of 25 MB, and arrays in zarr, behind a proxy that counts. Each library is a
new process with an empty cache. The counts do not depend on the machine. Then two columns over a connection with a delay:
by fsspec's `open_parquet_file`, next to polars' native reader and fsspec's `http`, which read the blob's URL. `--delay`
sets the round trip. Needs the extras `data` and `test`, and aiohttp for fsspec's `http`.
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

from attrs import frozen

import ocikit
from benchmarks.counting import CountingProxy
from tests.support import peers

_ROWS = 500_000
_FLOATS = 13  # columns c0 to c12, next to k
_COLUMNS = ["c0", "k"]
_ROUNDS = 7
_KB, _MB = 1 << 10, 1_000_000


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


# The cases run in processes of their own. Each returns what it has read.


def _pandas(url: str) -> object:
    import pandas as pd  # noqa: PLC0415 - an optional package

    return pd.read_parquet(f"{url}/year=2023/a.parquet", columns=["k"]).shape


def _pandas_csv(url: str) -> object:
    import pandas as pd  # noqa: PLC0415 - an optional package

    return pd.read_csv(f"{url}/t.csv", nrows=5).shape


def _metadata(url: str) -> object:
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional package

    return pq.ParquetFile(f"{url}/year=2023/a.parquet", filesystem=ocikit.fs()).metadata.num_rows


def _duckdb(query: str) -> Callable[[str], object]:
    def run(url: str) -> object:
        import duckdb  # noqa: PLC0415 - an optional package

        with duckdb.connect() as connection:
            connection.register_filesystem(ocikit.fs())
            return connection.execute(query.format(url)).fetchall()

    return run


def _polars(url: str) -> object:
    import polars as pl  # noqa: PLC0415 - an optional package
    import pyarrow.dataset as ds  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    table = ds.dataset(f"{url}/year=2023/a.parquet".removeprefix("ocikit://"), filesystem=ocikit.fs())
    return pl.scan_pyarrow_dataset(table).filter(pl.col("k") < 10).select("k").collect().shape


def _polars_native(url: str) -> object:
    import polars as pl  # noqa: PLC0415 - an optional package

    blob = ocikit.inspect(url.removeprefix("ocikit://"))["year=2023/a.parquet"].url()
    return pl.scan_parquet(blob).filter(pl.col("k") < 10).select("k").collect().shape


def _zarr(version: int) -> Callable[[str], object]:
    def run(url: str) -> object:
        import xarray as xr  # noqa: PLC0415 - an optional package

        once, again = (float(xr.open_zarr(f"{url}/v{version}.zarr").t[0, 0, 0]) for _ in range(2))
        return once == again

    return run


def _zip(url: str) -> object:
    import zarr  # noqa: PLC0415 - an optional package

    return sorted(zarr.open_group(url.replace("ocikit://", "zip::ocikit://") + "/w.zip", mode="r").array_keys())


def _dask(url: str) -> object:
    import dask  # noqa: PLC0415 - an optional package
    import dask.dataframe as dd  # noqa: PLC0415 - an optional package

    with dask.config.set(scheduler="threads"):
        return int(dd.read_parquet(f"{url}/year=*/*.parquet", columns=["k"]).k.sum().compute())


def _datasets(url: str) -> object:
    import datasets  # noqa: PLC0415 - an optional package

    # The first chunk is read twice. Its size is the library's option; the default is 10 MiB
    options = {"streaming": True, "split": "train", "chunksize": 32 * _KB}
    streamed = datasets.load_dataset("json", data_files=f"{url}/lines.jsonl", **options)
    return next(iter(streamed))["k"]


@frozen
class Case:
    """A call of a library, and what it may cost."""

    run: Callable[[str], object]
    received: float
    """Bytes."""
    requests: int = 0
    """Requests for blobs; 0 sets no limit."""


CASES: Mapping[str, Case] = {
    "pandas.read_parquet, column k": Case(_pandas, 3.3 * _MB, 13),
    "pandas.read_csv, nrows=5": Case(_pandas_csv, 256 * _KB),  # pandas reads as much at once
    "ParquetFile(…).metadata": Case(_metadata, 64 * _KB, 1),
    "duckdb, count by hive folder": Case(
        _duckdb("select year, count(*) from read_parquet('{}/*/*.parquet', hive_partitioning=true) group by all"), 256 * _KB
    ),
    "duckdb, avg(c0) where k < 100": Case(
        _duckdb("select avg(c0) from read_parquet('{}/*/*.parquet') where k < 100"), 3.2 * _MB
    ),
    "polars, 10 rows of a dataset": Case(_polars, 0.5 * _MB),
    "polars, 10 rows of file.url()": Case(_polars_native, 0.5 * _MB),
    "xarray, a chunk of zarr 2, twice": Case(_zarr(2), 700 * _KB),
    "xarray, a chunk of zarr 3, twice": Case(_zarr(3), 700 * _KB),
    "zarr, names in a zip": Case(_zip, 256 * _KB),
    "dask, sum of column k": Case(_dask, 6.6 * _MB),
    "datasets, first row, streamed": Case(_datasets, 256 * _KB),
}  # fmt: skip


def _environment(cache: Path) -> dict[str, str]:
    return os.environ | {"OCIKIT_CACHE": str(cache), "OCIKIT_PROGRESS": "none", "HOME": str(cache / "home")}


def count(upstream: str, ref: str, folder: Path) -> None:
    """Run each case behind a counting proxy and print a table."""
    print(f"{'':34}{'bytes':>12}{'limit':>12}{'blobs':>7}{'all':>5}{'connections':>13}   result")
    for number, (name, case) in enumerate(CASES.items()):
        cache = folder / f"cache{number}"
        with CountingProxy(upstream) as proxy:
            command = [sys.executable, "-m", "benchmarks.libraries", "--case", name, f"ocikit://{proxy.host}/{ref}"]
            ran = subprocess.run(command, env=_environment(cache), capture_output=True, text=True, check=False)
            if ran.returncode:
                print(
                    f"{name:34}{(ran.stderr.strip().splitlines() or [f'exit code {ran.returncode}'])[-1]}", flush=True
                )
                continue
            blobs = [each for each in proxy.passed if "/blobs/" in each.request.path]
            done = proxy.count
        received = sum(each.sent for each in blobs)
        good = received <= case.received and (not case.requests or len(blobs) <= case.requests)
        print(f"{name:34}{received:12,}{case.received:12,.0f}{len(blobs):7}{done.requests:5}{done.connections:13}   "
              f"{ran.stdout.strip()}{'' if good else '   OVER THE LIMIT'}", flush=True)  # fmt: skip


# Seconds over a connection with a delay


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
def _slow(host: str, delay: float) -> Iterator[str]:
    """Run the proxy as a process and yield its host."""
    command = [sys.executable, "-m", "benchmarks.libraries", "--proxy", host, "--delay", str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline() if process.stdout else ""
        try:
            yield f"127.0.0.1:{port.strip()}"
        finally:
            process.kill()


def race(url: str) -> None:
    """Read two columns with each reader in turn; print medians of seconds, and ratios of the same round."""
    import fsspec.parquet  # noqa: PLC0415 - an optional package
    import polars as pl  # noqa: PLC0415 - an optional package
    import pyarrow.parquet as pq  # noqa: PLC0415 - an optional package

    path = f"{url}/year=2023/a.parquet"
    blob = ocikit.inspect(url.removeprefix("ocikit://"))["year=2023/a.parquet"].url()
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

    readers: dict[str, Callable[[], object]] = {
        "open_parquet_file": coalesced,
        "open_parquet_file, tag resolved": anew,
        "fs.open": opened,
        "polars on the blob's URL": lambda: pl.scan_parquet(blob).select(_COLUMNS).collect(),
        "fsspec http": over_http,
    }
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(_ROUNDS + 1):
        for name, read in readers.items():
            start = time.perf_counter()
            read()
            seconds[name].append(time.perf_counter() - start)
    print(f"{'':34}{'s':>8}{'to polars':>12}{'to http':>10}")
    for name, mine in seconds.items():
        ratios = (
            statistics.median(a / b for a, b in zip(mine[1:], seconds[other][1:], strict=True))
            for other in ("polars on the blob's URL", "fsspec http")
        )
        print(f"{name:34}{statistics.median(mine[1:]):8.3f}" + "{:12.2f}{:10.2f}".format(*ratios), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url", nargs="?")
    parser.add_argument("--case", choices=[*CASES, "race"], help="run one library in this process")
    parser.add_argument("--proxy", metavar="HOST", help="run the proxy with a delay")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds of a round trip (0.02)")
    parser.add_argument("--registry", nargs="*", default=["ocikit"], choices=["ocikit", "distribution3"])
    options = parser.parse_args()
    if options.proxy:
        host, _, port = options.proxy.rpartition(":")
        return asyncio.run(delayed(host, int(port), options.delay / 2))
    if options.case == "race":
        race(options.url)
        sys.stdout.flush()
        os._exit(0)  # threads of the libraries that still run end the process by a signal
    if options.case:
        return print(json.dumps(CASES[options.case].run(options.url), default=str))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "d").mkdir()
        write(folder / "d")
        for kind in options.registry:
            with peers.KINDS[kind]() as registry, ocikit.Session(progress=False, cache=folder / "push") as session:
                session.push(f"{registry.host}/t/d:v1", f"{folder}/d/.")
                print(f"\n{kind}\n")
                count(registry.url, "t/d:v1", folder / kind)
                for delay in (options.delay, 0):
                    print(f"\ntwo columns, {delay * 1000:g} ms a round trip\n", flush=True)
                    with _slow(registry.host, delay) if delay else contextlib.nullcontext(registry.host) as slow:
                        command = [sys.executable, "-m", "benchmarks.libraries", "--case", "race"]
                        cache = folder / f"{kind}{delay}"
                        subprocess.run([*command, f"ocikit://{slow}/t/d:v1"], env=_environment(cache), check=True)
    return None


if __name__ == "__main__":
    main()
