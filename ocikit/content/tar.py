"""Tar archives as streams: reading entries one by one, and writing headers. image-spec layer.md#distributable-format.

The standard library's tarfile is not used. Reading, it ends quietly at a damaged header, loads extended headers of any
declared size into memory, and keeps every member. Writing, its headers differ between Python versions, and so would
digests. This reader agrees with Go's archive/tar, which docker, containerd and umoci use, where archives are ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal, Protocol, TypeAlias

from attrs import field, frozen

from ocikit.errors import ContentError, UnsafeArchive
from ocikit.spec.annotations import FrozenMap

__all__ = ["BLOCK", "END", "Body", "Entry", "EntryType", "Readable", "encode_header", "members", "padding"]

EntryType: TypeAlias = Literal["file", "directory", "symlink", "hardlink", "character device", "block device", "fifo"]

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)

#: Bytes moved at once: large enough that calls cost nothing beside the copying.
CHUNK: Final = 1 << 20

#: Bytes of an extended header, a long name or a map of holes. Go's archive/tar has the same limit.
EXTENDED_LIMIT: Final = 1 << 20

_SIZE_LIMIT: Final = 2**63 - 1  # int64, as file systems count
_TIME_LIMIT: Final = 8**11  # seconds: what tar's own octal field can hold, until the year 2242

_TYPES: Final[dict[bytes, EntryType]] = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink",
    b"3": "character device", b"4": "block device", b"5": "directory", b"6": "fifo",
}  # fmt: skip
_FLAGS: Final[dict[EntryType, bytes]] = {"file": b"0", "directory": b"5", "symlink": b"2"}

_XATTR: Final = "SCHILY.xattr."
_OCTAL = re.compile(rb"[0-7]*")
_TIME = re.compile(r"(-?)(\d{1,19})(?:\.(\d*))?")


class Readable(Protocol):
    """Anything that gives bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """At most `size` bytes; none at the end."""


@frozen(kw_only=True)
class Entry:
    """One entry of an archive, or one path of a merged tree."""

    path: str
    """Relative, with "/" between names; bytes that aren't UTF-8 are surrogates, as `os.fsdecode` makes them."""
    type: EntryType
    size: int = 0
    """Bytes of a file, holes included."""
    mode: int = 0o644
    """Permission bits, with setuid, setgid and sticky."""
    mtime_ns: int = 0
    """Nanoseconds since 1970."""
    uid: int = 0
    gid: int = 0
    target: str | None = None
    """Of a symlink, its text; of a hard link, the path that it is another name of."""
    device: tuple[int, int] | None = None
    """Major and minor number of a device."""
    xattrs: FrozenMap[bytes] = field(factory=FrozenMap)
    layer: int = 0
    """In a merged tree: the index of the layer that holds the content."""
    stored_as: str = ""
    """In a merged tree: the path that the content has in that layer."""


class _Source:
    """The stream, read in large pieces and handed out in small ones."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._chunk = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """Between one and `most` bytes; none at the end of the stream."""
        if not self._chunk:
            self._chunk = memoryview(self._stream.read(CHUNK))
        piece, self._chunk = self._chunk[:most], self._chunk[most:]
        return piece

    def take(self, count: int, what: str) -> bytes:
        """Exactly so many bytes. Raises: ContentError: if the stream ends before."""
        first = self.some(count)
        if len(first) == count:
            return bytes(first)
        pieces, missing = [first], count - len(first)
        while missing:
            piece = self.some(missing)
            if not piece:
                raise _cut(what)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def skip(self, count: int, what: str) -> None:
        """Pass over so many bytes."""
        while count:
            piece = self.some(count)
            if not piece:
                raise _cut(what)
            count -= len(piece)

    def header(self) -> bytes | None:
        """The next block that isn't zero, or None at the end of the archive or of the stream."""
        first = self.some(BLOCK)
        if not first:
            return None
        block = bytes(first) + (self.take(BLOCK - len(first), "a header") if len(first) < BLOCK else b"")
        return block if block.count(0) < BLOCK else None

    def extended(self, size: int, what: str) -> bytes:
        """The content of an extended header. Raises: UnsafeArchive: if it is too large."""
        if size > EXTENDED_LIMIT:
            raise UnsafeArchive(
                f"the archive has {what} of {size} bytes",
                hint=f"at most {EXTENDED_LIMIT} are read; real archives need a few hundred",
            )
        content = self.take(size, what)
        self.skip(padding(size), what)
        return content

    def drain(self) -> None:
        """Read to the end: streams that verify what they give do so there."""
        while self.some(CHUNK):
            pass


