"""A repository as people use it: manifests, listings, referrers and deletion, with registries as they are."""

import gzip
import hashlib
import json
import logging
import threading
import tracemalloc
import zlib

import pytest
from ocikit import errors
from ocikit.remote import referrers
from ocikit.remote.registry import Registry
from ocikit.spec import media_types
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, Manifest, parse_document

from tests.support.fake_registry import Response, error_response

OCI, INDEX = media_types.OCI_MANIFEST, media_types.OCI_INDEX
EMPTY = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(), "size": 2}  # fmt: skip
MANIFESTS = "/v2/a/b/manifests/.*"
TAGS = "/v2/a/b/tags/list"
REFERRERS = "/v2/a/b/referrers/.*"


def manifest(**fields):
    """The bytes of a manifest, odd spacing and unknown keys included, and its descriptor."""
    media_type = fields.pop("mediaType", OCI)
    document = {"schemaVersion": 2, "mediaType": media_type, "config": EMPTY, "layers": []} | fields
    raw = json.dumps({k: v for k, v in document.items() if v is not None}, indent=3).encode()
    return raw, Descriptor.of(raw, media_type)


RAW, DESCRIPTOR = manifest(annotations={"a": "é", "z": "1"}, future={"key": [1]})


@pytest.fixture
def tagged(server):
    """RAW as v1 in a/b."""
    server.manifest("a/b", RAW, "v1")
    return server


def targets(server, method=".*"):
    return [r.path.rpartition("/")[2] for r in server.seen(method, MANIFESTS)]


# -- resolving and reading


def test_a_tag_is_resolved_by_one_head_request(tagged, repository):
    found = repository.resolve("v1")
    assert (found.digest, found.size, found.media_type) == (DESCRIPTOR.digest, len(RAW), OCI)
    assert [(r.method, r.path) for r in tagged.requests] == [("HEAD", "/v2/a/b/manifests/v1")]


def test_all_four_types_are_accepted_in_one_header(tagged, repository):
    """Docker's list too; Quay and distribution answer 404 without OCI's."""
    repository.resolve("v1")
    repository.fetch(DESCRIPTOR)
    for request in tagged.requests:
        accepted = {t.strip() for t in request.headers["Accept"].split(",")}
        assert accepted == {OCI, INDEX, media_types.DOCKER_MANIFEST, media_types.DOCKER_INDEX}


@pytest.mark.parametrize(
    "fault",
    [
        {"without": ("Docker-Content-Digest",)}, {"status": 405}, {"status": 400}, {"status": 501},
        {"headers": {"Docker-Content-Digest": "nonsense"}}, {"headers": {"Docker-Content-Digest": "sha256:short"}},
        {"headers": {"Content-Encoding": "gzip", "Content-Length": "7"}}, {"headers": {"Content-Length": "0"}},
        {"headers": {"Content-Type": "application/json"}}, {"without": ("Content-Type",)},
    ],
)  # fmt: skip
def test_where_head_tells_too_little_the_body_tells(tagged, repository, fault):
    """regclient PR#801, oras-go#1176: Harbor and GAR give HEAD another length."""
    tagged.on("HEAD", MANIFESTS, times=None, **fault)
    found = repository.resolve("v1")
    assert (found.digest, found.size, found.media_type) == (DESCRIPTOR.digest, len(RAW), OCI)
    assert [r.method for r in tagged.seen(".*", MANIFESTS)] == ["HEAD", "GET"]


def test_a_body_that_came_to_tell_the_digest_is_not_asked_for_again(tagged, repository):
    tagged.on("HEAD", MANIFESTS, without=("Docker-Content-Digest",), times=None)
    found = repository.resolve("v1")
    assert repository.fetch(found) == RAW
    assert targets(tagged, "GET") == ["v1"]
    assert repository.fetch(found) == RAW
    assert targets(tagged, "GET") == ["v1", DESCRIPTOR.digest], "once: it may have been deleted since"


@pytest.mark.parametrize("length", [7, len(RAW) + 1, 3 << 20])
def test_a_wrong_length_of_a_head_is_no_reason_to_refuse_the_document(tagged, repository, length):
    tagged.on("HEAD", MANIFESTS, headers={"Content-Length": length}, times=None)
    for named in ("v1", DESCRIPTOR.digest):
        found = repository.resolve(named)
        assert (found.digest, found.size) == (DESCRIPTOR.digest, length)
        assert repository.fetch(found) == RAW
        assert repository.resolve_verified(named).size == len(RAW)
    repository.tag(found, "v2")
    assert tagged.tags["a/b", "v2"] == DESCRIPTOR.digest
    with pytest.raises(errors.SizeMismatch):
        repository.fetch(Descriptor(media_type=OCI, digest=DESCRIPTOR.digest, size=length + 1))
    tagged.on("GET", MANIFESTS, body=RAW.replace(b'"1"', b'"2"'), times=None)
    with pytest.raises(errors.DigestMismatch):
        repository.fetch(repository.resolve("v1"))


def test_a_nonsense_digest_in_the_header_does_not_matter_where_the_body_tells(tagged, repository):
    tagged.on("(HEAD|GET)", MANIFESTS, headers={"Docker-Content-Digest": "nonsense"}, times=None)
    assert repository.resolve("v1").digest == DESCRIPTOR.digest


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_asked_twice(tagged, repository, status):
    tagged.on(".*", MANIFESTS, status=status, times=None)
    with pytest.raises((errors.Unauthorized, errors.Denied)):
        repository.resolve("v1")
    assert len(tagged.requests) == 1


def test_a_digest_resolves_to_itself_in_any_algorithm(server, repository):
    digest = "sha512:" + hashlib.sha512(RAW).hexdigest()
    server.manifests["a/b", digest] = RAW, OCI
    assert repository.resolve(digest).digest == digest
    server.on("HEAD", MANIFESTS, status=405, times=None)
    assert repository.resolve(digest).digest == digest
    assert repository.fetch(repository.resolve(digest)) == RAW


def test_the_bytes_stay_as_they_are(tagged, repository):
    """Odd spacing, key order and unknown keys are part of the digest."""
    descriptor = repository.resolve("v1")
    assert repository.fetch(descriptor) == RAW
    repository.tag(descriptor, "v2")
    put = tagged.seen("PUT")[0]
    assert put.body == RAW and put.headers["Content-Type"] == OCI
    assert tagged.tags["a/b", "v2"] == DESCRIPTOR.digest
    document = repository.document(descriptor)
    assert document.raw == RAW and document.digest == DESCRIPTOR.digest


