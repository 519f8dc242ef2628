"""safetensors: the length of a JSON header, the header, and the bytes of all tensors.

https://huggingface.co/docs/safetensors. The header is parsed here, so that a description needs no package. A file is
accepted if the library `safetensors` accepts its header: tensors follow each other without gaps up to the end of the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from ocikit import display
from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import DIMENSIONS, FIRST, SHARDS, TENSOR_HEADER, TENSORS, TEXT, VALUES
from ocikit.descriptions.model import Tensor
from ocikit.errors import ContentError, OcikitError

#: Bits of an element. Types that are not listed are accepted as text.
_BITS: Final[Mapping[str, int]] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

_MOST = 4 * TENSORS  # objects and arrays in a header: each tensor has three
_ITEMS = 24 * TENSORS  # items of them


def read_safetensors(content: Content) -> dict[str, Any]:
    """Return the tensors and the metadata of a file.

    Raises:
        ContentError: The header is invalid, or larger than a limit.
    """
    head = content.head(min(FIRST, content.size))
    if len(head) < 8:
        raise _invalid("it is shorter than the length of its header")
    length = int.from_bytes(head[:8], "little")
    if length > content.size - 8:
        raise _invalid(f"its header would have {length:,} bytes, but the file has {content.size:,}")
    if length > TENSOR_HEADER:
        raise ContentError(
            f"its header has {length:,} bytes; the limit is {TENSOR_HEADER:,}",
            hint="open the file with the package safetensors",
        )
    header = _object(content.read(8, length), "its header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _invalid("its metadata is not text")
    if len(header) > TENSORS or len(metadata) > VALUES:
        raise _invalid(f"it has {len(header):,} tensors; the limit is {TENSORS:,}")
    start = 8 + length
    tensors = {name: _tensor(name, value, start) for name, value in header.items()}
    _check_places(tensors, start, content.size)
    return {
        "kind": "tensors",
        "tensors": tensors,
        "metadata": {key: value[:TEXT] for key, value in metadata.items()},
    }


def read_safetensors_index(content: Content, sibling: Callable[[str], Content | None]) -> dict[str, Any]:
    """Return the tensors of a model in several files, from its index and the header of each file.

    Args:
        content: The index, such as `model.safetensors.index.json`.
        sibling: Returns another file of the artifact; None if there is none of this name.

    Raises:
        ContentError: The index is invalid, or larger than a limit.
    """
    if content.size > TENSOR_HEADER:
        raise ContentError(
            f"the index has {content.size:,} bytes; the limit is {TENSOR_HEADER:,}", hint="read it with json"
        )
    index = _object(content.read(0, content.size), "the index")
    files = index.get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ContentError("the index has no files by tensor in weight_map", hint="describe the other files instead")
    names = dict.fromkeys(files.values())
    if len(files) > TENSORS or len(names) > SHARDS:
        raise ContentError(
            f"the index names {len(files):,} tensors in {len(names):,} files; the limits are {TENSORS:,} and {SHARDS:,}",
            hint="describe the files one by one",
        )
    found: dict[str, Mapping[str, Tensor]] = {}
    problems = []
    for name in names:
        shard = sibling(name)
        if shard is None:
            problems.append(f"{display.quoted(name)} is missing")
            continue
        try:
            found[name] = read_safetensors(shard)["tensors"]
        except OcikitError as error:
            problems.append(f"{display.quoted(name)}: {error.message}")
        content.requests += shard.requests
        content.bytes_read += shard.bytes_read
    tensors = {}
    for name, file in files.items():
        known = found.get(file, {}).get(name)
        if known is None and file in found:
            problems.append(f"{display.quoted(file)} has no tensor {display.quoted(name)}")
        place = Tensor(file=file) if known is None else known
        tensors[name] = Tensor(dtype=place.dtype, shape=place.shape, size=place.size, offset=place.offset, file=file)
    return {
        "kind": "tensors",
        "tensors": tensors,
        "metadata": {"files": f"{len(names):,}"},
        "note": display.shorten("; ".join(problems[:3]), TEXT),
    }


def _object(raw: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object; check the number of its parts first, because each takes more memory than its bytes (DoS)."""
    if raw.count(b"{") + raw.count(b"[") > _MOST or raw.count(b",") > _ITEMS:
        raise _invalid(f"{what} has more than {TENSORS:,} tensors")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{what} is not JSON: {display.shorten(error, 160)}") from error
    if not isinstance(value, dict):
        raise _invalid(f"{what} is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("two values have the same name")
    return value


def _tensor(name: str, value: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise _invalid(f"the tensor {display.quoted(name)} lacks its type, shape or place") from None
    if not isinstance(dtype, str) or not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise _invalid(f"the tensor {display.quoted(name)} has an invalid type, shape or place")
    if len(shape) > DIMENSIONS:
        raise _invalid(f"the tensor {display.quoted(name)} has {len(shape):,} dimensions")
    bits = _BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise _invalid(f"the tensor {display.quoted(name)} has {end - begin:,} bytes, which its shape contradicts")
    return Tensor(dtype=dtype[:TEXT], shape=tuple(shape), size=end - begin, offset=start + begin)


def _check_places(tensors: Mapping[str, Tensor], start: int, size: int) -> None:
    """Check that tensors follow each other without gaps up to the end of the file, as the library does."""
    places = sorted((tensor.offset or 0, tensor.size or 0, name) for name, tensor in tensors.items())
    for offset, length, name in places:
        if offset != start or length < 0:
            raise _invalid(f"the tensor {display.quoted(name)} does not follow the one before it")
        start += length
    if start != size:
        raise _invalid(f"its tensors end at {start:,} bytes, but the file has {size:,}")


def _invalid(problem: str) -> ContentError:
    return ContentError(problem, hint="fetch the file again, or ask its publisher for an undamaged one")
