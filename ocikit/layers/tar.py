"""Streaming reader of tar archives. image-spec layer.md#distributable-format.

The standard library's tarfile is not used. Its reader stops silently at a damaged header, loads extended headers of any
declared size into memory, and keeps every member. Its writer produces different headers, and so different digests, in
different Python versions; `header.encode_header` does not. Where archives are ambiguous, this reader agrees with Go's
archive/tar, which docker, containerd and umoci use.
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
    check_size,
    decimal_record,
    decode_path,
    is_header,
    padding,
    parse_decimal,
    parse_mtime_ns,
    parse_number,
    parse_records,
    ustar_name,
    verify_checksum,
)
from ocikit.spec.annotations import FrozenMap

#: Bytes per read and write; with larger chunks nothing gets faster.
CHUNK: Final = 1 << 20

#: Maximum bytes of an extended header, a long name or a sparse map. Go's archive/tar has the same limit.
EXTENDED_LIMIT: Final = 1 << 20

_TYPES: Final[dict[bytes, EntryType]] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"S": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "fifo",
}


class Readable(Protocol):
    """A stream that can be read forwards."""

    def read(self, size: int = ..., /) -> bytes:
        """Return at most `size` bytes, empty at the end."""


@frozen(kw_only=True, repr=False)
class TarEntry(display.Displayable):
    """One entry of an archive, or one path of a merged tree.

    >>> ocikit.TarEntry(path="data/waves.csv", type="file", size=12).path
    'data/waves.csv'
    """

    path: str
    """Relative, with "/" between names; invalid UTF-8 is surrogates, as in `os.fsdecode`."""
    type: EntryType
    size: int = 0
    """Bytes of a file, including holes."""
    mode: int = 0o644
    """Permission bits, including setuid, setgid and sticky."""
    mtime_ns: int = 0
    """Nanoseconds since 1970."""
    uid: int = 0
    gid: int = 0
    target: str | None = None
    """The target of a symlink, or the path of the file that a hard link refers to."""
    device: tuple[int, int] | None = None
    """Major and minor number."""
    xattrs: FrozenMap[bytes] = field(factory=FrozenMap)
    layer: int = 0
    """In a merged tree: the index of the layer with the content."""
    stored_as: str = ""
    """In a merged tree: the path of the content in that layer."""

    @property
    def clean_path(self) -> str:
        """The path from the root, without a leading "./" or "/" and a trailing "/", which many archives have."""
        return "/".join(clean_names(self.path))

    def __rich_repr__(self) -> display.Description:
        yield "path", self.path
        yield "type", self.type, "file"
        yield "size", display.Size(self.size), 0
        yield "mode", oct(self.mode)
        yield "target", self.target, None
        yield "device", self.device, None
        yield "layer", self.layer, 0

    def _card_title(self) -> object:
        return display.Name.of_path(self.path)

    def _card_notes(self) -> Iterator[object]:
        yield self.type
        if self.type == "file":
            yield display.Size(self.size)

    def _facts(self) -> Iterator[tuple[str, object]]:
        yield from display.non_default_fields(self.__rich_repr__(), "path", "type", "size")


def clean_names(path: str) -> tuple[str, ...]:
    """Return the names of a path from the root, with ".." resolved and never above the root.

    >>> clean_names("/etc/./x/../hosts"), clean_names("../..")
    (('etc', 'hosts'), ())
    """
    names: list[str] = []
    for name in path.split("/"):
        if name == "..":
            del names[-1:]
        elif name not in {"", "."}:
            names.append(name)
    return tuple(names)


class ChunkReader:
    """A stream that is read in large chunks and returned in small ones."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._chunk = memoryview(b"")
        self.position = 0
        """Bytes that were returned."""

    def check_format(self, media_type: str) -> None:
        """Check that the stream begins with a header, or is empty.

        Raises:
            ContentError: The content is not a tar archive.
        """
        first = b""
        while len(first) < BLOCK and (data := self._stream.read(CHUNK)):
            first += data
        self._chunk = memoryview(first)
        block = first[:BLOCK]
        # A damaged header still has the magic; headers from before 1988 have a checksum only
        if not first or block[257:262] == b"ustar" or block.count(0) == BLOCK or is_header(block):
            return
        raise ContentError(
            f"the content is not a tar archive{f' (its type is {media_type})' if media_type else ''}",
            hint="only tar archives can be listed and unpacked; get other content with .pull(folder) or .open(name)",
        )

    def read_some(self, limit: int) -> memoryview:
        """Return between 1 and `limit` bytes; empty at the end of the stream."""
        if not self._chunk:
            self._chunk = memoryview(self._stream.read(CHUNK))
        data, self._chunk = self._chunk[:limit], self._chunk[limit:]
        self.position += len(data)
        return data

    def read_exactly(self, count: int, description: str) -> bytes:
        """Return exactly `count` bytes.

        Raises:
            ContentError: The stream ends earlier.
        """
        data = self.read_some(count)
        if len(data) == count:
            return bytes(data)
        parts, missing = [data], count - len(data)
        while missing:
            data = self.read_some(missing)
            if not data:
                raise _truncated(description)
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def skip(self, count: int, description: str) -> None:
        """Skip `count` bytes.

        Raises:
            ContentError: The stream ends earlier.
        """
        while count:
            data = self.read_some(count)
            if not data:
                raise _truncated(description)
            count -= len(data)

    def skip_padding(self, size: int) -> None:
        """Skip the padding after content of this size, if there is one."""
        missing = padding(size)
        # `umoci insert` ends archives at the last byte of the last file; Go's readers accept that
        while missing and (data := self.read_some(missing)):
            missing -= len(data)

    def read_header(self) -> bytes | None:
        """Return the next block, or None at the end of the archive or of the stream.

        Raises:
            ContentError: The archive continues after a zero block, or ends within a block.
        """
        data = self.read_some(BLOCK)
        if not data:
            return None
        block = bytes(data) + (self.read_exactly(BLOCK - len(data), "a header") if len(data) < BLOCK else b"")
        if block.count(0) < BLOCK:
            return block
        if any(self.read_some(BLOCK)):
            raise ContentError(
                "the archive is damaged: it continues after its end", hint="ask its publisher for a new one"
            )
        return None

    def read_extended(self, size: int, description: str) -> bytes:
        """Return the content of an extended header.

        Raises:
            UnsafeArchive: The header is too large (DoS).
        """
        if size > EXTENDED_LIMIT:
            raise UnsafeArchive(
                f"the archive has {description} of {size} bytes",
                hint=f"the limit is {EXTENDED_LIMIT} bytes; real archives need a few hundred",
            )
        content = self.read_exactly(size, description)
        self.skip_padding(size)
        return content

    def drain(self) -> None:
        """Read to the end, where verifying streams check the digest."""
        while self.read_some(CHUNK):
            pass