def test_parameters_of_a_content_type_are_ignored(tagged, repository):
    tagged.on(".*", MANIFESTS, headers={"Content-Type": f"{OCI}; charset=utf-8"}, times=None)
    descriptor = repository.resolve("v1")
    assert descriptor.media_type == OCI
    assert repository.fetch(descriptor) == RAW


@pytest.mark.parametrize("kind", [media_types.DOCKER_MANIFEST, INDEX])
def test_a_content_type_that_contradicts_the_document_is_refused(tagged, repository, kind):
    tagged.on("GET", MANIFESTS, headers={"Content-Type": kind}, times=None)
    with pytest.raises(errors.InvalidDocument):
        repository.fetch(DESCRIPTOR)
    tagged.on("HEAD", MANIFESTS, status=405, times=None)
    with pytest.raises(errors.InvalidDocument):
        repository.resolve("v1")


def test_a_vague_content_type_is_no_contradiction(tagged, repository):
    tagged.on("GET", MANIFESTS, headers={"Content-Type": "application/json"})
    assert repository.fetch(DESCRIPTOR) == RAW


def test_a_manifest_of_other_bytes_is_refused(tagged, repository):
    changed = RAW.replace(b'"1"', b'"2"')
    assert len(changed) == len(RAW)
    tagged.on("GET", MANIFESTS, body=changed, times=None)
    with pytest.raises(errors.DigestMismatch):
        repository.fetch(DESCRIPTOR)
    tagged.on("GET", MANIFESTS, body=RAW + b" ", times=None)
    with pytest.raises(errors.SizeMismatch):
        repository.fetch(DESCRIPTOR)


def test_the_digest_that_a_registry_announces_is_not_trusted(tagged, repository):
    """What HEAD says is held against the bytes."""
    lie = "sha256:" + "0" * 64
    tagged.on("(HEAD|GET)", MANIFESTS, headers={"Docker-Content-Digest": lie}, times=None)
    found = repository.resolve("v1")
    with pytest.raises(errors.NotFound):
        repository.fetch(found)
    tagged.manifests["a/b", lie] = RAW, OCI
    with pytest.raises(errors.DigestMismatch):
        repository.fetch(found)
    tagged.on("HEAD", MANIFESTS, status=405, times=None)
    with pytest.raises(errors.DigestMismatch):
        repository.resolve("v1")


def test_a_manifest_of_five_mebibytes_is_read_and_one_of_nine_is_not(server, repository):
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


def test_a_size_that_a_descriptor_claims_is_not_believed(server, repository):
    """GHSA-f36w-mj3v-6jqv: no memory is set aside for it."""
    server.manifest("a/b", RAW)
    with pytest.raises(errors.InvalidDocument):
        repository.fetch(Descriptor(media_type=OCI, digest=DESCRIPTOR.digest, size=2**62))
    assert server.requests == []
    with pytest.raises(errors.SizeMismatch):
        repository.fetch(Descriptor(media_type=OCI, digest=DESCRIPTOR.digest, size=3 << 20))


@pytest.mark.parametrize("kind", ["application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", OCI])
def test_schema_1_is_named_and_its_bytes_are_there(server, repository, kind):
    raw = b'{"schemaVersion": 1, "name": "a/b", "tag": "v1", "fsLayers": []}'
    server.manifest("a/b", raw, "v1", media_type=kind)
    server.on("HEAD", MANIFESTS, status=405, times=None)
    with pytest.raises(errors.UnsupportedSchema1) as caught:
        repository.resolve("v1")
    assert caught.value.raw == raw


def test_a_page_of_html_is_no_manifest(server, repository):
    server.on(".*", MANIFESTS, status=200, headers={"Content-Type": "text/html; charset=utf-8"}, body=b"<html>Sign in</html>", times=None)  # fmt: skip
    with pytest.raises(errors.InvalidResponse, match="text/html") as caught:
        repository.resolve("v1")
    assert "login page" in caught.value.hint


@pytest.mark.parametrize("named", ["v1", DESCRIPTOR.digest])
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "zstd", "br", "gzip, gzip", "nonsense"])
def test_a_document_that_is_only_called_compressed_is_taken_as_it_came(tagged, repository, named, announced, chunked, encoding):  # fmt: skip
    without = () if announced else ("Docker-Content-Digest",)
    tagged.on("GET", MANIFESTS, headers={"Content-Encoding": encoding}, without=without, chunked=chunked, times=None)
    assert repository.get_manifest(named)[0] == RAW
    assert len(tagged.seen("GET")) == 1, "nothing was asked for again"


@pytest.mark.parametrize("named", ["v1", DESCRIPTOR.digest])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress, lambda raw: gzip.compress(gzip.compress(raw))])
def test_a_document_that_something_compressed_is_unpacked(tagged, repository, named, pack):
    encoding = {gzip.compress: "gzip", zlib.compress: "deflate"}.get(pack, "gzip, x-gzip")
    tagged.on("GET", MANIFESTS, headers={"Content-Encoding": encoding}, body=pack(RAW), times=None)
    assert repository.get_manifest(named)[0] == RAW
    assert repository.fetch(DESCRIPTOR) == RAW


def test_the_digest_tells_whether_a_compressed_answer_is_the_document_itself(server, repository):
    packed = gzip.compress(RAW)
    digest = server.manifest("a/b", packed, "v1")
    server.on("GET", MANIFESTS, headers={"Content-Encoding": "gzip"}, times=None)
    assert repository.get_manifest(digest)[0] == packed
    assert repository.get_manifest("v1")[0] == packed
    server.on("GET", MANIFESTS, headers={"Content-Encoding": "gzip"}, without=("Docker-Content-Digest",), times=None)
    assert repository.get_manifest("v1")[0] == RAW


@pytest.mark.parametrize("size", [200_000, 200_001, 64 << 20])
@pytest.mark.parametrize("packed", [True, False])
def test_the_limit_holds_for_a_document_before_and_after_it_is_unpacked(server, repository, size, packed):
    body = b" " * size
    server.on("GET", MANIFESTS, status=200, headers={"Content-Encoding": "gzip"}, body=gzip.compress(body) if packed else body, times=None)  # fmt: skip
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


