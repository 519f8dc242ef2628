"""One layer: its bytes uncompressed, its entries, its limits. image-spec layer.md."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

import attrs
from attrs import frozen

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.layers import compression
from ocikit.layers.tar import CHUNK, EntryBody, Readable, TarEntry, members

_DRIVE = re.compile(r"[A-Za-z]:(\\|$)")
_COMPRESSED_CHUNK = 1 << 18  # bytes read at once; a quarter of what is handed on, as it grows when decompressed


@frozen(kw_only=True)
class LayerLimits:
    """What an archive may cost. All layers of one call count together, except for `ratio`."""

    size: int = 1 << 40
    """Bytes, unpacked. 1 TiB: above any image and all but the largest data sets, below what fills a storage system."""
    entries: int = 2_000_000
    """Files, folders and links. ImageNet has 1.4 million; what is known of a folder takes half a kilobyte of memory."""
    ratio: int = 1000
    """Unpacked bytes for one compressed byte, once 100 MiB are unpacked. Gzip itself ends at 1032, with zeros only."""
    depth: int = 128
    """Folders in folders. Twice the deepest trees of nested packages; deeper ones break other programs."""
    path: int = 4096
    """Bytes of a path: Linux' PATH_MAX."""
    name: int = 255
    """Bytes of one name in it: NAME_MAX."""


#: Bytes unpacked before the ratio counts: small archives of text may well reach it.
RATIO_FLOOR: Final = 100 << 20


class Budget:
    """What is left of the limits."""

    def __init__(self, limits: LayerLimits) -> None:
        self.limits = limits
        self.bytes = 0
        self.entries = 0
        self.path = ""  # the entry under way, for messages

    def spend(self, count: int) -> None:
        """Count bytes. Raises: UnsafeArchive."""
        self.bytes += count
        if self.bytes > self.limits.size:
            raise UnsafeArchive(
                f"the archive unpacks to more than {display.size(self.limits.size)}{self._at()}",
                hint="if you trust it, raise Limits(size=…)",
            )

    def next(self, entry: TarEntry, body: EntryBody) -> None:
        """Count an entry, and the bytes that it declares. Raises: UnsafeArchive."""
        self.path = entry.path
        self.entries += 1
        if self.entries > self.limits.entries:
            raise UnsafeArchive(
                f"the archive has more than {self.limits.entries} entries{self._at()}",
                hint="if you trust it, raise Limits(entries=…)",
            )
        if self.bytes + entry.size > self.limits.size:
            raise UnsafeArchive(
                f"{entry.path!r} declares {display.size(entry.size)}: with the rest more than the limit of "
                f"{display.size(self.limits.size)}",
                hint="if you trust it, raise Limits(size=…)",
            )
        self.spend(entry.size - sum(length for _, length in body.segments))  # holes cost no bytes of the archive

    def ratio(self, packed: int, unpacked: int) -> None:
        """Compare what came out with what went in. Raises: UnsafeArchive."""
        if unpacked > RATIO_FLOOR and unpacked > packed * self.limits.ratio:
            raise UnsafeArchive(
                f"the archive grows more than {self.limits.ratio}-fold when it is unpacked{self._at()}",
                hint="if you trust it, raise Limits(ratio=…)",
            )

    def _at(self) -> str:
        return f", at {self.path!r}" if self.path else ""


class _Layer(io.BufferedIOBase):
    """The uncompressed bytes of a layer. Gzip may have several members and zstd several frames."""

    def __init__(self, stream: Readable, compressed: str, head: bytes, budget: Budget) -> None:
        self._stream = stream
        self._compression = compressed
        self._input = head
        self._budget = budget
        self._decoder: compression.Decoder | None = None
        self._packed = len(head)
        self._members = 0
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            return b"".join(iter(lambda: self.read(CHUNK), b""))
        piece = self._decoded(size) if self._compression else self._plain(size)
        self._unpacked += len(piece)
        self._budget.spend(len(piece))
        if self._compression:
            self._budget.ratio(self._packed, self._unpacked)
        return piece

    def read1(self, size: int = -1, /) -> bytes:
        return self.read(CHUNK if size < 0 else size)

    def _plain(self, size: int) -> bytes:
        if self._input:
            piece, self._input = self._input[:size], self._input[size:]
            return piece
        return self._stream.read(size)

    def _decoded(self, size: int) -> bytes:
        while size:
            ended = False
            if not self._input and (self._decoder is None or self._decoder.needs_input):
                self._input = self._stream.read(_COMPRESSED_CHUNK)
                self._packed += len(self._input)
                ended = not self._input
            if self._decoder is None:
                if ended:
                    return b""
                if not self._next_member():
                    continue
            piece = self._decompress(size)
            if piece:
                return piece
            if ended and self._decoder is not None:
                raise ContentError(
                    f"the layer ends in the middle of its {self._compression} data",
                    hint="it was cut short; fetch it again",
                )
        return b""

    def _next_member(self) -> bool:
        if self._members:
            self._input = self._input.lstrip(b"\0")  # tapes and some tools pad with zeros
            if not self._input:
                return False
            if len(self._input) < compression.HEAD:
                more = self._stream.read(_COMPRESSED_CHUNK)
                self._packed += len(more)
                self._input += more
            if compression.compression_of(self._input) != self._compression:
                raise ContentError(
                    f"the layer has other data after its {self._compression} data",
                    hint="ask its publisher for a new one",
                )
        self._decoder = compression.decoder(self._compression)
        self._members += 1
        return True

    def _decompress(self, size: int) -> bytes:
        decoder = cast("compression.Decoder", self._decoder)
        data, self._input = self._input, b""
        try:
            piece = decoder.decompress(data, size)
        except compression.decoding_errors(self._compression) as error:
            raise ContentError(
                f"the layer's {self._compression} data is damaged: {error}",
                hint="check whether its digest is what the manifest says",
            ) from error
        if decoder.eof:
            self._input, self._decoder = decoder.unused_data, None
        return piece


