"""Paths, errors, links and settings of the application; the conformance suite covers the rest."""

import io
import json

import pytest
from ocikit.server import ErrorResponse, Limits, Settings

from tests.support.wsgi import INDEX, MANIFEST, NAME, digest_of, encoded
from tests.unit.server.endpoints import ABSENT, DenyAll, DenyWithChallenge, FailingAccess, PullOnly, link

# Paths


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
def test_base_path_returns_registry_version(app, path):
    response = app("GET", path)
    assert (response.status, response.json) == (200, {})
    assert response.headers["docker-distribution-api-version"] == "registry/2.0"
    assert app("HEAD", path).headers["content-length"] == "2"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1/",
        "/v2/x",
        "/v2/team/data",
        "/v2/team/data/",
        "/v2/blobs/uploads/x",
        "/v2//tags/list",
        "/v2/a/tags",
        "/v2/a/tags/",
        "/v2/a/tags/list/",
        "/v2/manifests/v1",
        "/v2/a/nonsense/b",
        "/v3/a/tags/list",
        "*",
    ],
)
def test_unknown_path_returns_404(app, path):
    for method in ("GET", "PUT", "DELETE"):
        response = app(method, path)
        assert (response.status, response.code) == (404, "NAME_UNKNOWN")


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
def test_unsupported_method_returns_405_with_allow(app, method, path, allowed):
    response = app(method, path)
    assert response.status == 405
    assert response.headers["allow"] == allowed
    if method != "HEAD":
        assert response.code == "UNSUPPORTED"


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "blobs",
        "tags/list",
        "a/blobs",
        "a/blobs/uploads",
        "manifests",
        "a/manifests/v1",
        "referrers",
        "v2",
        "uploads",
        "a/tags/list",
        "x" * 255,
    ],
)
def test_repository_name_may_contain_path_keywords(app, name):
    raw = app.image(name)
    app.pushed(raw, "list", name)
    assert app("GET", f"/v2/{name}/manifests/list").body == raw
    assert app("GET", f"/v2/{name}/tags/list").json == {"name": name, "tags": ["list"]}
    assert app("GET", f"/v2/{name}/referrers/{ABSENT}").json["manifests"] == []
    created = app("POST", f"/v2/{name}/blobs/uploads")
    assert app("GET", created.headers["location"]).status == 204


def test_healthz_returns_ok(make_registry):
    registry = make_registry()
    assert registry("GET", "/healthz").json == {"status": "ok"}
    assert registry("HEAD", "/healthz").status == 200


#: spec.md#error-codes
CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
}


# Errors