def test_a_compressed_document_whose_connection_breaks_is_asked_for_again(tagged, repository):
    tagged.on("GET", MANIFESTS, gzip=True, cut=30)
    assert repository.fetch(DESCRIPTOR) == RAW
    assert len(tagged.seen("GET")) == 2


# -- what isn't there


def test_a_missing_tag_names_the_nearest(server, repository):
    for tag in ("v1.0.0", "v1.0.1", "latest", "nightly"):
        server.manifest("a/b", RAW, tag)
    with pytest.raises(errors.ManifestUnknown) as caught:
        repository.resolve("v1.0.3")
    text = str(caught.value)
    assert "v1.0.0" in text and "v1.0.1" in text and "lists all 4" in text
    assert f"{server.host}/a/b" in text
    assert isinstance(caught.value, LookupError)


def test_a_missing_repository_is_not_a_missing_tag(server, repository):
    with pytest.raises(errors.NameUnknown, match="no repository a/b"):
        repository.resolve("v1")
    with pytest.raises(errors.NameUnknown):
        repository.tags()


def test_a_repository_without_tags_says_so(server, repository):
    server.blob("a/b", b"x")
    with pytest.raises(errors.ManifestUnknown, match="no tags at all"):
        repository.resolve("v1")


@pytest.mark.parametrize("code", ["UNKNOWN", "NOT_FOUND", ""])
def test_absence_by_any_name_is_absence(server, repository, code):
    """Harbor reports it under UNKNOWN: the status decides."""
    server.on(".*", "/v2/.*", change=lambda r, a: error_response(404, code), times=None)
    with pytest.raises(errors.ManifestUnknown):
        repository.fetch(DESCRIPTOR)
    with pytest.raises(errors.BlobUnknown):
        repository.open(Descriptor.of(b"x", "x/y")).read()
    with pytest.raises(errors.NameUnknown):
        repository.tags()
    assert repository.exists(DESCRIPTOR) is False


def test_what_is_wrong_is_refused_before_anything_is_sent(server, repository):
    for reference in ("", "-x", "a b", "x" * 129, "sha256:short", "../v1", "v1?x"):
        with pytest.raises(errors.OcikitError):
            repository.resolve(reference)
    for name in ("A/b", "a//b", "../a", "a/b:v1", ""):
        with pytest.raises(errors.InvalidReference):
            Registry(repository.transport).repository(name)
    assert server.requests == []


# -- existence


def test_existence_is_a_head_request(tagged, repository):
    blob = Descriptor.of(b"content", "x/y")
    assert repository.exists(DESCRIPTOR) is True
    assert repository.exists(blob) is False
    tagged.blob("a/b", b"content")
    assert repository.exists(blob) is True
    assert {r.method for r in tagged.requests} == {"HEAD"}


def test_a_403_to_a_question_before_a_push_means_not_known(server, repository):
    """Artifactory: RTFACT-13797."""
    server.on("HEAD", ".*", status=403, times=None)
    assert repository.exists(Descriptor.of(b"x", "x/y")) is False
    assert repository.exists(DESCRIPTOR) is False


@pytest.mark.parametrize("status", [401, 500])
def test_a_failure_is_not_an_absence(server, open_repository, status):
    server.on("HEAD", ".*", status=status, times=None)
    with pytest.raises(errors.RegistryError):
        open_repository(server, retries=0).exists(DESCRIPTOR)


def test_a_registry_that_is_down_has_no_empty_list_of_tags(open_repository):
    """A registry that is down is not one without tags."""
    repository = open_repository("127.0.0.1:9", retries=0)
    for call in (repository.tags, lambda: repository.resolve("v1"), lambda: repository.exists(DESCRIPTOR), lambda: repository.referrers(DESCRIPTOR)):  # fmt: skip
        with pytest.raises(errors.ConnectionFailed):
            call()


# -- pushing manifests


def test_a_manifest_is_pushed_as_its_bytes_under_its_tag(server, repository):
    repository.push_bytes(DESCRIPTOR, RAW, tag="v1")
    (put,) = server.requests
    assert (put.method, put.path, put.body) == ("PUT", "/v2/a/b/manifests/v1", RAW)
    assert put.headers["Content-Type"] == OCI
    assert server.tags["a/b", "v1"] == DESCRIPTOR.digest


def test_many_tags_go_along_where_the_registry_takes_them(server, repository):
    server.multi_tags = True
    repository.push_document(DESCRIPTOR, RAW, tags=["1", "1.2", "1.2.3", "latest"])
    (put,) = server.requests
    assert put.path == f"/v2/a/b/manifests/{DESCRIPTOR.digest}"
    assert put.query == {"tag": ["1", "1.2", "1.2.3", "latest"]}
    assert {t for _, t in server.tags} == {"1", "1.2", "1.2.3", "latest"}


def test_tags_that_were_not_taken_are_pushed_one_by_one(server, repository):
    repository.push_document(DESCRIPTOR, RAW, tags=["1", "2"])
    assert targets(server, "PUT") == [DESCRIPTOR.digest, "1", "2"]
    server.requests.clear()
    server.multi_tags = True
    server.on("PUT", MANIFESTS, headers={"OCI-Tag": ["1, 2", "3"]})
    repository.push_document(DESCRIPTOR, RAW, tags=["1", "2", "3", "4"])
    assert targets(server, "PUT") == [DESCRIPTOR.digest, "4"]


@pytest.mark.parametrize("status", [414, 431])
def test_too_many_tags_for_one_request_are_pushed_one_by_one(server, repository, status):
    server.on("PUT", MANIFESTS, when=lambda r: "tag" in r.query, status=status, times=None)
    tags = [f"v{n}" for n in range(20)]
    repository.push_document(DESCRIPTOR, RAW, tags=tags)
    assert sorted(t for _, t in server.tags) == sorted(tags)


def test_a_registry_that_stores_something_else_is_found_out(server, repository):
    server.on("PUT", MANIFESTS, headers={"Docker-Content-Digest": "sha256:" + "0" * 64}, times=None)
    with pytest.raises(errors.UploadInvalid, match="stored"):
        repository.push_bytes(DESCRIPTOR, RAW, tag="v1")


def test_bytes_that_are_not_the_descriptors_are_not_sent(server, repository):
    with pytest.raises(errors.ContentError):
        repository.push_bytes(DESCRIPTOR, RAW + b" ", tag="v1")
    with pytest.raises(errors.InvalidReference):
        repository.push_bytes(DESCRIPTOR, RAW, tag="not a tag")
    assert server.requests == []


