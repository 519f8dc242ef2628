"""zip archives by their directory, which is at the end: members, and the formats that are zip archives inside.

`zipfile` parses the directory. Its size is compared with a limit before, because a member takes ten times its bytes in
memory (DoS). No member is unpacked, except the first bytes of arrays in an npz file.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any, Final

from ocikit.descriptions.arrays import parse_header
from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import ARRAY_HEADER, DIRECTORY, ENTRIES, TENSORS
from ocikit.descriptions.model import Entry, Tensor
from ocikit.errors import ContentError
from ocikit.store.streams import PositionedStream

_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_END_MAGIC: Final = b"PK\x05\x06"
_END64_MAGIC: Final = b"PK\x06\x06"
_LOCATOR64 = 20  # bytes between the two
_LOCAL = 30  # bytes of a member's header before its name
_HEAD = 512  # bytes of a member that has the header of an array in almost all cases

_STORES: Final = {"zarr.json", ".zgroup", ".zarray", ".zmetadata"}
_DOCUMENTS: Final = {"word/": "docx", "xl/": "xlsx", "ppt/": "pptx"}


def read_zip(content: Content) -> dict[str, Any]:
    """Return the members of an archive, or the arrays of an npz file.

    Raises:
        ContentError: The archive has no directory, or a damaged one.
    """
    count, size = _directory(content)
    if size > DIRECTORY:
        return {
            "kind": "archive",
            "metadata": {"members": f"{count:,}"},
            "note": f"its directory has {size:,} bytes and was not read; the limit is {DIRECTORY:,}",
        }
    members = zipfile.ZipFile(io.BufferedReader(_Stream(content), 1)).infolist()
    names = [member.filename for member in members]
    facts: dict[str, Any] = {"kind": "archive", "metadata": {"members": f"{len(members):,}"}}
    found = _format(names)
    if found == "npz":
        return _arrays(content, members)
    if found in {"pytorch", "keras"}:
        facts |= {"kind": "binary", "runs_code": True}
    if found == "zarr":
        facts["kind"] = "store"
    if found:
        facts["format"] = found
    if len(members) > ENTRIES:
        facts["note"] = f"the first {ENTRIES:,} members are listed"
    facts["entries"] = tuple(
        Entry(name=member.filename, size=member.file_size, packed=member.compress_size) for member in members[:ENTRIES]
    )
    return facts


def _format(names: Sequence[str]) -> str:
    """Return the format that has members of these names, or ""."""
    bare = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in bare:
        return "pytorch"
    if "config.json" in names and "model.weights.h5" in names:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    if _STORES & bare:
        return "zarr"
    if "[Content_Types].xml" in names:
        return next((found for folder, found in _DOCUMENTS.items() if any(n.startswith(folder) for n in names)), "")
    return "jar" if "META-INF/MANIFEST.MF" in names else ""


def _directory(content: Content) -> tuple[int, int]:
    """Return the number of members, and the bytes of the directory.

    Raises:
        ContentError: There is no directory.
    """
    tail = content.tail()
    at = tail.rfind(_END_MAGIC)
    if at < 0 or len(tail) < at + _END.size:
        raise ContentError(
            "it has no directory at its end", hint="fetch the file again: it is cut short, or another kind of file"
        )
    _, _, _, _, count, size, _, _ = _END.unpack_from(tail, at)
    large = at - _LOCATOR64 - _END64.size
    if large >= 0 and tail[large : large + 4] == _END64_MAGIC:
        count, size = _END64.unpack_from(tail, large)[7:9]
    return int(count), int(size)


class _Stream(PositionedStream):
    """An archive as a stream of which parts are requested, as far as a directory may need them.

    Args:
        content: The archive.
    """

    def __init__(self, content: Content) -> None:
        super().__init__(content.size)
        self._content = content

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's WriteableBuffer is wider
        length = max(0, min(len(buffer), self._size - self._position))
        if length > DIRECTORY:
            raise ContentError(f"its directory has more than {DIRECTORY:,} bytes", hint="open the file with zipfile")
        buffer[:length] = self._content.read(self._position, length)
        self._position += length
        return length


def _arrays(content: Content, members: Sequence[zipfile.ZipInfo]) -> dict[str, Any]:
    """Return the arrays of an npz file; as many of their headers are requested as the call allows."""
    if len(members) > TENSORS:
        raise ContentError(f"it has {len(members):,} arrays; the limit is {TENSORS:,}", hint="open the file with numpy")
    content.load((m.header_offset, min(_HEAD, _LOCAL + len(m.filename) + m.compress_size)) for m in members)
    tensors = {member.filename.removesuffix(".npy"): _array(content, member) for member in members}
    unknown = sum(tensor.shape is None for tensor in tensors.values())
    return {
        "kind": "tensors",
        "format": "npz",
        "tensors": tensors,
        "metadata": {"members": f"{len(members):,}"},
        "runs_code": any("object" in tensor.dtype for tensor in tensors.values()),
        "note": f"the types of {unknown:,} arrays were not read: allow {unknown + 1:,} requests" if unknown else "",
    }


def _array(content: Content, member: zipfile.ZipInfo) -> Tensor:
    """Return an array of an npz file, without its type if the header is not held."""
    packed = member.compress_type == zipfile.ZIP_DEFLATED
    local = content.held(member.header_offset, _LOCAL)
    if local is None or local[:4] != b"PK\x03\x04" or not (packed or member.compress_type == zipfile.ZIP_STORED):
        return Tensor(size=member.file_size)
    start = member.header_offset + _LOCAL + sum(struct.unpack_from("<2H", local, 26))
    head = content.held_from(start, min(member.compress_size, ARRAY_HEADER))
    try:
        if packed:
            head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(head, ARRAY_HEADER)
        dtype, shape, _, begin = parse_header(head)
    except (ContentError, zlib.error):
        return Tensor(size=member.file_size)
    offset = None if packed else start + begin
    return Tensor(dtype=dtype, shape=shape, size=member.file_size - begin, offset=offset)
