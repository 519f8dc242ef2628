"""Descriptions of files: headers of tables, tensors, archives, pictures and text."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pyarrow as pa
from ocikit.descriptions.describe import describe
from ocikit.errors import ContentError

from tests.fuzz.archives import archive
from tests.fuzz.target import UNSAFE, message_is_safe, target
from tests.unit.descriptions.files import (
    arrow_file,
    gguf_file,
    hdf5_file,
    npy_file,
    npz_file,
    parquet_file,
    picture_file,
    safetensors_file,
    zip_file,
)

TABLE = pa.table({"k": [1, 2, None], "s": ["a", "b", "c"], "l": [[1], [], None]})
NUMBERS = (
    bytes(8), b"\xff" * 8, b"\xff\xff\xff\x7f", b"\0\0\0\x80", struct.pack("<Q", 1 << 60), struct.pack("<Q", 1 << 31), struct.pack("<I", 9),
    struct.pack("<Q", 1), struct.pack("<Q", 65_536), b"\1", b"\2",
)  # fmt: skip
MAGICS = (
    b"PAR1",
    b"PARE",
    b"ARROW1",
    b"GGUF",
    b"\x93NUMPY",
    b"PK\3\4",
    b"PK\5\6",
    b"PK\6\6",
    b"PK\6\7",
    b"\x89HDF\r\n\x1a\n",
    b"\x80\5",
)

#: Bytes of a description with requests for details: the largest header of a format, and a little more.
_MOST = 40 << 20


def _describe(data: bytes, *names: str) -> None:
    """Describe a file under names that claim different formats; the first bytes may be requested alone."""
    for name in names:
        for requests in (2, 50):

            def ranges(spans):
                assert all(0 <= offset <= offset + length <= len(data) for offset, length in spans), spans
                return [data[offset : offset + length] for offset, length in spans]

            try:
                found = describe(name, len(data), ranges, requests=requests)
            except ContentError as error:
                message_is_safe(error)
                assert error.hint
                continue
            assert found.bytes_read <= min(_MOST, 3 * len(data) + 65_536)
            assert not UNSAFE.search(str(found) + repr(found) + found.to_text().replace("\n", ""))
            assert json.loads(found.to_json())["format"] == found.format
            assert "repr failed" not in found._repr_html_()
            hash(found)


#: A header without tensors, so that damage to lengths and types is not found by the sum of their bytes alone.
_EMPTY = struct.pack("<Q", 2) + b"{}"


@target(
    safetensors_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.int8)}, {"format": "pt"}),
    _EMPTY,
    words=(*NUMBERS, b'"dtype"', b'"F32"', b'"F4"', b"[", b"]", b"{", b"}", b",", b'"a":', b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"-1", b"1e9"),
    text=False,
)  # fmt: skip
def safetensors(data: bytes) -> None:
    """Describe tensors."""
    _describe(data, "a.safetensors", "a")
    # The damage of a length would be detected at once, so the header is described with its own length, too
    header = data[8:]
    _describe(struct.pack("<Q", len(header)) + header, "a.safetensors")


@target(
    b'{"metadata": {"total_size": 1}, "weight_map": {"a": "1.safetensors", "b": "2.safetensors", "c": "../x"}}',
    words=(b'"weight_map"', b"{}", b"[]", b'"', b"1", b"[" * 5000),
)
def safetensors_index(data: bytes) -> None:
    """Describe a model in several files of which none is there."""
    _describe(data, "model.safetensors.index.json")


@target(
    gguf_file(arrays={"a": np.zeros((2, 4), np.float32)}),
    gguf_file(tokens=100, merges=70),
    b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    words=(*NUMBERS, *(struct.pack("<I", kind) for kind in range(14)), *(struct.pack("<IQ", kind, 1 << 40) for kind in (4, 8, 9)),
           struct.pack("<IQ", 9, 1) * 50, b"general.alignment", struct.pack("<IQ", 8, 2_000_000) + bytes(8)),
    text=False,
)  # fmt: skip
def gguf(data: bytes) -> None:
    """Describe a model."""
    _describe(data, "a.gguf", "a")


@target(
    npy_file(np.zeros((3, 4))),
    npy_file(np.zeros(2, [("a", "f8"), ("b", "i4", (2,))])),
    words=(*NUMBERS, b"'descr'", b"'|O'", b"'<f8'", b"(" * 3000, b"-" * 3000, b"9" * 5000, b"None", b"[", b"]", b"{", b"}", b"()", b"(3,)", b"'shape': "),
    text=False,
)  # fmt: skip
def npy(data: bytes) -> None:
    """Describe an array; damaged literals of Python are included."""
    _describe(data, "a.npy", "a")
    literal = data[10:].rstrip(b"\0")[:9000]
    _describe(b"\x93NUMPY\1\0" + struct.pack("<H", len(literal)) + literal, "a.npy")


def _deep_zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = b"c" * 300
        archive.writestr("a/zarr.json", b"{}" * 400)
    return file.getvalue()


@target(
    zip_file({"a.txt": "x", "b/c": "y" * 300}),
    npz_file(x=np.zeros(3), y=np.zeros((2, 2), ">i4")),
    npz_file(packed=True, x=np.zeros(300)),
    zip_file({"archive/data.pkl": "x"}),
    _deep_zip(),
    words=(*NUMBERS, *MAGICS, b"\0\0", b"\x08\0", b"\x0c\0", b"\x0e\0", b".npy", b"../", b"\xff\xff"),
    text=False,
)
def zip_archive(data: bytes) -> None:
    """Describe an archive, and the arrays in it."""
    _describe(data, "a.zip", "a.npz", "a")


@target(
    parquet_file(TABLE),
    parquet_file(TABLE, version="1.0", compression="none", use_dictionary=False),
    words=(*NUMBERS, *MAGICS),
    text=False,
    examples=40,
)
def parquet(data: bytes) -> None:
    """Describe a table by its footer."""
    _describe(data, "a.parquet")
    # The length of the footer is that of a whole file, so damage to it is found at once
    _describe(data + struct.pack("<I", min(len(data), 700)) + b"PAR1", "a.parquet")


@target(arrow_file(TABLE), arrow_file(TABLE, compression="zstd"), words=(*NUMBERS, *MAGICS), text=False, examples=40)
def arrow(data: bytes) -> None:
    """Describe a table by its footer, or by its start."""
    _describe(data, "a.arrow", "a.arrows")


@target(
    hdf5_file(),
    hdf5_file(libver="latest"),
    *(picture_file(format) for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")),
    picture_file("WEBP", lossless=True),
    picture_file("JPEG", progressive=True),
    pickle.dumps({"a": [1, 2]}),
    archive(("a.npy", npy_file(np.zeros(3)))),
    words=(*NUMBERS, *MAGICS, b"\xff\xd8\xff", b"\xff\xc0", b"II*\0", b"MM\0*", b"RIFF", b"VP8X", b"VP8L", b"BM", b"\x1f\x8b\x08", b"ustar\0", b"0000077\0"),
    text=False,
)  # fmt: skip
def header(data: bytes) -> None:
    """Describe pictures and other files by their first bytes."""
    _describe(data[:20_480], "a", "a.h5", "a.jpeg", "a.tiff", "a.csv.gz")


@target(
    b"id,name,x\n1,a,0.5\n2,b,\n",
    b'a;b\n"x;y";2024-01-01\n',
    b'{"a": 1, "b": [1, 2]}\n{"a": null}\n',
    b'{"cells": [{"cell_type": "code"}], "metadata": {"kernelspec": {"display_name": "x"}}, "nbformat": 4}',
    words=(b'"', b"'", b",", b";", b"\t", b"|", b"\n", b"\r", b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"[" * 5000, b'{"a":' * 5000,
           b"9" * 5000, b"1e999", b"NaN", b"\x1b[31m", "\u202e".encode(), b'"' * 3000, b"," * 20_000, b"x" * 200_000),
)  # fmt: skip
def text_file(data: bytes) -> None:
    """Describe tables of text, JSON and other text."""
    _describe(data, "a.csv", "a.tsv", "a.jsonl", "a.json", "a.ipynb", "a.md", "a")