class Body:
    """The content of one entry; read it before asking for the next entry."""

    def __init__(self, source: _Source, path: str, stored: int, segments: tuple[tuple[int, int], ...]) -> None:
        self._source = source
        self._path = path
        self._left = stored
        self._padding = padding(stored)
        #: (offset, length) of each run of stored bytes within the file; the rest are holes.
        self.segments = segments

    def read(self, most: int = CHUNK) -> memoryview:
        """Up to `most` stored bytes; none at the end. Raises: ContentError: if the archive ends before."""
        piece = self._source.some(min(most, self._left)) if self._left else memoryview(b"")
        if not piece and self._left and most:
            raise _cut(repr(self._path))
        self._left -= len(piece)
        return piece

    def finish(self) -> None:
        """Pass over what wasn't read."""
        self._source.skip(self._left + self._padding, repr(self._path))
        self._left = self._padding = 0


def members(stream: Readable) -> Iterator[tuple[Entry, Body]]:
    """Each entry of an uncompressed tar with its content, paths as they are in the archive, unchecked.

    The stream is read to its end, past the end of the archive. Global extended headers are ignored, as docker does.

    Raises:
        ContentError: if the archive is damaged or cut short.
        UnsafeArchive: if it has headers that no honest archive has.
    """
    source = _Source(stream)
    records: dict[str, bytes] = {}
    name: bytes | None = None
    target: bytes | None = None
    while (block := source.header()) is not None:
        _check_sum(block)
        kind, size = block[156:157], _size(_number(block[124:136]))
        if kind in {b"x", b"X"}:
            records = _records(source.extended(size, "an extended header"))
        elif kind == b"g":
            source.extended(size, "a global extended header")
        elif kind == b"L":
            name = source.extended(size, "a long name").partition(b"\0")[0]
        elif kind == b"K":
            target = source.extended(size, "a long link target").partition(b"\0")[0]
        else:
            entry, body = _entry(source, block, records, name, target)
            yield entry, body
            body.finish()
            records, name, target = {}, None, None
    source.drain()


def _entry(
    source: _Source, block: bytes, records: dict[str, bytes], name: bytes | None, target: bytes | None
) -> tuple[Entry, Body]:
    if name is None:
        name = records.get("GNU.sparse.name") or records.get("path") or _ustar_name(block)
    if target is None:
        target = records.get("linkpath") or _string(block[157:257])
    path, link = _text(name), _text(target)
    flag = block[156:157]
    kind = _TYPES.get(flag)
    if kind is None:
        raise UnsafeArchive(
            f"{path!r} is a tar entry of type {flag!r}", hint="only files, folders, links and devices can be unpacked"
        )
    if flag == b"\0" and path.endswith("/"):
        kind = "directory"  # archives from before 1988 have no type for folders
    stored = size = _size(_decimal(records, "size", _number(block[124:136]))) if kind == "file" else 0
    segments: tuple[tuple[int, int], ...] = ((0, size),)
    if kind == "file":
        if flag == b"S":
            pairs, size = _old_holes(source, block)
            segments = _segments(path, pairs, size, stored)
        elif any(key.startswith("GNU.sparse.") for key in records):
            pairs, size, stored = _pax_holes(source, records, stored, path)
            segments = _segments(path, pairs, size, stored)
    devices = kind in {"character device", "block device"}
    entry = Entry(
        path=path,
        type=kind,
        size=size,
        mode=_number(block[100:108]) & 0o7777,
        mtime_ns=_mtime(records.get("mtime"), block),
        uid=_decimal(records, "uid", _number(block[108:116])),
        gid=_decimal(records, "gid", _number(block[116:124])),
        target=link if kind in {"symlink", "hardlink"} else None,
        device=(_number(block[329:337]), _number(block[337:345])) if devices else None,
        xattrs=FrozenMap({k.removeprefix(_XATTR): v for k, v in records.items() if k.startswith(_XATTR)}),
    )
    return entry, Body(source, path, stored, segments)


