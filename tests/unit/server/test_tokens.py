"""Bearer tokens of the server: challenges, scopes, forged and expired tokens, and the token endpoint."""

import base64
import hashlib
import hmac
import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlencode

import bcrypt
import jwt
import ocikit
import pytest
import requests
from ocikit.errors import Denied, InvalidArgument, NotFound, Unauthorized
from ocikit.server import Application, Rules, Settings, TokenAccess, memory_storage
from ocikit.server.auth.jwt import Signer, load_key
from ocikit.spec.challenge import parse_challenges
from ocikit.spec.digest import Digest

from tests.support.http import free_port
from tests.support.wsgi import call
from tests.unit.server.test_access import ADA, EVE, FAR, RULES, basic, entry, push

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    path.write_text(entry("ada", "lovelace") + entry("eve", "evil"))
    return path


@pytest.fixture
def key(tmp_path):
    return tmp_path / "token.key"


@pytest.fixture
def make(users, key):
    def make(*, settings=None, rules=RULES, key=key, **options):
        access = TokenAccess(users, key, Rules.parse(rules), **options)
        return Application(memory_storage(), access=access, settings=settings)

    return make


@pytest.fixture
def app(make):
    return make()


def get_token(app, *scopes, headers=(), **parameters):
    query = urlencode([*parameters.items(), *(("scope", scope) for scope in scopes)])
    return call(app, "GET", f"/token?{query}", headers)


def post_form(app, **fields):
    return call(app, "POST", "/token", FORM, urlencode(fields).encode())


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def token(app, *scopes, headers=ADA):
    response = get_token(app, *scopes, headers=headers)
    assert response.status == 200, response
    return response.json["token"]


def claims(text):
    return jwt.decode(text, options={"verify_signature": False})


def challenge(response):
    (parsed,) = parse_challenges([response.headers["www-authenticate"]])
    return parsed


def access_key(key):
    return hmac.new(load_key(key), b"ocikit access", hashlib.sha256).digest()


# -- challenges


def test_challenge_for_mount_contains_both_scopes(app):
    digest = Digest.of(b"x")
    response = call(app, "POST", f"http://localhost:5000/v2/ada/x/blobs/uploads/?mount={digest}&from=ada/y")
    assert response.status == 401
    assert response.headers["www-authenticate"] == (
        'Bearer realm="http://localhost:5000/token",service="ocikit",'
        'scope="repository:ada/x:pull,push repository:ada/y:pull"'
    )
    assert response.errors[0]["detail"] == {"type": "repository", "name": "ada/x", "action": "push"}


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/v2/", ()),
        ("GET", "/v2/_catalog", ("registry:catalog:*",)),
        ("GET", "/v2/a/tags/list", ("repository:a:pull",)),
        ("PUT", "/v2/a/manifests/v1", ("repository:a:pull,push",)),
        ("DELETE", "/v2/a/manifests/v1", ("repository:a:delete",)),
    ],
)
def test_challenge_contains_the_scope_of_the_request(app, method, path, scope):
    parsed = challenge(call(app, method, path))
    assert (parsed.scheme, parsed.service, parsed.scope, parsed.error) == ("bearer", "ocikit", scope, "")


def test_realm_is_the_url_that_the_client_uses(make):
    app = make(settings=Settings(trusted_proxies=("10.0.0.1",)))
    forwarded = {
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "hub.example",
        "X-Forwarded-Prefix": "/registry",
        "X-Forwarded-For": "192.0.2.7",
    }
    response = call(app, "GET", "/v2/", forwarded, REMOTE_ADDR="10.0.0.1")
    assert challenge(response).realm == "https://hub.example/registry/token"
    response = call(app, "GET", "https://[2001:db8::1]:5000/v2/", SCRIPT_NAME="/hub/oci")
    assert challenge(response).realm == "https://[2001:db8::1]:5000/hub/oci/token"
    # The same headers of another client are ignored
    response = call(app, "GET", "https://registry.example/v2/", forwarded, **FAR)
    assert challenge(response).realm == "https://registry.example/token"
    app = make(realm="https://tokens.example/token")
    assert challenge(call(app, "GET", "https://registry.example/v2/")).realm == "https://tokens.example/token"