def test_a_refused_manifest_says_why(server, repository):
    """GitLab's list of allowed types: ocx#480."""
    body = {"errors": [{"code": "MANIFEST_INVALID", "message": "unknown media type", "detail": "x/y"}]}
    server.on("PUT", MANIFESTS, status=400, body=json.dumps(body).encode())
    with pytest.raises(errors.UploadInvalid, match="unknown media type"):
        repository.push_bytes(DESCRIPTOR, RAW, tag="v1")
    assert len(server.requests) == 1


# -- listing tags


def list_of(server, *pages, header=None):
    """Let the list of tags have these pages; `header` makes the Link of the n-th."""

    def change(request, answer):
        n = int(request.query.get("page", ["0"])[0])
        headers = {"Content-Type": "application/json"}
        if n + 1 < len(pages) and header:
            headers["Link"] = header(n + 1)
        return Response(200, headers, json.dumps({"name": "a/b", "tags": pages[n]}).encode())

    server.on("GET", "/v2/.*", times=None, change=change)


@pytest.mark.parametrize(
    "link",
    [
        '<http://{host}/v2/a/b/tags/list?page={n}>; rel="next"',
        '</v2/a/b/tags/list?page={n}>; rel="next"',
        '<list?page={n}>; rel="next"',
        '<?page={n}>; rel="next"',
        '<?page={n}>;rel="next"',
        "<?page={n}>;rel=next",
        '<?page={n}>; title="a, b; c"; rel="next"',
        '<?page={n}>; rel="prefetch next"; x=y',
        '<?page=9>; rel="prev", <?page={n}>; rel="next", </last>; rel=last',
        '<?page={n}>; REL="NEXT"',
        '</v2/a/b/tags/list?next_page=gAAA%2B%3D&page={n}>; rel="next"',
    ],
)
def test_a_next_page_in_any_form_is_followed_as_it_is(server, repository, link):
    """Quay's next_page, Artifactory's parameters; nothing is cut off silently."""
    list_of(server, ["a", "b"], ["c"], ["d"], header=lambda n: link.format(host=server.host, n=n))
    assert repository.tags() == ["a", "b", "c", "d"]
    if "next_page" in link:
        assert server.requests[1].target == "/v2/a/b/tags/list?next_page=gAAA%2B%3D&page=1"


def test_several_link_headers_are_read(server, repository):
    list_of(server, ["a"], ["b"], header=lambda n: ['<?page=9>; rel="prev"', f'<?page={n}>; rel="next"'])
    assert repository.tags() == ["a", "b"]


@pytest.mark.parametrize(
    "link", ['<?page=1>; rel="prev"', "<?page=1>", "garbage", '<>; rel="x"', '?page=1; rel="next"']
)
def test_a_link_that_is_no_next_page_ends_the_list(server, repository, link):
    list_of(server, ["a"], ["b"], header=lambda n: link)
    assert repository.tags() == ["a"]


def test_pages_in_a_circle_are_an_error(server, repository):
    list_of(server, ["a"], ["b"], ["c"], header=lambda n: f'<?page={n % 2}>; rel="next"')
    with pytest.raises(errors.InvalidResponse, match="circle"):
        repository.tags()
    server.faults.clear()
    list_of(server, ["a"], ["b"], header=lambda n: '</v2/a/b/tags/list?n=1000>; rel="next"')
    server.requests.clear()
    with pytest.raises(errors.InvalidResponse, match="circle"):
        repository.tags()
    assert len(server.requests) == 1


def test_a_next_page_on_another_host_is_refused(server, other, repository):
    list_of(server, ["a"], ["b"], header=lambda n: f'<{other.url}/v2/a/b/tags/list>; rel="next"')
    with pytest.raises(errors.InvalidResponse, match=str(other.port)):
        repository.tags()
    assert other.requests == []


@pytest.mark.parametrize("link", ['<http://[::1/>; rel="next"', '<ftp://x/>; rel="next"'])
def test_a_next_page_that_is_no_url_is_an_error_of_ours(server, repository, link):
    list_of(server, ["a"], ["b"], header=lambda n: link)
    with pytest.raises(errors.InvalidResponse):
        repository.tags()


def test_pages_are_fetched_when_they_are_reached(server, repository):
    for n in range(10):
        server.manifest("a/b", RAW, f"v{n}")
    server.page = 3
    tags = repository.iter_tags()
    assert server.requests == []
    assert [next(tags) for _ in range(3)] == ["v0", "v1", "v2"]
    assert len(server.requests) == 1
    assert repository.tags(limit=4) == ["v0", "v1", "v2", "v3"]
    assert len(server.requests) == 3
    assert repository.tags() == [f"v{n}" for n in range(10)]


@pytest.mark.parametrize("tags", [None, []])
def test_no_tags_is_an_empty_list(server, repository, tags):
    """The registry of CNCF says null after the last one went: distribution#1186."""
    list_of(server, tags)
    assert repository.tags() == []


def test_a_list_without_the_key_is_empty(server, repository):
    server.on("GET", TAGS, status=200, body=b'{"name": "a/b"}')
    assert repository.tags() == []


@pytest.mark.parametrize("tags", ["v1", {"v1": 1}, 5])
def test_a_list_that_is_none_is_an_error(server, repository, tags):
    list_of(server, tags)
    with pytest.raises(errors.InvalidResponse, match=r"\$\.tags"):
        repository.tags()


def test_tags_that_are_none_are_skipped_with_one_warning_for_all(server, repository, caplog):
    """Nexus lists null and invalid names: skopeo#2409; Artifactory digests."""
    bad = [None, "not a tag\x1b[31m", "", 5, {"x": 1}, "sha256:" + "0" * 64, "-x"]
    list_of(server, ["v1", *bad, "v2"], ["v3", "-y"], header=lambda n: f'<?page={n}>; rel="next"')
    assert repository.tags() == ["v1", "v2", "v3"]
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert (
        warning
        == f"{repository.transport.host}/a/b: ignored 7 invalid tag names: None, 'not a tag\\x1b[31m', '', … 4 more"
    )


