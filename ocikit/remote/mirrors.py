"""Reading from mirrors with the registry as fallback. distribution-spec spec.md#registry-proxying."""

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
from ocikit.store.streams import ByteStream, VerifiedReader, WholeReader

log = logging.getLogger("ocikit")

T = TypeVar("T")

#: Seconds for which a mirror is skipped that was unreachable, too busy, or sent corrupt content.
MIRROR_BACKOFF: Final = 60.0

_RETRIES = 1  # retries of a request to a mirror: there is a fallback
_MAX_WAIT = 5.0  # seconds to connect to a mirror, and to wait in all for its retries
_BUFFERED = 1 << 20  # bytes of the largest blob of a mirror that is verified before any of it is returned
_BUSY = frozenset({429, 502, 503, 504})


class MirrorHost:
    """The connection to a mirror, and its backoff.

    Args:
        mirror: One of the mirrors on the host.
        network: The session's network. Its headers and its client certificate are not sent to mirrors.
        keychain: The session's keychain. The mirror gets only the credentials of its own host.
        tokens: The session's tokens.
    """

    def __init__(self, mirror: Mirror, network: Network, keychain: Keychain, tokens: TokenCache) -> None:
        host = mirror.host
        network = attrs.evolve(network, headers={}, certificate=None)
        if mirror.insecure:
            network = attrs.evolve(network, insecure=network.insecure | {host.name})
        if not mirror.final:
            network = attrs.evolve(
                network,
                retries=min(network.retries, _RETRIES),
                max_wait=min(network.max_wait, _MAX_WAIT),
                connect_timeout=min(network.connect_timeout, _MAX_WAIT),
            )
        self.transport = Transport(
            host.name,
            api_host=host.api_host if host.name == DOCKER_HUB else None,
            network=network,
            keychain=_without_unbound_credentials(keychain),
            tokens=tokens,
        )
        self._backoff_end = 0.0

    @property
    def backing_off(self) -> bool:
        """True while the mirror is skipped after a failure."""
        return time.monotonic() < self._backoff_end

    def back_off(self) -> None:
        """Skip the mirror for `MIRROR_BACKOFF` seconds."""
        self._backoff_end = time.monotonic() + MIRROR_BACKOFF


def _without_unbound_credentials(keychain: Keychain) -> Keychain:
    """Return the keychain without a bare (user, password) pair.

    Such a pair belongs to the upstream registry. A mirror that is used first would receive it (credential forwarding).
    """
    explicit = keychain.explicit
    if keychain.registry or not isinstance(explicit, tuple | Credentials) or Credentials.of(explicit).anonymous:
        return keychain
    return attrs.evolve(keychain, explicit=None)


