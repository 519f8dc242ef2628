"""Referrers of a manifest, by the API and by the fallback tag."""

import json
import logging
import threading

import pytest
from ocikit import errors
from ocikit.remote import referrers
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.spec.manifest import Index, parse_document

from tests.support.fake_registry import Response, error_response
from tests.support.manifests import DESCRIPTOR, EMPTY, INDEX, MANIFESTS, OCI, RAW, manifest

REFERRERS = "/v2/a/b/referrers/.*"


def make_referrer(kind="application/vnd.example.sbom", subject=DESCRIPTOR, **fields):
    at = {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.size}
    return manifest(subject=at, artifactType=kind, **fields)


def test_referrers_come_from_api(tagged, repository):
    raw, descriptor = make_referrer(annotations={"pushed": "today"})
    tagged.manifest("a/b", raw)
    (result,) = repository.referrers(DESCRIPTOR)
    assert (result.digest, result.artifact_type, dict(result.annotations)) == (
        descriptor.digest,
        "application/vnd.example.sbom",
        {"pushed": "today"},
    )
    assert [r.path for r in tagged.requests] == [f"/v2/a/b/referrers/{DESCRIPTOR.digest}"]


def serve_referrer_pages(server, *pages, filters=None, kind=INDEX):
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


def test_all_pages_of_referrers_are_read(server, repository):
    serve_referrer_pages(server, [("1", "a/a"), ("2", "b/b")], [], [("3", "a/a")])
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR)] == ["1", "2", "3"]


@pytest.mark.parametrize("filters", [None, "somethingElse", "artifacttype"])
def test_unfiltered_referrers_are_filtered_locally(server, repository, filters):
    """Harbor filters without reporting it: harbor#18413."""
    serve_referrer_pages(server, [("1", "a/a"), ("2", "b/b")], [("3", "a/a")], filters=filters)
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR, "a/a")] == ["1", "3"]
    assert server.requests[0].query == {"artifactType": ["a/a"]}


@pytest.mark.parametrize("filters", ["artifactType", "other, artifactType", "other,artifactType"])
def test_filtered_referrers_are_returned_unchanged(server, repository, filters):
    serve_referrer_pages(server, [("1", "a/a"), ("2", None)], filters=filters)
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR, "a/a")] == ["1", "2"]


def test_duplicate_referrer_is_listed_once(server, repository):
    serve_referrer_pages(server, [("1", "a/a")], [("1", "a/a"), ("2", "a/a")])
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR)] == ["1", "2"]


@pytest.mark.parametrize("body", [b"", b'{"schemaVersion": 2, "mani', b'{"manifests": 5}', b"[]"])
def test_broken_api_list_raises_instead_of_fallback(server, repository, body):
    server.manifest("a/b", make_index(make_entry("1")), FALLBACK, media_type=INDEX)
    server.on("GET", REFERRERS, status=200, headers={"Content-Type": INDEX}, body=body, times=None)
    for _ in range(2):
        with pytest.raises(errors.InvalidResponse, match="not an index"):
            repository.referrers(DESCRIPTOR)
    assert server.seen("GET", MANIFESTS) == []


def test_referrer_is_deleted_despite_broken_api_list(tagged, open_repository):
    raw, descriptor = make_referrer()
    tagged.manifest("a/b", raw)
    tagged.on("GET", REFERRERS, status=200, headers={"Content-Type": INDEX}, body=b"{", times=None)
    open_repository(tagged, push=True).delete(descriptor)
    assert ("a/b", descriptor.digest) not in tagged.manifests
    assert tagged.seen("PUT") == []


def test_no_referrers_give_empty_list(tagged, repository):
    assert list(repository.referrers(DESCRIPTOR)) == []


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
def test_fallback_tag_follows_specification(digest, tag):
    assert referrers.fallback_tag(Digest(digest)) == tag


def make_index(*entries, **fields):
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)} | fields).encode()


def make_entry(c, kind="a/a"):
    return {"mediaType": OCI, "digest": "sha256:" + c * 64, "size": 1, "artifactType": kind}


