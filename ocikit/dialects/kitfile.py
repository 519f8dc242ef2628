"""The text of a Kitfile, as kit writes it: YAML if its package is installed, else JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from ocikit.dialects.base import valid
from ocikit.errors import InvalidDocument
from ocikit.spec.annotations import freeze, thaw

#: Bytes of JSON; the encoder takes seconds for each MiB (DoS).
_YAML_LIMIT: Final = 1 << 18
#: Keys that kit does not write: they are about the layers.
_UNWRITTEN: Final = frozenset({"digest", "diffId"})
#: Keys of lists that kit writes on one line.
_FLOW: Final = frozenset({"authors"})
#: The key of values that may be anything.
_FREE: Final = "parameters"
#: Text that some parsers of YAML take for another type, in addition to those that the package knows.
_OTHER_TYPES = re.compile(r"(?i:y|n|yes|no|on|off)|0o[0-7]+|[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+")
#: Text that only the package takes for another type.
_PLAIN: Final = frozenset({"=", "<<"})
#: Characters that kit escapes.
_ESCAPED = re.compile("[\U00010000-\U0010ffff]")


def encode_kitfile(config: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the name and content of a Kitfile: YAML as kit writes it, or JSON without the package for YAML.

    Args:
        config: The config of a ModelKit.

    Raises:
        InvalidDocument: The config is nested too deeply.
    """
    try:
        value = _written(thaw(freeze(config)))
    except InvalidDocument as error:
        raise error.reworded(f"the Kitfile is {error.message}", "dialect=None gives the layers as they are") from error
    as_json = "Kitfile.json", json.dumps(value, indent=2, ensure_ascii=False).encode()
    if len(as_json[1]) > _YAML_LIMIT:
        return as_json
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - an optional package
    except ImportError:
        return as_json
    return "Kitfile", _encode_yaml(value, yaml)


def _written(value: Any) -> Any:
    """Return a Kitfile without the digests of layers, and without empty values, which kit leaves out."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in _UNWRITTEN and item not in ("", None, [], {})}
        return {valid(key): _sorted(item) if key == _FREE else _written(item) for key, item in kept.items()}
    if isinstance(value, str):
        return valid(value)
    return [_written(item) for item in value] if isinstance(value, list) else value


def _sorted(value: Any) -> Any:
    """Return a value with the keys of its objects in order, as kit writes values that may be anything."""
    if isinstance(value, dict):
        return {valid(key): _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, str):
        return valid(value)
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _encode_yaml(value: Any, yaml: Any) -> bytes:
    """Return YAML in the style of kit's encoder: lists are indented, ambiguous text has double quotes."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # the package is optional
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent_text(dumper: Any, text: str) -> Any:
        node = dumper.represent_scalar("tag:yaml.org,2002:str", text)
        kind = dumper.resolve(yaml.ScalarNode, text, (True, False))
        if "\n" in text:
            return dumper.represent_scalar(node.tag, text, style="|")
        if text in _PLAIN:
            return dumper.represent_scalar(kind, text)
        is_other = kind != node.tag or _OTHER_TYPES.fullmatch(text) or _ESCAPED.search(text)
        return dumper.represent_scalar(node.tag, text, style='"' if is_other else None)

    def represent_mapping(dumper: Any, data: dict[str, Any]) -> Any:
        node = dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=False)
        for key, item in node.value:
            if key.value in _FLOW and isinstance(item, yaml.SequenceNode):
                item.flow_style = True
        return node

    Dumper.add_representer(str, represent_text)
    Dumper.add_representer(dict, represent_mapping)
    text: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.encode()
