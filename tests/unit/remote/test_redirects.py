"""Redirects: followed without forwarding credentials to other origins."""

import pytest
from ocikit import errors
from ocikit.remote.http.urls import Origin, check_redirect

from tests.support.fake_registry import FakeRegistry, certificate
from tests.support.http import ADA, BASIC, SECRET, OneShotBody, get, require_basic


def test_redirect_to_other_host_drops_authorization_and_own_headers(server, other, connect):
    server.guard = require_basic
    digest = other.blob("a/b", b"content")
    server.on(
        "GET",
        "/v2/a/b/.*",
        when=lambda r: "Authorization" in r.headers,
        status=307,
        headers={"Location": f"http://{other.host}/v2/a/b/blobs/{digest}"},
    )
    _, body = get(connect(server, credentials=ADA, headers={"X-Key": SECRET}), f"/v2/a/b/blobs/{digest}")
    assert body == b"content"
    assert [r.headers.get("Authorization") for r in server.requests] == [None, BASIC]
    (redirected,) = other.requests
    assert "Authorization" not in redirected.headers and "X-Key" not in redirected.headers
    assert redirected.headers["User-Agent"].startswith("ocikit/")


def test_redirect_to_other_name_of_same_port_drops_authorization(server, connect):
    server.guard = require_basic
    server.on("GET", "/v2/there", status=200)
    server.on(
        "GET",
        "/v2/here",
        when=lambda r: "Authorization" in r.headers,
        status=302,
        headers={"Location": f"http://localhost:{server.port}/v2/there"},
    )
    get(connect(server, credentials=ADA), "/v2/here")
    assert [r.headers.get("Authorization") for r in server.seen("GET", "/v2/there")] == [None]


def test_redirect_on_same_host_keeps_authorization(server, connect):
    server.guard = require_basic
    server.on("GET", "/v2/old", when=lambda r: "Authorization" in r.headers, status=301, headers={"Location": "/v2/"})
    get(connect(server, credentials=ADA), "/v2/old")
    assert server.requests[-1].path == "/v2/"
    assert server.requests[-1].headers["Authorization"] == BASIC


def test_redirect_back_from_other_host_has_no_authorization(server, other, connect):
    """Another host must not choose requests that the registry gets with our credentials."""
    server.guard = require_basic
    transport = connect(server, credentials=ADA)
    get(transport)
    server.on("PUT", "/upload", status=307, headers={"Location": f"{other.url}/elsewhere"})
    other.on("PUT", "/elsewhere", status=307, headers={"Location": f"{server.url}/v2/a/manifests/v1"})
    with pytest.raises(errors.Unauthorized):
        transport.request("PUT", "/upload", "test", body=b"{}")
    assert [r.headers.get("Authorization") for r in server.seen("PUT", ".*manifests.*")] == [None]


def test_401_of_redirect_target_gets_no_credentials(server, other, connect):
    server.guard = require_basic
    server.on(
        "GET",
        "/v2/x",
        when=lambda r: "Authorization" in r.headers,
        status=307,
        headers={"Location": f"{other.url}/v2/"},
        times=None,
    )
    other.guard = require_basic
    with pytest.raises(errors.Unauthorized):
        get(connect(server, credentials=ADA), "/v2/x")
    assert [r.headers.get("Authorization") for r in other.requests] == [None]


def test_at_most_ten_redirects_are_followed(server, connect):
    for n in range(11):
        server.on("GET", f"/r{n}", status=302, headers={"Location": f"/r{n + 1}"}, times=None)
    server.on("GET", "/r11", status=200, body=b"there", times=None)
    assert get(connect(server), "/r1")[1] == b"there"
    with pytest.raises(errors.InvalidResponse, match="more than 10"):
        get(connect(server), "/r0")


def test_redirect_from_https_to_http_is_rejected(tmp_path, connect, other):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        server.on("GET", "/v2/", status=302, headers={"Location": f"http://{other.host}/v2/"})
        with pytest.raises(errors.InvalidResponse, match="https"):
            get(connect(server, ca=str(cert)))
    assert other.requests == []


def test_307_forwards_the_body(server, other, connect):
    server.on("PUT", "/x", status=307, headers={"Location": f"{other.url}/y"})
    other.on("PUT", "/y", status=201)
    connect(server).request("PUT", "/x", "test", body=b"content").close()
    assert [r.body for r in (*server.requests, *other.requests)] == [b"content", b"content"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_redirect_does_not_turn_put_into_get(server, connect, status):
    server.on("PUT", "/x", status=status, headers={"Location": "/v2/"})
    with pytest.raises(errors.InvalidResponse, match=str(status)):
        connect(server).request("PUT", "/x", "test", body=b"content")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [300, 302, 304])