@pytest.mark.parametrize(
    "answer",
    [
        Response(404),
        error_response(404, "NOT_FOUND"),
        error_response(404, "UNSUPPORTED"),
        error_response(404, "MANIFEST_UNKNOWN"),
        error_response(400, "UNSUPPORTED"),
        error_response(405, "UNSUPPORTED"),
        Response(200, {"Content-Type": "text/html"}, b"<html>Sign in</html>"),
        Response(200, {"Content-Type": "application/json"}, b"{}"),
        Response(200, {}, b"<html>"),
        Response(200, {"Content-Type": "application/json"}, b'{"manifests": 5}'),
    ],
    ids=lambda a: f"{a.status}-{a.body[:20]!r}",
)
def test_fallback_tag_is_read_without_api(server, repository, answer):
    """GHCR has no API; GAR returns a login page: soci-snapshotter PR#512."""
    server.on(
        "GET", REFERRERS, change=lambda r, a: Response(answer.status, dict(answer.headers), answer.body), times=None
    )
    server.manifest("a/b", make_index(make_entry("1"), make_entry("2", "b/b")), FALLBACK, media_type=INDEX)
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR)] == ["1", "2"]
    assert [d.digest[7] for d in repository.referrers(DESCRIPTOR, "b/b")] == ["2"]
    assert len(server.seen("GET", REFERRERS)) == 1, "the missing API is remembered"


def test_missing_fallback_tag_gives_empty_list(server, repository):
    server.referrers = False
    assert list(repository.referrers(DESCRIPTOR)) == []


@pytest.mark.parametrize("status", [401, 403, 500])
def test_failed_api_request_raises(server, open_repository, status):
    server.on("GET", REFERRERS, status=status, times=None)
    with pytest.raises(errors.RegistryError):
        open_repository(server, retries=0).referrers(DESCRIPTOR)


def test_fallback_tag_of_subject_itself_is_ignored(tagged, repository):
    """GitLab resolves the fallback tag to the subject: oras-go#1396."""
    tagged.referrers = False
    index = make_index(make_entry("1"))
    subject = Descriptor.of(index, INDEX)
    for raw, descriptor, kind in ((RAW, DESCRIPTOR, OCI), (index, subject, INDEX)):
        tagged.manifest("a/b", raw, referrers.fallback_tag(descriptor.digest), media_type=kind)
        assert list(repository.referrers(descriptor)) == []


@pytest.mark.parametrize("body", [b"<html>", b"{}", b"[]", manifest(annotations={"other": "manifest"})[0]])
def test_other_content_at_fallback_tag_is_ignored(server, repository, body):
    server.referrers = False
    server.manifest("a/b", body, FALLBACK, media_type=INDEX if b"layers" not in body else OCI)
    assert list(repository.referrers(DESCRIPTOR)) == []


def fallback_entries(server, tag=FALLBACK):
    raw, kind = server.manifests["a/b", server.tags["a/b", tag]]
    assert kind == INDEX and Index.parse(raw).raw == raw
    return json.loads(raw)["manifests"]


def test_push_with_subject_support_writes_no_list(tagged, repository):
    raw, descriptor = make_referrer()
    repository.push_bytes(descriptor, raw)
    assert [(r.method, r.path) for r in tagged.requests] == [("PUT", f"/v2/a/b/manifests/{descriptor.digest}")]


def test_push_without_subject_support_writes_list(tagged, repository):
    tagged.referrers = False
    first, second = make_referrer(annotations={"n": "1", "org.example.x": "é"}), make_referrer(kind=None)
    repository.push_bytes(first[1], first[0])
    repository.push_bytes(second[1], second[0])
    assert fallback_entries(tagged) == [
        {
            "mediaType": OCI,
            "digest": first[1].digest,
            "size": first[1].size,
            "artifactType": "application/vnd.example.sbom",
            "annotations": {"n": "1", "org.example.x": "é"},
        },
        {"mediaType": OCI, "digest": second[1].digest, "size": second[1].size, "artifactType": EMPTY["mediaType"]},
    ]
    result = repository.referrers(DESCRIPTOR)
    assert [d.digest for d in result] == [first[1].digest, second[1].digest]
    assert parse_document(first[0]).raw == tagged.manifests["a/b", first[1].digest][0]


