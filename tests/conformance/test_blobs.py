"""Blobs of every size and algorithm, by every way of pushing. spec.md#pushing-blobs, #pulling-blobs, #deleting-blobs."""

import secrets

import pytest

from tests.conformance import upload_flows as moves
from tests.conformance.content import digest_of

ALGORITHMS = ("sha256", "sha512")

#: 3 KB are three chunks, the last of them shorter.
SIZES = {"512 bytes": 512, "3 KB": 3 * moves.CHUNK - 5, "no bytes": 0, "empty JSON": None}

#: Size of the blob for range requests [bytes].
SIZE = 2048


def _content(size: int | None) -> bytes:
    return b"{}" if size is None else secrets.token_bytes(size)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("way", moves.WAYS, ids=lambda way: way.__name__)
def test_blob_is_pushed_pulled_and_deleted(server, repo, way, size, algorithm):
    content = _content(size)
    digest = digest_of(content, algorithm)
    moves.created(server, repo, way(server, repo, digest, content), digest, content)
    moves.delete_blob(server, repo, digest)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_existing_blob_is_pushed_again(server, repo, algorithm):
    content = secrets.token_bytes(512)
    digest = digest_of(content, algorithm)
    for way in moves.WAYS:
        moves.created(server, repo, way(server, repo, digest, content), digest, content)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("way", moves.WAYS[:5], ids=lambda way: way.__name__)
def test_blob_with_other_digest_is_rejected(server, repo, way, algorithm):
    content = secrets.token_bytes(3 * moves.CHUNK - 5)
    digest = digest_of(content, algorithm)
    way(server, repo, digest, content + b"oh no").must(400).must_explain()
    moves.has_no_blob(server, repo, digest)
    moves.has_no_blob(server, repo, digest_of(content + b"oh no", algorithm))
    moves.created(server, repo, moves.post(server, repo, digest, content), digest, content)


@pytest.fixture
def blob(server, repo, algorithm):
    content = secrets.token_bytes(SIZE)
    digest = digest_of(content, algorithm)
    moves.post_put(server, repo, digest, content).must(201)
    return f"/v2/{repo}/blobs/{digest}", content


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("500-1499", 500, 1499), ("500-", 500, SIZE - 1), ("-500", SIZE - 500, SIZE - 1), ("2000-5000", 2000, SIZE - 1)],
)
def test_blob_range_returns_requested_bytes(server, blob, asked, first, last):
    path, content = blob
    answer = server.wire.get(path, headers={"Range": f"bytes={asked}"}).must(206)
    assert answer.body == content[first : last + 1]
    assert answer.header("Content-Length") == str(last + 1 - first)
    assert answer.header("Content-Range") in (f"bytes {first}-{last}/{SIZE}", f"bytes {first}-{last}/*")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("asked", ["500-0", "5000-10000"])
def test_unsatisfiable_range_is_rejected(server, blob, asked):
    path, _ = blob
    server.wire.get(path, headers={"Range": f"bytes={asked}"}).must(416).must_explain()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_deleted_blob_stays_in_other_repositories(server, repo, blob, algorithm):
    _, content = blob
    digest = digest_of(content, algorithm)
    other = moves.new_name("other")
    moves.post(server, other, digest, content).must(201)
    moves.delete_blob(server, repo, digest)
    moves.has_blob(server, other, digest, content)
    server.wire.delete(f"/v2/{repo}/blobs/{digest}").must(404).must_explain()
