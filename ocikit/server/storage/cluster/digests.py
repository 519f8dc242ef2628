"""Digests as bytes of a table, and text that PostgreSQL accepts."""

from __future__ import annotations

from ocikit.spec.digest import Digest

#: The first byte of an encoded digest. Other algorithms are stored as text: manifests may name them.
_ALGORITHMS = {"sha256": b"\x01", "sha512": b"\x02"}
_NAMES = {code: name for name, code in _ALGORITHMS.items()}
_TEXT = b"\x03"


def encode_digest(digest: str) -> bytes:
    """Return a digest as bytes, half as long as its text.

    >>> encode_digest("sha256:" + "00" * 32).hex()[:6]
    '010000'
    """
    algorithm, _, encoded = digest.partition(":")
    code = _ALGORITHMS.get(algorithm)
    return code + bytes.fromhex(encoded) if code else _TEXT + digest.encode()


def decode_digest(data: bytes | memoryview) -> Digest:
    """Return the digest of encoded bytes.

    >>> decode_digest(encode_digest("sha256:" + "0a" * 32))[:12]
    'sha256:0a0a0'
    """
    raw = bytes(data)
    name = _NAMES.get(raw[:1])
    return Digest(raw[1:].decode() if name is None else f"{name}:{raw[1:].hex()}")


def is_storable(text: str) -> bool:
    r"""Return True if PostgreSQL accepts a text: it has no NUL and is valid UTF-8.

    >>> is_storable("v1"), is_storable("v1\0")
    (True, False)
    """
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False
