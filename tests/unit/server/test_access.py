"""Access control of the server: rules, htpasswd files, throttling, and isolation of repositories."""

import base64
import contextlib
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import pytest
from ocikit.errors import InvalidArgument
from ocikit.server import (
    Access,
    Application,
    ErrorResponse,
    HtpasswdAccess,
    Identity,
    OpenAccess,
    Permission,
    Rule,
    Rules,
    Settings,
    TokenAccess,
    access_from,
    memory_storage,
)
from ocikit.server.auth import reloading
from ocikit.server.auth import throttle as throttling
from ocikit.server.auth.basic import parse_basic
from ocikit.server.auth.htpasswd import Htpasswd, HtpasswdEntries
from ocikit.server.auth.throttle import LoginThrottle
from ocikit.server.http.request import Request
from ocikit.spec import media_types as mt
from ocikit.spec.digest import Digest

from tests.support.wsgi import call, environ_of

FAR = {"REMOTE_ADDR": "192.0.2.7"}

RULES = """
[[rule]]
users = ["ada"]
repositories = ["ada/**", "shared/*"]
actions = ["pull", "push", "delete"]

[[rule]]
users = ["eve"]
repositories = ["eve/**"]
actions = ["pull", "push", "delete"]

[[rule]]
users = ["*"]
repositories = ["library/**"]
actions = ["pull", "catalog"]
"""


def entry(user, password, prefix=b"2b"):
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4))
    return f"{user}:${prefix.decode()}${hashed.decode().partition('2b$')[2]}\n"


@pytest.fixture
def users(tmp_path):
    path = tmp_path / "users"
    path.write_text(
        entry("ada", "lovelace") + entry("eve", "evil", b"2y") + entry("zoë", "pässwörd:with:colons", b"2a")
    )
    return path


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


ADA, EVE = basic("ada", "lovelace"), basic("eve", "evil")


@pytest.fixture
def app(users):
    return Application(memory_storage(), access=HtpasswdAccess(users, Rules.parse(RULES)))


@pytest.fixture
def bcrypts(monkeypatch):
    """Return the bcrypt prefixes of the hashes that were checked."""
    checked, real = [], bcrypt.checkpw
    monkeypatch.setattr(bcrypt, "checkpw", lambda p, h: (checked.append(h[:7]), real(p, h))[1])
    return checked


def push(app, repository, content, headers):
    digest = Digest.of(content)
    assert call(app, "POST", f"/v2/{repository}/blobs/uploads/?digest={digest}", headers, content).status == 201
    return digest


def manifest(config):
    described = {"mediaType": mt.EMPTY, "digest": config, "size": 2}
    fields = {"schemaVersion": 2, "mediaType": mt.OCI_MANIFEST, "artifactType": "application/vnd.example"}
    return json.dumps(fields | {"config": described, "layers": [described]}).encode()


def push_manifest(app, repository, tag, headers):
    raw = manifest(Digest.of(b"{}"))
    push(app, repository, b"{}", headers)
    response = call(app, "PUT", f"/v2/{repository}/manifests/{tag}", {**headers, "Content-Type": mt.OCI_MANIFEST}, raw)
    assert response.status == 201, response
    return Digest.of(raw)


# -- rules


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("team/**", ["team/a", "team/a/b"], ["team", "team2/a", "a/team/b", "xteam/a"]),
        ("team/*", ["team/a", "team/a-b.c"], ["team/a/b", "team", "other/team/a"]),
        ("*", ["a", "model-1"], ["a/b"]),
        ("**", ["a", "a/b/c"], []),
        ("a?", ["ab"], ["a", "abc", "a/"]),
        ("a.b", ["a.b"], ["axb", "a/b", "a.bc", "xa.b"]),
        ("**/public", ["a/public", "a/b/public"], ["public", "a/publicity", "a/public/b"]),
    ],
)
def test_pattern_matches_whole_names(pattern, matching, others):
    rule = Rule(users=["ada"], repositories=[pattern], actions=["pull"])
    assert [name for name in matching + others if rule.allows("ada", Permission("pull", name))] == matching


def test_star_user_excludes_anonymous_requests():
    rule = Rule(users=["*"], actions=["pull"])
    assert rule.allows("ada", Permission("pull", "a"))
    assert not rule.allows("", Permission("pull", "a"))
    assert Rule(users=[""], actions=["pull"]).allows("", Permission("pull", "a"))
    assert Rule(users=[""], actions=["pull"]).allows("ada", Permission("pull", "a"))


