"""Registries for people's tests: they behave as their profile, fail on demand, and leave no login behind."""

import json
import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

import ocikit
import ocikit.testing
import pytest
from ocikit import errors
from ocikit.testing import BLOB, MANIFEST, PROFILES, QUIRKS, TAGS, TOKEN, UPLOAD
from ocikit.testing.quirks import ODD

BIG = os.urandom(3 << 20)

#: Profiles that ordinary clients work with.
PRODUCTS = [
    "plain",
    "basic",
    "token",
    "ecr",
    "ghcr",
    "gar",
    "acr",
    "harbor",
    "quay",
    "gitlab",
    "artifactory",
    "nexus",
    "hub",
]


@pytest.fixture
def session(home):
    with ocikit.Session(cache=home / "cache", progress=False) as session:
        yield session


@pytest.fixture
def files(home):
    (home / "small.txt").write_text("small\n")
    (home / "big.bin").write_bytes(BIG)
    return [home / "small.txt", home / "big.bin"]


def auths(path):
    """Return the entries of a credential file."""
    return json.loads(Path(path).read_text())["auths"]


def pushed(session, registry, files, tag="v1"):
    return session.push(f"{registry}/project/data:{tag}", *files)


def pulled(home, registry, **options):
    """Pull with an empty cache."""
    with ocikit.Session(cache=home / "empty", progress=False, **options) as session:
        return session.pull(f"{registry}/project/data:v1").read("big.bin")


@pytest.mark.parametrize("name", PRODUCTS)
def test_verbs_work_with_each_product(name, home, files):
    with ocikit.testing.registry(name) as host:
        pushed = ocikit.push(f"{host}/project/data:v1", *files)
        assert ocikit.pull(f"{host}/project/data:v1", home / "out").digest == pushed.digest
        assert (home / "out/big.bin").read_bytes() == BIG
        assert "v1" in ocikit.tags(f"{host}/project/data")
        assert host.leaks() == []
        assert (host.credentials is None) == (host.profile.account is None)


def test_text_of_registry_is_its_host():
    with ocikit.testing.registry("ecr") as registry:
        assert str(registry) == registry.host == f"{registry}"
        assert registry.url == f"http://{registry.host}"
        assert repr(registry) == f"<Registry ecr at {registry.host}>"
        assert registry.password not in repr(registry)
        assert (
            (registry.username, registry.password) == registry.credentials == ("AWS", PROFILES["ecr"].account.password)
        )


def test_registry_that_does_not_run_names_the_with_statement():
    registry = ocikit.testing.registry("ecr")
    assert repr(registry) == "<Registry ecr, not started>"
    with pytest.raises(errors.InvalidArgument) as caught:
        str(registry)
    assert caught.value.hint == 'with ocikit.testing.registry("ecr") as host: …'


def test_registries_have_own_content_and_can_start_again(home, session, files):
    registry = ocikit.testing.registry()
    with registry, ocikit.testing.registry() as other:
        pushed(session, registry, files)
        with pytest.raises(errors.NameUnknown):
            session.inspect(f"{other}/project/data:v1")
    with registry, pytest.raises(errors.NameUnknown):
        session.inspect(f"{registry}/project/data:v1")


def test_closed_registry_leaves_no_thread_and_no_connection(session, files):
    before = set(threading.enumerate())
    with ocikit.testing.registry("ghcr") as registry:
        pushed(session, registry, files)
        host = registry.host
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=30)
        assert not thread.is_alive()
    with pytest.raises(errors.ConnectionFailed):
        session.inspect(f"{host}/project/data:v1")


@pytest.mark.parametrize(
    ("name", "said"), [("ecs", 'did you mean "ecr"'), ("", "choose from plain"), ("nonsense", "choose from plain")]
)
def test_unknown_profile_names_the_known_ones(name, said):
    with pytest.raises(errors.InvalidArgument) as caught:
        ocikit.testing.registry(name)
    assert said in caught.value.hint


def test_missing_extra_names_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "sqlalchemy" else object())
    with pytest.raises(errors.OcikitError, match="needs sqlalchemy") as caught:
        ocikit.testing.registry()
    assert caught.value.hint == "pip install 'ocikit[server]'"


# Credentials


@pytest.mark.parametrize("name", [name for name in PRODUCTS if PROFILES[name].account])
def test_client_without_login_is_rejected(name, home, files):
    before = dict(os.environ)
    with ocikit.testing.registry(name, login=False) as registry, ocikit.Session(progress=False) as session:
        assert dict(os.environ) == before
        with pytest.raises(errors.Unauthorized):
            pushed(session, registry, files)