@pytest.mark.parametrize(
    "host",
    [
        'evil"',
        'a",realm="https://evil.example',
        "a b",
        "a/b",
        "a\\",
        "user@host",
        "host:port",
        "[::1",
        "ä",
        "a\r\nX: y",
        "x" * 300,
        ",",
    ],
)
def test_invalid_host_is_not_in_challenge(app, host):
    for environ in ({}, {"wsgi.url_scheme": "https"}):
        response = call(app, "GET", "/v2/", HTTP_HOST=host, **environ)
        assert response.status == 400
        assert "www-authenticate" not in response.headers


def test_invalid_forwarded_host_or_prefix_is_not_in_challenge(make):
    app = make(settings=Settings(trusted_proxies=("127.0.0.1",)))
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    assert call(app, "GET", "/v2/", {**proxied, "X-Forwarded-Host": 'x",realm="https://evil.example'}).status == 400
    response = call(app, "GET", "/v2/", {**proxied, "X-Forwarded-Prefix": '/x",realm="https://evil.example'})
    assert challenge(response).realm == "https://localhost/token"


@pytest.mark.parametrize("name", ["a%0d%0aX:%20y", "a%22,x=%22", "A", "../a", "a%00"])
def test_invalid_repository_name_is_not_in_challenge(app, name):
    for url in (f"/v2/{name}/tags/list", f"/v2/a/blobs/uploads/?mount={Digest.of(b'x')}&from={name}"):
        response = call(app, "POST" if "uploads" in url else "GET", url)
        assert response.status in {400, 401, 404}
        # The challenge contains at most the target; an invalid name cannot be a source
        assert response.status != 401 or challenge(response).scope == ("repository:a:pull,push",)


@pytest.mark.parametrize("parameter", ["service", "realm"])
def test_service_with_header_injection_is_rejected(make, parameter):
    with pytest.raises(InvalidArgument, match=parameter):
        make(**{parameter: 'x",realm="https://evil.example'})


# -- tokens


def test_token_response_follows_the_specification(app):
    before = int(time.time())
    response = get_token(app, "repository:ada/x:pull,push", headers=ADA, service="ocikit")
    assert response.headers["cache-control"] == "no-store"
    document = response.json
    assert document["token"] == document["access_token"]
    assert document["expires_in"] == 300
    assert document["scope"] == "repository:ada/x:pull,push"
    assert document["issued_at"].endswith("Z")
    assert "refresh_token" not in document
    assert jwt.get_unverified_header(document["token"]) == {"alg": "HS256", "typ": "JWT"}
    payload = claims(document["token"])
    assert payload["access"] == [{"type": "repository", "name": "ada/x", "actions": ["pull", "push"]}]
    assert (payload["iss"], payload["sub"], payload["aud"]) == ("ocikit", "ada", "ocikit")
    assert payload["exp"] - payload["iat"] == 300
    assert before <= payload["iat"] == payload["nbf"] <= time.time()
    assert len(payload["jti"]) == 32 and claims(token(app))["jti"] != payload["jti"]


@pytest.mark.parametrize(
    ("asked", "granted"),
    [
        (["repository:ada/x:pull,push,delete"], "repository:ada/x:delete,pull,push"),
        (["repository:ada/x:*"], "repository:ada/x:delete,pull,push"),
        (["repository:library/base:*"], "repository:library/base:pull"),
        (["repository:library/base:push"], ""),
        (["repository:eve/x:pull"], ""),
        (["repository:eve/x:pull", "repository:ada/x:pull"], "repository:ada/x:pull"),
        (["repository:ada/x:pull repository:ada/y:push"], "repository:ada/x:pull repository:ada/y:push"),
        (["repository:ada/x:pull", "repository:ada/x:push"], "repository:ada/x:pull,push"),
        (["repository(plugin):ada/x:pull"], "repository:ada/x:pull"),
        (["registry:catalog:*"], "registry:catalog:*"),
        (["registry:catalog:delete", "registry:everything:*", "registry:catalog:*,x"], ""),
        (["repository:ada/x:catalog,admin,"], ""),
        (["repository:ada/**:pull", "repository:ada/../eve/x:pull", "repository:ada/X:pull", "repository::pull"], ""),
        (["nonsense", "::", ":::::", "repository", "*", ""], ""),
    ],
)
def test_token_grants_requested_scopes_that_rules_allow(app, asked, granted):
    response = get_token(app, *asked, headers=ADA)
    assert (response.status, response.json["scope"]) == (200, granted)


