"""Content of every kind: pushed, listed, pulled, checked, deleted."""

import pytest

from tests.conformance import upload_flows as moves
from tests.conformance.content import INDEX
from tests.conformance.documents import DEV, KINDS, make, make_image

# `kept` has been pushed: blobs by every way, manifests by digest and by tag, each response checked.


def test_tags_are_listed(server, kept):
    answer = server.wire.get(f"/v2/{kept.repo}/tags/list").must(200)
    tags = sorted(kept.kind.tags, key=str.encode)
    assert answer.json == {"name": kept.repo, "tags": tags}
    for last in ("", *tags, "tag-param", "zzz"):
        answer = server.wire.get(f"/v2/{kept.repo}/tags/list", query={"last": last}).must(200)
        assert answer.json["tags"] == [tag for tag in tags if tag.encode() > last.encode()]


def test_manifests_are_pulled(server, kept):
    for document in kept.kind.documents:
        moves.has_manifest(server, kept.repo, document.digest, document)
        for tag in kept.kind.tags_of(document):
            moves.has_manifest(server, kept.repo, tag, document)


def test_blobs_are_pulled(server, kept):
    for digest, content in kept.kind.blobs.items():
        moves.has_blob(server, kept.repo, digest, content)


def test_referrers_are_listed(server, kept):
    others = {document.digest for document in kept.kind.documents} - kept.kind.referrers.keys()
    for subject, wanted in [*kept.kind.referrers.items(), *((digest, []) for digest in others)]:
        path = f"/v2/{kept.repo}/referrers/{subject}"
        assert _listed(server.wire.get(path)) == _sorted(wanted)
        kinds = {each["artifactType"] for each in wanted if "artifactType" in each}
        for kind in kinds | {"application/vnd.example.none"}:
            answer = server.wire.get(path, query={"artifactType": kind})
            assert _listed(answer) == _sorted(each for each in wanted if each.get("artifactType") == kind)
            assert answer.header("OCI-Filters-Applied") == "artifactType"


def test_manifests_are_pushed_again(server, kept):
    for document in kept.kind.documents:
        for reference in [
            document.digest,
            *(kept.kind.tags_of(document) if document.digest.startswith("sha256") else []),
        ]:
            for chunked in (True, False):
                answer = moves.put(server, kept.repo, reference, document, chunked=chunked)
                moves.stored(server, answer, document)


@pytest.mark.parametrize("kind", [name for name in KINDS if name not in DEV])
def test_content_is_deleted(server, repo, kind):
    content = make(kind)
    moves.push(server, repo, content)
    moves.delete(server, repo, content)
    assert _nothing(server, repo)
    for subject in content.referrers:
        assert _listed(server.wire.get(f"/v2/{repo}/referrers/{subject}")) == []


@pytest.mark.parametrize("kind", DEV)
def test_content_is_deleted_by_development_rules(dev_server, repo, kind):
    content = make(kind)
    moves.push(dev_server, repo, content)
    moves.delete(dev_server, repo, content)
    assert _nothing(dev_server, repo)


def test_repository_accepts_kinds_in_turn(server, repo):
    """Delete each kind before the next one is pushed, as the specification's suite does."""
    for name in KINDS:
        if server.mode == "dev" or name not in DEV:
            content = make(name)
            moves.push(server, repo, content)
            moves.delete(server, repo, content)
    assert _nothing(server, repo)


def test_deletion_by_digest_removes_tags(server, repo):
    image = make_image()
    moves.push(server, repo, image)
    document = image.documents[0]
    moves.put(server, repo, "second", document).must(201)
    moves.delete_manifest(server, repo, document.digest)
    for tag in (*image.tags, "second"):
        moves.has_no_manifest(server, repo, tag)
    assert _nothing(server, repo)


def test_deleted_tag_leaves_manifest(server, repo):
    image = make_image()
    moves.push(server, repo, image)
    for tag in image.tags:
        moves.delete_manifest(server, repo, tag)
        server.wire.delete(f"/v2/{repo}/manifests/{tag}").must(404).must_explain()
    moves.has_manifest(server, repo, image.documents[0].digest, image.documents[0])


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("chunked", [True, False])
def test_manifest_with_other_digest_is_rejected(server, repo, algorithm, chunked):
    image = make_image(algorithm)
    for digest, content in image.blobs.items():
        moves.post_put(server, repo, digest, content).must(201)
    document = image.documents[0]
    path, headers = f"/v2/{repo}/manifests/{document.digest}", {"Content-Type": document.media_type}
    refused = server.wire.put(path, headers=headers, body=document.body + b"  ", chunked=chunked)
    refused.must(400).must_explain()
    moves.has_no_manifest(server, repo, document.digest)
    moves.stored(server, moves.put(server, repo, document.digest, document), document)


@pytest.mark.parametrize("kind", ["sparse"])
def test_strict_registry_requires_children_first(strict_server, repo, kind):
    content = make(kind)
    for digest, blob in content.blobs.items():
        moves.post_put(strict_server, repo, digest, blob).must(201)
    for tag, digest in content.tags.items():
        document = next(each for each in content.documents if each.digest == digest)
        refused = moves.put(strict_server, repo, tag, document).must(400, 404).must_explain()
        assert {error["code"] for error in refused.json["errors"]} == {"MANIFEST_BLOB_UNKNOWN"}
        moves.has_no_manifest(strict_server, repo, tag)


def _listed(answer):
    answer.must(200)
    assert answer.header("Content-Type") == INDEX
    listed = answer.json
    assert (listed["schemaVersion"], listed["mediaType"]) == (2, INDEX)
    return _sorted(listed["manifests"])


def _sorted(descriptors):
    return sorted(descriptors, key=lambda descriptor: descriptor["digest"])


def _nothing(server, repo):
    """Return True if a repository has no tags or does not exist."""
    answer = server.wire.get(f"/v2/{repo}/tags/list").must(200, 404)
    return answer.status == 404 or answer.json["tags"] == []
