"""Objects of every kind that is saved, and what it means that one came back.

`python -m tests.tools.objects` saves and loads them on several versions of Python.
"""

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import polars.testing
import pyarrow as pa
import scipy.sparse
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image
from sklearn.linear_model import LogisticRegression

RNG = np.random.default_rng(7)

FRAMES = {
    "numbers": pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": [True, False]}),
    "widths": pd.DataFrame({"a": np.array([1, 2], "u1"), "b": np.array([1, 2], "f2"), "c": np.array([3, 4], "i2")}),
    "text": pd.DataFrame({"a": ["x", "é"], "b": ["y", None]}),
    "objects": pd.DataFrame({"a": pd.Series(["x", None], dtype=object), "b": pd.Series(["x", np.nan], dtype=object)}),
    "flags": pd.DataFrame({"a": pd.Series([True, None], dtype=object)}),
    "bytes": pd.DataFrame({"a": [b"x", b"\x00"]}),
    "dates": pd.DataFrame({"a": pd.Series([datetime.date(2024, 1, 1)], dtype=object)}),
    "decimals": pd.DataFrame({"a": pd.Series([decimal.Decimal("1.5"), decimal.Decimal("1.25")], dtype=object)}),
    "nullable": pd.DataFrame(
        {
            "a": pd.array([1, None], dtype="Int8"),
            "b": pd.array([True, None], dtype="boolean"),
            "c": pd.array(["x", None], dtype="string"),
            "d": pd.array([1.5, None], dtype="Float32"),
        }
    ),
    "categories": pd.DataFrame({"a": pd.Categorical(["x", "y"], categories=["z", "y", "x"], ordered=True)}),
    "categories of numbers": pd.DataFrame({"a": pd.Categorical([1, None, 2], categories=[3, 2, 1])}),
    "categories of times": pd.DataFrame({"a": pd.Categorical(pd.to_datetime(["2024-02-01", "2023-01-01"]))}),
    "periods": pd.DataFrame({"a": pd.period_range("2024", periods=2, freq="M"), "b": pd.interval_range(0, 2)}),
    "times": pd.DataFrame(
        {
            "s": np.array(["2024"], "M8[s]"),
            "ns": np.array(["2024"], "M8[ns]"),
            "tz": pd.to_datetime(["2024"]).tz_localize("Europe/Berlin"),
            "d": pd.to_timedelta([1], unit="ns"),
        }
    ),
    "frequency": pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2024", periods=2, freq="D", name="t")),
    "zone": pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2024", periods=2, freq="h", tz="UTC")),
    "columns of numbers": pd.DataFrame(np.eye(2)),
    "columns of times": pd.DataFrame(np.eye(2), columns=pd.date_range("2024", periods=2)),
    "several indexes": pd.DataFrame(
        np.eye(2),
        index=pd.MultiIndex.from_tuples([(1, "a"), (2, "b")], names=["x", None]),
        columns=pd.MultiIndex.from_tuples([("p", 1), ("q", 2)]),
    ),
    "index of categories": pd.DataFrame({"a": [1]}, index=pd.CategoricalIndex(["b"], categories=["c", "b"])),
    "index with a column's name": pd.DataFrame({"a": [1]}, index=pd.Index([5], name="a")),
    "range": pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(5, 9, 2, name="i")),
    "name of columns": pd.DataFrame({"a": [1]}).rename_axis(columns="k"),
    "no rows": pd.DataFrame({"a": pd.Series([], dtype="i1")}),
    "nothing": pd.DataFrame(),
    "wide": pd.DataFrame({f"c{i}": RNG.random(300) for i in range(30)}),
}


INDEXES = {
    "range": pd.RangeIndex(3, name="i"),
    "text": pd.Index(["a", "b"]),
    "times": pd.date_range("2024", periods=3, freq="D", tz="UTC"),
    "several": pd.MultiIndex.from_product([[1, 2], ["a"]], names=["x", None]),
    "categories": pd.CategoricalIndex(["a", "b"], categories=["b", "c", "a"]),
}


