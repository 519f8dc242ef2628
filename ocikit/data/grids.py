"""Data sets and arrays of xarray, as NetCDF or as zarr."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from ocikit.client.artifact import File
from ocikit.data.arrays import write_zip
from ocikit.data.format import Format, Part, is_a, refused
from ocikit.data.packages import package

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
    xr = package("xarray", "a data set of xarray")
    package("zarr", "a data set as zarr")
    obj.to_zarr(path, mode="w", zarr_format=3, consolidated=True)
    opened = xr.open_zarr if is_a(obj, "xarray", "Dataset") else partial(xr.open_dataarray, engine="zarr")
    if not opened(path).load().identical(obj):
        raise refused("the data set", "zarr would not keep it as it is", "look at its types and attributes")


def _dump_zarr_zip(obj: Any, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ocikit-") as folder:
        root = Path(folder, "data.zarr")
        _dump_zarr(obj, root)
        files = [Path(base, name) for base, _, names in os.walk(root) for name in names]
        write_zip(path, {file.relative_to(root).as_posix(): file for file in files})


def _load_zarr(source: Any, name: str) -> Any:
    xr = package("xarray", "a data set of xarray")
    package("zarr", "a data set as zarr")
    opened = xr.open_zarr if name == "xarray.Dataset" else partial(xr.open_dataarray, engine="zarr")
    return opened(source).load()


def _load_zarr_folder(file: File, _part: Part, name: str) -> Any:
    folder = file.name.rpartition("/")[0]
    artifact = file.artifact
    layers = [layer for title, layer in artifact.manifest.named.files.items() if title.startswith(f"{folder}/")]
    root = artifact.reader.fetch_files(artifact.reference, artifact.manifest, layers)
    return _load_zarr(root / folder, name)


def _load_zarr_zip(file: File, _part: Part, name: str) -> Any:
    store = package("zarr.storage", "a data set as zarr").ZipStore(file.path, mode="r")
    try:
        return _load_zarr(store, name)
    finally:
        store.close()


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
            load=partial(_load_zarr_folder, name=kind),
            main=ROOT,
        )
        yield Format(
            **common,
            name="zarr.zip",
            ending=".zarr.zip",
            magic=(b"PK\x03\x04",),
            is_zip=True,
            dump=_dump_zarr_zip,
            load=partial(_load_zarr_zip, name=kind),
        )


def _matches(kind: str, obj: Any) -> bool:
    return is_a(obj, "xarray", kind.partition(".")[2])


#: The first one of an ending is its default.
FORMATS: Final = tuple(_formats())
