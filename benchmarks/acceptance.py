"""What data libraries may cost on files by URL, each as a program: python -m benchmarks acceptance.

Each check is a program in a new process with an empty cache, behind a proxy that counts. The output has the program, what it
has printed, and each count with its limit. Counts do not depend on the machine. `--only 1 11` selects checks by number.
`--old-fsspec` also runs fsspec's own suite with that version. The extras `data` and `test` are needed. `datasets` and `h5py`
are needed for two of the checks, and aiohttp for fsspec's `http`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

import ocikit
from benchmarks import libraries, shards, tools
from benchmarks.counting import CountingProxy
from benchmarks.measure import Cost, measure
from ocikit.spec.annotations import TITLE
from tests.support import peers
from tests.support.home import ROOT

_KB, _MB = 1 << 10, 1_000_000
_ROUNDS = 3
_MANY = 100_000  # files in shards
_SMALL = 1000  # files of 1 KiB as blobs
_LARGE = 512 << 20  # bytes of a sparse blob, which is in the artifact twenty times
_ALL = ("ocikit", "distribution3", "olareg")


@frozen(kw_only=True)
class Check:
    """A program, what it must print, and what it may cost.

    In the program HOST is the proxy, URL is that of the artifact with all files, and LOCAL is the folder with the files.
    """

    number: int
    title: str
    program: str
    prints: str
    """The last lines of the output."""
    limits: Mapping[str, float] = field(factory=dict)
    """The most of each count, by its name in `_counts`, or of a measure that the program prints as `#NAME VALUE`."""
    exits: int = 0
    needs: tuple[str, ...] = ()
    """Packages that are not in the extras."""
    registries: tuple[str, ...] = ("ocikit", "distribution3")
    note: str = ""


#: Random ranges in forked and spawned children.
_CHILDREN = """
import multiprocessing, os, random, sys
import ocikit

def work(fs, seed):
    content, chance = open("LOCAL/t.csv", "rb").read(), random.Random(seed)
    for _ in range(100):
        start = chance.randrange(len(content))
        end = start + chance.randrange(1, 20_000)
        if fs.cat_file("HOST/t/d:v1/t.csv", start, end) != content[start:end]:
            sys.exit(1)

if __name__ == "__main__":
    fs = ocikit.fs()
    fs.cat_file("HOST/t/d:v1/t.csv", 0, 100)  # connections are open
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        children = [context.Process(target=work, args=(fs, n)) for n in range(4)]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
        print(method, [child.exitcode for child in children])
"""

_CLUSTER = """
import dask.dataframe as dd
import ocikit
from distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        graph = dd.read_parquet("ocikit://HOST/t/parts:v1/*.parquet").k.sum()
        ocikit.tag("HOST/t/parts:other", "v1")
        print(graph.compute(), list(ocikit.inspect("HOST/t/parts:v1").files))
"""

_THREADS = """
import threading
import fsspec, ocikit

def write(name):
    for n in range(25):
        with fsspec.open(f"ocikit://HOST/t/threads:v1/{name}/{n}", "wb") as file:
            file.write(f"{name} {n}".encode())

threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
found = {name: file.read() for name, file in ocikit.inspect("HOST/t/threads:v1").files.items()}
print(found == {f"{name}/{n}": f"{name} {n}".encode() for name in range(8) for n in range(25)}, len(found))
"""

_PROCESSES = """
import subprocess, sys
import ocikit

write = '''
import fsspec, sys
for n in range(50):
    with fsspec.open(f"ocikit://HOST/t/processes:v1/{sys.argv[1]}/{n}", "wb") as file:
        file.write(f"{sys.argv[1]} {n}".encode())
'''
processes = [subprocess.Popen([sys.executable, "-c", write, name]) for name in "ab"]
print([process.wait() for process in processes])
found = {name: file.read() for name, file in ocikit.inspect("HOST/t/processes:v1").files.items()}
print(found == {f"{name}/{n}": f"{name} {n}".encode() for name in "ab" for n in range(50)}, len(found))
"""

_WRITERS = """
import warnings
import dask.dataframe as dd, numpy as np, pandas as pd, xarray as xr
warnings.simplefilter("ignore")
for n in range(20):
    values = np.random.default_rng(n).random((16, 16))
    ds = xr.Dataset({"t": (("x", "y"), values)}).chunk({"x": 4, "y": 8})
    ds.to_zarr(f"ocikit://HOST/t/rounds{n}:v1/w.zarr")
    xr.testing.assert_identical(xr.open_zarr(f"ocikit://HOST/t/rounds{n}:v1/w.zarr").load(), ds.load())
    df = pd.DataFrame({"k": range(1000), "v": np.random.default_rng(n).random(1000)})
    dd.from_pandas(df, npartitions=4).to_parquet(f"ocikit://HOST/t/rounds{n}:v1/table")
    read = dd.read_parquet(f"ocikit://HOST/t/rounds{n}:v1/table").compute()
    pd.testing.assert_frame_equal(read.sort_values("k").reset_index(drop=True), df)
