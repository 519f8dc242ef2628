"""Quirks of real registries, one by one, and the client's behaviour."""

import base64
import io
import json
import logging
import re

import ocikit
import pytest
import requests
from ocikit import errors
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.testing.quirks import ODD, QUIRKS
from ocikit.testing.site import BLOB, MANIFEST, UPLOAD

from tests.resilience.suite import FILES, LARGE, TAGS, upstream  # noqa: F401 - a fixture
from tests.support.fake_registry import error_response
from tests.support.home import write
from tests.support.site import NamedSite

HOST = "registry.example"
REALM = "https://auth.registry.example/token"
STORAGE = "https://storage.example"
BIG = "data/model.bin"

#: The tests of each quirk.
TESTS: dict[str, list[str]] = {name: [] for name in QUIRKS}


def about(*names):
    """Decorate a test of these quirks."""

    def add(test):
        for name in names:
            TESTS[name].append(test.__name__)
        return test

    return add


@pytest.fixture
def wild(upstream, home):
    """Open a site: `wild("ecr-patch-201", host=…, bearer=True, storage=True, **options of the quirk)`."""
    opened = []

    def opening(*names, host=HOST, api_host="", storage=False, basic=False, bearer=False, **options):
        scene = NamedSite(upstream[0].url, host, storage=STORAGE if storage else "", api_host=api_host)
        scene.__enter__()
        opened.append((scene, names))
        if basic:
            scene.basic("ada", "love:lace")
        if bearer:
            scene.bearer(REALM, user="ada", password="love:lace", anonymous=["seed/*"])
        for name in names:
            QUIRKS[name].install(scene, **(options if name == names[0] else {}))
        return scene

    yield opening
    for scene, names in opened:
        scene.__exit__()
        scene.check()
        assert [name for name in names if not scene.triggered[name] and QUIRKS[name].hook] == []


@pytest.fixture
def behind(upstream):
    """Return a repository of the real registry."""
    registry, session = upstream
    return lambda name: session.repository(f"{registry.host}/{name}")


@pytest.fixture
def files(home):
    """Write paths to push: `files({"name": content})`."""
    return lambda content: sorted(write(home / "files", content).iterdir())


def chunked(session, scene, repo, size):
    """Push LARGE in chunks and return its descriptor."""
    descriptor = ocikit.Descriptor.of(LARGE, "application/octet-stream")
    session.repository(scene.ref(repo), push=True).push(descriptor, io.BytesIO(LARGE), chunk_size=size)
    return descriptor


def sent(scene, method, path=".*"):
    """Return the number of matching requests."""
    return len(scene.proxy.seen(method, path))


def kinds(requests_):
    return [r.headers.get("Authorization", "").partition(" ")[0] for r in requests_]


# Amazon ECR


@about("ecr-patch-201")
@pytest.mark.parametrize("closes", [True, False])
def test_chunk_with_201_is_accepted_and_rejected_commit_checked(wild, home, repo, behind, closes):
    scene = wild("ecr-patch-201", closes=closes)
    with scene.session(home) as session:
        descriptor = chunked(session, scene, repo, 3 << 20)
    assert behind(repo).fetch(descriptor, limit=len(LARGE)) == LARGE
    assert (sent(scene, "POST"), sent(scene, "PATCH")) == (1, 3)
    assert sent(scene, "HEAD", BLOB) == (0 if closes else 1)


@about("ecr-stale-range")
def test_stale_range_header_is_ignored(wild, home, repo, behind):
    scene = wild("ecr-stale-range")
    with scene.session(home) as session:
        descriptor = chunked(session, scene, repo, 1 << 20)
    assert behind(repo).fetch(descriptor, limit=len(LARGE)) == LARGE
    spans = [r.headers["Content-Range"].partition("-")[0] for r in scene.proxy.seen("PATCH")]
    assert spans == [str(n << 20) for n in range(7)]