def error_cases(make_registry):
    """Yield requests that fail, with the status and code of the response."""
    open_, strict = make_registry(), make_registry(references="strict")
    raw, config = open_.image(), open_.blob(b"{}")
    open_.pushed(raw, "v1")
    blob = open_.blob(b"content")["digest"]
    subject = {"mediaType": MANIFEST, "digest": ABSENT, "size": 1}

    def upload(app, name=NAME):
        return app("POST", f"/v2/{name}/blobs/uploads/").headers["location"]

    def broken(length, content_type):
        return {"body": io.BytesIO(b"abc"), "CONTENT_LENGTH": length, "CONTENT_TYPE": content_type}

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
    yield make_registry(catalog=False), "GET", "/v2/_catalog", {}, 404, "UNSUPPORTED"
    yield open_, "GET", f"/v2/{NAME}/referrers/sha256:abc", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/referrers/v1", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/blobs/{ABSENT}", {}, 404, "BLOB_UNKNOWN"
    yield open_, "GET", f"/v2/{NAME}/blobs/sha256:abc", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/blobs/sha384:{'0' * 96}", {}, 400, "DIGEST_INVALID"
    yield open_, "GET", f"/v2/{NAME}/blobs/{blob}", {"headers": {"Range": "bytes=99-"}}, 416, "SIZE_INVALID"
    yield open_, "DELETE", f"/v2/{NAME}/blobs/{ABSENT}", {}, 404, "BLOB_UNKNOWN"
    yield open_, "DELETE", f"/v2/{NAME}/blobs/{config['digest']}", {}, 405, "UNSUPPORTED"
    yield make_registry(deletion=()), "DELETE", f"/v2/{NAME}/blobs/{blob}", {}, 405, "UNSUPPORTED"
    yield make_registry(deletion=()), "DELETE", f"/v2/{NAME}/manifests/v1", {}, 405, "UNSUPPORTED"
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
        make_registry(validate="schema"),
        "PUT",
        put,
        {"body": manifest(config=config | {"annotations": {"": 1}})},
        400,
        "MANIFEST_INVALID",
    )
    yield make_registry(validate="schema"), "PUT", put, {"body": manifest(artifactType="none")}, 400, "MANIFEST_INVALID"
    yield strict, "PUT", put, {"body": manifest(layers=[layer])}, 400, "MANIFEST_BLOB_UNKNOWN"
    yield open_, "PUT", put, {"body": raw, "headers": {**typed, "If-None-Match": "*"}}, 412, "DENIED"
    yield open_, "PUT", put, {"body": raw, "headers": {**typed, "If-Match": f'"{ABSENT}"'}}, 412, "DENIED"
    yield open_, "PUT", put, broken("9", MANIFEST), 400, "SIZE_INVALID"
    yield make_registry(limits=Limits(manifest=10)), "PUT", put, {"body": raw}, 413, "SIZE_INVALID"
    yield make_registry(names="lab/.*"), "PUT", put, {"body": raw}, 400, "NAME_INVALID"
    yield make_registry(names="lab/.*"), "POST", f"/v2/{NAME}/blobs/uploads/", {}, 400, "NAME_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?mount=x&from=b", {}, 400, "DIGEST_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?digest=x", {}, 400, "DIGEST_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?digest={ABSENT}", {"body": b"abc"}, 400, "DIGEST_INVALID"
    yield open_, "POST", f"/v2/{NAME}/blobs/uploads/?digest-algorithm=md5", {}, 400, "DIGEST_INVALID"
    yield (
        make_registry(limits=Limits(blob=2)),
        "POST",
        f"/v2/{NAME}/blobs/uploads/?digest={ABSENT}",
        {"body": b"abc"},
        413,
        "SIZE_INVALID",
    )
    yield make_registry(limits=Limits(repository=2)), "POST", f"/v2/{NAME}/blobs/uploads/", {}, 413, "DENIED"
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
        yield make_registry(limits=Limits(blob=2)), method, url, {"body": b"abc"}, 413, "SIZE_INVALID"
        yield make_registry(limits=Limits(repository=2)), method, url, {"body": b"abc"}, 413, "DENIED"
    yield make_registry(limits=Limits(sessions=1)), "POST", f"/v2/{NAME}/blobs/uploads/", {}, 429, "TOOMANYREQUESTS"
    yield make_registry(DenyWithChallenge()), "GET", "/v2/", {}, 401, "UNAUTHORIZED"
    yield make_registry(DenyAll()), "GET", "/v2/", {}, 403, "DENIED"
    yield make_registry(DenyWithChallenge()), "GET", "/v2/_catalog", {}, 401, "UNAUTHORIZED"
    yield make_registry(DenyWithChallenge()), "GET", f"/v2/{NAME}/tags/list", {}, 401, "UNAUTHORIZED"
    yield make_registry(DenyAll()), "GET", f"/v2/{NAME}/tags/list", {}, 403, "DENIED"
    yield make_registry(PullOnly()), "PUT", put, {"body": raw}, 403, "DENIED"
    yield make_registry(hosts=("localhost",)), "GET", "http://evil.example/v2/", {}, 421, "DENIED"
    yield open_, "GET", "/v2/", {"HTTP_HOST": "a,b"}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/", {"HTTP_HOST": ""}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/%ff/tags/list", {}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/a/tags/list?n=%ff", {}, 400, "UNSUPPORTED"
    yield open_, "GET", "/v2/?" + "a&" * 20_000, {}, 400, "UNSUPPORTED"
    yield open_, "PUT", put, {"body": raw, "headers": {"Transfer-Encoding": "chunked"}}, 400, "SIZE_INVALID"
    yield open_, "PUT", put, {"body": [raw], "HTTP_TRANSFER_ENCODING": "gzip, chunked"}, 400, "UNSUPPORTED"
    yield open_, "PUT", put, {"body": raw, "CONTENT_LENGTH": "-1"}, 400, "SIZE_INVALID"
    yield open_, "PUT", put, {"body": raw, "CONTENT_LENGTH": "9" * 30}, 400, "SIZE_INVALID"