def test_token_allows_only_its_scopes(app):
    narrow = bearer(token(app, "repository:ada/x:pull"))
    assert call(app, "GET", "/v2/", narrow).status == 200
    assert call(app, "GET", "/v2/ada/x/tags/list", narrow).status == 404
    response = call(app, "POST", "/v2/ada/x/blobs/uploads/", narrow)
    assert response.status == 401
    parsed = challenge(response)
    assert (parsed.error, parsed.scope) == ("insufficient_scope", ("repository:ada/x:pull,push",))
    for path in ("/v2/ada/x2/tags/list", "/v2/ada/tags/list", "/v2/library/base/tags/list", "/v2/_catalog"):
        assert call(app, "GET", path, narrow).status in {401, 403}
    assert call(app, "DELETE", "/v2/ada/x/manifests/v1", narrow).status == 401


def test_action_denied_by_rules_returns_403(app):
    response = call(app, "POST", "/v2/eve/x/blobs/uploads/", bearer(token(app, "repository:eve/x:pull,push")))
    assert (response.status, response.code) == (403, "DENIED")
    assert "www-authenticate" not in response.headers


def test_catalog_token_lists_repositories_that_user_may_pull(app):
    both = bearer(token(app, "repository:ada/x:push", "repository:library/base:push"))
    assert call(app, "GET", "/v2/_catalog", both).status == 401
    push(app, "ada/x", b"x", bearer(token(app, "repository:ada/x:push")))
    push(app, "eve/x", b"x", bearer(token(app, "repository:eve/x:push", headers=EVE)))
    catalog = bearer(token(app, "registry:catalog:*"))
    assert call(app, "GET", "/v2/_catalog", catalog).json == {"repositories": ["ada/x"]}
    assert call(app, "GET", "/v2/ada/x/tags/list", catalog).status == 401


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("scopes", [(), ("repository:eve/secret:pull",)])
def test_mount_from_repository_outside_token_becomes_upload(app, there, scopes):
    digest = Digest.of(b"the secret")
    if there:
        push(app, "eve/secret", b"the secret", bearer(token(app, "repository:eve/secret:push", headers=EVE)))
    headers = bearer(token(app, "repository:ada/x:pull,push", *scopes))
    for query in (f"mount={digest}&from=eve/secret", f"mount={digest}"):
        assert call(app, "POST", f"/v2/ada/x/blobs/uploads/?{query}", headers).status == 202
    assert call(app, "GET", f"/v2/ada/x/blobs/{digest}", headers).status == 404


def test_mount_needs_scopes_of_both_repositories(app):
    digest = push(app, "ada/y", b"mine", bearer(token(app, "repository:ada/y:push")))
    url = f"/v2/ada/x/blobs/uploads/?mount={digest}&from=ada/y"
    both = challenge(call(app, "POST", url)).scope
    narrow = call(app, "POST", url, bearer(token(app, "repository:ada/x:pull,push")))
    assert (narrow.status, challenge(narrow).error, challenge(narrow).scope) == (401, "insufficient_scope", both)
    assert call(app, "POST", url, bearer(token(app, *both))).status == 201