def test_rules_allow_only_what_one_rule_allows():
    rules = Rules.parse(RULES)
    assert rules.allows("ada", Permission("push", "shared/model"))
    assert not rules.allows("eve", Permission("push", "shared/model"))
    assert rules.allows("eve", Permission("catalog"))
    assert not rules.allows("", Permission("catalog"))
    assert not Rules().allows("ada", Permission("pull", "a"))
    assert not rules.allows_anonymous
    assert rules.with_anonymous_pull().allows_anonymous
    assert rules.with_anonymous_pull().allows("", Permission("pull", "eve/secret"))
    assert not rules.with_anonymous_pull().allows("", Permission("push", "eve/secret"))


def test_default_rules_allow_all_to_users_only():
    rules = Rules.default()
    for need in (Permission("pull", "a/b"), Permission("push", "a"), Permission("delete", "a"), Permission("catalog")):
        assert rules.allows("ada", need)
        assert not rules.allows("", need)


@pytest.mark.parametrize(
    "text",
    [
        '[[rule]]\nusers = ["a"]\nactions = ["pull"]\nrepository = ["a"]',
        '[[rule]]\nusers = ["a"]',
        '[[rule]]\nusers = "ada"\nactions = ["pull"]',
        '[[rule]]\nusers = ["a"]\nactions = ["read"]',
        '[[rule]]\nusers = ["a"]\nactions = ["pull"]\nrepositories = ["Team/*"]',
        '[[rule]]\nusers = ["a"]\nactions = ["pull"]\nrepositories = []',
        '[[rule]]\nusers = [1]\nactions = ["pull"]',
        '[rule]\nusers = ["a"]\nactions = ["pull"]',
        '[[rules]]\nusers = ["a"]\nactions = ["pull"]',
        'rule = ["a"]',
        "[[rule",
    ],
)
def test_invalid_rules_file_is_rejected(tmp_path, text):
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(InvalidArgument, match=r"rules\.toml"):
        Rules.load(tmp_path / "rules.toml")


# -- htpasswd file


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ada:$apr1$x$y", "MD5"),
        ("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "SHA-1"),
        ("ada:$6$salt$hash", "SHA-512"),
        ("ada:$2x$05$" + "a" * 53, "broken bcrypt"),
        ("ada:plain-secret", "an unknown format"),
        ("ada:$2y$31$" + "a" * 53, "cost 31"),
        ("ada", "invalid entry"),
        (":$2y$05$" + "a" * 53, "invalid entry"),
        ("*:$2y$05$" + "a" * 53, "invalid entry"),
        ("ad\x1ba:$2y$05$" + "a" * 53, "invalid entry"),
    ],
)
def test_non_bcrypt_entry_error_names_line_but_not_hash(tmp_path, line, message):
    (tmp_path / "users").write_text(f"# people\n\n{line}\n")
    with pytest.raises(InvalidArgument, match=f"line 3.*{message}") as caught:
        HtpasswdAccess(tmp_path / "users")
    assert "secret" not in str(caught.value) and "W6ph5" not in str(caught.value)


def test_duplicate_user_is_rejected():
    with pytest.raises(InvalidArgument, match="duplicate"):
        HtpasswdEntries.parse(entry("ada", "a") + entry("ada", "b"))


def test_missing_htpasswd_file_raises_at_once(tmp_path):
    with pytest.raises(InvalidArgument, match="cannot read"):
        HtpasswdAccess(tmp_path / "users")


def test_new_password_replaces_old_one_at_once(users, app):
    assert call(app, "GET", "/v2/", ADA).status == 200
    users.write_text(entry("ada", "countess"))
    assert call(app, "GET", "/v2/", ADA).status == 401
    assert call(app, "GET", "/v2/", basic("ada", "countess")).status == 200
    assert call(app, "GET", "/v2/", EVE).status == 401


