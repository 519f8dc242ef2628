"""Descriptions of tensors and arrays equal what the libraries of their formats read from the whole file."""

import json
import struct

import gguf
import numpy as np
import ocikit
import pytest
import safetensors
from ocikit.descriptions.describe import describe, describe_path

from tests.unit.descriptions.files import described, gguf_file, npy_file, safetensors_file, tensors

# safetensors


def test_safetensors_are_described_by_one_small_range():
    content = safetensors_file(metadata={"format": "np"})
    description = described("a.safetensors", content)
    assert (description.kind, description.format, description.metadata) == ("tensors", "safetensors", {"format": "np"})
    assert {name: tensor.shape for name, tensor in description.tensors.items()} == {
        name: array.shape for name, array in tensors().items()
    }
    assert description.parameters == sum(array.size for array in tensors().values())
    assert (description.requests, description.bytes_read) == (1, 65_536)


def test_tensor_is_at_its_offset():
    content = safetensors_file()
    tensor = described("a.safetensors", content).tensors["layer.7.weight"]
    raw = content[tensor.offset : tensor.offset + tensor.size]
    assert np.array_equal(np.frombuffer(raw, np.float32).reshape(tensor.shape), tensors()["layer.7.weight"])


def test_large_header_is_a_second_range():
    arrays = {f"a.tensor.with.a.long.name.{i}": np.zeros(1, np.float16) for i in range(2000)}
    description = described("a.safetensors", safetensors_file(arrays))
    assert (len(description.tensors), description.requests) == (2000, 2)


def test_safetensors_are_recognised_without_a_name():
    assert described("model", safetensors_file()).format == "safetensors"


def header(value, rest=b""):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(raw)) + raw + rest


LYING = {
    "a header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a header of 2^64 bytes": b"\xff" * 8 + b"{}",
    "a file of three bytes": b"abc",
    "no JSON": header(b"{nonsense"),
    "an array": header([1]),
    "deep nesting": header(b'{"a":' * 100_000),
    "a name twice": header(b'{"a":1,"a":1}'),
    "a tensor without a type": header({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "a shape of text": header({"a": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 4]}}, b"1234"),
    "a negative shape": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"1234"),
    "a shape that overflows": header({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}),
    "a size that its shape contradicts": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
    "an end before the begin": header({"a": {"dtype": "X", "shape": [1], "data_offsets": [4, 0]}}, b"1234"),
    "an end after the file": header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
    "a gap": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
    "bytes after the last tensor": header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
    "metadata that is not text": header({"__metadata__": {"a": 1}}),
    "numbers of 5,000 digits": header(b'{"a":' + b"9" * 5000 + b"}"),
}


@pytest.mark.parametrize("case", LYING)
def test_lying_header_of_safetensors_is_a_typed_error(case):
    with pytest.raises(ocikit.ContentError, match="as safetensors failed") as caught:
        described("a.safetensors", LYING[case])
    assert caught.value.hint
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(LYING[case])


def test_header_of_100_mb_is_not_requested():
    requested = []

    def ranges(spans):
        requested.extend(spans)
        return [(struct.pack("<Q", 100_000_000) + b'{"').ljust(length) for _, length in spans]

    with pytest.raises(ocikit.ContentError, match="the limit is 16,777,216"):
        describe("a.safetensors", 1 << 40, ranges)
    assert requested == [(0, 65_536)]


def test_type_of_the_future_is_text():
    content = header({"a": {"dtype": "F3_E1M1", "shape": [8], "data_offsets": [0, 3]}}, b"123")
    tensor = described("a.safetensors", content).tensors["a"]
    assert (tensor.dtype, tensor.shape, tensor.size) == ("F3_E1M1", (8,), 3)


# Several files


def test_model_in_several_files_is_described_by_their_headers(tmp_path):
    arrays = tensors()
    parts = {"model-1.safetensors": list(arrays)[:25], "model-2.safetensors": list(arrays)[25:]}
    for file, names in parts.items():
        (tmp_path / file).write_bytes(safetensors_file({name: arrays[name] for name in names}))
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, names in parts.items() for name in names},
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    description = describe_path(tmp_path / "model.safetensors.index.json")
    assert {name: (tensor.shape, tensor.file) for name, tensor in description.tensors.items()} == {
        name: (arrays[name].shape, file) for file, names in parts.items() for name in names
    }
    assert (description.kind, description.requests, description.note) == ("tensors", 3, "")


