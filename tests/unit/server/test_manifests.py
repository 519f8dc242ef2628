"""Manifest endpoints: push, pull, preconditions, references, deletion."""

import json
from urllib.parse import quote

import pytest
from ocikit.server import Limits

from tests.support.wsgi import INDEX, MANIFEST, NAME, digest_of, encoded
from tests.unit.server.endpoints import ABSENT, DOCKER_INDEX, DOCKER_MANIFEST, EMPTY, begin


@pytest.mark.parametrize("body", ["whole", "chunked"])
def test_manifest_is_returned_byte_for_byte(app, body):
    raw = app.image(**{"x-from-the-future": [1, 2]}).replace(b",", b" ,\n")
    digest = digest_of(raw)
    response = app.put(raw if body == "whole" else [raw[:9], raw[9:]], "v1")
    assert (response.status, response.headers["location"]) == (201, f"/v2/{NAME}/manifests/v1")
    assert response.headers["docker-content-digest"] == digest
    assert "oci-subject" not in response.headers and "oci-tag" not in response.headers
    for reference in ("v1", digest):
        for method in ("GET", "HEAD"):
            response = app(method, f"/v2/{NAME}/manifests/{reference}", {"Accept": "text/plain"})
            assert (response.status, response.headers["content-type"]) == (200, MANIFEST)
            assert response.headers["content-length"] == str(len(raw))
            assert response.headers["docker-content-digest"] == digest
        assert app("GET", f"/v2/{NAME}/manifests/{reference}").body == raw


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_push_by_digest_sets_tags(app, algorithm):
    raw = app.image()
    digest = digest_of(raw, algorithm)
    response = app.put(raw, digest, query="?tag=v1&tag=v1.2&tag=latest&tag=v1")
    assert (response.status, response.headers["location"]) == (201, f"/v2/{NAME}/manifests/{digest}")
    assert [value for name, value in response.pairs if name == "OCI-Tag"] == ["v1", "v1.2", "latest"]
    for reference in ("v1", "v1.2", "latest", digest):
        assert app("HEAD", f"/v2/{NAME}/manifests/{reference}").headers["docker-content-digest"] == digest


def test_hundred_tags_fit_into_headers(app):
    raw, tags = app.image(), [f"v{n}" for n in range(100)]
    response = app.put(raw, digest_of(raw), query="?" + "&".join(f"tag={tag}" for tag in tags))
    assert response.status == 201
    assert response.headers["oci-tag"].split(", ") == tags
    assert len(response.pairs) < 30
    assert app("GET", f"/v2/{NAME}/tags/list").json["tags"] == sorted(tags)


def test_invalid_tag_rejects_whole_push(app):
    raw = app.image()
    for tag in (".v1", "a" * 129, "", "a/b", "a:b"):
        assert app.put(raw, digest_of(raw), query=f"?tag=ok&tag={quote(tag)}").status == 400
    assert app("GET", f"/v2/{NAME}/tags/list").json["tags"] == []
    assert app("HEAD", f"/v2/{NAME}/manifests/{digest_of(raw)}").status == 404
    assert app.put(raw, "a" * 128).status == 201


@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("body", ["whole", "chunked"])
@pytest.mark.parametrize("limit", [1000, 4 * 1024 * 1024])
def test_manifest_above_limit_returns_413(make_registry, limit, body, over):
    registry = make_registry(limits=Limits(manifest=limit))
    raw = registry.image(annotations={"x": ""})
    raw = raw.replace(b'""', b'"' + b"x" * (limit + over - len(raw)) + b'"')
    assert len(raw) == limit + over
    response = registry.put(raw if body == "whole" else [raw])
    assert response.status == (413 if over else 201)
    assert registry("HEAD", f"/v2/{NAME}/manifests/v1").status == (404 if over else 200)