LETTERS = pl.Enum(["a", "b", "c"])
POLARS = pl.DataFrame(
    {
        "i": pl.Series([1, None], dtype=pl.Int16),
        "e": pl.Series(["b", "a"], dtype=LETTERS),
        "c": pl.Series(["x", "y"], dtype=pl.Categorical),
        "d": pl.Series([decimal.Decimal("1.50"), None], dtype=pl.Decimal(10, 2)),
        "s": [{"x": 1, "y": ["a"]}, {"x": None, "y": []}],
        "t": pl.Series([datetime.datetime(2024, 1, 1), None], dtype=pl.Datetime("ms", "UTC")),
        "w": pl.Series([datetime.timedelta(seconds=1), None], dtype=pl.Duration("ns")),
        "a": pl.Series([[1.0, 2.0], [3.0, 4.0]], dtype=pl.Array(pl.Float32, 2)),
    }
)


TABLE = pa.table(
    {
        "i": pa.array([3, None, 1], pa.int8()),
        "t": pa.array([1, 2, None], pa.timestamp("s", "UTC")),
        "d": pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), pa.array([20, 10, 30]), ordered=True),
        "l": [[1], [], None],
        "m": pa.array([{"a": 1}, None, {"a": None}]),
    },
    metadata={"by": "Ada"},
)


