"""Objects come back as they were, the same object gives the same digest, and others are refused before anything is sent."""

import datetime
import json
import math
import types
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import attrs
import numpy as np
import ocikit
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import pyarrow.dataset
import pytest
import scipy.sparse
import xarray as xr
from ocikit.errors import Conflict, InvalidArgument, UnsafeFormat
from ocikit.spec.annotations import MADE_WITH, MESSAGE, TITLE, TYPE
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from tests.support.home import write
from tests.support.objects import FRAMES, GRID, POLARS, SAMPLES, VALUES, assert_same, figure

RNG = np.random.default_rng(7)


@pytest.fixture
def ref(home):
    return "oci:store:v1"


def digests(ref, obj, name=None, **options):
    return {ocikit.save(ref.replace("v1", tag), obj, name, **options).digest for tag in ("v1", "v2")}


@pytest.mark.parametrize("name", SAMPLES)
def test_object_comes_back_and_has_one_digest(ref, name):
    obj, format = SAMPLES[name]
    assert len(digests(ref, obj, "x", format=format)) == 1
    assert_same(ocikit.load(ref), obj)
    assert_same(ocikit.load(ref, "x"), obj)


# Tables of pandas


@pytest.mark.parametrize("name", [None, "x", 7])
@pytest.mark.parametrize(
    ("values", "dtype"), [([1, 2], "i1"), (["x", "y"], "str"), ([2, 1], "category"), ([1, None], "Int64")]
)
def test_series_of_pandas_comes_back(ref, values, dtype, name):
    series = pd.Series(values, dtype=dtype, name=name, index=pd.date_range("2024", periods=2, freq="D"))
    assert len(digests(ref, series)) == 1
    pd.testing.assert_series_equal(ocikit.load(ref), series, check_exact=True, check_freq=True)


# Tables of polars and arrow


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_lazy_frame_of_polars_comes_back(ref, format):
    lazy = POLARS.lazy().select("i", "s")
    ocikit.save(ref, lazy, "lazy", format=format)
    pl.testing.assert_frame_equal(ocikit.load(ref, "lazy"), lazy.collect(), check_exact=True)


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize("kind", ["batch", "reader", "dataset"])
def test_stream_of_arrow_comes_back_as_table(ref, kind, format):
    table = pa.table({"k": range(1000), "s": map(str, range(1000))})
    streams = {
        "batch": lambda: table.to_batches()[0],
        "reader": lambda: table.to_reader(max_chunksize=10),
        "dataset": lambda: pyarrow.dataset.dataset(table),
    }
    made = [ocikit.save(ref, streams[kind](), format=format) for _ in range(2)]
    assert made[0].digest == made[1].digest
    assert ocikit.load(ref).equals(table)


def test_small_batches_become_one_row_group(ref):
    ocikit.save(ref, pa.table({"k": range(1000)}).to_reader(max_chunksize=10))
    assert pyarrow.parquet.ParquetFile(ocikit.download(ref, "data.parquet")).num_row_groups == 1


# Arrays


def test_mapping_of_numbers_is_safetensors_and_others_npz(ref):
    assert list(ocikit.save(ref, {"a": np.eye(2)})) == ["weights.safetensors"]
    assert list(ocikit.save(ref, {"a": np.array([1j])}, replace="all")) == ["data.npz"]
    assert list(ocikit.save(ref, {"a": np.eye(2)}, "x", format="npz", replace="all")) == ["x.npz"]
    assert list(ocikit.save(ref, {"a": np.eye(2)}, "y.npz", replace="all")) == ["y.npz"]


# Text, bytes, JSON


@dataclass
class Point:
    x: float
    names: tuple[str, ...] = ()


@attrs.frozen
class Run:
    loss: float
    at: Point


