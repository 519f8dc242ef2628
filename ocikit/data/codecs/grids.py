"""Data sets and arrays of xarray, as NetCDF or as zarr."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from ocikit import display
from ocikit.client.artifact import File
from ocikit.data.codecs.arrays import write_zip
from ocikit.data.codecs.format import Format, Part, invalid, is_a, refused
from ocikit.packages import package

#: The codecs of zarr that only compress or reorder.
_CODECS: Final = frozenset(
    ["bytes", "blosc", "zstd", "gzip", "crc32c", "transpose", "sharding_indexed", "vlen-utf8", "vlen-bytes"]
)

#: The file of a zarr folder that stands for all of its files.
ROOT: Final = "zarr.json"


def _dump_netcdf(obj: Any, path: Path) -> None:
    xr = package("xarray", "a data set of xarray")
    package("h5netcdf", "a data set as NetCDF")
    obj.to_netcdf(path, engine="h5netcdf")
    opened = xr.load_dataset if is_a(obj, "xarray", "Dataset") else xr.load_dataarray
    back = opened(path, engine="h5netcdf")
    if not back.identical(obj):
        raise refused(
            "the data set",
            "NetCDF would not keep it as it is",
            'use format="zarr", or look at its types and attributes',
        )


def _load_netcdf(file: File, _part: Part, name: str) -> Any:
    xr = package("xarray", "a data set of xarray")
    package("h5netcdf", "a data set as NetCDF")
    return getattr(xr, name)(file.path, engine="h5netcdf")


def _dump_zarr(obj: Any, path: Path) -> None:
    package("zarr", "a data set as zarr")
    obj.to_zarr(path, mode="w", zarr_format=3, consolidated=False)
    if not _open_zarr(path, f"xarray.{type(obj).__name__}").identical(obj):
        raise refused("the data set", "zarr would not keep it as it is", "look at its types and attributes")


def _dump_zarr_zip(obj: Any, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ocikit-") as folder:
        root = Path(folder, "data.zarr")
        _dump_zarr(obj, root)
        files = [Path(base, name) for base, _, names in os.walk(root) for name in names]
        write_zip(path, {file.relative_to(root).as_posix(): file for file in files})


def _open_zarr(source: Any, kind: str) -> Any:
    xr = package("xarray", "a data set of xarray")
    package("zarr", "a data set as zarr")
    opened = xr.load_dataset if kind == "xarray.Dataset" else xr.load_dataarray
    # The format 3 only, because one of format 2 may have pickles
    return opened(source, engine="zarr", consolidated=False, zarr_format=3)


def _load_zarr_folder(file: File, _part: Part, kind: str) -> Any:
    folder = file.name.rpartition("/")[0]
    artifact = file.artifact
    layers = [layer for title, layer in artifact.manifest.named.files.items() if title.startswith(f"{folder}/")]
    root = artifact.reader.fetch_files(artifact.reference, artifact.manifest, layers) / folder
    for path in root.rglob(ROOT):
        _check_codecs(file, path.read_bytes())
    return _open_zarr(root, kind)


def _load_zarr_zip(file: File, _part: Part, kind: str) -> Any:
    with zipfile.ZipFile(file.path) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] == ROOT:
                _check_codecs(file, archive.read(name))
    store = package("zarr.storage", "a data set as zarr").ZipStore(file.path, mode="r")
    try:
        return _open_zarr(store, kind)
    finally:
        store.close()


def _check_codecs(file: File, raw: bytes) -> None:
    """Check that a zarr has known codecs, because the library imports others by their names.

    Raises:
        InvalidDocument: It has another one.
    """
    waiting = [json.loads(raw)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            codecs = value.get("codecs", [])
            names = [codec.get("name") if isinstance(codec, dict) else codec for codec in codecs]
            if unknown := [name for name in names if name not in _CODECS]:
                raise invalid(file, f"it has the codec {display.quoted(unknown[0])}, which is not opened")
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


# The formats


def _formats() -> Iterator[Format]:
    for kind, loader in (("xarray.Dataset", "load_dataset"), ("xarray.DataArray", "load_dataarray")):
        common: dict[str, Any] = {"kind": kind, "library": "xarray", "matches": partial(_matches, kind)}
        yield Format(
            **common,
            name="netcdf",
            ending=".nc",
            magic=(b"\x89HDF\r\n\x1a\n",),
            dump=_dump_netcdf,
            load=partial(_load_netcdf, name=loader),
        )
        yield Format(
            **common,
            name="zarr",
            ending=".zarr",
            dump=_dump_zarr,
            load=partial(_load_zarr_folder, kind=kind),
            main=ROOT,
        )
        yield Format(
            **common,
            name="zarr.zip",
            ending=".zarr.zip",
            magic=(b"PK\x03\x04",),
            is_zip=True,
            dump=_dump_zarr_zip,
            load=partial(_load_zarr_zip, kind=kind),
        )


def _matches(kind: str, obj: Any) -> bool:
    return is_a(obj, "xarray", kind.partition(".")[2])


#: The first one of an ending is its default.
FORMATS: Final = tuple(_formats())