def open_layer(
    stream: Readable, media_type: str = "", *, limits: LayerLimits | None = None, budget: Budget | None = None
) -> BinaryIO:
    """The tar of a layer, uncompressed while it is read.

    Args:
        stream: the blob; not closed.
        media_type: what the manifest says, for messages: compression is told by the first bytes, as types may lie.
        limits: of size and ratio.
        budget: instead of limits, if several layers count together.
    Raises:
        ContentError: on reading, if the data is damaged or cut short.
        UnsafeArchive: on reading, beyond a limit.
    """
    head = b""
    while len(head) < compression.HEAD and (more := stream.read(compression.HEAD - len(head))):
        head += more
    try:
        compressed = compression.compression_of(head)
    except ContentError as error:
        raise ContentError(f"{error.message} ({media_type or 'type unknown'})", hint=error.hint) from None
    return cast("BinaryIO", _Layer(stream, compressed, head, budget or Budget(limits or LayerLimits())))


def entries(stream: Readable, media_type: str = "", *, limits: LayerLimits | None = None) -> Iterator[TarEntry]:
    """What a layer has, in its own order, whiteouts too; the content is passed over.

    Raises:
        ContentError, UnsafeArchive: as unpacking would, for damaged layers and unsafe names.
    """
    budget = Budget(limits or LayerLimits())
    for entry, body in members(open_layer(stream, media_type, budget=budget)):
        budget.next(entry, body)
        path = "/".join(check_name(entry.path, budget.limits))
        yield entry if entry.path == path else attrs.evolve(entry, path=path)


def check_name(name: str, limits: LayerLimits, what: str = "") -> tuple[str, ...]:
    """The names of a path in an archive, none for the root itself. Raises: UnsafeArchive: naming the entry."""
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    problem = ""
    if name.startswith("/"):
        problem = "is an absolute path"
    elif ".." in parts:
        problem = 'has ".." in it'
    elif "\0" in name:
        problem = "has a NUL in it"
    elif parts and _DRIVE.match(parts[0]):
        problem = "starts with a drive letter"
    elif not name:
        problem = "is empty"
    elif len(parts) > limits.depth:
        problem = f"is {len(parts)} folders deep; the limit is {limits.depth}"
    elif len(name) > limits.path // 4 and len(raw := name.encode("utf-8", "surrogateescape")) > limits.path:
        problem = f"is {len(raw)} bytes long; the limit is {limits.path}"
    elif len(name) > limits.name // 4:
        longest = max((len(part.encode("utf-8", "surrogateescape")) for part in parts), default=0)
        problem = f"has a name of {longest} bytes; the limit is {limits.name}" if longest > limits.name else ""
    if problem:
        raise UnsafeArchive(
            f"{what or 'the path'} {display.shorten(name, 200)!r} {problem}",
            hint="paths in a layer are relative to its root and stay below it",
        )
    return parts


def escapes(depth: int, target: str) -> bool:
    """Whether a symlink in a folder `depth` below the root might lead out of it, whatever the other links are.

    ".." may only come first: after a name that is itself a link, it would be relative to where that link leads.
    """
    parts = [part for part in target.split("/") if part not in {"", "."}]
    ups = next((i for i, part in enumerate(parts) if part != ".."), len(parts))
    return target.startswith("/") or ups > depth or ".." in parts[ups:]
