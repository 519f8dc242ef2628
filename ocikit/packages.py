"""Optional packages, imported on use."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any, Final

from ocikit.errors import OcikitError

#: The distribution of each package, and the oldest version without known holes in what it reads here.
_PACKAGES: Final[Mapping[str, tuple[str, str]]] = {
    "PIL": ("pillow", "10.3"),
    "h5netcdf": ("h5netcdf", "1.3"),
    "matplotlib": ("matplotlib", "3.6"),
    "numpy": ("numpy", "1.26"),
    "pandas": ("pandas", "2"),
    "polars": ("polars", "1"),
    "pyarrow": ("pyarrow", "15"),  # before 14.0.1, files could run code (CVE-2023-47248)
    "safetensors": ("safetensors", "0.4"),
    "scipy": ("scipy", "1.11"),
    "skops": ("skops", "0.13"),  # before, files could run code (CVE-2025-54412, CVE-2025-54413, CVE-2025-54886)
    "torch": ("torch", "2"),
    "xarray": ("xarray", "2024.11"),  # the first one for zarr 3
    "zarr": ("zarr", "3"),
}

#: What to install instead of a distribution alone.
_EXTRAS: Final[Mapping[str, str]] = {"pyarrow": "ocikit[data]"}


def package(name: str, what: str) -> Any:
    """Return a module of an optional package.

    Args:
        name: The module, such as "pyarrow.parquet".
        what: What needs it, for the message: "a table as Parquet".

    Raises:
        OcikitError: It is not installed, or too old. The hint has the command that installs it.
    """
    root = name.partition(".")[0]
    distribution, floor = _PACKAGES[root]
    hint = f"pip install '{_EXTRAS.get(root, f'{distribution}>={floor}')}'"
    try:
        module = importlib.import_module(name)
        version = str(getattr(importlib.import_module(root), "__version__", floor))
    except ImportError as error:
        raise OcikitError(f"{what} needs {distribution}", hint=hint) from error
    if _numbers(version) < _numbers(floor):
        raise OcikitError(f"{what} needs {distribution} {floor} or newer, and {version} is installed", hint=hint)
    return module


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
