"""The interface of object stores: content by key, each key written once."""

from __future__ import annotations

import base64
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ocikit.spec.digest import Digest

#: Bytes of a part. S3 refuses parts below 5 MiB, and more than 10 000 of them.
PART_SIZE = 16 << 20

#: Times that a reader continues after a broken answer without a byte in between.
CONTINUATIONS = 3

#: Keys that all stores accept. Path traversal: no segment is "." or "..".
_KEY = re.compile(r"(?!.*(?:^|/)\.)[A-Za-z0-9._:@+=-]+(?:/[A-Za-z0-9._:@+=-]+)*")


class InvalidPart(Exception):
    """A part differs from the one of its ETag, or is too small; the upload cannot be completed."""


class ObjectStore(ABC):
    """Objects by key.

    Any number of threads and processes use a store at once. A key is written once, so that a reader never sees a change.

    Each method raises `Unavailable` if the store does not answer in time.
    """

    #: Bytes of each part but the last one. Cloudflare R2 refuses parts of unequal sizes.
    part_size: int = PART_SIZE

    @abstractmethod
    def put(self, key: str, file: BinaryIO, size: int, *, digest: Digest | None = None) -> None:
        """Store an object durably, in one step.

        Args:
            key: A new key.
            file: A seekable file. The object starts at its position; a second attempt starts there again.
            size: Size of the object in bytes.
            digest: The digest for the metadata of the object.

        Raises:
            ValueError: The file ends before `size` bytes. Nothing is stored.
        """

    @abstractmethod
    def open(self, key: str, first: int = 0, length: int | None = None) -> BinaryIO:
        """Open an object or a part of it, with one request.

        A reader continues after a broken answer.

        Args:
            key: Key of the object.
            first: Position of the first byte.
            length: Number of bytes; None for all. Fewer are read at the end of the object.

        Raises:
            KeyError: There is no such object.
        """

    @abstractmethod
    def size(self, key: str) -> int | None:
        """Return the size of an object in bytes, or None."""

    @abstractmethod
    def digest(self, key: str) -> Digest | None:
        """Return the digest in the metadata of an object, or None."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> dict[str, str]:
        """Delete up to 1000 objects.

        Returns:
            The reason for each key that was not deleted. A missing object counts as deleted.
        """

    @abstractmethod
    def iterate(self, prefix: str, *, after: str = "") -> Iterator[tuple[str, int, float]]:
        """Yield key, size in bytes and time in seconds since the epoch, ordered by key.

        Args:
            prefix: Start of the keys.
            after: The last key that is left out; "" for none.
        """

    @abstractmethod
    def begin_parts(self, key: str, *, digest: Digest | None = None) -> str:
        """Begin an object of several parts and return the id of the multipart upload."""

    @abstractmethod
    def put_part(self, key: str, multipart: str, number: int, file: BinaryIO, size: int) -> str:
        """Store a part and return its ETag. A second part with its number replaces it.

        Args:
            key: Key of the object.
            multipart: Id of the multipart upload.
            number: Number of the part, from 1.
            file: A seekable file. The part starts at its position; a second attempt starts there again.
            size: Size of the part in bytes: `part_size`, or less for the last one.

        Raises:
            KeyError: There is no such multipart upload.
            ValueError: The file ends before `size` bytes.
        """

    @abstractmethod
    def complete_parts(self, key: str, multipart: str, etags: Sequence[str]) -> None:
        """Make the object of its parts, in one step.

        Args:
            key: Key of the object.
            multipart: Id of the multipart upload.
            etags: The ETags of all parts in order.

        Raises:
            KeyError: There is no such multipart upload: it was completed or aborted before.
            InvalidPart: A part is missing or was replaced.
        """

    @abstractmethod
    def abort_parts(self, key: str, multipart: str) -> None:
        """Delete a multipart upload with its parts; do nothing if there is none."""

    @abstractmethod
    def link(self, key: str, *, seconds: int) -> str | None:
        """Return a URL from which a client reads the object without credentials, or None.

        Args:
            key: Key of the object.
            seconds: Seconds for which the URL is valid.
        """

    @abstractmethod
    def check(self) -> None:
        """Ask the store for an answer within two seconds.

        Raises:
            Unavailable: The store does not answer, or not to this process.
        """

    def close(self) -> None:  # noqa: B027 - most stores have nothing to close
        """Close all connections."""


def new_key() -> str:
    """Return a new key of content. Its first characters spread the objects over folders and partitions."""
    name = base64.b32encode(secrets.token_bytes(16)).decode().rstrip("=").lower()
    return f"c/{name[:2]}/{name}"


def checked_key(key: str) -> str:
    """Return a key that all stores accept.

    Raises:
        ValueError: The key has other characters, or a segment that starts with a dot.
    """
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key of an object")
    return key


def require_size(file: BinaryIO, size: int) -> int:
    """Return the position of a file that has enough bytes from there.

    Raises:
        ValueError: The file ends before.
    """
    start = file.tell()
    available = file.seek(0, 2) - start
    file.seek(start)
    if available < size:
        raise ValueError(f"an object of {size} bytes was announced, and the file has {available}")
    return start
