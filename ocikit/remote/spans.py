"""A large blob that idle workers download in parallel ranges, in order. distribution-spec spec.md#pulling-blobs.

Registries and their storage limit the rate of one connection. A window of pieces moves over the blob: worker threads
receive the pieces, each into its own buffer, and the reader gives them out in order. What was given out is a prefix of
the blob, so a part file is resumed as after a single stream.

The first piece is the probe. A registry without ranges answers it with the whole blob, which is then read as a single
stream. Any other answer that is not exactly the requested range ends parallel ranges for the host and the session.
Threads start only while the reader waits for a slow connection: on a fast network, one connection costs the least.
"""

from __future__ import annotations

import contextvars
import logging
import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import requests

from ocikit.errors import OcikitError, SizeMismatch
from ocikit.forks import fork_count
from ocikit.remote.download import BlobReader
from ocikit.remote.http.deadlines import interrupt
from ocikit.remote.http.responses import body_of, drain, is_encoded
from ocikit.remote.http.transport import Transport
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.store.streams import PositionedStream
from ocikit.transfer.slots import SLOTS, worker_limit

log = logging.getLogger("ocikit")

#: Bytes of the smallest blob that is requested in parallel ranges.
MIN_SIZE: Final = 32 << 20

#: Bytes of a piece, and of the probe.
PIECE: Final = 4 << 20

_MAX_PIECE = 16 << 20  # bytes; pieces grow when the registry responds slowly
_WINDOW = 64 << 20  # bytes that are begun and not given out
_MAX_WORKERS = 8  # threads of one blob
MIN_IDLE = 2  # workers; fewer gain too little
_MIN_REST = 16 << 20  # bytes left; for less, threads gain too little
_CHUNK = 1 << 17  # bytes received at once
_SLOW_CONNECTION = 256e6  # bytes a second; above, the processor is the limit, not the network
_RATE = 512e6  # bytes a second that all threads together are to reach
_TRIAL = 64 << 20  # bytes after which the threads must have gained something
_GAIN = 1.25  # so many times faster than one connection
_SAMPLE = 0.05  # seconds of waiting for a connection over which its rate is measured
_LATENCY_SHARE = 0.2  # of a piece's time; beyond it, larger pieces are faster
_TICK = 0.25  # seconds between two looks at a slow piece
_SILENCE = 5.0  # seconds without a byte after which a piece is also requested on another connection
_SLOW = 4  # so many times slower than the median, a piece is also requested on another connection


class RangeRefused(Exception):
    """The answer to a range request is not the range.

    Args:
        response: The unread answer.
    """

    def __init__(self, response: requests.Response) -> None:
        super().__init__(f"{response.status_code}")
        self.response = response

    def close(self) -> None:
        """Release the connection."""
        if self.response.status_code < 400:
            self.response.close()
        else:
            drain(self.response)


class _Ended(Exception):
    """The rest of a piece is not needed any more."""


class _PieceReader(BlobReader):
    """A piece of a blob, which another thread may end.

    It raises `RangeRefused` for every answer that is not exactly the range.
    """

    ended = False
    latency = 0.0
    """Seconds until the last response."""

    def end(self) -> None:
        """End the read in another thread."""
        self.ended = True
        if (response := self._response) is not None:
            interrupt(body_of(response))

    def _connect(self) -> None:
        started = time.monotonic()
        first, last, size = self._position, self._end - 1, self._descriptor.size
        response = self._get(f"bytes={first}-{last}")
        self.latency = time.monotonic() - started
        exact = response.headers.get("Content-Range", "").strip() == f"bytes {first}-{last}/{size}"
        length = response.headers.get("Content-Length", str(last + 1 - first)).strip()
        if response.status_code != 206 or not exact or length != str(last + 1 - first) or is_encoded(response):
            raise RangeRefused(response)
        self._use(response)
        if self.ended:
            raise _Ended

    def _prepare_resume(self, error: Exception | None) -> None:
        if self.ended:
            raise _Ended
        super()._prepare_resume(error)


