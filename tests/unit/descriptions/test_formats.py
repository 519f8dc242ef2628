"""Each format is recognised by its content and described by at most two requests and 128 KiB."""

import datetime
import gzip
import io
import json
import pickle
import struct
import sys
import tarfile

import numpy as np
import ocikit
import pyarrow as pa
import pytest
from ocikit.descriptions.describe import describe_path
from pyarrow import parquet

from tests.unit.descriptions.files import (
    TABLE,
    arrow_file,
    described,
    hdf5_file,
    npz_file,
    parquet_file,
    picture_file,
    safetensors_file,
    zip_file,
)

# Tables


def test_parquet_has_columns_rows_and_statistics():
    description = described("a.parquet", parquet_file(row_group_size=10_000))
    assert (description.kind, description.rows, description.requests) == ("table", 100_000, 1)
    k = description.columns[0]
    assert (k.name, k.type, k.nulls, k.min, k.max) == ("k", "int32", 0, "0", "99999")


def test_statistics_of_parquet_span_all_row_groups():
    table = pa.table({"a": [3, None, 1, None], "b": [{"c": 1}] * 4, "d": [[1]] * 4, "e": ["x", "y", "z", None]})
    description = described("a.parquet", parquet_file(table, row_group_size=2))
    assert {c.name: (c.nulls, c.min, c.max) for c in description.columns} == {
        "a": (2, "1", "3"),
        "b": (None, None, None),
        "d": (None, None, None),
        "e": (1, "x", "z"),
    }


def test_arrow_has_columns_and_rows():
    description = described("a.feather", arrow_file())
    assert [column.type for column in description.columns] == ["int32", "double"]
    assert (description.format, description.rows, description.requests <= 2) == ("arrow", None, True)
    assert described("a.feather", arrow_file(), requests=5).rows == 100_000


def test_arrow_stream_has_columns():
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write(TABLE)
    description = described("a.arrows", sink.getvalue().to_pybytes())
    assert [column.name for column in description.columns] == ["k", "c"]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_table_without_pyarrow_names_the_command(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    content = parquet_file() if name.endswith("parquet") else arrow_file()
    with pytest.raises(ocikit.OcikitError, match="needs pyarrow") as caught:
        described(name, content)
    assert "pip install" in caught.value.hint


def test_encrypted_footer_is_a_typed_error():
    with pytest.raises(ocikit.ContentError, match="encrypted"):
        described("a.parquet", parquet_file()[:-4] + b"PARE")


# Archives


def test_npz_has_the_arrays_of_numpy():
    arrays = {"x": np.random.default_rng(1).random((60_000, 20)), "y": np.zeros(60_000, int)}
    for packed in (False, True):
        content = npz_file(packed=packed, **arrays)
        description = described("a.npz", content)
        assert (description.kind, description.format, description.requests) == ("tensors", "npz", 2)
        assert description.tensors["x"].shape == (60_000, 20)
        assert description.bytes_read <= 131_072
        every = described("a.npz", content, requests=3)
        assert {name: (t.dtype, t.shape) for name, t in every.tensors.items()} == {
            name: (str(array.dtype), array.shape) for name, array in arrays.items()
        }
        assert every.parameters == sum(array.size for array in arrays.values())


def test_array_of_npz_is_at_its_offset():
    content = npz_file(x=np.arange(10))
    tensor = described("a.npz", content).tensors["x"]
    assert np.array_equal(np.frombuffer(content[tensor.offset :][: tensor.size], int), np.arange(10))


def test_npz_with_objects_runs_code():
    assert described("a.npz", npz_file(x=np.array([{}], object))).runs_code


def test_zip_of_20_000_members_is_two_requests():
    content = zip_file({f"folder/file-{i:06}.txt": b"x" * 200 for i in range(20_000)})
    description = described("a.zip", content)
    assert (description.metadata["members"], description.requests) == ("20,000", 2)
    assert description.bytes_read <= 1_400_000
    assert description.entries[1].name == "folder/file-000001.txt"
    assert len(description.entries) == 1_000


def test_directory_of_a_million_members_is_not_read():
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65_535, 65_535, 60_000_000, 0, 0)
    description = described("a.zip", bytes(100_000) + end)
    assert (description.kind, description.bytes_read) == ("archive", 65_536)
    assert "its directory has 60,000,000 bytes and was not read" in description.note


def test_zarr_in_a_zip_is_a_store():
    description = described("a.zarr.zip", zip_file({"zarr.json": "{}", "c/0": "x"}))
    assert (description.kind, description.format) == ("store", "zarr")


@pytest.mark.parametrize("content", [b"", b"PK\3\4" + bytes(100), zip_file({"a": "b"})[:-5], b"x" * 100])
def test_zip_without_a_directory_is_a_typed_error(content):
    with pytest.raises(ocikit.ContentError) as caught:
        described("a.zip", content)
    assert caught.value.hint