@about("ecr-stale-range")
@pytest.mark.parametrize("times", [1, None])
def test_rejected_chunk_with_stale_range_is_retried_few_times(wild, home, repo, times):
    scene = wild("ecr-stale-range")
    scene.proxy.on(
        "PATCH", UPLOAD, when=lambda r: r.headers["Content-Range"].startswith("3145728-"), status=416, times=times
    )
    with scene.session(home) as session:
        if times:
            chunked(session, scene, repo, 1 << 20)
        else:
            with pytest.raises(errors.RangeInvalid):
                chunked(session, scene, repo, 1 << 20)
    assert sent(scene, "PATCH") < 60
    assert sent(scene, "POST") <= 4


@about("ecr-restart-416")
def test_broken_blob_never_restarts_in_same_session(wild, home, repo, behind, files):
    scene = wild("ecr-restart-416")
    scene.proxy.on(
        "PUT", UPLOAD, when=lambda r: r.headers["Content-Length"] == str(len(LARGE)), cut_request=1 << 20, reset=True
    )
    # The registry's session status does not help: "0-0"
    scene.proxy.on("GET", UPLOAD, status=404, times=None)
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"large": LARGE}))
    assert 416 not in {p.status for p in scene.proxy.passed}


@about("ecr-no-repository")
def test_missing_repository_is_requested_once_with_hint(wild, home, files):
    scene = wild("ecr-no-repository", host="123456789012.dkr.ecr.eu-central-1.amazonaws.com")
    with scene.session(home) as session, pytest.raises(errors.NameUnknown) as caught:
        session.push(scene.ref("new/thing"), *files({"a": b"x"}), workers=1)
    assert "aws ecr create-repository" in caught.value.hint
    assert sent(scene, "POST") == 1


@about("ecr-n-1000", "distribution-n-refused")
@pytest.mark.parametrize("quirk", ["ecr-n-1000", "distribution-n-refused"])
def test_rejected_page_size_falls_back_to_registry_default(wild, home, quirk):
    scene = wild(quirk)
    with scene.session(home) as session:
        pages = list(session.repository(scene.ref("seed/many")).list_tags(n=5000))
        assert set(session.tags(scene.ref("seed/many"))) == {tag for page in pages for tag in page} == set(TAGS)
    asked = [r.query.get("n") for r in scene.proxy.seen("GET", ".*/tags/list")]
    assert asked[:2] == [["5000"], None]
    assert ["5000"] not in asked[1:]


@about("ecr-old-index")
def test_undeletable_referrers_list_stays_with_warning(wild, home, repo, behind, files, caplog):
    scene = wild("ecr-old-index", "ghcr-no-referrers")
    with scene.session(home) as session, caplog.at_level(logging.WARNING, "ocikit"):
        session.push(scene.ref(repo), *files({"a": b"x"}))
        made = {session.attach(scene.ref(repo), artifact_type=f"text/x-{n}").digest for n in range(2)}
        assert {d.digest for d in session.referrers(scene.ref(repo))} == made
    assert "stays in the registry" in caplog.text
    done = [r.method for r in scene.proxy.seen("PUT|DELETE", MANIFEST) if r.method == "DELETE" or "/sha256-" in r.path]
    assert done == ["PUT", "PUT", "DELETE"]  # the new list first


@about("ecr-media-type")
def test_written_manifests_have_media_type(wild, home, repo, files):
    scene = wild("ecr-media-type", "ghcr-no-referrers")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        session.attach(scene.ref(repo), artifact_type="text/plain")
    bodies = [json.loads(r.body) for r in scene.proxy.seen("PUT", MANIFEST)]
    assert [b["mediaType"].split(".")[3] for b in bodies] == ["manifest", "manifest", "index"]


@about("s3-one-auth-mechanism")
@pytest.mark.parametrize("who", ["basic", "bearer"])
def test_redirect_to_storage_carries_no_credential(wild, home, who):
    scene = wild("s3-one-auth-mechanism", storage=True, **{who: True})
    with scene.session(home) as session:
        assert session.pull(scene.ref("seed/files")).read(BIG) == FILES[BIG]
    assert set(kinds(scene.proxy.seen("GET", BLOB))) == {who.capitalize()}
    assert set(kinds(scene.store.requests)) == {""}


# GitHub


