"""Parts of a file as a description needs them, with the numbers of requests and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from ocikit.descriptions.limits import DETAILS, FIRST, FOOTER, GAP, REQUESTS
from ocikit.errors import ContentError

#: Returns parts of a file, given by offset and length [bytes].
Ranges: TypeAlias = Callable[[Sequence[tuple[int, int]]], list[bytes]]


class Content:
    """The content of a file, of which parts are requested and kept.

    Args:
        size: Size of the file, in bytes.
        ranges: Reads parts of it. Its errors are raised as they are.
        requests: How many ranges may be requested for details. What a format needs first is always requested.
    """

    def __init__(self, size: int, ranges: Ranges, *, requests: int = REQUESTS) -> None:
        self.size = size
        self.bytes_read = 0
        self.requests = 0
        self._ranges = ranges
        self._allowed = requests
        self._held: list[tuple[int, bytes]] = []

    @property
    def whole(self) -> bool:
        """Whether all of the file is held."""
        return self._find(0, self.size) is not None

    @property
    def requests_left(self) -> int:
        """How many ranges may still be requested for details."""
        return max(0, self._allowed - self.requests)

    def head(self, length: int = FIRST) -> bytes:
        """Return the first bytes of the file, or all of a shorter one."""
        return self.read(0, min(length, self.size))

    def tail(self, length: int = FIRST) -> bytes:
        """Return the last bytes of the file, or all of a shorter one."""
        length = min(length, self.size)
        return self.read(self.size - length, length)

    def read(self, offset: int, length: int) -> bytes:
        """Return a part of the file; request as much of it as is not held.

        Raises:
            ContentError: It is not within the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise ContentError(
                f"it names {length:,} bytes at {offset:,}, but the file has {self.size:,}",
                hint="fetch the file again, or ask its publisher for an undamaged one",
            )
        if (held := self.held(offset, length)) is not None:
            return held
        start, end = offset, offset + length
        # Request only what is missing before or after a part that is held
        for at, part in self._held:
            if at <= start < at + len(part) < end:
                start = at + len(part)
            if start < at < end <= at + len(part):
                end = at
        self._request([(start, end - start)])
        return self.held(offset, length) or b""

    def held(self, offset: int, length: int) -> bytes | None:
        """Return a part of the file without a request; None if it is not held."""
        if not length:
            return b""
        found = self._find(offset, length)
        return None if found is None else found[1][offset - found[0] :][:length]

    def held_from(self, offset: int, limit: int) -> bytes:
        """Return the bytes at an offset as far as they are held, at most `limit`."""
        found = self._find(offset, 1)
        return b"" if found is None else found[1][offset - found[0] :][:limit]

    def load(self, spans: Iterable[tuple[int, int]]) -> None:
        """Request parts of the file, near ones together, as far as requests and bytes for details are left.

        Args:
            spans: Offset and length of each part, in bytes. Parts beyond the end of the file are cut off.
        """
        merged: list[list[int]] = []
        left = DETAILS
        ends = ((start, min(start + length, self.size)) for start, length in spans)
        for start, end in sorted(span for span in ends if 0 <= span[0] < span[1]):
            if self._find(start, end - start) is not None:
                continue
            near = bool(merged) and start - merged[-1][1] <= GAP
            left -= max(0, end - merged[-1][1]) if near else end - start
            if left < 0 or not (near or len(merged) < self.requests_left):
                break
            if near:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        if merged:
            self._request([(start, end - start) for start, end in merged])

    def footer(self, trailer: int, magic: bytes) -> bytes:
        """Return the footer of a table with its trailer: a length and a magic number.

        Args:
            trailer: Length of the trailer in bytes, which begins with the length of the footer in four bytes.
            magic: The end of the file.

        Raises:
            ContentError: The file has another end, or the footer is too large.
        """
        end = self.tail()
        if len(end) < trailer or not end.endswith(magic):
            raise ContentError(
                f"the file does not end with {magic.decode()!r}",
                hint="its name or media type is that of a table, but it may be cut short or encrypted",
            )
        length = int.from_bytes(end[-trailer : 4 - trailer], "little") + trailer
        if length > min(self.size, FOOTER):
            raise ContentError(
                f"its footer would have {length:,} bytes; the file has {self.size:,}, and the limit is {FOOTER:,}",
                hint="open the file with pyarrow",
            )
        return self.tail(length)

    def _request(self, spans: list[tuple[int, int]]) -> None:
        for (start, length), part in zip(spans, self._ranges(spans), strict=True):
            self.requests += 1
            self.bytes_read += length
            if len(part) != length:
                raise ContentError(
                    f"it ends {length - len(part):,} bytes early",
                    hint="fetch the file again: it is shorter than its size",
                )
            self._hold(start, part)

    def _hold(self, start: int, part: bytes) -> None:
        """Keep a part, joined with those that it touches."""
        for at, other in self._held:
            if at + len(other) == start:
                self._held.remove((at, other))
                start, part = at, other + part
                break
        for at, other in self._held:
            if start + len(part) == at:
                self._held.remove((at, other))
                part += other
                break
        self._held.append((start, part))

    def _find(self, offset: int, length: int) -> tuple[int, bytes] | None:
        if not length:
            return offset, b""
        for start, part in self._held:
            if start <= offset and offset + length <= start + len(part):
                return start, part
        return None
