"""Parallel ranges of one large blob: right bytes and few requests for every answer of the registry."""

import gzip
import os
import random
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve
from ocikit import errors
from ocikit.remote import repository as repository_module
from ocikit.remote import spans
from ocikit.remote.download import BlobReader
from ocikit.remote.spans import SpanReader
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.streams import VerifiedReader
from ocikit.transfer.slots import SLOTS

from tests.support.fake_registry import FakeRegistry

PIECE = 1 << 16
SIZE = 40 * PIECE + 123
CONTENT = random.Random(3).randbytes(SIZE)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
BLOBS = "/v2/a/b/blobs/.*"
WORKERS = 8


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Let small blobs count as large, and each connection as slow."""
    monkeypatch.setattr(spans, "MIN_SIZE", 10 * PIECE)
    monkeypatch.setattr(repository_module, "MIN_SIZE", 10 * PIECE)
    monkeypatch.setattr(spans, "PIECE", PIECE)
    monkeypatch.setattr(spans, "_MAX_PIECE", PIECE)
    monkeypatch.setattr(spans, "_MIN_REST", 5 * PIECE)
    monkeypatch.setattr(spans, "_CHUNK", 1 << 13)
    monkeypatch.setattr(spans, "_SAMPLE", 0.0)
    monkeypatch.setattr(spans, "_RATE", 1e15)
    monkeypatch.setattr(spans, "_SLOW_CONNECTION", 1e15)
    monkeypatch.setattr(spans, "_TICK", 0.02)


@pytest.fixture
def server():
    with FakeRegistry() as running:
        running.blob("a/b", CONTENT)
        yield running


@pytest.fixture(autouse=True)
def threads_end(server):
    """Wait for the threads of readers while the server still runs."""
    yield
    wait_for_threads()
    assert SLOTS.idle(WORKERS) == WORKERS


@pytest.fixture
def repository(server, open_repository):
    return open_repository(server)


def range_threads():
    return [thread for thread in threading.enumerate() if thread.name == "ocikit-range"]


def wait_for_threads():
    deadline = time.monotonic() + 20
    while range_threads():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def read(repository, blob=BLOB, workers=WORKERS, start=0):
    """Read a blob as a worker of a transfer does, in small steps."""
    with SLOTS.work(workers), repository.open(blob) as stream:
        if start:
            stream.seek(start)
        return take(stream)


def take(stream, count=SIZE):
    """Return the next bytes of a stream, read in small steps."""
    parts = []
    while count and (part := stream.read(min(count, 1 << 13))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def requested(server):
    """Return the requested spans; (0, None) is a request without a range."""
    found = []
    for request in server.seen("GET", BLOBS):
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", "bytes=0-"))
        found.append((int(match[1]), int(match[2]) + 1 if match[2] else None))
    return found


def piece_at(offset):
    """Return a condition for requests that begin in the piece with a byte."""

    def suits(request):
        match = re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))
        return match is not None and int(match[1]) // PIECE == offset // PIECE

    return suits


def test_idle_workers_request_closed_ranges_once(server, repository):
    assert read(repository) == CONTENT
    asked = sorted(requested(server))
    assert asked[0] == (0, PIECE)
    assert [end for _, end in asked] == [start for start, _ in asked[1:]] + [SIZE]
    assert 2 <= server.connections <= WORKERS + 1


def test_nothing_is_requested_before_first_read(server, repository):
    with SLOTS.work(WORKERS):
        repository.open(BLOB).close()
    assert server.requests == []


def test_blob_outside_of_a_transfer_is_one_request(server, repository):
    with repository.open(BLOB) as stream:
        assert isinstance(stream, BlobReader)
        assert take(stream) == CONTENT
    assert requested(server) == [(0, None)]


def test_ranges_setting_turns_parallel_ranges_off(server, open_repository):
    assert read(open_repository(server, ranges=False)) == CONTENT
    assert requested(server) == [(0, None)]


def test_blob_with_busy_workers_is_one_request(server, repository):
    slots = [SLOTS.borrow(WORKERS) for _ in range(WORKERS - 2)]
    assert read(repository) == CONTENT
    assert requested(server) == [(0, None)]
    for slot in slots:
        SLOTS.release(slot)


def test_fast_connection_goes_on_alone(server, repository, monkeypatch):
    monkeypatch.setattr(spans, "_SLOW_CONNECTION", 1.0)
    assert read(repository) == CONTENT
    assert requested(server) == [(0, PIECE), (PIECE, SIZE)]
    assert server.connections == 1


def test_workers_that_become_idle_join(server, repository):
    slots = [SLOTS.borrow(WORKERS) for _ in range(WORKERS)]
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        start = take(stream, 3 * PIECE)
        assert requested(server) == [(0, None)]
        for slot in slots:
            SLOTS.release(slot)
        assert start + take(stream) == CONTENT
    asked = requested(server)
    assert len(asked) > 10
    assert min(start for start, _ in asked[1:]) < 6 * PIECE


def test_workers_leave_when_other_transfers_need_them(server, repository):
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        got = take(stream, 2 * PIECE)
        with ThreadPoolExecutor(WORKERS) as pool:
            done, ready = threading.Event(), threading.Barrier(WORKERS + 1)

            def work():
                with SLOTS.work(WORKERS):
                    ready.wait(20)
                    done.wait(20)

            for _ in range(WORKERS):
                pool.submit(work)
            ready.wait(20)
            got += take(stream)
            assert not [end for start, end in requested(server)[:-1] if end == SIZE]
            done.set()
    assert got == CONTENT
    start, end = requested(server)[-1]
    assert end == SIZE
    assert end - start > PIECE


def test_resumed_download_begins_at_its_position(server, repository):
    start = 7 * PIECE + 5
    assert read(repository, start=start) == CONTENT[start:]
    assert min(requested(server)) == (start, start + PIECE)


def test_seek_drops_what_was_begun(server, repository):
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        assert take(stream, 3 * PIECE) == CONTENT[: 3 * PIECE]
        assert stream.seek(-PIECE, os.SEEK_END) == SIZE - PIECE
        assert take(stream) == CONTENT[-PIECE:]
        assert stream.seek(1) == 1
        assert take(stream, 9 * PIECE) == CONTENT[1 : 9 * PIECE + 1]
        assert stream.tell() == 9 * PIECE + 1


def test_window_limits_what_is_begun(server, repository):
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        take(stream, 2 * PIECE)
        time.sleep(0.3)
        assert max(end for _, end in requested(server)) <= (2 + WORKERS + 1) * PIECE
        assert len(range_threads()) <= WORKERS


# What registries answer to the probe


def test_whole_blob_for_the_probe_is_one_request(server, repository):
    server.on("GET", BLOBS, times=None, change=lambda r, answer: evolve(answer, status=200, body=CONTENT))
    assert read(repository) == CONTENT
    assert requested(server) == [(0, PIECE)]
    assert read(repository) == CONTENT
    assert requested(server) == [(0, PIECE), (0, None)]
    assert server.connections == 1


def test_whole_blob_for_a_resumed_probe_is_one_request(server, repository):
    server.on("GET", BLOBS, change=lambda r, answer: evolve(answer, status=200, body=CONTENT))
    assert read(repository, start=5 * PIECE) == CONTENT[5 * PIECE :]
    assert len(requested(server)) == 1


@pytest.mark.parametrize("status", [400, 416])
def test_rejected_probe_costs_one_more_request(server, repository, status):
    server.on("GET", BLOBS, status=status, times=1)
    assert read(repository) == CONTENT
    assert requested(server) == [(0, PIECE), (0, None)]
    assert read(repository) == CONTENT
    assert requested(server)[2:] == [(0, None)]


def changed(**headers):
    return lambda request, answer: evolve(answer, headers=answer.headers | headers)


#: Answers other than the requested range.
WRONG = {
    "shifted": changed(**{"Content-Range": f"bytes 1-{PIECE}/{SIZE}"}),
    "longer range": changed(**{"Content-Range": f"bytes 0-{SIZE - 1}/{SIZE}"}),
    "wrong size": changed(**{"Content-Range": f"bytes 0-{PIECE - 1}/{SIZE - 1}"}),
    "no range": lambda request, answer: evolve(answer, headers={}),
    "garbage": changed(**{"Content-Range": "bytes */*"}),
    "encoded": lambda request, answer: evolve(
        answer, headers=answer.headers | {"Content-Encoding": "gzip"}, body=gzip.compress(answer.body)
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answer_to_the_probe_ends_ranges_for_the_host(server, repository, kind):
    server.on("GET", BLOBS, change=WRONG[kind])
    assert read(repository) == CONTENT
    assert requested(server) == [(0, PIECE), (0, None)]
    assert not repository.transport.ranges


def test_threads_without_gain_end(server, repository, monkeypatch):
    """The network is as fast as one connection, or the reader is the limit."""
    monkeypatch.setattr(spans, "_TRIAL", 9 * PIECE)
    monkeypatch.setattr(spans, "_GAIN", 1e15)
    assert read(repository) == CONTENT
    start, end = max(requested(server))
    assert end == SIZE
    assert end - start > 5 * PIECE
    assert repository.transport.ranges


def test_missing_blob_is_one_request(server, repository):
    missing = evolve(BLOB, digest=Digest("sha256:" + "0" * 64))
    with pytest.raises(errors.BlobUnknown):
        read(repository, missing)
    assert len(server.requests) == 1


# What registries answer to later pieces


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_answer_to_a_piece_ends_in_a_single_stream(server, repository, kind):
    server.on("GET", BLOBS, when=piece_at(9 * PIECE), change=WRONG[kind])
    with SLOTS.work(WORKERS), VerifiedReader(repository.open(BLOB), BLOB) as stream:
        assert take(stream) == CONTENT
        assert stream.verified
    assert not repository.transport.ranges
    wait_for_threads()
    assert sum(end is None for _, end in requested(server)) == 1
    asked = len(server.requests)
    assert read(repository) == CONTENT
    assert len(server.requests) == asked + 1


def test_whole_blob_for_a_piece_is_not_read(server, repository):
    server.on("GET", BLOBS, when=piece_at(9 * PIECE), change=lambda r, a: evolve(a, status=200, body=CONTENT))
    assert read(repository) == CONTENT
    assert sum(end is None for _, end in requested(server)) == 1
    assert not repository.transport.ranges


@pytest.mark.parametrize("offset", [PIECE, 9 * PIECE])
@pytest.mark.parametrize("reset", [False, True])
def test_broken_piece_is_resumed_at_its_byte(server, repository, offset, reset):
    server.on("GET", BLOBS, when=piece_at(offset), cut=1 << 14, reset=reset)
    assert read(repository) == CONTENT
    assert all(end is not None for _, end in requested(server))
    resumed = [start for start, end in requested(server) if end == offset + PIECE]
    assert len(resumed) == 2
    assert resumed[1] > offset or reset


def test_short_piece_is_completed(server, repository):
    server.on("GET", BLOBS, when=piece_at(9 * PIECE), cut=100, times=3)
    assert read(repository) == CONTENT
    assert all(end is not None for _, end in requested(server))


def test_piece_that_never_comes_ends_in_a_typed_error(server, repository, monkeypatch):
    monkeypatch.setattr("ocikit.remote.download._STALL_WAIT", 0.001)
    server.on("GET", BLOBS, when=lambda r: "Range" in r.headers and not piece_at(0)(r), cut=0, times=None)
    with pytest.raises(errors.ConnectionFailed, match="broke off"):
        read(repository)


@pytest.mark.parametrize("offset", [0, 9 * PIECE])
def test_longer_piece_ends_in_a_single_stream(server, repository, offset):
    def lengthen(request, answer):
        return evolve(answer, body=answer.body + b"x")

    server.on("GET", BLOBS, when=piece_at(offset), change=lengthen, chunked=True)
    assert read(repository) == CONTENT


def test_corrupt_piece_raises_digest_mismatch(server, repository):
    server.on("GET", BLOBS, when=piece_at(9 * PIECE), times=None,
              change=lambda r, answer: evolve(answer, body=bytes(len(answer.body))))  # fmt: skip
    with SLOTS.work(WORKERS), VerifiedReader(repository.open(BLOB), BLOB) as stream:
        with pytest.raises(errors.DigestMismatch):
            take(stream)


@pytest.mark.parametrize("status", [429, 503])
def test_busy_registry_halves_the_threads(server, repository, status):
    server.on("GET", BLOBS, when=piece_at(9 * PIECE), status=status, headers={"Retry-After": "0"})
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        got = take(stream, 20 * PIECE)
        assert len(range_threads()) <= WORKERS // 2
        assert got + take(stream) == CONTENT
    assert all(end is not None for _, end in requested(server))


def test_slow_first_piece_is_requested_again(server, repository, monkeypatch):
    monkeypatch.setattr(spans, "_SILENCE", 0.2)
    server.on("GET", BLOBS, when=piece_at(9 * PIECE), cut=1 << 14, stall=60)
    assert read(repository) == CONTENT
    again = [start for start, end in requested(server) if end == 10 * PIECE]
    assert len(again) == 2
    assert again[1] == 9 * PIECE + (1 << 14)


# Processes and threads


def test_close_ends_all_threads(server, repository):
    """The fixture `threads_end` waits for them, for a shorter time than the registry sends nothing."""
    server.on("GET", BLOBS, when=lambda r: not piece_at(0)(r), cut=100, stall=60, times=None)
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        take(stream, PIECE)
        deadline = time.monotonic() + 20
        while len(requested(server)) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_abandoned_stream_ends_its_threads(server, repository):
    with SLOTS.work(WORKERS):
        stream = repository.open(BLOB)
        assert isinstance(stream, SpanReader)
        take(stream, 2 * PIECE)
        del stream


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forked_child_and_parent_read_right_bytes(server, repository):
    with SLOTS.work(WORKERS), repository.open(BLOB) as stream:
        assert take(stream, 3 * PIECE) == CONTENT[: 3 * PIECE]
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = 0 if take(stream) == CONTENT[3 * PIECE :] else 2
                stream.close()
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            os._exit(code)
        assert take(stream) == CONTENT[3 * PIECE :]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_deadline_ends_a_window_that_waits(server, open_repository):
    server.on("GET", BLOBS, when=lambda r: not piece_at(0)(r), cut=100, stall=3, times=None)
    with pytest.raises(errors.TimedOut):
        read(open_repository(server, total_timeout=0.5))


def test_redirected_pieces_carry_no_credentials(server, other, open_repository):
    other.blob("a/b", CONTENT)
    server.on("GET", BLOBS, times=None, status=307,
              headers={"Location": f"{other.url}/v2/a/b/blobs/{BLOB.digest}"})  # fmt: skip
    assert read(open_repository(server)) == CONTENT
    ranges = [r.headers.get("Range") for r in other.seen("GET", BLOBS)]
    assert len(ranges) > 10
    assert sorted(ranges) == sorted(r.headers.get("Range") for r in server.seen("GET", BLOBS))
    assert not [r for r in other.requests if "Authorization" in r.headers]