@about("ghcr-patch-4-mib")
def test_chunks_are_limited_to_4_mib_and_off_by_default(wild, home, repo, behind, files):
    scene = wild("ghcr-patch-4-mib")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"large": LARGE}))
        assert sent(scene, "PATCH") == 0
        descriptor = chunked(session, scene, f"{repo}-2", 5 << 20)
    assert behind(f"{repo}-2").fetch(descriptor, limit=len(LARGE)) == LARGE
    lengths = [int(r.headers["Content-Length"]) for r in scene.proxy.seen("PATCH")]
    assert lengths == [5 << 20, 4 << 20, len(LARGE) - (4 << 20)]


@about("ghcr-no-referrers", "hub-no-delete")
def test_fallback_tag_lists_referrers_without_api(wild, home, repo, behind, files, caplog):
    scene = wild("ghcr-no-referrers", "hub-no-delete")
    with scene.session(home) as session, caplog.at_level(logging.WARNING, "ocikit"):
        subject = session.push(scene.ref(repo), *files({"a": b"x"}))
        made = [
            session.attach(scene.ref(repo), artifact_type=f"text/x-{n}", annotations={"n": str(n)}) for n in range(2)
        ]
    there = behind(repo)
    index = ocikit.Index.parse(there.fetch(there.resolve(str(subject.digest).replace(":", "-"))))
    assert [(d.digest, d.artifact_type, d.annotations["n"]) for d in index.manifests] == [
        (a.digest, f"text/x-{n}", str(n)) for n, a in enumerate(made)
    ]
    assert "stays in the registry" in caplog.text  # the replaced list


@about("ghcr-expired-pat")
@pytest.mark.parametrize("by", ["the token server", "the registry"])
def test_expired_login_does_not_hide_public_content(wild, home, files, caplog, by):
    scene = wild("ghcr-expired-pat", bearer=True)
    if by == "the registry":
        scene.auth.before.clear()
        scene.tokens.users["ada"] = scene.stale[1]  # tokens are issued to every client and rejected later
        scene.triggered["ghcr-expired-pat"] += 1
        inner = scene.proxy.guard

        def guard(request):
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            return error_response(403, "DENIED") if token and scene.tokens.claims(token)["sub"] else inner(request)

        scene.proxy.guard = guard
    with scene.session(home, scene.stale) as session, caplog.at_level(logging.WARNING, "ocikit"):
        assert session.pull(scene.ref("seed/files")).read("notes.txt") == FILES["notes.txt"]
        assert "anonymously" in caplog.text
        with pytest.raises((errors.Denied, errors.Unauthorized)) as caught:
            session.push(scene.ref("seed/other"), *files({"a": b"x"}))
    assert "ocikit.auth.explain" in caught.value.hint
    assert scene.stale[1] not in caplog.text + str(caught.value)


# GitLab


@about("gitlab-digest-tag")
def test_fallback_tag_naming_its_subject_lists_nothing(wild, home, repo, files):
    scene = wild("gitlab-digest-tag", "ghcr-no-referrers")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        assert list(session.referrers(scene.ref(repo))) == []
        attached = session.attach(scene.ref(repo), artifact_type="text/plain")
        assert [d.digest for d in session.referrers(scene.ref(repo))] == [attached.digest]


@about("gitlab-allow-list", "quay-types")
@pytest.mark.parametrize(
    ("quirk", "detail"), [("gitlab-allow-list", "unknown media type"), ("quay-types", "unsupported")]
)
def test_rejected_media_type_is_reported_and_not_retried(wild, home, repo, files, quirk, detail):
    scene = wild(quirk)
    with scene.session(home) as session, pytest.raises(errors.UploadInvalid, match=detail) as caught:
        session.push(scene.ref(repo), *files({"a": b"x"}), artifact_type=ODD)
    assert ODD in caught.value.message
    assert sent(scene, "PUT", MANIFEST) == 1


@about("gitlab-token-expires")
def test_token_expiring_during_push_is_renewed(wild, home, repo, behind):
    scene = wild("gitlab-token-expires", bearer=True, after=1)
    with scene.session(home) as session:
        repository = session.repository(scene.ref(repo), push=True)
        descriptor = ocikit.Descriptor.of(LARGE, "application/octet-stream")
        repository.push(descriptor, io.BytesIO(LARGE))
    assert behind(repo).fetch(descriptor, limit=len(LARGE)) == LARGE
    assert [p.status for p in scene.proxy.passed if p.request.method == "PUT"] == [401, 201]
    assert [p.received for p in scene.proxy.passed if p.request.method == "PUT"] == [len(LARGE)] * 2
    assert len(scene.tokens.requests) == 2


