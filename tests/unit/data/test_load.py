"""Files are loaded as objects: by the annotation or the ending, whole and verified, or in parts."""

import io
from pathlib import Path

import ml_dtypes
import numpy as np
import ocikit
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from ocikit.errors import FileNotInArtifact, InvalidArgument
from PIL import Image

from tests.support.home import write

RNG = np.random.default_rng(3)
WIDE = pd.DataFrame({"k": range(200_000), **{f"c{i}": RNG.random(200_000) for i in range(5)}})


@pytest.fixture
def ref(home):
    return "oci:store:v1"


def push(ref, files):
    """Push files of other programs, which have no annotation."""
    write(Path(), {f"in/{name}": content for name, content in files.items()})
    return ocikit.push(ref, "in/.")


def parquet(table, **options):
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def png(size=(2, 3)):
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")
    return file.getvalue()


def sent(server):
    """Return the bytes of blobs that were requested."""
    sizes = []
    for request in server.requests:
        if request.method == "GET" and "/blobs/" in request.path:
            start, end = request.headers["Range"].removeprefix("bytes=").split("-")
            sizes.append(int(end) - int(start) + 1)
    return sizes


# Which object


def test_file_of_another_program_is_loaded_by_its_ending(ref):
    push(
        ref,
        {
            "a.parquet": parquet(pa.table({"x": [1, 2]})),
            "b.npy": npy(np.eye(2)),
            "c.json": '{"a": [1, null]}',
            "d.txt": "é",
            "e.png": png(),
            "f.md": "# x",
            "g.safetensors": safetensors.numpy.save({"w": np.eye(2)}),
        },
    )
    objects = ocikit.load(ref)
    pd.testing.assert_frame_equal(objects["a"], pd.DataFrame({"x": [1, 2]}))
    np.testing.assert_array_equal(objects["b"], np.eye(2))
    np.testing.assert_array_equal(objects["g"]["w"], np.eye(2))
    assert (objects["c"], objects["d"], objects["f.md"]) == ({"a": [1, None]}, "é", "# x")
    assert objects["e"].size == (2, 3)
    assert list(objects) == list(ocikit.inspect(ref).files) and "z" not in objects
    assert repr(objects).startswith("Objects(reference=")


def test_object_of_an_artifact_or_a_file_is_loaded(ref):
    art = ocikit.save(ref, {"a.txt": "x", "b.txt": "y"})
    assert ocikit.load(art, "a") == ocikit.load(art["a.txt"]) == ocikit.load(ref, "a.txt") == "x"
    with ocikit.Session() as session:
        assert ocikit.load(ref, "b", session=session) == "y"


def test_missing_object_is_reported_with_near_names(ref):
    ocikit.save(ref, {"train.txt": "x", "test.txt": "y"})
    for load in (lambda: ocikit.load(ref, "trian"), lambda: ocikit.load(ref)["trian"]):
        with pytest.raises(FileNotInArtifact, match=r"train\.txt"):
            load()


@pytest.mark.parametrize("as_", ["polars", "arrow", "pyarrow.Table", pl.DataFrame, pa.Table])
def test_table_is_loaded_for_another_library(ref, as_):
    ocikit.save(ref, pd.DataFrame({"a": [1, 2]}))
    back = ocikit.load(ref, as_=as_)
    assert type(back) is (pl.DataFrame if as_ in {"polars", pl.DataFrame} else pa.Table)
    assert back.to_pandas().to_dict("list") == {"a": [1, 2]}


def test_any_file_is_loaded_as_bytes_text_or_path(ref):
    push(ref, {"a.pkl": b"\x80\x04N.", "b.unknown": "x"})
    assert ocikit.load(ref, "a", as_=bytes) == ocikit.load(ref, "a", as_="bytes") == b"\x80\x04N."
    assert ocikit.load(ref, "b", as_=str) == ocikit.load(ref, "b", as_="text") == "x"
    assert ocikit.load(ref, "b", as_=Path).read_text() == ocikit.load(ref, "b", as_="path").read_text() == "x"


@pytest.mark.parametrize("as_", ["polars", "pickle", dict, pl.DataFrame])
def test_wrong_kind_is_refused_with_those_that_fit(ref, as_):
    ocikit.save(ref, np.eye(2))
    with pytest.raises(InvalidArgument, match="'numpy', 'bytes', 'path', 'text'"):
        ocikit.load(ref, as_=as_)


def test_file_without_a_format_is_refused(ref):
    push(ref, {"a.xyz": "x"})
    with pytest.raises(InvalidArgument, match=r"no format for 'a\.xyz'"):
        ocikit.load(ref)