@pytest.mark.parametrize("name", [name for name in PRODUCTS if PROFILES[name].account])
def test_registry_without_auth_accepts_every_client(name, home, files):
    with ocikit.testing.registry(name, auth=False) as registry, ocikit.Session(progress=False) as session:
        assert registry.credentials is None
        assert auths(registry.environment["REGISTRY_AUTH_FILE"]) == {}
        pushed(session, registry, files)
        assert session.pull(f"{registry}/project/data:v1").read("big.bin") == BIG


def test_environment_names_the_login_while_the_registry_runs(monkeypatch, home):
    monkeypatch.setenv("DOCKER_CONFIG", "mine")
    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    with ocikit.testing.registry("ecr") as first:
        with ocikit.testing.registry("hub") as second:
            path = os.environ["REGISTRY_AUTH_FILE"]
            assert os.environ["DOCKER_CONFIG"] == os.path.dirname(path)
            assert set(auths(path)) == {first.host, second.host}
            assert os.stat(path).st_mode & 0o777 == 0o600
        assert set(auths(path)) == {first.host}
    assert os.environ["DOCKER_CONFIG"] == "mine"
    assert "REGISTRY_AUTH_FILE" not in os.environ
    assert not os.path.exists(path)


def test_credentials_of_registry_work_in_a_session(home, files):
    with (
        ocikit.testing.registry("acr", login=False) as registry,
        ocikit.Session(credentials={registry.host: registry.credentials}, progress=False) as session,
    ):
        pushed(session, registry, files)
        assert {request.grant for request in registry.token_requests} == {"refresh_token"}


def test_public_repositories_need_no_login(home, files):
    with ocikit.testing.registry("ghcr", public=["open/*"]) as registry:
        ocikit.push(f"{registry}/open/data:v1", *files)
        ocikit.push(f"{registry}/closed/data:v1", *files)
        with ocikit.Session(cache=home / "c", credentials={registry.host: None}, progress=False) as session:
            assert session.pull(f"{registry}/open/data:v1").read("big.bin") == BIG
            with pytest.raises(errors.Unauthorized):
                session.pull(f"{registry}/closed/data:v1")


def test_expired_token_is_replaced_by_the_client(session, files):
    with ocikit.testing.registry("token") as registry:
        pushed(session, registry, files)
        tokens = len(registry.token_requests)
        registry.expire_tokens()
        pushed(session, registry, files[:1], "v2")
        assert len(registry.token_requests) > tokens


def test_tokens_of_registry_without_tokens_cannot_expire():
    with ocikit.testing.registry("ecr") as registry, pytest.raises(errors.InvalidArgument, match="has no tokens"):
        registry.expire_tokens()


@pytest.mark.parametrize("name", ["basic", "token", "acr"])
def test_changed_password_ends_the_login(name, session, files):
    with ocikit.testing.registry(name) as registry:
        pushed(session, registry, files)
        registry.change_password("another")
        with pytest.raises(errors.Unauthorized):
            pushed(session, registry, files[:1], "v2")
        with ocikit.Session(credentials={registry.host: registry.credentials}, progress=False) as again:
            pushed(again, registry, files[:1], "v2")


# Faults


@pytest.mark.parametrize("name", ["plain", "ghcr"])
def test_failed_requests_are_sent_again(name, session, home, files):
    with ocikit.testing.registry(name) as registry:
        failed = registry.fail("PUT", MANIFEST, status=503, retry_after=0, times=2)
        pushed(session, registry, files)
        assert failed.fired == 2
        assert len(registry.seen("PUT", MANIFEST)) == 3
        blob = registry.fail("GET", BLOB, status=500)
        assert pulled(home, registry) == BIG
        assert blob.fired == 1