# Docker Hub


@about("hub-mount-scope", "harbor-mount-401")
@pytest.mark.parametrize("quirk", ["hub-mount-scope", "harbor-mount-401"])
def test_rejected_mount_becomes_upload(wild, home, repo, behind, quirk):
    scene = wild(quirk, bearer=True, foreign="seed/.*")
    with scene.session(home) as session:
        copied = session.copy(scene.ref("seed/files"), scene.ref(repo), workers=1)
    assert behind(repo).resolve("v1").digest == copied.digest
    if quirk == "hub-mount-scope":
        assert (
            scene.triggered[quirk] == 1
        )  # a scope that the token server rejected is not requested again for each blob
    assert {r.query["digest"][0] for r in scene.proxy.seen("PUT", UPLOAD)} >= {ocikit.Digest.of(FILES[BIG])}


@about("hub-rate-limit")
def test_resolve_costs_no_pull_and_rate_limit_is_visible(wild, home):
    scene = wild("hub-rate-limit", limit=1)
    with scene.session(home) as session:
        registry, repository = session.registry(scene.host), session.repository(scene.ref("seed/files"))
        assert registry.rate_limit is None
        session.pin(scene.ref("seed/files"))
        assert repository.head_manifest("v1").headers["ratelimit-remaining"] == "1;w=21600"
        assert registry.rate_limit == RateLimit(limit=1, remaining=1, window=21600)
        for _ in range(3):
            session.pull(scene.ref("seed/files"))
        assert sent(scene, "GET", MANIFEST) == 1
        assert repository.head_manifest("v1").headers["ratelimit-remaining"] == "0;w=21600"
        with pytest.raises(errors.RateLimited) as caught:
            session.pull(scene.ref("seed/image"))
        assert (
            session.ping(scene.host).rate_limit == registry.rate_limit == RateLimit(limit=1, remaining=0, window=21600)
        )
    assert caught.value.retry_after == 3600
    assert "0 of 1 left in 6 h" in caught.value.message
    assert "log in" in caught.value.hint


@about("hub-no-delete")
def test_docker_hub_deletion_is_unsupported_with_hint(wild, home):
    scene = wild("hub-no-delete", host="docker.io", api_host="registry-1.docker.io")
    with scene.session(home) as session:
        for reference in ("docker.io/seed/files:v1", session.pin("docker.io/seed/files:v1")):
            with pytest.raises(errors.Unsupported) as caught:
                session.delete(reference)
            assert "Docker Hub" in caught.value.hint or "by its digest" in caught.value.hint


# Harbor


@about("harbor-head-length")
def test_compressed_length_is_not_manifest_size(wild, home, repo, files):
    scene = wild("harbor-head-length")
    with scene.session(home) as session:
        found = session.inspect(scene.ref("seed/files"))
        assert found.descriptor.size == len(found.document.raw)
        subject = session.push(scene.ref(repo), *files({"a": b"x"}))
        attached = session.attach(scene.ref(repo), artifact_type="text/plain")
    assert attached.manifest.subject.size == len(subject.document.raw)
    assert {r.headers["Accept-Encoding"] for r in scene.proxy.requests} == {"identity"}


@about("harbor-filters")
def test_referrers_are_filtered_unless_registry_did(wild, home, repo, files):
    scene = wild("harbor-filters")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        made = [session.attach(scene.ref(repo), artifact_type=f"text/x-{n}") for n in range(2)]
        assert [d.digest for d in session.referrers(scene.ref(repo), "text/x-1")] == [made[1].digest]


@about("harbor-filters")
def test_absence_is_recognised_by_status(wild, home):
    scene = wild("harbor-filters")
    with scene.session(home) as session:
        with pytest.raises(errors.NameUnknown):
            session.pull(scene.ref("seed/nothing"))
        with pytest.raises(errors.ManifestUnknown, match="has no tag 'v0'"):
            session.pull(scene.ref("seed/files", "v0"))
        with pytest.raises(errors.ManifestUnknown):
            session.repository(scene.ref("seed/files")).get_manifest("v0")


