"""Random reads of blobs: few requests, few bytes, one connection, and always the right bytes."""

import io
import os
import random
import threading

import pytest
from ocikit import errors
from ocikit.remote import random_access
from ocikit.remote.random_access import MIN_WINDOW
from ocikit.spec.descriptor import Descriptor

from tests.support.fake_registry import Response

SIZE = 6_000_001
CONTENT = random.Random(3).randbytes(SIZE)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
BLOBS = "/v2/a/b/blobs/.*"
KIB = 1 << 10


@pytest.fixture
def repository(server, open_repository):
    server.blob("a/b", CONTENT)
    return open_repository(server)


def ranges(server):
    """Return the first byte and the length of each range that was requested; (0, None) is the whole blob."""
    found = []
    for request in server.seen("GET", BLOBS):
        header = request.headers.get("Range")
        start, _, last = (header or "bytes=0-")[6:].partition("-")
        found.append((int(start), int(last) + 1 - int(start) if last else None))
    return found


def read_at(stream, position, size):
    stream.seek(position)
    return b"".join(iter(lambda: stream.read(position + size - stream.tell()), b""))


# Windows


def test_open_random_sends_no_request_before_first_read(server, repository):
    with repository.open_random(BLOB) as stream:
        assert stream.seek(0, io.SEEK_END) == SIZE and stream.tell() == SIZE
        assert stream.read(10) == b""
    assert server.requests == []


def test_small_read_requests_64_kib(server, repository):
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, 1000, 10) == CONTENT[1000:1010]
        assert read_at(stream, 1000 + 60 * KIB, 100) == CONTENT[1000 + 60 * KIB :][:100]
    assert ranges(server) == [(1000, MIN_WINDOW)]


def test_large_read_requests_exactly_its_bytes(server, repository):
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, 1000, 300 * KIB) == CONTENT[1000:][: 300 * KIB]
        assert read_at(stream, 3_000_000, 200 * KIB) == CONTENT[3_000_000:][: 200 * KIB]
    assert ranges(server) == [(1000, 300 * KIB), (3_000_000, 200 * KIB)]
    assert server.connections == 1


def test_reads_that_continue_double_the_window(server, repository):
    with repository.open_random(BLOB) as stream:
        for position in range(0, 900_000, 10_000):
            assert read_at(stream, position, 10_000) == CONTENT[position:][:10_000]
    assert [length for _, length in ranges(server)] == [64 * KIB, 128 * KIB, 256 * KIB, 512 * KIB]


def test_jump_resets_the_window(server, repository):
    with repository.open_random(BLOB) as stream:
        read_at(stream, 0, 400 * KIB)
        stream.read(10)
        read_at(stream, 2_000_000, 10)
    assert ranges(server)[-1] == (2_000_000, MIN_WINDOW)


def test_long_sequential_read_ends_as_one_stream(server, repository, monkeypatch):
    monkeypatch.setattr(random_access, "MAX_WINDOW", 256 * KIB)
    with repository.open_random(BLOB) as stream:
        assert b"".join(iter(lambda: stream.read(50_000), b"")) == CONTENT
    assert [length for _, length in ranges(server)] == [64 * KIB, 128 * KIB, 256 * KIB, None]


def test_jump_ends_the_stream_of_a_sequential_read(server, repository, monkeypatch):
    monkeypatch.setattr(random_access, "MAX_WINDOW", MIN_WINDOW)
    with repository.open_random(BLOB) as stream:
        for position in (0, MIN_WINDOW, 3_000_000, 100_000):
            assert read_at(stream, position, 100) == CONTENT[position:][:100]
    assert ranges(server)[1:] == [(MIN_WINDOW, None), (3_000_000, MIN_WINDOW), (100_000, MIN_WINDOW)]


def test_window_does_not_leave_a_small_rest(server, repository):
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, SIZE - 100 * KIB, 1000) == CONTENT[-100 * KIB :][:1000]
        assert stream.read(100 * KIB) == CONTENT[1000 - 100 * KIB :]
    assert ranges(server) == [(SIZE - 100 * KIB, 100 * KIB)]