@pytest.mark.parametrize("broken", ["invalid", "deleted", "unreadable"])
def test_broken_htpasswd_file_fails_closed_after_grace(users, monkeypatch, caplog, broken):
    app = Application(memory_storage(), access=HtpasswdAccess(users, allow_anonymous_pull=True))
    content = users.read_text()
    assert call(app, "GET", "/readyz").json == {"status": "ok"}
    if broken == "invalid":
        users.write_text("ada:plain\n")
    elif broken == "deleted":
        users.unlink()
    else:
        monkeypatch.setattr(HtpasswdEntries, "parse", raise_io_error)
        users.write_text("\n")
    # Editors and deployments replace files in several steps
    assert call(app, "GET", "/v2/", ADA).status == 200
    assert "previous users stay in effect for 60 seconds" in caplog.text and "plain" not in caplog.text
    response = call(app, "GET", "/readyz")
    assert (response.status, response.json["status"]) == (200, "degraded")
    monkeypatch.setattr(reloading, "GRACE", 0.0)
    response = call(app, "GET", "/v2/", ADA)
    assert (response.status, response.headers["retry-after"]) == (503, "60")
    assert "www-authenticate" not in response.headers and str(users) not in response.body.decode()
    assert "still broken" in caplog.text and caplog.text.count("still broken") == 1
    response = call(app, "GET", "/readyz")
    assert (response.status, response.json["status"]) == (503, "unavailable")
    assert response.json["problems"] == ["the users cannot be loaded; see the log"]
    # Anonymous requests need no users
    assert call(app, "GET", "/v2/ada/x/tags/list").status == 404
    assert call(app, "GET", "/healthz").status == 200
    monkeypatch.undo()
    users.write_text(content.partition("\n")[2])
    assert call(app, "GET", "/v2/", EVE).status == 200
    assert call(app, "GET", "/v2/", ADA).status == 401
    assert call(app, "GET", "/readyz").status == 200


def raise_io_error(*_):
    raise OSError(5, "Input/output error")


def test_temporary_error_of_htpasswd_file_is_retried(users, monkeypatch):
    now = [0.0]
    htpasswd = Htpasswd(users, lambda: now[0])
    monkeypatch.setattr(HtpasswdEntries, "parse", raise_io_error)
    users.write_text(users.read_text())
    os.utime(users, (1, 1))
    assert htpasswd.verify("ada", b"lovelace", "192.0.2.1") and htpasswd.problem is not None
    now[0] = 61.0
    with pytest.raises(ErrorResponse, match="503"):
        htpasswd.verify("ada", b"lovelace", "192.0.2.1")
    monkeypatch.undo()
    now[0] = 62.0
    assert htpasswd.verify("ada", b"lovelace", "192.0.2.1") and htpasswd.problem is None


def test_broken_rules_file_fails_closed_after_grace(users, tmp_path, monkeypatch):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    app = Application(memory_storage(), access=HtpasswdAccess(users, path))
    assert call(app, "GET", "/v2/_catalog", ADA).status == 200
    path.write_text("[[rule")
    assert call(app, "GET", "/v2/_catalog", ADA).status == 200
    monkeypatch.setattr(reloading, "GRACE", 0.0)
    assert call(app, "GET", "/v2/_catalog", ADA).status == 503
    assert call(app, "GET", "/readyz").json["problems"] == ["the access rules cannot be loaded; see the log"]
    path.write_text(RULES)
    assert call(app, "GET", "/v2/_catalog", ADA).status == 200


def test_changed_rules_file_is_reloaded(users, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    app = Application(memory_storage(), access=HtpasswdAccess(users, path))
    assert call(app, "POST", "/v2/ada/x/blobs/uploads/", ADA).status == 202
    path.write_text("")
    assert call(app, "POST", "/v2/ada/x/blobs/uploads/", ADA).status == 403


# -- passwords


def test_password_can_contain_utf8_and_colons(app):
    assert call(app, "GET", "/v2/", basic("zoë", "pässwörd:with:colons")).status == 200
    assert call(app, "GET", "/v2/", basic("zoë", "pässwörd")).status == 401


def test_password_longer_than_72_bytes_is_truncated(tmp_path):
    (tmp_path / "users").write_text(entry("ada", "x" * 72))
    htpasswd = Htpasswd(tmp_path / "users")
    assert htpasswd.verify("ada", b"x" * 100, "192.0.2.1")
    assert not htpasswd.verify("ada", b"x" * 71 + b"\0" * 100, "192.0.2.1")


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic ",
        "Basic !!!!",
        "Basic YWRh",
        "Basic /////w==",
        "Basic YWRhOmxvdmVsYWNl,Basic YWRhOmxvdmVsYWNl",
        "Bearer YWRhOmxvdmVsYWNl",
        "YWRhOmxvdmVsYWNl",
        "Negotiate x",
        "Basic " + "A" * 100_000,
        "Basic ADphZGE=",
    ],
)
def test_malformed_authorization_returns_401_with_challenge(app, header):
    response = call(app, "GET", "/v2/", {"Authorization": header})
    assert (response.status, response.code) == (401, "UNAUTHORIZED")
    assert response.headers["www-authenticate"] == 'Basic realm="ocikit", charset="UTF-8"'


def test_basic_header_ignores_case_and_missing_padding():
    assert parse_basic("bAsIc YWRhOmxvdmVsYWNlMQ") == ("ada", b"lovelace1")


