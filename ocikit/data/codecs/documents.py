"""Text, bytes and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final

import attrs

from ocikit import display
from ocikit.client.artifact import File
from ocikit.data.codecs.format import Format, Part, invalid, refused

_DEPTH = 200  # levels of JSON, of which Python reads about a thousand


def _dump_text(obj: Any, path: Path) -> None:
    path.write_bytes(str(obj).encode())


def _load_text(file: File, _part: Part) -> str:
    return file.read_bytes().decode()


def _dump_bytes(obj: Any, path: Path) -> None:
    path.write_bytes(obj)


def _load_bytes(file: File, _part: Part) -> bytes:
    return file.read_bytes()


def is_record(obj: Any) -> bool:
    """Return True for an object of a dataclass or of attrs."""
    return not isinstance(obj, type) and (is_dataclass(obj) or attrs.has(type(obj)))


def _plain(obj: Any) -> Any:
    """Return an object of a dataclass or of attrs, also within others, as mappings for JSON."""
    if not is_record(obj):
        return obj
    return _converter().unstructure(obj)


def _converter() -> Any:
    import cattrs  # noqa: PLC0415 - 40 ms of import time that few objects need

    return cattrs.Converter()


def json_problem(obj: Any, path: str = "", depth: int = 0, *, is_exact: bool = True) -> str:
    """Return why JSON does not keep a value, with its place; "" if it does.

    Args:
        obj: The value.
        path: Place of the value, such as "['a'][0]".
        depth: Number of levels above the value.
        is_exact: Whether a tuple, which becomes a list, is a problem.

    >>> json_problem({"loss": [0.5, float("nan")]})
    "['loss'][1] is nan, which JSON does not have"
    """
    here = path or "the value"
    if depth > _DEPTH:
        return f"it is nested deeper than {_DEPTH} levels"
    match obj:
        case None | bool() | int():
            return ""
        case float():
            return "" if math.isfinite(obj) else f"{here} is {obj}, which JSON does not have"
        case str():
            return "" if obj.isascii() or _is_unicode(obj) else f"{here} is not valid Unicode text"
        case dict():
            items: Iterator[tuple[Any, Any]] = iter(obj.items())
            for key in obj:
                if type(key) is not str or not _is_unicode(key):
                    return f"{here} has the key {display.quoted(key, 60)}, which JSON would turn into text"
        case list():
            items = enumerate(obj)
        case tuple() if not is_exact:
            items = enumerate(obj)
        case tuple():
            return f"{here} is a tuple, which would come back as a list"
        case _:
            return f"{here} is a {type(obj).__name__}, which JSON does not have"
    for key, value in items:
        if problem := json_problem(value, f"{path}[{display.quoted(key, 60)}]", depth + 1, is_exact=is_exact):
            return problem
    return ""


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_json(obj: Any) -> bool:
    if is_record(obj):
        return True
    if isinstance(obj, bool | int | float) or obj is None:
        return True
    return type(obj) in {dict, list} and (type(obj) is list or not json_problem(obj))


def _dump_json(obj: Any, path: Path) -> None:
    value = _plain(obj)
    if problem := json_problem(value, is_exact=not is_record(obj)):
        raise refused(f"the {type(obj).__name__}", problem, "convert that value; None is a missing one")
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=1, sort_keys=True)
    path.write_bytes(f"{text}\n".encode())


def _load_json(file: File, _part: Part) -> Any:
    def refuse(constant: str) -> Any:
        raise invalid(file, f"it has {constant}, which is not JSON")

    return json.loads(file.read_bytes(), parse_constant=refuse)


def restored(value: Any, cls: type) -> Any:
    """Return an object of a dataclass or of attrs from the mapping that it was saved as.

    Args:
        value: The mapping.
        cls: The class, which the caller has passed.
    """
    return _converter().structure(value, cls)


#: The first one of an ending is its default.
FORMATS: Final = (
    Format(
        name="text",
        ending=".txt",
        kind="str",
        library="str",
        stem="text",
        matches=lambda obj: isinstance(obj, str),
        dump=_dump_text,
        load=_load_text,
        any_ending=True,
    ),
    Format(
        name="bytes",
        ending=".bin",
        kind="bytes",
        library="bytes",
        matches=lambda obj: isinstance(obj, bytes | bytearray | memoryview),
        dump=_dump_bytes,
        load=_load_bytes,
        any_ending=True,
    ),
    Format(
        name="json",
        ending=".json",
        kind="json",
        library="json",
        matches=_is_json,
        dump=_dump_json,
        load=_load_json,
    ),
)

#: Endings of files that are loaded as text.
TEXTS: Final = frozenset(
    [
        ".md",
        ".rst",
        ".log",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".cfg",
        ".html",
        ".xml",
        ".sql",
        ".py",
        ".r",
        ".jl",
        ".sh",
        ".jinja",
        ".svg",
    ]
)