ARRAYS = {
    "floats": RNG.random((3, 4)),
    "transposed": np.arange(6).reshape(2, 3).T,
    "every second": np.arange(10)[::2],
    "one number": np.array(3.5),
    "nothing": np.zeros((0, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "records": np.array([(1, "a")], dtype=[("x", "i4"), ("y", "U3")]),
    "times": np.array(["2024-01-01", "NaT"], "M8[D]"),
    "complex": np.array([1 + 2j]),
    "text": np.array(["a", "éé"]),
    "bytes": np.array([b"a", b""]),
    "flags": np.array([True, False]),
    "empty texts": np.array(["", ""]),
}


VALUES = {"a": [1, 2.5, None, True, "é", {"b": []}], "10": 10**40, "9": -0.0}


GRID = xr.Dataset(
    {"t": (("x", "y"), RNG.random((3, 4)), {"unit": "K"}), "n": ("x", np.array([1, 2, 3], "i2"))},
    coords={
        "x": [10.0, 20.0, 30.0],
        "time": ("y", pd.date_range("2024", periods=4, freq="h")),
        "s": ("x", ["a", "b", "é"]),
    },
    attrs={"title": "é", "level": 3},
)
GRIDS = {"dataset": GRID, "array": GRID.t, "array without a name": GRID.n.rename(None), "nothing": xr.Dataset()}


def figure() -> Figure:
    """Return a figure, each time another one."""
    made = Figure()
    axes = made.subplots()
    axes.plot([1, 2, 3], label="a")
    axes.legend()
    axes.fill_between([0, 1, 2], [1, 1, 2], hatch="/")
    return made


def image(mode: str) -> Image.Image:
    """Return an image."""
    if mode == "I;16":
        return Image.fromarray(np.arange(35, dtype="u2").reshape(5, 7))
    return Image.fromarray(np.arange(105, dtype="u1").reshape(5, 7, 3)).convert(mode)


#: Objects by a name, with the format to save them in. The same object gives the same digest.
SAMPLES: dict[str, tuple[Any, str | None]] = {
    **{f"pandas {name} {f}": (frame, f) for name, frame in FRAMES.items() for f in ("parquet", "arrow")},
    **{
        f"pandas Series {s.dtype}": (s, None)
        for s in (pd.Series([1, 2]), pd.Series(["a"], name=7), pd.Series([0.5], name="x"))
    },
    **{f"pandas Index {name}": (index, None) for name, index in INDEXES.items()},
    **{f"polars DataFrame {f}": (POLARS, f) for f in ("parquet", "arrow")},
    "polars Series": (pl.Series("x", ["a", None], dtype=LETTERS), None),
    **{f"pyarrow Table {f}": (TABLE, f) for f in ("parquet", "arrow")},
    **{f"numpy {name}": (array, None) for name, array in ARRAYS.items()},
    **{f"mapping of numpy {name}": ({"a": array, "b": np.eye(2).T}, None) for name, array in ARRAYS.items()},
    "mapping of numpy npz": ({"a": np.eye(2)}, "npz"),
    **{
        f"scipy {kind}_{of}": (getattr(scipy.sparse, f"{kind}_{of}")(np.diag([1.0, 0, 3])), None)
        for kind in ("csr", "csc", "coo", "bsr", "dia")
        for of in ("array", "matrix")
    },
    **{f"xarray {name} netcdf": (grid, None) for name, grid in GRIDS.items()},
    **{
        f"xarray {name} {f}": (grid.drop_vars("s", errors="ignore"), f)  # zarr warns that its format of text may change
        for name, grid in GRIDS.items()
        for f in ("zarr", "zarr.zip")
    },
    **{f"PIL {mode}": (image(mode), None) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "text": ("x\r\nüß\n", None),
    "no text": ("", None),
    "bytes": (b"\x00\xff", None),
    "JSON": (VALUES, None),
    "JSON of a list": ([VALUES, None], None),
    **{f"JSON {value!r}": (value, None) for value in ({}, [], 3, 0.1, True, None)},
}


def assert_same(back: Any, obj: Any) -> None:
    """Check that an object came back, as its library defines equality, with its types."""
    assert type(back) is type(obj) or isinstance(obj, Image.Image)  # whose class names the file that it was opened from
    match obj:
        case pd.DataFrame():
            pd.testing.assert_frame_equal(back, obj, check_exact=True, check_freq=True, check_column_type=True)
            assert back.attrs == obj.attrs
            assert [*map(type, back.to_numpy().flat)] == [*map(type, obj.to_numpy().flat)]
        case pd.Series():
            pd.testing.assert_series_equal(back, obj, check_exact=True, check_freq=True)
        case pd.Index():
            pd.testing.assert_index_equal(back, obj, exact=True)
            assert getattr(back, "freq", None) == getattr(obj, "freq", None)
        case pl.DataFrame():
            pl.testing.assert_frame_equal(back, obj, check_exact=True)
        case pl.Series():
            pl.testing.assert_series_equal(back, obj, check_exact=True)
        case pa.Table():
            back.validate(full=True)
            assert back.equals(obj) and back.schema == obj.schema and back.schema.metadata == obj.schema.metadata
        case np.ndarray():
            assert back.dtype == obj.dtype and back.shape == obj.shape and back.flags.writeable
            np.testing.assert_array_equal(back, obj, strict=True)
        case dict() if obj and all(isinstance(value, np.ndarray) for value in obj.values()):
            assert set(back) == set(obj)
            for name, array in obj.items():
                assert_same(back[name], array)
        case xr.Dataset() | xr.DataArray():
            xr.testing.assert_identical(back, obj)
        case Image.Image():
            for value in ("mode", "size"):
                assert getattr(back, value) == getattr(obj, value)
            assert back.tobytes() == obj.tobytes() and back.getpalette() == obj.getpalette()
        case _ if scipy.sparse.issparse(obj):
            assert back.dtype == obj.dtype
            np.testing.assert_array_equal(back.toarray(), obj.toarray())
        case _:
            assert back == obj


def model() -> tuple[LogisticRegression, np.ndarray]:
    """Return a model that was trained, and its data."""
    random = np.random.default_rng(3)
    data = random.random((30, 3))
    return LogisticRegression().fit(data, random.integers(0, 2, 30)), data
