"""Writers of one tag lose no file of each other: threads, processes, and the libraries that use them."""

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