class EntryBody:
    """The content of one entry; it must be read before the next entry.

    Args:
        reader: The archive.
        path: The path of the entry, for messages.
        stored: Bytes in the archive.
        segments: (offset, length) of each run of stored bytes within the file; the rest are holes.
    """

    def __init__(self, reader: ChunkReader, path: str, stored: int, segments: tuple[tuple[int, int], ...]) -> None:
        self._reader = reader
        self._path = path
        self._left = stored
        self._stored = stored
        self.segments = segments
        self.offset = reader.position
        """Where the stored bytes begin in the archive."""

    def read(self, limit: int = CHUNK) -> memoryview:
        """Return at most `limit` stored bytes; empty at the end.

        Raises:
            ContentError: The archive ends earlier.
        """
        data = self._reader.read_some(min(limit, self._left)) if self._left else memoryview(b"")
        if not data and self._left and limit:
            raise _truncated(repr(self._path))
        self._left -= len(data)
        return data

    def skip_rest(self) -> None:
        """Skip the bytes that were not read."""
        self._reader.skip(self._left, repr(self._path))
        self._reader.skip_padding(self._stored)
        self._left = self._stored = 0


def members(stream: Readable, media_type: str = "") -> Iterator[tuple[TarEntry, EntryBody]]:
    """Yield the entries of an uncompressed tar; paths are not checked.

    The stream is read to its end, beyond the end of the archive. Global extended headers are ignored, like in docker.

    Args:
        stream: The archive.
        media_type: The type of the layer in its manifest, for messages.

    Raises:
        ContentError: The archive is damaged or truncated.
        UnsafeArchive: The archive has malicious or unsupported headers.
    """
    reader = ChunkReader(stream)
    reader.check_format(media_type)
    records: dict[str, bytes] = {}
    name: bytes | None = None
    target: bytes | None = None
    while (block := reader.read_header()) is not None:
        verify_checksum(block)
        flag, size = block[156:157], check_size(parse_number(block[124:136]))
        if flag in {b"x", b"X"}:
            records = parse_records(reader.read_extended(size, "an extended header"))
        elif flag == b"g":
            reader.read_extended(size, "a global extended header")
        elif flag == b"L":
            name = reader.read_extended(size, "a long name").partition(b"\0")[0]
        elif flag == b"K":
            target = reader.read_extended(size, "a long link target").partition(b"\0")[0]
        else:
            entry, body = _parse_entry(reader, block, records, name, target)
            yield entry, body
            body.skip_rest()
            records, name, target = {}, None, None
    reader.drain()


