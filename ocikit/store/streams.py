"""Byte streams: the protocol that sources and stores use, wrappers, and verified reading."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Protocol, Self

from ocikit.errors import InvalidArgument, InvalidDocument, SizeMismatch
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.document import DOCUMENT_LIMIT

_READALL = 16 << 20  # bytes that are read at once, if there is no limit: a descriptor may claim any size

Span = tuple[int, int]
"""Positions of the first byte, and of the one after the last."""


class ReadableInto(Protocol):
    """A stream that fills buffers of the caller."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` and return the number of bytes, 0 at the end."""


class ByteStream(ReadableInto, Protocol):
    """A readable binary stream with `readinto`, seekable where the medium allows it.

    Files opened with `"rb"`, `io.BytesIO`, `VerifiedReader` and the readers of registries are such streams.
    """

    def read(self, size: int = ..., /) -> bytes:
        """Return at most `size` bytes, or the rest without a size."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Move to an offset and return the position, in bytes."""

    def tell(self) -> int:
        """Return the position, in bytes."""

    def seekable(self) -> bool:
        """Return True if `seek` works."""

    def close(self) -> None:
        """Close the stream."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class LocalFile(io.RawIOBase):
    """A file on disk that is read at its own position, unbuffered.

    The position of an open file belongs to the system, which shares it with forked processes: reads of one process would
    skip bytes in the others. So reads name their position.

    Args:
        file: The open file, closed with the stream.
        name: Path of the file, for messages.
    """

    def __init__(self, file: io.FileIO, name: str) -> None:
        self._file = file
        self._position = 0
        self.name = name

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill `buffer` and return the number of bytes, 0 at the end."""
        if hasattr(os, "preadv"):
            n = os.preadv(self._file.fileno(), [buffer], self._position)
        else:  # Windows has no fork
            self._file.seek(self._position)
            n = self._file.readinto(buffer)
        self._position += n
        return n

    def readall(self) -> bytes:
        """Return the rest of the file."""
        chunks = []
        while chunk := self.read(max(1 << 16, os.fstat(self.fileno()).st_size - self._position + 1)):
            chunks.append(chunk)
        return b"".join(chunks)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset and return the position, in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: os.fstat(self.fileno()).st_size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.name)
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position, in bytes."""
        self.fileno()
        return self._position

    def fileno(self) -> int:
        """Return the descriptor of the file."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class PositionedStream(io.RawIOBase):
    """A readable stream of known size. Subclasses define `readinto`, and `_move` if a jump needs more than a position.

    Args:
        size: Size of the stream, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset and return the position, in bytes; nothing is requested."""
        self._check_open()
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}
        if whence not in bases or (whence == io.SEEK_SET and offset < 0):
            raise ValueError(f"seek to {offset} with whence={whence}")
        position = max(0, bases[whence] + offset)
        if position != self._position:
            self._move(position)
        return position

    def _move(self, position: int) -> None:
        """Change the position; the next read starts there."""
        self._position = position

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the blob is closed")