def tar_file(**members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_only_file_of_a_tar_is_described():
    inside = safetensors_file()
    content = tar_file(model=inside)
    description = described("sha256-abc", content)
    assert (description.format, description.requests, description.size) == ("safetensors, tar", 2, len(content))
    tensor = description.tensors["layer.7.weight"]
    alone = described("model", inside).tensors["layer.7.weight"]
    assert content[tensor.offset :][: tensor.size] == inside[alone.offset :][: alone.size]


def test_tar_of_several_files_is_an_archive():
    description = described("a.tar", tar_file(a=b"x" * 20_000, b=safetensors_file()))
    assert (description.kind, description.format) == ("archive", "tar")
    assert "has no directory" in description.note


def test_damaged_tar_is_a_typed_error():
    content = bytearray(tar_file(a=safetensors_file()))
    content[10] ^= 1
    with pytest.raises(ocikit.ContentError, match="as tar failed") as caught:
        described("a.tar", bytes(content))
    assert caught.value.hint


def test_hdf5_is_described_by_its_superblock():
    for options in ({}, {"libver": "latest"}, {"userblock_size": 1024}):
        content = hdf5_file(**options)
        description = described("a.h5", content)
        assert (description.kind, description.format, description.requests) == ("store", "hdf5", 1)
    with pytest.raises(ocikit.ContentError, match="its superblock states"):
        described("a.h5", hdf5_file()[:-100])


# Pictures

PICTURES = {
    "png": ("PNG", {}), "rgba": ("PNG", {"mode": "RGBA"}), "jpeg": ("JPEG", {}), "progressive": ("JPEG", {"progressive": True}),
    "gray": ("JPEG", {"mode": "L"}), "gif": ("GIF", {"mode": "P"}), "webp": ("WEBP", {}), "webp-alpha": ("WEBP", {"mode": "RGBA"}),
    "webp-lossless": ("WEBP", {"lossless": True}), "tiff": ("TIFF", {}), "bmp": ("BMP", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", PICTURES)
def test_picture_has_its_size(case):
    format, options = PICTURES[case]
    description = described("a", picture_file(format, **options))
    assert (description.kind, description.format, description.shape) == ("picture", format.lower(), (200, 320))
    assert "320 × 200 pixels" in description.summary


@pytest.mark.parametrize("name", ["a.png", "a.jpeg", "a.gif", "a.webp", "a.tiff", "a.bmp"])
def test_damaged_picture_is_a_typed_error(name):
    content = picture_file(name[2:].upper())
    for end in range(12, 20):
        try:
            described(name, content[:end])
        except ocikit.ContentError as error:
            assert error.hint


# Text


def test_csv_has_columns_with_types():
    text = "id,name,x,when,ok\n" + "".join(f"{i},n{i},{i / 3},2024-01-0{i % 9 + 1},true\n" for i in range(20_000))
    description = described("a.csv", text.encode())
    assert [(c.name, c.type) for c in description.columns] == [
        ("id", "integer"), ("name", "text"), ("x", "number"), ("when", "date"), ("ok", "boolean"),
    ]  # fmt: skip
    assert description.approximate
    assert 18_000 < description.rows < 22_000
    assert (description.requests, description.bytes_read) == (1, 65_536)


def test_small_csv_has_exact_rows_and_missing_values():
    description = described("a.csv", b"a;b\n1;\n2;x\n")
    assert (description.rows, description.approximate, description.metadata["delimiter"]) == (2, False, "semicolon")
    assert [(c.name, c.type, c.nulls) for c in description.columns] == [("a", "integer", 0), ("b", "text", 1)]


def test_csv_of_numbers_has_no_header():
    description = described("a.tsv", b"1\t2\n3\t4\n")
    assert ([c.name for c in description.columns], description.rows) == (["column 1", "column 2"], 2)


def test_compressed_csv_has_columns():
    description = described("a.csv.gz", gzip.compress(b"a,b\n" + b"1,2\n" * 90_000))
    assert (description.format, [c.type for c in description.columns]) == ("csv, gzip", ["integer", "integer"])


def test_json_lines_have_keys_with_types():
    lines = "".join(json.dumps({"a": i, "b": None if i % 2 else "x"}) + "\n" for i in range(10))
    description = described("a.jsonl", lines.encode())
    assert [(c.name, c.type) for c in description.columns] == [("a", "integer"), ("b", "null or text")]
    assert description.rows == 10


def test_json_has_the_keys_of_its_top_level():
    assert described("a.json", b'{"a": 1, "b": 2}').metadata == {"type": "object of 2 keys", "keys": "a, b"}
    assert described("a.json", b"[1, 2]").rows == 2


def test_notebook_has_its_cells():
    notebook = {"cells": [{"cell_type": "code"}, {"cell_type": "markdown"}], "nbformat": 4,
                "metadata": {"kernelspec": {"display_name": "Python 3"}}}  # fmt: skip
    description = described("a.ipynb", json.dumps(notebook).encode())
    assert description.metadata == {"cells": "2", "code cells": "1", "kernel": "Python 3"}


def test_text_has_its_encoding():
    assert described("README.md", "# Größe\nx".encode()).metadata == {"encoding": "UTF-8", "lines": "2"}
    assert described("a.txt", "Größe".encode("latin-1")).metadata["encoding"] == "unknown, not UTF-8"
    assert described("notes", b"hello").kind == "text"


@pytest.mark.parametrize(("name", "content"), [
    ("a.json", b"{"), ("a.json", b"[" * 60_000), ("a.json", b'{"a":' * 20_000), ("a.json", b"9" * 60_000), ("a.jsonl", b"{}\n{\n"),
    ("a.csv", b"a,b\0\n"), ("a.csv.gz", b"\x1f\x8b\x08\0nonsense"), ("a.ipynb", b"\0"),
])  # fmt: skip
def test_invalid_text_is_a_typed_error(name, content):
    with pytest.raises(ocikit.ContentError) as caught:
        described(name, content)
    assert caught.value.hint


def test_bomb_of_gzip_is_unpacked_to_64_kib():
    description = described("a.csv.gz", gzip.compress(bytes([10]) * (200 << 20)))
    assert description.format == "csv, gzip"


# Recognition

PICKLE = pickle.dumps({"a": [1] * 1000})
CODE = {
    "a.pkl": PICKLE,
    "a.joblib": gzip.compress(PICKLE),
    "a.pt": zip_file({"archive/data.pkl": "x"}),
    "pytorch_model.bin": zip_file({"archive/data.pkl": "x", "archive/data/0": bytes(100_000)}),
    "a.keras": zip_file({"config.json": "{}", "model.weights.h5": "x"}),
    "old.pkl": pickle.dumps([1], protocol=0),
    "a.parquet": PICKLE,
    "a.csv": PICKLE,
}


@pytest.mark.parametrize("name", CODE)
def test_file_that_runs_code_is_recognised(name):
    description = described(name, CODE[name])
    assert (description.kind, description.runs_code) == ("binary", True)
    assert "opening it runs code" in description.summary


def test_pickle_named_as_a_table_is_noted():
    assert described("x.parquet", PICKLE).note == "its name or media type is that of parquet"


@pytest.mark.parametrize("name", ["a", "a.txt", "a.parquet", "a.gguf", "a.zip"])
def test_content_decides_before_the_name(name):
    description = described(name, safetensors_file())
    assert description.format == "safetensors"
    assert description.requests <= 2
    assert description.bytes_read <= 131_072


def test_words_of_formats_are_text():
    assert described("a.csv", b"PAR1,GGUF\n1,2\n").format == "csv"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.safetensors", "a.gguf", "a.npy", "a.npz", "a.h5", "a.png"])
def test_cut_or_foreign_content_is_a_typed_error(name):
    for content in (b"", b"x", b"x" * 100, b"\xff" * 70_000):
        with pytest.raises(ocikit.ContentError, match=name) as caught:
            described(name, content)
        assert caught.value.hint


def test_path_that_does_not_exist_is_a_typed_error(tmp_path):
    with pytest.raises(ocikit.ContentError, match="cannot read"):
        describe_path(tmp_path / "missing.csv")


def test_description_is_json_and_text():
    description = described("a.npy", npz_file(x=np.zeros(3)))
    assert json.loads(description.to_json())["tensors"]["x"]["shape"] == [3]
    assert str(description) == "a.npy: npz, 1 tensor, 3 parameters, 1 member"


def test_statistics_of_parquet_have_the_values_of_their_type():
    day, moment = datetime.date, datetime.datetime
    table = pa.table({
        "unsigned": pa.array([1, 2**32 - 1], pa.uint32()),
        "date": [day(2024, 1, 1), day(1960, 1, 3)],
        "moment": pa.array([moment(2024, 1, 1, 5), moment(2020, 1, 1)], pa.timestamp("us", tz="UTC")),
        "flag": [True, False],
        "float": pa.array([1.5, -2], pa.float32()),
        "text": ["ü", "a"],
        "decimal": pa.array([1, 2], pa.decimal128(9, 2)),
        "nothing": pa.array([None, None], pa.int32()),
    })  # fmt: skip
    assert {c.name: (c.min, c.max) for c in described("a.parquet", parquet_file(table)).columns} == {
        "unsigned": ("1", "4294967295"),
        "date": ("1960-01-03", "2024-01-01"),
        "moment": ("2020-01-01 00:00:00+00:00", "2024-01-01 05:00:00+00:00"),
        "flag": ("False", "True"),
        "float": ("-2.0", "1.5"),
        "text": ("a", "ü"),
        "decimal": ("1.00", "2.00"),
        "nothing": (None, None),
    }


def test_statistics_of_parquet_equal_those_of_pyarrow():
    content = parquet_file(row_group_size=7_000)
    metadata = parquet.ParquetFile(io.BytesIO(content)).metadata
    for i, column in enumerate(described("a.parquet", content).columns):
        stated = [metadata.row_group(j).column(i).statistics for j in range(metadata.num_row_groups)]
        assert (column.min, column.max) == (
            str(min(each.min for each in stated)),
            str(max(each.max for each in stated)),
        )
        assert column.nulls == sum(each.null_count for each in stated)
