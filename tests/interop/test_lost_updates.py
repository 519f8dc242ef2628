"""Writers of one tag lose no file of each other: threads, processes, and the libraries that use them."""

import os
import subprocess
import sys
import threading

import fsspec
import numpy as np
import ocikit
import pandas as pd
import pytest
from ocikit.remote.repository import Repository

from tests.support import peers
from tests.support.home import ROOT

#: Registries that honour conditions, that ignore them, and that ignore them with another storage.
KINDS = ["ocikit", "distribution3", "olareg"]

WRITE = """
import sys, fsspec
if __name__ == "__main__":
    url, name, count = sys.argv[1:]
    for n in range(int(count)):
        with fsspec.open(f"{url}/{name}/{n}", "wb") as file:
            file.write(f"{name} {n}".encode())
"""


PUBLISH = """
import os, sys, tempfile, ocikit
if __name__ == "__main__":
    ref, name, count = sys.argv[1:]
    os.chdir(tempfile.mkdtemp())
    for n in range(int(count)):
        with open("m.txt", "w") as file:
            file.write(f"{name} {n}")
        ocikit.push(ref, "m.txt", version="next", message=f"{name}{n}")
"""


#: The driver has read and written the tag before, and so have the workers. They write it, and all of them read it.
CLUSTER = """
import sys, warnings
import dask.dataframe as dd, numpy as np, pandas as pd, xarray as xr
from distributed import Client, LocalCluster
warnings.simplefilter("ignore")
if __name__ == "__main__":
    url = sys.argv[1]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        for n in range(2):
            df = pd.DataFrame({"k": np.arange(100), "x": np.random.default_rng(n).random(100)})
            df.to_parquet(f"{url}/pandas{n}.parquet")
            assert pd.read_parquet(f"{url}/pandas{n}.parquet").equals(df)
            parts = dd.from_pandas(df, npartitions=4)
            parts.to_parquet(f"{url}/table{n}")
            read = dd.read_parquet(f"{url}/table{n}").compute().sort_values("k").reset_index(drop=True)
            assert read.equals(df), "to_parquet"
            parts.to_csv(f"{url}/csv{n}/*.csv", index=False)
            assert dd.read_csv(f"{url}/csv{n}/*.csv").compute().k.sort_values().tolist() == list(range(100)), "to_csv"
            data = xr.Dataset({"t": (("x", "y"), np.random.default_rng(n).random((8, 8)))}).chunk({"x": 2, "y": 4})
            for consolidated in (True, False):
                place = f"{url}/{n}{consolidated}.zarr"
                data.to_zarr(place, consolidated=consolidated)
                xr.testing.assert_identical(xr.open_zarr(place, consolidated=consolidated).load(), data.load())
    print("equal")
"""


@pytest.fixture
def registry(request, home):
    with peers.KINDS[request.param]() as running:
        yield running


@pytest.fixture
def pushes(monkeypatch):
    """The manifests that this process has pushed."""
    seen, real = [], Repository.put_manifest

    def counted(self, target, *args, **kwargs):
        seen.append(target)
        return real(self, target, *args, **kwargs)

    monkeypatch.setattr(Repository, "put_manifest", counted)
    return seen


def content(reference):
    artifact = ocikit.inspect(reference)
    return {name: file.read() for name, file in artifact.files.items()}


@pytest.mark.peers(of=["registry"])
@pytest.mark.parametrize("registry", KINDS, indirect=True)
def test_threads_lose_no_file(registry, repo, pushes):
    url, errors = f"ocikit://{registry.reference(repo, 'v1')}", []

    def write(name):
        try:
            for n in range(25):
                with fsspec.open(f"{url}/{name}/{n}", "wb") as file:
                    file.write(f"{name} {n}".encode())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    expected = {f"{name}/{n}": f"{name} {n}".encode() for name in range(8) for n in range(25)}
    assert content(registry.reference(repo, "v1")) == expected
    assert len(pushes) <= 60


@pytest.mark.peers(of=["registry"])
@pytest.mark.parametrize("registry", KINDS, indirect=True)
def test_processes_lose_no_file(registry, repo, tmp_path):
    count = 50 if registry.kind == "ocikit" else 15  # the others are looked at again after each commit
    script = tmp_path / "write.py"
    script.write_text(WRITE)
    url = f"ocikit://{registry.reference(repo, 'v1')}"
    running = [subprocess.Popen([sys.executable, str(script), url, name, str(count)], cwd=ROOT) for name in ("a", "b")]
    assert [process.wait(120) for process in running] == [0, 0]
    expected = {f"{name}/{n}": f"{name} {n}".encode() for name in "ab" for n in range(count)}
    assert content(registry.reference(repo, "v1")) == expected


