"""One host over HTTP: schemes, redirects, retries, proxies, certificates, and failures in words."""

import asyncio
import base64
import contextlib
import email.utils
import json
import logging
import os
import pickle
import socket
import threading
import time

import pytest
from ocikit import errors
from ocikit._version import __version__
from ocikit.remote.config.network import Network
from ocikit.remote.http.rate_limit import RateLimit
from ocikit.remote.http.responses import drain
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import Origin, check_redirect, is_loopback
from ocikit.remote.registry import Registry

from tests.support.fake_registry import FakeRegistry, Response, certificate

SECRET = "hunter2-correct-horse"
ADA = ("ada", SECRET)
BASIC = "Basic " + base64.b64encode(f"ada:{SECRET}".encode()).decode()


def basic(request):
    """A guard that wants ada's password."""
    if request.headers.get("Authorization") != BASIC:
        return Response(401, {"WWW-Authenticate": 'Basic realm="r"'})
    return None


def get(transport, target="/v2/", **rest):
    response = transport.request("GET", target, "test", **rest)
    body = response.raw.read()
    drain(response)
    return response, body


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# -- schemes


@pytest.mark.parametrize("host", ["ghcr.io", "registry.example:5000", "10.0.0.1", "192.168.1.2:5000", "[2001:db8::1]:5000"])  # fmt: skip
def test_https_is_the_scheme_of_every_host_that_is_not_this_machine(host):
    assert Transport(host).base == f"https://{host}"


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "registry.localhost", "127.1"])
def test_this_machine_is_asked_over_http(host):
    assert is_loopback(host)
    assert Transport(host).base == f"http://{host}"


def test_a_registry_on_this_machine_that_speaks_tls_is_found_out(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        transport = connect(server, ca=str(cert))
        assert get(transport)[1] == b"{}"
        assert transport.base == f"https://{server.host}"
        assert get(transport)[1] == b"{}"
        assert [r.target for r in server.requests] == ["/v2/", "/v2/"], "nothing but the requests themselves"


def test_a_tls_port_that_is_asked_with_a_head_first_is_found_out(tmp_path, connect):
    """The 400 that Go answers has no words for a HEAD: whether it is a TLS port has to be found out by a GET."""
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        server.manifest("a/b", b"{}", "v1")
        transport = connect(server, ca=str(cert))
        response = transport.request("HEAD", "/v2/a/b/manifests/v1", "test")
        assert response.status_code == 200
        assert transport.base == f"https://{server.host}"
        assert [r.method for r in server.requests] == ["HEAD"]


@pytest.mark.parametrize("probe", [{"status": 200}, {"status": 400, "body": b"no"}, {"drop": "before"}])
def test_a_bad_head_request_to_a_registry_without_tls_is_a_bad_request(server, connect, probe):
    server.on("HEAD", "/v2/x", status=400, times=None)
    server.on("GET", "/v2/", times=None, **probe)
    transport = connect(server)
    for _ in range(2):
        with pytest.raises(errors.RegistryError) as caught:
            transport.request("HEAD", "/v2/x", "test")
        assert caught.value.status == 400
    assert transport.base == f"http://{server.host}"
    assert len(server.seen("GET")) == 1, "it is asked what it speaks once"


def test_a_tls_port_that_just_hangs_up_on_plain_http_is_found_out(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key), tls_words=False) as server:
        assert get(connect(server, ca=str(cert)))[1] == b"{}"


