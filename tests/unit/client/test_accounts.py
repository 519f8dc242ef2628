"""Tests of every verb with correct, wrong and no credentials, and of the tokens that it requests."""

import base64
import pickle
import traceback

import pytest
from ocikit.client.session import Session
from ocikit.errors import CopyError, Denied, OcikitError, Unauthorized, Unsupported
from ocikit.progress.base import Progress
from ocikit.remote.auth.keychain import ANONYMOUS
from ocikit.spec import media_types as mt
from ocikit.spec.descriptor import Descriptor

WRONG = ("ada", "not-the-pass-word")
REPORT = "application/vnd.example.report"


@pytest.fixture
def connect(tmp_path):
    """Return a function that opens a session with credentials for every host, or without."""
    opened = []

    def connecting(credentials=ANONYMOUS):
        cache = tmp_path / f"cache-{len(opened)}"
        opened.append(Session(credentials=credentials, cache=cache, progress=False))
        return opened[-1]

    yield connecting
    for session in opened:
        session.close()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "numbers.csv"
    path.write_text("a,b\n1,2\n")
    return path


#: Verbs, called with a session, an existing reference, a host and a file.
VERBS = {
    "push": lambda session, ref, host, file: session.push(f"{ref.rpartition(':')[0]}:new", file),
    "pull": lambda session, ref, host, file: session.pull(ref),
    "inspect": lambda session, ref, host, file: session.inspect(ref),
    "pin": lambda session, ref, host, file: session.pin(ref),
    "tags": lambda session, ref, host, file: list(session.tags(ref)),
    "referrers": lambda session, ref, host, file: list(session.referrers(ref)),
    "attach": lambda session, ref, host, file: session.attach(ref, file, artifact_type=REPORT),
    "tag": lambda session, ref, host, file: session.tag(ref, "another"),
    "copy from": lambda session, ref, host, file: session.copy(ref, f"oci:{file.parent / 'layout'}"),
    "copy to": lambda session, ref, host, file: session.copy(
        f"oci:{file.parent / 'source'}:v1", f"{ref.rpartition(':')[0]}:copied"
    ),
    "delete": lambda session, ref, host, file: session.delete(session.pin(ref)),
    "catalog": lambda session, ref, host, file: list(session.catalog(host)),
}


class Outcomes(Progress):
    """The outcome of each blob and document."""

    def __init__(self):
        self.seen = {}

    def finish(self, descriptor, outcome):
        self.seen[descriptor.digest] = outcome


def reason(error: OcikitError) -> BaseException:
    """Return the cause of a failed copy, or the error itself."""
    return error.__cause__ if isinstance(error, CopyError | Unsupported) and error.__cause__ else error


def check_hides_secrets(error: BaseException, *secrets: str) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))
    shown += pickle.dumps(error).decode("latin-1")
    for secret in secrets:
        assert secret not in shown
        for encoding in ("utf-8", "latin-1"):
            for pair in (f"ada:{secret}", f":{secret}"):
                assert base64.b64encode(pair.encode(encoding)).decode().rstrip("=") not in shown


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_work_with_correct_password(htpasswd_registry, repo, connect, file, verb):
    registry = htpasswd_registry
    session = connect({registry.host: registry.auth})
    ref = registry.reference(repo, "v1")
    session.push(ref, file)
    session.copy(ref, f"oci:{file.parent / 'source'}")
    VERBS[verb](session, ref, registry.host, file)


@pytest.mark.parametrize("credentials", [WRONG, None], ids=["wrong", "none"])
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_fail_without_correct_password(htpasswd_registry, repo, connect, file, verb, credentials):
    registry = htpasswd_registry
    ref = registry.reference(repo, "v1")
    owner = connect({registry.host: registry.auth})
    owner.push(ref, file)
    owner.copy(ref, f"oci:{file.parent / 'source'}")
    session = connect({registry.host: credentials} if credentials else ANONYMOUS)
    with pytest.raises(OcikitError) as caught:
        VERBS[verb](session, ref, registry.host, file)
    error = reason(caught.value)
    assert isinstance(error, Unauthorized)
    assert error.status == 401
    assert registry.host in str(caught.value)
    assert "login" in caught.value.hint
    check_hides_secrets(caught.value, WRONG[1], registry.password)
    assert session.ping(registry.host).authenticated is False
    assert list(owner.tags(ref)) == ["v1"]


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_work_with_token(token_registry, repo, connect, file, verb):
    registry = token_registry
    session = connect({registry.host: registry.auth})
    ref = registry.reference(repo, "v1")
    session.push(ref, file)
    session.copy(ref, f"oci:{file.parent / 'source'}")
    VERBS[verb](session, ref, registry.host, file)