def test_mount_without_source_uses_repositories_of_token_only(app):
    digest = push(app, "ada/y", b"mine", bearer(token(app, "repository:ada/y:push")))
    url = f"/v2/ada/x/blobs/uploads/?mount={digest}"
    for scopes in (("repository:ada/x:pull,push",), ("repository:ada/x:pull,push", "repository:ada/y:push")):
        headers = bearer(token(app, *scopes))
        assert call(app, "POST", url, headers).status == 202
        assert call(app, "HEAD", f"/v2/ada/x/blobs/{digest}", headers).status == 404
    both = bearer(token(app, "repository:ada/x:pull,push", "repository:ada/y:pull"))
    assert call(app, "POST", url, both).status == 201


def test_upload_is_bound_to_the_user_of_its_token(make):
    app = make(rules='[[rule]]\nusers = ["*"]\nactions = ["pull", "push"]')
    ada, eve = (bearer(token(app, "repository:shared:pull,push", headers=user)) for user in (ADA, EVE))
    upload = call(app, "POST", "/v2/shared/blobs/uploads/", ada).headers["location"]
    assert call(app, "PATCH", upload, ada, b"half").status == 202
    for method in ("GET", "PATCH", "DELETE"):
        assert call(app, method, upload, eve).status == 404
    assert call(app, "GET", upload, ada).headers["range"] == "0-3"


# -- invalid tokens


def assert_rejected(app, text):
    for path in ("/v2/", "/v2/ada/x/tags/list"):
        response = call(app, "GET", path, {"Authorization": text})
        assert (response.status, response.code) == (401, "UNAUTHORIZED"), text
        assert challenge(response).error == "invalid_token"
        assert response.headers["www-authenticate"].startswith('Bearer realm="http://localhost/token",service="ocikit"')


def b64(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        "Bearer",
        "Bearer ",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer ...",
        "Bearer " + "a" * 100_000,
        "Bearer é",
        "Token x",
        "Basic " + "YWRhOmxvdmVsYWNl",
        "Bearer a b",
        f"Bearer {'A' * 8}.{'A' * 8}.",
        "Bearer =",
        "Bearer W10.W10.W10",
        f"Bearer {b64(b'[' * 20_000)}.e30.x",
        f"Bearer {b64(['HS256'])}.e30.x",
        f"Bearer {b64({'alg': ['HS256']})}.e30.x",
        f"Bearer {b64({'alg': None})}.e30.x",
        f"Bearer {b64(chr(255).encode('latin-1'))}.e30.x",
    ],
)
def test_malformed_token_returns_invalid_token(app, text):
    assert_rejected(app, text)


def test_expired_or_early_token_is_rejected(make):
    now = [time.time()]
    app = make(clock=lambda: now[0])
    good = token(app, "repository:ada/x:pull")
    now[0] -= 300 + 11
    over = token(app, "repository:ada/x:pull")
    now[0] += 2 * 311
    early = token(app, "repository:ada/x:pull")
    assert call(app, "GET", "/v2/ada/x/tags/list", bearer(good)).status == 404
    assert_rejected(app, f"Bearer {over}")
    assert_rejected(app, f"Bearer {early}")


def test_small_clock_difference_is_accepted(make):
    app = make(clock=lambda: time.time() + 5)
    assert call(app, "GET", "/v2/", bearer(token(app))).status == 200


def test_unsigned_token_is_rejected(app):
    good = token(app, "repository:ada/x:pull")
    _, body, signature = good.split(".")
    for algorithm in ("none", "None", "NONE", "", "HS512", "RS256", "ES256"):
        header = b64({"alg": algorithm, "typ": "JWT"})
        for end in ("", signature):
            assert_rejected(app, f"Bearer {header}.{body}.{end}")


def test_token_with_other_algorithm_is_rejected(app, key):
    payload = claims(token(app, "repository:ada/x:pull"))
    assert call(app, "GET", "/v2/", bearer(jwt.encode(payload, access_key(key), algorithm="HS256"))).status == 200
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        for algorithm in ("HS384", "HS512"):
            assert_rejected(app, f"Bearer {jwt.encode(payload, access_key(key), algorithm=algorithm)}")


