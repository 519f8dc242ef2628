"""The path class of universal_pathlib for `ocikit://`."""

from __future__ import annotations

from upath import UPath


class OcikitPath(UPath):  # type: ignore[misc]  # an optional package
    """A path of the file system `ocikit://`."""

    __slots__ = ()
