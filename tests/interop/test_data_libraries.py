"""Data libraries open files by URL: right values, few bytes, few requests. `python -m benchmarks acceptance` has larger files."""

import json
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import zipfile

import fsspec
import numpy as np
import ocikit
import pytest
from ocikit.testing.proxy import Proxy
from ocikit.transfer.pool import run_parallel

from tests.support import peers
from tests.support.home import ROOT, write

dask = pytest.importorskip("dask")
duckdb = pytest.importorskip("duckdb")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")
ds = pytest.importorskip("pyarrow.dataset")
pq = pytest.importorskip("pyarrow.parquet")
upath = pytest.importorskip("upath")
xr = pytest.importorskip("xarray")
zarr = pytest.importorskip("zarr")

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the libraries, and of forks in Python 3.12
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning"),
]

ROWS = 50_000  # of 14 columns: 5.6 MB, so that no file is requested as a whole
PARQUET = "year=2023/a.parquet"
BLOCK = 1 << 16  # bytes of the smallest range


@pytest.fixture(scope="module", params=["ocikit", "distribution3"])
def registry(request):
    with peers.KINDS[request.param]() as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables by year, a CSV, arrays in zarr 2 and 3 and in a zip, lines of JSON, and random bytes."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(1)
    columns = {f"c{n}": rng.standard_normal(ROWS) for n in range(13)} | {"k": np.arange(ROWS)}
    for year in (2023, 2024):
        (folder / f"year={year}").mkdir()
        pq.write_table(pa.table(columns), folder / f"year={year}/a.parquet", row_group_size=ROWS // 5)
    pd.DataFrame({name: columns[name] for name in ("k", "c0", "c1", "c2", "c3")}).to_csv(folder / "t.csv", index=False)
    weather = xr.Dataset({"t": (("time", "y", "x"), rng.standard_normal((4, 100, 100)))})
    for version in (2, 3):
        encoding = {"t": {"chunks": (1, 100, 100)}}
        weather.to_zarr(folder / f"v{version}.zarr", zarr_format=version, encoding=encoding, consolidated=version == 2)
    with zipfile.ZipFile(folder / "w.zip", "w") as archive:
        archive.write(folder / "t.csv", "t.csv")  # so that it is not requested as a whole
        for path in sorted((folder / "v3.zarr").rglob("*")):
            archive.write(path, path.relative_to(folder / "v3.zarr"))
    write(folder, {"random.bin": random.Random(5).randbytes(6 << 20), "small.json": '{"k": 1}'})
    return folder


@pytest.fixture(scope="module")
def pushed(registry, folder, tmp_path_factory):
    """The repository and tag with the files."""
    with ocikit.Session(progress=False, cache=tmp_path_factory.mktemp("cache")) as session:
        session.push(f"{registry.host}/t/libraries:v1", f"{folder}/.", workers=4)
    return "t/libraries:v1"


@pytest.fixture
def proxy(registry):
    """A proxy that counts, in front of the registry."""
    with Proxy(registry.url) as running:
        yield running


@pytest.fixture
def ref(home, proxy, pushed):
    return f"{proxy.host}/{pushed}"


@pytest.fixture
def url(ref):
    return f"ocikit://{ref}"


def blobs(proxy):
    """Return the number of requests for blobs, and the bytes of their responses, since the last call."""
    sent = [each.sent for each in proxy.passed if "/blobs/" in each.request.path]
    proxy.passed.clear()
    return len(sent), sum(sent)


def column(folder, name):
    """Return the bytes of a column in the Parquet file."""
    metadata = pq.read_metadata(folder / PARQUET)
    position = metadata.schema.names.index(name)
    groups = range(metadata.num_row_groups)
    return sum(metadata.row_group(group).column(position).total_compressed_size for group in groups)


def test_pandas_reads_a_column_of_parquet(url, proxy, folder):
    table = pd.read_parquet(f"{url}/{PARQUET}", columns=["k"])
    assert table.k.tolist() == list(range(ROWS))
    requests, received = blobs(proxy)
    assert requests <= 5 + 2 and received <= column(folder, "k") + 5 * BLOCK + BLOCK


def test_pandas_reads_the_first_rows_of_csv(url, proxy, folder):
    """pandas itself reads 256 KiB at once."""
    table = pd.read_csv(f"{url}/t.csv", nrows=5)
    pd.testing.assert_frame_equal(table, pd.read_csv(folder / "t.csv", nrows=5))
    assert blobs(proxy) == (1, 1 << 18)
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/t.csv"), pd.read_csv(folder / "t.csv"))


def test_pyarrow_reads_metadata_by_one_request(url, proxy):
    assert pq.ParquetFile(f"{url}/{PARQUET}", filesystem=ocikit.fs()).metadata.num_rows == ROWS
    assert blobs(proxy) == (1, BLOCK)


def test_pyarrow_reads_a_hive_folder(ref, proxy, folder):
    table = ds.dataset(
        [f"{ref}/year={year}/a.parquet" for year in (2023, 2024)], filesystem=ocikit.fs(), partitioning="hive"
    )
    found = table.to_table(columns=["k", "year"], filter=(ds.field("k") < 10) & (ds.field("year") == 2024))
    assert found.to_pydict() == {"k": list(range(10)), "year": [2024] * 10}
    assert blobs(proxy)[1] <= column(folder, "k") // 5 + 5 * BLOCK


def test_open_parquet_file_fetches_columns_together(url, proxy, folder):
    import fsspec.parquet

    with fsspec.parquet.open_parquet_file(
        f"{url}/{PARQUET}", columns=["c0", "k"], engine="pyarrow", footer_sample_size=BLOCK
    ) as stream:
        table = pq.read_table(stream, columns=["c0", "k"])
    assert table.equals(pq.read_table(folder / PARQUET, columns=["c0", "k"], partitioning=None))
    requests, received = blobs(proxy)
    assert requests <= 1 + 6 and received <= column(folder, "c0") + column(folder, "k") + 2 * BLOCK


def test_duckdb_queries_a_glob(url, proxy, folder):
    with duckdb.connect() as connection:
        connection.register_filesystem(ocikit.fs())
        query = f"select year, count(*) from read_parquet('{url}/*/*.parquet', hive_partitioning=true) group by all"
        assert sorted(connection.execute(query).fetchall()) == [(2023, ROWS), (2024, ROWS)]
        assert blobs(proxy) == (2, 2 * BLOCK)
        query = f"select avg(c0), count(*) from read_parquet('{url}/*/*.parquet') where k < 100"
        assert connection.execute(query).fetchone()[1] == 200
        assert blobs(proxy)[1] <= 2 * (column(folder, "k") + column(folder, "c0")) // 5 + 8 * BLOCK


@pytest.mark.parametrize("registry", ["ocikit"], indirect=True)
def test_duckdb_writes_folders_by_the_values_of_a_column(registry):
    url = f"ocikit://{registry.host}/t/duckdb:v1/parts"
    with duckdb.connect() as connection:
        connection.register_filesystem(ocikit.fs())
        connection.execute("create table t as select i as k, i % 3 as p from range(10) r(i)")
        connection.execute(f"copy t to '{url}' (format parquet, partition_by (p), overwrite_or_ignore)")
        query = f"select p, sum(k) from read_parquet('{url}/*/*.parquet', hive_partitioning=true) group by p order by p"
        assert connection.execute(query).fetchall() == [(0, 18), (1, 12), (2, 15)]


def test_polars_scans_rows_of_a_column(ref, proxy, folder):
    table = ds.dataset(f"{ref}/{PARQUET}", filesystem=ocikit.fs())
    found = pl.scan_pyarrow_dataset(table).filter(pl.col("k") < 10).select("k").collect()
    assert found["k"].to_list() == list(range(10))
    assert blobs(proxy)[1] <= column(folder, "k") // 5 + 4 * BLOCK


BLOB = """
import sys
import polars as pl
print(pl.scan_parquet(sys.argv[1]).filter(pl.col("k") < 10).select("k").collect().height)
"""


def test_polars_reads_the_url_of_a_public_blob(ref, proxy):
    """In a process of its own: from then on a thread of polars reads the environment, which tests change, and crashes."""
    address = ocikit.inspect(ref)[PARQUET].url()
    assert address.startswith(f"http://{proxy.host}/v2/t/libraries/blobs/sha256:")
    assert subprocess.check_output([sys.executable, "-c", BLOB, address], text=True, timeout=100) == "10\n"


@pytest.mark.parametrize("version", [2, 3])
def test_xarray_requests_a_chunk_once(url, proxy, folder, version):
    with xr.open_zarr(f"{url}/v{version}.zarr", chunks=None, consolidated=version == 2) as weather:
        value = float(weather.t[0, 0, 0])
    with xr.open_zarr(folder / f"v{version}.zarr", chunks=None, consolidated=version == 2) as local:
        assert value == float(local.t[0, 0, 0])
    requested = [each for each in proxy.passed if each.request.method == "GET" and each.status != 200]
    assert not requested, "absent keys cost no request"
    assert 0 < blobs(proxy)[0] <= 4
    with xr.open_zarr(f"{url}/v{version}.zarr", chunks=None, consolidated=version == 2) as weather:
        assert float(weather.t[0, 0, 0]) == value
    assert blobs(proxy)[0] == 0


def test_zarr_lists_a_group_in_a_zip(url, proxy):
    group = zarr.open_group(f"{url}/w.zip".replace("ocikit://", "zip::ocikit://"), mode="r")
    assert list(group.array_keys()) == ["t"]
    assert blobs(proxy)[1] <= 4 * BLOCK


def test_dask_reads_a_glob_in_threads(url, proxy, folder):
    import dask.dataframe as dd

    with dask.config.set(scheduler="threads"):
        total = dd.read_parquet(f"{url}/year=*/*.parquet", columns=["k"]).k.sum().compute()
    assert total == 2 * sum(range(ROWS))
    assert blobs(proxy)[1] <= 2 * (column(folder, "k") + 8 * BLOCK)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # blockcache leaves its file open
@pytest.mark.parametrize("chain", ["simplecache", "filecache", "blockcache"])
def test_chained_cache_reads_a_file(url, folder, home, chain):
    options = {chain: {"cache_storage": str(home / "kept")}}
    for _ in range(2):
        with fsspec.open(f"{chain}::{url}/random.bin", **options) as stream:
            stream.seek(5_000_000)
            assert stream.read(10) == (folder / "random.bin").read_bytes()[5_000_000:][:10]
        fsspec.get_filesystem_class(chain).clear_instance_cache()


def test_mapper_has_each_file(url, folder, proxy):
    mapper = fsspec.get_mapper(f"{url}/v3.zarr")
    names = [path.relative_to(folder / "v3.zarr").as_posix() for path in (folder / "v3.zarr").rglob("*")]
    assert set(mapper) == {name for name in names if (folder / "v3.zarr" / name).is_file()}
    assert mapper["zarr.json"] == (folder / "v3.zarr/zarr.json").read_bytes()
    assert "absent" not in mapper and mapper.get("absent") is None
    assert blobs(proxy)[0] == 1


def test_upath_walks_and_reads(url, folder):
    root = upath.UPath(url)
    assert sorted(path.name for path in root.iterdir()) == sorted(path.name for path in folder.iterdir())
    assert (root / "small.json").read_text() == '{"k": 1}'
    assert (root / "year=2023").is_dir() and not (root / "absent").exists()
    assert [path.name for path in root.glob("*.csv")] == ["t.csv"]


# Other processes. They differ by what they are handed, not by the registry

of_one_registry = pytest.mark.parametrize("registry", ["ocikit"], indirect=True)


def read_at_random(stream, folder, seed, reads=100):
    """Return True if ranges of the random file are right."""
    content = (folder / "random.bin").read_bytes()
    chance = random.Random(seed)
    for _ in range(reads):
        start = chance.randrange(len(content))
        length = chance.randrange(1, 20_000)
        stream.seek(start)
        if stream.read(length) != content[start : start + length]:
            return False
    return True


def child(source, folder, seed, name):
    """Read in a child process; exit with 0 if all bytes are right."""
    stream = source if hasattr(source, "seek") else source.open(name)
    os._exit(0 if read_at_random(stream, folder, seed) else 1)


def sources(ref):
    """Return what workers are handed, after it has been used here: connections are open, the reference is resolved."""
    files = ocikit.fs()
    stream = files.open(f"{ref}/random.bin")
    art = ocikit.inspect(ref)
    file = art["random.bin"]
    for used in (stream, file):
        assert len(used.read(100)) == 100
    return {"file system": files, "stream": stream, "file": file, "artifact": art}


@of_one_registry
@pytest.mark.parametrize("kind", ["file system", "stream", "file", "artifact"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_read_right_ranges(ref, folder, kind, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform has no {method}")
    context = multiprocessing.get_context(method)
    source = sources(ref)[kind]
    workers = 4 if method == "fork" else 2  # a spawned one imports everything again
    name = "random.bin" if kind == "artifact" else f"{ref}/random.bin"
    children = [context.Process(target=child, args=(source, folder, n, name)) for n in range(workers)]
    for each in children:
        each.start()
    for each in children:
        each.join(60)
        assert each.exitcode == 0


@of_one_registry
def test_children_read_while_threads_of_the_parent_read(ref, folder):
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("this platform has no fork")
    files = ocikit.fs()
    context = multiprocessing.get_context("fork")
    stream = files.open(f"{ref}/random.bin")

    def work(number, _):
        if number % 2:
            each = context.Process(target=child, args=(stream, folder, number, ""))
            each.start()
            each.join(60)
            assert each.exitcode == 0
        else:
            assert read_at_random(files.open(f"{ref}/random.bin"), folder, number)

    run_parallel(range(6), work, workers=3)
    assert read_at_random(stream, folder, 7)


@of_one_registry
def test_joblib_workers_read_columns(ref, folder):
    joblib = pytest.importorskip("joblib")
    files, art = ocikit.fs(), ocikit.inspect(ref)
    paths = [f"{ref}/year={year}/a.parquet" for year in (2023, 2024)]
    tasks = [joblib.delayed(pd.read_parquet)(path, filesystem=files, columns=["k"]) for path in paths]
    tasks += [joblib.delayed(pd.read_parquet)(art[PARQUET], columns=["k"])]
    with joblib.parallel_config("loky", n_jobs=2):
        found = joblib.Parallel()(tasks)
    assert [int(table.k.sum()) for table in found] == [sum(range(ROWS))] * 3


@of_one_registry
def test_pickles_have_no_secret(registry, pushed, home):
    session = ocikit.Session(credentials=("ada", "hunter2-password"), progress=False)
    files = ocikit.fs(session)
    ref = f"{registry.host}/{pushed}"
    stream = files.open(f"{ref}/random.bin")
    assert stream.read(10)
    art = session.inspect(ref)
    for value in (session, files, stream, art, art["random.bin"], art.fs, fsspec.get_mapper(f"ocikit://{ref}")):
        assert b"hunter2" not in pickle.dumps(value)
        assert "hunter2" not in f"{value!r}"
        assert "hunter2" not in json.dumps(getattr(value, "storage_options", {}), default=repr)


SCAN = """
import sys
import ocikit, polars as pl
print(ocikit.scan(sys.argv[1], sys.argv[2]).filter(pl.col("k") < 10).select("k").collect().height)
"""


@of_one_registry
def test_script_exits_with_0_right_after_a_scan(ref):
    """Threads of pyarrow that released bytes after the end of the interpreter aborted one script of four."""
    for _ in range(4):
        ran = subprocess.run(
            [sys.executable, "-c", SCAN, ref, PARQUET],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert (ran.returncode, ran.stdout.strip()) == (0, "10"), ran.stderr


CLUSTER = """
import sys
import ocikit
import dask.dataframe as dd
from distributed import Client, LocalCluster

if __name__ == "__main__":
    ref, other = sys.argv[1:]
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster):
            graph = dd.read_parquet(f"ocikit://{ref}/year=*/*.parquet", columns=["k"]).k.sum()
            ocikit.tag(other, ref.rpartition(":")[2])
            print(int(graph.compute()))
            files = ocikit.fs()
            files.invalidate_cache()
            print(sorted(path.rpartition("/")[2] for path in files.find(ref)))
"""


@of_one_registry
def test_dask_workers_read_the_version_of_the_graph(registry, folder, session, home):
    """The tag moves between graph and compute."""
    pytest.importorskip("distributed")
    ref = f"{registry.host}/t/cluster:v1"
    (home / "cluster.py").write_text(CLUSTER)
    session.push(ref, f"{folder}/.", include="*.parquet")
    write(home, {"other.txt": "other"})
    session.push(f"{registry.host}/t/cluster:v2", "other.txt")
    ran = subprocess.run(
        [sys.executable, "cluster.py", ref, f"{registry.host}/t/cluster:v2"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert ran.stdout.splitlines() == [str(2 * sum(range(ROWS))), "['other.txt']"], ran.stderr
