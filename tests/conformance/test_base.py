"""Responses of an empty registry, and responses for missing content."""

import contextlib
import secrets

import pytest

from tests.conformance import upload_flows as moves
from tests.conformance.content import IMAGE_MANIFEST, INDEX, digest_of
from tests.conformance.documents import make_image
from tests.conformance.wire import ACCEPT, Wire


def test_base_endpoint_responds(server):
    answer = server.wire.get("/v2/").must(200)
    # Old clients require the header: distribution 2 distinguished its API versions by it
    assert answer.header("Docker-Distribution-Api-Version") == "registry/2.0"


@pytest.mark.parametrize("path", ["/v2/", "/v2/laboratory/nobody/tags/list"])
def test_anonymous_request_gets_challenge(server, path):
    if server.wire.user is None:
        server.wire.anonymous("GET", "/v2/").must(200)
        return
    answer = server.wire.anonymous("GET", path).must(401).must_explain()
    scheme = answer.header("WWW-Authenticate").partition(" ")[0].lower()
    assert scheme in ("basic", "bearer")
    # Clients of the specification's suite search for the last word anywhere
    assert answer.header("WWW-Authenticate").lower().count(scheme) == 1


def test_wrong_credentials_return_401(server):
    if server.wire.user is None:
        return
    stranger = Wire(server.wire.url, server.wire.user, "wrong")
    with contextlib.closing(stranger), pytest.raises(AssertionError, match="401"):  # here, or by the token endpoint
        stranger.get("/v2/").must(200)


def test_unknown_repository_has_no_tags(server, repo):
    answer = server.wire.get(f"/v2/{repo}/tags/list").must(200, 404)
    if answer.status == 200:
        assert answer.json == {"name": repo, "tags": []}
    else:
        answer.must_explain()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("query", [{}, {"artifactType": "application/vnd.example"}])
def test_unknown_repository_has_empty_referrers_list(server, repo, algorithm, query):
    subject = digest_of(secrets.token_bytes(8), algorithm)
    answer = server.wire.get(f"/v2/{repo}/referrers/{subject}", query=query).must(200)
    assert answer.header("Content-Type") == INDEX
    assert answer.json == {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_unknown_blob_returns_404(server, repo, algorithm):
    moves.has_no_blob(server, repo, digest_of(secrets.token_bytes(8), algorithm))


@pytest.mark.parametrize("pushed_to", [False, True])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_unknown_manifest_returns_404(server, repo, algorithm, pushed_to):
    if pushed_to:
        moves.push(server, repo, make_image())
    moves.has_no_manifest(server, repo, digest_of(secrets.token_bytes(8), algorithm))
    moves.has_no_manifest(server, repo, f"missing-{secrets.token_hex(8)}")


def test_invalid_digest_names_no_manifest(server, repo):
    document = make_image().documents[0]
    refused = server.wire.put(
        f"/v2/{repo}/manifests/sha256:baddigeststring", headers={"Content-Type": IMAGE_MANIFEST}, body=document.body
    )
    refused.must(400).must_explain()
    server.wire.get(f"/v2/{repo}/manifests/sha256:baddigeststring", headers=ACCEPT).must(400, 404).must_explain()
