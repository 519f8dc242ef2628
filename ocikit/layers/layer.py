"""One layer: its uncompressed bytes, its entries, its limits. image-spec layer.md."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Final

import attrs
from attrs import frozen

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.layers import compression
from ocikit.layers.tar import CHUNK, EntryBody, Readable, TarEntry, clean_names, members
from ocikit.spec.digest import Hasher

_DRIVE = re.compile(r"[A-Za-z]:(\\|$)")
_COMPRESSED_CHUNK = 1 << 18  # bytes read at once; smaller than CHUNK because the data grows


@frozen(kw_only=True)
class LayerLimits:
    """Limits against zip bombs. All layers of one call count together, except for `ratio`.

    >>> ocikit.LayerLimits(entries=1000, size=1 << 30).ratio
    1000
    """

    size: int = 1 << 40
    """Bytes, unpacked. 1 TiB is more than any image and most data sets, and less than fills a storage system."""
    entries: int = 2_000_000
    """Files, folders and links. ImageNet has 1.4 million; a folder takes half a kilobyte of memory."""
    ratio: int = 1000
    """Unpacked bytes per compressed byte, above 100 MiB unpacked. Gzip's maximum is 1032, for zeros only."""
    depth: int = 128
    """Nested folders. The deepest trees of nested packages have half of that; deeper trees break other programs."""
    path: int = 4096
    """Bytes of a path; PATH_MAX of Linux."""
    name: int = 255
    """Bytes of one name in a path; NAME_MAX."""


#: Bytes unpacked before the ratio is checked: small text archives may have a high ratio.
RATIO_FLOOR: Final = 100 << 20