print(n + 1, "rounds")
"""

#: The driver has used the tag before. Two spawned workers write, and the driver and the workers read.
_WORKERS = """
import warnings
import dask.dataframe as dd, numpy as np, pandas as pd, xarray as xr
from distributed import Client, LocalCluster
warnings.simplefilter("ignore")
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        for n in range(5):
            url, df = "ocikit://HOST/t/workers:v1", pd.DataFrame({"k": np.arange(1000), "x": np.arange(1000) / 7})
            df.to_parquet(f"{url}/{n}.parquet")
            dd.from_pandas(df, npartitions=8).to_parquet(f"{url}/{n}")
            read = dd.read_parquet(f"{url}/{n}").compute().sort_values("k").reset_index(drop=True)
            pd.testing.assert_frame_equal(read, df)
            ds = xr.Dataset({"t": (("x", "y"), np.random.default_rng(n).random((16, 16)))}).chunk({"x": 4, "y": 4})
            ds.to_zarr(f"{url}/{n}.zarr", consolidated=False)
            xr.testing.assert_identical(xr.open_zarr(f"{url}/{n}.zarr", consolidated=False).load(), ds.load())
        print(n + 1, "rounds")
"""

_EDIT = """
import warnings
import numpy as np, ocikit, xarray as xr
warnings.simplefilter("ignore")
ds = xr.Dataset({"t": (("x", "y"), np.arange(64.0).reshape(8, 8))}).chunk({"x": 2, "y": 4})
with ocikit.edit("HOST/t/edited:v1") as e:
    ds.to_zarr(e.url + "/w.zarr")
xr.testing.assert_identical(xr.open_zarr("ocikit://HOST/t/edited:v1/w.zarr").load(), ds.load())
print(list(ocikit.tags("HOST/t/edited")))
"""

_LEFT = """
import warnings
import numpy as np, ocikit, xarray as xr
warnings.simplefilter("ignore")
before = ocikit.pin("HOST/t/d:v1")
try:
    with ocikit.edit("HOST/t/d:v1") as e:
        xr.Dataset({"t": (("x",), np.arange(8.0))}).to_zarr(e.url + "/other.zarr")
        raise RuntimeError
except RuntimeError:
    print(ocikit.pin("HOST/t/d:v1") == before)
"""

_OTHERS = """
import dask.dataframe as dd, duckdb, numpy as np, pandas as pd, polars as pl
import ocikit
url, df = "ocikit://HOST/t/tables:v1", pd.DataFrame({"k": np.arange(1000), "x": np.random.default_rng(1).random(1000)})
dd.from_pandas(df, npartitions=4).to_parquet(url + "/dask")
pd.testing.assert_frame_equal(dd.read_parquet(url + "/dask").compute().reset_index(drop=True), df)
df.to_parquet(url + "/pandas.parquet")
pd.testing.assert_frame_equal(pd.read_parquet(url + "/pandas.parquet"), df)
with duckdb.connect() as con:
    con.register_filesystem(ocikit.fs())
    con.execute(f"copy (select * from df) to '{url}/duckdb.parquet'")
pd.testing.assert_frame_equal(pd.read_parquet(url + "/duckdb.parquet"), df)
with ocikit.fs().open(url + "/polars.parquet", "wb") as file:
    pl.from_pandas(df).write_parquet(file)