@pytest.mark.parametrize(("status", "code"), [(400, "PAGINATION_NUMBER_INVALID"), (405, "UNSUPPORTED"), (400, "UNSUPPORTED")])  # fmt: skip
def test_a_page_size_that_is_refused_is_left_out(server, repository, status, code):
    """ECR, distribution 3.1: ggcr#681, distribution#4844."""
    server.manifest("a/b", RAW, "v1", "v2")
    server.page = 1
    server.on("GET", TAGS, when=lambda r: r.query.get("n") == ["1000"], change=lambda r, a: error_response(status, code), times=None)  # fmt: skip
    assert repository.tags() == ["v1", "v2"]
    assert [r.target for r in server.requests[:2]] == ["/v2/a/b/tags/list?n=1000", "/v2/a/b/tags/list"]


def test_the_catalog_is_listed_page_by_page(server, connect):
    for name in ("a", "b/c", "d"):
        server.manifest(name, RAW)
    server.page = 1
    assert list(Registry(connect(server)).catalog()) == ["a", "b/c", "d"]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_catalog_that_is_not_offered_names_the_alternative(server, connect, status):
    server.on("GET", "/v2/_catalog", status=status, times=None)
    with pytest.raises(errors.Unsupported) as caught:
        list(Registry(connect(server)).catalog())
    assert "ocikit.tags" in caught.value.hint
    assert caught.value.status == status


# -- ping


@pytest.mark.parametrize(
    ("answer", "reachable", "authenticated", "problem"),
    [
        ({}, True, True, ""), ({"status": 401}, True, False, "credentials"), ({"status": 403}, True, False, "denied"),
        ({"status": 404}, True, False, "no registry"), ({"status": 500}, True, False, "500"), ({"status": 429}, True, False, "429"),
    ],
)  # fmt: skip
def test_a_ping_tells_what_is_there(server, connect, answer, reachable, authenticated, problem):
    server.on("GET", "/v2/", times=None, **answer)
    ping = Registry(connect(server, retries=0)).ping()
    assert (ping.reachable, ping.authenticated, bool(ping)) == (reachable, authenticated, authenticated)
    assert problem in ping.problem
    assert ping.url == server.url


def test_a_ping_of_nothing_is_false(connect):
    ping = Registry(connect("127.0.0.1:9", retries=0)).ping()
    assert not ping and not ping.reachable and "refused" in ping.problem


# -- referrers by the API


def referring(kind="application/vnd.example.sbom", subject=DESCRIPTOR, **fields):
    at = {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size}
    return manifest(subject=at, artifactType=kind, **fields)


def test_referrers_by_the_api(tagged, repository):
    raw, descriptor = referring(annotations={"made": "today"})
    tagged.manifest("a/b", raw)
    (found,) = repository.referrers(DESCRIPTOR)
    assert (found.digest, found.artifact_type, dict(found.annotations)) == (descriptor.digest, "application/vnd.example.sbom", {"made": "today"})  # fmt: skip
    assert [r.path for r in tagged.requests] == [f"/v2/a/b/referrers/{DESCRIPTOR.digest}"]


def pages_of(server, *pages, filters=None, kind=INDEX):
    def change(request, answer):
        n = int(request.query.get("page", ["0"])[0])
        headers = {"Content-Type": kind} | ({"OCI-Filters-Applied": filters} if filters else {})
        if n + 1 < len(pages):
            headers["Link"] = f'<?page={n + 1}>; rel="next"'
        entries = [{"mediaType": OCI, "digest": "sha256:" + c * 64, "size": 1, "artifactType": t} for c, t in pages[n]]
        return Response(
            200, headers, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
        )

    server.on("GET", REFERRERS, times=None, change=change)


def test_pages_of_referrers_are_all_read(server, repository):
    pages_of(server, [("1", "a/a"), ("2", "b/b")], [], [("3", "a/a")])
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR)] == ["1", "2", "3"]


@pytest.mark.parametrize("filters", [None, "somethingElse", "artifacttype"])
def test_referrers_that_were_not_filtered_are_filtered_here(server, repository, filters):
    """Harbor: harbor#18413."""
    pages_of(server, [("1", "a/a"), ("2", "b/b")], [("3", "a/a")], filters=filters)
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR, "a/a")] == ["1", "3"]
    assert server.requests[0].query == {"artifactType": ["a/a"]}


@pytest.mark.parametrize("filters", ["artifactType", "other, artifactType", "other,artifactType"])
def test_referrers_that_were_filtered_are_taken_as_they_are(server, repository, filters):
    pages_of(server, [("1", "a/a"), ("2", None)], filters=filters)
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR, "a/a")] == ["1", "2"]


def test_a_referrer_is_listed_once(server, repository):
    pages_of(server, [("1", "a/a")], [("1", "a/a"), ("2", "a/a")])
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR)] == ["1", "2"]


@pytest.mark.parametrize("body", [b"", b'{"schemaVersion": 2, "mani', b'{"manifests": 5}', b"[]"])
def test_a_broken_list_of_the_api_is_not_taken_for_none(server, repository, body):
    server.manifest("a/b", index_of(entry("1")), FALLBACK, media_type=INDEX)
    server.on("GET", REFERRERS, status=200, headers={"Content-Type": INDEX}, body=body, times=None)
    for _ in range(2):
        with pytest.raises(errors.InvalidResponse, match="not an index"):
            repository.referrers(DESCRIPTOR)
    assert server.seen("GET", MANIFESTS) == []


def test_a_referrer_can_be_deleted_though_the_list_of_the_api_is_broken(tagged, open_repository):
    raw, descriptor = referring()
    tagged.manifest("a/b", raw)
    tagged.on("GET", REFERRERS, status=200, headers={"Content-Type": INDEX}, body=b"{", times=None)
    open_repository(tagged, push=True).delete(descriptor)
    assert ("a/b", descriptor.digest) not in tagged.manifests
    assert tagged.seen("PUT") == []


def test_no_referrers_is_an_empty_list(tagged, repository):
    assert list(repository.referrers(DESCRIPTOR)) == []


# -- referrers by the fallback tag


FALLBACK = DESCRIPTOR.digest.replace(":", "-")


@pytest.mark.parametrize(
    ("digest", "tag"),
    [
        ("sha256:" + "a" * 64, "sha256-" + "a" * 64),
        ("sha512:" + "a" * 128, "sha512-" + "a" * 64),
        (
            "test+algorithm+using+algorithm+separators+and+lots+of+characters+to+excercise+overall+truncation:"
            "alsoSome=InTheEncodedSectionToShowHyphenReplacementAndLotsAndLotsOfCharactersToExcerciseEncodedTruncation",
            "test-algorithm-using-algorithm-s-alsoSome-InTheEncodedSectionToShowHyphenReplacementAndLotsAndLot",
        ),
    ],
)
def test_the_fallback_tag_is_the_specifications(digest, tag):
    assert referrers.fallback_tag(Digest(digest)) == tag


