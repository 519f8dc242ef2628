"""Tests of challenges, scopes, tokens and realms."""

import copy
import json
import pickle
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ocikit.errors import InvalidResponse, RegistryError
from ocikit.remote.auth.tokens import TOKEN_LIMIT, Token, TokenCache, TokenKey
from ocikit.remote.http.urls import check_realm
from ocikit.spec.annotations import FrozenMap
from ocikit.spec.challenge import Challenge, Scope, merge_scopes, parse_challenges, select_challenge

NOW = 1_700_000_000.0
SECRET = "hunter2-correct-horse"
TOKEN_CHARS = "abcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~"

names = st.text(TOKEN_CHARS, min_size=1, max_size=12)
values = st.text(st.characters(blacklist_categories=("Cs",)), max_size=30)
challenges = st.builds(
    Challenge, scheme=names, parameters=st.dictionaries(names, values, max_size=4).map(FrozenMap), token68=st.just("")
) | st.builds(Challenge, scheme=names, token68=st.from_regex(r"[0-9A-Za-z\-._~+/]+=*", fullmatch=True))
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789*", min_size=1, max_size=8)
scopes = st.builds(
    Scope,
    resource_type=words,
    name=st.lists(words, min_size=1, max_size=3).map("/".join),
    actions=st.lists(words, min_size=1, max_size=4),
)


# -- challenges


@given(st.lists(st.text(), max_size=3))
def test_any_text_is_parsed_without_error(headers):
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()
        assert isinstance(challenge.scope, tuple)


@given(st.lists(st.text('Bearerlm =",\\\t', max_size=40), max_size=2))
def test_challenge_like_text_is_parsed_without_error(headers):
    select_challenge(parse_challenges(headers))


@given(challenges)
def test_challenge_round_trips(challenge):
    assert parse_challenges([str(challenge)]) == (challenge,)


@given(st.lists(challenges, max_size=4))
def test_one_header_equals_several_headers(several):
    apart = parse_challenges([str(c) for c in several])
    assert apart == tuple(several)
    assert parse_challenges([", ".join(str(c) for c in several)]) == apart


def test_docker_hub_challenge_is_parsed():
    (c,) = parse_challenges(
        [
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:samalba/my-app:pull,push"'
        ]
    )
    assert (c.scheme, c.realm, c.service) == ("bearer", "https://auth.docker.io/token", "registry.docker.io")
    assert c.scope == ("repository:samalba/my-app:pull,push",)
    assert c.error == ""


def test_challenge_without_scope_has_no_scopes():
    (c,) = parse_challenges(['Bearer realm="https://auth.docker.io/token",service="registry.docker.io"'])
    assert c.scope == ()


def test_scopes_may_be_in_one_or_several_parameters():
    one = parse_challenges(['Bearer realm="r",scope="repository:a:pull repository:b:pull"'])
    several = parse_challenges(['Bearer realm="r",scope="repository:a:pull",scope="repository:b:pull"'])
    assert one[0].scope == several[0].scope == ("repository:a:pull", "repository:b:pull")


@pytest.mark.parametrize(
    "header",
    [
        'BEARER Realm="https://a/t" , SERVICE=s',
        'bearer realm = "https://a/t",service= "s"',
        'Bearer realm=https://a/t,service="s"',
        'Bearer realm="https://a/t" service="s"',
        ',, Bearer ,realm="https://a/t",,service="s",',
        '"junk" (more) Bearer realm="https://a/t",service="s',
        'Bearer realm="https:\\/\\/a/t", service="\\s"',
        'x="y", Bearer realm="https://a/t", service="s", realm="https://evil/"',
    ],
)
def test_case_spaces_escapes_and_junk_are_tolerated(header):
    c = select_challenge(parse_challenges([header]))
    assert c is not None
    assert (c.realm, c.service) == ("https://a/t", "s")


