"""Addresses that the explorer offers: no request, no credential helper."""

import json

import ocikit
import pytest
from ocikit.client.places import known_places
from ocikit.remote.auth.keychain import Keychain
from ocikit.store.cache.cache import Cache


@pytest.fixture
def cache(tmp_path):
    """Return a cache with tags of two repositories on a registry elsewhere, and of two local registries."""
    for name in ("ghcr.io/ada/waves", "ghcr.io/ada/other", "127.0.0.1%3A1234/lab/waves", "localhost%3A5000/lab/x"):
        folder = tmp_path / "cache" / "refs" / name
        folder.mkdir(parents=True)
        (folder / "v1.json").write_text("{}")
    return Cache(tmp_path / "cache")


def keychain(home, config):
    (home / ".docker").mkdir(exist_ok=True)
    (home / ".docker" / "config.json").write_text(config)
    return Keychain(environ={"XDG_RUNTIME_DIR": str(home / "none")}, home=home)


def test_running_registries_come_first_then_logins_then_the_cache(cache, tmp_path):
    config = {
        "auths": {"https://index.docker.io/v1/": {}, "ghcr.io": {"auth": "YWRhOnNlY3JldA=="}},
        "credHelpers": {"quay.io/team": "never-run"},
    }
    places = known_places(cache, keychain(tmp_path, json.dumps(config)), ["127.0.0.1:1234"])
    assert [(place.address, place.note) for place in places] == [
        ("127.0.0.1:1234", "running here"),
        ("docker.io", "logged in"),
        ("ghcr.io", "logged in"),
        ("quay.io", "logged in"),
        ("127.0.0.1:1234/lab/waves", "in the cache"),
        ("ghcr.io/ada/other", "in the cache"),
        ("ghcr.io/ada/waves", "in the cache"),
    ]


def test_stopped_local_registries_are_not_offered(cache, tmp_path):
    places = known_places(cache, keychain(tmp_path, "{}"))
    assert [place.address for place in places] == ["ghcr.io/ada/other", "ghcr.io/ada/waves"]


def test_malformed_credential_file_leaves_the_other_places(cache, tmp_path):
    assert known_places(cache, keychain(tmp_path, "not JSON"))


def test_explorer_without_start_requests_nothing(server, cache):
    with ocikit.Session(cache=cache, progress=False) as session:
        explorer = ocikit.explore(session=session)
        assert explorer.wait()
        assert server.requests == []
        labels = [" ".join(label.split()) for label, _ in explorer.places.options]
        assert "ghcr.io/ada/waves in the cache" in labels
        assert "choose a registry" in explorer.status.value
        explorer.address.value = server.host
        assert explorer.wait()
        assert explorer.places_box.layout.display == "none"
        explorer.back.click()
        assert explorer.places_box.layout.display is None
        assert explorer.address.value == ""
        assert server.requests != []