@about("gar-referrer-sizes")
def test_sizes_in_referrers_list_are_not_trusted(wild, home, repo, files):
    scene = wild("gar-referrer-sizes")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        attached = session.attach(scene.ref(repo), artifact_type="text/plain")
        session.copy(scene.ref(repo), f"oci:{home / 'layout'}:v1", referrers=True)
        [copied] = session.referrers(f"oci:{home / 'layout'}:v1")
    assert (copied.digest, copied.size) == (attached.digest, len(attached.document.raw))


# Quay


@about("quay-mount-from")
def test_mount_names_its_source(wild, home, repo):
    scene = wild("quay-mount-from")
    with scene.session(home) as session:
        session.copy(scene.ref("seed/files"), scene.ref(repo))
    mounts = [r.query for r in scene.proxy.seen("POST", UPLOAD) if "mount" in r.query]
    assert {q["from"][0] for q in mounts} == {"seed/files"}
    assert sent(scene, "PUT", UPLOAD) == 0


@about("quay-types")
def test_accept_header_lists_all_four_manifest_types(wild, home):
    scene = wild("quay-types")
    where = f"{scene.proxy.url}/v2/seed/files/manifests/v1"
    assert (
        "prettyjws" in requests.get(where, timeout=5).headers["Content-Type"]
    )  # a client without an Accept header gets schema 1
    with scene.session(home) as session:
        assert session.pull(scene.ref("seed/files")).read("notes.txt") == FILES["notes.txt"]
    [first, *_] = scene.proxy.seen("HEAD", MANIFEST)
    accepted = {kind.strip().partition(";")[0] for kind in first.headers["Accept"].split(",")}
    assert accepted >= {
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    }


@about("quay-next-page", "artifactory-head-403")
@pytest.mark.parametrize("quirk", ["quay-next-page", "artifactory-head-403"])
def test_links_are_followed_verbatim(wild, home, quirk):
    scene = wild(quirk)
    with scene.session(home) as session:
        assert set(session.tags(scene.ref("seed/many"))) >= set(TAGS)
    assert sent(scene, "GET", ".*/tags/list") == 3


# Google


@about("gar-location")
@pytest.mark.parametrize("size", [None, 1 << 20])
def test_upload_location_is_used_verbatim(wild, home, repo, behind, files, size):
    scene = wild("gar-location")
    with scene.session(home) as session:
        if size:
            chunked(session, scene, repo, size)
        else:
            session.push(scene.ref(repo), *files({"large": LARGE}))
    assert 404 not in {p.status for p in scene.proxy.passed if p.request.path.startswith("/artifacts-uploads/")}
    assert behind(repo).exists(ocikit.Descriptor.of(LARGE, "application/octet-stream"))


@about("gar-referrers-html")
def test_login_page_is_not_a_referrers_list(wild, home, repo, files):
    scene = wild("gar-referrers-html")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        assert list(session.referrers(scene.ref(repo))) == []
        attached = session.attach(scene.ref(repo), artifact_type="text/plain")
        assert [d.digest for d in session.referrers(scene.ref(repo))] == [attached.digest]


# Azure, Artifactory, Nexus


@about("acr-access-token")
@pytest.mark.parametrize("place", ["passed", "config"])
def test_identity_token_exchange_accepts_access_token_only(wild, home, repo, files, place):
    scene = wild("acr-access-token", bearer=True)
    guid, token = "00000000-0000-0000-0000-000000000000", scene.credentials[1]
    pair = base64.b64encode(f"{guid}:".encode()).decode()
    config = {"auths": {HOST: {"auth": pair, "identitytoken": token}}}
    keychain = Keychain(None, environ={"DOCKER_AUTH_CONFIG": json.dumps(config)}) if place == "config" else None
    with scene.session(home, keychain) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        assert session.pull(scene.ref("seed/files")).read("notes.txt") == FILES["notes.txt"]
    assert {(r.method, r.grant, r.status) for r in scene.tokens.requests} == {("POST", "refresh_token", 200)}
    assert {r.parameters["refresh_token"] for r in scene.tokens.requests} == {(token,)}