pd.testing.assert_frame_equal(pd.read_parquet(url + "/polars.parquet"), df)
print(len(ocikit.inspect("HOST/t/tables:v1").files), "files")
"""

_DIFF = """
import time, ocikit
start = time.process_time()
diff = ocikit.diff("HOST/t/many:v1", "HOST/t/many:v2"TABLES)
print("#cpu", time.process_time() - start)
print(diff)
"""

_PICKLE = """
import pickle, subprocess, sys
import ocikit
art = ocikit.inspect("HOST/t/d:v1")
read = "import pickle, sys; print(len(pickle.load(sys.stdin.buffer)['t.csv'].read()))"
subprocess.run([sys.executable, "-c", read], input=pickle.dumps(art), check=True)
session = ocikit.Session(credentials=("ada", "hunter2"), progress=False)
for value in (session, session.inspect("HOST/t/d:v1"), ocikit.fs(session)):
    try:
        print("hunter2" in repr(pickle.dumps(value)))
    except Exception as error:
        print(type(error).__name__)
"""

#: Reads of one file in a shard: one while nothing is cached, and five more.
_MEMBERS = """
import ocikit
fs = ocikit.fs()
for n in range(6):
    content = fs.cat_file(f"HOST/t/shards:v1/images/{n:02}/{n:06}.bin")
    assert content == open(f"LOCAL/images/{n:02}/{n:06}.bin", "rb").read()
