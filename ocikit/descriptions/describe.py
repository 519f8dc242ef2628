"""Recognise the format of a file by its content, and describe it.

The first bytes or the last ones decide. The name and the media type of a file only choose which of them are requested first,
and decide about formats that have no magic number, such as CSV.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs

from ocikit import display
from ocikit.descriptions.arrays import MAGIC as NPY_MAGIC
from ocikit.descriptions.arrays import read_npy
from ocikit.descriptions.arrow import read_arrow, read_arrow_stream
from ocikit.descriptions.content import Content, Ranges
from ocikit.descriptions.gguf import MAGIC as GGUF_MAGIC
from ocikit.descriptions.gguf import read_gguf
from ocikit.descriptions.hdf5 import MAGIC as HDF5_MAGIC
from ocikit.descriptions.hdf5 import find_superblock, read_hdf5
from ocikit.descriptions.limits import FIRST, REQUESTS
from ocikit.descriptions.model import Description, Kind
from ocikit.descriptions.parquet import read_parquet
from ocikit.descriptions.pictures import read_bmp, read_gif, read_jpeg, read_png, read_tiff, read_webp
from ocikit.descriptions.safetensors import read_safetensors, read_safetensors_index
from ocikit.descriptions.text import decode, read_csv, read_json, read_json_lines, read_text
from ocikit.descriptions.zip import read_zip
from ocikit.errors import ContentError, OcikitError, UnsafeArchive
from ocikit.layers.tar import members
from ocikit.spec.media_types import TAR, media_type_of

#: Returns another file next to the described one, as size and ranges; None if there is none of this name.
Sibling = Callable[[str], tuple[int, Ranges] | None]

_Reader = Callable[[Content], dict[str, Any]]

_READERS: Final[Mapping[str, _Reader]] = {
    "arrow": read_arrow,
    "arrow stream": read_arrow_stream,
    "bmp": read_bmp,
    "gguf": read_gguf,
    "gif": read_gif,
    "hdf5": read_hdf5,
    "jpeg": read_jpeg,
    "npy": read_npy,
    "npz": read_zip,
    "parquet": read_parquet,
    "png": read_png,
    "safetensors": read_safetensors,
    "tiff": read_tiff,
    "webp": read_webp,
    "zip": read_zip,
}

#: Readers of text, which take its first bytes and the size of the file.
_TEXTS: Final[Mapping[str, Callable[[bytes, int | None], dict[str, Any]]]] = {
    "csv": read_csv,
    "json": read_json,
    "json lines": read_json_lines,
    "notebook": read_json,
    "text": read_text,
    "tsv": partial(read_csv, delimiter="\t"),
}

#: Formats whose opening runs code of their publisher. They are recognised, never parsed.
_CODE: Final = {"joblib", "keras", "pickle", "pytorch"}

#: Formats by media type.
_BY_TYPE: Final[Mapping[str, str]] = {
    "application/geo+json": "json",
    "application/json": "json",
    "application/jsonl": "json lines",
    "application/ld+json": "json",
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.arrow.stream": "arrow stream",
    "application/vnd.apache.parquet": "parquet",
    "application/x-gguf": "gguf",
    "application/x-hdf5": "hdf5",
    "application/x-ipynb+json": "notebook",
    "application/x-bzip2": "bzip2",
    "application/x-joblib": "joblib",
    "application/x-keras": "keras",
    "application/x-ndjson": "json lines",
    "application/x-npy": "npy",
    "application/x-npz": "npz",
    "application/x-onnx": "onnx",
    "application/x-orc": "orc",
    "application/x-pickle": "pickle",
    "application/x-pytorch": "pytorch",
    "application/x-safetensors": "safetensors",
    "application/zip": "zip",
    "image/bmp": "bmp",
    "image/gif": "gif",
    "image/jpeg": "jpeg",
    "image/png": "png",
    "image/tiff": "tiff",
    "image/webp": "webp",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
}

#: Formats whose description is at the end of the file.
_AT_END: Final = {"arrow", "keras", "npz", "parquet", "pytorch", "zip"}

#: Formats by their first bytes.
_MAGIC: Final[Sequence[tuple[bytes, str]]] = (
    (b"PAR1", "parquet"),
    (b"ARROW1\0\0", "arrow"),
    (GGUF_MAGIC, "gguf"),
    (NPY_MAGIC, "npy"),
    (HDF5_MAGIC, "hdf5"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"SQLite format 3\0", "sqlite"),
    (b"CDF\x01", "netcdf"),
    (b"CDF\x02", "netcdf"),
    (b"CDF\x05", "netcdf"),
    (b"Obj\x01", "avro"),
    (b"%PDF-", "pdf"),
    (b"\x7fELF", "elf"),
    (b"\x1f\x8b\x08", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    *((bytes([0x80, version]), "pickle") for version in range(2, 6)),
)

#: What files of formats are that are only recognised.
_KINDS: Final[Mapping[str, Kind]] = {
    "7z": "archive",
    "avro": "table",
    "netcdf": "store",
    "orc": "table",
    "tar": "archive",
}

_PICTURES: Final = {"bmp", "gif", "jpeg", "png", "tiff", "webp"}
_INDEX: Final = ".safetensors.index.json"
_WHOLE = 2 * FIRST  # bytes of a JSON document that is parsed
_TAR = 257  # offset of the magic number of a tar
_TAR_END = (
    21 << 9
)  # bytes after the only file of a tar: its padding, and the end of the archive in one block of 20 records


def describe(
    name: str,
    size: int,
    ranges: Ranges,
    *,
    media_type: str = "",
    requests: int = REQUESTS,
    sibling: Sibling | None = None,
    verified: bool = False,
) -> Description:
    """Return what is in a file.

    Args:
        name: Name of the file.
        size: Size of the file, in bytes.
        ranges: Reads parts of it. Its errors are raised as they are.
        media_type: Media type of the file, if it is known.
        requests: How many ranges may be requested for details, such as the types of all arrays in an npz file.
        sibling: Returns a file of the same artifact, for models in several files.
        verified: Whether `ranges` verifies a file that is read whole.

    Raises:
        ContentError: The file is damaged, or a part of it exceeds a limit.
        OcikitError: The format needs a package that is not installed.
    """
    content = Content(size, ranges, requests=requests)
    expected = _expected(name, media_type)
    found = _recognise(content, expected)
    try:
        facts = _read(content, found, name, sibling)
    except (ContentError, UnsafeArchive) as error:
        message = f"describing {display.quoted(name)} as {found} failed: {error.message}"
        raise ContentError(message, hint=error.hint) from error
    except (OcikitError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # pyarrow raises ArrowException, OSError, ValueError, KeyError and others; zipfile as many
        raise ContentError(
            f"describing {display.quoted(name)} as {found} failed: {display.shorten(error, 200)}",
            hint=f"fetch the file again, or open it with a program for {found}",
        ) from error
    found = facts.pop("format", found)
    note = facts.pop("note", "")
    alike = expected in found or expected == "zip" or (expected in _TEXTS and found in _TEXTS)
    if not alike:
        note = "; ".join(filter(None, [f"its name or media type is that of {expected}", note]))
    return Description(
        name=name,
        size=size,
        format=found,
        note=note,
        bytes_read=content.bytes_read,
        requests=content.requests,
        verified=verified and content.whole,
        **facts,
    )


def describe_path(path: str | os.PathLike[str], name: str = "") -> Description:
    """Return what is in a file on disk.

    Args:
        path: The file.
        name: Name of the file in the description; "" is that of the path.

    Raises:
        ContentError: The file cannot be read, is damaged, or a part of it exceeds a limit.
        OcikitError: The format needs a package that is not installed.
    """
    file = Path(path)

    def sibling(other: str) -> tuple[int, Ranges] | None:
        beside = file.parent / other
        if Path(other).name != other or not beside.is_file():
            return None
        return beside.stat().st_size, _file_ranges(beside)

    try:
        return describe(name or file.name, file.stat().st_size, _file_ranges(file), requests=1 << 10, sibling=sibling)
    except OcikitError:  # some of them are subclasses of OSError
        raise
    except OSError as error:
        raise ContentError(
            f"cannot read {display.display_path(file)}: {error.strerror or error}",
            hint="check the path and its permissions",
        ) from error


def _file_ranges(path: Path) -> Ranges:
    def read(spans: Sequence[tuple[int, int]]) -> list[bytes]:
        parts = []
        with path.open("rb") as stream:
            for offset, length in spans:
                stream.seek(offset)
                parts.append(stream.read(length))
        return parts

    return read


def _contents(sibling: Sibling | None) -> Callable[[str], Content | None]:
    def find(name: str) -> Content | None:
        found = None if sibling is None else sibling(name)
        return None if found is None else Content(*found)

    return find


def is_binary_format(name: str, media_type: str = "") -> bool:
    """Return True if a file claims a format whose description has more than its first bytes as text.

    >>> is_binary_format("a.parquet"), is_binary_format("a.csv"), is_binary_format("a.png")
    (True, False, False)
    """
    expected = _expected(name, media_type)
    return expected in {*_CODE, *_READERS, "safetensors index"} - _PICTURES


def _expected(name: str, media_type: str) -> str:
    """Return the format that the name or the media type of a file claims, or ""."""
    if name.endswith(_INDEX):
        return "safetensors index"
    for kind in (media_type, media_type_of(name)):
        if (found := _BY_TYPE.get(kind)) or kind.startswith("text/"):
            return found or "text"
    return ""


def _recognise(content: Content, expected: str) -> str:
    """Return the format of a file."""
    if expected in _AT_END and content.size > FIRST and (found := _by_tail(content.tail())):
        return found
    head = content.head()
    if expected in _TEXTS and decode(head, content.size) is not None:
        return expected  # a magic number may be a word of text
    found = _by_head(head, content.size)
    if found in {"", "gzip", "pickle"} and expected in _CODE:
        return expected  # compressed, or of a protocol without a magic number
    if found or expected:
        return found or expected
    return "binary" if decode(head, content.size) is None else "text"


def _by_tail(tail: bytes) -> str:
    """Return the format of a file by its last bytes, or ""."""
    if tail.endswith((b"PAR1", b"PARE")):
        return "parquet"
    if tail.endswith(b"ARROW1"):
        return "arrow"
    return "zip" if b"PK\x05\x06" in tail[-FIRST:] else ""


def _by_head(head: bytes, size: int) -> str:
    """Return the format of a file by its first bytes, or ""."""
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[_TAR : _TAR + 5] == b"ustar":
        return "tar"
    if head[:2] == b"BM" and int.from_bytes(head[2:6], "little") == size:
        return "bmp"
    # safetensors has no magic number: the length of a JSON object, and its first character
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    return "hdf5" if find_superblock(head) >= 0 else ""  # it may begin after a block of the user


def _read(content: Content, found: str, name: str, sibling: Sibling | None) -> dict[str, Any]:
    """Return what a file of a format has, as arguments of `Description`."""
    if found == "safetensors index":
        return read_safetensors_index(content, _contents(sibling))
    if found in _READERS:
        return _READERS[found](content)
    if found in _TEXTS:
        whole = found in {"json", "notebook"} and content.size <= _WHOLE
        return _TEXTS[found](content.head(_WHOLE) if whole else content.head(), content.size)
    if found in _CODE:
        return {"kind": "binary", "runs_code": True}
    if found == "gzip":
        return _read_gzip(content, name)
    if found == "tar":
        return _read_tar(content)
    return {"kind": _KINDS.get(found, "binary")}


def _read_tar(content: Content) -> dict[str, Any]:
    """Return what the only file of a tar has, as tools for models pack each file; other tars are only recognised."""
    facts: dict[str, Any] = {"kind": "archive", "note": "it has no directory, so its members are not listed"}
    entry, body = next(members(io.BytesIO(content.head()), TAR), (None, None))
    if entry is None or body is None or entry.type != "file" or body.segments != ((0, entry.size),):
        return facts
    start, size = body.offset, entry.size
    if not start + size <= content.size <= start + size + _TAR_END:
        return facts

    def ranges(spans: Sequence[tuple[int, int]]) -> list[bytes]:
        return [content.read(start + offset, length) for offset, length in spans]

    inner = Content(size, ranges, requests=content.requests_left)
    found = _recognise(inner, _expected(entry.path, ""))
    if found in {"tar", "binary", "safetensors index"}:
        return facts
    facts = _read(inner, found, entry.path, None)
    tensors = {
        name: tensor if tensor.offset is None else attrs.evolve(tensor, offset=start + tensor.offset)
        for name, tensor in facts.pop("tensors", {}).items()
    }
    return {**facts, "tensors": tensors, "format": f"{facts.get('format', found)}, tar"}


def _read_gzip(content: Content, name: str) -> dict[str, Any]:
    """Return what compressed text has in its first bytes; other compressed files are only recognised."""
    inner = name.removesuffix(".gz")
    expected = _expected(inner, "")
    if inner == name or not (expected in _TEXTS or media_type_of(inner).startswith("text/")):
        return {"kind": "archive" if name.endswith((".tgz", ".tar.gz")) else "binary"}
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    head = unpacker.decompress(content.head(), FIRST)
    if content.whole and not unpacker.eof and not unpacker.unconsumed_tail:
        raise ContentError("it ends early", hint="fetch the file again: it is cut short")
    facts = _TEXTS.get(expected, read_text)(head, None)
    return {**facts, "format": f"{expected or 'text'}, gzip"}
