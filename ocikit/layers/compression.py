"""Compression of layers: detection by magic bytes, decoders, encoders. image-spec layer.md#gzip-media-types.

The specification names gzip and zstd, which layers are written with. Layers compressed with xz and bzip2 exist too, and
are read.
"""

from __future__ import annotations

import gzip
import importlib
import io
import re
import sys
import zlib
from typing import Any, Final, Protocol, cast

from ocikit.errors import OcikitError, UnsafeArchive

GZIP: Final = "gzip"
ZSTD: Final = "zstd"
XZ: Final = "xz"
BZIP2: Final = "bzip2"

MAGIC_SIZE: Final = 10  # bytes that detection needs

_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")  # a block, or the end of an empty stream
_XZ_MEMORY = 1 << 28  # bytes; xz -9 needs 65 MiB. A DoS: headers can declare dictionaries of 4 GiB


class Writable(Protocol):
    """A binary file that can be written to."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write bytes and return their number."""

    def flush(self) -> None:
        """Write buffered bytes."""


class Decoder(Protocol):
    """A decoder of one member, frame or stream with limited output; the interface of bz2, lzma and zstd."""

    @property
    def eof(self) -> bool:
        """Whether the member, frame or stream is complete."""

    @property
    def needs_input(self) -> bool:
        """Whether more input is needed for more output."""

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the member, frame or stream."""

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


class _Unxz:
    """An adapter of lzma's decompressor that rejects streams which need too much memory."""

    def __init__(self) -> None:
        lzma = _import_module("lzma", XZ)
        self._lzma = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
        self._error = lzma.LZMAError

    @property
    def eof(self) -> bool:
        return bool(self._lzma.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._lzma.unused_data)

    @property
    def needs_input(self) -> bool:
        return bool(self._lzma.needs_input)

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        try:
            return bytes(self._lzma.decompress(data, max_length))
        except self._error as error:
            if "emory usage limit" in str(error):
                raise UnsafeArchive(
                    f"the layer needs more than {_XZ_MEMORY >> 20} MiB of memory to decompress",
                    hint="compress it with xz -9 or less, or with zstd",
                ) from error
            raise


def detect_compression(prefix: bytes) -> str:
    """Return "gzip", "zstd", "xz", "bzip2", or "" for uncompressed data, by the first bytes.

    >>> detect_compression(bytes.fromhex("1f8b0800"))
    'gzip'
    """
    if prefix.startswith(b"\x1f\x8b"):
        return GZIP
    is_skippable = 0x50 <= (prefix or b"\0")[0] <= 0x5F and prefix[1:4] == b"\x2a\x4d\x18"
    if is_skippable or prefix.startswith(b"\x28\xb5\x2f\xfd"):
        return ZSTD
    if prefix.startswith(b"\xfd7zXZ\0"):
        return XZ
    return BZIP2 if _BZIP2.match(prefix) else ""


def new_decoder(compression: str) -> Decoder:
    """Return a new decoder of one gzip member, zstd frame, xz stream or bzip2 stream.

    Raises:
        OcikitError: The module for the compression is not installed.
    """
    if compression == GZIP:
        return _Inflate()
    if compression == XZ:
        return _Unxz()
    if compression == BZIP2:
        return cast("Decoder", _import_module("bz2", BZIP2).BZ2Decompressor())
    return cast("Decoder", import_zstd().ZstdDecompressor())


def decoding_errors(compression: str) -> tuple[type[Exception], ...]:
    """Return the exceptions that a decoder raises for corrupt data."""
    if compression == GZIP:
        return (zlib.error,)
    if compression == XZ:
        return (_import_module("lzma", XZ).LZMAError,)
    return (OSError, ValueError) if compression == BZIP2 else (import_zstd().ZstdError,)


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


def _import_module(name: str, compression: str) -> Any:
    """Return a module of the standard library that some builds of Python lack."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OcikitError(
            f"{compression} is needed for this layer, and this Python was built without it",
            hint=f"install a Python that has the module {name}",
        ) from error