def test_failure_has_status_code_message_and_headers(session):
    with ocikit.testing.registry() as registry:
        registry.fail(
            "GET|HEAD", ".*", status=418, code="TEAPOT", message="no coffee", headers={"X-A": "b"}, times=None
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(f"{registry.url}/v2/")
        with caught.value as response:
            assert (response.status, response.headers["X-A"]) == (418, "b")
            assert json.load(response)["errors"][0] == {"code": "TEAPOT", "message": "no coffee", "detail": None}


@pytest.mark.parametrize("name", ["plain", "ecr", "hub"])
def test_cut_download_is_resumed(name, session, home, files):
    with ocikit.testing.registry(name) as registry:
        pushed(session, registry, files)
        cut = registry.cut("GET", BLOB, after=1 << 20, reset=True)
        assert pulled(home, registry) == BIG
        assert cut.fired == 1
        assert bool(registry.storage_requests) == bool(registry.profile.storage)


def test_cut_upload_is_resumed(session, home, files):
    with ocikit.testing.registry() as registry:
        cut = registry.cut_upload(after=1 << 20, reset=True)
        pushed(session, registry, files)
        assert cut.fired == 1
        assert pulled(home, registry) == BIG


@pytest.mark.parametrize("processed", [False, True])
def test_dropped_manifest_is_sent_again(processed, session, home, files):
    with ocikit.testing.registry() as registry:
        dropped = registry.drop("PUT", MANIFEST, processed=processed)
        pushed(session, registry, files)
        assert dropped.fired == 1
        assert pulled(home, registry) == BIG


@pytest.mark.parametrize("name", ["plain", "ghcr"])
def test_corrupt_blob_is_detected(name, session, home, files):
    with ocikit.testing.registry(name) as registry:
        pushed(session, registry, files)
        registry.corrupt(times=None)
        with pytest.raises(errors.DigestMismatch):
            pulled(home, registry)


def test_delay_beyond_the_limit_is_a_timeout(session, files):
    network = ocikit.Network(read_timeout=0.2, retries=0)
    with ocikit.testing.registry() as registry, ocikit.Session(network=network, progress=False) as impatient:
        pushed(session, registry, files)
        registry.delay(60, "GET|HEAD", MANIFEST, times=None)
        with pytest.raises(errors.TimedOut):
            impatient.inspect(f"{registry}/project/data:v1")


def test_throttle_limits_the_rate(session, home, files):
    with ocikit.testing.registry() as registry:
        pushed(session, registry, files)
        slow = registry.throttle(20 << 20, "GET", BLOB)
        assert pulled(home, registry) == BIG
        assert slow.fired


def test_token_server_fails_too(session, files):
    with ocikit.testing.registry("token") as registry:
        failed = registry.fail(".*", TOKEN, status=503, retry_after=0)
        pushed(session, registry, files)
        assert failed.fired == 1


def test_newest_fault_is_tried_first_and_clear_removes_all(session, files):
    with ocikit.testing.registry() as registry:
        old = registry.fail(times=None)
        new = registry.fail(status=404, code="NAME_UNKNOWN", times=None)
        with pytest.raises(errors.NameUnknown):
            session.inspect(f"{registry}/project/data:v1")
        assert new.fired
        assert not old.fired
        registry.clear()
        assert registry.requests == []
        pushed(session, registry, files)


def test_requests_are_recorded_with_bodies(session, files):
    with ocikit.testing.registry("token") as registry:
        artifact = pushed(session, registry, files)
        [put] = registry.seen("PUT", MANIFEST)
        assert put.path == "/v2/project/data/manifests/v1"
        assert put.body == artifact.document.raw
        assert {r.query["digest"][0] for r in registry.seen("PUT", UPLOAD)} >= {ocikit.Digest.of(BIG)}
        assert [r for r in registry.requests if r.path == TOKEN] == []
        assert {request.subject for request in registry.token_requests} == {"ada"}


# Profiles and quirks


def test_ecr_has_no_repository_below_new(session, files):
    with ocikit.testing.registry("ecr") as registry, pytest.raises(errors.NameUnknown):
        session.push(f"{registry}/new/data:v1", *files)


def test_quay_rejects_the_odd_type(session, files):
    with ocikit.testing.registry("quay") as registry, pytest.raises(errors.UploadInvalid):
        session.push(f"{registry}/project/data:v1", *files, artifact_type=ODD)


def test_further_quirks_are_added_or_configured(session, home, files):
    with ocikit.testing.registry(quirks=["head-without-digest"]) as registry:
        pushed(session, registry, files)
        session.inspect(f"{registry}/project/data:v1")
        assert registry.triggered["head-without-digest"]
    with ocikit.testing.registry("hub", quirks={"hub-rate-limit": {"limit": 0}}) as registry:
        pushed(session, registry, files)
        with pytest.raises(errors.RateLimited):
            pulled(home, registry)


@pytest.mark.parametrize(
    ("profile", "quirk", "said"),
    [
        ("plain", "nonsense", "no quirk"),
        ("plain", "acr-access-token", "needs tokens"),
        ("basic", "cdn-signed-url-expires", "needs storage"),
    ],
)
def test_impossible_quirk_is_rejected(profile, quirk, said):
    with pytest.raises(errors.InvalidArgument, match=said):
        ocikit.testing.registry(profile, quirks=[quirk])


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_description_has_quirks_evidence_and_limits(profile):
    text = " ".join(ocikit.testing.describe(profile.name).split())
    for name in profile.quirks:
        assert name in text
        assert QUIRKS[name].evidence.partition(",")[0] in text
    assert "Limits:" in text
    assert "without TLS" in text
    assert profile.account is None or profile.account.password not in text


def test_listings_of_products_have_pages(session, files):
    with ocikit.testing.registry("ghcr") as registry:
        session.push(f"{registry}/project/data:v1", files[0], tags=[f"v{n}" for n in range(2, 26)])
        assert len(session.tags(f"{registry}/project/data")) == 25
        assert len(registry.seen("GET", TAGS)) >= 3