def test_empty_credentials_count_as_anonymous(users):
    """podman and skopeo send empty credentials if they have no login."""
    app = Application(memory_storage(), access=HtpasswdAccess(users, allow_anonymous_pull=True))
    assert call(app, "GET", "/v2/a/tags/list", basic("", "")).status == 404
    assert call(app, "POST", "/v2/a/blobs/uploads/", basic("", "")).status == 401


def test_unknown_user_costs_as_much_as_wrong_password(app, bcrypts):
    call(app, "GET", "/v2/", basic("ada", "wrong"))
    call(app, "GET", "/v2/", basic("nobody", "wrong"))
    call(app, "GET", "/v2/", basic("", "wrong"))
    assert [cost[4:] for cost in bcrypts] == [b"04$", b"04$", b"04$"]


def test_unknown_user_costs_a_hash_in_empty_file(tmp_path, bcrypts):
    (tmp_path / "users").write_text("")
    assert not Htpasswd(tmp_path / "users").verify("ada", b"x", "192.0.2.1")
    assert len(bcrypts) == 1


def test_response_does_not_reveal_whether_user_exists(app):
    assert call(app, "GET", "/v2/", basic("ada", "wrong")) == call(app, "GET", "/v2/", basic("nobody", "wrong"))


def test_correct_login_is_cached_and_wrong_one_is_not(users, bcrypts):
    now = [1000.0]
    htpasswd = Htpasswd(users, clock=lambda: now[0])
    assert all(htpasswd.verify("ada", b"lovelace", "192.0.2.1") for _ in range(100))
    assert len(bcrypts) == 1
    assert not any(htpasswd.verify("ada", b"lovelac", "192.0.2.1") for _ in range(3))
    assert not htpasswd.verify("eve", b"lovelace", "192.0.2.1")
    assert len(bcrypts) == 5
    now[0] += 1000
    assert htpasswd.verify("ada", b"lovelace", "192.0.2.1")
    assert len(bcrypts) == 6


def test_concurrent_logins_share_one_check(users, bcrypts):
    htpasswd, start = Htpasswd(users), threading.Barrier(16)

    def verify(_):
        start.wait()
        return htpasswd.verify("ada", b"lovelace", "192.0.2.1")

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(verify, range(16)))
    assert len(bcrypts) == 1


def test_password_and_hash_are_not_in_cache_or_repr(users):
    htpasswd = Htpasswd(users)
    htpasswd.verify("ada", b"lovelace", "192.0.2.1")
    shown = repr([vars(htpasswd), htpasswd, vars(htpasswd._entries), htpasswd._entries.value])
    assert "lovelace" not in shown and "$2b$" not in shown


# -- throttling


def guess(app, user, password, **environ):
    return call(app, "GET", "/v2/", basic(user, password), **environ)


def test_guessing_is_throttled_before_the_check(app, bcrypts):
    assert guess(app, "ada", "lovelace").status == 200  # cached: it costs no hash
    assert [guess(app, "ada", f"guess {n}").status for n in range(10)] == [401] * 10
    spent = len(bcrypts)
    response = guess(app, "ada", "guess 10")
    assert (response.status, response.code) == (429, "TOOMANYREQUESTS")
    assert 0 < int(response.headers["retry-after"]) <= 300
    assert "www-authenticate" not in response.headers
    assert guess(app, "ada", "lovelace").status == 429
    assert len(bcrypts) == spent
    # Other users, and the same user from another address, are not locked out
    assert guess(app, "eve", "evil").status == 200
    assert guess(app, "ada", "lovelace", REMOTE_ADDR="127.0.0.9").status == 200


def test_concurrent_guesses_do_not_exceed_the_limit(users, bcrypts):
    htpasswd = Htpasswd(users)

    def verify(number):
        try:
            return htpasswd.verify("ada", f"guess {number}".encode(), "192.0.2.1")
        except ErrorResponse as error:
            return error.status

    with ThreadPoolExecutor(32) as pool:
        results = list(pool.map(verify, range(200)))
    assert results.count(False) == len(bcrypts) == 10 and results.count(429) == 190


def test_wrong_names_lock_out_no_user_of_the_same_address(app):
    assert {guess(app, f"user{number}", "guess").status for number in range(150)} == {401}
    assert guess(app, "ada", "lovelace").status == 200
    assert guess(app, "eve", "evil").status == 200


