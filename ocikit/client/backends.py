"""What references lead to: registries over HTTP, layouts and archives on disk, each opened once and shared."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ocikit.errors import Denied, OcikitError, OfflineError
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config.mirror import Mirror
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.mirrors import Mirrored, MirroredRepository, MirrorHost
from ocikit.remote.registry import Registry
from ocikit.remote.repository import Repository
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.reference import DOCKER_HUB, AnyReference, LayoutReference, Reference, RegistryHost
from ocikit.store.base import Source, Store
from ocikit.store.cache.cache import offline
from ocikit.store.streams import ByteStream

if TYPE_CHECKING:
    from ocikit.store.layout.layout import Layout


class Backends:
    """The registries and layouts of a session.

    Args:
        network: how to reach registries.
        keychain: who we are to them.
    """

    def __init__(self, network: Network, keychain: Keychain) -> None:
        self.network = network
        self.keychain = keychain
        self._tokens = TokenCache()
        self._transports: dict[str, Transport] = {}
        self._mirrors: dict[tuple[str, bool, bool], MirrorHost] = {}
        self._lock = threading.Lock()

    def registry(self, host: str, *, known: Callable[[str], Iterable[str]] = lambda _host: ()) -> Registry:
        """The registry at a host, with or without port. Raises: InvalidReference; OfflineError; Denied: it is blocked."""
        parsed = RegistryHost.parse(host)
        self._check_allowed(parsed.name)
        return Registry(self._transport(parsed), known=known)

    def _transport(self, host: RegistryHost) -> Transport:
        if offline():
            raise OfflineError(
                f"{host.name} would have to be asked, and OCIKIT_OFFLINE is set", hint="unset it to reach registries"
            )
        with self._lock:
            transport = self._transports.get(host.name)
            if transport is None:
                transport = self._transports[host.name] = Transport(
                    host.name,
                    api_host=host.api_host if host.name == DOCKER_HUB else None,
                    network=self.network,
                    keychain=self.keychain,
                    tokens=self._tokens,
                )
        return transport

    def repository(self, reference: Reference, *, push: bool = False) -> Repository:
        """The repository of a reference, at its own registry. Raises: OfflineError; Denied: it is blocked."""
        self._check_allowed(reference.name)
        return self._unchecked_repository(reference, push=push)

    def _unchecked_repository(self, reference: Reference, *, push: bool = False) -> Repository:
        return Registry(self._transport(RegistryHost(reference.registry))).repository(reference.repository, push=push)

    def _readable(self, reference: Reference) -> Repository:
        """The repository of a reference, with its mirrors."""
        route = self.network.route(reference)
        if route.blocked:
            raise blocked_error(reference.name)
        if not route.mirrors:
            return self._unchecked_repository(reference)
        places = [MirroredRepository(self._mirror(mirror), name, mirror, reference) for mirror, name in route.mirrors]
        primary = places.pop() if route.mirrors[-1][0].final else self._unchecked_repository(reference)
        return Mirrored(primary, places)

    def _mirror(self, mirror: Mirror) -> MirrorHost:
        """The host of a mirror, shared by all that it mirrors: a dead one is dead for every repository."""
        key = mirror.location.partition("/")[0], mirror.insecure, mirror.final
        with self._lock:
            if key not in self._mirrors:
                self._mirrors[key] = MirrorHost(mirror, self.network, self.keychain, self._tokens)
            return self._mirrors[key]

    def _check_allowed(self, name: str) -> None:
        if self.network.is_blocked(name):
            raise blocked_error(name)

    @contextlib.contextmanager
    def open_source(self, reference: AnyReference) -> Iterator[Source]:
        """Where a reference is read from. Raises: NotFound: if there is no such layout."""
        if isinstance(reference, Reference):
            yield _Offline(reference) if offline() else self._readable(reference)
        else:
            with self._layout(reference, write=False) as layout:
                yield layout

    @contextlib.contextmanager
    def open_store(self, reference: AnyReference, *, create: bool = True) -> Iterator[Store]:
        """Where a reference is written to; with `create`, a layout is made if there is none.

        Raises: NotFound: without `create`, if there is no such layout.
        """
        if isinstance(reference, Reference):
            yield self.repository(reference, push=True)
        else:
            with self._layout(reference, write=True, create=create) as layout:
                yield layout

    @contextlib.contextmanager
    def _layout(self, reference: LayoutReference, *, write: bool, create: bool = False) -> Iterator[Layout]:
        path = Path(reference.path).expanduser()
        if reference.scheme == "oci":
            from ocikit.store.layout.layout import Layout  # noqa: PLC0415 - loaded when there is one

            with contextlib.closing(Layout(path, create=create)) as layout:
                yield layout
            return
        if reference.scheme == "oci-archive":
            from ocikit.store.layout.archive import open_archive  # noqa: PLC0415 - tar is loaded for archives only
        else:
            from ocikit.store.layout.docker import open_docker_archive as open_archive  # noqa: PLC0415 - as above

        with open_archive(path, "a" if write and (create or path.is_file()) else "r") as layout:
            try:
                yield layout
            except OcikitError as error:
                # It is unpacked beside the archive for the time of the block; people know the archive
                error.message = error.message.replace(str(layout.path), str(path))
                error.args = (error.message,)
                raise

    def close(self) -> None:
        """Close every connection; what is used again opens new ones."""
        with self._lock:
            transports = [*self._transports.values(), *(mirror.transport for mirror in self._mirrors.values())]
        for transport in transports:
            transport.close()


class _Offline(Source):
    """A registry that must not be asked."""

    cacheable = True

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def resolve(self, reference: str) -> Descriptor:
        raise offline_error(f"{self._reference.name} {reference}")

    def open(self, descriptor: Descriptor) -> ByteStream:
        raise offline_error(str(descriptor))

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        raise offline_error(f"the list of referrers of {descriptor.digest.short}")


def blocked_error(name: str) -> Denied:
    """Return the error for a registry or repository that the session's settings block."""
    return Denied(
        f"{name} is blocked",
        hint="this session's Network(blocked=…), or a registries.conf that it was made from",
    )


def offline_error(what: str) -> OfflineError:
    """The error for what isn't in the cache when no registry may be asked."""
    return OfflineError(
        f"{what} isn't in the cache, and OCIKIT_OFFLINE is set", hint="unset it, or pull this once while online"
    )