class SpanReader(PositionedStream):
    """A blob as a seekable stream that idle workers of the transfer download ahead.

    It is meant for reading from front to back: a seek drops all that was begun. The bytes are not verified here. Nothing
    is requested before the first read. A forked child goes on by itself.

    Args:
        transport: The registry.
        path: Path of the blob.
        descriptor: Descriptor of the blob; its size is the end of the stream.
        scope: Right to pull.
        action: Operation, as named in error messages.
    """

    def __init__(self, transport: Transport, path: str, descriptor: Descriptor, scope: Scope, action: str) -> None:
        super().__init__(descriptor.size)
        self._transport = transport
        self._action = action
        self._make_piece = partial(_PieceReader, transport, path, descriptor, scope, action)
        self._make_direct = partial(BlobReader, transport, path, descriptor, scope, action)
        self._workers = worker_limit()
        self._most = _MAX_WORKERS
        self._forks = fork_count()
        self._started = False
        self._deadline: float | None = None  # set by the first request
        self._direct: BlobReader | None = None  # read by the caller's thread
        self._direct_end = 0
        self._direct_span: tuple[int, int] | None = None  # of its request; None is the whole blob
        self._window: _Window | None = None  # of the bytes after that
        self._single = False  # True once parallel ranges have failed
        self._connecting = False  # the time of the next read is not that of receiving
        self._sampled, self._waited = 0, 0.0  # bytes and seconds
        self._trial: tuple[int, float, float] | None = None  # where and when threads started, and the rate before

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer and return the number of bytes, 0 at the end.

        Raises:
            BlobUnknown: The registry does not have the blob.
            RegistryError: The registry rejects the request.
            ConnectionFailed: The connection breaks repeatedly without progress.
            InvalidResponse: The lengths in the response are invalid.
            SizeMismatch: The registry sends more bytes than the descriptor's size.
        """
        self._check_open()
        self._drop_inherited()
        view = memoryview(buffer).cast("B")
        if not len(view):
            return 0
        n: int | None = None
        while n is None:
            if self._direct is not None:
                n = self._read_direct(self._direct, view)
            elif self._window is not None:
                n = self._read_window(self._window, view)
            elif self._position >= self._size:
                return 0
            else:
                self._open_direct()
        self._position += n
        return n

    def close(self) -> None:
        """Close the connections and end the threads."""
        self._drop_inherited()
        self._drop()
        super().close()

    def _move(self, position: int) -> None:
        self._drop()
        self._position = position

    def _drop_inherited(self) -> None:
        """Drop the window in a forked child, where its threads do not exist."""
        if self._forks != fork_count():
            self._window, self._forks = None, fork_count()

    def _drop(self) -> None:
        if self._direct is not None:
            self._direct.close()
        self._close_window()
        self._direct = None

    def _close_window(self) -> None:
        if self._window is not None:
            self._window.close()
            self._most, self._window = self._window.most, None

    def _can_spread(self, rest: int) -> bool:
        """Return True if idle workers may request the rest of the blob.

        Args:
            rest: Number of bytes that are missing.
        """
        if self._single or not self._transport.ranges or rest < _MIN_REST or self._most < MIN_IDLE:
            return False
        return SLOTS.idle(self._workers) >= MIN_IDLE

    def _open_direct(self) -> None:
        """Open the connection of the caller's thread: for the probe, or for the rest of the blob."""
        position, size = self._position, self._size
        if not self._started:
            self._deadline = self._transport.deadline()
        spread = self._can_spread(size - position)
        self._direct_end = position + PIECE if spread and not self._started else size
        ranges = (self._started or spread) and self._transport.ranges and not self._single
        self._direct_span = (position, self._direct_end) if ranges else None
        self._direct = self._make_direct(span=self._direct_span, deadline=self._deadline)
        self._direct.seek(position)
        self._connecting = True
        self._sampled, self._waited = 0, 0.0

    def _read_direct(self, direct: BlobReader, view: memoryview) -> int | None:
        """Read from the connection of the caller's thread; None if another one has the next bytes."""
        left = self._direct_end - self._position
        if self._direct_end < self._size and left <= 0:
            self._end_direct(direct)
            return None
        begun = time.perf_counter()
        try:
            n = direct.readinto(view if self._direct_end == self._size else view[:left])
        except SizeMismatch:
            if self._direct_span is None:
                raise
            self._end_ranges(refused=True)
            return None
        self._started = True
        if self._direct_span is not None and direct.whole:  # the registry has sent the whole blob, which is read on
            log.info("%s has no ranges: %s goes on as a single stream", self._transport.host, self._action)
            self._close_window()
            self._transport.ranges, self._single = False, True
            self._direct_span, self._direct_end = None, self._size
        elif self._window is not None:
            self._window.grow()
        elif self._connecting:
            self._connecting = False
        else:
            self._sampled += n
            self._waited += time.perf_counter() - begun
            if self._waited >= _SAMPLE:
                self._spread(self._sampled / self._waited)
        return n

    def _end_direct(self, direct: BlobReader) -> None:
        """Leave the rest to the window, or read on if the window has failed."""
        if self._window is not None and self._window.error is not None:
            self._close_window()
            self._single = True
            if self._direct_span is None:
                self._direct_end = self._size
                return
        direct.close()
        self._direct = None

    def _spread(self, rate: float) -> None:
        """Let idle workers request the rest if the connection is slow.

        Args:
            rate: Bytes a second of the connection of the caller's thread.
        """
        self._sampled, self._waited = 0, 0.0
        start = self._direct_end if self._direct_end < self._size else self._position + PIECE
        wanted = min(self._most, math.ceil(_RATE / max(rate, 1.0)))
        if rate > _SLOW_CONNECTION or not self._can_spread(self._size - start):
            return
        log.info("%s: requesting parallel ranges from byte %d of %d", self._action, start, self._size)
        self._direct_end = start
        self._trial = (self._position, time.perf_counter(), rate)
        self._window = _Window(
            partial(self._make_piece, deadline=self._deadline),
            partial(self._transport.check_deadline, self._deadline, self._action),
            self._transport,
            start=start,
            end=self._size,
            wanted=wanted,
            most=self._most,
            limit=self._workers,
            # The first answer of a host that was not asked for a range yet decides whether there are more requests
            confirmed=self._direct_span is not None,
        )
        self._window.grow()

    def _read_window(self, window: _Window, view: memoryview) -> int | None:
        """Read from the window; None if it has no bytes any more."""
        try:
            n = window.readinto(view, self._position)
        except (RangeRefused, OcikitError) as error:
            log.info("%s: parallel ranges failed: %r", self._action, error)
            self._end_ranges(refused=isinstance(error, RangeRefused | SizeMismatch))
            return None
        if n is None:
            self._close_window()
        elif self._trial is not None and self._position - self._trial[0] >= _TRIAL:
            position, begun, rate = self._trial
            self._trial = None
            if (self._position - position) / (time.perf_counter() - begun) < _GAIN * rate:
                log.info("%s: parallel ranges are not faster", self._action)
                window.retire()
        return n

    def _end_ranges(self, *, refused: bool) -> None:
        """Go on as a single stream.

        Args:
            refused: Whether an answer was not the range. There are no more parallel ranges from the host then.
        """
        self._drop()
        self._single = True
        if refused:
            self._transport.ranges = False