@about("artifactory-head-403")
def test_403_before_push_means_unknown(wild, home, repo, behind, files):
    scene = wild("artifactory-head-403")
    with scene.session(home) as session:
        pushed = session.push(scene.ref(repo), *files({"large": LARGE}))
    assert behind(repo).resolve("v1").digest == pushed.digest


@about("artifactory-head-403", "nexus-odd-tags")
@pytest.mark.parametrize("quirk", ["artifactory-head-403", "nexus-odd-tags"])
def test_invalid_tag_names_are_skipped_with_warning(wild, home, caplog, quirk):
    scene = wild(quirk, **({"more": [{"name": "x"}]} if quirk == "nexus-odd-tags" else {}))
    with scene.session(home) as session, caplog.at_level(logging.WARNING, "ocikit"):
        assert set(session.tags(scene.ref("seed/many"))) - {f"sha256__{'0' * 64}"} == set(TAGS)
    assert re.search(r"ignored \d+ invalid tag names?: ", caplog.text)


# distribution and others


@about("distribution-null-tags")
@pytest.mark.parametrize("gone", [False, True])
def test_null_tags_missing_repository_and_failure_differ(wild, home, repo, behind, files, gone):
    scene = wild("distribution-null-tags", gone=gone)
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x"}))
        session.delete(scene.ref(repo))
        if gone:
            with pytest.raises(errors.NameUnknown):
                list(session.tags(scene.ref(repo)))
        else:
            assert list(session.tags(scene.ref(repo))) == []
        scene.proxy.on("GET", ".*/tags/list", status=400)
        scene.proxy.on("GET", ".*/tags/list", status=400)
        with pytest.raises(errors.RegistryError) as caught:
            list(session.tags(scene.ref(repo)))
    assert not isinstance(caught.value, errors.NotFound)


@about("distribution-range-0-0")
def test_range_0_0_is_ambiguous_and_client_offset_counts(wild, home, repo, behind):
    scene = wild("distribution-range-0-0")
    scene.proxy.on("PATCH", UPLOAD, cut_request=0, reset=True)
    with scene.session(home) as session:
        descriptor = chunked(session, scene, repo, 2 << 20)
    assert behind(repo).fetch(descriptor, limit=len(LARGE)) == LARGE
    spans = [r.headers["Content-Range"].partition("-")[0] for r in scene.proxy.seen("PATCH")]
    assert spans == ["0", "0", "2097152", "4194304", "6291456"]


@about("many-stream-without-range")
def test_server_accepts_stream_without_range_or_length(wild, repo, behind):
    scene = wild("many-stream-without-range")
    where = requests.post(f"{scene.proxy.url}/v2/{repo}/blobs/uploads/", timeout=5).headers["Location"]
    url = requests.compat.urljoin(scene.proxy.url, where)
    answer = requests.patch(url, data=iter([LARGE[:1000], LARGE[1000:]]), timeout=10)
    assert (answer.status_code, answer.headers["Range"]) == (202, f"0-{len(LARGE) - 1}")
    digest = ocikit.Digest.of(LARGE)
    url = requests.compat.urljoin(scene.proxy.url, answer.headers["Location"])
    assert requests.put(url, params={"digest": digest}, timeout=10).status_code == 201
    assert behind(repo).exists(ocikit.Descriptor.of(LARGE, "application/octet-stream"))


@about("distribution-ha-state")
def test_session_of_other_replica_restarts(wild, home, repo, behind, files):
    scene = wild("distribution-ha-state")
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"large": LARGE}))
    assert behind(repo).exists(ocikit.Descriptor.of(LARGE, "application/octet-stream"))


@about("distribution-ha-state")
def test_disagreeing_replicas_end_with_hint(wild, home, repo):
    scene = wild("distribution-ha-state", sick=None)
    with scene.session(home) as session, pytest.raises(errors.UploadInvalid) as caught:
        session.repository(scene.ref(repo), push=True).push(
            ocikit.Descriptor.of(LARGE, "application/octet-stream"), io.BytesIO(LARGE)
        )
    assert "replicas" in caught.value.hint
    assert sent(scene, "POST") <= 4


