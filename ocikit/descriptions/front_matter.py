"""The front matter of a README: a YAML mapping between two lines of `---`, as the model cards of Hugging Face have it.

Its publisher may be an attacker. So it has limits on bytes, values and depth, and anchors, aliases and tags are refused: an
alias expands (billion laughs), and a tag names a class. Front matter that is refused is ignored with a reason, because the
text of the README can still be shown.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen

from ocikit.display import quoted, sanitize
from ocikit.spec.annotations import FrozenMap, freeze, thaw

LIMIT = 1 << 16  # bytes
DEPTH = 16  # levels of nested values; the deepest of Hugging Face's schema have eight
VALUES = 10_000

_FENCE = re.compile(r"---[ \t]*(?:\r\n|[\r\n])")
_END = re.compile(r"^---[ \t]*(?:\r\n|[\r\n]|\Z)", re.MULTILINE)
_KEY = re.compile(r'([\w.-]+(?: [\w.-]+)*|"(?:[^"\\]|\\.)*"):(?:[ \t]+|$)')
_ITEM = re.compile(r"[ \t]*-[ \t]+")
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}\Z")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?\Z")
#: A text that YAML 1.1 and 1.2 both read as the same text without quotes.
_PLAIN = re.compile(r"[A-Za-z][\w./+-]*(?: [\w./+-]+)*\Z", re.ASCII)
#: A scalar on one line without quotes: its first character begins nothing else, and no colon ends a key in it.
_FLAT = re.compile(r"(?:[^\W_]|[_./(+~]|-[.0-9])(?:[^\s:]|:(?=[^\s:])|[ ](?![#\s]))*\Z")
_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


class _Refused(Exception):
    """Front matter that is not read, with the reason."""


@frozen
class FrontMatter:
    """A README's front matter and the text after it."""

    data: FrozenMap[Any] = field(factory=FrozenMap)
    """Text, numbers, booleans, None, tuples and mappings by key; empty if there is no front matter."""
    text: str = ""
    """The README without its front matter; all of it if the front matter is ignored."""
    ignored: str = ""
    """The reason for which the front matter is ignored, or an empty text."""


def read_front_matter(text: str) -> FrontMatter:
    r"""Return the front matter of a README and its text.

    PyYAML parses it if it is installed. Otherwise only flat keys, lists and JSON values are read.

    >>> read_front_matter("---\nlicense: mit\ntags: [waves, tiny]\n---\n# Waves")
    FrontMatter(data={'license': 'mit', 'tags': ('waves', 'tiny')}, text='# Waves', ignored='')
    """
    text = text.removeprefix("\ufeff")
    start = _FENCE.match(text)
    if start is None:
        return FrontMatter(text=text)
    end = _END.search(text, start.end(), start.end() + LIMIT + 4)
    if end is None:
        return FrontMatter(text=text, ignored=f"front matter has no end within {LIMIT >> 10} KiB")
    try:
        block = text[start.end() : end.start()]
        if len(block.encode("utf-8", "replace")) > LIMIT:
            raise _Refused(f"front matter is larger than {LIMIT >> 10} KiB")
        return FrontMatter(FrozenMap(_parse(block)), text[end.end() :])
    except _Refused as reason:
        return FrontMatter(text=text, ignored=str(reason))


def write_front_matter(data: Mapping[str, Any], text: str) -> str:
    """Return a README with front matter, which needs no YAML package to be read: values are plain text or JSON.

    Args:
        data: Text, numbers, booleans, None, lists and mappings by key.
        text: The README without front matter.

    Raises:
        ValueError: A number is not finite.
        TypeError: A value is none of these.
    """
    if not data:
        return text
    lines = [f"{_written(str(key))}: {_written(value)}" for key, value in data.items()]
    return "\n".join(["---", *lines, "---", text])