class MirroredRepository(Repository):
    """A repository on a mirror, used for manifests and blobs only.

    Args:
        host: The mirror's host.
        name: The repository's name on the mirror.
        mirror: The mirror's settings.
        upstream: The mirrored reference.
    """

    def __init__(self, host: MirrorHost, name: str, mirror: Mirror, upstream: Reference) -> None:
        super().__init__(host.transport, name)
        self.host = host
        self.disabled = False
        self._mirror = mirror
        self._upstream = upstream

    def usable(self, *, by_tag: bool) -> bool:
        """Return True if the mirror may be used now.

        Args:
            by_tag: The request is for a tag, not for a digest.
        """
        if self.host.backing_off or self.disabled or (by_tag and self._mirror.pull == "digest-only"):
            return False
        return self._mirror.pull != "tag-only" or self._upstream.digest is None

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest.

        This uses GET, not HEAD: metadata of a mirror is trusted only together with the content.
        """
        return self.resolve_verified(reference)

    def disable(self, reason: str) -> None:
        """Stop using the mirror for this repository, because it sent corrupt content."""
        self.disabled = True
        self.host.back_off()
        log.warning("the mirror %s of %s is disabled: %s", self.transport.host, self._upstream.registry, reason)

    def note_failure(self, error: OcikitError) -> None:
        """Disable the mirror, back off, or log the error, depending on its type."""
        if isinstance(error, ContentError):
            self.disable(error.message)
        elif isinstance(error, ConnectionFailed) or (isinstance(error, RegistryError) and error.status in _BUSY):
            self.host.back_off()
            log.warning(
                "a mirror of %s is skipped for %d s: %s", self._upstream.registry, MIRROR_BACKOFF, error.message
            )
        else:
            log.info("a mirror of %s failed, using the next one: %s", self._upstream.registry, error.message)

    def note_success(self, reference: str) -> None:
        """Log that the mirror returned content."""
        log.info("%s@%s comes from its mirror %s/%s", self._upstream.name, reference, self.transport.host, self.name)

    def _path(self, *parts: str) -> str:
        path = super()._path(*parts)
        return f"{path}?ns={quote(self._upstream.registry, safe='')}" if self._mirror.ns else path

    def _explain_not_found(self, error: NotFound, target: str) -> NotFound:
        return error  # do not list the mirror's tags: the tags of the registry count


class Mirrored(Repository):
    """A repository that is read from its mirrors first.

    `resolve`, `resolve_verified`, `open` and `fetch` use the mirrors. All other methods use the repository itself.

    Args:
        primary: The repository, or the location where its content has moved.
        mirrors: The mirrors in order.
    """

    def __init__(self, primary: Repository, mirrors: Sequence[MirroredRepository]) -> None:
        super().__init__(primary.transport, primary.name, known=primary.known)
        self._primary = primary
        self._mirrors = tuple(mirrors)
        # Share the hints: the size of a document is valid wherever its content is then read.
        self.hints = primary.hints
        for mirror in mirrors:
            mirror.hints = self.hints

    @property
    def disabled(self) -> int:
        """The number of mirrors that sent corrupt content."""
        return sum(mirror.disabled for mirror in self._mirrors)

    def resolve(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest."""
        return self._try_each(reference, lambda repository: repository.resolve(reference), by_tag=":" not in reference)

    def resolve_verified(self, reference: str) -> Descriptor:
        """Return the descriptor of a tag or digest, with the actual size if it comes from a mirror.

        The repository itself gets a HEAD request, because its content is then read from the mirrors.
        """
        return self.resolve(reference)

    def has(self, reference: str) -> bool:
        """Return True if there is such a tag or digest."""
        return Source.has(self, reference)

    def fetch(self, descriptor: Descriptor, *, limit: int = DOCUMENT_LIMIT) -> bytes:
        """Return the verified content of a document or another small blob, as `Source.fetch`."""
        if descriptor.embedded is not None or descriptor.size > limit or not descriptor.digest.verifiable:
            return self._primary.fetch(descriptor, limit=limit)
        if (document := self.hints.pop_document(descriptor)) is not None:
            return document.raw
        return self._try_each(descriptor.digest.short, lambda repository: repository.fetch(descriptor, limit=limit))

    def open(self, descriptor: Descriptor) -> ByteStream:
        """Return a seekable stream that continues on the next mirror if one fails.

        Small content is verified before it is returned. If large content of a mirror is corrupt, the stream raises
        DigestMismatch instead of the last bytes and disables the mirror; see `retry_without_bad_mirrors`.
        """
        if descriptor.is_document or descriptor.size <= _BUFFERED:
            return io.BytesIO(self.fetch(descriptor))
        if not descriptor.digest.verifiable or not any(m.usable(by_tag=False) for m in self._mirrors):
            return self._primary.open(descriptor)
        reader = _FallbackReader(self._candidates(), self._primary, descriptor, lambda source: source.open(descriptor))
        return _VerifiedMirrorReader(reader, descriptor)

    def open_random(self, descriptor: Descriptor) -> ByteStream:
        """Return a seekable stream that requests what is read, from the next mirror if one fails."""
        if descriptor.is_document or descriptor.size <= DOCUMENT_LIMIT:
            return WholeReader(descriptor.size, lambda: self.fetch(descriptor))
        if not descriptor.digest.verifiable or not any(m.usable(by_tag=False) for m in self._mirrors):
            return self._primary.open_random(descriptor)
        reader = _FallbackReader(
            self._candidates(), self._primary, descriptor, lambda source: source.open_random(descriptor)
        )
        return _VerifiedMirrorReader(reader, descriptor)

    def ranges(self, descriptor: Descriptor, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return parts of a blob, not verified, as `Repository.ranges`."""
        return self._try_each(descriptor.digest.short, lambda repository: repository.ranges(descriptor, spans))

    def head(self, descriptor: Descriptor, size: int) -> bytes:
        """Return the first bytes of the content, as `Source.head`."""
        return Source.head(self, descriptor, size)

    def _candidates(self, *, by_tag: bool = False) -> Iterator[Repository]:
        """Return the usable mirrors and the primary, in order.

        A mirror's state is checked when its turn comes.
        """
        yield from (mirror for mirror in self._mirrors if mirror.usable(by_tag=by_tag))
        yield self._primary

    def _try_each(self, reference: str, read: Callable[[Repository], T], *, by_tag: bool = False) -> T:
        """Return the first result.

        Raises:
            OcikitError: All mirrors and the primary failed; this is the error of the primary.
        """
        failures = _MirrorFailures(self._primary)
        for repository in self._candidates(by_tag=by_tag):
            try:
                result = read(repository)
            except OcikitError as error:
                failures.add(repository, error)
                continue
            if isinstance(repository, MirroredRepository):
                repository.note_success(reference)
            return result
        raise AssertionError("the primary returns or raises")  # pragma: no cover


class _MirrorFailures:
    """The errors of the mirrors in one operation."""

    def __init__(self, primary: Repository) -> None:
        self._primary = primary
        self._messages: list[str] = []

    def add(self, repository: Repository, error: OcikitError) -> None:
        """Record the error of a mirror.

        Raises:
            OcikitError: The error is of the primary; the message includes the errors of the mirrors.
        """
        if isinstance(repository, MirroredRepository) and repository is not self._primary:
            repository.note_failure(error)
            if not isinstance(error, NotFound):
                self._messages.append(error.message)
            return
        if not self._messages:
            raise error
        message = f"{error.message}; its mirrors failed before: {'; '.join(self._messages)}"
        raise error.reworded(message) from error.__cause__


class _FallbackReader(io.RawIOBase):
    """A blob of the first repository that has it.

    After a failure the next one continues at the same byte.
    """

    def __init__(
        self,
        candidates: Iterator[Repository],
        primary: Repository,
        descriptor: Descriptor,
        open: Callable[[Repository], ByteStream],  # noqa: A002 - what it does
    ) -> None:
        self._candidates = candidates
        self._descriptor = descriptor
        self._open = open
        self._repository: Repository | None = None
        self._stream: ByteStream | None = None
        self._position = 0
        self._failures = _MirrorFailures(primary)
        self.mirrors: list[MirroredRepository] = []
        """The mirrors that returned a part."""

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset and return the position, in bytes.

        The next read requests a range.
        """
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._descriptor.size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill `buffer` and return the number of bytes, 0 at the end.

        Raises:
            OcikitError: All mirrors and the primary failed; this is the error of the primary.
        """
        while True:
            repository = self._repository or next(self._candidates)
            try:
                count = self._read(repository, buffer)
            except OcikitError as error:
                self._failures.add(repository, error)
                self._close_stream()
                continue
            if isinstance(repository, MirroredRepository) and count and repository not in self.mirrors:
                self.mirrors.append(repository)
                repository.note_success(self._descriptor.digest.short)
            self._position += count
            return count

    def _read(self, repository: Repository, buffer: memoryview) -> int:
        if self._stream is None:
            self._repository, self._stream = repository, self._open(repository)
        if self._stream.tell() != self._position:
            self._stream.seek(self._position)
        return self._stream.readinto(buffer)

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
        self._repository = self._stream = None

    def close(self) -> None:
        """Close the connection."""
        self._close_stream()
        super().close()


class _VerifiedMirrorReader(VerifiedReader):
    """Content that may come from a mirror, verified while it is read."""

    def __init__(self, reader: _FallbackReader, descriptor: Descriptor) -> None:
        super().__init__(reader, descriptor)
        self._reader = reader

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        """Fill `buffer` and return the number of bytes.

        Raises:
            DigestMismatch: The content is corrupt; the mirrors that returned a part of it are disabled.
        """
        try:
            return super().readinto(buffer)
        except DigestMismatch as error:
            for mirror in self._reader.mirrors:
                mirror.disable(error.message)
            raise


def retry_without_bad_mirrors(source: Source, operation: Callable[[], T]) -> T:
    """Return the result of an operation that reads from `source`.

    The operation is repeated each time that a mirror sent corrupt content and was disabled.
    """
    while True:
        disabled = source.disabled if isinstance(source, Mirrored) else 0
        try:
            return operation()
        except (DigestMismatch, CopyError):
            if not isinstance(source, Mirrored) or source.disabled == disabled:
                raise
