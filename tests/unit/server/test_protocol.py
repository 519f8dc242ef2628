"""The registry, request by request: what the specification and HTTP say, and what the conformance suite leaves out."""

import io
import json
import re
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from ocikit.server import Access, Application, ErrorResponse, Identity, Limits, Settings
from ocikit.server.auth.access import ANONYMOUS

from tests.support.wsgi import INDEX, MANIFEST, NAME, Registry, digest_of, encoded, storage_of

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
EMPTY = "application/vnd.oci.empty.v1+json"
ABSENT = "sha256:" + "0" * 64

#: spec.md#error-codes
CODES = {
    "BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED",
    "UNSUPPORTED", "TOOMANYREQUESTS",
}  # fmt: skip


@pytest.fixture(params=["memory", "files"])
def made(request, tmp_path):
    """Makes a registry with settings, on storage of either kind; the same storage each time."""
    storage = storage_of(request.param, tmp_path / "registry")
    yield lambda access=None, **settings: Registry(Application(storage, access=access, settings=Settings(**settings)))
    storage.close()


@pytest.fixture
def registry(made):
    return made()


# The base


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_the_base_says_that_this_is_a_registry(registry, path):
    answer = registry("GET", path)
    assert (answer.status, answer.json) == (200, {})
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"
    assert registry("HEAD", path).headers["content-length"] == "2"


@pytest.mark.parametrize(
    "path",
    ["/", "", "/v1/", "/v2/x", "/v2/team/data", "/v2/team/data/", "/v2/blobs/uploads/x", "/v2//tags/list", "/v2/a/tags",
     "/v2/a/tags/", "/v2/a/tags/list/", "/v2/manifests/v1", "/v2/a/nonsense/b", "/v3/a/tags/list", "*"],
)  # fmt: skip
def test_unknown_paths_are_404(registry, path):
    for method in ("GET", "PUT", "DELETE"):
        answer = registry(method, path)
        assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/", "GET, HEAD"),
        ("DELETE", "/v2/_catalog", "GET, HEAD"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("PUT", "/v2/a/blobs/uploads", "POST"),
        ("POST", "/v2/a/blobs/uploads/id", "GET, PATCH, PUT, DELETE"),
        ("HEAD", "/v2/a/blobs/uploads/id", "GET, PATCH, PUT, DELETE"),
        ("PUT", f"/v2/a/blobs/{ABSENT}", "GET, HEAD, DELETE"),
        ("PATCH", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/v2/a/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("POST", "/v2/a/tags/list", "GET, HEAD"),
        ("DELETE", f"/v2/a/referrers/{ABSENT}", "GET, HEAD"),
        ("BREW", "/v2/a/tags/list", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
    ],
)
def test_other_methods_are_405_and_are_told_which_are_not(registry, method, path, allowed):
    answer = registry(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    if method != "HEAD":
        assert answer.code == "UNSUPPORTED"


@pytest.mark.parametrize("name", ["a", "blobs", "tags/list", "a/blobs", "a/blobs/uploads", "manifests", "a/manifests/v1",
                                  "referrers", "v2", "uploads", "a/tags/list", "x" * 255])  # fmt: skip
def test_the_words_of_paths_can_be_names_of_repositories(registry, name):
    raw = registry.image(name)
    registry.pushed(raw, "list", name)
    assert registry("GET", f"/v2/{name}/manifests/list").body == raw
    assert registry("GET", f"/v2/{name}/tags/list").json == {"name": name, "tags": ["list"]}
    assert registry("GET", f"/v2/{name}/referrers/{ABSENT}").json["manifests"] == []
    begun = registry("POST", f"/v2/{name}/blobs/uploads")
    assert registry("GET", begun.headers["location"]).status == 204


def test_a_page_beside_the_registry(made):
    registry = made()
    assert registry("GET", "/healthz").json == {"status": "ok"}
    assert registry("HEAD", "/healthz").status == 200


# Errors


class Nobody(Access):
    """Lets nobody in."""

    def identify(self, request):
        return ANONYMOUS

    def allows(self, identity, need):
        return False


class Locked(Nobody):
    """Lets nobody in, and says how."""

    def challenge(self, request, needs, identity):
        return 'Basic realm="here"'


class Ada(Access):
    """Knows ada, who may pull."""

    def identify(self, request):
        return Identity("ada")

    def allows(self, identity, need):
        return need.action == "pull"


class Broken(Access):
    """Fails."""

    def __init__(self, error):
        self.error = error

    def identify(self, request):
        raise self.error

    def allows(self, identity, need):
        return True


def refusals(made):
    """Every way to be refused: what is asked, and the answer's status and code."""
    open_, strict = made(), made(references="strict")
    raw, config = open_.image(), open_.blob(b"{}")
    open_.pushed(raw, "v1")
    blob = open_.blob(b"content")["digest"]
    subject = {"mediaType": MANIFEST, "digest": ABSENT, "size": 1}

    def upload(registry, name=NAME):
        return registry("POST", f"/v2/{name}/blobs/uploads/").headers["location"]

    def broken(length, what):
        return {"body": io.BytesIO(b"abc"), "CONTENT_LENGTH": length, "CONTENT_TYPE": what}

    def manifest(**fields):
        return encoded({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []} | fields)

    put = f"/v2/{NAME}/manifests/v1"
    typed = {"Content-Type": MANIFEST}
    layer = {"mediaType": "application/octet-stream", "digest": ABSENT, "size": 1}
    yield open_, "GET", "/nowhere", {}, 404, "NAME_UNKNOWN"
    yield open_, "POST", "/v2/", {}, 405, "UNSUPPORTED"
    yield open_, "GET", "/v2/A/tags/list", {}, 400, "NAME_INVALID"
    yield open_, "GET", f"/v2/{'a' * 256}/tags/list", {}, 400, "NAME_INVALID"
    yield open_, "GET", "/v2/none/tags/list", {}, 404, "NAME_UNKNOWN"
    yield open_, "GET", f"/v2/{NAME}/tags/list?n=-1", {}, 400, "UNSUPPORTED"
    yield made(catalog=False), "GET", "/v2/_catalog", {}, 404, "UNSUPPORTED"
    yield open_, "GET", f"/v2/{NAME}/referrers/sha256:abc", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/referrers/v1", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/blobs/{ABSENT}", {}, 404, "BLOB_UNKNOWN"
    yield open_, "GET", f"/v2/{NAME}/blobs/sha256:abc", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/blobs/sha384:{'0' * 96}", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/blobs/{blob}", {"headers": {"Range": "bytes=99-"}}, 416, "SIZE_INVALID"
    yield open_, "DELETE", f"/v2/{NAME}/blobs/{ABSENT}", {}, 404, "BLOB_UNKNOWN"
    yield open_, "DELETE", f"/v2/{NAME}/blobs/{config['digest']}", {}, 405, "UNSUPPORTED"
    yield made(deletion=()), "DELETE", f"/v2/{NAME}/blobs/{blob}", {}, 405, "UNSUPPORTED"
    yield made(deletion=()), "DELETE", f"/v2/{NAME}/manifests/v1", {}, 405, "UNSUPPORTED"
    yield open_, "GET", f"/v2/{NAME}/manifests/none", {}, 404, "MANIFEST_UNKNOWN"
    yield open_, "GET", f"/v2/{NAME}/manifests/.no", {}, 404, "MANIFEST_UNKNOWN"
    yield open_, "GET", f"/v2/{NAME}/manifests/{ABSENT}", {}, 404, "MANIFEST_UNKNOWN"
    yield open_, "GET", f"/v2/{NAME}/manifests/sha256:abc", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", "/v2/none/manifests/v1", {}, 404, "NAME_UNKNOWN"
    yield open_, "DELETE", f"/v2/{NAME}/manifests/none", {}, 404, "MANIFEST_UNKNOWN"
    yield open_, "PUT", f"/v2/{NAME}/manifests/.no", {"body": raw}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", f"/v2/{NAME}/manifests/{ABSENT}", {"body": raw}, 400, "DIGEST_INVALID"
    yield open_, "PUT", f"{put}?tag=v2", {"body": raw}, 400, "MANIFEST_INVALID"
    many = "&".join(f"tag=v{n}" for n in range(101))
    yield open_, "PUT", f"/v2/{NAME}/manifests/{digest_of(raw)}?{many}", {"body": raw}, 414, "UNSUPPORTED"
    yield open_, "PUT", put, {"body": b""}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": b"[]"}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": b"{"}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": manifest(schemaVersion=1)}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": manifest(mediaType=7)}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": manifest(mediaType="text/html")}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": manifest(manifests=[])}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": raw, "headers": {"Content-Type": "text/html"}}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": raw, "headers": {"Content-Type": INDEX}}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": manifest(artifactType="a\nb")}, 400, "MANIFEST_INVALID"
    yield open_, "PUT", put, {"body": manifest(subject=subject | {"digest": "x:" + "a" * 300})}, 400, "MANIFEST_INVALID"
    yield (
        made(validate="schema"),
        "PUT",
        put,
        {"body": manifest(config=config | {"annotations": {"": 1}})},
        400,
        "MANIFEST_INVALID",
    )
    yield made(validate="schema"), "PUT", put, {"body": manifest(artifactType="none")}, 400, "MANIFEST_INVALID"
    yield strict, "PUT", put, {"body": manifest(layers=[layer])}, 400, "MANIFEST_BLOB_UNKNOWN"
    yield open_, "PUT", put, {"body": raw, "headers": {**typed, "If-None-Match": "*"}}, 412, "DENIED"
    yield open_, "PUT", put, {"body": raw, "headers": {**typed, "If-Match": f'"{ABSENT}"'}}, 412, "DENIED"
    yield open_, "PUT", put, broken("9", MANIFEST), 400, "SIZE_INVALID"
    yield made(limits=Limits(manifest=10)), "PUT", put, {"body": raw}, 413, "SIZE_INVALID"
    yield made(names="lab/.*"), "PUT", put, {"body": raw}, 400, "NAME_INVALID"
    yield made(names="lab/.*"), "POST", f"/v2/{NAME}/blobs/uploads/", {}, 400, "NAME_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?mount=x&from=b", {}, 400, "DIGEST_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?digest=x", {}, 400, "DIGEST_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?digest={ABSENT}", {"body": b"abc"}, 400, "DIGEST_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?digest-algorithm=md5", {}, 400, "DIGEST_INVALID"
    yield (
        made(limits=Limits(blob=2)),
        "POST",
        f"/v2/{NAME}/blobs/uploads/?digest={ABSENT}",
        {"body": b"abc"},
        413,
        "SIZE_INVALID",
    )
    yield made(limits=Limits(repository=2)), "POST", f"/v2/{NAME}/blobs/uploads/", {}, 413, "DENIED"
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        yield open_, method, f"/v2/{NAME}/blobs/uploads/none?digest={ABSENT}", {}, 404, "BLOB_UPLOAD_UNKNOWN"
    yield open_, "PUT", upload(open_), {}, 400, "DIGEST_INVALID"
    yield open_, "PUT", f"{upload(open_)}?digest=x", {}, 400, "DIGEST_INVALID"
    yield open_, "PUT", f"{upload(open_)}?digest={ABSENT}", {"body": b"abc"}, 400, "DIGEST_INVALID"
    for method in ("PATCH", "PUT"):

        def chunk(span, body=b"abcde"):
            return {"body": body, "headers": {"Content-Range": span}}

        url = f"{upload(open_)}?digest={ABSENT}"
        yield open_, method, url, chunk("5-9"), 416, "BLOB_UPLOAD_INVALID"
        yield open_, method, url, chunk("0-5"), 400, "SIZE_INVALID"
        yield open_, method, url, chunk("0-5", [b"abcde"]), 400, "SIZE_INVALID"
        yield open_, method, url, chunk("a-b"), 400, "BLOB_UPLOAD_INVALID"
        yield open_, method, url, broken("9", ""), 400, "SIZE_INVALID"
        yield made(limits=Limits(blob=2)), method, url, {"body": b"abc"}, 413, "SIZE_INVALID"
        yield made(limits=Limits(repository=2)), method, url, {"body": b"abc"}, 413, "DENIED"
    yield made(limits=Limits(sessions=1)), "POST", f"/v2/{NAME}/blobs/uploads/", {}, 429, "TOOMANYREQUESTS"
    yield made(Locked()), "GET", "/v2/", {}, 401, "UNAUTHORIZED"
    yield made(Nobody()), "GET", "/v2/", {}, 403, "DENIED"
    yield made(Locked()), "GET", "/v2/_catalog", {}, 401, "UNAUTHORIZED"
    yield made(Locked()), "GET", f"/v2/{NAME}/tags/list", {}, 401, "UNAUTHORIZED"
    yield made(Nobody()), "GET", f"/v2/{NAME}/tags/list", {}, 403, "DENIED"
    yield made(Ada()), "PUT", put, {"body": raw}, 403, "DENIED"
    yield made(hosts=("localhost",)), "GET", "http://evil.example/v2/", {}, 421, "DENIED"
    yield open_, "GET", "/v2/", {"HTTP_HOST": "a,b"}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/", {"HTTP_HOST": ""}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/%ff/tags/list", {}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/a/tags/list?n=%ff", {}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/?" + "a&" * 20_000, {}, 400, "UNSUPPORTED"
    yield open_, "PUT", put, {"body": raw, "headers": {"Transfer-Encoding": "chunked"}}, 400, "SIZE_INVALID"
    yield open_, "PUT", put, {"body": [raw], "HTTP_TRANSFER_ENCODING": "gzip, chunked"}, 400, "UNSUPPORTED"
    yield open_, "PUT", put, {"body": raw, "CONTENT_LENGTH": "-1"}, 400, "SIZE_INVALID"
    yield open_, "PUT", put, {"body": raw, "CONTENT_LENGTH": "9" * 30}, 400, "SIZE_INVALID"


