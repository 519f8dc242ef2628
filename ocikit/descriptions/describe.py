"""Recognise the format of a file by its content, and describe it.

The first bytes or the last ones decide. The name and the media type of a file only choose which of them are requested first,
and decide about formats that have no magic number, such as CSV.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ocikit import display
from ocikit.descriptions.arrays import MAGIC as NPY_MAGIC
from ocikit.descriptions.arrays import read_npy
from ocikit.descriptions.arrow import read_arrow, read_arrow_stream
from ocikit.descriptions.content import Content, Ranges
from ocikit.descriptions.gguf import MAGIC as GGUF_MAGIC
from ocikit.descriptions.gguf import read_gguf
from ocikit.descriptions.limits import FIRST, REQUESTS
from ocikit.descriptions.model import Description
from ocikit.descriptions.parquet import read_parquet
from ocikit.descriptions.safetensors import read_safetensors, read_safetensors_index
from ocikit.errors import ContentError, OcikitError
from ocikit.spec.media_types import media_type_of

#: Returns another file next to the described one, as size and ranges; None if there is none of this name.
Sibling = Callable[[str], tuple[int, Ranges] | None]

_Reader = Callable[[Content], dict[str, Any]]

_READERS: Final[Mapping[str, _Reader]] = {
    "arrow": read_arrow,
    "arrow stream": read_arrow_stream,
    "gguf": read_gguf,
    "npy": read_npy,
    "parquet": read_parquet,
    "safetensors": read_safetensors,
}

#: Formats by media type.
_BY_TYPE: Final[Mapping[str, str]] = {
    "application/vnd.apache.arrow.file": "arrow",
    "application/vnd.apache.arrow.stream": "arrow stream",
    "application/vnd.apache.parquet": "parquet",
    "application/x-gguf": "gguf",
    "application/x-npy": "npy",
    "application/x-safetensors": "safetensors",
}

#: Formats whose description is at the end of the file.
_AT_END: Final = {"arrow", "parquet"}

_INDEX: Final = ".safetensors.index.json"


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
        size: Of the file, in bytes.
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
        if found == "safetensors index":
            facts = read_safetensors_index(content, _contents(sibling))
        else:
            facts = _READERS[found](content) if found in _READERS else {"kind": "binary"}
    except ContentError as error:
        message = f"{display.quoted(name)} is not a valid {found} file: {error.message}"
        raise ContentError(message, hint=error.hint) from error
    except (OcikitError, MemoryError):
        raise
    except Exception as error:  # pyarrow raises ArrowException, OSError, ValueError, KeyError and others
        raise ContentError(
            f"{display.quoted(name)} is not a valid {found} file: {display.shorten(error, 200)}",
            hint=f"fetch the file again, or open it with a program for {found}",
        ) from error
    note = facts.pop("note", "")
    if expected not in {"", found} and expected in _READERS:
        note = "; ".join(filter(None, [f"its name or media type is that of {expected}", note]))
    return Description(
        name=name,
        size=size,
        format=facts.pop("format", found),
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
        name: Its name in the description; "" is that of the path.

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


def _expected(name: str, media_type: str) -> str:
    """Return the format that the name or the media type of a file claims, or ""."""
    if name.endswith(_INDEX):
        return "safetensors index"
    return _BY_TYPE.get(media_type) or _BY_TYPE.get(media_type_of(name), "")


def _recognise(content: Content, expected: str) -> str:
    """Return the format of a file."""
    if expected in _AT_END and content.size > FIRST and (found := _by_tail(content.tail())):
        return found
    return _by_head(content.head(), content.size) or expected or "binary"


def _by_tail(tail: bytes) -> str:
    """Return the format of a file by its last bytes, or ""."""
    if tail.endswith((b"PAR1", b"PARE")):
        return "parquet"
    return "arrow" if tail.endswith(b"ARROW1") else ""


def _by_head(head: bytes, size: int) -> str:
    """Return the format of a file by its first bytes, or ""."""
    for magic, found in _MAGIC:
        if head.startswith(magic):
            return found
    # safetensors has no magic number: the length of a JSON object, and its first character
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "safetensors"
    return ""


_MAGIC: Final[Sequence[tuple[bytes, str]]] = (
    (b"PAR1", "parquet"),
    (b"ARROW1\0\0", "arrow"),
    (GGUF_MAGIC, "gguf"),
    (NPY_MAGIC, "npy"),
)
