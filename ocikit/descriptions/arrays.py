"""npy: a header with type and shape of an array, and its bytes. npz: a zip archive of such files.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The header is a literal of Python. It is compared with a
grammar of constants before `ast` parses it, because deeply nested text exhausts the stack of Python's parser (DoS).
"""

from __future__ import annotations

import ast
import math
import re
import struct
from typing import Any, Final

from ocikit.descriptions.content import Content
from ocikit.descriptions.limits import ARRAY_HEADER, DIMENSIONS, NESTING
from ocikit.errors import ContentError

MAGIC: Final = b"\x93NUMPY"

#: The tokens of a header: strings without escapes, integers, constants and brackets.
_TOKEN = re.compile(r"""'[^'\\\n]*'|"[^"\\\n]*"|\d+L?|True|False|None|[{}()\[\],:]|[ \n]+""")
#: Names of types by their code.
_NAMES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8", "u2": "uint16", "u4": "uint32",
    "u8": "uint64", "f2": "float16", "f4": "float32", "f8": "float64", "f16": "float128", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


def read_npy(content: Content) -> dict[str, Any]:
    """Return type and shape of the array in a file.

    Raises:
        ContentError: The header is invalid, or larger than a limit.
    """
    head = content.head()
    dtype, shape, width, start = parse_header(head)
    facts: dict[str, Any] = {"kind": "array", "dtype": dtype, "shape": shape}
    if "object" in dtype:
        return {
            **facts,
            "runs_code": True,
            "note": "it holds pickled objects, which numpy opens with allow_pickle only",
        }
    if width is not None and start + math.prod(shape) * width > content.size:
        raise _invalid(
            f"an array of this shape has {math.prod(shape) * width:,} bytes, but the file has {content.size:,}"
        )
    return facts


def parse_header(head: bytes) -> tuple[str, tuple[int, ...], int | None, int]:
    """Return type, shape, bytes of an element and the offset of the first one, from the start of an npy file.

    Raises:
        ContentError: The header is invalid, longer than `head`, or larger than a limit.
    """
    if not head.startswith(MAGIC) or len(head) < 12:
        raise _invalid("it does not begin with \\x93NUMPY and a version")
    if head[6] not in {1, 2, 3}:
        raise ContentError(f"it has version {head[6]} of npy, which is unknown", hint="open the file with numpy")
    start, (length,) = (
        (10, struct.unpack_from("<H", head, 8)) if head[6] == 1 else (12, struct.unpack_from("<I", head, 8))
    )
    if length > ARRAY_HEADER:
        raise ContentError(
            f"its header has {length:,} bytes; the limit is {ARRAY_HEADER:,}", hint="open the file with numpy"
        )
    if len(head) < start + length:
        raise _invalid("it ends within its header")
    try:
        value = _literal(head[start : start + length].decode("utf-8" if head[6] == 3 else "latin-1"))
        descr, shape = value["descr"], value["shape"]
        if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 1 << 63 for n in shape):
            raise ValueError("the shape is not one of integers")
        if len(shape) > DIMENSIONS:
            raise ValueError(f"{len(shape)} dimensions")
        dtype, width = _type(descr)
    except (ValueError, KeyError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise _invalid("its header is not that of an array") from error
    return dtype, shape, width, start + length


def _literal(text: str) -> dict[str, Any]:
    """Return a dictionary of constants.

    Raises:
        ValueError: The text is something else, or is nested too deeply.
    """
    depth = position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise ValueError("not a literal of constants")
        position = token.end()
        depth += {"{": 1, "(": 1, "[": 1, "}": -1, ")": -1, "]": -1}.get(token[0], 0)
        if depth > NESTING:
            raise ValueError("nested too deeply")
    # Python 2 wrote long integers as 3L
    value = ast.literal_eval(re.sub(r"\b(\d+)L\b", r"\1", text.strip()))
    if not isinstance(value, dict):
        raise TypeError("not a dictionary")
    return value


def _type(descr: Any) -> tuple[str, int | None]:
    """Return the name of a type and the bytes of an element."""
    if isinstance(descr, str):
        code = descr.lstrip("<>|=")
        if code.startswith("O"):
            return "object", None
        name = _NAMES.get(code, descr)
        if descr.startswith(">") and name is not descr:
            name = f"{name} (big-endian)"
        found = re.fullmatch(r"([?a-zA-Z])(\d{1,9})?(\[\w+\])?", code)
        if found is None:
            raise ValueError("an unknown type")
        count = int(found[2] or 1)
        return name, count * 4 if found[1] == "U" else count
    if isinstance(descr, tuple) and len(descr) == 2 and isinstance(descr[1], tuple):  # a field that is an array
        name, width = _type(descr[0])
        shape = descr[1]
        if not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
            raise ValueError("a field of unknown shape")
        return f"{name}{list(shape)}", None if width is None else width * math.prod(shape)
    if not isinstance(descr, list):
        raise TypeError("an unknown type")
    names, total = [], 0
    known = True
    for entry in descr:
        name, kind, *inner_shape = entry
        inner, width = _type((kind, inner_shape[0]) if inner_shape else kind)
        names.append(f"{name[-1] if isinstance(name, tuple) else name}: {inner}")
        known = known and width is not None
        total += width or 0
    return f"{{{', '.join(names)}}}", total if known else None


def _invalid(problem: str) -> ContentError:
    return ContentError(problem, hint="fetch the file again, or ask its publisher for an undamaged one")