print(len(content))
"""

CHECKS: Sequence[Check] = (
    Check(
        number=1,
        title="pandas reads a column of Parquet",
        program="import pandas as pd; print(pd.read_parquet('URL/year=2023/a.parquet', columns=['k']).shape)",
        prints="(500000, 1)",
        limits={"bytes": 3.3 * _MB, "blobs": 13, "connections": 2},
    ),
    Check(
        number=2,
        title="pyarrow reads the metadata of Parquet",
        program="import ocikit, pyarrow.parquet as pq\n"
        "print(pq.ParquetFile('HOST/t/d:v1/year=2023/a.parquet', filesystem=ocikit.fs()).metadata.num_rows)",
        prints="500000",
        limits={"bytes": 64 * _KB, "blobs": 1},
    ),
    Check(
        number=2,
        title="pandas reads the first rows of a CSV",
        program="import pandas as pd; print(pd.read_csv('URL/t.csv', nrows=5).shape)",
        prints="(5, 3)",
        limits={"bytes": 128 * _KB, "blobs": 1},
        note="the C parser of pandas calls read(262144) once, on any file",
    ),
    Check(
        number=2,
        title="pandas reads the first rows of a CSV with its parser in Python",
        program="import pandas as pd; print(pd.read_csv('URL/t.csv', nrows=5, engine='python').shape)",
        prints="(5, 3)",
        limits={"bytes": 128 * _KB, "blobs": 1},
    ),
    Check(
        number=3,
        title="duckdb counts rows by hive folder",
        program="import duckdb, ocikit\ncon = duckdb.connect(); con.register_filesystem(ocikit.fs())\n"
        "query = \"select year, count(*) from read_parquet('URL/*/*.parquet', hive_partitioning=true) group by all order by year\"\n"
        "print(con.execute(query).fetchall())",
        prints="[(2023, 500000), (2024, 500000)]",
        limits={"bytes": 256 * _KB},
    ),
    Check(
        number=3,
        title="duckdb filters rows",
        program="import duckdb, ocikit\ncon = duckdb.connect(); con.register_filesystem(ocikit.fs())\n"
        "rows = [con.execute(f\"select avg(c0) from read_parquet('{place}/year=*/*.parquet') where k < 100\").fetchone()"
        " for place in ('URL', 'LOCAL')]\n"
        "print(abs(rows[0][0] - rows[1][0]) < 1e-12)",
        prints="True",
        limits={"bytes": 3.2 * _MB},
    ),
    Check(
        number=4,
        title="polars reads rows of an arrow dataset",
        program="import ocikit, polars as pl, pyarrow.dataset as ds\n"
        "table = ds.dataset('HOST/t/d:v1/year=2023/a.parquet', filesystem=ocikit.fs())\n"
        "print(pl.scan_pyarrow_dataset(table).filter(pl.col('k') < 10).select('k').collect().height)",
        prints="10",
        limits={"bytes": 0.5 * _MB},
    ),
    Check(
        number=4,
        title="polars reads rows by the URL of the blob",
        program="import ocikit, polars as pl\n"
        "url = ocikit.inspect('HOST/t/d:v1')['year=2023/a.parquet'].url()\n"
        "print(pl.scan_parquet(url).filter(pl.col('k') < 10).select('k').collect().height)",
        prints="10",
        limits={"bytes": 0.5 * _MB},
    ),
    *(
        Check(
            number=5,
            title=f"xarray reads a chunk of zarr {version} twice; absent keys and the second time cost nothing",
            program="import xarray as xr\n"
            f"once, again, local = (float(xr.open_zarr(place + '/v{version}.zarr').t[0, 0, 0]) for place in ('URL', 'URL', 'LOCAL'))\n"
            "print(once == again == local)",
            prints="True",
            limits={"bytes": 700 * _KB, "repeated": 0, "failed": 0},
        )
        for version in (2, 3)
    ),
    Check(
        number=5,
        title="zarr lists a group in a zip",
        program="import zarr; print(sorted(zarr.open_group('zip::URL/w.zip', mode='r').array_keys()))",
        prints="['t']",
        limits={"bytes": 256 * _KB},
    ),
    Check(
        number=5,
        title="xarray reads a chunk of netCDF through h5netcdf",
        program="import ocikit, xarray as xr\n"
        "values = [float(xr.open_dataset(file, engine='h5netcdf').t[5, 50, 50])"
        " for file in (ocikit.fs().open('URL/n.nc'), 'LOCAL/n.nc')]\n"
        "print(values[0] == values[1])",
        prints="True",
        limits={"bytes": 1.5 * _MB},
        needs=("h5netcdf", "h5py"),
    ),
    Check(
        number=6,
        title="dask's 2 spawned workers read 12 files of Parquet; the tag moves between graph and compute",
        program=_CLUSTER,
        prints="249999500000 ['other.txt']",
    ),
    Check(
        number=7,
        title="datasets streams the first row",
        program="import datasets\n"
        "print(next(iter(datasets.load_dataset('json', data_files='URL/lines.jsonl', streaming=True, split='train')))['k'])",
        prints="0",
        limits={"bytes": 256 * _KB},
        needs=("datasets",),
        note="the library reads 10 MiB at once, on any file; its option for that is chunksize=",
    ),
    Check(
        number=7,
        title="datasets streams the first row, with chunks of 32 KiB",
        program="import datasets\n"
        "rows = datasets.load_dataset('json', data_files='URL/lines.jsonl', streaming=True, split='train', chunksize=32 << 10)\n"
        "print(next(iter(rows))['k'])",
        prints="0",
        limits={"bytes": 256 * _KB},
        needs=("datasets",),
    ),
    Check(
        number=9,
        title="4 forked and 4 spawned children read 100 random ranges each",
        program=_CHILDREN,
        prints="fork [0, 0, 0, 0]\nspawn [0, 0, 0, 0]",
    ),
    Check(
        number=11,
        title="8 threads write 25 files each into one tag",
        program=_THREADS,
        prints="True 200",
        limits={"puts": 60},
        registries=_ALL,
    ),
    Check(
        number=11,
        title="2 processes write 50 files each into one tag",
        program=_PROCESSES,
        prints="[0, 0]\nTrue 100",
        registries=_ALL,
    ),
    Check(
        number=11, title="to_zarr and dask's to_parquet lose nothing", program=_WRITERS, prints="20 rounds"
    ),
    Check(number=11, title="2 workers of dask's cluster write, and all read it back", program=_WORKERS, prints="5 rounds"),
    Check(
        number=12, title="xarray writes zarr within an edit", program=_EDIT, prints="['v1']", limits={"tagged": 1}
    ),
    Check(
        number=12,
        title="an exception within an edit leaves the tag",
        program=_LEFT,
        prints="True",
        limits={"tagged": 0},
    ),
    Check(
        number=13,
        title="a file of an artifact of 10 GB is renamed",
        program="import ocikit\n"
        "with ocikit.edit('HOST/t/large:v1') as e:\n    e.rename('00.bin', 'first.bin')\n"
        "print(f'{sum(file.size for file in e.artifact.files.values()):,}', list(e.artifact.files)[-1])",
        prints="10,737,418,240 first.bin",
        limits={"requests": 3, "bytes": 0, "uploaded": 0, "tagged": 1},
    ),
    Check(
        number=13,
        title="an edit expects an older version",
        program="import ocikit\n"
        "old = ocikit.pin('HOST/t/large:v1').digest\n"
        "with ocikit.edit('HOST/t/large:v1') as e:\n    e['new.txt'] = b'new'\n"
        "with ocikit.edit('HOST/t/large:v1', expect=old) as e:\n    e['other.txt'] = b'other'\n",
        prints="the tag was not moved",
        exits=1,
        limits={"tagged": 1},
    ),
    Check(
        number=14,
        title="dask, pandas, duckdb and polars write Parquet",
        program=_OTHERS,
        prints="7 files",
    ),
    Check(
        number=22,
        title="what differs between two versions with 1,000 files",
        program=_DIFF.replace("TABLES", ""),
        prints="1 added, 1 removed, 1 changed, 1 renamed, 997 the same",
        limits={"requests": 4, "cpu": 0.1},
    ),
    Check(
        number=22,
        title="what differs, with tables",
        program=_DIFF.replace("TABLES", ", tables=True"),
        prints="+ extra: int64; 2,000,000 rows",
        limits={"requests": 6, "bytes": 2 * 64 * _KB},
    ),
    Check(
        number=23,
        title=f"{_MANY:,} files of 1 KiB as shards",
        program="import ocikit\n"
        "art = ocikit.push('HOST/t/shards:v1', 'LOCAL/images', shards='zip')\n"
        "print('#manifest', art.descriptor.size)\nprint('pushed')",
        prints="pushed",
        limits={"manifest": 100_000},
    ),
    Check(
        number=23,
        title="one file of the shards, and five more",
        program=_MEMBERS,
        prints="1024",
        limits={"requests": 4 + 5},
    ),
    Check(
        number=23,
        title="one file of the shards changes",
        program="import os, ocikit\n"
        "open('LOCAL/images/42/050042.bin', 'wb').write(os.urandom(1024))\n"
        "ocikit.push('HOST/t/shards:v1', 'LOCAL/images', shards='zip')\n"
        "print(len(ocikit.fs().cat_file('HOST/t/shards:v1/images/42/050042.bin')))",
        prints="1024",
        limits={"uploads": 2},
    ),
    Check(
        number=23,
        title="too many files without shards",
        program="import ocikit; ocikit.push('HOST/t/many-files:v1', 'LOCAL/images')",
        prints='group the files with shards="zip"',
        exits=1,
        limits={"uploads": 0, "tagged": 0},
    ),
    Check(
        number=27,
        title="an artifact is pickled for another process; no pickle has a password",
        program=_PICKLE,
        prints="False",
    ),
)  # fmt: skip


def _counts(proxy: CountingProxy) -> dict[str, float]:
    """Return what a program has cost, by name.

    | name | |
    |---|---|
    | bytes, blobs | received bytes of blobs, and requests for them |
    | repeated | requests for the same part of a blob as before |
    | requests, connections | all |
    | failed | responses with another status than a success, a 401 or a 412 |
    | puts, tagged | pushes of manifests, and the successful ones |
    | uploads, uploaded | blobs that were sent, and their bytes |
    """
    passed = list(proxy.passed)
    reads = [each for each in passed if "/blobs/sha256:" in each.request.path and each.request.method == "GET"]
    parts = {(each.request.path, each.request.headers.get("Range")) for each in reads}
    puts = [each for each in passed if each.request.method == "PUT" and "/manifests/" in each.request.path]
    ups = [
        each.received
        for each in passed
        if "/blobs/uploads" in each.request.path and each.request.method in {"PUT", "POST", "PATCH"} and each.received
    ]
    return {
        "bytes": sum(each.sent for each in reads),
        "blobs": len(reads),
        "repeated": len(reads) - len(parts),
        "requests": len(passed),
        "connections": proxy.connections,
        "failed": sum(each.status >= 400 and each.status not in {401, 412} for each in passed),
        "puts": len(puts),
        "tagged": sum(each.status < 300 for each in puts),
        "uploads": len(ups),
        "uploaded": sum(ups),
    }


@frozen
class Bench:
    """A registry with the data, and a folder for the programs."""

    registry: peers.Registry
    folder: Path
    results: list[tuple[str, str, str]] = field(factory=list)
    """Result, registry and title of each check."""

    @property
    def local(self) -> Path:
        """The folder with the files."""
        return self.folder / "d"

    def report(self, title: str, *, good: bool, note: str = "") -> None:
        """Print and remember whether limits were kept."""
        print(f"{'HIT' if good else 'MISSED'}{f': {note}' if note and not good else ''}", flush=True)
        self.results.append(("hit" if good else "MISSED", self.registry.kind, title))

    def run(self, check: Check) -> None:
        """Run a program; print its text, its output, the counts and the limits."""
        title = f"{check.number:2}  {check.title}"
        print(f"\n{title}  [{self.registry.kind}]")
        absent = [name for name in check.needs if importlib.util.find_spec(name) is None]
        if absent:
            print(f"SKIPPED: install {' '.join(absent)}")
            self.results.append(("skipped", self.registry.kind, title))
            return
        home = Path(tempfile.mkdtemp(dir=self.folder))
        program = home / "program.py"
        with CountingProxy(self.registry.url) as proxy:
            text = check.program.replace("URL", "ocikit://HOST/t/d:v1").replace("LOCAL", str(self.local)).strip()
            print(textwrap.indent(text, "  | "))
            program.write_text(text.replace("HOST", proxy.host) + "\n")
            env = tools.environment(home) | {"PYTHONPATH": str(ROOT)}
            ran = subprocess.run([sys.executable, program], env=env, capture_output=True, text=True, check=False)
            found = _counts(proxy)
        out = [line for line in (ran.stdout if not check.exits else ran.stderr).splitlines() if line.strip()]
        measures = [line.split() for line in out if line.startswith("#")]
        found |= {name.removeprefix("#"): float(value) for name, value in measures}
        out = [line.replace(proxy.host, "HOST") for line in out if not line.startswith("#")]
        if ran.returncode != check.exits:
            out += ran.stderr.splitlines()
        print(textwrap.indent("\n".join(out[-9:]), "  > "))
        shown = [
            f"{name} {found[name]:,.4g}" for name in ("requests", "connections", "puts") if name not in check.limits
        ]
        shown += [f"{name} {found[name]:,.10g} (at most {most:,.10g})" for name, most in check.limits.items()]
        print(f"  = exit {ran.returncode}; {', '.join(shown)}")
        good = ran.returncode == check.exits and all(line in "\n".join(out) for line in check.prints.splitlines())
        self.report(
            title, good=good and all(found[name] <= most for name, most in check.limits.items()), note=check.note
        )
        shutil.rmtree(home)

    def cost(self, command: list[str], cwd: Path) -> Cost:
        """Run a command with an empty cache, directly at the registry."""
        with tempfile.TemporaryDirectory(dir=self.folder) as home:
            return measure(command, cwd, tools.environment(Path(home)), warm=64 << 20)

    def ratio(self, title: str, mine: list[str], other: list[str], cwd: Path, most: float) -> None:
        """Compare two commands in turn; print the medians, and the median ratio with its limit. OTHER is the round."""
        costs: list[tuple[Cost, Cost]] = []
        print(f"\n{title}  [{self.registry.kind}]")
        for turn in range(_ROUNDS + 1):
            pair = []
            for command in (mine, other):
                shutil.rmtree(self.folder / "out", ignore_errors=True)
                (self.folder / "out").mkdir()
                pair.append(self.cost([part.replace("OTHER", f"r{turn}") for part in command], cwd))
            costs.append((pair[0], pair[1]))
        for command, each in zip((mine, other), zip(*costs[1:], strict=True), strict=True):
            seconds, cpu = (statistics.median(getattr(cost, what) for cost in each) for what in ("wall", "cpu"))
            line = " ".join(Path(part).name if part.startswith("/") else part for part in command[:9])
            print(f"  $ {line[:110]}\n  = {seconds:.2f} s, {cpu:.2f} s CPU")
        ratio = statistics.median(a.wall / b.wall for a, b in costs[1:])
        print(f"  = ratio {ratio:.2f} (at most {most:g}), medians of {_ROUNDS} rounds in turn")
        self.report(title, good=ratio <= most)


def suite(bench: Bench, version: str | None) -> None:
    """Run fsspec's own suite, with the installed version or another one."""
    title = f" 8  fsspec's suite, {version or 'the installed version'}"
    print(f"\n{title}")
    env = {**os.environ, "OCIKIT_PEERS": "none"}
    with tempfile.TemporaryDirectory() as folder:
        if version:
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", folder, f"fsspec=={version}"], check=True)  # fmt: skip
            env["PYTHONPATH"] = folder
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n0",
            "-p",
            "no:cacheprovider",
            "tests/interop/test_fsspec_suite.py",
        ]
        print(f"  $ {'PYTHONPATH=… ' if version else ''}pytest {command[-1]}")
        ran = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    print(f"  > {ran.stdout.strip().splitlines()[-1]}")
    bench.report(title, good=ran.returncode == 0)