@pytest.mark.parametrize(
    "announced", ["{}; charset=utf-8", "{} ;q=1", "  {}", "", pytest.param("{upper}", id="other case")]
)
@pytest.mark.parametrize("named", [True, False])
def test_content_type_parameters_are_ignored(app, announced, named):
    raw = app.image() if named else app.image(mediaType=None)
    announced = announced.format(MANIFEST, upper=MANIFEST.upper())
    app.pushed(raw, media_type=announced)
    for method in ("GET", "HEAD"):
        assert app(method, f"/v2/{NAME}/manifests/v1").headers["content-type"] == MANIFEST


@pytest.mark.parametrize(
    ("content_type", "media_type"),
    [
        (INDEX, MANIFEST),
        (MANIFEST, INDEX),
        (MANIFEST, DOCKER_MANIFEST),
        ("application/json", MANIFEST),
        ("text/html", MANIFEST),
        (MANIFEST, "text/html"),
        ("", "text/html"),
        ("text/html", None),
        (MANIFEST, MANIFEST.upper()),
        ("", MANIFEST.upper()),
        (MANIFEST, ""),
        (MANIFEST, "x\r\ny"),
        (MANIFEST, "\ud800"),
        ("nonsense", None),
        (f"{MANIFEST}, {INDEX}", MANIFEST),
    ],
)
def test_content_type_other_than_media_type_returns_400(app, content_type, media_type):
    response = app.put(app.image(mediaType=media_type), media_type=content_type)
    assert (response.status, response.code) == (400, "MANIFEST_INVALID")
    assert app("GET", f"/v2/{NAME}/manifests/v1").status == 404


@pytest.mark.parametrize("media_type", [MANIFEST, DOCKER_MANIFEST])
def test_docker_manifests_are_accepted(app, media_type):
    config = app.blob(b"{}")
    raw = encoded({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [config]})
    app.pushed(raw, media_type=media_type)
    assert app("GET", f"/v2/{NAME}/manifests/v1").headers["content-type"] == media_type
    for index_type in (INDEX, DOCKER_INDEX):
        child = {"mediaType": media_type, "digest": digest_of(raw), "size": len(raw)}
        index = encoded({"schemaVersion": 2, "mediaType": index_type, "manifests": [child]})
        app.pushed(index, "all", media_type=index_type)
        response = app("GET", f"/v2/{NAME}/manifests/all")
        assert (response.headers["content-type"], response.body) == (index_type, index)


def test_docker_schema_1_returns_400(app):
    raw = encoded({"schemaVersion": 1, "name": "x", "tag": "v1", "fsLayers": [], "history": []})
    for media_type in ("application/vnd.docker.distribution.manifest.v1+prettyjws", "application/json", ""):
        response = app.put(raw, media_type=media_type)
        assert (response.status, response.code) == (400, "MANIFEST_INVALID")


def test_matching_etag_of_manifest_returns_304(app):
    digest = app.pushed(app.image())
    for method in ("GET", "HEAD"):
        for reference in ("v1", digest):
            url = f"/v2/{NAME}/manifests/{reference}"
            tag = app(method, url).headers["etag"]
            assert tag == f'"{digest}"'
            response = app(method, url, {"If-None-Match": tag})
            assert (response.status, response.headers["etag"]) == (304, tag)
            assert app(method, url, {"If-None-Match": f'"{ABSENT}"'}).status == 200


def test_if_match_moves_tag_only_from_known_digest(app):
    one, two = (app.image(annotations={"n": n}) for n in "12")
    first = app.pushed(one)
    assert app.put(two, headers={"If-Match": f'"{ABSENT}"'}).status == 412
    assert app.put(two, headers={"If-Match": "nonsense"}).status == 412
    response = app.put(two, headers={"If-Match": f'"{ABSENT}", "{first}"'})
    assert (response.status, response.headers["etag"]) == (201, f'"{digest_of(two)}"')
    response = app.put(one, headers={"If-Match": f'"{first}"'})
    assert (response.status, response.code) == (412, "DENIED")
    assert digest_of(two) in response.errors[0]["message"]
    assert app("GET", f"/v2/{NAME}/manifests/v1").body == two
    assert app.put(one, headers={"If-Match": "*"}).status == 201
    assert app.put(one, "new", headers={"If-Match": "*"}).status == 412


