"""Pictures: width, height and colors from their first bytes.

A few bytes of the header are enough, so no picture is decoded and no package is needed. SVG is text.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from ocikit.descriptions.content import Content
from ocikit.errors import ContentError

_COLORS: Final = {0: "gray", 2: "RGB", 3: "palette", 4: "gray with alpha", 6: "RGBA"}
_COMPONENTS: Final = {1: "gray", 3: "RGB", 4: "CMYK"}
_ENTRIES = 512  # of a directory of TIFF


def read_png(content: Content) -> dict[str, Any]:
    """Return the size of a PNG picture; https://www.w3.org/TR/png-3."""
    head = content.head()
    if head[12:16] != b"IHDR":
        raise _damaged()
    width, height, depth, color = struct.unpack_from(">IIBB", head, 16)
    return _facts(width, height, f"{_COLORS.get(color, 'unknown colors')}, {depth} bits")


def read_gif(content: Content) -> dict[str, Any]:
    """Return the size of a GIF picture; https://www.w3.org/Graphics/GIF/spec-gif89a.txt."""
    width, height = struct.unpack_from("<HH", content.head(), 6)
    return _facts(width, height, "palette, 8 bits")


def read_bmp(content: Content) -> dict[str, Any]:
    """Return the size of a BMP picture."""
    head = content.head()
    if struct.unpack_from("<I", head, 14)[0] < 40:
        width, height = struct.unpack_from("<HH", head, 18)
        return _facts(width, height, "")
    width, height, _, depth = struct.unpack_from("<iiHH", head, 18)
    return _facts(abs(width), abs(height), f"{depth} bits")


def read_webp(content: Content) -> dict[str, Any]:
    """Return the size of a WebP picture; RFC 9649."""
    head = content.head()
    kind = head[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
        return _facts(width, height, "RGBA" if head[20] & 16 else "RGB")
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", head, 21)
        return _facts((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, "RGBA" if bits >> 28 & 1 else "RGB")
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        return _facts(width & 0x3FFF, height & 0x3FFF, "RGB")
    raise _damaged()


def read_jpeg(content: Content) -> dict[str, Any]:
    """Return the size of a JPEG picture; ITU-T T.81. It is after the embedded preview and the color profile, if any."""
    head, at = content.head(), 2
    while at + 9 <= len(head):
        if head[at] != 0xFF:
            raise _damaged()
        marker = head[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker == 1 or 0xD0 <= marker <= 0xD8:  # markers without a length
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            depth, height, width, components = struct.unpack_from(">BHHB", head, at + 4)
            return _facts(width, height, f"{_COMPONENTS.get(components, 'unknown colors')}, {depth} bits")
        else:
            at += 2 + max(2, struct.unpack_from(">H", head, at + 2)[0])
    return {"kind": "picture", "note": "its size is not among the first bytes that were read"}


def read_tiff(content: Content) -> dict[str, Any]:
    """Return the size of the first picture of a TIFF file; TIFF 6.0."""
    head = content.head(8)
    order = "<" if head[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", head, 4)
    (count,) = struct.unpack(order + "H", content.read(at, 2))
    if not 0 < count <= _ENTRIES:
        raise _damaged()
    raw = content.read(at + 2, count * 12)
    found = {}
    for i in range(count):
        tag, kind, items = struct.unpack_from(order + "HHI", raw, i * 12)
        if kind in {3, 4} and items == 1:
            found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), raw, i * 12 + 8)[0]
    if 256 not in found or 257 not in found:
        raise _damaged()
    return _facts(found[256], found[257], "")


def _facts(width: int, height: int, colors: str) -> dict[str, Any]:
    if not width or not height:
        raise _damaged()
    return {"kind": "picture", "shape": (height, width), "dtype": colors}


def _damaged() -> ContentError:
    return ContentError("its header is damaged", hint="fetch the file again, or ask its publisher for an undamaged one")