@about("zot-late-delete")
def test_accepted_deletion_is_not_verified(wild, home, repo):
    scene = wild("zot-late-delete")
    content = b"soon gone"
    descriptor = ocikit.Descriptor.of(content, "application/octet-stream")
    with scene.session(home) as session:
        repository = session.repository(scene.ref(repo), push=True)
        repository.push(descriptor, io.BytesIO(content))
        repository.delete(descriptor)
        assert scene.proxy.requests[-1].method == "DELETE"
        assert [repository.exists(descriptor) for _ in range(2)] == [True, False]


@about("harbor-head-length")
def test_wrong_content_length_misleads_no_verb(wild, home, repo, behind):
    scene = wild("harbor-head-length", stripped=True)
    files = behind("seed/files").resolve("v1")
    with scene.session(home) as session:
        for _ in range(2):
            assert session.inspect(scene.ref("seed/files")).descriptor == files
            assert {name: session.pull(scene.ref("seed/files")).read(name) for name in FILES} == FILES
        assert sent(scene, "GET", MANIFEST) == 1, "what is cached is found by its digest"
        assert session.copy(scene.ref("seed/files"), "oci:store").descriptor == files
        assert session.inspect("oci:store:v1").descriptor.size == files.size
        assert session.copy(scene.ref("seed/files"), scene.ref(repo)).descriptor == files
        image = session.copy(
            scene.ref("seed/image"), f"oci-archive:{repo.replace('/', '-')}.tar", platform="linux/amd64"
        )
        assert image.descriptor.size == image.document.size
        session.tag(scene.ref(repo), "v2")
        attached = session.attach(scene.ref(repo), artifact_type="application/vnd.example.report")
    assert (attached.manifest.subject.digest, attached.manifest.subject.size) == (files.digest, files.size)
    assert behind(repo).resolve("v2") == files


@about("harbor-head-length")
@pytest.mark.parametrize("stripped", [True, False])
def test_offline_tag_resolves_despite_wrong_length(wild, home, monkeypatch, stripped):
    scene = wild("harbor-head-length", stripped=stripped)
    with scene.session(home) as session:
        session.pull(scene.ref("seed/files"))
        session.pin(scene.ref("seed/files"))
        monkeypatch.setenv("OCIKIT_OFFLINE", "1")
        assert set(session.pull(scene.ref("seed/files"))) == set(FILES)


@about("head-without-digest")
def test_head_without_digest_costs_one_get(wild, home, repo):
    scene = wild("head-without-digest")
    for verb in ("inspect", "pull", "copy"):
        scene.proxy.requests.clear()
        with scene.session(home) as session:
            to = (scene.ref(repo),) if verb == "copy" else ()
            getattr(session, verb)(scene.ref("seed/files"), *to)
        asked = [
            (r.method, r.path.rpartition("/")[2]) for r in scene.proxy.seen("GET|HEAD", "/v2/seed/files/manifests/.*")
        ]
        assert asked == [("HEAD", "v1"), ("GET", "v1")]


@about("head-without-digest")
def test_head_without_digest_is_resolved_by_hashing_get(wild, home, behind):
    scene = wild("head-without-digest")
    with scene.session(home) as session:
        found = session.pin(scene.ref("seed/files"))
    assert found.digest == behind("seed/files").resolve("v1").digest
    assert [r.method for r in scene.proxy.seen(".*", MANIFEST)] == ["HEAD", "GET"]


@about("proxy-gzip")
@pytest.mark.parametrize("only_says", [False, True], ids=["compressed", "only-called-so"])
@pytest.mark.parametrize("storage", [False, True], ids=["registry", "storage"])
def test_compressed_content_is_matched_by_digest(wild, home, only_says, storage):
    scene = wild("proxy-gzip", storage=storage, only_says=only_says)
    with scene.session(home) as session:
        pulled = session.pull(scene.ref("seed/files"))
        assert {name: pulled.read(name) for name in pulled} == FILES
        assert session.pull(scene.ref("seed/image"), platform="linux/amd64").config.architecture == "amd64"
    with scene.session(home) as session, session.open(scene.ref("seed/files"), BIG) as stream:
        stream.seek(1 << 20)
        assert stream.read() == FILES[BIG][1 << 20 :]
    assert {r.headers["Accept-Encoding"] for r in scene.proxy.requests} == {"identity"}


