"""A read-only registry: all content stays, and every rejection is an error of the specification."""

import pytest

from tests.conformance import upload_flows as moves
from tests.conformance.content import digest_of
from tests.conformance.documents import KINDS, make_image


@pytest.fixture(params=KINDS)
def held(request, read_only):
    """The registry and its content of one kind."""
    server, kept = read_only
    return server, next(each for each in kept if each.kind.name == request.param)


def test_pushed_content_is_pulled(held):
    server, kept = held
    tags = server.wire.get(f"/v2/{kept.repo}/tags/list").must(200).json["tags"]
    assert tags == sorted(kept.kind.tags)
    for digest, content in kept.kind.blobs.items():
        moves.has_blob(server, kept.repo, digest, content)
    for document in kept.kind.documents:
        for reference in (document.digest, *kept.kind.tags_of(document)):
            moves.has_manifest(server, kept.repo, reference, document)
    for subject, wanted in kept.kind.referrers.items():
        found = server.wire.get(f"/v2/{kept.repo}/referrers/{subject}").must(200).json["manifests"]
        assert {each["digest"] for each in found} == {each["digest"] for each in wanted}


def test_deletion_is_rejected(held):
    server, kept = held
    paths = [f"manifests/{tag}" for tag in kept.kind.tags]
    paths += [f"manifests/{document.digest}" for document in kept.kind.documents]
    paths += [f"blobs/{digest}" for digest in kept.kind.blobs]
    for path in paths:
        server.wire.delete(f"/v2/{kept.repo}/{path}").must(405, 403).must_explain()
    test_pushed_content_is_pulled(held)


def test_manifest_push_is_rejected(held):
    server, kept = held
    for document in kept.kind.documents:
        for reference in (document.digest, *kept.kind.tags_of(document), "new"):
            for chunked in (True, False):
                answer = moves.put(server, kept.repo, reference, document, chunked=chunked)
                answer.must(405, 403).must_explain()
    moves.has_no_manifest(server, kept.repo, "new")


@pytest.mark.parametrize("there", [True, False])
def test_blob_push_is_rejected(read_only, repo, there):
    server, kept = read_only
    repo = kept[0].repo if there else repo
    content = b"new"
    digest, known = digest_of(content), next(iter(kept[0].kind.blobs))
    uploads = f"/v2/{repo}/blobs/uploads/"
    for query in (
        {},
        {"digest": digest},
        {"mount": known, "from": kept[0].repo},
        {"mount": known},
        {"digest-algorithm": "sha512"},
    ):
        server.wire.post(uploads, query=query, headers=moves.OCTETS, body=content).must(405, 403).must_explain()
    for method in ("PATCH", "PUT", "DELETE"):
        answer = server.wire.send(method, uploads + "anything", query={"digest": digest}, body=content)
        answer.must(405, 403).must_explain()
    moves.has_no_blob(server, repo, digest)


def test_no_repository_is_created(read_only, repo):
    server, _ = read_only
    document = make_image().documents[0]
    moves.put(server, repo, "new", document).must(405, 403).must_explain()
    server.wire.get(f"/v2/{repo}/tags/list").must(404).must_explain()
