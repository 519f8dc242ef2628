"""Hostile requests: path traversal, header injection, DoS by documents, DNS rebinding."""

import gc
import json
import os
from urllib.parse import quote

import pytest
from ocikit.server import Application, Settings

from tests.support.wsgi import INDEX, MANIFEST, NAME, Registry, digest_of, encoded, storage_of

ABSENT = "sha256:" + "0" * 64


@pytest.fixture
def root(tmp_path):
    return tmp_path / "registry"


@pytest.fixture
def make_registry(root):
    """Return a function that creates a registry with settings; all share one storage on files."""
    storage = storage_of("files", root)
    yield lambda **settings: Registry(Application(storage, settings=Settings(**settings)))
    storage.close()


@pytest.fixture
def app(make_registry):
    return make_registry()


def tree(folder):
    """Return all paths below a folder except the database's files, which change."""
    return {
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if "registry.db" not in name
    }


# Names


INVALID_NAMES = [
    "..",
    "../..",
    "a/..",
    "a/../b",
    "../../../../etc/passwd",
    "%2e%2e",
    "%2E%2E/%2E%2E",
    "a%2F..%2Fb",
    "a%2f%2e%2e%2fb",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%252e%252e",
    "..%252f",
    "..;/a",
    ".",
    "./a",
    "a/.",
    "a/./b",
    "/",
    "//",
    "/a",
    "a/",
    "a//b",
    "//a",
    "/etc/passwd",
    "%2F",
    "%2Fetc%2Fpasswd",
    "a%2F%2Fb",
    "%00",
    "a%00",
    "a%00b",
    "%00/../a",
    "a/%00",
    "a%00.json",
    "%5C",
    "a%5Cb",
    "..%5C..%5Ca",
    "%5C%5Cserver%5Cshare",
    "C:",
    "C:%5Ca",
    "C:/a",
    "c%3A/a",
    "c:a",
    "file:///etc/passwd",
    "a.",
    "a./b",
    "a..b",
    ".a",
    ".ocikit",
    ".git/config",
    ".uploads",
    "~",
    "~root",
    "$HOME",
    "$(id)",
    "`id`",
    "a|b",
    "a;b",
    "a&b",
    "-a",
    "a-",
    "_a",
    "a_",
    "a___b",
    "a__",
    "a._b",
    "a.-b",
    "a/-b",
    "A",
    "aB",
    "Team/data",
    "con.",
    "nul:",
    "aux%20",
    "a%20",
    "%20a",
    "a%20b",
    "a+b",
    "a%09b",
    "a%0a",
    "a%0A",
    "a%0D%0AX-Evil:%201",
    "%0a",
    "a%7F",
    "a%1b[31m",
    "a*b",
    "a%3Fb",
    "a%23b",
    "a@b",
    "a:b",
    "a:5000/b",
    "a=b",
    "a,b",
    "a'b",
    'a"b',
    "a<script>b",
    "a(b",
    "a[b",
    "a{b",
    "a%25b",
    "a!b",
    "a^b",
    "é",
    "%C3%A9",
    "а",
    "ａ",
    "a․b",
    "a／b",
    "a⁄b",
    "a∕b",
    "。。",
    "．．",
    "a\u200bb",
    "a\u202eb",
    "\ufeffa",
    "ß",
    "ı",
    "K",
    "①",
    "١",
    "%c0%ae%c0%ae/a",
    "%e0%80%ae",
    "%ff",
    "%ed%a0%80",
    "%u002e",
    "a" * 256,
    "a/" * 127 + "ab",
    "a" * 60_000,
    "../" * 20_000 + "a",
]


def encoded_name(name):
    """Encode only the characters that a URL cannot contain."""
    return quote(name, safe="%/:;=+,!$&'()*@~?#[]{}|^<>\"`\\")