def test_if_none_match_creates_tag_only_once(app):
    one, two = (app.image(annotations={"n": n}) for n in "12")
    for reference in ("v1", digest_of(one)):
        assert app.put(one, reference, headers={"If-None-Match": "*"}).status == (201 if reference == "v1" else 412)
    assert app.put(two, headers={"If-None-Match": "*"}).status == 412
    assert app("GET", f"/v2/{NAME}/manifests/v1").body == one


def test_strict_references_report_all_missing_children(make_registry):
    registry = make_registry(references="strict")
    present = registry.blob(b"present")
    absent = [present | {"digest": digest_of(bytes([n]))} for n in range(5)]
    raw = registry.image(config=absent[0], layers=[present, *absent[1:], absent[1]])
    response = registry.put(raw)
    assert response.status == 400
    assert {error["code"] for error in response.errors} == {"MANIFEST_BLOB_UNKNOWN"}
    assert [error["detail"]["digest"] for error in response.errors] == sorted(layer["digest"] for layer in absent)
    assert all(error["detail"]["digest"] in error["message"] for error in response.errors)
    assert registry("HEAD", f"/v2/{NAME}/manifests/v1").status == 404
    assert registry("HEAD", f"/v2/{NAME}/blobs/{digest_of(raw)}").status == 404
    for n in range(5):
        registry.blob(bytes([n]))
    registry.pushed(raw)


def test_strict_references_require_children_in_same_repository(make_registry):
    registry = make_registry(references="strict")
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


@pytest.mark.parametrize(
    "layer",
    [
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ],
)
def test_foreign_layers_may_be_missing(make_registry, layer):
    registry = make_registry(references="strict")
    foreign = {"mediaType": layer, "digest": ABSENT, "size": 1, "urls": ["https://elsewhere.example/x"]}
    registry.pushed(registry.image(layers=[foreign]))


def test_missing_subject_is_acknowledged(make_registry):
    registry = make_registry(references="strict")
    for digest in (ABSENT, "sha512:" + "1" * 128):
        raw = registry.image(subject={"mediaType": MANIFEST, "digest": digest, "size": 1})
        for reference in ("v1", digest_of(raw)):
            assert registry.put(raw, reference).headers["oci-subject"] == digest


def test_sparse_references_accept_missing_children(make_registry):
    registry = make_registry(references="sparse")
    layer = {"mediaType": EMPTY, "digest": ABSENT, "size": 1}
    registry.pushed(registry.image(config=layer, layers=[layer]))
    registry.pushed(
        encoded({"schemaVersion": 2, "manifests": [layer | {"mediaType": MANIFEST}]}), "all", media_type=INDEX
    )


def test_schema_validation_rejects_invalid_artifact_type(make_registry):
    raw = make_registry().image(artifactType="no type")
    assert make_registry().put(raw).status == 201
    response = make_registry(validate="schema").put(raw)
    assert (response.status, response.code) == (400, "MANIFEST_INVALID")
    assert response.errors[0]["detail"]["path"] == "$.artifactType"
    assert "$.artifactType" in response.errors[0]["message"]


def test_names_pattern_restricts_pushes_only(make_registry):
    raw = make_registry().image()
    make_registry().pushed(raw)
    registry = make_registry(names="lab/[a-z]+")
    assert registry("GET", f"/v2/{NAME}/manifests/v1").status == 200
    assert "lab/[a-z]+" in registry.put(raw).errors[0]["message"]
    registry.pushed(registry.image("lab/x"), name="lab/x")
    for name in ("lab/x/y", "my/lab/x"):
        assert registry.put(raw, name=name).code == "NAME_INVALID"
        assert registry("POST", f"/v2/{name}/blobs/uploads/").code == "NAME_INVALID"


# Deletion