def index_of(*entries, **fields):
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)} | fields).encode()


def entry(c, kind="a/a"):
    return {"mediaType": OCI, "digest": "sha256:" + c * 64, "size": 1, "artifactType": kind}


@pytest.mark.parametrize(
    "answer",
    [
        Response(404), error_response(404, "NOT_FOUND"), error_response(404, "UNSUPPORTED"), error_response(404, "MANIFEST_UNKNOWN"), error_response(400, "UNSUPPORTED"), error_response(405, "UNSUPPORTED"),
        Response(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>"), Response(200, {"Content-Type": "application/json"}, b"{}"),
        Response(200, {}, b"<html>"), Response(200, {"Content-Type": "application/json"}, b'{"manifests": 5}'),
    ],
    ids=lambda a: f"{a.status}-{a.body[:20]!r}",
)  # fmt: skip
def test_where_the_api_is_missing_the_fallback_tag_is_read(server, repository, answer):
    """GHCR has no API; GAR answers with a login page: soci-snapshotter PR#512."""
    server.on("GET", REFERRERS, change=lambda r, a: Response(answer.status, dict(answer.headers), answer.body), times=None)  # fmt: skip
    server.manifest("a/b", index_of(entry("1"), entry("2", "b/b")), FALLBACK, media_type=INDEX)
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR)] == ["1", "2"]
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR, "b/b")] == ["2"]
    assert len(server.seen("GET", REFERRERS)) == 1, "that the API is missing is remembered"


def test_no_fallback_tag_means_no_referrers(server, repository):
    server.referrers = False
    assert list(repository.referrers(DESCRIPTOR)) == []


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_failure_of_the_api_is_a_failure(server, open_repository, status):
    server.on("GET", REFERRERS, status=status, times=None)
    with pytest.raises(errors.RegistryError):
        open_repository(server, retries=0).referrers(DESCRIPTOR)


def test_gitlabs_tag_that_leads_to_the_subject_itself_is_no_list(tagged, repository):
    """oras-go#1396."""
    tagged.referrers = False
    index = index_of(entry("1"))
    subject = Descriptor.of(index, INDEX)
    for raw, descriptor, kind in ((RAW, DESCRIPTOR, OCI), (index, subject, INDEX)):
        tagged.manifest("a/b", raw, referrers.fallback_tag(descriptor.digest), media_type=kind)
        assert list(repository.referrers(descriptor)) == []


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", manifest(annotations={"other": "manifest"})[0]])
def test_a_fallback_tag_that_holds_something_else_is_no_list(server, repository, body):
    server.referrers = False
    server.manifest("a/b", body, FALLBACK, media_type=INDEX if b"layers" not in body else OCI)
    assert list(repository.referrers(DESCRIPTOR)) == []


# -- pushing and deleting with a subject


def fallback_entries(server, tag=FALLBACK):
    raw, kind = server.manifests["a/b", server.tags["a/b", tag]]
    assert kind == INDEX and Index.parse(raw).raw == raw
    return json.loads(raw)["manifests"]


def test_a_registry_that_knows_subjects_needs_no_list(tagged, repository):
    raw, descriptor = referring()
    repository.push_bytes(descriptor, raw)
    assert [(r.method, r.path) for r in tagged.requests] == [("PUT", f"/v2/a/b/manifests/{descriptor.digest}")]


def test_a_registry_that_does_not_gets_the_list_from_us(tagged, repository):
    tagged.referrers = False
    first, second = referring(annotations={"n": "1", "org.example.x": "é"}), referring(kind=None)
    repository.push_bytes(first[1], first[0])
    repository.push_bytes(second[1], second[0])
    assert fallback_entries(tagged) == [
        {"mediaType": OCI, "digest": first[1].digest, "size": first[1].size, "artifactType": "application/vnd.example.sbom",
         "annotations": {"n": "1", "org.example.x": "é"}},
        {"mediaType": OCI, "digest": second[1].digest, "size": second[1].size, "artifactType": EMPTY["mediaType"]},
    ]  # fmt: skip
    found = repository.referrers(DESCRIPTOR)
    assert [d.digest for d in found] == [first[1].digest, second[1].digest]
    assert parse_document(first[0]).raw == tagged.manifests["a/b", first[1].digest][0]


def test_an_index_without_artifact_type_has_none_in_the_list(tagged, repository):
    tagged.referrers = False
    at = {"mediaType": OCI, "digest": DESCRIPTOR.digest, "size": DESCRIPTOR.size}
    raw = index_of(subject=at)
    repository.push_bytes(Descriptor.of(raw, INDEX), raw)
    (found,) = fallback_entries(tagged)
    assert "artifactType" not in found and found["mediaType"] == INDEX


def test_a_referrer_enters_the_list_once(tagged, repository):
    tagged.referrers = False
    raw, descriptor = referring()
    for _ in range(3):
        repository.push_bytes(descriptor, raw)
    assert len(fallback_entries(tagged)) == 1
    lists = [r for r in tagged.seen("PUT") if r.path.endswith(FALLBACK)]
    assert len(lists) == 1


def test_a_list_keeps_what_others_wrote(tagged, repository):
    tagged.referrers = False
    foreign = entry("1") | {"future": [1]}
    tagged.manifest("a/b", index_of(foreign, annotations={"kept": "yes"}), FALLBACK, media_type=INDEX)
    raw, descriptor = referring()
    repository.push_bytes(descriptor, raw)
    entries = fallback_entries(tagged)
    assert entries[0] == foreign and entries[1]["digest"] == descriptor.digest
    assert json.loads(tagged.manifests["a/b", tagged.tags["a/b", FALLBACK]][0])["annotations"] == {"kept": "yes"}


def test_the_replaced_list_is_deleted_and_a_registry_that_refuses_that_is_left_alone(tagged, repository, caplog):
    """ECR and GHCR refuse: oras#1228, oras#915."""
    tagged.referrers = False
    first, second, third = (
        referring(annotations={"n": "1"}),
        referring(annotations={"n": "2"}),
        referring(annotations={"n": "3"}),
    )
    repository.push_bytes(first[1], first[0])
    old = tagged.tags["a/b", FALLBACK]
    repository.push_bytes(second[1], second[0])
    assert ("a/b", old) not in tagged.manifests
    tagged.on("DELETE", MANIFESTS, status=405, times=None)
    caplog.set_level(logging.DEBUG, "ocikit")
    repository.push_bytes(third[1], third[0])
    assert len(fallback_entries(tagged)) == 3
    assert "stays" in caplog.text


