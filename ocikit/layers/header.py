"""Headers of tar archives: fields out of blocks of 512 bytes, and blocks out of fields. pax(1), and GNU tar's extensions."""

from __future__ import annotations

import re
from typing import Final, Literal, TypeAlias

from ocikit.errors import ContentError, UnsafeArchive

EntryType: TypeAlias = Literal["file", "directory", "symlink", "hardlink", "character device", "block device", "fifo"]

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)

XATTR: Final = "SCHILY.xattr."

_SIZE_LIMIT: Final = 2**63 - 1  # int64, as file systems count
_TIME_LIMIT: Final = 8**11  # seconds: what tar's own octal field can hold, until the year 2242

_FLAGS: Final[dict[EntryType, bytes]] = {"file": b"0", "directory": b"5", "symlink": b"2"}
_TIME = re.compile(r"(-?)(\d{1,19})(?:\.(\d*))?")


def check_sum(block: bytes) -> None:
    """Compare a header with its checksum. Raises: ContentError."""
    claimed = number(block[148:156])
    others = block[:148] + block[156:]
    plain = sum(others) + 8 * 32
    # Some very old archives added the bytes up as signed numbers.
    if claimed != plain and claimed != plain - 256 * sum(byte > 127 for byte in others):
        raise ContentError(
            "the content is not a tar archive, or is damaged: a header's checksum is wrong",
            hint="check that it is a layer, and whether its digest is what the manifest says",
        )


def number(octal: bytes) -> int:
    """A field of octal digits, or of GNU's binary ones. Raises: ContentError."""
    if octal[0] & 0x80:  # GNU's binary numbers, for what octal digits can't hold
        value = int.from_bytes(octal, "big") & ((1 << (8 * len(octal) - 1)) - 1)
        return value - (1 << (8 * len(octal) - 1)) if octal[0] & 0x40 else value
    digits = octal.strip(b" \0")
    if not digits.isdigit():  # int() would also take signs, underscores and prefixes
        digits = digits.partition(b"\0")[0].rstrip(b" ")
    try:
        if digits.isdigit() or not digits:
            return int(digits or b"0", 8)
    except ValueError:
        pass
    raise ContentError(
        "the content is not a tar archive, or is damaged: a header has no number where one should be",
        hint="check that it is a layer, and whether its digest is what the manifest says",
    )


def integer(digits: bytes) -> int:
    """Decimal digits, as extended headers have them. Raises: ContentError."""
    if not digits.isdigit() or len(digits) > 19:
        raise ContentError(f"the archive is damaged: {digits[:20]!r} is not a number", hint="ask for a new one")
    return int(digits)


def decimal(records: dict[str, bytes], key: str, default: int) -> int:
    """A number from an extended header, or the default if it has none."""
    return integer(records[key]) if key in records else default


def size_field(value: int) -> int:
    """A size that files can have. Raises: UnsafeArchive."""
    if not 0 <= value <= _SIZE_LIMIT:
        raise UnsafeArchive(f"an entry declares a size of {value} bytes", hint="the archive is damaged or hostile")
    return value


def mtime_ns(record: bytes | None, block: bytes) -> int:
    """Nanoseconds since 1970, from an extended header if it has a time. Beyond 2242 it is 2242."""
    if record is None:
        seconds, nanos = number(block[136:148]), 0
    else:
        match = _TIME.fullmatch(text(record))
        if match is None:
            raise ContentError(f"the archive is damaged: {record[:20]!r} is not a time", hint="ask for a new one")
        seconds, nanos = int(match[2]), int(f"{match[3] or '':0<9.9}")
        if match[1]:
            seconds, nanos = -seconds, -nanos
    if abs(seconds) >= _TIME_LIMIT:
        return _TIME_LIMIT * 10**9 * (1 if seconds > 0 else -1)
    return seconds * 10**9 + nanos


def c_string(raw: bytes) -> bytes:
    """What is before the first NUL."""
    return raw.partition(b"\0")[0]


def text(raw: bytes) -> str:
    """Bytes as a path: what isn't UTF-8 becomes surrogates, as in `os.fsdecode`."""
    return raw.decode("utf-8", "surrogateescape")


def ustar_name(block: bytes) -> bytes:
    """The name in a header, with the prefix that POSIX and star keep elsewhere."""
    name = c_string(block[:100])
    if block[257:263] != b"ustar\0":
        return name  # GNU keeps other things where POSIX has the prefix
    prefix = c_string(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
    return prefix + b"/" + name if prefix else name


def parse_records(content: bytes) -> dict[str, bytes]:
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
        position, name = end, text(key)
        if b"\0" in key or (b"\0" in value and not name.startswith(XATTR)):
            raise UnsafeArchive(
                f"an extended header has a NUL in {name!r}", hint="the archive was made to be read in two ways"
            )
        if name in {"GNU.sparse.offset", "GNU.sparse.numbytes"}:
            holes.append(value)
        elif value or name.startswith(XATTR):
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
    fields = (
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size, b"%011o\0" % mtime,
        b" " * 8, flag, link.ljust(100, b"\0"), b"ustar\0", b"00", bytes(64), b"%07o\0" % 0, b"%07o\0" % 0,
    )  # fmt: skip
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
