"""Manifests of a repository: resolved, fetched, pushed and deleted."""

import gzip
import hashlib
import json
import tracemalloc
import zlib

import pytest
from ocikit import errors
from ocikit.remote.registry import Registry
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.manifest import Manifest

from tests.support.fake_registry import Response, error_response
from tests.support.manifests import DESCRIPTOR, INDEX, MANIFESTS, OCI, RAW, manifest, targets


def test_resolve_sends_one_head_request(tagged, repository):
    resolved = repository.resolve("v1")
    assert (resolved.digest, resolved.size, resolved.media_type) == (DESCRIPTOR.digest, len(RAW), OCI)
    assert [(r.method, r.path) for r in tagged.requests] == [("HEAD", "/v2/a/b/manifests/v1")]


def test_accept_header_lists_all_types(tagged, repository):
    """Docker's index, too; Quay and distribution answer 404 without OCI's."""
    repository.resolve("v1")
    repository.fetch(DESCRIPTOR)
    for request in tagged.requests:
        accepted = {t.strip() for t in request.headers["Accept"].split(",")}
        assert accepted == {OCI, INDEX, media_types.DOCKER_MANIFEST, media_types.DOCKER_INDEX, media_types.OCI_ARTIFACT}


@pytest.mark.parametrize(
    "fault",
    [
        {"without": ("Docker-Content-Digest",)},
        {"status": 405},
        {"status": 400},
        {"status": 501},
        {"headers": {"Docker-Content-Digest": "nonsense"}},
        {"headers": {"Docker-Content-Digest": "sha256:short"}},
        {"headers": {"Content-Encoding": "gzip", "Content-Length": "7"}},
        {"headers": {"Content-Length": "0"}},
        {"headers": {"Content-Type": "application/json"}},
        {"without": ("Content-Type",)},
    ],
)
def test_incomplete_head_response_is_followed_by_get(tagged, repository, fault):
    """Harbor and GAR return another length for HEAD: regclient PR#801, oras-go#1176."""
    tagged.on("HEAD", MANIFESTS, times=None, **fault)
    resolved = repository.resolve("v1")
    assert (resolved.digest, resolved.size, resolved.media_type) == (DESCRIPTOR.digest, len(RAW), OCI)
    assert [r.method for r in tagged.seen(".*", MANIFESTS)] == ["HEAD", "GET"]


def test_body_read_by_resolve_is_not_requested_again(tagged, repository):
    tagged.on("HEAD", MANIFESTS, without=("Docker-Content-Digest",), times=None)
    resolved = repository.resolve("v1")
    assert repository.fetch(resolved) == RAW
    assert targets(tagged, "GET") == ["v1"]
    assert repository.fetch(resolved) == RAW
    assert targets(tagged, "GET") == ["v1", DESCRIPTOR.digest], (
        "the body is used once, because the manifest may have been deleted since"
    )


@pytest.mark.parametrize("length", [7, len(RAW) + 1, 3 << 20])
def test_wrong_length_in_head_response_is_tolerated(tagged, repository, length):
    tagged.on("HEAD", MANIFESTS, headers={"Content-Length": length}, times=None)
    for named in ("v1", DESCRIPTOR.digest):
        resolved = repository.resolve(named)
        assert (resolved.digest, resolved.size) == (DESCRIPTOR.digest, length)
        assert repository.fetch(resolved) == RAW
        assert repository.resolve_verified(named).size == len(RAW)
    repository.tag(resolved, "v2")
    assert tagged.tags["a/b", "v2"] == DESCRIPTOR.digest
    with pytest.raises(errors.SizeMismatch):
        repository.fetch(Descriptor(media_type=OCI, digest=DESCRIPTOR.digest, size=length + 1))
    tagged.on("GET", MANIFESTS, body=RAW.replace(b'"1"', b'"2"'), times=None)
    with pytest.raises(errors.DigestMismatch):
        repository.fetch(repository.resolve("v1"))


