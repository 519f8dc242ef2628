"""NO_PROXY: the forms of Go's httpproxy and of curl."""

import pytest
from ocikit.remote.config.network import Network
from ocikit.remote.http.connections import Connections
from ocikit.remote.http.no_proxy import is_excluded

# Mostly the table of Go's httpproxy: UseProxyTests with NO_PROXY
# "foo.com, .barbaz.net, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, 2001:db8::52:0:1, [2001:db8::52:0:2]:443,
# [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
GO = (
    "foo.com, .barbaz.net, 192.168.1.1, 192.168.1.2:81, 192.168.1.3:80, 10.0.0.0/30, 2001:db8::52:0:1,"
    " [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64"
)


@pytest.mark.parametrize(
    ("host", "port", "excluded"),
    [
        ("barbaz.net", 80, False), ("www.barbaz.net", 80, True), ("foobarbaz.net", 80, False),
        ("foo.com", 80, True), ("foofoo.com", 80, False), ("WWW.Foo.com", 443, True), ("foo.com.", 443, True),
        ("baz.com", 80, False), ("127.0.0.2", 80, False),
        ("192.168.1.1", 80, True), ("192.168.1.2", 80, False), ("192.168.1.2", 81, True),
        ("192.168.1.3", 80, True), ("192.168.1.3", 81, False), ("192.168.1.4", 80, False),
        ("10.0.0.2", 80, True), ("10.0.0.4", 80, False), ("::ffff:10.0.0.2", 80, True),
        ("2001:db8::52:0:1", 80, True), ("2001:db8::52:0:2", 443, True), ("2001:db8::52:0:2", 80, False),
        ("2001:db8::52:0:3", 80, True), ("2002:db8:a::123", 80, True), ("fe80::424b:c8be:1643:a1b6", 80, False),
    ],
)  # fmt: skip
def test_no_proxy_is_read_like_go_does(host, port, excluded):
    assert is_excluded(host, port, GO) is excluded


@pytest.mark.parametrize(
    ("pattern", "host", "excluded"),
    [
        ("*", "example.test", True), ("*.example.test", "r.example.test", True), ("*.example.test", "example.test", False),
        ("*.example.test", "a.b.example.test", True), ("*.example.test:443", "r.example.test", True),
        ("*.example.test:5000", "r.example.test", False), ("*example.test", "r.example.test", False),
        ("fd00::/8", "fd12::1", True), ("[fd00::]/8", "fd12::1", True), ("[fd00::7]", "fd00::7", True),
        ("fd00::/8", "fe80::1", False), ("10.0.0.0/8", "fd00::1", False), ("10.1.2.3/8", "10.200.0.1", True),
        ("10.0.0.0/255.0.0.0", "10.1.1.1", False), ("a.test b.test", "b.test", True), (" , ,", "b.test", False),
        (".", "b.test", False), (":443", "b.test", False), ("10.0.0.0/99", "10.0.0.1", False), ("test", "b.test", True),
    ],
)  # fmt: skip
def test_no_proxy_forms(pattern, host, excluded):
    assert is_excluded(host, 443, pattern) is excluded


@pytest.mark.parametrize(
    ("host", "proxied"), [("r.example.test", False), ("[fd12::1]:5000", False), ("other.test", True)]
)
def test_requests_to_excluded_hosts_use_no_proxy(monkeypatch, host, proxied):
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "*.example.test,fd00::/8")
    connections = Connections(host, lambda: f"https://{host}", Network())
    assert bool(connections._proxies(f"https://{host}/v2/")) is proxied
    connections = Connections(host, lambda: f"https://{host}", Network(proxies={"https": "http://proxy.test:3128"}))
    assert connections._proxies(f"https://{host}/v2/")  # explicit proxies are used for all hosts