def test_something_else_at_the_fallback_tag_is_reported_and_not_replaced(tagged, repository):
    tagged.referrers = False
    raw, descriptor = referring()
    foreign = manifest(annotations={"not": "a list"})[0]
    tagged.manifest("a/b", foreign, FALLBACK)
    with pytest.raises(errors.RegistryError, match=FALLBACK):
        repository.push_bytes(descriptor, raw)
    assert tagged.manifests["a/b", tagged.tags["a/b", FALLBACK]][0] == foreign
    assert ("a/b", descriptor.digest) in tagged.manifests, "the manifest itself is there"


@pytest.mark.parametrize("etags", [False, True])
def test_two_writers_of_a_list_both_stay_in_it(tagged, open_repository, etags):
    tagged.referrers, tagged.etags = False, etags
    ours, theirs = referring(annotations={"by": "us"}), referring(annotations={"by": "them"})
    tagged.manifest("a/b", index_of(entry("1")), FALLBACK, media_type=INDEX)
    interfered = []

    def interfere(request, answer):
        """Between our reading and our writing somebody else writes."""
        if not interfered:
            interfered.append(True)
            tagged.manifest("a/b", theirs[0])
            tagged.manifest("a/b", index_of(entry("1"), entry("9")), FALLBACK, media_type=INDEX)

    tagged.on("GET", f"/v2/a/b/manifests/{FALLBACK}", change=interfere)
    open_repository(tagged, push=True).push_bytes(ours[1], ours[0])
    digests = [e["digest"] for e in fallback_entries(tagged)]
    assert ours[1].digest in digests
    if etags:
        assert "sha256:" + "9" * 64 in digests, "If-Match found out"
        assert len([r for r in tagged.seen("PUT") if "If-Match" in r.headers]) == 2


def test_our_entry_that_another_writer_overwrote_is_entered_again(tagged, repository):
    tagged.referrers = False
    raw, descriptor = referring()

    def overwrite(request, answer):
        tagged.manifest("a/b", index_of(entry("9")), FALLBACK, media_type=INDEX)

    tagged.on("PUT", f"/v2/a/b/manifests/{FALLBACK}", change=overwrite)
    repository.push_bytes(descriptor, raw)
    assert [e["digest"][7:9] for e in fallback_entries(tagged)] == ["99", descriptor.digest[7:9]]


def test_a_list_that_never_stays_is_given_up(tagged, repository, caplog):
    tagged.referrers = False
    raw, descriptor = referring()
    tagged.on("PUT", f"/v2/a/b/manifests/{FALLBACK}", times=None,
              change=lambda r, a: tagged.manifest("a/b", index_of(entry("9")), FALLBACK, media_type=INDEX) and None)  # fmt: skip
    repository.push_bytes(descriptor, raw)
    assert "may be missing" in caplog.text
    assert len(tagged.requests) < 30


def test_writers_in_threads_all_enter_the_list(tagged, open_repository):
    tagged.referrers, tagged.etags = False, True
    made = [referring(annotations={"n": str(n)}) for n in range(3)]
    failures = []

    def work(raw, descriptor):
        try:
            open_repository(tagged, push=True).push_bytes(descriptor, raw)
        except Exception:
            failures.append(error_response)

    threads = [threading.Thread(target=work, args=m) for m in made]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert failures == []
    # Without an ETag to hold on to, the first writers may lose out: that is said in a warning
    assert len(fallback_entries(tagged)) >= 1


def test_deleting_a_referrer_takes_it_out_of_the_list(tagged, repository):
    tagged.referrers = False
    first, second = referring(annotations={"n": "1"}), referring(annotations={"n": "2"})
    for raw, descriptor in (first, second):
        repository.push_bytes(descriptor, raw)
    repository.delete(first[1])
    assert ("a/b", first[1].digest) not in tagged.manifests
    assert [e["digest"] for e in fallback_entries(tagged)] == [second[1].digest]


def test_deleting_a_referrer_where_the_api_knows_touches_no_list(tagged, repository):
    raw, descriptor = referring()
    repository.push_bytes(descriptor, raw)
    repository.delete(descriptor)
    assert len(tagged.seen("PUT")) == 1
    assert [r.path for r in tagged.seen("DELETE")] == [f"/v2/a/b/manifests/{descriptor.digest}"]


def indexed(server):
    """Let the registry delete no manifest that an index names, as ECR."""

    def guard(request):
        digest = request.path.rpartition("/")[2]
        entries = [e for raw, kind in server.manifests.values() if kind == INDEX for e in json.loads(raw)["manifests"]]
        if request.method == "DELETE" and digest in [e["digest"] for e in entries]:
            return error_response(400, "ImageReferencedByManifestList")
        return None

    server.guard = guard


def test_a_referrer_is_taken_out_of_the_list_before_it_is_deleted(tagged, repository):
    """ECR deletes no manifest that an index names."""
    tagged.referrers = False
    first, second = referring(annotations={"n": "1"}), referring(annotations={"n": "2"})
    for raw, descriptor in (first, second):
        repository.push_bytes(descriptor, raw)
    indexed(tagged)
    repository.delete(first[1])
    assert ("a/b", first[1].digest) not in tagged.manifests
    assert [e["digest"] for e in fallback_entries(tagged)] == [second[1].digest]
    repository.delete(second[1])
    assert ("a/b", second[1].digest) not in tagged.manifests and fallback_entries(tagged) == []


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 405}, {"status": 500}, {"drop": "before"}])
def test_a_list_that_cannot_be_deleted_is_a_warning(tagged, open_repository, caplog, fault):
    repository = open_repository(tagged, push=True, retries=0)
    tagged.referrers = False
    raw, descriptor = referring()
    repository.push_bytes(descriptor, raw)
    old = tagged.tags["a/b", referrers.fallback_tag(DESCRIPTOR.digest)]
    tagged.on("DELETE", f".*/manifests/{old}", times=None, **fault)
    repository.delete(descriptor)
    assert ("a/b", descriptor.digest) not in tagged.manifests and fallback_entries(tagged) == []
    assert "stays in the registry" in caplog.text


