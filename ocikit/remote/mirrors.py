"""Reading a repository from its mirrors, and from itself where they fail. distribution-spec spec.md#registry-proxying."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar
from urllib.parse import quote

import attrs

from ocikit.errors import (
    ConnectionFailed,
    ContentError,
    CopyError,
    DigestMismatch,
    NotFound,
    OcikitError,
    RegistryError,
)
from ocikit.remote.auth.keychain import Credentials, Keychain
from ocikit.remote.auth.tokens import TokenCache
from ocikit.remote.config.mirror import Mirror
from ocikit.remote.config.network import Network
from ocikit.remote.http.transport import Transport
from ocikit.remote.repository import Repository
from ocikit.spec.descriptor import Descriptor
from ocikit.spec.document import DOCUMENT_LIMIT
from ocikit.spec.reference import DOCKER_HUB, Reference
from ocikit.store.base import Source
from ocikit.store.streams import ByteStream, VerifiedReader

log = logging.getLogger("ocikit")

T = TypeVar("T")

#: Seconds for which a mirror is left alone that couldn't be reached, had no time, or sent wrong bytes.
MIRROR_BACKOFF: Final = 60.0

_RETRIES = 1  # of a request to a mirror: there is somewhere else to ask
_WAIT = 5.0  # seconds: the most to wait for a mirror's connection, and in all for its retries
_WHOLE = 1 << 20  # bytes; a blob of a mirror's that is no larger is verified before any of it is given out
_BUSY = frozenset({429, 502, 503, 504})


class MirrorHost:
    """A host that mirrors something: how it is reached, and whether it is left alone just now.

    Args:
        mirror: one of those that are there.
        network: of the session. Its headers and its client certificate are for registries that references name.
        keychain: of the session; the mirror gets what is kept for its own host.
        tokens: of the session.
    """

    def __init__(self, mirror: Mirror, network: Network, keychain: Keychain, tokens: TokenCache) -> None:
        host = mirror.host.name
        network = attrs.evolve(network, headers={}, certificate=None)
        if mirror.insecure:
            network = attrs.evolve(network, insecure=network.insecure | {host})
        if not mirror.final:
            network = attrs.evolve(
                network,
                retries=min(network.retries, _RETRIES),
                max_wait=min(network.max_wait, _WAIT),
                connect_timeout=min(network.connect_timeout, _WAIT),
            )
        api_host = mirror.host.api_host if host == DOCKER_HUB else None
        self.transport = Transport(host, api_host=api_host, network=network, keychain=_own(keychain), tokens=tokens)
        self._until = 0.0

    @property
    def backing_off(self) -> bool:
        """Whether it is left alone."""
        return time.monotonic() < self._until

    def rest(self) -> None:
        """Leave it alone for a while."""
        self._until = time.monotonic() + MIRROR_BACKOFF


def _own(keychain: Keychain) -> Keychain:
    """A keychain for mirrors: a lone pair is for the registry that references name, and would go to who asks first."""
    given = keychain.explicit
    if keychain.registry or not isinstance(given, tuple | Credentials) or Credentials.of(given).anonymous:
        return keychain
    return attrs.evolve(keychain, explicit=None)


class MirroredRepository(Repository):
    """A repository at a mirror: asked for manifests and blobs, and for nothing else.

    Args:
        host: the mirror's.
        name: the repository's there.
        mirror: how to use it.
        upstream: what it mirrors.
    """

    def __init__(self, host: MirrorHost, name: str, mirror: Mirror, upstream: Reference) -> None:
        super().__init__(host.transport, name)
        self.host = host
        self.disabled = False
        self._mirror = mirror
        self._upstream = upstream

    def usable(self, *, by_tag: bool) -> bool:
        """Whether to ask it now; *by_tag* is what a tag names, else content by its digest."""
        if self.host.backing_off or self.disabled or (by_tag and self._mirror.pull == "digest-only"):
            return False
        return self._mirror.pull != "tag-only" or self._upstream.digest is None

    def resolve(self, reference: str) -> Descriptor:
        """What a tag or digest names, by a GET: a mirror is believed what it says about content with the content."""
        return self.resolve_verified(reference)

    def disable(self, why: str) -> None:
        """Ask it for nothing more; what it sent was wrong."""
        self.disabled = True
        self.host.rest()
        log.warning("the mirror %s of %s is left out: %s", self.transport.host, self._upstream.registry, why)

    def failed(self, error: OcikitError) -> None:
        """Take note of why it could not give something."""
        if isinstance(error, ContentError):
            self.disable(error.message)
        elif isinstance(error, ConnectionFailed) or (isinstance(error, RegistryError) and error.status in _BUSY):
            self.host.rest()
            log.warning(
                "a mirror of %s is left alone for %d s: %s", self._upstream.registry, MIRROR_BACKOFF, error.message
            )
        else:
            log.info("a mirror of %s is passed over: %s", self._upstream.registry, error.message)

    def served(self, what: str) -> None:
        """Tell that it gave something."""
        log.info("%s@%s comes from its mirror %s/%s", self._upstream.name, what, self.transport.host, self.name)

    def _path(self, *parts: str) -> str:
        path = super()._path(*parts)
        return f"{path}?ns={quote(self._upstream.registry, safe='')}" if self._mirror.ns else path

    def _explain_not_found(self, target: str, error: NotFound) -> NotFound:
        return error  # its tags are not to be listed: the registry's own count


class Mirrored(Repository):
    """A repository that is read from its mirrors first; all but `resolve`, `open` and `fetch` is its own business.

    Args:
        primary: the repository, or where all of it has moved to.
        mirrors: in order.
    """

    def __init__(self, primary: Repository, mirrors: Sequence[MirroredRepository]) -> None:
        super().__init__(primary.transport, primary.name)
        self._primary = primary
        self._mirrors = tuple(mirrors)
        # What one of them says of a document counts wherever it then comes from
        self.hints = primary.hints
        for mirror in mirrors:
            mirror.hints = self.hints

    @property
    def disabled(self) -> int:
        """How many mirrors sent wrong bytes."""
        return sum(mirror.disabled for mirror in self._mirrors)

    def resolve(self, reference: str) -> Descriptor:
        """As `Repository.resolve`."""
        return self._first(reference, lambda place: place.resolve(reference), by_tag=":" not in reference)

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """As `Repository.fetch`."""
        if descriptor.embedded is not None or descriptor.size > limit or not descriptor.digest.verifiable:
            return self._primary.fetch(descriptor, limit=limit)
        if (came := self.hints.pop_body(descriptor)) is not None:
            return came
        return self._first(descriptor.digest.short, lambda place: place.fetch(descriptor, limit=limit))

    def open(self, descriptor: Descriptor) -> ByteStream:
        """A seekable stream that goes on elsewhere when a mirror breaks off.

        Small content is verified before it is given out. Large content of a mirror's raises DigestMismatch in place of
        its last bytes if it is wrong, and the mirror is asked for nothing more; see `trusting`.
        """
        if descriptor.is_document or descriptor.size <= _WHOLE:
            return io.BytesIO(self.fetch(descriptor))
        if not descriptor.digest.verifiable or not any(m.usable(by_tag=False) for m in self._mirrors):
            return self._primary.open(descriptor)
        return _Checked(_Reader(self._places(), self._primary, descriptor), descriptor)

    def head(self, descriptor: Descriptor, size: int) -> bytes:
        """As `Source.head`."""
        return Source.head(self, descriptor, size)

    def _places(self, *, by_tag: bool = False) -> Iterator[Repository]:
        """Where to ask, in order; whether a mirror is usable is looked at when its turn comes."""
        yield from (mirror for mirror in self._mirrors if mirror.usable(by_tag=by_tag))
        yield self._primary

    def _first(self, what: str, ask: Callable[[Repository], T], *, by_tag: bool = False) -> T:
        """The first answer that there is. Raises: what the primary raises."""
        failures = _Failures(self._primary)
        for place in self._places(by_tag=by_tag):
            try:
                answer = ask(place)
            except OcikitError as error:
                failures.add(place, error)
                continue
            if isinstance(place, MirroredRepository):
                place.served(what)
            return answer
        raise AssertionError("the primary answers or fails")  # pragma: no cover


class _Failures:
    """What the mirrors said so far."""

    def __init__(self, primary: Repository) -> None:
        self._primary = primary
        self._words: list[str] = []

    def add(self, place: Repository, error: OcikitError) -> None:
        """Take note of a mirror's failure. Raises: the error, with those of the mirrors, if it is the primary's."""
        if isinstance(place, MirroredRepository) and place is not self._primary:
            place.failed(error)
            if not isinstance(error, NotFound):
                self._words.append(error.message)
            return
        if self._words:
            error.message += f"; its mirrors failed before: {'; '.join(self._words)}"
            error.args = (error.message,)
        raise error


class _Reader(io.RawIOBase):
    """A blob from the first place that has it; when that breaks off, the next one goes on at the same byte."""

    def __init__(self, places: Iterator[Repository], primary: Repository, descriptor: Descriptor) -> None:
        self._places = places
        self._descriptor = descriptor
        self._place: Repository | None = None
        self._stream: ByteStream | None = None
        self._position = 0
        self._failures = _Failures(primary)
        self.mirrors: list[MirroredRepository] = []
        """Those that gave some of it."""

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; the next read asks for a range."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._descriptor.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer; 0 at the end. Raises: what the primary's own stream raises."""
        while True:
            place = self._place or next(self._places)
            try:
                n = self._read(place, buffer)
            except OcikitError as error:
                self._failures.add(place, error)
                self._drop()
                continue
            if isinstance(place, MirroredRepository) and n and place not in self.mirrors:
                self.mirrors.append(place)
                place.served(self._descriptor.digest.short)
            self._position += n
            return n

    def _read(self, place: Repository, buffer: memoryview) -> int:
        if self._stream is None:
            self._place, self._stream = place, place.open(self._descriptor)
        if self._stream.tell() != self._position:
            self._stream.seek(self._position)
        return self._stream.readinto(buffer)

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._place = self._stream = None

    def close(self) -> None:
        """Let go of the connection."""
        self._drop()
        super().close()


class _Checked(VerifiedReader):
    """Content that a mirror may have given, verified as it is read."""

    def __init__(self, reader: _Reader, descriptor: Descriptor) -> None:
        super().__init__(reader, descriptor)
        self._reader = reader

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill the buffer. Raises: DigestMismatch: in place of the last bytes, and the mirrors that sent some are left out."""
        try:
            return super().readinto(buffer)
        except DigestMismatch as error:
            for mirror in self._reader.mirrors:
                mirror.disable(error.message)
            raise


def retry_without_bad_mirrors(source: Source, work: Callable[[], T]) -> T:
    """Do something with a source's content; again, without it, for each mirror whose content proves wrong meanwhile."""
    while True:
        known = source.disabled if isinstance(source, Mirrored) else 0
        try:
            return work()
        except (DigestMismatch, CopyError):
            if not isinstance(source, Mirrored) or source.disabled == known:
                raise
