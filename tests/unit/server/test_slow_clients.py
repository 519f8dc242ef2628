"""Slow and greedy clients, and workers that end, in the real server process."""

import contextlib
import http.client
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import ocikit
import pytest
from ocikit.server import Application, memory_storage
from ocikit.server.http.transfer import SMALL_BODY
from ocikit.server.process.slow_clients import SlowClients

from tests.support.http import free_port
from tests.support.wsgi import MANIFEST, call, digest_of

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="connections are matched with the kernel's counters"),
]

ABSENT = "sha256:" + "0" * 64
FORM = "Content-Type: application/x-www-form-urlencoded"


def connect(port, head, *, buffer=None, source=None):
    connection = socket.socket()
    if source:
        connection.bind((source, 0))
    if buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    with contextlib.suppress(OSError):  # a surplus connection is closed while it sends
        connection.sendall(head.encode())
    return connection


@contextlib.contextmanager
def connections(port, count, head, **options):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(port, head, **options)) for _ in range(count)]


def head_of(method, path, *headers, length=5000):
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *headers)
    return "\r\n".join(lines) + "\r\n\r\n"


def get(port, path, method="GET", body=None, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()


def port_of(server):
    return int(server.host.rpartition(":")[2])


def trickle_until_closed(waiting, *, receive=False):
    """Send (or receive) a byte on each connection now and then, until all are closed."""
    waiting = list(waiting)
    while waiting:
        for connection in list(waiting):
            try:
                if receive:
                    closed = not connection.recv(1)
                else:
                    connection.send(b"a")
                    readable = select.select([connection], [], [], 0)[0]
                    closed = bool(readable) and not connection.recv(1000)
            except OSError:
                closed = True
            if closed:
                waiting.remove(connection)
        time.sleep(0.1)


@pytest.fixture(scope="module")
def guarded():
    """A server with a user and tokens that anonymous clients may pull from."""
    options = ocikit.ServerOptions(token=True, allow_anonymous_pull=True)
    with ocikit.serve(htpasswd={"ada": "pw"}, options=options) as server:
        yield port_of(server)


@pytest.fixture(scope="module")
def impatient():
    """A server that measures rates over two seconds."""
    with ocikit.serve(options=ocikit.ServerOptions(timeout=2)) as server:
        yield port_of(server)


# Small bodies


def test_600_slow_forms_block_no_others_and_are_closed(guarded):
    with connections(guarded, 600, head_of("POST", "/token", FORM) + "a") as slow:
        assert get(guarded, "/v2/")[0] == 401
        assert get(guarded, "/healthz") == (200, b'{"status":"ok"}')
        trickle_until_closed(slow)
    assert get(guarded, "/v2/")[0] == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_body_of_method_without_one_is_not_read(guarded, method):
    """600 rejected requests announce a body and do not send it."""
    path = f"/v2/team/x/manifests/{ABSENT}"
    with connections(guarded, 600, head_of(method, path)) as slow:
        assert get(guarded, "/v2/")[0] == 401
        for connection in slow:
            response = b""
            while chunk := connection.recv(10_000):
                response += chunk
            assert re.match(rb"HTTP/1.1 40[14]", response)
            assert b"connection: close" in response.lower()


def test_slow_manifest_is_closed_and_not_stored(impatient, monkeypatch):
    with connections(impatient, 2, head_of("PUT", "/v2/t/slow/manifests/v1", f"Content-Type: {MANIFEST}")) as slow:
        trickle_until_closed(slow)
    assert get(impatient, "/v2/t/slow/manifests/v1")[0] == 404


def test_body_after_deadline_returns_408(monkeypatch):
    """Under any WSGI server whose reads return early."""
    clock = [0.0]
    monkeypatch.setattr("ocikit.server.http.request.time.monotonic", lambda: clock[0])

    class Slow:
        def read(self, size):
            clock[0] += 5
            return b"a"

    registry = Application(memory_storage())
    response = call(
        registry, "PUT", "/v2/t/slow/manifests/v1", {"Content-Type": MANIFEST}, Slow(), CONTENT_LENGTH="5000"
    )
    assert response.status == 408
    assert "did not arrive within 30 s" in response.errors[0]["message"]
    assert SMALL_BODY == 10


# Blobs


def test_blob_below_minimum_rate_is_closed(impatient):
    head = head_of("POST", f"/v2/t/slow/blobs/uploads/?digest={ABSENT}", length=1_000_000)
    with connections(impatient, 3, head) as slow:
        assert get(impatient, "/v2/")[0] == 200
        trickle_until_closed(slow)


def test_reader_below_minimum_rate_is_closed():
    content = os.urandom(1 << 20) * 40
    path = f"/v2/t/slow/blobs/{digest_of(content)}"
    with ocikit.serve(options=ocikit.ServerOptions(timeout=2, log_format="json")) as server:
        port = port_of(server)
        assert get(port, f"/v2/t/slow/blobs/uploads/?digest={digest_of(content)}", "POST", content)[0] == 201
        with connections(port, 1, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n", buffer=4096) as (slow,):
            # The kernel may still send what it holds, so the log shows the end of the request
            while '"method":"GET","path":"/v2/t/slow/blobs' not in server.log:
                assert slow.recv(1)
                time.sleep(0.05)
        assert get(port, path)[1] == content


def test_fast_upload_survives_slow_ones_of_same_address(impatient):
    content = os.urandom(1 << 20)
    head = head_of("POST", f"/v2/t/slow/blobs/uploads/?digest={ABSENT}", length=1_000_000)
    fast = connect(
        impatient, head_of("POST", f"/v2/t/fast/blobs/uploads/?digest={digest_of(content)}", length=len(content))
    )
    with fast, connections(impatient, 3, head) as slow:
        thread = threading.Thread(target=trickle_until_closed, args=(slow,))
        thread.start()
        position = 0
        while thread.is_alive() and position < len(content) - 5000:
            fast.sendall(content[position : position + 2000])
            position += 2000
            time.sleep(0.05)
        thread.join()
        fast.sendall(content[position:])
        assert fast.recv(12) == b"HTTP/1.1 201"


def test_slow_clients_of_many_addresses_give_way():
    """All threads that wait for clients are taken, with the default timeout of two minutes."""
    head = head_of("POST", f"/v2/t/slow/blobs/uploads/?digest={ABSENT}", length=1_000_000)
    path = f"/v2/t/x/blobs/uploads/?digest={digest_of(b'abc')}"
    with ocikit.serve() as server, contextlib.ExitStack() as stack:
        port = port_of(server)
        for number in range(600):
            stack.enter_context(connect(port, head, source=f"127.1.{number // 250}.{number % 250 + 1}"))
        assert get(port, "/v2/")[0] == 200
        assert get(port, path, "POST", b"abc")[0] == 503
        while get(port, path, "POST", b"abc")[0] != 201:
            time.sleep(0.1)


# Shares


class Blocking:
    """A body that does not arrive before the end of the test."""

    def __init__(self):
        self.waiting, self.ended = threading.Semaphore(0), threading.Event()

    def read(self, size):
        self.waiting.release()
        self.ended.wait(60)
        return b""


def test_address_gets_a_share_of_threads():
    body, statuses = Blocking(), []
    registry = SlowClients(Application(memory_storage()), 60, threads=16)

    def push(address):
        response = call(
            registry,
            "POST",
            f"/v2/t/x/blobs/uploads/?digest={ABSENT}",
            (),
            body,
            CONTENT_LENGTH="5",
            REMOTE_ADDR=address,
        )
        statuses.append(response.status)
        return response

    threads = [threading.Thread(target=push, args=(f"2001:db8::{number:x}",)) for number in range(10)]
    for thread in threads:
        thread.start()
        body.waiting.acquire()
    try:
        # 14 of 16 threads wait for clients. One network of clients got 10 of them, twice as many as are free now
        refused = push("2001:db8::ffff")
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "TOOMANYREQUESTS", "5")
        others = [threading.Thread(target=push, args=(f"192.0.2.{number}",)) for number in range(4)]
        for thread in others:
            thread.start()
            body.waiting.acquire()
        threads += others
        busy = push("192.0.2.99")
        assert (busy.status, busy.headers["retry-after"]) == (503, "5")
        assert call(registry, "GET", "/v2/", REMOTE_ADDR="192.0.2.99").status == 200
    finally:
        body.ended.set()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [400] * 14 + [429, 503]
    # All threads are free again
    assert push("2001:db8::ffff").status == 400


@contextlib.contextmanager
def serve_command(tmp_path, limits):
    """Run `ocikit serve` in a shell with limits of descriptors; yield its process and port."""
    port = free_port()
    command = f"ulimit {limits}; exec {sys.executable} -m ocikit serve {tmp_path / 'store'} --port {port}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=log)
    try:
        assert process.stdout.readline().startswith(b"serving ")
        yield process, port
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def workers_of(process):
    task = f"/proc/{process.pid}/task/{process.pid}/children"
    return [int(pid) for pid in Path(task).read_text().split()]


def test_descriptor_limit_is_raised_at_start(tmp_path):
    with serve_command(tmp_path, "-n 4000; ulimit -Sn 300") as (process, port):
        (worker,) = workers_of(process)
        limits = Path(f"/proc/{worker}/limits").read_text()
        assert re.search(r"Max open files +4000 +4000", limits)
        with connections(port, 1100, "GET /v2/ HTTP/1.1\r\nHost: loc"):
            assert get(port, "/v2/")[0] == 200
            assert get(port, "/healthz")[0] == 200


def test_surplus_connections_of_an_address_are_closed(tmp_path):
    """With 400 descriptors, the server takes 136 connections, and 68 of one address."""
    with serve_command(tmp_path, "-n 400") as (_, port):
        with connections(port, 300, "GET /v2/ HTTP/1.1\r\nHost: loc") as slow:
            assert get(port, "/v2/")[0] == 200
            closed = set()
            while len(closed) < 300 - 136:
                closed.update(select.select(slow, [], [], 1)[0])
            assert get(port, "/v2/")[0] == 200


# Workers


def test_server_survives_worker_that_ends_three_times(tmp_path):
    with serve_command(tmp_path, "-n 1024") as (process, port):
        for _ in range(3):
            (worker,) = workers_of(process)
            os.kill(worker, signal.SIGKILL)
            while workers_of(process) in ([], [worker]):
                time.sleep(0.01)
            status = None
            while status is None:
                with contextlib.suppress(OSError):
                    status = get(port, "/v2/")[0]
            assert status == 200
        assert process.poll() is None
    log = (tmp_path / "log").read_text()
    found = re.findall(r"worker 1 ended unexpectedly and is started again (.*)", log)
    assert found == ["now", "in 0.5 s", "in 1 s"]


def test_connections_of_the_process_itself_stay_open():
    """The database may be on the machine of a client, such as a proxy: its connection has the same address."""
    with contextlib.ExitStack() as stack:
        listener, database = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        port = listener.getsockname()[1]
        client = stack.enter_context(socket.create_connection(listener.getsockname()))
        accepted = stack.enter_context(listener.accept()[0])
        own = stack.enter_context(socket.create_connection(database.getsockname()))
        served = stack.enter_context(database.accept()[0])
        assert SlowClients(Application(memory_storage()), 60, connections=0, port=port).close_slow() == 1
        client.settimeout(30)
        assert client.recv(1) == b"" == accepted.recv(1)
        own.sendall(b"x")
        assert served.recv(1) == b"x"
