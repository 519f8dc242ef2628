"""Retries: backoff, Retry-After, broken connections and timeouts."""

import email.utils
import json
import logging
import socket
import threading
import time

import pytest
from ocikit import errors

from tests.support.http import OneShotBody, free_port, get


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_temporary_failure_is_retried(server, connect, status):
    server.on("GET", "/v2/", status=status, headers={"Retry-After": "0"}, times=3)
    assert get(connect(server))[1] == b"{}"
    assert len(server.requests) == 4


@pytest.mark.timeout(60)
def test_retry_after_in_seconds_delays_retry(server, connect, caplog):
    server.on("GET", "/v2/", status=429, headers={"Retry-After": "1"})
    caplog.set_level(logging.INFO, "ocikit")
    started = time.monotonic()
    get(connect(server))
    assert time.monotonic() - started >= 1.0
    assert "trying again in 1.0 s" in caplog.text


@pytest.mark.timeout(60)
def test_retry_after_as_date_delays_retry(server, connect):
    when = email.utils.formatdate(time.time() + 2, usegmt=True)
    server.on("GET", "/v2/", status=503, headers={"Retry-After": when})
    started = time.monotonic()
    get(connect(server))
    assert time.monotonic() - started >= 0.5


@pytest.mark.timeout(20)
def test_retry_after_in_the_past_retries_at_once(server, connect):
    server.on("GET", "/v2/", status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"})
    get(connect(server))


@pytest.mark.parametrize(("status", "kind"), [(429, errors.RateLimited), (503, errors.RegistryError)])
def test_retry_after_above_max_wait_raises(server, connect, status, kind):
    server.on("GET", "/v2/", status=status, headers={"Retry-After": "3600"})
    transport = connect(server, max_wait=2)
    with pytest.raises(kind, match=str(status)) as caught:
        get(transport)
    assert caught.value.retry_after == 3600 and "wait 1 h" in caught.value.hint
    assert len(server.requests) == 1
    get(transport)


@pytest.mark.timeout(20)
def test_total_wait_stays_below_max_wait(server, connect):
    server.on("GET", "/v2/", status=429, headers={"Retry-After": "1"}, times=None)
    with pytest.raises(errors.RateLimited) as caught:
        get(connect(server, max_wait=1.5))
    assert caught.value.retry_after == 1
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_delays_all_threads(server, connect, status):
    server.on("GET", "/first", status=status, headers={"Retry-After": "1"})
    server.on("GET", "/first", status=200, times=None)
    server.faults.reverse()  # the 429 comes first
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


def test_retry_after_of_unrepeated_write_delays_next_request(server, connect):
    """The write itself is not repeated."""
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
def test_broken_connection_is_retried(server, connect, fault):
    server.on("GET", "/v2/", **fault)
    transport = connect(server)
    get(transport, "/v2/_catalog")
    assert get(transport)[1] == b"{}"
    assert len(server.seen("GET", "/v2/")) == 2


def test_write_is_retried_with_same_bytes(server, connect, tmp_path):
    file = tmp_path / "content"
    file.write_bytes(b"-" * 100 + b"content")
    server.on("PUT", "/x", status=503, headers={"Retry-After": "0"}, times=2)
    server.on("PUT", "/x", status=201, times=None)
    server.faults.reverse()
    with file.open("rb") as stream:
        stream.seek(100)
        connect(server).request("PUT", "/x", "test", body=stream, length=7).close()
    assert [r.body for r in server.requests] == [b"content"] * 3


def test_repeatable_write_is_retried_after_broken_connection(server, connect):
    server.on("PUT", "/x", drop="before", reset=True)
    server.on("PUT", "/x", status=201, times=None)
    server.faults.reverse()
    connect(server).request("PUT", "/x", "test", body=b"content").close()
    assert [r.body for r in server.requests] == [b"content"] * 2


def test_unrepeatable_write_is_sent_once(server, connect):
    server.on("PUT", "/x", drop="after", times=None)
    with pytest.raises(errors.ConnectionFailed):
        connect(server).request("PUT", "/x", "test", body=b"content", retry=False)
    assert len(server.requests) == 1


@pytest.mark.parametrize("fault", [{"status": 503, "headers": {"Retry-After": "0"}}, {"drop": "before"}])
def test_one_shot_body_is_never_sent_again(server, connect, fault):
    server.on("PUT", "/x", times=None, **fault)
    with pytest.raises((errors.RegistryError, errors.ConnectionFailed)):
        connect(server).request("PUT", "/x", "test", body=OneShotBody(b"content"), length=7)
    assert [r.body for r in server.requests] == [b"content"]


@pytest.mark.parametrize("fault", [{"cut": 20}, {"cut": 0}, {"cut": 20, "chunked": True}, {"cut": 20, "reset": True}])
def test_interrupted_document_is_requested_again(server, open_repository, fault):
    raw = json.dumps(
        {"schemaVersion": 2, "layers": [], "config": {"mediaType": "x", "digest": "sha256:" + "0" * 64, "size": 2}}
    ).encode()
    digest = server.manifest("a/b", raw, "v1")
    server.on("GET", ".*/manifests/.*", **fault)
    server.on("GET", ".*/tags/list", **fault)
    repository = open_repository(server)
    assert repository.get_manifest(digest)[0] == raw
    assert repository.tags() == ["v1"]
    assert [r.path.split("/")[-2] for r in server.requests] == ["manifests", "manifests", "tags", "tags"]


def test_document_that_always_breaks_off_raises_connection_failed(server, open_repository):
    digest = server.manifest("a/b", {"schemaVersion": 2}, "v1")
    server.on("GET", ".*/manifests/.*", cut=5, times=None)
    with pytest.raises(errors.ConnectionFailed, match="broke off"):
        open_repository(server, retries=1).get_manifest(digest)
    assert len(server.requests) == 2


def test_closed_port_raises_with_address_and_hint(connect):
    port = free_port()
    with pytest.raises(errors.ConnectionFailed) as caught:
        get(connect(f"127.0.0.1:{port}", retries=1))
    assert f"127.0.0.1:{port}" in str(caught.value) and "refused" in str(caught.value)
    assert "running" in caught.value.hint
    assert isinstance(caught.value, OSError) and not isinstance(caught.value, TimeoutError)


def test_unknown_host_is_named(connect):
    with pytest.raises(errors.ConnectionFailed, match="no-such-host.invalid"):
        get(connect("no-such-host.invalid", retries=0))


def test_silent_server_times_out(server, connect):
    server.on("GET", "/v2/", delay=3, times=None)
    with pytest.raises(errors.TimedOut) as caught:
        get(connect(server, read_timeout=0.3, retries=0))
    assert isinstance(caught.value, TimeoutError)
    assert "0.3 s" in caught.value.hint


def test_stalled_body_times_out(server, open_repository):
    digest = server.manifest("a/b", {"schemaVersion": 2})
    server.on("GET", ".*", cut=5, stall=3, times=None)
    with pytest.raises(errors.TimedOut):
        open_repository(server, read_timeout=0.3, retries=0).get_manifest(digest)


def test_unaccepted_connection_times_out(connect):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        host, port = listener.getsockname()
        filling = []
        try:
            for _ in range(8):  # fills the backlog
                filling.append(socket.socket())
                filling[-1].setblocking(False)
                filling[-1].connect_ex((host, port))
            with pytest.raises(errors.TimedOut):
                get(connect(f"{host}:{port}", connect_timeout=0.3, read_timeout=0.3, retries=0))
        finally:
            [s.close() for s in filling]
