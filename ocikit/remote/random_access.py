"""Random access to blobs by closed ranges. RFC 9110 section 14, distribution-spec spec.md#pulling-blobs.

A range cannot be verified, because a digest is that of a whole blob. Whole blobs are verified.
"""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ocikit.forks import ForkSafeLock
from ocikit.remote.download import BlobReader
from ocikit.store.streams import ByteStream, PositionedStream, Span
from ocikit.transfer.pool import run_parallel

#: Bytes of the smallest range that is requested.
MIN_WINDOW: Final = 1 << 16

#: Bytes up to which the ranges of a sequential read grow.
MAX_WINDOW: Final = 8 << 20

_GAP = 1 << 16  # bytes between two spans that cost less than another request
_BLOCK = 16 << 20  # bytes of the largest range of `read_spans`
_SCRATCH = 1 << 18  # bytes that are discarded at once
_NOTHING = memoryview(b"")


class RangeReader(PositionedStream):
    """A blob as a seekable stream that requests what is read, and little more.

    - A range begins with what was asked for, and has at least 64 KiB. While reads continue each other it doubles up to
      8 MiB; then the rest of the blob is one stream. A jump resets it.
    - The last 64 KiB are requested together and kept, because Parquet, Arrow, zip and other formats have their table of
      contents there.
    - A range is received completely by the read that requests it. So the connection is reused by the next one, and a
      forked child shares none.
    - A registry that ignores ranges sends the whole blob. It is read as one stream, again for each jump back.

    Reads are safe in threads. The bytes are not verified.

    Args:
        size: Size of the blob, in bytes.
        open_span: Opens a part of the blob.
        open_rest: Opens the blob for a sequential read.
    """

    def __init__(self, size: int, open_span: Callable[[Span], BlobReader], open_rest: Callable[[], ByteStream]) -> None:
        super().__init__(size)
        self._open_span = open_span
        self._open_rest = open_rest
        self._lock = ForkSafeLock()
        self._window = MIN_WINDOW
        self._end = 0  # of the latest range
        self._ahead = 0, _NOTHING  # position and bytes of what was received beyond a read
        self._tail = size, _NOTHING  # as above, of the end of the blob
        self._rest: ByteStream | None = None
        self._whole: BlobReader | None = None  # the response of a registry that ignores ranges

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer and return the number of bytes, 0 at the end.

        Raises:
            OcikitError: The errors of `BlobReader.readinto`.
        """
        view = memoryview(buffer).cast("B")
        with self._lock:
            self._check_open()
            n = self._read(view[: max(0, self._size - self._position)])
            self._position += n
        return n

    def close(self) -> None:
        """Close the streams, and drop what was received."""
        for stream in (self._rest, self._whole):
            if stream is not None:
                stream.close()
        self._rest = self._whole = None
        self._ahead = self._tail = 0, _NOTHING
        super().close()

    def _read(self, view: memoryview) -> int:
        if not view:
            return 0
        position = self._position
        for start, received in (self._ahead, self._tail):
            if 0 <= position - start < len(received):
                piece = received[position - start :][: len(view)]
                view[: len(piece)] = piece
                return len(piece)
        if self._rest is not None:
            if self._rest.tell() == position:
                return self._rest.readinto(view)
            self._rest.close()
            self._rest = None
        if self._whole is not None:
            _move(self._whole, position)
            return self._whole.readinto(view)
        return self._request(view)

    def _request(self, view: memoryview) -> int:
        position = self._position
        if position != self._end or not position:
            self._window = MIN_WINDOW
        elif self._window < MAX_WINDOW:
            self._window *= 2
        else:
            self._ahead = 0, _NOTHING
            self._rest = self._open_rest()
            self._rest.seek(position)
            return self._rest.readinto(view)
        has_tail = bool(self._tail[1])
        last = self._tail[0] if has_tail else self._size
        if not has_tail and position >= self._size - MIN_WINDOW:
            start = max(0, self._size - MIN_WINDOW)
            tail = memoryview(bytearray(self._size - start))
            self._receive((start, self._size), tail)
            self._tail = start, tail
            return self._read(view)
        wanted = min(len(view), last - position)
        end = min(position + max(wanted, self._window), last)
        if last - end < MIN_WINDOW:
            end = last  # not worth another request
        ahead = memoryview(bytearray(end - position - wanted))
        self._receive((position, end), view[:wanted], ahead)
        self._ahead, self._end = (position + wanted, ahead), end
        return wanted

    def _receive(self, span: Span, *views: memoryview) -> None:
        """Fill views with a span; keep the response if it is that of the whole blob."""
        reader = self._open_span(span)
        try:
            for view in views:
                fill(reader, view)
            if not reader.whole:
                finish(reader)
        except BaseException:
            reader.close()
            raise
        if reader.whole:
            self._whole = reader
        else:
            reader.close()


def read_spans(
    spans: Sequence[Span], open_span: Callable[[Span], BlobReader], *, probe_first: bool, parallel: int
) -> list[bytes]:
    """Return parts of a blob, unverified; requests near parts together, and several ranges at once.

    Args:
        spans: The parts, in any order.
        open_span: Opens a part of the blob.
        probe_first: Request the first range alone. If the registry ignores ranges, its response has all parts.
        parallel: Number of requests at once.
    """
    ranges = _merged(spans)
    if not ranges:
        return [b""] * len(spans)
    received = [memoryview(bytearray(end - start)) for start, end in ranges]
    missing = range(len(ranges))
    if probe_first:
        with open_span(ranges[0]) as probe:
            fill(probe, received[0])
            missing = missing[1:]
            if probe.whole:
                for i in missing:
                    _move(probe, ranges[i][0])
                    fill(probe, received[i])
                missing = missing[:0]
            else:
                finish(probe)

    def request(index: int, _: threading.Event) -> None:
        with open_span(ranges[index]) as reader:
            fill(reader, received[index])
            if not reader.whole:
                finish(reader)

    if missing:
        run_parallel(missing, request, workers=min(parallel, len(missing)))
    return [b"".join(_cut(span, ranges, received)) for span in spans]


def _merged(spans: Sequence[Span]) -> list[Span]:
    """Return ranges without overlap that cover the spans, in order, each of at most 16 MiB."""
    merged: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and start - merged[-1][1] <= _GAP:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return [(at, min(at + _BLOCK, end)) for start, end in merged for at in range(start, end, _BLOCK)]


def _cut(span: Span, ranges: Sequence[Span], received: Sequence[memoryview]) -> Iterator[memoryview]:
    """Yield the pieces of a span from the ranges that it lies in."""
    start, end = span
    index = bisect.bisect_right(ranges, start, key=lambda pair: pair[0]) - 1
    while start < end:
        first, last = ranges[index]
        stop = min(end, last)
        yield received[index][start - first : stop - first]
        start, index = stop, index + 1


def fill(stream: ByteStream, view: memoryview) -> None:
    """Fill a view from a stream that resumes by itself."""
    while view:
        view = view[stream.readinto(view) :]


def finish(stream: ByteStream) -> None:
    """Read the end of a response: its connection is reused then, and a body that is too long is detected."""
    stream.readinto(memoryview(bytearray(1)))


def _move(stream: BlobReader, position: int) -> None:
    """Move a stream of a registry that ignores ranges: forward by reading, back by another request."""
    if position < stream.tell():
        stream.seek(position)
    scratch = memoryview(bytearray(min(_SCRATCH, position - stream.tell())))
    while (left := position - stream.tell()) > 0:
        fill(stream, scratch[:left])
