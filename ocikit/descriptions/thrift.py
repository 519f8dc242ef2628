"""Thrift's compact protocol, in which the footer of a Parquet file is written.

pyarrow ends the process where the statistics of a damaged footer contradict its schema, and where a column is encrypted:
the exception of its C++ library is not caught (seen in pyarrow 26). So statistics are read here.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import struct
from typing import Any, Final

_DEPTH = 16  # levels of structures; a footer has six
_VALUES = 1_000_000  # values of a footer; one of 20,000 column chunks has about 600,000
_VARINT = 10  # bytes of the longest number

_TRUE: Final = 1
_FALSE: Final = 2
_BYTE: Final = 3
_NUMBERS: Final = frozenset({4, 5, 6})
_DOUBLE: Final = 7
_BINARY: Final = 8
_LISTS: Final = frozenset({9, 10})
_MAP: Final = 11
_STRUCT: Final = 12


def parse_struct(raw: bytes) -> dict[int, Any]:
    """Return the fields of a structure by their number.

    >>> parse_struct(bytes([0x15, 0x04, 0x18, 0x01, 0x61, 0x00]))
    {1: 2, 2: b'a'}

    Raises:
        ValueError: The bytes are not such a structure, or it has too many values.
    """
    try:
        return _Reader(raw).structure(_DEPTH)
    except (IndexError, struct.error) as error:
        raise ValueError("it ends within a value") from error


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._position = 0
        self._left = _VALUES

    def structure(self, depth: int) -> dict[int, Any]:
        if depth == 0:
            raise ValueError("it is nested too deep")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != 0:
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._number()
            self._count()
            fields[number] = kind == _TRUE if kind in {_TRUE, _FALSE} else self._value(kind, depth)
        return fields

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise ValueError("it has too many values")

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _NUMBERS:
            return self._number()
        if kind == _BINARY:
            return self._take(self._varint())
        if kind == _STRUCT:
            return self.structure(depth - 1)
        if kind in _LISTS:
            return self._list(depth)
        if kind == _DOUBLE:
            return struct.unpack("<d", self._take(8))[0]
        if kind in {_TRUE, _FALSE, _BYTE}:
            return self._byte()
        if kind == _MAP:
            return self._map(depth)
        raise ValueError("it has a value of an unknown type")

    def _list(self, depth: int) -> list[Any]:
        if depth == 0:
            raise ValueError("it is nested too deep")
        head = self._byte()
        count = self._varint() if head >> 4 == 15 else head >> 4
        items = []
        for _ in range(count):
            self._count()
            items.append(self._value(head & 15, depth - 1))
        return items

    def _map(self, depth: int) -> dict[Any, Any]:
        count = self._varint()
        kinds = self._byte() if count else 0
        items = {}
        for _ in range(count):
            self._count()
            key = str(self._value(kinds >> 4, depth - 1))
            items[key] = self._value(kinds & 15, depth - 1)
        return items

    def _number(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for place in range(_VARINT):
            byte = self._byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise ValueError("it has a number that is too long")

    def _byte(self) -> int:
        byte = self._raw[self._position]
        self._position += 1
        return byte

    def _take(self, count: int) -> bytes:
        taken = self._raw[self._position : self._position + count]
        if len(taken) != count:
            raise IndexError
        self._position += count
        return taken
