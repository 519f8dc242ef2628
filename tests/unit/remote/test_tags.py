"""Tags of a repository: listed page by page, missing, deleted."""

import json
import logging

import pytest
from ocikit import errors

from tests.support.fake_registry import Response, error_response
from tests.support.manifests import DESCRIPTOR, RAW

TAGS = "/v2/a/b/tags/list"


def serve_tag_pages(server, *pages, header=None):
    """Serve these pages of tags; `header(n)` returns the Link to the n-th page."""

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
def test_next_link_in_any_form_is_followed_unchanged(server, repository, link):
    """Quay sends next_page, Artifactory its own parameters; no page is lost silently."""
    serve_tag_pages(server, ["a", "b"], ["c"], ["d"], header=lambda n: link.format(host=server.host, n=n))
    assert repository.tags() == ["a", "b", "c", "d"]
    if "next_page" in link:
        assert server.requests[1].target == "/v2/a/b/tags/list?next_page=gAAA%2B%3D&page=1"


def test_several_link_headers_are_read(server, repository):
    serve_tag_pages(server, ["a"], ["b"], header=lambda n: ['<?page=9>; rel="prev"', f'<?page={n}>; rel="next"'])
    assert repository.tags() == ["a", "b"]


@pytest.mark.parametrize(
    "link", ['<?page=1>; rel="prev"', "<?page=1>", "garbage", '<>; rel="x"', '?page=1; rel="next"']
)
def test_link_without_next_ends_list(server, repository, link):
    serve_tag_pages(server, ["a"], ["b"], header=lambda n: link)
    assert repository.tags() == ["a"]


def test_circular_links_raise(server, repository):
    serve_tag_pages(server, ["a"], ["b"], ["c"], header=lambda n: f'<?page={n % 2}>; rel="next"')
    with pytest.raises(errors.InvalidResponse, match="circle"):
        repository.tags()
    server.faults.clear()
    serve_tag_pages(server, ["a"], ["b"], header=lambda n: '</v2/a/b/tags/list?n=1000>; rel="next"')
    server.requests.clear()
    with pytest.raises(errors.InvalidResponse, match="circle"):
        repository.tags()
    assert len(server.requests) == 1


def test_next_link_to_other_host_is_rejected(server, other, repository):
    serve_tag_pages(server, ["a"], ["b"], header=lambda n: f'<{other.url}/v2/a/b/tags/list>; rel="next"')
    with pytest.raises(errors.InvalidResponse, match=str(other.port)):
        repository.tags()
    assert other.requests == []


@pytest.mark.parametrize("link", ['<http://[::1/>; rel="next"', '<ftp://x/>; rel="next"'])
def test_invalid_next_link_raises_invalid_response(server, repository, link):
    serve_tag_pages(server, ["a"], ["b"], header=lambda n: link)
    with pytest.raises(errors.InvalidResponse):
        repository.tags()


def test_pages_are_fetched_on_demand(server, repository):
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
def test_null_or_empty_tags_give_empty_list(server, repository, tags):
    """distribution returns null after the last tag was deleted: distribution#1186."""
    serve_tag_pages(server, tags)
    assert repository.tags() == []


def test_listing_without_key_is_empty(server, repository):
    server.on("GET", TAGS, status=200, body=b'{"name": "a/b"}')
    assert repository.tags() == []


@pytest.mark.parametrize("tags", ["v1", {"v1": 1}, 5])
def test_invalid_listing_raises(server, repository, tags):
    serve_tag_pages(server, tags)
    with pytest.raises(errors.InvalidResponse, match=r"\$\.tags"):
        repository.tags()


def test_invalid_tags_are_skipped_with_one_warning(server, repository, caplog):
    """Nexus lists null and invalid names (skopeo#2409), Artifactory lists digests."""
    bad = [None, "not a tag\x1b[31m", "", 5, {"x": 1}, "sha256:" + "0" * 64, "-x"]
    serve_tag_pages(server, ["v1", *bad, "v2"], ["v3", "-y"], header=lambda n: f'<?page={n}>; rel="next"')
    assert repository.tags() == ["v1", "v2", "v3"]
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert (
        warning
        == f"{repository.transport.host}/a/b: ignored 7 invalid tag names: None, 'not a tag\\x1b[31m', '', … 4 more"
    )


