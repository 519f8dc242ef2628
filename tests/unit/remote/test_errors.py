"""Failed requests as typed errors with the registry's message."""

import base64
import json
import logging
import pickle

import pytest
from ocikit import errors

from tests.support.http import ADA, BASIC, SECRET, get, require_basic


def test_error_contains_the_registrys_message(server, connect):
    body = {
        "errors": [{"code": "DENIED", "message": "over quota", "detail": {"used": 3}}, {"code": "MINE", "message": "x"}]
    }
    server.on("GET", "/v2/", status=403, body=json.dumps(body).encode(), headers={"X-Request-Id": "r-17"})
    with pytest.raises(errors.Denied) as caught:
        get(connect(server))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.code, error.status, error.method, error.host, error.request_id) == (
        "DENIED",
        403,
        "GET",
        server.host,
        "r-17",
    )
    assert [e["code"] for e in error.errors] == ["DENIED", "MINE"]
    for word in ("over quota (used: 3)", "r-17", server.host, "test"):
        assert word in str(error)


@pytest.mark.parametrize(
    ("message", "detail", "text"),
    [
        ("over quota", {"used": 3, "limit": [1], "at": None}, "over quota (used: 3)"),
        ("no repository a/b here", {"name": "a/b"}, "no repository a/b here"),
        ("denied", [{"Type": "repository", "Class": "", "Name": "a/b", "Action": "pull"}], "denied"),
        ("unknown blobs", [{"digest": "sha256:1"}, {"digest": "sha256:2"}], "unknown blobs (digest: sha256:1, digest: sha256:2)"),
        ("too many", "in six hours", "too many (in six hours)"),
        ("", {"reason": "closed"}, "reason: closed"),
        ("plain", {}, "plain"),
    ],
)  # fmt: skip
def test_detail_is_text_without_scopes_and_repetition(server, connect, message, detail, text):
    errors_ = [{"code": "MINE", "message": message, "detail": detail}]
    server.on("GET", "/v2/", status=400, body=json.dumps({"errors": errors_}).encode())
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert caught.value.message.endswith(f"returned MINE (400): {text}")
    assert list(caught.value.errors) == errors_


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "UNAUTHORIZED", errors.Unauthorized),
        (403, "DENIED", errors.Denied),
        (404, "NAME_UNKNOWN", errors.NameUnknown),
        (404, "MANIFEST_UNKNOWN", errors.ManifestUnknown),
        (404, "UNKNOWN", errors.ManifestUnknown),
        (404, "BLOB_UNKNOWN", errors.BlobUnknown),
        (404, "BLOB_UPLOAD_UNKNOWN", errors.UploadUnknown),
        (405, "", errors.Unsupported),
        (400, "UNSUPPORTED", errors.Unsupported),
        (413, "", errors.TooLarge),
        (416, "", errors.RangeInvalid),
        (429, "TOOMANYREQUESTS", errors.RateLimited),
        (400, "MANIFEST_INVALID", errors.UploadInvalid),
        (400, "DIGEST_INVALID", errors.UploadInvalid),
        (400, "SIZE_INVALID", errors.UploadInvalid),
        (418, "TEAPOT", errors.RegistryError),
    ],
)
def test_status_and_code_determine_error_class(server, connect, status, code, kind):
    body = json.dumps({"errors": [{"code": code}]}).encode() if code else b""
    server.on("GET", ".*", status=status, body=body, times=None)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server, retries=0), "/v2/a/manifests/v1")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert (code or str(status)) in str(caught.value)


@pytest.mark.parametrize("port_is_new", [True, False])
def test_message_of_first_400_is_kept(server, connect, port_is_new):
    transport = connect(server)
    if not port_is_new:
        get(transport)
    server.on("GET", "/v2/x", status=400, body=b'{"errors": [{"code": "NAME_INVALID", "message": "bad name"}]}')
    with pytest.raises(errors.RegistryError, match="bad name") as caught:
        get(transport, "/v2/x")
    assert caught.value.code == "NAME_INVALID"
    get(transport)
    assert server.connections <= 2