def test_every_refusal_is_the_specifications_json_and_says_what_is_wrong(made):
    for registry, method, url, more, status, code in refusals(made):
        answer = registry(method, url, **more)
        what = (method, url[:200], more, answer)
        assert answer.status == status, what
        assert set(answer.json) == {"errors"} and answer.errors, what
        for error in answer.errors:
            assert error["code"] == code and code in CODES, what
            assert set(error) <= {"code", "message", "detail"}
            assert 10 < len(error["message"]) < 600 and error["message"].isprintable(), what
        assert ("www-authenticate" in answer.headers) == (status == 401)
        assert ("allow" in answer.headers) == (status == 405)
        assert ("retry-after" in answer.headers) == (status == 429)
        assert ("content-range" in answer.headers) == (status == 416 and method == "GET")


def test_no_error_has_a_body_for_head(made):
    seen = set()
    for registry, method, url, more, status, _ in refusals(made):
        if method == "GET" and "/uploads/" not in url:
            answer = registry("HEAD", url, **more)
            assert answer.status == (200 if status == 416 else status)  # ranges are for GET
            assert answer.body == b""
            seen.add(answer.status)
    assert {400, 401, 403, 404, 421} <= seen


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError(28, "No space left on device"), 507), (OSError(5, "Input/output error"), 500), (ValueError("x"), 500)],
)
def test_a_failure_says_nothing_of_the_machine_and_the_log_says_all_on_one_line(made, caplog, error, status):
    answer = made(Broken(error))("GET", "/v2/a%0d%0aforged/tags/list")
    assert answer.status == status
    (told,) = answer.errors
    assert "space left" not in told["message"] and "Errno" not in told["message"]
    assert str(error) in caplog.text
    assert "forged" in caplog.messages[0] and "\n" not in caplog.messages[0] and "\r" not in caplog.messages[0]


def test_a_log_that_fails_does_not_fail_the_request(made, caplog):
    def told(record):
        raise RuntimeError("the disk of the log is full")

    registry = made()
    registry.app.on_request = told
    assert registry("GET", "/v2/").status == 200
    digest = registry.blob(b"abc")["digest"]
    assert registry("GET", f"/v2/{NAME}/blobs/{digest}").body == b"abc"
    assert "the disk of the log is full" in caplog.text


def test_what_is_told_of_a_request_says_who_what_and_how_much(made):
    records = []
    registry = made()
    registry.app.on_request = records.append
    digest = registry.blob(b"abc")["digest"]
    registry("GET", f"/v2/{NAME}/blobs/{digest}", {"User-Agent": "me"})
    registry("GET", "/v2/none/tags/list?n=1")
    pushed, pulled, refused = records
    assert (pushed.method, pushed.status, pushed.received, pushed.sent) == ("POST", 201, 3, 0)
    assert (pulled.path, pulled.status, pulled.sent, pulled.agent) == (f"/v2/{NAME}/blobs/{digest}", 200, 3, "me")
    assert (refused.status, refused.code, refused.query, refused.remote) == (
        404,
        "NAME_UNKNOWN",
        (("n", "1"),),
        "127.0.0.1",
    )


