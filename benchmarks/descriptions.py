"""Bytes, requests and CPU of the description of a file in each format: python -m benchmarks.descriptions.

Each description is compared with what the library of the format reads from the whole file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import h5py  # type: ignore[import-untyped]  # has no types
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # has no types
import safetensors
from PIL import Image
from pyarrow import feather
from pyarrow import parquet as pq
from safetensors.numpy import save_file

import ocikit
from benchmarks.counting import CountingProxy
from ocikit import display

_ROUNDS = 5  # of which the least CPU time counts


def _write(folder: Path, rows: int) -> None:
    chance = np.random.default_rng(1)
    table = pa.table({"k": np.arange(rows), **{f"c{i}": chance.random(rows) for i in range(13)}})
    pq.write_table(table, folder / "a.parquet", row_group_size=50_000)
    feather.write_feather(table, folder / "a.arrow", chunksize=rows)
    layers = {f"layer.{i}": chance.random((512, 512), np.float32) for i in range(40)}
    save_file(layers, folder / "a.safetensors")
    names = list(layers)
    parts = {"p1.safetensors": names[:20], "p2.safetensors": names[20:]}
    for part, inside in parts.items():
        save_file({name: layers[name] for name in inside}, folder / part)
    index = {"weight_map": {name: part for part, inside in parts.items() for name in inside}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.save(folder / "a.npy", chance.random((1000, 1000)))
    np.savez(folder / "a.npz", x=chance.random((200_000, 20)))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for i in range(20_000):
            archive.writestr(f"folder/file-{i:06}.txt", b"x" * 500)
    with h5py.File(folder / "a.h5", "w") as root:
        root["a"] = chance.random((1000, 1000))
    for suffix in ("png", "jpeg", "tiff"):
        Image.fromarray(chance.integers(0, 255, (1000, 1500, 3), np.uint8)).save(folder / f"a.{suffix}")
    lines = "".join(f"{i},name {i},{i / 7:.6f},2024-05-{i % 28 + 1:02}\n" for i in range(rows))
    (folder / "a.csv").write_text("id,name,x,when\n" + lines)
    (folder / "a.csv.gz").write_bytes(gzip.compress(lines.encode(), 1))
    (folder / "a.jsonl").write_text("".join(json.dumps({"id": i, "x": i / 7}) + "\n" for i in range(rows)))
    (folder / "a.pkl").write_bytes(pickle.dumps(list(range(rows))))
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
        archive.writestr("archive/data/0", bytes(1 << 20))
    writer = gguf.GGUFWriter(folder / "a.gguf", "llama")
    tokens = 150_000
    writer.add_token_list([f"token {i}" for i in range(tokens)])
    writer.add_token_scores([0.5] * tokens)
    writer.add_token_types([1] * tokens)
    writer.add_token_merges([f"to{i} ken" for i in range(tokens)])
    for name, layer in list(layers.items())[:10]:
        writer.add_tensor(name, layer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _parquet(path: Path) -> tuple[Any, ...]:
    file = pq.ParquetFile(path)
    return file.metadata.num_rows, [(column.name, str(column.type)) for column in file.schema_arrow]


def _safetensors(path: Path) -> Any:
    with safetensors.safe_open(path, "np") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
        return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def _gguf(path: Path) -> tuple[Any, ...]:
    reader = gguf.GGUFReader(path)
    keys = {key for key in reader.fields if not key.startswith("GGUF.")}
    tensors = {t.name: (t.tensor_type.name, tuple(map(int, t.shape)), int(t.data_offset)) for t in reader.tensors}
    return keys, tensors


def _tensors(found: ocikit.Description) -> Any:
    return {name: (tensor.dtype, tensor.shape) for name, tensor in found.tensors.items()}


def _table(found: ocikit.Description) -> tuple[Any, ...]:
    return found.rows, [(column.name, column.type) for column in found.columns]


def _arrow(path: Path) -> tuple[Any, ...]:
    table = feather.read_table(path)
    return table.num_rows, [(column.name, str(column.type)) for column in table.schema]


def _npz(path: Path) -> Any:
    with np.load(path) as arrays:
        return {name: (str(array.dtype), array.shape) for name, array in arrays.items()}


def _keys(found: ocikit.Description) -> tuple[Any, ...]:
    keys = {key for key in found.metadata if not key.startswith("GGUF.")}
    return keys, {name: (t.dtype, t.shape, t.offset) for name, t in found.tensors.items()}


def _pixels(path: Path) -> tuple[int, ...]:
    return Image.open(path).size[::-1]


def _array(path: Path) -> tuple[str, tuple[int, ...]]:
    array = np.load(path)
    return str(array.dtype), array.shape


#: What a library reads from the whole file, and the same of a description.
_EQUAL: dict[str, tuple[Callable[[Path], Any], Callable[[ocikit.Description], Any]]] = {
    "a.parquet": (_parquet, _table),
    "a.arrow": (_arrow, _table),
    "a.safetensors": (_safetensors, _tensors),
    "model.safetensors.index.json": (lambda path: _safetensors(path.parent / "a.safetensors"), _tensors),
    "a.gguf": (_gguf, _keys),
    "a.npy": (_array, lambda found: (found.dtype, found.shape)),
    "a.npz": (_npz, _tensors),
    "a.zip": (
        lambda path: len(zipfile.ZipFile(path).namelist()),
        lambda found: int(found.metadata["members"].replace(",", "")),
    ),
    **{f"a.{suffix}": (_pixels, lambda found: found.shape) for suffix in ("png", "jpeg", "tiff")},
}


def _cpu(call: Callable[[], Any]) -> float:
    before = time.process_time()
    call()
    return time.process_time() - before


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000, help="of tables")
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as place, ocikit.serve() as server:
        folder = Path(place, "files")
        folder.mkdir()
        _write(folder, rows)
        with ocikit.Session(progress=False) as session:
            session.push(f"{server.host}/t/d:v1", f"{folder}/.")
        print(f"{'file':30}{'size':>10}{'requests':>9}{'bytes':>11}{'CPU':>9}{'library':>9}  content")
        with (
            CountingProxy(f"http://{server.host}") as proxy,
            ocikit.Session(progress=False, cache=Path(place, "cache")) as session,
        ):
            artifact = session.inspect(f"{proxy.host}/t/d:v1")
            for name in [*_EQUAL, "a.h5", "a.csv", "a.csv.gz", "a.jsonl", "a.pkl", "a.pt"]:
                file, before = artifact[name], proxy.count
                found = file.describe()
                after = proxy.count
                cpu = min(_cpu(file.describe) for _ in range(_ROUNDS))
                library = ""
                if name in _EQUAL:
                    read, same = _EQUAL[name]
                    library = f"{_cpu(partial(read, folder / name)) * 1000:6.0f} ms"
                    if read(folder / name) != same(found):
                        library += " differs"
                counts = f"{after.requests - before.requests:9}{after.received - before.received:11,}"
                summary = display.shorten(found.summary, 60)
                print(
                    f"{name:30}{display.size(file.size):>10}{counts}{cpu * 1000:6.1f} ms{library:>9}  {summary}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
