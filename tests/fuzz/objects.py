"""Saved objects: damaged files of every format but NetCDF, whose library in C is not made for hostile content."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
import ocikit
import pandas as pd
from ocikit.client.artifact import Artifact, File
from ocikit.data.codecs.format import Part
from ocikit.data.formats import formats_of, load_file
from ocikit.errors import OcikitError
from PIL import Image
from sklearn.linear_model import LogisticRegression

from tests.fuzz.target import message_is_safe, scratch, target
from tests.support.cards import artifact, data_manifest


class _Local(File):
    """A file of an artifact whose content is on disk already."""

    def __init__(self, of: Artifact, path: Path) -> None:
        super().__init__(of, path.name, ocikit.Descriptor.of(path.read_bytes(), "application/octet-stream"))
        self._local = path

    def download(self, *, progress=None) -> Path:
        return self._local

    def open(self, mode="rb", encoding="utf-8"):
        return self._local.open("rb")

    def read_bytes(self) -> bytes:
        return self._local.read_bytes()

    def head(self, size: int) -> bytes:
        return self.read_bytes()[:size]

    def ranges(self, spans) -> list[bytes]:
        return [self.read_bytes()[start : start + length] for start, length in spans]


def _seeds():
    frame = pd.DataFrame(
        {"a": pd.Categorical([2, 1]), "b": ["x", None]}, index=pd.date_range("2024", periods=2, freq="D")
    )
    objects = [
        *((frame, form) for form in ("parquet", "arrow")),
        (np.arange(6).reshape(2, 3), None),
        ({"a": np.eye(2)}, "npz"),
        ({"a": np.eye(2), "b": np.arange(3)}, None),
        (Image.new("RGB", (3, 4)), None),
        ({"a": [1, None, "é"]}, None),
        (LogisticRegression(), None),
    ]
    with scratch() as folder:
        for number, (obj, form) in enumerate(objects):
            chosen = formats_of(obj, form)[0]
            path = folder / f"{number}{chosen.ending}"
            chosen.write(obj, path)
            yield chosen.ending.encode() + b"\n" + path.read_bytes()


_ENDINGS = frozenset(".parquet .arrow .npy .npz .safetensors .png .json .skops".split())


@target(*_seeds(), text=False, examples=80)
def saved_object(data: bytes) -> None:
    """Load a damaged file, whole and in parts: an object, or a typed error with a safe message."""
    first, _, content = data.partition(b"\n")
    ending = first.decode("utf-8", "replace")
    with scratch() as folder, warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        path = folder / f"x{ending if ending in _ENDINGS else '.json'}"
        path.write_bytes(content)
        file = _Local(artifact(data_manifest()), path)
        for part in (Part(), Part(columns=("a",)), Part(rows=1)):
            try:
                load_file(file, part)
            except OcikitError as error:
                message_is_safe(error)