def test_comma_in_quoted_string_starts_no_challenge():
    (c,) = parse_challenges(['Basic realm="a, Bearer realm=\\"https://evil/\\""'])
    assert c.realm == 'a, Bearer realm="https://evil/"'


def test_token68_is_not_parsed_as_parameter():
    first, second = parse_challenges(['Negotiate YWJj==, Basic realm="r"'])
    assert (first.scheme, first.token68, dict(first.parameters)) == ("negotiate", "YWJj==", {})
    assert second.realm == "r"


def test_bearer_is_preferred_to_basic_in_any_order():
    headers = ['Basic realm="b", Digest realm="d"', 'Bearer realm="https://a/t"']
    for order in (headers, headers[::-1], [", ".join(headers)]):
        assert select_challenge(parse_challenges(order)).scheme == "bearer"
    assert select_challenge(parse_challenges(headers[:1])).scheme == "basic"
    assert select_challenge(parse_challenges(["Negotiate"])) is None
    assert select_challenge(()) is None


def test_bearer_without_realm_comes_after_basic():
    assert select_challenge(parse_challenges(['Bearer, Basic realm="b"'])).scheme == "basic"
    assert select_challenge(parse_challenges(["Bearer"])).scheme == "bearer"


def test_challenge_has_error_of_token():
    (c,) = parse_challenges(['Bearer realm="https://a/t",error="insufficient_scope"'])
    assert c.error == "insufficient_scope"


@pytest.mark.timeout(60)
def test_hostile_header_is_parsed_in_linear_time():
    for header in (
        '"' * 60000,
        "a " * 30000,
        "a=" * 30000,
        'a="\\' * 20000,
        " " * 60000,
        "a" * 60000 + "(",
        "\\" * 60000,
    ):
        parse_challenges([header])


# -- scopes


@given(scopes)
def test_scope_round_trips(scope):
    assert Scope.parse(str(scope)) == scope


@given(st.text())
def test_any_text_is_stable_scope_after_one_parse(text):
    once = Scope.parse(text)
    assert Scope.parse(str(once)) == once


@given(st.lists(scopes))
def test_merged_scopes_cover_each_resource_once_in_order(wishes):
    merged = merge_scopes(wishes)
    resources = [(s.resource_type, s.name) for s in merged]
    assert resources == list(dict.fromkeys((s.resource_type, s.name) for s in wishes))
    assert all(any(m.covers(w) for m in merged) for w in wishes)
    assert {(s.name, a) for s in merged for a in s.actions} == {(s.name, a) for s in wishes for a in s.actions}
    assert merge_scopes(merged) == merged


def test_scope_has_type_name_and_sorted_actions():
    s = Scope.parse("repository:localhost:5000/team/model:push,pull,pull")
    assert (s.resource_type, s.name, s.actions) == ("repository", "localhost:5000/team/model", ("pull", "push"))
    assert str(Scope.catalog()) == "registry:catalog:*"
    assert str(Scope.repository("a", "delete", "*", "frobnicate")) == "repository:a:*,delete,frobnicate"


def test_star_covers_all_actions_of_its_resource_only():
    assert Scope.parse("repository:a:*").covers(Scope.repository("a", "pull"))
    assert not Scope.parse("repository:a:*").covers(Scope.repository("b", "pull"))
    assert not Scope.repository("a", "pull").covers(Scope.repository("a", "pull", "push"))


# -- tokens


def answer(**fields):
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "body",
    [
        answer(token=SECRET),
        answer(access_token=SECRET),
        answer(token="", access_token=SECRET),
        answer(token=None, access_token=SECRET),
        answer(token=SECRET, access_token=SECRET, scope="x"),
    ],
)
def test_token_and_access_token_are_both_accepted(body):
    assert Token.parse(body, NOW).value == SECRET


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>sign in " + SECRET.encode(),
        b"[]",
        b"null",
        b"{}",
        answer(token=""),
        answer(token=7, secret=SECRET),
        answer(token=f"{SECRET}\r\nX-Evil: 1"),
        b"[" * 200_000,
        b"\xff",
        b'{"token":"' + b"a" * TOKEN_LIMIT + b'"}',
    ],
)
def test_invalid_token_response_error_has_no_secret(body):
    with pytest.raises(InvalidResponse, match="response of https://a/t") as caught:
        Token.parse(body, NOW, url="https://u:p@a/t", host="a")
    error = caught.value
    assert isinstance(error, RegistryError)
    assert error.host == "a"
    assert SECRET not in f"{error}{error!r}{vars(error)}"
    assert error.__cause__ is None and error.__context__ is None