def race(bench: Bench) -> None:
    """Compare the seconds of readers over a connection with and without a delay."""
    for delay in (0.02, 0.0):
        title = f"10  two columns, {delay * 1000:g} ms a round trip"
        print(f"\n{title}  [{bench.registry.kind}]")
        with libraries.slow(bench.registry.host, delay) as host:
            seconds = libraries.run_race(f"ocikit://{host}/t/d:v1", bench.folder / f"race{delay}")
        libraries.show_race(seconds)
        best = "open_parquet_file" if delay else "fs.open"
        limits = {libraries.POLARS: 1.3, libraries.HTTP: 0.5} if delay else {libraries.HTTP: 0.5}
        ratios = {other: libraries.ratio(seconds, best, other) for other in limits}
        print(
            "  = " + ", ".join(f"to {other} {ratios[other]:.2f} (at most {most:g})" for other, most in limits.items())
        )
        bench.report(title, good=all(ratios[other] <= most for other, most in limits.items()))
    title = "10  a whole file of 63 MB through fs.open, next to File.open"
    print(f"\n{title}  [{bench.registry.kind}]")
    ratio = libraries.ratio(seconds, libraries.WHOLE, libraries.WHOLE_FS)
    print(f"  = {ratio:.2f} of its rate (at least 0.9)")
    bench.report(title, good=ratio >= 0.9)


