"""Registries: ping and catalog."""

import pytest
from ocikit import errors
from ocikit.remote.registry import Registry

from tests.support.manifests import RAW


@pytest.mark.parametrize(
    ("answer", "reachable", "authenticated", "problem"),
    [
        ({}, True, True, ""),
        ({"status": 401}, True, False, "credentials"),
        ({"status": 403}, True, False, "denied"),
        ({"status": 404}, True, False, "no registry"),
        ({"status": 500}, True, False, "500"),
        ({"status": 429}, True, False, "429"),
    ],
)
def test_ping_reports_status(server, connect, answer, reachable, authenticated, problem):
    server.on("GET", "/v2/", times=None, **answer)
    ping = Registry(connect(server, retries=0)).ping()
    assert (ping.reachable, ping.authenticated, bool(ping)) == (reachable, authenticated, authenticated)
    assert problem in ping.problem
    assert ping.url == server.url


def test_ping_of_closed_port_is_false(connect):
    ping = Registry(connect("127.0.0.1:9", retries=0)).ping()
    assert not ping and not ping.reachable and "refused" in ping.problem


def test_catalog_reads_all_pages(server, connect):
    for name in ("a", "b/c", "d"):
        server.manifest(name, RAW)
    server.page = 1
    assert list(Registry(connect(server)).catalog()) == ["a", "b/c", "d"]


def test_unauthorized_catalog_raises_with_login(server, connect):
    server.on("GET", "/v2/_catalog", status=401, times=None)
    with pytest.raises(errors.Unauthorized) as caught:
        list(Registry(connect(server)).catalog())
    assert caught.value.hint.startswith("log in with ocikit.login(")
    assert "many registries" not in caught.value.message


def test_denied_catalog_raises_with_alternative(server, connect):
    server.on("GET", "/v2/_catalog", status=403, times=None)
    with pytest.raises(errors.Denied) as caught:
        list(Registry(connect(server)).catalog())
    assert "only for administrators" in caught.value.hint and "ocikit.tags" in caught.value.hint


@pytest.mark.parametrize("status", [404, 405])
def test_missing_catalog_raises_with_alternative(server, connect, status):
    server.on("GET", "/v2/_catalog", status=status, times=None)
    with pytest.raises(errors.Unsupported) as caught:
        list(Registry(connect(server)).catalog())
    assert "ocikit.tags" in caught.value.hint
    assert caught.value.status == status