@pytest.mark.peers(of=["registry"])
@pytest.mark.parametrize("registry", KINDS, indirect=True)
def test_processes_get_different_versions(registry, repo, tmp_path):
    script = tmp_path / "publish.py"
    script.write_text(PUBLISH)
    ref = registry.reference(repo, "latest")
    running = [subprocess.Popen([sys.executable, str(script), ref, name, "3"], cwd=ROOT) for name in "abc"]
    assert [process.wait(120) for process in running] == [0, 0, 0]
    history = ocikit.history(ref)
    assert [version.tags[0] for version in history] == [f"v{number}" for number in range(9, 0, -1)]
    assert sorted(version.message for version in history) == [f"{name}{n}" for name in "abc" for n in range(3)]
    assert [version.gap for version in history[:-1]] == [""] * 8


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("registry", ["ocikit"], indirect=True)
@pytest.mark.parametrize("round", range(2))
def test_zarr_reads_back_what_it_wrote(registry, repo, round):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    data = xarray.Dataset({"t": (("x", "y"), np.random.default_rng(round).random((8, 8)))}).chunk({"x": 2, "y": 4})
    reference = registry.reference(repo, "v1")
    data.to_zarr(f"ocikit://{reference}/w.zarr")
    xarray.testing.assert_identical(xarray.open_zarr(f"ocikit://{reference}/w.zarr").load(), data.load())


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("registry", ["ocikit"], indirect=True)
def test_zarr_in_an_edit_makes_one_manifest(registry, repo, pushes):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    data = xarray.Dataset({"t": (("x", "y"), np.arange(64.0).reshape(8, 8))}).chunk({"x": 2, "y": 4})
    reference = registry.reference(repo, "v1")
    with ocikit.edit(reference) as e:
        data.to_zarr(f"{e.url}/w.zarr")
        assert pushes == []
    assert len(pushes) <= 2  # the first finds out whether the host honours conditions
    xarray.testing.assert_identical(xarray.open_zarr(f"ocikit://{reference}/w.zarr").load(), data.load())
    before = e.artifact.digest
    with pytest.raises(RuntimeError), ocikit.edit(reference) as failed:
        data.to_zarr(f"{failed.url}/other.zarr")
        raise RuntimeError
    assert ocikit.pin(reference).digest == before


@pytest.mark.parametrize("registry", ["ocikit"], indirect=True)
@pytest.mark.parametrize("round", range(2))
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_dask_reads_back_what_it_wrote(registry, repo, round):
    dask = pytest.importorskip("dask.dataframe")
    frame = pd.DataFrame({"k": range(1000), "v": np.random.default_rng(round).random(1000)})
    url = f"ocikit://{registry.reference(repo, 'v1')}/table"
    dask.from_pandas(frame, npartitions=4).to_parquet(url)
    read = dask.read_parquet(url).compute().sort_values("k").reset_index(drop=True)
    pd.testing.assert_frame_equal(read, frame)


@pytest.mark.peers(of=["registry"])
@pytest.mark.parametrize("registry", ["ocikit", "distribution3"], indirect=True)
def test_cluster_reads_back_what_it_wrote(registry, repo, tmp_path):
    """Pins of the driver and of the workers were older than the files: rows were missing, and chunks were NaN."""
    for name in ("distributed", "dask.dataframe", "xarray", "zarr"):
        pytest.importorskip(name)
    (tmp_path / "cluster.py").write_text(CLUSTER)
    ran = subprocess.run(
        [sys.executable, "cluster.py", f"ocikit://{registry.reference(repo, 'v1')}"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert ran.stdout.splitlines() == ["equal"], ran.stderr


@pytest.mark.parametrize("registry", ["ocikit"], indirect=True)
def test_libraries_write_tables_by_url(registry, repo):
    frame = pd.DataFrame({"k": range(100), "year": [2023, 2024] * 50})
    url = f"ocikit://{registry.reference(repo, 'v1')}"
    frame.to_parquet(f"{url}/pandas.parquet")
    frame.to_csv(f"{url}/pandas.csv", index=False)
    frame.to_parquet(f"{url}/hive", partition_cols=["year"])
    fs, path = fsspec.url_to_fs(url)
    names = {name.removeprefix(f"{path}/").partition("/")[0] for name in fs.find(path)}
    if duckdb := pytest.importorskip("duckdb"):
        connection = duckdb.connect()
        connection.register_filesystem(ocikit.fs())
        connection.execute(f"copy (select 1 as one) to '{url}/duck.parquet' (format parquet)")
        fs.invalidate_cache()
        assert pd.read_parquet(f"{url}/duck.parquet")["one"].tolist() == [1]
    polars = pytest.importorskip("polars")
    with fs.open(f"{path}/polars.parquet", "wb") as file:
        polars.DataFrame({"a": [1, 2]}).write_parquet(file)
    assert pd.read_parquet(f"{url}/polars.parquet")["a"].tolist() == [1, 2]
    assert names == {"pandas.parquet", "pandas.csv", "hive"}
    pd.testing.assert_frame_equal(pd.read_parquet(f"{url}/pandas.parquet"), frame)
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/pandas.csv"), frame)
    assert len(pd.read_parquet(f"{url}/hive")) == 100