def test_index_names_only_files_of_its_artifact(tmp_path):
    (tmp_path / "secret").write_bytes(safetensors_file())
    folder = tmp_path / "model"
    folder.mkdir()
    index = {"weight_map": {"layer.0.weight": "../secret", "b": "missing.safetensors", "c": str(tmp_path / "secret")}}
    (folder / "a.safetensors.index.json").write_text(json.dumps(index))
    description = describe_path(folder / "a.safetensors.index.json")
    assert not any(tensor.dtype for tensor in description.tensors.values())
    assert "'../secret' is missing; 'missing.safetensors' is missing" in description.note


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {"a": 1}}', b"{" * 10_000]
)
def test_invalid_index_is_a_typed_error(content):
    with pytest.raises(ocikit.ContentError) as caught:
        described("model.safetensors.index.json", content)
    assert caught.value.hint


# GGUF


def read_by_library(content, tmp_path):
    path = tmp_path / "a.gguf"
    path.write_bytes(content)
    return gguf.GGUFReader(path)


@pytest.mark.parametrize("endian", list(gguf.GGUFEndian))
def test_gguf_has_the_keys_and_tensors_of_its_library(endian, tmp_path):
    content = gguf_file(endian=endian)
    description, theirs = described("a.gguf", content), read_by_library(content, tmp_path)
    assert {key for key in theirs.fields if not key.startswith("GGUF.")} == {
        key for key in description.metadata if not key.startswith("GGUF.")
    }
    ours = {name: (t.dtype, t.shape, t.size, t.offset) for name, t in description.tensors.items()}
    assert ours == {
        t.name: (t.tensor_type.name, tuple(map(int, t.shape)), int(t.n_bytes), int(t.data_offset))
        for t in theirs.tensors
    }
    assert description.metadata == {
        "GGUF.version": "3",
        "general.architecture": "llama",
        "general.name": "a small model",
        "llama.context_length": "4096",
        "llama.attention.layer_norm_rms_epsilon": "1e-05",
        "tokenizer.ggml.add_bos_token": "true",
        "sizes": "[1, 2, 3]",
        "words": "[a, b]",
    }