def small_blobs(bench: Bench) -> None:
    """Compare pushes and pulls of small files with oras."""
    if (oras := peers.where("oras")) is None:
        return
    folder, out = bench.folder / "small", bench.folder / "out"
    folder.mkdir(exist_ok=True)
    for n in range(_SMALL):
        (folder / f"{n:04}.bin").write_bytes(os.urandom(1024))
    names, host = sorted(path.name for path in folder.iterdir()), bench.registry.host
    for verb, most in (("push", 2.0), ("pull", 2.5)):
        mine, other = f"{host}/s/ocikit-OTHER:v1", f"{host}/s/oras-OTHER:v1"
        pushing = verb == "push"
        bench.ratio(
            f"24  {verb} of {_SMALL:,} files of 1 KiB",
            tools.ocikit(verb, "--quiet", mine, *(names if pushing else [str(out)])),
            [str(oras), verb, "--plain-http", "--no-tty", other, *(names if pushing else ["-o", str(out)])],
            folder,
            most,
        )


def many_files(bench: Bench) -> None:
    """Compare a push of very many files as shards with one archive."""
    title = f"23  seconds of a push of {_MANY:,} files as shards, next to one archive"
    push = tools.ocikit("push", "--quiet", f"{bench.registry.host}/t/OTHER:v1", "images")
    bench.ratio(title, [*push, "--shards", "zip"], [*push, "--archive", "tar"], bench.local, 2.0)


