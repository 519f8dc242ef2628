"""Zip archives without compression: the same files result in the same bytes on every machine. PKWARE's APPNOTE.TXT.

Members follow each other without gaps, and the directory is at the end. So the directory has the place of each
member's content, and a client reads one member of a remote archive by a range.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from ocikit import display
from ocikit.errors import ContentError
from ocikit.layers.tar import CHUNK, ChunkReader, EntryBody, Readable, TarEntry

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_LOCAL_MAGIC: Final = b"PK\x03\x04"
_CENTRAL_MAGIC: Final = b"PK\x01\x02"
_END64_MAGIC: Final = b"PK\x06\x06"
_LOCATOR64_MAGIC: Final = b"PK\x06\x07"
_END_MAGIC: Final = b"PK\x05\x06"

_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF
_VERSION, _VERSION64 = 20, 45
_UTF8 = 0x800  # the flag of names in UTF-8
_DATE = 33  # 1980-01-01, the first day that a zip can represent
_EPOCH_NS = 315_532_800 * 10**9  # the same in nanoseconds since 1970
_UNIX = 3 << 8  # the system whose permissions the attributes have
_FILE_TYPE = 0o100000
_EXTRA64 = 1  # the id of the extra field with 64-bit numbers
#: The extra field of an executable file: Info-ZIP's ASi field with mode 755. The mode in the directory comes too late for
#: clients that unpack while they download.
_MODE = struct.pack("<HI2H", 0o100755, 0, 0, 0)
_EXECUTABLE: Final = struct.pack("<2HI", 0x756E, 4 + len(_MODE), zlib.crc32(_MODE)) + _MODE


class ZipMember(NamedTuple):
    """A member of an archive."""

    name: str
    size: int
    crc: int
    executable: bool
    offset: int
    """Of its header."""

    @property
    def start(self) -> int:
        """Offset of its content."""
        return self.offset + len(encode_local(self.name, self.size, self.crc, executable=self.executable))


def encode_local(name: str, size: int, crc: int, *, executable: bool) -> bytes:
    """Return the header before a member's content."""
    raw, extra, stored = name.encode(), b"", size
    if size >= _MAX32:
        extra, stored = struct.pack("<2H2Q", _EXTRA64, 16, size, size), _MAX32
    version = _VERSION64 if extra else _VERSION
    extra += _EXECUTABLE if executable else b""
    header = _LOCAL.pack(_LOCAL_MAGIC, version, _UTF8, 0, 0, _DATE, crc, stored, stored, len(raw), len(extra))
    return header + raw + extra


def encode_directory(members: Iterable[ZipMember], offset: int) -> bytes:
    """Return the directory with the end of the archive.

    Args:
        members: The members, in order.
        offset: Where the directory begins.
    """
    parts, count = [], 0
    for member in members:
        raw, numbers = member.name.encode(), b""
        size, at = member.size, member.offset
        if size >= _MAX32:
            numbers, size = struct.pack("<2Q", size, size), _MAX32
        if at >= _MAX32:
            numbers, at = numbers + struct.pack("<Q", at), _MAX32
        extra = struct.pack("<2H", _EXTRA64, len(numbers)) + numbers if numbers else b""
        version = _VERSION64 if extra else _VERSION
        attributes = (_FILE_TYPE | (0o755 if member.executable else 0o644)) << 16
        fields = version, _UTF8, 0, 0, _DATE, member.crc, size, size, len(raw), len(extra), 0, 0, 0, attributes, at
        parts.append(_CENTRAL.pack(_CENTRAL_MAGIC, _UNIX | version, *fields) + raw + extra)
        count += 1
    directory = b"".join(parts)
    end, large = b"", count >= _MAX16 or len(directory) >= _MAX32 or offset >= _MAX32
    if large:
        end = _END64.pack(
            _END64_MAGIC, _END64.size - 12, _UNIX | _VERSION64, _VERSION64, 0, 0, count, count, len(directory), offset
        )
        end += _LOCATOR64.pack(_LOCATOR64_MAGIC, 0, offset + len(directory), 1)
        end += _END.pack(_END_MAGIC, 0, 0, _MAX16, _MAX16, _MAX32, _MAX32, 0)
    else:
        end = _END.pack(_END_MAGIC, 0, 0, count, count, len(directory), offset, 0)
    return directory + end