@pytest.mark.parametrize(
    ("status", "code"), [(400, "PAGINATION_NUMBER_INVALID"), (405, "UNSUPPORTED"), (400, "UNSUPPORTED")]
)
def test_rejected_page_size_is_omitted(server, repository, status, code):
    """ECR and distribution 3.1 reject large pages: ggcr#681, distribution#4844."""
    server.manifest("a/b", RAW, "v1", "v2")
    server.page = 1
    server.on(
        "GET",
        TAGS,
        when=lambda r: r.query.get("n") == ["1000"],
        change=lambda r, a: error_response(status, code),
        times=None,
    )
    assert repository.tags() == ["v1", "v2"]
    assert [r.target for r in server.requests[:2]] == ["/v2/a/b/tags/list?n=1000", "/v2/a/b/tags/list"]


def test_missing_tag_error_names_nearest_tags(server, repository):
    for tag in ("v1.0.0", "v1.0.1", "latest", "nightly"):
        server.manifest("a/b", RAW, tag)
    with pytest.raises(errors.ManifestUnknown) as caught:
        repository.resolve("v1.0.3")
    text = str(caught.value)
    assert "v1.0.0" in text and "v1.0.1" in text and "lists all 4" in text
    assert f"{server.host}/a/b" in text
    assert isinstance(caught.value, LookupError)


def test_missing_tag_error_names_the_only_tag(server, repository):
    server.manifest("a/b", RAW, "v1")
    with pytest.raises(errors.ManifestUnknown) as caught:
        repository.resolve("v2")
    assert caught.value.hint == "nearest: v1"


def test_missing_repository_raises_name_unknown(server, repository):
    with pytest.raises(errors.NameUnknown, match="no repository a/b"):
        repository.resolve("v1")
    with pytest.raises(errors.NameUnknown, match="no repository a/b"):
        repository.tags()


def test_missing_latest_has_the_newest_versions(server, repository):
    for tag in ("v1.10", "v1.9", "v1.2", "main"):
        server.manifest("a/b", RAW, tag)
    for tag in ("latest", "zzzzzz"):
        with pytest.raises(errors.ManifestUnknown) as caught:
            repository.resolve(tag)
        assert caught.value.hint.startswith("newest: v1.10, v1.9, v1.2; ")


def test_missing_repository_has_near_names_and_no_cause(server, repository):
    repository.known = lambda host: ["a/bb", "other"] if host == server.host else []
    for call in (lambda: repository.resolve("v1"), repository.tags, lambda: repository.resolve_verified("v1")):
        with pytest.raises(errors.NameUnknown) as caught:
            call()
        assert caught.value.hint.startswith(f"nearest: a/bb; ocikit.catalog('{server.host}')")
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
        assert caught.value.status == 404 and caught.value.url


def test_repository_without_tags_has_its_own_hint(server, repository):
    server.blob("a/b", b"x")
    with pytest.raises(errors.ManifestUnknown, match="no tags at all"):
        repository.resolve("v1")


def test_untag_deletes_only_the_tag(server, repository):
    server.manifest("a/b", RAW, "v1", "v2")
    repository.untag("v1")
    assert server.tags == {("a/b", "v2"): DESCRIPTOR.digest}
    assert ("a/b", DESCRIPTOR.digest) in server.manifests


def test_untag_without_registry_support_raises(server, repository):
    """distribution 2.8 would delete the other tags, too."""
    server.manifest("a/b", RAW, "v1", "v2")
    server.tag_delete = False
    with pytest.raises(errors.Unsupported) as caught:
        repository.untag("v1")
    assert "digest" in caught.value.hint
    assert len(server.tags) == 2 and ("a/b", DESCRIPTOR.digest) in server.manifests


def test_untag_of_missing_tag_raises_manifest_unknown(tagged, repository):
    with pytest.raises(errors.ManifestUnknown):
        repository.untag("v9")
    assert tagged.seen("DELETE") == []