def test_numbers_of_models_are_loaded(ref):
    weights = {"w": np.arange(4, dtype=ml_dtypes.bfloat16), "b": np.float16([1.5])}
    ocikit.save(ref, weights)
    back = ocikit.load(ref)
    assert back["w"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(back["w"], weights["w"])


# Parts


def test_whole_object_is_one_verified_fetch(server, session):
    ref = f"{server.host}/t/d:v1"
    ocikit.save(ref, WIDE, session=session)
    server.requests.clear()
    pd.testing.assert_frame_equal(ocikit.load(ref, session=session), WIDE)
    assert [r.method for r in server.requests if "/blobs/" in r.path] == ["GET"]
    server.requests.clear()
    ocikit.load(ref, columns=["k"], session=session)
    assert not [r for r in server.requests if "/blobs/" in r.path]


def test_damaged_content_is_not_parsed(server, session):
    ref = f"{server.host}/t/d:v1"
    ocikit.save(ref, WIDE, session=session)
    (digest,) = [f.digest for f in session.inspect(ref).files.values()]
    server.blobs["t/d", digest] = server.blobs["t/d", digest][:-1] + b"x"
    with pytest.raises(ocikit.DigestMismatch):
        ocikit.load(ref, session=session)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_columns_and_conditions_request_a_part(server, session, format):
    ref = f"{server.host}/t/d:v1"
    if format == "parquet":
        file = parquet(pa.Table.from_pandas(WIDE), row_group_size=20_000)
        write(Path(), {"a.parquet": file})
        session.push(ref, "a.parquet")
    else:
        ocikit.save(ref, WIDE, "a", format="arrow", session=session)
    size = session.inspect(ref).size
    for options, expected in {
        "columns": ({"columns": ["k"]}, WIDE[["k"]]),
        "condition": ({"columns": ["c1"], "filters": [("k", "<", 3)]}, WIDE[["c1"]][:3]),
        "rows": ({"columns": ["k", "c2"], "rows": 3}, WIDE[["k", "c2"]][:3]),
    }.values():
        server.requests.clear()
        pd.testing.assert_frame_equal(ocikit.load(ref, **options, session=session), expected)
        if format == "parquet":
            assert sum(sent(server)) < size / 3
    assert ocikit.load(ref, rows=0, session=session).shape == (0, 6)
    pl.testing.assert_frame_equal(
        ocikit.load(ref, columns=["k"], rows=2, as_="polars", session=session), pl.DataFrame({"k": [0, 1]})
    )


def test_part_of_a_frame_has_its_index(ref):
    frame = pd.DataFrame(
        {"a": [1, 2, 3], "b": pd.Categorical([3, 1, 2])}, index=pd.date_range("2024", periods=3, name="t")
    )
    for format in ("parquet", "arrow"):
        ocikit.save(ref, frame, "x", format=format, replace="all")
        pd.testing.assert_frame_equal(ocikit.load(ref, columns=["a"]), frame[["a"]])
        pd.testing.assert_frame_equal(ocikit.load(ref, columns=["b"], rows=2), frame[["b"]][:2])
        back = ocikit.load(ref, filters=[("a", ">=", 3)])
        pd.testing.assert_frame_equal(back, frame[2:], check_freq=False)


def test_tensors_are_loaded_by_name(server, session):
    ref = f"{server.host}/t/d:v1"
    weights = {f"w{i}": RNG.random((500, 500)) for i in range(6)}
    ocikit.save(ref, weights, session=session)
    server.requests.clear()
    back = ocikit.load(ref, columns=["w4", "w1"], session=session)
    assert list(back) == ["w4", "w1"]
    for name, array in back.items():
        np.testing.assert_array_equal(array, weights[name])
    assert sum(sent(server)) < 2.2 * weights["w1"].nbytes
    with pytest.raises(InvalidArgument, match="no tensor 'w9' among 6"):
        ocikit.load(ref, columns=["w9"], session=session)


def test_arrays_are_loaded_by_name(server, session):
    ref = f"{server.host}/t/d:v1"
    arrays = {f"w{i}": RNG.random((500, 500)) * 1j for i in range(6)}
    ocikit.save(ref, arrays, session=session)
    server.requests.clear()
    np.testing.assert_array_equal(ocikit.load(ref, columns="w3", session=session)["w3"], arrays["w3"])
    assert sum(sent(server)) < 2.2 * arrays["w3"].nbytes


def test_rows_of_an_array_are_loaded(server, session):
    ref = f"{server.host}/t/d:v1"
    array = RNG.random((100_000, 10))
    ocikit.save(ref, array, session=session)
    server.requests.clear()
    np.testing.assert_array_equal(ocikit.load(ref, rows=5, session=session), array[:5])
    assert sum(sent(server)) < 300_000


@pytest.mark.parametrize(("name", "wrong"), [("b", {"columns": ["x"]}), ("c", {"rows": 1}), ("b", {"filters": []})])
def test_part_that_a_format_does_not_have_is_refused(ref, name, wrong):
    ocikit.save(ref, {"b": np.eye(2), "c": [1]})
    with pytest.raises(InvalidArgument, match="loaded as a whole"):
        ocikit.load(ref, name, **wrong)


@pytest.mark.parametrize("wrong", [{"rows": -1}, {"rows": "3"}, {"rows": True}, {"columns": 3}, {"trusted": "x"}])
def test_wrong_argument_of_load_is_refused(ref, wrong):
    ocikit.save(ref, WIDE[:3])
    with pytest.raises(InvalidArgument):
        ocikit.load(ref, **wrong)


def test_missing_column_is_reported(ref):
    for format in ("parquet", "arrow"):
        ocikit.save(ref, WIDE[:3], "a", format=format, replace="all")
        for options in ({}, {"rows": 1}, {"filters": [("k", "<", 1)]}):
            with pytest.raises(InvalidArgument, match="no column 'nothere'"):
                ocikit.load(ref, columns=["nothere"], **options)
