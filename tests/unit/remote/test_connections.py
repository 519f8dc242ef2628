"""Connections: certificates, proxies, forks and threads."""

import asyncio
import base64
import contextlib
import io
import os
import socket
import threading
import time

import pytest
import urllib3
from ocikit import errors

from tests.support.fake_registry import FakeRegistry, certificate
from tests.support.http import SECRET, get


def test_unknown_certificate_raises_with_hint(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        with pytest.raises(errors.ConnectionFailed) as caught:
            get(connect(server, retries=0))
        assert "certificate" in str(caught.value)
        assert "ca=" in caught.value.hint
        assert server.requests == []


def test_insecure_host_accepts_any_certificate_without_warning(tmp_path, connect, recwarn):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        transport = connect(server, insecure=[server.host])
        assert get(transport)[1] == b"{}"
        assert "insecure=True" in repr(transport)
    assert [w for w in recwarn if "Insecure" in w.category.__name__] == []


def test_client_certificate_is_sent(tmp_path, connect):
    cert, key = certificate(tmp_path)
    client_cert, client_key = certificate(tmp_path, "client")
    with FakeRegistry(tls=(cert, key), client_ca=client_cert) as server:
        assert get(connect(server, ca=str(cert), certificate=(str(client_cert), str(client_key))))[1] == b"{}"
        with pytest.raises(errors.ConnectionFailed):
            get(connect(server, ca=str(cert), retries=0))


def test_client_certificate_is_not_sent_to_redirect_target(tmp_path, connect):
    cert, key = certificate(tmp_path)
    client_cert, client_key = certificate(tmp_path, "client")
    with FakeRegistry(tls=(cert, key)) as server, FakeRegistry(tls=(cert, key), client_ca=client_cert) as target:
        server.on("GET", "/v2/", status=307, headers={"Location": f"{target.url}/v2/"})
        with pytest.raises(errors.ConnectionFailed):
            get(connect(server, ca=str(cert), certificate=(str(client_cert), str(client_key)), retries=0))
        assert target.requests == []


def test_insecure_setting_does_not_apply_to_redirect_target(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server, FakeRegistry(tls=(cert, key)) as target:
        server.on("GET", "/v2/", status=307, headers={"Location": f"{target.url}/v2/"}, times=None)
        with pytest.raises(errors.ConnectionFailed, match="certificate"):
            get(connect(server, insecure=[server.host], retries=0))
        assert get(connect(server, insecure=[server.host, target.host]))[1] == b"{}"


def test_certs_d_provides_certificates_of_host(tmp_path, connect, monkeypatch):
    cert, key = certificate(tmp_path)
    client_cert, client_key = certificate(tmp_path, "client")
    with FakeRegistry(tls=(cert, key), client_ca=client_cert) as server:
        folder = tmp_path / "home/.config/containers/certs.d" / server.host
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_bytes(cert.read_bytes())
        (folder / "client.cert").write_bytes(client_cert.read_bytes())
        (folder / "client.key").write_bytes(client_key.read_bytes())
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        assert get(connect(server))[1] == b"{}"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_certificates_of_environment_are_trusted(tmp_path, connect, monkeypatch, name):
    cert, key = certificate(tmp_path)
    for other_name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(other_name, raising=False)
    monkeypatch.setenv(name, str(cert))
    with FakeRegistry(tls=(cert, key)) as server:
        assert get(connect(server))[1] == b"{}"


def test_missing_certificate_file_is_named(connect, tmp_path):
    with pytest.raises(errors.OcikitError, match=r"nothing\.pem"):
        get(connect("127.0.0.1:1", ca=str(tmp_path / "nothing.pem"), schemes={"127.0.0.1:1": "https"}, retries=0))


@pytest.fixture
def proxy(monkeypatch):
    """A proxy that answers requests itself; no proxy variables are set."""
    with FakeRegistry() as running:
        running.on("GET", r"http://registry\.example/v2/", status=200, body=b"by proxy", times=None)
        running.on("CONNECT", ".*", status=403, times=None)
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield running


PLAIN = {"schemes": {"registry.example": "http"}, "retries": 0}


def test_proxy_of_environment_is_used(proxy, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://user:{SECRET}@{proxy.host}")
    assert get(connect("registry.example", **PLAIN))[1] == b"by proxy"
    (request,) = proxy.requests
    assert request.target == "http://registry.example/v2/"
    assert request.headers["Proxy-Authorization"] == "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()


def test_https_uses_a_tunnel(proxy, connect, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://user:{SECRET}@{proxy.host}")
    with pytest.raises(errors.ConnectionFailed) as caught:
        get(connect("registry.example", retries=0))
    assert [(r.method, r.target) for r in proxy.requests] == [("CONNECT", "registry.example:443")]
    assert "HTTPS_PROXY" in caught.value.hint
    assert SECRET not in f"{caught.value}"


class Tunnel:
    """A proxy that tunnels every CONNECT to one port."""

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


def test_configured_certificates_apply_behind_proxy(tmp_path, connect, monkeypatch):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server, Tunnel(server.port) as tunnel:
        proxies = {"https": f"http://{tunnel.host}"}
        assert get(connect("registry.example", ca=str(cert), proxies=proxies))[1] == b"{}"
        assert get(connect("registry.example", insecure=["registry.example"], proxies=proxies))[1] == b"{}"
        with pytest.raises(errors.ConnectionFailed, match="certificate"):
            get(connect("registry.example", proxies=proxies, retries=0))
        assert tunnel.targets == ["registry.example:443"] * 3


def test_no_proxy_is_respected(proxy, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    monkeypatch.setenv("no_proxy", "other.example,registry.example")
    with pytest.raises(errors.ConnectionFailed):
        get(connect("registry.example", connect_timeout=2, **PLAIN))
    assert proxy.requests == []


def test_configured_proxy_is_used(proxy, connect):
    assert get(connect("registry.example", proxies={"http": f"http://{proxy.host}"}, **PLAIN))[1] == b"by proxy"


def test_loopback_requests_bypass_proxy(proxy, server, connect, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
    assert get(connect(server))[1] == b"{}"
    assert get(connect(f"localhost:{server.port}"))[1] == b"{}"
    assert proxy.requests == []


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_forked_child_opens_its_own_connections(server, connect):
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
def test_forked_child_does_not_inherit_locks(server, connect):
    transport = connect(server)
    held, forked = threading.Event(), threading.Event()

    def hold():
        with transport._connections.lock, transport._auth._tokens._lock:
            held.set()
            forked.wait(30)

    threading.Thread(target=hold, daemon=True).start()
    held.wait(30)
    pid = os.fork()
    if not pid:
        try:
            get(transport)
        finally:
            os._exit(0)
    forked.set()
    for _ in range(100):
        if os.waitpid(pid, os.WNOHANG)[0]:
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        pytest.fail("the child hangs")
    assert len(server.requests) == 1


def test_requests_work_in_running_event_loop(server, connect):
    async def main():
        return get(connect(server))[1]

    assert asyncio.run(main()) == b"{}"


def test_threads_share_a_transport(server, connect):
    transport, bodies = connect(server, connections=8), []
    threads = [threading.Thread(target=lambda: bodies.append(get(transport)[1])) for _ in range(32)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert bodies == [b"{}"] * 32


def test_closed_transport_opens_new_connections(server, connect):
    transport = connect(server)
    get(transport)
    transport.close()
    get(transport)
    assert server.connections == 2


def test_one_connection_serves_many_requests(server, connect):
    transport = connect(server)
    for _ in range(5):
        get(transport)
    assert server.connections == 1


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\0b", "a\r"], ids=repr)
def test_header_with_line_break_is_not_sent(server, connect, value):
    transport = connect(server)
    with pytest.raises(ValueError, match="line break") as caught:
        transport.request("GET", "/v2/", "ask", headers={"X-Note": SECRET + value})
    assert SECRET not in str(caught.value)
    assert server.requests == []


def test_header_of_caller_replaces_own_in_any_case(server, connect):
    get(connect(server, headers={"user-agent": "mine", "ACCEPT": "text/x"}))
    names = [name.lower() for name in server.requests[0].headers]
    assert names.count("user-agent") == names.count("accept") == names.count("host") == 1
    assert server.requests[0].headers["User-Agent"] == "mine"


class _Counting:
    """A socket that counts what is sent at once."""

    def __init__(self, sock):
        self._sock = sock
        self.sent = []

    def sendall(self, data):
        self.sent.append(len(data))
        self._sock.sendall(data)

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_small_body_is_sent_together_with_headers(server, connect, monkeypatch):
    sockets = []

    def connected(connection):
        real(connection)
        connection.sock = _Counting(connection.sock)
        sockets.append(connection.sock)

    real = urllib3.connection.HTTPConnection.connect
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "connect", connected)
    server.on("PUT", "/v2/x", status=201, times=None)
    transport = connect(server)
    transport.request("PUT", "/v2/x", "send", body=b"x" * 1000)
    transport.request("PUT", "/v2/x", "send", body=io.BytesIO(b"x" * 1000), length=1000)
    assert len(sockets) == 1
    assert [n > 1000 for n in sockets[0].sent] == [True, True]
    assert [len(r.body) for r in server.requests] == [1000, 1000]


def test_response_without_body_returns_its_connection(server, connect):
    """The caller need not read it: an upload has several such responses for each blob."""
    server.on("PUT", "/v2/x", status=201, times=None)
    transport = connect(server)
    responses = [transport.request("PUT", "/v2/x", "send", body=b"x") for _ in range(3)]
    assert server.connections == 1
    assert [response.raw.read() for response in responses] == [b"", b"", b""]


def test_unread_response_closes_its_connection(server, connect):
    server.on("GET", "/v2/x", status=200, body=b"x" * 100_000, times=None)
    transport = connect(server)
    transport.request("GET", "/v2/x", "ask").close()
    transport.request("GET", "/v2/x", "ask")  # dropped without a call of close()
    assert transport.request("GET", "/v2/x", "ask").content == b"x" * 100_000
    assert server.connections == 3