def test_name_may_have_another_ending_for_text_and_bytes(ref):
    ocikit.save(ref, {"notes.md": "# x", "model.onnx": b"\x01", "raw.pkl": b"\x80\x04."})
    objects = ocikit.load(ref)
    assert dict(objects) == {"notes.md": "# x", "model.onnx": b"\x01", "raw.pkl": b"\x80\x04."}
    assert objects["notes"] == "# x"


def test_record_is_json_and_comes_back_by_its_class(ref):
    run = Run(loss=0.5, at=Point(1.5, ("a", "b")))
    assert len(digests(ref, run)) == 1
    assert ocikit.load(ref) == {"loss": 0.5, "at": {"x": 1.5, "names": ["a", "b"]}}
    assert ocikit.load(ref, as_=Run) == run


def test_path_is_saved_as_it_is(ref, home):
    write(home, {"a/x.csv": "k\n1\n", "a/y/z.txt": "z"})
    assert list(ocikit.save(ref, Path("a/x.csv"))) == ["x.csv"]
    assert list(ocikit.save(ref, Path("a/x.csv"), "train", replace="all")) == ["train.csv"]
    assert list(ocikit.save(ref, {"d": Path("a")}, replace="all")) == ["d/x.csv", "d/y/z.txt"]
    assert TYPE not in ocikit.inspect(ref)["d/x.csv"].descriptor.annotations


# Data sets of xarray


def test_zarr_is_one_object_among_others(ref):
    saved = ocikit.save(ref, {"notes": "x", "grid": GRID}, format=None)
    assert list(saved) == ["notes.txt", "grid.nc"]
    grid = GRID.drop_vars("s")
    ocikit.save(ref, grid, "deep/w.zarr", replace="all")
    ocikit.save(ref, "x", "notes")
    objects = ocikit.load(ref)
    assert list(objects) == ["deep/w.zarr", "notes.txt"]
    xr.testing.assert_identical(objects["deep/w"], grid)


# Models of scikit-learn


def test_model_comes_back_if_its_types_are_trusted(ref):
    data, target = RNG.random((30, 3)), RNG.integers(0, 2, 30)
    linear = make_pipeline(StandardScaler(), LogisticRegression()).fit(data, target)
    saved = ocikit.save(ref, linear)
    assert list(saved) == ["model.skops"]
    made_with = f"scikit-learn {version('scikit-learn')}, skops {version('skops')}"
    assert saved["model.skops"].descriptor.annotations[MADE_WITH] == made_with
    np.testing.assert_array_equal(ocikit.load(ref).predict_proba(data), linear.predict_proba(data))
    forest = RandomForestClassifier(3, random_state=0).fit(data, target)
    ocikit.save(ref, forest, "forest")
    with pytest.raises(UnsafeFormat, match=r"sklearn\.tree\._tree\.Tree") as error:
        ocikit.load(ref, "forest")
    names = json.loads(error.value.hint.partition("trusted=")[2])
    back = ocikit.load(ref, "forest", trusted=names)
    np.testing.assert_array_equal(back.predict_proba(data), forest.predict_proba(data))


class Own(BaseEstimator):
    """A type of a script."""


def test_model_with_types_of_a_script_is_refused(server, session):
    for model in (Own(), make_pipeline(StandardScaler(), FunctionTransformer(lambda x: x))):
        with pytest.raises(InvalidArgument, match="was not saved, and nothing was sent"):
            ocikit.save(f"{server.host}/t/d:v1", model, session=session)
    assert server.requests == []


# Pictures


@pytest.mark.parametrize("mode", ["CMYK", "F"])
def test_image_that_png_does_not_keep_is_refused(ref, mode):
    with pytest.raises(InvalidArgument, match="was not saved"):
        ocikit.save(ref, Image.new(mode, (2, 2)))