def test_redirect_without_location_raises(server, connect, status):
    server.on("(GET|HEAD)", "/v2/", status=status, times=None)
    with pytest.raises(errors.InvalidResponse, match=str(status)):
        get(connect(server))
    with pytest.raises(errors.InvalidResponse):
        connect(server).request("HEAD", "/v2/", "test")


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("https://r.io/v2/", "https://cdn.io/b", True),
        ("https://r.io/v2/", "http://r.io/b", False),
        ("http://r.io/v2/", "https://r.io/b", True),
        ("https://r.io/", "https://127.0.0.1/", False),
        ("https://r.io/", "https://localhost:5000/", False),
        ("https://r.io/", "https://localhost./", False),
        ("https://r.io/", "https://x.localhost/", False),
        ("https://r.io/", "https://127.1/", False),
        ("https://r.io/", "https://0x7f000001/", False),
        ("https://r.io/", "https://2130706433/", False),
        ("https://r.io/", "https://0.0.0.0/", False),
        ("https://r.io/", "https://[::1]/", False),
        ("https://r.io/", "https://[::ffff:127.0.0.1]/", False),
        ("https://r.io/", "https://169.254.169.254/latest", False),
        ("https://r.io/", "https://[fe80::1%25eth0]/", False),
        ("https://r.io/", "https://metadata.google.internal/", False),
        ("http://10.0.0.1/", "http://169.254.169.254/latest", False),
        ("http://localhost:5000/", "http://169.254.169.254/latest", False),
        ("https://r.io/", "https://10.0.0.5/b", True),
        ("http://127.0.0.1:5000/", "http://localhost:9000/b", True),
        ("http://10.0.0.1/", "http://127.0.0.1/b", True),
        ("http://169.254.7.7:5000/", "http://169.254.7.7:9000/", True),
        ("https://r.io/", "ftp://r.io/b", False),
        ("https://r.io/", "file:///etc/passwd", False),
        ("https://r.io/", "https://r.io:notaport/", False),
        ("https://r.io/", "https://[::1/", False),
    ],
)
def test_check_redirect_accepts_only_safe_steps(source, target, allowed):
    if allowed:
        check_redirect(source, target)
    else:
        with pytest.raises(errors.InvalidResponse):
            check_redirect(source, target)


def test_origin_is_scheme_host_and_port():
    assert Origin.of("https://R.io/a") == Origin.of("https://r.io:443/b?c")
    assert Origin.of("http://r.io") != Origin.of("https://r.io")
    assert Origin.of("https://r.io:8443") != Origin.of("https://r.io")


def test_one_shot_body_cannot_follow_redirect(server, other, connect):
    server.on("PUT", "/x", status=307, headers={"Location": f"{other.url}/y"})
    with pytest.raises(errors.OcikitError, match="only once"):
        connect(server).request("PUT", "/x", "test", body=OneShotBody(b"content"), length=7)
    assert len(server.requests) == 1 and other.requests == []


# Signed URLs of an object store


@pytest.fixture
def signed(server, other, open_repository):
    """A repository whose registry redirects to signed URLs of another host, and the digest of its blob."""
    digest = other.blob("a/b", bytes(range(256)))
    target = f"{other.url}/v2/a/b/blobs/{digest}?X-Amz-Expires=600&X-Amz-Signature=0"
    server.on("GET", "/v2/a/b/blobs/.*", status=307, headers={"Location": target}, times=None)
    return open_repository(server, credentials=ADA), digest


def read_range(repository, digest, start):
    with repository.get_blob(digest, start=start, end=start + 4) as response:
        return response.content


def test_ranges_of_a_blob_need_one_redirect(server, other, signed):
    repository, digest = signed
    for start in (0, 5, 100):
        assert read_range(repository, digest, start) == bytes(range(start, start + 5))
    assert len(server.seen("GET", ".*blobs.*")) == 1
    assert [r.headers["Range"] for r in other.requests] == ["bytes=0-4", "bytes=5-9", "bytes=100-104"]
    assert not [r for r in other.requests if "Authorization" in r.headers]


def test_expired_url_is_not_used_again(server, other, signed, monkeypatch):
    from ocikit.remote.http import redirects

    repository, digest = signed
    read_range(repository, digest, 0)
    now = redirects.time.monotonic()
    monkeypatch.setattr(redirects.time, "monotonic", lambda: now + 571)
    read_range(repository, digest, 5)
    assert len(server.seen("GET", ".*blobs.*")) == 2


def test_refused_url_is_asked_for_again(server, other, signed):
    repository, digest = signed
    read_range(repository, digest, 0)
    other.on("GET", ".*", status=403, body=b"<Error><Code>AccessDenied</Code></Error>")
    assert read_range(repository, digest, 5) == bytes(range(5, 10))
    assert len(server.seen("GET", ".*blobs.*")) == 2


def test_whole_blob_asks_the_registry(server, signed):
    repository, digest = signed
    read_range(repository, digest, 0)
    with repository.get_blob(digest) as response:
        assert response.content == bytes(range(256))
    assert len(server.seen("GET", ".*blobs.*")) == 2


def test_redirect_without_expiry_is_followed_each_time(server, other, open_repository):
    digest = other.blob("a/b", bytes(range(256)))
    server.on("GET", ".*", status=307, headers={"Location": f"{other.url}/v2/a/b/blobs/{digest}"}, times=None)
    repository = open_repository(server)
    for start in (0, 5):
        read_range(repository, digest, start)
    assert len(server.seen("GET", ".*blobs.*")) == 2


def test_signed_url_is_a_new_one(server, other, signed):
    from ocikit.spec.descriptor import Descriptor

    repository, digest = signed
    read_range(repository, digest, 0)
    descriptor = Descriptor(media_type="application/octet-stream", digest=digest, size=256)
    assert "X-Amz-Signature" in repository.signed_url(descriptor)
    assert len(server.seen("GET", ".*blobs.*")) == 2
