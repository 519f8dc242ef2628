"""Files of artifacts are described by at most two requests of a few KiB."""

import json
import pathlib
import pickle

import numpy as np
import ocikit
import pytest

from tests.unit.descriptions.files import arrow_file, npz_file, parquet_file, safetensors_file, tensors, zip_file


@pytest.fixture
def files(home):
    """Write files of several formats and return their contents by name."""
    arrays = tensors()
    names = list(arrays)
    index = {"weight_map": {name: f"part-{1 + (i >= 20)}.safetensors" for i, name in enumerate(names)}}
    contents = {
        "t.parquet": parquet_file(row_group_size=10_000),
        "t.arrow": arrow_file(),
        "model/part-1.safetensors": safetensors_file({name: arrays[name] for name in names[:20]}),
        "model/part-2.safetensors": safetensors_file({name: arrays[name] for name in names[20:]}),
        "model/model.safetensors.index.json": json.dumps(index).encode(),
        "a.npz": npz_file(x=np.zeros((9000, 9))),
        "a.csv": b"a,b\n" + b"1,2\n" * 90_000,
        "a.pkl": pickle.dumps(list(range(90_000))),
    }
    for name, content in contents.items():
        path = pathlib.Path(home, "data", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


@pytest.fixture
def pushed(session, server, files):
    ref = f"{server.host}/t/d:v1"
    session.push(ref, "data/.")
    return ref


@pytest.fixture
def fresh(home):
    """Return a session without the content of the push in its cache."""
    with ocikit.Session(cache=home / "other", progress=False) as other:
        yield other


def blob_requests(server):
    return [r for r in server.requests if "/blobs/" in r.path]


@pytest.mark.parametrize("name", ["t.parquet", "t.arrow", "model/part-1.safetensors", "a.npz", "a.csv", "a.pkl"])
def test_file_is_described_by_two_small_ranges(fresh, server, pushed, files, name):
    file = fresh.inspect(pushed)[name]
    server.requests.clear()
    description = file.describe()
    requests = blob_requests(server)
    assert len(requests) == description.requests <= 2
    ranges = [request.headers["Range"].removeprefix("bytes=").split("-") for request in requests]
    assert sum(int(end) - int(start) + 1 for start, end in ranges) == description.bytes_read <= 131_072
    assert not description.verified
    assert description.size == len(files[name])


def test_small_file_is_verified_by_one_request(session, fresh, server, home):
    pathlib.Path(home, "small.csv").write_bytes(b"a,b\n1,2\n")
    ref = f"{server.host}/t/small:v1"
    session.push(ref, "small.csv")
    server.requests.clear()
    description = fresh.describe(ref)
    assert (description.verified, description.rows, len(blob_requests(server))) == (True, 1, 1)
    assert fresh.describe(ref).verified
    assert len(blob_requests(server)) == 1


def test_model_in_several_files_needs_a_request_for_each(fresh, server, pushed):
    file = fresh.inspect(pushed)["model/model.safetensors.index.json"]
    server.requests.clear()
    description = file.describe()
    assert {name: tensor.shape for name, tensor in description.tensors.items()} == {
        name: array.shape for name, array in tensors().items()
    }
    assert len(blob_requests(server)) == description.requests == 3


def test_artifact_is_described_as_a_table(fresh, pushed, files):
    found = fresh.describe(pushed)
    assert isinstance(found, ocikit.Descriptions)
    assert set(found) == set(files)
    assert found["t.parquet"].rows == 100_000
    assert not found.problems
    assert "t.parquet" in str(found)
    assert "parquet, 100,000 rows, 2 columns" in str(found)
    assert "opening it runs code" in found._repr_html_()
    assert json.loads(found.to_json())["files"]["a.npz"]["format"] == "npz"


def test_one_file_of_an_artifact_is_described(fresh, pushed):
    assert fresh.describe(pushed, "a.csv").format == "csv"
    assert fresh.describe(fresh.inspect(pushed), "a.csv").format == "csv"
    with pytest.raises(ocikit.FileNotInArtifact):
        fresh.describe(pushed, "b.csv")


def test_damaged_file_is_a_row_of_the_table(session, server, home):
    for name, content in {"bad.npy": b"nonsense", "good.csv": b"a\n1\n"}.items():
        pathlib.Path(home, name).write_bytes(content)
    ref = f"{server.host}/t/bad:v1"
    session.push(ref, "bad.npy", "good.csv")
    found = session.describe(ref)
    assert list(found.problems) == ["bad.npy"]
    assert "as npy failed" in str(found)
    assert found.to_dict()["files"]["bad.npy"]["problem"]
    with pytest.raises(ocikit.ContentError):
        found["bad.npy"]


def test_artifact_without_files_is_a_typed_error(session, server):
    ref = f"{server.host}/t/empty:v1"
    session.push(ref, config={"a": 1}, config_type="application/vnd.example+json")
    with pytest.raises(ocikit.NotFound, match="no files to describe"):
        session.describe(ref)


def test_card_of_an_artifact_shows_what_was_described(fresh, pushed):
    artifact = fresh.inspect(pushed)
    assert "100,000 rows" not in artifact._repr_html_()
    artifact["t.parquet"].describe()
    assert "100,000 rows" in artifact._repr_html_()


def test_member_of_a_large_zip_is_listed(session, fresh, server, home):
    pathlib.Path(home, "a.zip").write_bytes(zip_file({f"{i}.txt": b"x" * 900 for i in range(500)}))
    ref = f"{server.host}/t/zip:v1"
    session.push(ref, "a.zip")
    assert [entry.name for entry in fresh.describe(ref).entries][:2] == ["0.txt", "1.txt"]