def test_end_is_requested_once_and_kept(server, repository):
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, SIZE - 22, 22) == CONTENT[-22:]
        for position in (SIZE - 60_000, 1_000_000, SIZE - MIN_WINDOW, 2_000_000, SIZE - 8):
            assert read_at(stream, position, 8) == CONTENT[position:][:8]
        assert read_at(stream, SIZE - 70_000, 70_000) == CONTENT[-70_000:]
    end = SIZE - MIN_WINDOW
    assert ranges(server) == [
        (end, MIN_WINDOW),
        (1_000_000, MIN_WINDOW),
        (2_000_000, MIN_WINDOW),
        (SIZE - 70_000, 70_000 - MIN_WINDOW),
    ]
    assert server.connections == 1


def test_random_reads_return_right_bytes(server, repository):
    rng = random.Random(5)
    with repository.open_random(BLOB) as stream:
        for _ in range(200):
            position, size = rng.randrange(SIZE + 10), rng.choice([1, 100, 70_000, 400_000])
            if rng.random() < 0.5:
                position = stream.tell()
            assert read_at(stream, position, size) == CONTENT[position : position + size]
    assert server.connections == 1


def test_small_blob_is_one_request_and_verified(server, repository, open_repository):
    small = Descriptor.of(b"x" * 300_000, "text/plain")
    server.blob("a/b", b"x" * 300_000)
    with repository.open_random(small) as stream:
        assert read_at(stream, 290_000, 10) == read_at(stream, 5, 10) == b"x" * 10
    assert ranges(server) == [(0, None)]
    server.on("GET", BLOBS, body=b"y" * 300_000)
    with pytest.raises(errors.DigestMismatch), repository.open_random(small) as stream:
        stream.read(10)


def test_closed_reader_raises(repository):
    stream = repository.open_random(BLOB)
    stream.close()
    with pytest.raises(ValueError, match="closed"):
        stream.read(1)


def test_threads_read_right_bytes_from_one_reader(server, repository):
    lock, wrong = threading.Lock(), []

    def work(seed):
        rng = random.Random(seed)
        for _ in range(50):
            position = rng.randrange(SIZE - 1000)
            with lock:
                data = read_at(stream, position, 1000)
            if data != CONTENT[position:][:1000]:
                wrong.append(position)

    with repository.open_random(BLOB) as stream:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_forked_child_reads_on(server, repository):
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, 0, 200_000) == CONTENT[:200_000]
        pid = os.fork()
        if not pid:
            right = read_at(stream, 200_000, 500_000) == CONTENT[200_000:700_000]
            os._exit(0 if right else 1)
        assert read_at(stream, 200_000, 700_000) == CONTENT[200_000:900_000]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# Faults


@pytest.mark.parametrize("cut", [0, 1, 1000, MIN_WINDOW - 1])
def test_range_that_breaks_off_is_resumed(server, repository, cut):
    server.on("GET", BLOBS, cut=cut)
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, 1000, 10) == CONTENT[1000:1010]
        assert read_at(stream, 1000, MIN_WINDOW) == CONTENT[1000:][:MIN_WINDOW]
    requested = [part for part in ranges(server) if part != (1000, MIN_WINDOW)]
    assert all(start + length == 1000 + MIN_WINDOW for start, length in requested)


@pytest.mark.parametrize(
    "content_range", [None, "bytes 0-65535/*", "bytes 999-66534/6000001", "bytes 1000-2000/6000001", "items 1-2/3"]
)
def test_wrong_content_range_is_not_used(server, repository, content_range):
    def change(request, response):
        if response.status == 206:
            headers = {k: v for k, v in response.headers.items() if k != "Content-Range"}
            extra = {} if content_range is None else {"Content-Range": content_range}
            return Response(206, headers | extra, bytes(len(response.body)))
        return response

    server.on("GET", BLOBS, change=change, times=None)
    with repository.open_random(BLOB) as stream:
        assert read_at(stream, 1000, 10) == CONTENT[1000:1010]
        assert read_at(stream, 2_000_000, 10) == CONTENT[2_000_000:][:10]
    assert ranges(server) == [(1000, MIN_WINDOW), (0, None)]


def test_range_that_is_too_long_raises(server, repository):
    server.on("GET", BLOBS, change=lambda _, r: Response(206, r.headers, r.body + b"x"))
    with pytest.raises(errors.SizeMismatch, match="more than 65536 bytes"), repository.open_random(BLOB) as stream:
        read_at(stream, 1000, 10)