def test_token_that_names_its_own_key_is_rejected(app):
    payload = claims(token(app, "repository:ada/x:pull"))
    attacker_key = b"a key of the attacker's, which is long enough"
    for header in (
        {"jwk": {"kty": "oct", "k": b64(attacker_key)}},
        {"kid": "../../../dev/null"},
        {"jku": "https://evil.example"},
        {"crit": ["b64"]},
    ):
        assert_rejected(app, f"Bearer {jwt.encode(payload, attacker_key, algorithm='HS256', headers=header)}")


@pytest.mark.parametrize("secret", [b"", b"ocikit", b"\0" * 32])
def test_token_signed_with_guessable_key_is_rejected(app, secret):
    header, body, _ = token(app, "repository:ada/x:pull").split(".")
    signature = hmac.new(secret, f"{header}.{body}".encode(), hashlib.sha256).digest()
    assert_rejected(app, f"Bearer {header}.{body}.{b64(signature)}")


def test_modified_token_is_rejected(app):
    header, body, signature = token(app, "repository:ada/x:pull").split(".")
    payload = json.loads(base64.urlsafe_b64decode(body + "=="))
    access = [{"type": "repository", "name": "eve/x", "actions": ["pull"]}]
    for changed in (payload | {"access": access}, payload | {"sub": "eve"}, payload | {"exp": payload["exp"] + 9999}):
        assert_rejected(app, f"Bearer {header}.{b64(changed)}.{signature}")
    assert_rejected(app, f"Bearer {header}.{body}.{signature[:-2]}")
    assert_rejected(app, f"Bearer {header}.{body}.{signature[::-1]}")


@pytest.mark.parametrize(
    "change",
    [
        {"aud": "another"},
        {"aud": ["another"]},
        {"aud": None},
        {"iss": "another"},
        {"iss": None},
        {"exp": None},
        {"nbf": None},
        {"iat": None},
        {"jti": None},
        {"sub": None},
        {"access": None},
        {"access": ["x"]},
        {"access": 1},
        {"access": [{"type": "repository", "name": "ada/x"}]},
        {"stamp": None},
        {"stamp": ""},
        {"sub": "eve"},
        {"sub": "nobody"},
        {"access": [{"type": "other", "name": "ada/x", "actions": ["pull"]}]},
        {"exp": "soon"},
        {"exp": 1},
        {"nbf": 1 << 40},
    ],
)
def test_signed_token_with_wrong_or_missing_claim_is_rejected(app, key, change):
    payload = claims(token(app, "repository:ada/x:pull")) | change
    payload = {name: value for name, value in payload.items() if value is not None}
    assert_rejected(app, f"Bearer {jwt.encode(payload, access_key(key), algorithm='HS256')}")


def test_token_of_another_registry_is_rejected(make, tmp_path):
    one, other = make(), make(key=tmp_path / "other.key")
    assert_rejected(one, f"Bearer {token(other, 'repository:ada/x:pull')}")
    renamed = make(service="another")  # the same key, another service
    text = token(renamed, "repository:ada/x:pull")
    assert call(renamed, "GET", "/v2/", bearer(text)).status == 200
    assert_rejected(one, f"Bearer {text}")


def test_new_password_invalidates_tokens(make, users, app):
    text = token(app, "repository:ada/x:pull")
    assert call(app, "GET", "/v2/", bearer(text)).status == 200
    users.write_text(entry("ada", "countess") + entry("eve", "evil"))
    assert_rejected(app, f"Bearer {text}")
    text = token(app, "repository:ada/x:pull", headers=basic("ada", "countess"))
    users.write_text(entry("eve", "evil"))
    assert_rejected(app, f"Bearer {text}")


def test_removed_rule_invalidates_tokens(users, key, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    app = Application(memory_storage(), access=TokenAccess(users, key, path))
    headers = bearer(token(app, "repository:ada/x:pull"))
    assert call(app, "GET", "/v2/ada/x/tags/list", headers).status == 404
    path.write_text("")
    assert call(app, "GET", "/v2/ada/x/tags/list", headers).status == 403


# -- the key


def test_created_key_is_private_and_random(key, tmp_path):
    before = os.umask(0)
    try:
        created = load_key(key)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(bytes.fromhex(created.decode())) == 32
    assert load_key(key) == created != load_key(tmp_path / "other.key")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("token.key.")]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o604, 0o660])
