"""Blob endpoints: get, ranges, conditional requests, deletion."""

import pytest

from tests.support.wsgi import NAME
from tests.unit.server.endpoints import ABSENT


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 300_000], ids=["empty", "small", "large"])
def test_blob_is_returned_unchanged(app, algorithm, content):
    digest = app.blob(content, algorithm=algorithm)["digest"]
    for method in ("HEAD", "GET"):
        response = app(method, f"/v2/{NAME}/blobs/{digest}")
        assert response.status == 200
        assert response.headers["content-length"] == str(len(content))
        assert response.headers["docker-content-digest"] == digest
        assert response.headers["content-type"] == "application/octet-stream"
        assert response.headers["accept-ranges"] == "bytes"
    assert response.body == content


#: Range headers for 2048 bytes: the first and last byte served, None for all bytes, 416 for an error.
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
    **dict.fromkeys(
        [
            "",
            "bytes=0-1,3-4",
            "bytes=0-1, 0-1",
            "bytes=0-1,",
            "items=0-1",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=0x0-1",
            "bytes 0-1",
            "bytes=--1",
            "0-1",
            "bytes=1-2-3",
            f"bytes={'9' * 400}-",
            "bytes=0-1\t;",
            "bytes=²-3",
        ]
    ),
}


def test_single_range_is_served_and_invalid_range_ignored(app):
    content = bytes(range(256)) * 8
    url = f"/v2/{NAME}/blobs/{app.blob(content)['digest']}"
    for header, span in RANGES.items():
        response = app("GET", url, {"Range": header})
        if span == 416:
            assert (response.status, response.headers["content-range"]) == (416, "bytes */2048"), header
        elif span is None:
            assert (response.status, response.body) == (200, content), header
            assert "content-range" not in response.headers
        else:
            assert (response.status, response.body) == (206, content[span[0] : span[1] + 1]), header
            assert response.headers["content-range"] == f"bytes {span[0]}-{span[1]}/2048"
        head = app("HEAD", url, {"Range": header})
        assert (head.status, head.headers["content-length"]) == (200, "2048")


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=1-2", "bytes=-"])
def test_range_of_empty_blob_returns_200_or_416(app, header):
    digest = app.blob(b"")["digest"]
    response = app("GET", f"/v2/{NAME}/blobs/{digest}", {"Range": header})
    assert response.status in {200, 416}
    if response.status == 416:
        assert response.headers["content-range"] == "bytes */0"


def test_range_with_other_etag_returns_whole_blob(app):
    content = b"0123456789"
    digest = app.blob(content)["digest"]
    url = f"/v2/{NAME}/blobs/{digest}"
    assert app("GET", url, {"Range": "bytes=1-2", "If-Range": f'"{digest}"'}).body == b"12"
    for other in (f'W/"{digest}"', f'"{ABSENT}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        response = app("GET", url, {"Range": "bytes=1-2", "If-Range": other})
        assert (response.status, response.body) == (200, content)


def test_matching_etag_of_blob_returns_304(app):
    digest = app.blob(b"abc")["digest"]
    url = f"/v2/{NAME}/blobs/{digest}"
    tag = app("GET", url).headers["etag"]
    assert tag == f'"{digest}"'
    for method in ("GET", "HEAD"):
        for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            response = app(method, url, {"If-None-Match": condition, "Range": "bytes=0-0"})
            assert (response.status, response.headers["etag"]) == (304, tag)
        assert app(method, url, {"If-None-Match": '"other"'}).status == 200
    assert app("GET", f"/v2/{NAME}/blobs/{ABSENT}", {"If-None-Match": "*"}).status == 404


def test_blob_is_invisible_in_other_repositories(app):
    digest = app.blob(b"secret")["digest"]
    app.blob(b"other", "other")
    for method in ("GET", "HEAD", "DELETE"):
        assert app(method, f"/v2/other/blobs/{digest}").status == 404


def test_referenced_blob_is_not_deleted(make_registry):
    registry = make_registry()
    layer = registry.blob(b"layer")
    registry.pushed(registry.image(layers=[layer]))
    url = f"/v2/{NAME}/blobs/{layer['digest']}"
    response = registry("DELETE", url)
    assert (response.status, response.code) == (405, "UNSUPPORTED")
    assert response.headers["allow"] == "GET, HEAD"
    assert registry("GET", url).status == 200
    assert make_registry(delete_referenced=True)("DELETE", url).status == 202
    assert registry("GET", url).status == 404


def test_unreferenced_blob_is_deleted(app):
    url = f"/v2/{NAME}/blobs/{app.blob(b'layer')['digest']}"
    assert app("DELETE", url).status == 202
    assert app("HEAD", url).status == 404
    assert app("DELETE", url).code == "BLOB_UNKNOWN"
