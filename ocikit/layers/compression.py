"""Compression of layers: told by the first bytes, undone in a stream. image-spec layer.md#gzip-media-types."""

from __future__ import annotations

import importlib
import sys
import zlib
from typing import Any, BinaryIO, Final, Protocol, cast

from ocikit.errors import ContentError, OcikitError

GZIP: Final = "gzip"
ZSTD: Final = "zstd"

#: Known so that the error can name them; the specification has neither.
_OTHERS: Final = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}

HEAD: Final = 6  # bytes that tell


class Decoder(Protocol):
    """What undoes one member or frame, with limited output; the interface of bz2 and zstd."""

    @property
    def eof(self) -> bool:
        """Whether the member or frame is complete."""

    @property
    def needs_input(self) -> bool:
        """Whether there is no more output without more input."""

    @property
    def unused_data(self) -> bytes:
        """Input after the end of the member or frame."""

    def decompress(self, data: bytes, /, max_length: int = ...) -> bytes:
        """At most `max_length` bytes of what the data holds."""


class _Inflate:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)  # a gzip header, and its checksum verified
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
        out = self._zlib.decompress(self._tail + data if self._tail else data, max_length)
        self._tail = self._zlib.unconsumed_tail
        return out


def compression_of(head: bytes) -> str:
    """What the first bytes are compressed with: "gzip", "zstd", or "" for not at all.

    >>> compression_of(bytes.fromhex("1f8b0800"))
    'gzip'

    Raises:
        ContentError: for a compression that layers can't have.
    """
    if head.startswith(b"\x1f\x8b"):
        return GZIP
    if head.startswith(b"\x28\xb5\x2f\xfd") or (0x50 <= (head or b"\0")[0] <= 0x5F and head[1:4] == b"\x2a\x4d\x18"):
        return ZSTD  # a frame, or one to skip
    for magic, name in _OTHERS.items():
        if head.startswith(magic):
            raise ContentError(
                f"the layer is compressed with {name}", hint="image layers are plain, gzip or zstd; fetch it as a file"
            )
    return ""


def decoder(compression: str) -> Decoder:
    """A fresh decoder of one gzip member or zstd frame."""
    if compression == GZIP:
        return _Inflate()
    made: Decoder = zstd().ZstdDecompressor()
    return made


def decoding_errors(compression: str) -> tuple[type[Exception], ...]:
    """What a decoder raises for damaged data."""
    return (zlib.error,) if compression == GZIP else (zstd().ZstdError,)


def encoder(compression: str, sink: BinaryIO, level: int | None = None) -> BinaryIO:
    """A file that compresses what is written into `sink`: the same bytes for the same content, whatever the time.

    Closing it ends the compressed data and leaves the sink open. Raises: OcikitError: if zstd isn't installed.
    """
    if compression == ZSTD:
        made: BinaryIO = zstd().ZstdFile(sink, "wb", level=level)
        return made
    import gzip  # noqa: PLC0415 - only who packs needs it

    return cast("BinaryIO", gzip.GzipFile("", "wb", 6 if level is None else level, sink, mtime=0))


def zstd() -> Any:
    """The module for zstd: the standard library's since Python 3.14, else `backports.zstd`.

    Raises:
        OcikitError: if there is none, with what to install.
    """
    try:
        return importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as error:
        raise OcikitError(
            "zstd is needed for this layer and is not installed", hint="pip install ocikit[zstd]"
        ) from error