def _seed(bench: Bench, session: ocikit.Session, numbers: set[int]) -> None:
    """Push what the programs read."""
    host, folder = bench.registry.host, bench.folder
    session.push(f"{host}/t/d:v1", *(f"{bench.local}/{path.name}" for path in sorted(bench.local.iterdir()) if path.name not in {"images", "parts"}))  # fmt: skip
    if 6 in numbers:
        session.push(f"{host}/t/parts:v1", f"{bench.local}/parts/.")
        (folder / "other.txt").write_text("other")
        session.push(f"{host}/t/parts:other", f"{folder}/other.txt")
    if 13 in numbers:
        repository = session.repository(f"{host}/t/large", push=True)
        large = folder / "large.bin"
        with large.open("wb") as stream:
            stream.truncate(_LARGE)
        layer = session.push(f"{host}/t/large:v1", large)["large.bin"].descriptor
        layers = tuple(
            ocikit.Descriptor(media_type=layer.media_type, digest=layer.digest, size=layer.size, annotations={TITLE: f"{n:02}.bin"})
            for n in range(20)
        )  # fmt: skip
        manifest = ocikit.Manifest(
            config=session.inspect(f"{host}/t/large:v1").manifest.config,
            layers=layers,
            artifact_type="application/x.set",
        )
        repository.push_bytes(manifest.descriptor, manifest.raw, tag="v1")
    if 22 in numbers:
        _push_versions(bench, session)