def test_token_lives_at_least_sixty_seconds():
    assert Token.parse(answer(token="t"), NOW).expires_at == NOW + 60
    assert Token.parse(answer(token="t", expires_in=5), NOW).expires_at == NOW + 60
    assert Token.parse(answer(token="t", expires_in=300), NOW).expires_at == NOW + 300
    assert Token.parse(answer(token="t", expires_in="300"), NOW).expires_at == NOW + 300


@pytest.mark.parametrize("lifetime", [-1, 0, None, "soon", [], {}, float("nan"), float("inf"), 10**400, True])
def test_invalid_lifetime_becomes_sixty_seconds(lifetime):
    assert Token.parse(json.dumps({"token": "t", "expires_in": lifetime}).encode(), NOW).expires_at == NOW + 60


@pytest.mark.parametrize(
    ("issued", "expires_in", "left"),
    [
        ("2023-11-14T22:13:20Z", 300, 300),  # now
        ("2023-11-14T22:11:40Z", 300, 200),  # cached by the token server for 100 s
        ("2023-11-14T22:11:40.123456789Z", 300, 200),
        ("2023-11-14T23:11:40+01:00", 300, 200),
        ("2023-11-14t22:11:40z", 300, 200),
        ("2023-11-14T22:11:40", 300, 200),
        ("2030-01-01T00:00:00Z", 300, 300),  # a clock ahead prolongs nothing
        ("2001-01-01T00:00:00Z", 300, 60),  # a clock behind, or an old token: at least sixty seconds
        ("0001-01-01T00:00:00Z", 300, 60),  # what Go writes for "no time"
        ("0001-01-01T00:00:00+14:00", 300, 60),
        ("yesterday", 300, 300),
        (7, 300, 300),
    ],
)
def test_server_clock_can_shorten_but_not_prolong_lifetime(issued, expires_in, left):
    token = Token.parse(answer(token="t", expires_in=expires_in, issued_at=issued), NOW)
    assert token.expires_at - NOW == pytest.approx(left, abs=1)


@given(st.dictionaries(st.sampled_from(["token", "access_token", "expires_in", "issued_at", "refresh_token"]),
                       st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str)))  # fmt: skip
def test_any_token_response_parses_or_raises_invalid_response(fields):
    try:
        token = Token.parse(json.dumps(fields).encode(), NOW)
    except InvalidResponse:
        return
    assert NOW + 60 <= token.expires_at <= NOW + 366 * 86400


def test_token_is_renewed_before_expiry():
    token = Token(value="t", expires_at=NOW + 60)
    assert token.fresh(NOW)
    assert token.fresh(NOW + 49)
    assert not token.fresh(NOW + 51)
    assert token.fresh(NOW + 51, margin=0)


def test_token_neither_shows_nor_pickles_secret():
    token = Token.parse(answer(token=SECRET, refresh_token=SECRET[::-1]), NOW)
    assert token.refresh_token == SECRET[::-1]
    for text in (repr(token), str(token), f"{token}", f"{[token]}"):
        assert SECRET not in text and SECRET[::-1] not in text
    assert not hasattr(token, "__dict__")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="secret"):
            pickle.dumps(token, protocol)
    with pytest.raises(TypeError, match="secret"):
        copy.deepcopy(token)


# -- the cache


