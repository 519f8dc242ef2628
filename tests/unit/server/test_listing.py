"""Listing endpoints: tags, catalog, referrers."""

from urllib.parse import parse_qs, quote, urlsplit

import pytest
from ocikit.server import Limits

from tests.support.wsgi import INDEX, MANIFEST, NAME, digest_of, encoded
from tests.unit.server.endpoints import ABSENT, EMPTY, link, pages

# Tags


UNUSUAL_TAGS = ["1", "10", "2", "A", "Z", "_", "_a", "a", "a-b", "a.b", "aB", "b", "z" * 128, "v1"]


def tagged(app, tags, name=NAME):
    raw = app.image(name)
    for tag in tags:
        app.pushed(raw, tag, name)
    return raw


def test_tags_are_sorted_by_bytes(app):
    tagged(app, UNUSUAL_TAGS)
    response = app("GET", f"/v2/{NAME}/tags/list")
    assert response.json == {"name": NAME, "tags": sorted(UNUSUAL_TAGS)}
    assert response.headers["content-type"] == "application/json"
    assert "link" not in response.headers


def test_links_lead_to_every_tag_once(app):
    tagged(app, UNUSUAL_TAGS)
    for n in (1, 2, 3, 5, 13, 14, 100):
        lists = [response.json["tags"] for response in pages(app, f"/v2/{NAME}/tags/list?n={n}")]
        assert sum(lists, []) == sorted(UNUSUAL_TAGS)
        assert all(len(tags) == n for tags in lists[:-1]) and lists[-1]


def test_servers_page_limit_adds_link(make_registry):
    registry = make_registry(limits=Limits(page=3))
    tagged(registry, UNUSUAL_TAGS)
    for url in (f"/v2/{NAME}/tags/list", f"/v2/{NAME}/tags/list?n={10**12}", f"/v2/{NAME}/tags/list?n={'9' * 400}"):
        assert sum((response.json["tags"] for response in pages(registry, url)), []) == sorted(UNUSUAL_TAGS)
        assert len(registry("GET", url).json["tags"]) == 3


@pytest.mark.parametrize("n", ["0", "00", "0&last=a"])
def test_page_size_0_returns_no_tags(app, n):
    tagged(app, ["a", "b"])
    response = app("GET", f"/v2/{NAME}/tags/list?n={n}")
    assert response.json == {"name": NAME, "tags": []}
    assert "link" not in response.headers


def test_invalid_page_size_returns_400(app):
    tagged(app, ["a"])
    for n in ("-1", "abc", "", "1.5", "+1", "%201", "1e3", "²", "0x1", "١"):
        for path in (f"/v2/{NAME}/tags/list", "/v2/_catalog"):
            assert app("GET", f"{path}?n={quote(n, safe='%')}").status == 400


def test_last_may_be_any_text(app):
    tagged(app, UNUSUAL_TAGS)
    for last in ("", "0", "A", "Aa", "a", "aa", "a.b", "zzz", "~", "é", "not a tag", "a\x01"):
        response = app("GET", f"/v2/{NAME}/tags/list?last={quote(last)}")
        assert response.json["tags"] == [tag for tag in sorted(UNUSUAL_TAGS) if tag > last]
        assert app("GET", f"/v2/{NAME}/tags/list?last={quote(last)}&n=2").json["tags"] == response.json["tags"][:2]


def test_repository_without_tags_returns_empty_list(app):
    app.blob(b"abc")
    assert app("GET", f"/v2/{NAME}/tags/list").json == {"name": NAME, "tags": []}
    assert app("GET", "/v2/none/tags/list?n=0").status == 404


# Catalog