def test_many_threads_find_out_about_tls_together(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        transport = connect(server, ca=str(cert))
        failures, barrier = [], threading.Barrier(8)

        def work():
            barrier.wait()
            try:
                get(transport)
            except Exception as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert failures == []


def test_an_unknown_certificate_is_refused_with_advice(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        with pytest.raises(errors.ConnectionFailed) as caught:
            get(connect(server, retries=0))
        assert "certificate" in str(caught.value)
        assert "ca=" in caught.value.hint
        assert server.requests == []


def test_an_insecure_host_may_have_any_certificate_and_no_warning_is_shouted(tmp_path, connect, recwarn):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        transport = connect(server, insecure=[server.host])
        assert get(transport)[1] == b"{}"
        assert "insecure=True" in repr(transport)
    assert [w for w in recwarn if "Insecure" in w.category.__name__] == []


def test_a_client_certificate_is_shown(tmp_path, connect):
    cert, key = certificate(tmp_path)
    mine, secret = certificate(tmp_path, "client")
    with FakeRegistry(tls=(cert, key), client_ca=mine) as server:
        assert get(connect(server, ca=str(cert), certificate=(str(mine), str(secret))))[1] == b"{}"
        with pytest.raises(errors.ConnectionFailed):
            get(connect(server, ca=str(cert), retries=0))


def test_a_client_certificate_is_for_the_registry_alone(tmp_path, connect):
    cert, key = certificate(tmp_path)
    mine, secret = certificate(tmp_path, "client")
    with FakeRegistry(tls=(cert, key)) as server, FakeRegistry(tls=(cert, key), client_ca=mine) as stranger:
        server.on("GET", "/v2/", status=307, headers={"Location": f"{stranger.url}/v2/"})
        with pytest.raises(errors.ConnectionFailed):
            get(connect(server, ca=str(cert), certificate=(str(mine), str(secret)), retries=0))
        assert stranger.requests == []


def test_laxity_with_one_host_is_not_laxity_with_where_it_leads(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server, FakeRegistry(tls=(cert, key)) as stranger:
        server.on("GET", "/v2/", status=307, headers={"Location": f"{stranger.url}/v2/"}, times=None)
        with pytest.raises(errors.ConnectionFailed, match="certificate"):
            get(connect(server, insecure=[server.host], retries=0))
        assert get(connect(server, insecure=[server.host, stranger.host]))[1] == b"{}"


def test_certs_d_gives_the_certificates_of_a_host(tmp_path, connect, monkeypatch):
    cert, key = certificate(tmp_path)
    mine, secret = certificate(tmp_path, "client")
    with FakeRegistry(tls=(cert, key), client_ca=mine) as server:
        folder = tmp_path / "home/.config/containers/certs.d" / server.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(cert.read_bytes())
        (folder / "client.cert").write_bytes(mine.read_bytes())
        (folder / "client.key").write_bytes(secret.read_bytes())
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert get(connect(server))[1] == b"{}"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environments_certificates_are_trusted(tmp_path, connect, monkeypatch, name):
    cert, key = certificate(tmp_path)
    for other_name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other_name, raising=False)
    monkeypatch.setenv(name, str(cert))
    with FakeRegistry(tls=(cert, key)) as server:
        assert get(connect(server))[1] == b"{}"


def test_a_certificate_file_that_is_missing_is_named(connect, tmp_path):
    with pytest.raises(errors.OcikitError, match=r"nothing\.pem"):
        get(connect("127.0.0.1:1", ca=str(tmp_path / "nothing.pem"), schemes={"127.0.0.1:1": "https"}, retries=0))


# -- what is sent along


def test_requests_say_who_asks_and_want_bytes_as_they_are(server, connect):
    get(connect(server))
    (request,) = server.requests
    assert request.headers["User-Agent"].startswith(f"ocikit/{__version__} ")
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in request.headers


def test_own_headers_and_user_agent_are_sent(server, connect):
    get(connect(server, headers={"X-Team": "data"}, user_agent="mine/1"))
    assert server.requests[0].headers["X-Team"] == "data"
    assert server.requests[0].headers["User-Agent"] == "mine/1"


def test_netrc_is_ignored(server, connect, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login eve password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.guard = basic
    get(connect(server, credentials=ADA))
    assert [r.headers.get("Authorization") for r in server.requests] == [None, BASIC]


def test_cookies_are_never_sent_back(server, connect):
    server.on("GET", "/v2/", headers={"Set-Cookie": ["sid=harbor; Path=/", "_gorilla_csrf=x; Path=/"]}, times=None)
    transport = connect(server)
    get(transport), get(transport)
    assert [r.headers.get("Cookie") for r in server.requests] == [None, None]


def test_one_connection_serves_many_requests(server, connect):
    transport = connect(server)
    for _ in range(5):
        get(transport)
    assert server.connections == 1


def test_a_target_is_sent_as_it_is(server, connect):
    target = "/v2/a/blobs/uploads/x?_state=a%2Bb%3D&p=a+b&empty="
    with pytest.raises(errors.RegistryError):
        get(connect(server), target)
    assert server.requests[0].target == target


# -- redirects


def test_a_redirect_to_another_host_loses_authorization_and_own_headers(server, other, connect):
    server.guard = basic
    digest = other.blob("a/b", b"content")
    server.on("GET", "/v2/a/b/.*", when=lambda r: "Authorization" in r.headers,
              status=307, headers={"Location": f"http://{other.host}/v2/a/b/blobs/{digest}"})  # fmt: skip
    _, body = get(connect(server, credentials=ADA, headers={"X-Key": SECRET}), f"/v2/a/b/blobs/{digest}")
    assert body == b"content"
    assert [r.headers.get("Authorization") for r in server.requests] == [None, BASIC]
    (led,) = other.requests
    assert "Authorization" not in led.headers and "X-Key" not in led.headers
    assert led.headers["User-Agent"].startswith("ocikit/")


def test_a_redirect_to_another_name_of_the_same_port_loses_authorization(server, connect):
    server.guard = basic
    server.on("GET", "/v2/there", status=200)
    server.on("GET", "/v2/here", when=lambda r: "Authorization" in r.headers,
              status=302, headers={"Location": f"http://localhost:{server.port}/v2/there"})  # fmt: skip
    get(connect(server, credentials=ADA), "/v2/here")
    assert [r.headers.get("Authorization") for r in server.seen("GET", "/v2/there")] == [None]


def test_a_redirect_on_the_same_host_keeps_authorization(server, connect):
    server.guard = basic
    server.on("GET", "/v2/old", when=lambda r: "Authorization" in r.headers, status=301, headers={"Location": "/v2/"})
    get(connect(server, credentials=ADA), "/v2/old")
    assert server.requests[-1].path == "/v2/"
    assert server.requests[-1].headers["Authorization"] == BASIC


def test_a_stranger_cannot_send_us_back_with_our_authorization(server, other, connect):
    """Another host must not choose what we do to the registry in our name."""
    server.guard = basic
    transport = connect(server, credentials=ADA)
    get(transport)
    server.on("PUT", "/upload", status=307, headers={"Location": f"{other.url}/elsewhere"})
    other.on("PUT", "/elsewhere", status=307, headers={"Location": f"{server.url}/v2/a/manifests/v1"})
    with pytest.raises(errors.Unauthorized):
        transport.request("PUT", "/upload", "test", body=b"{}")
    assert [r.headers.get("Authorization") for r in server.seen("PUT", ".*manifests.*")] == [None]


def test_a_401_from_where_a_redirect_leads_gets_no_credentials(server, other, connect):
    server.guard = basic
    server.on("GET", "/v2/x", when=lambda r: "Authorization" in r.headers, status=307, headers={"Location": f"{other.url}/v2/"}, times=None)  # fmt: skip
    other.guard = basic
    with pytest.raises(errors.Unauthorized):
        get(connect(server, credentials=ADA), "/v2/x")
    assert [r.headers.get("Authorization") for r in other.requests] == [None]


def test_ten_redirects_are_followed_and_no_more(server, connect):
    for n in range(11):
        server.on("GET", f"/r{n}", status=302, headers={"Location": f"/r{n + 1}"}, times=None)
    server.on("GET", "/r11", status=200, body=b"there", times=None)
    assert get(connect(server), "/r1")[1] == b"there"
    with pytest.raises(errors.InvalidResponse, match="more than 10"):
        get(connect(server), "/r0")


def test_a_redirect_from_https_to_http_is_refused(tmp_path, connect, other):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        server.on("GET", "/v2/", status=302, headers={"Location": f"http://{other.host}/v2/"})
        with pytest.raises(errors.InvalidResponse, match="https"):
            get(connect(server, ca=str(cert)))
    assert other.requests == []


def test_a_body_goes_along_with_a_307(server, other, connect):
    server.on("PUT", "/x", status=307, headers={"Location": f"{other.url}/y"})
    other.on("PUT", "/y", status=201)
    connect(server).request("PUT", "/x", "test", body=b"content").close()
    assert [r.body for r in (*server.requests, *other.requests)] == [b"content", b"content"]


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_write_is_not_turned_into_a_read_by_a_redirect(server, connect, status):
    server.on("PUT", "/x", status=status, headers={"Location": "/v2/"})
    with pytest.raises(errors.InvalidResponse, match=str(status)):
        connect(server).request("PUT", "/x", "test", body=b"content")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [300, 302, 304])
def test_a_redirect_to_nowhere_is_not_a_success(server, connect, status):
    server.on("(GET|HEAD)", "/v2/", status=status, times=None)
    with pytest.raises(errors.InvalidResponse, match=str(status)):
        get(connect(server))
    with pytest.raises(errors.InvalidResponse):
        connect(server).request("HEAD", "/v2/", "test")


@pytest.mark.parametrize(
    ("source", "target", "allowed"),
    [
        ("https://r.io/v2/", "https://cdn.io/b", True),
        ("https://r.io/v2/", "http://r.io/b", False),
        ("http://r.io/v2/", "https://r.io/b", True),
        ("https://r.io/", "https://127.0.0.1/", False),
        ("https://r.io/", "https://localhost:5000/", False),
        ("https://r.io/", "https://localhost./", False),
        ("https://r.io/", "https://x.localhost/", False),
        ("https://r.io/", "https://127.1/", False),
        ("https://r.io/", "https://0x7f000001/", False),
        ("https://r.io/", "https://2130706433/", False),
        ("https://r.io/", "https://0.0.0.0/", False),
        ("https://r.io/", "https://[::1]/", False),
        ("https://r.io/", "https://[::ffff:127.0.0.1]/", False),
        ("https://r.io/", "https://169.254.169.254/latest", False),
        ("https://r.io/", "https://[fe80::1%25eth0]/", False),
        ("https://r.io/", "https://metadata.google.internal/", False),
        ("http://10.0.0.1/", "http://169.254.169.254/latest", False),
        ("http://localhost:5000/", "http://169.254.169.254/latest", False),
        ("https://r.io/", "https://10.0.0.5/b", True),
        ("http://127.0.0.1:5000/", "http://localhost:9000/b", True),
        ("http://10.0.0.1/", "http://127.0.0.1/b", True),
        ("http://169.254.7.7:5000/", "http://169.254.7.7:9000/", True),
        ("https://r.io/", "ftp://r.io/b", False),
        ("https://r.io/", "file:///etc/passwd", False),
        ("https://r.io/", "https://r.io:notaport/", False),
        ("https://r.io/", "https://[::1/", False),
    ],
)
def test_steps_from_one_host_to_another(source, target, allowed):
    if allowed:
        check_redirect(source, target)
    else:
        with pytest.raises(errors.InvalidResponse):
            check_redirect(source, target)


def test_an_origin_is_scheme_host_and_port():
    assert Origin.of("https://R.io/a") == Origin.of("https://r.io:443/b?c")
    assert Origin.of("http://r.io") != Origin.of("https://r.io")
    assert Origin.of("https://r.io:8443") != Origin.of("https://r.io")


# -- retries


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_failure_that_may_pass_is_tried_again(server, connect, status):
    server.on("GET", "/v2/", status=status, headers={"Retry-After": "0"}, times=3)
    assert get(connect(server))[1] == b"{}"
    assert len(server.requests) == 4


@pytest.mark.timeout(60)
def test_retry_after_in_seconds_is_waited_for(server, connect, caplog):
    server.on("GET", "/v2/", status=429, headers={"Retry-After": "1"})
    caplog.set_level(logging.INFO, "ocikit")
    started = time.monotonic()
    get(connect(server))
    assert time.monotonic() - started >= 1.0
    assert "trying again in 1.0 s" in caplog.text


@pytest.mark.timeout(60)
def test_retry_after_as_a_date_is_waited_for(server, connect):
    when = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.on("GET", "/v2/", status=503, headers={"Retry-After": when})
    started = time.monotonic()
    get(connect(server))
    assert time.monotonic() - started >= 0.5


@pytest.mark.timeout(20)
def test_a_date_in_the_past_means_now(server, connect):
    server.on("GET", "/v2/", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    get(connect(server))


@pytest.mark.parametrize(("status", "kind"), [(429, errors.RateLimited), (503, errors.RegistryError)])
def test_a_registry_that_wants_us_to_wait_too_long_gets_an_error_instead(server, connect, status, kind):
    server.on("GET", "/v2/", status=status, headers={"Retry-After": "3600"})
    transport = connect(server, max_wait=2)
    with pytest.raises(kind, match=str(status)) as caught:
        get(transport)
    assert caught.value.retry_after == 3600 and "wait 1 h" in caught.value.hint
    assert len(server.requests) == 1
    get(transport)


@pytest.mark.parametrize(
    ("headers", "limit", "remaining", "window"),
    [
        ({"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "76;w=21600"}, 100, 76, 21600),
        ({"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "7"}, 100, 7, 60),
        ({"X-RateLimit-Limit": " 5000 ", "X-RateLimit-Remaining": "0"}, 5000, 0, None),
        ({"ratelimit-limit": "x", "ratelimit-remaining": "1", "x-ratelimit-limit": "2", "x-ratelimit-remaining": "1"}, 2, 1, None),
    ],
)  # fmt: skip
def test_what_a_registry_says_of_its_limits_is_remembered(server, connect, headers, limit, remaining, window):
    server.on("GET", "/v2/", headers=headers)
    registry = Registry(connect(server))
    assert registry.rate_limit is None
    first, second = registry.ping().rate_limit, registry.ping().rate_limit
    assert first == second == registry.rate_limit == RateLimit(limit=limit, remaining=remaining, window=window)
    assert f"{remaining} of {limit} left" in registry.ping()._repr_html_()


@pytest.mark.parametrize(
    "headers",
    [
        {"ratelimit-limit": "100"}, {"ratelimit-remaining": "1"}, {"ratelimit-limit": "-1", "ratelimit-remaining": "1"},
        {"ratelimit-limit": "9" * 5000, "ratelimit-remaining": "1"}, {"ratelimit-limit": "1", "ratelimit-remaining": "\u0661"},
        {"ratelimit-limit": "1\x1b[31m", "ratelimit-remaining": "1"}, {"ratelimit-limit": "", "ratelimit-remaining": ""},
    ],
)  # fmt: skip
def test_limits_that_are_none_are_passed_over(headers):
    assert RateLimit.of(headers) is None


def test_the_limits_of_another_host_are_not_the_registrys(server, other, connect):
    server.on("GET", "/v2/x", status=307, headers={"Location": f"{other.url}/v2/"})
    other.on("GET", "/v2/", headers={"ratelimit-limit": "100", "ratelimit-remaining": "1"})
    transport = connect(server)
    get(transport, "/v2/x")
    assert transport.rate_limit is None


@pytest.mark.parametrize(("window", "said"), [(";w=21600", "0 of 100 left in 6 h"), (";w=90", "0 of 100 left in 1 min 30 s"), ("", "0 of 100 left")])  # fmt: skip
def test_what_is_left_is_in_the_error_of_a_registry_that_was_asked_too_often(server, connect, window, said):
    headers = {"ratelimit-limit": f"100{window}", "ratelimit-remaining": f"0{window}"}
    server.on("GET", "/v2/", status=429, headers=headers, times=None)
    with pytest.raises(errors.RateLimited) as caught:
        get(connect(server, retries=0))
    assert caught.value.message.endswith(f"; {said}")


@pytest.mark.timeout(20)
def test_waits_add_up_to_the_limit_and_no_further(server, connect):
    server.on("GET", "/v2/", status=429, headers={"Retry-After": "1"}, times=None)
    with pytest.raises(errors.RateLimited) as caught:
        get(connect(server, max_wait=1.5))
    assert caught.value.retry_after == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_what_one_thread_is_asked_to_wait_every_thread_waits(server, connect, status):
    server.on("GET", "/first", status=status, headers={"Retry-After": "1"})
    server.on("GET", "/first", status=200, times=None)
    server.faults.reverse()  # the 429 first
    server.on("GET", "/second", status=200, times=None)
    transport = connect(server)
    started = time.monotonic()
    thread = threading.Thread(target=get, args=(transport, "/first"))
    thread.start()
    while not server.requests:
        time.sleep(0.01)
    time.sleep(0.1)
    get(transport, "/second")
    assert time.monotonic() - started >= 0.9
    thread.join()


def test_a_wait_that_a_write_is_asked_for_holds_for_what_comes_after_it(server, connect):
    """Though the write itself is not repeated."""
    server.on("PUT", "/first", status=503, headers={"Retry-After": "1"})
    transport = connect(server)
    started = time.monotonic()
    with pytest.raises(errors.RegistryError, match="503"):
        transport.request("PUT", "/first", "test", retry=False)
    get(transport)
    assert time.monotonic() - started >= 0.9


def test_retries_end(server, connect):
    server.on("GET", "/v2/", status=503, headers={"Retry-After": "0"}, times=None)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server, retries=2))
    assert caught.value.status == 503
    assert "try again later" in caught.value.hint
    assert len(server.requests) == 3


@pytest.mark.parametrize("fault", [{"drop": "before"}, {"drop": "before", "reset": True}, {"drop": "after"}])
def test_a_connection_that_breaks_is_made_again(server, connect, fault):
    server.on("GET", "/v2/", **fault)
    transport = connect(server)
    get(transport, "/v2/_catalog")
    assert get(transport)[1] == b"{}"
    assert len(server.seen("GET", "/v2/")) == 2


def test_a_write_is_sent_again_with_the_same_bytes(server, connect, tmp_path):
    file = tmp_path / "content"
    file.write_bytes(b"-" * 100 + b"content")
    server.on("PUT", "/x", status=503, headers={"Retry-After": "0"}, times=2)
    server.on("PUT", "/x", status=201, times=None)
    server.faults.reverse()
    with file.open("rb") as stream:
        stream.seek(100)
        connect(server).request("PUT", "/x", "test", body=stream, length=7).close()
    assert [r.body for r in server.requests] == [b"content"] * 3


def test_a_write_whose_connection_breaks_is_sent_again_when_the_caller_says_that_it_may(server, connect):
    server.on("PUT", "/x", drop="before", reset=True)
    server.on("PUT", "/x", status=201, times=None)
    server.faults.reverse()
    connect(server).request("PUT", "/x", "test", body=b"content").close()
    assert [r.body for r in server.requests] == [b"content"] * 2


def test_a_write_that_must_not_be_repeated_is_sent_once(server, connect):
    server.on("PUT", "/x", drop="after", times=None)
    with pytest.raises(errors.ConnectionFailed):
        connect(server).request("PUT", "/x", "test", body=b"content", retry=False)
    assert len(server.requests) == 1


class Once:
    """A body that can be read once."""

    def __init__(self, content):
        self._content = content

    def read(self, size=-1):
        part, self._content = self._content[:size], self._content[size:]
        return part

    def seekable(self):
        return False

    def tell(self):
        raise OSError("not seekable")


@pytest.mark.parametrize("fault", [{"status": 503, "headers": {"Retry-After": "0"}}, {"drop": "before"}])
def test_a_body_that_was_read_is_never_sent_again(server, connect, fault):
    server.on("PUT", "/x", times=None, **fault)
    with pytest.raises((errors.RegistryError, errors.ConnectionFailed)):
        connect(server).request("PUT", "/x", "test", body=Once(b"content"), length=7)
    assert [r.body for r in server.requests] == [b"content"]


def test_a_body_that_was_read_cannot_follow_a_redirect(server, other, connect):
    server.on("PUT", "/x", status=307, headers={"Location": f"{other.url}/y"})
    with pytest.raises(errors.OcikitError, match="only once"):
        connect(server).request("PUT", "/x", "test", body=Once(b"content"), length=7)
    assert len(server.requests) == 1 and other.requests == []


@pytest.mark.parametrize("fault", [{"cut": 20}, {"cut": 0}, {"cut": 20, "chunked": True}, {"cut": 20, "reset": True}])
def test_a_document_whose_body_breaks_off_is_asked_for_again(server, open_repository, fault):
    raw = json.dumps({"schemaVersion": 2, "layers": [], "config": {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 2}}).encode()  # fmt: skip
    digest = server.manifest("a/b", raw, "v1")
    server.on("GET", ".*/manifests/.*", **fault)
    server.on("GET", ".*/tags/list", **fault)
    repository = open_repository(server)
    assert repository.get_manifest(digest)[0] == raw
    assert repository.tags() == ["v1"]
    assert [r.path.split("/")[-2] for r in server.requests] == ["manifests", "manifests", "tags", "tags"]


def test_a_document_whose_body_always_breaks_off_is_a_failed_connection(server, open_repository):
    digest = server.manifest("a/b", {"schemaVersion": 2}, "v1")
    server.on("GET", ".*/manifests/.*", cut=5, times=None)
    with pytest.raises(errors.ConnectionFailed, match="broke off"):
        open_repository(server, retries=1).get_manifest(digest)
    assert len(server.requests) == 2


# -- no answer


def test_a_registry_that_is_down_is_named_with_advice(connect):
    port = free_port()
    with pytest.raises(errors.ConnectionFailed) as caught:
        get(connect(f"127.0.0.1:{port}", retries=1))
    assert f"127.0.0.1:{port}" in str(caught.value) and "refused" in str(caught.value)
    assert "running" in caught.value.hint
    assert isinstance(caught.value, OSError) and not isinstance(caught.value, TimeoutError)


def test_a_host_that_does_not_exist_is_named(connect):
    with pytest.raises(errors.ConnectionFailed, match="no-such-host.invalid"):
        get(connect("no-such-host.invalid", retries=0))


def test_silence_is_timed_out(server, connect):
    server.on("GET", "/v2/", delay=3, times=None)
    with pytest.raises(errors.TimedOut) as caught:
        get(connect(server, read_timeout=0.3, retries=0))
    assert isinstance(caught.value, TimeoutError)
    assert "0.3 s" in caught.value.hint


def test_a_body_that_stalls_is_timed_out(server, open_repository):
    digest = server.manifest("a/b", {"schemaVersion": 2})
    server.on("GET", ".*", cut=5, stall=3, times=None)
    with pytest.raises(errors.TimedOut):
        open_repository(server, read_timeout=0.3, retries=0).get_manifest(digest)


def test_a_connection_that_is_never_accepted_is_timed_out(connect):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        filling = []
        try:
            for _ in range(8):  # the backlog
                filling.append(socket.socket())
                filling[-1].setblocking(False)
                filling[-1].connect_ex((host, port))
            with pytest.raises(errors.TimedOut):
                get(connect(f"{host}:{port}", connect_timeout=0.3, read_timeout=0.3, retries=0))
        finally:
            [s.close() for s in filling]


# -- proxies


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that answers itself, and HTTP_PROXY set to it."""
    with FakeRegistry() as running:
        running.on("GET", r"http://registry\.example/v2/", status=200, body=b"by proxy", times=None)
        running.on("CONNECT", ".*", status=403, times=None)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield running


PLAIN = {"schemes": {"registry.example": "http"}, "retries": 0}


def test_the_environments_proxy_is_used(proxy, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@{proxy.host}")
    assert get(connect("registry.example", **PLAIN))[1] == b"by proxy"
    (request,) = proxy.requests
    assert request.target == "http://registry.example/v2/"
    assert request.headers["Proxy-Authorization"] == "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()


def test_https_goes_through_a_tunnel(proxy, connect, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@{proxy.host}")
    with pytest.raises(errors.ConnectionFailed) as caught:
        get(connect("registry.example", retries=0))
    assert [(r.method, r.target) for r in proxy.requests] == [("CONNECT", "registry.example:443")]
    assert "HTTPS_PROXY" in caught.value.hint
    assert SECRET not in f"{caught.value}"


class Tunnel:
    """A proxy that connects every CONNECT to one port."""

    def __init__(self, port):
        self.port, self.targets = port, []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.targets.append(client.recv(65536).split()[1].decode())
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                upstream = socket.create_connection(("127.0.0.1", self.port))
                for a, b in ((client, upstream), (upstream, client)):
                    threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a, b):
        with contextlib.suppress(OSError), a, b:
            while data := a.recv(65536):
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)


def test_own_certificates_count_behind_a_proxy_too(tmp_path, connect, monkeypatch):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server, Tunnel(server.port) as tunnel:
        proxies = {"https": f"http://{tunnel.host}"}
        assert get(connect("registry.example", ca=str(cert), proxies=proxies))[1] == b"{}"
        assert get(connect("registry.example", insecure=["registry.example"], proxies=proxies))[1] == b"{}"
        with pytest.raises(errors.ConnectionFailed, match="certificate"):
            get(connect("registry.example", proxies=proxies, retries=0))
        assert tunnel.targets == ["registry.example:443"] * 3


def test_no_proxy_is_honoured(proxy, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    monkeypatch.setenv("no_proxy", "other.example,registry.example")
    with pytest.raises(errors.ConnectionFailed):
        get(connect("registry.example", connect_timeout=2, **PLAIN))
    assert proxy.requests == []


def test_a_proxy_may_be_passed(proxy, connect):
    assert get(connect("registry.example", proxies={"http": f"http://{proxy.host}"}, **PLAIN))[1] == b"by proxy"


def test_this_machine_is_never_asked_through_a_proxy(proxy, server, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    assert get(connect(server))[1] == b"{}"
    assert get(connect(f"localhost:{server.port}"))[1] == b"{}"
    assert proxy.requests == []


# -- processes, threads, loops


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_opens_connections_of_its_own(server, connect):
    transport = connect(server)
    get(transport)
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, get(transport)[1])
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answer:
        assert answer.read() == b"{}"
    os.waitpid(pid, 0)
    assert get(transport)[1] == b"{}"
    assert server.connections == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_process_is_not_held_up_by_locks_of_its_parent(server, connect):
    transport = connect(server)
    with transport._connections.lock, transport._auth._tokens._lock:
        pid = os.fork()
        if not pid:
            try:
                get(transport)
            finally:
                os._exit(0)
    for _ in range(100):
        if os.waitpid(pid, os.WNOHANG)[0]:
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        pytest.fail("the child hangs")
    assert len(server.requests) == 1


def test_a_running_event_loop_does_not_matter(server, connect):
    async def main():
        return get(connect(server))[1]

    assert asyncio.run(main()) == b"{}"


def test_many_threads_share_a_transport(server, connect):
    transport, bodies = connect(server, connections=8), []
    threads = [threading.Thread(target=lambda: bodies.append(get(transport)[1])) for _ in range(32)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert bodies == [b"{}"] * 32


def test_a_closed_transport_opens_new_connections(server, connect):
    transport = connect(server)
    get(transport)
    transport.close()
    get(transport)
    assert server.connections == 2


# -- warnings


def test_a_warning_of_the_registry_is_logged_once(server, connect, caplog):
    said = f'299 - "deprecated \\"soon\\" {server.port}"'
    server.on("GET", "/v2/", headers={"Warning": [said, f'299 - "another {server.port}"', '199 - "not ours"']}, times=None)  # fmt: skip
    transport = connect(server)
    for _ in range(3):
        get(transport)
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert texts == [f'{server.host} warns: deprecated "soon" {server.port}', f"{server.host} warns: another {server.port}"]  # fmt: skip


# -- failures in words


def test_an_error_repeats_the_registrys_words(server, connect):
    body = {
        "errors": [{"code": "DENIED", "message": "over quota", "detail": {"used": 3}}, {"code": "MINE", "message": "x"}]
    }
    server.on("GET", "/v2/", status=403, body=json.dumps(body).encode(), headers={"X-Request-Id": "r-17"})
    with pytest.raises(errors.Denied) as caught:
        get(connect(server))
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.code, error.status, error.method, error.host, error.request_id) == ("DENIED", 403, "GET", server.host, "r-17")  # fmt: skip
    assert [e["code"] for e in error.errors] == ["DENIED", "MINE"]
    for word in ("over quota", '{"used": 3}', "r-17", server.host, "test"):
        assert word in str(error)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "UNAUTHORIZED", errors.Unauthorized), (403, "DENIED", errors.Denied), (404, "NAME_UNKNOWN", errors.NameUnknown),
        (404, "MANIFEST_UNKNOWN", errors.ManifestUnknown), (404, "UNKNOWN", errors.ManifestUnknown),
        (404, "BLOB_UNKNOWN", errors.BlobUnknown), (404, "BLOB_UPLOAD_UNKNOWN", errors.UploadUnknown),
        (405, "", errors.Unsupported), (400, "UNSUPPORTED", errors.Unsupported), (413, "", errors.TooLarge),
        (416, "", errors.RangeInvalid), (429, "TOOMANYREQUESTS", errors.RateLimited), (400, "MANIFEST_INVALID", errors.UploadInvalid),
        (400, "DIGEST_INVALID", errors.UploadInvalid), (400, "SIZE_INVALID", errors.UploadInvalid), (418, "TEAPOT", errors.RegistryError),
    ],
)  # fmt: skip
def test_statuses_and_codes_have_types(server, connect, status, code, kind):
    body = json.dumps({"errors": [{"code": code}]}).encode() if code else b""
    server.on("GET", ".*", status=status, body=body, times=None)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server, retries=0), "/v2/a/manifests/v1")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert (code or str(status)) in str(caught.value)


@pytest.mark.parametrize("port_is_new", [True, False])
def test_the_words_of_a_400_are_read_even_in_the_first_answer(server, connect, port_is_new):
    transport = connect(server)
    if not port_is_new:
        get(transport)
    server.on("GET", "/v2/x", status=400, body=b'{"errors": [{"code": "NAME_INVALID", "message": "bad name"}]}')
    with pytest.raises(errors.RegistryError, match="bad name") as caught:
        get(transport, "/v2/x")
    assert caught.value.code == "NAME_INVALID"
    get(transport)
    assert server.connections <= 2


def test_a_html_page_is_named_by_its_title(server, connect):
    page = b"<!DOCTYPE html><html><head><title>Sign in\n to Corp</title></head>" + b"<p>x</p>" * 1000
    server.on("GET", "/v2/", status=502, body=page, times=None)
    with pytest.raises(errors.RegistryError, match="Sign in") as caught:
        get(connect(server, retries=0))
    assert "<p>" not in str(caught.value)


def test_html_with_status_200_is_not_a_listing(server, open_repository):
    server.on("GET", ".*/tags/list", status=200, headers={"Content-Type": "text/html"}, body=b"<html>login</html>")
    with pytest.raises(errors.InvalidResponse, match="text/html") as caught:
        open_repository(server).tags()
    assert "login page" in caught.value.hint


def test_an_error_body_of_ten_megabytes_is_not_read(server, connect):
    server.on("GET", "/v2/", status=500, body=b"x" * 10_000_000, times=None)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server, retries=0))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"17", b"\xff\xfe\x00", b'{"errors": null}', b'{"errors": [1, null]}',
                                  b'{"errors": [{"code": 5, "message": ["x"]}]}', b'{"errors": {"code": "X"}}', b'{"errors":[{}]}',
                                  b"[" * 100_000])  # fmt: skip
def test_any_error_body_gives_an_error(server, connect, body):
    server.on("GET", "/v2/", status=418, body=body)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert type(caught.value) is errors.RegistryError
    assert f"{server.host} returned" in str(caught.value)
    repr(caught.value), pickle.dumps(caught.value), caught.value.code


def test_an_error_body_that_breaks_off_gives_an_error(server, connect):
    server.on("GET", "/v2/", status=418, body=b"x" * 1000, cut=10)
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert caught.value.status == 418


def test_a_compressed_error_body_is_read(server, connect):
    server.on(
        "GET", "/v2/", status=418, body=b'{"errors": [{"code": "TEAPOT", "message": "short and stout"}]}', gzip=True
    )
    with pytest.raises(errors.RegistryError, match="short and stout"):
        get(connect(server))


def test_control_characters_of_a_registry_stay_out_of_the_terminal(server, connect):
    server.on("GET", "/v2/", status=418, body=json.dumps({"errors": [{"code": "X\x1b[2J", "message": "\x1b]0;title\x07hi"}]}).encode())  # fmt: skip
    with pytest.raises(errors.RegistryError) as caught:
        get(connect(server))
    assert "\x1b" not in str(caught.value) and "\x07" not in str(caught.value)


def test_no_secret_is_in_a_message_a_repr_or_a_log(server, other, connect, caplog):
    caplog.set_level(logging.DEBUG, "ocikit")
    server.guard = basic
    signed = f"{other.url}/b?X-Amz-Signature={SECRET}&sig={SECRET}"
    server.on("GET", "/v2/x", when=lambda r: "Authorization" in r.headers, status=307, headers={"Location": signed}, times=None)  # fmt: skip
    other.on("GET", "/b", status=403, body=b"<html>no</html>", times=None)
    transport = connect(server, credentials=ADA, headers={"X-Key": SECRET}, proxies={"http": f"http://u:{SECRET}@p"})
    with pytest.raises(errors.Denied) as caught:
        get(transport, "/v2/x")
    other.__exit__()
    try:
        with pytest.raises(errors.ConnectionFailed) as gone:
            get(connect(server, credentials=ADA, retries=0), "/v2/x")
    finally:
        other.__enter__()
    everything = [str(caught.value), repr(caught.value), str(vars(caught.value)), repr(transport), repr(transport.network),
                  repr(transport._auth), str(gone.value), caplog.text]  # fmt: skip
    leaked = [
        text
        for text in everything
        if SECRET in text or BASIC in text or base64.b64encode(SECRET.encode()).decode() in text
    ]
    assert leaked == []


def test_a_network_is_a_value():
    assert Network(insecure=["a"]) == Network(insecure={"a"})
    assert SECRET not in repr(Network(proxies={"https": SECRET}, headers={"x": SECRET}, certificate=SECRET))
