"""Compression of layers: detection by magic bytes, decoders, encoders. image-spec layer.md#gzip-media-types."""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import zlib
from typing import Any, Final, Protocol, cast

from ocikit.errors import ContentError, OcikitError

GZIP: Final = "gzip"
ZSTD: Final = "zstd"

#: Formats that the specification does not allow, known so that the error can name them.
_UNSUPPORTED: Final = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}

MAGIC_SIZE: Final = 6  # bytes that detection needs


class Writable(Protocol):
    """A binary file that can be written to."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write bytes and return their number."""

    def flush(self) -> None:
        """Write buffered bytes."""


class Decoder(Protocol):
    """A decoder of one gzip member or zstd frame with limited output; the interface of bz2 and zstd."""

    @property
    def eof(self) -> bool:
        """Whether the member or frame is complete."""

    @property
    def needs_input(self) -> bool:
        """Whether more input is needed for more output."""

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the member or frame."""

    def decompress(self, data: bytes, /, max_length: int = ...) -> bytes:
        """Return at most `max_length` decompressed bytes."""


class _Inflate:
    """An adapter of zlib's decompressor to the `Decoder` interface."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)  # expects a gzip header and verifies the checksum
        self._tail = b""

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._tail and not self._zlib.eof

    def decompress(self, data: bytes, /, max_length: int = 0) -> bytes:
        output = self._zlib.decompress(self._tail + data if self._tail else data, max_length)
        self._tail = self._zlib.unconsumed_tail
        return output


def detect_compression(prefix: bytes) -> str:
    """Return "gzip", "zstd", or "" for uncompressed data, by the first bytes.

    >>> detect_compression(bytes.fromhex("1f8b0800"))
    'gzip'

    Raises:
        ContentError: The data has a compression that layers cannot have.
    """
    if prefix.startswith(b"\x1f\x8b"):
        return GZIP
    is_skippable = 0x50 <= (prefix or b"\0")[0] <= 0x5F and prefix[1:4] == b"\x2a\x4d\x18"
    if is_skippable or prefix.startswith(b"\x28\xb5\x2f\xfd"):
        return ZSTD
    for magic, name in _UNSUPPORTED.items():
        if prefix.startswith(magic):
            raise ContentError(
                f"the layer is compressed with {name}", hint="image layers are plain, gzip or zstd; fetch it as a file"
            )
    return ""


def new_decoder(compression: str) -> Decoder:
    """Return a new decoder of one gzip member or zstd frame.

    Raises:
        OcikitError: zstd is not installed.
    """
    return _Inflate() if compression == GZIP else cast("Decoder", import_zstd().ZstdDecompressor())


def decoding_errors(compression: str) -> tuple[type[Exception], ...]:
    """Return the exceptions that a decoder raises for corrupt data."""
    return (zlib.error,) if compression == GZIP else (import_zstd().ZstdError,)


def open_encoder(compression: str, sink: Writable, level: int | None = None) -> io.BufferedIOBase:
    """Open a file that compresses into `sink`; the output is reproducible.

    Args:
        compression: "gzip" or "zstd".
        sink: Receives the compressed data; closing the encoder ends the data and leaves `sink` open.
        level: Compression level; 6 for gzip and 3 for zstd by default.

    Raises:
        OcikitError: zstd is not installed.
    """
    if compression == ZSTD:
        return cast("io.BufferedIOBase", import_zstd().ZstdFile(sink, "wb", level=level))
    return gzip.GzipFile("", "wb", 6 if level is None else level, sink, mtime=0)


def import_zstd() -> Any:
    """Return the zstd module: `compression.zstd` or `backports.zstd`.

    Raises:
        OcikitError: zstd is not installed; the hint has the command.
    """
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as error:
        raise OcikitError(
            "zstd is needed for this layer and is not installed", hint="pip install ocikit[zstd]"
        ) from error