def test_links_lead_to_every_repository_once(make_registry):
    names = ["a", "a-b", "a/b", "ab", "b", "b/c/d"]
    registry = make_registry()
    for name in names:
        registry.blob(b"abc", name)
    assert registry("GET", "/v2/_catalog").json == {"repositories": sorted(names)}
    for n in (1, 2, 5, 6):
        lists = [response.json["repositories"] for response in pages(registry, f"/v2/_catalog?n={n}")]
        assert sum(lists, []) == sorted(names)
    assert registry("GET", "/v2/_catalog?n=0").json == {"repositories": []}
    assert registry("GET", "/v2/_catalog?last=a/b").json == {"repositories": ["ab", "b", "b/c/d"]}
    assert registry("GET", "/v2/_catalog?n=x").status == 400
    assert registry("GET", "/v2/_catalog", HTTP_X="").headers.get("link") is None


# Referrers


def attach(app, subject, name=NAME, **fields):
    """Push a manifest with a subject and return its digest."""
    raw = app.image(name, subject={"mediaType": MANIFEST, "digest": subject, "size": 1}, **fields)
    app.pushed(raw, digest_of(raw), name)
    return digest_of(raw)


@pytest.mark.parametrize("name", [NAME, "none"])
@pytest.mark.parametrize("digest", [ABSENT, "sha512:" + "0" * 128, "blake3:" + "0" * 64, "sha384+x:abc"])
def test_digest_without_referrers_returns_empty_index(app, name, digest):
    app.pushed(app.image())
    response = app("GET", f"/v2/{name}/referrers/{digest}")
    assert response.status == 200
    assert response.headers["content-type"] == INDEX
    assert response.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    assert "link" not in response.headers and "oci-filters-applied" not in response.headers


@pytest.mark.parametrize(
    "digest", ["v1", "sha256:", "sha256:abc", "sha256:" + "0" * 63, "sha256:" + "A" * 64, ":", "x", "a:b!"]
)
def test_referrers_of_invalid_digest_return_400(app, digest):
    response = app("GET", f"/v2/{NAME}/referrers/{digest}")
    assert (response.status, response.code) == (400, "DIGEST_INVALID")


def test_referrers_have_artifact_type_and_annotations(app):
    subject = app.pushed(app.image())
    artifact_types = {
        attach(
            app, subject, artifactType="application/x.sbom", annotations={"a": 'é " \\ \n 👋', "b": "\ud800"}
        ): "application/x.sbom",
        attach(app, subject): EMPTY,
        attach(app, subject, artifactType=""): EMPTY,
    }
    for artifact_type, expected in ((None, None), ("application/x.list", "application/x.list")):
        fields = {"artifactType": artifact_type} if artifact_type else {}
        raw = encoded(
            {
                "schemaVersion": 2,
                "mediaType": INDEX,
                "manifests": [],
                "annotations": {"n": "1"},
                "subject": {"mediaType": MANIFEST, "digest": subject, "size": 1},
                **fields,
            }
        )
        artifact_types[app.pushed(raw, digest_of(raw), media_type=INDEX)] = expected
    attach(app, ABSENT)
    attach(app, subject, "other")
    listed = app("GET", f"/v2/{NAME}/referrers/{subject}").json["manifests"]
    assert {descriptor["digest"]: descriptor.get("artifactType") for descriptor in listed} == artifact_types
    for descriptor in listed:
        document = app("GET", f"/v2/{NAME}/manifests/{descriptor['digest']}")
        assert (descriptor["mediaType"], descriptor["size"]) == (document.headers["content-type"], len(document.body))
        assert descriptor.get("annotations", {}) == document.json.get("annotations", {})
        assert set(descriptor) <= {"mediaType", "digest", "size", "artifactType", "annotations"}