def _ustar_name(block: bytes) -> bytes:
    name = _string(block[:100])
    if block[257:263] != b"ustar\0":
        return name  # GNU keeps other things where POSIX has the prefix
    prefix = _string(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    return prefix + b"/" + name if prefix else name


def _records(content: bytes) -> dict[str, bytes]:
    """The key-value records of an extended header: length, key and value in a line each."""
    found: dict[str, bytes] = {}
    holes: list[bytes] = []
    position = 0
    while position < len(content):
        digits, space, _ = content[position : position + 20].partition(b" ")
        if not space or not digits.isdigit():
            break
        end = position + int(digits)
        key, equals, value = content[position + len(digits) + 1 : end - 1].partition(b"=")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n":
            break
        position, name = end, _text(key)
        if b"\0" in value and not name.startswith(_XATTR):
            raise UnsafeArchive(
                f"an extended header has a NUL in {name!r}", hint="the archive was made to be read in two ways"
            )
        if name in {"GNU.sparse.offset", "GNU.sparse.numbytes"}:
            holes.append(value)
        elif value or name.startswith(_XATTR):
            found[name] = value
        else:
            found.pop(name, None)
    else:
        if holes:
            found["GNU.sparse.map"] = b",".join(holes)
        return found
    raise ContentError(
        "the archive is damaged: an extended header can't be read", hint="ask its publisher for a new one"
    )


def _old_holes(source: _Source, block: bytes) -> tuple[list[int], int]:
    """Numbers of the map and the size of the file, from GNU tar's old format for sparse files."""
    size, more = _size(_number(block[483:495])), block[482]
    table, map_bytes = block[386:482], bytearray()
    while True:
        map_bytes += table.rstrip(b"\0") if not more else table
        if not more:
            break
        if len(map_bytes) > EXTENDED_LIMIT:
            raise UnsafeArchive("a sparse file has more than 40,000 holes", hint="pack it without holes")
        extension = source.take(BLOCK, "a map of holes")
        table, more = extension[:504], extension[504]
    map_bytes += bytes(-len(map_bytes) % 24)
    fields = [bytes(map_bytes[i : i + 12]) for i in range(0, len(map_bytes), 12)]
    numbers = [_number(f) for f in fields]
    return numbers, size


def _pax_holes(source: _Source, records: dict[str, bytes], stored: int, path: str) -> tuple[list[int], int, int]:
    """Numbers of the map, the file's size and the stored bytes after the map, from GNU tar's formats 0.0 to 1.0."""
    size = _size(_decimal(records, "GNU.sparse.realsize", _decimal(records, "GNU.sparse.size", stored)))
    if records.get("GNU.sparse.major") != b"1":
        fields = records.get("GNU.sparse.map", b"").split(b",")
        return [_int(f) for f in fields if f], size, stored
    text, lines, wanted = bytearray(), 0, 1
    while lines < wanted:
        if stored < BLOCK or len(text) >= EXTENDED_LIMIT:
            raise UnsafeArchive(f"the map of holes of {path!r} is too large or cut short", hint="pack it without holes")
        block = source.take(BLOCK, "a map of holes")
        stored -= BLOCK
        text += block
        lines += block.count(b"\n")
        if lines:
            wanted = 1 + 2 * _int(bytes(text.partition(b"\n")[0]))
    return [_int(line) for line in bytes(text).split(b"\n")[1:wanted]], size, stored


def _segments(path: str, numbers: list[int], size: int, stored: int) -> tuple[tuple[int, int], ...]:
    """The runs of stored bytes. Raises: UnsafeArchive: unless they are in order, in the file, and all that is stored."""
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > size:
            end = -1
            break
        end = offset + length
    if end < 0 or len(numbers) % 2 or sum(length for _, length in pairs) != stored:
        raise UnsafeArchive(f"the map of holes of {path!r} contradicts itself", hint="pack it without holes")
    return tuple(pair for pair in pairs if pair[1])


def _check_sum(block: bytes) -> None:
    claimed = _number(block[148:156])
    others = block[:148] + block[156:]
    plain = sum(others) + 8 * 32
    # Some very old archives added the bytes up as signed numbers.
    if claimed != plain and claimed != plain - 256 * sum(byte > 127 for byte in others):
        raise ContentError(
            "the content is not a tar archive, or is damaged: a header's checksum is wrong",
            hint="check that it is a layer, and whether its digest is what the manifest says",
        )


def _number(octal: bytes) -> int:
    if octal[0] & 0x80:  # GNU's binary numbers, for what octal digits can't hold
        value = int.from_bytes(octal, "big") & ((1 << (8 * len(octal) - 1)) - 1)
        return value - (1 << (8 * len(octal) - 1)) if octal[0] & 0x40 else value
    digits = octal.strip(b" \0").partition(b"\0")[0].rstrip(b" ")
    if _OCTAL.fullmatch(digits) is None:
        raise ContentError(
            "the content is not a tar archive, or is damaged: a header has no number where one should be",
            hint="check that it is a layer, and whether its digest is what the manifest says",
        )
    return int(digits or b"0", 8)


def _int(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 19:
        raise ContentError(f"the archive is damaged: {digits[:20]!r} is not a number", hint="ask for a new one")
    return int(digits)


def _decimal(records: dict[str, bytes], key: str, default: int) -> int:
    return _int(records[key]) if key in records else default


def _size(value: int) -> int:
    if not 0 <= value <= _SIZE_LIMIT:
        raise UnsafeArchive(f"an entry declares a size of {value} bytes", hint="the archive is damaged or hostile")
    return value


def _mtime(record: bytes | None, block: bytes) -> int:
    if record is None:
        seconds, nanos = _number(block[136:148]), 0
    else:
        match = _TIME.fullmatch(_text(record))
        if match is None:
            raise ContentError(f"the archive is damaged: {record[:20]!r} is not a time", hint="ask for a new one")
        seconds, nanos = int(match[2]), int(f"{match[3] or '':0<9.9}")
        if match[1]:
            seconds, nanos = -seconds, -nanos
    if abs(seconds) >= _TIME_LIMIT:
        return _TIME_LIMIT * 10**9 * (1 if seconds > 0 else -1)
    return seconds * 10**9 + nanos


def _string(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _cut(what: str) -> ContentError:
    return ContentError(f"the archive ends in the middle of {what}", hint="it was cut short; fetch it again")


def padding(size: int) -> int:
    """Zero bytes after content of this size, up to the next block."""
    return -size % BLOCK


def encode_header(path: str, kind: EntryType, *, size: int = 0, mode: int, mtime: int = 0, target: str = "") -> bytes:
    """The header of a file, folder or symlink, in the POSIX (pax) format: of 0:0, `mtime` in seconds, the same anywhere."""
    name, link = path.encode(), target.encode()
    records = b"".join(
        _record(key, value)
        for key, value, fits in (
            (b"path", name, len(name) <= 100 and name.isascii()),
            (b"linkpath", link, len(link) <= 100 and link.isascii()),
            (b"size", str(size).encode(), size < 8**11),
            (b"mtime", str(mtime).encode(), 0 <= mtime < 8**11),
        )
        if not fits
    )
    head = b""
    if records:
        head = _ustar(name=b"././@PaxHeader", flag=b"x", size=len(records), mode=0o644)
        head += records + bytes(padding(len(records)))
    return head + _ustar(
        name=path.encode("ascii", "replace")[:100],
        flag=_FLAGS[kind],
        size=size if size < 8**11 else 0,
        mode=mode,
        mtime=mtime if 0 <= mtime < 8**11 else 0,
        link=target.encode("ascii", "replace")[:100],
    )


def _record(key: bytes, value: bytes) -> bytes:
    """One line, whose length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(*, name: bytes, flag: bytes, size: int, mode: int, mtime: int = 0, link: bytes = b"") -> bytes:
    fields: Iterable[bytes] = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size, b"%011o\0" % mtime,
        b" " * 8, flag, link.ljust(100, b"\0"), b"ustar\0", b"00", bytes(64), b"%07o\0" % 0, b"%07o\0" % 0,
    )  # fmt: skip
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