class StreamWrapper:
    """A stream that passes every call on to another one; subclasses override what they change.

    Args:
        stream: The stream below; closed with the wrapper.
    """

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes."""
        return self._stream.read(size)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` and return the number of bytes, 0 at the end."""
        return self._stream.readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset and return the position, in bytes."""
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._stream.tell()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True if `seek` works."""
        return self._stream.seekable()

    def check(self) -> None:
        """Raise an error if the transfer should stop. Called while nothing is read."""
        if isinstance(self._stream, StreamWrapper):
            self._stream.check()

    def close(self) -> None:
        """Close the stream below."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProgressReader(StreamWrapper):
    """A stream that reports how far it was read.

    Args:
        stream: The stream to read.
        report: Called with the number of bytes of each step; negative when the stream is rewound. It may raise to
            stop the transfer.
    """

    def __init__(self, stream: ByteStream, report: Callable[[int], None]) -> None:
        super().__init__(stream)
        self._report = report
        self._position = 0
        self._furthest = 0
        self.skipped = 0
        """Bytes that were never read: a resumed transfer has received them before."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, and report them."""
        data = self._stream.read(size)
        self._advance(len(data))
        return data

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer`, and report and return the number of bytes."""
        n = self._stream.readinto(buffer)
        self._advance(n)
        return n

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move and report the distance; resumed transfers count skipped bytes."""
        before = self._stream.tell()
        after = self._stream.seek(offset, whence)
        if after > self._furthest:
            self.skipped += after - self._furthest
            self._furthest = after
        elif after < before:
            # Bytes behind this position are read again, for example because the resumed ones are corrupt
            self.skipped = min(self.skipped, after)
        self._position = after
        self._report(after - before)
        return after

    def check(self) -> None:
        """Report no bytes, so that `report` may raise."""
        self._report(0)

    def _advance(self, n: int) -> None:
        self._position += n
        self._furthest = max(self._furthest, self._position)
        self._report(n)


class DeferredStream:
    """A seekable stream that is opened on first use.

    Args:
        open: Opens the stream.
    """

    def __init__(self, open: Callable[[], ByteStream]) -> None:  # noqa: A002 - what it does
        self._open = open
        self._stream: ByteStream | None = None

    @property
    def opened(self) -> bool:
        """Whether the stream was used."""
        return self._stream is not None

    def _below(self) -> ByteStream:
        if self._stream is None:
            self._stream = self._open()
        return self._stream

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes."""
        return self._below().read(size)

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer` and return the number of bytes, 0 at the end."""
        return self._below().readinto(buffer)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an offset and return the position, in bytes."""
        return self._below().seek(offset, whence)

    def tell(self) -> int:
        """Return the position, in bytes."""
        return 0 if self._stream is None else self._stream.tell()

    def seekable(self) -> bool:
        """Return True if `seek` works."""
        return self._below().seekable()

    def close(self) -> None:
        """Close the stream below if it was opened."""
        if self._stream is not None:
            self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WholeReader(io.RawIOBase):
    """A stream over content that its first read loads as a whole.

    Args:
        size: Size of the content, in bytes.
        load: Returns the content, verified.
    """

    def __init__(self, size: int, load: Callable[[], bytes]) -> None:
        self._size = size
        self._load = load
        self._content: bytes | None = None
        self._position = 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill `buffer` and return the number of bytes, 0 at the end."""
        self.tell()
        if self._content is None:
            self._content = self._load()
        view = memoryview(buffer).cast("B")
        piece = self._content[self._position : self._position + len(view)]
        view[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset and return the position, in bytes."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        if base + offset < 0 and whence == io.SEEK_SET:
            raise ValueError(f"seek to {offset}")
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position, in bytes."""
        if self.closed:
            raise ValueError("the stream is closed")
        return self._position

    def close(self) -> None:
        """Drop the content."""
        self._content = None
        super().close()


