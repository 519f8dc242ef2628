"""Upload sessions: status, cancellation, and mounts. spec.md#pushing-blobs."""

import secrets

import pytest

from tests.conformance import upload_flows as moves
from tests.conformance.content import digest_of

ALGORITHMS = ("sha256", "sha512")


def test_session_reports_its_offset(server, repo):
    content = secrets.token_bytes(3 * moves.CHUNK)
    upload = moves.progress(server, moves.begin(server, repo).location, 0).location
    for end in (moves.CHUNK, 2 * moves.CHUNK):
        span = moves.OCTETS | {"Content-Range": f"{end - moves.CHUNK}-{end - 1}"}
        upload = server.wire.patch(upload, headers=span, body=content[end - moves.CHUNK : end]).must(202).location
        upload = moves.progress(server, upload, end).location
    digest = digest_of(content)
    answer = server.wire.put(upload, query={"digest": digest}, headers=moves.OCTETS, body=content[2 * moves.CHUNK :])
    moves.created(server, repo, answer, digest, content)
    server.wire.get(upload).must(404).must_explain()


@pytest.mark.parametrize("method", ["patch", "put"])
def test_session_survives_chunk_out_of_order(server, repo, method):
    content = secrets.token_bytes(2 * moves.CHUNK)
    digest = digest_of(content)
    first, rest = content[: moves.CHUNK], content[moves.CHUNK :]
    span = moves.OCTETS | {"Content-Range": f"0-{moves.CHUNK - 1}"}
    upload = server.wire.patch(moves.begin(server, repo).location, headers=span, body=first).must(202).location
    query = {"digest": digest} if method == "put" else None
    for stray in ("0-1023", "512-1535", "1025-2048", "5000-6023"):
        headers = moves.OCTETS | {"Content-Range": stray}
        answer = getattr(server.wire, method)(upload, query=query, headers=headers, body=first).must(416)
        assert answer.header("Range") == f"0-{moves.CHUNK - 1}"
        upload = moves.progress(server, answer.location, moves.CHUNK).location
    moves.has_no_blob(server, repo, digest)
    span = moves.OCTETS | {"Content-Range": f"{moves.CHUNK}-{len(content) - 1}"}
    answer = server.wire.put(upload, query={"digest": digest}, headers=span, body=rest)
    moves.created(server, repo, answer, digest, content)


@pytest.mark.parametrize("pieces", [0, 1])
def test_session_is_cancelled(dev_server, repo, pieces):
    wire = dev_server.wire
    upload = moves.begin(dev_server, repo).location
    for _ in range(pieces):
        upload = wire.patch(upload, headers=moves.OCTETS, body=b"some", chunked=True).must(202).location
    wire.delete(upload, body=b"").must(204)
    wire.get(upload).must(404).must_explain()
    wire.delete(upload, body=b"").must(404).must_explain()
    wire.put(upload, query={"digest": digest_of(b"some")}, body=b"").must(404).must_explain()
    moves.has_no_blob(dev_server, repo, digest_of(b"some"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_digest_algorithm_is_announced_first(dev_server, repo, algorithm):
    content = secrets.token_bytes(512)
    digest = digest_of(content, algorithm)
    upload = moves.begin(dev_server, repo, **{"digest-algorithm": algorithm}).location
    upload = dev_server.wire.patch(upload, headers=moves.OCTETS, body=content).must(202).location
    answer = dev_server.wire.put(upload, query={"digest": digest}, headers=moves.OCTETS, body=b"")
    moves.created(dev_server, repo, answer, digest, content)


def test_unknown_algorithm_is_rejected(dev_server, repo):
    query = {"digest-algorithm": "crc32"}
    dev_server.wire.post(f"/v2/{repo}/blobs/uploads/", query=query, body=b"").must(400, 404).must_explain()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("named", [True, False], ids=["from", "from anywhere"])
def test_blob_is_mounted(server, repo, named, algorithm):
    content = secrets.token_bytes(512)
    digest, source = digest_of(content, algorithm), moves.new_name("source")
    moves.post_put(server, source, digest, content).must(201)
    query = {"mount": digest} | ({"from": source} if named else {})
    answer = server.wire.post(f"/v2/{repo}/blobs/uploads/", query=query)
    if server.tokens and not named:
        answer.must(202)
        return
    moves.created(server, repo, answer, digest, content)
    moves.delete_blob(server, repo, digest)
    moves.delete_blob(server, source, digest)


@pytest.mark.parametrize("named", [True, False])
def test_blob_is_mounted_after_push_to_same_repository(server, repo, named):
    """A client with a token for this repository mounts from another one."""
    content = secrets.token_bytes(512)
    digest, source = digest_of(content), moves.new_name("source")
    moves.post_put(server, source, digest, content).must(201)
    moves.post_put(server, repo, digest_of(b"before"), b"before").must(201)
    query = {"mount": digest} | ({"from": source} if named else {})
    answer = server.wire.post(f"/v2/{repo}/blobs/uploads/", query=query)
    if server.tokens and not named:
        answer.must(202)
    else:
        moves.created(server, repo, answer, digest, content)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("source", ["there", "not there", "anywhere"])
def test_unmountable_blob_is_pushed(server, repo, source, algorithm):
    content = secrets.token_bytes(512)
    digest = digest_of(content, algorithm)
    query = {"mount": digest}
    if source != "anywhere":
        query["from"] = other = moves.new_name("source")
        if source == "there":
            moves.post_put(server, other, digest_of(b"other"), b"other").must(201)
    answer = server.wire.post(f"/v2/{repo}/blobs/uploads/", query=query).must(202)
    answer = server.wire.put(answer.location, query={"digest": digest}, headers=moves.OCTETS, body=content)
    moves.created(server, repo, answer, digest, content)
