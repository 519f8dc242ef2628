"""The folder of a small model, and files with weights, made without the packages that usually write them."""

import json
import struct

from tests.support.home import write

CARD = """---
license: apache-2.0
language: [en, fr, zh-Hans]
library_name: transformers
datasets: [org/waves]
---
# Tiny
"""
CONFIG = {"architectures": ["TinyForCausalLM"], "model_type": "tiny", "n_positions": 128}


def safetensors(**shapes):
    """Return a safetensors file of zeros; a shape is that of float32, or a pair of type and shape."""
    header, at = {}, 0
    for name, shape in shapes.items():
        kind, shape = shape if isinstance(shape[0], str) else ("F32", shape)
        size = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}[kind]
        for n in shape:
            size *= n
        header[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(at)


def gguf(**metadata):
    """Return a GGUF file with metadata and one tensor of 64 × 32 zeros; "__" in a name stands for "."."""

    def text(value):
        return struct.pack("<Q", len(value.encode())) + value.encode()

    def value(item):
        return struct.pack("<II", 4, item) if isinstance(item, int) else struct.pack("<I", 8) + text(item)

    pairs = b"".join(text(key.replace("__", ".")) + value(item) for key, item in metadata.items())
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(metadata)) + pairs
    head += text("blk.0.weight") + struct.pack("<IQQIQ", 2, 64, 32, 1, 0)
    return head + bytes(-len(head) % 32) + bytes(64 * 32 * 2)


FILES = {
    "LICENSE": "Apache License",
    "README.md": CARD,
    "config.json": json.dumps(CONFIG),
    "data/train.csv": "a,b\n1,2\n",
    "model.safetensors": safetensors(weight=(500, 10), bias=(10,), positions=("I64", (4,))),
    "predict.py": "print(1)\n",
    "tokenizer.json": '{"version": "1.0"}',
}


def write_model(folder, **files):
    """Write the files of a model, and more or other ones, into a folder."""
    return write(folder, FILES | files)