@pytest.mark.parametrize(
    "parameter", ["application/x.sbom%2Bjson", "application/x.sbom+json", "application%2Fx.sbom%2Bjson"]
)
def test_referrers_are_filtered_by_artifact_type(app, parameter):
    expected = {
        attach(app, ABSENT, artifactType="application/x.sbom+json", annotations={"n": str(n)}) for n in range(3)
    }
    attach(app, ABSENT, artifactType="application/x.sbom")
    response = app("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType={parameter}")
    assert {descriptor["digest"] for descriptor in response.json["manifests"]} == expected
    assert response.headers["oci-filters-applied"] == "artifactType"
    response = app("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType=none")
    assert (response.json["manifests"], response.headers["oci-filters-applied"]) == ([], "artifactType")
    response = app("GET", f"/v2/{NAME}/referrers/{ABSENT}?artifactType=")
    assert len(response.json["manifests"]) == 4 and "oci-filters-applied" not in response.headers


@pytest.mark.parametrize("query", ["", "?artifactType=application/x.big"])
@pytest.mark.parametrize(
    "note", ["x" * 600_000, "é" * 300_000, '"' * 300_000, "\x01" * 100_000], ids=["plain", "text", "quotes", "controls"]
)
def test_referrers_above_4_mib_are_paged(app, query, note):
    expected = {
        attach(app, ABSENT, artifactType="application/x.big", annotations={"n": f"{n} {note}"}) for n in range(9)
    }
    others = {attach(app, ABSENT, artifactType="application/x.small", annotations={"n": str(n)}) for n in range(30)}
    responses = pages(app, f"/v2/{NAME}/referrers/{ABSENT}{query}")
    listed = [descriptor["digest"] for response in responses for descriptor in response.json["manifests"]]
    assert len(responses) > 1
    assert len(listed) == len(set(listed))
    assert set(listed) == (expected if query else expected | others)
    for response in responses:
        assert len(response.body) <= 4 * 1024 * 1024
        assert response.headers["content-type"] == INDEX
        assert response.headers.get("oci-filters-applied") == ("artifactType" if query else None)
    for response in responses[:-1]:
        query_params = parse_qs(urlsplit(link(response)).query)
        assert query_params.get("artifactType") == (["application/x.big"] if query else None)


def test_referrer_of_maximum_size_has_its_own_page(app):
    for n in "12":
        raw = app.image(subject={"mediaType": MANIFEST, "digest": ABSENT, "size": 1}, annotations={n: ""})
        raw = raw.replace(b'""', b'"' + b"x" * (4 * 1024 * 1024 - len(raw)) + b'"')
        app.pushed(raw, digest_of(raw))
    responses = pages(app, f"/v2/{NAME}/referrers/{ABSENT}")
    assert [len(response.json["manifests"]) for response in responses] == [1, 1]
    assert all(len(response.body) <= 4 * 1024 * 1024 for response in responses)


def test_hundreds_of_referrers_fit_into_one_page(app):
    expected = sorted(attach(app, ABSENT, annotations={"n": str(n)}) for n in range(200))
    response = app("GET", f"/v2/{NAME}/referrers/{ABSENT}")
    assert [descriptor["digest"] for descriptor in response.json["manifests"]] == expected
    assert "link" not in response.headers


def test_fallback_tag_of_old_client_changes_nothing(make_registry):
    """spec.md#enabling-the-referrers-api: old clients push the list of referrers under a fallback tag."""
    registry = make_registry(references="strict")
    subject = registry.pushed(registry.image())
    digest = attach(registry, subject, artifactType="application/x.sbom", annotations={"a": "b"})
    listed = registry("GET", f"/v2/{NAME}/referrers/{subject}").json
    fallback = subject.replace(":", "-")
    registry.pushed(encoded(listed), fallback, media_type=INDEX)
    assert registry("GET", f"/v2/{NAME}/referrers/{subject}").json == listed
    assert registry("GET", f"/v2/{NAME}/manifests/{fallback}").json == listed
    assert registry("GET", f"/v2/{NAME}/tags/list").json["tags"] == [fallback, "v1"]
    registry.pushed(encoded({**listed, "manifests": []}), fallback, media_type=INDEX)
    assert [
        descriptor["digest"] for descriptor in registry("GET", f"/v2/{NAME}/referrers/{subject}").json["manifests"]
    ] == [digest]