@about("cdn-signed-url-expires")
def test_download_resumes_from_registry_after_url_expires(wild, home):
    scene = wild("cdn-signed-url-expires", storage=True)
    digest = ocikit.Digest.of(FILES[BIG])
    scene.store.on("GET", ".*", when=lambda r: digest.encoded in r.target, cut=(1 << 20) + 5)
    with scene.session(home) as session:
        assert session.pull(scene.ref("seed/files")).read(BIG) == FILES[BIG]
    first, second = (r for r in scene.store.requests if digest.encoded in r.target)
    assert first.target != second.target
    assert second.headers["Range"].startswith("bytes=")
    assert sent(scene, "GET", f"/v2/.*/blobs/{digest}") == 2


@about("gc-registry-patch-204")
def test_chunk_with_204_is_accepted(wild, home, repo, behind):
    scene = wild("gc-registry-patch-204")
    with scene.session(home) as session:
        descriptor = chunked(session, scene, repo, 3 << 20)
    assert behind(repo).fetch(descriptor, limit=len(LARGE)) == LARGE


# Clients' own


@about("python-netrc")
def test_netrc_is_ignored(wild, home, monkeypatch):
    scene = wild("python-netrc", basic=True)
    netrc = home.parent / ".netrc"
    netrc.write_text(f"machine {HOST} login eve password stolen\ndefault login eve password stolen\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with scene.session(home) as session:
        session.pull(scene.ref("seed/files"))
    assert {r.headers.get("Authorization") for r in scene.proxy.requests} == {None, scene.authorization}
    scene.proxy.requests.clear()
    with scene.session(home, anonymous=True) as stranger, pytest.raises(errors.Unauthorized):
        stranger.pull(scene.ref("seed/files"))
    assert {r.headers.get("Authorization") for r in scene.proxy.requests} == {None}


@about("oras-py-push")
def test_basic_authentication_is_sent_during_whole_push(wild, home, repo, files):
    scene = wild("oras-py-push", basic=True)
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x", "large": LARGE}), workers=1, tags=["v2"])
    assert [r.headers.get("Authorization") for r in scene.proxy.requests[:1]] == [None]  # no client had requested it
    assert {r.headers.get("Authorization") for r in scene.proxy.requests[1:]} == {scene.authorization}


@about("oras-py-push")
def test_non_empty_token_field_is_used(wild, home):
    scene = wild("oras-py-push", bearer=True)

    def emptied(_, answer):
        answer.body = json.dumps(json.loads(answer.body) | {"token": ""}).encode()

    scene.auth.after.append(emptied)
    with scene.session(home) as session:
        assert session.pull(scene.ref("seed/files")).read("notes.txt") == FILES["notes.txt"]
    assert set(kinds(scene.proxy.requests)) == {"", "Bearer"}


@about("oras-py-push")
@pytest.mark.parametrize("absolute", [False, True])
def test_session_location_is_used_verbatim(wild, home, repo, behind, files, absolute):
    scene = wild("oras-py-push")
    given = []

    @scene.after("POST", UPLOAD)
    def somewhere(_, answer):
        if answer.status != 202:
            return  # a small blob needs no session
        given.append(f"{answer.headers['Location']}?_state=a%2Bb%3D%3D&x=%7Ey")
        answer.headers["Location"] = f"https://{HOST}{given[-1]}" if absolute else given[-1]

    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"large": LARGE}))
    assert {r.target.partition("&digest=")[0] for r in scene.proxy.seen("PUT", UPLOAD)} == set(given) != set()


@about("two-token-fetches")
def test_push_requests_one_pull_push_token(wild, home, repo, files):
    scene = wild("two-token-fetches", bearer=True)
    with scene.session(home) as session:
        session.push(scene.ref(repo), *files({"a": b"x", "large": LARGE}), tags=["v2"])
    assert [r.scopes for r in scene.tokens.requests] == [(f"repository:{repo}:pull,push",)]


# All of them


@pytest.mark.parametrize("name", QUIRKS)
def test_every_quirk_has_test_and_evidence(name):
    assert TESTS[name]
    assert QUIRKS[name].evidence
