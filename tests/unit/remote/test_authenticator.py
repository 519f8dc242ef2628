"""Tests of authentication: challenges, few token requests, and no credential forwarding."""

import base64
import contextlib
import io
import json
import logging
import threading
import time

import pytest
from ocikit import errors
from ocikit.remote.auth.keychain import Credentials, Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.registry import Registry
from ocikit.spec.challenge import Scope
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.digest import Digest
from ocikit.store.memory import MemoryStore
from ocikit.transfer.plan import copy
from ocikit.transfer.pool import run_parallel

from tests.support.fake_registry import FakeRegistry, Response, certificate, error_response
from tests.support.token_server import TokenServer

SECRET = "hunter2-correct-horse"
ADA = ("ada", SECRET)
BASIC = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()
ACTIONS = {"GET": {"pull"}, "HEAD": {"pull"}, "DELETE": {"delete"}}


@pytest.fixture
def tokens():
    """A token server: ada may do everything, anonymous clients may pull public/*."""
    with TokenServer(users={"ada": SECRET}, anonymous={"public/*": {"pull"}}) as running:
        yield running


def protect(server, tokens, *, challenge_scope=True, headers=None):
    """Make the registry require tokens as distribution does; each 401 has the needed scope."""

    def guard(request):
        scopes = []
        name = request.path.removeprefix("/v2/")
        for kind in ("/blobs/", "/manifests/", "/tags/", "/referrers/"):
            if kind in name:
                wanted = ACTIONS.get(request.method, {"pull", "push"})
                if kind == "/blobs/" and "/uploads/" in name:
                    wanted = {"pull", "push"}
                scopes = [Scope.repository(name.partition(kind)[0], *wanted)]
                if "from" in request.query:
                    scopes.append(Scope.repository(request.query["from"][0], "pull"))
                break
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        error = ""
        if token:
            try:
                access = tokens.claims(token)["access"]
            except Exception:
                error = ',error="invalid_token"'
            else:
                had = [Scope(resource_type=a["type"], name=a["name"], actions=a["actions"]) for a in access]
                if all(any(h.covers(s) for h in had) for s in scopes):
                    return None
                error = ',error="insufficient_scope"'
        asked = map(str, scopes) if challenge_scope else ()
        return Response(401, {"WWW-Authenticate": tokens.challenge(*asked) + error} | (headers or {}))

    server.guard = guard


def authorizations(server):
    return [r.headers.get("Authorization", "").partition(" ")[0] for r in server.requests]


# -- challenges


def test_bearer_challenge_is_answered_first(server, tokens, open_repository):
    server.manifest("a/b", {"x": 1}, "v1")
    protect(server, tokens)
    inner = server.guard

    def guard(request):
        answer = inner(request)
        if answer:
            answer.headers["WWW-Authenticate"] = ['Basic realm="r"', f"Negotiate, {answer.headers['WWW-Authenticate']}"]
        return answer

    server.guard = guard
    open_repository(server, credentials=ADA).get_manifest("v1")
    assert authorizations(server) == ["", "Bearer"]


def test_basic_is_sent_preemptively_after_first_challenge(server, open_repository):
    server.manifest("a/b", {"x": 1}, "v1")
    server.guard = lambda r: None if r.headers.get("Authorization") == BASIC else Response(401, {"WWW-Authenticate": 'basic realm="x"'})  # fmt: skip
    repository = open_repository(server, credentials=ADA)
    repository.get_manifest("v1"), repository.get_manifest("v1")
    assert [r.headers.get("Authorization") for r in server.requests] == [None, BASIC, BASIC]


@pytest.mark.parametrize("value", ["", "Negotiate", "Digest realm=x", "garbage \x7f,,", 'Basic realm="r"'])
def test_unanswerable_401_raises_with_hint(server, open_repository, value):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": value} if value else {}, times=None)
    with pytest.raises(errors.Unauthorized) as caught:
        open_repository(server).get_manifest("v1")
    assert "login" in caught.value.hint
    assert len(server.requests) == 1


def test_wrong_password_is_tried_once(server, open_repository):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": "Basic realm=r"}, times=None)
    with pytest.raises(errors.Unauthorized, match="credentials of 'ada' were rejected") as caught:
        open_repository(server, credentials=ADA).get_manifest("v1")
    assert SECRET not in str(caught.value)
    assert len(server.requests) == 2


