"""Files of each format, written by the libraries of the format, and the description of bytes."""

import io
import tempfile
import zipfile
from pathlib import Path

import gguf
import h5py
import numpy as np
import pyarrow as pa
from ocikit.descriptions.describe import describe
from PIL import Image
from pyarrow import feather, parquet
from safetensors.numpy import save

TABLE = pa.table({"k": pa.array(range(100_000), pa.int32()), "c": pa.array(map(float, range(100_000)))})


def described(name, content, **options):
    """Return the description of bytes; check the requests and bytes that it states."""
    requested = []

    def ranges(spans):
        requested.extend(spans)
        return [content[offset : offset + length] for offset, length in spans]

    description = describe(name, len(content), ranges, **options)
    assert description.requests == len(requested)
    assert description.bytes_read == sum(length for _, length in requested)
    return description


def parquet_file(table=TABLE, **options):
    file = io.BytesIO()
    parquet.write_table(table, file, **options)
    return file.getvalue()


def arrow_file(table=TABLE, **options):
    file = io.BytesIO()
    feather.write_feather(table, file, **options)
    return file.getvalue()


def npy_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tensors():
    return {f"layer.{i}.weight": np.full((100, 100 + i), i, np.float32) for i in range(40)}


def safetensors_file(arrays=None, metadata=None):
    return save(tensors() if arrays is None else arrays, metadata)


def gguf_file(tokens=0, arrays=None, endian=gguf.GGUFEndian.LITTLE, merges=0):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.gguf")
        writer = gguf.GGUFWriter(path, "llama", endianess=endian)
        writer.add_name("a small model")
        writer.add_context_length(4096)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_add_bos_token(True)
        writer.add_array("sizes", [1, 2, 3])
        writer.add_array("words", ["a", "b"])
        if tokens:
            writer.add_token_list([f"token{i}" for i in range(tokens)])
            writer.add_token_scores([0.5] * tokens)
            writer.add_token_types([1] * tokens)
        if merges:
            writer.add_token_merges([f"to{i} ken" for i in range(merges)])
        arrays = arrays or {"blk.0.w": np.zeros((64, 128), np.float32), "b": np.zeros(64, np.float16)}
        for name, array in arrays.items():
            writer.add_tensor(name, array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def npz_file(*, packed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def zip_file(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def hdf5_file(**options):
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        root["a"] = np.zeros((100, 100))
    return file.getvalue()


def picture_file(format, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, (320, 200)).save(file, format, **options)
    return file.getvalue()