def test_names_from_one_network_are_checked_one_at_a_time(caplog):
    throttle = LoginThrottle(lambda: 0.0)
    for number in range(100):
        with throttle.attempt(f"2001:db8:1:2::{number:x}", f"user{number}"):
            pass
    running, most, lock = [0], [0], threading.Lock()

    def attempt(address, name):
        try:
            with throttle.attempt(address, name):
                with lock:
                    running[0] += 1
                    most[0] = max(most[0], running[0])
                time.sleep(0.01)
                with lock:
                    running[0] -= 1
        except ErrorResponse as error:
            return error.status
        return 200

    with ThreadPoolExecutor(32) as pool:
        statuses = list(pool.map(lambda n: attempt("2001:db8:1:2:ffff::1", f"name{n}"), range(64)))
    assert most == [1] and set(statuses) == {200, 429}
    assert caplog.text.count("many failed logins from 2001:db8:1:2::/64") == 1
    assert throttle._queues == {}
    most[0] = 0
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda n: attempt("2001:db8:1:3::1", f"name{n}"), range(16))) == {200}


def test_user_of_flooded_address_logs_in_without_waiting():
    throttle = LoginThrottle(lambda: 0.0)
    with throttle.attempt("192.0.2.1", "ada") as succeeded:
        succeeded()
    with contextlib.ExitStack() as stack:
        for number in range(101):
            stack.enter_context(throttle.attempt("192.0.2.1", f"user{number}"))
        with throttle.attempt("192.0.2.1", "ada") as succeeded:
            succeeded()


def test_rejected_attempts_of_flooded_address_are_not_counted(monkeypatch):
    monkeypatch.setattr(throttling, "_WAIT", 0.0)
    throttle = LoginThrottle(lambda: 0.0)
    with contextlib.ExitStack() as stack:
        for number in range(101):
            stack.enter_context(throttle.attempt("192.0.2.1", f"user{number}"))
        for _ in range(20):
            with pytest.raises(ErrorResponse, match="429"), throttle.attempt("192.0.2.1", "ada"):
                pass
    with throttle.attempt("192.0.2.1", "ada") as succeeded:
        succeeded()


def test_trusted_network_of_proxies_sets_client_address():
    trusted = ("10.0.0.0/8", "fd00::/8", "192.0.2.1")
    for proxy in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "192.0.2.1"):
        environ = environ_of("GET", "/v2/", {"X-Forwarded-For": "198.51.100.7"}, REMOTE_ADDR=proxy)
        assert Request.from_environ(environ, trusted=trusted).remote == "198.51.100.7"
    for proxy in ("11.1.2.3", "fe80::1", "192.0.2.2", "", "unix:"):
        environ = environ_of("GET", "/v2/", {"X-Forwarded-For": "198.51.100.7"}, REMOTE_ADDR=proxy)
        assert Request.from_environ(environ, trusted=trusted).remote != "198.51.100.7"
    for invalid in ("10.0.0.0/40", "proxy.example"):
        with pytest.raises(InvalidArgument, match="trusted proxy"):
            Settings(trusted_proxies=invalid)


def test_one_user_cannot_exhaust_the_limit_of_an_address():
    throttle = LoginThrottle(lambda: 0.0)
    for _ in range(1000):
        try:
            with throttle.attempt("192.0.2.1", "script"):
                pass
        except ErrorResponse as error:
            assert error.headers == (("Retry-After", "300"),)
    throttle.check("192.0.2.1", "ada")


def test_success_revokes_only_its_own_attempt():
    throttle = LoginThrottle(time.monotonic)
    for _ in range(9):
        with throttle.attempt("192.0.2.1", "ada"):
            pass
    for _ in range(50):
        with throttle.attempt("192.0.2.1", "ada") as succeeded:
            succeeded()
    with throttle.attempt("192.0.2.1", "ada"):
        pass
    with pytest.raises(ErrorResponse):
        throttle.check("192.0.2.1", "ada")


def test_stored_failures_are_bounded():
    throttle = LoginThrottle(lambda: 0.0)
    for number in range(20_000):
        with throttle.attempt(f"198.51.{number >> 8}.{number & 255}", "ada"):
            pass
    assert len(throttle._failures) <= 10_000


# -- passwords in transit


@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("headers", [{}, ADA])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v2/"), ("POST", "/v2/ada/x/blobs/uploads/"), ("GET", "/v2/_catalog")]
)
def test_plain_http_from_elsewhere_gets_no_challenge(users, tmp_path, token, headers, method, path):
    app = Application(memory_storage(), access=access_from(htpasswd=users, token=token, folder=tmp_path))
    response = call(app, method, path, {} if token else headers, **FAR)
    assert (response.status, response.code) == (403, "DENIED")
    assert "https" in response.errors[0]["message"]
    assert "www-authenticate" not in response.headers


