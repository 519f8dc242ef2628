"""Requests to one registry: headers, cookies, warnings."""

import logging

import pytest
from ocikit import errors
from ocikit._version import __version__
from ocikit.remote.config.network import Network

from tests.support.http import ADA, BASIC, SECRET, get, require_basic


def test_requests_send_user_agent_and_identity_encoding(server, connect):
    get(connect(server))
    (request,) = server.requests
    assert request.headers["User-Agent"].startswith(f"ocikit/{__version__} ")
    assert request.headers["Accept-Encoding"] == "identity"
    assert "Authorization" not in request.headers


def test_configured_headers_and_user_agent_are_sent(server, connect):
    get(connect(server, headers={"X-Team": "data"}, user_agent="mine/1"))
    assert server.requests[0].headers["X-Team"] == "data"
    assert server.requests[0].headers["User-Agent"] == "mine/1"


def test_netrc_is_ignored(server, connect, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login eve password {SECRET}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    server.guard = require_basic
    get(connect(server, credentials=ADA))
    assert [r.headers.get("Authorization") for r in server.requests] == [None, BASIC]


def test_cookies_are_never_sent_back(server, connect):
    server.on("GET", "/v2/", headers={"Set-Cookie": ["sid=harbor; Path=/", "_gorilla_csrf=x; Path=/"]}, times=None)
    transport = connect(server)
    get(transport), get(transport)
    assert [r.headers.get("Cookie") for r in server.requests] == [None, None]


def test_target_is_sent_unchanged(server, connect):
    target = "/v2/a/blobs/uploads/x?_state=a%2Bb%3D&p=a+b&empty="
    with pytest.raises(errors.RegistryError):
        get(connect(server), target)
    assert server.requests[0].target == target


def test_registry_warning_is_logged_once(server, connect, caplog):
    warning = f'299 - "deprecated \\"soon\\" {server.port}"'
    server.on(
        "GET", "/v2/", headers={"Warning": [warning, f'299 - "another {server.port}"', '199 - "not ours"']}, times=None
    )
    transport = connect(server)
    for _ in range(3):
        get(transport)
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert texts == [
        f'{server.host} warns: deprecated "soon" {server.port}',
        f"{server.host} warns: another {server.port}",
    ]


def test_network_compares_by_value_and_hides_secrets():
    assert Network(insecure=["a"]) == Network(insecure={"a"})
    assert SECRET not in repr(Network(proxies={"https": SECRET}, headers={"x": SECRET}, certificate=SECRET))