def test_what_is_told_of_a_request_that_is_none_says_where_it_came_from(made):
    records = []
    registry = made()
    registry.app.on_request = records.append
    registry("GET", "/v2/a/tags/list", HTTP_HOST="a,b")
    assert (records[0].status, records[0].path, records[0].remote) == (400, "/v2/a/tags/list", "127.0.0.1")


# Tags


ODD = ["1", "10", "2", "A", "Z", "_", "_a", "a", "a-b", "a.b", "aB", "b", "z" * 128, "v1"]


def tagged(registry, tags, name=NAME):
    raw = registry.image(name)
    for tag in tags:
        registry.pushed(raw, tag, name)
    return raw


def link(answer):
    """Where the next page is."""
    if "link" not in answer.headers:
        return None
    return re.fullmatch(r'<(/[!-;=?-~]+)>; rel="next"', answer.headers["link"])[1]


def pages(registry, url):
    answers = []
    while url:
        answers.append(registry("GET", url))
        assert answers[-1].status == 200 and len(answers) < 1000
        url = link(answers[-1])
    return answers


def test_tags_are_in_order_byte_by_byte(registry):
    tagged(registry, ODD)
    answer = registry("GET", f"/v2/{NAME}/tags/list")
    assert answer.json == {"name": NAME, "tags": sorted(ODD)}
    assert answer.headers["content-type"] == "application/json"
    assert "link" not in answer.headers


def test_links_lead_to_every_tag_once(registry):
    tagged(registry, ODD)
    for n in (1, 2, 3, 5, 13, 14, 100):
        lists = [answer.json["tags"] for answer in pages(registry, f"/v2/{NAME}/tags/list?n={n}")]
        assert sum(lists, []) == sorted(ODD)
        assert all(len(each) == n for each in lists[:-1]) and lists[-1]


def test_a_page_of_the_servers_own_is_followed_by_a_link(made):
    registry = made(limits=Limits(page=3))
    tagged(registry, ODD)
    for url in (f"/v2/{NAME}/tags/list", f"/v2/{NAME}/tags/list?n={10**12}", f"/v2/{NAME}/tags/list?n={'9' * 400}"):
        assert sum((answer.json["tags"] for answer in pages(registry, url)), []) == sorted(ODD)
        assert len(registry("GET", url).json["tags"]) == 3


@pytest.mark.parametrize("n", ["0", "00", "0&last=a"])
def test_no_tags_are_asked_for_and_none_are_listed(registry, n):
    tagged(registry, ["a", "b"])
    answer = registry("GET", f"/v2/{NAME}/tags/list?n={n}")
    assert answer.json == {"name": NAME, "tags": []}
    assert "link" not in answer.headers


def test_a_number_of_tags_that_is_none_is_400(registry):
    tagged(registry, ["a"])
    for n in ("-1", "abc", "", "1.5", "+1", "%201", "1e3", "²", "0x1", "١"):
        for path in (f"/v2/{NAME}/tags/list", "/v2/_catalog"):
            assert registry("GET", f"{path}?n={quote(n, safe='%')}").status == 400


def test_tags_after_a_text_whether_or_not_it_is_a_tag(registry):
    tagged(registry, ODD)
    for last in ("", "0", "A", "Aa", "a", "aa", "a.b", "zzz", "~", "é", "not a tag", "a\x00"):
        answer = registry("GET", f"/v2/{NAME}/tags/list?last={quote(last)}")
        assert answer.json["tags"] == [tag for tag in sorted(ODD) if tag > last]
        assert registry("GET", f"/v2/{NAME}/tags/list?last={quote(last)}&n=2").json["tags"] == answer.json["tags"][:2]


def test_a_repository_without_tags_has_an_empty_list_and_no_repository_has_none(registry):
    registry.blob(b"abc")
    assert registry("GET", f"/v2/{NAME}/tags/list").json == {"name": NAME, "tags": []}
    assert registry("GET", "/v2/none/tags/list?n=0").status == 404


# The catalog


def test_links_lead_to_every_repository_once(made):
    names = ["a", "a-b", "a/b", "ab", "b", "b/c/d"]
    registry = made()
    for name in names:
        registry.blob(b"abc", name)
    assert registry("GET", "/v2/_catalog").json == {"repositories": sorted(names)}
    for n in (1, 2, 5, 6):
        lists = [answer.json["repositories"] for answer in pages(registry, f"/v2/_catalog?n={n}")]
        assert sum(lists, []) == sorted(names)
    assert registry("GET", "/v2/_catalog?n=0").json == {"repositories": []}
    assert registry("GET", "/v2/_catalog?last=a/b").json == {"repositories": ["ab", "b", "b/c/d"]}
    assert registry("GET", "/v2/_catalog?n=x").status == 400
    assert registry("GET", "/v2/_catalog", HTTP_X="").headers.get("link") is None


# Blobs


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 300_000], ids=["empty", "small", "large"])
def test_blobs_come_back_as_they_went(registry, algorithm, content):
    digest = registry.blob(content, algorithm=algorithm)["digest"]
    for method in ("HEAD", "GET"):
        answer = registry(method, f"/v2/{NAME}/blobs/{digest}")
        assert answer.status == 200
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["docker-content-digest"] == digest
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["accept-ranges"] == "bytes"
    assert answer.body == content


#: Of 2048 bytes: those that are served, None for all, 416 for none.
RANGES = {
    "bytes=0-0": (0, 0),
    "bytes=500-1499": (500, 1499),
    "bytes=500-": (500, 2047),
    "bytes=-500": (1548, 2047),
    "bytes=-5000": (0, 2047),
    "bytes=2000-5000": (2000, 2047),
    f"bytes=0-{'9' * 18}": (0, 2047),
    "Bytes= 1-2 ": (1, 2),
    "bytes=2047-": (2047, 2047),
    **dict.fromkeys(["bytes=2048-", "bytes=5000-10000", "bytes=500-0", "bytes=-0", f"bytes={'9' * 19}-"], 416),
    **dict.fromkeys(["", "bytes=0-1,3-4", "bytes=0-1, 0-1", "bytes=0-1,", "items=0-1", "bytes=", "bytes=-", "bytes=a-b", "bytes=0x0-1",
                     "bytes 0-1", "bytes=--1", "0-1", "bytes=1-2-3", f"bytes={'9' * 400}-", "bytes=0-1\t;", "bytes=²-3"]),
}  # fmt: skip


def test_one_range_is_served_and_what_is_no_range_is_the_whole(registry):
    content = bytes(range(256)) * 8
    url = f"/v2/{NAME}/blobs/{registry.blob(content)['digest']}"
    for header, span in RANGES.items():
        answer = registry("GET", url, {"Range": header})
        if span == 416:
            assert (answer.status, answer.headers["content-range"]) == (416, "bytes */2048"), header
        elif span is None:
            assert (answer.status, answer.body) == (200, content), header
            assert "content-range" not in answer.headers
        else:
            assert (answer.status, answer.body) == (206, content[span[0] : span[1] + 1]), header
            assert answer.headers["content-range"] == f"bytes {span[0]}-{span[1]}/2048"
        head = registry("HEAD", url, {"Range": header})
        assert (head.status, head.headers["content-length"]) == (200, "2048")


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=1-2", "bytes=-"])
def test_ranges_of_nothing(registry, header):
    digest = registry.blob(b"")["digest"]
    answer = registry("GET", f"/v2/{NAME}/blobs/{digest}", {"Range": header})
    assert answer.status in {200, 416}
    if answer.status == 416:
        assert answer.headers["content-range"] == "bytes */0"