def test_vocabulary_of_150_000_tokens_is_skipped(tmp_path):
    content = gguf_file(tokens=150_000, merges=150_000)
    description = described("a.gguf", content)
    assert description.metadata["tokenizer.ggml.tokens"] == "150,000 strings"
    assert description.requests == 2
    theirs = read_by_library(content, tmp_path)
    assert [t.name for t in theirs.tensors] == list(description.tensors)


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def gguf_header(tensors=0, values=0, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


def pair(key, kind, raw):
    return text(key) + struct.pack("<I", kind) + raw


def tensor(name="a", shape=(8,), kind=0, offset=0):
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


NESTED = struct.pack("<IQ", 9, 1) * 10 + struct.pack("<IQ", 0, 1) + b"1"
FALSE = {
    "no magic number": b"GGUX" + bytes(40),
    "a cut header": b"GGUF\3\0",
    "an unknown version": gguf_header(version=99) + bytes(40),
    "2^60 tensors": gguf_header(tensors=1 << 60),
    "2^60 values": gguf_header(values=1 << 60),
    "a key of 2^60 bytes": gguf_header(values=1) + struct.pack("<Q", 1 << 60),
    "a string of 2^60 bytes": gguf_header(values=1) + pair("a", 8, struct.pack("<Q", 1 << 60)),
    "2^60 strings": gguf_header(values=1) + pair("a", 9, struct.pack("<IQ", 8, 1 << 60)),
    "2^60 numbers": gguf_header(values=1) + pair("a", 9, struct.pack("<IQ", 4, 1 << 60)),
    "2^60 arrays": gguf_header(values=1) + pair("a", 9, struct.pack("<IQ", 9, 1 << 60)),
    "nested arrays": gguf_header(values=1) + pair("a", 9, NESTED),
    "an unknown type": gguf_header(values=1) + pair("a", 77, bytes(40)),
    "an array of an unknown type": gguf_header(values=1) + pair("a", 9, struct.pack("<IQ", 77, 3) + bytes(40)),
    "a key twice": gguf_header(values=2) + pair("a", 0, b"1") * 2,
    "five dimensions": gguf_header(tensors=1) + tensor(shape=(1,) * 5),
    "a tensor after the file": gguf_header(tensors=1) + tensor(shape=(1 << 40,)) + bytes(64),
    "a tensor between places": gguf_header(tensors=1) + tensor(offset=3) + bytes(256),
    "a tensor twice": gguf_header(tensors=2) + tensor() * 2 + bytes(256),
    "half a block": gguf_header(tensors=1) + tensor(kind=2) + bytes(256),
    "an alignment of 0": gguf_header(values=1) + pair("general.alignment", 4, bytes(4)),
    "an alignment of 3": gguf_header(values=1) + pair("general.alignment", 4, b"\3\0\0\0"),
}


@pytest.mark.parametrize("case", FALSE)
def test_lying_header_of_gguf_is_a_typed_error(case):
    with pytest.raises(ocikit.ContentError, match="as gguf failed") as caught:
        described("a.gguf", FALSE[case])
    assert caught.value.hint


def test_tensor_of_an_unknown_type_has_no_size():
    found = described("a.gguf", gguf_header(tensors=1) + tensor(kind=99) + bytes(256)).tensors["a"]
    assert (found.dtype, found.size) == ("type 99", None)


# npy

ARRAYS = [
    np.zeros((3, 4)),
    np.zeros((), np.int8),
    np.zeros(0, "<U7"),
    np.zeros((2, 2), order="F", dtype=">f4"),
    np.zeros(5, "M8[ns]"),
    np.zeros(3, bool),
    np.zeros(2, [("a", "f8"), ("b", "i4", (2, 3)), ("c", [("d", "S5")])]),
    np.zeros(2, "c16"),
]


@pytest.mark.parametrize("case", range(len(ARRAYS)))
def test_npy_has_the_shape_of_numpy(case):
    array = ARRAYS[case]
    description = described("a.npy", npy_file(array))
    assert (description.kind, description.shape, description.requests) == ("array", array.shape, 1)
    assert len(description.dtype) < 80
    with pytest.raises(ocikit.ContentError, match="the file has"):
        described("a.npy", npy_file(np.zeros(5, array.dtype))[:-1])


@pytest.mark.parametrize("name", ["bool", "int8", "uint16", "float32", "float64", "complex128"])
def test_type_of_npy_is_named_as_in_numpy(name):
    assert described("a.npy", npy_file(np.zeros(2, name))).dtype == name


def test_npy_of_objects_runs_code():
    description = described("a.npy", npy_file(np.array([{}], object)))
    assert (description.dtype, description.shape, description.runs_code) == ("object", (1,), True)


def npy(text, version=1):
    raw = text.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(raw)) + raw


GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }"
BROKEN = {
    "no magic number": b"x" * 100,
    "an unknown version": npy(GOOD, version=9),
    "a cut header": npy(GOOD)[:30],
    "a header of 4 GiB": b"\x93NUMPY\2\0\xff\xff\xff\xff" + bytes(100),
    "a call": npy("__import__('os').system('id')"),
    "an expression": npy("{'descr': '<f8', 'shape': (2**9999,)}"),
    "deep nesting": npy("{'descr': " + "(" * 5000),
    "many signs": npy("{'shape': " + "-" * 9000 + "1}"),
    "no shape": npy("{'descr': '<f8'}"),
    "a shape of text": npy("{'descr': '<f8', 'shape': ('3',)}"),
    "an unknown type": npy("{'descr': 'nonsense', 'shape': (3,)}"),
    "a shape after the file": npy(GOOD.replace("3,", "9999999999999,")),
}


@pytest.mark.parametrize("case", BROKEN)
def test_lying_header_of_npy_is_a_typed_error(case):
    with pytest.raises(ocikit.ContentError, match="as npy failed") as caught:
        described("a.npy", BROKEN[case])
    assert caught.value.hint