def key(*wanted, **changes):
    fields = {"host": "h", "realm": "https://a/t", "service": "s", "identity": "i"} | changes
    return TokenKey(scopes=[Scope.parse(s) for s in wanted], **fields)


def token(value="t", lifetime=300.0):
    return Token(value=value, expires_at=NOW + lifetime)


@pytest.fixture
def cache():
    return TokenCache(clock=lambda: NOW)


def test_token_is_found_by_full_key_only(cache):
    cache.put(key("repository:a:pull"), token())
    assert cache.get(key("repository:a:pull")) == token()
    for change in ({"host": "x"}, {"realm": "https://x"}, {"service": "x"}, {"identity": "x"}):
        assert cache.get(key("repository:a:pull", **change)) is None
    assert cache.get(key("repository:b:pull")) is None


def test_order_of_scopes_does_not_change_key():
    one, other = (
        ("repository:a:pull,push", "repository:b:pull"),
        ("repository:b:pull", "repository:a:push", "repository:a:pull"),
    )
    assert key(*one) == key(*other)
    assert hash(key(*one)) == hash(key(*other))
    assert TokenCache.key("h", "https://a/t", "s", [Scope.parse(s) for s in one], "i") == key(*other)


def test_push_token_serves_pulls_but_not_reverse(cache):
    cache.put(key("repository:a:pull,push", "repository:b:pull"), token())
    assert cache.get(key("repository:a:pull")) == token()
    assert cache.get(key("repository:b:pull")) == token()
    assert cache.get(key()) == token()
    assert cache.get(key("repository:b:push")) is None
    assert cache.get(key("repository:a:pull", "repository:c:pull")) is None


def test_expired_token_is_neither_returned_nor_stored(cache):
    cache.put(key("repository:a:pull"), token(lifetime=5))
    assert cache.get(key("repository:a:pull")) is None
    cache.put(key("repository:b:pull"), token("b"))
    assert repr(cache) == "TokenCache(tokens=1)"


def test_rejected_token_is_removed_from_all_scopes(cache):
    wide, narrow = key("repository:a:pull,push"), key("repository:a:pull")
    cache.put(wide, token("old"))
    cache.drop(narrow, token("old"))
    assert cache.get(narrow) is None
    cache.put(wide, token("new"))
    cache.drop(narrow, token("old"))
    assert cache.get(wide) == token("new")
    cache.drop(wide)
    assert cache.get(wide) is None
    cache.drop(wide)


def run_threads(cache, fetch, n=8):
    """Return the tokens or errors of `n` concurrent threads."""
    got, start = [], threading.Barrier(n)

    def run():
        start.wait()
        try:
            got.append(cache.get_or_fetch(key("repository:a:pull"), fetch))
        except BaseException as error:
            got.append(error)

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return got


def test_many_threads_fetch_one_token(cache):
    fetched = []

    def fetch():
        time.sleep(0.1)
        fetched.append(1)
        return token()

    assert run_threads(cache, fetch) == [token()] * 8
    assert fetched == [1]


def test_many_threads_share_one_failure_until_next_call(cache):
    attempts = []

    def fail():
        time.sleep(0.2)
        attempts.append(1)
        raise InvalidResponse("no")

    assert [type(e) for e in run_threads(cache, fail)] == [InvalidResponse] * 8
    assert len(attempts) == 1
    assert cache.get_or_fetch(key("repository:a:pull"), token) == token()


def test_interrupted_fetch_is_repeated_by_another_thread(cache):
    attempts = []

    def fetch():
        time.sleep(0.1)
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyboardInterrupt
        return token()

    got = run_threads(cache, fetch)
    assert sorted(type(g).__name__ for g in got) == ["KeyboardInterrupt"] + ["Token"] * 7
    assert len(attempts) == 2