def test_registry_token_is_sent_unchanged(server, open_repository):
    server.manifest("a/b", {"x": 1}, "v1")
    server.guard = lambda r: None if r.headers.get("Authorization") == "Bearer tok" else Response(401, {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1:1/t"'})  # fmt: skip
    open_repository(server, credentials=Credentials(registry_token="tok")).get_manifest("v1")
    assert [r.headers.get("Authorization") for r in server.requests] == [None, "Bearer tok"]


def test_ping_accepts_challenge_without_scope(server, tokens, connect):
    """Docker Hub's challenge for /v2/ has no scope."""
    protect(server, tokens)
    ping = Registry(connect(server)).ping()
    assert ping.reachable and ping.authenticated
    assert ping.version == "registry/2.0"
    (request,) = tokens.requests
    assert request.scopes == () and request.user is None


def test_challenge_without_scope_uses_request_scopes(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens, challenge_scope=False)
    open_repository(server, "public/a").get_manifest("v1")
    assert [r.scopes for r in tokens.requests] == [("repository:public/a:pull",)]


def test_token_request_query_is_encoded(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    tokens.service = "registry & token/?=é"
    protect(server, tokens)
    open_repository(server, "public/a").get_manifest("v1")
    assert tokens.requests[0].service == "registry & token/?=é"
    assert " " not in tokens.requests[0].path and tokens.requests[0].path.isascii()


def test_realm_query_is_preserved(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    inner = server.guard

    def guard(request):
        answer = inner(request)
        if answer:
            answer.headers["WWW-Authenticate"] = answer.headers["WWW-Authenticate"].replace("/token", "/token?tenant=7")
        return answer

    server.guard = guard
    open_repository(server, "public/a").get_manifest("v1")
    assert tokens.requests[0].parameters["tenant"] == ("7",)
    assert tokens.requests[0].scopes == ("repository:public/a:pull",)


@pytest.mark.parametrize("field", ["only_access_token", "only_token"])
def test_token_server_may_send_token_or_access_token(server, tokens, open_repository, field):
    """ACR sends only access_token."""
    setattr(tokens, field, True)
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    open_repository(server, "public/a").get_manifest("v1")


# -- reuse of tokens


def test_one_token_is_used_for_all_requests_of_repository(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    repository = open_repository(server, "public/a")
    for _ in range(5):
        repository.get_manifest("v1")
    assert len(tokens.requests) == 1
    assert authorizations(server) == ["", *["Bearer"] * 5]


def test_expiring_token_is_renewed_before_use(server, tokens, connect):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    now = [time.time()]
    cache = TokenCache(clock=lambda: now[0])
    transport = Transport(server.host, keychain=Keychain({}, environ={}), tokens=cache, network=Network())
    try:
        repository = Registry(transport).repository("public/a")
        repository.get_manifest("v1")
        now[0] += 280  # of 300 seconds
        repository.get_manifest("v1")
        assert len(tokens.requests) == 1
        now[0] += 15
        repository.get_manifest("v1")
    finally:
        transport.close()
    assert len(tokens.requests) == 2
    assert authorizations(server) == ["", "Bearer", "Bearer", "Bearer"], "no 401 in between"


def test_token_expired_early_is_renewed_once_on_401(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    repository = open_repository(server, "public/a")
    tokens.lifetime = -100
    with pytest.raises(errors.Unauthorized):
        repository.get_manifest("v1")
    assert len(tokens.requests) == 1, "a rejected fresh token causes no new request"
    tokens.lifetime = None
    repository.get_manifest("v1")
    assert len(tokens.requests) == 2


def test_revoked_token_is_replaced(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    repository = open_repository(server, "public/a")
    repository.get_manifest("v1")
    revoked = server.requests[-1].headers["Authorization"]
    server.on("GET", ".*", when=lambda r: r.headers.get("Authorization") == revoked, times=None, status=401,
              headers={"WWW-Authenticate": tokens.challenge("repository:public/a:pull") + ',error="invalid_token"'})  # fmt: skip
    repository.get_manifest("v1")
    assert len(tokens.requests) == 2


def test_token_expired_during_push_is_renewed_and_body_resent(server, tokens, open_repository):
    """GitLab, docker_auth: moby#33558."""
    protect(server, tokens)
    content = bytes(range(256)) * 4096
    blob = Descriptor.of(content, "application/octet-stream")
    repository = open_repository(server, push=True, credentials=ADA)
    server.on("PUT", ".*", status=401, headers={"WWW-Authenticate": tokens.challenge("repository:a/b:pull,push")})
    repository.push_bytes(blob, content)
    assert server.blobs["a/b", blob.digest] == content
    assert len(server.seen("POST")) == 2, "one rejected request and one accepted"
    assert [len(r.body) for r in server.seen("PUT")] == [len(content)] * 2
    assert len(tokens.requests) == 2


@pytest.mark.parametrize("seekable", [True, False])
def test_token_expired_between_chunks_is_renewed(server, tokens, open_repository, seekable):
    protect(server, tokens)
    content = bytes(range(256)) * 4096
    blob = Descriptor.of(content, "application/octet-stream")
    expired = {"WWW-Authenticate": tokens.challenge("repository:a/b:pull,push") + ',error="invalid_token"'}
    server.on(
        "PATCH", ".*", status=401, headers=expired, when=lambda r: r.headers["Content-Range"].startswith("524288-")
    )
    stream = io.BytesIO(content)
    stream.seekable = lambda: seekable
    open_repository(server, push=True, credentials=ADA).push(blob, stream, chunk_size=1 << 19)
    assert server.blobs["a/b", blob.digest] == content
    assert [r.headers["Content-Range"] for r in server.seen("PATCH")] == ["0-524287"] + ["524288-1048575"] * 2
    assert len(tokens.requests) == 2 and server.uploads == {}


def test_body_is_resent_after_disconnect_on_expired_token(server, tokens, open_repository):
    """The registry responds before it has read the body, and its reset may arrive before the response."""
    protect(server, tokens)
    inner, expired = server.guard, []

    def guard(request):
        if request.headers.get("Authorization") in expired:
            challenge = tokens.challenge("repository:a/b:pull,push") + ',error="invalid_token"'
            return Response(401, {"WWW-Authenticate": challenge})
        return inner(request)

    def expire(request):
        return request.method == "PUT" and not expired and not expired.append(request.headers["Authorization"])

    server.guard = guard
    server.on("PUT", ".*", cut_request=1 << 16, reset=True, when=expire)
    content = bytes(range(256)) * 65536
    blob = Descriptor.of(content, "application/octet-stream")
    open_repository(server, push=True, credentials=ADA).push_bytes(blob, content)
    assert server.blobs["a/b", blob.digest] == content
    assert len(tokens.requests) == 2 and server.uploads == {}


def test_unrepeatable_body_error_does_not_blame_login(server, tokens, open_repository):
    protect(server, tokens)
    content = bytes(range(256)) * 4096
    expired = {"WWW-Authenticate": tokens.challenge("repository:a/b:pull,push") + ',error="invalid_token"'}
    server.on("PUT", ".*", status=401, headers=expired)
    stream = io.BytesIO(content)
    stream.seekable = lambda: False
    repository = open_repository(server, push=True, credentials=ADA)
    with pytest.raises(errors.Unauthorized) as caught:
        repository.push(Descriptor.of(content, "application/octet-stream"), stream)
    assert "only once" in caught.value.hint and "rejected" not in str(caught.value)
    assert server.uploads == {}


def test_insufficient_scope_requests_all_scopes_once(server, tokens, open_repository):
    server.manifest("a/b", {"x": 1}, "v1")
    protect(server, tokens)
    open_repository(server, credentials=ADA).get_manifest("v1")
    # The registry requires more scopes than the method implies.
    server.on("GET", ".*", when=lambda r: "Authorization" in r.headers, status=401, times=1, headers={
        "WWW-Authenticate": tokens.challenge("repository:a/b:pull", "repository:extra/c:pull") + ',error="insufficient_scope"'})  # fmt: skip
    open_repository(server, credentials=ADA).get_manifest("v1")
    assert tokens.requests[-1].scopes == ("repository:a/b:pull", "repository:extra/c:pull")
    assert len(tokens.requests) == 3


def test_repeated_insufficient_scope_does_not_loop(server, tokens, open_repository):
    server.on("GET", ".*", status=401, times=None, headers={
        "WWW-Authenticate": tokens.challenge("repository:never/enough:*") + ',error="insufficient_scope"'})  # fmt: skip
    with pytest.raises(errors.Unauthorized):
        open_repository(server, credentials=ADA).get_manifest("v1")
    assert len(server.requests) <= 3
    assert len(tokens.requests) <= 2


def test_growing_challenge_does_not_loop(server, tokens, open_repository):
    count = iter(range(100))
    server.on("GET", ".*", status=401, times=None, change=lambda r, a: Response(401, {
        "WWW-Authenticate": tokens.challenge(f"repository:more/n{next(count)}:pull") + ',error="insufficient_scope"'}))  # fmt: skip
    with pytest.raises(errors.Unauthorized):
        open_repository(server, credentials=ADA).get_manifest("v1")
    assert len(server.requests) <= 4


def test_many_threads_fetch_one_token(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    repository = open_repository(server, "public/a", connections=8)
    barrier, done = threading.Barrier(8), []

    def work():
        barrier.wait()
        done.append(repository.get_manifest("v1")[0])

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(done) == 8
    assert len(tokens.requests) == 1


def test_tokens_are_shared_per_session_but_not_across_scopes(server, tokens, connect):
    for name in ("public/a", "public/b"):
        server.manifest(name, {"x": 1}, "v1")
    protect(server, tokens)
    registry = Registry(connect(server))
    for name in ("public/a", "public/b", "public/a", "public/b"):
        registry.repository(name).get_manifest("v1")
    assert [r.scopes for r in tokens.requests] == [("repository:public/a:pull",), ("repository:public/b:pull",)]


def test_transient_token_server_failure_is_retried(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    protect(server, tokens)
    tokens.outage = 2
    open_repository(server, "public/a").get_manifest("v1")
    assert [r.status for r in tokens.requests] == [503, 503, 200]


def test_unreachable_token_server_is_named_in_error(server, tokens, open_repository):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": 'Bearer realm="http://localhost:9/token"'}, times=None)  # fmt: skip
    with pytest.raises(errors.ConnectionFailed, match="localhost:9") as caught:
        open_repository(server, retries=0).get_manifest("v1")
    assert "token" in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"<html>sign in</html>", b"{}", b'{"token": ""}', b'{"token": "a\\r\\nX: y"}', b"[]", b"x" * 2_000_000]
)
def test_invalid_token_response_raises(server, other, open_repository, body):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": f'Bearer realm="{other.url}/token"'}, times=None)
    other.on("GET", "/token", status=200, body=body)
    with pytest.raises(errors.RegistryError):
        open_repository(server).get_manifest("v1")
    assert len(server.requests) == 1


# -- identity tokens


def test_identity_token_is_exchanged_by_post(server, tokens, open_repository):
    server.manifest("a/b", {"x": 1}, "v1")
    tokens.refresh_tokens["refresh-1"] = "ada"
    protect(server, tokens)
    open_repository(server, credentials=Credentials(username="<token>", identity_token="refresh-1")).get_manifest("v1")
    (request,) = tokens.requests
    assert (request.method, request.grant, request.service) == ("POST", "refresh_token", tokens.service)
    assert request.parameters["refresh_token"] == ("refresh-1",)
    assert request.parameters["client_id"] == ("ocikit",)
    assert request.scopes == ("repository:a/b:pull",)
    assert "Authorization" not in request.headers
    assert "refresh-1" not in request.path


def test_server_without_oauth_gets_password_by_get(server, tokens, open_repository):
    server.manifest("a/b", {"x": 1}, "v1")
    tokens.post = False
    protect(server, tokens)
    both = Credentials(username="ada", password=SECRET, identity_token="refresh-1")
    open_repository(server, credentials=both).get_manifest("v1")
    assert [(r.method, r.status) for r in tokens.requests] == [("POST", 404), ("GET", 200)]
    assert tokens.requests[1].user == "ada"


def test_identity_token_is_never_sent_as_password(server, tokens, open_repository):
    server.manifest("public/a", {"x": 1}, "v1")
    tokens.post = False
    protect(server, tokens)
    open_repository(
        server, "public/a", credentials=Credentials(username="<token>", identity_token=SECRET)
    ).get_manifest("v1")
    assert [(r.method, r.user) for r in tokens.requests] == [("POST", None), ("GET", None)]


def test_rotated_refresh_token_is_reused(server, tokens, connect):
    for name in ("a/b", "a/c"):
        server.manifest(name, {"x": 1}, "v1")
    tokens.refresh_tokens["refresh-1"] = "ada"
    tokens.rotate = True
    protect(server, tokens)
    registry = Registry(connect(server, credentials=Credentials(identity_token="refresh-1")))
    for name in ("a/b", "a/c"):
        registry.repository(name).get_manifest("v1")
    sent = [r.parameters["refresh_token"][0] for r in tokens.requests]
    assert sent[0] == "refresh-1" and sent[1] != "refresh-1"
    assert [r.status for r in tokens.requests] == [200, 200]


def test_threads_use_rotating_refresh_token_one_at_a_time(server, tokens, connect):
    names = [f"a/n{n}" for n in range(6)]
    for name in names:
        server.manifest(name, {"x": 1}, "v1")
    tokens.refresh_tokens["refresh-1"] = "ada"
    tokens.rotate = True
    protect(server, tokens)
    registry = Registry(connect(server, credentials=Credentials(identity_token="refresh-1"), connections=8))
    failures = []

    def work(name):
        try:
            registry.repository(name).get_manifest("v1")
        except errors.OcikitError:
            failures.append(error_response)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert failures == []
    assert len({r.parameters["refresh_token"] for r in tokens.requests}) == 6


# -- pushes and mounts


def artifact(store, name="v1"):
    config = b"{}"
    layers = [b"one" * 1000, b"two" * 1000]
    described = [Descriptor.of(c, "application/vnd.oci.image.layer.v1.tar") for c in layers]
    blob = Descriptor.of(config, "application/vnd.oci.empty.v1+json")
    for d, c in zip([blob, *described], [config, *layers], strict=True):
        store.push_bytes(d, c)
    raw = json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "artifactType": "x/y",
        "config": {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size},
        "layers": [{"mediaType": d.media_type, "digest": d.digest, "size": d.size} for d in described],
    }).encode()  # fmt: skip
    manifest = Descriptor.of(raw, "application/vnd.oci.image.manifest.v1+json")
    store.push_bytes(manifest, raw, tag=name)
    return manifest


def test_push_needs_one_token_request_for_pull_and_push(server, tokens, open_repository):
    """oras#1802, #1599."""
    protect(server, tokens)
    store = MemoryStore()
    artifact(store)
    copy(store, "v1", open_repository(server, push=True, credentials=ADA, connections=8), tags=["v1"], workers=8)
    assert [r.scopes for r in tokens.requests] == [("repository:a/b:pull,push",)]
    assert ("a/b", "v1") in server.tags


def test_mount_requests_scope_of_source(server, tokens, open_repository):
    content = b"mounted"
    blob = Descriptor.of(content, "application/octet-stream")
    server.blob("src/a", content)
    protect(server, tokens)
    target = open_repository(server, push=True, credentials=ADA)
    assert target.mount_blob(blob.digest, "src/a") is None
    assert server.blobs["a/b", blob.digest] == content
    assert tokens.requests[-1].scopes == ("repository:a/b:pull,push", "repository:src/a:pull")


@pytest.mark.parametrize("status", [400, 401, 403])
def test_rejected_mount_scope_is_dropped_and_blob_uploaded(server, tokens, open_repository, connect, status):
    """Docker Hub fails the whole exchange: ggcr#1679. Harbor: harbor#17097."""
    content = [b"one", b"two"]
    blobs = [Descriptor.of(c, "application/octet-stream") for c in content]
    [server.blob("src/private", c) for c in content]
    tokens.refuse_scopes = {"repository:src/private:pull"}
    tokens.refuse_status = status
    protect(server, tokens)
    registry = Registry(connect(server, credentials=ADA))
    target, source = registry.repository("a/b", push=True), registry.repository("src/private")
    for blob, c in zip(blobs, content, strict=True):
        assert target.mount(blob, source) is False
        target.push_bytes(blob, c)
        assert server.blobs["a/b", blob.digest] == c
    refused = [r for r in tokens.requests if r.status == status]
    assert len(refused) == 1, "a rejected scope is not requested again for each blob"
    assert len(tokens.requests) == 2


def test_narrowed_token_is_not_cached_for_wide_scope(server, tokens, connect):
    content = b"content"
    blob = Descriptor.of(content, "application/octet-stream")
    server.blob("src/private", content)
    tokens.refuse_scopes = {"repository:src/private:pull"}
    protect(server, tokens)
    registry = Registry(connect(server, credentials=ADA))
    registry.repository("a/b", push=True).mount(blob, registry.repository("src/private"))
    tokens.refuse_scopes = set()
    assert registry.repository("src/private").open(blob).read() == content
    assert tokens.requests[-1].scopes == ("repository:src/private:pull",)


# -- stale credentials


@pytest.mark.parametrize("status", [401, 403])
def test_stale_credentials_fall_back_to_anonymous_read(server, other, tokens, open_repository, caplog, status):
    """GHCR responds with 403 to an expired token even for a public image: oras#1161."""
    server.manifest("public/a", {"x": 1}, "v1")
    token = tokens.sign(None, ["repository:public/a:pull"])
    other.on("GET", "/token", status=200, body=json.dumps({"token": token}).encode(), times=None)
    other.on("GET", "/token", when=lambda r: "Authorization" in r.headers, status=status, times=None)
    tokens_of_other = f'Bearer realm="{other.url}/token",service="s",scope="repository:public/a:pull"'
    server.guard = lambda r: None if r.headers.get("Authorization") == f"Bearer {token}" else Response(401, {"WWW-Authenticate": tokens_of_other})  # fmt: skip
    repository = open_repository(server, "public/a", credentials=("ada", "expired"))
    for _ in range(3):
        repository.get_manifest("v1")
    assert authorizations(other) == ["Basic", ""]
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"{server.host} rejected the stored credentials of 'ada'; reading anonymously"
    ]


def test_wrong_credentials_fail_ping_of_public_registry(server, tokens, connect):
    """A token server that issues anonymous tokens must not make a wrong password look right."""
    protect(server, tokens)
    assert Registry(connect(server, credentials=ADA)).ping()
    ping = Registry(connect(server, credentials=("ada", "wrong-password"))).ping()
    assert ping.reachable and not ping.authenticated and "ada" in ping.problem


def reject_tokens(server, tokens, status, *, public=True):
    """Make the token server accept ada's credentials and the registry reject her tokens, as GHCR does."""
    protect(server, tokens)
    inner = server.guard

    def guard(request):
        _, _, token = request.headers.get("Authorization", "").partition(" ")
        with contextlib.suppress(Exception):
            if tokens.claims(token)["sub"] == "ada" or not public:
                return error_response(status, "DENIED", **{"WWW-Authenticate": tokens.challenge()})
        return inner(request)

    server.guard = guard


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_rejected_by_registry_fall_back_to_anonymous(server, tokens, open_repository, caplog, status):
    """oras#1161"""
    content = b"content"
    blob = Descriptor(media_type="x/y", digest=Digest(server.blob("public/a", content)), size=len(content))
    server.manifest("public/a", {"x": 1}, "v1")
    reject_tokens(server, tokens, status)
    repository = open_repository(server, "public/a", credentials=ADA)
    repository.get_manifest("v1")
    before = len(server.requests), len(tokens.requests)
    assert repository.open(blob).read() == content and repository.tags() == ["v1"]
    assert (len(server.requests), len(tokens.requests)) == (before[0] + 2, before[1]), "one anonymous request each"
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"{server.host} rejected the stored credentials of 'ada'; reading anonymously"
    ]


def test_many_threads_fall_back_to_anonymous_with_one_warning(server, tokens, open_repository, caplog):
    server.manifest("public/a", {"x": 1}, "v1")
    reject_tokens(server, tokens, 403)
    repository = open_repository(server, "public/a", credentials=ADA)
    run_parallel(range(32), lambda *_: repository.get_manifest("v1"))
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_rejected_credentials_are_named_if_anonymous_fails(server, tokens, open_repository, status):
    server.manifest("public/a", {"x": 1}, "v1")
    reject_tokens(server, tokens, status, public=False)
    repository = open_repository(server, "public/a", credentials=ADA)
    for _ in range(3):
        with pytest.raises((errors.Denied, errors.Unauthorized), match="the credentials of 'ada' were") as caught:
            repository.get_manifest("v1")
        assert caught.value.status == status and SECRET not in str(caught.value)
    assert len([r for r in tokens.requests if r.user is None]) == 1, "one anonymous attempt"
    subjects = [
        tokens.claims(r.headers["Authorization"][7:])["sub"] for r in server.requests if "Authorization" in r.headers
    ]
    assert len([s for s in subjects if s != "ada"]) == 1


def test_private_repository_costs_one_extra_request(server, tokens, open_repository):
    """If the token server rejects anonymous clients, as GHCR's does, the registry gets no second request."""
    server.manifest("private/a", {"x": 1}, "v1")
    reject_tokens(server, tokens, 403)
    inner = server.guard

    def guard(request):
        tokens.refuse_scopes = {"repository:private/a:pull"} if "Authorization" in request.headers else set()
        return inner(request)

    server.guard = guard
    repository = open_repository(server, "private/a", credentials=ADA)
    for _ in range(2):
        with pytest.raises(errors.Denied, match="'ada'"):
            repository.get_manifest("v1")
    assert authorizations(server) == ["", "Bearer", "Bearer"]
    assert [r.user for r in tokens.requests] == ["ada", None]


def test_wrong_password_reads_public_but_not_private_repository(server, open_repository, caplog):
    """With basic, credentials are sent with every request after the challenge of a private repository."""
    server.manifest("private/a", {"x": 1}, "v1"), server.manifest("public/a", {"x": 1}, "v1")
    wanted = {"WWW-Authenticate": "Basic realm=r"}
    server.guard = lambda r: Response(401, wanted) if "Authorization" in r.headers or "private" in r.path else None
    private = open_repository(server, "private/a", credentials=ADA)
    with pytest.raises(errors.Unauthorized, match="'ada' were rejected"):
        private.get_manifest("v1")
    public = Registry(private.transport).repository("public/a")
    for _ in range(2):
        public.get_manifest("v1")
    assert [r.headers.get("Authorization") for r in server.requests] == [None, BASIC, BASIC, None, None]
    assert len([r for r in caplog.records if "reading anonymously" in r.getMessage()]) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_write_is_never_tried_anonymously(server, tokens, open_repository, status):
    tokens.anonymous = {"*": {"pull", "push"}}
    reject_tokens(server, tokens, status)
    with pytest.raises((errors.Denied, errors.Unauthorized), match="the credentials of 'ada' were"):
        open_repository(server, "public/a", push=True, credentials=ADA).push_bytes(Descriptor.of(b"x", "x/y"), b"x")
    assert [r.user for r in tokens.requests if r.user is None] == []
    assert server.uploads == {}


def test_missing_tag_keeps_credentials(server, tokens, open_repository):
    """A 404 for an anonymous client proves nothing: the rejection stays, and the next read may try again."""
    server.manifest("public/a", {"x": 1}, "v1")
    reject_tokens(server, tokens, 403)
    repository = open_repository(server, "public/a", credentials=ADA)
    with pytest.raises(errors.Denied):
        repository.get_manifest("v2")
    repository.get_manifest("v1")


def test_rejected_credentials_are_named_if_anonymous_is_denied(server, tokens, open_repository):
    server.manifest("private/a", {"x": 1}, "v1")
    protect(server, tokens)
    tokens.refuse_status = 401
    with pytest.raises(errors.Unauthorized) as caught:
        open_repository(server, "private/a", credentials=("ada", "expired-password")).get_manifest("v1")
    assert "ada" in str(caught.value) and "expired-password" not in str(caught.value)


def test_push_with_wrong_credentials_reports_rejection(server, tokens, open_repository):
    protect(server, tokens)
    content = b"content"
    with pytest.raises(errors.Unauthorized, match="rejected the credentials of 'ada'") as caught:
        open_repository(server, push=True, credentials=("ada", "wrong-password")).push_bytes(Descriptor.of(content, "x/y"), content)  # fmt: skip
    assert "ocikit.login" in caught.value.hint
    assert "wrong-password" not in str(caught.value)
    assert len(tokens.requests) == 1


# -- credential forwarding


@pytest.mark.parametrize(
    "realm",
    ["http://169.254.169.254/token", "ftp://auth.example/token", "", "not a url", "http://user:pw@localhost/token",
     "http://metadata.google.internal/token", "http://localhost:9\\@evil.example/token"],
)  # fmt: skip
def test_foreign_realm_gets_no_credentials(server, open_repository, realm):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": f'Bearer realm="{realm}",service="s"'}, times=None)
    with pytest.raises(errors.InvalidResponse):
        open_repository(server, credentials=ADA).get_manifest("v1")
    assert len(server.requests) == 1


def test_http_realm_of_https_registry_gets_no_credentials(tmp_path, tokens, open_repository):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        protect(server, tokens)
        with pytest.raises(errors.InvalidResponse, match="not https"):
            open_repository(server, credentials=ADA, ca=str(cert)).get_manifest("v1")
    assert tokens.requests == []


def test_token_server_redirect_drops_password(server, tokens, other, open_repository):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": f'Bearer realm="{other.url}/token",service="s"'}, times=1)  # fmt: skip
    server.manifest("a/b", {"x": 1}, "v1")
    with FakeRegistry() as stranger:
        other.on("GET", "/token", status=307, headers={"Location": f"{stranger.url}/grab"})
        stranger.on("GET", "/grab", status=200, body=b'{"token": "t"}')
        open_repository(server, credentials=ADA).get_manifest("v1")
        assert other.requests[0].headers["Authorization"] == BASIC
        assert "Authorization" not in stranger.requests[0].headers


def test_redirect_drops_refresh_token(server, other, open_repository):
    server.on("GET", ".*", status=401, headers={"WWW-Authenticate": f'Bearer realm="{other.url}/token",service="s"'}, times=None)  # fmt: skip
    with FakeRegistry() as stranger:
        other.on("POST", "/token", status=307, headers={"Location": f"{stranger.url}/grab"})
        with pytest.raises(errors.InvalidResponse):
            open_repository(server, credentials=Credentials(identity_token=SECRET)).get_manifest("v1")
        assert stranger.requests == []


@pytest.mark.parametrize("what", ["redirect", "location", "link"])
def test_token_is_not_sent_to_another_host(server, other, tokens, open_repository, what):
    """GHSA-jxpm-75mh-9fp7, GHSA-vh4v-2xq2-g5cg."""
    content = b"content"
    blob = Descriptor.of(content, "application/octet-stream")
    protect(server, tokens)
    repository = open_repository(server, push=True, credentials=ADA)

    def authorized(request):
        return "Authorization" in request.headers

    if what == "redirect":
        server.on("GET", ".*/blobs/.*", when=authorized, status=307, headers={"Location": f"{other.url}/v2/a/b/blobs/{blob.digest}"})  # fmt: skip
        other.blob("a/b", content)
        assert repository.open(blob).read() == content
    elif what == "location":
        server.on("POST", ".*", when=authorized, status=202, headers={"Location": f"{other.url}/elsewhere?sig=1"})
        other.on("PUT", "/elsewhere", status=201)
        repository.push_bytes(blob, content)
        assert other.requests[0].body == content
    else:
        server.manifest("a/b", {"x": 1}, "v1")
        server.on("GET", ".*/tags/list", when=authorized, headers={"Link": f'<{other.url}/v2/a/b/tags/list>; rel="next"'})  # fmt: skip
        with pytest.raises(errors.InvalidResponse):
            repository.tags()
    assert [r for r in other.requests if "Authorization" in r.headers] == []
    assert "Bearer" in authorizations(server)


def test_challenge_of_another_host_is_not_answered(server, other, tokens, open_repository):
    """An upload is redirected to another host, which requires a token."""
    content = b"content"
    blob = Descriptor.of(content, "application/octet-stream")
    server.on("POST", ".*", status=202, headers={"Location": f"{other.url}/elsewhere"}, times=None)
    other.on(".*", ".*", status=401, headers={"WWW-Authenticate": tokens.challenge("repository:a/b:push")}, times=None)
    with pytest.raises(errors.Unauthorized):
        open_repository(server, push=True, credentials=ADA).push_bytes(blob, content)
    assert tokens.requests == []
    assert [r for r in other.requests if "Authorization" in r.headers] == []


def test_credentials_are_not_sent_to_another_registry(server, other, open_repository):
    for host in (server, other):
        host.manifest("a/b", {"x": 1}, "v1")
        host.guard = lambda r: None if r.headers.get("Authorization") == BASIC else Response(401, {"WWW-Authenticate": "Basic realm=r"})  # fmt: skip
    keys = Keychain({server.host: ADA}, environ={})
    open_repository(server, credentials=keys).get_manifest("v1")
    with pytest.raises(errors.Unauthorized):
        open_repository(other, credentials=keys).get_manifest("v1")
    assert authorizations(other) == [""]


def test_helpers_are_run_rarely(server, open_repository):
    asked = []

    def look(host, name):
        asked.append((host, name))
        return ADA

    server.manifest("a/b", {"x": 1}, "v1")
    server.guard = lambda r: None if r.headers.get("Authorization") == BASIC else Response(401, {"WWW-Authenticate": "Basic realm=r"})  # fmt: skip
    repository = open_repository(server, credentials=Keychain(look, environ={}))
    for _ in range(20):
        repository.get_manifest("v1")
    assert asked == [(server.host, "a/b")]


def test_repr_shows_no_token_digests(server, tokens, open_repository, caplog):
    caplog.set_level(logging.DEBUG, "ocikit")
    server.manifest("a/b", {"x": 1}, "v1")
    protect(server, tokens)
    repository = open_repository(server, credentials=ADA)
    repository.get_manifest("v1")
    token = server.requests[-1].headers["Authorization"].partition(" ")[2]
    seen = caplog.text + repr(repository) + repr(repository.transport._auth) + repr(repository.transport._auth._tokens)
    assert token not in seen and SECRET not in seen
    assert Digest.of(token.encode()).encoded not in seen