def test_password_is_accepted_over_tls_loopback_or_if_allowed(users):
    app = Application(memory_storage(), access=HtpasswdAccess(users))
    assert call(app, "GET", "https://registry.example/v2/", ADA, **FAR).status == 200
    assert call(app, "GET", "/v2/", ADA, REMOTE_ADDR="::1").status == 200
    assert call(app, "GET", "/v2/", ADA, REMOTE_ADDR="::ffff:127.0.0.1").status == 200
    assert call(app, "GET", "/v2/", ADA, REMOTE_ADDR="").status == 403
    app = Application(memory_storage(), access=HtpasswdAccess(users, allow_plain_http=True))
    assert call(app, "GET", "/v2/", ADA, **FAR).status == 200


def test_anonymous_pull_works_over_plain_http(users):
    """Clients that get a challenge at /v2/ do not continue without a login."""
    app = Application(memory_storage(), access=HtpasswdAccess(users, allow_anonymous_pull=True))
    assert call(app, "GET", "/v2/", **FAR).status == 200
    assert call(app, "GET", "/v2/a/tags/list", **FAR).status == 404
    assert call(app, "POST", "/v2/a/blobs/uploads/", **FAR).status == 403
    assert call(app, "GET", "/v2/").status == 401


FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "evil.example"}


def test_forwarded_headers_of_untrusted_clients_are_ignored(users):
    access = HtpasswdAccess(users)
    app = Application(memory_storage(), access=access, settings=Settings(trusted_proxies=("10.0.0.1",)))
    assert call(app, "GET", "/v2/", {**ADA, **FORWARDED}, **FAR).status == 403
    # nor do they bypass the limit
    for number in range(10):
        environ = {"REMOTE_ADDR": "127.0.0.1", "wsgi.url_scheme": "https"}
        assert (
            call(app, "GET", "/v2/", {**basic("ada", "x"), "X-Forwarded-For": f"192.0.2.{number}"}, **environ).status
            == 401
        )
    assert call(app, "GET", "/v2/", {**basic("ada", "x"), "X-Forwarded-For": "192.0.2.99"}, **environ).status == 429


def test_trusted_proxy_sets_scheme_and_client(users):
    settings = Settings(trusted_proxies=("10.0.0.1", "10.0.0.2"))
    app = Application(memory_storage(), access=HtpasswdAccess(users), settings=settings)
    proxy = {"REMOTE_ADDR": "10.0.0.1"}
    far = {"X-Forwarded-For": "192.0.2.7"}
    assert call(app, "GET", "/v2/", {**ADA, **far, "X-Forwarded-Proto": "https"}, **proxy).status == 200
    assert call(app, "GET", "/v2/", {**ADA, **far, "X-Forwarded-Proto": "http"}, **proxy).status == 403
    assert call(app, "GET", "/v2/", {**ADA, **far}, **proxy).status == 403
    assert call(app, "GET", "/v2/", {**ADA, **far, "X-Forwarded-Proto": "gopher"}, **proxy).status == 403


def remote(forwarded, *trusted, **headers):
    environ = environ_of("GET", "/v2/", {"X-Forwarded-For": forwarded, **headers}, REMOTE_ADDR="10.0.0.1")
    return Request.from_environ(environ, trusted=("10.0.0.1", *trusted))


def test_client_cannot_forge_forwarded_for():
    assert remote("127.0.0.1, 192.0.2.7").remote == "192.0.2.7"
    assert remote("127.0.0.1, 192.0.2.7, 10.0.0.2", "10.0.0.2").remote == "192.0.2.7"
    assert remote("127.0.0.1, 192.0.2.7, 10.0.0.2").remote == "10.0.0.2"
    assert remote("10.0.0.2", "10.0.0.2").remote == "10.0.0.2"
    assert remote("[2001:db8::1]:4711").remote == "2001:db8::1"
    assert remote("192.0.2.7", **{"X-Forwarded-Proto": "https, http"}).scheme == "http"
    assert remote("192.0.2.7, 10.0.0.2", "10.0.0.2", **{"X-Forwarded-Proto": "https, http"}).scheme == "https"
    assert remote("192.0.2.7, 10.0.0.2", "10.0.0.2", **{"X-Forwarded-Proto": "https"}).scheme == "https"


@pytest.mark.parametrize("prefix", ["//evil.example", "/a b", '/"', "https://evil.example", "/a?b", "/a//b"])
def test_invalid_forwarded_prefix_is_ignored(prefix):
    assert remote("192.0.2.7", **{"X-Forwarded-Prefix": prefix}).link("/v2/") == "/v2/"
    assert remote("192.0.2.7", **{"X-Forwarded-Prefix": "/hub/"}).link("/v2/") == "/hub/v2/"


