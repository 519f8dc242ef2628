"""Schemes of registries: configured, guessed, and confirmed by responses."""

import threading

import pytest
from ocikit import errors
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import is_loopback

from tests.support.fake_registry import FakeRegistry, certificate
from tests.support.http import get


@pytest.mark.parametrize(
    "host", ["ghcr.io", "registry.example:5000", "10.0.0.1", "192.168.1.2:5000", "[2001:db8::1]:5000"]
)
def test_remote_hosts_use_https(host):
    assert Transport(host).base == f"https://{host}"


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1:5000", "[::1]:5000", "registry.localhost", "127.1"])
def test_loopback_hosts_use_http(host):
    assert is_loopback(host)
    assert Transport(host).base == f"http://{host}"


def test_tls_on_loopback_host_is_detected(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        transport = connect(server, ca=str(cert))
        assert get(transport)[1] == b"{}"
        assert transport.base == f"https://{server.host}"
        assert get(transport)[1] == b"{}"
        assert [r.target for r in server.requests] == ["/v2/", "/v2/"], "there is no probe"


def test_tls_is_detected_after_head_request(tmp_path, connect):
    """Go's 400 response to HEAD has no body, so a GET must detect the TLS port."""
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key)) as server:
        server.manifest("a/b", b"{}", "v1")
        transport = connect(server, ca=str(cert))
        response = transport.request("HEAD", "/v2/a/b/manifests/v1", "test")
        assert response.status_code == 200
        assert transport.base == f"https://{server.host}"
        assert [r.method for r in server.requests] == ["HEAD"]


@pytest.mark.parametrize("probe", [{"status": 200}, {"status": 400, "body": b"no"}, {"drop": "before"}])
def test_400_to_head_without_tls_raises_registry_error(server, connect, probe):
    server.on("HEAD", "/v2/x", status=400, times=None)
    server.on("GET", "/v2/", times=None, **probe)
    transport = connect(server)
    for _ in range(2):
        with pytest.raises(errors.RegistryError) as caught:
            transport.request("HEAD", "/v2/x", "test")
        assert caught.value.status == 400
    assert transport.base == f"http://{server.host}"
    assert len(server.seen("GET")) == 1, "the port is probed once"


def test_tls_port_that_closes_the_connection_is_detected(tmp_path, connect):
    cert, key = certificate(tmp_path)
    with FakeRegistry(tls=(cert, key), tls_words=False) as server:
        assert get(connect(server, ca=str(cert)))[1] == b"{}"


def test_threads_detect_tls_at_the_same_time(tmp_path, connect):
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