@pytest.mark.parametrize("name", INVALID_NAMES, ids=lambda name: f"{quote(name)[:40]}-{len(name)}")
def test_invalid_repository_name_is_rejected_and_creates_nothing(app, root, tmp_path, name):
    raw, wire = app.image(), encoded_name(name).replace("?", "%3F").replace("#", "%23")
    upload = app("POST", f"/v2/{NAME}/blobs/uploads/").headers["location"].rpartition("/")[2]
    before, outside = tree(root), tree(tmp_path) - {"registry"}
    digest = digest_of(b"{}")
    for method, path, body in [
        ("GET", "tags/list", b""),
        ("GET", f"referrers/{ABSENT}", b""),
        ("GET", f"blobs/{digest}", b""),
        ("DELETE", f"blobs/{digest}", b""),
        ("GET", "manifests/v1", b""),
        ("PUT", "manifests/v1", raw),
        ("PUT", f"manifests/{digest_of(raw)}?tag=v1", raw),
        ("DELETE", "manifests/v1", b""),
        ("POST", "blobs/uploads/", b""),
        ("POST", f"blobs/uploads/?digest={digest}", b"{}"),
        ("POST", f"blobs/uploads/?mount={digest}&from={NAME}", b""),
        ("GET", f"blobs/uploads/{upload}", b""),
        ("PATCH", f"blobs/uploads/{upload}", b"{}"),
        ("PUT", f"blobs/uploads/{upload}?digest={digest}", b"{}"),
        ("DELETE", f"blobs/uploads/{upload}", b""),
    ]:
        response = app(method, f"/v2/{wire}/{path}", {"Content-Type": MANIFEST}, body)
        assert response.status in {400, 404}, (method, path, response)
        assert response.code in {"NAME_INVALID", "NAME_UNKNOWN", "UNSUPPORTED"}
        assert len(response.body) < 2000
    # An invalid source of a mount leads to an upload
    response = app("POST", f"/v2/{NAME}/blobs/uploads/?mount={digest_of(b'none')}&from={quote(name, safe='%')[:5000]}")
    assert response.status in {202, 400}
    assert {path for path in tree(root) - before if not path.startswith("uploads")} == set()
    assert tree(tmp_path) - {"registry"} - {f"registry/{path}" for path in tree(root)} == outside - {
        f"registry/{p}" for p in before
    }
    assert app("GET", "/v2/_catalog").json == {"repositories": [NAME]}


@pytest.mark.parametrize(
    "name", ["blobs", "uploads", "index.json", "oci-layout", "registry.db", "sha256", "con", "nul", "a" * 255]
)
def test_repository_may_be_named_like_internal_files(app, root, name):
    app.pushed(app.image())
    before = tree(root)
    app.pushed(app.image(name), name=name)
    assert app("GET", f"/v2/{name}/manifests/v1").status == 200
    assert tree(root) == before