def test_untrusted_local_proxy_makes_no_client_local(users):
    app = Application(memory_storage(), access=HtpasswdAccess(users))
    assert call(app, "GET", "/v2/", {**ADA, "X-Forwarded-For": "192.0.2.7"}).status == 403
    assert call(app, "GET", "/v2/", {**ADA, "Forwarded": "for=192.0.2.7"}).status == 403


# -- isolation of repositories


def test_denied_user_gets_403_and_anonymous_client_401(app):
    response = call(app, "POST", "/v2/eve/x/blobs/uploads/", ADA)
    assert (response.status, response.code) == (403, "DENIED")
    assert response.errors[0]["message"] == "ada may not push eve/x"
    assert "www-authenticate" not in response.headers
    response = call(app, "POST", "/v2/eve/x/blobs/uploads/")
    assert (response.status, response.code) == (401, "UNAUTHORIZED")
    assert response.headers["www-authenticate"].startswith('Basic realm="')


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "tags/list"),
        ("GET", "manifests/v1"),
        ("HEAD", "manifests/v1"),
        ("DELETE", "manifests/v1"),
        ("PUT", "manifests/v1"),
        ("GET", "blobs/{digest}"),
        ("HEAD", "blobs/{digest}"),
        ("DELETE", "blobs/{digest}"),
        ("GET", "referrers/{digest}"),
        ("POST", "blobs/uploads/"),
        ("PATCH", "blobs/uploads/x"),
        ("GET", "blobs/uploads/x"),
        ("PUT", "blobs/uploads/x?digest={digest}"),
        ("DELETE", "blobs/uploads/x"),
    ],
)
def test_denied_response_does_not_reveal_existence(app, method, path, there):
    if there:
        push_manifest(app, "eve/x", "v1", EVE)
    response = call(app, method, f"/v2/eve/x/{path.format(digest=Digest.of(b'{}'))}", ADA)
    assert response.status == 403
    if method != "HEAD":
        assert response.json == {"errors": [{"code": "DENIED", "message": response.errors[0]["message"]}]}
        assert "eve/x" in response.errors[0]["message"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("source", ["eve/secret", "eve/never"])
def test_mount_from_denied_repository_becomes_upload(app, there, source):
    content = b"the secret"
    if there:
        push(app, "eve/secret", content, EVE)
    digest = Digest.of(content)
    response = call(app, "POST", f"/v2/ada/x/blobs/uploads/?mount={digest}&from={source}", ADA)
    assert response.status == 202
    assert set(response.headers) == {
        "location",
        "range",
        "docker-upload-uuid",
        "content-length",
        "docker-distribution-api-version",
        "x-content-type-options",
    }
    assert call(app, "GET", f"/v2/ada/x/blobs/{digest}", ADA).status == 404
    # It is a normal upload
    assert call(app, "PUT", f"{response.headers['location']}?digest={digest}", ADA, content).status == 201


@pytest.mark.parametrize("there", [True, False])
def test_mount_without_source_skips_denied_repositories(app, there):
    if there:
        push(app, "eve/secret", b"the secret", EVE)
    digest = Digest.of(b"the secret")
    assert call(app, "POST", f"/v2/ada/x/blobs/uploads/?mount={digest}", ADA).status == 202
    assert call(app, "HEAD", f"/v2/ada/x/blobs/{digest}", ADA).status == 404


def test_mount_from_allowed_repository_succeeds(app):
    digest = push(app, "ada/a", b"mine", ADA)
    assert call(app, "POST", f"/v2/ada/b/blobs/uploads/?mount={digest}&from=ada/a", ADA).status == 201
    assert call(app, "POST", f"/v2/shared/c/blobs/uploads/?mount={digest}", ADA).status == 201
    assert call(app, "GET", f"/v2/ada/b/blobs/{digest}", ADA).body == b"mine"


def test_blob_is_not_readable_through_another_repository(app):
    digest = push(app, "eve/secret", b"the secret", EVE)
    push(app, "ada/x", b"mine", ADA)
    for method in ("GET", "HEAD", "DELETE"):
        assert call(app, method, f"/v2/ada/x/blobs/{digest}", ADA).status == 404
    assert call(app, "GET", f"/v2/ada/x/manifests/{digest}", ADA).status == 404
    # A manifest that references the blob does not make it readable
    headers = {**ADA, "Content-Type": mt.OCI_MANIFEST}
    response = call(app, "PUT", "/v2/ada/x/manifests/v1", headers, manifest(digest))
    assert (response.status, response.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert call(app, "GET", f"/v2/eve/secret/blobs/{digest}", EVE).body == b"the secret"


@pytest.mark.parametrize(
    ("headers", "repository"), [(EVE, "shared/x"), (ADA, "shared/y"), (ADA, "ada/x"), (EVE, "eve/x"), ({}, "shared/x")]
)
def test_upload_is_bound_to_its_user_and_repository(users, headers, repository):
    rules = Rules.parse(RULES + '[[rule]]\nusers = ["eve"]\nrepositories = ["shared/**"]\nactions = ["pull", "push"]\n')
    app = Application(memory_storage(), access=HtpasswdAccess(users, rules))
    upload = call(app, "POST", "/v2/shared/x/blobs/uploads/", ADA).headers["location"]
    session = upload.rpartition("/")[2]
    assert len(session) >= 22  # 128 random bits in 64 characters
    assert call(app, "PATCH", upload, ADA, b"half").status == 202
    stolen = f"/v2/{repository}/blobs/uploads/{session}"
    digest = Digest.of(b"half")
    for method, url, body in (
        ("GET", stolen, b""),
        ("PATCH", stolen, b"worse"),
        ("PUT", f"{stolen}?digest={digest}", b""),
        ("DELETE", stolen, b""),
    ):
        response = call(app, method, url, headers, body)
        assert response.status == (404 if headers else 401), (method, response)
        assert "range" not in response.headers
    assert call(app, "GET", upload, ADA).headers["range"] == "0-3"
    assert call(app, "PUT", f"{upload}?digest={digest}", ADA).status == 201


def test_lists_contain_only_allowed_repositories(users):
    storage = memory_storage()
    app = Application(storage, access=HtpasswdAccess(users, Rules.parse(RULES)))
    root = Application(storage)
    for repository in ("ada/x", "eve/x", "library/base", "shared/x"):
        subject = push_manifest(root, repository, "v1", {})
    for headers, names in ((ADA, ["ada/x", "library/base", "shared/x"]), (EVE, ["eve/x", "library/base"])):
        assert call(app, "GET", "/v2/_catalog", headers).json == {"repositories": names}
        # Pages are filtered too, and no link leads to a page of hidden repositories only
        listed, url = [], "/v2/_catalog?n=1"
        while url:
            response = call(app, "GET", url, headers)
            assert len(response.json["repositories"]) == 1
            listed += response.json["repositories"]
            url = response.headers.get("link", "").partition(">")[0][1:]
        assert listed == names
    assert call(app, "GET", "/v2/_catalog").status == 401
    assert call(app, "GET", "/v2/eve/x/tags/list", ADA).status == 403
    assert call(app, "GET", f"/v2/eve/x/referrers/{subject}", ADA).status == 403


def test_denied_push_is_rejected_before_its_body_is_read(app):
    class Endless:
        def read(self, size):
            raise AssertionError("the body of a rejected request was read")

    for headers, status in ((ADA, 403), ({}, 401)):
        response = call(app, "POST", "/v2/eve/x/blobs/uploads/", headers, Endless(), CONTENT_LENGTH=str(1 << 40))
        assert response.status == status
        assert call(app, "PUT", "/v2/eve/x/manifests/v1", headers, Endless(), CONTENT_LENGTH="9").status == status


@pytest.mark.parametrize("realm", ['a"b', "a\r\nSet-Cookie: x", "a\\", "ä", ""])
def test_realm_with_header_injection_is_rejected(users, realm):
    with pytest.raises(InvalidArgument, match="realm"):
        HtpasswdAccess(users, realm=realm)


# -- adapters


def test_access_from_returns_adapter_for_options(users, tmp_path):
    assert isinstance(access_from(), OpenAccess)
    assert isinstance(access_from(htpasswd=users), HtpasswdAccess)
    assert isinstance(access_from(htpasswd=users, token=True, folder=tmp_path), TokenAccess)
    assert (tmp_path / "token.key").exists()
    for wrong in (
        {"token": True},
        {"rules": users},
        {"allow_anonymous_pull": True},
        {"htpasswd": users, "token": True},
    ):
        with pytest.raises(InvalidArgument):
            access_from(**wrong)


def test_identity_with_error_is_denied_everything():
    class Careless(Access):
        def identify(self, request):
            return Identity(error="invalid_token")

        def allows(self, identity, need):
            return True

    app = Application(memory_storage(), access=Careless())
    for path in ("/v2/", "/v2/_catalog", "/v2/a/tags/list"):
        assert call(app, "GET", path).status == 403