def test_html_error_page_is_named_by_title(server, connect):
    page = b"<!DOCTYPE html><html><head><title>Sign in\n to Corp</title></head>" + b"<p>x</p>" * 1000
    server.on("GET", "/v2/", status=502, body=page, times=None)
    with pytest.raises(errors.RegistryError, match="Sign in") as caught:
        get(connect(server, retries=0))
    assert "<p>" not in str(caught.value)


def test_html_response_is_not_parsed_as_listing(server, open_repository):
    server.on("GET", ".*/tags/list", status=200, headers={"Content-Type": "text/html"}, body=b"<html>login</html>")
    with pytest.raises(errors.InvalidResponse, match="text/html") as caught:
        open_repository(server).tags()
    assert "login page" in caught.value.hint


def test_large_error_body_is_not_read(server, connect):
    server.on("GET", "/v2/", status=500, body=b"x" * 10_000_000, times=None)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server, retries=0))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"17",
        b"\xff\xfe\x00",
        b'{"errors": null}',
        b'{"errors": [1, null]}',
        b'{"errors": [{"code": 5, "message": ["x"]}]}',
        b'{"errors": {"code": "X"}}',
        b'{"errors":[{}]}',
        b"[" * 100_000,
    ],
)
def test_malformed_error_body_raises_registry_error(server, connect, body):
    server.on("GET", "/v2/", status=418, body=body)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert type(caught.value) is errors.RegistryError
    assert f"{server.host} returned" in str(caught.value)
    repr(caught.value), pickle.dumps(caught.value), caught.value.code


def test_interrupted_error_body_raises_registry_error(server, connect):
    server.on("GET", "/v2/", status=418, body=b"x" * 1000, cut=10)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert caught.value.status == 418


def test_compressed_error_body_is_read(server, connect):
    server.on(
        "GET", "/v2/", status=418, body=b'{"errors": [{"code": "TEAPOT", "message": "short and stout"}]}', gzip=True
    )
    with pytest.raises(errors.RegistryError, match="short and stout"):
        get(connect(server))


def test_control_characters_are_removed_from_messages(server, connect):
    server.on(
        "GET",
        "/v2/",
        status=418,
        body=json.dumps({"errors": [{"code": "X\x1b[2J", "message": "\x1b]0;title\x07hi"}]}).encode(),
    )
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)


def test_messages_reprs_and_logs_contain_no_secret(server, other, connect, caplog):
    caplog.set_level(logging.DEBUG, "ocikit")
    server.guard = require_basic
    signed = f"{other.url}/b?X-Amz-Signature={SECRET}&sig={SECRET}"
    server.on(
        "GET",
        "/v2/x",
        when=lambda r: "Authorization" in r.headers,
        status=307,
        headers={"Location": signed},
        times=None,
    )
    other.on("GET", "/b", status=403, body=b"<html>no</html>", times=None)
    transport = connect(server, credentials=ADA, headers={"X-Key": SECRET}, proxies={"http": f"http://u:{SECRET}@p"})
    with pytest.raises(errors.Denied) as caught:
        get(transport, "/v2/x")
    other.__exit__()
    try:
        with pytest.raises(errors.ConnectionFailed) as gone:
            get(connect(server, credentials=ADA, retries=0), "/v2/x")
    finally:
        other.__enter__()
    everything = [
        str(caught.value),
        repr(caught.value),
        str(vars(caught.value)),
        repr(transport),
        repr(transport.network),
        repr(transport._auth),
        str(gone.value),
        caplog.text,
    ]
    leaked = [
        text
        for text in everything
        if SECRET in text or BASIC in text or base64.b64encode(SECRET.encode()).decode() in text
    ]
    assert leaked == []