@pytest.mark.parametrize(
    "path",
    [
        "/v2/../v2/_catalog",
        "/v2/..",
        "/../../etc/passwd",
        "/v2/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "//v2/",
        "/v2//",
        "/v2/%00",
        "/\\..\\..\\windows\\win.ini",
        "/healthz/..",
        "/healthz%00",
        "/v2/a/blobs/../../../etc/passwd",
        "/v2/a/manifests/..%2f..%2f..%2fetc%2fpasswd",
        "/v2/a/blobs/uploads/..",
        "/v2/a/blobs/uploads/..%2f..%2fregistry.db",
        "/v2/a/blobs/uploads/%2e%2e",
        "/v2/a/blobs/uploads/registry.db",
        "/v2/a/manifests/%00",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_path_traversal_is_rejected(app, root, method, path):
    app.image("a")
    before = tree(root)
    response = app(method, path, {"Content-Type": MANIFEST}, app.image("a") if method == "PUT" else b"")
    assert response.status in {400, 404, 405}
    assert b"root:" not in response.body
    assert tree(root) == before


INVALID_TAGS = [
    "..",
    ".",
    "../x",
    "..%2fx",
    "a%2Fb",
    "a b",
    "a%00",
    "a%0a",
    "a%0d%0aX-Evil:%201",
    "%0d%0a",
    "-a",
    ".a",
    "é",
    "ａ",
    "a\u200b",
    "a" * 129,
    "a\\b",
    "a<b>",
    "a'",
    'a"',
    "%ff",
    "a,b",
    "a;b",
    "a@b",
    "*",
    "%2a",
]


@pytest.mark.parametrize("tag", INVALID_TAGS, ids=quote)
def test_invalid_tag_is_rejected(app, root, tag):
    raw, wire = (
        app.image(),
        encoded_name(tag).replace("%2f", "%252f").replace("%2F", "%252F").replace("../", "..%5C"),
    )
    before = tree(root)
    put = app("PUT", f"/v2/{NAME}/manifests/{wire}", {"Content-Type": MANIFEST}, raw)
    by_digest = app(
        "PUT", f"/v2/{NAME}/manifests/{digest_of(raw)}?tag={quote(tag, safe='%')}", {"Content-Type": MANIFEST}, raw
    )
    assert put.status == by_digest.status == 400
    for method in ("GET", "DELETE"):
        assert app(method, f"/v2/{NAME}/manifests/{wire}").status in {400, 404}
    assert app("GET", f"/v2/{NAME}/tags/list").json["tags"] == []
    assert tree(root) == before


# Digests


INVALID_DIGESTS = [
    "sha256:../../x",
    "sha256:..",
    "sha256:/etc/passwd",
    "../../x:abc",
    "sha256/../..:" + "0" * 64,
    "sha256:" + "../" * 21 + "x",
    "sha256:" + "0" * 63,
    "sha256:" + "0" * 65,
    "sha512:" + "0" * 64,
    "sha256:" + "0" * 128,
    "sha256:",
    ":" + "0" * 64,
    ":",
    "sha256:" + "A" * 64,
    "SHA256:" + "0" * 64,
    "sha256:" + "g" * 64,
    "sha256:" + "0" * 64 + "\n",
    "sha256:" + "0" * 64 + "\r\n",
    "\nsha256:" + "0" * 64,
    "sha256:" + "0" * 63 + "\n",
    "sha256:" + "0" * 64 + "\x00",
    "sha256:" + "0" * 64 + " ",
    "sha256:" + "0" * 64 + "/",
    "sha256:" + "0" * 64 + "\\",
    "sha256::" + "0" * 64,
    "sha256:sha256:" + "0" * 64,
    "sha-256:" + "0" * 64,
    "sha1:" + "0" * 40,
    "md5:" + "0" * 32,
    "sha384:" + "0" * 96,
    "blake3:" + "0" * 64,
    "sha256:" + "٠" * 64,
    "sha256:" + "０" * 64,
    "sha256:" + "0" * 62 + "é",
    "sha256+b64:" + "a" * 43 + "=",
    "sha256:" + "0" * 50_000,
    "x" * 50_000 + ":" + "0" * 64,
]


@pytest.mark.parametrize("digest", INVALID_DIGESTS, ids=lambda digest: f"{quote(digest)[:40]}-{len(digest)}")
def test_invalid_digest_is_rejected_before_storage_access(digest):
    class NoStorage:
        """Storage without methods: any access fails."""

    registry = Registry(Application(NoStorage()))
    wire = quote(digest, safe="")
    for method, url in [
        ("GET", f"/v2/{NAME}/blobs/{wire}"),
        ("HEAD", f"/v2/{NAME}/blobs/{wire}"),
        ("DELETE", f"/v2/{NAME}/blobs/{wire}"),
        ("GET", f"/v2/{NAME}/manifests/{wire}"),
        ("HEAD", f"/v2/{NAME}/manifests/{wire}"),
        ("PUT", f"/v2/{NAME}/manifests/{wire}"),
        ("DELETE", f"/v2/{NAME}/manifests/{wire}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={wire}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?mount={wire}&from=a"),
    ]:
        response = registry(method, url)
        # A slash changes the route
        assert response.status == 400 or (response.status in {400, 404, 405} and "/" in digest), (
            method,
            url[:200],
            response,
        )
    if not digest.startswith(("sha384", "blake3", "sha1", "md5", "sha-256", "sha256+b64", "xxx")):
        assert registry("GET", f"/v2/{NAME}/referrers/{wire}").status == 400 or "/" in digest


@pytest.mark.parametrize("digest", INVALID_DIGESTS[:20], ids=lambda digest: f"{quote(digest)[:40]}-{len(digest)}")
@pytest.mark.parametrize("position", ["config", "layer", "subject", "manifest"])
def test_invalid_digest_in_document_is_rejected(make_registry, digest, position):
    registry = make_registry(references="sparse")
    descriptor = {"mediaType": MANIFEST, "digest": digest, "size": 1}
    fields = {"config": {"config": descriptor}, "layer": {"layers": [descriptor]}, "subject": {"subject": descriptor}}
    if position == "manifest":
        raw, kind = encoded({"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}), INDEX
    else:
        raw, kind = registry.image(**fields[position]), MANIFEST
    response = registry.put(raw, media_type=kind)
    assert (response.status, response.code) == (400, "MANIFEST_INVALID")


# Documents


def image(**fields):
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": ABSENT, "size": 2}
    return encoded({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": []} | fields)


def keys(last):
    """Return an object with as many keys as fit into a manifest."""
    return b"{" + b",".join(b'"%x":0' % n for n in range(380_000)) + b',"%s":1}' % last


HOSTILE = {
    "empty body": b"",
    "not JSON": b"\x00" * 100,
    "unclosed objects": b'{"a":' * 100_000,
    "unclosed arrays": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep arrays": b'{"schemaVersion":2,"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "duplicate key": b'{"schemaVersion":2,"mediaType":"%s","schemaVersion":2}' % MANIFEST.encode(),
    "nested duplicate key": image(x=1).replace(b'"x": 1', b'"x": {"a": 1, "a": 2}'),
    "escaped duplicate key": b'{"mediaType":"%s","mediaTyp\\u0065":"%s"}' % (MANIFEST.encode(), INDEX.encode()),
    "duplicate of one of many keys": keys(b"5cc5f"),
    "duplicate of the first of many keys": keys(b"0"),
    "a byte order mark": b"\xef\xbb\xbf" + image(),
    "another encoding": image().decode().encode("utf-16"),
    "not UTF-8": image(x="\xff").replace(b"\\u00ff", b"\xff"),
    "an encoded surrogate": image(x="?").replace(b'"?"', b'"\xed\xa0\x80"'),
    "NaN": image(x=float("nan")),
    "infinity": image(x=float("inf")),
    "a number of a million digits": image(x=0).replace(b'"x": 0', b'"x": ' + b"9" * 1_000_000),
    "a size of a million digits": image(config={"mediaType": "a/b", "digest": ABSENT, "size": 7}).replace(
        b": 7", b": " + b"9" * 1_000_000
    ),
    "a negative size": image(config={"mediaType": "a/b", "digest": ABSENT, "size": -1}),
    "a size of 2^63": image(config={"mediaType": "a/b", "digest": ABSENT, "size": 2**63}),
    "a size with a fraction": image(config={"mediaType": "a/b", "digest": ABSENT, "size": 1.5}),
    "a size of true": image(config={"mediaType": "a/b", "digest": ABSENT, "size": True}),
    "both manifest and index": image(manifests=[]),
    "empty layer objects": image(layers=[{}] * 500_000),
    "layers of numbers": image(layers=[1] * 1_000_000),
    "layers that are text": image(layers="x" * 100_000),
    "annotations that are numbers": image(annotations={f"{n:x}": n for n in range(200_000)}),
    "annotations that are a list": image(annotations=[1]),
    "data that is not base64": image(
        layers=[{"mediaType": "a/b", "digest": ABSENT, "size": 1, "data": "!" * 1_000_000}]
    ),
    "a subject that is text": image(subject=ABSENT),
    "a digest of 4 MB": image(subject={"mediaType": MANIFEST, "digest": "x:" + "a" * 4_000_000, "size": 1}),
    "a type with a line end": image(artifactType="a/b\r\nX-Evil: 1"),
    "a type with a NUL": image(artifactType="a/b\x00"),
    "a type with a lone surrogate": image(artifactType="\ud800"),
    "a type of 4 MB": image(artifactType="a/" + "b" * 4_000_000),
    "a config's type with a line end": image(config={"mediaType": "a/b\n", "digest": ABSENT, "size": 1}),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("settings", [{}, {"references": "sparse"}], ids=["strict", "sparse"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_document_is_rejected(make_registry, name, settings):
    registry = make_registry(**settings)
    # At the recursion limit, garbage collection would fail in finalizers of other tests' objects
    gc.collect()
    gc.disable()
    try:
        response = registry.put(HOSTILE[name])
    finally:
        gc.enable()
    assert (response.status, response.code) == (400, "MANIFEST_INVALID")
    assert len(response.body) < 5000
    assert registry("GET", f"/v2/{NAME}/manifests/v1").status == 404


@pytest.mark.timeout(60)
def test_million_layers_are_rejected_and_30000_are_checked(make_registry):
    registry = make_registry(references="strict")
    layers = [{"mediaType": "a/b", "digest": f"sha256:{n:064x}", "size": 1} for n in range(30_000)]
    response = registry.put(image(layers=layers))
    assert (response.status, response.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert 100 <= len(response.errors) <= 1000 and "more are missing" in response.errors[-1]["message"]
    raw = image(layers=[1]).replace(b"[1]", b"[" + b",".join([encoded(layers[0])] * 1_000_000) + b"]")
    assert registry.put(raw).status == registry.put([raw]).status == 413
    raw = image(annotations={"x": "y" * 10_000_000})
    assert registry.put(raw).status == registry.put([raw]).status == 413
    registry = make_registry(references="sparse")
    registry.pushed(image(layers=layers))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "fields",
    [
        {"x": [{}] * 500_000},
        {"annotations": {f"{n:x}": "" for n in range(250_000)}},
        {"x": "y" * 4_000_000},
        {"x": [[[[[1.5e300]]]]] * 100_000},
        {"annotations": {"a\r\nX-Evil: 1": "\x00\u202e\ud800", "": ""}},
        {"x": {"a\ud800": "\udfff"}},
    ],
    ids=["objects", "annotations", "text", "arrays", "controls", "lone surrogates"],
)
def test_unusual_valid_document_is_returned_unchanged(make_registry, fields):
    registry = make_registry(references="sparse")
    raw = image(subject={"mediaType": MANIFEST, "digest": ABSENT, "size": 1}, **fields)
    registry.pushed(raw)
    assert registry("GET", f"/v2/{NAME}/manifests/v1").body == raw
    (listed,) = registry("GET", f"/v2/{NAME}/referrers/{ABSENT}").json["manifests"]
    assert listed.get("annotations", {}) == fields.get("annotations", {})


def test_schema_violations_are_limited_and_sanitized(make_registry):
    registry = make_registry(validate="schema", references="sparse")
    invalid = {"mediaType": "none", "digest": ABSENT, "size": 1, "annotations": {"\ud800<b>\r\n": "x"}}
    response = registry.put(image(layers=[invalid] * 10_000))
    assert (response.status, response.code) == (400, "MANIFEST_INVALID")
    assert len(response.body) < 100_000
    assert all(error["message"].isprintable() for error in response.errors)


# Headers


EVIL = "x\r\nX-Evil: 1\r\n\r\n<script>alert(1)</script>"


@pytest.mark.parametrize(
    "evil", [EVIL, "x\nX-Evil: 1", "x\rX-Evil: 1", "x\x00", "x\x85X-Evil: 1", "x\u2028X-Evil: 1", "x\x0bX-Evil: 1"]
)
def test_request_text_never_injects_response_header(make_registry, evil):
    registry = make_registry(references="sparse")
    wire, raw = quote(evil, safe=""), registry.image()
    registry.pushed(raw)
    responses = [
        registry("GET", f"/v2/{wire}/tags/list"),
        registry("PUT", f"/v2/{NAME}/manifests/{wire}", {"Content-Type": MANIFEST}, raw),
        registry("PUT", f"/v2/{NAME}/manifests/{digest_of(raw)}?tag={wire}", {"Content-Type": MANIFEST}, raw),
        registry("GET", f"/v2/{NAME}/manifests/{wire}"),
        registry("GET", f"/v2/{NAME}/tags/list?n=1&last={wire}"),
        registry("GET", f"/v2/{NAME}/tags/list?n={wire}"),
        registry("GET", f"/v2/_catalog?n=1&last={wire}"),
        registry("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType={wire}&last={wire}"),
        registry("GET", f"/v2/{NAME}/referrers/{wire}"),
        registry("POST", f"/v2/{wire}/blobs/uploads/"),
        registry("POST", f"/v2/{NAME}/blobs/uploads/?mount={ABSENT}&from={wire}"),
        registry("POST", f"/v2/{NAME}/blobs/uploads/?mount={wire}&from=a"),
        registry("POST", f"/v2/{NAME}/blobs/uploads/?digest={wire}"),
        registry("POST", f"/v2/{NAME}/blobs/uploads/?digest-algorithm={wire}"),
        registry("GET", f"/v2/{NAME}/blobs/uploads/{wire}"),
        registry("PATCH", f"/v2/{NAME}/blobs/uploads/{wire}"),
        registry("GET", f"/{wire}"),
        registry("GET", "/v2/", HTTP_HOST=evil),
        registry(evil, "/v2/"),
        registry.put(registry.image(subject={"mediaType": evil, "digest": ABSENT, "size": 1})),
        registry.put(registry.image(subject={"mediaType": MANIFEST, "digest": f"sha256:{evil}", "size": 1})),
        registry.put(registry.image(mediaType=evil)),
        registry.put(registry.image(artifactType=evil)),
        registry.put(registry.image(mediaType=None), media_type=evil),
    ]
    for name in (
        "Range",
        "If-Match",
        "If-None-Match",
        "Content-Range",
        "Accept",
        "Expect",
        "User-Agent",
        "X-Forwarded-Host",
        "Origin",
    ):
        responses += [registry(method, f"/v2/{NAME}/manifests/v1", {name: evil}) for method in ("GET", "DELETE")]
    for response in responses:
        # `call` checks each response for control characters in headers
        assert not any("evil" in name.lower() for name, _ in response.pairs)
        assert response.headers.get("content-type") in {None, "application/json", MANIFEST, INDEX}
        for text in ("<script", "X-Evil: 1\r\n"):
            assert text not in response.headers.get("location", "") + response.headers.get("link", "")


def test_oci_subject_header_is_a_digest(make_registry):
    registry = make_registry(references="sparse")
    raw = registry.image(subject={"mediaType": EVIL, "digest": ABSENT, "size": 1})
    response = registry.put(raw)
    assert (response.status, response.headers["oci-subject"]) == (201, ABSENT)
    listed = registry("GET", f"/v2/{NAME}/referrers/{ABSENT}")
    assert listed.headers["content-type"] == INDEX and EVIL.encode() not in listed.body


@pytest.mark.parametrize(
    "kind", ["text/html", "image/svg+xml", "application/xhtml+xml", "text/javascript", "application/json"]
)
def test_content_is_never_served_as_page(app, kind):
    """Content is served as bytes or as one of the four document types, which prevents XSS."""
    page = b"<script>alert(document.domain)</script>"
    digest = digest_of(page)
    response = app("POST", f"/v2/{NAME}/blobs/uploads/?digest={digest}", {"Content-Type": kind}, page)
    response = app("GET", response.headers["location"], {"Accept": kind, "Range": "bytes=0-"})
    assert (response.status, response.headers["content-type"], response.body) == (206, "application/octet-stream", page)
    assert app.put(app.image(mediaType=kind), media_type=kind).status == 400
    app.pushed(app.image(annotations={"x": page.decode()}))
    assert app("GET", f"/v2/{NAME}/manifests/v1").headers["content-type"] == MANIFEST
    response = app("GET", f"/v2/{NAME}/manifests/{quote(page, safe='')}", {"Accept": kind})
    assert response.headers["content-type"] == "application/json"
    for response in (app("GET", f"/{quote(page)}"), app("GET", f"/v2/{quote(page)}/tags/list?n=1")):
        assert response.headers["content-type"] == "application/json"
        assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:8888"])
def test_no_cors_headers_are_sent(app, origin):
    app.pushed(app.image())
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "DELETE",
        "Access-Control-Request-Headers": "authorization",
    }
    for method, url in [
        ("GET", "/v2/"),
        ("GET", f"/v2/{NAME}/manifests/v1"),
        ("GET", "/none"),
        ("OPTIONS", f"/v2/{NAME}/manifests/v1"),
        ("OPTIONS", "/v2/"),
        ("OPTIONS", "*"),
        ("POST", f"/v2/{NAME}/blobs/uploads/"),
    ]:
        response = app(method, url, headers)
        assert not any(name.startswith("access-control") for name in response.headers)
        assert "set-cookie" not in response.headers
        if method == "OPTIONS":
            assert response.status in {404, 405}


OWN_HOSTS = [
    "localhost",
    "localhost:5000",
    "LocalHost:80",
    "127.0.0.1",
    "127.0.0.1:1",
    "[::1]",
    "[::1]:5000",
    "hub.lab",
    "HUB.LAB:443",
]
FOREIGN_HOSTS = [
    "evil.example",
    "evil.example:5000",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "evil.localhost",
    "xlocalhost",
    "local",
    "hub",
    "hub.lab.evil",
    "127.0.0.2",
    "127.1",
    "0",
    "2130706433",
    "0x7f000001",
    "[::ffff:127.0.0.1]",
    "[::2]",
    "::1x",
    "[0:0:0:0:0:0:0:1]x",
    "localhost@evil.example",
    "evil.example#localhost",
    "evil.example/localhost",
    "localhost, evil.example",
    "evil.example,localhost",
    "localhost:5000:80",
    "localhost:x",
    "[localhost]",
    "[::1",
    "::1]",
    "localhost\\evil",
    "localhost\x00",
    "localhost evil",
    "loc\xadalhost",
    "localhost\x85",
    ".",
]


@pytest.mark.parametrize("path", ["/v2/", "/v2/_catalog", "/healthz", "/none", f"/v2/{NAME}/manifests/v1"])
def test_foreign_host_name_is_rejected(make_registry, path):
    """DNS rebinding: a web page points its own name at this machine, and the browser sends that name."""
    registry = make_registry(hosts=("localhost", "127.0.0.1", "[::1]", "Hub.Lab"))
    registry.pushed(registry.image())
    expected = registry("GET", path).status
    assert expected in {200, 404}
    for host in OWN_HOSTS:
        assert registry("GET", path, HTTP_HOST=host).status == expected, host
    for host in FOREIGN_HOSTS:
        response = registry("GET", path, HTTP_HOST=host)
        assert response.status in {400, 421}, host
        assert registry("DELETE", f"/v2/{NAME}/manifests/v1", HTTP_HOST=host).status in {400, 421}
    # HTTP/1.0 has no Host header; the address of the server counts
    assert registry("GET", path, HTTP_HOST=None, SERVER_PROTOCOL="HTTP/1.0", SERVER_NAME="127.0.0.1").status == expected
    assert registry("GET", path, HTTP_HOST=None, SERVER_PROTOCOL="HTTP/1.0", SERVER_NAME="10.0.0.1").status == 421


def test_forwarded_host_of_untrusted_proxy_is_ignored(make_registry):
    registry = make_registry(hosts="hub.lab")
    for name in ("X-Forwarded-Host", "Forwarded", "X-Host", "X-Original-Host"):
        assert registry("GET", "http://evil.example/v2/", {name: "hub.lab"}).status == 421
        assert registry("GET", "http://hub.lab/v2/", {name: "evil.example"}).status == 200
    registry = make_registry(hosts="hub.lab", trusted_proxies="127.0.0.1")
    assert registry("GET", "http://evil.example/v2/", {"X-Forwarded-Host": "hub.lab"}).status == 200
    assert registry("GET", "http://hub.lab/v2/", {"X-Forwarded-Host": "evil.example"}).status == 421


def test_errors_contain_no_terminal_control_characters(app):
    evil = quote("\x1b]0;title\x07\x1b[31m\u202eolleh\x9b", safe="")
    for url in (
        f"/v2/{evil}/tags/list",
        f"/v2/{NAME}/manifests/{evil}",
        f"/v2/{NAME}/blobs/{evil}",
        f"/v2/{NAME}/tags/list?n={evil}",
    ):
        response = app("GET", url)
        assert response.errors[0]["message"].isprintable()
        assert json.loads(response.body)["errors"]


def test_truncated_manifest_is_not_stored(app):
    raw = app.image()
    # WSGI servers may not report that a chunked body ended too early
    for end in range(0, len(raw), 7):
        assert app.put([raw[:end]]).status == 400
    assert app("GET", f"/v2/{NAME}/tags/list").json["tags"] == []