def test_key_accessible_to_other_users_is_rejected(make, key, mode):
    load_key(key)
    key.chmod(mode)
    with pytest.raises(InvalidArgument, match=f"other users can access the signing key .*: mode {mode:04o}"):
        make()


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"x" * 31 + b"\n"])
def test_short_key_is_rejected(key, content):
    key.write_bytes(content)
    key.chmod(0o600)
    with pytest.raises(InvalidArgument, match=f"has {len(content.strip())} bytes"):
        load_key(key)


def test_key_is_not_in_repr_or_messages(make, key):
    app = make()
    secret = load_key(key).decode()
    assert secret not in repr(vars(app.access)) + repr(app.access._signer)


def test_concurrent_processes_get_the_same_key(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        keys = set(pool.map(load_key, [tmp_path / "folder" / "token.key"] * 16))
    assert len(keys) == 1


def test_token_of_one_process_is_valid_in_another(make):
    assert call(make(), "GET", "/v2/", bearer(token(make(), "repository:ada/x:pull"))).status == 200


def test_too_short_ttl_is_rejected(make):
    with pytest.raises(InvalidArgument, match="60"):
        make(ttl=59)


# -- the endpoint


def test_wrong_password_gets_no_token_and_costs_the_same(app, monkeypatch):
    checked, real = [], bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda p, h: (checked.append(h[:7]), real(p, h))[1])
    responses = [get_token(app, "repository:ada/x:pull", headers=basic(user, "wrong")) for user in ("ada", "nobody")]
    responses += [post_form(app, grant_type="password", username=user, password="wrong") for user in ("ada", "nobody")]
    for response in responses:
        assert (response.status, response.code) == (401, "UNAUTHORIZED")
        assert response.headers["www-authenticate"].startswith("Basic ")
    assert len(checked) == 4 and {cost[4:] for cost in checked} == {b"04$"}


@pytest.mark.parametrize("by", ["GET", "POST"])
def test_guessing_at_the_token_endpoint_is_throttled(app, by):
    def guess(password, user="ada"):
        if by == "GET":
            return get_token(app, headers=basic(user, password))
        return post_form(app, grant_type="password", username=user, password=password)

    assert [guess(f"guess {n}").status for n in range(10)] == [401] * 10
    response = guess("lovelace")
    assert (response.status, response.code) == (429, "TOOMANYREQUESTS")
    assert int(response.headers["retry-after"]) > 0
    assert guess("evil", "eve").status == 200


def test_plain_http_from_elsewhere_gets_no_token(app):
    form = urlencode({"grant_type": "password", "username": "ada", "password": "lovelace"}).encode()
    for response in (
        call(app, "GET", "/token", ADA, **FAR),
        call(app, "POST", "/token", FORM, form, **FAR),
        call(app, "GET", "/token", **FAR),
    ):
        assert (response.status, response.code) == (403, "DENIED")
        assert "www-authenticate" not in response.headers
    assert call(app, "POST", "https://registry.example/token", FORM, form, **FAR).status == 200


def test_anonymous_token_grants_anonymous_actions(make):
    app = make(allow_anonymous_pull=True)
    text = token(app, "repository:eve/x:pull,push", headers=())
    assert claims(text)["sub"] == ""
    assert claims(text)["access"] == [{"type": "repository", "name": "eve/x", "actions": ["pull"]}]
    assert call(app, "GET", "/v2/", bearer(text)).status == 200
    assert call(app, "GET", "/v2/eve/x/tags/list", bearer(text)).status == 404
    response = call(app, "POST", "/v2/eve/x/blobs/uploads/", bearer(text))
    assert (response.status, challenge(response).error) == (401, "insufficient_scope")  # log in
    # It works without a token too; only /v2/ returns a challenge
    assert call(app, "GET", "/v2/eve/x/tags/list").status == 404
    assert call(app, "GET", "/v2/").status == 401
    assert call(app, "GET", "/v2/", **FAR).status == 200
    # invalid credentials do not count as anonymous
    assert_rejected(app, "Bearer x")