def test_a_range_of_what_has_changed_is_the_whole(registry):
    content = b"0123456789"
    digest = registry.blob(content)["digest"]
    url = f"/v2/{NAME}/blobs/{digest}"
    assert registry("GET", url, {"Range": "bytes=1-2", "If-Range": f'"{digest}"'}).body == b"12"
    for other in (f'W/"{digest}"', f'"{ABSENT}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        answer = registry("GET", url, {"Range": "bytes=1-2", "If-Range": other})
        assert (answer.status, answer.body) == (200, content)


def test_blobs_that_a_client_has_are_not_sent(registry):
    digest = registry.blob(b"abc")["digest"]
    url = f"/v2/{NAME}/blobs/{digest}"
    tag = registry("GET", url).headers["etag"]
    assert tag == f'"{digest}"'
    for method in ("GET", "HEAD"):
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            answer = registry(method, url, {"If-None-Match": condition, "Range": "bytes=0-0"})
            assert (answer.status, answer.headers["etag"]) == (304, tag)
        assert registry(method, url, {"If-None-Match": '"other"'}).status == 200
    assert registry("GET", f"/v2/{NAME}/blobs/{ABSENT}", {"If-None-Match": "*"}).status == 404


def test_a_blob_is_seen_in_its_own_repository_only(registry):
    digest = registry.blob(b"secret")["digest"]
    registry.blob(b"other", "other")
    for method in ("GET", "HEAD", "DELETE"):
        assert registry(method, f"/v2/other/blobs/{digest}").status == 404


# Uploads


def begin(registry, name=NAME, query="", **headers):
    answer = registry("POST", f"/v2/{name}/blobs/uploads/{query}", {"Content-Length": "0", **headers})
    assert answer.status == 202 and answer.headers["content-length"] == "0"
    assert re.fullmatch(rf"/v2/{name}/blobs/uploads/[A-Za-z0-9_-]{{22,}}", answer.headers["location"])
    assert answer.headers["range"] == "0-0"
    return answer.headers["location"]


def at(registry, location):
    """How many bytes an upload has, by its own words; it must have some."""
    answer = registry("GET", location)
    assert answer.status == 204 and answer.headers["location"] == location
    return int(re.fullmatch(r"0-(\d+)", answer.headers["range"])[1]) + 1


def test_post_then_put(registry):
    location = begin(registry)
    digest = digest_of(b"hello")
    answer = registry("PUT", f"{location}?digest={digest}", {"Content-Type": "application/octet-stream"}, b"hello")
    assert answer.status == 201
    assert answer.headers["location"] == f"/v2/{NAME}/blobs/{digest}"
    assert answer.headers["docker-content-digest"] == digest
    assert registry("GET", answer.headers["location"]).body == b"hello"
    assert registry("GET", location).status == 404


def test_a_single_post(registry):
    digest = digest_of(b"hello")
    answer = registry("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", body=b"hello")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/{NAME}/blobs/{digest}")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_chunks_with_ranges_and_the_last_with_the_end(registry, algorithm):
    content = bytes(range(250))
    location = begin(registry, query=f"?digest-algorithm={algorithm}")
    for first in (0, 100):
        answer = registry("PATCH", location, {"Content-Range": f"{first}-{first + 99}"}, content[first : first + 100])
        assert (answer.status, answer.headers["range"]) == (202, f"0-{first + 99}")
        location = answer.headers["location"]
        assert at(registry, location) == first + 100
    digest = digest_of(content, algorithm)
    answer = registry("PUT", f"{location}?digest={digest}", {"Content-Range": "200-249"}, content[200:])
    assert (answer.status, answer.headers["docker-content-digest"]) == (201, digest)
    assert registry("GET", f"/v2/{NAME}/blobs/{digest}").body == content


@pytest.mark.parametrize("announced", ["sha256", "sha512"])
@pytest.mark.parametrize("used", ["sha256", "sha512"])
def test_what_was_announced_of_the_digest_may_change(registry, announced, used):
    location = begin(registry, query=f"?digest-algorithm={announced}")
    registry("PATCH", location, body=b"abc")
    assert registry("PUT", f"{location}?digest={digest_of(b'abc', used)}").status == 201


def test_chunks_without_a_range_are_appended(registry):
    location = begin(registry)
    for piece in (b"abc", [b"de", b"f"], b"", [], b"g"):
        answer = registry("PATCH", location, body=piece)
        assert answer.status == 202
    assert answer.headers["range"] == "0-6"
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdefg')}").status == 201


def test_a_stream_without_a_length(registry):
    location = begin(registry)
    assert registry("PATCH", location, body=[b"abc", b"def"]).headers["range"] == "0-5"
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdef')}", body=[]).status == 201


@pytest.mark.parametrize("header", ["bytes 3-5/*", "bytes=3-5", "bytes 3-5/6", "3-5"])
def test_ranges_as_old_clients_write_them(registry, header):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    assert registry("PATCH", location, {"Content-Range": header}, b"def").headers["range"] == "0-5"


GARBAGE = ["abc", "3", "-", "3-", "-5", "5-3", "0-5", "4-6", "3--5", "3-5,6-7", " 3-5", "3-5 ", "3-5\t", "+3-5", "0x3-5",
           "٣-٥", "3.0-5", "items 3-5/6", "bytes 3-5/x", f"3-{'9' * 30}", f"{'9' * 300}-{'9' * 301}", "3-9", "3-3", "2-4"]  # fmt: skip


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_range_that_does_not_fit_changes_nothing(registry, method, chunked):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    url = f"{location}?digest={digest_of(b'abcdef')}" if method == "PUT" else location
    for header in GARBAGE:
        answer = registry(method, url, {"Content-Range": header}, [b"def"] if chunked else b"def")
        assert answer.status in {400, 416}, header
        if answer.status == 416:
            assert answer.code == "BLOB_UPLOAD_INVALID"
            assert (answer.headers["location"], answer.headers["range"]) == (location, "0-2")
        assert at(registry, location) == 3
    answer = registry(method, url, {"Content-Range": "3-5"}, b"def")
    assert answer.status == (201 if method == "PUT" else 202)


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_a_chunk_out_of_order_is_416_and_the_session_goes_on(registry, method):
    location = begin(registry)
    content = b"0123456789"
    for first, last in ((5, 9), (1, 4)):
        url = f"{location}?digest={digest_of(content)}" if method == "PUT" else location
        answer = registry(method, url, {"Content-Range": f"{first}-{last}"}, content[first : last + 1])
        assert (answer.status, answer.headers["location"], answer.headers["range"]) == (416, location, "0-0")
    registry("PATCH", location, {"Content-Range": "0-4"}, content[:5])
    url = f"{location}?digest={digest_of(content)}"
    for first, last in ((0, 4), (6, 9), (4, 8)):
        assert registry("PUT", url, {"Content-Range": f"{first}-{last}"}, content[first : last + 1]).status == 416
        assert at(registry, location) == 5
    assert registry("PUT", url, {"Content-Range": "5-9"}, content[5:]).status == 201


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_fewer_bytes_than_announced_are_400_and_the_upload_keeps_its_offset(registry, method):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    url = f"{location}?digest={digest_of(b'abcdefghi')}" if method == "PUT" else location
    answer = registry(method, url, body=io.BytesIO(b"def"), CONTENT_LENGTH="6")
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    assert at(registry, location) in {3, 6}
    registry("PATCH", location, body=b"defghi"[at(registry, location) - 3 :])
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdefghi')}").status == 201


def test_fewer_bytes_than_a_range_announced_leave_nothing_of_it(registry):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    answer = registry("PATCH", location, {"Content-Range": "3-8"}, io.BytesIO(b"def"), CONTENT_LENGTH="6")
    assert answer.status == 400
    assert at(registry, location) == 3


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), ValueError("no chunk"), TimeoutError("slow")])
def test_a_sender_that_goes_away_leaves_what_came(registry, error):
    class Input(io.BytesIO):
        def read(self, size=-1):
            if got := super().read(size):
                return got
            raise error

    location = begin(registry)
    for length in ("6", None):
        terminated = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"} if length is None else {}
        answer = registry("PATCH", location, body=Input(b"abc"), CONTENT_LENGTH=length, **terminated)
        assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    size = at(registry, location)
    assert registry("PUT", f"{location}?digest={digest_of(b'abcabc'[:size])}").status == 201


def test_more_bytes_than_announced_are_not_read(registry):
    location = begin(registry)
    answer = registry("PATCH", location, body=io.BytesIO(b"abcGET / HTTP/1.1"), CONTENT_LENGTH="3")
    assert answer.headers["range"] == "0-2"


def test_a_request_that_says_nothing_of_its_body_has_none(registry):
    location = begin(registry)
    answer = registry("PATCH", location, body=io.BytesIO(b"left over"), CONTENT_LENGTH=None)
    assert (answer.status, answer.headers["range"]) == (202, "0-0")
    raw = registry.image()
    answer = registry(
        "PUT", f"/v2/{NAME}/manifests/v1", {"Content-Type": MANIFEST}, io.BytesIO(raw), CONTENT_LENGTH=None
    )
    assert answer.status == 400
    # as in HTTP/2, where a body may have neither
    answer = registry(
        "PATCH", location, body=io.BytesIO(b"abc"), CONTENT_LENGTH=None, **{"wsgi.input_terminated": True}
    )
    assert answer.headers["range"] == "0-2"


