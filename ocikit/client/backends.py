"""Registries and layouts by reference."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ocikit.errors import Denied, OcikitError, OfflineError
from ocikit.forks import ForkSafeLock
from ocikit.remote.auth.keychain import Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config.mirror import Mirror
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.http.urls import is_loopback
from ocikit.remote.mirrors import Mirrored, MirroredRepository, MirrorHost
from ocikit.remote.registry import Registry
from ocikit.remote.repository import KnownNames, Repository, no_names
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.reference import DOCKER_HUB, AnyReference, LayoutReference, Reference, RegistryHost
from ocikit.store.base import Source, Store
from ocikit.store.cache.cache import offline
from ocikit.store.streams import ByteStream

if TYPE_CHECKING:
    from ocikit.store.layout.layout import Layout

_HOSTS = 64  # whose connections are kept; more would use up the files that a process may open


class Backends:
    """The registries and layouts of a session; connections to a host are shared.

    Args:
        network: How to reach registries.
        keychain: Credentials for registries.
        known: Returns the names of a host's repositories for hints and completion, without a request.
    """

    def __init__(self, network: Network, keychain: Keychain, *, known: KnownNames = no_names) -> None:
        self.network = network
        self.keychain = keychain
        self._known = known
        self._tokens = TokenCache()
        self._transports: dict[str, Transport] = {}
        self._mirrors: dict[tuple[str, bool, bool], MirrorHost] = {}
        self._lock = ForkSafeLock()

    def for_named_hosts(self, root: AnyReference) -> Backends:
        """Return the backends for references that the content of an artifact names, and not the user.

        Against credential forwarding, a pair of user and password without a host is for the host of the artifact only.

        Args:
            root: The artifact that the user named.
        """
        keychain = self.keychain.for_named_hosts(root.registry if isinstance(root, Reference) else "")
        return self if keychain is self.keychain else Backends(self.network, keychain, known=self._known)

    def registry(self, host: str) -> Registry:
        """Return the registry at a host.

        Args:
            host: The host, with or without port.

        Raises:
            InvalidReference: The host is invalid.
            OfflineError: Registries must not be contacted.
            Denied: The registry is blocked.
        """
        parsed = RegistryHost.parse(host)
        self._check_allowed(parsed.name)
        return Registry(self._transport(parsed), known=self._known)

    def _transport(self, host: RegistryHost) -> Transport:
        if offline():
            raise OfflineError(
                f"{host.name} can't be contacted: OCIKIT_OFFLINE is set", hint="unset it to reach registries"
            )
        oldest: Transport | None = None
        with self._lock:
            transport = self._transports.pop(host.name, None)
            if transport is not None:
                self._transports[host.name] = transport  # the last, because it is the most recently used
            else:
                if len(self._transports) >= _HOSTS:
                    oldest = self._transports.pop(next(iter(self._transports)))
                transport = self._transports[host.name] = Transport(
                    host.name,
                    api_host=host.api_host if host.name == DOCKER_HUB else None,
                    network=self.network,
                    keychain=self.keychain,
                    tokens=self._tokens,
                )
        if oldest is not None:
            oldest.close()
        return transport

    def repository(self, reference: Reference, *, push: bool = False) -> Repository:
        """Return the repository of a reference at its own registry, without mirrors.

        Args:
            reference: A reference in a registry.
            push: Request the permission to push with the first token.

        Raises:
            OfflineError: Registries must not be contacted.
            Denied: The repository is blocked.
        """
        self._check_allowed(reference.name)
        return self._unchecked_repository(reference, push=push)

    def _unchecked_repository(self, reference: Reference, *, push: bool = False) -> Repository:
        registry = Registry(self._transport(RegistryHost(reference.registry)), known=self._known)
        return registry.repository(reference.repository, push=push)

    def _mirrored_repository(self, reference: Reference) -> Repository:
        """Return the repository of a reference, read from its mirrors first."""
        route = self.network.route(reference)
        if route.blocked:
            raise blocked_error(reference.name)
        if not route.mirrors:
            return self._unchecked_repository(reference)
        mirrors = [
            MirroredRepository(self._mirror_host(mirror), name, mirror, reference) for mirror, name in route.mirrors
        ]
        primary = mirrors.pop() if route.mirrors[-1][0].final else self._unchecked_repository(reference)
        return Mirrored(primary, mirrors)

    def _mirror_host(self, mirror: Mirror) -> MirrorHost:
        """Return the host of a mirror; its repositories share its connections and backoff."""
        key = mirror.location.partition("/")[0], mirror.insecure, mirror.final
        with self._lock:
            if key not in self._mirrors:
                self._mirrors[key] = MirrorHost(mirror, self.network, self.keychain, self._tokens)
            return self._mirrors[key]

    def _check_allowed(self, name: str) -> None:
        if self.network.is_blocked(name):
            raise blocked_error(name)

    @contextlib.contextmanager
    def open_source(self, reference: AnyReference, *, mirrors: bool = True) -> Iterator[Source]:
        """Open the registry or layout of a reference for reading.

        Args:
            reference: The reference.
            mirrors: Read from mirrors of the registry first.

        Raises:
            NotFound: There is no such layout.
            Denied: The repository is blocked.
        """
        if isinstance(reference, LayoutReference):
            with self._open_layout(reference, write=False) as layout:
                yield layout
        elif not mirrors:
            yield self.repository(reference)
        else:
            yield _Offline(reference) if offline() else self._mirrored_repository(reference)

    def with_others(self, source: Source, blobs: Iterable[Descriptor]) -> Source:
        """Return a source that reads each blob where its descriptor was listed; the same one if all are there.

        Args:
            source: The registry or layout of an artifact.
            blobs: What is read. The layers of a model that the artifact extends have the reference of that model.
        """
        return source if all(blob.reference is None for blob in blobs) else _Several(source, self)

    @contextlib.contextmanager
    def open_store(self, reference: AnyReference, *, create: bool = True) -> Iterator[Store]:
        """Open the registry or layout of a reference for writing.

        Args:
            reference: The reference.
            create: Create a layout that does not exist.

        Raises:
            NotFound: There is no such layout.
            Denied: The repository is blocked.
            OfflineError: Registries must not be contacted.
        """
        if isinstance(reference, LayoutReference):
            with self._open_layout(reference, write=True, create=create) as layout:
                yield layout
        else:
            yield self.repository(reference, push=True)

    @contextlib.contextmanager
    def _open_layout(self, reference: LayoutReference, *, write: bool, create: bool = False) -> Iterator[Layout]:
        path = Path(reference.path).expanduser()
        if reference.scheme == "oci":
            from ocikit.store.layout.layout import Layout  # noqa: PLC0415 - 5 ms of import time only layouts need

            with contextlib.closing(Layout(path, create=create)) as layout:
                yield layout
            return
        if reference.scheme == "oci-archive":
            from ocikit.store.layout.archive import open_archive  # noqa: PLC0415 - only archives need tar
        else:
            from ocikit.store.layout.docker import open_docker_archive as open_archive  # noqa: PLC0415 - as above

        with open_archive(path, "a" if write and (create or path.is_file()) else "r") as layout:
            try:
                yield layout
            except OcikitError as error:
                # An archive is unpacked to a temporary folder for the block; name the archive instead
                raise error.reworded(error.message.replace(str(layout.path), str(path))) from error.__cause__

    def __reduce__(self) -> tuple[type[Backends], tuple[Network, Keychain]]:
        return Backends, (self.network, self.keychain)

    def close(self) -> None:
        """Close all connections; later requests open new ones."""
        with self._lock:
            transports = [*self._transports.values(), *(mirror.transport for mirror in self._mirrors.values())]
        for transport in transports:
            transport.close()


class _Several(Source):
    """A registry or layout, and those that descriptors were listed in."""

    cacheable = True

    def __init__(self, source: Source, backends: Backends) -> None:
        self._source = source
        self._backends = backends

    def resolve(self, reference: str) -> Descriptor:
        return self._source.resolve(reference)

    def open(self, descriptor: Descriptor) -> ByteStream:
        if descriptor.reference is None:
            return self._source.open(descriptor)
        with self._backends.open_source(descriptor.reference) as source:
            return source.open(descriptor)

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        return self._source.referrers(descriptor, artifact_type)


class _Offline(Source):
    """A registry that must not be contacted."""

    cacheable = True

    def __init__(self, reference: Reference) -> None:
        self._reference = reference

    def resolve(self, reference: str) -> Descriptor:
        raise offline_error(f"{self._reference.name} {reference}")

    def open(self, descriptor: Descriptor) -> ByteStream:
        raise offline_error(str(descriptor))

    def referrers(self, descriptor: Descriptor, artifact_type: str | None = None) -> Sequence[Descriptor]:
        raise offline_error(f"the list of referrers of {descriptor.digest.short}")


def enters_this_machine(root: AnyReference, named: Reference) -> bool:
    """Return True if content of another host names a registry on this machine, which must not be contacted (SSRF).

    Args:
        root: The artifact that the user named.
        named: A reference in its content.
    """
    return is_loopback(named.registry) and isinstance(root, Reference) and not is_loopback(root.registry)


def blocked_error(name: str) -> Denied:
    """Return the error for a registry or repository that the session's settings block."""
    return Denied(f"{name} is blocked", hint="see the session's Network(blocked=…), or its registries.conf")


def offline_error(what: str) -> OfflineError:
    """Return the error for content that is not cached in offline mode."""
    return OfflineError(
        f"{what} isn't in the cache, and OCIKIT_OFFLINE is set", hint="unset it, or pull this once while online"
    )