def test_every_error_has_specified_json_and_status(make_registry):
    for registry, method, url, more, status, code in error_cases(make_registry):
        response = registry(method, url, **more)
        case = (method, url[:200], more, response)
        assert response.status == status, case
        assert set(response.json) == {"errors"} and response.errors, case
        for error in response.errors:
            assert error["code"] == code and code in CODES, case
            assert set(error) <= {"code", "message", "detail"}
            assert 10 < len(error["message"]) < 600 and error["message"].isprintable(), case
        assert ("www-authenticate" in response.headers) == (status == 401)
        assert ("allow" in response.headers) == (status == 405)
        assert ("retry-after" in response.headers) == (status == 429)
        assert ("content-range" in response.headers) == (status == 416 and method == "GET")


def test_head_error_has_no_body(make_registry):
    seen = set()
    for registry, method, url, more, status, _ in error_cases(make_registry):
        if method == "GET" and "/uploads/" not in url:
            response = registry("HEAD", url, **more)
            assert response.status == (200 if status == 416 else status)  # ranges are for GET
            assert response.body == b""
            seen.add(response.status)
    assert {400, 401, 403, 404, 421} <= seen


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError(28, "No space left on device"), 507), (OSError(5, "Input/output error"), 500), (ValueError("x"), 500)],
)
def test_internal_error_is_logged_and_hides_details(make_registry, caplog, error, status):
    response = make_registry(FailingAccess(error))("GET", "/v2/a%0d%0aforged/tags/list")
    assert response.status == status
    (error_body,) = response.errors
    assert "space left" not in error_body["message"] and "Errno" not in error_body["message"]
    assert str(error) in caplog.text
    assert "forged" in caplog.messages[0] and "\n" not in caplog.messages[0] and "\r" not in caplog.messages[0]


def test_failing_callback_does_not_fail_request(make_registry, caplog):
    def fail(record):
        raise RuntimeError("the disk of the log is full")

    registry = make_registry()
    registry.app.on_request = fail
    assert registry("GET", "/v2/").status == 200
    digest = registry.blob(b"abc")["digest"]
    assert registry("GET", f"/v2/{NAME}/blobs/{digest}").body == b"abc"
    assert "the disk of the log is full" in caplog.text


def test_access_record_has_client_request_and_sizes(make_registry):
    records = []
    registry = make_registry()
    registry.app.on_request = records.append
    digest = registry.blob(b"abc")["digest"]
    registry("GET", f"/v2/{NAME}/blobs/{digest}", {"User-Agent": "me"})
    registry("GET", "/v2/none/tags/list?n=1")
    pushed, pulled, rejected = records
    assert (pushed.method, pushed.status, pushed.received, pushed.sent) == ("POST", 201, 3, 0)
    assert (pulled.path, pulled.status, pulled.sent, pulled.agent) == (f"/v2/{NAME}/blobs/{digest}", 200, 3, "me")
    assert (rejected.status, rejected.code, rejected.query, rejected.remote) == (
        404,
        "NAME_UNKNOWN",
        (("n", "1"),),
        "127.0.0.1",
    )


def test_access_record_of_invalid_request_has_remote(make_registry):
    records = []
    registry = make_registry()
    registry.app.on_request = records.append
    registry("GET", "/v2/a/tags/list", HTTP_HOST="a,b")
    assert (records[0].status, records[0].path, records[0].remote) == (400, "/v2/a/tags/list", "127.0.0.1")


# Links


