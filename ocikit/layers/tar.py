"""Tar archives as streams: their entries, one by one. image-spec layer.md#distributable-format.

The standard library's tarfile is not used. Reading, it ends quietly at a damaged header, loads extended headers of any
declared size into memory, and keeps every member. Writing, its headers differ between Python versions, and so would
digests (`header.encode_header` writes them). This reader agrees with Go's archive/tar, which docker, containerd and umoci use, where archives are ambiguous.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from attrs import field, frozen

from ocikit import display
from ocikit.errors import ContentError, UnsafeArchive
from ocikit.layers.header import (
    BLOCK,
    XATTR,
    EntryType,
    c_string,
    check_sum,
    decimal,
    integer,
    mtime_ns,
    number,
    padding,
    parse_records,
    size_field,
    text,
    ustar_name,
)
from ocikit.spec.annotations import FrozenMap

#: Bytes moved at once: large enough that calls cost nothing beside the copying.
CHUNK: Final = 1 << 20

#: Bytes of an extended header, a long name or a map of holes. Go's archive/tar has the same limit.
EXTENDED_LIMIT: Final = 1 << 20

_TYPES: Final[dict[bytes, EntryType]] = {
    b"0": "file", b"\0": "file", b"7": "file", b"S": "file", b"1": "hardlink", b"2": "symlink",
    b"3": "character device", b"4": "block device", b"5": "directory", b"6": "fifo",
}  # fmt: skip


class Readable(Protocol):
    """Anything that gives bytes."""

    def read(self, size: int = ..., /) -> bytes:
        """At most `size` bytes; none at the end."""


@frozen(kw_only=True, repr=False)
class TarEntry(display.Displayable):
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

    @property
    def clean_path(self) -> str:
        """The path without the "./" before and the "/" after that many archives have."""
        return "/".join(part for part in self.path.split("/") if part not in {"", "."})

    def __rich_repr__(self) -> display.Description:
        yield "path", self.path
        yield "type", self.type, "file"
        yield "size", display.Size(self.size), 0
        yield "mode", oct(self.mode)
        yield "target", self.target, None
        yield "device", self.device, None
        yield "layer", self.layer, 0


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
        """Pass over so many bytes. Raises: ContentError: if the stream ends before."""
        while count:
            piece = self.some(count)
            if not piece:
                raise _cut(what)
            count -= len(piece)

    def skip_padding(self, size: int) -> None:
        """Pass over what fills the last block of content of this size, if it is there."""
        pad = padding(size)
        # `umoci insert` ends archives at the last byte of the last file; Go's readers take that.
        while pad and (piece := self.some(pad)):
            pad -= len(piece)

    def header(self) -> bytes | None:
        """The next block that isn't zero, or None at the end of the archive or of the stream."""
        first = self.some(BLOCK)
        if not first:
            return None
        block = bytes(first) + (self.take(BLOCK - len(first), "a header") if len(first) < BLOCK else b"")
        if block.count(0) < BLOCK:
            return block
        if any(self.some(BLOCK)):
            raise ContentError(
                "the archive is damaged: it goes on after an end", hint="ask its publisher for a new one"
            )
        return None

    def extended(self, size: int, what: str) -> bytes:
        """The content of an extended header. Raises: UnsafeArchive: if it is too large."""
        if size > EXTENDED_LIMIT:
            raise UnsafeArchive(
                f"the archive has {what} of {size} bytes",
                hint=f"at most {EXTENDED_LIMIT} are read; real archives need a few hundred",
            )
        content = self.take(size, what)
        self.skip_padding(size)
        return content

    def drain(self) -> None:
        """Read to the end: streams that verify what they give do so there."""
        while self.some(CHUNK):
            pass