def test_index_without_artifact_type_is_listed_without(tagged, repository):
    tagged.referrers = False
    at = {"mediaType": OCI, "digest": DESCRIPTOR.digest, "size": DESCRIPTOR.size}
    raw = make_index(subject=at)
    repository.push_bytes(Descriptor.of(raw, INDEX), raw)
    (result,) = fallback_entries(tagged)
    assert "artifactType" not in result and result["mediaType"] == INDEX


def test_repeated_push_lists_referrer_once(tagged, repository):
    tagged.referrers = False
    raw, descriptor = make_referrer()
    for _ in range(3):
        repository.push_bytes(descriptor, raw)
    assert len(fallback_entries(tagged)) == 1
    lists = [r for r in tagged.seen("PUT") if r.path.endswith(FALLBACK)]
    assert len(lists) == 1


def test_list_keeps_entries_of_other_clients(tagged, repository):
    tagged.referrers = False
    foreign = make_entry("1") | {"future": [1]}
    tagged.manifest("a/b", make_index(foreign, annotations={"kept": "yes"}), FALLBACK, media_type=INDEX)
    raw, descriptor = make_referrer()
    repository.push_bytes(descriptor, raw)
    entries = fallback_entries(tagged)
    assert entries[0] == foreign and entries[1]["digest"] == descriptor.digest
    assert json.loads(tagged.manifests["a/b", tagged.tags["a/b", FALLBACK]][0])["annotations"] == {"kept": "yes"}