def parse_directory(raw: bytes, offset: int) -> list[ZipMember]:
    """Return the members of an archive by its directory.

    Only archives as `encode_directory` describes them are accepted: without compression, gaps and overlaps. So no member
    is larger than the archive, and a zip bomb is impossible.

    Args:
        raw: The directory with the end of the archive.
        offset: Where the directory begins.

    Raises:
        ContentError: The directory is damaged, or is that of another kind of archive.
    """
    members: list[ZipMember] = []
    at = position = 0
    try:
        while raw[position : position + 4] == _CENTRAL_MAGIC:
            (
                _, _, _, flags, method, _, _, crc, stored, size, name_size, extra_size, comment_size, _, _, attributes,
                start,
            ) = _CENTRAL.unpack_from(raw, position)  # fmt: skip
            position += _CENTRAL.size
            name = raw[position : position + name_size].decode()
            extra = raw[position + name_size : position + name_size + extra_size]
            position += name_size + extra_size
            if _MAX32 in {size, start}:
                size, start = _large_numbers(extra, size, start)
                stored = size
            if method or flags != _UTF8 or comment_size or stored != size or start != at:
                raise _unsupported(f"the member {display.quoted(name)} is compressed, encrypted or not in order")
            member = ZipMember(name, size, crc, bool(attributes >> 16 & 0o100), start)
            members.append(member)
            at = member.start + size
    except (struct.error, ValueError, IndexError) as error:
        raise _unsupported("its directory is damaged") from error
    if at != offset or raw != encode_directory(members, offset):
        raise _unsupported("its directory is not that of its members")
    return members


def _large_numbers(extra: bytes, size: int, start: int) -> tuple[int, int]:
    """Return size and offset of a member with 64-bit numbers."""
    kind, length = struct.unpack_from("<2H", extra)
    if kind != _EXTRA64 or length != len(extra) - 4:
        raise ValueError("the extra field is not that of 64-bit numbers")
    numbers = list(struct.unpack(f"<{length // 8}Q", extra[4:]))
    if size == _MAX32:
        size, _ = numbers.pop(0), numbers.pop(0)
    if start == _MAX32:
        start = numbers.pop(0)
    return size, start


def zip_members(stream: Readable) -> Iterator[tuple[TarEntry, EntryBody]]:
    """Yield the members of an archive while it is read to its end, as `ocikit.layers.tar.members` does for a tar.

    Raises:
        ContentError: The archive is damaged, or of another kind than `encode_directory` describes.
    """
    reader = ChunkReader(stream)
    offset = 0
    magic = reader.read_exactly(4, "the archive")
    while magic == _LOCAL_MAGIC:
        header = magic + reader.read_exactly(_LOCAL.size - 4, "a header")
        _, _, flags, method, _, _, crc, stored, size, name_size, extra_size = _LOCAL.unpack(header)
        raw = reader.read_exactly(name_size + extra_size, "a name")
        try:
            name, executable = raw[:name_size].decode(), raw[name_size:].endswith(_EXECUTABLE)
            if size == _MAX32:
                stored = size = _large_numbers(raw[name_size:].removesuffix(_EXECUTABLE), size, 0)[0]
        except (struct.error, ValueError, IndexError) as error:
            raise _unsupported("a header is damaged") from error
        if (
            method
            or flags != _UTF8
            or stored != size
            or header + raw != encode_local(name, size, crc, executable=executable)
        ):
            raise _unsupported(f"the member {display.quoted(name)} is compressed or encrypted")
        entry = TarEntry(path=name, type="file", size=size, mode=0o755 if executable else 0o644, mtime_ns=_EPOCH_NS)
        body = _Body(reader, name, size, ((0, size),))
        yield entry, body
        body.skip_rest()
        if body.crc != crc:
            raise ContentError(
                f"the content of {display.quoted(name)} is damaged: its CRC-32 is wrong", hint="fetch the archive again"
            )
        offset += len(header) + len(raw) + size
        magic = reader.read_exactly(4, "the directory")
    rest = [magic]
    while data := reader.read_some(CHUNK):
        rest.append(bytes(data))
    parse_directory(b"".join(rest), offset)


class _Body(EntryBody):
    """The content of a member."""

    crc = 0

    def read(self, limit: int = CHUNK) -> memoryview:
        data = super().read(limit)
        self.crc = zlib.crc32(data, self.crc)
        return data

    def skip_rest(self) -> None:
        while self.read():
            pass


def _unsupported(problem: str) -> ContentError:
    return ContentError(
        f"the content is not a shard as ocikit writes them: {problem}",
        hint="get the archive as a file with archive=False, and open it with zipfile",
    )
