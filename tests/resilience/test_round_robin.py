"""The load balancer of the cluster tests sends each request of a connection to the next server."""

import contextlib
from collections import Counter
from http.client import HTTPConnection

import pytest

from tests.support.fake_registry import FakeRegistry, Response
from tests.support.round_robin import RoundRobin


@pytest.fixture
def servers():
    with FakeRegistry() as first, FakeRegistry() as second:
        for name, each in (("first", first), ("second", second)):
            each.guard = lambda request, name=name: Response(200, {}, name.encode() + b":" + request.body)
        yield first, second


def test_requests_of_one_connection_alternate(servers):
    hosts = [each.host for each in servers]
    with RoundRobin(hosts) as balancer, contextlib.closing(HTTPConnection(balancer.host, timeout=10)) as connection:
        found = []
        for number in range(6):
            body = b"x" * number * 50_000
            connection.request("PUT", "/v2/", body)
            name, _, echo = connection.getresponse().read().partition(b":")
            assert echo == body
            found.append(name)
        assert found == [b"first", b"second"] * 3
        assert balancer.counts == Counter(dict.fromkeys(hosts, 3))


def test_stopped_server_gives_502(servers):
    with RoundRobin(["127.0.0.1:1"]) as balancer:
        connection = HTTPConnection(balancer.host, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/v2/")
            assert connection.getresponse().status == 502
