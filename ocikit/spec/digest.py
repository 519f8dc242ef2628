"""Content digests. image-spec descriptor.md#digests."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Protocol

from ocikit.display import quoted, readable
from ocikit.errors import DigestMismatch, InvalidDigest, UnverifiableDigest

_GRAMMAR = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([a-zA-Z0-9=_-]+)")

#: Hex digits by registered algorithm. blake3 is not in the standard library, so it can't be verified.
_LENGTHS = {"sha256": 64, "sha512": 128, "blake3": 64}

_KNOWN = re.compile("|".join(f"{algorithm}:[a-f0-9]{{{length}}}" for algorithm, length in _LENGTHS.items()))

VERIFIABLE = frozenset({"sha256", "sha512"})

_CHUNK = 256 * 1024  # bytes per read


class Hasher(Protocol):
    """A hash object of hashlib.

    >>> from ocikit.spec.digest import new_hasher
    >>> hasher = new_hasher("sha256")
    >>> hasher.update(b"hello ")
    >>> hasher.update(b"world")
    >>> hasher.hexdigest()[:12]
    'b94d27b9934d'
    """

    def update(self, data: Any, /) -> None:
        """Hash more bytes.

        >>> from ocikit.spec.digest import new_hasher
        >>> hasher = new_hasher("sha256")
        >>> hasher.update(b"hello")
        """

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far in lower-case hex.

        >>> from ocikit.spec.digest import new_hasher
        >>> new_hasher("sha256").hexdigest()[:12]
        'e3b0c44298fc'
        """


@readable
class Digest(str):
    """A validated digest `algorithm:encoded`, which is a `str`.

    Every digest of the grammar is accepted; sha256 and sha512 can be computed and verified.

    >>> d = ocikit.Digest.of(b"{}")
    >>> d.algorithm, d.encoded[:12]
    ('sha256', '44136fa355b3')

    Raises:
        InvalidDigest: The text violates the grammar, or has the wrong number or case of hex digits for its algorithm.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        """Create a digest from its text."""
        if isinstance(text, cls):
            return text
        match = _GRAMMAR.fullmatch(text) if isinstance(text, str) else None
        if isinstance(text, str) and text != (lower := text.lower()) and _KNOWN.fullmatch(lower):
            raise InvalidDigest(
                f"the digest {quoted(text, 160)} has upper-case letters",
                hint=f"digests are lower-case: {quoted(lower, 160)}",
            )
        if match is None:
            raise InvalidDigest(
                f"{quoted(text)} is not a digest", hint='a digest looks like "sha256:" and 64 lower-case hex digits'
            )
        algorithm, encoded = match.groups()
        length = _LENGTHS.get(algorithm)
        if length is not None and re.fullmatch(f"[a-f0-9]{{{length}}}", encoded) is None:
            raise InvalidDigest(
                f"{quoted(text)} has {len(encoded)} characters after {algorithm!r}",
                hint=f"{algorithm} has exactly {length} lower-case hex digits",
            )
        return super().__new__(cls, text)

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest of a text.

        Raises:
            InvalidDigest: The text is not a digest.

        >>> ocikit.Digest.parse("sha256:" + "0" * 64).short
        'sha256:000000000000'
        >>> ocikit.Digest.parse("sha256:0")
        Traceback (most recent call last):
            ...
        ocikit.errors.InvalidDigest: 'sha256:0' has 1 characters after 'sha256'
          -> sha256 has exactly 64 lower-case hex digits
        """
        return cls(text)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """Return the digest of the bytes.

        Args:
            content: The bytes.
            algorithm: "sha256" or "sha512".

        Raises:
            UnverifiableDigest: The algorithm can't be computed.

        >>> ocikit.Digest.of(b"hello").short
        'sha256:2cf24dba5fb0'
        >>> ocikit.Digest.of(b"hello", "sha512").algorithm
        'sha512'
        """
        hasher = new_hasher(algorithm)
        hasher.update(content)
        return cls(f"{algorithm}:{hasher.hexdigest()}")

    @property
    def algorithm(self) -> str:
        """The part before the colon, such as "sha256"."""
        return self.partition(":")[0]

    @property
    def encoded(self) -> str:
        """The part after the colon."""
        return self.partition(":")[2]

    @property
    def short(self) -> str:
        """The algorithm and the first twelve characters, for display."""
        return f"{self.algorithm}:{self.encoded[:12]}"

    @property
    def verifiable(self) -> bool:
        """True if content can be verified against this digest."""
        return self.algorithm in VERIFIABLE

    def hasher(self) -> Hasher:
        """Return a new hasher of this digest's algorithm.

        Raises:
            UnverifiableDigest: The algorithm can't be computed.

        >>> digest = ocikit.Digest.of(b"hello")
        >>> hasher = digest.hasher()
        >>> hasher.update(b"hello")
        >>> hasher.hexdigest() == digest.encoded
        True
        """
        return new_hasher(self.algorithm)

    def check(self, actual: str, what: object = "content") -> None:
        """Compare this digest with a computed one.

        Args:
            actual: The computed digest in hex.
            what: The content, or its name in messages.

        Raises:
            DigestMismatch: The digests differ.

        >>> digest = ocikit.Digest.of(b"hello")
        >>> digest.check("0" * 64, "note.txt")
        Traceback (most recent call last):
            ...
        ocikit.errors.DigestMismatch: note.txt has digest sha256:000..., expected sha256:2cf24dba...
          -> the content was corrupted or replaced in transit and has been discarded
        """
        if actual != self.encoded:
            raise DigestMismatch(
                f"{what} has digest {self.algorithm}:{actual}, expected {self}",
                hint="the content was corrupted or replaced in transit and has been discarded",
                expected=self,
                actual=f"{self.algorithm}:{actual}",
            )

    def verify(self, content: bytes, what: str = "content") -> None:
        """Verify bytes against this digest.

        Args:
            content: The bytes.
            what: Name of the content in messages.

        Raises:
            DigestMismatch: The bytes have another digest.
            UnverifiableDigest: The algorithm can't be computed.

        >>> digest = ocikit.Digest.of(b"hello")
        >>> digest.verify(b"hello")
        >>> digest.verify(b"jello")
        Traceback (most recent call last):
            ...
        ocikit.errors.DigestMismatch: content has digest sha256:187c9bce..., expected sha256:2cf24dba...
          -> the content was corrupted or replaced in transit and has been discarded
        """
        hasher = self.hasher()
        hasher.update(content)
        self.check(hasher.hexdigest(), what)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __reduce__(self) -> tuple[type[Digest], tuple[str]]:
        return type(self), (str(self),)