def test_invalid_digest_header_is_ignored(tagged, repository):
    tagged.on("(HEAD|GET)", MANIFESTS, headers={"Docker-Content-Digest": "nonsense"}, times=None)
    assert repository.resolve("v1").digest == DESCRIPTOR.digest


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_resolve_is_not_repeated(tagged, repository, status):
    tagged.on(".*", MANIFESTS, status=status, times=None)
    with pytest.raises((errors.Unauthorized, errors.Denied)):
        repository.resolve("v1")
    assert len(tagged.requests) == 1


def test_digest_of_any_algorithm_resolves_to_itself(server, repository):
    digest = "sha512:" + hashlib.sha512(RAW).hexdigest()
    server.manifests["a/b", digest] = RAW, OCI
    assert repository.resolve(digest).digest == digest
    server.on("HEAD", MANIFESTS, status=405, times=None)
    assert repository.resolve(digest).digest == digest
    assert repository.fetch(repository.resolve(digest)) == RAW


def test_manifest_bytes_stay_unchanged(tagged, repository):
    """Odd spacing, key order and unknown keys are part of the digest."""
    descriptor = repository.resolve("v1")
    assert repository.fetch(descriptor) == RAW
    repository.tag(descriptor, "v2")
    put = tagged.seen("PUT")[0]
    assert put.body == RAW and put.headers["Content-Type"] == OCI
    assert tagged.tags["a/b", "v2"] == DESCRIPTOR.digest
    document = repository.document(descriptor)
    assert document.raw == RAW and document.digest == DESCRIPTOR.digest


def test_content_type_parameters_are_ignored(tagged, repository):
    tagged.on(".*", MANIFESTS, headers={"Content-Type": f"{OCI}; charset=utf-8"}, times=None)
    descriptor = repository.resolve("v1")
    assert descriptor.media_type == OCI
    assert repository.fetch(descriptor) == RAW


@pytest.mark.parametrize("kind", [media_types.DOCKER_MANIFEST, INDEX])
def test_contradicting_content_type_is_rejected(tagged, repository, kind):
    tagged.on("GET", MANIFESTS, headers={"Content-Type": kind}, times=None)
    with pytest.raises(errors.InvalidDocument):
        repository.fetch(DESCRIPTOR)
    tagged.on("HEAD", MANIFESTS, status=405, times=None)
    with pytest.raises(errors.InvalidDocument):
        repository.resolve("v1")


def test_generic_content_type_is_accepted(tagged, repository):
    tagged.on("GET", MANIFESTS, headers={"Content-Type": "application/json"})
    assert repository.fetch(DESCRIPTOR) == RAW


def test_manifest_with_other_bytes_is_rejected(tagged, repository):
    changed = RAW.replace(b'"1"', b'"2"')
    assert len(changed) == len(RAW)
    tagged.on("GET", MANIFESTS, body=changed, times=None)
    with pytest.raises(errors.DigestMismatch):
        repository.fetch(DESCRIPTOR)
    tagged.on("GET", MANIFESTS, body=RAW + b" ", times=None)
    with pytest.raises(errors.SizeMismatch):
        repository.fetch(DESCRIPTOR)


def test_announced_digest_is_verified(tagged, repository):
    """The digest in the HEAD response is verified against the bytes."""
    wrong_digest = "sha256:" + "0" * 64
    tagged.on("(HEAD|GET)", MANIFESTS, headers={"Docker-Content-Digest": wrong_digest}, times=None)
    resolved = repository.resolve("v1")
    with pytest.raises(errors.NotFound):
        repository.fetch(resolved)
    tagged.manifests["a/b", wrong_digest] = RAW, OCI
    with pytest.raises(errors.DigestMismatch):
        repository.fetch(resolved)
    tagged.on("HEAD", MANIFESTS, status=405, times=None)
    with pytest.raises(errors.DigestMismatch):
        repository.resolve("v1")


def test_manifest_limit_is_between_five_and_nine_mebibytes(server, repository):
    large, descriptor = manifest(annotations={"pad": "x" * (5 << 20)})
    server.manifest("a/b", large, "large")
    assert repository.fetch(descriptor, limit=8 << 20) == large
    with pytest.raises(errors.InvalidDocument, match="limit"):
        repository.fetch(descriptor)
    assert repository.get_manifest("large")[0] == large
    huge, descriptor = manifest(annotations={"pad": "x" * (9 << 20)})
    server.manifest("a/b", huge, "huge")
    with pytest.raises(errors.TooLarge, match="limit"):
        repository.get_manifest("huge")
    with pytest.raises(errors.OcikitError):
        repository.fetch(descriptor, limit=8 << 20)


