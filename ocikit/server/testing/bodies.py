"""Request bodies and fake stores for the contracts."""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ocikit.server.http.request import RequestBody
from ocikit.server.storage.base import BlobStore, ManifestRow
from ocikit.spec.digest import Digest

#: Bytes, more than any storage moves at once.
LARGE = 3 << 20


def random_content(size: int = 100) -> tuple[Digest, bytes]:
    """Return random bytes and their digest."""
    raw = secrets.token_bytes(size)
    return Digest.of(raw), raw


def random_digest() -> Digest:
    """Return the digest of random bytes."""
    return random_content()[0]


def manifest_row(size: int = 7, children: tuple[Digest, ...] = (), **fields: Any) -> ManifestRow:
    """Return the row of a random manifest."""
    media_type = "application/vnd.oci.image.manifest.v1+json"
    return ManifestRow(digest=random_digest(), media_type=media_type, size=size, children=children, **fields)


def sized_body(content: bytes) -> RequestBody:
    """Return a body with an announced length."""
    return RequestBody(io.BytesIO(content), length=len(content))


def chunked_body(content: bytes) -> RequestBody:
    """Return a body without an announced length."""
    return RequestBody(io.BytesIO(content), length=None)


def broken_body(content: bytes, *, missing: int = 10) -> RequestBody:
    """Return a body that ends before its announced length."""
    return RequestBody(io.BytesIO(content), length=len(content) + missing)


class InterruptedStream(io.RawIOBase):
    """A stream that calls a function in the middle.

    Args:
        content: Bytes of the stream.
        act: Function to call.
    """

    def __init__(self, content: bytes, act: Callable[[], Any]) -> None:
        self._content = io.BytesIO(content)
        self._middle = len(content) // 2
        self._act: Callable[[], Any] | None = act

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read up to the middle, call the function, and read the rest."""
        first_half = self._middle - self._content.tell()
        if first_half <= 0 and self._act is not None:
            act, self._act = self._act, None
            act()
        return self._content.readinto(memoryview(buffer)[: first_half if first_half > 0 else None])

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes."""
        return super().read(size) or b""


def interrupted_body(content: bytes, act: Callable[[], Any]) -> RequestBody:
    """Return a body that calls a function in the middle."""
    return RequestBody(InterruptedStream(content, act), length=len(content))


def moment() -> float:
    """Return a time after all past and before all future operations."""
    started = time.time()
    while (now := time.time()) <= started:
        pass
    while time.time() <= now:
        pass
    return now


class FullBlobStore(BlobStore):
    """An empty store on a full disk."""

    def stat(self, digest: Digest) -> int | None:
        """Return None."""
        return None

    def open(self, digest: Digest) -> BinaryIO:
        """Raise an error.

        Raises:
            KeyError: In all cases.
        """
        raise KeyError(digest)

    def put(self, digest: Digest, stream: BinaryIO) -> None:
        """Raise an error.

        Raises:
            OSError: In all cases.
        """
        raise OSError(28, "no space")

    def delete(self, digest: Digest) -> None:
        """Do nothing."""

    def iterate(self) -> Iterator[Digest]:
        """Yield nothing."""
        return iter(())


class RecordingBlobStore(FullBlobStore):
    """A store that records deleted digests.

    Args:
        act: Function to call before each deletion.
    """

    def __init__(self, act: Callable[[], Any] = lambda: None) -> None:
        self.deleted: list[Digest] = []
        self._act = act

    def delete(self, digest: Digest) -> None:
        """Record a digest."""
        self._act()
        self.deleted.append(digest)
