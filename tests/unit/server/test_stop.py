"""The stop of a server: load balancers first, then requests in progress, then the rest."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest

from tests.support.home import ROOT

pytestmark = pytest.mark.timeout(120)


class Command:
    """A `python -m ocikit serve` in a terminal, with its requests."""

    def __init__(self, folder, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ocikit", "serve", folder, "--port", "0", "--log-format", "json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=ROOT,
        )
        self.host = urlsplit(self.process.stdout.readline().split()[3].rstrip(";")).netloc

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.host, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.headers, response.read()

    def begin_upload(self, body):
        """Return a connection in the middle of an upload of twice the bytes."""
        location = self.request("POST", "/v2/t/half/blobs/uploads/")[1]["Location"]
        host, port = self.host.split(":")
        connection = socket.create_connection((host, int(port)), timeout=60)
        head = f"PATCH {location} HTTP/1.1\r\nHost: {self.host}\r\nContent-Length: {2 * len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        return connection

    def entries(self):
        """Return the lines of the log, after the end."""
        return [json.loads(line) for line in self.process.communicate(timeout=60)[1].splitlines() if line[0] == "{"]

    def refuses(self):
        host, port = self.host.split(":")
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except ConnectionRefusedError:
            return True
        return False


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*arguments):
        started.append(Command(tmp_path / "store", *arguments))
        return started[-1]

    yield start
    for command in started:
        if command.process.poll() is None:
            command.process.kill()
        command.process.communicate()


def wait_until(condition):
    while not condition():
        time.sleep(0.01)


def test_readyz_fails_before_server_refuses_connections(start):
    command = start("--drain-delay", "3", "--workers", "2")
    assert command.request("GET", "/readyz")[0] == 200
    command.process.send_signal(signal.SIGTERM)
    wait_until(lambda: command.request("GET", "/readyz")[0] == 503)
    for _ in range(10):
        assert command.request("GET", "/readyz")[0] == 503
        assert command.request("GET", "/healthz")[0] == 200
        assert command.request("GET", "/v2/")[0] == 200
    wait_until(command.refuses)
    assert command.process.wait(60) == 0


def test_second_signal_skips_the_delay(start):
    command = start("--drain-delay", "1000")
    command.process.send_signal(signal.SIGTERM)
    wait_until(lambda: command.request("GET", "/readyz")[0] == 503)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(60) == 0


def test_request_in_progress_finishes_during_the_stop(start):
    command = start("--drain", "60")
    connection = command.begin_upload(b"half")
    time.sleep(0.2)
    command.process.send_signal(signal.SIGTERM)
    wait_until(command.refuses)
    connection.sendall(b"rest")
    assert connection.recv(100).startswith(b"HTTP/1.1 202")
    connection.close()
    assert command.process.wait(60) == 0


def test_request_that_outlasts_the_stop_ends_by_itself(start):
    command = start("--drain", "4")
    with command.begin_upload(b"half") as connection:
        time.sleep(0.2)
        command.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionError):
            while connection.recv(100):
                pass
        entries = command.entries()
    # The process saw a client that had left, and it stored what had arrived, before it was killed
    (entry,) = [entry for entry in entries if entry["method"] == "PATCH"]
    assert (entry["status"], entry["received"]) == (400, 4)
    assert command.process.returncode == 0


def test_third_signal_kills_requests_in_progress(start):
    command = start("--drain", "1000")
    with command.begin_upload(b"half"):
        time.sleep(0.2)
        command.process.send_signal(signal.SIGTERM)
        wait_until(command.refuses)
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(60) == 0
