"""Packages that a format needs. They are imported on use."""

from __future__ import annotations

from ocikit.errors import OcikitError


def require_pyarrow(what: str) -> None:
    """Check that pyarrow is installed.

    Args:
        what: The call that needs it, for the message.

    Raises:
        OcikitError: It is missing.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: F401, PLC0415 - a heavy package without types
    except ImportError as error:
        raise OcikitError(f"{what} needs pyarrow", hint="pip install 'ocikit[data]'") from error