def test_wrong_digests_leave_no_blob(registry):
    wrong = digest_of(b"something else")
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    assert registry("PUT", f"{location}?digest={wrong}").code == "DIGEST_INVALID"
    assert registry("POST", f"/v2/{NAME}/blobs/uploads/?digest={wrong}", body=b"abc").code == "DIGEST_INVALID"
    for digest in (wrong, digest_of(b"abc")):
        assert registry("GET", f"/v2/{NAME}/blobs/{digest}").status == 404
    assert registry("GET", location).status == 404


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:abc", f"sha384:{'0' * 96}", f"md5:{'0' * 32}", f"SHA256:{'0' * 64}"]
)
def test_an_end_without_a_digest_that_can_be_checked_is_400_and_the_session_goes_on(registry, digest):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    assert registry("PUT", f"{location}?digest={digest}").status == 400
    assert registry("PUT", location).status == 400
    assert at(registry, location) == 3


def test_an_upload_can_be_cancelled(registry):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    assert registry("DELETE", location).status == 204
    for method in ("GET", "PATCH", "DELETE"):
        assert registry(method, location).status == 404


def test_an_upload_belongs_to_its_repository(registry):
    location = begin(registry)
    registry("PATCH", location, body=b"abc")
    elsewhere = location.replace(NAME, "other")
    for method in ("GET", "PATCH", "DELETE"):
        assert registry(method, elsewhere).code if method != "GET" else registry(method, elsewhere).status == 404
    assert registry("PUT", f"{elsewhere}?digest={digest_of(b'abc')}").code == "BLOB_UPLOAD_UNKNOWN"
    assert at(registry, location) == 3


@pytest.mark.parametrize("chunked", [False, True])
def test_no_upload_grows_beyond_the_limit_of_blobs(made, chunked):
    registry = made(limits=Limits(blob=10))

    def body(content):
        return [content[at : at + 4] for at in range(0, len(content), 4)] if chunked else content

    def post(content):
        return registry("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest_of(content)}", body=body(content)).status

    assert (post(b"x" * 10), post(b"x" * 11)) == (201, 413)
    location = begin(registry)
    registry("PATCH", location, body=body(b"abcdef"))
    answer = registry("PATCH", location, body=body(b"ghijklmno"))
    assert answer.status == 413 and "10 bytes" in answer.errors[0]["message"]
    size = at(registry, location)
    assert 6 <= size <= 10
    assert registry("PATCH", location, body=body(b"ghijklmno"[size - 6 : 4])).headers["range"] == "0-9"
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdefghijk')}", body=body(b"k")).status == 413
    assert registry("PUT", f"{location}?digest={digest_of(b'abcdefghij')}").status == 201


def test_a_repository_holds_no_more_than_it_may(made):
    registry = made(limits=Limits(repository=10))
    first = registry.blob(b"123456")["digest"]

    def post(content, name=NAME):
        return registry("POST", f"/v2/{name}/blobs/uploads/?digest={digest_of(content)}", body=content)

    answer = post(b"12345")
    assert answer.status == 413 and "4 more bytes" in answer.errors[0]["message"]
    assert post(b"12345", "other").status == 201
    location = begin(registry)
    registry("PATCH", location, body=b"abcd")
    assert registry("PATCH", location, body=b"e").status == 413
    assert post(b"12").status == 201
    # Meanwhile somebody else has used up what was left
    answer = registry("PUT", f"{location}?digest={digest_of(b'abcd')}")
    assert (answer.status, answer.code) == (413, "DENIED")
    registry("DELETE", f"/v2/{NAME}/blobs/{first}")
    assert registry("PUT", f"{location}?digest={digest_of(b'abcd')}").status == 201


def test_uploads_under_way_are_counted_for_each_and_for_all(made):
    class Names(Access):
        def identify(self, request):
            return Identity(request.header("X-User"))

        def allows(self, identity, need):
            return True

    registry = made(Names(), limits=Limits(sessions=5, sessions_each=2))

    def ask(user):
        return registry("POST", f"/v2/{NAME}/blobs/uploads/", {"X-User": user})

    locations = [ask("ada").headers["location"] for _ in range(2)]
    answer = ask("ada")
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "TOOMANYREQUESTS", "60")
    assert [ask(user).status for user in ("bob", "bob", "eve", "eve")] == [202, 202, 202, 429]
    for location in locations:
        assert registry("DELETE", location, {"X-User": "ada"}).status == 204
    assert [ask(user).status for user in ("eve", "eve", "ada", "ada")] == [202, 429, 202, 429]


# Mounts


def test_a_blob_is_mounted_from_another_repository(registry):
    digest = registry.blob(b"abc", "from")["digest"]
    answer = registry("POST", f"/v2/to/blobs/uploads/?mount={digest}&from=from")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/to/blobs/{digest}")
    assert answer.headers["docker-content-digest"] == digest
    assert registry("GET", f"/v2/to/blobs/{digest}").body == b"abc"
    registry("DELETE", f"/v2/from/blobs/{digest}")
    assert registry("GET", f"/v2/to/blobs/{digest}").body == b"abc"


@pytest.mark.parametrize("source", ["", "&from="])
def test_a_blob_is_mounted_from_wherever_it_is(registry, source):
    digest = registry.blob(b"abc", "from", "sha512")["digest"]
    assert registry("POST", f"/v2/to/blobs/uploads/?mount={digest}{source}").status == 201
    assert registry("HEAD", f"/v2/to/blobs/{digest}").status == 200


@pytest.mark.parametrize(
    "source", ["&from=from", "&from=none", "", "&from=Not/A/Name", "&from=..%2f..", "&from=a%0d%0aX-Evil:%201"]
)
def test_what_can_not_be_mounted_is_uploaded(registry, source):
    registry.blob(b"other", "from")
    answer = registry("POST", f"/v2/to/blobs/uploads/?mount={digest_of(b'abc')}{source}")
    assert answer.status == 202
    answer = registry("PUT", f"{answer.headers['location']}?digest={digest_of(b'abc')}", body=b"abc")
    assert answer.status == 201


class Rooms(Access):
    """Everybody pushes to "mine" and pulls from "public"."""

    def identify(self, request):
        return ANONYMOUS

    def allows(self, identity, need):
        return need.repository == "mine" or (need.action, need.repository) == ("pull", "public")


@pytest.mark.parametrize("source", ["&from=secret", ""])
def test_a_blob_of_a_repository_that_one_may_not_pull_from_is_not_mounted(made, source):
    digest = made().blob(b"secret", "secret")["digest"]
    registry = made(Rooms())
    answer = registry("POST", f"/v2/mine/blobs/uploads/?mount={digest}{source}")
    unknown = registry("POST", f"/v2/mine/blobs/uploads/?mount={digest_of(b'none')}{source}")
    assert (answer.status, set(answer.headers)) == (unknown.status, set(unknown.headers)) == (202, set(unknown.headers))
    assert registry("HEAD", f"/v2/mine/blobs/{digest}").status == 404
    made().blob(b"secret", "public")
    assert registry("POST", f"/v2/mine/blobs/uploads/?mount={digest}").status == 201


# Manifests


@pytest.mark.parametrize("body", ["whole", "chunked"])
def test_a_manifest_comes_back_byte_for_byte(registry, body):
    raw = registry.image(**{"x-from-the-future": [1, 2]}).replace(b",", b" ,\n")
    digest = digest_of(raw)
    answer = registry.put(raw if body == "whole" else [raw[:9], raw[9:]], "v1")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/{NAME}/manifests/v1")
    assert answer.headers["docker-content-digest"] == digest
    assert "oci-subject" not in answer.headers and "oci-tag" not in answer.headers
    for reference in ("v1", digest):
        for method in ("GET", "HEAD"):
            answer = registry(method, f"/v2/{NAME}/manifests/{reference}", {"Accept": "text/plain"})
            assert (answer.status, answer.headers["content-type"]) == (200, MANIFEST)
            assert answer.headers["content-length"] == str(len(raw))
            assert answer.headers["docker-content-digest"] == digest
        assert registry("GET", f"/v2/{NAME}/manifests/{reference}").body == raw


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_manifest_under_its_digest_and_tags(registry, algorithm):
    raw = registry.image()
    digest = digest_of(raw, algorithm)
    answer = registry.put(raw, digest, query="?tag=v1&tag=v1.2&tag=latest&tag=v1")
    assert (answer.status, answer.headers["location"]) == (201, f"/v2/{NAME}/manifests/{digest}")
    assert [value for name, value in answer.pairs if name == "OCI-Tag"] == ["v1", "v1.2", "latest"]
    for reference in ("v1", "v1.2", "latest", digest):
        assert registry("HEAD", f"/v2/{NAME}/manifests/{reference}").headers["docker-content-digest"] == digest


def test_a_hundred_tags_at_once_fit_into_headers(registry):
    raw, tags = registry.image(), [f"v{n}" for n in range(100)]
    answer = registry.put(raw, digest_of(raw), query="?" + "&".join(f"tag={tag}" for tag in tags))
    assert answer.status == 201
    assert answer.headers["oci-tag"].split(", ") == tags
    assert len(answer.pairs) < 30
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == sorted(tags)