def test_claimed_size_allocates_no_memory(server, repository):
    """No memory is allocated for the claimed size: GHSA-f36w-mj3v-6jqv."""
    server.manifest("a/b", RAW)
    with pytest.raises(errors.InvalidDocument):
        repository.fetch(Descriptor(media_type=OCI, digest=DESCRIPTOR.digest, size=2**62))
    assert server.requests == []
    with pytest.raises(errors.SizeMismatch):
        repository.fetch(Descriptor(media_type=OCI, digest=DESCRIPTOR.digest, size=3 << 20))


@pytest.mark.parametrize("kind", ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", OCI])
def test_schema_1_raises_with_raw_bytes(server, repository, kind):
    raw = b'{"schemaVersion": 1, "name": "a/b", "tag": "v1", "fsLayers": []}'
    server.manifest("a/b", raw, "v1", media_type=kind)
    server.on("HEAD", MANIFESTS, status=405, times=None)
    with pytest.raises(errors.UnsupportedSchema1) as caught:
        repository.resolve("v1")
    assert caught.value.raw == raw


def test_html_response_is_not_parsed_as_manifest(server, repository):
    server.on(
        ".*",
        MANIFESTS,
        status=200,
        headers={"Content-Type": "text/html; charset=utf-8"},
        body=b"<html>Sign in</html>",
        times=None,
    )
    with pytest.raises(errors.InvalidResponse, match="text/html") as caught:
        repository.resolve("v1")
    assert "login page" in caught.value.hint


@pytest.mark.parametrize("named", ["v1", DESCRIPTOR.digest])
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "zstd", "br", "gzip, gzip", "nonsense"])
def test_false_content_encoding_is_ignored(tagged, repository, named, announced, chunked, encoding):
    without = () if announced else ("Docker-Content-Digest",)
    tagged.on("GET", MANIFESTS, headers={"Content-Encoding": encoding}, without=without, chunked=chunked, times=None)
    assert repository.get_manifest(named)[0] == RAW
    assert len(tagged.seen("GET")) == 1, "there is only one request"


@pytest.mark.parametrize("named", ["v1", DESCRIPTOR.digest])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda raw: gzip.compress(gzip.compress(raw))])
def test_compressed_document_is_decoded(tagged, repository, named, pack):
    encoding = {gzip.compress: "gzip", zlib.compress: "deflate"}.get(pack, "gzip, x-gzip")
    tagged.on("GET", MANIFESTS, headers={"Content-Encoding": encoding}, body=pack(RAW), times=None)
    assert repository.get_manifest(named)[0] == RAW
    assert repository.fetch(DESCRIPTOR) == RAW


def test_digest_decides_whether_document_is_encoded(server, repository):
    packed = gzip.compress(RAW)
    digest = server.manifest("a/b", packed, "v1")
    server.on("GET", MANIFESTS, headers={"Content-Encoding": "gzip"}, times=None)
    assert repository.get_manifest(digest)[0] == packed
    assert repository.get_manifest("v1")[0] == packed
    server.on("GET", MANIFESTS, headers={"Content-Encoding": "gzip"}, without=("Docker-Content-Digest",), times=None)
    assert repository.get_manifest("v1")[0] == RAW


@pytest.mark.parametrize("size", [200_000, 200_001, 64 << 20])
@pytest.mark.parametrize("packed", [True, False])
def test_limit_holds_before_and_after_decoding(server, repository, size, packed):
    body = b" " * size
    server.on(
        "GET",
        MANIFESTS,
        status=200,
        headers={"Content-Encoding": "gzip"},
        body=gzip.compress(body) if packed else body,
        times=None,
    )
    tracemalloc.start()
    try:
        if size <= 200_000:
            assert repository.get_manifest("v1", limit=200_000)[0] == body
        else:
            with pytest.raises(errors.TooLarge, match="200000"):
                repository.get_manifest("v1", limit=200_000)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20 or not packed
    finally:
        tracemalloc.stop()
    assert len(server.seen("GET")) == 1


