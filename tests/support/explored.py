"""Files of many formats, for previews."""

import json
import struct
import zlib
from pathlib import Path

README = """---
license: mit
tags: [waves]
---
# Waves

Sines of **several** frequencies, with `t` and `y`.

| column | unit |
|---|---|
| t | s |
| y | m |

- measured in 2026
- see [the project](https://example.org/waves)
"""

SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="120" height="60" viewBox="0 0 120 60">
<rect width="120" height="60" rx="8" fill="#0969da"/><circle cx="30" cy="30" r="18" fill="#fff"/></svg>
"""


def picture(width: int, height: int = 0) -> bytes:
    """Return a PNG of a given size in pixels."""
    height = height or width

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(
        b"\0" + b"".join(bytes((x * 4 % 256, y * 4 % 256, 128)) for x in range(width)) for y in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def notebook(*cells: tuple[str, str, str]) -> bytes:
    """Return a notebook of cells, each given by its kind, source and printed output."""
    made = []
    for kind, source, printed in cells:
        cell = {"cell_type": kind, "metadata": {}, "source": source.splitlines(keepends=True)}
        if kind == "code":
            output = {"output_type": "stream", "name": "stdout", "text": [printed]}
            cell |= {"execution_count": 1, "outputs": [output] if printed else []}
        made.append(cell)
    return json.dumps({"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def write_files(folder: Path) -> None:
    """Write a file of each format that has a preview."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(README)
    (folder / "logo.svg").write_text(SVG)
    (folder / "plot.png").write_bytes(picture(320, 120))
    (folder / "sine.csv").write_text("t,y,station\n" + "".join(f"{i},{i * 7 % 10 / 3:.4f},north\n" for i in range(50)))
    (folder / "notes.json").write_text(json.dumps({"made": "2026", "by": ["ada", "bob"]}))
    (folder / "raw.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "look.ipynb").write_bytes(
        notebook(
            ("markdown", "# Look\nat the **waves**", ""),
            ("code", "import ocikit\nprint(1 + 1)", "2\n"),
            ("raw", "raw", ""),
        )
    )
    rows = pa.table(
        {
            "station": [f"S{n % 17:03}" for n in range(5000)],
            "height": np.round(np.sin(np.arange(5000) / 50), 4),
            "depth": pa.array([None if n % 9 == 0 else n % 40 for n in range(5000)], pa.int32()),
        }
    )
    pq.write_table(rows, folder / "stations.parquet")
    np.save(folder / "grid.npy", np.arange(12, dtype="float32").reshape(3, 4))
    save_file({f"layer.{n}.weight": np.zeros((16, 32), "float32") for n in range(3)}, str(folder / "model.safetensors"))
