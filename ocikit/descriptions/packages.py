"""Packages that a format needs. They are imported on use."""

from __future__ import annotations

from ocikit.errors import OcikitError

_PYARROW = 15  # the oldest version of the extra `data`


def require_pyarrow(what: str) -> None:
    """Check that pyarrow is installed.

    Args:
        what: The call that needs it, for the message.

    Raises:
        OcikitError: It is missing.
    """
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # noqa: PLC0415 - a heavy package without types
    except ImportError as error:
        raise OcikitError(f"{what} needs pyarrow", hint="pip install 'ocikit[data]'") from error
    # Before 14.0.1, a schema could run code (CVE-2023-47248)
    if int(pa.__version__.partition(".")[0]) < _PYARROW:
        raise OcikitError(
            f"{what} needs pyarrow {_PYARROW}, and {pa.__version__} is installed", hint="pip install 'ocikit[data]'"
        )