def test_interrupted_compressed_document_is_requested_again(tagged, repository):
    tagged.on("GET", MANIFESTS, gzip=True, cut=30)
    assert repository.fetch(DESCRIPTOR) == RAW
    assert len(tagged.seen("GET")) == 2


def test_document_returns_manifest(tagged, repository):
    assert isinstance(repository.document(DESCRIPTOR), Manifest)


@pytest.mark.parametrize("code", ["UNKNOWN", "NOT_FOUND", ""])
def test_404_with_any_code_raises_not_found(server, repository, code):
    """The status decides because Harbor reports absence with the code UNKNOWN."""
    server.on(".*", "/v2/.*", change=lambda r, a: error_response(404, code), times=None)
    with pytest.raises(errors.ManifestUnknown):
        repository.fetch(DESCRIPTOR)
    with pytest.raises(errors.BlobUnknown):
        repository.open(Descriptor.of(b"x", "x/y")).read()
    with pytest.raises(errors.NameUnknown):
        repository.tags()
    assert repository.exists(DESCRIPTOR) is False


def test_invalid_names_are_rejected_before_any_request(server, repository):
    for reference in ("", "-x", "a b", "x" * 129, "sha256:short", "../v1", "v1?x"):
        with pytest.raises(errors.OcikitError):
            repository.resolve(reference)
    for name in ("A/b", "a//b", "../a", "a/b:v1", ""):
        with pytest.raises(errors.InvalidReference):
            Registry(repository.transport).repository(name)
    assert server.requests == []


def test_exists_sends_head_requests(tagged, repository):
    blob = Descriptor.of(b"content", "x/y")
    assert repository.exists(DESCRIPTOR) is True
    assert repository.exists(blob) is False
    tagged.blob("a/b", b"content")
    assert repository.exists(blob) is True
    assert {r.method for r in tagged.requests} == {"HEAD"}


def test_403_to_head_counts_as_absent(server, repository):
    """Artifactory answers 403 to HEAD for missing content: RTFACT-13797."""
    server.on("HEAD", ".*", status=403, times=None)
    assert repository.exists(Descriptor.of(b"x", "x/y")) is False
    assert repository.exists(DESCRIPTOR) is False


@pytest.mark.parametrize("status", [401, 500])
def test_failed_head_raises(server, open_repository, status):
    server.on("HEAD", ".*", status=status, times=None)
    with pytest.raises(errors.RegistryError):
        open_repository(server, retries=0).exists(DESCRIPTOR)


def test_unreachable_registry_raises_instead_of_empty_results(open_repository):
    """Without a connection there is no empty list of tags."""
    repository = open_repository("127.0.0.1:9", retries=0)
    for call in (
        repository.tags,
        lambda: repository.resolve("v1"),
        lambda: repository.exists(DESCRIPTOR),
        lambda: repository.referrers(DESCRIPTOR),
    ):
        with pytest.raises(errors.ConnectionFailed):
            call()


def test_push_sends_exact_bytes_under_tag(server, repository):
    repository.push_bytes(DESCRIPTOR, RAW, tag="v1")
    (put,) = server.requests
    assert (put.method, put.path, put.body) == ("PUT", "/v2/a/b/manifests/v1", RAW)
    assert put.headers["Content-Type"] == OCI
    assert server.tags["a/b", "v1"] == DESCRIPTOR.digest


def test_supported_tags_are_set_in_one_request(server, repository):
    server.multi_tags = True
    repository.push_document(DESCRIPTOR, RAW, tags=["1", "1.2", "1.2.3", "latest"])
    (put,) = server.requests
    assert put.path == f"/v2/a/b/manifests/{DESCRIPTOR.digest}"
    assert put.query == {"tag": ["1", "1.2", "1.2.3", "latest"]}
    assert {t for _, t in server.tags} == {"1", "1.2", "1.2.3", "latest"}