class EntryBody:
    """The content of one entry; read it before asking for the next entry."""

    def __init__(self, source: _Source, path: str, stored: int, segments: tuple[tuple[int, int], ...]) -> None:
        self._source = source
        self._path = path
        self._left = stored
        self._stored = stored
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
        self._source.skip(self._left, repr(self._path))
        self._source.skip_padding(self._stored)
        self._left = self._stored = 0


def members(stream: Readable) -> Iterator[tuple[TarEntry, EntryBody]]:
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
        check_sum(block)
        kind, size = block[156:157], size_field(number(block[124:136]))
        if kind in {b"x", b"X"}:
            records = parse_records(source.extended(size, "an extended header"))
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
) -> tuple[TarEntry, EntryBody]:
    if name is None:
        name = records.get("GNU.sparse.name") or records.get("path") or ustar_name(block)
    if target is None:
        target = records.get("linkpath") or c_string(block[157:257])
    path, link = text(name), text(target)
    flag = block[156:157]
    kind = _TYPES.get(flag)
    if kind is None:
        raise UnsafeArchive(
            f"{path!r} is a tar entry of type {flag!r}", hint="only files, folders, links and devices can be unpacked"
        )
    if flag == b"\0" and path.endswith("/"):
        kind = "directory"  # archives from before 1988 have no type for folders
    stored = size = size_field(decimal(records, "size", number(block[124:136]))) if kind == "file" else 0
    segments: tuple[tuple[int, int], ...] = ((0, size),)
    if kind == "file":
        if flag == b"S":
            pairs, size = _old_holes(source, block)
            segments = _segments(path, pairs, size, stored)
        elif any(key.startswith("GNU.sparse.") for key in records):
            pairs, size, stored = _pax_holes(source, records, stored, path)
            segments = _segments(path, pairs, size, stored)
    devices = kind in {"character device", "block device"}
    entry = TarEntry(
        path=path,
        type=kind,
        size=size,
        mode=number(block[100:108]) & 0o7777,
        mtime_ns=mtime_ns(records.get("mtime"), block),
        uid=decimal(records, "uid", number(block[108:116])),
        gid=decimal(records, "gid", number(block[116:124])),
        target=link if kind in {"symlink", "hardlink"} else None,
        device=(number(block[329:337]), number(block[337:345])) if devices else None,
        xattrs=FrozenMap({k.removeprefix(XATTR): v for k, v in records.items() if k.startswith(XATTR)}),
    )
    return entry, EntryBody(source, path, stored, segments)


def _old_holes(source: _Source, block: bytes) -> tuple[list[int], int]:
    """Numbers of the map and the size of the file, from GNU tar's old format for sparse files."""
    size, more = size_field(number(block[483:495])), block[482]
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
    numbers = [number(f) for f in fields]
    return numbers, size


def _pax_holes(source: _Source, records: dict[str, bytes], stored: int, path: str) -> tuple[list[int], int, int]:
    """Numbers of the map, the file's size and the stored bytes after the map, from GNU tar's formats 0.0 to 1.0."""
    size = size_field(decimal(records, "GNU.sparse.realsize", decimal(records, "GNU.sparse.size", stored)))
    if records.get("GNU.sparse.major") != b"1":
        fields = records.get("GNU.sparse.map", b"").split(b",")
        return [integer(f) for f in fields if f], size, stored
    found, lines, wanted = bytearray(), 0, 1
    while lines < wanted:
        if stored < BLOCK or len(found) >= EXTENDED_LIMIT:
            raise UnsafeArchive(f"the map of holes of {path!r} is too large or cut short", hint="pack it without holes")
        block = source.take(BLOCK, "a map of holes")
        stored -= BLOCK
        found += block
        lines += block.count(b"\n")
        if lines:
            wanted = 1 + 2 * integer(bytes(found.partition(b"\n")[0]))
    return [integer(line) for line in bytes(found).split(b"\n")[1:wanted]], size, stored


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


def _cut(what: str) -> ContentError:
    return ContentError(f"the archive ends in the middle of {what}", hint="it was cut short; fetch it again")
