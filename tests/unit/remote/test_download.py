"""Downloads of blobs: after any failure the bytes are correct, or there is an error."""

import gzip
import hashlib
import io
import random

import pytest
from ocikit import errors
from ocikit.spec.descriptor import Descriptor
from ocikit.store.parts import write_blob
from ocikit.store.streams import VerifiedReader

SIZE = 3_000_001
CONTENT = random.Random(1).randbytes(SIZE)
BLOB = Descriptor.of(CONTENT, "application/octet-stream")
BLOBS = "/v2/a/b/blobs/.*"


@pytest.fixture
def repository(server, open_repository):
    server.blob("a/b", CONTENT)
    return open_repository(server)


def requested_ranges(server):
    """Return the Range headers of all requests for blobs."""
    return [r.headers.get("Range") for r in server.seen("GET", BLOBS)]


def read(repository, blob=BLOB):
    with repository.open(blob) as stream:
        return stream.read()


def download_to(folder, repository, blob=BLOB):
    final = folder / "final"
    with repository.open(blob) as stream:
        write_blob(stream, blob, final, parts=folder / "parts")
    return final.read_bytes()


def test_blob_is_one_request(server, repository, tmp_path):
    assert read(repository) == CONTENT
    assert requested_ranges(server) == [None]
    assert download_to(tmp_path, repository) == CONTENT
    assert server.connections == 1


def test_open_sends_no_request_before_first_read(server, repository):
    repository.open(BLOB).close()
    assert server.requests == []


def test_empty_blob_is_read(server, repository, tmp_path):
    empty = Descriptor.of(b"", "application/octet-stream")
    server.blob("a/b", b"")
    assert read(repository, empty) == b""
    assert download_to(tmp_path, repository, empty) == b""


def test_missing_blob_raises_blob_unknown(server, repository):
    with pytest.raises(errors.BlobUnknown) as caught:
        read(repository, Descriptor.of(b"other", "x/y"))
    assert isinstance(caught.value, errors.NotFound)
    assert len(server.requests) == 1