class _Attempt:
    """One request of the bytes of a piece, or of its rest."""

    def __init__(self, reader: _PieceReader, start: int, end: int, buffer: bytearray) -> None:
        self.reader = reader
        self.start = start
        self.end = end
        self.buffer = buffer
        self.view = memoryview(buffer)[: end - start]
        self.received = 0  # bytes
        self.begun = self.grown = time.monotonic()
        self.failed = False

    @property
    def complete(self) -> bool:
        """Whether all bytes were received."""
        return self.received == self.end - self.start


class _Window:
    """Pieces of a blob that threads receive ahead of the reader, in order.

    Args:
        make_piece: Returns the reader of a range.
        check_deadline: Raises TimedOut if the deadline has passed.
        transport: The registry.
        start: First byte.
        end: The byte after the last one.
        wanted: Threads that the rate of a connection calls for.
        most: Threads that the registry allows.
        limit: Workers of the transfer.
        confirmed: Whether the registry is known to answer with ranges.
    """

    def __init__(
        self,
        make_piece: Callable[..., _PieceReader],
        check_deadline: Callable[[], None],
        transport: Transport,
        *,
        start: int,
        end: int,
        wanted: int,
        most: int,
        limit: int,
        confirmed: bool,
    ) -> None:
        self._make_piece = make_piece
        self._check_deadline = check_deadline
        self._transport = transport
        self._next = start
        self._end = end
        self._wanted = wanted
        self._limit = limit
        self._confirmed = confirmed
        self._throttled = transport.throttled
        self._changed = threading.Condition()
        self._pieces: deque[list[_Attempt]] = deque()  # each is requested again at most once
        self._slots: set[object] = set()  # of the threads; the reader's own slot is True
        self._piece = PIECE
        self._free: list[bytearray] = []
        self._rates: deque[float] = deque(maxlen=16)  # bytes a second of complete pieces
        self._waiting = False
        self._closed = False
        self.most = most
        self.error: BaseException | None = None

    def readinto(self, view: memoryview, position: int) -> int | None:
        """Fill the view with bytes from a position, which must be the next one.

        Returns:
            The number of bytes; None if there are none and no thread receives any.

        Raises:
            RangeRefused: The registry did not answer with a range.
            OcikitError: A piece failed.
        """
        self._check_deadline()
        data = self._ready(position)
        while data is None:
            with self._changed:
                self._grow(own=True)
                self._waiting = True
                data = self._ready(position)
                if data is None:
                    if self.error is not None:
                        raise self.error
                    if not self._pieces and not self._slots:
                        return None
                    self._changed.wait(_TICK)
                    self._repeat_slow()
                self._waiting = False
            self._check_deadline()
        n = min(len(data), len(view))
        view[:n] = data[:n]
        if position + n == self._pieces[0][0].end:
            self._give_out()
        return n

    def grow(self) -> None:
        """Start threads for idle workers, while the caller's thread receives bytes itself."""
        if not self._slots or (self._confirmed and len(self._slots) < min(self._wanted, self.most)):
            with self._changed:
                self._grow(own=False)

    def retire(self) -> None:
        """Begin no more pieces."""
        with self._changed:
            self.most = 1
            self._changed.notify_all()

    def close(self) -> None:
        """End all threads."""
        with self._changed:
            self._closed = True
            for attempt in (attempt for piece in self._pieces for attempt in piece):
                attempt.reader.end()
            self._pieces.clear()
            self._free.clear()
            self._changed.notify_all()

    def _ready(self, position: int) -> memoryview | None:
        """Return the bytes of the first piece that were received, from a position on."""
        for attempt in self._pieces[0] if self._pieces else ():
            if attempt.received > position - attempt.start >= 0:
                return attempt.view[position - attempt.start : attempt.received]
        return None

    def _give_out(self) -> None:
        """Drop the first piece, whose bytes the reader has."""
        with self._changed:
            for attempt in self._pieces.popleft():
                if attempt.complete:
                    self._free.append(attempt.buffer)
                else:
                    attempt.reader.end()
            self._changed.notify_all()

    def _grow(self, *, own: bool) -> None:
        """Start threads for idle workers.

        Args:
            own: Whether the reader only waits, so that its own slot is free, too.
        """
        if self.most < MIN_IDLE:
            return
        wanted = min(self._wanted, self.most) if self._confirmed else 1
        while len(self._slots) < wanted and self._next < self._end and not self._closed and self.error is None:
            slot = True if own and self._slots and True not in self._slots else SLOTS.borrow(self._limit)
            if slot is None:
                return
            self._slots.add(slot)
            self._start(self._work, slot)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        # A copied context: `progress.notify` finds the listener of the surrounding transfer
        run = contextvars.copy_context().run
        threading.Thread(target=run, args=(work, *args), name="ocikit-range", daemon=True).start()

    def _work(self, slot: object) -> None:
        """Receive pieces until there are none, or the worker is needed elsewhere."""
        while (attempt := self._begin(slot)) is not None:
            self._receive(attempt)

    def _begin(self, slot: object) -> _Attempt | None:
        """Return the next piece when the window has room; give the slot back if there is none."""
        with self._changed:
            while not self._is_surplus(slot):
                if len(self._pieces) < min(self._wanted, self.most):
                    end = min(self._next + self._piece, self._end)
                    attempt = self._attempt(self._next, end)
                    self._pieces.append([attempt])
                    self._next = end
                    return attempt
                self._changed.wait()
            self._slots.discard(slot)
            SLOTS.release(slot)
            self._changed.notify_all()
            return None

    def _is_surplus(self, slot: object) -> bool:
        """Return True if the thread of a slot must end."""
        if self._closed or self.error is not None or self._next >= self._end or self.most < MIN_IDLE:
            return True
        if slot is True:  # without other threads, the reader's own thread receives at the lowest cost
            return len(self._slots) == 1
        return len(self._slots) > min(self._wanted, self.most) or SLOTS.idle(self._limit) < 0

    def _attempt(self, start: int, end: int) -> _Attempt:
        reader = self._make_piece(span=(start, end))
        while self._free and len(self._free[-1]) < end - start:
            self._free.pop()
        return _Attempt(reader, start, end, self._free.pop() if self._free else bytearray(end - start))

    def _receive(self, attempt: _Attempt) -> None:
        """Receive the bytes of a piece."""
        reader, length = attempt.reader, attempt.end - attempt.start
        try:
            while not attempt.complete:
                n = reader.readinto(attempt.view[attempt.received : attempt.received + _CHUNK])
                if reader.ended:
                    return
                self._confirmed = True
                attempt.grown = time.monotonic()
                attempt.received += n
                if self._waiting:
                    with self._changed:
                        self._changed.notify_all()
            reader.readinto(memoryview(bytearray(1)))  # checks that no more bytes follow
            self._note(length, reader.latency, time.monotonic() - attempt.begun)
        except _Ended:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the thread of the reader
            self._fail(attempt, error)
        finally:
            reader.close()

    def _fail(self, attempt: _Attempt, error: BaseException) -> None:
        if isinstance(error, RangeRefused | SizeMismatch):
            self._transport.ranges = False
        if isinstance(error, RangeRefused):
            error.close()
        with self._changed:
            attempt.failed = True
            piece = next((piece for piece in self._pieces if attempt in piece), [attempt])
            if all(other.failed for other in piece) and not attempt.reader.ended:
                self.error = error
            self._changed.notify_all()

    def _note(self, length: int, latency: float, seconds: float) -> None:
        """Choose the size of pieces and the number of threads by what a complete piece took."""
        with self._changed:
            self._rates.append(length / max(seconds, 1e-6))
            if length == self._piece and latency > _LATENCY_SHARE * seconds:
                self._piece = max(PIECE, min(2 * self._piece, _MAX_PIECE, _WINDOW // min(self._wanted, self.most)))
            if self._transport.throttled != self._throttled:
                self._throttled = self._transport.throttled
                self.most = max(1, min(self.most, len(self._slots)) // 2)
                log.info("%s demands a pause: %d threads at most", self._transport.host, self.most)

    def _repeat_slow(self) -> None:
        """Request the rest of the first piece again if it is slow; the first answer is used."""
        if not self._pieces or len(self._pieces[0]) > 1:
            return
        attempt, now = self._pieces[0][0], time.monotonic()
        received, seconds = attempt.received, now - attempt.begun
        silent = now - attempt.grown > _SILENCE
        slow = seconds > 1 and self._rates and received / seconds < statistics.median(self._rates) / _SLOW
        if (silent or slow) and not attempt.complete:
            log.info("%s: a range is slow; requesting the rest again", self._transport.host)
            again = self._attempt(attempt.start + received, attempt.end)
            self._pieces[0].append(again)
            self._start(self._receive, again)