@pytest.mark.parametrize(
    ("environ", "prefix"),
    [
        ({}, ""),
        ({"SCRIPT_NAME": "/registry"}, "/registry"),
        ({"SCRIPT_NAME": "/a b/é".encode().decode("latin-1")}, "/a%20b/%C3%A9"),
        ({"SCRIPT_NAME": "/registry/"}, "/registry"),
    ],
)
def test_links_are_relative_to_host_below_mount_point(app, environ, prefix):
    def send(method, url, *rest, **more):
        return app(method, url.removeprefix(prefix), *rest, **environ, **more)

    digest = digest_of(b"abc")
    created = send("POST", f"/v2/{NAME}/blobs/uploads/")
    assert created.headers["location"].startswith(f"{prefix}/v2/{NAME}/blobs/uploads/")
    chunk = send("PATCH", created.headers["location"], {}, b"abc")
    assert chunk.headers["location"] == created.headers["location"]
    assert send("GET", created.headers["location"]).headers["location"] == created.headers["location"]
    finished = send("PUT", f"{created.headers['location']}?digest={digest}")
    assert finished.headers["location"] == f"{prefix}/v2/{NAME}/blobs/{digest}"
    mounted = send("POST", f"/v2/to/blobs/uploads/?mount={digest}&from={NAME}")
    assert mounted.headers["location"] == f"{prefix}/v2/to/blobs/{digest}"
    raw = app.image()
    pushed = send("PUT", f"/v2/{NAME}/manifests/v1", {"Content-Type": MANIFEST}, raw)
    assert pushed.headers["location"] == f"{prefix}/v2/{NAME}/manifests/v1"
    send("PUT", f"/v2/{NAME}/manifests/v2", {"Content-Type": MANIFEST}, raw)
    assert link(send("GET", f"/v2/{NAME}/tags/list?n=1")) == f"{prefix}/v2/{NAME}/tags/list?n=1&last=v1"
    assert link(send("GET", "/v2/_catalog?n=1")).startswith(f"{prefix}/v2/_catalog?")


def test_links_never_contain_host_header(app):
    response = app("POST", f"http://evil.example:99/v2/{NAME}/blobs/uploads/", {"X-Forwarded-Host": "evil.example"})
    assert response.headers["location"].startswith("/v2/")
    assert not any("evil" in value for _, value in response.pairs)


# Settings and rejected bodies


@pytest.mark.parametrize("limits", [{"page": 0}, {"manifest": -1}, {"sessions": 0}])
def test_limits_below_1_are_rejected(limits):
    with pytest.raises(ValueError, match="limit"):
        Limits(**limits)


@pytest.mark.parametrize(
    "settings", [{"references": "loose"}, {"validate": "no"}, {"deletion": "blob"}, {"names": "("}]
)
def test_invalid_settings_are_rejected(settings):
    with pytest.raises(ValueError):
        Settings(**settings)


def test_single_string_is_one_setting():
    settings = Settings(hosts="Hub.Lab:5000", trusted_proxies="10.0.0.1", deletion="blobs")
    assert settings.hosts == ("hub.lab",)
    assert settings.trusted_proxies == ("10.0.0.1",)
    assert settings.deletion == {"blobs"}


def test_error_message_is_one_limited_line():
    error = ErrorResponse(400, "NAME_INVALID", "a\r\nb\x1b[31mc" + "d" * 5000)
    assert error.errors["errors"][0]["message"].startswith("a bc")
    assert len(error.errors["errors"][0]["message"]) == 1000
    assert json.loads(json.dumps(error.errors)) == error.errors


class CountingBody(io.BytesIO):
    """A body that counts the bytes read."""

    bytes_read = 0

    def read(self, size=-1):
        chunk = super().read(size)
        self.bytes_read += len(chunk)
        return chunk


@pytest.mark.parametrize("chunked", [False, True])
def test_small_rejected_body_is_read_so_client_sees_response(make_registry, chunked):
    def bytes_read(app, size, **headers):
        body = CountingBody(bytes(size))
        url = f"/v2/{NAME}/blobs/uploads/?digest={ABSENT}"
        environ = {"CONTENT_LENGTH": None if chunked else str(size)}
        if chunked:
            environ |= {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
        assert app("POST", url, headers, body, **environ).status >= 400
        return body.bytes_read

    limited, small, large = make_registry(limits=Limits(blob=10)), 1_000_000, 5_000_000
    assert bytes_read(limited, small) == small
    assert bytes_read(limited, large) <= (5_000_000 if chunked else 0)
    assert bytes_read(make_registry(read_only=True), small) == small
    # A client that expects 100 Continue has not sent its body yet
    assert bytes_read(limited, small, Expect="100-continue") <= (11 if chunked else 0)
    for access in (DenyWithChallenge(), DenyAll(), PullOnly()):
        assert bytes_read(make_registry(access), small) == 0