def test_anonymous_token_requires_an_anonymous_rule(app):
    response = get_token(app, "repository:ada/x:pull")
    assert (response.status, response.code) == (401, "UNAUTHORIZED")


def test_request_for_another_service_is_rejected(app):
    assert get_token(app, headers=ADA, service="another").status == 400
    assert post_form(app, grant_type="password", username="ada", password="lovelace", service="another").status == 400


def test_form_with_password_returns_token(app):
    response = post_form(
        app,
        grant_type="password",
        username="ada",
        password="lovelace",
        service="ocikit",
        client_id="test",
        scope="repository:ada/x:pull repository:eve/x:pull",
    )
    assert response.status == 200 and response.headers["cache-control"] == "no-store"
    assert response.json["scope"] == "repository:ada/x:pull"
    assert "refresh_token" not in response.json
    assert call(app, "GET", "/v2/ada/x/tags/list", bearer(response.json["access_token"])).status == 404


def refresh_token(app, headers=ADA):
    return get_token(app, headers=headers, offline_token="true").json["refresh_token"]


def test_refresh_token_returns_tokens_of_its_user(app):
    for refresh in (
        refresh_token(app),
        post_form(app, grant_type="password", username="ada", password="lovelace", access_type="offline").json[
            "refresh_token"
        ],
    ):
        scope = "repository:ada/x:pull,push repository:eve/x:pull"
        response = post_form(
            app, grant_type="refresh_token", refresh_token=refresh, service="ocikit", client_id="x", scope=scope
        )
        assert response.status == 200 and response.headers["cache-control"] == "no-store"
        assert response.json["scope"] == "repository:ada/x:pull,push"
        assert response.json["refresh_token"] == refresh
        assert claims(response.json["token"])["sub"] == "ada"


def test_anonymous_request_gets_no_refresh_token(make):
    assert "refresh_token" not in get_token(make(allow_anonymous_pull=True), offline_token="true").json


def test_access_and_refresh_tokens_are_not_interchangeable(app):
    assert_rejected(app, f"Bearer {refresh_token(app)}")
    access = token(app, "repository:ada/x:pull")
    assert post_form(app, grant_type="refresh_token", refresh_token=access).status == 401


def test_refresh_token_expires_with_time_and_password(make, users):
    now = [time.time()]
    app = make(clock=lambda: now[0], refresh_ttl=1000)
    now[0] -= 2000
    assert post_form(app, grant_type="refresh_token", refresh_token=refresh_token(app)).status == 401
    now[0] += 2000
    refresh = refresh_token(app)
    assert post_form(app, grant_type="refresh_token", refresh_token=refresh).status == 200
    users.write_text(entry("ada", "countess"))
    response = post_form(app, grant_type="refresh_token", refresh_token=refresh)
    assert (response.status, response.code) == (401, "UNAUTHORIZED")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (FORM, b"", 400),
        (FORM, b"grant_type=authorization_code&code=x", 400),
        (FORM, b"grant_type=password&grant_type=refresh_token", 400),
        (FORM, b"grant_type=password&username=ada&username=eve&password=lovelace", 400),
        (FORM, b"grant_type=password&username=%ff&password=x", 400),
        (FORM, b"\xff\xfe", 400),
        (FORM, b"&".join(b"a%d=" % n for n in range(50)), 400),
        (FORM, b"grant_type=password", 401),
        (FORM, b"grant_type=refresh_token", 401),
        (FORM, b"grant_type=refresh_token&refresh_token=%00", 401),
        ({"Content-Type": "application/json"}, b'{"grant_type": "password"}', 400),
        ({}, b"grant_type=password&username=ada&password=lovelace", 400),
        (FORM, b"x=" + b"y" * 200_000, 413),
        (FORM, [b"x=", b"y" * 200_000], 413),
    ],
)
def test_invalid_form_returns_error(app, headers, body, status):
    response = call(app, "POST", "/token", headers, body)
    assert response.status == status and response.errors


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "HEAD"])
def test_other_methods_of_token_endpoint_return_405(app, method):
    response = call(app, method, "/token", ADA)
    assert (response.status, response.headers["allow"]) == (405, "GET, POST")


