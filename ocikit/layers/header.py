"""Headers of tar archives: parsing and encoding of blocks of 512 bytes. pax(1) and the extensions of GNU tar."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

from ocikit.errors import ContentError, UnsafeArchive

EntryType: TypeAlias = Literal["file", "directory", "symlink", "hardlink", "character device", "block device", "fifo"]

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)

XATTR: Final = "SCHILY.xattr."

_SIZE_LIMIT: Final = 2**63 - 1  # bytes; int64, as in file systems
_TIME_LIMIT: Final = 8**11  # seconds; the limit of the octal field, in the year 2242

_FLAGS: Final[dict[EntryType, bytes]] = {"file": b"0", "directory": b"5", "symlink": b"2"}
_TIME = re.compile(r"(-?)(\d{1,19})(?:\.(\d*))?")


def verify_checksum(block: bytes) -> None:
    """Verify the checksum of a header.

    Raises:
        ContentError: The checksum is wrong.
    """
    expected = parse_number(block[148:156])
    others = block[:148] + block[156:]
    unsigned = sum(others) + 8 * 32
    # Some very old archives have the sum of signed bytes
    if expected != unsigned and expected != unsigned - 256 * sum(byte > 127 for byte in others):
        raise ContentError(
            "the content is not a tar archive, or is damaged: a header's checksum is wrong",
            hint="check that it is a layer and that its digest is the one in the manifest",
        )


def is_header(block: bytes) -> bool:
    """Return True if a block has the checksum of a header."""
    if len(block) < BLOCK:
        return False
    try:
        verify_checksum(block)
    except ContentError:
        return False
    return True


def parse_number(octal: bytes) -> int:
    """Return the value of a field with octal digits or a GNU binary number.

    Raises:
        ContentError: The field is not a number.
    """
    if octal[0] & 0x80:  # GNU's binary numbers, for values beyond the octal digits
        value = int.from_bytes(octal, "big") & ((1 << (8 * len(octal) - 1)) - 1)
        return value - (1 << (8 * len(octal) - 1)) if octal[0] & 0x40 else value
    digits = octal.strip(b" \0")
    if not digits.isdigit():  # int() would also accept signs, underscores and prefixes
        digits = digits.partition(b"\0")[0].rstrip(b" ")
    try:
        if digits.isdigit() or not digits:
            return int(digits or b"0", 8)
    except ValueError:
        pass
    raise ContentError(
        "the content is not a tar archive, or is damaged: a header has an invalid number",
        hint="check that it is a layer and that its digest is the one in the manifest",
    )


def parse_decimal(digits: bytes) -> int:
    """Return the value of decimal digits of an extended header.

    Raises:
        ContentError: The digits are not a number.
    """
    if not digits.isdigit() or len(digits) > 19:
        raise ContentError(
            f"the archive is damaged: {digits[:20]!r} is not a number", hint="ask its publisher for a new one"
        )
    return int(digits)


def decimal_record(records: dict[str, bytes], key: str, default: int) -> int:
    """Return a number of an extended header, or the default if it is absent."""
    return parse_decimal(records[key]) if key in records else default


def check_size(value: int) -> int:
    """Return a file size if it is possible.

    Raises:
        UnsafeArchive: The size is negative or too large for file systems.
    """
    if not 0 <= value <= _SIZE_LIMIT:
        raise UnsafeArchive(f"an entry declares a size of {value} bytes", hint="the archive is damaged or malicious")
    return value


def parse_mtime_ns(record: bytes | None, block: bytes) -> int:
    """Return the modification time in nanoseconds since 1970, at most the year 2242.

    Args:
        record: The time in an extended header, which has priority.
        block: The header.

    Raises:
        ContentError: The time is invalid.
    """
    if record is None:
        seconds, nanos = parse_number(block[136:148]), 0
    else:
        match = _TIME.fullmatch(decode_path(record))
        if match is None:
            raise ContentError(
                f"the archive is damaged: {record[:20]!r} is not a time", hint="ask its publisher for a new one"
            )
        seconds, nanos = int(match[2]), int(f"{match[3] or '':0<9.9}")
        if match[1]:
            seconds, nanos = -seconds, -nanos
    if abs(seconds) >= _TIME_LIMIT:
        return _TIME_LIMIT * 10**9 * (1 if seconds > 0 else -1)
    return seconds * 10**9 + nanos


def c_string(raw: bytes) -> bytes:
    """Return the bytes before the first NUL."""
    return raw.partition(b"\0")[0]


def decode_path(raw: bytes) -> str:
    """Return bytes as a path: invalid UTF-8 becomes surrogates, as in `os.fsdecode`."""
    return raw.decode("utf-8", "surrogateescape")


def ustar_name(block: bytes) -> bytes:
    """Return the name in a header with its prefix, in POSIX or star format."""
    name = c_string(block[:100])
    if block[257:263] != b"ustar\0":
        return name  # GNU stores other fields in place of the POSIX prefix
    prefix = c_string(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    return prefix + b"/" + name if prefix else name


def parse_records(content: bytes) -> dict[str, bytes]:
    """Return the records of an extended header, by key.

    Raises:
        ContentError: The header is invalid.
        UnsafeArchive: A value has a NUL, which parsers interpret differently.
    """
    records: dict[str, bytes] = {}
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
        position, name = end, decode_path(key)
        if b"\0" in key or (b"\0" in value and not name.startswith(XATTR)):
            raise UnsafeArchive(
                f"an extended header has a NUL in {name!r}",
                hint="tar implementations disagree on such archives; don't use it",
            )
        if name in {"GNU.sparse.offset", "GNU.sparse.numbytes"}:
            holes.append(value)
        elif value or name.startswith(XATTR):
            records[name] = value
        else:
            records.pop(name, None)
    else:
        if holes:
            records["GNU.sparse.map"] = b",".join(holes)
        return records
    raise ContentError("the archive is damaged: an extended header is invalid", hint="ask its publisher for a new one")


def padding(size: int) -> int:
    """Return the number of zero bytes between content of this size and the next block."""
    return -size % BLOCK


def encode_header(path: str, kind: EntryType, *, size: int = 0, mode: int, mtime: int = 0, target: str = "") -> bytes:
    """Return a reproducible header in the POSIX (pax) format, with owner 0:0.

    Args:
        path: The path of the entry.
        kind: "file", "directory" or "symlink".
        size: Bytes of the content.
        mode: Permission bits.
        mtime: Seconds since 1970.
        target: The target of a symlink.
    """
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
    extended = b""
    if records:
        extended = _ustar(name=b"././@PaxHeader", flag=b"x", size=len(records), mode=0o644)
        extended += records + bytes(padding(len(records)))
    return extended + _ustar(
        name=path.encode("ascii", "replace")[:100],
        flag=_FLAGS[kind],
        size=size if size < 8**11 else 0,
        mode=mode,
        mtime=mtime if 0 <= mtime < 8**11 else 0,
        link=target.encode("ascii", "replace")[:100],
    )


def _record(key: bytes, value: bytes) -> bytes:
    """Return a line whose length includes its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _ustar(*, name: bytes, flag: bytes, size: int, mode: int, mtime: int = 0, link: bytes = b"") -> bytes:
    fields = (
        name.ljust(100, b"\0"),
        b"%07o\0" % mode,
        b"%07o\0" % 0,  # uid
        b"%07o\0" % 0,  # gid
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,  # checksum
        flag,
        link.ljust(100, b"\0"),
        b"ustar\0",
        b"00",
        bytes(64),  # user and group name
        b"%07o\0" % 0,  # device numbers
        b"%07o\0" % 0,
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