def _push_versions(bench: Bench, session: ocikit.Session) -> None:
    """Push two versions of a folder with 1,000 files."""
    import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # noqa: PLC0415 - as above

    table = pa.table({"k": range(2_000_000), "c": [n / 7 for n in range(2_000_000)]})
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        folder = Path(name)
        for n in range(999):
            (folder / f"{n:04}.csv").write_text(f"{n}\n")
        pq.write_table(table, folder / "t.parquet")
        session.push(f"{bench.registry.host}/t/many:v1", f"{folder}/.")
        (folder / "new.csv").write_text("n")
        (folder / "0001.csv").unlink()
        (folder / "0002.csv").rename(folder / "two.csv")
        pq.write_table(table.append_column("extra", pa.array(range(2_000_000))), folder / "t.parquet")
        session.push(f"{bench.registry.host}/t/many:v2", f"{folder}/.")


def _write(folder: Path, numbers: set[int]) -> None:
    """Write the files that programs compare with."""
    import numpy as np  # noqa: PLC0415 - an optional package
    import pandas as pd  # noqa: PLC0415 - an optional package
    import xarray as xr  # noqa: PLC0415 - an optional package

    libraries.write(folder)
    if importlib.util.find_spec("h5py") and importlib.util.find_spec("h5netcdf"):
        values = np.random.default_rng(2).standard_normal((10, 400, 400))
        weather = xr.Dataset({"t": (("time", "y", "x"), values)})
        weather.to_netcdf(folder / "n.nc", engine="h5netcdf", encoding={"t": {"chunksizes": (1, 200, 400)}})
    (folder / "parts").mkdir()
    for n, part in enumerate(np.array_split(np.tile(np.arange(500_000), 2), 12)):
        pd.DataFrame({"k": part, "x": part / 3}).to_parquet(folder / f"parts/{n:02}.parquet")
    if 23 in numbers:
        shards.write(folder / "images", _MANY)


@contextlib.contextmanager
def _bench(kind: str, folder: Path, numbers: set[int]) -> Iterator[Bench]:
    with peers.KINDS[kind]() as registry, ocikit.Session(progress=False, cache=folder / f"cache-{kind}") as session:
        bench = Bench(registry, folder)
        _seed(bench, session, numbers)
        yield bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", type=int, nargs="*", help="numbers of checks")
    parser.add_argument("--registry", nargs="*", default=list(_ALL), choices=_ALL)
    parser.add_argument("--old-fsspec", metavar="VERSION", nargs="?", const="2024.2.0", help="2024.2.0")
    options = parser.parse_args()
    everything = {check.number for check in CHECKS} | {8, 10, 24}
    numbers = set(options.only or everything)
    results: list[tuple[str, str, str]] = []
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "d").mkdir()
        _write(folder / "d", numbers)
        for kind in options.registry:
            with _bench(kind, folder, numbers) as bench:
                if 8 in numbers and kind == "ocikit":
                    suite(bench, None)
                    if options.old_fsspec:
                        suite(bench, options.old_fsspec)
                for check in CHECKS:
                    if check.number in numbers and kind in check.registries:
                        bench.run(check)
                if 10 in numbers and kind != "olareg":
                    race(bench)
                if 23 in numbers and kind != "olareg":
                    many_files(bench)
                if 24 in numbers and kind == "olareg":
                    small_blobs(bench)
                results += bench.results
    print(f"\n{time.monotonic() - began:.0f} s\n")
    for result, registry, title in sorted(results, key=lambda each: (each[2], each[1])):
        print(f"{result:8}{registry:15}{title}")
    print(json.dumps({word: sum(each[0] == word for each in results) for word in ("hit", "MISSED", "skipped")}))


if __name__ == "__main__":
    main()