def test_unaccepted_tags_are_pushed_one_by_one(server, repository):
    repository.push_document(DESCRIPTOR, RAW, tags=["1", "2"])
    assert targets(server, "PUT") == [DESCRIPTOR.digest, "1", "2"]
    server.requests.clear()
    server.multi_tags = True
    server.on("PUT", MANIFESTS, headers={"OCI-Tag": ["1, 2", "3"]})
    repository.push_document(DESCRIPTOR, RAW, tags=["1", "2", "3", "4"])
    assert targets(server, "PUT") == [DESCRIPTOR.digest, "4"]


@pytest.mark.parametrize("status", [414, 431])
def test_tags_beyond_url_limit_are_pushed_one_by_one(server, repository, status):
    server.on("PUT", MANIFESTS, when=lambda r: "tag" in r.query, status=status, times=None)
    tags = [f"v{n}" for n in range(20)]
    repository.push_document(DESCRIPTOR, RAW, tags=tags)
    assert sorted(t for _, t in server.tags) == sorted(tags)


def test_other_stored_digest_raises_upload_invalid(server, repository):
    server.on("PUT", MANIFESTS, headers={"Docker-Content-Digest": "sha256:" + "0" * 64}, times=None)
    with pytest.raises(errors.UploadInvalid, match="stored"):
        repository.push_bytes(DESCRIPTOR, RAW, tag="v1")


def test_mismatched_bytes_are_not_sent(server, repository):
    with pytest.raises(errors.ContentError):
        repository.push_bytes(DESCRIPTOR, RAW + b" ", tag="v1")
    with pytest.raises(errors.InvalidReference):
        repository.push_bytes(DESCRIPTOR, RAW, tag="not a tag")
    assert server.requests == []


def test_rejected_manifest_error_contains_reason(server, repository):
    """GitLab allows only listed media types: ocx#480."""
    body = {"errors": [{"code": "MANIFEST_INVALID", "message": "unknown media type", "detail": "x/y"}]}
    server.on("PUT", MANIFESTS, status=400, body=json.dumps(body).encode())
    with pytest.raises(errors.UploadInvalid, match="unknown media type"):
        repository.push_bytes(DESCRIPTOR, RAW, tag="v1")
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [{"drop": "after"}, {"drop": "after", "reset": True}, {"lost": 502}])
def test_delete_with_lost_response_succeeds(tagged, repository, fault):
    if status := fault.pop("lost", None):
        fault["change"] = lambda request, answer: Response(status)
    blob = Descriptor.of(b"content", "x/y")
    tagged.blob("a/b", b"content")
    for path in ("manifests/v1", "manifests/sha256:.*", "blobs/.*"):
        tagged.on("DELETE", f"/v2/a/b/{path}", **fault)
    repository.untag("v1"), repository.delete(DESCRIPTOR), repository.delete(blob)
    assert tagged.tags == {} and tagged.manifests == {} and tagged.blobs == {}
    assert len(tagged.seen("DELETE")) == 6


def test_delete_removes_manifest_with_its_tags(server, repository):
    server.manifest("a/b", RAW, "v1", "v2")
    repository.delete(DESCRIPTOR)
    assert server.tags == {} and server.manifests == {}


def test_invalid_manifest_can_be_deleted(server, repository):
    raw = b'{"schemaVersion": 1, "fsLayers": []}'
    server.manifest("a/b", raw, "v1")
    repository.delete(Descriptor.of(raw, OCI))
    assert server.manifests == {}


@pytest.mark.parametrize("status", [200, 202, 204])
def test_delete_accepts_any_success_status(tagged, repository, status):
    tagged.on("DELETE", ".*", status=status, times=None)
    repository.delete(DESCRIPTOR)
    repository.untag("v1")


def test_unsupported_delete_raises_with_hint(tagged, repository):
    tagged.on("DELETE", ".*", status=405, body=b'{"errors":[{"code":"UNSUPPORTED"}]}', times=None)
    with pytest.raises(errors.Unsupported) as caught:
        repository.delete(DESCRIPTOR)
    assert caught.value.hint