# Broken connections


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("cut", [0, 1, SIZE // 2, SIZE - 1, SIZE])
def test_blob_cut_anywhere_arrives_complete(server, repository, tmp_path, cut, chunked, reset):
    """Each resumed byte is requested once, and none is skipped."""
    server.on("GET", BLOBS, cut=cut, chunked=chunked, reset=reset)
    assert download_to(tmp_path, repository) == CONTENT
    if not (chunked or reset):
        assert requested_ranges(server) == [None, *([f"bytes={cut}-"] if 0 < cut < SIZE else [None] if not cut else [])]


@pytest.mark.parametrize("cuts", [[1, 1, 1], [SIZE // 3, SIZE // 3], [1_200_000, 1, 1_200_000, 1], [1_048_576] * 2])
def test_repeatedly_cut_blob_transfers_nothing_twice(server, repository, tmp_path, cuts):
    for cut in reversed(cuts):
        server.on("GET", BLOBS, cut=cut)
    assert download_to(tmp_path, repository) == CONTENT
    starts = [sum(cuts[:n]) for n in range(len(cuts) + 1)]
    assert requested_ranges(server) == [None, *(f"bytes={start}-" for start in starts[1:])]


def test_random_cuts_never_change_the_bytes(server, repository, tmp_path):
    rng = random.Random(7)
    for n in range(20):
        server.faults.clear()
        for _ in range(rng.randrange(1, 5)):
            server.on("GET", BLOBS, cut=rng.randrange(SIZE), chunked=rng.random() < 0.3, reset=rng.random() < 0.3)
        folder = tmp_path / str(n)
        folder.mkdir()
        assert download_to(folder, repository) == CONTENT


@pytest.mark.timeout(60)
def test_blob_that_always_breaks_off_raises_with_hint(server, repository):
    server.on("GET", BLOBS, cut=100, times=None)
    with pytest.raises(errors.ConnectionFailed, match=rf"of {SIZE}") as caught:
        read(repository)
    assert "resumed" in caught.value.hint
    assert 3 <= len(server.requests) <= 10


def test_short_body_without_broken_connection_raises(server, repository):
    server.on("GET", BLOBS, body=CONTENT[:1000], times=None)
    with pytest.raises(errors.OcikitError):
        read(repository)
    assert len(server.requests) <= 20


def test_blob_with_enough_progress_is_not_given_up(server, repository):
    for _ in range(12):
        server.on("GET", BLOBS, cut=240_000)
    blob = Descriptor.of(CONTENT, "application/octet-stream")
    # Each response makes progress, but less than what resets the counter of stalls
    with pytest.raises(errors.ConnectionFailed):
        read(repository, blob)
    server.faults.clear()
    for _ in range(2):
        server.on("GET", BLOBS, cut=1_100_000)
    assert read(repository, blob) == CONTENT


@pytest.mark.timeout(25)
def test_stalled_body_is_resumed(server, open_repository):
    server.blob("a/b", CONTENT)
    server.on("GET", BLOBS, cut=1_500_000, stall=3)
    assert read(open_repository(server, read_timeout=0.5)) == CONTENT
    first, second = requested_ranges(server)
    assert first is None and 1_490_000 < int(second[6:-1]) <= 1_500_000


def test_bytes_before_a_stall_are_kept_for_large_reads(server, open_repository, tmp_path):
    server.blob("a/b", CONTENT)
    for _ in range(6):
        server.on("GET", BLOBS, cut=600_000, stall=2)
    assert download_to(tmp_path, open_repository(server, read_timeout=0.2)) == CONTENT
    starts = [int(s[6:-1]) for s in requested_ranges(server)[1:]]
    assert all(b - a > 600_000 - 131_072 - 1 for a, b in zip([0, *starts], starts, strict=False))


def test_repeated_stalls_time_out(server, open_repository):
    server.blob("a/b", CONTENT)
    server.on("GET", BLOBS, cut=10, stall=3, times=None)
    with pytest.raises(errors.TimedOut):
        read(open_repository(server, read_timeout=0.1, retries=0))


@pytest.mark.timeout(25)
def test_unreachable_registry_raises_soon(open_repository):
    with pytest.raises(errors.ConnectionFailed, match="refused"):
        read(open_repository("127.0.0.1:9", retries=1))


def test_blob_deleted_during_download_raises_blob_unknown(server, repository, open_repository):
    server.on("GET", BLOBS, cut=1000)
    server.on("GET", BLOBS, when=lambda r: "Range" in r.headers, status=404, times=None)
    with pytest.raises(errors.BlobUnknown):
        read(repository)


# Wrong ranges


def serve_resumed(server, **answer):
    """Cut the first response, and serve the following range requests as specified."""
    server.on("GET", BLOBS, when=lambda r: "Range" in r.headers, times=None, **answer)
    server.on("GET", BLOBS, cut=1000, when=lambda r: "Range" not in r.headers)


def test_ignored_range_is_read_from_the_start(server, repository, tmp_path):
    serve_resumed(server, status=200, body=CONTENT)
    assert download_to(tmp_path, repository) == CONTENT
    assert requested_ranges(server) == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    "content_range",
    [
        None,
        "bytes 999-3000000/3000001",
        "bytes 1001-3000000/3000001",
        "bytes 0-3000000/3000001",
        "bytes 1000-2000000/3000001",
        "bytes 1000-3000000/3000002",
        "bytes 1000-2999999/3000000",
        "bytes */3000001",
        "garbage",
        "items 1000-3000000/3000001",
    ],
)
def test_wrong_range_is_discarded(server, repository, tmp_path, content_range):
    headers = {"Content-Range": content_range} if content_range else {}
    serve_resumed(server, status=206, headers=headers, body=CONTENT[2000:])
    assert download_to(tmp_path, repository) == CONTENT
    assert requested_ranges(server) == [None, "bytes=1000-", None]


@pytest.mark.parametrize("content_range", ["bytes 1000-3000000/3000001", "bytes 1000-3000000/*"])
def test_requested_range_is_used(server, repository, tmp_path, content_range):
    serve_resumed(server, status=206, headers={"Content-Range": content_range}, body=CONTENT[1000:])
    assert download_to(tmp_path, repository) == CONTENT
    assert requested_ranges(server) == [None, "bytes=1000-"]


def test_416_restarts_from_the_start(server, repository, tmp_path):
    serve_resumed(server, status=416)
    assert download_to(tmp_path, repository) == CONTENT
    assert requested_ranges(server) == [None, "bytes=1000-", None]


def test_compressed_range_is_discarded(server, repository, tmp_path):
    serve_resumed(server, gzip=True)
    assert download_to(tmp_path, repository) == CONTENT


def test_stale_range_is_detected_by_digest(server, repository, tmp_path):
    serve_resumed(
        server, status=206, headers={"Content-Range": f"bytes 1000-{SIZE - 1}/{SIZE}"}, body=bytes(SIZE - 1000)
    )
    with pytest.raises(errors.DigestMismatch):
        download_to(tmp_path, repository)
    assert list((tmp_path / "parts").iterdir()) == [], "a wrong partial file must not be resumed"
    assert not (tmp_path / "final").exists()


# Wrong bodies


def test_long_body_stops_at_first_excess_byte(server, repository, tmp_path):
    server.on("GET", BLOBS, body=CONTENT + b"x" * 5_000_000, times=None)
    with pytest.raises(errors.SizeMismatch):
        read(repository)
    with pytest.raises(errors.SizeMismatch):
        download_to(tmp_path, repository)
    assert not (tmp_path / "final").exists()
    assert len(server.requests) == 2


def test_one_excess_byte_is_detected_for_any_read_size(server, repository):
    server.on("GET", BLOBS, body=CONTENT + b"x", times=None)
    for size in (SIZE, SIZE + 1, 65536, -1):
        with pytest.raises(errors.SizeMismatch), repository.open(BLOB) as stream:
            while stream.read(size):
                pass


def test_wrong_bytes_raise_digest_mismatch(server, repository, tmp_path):
    server.on("GET", BLOBS, body=bytes(SIZE), times=None)
    with pytest.raises(errors.DigestMismatch):
        download_to(tmp_path, repository)
    with pytest.raises(errors.DigestMismatch), VerifiedReader(repository.open(BLOB), BLOB) as stream:
        while stream.read(65536):
            pass
    assert not (tmp_path / "final").exists()


@pytest.mark.parametrize("chunked", [False, True])
def test_blob_compressed_by_proxy_is_decoded(server, repository, tmp_path, chunked):
    """The digest is that of the decoded bytes: moby#17595, distribution PR#3754."""
    server.on("GET", BLOBS, gzip=True, chunked=chunked)
    assert download_to(tmp_path, repository) == CONTENT


@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_blob_with_encoding_header_stays_unchanged(server, repository, tmp_path, chunked):
    """The digest is that of the raw bytes: storage may send Content-Encoding with the file."""
    packed = gzip.compress(CONTENT)
    blob = Descriptor.of(packed, "application/vnd.oci.image.layer.v1.tar+gzip")
    server.blob("a/b", packed)
    server.on("GET", BLOBS, headers={"Content-Encoding": "gzip"}, chunked=chunked)
    assert download_to(tmp_path, repository, blob) == packed


def test_cut_compressed_blob_arrives_complete(server, repository, tmp_path):
    server.on("GET", BLOBS, gzip=True, cut=500_000)
    assert download_to(tmp_path, repository) == CONTENT


# File interface


def test_blob_reads_like_a_file(server, repository):
    rng, file = random.Random(3), io.BytesIO(CONTENT)
    with io.BufferedReader(repository.open(BLOB), 8192) as stream:
        assert stream.seekable() and stream.readable() and not stream.writable()
        for _ in range(60):
            match rng.randrange(4):
                case 0:
                    offset = rng.randrange(SIZE + 10)
                    assert stream.seek(offset) == file.seek(offset)
                case 1:
                    offset = -rng.randrange(1000)
                    assert stream.seek(offset, io.SEEK_END) == file.seek(offset, io.SEEK_END)
                case 2:
                    n = rng.randrange(20_000)
                    assert stream.read(n) == file.read(n)
                case 3:
                    assert stream.tell() == file.tell()
        stream.seek(0)
        assert hashlib.sha256(stream.read()).hexdigest() == BLOB.digest.encoded


def test_reading_the_end_transfers_only_the_end(server, repository):
    with repository.open(BLOB) as stream:
        assert stream.seek(-1000, io.SEEK_END) == SIZE - 1000
        assert stream.read() == CONTENT[-1000:]
        assert stream.read() == b"" and stream.tell() == SIZE
        stream.seek(10)
        assert stream.read(5) == CONTENT[10:15]
        stream.seek(2, io.SEEK_CUR)
        assert stream.read(5) == CONTENT[17:22]
    assert requested_ranges(server) == [f"bytes={SIZE - 1000}-", "bytes=10-", "bytes=17-"]


def test_seek_to_current_position_sends_no_request(server, repository):
    with repository.open(BLOB) as stream:
        stream.read(100)
        stream.seek(100)
        stream.seek(0, io.SEEK_CUR)
        stream.read(100)
    assert requested_ranges(server) == [None]


def test_read_beyond_the_end_sends_no_request(server, repository):
    with repository.open(BLOB) as stream:
        stream.seek(SIZE + 100)
        assert stream.read(10) == b""
    assert server.requests == []


def test_invalid_seek_raises(repository):
    with repository.open(BLOB) as stream:
        with pytest.raises(ValueError):
            stream.seek(0, 7)
        with pytest.raises(ValueError):
            stream.seek(-1)


def test_closed_blob_raises(server, repository):
    stream = repository.open(BLOB)
    stream.read(10)
    stream.close()
    stream.close()
    for call in (lambda: stream.read(10), lambda: stream.readinto(bytearray(10)), lambda: stream.seek(3), stream.tell):
        with pytest.raises(ValueError):
            call()
    assert len(server.requests) == 1


def test_partially_read_blob_does_not_affect_others(server, repository):
    for _ in range(3):
        with repository.open(BLOB) as stream:
            stream.read(10)
    assert read(repository) == CONTENT


# Resuming in a later call


def test_second_call_transfers_only_the_rest(server, open_repository, tmp_path):
    """Received bytes are stored, hashed again, and the rest is appended."""
    server.blob("a/b", CONTENT)
    server.on("GET", BLOBS, cut=2_000_000)
    server.on("GET", BLOBS, when=lambda r: "Range" in r.headers, status=500, times=None)
    with pytest.raises(errors.RegistryError):
        download_to(tmp_path, open_repository(server, retries=0))
    (part,) = (tmp_path / "parts").iterdir()
    received = part.stat().st_size
    assert received == 2_000_000
    server.faults.clear()
    server.requests.clear()
    assert download_to(tmp_path, open_repository(server)) == CONTENT
    assert requested_ranges(server) == [f"bytes={received}-"]
    assert list((tmp_path / "parts").iterdir()) == []


@pytest.mark.parametrize("received", [1, SIZE // 4, SIZE // 2, SIZE * 3 // 4, SIZE - 1])
def test_partial_file_of_any_size_is_resumed(server, open_repository, tmp_path, received):
    """Partial files of any size are resumed."""
    server.blob("a/b", CONTENT)
    server.on("GET", BLOBS, cut=received)
    server.on("GET", BLOBS, when=lambda r: "Range" in r.headers, status=503, headers={"Retry-After": "900"})
    with pytest.raises(errors.RegistryError):
        download_to(tmp_path, open_repository(server))
    server.requests.clear()
    assert download_to(tmp_path, open_repository(server)) == CONTENT
    assert requested_ranges(server) == [f"bytes={received}-"]


def test_damaged_partial_file_is_transferred_again(server, open_repository, tmp_path):
    server.blob("a/b", CONTENT)
    server.on("GET", BLOBS, cut=1000)
    server.on("GET", BLOBS, when=lambda r: "Range" in r.headers, status=500)
    with pytest.raises(errors.RegistryError):
        download_to(tmp_path, open_repository(server, retries=0))
    (part,) = (tmp_path / "parts").iterdir()
    part.write_bytes(bytes(1000))
    assert download_to(tmp_path, open_repository(server)) == CONTENT


# Other hosts


def test_resumption_requests_a_new_signed_url(server, other, repository, tmp_path):
    """Signed URLs expire: go-actions-cache PR#40, kitematic#4713."""
    signed = iter(range(1, 100))
    server.on(
        "GET",
        BLOBS,
        times=None,
        change=lambda r, a: type(a)(307, {"Location": f"{other.url}/cdn?X-Amz-Signature={next(signed)}"}),
    )
    used = set()

    def cdn(request, answer):
        signature = request.query["X-Amz-Signature"][0]
        if signature in used:
            return type(answer)(403, {}, b"<Error>Request has expired</Error>")
        used.add(signature)
        start = int(request.headers.get("Range", "bytes=0-")[6:-1])
        if start:
            return type(answer)(206, {"Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}"}, CONTENT[start:])
        return type(answer)(200, {"Content-Length": str(SIZE)}, CONTENT[:1_000_000])

    other.on("GET", "/cdn", times=None, change=cdn)
    other.on("GET", "/cdn", change=cdn, cut=1_000_000)
    assert download_to(tmp_path, repository) == CONTENT
    assert requested_ranges(server) == [None, "bytes=1000000-"]
    assert [r.headers.get("Range") for r in other.requests] == [None, "bytes=1000000-"]
    assert [r.query["X-Amz-Signature"] for r in other.requests] == [["1"], ["2"]]


def test_rejecting_storage_is_named(server, other, repository):
    server.on("GET", BLOBS, status=307, headers={"Location": f"{other.url}/cdn?sig=secret"}, times=None)
    other.on("GET", "/cdn", status=403, body=b"<html>no</html>", times=None)
    with pytest.raises(errors.Denied, match=other.host) as caught:
        read(repository)
    assert "secret" not in str(caught.value)
