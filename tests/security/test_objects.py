"""Objects of attackers: nothing is imported or run because of a name, an annotation or the content of a file."""

import base64
import io
import json
import os
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import ocikit
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from ocikit.client.edit import Edit
from ocikit.client.push import select_files
from ocikit.errors import InvalidDocument, OcikitError, UnsafeFormat
from ocikit.spec.annotations import TYPE
from sklearn.linear_model import LogisticRegression, SGDClassifier

from tests.support.home import write

ENDINGS = "parquet arrow npy npz safetensors skops nc zarr.zip png json".split()


class Payload:
    """Creates a file when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.fixture
def ref(home):
    yield "oci:store:v1"
    assert not (home / "owned").exists()


def publish(ref, name, content, kind=None):
    """Publish a file as another program would, with an annotation of the attacker."""
    write(Path(), {"in.bin": content})
    with ocikit.Session() as session, Edit(session.reader, ocikit.LayoutReference.parse(ref)) as edit:
        edit.put(select_files(({name: "in.bin"},)), {name: {} if kind is None else {TYPE: kind}})


def joblib_file():
    file = io.BytesIO()
    joblib.dump(Payload(), file)
    return file.getvalue()


PICKLES = {f"protocol {n}": pickle.dumps(Payload(), protocol=n) for n in range(pickle.HIGHEST_PROTOCOL + 1)}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("kind", [None, "pandas.DataFrame", "numpy.ndarray", "json", "pickle"])
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickle_under_another_name_is_not_opened(ref, ending, kind, protocol):
    publish(ref, f"x.{ending}", PICKLES[f"protocol {protocol}"], kind)
    with pytest.raises(UnsafeFormat if protocol >= 2 else InvalidDocument) as error:
        ocikit.load(ref)
    assert error.value.hint
    for options in ({"columns": ["k"]}, {"rows": 1}):
        with pytest.raises(OcikitError):
            ocikit.load(ref, **options)


@pytest.mark.parametrize(
    "name", ["m.pkl", "m.pickle", "m.joblib", "m.pt", "m.PTH", "m.bin", "m.ckpt", "m.keras", "m.rds"]
)
@pytest.mark.parametrize("kind", [None, "sklearn.BaseEstimator", "numpy.ndarray", "os.system"])
def test_pickle_is_refused_with_the_call_for_its_path(ref, name, kind):
    publish(ref, name, joblib_file(), kind)
    with pytest.raises(UnsafeFormat, match="runs code of its author") as error:
        ocikit.load(ref, trusted=["os.system"])
    assert f'"{name}")' in error.value.hint and "ocikit.download(" in error.value.hint


@pytest.mark.parametrize(
    "kind", ["os.system", "antigravity.fly", "builtins.eval", "this", "pickle", "", "a" * 9999, "\x1b[31m"]
)
def test_annotation_imports_nothing(ref, kind):
    publish(ref, "a.json", b'{"a": 1}', kind)
    publish(ref, "b.txt", b"x", kind)
    before = set(sys.modules)
    assert dict(ocikit.load(ref)) == {"a.json": {"a": 1}, "b.txt": "x"}
    new = {name for name in set(sys.modules) - before if not name.startswith("ocikit.")}
    assert new == set()


def test_annotation_for_another_format_is_ignored(ref):
    array = io.BytesIO()
    np.save(array, np.eye(2))
    publish(ref, "a.npy", array.getvalue(), "pandas.DataFrame")
    np.testing.assert_array_equal(ocikit.load(ref), np.eye(2))


def test_as_imports_nothing(ref):
    ocikit.save(ref, "x")
    for name in ("antigravity", "os.system", "antigravity.Fly"):
        with pytest.raises(OcikitError):
            ocikit.load(ref, as_=name)
    assert "antigravity" not in sys.modules


# Content


def header(text, length=None):
    raw = text.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw) if length is None else length) + raw


def zipped(members, *, compress=False):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tensors(header, body=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + body


def objects_file():
    file = io.BytesIO()
    np.save(file, np.array([Payload()], dtype=object), allow_pickle=True)
    return file.getvalue()


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def table(metadata):
    file = io.BytesIO()
    pq.write_table(pa.table({"a": [1, 2]}, metadata=metadata), file)
    return file.getvalue()


def netcdf():
    return b"\x89HDF\r\n\x1a\n" + b"\xff" * 500


SCHEMA = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "content": "system"}

LIES = {
    "array of objects": ("a.npy", objects_file()),
    "array in a zip": ("a.npz", zipped({"x.npy": objects_file()})),
    "array that is too large": ("a.npy", header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**60},)}}")),
    "negative shape": ("a.npy", header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}")),
    "code as a header": ("a.npy", header("__import__('os').mkdir('owned')")),
    "header without an end": ("a.npy", header("{", 60_000)),
    "deep header": ("a.npy", header("(" * 9000)),
    "pickle in a zip": ("a.npz", zipped({"archive/data.pkl": PICKLES["protocol 4"]})),
    "member with a lie": (
        "a.npz",
        zipped({"x.npy": header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**50},)}}")}),
    ),
    "zip bomb": ("a.npz", zipped({f"{n}.npy": bytes(100 << 20) for n in range(3)}, compress=True)),
    "zip that is cut": ("a.npz", zipped({"x.npy": b"x" * 999})[:500]),
    "tensors with a long header": ("a.safetensors", tensors({}, length=2**62)),
    "tensors out of bounds": (
        "a.safetensors",
        tensors({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**40]}}),
    ),
    "tensors that overlap": (
        "a.safetensors",
        tensors({n: {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]} for n in "xy"}, bytes(8)),
    ),
    "tensors with a large shape": (
        "a.safetensors",
        tensors({"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, bytes(4)),
    ),
    "tensors without text": ("a.safetensors", tensors(b"\xff" * 99)),
    "parquet with a long footer": ("a.parquet", b"PAR1" + b"x" * 99 + struct.pack("<I", 2**31 - 1) + b"PAR1"),
    "parquet with a wrong footer": ("a.parquet", b"PAR1" + b"\x15" * 99 + struct.pack("<I", 99) + b"PAR1"),
    "arrow with a wrong footer": ("a.arrow", b"ARROW1\0\0" + b"x" * 99 + struct.pack("<i", 2**31 - 1) + b"ARROW1"),
    "model that calls a function": ("a.skops", zipped({"schema.json": json.dumps(SCHEMA)})),
    "model without a schema": ("a.skops", zipped({"x": ""})),
    "deep model": ("a.skops", zipped({"schema.json": "[" * 90_000})),
    "image that is too large": ("a.png", png(60_000, 60_000)),
    "image without content": ("a.png", png(9, 9)),
    "netcdf without content": ("a.nc", netcdf()),
    "deep JSON": ("a.json", b"[" * 100_000),
    "JSON with a constant": ("a.json", b"[NaN]"),
    "JSON with a long number": ("a.json", b"1" * 100_000),
    "text that is not text": ("a.txt", b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", LIES)
def test_content_that_lies_is_a_typed_error(ref, name):
    title, content = LIES[name]
    publish(ref, title, content)
    with pytest.raises((InvalidDocument, UnsafeFormat)) as error:
        ocikit.load(ref)
    assert error.value.hint
    if title.endswith((".parquet", ".arrow", ".npz", ".safetensors")):
        with pytest.raises(OcikitError):
            ocikit.load(ref, columns=["x"])


def test_every_cut_of_a_file_is_a_typed_error(ref):
    frame = pd.DataFrame({"a": pd.Categorical([1, 2]), "b": ["x", "y"]})
    for format in ("parquet", "arrow"):
        ocikit.save(ref, frame, "x", format=format, replace="all")
        content = ocikit.load(ref, as_=bytes)
        for size in range(0, len(content), max(1, len(content) // 40)):
            publish(ref, f"x.{format}", content[:size])
            with pytest.raises(InvalidDocument):
                ocikit.load(ref)


def test_index_beyond_a_dictionary_is_a_typed_error(ref):
    """pyarrow does not check it while it reads, and the conversion to pandas crashed the interpreter."""
    codes = pa.array([0, 1_000_000_000], pa.int32())
    wrong = pa.DictionaryArray.from_arrays(codes, pa.array(["x"]), safe=False)
    file = io.BytesIO()
    table = pa.table({"a": wrong})
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    publish(ref, "a.arrow", file.getvalue())
    for as_ in (None, "polars", "arrow"):
        with pytest.raises(InvalidDocument):
            ocikit.load(ref, as_=as_)


METADATA = [
    b"[",
    b"[1]",
    b"[" * 99_999,
    json.dumps({"types": "x"}),
    json.dumps({"types": base64.b64encode(b"x" * 99).decode()}),
    json.dumps({"freq": {"index": "os.system", "columns": "D"}}),
    json.dumps({"freq": [1]}),
    json.dumps({"objects": {"a": ["x"]}}),
    json.dumps({"range": [0, 2**70, 1], "name": {"x": 1}}),
    json.dumps({"range": [0, 2**62, 1]}),
]


@pytest.mark.parametrize("metadata", METADATA, ids=range(len(METADATA)))
def test_own_metadata_of_an_attacker_is_harmless(ref, metadata):
    publish(ref, "a.parquet", table({"ocikit": metadata}))
    try:
        assert ocikit.load(ref)["a"].tolist() == [1, 2]
    except InvalidDocument as error:
        assert error.hint


def test_random_generator_in_a_model_must_be_trusted(ref):
    model = SGDClassifier(random_state=np.random.RandomState(1)).fit([[0.0], [1.0]], [0, 1])
    ocikit.save(ref, model)
    name = "numpy.random.mtrand.RandomState"
    with pytest.raises(UnsafeFormat, match=name.replace(".", r"\.")):
        ocikit.load(ref, trusted=skops.io.get_untrusted_types(file=ocikit.download(ref, "model.skops")))
    assert ocikit.load(ref, trusted=[name]).predict([[1.0]]) == [1]


def test_function_in_a_model_is_not_called(ref):
    file = io.BytesIO(skops.io.dumps(LogisticRegression()))
    with zipfile.ZipFile(file) as archive:
        schema = json.loads(archive.read("schema.json"))
    schema["content"] = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode",
                         "content": {"module_path": "os", "function": "system"}, "__id__": 1}  # fmt: skip
    publish(ref, "m.skops", zipped({"schema.json": json.dumps(schema)}), "sklearn.BaseEstimator")
    with pytest.raises(UnsafeFormat, match=r"os\.system"):
        ocikit.load(ref)


def test_codec_of_a_zarr_is_not_imported(ref):
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2],
        "data_type": "int8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}, {"name": "numcodecs.pickle"}],
        "dimension_names": ["x"],
        "attributes": {},
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    publish(ref, "w.zarr.zip", zipped({"zarr.json": json.dumps(group), "a/zarr.json": json.dumps(meta)}))
    with pytest.raises(InvalidDocument, match=r"numcodecs\.pickle"):
        ocikit.load(ref)
    old = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "filters": [{"id": "pickle"}], "order": "C",
           "compressor": None, "fill_value": 0}  # fmt: skip
    publish(ref, "v.zarr.zip", zipped({".zgroup": '{"zarr_format": 2}', "a/.zarray": json.dumps(old),
                                       "a/.zattrs": '{"_ARRAY_DIMENSIONS": ["x"]}', "a/0": PICKLES["protocol 4"]}))  # fmt: skip
    with pytest.raises(OcikitError):
        ocikit.load(ref, "v.zarr.zip")