def new_hasher(algorithm: str) -> Hasher:
    """Return a new hasher.

    Raises:
        UnverifiableDigest: The algorithm can't be computed.

    >>> from ocikit.spec.digest import new_hasher
    >>> hasher = new_hasher("sha512")
    >>> hasher.update(b"hello")
    >>> hasher.hexdigest()[:12]
    '9b71d224bd62'
    """
    if algorithm not in VERIFIABLE:
        raise UnverifiableDigest(
            f"cannot verify {algorithm} digests", hint="sha256 and sha512 can be verified; ask the publisher for one"
        )
    return hashlib.new(algorithm, usedforsecurity=False)


def hash_file(path: int | str | os.PathLike[str], algorithm: str = "sha256") -> Digest:
    """Return the digest of a file's content, read in chunks.

    Args:
        path: The file, or a descriptor, which is read from its position and stays open.
        algorithm: Algorithm of the digest.

    Raises:
        UnverifiableDigest: The algorithm can't be computed.
        OSError: The file can't be read.

    >>> from pathlib import Path
    >>> from ocikit.spec.digest import hash_file
    >>> size = Path("note.txt").write_text("hello")
    >>> hash_file("note.txt").short
    'sha256:2cf24dba5fb0'
    """
    hasher = new_hasher(algorithm)
    with open(path, "rb", buffering=0, closefd=not isinstance(path, int)) as file:
        # Clearing a whole chunk for a small file would take longer than to hash it
        buffer = memoryview(bytearray(min(_CHUNK, max(1, os.fstat(file.fileno()).st_size))))
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
    return Digest(f"{algorithm}:{hasher.hexdigest()}")