def test_similar_paths_are_not_the_token_endpoint(app):
    for path in ("/token/", "/tokens", "/v2/token", "//token"):
        assert call(app, "GET", path, ADA).status in {401, 404}


def test_signer_rejects_tokens_of_another_key():
    one, other = (Signer(bytes([n]) * 32, service="ocikit", issuer="ocikit") for n in (1, 2))
    assert one.stamp_key != other.stamp_key
    with pytest.raises(Exception, match="Signature"):
        other.verify_refresh_token(one.refresh_token("ada", "", ttl=60))


# -- client


PROGRAM = """
from ocikit.server import Application, TokenAccess, file_storage

def log_record(record):
    with open("log", "a") as log:
        print(record.status, record.user, record.method, record.path, dict(record.query), file=log)

access = TokenAccess("users", "store/token.key", "rules.toml")
application = Application(file_storage("store"), access=access, on_request=log_record)
"""

OPEN = '[[rule]]\nusers = [""]\nrepositories = ["open/**"]\nactions = ["pull"]\n'


@contextmanager
def run_server(folder):
    """Run the application in two processes and yield its host."""
    (folder / "served.py").write_text(PROGRAM)
    (folder / "rules.toml").write_text(
        RULES + OPEN + '[[rule]]\nusers = ["ada"]\nrepositories = ["open/**"]\nactions = ["push"]\n'
    )
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "granian",
        "--interface",
        "wsgi",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "2",
    ]
    with subprocess.Popen([*command, "served:application"], cwd=folder) as process:
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
                    break
                except requests.ConnectionError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def test_client_pushes_pulls_and_mounts_with_tokens(users, tmp_path):
    (tmp_path / "data.txt").write_text("a few words")
    with run_server(tmp_path) as host:

        def session(*credentials):
            return ocikit.Session(credentials=credentials or {}, insecure=[host], cache=tmp_path / "cache")

        with session("ada", "lovelace") as ada, session("eve", "evil") as eve, session() as anonymous:
            pushed = ada.push(f"{host}/ada/model:v1", tmp_path / "data.txt")
            (tmp_path / "out").mkdir()
            ada.pull(f"{host}/ada/model:v1", tmp_path / "out")
            assert (tmp_path / "out" / "data.txt").read_text() == "a few words"
            # Blobs are mounted between repositories where the user has access
            copied = ada.copy(f"{host}/ada/model:v1", f"{host}/open/model:v1")
            assert copied.digest == pushed.digest
            log = (tmp_path / "log").read_text()
            assert "201 ada POST /v2/open/model/blobs/uploads/ {'mount': " in log and "'from': 'ada/model'" in log
            assert "202 ada POST /v2/open/model" not in log
            assert list(ada.catalog(host)) == ["ada/model", "open/model"]
            assert list(eve.catalog(host)) == ["open/model"]
            assert list(anonymous.tags(f"{host}/open/model")) == ["v1"]
            with pytest.raises(Denied):
                eve.inspect(f"{host}/ada/model:v1")
            with pytest.raises(Denied):
                eve.push(f"{host}/ada/model:v2", tmp_path / "data.txt")
            with pytest.raises(Denied):
                ada.delete(f"{host}/open/model:v1")
            with pytest.raises(Unauthorized):
                anonymous.inspect(f"{host}/ada/model:v1")
            with pytest.raises(Unauthorized):
                anonymous.push(f"{host}/open/model:v2", tmp_path / "data.txt")
            with session("ada", "wrong") as wrong, pytest.raises(Unauthorized, match="rejected the credentials"):
                wrong.push(f"{host}/ada/model:v3", tmp_path / "data.txt")
            ada.delete(f"{host}/ada/model:v1")
            with pytest.raises(NotFound):
                ada.inspect(f"{host}/ada/model:v1")