def test_different_keys_are_fetched_concurrently(cache):
    meeting = threading.Barrier(2, timeout=10)

    def fetch():
        meeting.wait()
        return token()

    threads = [threading.Thread(target=cache.get_or_fetch, args=(key(f"repository:{n}:pull"), fetch)) for n in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert repr(cache) == "TokenCache(tokens=2)"


def test_token_cache_shows_counts_and_pickles_empty(cache):
    cache.put(key("repository:a:pull"), token(SECRET))
    cache.clock()
    for text in (repr(cache), str(cache), f"{cache}", cache._repr_html_()):
        assert SECRET not in text
    data = pickle.dumps(cache)
    assert SECRET.encode() not in data
    assert repr(pickle.loads(data)) == "TokenCache(tokens=0)"
    assert not hasattr(cache, "__dict__")


# -- realms

HUB = "https://registry-1.docker.io/v2/"


@pytest.mark.parametrize(
    ("realm", "registry"),
    [
        ("https://auth.docker.io/token", HUB),
        ("https://8.8.8.8/token", HUB),
        ("https://[2606:4700::1111]/token", HUB),
        ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000/v2/"),
        ("http://auth.local/token", "http://localhost:5000"),
        ("https://10.0.0.6/token", "https://10.0.0.5/v2/"),
        ("https://localhost:5001/token", "https://[::1]:5000/v2/"),
        ("https://169.254.9.9/token", "https://169.254.9.9:5000/v2/"),
    ],
)
def test_regular_realm_is_accepted(realm, registry):
    check_realm(realm, registry)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "[::1]", "localhost", "localhost.", "a.localhost",
        "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "0.0.0.0", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]", "[fd00::1]",
        "[2002:a00:1::]", "224.0.0.1",
    ],
)  # fmt: skip
def test_public_registry_cannot_use_private_realm(host):
    with pytest.raises(InvalidResponse, match="private") as caught:
        check_realm(f"https://{host}/token", HUB)
    assert host.rstrip(".") in str(caught.value)
    assert "registry-1.docker.io" in str(caught.value)
    check_realm(f"https://{host}/token", HUB, allow_private=True)


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1%25eth0]", "[::ffff:169.254.169.254]", "metadata.google.internal",
                                  "100.100.100.200", "168.63.129.16", "[fd00:ec2::254]", "0xa9fea9fe"])  # fmt: skip
@pytest.mark.parametrize("registry", [HUB, "http://localhost:5000/v2/", "https://10.0.0.5/v2/"])
def test_metadata_address_realm_is_rejected(host, registry):
    for allow in (False, True):
        with pytest.raises(InvalidResponse, match="metadata"):
            check_realm(f"https://{host}/token", registry, allow_private=allow)


@pytest.mark.parametrize(
    ("realm", "problem"),
    [
        ("http://auth.docker.io/token", "not https"),
        ("HTTP://auth.docker.io/token", "not https"),
        ("file:///etc/passwd", "not an http"),
        ("ftp://auth.docker.io/", "not an http"),
        ("javascript:alert(1)", "not an http"),
        ("//auth.docker.io/token", "not an http"),
        ("/token", "not an http"),
        ("", "not an http"),
        ("https://", "not an http"),
        ("https://a b/", "not an http"),
        ("https://a/\r\nX: y", "not an http"),
        ("https://evil\\@auth.docker.io/", "not an http"),
        ("https://auth.docker.io:99999/", "not an http"),
        ("https://[::1", "not an http"),
        ("https://１２７.0.0.1/", "not an http"),
        (f"https://user:{SECRET}@auth.docker.io/token", "user name"),
    ],
)
def test_invalid_realm_url_is_rejected(realm, problem):
    with pytest.raises(InvalidResponse, match=problem) as caught:
        check_realm(realm, HUB)
    assert "registry-1.docker.io" in str(caught.value)
    assert SECRET not in f"{caught.value}{vars(caught.value)}"


@given(st.text() | st.text("htps:/@[]%.1٣a\\", max_size=20).map("https://".__add__))
def test_any_realm_is_accepted_or_raises_typed_error(realm):
    try:
        check_realm(realm, HUB)
    except InvalidResponse:
        pass