def test_replaced_list_is_deleted_if_the_registry_allows(tagged, repository, caplog):
    """ECR and GHCR reject the deletion: oras#1228, oras#915."""
    tagged.referrers = False
    first, second, third = (
        make_referrer(annotations={"n": "1"}),
        make_referrer(annotations={"n": "2"}),
        make_referrer(annotations={"n": "3"}),
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


def test_other_content_at_fallback_tag_is_not_replaced(tagged, repository):
    tagged.referrers = False
    raw, descriptor = make_referrer()
    foreign = manifest(annotations={"not": "a list"})[0]
    tagged.manifest("a/b", foreign, FALLBACK)
    with pytest.raises(errors.RegistryError, match=FALLBACK):
        repository.push_bytes(descriptor, raw)
    assert tagged.manifests["a/b", tagged.tags["a/b", FALLBACK]][0] == foreign
    assert ("a/b", descriptor.digest) in tagged.manifests, "the manifest itself is stored"


@pytest.mark.parametrize("etags", [False, True])
def test_concurrent_writers_both_stay_in_list(tagged, open_repository, etags):
    tagged.referrers, tagged.etags = False, etags
    own, theirs = make_referrer(annotations={"by": "us"}), make_referrer(annotations={"by": "them"})
    tagged.manifest("a/b", make_index(make_entry("1")), FALLBACK, media_type=INDEX)
    interruptions = []

    def interfere(request, answer):
        """Replace the list between its reading and its writing, as another client does."""
        if not interruptions:
            interruptions.append(True)
            tagged.manifest("a/b", theirs[0])
            tagged.manifest("a/b", make_index(make_entry("1"), make_entry("9")), FALLBACK, media_type=INDEX)

    tagged.on("GET", f"/v2/a/b/manifests/{FALLBACK}", change=interfere)
    open_repository(tagged, push=True).push_bytes(own[1], own[0])
    digests = [e["digest"] for e in fallback_entries(tagged)]
    assert own[1].digest in digests
    if etags:
        assert "sha256:" + "9" * 64 in digests, "If-Match detected the other writer"
        assert len([r for r in tagged.seen("PUT") if "If-Match" in r.headers]) == 2


def test_overwritten_entry_is_added_again(tagged, repository):
    tagged.referrers = False
    raw, descriptor = make_referrer()

    def overwrite(request, answer):
        tagged.manifest("a/b", make_index(make_entry("9")), FALLBACK, media_type=INDEX)

    tagged.on("PUT", f"/v2/a/b/manifests/{FALLBACK}", change=overwrite)
    repository.push_bytes(descriptor, raw)
    assert [e["digest"][7:9] for e in fallback_entries(tagged)] == ["99", descriptor.digest[7:9]]


def test_constantly_overwritten_list_logs_warning(tagged, repository, caplog):
    tagged.referrers = False
    raw, descriptor = make_referrer()
    tagged.on(
        "PUT",
        f"/v2/a/b/manifests/{FALLBACK}",
        times=None,
        change=lambda r, a: tagged.manifest("a/b", make_index(make_entry("9")), FALLBACK, media_type=INDEX) and None,
    )
    repository.push_bytes(descriptor, raw)
    assert "may be missing" in caplog.text
    assert len(tagged.requests) < 30


def test_parallel_writers_do_not_fail(tagged, open_repository):
    tagged.referrers, tagged.etags = False, True
    pushed = [make_referrer(annotations={"n": str(n)}) for n in range(3)]
    failures = []

    def work(raw, descriptor):
        try:
            open_repository(tagged, push=True).push_bytes(descriptor, raw)
        except Exception:
            failures.append(error_response)

    threads = [threading.Thread(target=work, args=m) for m in pushed]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert failures == []
    # Without an ETag the first writers may overwrite each other, which a warning reports
    assert len(fallback_entries(tagged)) >= 1


def test_delete_removes_referrer_from_list(tagged, repository):
    tagged.referrers = False
    first, second = make_referrer(annotations={"n": "1"}), make_referrer(annotations={"n": "2"})
    for raw, descriptor in (first, second):
        repository.push_bytes(descriptor, raw)
    repository.delete(first[1])
    assert ("a/b", first[1].digest) not in tagged.manifests
    assert [e["digest"] for e in fallback_entries(tagged)] == [second[1].digest]


def test_delete_with_api_touches_no_list(tagged, repository):
    raw, descriptor = make_referrer()
    repository.push_bytes(descriptor, raw)
    repository.delete(descriptor)
    assert len(tagged.seen("PUT")) == 1
    assert [r.path for r in tagged.seen("DELETE")] == [f"/v2/a/b/manifests/{descriptor.digest}"]


def forbid_deleting_listed(server):
    """Reject the deletion of manifests that an index names, as ECR does."""

    def guard(request):
        digest = request.path.rpartition("/")[2]
        entries = [e for raw, kind in server.manifests.values() if kind == INDEX for e in json.loads(raw)["manifests"]]
        if request.method == "DELETE" and digest in [e["digest"] for e in entries]:
            return error_response(400, "ImageReferencedByManifestList")
        return None

    server.guard = guard


def test_referrer_is_removed_from_list_before_deletion(tagged, repository):
    """ECR deletes no manifest that an index names."""
    tagged.referrers = False
    first, second = make_referrer(annotations={"n": "1"}), make_referrer(annotations={"n": "2"})
    for raw, descriptor in (first, second):
        repository.push_bytes(descriptor, raw)
    forbid_deleting_listed(tagged)
    repository.delete(first[1])
    assert ("a/b", first[1].digest) not in tagged.manifests
    assert [e["digest"] for e in fallback_entries(tagged)] == [second[1].digest]
    repository.delete(second[1])
    assert ("a/b", second[1].digest) not in tagged.manifests and fallback_entries(tagged) == []


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 405}, {"status": 500}, {"drop": "before"}])
def test_undeletable_list_logs_warning(tagged, open_repository, caplog, fault):
    repository = open_repository(tagged, push=True, retries=0)
    tagged.referrers = False
    raw, descriptor = make_referrer()
    repository.push_bytes(descriptor, raw)
    old = tagged.tags["a/b", referrers.fallback_tag(DESCRIPTOR.digest)]
    tagged.on("DELETE", f".*/manifests/{old}", times=None, **fault)
    repository.delete(descriptor)
    assert ("a/b", descriptor.digest) not in tagged.manifests and fallback_entries(tagged) == []
    assert "stays in the registry" in caplog.text


def test_undeletable_referrer_stays_in_list(tagged, repository):
    tagged.referrers = False
    raw, descriptor = make_referrer()
    repository.push_bytes(descriptor, raw)
    tagged.on("DELETE", f".*/manifests/{descriptor.digest}", status=403, times=None)
    with pytest.raises(errors.Denied):
        repository.delete(descriptor)
    assert [e["digest"] for e in fallback_entries(tagged)] == [descriptor.digest]
