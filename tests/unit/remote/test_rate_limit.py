"""Rate limits in response headers."""

import pytest
from ocikit import errors
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.registry import Registry

from tests.support.http import get


@pytest.mark.parametrize(
    ("headers", "limit", "remaining", "window"),
    [
        ({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}, 100, 76, 21600),
        ({"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "7"}, 100, 7, 60),
        ({"X-RateLimit-Limit": " 5000 ", "X-RateLimit-Remaining": "0"}, 5000, 0, None),
        (
            {
                "ratelimit-limit": "x",
                "ratelimit-remaining": "1",
                "x-ratelimit-limit": "2",
                "x-ratelimit-remaining": "1",
            },
            2,
            1,
            None,
        ),
    ],
)
def test_rate_limit_headers_are_remembered(server, connect, headers, limit, remaining, window):
    server.on("GET", "/v2/", headers=headers)
    registry = Registry(connect(server))
    assert registry.rate_limit is None
    first, second = registry.ping().rate_limit, registry.ping().rate_limit
    assert first == second == registry.rate_limit == RateLimit(limit=limit, remaining=remaining, window=window)
    assert f"{remaining} of {limit} left" in registry.ping()._repr_html_()


@pytest.mark.parametrize(
    "headers",
    [
        {"ratelimit-limit": "100"},
        {"ratelimit-remaining": "1"},
        {"ratelimit-limit": "-1", "ratelimit-remaining": "1"},
        {"ratelimit-limit": "9" * 5000, "ratelimit-remaining": "1"},
        {"ratelimit-limit": "1", "ratelimit-remaining": "\u0661"},
        {"ratelimit-limit": "1\x1b[31m", "ratelimit-remaining": "1"},
        {"ratelimit-limit": "", "ratelimit-remaining": ""},
    ],
)
def test_invalid_rate_limit_headers_are_ignored(headers):
    assert RateLimit.of(headers) is None


def test_rate_limit_of_redirect_target_is_ignored(server, other, connect):
    server.on("GET", "/v2/x", status=307, headers={"Location": f"{other.url}/v2/"})
    other.on("GET", "/v2/", headers={"ratelimit-limit": "100", "ratelimit-remaining": "1"})
    transport = connect(server)
    get(transport, "/v2/x")
    assert transport.rate_limit is None


@pytest.mark.parametrize(
    ("window", "text"),
    [(";w=21600", "0 of 100 left in 6 h"), (";w=90", "0 of 100 left in 1 min 30 s"), ("", "0 of 100 left")],
)
def test_429_error_contains_rate_limit(server, connect, window, text):
    headers = {"ratelimit-limit": f"100{window}", "ratelimit-remaining": f"0{window}"}
    server.on("GET", "/v2/", status=429, headers=headers, times=None)
    with pytest.raises(errors.RateLimited) as caught:
        get(connect(server, retries=0))
    assert caught.value.message.endswith(f"; {text}")