@pytest.mark.parametrize("credentials", [WRONG, ("bob", "builder"), None], ids=["wrong", "of a reader", "none"])
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_fail_without_token(token_registry, repo, connect, file, verb, credentials):
    registry = token_registry
    ref = registry.reference(repo, "v1")
    owner = connect({registry.host: registry.auth})
    owner.push(ref, file)
    owner.copy(ref, f"oci:{file.parent / 'source'}")
    session = connect({registry.host: credentials} if credentials else ANONYMOUS)
    if credentials == ("bob", "builder") and verb in {
        "pull",
        "inspect",
        "pin",
        "tags",
        "referrers",
        "copy from",
    }:
        VERBS[verb](session, ref, registry.host, file)
        return
    with pytest.raises(OcikitError) as caught:
        VERBS[verb](session, ref, registry.host, file)
    error = reason(caught.value)
    assert isinstance(error, Unauthorized | Denied)
    assert registry.host in str(caught.value)
    check_hides_secrets(caught.value, WRONG[1], registry.password)
    assert "eyJ" not in "".join(traceback.format_exception(caught.value))
    assert list(owner.tags(ref)) == ["v1"]


def scopes(requests) -> list[list[str]]:
    return [sorted(request.scopes) for request in requests]


def test_push_requests_one_token(token_registry, token_server, repo, connect, file):
    ref = token_registry.reference(repo, "v1")
    session = connect({token_registry.host: token_registry.auth})
    before = len(token_server.requests)
    session.push(ref, file, tags=["v2", "v3"])
    requests = token_server.requests[before:]
    assert scopes(requests) == [[f"repository:{repo}:pull,push"]]
    assert [request.user for request in requests] == ["ada"]
    # Later calls use the same token
    session.pull(ref)
    assert list(session.tags(ref)) == ["v1", "v2", "v3"]
    session.push(ref, file)
    assert len(token_server.requests) == before + 1


def test_pull_requests_one_token(token_registry, token_server, repo, connect, file, tmp_path):
    ref = token_registry.reference(repo, "v1")
    connect({token_registry.host: token_registry.auth}).push(ref, file)
    before = len(token_server.requests)
    connect({token_registry.host: token_registry.auth}).pull(ref, tmp_path / "back")
    assert scopes(token_server.requests[before:]) == [[f"repository:{repo}:pull"]]


def test_public_content_is_read_anonymously(token_registry, token_server, repo, connect, file):
    ref = token_registry.reference(f"public/{repo}", "v1")
    connect({token_registry.host: token_registry.auth}).push(ref, file)
    before = len(token_server.requests)
    assert connect().pull(ref).read("numbers.csv") == file.read_bytes()
    assert [request.user for request in token_server.requests[before:]] == [None]


def test_catalog_and_delete_request_own_scopes(token_registry, token_server, repo, connect, file):
    ref = token_registry.reference(repo, "v1")
    owner = connect({token_registry.host: token_registry.auth})
    pinned = owner.push(ref, file).reference
    before = len(token_server.requests)
    assert repo in owner.catalog(token_registry.host)
    assert scopes(token_server.requests[before:]) == [["registry:catalog:*"]]
    before = len(token_server.requests)
    connect({token_registry.host: token_registry.auth}).delete(pinned)
    assert token_server.requests[-1].granted == (f"repository:{repo}:delete,pull,push",)
    assert len(token_server.requests) <= before + 2


def test_mount_uses_one_token_for_both_repositories(token_registry, token_server, repo, connect, file):
    source, target = token_registry.reference(f"{repo}/from", "v1"), token_registry.reference(f"{repo}/to", "v1")
    connect({token_registry.host: token_registry.auth}).push(source, file)
    session = connect({token_registry.host: token_registry.auth})
    before = len(token_server.requests)
    outcomes = Outcomes()
    copied = session.copy(source, target, progress=outcomes)
    requests = token_server.requests[before:]
    expected = sorted([f"repository:{repo}/from:pull", f"repository:{repo}/to:pull,push"])
    assert expected in scopes(requests)
    # One to read, one to write, one for both repositories
    assert len(requests) <= 3
    blob = copied.manifest.layers[0]
    assert outcomes.seen[blob.digest] == outcomes.seen[copied.manifest.config.digest] == "mounted"
    assert session.repository(target).exists(blob)
    assert "already there" in copied.summary


def test_mount_denied_by_token_server_becomes_upload(token_registry, token_server, repo, connect, file):
    source, target = token_registry.reference(f"{repo}/from", "v1"), token_registry.reference(f"{repo}/to", "v1")
    connect({token_registry.host: token_registry.auth}).push(source, file)
    session = connect({token_registry.host: token_registry.auth})
    root = session.pin(source)
    session.pull(source)
    token_server.refuse_scopes.add(f"repository:{repo}/from:pull")
    try:
        repository = session.repository(target, push=True)
        blob = Descriptor.of(file.read_bytes(), mt.OCTET_STREAM)
        assert repository.mount(blob, session.repository(source)) is False
    finally:
        token_server.refuse_scopes.clear()
    assert session.copy(root, target).digest == root.digest


def test_mount_does_not_reveal_unreadable_repository(token_registry, repo, connect, file, token_server):
    # bob may pull everywhere, eve may pull and push only below eve/
    token_server.users["eve"] = "apple"
    token_server.rights["eve"] = {f"{repo}/eve": {"pull", "push"}}
    source = token_registry.reference(f"{repo}/from", "v1")
    blob = connect({token_registry.host: token_registry.auth}).push(source, file).manifest.layers[0]
    session = connect({token_registry.host: ("eve", "apple")})
    target = session.repository(token_registry.reference(f"{repo}/eve", "v1"), push=True)
    assert target.mount(blob, session.repository(source)) is False
    assert not target.exists(blob)