def test_figure_is_png_and_svg_with_the_same_bytes(ref):
    first = ocikit.save(ref, {"loss": figure()})
    assert list(first) == ["loss.png", "loss.svg"]
    assert ocikit.save("oci:store:v2", {"loss": figure()}).digest == first.digest
    objects = ocikit.load(ref)
    assert objects["loss.png"].size == (640, 480)
    assert objects["loss.svg"].startswith("<?xml")
    with pytest.raises(InvalidArgument, match=r"several files"):
        objects["loss"]
    assert list(ocikit.save(ref, figure(), "x.svg", replace="all")) == ["x.svg"]
    assert list(ocikit.save(ref, figure(), format="png", replace="all")) == ["figure.png"]


# What is refused


class Frame(pd.DataFrame):
    """A subclass, whose additions no file keeps."""


REFUSED = {
    "an object": (object(), "no pickles"),
    "a function": (len, "no pickles"),
    "a module": (types, "no pickles"),
    "a class": (Point, "is a class"),
    "a set": ({1}, "list"),
    "a tuple": ((1, 2), "list"),
    "masked array": (np.ma.array([1, 2], mask=[0, 1]), "mask"),
    "array of objects": (np.array([{}, None], dtype=object), "only a pickle"),
    "records of objects": (np.array([(1,)], dtype=[("x", "O")]), "only a pickle"),
    "matrix of numpy": (np.matrix([1]), "subclass"),
    "number of numpy": (np.int64(1), ".item()"),
    "subclass of a frame": (Frame({"a": [1]}), "subclass"),
    "column of mixed types": (pd.DataFrame({"a": [1, "x"]}), "column a"),
    "column of lists": (pd.DataFrame({"a": [[1], [2]]}), "'a'"),
    "column of mappings": (pd.DataFrame({"a": [{"x": 1}, {"y": 2}]}), "'a'"),
    "complex column": (pd.DataFrame({"a": [1j]}), "complex"),
    "sparse column": (pd.DataFrame({"a": pd.arrays.SparseArray([0, 1])}), "Sparse"),
    "two columns of one name": (pd.DataFrame([[1, 2]], columns=["a", "a"]), "'a'"),
    "mixed names of columns": (pd.DataFrame([[1, 2]], columns=["a", 1]), "several types"),
    "attributes": (pd.DataFrame({"a": [1]}).pipe(lambda f: (f.attrs.update(x=object()), f)[1]), "JSON"),
    "nan in JSON": ({"loss": [0.5, math.nan]}, "[1] is nan"),
    "infinity in JSON": ([math.inf], "[0] is inf"),
    "number as key": ({1: "a"}, "key 1"),
    "tuple in JSON": ([(1, 2)], "tuple"),
    "date in JSON": ([datetime.date(2024, 1, 1)], "date"),
    "text that is not Unicode": ("\ud800", "surrogates"),
    "matrix without a file format": (scipy.sparse.dok_array((2, 2)), ".tocsr()"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_object_is_refused_before_anything_is_sent(server, session, name):
    obj, message = REFUSED[name]
    ref = f"{server.host}/t/d:v1"
    for one in (obj, {"good": "text", "bad": obj}):
        with pytest.raises(InvalidArgument) as error:
            ocikit.save(ref, one, session=session)
        assert message in str(error.value) and error.value.hint
    assert server.requests == []


def test_refused_object_of_several_is_named(ref):
    for bad in (object(), pd.DataFrame({"a": [1, "x"]})):
        with pytest.raises(InvalidArgument, match=r"^'bad(\.parquet)?': the "):
            ocikit.save(ref, {"good": np.eye(2), "bad": bad})


def test_place_of_a_value_that_json_lacks_is_named(ref):
    with pytest.raises(InvalidArgument, match=r"\['run'\]\[1\]\['loss'\] is nan"):
        ocikit.save(ref, {"run": [{}, {"loss": math.nan}]}, "metrics")


def test_nested_value_is_refused(ref):
    value = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(InvalidArgument, match="nested deeper"):
        ocikit.save(ref, value)


@pytest.mark.parametrize(
    ("obj", "name", "message"),
    [
        ("text", "a.csv", "ending .csv"),
        ("text", "a.pkl", "ending .pkl"),
        ("array", "a.parquet", "ending .parquet"),
        ("json", "a.yaml", "ending .yaml"),
        ("text", "../a", '".."'),
        ("two", None, "two files"),
    ],
)
def test_name_that_does_not_fit_is_refused(ref, obj, name, message):
    frame = FRAMES["text"]
    obj = {"text": frame, "array": np.eye(2), "json": VALUES, "two": {"a": frame, "a.parquet": frame}}[obj]
    with pytest.raises(ocikit.OcikitError, match=message.replace(".", r"\.")):
        ocikit.save(ref, obj, name)


def test_unknown_format_is_refused_with_those_that_fit(ref):
    with pytest.raises(InvalidArgument, match="'parquet', 'arrow'"):
        ocikit.save(ref, FRAMES["text"], format="csv")


# Into an artifact


def test_save_keeps_other_files(ref):
    first = ocikit.save(ref, {"train": FRAMES["text"], "notes": "x"})
    assert list(first) == ["train.parquet", "notes.txt"]
    second = ocikit.save(ref, np.eye(2), "w")
    assert list(second) == ["train.parquet", "notes.txt", "w.npy"]
    third = ocikit.save(ref, "y", "notes", replace="all")
    assert list(third) == ["notes.txt"]
    assert ocikit.load(ref) == "y"


def test_save_without_replace_raises_conflict(ref):
    ocikit.save(ref, "x", "notes")
    with pytest.raises(Conflict, match=r"notes\.txt"):
        ocikit.save(ref, "y", "notes", replace=False)
    ocikit.save(ref, "y", "other", replace=False)
    assert dict(ocikit.load(ref)) == {"notes.txt": "x", "other.txt": "y"}


def test_save_records_type_message_annotations_and_tags(ref):
    saved = ocikit.save(
        ref,
        {"a": FRAMES["text"], "b": np.eye(2)},
        tags=["latest"],
        message="first",
        annotations={"org.example.k": "v"},
        artifact_type="application/vnd.example.data.v1",
    )
    assert saved.annotations == {MESSAGE: "first", "org.example.k": "v"}
    assert saved.manifest.artifact_type == "application/vnd.example.data.v1"
    assert ocikit.pin("oci:store:latest").digest == saved.digest
    assert [(f.name, f.media_type, f.descriptor.annotations) for f in saved.files.values()] == [
        ("a.parquet", "application/vnd.apache.parquet", {TITLE: "a.parquet", TYPE: "pandas.DataFrame"}),
        ("b.npy", "application/x-npy", {TITLE: "b.npy", TYPE: "numpy.ndarray"}),
    ]
    again = ocikit.save(ref, "x")
    assert again.manifest.artifact_type == "application/vnd.example.data.v1"


def test_dry_run_sends_nothing(server, session):
    ref = f"{server.host}/t/d:v1"
    plan = ocikit.save(ref, FRAMES["text"], "a", dry_run=True, session=session).plan
    assert list(plan.added) == ["a.parquet"]
    assert {request.method for request in server.requests} <= {"GET", "HEAD"}


def test_saving_what_is_there_moves_nothing(server, session):
    ref = f"{server.host}/t/d:v1"
    first = ocikit.save(ref, FRAMES["wide"], session=session)
    server.requests.clear()
    assert ocikit.save(ref, FRAMES["wide"], session=session).digest == first.digest
    assert {request.method for request in server.requests} <= {"GET", "HEAD"}


def test_temporary_files_are_deleted(ref, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    ocikit.save(ref, FRAMES["text"])
    with pytest.raises(InvalidArgument):
        ocikit.save(ref, {"a": FRAMES["text"], "b": object()})
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"name": 1}, {"format": 1}, {"message": 1}, {"replace": "some"}, {"annotations": []}]
)
def test_wrong_argument_is_refused(ref, wrong):
    with pytest.raises(ocikit.InvalidArgument):
        ocikit.save(ref, "x", **wrong)