def test_failed_read_can_be_repeated(server, repository):
    server.on("GET", BLOBS, status=403, times=1)
    with repository.open_random(BLOB) as stream:
        with pytest.raises(errors.Denied):
            stream.read(10)
        assert stream.read(10) == CONTENT[:10]


# Registries without ranges


def ignore_ranges(server, status=200):
    server.on(
        "GET",
        BLOBS,
        when=lambda r: "Range" in r.headers,
        change=lambda *_: Response(status, {}, CONTENT if status == 200 else b""),
        times=None,
    )


@pytest.mark.parametrize(("status", "extra"), [(200, 0), (416, 1), (400, 1)])
def test_registry_without_ranges_sends_one_stream(server, repository, status, extra):
    ignore_ranges(server, status)
    with repository.open_random(BLOB) as stream:
        for position in (1000, 1_000_000, 1_000_100, 4_000_000, SIZE - 10):
            assert read_at(stream, position, 10) == CONTENT[position:][:10]
    assert len(server.requests) == 1 + extra


def test_end_is_kept_without_ranges(server, repository):
    """The end, then each part in order: a reader of Parquet costs two passes, not one for each part."""
    ignore_ranges(server)
    with repository.open_random(BLOB) as stream:
        for position in (SIZE - 8, SIZE - 30_000, 1000, SIZE - 8, 2_000_000, 5_000_000):
            assert read_at(stream, position, 8) == CONTENT[position:][:8]
    assert len(server.requests) == 2


# Several spans


def test_near_spans_are_requested_together(server, repository):
    spans = [(500_000, 10), (0, 100), (100, 5), (60_000, 10), (500_005, 20), (7, 0)]
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]
    assert sorted(ranges(server)) == [(0, 60_010), (500_000, 25)]


def test_large_span_is_requested_in_blocks(server, repository, monkeypatch):
    monkeypatch.setattr(random_access, "_BLOCK", 1_000_000)
    spans = [(10, 2_500_000), (999_990, 30), (SIZE - 5, 5)]
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]
    assert sorted(ranges(server)) == [(10, 1_000_000), (1_000_010, 1_000_000), (2_000_010, 500_000), (SIZE - 5, 5)]


def test_spans_are_requested_eight_at_once(server, repository):
    together = threading.Barrier(8)
    first = []

    def change(request, response):
        if first:
            together.wait(10)
        first.append(request)
        return response

    server.on("GET", BLOBS, change=change, times=None)
    spans = [(n * 300_000, 10) for n in range(17)]
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]
    assert len(server.requests) == 17 and server.connections <= 9


def test_first_span_is_not_awaited_after_a_range(server, repository):
    assert repository.ranges(BLOB, [(0, 10)]) == [CONTENT[:10]]
    together = threading.Barrier(3)

    def change(request, response):
        together.wait(10)
        return response

    server.on("GET", BLOBS, change=change, times=None)
    spans = [(n * 300_000, 10) for n in range(3)]
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]


def test_registry_that_stops_honouring_ranges_gives_right_bytes(server, repository):
    assert repository.ranges(BLOB, [(0, 10)]) == [CONTENT[:10]]
    ignore_ranges(server)
    spans = [(n * 300_000, 10) for n in range(5)]
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]
    server.requests.clear()
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]
    assert len(server.requests) == 1


def test_registry_without_ranges_sends_spans_in_one_response(server, repository):
    ignore_ranges(server)
    spans = [(n * 300_000, 10) for n in reversed(range(17))]
    assert repository.ranges(BLOB, spans) == [CONTENT[o : o + n] for o, n in spans]
    assert len(server.requests) == 1


@pytest.mark.parametrize("span", [(-1, 5), (0, -1), (SIZE, 1), (0, SIZE + 1)])
def test_span_outside_of_the_blob_raises(server, repository, span):
    with pytest.raises(errors.InvalidArgument):
        repository.ranges(BLOB, [(0, 1), span])
    assert server.requests == []


def test_failed_span_raises(server, repository):
    server.on("GET", BLOBS, when=lambda r: r.headers.get("Range") == "bytes=3000000-3000009", status=404)
    with pytest.raises(errors.BlobUnknown):
        repository.ranges(BLOB, [(n * 1_000_000, 10) for n in range(6)])


def test_no_spans_send_no_request(server, repository):
    assert repository.ranges(BLOB, []) == [] and repository.ranges(BLOB, [(5, 0)]) == [b""]
    assert server.requests == []