def test_tags_that_are_none_keep_the_whole_push_out(registry):
    raw = registry.image()
    for tag in (".v1", "a" * 129, "", "a/b", "a:b"):
        assert registry.put(raw, digest_of(raw), query=f"?tag=ok&tag={quote(tag)}").status == 400
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == []
    assert registry("HEAD", f"/v2/{NAME}/manifests/{digest_of(raw)}").status == 404
    assert registry.put(raw, "a" * 128).status == 201


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("body", ["whole", "chunked"])
@pytest.mark.parametrize("limit", [1000, 4 * 1024 * 1024])
def test_the_limit_of_manifests_is_their_largest_size(made, limit, body, over):
    registry = made(limits=Limits(manifest=limit))
    raw = registry.image(annotations={"x": ""})
    raw = raw.replace(b'""', b'"' + b"x" * (limit + over - len(raw)) + b'"')
    assert len(raw) == limit + over
    answer = registry.put(raw if body == "whole" else [raw])
    assert answer.status == (413 if over else 201)
    assert registry("HEAD", f"/v2/{NAME}/manifests/v1").status == (404 if over else 200)


@pytest.mark.parametrize(
    "announced", ["{}; charset=utf-8", "{} ;q=1", "  {}", "", pytest.param("{upper}", id="other case")]
)  # fmt: skip
@pytest.mark.parametrize("named", [True, False])
def test_parameters_of_content_types_are_dropped(registry, announced, named):
    raw = registry.image() if named else registry.image(mediaType=None)
    announced = announced.format(MANIFEST, upper=MANIFEST.upper())
    registry.pushed(raw, media_type=announced)
    for method in ("GET", "HEAD"):
        assert registry(method, f"/v2/{NAME}/manifests/v1").headers["content-type"] == MANIFEST


@pytest.mark.parametrize(
    ("announced", "said"),
    [(INDEX, MANIFEST), (MANIFEST, INDEX), (MANIFEST, DOCKER_MANIFEST), ("application/json", MANIFEST), ("text/html", MANIFEST),
     (MANIFEST, "text/html"), ("", "text/html"), ("text/html", None), (MANIFEST, MANIFEST.upper()), ("", MANIFEST.upper()),
     (MANIFEST, ""), (MANIFEST, "x\r\ny"), (MANIFEST, "\ud800"), ("nonsense", None), (f"{MANIFEST}, {INDEX}", MANIFEST)],
)  # fmt: skip
def test_a_content_type_that_is_not_what_the_document_says_is_400(registry, announced, said):
    answer = registry.put(registry.image(mediaType=said), media_type=announced)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert registry("GET", f"/v2/{NAME}/manifests/v1").status == 404


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER_MANIFEST])
def test_manifests_of_docker_too(registry, media_type):
    config = registry.blob(b"{}")
    raw = encoded({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [config]})
    registry.pushed(raw, media_type=media_type)
    assert registry("GET", f"/v2/{NAME}/manifests/v1").headers["content-type"] == media_type
    for kind in (INDEX, DOCKER_INDEX):
        child = {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}
        index = encoded({"schemaVersion": 2, "mediaType": kind, "manifests": [child]})
        registry.pushed(index, "all", media_type=kind)
        answer = registry("GET", f"/v2/{NAME}/manifests/all")
        assert (answer.headers["content-type"], answer.body) == (kind, index)


def test_docker_schema_1_is_refused_in_words(registry):
    raw = encoded({"schemaVersion": 1, "name": "x", "tag": "v1", "fsLayers": [], "history": []})
    for media_type in ("application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", ""):
        answer = registry.put(raw, media_type=media_type)
        assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


def test_a_manifest_that_a_client_has_is_not_sent(registry):
    digest = registry.pushed(registry.image())
    for method in ("GET", "HEAD"):
        for reference in ("v1", digest):
            url = f"/v2/{NAME}/manifests/{reference}"
            tag = registry(method, url).headers["etag"]
            assert tag == f'"{digest}"'
            answer = registry(method, url, {"If-None-Match": tag})
            assert (answer.status, answer.headers["etag"]) == (304, tag)
            assert registry(method, url, {"If-None-Match": f'"{ABSENT}"'}).status == 200


def test_a_tag_is_moved_only_from_where_it_was_seen(registry):
    one, two = (registry.image(annotations={"n": n}) for n in "12")
    first = registry.pushed(one)
    assert registry.put(two, headers={"If-Match": f'"{ABSENT}"'}).status == 412
    assert registry.put(two, headers={"If-Match": "nonsense"}).status == 412
    answer = registry.put(two, headers={"If-Match": f'"{ABSENT}", "{first}"'})
    assert (answer.status, answer.headers["etag"]) == (201, f'"{digest_of(two)}"')
    answer = registry.put(one, headers={"If-Match": f'"{first}"'})
    assert (answer.status, answer.code) == (412, "DENIED")
    assert digest_of(two) in answer.errors[0]["message"]
    assert registry("GET", f"/v2/{NAME}/manifests/v1").body == two
    assert registry.put(one, headers={"If-Match": "*"}).status == 201
    assert registry.put(one, "new", headers={"If-Match": "*"}).status == 412


def test_a_tag_is_made_only_if_there_is_none(registry):
    one, two = (registry.image(annotations={"n": n}) for n in "12")
    for reference in ("v1", digest_of(one)):
        assert registry.put(one, reference, headers={"If-None-Match": "*"}).status == (
            201 if reference == "v1" else 412
        )
    assert registry.put(two, headers={"If-None-Match": "*"}).status == 412
    assert registry("GET", f"/v2/{NAME}/manifests/v1").body == one


def test_strict_references_name_everything_that_is_missing(made):
    registry = made(references="strict")
    there = registry.blob(b"there")
    absent = [there | {"digest": digest_of(bytes([n]))} for n in range(5)]
    raw = registry.image(config=absent[0], layers=[there, *absent[1:], absent[1]])
    answer = registry.put(raw)
    assert answer.status == 400
    assert {error["code"] for error in answer.errors} == {"MANIFEST_BLOB_UNKNOWN"}
    assert [error["detail"]["digest"] for error in answer.errors] == sorted(layer["digest"] for layer in absent)
    assert all(error["detail"]["digest"] in error["message"] for error in answer.errors)
    assert registry("HEAD", f"/v2/{NAME}/manifests/v1").status == 404
    assert registry("HEAD", f"/v2/{NAME}/blobs/{digest_of(raw)}").status == 404
    for n in range(5):
        registry.blob(bytes([n]))
    registry.pushed(raw)


def test_strict_references_want_the_children_of_an_index_in_the_same_repository(made):
    registry = made(references="strict")
    child = registry.image("other")
    registry.pushed(child, "v1", "other")
    index = encoded(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{"mediaType": MANIFEST, "digest": digest_of(child), "size": len(child)}],
        }
    )
    assert registry.put(index, media_type=INDEX).code == "MANIFEST_BLOB_UNKNOWN"
    registry.image()
    registry.pushed(child, digest_of(child))
    registry.pushed(index, media_type=INDEX)
    nested = {"mediaType": INDEX, "digest": digest_of(index), "size": len(index)}
    registry.pushed(encoded({"schemaVersion": 2, "manifests": [nested]}), "nested", media_type=INDEX)