def _parse_entry(
    reader: ChunkReader, block: bytes, records: dict[str, bytes], name: bytes | None, target: bytes | None
) -> tuple[TarEntry, EntryBody]:
    if name is None:
        name = records.get("GNU.sparse.name") or records.get("path") or ustar_name(block)
    if target is None:
        target = records.get("linkpath") or c_string(block[157:257])
    path, link = decode_path(name), decode_path(target)
    flag = block[156:157]
    kind = _TYPES.get(flag)
    if kind is None:
        raise UnsafeArchive(
            f"{path!r} is a tar entry of type {flag!r}", hint="only files, folders, links and devices can be unpacked"
        )
    if flag == b"\0" and path.endswith("/"):
        kind = "directory"  # archives from before 1988 have no type for folders
    stored = size = check_size(decimal_record(records, "size", parse_number(block[124:136]))) if kind == "file" else 0
    segments: tuple[tuple[int, int], ...] = ((0, size),)
    if kind == "file":
        if flag == b"S":
            pairs, size = _read_gnu_sparse_map(reader, block)
            segments = _segments(path, pairs, size, stored)
        elif any(key.startswith("GNU.sparse.") for key in records):
            pairs, size, stored = _read_pax_sparse_map(reader, records, stored, path)
            segments = _segments(path, pairs, size, stored)
    devices = kind in {"character device", "block device"}
    entry = TarEntry(
        path=path,
        type=kind,
        size=size,
        mode=parse_number(block[100:108]) & 0o7777,
        mtime_ns=parse_mtime_ns(records.get("mtime"), block),
        uid=decimal_record(records, "uid", parse_number(block[108:116])),
        gid=decimal_record(records, "gid", parse_number(block[116:124])),
        target=link if kind in {"symlink", "hardlink"} else None,
        device=(parse_number(block[329:337]), parse_number(block[337:345])) if devices else None,
        xattrs=FrozenMap({k.removeprefix(XATTR): v for k, v in records.items() if k.startswith(XATTR)}),
    )
    return entry, EntryBody(reader, path, stored, segments)


def _read_gnu_sparse_map(reader: ChunkReader, block: bytes) -> tuple[list[int], int]:
    """Return sparse map and file size of GNU tar's old sparse format."""
    size, more = check_size(parse_number(block[483:495])), block[482]
    table, map_bytes = block[386:482], bytearray()
    while True:
        map_bytes += table.rstrip(b"\0") if not more else table
        if not more:
            break
        if len(map_bytes) > EXTENDED_LIMIT:
            raise UnsafeArchive("a sparse file has more than 40,000 holes", hint="pack it without holes")
        extension = reader.read_exactly(BLOCK, "a sparse map")
        table, more = extension[:504], extension[504]
    map_bytes += bytes(-len(map_bytes) % 24)
    fields = [bytes(map_bytes[i : i + 12]) for i in range(0, len(map_bytes), 12)]
    numbers = [parse_number(field) for field in fields]
    return numbers, size


def _read_pax_sparse_map(
    reader: ChunkReader, records: dict[str, bytes], stored: int, path: str
) -> tuple[list[int], int, int]:
    """Return sparse map, file size and stored bytes of GNU formats 0.0 to 1.0."""
    size = check_size(
        decimal_record(records, "GNU.sparse.realsize", decimal_record(records, "GNU.sparse.size", stored))
    )
    if records.get("GNU.sparse.major") != b"1":
        fields = records.get("GNU.sparse.map", b"").split(b",")
        return [parse_decimal(field) for field in fields if field], size, stored
    content, lines, expected = bytearray(), 0, 1
    while lines < expected:
        if stored < BLOCK or len(content) >= EXTENDED_LIMIT:
            raise UnsafeArchive(f"the sparse map of {path!r} is too large or truncated", hint="pack it without holes")
        block = reader.read_exactly(BLOCK, "a sparse map")
        stored -= BLOCK
        content += block
        lines += block.count(b"\n")
        if lines:
            expected = 1 + 2 * parse_decimal(bytes(content.partition(b"\n")[0]))
    return [parse_decimal(line) for line in bytes(content).split(b"\n")[1:expected]], size, stored


def _segments(path: str, numbers: list[int], size: int, stored: int) -> tuple[tuple[int, int], ...]:
    """Return the (offset, length) pairs of stored bytes.

    Raises:
        UnsafeArchive: The pairs are not in order, not within the file, or not the stored bytes.
    """
    pairs = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > size:
            end = -1
            break
        end = offset + length
    if end < 0 or len(numbers) % 2 or sum(length for _, length in pairs) != stored:
        raise UnsafeArchive(f"the sparse map of {path!r} is inconsistent", hint="pack it without holes")
    return tuple(pair for pair in pairs if pair[1])


def _truncated(description: str) -> ContentError:
    return ContentError(f"the archive ends in the middle of {description}", hint="it was cut short; fetch it again")
