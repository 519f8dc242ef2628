"""GGUF: key-value pairs, the places of tensors, and the bytes of the tensors.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. All lengths in a file are those of its publisher, so each is
compared with what is left of the header before it is used (DoS). A vocabulary is skipped string by string, never kept.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final, Never

from ocikit import display
from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import (
    FIRST,
    GGUF_DEPTH,
    GGUF_HEADER,
    GGUF_NESTED,
    GGUF_SHOWN,
    GGUF_VALUES,
    KEY,
    TENSOR_NAME,
    TENSORS,
    TEXT,
)
from ocikit.descriptions.model import Tensor
from ocikit.errors import ContentError

MAGIC: Final = b"GGUF"

_STRING, _ARRAY, _BOOL = 8, 9, 7
#: Formats of `struct` by type.
_NUMBERS: Final[Mapping[int, str]] = {
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
#: Name of a type of tensors, elements of a block, and bytes of a block.
_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_AHEAD = 4  # times the rest of a vocabulary that is requested with it: its scores, types and merges follow
_TENSOR = 96  # bytes of the place of a tensor, about


def read_gguf(content: Content) -> dict[str, Any]:
    """Return the tensors of a file, and its key-value pairs as text.

    Raises:
        ContentError: The header is invalid, or larger than a limit.
    """
    header = _Header(content)
    if header.take(4) != MAGIC:
        raise header.invalid("it does not begin with GGUF")
    version = header.number("I")
    if version & 0xFFFF == 0:  # the bytes of a number are in the other order
        header.order = ">"
        version = int.from_bytes(version.to_bytes(4, "little"), "big")
    if version not in {1, 2, 3}:
        raise ContentError(
            f"it has version {version:,} of GGUF, which is unknown", hint="use a newer release of ocikit"
        )
    header.length = "I" if version == 1 else "Q"
    tensors, values = header.number(header.length), header.number(header.length)
    if tensors > TENSORS or values > GGUF_VALUES:
        raise header.invalid(
            f"it has {tensors:,} tensors and {values:,} values; the limits are {TENSORS:,} and {GGUF_VALUES:,}"
        )
    header.tensors = tensors
    metadata = {"GGUF.version": str(version)}
    alignment = 32
    for _ in range(values):
        key = header.text(KEY)
        kind = header.number("I")
        value = header.value(kind)
        if key in metadata:
            raise header.invalid(f"the key {display.quoted(key)} is there twice")
        if key == "general.alignment":
            alignment = int(value) if value.isdecimal() else 0
        metadata[key] = value
    if not 0 < alignment < 1 << 20 or alignment & (alignment - 1):
        raise header.invalid(f"its alignment is {alignment:,}")
    places = [header.tensor() for _ in range(tensors)]
    start = -(-header.position // alignment) * alignment
    found: dict[str, Tensor] = {}
    for name, dtype, shape, size, offset in places:
        if name in found:
            raise header.invalid(f"the tensor {display.quoted(name)} is there twice")
        if offset % alignment or start + offset + (size or 0) > content.size:
            raise header.invalid(f"the tensor {display.quoted(name)} is not within the file")
        found[name] = Tensor(dtype=dtype, shape=shape, size=size, offset=start + offset)
    return {"kind": "tensors", "tensors": found, "metadata": metadata}


class _Header:
    """The header of a file, which is requested in growing parts.

    Args:
        content: The file.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._limit = min(content.size, GGUF_HEADER)
        self._raw = content.head(min(FIRST, self._limit))
        self._nested = 0
        self.position = 0
        self.order = "<"
        self.length = "Q"
        self.tensors = 0

    def invalid(self, problem: str) -> ContentError:
        """Return the error for a file that is damaged or malicious."""
        return ContentError(problem, hint="fetch the file again, or ask its publisher for an undamaged one")

    def require(self, count: int, ahead: int = 0) -> None:
        """Request the header up to `count` bytes after the position, and what likely follows.

        Raises:
            ContentError: The header would be larger than the file or the limit.
        """
        needed = self.position + count
        if needed <= len(self._raw):
            return
        if needed > self._limit:
            self._fail(needed)
        ahead = max(ahead, len(self._raw), self.tensors * _TENSOR)
        self._raw = self._content.head(min(needed + ahead, self._limit))

    def _fail(self, needed: int) -> Never:
        if needed > self._content.size:
            raise self.invalid(
                f"its header would have at least {needed:,} bytes, but the file has {self._content.size:,}"
            )
        raise ContentError(
            f"its header would have at least {needed:,} bytes; the limit is {GGUF_HEADER:,}",
            hint="open the file with the package gguf",
        )

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        self.require(count)
        start = self.position
        self.position += count
        return self._raw[start : self.position]

    def number(self, code: str) -> int:
        """Return the next integer."""
        return int(self._unpack(code))

    def _unpack(self, code: str) -> Any:
        shape = struct.Struct(self.order + code)
        return shape.unpack(self.take(shape.size))[0]

    def text(self, limit: int) -> str:
        """Return the next string.

        Raises:
            ContentError: It has more than `limit` bytes.
        """
        length = self.number(self.length)
        if length > limit:
            raise self.invalid(f"a name has {length:,} bytes")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> str:
        """Return the next value as text; a long array as its length."""
        if kind == _STRING:
            length = self.number(self.length)
            self.require(length)
            return self.take(length)[: TEXT * 4].decode("utf-8", "replace")[:TEXT]
        if kind == _ARRAY:
            return self._array(depth)
        if kind not in _NUMBERS:
            raise self.invalid(f"a value has the unknown type {kind:,}")
        number = self._unpack(_NUMBERS[kind])
        return ("true" if number else "false") if kind == _BOOL else _shown(number)

    def _array(self, depth: int) -> str:
        self._nested += depth > 0
        if depth > GGUF_DEPTH or self._nested > GGUF_NESTED:
            raise self.invalid("it has too many arrays within arrays")
        kind, count = self.number("I"), self.number(self.length)
        if kind in _NUMBERS:
            width = struct.calcsize("<" + _NUMBERS[kind])
            self.require(count * width)
            if count > GGUF_SHOWN:
                self.position += count * width
                return f"{count:,} numbers"
        elif kind == _STRING and count > GGUF_SHOWN:
            self._skip_strings(count)
            return f"{count:,} strings"
        elif kind not in {_STRING, _ARRAY}:
            raise self.invalid(f"an array has the unknown type {kind:,}")
        self.require(count)  # each item has at least one byte
        items = [self.value(kind, depth + 1) for _ in range(count)]
        return display.shorten(f"[{', '.join(items[:GGUF_SHOWN])}]", TEXT)

    def _skip_strings(self, count: int) -> None:
        width = struct.calcsize("<" + self.length)
        if (least := self.position + width * count) > self._limit:
            self._fail(least)
        unpack: Callable[[bytes, int], tuple[int]] = struct.Struct(self.order + self.length).unpack_from
        begin = position = self.position
        raw, end = self._raw, len(self._raw) - width
        for done in range(count):
            if position > end:
                self.position = position
                average = (position - begin) // done + 1 if done else width
                self.require(width, ahead=_AHEAD * average * (count - done))
                raw, end = self._raw, len(self._raw) - width
            position += width + unpack(raw, position)[0]
        self.position = position
        self.require(0)

    def tensor(self) -> tuple[str, str, tuple[int, ...], int | None, int]:
        """Return name, type, shape, bytes and offset of the next tensor.

        Raises:
            ContentError: They contradict each other.
        """
        name = self.text(TENSOR_NAME)
        dimensions = self.number("I")
        if dimensions > 4:
            raise self.invalid(f"the tensor {display.quoted(name)} has {dimensions:,} dimensions")
        shape = tuple(self.number(self.length) for _ in range(dimensions))
        kind, offset = self.number("I"), self.number("Q")
        dtype, block, width = _TYPES.get(kind, (f"type {kind}", 1, 0))
        elements = math.prod(shape)
        if shape and shape[0] % block:
            raise self.invalid(
                f"the tensor {display.quoted(name)} has rows of {shape[0]:,}, which are not whole blocks"
            )
        return name, dtype, shape, elements // block * width if width else None, offset


def _shown(number: float) -> str:
    return f"{number:.7g}" if isinstance(number, float) else str(number)