def test_a_referrer_that_cannot_be_deleted_stays_in_the_list(tagged, repository):
    tagged.referrers = False
    raw, descriptor = referring()
    repository.push_bytes(descriptor, raw)
    tagged.on("DELETE", f".*/manifests/{descriptor.digest}", status=403, times=None)
    with pytest.raises(errors.Denied):
        repository.delete(descriptor)
    assert [e["digest"] for e in fallback_entries(tagged)] == [descriptor.digest]


# -- deleting


@pytest.mark.parametrize("fault", [{"drop": "after"}, {"drop": "after", "reset": True}, {"lost": 502}])
def test_a_deletion_whose_answer_got_lost_is_none_that_failed(tagged, repository, fault):
    if status := fault.pop("lost", None):
        fault["change"] = lambda request, answer: Response(status)
    blob = Descriptor.of(b"content", "x/y")
    tagged.blob("a/b", b"content")
    for path in ("manifests/v1", "manifests/sha256:.*", "blobs/.*"):
        tagged.on("DELETE", f"/v2/a/b/{path}", **fault)
    repository.untag("v1"), repository.delete(DESCRIPTOR), repository.delete(blob)
    assert tagged.tags == {} and tagged.manifests == {} and tagged.blobs == {}
    assert len(tagged.seen("DELETE")) == 6


@pytest.mark.parametrize("fault", [{"status": 429, "headers": {"Retry-After": "0"}}, {"status": 200, "times": 0}])
def test_a_deletion_of_what_was_never_there_is_unknown(server, repository, fault):
    """A registry that refused the first try has done nothing."""
    server.manifest("a/b", RAW, "v1")
    blob = Descriptor.of(b"content", "x/y")
    server.on("DELETE", ".*", **fault)
    with pytest.raises(errors.BlobUnknown):
        repository.delete(blob)


def test_a_tag_is_deleted_alone(server, repository):
    server.manifest("a/b", RAW, "v1", "v2")
    repository.untag("v1")
    assert server.tags == {("a/b", "v2"): DESCRIPTOR.digest}
    assert ("a/b", DESCRIPTOR.digest) in server.manifests


def test_a_registry_that_deletes_manifests_only_is_not_made_to(server, repository):
    """distribution 2.8: the other tags would go too."""
    server.manifest("a/b", RAW, "v1", "v2")
    server.tag_delete = False
    with pytest.raises(errors.Unsupported) as caught:
        repository.untag("v1")
    assert "digest" in caught.value.hint
    assert len(server.tags) == 2 and ("a/b", DESCRIPTOR.digest) in server.manifests


def test_untagging_what_is_not_there_is_unknown(tagged, repository):
    with pytest.raises(errors.ManifestUnknown):
        repository.untag("v9")
    assert tagged.seen("DELETE") == []


def test_a_manifest_goes_with_its_tags(server, repository):
    server.manifest("a/b", RAW, "v1", "v2")
    repository.delete(DESCRIPTOR)
    assert server.tags == {} and server.manifests == {}


def test_a_manifest_that_cannot_be_read_can_be_deleted(server, repository):
    raw = b'{"schemaVersion": 1, "fsLayers": []}'
    server.manifest("a/b", raw, "v1")
    repository.delete(Descriptor.of(raw, OCI))
    assert server.manifests == {}


def test_a_blob_is_deleted(server, repository):
    blob = Descriptor.of(b"content", "x/y")
    server.blob("a/b", b"content")
    repository.delete(blob)
    assert server.blobs == {}
    with pytest.raises(errors.BlobUnknown):
        repository.delete(blob)
    repository.delete_blob(blob.digest, absent_ok=True)


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_success_of_a_deletion_is_one(tagged, repository, status):
    tagged.on("DELETE", ".*", status=status, times=None)
    repository.delete(DESCRIPTOR)
    repository.untag("v1")


def test_a_registry_that_does_not_delete_says_so(tagged, repository):
    tagged.on("DELETE", ".*", status=405, body=b'{"errors":[{"code":"UNSUPPORTED"}]}', times=None)
    with pytest.raises(errors.Unsupported) as caught:
        repository.delete(DESCRIPTOR)
    assert caught.value.hint


# -- permissions


def test_permission_to_push_is_asked_for_without_leaving_anything(server, repository):
    assert repository.can_push() is True
    assert [r.method for r in server.requests] == ["POST", "DELETE"]
    assert server.uploads == {} and server.blobs == {}


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_refusal_to_push_is_false(server, repository, status):
    server.on("POST", ".*", status=status, times=None)
    assert repository.can_push() is False


def test_a_failure_is_no_answer_to_whether_one_may_push(server, open_repository):
    server.on("POST", ".*", status=500, times=None)
    with pytest.raises(errors.RegistryError):
        open_repository(server, push=True, retries=0).can_push()


# -- endpoints of their own (end-4b, end-5, end-6, end-13, end-14)


def test_a_blob_in_a_single_post(server, repository):
    digest = Digest.of(b"content")
    server.on("POST", ".*", status=201)
    assert repository.post_blob(digest, b"content") is None
    assert server.requests[0].body == b"content"
    session = repository.post_blob(digest, b"content")
    repository.put_upload(session, digest, b"content")
    assert server.blobs["a/b", digest] == b"content"


def test_an_upload_step_by_step(server, repository):
    content = b"0123456789"
    session = repository.post_upload()
    session = repository.patch_upload(session, 0, content[:4])
    session, have = repository.get_upload(session)
    assert have == 4
    repository.put_upload(session, Digest.of(content), content[4:], offset=4)
    assert server.requests[-1].headers["Content-Range"] == "4-9"
    assert server.blobs["a/b", Digest.of(content)] == content
    with pytest.raises(errors.UploadUnknown):
        repository.get_upload(session)
    other_session = repository.post_upload()
    with pytest.raises(errors.RangeInvalid):
        repository.patch_upload(other_session, 5, b"x")
    repository.delete_upload(other_session)
    assert server.uploads == {}


def test_a_range_of_a_blob(server, repository):
    digest = Digest(server.blob("a/b", b"0123456789"))
    for start, end, expected in ((2, 4, b"234"), (7, None, b"789"), (0, 0, b"0"), (0, None, b"0123456789")):
        with repository.get_blob(digest, start=start, end=end) as response:
            assert response.raw.read() == expected


def test_a_manifest_is_a_manifest(tagged, repository):
    assert isinstance(repository.document(DESCRIPTOR), Manifest)