class VerifiedReader(io.RawIOBase):
    """A stream that raises at its end unless size and digest are right.

    Reading from the first byte to the last verifies the content. After a seek to another position only the size can
    be checked, and `verified` stays False.

    Args:
        stream: The content; closed with the reader.
        descriptor: The expected size and digest.
    """

    def __init__(self, stream: ByteStream, descriptor: Descriptor) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._hasher = descriptor.digest.hasher()
        self._hashed = 0  # the contiguous prefix
        self._position = 0
        self.verified = False

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill `buffer` and return the number of bytes.

        Raises:
            SizeMismatch: The content ends early or is too long.
            DigestMismatch: The content is complete and has another digest.
        """
        view = memoryview(buffer).cast("B")
        n = self._stream.readinto(view)
        if self._position == self._hashed and n:
            self._hasher.update(view[:n])
            self._hashed += n
        self._position += n
        if self._position > self._descriptor.size or (n == 0 and len(view) and self._position < self._descriptor.size):
            check_size(self._descriptor, self._position)
        if self._hashed == self._descriptor.size and not self.verified:
            self._descriptor.digest.check(self._hasher.hexdigest(), str(self._descriptor))
            self.verified = True
        return n

    def readall(self) -> bytes:
        """Return the rest of the content.

        Large reads let the stream below request it at once; the inherited method reads a few KiB at a time.
        """
        chunks: list[memoryview] = []
        while True:
            left = max(0, self._descriptor.size - self._position) + 1  # one more: a stream that is too long raises
            view = memoryview(bytearray(min(left, _READALL)))
            n = self.readinto(view)
            if not n:
                return b"".join(chunks)
            chunks.append(view[:n])

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True if the stream below is seekable."""
        return self._stream.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset and return the position, in bytes."""
        if whence == io.SEEK_END:
            offset, whence = self._descriptor.size + offset, io.SEEK_SET
        elif whence == io.SEEK_CUR:
            offset, whence = self._position + offset, io.SEEK_SET
        self._position = self._stream.seek(max(offset, 0), whence)
        return self._position

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def close(self) -> None:
        """Close the stream below."""
        if not self.closed:
            self._stream.close()
        super().close()


def read_verified(stream: ByteStream, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
    """Return the verified content; read at most one byte beyond its size.

    Args:
        stream: The content.
        descriptor: The expected size and digest.
        limit: Bytes; a larger descriptor is refused before anything is read.

    Raises:
        SizeMismatch: The content is shorter or longer.
        DigestMismatch: The content has another digest.
        InvalidDocument: The descriptor's size is above `limit`.
    """
    if descriptor.size > limit:
        raise InvalidDocument(
            f"{descriptor} is {descriptor.size} bytes, above the limit of {limit} for documents",
            hint="open it as a file instead, or ask its publisher to move content into blobs",
        )
    chunks: list[bytes] = []
    left = descriptor.size + 1
    while left > 0 and (chunk := stream.read(min(left, 1 << 16))):
        chunks.append(chunk)
        left -= len(chunk)
    content = b"".join(chunks)
    check_size(descriptor, len(content))
    descriptor.digest.verify(content, descriptor.media_type)
    return content


def check_size(descriptor: Descriptor, actual: int) -> None:
    """Check a number of bytes against a descriptor.

    Raises:
        SizeMismatch: `actual` is not the descriptor's size.
    """
    if actual != descriptor.size:
        relation = "more than" if actual > descriptor.size else "only"
        amount = f"{relation} {min(actual, descriptor.size)} bytes"
        raise SizeMismatch(
            f"{descriptor.digest} has {amount}, expected {descriptor.size}",
            hint="the transfer was cut short or the descriptor is wrong; nothing was stored",
            expected=descriptor.size,
            actual=actual,
        )


def read_parts(stream: ByteStream, spans: Iterable[Span]) -> list[bytes]:
    """Return parts of a seekable stream; fewer bytes where it ends."""
    parts = []
    for start, end in spans:
        stream.seek(start)
        chunks: list[bytes] = []
        while (left := end - stream.tell()) > 0 and (chunk := stream.read(left)):
            chunks.append(chunk)
        parts.append(b"".join(chunks))
    return parts


def check_spans(descriptor: Descriptor, spans: Iterable[tuple[int, int]]) -> list[Span]:
    """Return (offset, length) pairs as spans.

    Args:
        descriptor: The content.
        spans: Pairs of bytes.

    Raises:
        InvalidArgument: A pair is not within the content.
    """
    checked = [(offset, offset + length) for offset, length in spans]
    for start, end in checked:
        if not 0 <= start <= end <= descriptor.size:
            raise InvalidArgument(
                f"({start}, {end - start}) is no (offset, length) within {descriptor.size} bytes of {descriptor.digest}",
                hint="compare with descriptor.size",
            )
    return checked