def test_deleted_tag_keeps_manifest(app):
    digest = app.pushed(app.image())
    app.pushed(app.image(), "v2")
    assert app("DELETE", f"/v2/{NAME}/manifests/v1").status == 202
    assert app("HEAD", f"/v2/{NAME}/manifests/v1").status == 404
    assert app("HEAD", f"/v2/{NAME}/manifests/v2").status == 200
    assert app("HEAD", f"/v2/{NAME}/manifests/{digest}").status == 200
    assert app("DELETE", f"/v2/{NAME}/manifests/v1").code == "MANIFEST_UNKNOWN"


def test_deleted_manifest_loses_its_tags(app):
    subject = app.pushed(app.image())
    raw = app.image(subject={"mediaType": MANIFEST, "digest": subject, "size": 1})
    digest = app.pushed(raw, "sbom")
    app.pushed(raw, "other")
    assert app("DELETE", f"/v2/{NAME}/manifests/{digest}").status == 202
    for reference in ("sbom", "other", digest):
        assert app("GET", f"/v2/{NAME}/manifests/{reference}").status == 404
    assert app("GET", f"/v2/{NAME}/tags/list").json["tags"] == ["v1"]
    assert app("GET", f"/v2/{NAME}/referrers/{subject}").json["manifests"] == []
    assert app("DELETE", f"/v2/{NAME}/manifests/{digest}").status == 404
    assert app("DELETE", f"/v2/none/manifests/{digest}").code == "NAME_UNKNOWN"


@pytest.mark.parametrize("disabled", ["manifests", "blobs", "tags"])
def test_deletion_can_be_disabled_by_kind(make_registry, disabled):
    registry = make_registry(deletion={"manifests", "blobs", "tags"} - {disabled})
    digest = registry.pushed(registry.image())
    urls = {
        "tags": f"/v2/{NAME}/manifests/v1",
        "manifests": f"/v2/{NAME}/manifests/{digest}",
        "blobs": f"/v2/{NAME}/blobs/{registry.blob(b'layer')['digest']}",
    }
    for kind, url in urls.items():
        response = registry("DELETE", url)
        assert response.status == (405 if kind == disabled else 202), kind
        if kind == disabled:
            assert response.code == "UNSUPPORTED"
            assert "DELETE" not in response.headers["allow"]


def test_read_only_registry_rejects_every_change(make_registry):
    open_ = make_registry()
    digest = open_.pushed(open_.image(layers=[open_.blob(b"abc")]))
    location = begin(open_)
    registry = make_registry(read_only=True)
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
        response = registry(method, url, body=b"abc")
        assert (response.status, response.code) == (405, "UNSUPPORTED"), (method, url)
        assert set(response.headers["allow"].split(", ")) <= {"GET", "HEAD", ""}
    assert registry("GET", f"/v2/{NAME}/manifests/v1").headers["docker-content-digest"] == digest
    assert registry("GET", f"/v2/{NAME}/blobs/{blob}").body == b"abc"
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == ["v1"]
    assert registry("GET", "/v2/_catalog").json == {"repositories": [NAME]}
    assert registry("GET", f"/v2/{NAME}/referrers/{digest}").status == 200


def test_manifests_count_in_quota(make_registry):
    registry = make_registry(limits=Limits(repository=2000))
    statuses = []
    for number in range(30):
        raw = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX, "manifests": [], "annotations": {"n": f"{number:90}"}}
        )
        response = registry("PUT", f"/v2/{NAME}/manifests/v{number}", {"Content-Type": INDEX}, raw.encode())
        statuses.append(response.status)
    assert statuses == [201] * statuses.count(201) + [413] * statuses.count(413)
    assert (response.code, 8 < statuses.count(201) < 15) == ("DENIED", True)
    assert "quota of 2000 bytes" in response.errors[0]["message"]
    # A manifest that is stored already needs no space
    assert registry("PUT", f"/v2/{NAME}/manifests/again", {"Content-Type": INDEX}, raw.encode()).status == 413
    first = registry("GET", f"/v2/{NAME}/manifests/v0").body
    assert registry("PUT", f"/v2/{NAME}/manifests/again", {"Content-Type": INDEX}, first).status == 201