@pytest.mark.parametrize("layer", ["application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                                   "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"])  # fmt: skip
def test_layers_that_must_not_be_pushed_need_not_be_there(made, layer):
    registry = made(references="strict")
    foreign = {"mediaType": layer, "digest": ABSENT, "size": 1, "urls": ["https://elsewhere.example/x"]}
    registry.pushed(registry.image(layers=[foreign]))


def test_a_subject_may_be_missing_and_is_acknowledged(made):
    registry = made(references="strict")
    for digest in (ABSENT, "sha512:" + "1" * 128):
        raw = registry.image(subject={"mediaType": MANIFEST, "digest": digest, "size": 1})
        for reference in ("v1", digest_of(raw)):
            assert registry.put(raw, reference).headers["oci-subject"] == digest


def test_sparse_references_are_taken_as_they_are(made):
    registry = made(references="sparse")
    layer = {"mediaType": EMPTY, "digest": ABSENT, "size": 1}
    registry.pushed(registry.image(config=layer, layers=[layer]))
    registry.pushed(
        encoded({"schemaVersion": 2, "manifests": [layer | {"mediaType": MANIFEST}]}), "all", media_type=INDEX
    )


def test_the_specifications_schema_if_it_is_asked_for(made):
    raw = made().image(artifactType="no type")
    assert made().put(raw).status == 201
    answer = made(validate="schema").put(raw)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert answer.errors[0]["detail"]["path"] == "$.artifactType"
    assert "$.artifactType" in answer.errors[0]["message"]


def test_names_that_do_not_match_are_pulled_but_not_pushed_to(made):
    raw = made().image()
    made().pushed(raw)
    registry = made(names="lab/[a-z]+")
    assert registry("GET", f"/v2/{NAME}/manifests/v1").status == 200
    assert "lab/[a-z]+" in registry.put(raw).errors[0]["message"]
    registry.pushed(registry.image("lab/x"), name="lab/x")
    for name in ("lab/x/y", "my/lab/x"):
        assert registry.put(raw, name=name).code == "NAME_INVALID"
        assert registry("POST", f"/v2/{name}/blobs/uploads/").code == "NAME_INVALID"


# Deletion


def test_a_deleted_tag_leaves_the_manifest(registry):
    digest = registry.pushed(registry.image())
    registry.pushed(registry.image(), "v2")
    assert registry("DELETE", f"/v2/{NAME}/manifests/v1").status == 202
    assert registry("HEAD", f"/v2/{NAME}/manifests/v1").status == 404
    assert registry("HEAD", f"/v2/{NAME}/manifests/v2").status == 200
    assert registry("HEAD", f"/v2/{NAME}/manifests/{digest}").status == 200
    assert registry("DELETE", f"/v2/{NAME}/manifests/v1").code == "MANIFEST_UNKNOWN"


def test_a_deleted_manifest_takes_its_tags_along(registry):
    subject = registry.pushed(registry.image())
    raw = registry.image(subject={"mediaType": MANIFEST, "digest": subject, "size": 1})
    digest = registry.pushed(raw, "sbom")
    registry.pushed(raw, "other")
    assert registry("DELETE", f"/v2/{NAME}/manifests/{digest}").status == 202
    for reference in ("sbom", "other", digest):
        assert registry("GET", f"/v2/{NAME}/manifests/{reference}").status == 404
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == ["v1"]
    assert registry("GET", f"/v2/{NAME}/referrers/{subject}").json["manifests"] == []
    assert registry("DELETE", f"/v2/{NAME}/manifests/{digest}").status == 404
    assert registry("DELETE", f"/v2/none/manifests/{digest}").code == "NAME_UNKNOWN"


def test_a_blob_that_a_manifest_needs_is_kept(made):
    registry = made()
    layer = registry.blob(b"layer")
    registry.pushed(registry.image(layers=[layer]))
    url = f"/v2/{NAME}/blobs/{layer['digest']}"
    answer = registry("DELETE", url)
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == "GET, HEAD"
    assert registry("GET", url).status == 200
    assert made(delete_referenced=True)("DELETE", url).status == 202
    assert registry("GET", url).status == 404


def test_a_blob_that_nobody_needs_is_deleted(registry):
    url = f"/v2/{NAME}/blobs/{registry.blob(b'layer')['digest']}"
    assert registry("DELETE", url).status == 202
    assert registry("HEAD", url).status == 404
    assert registry("DELETE", url).code == "BLOB_UNKNOWN"


@pytest.mark.parametrize("kept", ["manifests", "blobs", "tags"])
def test_deletion_can_be_switched_off_by_kind(made, kept):
    registry = made(deletion={"manifests", "blobs", "tags"} - {kept})
    digest = registry.pushed(registry.image())
    urls = {
        "tags": f"/v2/{NAME}/manifests/v1",
        "manifests": f"/v2/{NAME}/manifests/{digest}",
        "blobs": f"/v2/{NAME}/blobs/{registry.blob(b'layer')['digest']}",
    }
    for kind, url in urls.items():
        answer = registry("DELETE", url)
        assert answer.status == (405 if kind == kept else 202), kind
        if kind == kept:
            assert answer.code == "UNSUPPORTED"
            assert "DELETE" not in answer.headers["allow"]


def test_a_registry_that_is_read_only_refuses_every_change(made):
    open_ = made()
    digest = open_.pushed(open_.image(layers=[open_.blob(b"abc")]))
    location = begin(open_)
    registry = made(read_only=True)
    blob = digest_of(b"abc")
    for method, url in [
        ("POST", f"/v2/{NAME}/blobs/uploads/"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={blob}"),
        ("POST", f"/v2/other/blobs/uploads/?mount={blob}&from={NAME}"),
        ("PATCH", location),
        ("PUT", f"{location}?digest={blob}"),
        ("DELETE", location),
        ("PUT", f"/v2/{NAME}/manifests/v1"),
        ("PUT", f"/v2/{NAME}/manifests/{digest}?tag=v2"),
        ("DELETE", f"/v2/{NAME}/manifests/v1"),
        ("DELETE", f"/v2/{NAME}/manifests/{digest}"),
        ("DELETE", f"/v2/{NAME}/blobs/{blob}"),
    ]:
        answer = registry(method, url, body=b"abc")
        assert (answer.status, answer.code) == (405, "UNSUPPORTED"), (method, url)
        assert set(answer.headers["allow"].split(", ")) <= {"GET", "HEAD", ""}
    assert registry("GET", f"/v2/{NAME}/manifests/v1").headers["docker-content-digest"] == digest
    assert registry("GET", f"/v2/{NAME}/blobs/{blob}").body == b"abc"
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == ["v1"]
    assert registry("GET", "/v2/_catalog").json == {"repositories": [NAME]}
    assert registry("GET", f"/v2/{NAME}/referrers/{digest}").status == 200


# Referrers


def attach(registry, subject, name=NAME, **fields):
    """Push a manifest that refers to a digest; gives its digest."""
    raw = registry.image(name, subject={"mediaType": MANIFEST, "digest": subject, "size": 1}, **fields)
    registry.pushed(raw, digest_of(raw), name)
    return digest_of(raw)


@pytest.mark.parametrize("name", [NAME, "none"])
@pytest.mark.parametrize("digest", [ABSENT, "sha512:" + "0" * 128, "blake3:" + "0" * 64, "sha384+x:abc"])
def test_what_nobody_refers_to_has_an_empty_list(registry, name, digest):
    registry.pushed(registry.image())
    answer = registry("GET", f"/v2/{name}/referrers/{digest}")
    assert answer.status == 200
    assert answer.headers["content-type"] == INDEX
    assert answer.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    assert "link" not in answer.headers and "oci-filters-applied" not in answer.headers


@pytest.mark.parametrize(
    "digest", ["v1", "sha256:", "sha256:abc", "sha256:" + "0" * 63, "sha256:" + "A" * 64, ":", "x", "a:b!"]
)
def test_referrers_of_what_is_no_digest_are_400(registry, digest):
    answer = registry("GET", f"/v2/{NAME}/referrers/{digest}")
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


def test_referrers_are_described_by_type_and_annotations(registry):
    subject = registry.pushed(registry.image())
    shown = {
        attach(
            registry, subject, artifactType="application/x.sbom", annotations={"a": 'é " \\ \n 👋', "b": "\ud800"}
        ): "application/x.sbom",
        attach(registry, subject): EMPTY,
        attach(registry, subject, artifactType=""): EMPTY,
    }
    for kind, expected in ((None, None), ("application/x.list", "application/x.list")):
        fields = {"artifactType": kind} if kind else {}
        raw = encoded({"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"n": "1"},
                       "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1}, **fields})  # fmt: skip
        shown[registry.pushed(raw, digest_of(raw), media_type=INDEX)] = expected
    attach(registry, ABSENT)
    attach(registry, subject, "other")
    listed = registry("GET", f"/v2/{NAME}/referrers/{subject}").json["manifests"]
    assert {each["digest"]: each.get("artifactType") for each in listed} == shown
    for each in listed:
        document = registry("GET", f"/v2/{NAME}/manifests/{each['digest']}")
        assert (each["mediaType"], each["size"]) == (document.headers["content-type"], len(document.body))
        assert each.get("annotations", {}) == document.json.get("annotations", {})
        assert set(each) <= {"mediaType", "digest", "size", "artifactType", "annotations"}


@pytest.mark.parametrize(
    "asked", ["application/x.sbom%2Bjson", "application/x.sbom+json", "application%2Fx.sbom%2Bjson"]
)
def test_referrers_of_one_type(registry, asked):
    wanted = {
        attach(registry, ABSENT, artifactType="application/x.sbom+json", annotations={"n": str(n)}) for n in range(3)
    }
    attach(registry, ABSENT, artifactType="application/x.sbom")
    answer = registry("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType={asked}")
    assert {each["digest"] for each in answer.json["manifests"]} == wanted
    assert answer.headers["oci-filters-applied"] == "artifactType"
    answer = registry("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType=none")
    assert (answer.json["manifests"], answer.headers["oci-filters-applied"]) == ([], "artifactType")
    answer = registry("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType=")
    assert len(answer.json["manifests"]) == 4 and "oci-filters-applied" not in answer.headers


@pytest.mark.parametrize("query", ["", "?artifactType=application/x.big"])
@pytest.mark.parametrize(
    "note", ["x" * 600_000, "é" * 300_000, '"' * 300_000, "\x01" * 100_000], ids=["plain", "text", "quotes", "controls"]
)
def test_a_list_of_more_than_four_mebibytes_is_paged(registry, query, note):
    wanted = {
        attach(registry, ABSENT, artifactType="application/x.big", annotations={"n": f"{n} {note}"}) for n in range(9)
    }
    others = {
        attach(registry, ABSENT, artifactType="application/x.small", annotations={"n": str(n)}) for n in range(30)
    }
    answers = pages(registry, f"/v2/{NAME}/referrers/{ABSENT}{query}")
    found = [each["digest"] for answer in answers for each in answer.json["manifests"]]
    assert len(answers) > 1
    assert len(found) == len(set(found))
    assert set(found) == (wanted if query else wanted | others)
    for answer in answers:
        assert len(answer.body) <= 4 * 1024 * 1024
        assert answer.headers["content-type"] == INDEX
        assert answer.headers.get("oci-filters-applied") == ("artifactType" if query else None)
    for answer in answers[:-1]:
        asked = parse_qs(urlsplit(link(answer)).query)
        assert asked.get("artifactType") == (["application/x.big"] if query else None)


def test_a_referrer_as_large_as_a_manifest_can_be_is_listed_alone(registry):
    for n in "12":
        raw = registry.image(subject={"mediaType": MANIFEST, "digest": ABSENT, "size": 1}, annotations={n: ""})
        raw = raw.replace(b'""', b'"' + b"x" * (4 * 1024 * 1024 - len(raw)) + b'"')
        registry.pushed(raw, digest_of(raw))
    answers = pages(registry, f"/v2/{NAME}/referrers/{ABSENT}")
    assert [len(answer.json["manifests"]) for answer in answers] == [1, 1]
    assert all(len(answer.body) <= 4 * 1024 * 1024 for answer in answers)


def test_hundreds_of_referrers_are_listed_at_once(registry):
    wanted = sorted(attach(registry, ABSENT, annotations={"n": str(n)}) for n in range(200))
    answer = registry("GET", f"/v2/{NAME}/referrers/{ABSENT}")
    assert [each["digest"] for each in answer.json["manifests"]] == wanted
    assert "link" not in answer.headers


def test_a_fallback_tag_of_an_older_client_does_no_harm(made):
    """spec.md#enabling-the-referrers-api: such a tag lists what the registry has listed since it was pushed."""
    registry = made(references="strict")
    subject = registry.pushed(registry.image())
    digest = attach(registry, subject, artifactType="application/x.sbom", annotations={"a": "b"})
    listed = registry("GET", f"/v2/{NAME}/referrers/{subject}").json
    fallback = subject.replace(":", "-")
    registry.pushed(encoded(listed), fallback, media_type=INDEX)
    assert registry("GET", f"/v2/{NAME}/referrers/{subject}").json == listed
    assert registry("GET", f"/v2/{NAME}/manifests/{fallback}").json == listed
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == [fallback, "v1"]
    registry.pushed(encoded({**listed, "manifests": []}), fallback, media_type=INDEX)
    assert [each["digest"] for each in registry("GET", f"/v2/{NAME}/referrers/{subject}").json["manifests"]] == [digest]


# Where things are


@pytest.mark.parametrize(
    ("environ", "prefix"),
    [
        ({}, ""),
        ({"SCRIPT_NAME": "/registry"}, "/registry"),
        ({"SCRIPT_NAME": "/a b/é".encode().decode("latin-1")}, "/a%20b/%C3%A9"),
        ({"SCRIPT_NAME": "/registry/"}, "/registry"),
    ],
)
def test_links_are_relative_to_the_host_and_below_the_mount_point(registry, environ, prefix):
    def ask(method, url, *rest, **more):
        return registry(method, url.removeprefix(prefix), *rest, **environ, **more)

    digest = digest_of(b"abc")
    begun = ask("POST", f"/v2/{NAME}/blobs/uploads/")
    assert begun.headers["location"].startswith(f"{prefix}/v2/{NAME}/blobs/uploads/")
    chunk = ask("PATCH", begun.headers["location"], {}, b"abc")
    assert chunk.headers["location"] == begun.headers["location"]
    assert ask("GET", begun.headers["location"]).headers["location"] == begun.headers["location"]
    done = ask("PUT", f"{begun.headers['location']}?digest={digest}")
    assert done.headers["location"] == f"{prefix}/v2/{NAME}/blobs/{digest}"
    mounted = ask("POST", f"/v2/to/blobs/uploads/?mount={digest}&from={NAME}")
    assert mounted.headers["location"] == f"{prefix}/v2/to/blobs/{digest}"
    raw = registry.image()
    pushed = ask("PUT", f"/v2/{NAME}/manifests/v1", {"Content-Type": MANIFEST}, raw)
    assert pushed.headers["location"] == f"{prefix}/v2/{NAME}/manifests/v1"
    ask("PUT", f"/v2/{NAME}/manifests/v2", {"Content-Type": MANIFEST}, raw)
    assert link(ask("GET", f"/v2/{NAME}/tags/list?n=1")) == f"{prefix}/v2/{NAME}/tags/list?n=1&last=v1"
    assert link(ask("GET", "/v2/_catalog?n=1")).startswith(f"{prefix}/v2/_catalog?")


def test_a_host_of_the_clients_choice_is_in_no_link(registry):
    answer = registry("POST", f"http://evil.example:99/v2/{NAME}/blobs/uploads/", {"X-Forwarded-Host": "evil.example"})
    assert answer.headers["location"].startswith("/v2/")
    assert not any("evil" in value for _, value in answer.pairs)


# The server's own words


@pytest.mark.parametrize("limits", [{"page": 0}, {"manifest": -1}, {"sessions": 0}])
def test_limits_that_let_nothing_through_are_refused(limits):
    with pytest.raises(ValueError, match="limit"):
        Limits(**limits)


@pytest.mark.parametrize(
    "settings", [{"references": "loose"}, {"validate": "no"}, {"deletion": "blob"}, {"names": "("}]
)
def test_settings_that_are_none_are_refused(settings):
    with pytest.raises(ValueError):
        Settings(**settings)


def test_one_text_is_one_host_one_proxy_one_kind():
    settings = Settings(hosts="Hub.Lab:5000", trusted_proxies="10.0.0.1", deletion="blobs")
    assert settings.hosts == ("hub.lab",)
    assert settings.trusted_proxies == ("10.0.0.1",)
    assert settings.deletion == {"blobs"}


def test_a_refusal_reads_in_one_line_whatever_it_repeats():
    refusal = ErrorResponse(400, "NAME_INVALID", "a\r\nb\x1b[31mc" + "d" * 5000)
    assert refusal.errors["errors"][0]["message"].startswith("a bc")
    assert len(refusal.errors["errors"][0]["message"]) == 1000
    assert json.loads(json.dumps(refusal.errors)) == refusal.errors


class Counted(io.BytesIO):
    """A body that counts what is read of it."""

    taken = 0

    def read(self, size=-1):
        got = super().read(size)
        self.taken += len(got)
        return got


@pytest.mark.parametrize("chunked", [False, True])
def test_a_refused_body_is_read_if_it_is_small_so_that_its_sender_sees_the_answer(made, chunked):
    def refused(registry, size, **headers):
        body = Counted(bytes(size))
        url = f"/v2/{NAME}/blobs/uploads/?digest={ABSENT}"
        environ = {"CONTENT_LENGTH": None if chunked else str(size)}
        if chunked:
            environ |= {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        assert registry("POST", url, headers, body, **environ).status >= 400
        return body.taken

    limited, small, large = made(limits=Limits(blob=10)), 1_000_000, 5_000_000
    assert refused(limited, small) == small
    assert refused(limited, large) <= (5_000_000 if chunked else 0)
    assert refused(made(read_only=True), small) == small
    # Who waits to be told to send has sent nothing yet
    assert refused(limited, small, Expect="100-continue") <= (11 if chunked else 0)
    for nobody in (Locked(), Nobody(), Ada()):
        assert refused(made(nobody), small) == 0
