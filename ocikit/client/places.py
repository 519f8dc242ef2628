"""Registries and repositories that this computer knows: the explorer offers them without a request."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from attrs import frozen

from ocikit.errors import OcikitError
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.http.urls import is_loopback
from ocikit.store.cache.cache import Cache

_SHOWN = 200  # cached repositories


@frozen
class Place:
    """An address, and how it is known."""

    address: str
    note: str


def known_places(cache: Cache, keychain: Keychain, running: Iterable[str] = ()) -> list[Place]:
    """Return registries and repositories, without a request and without running a credential helper.

    Args:
        cache: Cache whose repositories are offered, except those of local registries that have stopped.
        keychain: The registries in its files are offered.
        running: Hosts of registries that this process runs.
    """
    hosts = tuple(running)
    found = {host: Place(host, "running here") for host in hosts}
    with contextlib.suppress(OcikitError):  # a malformed file; a login reports it
        for host in keychain.stored_hosts():
            found.setdefault(host, Place(host, "logged in"))
    for address in _cached(cache, hosts):
        found.setdefault(address, Place(address, "in the cache"))
        if len(found) >= _SHOWN:
            break
    return list(found.values())


def _cached(cache: Cache, running: tuple[str, ...]) -> Iterator[str]:
    for host in cache.hosts():
        # Another registry may have the port of a local one later
        if host in running or not is_loopback(host):
            yield from (f"{host}/{name}" for name in cache.repositories(host))
