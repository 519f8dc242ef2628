"""The converter between JSON values and document models.

Fields have camelCase keys, unknown keys are preserved, and no value is coerced. Importing this module imports cattrs,
which takes 40 ms, so `ocikit.spec.document` imports it on first use.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar, get_args, get_origin

import attrs
from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    Converter,
    IterableValidationError,
    IterableValidationNote,
)
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from ocikit import display
from ocikit.errors import InvalidDocument, OcikitError, Violation
from ocikit.spec.annotations import Annotations, FrozenMap, freeze, thaw, to_frozen
from ocikit.spec.digest import Digest

T = TypeVar("T")

_Hook = Callable[[Any, Any], Any]

#: The most violations that are collected from one array.
_VIOLATIONS = 100

_SIZE_LIMIT = 2**63 - 1  # int64, as every other client reads it

_JSON_NAMES: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def structure(value: Any, cls: type[T]) -> T:
    """Return a model from JSON values.

    Raises:
        InvalidDocument: The value does not fit the model; `problems` has each violation.
    """
    try:
        return _converter.structure(value, cls)
    except (BaseValidationError, ValueError, TypeError, KeyError, RecursionError) as error:
        problems = tuple(dict.fromkeys(_violations(error, "$", cls)))
    # Outside the `except` block: the message is complete, and an error with the tree of cattrs' errors in its context
    # cannot be pickled by dask
    raise InvalidDocument.from_problems(cls.__name__, problems)


def unstructure(model: Any) -> dict[str, Any]:
    """Return the JSON object of a model."""
    value: dict[str, Any] = _converter.unstructure(model)
    return value


def json_name(value: object) -> str:
    """Return the name of a value's type in JSON, for messages."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


# Hooks of simple types


def _structure_string(value: Any, _: Any) -> str:
    return _check_type(value, str)


def _structure_bool(value: Any, _: Any) -> bool:
    return _check_type(value, bool)


def _structure_integer(value: Any, _: Any) -> int:
    if not 0 <= _check_type(value, int) <= _SIZE_LIMIT:
        raise ValueError(f"{display.quoted(value, 40)} is not between 0 and 2^63-1")
    return int(value)


def _structure_digest(value: Any, _: Any) -> Digest:
    return Digest(value)