class Budget:
    """Usage of the limits so far.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: LayerLimits) -> None:
        self.limits = limits
        self.bytes = 0
        self.entries = 0
        self.path = ""
        """The current entry, for messages."""

    def spend(self, count: int) -> None:
        """Count unpacked bytes.

        Raises:
            UnsafeArchive: The size limit is exceeded.
        """
        self.bytes += count
        if self.bytes > self.limits.size:
            raise UnsafeArchive(
                f"the archive unpacks to more than {display.size(self.limits.size)}{self._location()}",
                hint="if you trust it, raise LayerLimits(size=…)",
            )

    def count_entry(self, entry: TarEntry, body: EntryBody) -> None:
        """Count an entry and its declared bytes.

        Raises:
            UnsafeArchive: The entry or size limit is exceeded.
        """
        self.path = entry.path
        self.entries += 1
        if self.entries > self.limits.entries:
            raise UnsafeArchive(
                f"the archive has more than {self.limits.entries} entries{self._location()}",
                hint="if you trust it, raise LayerLimits(entries=…)",
            )
        if self.bytes + entry.size > self.limits.size:
            raise UnsafeArchive(
                f"{entry.path!r} declares {display.size(entry.size)}: with the rest more than the limit of "
                f"{display.size(self.limits.size)}",
                hint="if you trust it, raise LayerLimits(size=…)",
            )
        # Stored bytes are counted when they are read; holes have no bytes in the archive
        self.spend(entry.size - sum(length for _, length in body.segments))

    def check_ratio(self, compressed: int, unpacked: int) -> None:
        """Check the compression ratio of one layer.

        Raises:
            UnsafeArchive: The ratio limit is exceeded.
        """
        if unpacked > RATIO_FLOOR and unpacked > compressed * self.limits.ratio:
            raise UnsafeArchive(
                f"the archive grows more than {self.limits.ratio}-fold when it is unpacked{self._location()}",
                hint="if you trust it, raise LayerLimits(ratio=…)",
            )

    def _location(self) -> str:
        return f", at {self.path!r}" if self.path else ""


class _LayerReader(io.BufferedIOBase):
    """The uncompressed bytes of a layer. Compressed data may have several members, frames or streams."""

    def __init__(self, stream: Readable, compressed: str, prefix: bytes, budget: Budget, hasher: Hasher | None) -> None:
        self._stream = stream
        self._hasher = hasher
        self._compression = compressed
        self._input = prefix
        self._budget = budget
        self._decoder: compression.Decoder | None = None
        self._compressed_size = len(prefix)
        self._members = 0
        self._unpacked_size = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        chunk = self._read_decoded(size) if self._compression else self._read_plain(size)
        self._unpacked_size += len(chunk)
        if self._hasher is not None:
            self._hasher.update(chunk)
        self._budget.spend(len(chunk))
        if self._compression:
            self._budget.check_ratio(self._compressed_size, self._unpacked_size)
        return chunk

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(CHUNK if size < 0 else size)

    def _read_plain(self, size: int) -> bytes:
        if self._input:
            chunk, self._input = self._input[:size], self._input[size:]
            return chunk
        return self._stream.read(size)

    def _read_decoded(self, size: int) -> bytes:
        while size:
            ended = False
            if not self._input and (self._decoder is None or self._decoder.needs_input):
                self._read_more()
                ended = not self._input
            if self._decoder is None:
                if ended:
                    return b""
                self._decoder = self._next_decoder()
                if self._decoder is None:
                    continue
            chunk = self._decompress(self._decoder, size)
            if chunk:
                return chunk
            if ended and self._decoder is not None:
                raise ContentError(
                    f"the layer ends in the middle of its {self._compression} data",
                    hint="it was cut short; fetch it again",
                )
        return b""

    def _read_more(self) -> None:
        data = self._stream.read(_COMPRESSED_CHUNK)
        self._compressed_size += len(data)
        self._input += data

    def _next_decoder(self) -> compression.Decoder | None:
        """Return a decoder for the next member or frame; None for padding."""
        if self._members:
            self._input = self._input.lstrip(b"\0")  # tapes and some tools pad with zeros
            if not self._input:
                return None
            size = 0
            while size < len(self._input) < compression.MAGIC_SIZE:
                size = len(self._input)
                self._read_more()
            if compression.detect_compression(self._input) != self._compression:
                raise ContentError(
                    f"the layer has other data after its {self._compression} data",
                    hint="ask its publisher for a new one",
                )
        self._members += 1
        return compression.new_decoder(self._compression)

    def _decompress(self, decoder: compression.Decoder, size: int) -> bytes:
        data, self._input = self._input, b""
        try:
            chunk = decoder.decompress(data, size)
        except compression.decoding_errors(self._compression) as error:
            raise ContentError(
                f"the layer's {self._compression} data is damaged: {error}",
                hint="check that its digest is the one in the manifest",
            ) from error
        if decoder.eof:
            self._input, self._decoder = decoder.unused_data, None
        return chunk


def open_layer(
    stream: Readable,
    *,
    limits: LayerLimits | None = None,
    budget: Budget | None = None,
    hasher: Hasher | None = None,
) -> io.BufferedIOBase:
    """Open the uncompressed tar of a layer.

    Compression is detected by the first bytes, because media types can be wrong. Reads raise ContentError for damaged
    or truncated data and UnsafeArchive beyond a limit.

    Args:
        stream: The blob; it is not closed.
        limits: The limits of size and ratio.
        budget: Used instead of `limits` if several layers count together.
        hasher: Is updated with the uncompressed bytes that are read.
    """
    prefix = b""
    while len(prefix) < compression.MAGIC_SIZE and (more := stream.read(compression.MAGIC_SIZE - len(prefix))):
        prefix += more
    compressed = compression.detect_compression(prefix)
    return _LayerReader(stream, compressed, prefix, budget or Budget(limits or LayerLimits()), hasher)


def entries(stream: Readable, media_type: str = "", *, limits: LayerLimits | None = None) -> Iterator[TarEntry]:
    """Yield the entries of a layer in order, including whiteouts; paths are relative to the root.

    Args:
        stream: The blob; it is not closed.
        media_type: The type in the manifest, for messages.
        limits: The limits of the layer.

    Raises:
        ContentError: The layer is damaged.
        UnsafeArchive: The layer exceeds a limit.
    """
    budget = Budget(limits or LayerLimits())
    for entry, body in members(open_layer(stream, budget=budget), media_type):
        budget.count_entry(entry, body)
        path = "/".join(resolve_path(entry.path, budget.limits))
        yield entry if entry.path == path else attrs.evolve(entry, path=path)


def check_path(path: str, limits: LayerLimits) -> tuple[str, ...]:
    """Return the names of a path in a data archive, empty for the root.

    Raises:
        UnsafeArchive: The path could leave the root (path traversal), is empty, or exceeds a limit.
    """
    names = tuple(name for name in path.split("/") if name not in {"", "."})
    problem = ""
    if path.startswith("/"):
        problem = "is an absolute path"
    elif ".." in names:
        problem = 'has ".." in it'
    elif names and _DRIVE.match(names[0]):
        problem = "starts with a drive letter"
    elif not path:
        problem = "is empty"
    if problem:
        raise _unsafe_path(path, problem)
    return _check_lengths(path, names, limits)


def resolve_path(path: str, limits: LayerLimits) -> tuple[str, ...]:
    """Return the names of a path in an image layer, from the root of the image.

    Like after a chroot, "/" is the root of the image, and ".." stays below it. Builders write such names: kaniko has an
    entry "/", and ko and distroless images have absolute paths. umoci and docker clean names in the same way, before
    they follow links.

    Raises:
        UnsafeArchive: The path exceeds a limit.
    """
    return _check_lengths(path, clean_names(path), limits)


def _check_lengths(path: str, names: tuple[str, ...], limits: LayerLimits) -> tuple[str, ...]:
    problem = ""
    if "\0" in path:
        problem = "has a NUL in it"
    elif len(names) > limits.depth:
        problem = f"is {len(names)} folders deep; the limit is {limits.depth}"
    elif len(path) > limits.path // 4 and len(raw := path.encode("utf-8", "surrogateescape")) > limits.path:
        problem = f"is {len(raw)} bytes long; the limit is {limits.path}"
    elif len(path) > limits.name // 4:
        longest = max((len(name.encode("utf-8", "surrogateescape")) for name in names), default=0)
        problem = f"has a name of {longest} bytes; the limit is {limits.name}" if longest > limits.name else ""
    if problem:
        raise _unsafe_path(path, problem)
    return names


def _unsafe_path(path: str, problem: str) -> UnsafeArchive:
    return UnsafeArchive(
        f"the path {display.shorten(path, 200)!r} {problem}",
        hint="paths in an archive of data are relative to its root, stay below it and have limits of length",
    )


def escapes(depth: int, target: str) -> bool:
    """Return True if a symlink could lead out of the root, given any other links.

    ".." is safe only at the start: after the name of another link it would be relative to the target of that link.

    Args:
        depth: The depth of the symlink's folder below the root.
        target: The target of the symlink.
    """
    parts = [part for part in target.split("/") if part not in {"", "."}]
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return target.startswith("/") or ups > depth or ".." in parts[ups:]