def _written(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.match(value) and value.lower() not in _WORDS:
        return value
    return json.dumps(thaw(value), ensure_ascii=False, allow_nan=False)


def _parse(block: str) -> dict[str, Any]:
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    except ImportError:
        return _parse_flat(block)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        value = _build(yaml.parse(block, Loader=loader), yaml.events)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        raise _Refused(f"front matter is not YAML: {sanitize(problem)}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Refused("front matter is not a mapping")
    return {key: freeze(item) for key, item in value.items()}


def _build(events: Iterator[Any], kinds: Any) -> Any:
    """Return the value that a stream of YAML events describes, without recursion.

    Only the events of PyYAML are used, not its constructors: they read `no` as False and a date as an object.
    """
    top: list[Any] = []
    stack: list[tuple[Any, list[Any]]] = [(None, top)]  # the start of each open collection, and its items
    for count, event in enumerate(events):
        if count > 2 * VALUES:
            raise _Refused(f"front matter has more than {VALUES:,} values")
        if isinstance(event, kinds.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _Refused("front matter has an anchor or an alias")
        if isinstance(event, kinds.DocumentStartEvent):
            if top:
                raise _Refused("front matter has more than one document")
        elif getattr(event, "tag", None) is not None and isinstance(event, kinds.NodeEvent):
            raise _Refused(f"front matter has the tag {quoted(event.tag, 60)}")
        elif isinstance(event, kinds.ScalarEvent):
            begun, items = stack[-1]
            is_key = isinstance(begun, kinds.MappingStartEvent) and len(items) % 2 == 0
            items.append(_scalar(event.value) if event.implicit[0] and not is_key else event.value)
        elif isinstance(event, kinds.CollectionStartEvent):
            if len(stack) > DEPTH:
                raise _Refused(f"front matter is nested deeper than {DEPTH} levels")
            stack.append((event, []))
        elif isinstance(event, kinds.CollectionEndEvent):
            begun, items = stack.pop()
            value: Any = items if isinstance(begun, kinds.SequenceStartEvent) else _mapping(items)
            stack[-1][1].append(value)
    return top[0] if top else None


def _mapping(items: list[Any]) -> dict[str, Any]:
    """Return the mapping of keys and values in turn."""
    found: dict[str, Any] = {}
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str):
            raise _Refused("front matter has a key that is not text")
        _add(found, key, value)
    return found


def _add(found: dict[str, Any], key: str, value: Any) -> None:
    if key in found:
        raise _Refused(f"front matter has the key {quoted(key, 60)} twice")
    found[key] = value


def _scalar(text: str) -> Any:
    """Return the value of a scalar without quotes: of YAML 1.2, where `no` is a text."""
    if text in {"", "~", "null", "Null", "NULL"}:
        return None
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if _INTEGER.match(text):
        return int(text)
    if _NUMBER.match(text) and len(text) < 64 and math.isfinite(number := float(text)):
        return number
    return text


def _parse_flat(block: str) -> dict[str, Any]:
    """Return flat keys with scalars, lists of scalars and JSON values.

    It accepts only what YAML reads in the same way, and refuses the rest.
    """
    found: dict[str, Any] = {}
    items: list[Any] | None = None  # the value of the last key, if it may be a list
    last = ""
    for line in block.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (item := _ITEM.match(line)) and items is not None:
            items.append(_flat(line[item.end() :]))
            found[last] = items
        elif key := _KEY.match(line):
            last, rest = str(_flat(key[1]) if line[0] == '"' else key[1]), line[key.end() :]
            value = _flat(rest)
            _add(found, last, value)
            items = [] if not rest or rest.lstrip().startswith("#") else None
        else:
            raise _Refused(f"front matter has {quoted(line.strip(), 60)}, which needs PyYAML")
    if len(found) > VALUES:
        raise _Refused(f"front matter has more than {VALUES:,} values")
    return {key: freeze(value) for key, value in found.items()}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        _add(found, key, value)
    return found


def _refuse(constant: str) -> Any:
    raise _Refused(f"front matter has {constant}, which JSON does not have")


#: JSON as YAML reads it.
_JSON: dict[str, Any] = {
    "object_pairs_hook": _unique,
    "parse_constant": _refuse,
    "parse_int": _scalar,
    "parse_float": _scalar,
}


def _flat(text: str) -> Any:
    """Return the value of a scalar, of a list of scalars, or of JSON."""
    text = text.strip()
    if text[:1] in {'"', "[", "{"}:
        try:
            return freeze(json.loads(text, **_JSON), DEPTH)
        except (ValueError, RecursionError):  # InvalidDocument, for the depth, is a ValueError
            items = text[1:-1].split(",") if text[0] == "[" and text[-1:] == "]" else []
            if items and all(re.fullmatch(r"\s*[\w./+-]+(?: [\w./+-]+)*\s*", item) for item in items):
                return [_scalar(item.strip()) for item in items]
    else:
        text = re.split(r"(?:^|[ \t])#", text, maxsplit=1)[0].rstrip()
        if len(text) > 1 and text[0] == text[-1] == "'" and "'" not in text[1:-1].replace("''", ""):
            return text[1:-1].replace("''", "'")
        if _FLAT.match(text) or not text:
            return _scalar(text)
    raise _Refused(f"front matter has {quoted(text, 60)}, which needs PyYAML")