def _structure_data(value: Any, _: Any) -> bytes:
    try:
        return base64.b64decode(_check_type(value, str), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error


def _structure_annotations(value: Any, _: Any) -> Annotations:
    items: dict[str, Any] = {key: text for key, text in _check_type(value, dict).items() if text is not None}
    if not all(type(text) is str for text in items.values()):
        _raise_all(items.items(), _structure_string, str)
    return Annotations(items)


def _structure_frozen_map(value: Any, _: Any) -> FrozenMap[Any]:
    return to_frozen(_check_type(value, dict))


def _unstructure_data(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _check_type(value: Any, kind: type[T]) -> T:
    """Return the value if it is of exactly this type: bool is an int in Python, but not in JSON."""
    if type(value) is not kind:
        raise TypeError(f"expected {_JSON_NAMES[kind]}, found {json_name(value)}")
    return value


# Hooks of arrays and objects


def _is_array(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _is_frozen_map(kind: Any) -> bool:
    return getattr(kind, "__origin__", kind) is FrozenMap


def _make_array_hook(kind: Any) -> Callable[[Any, Any], tuple[Any, ...]]:
    element = get_args(kind)[0]
    element_hook = _converter.get_structure_hook(element)

    def structure_array(value: Any, _: Any) -> tuple[Any, ...]:
        # Strings and objects are iterable too, but are not arrays.
        items: list[Any] = _check_type(value, list)
        if element in (str, Digest):
            items = [item for item in items if item is not None]
        try:
            return tuple([element_hook(item, element) for item in items])
        except Exception:  # noqa: BLE001 - raised again with the paths of all invalid items
            _raise_all(enumerate(items), element_hook, element)

    return structure_array


def _raise_all(items: Iterable[tuple[int | str, Any]], hook: _Hook, kind: Any) -> NoReturn:
    """Raise the errors of all invalid items, at least one of which must be invalid, with their keys."""
    errors = []
    for key, item in items:
        try:
            hook(item, kind)
        except Exception as error:  # noqa: BLE001 - collected, as cattrs does
            error.add_note(IterableValidationNote("", key, kind))
            errors.append(error)
        # DoS: an array of a hundred thousand invalid items must not keep the process busy.
        if len(errors) == _VIOLATIONS:
            break
    raise IterableValidationError("", errors, kind)


def _make_structure_hook(cls: type) -> _Hook:
    names = _json_keys(cls)
    overrides = _omit_internal_fields(cls) | {name: override(rename=key) for name, key in names.items()}
    structure_fields: _Hook = make_dict_structure_fn(cls, _converter, **overrides)
    known = set(names.values())

    def structure_object(value: Any, kind: Any) -> Any:
        items: dict[str, Any] = _check_type(value, dict)
        # Go clients write `"layers": null` for an empty list: null means absent.
        result = structure_fields({key: item for key, item in items.items() if item is not None}, kind)
        if unknown := {key: item for key, item in items.items() if key not in known}:
            object.__setattr__(result, "extra", freeze(unknown))
        return result

    return structure_object


def _make_unstructure_hook(cls: type) -> Callable[[Any], dict[str, Any]]:
    names = _json_keys(cls)
    overrides = _omit_internal_fields(cls) | {
        field.name: override(rename=names[field.name], omit_if_default=not field.metadata.get("always"))
        for field in _json_fields(cls)
    }
    unstructure_fields: Callable[[Any], dict[str, Any]] = make_dict_unstructure_fn(cls, _converter, **overrides)
    order = list(names.values())

    def unstructure_object(value: Any) -> dict[str, Any]:
        items = unstructure_fields(value)
        # cattrs writes fields with defaults last, unlike the specification's examples. None means absent.
        ordered = {key: item for key in order if (item := items.get(key)) is not None}
        return ordered | {key: thaw(item) for key, item in value.extra.items() if key not in names.values()}

    return unstructure_object


# Fields


def _json_fields(cls: type) -> list[attrs.Attribute[Any]]:
    """Return the fields that are in the JSON, ordered as in the specification's examples."""
    fields = [field for field in attrs.fields(cls) if field.init and field.name != "extra"]
    return sorted(fields, key=lambda field: field.metadata.get("order", 50))


def _json_keys(cls: type) -> dict[str, str]:
    """Return the JSON key of each field: camelCase, unless the field's metadata has another."""
    return {field.name: field.metadata.get("wire") or _camel_case(field.name) for field in _json_fields(cls)}


def _omit_internal_fields(cls: type) -> dict[str, Any]:
    return {field.name: override(omit=True) for field in attrs.fields(cls) if not field.init or field.name == "extra"}


def _camel_case(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


# Errors


def _violations(error: BaseException, path: str, cls: Any) -> Iterator[Violation]:
    """Return each violation with its JSON path, from cattrs' tree of errors."""
    if not isinstance(error, BaseValidationError):
        message = error.message if isinstance(error, OcikitError) else display.sanitize(error)
        yield Violation(path=path, message=message)
        return
    owner = error.cl if attrs.has(error.cl) else cls
    for inner in error.exceptions:
        if isinstance(inner, KeyError):
            yield Violation(path=f"{path}.{inner.args[0]}", message="required field missing")
        else:
            yield from _violations(inner, path + _path_step(inner, owner), owner)


def _path_step(error: BaseException, owner: Any) -> str:
    """Return the part of a JSON path that cattrs noted for an error."""
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f".{_json_keys(owner).get(note.name, note.name) if attrs.has(owner) else note.name}"
        if isinstance(note, IterableValidationNote):
            return f"[{display.quoted(note.index)}]"
    return ""


# The converter


def _register_hooks(converter: Converter) -> None:
    converter.register_structure_hook(str, _structure_string)
    converter.register_structure_hook(bool, _structure_bool)
    converter.register_structure_hook(int, _structure_integer)
    # Digest is a str: without its own hook, the hook of str would leave it unvalidated.
    converter.register_structure_hook(Digest, _structure_digest)
    converter.register_structure_hook(bytes, _structure_data)
    converter.register_structure_hook(Annotations, _structure_annotations)
    converter.register_structure_hook_func(_is_frozen_map, _structure_frozen_map)
    converter.register_structure_hook_factory(_is_array, _make_array_hook)
    converter.register_structure_hook_factory(attrs.has, _make_structure_hook)
    converter.register_unstructure_hook(bytes, _unstructure_data)
    converter.register_unstructure_hook(Digest, str)
    converter.register_unstructure_hook(Annotations, dict)
    converter.register_unstructure_hook_func(_is_frozen_map, thaw)
    converter.register_unstructure_hook_factory(attrs.has, _make_unstructure_hook)


_converter = Converter(detailed_validation=True)
_register_hooks(_converter)
